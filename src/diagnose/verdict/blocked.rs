//! A thread whose wait is shorter than the threshold by its own clock: how long, whether that clock may have been reset, and whether it
//! is but a slice of a longer wait.

use serde_json::json;

use crate::diagnose::pending::since_of as pending_since;
use crate::diagnose::verdict::activity::pending_fact;
use crate::diagnose::verdict::case::Case;
use crate::diagnose::verdict::evidence::basic_facts;
use crate::diagnose::verdict::names::thread_name;
use crate::diagnose::verdict::{verdict, waits};
use crate::diagnose::wait_graph::assessment::Blocked;
use crate::model::{
    Confidence, Evidence, Gil, SchedState, Verdict, VerdictClass, span, whole_milliseconds,
};
use crate::wait::sentence;

/// The verdict on a thread that woke now and then inside the same call: that call has waited at least for as long as it was watched.
/// `None` where it was not watched, or was not like that.
pub fn judge_pending(case: &Case<'_>) -> Option<Verdict> {
    let seen = case.seen()?;
    // Whoever waits for the GIL wakes each 5 ms, and says so.
    let pending = seen.pending.as_ref();
    let call = pending
        .filter(|_| case.thread.gil != Gil::Waiting)?
        .calls
        .first()?;
    let age = case.process.age.unwrap_or_default();
    let since = pending.map(|pending| pending_since(seen, pending, case.thread, age));
    let elapsed = since.map_or(seen.progress.watched, |since| since.elapsed);
    let progress = &seen.progress;
    let wait = case.thread.wait.as_ref();
    let now = wait.and_then(|wait| sentence(wait, case.process.pid));
    let now = now.map(|now| format!("; now it {now}")).unwrap_or_default();
    let summary = format!(
        "{} waits in slices for at least {} in {}: it woke {} times and used {} of CPU{now}",
        thread_name(case.thread),
        span(elapsed),
        call.place(),
        progress.wake_ups.unwrap_or_default(),
        span(progress.cpu.unwrap_or_default()),
    );
    let mut evidence = basic_facts(case);
    evidence.push(pending_fact(seen, call, elapsed));
    Some(verdict(
        VerdictClass::Waiting,
        Confidence::Likely,
        summary,
        evidence,
    ))
}

/// The verdict on a thread that waits, for less than the threshold so far.
pub fn judge_blocked(case: &Case<'_>, blocked: Blocked) -> Verdict {
    let threshold = span(case.threshold);
    let mut summary = format!("{}; shorter than the threshold of {threshold}", waits(case));
    let mut evidence = basic_facts(case);
    if let (true, Some(off_cpu)) = (blocked.is_woken_with_all, case.thread.off_cpu) {
        let woken = span(off_cpu.elapsed);
        summary.push_str(&format!("; woken {woken} ago; may have waited longer"));
        evidence.push(Evidence {
            fact: "wait.woken_ms",
            value: json!(whole_milliseconds(off_cpu.elapsed)),
            text: format!(
                "all waiting threads of its process woke at one moment, {woken} ago, as a tracer or a signal wakes them"
            ),
        });
    }
    verdict(VerdictClass::Waiting, Confidence::Likely, summary, evidence)
}

/// That a stuck thread ran within the threshold: that it has waited for longer is known from elsewhere.
pub fn reset_fact(case: &Case<'_>) -> Option<Evidence> {
    let off_cpu = case.thread.off_cpu?;
    // Whoever waits for the GIL wakes by itself.
    let is_asleep = case.thread.state == SchedState::Sleeping && case.thread.gil != Gil::Waiting;
    if !is_asleep
        || off_cpu.elapsed >= case.threshold
        || case
            .seen()
            .is_some_and(|seen| seen.is_starved || seen.unanswered.is_some())
    {
        return None;
    }
    let woken = span(off_cpu.elapsed);
    Some(Evidence {
        fact: "wait.woken_ms",
        value: json!(whole_milliseconds(off_cpu.elapsed)),
        text: format!(
            "woken {woken} ago; may have waited longer: a tracer or a signal wakes a thread, which then waits anew"
        ),
    })
}
