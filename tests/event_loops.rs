//! Event loops: their tasks against what the programs know of themselves, and what a call that blocks one is thought of.

mod support;

#[path = "support/live.rs"]
mod live;

use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;
use std::process::Command;

use live::{Target, any_interpreter, ask_about, wait_until, wait_until_in_call};
use serde::Deserialize;
use serde_json::Value;
use support::fixture::{Fixture, Started};
use support::interpreter::{Interpreter, Origin, Version, interpreters};
use support::program::{self, Program};
use support::schema::find_schema_errors;

/// Long enough for a healthy program to be left alone, short enough for a test.
const THRESHOLD: &str = "300ms";

/// An event loop as the program knows it.
#[derive(Debug, Deserialize)]
struct TrueLoop {
    #[serde(rename = "type")]
    type_name: String,
    running: Option<String>,
    coroutine: Option<String>,
    tasks: Vec<TrueTask>,
}

#[derive(Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct TrueTask {
    name: String,
    state: String,
    coroutine: String,
    frames: Vec<(String, String, Option<u64>, Option<String>)>,
    awaits: Option<String>,
    awaited_by: Vec<String>,
}

/// The tasks of a dumped loop in the form of the truth, sorted.
fn tasks_of(event_loop: &Value) -> Vec<TrueTask> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let tasks = event_loop["tasks"].as_array().expect("a list");
    let with_running = tasks.iter().chain([&event_loop["running"]]);
    let names: BTreeMap<&str, String> = with_running
        .filter_map(|task| Some((task["id"].as_str()?, text(&task["name"]))))
        .collect();
    let mut tasks: Vec<TrueTask> = tasks
        .iter()
        .map(|task| {
            let by = task["awaited_by"].as_array().expect("a list");
            let mut awaited_by: Vec<String> = by
                .iter()
                .map(|id| names[id.as_str().expect("an address")].clone())
                .collect();
            awaited_by.sort();
            let frames = task["frames"].as_array().expect("a list").iter();
            TrueTask {
                name: text(&task["name"]),
                state: text(&task["state"]),
                coroutine: text(&task["coroutine"]),
                frames: frames
                    .map(|frame| {
                        (
                            text(&frame["function"]),
                            text(&frame["file"]),
                            frame["line"].as_u64(),
                            frame["module"].as_str().map(str::to_owned),
                        )
                    })
                    .collect(),
                awaits: task["awaits"]["task"].as_str().map(str::to_owned),
                awaited_by,
            }
        })
        .collect();
    tasks.sort();
    tasks
}

fn compare(truth: &TrueLoop, seen: &Value) -> Vec<String> {
    let mut differences = Vec::new();
    let mut expect = |what: &str, seen: &Value, truth: Value| {
        if *seen != truth {
            differences.push(format!("{what}: {seen}, but it is {truth}"));
        }
    };
    let own = usize::from(truth.running.is_some());
    expect("type", &seen["type"], truth.type_name.clone().into());
    expect(
        "running",
        &seen["running"]["name"],
        truth.running.clone().into(),
    );
    expect(
        "coroutine",
        &seen["running"]["coroutine"],
        truth.coroutine.clone().into(),
    );
    expect("total", &seen["total"], (truth.tasks.len() + own).into());
    expect("missing", &seen["missing"], Value::Array(Vec::new()));
    let (tasks, seen) = (&truth.tasks, tasks_of(seen));
    for task in tasks.iter().filter(|task| !seen.contains(task)) {
        differences.push(format!("not seen so: {task:?}"));
    }
    for task in seen.iter().filter(|task| !tasks.contains(task)) {
        differences.push(format!("not so: {task:?}"));
    }
    differences
}

