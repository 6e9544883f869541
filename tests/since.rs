//! For how long a thread has been blocked is right at the first look, wherever the thread ran and wherever stuckspy runs.
//!
//! `STUCKSPY_SINCE_SECONDS` sets how long the threads are left blocked.

mod support;

#[path = "support/live.rs"]
mod live;

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use live::{Answer, find_tool, report_figures};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use rustix::time::{ClockId, clock_gettime};
use support::fixture::{Fixture, Started};
use support::interpreter::{Interpreter, interpreters};
use support::program::Program;
use support::report_skipped;
use support::truth::Account;

/// How long the threads are left blocked, unless the environment says otherwise.
const USUALLY: Duration = Duration::from_secs(3);
/// How far off the answer may be.
const TOLERANCE: Duration = Duration::from_secs(1);

/// CLOCK_MONOTONIC, as the fixtures read it.
fn now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(
        now.tv_sec.try_into().expect("after the start"),
        now.tv_nsec.try_into().expect("below a second"),
    )
}

fn duration() -> Duration {
    let seconds = env::var("STUCKSPY_SINCE_SECONDS").ok();
    seconds
        .map(|text| Duration::from_secs(text.parse().expect("a number of seconds")))
        .unwrap_or(USUALLY)
}

/// The processors that we may use.
fn processors() -> Vec<usize> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).expect("our own processors");
    (0..CpuSet::count())
        .filter(|&processor| allowed.is_set(processor) == Ok(true))
        .collect()
}

/// A thread that is blocked, and since when.
struct Blocked {
    what: String,
    fixture: Fixture,
    since: Duration,
}

impl Blocked {
    fn start(what: String, interpreter: &Interpreter) -> Result<Blocked, String> {
        let fixture = match Fixture::start(&Program::load("sleeper"), interpreter)? {
            Started::Ready(fixture) => fixture,
            Started::Skipped(why) => return Err(why),
        };
        let since = fixture.truth.extra["blocked_at"].as_u64();
        let since = Duration::from_nanos(since.expect("the program tells"));
        Ok(Blocked {
            what,
            fixture,
            since,
        })
    }

    fn account(&self) -> &Account {
        let name = Some("receive");
        let mut accounts = self.fixture.truth.threads.iter();
        accounts
            .find(|account| account.name.as_deref() == name)
            .expect("the thread is there")
    }

    /// Asks stuckspy on `processor`, or where the kernel likes, and compares.
    fn check(&self, processor: Option<usize>) -> Result<(), String> {
        let mut command = match processor {
            Some(processor) => {
                let mut command = Command::new("taskset");
                command.args(["-c", &processor.to_string(), env!("CARGO_BIN_EXE_stuckspy")]);
                command
            }
            None => Command::new(env!("CARGO_BIN_EXE_stuckspy")),
        };
        command.args(["dump", "--json", "--pid", &self.fixture.pid().to_string()]);
        let before = now();
        let output = command.output().map_err(|error| error.to_string())?;
        let after = now();
        let answer = Answer {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            took: after.saturating_sub(before),
        };
        let document = answer.expect(0).json();
        let threads = document["processes"][0]["threads"].as_array();
        let tid = self.account().tid;
        let thread = threads
            .into_iter()
            .flatten()
            .find(|thread| thread["tid"] == tid)
            .ok_or("the thread is missing")?;
        let wait = &thread["wait"];
        let milliseconds = |name: &str| wait[name].as_u64().map(Duration::from_millis);
        let told = milliseconds("since_ms").ok_or_else(|| format!("no since_ms: {wait}"))?;
        let error = milliseconds("since_error_ms").ok_or("no since_error_ms")?;
        let (least, most) = (
            before.saturating_sub(self.since),
            after.saturating_sub(self.since),
        );
        let off = if told < least {
            least.saturating_sub(told)
        } else {
            told.saturating_sub(most)
        };
        let figures = format!(
            "{}, asked on {}: blocked {least:.3?} to {most:.3?}, told {told:?} within {error:?} by {}: off by {off:?}",
            self.what,
            processor.map_or("any processor".to_owned(), |processor| format!(
                "processor {processor}"
            )),
            wait["since_source"]
        );
        report_figures(&figures);
        // Never longer than the stated error allows, in whole milliseconds. It may be shorter by the time that the thread still ran
        // after it had looked at the clock, which nobody knows.
        let is_too_long = told > most + error + Duration::from_millis(1);
        if off > TOLERANCE || is_too_long || error > TOLERANCE {
            return Err(figures);
        }
        Ok(())
    }

    fn finish(self) -> Result<(), String> {
        self.fixture.assert_unharmed()?;
        self.fixture.finish()
    }
}

/// The interpreter, started on one processor only.
fn pinned(folder: &Path, interpreter: &Interpreter, processor: usize) -> Interpreter {
    let path = folder.join(format!("on-{processor}"));
    let text = format!(
        "#!/bin/sh\nexec taskset -c {processor} '{}' \"$@\"\n",
        interpreter.path.display()
    );
    fs::write(&path, text).expect("there is room");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
    Interpreter {
        path,
        ..interpreter.clone()
    }
}

/// All threads are blocked at the same time, so that the wait is the same for all.
#[test]
fn blocked_since_is_right_at_the_first_look() {
    let has_record = Path::new("/proc/self/sched").exists();
    if !has_record {
        return report_skipped("blocked-since", "this kernel has no /proc/PID/sched");
    }
    let folder = tempfile::tempdir().unwrap();
    let processors = processors();
    let mut failures = Vec::new();
    let mut all = Vec::new();
    for interpreter in interpreters() {
        match Blocked::start(interpreter.label.clone(), interpreter) {
            Ok(blocked) => all.push((blocked, vec![None])),
            Err(why) => report_skipped(&format!("since on {}", interpreter.label), &why),
        }
    }
    if find_tool("taskset").is_some() {
        for &theirs in &processors {
            let interpreter = pinned(folder.path(), live::any_interpreter(), theirs);
            let what = format!("{} on processor {theirs}", interpreter.label);
            let ours = processors.iter().copied().map(Some).collect();
            all.push((Blocked::start(what, &interpreter).unwrap(), ours));
        }
    }
    for (blocked, ours) in all {
        // The length of the wait is what is tested: no state can be waited for.
        thread::sleep((blocked.since + duration()).saturating_sub(now()));
        for processor in ours {
            failures.extend(blocked.check(processor).err());
        }
        failures.extend(blocked.finish().err());
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
