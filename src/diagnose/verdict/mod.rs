//! The verdict on one thread in words, with what led to it: from how it stands and what becomes of it.

mod activity;
mod blocked;
pub mod case;
mod ended_children;
pub mod event_loop;
mod evidence;
mod names;
mod stalled;

use std::time::Duration;

use serde_json::json;

use crate::diagnose::call_role::is_receiving_loop;
use crate::diagnose::observation::Seen;
use crate::diagnose::verdict::activity::{
    activity_of, at_one_line, gil_facts, spin, spin_facts, unanswered_facts,
};
use crate::diagnose::verdict::blocked::{judge_blocked, judge_pending, reset_fact};
use crate::diagnose::verdict::case::{Case, name_of, stuck_since};
use crate::diagnose::verdict::ended_children::{
    killed_children_facts, left_open_facts, left_open_of, left_open_text,
};
use crate::diagnose::verdict::evidence::{
    basic_facts, holder_fact, hopeless_fact, own_machinery_fact, reach_fact, root_fact, state_fact,
    stuck_facts,
};
use crate::diagnose::verdict::names::{call_of, thread_name};
use crate::diagnose::verdict::stalled::{stall_facts, stall_text};
use crate::diagnose::wait_graph::assessment::{Assessment, since_of};
use crate::diagnose::wait_graph::peers::is_request_outstanding;
use crate::diagnose::wait_graph::{Outcome, Stuck, Unblocker};
use crate::model::{
    Confidence, Evidence, HolderConfidence, MemoryOutcome, SchedState, Since, ThreadRef,
    ThreadSnapshot, Verdict, VerdictClass, Wait, WaitKind, find_thread, span,
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
        Assessment::Works | Assessment::Blocked(_) if is_unread(case) => judge_unread(case),
        Assessment::Works => judge_working(case),
        Assessment::Blocked(blocked) => {
            judge_pending(case).unwrap_or_else(|| judge_blocked(case, *blocked))
        }
        // What others are stuck on does not wait by design.
        Assessment::Idle(_) if case.holds_up => verdict(
            VerdictClass::Waiting,
            Confidence::Possible,
            format!("{}; others are stuck on it", waits(case)),
            basic_facts(case),
        ),
        Assessment::Idle(why) => {
            let summary = format!("{}; idle: {why}", waits(case));
            verdict(
                VerdictClass::Idle,
                Confidence::Likely,
                summary,
                basic_facts(case),
            )
        }
        Assessment::Ends(why) => {
            let summary = format!("{}; {why}", waits(case));
            judge_pending(case).unwrap_or_else(|| {
                verdict(
                    VerdictClass::Waiting,
                    Confidence::Likely,
                    summary,
                    basic_facts(case),
                )
            })
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
        SchedState::Running => "is on-CPU or runnable",
        _ => "was on-CPU within the threshold",
    };
    verdict(
        VerdictClass::Unknown,
        Confidence::Possible,
        format!(
            "{name} {what}; what it does is unknown, as the memory of its process was not read"
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
            format!("{name} is on-CPU or runnable"),
            vec![state_fact(case.thread)],
        ),
        None => (off_cpu(case), basic_facts(case)),
    };
    verdict(VerdictClass::Working, Confidence::Likely, summary, evidence)
}

/// "python (tid 7) is off-CPU for 41s".
fn off_cpu(case: &Case<'_>) -> String {
    let elapsed = since_of(case.thread).map(|since| format!(" for {}", span(since.elapsed)));
    format!(
        "{} is off-CPU{}",
        thread_name(case.thread),
        elapsed.unwrap_or_default()
    )
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
    let summary = format!("{}; {why}", off_cpu(case));
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
            format!(
                "{} can unblock it{}",
                name_of(case, *key),
                doing(case, *key)
            ),
            Confidence::Likely,
        ),
        Unblocker::Process(pid) => (
            format!("process {pid} may unblock it"),
            Confidence::Possible,
        ),
        Unblocker::AnyThread => (
            "other threads of the process can unblock it".to_owned(),
            Confidence::Possible,
        ),
        Unblocker::Unseen => (
            "its other end is out of sight (another pid namespace or user) and may unblock it"
                .to_owned(),
            Confidence::Possible,
        ),
        Unblocker::Signal => (
            "a signal handler may unblock it".to_owned(),
            Confidence::Possible,
        ),
    };
    let summary = format!("{}; {who}", waits(case));
    let mut evidence = basic_facts(case);
    evidence.extend(holder_fact(case));
    verdict(VerdictClass::Waiting, confidence, summary, evidence)
}

