//! Trace events as `chrome://tracing` and Perfetto read them: for each thread, its calls.
//!
//! A call goes on for as long as its function stands at the same place of the stack, whatever line it is at: its
//! arguments name the line at which it was first seen. Times are whole microseconds since the recording began. Of calls
//! that begin together the outer ones come first: readers take the order of the file for that of the stack.

use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use super::Style;
use super::functions::Functions;
use super::label::{self, Origin};
use super::stretches::{self, Track};
use crate::profile::{FrameId, Profile};

/// Linux has no higher pid (`PID_MAX_LIMIT`), so that numbers above are free for pids that were used again.
const AFTER_PIDS: i64 = 1 << 22;

/// A call, as an event that is complete.
#[derive(Serialize)]
struct Event<'a> {
    ph: &'static str,
    pid: i64,
    tid: i64,
    ts: u64,
    dur: u64,
    cat: &'static str,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    args: Option<Value>,
}

/// What a function or a wait is called, and where it is from.
struct Named {
    name: String,
    origin: Origin,
}

/// What is on a stack.
#[derive(Clone, Copy)]
enum Part {
    /// A function, in this frame.
    Function(usize, FrameId),
    /// A wait.
    Wait(&'static str),
}

impl Part {
    /// Whether both are the same function, at whatever line, or the same wait.
    fn is_same(self, other: Part) -> bool {
        match (self, other) {
            (Part::Function(one, _), Part::Function(other, _)) => one == other,
            (Part::Wait(one), Part::Wait(other)) => one == other,
            _ => false,
        }
    }
}

/// A part of the stack from when it was first seen there to when it was gone.
struct Call {
    part: Part,
    start: Duration,
    end: Duration,
}

/// Writes `profile`.
pub(super) fn write(profile: &Profile, style: Style, out: &mut dyn Write) -> io::Result<()> {
    let tracks = stretches::tracks(profile);
    let functions = Functions::of(profile.stacks.frames());
    let named: Vec<Named> = functions
        .examples()
        .iter()
        .map(|id| {
            let frame = profile.stacks.frame(*id);
            let name = label::function(frame);
            Named {
                name: match label::file(frame, style) {
                    Some(file) => format!("{name} ({file})"),
                    None => name,
                },
                origin: Origin::of(frame),
            }
        })
        .collect();
    let about = json!({
        "what": label::what(profile),
        "how": label::how(profile),
        "exporter": concat!("stuckspy ", env!("CARGO_PKG_VERSION")),
    });
    write!(
        out,
        "{{\"displayTimeUnit\":\"ms\",\"otherData\":{about},\"traceEvents\":["
    )?;
    let pids = numbers(profile.processes.iter().map(|process| process.pid.0));
    let tids = numbers(profile.threads.iter().map(|thread| thread.tid.0));
    let mut separator = "\n";
    let mut process = None;
    for track in &tracks {
        let pid = pids
            .get(track.owner.process.0 as usize)
            .copied()
            .unwrap_or(0);
        let tid = tids.get(track.thread.0 as usize).copied().unwrap_or(0);
        let mut names_of = vec![("thread_name", track.owner.name.clone())];
        if process != Some(track.owner.process) {
            process = Some(track.owner.process);
            names_of.push(("process_name", track.owner.title.clone()));
        }
        for (what, name) in names_of {
            let event =
                json!({"ph": "M", "pid": pid, "tid": tid, "name": what, "args": {"name": name}});
            write!(out, "{separator}{event}")?;
            separator = ",\n";
        }
        for call in calls(profile, track, &functions) {
            let waits;
            let (Named { name, origin }, args) = match call.part {
                Part::Function(function, id) => (&named[function], arguments(profile, id, style)),
                Part::Wait(word) => {
                    waits = Named {
                        name: label::wait(word),
                        origin: Origin::Wait,
                    };
                    (&waits, None)
                }
            };
            let (start, end) = (microseconds(call.start), microseconds(call.end));
            let event = Event {
                ph: "X",
                pid,
                tid,
                ts: start,
                dur: end - start,
                cat: origin.word(),
                name,
                args,
            };
            write!(out, "{separator}{}", serde_json::to_string(&event)?)?;
        }
    }
    writeln!(out, "\n]}}")
}

/// Where a frame is.
fn arguments(profile: &Profile, id: FrameId, style: Style) -> Option<Value> {
    let frame = profile.stacks.frame(id);
    let file = label::file(frame, style)?;
    Some(match frame.line {
        Some(line) => json!({"file": file, "line": line}),
        None => json!({"file": file}),
    })
}

/// Each number; one that stands there already is replaced by one that no process or thread can have.
fn numbers(numbers: impl Iterator<Item = i32> + Clone) -> Vec<i64> {
    let repetitions = stretches::repetitions(numbers.clone());
    (AFTER_PIDS..)
        .zip(numbers)
        .zip(repetitions)
        .map(|((replacement, number), repetition)| match repetition {
            0 => i64::from(number),
            _ => replacement,
        })
        .collect()
}

/// The calls of one thread, by their beginnings, and from the outermost to the innermost of those that begin together.
fn calls(profile: &Profile, track: &Track, functions: &Functions) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    // Places of those that go on, outermost first.
    let mut open: Vec<usize> = Vec::new();
    let mut now = Duration::ZERO;
    for stretch in &track.stretches {
        if stretch.start > now {
            open.clear();
        }
        let stack = profile.stacks.walk(stretch.place.stack);
        let mut parts: Vec<Part> = label::wait_of(&stretch.place)
            .map(Part::Wait)
            .into_iter()
            .chain(stack.map(|id| Part::Function(functions.function(id), id)))
            .collect();
        parts.reverse();
        let same = parts
            .iter()
            .zip(&open)
            .take_while(|(part, place)| part.is_same(calls[**place].part))
            .count();
        open.truncate(same);
        for part in parts.into_iter().skip(same) {
            open.push(calls.len());
            calls.push(Call {
                part,
                start: stretch.start,
                end: stretch.end,
            });
        }
        for place in &open {
            calls[*place].end = stretch.end;
        }
        now = stretch.end;
    }
    calls
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::super::testing::{self, small, written};
    use super::*;

