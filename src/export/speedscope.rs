//! <https://www.speedscope.app>: one `sampled` profile per thread, with weights in seconds.
//!
//! The format has no times but the sum of the weights before a sample. Where a thread was not seen, a sample without
//! frames stands for that time, so that all threads have the same length and what stands at the same place happened at
//! the same time.

use std::io::{self, Write};
use std::time::Duration;

use rustc_hash::FxHashMap;
use serde::Serialize;

use super::Style;
use super::label;
use super::stretches::{self, Track};
use crate::profile::{Profile, StackId};

#[derive(Serialize)]
struct File<'a> {
    #[serde(rename = "$schema")]
    schema: &'static str,
    exporter: &'static str,
    name: String,
    #[serde(rename = "activeProfileIndex")]
    active: usize,
    shared: Shared,
    profiles: Vec<Sampled<'a>>,
}

#[derive(Serialize)]
struct Shared {
    frames: Vec<Frame>,
}

#[derive(Serialize)]
struct Frame {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Sampled<'a> {
    r#type: &'static str,
    name: String,
    unit: &'static str,
    start_value: f64,
    end_value: f64,
    samples: Vec<Stack<'a>>,
    weights: Vec<f64>,
}

/// The frames of a sample.
enum Stack<'a> {
    /// Nothing was seen.
    Empty,
    /// A stack, and what it waits in.
    Seen(&'a Profile, StackId, Option<u32>),
}

impl Serialize for Stack<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut frames: Vec<u32> = Vec::new();
        if let Stack::Seen(profile, stack, wait) = self {
            frames.extend(wait);
            frames.extend(profile.stacks.walk(*stack).map(|frame| frame.0));
            frames.reverse();
        }
        frames.serialize(serializer)
    }
}

/// Writes `profile`.
pub(super) fn write(profile: &Profile, style: Style, out: &mut dyn Write) -> io::Result<()> {
    let tracks = stretches::tracks(profile);
    let end = stretches::end(profile, &tracks);
    let mut frames: Vec<Frame> = profile
        .stacks
        .frames()
        .iter()
        .map(|frame| Frame {
            name: label::function(frame),
            file: label::file(frame, style),
            line: frame.line,
        })
        .collect();
    let mut waits: FxHashMap<&str, u32> = FxHashMap::default();
    for stretch in tracks.iter().flat_map(|track| &track.stretches) {
        let Some(word) = label::wait_of(&stretch.place) else {
            continue;
        };
        waits.entry(word).or_insert_with(|| {
            frames.push(Frame {
                name: label::wait(word),
                file: None,
                line: None,
            });
            u32::try_from(frames.len() - 1).unwrap_or(u32::MAX)
        });
    }
    let has_processes = style.processes || profile.processes.len() > 1;
    let mut profiles: Vec<Sampled<'_>> = tracks
        .iter()
        .map(|track| sampled(profile, track, end, has_processes, &waits))
        .collect();
    if profiles.is_empty() {
        // A file without profiles is one that it can't open.
        profiles.push(Sampled {
            r#type: "sampled",
            name: "no samples".to_owned(),
            unit: "seconds",
            start_value: 0.0,
            end_value: end.as_secs_f64(),
            samples: vec![Stack::Empty],
            weights: vec![end.as_secs_f64()],
        });
    }
    let file = File {
        schema: "https://www.speedscope.app/file-format-schema.json",
        exporter: concat!("stuckspy@", env!("CARGO_PKG_VERSION")),
        name: format!("{}, {}", label::what(profile), label::how(profile)),
        active: 0,
        shared: Shared { frames },
        profiles,
    };
    serde_json::to_writer(&mut *out, &file)?;
    writeln!(out)
}

