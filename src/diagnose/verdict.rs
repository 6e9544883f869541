//! The verdict on one thread in words, with what led to it: from how it stands and what becomes of it.

use std::time::Duration;

use serde_json::json;

use super::graph::{Ender, Fate, Stuck};
use super::stand::{Stand, since_of};
use super::words::{call_of, resource_text, thread_name};
use crate::model::{
    Confidence, Evidence, HolderConfidence, Link, ProcessSnapshot, Resource, SchedState, Since,
    SinceSource, ThreadRef, ThreadSnapshot, Verdict, VerdictClass, Wait, WaitKind, span,
};
use crate::wait::sentence;

/// What a verdict is made from, beside the thread.
pub struct Case<'a> {
    /// All processes, so that others can be named.
    pub processes: &'a [ProcessSnapshot],
    /// The process of the thread.
    pub process: &'a ProcessSnapshot,
    /// The thread.
    pub thread: &'a ThreadSnapshot,
    /// How it stands.
    pub stand: &'a Stand,
    /// What becomes of it.
    pub fate: &'a Fate,
    /// The first waits on its way to the root.
    pub way: &'a [Link],
    /// How long a wait may take.
    pub threshold: Duration,
}

/// The verdict on a thread.
pub fn judge(case: &Case<'_>) -> Verdict {
    let name = thread_name(case.thread);
    let facts = || vec![state_fact(case.thread)];
    match case.stand {
        Stand::Stopped => verdict(
            VerdictClass::Stopped,
            Confidence::Proven,
            format!("{name} is {} and runs no code", stopped_word(case.thread)),
            facts(),
        ),
        Stand::Ended => verdict(
            VerdictClass::Unknown,
            Confidence::Proven,
            format!("{name} has ended and waits to be reaped by its parent"),
            facts(),
        ),
        Stand::Works if case.thread.state == SchedState::Running => verdict(
            VerdictClass::Working,
            Confidence::Likely,
            format!("{name} is on a processor or waits for one"),
            facts(),
        ),
        Stand::Works => {
            let ago = since_of(case.thread).map(|since| format!(" {} ago", span(since.elapsed)));
            let ago = ago.unwrap_or_default();
            let summary = format!("{name} ran{ago}, within the threshold");
            verdict(
                VerdictClass::Working,
                Confidence::Likely,
                summary,
                basic_facts(case),
            )
        }
        Stand::Idle(why) => {
            let summary = format!("{name} is idle: {why}");
            verdict(
                VerdictClass::Idle,
                Confidence::Likely,
                summary,
                basic_facts(case),
            )
        }
        Stand::Ends(why) => {
            let summary = format!("{}; {why}", waits(case));
            verdict(
                VerdictClass::Waiting,
                Confidence::Likely,
                summary,
                basic_facts(case),
            )
        }
        Stand::Unknown(why) => judge_unknown(case, why),
        Stand::Waits(_) => match case.fate {
            Fate::Stuck(stuck) => judge_stuck(case, stuck),
            Fate::Awaits(ender) => judge_awaiting(case, ender),
            // The graph gives each waiting thread a fate; this one it does not know.
            Fate::Alone => judge_unknown(case, "who could end it is not known"),
        },
    }
}

/// A wait that can't be judged is told as what it is; where not even that is known, the verdict is unknown.
fn judge_unknown(case: &Case<'_>, why: &str) -> Verdict {
    let is_known = case
        .thread
        .wait
        .as_ref()
        .is_some_and(|wait| wait.syscall.is_some());
    if is_known {
        let summary = waits(case);
        return verdict(
            VerdictClass::Waiting,
            Confidence::Possible,
            summary,
            basic_facts(case),
        );
    }
    let elapsed = since_of(case.thread).map(|since| format!(" for {}", span(since.elapsed)));
    let summary = format!(
        "{} has not run{}, and {why}",
        thread_name(case.thread),
        elapsed.unwrap_or_default()
    );
    verdict(
        VerdictClass::Unknown,
        Confidence::Possible,
        summary,
        basic_facts(case),
    )
}

