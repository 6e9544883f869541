//! `profile.proto`, gzipped: what `go tool pprof`, Pyroscope and Parca read
//! (<https://github.com/google/pprof/blob/main/proto/profile.proto>).
//!
//! Whose a sample is and what its thread did stand in labels: `process`, `pid`, `thread`, `thread_id`, `state`
//! (`active` or `waiting`), `wait`, and `gil` (`held` or `waiting`). Stacks hold calls only.

use std::io::{self, Write};
use std::time::{Duration, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;
use rustc_hash::FxHashMap;

use super::Style;
use super::functions::Functions;
use super::label::{self, Owner};
use crate::model::{Gil, ThreadIndex};
use crate::profile::{FrameId, Profile};

/// The messages of `profile.proto`, as far as they are used; numbers of texts are places in the table of strings.
mod proto {
    use prost::Message;

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Profile {
        #[prost(message, repeated, tag = "1")]
        pub(super) sample_type: Vec<ValueType>,
        #[prost(message, repeated, tag = "2")]
        pub(super) sample: Vec<Sample>,
        #[prost(message, repeated, tag = "3")]
        pub(super) mapping: Vec<Mapping>,
        #[prost(message, repeated, tag = "4")]
        pub(super) location: Vec<Location>,
        #[prost(message, repeated, tag = "5")]
        pub(super) function: Vec<Function>,
        #[prost(string, repeated, tag = "6")]
        pub(super) string_table: Vec<String>,
        #[prost(int64, tag = "9")]
        pub(super) time_nanos: i64,
        #[prost(int64, tag = "10")]
        pub(super) duration_nanos: i64,
        #[prost(message, optional, tag = "11")]
        pub(super) period_type: Option<ValueType>,
        #[prost(int64, tag = "12")]
        pub(super) period: i64,
        #[prost(int64, repeated, tag = "13")]
        pub(super) comment: Vec<i64>,
        #[prost(int64, tag = "14")]
        pub(super) default_sample_type: i64,
    }

    #[derive(Clone, Copy, PartialEq, Message)]
    pub(super) struct ValueType {
        #[prost(int64, tag = "1")]
        pub(super) r#type: i64,
        #[prost(int64, tag = "2")]
        pub(super) unit: i64,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Sample {
        /// Innermost first.
        #[prost(uint64, repeated, tag = "1")]
        pub(super) location_id: Vec<u64>,
        #[prost(int64, repeated, tag = "2")]
        pub(super) value: Vec<i64>,
        #[prost(message, repeated, tag = "3")]
        pub(super) label: Vec<Label>,
    }

    #[derive(Clone, Copy, PartialEq, Message)]
    pub(super) struct Label {
        #[prost(int64, tag = "1")]
        pub(super) key: i64,
        #[prost(int64, tag = "2")]
        pub(super) str: i64,
        #[prost(int64, tag = "3")]
        pub(super) num: i64,
    }

    #[derive(Clone, Copy, PartialEq, Message)]
    pub(super) struct Mapping {
        #[prost(uint64, tag = "1")]
        pub(super) id: u64,
        #[prost(int64, tag = "5")]
        pub(super) filename: i64,
        #[prost(bool, tag = "7")]
        pub(super) has_functions: bool,
        #[prost(bool, tag = "8")]
        pub(super) has_filenames: bool,
        #[prost(bool, tag = "9")]
        pub(super) has_line_numbers: bool,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Location {
        #[prost(uint64, tag = "1")]
        pub(super) id: u64,
        #[prost(uint64, tag = "2")]
        pub(super) mapping_id: u64,
        #[prost(message, repeated, tag = "4")]
        pub(super) line: Vec<Line>,
    }

    #[derive(Clone, Copy, PartialEq, Message)]
    pub(super) struct Line {
        #[prost(uint64, tag = "1")]
        pub(super) function_id: u64,
        #[prost(int64, tag = "2")]
        pub(super) line: i64,
    }

    #[derive(Clone, Copy, PartialEq, Message)]
    pub(super) struct Function {
        #[prost(uint64, tag = "1")]
        pub(super) id: u64,
        #[prost(int64, tag = "2")]
        pub(super) name: i64,
        #[prost(int64, tag = "3")]
        pub(super) system_name: i64,
        #[prost(int64, tag = "4")]
        pub(super) filename: i64,
        #[prost(int64, tag = "5")]
        pub(super) start_line: i64,
    }
}

/// Writes `profile`.
pub(super) fn write(profile: &Profile, style: Style, out: &mut dyn Write) -> io::Result<()> {
    let mut gzip = GzEncoder::new(out, Compression::default());
    gzip.write_all(&message(profile, style).encode_to_vec())?;
    gzip.finish()?;
    Ok(())
}

/// The table of strings, whose first one is the empty one.
struct Strings {
    known: FxHashMap<String, i64>,
    table: Vec<String>,
}

impl Strings {
    fn new() -> Strings {
        Strings {
            known: FxHashMap::from_iter([(String::new(), 0)]),
            table: vec![String::new()],
        }
    }

    fn number(&mut self, text: &str) -> i64 {
        if let Some(number) = self.known.get(text) {
            return *number;
        }
        let number = i64::try_from(self.table.len()).unwrap_or(0);
        self.table.push(text.to_owned());
        self.known.insert(text.to_owned(), number);
        number
    }

    fn value_type(&mut self, of: &str, unit: &str) -> proto::ValueType {
        proto::ValueType {
            r#type: self.number(of),
            unit: self.number(unit),
        }
    }

    fn text(&mut self, key: &str, text: &str) -> proto::Label {
        proto::Label {
            key: self.number(key),
            str: self.number(text),
            num: 0,
        }
    }

    fn count(&mut self, key: &str, num: i32) -> proto::Label {
        proto::Label {
            key: self.number(key),
            str: 0,
            num: num.into(),
        }
    }
}

fn message(profile: &Profile, style: Style) -> proto::Profile {
    let mut strings = Strings::new();
    let wall = strings.value_type("wall", "nanoseconds");
    let sample_type = vec![strings.value_type("samples", "count"), wall];
    let functions = Functions::of(profile.stacks.frames());
    let sample = samples(profile, &mut strings);
    let mapping = proto::Mapping {
        id: 1,
        filename: strings.number("python"),
        has_functions: true,
        has_filenames: true,
        has_line_numbers: true,
    };
    let location = (0..)
        .map(FrameId)
        .zip(profile.stacks.frames())
        .map(|(id, frame)| proto::Location {
            id: location_id(id),
            mapping_id: mapping.id,
            line: vec![proto::Line {
                function_id: function_id(functions.function(id)),
                line: frame.line.unwrap_or(0).into(),
            }],
        })
        .collect();
    let function = (0..)
        .zip(functions.examples())
        .map(|(number, example)| {
            let frame = profile.stacks.frame(*example);
            proto::Function {
                id: function_id(number),
                name: strings.number(&label::function(frame)),
                // Were it the same, pprof would take `<module>` for the arguments of a C++ template, and cut it off.
                system_name: 0,
                filename: strings.number(&label::file(frame, style).unwrap_or_default()),
                start_line: frame.first_line.unwrap_or(0).into(),
            }
        })
        .collect();
    let since_epoch = profile.started_at.duration_since(UNIX_EPOCH);
    proto::Profile {
        sample_type,
        sample,
        mapping: vec![mapping],
        location,
        function,
        time_nanos: nanoseconds(since_epoch.unwrap_or_default()),
        duration_nanos: nanoseconds(profile.stats.elapsed),
        period_type: Some(wall),
        period: nanoseconds(profile.stats.interval),
        comment: vec![
            strings.number(&label::what(profile)),
            strings.number(&label::how(profile)),
        ],
        default_sample_type: wall.r#type,
        string_table: strings.table,
    }
}

fn samples(profile: &Profile, strings: &mut Strings) -> Vec<proto::Sample> {
    let mut owners: FxHashMap<ThreadIndex, Owner> = FxHashMap::default();
    profile
        .sorted_totals()
        .into_iter()
        .map(|(place, weight)| {
            let owner = owners
                .entry(place.thread)
                .or_insert_with(|| Owner::of(profile, place.thread));
            let wait = label::wait_of(&place);
            let mut label = vec![
                strings.text("process", &owner.title),
                strings.count("pid", owner.pid),
                strings.text("thread", &owner.name),
                strings.count("thread_id", owner.tid),
                strings.text("state", if wait.is_some() { "waiting" } else { "active" }),
            ];
            label.extend(wait.map(|word| strings.text("wait", word)));
            match place.gil {
                Gil::None => {}
                Gil::Held => label.push(strings.text("gil", "held")),
                Gil::Waiting => label.push(strings.text("gil", "waiting")),
            }
            proto::Sample {
                location_id: profile.stacks.walk(place.stack).map(location_id).collect(),
                value: vec![
                    i64::try_from(weight.samples).unwrap_or(i64::MAX),
                    nanoseconds(weight.time),
                ],
                label,
            }
        })
        .collect()
}

/// Ids begin with 1: 0 is none.
fn location_id(frame: FrameId) -> u64 {
    u64::from(frame.0) + 1
}

fn function_id(number: usize) -> u64 {
    number as u64 + 1
}

fn nanoseconds(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io::Read;

    use flate2::read::GzDecoder;
    use proptest::prelude::*;

    use super::super::Format;
    use super::super::testing::{self, named, small, written};
    use super::*;

    fn decoded(profile: &Profile) -> proto::Profile {
        let written = written(Format::Pprof, profile, Style::default());
        let mut bytes = Vec::new();
        GzDecoder::new(&written[..])
            .read_to_end(&mut bytes)
            .unwrap();
        proto::Profile::decode(&bytes[..]).unwrap()
    }

    fn text(profile: &proto::Profile, number: i64) -> &str {
        &profile.string_table[number as usize]
    }

    /// A sample's functions with lines, innermost first, and its labels.
    fn shown(profile: &proto::Profile, sample: &proto::Sample) -> (Vec<String>, Vec<String>) {
        let stack = sample.location_id.iter().map(|id| {
            let location = &profile.location[*id as usize - 1];
            assert_eq!((location.id, location.mapping_id), (*id, 1));
            let line = &location.line[0];
            let function = &profile.function[line.function_id as usize - 1];
            assert_eq!(function.id, line.function_id);
            format!("{}:{}", text(profile, function.name), line.line)
        });
        let labels = sample.label.iter().map(|label| {
            let key = text(profile, label.key);
            match label.str {
                0 => format!("{key}={}", label.num),
                str => format!("{key}={}", text(profile, str)),
            }
        });
        (stack.collect(), labels.collect())
    }

    #[test]
    fn it_is_read_again_as_it_was() {
        let profile = decoded(&small());
        assert_eq!(profile.string_table[0], "");
        let distinct: BTreeSet<_> = profile.string_table.iter().collect();
        assert_eq!(distinct.len(), profile.string_table.len());
        let kinds: Vec<_> = profile
            .sample_type
            .iter()
            .map(|kind| (text(&profile, kind.r#type), text(&profile, kind.unit)))
            .collect();
        assert_eq!(kinds, [("samples", "count"), ("wall", "nanoseconds")]);
        assert_eq!(text(&profile, profile.default_sample_type), "wall");
        assert_eq!(profile.period, 10_000_000);
        assert_eq!(profile.duration_nanos, 1_000_000_000);
        assert_eq!(profile.time_nanos, 1_767_225_600_000_000_000);
        let sums: Vec<i64> = (0..2)
            .map(|kind| profile.sample.iter().map(|sample| sample.value[kind]).sum())
            .collect();
        assert_eq!(sums, [250, 2_500_000_000]);
        let all: Vec<_> = profile
            .sample
            .iter()
            .map(|sample| shown(&profile, sample))
            .collect();
        let (stack, labels) = &all[1];
        assert_eq!(
            stack,
            &["SSLSocket.recv_into:1285", "HTTPAdapter.send:0", "main:12"]
        );
        assert_eq!(
            labels,
            &[
                "process=gunicorn: worker [shop]",
                "pid=4242",
                "thread=MainThread",
                "thread_id=4242",
                "state=waiting",
                "wait=socket-recv"
            ]
        );
        assert!(all[0].1.contains(&"gil=held".to_owned()));
        assert!(
            all.iter()
                .any(|(_, labels)| labels.contains(&"wait=gil".to_owned()))
        );
        let functions = profile.function.iter();
        let main: Vec<_> = functions
            .filter(|function| text(&profile, function.name) == "main")
            .collect();
        assert_eq!(main.len(), 1);
        assert_eq!(main[0].start_line, 1);
        assert_eq!(text(&profile, main[0].filename), "/srv/shop/app.py");
    }

    #[test]
    fn an_empty_profile_is_valid() {
        let profile = decoded(&testing::empty());
        assert!(profile.sample.is_empty());
        assert_eq!(profile.sample_type.len(), 2);
    }

    proptest! {
        #[test]
        fn any_names_can_be_read_again(function in any::<String>(), name in any::<String>()) {
            let profile = decoded(&named(&function, "", &name, ""));
            let (stack, _) = shown(&profile, &profile.sample[0]);
            let function = label::visible(&function);
            prop_assert_eq!(stack, [format!("{function}:3"), format!("{function}:0")]);
        }
    }
}