fn check_tasks(program: &Program, interpreter: &Interpreter) -> Result<Option<String>, String> {
    let fixture = match Fixture::start(program, interpreter)? {
        Started::Ready(fixture) => fixture,
        Started::Skipped(why) => return Ok(Some(why)),
    };
    let document = ask_about("dump", fixture.pid(), &["--json"])
        .expect(0)
        .json();
    let threads = document["processes"][0]["threads"].as_array();
    let of_thread = |tid: &str| {
        let mut threads = threads.into_iter().flatten();
        threads.find(|thread| thread["tid"].as_i64() == tid.parse().ok())
    };
    let loops = fixture.truth.extra["loops"].as_object().expect("it tells");
    let mut failures = Vec::new();
    for (tid, truth) in loops {
        let seen = of_thread(tid).map_or(&Value::Null, |thread| &thread["event_loop"]);
        match Option::<TrueLoop>::deserialize(truth).map_err(|error| error.to_string())? {
            Some(_) if seen.is_null() => failures.push(format!("no loop is seen in thread {tid}")),
            Some(truth) => failures.extend(compare(&truth, seen)),
            None if seen.is_null() => {}
            None => failures.push(format!("no loop runs in thread {tid}: {seen}")),
        }
    }
    if loops.len() < 4 {
        failures.push(format!("only {} loops were told", loops.len()));
    }
    ask_about("dump", fixture.pid(), &[])
        .expect(0)
        .assert_harmless();
    failures.extend(fixture.assert_unharmed().err());
    failures.extend(fixture.finish().err());
    if failures.is_empty() {
        Ok(None)
    } else {
        Err(failures.join("\n"))
    }
}

#[test]
fn tasks_are_told_as_they_are() {
    let program = Program::load("loops/tasks");
    support::for_each_interpreter("loops", |interpreter| check_tasks(&program, interpreter));
}

/// Starts a program of `fixtures/programs/loops`, which says a line when it is about to wait.
fn start(name: &str) -> Target {
    let path = program::folder().join("loops").join(format!("{name}.py"));
    let mut command = Command::new(&any_interpreter().path);
    command.arg(path).env("PYTHONDONTWRITEBYTECODE", "1");
    Target::start_and_listen(&mut command).0
}

/// What is thought of the main thread once it has waited for longer than the threshold.
fn judged(target: &Target) -> Value {
    let mut document = Value::Null;
    wait_until("it waits", || {
        let options = ["--json", "--threshold", THRESHOLD];
        document = ask_about("diagnose", target.pid(), &options)
            .expect_one_of(&[0, 1])
            .json();
        !live::is_brief(&document, &document["processes"][0]["threads"][0])
    });
    document
}

fn evidence_of<'a>(document: &'a Value, fact: &str) -> Option<&'a Value> {
    let evidence = &document["processes"][0]["threads"][0]["verdict"]["evidence"];
    let mut all = evidence.as_array()?.iter();
    all.find(|one| one["fact"] == fact)
}

#[test]
fn a_plain_receive_in_a_task_or_callback_blocks_the_loop() {
    for (name, ending, who) in [
        ("recv", "; it blocks the event loop, 3 tasks", "task Task-1"),
        (
            "callback",
            "; it blocks the event loop, 4 tasks",
            "a callback",
        ),
    ] {
        let mut target = start(name);
        let document = judged(&target);
        let findings = document["findings"].as_array().expect("a list");
        assert_eq!(findings.len(), 1, "{document:#}");
        assert_eq!(findings[0]["verdict"], "hang-network");
        let summary = findings[0]["summary"].as_str().expect("a text");
        assert!(summary.ends_with(ending), "{name}: {summary}");
        assert_eq!(findings[0]["blocks"], Value::Array(Vec::new()));
        let evidence = evidence_of(&document, "event_loop.tasks").expect("it is told");
        let text = evidence["text"].as_str().expect("a text");
        assert!(text.contains(who), "{text}");
        target.assert_unharmed();
    }
}

#[test]
fn a_loop_that_waits_or_sleeps_is_no_finding() {
    for (name, class, tasks) in [
        ("sleep", "waiting", 3),
        ("idle", "idle", 4),
        ("circle", "idle", 6),
    ] {
        let mut target = start(name);
        let document = judged(&target);
        assert_eq!(document["findings"], Value::Array(Vec::new()), "{name}");
        let verdict = &document["processes"][0]["threads"][0]["verdict"];
        assert_eq!(verdict["class"], class, "{name}: {verdict:#}");
        let evidence = evidence_of(&document, "event_loop.tasks").expect("it is told");
        assert_eq!(evidence["value"], tasks, "{name}");
        let circle = evidence_of(&document, "event_loop.circle");
        assert_eq!(circle.is_some(), name == "circle", "{verdict:#}");
        target.assert_unharmed();
    }
}

