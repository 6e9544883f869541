//! What was read of the Python of one process at one instant; plain data, nothing is read here.

use std::sync::Arc;
use std::time::Duration;

use super::stops::StopAccount;
use crate::model::{
    Address, BlockedHub, CaughtError, Consistency, EventLoop, Frame, Gil, HolderConfidence,
    SchedState, Tid, WaitKind,
};
use crate::python::eval_stack::StackValues;
use crate::python::frame::{Cut, StackRoom};
use crate::python::reachability::StackReferences;
use crate::target::tasks::Syscall;
use crate::wait::FutexCall;

/// One thread as Python sees it.
#[derive(Debug)]
pub struct PythonThread {
    /// The kernel's number for it, in the target's own pid namespace.
    pub innermost_tid: i32,
    /// Its name in `threading`.
    pub name: Option<String>,
    /// Number of the interpreter.
    pub interpreter: i64,
    /// Its part in the GIL.
    pub gil: Gil,
    /// How far the frames can be trusted.
    pub consistency: Consistency,
    /// Innermost first.
    pub frames: Vec<Arc<Frame>>,
    /// What it was like when it was read, if it has run since the kernel's facts were read.
    pub news: Option<News>,
    /// Its `pthread_t`.
    pub thread_id: u64,
    /// The futex that it sleeps on.
    pub futex: Option<Address>,
    /// The call in which it sleeps there, where some thread waits for a lock.
    pub futex_call: Option<FutexCall>,
    /// What its frames hold, where some thread waits for a lock.
    pub values: Option<StackValues>,
    /// What its frames refer to, where it is found out who can reach what.
    pub references: Option<StackReferences>,
    /// What it waits for, if that is a lock or an object made of one.
    pub lock: Option<ResolvedWait>,
    /// The event loop that runs in it.
    pub event_loop: Option<EventLoop>,
    /// The hub of gevent in it, if that is kept from running.
    pub blocked_hub: Option<BlockedHub>,
    /// The exception that it handles.
    pub exception: Option<CaughtError>,
}

/// What a thread that has run since the kernel's facts were read was like when it was read.
#[derive(Clone, Debug)]
pub struct News {
    /// Its state.
    pub state: SchedState,
    /// The call that it is blocked in.
    pub syscall: Option<Syscall>,
}

/// The Python of one process at one instant.
#[derive(Debug, Default)]
pub struct PythonView {
    /// In the order of creation, interpreter by interpreter.
    pub threads: Vec<PythonThread>,
    /// What could not be had.
    pub errors: Vec<String>,
    /// What stopping its threads has cost.
    pub stops: StopAccount,
    /// What the stacks have taken.
    pub taken: StackRoom,
}

impl PythonView {
    /// Notes that a stack has fewer frames than there are.
    pub fn note_cut(&mut self, tid: Tid, cut: Option<Cut>) {
        if let Some(cut) = cut {
            self.errors.push(format!("thread {tid}: {cut}"));
        }
    }

    /// Notes that the variables of some frames were left out.
    pub fn note_left_out(&mut self, tid: Tid, frames: usize) {
        if frames > 0 {
            self.errors.push(format!(
                "thread {tid}: the local variables of {frames} frames are more than is read at once"
            ));
        }
    }
}

/// What a thread waits for, and who could end that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedWait {
    /// What sort of wait it is.
    pub kind: WaitKind,
    /// The type of the object.
    pub type_name: String,
    /// The object.
    pub object: Option<Address>,
    /// A name that it has itself.
    pub name: Option<String>,
    /// When the wait ends by itself, from its beginning.
    pub timeout: Option<Duration>,
    /// The same, from now, where only that is known.
    pub remaining: Option<Duration>,
    /// Who could end it, the surest first.
    pub holders: Vec<LockHolder>,
    /// What could not be found out, and why.
    pub missing: Option<&'static str>,
    /// The number of the thread that a futex names as the owner, in that thread's own pid namespace: of a word that other processes may
    /// share it can be a thread of any of them.
    pub named_owner: Option<i32>,
    /// Which threads can reach the object, where that was found out.
    pub reach: Option<ObjectReach>,
}

/// Which threads can reach an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectReach {
    /// Their numbers in their own pid namespace, without the one that waits.
    pub innermost_tids: Vec<i32>,
    /// Whether all references to it were found, so that nobody else can reach it, now or later.
    pub is_closed: bool,
    /// Whether globals lead to it, so that everybody can.
    pub is_global: bool,
    /// Whether more threads may reach it, since not all could be looked into.
    pub is_cut: bool,
    /// How many references it counts.
    pub counted: Option<u64>,
    /// How many of them were found.
    pub found: u64,
}

/// A thread of the same process that could end a wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockHolder {
    /// Its number in its own pid namespace; `None` for one that is gone.
    pub innermost_tid: Option<i32>,
    /// Its name.
    pub name: Option<String>,
    /// How sure that is.
    pub confidence: HolderConfidence,
}
