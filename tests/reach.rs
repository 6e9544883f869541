//! Which threads can reach what others wait for, and what nobody can: programs that know the truth about it, on every interpreter.
//!
//! `STUCKSPY_HANDOFF_ROUNDS` sets how many batches of random hand-offs are tried on each interpreter.

mod support;

#[path = "support/live.rs"]
mod live;

use std::collections::BTreeSet;
use std::env;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use support::for_each_interpreter;
use support::interpreter::{Interpreter, Version};

/// Batches on each interpreter, unless the environment says otherwise.
const ROUNDS: u32 = 2;
/// Threads that wait, of one batch.
const BATCH: u32 = 16;

fn at(major: u8, minor: u8) -> Version {
    Version { major, minor }
}

/// Starts a program of this test's own folder.
fn start(interpreter: &Interpreter, name: &str, arguments: &[&str]) -> live::Target {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/programs/reach");
    let mut command = Command::new(&interpreter.path);
    command
        .arg(folder.join(name))
        .args(arguments)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    live::Target::start(&mut command)
}

/// What is found when a wait may take no time at all.
fn diagnose(pid: i32) -> Value {
    let options = ["--threshold", "20ms", "--window", "0s", "--json"];
    live::ask_about("diagnose", pid, &options)
        .expect_one_of(&[0, 1])
        .json()
}

fn thread_with(document: &Value, tid: &Value) -> Value {
    let threads = document["processes"][0]["threads"].as_array();
    let mut threads = threads.into_iter().flatten();
    threads
        .find(|thread| thread["tid"] == *tid)
        .cloned()
        .unwrap_or_default()
}

fn tids(value: &Value) -> BTreeSet<i64> {
    let tids = value.as_array().into_iter().flatten();
    tids.filter_map(Value::as_i64).collect()
}

/// What is wrong with what is said of one wait; whether all of its references were found.
fn judge(thread: &Value, truth: &Value) -> Result<bool, String> {
    let reach = &thread["wait"]["reach"];
    let fail = |what: &str| Err(format!("{what}: truth {truth}, told {thread:.3000}"));
    let is_closed = reach["is_closed"] == true;
    let is_lost = tids(&truth["setters"]).is_empty() && truth["elsewhere"].is_null();
    if is_closed && !truth["elsewhere"].is_null() {
        return fail("somebody else has it");
    }
    if is_closed && tids(&reach["threads"]) != tids(&truth["setters"]) {
        return fail("others can reach it");
    }
    let verdict = &thread["verdict"];
    if verdict["confidence"] == "proven" && verdict["class"] == "hang-lock" && !is_lost {
        return fail("it is not lost");
    }
    Ok(is_closed)
}

fn rounds() -> u32 {
    let rounds = env::var("STUCKSPY_HANDOFF_ROUNDS").ok();
    rounds.map_or(ROUNDS, |text| text.parse().expect("a number of rounds"))
}

#[test]
fn random_handoffs() {
    for_each_interpreter("random hand-offs", |interpreter| {
        if interpreter.version < at(3, 7) {
            return Ok(Some(
                "it has no queue.SimpleQueue and no contextvars".into(),
            ));
        }
        let mut target = start(
            interpreter,
            "random_handoffs.py",
            &["1", &BATCH.to_string()],
        );
        let mut failures = Vec::new();
        let (mut waits, mut lost, mut closed, mut proven) = (0, 0, 0, 0);
        for round in 0..rounds() {
            target.say("next");
            let line = target.line();
            let truth: Value = serde_json::from_str(&line)
                .map_err(|error| format!("round {round}: {error}: {line:.500}"))?;
            let document = diagnose(target.pid());
            for wait in truth["waits"].as_array().into_iter().flatten() {
                let thread = thread_with(&document, &wait["tid"]);
                waits += 1;
                let is_lost = tids(&wait["setters"]).is_empty() && wait["elsewhere"].is_null();
                lost += u32::from(is_lost);
                match judge(&thread, wait) {
                    Ok(is_closed) => {
                        closed += u32::from(is_closed);
                        proven += u32::from(is_closed && is_lost);
                    }
                    Err(failure) => failures.push(format!("round {round}: {failure}")),
                }
            }
        }
        target.assert_unharmed();
        target.finish();
        live::report_figures(&format!(
            "{}: {waits} waits, all references found of {closed}, {proven} of {lost} lost ones proven, {} wrong",
            interpreter.label,
            failures.len()
        ));
        // Builds without the GIL have no single count.
        let counts = interpreter.version >= at(3, 8) && !interpreter.is_free_threaded;
        // A build without optimisations, on a busy machine, may not get through in the time that there is.
        if counts && proven * 4 < lost {
            failures.push(format!("only {proven} of {lost} lost ones were proven"));
        }
        if interpreter.is_free_threaded && closed > 0 {
            failures.push(format!("{closed} accounts of counts that are none"));
        }
        failures.truncate(3);
        match failures.is_empty() {
            true => Ok(None),
            false => Err(failures.join("\n")),
        }
    });
}