    fn events(profile: &Profile) -> Vec<Value> {
        let written = written(Format::Chrometrace, profile, Style::default());
        let file: Value = serde_json::from_slice(&written).unwrap();
        file["traceEvents"].as_array().unwrap().clone()
    }

    /// The calls of a thread with their beginnings and lengths in milliseconds. Each lies within those before it that
    /// have not ended.
    fn calls(events: &[Value], tid: i64) -> Vec<(&str, u64, u64)> {
        let mut open: Vec<u64> = Vec::new();
        let mut calls = Vec::new();
        let of_thread = |event: &&Value| event["tid"] == tid && event["ph"] == "X";
        for event in events.iter().filter(of_thread) {
            let [start, length] = ["ts", "dur"].map(|key| event[key].as_u64().unwrap());
            open.retain(|end| *end > start);
            assert!(open.iter().all(|end| *end >= start + length));
            open.push(start + length);
            calls.push((event["name"].as_str().unwrap(), start / 1000, length / 1000));
        }
        calls
    }

    #[test]
    fn calls_go_on_while_their_function_does() {
        let events = events(&small());
        let first = calls(&events, 4242);
        let main = "main (/srv/shop/app.py)";
        assert_eq!(first.iter().filter(|call| call.0 == main).count(), 1);
        assert!(first.contains(&(main, 0, 950)));
        assert!(first.contains(&("[waits: socket-recv]", 200, 500)));
        let second = calls(&events, 4250);
        let work = |start, length| ("work (shop/pool.py)", start, length);
        assert!(second.contains(&work(0, 300)) && second.contains(&work(700, 300)));
    }

    #[test]
    fn processes_and_threads_are_named_once() {
        let events = events(&small());
        let names: Vec<&Value> = events.iter().filter(|event| event["ph"] == "M").collect();
        let of = |what: &str| names.iter().filter(|event| event["name"] == what).count();
        assert_eq!((of("process_name"), of("thread_name")), (2, 3));
        assert!(self::events(&testing::empty()).is_empty());
    }

    #[test]
    fn a_pid_that_is_used_again_is_another_one() {
        assert_eq!(numbers([7, 8, 7].into_iter()), [7, 8, AFTER_PIDS + 2]);
    }
}
