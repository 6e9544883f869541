//! Every field that the schemas in `docs/` name is filled by some run on a real program, and none is filled that they don't name.

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
use support::schema::{collect_filled, fields_of, find_schema_errors};

/// The programs, each with a field that its diagnosis has once it waits for long enough.
const PROGRAMS: [(&str, &str); 28] = [
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
        "locks/mutex",
        ".processes[].threads[].wait.resource.is_shared",
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
    (
        "waits/terminal",
        ".processes[].threads[].wait.resource.had_input",
    ),
    ("waits/traced", ".processes[].tracer"),
    ("waits/child", ".processes[].threads[].wait.resource.pid"),
    ("waits/sleep_libc", ".processes[].threads[].wait.timeout_ms"),
    (
        "calls/refused",
        ".processes[].threads[].wait.slices.errors[].address",
    ),
    ("locks/deadlock", ".findings[].chain[].on.tid"),
    ("locks/forked", ".processes[].threads[].wait.holder.is_gone"),
    ("locks/shared", ".processes[].threads[].wait.holder.pid"),
    ("locks/event", ".processes[].threads[].wait.reach.is_global"),
    (
        "reach/events",
        ".processes[].threads[].wait.reach.references",
    ),
    (
        "loops/recv",
        ".processes[].threads[].event_loop.running.coroutine",
    ),
    (
        "loops/circle",
        ".processes[].threads[].event_loop.tasks[].awaits.task",
    ),
    (
        "moving/spin_flag",
        ".processes[].threads[].progress.loop.changes",
    ),
    (
        "moving/slices",
        ".processes[].threads[].progress.received_bytes",
    ),
];

