//! Reading a thread with proof that it did not run meanwhile, in general without stopping it.

use std::time::Duration;

use crate::model::{Address, SchedState, Tid};
use crate::sys::affinity::Pinned;
use crate::sys::ptrace::{StopError, StoppedThread};
use crate::target::tasks::{RunStamp, TaskFiles};

/// How long the reading thread sleeps on the target's processor before it reads: waking up is what puts it ahead of the
/// target there.
const NAP: Duration = Duration::from_micros(60);

/// A kernel thread that a stack may belong to.
pub struct KernelThread<'a> {
    /// Its number in our pid namespace.
    pub tid: Tid,
    /// Its files, open.
    pub files: &'a TaskFiles,
    /// What it was like when the kernel's facts were read.
    pub known: RunStamp,
    /// The futex that it sleeps on.
    pub futex: Option<Address>,
}

/// The time during which one thread is read. When it closes, the kernel's own records tell whether the thread can have
/// run in it.
///
/// A sleeping thread that has the same count of context switches before and after has not run. A thread that could run
/// is kept from it without a stop: the reader moves to the thread's processor and sleeps a moment; when it wakes, it
/// takes the processor over. As long as it is there and the thread still belongs to that processor, with the same
/// count of switches, the thread did not run - if it had been moved elsewhere and had run, the count or the processor
/// would have changed (`kernel/sched/core.c::__schedule` counts each leaving of a processor, Linux 6.18).
pub struct Window {
    before: RunStamp,
    pinned: Option<Pinned>,
    stopped: Option<StoppedThread>,
    /// Why the thread was not stopped though that was asked for.
    pub refusal: Option<StopError>,
}

impl Window {
    /// Opens it; `None` when the thread has ended.
    pub fn open(kernel: &KernelThread<'_>, is_blocking: bool, attempt: usize) -> Option<Window> {
        let (stopped, refusal) = match is_blocking.then(|| StoppedThread::stop(kernel.tid)) {
            None => (None, None),
            Some(Ok(stopped)) => (Some(stopped), None),
            Some(Err(error)) => (None, Some(error)),
        };
        let standing = |before| Window {
            before,
            pinned: None,
            stopped: None,
            refusal,
        };
        if let Some(stopped) = stopped {
            return Some(Window {
                stopped: Some(stopped),
                ..standing(kernel.files.stamp_before().ok()?)
            });
        }
        // One that slept when the kernel's facts were read most likely still does.
        let before = if attempt == 0 && !kernel.known.state.is_runnable() {
            kernel.known
        } else {
            kernel.files.stamp_before().ok()?
        };
        if !before.state.is_runnable() {
            return Some(standing(before));
        }
        let processor = before
            .processor
            .and_then(|processor| usize::try_from(processor).ok());
        let pinned = processor.and_then(Pinned::to);
        // Later attempts wait longer: whatever keeps the two apart may take a moment to settle.
        std::thread::sleep(NAP * u32::try_from(1 + attempt / 8).unwrap_or(1));
        Some(Window {
            pinned,
            ..standing(kernel.files.stamp_before().ok()?)
        })
    }

    /// Its state, if it has run since the kernel's facts were read: those are of another moment.
    pub fn new_state(&self, kernel: &KernelThread<'_>) -> Option<SchedState> {
        (self.stopped.is_none() && self.before != kernel.known).then_some(self.before.state)
    }

    /// Whether it has been open since the kernel's facts were read: then all that was read of memory since, for whichever
    /// thread, was read while it was open.
    pub fn is_open_since_facts(&self, kernel: &KernelThread<'_>) -> bool {
        self.stopped.is_none() && self.before == kernel.known && !self.before.state.is_runnable()
    }

    /// Closes it and tells what it proves.
    pub fn close(self, kernel: &KernelThread<'_>) -> Proof {
        if let Some(stopped) = self.stopped {
            return Proof {
                is_exact: true,
                could_run: self.before.state.is_runnable(),
                pause: stopped.pause(),
            };
        }
        let Ok(after) = kernel.files.stamp_after() else {
            return Proof::default();
        };
        let is_same = after == self.before && self.before.switches.is_some();
        let is_ours = || {
            let processor = self
                .before
                .processor
                .and_then(|processor| usize::try_from(processor).ok());
            processor.is_some() && processor == self.pinned.as_ref().map(Pinned::processor)
        };
        let could_run = self.before.state.is_runnable();
        Proof {
            is_exact: is_same && (!could_run || is_ours()),
            could_run,
            pause: Duration::ZERO,
        }
    }
}

/// What a window proves of what was read while it was open.
#[derive(Clone, Copy, Debug, Default)]
pub struct Proof {
    /// The thread did not run.
    pub is_exact: bool,
    /// It did not sleep: it was only kept from running, or stopped.
    pub could_run: bool,
    /// How long it was stopped.
    pub pause: Duration,
}