/// An event that only the thread has which waits for it, and one that a thread has which waits for a mute peer.
#[test]
fn an_event_that_nobody_can_set() {
    for_each_interpreter("lost events", |interpreter| {
        if interpreter.version < at(3, 6) {
            return Ok(Some("it is too old".into()));
        }
        let mut target = start(interpreter, "events.py", &[]);
        let truth: Value = serde_json::from_str(&target.line()).expect("the truth");
        let document = diagnose(target.pid());
        target.assert_unharmed();
        target.finish();
        let verdict_of = |name: &str| {
            let verdict = &thread_with(&document, &truth[name])["verdict"];
            (verdict["class"].clone(), verdict["confidence"].clone())
        };
        let findings = document["findings"].as_array();
        let root_of = |name: &str| {
            let mut findings = findings.into_iter().flatten();
            let blocks = |finding: &&Value| {
                let blocks = finding["blocks"].as_array();
                let mut blocks = blocks.into_iter().flatten();
                blocks.any(|blocked| blocked["tid"] == truth[name])
            };
            findings
                .find(blocks)
                .map(|finding| finding["root"]["tid"].clone())
        };
        let counts = interpreter.version >= at(3, 8) && !interpreter.is_free_threaded;
        if counts {
            let lost = (json!("hang-lock"), json!("proven"));
            assert_eq!(verdict_of("lost"), lost, "{document:#.9000}");
            assert_eq!(root_of("served"), Some(truth["server"].clone()));
        }
        if interpreter.is_free_threaded {
            let lost = (json!("hang-lock"), json!("possible"));
            assert_eq!(verdict_of("lost"), lost, "{document:#.9000}");
        }
        // Whoever is waited for works on.
        let waits = verdict_of("awaits_worker").0;
        assert_eq!(waits, "waiting", "{document:#.9000}");
        // In the main thread an event of its own is what keeps a program running.
        assert_ne!(verdict_of("main").1, "proven");
        Ok(None)
    });
}

/// A thread that waits for an event, and has ten million items and a tower of containers besides.
#[test]
fn more_objects_than_are_looked_into_are_told() {
    for_each_interpreter("a large graph", |interpreter| {
        if interpreter.version < at(3, 6) {
            return Ok(Some("it is too old".into()));
        }
        let mut target = start(interpreter, "large.py", &[]);
        let tid: Value = serde_json::from_str(&target.line()).expect("a number");
        let document = diagnose(target.pid());
        target.assert_unharmed();
        target.finish();
        let thread = thread_with(&document, &tid);
        let reach = &thread["wait"]["reach"];
        if reach["is_closed"] == true || reach["is_cut"] != true {
            return Err(format!("{thread:#.3000}"));
        }
        Ok(None)
    });
}

/// Whatever the main thread waits in for ever, it is no hang while its threads serve.
#[test]
fn a_program_that_serves_in_threads_is_not_stuck() {
    for_each_interpreter("serving threads", |interpreter| {
        if interpreter.version < at(3, 6) {
            return Ok(Some("it is too old".into()));
        }
        for mode in ["event", "deep", "join"] {
            let mut target = start(interpreter, "serves.py", &[mode]);
            assert_eq!(target.line().trim(), "ready");
            for _ in 0..3 {
                let document = diagnose(target.pid());
                let findings = document["findings"].as_array();
                if findings.is_none_or(|findings| !findings.is_empty()) {
                    return Err(format!("{mode}: {:#.5000}", document["findings"]));
                }
            }
            target.assert_unharmed();
            target.finish();
        }
        Ok(None)
    });
}
