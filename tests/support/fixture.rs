//! Runs a fixture program under an interpreter: waits until it says that it is ready, and leaves nothing of it behind.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tempfile::TempDir;

use super::embedding;
use super::interpreter::Interpreter;
use super::program::Program;
use super::truth::Truth;

/// How long a program may take until it is ready, or to end when told to.
const DEADLINE: Duration = Duration::from_secs(60);

/// What came of starting a program.
#[derive(Debug)]
pub enum Started {
    Ready(Fixture),
    /// The interpreter lacks what the program is about.
    Skipped(String),
}

/// A running program, which ends when this is dropped.
#[derive(Debug)]
pub struct Fixture {
    child: Child,
    stdin: Option<ChildStdin>,
    folder: TempDir,
    pub truth: Truth,
}

impl Fixture {
    /// Starts a program and waits until it is ready.
    ///
    /// # Errors
    ///
    /// When it ends before, or is not ready in time: with all that it wrote to standard error.
    pub fn start(program: &Program, interpreter: &Interpreter) -> Result<Started, String> {
        Fixture::start_with(program, interpreter, &[])
    }

    /// The same, with arguments for the program.
    pub fn start_with(
        program: &Program,
        interpreter: &Interpreter,
        arguments: &[&str],
    ) -> Result<Started, String> {
        if let Some(why) = program.find_obstacle(interpreter) {
            return Ok(Started::Skipped(why));
        }
        let folder = TempDir::with_prefix("stuckspy-")
            .map_err(|error| format!("make a temporary folder: {error}"))?;
        let mut command = if program.is_embedded {
            match embedding::build(interpreter, folder.path())? {
                Ok(path) => {
                    let mut command = Command::new(path);
                    command.env("PYTHONHOME", &interpreter.prefix);
                    command
                }
                Err(why) => return Ok(Started::Skipped(why)),
            }
        } else {
            let mut command = Command::new(&interpreter.path);
            command.env_remove("PYTHONHOME");
            command
        };
        command
            .args(&program.options)
            .arg(&program.path)
            .args(arguments)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("PYTHONNOUSERSITE", "1")
            .env("LC_ALL", "C.UTF-8")
            .env_remove("PYTHONPATH")
            .env_remove("PYTHONSTARTUP");
        Fixture::launch(command, folder)
    }

