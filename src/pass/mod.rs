//! One pass: joins plan, schedule, pool, and writer.
//!
//! The main thread runs the schedule: it hands tasks to the pool and takes what came of them from a channel. Pool
//! threads put downloaded blobs into another, bounded channel, from which the writer thread takes them. When the
//! schedule is over, the writer is told; it commits what it has, and the pass is over.
//!
//! A signal or `globalTimeout` ends the schedule early: nothing new is started, what runs gets a moment to finish, then
//! its connections are cut, and after another moment nobody waits for it any more, nor for a receiver. What the writer
//! has is committed.

mod feeds;
mod memory;
mod plan;
mod scheduler;
mod signals;
mod worker;
mod writer;

use std::{
    collections::HashMap,
    fmt::Write as _,
    io::{self, IsTerminal, Write as _},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender};

use crate::{
    api::{ApiError, Client, Token},
    clock::Clock,
    config::{self, Config, Tenant},
    delivery::{OutputSet, PendingBlob},
    error::Explain,
    filter::Filter,
    limits::{RECEIVERS_LAST_WAIT_MIN, STOP_CUT_AFTER, STOP_LEAVE_AFTER, WRITER_QUEUE_BLOBS},
    network,
    output::{self, CancelToken, Output, OutputError, Stdout},
    report::{Stop, Summary, progress::Progress as Bar},
    state::{self, KnownBlobs, Ledger, Progress, StateError, Waiting},
};
use feeds::{FeedIndex, Feeds, TenantIndex};
use memory::Memory;
use plan::LookBack;
use scheduler::{Attempt, Scheduler};
use worker::{Outcome, Worker};
use writer::{Closed, CommittedBlob, Writer, WriterMessage};

/// What is asked of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Collect what is new, deliver it, remember it.
    Collect,
    /// Say what would be downloaded; change nothing.
    DryRun,
    /// All of the period's records to standard output, known or not; outputs and state stay untouched.
    Retrieve,
}

/// How a pass is made this once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassOptions {
    /// What is asked of it.
    pub mode: Mode,
    /// Look back this far, instead of `hoursToCollect`.
    pub look_back: Option<Duration>,
    /// Show a progress bar, if standard error is a terminal.
    pub show_progress: bool,
}

/// What brings the main thread on.
pub enum Event {
    /// A pool thread is done with an attempt.
    Worked(Box<Attempt>, Result<Outcome, ApiError>),
    /// The writer has committed a batch.
    Committed(Vec<CommittedBlob>),
    /// An output has failed; these still take records.
    OutputsLeft(OutputSet),
    /// Somebody wants the program to end.
    Signal(Stop),
}

/// A pass could not be made, or not be brought to its end.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// The state cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The client cannot be made from the configuration.
    #[error(transparent)]
    Client(#[from] network::SetupError),
    /// The system gives no threads.
    #[error("cannot start {threads} threads: {problem}")]
    Threads {
        /// As configured.
        threads: usize,
        /// The system's message. It is not a source, because rayon's error repeats its own one.
        problem: String,
    },
}

impl Explain for PassError {
    fn hint(&self) -> &str {
        match self {
            Self::State(error) => error.hint(),
            Self::Client(_) => "", // its message has one
            Self::Threads { .. } => "lower collect.maxThreads",
        }
    }
}

/// What a pass did, and how its outputs fared.
#[derive(Debug)]
pub struct PassOutcome {
    /// The blobs, feeds and tenants.
    pub summary: Summary,
    /// Why outputs failed; each was said in the log.
    pub failures: Vec<OutputError>,
}

/// What a pass remembers from earlier ones, and where it writes.
struct Opened {
    known: KnownBlobs,
    progress: Progress,
    ledger: Option<Ledger>,
    outputs: Vec<Box<dyn Output>>,
}

impl Opened {
    fn open(config: &Config, mode: Mode, clock: &Clock, cancel: &CancelToken) -> Result<Self, StateError> {
        let collect = &config.collect;
        let (ledger, known, progress, outputs) = match mode {
            Mode::Collect => {
                let (ledger, known, progress) =
                    state::open(&collect.working_dir, collect.dedup, clock, output::recover)?;
                (Some(ledger), known, progress, output::open(config, cancel))
            }
            Mode::DryRun => {
                let (known, progress) = state::peek(&collect.working_dir)?;
                (None, known, progress, Vec::new())
            }
            Mode::Retrieve => {
                let stdout: Box<dyn Output> = Box::new(Stdout::new(cancel));
                (None, KnownBlobs::default(), Progress::default(), vec![stdout])
            }
        };
        let known = if collect.skip_known { known } else { KnownBlobs::default() };
        Ok(Self { known, progress, ledger, outputs })
    }
}

