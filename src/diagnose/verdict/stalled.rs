//! A call that waits in slices and makes no progress, in words: what it waits for, how often it has tried, and what shows that it makes no progress.

use std::time::Duration;

use serde_json::json;

use crate::diagnose::pending::{Cause, Stall};
use crate::diagnose::verdict::case::Case;
use crate::diagnose::verdict::names::thread_name;
use crate::model::{CaughtError, Evidence, Slices, Socket, WaitKind, span, whole_milliseconds};
use crate::wait::sentence;

/// Most errors that are named.
const MAX_ERRORS: usize = 3;
/// Most connections that are named.
const MAX_CONNECTIONS: usize = 3;

/// "MainThread (tid 7) waits 41s for a connection to 10.0.0.1:5672 in slices of 1.0s; each attempt ends with ConnectionRefusedError (errno 111)".
pub fn stall_text(case: &Case<'_>, stall: &Stall) -> String {
    let name = thread_name(case.thread);
    let wait = case.thread.wait.as_ref();
    let slices = wait.and_then(|wait| wait.slices.as_ref());
    let in_slices = slices
        .and_then(|slices| slices.period)
        .map(|period| format!(" in slices of {}", span(period)))
        .unwrap_or_default();
    let is_told = wait.is_some_and(|wait| wait.kind != WaitKind::Sleep);
    let what = wait
        .filter(|_| is_told)
        .and_then(|wait| sentence(wait, case.process.pid));
    let mut text = match what {
        Some(what) => {
            let (before, after) = match what.rsplit_once("no timeout") {
                Some((before, after)) => (before.to_owned() + in_slices.trim_start(), after),
                None => (what + &in_slices, ""),
            };
            format!("{name} {before}{after}")
        }
        None => format!(
            "{name} waits {}{in_slices} in {}",
            span(stall.since.elapsed),
            stall.call.place()
        ),
    };
    match &stall.cause {
        Cause::OverLimit(limit) => text.push_str(&format!(
            "; longer than its {} of {}",
            limit.name,
            span(limit.limit)
        )),
        Cause::Fails(error) => {
            text.push_str(&format!("; its attempts end with {}", error_text(error)));
        }
        Cause::Held | Cause::HandOff => {}
    }
    text
}

/// An exception by its type and number.
pub fn error_text(error: &CaughtError) -> String {
    match error.errno {
        Some(number) => format!("{} (errno {number})", error.type_name),
        None => error.type_name.clone(),
    }
}

/// What shows that the call makes no progress.
pub fn stall_facts(case: &Case<'_>, stall: &Stall) -> Vec<Evidence> {
    let mut evidence = Vec::new();
    let wait = case.thread.wait.as_ref();
    if let Some(slices) = wait.and_then(|wait| wait.slices.as_ref()) {
        evidence.push(slices_fact(case, stall, slices));
    }
    match &stall.cause {
        Cause::OverLimit(limit) => evidence.push(Evidence {
            fact: "wait.call.limit_ms",
            value: json!(whole_milliseconds(limit.limit)),
            text: format!(
                "{} was called with {}: {}, and has not returned",
                limit.call.place(),
                limit.name,
                span(limit.limit)
            ),
        }),
        Cause::Fails(error) => evidence.push(Evidence {
            fact: "wait.slices.errors",
            value: json!(error),
            text: match &error.address {
                Some(address) => {
                    format!("each attempt on {address} ends with {}", error_text(error))
                }
                None => format!("each attempt ends with {}", error_text(error)),
            },
        }),
        Cause::Held | Cause::HandOff => {}
    }
    if !matches!(stall.cause, Cause::Held | Cause::HandOff) {
        evidence.extend(connections_fact(case));
    }
    evidence
}

/// With whom its process exchanged data meanwhile: a call that sleeps between attempts shows no connection of its own.
fn connections_fact(case: &Case<'_>) -> Option<Evidence> {
    let busy = case.observed?.busy_connections(case.process.pid);
    if busy.is_empty() {
        return None;
    }
    let describe = |socket: &&Socket| {
        let peer = socket.peer.as_deref().unwrap_or("(unknown)");
        let ago = |milliseconds: u32| span(Duration::from_millis(u64::from(milliseconds)));
        match &socket.tcp {
            _ if socket.state == "SYN_SENT" => format!("{peer} (connecting)"),
            Some(tcp) => format!(
                "{peer} (last data sent {} ago, received {} ago)",
                ago(tcp.last_data_sent_ms),
                ago(tcp.last_data_recv_ms)
            ),
            None => peer.to_owned(),
        }
    };
    let mut shown: Vec<String> = busy.iter().take(MAX_CONNECTIONS).map(describe).collect();
    if busy.len() > MAX_CONNECTIONS {
        shown.push(format!("{} more", busy.len() - MAX_CONNECTIONS));
    }
    let peers: Vec<&str> = busy
        .iter()
        .filter_map(|socket| socket.peer.as_deref())
        .collect();
    Some(Evidence {
        fact: "processes.connections",
        value: json!(peers),
        text: format!("meanwhile its process talked to {}", shown.join(", ")),
    })
}

fn slices_fact(case: &Case<'_>, stall: &Stall, slices: &Slices) -> Evidence {
    let watched = case.seen().map(|seen| seen.progress.watched);
    let errors: Vec<String> = slices
        .errors
        .iter()
        .take(MAX_ERRORS)
        .map(error_text)
        .collect();
    let errors = match errors.is_empty() {
        true => String::new(),
        false => format!(", handling {}", errors.join(", ")),
    };
    Evidence {
        fact: "wait.slices",
        value: json!(slices),
        text: format!(
            "every sample of {} was in {}; it woke {} times{errors}",
            span(watched.unwrap_or_default()),
            stall.call.place(),
            slices.count
        ),
    }
}
