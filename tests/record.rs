//! `stuckspy record` of programs that know where their time goes, and of such as end, stop, fork and turn into others meanwhile.
//! `scripts/check-shares`, `scripts/soak-record` and `scripts/roll-gunicorn` are the long forms.

mod support;

#[path = "support/live.rs"]
mod live;

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use live::{Target, any_interpreter, ask, assert_at_large, hostile, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use support::fixture::{Fixture, Started};
use support::interpreter::Interpreter;
use support::program::Program;
use support::recording::{Folded, FoldedStack, Recorder};
use support::thrash::Possible;

/// How far off a share may be, in standard deviations of as many samples that fell independently. Ours fall more evenly than
/// that, so that a hundred shares in a hundred runs stay within.
const DEVIATIONS: f64 = 4.0;
/// A share that the program measures is a little off too: what it measures begins before the recording and ends after it.
const BLUR: f64 = 0.01;

/// A stack of shares.py that it keeps account of.
#[derive(Clone, Debug, Deserialize)]
struct Counter {
    thread: String,
    path: Vec<String>,
    does: String,
}

impl Counter {
    fn of(fixture: &Fixture) -> Vec<Counter> {
        let counters = fixture.truth.extra["counters"].clone();
        serde_json::from_value(counters).expect("the program tells its counters")
    }

    /// How many of its functions a stack has, which has all of them or none.
    fn functions_in(&self, stack: &FoldedStack) -> usize {
        let is_it = |stack: &FoldedStack| match &stack.thread {
            Some((_, name)) => *name == self.thread,
            None => true,
        };
        let names: Vec<_> = stack.frames.iter().map(|((name, _), _)| name).collect();
        let mut places = names.windows(self.path.len());
        let is_there = places.any(|names| names.iter().copied().eq(&self.path));
        if is_there && is_it(stack) {
            self.path.len()
        } else {
            0
        }
    }
}

/// The samples of each counter. A stack belongs to the one that knows most of it.
fn samples_of(counters: &[Counter], folded: &Folded) -> Vec<u64> {
    let mut samples = vec![0; counters.len()];
    for stack in &folded.0 {
        let known = counters.iter().map(|counter| counter.functions_in(stack));
        let best = known
            .enumerate()
            .max_by_key(|&(_, functions)| functions)
            .filter(|&(_, functions)| functions > 0);
        if let Some((index, _)) = best {
            samples[index] += stack.count;
        }
    }
    samples
}

/// The processor time and the wall time of each counter, in seconds.
fn spent(fixture: &Fixture) -> Vec<(f64, f64)> {
    let bytes = fs::read(fixture.folder().join("progress")).expect("the program keeps it");
    let number = |bytes: &[u8]| f64::from_ne_bytes(bytes.try_into().expect("eight bytes"));
    let pairs = bytes[8..].chunks_exact(16);
    pairs
        .map(|pair| (number(&pair[..8]), number(&pair[8..])))
        .collect()
}

fn start(name: &str, arguments: &[&str]) -> Fixture {
    match Fixture::start_with(&Program::load(name), any_interpreter(), arguments) {
        Ok(Started::Ready(fixture)) => fixture,
        Ok(Started::Skipped(why)) | Err(why) => panic!("{name}: {why}"),
    }
}

/// The target is alive, goes on, and ends as only a program that works can.
#[track_caller]
fn assert_unharmed(fixture: Fixture) {
    fixture.assert_unharmed().expect("no harm");
    let before = fixture.progress();
    wait_until("it makes progress", || fixture.progress() > before);
    fixture.finish().expect("it ends as it should");
}

/// Records a mode of shares.py for a while and compares the shares of its functions with their wall time: none of them blocks, but
/// where `idle` threads are shown too. While a program waits for a processor that others use, so may the sampler that looks at it:
/// what share of its time it waited, so much a share may be off in addition. Alone on a machine that is next to nothing.
fn compare_shares(
    interpreter: &Interpreter,
    mode: &str,
    options: &[&str],
) -> Result<Option<String>, String> {
    let program = Program::load("shares");
    let fixture = match Fixture::start_with(&program, interpreter, &[mode, "cycle"])? {
        Started::Ready(fixture) => fixture,
        Started::Skipped(why) => return Ok(Some(why)),
    };
    let is_idle = options.contains(&"--idle");
    let possible = Possible::parse(&fixture.truth.extra)?;
    let before = spent(&fixture);
    let folded = Recorder::start(fixture.pid(), options)
        .finish()
        .expect_complete();
    let after = spent(&fixture);
    let mut failures: Vec<_> = impossible_in(&folded, &possible).collect();
    let counters = Counter::of(&fixture);
    let samples = samples_of(&counters, &folded);
    let counters: Vec<_> = counters
        .into_iter()
        .enumerate()
        .filter(|(_, counter)| is_idle || counter.does == "runs")
        .map(|(index, counter)| {
            let cpu = after[index].0 - before[index].0;
            let wall = after[index].1 - before[index].1;
            let waited = if counter.does == "runs" {
                (wall - cpu).max(0.0)
            } else {
                0.0
            };
            (counter.path, samples[index] as f64, wall, waited)
        })
        .collect();
    let samples: f64 = counters.iter().map(|(_, samples, ..)| samples).sum();
    let time: f64 = counters.iter().map(|(_, _, time, _)| time).sum();
    let waited = counters.iter().map(|(.., waited)| waited).sum::<f64>() / time;
    if samples < 50.0 {
        failures.push(format!("only {samples} samples: {folded:?}"));
    }
    for (path, seen, spent, _) in &counters {
        let (reported, true_share) = (seen / samples, spent / time);
        let deviation = (true_share * (1.0 - true_share) / samples).sqrt();
        if (reported - true_share).abs() > DEVIATIONS * deviation + BLUR + waited {
            failures.push(format!(
                "{path:?}: {:.1} % of {samples} samples, but {:.1} % of the time ({:.1} % of it waited for a processor)",
                100.0 * reported,
                100.0 * true_share,
                100.0 * waited
            ));
        }
    }
    failures.extend(fixture.assert_unharmed().err());
    failures.extend(fixture.finish().err());
    if failures.is_empty() {
        Ok(None)
    } else {
        Err(failures.join("\n"))
    }
}

fn impossible_in(folded: &Folded, possible: &Possible) -> impl Iterator<Item = String> {
    let stacks = folded.0.iter();
    stacks.filter_map(|stack| {
        let why = possible.find_impossible_in(&stack.innermost_first())?;
        Some(format!("impossible, {} times: {why}", stack.count))
    })
}

#[test]
fn shares_are_those_that_the_program_measures() {
    support::for_each_interpreter("shares", |interpreter| {
        compare_shares(interpreter, "flat", &["-d", "2", "-r", "1000"])
    });
}

/// The program's cycle is as long as the time between two samples.
#[test]
fn a_program_in_step_with_the_samples_does_not_mislead() {
    compare_shares(any_interpreter(), "flat", &["-d", "4", "-r", "100"]).expect("right shares");
}

#[test]
fn own_time_and_that_of_callees_are_told_apart() {
    compare_shares(any_interpreter(), "nested", &["-d", "3", "-r", "500"]).expect("right shares");
}

#[test]
fn threads_have_their_own_shares() {
    let options = ["-d", "3", "-r", "500", "--threads"];
    compare_shares(any_interpreter(), "threads", &options).expect("right shares");
}

#[test]
fn sleep_counts_only_when_asked_for() {
    let options = ["-d", "3", "-r", "500"];
    compare_shares(any_interpreter(), "sleeping", &options).expect("right shares");
    let options = ["-d", "3", "-r", "500", "--idle"];
    compare_shares(any_interpreter(), "sleeping", &options).expect("right shares");
}

fn check_thrash(interpreter: &Interpreter, options: &[&str]) -> Result<Option<String>, String> {
    let fixture = match Fixture::start(&Program::load("thrash"), interpreter)? {
        Started::Ready(fixture) => fixture,
        Started::Skipped(why) => return Ok(Some(why)),
    };
    let possible = Possible::parse(&fixture.truth.extra)?;
    let before = fixture.progress();
    let folded = Recorder::start(fixture.pid(), options)
        .finish()
        .expect_complete();
    let mut failures: Vec<_> = impossible_in(&folded, &possible).take(10).collect();
    for name in &possible.threads {
        let is_there = |stack: &FoldedStack| {
            let thread = stack.thread.as_ref();
            thread.is_some_and(|(_, found)| found == name) && !stack.frames.is_empty()
        };
        if folded.count(is_there) == 0 {
            failures.push(format!("thread {name:?} is missing"));
        }
    }
    let torn = folded.count(|stack| stack.markers.iter().any(|marker| marker.contains("torn")));
    if torn * 20 > folded.samples() {
        failures.push(format!("{torn} of {} torn", folded.samples()));
    }
    failures.extend(fixture.assert_unharmed().err());
    if fixture.progress() <= before {
        failures.push(format!("no progress after {before:?} rounds"));
    }
    failures.extend(fixture.finish().err());
    if failures.is_empty() {
        Ok(None)
    } else {
        Err(failures.join("\n"))
    }
}

#[test]
fn no_recording_shows_a_stack_that_never_was() {
    support::for_each_interpreter("thrash", |interpreter| {
        check_thrash(interpreter, &["-d", "2", "-r", "1000", "-t", "--idle"])
    });
}

#[test]
fn no_recording_with_stops_does_either() {
    let options = ["-d", "2", "-r", "200", "-t", "--idle", "--blocking"];
    check_thrash(any_interpreter(), &options).expect("only possible stacks");
}

/// Stopping a thread is not what it waits for.
#[test]
fn a_thread_that_is_stopped_to_be_read_is_active_all_the_same() {
    let fixture = start("deep_cpu", &[]);
    let options = ["-d", "1", "-r", "100", "--blocking"];
    let recorder = Recorder::start(fixture.pid(), &options);
    let folded = recorder.finish().expect_complete();
    // The thread that has reported to us may still be on its way.
    let samples = folded.count_with("descend");
    assert!((90..=101).contains(&samples), "{samples}: {folded:?}");
    assert_unharmed(fixture);
}

#[test]
fn a_duration_is_kept() {
    let fixture = start("deep_cpu", &[]);
    let recorded = Recorder::start(fixture.pid(), &["-d", "1500ms", "-r", "100"]).finish();
    let folded = recorded.expect_complete();
    assert!(
        recorded.took >= Duration::from_millis(1500),
        "{recorded:#?}"
    );
    assert!(recorded.took < Duration::from_secs(10), "{recorded:#?}");
    // What was not let run in time is lost, and its time is given to the next sample.
    let samples = folded.samples();
    assert!((140..=151).contains(&samples), "{samples}: {recorded:#?}");
    assert!(recorded.stderr.contains(" samples in "), "{recorded:#?}");
    assert_eq!(folded.count_with("burn"), samples, "{folded:?}");
    assert_unharmed(fixture);
}

#[test]
fn signals_end_it_and_leave_what_there_is() {
    let fixture = start("deep_cpu", &[]);
    for signal in live::ending_signals() {
        let mut recorder = Recorder::start(fixture.pid(), &[]);
        let before = recorder.wait_for("it has samples", |folded| folded.samples() > 5);
        recorder.signal(signal);
        let folded = recorder.finish().expect_complete();
        assert!(folded.samples() >= before.samples(), "{signal}: {folded:?}");
        assert_at_large(fixture.pid());
    }
    assert_unharmed(fixture);
}

#[test]
fn asked_for_what_there_is_it_writes_that_and_goes_on() {
    let fixture = start("deep_cpu", &[]);
    let mut recorder = Recorder::start(fixture.pid(), &[]);
    let first = recorder.wait_for("it has samples", |folded| folded.samples() > 5);
    let second = recorder.wait_for("it has more", |folded| folded.samples() > first.samples());
    let last = recorder.interrupt().expect_complete();
    assert!(last.samples() >= second.samples(), "{last:?}");
    assert_unharmed(fixture);
}

#[test]
fn killed_it_leaves_the_target_alone() {
    let fixture = start("thrash", &[]);
    for options in [&["-r", "1000"][..], &["-r", "500", "--blocking", "--idle"]] {
        let mut recorder = Recorder::start(fixture.pid(), options);
        recorder.wait_for("it has samples", |folded| folded.samples() > 5);
        recorder.kill();
        wait_until("no thread is stopped", || {
            let statuses = live::statuses(fixture.pid());
            let states = statuses.iter().map(|status| live::field(status, "State"));
            let mut states = states.map(|state| state.starts_with(['T', 't']));
            states.all(|is_stopped| !is_stopped)
        });
        assert_at_large(fixture.pid());
    }
    assert_unharmed(fixture);
}

#[test]
fn the_end_of_the_target_is_the_end_of_the_recording() {
    let fixture = start("deep_cpu", &[]);
    let mut recorder = Recorder::start(fixture.pid(), &[]);
    let before = recorder.wait_for("it has samples", |folded| folded.samples() > 5);
    fixture.finish().expect("it ends as it should");
    let folded = recorder.finish().expect_complete();
    assert!(folded.samples() >= before.samples(), "{folded:?}");
}

/// Killed, and nobody has asked how it ended: a zombie is an end too.
#[test]
fn a_target_that_is_killed_is_the_end_too() {
    let (mut target, _) = start_turns();
    let mut recorder = Recorder::start(target.pid(), &[]);
    let before = recorder.wait_for("it has samples", |folded| folded.samples() > 5);
    target.signal(Signal::SIGKILL);
    let folded = recorder.finish().expect_complete();
    assert!(folded.samples() >= before.samples(), "{folded:?}");
    // Its standard output has ended with it.
    assert_eq!(target.line(), "");
}

#[test]
fn a_target_without_a_single_sample_is_no_process() {
    let path = any_interpreter().path.to_str().expect("a path in UTF-8");
    for arguments in [
        &["-o", "-", "-f", "folded", "--", "true"][..],
        &["-o", "-", "-f", "folded", "--", path, "-S", "-c", ""],
    ] {
        // Python may live long enough for a first sample, of its start.
        let answer = ask(&[&["record"], arguments].concat()).expect_one_of(&[0, 3]);
        if answer.code == Some(3) {
            assert_eq!(answer.stdout, "");
        } else {
            assert!(arguments.contains(&path), "{answer:#?}");
        }
    }
    let mut ended = Command::new("true").spawn().expect("true is there");
    let pid = ended.id().to_string();
    wait_until("it has ended", || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        live::field(&status, "State").starts_with('Z')
    });
    ask(&["record", "-o", "-", "-d", "1", "--pid", &pid]).expect(3);
    ended.wait().expect("it is our own child");
    ask(&["record", "-o", "-", "-d", "1", "--pid", &pid]).expect(3);
    ask(&["record", "-o", "-", "-d", "1", "--pid", "4194304"]).expect(3);
}

