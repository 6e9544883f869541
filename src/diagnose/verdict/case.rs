//! One thread to be judged, with all that is known around it.

use std::time::Duration;

use crate::diagnose::observation::{Observed, Seen};
use crate::diagnose::pending::Stall;
use crate::diagnose::verdict::names::thread_name;
use crate::diagnose::wait_graph::Outcome;
use crate::diagnose::wait_graph::assessment::{Assessment, since_of};
use crate::model::{
    Link, ProcessSnapshot, SchedState, Since, ThreadRef, ThreadSnapshot, VerdictClass, find_thread,
};

/// What a verdict is made from, beside the thread.
pub struct Case<'a> {
    /// All processes, so that others can be named.
    pub processes: &'a [ProcessSnapshot],
    /// The process of the thread.
    pub process: &'a ProcessSnapshot,
    /// The thread.
    pub thread: &'a ThreadSnapshot,
    /// How it stands by itself.
    pub assessment: &'a Assessment,
    /// What becomes of it.
    pub outcome: &'a Outcome,
    /// The first waits on its way to the root.
    pub way: &'a [Link],
    /// How long a wait may take.
    pub threshold: Duration,
    /// What was seen while the threads were watched, if they were.
    pub observed: Option<&'a Observed>,
    /// Why its peer owes it an answer, as its frames tell.
    pub owed: Option<&'a str>,
    /// The call in which it waits in slices and makes no progress.
    pub stall: Option<&'a Stall>,
    /// Whether it is what others of its process are stuck on.
    pub holds_up: bool,
}

impl Case<'_> {
    /// The thread.
    pub fn key(&self) -> ThreadRef {
        ThreadRef {
            pid: self.process.pid,
            tid: self.thread.tid,
        }
    }

    /// What was seen of it while it was watched.
    pub fn seen(&self) -> Option<&Seen> {
        self.observed?.thread(self.key())
    }
}

/// Since when a thread with a verdict of this class is as it is: by its wait, or by what was seen while it was watched.
pub fn stuck_since(
    key: ThreadRef,
    thread: &ThreadSnapshot,
    class: VerdictClass,
    observed: Option<&Observed>,
) -> Option<Since> {
    let seen = observed.and_then(|observed| observed.thread(key));
    let is_running = thread.state == SchedState::Running;
    match (class, seen) {
        (VerdictClass::Spin, Some(seen)) => Some(seen.watched_since()),
        (VerdictClass::GilHeld, Some(seen)) if is_running || seen.is_starved => {
            Some(seen.watched_since())
        }
        (VerdictClass::HangNetwork | VerdictClass::HangDns, Some(seen)) => {
            seen.unanswered.or(since_of(thread))
        }
        _ => since_of(thread),
    }
}

/// A thread by its name, and its process where that is another.
pub fn name_of(case: &Case<'_>, key: ThreadRef) -> String {
    let thread = find_thread(case.processes, key);
    let name = thread.map_or_else(|| format!("thread {}", key.tid), thread_name);
    if key.pid == case.process.pid {
        name
    } else {
        format!("{name} of process {}", key.pid)
    }
}
