//! The verdict on one thread.

use std::time::Duration;

use serde_json::json;

use crate::model::{
    Confidence, Evidence, Resource, SchedState, Since, SinceSource, ThreadSnapshot, Verdict,
    VerdictClass, Wait, WaitKind,
};

/// What is to be thought of `thread`: beyond `threshold`, a wait for data from a peer is a likely hang.
pub fn judge(thread: &ThreadSnapshot, threshold: Duration) -> Verdict {
    match thread.state {
        SchedState::Stopped | SchedState::Traced => verdict(
            VerdictClass::Stopped,
            Confidence::Proven,
            format!(
                "{} is {} and runs no code",
                name(thread),
                thread.state.word()
            ),
            vec![state_fact(thread)],
        ),
        SchedState::Zombie | SchedState::Dead => verdict(
            VerdictClass::Unknown,
            Confidence::Proven,
            format!(
                "{} has ended and waits to be reaped by its parent",
                name(thread)
            ),
            vec![state_fact(thread)],
        ),
        SchedState::Running => verdict(
            VerdictClass::Working,
            Confidence::Likely,
            format!("{} is on a processor or waits for one", name(thread)),
            vec![state_fact(thread)],
        ),
        _ => match thread
            .wait
            .as_ref()
            .and_then(|wait| wait.since)
            .or(thread.off_cpu)
        {
            Some(since) => judge_sleeper(thread, since, threshold),
            None => verdict(
                VerdictClass::Unknown,
                Confidence::Possible,
                format!(
                    "{} does not run, and the kernel does not say since when",
                    name(thread)
                ),
                vec![state_fact(thread)],
            ),
        },
    }
}

/// The verdict on a thread that has not run for a known time.
fn judge_sleeper(thread: &ThreadSnapshot, since: Since, threshold: Duration) -> Verdict {
    let elapsed = span(since.elapsed);
    let facts = vec![state_fact(thread), since_fact(since)];
    // A bound that reaches below the threshold is no proof that it was crossed.
    if since.elapsed.saturating_sub(since.error) < threshold {
        let summary = format!("{} ran {elapsed} ago, within the threshold", name(thread));
        return verdict(VerdictClass::Working, Confidence::Likely, summary, facts);
    }
    match &thread.wait {
        // Threads of other languages, and processes without Python, wait by rules of their own.
        Some(wait) if thread.interpreter.is_some() && is_endless_receive(wait) => {
            hang_network(thread, wait, since, threshold)
        }
        Some(wait) if wait.syscall.is_none() && wait.kind == WaitKind::Unknown => {
            let missing = "the kernel does not show us what it waits for";
            let summary = format!("{} has not run for {elapsed}, and {missing}", name(thread));
            verdict(VerdictClass::Unknown, Confidence::Possible, summary, facts)
        }
        wait => {
            let summary = format!(
                "{} has waited for {elapsed}{}",
                name(thread),
                in_call(wait.as_ref())
            );
            verdict(VerdictClass::Waiting, Confidence::Possible, summary, facts)
        }
    }
}

/// What usually helps.
pub fn advice(class: VerdictClass) -> &'static str {
    match class {
        VerdictClass::HangNetwork => {
            "set a timeout on this call (and, for TCP, keep-alive on its connection); find out why the peer does not answer"
        }
        VerdictClass::Stopped => "continue it (SIGCONT), or detach what traces it",
        VerdictClass::Working | VerdictClass::Waiting | VerdictClass::Unknown => "",
    }
}

