//! Every kind of wait that the kernel knows of is told with what it is on, since when, and who could end it.
//!
//! The programs of `fixtures/programs/waits` block in one way each, and say before what is to be seen.

mod support;

#[path = "support/live.rs"]
mod live;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use live::{any_interpreter, ask_about, report_figures, wait_until};
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;
use support::interpreter::{Interpreter, interpreters};
use support::program;
use support::report_skipped;
use syscalls::Sysno;

/// How far off the beginning of a wait may be.
const TOLERANCE: Duration = Duration::from_secs(1);

fn programs() -> Vec<PathBuf> {
    let entries = fs::read_dir(program::folder().join("waits")).expect("it is there");
    let mut paths: Vec<_> = entries
        .map(|entry| entry.expect("it can be listed").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "py"))
        .filter(|path| !path.ends_with("_say.py"))
        .collect();
    paths.sort();
    paths
}

fn now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(
        now.tv_sec.try_into().expect("after the start"),
        now.tv_nsec.try_into().expect("below a second"),
    )
}

/// What of `expected` is not in `found`: objects and lists by their members, `least` and `most` as bounds.
fn differences(place: &str, expected: &Value, found: &Value) -> Vec<String> {
    match (expected, found) {
        (Value::Object(bounds), _) if bounds.contains_key("least") => {
            let number = found.as_u64();
            let least = bounds["least"].as_u64();
            let most = bounds.get("most").and_then(Value::as_u64);
            if number >= least && (most.is_none() || number <= most) {
                return Vec::new();
            }
        }
        (Value::Object(members), Value::Object(_)) => {
            return members
                .iter()
                .flat_map(|(key, value)| {
                    differences(&format!("{place}.{key}"), value, &found[key.as_str()])
                })
                .collect();
        }
        (Value::Array(wanted), Value::Array(all)) if wanted.len() == all.len() => {
            return wanted
                .iter()
                .zip(all)
                .flat_map(|(one, other)| differences(&format!("{place}[]"), one, other))
                .collect();
        }
        _ if expected == found => return Vec::new(),
        _ => {}
    }
    vec![format!("{place} is {found}, not {expected}")]
}

/// Waits until the main thread sleeps in one of these calls.
fn wait_until_blocked(pid: i64, calls: &[Value]) {
    let numbers: Vec<String> = calls
        .iter()
        .map(|call| {
            let name = call.as_str().expect("a name");
            let number = name.parse::<Sysno>().map(|call| i64::from(call.id()));
            number.map_or(name.to_owned(), |number| number.to_string())
        })
        .collect();
    if numbers.is_empty() {
        return;
    }
    wait_until(&format!("process {pid} is in one of {calls:?}"), || {
        let text = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
        numbers
            .iter()
            .any(|number| text.starts_with(&format!("{number} ")))
    });
}

