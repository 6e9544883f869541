//! What was seen of a thread while it was watched, in words: what it works at, the loop that it does not leave, how it asks again and
//! again.

use std::time::Duration;

use serde_json::json;

use crate::diagnose::verdict::case::Case;
use crate::diagnose::verdict::names::thread_name;
use crate::model::{
    Evidence, FrameKind, Gil, Loop, ProcessProgress, SchedState, Since, ThreadRef, span,
    whole_milliseconds,
};

/// Most lines of a loop that are named.
const MAX_LINES: usize = 8;
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
            format!("{name} waited for the GIL all of the {watched} that it was watched")
        }
        Gil::Held if seen.keeps_gil && seen.is_at_one_line => {
            let starved = starved_by(case);
            let others = match starved {
                0 => String::new(),
                1 => " while 1 thread waits for it".to_owned(),
                count => format!(" while {count} threads wait for it"),
            };
            format!(
                "{name} kept the GIL at one line for all of the {watched} that it was watched{others}"
            )
        }
        _ if seen.is_at_one_line && seen.is_busy => {
            format!("{name} works: at the same line for all of the {watched} that it was watched")
        }
        _ => format!(
            "{name} works: {} of CPU in {watched}, in {} different places",
            span(cpu),
            progress.stacks.max(1)
        ),
    };
    if seen.is_at_one_line && seen.is_busy && progress.watched < case.threshold {
        summary.push_str(&format!(
            "; whether that goes on shows a --window of {}",
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
            "{name} has run C code{time}, called by {} ({}{}), and keeps the GIL",
            frame.function,
            frame.short_file(),
            frame
                .line
                .map(|line| format!(":{line}"))
                .unwrap_or_default()
        ),
        None => format!("{name} has run{time} and keeps the GIL"),
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
        return format!("{name} goes round in a loop");
    };
    let loop_text = progress.round.as_ref().map(place_of);
    if let (None, Some(frame)) = (&loop_text, case.thread.frames.first()) {
        return format!(
            "{name} burns a processor at the same line for all of the {} that it was watched: {} ({}{}), a loop in one line or C code",
            span(progress.watched),
            frame.function,
            frame.short_file(),
            frame
                .line
                .map(|line| format!(":{line}"))
                .unwrap_or_default()
        );
    }
    format!(
        "{name} burns a processor and {} nowhere: in the {} that it was watched it went round {}",
        match progress.watched >= case.threshold {
            true => "gets",
            false => "seems to get",
        },
        span(progress.watched),
        loop_text.unwrap_or_else(|| "the same loop".to_owned())
    )
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
                "at every look it was in {}, and it came back to a line {} times",
                place_of(round),
                round.rounds
            ),
        });
        evidence.push(Evidence {
            fact: "progress.loop.changes",
            value: json!(round.changes),
            text: "the variables there were the same from round to round, clocks aside".to_owned(),
        });
    }
    let process = case
        .observed
        .and_then(|seen| seen.process(case.process.pid));
    if let Some(process) = process {
        evidence.push(Evidence {
            fact: "processes.progress.read_bytes",
            value: json!(process.read_bytes),
            text: "its process has neither read nor written anything meanwhile".to_owned(),
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
            text: "it held the GIL each time, and was at the same line of Python".to_owned(),
        });
        evidence.extend(starving_fact(case));
    } else {
        evidence.push(Evidence {
            fact: "gil",
            value: json!(case.thread.gil),
            text: "it waited for the GIL each time".to_owned(),
        });
    }
    evidence
}

/// That other threads of the process waited for the GIL all the time.
fn starving_fact(case: &Case<'_>) -> Option<Evidence> {
    let text = match starved_by(case) {
        0 => return None,
        1 => "1 thread waited for the GIL all the time".to_owned(),
        count => format!("{count} threads waited for the GIL all the time"),
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
    let slice = slice.map(|slice| format!(", for {} each time", span(slice)));
    Some(Evidence {
        fact: "progress.wake_ups",
        value: json!(progress.wake_ups),
        text: format!(
            "it has asked again {} times in {}{}: nothing has come",
            progress.wake_ups.unwrap_or_default(),
            span(progress.watched),
            slice.unwrap_or_default()
        ),
    })
}

fn cpu_fact(case: &Case<'_>, cpu: Duration) -> Evidence {
    let progress = case.seen().map(|seen| &seen.progress);
    let watched = progress.map_or(Duration::ZERO, |progress| progress.watched);
    let looks = progress.map_or(0, |progress| progress.looks);
    Evidence {
        fact: "progress.cpu_ms",
        value: json!(whole_milliseconds(cpu)),
        text: format!(
            "it used {} of CPU in {}, and was looked at {looks} times",
            span(cpu),
            span(watched)
        ),
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
            "its CPU limit kept its cgroup from running for {} of the {}",
            span(throttled),
            span(process.watched)
        ),
    })
}