/// Why a field is filled by none of these programs.
enum Why {
    /// Nothing that can be made here fills it; `src/report/json/tests.rs` does.
    Never(&'static str),
    /// This test fills it and looks at it.
    Elsewhere(&'static str),
    /// The same, and these programs do where the machine is a container, or has a CPU limit.
    OfMachine(&'static str),
}

const IN_PODS: &str = "node::pods_are_named_and_peers_found_in_other_networks";
const OF_DUMPS: &str = "only a dump is asked for variables";

/// Fields that no program fills, with all below them, by their document if it is one in particular.
const UNFILLED: [(&str, &str, Why); 21] = [
    (
        "",
        "processes[].unread_threads",
        Why::Never("takes descriptors that run out after the process was opened"),
    ),
    ("", "processes[].ns_pid", Why::Elsewhere(IN_PODS)),
    ("", "processes[].container", Why::OfMachine(IN_PODS)),
    (
        "diagnosis",
        "processes[].progress.throttled_ms",
        Why::OfMachine("moving::a_cpu_limit_that_starves_is_named"),
    ),
    (
        "",
        "threads[].blocked_hub",
        Why::Elsewhere("event_loops::a_plain_receive_blocks_the_hub_of_gevent"),
    ),
    (
        "",
        "event_loop.total_is_minimum",
        Why::Elsewhere("event_loops::more_tasks_than_are_counted_are_reported_as_at_least"),
    ),
    (
        "",
        "event_loop.running.frames[]",
        Why::Never("its calls are on the stack of the thread"),
    ),
    (
        "",
        "event_loop.running.awaits",
        Why::Never("a task that runs does not wait"),
    ),
    (
        "dump",
        "event_loop.tasks[].frames[].locals",
        Why::Never("variables are read of the thread's own calls only"),
    ),
    (
        "diagnosis",
        "event_loop.tasks[].frames[].locals",
        Why::Never(OF_DUMPS),
    ),
    (
        "diagnosis",
        "threads[].frames[].locals",
        Why::Never(OF_DUMPS),
    ),
    ("diagnosis", "loop.frames[].locals", Why::Never(OF_DUMPS)),
    (
        "dump",
        "processes[].related",
        Why::Never("only a diagnosis looks at those who are waited for"),
    ),
    (
        "dump",
        "resource.accepted",
        Why::Never("only a diagnosis looks for listening sockets"),
    ),
    (
        "dump",
        "wait.slices",
        Why::Never("only a diagnosis watches"),
    ),
    (
        "dump",
        "resource.users",
        Why::Never("only a diagnosis looks into the variables of those who are waited for"),
    ),
    (
        "dump",
        "wait.reach",
        Why::Never("only a diagnosis finds out who can reach what"),
    ),
    (
        "diagnosis",
        "reach.is_cut",
        Why::OfMachine("reach::more_objects_than_are_looked_into_are_told"),
    ),
    (
        "",
        "resource.mount",
        Why::Never("takes a file system that does not answer"),
    ),
    (
        "",
        "other_holders[].is_gone",
        Why::Never("takes one of several holders that ends"),
    ),
    (
        "",
        "other_holders[].thread",
        Why::Never("takes several threads that could have it, which is random"),
    ),
];

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

/// Whether the path ends in `field`, or leads to something below it.
fn is_within(path: &str, field: &str) -> bool {
    let mut found = path.match_indices(field);
    found.any(|(at, _)| {
        let rest = &path[at + field.len()..];
        path[..at].ends_with('.') && (rest.is_empty() || rest.starts_with(['.', '[']))
    })
}

/// Adds the fields that are filled in the document, which has to keep to its schema.
fn add_filled(name: &str, document: &Value, filled: &mut BTreeSet<String>) {
    assert_eq!(find_schema_errors(name, document), Vec::<String>::new());
    collect_filled(document, "", filled);
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
            let mut options = vec!["--json", "--threshold", "300ms", "--window", "1s"];
            // A child that was not asked for is looked at because it is waited for.
            options.extend((mark == ".processes[].related").then_some("--no-children"));
            let answer = ask_about("diagnose", target.pid(), &options).expect_one_of(&[0, 1]);
            let mut filled = BTreeSet::new();
            add_filled("diagnosis", &answer.json(), &mut filled);
            let is_there = filled.contains(mark);
            diagnosed.append(&mut filled);
            is_there
        });
        let options = ["--json", "--locals", "--subprocesses"];
        let answer = ask_about("dump", target.pid(), &options).expect(0);
        add_filled("dump", &answer.json(), &mut dumped);
    }
    let mut failures = Vec::new();
    for (document, filled) in [("diagnosis", diagnosed), ("dump", dumped)] {
        let fields = fields_of(document);
        let of_this = UNFILLED.iter();
        let of_this: Vec<_> = of_this
            .filter(|(only, ..)| only.is_empty() || *only == document)
            .collect();
        let missing = fields.difference(&filled);
        let missing = missing.filter(|path| {
            let mut listed = of_this.iter();
            !listed.any(|(_, field, _)| is_within(path, field))
        });
        failures.extend(missing.map(|path| format!("{document}: nothing fills {path}")));
        for (_, field, why) in of_this {
            let mut below = fields.iter().filter(|path| is_within(path, field));
            let (Why::Never(why) | Why::Elsewhere(why)) = why else {
                continue;
            };
            if let Some(path) = below.find(|path| filled.contains(*path)) {
                failures.push(format!("{document}: {path} is filled now ({why})"));
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// What is listed is a field, and the test that is said to fill it speaks of it.
#[test]
fn what_is_listed_as_unfilled_is_there() {
    for (document, field, why) in UNFILLED {
        let names = ["diagnosis", "dump"].into_iter();
        for name in names.filter(|name| document.is_empty() || document == *name) {
            let fields = fields_of(name);
            let is_field = fields.iter().any(|path| is_within(path, field));
            assert!(is_field, "{name}: there is no {field}");
        }
        let (Why::Elsewhere(test) | Why::OfMachine(test)) = why else {
            continue;
        };
        let (file, function) = test.split_once("::").expect("a test has a file");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/{file}.rs"));
        let text = fs::read_to_string(path).expect("the file is there");
        let (_, body) = text
            .split_once(&format!("fn {function}()"))
            .expect("the test is there");
        let body = body.split("\n}\n").next().unwrap_or_default();
        let last = field.rsplit('.').next().unwrap_or_default();
        assert!(
            body.contains(&format!("{last:?}")),
            "{test} does not look at {field}"
        );
    }
}