#[test]
fn an_output_that_can_not_be_written_fails_before_the_target_is_touched() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let marker = folder.path().join("started");
    let marker = marker.to_str().expect("a path in UTF-8");
    let folder = folder.path().to_str().expect("a path in UTF-8");
    for output in ["/nonexistent/flame.svg", folder, "/proc/self/none"] {
        let arguments = ["record", "-o", output, "-f", "folded", "-d", "1"];
        let answer = ask(&[&arguments[..], &["--", "touch", marker]].concat()).expect(74);
        assert!(answer.stderr.contains(output), "{answer:#?}");
        // Not even the pid matters yet.
        ask(&[&arguments[..], &["--pid", "4194304"]].concat()).expect(74);
    }
    assert!(fs::metadata(marker).is_err(), "it was started");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let fixture = start("deep_cpu", &[]);
    let pid = fixture.pid().to_string();
    let mut child = Command::new(env!("CARGO_BIN_EXE_stuckspy"))
        .args([
            "record", "-o", "-", "-f", "folded", "-d", "300ms", "--pid", &pid,
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("stuckspy can be started");
    drop(child.stdout.take());
    let mut stderr = String::new();
    let mut errors = child.stderr.take().expect("it is piped");
    errors.read_to_string(&mut stderr).expect("it is text");
    let status = child.wait().expect("it is our own child");
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    assert_unharmed(fixture);
}

#[test]
fn standard_output_has_the_profile_and_nothing_else() {
    let fixture = start("deep_cpu", &[]);
    let pid = fixture.pid().to_string();
    let arguments = [
        "record", "-o", "-", "-f", "folded", "-d", "500ms", "--pid", &pid,
    ];
    let answer = ask(&arguments).expect(0);
    let folded = Folded::parse(&answer.stdout).expect("folded stacks");
    assert!(folded.samples() > 0, "{answer:#?}");
    assert_unharmed(fixture);
}

/// A terminal carries both streams as one, and kubectl and docker change line ends on it.
#[test]
fn a_recording_is_not_for_a_terminal() {
    let mut shell = Command::new(&any_interpreter().path);
    let spawn = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)";
    shell.args(["-c", spawn, env!("CARGO_BIN_EXE_stuckspy")]);
    // Pid 1 is there, and is not looked at: this is told before.
    let output = shell.args(["record", "-o", "-", "--pid", "1"]).output();
    let output = output.expect("it can be started");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("-o - > flame.svg"), "{said}");
    assert!(said.contains("kubectl stuckspy record"), "{said}");
}

