//! What is to be thought of a thread, and what was found in all.

use std::time::Duration;

use serde::Serialize;

use super::ids::{Pid, Tid};

/// The stable names of verdicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerdictClass {
    /// On a processor, or off it for less than the threshold.
    Working,
    /// It waits beyond the threshold for something that is expected, or that is not judged yet.
    Waiting,
    /// It waits for a peer beyond the threshold.
    HangNetwork,
    /// Stopped, frozen or traced.
    Stopped,
    /// Not enough rights or facts.
    Unknown,
}

impl VerdictClass {
    /// Its stable name.
    pub fn name(self) -> &'static str {
        match self {
            VerdictClass::Working => "working",
            VerdictClass::Waiting => "waiting",
            VerdictClass::HangNetwork => "hang-network",
            VerdictClass::Stopped => "stopped",
            VerdictClass::Unknown => "unknown",
        }
    }

    /// Whether a thread with this verdict is stuck.
    pub fn is_stuck(self) -> bool {
        matches!(self, VerdictClass::HangNetwork | VerdictClass::Stopped)
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ThreadRef {
    /// The process.
    pub pid: Pid,
    /// The thread.
    pub tid: Tid,
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
    #[serde(rename = "since_ms", serialize_with = "super::wait::milliseconds")]
    pub since: Option<Duration>,
    /// The thread at the root.
    pub root: ThreadRef,
    /// What usually helps.
    pub advice: String,
}
