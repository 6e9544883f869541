//! Workers of queues: Celery and RQ.

use serde_json::{Value, json};

use crate::case::finds;

fn stuck_in_a_request(root: &str, blocks: &[&str]) -> Value {
    json!({
        "verdict": "hang-network", "confidence": "likely", "root": root, "blocks": blocks,
        "context": {
            "kind": "http", "what": "head of an HTTP response", "method": "GET", "url": "/pods", "host": "127.0.0.1",
            "port": "$port", "timeout": null, "pool_timeout": null,
        },
        "wait": {"kind": "socket-recv", "resource": {"peer": "$peer"}, "holder": {"pid": "$server", "confidence": "inferred"}},
    })
}

/// The child that runs the task is the root; its parent and its sibling are idle, and not held up.
#[test]
fn a_task_of_celery_without_a_timeout() {
    let finding = stuck_in_a_request("$busy", &[]);
    finds("celery_workers task_without_a_timeout", &[finding]);
}

#[test]
fn a_broker_that_does_not_take_the_task() {
    let finding = json!({
        "verdict": "stopped", "confidence": "proven", "root": "$server", "blocks": ["$pid"],
        "context": {
            "kind": "redis", "what": "answer of Redis", "command": "LPUSH", "host": "127.0.0.1", "port": "$port", "timeout": null,
        },
    });
    finds("celery_workers broker_does_not_answer", &[finding]);
}

/// The work horse is the root, and the worker waits for it.
#[test]
fn a_job_of_rq_without_a_timeout() {
    let finding = stuck_in_a_request("$horse", &["$pid"]);
    finds("rq_workers job_without_a_timeout", &[finding]);
}
