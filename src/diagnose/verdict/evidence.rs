//! What led to a verdict, fact by fact, in words and numbers.

use std::time::Duration;

use serde_json::json;

use crate::diagnose::verdict::case::{Case, name_of};
use crate::diagnose::verdict::names::{call_of, resource_text};
use crate::diagnose::wait_graph::Stuck;
use crate::diagnose::wait_graph::assessment::since_of;
use crate::model::{
    Evidence, FrameKind, HolderConfidence, Resource, SchedState, Since, SinceSource, ThreadRef,
    ThreadSnapshot, UsedBy, VerdictClass, Wait, WaitKind, find_thread, span, whole_milliseconds,
};
use crate::wait::{polls_pipes, sentence};

/// Most threads that are named as those who can reach an object.
const MAX_NAMED: usize = 4;

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
                (None, WaitKind::PageFault) => "blocked outside of system calls".to_owned(),
                _ => format!("blocked in {}", call_of(wait)),
            },
        });
    }
    if let Some(since) = since {
        evidence.push(since_fact(since));
        if since.elapsed >= case.threshold {
            evidence.push(Evidence {
                fact: "threshold_ms",
                value: json!(whole_milliseconds(case.threshold)),
                text: format!("longer than the threshold of {}", span(case.threshold)),
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
        text: format!("a request is outstanding, as its frames show: {why}"),
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
            "last data received {} ago, last data sent {} ago (TCP clock)",
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
            "the peer's machine does not acknowledge what was sent ({} in flight, {}): the network path is broken",
            counted(tcp.unacked, "segment"),
            counted(tcp.retransmits, "retransmission")
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
    let resource = case.thread.wait.as_ref()?.resource.as_ref();
    let has_users = resource.is_some_and(|resource| !resource.users.is_empty());
    let who = match &holder.title {
        Some(title) if has_users && holder.tid.is_some() => format!("{who} ({title})"),
        _ => who,
    };
    let role = role_of(case, holder.confidence);
    let text = match (
        holder.is_gone,
        holder.pid == case.process.pid && holder.tid.is_none(),
    ) {
        (false, _) => format!("{role}: {who}"),
        (true, false) => format!("{role}: {who}, which no longer exists"),
        (true, true) => {
            format!("{role}: a thread that no longer exists (it ended, or was lost at fork)")
        }
    };
    Some(Evidence {
        fact: "wait.holder",
        value: json!(holder),
        text,
    })
}

/// What the one who could end the wait is to it.
fn role_of(case: &Case<'_>, confidence: HolderConfidence) -> String {
    let wait = case.thread.wait.as_ref();
    let kind = wait.map_or(WaitKind::Unknown, |wait| wait.kind);
    let resource = wait.and_then(|wait| wait.resource.as_ref());
    let is_join = resource.is_some_and(|resource| resource.kind == "threading.Thread");
    let (role, is_lock) = match kind {
        WaitKind::Poll if resource.is_some_and(polls_pipes) => ("writer", false),
        WaitKind::SocketRecv | WaitKind::SocketSend | WaitKind::SocketConnect | WaitKind::Poll => {
            ("peer", false)
        }
        WaitKind::PipeRead => ("writer", false),
        WaitKind::PipeWrite | WaitKind::Tty => ("reader", false),
        WaitKind::Child => ("child", false),
        WaitKind::Condition if is_join => ("thread to end", false),
        WaitKind::Stopped | WaitKind::Traced => ("tracer", false),
        WaitKind::Zombie => ("parent", false),
        WaitKind::SharedSemaphore => return "shared with".to_owned(),
        WaitKind::Condition | WaitKind::Semaphore => ("unblocked by", false),
        WaitKind::Gil => ("GIL holder", false),
        _ => ("lock", true),
    };
    let users = resource.map(|resource| &resource.users[..]);
    let mut users = users.unwrap_or_default().iter();
    let is_on_stack = users.any(|user| user.by == UsedBy::Stack);
    match (is_lock, confidence) {
        (true, HolderConfidence::Proven) => "lock owner".to_owned(),
        (true, HolderConfidence::Inferred) => "lock holder, seen on its stack".to_owned(),
        (true, HolderConfidence::Possible) => "possible lock holder".to_owned(),
        (false, HolderConfidence::Inferred) if is_on_stack => {
            format!("{role}, as its call stack shows")
        }
        (false, HolderConfidence::Possible) => format!("possible {role}"),
        (false, HolderConfidence::Inferred) if is_join => {
            format!("{role}, seen on a stack")
        }
        (false, _) => role.to_owned(),
    }
}

/// What the root itself does, where that is another thread: its own wait is what has to end.
pub fn root_fact(case: &Case<'_>, stuck: &Stuck) -> Option<Evidence> {
    if stuck.root == case.key() || stuck.class == VerdictClass::Deadlock {
        return None;
    }
    let root = find_thread(case.processes, stuck.root)?;
    let wait = root.wait.as_ref();
    let does = wait
        .and_then(|wait| sentence(wait, stuck.root.pid))
        .unwrap_or_else(|| match root.state {
            SchedState::Running => "is on-CPU or runnable".to_owned(),
            state => format!("is {}", state.word()),
        });
    let place = root
        .frames
        .iter()
        .find(|frame| frame.kind == FrameKind::Python);
    let place = place.map(|frame| format!(", in {}", frame.place()));
    Some(Evidence {
        fact: "root.wait",
        value: json!(wait),
        text: format!(
            "root cause: {} {does}{}",
            name_of(case, stuck.root),
            place.unwrap_or_default()
        ),
    })
}

pub fn hopeless_fact(case: &Case<'_>) -> Evidence {
    let threads = case.process.threads.len();
    let text = match case.thread.wait.as_ref().map(|wait| wait.kind) {
        Some(WaitKind::SocketRecv | WaitKind::SocketSend) => {
            "no other process or thread has its other end open".to_owned()
        }
        Some(WaitKind::PipeRead) => "no other process or thread has its other end open for writing".to_owned(),
        Some(WaitKind::PipeWrite) => "no other process or thread has its other end open for reading".to_owned(),
        _ if lost_references(case).is_some() => {
            let references = lost_references(case).unwrap_or_default();
            format!(
                "no other thread can reach it: all references to it ({references}) are this thread's own, and so are those to what leads to it"
            )
        }
        _ if is_unreached(case) => {
            "no other thread reaches it from its frames, as far as they were followed".to_owned()
        }
        _ if threads == 1 => {
            "no other thread exists that could release it: it was held when the process was forked, or by this thread"
                .to_owned()
        }
        _ => "its owner has ended".to_owned(),
    };
    Evidence {
        fact: "wait.holder",
        value: json!(null),
        text,
    }
}

/// How many references there are to an object that no other thread can reach.
fn lost_references(case: &Case<'_>) -> Option<u64> {
    let reach = case.thread.wait.as_ref()?.reach.as_ref()?;
    let is_lost = reach.is_closed && reach.threads.is_empty();
    reach.references.filter(|_| is_lost)
}

/// Whether no other thread was found to reach what is waited for.
fn is_unreached(case: &Case<'_>) -> bool {
    let wait = case.thread.wait.as_ref();
    let reach = wait.and_then(|wait| wait.reach.as_ref());
    reach.is_some_and(|reach| reach.threads.is_empty() && !reach.is_global && !reach.is_cut)
}

/// What stands still while a thread waits for a future, and may be what has to finish it: the event loop that it runs, or its place in a pool.
pub fn own_machinery_fact(case: &Case<'_>) -> Option<Evidence> {
    let wait = case.thread.wait.as_ref()?;
    let resource = wait.resource.as_ref()?;
    if !resource.kind.ends_with(".Future") {
        return None;
    }
    if let Some(event_loop) = &case.thread.event_loop {
        return Some(Evidence {
            fact: "event_loop",
            value: json!(event_loop.type_name),
            text: "it runs an event loop itself, which stands still until this wait is over: what its own event loop has to do for the future is never done"
                .to_owned(),
        });
    }
    let mut frames = case.thread.frames.iter();
    let worker = frames.find(|frame| {
        frame.module.as_deref() == Some("concurrent.futures.thread")
            && &*frame.function == "_worker"
    })?;
    Some(Evidence {
        fact: "pool",
        value: json!(worker.place()),
        text: "it is a worker of a ThreadPoolExecutor itself: a task in the queue of its own pool does not begin before one of the pool's workers is free"
            .to_owned(),
    })
}

/// Who can reach what is waited for, where these are some in particular.
pub fn reach_fact(case: &Case<'_>) -> Option<Evidence> {
    let reach = case.thread.wait.as_ref()?.reach.as_ref()?;
    if !reach.is_closed || reach.threads.is_empty() {
        return None;
    }
    let pid = case.process.pid;
    let names: Vec<String> = reach
        .threads
        .iter()
        .take(MAX_NAMED)
        .map(|tid| name_of(case, ThreadRef { pid, tid: *tid }))
        .collect();
    let more = match reach.threads.len() - names.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(Evidence {
        fact: "wait.reach",
        value: json!(reach),
        text: format!(
            "only these threads can reach it: {}{more}",
            names.join(", ")
        ),
    })
}

pub fn state_fact(thread: &ThreadSnapshot) -> Evidence {
    Evidence {
        fact: "state",
        value: json!(thread.state),
        text: format!("scheduler state: {}", thread.state.word()),
    }
}

pub fn since_fact(since: Since) -> Evidence {
    Evidence {
        fact: "wait.since_ms",
        value: json!(whole_milliseconds(since.elapsed)),
        text: match since.source {
            SinceSource::Sched => format!("off-CPU for {} (scheduler clock)", span(since.elapsed)),
            SinceSource::Tcp => format!("waiting for {} (TCP clock)", span(since.elapsed)),
            SinceSource::Observed => {
                format!("off-CPU for at least {} (observed)", span(since.elapsed))
            }
            SinceSource::Locals => format!(
                "waiting for at least {} (a time in the variables of the call)",
                span(since.elapsed)
            ),
        },
    }
}
