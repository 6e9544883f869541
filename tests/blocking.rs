//! `--blocking`: a target that was asked to stop always goes on, whatever keeps it or us from running, and is stopped for a tenth of
//! the time at most. `scripts/soak-kill` is the long form.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod support;

#[path = "support/live.rs"]
mod live;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use live::{Target, any_interpreter, ask_about, assert_at_large, is_root, wait_until};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use stuckspy::model::Tid;
use stuckspy::sys::ptrace::{MAX_HOLD, MAX_STOP_WAIT, StopError, Tracer};
use support::cpu_limit::CpuLimit;
use support::recording::Recorder;
use support::report_skipped;

/// Runs for ever, in as many threads as it is told.
const BUSY: &str = r"
import sys, threading
def busy():
    x = 0
    while True: x += 1
for _ in range(int(sys.argv[1]) - 1): threading.Thread(target=busy, daemon=True).start()
print('ready', flush=True)
busy()
";

/// The main thread waits, uninterruptibly, for a child made as by vfork, until a line comes; then it says one and runs.
const UNINTERRUPTIBLE: &str = r"
import ctypes, os, platform, signal, sys
print('ready', flush=True)
call = {'x86_64': 56, 'aarch64': 220}[platform.machine()]
if ctypes.CDLL(None).syscall(call, 0x4000 | signal.SIGCHLD, 0, 0, 0, 0) == 0:
    os.read(0, 1)
    os._exit(0)
print('awake', flush=True)
while True: pass
";

/// Waits in calls that the kernel does not restart after a stop, and says how often they were broken off.
const RAW_CALLS: &str = r"
import ctypes, select, sys, threading
libc = ctypes.CDLL(None)
epoll, broken = select.epoll(), [0, 0]
class Time(ctypes.Structure): _fields_ = [('seconds', ctypes.c_long), ('rest', ctypes.c_long)]
user1 = (ctypes.c_ulong * 16)(1 << 9)
def wait():
    while True: broken[0] += libc.epoll_wait(epoll.fileno(), ctypes.create_string_buffer(12), 1, 3600000) < 0
def take():
    while True: broken[1] += libc.sigtimedwait(user1, None, ctypes.byref(Time(3600, 0))) < 0
for call in wait, take: threading.Thread(target=call, daemon=True).start()
print('ready', flush=True)
for line in sys.stdin: print(*broken, flush=True)
";

fn start(program: &str, arguments: &[&str]) -> Target {
    let mut command = Command::new(&any_interpreter().path);
    command.args(["-c", program]).args(arguments);
    let (target, line) = Target::start_and_listen(&mut command);
    assert_eq!(line, "ready");
    target
}

/// What the kernel has counted of a thread that never sleeps.
#[derive(Clone, Copy)]
struct Account {
    read_at: Instant,
    /// On a processor, or waiting for one.
    runnable: Duration,
    on_cpu: Duration,
}

impl Account {
    fn of(pid: i32) -> Account {
        let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).expect("it lives");
        let mut numbers = text.split_whitespace().map(|word| word.parse().unwrap());
        let mut next = || Duration::from_nanos(numbers.next().unwrap());
        let (on_cpu, waited) = (next(), next());
        Account {
            read_at: Instant::now(),
            runnable: on_cpu + waited,
            on_cpu,
        }
    }

    /// How long it neither ran nor waited for a processor since: if it does not sleep, it was stopped.
    fn stopped_until(self, later: Account) -> Duration {
        let passed = later.read_at - self.read_at;
        passed.saturating_sub(later.runnable - self.runnable)
    }
}

/// The figure before a word, in milliseconds.
fn stopped_for(stderr: &str) -> Duration {
    let rest = stderr.split("for at most ").nth(1).expect(stderr);
    let figure = rest.split(" ms in all").next().expect(stderr);
    Duration::from_secs_f64(figure.parse::<f64>().expect(stderr) / 1e3)
}

/// What the kernel counts lags behind by a tick at most, at both ends, and counts stolen time nowhere.
const BLUR: Duration = Duration::from_millis(25);