#[test]
fn a_program_that_it_started_ends_with_it() {
    let interpreter = any_interpreter().path.to_str().expect("a path in UTF-8");
    let program = "def burn():\n    while True:\n        pass\n\nburn()";
    let arguments = ["-s", "-d", "1", "--", interpreter, "-S", "-c", program];
    let recorded = Recorder::start_with(&arguments, Stdio::null()).finish();
    let folded = recorded.expect_complete();
    assert!(folded.count_with("burn") > 0, "{folded:?} {recorded:#?}");
    let stack = folded.0.iter().find(|stack| stack.has("burn"));
    let (pid, title) = stack.and_then(|stack| stack.process.clone()).expect("-s");
    assert!(title.contains("burn"), "{title}");
    wait_until("it has ended", || {
        kill(Pid::from_raw(pid), None).is_err() || !live::all_in_state(pid, 'R')
    });
}

fn start_turns() -> (Target, i32) {
    let mut command = Command::new(&any_interpreter().path);
    let command = command.args(["-S", "-E"]).arg(hostile("turns.py"));
    let (target, line) = Target::start_and_listen(command);
    let pid = line.parse().expect("its pid");
    (target, pid)
}

#[test]
fn a_program_that_replaces_itself_is_followed() {
    let (mut target, pid) = start_turns();
    let mut recorder = Recorder::start(pid, &[]);
    let before = recorder.wait_for("it is in first", |folded| folded.count_with("first") > 0);
    target.say("exec");
    assert_eq!(target.line(), pid.to_string());
    recorder.wait_for("it is in second", |folded| folded.count_with("second") > 0);
    let folded = recorder.interrupt().expect_complete();
    assert!(folded.count_with("first") >= before.count_with("first"));
    let both = folded.count(|stack| stack.has("first") && stack.has("second"));
    assert_eq!(both, 0, "{folded:?}");
    target.assert_unharmed();
}

