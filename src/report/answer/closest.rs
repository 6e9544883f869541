//! Where nothing is stuck, or not for sure: the longest waits and the hottest loops, a line each, with why that is not called stuck.

use std::cmp::Reverse;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use super::{AnswerOptions, count, distinct_threads};
use crate::model::{
    EventLoop, Frame, FrameKind, ProcessSnapshot, Task, TaskState, ThreadSnapshot, VerdictClass,
    span,
};
use crate::report::sanitize::Shown;
use crate::report::stack::shorten;

/// Waits, loops, and places of tasks of one loop that are shown; the rest are counted.
const SHOWN_WAITS: usize = 6;
const SHOWN_LOOPS: usize = 3;
const SHOWN_TASKS: usize = 4;
/// Longest line, in characters.
const MAX_LINE: usize = 400;

/// Threads of a process that are alike.
struct Alike<'a> {
    process: &'a ProcessSnapshot,
    /// The one that has waited longest, or has used most.
    first: &'a ThreadSnapshot,
    more: usize,
}

/// Writes the longest waits and the hottest loops of the processes that were asked for.
pub fn write_closest(
    processes: &[ProcessSnapshot],
    options: AnswerOptions,
    out: &mut dyn Write,
) -> io::Result<()> {
    let asked = || processes.iter().filter(|process| !process.is_related);
    let is_one_process = asked().count() == 1;
    let threads = || {
        asked().flat_map(|process| distinct_threads(process).map(move |thread| (process, thread)))
    };
    let mut waits: Vec<_> = threads().filter(|(_, thread)| is_wait(thread)).collect();
    // Of threads of other languages in a Python process nothing is known to go by: they come last, and so does what waits by design.
    waits.sort_by_key(|(process, thread)| {
        (
            process.runtime.is_some() && thread.interpreter.is_none(),
            class_of(thread) == Some(VerdictClass::Idle),
            Reverse(waited(thread)),
        )
    });
    let has_python = waits.iter().any(|(_, thread)| thread.interpreter.is_some());
    if has_python && !options.is_all {
        waits.retain(|(_, thread)| thread.interpreter.is_some());
    }
    let mut loops: Vec<_> = threads().filter(|(_, thread)| is_loop(thread)).collect();
    loops.sort_by_key(|(_, thread)| Reverse(cpu(thread)));
    let limit = |shown: usize| if options.is_all { usize::MAX } else { shown };
    let parts = [
        ("hottest loops:", loops, limit(SHOWN_LOOPS)),
        ("longest waits:", waits, limit(SHOWN_WAITS)),
    ];
    let mut has_any = false;
    for (title, threads, shown) in parts {
        let groups = match options.is_all {
            true => threads
                .into_iter()
                .map(|(process, first)| Alike {
                    process,
                    first,
                    more: 0,
                })
                .collect(),
            false => group(threads),
        };
        if groups.is_empty() {
            continue;
        }
        has_any = true;
        writeln!(out, "{title}")?;
        for alike in groups.iter().take(shown) {
            writeln!(out, "  {}", Shown(&describe(alike, is_one_process)))?;
            if let Some(event_loop) = &alike.first.event_loop {
                write_tasks(event_loop, alike.first, limit(SHOWN_TASKS), out)?;
            }
        }
        let rest: usize = groups.iter().skip(shown).map(|alike| 1 + alike.more).sum();
        if rest > 0 {
            writeln!(
                out,
                "  ... {} (--all shows them)",
                count(rest, "more thread")
            )?;
        }
    }
    if has_any {
        writeln!(out)?;
    }
    Ok(())
}

fn class_of(thread: &ThreadSnapshot) -> Option<VerdictClass> {
    Some(thread.verdict.as_ref()?.class)
}

fn is_wait(thread: &ThreadSnapshot) -> bool {
    matches!(
        class_of(thread),
        Some(VerdictClass::Waiting | VerdictClass::Idle | VerdictClass::Unknown)
    )
}

fn is_loop(thread: &ThreadSnapshot) -> bool {
    class_of(thread) == Some(VerdictClass::Working)
}

fn waited(thread: &ThreadSnapshot) -> Duration {
    let wait = thread.wait.as_ref();
    let since = wait.and_then(|wait| wait.since).or(thread.off_cpu);
    let since = since.map(|since| since.elapsed).unwrap_or_default();
    // In slices it has waited for as long as its call is known to be pending.
    let verdict = thread.verdict.as_ref();
    let mut facts = verdict.iter().flat_map(|verdict| &verdict.evidence);
    let pending = facts.find(|evidence| evidence.fact == "progress.pending");
    let pending = pending.and_then(|evidence| evidence.value["since_ms"].as_u64());
    since.max(pending.map(Duration::from_millis).unwrap_or_default())
}

fn cpu(thread: &ThreadSnapshot) -> Duration {
    let progress = thread.progress.as_ref();
    progress
        .and_then(|progress| progress.cpu)
        .unwrap_or_default()
}