    /// Starts the command with the protocol's environment: "ready" comes on standard output, standard error goes to a file.
    fn launch(mut command: Command, folder: TempDir) -> Result<Started, String> {
        let errors = File::create(folder.path().join("stderr"))
            .map_err(|error| format!("create a file for standard error: {error}"))?;
        let mut child = command
            .env("STUCKSPY_TRUTH", folder.path().join("truth.json"))
            .env("STUCKSPY_PROGRESS", folder.path().join("progress"))
            .env("STUCKSPY_READY_FD", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .map_err(|error| format!("start {command:?}: {error}"))?;
        let stdin = child.stdin.take();
        let answer = read_answer(&mut child);
        let mut fixture = Fixture {
            child,
            stdin,
            folder,
            truth: Truth {
                pid: 0,
                version: (0, 0, 0),
                threads: Vec::new(),
                reporter: 0,
                extra: serde_json::Value::Null,
            },
        };
        match answer.as_deref().map(str::trim_end) {
            Ok("ready") => {
                fixture.truth = load_truth(&fixture.folder.path().join("truth.json"))?;
                Ok(Started::Ready(fixture))
            }
            Ok(line) if line.starts_with("skip: ") => {
                Ok(Started::Skipped(line["skip: ".len()..].to_owned()))
            }
            Ok(line) => Err(format!(
                "said {line:?} instead of ready\n{}",
                fixture.stderr()
            )),
            Err(why) => Err(format!("{why}\n{}", fixture.stderr())),
        }
    }

    /// The process to look at: the program's, or the child that it forked.
    pub fn pid(&self) -> i32 {
        self.truth.pid
    }

    /// All that the program has written to standard error.
    pub fn stderr(&self) -> String {
        let path = self.folder.path().join("stderr");
        let text = fs::read(&path).unwrap_or_default();
        format!("stderr: {}", String::from_utf8_lossy(&text))
    }

    /// How many rounds a program that counts them has done.
    pub fn progress(&self) -> Option<u64> {
        let mut bytes = [0; 8];
        let mut file = File::open(self.folder.path().join("progress")).ok()?;
        file.read_exact(&mut bytes).ok()?;
        Some(u64::from_ne_bytes(bytes))
    }

    /// A folder that goes away with the program.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Checks that all threads live, that none is stopped, and that none is traced.
    pub fn assert_unharmed(&self) -> Result<(), String> {
        let child = i32::try_from(self.child.id()).map_err(|error| error.to_string())?;
        for pid in [self.truth.pid, child] {
            let threads = threads_of(pid)?;
            if threads.is_empty() {
                return Err(format!("process {pid} has no threads"));
            }
            for folder in threads {
                // A thread may end at any time; the process may not.
                if let Ok(status) = fs::read_to_string(folder.join("status")) {
                    check_status(pid, &status)?;
                }
            }
        }
        for account in &self.truth.threads {
            let folder = format!("/proc/{}/task/{}", self.truth.pid, account.tid);
            if !Path::new(&folder).exists() {
                return Err(format!("thread {} is gone", account.tid));
            }
        }
        Ok(())
    }

    /// Tells the program to end, which only a working thread of it can do, and checks that it does so as it should.
    pub fn finish(mut self) -> Result<(), String> {
        drop(self.stdin.take());
        if !wait_until_ended(&self.child) {
            return Err(format!("does not end when told to\n{}", self.stderr()));
        }
        let status = self.child.wait().map_err(|error| error.to_string())?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("ended with {status}\n{}", self.stderr()))
        }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        // Its own children end with it: they read its standard input, or a pipe of which it holds the other end.
        drop(self.stdin.take());
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The first line that the program writes to standard output, in time.
fn read_answer(child: &mut Child) -> Result<String, String> {
    let Some(stdout) = child.stdout.take() else {
        return Err("has no standard output".to_owned());
    };
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut line = String::new();
        let result = BufReader::new(stdout).read_line(&mut line).map(|_| line);
        // Nobody listens any more when the deadline has passed.
        let _ = sender.send(result);
    });
    match receiver.recv_timeout(DEADLINE) {
        Ok(Ok(line)) if line.is_empty() => Err("ended before it was ready".to_owned()),
        Ok(Ok(line)) => Ok(line),
        Ok(Err(error)) => Err(format!("read from the program: {error}")),
        Err(_) => Err(format!("was not ready within {DEADLINE:?}")),
    }
}

fn load_truth(path: &PathBuf) -> Result<Truth, String> {
    let text = fs::read_to_string(path)
        .map_err(|error| format!("read the truth from {}: {error}", path.display()))?;
    serde_json::from_str(&text).map_err(|error| format!("parse the truth: {error}: {text:.2000}"))
}

/// The folders of a process's threads in /proc.
fn threads_of(pid: i32) -> Result<Vec<PathBuf>, String> {
    let folder = format!("/proc/{pid}/task");
    let entries = fs::read_dir(&folder).map_err(|error| format!("list {folder}: {error}"))?;
    Ok(entries.flatten().map(|entry| entry.path()).collect())
}

fn check_status(pid: i32, status: &str) -> Result<(), String> {
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        line.map_or("", |line| line[name.len()..].trim())
    };
    let (thread, state, tracer) = (field("Pid:"), field("State:"), field("TracerPid:"));
    if !state.starts_with(['R', 'S', 'D']) {
        return Err(format!(
            "thread {thread} of process {pid} is in state {state}"
        ));
    }
    if tracer != "0" {
        return Err(format!(
            "thread {thread} of process {pid} is traced by {tracer}"
        ));
    }
    Ok(())
}

fn wait_until_ended(child: &Child) -> bool {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let Some(Ok(pidfd)) = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) else {
        return true; // Nothing to wait with: the caller's own wait tells.
    };
    let timeout = Timespec {
        tv_sec: DEADLINE.as_secs().cast_signed(),
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    loop {
        match poll(&mut fds, Some(&timeout)) {
            Ok(ready) => return ready > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}
