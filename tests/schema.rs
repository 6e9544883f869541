//! Every field that the schemas in `docs/` name is filled by some run on a real program.

mod support;

#[path = "support/live.rs"]
mod live;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use live::{Target, any_interpreter, ask_about, is_root, wait_until};
use serde_json::Value;
use support::program;

/// The programs, each with a field that its diagnosis has once it waits for long enough.
const PROGRAMS: [(&str, &str); 19] = [
    // What can't be read says why.
    (
        "../hostile/values",
        ".processes[].threads[].frames[].function",
    ),
    ("values", ".processes[].threads[].frames[].function"),
    ("stuck_scheduler", ".findings[].context.kind"),
    ("waits/recv_tcp", ".processes[].related"),
    (
        "waits/recv_forked",
        ".processes[].threads[].wait.other_holders[].pid",
    ),
    (
        "waits/recv_timeout",
        ".processes[].threads[].wait.resource.recv_timeout_ms",
    ),
    (
        "waits/send_tcp",
        ".processes[].threads[].wait.resource.send_timeout_ms",
    ),
    (
        "waits/poll_more",
        ".processes[].threads[].wait.resource.member_count",
    ),
    (
        "waits/pipe_write",
        ".processes[].threads[].wait.resource.fill",
    ),
    (
        "waits/resolver",
        ".processes[].threads[].wait.resource.resolves_names",
    ),
    (
        "waits/timerfd",
        ".processes[].threads[].wait.resource.remaining_ms",
    ),
    (
        "waits/page_fault",
        ".processes[].threads[].wait.resource.function",
    ),
    ("waits/flock", ".processes[].threads[].wait.resource.name"),
    ("waits/traced", ".processes[].tracer"),
    ("waits/child", ".processes[].threads[].wait.resource.pid"),
    ("waits/sleep_libc", ".processes[].threads[].wait.timeout_ms"),
    ("locks/deadlock", ".findings[].chain[].on.tid"),
    ("locks/forked", ".processes[].threads[].wait.holder.is_gone"),
    ("locks/shared", ".processes[].threads[].wait.holder.pid"),
];

/// Fields that no program fills which can be made here, and why.
const UNFILLED: [(&str, &str, &str); 6] = [
    ("diagnosis", "locals", "only a dump is asked for variables"),
    (
        "dump",
        "related",
        "only a diagnosis looks at those who are waited for",
    ),
    (
        "dump",
        "accepted",
        "only a diagnosis looks for listening sockets",
    ),
    ("", "mount", "takes a file system that does not answer"),
    (
        "",
        "other_holders[].is_gone",
        "takes one of several holders that ends",
    ),
    (
        "",
        "other_holders[].thread",
        "takes several threads that could have it, which is random",
    ),
];

/// Adds the paths of all fields that are not null.
fn collect(value: &Value, path: &str, filled: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members.iter().filter(|(_, value)| !value.is_null()) {
                let path = format!("{path}.{name}");
                collect(value, &path, filled);
                filled.insert(path);
            }
        }
        Value::Array(items) => {
            for item in items {
                collect(item, &format!("{path}[]"), filled);
            }
        }
        _ => {}
    }
}

/// Adds the paths of all properties of a schema; what contains itself is followed once.
fn collect_properties(
    root: &Value,
    schema: &Value,
    path: &str,
    above: &[&str],
    all: &mut BTreeSet<String>,
) {
    if let Some(name) = schema["$ref"]
        .as_str()
        .and_then(|text| text.rsplit('/').next())
    {
        if !above.contains(&name) {
            let above = [above, &[name]].concat();
            collect_properties(root, &root["$defs"][name], path, &above, all);
        }
        return;
    }
    for choice in ["anyOf", "oneOf"] {
        for one in schema[choice].as_array().into_iter().flatten() {
            collect_properties(root, one, path, above, all);
        }
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        collect_properties(root, property, &path, above, all);
        all.insert(path);
    }
    if schema["items"].is_object() {
        collect_properties(root, &schema["items"], &format!("{path}[]"), above, all);
    }
}

fn properties_of(name: &str) -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/{name}.schema.json"));
    let text = fs::read_to_string(&path).expect("the schema is there");
    let schema: Value = serde_json::from_str(&text).expect("the schema is JSON");
    let mut all = BTreeSet::new();
    collect_properties(&schema, &schema, "", &[], &mut all);
    all
}

/// Starts a program, which says a line when it is about to wait.
fn start(name: &str, folder: &Path) -> Target {
    let mut command = Command::new(&any_interpreter().path);
    command
        .arg(program::folder().join(format!("{name}.py")))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("TMPDIR", folder)
        .env("STUCKSPY_READY_FD", "1")
        .env("STUCKSPY_TRUTH", folder.join("truth.json"))
        .env("STUCKSPY_PROGRESS", folder.join("progress"));
    Target::start_and_listen(&mut command).0
}

#[test]
fn every_field_is_filled_by_some_program() {
    if !is_root("the fields of the documents") {
        return;
    }
    let (mut diagnosed, mut dumped) = (BTreeSet::new(), BTreeSet::new());
    for (name, mark) in PROGRAMS {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let target = start(name, folder.path());
        wait_until(&format!("{name} has {mark}"), || {
            let mut options = vec!["--json", "--threshold", "300ms"];
            // A child that was not asked for is looked at because it is waited for.
            options.extend((mark == ".processes[].related").then_some("--no-children"));
            let answer = ask_about("diagnose", target.pid(), &options);
            let mut filled = BTreeSet::new();
            collect(&answer.expect_one_of(&[0, 1]).json(), "", &mut filled);
            let is_there = filled.contains(mark);
            diagnosed.append(&mut filled);
            is_there
        });
        let options = ["--json", "--locals", "--subprocesses"];
        let answer = ask_about("dump", target.pid(), &options).expect(0);
        collect(&answer.json(), "", &mut dumped);
    }
    let mut failures = Vec::new();
    for (document, filled) in [("diagnosis", diagnosed), ("dump", dumped)] {
        let is_known = |path: &String| {
            UNFILLED.iter().any(|(only, name, _)| {
                let is_it = path.ends_with(&format!(".{name}"))
                    || path.contains(&format!(".{name}[]"))
                    || path.contains(&format!(".{name}."));
                is_it && (only.is_empty() || *only == document)
            })
        };
        let missing = properties_of(document).into_iter();
        let missing = missing.filter(|path| !filled.contains(path) && !is_known(path));
        failures.extend(missing.map(|path| format!("{document}: {path}")));
    }
    assert!(failures.is_empty(), "no document fills {failures:#?}");
}
