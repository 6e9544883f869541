//! What threads wait for that sleep on locks, and who holds those: programs that know the truth about it, on every interpreter.
//!
//! `STUCKSPY_HOLDER_ROUNDS` sets how many random configurations of locks are tried on each interpreter.

mod support;

#[path = "support/live.rs"]
mod live;

use std::env;
use std::fs;
use std::path::Path;

use serde_json::Value;
use support::dump::stuckspy;
use support::fixture::{Fixture, Started};
use support::for_each_interpreter;
use support::interpreter::Interpreter;
use support::program::Program;

/// Random configurations on each interpreter, unless the environment says otherwise.
const ROUNDS: u32 = 40;
/// How often a thread is looked at that wakes now and then to ask for the GIL.
const MAX_LOOKS: usize = 20;

/// The threads of a process, as `dump` has them.
fn dump(pid: i32) -> Result<Vec<Value>, String> {
    let output = stuckspy()
        .args(["dump", "--pid", &pid.to_string(), "--json"])
        .output()
        .map_err(|error| format!("run stuckspy: {error}"))?;
    let document: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("{error}: {}", String::from_utf8_lossy(&output.stderr)))?;
    let threads = document["processes"][0]["threads"].as_array();
    threads
        .cloned()
        .ok_or_else(|| format!("no threads: {document:.2000}"))
}

/// How a thread's wait differs from the truth.
fn differences(threads: &[Value], truth: &Value) -> Vec<String> {
    let Some(thread) = threads.iter().find(|thread| thread["tid"] == truth["tid"]) else {
        return vec![format!("thread {} is missing", truth["thread"])];
    };
    let wait = &thread["wait"];
    let mut found = Vec::new();
    let mut compare = |what: &str, told: &Value, expected: &Value| {
        if told != expected {
            found.push(format!("{what}: told {told}, truth {expected}"));
        }
    };
    compare("kind", &wait["kind"], &truth["kind"]);
    compare("type", &wait["resource"]["type"], &truth["type"]);
    if let Some(object) = truth["object"].as_u64() {
        let told = address(&wait["resource"]["address"]);
        compare("object", &told.into(), &object.into());
    }
    if !truth["name"].is_null() {
        compare("name", &wait["resource"]["name"], &truth["name"]);
    }
    let holder = &wait["holder"];
    compare("holder", &holder["tid"], &truth["holder"]);
    if !truth["holder_pid"].is_null() {
        compare("holder's process", &holder["pid"], &truth["holder_pid"]);
    }
    compare("confidence", &holder["confidence"], &truth["confidence"]);
    let is_gone = holder["is_gone"].as_bool().unwrap_or(false);
    compare("gone", &is_gone.into(), &truth["gone"]);
    match (truth["timeout_ms"].as_u64(), wait["timeout_ms"].as_u64()) {
        (Some(truth), Some(told)) if told.abs_diff(truth) <= 1000 => {}
        (None, None) => {}
        (truth, told) => found.push(format!("timeout: told {told:?}, truth {truth:?}")),
    }
    if !found.is_empty() {
        found.insert(0, format!("thread {}: {wait}", truth["thread"]));
    }
    found
}

/// Addresses are numbers, or texts in hexadecimal.
fn address(value: &Value) -> Option<u64> {
    let text = value.as_str().and_then(|text| text.strip_prefix("0x"));
    text.map_or(value.as_u64(), |text| u64::from_str_radix(text, 16).ok())
}

fn check(name: &str, interpreter: &Interpreter) -> Result<Option<String>, String> {
    let program = Program::load(&format!("locks/{name}"));
    let fixture = match Fixture::start(&program, interpreter)? {
        Started::Ready(fixture) => fixture,
        Started::Skipped(why) => return Ok(Some(why)),
    };
    let waits = fixture.truth.extra["waits"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    assert!(!waits.is_empty(), "{name} says nothing");
    let pid = |wait: &Value| wait["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
    let target = waits.iter().find_map(pid).unwrap_or_else(|| fixture.pid());
    let mut failures = Vec::new();
    for _ in 0..MAX_LOOKS {
        let threads = dump(target)?;
        failures = waits
            .iter()
            .flat_map(|wait| differences(&threads, wait))
            .collect();
        // It wakes up every 5 ms to ask for the GIL (`Python/ceval_gil.h`, 3.2 and later), and may not sleep when it is looked at.
        if name != "gil" || failures.is_empty() {
            break;
        }
    }
    fixture.assert_unharmed()?;
    fixture.finish()?;
    match failures.is_empty() {
        true => Ok(None),
        false => Err(failures.join("\n")),
    }
}

/// One test for each program, so that they are listed by name.
macro_rules! programs {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            for_each_interpreter(stringify!($name), |interpreter| check(stringify!($name), interpreter));
        })*

        const PROGRAMS: &[&str] = &[$(stringify!($name)),*];
    };
}

