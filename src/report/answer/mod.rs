//! What `diagnose` answers, as text: a headline, the findings with the root before its symptoms, or what comes closest to one, and a line
//! for every process.

mod closest;
mod finding;
mod headline;
mod process_line;

use std::io::{self, Write};
use std::time::Duration;

use super::sanitize::Shown;
use super::stack::TextOptions;
use crate::model::{
    Confidence, Finding, MemoryOutcome, Pid, ProcessSnapshot, ThreadRef, ThreadSnapshot,
    VerdictClass, find_thread,
};

/// How an answer is shown.
#[derive(Clone, Copy, Debug)]
pub struct AnswerOptions {
    /// How stacks are shown.
    pub text: TextOptions,
    /// How long a wait may take.
    pub threshold: Duration,
    /// Whether everything is shown, be it many screens; else a screen.
    pub is_all: bool,
}

/// Writes the headline, what is stuck with its stacks (or else the longest waits and the hottest loops), then a line for every
/// process.
pub fn write_diagnosis(
    processes: &[ProcessSnapshot],
    findings: &[Finding],
    options: AnswerOptions,
    out: &mut dyn Write,
) -> io::Result<()> {
    writeln!(
        out,
        "{}\n",
        Shown(&headline::headline(processes, findings, options.threshold))
    )?;
    finding::write_findings(processes, findings, options, out)?;
    let is_sure = |finding: &Finding| finding.confidence >= Confidence::Likely;
    if options.is_all || !findings.iter().any(is_sure) {
        closest::write_closest(processes, options, out)?;
    }
    for process in processes.iter().filter(|process| !has_vanished(process)) {
        process_line::write_process_line(process, out)?;
    }
    Ok(())
}

/// Whether it is a child that ended while its parent was read: that is nothing to report.
fn has_vanished(process: &ProcessSnapshot) -> bool {
    process.memory == MemoryOutcome::Ended && process.depth > 0 && process.threads.is_empty()
}

/// A thread by its name, and its process where that is not `pid`.
fn name_of(processes: &[ProcessSnapshot], key: ThreadRef, pid: Pid) -> String {
    let thread = find_thread(processes, key);
    let name = thread.map_or("thread", ThreadSnapshot::best_name);
    let mut text = format!("{name} (tid {})", key.tid);
    if key.pid != pid {
        text.push_str(&format!(" of process {}", key.pid));
    }
    text
}

/// The threads of a process once each: one that is inside several interpreters stands there more than once, innermost first.
fn distinct_threads(process: &ProcessSnapshot) -> impl Iterator<Item = &ThreadSnapshot> {
    let mut before = None;
    process.threads.iter().filter(move |thread| {
        let is_new = before != Some(thread.tid);
        before = Some(thread.tid);
        is_new
    })
}

/// How many of a noun: `1 thread`, `5 threads`.
fn count(number: usize, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        number => format!("{number} {noun}s"),
    }
}

/// Whether a thread has this verdict.
fn is_class(thread: &ThreadSnapshot, class: VerdictClass) -> bool {
    let verdict = thread.verdict.as_ref();
    verdict.is_some_and(|verdict| verdict.class == class)
}

#[cfg(test)]
mod tests;
