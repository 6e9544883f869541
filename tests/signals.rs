//! Signals that end a recording, sent as they come in practice: twice, late, and while nobody takes what is written.
//! `scripts/soak-signals` is the long form.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod support;

#[path = "support/live.rs"]
mod live;

use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use live::{any_interpreter, assert_at_large, find_tool, make_fifo, wait_until};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use support::fixture::{Fixture, Started};
use support::program::Program;
use support::recording::{Folded, Recorder};
use tempfile::TempDir;

/// What lies between a repetition and a request of its own, and a little.
const LATER: Duration = Duration::from_millis(1200);

fn start() -> Fixture {
    match Fixture::start(&Program::load("deep_cpu"), any_interpreter()) {
        Ok(Started::Ready(fixture)) => fixture,
        Ok(Started::Skipped(why)) | Err(why) => panic!("deep_cpu: {why}"),
    }
}

/// Before its worker catches signals, they would end it.
fn wait_until_catching(pid: u32) {
    wait_until("it catches signals", || {
        let Some(worker) = live::worker_of(pid.cast_signed()) else {
            return false;
        };
        let status = fs::read_to_string(format!("/proc/{worker}/status")).unwrap_or_default();
        let mask = u64::from_str_radix(live::field(&status, "SigCgt"), 16).unwrap_or(0);
        mask & (1 << (Signal::SIGUSR1 as u64 - 1)) != 0
    });
}

/// Whoever ends it sends as many as he likes: all that come soon are one request.
#[test]
fn repeated_signals_are_one_request() {
    let fixture = start();
    for signal in live::ending_signals() {
        let mut recorder = Recorder::start(fixture.pid(), &[]);
        let before = recorder.wait_for("it has samples", |folded| folded.samples() > 5);
        for _ in 0..20 {
            // It may have ended, and is not reaped yet.
            recorder.signal(signal);
        }
        let folded = recorder.finish().expect_complete();
        assert!(folded.samples() >= before.samples(), "{signal}: {folded:?}");
    }
    assert_at_large(fixture.pid());
}

/// GNU `timeout` sends to its child and to its group, in which the child is.
#[test]
fn a_recording_that_timeout_ends_is_complete() {
    let Some(timeout) = find_tool("timeout") else {
        return;
    };
    let fixture = start();
    let folder = TempDir::with_prefix("stuckspy-").unwrap();
    let path = folder.path().join("folded");
    // Its limit ends many of them while they start; those that catch signals by then leave a file.
    let mut complete = 0;
    for tenths in [10, 15, 20] {
        let _ = fs::remove_file(&path);
        let output = Command::new(&timeout)
            .arg(format!("{}.{}", tenths / 10, tenths % 10))
            .arg(env!("CARGO_BIN_EXE_stuckspy"))
            .args(["record", "--full-filenames", "-o"])
            .arg(&path)
            .args(["-f", "folded", "--pid", &fixture.pid().to_string()])
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(124), "{stderr}");
        if stderr.contains("wrote ") {
            let text = fs::read_to_string(&path).unwrap();
            complete += u32::from(Folded::parse(&text).unwrap().samples() > 0);
        }
    }
    assert!(complete > 0, "none was complete");
    assert_at_large(fixture.pid());
}

/// A program that was started is in the same group, and ends by the same signal.
#[test]
fn a_recording_of_a_program_that_it_started_is_complete_too() {
    let folder = TempDir::with_prefix("stuckspy-").unwrap();
    let path = folder.path().join("folded");
    let mut child = Command::new(env!("CARGO_BIN_EXE_stuckspy"))
        .args(["record", "--full-filenames", "-f", "folded", "-o"])
        .arg(&path)
        .arg("--")
        .arg(&any_interpreter().path)
        .args(["-S", "-c", "while True: pass"])
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(child.id().cast_signed());
    wait_until_catching(child.id());
    wait_until("there are samples", || {
        // What there is, again and again: the file is whole at any time.
        kill(pid, Signal::SIGUSR1).is_ok()
            && fs::read_to_string(&path).is_ok_and(|text| !text.is_empty())
    });
    for _ in 0..2 {
        killpg(pid, Signal::SIGTERM).unwrap();
    }
    let mut ended = None;
    wait_until("it ends", || {
        ended = child.try_wait().unwrap();
        ended.is_some()
    });
    assert_eq!(ended.and_then(|status| status.code()), Some(0));
    let text = fs::read_to_string(&path).unwrap();
    assert!(Folded::parse(&text).unwrap().samples() > 0, "{text}");
}

/// `stuckspy record` under way to `output`, which is not a regular file.
struct Blocked {
    child: Child,
    folder: TempDir,
}

