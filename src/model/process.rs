//! One process at one instant.

use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

use super::container::Container;
use super::ids::Pid;
use super::progress::{ProcessCounts, ProcessProgress};
use super::sched_state::SchedState;
use super::thread::ThreadSnapshot;
use super::verdict::ThreadRef;

/// The interpreter that runs in a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuntimeInfo {
    /// `cpython`.
    pub kind: &'static str,
    /// Its version, as exactly as could be told: "3.6.15", or "3.6".
    pub version: String,
    /// Whether it is a build without the GIL.
    pub free_threaded: bool,
    /// The method by which it was found.
    pub found_by: &'static str,
    /// The file that it was found in, in the target's mount namespace.
    pub image: String,
}

/// What came of reading a process' memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryOutcome {
    /// A Python was found and read.
    Python,
    /// It holds no Python.
    NotPython,
    /// It holds a Python that can't be read.
    Unreadable,
    /// The kernel refuses.
    Denied,
    /// It has no memory: a zombie, or a thread of the kernel.
    None,
    /// Reading it blocked until the time was over.
    TimedOut,
    /// It ended before it was read.
    Ended,
}

/// One process at one instant.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessSnapshot {
    /// The process.
    pub pid: Pid,
    /// Its number in its own pid namespace, where that is another one than ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ns_pid: Option<i32>,
    /// Its parent.
    pub ppid: Pid,
    /// Generations below the process that was asked for.
    #[serde(skip)]
    pub depth: usize,
    /// Whether it is not one of those that were asked for, and was looked at because a thread of theirs waits for it.
    #[serde(rename = "related", skip_serializing_if = "std::ops::Not::not")]
    pub is_related: bool,
    /// Its title: the arguments in one string, as `ps` shows them, or the kernel's name when it has none.
    pub title: String,
    /// Its arguments, lossily.
    pub command: Vec<String>,
    /// The Python that runs in it, if one was found.
    pub runtime: Option<RuntimeInfo>,
    /// What came of reading its memory.
    #[serde(skip)]
    pub memory: MemoryOutcome,
    /// The scheduler's state of its main thread.
    pub state: SchedState,
    /// When it started.
    #[serde(serialize_with = "rfc3339")]
    pub started_at: Option<SystemTime>,
    /// How long it has been running.
    #[serde(skip)]
    pub age: Option<Duration>,
    /// The container that it runs in, if its cgroup names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<Container>,
    /// Who traces it.
    pub tracer: Option<Pid>,
    /// Whether it has handlers of its own for signals other than SIGINT.
    #[serde(skip)]
    pub handles_signals: bool,
    /// Whether it handles the signal of timers (SIGALRM), so that one may be set that breaks off a wait.
    #[serde(skip)]
    pub handles_alarms: bool,
    /// Whether the kernel refuses to tell in which calls its threads are.
    #[serde(skip)]
    pub refuses_calls: bool,
    /// Threads that are there and could not be read; they are not among `threads`.
    #[serde(skip_serializing_if = "is_zero")]
    pub unread_threads: usize,
    /// Whether some of its files could not be opened for lack of descriptors.
    #[serde(skip)]
    pub lacks_descriptors: bool,
    /// What the kernel had counted of it, where that was asked for.
    #[serde(skip)]
    pub counts: ProcessCounts,
    /// What it did while it was watched; filled by `diagnose`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<ProcessProgress>,
    /// Its threads, in ascending order of tids.
    pub threads: Vec<ThreadSnapshot>,
    /// What could not be had, and why.
    pub errors: Vec<String>,
}

impl ProcessSnapshot {
    /// Whether all of its threads were seen, as far as the number of descriptors goes.
    pub fn is_whole(&self) -> bool {
        self.unread_threads == 0 && !self.lacks_descriptors
    }
}

/// As serde calls it.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Serializes a time of the wall clock by RFC 3339, in UTC, to the millisecond.
pub(super) fn rfc3339<S: Serializer>(
    time: &Option<SystemTime>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.collect_str(&humantime::format_rfc3339_millis(*time)),
        None => serializer.serialize_none(),
    }
}

/// A thread of these processes; one that is inside several interpreters stands there more than once, innermost first.
pub fn find_thread(processes: &[ProcessSnapshot], key: ThreadRef) -> Option<&ThreadSnapshot> {
    let process = processes.iter().find(|process| process.pid == key.pid)?;
    process.threads.iter().find(|thread| thread.tid == key.tid)
}
