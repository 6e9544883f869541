//! A thread whose wait is shorter than the threshold by its own clock: how long, and whether that clock may have been reset.

use serde_json::json;

use crate::diagnose::verdict::case::Case;
use crate::diagnose::verdict::evidence::basic_facts;
use crate::diagnose::verdict::{verdict, waits};
use crate::diagnose::wait_graph::assessment::Blocked;
use crate::model::{
    Confidence, Evidence, Gil, SchedState, Verdict, VerdictClass, span, whole_milliseconds,
};

/// The verdict on a thread that waits, for less than the threshold so far.
pub fn judge_blocked(case: &Case<'_>, blocked: Blocked) -> Verdict {
    let threshold = span(case.threshold);
    let mut summary = format!("{}; below the threshold of {threshold}", waits(case));
    let mut evidence = basic_facts(case);
    if let (true, Some(off_cpu)) = (blocked.is_woken_with_all, case.thread.off_cpu) {
        let woken = span(off_cpu.elapsed);
        summary.push_str(&format!("; woken {woken} ago; may have waited longer"));
        evidence.push(Evidence {
            fact: "wait.woken_ms",
            value: json!(whole_milliseconds(off_cpu.elapsed)),
            text: format!(
                "all waiting threads of its process woke at one moment, {woken} ago: a tracer or a signal woke them"
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