#[test]
fn a_child_is_followed_when_asked_for_and_only_then() {
    let (mut target, pid) = start_turns();
    let mut tree = Recorder::start(pid, &["-s"]);
    let mut alone = Recorder::start(pid, &[]);
    for recorder in [&mut tree, &mut alone] {
        recorder.wait_for("it is in first", |folded| folded.count_with("first") > 0);
    }
    target.say("fork");
    let child: i32 = target.line().parse().expect("its pid");
    alone.wait_for("it is in parent", |folded| folded.count_with("parent") > 5);
    tree.wait_for("both are in it", |folded| {
        folded.count_with("parent") > 5 && folded.count_with("child") > 5
    });
    assert_at_large(child);
    let alone = alone.interrupt().expect_complete();
    assert_eq!(alone.count_with("child"), 0, "{alone:?}");
    let tree = tree.interrupt().expect_complete();
    for (function, of) in [("first", pid), ("parent", pid), ("child", child)] {
        let others = tree.count(|stack| {
            let owner = stack.process.as_ref().map(|&(pid, _)| pid);
            stack.has(function) && owner != Some(of)
        });
        assert_eq!(others, 0, "{function}: {tree:?}");
    }
    target.assert_unharmed();
}

#[test]
fn a_stopped_target_stands_still_and_goes_on() {
    let fixture = start("deep_cpu", &[]);
    let mut recorder = Recorder::start(fixture.pid(), &[]);
    recorder.wait_for("it has samples", |folded| folded.samples() > 5);
    let target = Pid::from_raw(fixture.pid());
    kill(target, Signal::SIGSTOP).expect("it is ours");
    wait_until("it is stopped", || live::all_in_state(fixture.pid(), 'T'));
    // What came before the stop is in what is sent at the next tenth of a second; then there is no more.
    let mut stopped = pass(&mut recorder, 30);
    for _ in 0..2 {
        let later = pass(&mut recorder, 30);
        assert_eq!(
            later.samples(),
            stopped.samples(),
            "a stopped thread is not active"
        );
        stopped = later;
    }
    assert!(live::all_in_state(fixture.pid(), 'T'), "it was let go");
    kill(target, Signal::SIGCONT).expect("it is ours");
    recorder.wait_for("it goes on", |folded| {
        folded.samples() > stopped.samples() + 5
    });
    recorder.interrupt().expect_complete();
    assert_unharmed(fixture);
}

/// What there is when the sampler has taken `ticks` samples more.
fn pass(recorder: &mut Recorder, ticks: u64) -> Folded {
    recorder.report();
    let before = recorder.taken();
    let mut folded = recorder.report();
    wait_until("samples are taken", || {
        folded = recorder.report();
        recorder.taken() >= before + ticks
    });
    folded
}

#[test]
fn programs_that_never_stay_do_it_no_harm() {
    for (program, options) in [
        ("execs.py", &["-d", "1"][..]),
        ("forks.py", &["-d", "1", "-s"]),
    ] {
        let mut command = Command::new(&any_interpreter().path);
        let command = command.args(["-S", "-E"]).arg(hostile(program));
        let (mut target, _) = Target::start_and_listen(command);
        let recorded = Recorder::start(target.pid(), options).finish();
        recorded.expect_complete();
        assert!(recorded.took < Duration::from_secs(10), "{recorded:#?}");
        target.assert_unharmed();
    }
}
