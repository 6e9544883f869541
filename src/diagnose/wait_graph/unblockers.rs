//! Who could end a wait, from the facts about it alone: named holders, any thread of the process, a handler of signals; and
//! whether it is known that nobody can.

use crate::model::{
    Gil, HolderConfidence, Pid, ProcessSnapshot, Resource, ThreadRef, ThreadSnapshot, Tid, Wait,
    WaitKind,
};

/// Who could end the wait of one thread.
#[derive(Clone, Debug)]
pub struct Unblockers {
    /// What sort of wait it is.
    pub kind: WaitKind,
    /// All of them.
    pub targets: Vec<Target>,
    /// Whether the facts leave nobody.
    pub is_hopeless: bool,
    /// Whether a peer is waited for, of which not more is known than its process.
    pub is_network: bool,
    /// Whether somebody who waits for work himself may end it all the same: he will write when there is something to write.
    pub idle_helps: bool,
    /// Whether a process that was not looked into may be taken to go on.
    pub stranger_helps: bool,
}

/// Somebody who could end a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Who it is.
    pub who: Who,
    /// How sure it is that it is this one.
    pub confidence: HolderConfidence,
    /// Whether it is known to be the one, so that its own idleness does not help.
    pub is_named: bool,
}

/// Who could end a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// This thread.
    Thread(ThreadRef),
    /// Any thread of a process.
    Process(Pid),
    /// Any other thread of the same process.
    Others(Pid),
    /// A process that can't be seen from here, as whoever feeds the standard input of a container.
    Unseen,
    /// A handler of signals, which Python runs in the main thread whatever that waits for.
    Signal,
}

/// Who could end the wait of `thread`, in a process where `long_gil_holder` keeps the GIL.
pub fn unblockers_of(
    process: &ProcessSnapshot,
    thread: &ThreadSnapshot,
    long_gil_holder: Option<Tid>,
) -> Unblockers {
    let own = |tid| {
        Who::Thread(ThreadRef {
            pid: process.pid,
            tid,
        })
    };
    if let Some(holder) = long_gil_holder.filter(|holder| is_starved_by(thread, *holder)) {
        let holder = Target {
            who: own(holder),
            confidence: HolderConfidence::Proven,
            is_named: true,
        };
        return Unblockers::new(WaitKind::Gil, None, vec![holder], false);
    }
    let Some(wait) = &thread.wait else {
        return Unblockers::new(WaitKind::Unknown, None, Vec::new(), false);
    };
    let resource = wait.resource.as_ref();
    let (mut targets, mut is_hopeless) = targets_of(process, thread.tid, wait);
    if long_gil_holder == Some(thread.tid) {
        // That somebody else goes on and may end its wait is no excuse for keeping the GIL meanwhile. But what a thread of its
        // own process holds is never given back without the GIL.
        let is_own = |who| matches!(who, Who::Thread(key) if key.pid == process.pid);
        targets.retain(|target| target.is_named && is_own(target.who));
        is_hopeless = false;
    } else if process.handles_signals
        && (thread.tid == process.pid.main_thread() && handlers_end(wait, is_hopeless)
            || is_own_pipe(process.pid, wait))
    {
        targets.push(Target {
            who: Who::Signal,
            confidence: HolderConfidence::Possible,
            is_named: false,
        });
        is_hopeless = false;
    }
    Unblockers::new(wait.kind, resource, targets, is_hopeless)
}

/// Whether the thread waits for the GIL that `keeper` holds: each interpreter can have one of its own (3.12+).
pub fn is_starved_by(thread: &ThreadSnapshot, keeper: Tid) -> bool {
    let holder = thread.wait.as_ref().and_then(|wait| wait.holder.as_ref());
    let holds = holder.and_then(|holder| holder.tid).unwrap_or(keeper);
    thread.gil == Gil::Waiting && thread.tid != keeper && holds == keeper
}

impl Unblockers {
    fn new(
        kind: WaitKind,
        resource: Option<&Resource>,
        targets: Vec<Target>,
        is_hopeless: bool,
    ) -> Unblockers {
        let is_pair = resource.is_some_and(is_socket_pair);
        let is_join = resource.is_some_and(|resource| resource.kind == "threading.Thread");
        let is_network = matches!(
            kind,
            WaitKind::SocketRecv | WaitKind::SocketSend | WaitKind::SocketConnect | WaitKind::Poll
        ) && !is_pair;
        let reads = kind == WaitKind::PipeRead || (kind == WaitKind::SocketRecv && is_pair);
        Unblockers {
            kind,
            targets,
            is_hopeless,
            is_network,
            idle_helps: reads || is_join || kind == WaitKind::Child,
            stranger_helps: reads
                || matches!(
                    kind,
                    WaitKind::PipeWrite | WaitKind::Child | WaitKind::SharedSemaphore
                ),
        }
    }
}

