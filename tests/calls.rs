//! What `stuckspy diagnose` thinks of calls that wait in slices: those that make no progress, and those that do the same by design.

mod support;

#[path = "support/live.rs"]
mod live;

use std::process::Command;

use live::{Target, any_interpreter, ask_about};
use serde_json::Value;
use support::interpreter::{Interpreter, interpreters};
use support::{program, report_skipped};
use tempfile::TempDir;

/// Looks at healthy programs; each at another moment of what they do.
const LOOKS: usize = 4;

/// A program of `fixtures/programs/calls` that waits, or does the like and is well.
struct Running {
    target: Target,
    /// What it says that it is about: a port, a process.
    fact: String,
    _folder: TempDir,
}

impl Running {
    fn start(interpreter: &Interpreter, name: &str, mode: &str) -> Running {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = program::folder().join("calls").join(format!("{name}.py"));
        let mut command = Command::new(&interpreter.path);
        command
            .arg(path)
            .arg(mode)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("TMPDIR", folder.path());
        let (target, line) = Target::start_and_listen(&mut command);
        Running {
            target,
            fact: line.trim_start_matches("ready").trim().to_owned(),
            _folder: folder,
        }
    }

    fn diagnose(&self) -> Value {
        let options = ["--json", "--threshold", "1s", "--window", "1500ms"];
        ask_about("diagnose", self.target.pid(), &options)
            .expect_one_of(&[0, 1])
            .json()
    }

    /// The only finding, which must be like this, with the thread that it is about.
    #[track_caller]
    fn expect(&self, verdict: &str, confidence: &str) -> (Value, Value) {
        let document = self.diagnose();
        let findings = document["findings"].as_array().expect("a list");
        assert_eq!(findings.len(), 1, "{document:#}");
        assert_eq!(
            (&findings[0]["verdict"], &findings[0]["confidence"]),
            (&verdict.into(), &confidence.into()),
            "{:#}",
            findings[0]
        );
        let main = &document["processes"][0]["threads"][0];
        assert_eq!(main["name"], "MainThread");
        (findings[0].clone(), main.clone())
    }
}

#[track_caller]
fn expect_text(value: &Value, text: &str) {
    let all = value.to_string();
    assert!(all.contains(text), "no {text:?} in {value:#}");
}

/// Each attempt is refused; which address that was about say the variables of the calls that raised the error.
#[test]
fn attempts_that_end_with_an_error_on_every_version() {
    let mut seen = 0;
    for interpreter in interpreters() {
        // 2.7 has other exceptions.
        if interpreter.version.major == 2 {
            continue;
        }
        let mut running = Running::start(interpreter, "refused", "hung");
        let (finding, main) = running.expect("hang-network", "likely");
        let address = format!("127.0.0.1:{}", running.fact);
        expect_text(&finding["summary"], &address);
        expect_text(&finding["summary"], "ConnectionRefusedError (errno 111)");
        assert_eq!(
            main["wait"]["call"]["function"].as_str().map(last_part),
            Some("connect_with_retries")
        );
        let slices = &main["wait"]["slices"];
        assert!(slices["count"].as_u64() > Some(5), "{slices:#}");
        assert_eq!(slices["errors"][0]["errno"], 111);
        running.target.assert_unharmed();
        seen += 1;
    }
    if seen == 0 {
        report_skipped("attempts that end with an error", "no Python 3.6 or later");
    }
}

fn last_part(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

#[test]
fn an_error_that_is_kept_shows_it_too() {
    let mut running = Running::start(any_interpreter(), "kept_error", "hung");
    let (finding, _) = running.expect("hang-network", "likely");
    expect_text(&finding["summary"], "ConnectionRefusedError");
    running.target.assert_unharmed();
}

#[test]
fn a_call_that_is_longer_than_its_own_limit() {
    let mut running = Running::start(any_interpreter(), "over_limit", "hung");
    let (finding, _) = running.expect("stalled", "likely");
    expect_text(&finding["summary"], "longer than its timeout of 200ms");
    running.target.assert_unharmed();
}

/// Neither asks the kernel to wait for the lock, so that only the files show what they are about.
#[test]
fn file_locks_that_are_tried_again_and_again() {
    for (name, file) in [("file_lock_polled", "job.lock"), ("sqlite_busy", "jobs.db")] {
        let mut running = Running::start(any_interpreter(), name, "hung");
        // The holder reads from a pipe that the waiting process has: neither goes on.
        let (finding, main) = running.expect("deadlock", "likely");
        expect_text(&finding["summary"], file);
        assert_eq!(main["wait"]["kind"], "file-lock");
        assert_eq!(main["wait"]["holder"]["pid"].to_string(), running.fact);
        running.target.assert_unharmed();
    }
}

#[test]
fn a_lock_file_whose_process_has_ended() {
    let mut running = Running::start(any_interpreter(), "lock_file", "hung");
    let (finding, main) = running.expect("hang-file-lock", "likely");
    expect_text(&finding["summary"], "spool.lock");
    assert_eq!(main["wait"]["holder"]["is_gone"], true, "{main:#}");
    assert_eq!(main["wait"]["holder"]["pid"].to_string(), running.fact);
    running.target.assert_unharmed();
}

#[test]
fn who_does_the_same_and_gets_somewhere_is_left_alone() {
    let twins = [
        "refused",
        "kept_error",
        "over_limit",
        "file_lock_polled",
        "sqlite_busy",
        "lock_file",
        "services",
    ];
    for name in twins {
        let mut running = Running::start(any_interpreter(), name, "healthy");
        for _ in 0..LOOKS {
            let document = running.diagnose();
            assert_eq!(document["findings"], Value::Array(Vec::new()), "{name}");
        }
        running.target.assert_unharmed();
    }
}
