//! What is known of a process and a thread before it is said what that waits for, and how whoever could end a wait is named.

use std::cell::OnceCell;

use rustc_hash::FxHashMap;

use super::arguments::PointedArguments;
use super::describe::Described;
use crate::model::{Holder, HolderConfidence, Pid, SchedState, Since, Tid, Wait};
use crate::sys::procfile::ProcDir;
use crate::target::sockets::Sockets;
use crate::target::status::Stat;
use crate::target::tasks::Syscall;

/// What is known of a process beside its threads.
#[derive(Debug)]
pub struct WaitContext<'a> {
    /// Its sockets.
    pub sockets: &'a Sockets<'a>,
    /// What the calls of its threads point to, with the call that each was read for.
    pub pointed: FxHashMap<Tid, (Syscall, PointedArguments)>,
    /// Who traces it.
    pub tracer: Option<Pid>,
    /// Its cgroup, if that is frozen.
    pub frozen: Option<String>,
    /// Its children, looked for when a thread waits for one.
    pub children: OnceCell<Vec<Child>>,
}

impl<'a> WaitContext<'a> {
    /// A process of which nothing but its descriptors is known.
    pub fn new(sockets: &'a Sockets<'a>) -> Self {
        WaitContext {
            sockets,
            pointed: FxHashMap::default(),
            tracer: None,
            frozen: None,
            children: OnceCell::new(),
        }
    }

    /// Its directory below `/proc`.
    pub fn proc(&self) -> &ProcDir {
        self.sockets.target().proc()
    }
}

/// What the kernel says of one thread.
#[derive(Clone, Copy, Debug)]
pub struct ThreadView<'a> {
    /// The thread.
    pub tid: Tid,
    /// Its state.
    pub state: SchedState,
    /// The call that it is blocked in; `None` where the kernel did not say.
    pub syscall: Option<&'a Syscall>,
    /// How long it has not run.
    pub since: Option<Since>,
}

/// A child, as it is now.
#[derive(Clone, Debug)]
pub struct Child {
    /// Its pid.
    pub pid: Pid,
    /// Its `stat`.
    pub stat: Stat,
    /// Its number in its own pid namespace.
    pub innermost: Option<i32>,
}

/// The thread of a process that has but one.
pub(super) fn only_thread(pid: Pid) -> Option<Tid> {
    let tasks = ProcDir::open(pid).and_then(|proc| proc.tasks()).ok()?;
    match tasks[..] {
        [tid] => Some(tid),
        _ => None,
    }
}

/// A process as the one who could end a wait, and its thread, if it has but one; its title is found later.
pub(super) fn process_holder(pid: Pid, confidence: HolderConfidence) -> Holder {
    Holder {
        pid,
        tid: only_thread(pid),
        thread: None,
        title: None,
        confidence,
        is_gone: false,
    }
}

/// Makes a descriptor what is waited on.
pub(super) fn take(described: Described, wait: &mut Wait) {
    wait.missing.extend(described.missing);
    wait.holder = described
        .peer_pid
        .map(|pid| process_holder(pid, HolderConfidence::Possible));
    wait.resource = Some(described.resource);
}
