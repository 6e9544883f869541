//! One line on a process: what it is and how its threads fare.

use std::io::{self, Write};

use crate::model::{MemoryOutcome, ProcessSnapshot, SchedState, Verdict, VerdictClass, WaitKind};
use crate::report::place::container_words;
use crate::report::sanitize::Shown;
use crate::report::stack::shorten;
use crate::report::text::write_errors;
use crate::wait::sentence;

/// Most threads of a process that work and are worth a line.
const MAX_NOTES: usize = 3;

/// Writes the line, and what is worth one of its threads.
pub fn write_process_line(process: &ProcessSnapshot, out: &mut dyn Write) -> io::Result<()> {
    let mut counts: Vec<(VerdictClass, usize)> = Vec::new();
    for class in process
        .threads
        .iter()
        .filter_map(|thread| thread.verdict.as_ref())
        .map(|verdict| verdict.class)
    {
        match counts.iter_mut().find(|(known, _)| *known == class) {
            Some((_, count)) => *count += 1,
            None => counts.push((class, 1)),
        }
    }
    if process.unread_threads > 0 {
        let unread = process.unread_threads;
        match counts
            .iter_mut()
            .find(|(class, _)| *class == VerdictClass::Unknown)
        {
            Some((_, count)) => *count += unread,
            None => counts.push((VerdictClass::Unknown, unread)),
        }
    }
    let counts: Vec<_> = counts
        .iter()
        .map(|(class, count)| format!("{count} {}", class.name()))
        .collect();
    let runtime = match &process.runtime {
        Some(runtime) => format!(", CPython {}", Shown(&runtime.version)),
        None if process.memory == MemoryOutcome::NotPython => ", no Python found".to_owned(),
        None => String::new(),
    };
    let inside = process
        .ns_pid
        .map(|number| format!(", {number} inside"))
        .unwrap_or_default();
    let container = process.container.as_ref().map(container_words);
    let container = container
        .map(|container| format!(", {container}"))
        .unwrap_or_default();
    let state = match (ended(process), is_foreign_peer(process)) {
        (Some(ended), _) => format!(": {ended}"),
        // How the threads of a database fare says nothing of the answer that is waited for.
        (None, true) => String::new(),
        (None, false) if counts.is_empty() => ": no threads seen".to_owned(),
        (None, false) => format!(": {}", counts.join(", ")),
    };
    writeln!(
        out,
        "{}{}process {}{inside} ({}{}{container}){}",
        "  ".repeat(process.depth.min(10)),
        if process.is_related {
            "waited for: "
        } else {
            ""
        },
        process.pid,
        Shown(&shorten(&process.title, 60)),
        runtime,
        Shown(&state)
    )?;
    if process.state == SchedState::Zombie {
        return Ok(());
    }
    if !is_foreign_peer(process) {
        write_notes(process, out)?;
    }
    write_errors(process, out)
}

/// How a process ended that nobody has reaped.
fn ended(process: &ProcessSnapshot) -> Option<String> {
    let thread = process
        .threads
        .first()
        .filter(|_| process.state == SchedState::Zombie)?;
    let wait = thread
        .wait
        .as_ref()
        .filter(|wait| wait.kind == WaitKind::Zombie);
    let how = wait.and_then(|wait| sentence(wait, process.pid));
    let how = how.unwrap_or_else(|| "ended".to_owned());
    Some(match how.contains("not reaped") {
        true => how,
        false => format!("{how}, not reaped by its parent"),
    })
}

/// Whether it is a program of another language that is there only because it is waited for.
fn is_foreign_peer(process: &ProcessSnapshot) -> bool {
    process.is_related && process.memory == MemoryOutcome::NotPython
}

/// What is worth a line of a thread that is not stuck: it starves others, is kept from working itself, or is not to be judged.
fn write_notes(process: &ProcessSnapshot, out: &mut dyn Write) -> io::Result<()> {
    const NOTED: [&str; 2] = ["progress.starved", "processes.progress.throttled_ms"];
    let verdicts = process
        .threads
        .iter()
        .filter_map(|thread| thread.verdict.as_ref());
    let is_noted = |verdict: &&Verdict| {
        let mut facts = verdict.evidence.iter().map(|evidence| evidence.fact);
        verdict.class == VerdictClass::Unknown
            || (verdict.class == VerdictClass::Working && facts.any(|fact| NOTED.contains(&fact)))
    };
    let mut noted = verdicts.filter(is_noted);
    for verdict in noted.by_ref().take(MAX_NOTES) {
        writeln!(out, "  {}", Shown(&verdict.summary))?;
    }
    match noted.count() {
        0 => Ok(()),
        more => writeln!(out, "  ... {more} more (--json lists all)"),
    }
}