/// Makes one pass over these tenants of the configuration.
///
/// A blob, feed, tenant or output that failed is no error but a part of what is returned.
pub fn run(config: &Config, tenants: Vec<Tenant>, options: &PassOptions) -> Result<PassOutcome, PassError> {
    let mode = options.mode;
    let feeds = Arc::new(Feeds::new(tenants));
    let (collect, clock) = (&config.collect, Clock::start());
    log::info!(
        "Starting Office365 collector: {} tenant(s), {} subscription(s)",
        feeds.tenants().count(),
        feeds.feeds().count()
    );
    let cancel = CancelToken::default();
    if let Some(deadline) = collect.deadline {
        cancel.cancel_at(Instant::now() + deadline + STOP_LEAVE_AFTER);
    }
    let Opened { known, progress, ledger, outputs } = Opened::open(config, mode, &clock, &cancel)?;
    log::debug!("{} known blobs, {} waiting blobs", known.len(), progress.waiting.len());
    let client = Client::new(&config.network, collect, clock.clone())?;
    let look_back = LookBack {
        duration: options.look_back.unwrap_or(collect.look_back),
        is_whole: options.look_back.is_some(),
        only_future: config.only_future_events && mode != Mode::Retrieve,
    };
    let mut scheduler = Scheduler::new(&feeds, mode, look_back, collect, known, &progress, clock);
    let rest = resume(&mut scheduler, &feeds, progress);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(collect.threads)
        .thread_name(|number| format!("download-{number}"))
        .build()
        .map_err(|error| PassError::Threads { threads: collect.threads, problem: error.to_string() })?;

    let (blobs, blobs_received) = crossbeam_channel::bounded(WRITER_QUEUE_BLOBS);
    // Unbounded, so that neither pool nor writer ever waits for the main thread; what is in it is bounded by what runs
    // and by what the writer was given.
    let (events, events_received) = crossbeam_channel::unbounded();
    let (close, closed) = crossbeam_channel::bounded(0);
    let writer = Writer::new(Arc::clone(&feeds), outputs, ledger, events.clone());
    let writer = thread::spawn(move || writer.run(&blobs_received, &closed));
    let memory = Memory::new(collect.held_bytes_max, collect.held_records_max);
    let filter =
        |(content_type, filter): &(_, config::Filter)| (*content_type, Filter::new(&filter.conditions));
    let worker = Worker {
        client: client.clone(),
        feeds: Arc::clone(&feeds),
        filters: collect.filters.iter().map(filter).collect(),
        blobs: blobs.clone(),
        memory,
    };
    let (attempts, attempts_received) = crossbeam_channel::bounded(collect.threads);
    let finished = events.clone();
    // One job for each thread, which takes attempts until no more come. A job for each attempt would cost more than a
    // small blob does: idle threads would look for it in each other's queues.
    pool.spawn_broadcast(move |_| {
        for Next { attempt, token } in &attempts_received {
            let result = worker.run(&attempt.task, token.as_deref(), attempt.salvages);
            // Nobody waits for an attempt that hangs when the pass ends.
            let _ = finished.send(Event::Worked(Box::new(attempt), result));
        }
    });
    let signals = signals::listen(events, cancel.clone());
    let prints_lines = mode != Mode::Collect && io::stdout().is_terminal();
    let bar = Bar::start(options.show_progress && !prints_lines);

    let mut event_loop = EventLoop {
        feeds: &feeds,
        scheduler,
        client,
        events: &events_received,
        blobs,
        bar: &bar,
        stopped_at: None,
    };
    event_loop.run(&attempts);
    // Nothing more comes: the writer commits what it has. No receiver keeps the lock for much longer.
    cancel.cancel_at(Instant::now() + config.interval.max(RECEIVERS_LAST_WAIT_MIN));
    drop(close);
    let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    event_loop.take_rest();
    match &written {
        Ok(Closed { failures, .. }) => {
            if let Some(why) = failures.first() {
                event_loop.scheduler.output_failed(why.to_string());
            }
        }
        Err(error) => event_loop.scheduler.output_failed(error.explain()),
    }
    drop(signals);
    let (summary, found) = event_loop.scheduler.finish();
    drop(bar);
    summary.log();
    let Closed { ledger, files_are_whole, failures } = written?;
    if let Some(ledger) = ledger {
        ledger.finish(&rest.followed_by(found), files_are_whole)?;
    }
    Ok(PassOutcome { summary, failures })
}

