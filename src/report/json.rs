//! The documents that programs read; `docs/` has their schema. Fields are added, never changed.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::{Formatter, PrettyFormatter};

use super::sanitize::acts;
use crate::model::{Finding, ProcessSnapshot, whole_milliseconds};
use crate::target::access::Access;

/// What `dump --json` prints.
#[derive(Debug, Serialize)]
pub struct DumpDocument<'a> {
    schema: &'static str,
    #[serde(flatten)]
    head: Head,
    access: Access,
    processes: &'a [ProcessSnapshot],
}

/// What `diagnose --json` prints.
#[derive(Debug, Serialize)]
pub struct DiagnosisDocument<'a> {
    schema: &'static str,
    #[serde(flatten)]
    head: Head,
    threshold_ms: u64,
    access: Access,
    processes: &'a [ProcessSnapshot],
    findings: &'a [Finding],
}

/// What every document begins with.
#[derive(Clone, Debug, Serialize)]
pub struct Head {
    stuckspy: &'static str,
    taken_at: String,
    took_ms: u64,
}

impl Head {
    /// The head of a document on what was seen at `taken_at` and took `took` to see.
    pub fn new(taken_at: SystemTime, took: Duration) -> Head {
        Head {
            stuckspy: env!("CARGO_PKG_VERSION"),
            taken_at: humantime::format_rfc3339_millis(taken_at).to_string(),
            took_ms: whole_milliseconds(took),
        }
    }
}

impl<'a> DumpDocument<'a> {
    /// The document for these processes.
    pub fn new(head: Head, access: Access, processes: &'a [ProcessSnapshot]) -> Self {
        DumpDocument {
            schema: "stuckspy.dump/1",
            head,
            access,
            processes,
        }
    }
}

impl<'a> DiagnosisDocument<'a> {
    /// The document for these processes and what was found in them.
    pub fn new(
        head: Head,
        access: Access,
        threshold: Duration,
        processes: &'a [ProcessSnapshot],
        findings: &'a [Finding],
    ) -> Self {
        DiagnosisDocument {
            schema: "stuckspy.diagnosis/1",
            head,
            threshold_ms: whole_milliseconds(threshold),
            access,
            processes,
            findings,
        }
    }
}

/// Writes a document as one indented JSON text and a newline, piece by piece.
///
/// Characters that can act on a terminal are written as `\uXXXX`: the text is the same, and safe to look at.
pub fn write<T: Serialize>(document: &T, mut out: impl Write) -> io::Result<()> {
    let formatter = Careful(PrettyFormatter::new());
    document.serialize(&mut Serializer::with_formatter(&mut out, formatter))?;
    out.write_all(b"\n")
}

/// The usual indented form, but for strings.
struct Careful<'a>(PrettyFormatter<'a>);

/// Hands on what is not of interest.
macro_rules! as_usual {
    ($($name:ident($($argument:ident: $kind:ty),*);)*) => {$(
        fn $name<W: ?Sized + Write>(&mut self, out: &mut W $(, $argument: $kind)*) -> io::Result<()> {
            self.0.$name(out $(, $argument)*)
        }
    )*};
}

impl Formatter for Careful<'_> {
    as_usual! {
        begin_array();
        end_array();
        begin_array_value(first: bool);
        end_array_value();
        begin_object();
        end_object();
        begin_object_key(first: bool);
        begin_object_value();
        end_object_value();
    }

    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        out: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(acts) {
            let (plain, tail) = rest.split_at(at);
            out.write_all(plain.as_bytes())?;
            let mut letters = tail.chars();
            for unit in letters
                .next()
                .into_iter()
                .flat_map(|letter| letter.encode_utf16(&mut [0; 2]).to_vec())
            {
                write!(out, "\\u{unit:04x}")?;
            }
            rest = letters.as_str();
        }
        out.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests;