#[test]
fn the_time_in_stops_is_what_the_kernel_counts_and_a_tenth_at_most() {
    let mut target = start(BUSY, &["1"]);
    let before = Account::of(target.pid());
    // So many stops take more than a tenth.
    let options = ["-d", "3", "-r", "5000", "--blocking"];
    let recorded = Recorder::start(target.pid(), &options).finish();
    let after = Account::of(target.pid());
    recorded.expect_complete();
    let (said, counted) = (stopped_for(&recorded.stderr), before.stopped_until(after));
    let passed = after.read_at - before.read_at;
    live::report_figures(&format!("said {said:?}, counted {counted:?} of {passed:?}"));
    assert!(counted <= said + BLUR, "{counted:?}: {recorded:#?}");
    assert!(counted <= passed / 10 + BLUR, "{counted:?}: {recorded:#?}");
    // Else this would prove nothing.
    assert!(counted >= 2 * BLUR, "{counted:?}: {recorded:#?}");
    assert!(
        recorded.stderr.contains("no more is allowed"),
        "{recorded:#?}"
    );
    assert!(
        recorded.stderr.contains("without stopping them"),
        "{recorded:#?}"
    );
    target.assert_unharmed();
}

/// Has the calling thread, and what it starts, run on one processor.
fn share_a_processor() {
    let own = Pid::from_raw(0);
    let allowed = sched_getaffinity(own).unwrap();
    let first = (0..CpuSet::count()).find(|processor| allowed.is_set(*processor).unwrap());
    let mut only = CpuSet::new();
    only.set(first.unwrap()).unwrap();
    sched_setaffinity(own, &only).unwrap();
}

#[test]
fn on_one_processor_the_target_goes_on() {
    std::thread::spawn(|| {
        share_a_processor();
        let mut target = start(BUSY, &["4"]);
        let cpu = || {
            let text = fs::read_to_string(format!("/proc/{}/stat", target.pid())).unwrap();
            let fields: Vec<_> = text.rsplit(')').next().unwrap().split(' ').collect();
            let ticks = fields[12].parse::<u64>().unwrap() + fields[13].parse::<u64>().unwrap();
            Duration::from_millis(10 * ticks)
        };
        let (before, began) = (cpu(), Instant::now());
        let options = ["-d", "3", "-r", "100", "--blocking"];
        let recorded = Recorder::start(target.pid(), &options).finish();
        let (ran, passed) = (cpu() - before, began.elapsed());
        assert!(recorded.expect_complete().count_with("busy") > 0);
        // What else the machine does on that processor takes its part.
        assert!(ran > passed / 5, "{ran:?} of {passed:?}: {recorded:#?}");
        target.assert_unharmed();
    })
    .join()
    .unwrap();
}

#[test]
fn under_a_cpu_limit_the_target_goes_on() {
    if !is_root("a CPU limit") {
        return;
    }
    let Some(limit) = CpuLimit::new(&format!("stuckspy-blocking-{}", std::process::id())) else {
        return report_skipped("a CPU limit", "no cgroup with one can be made here");
    };
    let mut target = start(BUSY, &["4"]);
    limit.take_in(target.pid());
    let before = Account::of(target.pid());
    let options = ["-d", "3", "-r", "100", "--blocking"];
    let recorded = Recorder::start(target.pid(), &options).finish();
    let ran = Account::of(target.pid()).on_cpu - before.on_cpu;
    assert!(recorded.expect_complete().count_with("busy") > 0);
    // A tenth of a processor for four threads, one of which is at work at a time.
    assert!(ran > Duration::from_millis(20), "{ran:?}: {recorded:#?}");
    target.assert_unharmed();
    drop(target);
}

fn state_of(pid: i32) -> String {
    let statuses = live::statuses(pid);
    let main = statuses
        .iter()
        .find(|status| live::field(status, "Pid") == pid.to_string());
    let main = main.expect("it lives");
    [live::field(main, "State"), live::field(main, "TracerPid")].join(" ")
}