programs! {
    bare barrier condition deadlock event event_timeout forked forked_plain futex_shared future gil importing join join_timeout lock lock_timeout mutex
    mutex_robust mutex_shared mutex_shared_inherit mutex_shared_lost mutex_shared_robust nested
    queue_timeout queues rlock semaphore shared simple_queue
}

#[test]
fn every_program_is_tested() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/programs/locks");
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .filter_map(|entry| {
            entry
                .unwrap()
                .file_name()
                .into_string()
                .unwrap()
                .strip_suffix(".py")
                .map(str::to_owned)
        })
        .filter(|name| !name.starts_with('_') && name != "random_holders")
        .collect();
    names.sort();
    assert_eq!(names, PROGRAMS);
}

fn rounds() -> u32 {
    let rounds = env::var("STUCKSPY_HOLDER_ROUNDS").ok();
    rounds.map_or(ROUNDS, |text| text.parse().expect("a number of rounds"))
}

/// What is wrong with the answer about one thread that waits for a lock, and whether its holder was named for sure.
fn judge(threads: &[Value], truth: &Value) -> Result<bool, String> {
    let thread = threads.iter().find(|thread| thread["tid"] == truth["tid"]);
    let wait = thread.map_or(&Value::Null, |thread| &thread["wait"]);
    let fail = |what: &str| Err(format!("{what}: truth {truth}, told {wait}"));
    let is_recursive = truth["recursive"] == true;
    let kind = if is_recursive {
        "python-rlock"
    } else {
        "python-lock"
    };
    if wait["kind"] != kind {
        return fail("kind");
    }
    if address(&wait["resource"]["address"]) != truth["object"].as_u64() {
        return fail("object");
    }
    let holder = &wait["holder"];
    let confidence = holder["confidence"].as_str();
    let is_right = holder["tid"] == truth["holder"];
    match (is_recursive, truth["by"].as_str(), confidence) {
        (true, _, Some("proven")) | (false, Some("with"), Some("inferred")) if is_right => Ok(true),
        (true, ..) | (false, Some("with"), _) => fail("holder"),
        (false, _, None | Some("possible")) => Ok(false),
        _ => fail("more is said than can be known"),
    }
}

/// Whether the thread has run since the program took it to be at rest. One that stuckspy is wrong about rests for ever.
fn has_moved(pid: i32, truth: &Value) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/task/{}/status", truth["tid"]));
    let status = status.unwrap_or_default();
    let count = |name| {
        live::field(&status, name)
            .parse::<u64>()
            .unwrap_or_default()
    };
    let switches = count("voluntary_ctxt_switches") + count("nonvoluntary_ctxt_switches");
    truth["switches"] != switches
}

#[test]
fn random_holders() {
    let program =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/programs/locks/random_holders.py");
    for_each_interpreter("random holders", |interpreter| {
        let mut command = std::process::Command::new(&interpreter.path);
        command
            .arg(&program)
            .arg("1")
            .env("PYTHONDONTWRITEBYTECODE", "1");
        let mut target = live::Target::start(&mut command);
        let mut failures = Vec::new();
        let (mut sure, mut waits, mut moved) = (0, 0, 0);
        for round in 0..rounds() {
            target.say("next");
            let line = target.line();
            let truth: Value = serde_json::from_str(&line)
                .map_err(|error| format!("round {round}: {error}: {line:.500}"))?;
            let threads = dump(target.pid())?;
            for wait in truth["waits"].as_array().into_iter().flatten() {
                waits += 1;
                match judge(&threads, wait) {
                    Ok(is_sure) => sure += u32::from(is_sure),
                    // It had come to rest for a moment only, on its way to the lock that it wants: a busy machine does that.
                    Err(_) if has_moved(target.pid(), wait) => moved += 1,
                    Err(failure) => {
                        let sources = truth["source"].as_array().into_iter().flatten();
                        let sources: Vec<_> = sources.filter_map(Value::as_str).collect();
                        failures.push(format!(
                            "round {round}: {failure}\n{}",
                            sources.join("--\n")
                        ));
                    }
                }
            }
            target.say("seen");
        }
        target.assert_unharmed();
        target.finish();
        let label = &interpreter.label;
        live::report_figures(&format!(
            "{label}: {waits} waits in {} configurations, {sure} holders named for sure, {} wrong, {moved} not at rest",
            rounds(),
            failures.len()
        ));
        if moved * 100 > waits {
            failures.push(format!("{moved} of {waits} threads were not at rest"));
        }
        failures.truncate(3);
        match failures.is_empty() {
            true => Ok(None),
            false => Err(failures.join("\n")),
        }
    });
}