fn check(path: &Path, interpreter: &Interpreter) -> Result<Option<String>, String> {
    let source = fs::read_to_string(path).expect("it can be read");
    let is_halted = source.starts_with("# ends: halted");
    let mut command = Command::new(&interpreter.path);
    let folder = tempfile::tempdir().expect("a folder");
    command
        .arg(path)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("TMPDIR", folder.path());
    let (mut target, line) = live::Target::start_and_listen(&mut command);
    if let Some(why) = line.strip_prefix("skip: ") {
        return Ok(Some(why.to_owned()));
    }
    let said: Value = serde_json::from_str(&line).map_err(|error| format!("{error}: {line}"))?;
    let pid = said["pid"].as_i64().expect("a pid");
    wait_until_blocked(pid, said["calls"].as_array().expect("a list"));
    let begun = Duration::from_nanos(said["at"].as_u64().expect("a time"));

    let number = i32::try_from(pid).expect("a pid");
    let before = now().saturating_sub(begun);
    let answer = ask_about("dump", number, &["--json"]);
    let after = now().saturating_sub(begun);
    if answer.stdout.is_empty() {
        return Err(format!("{answer:?}"));
    }
    let document = answer.json();
    let threads = document["processes"][0]["threads"].as_array();
    let main = threads
        .into_iter()
        .flatten()
        .find(|thread| thread["tid"] == pid)
        .ok_or_else(|| format!("no main thread: {answer:?}"))?;
    let wait = &main["wait"];
    let mut failures = differences("wait", &said["wait"], wait);
    let calls = said["calls"].as_array().expect("a list");
    if !calls.is_empty() && calls[0] != "-1" && !calls.contains(&wait["syscall"]) {
        failures.push(format!("the call is {}, not of {calls:?}", wait["syscall"]));
    }
    if !is_halted {
        // Programs that are halted were so at another moment than the one that they say.
        let since = wait["since_ms"].as_u64().map(Duration::from_millis);
        let is_right =
            since.is_some_and(|since| since + TOLERANCE >= before && since <= after + TOLERANCE);
        if !is_right {
            failures.push(format!("since {since:?}, not {before:?} to {after:?}"));
        }
        target.assert_unharmed();
    }
    let text = ask_about("dump", number, &[]).stdout;
    let shown = text.lines().find(|line| {
        line.contains(&format!("Thread {pid}"))
            || line.trim_start().starts_with(&format!("{pid} \""))
    });
    report_figures(&format!(
        "{}: {}",
        path.file_stem().unwrap_or_default().display(),
        shown.unwrap_or("not shown").trim()
    ));
    let sentence = ["waits ", "sleeps", ": stopped", ": traced", "not reaped"];
    if !shown.is_some_and(|line| sentence.iter().any(|words| line.contains(words))) {
        failures.push(format!("no sentence: {text}"));
    }
    if is_halted {
        target.say("");
        target.finish();
    }
    match failures.is_empty() {
        true => Ok(None),
        false => Err(format!("{}\n{wait}", failures.join("\n"))),
    }
}

#[test]
fn every_kind_of_wait_is_told() {
    let mut failures = Vec::new();
    let all = programs();
    assert!(all.len() >= 40, "{all:?}");
    // What the kernel says depends little on the version: two of them do.
    let newest = interpreters().iter().max_by_key(|one| one.version);
    let both = [Some(any_interpreter()), newest];
    for (path, interpreter) in all.iter().flat_map(|path| both.map(|one| (path, one))) {
        let interpreter = interpreter.expect("there is one");
        let name = format!(
            "{} on {}",
            path.file_stem().unwrap_or_default().display(),
            interpreter.label
        );
        match check(path, interpreter) {
            Ok(None) => {}
            Ok(Some(why)) => report_skipped(&format!("wait {name}"), &why),
            Err(why) => failures.push(format!("== {name} ==\n{why}")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The rule of hangs on the network sees a poll of one socket as the receive that it is.
#[test]
fn a_poll_of_one_socket_without_a_timeout_is_a_hang() {
    for (name, code) in [
        ("poll_endless", 1),
        ("recv_poll", 0),
        ("poll_quiet", 0),
        ("poll_many", 0),
    ] {
        let path = program::folder().join("waits").join(format!("{name}.py"));
        let mut command = Command::new(&any_interpreter().path);
        command.arg(&path).env("PYTHONDONTWRITEBYTECODE", "1");
        let (mut target, line) = live::Target::start_and_listen(&mut command);
        let said: Value = serde_json::from_str(&line).expect("JSON");
        wait_until_blocked(
            said["pid"].as_i64().expect("a pid"),
            said["calls"].as_array().expect("a list"),
        );
        let options = ["--json", "--no-children", "--threshold", "0"];
        let answer = ask_about("diagnose", target.pid(), &options).expect(code);
        let verdict = &answer.json()["findings"][0]["verdict"];
        assert_eq!(verdict == "hang-network", code == 1, "{name}: {answer:?}");
        target.assert_unharmed();
    }
}
