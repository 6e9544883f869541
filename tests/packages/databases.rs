//! PostgreSQL and Redis, and pools of connections to them.

use serde_json::{Value, json};

use crate::case::finds;

/// The main thread polls its connection to PostgreSQL, whose process for it is the one that owes the answer.
fn silent_postgres(context: &Value) -> Value {
    json!({
        "verdict": "hang-network", "confidence": "likely", "root": "$pid", "blocks": [], "context": context,
        "wait": {"kind": "socket-recv", "syscall": "poll", "timeout_ms": null, "resource": {"type": "tcp", "peer": "$peer"},
                 "holder": {"pid": "$server", "confidence": "proven"}},
    })
}

/// The cursor is C, so that no frame has the statement.
#[test]
fn a_query_that_takes_an_hour() {
    finds("databases psycopg2_slow", &[silent_postgres(&Value::Null)]);
}

/// It never blocks for longer than a tenth of a second; that nothing comes is told by what TCP has counted.
#[test]
fn a_query_that_is_waited_for_in_slices() {
    let context =
        json!({"kind": "sql", "what": "SQL statement", "statement": "SELECT pg_sleep(?)"});
    let mut finding = silent_postgres(&context);
    finding["wait"] = json!({
        "kind": "socket-recv", "resource": {"type": "tcp", "peer": "$peer"}, "holder": {"pid": "$server", "confidence": "proven"},
    });
    finds("databases psycopg3_slow", &[finding]);
}

#[test]
fn a_row_that_somebody_has_locked_who_is_idle_in_his_transaction() {
    let context = json!({
        "kind": "sql", "what": "SQL statement", "statement": "SELECT * FROM job WHERE id = ? FOR UPDATE",
    });
    finds("databases psycopg2_row_lock", &[silent_postgres(&context)]);
}

/// One finding: the query of the thread that has the connection, and all that wait for it.
#[test]
fn an_exhausted_pool_of_sqlalchemy() {
    let finding = json!({
        "verdict": "hang-network", "confidence": "likely", "root": "$first", "blocks": ["$pid", "$second", "$third"],
        "context": {"kind": "sql", "what": "SQL statement", "statement": "SELECT pg_sleep(?)"},
        "wait": {"kind": "socket-recv", "resource": {"type": "tcp", "peer": "$peer"}},
    });
    finds("databases sqlalchemy_pool_is_empty", &[finding]);
}

fn redis_context(command: &str) -> Value {
    json!({
        "kind": "redis", "what": "answer of Redis", "command": command, "host": "localhost", "port": "$port", "timeout": null,
    })
}

/// The root is the server, which is stopped; what it is about, the client knows.
#[test]
fn redis_that_is_stopped() {
    let finding = json!({
        "verdict": "stopped", "confidence": "proven", "root": "$server", "blocks": ["$pid"], "context": redis_context("GET"),
    });
    finds("redis_clients get", &[finding]);
}

#[test]
fn redis_that_lets_its_clients_wait() {
    let finding = json!({
        "verdict": "hang-network", "confidence": "likely", "root": "$pid", "blocks": [], "context": redis_context("GET"),
        "wait": {"kind": "socket-recv", "resource": {"peer": "$peer"}, "holder": {"pid": "$server", "confidence": "proven"}},
    });
    finds("redis_clients get_while_paused", &[finding]);
}
