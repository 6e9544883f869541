//! The scheduler that began all this: a Kubernetes API call without a timeout, on the packages and the Python of its time.

use serde_json::json;

use crate::case::Case;

/// One finding says which request it is, to whom, that no timeout is set, since when, and which two processes wait for it.
#[test]
fn a_scheduler_of_2019() {
    let Some(mut case) = Case::start("3.6", "scheduler") else {
        return;
    };
    let document = case.expect(&[json!({
        "verdict": "hang-network", "confidence": "likely", "root": "$pid", "blocks": ["$manager", "$processor"],
        "context": {
            "kind": "http", "what": "head of an HTTP response", "method": "POST", "host": "127.0.0.1", "port": "$port",
            "url": "/api/v1/namespaces/airflow/pods", "path": "/api/v1/namespaces/airflow/pods", "namespace": "airflow",
            "timeout": null, "pool_timeout": null,
        },
        "wait": {
            "kind": "socket-recv", "syscall": "read", "timeout_ms": null, "since_source": "sched",
            "resource": {"type": "tcp", "peer": "$peer", "state": "ESTABLISHED", "recv_timeout_ms": null, "keepalive": false},
            "holder": {"pid": "$server", "confidence": "inferred"},
        },
    })]);
    let frames = &document["processes"][0]["threads"][0]["frames"];
    let functions: Vec<_> = frames
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|frame| Some((frame["function"].as_str()?, frame["module"].as_str()?)))
        .collect();
    // As the seed shows them.
    for place in [
        ("recv_into", "OpenSSL.SSL"),
        ("recv_into", "urllib3.contrib.pyopenssl"),
        ("begin", "http.client"),
        ("_make_request", "urllib3.connectionpool"),
        ("request_encode_body", "urllib3.request"),
        (
            "create_namespaced_pod_with_http_info",
            "kubernetes.client.apis.core_v1_api",
        ),
    ] {
        assert!(functions.contains(&place), "{place:?} in {functions:?}");
    }
    assert!(!document.to_string().contains("not-to-be-shown"));
}

/// For who reads it at night: what it is, why that is known, whom it holds up, what helps, where it is; in this order.
#[test]
fn the_scheduler_of_2019_in_text() {
    let Some(mut case) = Case::start("3.6", "scheduler") else {
        return;
    };
    case.expect(&[json!({
        "verdict": "hang-network", "confidence": "likely", "root": "$pid", "blocks": ["$manager", "$processor"],
    })]);
    let text = case.diagnose_in_text();
    let first = text.lines().nth(2).unwrap_or_default();
    let peer = case.name("peer").as_str().expect("an address");
    for part in [
        "hang-network (likely): in process",
        "MainThread",
        " waits ",
        peer,
        "no timeout",
    ] {
        assert!(first.contains(part), "{part} in {first}");
    }
    let parts = [
        "  evidence: ".to_owned(),
        "  request:    POST ".to_owned(),
        "/api/v1/namespaces/airflow/pods (head of an HTTP response".to_owned(),
        "  holds up:   MainThread (tid ".to_owned(),
        "  suggestion: set a timeout on this call".to_owned(),
        "  stack:\n    recv_into (OpenSSL/SSL.py:1821)\n".to_owned(),
    ];
    let places: Vec<_> = parts.iter().map(|part| text.find(part.as_str())).collect();
    assert!(
        places.iter().all(Option::is_some) && places.is_sorted(),
        "{places:?} in {text}"
    );
    for name in ["manager", "processor"] {
        let held = format!(
            "MainThread (tid {0}) of process {0} waits ",
            case.name(name)
        );
        assert!(text.contains(&held), "{held} in {text}");
    }
}
