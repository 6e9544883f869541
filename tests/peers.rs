//! What `stuckspy diagnose` thinks of waits for other processes through descriptors: the output of commands, full pipes, local servers, terminals.

mod support;

#[path = "support/live.rs"]
mod live;

use std::process::Command;

use live::{Target, any_interpreter, ask_about, wait_until};
use serde_json::Value;
use support::program;

/// Long enough for a healthy program to be left alone, short enough for a test.
const THRESHOLD: &str = "300ms";
/// Looks at a program that is well.
const LOOKS: usize = 5;

/// Starts a program of `fixtures/programs/hangs`, and gives the pids that it says.
fn start(name: &str, modes: &[&str]) -> (Target, Vec<i64>) {
    let path = program::folder().join("hangs").join(format!("{name}.py"));
    let mut command = Command::new(&any_interpreter().path);
    command
        .arg(path)
        .args(modes)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let (target, line) = Target::start_and_listen(&mut command);
    let words = line.split_whitespace().skip(1);
    (target, words.filter_map(|word| word.parse().ok()).collect())
}

fn diagnose(pid: i32) -> Value {
    let options = ["--json", "--threshold", THRESHOLD, "--window", "0"];
    ask_about("diagnose", pid, &options)
        .expect_one_of(&[0, 1])
        .json()
}

/// Waits for a finding that is like this and has its root in `root`, and is the only one.
fn expect_finding(target: &Target, verdict: &str, confidence: &str, root: i64) -> Value {
    let mut document = Value::Null;
    wait_until(&format!("{verdict} is found in {}", target.pid()), || {
        document = diagnose(target.pid());
        let mut findings = document["findings"].as_array().into_iter().flatten();
        let is_found = findings.any(|one| one["root"]["pid"] == root);
        is_found && waits_long(&document, root) && waits_long(&document, target.pid().into())
    });
    let findings = document["findings"].as_array().expect("a list");
    assert_eq!(findings.len(), 1, "{findings:#?}");
    assert_eq!(findings[0]["verdict"], verdict, "{:#}", findings[0]);
    assert_eq!(findings[0]["confidence"], confidence, "{:#}", findings[0]);
    document
}

fn expect_advice(document: &Value, part: &str) {
    let advice = document["findings"][0]["advice"].as_str();
    assert!(
        advice.is_some_and(|advice| advice.contains(part)),
        "{document:#}"
    );
}

/// Whether a thread of a process has waited beyond the threshold.
fn waits_long(document: &Value, pid: i64) -> bool {
    let processes = document["processes"].as_array();
    let mut processes = processes.into_iter().flatten();
    processes.any(|process| {
        let threads = process["threads"].as_array();
        process["pid"] == pid
            && threads.into_iter().flatten().any(|thread| {
                let since = thread["wait"]["since_ms"].as_u64();
                since.is_some_and(|since| since > 400)
            })
    })
}

/// Looks at a program that is well until one of its threads has waited beyond the threshold, and a few times more.
fn expect_silence(target: &Target, name: &str) -> Value {
    let pid = target.pid();
    let mut document = Value::Null;
    wait_until(&format!("{name} waits"), || {
        document = diagnose(pid);
        assert_eq!(document["findings"], Value::Array(Vec::new()), "{name}");
        waits_long(&document, pid.into())
    });
    for _ in 0..LOOKS {
        document = diagnose(pid);
        assert_eq!(document["findings"], Value::Array(Vec::new()), "{name}");
    }
    document
}

fn class_of(document: &Value, pid: i64) -> String {
    let processes = document["processes"].as_array().expect("a list");
    let process = processes.iter().find(|process| process["pid"] == pid);
    let thread = &process.expect("it is there")["threads"][0];
    thread["verdict"]["class"]
        .as_str()
        .expect("a text")
        .to_owned()
}

