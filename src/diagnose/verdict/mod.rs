//! The verdict on one thread in words, with what led to it: from how it stands and what becomes of it.

mod activity;
pub mod case;
pub mod event_loop;
mod evidence;
mod names;

use std::time::Duration;

use serde_json::json;

use crate::diagnose::observation::Seen;
use crate::diagnose::verdict::activity::{
    activity_of, at_one_line, gil_facts, spin, spin_facts, unanswered_facts,
};
use crate::diagnose::verdict::case::{Case, name_of, stuck_since};
use crate::diagnose::verdict::evidence::{
    basic_facts, holder_fact, hopeless_fact, state_fact, stuck_facts,
};
use crate::diagnose::verdict::names::{call_of, thread_name};
use crate::diagnose::wait_graph::assessment::{Assessment, since_of};
use crate::diagnose::wait_graph::{Outcome, Stuck, Unblocker};
use crate::model::{
    Confidence, Evidence, HolderConfidence, MemoryOutcome, Resource, SchedState, Since, ThreadRef,
    ThreadSnapshot, Verdict, VerdictClass, Wait, WaitKind, span,
};
use crate::wait::sentence;

/// The verdict on a thread.
pub fn judge(case: &Case<'_>) -> Verdict {
    let name = thread_name(case.thread);
    let facts = || vec![state_fact(case.thread)];
    match case.assessment {
        Assessment::Stopped => verdict(
            VerdictClass::Stopped,
            Confidence::Proven,
            format!("{name} is {} and runs no code", stopped_word(case.thread)),
            facts(),
        ),
        Assessment::Ended => verdict(
            VerdictClass::Unknown,
            Confidence::Proven,
            ended(case),
            facts(),
        ),
        Assessment::Works if is_unread(case) => judge_unread(case),
        Assessment::Works => judge_working(case),
        Assessment::Idle(why) | Assessment::IdleLately(why) => {
            let summary = format!("{name} is idle: {why}");
            verdict(
                VerdictClass::Idle,
                Confidence::Likely,
                summary,
                basic_facts(case),
            )
        }
        Assessment::Ends(why) => {
            let summary = format!("{}; {why}", waits(case));
            verdict(
                VerdictClass::Waiting,
                Confidence::Likely,
                summary,
                basic_facts(case),
            )
        }
        Assessment::Unknown(why) => judge_unknown(case, why),
        Assessment::Waits(_) => match case.outcome {
            Outcome::Stuck(stuck) => judge_stuck(case, stuck),
            Outcome::Awaits(unblocker) => judge_awaiting(case, unblocker),
            // The graph gives each waiting thread an outcome; this one it does not know.
            Outcome::Alone => judge_unknown(case, "who could end it is not known"),
        },
    }
}

/// Whether the memory of its process, and with that what it computes, is not known to us.
fn is_unread(case: &Case<'_>) -> bool {
    matches!(
        case.process.memory,
        MemoryOutcome::Denied | MemoryOutcome::Unreadable | MemoryOutcome::TimedOut
    )
}

/// That it runs is the scheduler's word; whether it makes progress can't be told.
fn judge_unread(case: &Case<'_>) -> Verdict {
    let name = thread_name(case.thread);
    let what = match case.thread.state {
        SchedState::Running => "is on a processor or waits for one",
        _ => "ran within the threshold",
    };
    verdict(
        VerdictClass::Unknown,
        Confidence::Possible,
        format!(
            "{name} {what}, and what it does is not known: the memory of its process was not read"
        ),
        basic_facts(case),
    )
}

