//! Web servers and their workers.

use serde_json::{Value, json};

use crate::case::finds;

/// A handler waits for a server that does not answer; nobody else is held up.
fn stuck_handler() -> Value {
    json!({
        "verdict": "hang-network", "confidence": "likely", "root": "$worker", "blocks": [],
        "context": {
            "kind": "http", "what": "head of an HTTP response", "method": "GET", "url": "/pods", "host": "127.0.0.1",
            "port": "$port", "timeout": null, "pool_timeout": null,
        },
        "wait": {"kind": "socket-recv", "resource": {"peer": "$peer"}, "holder": {"pid": "$server", "confidence": "inferred"}},
    })
}

#[test]
fn a_handler_in_a_worker_of_gunicorn() {
    finds("web_servers gunicorn_stuck", &[stuck_handler()]);
}

/// Named by its thread; the worker's main thread goes on taking connections.
#[test]
fn a_handler_in_a_thread_of_gunicorn() {
    finds("web_servers gunicorn_threads_stuck", &[stuck_handler()]);
}

/// A handler that blocks the event loop, and with it all other requests.
#[test]
fn a_handler_that_blocks_the_loop_of_uvicorn() {
    finds("web_servers uvicorn_stuck", &[stuck_handler()]);
}
