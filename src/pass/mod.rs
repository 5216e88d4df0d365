//! One pass: joins plan, scheduler, pool and writer.
//!
//! The main thread runs the scheduler: it hands jobs to the pool and receives their outcomes from a channel. Pool threads
//! put downloaded blobs into another, bounded channel, from which the writer thread receives them. When the scheduler is
//! over, the writer commits what it has, and the pass ends.
//!
//! A signal or `globalTimeout` ends the scheduler early: nothing new starts, and what runs may finish for a moment. Then its
//! connections are cut, and after another moment the pass waits for it no longer, nor for a receiver. What the writer has
//! is committed.

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
    api::Client,
    clock::Clock,
    config::{self, Config, Tenant},
    delivery::{OutputSet, PendingBlob},
    error::Explain,
    feed::{ContentType, ListedBlob},
    filter::Filter,
    limits::CANCEL_POLL_INTERVAL,
    network,
    output::{self, CancelToken, Output, OutputError, Stdout},
    report::{Stop, Summary, progress::Progress as Bar},
    state::{self, FeedId, KnownBlobs, Ledger, Progress, StateError, older::Stopped},
};
use feeds::{FeedIndex, Feeds, TenantIndex};
use memory::{Memory, Share};
use plan::LookBack;
use scheduler::{Effect, Job, Scheduler, Ticket};
use worker::{Outcome, Worker};
use writer::{BATCH_AGE_MAX, Closed, CommittedBlob, Writer, WriterMessage};

/// The maximum number of blobs between the pool and the writer. `maxMemory` bounds their bytes.
const WRITER_QUEUE_BLOBS_MAX: usize = 16;

/// The minimum duration that receivers have to confirm records once everything else of a pass is done, also if
/// `interval` is shorter.
const RECEIVERS_LAST_WAIT_MIN: Duration = Duration::from_secs(60);

/// The duration from a signal or `globalTimeout` until the connections of what still runs are cut.
const STOP_CUT_AFTER: Duration = Duration::from_secs(2);

/// The duration from a signal or `globalTimeout` until the pass ends without what still runs, and without a receiver's
/// answer.
const STOP_LEAVE_AFTER: Duration = Duration::from_millis(3_500);

/// The maximum number of feeds that the log names because an older tool has collected them.
const RESUMED_FEEDS_LOGGED_MAX: usize = 5;

const _: () = {
    assert!(STOP_CUT_AFTER.as_millis() < STOP_LEAVE_AFTER.as_millis());
    assert!(
        STOP_LEAVE_AFTER.as_millis() + BATCH_AGE_MAX.as_millis() + CANCEL_POLL_INTERVAL.as_millis() < 5_000,
        "a signal ends a pass within five seconds"
    );
};

/// What a pass does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Collect what is new, deliver it, and remember it.
    Collect,
    /// Print what would be downloaded, and change nothing.
    DryRun,
    /// All of the period's records to standard output, known or not; outputs and state stay untouched.
    Retrieve,
}

/// The options of one pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassOptions {
    /// What the pass does.
    pub mode: Mode,
    /// The look-back window, instead of `hoursToCollect`.
    pub look_back: Option<Duration>,
    /// Show a progress bar, if standard error is a terminal.
    pub show_progress: bool,
}

/// An event that the main thread waits for.
pub enum Event {
    /// A pool thread has finished a job. The outcome uses the memory of this share.
    Worked(Ticket, Box<Outcome>, Share),
    /// The writer has committed a batch.
    Committed(Vec<CommittedBlob>),
    /// An output has failed; these still accept records.
    OutputsLeft(OutputSet),
    /// The state has failed, so the writer accepts no more.
    StateFailed,
    /// A signal ends the program.
    Signal(Stop),
}

