//! What was seen of a thread while it was watched, in words: what it works at, the loop that it does not leave, how it asks again and
//! again.

use std::time::Duration;

use serde_json::json;

use crate::diagnose::observation::Seen;
use crate::diagnose::verdict::case::Case;
use crate::diagnose::verdict::names::thread_name;
use crate::model::{
    Evidence, Frame, FrameKind, Gil, Loop, ProcessProgress, SchedState, Since, ThreadProgress,
    ThreadRef, span, whole_milliseconds,
};

/// Most lines of a loop that are named.
const MAX_LINES: usize = 8;
/// Most variables that are named as changing, and as unchanged.
const MAX_VARIABLES: usize = 6;
/// The fact that others starve.
const STARVES: &str = "progress.starved";
/// Share of the time, in percent, that a CPU limit takes away at the least for it to be told.
const MIN_THROTTLED: u128 = 5;

/// What a thread that runs was seen to do, and what led to that; `None` where it was not watched.
pub fn activity_of(case: &Case<'_>) -> Option<(String, Vec<Evidence>)> {
    let seen = case.seen()?;
    let is_active = case.thread.state == SchedState::Running || case.thread.gil == Gil::Waiting;
    if !is_active && !seen.is_busy {
        return None;
    }
    let progress = &seen.progress;
    let name = thread_name(case.thread);
    let watched = span(progress.watched);
    let cpu = progress.cpu.unwrap_or_default();
    let mut summary = match case.thread.gil {
        _ if seen.is_starved => {
            format!("{name} waited for the GIL during the whole observation window of {watched}")
        }
        Gil::Held if seen.keeps_gil && seen.is_at_one_line => {
            let starved = starved_by(case);
            let others = match starved {
                0 => String::new(),
                1 => " while 1 thread waits for it".to_owned(),
                count => format!(" while {count} threads wait for it"),
            };
            format!(
                "{name} kept the GIL at one line during the whole observation window of {watched}{others}"
            )
        }
        _ if seen.is_at_one_line && seen.is_busy => {
            format!("{name} is on-CPU at one line during the whole observation window of {watched}")
        }
        _ => format!(
            "{name} is on-CPU: {} of CPU in {watched}, {}{}",
            span(cpu),
            match progress.stacks {
                0 | 1 => "1 call stack".to_owned(),
                stacks => format!("{stacks} different call stacks"),
            },
            loop_of(case).unwrap_or_default()
        ),
    };
    if seen.is_at_one_line && seen.is_busy && progress.watched < case.threshold {
        summary.push_str(&format!(
            "; --window {} shows whether it stays there",
            span(case.threshold)
        ));
    }
    let mut evidence = vec![cpu_fact(case, cpu)];
    if seen.keeps_gil && seen.is_at_one_line {
        evidence.extend(starving_fact(case));
    }
    let throttled = case
        .observed
        .and_then(|seen| seen.process(case.process.pid));
    if let Some(fact) = throttled.and_then(throttled_fact) {
        summary.push_str(&format!("; {}", fact.text));
        evidence.push(fact);
    }
    Some((summary, evidence))
}

/// That a thread runs at the same line all the time and does not let go of the GIL.
pub fn at_one_line(case: &Case<'_>, since: Option<Since>) -> String {
    let name = thread_name(case.thread);
    let time = since.map(|since| format!(" for {}", span(since.elapsed)));
    let time = time.unwrap_or_default();
    let mut calls = case.thread.frames.iter();
    match calls.find(|frame| frame.kind == FrameKind::Python) {
        Some(frame) => format!(
            "{name} runs C code{time}, called from {}, and holds the GIL",
            frame.place()
        ),
        None => format!("{name} runs{time} and holds the GIL"),
    }
}

/// How many threads of the process waited for the GIL all the time.
fn starved_by(case: &Case<'_>) -> usize {
    let Some(observed) = case.observed else {
        return 0;
    };
    let threads = case.process.threads.iter();
    let is_starved = |tid| {
        let key = ThreadRef {
            pid: case.process.pid,
            tid,
        };
        observed.thread(key).is_some_and(|seen| seen.is_starved)
    };
    threads.filter(|thread| is_starved(thread.tid)).count()
}