fn judge_awaiting(case: &Case<'_>, ender: &Ender) -> Verdict {
    let (who, confidence) = match ender {
        Ender::Thread(key) => (
            format!("{} goes on", name_of(case, *key)),
            Confidence::Likely,
        ),
        Ender::Process(pid) => (format!("process {pid} may end that"), Confidence::Possible),
        Ender::AnyThread => (
            "other threads of the process go on and may end that".to_owned(),
            Confidence::Possible,
        ),
        Ender::Unseen => (
            "whoever has its other end is not to be seen from here, and may end that".to_owned(),
            Confidence::Possible,
        ),
        Ender::Signal => (
            "a handler of signals may end that".to_owned(),
            Confidence::Possible,
        ),
    };
    let summary = format!("{}; {who}", waits(case));
    let mut evidence = basic_facts(case);
    evidence.extend(holder_fact(case));
    verdict(VerdictClass::Waiting, confidence, summary, evidence)
}

fn judge_stuck(case: &Case<'_>, stuck: &Stuck) -> Verdict {
    let own = ThreadRef {
        pid: case.process.pid,
        tid: case.thread.tid,
    };
    let mut summary = waits(case);
    let mut evidence = stuck_facts(case);
    if stuck.class == VerdictClass::Deadlock {
        let around = if case.way.iter().any(|link| link.on == own) {
            "waits for it in turn"
        } else {
            "is in a circle of waits"
        };
        if let Some(next) = case.way.first() {
            summary.push_str(&format!("; {} {around}", name_of(case, next.on)));
        }
    } else if stuck.root != own {
        summary.push_str(&format!("; {} holds that up", name_of(case, stuck.root)));
    } else if stuck.is_hopeless {
        summary.push_str(", and nobody is there who could end that");
        evidence.push(hopeless_fact(case));
    }
    evidence.extend(holder_fact(case));
    for link in case.way.iter().skip(1) {
        evidence.push(Evidence {
            fact: "chain",
            value: json!(link),
            text: format!(
                "{} waits in turn ({}) for {}",
                name_of(case, link.thread),
                link.waits.word(),
                name_of(case, link.on)
            ),
        });
    }
    verdict(
        stuck.class,
        confidence_of(case, stuck, own),
        summary,
        evidence,
    )
}

fn confidence_of(case: &Case<'_>, stuck: &Stuck, own: ThreadRef) -> Confidence {
    let of_way = match stuck.weakest {
        HolderConfidence::Proven => Confidence::Proven,
        HolderConfidence::Inferred => Confidence::Likely,
        HolderConfidence::Possible => Confidence::Possible,
    };
    if stuck.class == VerdictClass::Deadlock || stuck.class == VerdictClass::GilHeld {
        return of_way;
    }
    if stuck.root == own {
        return match stuck.class {
            _ if stuck.is_hopeless => Confidence::Proven,
            VerdictClass::HangNetwork | VerdictClass::HangDns => {
                let wait = case.thread.wait.as_ref();
                confidence_of_debt(wait.and_then(|wait| wait.resource.as_ref()))
            }
            // A fifo has a name, and somebody may come at any time.
            VerdictClass::HangPipe if is_fifo(case.thread) => Confidence::Possible,
            VerdictClass::HangLock => Confidence::Possible,
            _ => Confidence::Likely,
        };
    }
    of_way.min(Confidence::Likely)
}

fn is_fifo(thread: &ThreadSnapshot) -> bool {
    let resource = thread.wait.as_ref().and_then(|wait| wait.resource.as_ref());
    resource.is_some_and(|resource| resource.kind == "fifo")
}

/// How sure it is that the peer owes an answer: likely when something was sent after the last data came (before any came,
/// that is the connection's beginning). Between processes of one machine, waiting for the next message is as usual.
fn confidence_of_debt(resource: Option<&Resource>) -> Confidence {
    match resource {
        Some(Resource { tcp: Some(tcp), .. }) if tcp.last_data_sent_ms <= tcp.last_data_recv_ms => {
            Confidence::Likely
        }
        Some(Resource {
            kind, tcp: None, ..
        }) if kind == "tcp" || kind == "udp" => Confidence::Likely,
        _ => Confidence::Possible,
    }
}