/// A pair of unix sockets without names is a pipe with two directions: whoever made it has given the other end away.
fn is_socket_pair(resource: &Resource) -> bool {
    resource.kind == "unix" && resource.local.is_none() && resource.peer.is_none()
}

fn targets_of(process: &ProcessSnapshot, tid: Tid, wait: &Wait) -> (Vec<Target>, bool) {
    let resource = wait.resource.as_ref();
    // A fifo has a name: whoever knows it can open it at any time.
    let is_fifo = resource.is_some_and(|resource| resource.kind == "fifo");
    let is_alone = resource.and_then(|resource| resource.is_alone) == Some(true);
    let holders: Vec<_> = wait.holder.iter().chain(&wait.other_holders).collect();
    let is_gone = !holders.is_empty()
        && holders
            .iter()
            .all(|holder| holder.is_gone && holder.confidence > HolderConfidence::Possible);
    let mut targets: Vec<Target> = holders
        .iter()
        .filter(|holder| !holder.is_gone)
        .map(|holder| Target {
            who: match holder.tid {
                Some(tid) => Who::Thread(ThreadRef {
                    pid: holder.pid,
                    tid,
                }),
                None => Who::Process(holder.pid),
            },
            confidence: holder.confidence,
            is_named: true,
        })
        .collect();
    if is_alone || is_gone {
        return (targets, !is_fifo);
    }
    let is_pipe = resource.is_some_and(|resource| {
        resource.ends.is_empty() && (resource.kind == "pipe" || is_socket_pair(resource))
    });
    let moves = matches!(
        wait.kind,
        WaitKind::PipeRead | WaitKind::PipeWrite | WaitKind::SocketRecv | WaitKind::SocketSend
    );
    if is_pipe && moves && targets.is_empty() {
        // Without another end it would not wait (pipe(7)).
        targets.push(Target {
            who: Who::Unseen,
            confidence: HolderConfidence::Possible,
            is_named: false,
        });
    }
    let is_only_possible = targets
        .iter()
        .all(|target| target.confidence == HolderConfidence::Possible);
    if within_process(wait.kind) && is_only_possible {
        // Any thread of the process could release it, and nobody else.
        targets.push(Target {
            who: Who::Others(process.pid),
            confidence: HolderConfidence::Possible,
            is_named: false,
        });
        let has_others =
            process.threads.iter().any(|thread| thread.tid != tid) || process.unread_threads > 0;
        let is_hopeless = !has_others && wait.timeout.is_none() && is_lock(wait.kind);
        return (targets, is_hopeless);
    }
    (targets, false)
}

/// Whether a handler of signals could end the wait: what is only notified can be notified by one, and so can a pipe or pair whose
/// other end is one's own. A handler that runs inside of a lock's `acquire` can't very well release that.
fn handlers_end(wait: &Wait, is_hopeless: bool) -> bool {
    match wait.kind {
        WaitKind::Condition | WaitKind::Semaphore => true,
        WaitKind::PipeRead | WaitKind::SocketRecv => is_hopeless,
        _ => false,
    }
}

/// Whether it reads from a pipe or pair whose other end only its own process has: what handlers of signals, whichever thread runs them,
/// wake up a thread by.
fn is_own_pipe(pid: Pid, wait: &Wait) -> bool {
    let reads = matches!(wait.kind, WaitKind::PipeRead | WaitKind::SocketRecv);
    let is_alone = wait
        .resource
        .as_ref()
        .and_then(|resource| resource.is_alone);
    reads
        && is_alone.is_some()
        && wait
            .holder
            .iter()
            .chain(&wait.other_holders)
            .all(|holder| holder.pid == pid)
}

/// Whether it is something that somebody holds, and not merely something that happens.
fn is_lock(kind: WaitKind) -> bool {
    matches!(
        kind,
        WaitKind::PythonLock
            | WaitKind::PythonRlock
            | WaitKind::ImportLock
            | WaitKind::PthreadMutex
            | WaitKind::Futex
    )
}

/// Whether only threads of its own process can end such a wait.
pub fn within_process(kind: WaitKind) -> bool {
    is_lock(kind)
        || matches!(
            kind,
            WaitKind::Condition | WaitKind::Semaphore | WaitKind::Gil
        )
}