/// The loop that a thread does not leave.
pub fn spin(case: &Case<'_>) -> String {
    let name = thread_name(case.thread);
    let Some(progress) = case.seen().map(|seen| &seen.progress) else {
        return format!("{name} is in a busy loop");
    };
    let loop_text = progress.round.as_ref().map(place_of);
    let only_counts = progress
        .round
        .as_ref()
        .is_some_and(|round| round.only_counts);
    if let (None, Some(frame)) = (&loop_text, case.thread.frames.first()) {
        return format!(
            "{name} spins at one line for {}: {}, a loop in one line or C code",
            span(progress.watched),
            frame.place()
        );
    }
    format!(
        "{name} {} without progress for {}: a busy loop in {}",
        match progress.watched >= case.threshold && !only_counts {
            true => "spins",
            false => "seems to spin",
        },
        span(progress.watched),
        loop_text.unwrap_or_else(|| "one place".to_owned())
    )
}

/// What is known of the loop that a thread goes round: its lines, what changes in it and what does not, and whether its process did
/// I/O meanwhile.
fn loop_text(progress: &ThreadProgress, is_mute: bool) -> Option<String> {
    let round = progress.round.as_ref()?;
    let mut text = format!("loop in {}", place_of(round));
    let constant: Vec<&str> = round
        .constant
        .iter()
        .map(String::as_str)
        .filter(|name| !round.changing.iter().any(|changing| changing == name))
        .collect();
    if !round.changing.is_empty() {
        let what = match round.only_counts {
            true => "only counters change",
            false => "variables that change",
        };
        text.push_str(&format!(", {what}: {}", list(&round.changing)));
    }
    if !constant.is_empty() {
        text.push_str(&format!(", unchanged: {}", list(&constant)));
    }
    text.push_str(match is_mute {
        true => ", no I/O",
        false => ", with I/O",
    });
    Some(text)
}

/// The same of a thread that was observed, as a part of its summary.
fn loop_of(case: &Case<'_>) -> Option<String> {
    let is_mute = case
        .observed
        .is_some_and(|observed| observed.is_mute(case.process.pid));
    loop_text(&case.seen()?.progress, is_mute).map(|text| format!("; {text}"))
}

/// The first few names.
fn list(names: &[impl AsRef<str>]) -> String {
    let mut shown: Vec<&str> = names
        .iter()
        .take(MAX_VARIABLES)
        .map(AsRef::as_ref)
        .collect();
    if names.len() > MAX_VARIABLES {
        shown.push("…");
    }
    shown.join(", ")
}

/// "`run` (app.py, lines 12, 14 and 17)".
fn place_of(round: &Loop) -> String {
    let Some(frame) = round.frames.first() else {
        return "the same loop".to_owned();
    };
    format!(
        "{} ({}, {})",
        frame.function,
        frame.short_file(),
        lines_text(&round.lines)
    )
}

fn lines_text(lines: &[u32]) -> String {
    let shown: Vec<String> = lines.iter().take(MAX_LINES).map(u32::to_string).collect();
    match (shown.as_slice(), lines.len() - shown.len()) {
        ([only], 0) => format!("line {only}"),
        ([first @ .., last], 0) => format!("lines {} and {last}", first.join(", ")),
        (shown, more) => format!("lines {} and {more} more", shown.join(", ")),
    }
}

/// What led to the verdict that a thread goes round in a loop.
pub fn spin_facts(case: &Case<'_>) -> Vec<Evidence> {
    let Some(seen) = case.seen() else {
        return Vec::new();
    };
    let progress = &seen.progress;
    let mut evidence = vec![cpu_fact(case, progress.cpu.unwrap_or_default())];
    if let Some(round) = &progress.round {
        evidence.push(Evidence {
            fact: "progress.loop",
            value: json!({"lines": round.lines, "rounds": round.rounds}),
            text: format!(
                "every sample was in {}; it returned to a line {} times",
                place_of(round),
                round.rounds
            ),
        });
        evidence.push(Evidence {
            fact: "progress.loop.changes",
            value: json!(round.changes),
            text: match round.only_counts {
                true => format!(
                    "only counters change from round to round: {}",
                    round.changing.join(", ")
                ),
                false => "its variables do not change from round to round, clocks aside".to_owned(),
            },
        });
    }
    let process = case
        .observed
        .and_then(|seen| seen.process(case.process.pid));
    if let Some(process) = process {
        evidence.push(Evidence {
            fact: "processes.progress.read_bytes",
            value: json!(process.read_bytes),
            text: "its process did no I/O meanwhile".to_owned(),
        });
        evidence.extend(throttled_fact(process));
    }
    evidence
}

