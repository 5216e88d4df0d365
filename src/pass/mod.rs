//! One pass: joins plan, schedule, pool, and writer.
//!
//! The main thread runs the [`schedule`]: it hands tasks to the pool and takes what came of them from a channel. Pool
//! threads put downloaded blobs into another, bounded channel, from which the [`write`]r thread takes them. When the
//! schedule is over, that channel is closed; the writer commits what it has, and the pass is over.

mod feeds;
mod memory;
mod plan;
mod schedule;
mod work;
mod write;

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    path::Path,
    sync::Arc,
    thread,
    time::Instant,
};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use jiff::Timestamp;

use crate::{
    api::{Client, Failure, Token, client},
    config::{Config, Credential, Tenant},
    feed::Blob,
    limits::WRITER_QUEUE_BLOBS,
    output::{self, Output, OutputError, Stdout},
    report::{Summary, progress::Progress},
    state::{KnownBlobs, KnownBlobsFile, StateError},
};
use feeds::{FeedIndex, Feeds, TenantIndex};
use memory::Memory;
use schedule::{Attempt, Schedule};
use work::{Answer, Tools};
use write::{Delivered, WriteError, Writer};

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

/// What brings the main thread on.
pub enum Event {
    /// A pool thread is done with an attempt.
    Worked(Attempt, Result<Answer, Failure>),
    /// The writer has made blobs safe.
    Delivered(Vec<Delivered>),
}

/// A pass could not be made, or not be brought to its end.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// The state cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// An output cannot be used.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The client cannot be made from the configuration.
    #[error(transparent)]
    Client(#[from] client::Unusable),
    /// The system gives no threads.
    #[error("cannot start {threads} threads: {problem}; lower collect.maxThreads")]
    Threads {
        /// As configured.
        threads: usize,
        /// What the system says.
        problem: String,
    },
}

impl From<WriteError> for PassError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::State(error) => Self::State(error),
            WriteError::Output(error) => Self::Output(error),
        }
    }
}

/// What a pass remembers from earlier ones, and where it writes.
struct Ends {
    known: KnownBlobs,
    known_blobs: Option<KnownBlobsFile>,
    outputs: Vec<Box<dyn Output>>,
}

impl Ends {
    fn open(config: &Config, mode: Mode) -> Result<Self, StateError> {
        let (working_dir, now) = (&config.collect.working_dir, Timestamp::now());
        let (file, known, outputs) = match mode {
            Mode::Collect => {
                let (file, known) = KnownBlobsFile::open(working_dir, now)?;
                (Some(file), known, output::open(config))
            }
            Mode::DryRun => (None, KnownBlobs::read(working_dir, now)?, Vec::new()),
            Mode::Retrieve => {
                (None, KnownBlobs::default(), vec![Box::<Stdout>::default() as Box<dyn Output>])
            }
        };
        let known = if config.collect.skip_known { known } else { KnownBlobs::default() };
        Ok(Self { known, known_blobs: file, outputs })
    }
}

/// What the configuration asks for and this version does not do yet: each with what to do instead.
pub fn missing_parts(config: &Config) -> Vec<String> {
    let output = &config.output;
    let is_csv =
        |path: &Path| path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv"));
    let wants_certificate = |tenant: &Tenant| !matches!(tenant.credential, Credential::Secret(_));
    let parts = [
        (output.fluentd.is_some(), "output.fluentd", "use output.file"),
        (output.graylog.is_some(), "output.graylog", "use output.file"),
        (output.http.is_some(), "output.http", "use output.file"),
        (
            output.file.as_ref().is_some_and(|file| is_csv(&file.path)),
            "output.file with a .csv path",
            "name it .json",
        ),
        (!config.collect.filters.is_empty(), "collect.filter", "take it out, and filter in the receiver"),
        (config.metrics_path.is_some(), "metrics.path", "take it out"),
        (config.only_future_events, "only_future_events: true", "set it to false"),
        (
            config.tenants.iter().any(wants_certificate),
            "a credential other than a secret",
            "use client_secret_file",
        ),
    ];
    let missing = parts.iter().filter(|(is_wanted, _, _)| *is_wanted);
    missing.map(|(_, part, instead)| format!("{part} is not part of this version yet; {instead}")).collect()
}

