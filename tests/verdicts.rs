//! What `stuckspy diagnose` thinks of programs that hang in every way that is told so far, and of others that only look like it.

mod support;

#[path = "support/live.rs"]
mod live;

use std::process::Command;
use std::time::Duration;

use live::{Target, any_interpreter, ask_about, is_root, wait_until};
use serde_json::Value;
use support::fixture::{Fixture, Started};
use support::program::{self, Program};

/// Long enough for a healthy program to be left alone, short enough for a test.
const THRESHOLD: &str = "300ms";

fn diagnose(pid: i32) -> Value {
    let options = ["--json", "--threshold", THRESHOLD];
    ask_about("diagnose", pid, &options)
        .expect_one_of(&[0, 1])
        .json()
}

/// Starts a program of `fixtures/programs/waits`, which says a line when it is about to wait.
fn start(name: &str) -> (Target, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = program::folder().join("waits").join(format!("{name}.py"));
    let mut command = Command::new(&any_interpreter().path);
    command
        .arg(path)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("TMPDIR", folder.path());
    let (target, _) = Target::start_and_listen(&mut command);
    (target, folder)
}

/// Waits for a finding, which must be the only one and be like this.
fn expect_finding(pid: i32, verdict: &str, confidence: &str) -> Value {
    let mut document = Value::Null;
    wait_until(&format!("{verdict} is found in {pid}"), || {
        document = diagnose(pid);
        document["findings"]
            .as_array()
            .is_some_and(|all| !all.is_empty())
    });
    let findings = document["findings"].as_array().expect("a list");
    assert_eq!(findings.len(), 1, "{findings:#?}");
    assert_eq!(findings[0]["verdict"], verdict, "{:#}", findings[0]);
    assert_eq!(findings[0]["confidence"], confidence, "{:#}", findings[0]);
    document
}

macro_rules! hangs {
    ($($name:ident: $verdict:literal $confidence:literal)*) => {$(
        #[test]
        fn $name() {
            let (mut target, _folder) = start(stringify!($name));
            expect_finding(target.pid(), $verdict, $confidence);
            target.assert_unharmed();
        }
    )*};
}

hangs! {
    pipe_alone: "hang-pipe" "proven"
    fifo_open: "hang-pipe" "possible"
    fifo_open_write: "hang-pipe" "possible"
    flock: "hang-file-lock" "possible"
    pipe_write: "hang-pipe" "possible"
    terminal_write: "hang-pipe" "likely"
    recv_alone: "hang-network" "proven"
    recv_tcp: "hang-network" "likely"
    recv_again: "hang-network" "likely"
    recv_pushed: "hang-network" "possible"
    recv_udp: "hang-network" "possible"
    connect_tcp: "hang-network" "likely"
    poll_endless: "hang-network" "likely"
    epoll_single: "hang-network" "likely"
    resolver: "hang-dns" "likely"
}

/// They wait beyond the threshold, and nothing is wrong with that: they are idle, or somebody goes on, or a time is set.
#[test]
fn healthy_waits_are_left_alone() {
    let programs = [
        "accept",
        "accept_select",
        "child",
        "child_any",
        "child_pidfd",
        "epoll_many",
        "eventfd",
        "fifo_read",
        "inotify",
        "pause",
        "pipe_read",
        "pipe_threads",
        "poll_many",
        "poll_quiet",
        "recv_poll",
        "recv_forked",
        "recv_served",
        "recv_timeout",
        "recv_unix",
        "select_many",
        "send_tcp",
        "sigtimedwait",
        "sleep",
        "sleep_select",
        "terminal",
        "timerfd",
    ];
    for name in programs {
        let (mut target, _folder) = start(name);
        let pid = target.pid();
        let mut document = Value::Null;
        // Beyond the threshold, so that it is judged and not just taken to work.
        wait_until(&format!("{name} waits"), || {
            document = diagnose(pid);
            !live::is_brief(&document, &document["processes"][0]["threads"][0])
        });
        assert_eq!(document["findings"], Value::Array(Vec::new()), "{name}");
        let class = document["processes"][0]["threads"][0]["verdict"]["class"].as_str();
        assert!(
            matches!(class, Some("idle" | "waiting")),
            "{name}: {class:?}"
        );
        target.assert_unharmed();
    }
}

