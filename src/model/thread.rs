//! One thread at one instant.

use std::sync::Arc;

use serde::Serialize;

use super::event_loop::{BlockedHub, EventLoop};
use super::frame::Frame;
use super::ids::Tid;
use super::pending::CaughtError;
use super::progress::{ThreadCounts, ThreadProgress};
use super::sched_state::SchedState;
use super::verdict::Verdict;
use super::wait::{Since, Wait};

/// A thread's part in the global interpreter lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Gil {
    /// It neither holds it nor is known to wait for it.
    #[default]
    None,
    /// It holds it.
    Held,
    /// It waits for it.
    Waiting,
}

/// How far the frames of a thread can be trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// The kernel's records show that the thread did not run while it was read.
    #[default]
    Exact,
    /// It could run meanwhile; two readings in a row were the same.
    Repeated,
    /// It ran meanwhile, and no two readings agreed: there are no frames.
    Torn,
}

/// One thread at one instant.
#[derive(Clone, Debug, Serialize)]
pub struct ThreadSnapshot {
    /// The kernel's number for it, in our pid namespace.
    pub tid: Tid,
    /// The name that Python's `threading` has for it.
    pub name: Option<String>,
    /// The kernel's name for it.
    pub comm: String,
    /// The scheduler's state.
    pub state: SchedState,
    /// How long it has not run, for a thread that sleeps.
    #[serde(skip)]
    pub off_cpu: Option<Since>,
    /// What the kernel had counted of it.
    #[serde(skip)]
    pub counts: Option<ThreadCounts>,
    /// Its part in the GIL.
    pub gil: Gil,
    /// The interpreter that `frames` belong to: 0 is the main one; `None` for a thread without Python.
    pub interpreter: Option<i64>,
    /// How far the frames can be trusted.
    pub consistency: Consistency,
    /// Its stack, innermost first.
    pub frames: Vec<Arc<Frame>>,
    /// The event loop that runs in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_loop: Option<EventLoop>,
    /// The hub of gevent in it, if that is kept from running by what the thread does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocked_hub: Option<BlockedHub>,
    /// The exception that it is handling: it is inside an `except` or `finally` block.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exception: Option<CaughtError>,
    /// What it waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait: Option<Wait>,
    /// What it did while it was watched; filled by `diagnose`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<ThreadProgress>,
    /// What is to be thought of it; filled by `diagnose`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
}

impl ThreadSnapshot {
    /// The best name there is: Python's, else the kernel's.
    pub fn best_name(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.comm)
    }
}
