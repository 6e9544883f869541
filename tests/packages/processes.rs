//! Processes that wait for each other.

use serde_json::{Value, json};

use crate::case::{Case, finds};

#[test]
fn a_child_that_waits_for_a_server() {
    let finding = json!({
        "verdict": "hang-network", "confidence": "likely", "root": "$child", "blocks": ["$pid"],
        "wait": {"kind": "socket-recv", "resource": {"peer": "$peer"}, "holder": {"pid": "$server"}},
    });
    finds("processes join_of_a_stuck_child", &[finding]);
}

fn child_to_end(name: &str) -> Value {
    json!({"kind": "subprocess", "what": "child process to end", "name": name, "pid": "$child", "timeout": null})
}

/// From the parent to the child, within that to its queue's thread, and over the pipe back to the parent.
#[test]
fn a_queue_that_is_joined_before_it_is_drained() {
    let finding = json!({
        "verdict": "deadlock", "confidence": "likely", "root": "$pid", "blocks": ["$child", "$feeder"],
        "context": child_to_end("Process-1"), "wait": {"kind": "child", "holder": {"pid": "$child", "confidence": "proven"}},
    });
    finds("processes join_before_drain", &[finding]);
}

/// What helps against a circle of pipes is another thing than against one of locks.
#[test]
fn what_helps_against_a_full_pipe() {
    let Some(mut case) = Case::start("3.11", "processes wait_with_a_full_pipe") else {
        return;
    };
    let document = case.expect(&[full_pipe()]);
    let advice = document["findings"][0]["advice"].as_str();
    assert!(
        advice.is_some_and(|text| text.contains("communicate()")),
        "{advice:?}"
    );
}

fn full_pipe() -> Value {
    json!({
        "verdict": "deadlock", "confidence": "proven", "root": "$pid", "blocks": ["$child"],
        "wait": {"kind": "child", "resource": {"type": "process", "pid": "$child"}, "holder": {"pid": "$child", "confidence": "proven"}},
    })
}

#[test]
fn a_child_whose_output_nobody_reads() {
    finds("processes wait_with_a_full_pipe", &[full_pipe()]);
}

/// What another program does is not known, but that it can't go on is.
#[test]
fn another_program_whose_output_nobody_reads() {
    let case = "processes wait_for_another_program_with_a_full_pipe";
    finds(case, &[full_pipe()]);
}

#[test]
fn two_that_send_and_do_not_receive() {
    let finding = json!({
        "verdict": "deadlock", "confidence": "proven", "root": "$pid", "blocks": ["$child"],
        "wait": {"kind": "socket-send", "resource": {"type": "unix"}, "holder": {"pid": "$child", "confidence": "proven"}},
    });
    finds("processes both_send", &[finding]);
}

#[test]
fn a_task_that_waits_for_a_task_of_its_own_pool() {
    let finding = json!({
        "verdict": "hang-lock", "confidence": "possible", "root": "$worker", "blocks": ["$pid"],
        "wait": {"kind": "condition", "resource": {"type": "concurrent.futures._base.Future"}, "holder": null},
    });
    finds("processes executor_waits_for_itself", &[finding]);
}

/// One finding for all who wait, since none of them is the cause.
#[test]
fn a_lock_of_a_process_that_was_killed() {
    let finding = json!({
        "verdict": "hang-lock", "confidence": "likely", "root": "$pid", "blocks": ["$waiter"], "context": null,
        "wait": {"kind": "shared-semaphore", "holder": {"pid": "$waiter", "confidence": "possible"}},
    });
    finds("processes holder_of_a_semaphore_is_killed", &[finding]);
}

#[test]
fn a_file_lock_of_a_process_that_waits_for_a_server() {
    let finding = json!({
        "verdict": "hang-network", "confidence": "likely", "root": "$other", "blocks": ["$pid"],
        "wait": {"kind": "socket-recv", "resource": {"peer": "$peer"}},
    });
    finds("processes file_lock", &[finding]);
}

#[test]
fn a_file_lock_of_an_idle_process() {
    let finding = json!({
        "verdict": "hang-file-lock", "confidence": "likely", "root": "$other", "blocks": ["$pid"], "context": null,
    });
    finds("processes file_lock_of_an_idle_process", &[finding]);
}

#[test]
fn a_child_that_is_stopped() {
    let finding = json!({
        "verdict": "stopped", "confidence": "proven", "root": "$child", "blocks": ["$pid"],
        "context": {
            "kind": "subprocess", "what": "child process to end", "command": "*", "pid": "$child", "timeout": null,
        },
    });
    finds("processes stopped_child", &[finding]);
}

/// Nobody but the process itself has the other end, and no handler of signals could write to it.
#[test]
fn a_reader_of_its_own_that_is_joined() {
    let finding = json!({
        "verdict": "deadlock", "confidence": "likely", "root": "$pid", "blocks": ["$subscriber"],
        "context": {"kind": "*", "what": "thread to end", "thread": "subscriber", "timeout": null},
    });
    finds("processes join_of_a_reader_of_its_own", &[finding]);
}
