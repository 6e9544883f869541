//! What a wake-up a moment ago says of how long a thread has waited: nothing, since a tracer or a signal wakes it as well.

use serde_json::json;

use crate::diagnose::verdict::case::Case;
use crate::diagnose::wait_graph::clocks::is_woken_as_one;
use crate::model::{Evidence, Gil, SchedState, span, whole_milliseconds};

/// That something from outside woke a thread which waits for less than the threshold: all waiting threads of its process woke with it.
pub fn woken_fact(case: &Case<'_>) -> Option<Evidence> {
    let is_asleep = case.thread.state == SchedState::Sleeping;
    (is_asleep && is_woken_as_one(case.process, case.threshold))
        .then(|| fact(case, "with all other threads: a tracer or a signal"))
        .flatten()
}

/// That a stuck thread ran within the threshold: how long it has waited is known from elsewhere, or does not matter.
pub fn reset_fact(case: &Case<'_>) -> Option<Evidence> {
    // Whoever waits for the GIL, or in slices, wakes by itself.
    let is_asleep = case.thread.state == SchedState::Sleeping && case.thread.gil != Gil::Waiting;
    let wakes = case
        .seen()
        .is_some_and(|seen| seen.is_starved || seen.unanswered.is_some() || seen.pending.is_some());
    let is_brief = case
        .thread
        .off_cpu
        .is_some_and(|off_cpu| off_cpu.elapsed < case.threshold);
    (is_asleep && is_brief && !wakes)
        .then(|| fact(case, "a tracer or a signal wakes a thread too"))
        .flatten()
}

fn fact(case: &Case<'_>, why: &str) -> Option<Evidence> {
    let woken = case.thread.off_cpu?.elapsed;
    Some(Evidence {
        fact: "wait.woken_ms",
        value: json!(whole_milliseconds(woken)),
        text: format!("woken {} ago ({why}); may have waited longer", span(woken)),
    })
}
