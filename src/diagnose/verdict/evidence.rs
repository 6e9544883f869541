//! What led to a verdict, fact by fact, in words and numbers.

use std::time::Duration;

use serde_json::json;

use crate::diagnose::verdict::case::{Case, name_of};
use crate::diagnose::verdict::names::{call_of, resource_text};
use crate::diagnose::wait_graph::assessment::since_of;
use crate::model::{
    Evidence, HolderConfidence, Resource, Since, SinceSource, ThreadRef, ThreadSnapshot, Wait,
    WaitKind, span, whole_milliseconds,
};

pub fn basic_facts(case: &Case<'_>) -> Vec<Evidence> {
    let mut facts = vec![state_fact(case.thread)];
    facts.extend(since_of(case.thread).map(since_fact));
    facts
}

pub fn stuck_facts(case: &Case<'_>, since: Option<Since>) -> Vec<Evidence> {
    let mut evidence = Vec::new();
    let wait = case.thread.wait.as_ref();
    if let Some(wait) = wait {
        evidence.push(Evidence {
            fact: "wait.syscall",
            value: json!(wait.syscall),
            text: match (&wait.syscall, wait.kind) {
                (None, WaitKind::PageFault) => "it is blocked outside of system calls".to_owned(),
                _ => format!("it is blocked in {}", call_of(wait)),
            },
        });
    }
    if let Some(since) = since {
        evidence.push(since_fact(since));
        if since.elapsed >= case.threshold {
            evidence.push(Evidence {
                fact: "threshold_ms",
                value: json!(whole_milliseconds(case.threshold)),
                text: format!("that is beyond the threshold of {}", span(case.threshold)),
            });
        }
    }
    evidence.extend(
        wait.and_then(|wait| wait.resource.as_ref())
            .map(resource_fact),
    );
    evidence.extend(wait.and_then(tcp_fact));
    evidence.extend(wait.and_then(unacked_fact));
    evidence.extend(case.owed.map(|why| Evidence {
        fact: "answer",
        value: json!(why),
        text: format!("its frames tell that an answer is owed: {why}"),
    }));
    evidence
}

fn resource_fact(resource: &Resource) -> Evidence {
    Evidence {
        fact: "wait.resource",
        value: json!(resource),
        text: resource_text(resource),
    }
}

fn tcp_fact(wait: &Wait) -> Option<Evidence> {
    let tcp = wait.resource.as_ref()?.tcp?;
    let ago = |milliseconds: u32| span(Duration::from_millis(u64::from(milliseconds)));
    Some(Evidence {
        fact: "wait.resource.last_data_recv_ms",
        value: json!(tcp.last_data_recv_ms),
        text: format!(
            "nothing has come on it for {}, nothing was sent for {}",
            ago(tcp.last_data_recv_ms),
            ago(tcp.last_data_sent_ms)
        ),
    })
}

/// What was sent and is not even confirmed by the peer's machine: it did not get there.
fn unacked_fact(wait: &Wait) -> Option<Evidence> {
    let tcp = wait.resource.as_ref()?.tcp?;
    (tcp.unacked > 0 && tcp.retransmits > 0).then(|| Evidence {
        fact: "wait.resource.unacked",
        value: json!(tcp.unacked),
        text: format!(
            "what was sent is not confirmed by the other machine ({} in flight, sent again {}): the way there is broken",
            counted(tcp.unacked, "segment"),
            counted(tcp.retransmits, "time")
        ),
    })
}

fn counted(number: u32, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}

pub fn holder_fact(case: &Case<'_>) -> Option<Evidence> {
    let holder = case.thread.wait.as_ref()?.holder.as_ref()?;
    let who = match (holder.tid, holder.is_gone) {
        (Some(tid), _) => name_of(
            case,
            ThreadRef {
                pid: holder.pid,
                tid,
            },
        ),
        (None, _) => match &holder.title {
            Some(title) => format!("process {} ({title})", holder.pid),
            None => format!("process {}", holder.pid),
        },
    };
    let sure = match holder.confidence {
        HolderConfidence::Proven => "",
        HolderConfidence::Inferred => ", as its stack shows",
        HolderConfidence::Possible => ", possibly",
    };
    let text = match (
        holder.is_gone,
        holder.pid == case.process.pid && holder.tid.is_none(),
    ) {
        (false, _) => format!("it is for {who} to end that{sure}"),
        (true, false) => format!("it was for {who} to end that{sure}, which is not there any more"),
        (true, true) => {
            format!("it was for another thread to end that{sure}, which is not there any more")
        }
    };
    Some(Evidence {
        fact: "wait.holder",
        value: json!(holder),
        text,
    })
}

pub fn hopeless_fact(case: &Case<'_>) -> Evidence {
    let threads = case.process.threads.len();
    let text = match case.thread.wait.as_ref().map(|wait| wait.kind) {
        Some(WaitKind::SocketRecv | WaitKind::SocketSend) => {
            "nobody else has its other end open".to_owned()
        }
        Some(WaitKind::PipeRead) => "nobody else has its other end open for writing".to_owned(),
        Some(WaitKind::PipeWrite) => "nobody else has its other end open for reading".to_owned(),
        _ if threads == 1 => {
            "the process has no other thread, so that none can release it: it was held when the process was forked, or by itself"
                .to_owned()
        }
        _ => "whoever held it has ended".to_owned(),
    };
    Evidence {
        fact: "wait.holder",
        value: json!(null),
        text,
    }
}

pub fn state_fact(thread: &ThreadSnapshot) -> Evidence {
    Evidence {
        fact: "state",
        value: json!(thread.state),
        text: format!("the scheduler has it as {}", thread.state.word()),
    }
}

pub fn since_fact(since: Since) -> Evidence {
    Evidence {
        fact: "wait.since_ms",
        value: json!(whole_milliseconds(since.elapsed)),
        text: match since.source {
            SinceSource::Sched => format!(
                "it has not run for {} by the scheduler's record",
                span(since.elapsed)
            ),
            SinceSource::Tcp => format!(
                "it has waited for {} by the connection's record",
                span(since.elapsed)
            ),
            SinceSource::Observed => format!(
                "it has not run for {} or a little longer, as seen by us",
                span(since.elapsed)
            ),
        },
    }
}