/// What it was seen to do while it was watched; else that it runs, or ran a moment ago.
fn judge_working(case: &Case<'_>) -> Verdict {
    let name = thread_name(case.thread);
    let (summary, evidence) = match activity_of(case) {
        Some((summary, more)) => {
            let mut evidence = vec![state_fact(case.thread)];
            evidence.extend(more);
            (summary, evidence)
        }
        None if case.thread.state == SchedState::Running => (
            format!("{name} is on a processor or waits for one"),
            vec![state_fact(case.thread)],
        ),
        None => {
            let ago = since_of(case.thread).map(|since| format!(" {} ago", span(since.elapsed)));
            let ago = ago.unwrap_or_default();
            let summary = format!("{name} ran{ago}, within the threshold");
            (summary, basic_facts(case))
        }
    };
    verdict(VerdictClass::Working, Confidence::Likely, summary, evidence)
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

fn judge_awaiting(case: &Case<'_>, unblocker: &Unblocker) -> Verdict {
    let (who, confidence) = match unblocker {
        Unblocker::Thread(key) => (
            format!("{} goes on", name_of(case, *key)),
            Confidence::Likely,
        ),
        Unblocker::Process(pid) => (format!("process {pid} may end that"), Confidence::Possible),
        Unblocker::AnyThread => (
            "other threads of the process go on and may end that".to_owned(),
            Confidence::Possible,
        ),
        Unblocker::Unseen => (
            "whoever has its other end is not to be seen from here, and may end that".to_owned(),
            Confidence::Possible,
        ),
        Unblocker::Signal => (
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
    let own = case.key();
    let since = stuck_since(own, case.thread, stuck.class, case.observed);
    let mut summary = match stuck.class {
        VerdictClass::Spin => spin(case),
        _ => waits_since(case, since),
    };
    let is_moving = case
        .seen()
        .is_some_and(|seen| seen.is_busy || seen.is_starved);
    let mut evidence = match stuck.class {
        VerdictClass::Spin => spin_facts(case),
        VerdictClass::GilHeld if is_moving => gil_facts(case),
        _ => stuck_facts(case, since),
    };
    evidence.extend(unanswered_facts(case));
    if stuck.class == VerdictClass::Deadlock {
        let around = if case.way.iter().any(|link| link.on == own) {
            "waits for it in turn"
        } else {
            "is in a circle of waits"
        };
        if case.way.first().is_some_and(|next| next.on == own) {
            summary.push_str("; it holds that itself, and can't give it back while it waits");
        } else if let Some(next) = case.way.first() {
            summary.push_str(&format!("; {} {around}", name_of(case, next.on)));
        }
    } else if stuck.root != own {
        let holds = match stuck.weakest {
            HolderConfidence::Possible => "may hold that up",
            _ => "holds that up",
        };
        summary.push_str(&format!("; {} {holds}", name_of(case, stuck.root)));
    } else if stuck.hopeless.is_some() {
        summary.push_str(", and nobody is there who could end that");
        evidence.push(hopeless_fact(case));
    } else if is_semaphore(case.thread) {
        summary.push_str(", and so does whoever else has it");
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
    if stuck.class == VerdictClass::Deadlock {
        return of_way;
    }
    if stuck.class == VerdictClass::GilHeld {
        // That it never let go is known of the moments at which it was looked at.
        let seen = case
            .observed
            .and_then(|observed| observed.thread(stuck.root));
        let is_seen_only = seen.is_some_and(|seen| seen.is_busy);
        return match is_seen_only {
            true => of_way.min(Confidence::Likely),
            false => of_way,
        };
    }
    if stuck.root == own {
        if let Some(confidence) = stuck.hopeless {
            return confidence;
        }
        return match stuck.class {
            VerdictClass::HangNetwork | VerdictClass::HangDns => {
                let wait = case.thread.wait.as_ref();
                if case.owed.is_some() {
                    return Confidence::Likely;
                }
                let resource = wait.and_then(|wait| wait.resource.as_ref());
                // Who waits for the next job in slices may have acknowledged the last one, which needs no answer.
                let is_fresh = resource
                    .and_then(|resource| resource.tcp)
                    .is_some_and(|tcp| tcp.bytes_received == 0);
                if slice_of(case).is_some() && !is_fresh {
                    return Confidence::Possible;
                }
                confidence_of_debt(resource)
            }
            // A fifo has a name, and somebody may come at any time.
            VerdictClass::HangPipe if is_fifo(case.thread) => Confidence::Possible,
            // All who have it wait for it: whoever had taken it has ended.
            VerdictClass::HangLock if is_semaphore(case.thread) => Confidence::Likely,
            VerdictClass::HangLock => Confidence::Possible,
            VerdictClass::Spin => {
                let seen = case.seen();
                // At a single line it may compute all the same.
                let is_loop = |seen: &Seen| {
                    seen.progress.round.is_some() && seen.progress.watched >= case.threshold
                };
                match seen.is_some_and(is_loop) {
                    true => Confidence::Likely,
                    false => Confidence::Possible,
                }
            }
            _ => Confidence::Likely,
        };
    }
    of_way.min(Confidence::Likely)
}

fn is_semaphore(thread: &ThreadSnapshot) -> bool {
    let wait = thread.wait.as_ref();
    wait.is_some_and(|wait| wait.kind == WaitKind::SharedSemaphore)
}

fn is_fifo(thread: &ThreadSnapshot) -> bool {
    let resource = thread.wait.as_ref().and_then(|wait| wait.resource.as_ref());
    resource.is_some_and(|resource| resource.kind == "fifo")
}

/// How sure it is that the peer owes an answer: likely when something was sent after the last data came (before any came,
/// that is the connection's beginning). Between processes of one machine, waiting for the next message is as usual.
fn confidence_of_debt(resource: Option<&Resource>) -> Confidence {
    match resource {
        Some(Resource { tcp: Some(tcp), .. }) if tcp.is_answer_due() => Confidence::Likely,
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

/// How it has ended, and who has not reaped it.
fn ended(case: &Case<'_>) -> String {
    let wait = case.thread.wait.as_ref();
    let how = wait.filter(|wait| wait.kind == WaitKind::Zombie);
    let how = how.and_then(|wait| sentence(wait, case.process.pid));
    let how = how.unwrap_or_else(|| "ended, not reaped by its parent".to_owned());
    format!("{} {how}", thread_name(case.thread))
}

/// "MainThread (tid 7) waits 9m12s for data from 10.0.0.1:443 (tcp, established; no timeout)".
fn waits(case: &Case<'_>) -> String {
    waits_since(case, since_of(case.thread))
}

/// The same, for a thread that has waited since then, be it in slices.
fn waits_since(case: &Case<'_>, since: Option<Since>) -> String {
    let name = thread_name(case.thread);
    if case.thread.state == SchedState::Running && case.thread.wait.is_none() {
        return at_one_line(case, since);
    }
    if let (Some(since), true) = (since, case.seen().is_some_and(|seen| seen.is_starved)) {
        return format!("{name} has waited for the GIL for {}", span(since.elapsed));
    }
    let slice = slice_of(case);
    let wait = case.thread.wait.clone().map(|wait| match slice {
        // The timeout is that of a slice.
        Some(_) => Wait {
            since,
            timeout: None,
            ..wait
        },
        None => wait,
    });
    let wait = wait.as_ref();
    if let Some(text) = wait.and_then(|wait| sentence(wait, case.process.pid)) {
        return match slice.zip(text.rsplit_once("no timeout")) {
            Some((slice, (before, after))) => {
                format!("{name} {before}in slices of {}{after}", span(slice))
            }
            None => format!("{name} {text}"),
        };
    }
    let elapsed = since.map(|since| format!(" {}", span(since.elapsed)));
    let call = wait.map(|wait| format!(" in {}", call_of(wait)));
    format!(
        "{name} waits{}{}",
        elapsed.unwrap_or_default(),
        call.unwrap_or_default()
    )
}

/// How long each slice is of a thread that waits in slices for an answer.
fn slice_of(case: &Case<'_>) -> Option<Duration> {
    case.seen()?.unanswered?;
    case.thread.wait.as_ref()?.timeout
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
