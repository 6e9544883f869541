//! Which request a stuck thread is busy with, as the rules name it.

use std::collections::BTreeMap;

use super::args::DiagnoseArguments;
use crate::diagnose::find_context;
use crate::diagnose::rules::Rules;
use crate::model::{Context, Finding, Pid, ProcessSnapshot, ThreadRef};
use crate::redact::redact_context;
use crate::snapshot::{CaptureOptions, Locals, TreeOptions, capture_tree};
use crate::sys::deadline::TimeBudget;

/// Most findings whose request is read.
const MAX_CONTEXTS: usize = 16;

/// Adds to each finding the request of its stuck call: from a second snapshot of its thread, which does not move, with its variables.
pub fn add_requests(
    findings: &mut [Finding],
    processes: &[ProcessSnapshot],
    arguments: &DiagnoseArguments,
    rules: &Rules,
    time: TimeBudget,
) {
    let mut snapshots: BTreeMap<Pid, Vec<ProcessSnapshot>> = BTreeMap::new();
    for finding in findings.iter_mut().take(MAX_CONTEXTS) {
        // The request is known to the thread of the verdict; if that was stopped, to the one that waits for it.
        let direct = finding.chain.last().map(|link| link.thread);
        let mut keys = [Some(finding.teller), direct].into_iter().flatten();
        let context = keys.find_map(|key| request_of(key, processes, rules, time, &mut snapshots));
        finding.context = context.map(|mut context| {
            if !arguments.no_redact {
                redact_context(&mut context);
            }
            context
        });
    }
}

/// The request of one thread.
fn request_of(
    key: ThreadRef,
    processes: &[ProcessSnapshot],
    rules: &Rules,
    time: TimeBudget,
    snapshots: &mut BTreeMap<Pid, Vec<ProcessSnapshot>>,
) -> Option<Context> {
    let find = |processes: &[ProcessSnapshot]| {
        let process = processes.iter().find(|process| process.pid == key.pid)?;
        let mut threads = process.threads.iter();
        threads.find(|thread| thread.tid == key.tid).cloned()
    };
    let thread = find(processes)?;
    let mut frames = thread.frames.iter();
    frames.find(|frame| rules.find_context(frame).is_some())?;
    let snapshot = snapshots.entry(key.pid).or_insert_with(|| {
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
    let again = find(snapshot)?;
    let is_same = again.frames.len() == thread.frames.len()
        && again
            .frames
            .iter()
            .zip(&thread.frames)
            .all(|(one, other)| one.is_same_call(other));
    if !is_same {
        return None;
    }
    find_context(&again.frames, rules)
}
