//! What is stuck, as text: equal findings together, each with its evidence, what it holds up, a suggestion and its stack.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::time::Duration;

use super::{AnswerOptions, count, name_of};
use crate::model::{
    Context, ContextField, Finding, FrameKind, Pid, ProcessSnapshot, ThreadRef, ThreadSnapshot,
    Value, find_thread, span,
};
use crate::report::sanitize::Shown;
use crate::report::stack::{FrameLimit, TextOptions, shorten, write_frames};
use crate::wait::sentence;

/// Longest text on a thread that is held up, in characters.
const MAX_BLOCKED: usize = 240;
/// Lines on threads that a root holds up; the rest are counted.
const SHOWN_BLOCKS: usize = 4;
/// Threads of equal findings that are named; the rest are counted.
const SHOWN_MEMBERS: usize = 6;
/// Longest text on what a stuck call is about, in characters.
const MAX_CONTEXT: usize = 300;
/// Groups of findings that are shown with their evidence and stacks; of others, the first line.
const SHOWN_WHOLE: usize = 4;
/// Lines of a stack, of one that stands alone and of one of two.
const ONE_STACK: FrameLimit = FrameLimit {
    innermost: 12,
    outermost: 4,
    rest: "--all shows them",
};
const ONE_OF_TWO: FrameLimit = FrameLimit {
    innermost: 7,
    outermost: 2,
    rest: "--all shows them",
};

/// Writes the findings, equal ones together, an empty line after each.
pub fn write_findings(
    processes: &[ProcessSnapshot],
    findings: &[Finding],
    options: AnswerOptions,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut groups: Vec<Vec<&Finding>> = Vec::new();
    for finding in findings {
        let same = groups
            .iter_mut()
            .find(|group| group[0].group == finding.group);
        match same {
            Some(group) => group.push(finding),
            None => groups.push(vec![finding]),
        }
    }
    for (index, group) in groups.iter().enumerate() {
        let is_whole = options.is_all || index < SHOWN_WHOLE;
        write_group(processes, group, is_whole, options, out)?;
        writeln!(out)?;
    }
    Ok(())
}

fn write_group(
    processes: &[ProcessSnapshot],
    group: &[&Finding],
    is_whole: bool,
    options: AnswerOptions,
    out: &mut dyn Write,
) -> io::Result<()> {
    let first = group[0];
    let teller = first.teller;
    writeln!(
        out,
        "{} ({}): {}{}",
        first.verdict.name(),
        first.confidence.word(),
        place_of(group),
        Shown(&first.summary)
    )?;
    if !is_whole {
        return writeln!(
            out,
            "  {:<12}--all shows the evidence and the stack",
            "more:"
        );
    }
    let thread = find_thread(processes, teller);
    if let Some(verdict) = thread.and_then(|thread| thread.verdict.as_ref()) {
        let texts = verdict.evidence.iter().map(|evidence| &*evidence.text);
        write_labelled("evidence:", texts, out)?;
    }
    if group.len() > 1 {
        write_members(processes, group, options, out)?;
    }
    if let Some(context) = &first.context {
        let (label, text) = describe_context(context);
        write_labelled(label, [&*shorten(&text, MAX_CONTEXT)], out)?;
    }
    write_blocks(processes, group, options, out)?;
    if !first.advice.is_empty() {
        write_labelled("suggestion:", [&*first.advice], out)?;
    }
    let root = find_thread(processes, first.root).filter(|_| first.root != teller);
    let root = root.filter(|root| !root.frames.is_empty());
    let limit = match (options.is_all, root) {
        (true, _) => FrameLimit::default(),
        (false, None) => ONE_STACK,
        (false, Some(_)) => ONE_OF_TWO,
    };
    let text = TextOptions {
        limit,
        ..options.text
    };
    if let Some(thread) = thread
        && !thread.frames.is_empty()
    {
        writeln!(out, "  stack:")?;
        write_frames(&thread.frames, text, "    ", out)?;
    }
    if let Some(root) = root {
        let name = name_of(processes, first.root, teller.pid);
        writeln!(out, "  stack of {}:", Shown(&name))?;
        write_frames(&root.frames, text, "    ", out)?;
    }
    Ok(())
}

