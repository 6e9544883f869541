//! What the variables of stuck calls say: which request a thread is busy with, and that it waits for news and not for an answer.

use std::collections::BTreeMap;

use super::args::DiagnoseArguments;
use crate::diagnose::rules::Rules;
use crate::diagnose::{advise, find_context, idle_by_values};
use crate::model::{
    Context, Finding, Pid, ProcessSnapshot, ThreadRef, ThreadSnapshot, VerdictClass, find_thread,
};
use crate::redact::redact_context;
use crate::snapshot::{CaptureOptions, Locals, TreeOptions, capture_tree};
use crate::sys::deadline::TimeBudget;

/// Most findings whose variables are read.
const MAX_CONTEXTS: usize = 16;

/// Processes captured once more with the variables of their frames, when one of their threads is stuck: those do not move.
pub struct SnapshotsWithLocals {
    time: TimeBudget,
    taken: BTreeMap<Pid, Vec<ProcessSnapshot>>,
}

impl SnapshotsWithLocals {
    /// None so far; all of them are taken within this time.
    pub fn new(time: TimeBudget) -> Self {
        SnapshotsWithLocals {
            time,
            taken: BTreeMap::new(),
        }
    }

    /// A thread with its variables, if it is where it was.
    fn thread(&mut self, key: ThreadRef, processes: &[ProcessSnapshot]) -> Option<&ThreadSnapshot> {
        let thread = find_thread(processes, key)?;
        let time = self.time;
        let snapshot = self.taken.entry(key.pid).or_insert_with(|| {
            let options = TreeOptions {
                capture: CaptureOptions {
                    locals: Locals::All,
                    time,
                    ..CaptureOptions::default()
                },
                subprocesses: false,
                holders_after: None,
            };
            let tree = capture_tree(key.pid, options);
            tree.map(|tree| tree.processes).unwrap_or_default()
        });
        let again = find_thread(snapshot, key)?;
        let mut calls = again.frames.iter().zip(&thread.frames);
        let is_same = again.frames.len() == thread.frames.len()
            && calls.all(|(one, other)| one.is_same_call(other));
        is_same.then_some(again)
    }
}

/// The threads that seem to wait for an answer, and by the values of their variables wait for news: each with why.
pub fn find_idle_by_values(
    findings: &[Finding],
    processes: &[ProcessSnapshot],
    rules: &Rules,
    snapshots: &mut SnapshotsWithLocals,
) -> BTreeMap<ThreadRef, String> {
    let is_network = |finding: &&Finding| finding.verdict == VerdictClass::HangNetwork;
    let waiting = findings.iter().filter(is_network).take(MAX_CONTEXTS);
    let idle = waiting.filter_map(|finding| {
        let thread = snapshots.thread(finding.teller, processes)?;
        Some((finding.teller, idle_by_values(thread, rules)?))
    });
    idle.collect()
}

/// Adds to each finding the request of its stuck call, and to its suggestion what follows from that.
pub fn add_requests(
    findings: &mut [Finding],
    processes: &[ProcessSnapshot],
    arguments: &DiagnoseArguments,
    rules: &Rules,
    snapshots: &mut SnapshotsWithLocals,
) {
    for finding in findings.iter_mut().take(MAX_CONTEXTS) {
        // The request is known to the thread of the verdict; if that was stopped, to the one that waits for it.
        let direct = finding.chain.last().map(|link| link.thread);
        let mut keys = [Some(finding.teller), direct].into_iter().flatten();
        let context = keys.find_map(|key| request_of(key, processes, rules, snapshots));
        finding.context = context.map(|mut context| {
            if !arguments.no_redact {
                redact_context(&mut context);
            }
            context
        });
        // A proxy, say, is known by its request only.
        advise(finding, processes);
    }
}

/// The request of one thread.
fn request_of(
    key: ThreadRef,
    processes: &[ProcessSnapshot],
    rules: &Rules,
    snapshots: &mut SnapshotsWithLocals,
) -> Option<Context> {
    let mut frames = find_thread(processes, key)?.frames.iter();
    frames.find(|frame| rules.find_context(frame).is_some())?;
    find_context(&snapshots.thread(key, processes)?.frames, rules)
}