/// What a thread does at the moment that others wait for.
fn doing(case: &Case<'_>, key: ThreadRef) -> String {
    let thread = find_thread(case.processes, key);
    let wait = thread.and_then(|thread| thread.wait.as_ref());
    match (thread.map(|thread| thread.state), wait) {
        (Some(SchedState::Running), _) => ": it is on-CPU or runnable".to_owned(),
        (_, Some(wait)) => sentence(wait, key.pid)
            .map(|does| format!(": it {does}"))
            .unwrap_or_default(),
        _ => String::new(),
    }
}

fn judge_stuck(case: &Case<'_>, stuck: &Stuck) -> Verdict {
    let own = case.key();
    let since = stuck_since(own, case.thread, stuck.class, case.observed);
    let left_open = left_open_of(case, stuck);
    let mut summary = match (stuck.class, case.stall) {
        (VerdictClass::Spin, _) => spin(case),
        (_, Some(stall)) => stall_text(case, stall),
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
    evidence.extend(
        case.stall
            .into_iter()
            .flat_map(|stall| stall_facts(case, stall)),
    );
    evidence.extend(unanswered_facts(case));
    evidence.extend(reset_fact(case));
    if stuck.class == VerdictClass::Deadlock {
        summary.push_str(&cycle(case));
    } else if let Some(left) = &left_open {
        summary.push_str(&left_open_text(case, left));
        evidence.extend(left_open_facts(case, left));
    } else if stuck.root != own {
        let label = match stuck.weakest {
            HolderConfidence::Possible => "possible root cause",
            _ => "root cause",
        };
        summary.push_str(&format!("; {label}: {}", name_of(case, stuck.root)));
    } else if stuck.hopeless.is_some() {
        summary.push_str("; nothing can unblock it");
        evidence.push(hopeless_fact(case));
    } else if is_semaphore(case.thread) {
        summary.push_str("; so does every other process that shares it");
    }
    if left_open.is_none() && stuck.root == own {
        evidence.extend(killed_children_facts(case));
    }
    evidence.extend(holder_fact(case));
    evidence.extend(reach_fact(case));
    evidence.extend(own_machinery_fact(case));
    evidence.extend(root_fact(case, stuck));
    for link in case.way.iter().skip(1) {
        evidence.push(Evidence {
            fact: "chain",
            value: json!(link),
            text: format!(
                "{} waits ({}) for {}",
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

/// What closes the cycle that the thread is in, or comes to.
fn cycle(case: &Case<'_>) -> String {
    let own = case.key();
    let Some(next) = case.way.first() else {
        return String::new();
    };
    let name = name_of(case, next.on);
    if next.on == own {
        return "; it holds that itself and can't release it while it waits".to_owned();
    }
    match case.way.iter().position(|link| link.on == own) {
        Some(1) => format!("; {name} waits for it: a deadlock cycle"),
        Some(place) => format!(
            "; {name} is next in a deadlock cycle of {} threads",
            place + 1
        ),
        None => format!("; {name} is in a deadlock cycle"),
    }
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
        if let Some(stall) = case.stall {
            return stall.confidence;
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
                let in_slices = wait.is_some_and(|wait| wait.slices.is_some());
                if (slice_of(case).is_some() || in_slices) && !is_fresh {
                    return Confidence::Possible;
                }
                // Nobody waits for what it receives.
                if is_receiving_loop(&case.thread.frames) && !case.holds_up {
                    return Confidence::Possible;
                }
                // That TCP has seen no answer for long does not say that this thread has waited for it that long.
                let has_waited = case
                    .thread
                    .off_cpu
                    .is_none_or(|off| off.elapsed.saturating_sub(off.error) >= case.threshold);
                match wait.is_some_and(is_request_outstanding) && (has_waited || is_fresh) {
                    true => Confidence::Likely,
                    false => Confidence::Possible,
                }
            }
            // What it reads may be written in the background by design.
            VerdictClass::HangPipe
                if left_open_of(case, stuck).is_some_and(|left| !left.reads_to_end) =>
            {
                Confidence::Possible
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
                    let round = seen.progress.round.as_ref();
                    round.is_some_and(|round| !round.only_counts)
                        && seen.progress.watched >= case.threshold
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
        return format!("{name} waits {} for the GIL", span(since.elapsed));
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