/// Ends what the program has left in the background, which is nobody's child.
fn end_keeper(document: &Value) {
    let processes = document["processes"].as_array().expect("a list");
    for process in processes {
        if process["title"] == "sleep 60"
            && let Some(pid) = process["pid"].as_i64()
            && let Ok(pid) = i32::try_from(pid)
        {
            let pid = nix::unistd::Pid::from_raw(pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }
}

#[test]
fn a_pipe_that_a_command_has_left_open_names_who_keeps_it() {
    for (modes, confidence) in [
        (&["left"][..], "likely"),
        (&["left", "two"], "likely"),
        (&["lines"], "possible"),
    ] {
        let (mut target, pids) = start("command_output", modes);
        let root = target.pid().into();
        let document = expect_finding(&target, "hang-pipe", confidence, root);
        let summary = document["findings"][0]["summary"].as_str().expect("a text");
        let keeper = "(sleep 60) keeps the pipe open";
        assert!(
            summary.contains(&format!("its child {} (sh) has ended", pids[0]))
                && summary.contains(keeper),
            "{summary}"
        );
        expect_advice(&document, "in the background");
        end_keeper(&document);
        target.assert_unharmed();
    }
}

#[test]
fn a_pipe_that_a_worker_has_inherited_is_nobodys_output() {
    let (mut target, _) = start("command_output", &["leaked"]);
    let document = expect_finding(&target, "hang-pipe", "likely", target.pid().into());
    let summary = document["findings"][0]["summary"].as_str().expect("a text");
    assert!(
        summary.contains("which inherited it, keeps the pipe open"),
        "{summary}"
    );
    target.assert_unharmed();
}

#[test]
fn a_command_that_is_stuck_is_the_root_and_its_reader_waits() {
    for modes in [&["stuck"][..], &["stuck", "two"]] {
        let (mut target, pids) = start("command_output", modes);
        let document = expect_finding(&target, "hang-pipe", "proven", pids[0]);
        assert_eq!(
            document["findings"][0]["blocks"][0]["pid"],
            target.pid(),
            "{document:#}"
        );
        assert_eq!(class_of(&document, target.pid().into()), "hang-pipe");
        target.assert_unharmed();
    }
}

#[test]
fn a_command_that_takes_long_is_left_alone() {
    for modes in [
        &["takes-long"][..],
        &["takes-long", "two"],
        &["grandchild", "two"],
        &["follows"],
        &["follows", "two"],
        &["several"],
        &["left-working", "two"],
    ] {
        let (mut target, _) = start("command_output", modes);
        let document = expect_silence(&target, &modes.join(" "));
        let class = class_of(&document, target.pid().into());
        assert_eq!(class, "waiting", "{modes:?}: {document:#}");
        target.assert_unharmed();
    }
}

#[test]
fn the_reader_of_a_pipe_is_the_thread_that_has_it_and_not_who_inherited_it() {
    let (mut target, _) = start("own_reader", &["held"]);
    let document = expect_finding(&target, "deadlock", "likely", target.pid().into());
    let text = document["findings"][0].to_string() + &document["processes"][0].to_string();
    assert!(
        text.contains("drain") && text.contains("MainThread"),
        "{text}"
    );
    let wait = &document["processes"][0]["threads"][0]["wait"];
    assert_eq!(wait["holder"]["thread"], "drain", "{wait:#}");
    assert_eq!(wait["other_holders"], Value::Null, "{wait:#}");
    target.assert_unharmed();
}

#[test]
fn a_reader_that_sleeps_on_holds_up_the_writer_and_one_that_works_does_not() {
    let (mut target, _) = start("own_reader", &["sleeps"]);
    let document = expect_finding(&target, "hang-pipe", "possible", target.pid().into());
    let text = document["findings"][0].to_string() + &document["processes"][0].to_string();
    assert!(text.contains("sleeps, "), "{text}");
    target.assert_unharmed();
    let (mut target, _) = start("own_reader", &["works"]);
    expect_silence(&target, "works");
    target.assert_unharmed();
}

#[test]
fn a_holder_that_sleeps_on_holds_up_who_waits_for_its_lock() {
    let (mut target, _) = start("sleeping_holder", &["long"]);
    let document = expect_finding(&target, "hang-lock", "possible", target.pid().into());
    let text = document["processes"][0].to_string();
    assert!(text.contains("holder (tid"), "{text}");
    target.assert_unharmed();
    let (mut target, _) = start("sleeping_holder", &["short"]);
    expect_silence(&target, "short");
    target.assert_unharmed();
}

#[test]
fn the_thread_that_serves_a_local_connection_is_the_root() {
    for modes in [["tcp", "lost"], ["tcp", "forked"], ["manager", "lost"]] {
        let (mut target, pids) = start("serving", &modes);
        let document = expect_finding(&target, "hang-lock", "possible", pids[0]);
        let finding = &document["findings"][0];
        assert_eq!(finding["blocks"][0]["pid"], target.pid(), "{finding:#}");
        let processes = document["processes"].as_array().expect("a list");
        let own = processes
            .iter()
            .find(|process| process["pid"] == target.pid())
            .expect("it is there");
        let wait = &own["threads"][0]["wait"];
        assert_eq!(wait["holder"]["tid"], finding["root"]["tid"], "{wait:#}");
        assert_eq!(wait["holder"]["confidence"], "inferred", "{wait:#}");
        assert_eq!(wait["resource"]["users"][0]["by"], "stack", "{wait:#}");
        target.assert_unharmed();
    }
}

#[test]
fn a_local_server_whose_thread_goes_on_is_left_alone() {
    for modes in [["tcp", "held"], ["manager", "held"], ["tcp", "busy"]] {
        let (mut target, _) = start("serving", &modes);
        expect_silence(&target, &modes.join(" "));
        target.assert_unharmed();
    }
}

#[test]
fn a_child_that_asks_at_a_terminal_where_nobody_is_holds_up_who_waits_for_it() {
    for mode in ["asks", "output"] {
        let (mut target, pids) = start("asks", &[mode]);
        let mut document = Value::Null;
        wait_until("it is found", || {
            document = diagnose(target.pid());
            !document["findings"][0].is_null()
        });
        let finding = &document["findings"][0];
        assert_eq!(finding["confidence"], "possible", "{finding:#}");
        assert_eq!(finding["blocks"][0]["pid"], pids[0], "{finding:#}");
        expect_advice(&document, "what it asks for");
        let text = ask_about("diagnose", target.pid(), &["--threshold", THRESHOLD]).stdout;
        assert!(text.contains("for terminal /dev/pts/"), "{text}");
        // Whoever made the terminal reads what is written to it.
        assert_eq!(class_of(&document, target.pid().into()), "idle");
        target.assert_unharmed();
    }
}

#[test]
fn a_child_on_a_terminal_that_works_is_left_alone() {
    let (mut target, _) = start("asks", &["works"]);
    expect_silence(&target, "works");
    target.assert_unharmed();
}
