//! Threads of one process: who holds up whom.

use serde_json::{Value, json};

use crate::case::{Case, finds};

fn stuck_in_a_request(method: &str, root: &str, blocks: &[&str]) -> Value {
    json!({
        "verdict": "hang-network", "confidence": "likely", "root": root, "blocks": blocks,
        "context": {
            "kind": "http", "what": "head of an HTTP response", "method": method, "url": "/pods", "host": "127.0.0.1",
            "port": "$port", "timeout": null, "pool_timeout": null,
        },
        "wait": {"kind": "socket-recv", "resource": {"peer": "$peer"}, "holder": {"pid": "$server", "confidence": "inferred"}},
    })
}

#[test]
fn a_program_that_does_not_exit_for_a_thread() {
    let finding = stuck_in_a_request("GET", "$worker", &["$pid"]);
    finds("threads exit_with_a_thread", &[finding]);
}

#[test]
fn a_module_that_waits_while_it_is_imported() {
    let finding = stuck_in_a_request("GET", "$first", &["$pid", "$second"]);
    finds("threads import_of_a_module_that_waits", &[finding]);
}

/// From the lock of the log over its pipe to the process that reads that, and what it waits for.
#[test]
fn a_log_that_is_not_taken() {
    let finding = stuck_in_a_request("POST", "$shipper", &["$pid", "$writer", "$other"]);
    finds("threads log_pipe_is_full", &[finding]);
}

fn waits_for_itself(context: &Value) -> Value {
    json!({
        "verdict": "deadlock", "confidence": "likely", "root": "$pid", "blocks": [], "context": context,
        "wait": {"kind": "python-lock", "holder": {"pid": "$pid", "tid": "$tid", "confidence": "inferred"}},
    })
}

#[test]
fn a_finalizer_that_wants_what_its_thread_holds() {
    let context = json!({"kind": "queue", "what": "room in a queue", "size": 0, "timeout": null, "unfinished": 0});
    finds(
        "threads finalizer_wants_the_lock_of_its_thread",
        &[waits_for_itself(&context)],
    );
}

#[test]
fn a_handler_that_wants_what_its_thread_holds() {
    finds(
        "threads handler_wants_the_lock_of_its_thread",
        &[waits_for_itself(&Value::Null)],
    );
}

/// The foreman is idle; the worker is told by its name, which is the task's.
#[test]
fn a_worker_of_a_foreman() {
    let Some(mut case) = Case::start("3.11", "threads foreman") else {
        return;
    };
    let document = case.expect(&[stuck_in_a_request("GET", "$worker", &[])]);
    let summary = document["findings"][0]["summary"]
        .as_str()
        .unwrap_or_default();
    assert!(summary.starts_with("task 000-042 (tid "), "{summary}");
    let document = case.diagnose_beyond_threshold("$pid");
    let foreman = &document["processes"][0]["threads"][0];
    assert_eq!(
        (&foreman["name"], &foreman["verdict"]["class"]),
        (&json!("FOREMAN"), &json!("idle"))
    );
}

/// The lock is one of the log's handlers; in the child nobody is there to release it, and the parent waits for the child.
#[test]
fn a_fork_while_another_thread_logs() {
    let Some(mut case) = Case::start("3.6", "forks fork_while_logging") else {
        return;
    };
    case.expect(&[json!({
        "verdict": "hang-lock", "confidence": "proven", "root": "$child", "blocks": ["$pid"],
        "context": {"kind": "lock", "what": "lock of a log handler", "handler": null},
        "wait": {"kind": "python-rlock", "holder": {"is_gone": true}},
    })]);
}

/// A watch that was silent for longer than the server lets any last; here that is told to be a second.
#[test]
fn a_watch_whose_connection_is_dead() {
    let Some(mut case) = Case::start("3.11", "threads watch_without_events") else {
        return;
    };
    let rules = case.folder().join("rules.toml");
    let text = "[[idle]]\nmodule = 'kubernetes.watch.watch'\nfunction = 'iter_resp_lines'\nwhy = 'a watch waits for its next event'\n\
                through = ['urllib3.*']\nat_most = 0\n";
    std::fs::write(&rules, text).expect("a file in a folder of our own");
    let options = ["--rules", rules.to_str().expect("a path in UTF-8")];
    let finding = json!({
        "verdict": "hang-network", "confidence": "possible", "root": "$pid", "blocks": [],
        "wait": {"kind": "socket-recv", "resource": {"peer": "$peer"}},
    });
    case.expect_with(&options, &[finding]);
    case.expect(&[]);
}