/// What led to the verdict that a thread kept the GIL, or starved, all the time.
pub fn gil_facts(case: &Case<'_>) -> Vec<Evidence> {
    let Some(seen) = case.seen() else {
        return Vec::new();
    };
    let progress = &seen.progress;
    let mut evidence = vec![cpu_fact(case, progress.cpu.unwrap_or_default())];
    if seen.keeps_gil {
        evidence.push(Evidence {
            fact: "gil",
            value: json!(case.thread.gil),
            text: "it held the GIL in nearly all samples, at the same line of Python".to_owned(),
        });
        evidence.extend(starving_fact(case));
    } else {
        evidence.push(Evidence {
            fact: "gil",
            value: json!(case.thread.gil),
            text: "it waited for the GIL in most samples, and used next to no CPU".to_owned(),
        });
    }
    evidence
}

/// That other threads of the process waited for the GIL all the time.
fn starving_fact(case: &Case<'_>) -> Option<Evidence> {
    let text = match starved_by(case) {
        0 => return None,
        1 => "1 thread waited for the GIL in most samples, and used next to no CPU".to_owned(),
        count => {
            format!("{count} threads waited for the GIL in most samples, and used next to no CPU")
        }
    };
    Some(Evidence {
        fact: STARVES,
        value: json!(starved_by(case)),
        text,
    })
}

/// What shows that a wait in slices is one.
pub fn unanswered_facts(case: &Case<'_>) -> Option<Evidence> {
    let seen = case.seen()?;
    seen.unanswered?;
    let progress = &seen.progress;
    let slice = case.thread.wait.as_ref().and_then(|wait| wait.timeout);
    let slice = slice.map(|slice| format!(" (timeout {})", span(slice)));
    Some(Evidence {
        fact: "progress.wake_ups",
        value: json!(progress.wake_ups),
        text: format!(
            "it woke {} times in {}{} and waited again: no data arrived",
            progress.wake_ups.unwrap_or_default(),
            span(progress.watched),
            slice.unwrap_or_default()
        ),
    })
}

/// That a thread was in the same call all the time, though it woke now and then.
pub fn pending_fact(seen: &Seen, call: &Frame, elapsed: Duration) -> Evidence {
    Evidence {
        fact: "progress.pending",
        value: json!({
            "function": call.function,
            "file": call.file,
            "line": call.line,
            "since_ms": whole_milliseconds(elapsed),
        }),
        text: format!(
            "every sample of {} was in {}",
            span(seen.progress.watched),
            call.place()
        ),
    }
}

fn cpu_fact(case: &Case<'_>, cpu: Duration) -> Evidence {
    let progress = case.seen().map(|seen| &seen.progress);
    let watched = progress.map_or(Duration::ZERO, |progress| progress.watched);
    let looks = progress.map_or(0, |progress| progress.looks);
    Evidence {
        fact: "progress.cpu_ms",
        value: json!(whole_milliseconds(cpu)),
        text: format!("{} of CPU in {}, {looks} samples", span(cpu), span(watched)),
    }
}

/// That a CPU limit kept the process from running, where it did for a good part of the time.
fn throttled_fact(process: ProcessProgress) -> Option<Evidence> {
    let throttled = process.throttled?;
    let share = throttled.as_millis() * 100 / process.watched.as_millis().max(1);
    (share >= MIN_THROTTLED).then(|| Evidence {
        fact: "processes.progress.throttled_ms",
        value: json!(whole_milliseconds(throttled)),
        text: format!(
            "its cgroup was throttled (CPU limit) for {} of {}",
            span(throttled),
            span(process.watched)
        ),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_hot_loop_says_its_lines_and_what_changes() {
        let observed = ThreadProgress {
            round: Some(Loop {
                frames: vec![Arc::new(Frame {
                    file: "/srv/app.py".into(),
                    ..Frame::marker("run")
                })],
                lines: vec![12, 14],
                rounds: 9,
                changes: Some(true),
                changing: vec!["ticks".into()],
                constant: vec!["queue".into()],
                only_counts: true,
            }),
            ..ThreadProgress::default()
        };
        assert_eq!(
            loop_text(&observed, true).unwrap(),
            "loop in run (/srv/app.py, lines 12 and 14), only counters change: ticks, unchanged: queue, no I/O"
        );
    }
}