impl Blocked {
    fn start(make: impl FnOnce(&Path), target: i32) -> Blocked {
        let folder = TempDir::with_prefix("stuckspy-").unwrap();
        let fifo = folder.path().join("fifo");
        make_fifo(&fifo);
        let stderr = File::create(folder.path().join("stderr")).unwrap();
        make(&fifo);
        let child = Command::new(env!("CARGO_BIN_EXE_stuckspy"))
            .args(["record", "-f", "flamegraph", "-d", "1", "-o"])
            .arg(&fifo)
            .args(["--pid", &target.to_string()])
            .stdin(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap();
        let blocked = Blocked { child, folder };
        wait_until_catching(blocked.child.id());
        blocked
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    fn stderr(&self) -> String {
        fs::read_to_string(self.folder.path().join("stderr")).unwrap()
    }

    fn wait(&mut self) -> ExitStatus {
        let mut ended = None;
        wait_until("it ends", || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        ended.unwrap()
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // It has ended already, unless the test has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_fifo_that_nobody_reads_is_left_at_the_first_signal() {
    let fixture = start();
    for signal in live::ending_signals() {
        let mut blocked = Blocked::start(|_| {}, fixture.pid());
        blocked.signal(signal);
        let status = blocked.wait();
        let stderr = blocked.stderr();
        assert_eq!(status.code(), Some(74), "{stderr}");
        assert!(stderr.contains("before anybody read it"), "{stderr}");
    }
    assert_at_large(fixture.pid());
}

/// What `nohup` starts goes on when the terminal goes away.
#[test]
fn a_hangup_that_was_ignored_stays_so() {
    let fixture = start();
    let folder = TempDir::with_prefix("stuckspy-").unwrap();
    let path = folder.path().join("folded");
    let script = "trap '' HUP; exec \"$0\" \"$@\"";
    let mut child = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_stuckspy")])
        .args(["record", "-f", "folded", "-d", "2", "-o"])
        .arg(&path)
        .args(["--pid", &fixture.pid().to_string()])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let began = Instant::now();
    wait_until_catching(child.id());
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGHUP).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(began.elapsed() >= Duration::from_secs(2));
    assert!(!fs::read_to_string(&path).unwrap().is_empty());
    assert_at_large(fixture.pid());
}

/// One who has opened the FIFO, and takes nothing. A flame graph fills it: its script alone has more than the page that is left in it.
fn idle_reader(fifo: &Path) -> File {
    use rustix::fs::{Mode, OFlags, open};
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let reader = open(fifo, flags, Mode::empty()).unwrap();
    rustix::pipe::fcntl_setpipe_size(&reader, 4096).unwrap();
    File::from(reader)
}

/// How many bytes of the pipe of 4096 are taken.
fn is_full(reader: &File) -> bool {
    rustix::io::ioctl_fionread(reader).unwrap() == 4096
}

#[test]
fn a_reader_that_takes_nothing_is_left_after_a_while() {
    let fixture = start();
    let mut reader = None;
    let mut blocked = Blocked::start(|fifo| reader = Some(idle_reader(fifo)), fixture.pid());
    let reader = reader.unwrap();
    wait_until("it has filled the pipe", || is_full(&reader));
    let asked = Instant::now();
    blocked.signal(Signal::SIGTERM);
    let status = blocked.wait();
    let stderr = blocked.stderr();
    assert_eq!(status.code(), Some(74), "{stderr}");
    assert!(
        stderr.contains("its reader took nothing for 5 s"),
        "{stderr}"
    );
    assert!(asked.elapsed() >= Duration::from_secs(5), "{stderr}");
    assert_at_large(fixture.pid());
}

#[test]
fn a_later_interrupt_ends_it_at_once() {
    let fixture = start();
    let mut reader = None;
    let mut blocked = Blocked::start(|fifo| reader = Some(idle_reader(fifo)), fixture.pid());
    let reader = reader.unwrap();
    wait_until("it has filled the pipe", || is_full(&reader));
    let asked = Instant::now();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGINT] {
        blocked.signal(signal);
    }
    wait_until("it is later", || asked.elapsed() > LATER);
    // Later requests of programs are no reason to lose anything.
    for signal in [Signal::SIGTERM, Signal::SIGHUP] {
        blocked.signal(signal);
    }
    assert_eq!(blocked.child.try_wait().unwrap(), None);
    blocked.signal(Signal::SIGINT);
    let status = blocked.wait();
    let stderr = blocked.stderr();
    assert_eq!(status.signal(), Some(Signal::SIGINT as i32), "{stderr}");
    assert!(stderr.contains("ended at once"), "{stderr}");
    assert!(asked.elapsed() < Duration::from_secs(5), "{stderr}");
    assert_at_large(fixture.pid());
}

/// The disk takes its time, which strace sees to.
#[test]
fn what_was_written_until_a_later_interrupt_stays_and_is_named() {
    let Some(strace) = find_tool("strace") else {
        return;
    };
    let fixture = start();
    let folder = TempDir::with_prefix("stuckspy-").unwrap();
    let stderr = folder.path().join("stderr");
    let mut tracer = Command::new(strace)
        .args(["-D", "-f", "-qq", "-e", "trace=fsync"])
        .args(["-e", "inject=fsync:delay_enter=5000000"])
        .arg("-o")
        .arg(folder.path().join("trace"))
        .arg(env!("CARGO_BIN_EXE_stuckspy"))
        .args(["record", "-f", "folded", "-d", "1", "-o"])
        .arg(folder.path().join("flame"))
        .args(["--pid", &fixture.pid().to_string()])
        .stderr(File::create(&stderr).unwrap())
        .spawn()
        .unwrap();
    let find = || {
        let names = fs::read_dir(folder.path()).unwrap().flatten();
        let mut paths = names.map(|entry| entry.path());
        paths.find(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.starts_with(".flame.") && fs::metadata(path).is_ok_and(|file| file.len() > 0)
        })
    };
    wait_until("it is being written", || find().is_some());
    // With -D, the program is our child, and strace its grandchild.
    let pid = Pid::from_raw(tracer.id().cast_signed());
    let asked = Instant::now();
    kill(pid, Signal::SIGINT).unwrap();
    wait_until("it is later", || asked.elapsed() > LATER);
    kill(pid, Signal::SIGINT).unwrap();
    let status = tracer.wait().unwrap();
    let said = fs::read_to_string(&stderr).unwrap();
    assert_eq!(status.signal(), Some(Signal::SIGINT as i32), "{said}");
    let left = find().expect("it is still there");
    let expected = format!("what was written so far is in {}", left.display());
    assert!(said.contains(&expected), "{said}");
    assert!(!folder.path().join("flame").exists());
    assert!(!fs::read_to_string(&left).unwrap().is_empty());
    assert_at_large(fixture.pid());
}