fn start_locks(name: &str) -> Option<Fixture> {
    match Fixture::start(&Program::load(&format!("locks/{name}")), any_interpreter()) {
        Ok(Started::Ready(fixture)) => Some(fixture),
        Ok(Started::Skipped(_)) => None,
        Err(why) => panic!("{name}: {why}"),
    }
}

/// The tid of the thread with this name, as the program itself knows it.
fn tid_of(fixture: &Fixture, thread: &str) -> Value {
    let waits = fixture.truth.extra["waits"].as_array().expect("a list");
    let of = |wait: &&Value| wait["thread"] == thread;
    waits.iter().find(of).expect("it says so")["tid"].clone()
}

#[test]
fn threads_that_hold_what_the_other_wants_are_a_deadlock() {
    let Some(fixture) = start_locks("deadlock") else {
        return;
    };
    let mut findings = Vec::new();
    wait_until("both are found", || {
        let document = diagnose(fixture.pid());
        findings = document["findings"].as_array().cloned().unwrap_or_default();
        findings.len() == 2
    });
    let roots: Vec<_> = ["one", "other", "oneself"]
        .map(|name| tid_of(&fixture, name))
        .into();
    for finding in &findings {
        assert_eq!(
            (&finding["verdict"], &finding["confidence"]),
            (&"deadlock".into(), &"likely".into())
        );
        assert!(roots.contains(&finding["root"]["tid"]), "{finding:#}");
        let chain = finding["chain"].as_array().expect("a list");
        // The thread that wants what it holds itself is a circle of one.
        let length = if finding["root"]["tid"] == roots[2] {
            1
        } else {
            2
        };
        assert_eq!(chain.len(), length, "{finding:#}");
        assert_eq!(chain[length - 1]["on"]["tid"], chain[0]["tid"]);
    }
    fixture.assert_unharmed().unwrap();
    fixture.finish().unwrap();
}

/// Longer than the program has been there: only what needs no threshold is found.
const NEVER: &str = "1h";

fn start_crosswise(kind: &str) -> Target {
    let path = program::folder().join("clocks/crosswise.py");
    let mut command = Command::new(&any_interpreter().path);
    command
        .arg(path)
        .arg(kind)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    Target::start_and_listen(&mut command).0
}

/// A stop wakes all threads, which then wait anew: their own clocks say that they wait for an instant only.
#[test]
fn a_closed_cycle_needs_no_threshold_whatever_woke_its_threads() {
    for (kind, confidence) in [("reentrant", "proven"), ("plain", "likely")] {
        let mut target = start_crosswise(kind);
        let pid = nix::unistd::Pid::from_raw(target.pid());
        let mut document = Value::Null;
        wait_until("both takers wait for each other", || {
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).unwrap();
            document = ask_about("diagnose", target.pid(), &["--json", "--threshold", NEVER])
                .expect_one_of(&[0, 1])
                .json();
            document["findings"]
                .as_array()
                .is_some_and(|all| !all.is_empty())
        });
        let findings = document["findings"].as_array().expect("a list");
        assert_eq!(findings.len(), 1, "{findings:#?}");
        assert_eq!(findings[0]["verdict"], "deadlock", "{findings:#?}");
        assert_eq!(findings[0]["confidence"], confidence, "{findings:#?}");
        target.assert_unharmed();
    }
}

/// The healthy twin: whoever gives up in time is in no cycle, at whichever moment it is looked at.
#[test]
fn locks_taken_crosswise_with_a_timeout_are_no_deadlock() {
    let mut target = start_crosswise("timeouts");
    for _ in 0..10 {
        let options = ["--json", "--threshold", NEVER, "--window", "0"];
        let document = ask_about("diagnose", target.pid(), &options)
            .expect_one_of(&[0])
            .json();
        assert_eq!(document["findings"], Value::Array(Vec::new()));
    }
    target.assert_unharmed();
}

