//! Snapshots and findings as text for people.

use std::io::{self, Write};

use super::event_loop::{write_blocked_hub, write_event_loop};
use super::place::container_words;
use super::sanitize::Shown;
pub use super::stack::TextOptions;
use super::stack::{shorten, write_frames};
use crate::model::{
    Consistency, Finding, Gil, MemoryOutcome, Pid, ProcessSnapshot, SchedState, ThreadRef,
    ThreadSnapshot, Verdict, VerdictClass, Wait, WaitKind, span,
};
use crate::wait::sentence;

/// Most threads of a process that work and are worth a line.
const MAX_NOTES: usize = 3;

/// Longest text on a thread that is held up, in characters.
const MAX_BLOCKED: usize = 240;
/// Threads that a root holds up which are named; the rest are counted.
const SHOWN_BLOCKS: usize = 8;
/// Longest text on what a stuck call is about, in characters.
const MAX_CONTEXT: usize = 300;

/// Writes all processes with all their threads and stacks.
pub fn write_dump(
    processes: &[ProcessSnapshot],
    options: TextOptions,
    out: &mut dyn Write,
) -> io::Result<()> {
    for (index, process) in processes.iter().enumerate() {
        if index > 0 {
            writeln!(out)?;
        }
        write_process_head(process, out)?;
        for thread in process
            .threads
            .iter()
            .filter(|thread| thread.interpreter.is_some())
        {
            writeln!(out)?;
            write_thread_head(process.pid, thread, out)?;
            write_frames(&thread.frames, options, "    ", out)?;
            if let Some(hub) = &thread.blocked_hub {
                write_blocked_hub(hub, "    ", out)?;
            }
            if let Some(event_loop) = &thread.event_loop {
                write_event_loop(event_loop, options, "    ", out)?;
            }
        }
        write_native_threads(process, out)?;
    }
    Ok(())
}

/// Writes what is stuck with its stacks, then a line for every process.
pub fn write_diagnosis(
    processes: &[ProcessSnapshot],
    findings: &[Finding],
    options: TextOptions,
    out: &mut dyn Write,
) -> io::Result<()> {
    for finding in findings {
        write_finding(processes, finding, options, out)?;
        writeln!(out)?;
    }
    for process in processes {
        write_process_line(process, out)?;
    }
    Ok(())
}

fn write_finding(
    processes: &[ProcessSnapshot],
    finding: &Finding,
    options: TextOptions,
    out: &mut dyn Write,
) -> io::Result<()> {
    let teller = finding.teller;
    writeln!(
        out,
        "{} ({}): in process {}, {}",
        finding.verdict.name(),
        format!("{:?}", finding.confidence).to_lowercase(),
        teller.pid,
        Shown(&finding.summary)
    )?;
    let thread = find_thread(processes, teller);
    if let Some(verdict) = thread.and_then(|thread| thread.verdict.as_ref()) {
        for (index, evidence) in verdict.evidence.iter().enumerate() {
            let label = if index == 0 { "because:" } else { "" };
            writeln!(out, "  {label:<12}{}", Shown(&evidence.text))?;
        }
    }
    if let Some(context) = &finding.context {
        let fields: Vec<_> = context
            .fields
            .iter()
            .map(|field| format!("{} {}", field.name, field.value))
            .collect();
        let what = match fields.is_empty() {
            true => context.what.clone(),
            false => format!("{}: {}", context.what, fields.join(", ")),
        };
        writeln!(
            out,
            "  {:<12}{}",
            "about:",
            Shown(&shorten(&what, MAX_CONTEXT))
        )?;
    }
    write_blocks(processes, finding, teller.pid, out)?;
    if !finding.advice.is_empty() {
        writeln!(out, "  {:<12}{}", "what helps:", Shown(&finding.advice))?;
    }
    if let Some(thread) = thread
        && !thread.frames.is_empty()
    {
        writeln!(out, "  stack:")?;
        write_frames(&thread.frames, options, "    ", out)?;
    }
    let root = find_thread(processes, finding.root).filter(|_| finding.root != teller);
    if let Some(root) = root
        && !root.frames.is_empty()
    {
        let name = name_of(processes, finding.root, teller.pid);
        writeln!(out, "  stack of {}:", Shown(&name))?;
        write_frames(&root.frames, options, "    ", out)?;
    }
    Ok(())
}

