//! The documents that programs read; `docs/` has their schema. Fields are added, never changed.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::model::{Finding, ProcessSnapshot};
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
            took_ms: milliseconds(took),
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
            threshold_ms: milliseconds(threshold),
            access,
            processes,
            findings,
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Writes a document as one indented JSON text and a newline, piece by piece.
pub fn write<T: Serialize>(document: &T, mut out: impl Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut out, document)?;
    out.write_all(b"\n")
}
