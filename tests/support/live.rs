//! What tests of hard cases need beside the fixture programs: any process as a target, kernel states, tools, and stuckspy's answers.

#![allow(dead_code, reason = "each test crate uses its own part")]

use std::env;
use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::interpreter::{Interpreter, interpreters};
use crate::support::{dump, report_skipped};

/// Far more than a state may take to settle.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// How long to rest between two looks at a state.
const REST: Duration = Duration::from_millis(1);
/// How much of a stream is shown when a test fails, in characters.
const SHOWN: usize = 3000;

/// What stuckspy answered.
pub struct Answer {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

/// Runs stuckspy with these arguments.
pub fn ask(arguments: &[&str]) -> Answer {
    let mut command = dump::stuckspy();
    command.args(arguments);
    let started = Instant::now();
    let output = command.output().expect("stuckspy can be started");
    let took = started.elapsed();
    let text = |bytes| String::from_utf8(bytes).expect("stuckspy writes valid UTF-8");
    Answer {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
        took,
    }
}

/// The same about one process, with `command` first.
pub fn ask_about(command: &str, pid: i32, options: &[&str]) -> Answer {
    let pid = pid.to_string();
    ask(&[&[command, "--pid", &pid], options].concat())
}

impl fmt::Debug for Answer {
    /// With the beginning of each stream, as it would be on a terminal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "exit code {:?} after {:?}", self.code, self.took)?;
        writeln!(f, "-- stdout --\n{:.SHOWN$}", self.stdout)?;
        writeln!(f, "-- stderr --\n{:.SHOWN$}", self.stderr)
    }
}

impl Answer {
    /// Fails unless the exit code is `code` and nothing panicked.
    #[track_caller]
    pub fn expect(self, code: i32) -> Answer {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self.no_panic()
    }

    /// Fails unless the exit code is one of `codes` and nothing panicked.
    #[track_caller]
    pub fn expect_one_of(self, codes: &[i32]) -> Answer {
        assert!(
            self.code.is_some_and(|code| codes.contains(&code)),
            "not one of {codes:?}: {self:#?}"
        );
        self.no_panic()
    }

    #[track_caller]
    fn no_panic(self) -> Answer {
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }

    /// The hints on standard error.
    pub fn hints(&self) -> Vec<&str> {
        let lines = self.stderr.lines();
        lines.filter(|line| line.starts_with("hint: ")).collect()
    }

    /// Fails if something that acts on a terminal is in the text.
    #[track_caller]
    pub fn assert_harmless(&self) {
        for text in [&self.stdout, &self.stderr] {
            let bad = text.chars().find(|&letter| {
                letter != '\n' && letter.is_control() || ('\u{202a}'..='\u{202e}').contains(&letter)
            });
            if let Some(bad) = bad {
                let line = text.lines().find(|line| line.contains(bad));
                panic!("{bad:?} in {:?}", line.unwrap_or_default());
            }
        }
    }
}

/// Any program as a target; it is killed when this is dropped.
#[derive(Debug)]
pub struct Target {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Target {
    /// Starts a program that may be looked at once it blocks.
    pub fn start(command: &mut Command) -> Target {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        Target {
            child,
            stdin,
            stdout,
        }
    }

    /// Starts a program that says a line when it may be looked at; gives the line too.
    pub fn start_and_listen(command: &mut Command) -> (Target, String) {
        let mut target = Target::start(command);
        let line = target.line();
        assert!(!line.is_empty(), "{command:?} said nothing");
        (target, line)
    }

    /// The next line that it says.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout
            .read_line(&mut line)
            .expect("its standard output is text");
        line.trim_end().to_owned()
    }

    /// Tells it a line.
    pub fn say(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("it is open");
        writeln!(stdin, "{line}").expect("it listens");
    }

    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("it is our own child");
    }

    /// Fails unless it lives, and is neither stopped nor traced.
    #[track_caller]
    pub fn assert_unharmed(&mut self) {
        assert_eq!(
            self.child.try_wait().expect("it is our own child"),
            None,
            "it has ended"
        );
        assert_at_large(self.pid());
    }

    /// Closes its standard input and reaps it.
    pub fn finish(mut self) -> Option<i32> {
        drop(self.stdin.take());
        self.child.wait().expect("it is our own child").code()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        drop(self.stdin.take());
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The signals that end a recording here: what is started by `nohup` ignores SIGHUP, as does what that starts.
pub fn ending_signals() -> Vec<Signal> {
    let status = fs::read_to_string("/proc/self/status").expect("it is there");
    let ignored = u64::from_str_radix(field(&status, "SigIgn"), 16).expect("a mask");
    let is_ignored = |signal: Signal| ignored & (1 << (signal as u64 - 1)) != 0;
    let mut signals = vec![Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
    if is_ignored(Signal::SIGHUP) {
        report_skipped("the end by SIGHUP", "it is ignored here");
        signals.pop();
    }
    signals
}

/// Makes a FIFO that everybody of ours may open.
pub fn make_fifo(path: &Path) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0).expect("a FIFO can be made");
}

/// Waits until `is_so`.
#[track_caller]
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(
            started.elapsed() < DEADLINE,
            "waited {DEADLINE:?} until {what}"
        );
        thread::park_timeout(REST);
    }
}