fn find_thread(processes: &[ProcessSnapshot], key: ThreadRef) -> Option<&ThreadSnapshot> {
    let process = processes.iter().find(|process| process.pid == key.pid)?;
    process.threads.iter().find(|thread| thread.tid == key.tid)
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

/// Whom the root holds up: each by its name, and with what it waits for.
fn write_blocks(
    processes: &[ProcessSnapshot],
    finding: &Finding,
    teller: Pid,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut label = "holds up:";
    for key in finding.blocks.iter().take(SHOWN_BLOCKS) {
        let mut text = name_of(processes, *key, teller);
        let wait = find_thread(processes, *key).and_then(|thread| thread.wait.as_ref());
        if let Some(wait) = wait {
            match sentence(wait, key.pid) {
                Some(sentence) => text.push_str(&format!(" {sentence}")),
                None => text.push_str(&format!(" waits ({})", wait.kind.word())),
            }
        }
        let text = shorten(&text, MAX_BLOCKED);
        writeln!(out, "  {label:<12}{}", Shown(&text))?;
        label = "";
    }
    match finding.blocks.len().saturating_sub(SHOWN_BLOCKS) {
        0 => Ok(()),
        1 => writeln!(out, "  {:<12}and 1 other thread", ""),
        more => writeln!(out, "  {:<12}and {more} other threads", ""),
    }
}

/// One line on a process: what it is and how its threads fare.
fn write_process_line(process: &ProcessSnapshot, out: &mut dyn Write) -> io::Result<()> {
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
    writeln!(
        out,
        "{}{}process {}{inside} ({}{}{container}): {}",
        "  ".repeat(process.depth.min(10)),
        if process.is_related {
            "waited for: "
        } else {
            ""
        },
        process.pid,
        Shown(&shorten(&process.title, 60)),
        runtime,
        if counts.is_empty() {
            "no threads seen".to_owned()
        } else {
            counts.join(", ")
        }
    )?;
    write_notes(process, out)?;
    write_errors(process, out)
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
        more => writeln!(out, "  ... {more} more, which --json has"),
    }
}

fn write_process_head(process: &ProcessSnapshot, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "Process {}: {}", process.pid, Shown(&process.title))?;
    let mut parts = Vec::new();
    match &process.runtime {
        Some(runtime) => {
            let build = if runtime.free_threaded {
                ", free-threaded"
            } else {
                ""
            };
            parts.push(format!(
                "CPython {}{build} in {}",
                Shown(&runtime.version),
                Shown(&runtime.image)
            ));
        }
        None if process.state != SchedState::Dead => {
            parts.push(format!("state {}", process.state.word()));
        }
        None => {}
    }
    if process.memory == MemoryOutcome::NotPython {
        parts.push("no Python found in it".to_owned());
    }
    if let Some(number) = process.ns_pid {
        parts.push(format!("process {number} in its own pid namespace"));
    }
    parts.extend(process.container.as_ref().map(container_words));
    if process.depth > 0 {
        parts.push(format!("child of {}", process.ppid));
    }
    if let Some(age) = process.age {
        parts.push(format!("started {} ago", span(age)));
    }
    if let Some(tracer) = process.tracer {
        parts.push(format!("traced by process {tracer}"));
    }
    if !parts.is_empty() {
        writeln!(out, "{}", parts.join(", "))?;
    }
    write_errors(process, out)
}

fn write_errors(process: &ProcessSnapshot, out: &mut dyn Write) -> io::Result<()> {
    for error in &process.errors {
        writeln!(out, "! {}", Shown(error))?;
    }
    Ok(())
}