/// Writes texts below each other, the first one with a label.
fn write_labelled<'a>(
    label: &str,
    texts: impl IntoIterator<Item = &'a str>,
    out: &mut dyn Write,
) -> io::Result<()> {
    for (index, text) in texts.into_iter().enumerate() {
        let label = if index == 0 { label } else { "" };
        writeln!(out, "  {label:<12}{}", Shown(text))?;
    }
    Ok(())
}

/// Where it is: `in process 812, `, and how many threads are so.
fn place_of(group: &[&Finding]) -> String {
    let pids: BTreeSet<Pid> = group.iter().map(|finding| finding.teller.pid).collect();
    match (group, pids.len()) {
        ([only], _) => format!("in process {}, ", only.teller.pid),
        (all, 1) => format!(
            "in process {}, {} threads are stuck alike; ",
            all[0].teller.pid,
            all.len()
        ),
        (all, processes) => format!(
            "in {processes} processes, {} threads are stuck alike; in process {}, ",
            all.len(),
            all[0].teller.pid
        ),
    }
}

/// The threads of equal findings, each with its time.
fn write_members(
    processes: &[ProcessSnapshot],
    group: &[&Finding],
    options: AnswerOptions,
    out: &mut dyn Write,
) -> io::Result<()> {
    let shown = match options.is_all {
        true => group.len(),
        false => SHOWN_MEMBERS,
    };
    let pid = group[0].teller.pid;
    let mut names: Vec<String> = group
        .iter()
        .take(shown)
        .map(|finding| {
            let since = finding.since.map(|since| format!(" {}", span(since)));
            let name = name_of(processes, finding.teller, pid);
            format!("{name}{}", since.unwrap_or_default())
        })
        .collect();
    names.extend(others(group.len() - names.len()));
    write_labelled("threads:", [&*names.join(", ")], out)
}

fn others(more: usize) -> Option<String> {
    match more {
        0 => None,
        1 => Some("and 1 other".to_owned()),
        more => Some(format!("and {more} others")),
    }
}

/// Threads that wait for the same at the same place.
struct Held<'a> {
    thread: Option<&'a ThreadSnapshot>,
    keys: Vec<ThreadRef>,
    longest: Option<Duration>,
}

/// Whom the root holds up: each by its name, and with what it waits for; those that wait alike on one line.
fn write_blocks(
    processes: &[ProcessSnapshot],
    group: &[&Finding],
    options: AnswerOptions,
    out: &mut dyn Write,
) -> io::Result<()> {
    let tellers: BTreeSet<ThreadRef> = group
        .iter()
        .flat_map(|finding| [finding.teller, finding.root])
        .collect();
    let mut keys: Vec<ThreadRef> = group
        .iter()
        .flat_map(|finding| finding.blocks.iter().copied())
        .filter(|key| !tellers.contains(key))
        .collect();
    keys.sort_unstable();
    keys.dedup();
    let held = match options.is_all {
        true => keys.iter().map(|key| held_alone(processes, *key)).collect(),
        false => group_blocks(processes, &keys),
    };
    let shown = match options.is_all {
        true => held.len(),
        false => SHOWN_BLOCKS,
    };
    let pid = group[0].teller.pid;
    let mut lines: Vec<String> = held
        .iter()
        .take(shown)
        .map(|held| describe_held(processes, held, pid))
        .collect();
    let rest: usize = held.iter().skip(shown).map(|held| held.keys.len()).sum();
    if rest > 0 {
        lines.push(format!("and {}", count(rest, "other thread")));
    }
    write_labelled("holds up:", lines.iter().map(String::as_str), out)
}

fn held_alone(processes: &[ProcessSnapshot], key: ThreadRef) -> Held<'_> {
    let thread = find_thread(processes, key);
    let wait = thread.and_then(|thread| thread.wait.as_ref());
    Held {
        thread,
        keys: vec![key],
        longest: wait.and_then(|wait| wait.since).map(|since| since.elapsed),
    }
}

