//! `stuckspy stay`, in which other commands run: whatever runs in a container is killed at the end of its first process.

mod support;

#[path = "support/live.rs"]
mod live;

use std::fs;
use std::process::{Child, Command, ExitStatus, Stdio};

use live::{Target, any_interpreter, wait_until, wait_until_in_call};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::program;
use syscalls::Sysno;
use tempfile::TempDir;

/// A copy of stuckspy, which nobody else runs.
struct Alone {
    folder: TempDir,
}

impl Alone {
    fn new() -> Alone {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("stuckspy");
        fs::copy(env!("CARGO_BIN_EXE_stuckspy"), path).expect("it is copied");
        Alone { folder }
    }

    fn start(&self, arguments: &[&str]) -> Running {
        let mut command = Command::new(self.folder.path().join("stuckspy"));
        command.args(arguments).stdout(Stdio::null());
        Running(command.spawn().expect("it can be started"))
    }
}

/// A process that is killed when it is not needed any more.
struct Running(Child);

impl Running {
    fn pid(&self) -> i32 {
        self.0.id().try_into().expect("a pid")
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("it is there");
    }

    fn end(&mut self) -> ExitStatus {
        wait_until("it has ended", || {
            self.0.try_wait().expect("it is our child").is_some()
        });
        self.0.wait().expect("it is our child")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A recording without an end.
fn record(alone: &Alone, target: &Target) -> Running {
    let file = alone.folder.path().join("file.folded");
    let (pid, file) = (target.pid().to_string(), file.to_string_lossy());
    alone.start(&["record", "--idle", "-p", &pid, "-o", &file])
}

fn start_target() -> Target {
    let mut command = Command::new(&any_interpreter().path);
    command.arg(program::folder().join("waits/recv_tcp.py"));
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    Target::start_and_listen(&mut command).0
}

#[test]
fn it_waits_for_a_command_that_still_runs() {
    let mut target = start_target();
    let alone = Alone::new();
    let recording = record(&alone, &target);
    let mut stay = alone.start(&["stay", "0"]);
    // Its time is over from the start: it sleeps only because of the recording.
    wait_until_in_call(stay.pid(), Sysno::clock_nanosleep);
    drop(recording);
    assert!(stay.end().success());
    target.assert_unharmed();
}

#[test]
fn a_signal_ends_it_all_the_same() {
    let mut target = start_target();
    let alone = Alone::new();
    let recording = record(&alone, &target);
    for arguments in [["stay", "0"], ["stay", "1h"]] {
        let mut stay = alone.start(&arguments);
        wait_until_in_call(stay.pid(), Sysno::clock_nanosleep);
        stay.signal(Signal::SIGTERM);
        assert!(stay.end().success());
    }
    drop(recording);
    target.assert_unharmed();
}

/// Not for one that waits as it does, for ever; not for the same program of another container, which is another file.
#[test]
fn it_waits_for_nobody_else() {
    let mut target = start_target();
    let (alone, other) = (Alone::new(), Alone::new());
    let _other = record(&other, &target);
    let waiting = alone.start(&["stay", "1h"]);
    wait_until_in_call(waiting.pid(), Sysno::clock_nanosleep);
    assert!(alone.start(&["stay", "0"]).end().success());
    assert!(alone.start(&["stay", "1ms"]).end().success());
    target.assert_unharmed();
}
