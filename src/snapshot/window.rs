//! Reading a thread with proof that it did not run meanwhile, in general without stopping it.

use std::time::Duration;

use super::stops::{Stopping, Stops};
use crate::model::{Address, SchedState, Tid};
use crate::sys::affinity::{Perch, Seat};
use crate::sys::ptrace::StoppedThread;
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
    /// What it was like when the kernel's facts were read, if it was blocked then and off its processor.
    pub asleep: Option<RunStamp>,
    /// What it was like then, if it slept, whether or not it had left its processor.
    pub still: Option<RunStamp>,
    /// The futex that it sleeps on.
    pub futex: Option<Address>,
    /// For how long it has not run, where that is known.
    pub slept: Option<Duration>,
}

/// The time during which one thread is read. When it closes, the kernel's own records tell whether the thread can have
/// run in it.
///
/// A thread that was off its processor when the window was opened, and was given none since, has not run. One that could
/// run is kept from it without a stop: the reader moves to the thread's processor and sleeps a moment; when it wakes, it
/// takes the processor over. While it runs there the thread does not, unless it is moved to another processor, and then
/// it is counted as given one (`kernel/sched/stats.h::sched_info_arrive`; where that is not counted, each leaving of a
/// processor is: `kernel/sched/core.c::__schedule`; Linux 6.18).
///
/// Where stops are asked for, one that could run is stopped instead. One that sleeps is not: that would prove nothing more, and
/// would break off its system call.
pub struct Window<'a> {
    before: RunStamp,
    /// The processor that we share with a thread that could run.
    shared: Option<usize>,
    stopped: Option<(StoppedThread<'a>, &'a mut Stops)>,
}

impl<'a> Window<'a> {
    /// Opens it; `None` when the thread has ended. The reader is moved to the thread's processor if need be, and left
    /// there.
    pub fn open(
        kernel: &KernelThread<'_>,
        perch: &mut Perch,
        stopping: Option<Stopping<'a>>,
        attempt: usize,
    ) -> Option<Window<'a>> {
        let standing = |before| Window {
            before,
            shared: None,
            stopped: None,
        };
        // One that slept when the kernel's facts were read most likely still does.
        if let Some(asleep) = kernel.asleep.filter(|_| attempt == 0) {
            return Some(standing(asleep));
        }
        let before = kernel.files.stamp_before().ok()?;
        if !before.state.is_runnable() {
            return Some(standing(before));
        }
        if let Some(Stopping { tracer, stops }) = stopping
            && let Some(stopped) = stops.stop(tracer, kernel.tid)
        {
            return Some(Window {
                stopped: Some((stopped, stops)),
                ..standing(before)
            });
        }
        let Some(processor) = before.processor() else {
            return Some(standing(before));
        };
        let seat = perch.move_to(processor);
        if seat == Seat::Kept && attempt == 0 {
            return Some(Window {
                shared: perch.processor(),
                ..standing(before)
            });
        }
        if attempt > 0 || !perch.goes_first() {
            // Later attempts wait longer: whatever keeps the two apart may take a moment to settle.
            std::thread::sleep(NAP * u32::try_from(1 + attempt / 8).unwrap_or(1));
        }
        let shared = perch.processor().filter(|_| seat != Seat::Refused);
        Some(Window {
            shared,
            ..standing(kernel.files.stamp_before().ok()?)
        })
    }

    /// Whether the thread was stopped for it.
    pub fn is_stopped(&self) -> bool {
        self.stopped.is_some()
    }

    /// What the thread was like when it was opened, before a stop.
    pub fn stamp(&self) -> RunStamp {
        self.before
    }

    /// Its state, if it has run since the kernel's facts were read: those are of another moment.
    pub fn new_state(&self, kernel: &KernelThread<'_>) -> Option<SchedState> {
        (kernel.still != Some(self.before)).then_some(self.before.state)
    }

    /// Whether it has been open since the kernel's facts were read: then all that was read of memory since, for whichever
    /// thread, was read while it was open.
    pub fn is_open_since_facts(&self, kernel: &KernelThread<'_>) -> bool {
        self.stopped.is_none() && kernel.asleep == Some(self.before)
    }

    /// Closes it and tells what it proves.
    pub fn close(self, kernel: &KernelThread<'_>, perch: &Perch) -> Proof {
        let could_run = self.before.state.is_runnable();
        if let Some((stopped, stops)) = self.stopped {
            return Proof {
                is_exact: stops.release(kernel.tid, stopped),
                could_run,
            };
        }
        let Ok(after) = kernel.files.stamp_after(self.before) else {
            return Proof::default();
        };
        let is_same = after == self.before && self.before.runs.is_some();
        let is_ours = || {
            let processor = self.before.processor();
            processor.is_some() && processor == self.shared && processor == perch.processor()
        };
        Proof {
            is_exact: is_same && (!could_run || is_ours()),
            could_run,
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
}