/// Makes one pass over these tenants of the configuration.
///
/// A blob, feed or tenant that failed is no error but a part of the summary.
pub fn run(
    config: &Config,
    tenants: Vec<Tenant>,
    mode: Mode,
    show_progress: bool,
) -> Result<Summary, PassError> {
    let feeds = Feeds::new(tenants);
    let collect = &config.collect;
    log::info!(
        "Starting Office365 collector: {} tenant(s), {} subscription(s)",
        feeds.tenants().count(),
        feeds.feeds().count()
    );
    let ends = Ends::open(config, mode)?;
    log::debug!("{} known blobs", ends.known.len());
    let client = Client::new(&config.network, collect)?;
    let windows = plan::windows(Timestamp::now(), collect.look_back);
    let schedule = Schedule::new(&feeds, &windows, mode, collect, ends.known, Instant::now());
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(collect.threads)
        .thread_name(|number| format!("download-{number}"))
        .build()
        .map_err(|error| PassError::Threads { threads: collect.threads, problem: error.to_string() })?;

    let (blobs, blobs_received) = crossbeam_channel::bounded(WRITER_QUEUE_BLOBS);
    // Unbounded, so that neither pool nor writer ever waits for the main thread; what is in it is bounded by what runs
    // and by what the writer was given.
    let (events, events_received) = crossbeam_channel::unbounded();
    let writer = Writer {
        feeds: &feeds,
        outputs: ends.outputs,
        known_blobs: ends.known_blobs,
        events: events.clone(),
    };
    let memory = Memory::new(collect.held_bytes_max, collect.held_records_max);
    let tools = Tools { client, feeds: &feeds, blobs, memory };
    let progress = Progress::start(show_progress);

    let (schedule, written) = thread::scope(|threads| {
        let writer = threads.spawn(move || writer.run(&blobs_received));
        let mut course = Course { feeds: &feeds, schedule, events: &events_received, progress: &progress };
        pool.in_place_scope(|pool| {
            course.run(|attempt, token| {
                let (tools, events) = (&tools, events.clone());
                pool.spawn(move |_| {
                    let result = tools.run(&attempt.task, token.as_deref());
                    // The main thread waits for every attempt that it started.
                    let _ = events.send(Event::Worked(attempt, result));
                });
            });
        });
        drop((tools, events)); // nothing more comes: the writer commits what it has
        let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        course.take_rest();
        (course.schedule, written)
    });
    drop(progress);
    let summary = schedule.finish();
    summary.log();
    written?;
    Ok(summary)
}

/// The main thread's part of a pass.
struct Course<'a, 's> {
    feeds: &'a Feeds,
    schedule: Schedule<'s>,
    events: &'a Receiver<Event>,
    progress: &'a Progress,
}

impl Course<'_, '_> {
    /// Hands out what may run, and waits for what comes of it, until the schedule is over.
    fn run(&mut self, start: impl Fn(Attempt, Option<Arc<Token>>)) {
        loop {
            while let Some((attempt, token)) = self.schedule.next(Instant::now()) {
                start(attempt, token);
            }
            if self.schedule.is_over() {
                return;
            }
            let received = match self.schedule.next_at() {
                Some(at) => self.events.recv_deadline(at),
                None => self.events.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            if let Ok(event) = received {
                self.take(event);
            }
        }
    }

    /// What the writer said after the last attempt was done.
    fn take_rest(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            self.take(event);
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Worked(attempt, result) => {
                let would_download = self.schedule.done(attempt, result, Instant::now());
                self.print(&would_download);
            }
            Event::Delivered(blobs) => self.schedule.delivered(&blobs),
        }
        if self.progress.is_shown() {
            let (delivered, found, records) = self.schedule.progress();
            self.progress.show(delivered, found, records);
        }
    }

    /// What a dry run has to say: a line a blob, tab-separated: tenant, content type, when it became available, id.
    fn print(&self, blobs: &[(FeedIndex, Blob)]) {
        let mut lines = String::new();
        for (feed, Blob { content_id, created, .. }) in blobs {
            let (tenant, content_type) = self.feeds.feed(*feed);
            let _ = writeln!(lines, "{}\t{content_type}\t{created}\t{content_id}", tenant.label());
        }
        // A reader that has seen enough is no fault of the pass.
        let _ = io::stdout().lock().write_all(lines.as_bytes());
    }
}
