//! Runs the program and waits for it. Every wait has a bound far beyond what a busy machine needs: a test that reaches the
//! bound fails with a message instead of hanging.

use std::{
    fs, panic,
    process::{Child, Command, Output},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::SECRET;

/// The longest wait for anything in a test.
pub const WAIT_MAX: Duration = Duration::from_secs(120);

/// More disk operations than the pass of any test has.
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

    /// Waits for the end of a running program, as [`Run::of`] does.
    #[track_caller]
    pub fn finish(child: Child) -> Self {
        output_of(child).into()
    }

    /// Asserts the exit code, and that the log does not contain the tenants' secret.
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

/// Waits for the end of a running program, as [`Run::of`] does, and returns what it wrote to its pipes.
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

/// Sends a signal to a running program.
pub fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("a child of this process");
}

/// Kills a program and waits for its end.
pub fn kill(mut child: Child) {
    child.kill().and_then(|()| child.wait()).expect("a child of this process");
}

/// Waits until a program ends.
///
/// # Panics
///
/// Panics if the program does not end within [`WAIT_MAX`].
#[track_caller]
pub fn wait_for_end(child: &mut Child) {
    wait_until("the program has ended", || child.try_wait().expect("a child of this process").is_some());
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
        assert!(begin.elapsed() < WAIT_MAX, "waited {} s, but not: {what}", WAIT_MAX.as_secs());
        thread::sleep(Duration::from_millis(2));
    }
}

/// Runs something that can block, in its own thread, and returns its result.
///
/// # Panics
///
/// Panics with `what` if there is no result within [`WAIT_MAX`].
#[track_caller]
pub fn wait_for<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, result) = mpsc::channel();
    thread::spawn(move || sender.send(work()));
    match result.recv_timeout(WAIT_MAX) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => panic!("waited {} s, but not: {what}", WAIT_MAX.as_secs()),
        Err(RecvTimeoutError::Disconnected) => panic!("the thread for this has panicked: {what}"),
    }
}

/// Returns the numbers of a pass's disk operations. A test lets each fail in turn, and breaks its loop when a pass ends
/// before it reaches the operation.
///
/// # Panics
///
/// Panics after [`DISK_STEPS_MAX`], because the fault then occurs at every number.
pub fn disk_steps() -> impl Iterator<Item = u32> {
    (1..).inspect(|step| assert!(*step <= DISK_STEPS_MAX, "a pass has fewer than {step} disk operations"))
}

/// Runs the cases of a test at the same time, each in its own thread, because they mostly wait.
pub fn in_parallel<Case: Send>(cases: impl IntoIterator<Item = Case>, run: impl Fn(Case) + Sync) {
    let run = &run;
    thread::scope(|scope| {
        let running: Vec<_> = cases.into_iter().map(|case| scope.spawn(move || run(case))).collect();
        for case in running {
            case.join().unwrap_or_else(|panic| panic::resume_unwind(panic));
        }
    });
}

/// Waits for the end of a running program, and reads a counter of the kernel meanwhile: a line of a file in `/proc/PID`.
/// Returns the exit code and the largest value.
pub fn finish_and_count(mut child: Child, file: &str, line: &str) -> (Option<i32>, u64) {
    let path = format!("/proc/{}/{file}", child.id());
    let (mut largest, mut code) = (0, None);
    wait_until("the program ends", || {
        let text = fs::read_to_string(&path).unwrap_or_default();
        let value = text.lines().find_map(|text| text.strip_prefix(line));
        let number = value.and_then(|value| value.split_whitespace().next()?.parse().ok());
        largest = largest.max(number.unwrap_or(0));
        let ended = child.try_wait().expect("a child of this process");
        code = ended.and_then(|status| status.code());
        ended.is_some()
    });
    (code, largest)
}