#[test]
fn one_that_does_not_stop_is_let_go_and_does_not_stop_later() {
    let mut target = start(UNINTERRUPTIBLE, &[]);
    let pid = target.pid();
    wait_until("it is in uninterruptible sleep", || {
        state_of(pid).starts_with('D')
    });
    let mut tracer = Tracer::start();
    let began = Instant::now();
    let refusal = tracer.stop(Tid(pid)).map(drop).expect_err("it can't stop");
    assert!(began.elapsed() >= MAX_STOP_WAIT);
    assert_eq!(refusal.error, StopError::Unwilling(Tid(pid)));
    assert_eq!(state_of(pid), "D (disk sleep) 0");
    // Another one can be stopped all the same.
    let mut other = start(BUSY, &["1"]);
    let stopped = tracer.stop(Tid(other.pid())).expect("it runs");
    assert!(state_of(other.pid()).starts_with("t "));
    assert!(stopped.release().is_whole);
    other.assert_unharmed();
    target.say("go");
    assert_eq!(target.line(), "awake");
    let before = Account::of(pid);
    wait_until("it runs", || {
        Account::of(pid).on_cpu > before.on_cpu + Duration::from_millis(20)
    });
    target.assert_unharmed();
}

/// What sleeps, interruptibly or not, is read exactly without a stop.
#[test]
fn what_sleeps_is_not_asked_to_stop() {
    let mut target = start(UNINTERRUPTIBLE, &[]);
    let pid = target.pid();
    wait_until("it is in uninterruptible sleep", || {
        state_of(pid).starts_with('D')
    });
    let answer = ask_about("dump", pid, &["--blocking"]).expect(0);
    assert!(answer.stdout.contains("<module>"), "{answer:#?}");
    assert!(
        answer
            .hints()
            .iter()
            .any(|hint| hint.contains("--blocking is not needed")),
        "{answer:#?}"
    );
    assert!(answer.took < Duration::from_secs(10), "{answer:#?}");
    target.say("go");
    assert_eq!(target.line(), "awake");
    target.assert_unharmed();
}

/// A reader may be blocked in the kernel, or suspended.
#[test]
fn a_thread_is_not_held_longer_than_it_may_be() {
    let mut target = start(BUSY, &["1"]);
    let pid = target.pid();
    let mut tracer = Tracer::start();
    let stopped = tracer.stop(Tid(pid)).expect("it runs");
    wait_until("it is let go", || state_of(pid).ends_with(" 0"));
    target.assert_unharmed();
    let hold = stopped.release();
    assert!(!hold.is_whole && hold.pause >= MAX_HOLD, "{hold:?}");
    let hold = tracer.stop(Tid(pid)).expect("it runs").release();
    assert!(hold.is_whole && hold.pause > Duration::ZERO, "{hold:?}");
    target.assert_unharmed();
}

#[test]
fn a_thread_that_is_killed_while_it_is_stopped_is_buried() {
    let target = start(BUSY, &["1"]);
    let pid = target.pid();
    let mut tracer = Tracer::start();
    let stopped = tracer.stop(Tid(pid)).expect("it runs");
    target.signal(Signal::SIGKILL);
    stopped.release();
    assert!(target.finish().is_none());
    let refusal = tracer.stop(Tid(pid)).map(drop).expect_err("it has ended");
    assert_eq!(refusal.error, StopError::Gone(Tid(pid)));
}

#[test]
fn calls_that_wait_are_not_broken_off() {
    let mut target = start(RAW_CALLS, &[]);
    let pid = target.pid();
    wait_until("all sleep", || live::all_in_state(pid, 'S'));
    for _ in 0..20 {
        ask_about("dump", pid, &["--blocking"]).expect(0);
        ask_about("diagnose", pid, &["--blocking", "--window", "0"]).expect(0);
    }
    let options = ["-d", "1", "-r", "200", "--idle", "--blocking"];
    Recorder::start(pid, &options).finish().expect_complete();
    target.say("");
    assert_eq!(target.line(), "0 0");
    // A stop would have done it.
    let mut tracer = Tracer::start();
    for status in live::statuses(pid) {
        let tid = Tid(live::field(&status, "Pid").parse().unwrap());
        assert!(
            tracer
                .stop(tid)
                .expect("it may be stopped")
                .release()
                .is_whole
        );
    }
    wait_until("all sleep", || live::all_in_state(pid, 'S'));
    target.say("");
    assert_eq!(target.line(), "1 1");
    target.assert_unharmed();
}

