//! `stuckspy dump --locals` against what a program knows of its own variables, and against values made to do harm.

mod support;

#[path = "support/live.rs"]
mod live;

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use live::{Target, any_interpreter, ask_about, hostile, peak_memory};
use serde_json::{Value, json};
use support::fixture::{Fixture, Started};
use support::interpreter::Interpreter;
use support::program::Program;
use support::schema::find_schema_errors;

/// A value without addresses, and in an order of its own where it has none, or not that of the program.
fn normal(value: &Value) -> Value {
    let text = |value: &Value| value.to_string();
    match value {
        Value::Object(members) => {
            let mut members = members.clone();
            members.remove("address");
            for (_, member) in &mut members {
                *member = normal(member);
            }
            let is_set = matches!(
                members.get("kind").and_then(Value::as_str),
                Some("set" | "frozenset")
            );
            for key in ["items", "entries", "attributes"] {
                if let Some(Value::Array(items)) = members.get_mut(key)
                    && (is_set || key != "items")
                {
                    items.sort_by_key(text);
                }
            }
            Value::Object(members)
        }
        Value::Array(items) => items.iter().map(normal).collect(),
        other => other.clone(),
    }
}

/// The members of a list by their names; those of entries have no kind.
fn by_name(locals: &Value) -> BTreeMap<String, (bool, Value)> {
    let locals = locals.as_array().into_iter().flatten();
    let named = locals.map(|local| {
        let name = local["name"].as_str().unwrap_or_default().to_owned();
        let is_argument = local["argument"] == true;
        let mut value = json!({"kind": "", "value": local["value"]});
        value = normal(&value)["value"].clone();
        (name, (is_argument, value))
    });
    named.collect()
}

/// How the variables of one function differ from what it knows of them.
fn compare(function: &str, truth: &Value, dumped: &Value) -> Vec<String> {
    let (truth, dumped) = (by_name(truth), by_name(dumped));
    let mut found = Vec::new();
    for (name, expected) in &truth {
        match dumped.get(name) {
            Some(value) if value == expected => {}
            Some((is_argument, value)) => found.push(format!(
                "{function}: {name}:\n  truth {} {}\n  dump  {is_argument} {value}",
                expected.0, expected.1
            )),
            None => found.push(format!("{function}: {name} is missing")),
        }
    }
    let more = dumped.keys().filter(|name| !truth.contains_key(*name));
    // Of a class body: not told by the program.
    let more = more.filter(|name| !name.starts_with("__"));
    found.extend(more.map(|name| format!("{function}: {name} should not be there")));
    found
}

/// The frames of a file, by the last part of their functions' names.
fn frames_of<'a>(document: &'a Value, file: &str) -> BTreeMap<&'a str, &'a Value> {
    let threads = document["processes"][0]["threads"].as_array();
    let frames = threads
        .into_iter()
        .flatten()
        .flat_map(|thread| thread["frames"].as_array().into_iter().flatten());
    let named = frames.filter_map(|frame| {
        let function = frame["function"].as_str()?.rsplit('.').next()?;
        let is_meant = frame["file"].as_str()?.ends_with(file) && function != "<module>";
        is_meant.then_some((function, frame))
    });
    named.collect()
}

fn check(program: &Program, interpreter: &Interpreter) -> Result<Option<String>, String> {
    let fixture = match Fixture::start(program, interpreter)? {
        Started::Ready(fixture) => fixture,
        Started::Skipped(why) => return Ok(Some(why)),
    };
    let answer = ask_about(
        "dump",
        fixture.pid(),
        &["--locals", "--no-redact", "--json"],
    )
    .expect(0);
    let document = answer.json();
    let frames = frames_of(&document, "values.py");
    let mut failures = find_schema_errors("dump", &document);
    let told = fixture.truth.extra.as_object().ok_or("no truth is told")?;
    assert!(told.len() >= 14, "{:?}", told.keys());
    for (function, truth) in told {
        match frames.get(function.as_str()) {
            Some(frame) => failures.extend(compare(function, truth, &frame["locals"])),
            None => failures.push(format!("{function} is not in the dump")),
        }
    }
    let text = ask_about("dump", fixture.pid(), &["--locals"]).expect(0);
    text.assert_harmless();
    if !text
        .stdout
        .contains("\n        some_tuple = (1, (2, (3,)))\n")
    {
        failures.push(format!("the text is\n{:.6000}", text.stdout));
    }
    let without = ask_about("dump", fixture.pid(), &["--json"]).expect(0);
    if without.stdout.contains("\"locals\"") {
        failures.push("locals are there without being asked for".to_owned());
    }
    failures.extend(fixture.assert_unharmed().err());
    failures.extend(fixture.finish().err());
    if failures.is_empty() {
        Ok(None)
    } else {
        Err(failures.join("\n"))
    }
}

