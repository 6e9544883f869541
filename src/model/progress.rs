//! What was seen to go on while threads were watched for a while.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::frame::Frame;
use super::milliseconds::{milliseconds, plain_milliseconds};

/// What the clocks show that programs read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clocks {
    /// Since 1970 (`CLOCK_REALTIME`).
    pub real: Duration,
    /// Since the machine was started, without the time that it slept (`CLOCK_MONOTONIC`).
    pub monotonic: Duration,
}

/// When a look was taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Since the first one.
    pub elapsed: Duration,
    /// By the clocks that programs read.
    pub clocks: Clocks,
}

/// What the kernel had counted of a thread at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadCounts {
    /// Its time on a processor.
    pub cpu: Duration,
    /// How often it was given a processor, or has left one.
    pub runs: u64,
}

/// What had been counted of a process at a moment; only what is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessCounts {
    /// Bytes that it read, from files and pipes (`rchar` of `/proc/PID/io`) and from TCP connections that are open.
    pub read_bytes: Option<u64>,
    /// Bytes that it wrote, likewise.
    pub written_bytes: Option<u64>,
    /// A number that stands for which sockets it has open.
    pub sockets: Option<u64>,
    /// For how long its cgroup was not let run because of its CPU limit.
    pub throttled: Option<Duration>,
}

/// What a thread did while it was watched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ThreadProgress {
    /// For how long it was watched.
    #[serde(rename = "watched_ms", serialize_with = "plain_milliseconds")]
    pub watched: Duration,
    /// How often it was looked at.
    pub looks: usize,
    /// Its time on a processor meanwhile.
    #[serde(rename = "cpu_ms", serialize_with = "milliseconds")]
    pub cpu: Option<Duration>,
    /// How often it was given a processor meanwhile: of one that sleeps, how often it woke.
    pub wake_ups: Option<u64>,
    /// How many different stacks were seen.
    pub stacks: usize,
    /// Bytes that came in meanwhile on the connection that it waits on.
    pub received_bytes: Option<u64>,
    /// The loop that it goes round.
    #[serde(rename = "loop")]
    pub round: Option<Loop>,
}

/// A loop that a thread goes round: seen by the lines that it comes back to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Loop {
    /// The calls that were on the stack at every look, innermost first: the first one goes round.
    pub frames: Vec<Arc<Frame>>,
    /// The lines of the first one that were seen, in ascending order.
    pub lines: Vec<u32>,
    /// How often it was seen to come back to a line.
    pub rounds: usize,
    /// Whether variables of these calls were seen to change from round to round, other than clocks: then it gets somewhere.
    /// `None` where they could not be compared.
    pub changes: Option<bool>,
    /// The variables that were seen to change, clocks and counters among them, innermost call first; the first of very many.
    pub changing: Vec<String>,
    /// The variables of the first call that were the same in all rounds; the first of very many.
    pub constant: Vec<String>,
    /// Whether all that changes is counters: numbers that only grow, or only shrink.
    pub only_counts: bool,
}

/// What a process did while it was watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ProcessProgress {
    /// For how long it was watched.
    #[serde(rename = "watched_ms", serialize_with = "plain_milliseconds")]
    pub watched: Duration,
    /// Bytes that it read meanwhile, from files, pipes and TCP connections.
    pub read_bytes: Option<u64>,
    /// Bytes that it wrote meanwhile.
    pub written_bytes: Option<u64>,
    /// Whether its sockets stayed the same; `None` where that is not known.
    #[serde(skip)]
    pub keeps_sockets: Option<bool>,
    /// For how long its cgroup was not let run meanwhile because of its CPU limit.
    #[serde(rename = "throttled_ms", serialize_with = "milliseconds")]
    pub throttled: Option<Duration>,
}