#[test]
fn a_c_function_that_keeps_the_gil_starves_the_others() {
    let Some(fixture) = start_locks("gil") else {
        return;
    };
    let mut document = Value::Null;
    wait_until("it is found", || {
        document = diagnose(fixture.pid());
        let findings = document["findings"].as_array();
        findings.is_some_and(|all| {
            all.iter()
                .any(|one| one["blocks"][0]["tid"] == tid_of(&fixture, "waiter"))
        })
    });
    let finding = &document["findings"][0];
    assert_eq!(
        (&finding["verdict"], &finding["confidence"]),
        (&"gil-held".into(), &"proven".into()),
        "{finding:#}"
    );
    fixture.assert_unharmed().unwrap();
    fixture.finish().unwrap();
}

#[test]
fn a_lock_that_was_held_at_the_fork_is_never_released() {
    let Some(fixture) = start_locks("forked") else {
        return;
    };
    let waits = &fixture.truth.extra["waits"];
    let child = waits[0]["pid"]
        .as_i64()
        .and_then(|pid| i32::try_from(pid).ok())
        .expect("a pid");
    let document = expect_finding(child, "hang-lock", "proven");
    assert_eq!(document["findings"][0]["root"]["pid"], child);
    fixture.assert_unharmed().unwrap();
    fixture.finish().unwrap();
}

/// Starts a program of `fixtures/programs/hangs` that takes `mode`.
fn start_hang(name: &str, modes: &[&str]) -> Target {
    let path = program::folder().join("hangs").join(format!("{name}.py"));
    let mut command = Command::new(&any_interpreter().path);
    command
        .arg(path)
        .args(modes)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    Target::start_and_listen(&mut command).0
}

/// Nobody of its own process can release it; another one can, which works on.
#[test]
fn a_mutex_in_a_file_that_another_process_holds_is_no_hang_while_that_works() {
    let mut target = start_hang("mutex_file", &["healthy"]);
    let mut document = Value::Null;
    wait_until("it waits beyond the threshold", || {
        document = diagnose(target.pid());
        document["processes"][0]["threads"][0]["verdict"]["class"] == "waiting"
    });
    assert_eq!(document["findings"], Value::Array(Vec::new()));
    let holder = &document["processes"][0]["threads"][0]["wait"]["holder"];
    assert_eq!(holder["confidence"], "proven", "{document:#}");
    assert_ne!(holder["pid"], target.pid());
    target.assert_unharmed();
}

#[test]
fn a_mutex_in_a_file_whose_holder_hangs_leads_there() {
    let mut target = start_hang("mutex_file", &["stuck"]);
    let mut document = Value::Null;
    wait_until("it holds the other one up", || {
        document = diagnose(target.pid());
        document["findings"][0]["blocks"][0]["pid"] == target.pid()
    });
    let finding = &document["findings"][0];
    assert_eq!(
        (&finding["verdict"], &finding["confidence"]),
        (&"hang-pipe".into(), &"proven".into()),
        "{finding:#}"
    );
    let holder = &document["processes"][0]["threads"][0]["wait"]["holder"];
    assert_eq!(finding["root"]["pid"], holder["pid"], "{finding:#}");
    assert_eq!(finding["blocks"][0]["pid"], target.pid());
    target.assert_unharmed();
}

/// That nobody else has the other end is not proven while a descriptor is on its way to somebody.
#[test]
fn a_pipe_whose_other_end_is_in_flight_is_not_proven_to_be_lost() {
    for (mode, confidence) in [("held", "proven"), ("sent", "likely")] {
        let mut target = start_hang("pipe_in_flight", &[mode]);
        let document = expect_finding(target.pid(), "hang-pipe", confidence);
        let missing = &document["processes"][0]["threads"][0]["wait"]["missing"];
        assert_eq!(missing.is_array(), mode == "sent", "{missing}");
        target.assert_unharmed();
    }
}

#[test]
fn a_connection_that_was_not_accepted_names_whose_it_is_to_accept() {
    for family in [&["inet"][..], &["unix"]] {
        let mut own = start_hang("unaccepted", &[&["own"], family].concat());
        let document = expect_finding(own.pid(), "hang-network", "proven");
        let summary = document["findings"][0]["summary"].as_str().expect("a text");
        assert!(
            summary.contains("not accepted by this process, which listens for it"),
            "{summary}"
        );
        own.assert_unharmed();
        let mut other = start_hang("unaccepted", &[&["other"], family].concat());
        let mut wait = Value::Null;
        wait_until("the listener is found", || {
            let document = diagnose(other.pid());
            wait = document["processes"][0]["threads"][0]["wait"].clone();
            wait["resource"]["is_unaccepted"] == true
        });
        assert_eq!(wait["holder"]["confidence"], "inferred", "{wait:#}");
        assert_ne!(wait["holder"]["pid"], other.pid());
        let text = ask_about("dump", other.pid(), &[]).stdout;
        assert!(text.contains("in the accept queue of process"), "{text}");
        other.assert_unharmed();
    }
}