#[test]
fn values_are_told_as_the_program_knows_them() {
    let program = Program::load("values");
    support::for_each_interpreter(&program.name, |interpreter| check(&program, interpreter));
}

/// The longest that values made to do harm may take to read, and the most memory, in KiB.
const MOST_TIME: Duration = Duration::from_secs(1);
const MOST_MEMORY: u64 = 64 << 20;

/// The highest resident memory of a run, in bytes, and how long it took.
fn measure(arguments: &[&str]) -> (u64, Duration) {
    let started = std::time::Instant::now();
    let mut command = Command::new(env!("CARGO_BIN_EXE_stuckspy"));
    command.args(arguments).stdout(std::process::Stdio::null());
    (peak_memory(&mut command), started.elapsed())
}

#[test]
fn values_made_to_do_harm_cost_little_and_say_what_they_are() {
    let path = hostile("values.py");
    let path = path.to_str().expect("our own path is text");
    support::for_each_interpreter("hostile values", |interpreter| {
        let mut command = Command::new(&interpreter.path);
        let (target, line) = Target::start_and_listen(command.args(["-S", "-E", path]));
        assert_eq!(line, "ready");
        let pid = target.pid().to_string();
        for format in [&["--json"][..], &[]] {
            let arguments = [&["dump", "--locals", "--pid", &pid], format].concat();
            let (memory, time) = measure(&arguments);
            assert!(time < MOST_TIME, "{time:?} for {arguments:?}");
            assert!(
                memory > 0 && memory < MOST_MEMORY,
                "{memory} bytes for {arguments:?}"
            );
        }
        let document = ask_about("dump", target.pid(), &["--locals", "--json"])
            .expect(0)
            .json();
        assert_eq!(find_schema_errors("dump", &document), Vec::<String>::new());
        let frames = frames_of(&document, "values.py");
        let value = |function: &str, name: &str| {
            let locals = frames[function]["locals"]
                .as_array()
                .expect("it has variables");
            let local = locals.iter().find(|local| local["name"] == name);
            local.unwrap_or_else(|| panic!("no {name} in {function}"))["value"].clone()
        };
        assert_eq!(value("long_ones", "numbers")["length"], 10_000_000);
        assert_eq!(value("long_ones", "text")["length"], 200_000_000);
        assert_eq!(value("long_ones", "table")["length"], 3_000_000);
        assert_eq!(value("long_ones", "names")["length"], 3_000_000);
        assert_eq!(
            value("long_ones", "names")["items"]
                .as_array()
                .map(Vec::len),
            Some(32)
        );
        assert_eq!(value("long_ones", "number")["text"], Value::Null);
        assert_eq!(value("cyclic", "ring")["items"][29]["kind"], "cycle");
        assert_eq!(
            value("cyclic", "loop")["entries"][0]["value"]["kind"],
            "cycle"
        );
        assert_eq!(
            value("deep", "nest")["items"][0]["items"][0]["items"][0]["items"][0]["items"][0]["kind"],
            "omitted"
        );
        for name in [
            "wrong_type",
            "no_type",
            "wild_list",
            "wild_items",
            "wild_text",
        ] {
            assert_eq!(value("broken", name)["kind"], "unreadable", "{name}");
        }
        assert_eq!(value("broken", "whole")["text"], "whole");
        Ok(None)
    });
}

#[test]
fn secrets_are_shown_only_when_asked_for() {
    let path = hostile("secrets.py");
    let path = path.to_str().expect("our own path is text");
    let mut command = Command::new(&any_interpreter().path);
    let (target, line) = Target::start_and_listen(command.args(["-S", "-E", path]));
    assert_eq!(line, "ready");
    for format in [&["--json"][..], &[]] {
        let options = [&["--locals"], format].concat();
        let redacted = ask_about("dump", target.pid(), &options).expect(0);
        let options = [&["--locals", "--no-redact"], format].concat();
        let whole = ask_about("dump", target.pid(), &options).expect(0);
        for number in 1..=9 {
            let secret = format!("hush-{number}");
            assert!(
                !redacted.stdout.contains(&secret),
                "{secret}: {redacted:#?}"
            );
            assert!(whole.stdout.contains(&secret), "{secret}: {whole:#?}");
        }
        for number in 1..=6 {
            let open = format!("open-{number}");
            assert!(redacted.stdout.contains(&open), "{open}: {redacted:#?}");
        }
    }
}
