//! HTTP clients and TLS.

use serde_json::{Value, json};

use crate::case::finds;

/// The main thread waits for its server, and is busy with this.
fn silent_server(context: &Value) -> Value {
    json!({
        "verdict": "hang-network", "confidence": "likely", "root": "$pid", "blocks": [], "context": context,
        "wait": {"kind": "socket-recv", "timeout_ms": null, "resource": {"type": "tcp", "peer": "$peer"},
                 "holder": {"pid": "$server", "confidence": "inferred"}},
    })
}

fn request(method: &str, url: &str) -> Value {
    json!({
        "kind": "http", "what": "head of an HTTP response", "method": method, "url": url, "host": "127.0.0.1", "port": "$port",
        "timeout": null, "pool_timeout": null,
    })
}

#[test]
fn requests_without_a_timeout() {
    let context = request("GET", "/pods?token=<redacted>");
    finds("http_clients requests_get", &[silent_server(&context)]);
}

/// The server's session tickets come last: by the connection alone nothing would be owed.
#[test]
fn requests_over_tls() {
    let context = request("POST", "/pods");
    finds("http_clients requests_post_tls", &[silent_server(&context)]);
}

#[test]
fn urllib3_without_a_timeout() {
    let context = request("DELETE", "/pods");
    finds("http_clients urllib3_pool", &[silent_server(&context)]);
}

/// Whoever waits for a connection of the pool, and for those, is held up by the one who has it and waits for the server.
#[test]
fn an_exhausted_pool_of_connections() {
    let mut finding = silent_server(&request("GET", "/slow"));
    finding["root"] = json!("$first");
    finding["blocks"] = json!(["$pid", "$second", "$third"]);
    finds("http_clients urllib3_pool_is_empty", &[finding]);
}

#[test]
fn a_handshake_with_a_server_that_does_not_speak_tls() {
    let context = json!({"kind": "socket", "what": "TLS handshake", "host": "localhost", "server_side": false});
    finds("http_clients handshake", &[silent_server(&context)]);
}

/// It is the client's turn on a connection that came in, which for a handshake is no excuse.
#[test]
fn a_handshake_with_a_client_that_says_nothing() {
    let context =
        json!({"kind": "socket", "what": "TLS handshake", "host": null, "server_side": true});
    let mut finding = silent_server(&context);
    finding["wait"]["holder"] = json!({"pid": "$client", "confidence": "proven"});
    finds("http_clients handshake_of_a_server", &[finding]);
}

/// What was sent is not even confirmed: that is another trouble than a server that does not answer.
#[test]
fn a_network_that_swallows_everything() {
    let finding = json!({
        "verdict": "hang-network", "confidence": "likely", "root": "$pid", "blocks": [],
        "context": {"kind": "http", "what": "head of an HTTP response", "method": "GET", "host": "10.99.0.2", "port": 80, "timeout": null},
        "wait": {"kind": "socket-recv", "holder": {"confidence": "inferred"},
                 "resource": {"local": "$local", "peer": "$peer", "state": "ESTABLISHED", "unacked": 1, "bytes_received": 0}},
    });
    finds("http_clients black_hole", &[finding]);
}