/// A parent that waits for a stopped child is held up by it: one finding, with the child as its root.
#[test]
fn a_stopped_child_is_the_root() {
    if !is_root("a child that is stopped") {
        return;
    }
    let (mut target, _folder) = start("child");
    let document = diagnose(target.pid());
    let wait = &document["processes"][0]["threads"][0]["wait"];
    let child = wait["resource"]["pid"].as_i64().expect("a child");
    let child = i32::try_from(child).expect("a pid");
    let signal = |signal| {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child), signal).expect("it is there")
    };
    signal(nix::sys::signal::Signal::SIGSTOP);
    wait_until("it is found", || {
        let document = diagnose(target.pid());
        let finding = &document["findings"][0];
        finding["verdict"] == "stopped"
            && finding["root"]["pid"] == child
            && finding["blocks"][0]["pid"] == target.pid()
    });
    signal(nix::sys::signal::Signal::SIGCONT);
    target.assert_unharmed();
}

#[test]
fn a_page_that_nobody_brings_is_as_bad_as_a_disk_that_does_not_answer() {
    if !is_root("memory that nobody serves") {
        return;
    }
    let (mut target, _folder) = start("page_fault");
    let document = expect_finding(target.pid(), "hang-disk", "likely");
    assert_eq!(document["findings"][0]["root"]["pid"], target.pid());
    target.assert_unharmed();
}

#[test]
fn a_stop_is_told_once_for_the_whole_process() {
    let (mut target, _folder) = start("pipe_threads");
    target.signal(nix::sys::signal::Signal::SIGSTOP);
    wait_until("it is stopped", || live::all_in_state(target.pid(), 'T'));
    let document = expect_finding(target.pid(), "stopped", "proven");
    assert_eq!(document["findings"][0]["root"]["pid"], target.pid());
    let threads = document["processes"][0]["threads"]
        .as_array()
        .expect("a list");
    assert!(
        threads.len() > 1
            && threads
                .iter()
                .all(|thread| thread["verdict"]["class"] == "stopped")
    );
    target.signal(nix::sys::signal::Signal::SIGCONT);
    wait_until("it goes on", || !live::all_in_state(target.pid(), 'T'));
    target.assert_unharmed();
}

/// Of a process that has ended nothing can be said but that.
#[test]
fn what_has_ended_is_unknown() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut command = Command::new(&any_interpreter().path);
    command
        .arg(program::folder().join("waits/zombie.py"))
        .env("TMPDIR", folder.path());
    let (target, line) = Target::start_and_listen(&mut command);
    let told: Value = serde_json::from_str(&line).expect("it says JSON");
    let pid = told["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
    let options = ["--json", "--threshold", THRESHOLD];
    let answer = ask_about("diagnose", pid.expect("a pid"), &options).expect(5);
    let document = answer.json();
    assert_eq!(document["findings"], Value::Array(Vec::new()));
    let verdict = &document["processes"][0]["threads"][0]["verdict"];
    assert_eq!(
        (&verdict["class"], &verdict["confidence"]),
        (&"unknown".into(), &"proven".into())
    );
    target.finish();
}

/// What a client outside of its tree waits for is looked into, and nothing else that is stuck there is told.
#[test]
fn a_server_of_this_machine_is_looked_into() {
    let (mut target, _folder) = start("recv_tcp");
    let document = expect_finding(target.pid(), "hang-network", "likely");
    let holder = document["processes"][0]["threads"][0]["wait"]["holder"]["pid"].as_i64();
    let seen: Vec<_> = document["processes"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|process| process["pid"].as_i64())
        .collect();
    assert!(holder.is_some() && seen.contains(&holder), "{document:#}");
    let options = ["--json", "--threshold", THRESHOLD, "--no-children"];
    let alone = ask_about("diagnose", target.pid(), &options)
        .expect(1)
        .json();
    let related = &alone["processes"][1];
    assert_eq!(
        (related["pid"].as_i64(), &related["related"]),
        (holder, &Value::Bool(true))
    );
    target.assert_unharmed();
}

