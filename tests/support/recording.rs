//! Runs `stuckspy record` as people do, and reads the folded stacks that it writes.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::thrash::Function;

/// Far more than a recording may take to get under way, to show something that is there, or to end when told to.
const DEADLINE: Duration = Duration::from_secs(60);
/// How long to rest between two looks.
const REST: Duration = Duration::from_millis(1);

/// Frames, outermost first, of one line of folded output.
#[derive(Clone, Debug, Default)]
pub struct FoldedStack {
    /// Its process's pid and title, with `-s`.
    pub process: Option<(i32, String)>,
    /// Its thread's number and name, with `-t`.
    pub thread: Option<(i32, String)>,
    pub frames: Vec<(Function, u64)>,
    /// What is said of it: `[waits: poll]`, `<torn>`.
    pub markers: Vec<String>,
    pub count: u64,
}

impl FoldedStack {
    fn parse(line: &str) -> Option<FoldedStack> {
        let (labels, count) = line.rsplit_once(' ')?;
        let mut stack = FoldedStack {
            count: count.parse().ok().filter(|&count| count > 0)?,
            ..FoldedStack::default()
        };
        for label in labels.split(';') {
            if let Some(process) = parse_owner(label, "process ") {
                stack.process = Some(process);
            } else if let Some(thread) = parse_owner(label, "thread ") {
                stack.thread = Some(thread);
            } else if let Some(frame) = parse_frame(label) {
                stack.frames.push(frame);
            } else if label.starts_with(['[', '<']) {
                stack.markers.push(label.to_owned());
            } else {
                return None;
            }
        }
        Some(stack)
    }

    /// Whether a function is in it.
    pub fn has(&self, function: &str) -> bool {
        self.frames.iter().any(|((name, _), _)| name == function)
    }

    /// Its frames, innermost first.
    pub fn innermost_first(&self) -> Vec<(Function, u64)> {
        self.frames.iter().rev().cloned().collect()
    }
}

/// `function (file:line)`; the line is 0 where there is none, as in the cleaning up after an exception.
fn parse_frame(label: &str) -> Option<(Function, u64)> {
    let (function, place) = label.strip_suffix(')')?.split_once(" (")?;
    let (file, line) = place.rsplit_once(':').unwrap_or((place, "0"));
    Some(((function.to_owned(), file.to_owned()), line.parse().ok()?))
}

/// `process 12: title`, `thread 12: name`.
fn parse_owner(label: &str, word: &str) -> Option<(i32, String)> {
    let (number, name) = label.strip_prefix(word)?.split_once(": ")?;
    Some((number.parse().ok()?, name.to_owned()))
}

/// Folded stacks.
#[derive(Clone, Debug, Default)]
pub struct Folded(pub Vec<FoldedStack>);

impl Folded {
    /// Reads what `record -f folded` wrote.
    ///
    /// # Errors
    ///
    /// With the first line that is none.
    pub fn parse(text: &str) -> Result<Folded, String> {
        let stacks = text.lines().map(|line| {
            FoldedStack::parse(line).ok_or_else(|| format!("not a folded stack: {line:?}"))
        });
        if !text.is_empty() && !text.ends_with('\n') {
            return Err("its last line has no end".to_owned());
        }
        Ok(Folded(stacks.collect::<Result<_, _>>()?))
    }

    /// All samples.
    pub fn samples(&self) -> u64 {
        self.0.iter().map(|stack| stack.count).sum()
    }

    /// The samples of the stacks for which `is_meant`.
    pub fn count(&self, is_meant: impl Fn(&FoldedStack) -> bool) -> u64 {
        let meant = self.0.iter().filter(|stack| is_meant(stack));
        meant.map(|stack| stack.count).sum()
    }

    /// The samples with this function.
    pub fn count_with(&self, function: &str) -> u64 {
        self.count(|stack| stack.has(function))
    }
}

/// A recording that has ended.
#[derive(Debug)]
pub struct Recorded {
    pub status: ExitStatus,
    pub stderr: String,
    pub took: Duration,
    /// None when there is no file.
    pub text: Option<String>,
}

