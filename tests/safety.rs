//! stuckspy killed at any instant leaves its target alive, unstopped, untraced and at work. `scripts/soak-kill` is the long form.

mod support;

#[path = "support/live.rs"]
mod live;

use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use live::{Dice, any_interpreter, assert_at_large, wait_until, wait_until_ended, worker_of};
use support::dump::dump;
use support::fixture::{Fixture, Started};
use support::program::Program;

/// Kills of each kind of target, in each way of reading.
const KILLS: usize = 40;
/// The latest instant at which a run is killed, from its start.
const LATEST: Duration = Duration::from_millis(15);

fn start(name: &str) -> Fixture {
    match Fixture::start(&Program::load(name), any_interpreter()) {
        Ok(Started::Ready(fixture)) => fixture,
        Ok(Started::Skipped(why)) => panic!("{name}: {why}"),
        Err(why) => panic!("{name}: {why}"),
    }
}

/// Runs stuckspy and kills it; whether it was still running.
fn kill_a_run(fixture: &Fixture, round: usize, options: &[&str], delay: Duration) -> bool {
    let command = if round.is_multiple_of(2) {
        "dump"
    } else {
        "diagnose"
    };
    let mut run = Command::new(env!("CARGO_BIN_EXE_stuckspy"))
        .args([command, "--pid", &fixture.pid().to_string()])
        .args(options)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("stuckspy can be started");
    thread::sleep(delay);
    let worker = worker_of(run.id().cast_signed());
    run.kill().expect("it is our own child");
    let status = run.wait().expect("it is our own child");
    // The kernel kills it when the process that was killed ends.
    if let Some(worker) = worker {
        wait_until_ended(worker);
    }
    status.code().is_none()
}

fn check(name: &str, options: &[&str]) {
    let fixture = start(name);
    let mut dice = Dice::new(KILLS as u64);
    let mut killed = 0;
    for round in 0..KILLS {
        let delay = dice.below(LATEST);
        killed += usize::from(kill_a_run(&fixture, round, options, delay));
        assert_at_large(fixture.pid());
    }
    assert!(
        killed >= KILLS / 4,
        "only {killed} of {KILLS} runs were killed before their end"
    );
    fixture.assert_unharmed().expect("no harm");
    if let Some(before) = fixture.progress() {
        wait_until("it makes progress", || fixture.progress() > Some(before));
    }
    dump(fixture.pid()).expect("it can be dumped");
    // Only a working thread can end the program as it should be ended.
    fixture.finish().expect("it ends as it should");
}

#[test]
fn killed_while_it_reads_a_busy_target() {
    check("thrash", &[]);
}

#[test]
fn killed_while_it_stops_a_busy_target() {
    check("thrash", &["--blocking"]);
}

#[test]
fn killed_while_it_reads_a_blocked_target() {
    check("threads", &[]);
}

#[test]
fn killed_while_it_stops_a_blocked_target() {
    check("threads", &["--blocking"]);
}

/// Signals that its user sends must not reach the target either.
#[test]
fn interrupted_while_it_stops_a_busy_target() {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    let fixture = start("thrash");
    let mut dice = Dice::new(2);
    for round in 0..KILLS {
        let signal = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP][round % 3];
        let mut run = Command::new(env!("CARGO_BIN_EXE_stuckspy"))
            .args(["dump", "--blocking", "--pid", &fixture.pid().to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        thread::sleep(dice.below(LATEST));
        kill(Pid::from_raw(run.id().cast_signed()), signal).unwrap();
        run.wait().unwrap();
        assert_at_large(fixture.pid());
    }
    let before = fixture.progress();
    wait_until("it makes progress", || fixture.progress() > before);
    fixture.assert_unharmed().unwrap();
    fixture.finish().unwrap();
}