/// A receive with no timeout, from a peer that could owe an answer. On a connection that came in it is the client's turn
/// to ask; a socket that is connected to nobody, as a server of datagrams has it, waits for anybody; and other families
/// than these (netlink, say) wait for news, not for answers.
fn is_endless_receive(wait: &Wait) -> bool {
    let could_owe = match &wait.resource {
        Some(resource) => {
            let is_known = ["tcp", "udp", "unix"].contains(&resource.kind.as_str());
            let waits_for_anybody =
                matches!(resource.state.as_deref(), Some("UNCONNECTED" | "LISTEN"));
            is_known && !waits_for_anybody && resource.accepted != Some(true)
        }
        None => true,
    };
    wait.kind == WaitKind::SocketRecv && wait.timeout.is_none() && could_owe
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

fn hang_network(
    thread: &ThreadSnapshot,
    wait: &Wait,
    since: Since,
    threshold: Duration,
) -> Verdict {
    let is_known_endless = wait
        .resource
        .as_ref()
        .is_some_and(|resource| resource.recv_timeout == Some(None));
    let summary = format!(
        "{} has waited {} for data from {}{}",
        name(thread),
        span(since.elapsed),
        peer(wait.resource.as_ref()),
        if is_known_endless {
            ", and no timeout is set"
        } else {
            ""
        },
    );
    let mut evidence = vec![
        Evidence {
            fact: "wait.syscall",
            value: json!(wait.syscall),
            text: format!("it is blocked in {}", call_of(wait)),
        },
        since_fact(since),
        Evidence {
            fact: "threshold_ms",
            value: json!(threshold.as_millis() as u64),
            text: format!("that is beyond the threshold of {}", span(threshold)),
        },
    ];
    if let Some(resource) = &wait.resource {
        evidence.push(Evidence {
            fact: "wait.resource",
            value: json!(resource),
            text: resource_text(resource),
        });
    }
    if let Some(tcp) = wait.resource.as_ref().and_then(|resource| resource.tcp) {
        let ago = |milliseconds: u32| span(Duration::from_millis(u64::from(milliseconds)));
        evidence.push(Evidence {
            fact: "wait.resource.last_data_recv_ms",
            value: json!(tcp.last_data_recv_ms),
            text: format!(
                "nothing has come on it for {}, nothing was sent for {}",
                ago(tcp.last_data_recv_ms),
                ago(tcp.last_data_sent_ms)
            ),
        });
    }
    let confidence = confidence_of_debt(wait.resource.as_ref());
    verdict(VerdictClass::HangNetwork, confidence, summary, evidence)
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
        value: json!(since.elapsed.as_millis() as u64),
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

fn resource_text(resource: &Resource) -> String {
    let fd = resource
        .fd
        .map(|fd| format!("fd {fd} is "))
        .unwrap_or_default();
    let local = resource
        .local
        .as_deref()
        .map(|local| format!(" from {local}"))
        .unwrap_or_default();
    let to = resource
        .peer
        .as_deref()
        .map(|peer| format!(" to {peer}"))
        .unwrap_or_default();
    let state = resource
        .state
        .as_deref()
        .map(|state| format!(", {state}"))
        .unwrap_or_default();
    format!("{fd}a {} socket{local}{to}{state}", resource.kind)
}

fn peer(resource: Option<&Resource>) -> String {
    match resource {
        Some(Resource {
            peer: Some(peer),
            kind,
            ..
        }) => format!("{peer} ({kind})"),
        Some(Resource {
            kind, fd: Some(fd), ..
        }) => format!("the other end of fd {fd} ({kind})"),
        _ => "its peer".to_owned(),
    }
}

fn call_of(wait: &Wait) -> String {
    let call = wait.syscall.as_deref().unwrap_or("a system call");
    match wait.resource.as_ref().and_then(|resource| resource.fd) {
        Some(fd) => format!("{call}(fd {fd})"),
        None => call.to_owned(),
    }
}

fn in_call(wait: Option<&Wait>) -> String {
    wait.filter(|wait| wait.syscall.is_some())
        .map(|wait| format!(" in {}", call_of(wait)))
        .unwrap_or_default()
}

fn name(thread: &ThreadSnapshot) -> String {
    format!("{} (tid {})", thread.best_name(), thread.tid)
}

fn span(duration: Duration) -> String {
    crate::model::span(duration)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Consistency, Gil, TcpTimes, Tid};

    fn thread(state: SchedState, elapsed: u64, kind: WaitKind) -> ThreadSnapshot {
        let since = Since {
            elapsed: Duration::from_secs(elapsed),
            error: Duration::from_millis(10),
            source: SinceSource::Sched,
        };
        let resource = Resource {
            kind: "tcp".into(),
            fd: Some(9),
            local: Some("10.1.2.3:41044".into()),
            peer: Some("10.0.0.1:443".into()),
            state: Some("ESTABLISHED".into()),
            accepted: Some(false),
            recv_timeout: Some(None),
            tcp: Some(TcpTimes {
                last_data_sent_ms: 552_010,
                last_data_recv_ms: 552_300,
                ..TcpTimes::default()
            }),
            ..Resource::default()
        };
        ThreadSnapshot {
            tid: Tid(7),
            name: Some("MainThread".into()),
            comm: "python".into(),
            state,
            off_cpu: Some(since),
            gil: Gil::None,
            interpreter: Some(0),
            consistency: Consistency::Exact,
            frames: Vec::new(),
            wait: Some(Wait {
                kind,
                since: Some(since),
                syscall: Some("read".into()),
                timeout: None,
                resource: Some(resource),
                holder: None,
                other_holders: Vec::new(),
                missing: Vec::new(),
            }),
            verdict: None,
        }
    }

    fn class(thread: &ThreadSnapshot) -> VerdictClass {
        judge(thread, Duration::from_secs(30)).class
    }

    #[test]
    fn a_receive_beyond_the_threshold_is_a_hang_and_says_why() {
        let verdict = judge(
            &thread(SchedState::Sleeping, 552, WaitKind::SocketRecv),
            Duration::from_secs(30),
        );
        assert_eq!(verdict.class, VerdictClass::HangNetwork);
        assert_eq!(
            verdict.summary,
            "MainThread (tid 7) has waited 9m12s for data from 10.0.0.1:443 (tcp), and no timeout is set"
        );
        let facts: Vec<_> = verdict
            .evidence
            .iter()
            .map(|evidence| evidence.fact)
            .collect();
        assert_eq!(
            facts,
            [
                "wait.syscall",
                "wait.since_ms",
                "threshold_ms",
                "wait.resource",
                "wait.resource.last_data_recv_ms",
            ]
        );
    }

    #[test]
    fn what_is_no_hang() {
        assert_eq!(
            class(&thread(SchedState::Sleeping, 29, WaitKind::SocketRecv)),
            VerdictClass::Working
        );
        assert_eq!(
            class(&thread(SchedState::Running, 99, WaitKind::SocketRecv)),
            VerdictClass::Working
        );
        assert_eq!(
            class(&thread(SchedState::Sleeping, 99, WaitKind::SocketAccept)),
            VerdictClass::Waiting
        );
        assert_eq!(
            class(&thread(SchedState::Sleeping, 99, WaitKind::Futex)),
            VerdictClass::Waiting
        );
        assert_eq!(
            class(&thread(SchedState::Stopped, 99, WaitKind::SocketRecv)),
            VerdictClass::Stopped
        );
        let mut accepted = thread(SchedState::Sleeping, 99, WaitKind::SocketRecv);
        accepted
            .wait
            .as_mut()
            .unwrap()
            .resource
            .as_mut()
            .unwrap()
            .accepted = Some(true);
        assert_eq!(class(&accepted), VerdictClass::Waiting);
        let mut datagrams = thread(SchedState::Sleeping, 99, WaitKind::SocketRecv);
        datagrams
            .wait
            .as_mut()
            .unwrap()
            .resource
            .as_mut()
            .unwrap()
            .state = Some("UNCONNECTED".into());
        assert_eq!(class(&datagrams), VerdictClass::Waiting);
        let mut answered = thread(SchedState::Sleeping, 99, WaitKind::SocketRecv);
        answered
            .wait
            .as_mut()
            .unwrap()
            .resource
            .as_mut()
            .unwrap()
            .tcp
            .as_mut()
            .unwrap()
            .last_data_recv_ms = 1;
        let verdict = judge(&answered, Duration::from_secs(30));
        assert_eq!(
            (verdict.class, verdict.confidence),
            (VerdictClass::HangNetwork, Confidence::Possible)
        );
        let mut netlink = thread(SchedState::Sleeping, 99, WaitKind::SocketRecv);
        netlink
            .wait
            .as_mut()
            .unwrap()
            .resource
            .as_mut()
            .unwrap()
            .kind = "socket".into();
        assert_eq!(class(&netlink), VerdictClass::Waiting);
        let mut native = thread(SchedState::Sleeping, 99, WaitKind::SocketRecv);
        native.interpreter = None;
        assert_eq!(class(&native), VerdictClass::Waiting);
        let mut armed = thread(SchedState::Sleeping, 99, WaitKind::SocketRecv);
        armed.wait.as_mut().unwrap().timeout = Some(Duration::from_secs(600));
        assert_eq!(class(&armed), VerdictClass::Waiting);
    }

    #[test]
    fn the_bound_of_error_must_not_reach_below_the_threshold() {
        let mut close = thread(SchedState::Sleeping, 31, WaitKind::SocketRecv);
        close.wait.as_mut().unwrap().since.as_mut().unwrap().error = Duration::from_secs(3);
        assert_eq!(class(&close), VerdictClass::Working);
    }

    #[test]
    fn without_facts_it_is_unknown() {
        let mut blind = thread(SchedState::Sleeping, 99, WaitKind::Unknown);
        blind.wait.as_mut().unwrap().syscall = None;
        assert_eq!(class(&blind), VerdictClass::Unknown);
        blind.wait = None;
        blind.off_cpu = None;
        assert_eq!(class(&blind), VerdictClass::Unknown);
    }
}
