//! The processed format of <https://profiler.firefox.com>, in its version 60.
//!
//! The crate `fxprof-processed-profile` has no columns for files and lines of calls that it has no machine code of; with
//! them, calls of one function are one, and its lines can be seen in it. The format is described in
//! `src/types/profile.ts` and `docs-developer/CHANGELOG-formats.md` of <https://github.com/firefox-devtools/profiler>,
//! which reads all older versions.
//!
//! A stretch of time is shown as samples at its end and, an interval apart, before; each has its share of the time as
//! its weight, and of the processor's time where the thread was active.

mod tables;

use std::io::{self, Write};
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;
use serde_json::{Value, json};

use self::tables::{CATEGORIES, Shared, Tables, category};
use super::Style;
use super::label::{self, Origin, Owner};
use super::stretches::{self, Stretch, Track};
use crate::model::ThreadIndex;
use crate::profile::Profile;

/// Most samples of all threads together: beyond, they stand further apart.
const MAX_SAMPLES: u128 = 1 << 18;
/// The version of the format.
const VERSION: u32 = 60;

#[derive(Serialize)]
struct File {
    meta: Value,
    libs: [Value; 0],
    shared: Shared,
    threads: Vec<Thread>,
    pages: [Value; 0],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Thread {
    name: String,
    is_main_thread: bool,
    process_type: &'static str,
    process_name: String,
    process_startup_time: f64,
    process_shutdown_time: Option<f64>,
    register_time: f64,
    unregister_time: Option<f64>,
    paused_ranges: [Value; 0],
    show_markers_in_timeline: bool,
    pid: String,
    tid: String,
    samples: Samples,
    markers: Markers,
}

#[derive(Serialize)]
struct Samples {
    #[serde(rename = "weightType")]
    weight_type: &'static str,
    /// Milliseconds.
    weight: Vec<f64>,
    stack: Vec<Option<usize>>,
    /// Milliseconds since the recording began.
    time: Vec<f64>,
    /// Microseconds of processor time since the sample before.
    #[serde(rename = "threadCPUDelta")]
    cpu: Vec<f64>,
    length: usize,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Markers {
    data: Vec<Value>,
    name: Vec<usize>,
    start_time: Vec<f64>,
    end_time: Vec<f64>,
    phase: Vec<u8>,
    category: Vec<usize>,
    length: usize,
}

/// Writes `profile`.
pub(super) fn write(profile: &Profile, style: Style, out: &mut dyn Write) -> io::Result<()> {
    let mut tracks = stretches::tracks(profile);
    if tracks.is_empty() {
        // A file without threads is one that it can't open.
        tracks.push(Track {
            thread: ThreadIndex(u32::MAX),
            owner: Owner {
                name: "no samples".to_owned(),
                ..Owner::of(profile, ThreadIndex(u32::MAX))
            },
            stretches: Vec::new(),
        });
    }
    let mut tables = Tables::of(profile, style);
    let all: Duration = tracks
        .iter()
        .flat_map(|track| &track.stretches)
        .map(Stretch::length)
        .sum();
    let step = (all.as_nanos() / MAX_SAMPLES)
        .max(profile.stats.interval.as_nanos())
        .max(1);
    let pids = names(profile.processes.iter().map(|process| process.pid.0));
    let tids = names(profile.threads.iter().map(|thread| thread.tid.0));
    let threads = tracks
        .iter()
        .map(|track| {
            let owner = &track.owner;
            let pid = pids.get(owner.process.0 as usize).cloned();
            let tid = tids.get(track.thread.0 as usize).cloned();
            let is_main = owner.is_main();
            Thread {
                // The name of a main thread is shown as that of its process.
                name: if is_main && !track.stretches.is_empty() {
                    &owner.title
                } else {
                    &owner.name
                }
                .clone(),
                is_main_thread: is_main,
                process_type: "default",
                process_name: owner.title.clone(),
                process_startup_time: 0.0,
                process_shutdown_time: None,
                register_time: track
                    .stretches
                    .first()
                    .map_or(0.0, |first| milliseconds(first.start)),
                unregister_time: None,
                paused_ranges: [],
                show_markers_in_timeline: true,
                pid: pid.unwrap_or_default(),
                tid: tid.unwrap_or_default(),
                samples: samples(track, step, &mut tables),
                markers: markers(track, &mut tables),
            }
        })
        .collect();
    let end = stretches::end(profile, &tracks);
    let file = File {
        meta: meta(profile, end),
        libs: [],
        shared: tables.finish(),
        threads,
        pages: [],
    };
    serde_json::to_writer(&mut *out, &file)?;
    writeln!(out)
}

/// Each number as a text; one that stands there already gets a suffix.
fn names(numbers: impl Iterator<Item = i32> + Clone) -> Vec<String> {
    let repetitions = stretches::repetitions(numbers.clone());
    numbers
        .zip(repetitions)
        .map(|(number, repetition)| match repetition {
            0 => number.to_string(),
            _ => format!("{number}.{repetition}"),
        })
        .collect()
}

fn samples(track: &Track, step: u128, tables: &mut Tables) -> Samples {
    let mut samples = Samples {
        weight_type: "tracing-ms",
        weight: Vec::new(),
        stack: Vec::new(),
        time: Vec::new(),
        cpu: Vec::new(),
        length: 0,
    };
    let mut push = |stack, time: Duration, weight: Duration, is_active| {
        samples.stack.push(stack);
        samples.time.push(milliseconds(time));
        samples.weight.push(milliseconds(weight));
        samples
            .cpu
            .push(if is_active { microseconds(weight) } else { 0.0 });
        samples.length += 1;
    };
    let mut now = None;
    for stretch in &track.stretches {
        if now != Some(stretch.start) {
            // Nothing was seen up to here.
            push(None, stretch.start, Duration::ZERO, false);
        }
        let stack = tables.stack(stretch);
        let is_active = label::wait_of(&stretch.place).is_none();
        let length = stretch.length();
        let count = u32::try_from((length.as_nanos() / step).max(1)).unwrap_or(u32::MAX);
        for number in 1..=count {
            let before = length * (number - 1) / count;
            let until = length * number / count;
            push(
                Some(stack),
                stretch.start + until,
                until - before,
                is_active,
            );
        }
        now = Some(stretch.end);
    }
    samples
}

/// The waits of a thread, each from its beginning to its end, wherever in the program it was.
fn markers(track: &Track, tables: &mut Tables) -> Markers {
    let mut markers = Markers::default();
    let mut last: Option<(&str, Duration)> = None;
    for stretch in &track.stretches {
        let Some(word) = label::wait_of(&stretch.place) else {
            continue;
        };
        if last == Some((word, stretch.start))
            && let Some(end) = markers.end_time.last_mut()
        {
            *end = milliseconds(stretch.end);
        } else {
            markers.data.push(json!({"type": "Wait"}));
            markers.name.push(tables.string(word));
            markers.start_time.push(milliseconds(stretch.start));
            markers.end_time.push(milliseconds(stretch.end));
            // An interval.
            markers.phase.push(1);
            markers.category.push(category(Origin::Wait));
            markers.length += 1;
        }
        last = Some((word, stretch.end));
    }
    markers
}

fn meta(profile: &Profile, end: Duration) -> Value {
    let started_at = profile.started_at.duration_since(UNIX_EPOCH);
    let categories: Vec<Value> = CATEGORIES
        .iter()
        .map(|(_, name, color)| json!({"name": name, "color": color, "subcategories": ["Other"]}))
        .collect();
    json!({
        "interval": milliseconds(profile.stats.interval.max(Duration::from_micros(1))),
        "startTime": milliseconds(started_at.unwrap_or_default()),
        "profilingStartTime": 0,
        // What is shown ends before this, and the last sample stands at the very end.
        "profilingEndTime": milliseconds(end + profile.stats.interval),
        "processType": 0,
        "product": label::what(profile),
        "importedFrom": concat!("stuckspy ", env!("CARGO_PKG_VERSION")),
        "stackwalk": 1,
        "debug": false,
        "version": 31,
        "preprocessedProfileVersion": VERSION,
        "symbolicated": true,
        "symbolicationNotSupported": true,
        "usesOnlyOneStackType": true,
        "sourceCodeIsNotOnSearchfox": true,
        "oscpu": "Linux",
        "categories": categories,
        "extensions": {"baseURL": [], "id": [], "name": [], "length": 0},
        "sampleUnits": {"time": "ms", "eventDelay": "ms", "threadCPUDelta": "µs"},
        "markerSchema": [{
            "name": "Wait",
            "display": ["marker-chart", "marker-table", "timeline-overview"],
            "chartLabel": "{marker.name}",
            "tooltipLabel": "waits: {marker.name}",
            "tableLabel": "{marker.name}",
            "fields": [],
        }],
        "extra": [{
            "label": "Recording",
            "entries": [{"label": "How", "format": "string", "value": label::how(profile)}],
        }],
    })
}

fn milliseconds(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e6
}

fn microseconds(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::super::testing::{self, HOSTILE, small, written};
    use super::*;

    fn parsed(profile: &Profile) -> Value {
        serde_json::from_slice(&written(Format::Gecko, profile, Style::default())).unwrap()
    }

    fn list(value: &Value) -> &Vec<Value> {
        value.as_array().unwrap()
    }

    /// The names of a stack, outermost first, with their lines.
    fn names(file: &Value, stack: &Value) -> Vec<(String, Value)> {
        let shared = &file["shared"];
        let mut names = Vec::new();
        let mut next = stack.clone();
        while let Some(stack) = next.as_u64() {
            let at = |table: &Value, index: &Value| table[index.as_u64().unwrap() as usize].clone();
            let frame = at(&shared["stackTable"]["frame"], &stack.into());
            let function = at(&shared["frameTable"]["func"], &frame);
            let name = at(&shared["funcTable"]["name"], &function);
            let name = at(&shared["stringArray"], &name);
            names.push((
                name.as_str().unwrap().to_owned(),
                at(&shared["frameTable"]["line"], &frame),
            ));
            next = at(&shared["stackTable"]["prefix"], &stack.into());
        }
        names.reverse();
        names
    }

    #[test]
    fn columns_are_as_long_as_their_tables_say() {
        for profile in [small(), testing::empty()] {
            let file = parsed(&profile);
            let mut tables: Vec<&Value> = file["shared"]
                .as_object()
                .unwrap()
                .values()
                .filter(|table| table.is_object())
                .collect();
            for thread in list(&file["threads"]) {
                tables.extend([&thread["samples"], &thread["markers"]]);
            }
            assert!(tables.len() >= 6);
            for table in tables {
                for (key, column) in table.as_object().unwrap() {
                    if let Some(column) = column.as_array() {
                        assert_eq!(Some(column.len() as u64), table["length"].as_u64(), "{key}");
                    }
                }
            }
        }
    }

    #[test]
    fn samples_have_stacks_times_and_weights() {
        let file = parsed(&small());
        let threads = list(&file["threads"]);
        let names_of: Vec<_> = threads
            .iter()
            .map(|thread| thread["name"].clone())
            .collect();
        let hostile = label::visible(HOSTILE);
        assert_eq!(names_of, ["gunicorn: worker [shop]", &hostile, &hostile]);
        let weights: Vec<f64> = threads
            .iter()
            .map(|thread| {
                let weights = list(&thread["samples"]["weight"]);
                weights.iter().map(|weight| weight.as_f64().unwrap()).sum()
            })
            .collect();
        assert!(
            weights
                .iter()
                .zip([1000.0, 600.0, 900.0])
                .all(|(one, other)| (one - other).abs() < 1e-6),
            "{weights:?}"
        );
        let samples = &threads[1]["samples"];
        // 30 and 30 samples, and the beginnings of both stretches.
        assert_eq!(samples["length"], 62);
        assert_eq!(samples["time"][31], 700.0);
        assert!(samples["stack"][31].is_null());
        assert_eq!(
            names(&file, &samples["stack"][32]),
            [
                ("work".to_owned(), json!(20)),
                ("do_futex".to_owned(), Value::Null),
                ("[waits: gil]".to_owned(), Value::Null)
            ]
        );
        let cpu: f64 = list(&samples["threadCPUDelta"])
            .iter()
            .map(|delta| delta.as_f64().unwrap())
            .sum();
        assert!((cpu - 300_000.0).abs() < 1e-3);
        let markers = &threads[2]["markers"];
        assert_eq!(markers["startTime"], json!([100.0, 700.0]));
        assert_eq!(markers["endTime"], json!([700.0, 1000.0]));
    }

    #[test]
    fn a_pid_that_is_used_again_has_a_name_of_its_own() {
        assert_eq!(
            super::names([7, 8, 7, 7].into_iter()),
            ["7", "8", "7.1", "7.2"]
        );
    }
}