/// Those that wait alike together, the largest group first.
fn group_blocks<'a>(processes: &'a [ProcessSnapshot], keys: &[ThreadRef]) -> Vec<Held<'a>> {
    let mut groups: Vec<Held<'a>> = Vec::new();
    for key in keys {
        let alone = held_alone(processes, *key);
        let same = groups.iter_mut().find(|group| {
            group.keys[0].pid == key.pid
                && matches!((group.thread, alone.thread), (Some(one), Some(other)) if waits_alike(one, other))
        });
        match same {
            Some(group) => {
                group.keys.push(*key);
                group.longest = group.longest.max(alone.longest);
            }
            None => groups.push(alone),
        }
    }
    groups.sort_by_key(|group| std::cmp::Reverse((group.keys.len(), group.longest)));
    groups
}

/// Whether two threads wait for the same thing, called from the same place.
fn waits_alike(one: &ThreadSnapshot, other: &ThreadSnapshot) -> bool {
    let facts = |thread: &ThreadSnapshot| {
        let wait = thread.wait.as_ref()?;
        let resource = wait.resource.as_ref();
        let named = resource.map(|resource| {
            (
                resource.address,
                resource.inode,
                resource.path.clone(),
                resource.peer.clone(),
            )
        });
        Some((wait.kind, named))
    };
    let mut pairs = one.frames.iter().zip(&other.frames);
    facts(one) == facts(other)
        && one.frames.len() == other.frames.len()
        && pairs.all(|(one, other)| one.is_same_call(other))
}

fn describe_held(processes: &[ProcessSnapshot], held: &Held<'_>, pid: Pid) -> String {
    let key = held.keys[0];
    let mut text = name_of(processes, key, pid);
    if let Some(wait) = held.thread.and_then(|thread| thread.wait.as_ref()) {
        match sentence(wait, key.pid) {
            Some(sentence) => text.push_str(&format!(" {sentence}")),
            None => text.push_str(&format!(" waits ({})", wait.kind.word())),
        }
    }
    if let (true, Some(frame)) = (
        held.keys.len() > 1,
        held.thread.and_then(|thread| {
            let mut frames = thread.frames.iter();
            frames.find(|frame| frame.kind == FrameKind::Python)
        }),
    ) {
        let more = held.keys.len() - 1;
        text.push_str(&format!(
            " in {}; {} likewise, for up to {}",
            frame.place(),
            count(more, "other thread"),
            span(held.longest.unwrap_or_default())
        ));
    }
    shorten(&text, MAX_BLOCKED)
}

/// What a stuck call is about, with its label.
pub fn describe_context(context: &Context) -> (&'static str, String) {
    let mut fields: Vec<&ContextField> = context.fields.iter().collect();
    let mut take = |name: &str| {
        let place = fields.iter().position(|field| field.name == name)?;
        Some(plain(&fields.remove(place).value))
    };
    let request = match &*context.kind {
        "http" => {
            let (method, url) = (take("method"), take("url"));
            let (host, port) = (take("host"), take("port"));
            let port = port.map(|port| format!(":{port}")).unwrap_or_default();
            let target = match (url, host) {
                (Some(url), _) if url.contains("://") => Some(url),
                (url, Some(host)) => Some(format!("{host}{port}{}", url.unwrap_or_default())),
                (url, None) => url,
            };
            let parts: Vec<String> = method.into_iter().chain(target).collect();
            (!parts.is_empty()).then(|| parts.join(" "))
        }
        "sql" => take("statement"),
        _ => None,
    };
    let rest: Vec<String> = fields
        .iter()
        .map(|field| format!("{} {}", field.name, field.value))
        .collect();
    let rest = rest.join(", ");
    match request {
        Some(request) if rest.is_empty() => ("request:", format!("{request} ({})", context.what)),
        Some(request) => ("request:", format!("{request} ({}; {rest})", context.what)),
        None if rest.is_empty() => ("call:", context.what.clone()),
        None => ("call:", format!("{}: {rest}", context.what)),
    }
}

/// A value as people write it: a text without quotes.
fn plain(value: &Value) -> String {
    match value {
        Value::Str { text, .. } => text.to_string(),
        other => other.to_string(),
    }
}