fn sampled<'a>(
    profile: &'a Profile,
    track: &Track,
    end: Duration,
    has_processes: bool,
    waits: &FxHashMap<&str, u32>,
) -> Sampled<'a> {
    let mut samples = Vec::with_capacity(track.stretches.len());
    let mut weights = Vec::with_capacity(track.stretches.len());
    let mut now = Duration::ZERO;
    for stretch in &track.stretches {
        if stretch.start > now {
            samples.push(Stack::Empty);
            weights.push((stretch.start - now).as_secs_f64());
        }
        let wait = label::wait_of(&stretch.place).and_then(|word| waits.get(word).copied());
        samples.push(Stack::Seen(profile, stretch.place.stack, wait));
        weights.push(stretch.length().as_secs_f64());
        now = stretch.end;
    }
    if end > now {
        samples.push(Stack::Empty);
        weights.push((end - now).as_secs_f64());
    }
    let thread = track.owner.thread();
    Sampled {
        r#type: "sampled",
        name: if has_processes {
            format!("{}, {thread}", track.owner.process())
        } else {
            thread
        },
        unit: "seconds",
        start_value: 0.0,
        end_value: end.as_secs_f64(),
        samples,
        weights,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::Format;
    use super::super::testing::{self, named, small, written};
    use super::*;

    fn parsed(profile: &Profile) -> Value {
        serde_json::from_slice(&written(Format::Speedscope, profile, Style::default())).unwrap()
    }

    fn names(file: &Value, sample: &Value) -> Vec<Value> {
        sample
            .as_array()
            .unwrap()
            .iter()
            .map(|index| file["shared"]["frames"][index.as_u64().unwrap() as usize]["name"].clone())
            .collect()
    }

    #[test]
    fn a_gap_is_a_sample_without_frames() {
        let file = parsed(&small());
        let profiles = file["profiles"].as_array().unwrap();
        assert_eq!(profiles.len(), 3);
        let gap = &profiles[1];
        assert_eq!(gap["weights"], json!([0.3, 0.4, 0.3]));
        assert_eq!(gap["samples"][1], json!([]));
        assert_eq!(
            names(&file, &gap["samples"][2]),
            ["work", "do_futex", "[waits: gil]"]
        );
        assert_eq!(profiles[2]["weights"], json!([0.1, 0.6, 0.3]));
        for profile in profiles {
            let weights = profile["weights"].as_array().unwrap();
            let sum: f64 = weights.iter().map(|weight| weight.as_f64().unwrap()).sum();
            assert!((sum - 1.0).abs() < 1e-9);
            assert_eq!(profile["endValue"], json!(1.0));
            assert_eq!(weights.len(), profile["samples"].as_array().unwrap().len());
        }
        assert_eq!(
            profiles[0]["name"],
            "process 4242: gunicorn: worker [shop], thread 4242: MainThread"
        );
    }

    #[test]
    fn frames_have_files_and_lines_where_known() {
        let file = parsed(&small());
        let frames = file["shared"]["frames"].as_array().unwrap();
        assert!(frames.contains(&json!({
            "name": "JSONDecoder.decode", "file": "json/decoder.py", "line": 345,
        })));
        assert!(frames.contains(&json!({
            "name": "HTTPAdapter.send", "file": "requests/adapters.py",
        })));
        assert!(frames.contains(&json!({"name": "<torn>"})));
    }

    #[test]
    fn without_a_timeline_there_is_an_order_all_the_same() {
        let mut profile = small();
        profile.timeline = None;
        let file = parsed(&profile);
        let weights = file["profiles"][1]["weights"].as_array().unwrap();
        let sum: f64 = weights.iter().map(|weight| weight.as_f64().unwrap()).sum();
        assert!((sum - 1.0).abs() < 1e-9, "{weights:?}");
    }

    #[test]
    fn an_empty_profile_can_be_opened() {
        let file = parsed(&testing::empty());
        assert_eq!(file["profiles"][0]["name"], "no samples");
        assert_eq!(file["profiles"][0]["weights"], json!([1.0]));
    }

    proptest! {
        #[test]
        fn any_names_give_valid_json(
            function in any::<String>(),
            file in any::<String>(),
            name in any::<String>(),
            title in any::<String>(),
        ) {
            let profile = named(&function, &file, &name, &title);
            for format in [Format::Speedscope, Format::Chrometrace, Format::Gecko] {
                let written = written(format, &profile, Style::default());
                let parsed: Result<Value, _> = serde_json::from_slice(&written);
                prop_assert!(parsed.is_ok());
            }
        }
    }
}