/// Waits until the main thread of `pid` is in the call with this number.
#[track_caller]
pub fn wait_until_in_call(pid: i32, call: syscalls::Sysno) {
    let number = format!("{} ", call.id());
    wait_until(&format!("process {pid} is in {call}"), || {
        let text = fs::read_to_string(format!("/proc/{pid}/syscall"));
        text.is_ok_and(|text| text.starts_with(&number))
    });
}

/// The `status` of each thread; none when the process has ended.
pub fn statuses(pid: i32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten();
    entries
        .flatten()
        .filter_map(|entry| {
            let bytes = fs::read(entry.path().join("status")).ok()?;
            Some(String::from_utf8_lossy(&bytes).into_owned())
        })
        .collect()
}

/// The process that works for a run of stuckspy; `None` until there is one.
pub fn worker_of(run: i32) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{run}/task/{run}/children")).ok()?;
    children.trim().parse().ok()
}

/// Waits until a process has ended, whether or not it was reaped.
#[track_caller]
pub fn wait_until_ended(pid: i32) {
    wait_until(&format!("process {pid} has ended"), || {
        let status = fs::read_to_string(format!("/proc/{pid}/status"));
        status.map_or(true, |text| field(&text, "State").starts_with(['Z', 'X']))
    });
}

/// A field of a `status` file.
pub fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_default().trim()
}

/// Whether all threads of `pid` are in this state.
pub fn all_in_state(pid: i32, letter: char) -> bool {
    let statuses = statuses(pid);
    !statuses.is_empty()
        && statuses
            .iter()
            .all(|status| field(status, "State").starts_with(letter))
}

/// Fails when a thread of `pid` is stopped or traced.
#[track_caller]
pub fn assert_at_large(pid: i32) {
    let statuses = statuses(pid);
    assert!(!statuses.is_empty(), "process {pid} has ended");
    for status in statuses {
        assert_eq!(field(&status, "TracerPid"), "0", "{status}");
        assert!(
            !field(&status, "State").starts_with(['T', 't', 'Z', 'X']),
            "{status}"
        );
    }
}

/// Where a tool is; a missing one is named as skipped, and a failure where `CI=true`.
#[track_caller]
pub fn find_tool(name: &str) -> Option<PathBuf> {
    let paths = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&paths)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    if found.is_none() {
        assert!(env::var("CI").as_deref() != Ok("true"), "{name} is missing");
        report_skipped(&format!("what needs {name}"), "not found");
    }
    found
}

/// Whether we are root; if not, what needs it is named as skipped.
pub fn is_root(what: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        report_skipped(what, "needs root");
    }
    is_root
}

/// An interpreter for tests to which it does not matter.
///
/// # Panics
///
/// When there is no Python 3.
pub fn any_interpreter() -> &'static Interpreter {
    let found = interpreters()
        .iter()
        .find(|one| one.version.major == 3 && one.version.minor >= 9);
    found
        .or_else(|| interpreters().iter().find(|one| one.version.major == 3))
        .expect("a Python 3")
}

/// The most memory that a program had resident, in bytes.
#[track_caller]
pub fn peak_memory(command: &mut Command) -> u64 {
    #[expect(clippy::zombie_processes, reason = "wait4 reaps it")]
    let child = command
        .stdout(Stdio::null())
        .spawn()
        .expect("stuckspy can be started");
    let pid = child.id().cast_signed();
    let mut status = 0;
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both pointers are to places of ours of the right type, and zeros are a valid rusage.
    #[expect(unsafe_code, reason = "the standard library waits without usage")]
    let usage = unsafe {
        assert_eq!(
            libc::wait4(pid, &raw mut status, 0, usage.as_mut_ptr()),
            pid
        );
        usage.assume_init()
    };
    assert_eq!(status, 0);
    u64::try_from(usage.ru_maxrss).expect("a size") << 10
}

/// A program of `fixtures/hostile`.
pub fn hostile(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures/hostile")
        .join(name)
}

/// Numbers that look random and are the same in each run (SplitMix64).
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// Any length of time below `limit`.
    pub fn below(&mut self, limit: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let limit = u64::try_from(limit.as_nanos()).expect("a short time");
        Duration::from_nanos(mixed % limit.max(1))
    }
}

/// Tells figures on standard error.
pub fn report_figures(figures: &str) {
    // A closed standard error leaves nobody to tell.
    let _ = writeln!(std::io::stderr(), "{figures}");
}

/// Whether a thread of a diagnosis works, or has waited for less than its threshold so far, be it by design: then it may yet do
/// something else.
pub fn is_brief(diagnosis: &serde_json::Value, thread: &serde_json::Value) -> bool {
    let threshold = diagnosis["threshold_ms"].as_u64().expect("a threshold");
    let time = |name: &str| thread["wait"][name].as_u64();
    // What may be off by an error is longer than the threshold if the least of it is.
    let waited = time("since_ms")
        .map(|since| since.saturating_sub(time("since_error_ms").unwrap_or_default() + 1));
    match thread["verdict"]["class"].as_str() {
        Some("working") => true,
        Some("waiting" | "idle") => waited < Some(threshold),
        _ => false,
    }
}