/// Threads of the same process, verdict and call stack together, in the order of the first ones.
fn group<'a>(threads: Vec<(&'a ProcessSnapshot, &'a ThreadSnapshot)>) -> Vec<Alike<'a>> {
    let mut groups: Vec<Alike<'a>> = Vec::new();
    for (process, thread) in threads {
        let is_same = |alike: &&mut Alike<'a>| {
            let mut pairs = alike.first.frames.iter().zip(&thread.frames);
            alike.process.pid == process.pid
                && class_of(alike.first) == class_of(thread)
                && !thread.frames.is_empty()
                && alike.first.frames.len() == thread.frames.len()
                && pairs.all(|(one, other)| one.is_same_call(other))
        };
        match groups.iter_mut().find(is_same) {
            Some(alike) => alike.more += 1,
            None => groups.push(Alike {
                process,
                first: thread,
                more: 0,
            }),
        }
    }
    groups
}

fn describe(alike: &Alike<'_>, is_one_process: bool) -> String {
    let thread = alike.first;
    let mut text = String::new();
    if !is_one_process {
        text.push_str(&format!("process {}: ", alike.process.pid));
    }
    if let Some(verdict) = &thread.verdict {
        text.push_str(&verdict.summary);
    }
    if let Some(place) = call_site(&thread.frames, &text) {
        text.push_str(&format!("; {place}"));
    }
    if alike.more > 0 {
        text.push_str(&format!("; {} likewise", count(alike.more, "other thread")));
    }
    shorten(&text, MAX_LINE)
}

/// `in Queue.get (queue.py:171), called from worker (app.py:20)`: the innermost call, and the innermost one of the application's own
/// code; what of it is `said` already is not said again.
fn call_site(frames: &[Arc<Frame>], said: &str) -> Option<String> {
    let mut calls = frames
        .iter()
        .filter(|frame| frame.kind == FrameKind::Python);
    let innermost = calls.next()?;
    let is_new = |place: &String| !said.contains(place.as_str());
    let inner = Some(innermost.place()).filter(is_new);
    let own = is_library(innermost)
        .then(|| calls.find(|frame| !is_library(frame)))
        .flatten();
    let own = own.map(|frame| frame.place()).filter(is_new);
    let parts = [
        inner.map(|place| format!("in {place}")),
        own.map(|place| format!("called from {place}")),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// Whether a call is of the standard library or an installed package, as its path says (`sysconfig`'s schemes, 2.7-3.15).
fn is_library(frame: &Frame) -> bool {
    let file = &*frame.file;
    ["/site-packages/", "/dist-packages/", "<frozen "]
        .iter()
        .any(|part| file.contains(part))
        || file
            .split_once("/lib/python")
            .is_some_and(|(_, rest)| rest.starts_with(|letter: char| letter.is_ascii_digit()))
}

/// The tasks of an event loop by where they stand. None of them makes progress while the loop's thread sleeps.
fn write_tasks(
    event_loop: &EventLoop,
    thread: &ThreadSnapshot,
    shown: usize,
    out: &mut dyn Write,
) -> io::Result<()> {
    let at_least = waited(thread);
    let mut groups: Vec<(&Task, usize)> = Vec::new();
    let waiting = event_loop
        .tasks
        .iter()
        .filter(|task| task.state == TaskState::Waiting);
    for task in waiting {
        let is_same = |(first, _): &&mut (&Task, usize)| {
            let awaits = |task: &Task| {
                let awaits = task.awaits.as_ref();
                awaits.map(|awaits| awaits.type_name.clone())
            };
            first.frames == task.frames
                && first.coroutine == task.coroutine
                && awaits(first) == awaits(task)
        };
        match groups.iter_mut().find(is_same) {
            Some((_, more)) => *more += 1,
            None => groups.push((task, 0)),
        }
    }
    for (task, more) in groups.iter().take(shown) {
        let mut text = format!("task {}", task.name);
        if let Some(coroutine) = &task.coroutine {
            text.push_str(&format!(" ({coroutine})"));
        }
        text.push_str(&format!(" waits for at least {}", span(at_least)));
        if let Some(awaits) = &task.awaits {
            match &awaits.task {
                Some(name) => text.push_str(&format!(" for task {name}")),
                None => text.push_str(&format!(" for {}", awaits.type_name)),
            }
        }
        if let Some(place) = call_site(&task.frames, "") {
            text.push_str(&format!("; {place}"));
        }
        if *more > 0 {
            text.push_str(&format!("; {} likewise", count(*more, "other task")));
        }
        writeln!(out, "    {}", Shown(&shorten(&text, MAX_LINE)))?;
    }
    match groups.iter().skip(shown).map(|(_, more)| 1 + more).sum() {
        0 => Ok(()),
        more => writeln!(
            out,
            "    ... {} (--all shows them)",
            count(more, "more task")
        ),
    }
}
