//! The first line of an answer: stuck or not, since when, and how much of the target could be read.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{count, distinct_threads, is_class};
use crate::model::{
    Confidence, Finding, MemoryOutcome, ProcessSnapshot, SchedState, ThreadRef, VerdictClass, span,
};

/// `STUCK for 9m12s: 1 root cause, 34 threads affected`, `possibly stuck …`, `not stuck (threshold 30s)`, or `not diagnosed: …`.
pub fn headline(
    processes: &[ProcessSnapshot],
    findings: &[Finding],
    threshold: Duration,
) -> String {
    let unknown = unknown_part(processes);
    let best = findings.iter().map(|finding| finding.confidence).max();
    let word = match best {
        Some(Confidence::Proven | Confidence::Likely) => "STUCK",
        Some(Confidence::Possible) => "possibly stuck",
        None => {
            if let Some(why) = undiagnosed(processes, unknown.as_deref()) {
                return format!("not diagnosed: {why}");
            }
            let text = format!("not stuck (threshold {})", span(threshold));
            return match unknown {
                Some(unknown) => format!("{text}, as far as could be read: {unknown}"),
                None => text,
            };
        }
    };
    // The time is that of what counts most, not of the least sure.
    let counted = || {
        findings
            .iter()
            .filter(|finding| Some(finding.confidence) == best || is_sure(finding))
    };
    let since = counted().filter_map(|finding| finding.since).max();
    let since = since.map(|since| format!(" for {}", span(since)));
    let causes = findings
        .iter()
        .map(|finding| finding.group)
        .collect::<BTreeSet<_>>();
    let affected: BTreeSet<ThreadRef> = findings
        .iter()
        .flat_map(|finding| {
            let stuck = [finding.root, finding.teller].into_iter();
            stuck.chain(finding.blocks.iter().copied())
        })
        .collect();
    let mut text = format!(
        "{word}{}: {}, {} affected",
        since.unwrap_or_default(),
        count(causes.len(), "root cause"),
        count(affected.len(), "thread"),
    );
    if let Some(unknown) = unknown {
        text.push_str(&format!("; {unknown}"));
    }
    text
}

/// Why nothing can be said of the target: no Python of it was read.
fn undiagnosed(processes: &[ProcessSnapshot], unknown: Option<&str>) -> Option<String> {
    let mut asked = processes.iter().filter(|process| !process.is_related);
    if asked.any(|process| process.memory == MemoryOutcome::Python) {
        return None;
    }
    let has_ended = processes
        .first()
        .is_some_and(|process| process.state == SchedState::Zombie);
    Some(match (unknown, has_ended) {
        (Some(unknown), _) => unknown.to_owned(),
        (None, true) => "the process has ended".to_owned(),
        (None, false) => "no Python was found".to_owned(),
    })
}

fn is_sure(finding: &Finding) -> bool {
    finding.confidence >= Confidence::Likely
}

/// What of the target could not be read; `None` where all of it could.
fn unknown_part(processes: &[ProcessSnapshot]) -> Option<String> {
    let asked = || processes.iter().filter(|process| !process.is_related);
    let unread: usize = asked().map(|process| process.unread_threads).sum();
    let is_closed = |process: &&ProcessSnapshot| {
        matches!(
            process.memory,
            MemoryOutcome::Denied | MemoryOutcome::Unreadable | MemoryOutcome::TimedOut
        )
    };
    let closed = asked().filter(is_closed).count();
    let unknown: usize = asked()
        .filter(|process| !is_closed(process))
        .flat_map(distinct_threads)
        .filter(|thread| thread.interpreter.is_some() && is_class(thread, VerdictClass::Unknown))
        .count();
    let mut parts = Vec::new();
    if closed > 0 {
        let processes = match closed {
            1 => "1 process".to_owned(),
            closed => format!("{closed} processes"),
        };
        parts.push(format!("{processes} could not be read"));
    }
    if unread > 0 {
        parts.push(format!("{} could not be read", count(unread, "thread")));
    }
    if unknown > 0 {
        let verb = if unknown == 1 { "waits" } else { "wait" };
        let threads = count(unknown, "thread");
        parts.push(format!("what {threads} {verb} for is unknown"));
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}