impl Recorded {
    /// Fails unless it ended well; its stacks.
    #[track_caller]
    pub fn expect_complete(&self) -> Folded {
        assert!(self.status.success(), "{self:#?}");
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
        let text = self.text.as_deref().expect("it leaves a file");
        Folded::parse(text).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

/// `stuckspy record` under way; it is killed when this is dropped.
#[derive(Debug)]
pub struct Recorder {
    child: Child,
    folder: TempDir,
    started: Instant,
}

impl Recorder {
    /// Records a process until it is told to end, or for the `-d` among the options.
    pub fn start(pid: i32, options: &[&str]) -> Recorder {
        let pid = pid.to_string();
        Recorder::start_with(&[options, &["--pid", &pid]].concat(), Stdio::null())
    }

    /// The same with all of the arguments but for the output.
    pub fn start_with(arguments: &[&str], stdout: Stdio) -> Recorder {
        let folder = TempDir::with_prefix("stuckspy-").expect("a temporary folder");
        let stderr = File::create(folder.path().join("stderr")).expect("a file in it");
        let child = Command::new(env!("CARGO_BIN_EXE_stuckspy"))
            .args(["record", "--format", "folded", "--full-filenames"])
            .arg("--output")
            .arg(folder.path().join("folded"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .expect("stuckspy can be started");
        Recorder {
            child,
            folder,
            started: Instant::now(),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("folded")
    }

    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// What it has said so far.
    pub fn stderr(&self) -> String {
        let bytes = fs::read(self.folder.path().join("stderr")).expect("it is ours");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The names of the files that it has left.
    pub fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).expect("it is ours");
        let names = entries.flatten().map(|entry| entry.file_name());
        let mut names: Vec<_> = names.filter_map(|name| name.into_string().ok()).collect();
        names.sort();
        names
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("it is our own child");
    }

    /// Waits until it catches signals: before, they would end it.
    #[track_caller]
    pub fn wait_until_catching(&mut self) {
        // The worker does; whoever started it passes on what it is sent.
        let pid = self.pid();
        let children = format!("/proc/{pid}/task/{pid}/children");
        self.wait("it catches signals", |_| {
            let worker = fs::read_to_string(&children).unwrap_or_default();
            let file = format!("/proc/{}/status", worker.trim());
            let status = fs::read_to_string(file).unwrap_or_default();
            let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
            let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
            mask.is_some_and(|mask| mask & (1 << (Signal::SIGUSR1 as u64 - 1)) != 0)
        });
    }

    /// Asks for what there is until `is_enough`; gives that.
    #[track_caller]
    pub fn wait_for(&mut self, what: &str, is_enough: impl Fn(&Folded) -> bool) -> Folded {
        self.wait_until_catching();
        let mut found = Folded::default();
        self.wait(what, |recorder| {
            found = recorder.report();
            is_enough(&found)
        });
        found
    }

    /// Asks for what there is, and waits until it is written.
    #[track_caller]
    pub fn report(&mut self) -> Folded {
        let said = self.reports();
        self.signal(Signal::SIGUSR1);
        self.wait("it reports", |recorder| recorder.reports() > said);
        let text = fs::read_to_string(self.path()).expect("it has written");
        Folded::parse(&text).unwrap_or_else(|error| panic!("{error}: {}", self.stderr()))
    }

    fn reports(&self) -> usize {
        self.stderr().matches("still recording").count()
    }

    /// How many samples were taken by the last report.
    pub fn taken(&self) -> u64 {
        let said = self.stderr();
        let told = said.rsplit_once(" samples in ");
        let number = told.and_then(|(before, _)| before.rsplit(' ').next());
        number.and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    #[track_caller]
    fn wait(&mut self, what: &str, mut is_so: impl FnMut(&mut Recorder) -> bool) {
        let started = Instant::now();
        while !is_so(self) {
            let ended = self.child.try_wait().expect("it is our own child");
            assert!(
                ended.is_none() && started.elapsed() < DEADLINE,
                "waited until {what}: ended {ended:?}, stderr {}",
                self.stderr()
            );
            thread::park_timeout(REST);
        }
    }

    /// Ends it by SIGINT.
    #[track_caller]
    pub fn interrupt(self) -> Recorded {
        self.signal(Signal::SIGINT);
        self.finish()
    }

    /// Kills it.
    pub fn kill(mut self) {
        self.child.kill().expect("it is our own child");
        self.child.wait().expect("it is our own child");
    }

    /// Waits for its end.
    #[track_caller]
    pub fn finish(mut self) -> Recorded {
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("it is our own child") {
                break status;
            }
            assert!(
                started.elapsed() < DEADLINE,
                "it does not end: {}",
                self.stderr()
            );
            thread::park_timeout(REST);
        };
        let recorded = Recorded {
            status,
            stderr: self.stderr(),
            took: self.started.elapsed(),
            text: fs::read_to_string(self.path()).ok(),
        };
        let left: Vec<_> = self.files();
        assert!(
            left.iter().all(|name| name == "folded" || name == "stderr"),
            "it leaves {left:?}"
        );
        recorded
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // It has ended already, unless the test has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
