//! Runs of the program, and waits for them. Every wait has a bound far beyond what a busy machine needs: a test that
//! meets the bound fails with a message instead of hanging.

use std::{
    panic,
    process::{Child, Command, Output},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::SECRET;

/// The longest wait for anything in a test.
pub const WAIT_MAX: Duration = Duration::from_secs(120);

/// More steps on the disk than the pass of any test takes.
const DISK_STEPS_MAX: u32 = 1_000;

/// The outcome of a run of the program.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    /// Runs a program to its end.
    ///
    /// # Panics
    ///
    /// Kills the program and panics if it does not end within [`WAIT_MAX`].
    #[track_caller]
    pub fn of(command: &mut Command) -> Self {
        Self::finish(command.spawn().expect("the program starts"))
    }

    /// Waits for the end of a program that runs, as [`Run::of`] does.
    #[track_caller]
    pub fn finish(child: Child) -> Self {
        output_of(child).into()
    }

    #[track_caller]
    pub fn assert_code(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "{self}");
        assert!(!self.stderr.contains(SECRET), "the log contains the secret: {self}");
        self
    }

    /// The lines of the log, without their times.
    pub fn log(&self) -> Vec<&str> {
        self.stderr.lines().map(|line| line.split_once(' ').map_or(line, |(_, rest)| rest)).collect()
    }

    /// Asserts that the log contains exactly this line.
    #[track_caller]
    pub fn assert_line(&self, line: &str) -> &Self {
        assert!(self.log().contains(&line), "no line {line:?} in {self}");
        self
    }

    /// Asserts that one line of the log contains all of these.
    #[track_caller]
    pub fn assert_line_with(&self, parts: &[&str]) -> &Self {
        let contains_all = |line: &&str| parts.iter().all(|part| line.contains(part));
        assert!(self.log().iter().any(contains_all), "no line with {parts:?} in {self}");
        self
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("the program writes UTF-8");
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "exit {:?}\n{}{}", self.code, self.stdout, self.stderr)
    }
}

/// Waits for the end of a program that runs, as [`Run::of`] does, and returns what it wrote into its pipes.
#[track_caller]
pub fn output_of(child: Child) -> Output {
    let pid = Pid::from_child(&child);
    let (sender, ended) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    if let Ok(output) = ended.recv_timeout(WAIT_MAX) {
        return output.expect("a child of this process");
    }
    let _ = kill_process(pid, Signal::KILL);
    let run = ended.recv_timeout(WAIT_MAX).ok().and_then(Result::ok).map(Run::from);
    let run = run.map_or_else(String::new, |run| run.to_string());
    panic!("the program did not end within {} s and was killed: {run}", WAIT_MAX.as_secs());
}

/// Sends a signal to a program that runs.
pub fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("a child of this process");
}

/// Kills a program and waits for its end.
pub fn kill(mut child: Child) {
    child.kill().and_then(|()| child.wait()).expect("a child of this process");
}

/// Waits until a condition holds.
///
/// # Panics
///
/// Panics with `what` if the condition does not hold within [`WAIT_MAX`].
#[track_caller]
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < WAIT_MAX, "waited {} s in vain until {what}", WAIT_MAX.as_secs());
        thread::sleep(Duration::from_millis(2));
    }
}

/// The numbers of a pass's steps on the disk, for a test that lets each fail in turn until a pass no longer reaches the
/// step.
///
/// # Panics
///
/// Panics beyond the number of steps that any pass takes: the fault would strike at every number, and the loop not end.
pub fn disk_steps() -> impl Iterator<Item = u32> {
    (1..).inspect(|step| {
        assert!(*step <= DISK_STEPS_MAX, "a pass takes no more than {step} steps on the disk");
    })
}

/// Runs the cases of a test at the same time, each in a thread of its own, because they mostly wait.
pub fn at_once<Case: Send>(cases: impl IntoIterator<Item = Case>, run: impl Fn(Case) + Sync) {
    let run = &run;
    thread::scope(|scope| {
        let running: Vec<_> = cases.into_iter().map(|case| scope.spawn(move || run(case))).collect();
        for case in running {
            case.join().unwrap_or_else(|panic| panic::resume_unwind(panic));
        }
    });
}
