//! What a sampler sees: stretches of time in which a thread was seen doing one thing, and what the sampling itself cost.

use std::time::Duration;

use super::frame::CallStack;
use super::ids::{Pid, Tid};
use super::thread::Gil;
use super::wait::WaitKind;

/// A process of a recording. A pid that is used again is another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessIndex(pub u32);

/// A thread of a recording. A tid that is used again is another thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ThreadIndex(pub u32);

/// A process that is, or was, sampled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampledProcess {
    /// Its pid.
    pub pid: Pid,
    /// Its parent.
    pub ppid: Pid,
    /// Its title as it was seen last.
    pub title: String,
    /// The version of its Python, once one was found.
    pub python: Option<String>,
    /// Whether it lives, as far as has been seen.
    pub is_alive: bool,
}

/// A thread that is, or was, sampled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampledThread {
    /// The process that it belongs to.
    pub process: ProcessIndex,
    /// Its number in our pid namespace.
    pub tid: Tid,
    /// Its name in `threading`, else the kernel's, as it was seen last.
    pub name: String,
}

/// Whether a thread runs, by the kernel's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activity {
    /// It is on a processor or waits for one.
    Active,
    /// It is blocked, and in what.
    Waiting(WaitKind),
}

impl Activity {
    /// A number to sort by: activity first, then the kinds of waits in their own order.
    pub fn order(self) -> u8 {
        match self {
            Activity::Active => 0,
            Activity::Waiting(kind) => 1 + kind as u8,
        }
    }
}

/// What one thread was seen doing, from one sample to a later one, without a change between them.
#[derive(Clone, Debug)]
pub struct Run {
    /// The thread.
    pub thread: ThreadIndex,
    /// When the time that this stands for begins, since the recording began.
    pub start: Duration,
    /// How much wall time it stands for.
    pub weight: Duration,
    /// How many samples saw it.
    pub samples: u64,
    /// Its stack.
    pub stack: CallStack,
    /// Whether it ran.
    pub activity: Activity,
    /// Its part in the GIL.
    pub gil: Gil,
}

/// What sampling has given and cost since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SamplingStats {
    /// Wall time since the beginning.
    pub elapsed: Duration,
    /// Time between two samples, as it was asked for.
    pub interval: Duration,
    /// Samples that were taken: looks at all threads.
    pub taken: u64,
    /// Of these, the ones that were taken later than a tenth of an interval (and 50 us) after their time.
    pub late: u64,
    /// Samples that could not be taken because the one before took too long, or we were not let run. Their time is given
    /// to the next one.
    pub lost: u64,
    /// How late the latest one was.
    pub most_late: Duration,
    /// Stacks that were read.
    pub stacks: u64,
    /// Stacks that could not be read between two runs of their thread; they are shown as `<torn>`.
    pub torn: u64,
    /// Threads that could not be read at least once for lack of descriptors.
    pub unread: u64,
    /// Time in which at least one thread was active.
    pub active: Duration,
    /// Time in which at least one thread held a GIL.
    pub gil: Duration,
    /// How long threads were stopped, in all (`--blocking` only): an upper bound.
    pub pause: Duration,
    /// How often a thread was stopped (`--blocking` only).
    pub stops: u64,
    /// How often a thread that could run was read without being stopped all the same (`--blocking` only).
    pub unstopped: u64,
    /// Processor time that this process has used.
    pub cpu: Duration,
    /// Whether the sampler goes before usual threads, so that it is let run when its moment comes.
    pub is_prompt: bool,
}

/// Why a recording has come to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SamplingEnd {
    /// The process that was asked for has ended; of a tree, all of it.
    TargetEnded,
    /// It was asked to end.
    Stopped,
    /// It can't go on.
    Failed(String),
}

/// What has come in since the last batch.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Processes that are new or changed; the index of a new one is the next in order.
    pub processes: Vec<(ProcessIndex, SampledProcess)>,
    /// Threads that are new or changed; the index of a new one is the next in order.
    pub threads: Vec<(ThreadIndex, SampledThread)>,
    /// What threads did: for each thread in the order of time.
    pub runs: Vec<Run>,
    /// About how many bytes the stacks take, beside what was known before.
    pub bytes: usize,
    /// What sampling has given and cost so far.
    pub stats: SamplingStats,
    /// What went wrong without ending it, to be told once.
    pub remarks: Vec<String>,
    /// Set in the last batch.
    pub end: Option<SamplingEnd>,
}
