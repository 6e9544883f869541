//! What is to be thought of a thread, and what was found in all.

use std::time::Duration;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::ids::{Pid, Tid};
use super::value::Value;
use super::wait::WaitKind;

/// The stable names of verdicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VerdictClass {
    /// On a processor, off it for less than the threshold, or making visible progress.
    Working,
    /// It waits for work, by design.
    Idle,
    /// It waits beyond the threshold, and that is expected to end by itself.
    Waiting,
    /// It waits beyond the threshold for a peer that owes an answer, or does not read.
    HangNetwork,
    /// The same, to find the address of a name.
    HangDns,
    /// It waits beyond the threshold for a lock, condition or thread that is stuck, gone or unknown.
    HangLock,
    /// It is part of a cycle of waits, or waits for one.
    Deadlock,
    /// It waits beyond the threshold for a pipe or fifo that nobody will fill or drain.
    HangPipe,
    /// It waits beyond the threshold for a child that is stuck, or can't be reaped.
    HangChild,
    /// It waits beyond the threshold for a file lock.
    HangFileLock,
    /// It sleeps uninterruptibly beyond the threshold.
    HangDisk,
    /// It burns a processor in the same loop without visible progress.
    Spin,
    /// A call that should have returned waits in slices, beyond the threshold, without getting anywhere.
    Stalled,
    /// It holds the GIL beyond the threshold without running Python, or is starved by one that does.
    GilHeld,
    /// Stopped, frozen or traced.
    Stopped,
    /// Not enough rights or facts.
    Unknown,
}

impl VerdictClass {
    /// All of them, as they are listed for people.
    pub const ALL: [VerdictClass; 16] = [
        VerdictClass::Working,
        VerdictClass::Idle,
        VerdictClass::Waiting,
        VerdictClass::HangNetwork,
        VerdictClass::HangDns,
        VerdictClass::HangLock,
        VerdictClass::Deadlock,
        VerdictClass::HangPipe,
        VerdictClass::HangChild,
        VerdictClass::HangFileLock,
        VerdictClass::HangDisk,
        VerdictClass::Spin,
        VerdictClass::Stalled,
        VerdictClass::GilHeld,
        VerdictClass::Stopped,
        VerdictClass::Unknown,
    ];

    /// Its stable name.
    pub fn name(self) -> &'static str {
        match self {
            VerdictClass::Working => "working",
            VerdictClass::Idle => "idle",
            VerdictClass::Waiting => "waiting",
            VerdictClass::HangNetwork => "hang-network",
            VerdictClass::HangDns => "hang-dns",
            VerdictClass::HangLock => "hang-lock",
            VerdictClass::Deadlock => "deadlock",
            VerdictClass::HangPipe => "hang-pipe",
            VerdictClass::HangChild => "hang-child",
            VerdictClass::HangFileLock => "hang-file-lock",
            VerdictClass::HangDisk => "hang-disk",
            VerdictClass::Spin => "spin",
            VerdictClass::Stalled => "stalled",
            VerdictClass::GilHeld => "gil-held",
            VerdictClass::Stopped => "stopped",
            VerdictClass::Unknown => "unknown",
        }
    }

    /// The verdict with this name.
    pub fn from_name(name: &str) -> Option<VerdictClass> {
        let mut all = VerdictClass::ALL.into_iter();
        all.find(|class| class.name() == name)
    }

    /// Whether a thread with this verdict is stuck.
    pub fn is_stuck(self) -> bool {
        use VerdictClass::*;
        !matches!(self, Working | Idle | Waiting | Unknown)
    }
}

impl Serialize for VerdictClass {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// How sure a verdict is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// It could be so.
    Possible,
    /// All that is known speaks for it.
    Likely,
    /// The facts leave no other way.
    Proven,
}

impl Confidence {
    /// Its name, as JSON has it.
    pub fn word(self) -> &'static str {
        match self {
            Confidence::Possible => "possible",
            Confidence::Likely => "likely",
            Confidence::Proven => "proven",
        }
    }
}

/// A fact that led to a verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// Which fact, as a path in the field's own words, e.g. `wait.since_ms`.
    pub fact: &'static str,
    /// Its value.
    pub value: serde_json::Value,
    /// The fact in words.
    pub text: String,
}

/// What is to be thought of a thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The verdict.
    pub class: VerdictClass,
    /// How sure it is.
    pub confidence: Confidence,
    /// One sentence.
    pub summary: String,
    /// What led to it.
    pub evidence: Vec<Evidence>,
}

/// A thread of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ThreadRef {
    /// The process.
    pub pid: Pid,
    /// The thread.
    pub tid: Tid,
}

/// A thread that waits for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Link {
    /// The thread.
    #[serde(flatten)]
    pub thread: ThreadRef,
    /// What sort of wait it is in.
    pub waits: WaitKind,
    /// The thread that it waits for.
    pub on: ThreadRef,
}

/// Something that is wrong, with the thread at its root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The verdict on the root.
    pub verdict: VerdictClass,
    /// How sure it is.
    pub confidence: Confidence,
    /// One sentence.
    pub summary: String,
    /// For how long it has been so, in milliseconds.
    #[serde(
        rename = "since_ms",
        serialize_with = "super::milliseconds::milliseconds"
    )]
    pub since: Option<Duration>,
    /// The thread at the root.
    pub root: ThreadRef,
    /// The thread that `summary` is about: the root, or who waits for it, where the root itself is not stuck and only keeps
    /// what it holds.
    #[serde(skip)]
    pub teller: ThreadRef,
    /// The waits that lead from the thread that waits longest for the root to the root; for a deadlock, the cycle.
    pub chain: Vec<Link>,
    /// All threads that the root holds up.
    pub blocks: Vec<ThreadRef>,
    /// Which request the root is busy with; for a root that does not wait itself, the thread that waits for it directly.
    pub context: Option<Context>,
    /// What usually helps.
    pub advice: String,
    /// Findings with the same number are equal but for their threads: the same verdict, reached at the same place of the code, on the
    /// same resource. Numbered from 0, in the order of the findings.
    pub group: usize,
}

/// What a stuck call is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// What sort of thing it is: `http`, `sql`, …
    pub kind: String,
    /// The same for people.
    pub what: String,
    /// What is known of it, in the order in which it is told.
    pub fields: Vec<ContextField>,
}

/// One thing that is known of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextField {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Value,
}

impl Serialize for Context {
    /// As one object: `kind`, `what`, and each field by its name.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.fields.len() + 2))?;
        map.serialize_entry("kind", &self.kind)?;
        map.serialize_entry("what", &self.what)?;
        for field in &self.fields {
            map.serialize_entry(&field.name, &plain(&field.value))?;
        }
        map.end()
    }
}

/// A value as a program reads it most easily: what JSON has itself, anything else as text.
fn plain(value: &Value) -> serde_json::Value {
    match value {
        Value::None => serde_json::Value::Null,
        Value::Bool { value } => (*value).into(),
        Value::Int {
            text: Some(text), ..
        } => text
            .parse::<i64>()
            .map_or_else(|_| text.clone().into(), Into::into),
        Value::Float { text } => text
            .parse::<f64>()
            .map_or_else(|_| text.clone().into(), Into::into),
        Value::Str { text, .. } => text.clone().into(),
        other => other.to_string().into(),
    }
}