#[test]
fn a_probe_gets_an_exit_code_and_nothing_else() {
    let (mut target, _folder) = start("pipe_alone");
    let pid = target.pid();
    expect_finding(pid, "hang-pipe", "proven");
    let answer = ask_about("diagnose", pid, &["--quiet", "--threshold", THRESHOLD]).expect(1);
    assert_eq!((answer.stdout.as_str(), answer.stderr.as_str()), ("", ""));
    let answer = ask_about("diagnose", pid, &["--quiet", "--threshold", "1h"]).expect(0);
    assert_eq!((answer.stdout.as_str(), answer.stderr.as_str()), ("", ""));
    assert!(answer.took < Duration::from_secs(30));
    target.assert_unharmed();
}

/// A place of a program's own can be told to be idle.
#[test]
fn further_rules_go_first() {
    let (mut target, folder) = start("recv_tcp");
    let pid = target.pid();
    expect_finding(pid, "hang-network", "likely");
    let rules = folder.path().join("rules.toml");
    let text =
        "[[idle]]\nmodule = '__main__'\nfunction = '<module>'\nwhy = 'it waits for its master'\n";
    std::fs::write(&rules, text).unwrap();
    let path = rules.to_str().expect("a path in UTF-8");
    let answer = ask_about(
        "diagnose",
        pid,
        &["--threshold", THRESHOLD, "--json", "--rules", path],
    )
    .expect(0);
    let verdict = &answer.json()["processes"][0]["threads"][0]["verdict"];
    assert_eq!(verdict["class"], "idle");
    assert!(
        verdict["summary"]
            .as_str()
            .is_some_and(|text| text.ends_with("it waits for its master"))
    );
    std::fs::write(&rules, "idle = 7").unwrap();
    let answer = ask_about("diagnose", pid, &["--rules", path]).expect(2);
    assert!(answer.stderr.contains(path), "{answer:#?}");
    target.assert_unharmed();
}

#[test]
fn each_verdict_is_explained() {
    let answer = live::ask(&["explain", "deadlock"]).expect(0);
    assert!(answer.stdout.starts_with("deadlock: "), "{answer:#?}");
    assert!(
        live::ask(&["explain"])
            .expect(0)
            .stdout
            .contains("## `hang-pipe`")
    );
    let answer = live::ask(&["explain", "hang"]).expect(2);
    assert!(answer.stderr.contains("hang-network"), "{answer:#?}");
}

/// Thaws a frozen cgroup whatever becomes of the test: what is frozen can't be killed.
struct Thaw(std::path::PathBuf);

impl Drop for Thaw {
    fn drop(&mut self) {
        let _ = std::fs::write(&self.0, "THAWED");
    }
}

#[test]
fn a_frozen_cgroup_is_a_stop() {
    if !is_root("a frozen cgroup") {
        return;
    }
    let mut command = Command::new(&any_interpreter().path);
    command
        .arg(program::folder().join("waits").join("frozen.py"))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let (mut target, line) = Target::start_and_listen(&mut command);
    if line.starts_with("skip") {
        return support::report_skipped("a frozen cgroup", &line);
    }
    let group = format!("/sys/fs/cgroup/freezer/stuckspy-{}", target.pid());
    let thaw = Thaw(std::path::Path::new(&group).join("freezer.state"));
    let line: Value = serde_json::from_str(&line).expect("it says what is to be seen");
    let child = line["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
    let document = expect_finding(child.expect("its child"), "stopped", "proven");
    let summary = document["findings"][0]["summary"].as_str();
    assert!(
        summary.is_some_and(|summary| summary.contains("frozen")),
        "{document:#}"
    );
    let advice = document["findings"][0]["advice"].as_str();
    assert!(
        advice.is_some_and(|advice| advice.starts_with("thaw cgroup /stuckspy-")),
        "{document:#}"
    );
    drop(thaw);
    target.say("");
    wait_until("it has cleaned up", || {
        !std::path::Path::new(&group).exists()
    });
}