fn stopped_word(thread: &ThreadSnapshot) -> &'static str {
    match (thread.state, thread.wait.as_ref().map(|wait| wait.kind)) {
        (SchedState::Traced, _) | (_, Some(WaitKind::Traced)) => SchedState::Traced.word(),
        (SchedState::Stopped, _) => SchedState::Stopped.word(),
        _ => "frozen",
    }
}

/// "MainThread (tid 7) waits 9m12s for data from 10.0.0.1:443 (tcp, established; no timeout)".
fn waits(case: &Case<'_>) -> String {
    let name = thread_name(case.thread);
    let wait = case.thread.wait.as_ref();
    if let Some(text) = wait.and_then(|wait| sentence(wait, case.process.pid)) {
        return format!("{name} {text}");
    }
    let elapsed = since_of(case.thread).map(|since| format!(" {}", span(since.elapsed)));
    let call = wait.map(|wait| format!(" in {}", call_of(wait)));
    format!(
        "{name} waits{}{}",
        elapsed.unwrap_or_default(),
        call.unwrap_or_default()
    )
}

/// A thread by its name, and its process where that is another.
fn name_of(case: &Case<'_>, key: ThreadRef) -> String {
    let process = case.processes.iter().find(|process| process.pid == key.pid);
    let thread =
        process.and_then(|process| process.threads.iter().find(|thread| thread.tid == key.tid));
    let name = thread.map_or_else(|| format!("thread {}", key.tid), thread_name);
    if key.pid == case.process.pid {
        name
    } else {
        format!("{name} of process {}", key.pid)
    }
}

fn basic_facts(case: &Case<'_>) -> Vec<Evidence> {
    let mut facts = vec![state_fact(case.thread)];
    facts.extend(since_of(case.thread).map(since_fact));
    facts
}

fn stuck_facts(case: &Case<'_>) -> Vec<Evidence> {
    let mut evidence = Vec::new();
    let wait = case.thread.wait.as_ref();
    if let Some(wait) = wait {
        evidence.push(Evidence {
            fact: "wait.syscall",
            value: json!(wait.syscall),
            text: format!("it is blocked in {}", call_of(wait)),
        });
    }
    if let Some(since) = since_of(case.thread) {
        evidence.push(since_fact(since));
        if since.elapsed >= case.threshold {
            evidence.push(Evidence {
                fact: "threshold_ms",
                value: json!(u64::try_from(case.threshold.as_millis()).unwrap_or(u64::MAX)),
                text: format!("that is beyond the threshold of {}", span(case.threshold)),
            });
        }
    }
    evidence.extend(
        wait.and_then(|wait| wait.resource.as_ref())
            .map(resource_fact),
    );
    evidence.extend(wait.and_then(tcp_fact));
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

fn holder_fact(case: &Case<'_>) -> Option<Evidence> {
    let holder = case.thread.wait.as_ref()?.holder.as_ref()?;
    let who = match (holder.tid, &holder.thread) {
        (Some(tid), Some(name)) => format!("{name} (tid {tid})"),
        (Some(tid), None) => format!("thread {tid}"),
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
    let gone = if holder.is_gone {
        ", which is not there any more"
    } else {
        ""
    };
    Some(Evidence {
        fact: "wait.holder",
        value: json!(holder),
        text: format!("it is for {who} to end that{sure}{gone}"),
    })
}

fn hopeless_fact(case: &Case<'_>) -> Evidence {
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

fn verdict(
    class: VerdictClass,
    confidence: Confidence,
    summary: String,
    evidence: Vec<Evidence>,
) -> Verdict {
    Verdict {
        class,
        confidence,
        summary,
        evidence,
    }
}

fn state_fact(thread: &ThreadSnapshot) -> Evidence {
    Evidence {
        fact: "state",
        value: json!(thread.state),
        text: format!("the scheduler has it as {}", thread.state.word()),
    }
}

fn since_fact(since: Since) -> Evidence {
    Evidence {
        fact: "wait.since_ms",
        value: json!(u64::try_from(since.elapsed.as_millis()).unwrap_or(u64::MAX)),
        text: format!(
            "it has not run for {}{}",
            span(since.elapsed),
            match since.source {
                SinceSource::Sched => " by the scheduler's record",
                SinceSource::Tcp => " by the connection's record",
                SinceSource::Observed => " or a little longer, as seen by us",
            }
        ),
    }
}