#[test]
fn more_tasks_than_are_counted_are_reported_as_at_least() {
    let mut target = start("many");
    wait_until_in_call(target.pid(), syscalls::Sysno::epoll_wait);
    let answer = ask_about("dump", target.pid(), &[]).expect(0);
    assert!(
        answer.stdout.contains(": at least 65536 tasks"),
        "{answer:#?}"
    );
    let document = ask_about("dump", target.pid(), &["--json"])
        .expect(0)
        .json();
    assert_eq!(find_schema_errors("dump", &document), Vec::<String>::new());
    let event_loop = &document["processes"][0]["threads"][0]["event_loop"];
    assert_eq!(event_loop["total"], 65_536);
    assert_eq!(event_loop["total_is_minimum"], true);
    let document = judged(&target);
    let evidence = evidence_of(&document, "event_loop.tasks").expect("it is told");
    let text = evidence["text"].as_str().expect("a text");
    assert!(text.contains("at least 65536 tasks"), "{text}");
    target.assert_unharmed();
}

/// A Python with gevent, from PyPI; made once. `None` is named as skipped.
fn python_with_gevent(interpreter: &Interpreter) -> Option<PathBuf> {
    let home = env::var_os("HOME").unwrap_or_default();
    let cache = env::var_os("XDG_CACHE_HOME")
        .map_or_else(|| PathBuf::from(home).join(".cache"), PathBuf::from);
    let version = format!("{}.{}", interpreter.version, interpreter.patch);
    let folder = cache.join(format!("stuckspy/venvs/gevent-{version}"));
    let python = folder.join("bin/python");
    let has_gevent = |python: &PathBuf| {
        let mut command = Command::new(python);
        let status = command.args(["-c", "import gevent"]).output();
        status.is_ok_and(|output| output.status.success())
    };
    if !has_gevent(&python) {
        let make = Command::new(&interpreter.path)
            .args(["-m", "venv", "--clear"])
            .arg(&folder)
            .output();
        let install = Command::new(&python)
            .args([
                "-m",
                "pip",
                "-q",
                "install",
                "--only-binary",
                ":all:",
                "gevent",
            ])
            .output();
        if !has_gevent(&python) {
            let why = format!("gevent could not be had: {make:?}, {install:?}");
            support::report_skipped(&format!("gevent on {}", interpreter.label), &why);
            return None;
        }
    }
    Some(python)
}

#[test]
fn a_plain_receive_blocks_the_hub_of_gevent() {
    let path = program::folder().join("loops/hub.py");
    let with_gevent = interpreters().iter().filter(|interpreter| {
        interpreter.origin != Origin::Debian
            && !interpreter.is_free_threaded
            && interpreter.version >= Version { major: 3, minor: 9 }
    });
    for interpreter in with_gevent {
        let Some(python) = python_with_gevent(interpreter) else {
            continue;
        };
        for mode in ["greenlet", "callback", "idle"] {
            let mut command = Command::new(&python);
            command
                .arg(&path)
                .arg(mode)
                .env("PYTHONDONTWRITEBYTECODE", "1");
            let (mut target, _) = Target::start_and_listen(&mut command);
            let document = judged(&target);
            let evidence = evidence_of(&document, "hub.greenlets");
            let findings = document["findings"].as_array().expect("a list");
            let what = format!("{mode} on {}: {document:#}", interpreter.label);
            if mode == "idle" {
                assert!(findings.is_empty() && evidence.is_none(), "{what}");
            } else {
                let summary = findings[0]["summary"].as_str().expect("a text");
                assert!(
                    summary.ends_with("; it blocks gevent's hub, 4 greenlets"),
                    "{what}"
                );
                assert_eq!(evidence.expect("it is told")["value"], 4, "{what}");
                let dump = ask_about("dump", target.pid(), &["--json"])
                    .expect(0)
                    .json();
                for (name, document) in [("diagnosis", &document), ("dump", &dump)] {
                    let errors = find_schema_errors(name, document);
                    assert_eq!(errors, Vec::<String>::new(), "{what}");
                    let hub = &document["processes"][0]["threads"][0]["blocked_hub"];
                    assert_eq!(hub["greenlets"], 4, "{name} of {what}");
                }
            }
            target.assert_unharmed();
        }
    }
}