/// Gives the schedule the blobs that wait from earlier passes. Returns the progress of feeds that are not in this pass.
fn resume(scheduler: &mut Scheduler<'_>, feeds: &Feeds, mut progress: Progress) -> Progress {
    let named = |feed| {
        let (tenant, content_type) = feeds.feed(feed);
        ((tenant.tenant_id.as_str(), content_type), feed)
    };
    let by_name: HashMap<_, _> = feeds.feeds().map(named).collect();
    for waiting in std::mem::take(&mut progress.waiting) {
        let Some(&feed) = by_name.get(&(waiting.tenant_id.as_str(), waiting.content_type)) else {
            progress.waiting.push(waiting);
            continue;
        };
        let Waiting { blob, delivered_to, has_failed, failed_passes, .. } = waiting;
        scheduler.resume(feed, PendingBlob { blob, delivered_to, has_failed, failed_passes });
    }
    progress
}

/// What a thread of the pool does next.
struct Next {
    attempt: Attempt,
    token: Option<Arc<Token>>,
}

/// The main thread's part of a pass.
struct EventLoop<'a, 's> {
    feeds: &'a Feeds,
    scheduler: Scheduler<'s>,
    client: Client,
    events: &'a Receiver<Event>,
    blobs: Sender<WriterMessage>,
    bar: &'a Bar,
    stopped_at: Option<Instant>,
}

impl EventLoop<'_, '_> {
    /// Hands out what may run, and waits for what comes of it, until the schedule is over; or, if that was stopped,
    /// until nobody waits any more.
    fn run(&mut self, attempts: &Sender<Next>) {
        let mut is_cut = false;
        loop {
            while let Some((attempt, token)) = self.scheduler.next(Instant::now()) {
                attempts
                    .send(Next { attempt, token })
                    .expect("the threads take attempts as long as there may be some");
            }
            if self.scheduler.is_over() {
                return;
            }
            let mut wake_at = self.scheduler.next_at();
            if self.scheduler.stopped().is_some() {
                let stopped_at = *self.stopped_at.get_or_insert_with(Instant::now);
                if stopped_at.elapsed() >= STOP_LEAVE_AFTER {
                    return;
                }
                if stopped_at.elapsed() >= STOP_CUT_AFTER && !is_cut {
                    self.client.shut_down();
                    is_cut = true;
                }
                wake_at = Some(stopped_at + if is_cut { STOP_LEAVE_AFTER } else { STOP_CUT_AFTER });
            }
            let received = match wake_at {
                Some(at) => self.events.recv_deadline(at).ok(),
                None => self.events.recv().ok(),
            };
            if let Some(event) = received {
                self.take(event);
            }
        }
    }

    /// What the writer said after the last attempt was done, and whether the wait for it was cut short.
    fn take_rest(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            match event {
                Event::Committed(blobs) => self.scheduler.delivered(&blobs),
                Event::Signal(stop) => self.scheduler.stop(stop),
                Event::Worked(..) | Event::OutputsLeft(_) => {}
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Worked(attempt, result) => {
                let would_download = self.scheduler.done(*attempt, result, Instant::now());
                self.print(&would_download);
                for (feed, wanted) in self.scheduler.take_gone() {
                    self.send_gone(feed, wanted);
                }
                for (feed, at) in self.scheduler.take_started() {
                    // If the writer has failed, the next pass starts the subscription once more.
                    let _ = self.blobs.send(WriterMessage::Started(feed, at));
                }
            }
            Event::Committed(blobs) => self.scheduler.delivered(&blobs),
            Event::OutputsLeft(left) => self.scheduler.outputs_left(left),
            Event::Signal(stop) => self.scheduler.stop(stop),
        }
        if self.bar.is_shown() {
            let (delivered, found, records) = self.scheduler.progress();
            self.bar.show(delivered, found, records);
        }
    }

    /// Lets a gone blob be remembered, by the one who remembers. If that one has failed, a later pass finds out again.
    fn send_gone(&self, feed: FeedIndex, wanted: PendingBlob) {
        let _ = self.blobs.send(WriterMessage::Gone(feed, wanted));
    }

    /// What a dry run has to say: a line a blob, tab-separated: tenant, content type, when it became available, id.
    fn print(&self, blobs: &[(FeedIndex, crate::feed::ListedBlob)]) {
        if blobs.is_empty() {
            return; // standard output may be locked by an output that waits for its reader
        }
        let mut lines = String::new();
        for (feed, blob) in blobs {
            let (tenant, content_type) = self.feeds.feed(*feed);
            let _ =
                writeln!(lines, "{}\t{content_type}\t{}\t{}", tenant.label(), blob.created, blob.content_id);
        }
        // A reader that has seen enough is no fault of the pass.
        let _ = io::stdout().lock().write_all(lines.as_bytes());
    }
}