/// An error that keeps a pass from starting or from ending in order.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// The state cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The client cannot be made from the configuration.
    #[error(transparent)]
    Client(#[from] network::SetupError),
    /// The system cannot start the threads.
    #[error("cannot start {threads} threads: {problem}")]
    Threads {
        /// Their number, as configured.
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

/// What a pass did, and which outputs failed.
#[derive(Debug)]
pub struct PassOutcome {
    /// The blobs, feeds and tenants.
    pub summary: Summary,
    /// Why outputs failed. Each reason was logged.
    pub failures: Vec<OutputError>,
}

/// What a pass reads from and writes to.
#[derive(Default)]
struct Opened {
    known: KnownBlobs,
    progress: Progress,
    ledger: Option<Ledger>,
    outputs: Vec<Box<dyn Output>>,
}

impl Opened {
    fn open(config: &Config, mode: Mode, clock: &Clock, cancel: &CancelToken) -> Result<Self, StateError> {
        let collect = &config.collect;
        let (ledger, known, mut progress, outputs) = match mode {
            Mode::Collect => {
                let (ledger, known, progress) =
                    state::open(&collect.working_dir, collect.dedup_hours, clock, output::recover)?;
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
        if mode != Mode::Retrieve {
            continue_older_tools(config, &known, &mut progress)?;
        }
        let known = if collect.skip_known_logs { known } else { KnownBlobs::default() };
        Ok(Self { known, progress, ledger, outputs })
    }
}

/// Lets the progress continue what an older tool has collected, and reports it.
fn continue_older_tools(
    config: &Config,
    known: &KnownBlobs,
    progress: &mut Progress,
) -> Result<(), StateError> {
    let working_dir = &config.collect.working_dir;
    let mut feeds = Vec::new();
    for Tenant { tenant_id, subscriptions, .. } in &config.tenants {
        feeds.extend(subscriptions.iter().map(|&content_type| (Arc::clone(tenant_id), content_type)));
    }
    let stopped = state::older::adopt(working_dir, &feeds, known, config.only_future_events, progress)?;
    let labels: HashMap<_, _> =
        config.tenants.iter().map(|tenant| (&*tenant.tenant_id, tenant.label())).collect();
    let (with_time, others): (Vec<_>, Vec<_>) = stopped.iter().partition(|stopped| stopped.at.is_some());
    for Stopped { tenant_id, content_type, at } in with_time.iter().take(RESUMED_FEEDS_LOGGED_MAX) {
        let label = labels.get(&**tenant_id).copied().unwrap_or(tenant_id);
        let name = content_type.name().to_ascii_lowercase();
        log::info!(
            "Continuing {label} {name} from {:.0}, where an older tool stopped",
            at.unwrap_or_default()
        );
    }
    if let Some(more) = with_time.len().checked_sub(RESUMED_FEEDS_LOGGED_MAX).filter(|more| *more > 0) {
        log::info!("… and {more} more feeds from where an older tool stopped");
    }
    if !others.is_empty() {
        log::info!(
            "Continuing {} feed(s) that were collected before, according to known_blobs in {}: its blobs are skipped, and \
             everything else that is available of the last 7 days is collected",
            others.len(),
            working_dir.display()
        );
    }
    Ok(())
}

/// Makes one pass over these tenants of the configuration.
///
/// A blob, feed, tenant or output that failed is not an error but a part of the outcome.
///
/// # Errors
///
/// Fails if the state cannot be used, or if the client or the threads cannot be started.
pub fn run(config: &Config, tenants: Vec<Tenant>, options: &PassOptions) -> Result<PassOutcome, PassError> {
    let feeds = Arc::new(Feeds::new(tenants));
    log::info!(
        "Starting Office365 collector: {} tenant(s), {} subscription(s)",
        feeds.tenants().count(),
        feeds.feeds().count()
    );
    let (clock, cancel, mode) = (Clock::start(), CancelToken::default(), options.mode);
    let opened = Opened::open(config, mode, &clock, &cancel)?;
    let Opened { known, progress, .. } = &opened;
    log::debug!(
        "{} known blobs, {} of them in the index, {} pending blobs",
        known.len(),
        known.indexed_len(),
        progress.pending.len()
    );
    let look_back = LookBack {
        duration: options.look_back.unwrap_or(config.collect.hours_to_collect),
        is_whole: options.look_back.is_some(),
        only_future: config.only_future_events && mode != Mode::Retrieve,
    };
    let prints_lines = mode != Mode::Collect && io::stdout().is_terminal();
    let bar = Bar::start(options.show_progress && !prints_lines);
    let pass = Pass::open(config, &feeds, mode, look_back, opened, clock, cancel)?;
    pass.run(&bar, &mut |listed| print_listed(&feeds, listed)).finish(Summary::log)
}

/// Lists the blobs that became available within `look_back`, known or not, and calls `on_listed` with each of them once.
/// Nothing is delivered or remembered, and no subscription is started.
///
/// A feed that could not be listed is not an error but a part of the summary.
///
/// # Errors
///
/// Fails if the client or the threads cannot be started.
pub fn list(
    config: &Config,
    tenants: Vec<Tenant>,
    look_back: Duration,
    on_listed: &mut dyn FnMut(&Tenant, ContentType, ListedBlob),
) -> Result<Summary, PassError> {
    let feeds = Arc::new(Feeds::new(tenants));
    let look_back = LookBack { duration: look_back, is_whole: true, only_future: false };
    let (clock, cancel) = (Clock::start(), CancelToken::default());
    let pass = Pass::open(config, &feeds, Mode::DryRun, look_back, Opened::default(), clock, cancel)?;
    let ran = pass.run(&Bar::start(false), &mut |listed| {
        for (feed, blob) in listed {
            let (tenant, content_type) = feeds.feed(feed);
            on_listed(tenant, content_type, blob);
        }
    });
    Ok(ran.finish(|_| ())?.summary)
}

/// Downloads these blobs of the tenants and writes their records to `output`. Nothing is listed or remembered.
///
/// A blob that could not be downloaded is not an error but a part of the outcome.
///
/// # Errors
///
/// Fails if the client or the threads cannot be started.
pub fn fetch(
    config: &Config,
    tenants: Vec<Tenant>,
    blobs: Vec<(FeedId, PendingBlob)>,
    output: Box<dyn Output>,
    show_progress: bool,
) -> Result<PassOutcome, PassError> {
    let feeds = Arc::new(Feeds::new(tenants));
    // The first pass of a feed from which only future events are collected lists nothing.
    let look_back = LookBack { duration: Duration::ZERO, is_whole: false, only_future: true };
    let progress = Progress { pending: blobs, ..Progress::default() };
    let opened = Opened { progress, outputs: vec![output], ..Opened::default() };
    let (clock, cancel) = (Clock::start(), CancelToken::default());
    let pass = Pass::open(config, &feeds, Mode::Retrieve, look_back, opened, clock, cancel)?;
    pass.run(&Bar::start(show_progress), &mut |_| ()).finish(|_| ())
}

/// A pass that is ready to run.
struct Pass<'a> {
    config: &'a Config,
    feeds: &'a Arc<Feeds>,
    scheduler: Scheduler<'a>,
    client: Client,
    pool: rayon::ThreadPool,
    ledger: Option<Ledger>,
    outputs: Vec<Box<dyn Output>>,
    cancel: CancelToken,
    /// What the state remembers of feeds that are not in this pass.
    other_feeds: Progress,
}

/// A pass that has run.
struct Ran<'a> {
    scheduler: Scheduler<'a>,
    written: Result<Closed, StateError>,
    other_feeds: Progress,
}

impl<'a> Pass<'a> {
    /// Plans the pass, and starts the client and the threads.
    fn open(
        config: &'a Config,
        feeds: &'a Arc<Feeds>,
        mode: Mode,
        look_back: LookBack,
        opened: Opened,
        clock: Clock,
        cancel: CancelToken,
    ) -> Result<Self, PassError> {
        let collect = &config.collect;
        if let Some(deadline) = collect.global_timeout {
            cancel.cancel_at(Instant::now() + deadline + STOP_LEAVE_AFTER);
        }
        let Opened { known, mut progress, mut ledger, outputs } = opened;
        if let Some(ledger) = &mut ledger {
            ledger.restrict_to(feeds.tenants().map(|tenant| &*feeds.tenant(tenant).tenant_id));
        }
        let client = Client::new(&config.network, collect, clock.clone())?;
        let mut scheduler = Scheduler::new(feeds, mode, look_back, collect, known, &mut progress, clock);
        let other_feeds = carry_over(&mut scheduler, feeds, progress);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(collect.max_threads)
            .thread_name(|number| format!("download-{number}"))
            .build()
            .map_err(|error| PassError::Threads {
                threads: collect.max_threads,
                problem: error.to_string(),
            })?;
        Ok(Self { config, feeds, scheduler, client, pool, ledger, outputs, cancel, other_feeds })
    }

    /// Runs the scheduler until it is over, and the writer until it has committed everything. Calls `on_listed` with the
    /// blobs that a dry run lists.
    fn run(self, bar: &Bar, on_listed: &mut OnListed<'_>) -> Ran<'a> {
        let (blobs, blobs_received) = crossbeam_channel::bounded(WRITER_QUEUE_BLOBS_MAX);
        // Unbounded, so that neither pool nor writer waits for the main thread. What is in it is bounded by the number of
        // jobs that run and of blobs that the writer has.
        let (events, events_received) = crossbeam_channel::unbounded();
        let (close, closed) = crossbeam_channel::bounded(0);
        let writer = Writer::new(Arc::clone(self.feeds), self.outputs, self.ledger, events.clone());
        let writer_events = events.clone();
        let writer = thread::spawn(move || {
            let written = writer.run(&blobs_received, &closed);
            if written.is_err() {
                // Before the channel of blobs is closed, so that the scheduler does not take that for a failed output.
                let _ = writer_events.send(Event::StateFailed);
            }
            written
        });
        let worker = worker(self.config, self.feeds, &self.client, &blobs);
        let (jobs, jobs_received) = crossbeam_channel::bounded(self.config.collect.max_threads);
        let finished = events.clone();
        // One rayon job for each thread, which runs jobs of the scheduler until no more come. A rayon job for each would
        // cost more than a small blob does: idle threads would look for it in each other's queues.
        self.pool.spawn_broadcast(move |_| {
            for Job { work, ticket } in &jobs_received {
                let mut share = worker.memory.listing_share();
                let outcome = Box::new(worker.run(work, &mut share));
                // If the pass has ended while the job hung, nothing receives this.
                let _ = finished.send(Event::Worked(ticket, outcome, share));
            }
        });
        let signals = signals::listen(events, self.cancel.clone());
        let mut event_loop = EventLoop {
            scheduler: self.scheduler,
            client: self.client,
            events: &events_received,
            blobs,
            bar,
            on_listed,
            stopped_at: None,
        };
        event_loop.run(&jobs);
        // No receiver keeps the lock for much longer.
        self.cancel.cancel_at(Instant::now() + self.config.interval.max(RECEIVERS_LAST_WAIT_MIN));
        drop(close); // the writer commits what it has
        let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        event_loop.drain_events();
        drop(signals);
        Ran { scheduler: event_loop.scheduler, written, other_feeds: self.other_feeds }
    }
}

impl Ran<'_> {
    /// Reports what the pass did, and lets the state remember it.
    fn finish(mut self, report: impl FnOnce(&Summary)) -> Result<PassOutcome, PassError> {
        let failure = match &self.written {
            Ok(Closed { failures, .. }) => failures.first().map(Explain::explain),
            Err(error) => Some(error.explain()),
        };
        if let Some(reason) = failure {
            self.scheduler.output_failed(reason);
        }
        let state_error = self.scheduler.take_state_error();
        let (summary, progress) = self.scheduler.finish();
        report(&summary);
        let Closed { ledger, files_are_whole, failures } = self.written?;
        if let Some(ledger) = ledger {
            ledger.finish(&self.other_feeds.followed_by(progress), files_are_whole)?;
        }
        state_error.map_or(Ok(()), Err)?;
        Ok(PassOutcome { summary, failures })
    }
}

fn worker(config: &Config, feeds: &Arc<Feeds>, client: &Client, blobs: &Sender<WriterMessage>) -> Worker {
    let collect = &config.collect;
    let filter =
        |(content_type, filter): &(_, config::Filter)| (*content_type, Filter::new(&filter.conditions));
    Worker {
        client: client.clone(),
        feeds: Arc::clone(feeds),
        filters: collect.filter.iter().map(filter).collect(),
        blobs: blobs.clone(),
        memory: Memory::new(collect.max_memory, collect.cache_size),
    }
}

/// Gives the scheduler the blobs that earlier passes have not delivered. Returns the progress of feeds that are not in this
/// pass.
fn carry_over(scheduler: &mut Scheduler<'_>, feeds: &Feeds, mut progress: Progress) -> Progress {
    if progress.pending.is_empty() {
        return progress;
    }
    let by_id: HashMap<_, _> = feeds.feeds().map(|feed| (feeds.id(feed), feed)).collect();
    for (id, pending) in std::mem::take(&mut progress.pending) {
        match by_id.get(&id) {
            Some(&feed) => scheduler.carry_over(feed, pending),
            None => progress.pending.push((id, pending)),
        }
    }
    progress
}

/// A function that receives the blobs that a dry run lists.
type OnListed<'a> = dyn FnMut(Vec<(FeedIndex, ListedBlob)>) + 'a;

/// The main thread's part of a pass.
struct EventLoop<'a, 's> {
    scheduler: Scheduler<'s>,
    client: Client,
    events: &'a Receiver<Event>,
    blobs: Sender<WriterMessage>,
    bar: &'a Bar,
    on_listed: &'a mut OnListed<'a>,
    stopped_at: Option<Instant>,
}

impl EventLoop<'_, '_> {
    /// Hands out the jobs that may run, and waits for events, until the scheduler is over, or, after a stop, until the time
    /// to wait for it is over.
    fn run(&mut self, jobs: &Sender<Job>) {
        let mut is_cut = false;
        loop {
            while let Some(job) = self.scheduler.next(Instant::now()) {
                jobs.send(job).expect("the threads receive jobs until the sender is dropped");
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
                self.handle(event);
            }
        }
    }

    /// Handles the events that arrived after the last job was finished: commits, and a signal that cut the wait for the
    /// writer short.
    fn drain_events(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            match event {
                Event::Committed(blobs) => self.scheduler.committed(&blobs),
                Event::Signal(stop) => self.scheduler.stop(stop),
                Event::Worked(..) | Event::OutputsLeft(_) | Event::StateFailed => {}
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Worked(ticket, outcome, share) => {
                self.scheduler.done(ticket, *outcome, Instant::now());
                self.apply_effects();
                drop(share); // the scheduler has accepted the outcome
            }
            Event::Committed(blobs) => self.scheduler.committed(&blobs),
            Event::OutputsLeft(left) => self.scheduler.outputs_left(left),
            Event::StateFailed => self.scheduler.stop(Stop::State),
            Event::Signal(stop) => self.scheduler.stop(stop),
        }
        if self.bar.is_shown() {
            let (delivered, found, records) = self.scheduler.progress();
            self.bar.show(delivered, found, records);
        }
    }

    /// Does what the scheduler asks for. If the writer has failed, a later pass finds out again.
    fn apply_effects(&mut self) {
        let mut listed = Vec::new();
        for effect in self.scheduler.drain_effects() {
            match effect {
                Effect::Print(feed, blob) => listed.push((feed, blob)),
                Effect::RememberGone(feed, pending) => {
                    let _ = self.blobs.send(WriterMessage::Gone(feed, pending));
                }
                Effect::RememberStart(feed, at) => {
                    let _ = self.blobs.send(WriterMessage::Started(feed, at));
                }
            }
        }
        if !listed.is_empty() {
            (self.on_listed)(listed);
        }
    }
}

/// Prints the lines of a dry run for these blobs, tab-separated: tenant, content type, when it became available, id.
fn print_listed(feeds: &Feeds, listed: Vec<(FeedIndex, ListedBlob)>) {
    let mut lines = String::new();
    for (feed, blob) in listed {
        let (tenant, content_type) = feeds.feed(feed);
        let (tenant, created, id) = (tenant.label(), blob.created, &blob.content_id);
        let _ = writeln!(lines, "{tenant}\t{content_type}\t{created}\t{id}");
    }
    // A reader that has closed standard output is not an error of the pass.
    let _ = io::stdout().lock().write_all(lines.as_bytes());
}