/// Ctrl-Z waits until no thread is stopped.
#[test]
fn suspended_it_leaves_no_thread_stopped() {
    let mut target = start(BUSY, &["2"]);
    let pid = target.pid();
    let folder = tempfile::tempdir().unwrap();
    // In a process group of its own, else there would be nobody to take it up again and it would not be suspended.
    let mut recorder = Command::new(env!("CARGO_BIN_EXE_stuckspy"))
        .args([
            "record",
            "--blocking",
            "-r",
            "1000",
            "--pid",
            &pid.to_string(),
            "-o",
        ])
        .arg(folder.path().join("profile.folded"))
        .process_group(0)
        .spawn()
        .unwrap();
    let ours = recorder.id().cast_signed();
    wait_until("it has a worker", || live::worker_of(ours).is_some());
    let worker = live::worker_of(ours).unwrap();
    let has_tracer = || {
        let statuses = live::statuses(worker);
        let mut names = statuses.iter().map(|status| live::field(status, "Name"));
        names.any(|name| name == "tracer")
    };
    wait_until("it samples", has_tracer);
    let mut dice = live::Dice::new(1);
    for _ in 0..30 {
        std::thread::sleep(dice.below(Duration::from_millis(20)));
        kill(Pid::from_raw(ours), Signal::SIGTSTP).unwrap();
        wait_until("both halves are suspended", || {
            [ours, worker]
                .iter()
                .all(|half| live::all_in_state(*half, 'T'))
        });
        assert_at_large(pid);
        kill(Pid::from_raw(ours), Signal::SIGCONT).unwrap();
    }
    kill(Pid::from_raw(ours), Signal::SIGTERM).unwrap();
    assert!(recorder.wait().unwrap().success());
    target.assert_unharmed();
}

/// Thaws a frozen cgroup whatever becomes of the test: what is frozen can't be killed.
struct Thaw(PathBuf);

impl Drop for Thaw {
    fn drop(&mut self) {
        let _ = fs::write(&self.0, "THAWED");
    }
}

/// In a frozen cgroup nothing can stop; it is not tried, and the freeze is what is reported.
#[test]
fn a_frozen_target_is_said_to_be_frozen() {
    let group = PathBuf::from("/sys/fs/cgroup/freezer")
        .join(format!("stuckspy-blocking-{}", std::process::id()));
    if !is_root("a frozen cgroup") {
        return;
    }
    if fs::create_dir(&group).is_err() {
        return report_skipped("a frozen cgroup", "no freezer of version 1 here");
    }
    let mut target = start(BUSY, &["2"]);
    let pid = target.pid();
    let freezer = group.join("freezer.state");
    fs::write(group.join("cgroup.procs"), pid.to_string()).unwrap();
    let thaw = Thaw(freezer.clone());
    fs::write(&freezer, "FROZEN").unwrap();
    let state = || fs::read_to_string(&freezer).unwrap();
    wait_until("it is frozen", || state().trim() == "FROZEN");
    let answers = ["dump", "diagnose"].map(|command| ask_about(command, pid, &["--blocking"]));
    let refused = Tracer::start().stop(Tid(pid)).map(drop);
    drop(thaw);
    for answer in answers {
        assert!(answer.stdout.contains("frozen"), "{answer:#?}");
        assert!(!answer.stdout.contains("did not stop"), "{answer:#?}");
    }
    assert!(
        refused.is_err_and(|refusal| refusal.error == StopError::Unwilling(Tid(pid))),
        "it can't stop"
    );
    let before = Account::of(pid);
    wait_until("it runs", || {
        Account::of(pid).on_cpu > before.on_cpu + Duration::from_millis(20)
    });
    target.assert_unharmed();
    drop(target);
    wait_until("its cgroup is removed", || fs::remove_dir(&group).is_ok());
}