fn write_thread_head(pid: Pid, thread: &ThreadSnapshot, out: &mut dyn Write) -> io::Result<()> {
    write!(out, "Thread {}", thread.tid)?;
    if let Some(name) = &thread.name {
        write!(out, " \"{}\"", Shown(name))?;
    }
    if let Some(interpreter) = thread.interpreter.filter(|interpreter| *interpreter != 0) {
        write!(out, " (interpreter {interpreter})")?;
    }
    write!(out, ": {}", Shown(&describe_state(pid, thread)))?;
    match thread.gil {
        Gil::None => {}
        Gil::Held => write!(out, ", holds the GIL")?,
        Gil::Waiting => write!(out, ", waits for the GIL")?,
    }
    match thread.consistency {
        Consistency::Exact => {}
        Consistency::Repeated => write!(out, ", read while it could run: the same twice")?,
        Consistency::Torn => write!(out, ", torn: it ran whenever it was read")?,
    }
    writeln!(out)
}

/// What a thread waits for, with the call that it is in; else its state, for how long it has not run, and the call with what it
/// is on.
fn describe_state(pid: Pid, thread: &ThreadSnapshot) -> String {
    let wait = thread.wait.as_ref();
    if let Some((wait, mut text)) = wait.and_then(|wait| Some((wait, sentence(wait, pid)?))) {
        if thread.state == SchedState::DiskSleep && wait.kind != WaitKind::Stopped {
            text = format!("{}, {text}", thread.state.word());
        }
        let fd = wait.resource.as_ref().and_then(|resource| resource.fd);
        return match (&wait.syscall, fd) {
            (Some(call), Some(fd)) => format!("{text} [{call}(fd {fd})]"),
            (Some(call), None) => format!("{text} [{call}]"),
            (None, _) => text,
        };
    }
    let since = thread
        .off_cpu
        .map(|since| format!(" for {}", span(since.elapsed)));
    let call = wait
        .and_then(describe_wait)
        .map(|call| format!(" in {call}"));
    let parts = [Some(thread.state.word().to_owned()), since, call];
    parts.into_iter().flatten().collect()
}

/// The call that a thread is blocked in, with what it is on.
fn describe_wait(wait: &Wait) -> Option<String> {
    let call = wait.syscall.as_deref()?;
    let Some(resource) = &wait.resource else {
        return Some(call.to_owned());
    };
    let fd = resource
        .fd
        .map(|fd| format!("fd {fd}: "))
        .unwrap_or_default();
    let mut text = format!("{call}({fd}{}", resource.kind);
    if let Some(path) = &resource.path {
        text.push(' ');
        text.push_str(path);
    }
    match (&resource.local, &resource.peer) {
        (Some(local), Some(peer)) => text.push_str(&format!(" {local} -> {peer}")),
        (Some(local), None) => text.push_str(&format!(" {local}")),
        (None, Some(peer)) => text.push_str(&format!(" -> {peer}")),
        (None, None) => {}
    }
    if let Some(state) = &resource.state {
        text.push_str(&format!(" {state}"));
    }
    text.push(')');
    Some(text)
}

/// Threads without Python: a line each, since there is no stack to show.
fn write_native_threads(process: &ProcessSnapshot, out: &mut dyn Write) -> io::Result<()> {
    let mut native = process
        .threads
        .iter()
        .filter(|thread| thread.interpreter.is_none())
        .peekable();
    if native.peek().is_some() && process.runtime.is_some() {
        writeln!(out, "\nThreads without Python:")?;
    }
    for thread in native {
        let comm = Shown(&thread.comm);
        writeln!(
            out,
            "    {} \"{comm}\": {}",
            thread.tid,
            Shown(&describe_state(process.pid, thread))
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testing::{process, thread};
    use crate::model::Confidence;

    #[test]
    fn notes_that_are_left_out_are_counted() {
        let threads = (1..=5).map(|tid| {
            let mut thread = thread(tid, WaitKind::Unknown, 60);
            thread.verdict = Some(Verdict {
                class: VerdictClass::Unknown,
                confidence: Confidence::Possible,
                summary: format!("note {tid}"),
                evidence: Vec::new(),
            });
            thread
        });
        let process = process(1, threads.collect());
        let mut out = Vec::new();
        write_diagnosis(&[process], &[], TextOptions::default(), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains(": 5 unknown\n"), "{text}");
        assert!(
            text.ends_with("  note 3\n  ... 2 more, which --json has\n"),
            "{text}"
        );
    }
}
