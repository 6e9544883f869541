//! The event loop that runs in a thread, and its tasks; the hub of gevent, which is one too.

use std::sync::Arc;

use serde::Serialize;

use super::address::Address;
use super::frame::Frame;

/// An event loop of `asyncio` that runs in a thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EventLoop {
    /// Its class, with its module where that is known.
    #[serde(rename = "type")]
    pub type_name: String,
    /// The task that the thread is in; none between tasks, as while it waits for events.
    pub running: Option<Task>,
    /// How many of its tasks are not done, the running one among them.
    pub total: u64,
    /// Whether there are at least that many: not all of them were looked at.
    #[serde(
        rename = "total_is_minimum",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub is_total_minimum: bool,
    /// The others, in the order of their names; of very many, the first that were found.
    pub tasks: Vec<Task>,
    /// What could not be had, and why.
    pub missing: Vec<String>,
}

/// The hub of gevent in a thread that is kept from running: another greenlet has the thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct BlockedHub {
    /// How many other greenlets of the thread have begun and are not done; `None` where that can't be told.
    pub greenlets: Option<u64>,
}

/// What a task is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// The thread is in it.
    Running,
    /// It waits for a future, which may be another task.
    Waiting,
    /// Nothing keeps it from going on but that it is not its turn yet.
    Ready,
    /// The same, and it has not begun.
    Created,
}

/// One task that is not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Task {
    /// The address of its object.
    pub id: Address,
    /// Its name.
    pub name: String,
    /// What it is about to do.
    pub state: TaskState,
    /// The function of its outermost coroutine, or the type of what it runs instead.
    pub coroutine: Option<Arc<str>>,
    /// Where its coroutines stand, innermost first; of the running task, whose calls are on the thread's stack, none.
    pub frames: Vec<Arc<Frame>>,
    /// What the innermost of them waits for.
    pub awaits: Option<Awaited>,
    /// The tasks that wait for it.
    pub awaited_by: Vec<Address>,
}

/// What a task waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Awaited {
    /// The address of the object.
    pub id: Address,
    /// Its type, with its module where that is known.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Its name, if it is a task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
}

impl EventLoop {
    /// `at least ` where there may be more tasks than were counted.
    pub fn at_least(&self) -> &'static str {
        if self.is_total_minimum {
            "at least "
        } else {
            ""
        }
    }

    /// How many of its tasks are not done and do not run.
    pub fn others(&self) -> u64 {
        self.total.saturating_sub(u64::from(self.running.is_some()))
    }
}
