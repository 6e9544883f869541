//! Who could end a wait, from the facts about it alone: named holders, any thread of the process, a handler of signals; and
//! how sure it is that nobody can.

use crate::diagnose::call_role::{calls_inside, inner_calls};
use crate::diagnose::wait_graph::peers::silent_for;
use crate::model::{
    Confidence, Gil, HolderConfidence, Member, Pid, ProcessSnapshot, Resource, ThreadRef,
    ThreadSnapshot, Tid, Wait, WaitKind,
};
use crate::wait::polls_pipes;

/// Who could end the wait of one thread.
#[derive(Clone, Debug)]
pub struct Unblockers {
    /// What sort of wait it is.
    pub kind: WaitKind,
    /// All of them.
    pub targets: Vec<Target>,
    /// How sure it is that the facts leave nobody; `None` where they leave somebody.
    pub hopeless: Option<Confidence>,
    /// Whether it may be broken off: by a handler at a time that is set (Python runs handlers in the main thread, and they can raise), or by the call
    /// itself, which waits in slices.
    pub can_time_out: bool,
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
    /// How it is known.
    pub basis: Basis,
}

impl Target {
    /// Whether it is known to be the one, so that its own idleness does not help.
    pub fn is_named(self) -> bool {
        self.basis == Basis::Named
    }
}

/// How it is known who could end a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// The object, the kernel or a stack names it.
    Named,
    /// It is one of the few who can reach the object.
    Reaches,
    /// Nothing speaks against it.
    Any,
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
            basis: Basis::Named,
        };
        return Unblockers::new(WaitKind::Gil, None, vec![holder], None);
    }
    let Some(wait) = &thread.wait else {
        return Unblockers::new(WaitKind::Unknown, None, Vec::new(), None);
    };
    let resource = wait.resource.as_ref();
    let (mut targets, mut hopeless) = targets_of(process, thread, wait);
    let is_main = thread.tid == process.pid.main_thread();
    if long_gil_holder == Some(thread.tid) {
        // That somebody else goes on and may end its wait is no excuse for keeping the GIL meanwhile. But what a thread of its
        // own process holds is never given back without the GIL.
        let is_own = |who| matches!(who, Who::Thread(key) if key.pid == process.pid);
        targets.retain(|target| target.is_named() && is_own(target.who));
        hopeless = None;
    } else if process.handles_signals
        && !is_reach_closed(wait)
        && (is_main && handlers_end(wait, hopeless.is_some()) || is_own_pipe(process.pid, wait))
    {
        targets.push(Target {
            who: Who::Signal,
            confidence: HolderConfidence::Possible,
            basis: Basis::Any,
        });
        hopeless = None;
    }
    // Whoever tries again and again may give up.
    let is_retried = wait.slices.is_some();
    let can_time_out = process.handles_alarms && is_main || is_retried;
    // A handler that can't reach the object may still raise an exception.
    let can_raise = process.handles_signals && is_main && is_reach_closed(wait);
    if can_time_out
        || can_raise
        || process.handles_signals && handlers_may_release(wait.kind, is_main)
    {
        hopeless = hopeless.min(Some(Confidence::Likely));
    }
    Unblockers {
        can_time_out,
        ..Unblockers::new(wait.kind, resource, targets, hopeless)
    }
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
        hopeless: Option<Confidence>,
    ) -> Unblockers {
        let is_pair = resource.is_some_and(is_socket_pair);
        let is_join = resource.is_some_and(|resource| resource.kind == "threading.Thread");
        let are_pipes = kind == WaitKind::Poll && resource.is_some_and(polls_pipes);
        let is_network = matches!(
            kind,
            WaitKind::SocketRecv | WaitKind::SocketSend | WaitKind::SocketConnect | WaitKind::Poll
        ) && !is_pair
            && !are_pipes;
        let reads =
            kind == WaitKind::PipeRead || (kind == WaitKind::SocketRecv && is_pair) || are_pipes;
        // Whoever maps it may hold it, and was not looked into.
        let is_elsewhere = resource.is_some_and(|resource| resource.is_shared == Some(true));
        Unblockers {
            kind,
            targets,
            hopeless,
            can_time_out: false,
            is_network,
            idle_helps: reads || is_join || kind == WaitKind::Child,
            stranger_helps: reads
                || is_elsewhere
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

/// Who could end the wait, and how sure it is that nobody can.
///
/// That nobody can is `proven` only in these cases, each by all of its premises:
/// - A pipe or socket pair whose other end nobody has but its own process, where no thread is but the one that waits
///   (`wait::endpoint` says so, after it has looked at all processes, at descriptors on their way through unix sockets, and whether the
///   thread has waited all the while). What of that could not be seen stands in `missing`, and it is `likely`.
/// - A lock whose holders the lock itself names, and that are not there any more; where it is a futex, in private memory.
/// - A lock in private memory, without a timeout, of a process that has no other thread and none that could not be read: a thread can't
///   begin while the only one waits.
/// - An object of Python all references to which are the waiting thread's own (`python::reachability` has counted them), in a call that its program
///   expects to return (`by_reach`).
///
/// A file lock, or a semaphore that processes share, is never among them: who holds it may be out of sight.
fn targets_of(
    process: &ProcessSnapshot,
    thread: &ThreadSnapshot,
    wait: &Wait,
) -> (Vec<Target>, Option<Confidence>) {
    let resource = wait.resource.as_ref();
    // A fifo has a name: whoever knows it can open it at any time.
    let is_fifo = resource.is_some_and(|resource| resource.kind == "fifo");
    let is_alone = resource.and_then(|resource| resource.is_alone) == Some(true);
    let is_shared = may_be_shared(wait);
    let holders: Vec<_> = wait.holder.iter().chain(&wait.other_holders).collect();
    let is_gone = !holders.is_empty()
        && within_process(wait.kind)
        && !is_shared
        && holders
            .iter()
            .all(|holder| holder.is_gone && holder.confidence == HolderConfidence::Proven);
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
            basis: Basis::Named,
        })
        .collect();
    if is_alone || is_gone {
        let confidence = match is_gone || wait.missing.is_empty() {
            true => Confidence::Proven,
            false => Confidence::Likely,
        };
        return (targets, (!is_fifo).then_some(confidence));
    }
    let is_pipe = resource.is_some_and(|resource| {
        resource.ends.is_empty() && (resource.kind == "pipe" || is_socket_pair(resource))
    });
    let moves = matches!(
        wait.kind,
        WaitKind::PipeRead | WaitKind::PipeWrite | WaitKind::SocketRecv | WaitKind::SocketSend
    );
    let is_unseen_member =
        |member: &Member| member.resource.kind == "pipe" && member.resource.ends.is_empty();
    let polls_unseen = wait.kind == WaitKind::Poll
        && resource.is_some_and(|resource| {
            polls_pipes(resource) && resource.members.iter().any(is_unseen_member)
        });
    if is_pipe && moves && targets.is_empty() || polls_unseen {
        // Without another end it would not wait (pipe(7)).
        targets.push(Target {
            who: Who::Unseen,
            confidence: HolderConfidence::Possible,
            basis: Basis::Any,
        });
    }
    let is_only_possible = targets
        .iter()
        .all(|target| target.confidence == HolderConfidence::Possible);
    if within_process(wait.kind) && is_only_possible {
        let mut least = None;
        match by_reach(process, thread, wait) {
            Some(Reaching::Only(reaching)) if reaching.is_empty() => {
                return (Vec::new(), Some(lost_confidence(wait)));
            }
            Some(Reaching::Only(reaching)) => return (reaching, None),
            Some(Reaching::Nobody) => least = Some(Confidence::Possible),
            None => {}
        }
        // Any thread of the process could release it, and nobody else.
        targets.push(Target {
            who: Who::Others(process.pid),
            confidence: HolderConfidence::Possible,
            basis: Basis::Any,
        });
        let has_others = process.threads.iter().any(|other| other.tid != thread.tid)
            || process.unread_threads > 0;
        let is_hopeless = !has_others && !is_shared && wait.timeout.is_none() && is_lock(wait.kind);
        return (targets, is_hopeless.then_some(Confidence::Proven).or(least));
    }
    (targets, None)
}

/// Who can reach the object of a wait.
enum Reaching {
    /// These threads, and nobody else.
    Only(Vec<Target>),
    /// Nobody, as in a wait that is to last for ever.
    Nobody,
}

/// Who can end the wait as far as it is known who can reach its object; `None` where everybody may.
///
/// An object that only its waiter has is what a program waits for that does all its work in other threads, and wants to be there for ever. So what the main thread
/// waits for in an event, condition or lock is believed to be lost only as far as `possible`, and while others do something, not at all; and so is what a thread waits for
/// that does nothing else, as a worker does whose pool was dropped. A future or a queue is not waited for in order to wait.
///
/// Where references are not counted, those who do not reach it from their frames may have it elsewhere: then a miss is `possible`.
fn by_reach(process: &ProcessSnapshot, thread: &ThreadSnapshot, wait: &Wait) -> Option<Reaching> {
    let reach = wait.reach.as_ref().filter(|_| wait.timeout.is_none())?;
    let is_uncounted = reach.references.is_none() && !reach.is_global && !reach.is_cut;
    if !reach.is_closed && !is_uncounted {
        // There may be others, so that it is possible at most that these are all, and only of a call that has to return, whose answer comes from
        // peers that they listen to.
        let listens = |tid: &Tid| {
            let mut others = process.threads.iter();
            let other = others.find(|other| other.tid == *tid);
            let wait = other.and_then(|other| other.wait.as_ref());
            wait.is_some_and(|wait| silent_for(wait, process.pid).is_some())
        };
        let may_be_all = !reach.is_global
            && !inner_calls(&thread.frames).is_empty()
            && reach.threads.iter().all(listens);
        let reaching = reach.threads.iter().filter(|_| may_be_all);
        let targets: Vec<Target> = reaching
            .map(|tid| reaching_target(process.pid, *tid, HolderConfidence::Possible))
            .collect();
        return (!targets.is_empty()).then_some(Reaching::Only(targets));
    }
    let is_main = thread.tid == process.pid.main_thread();
    let kind = wait
        .resource
        .as_ref()
        .map_or("", |resource| &*resource.kind);
    let is_bare = kind.starts_with("threading.");
    let is_outermost = calls_inside(&thread.frames) == 0;
    let is_unreached = reach.threads.is_empty();
    let may_be_meant = is_outermost || is_unreached && is_main && is_bare;
    if may_be_meant {
        return (is_unreached && reach.is_closed).then_some(Reaching::Nobody);
    }
    let confidence = match reach.threads.as_slice() {
        [_] if reach.is_closed => HolderConfidence::Inferred,
        _ => HolderConfidence::Possible,
    };
    let target = |tid: &Tid| reaching_target(process.pid, *tid, confidence);
    Some(Reaching::Only(reach.threads.iter().map(target).collect()))
}

/// A thread that can reach what is waited for.
fn reaching_target(pid: Pid, tid: Tid, confidence: HolderConfidence) -> Target {
    Target {
        who: Who::Thread(ThreadRef { pid, tid }),
        confidence,
        basis: Basis::Reaches,
    }
}

/// How sure it is that nobody can end a wait for an object that no other thread reaches.
fn lost_confidence(wait: &Wait) -> Confidence {
    match is_reach_closed(wait) {
        true => Confidence::Proven,
        false => Confidence::Possible,
    }
}

/// Whether it is known who can reach the object, beyond doubt: no handler of signals is among them unless its thread is.
fn is_reach_closed(wait: &Wait) -> bool {
    let is_open_ended = wait.timeout.is_none();
    is_open_ended && wait.reach.as_ref().is_some_and(|reach| reach.is_closed)
}

/// Whether other processes may release what is waited for: a futex in memory that they can map, or of which that is not known.
fn may_be_shared(wait: &Wait) -> bool {
    let resource = wait.resource.as_ref();
    matches!(wait.kind, WaitKind::Futex | WaitKind::PthreadMutex)
        && resource.and_then(|resource| resource.is_shared) != Some(false)
}

/// Whether a handler of signals may release what is waited for, which nothing shows. Python runs handlers in the main thread, also while
/// that waits for a plain lock (`Python/thread_pthread.h`, `PY_LOCK_INTR`, 3.2+), and a program may use one as a latch. What a futex that nothing is known of
/// belongs to can be a semaphore, which handlers in C may post in any thread (`signal-safety(7)`). Locks with owners are not released so.
fn handlers_may_release(kind: WaitKind, is_main: bool) -> bool {
    kind == WaitKind::Futex || kind == WaitKind::PythonLock && is_main
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
pub fn is_lock(kind: WaitKind) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testing::{held_by, inside, process, reached_by, thread};

    /// The main thread of process 1, alone, and waiting for this.
    fn waiter(kind: WaitKind, resource: Resource) -> ThreadSnapshot {
        let mut thread = thread(1, kind, 60);
        if let Some(wait) = &mut thread.wait {
            wait.resource = Some(resource);
        }
        thread
    }

    fn futex(is_shared: Option<bool>) -> Resource {
        Resource {
            kind: "futex".into(),
            is_shared,
            ..Resource::default()
        }
    }

    fn sleeper() -> ThreadSnapshot {
        thread(2, WaitKind::Sleep, 1)
    }

    fn hopeless(process: &ProcessSnapshot) -> Option<Confidence> {
        unblockers_of(process, &process.threads[0], None).hopeless
    }

    /// A lock of a process with one thread: nobody releases it, unless one of the premises does not hold.
    #[test]
    fn a_lock_of_the_only_thread_is_hopeless_by_these_premises() {
        let proven = Some(Confidence::Proven);
        let likely = Some(Confidence::Likely);
        let kinds = [
            (WaitKind::PythonLock, Resource::default()),
            (WaitKind::PythonRlock, Resource::default()),
            (WaitKind::ImportLock, Resource::default()),
            (WaitKind::Futex, futex(Some(false))),
            (WaitKind::PthreadMutex, futex(Some(false))),
        ];
        for (kind, resource) in kinds {
            let alone = process(1, vec![waiter(kind, resource)]);
            assert_eq!(hopeless(&alone), proven, "{kind:?}");
            let mut unread = alone.clone();
            unread.unread_threads = 1;
            assert_eq!(hopeless(&unread), None, "{kind:?}");
            // Python knows nothing of it, and it may release all the same.
            let mut native = alone.clone();
            native.threads.push(thread(2, WaitKind::Unknown, 60));
            native.threads[1].interpreter = None;
            assert_eq!(hopeless(&native), None, "{kind:?}");
            let mut ends = alone.clone();
            let wait = ends.threads[0].wait.as_mut();
            wait.unwrap().timeout = Some(std::time::Duration::from_secs(600));
            assert_eq!(hopeless(&ends), None, "{kind:?}");
            let mut alarmed = alone.clone();
            (alarmed.handles_signals, alarmed.handles_alarms) = (true, true);
            assert_eq!(hopeless(&alarmed), likely, "{kind:?}");
            // A handler may release what has no owner, as a latch.
            let mut handles = alone;
            handles.handles_signals = true;
            let is_latch = matches!(kind, WaitKind::PythonLock | WaitKind::Futex);
            assert_eq!(
                hopeless(&handles),
                if is_latch { likely } else { proven },
                "{kind:?}"
            );
        }
    }

    /// A thread of process 1 that waits for an object of this type, which nobody else can reach.
    fn lost(tid: i32, kind: &str, calls: &[&str]) -> ThreadSnapshot {
        let mut waiter = reached_by(thread(tid, WaitKind::Condition, 60), &[]);
        if let Some(wait) = &mut waiter.wait {
            wait.resource = Some(Resource {
                kind: kind.into(),
                ..Resource::default()
            });
        }
        inside(waiter, calls)
    }

    /// What is lost for sure, and what a program may mean that does all its work in other threads.
    #[test]
    fn an_object_that_nobody_else_reaches_is_lost_where_an_answer_is_expected() {
        let deep = ["threading.wait", "app.ask", "app.serve", "app.main"];
        let worker = [
            "threading.wait",
            "app.work",
            "threading.run",
            "threading._bootstrap",
        ];
        let bare = ["threading.wait", "threading.run", "threading._bootstrap"];
        let cases = [
            (2, "threading.Event", &deep[..], Some(Confidence::Proven)),
            (
                2,
                "threading.Event",
                &worker[..],
                Some(Confidence::Possible),
            ),
            (2, "threading.Event", &bare[..], Some(Confidence::Possible)),
            (1, "threading.Event", &deep[..], Some(Confidence::Possible)),
            (1, "queue.Queue", &deep[..], Some(Confidence::Proven)),
            (
                1,
                "queue.Queue",
                &["queue.get", "app.main"],
                Some(Confidence::Possible),
            ),
        ];
        for (tid, kind, calls, expected) in cases {
            let both = process(
                1,
                vec![lost(tid, kind, calls), thread(9, WaitKind::Sleep, 1)],
            );
            let found = unblockers_of(&both, &both.threads[0], None);
            assert_eq!(found.hopeless, expected, "{tid} {kind} {calls:?}");
            let is_meant = expected == Some(Confidence::Possible);
            let others = found
                .targets
                .iter()
                .any(|target| target.who == Who::Others(Pid(1)));
            assert_eq!(others, is_meant, "{tid} {kind} {calls:?}");
        }
    }

    #[test]
    fn a_handler_that_can_not_reach_it_may_still_break_a_wait_off() {
        let deep = ["threading.wait", "app.ask", "app.serve"];
        let mut one = process(1, vec![lost(1, "queue.Queue", &deep)]);
        one.handles_signals = true;
        assert_eq!(hopeless(&one), Some(Confidence::Likely));
        let mut two = process(1, vec![lost(2, "queue.Queue", &deep)]);
        two.handles_signals = true;
        assert_eq!(hopeless(&two), Some(Confidence::Proven));
        // Others may raise one in it, or it gives up.
        let mut ends = one;
        let wait = ends.threads[0].wait.as_mut().unwrap();
        wait.timeout = Some(std::time::Duration::from_secs(600));
        assert_eq!(hopeless(&ends), None);
    }

    /// Where references are not counted, what the frames show is no proof; and where not even that was seen whole, nothing is said.
    #[test]
    fn an_object_whose_references_are_not_counted_is_lost_at_most_possibly() {
        let deep = ["threading.wait", "app.ask", "app.serve"];
        let mut one = process(1, vec![lost(2, "queue.Queue", &deep)]);
        let reach = |process: &mut ProcessSnapshot, change: &dyn Fn(&mut crate::model::Reach)| {
            let wait = process.threads[0].wait.as_mut().unwrap();
            change(wait.reach.as_mut().unwrap());
        };
        reach(&mut one, &|reach| {
            (reach.is_closed, reach.references) = (false, None)
        });
        assert_eq!(hopeless(&one), Some(Confidence::Possible));
        for change in [
            (|reach| reach.is_cut = true) as fn(&mut crate::model::Reach),
            |reach| reach.is_global = true,
            |reach| reach.references = Some(4),
        ] {
            let mut other = one.clone();
            reach(&mut other, &change);
            assert_eq!(hopeless(&other), None);
        }
    }

    #[test]
    fn whoever_maps_the_memory_of_a_futex_may_release_it() {
        for kind in [WaitKind::Futex, WaitKind::PthreadMutex] {
            for is_shared in [Some(true), None] {
                let alone = process(1, vec![waiter(kind, futex(is_shared))]);
                assert_eq!(hopeless(&alone), None, "{kind:?}, {is_shared:?}");
                let mut gone = alone;
                let thread = gone.threads.remove(0);
                let mut thread = held_by(thread, 1, None, HolderConfidence::Proven);
                thread
                    .wait
                    .as_mut()
                    .unwrap()
                    .holder
                    .as_mut()
                    .unwrap()
                    .is_gone = true;
                gone.threads.push(thread);
                assert_eq!(hopeless(&gone), None, "{kind:?}, {is_shared:?}");
            }
        }
        let elsewhere = waiter(WaitKind::PthreadMutex, futex(Some(true)));
        let elsewhere = held_by(elsewhere, 2, Some(2), HolderConfidence::Proven);
        let process = process(1, vec![elsewhere]);
        let unblockers = unblockers_of(&process, &process.threads[0], None);
        assert!(unblockers.stranger_helps);
    }

    #[test]
    fn only_a_lock_that_names_its_holder_is_hopeless_when_that_is_gone() {
        let gone = |kind, confidence, resource| {
            let mut thread = held_by(waiter(kind, resource), 1, None, confidence);
            thread
                .wait
                .as_mut()
                .unwrap()
                .holder
                .as_mut()
                .unwrap()
                .is_gone = true;
            let mut process = process(1, vec![thread]);
            process.threads.push(sleeper());
            hopeless(&process)
        };
        let (proven, inferred) = (HolderConfidence::Proven, HolderConfidence::Inferred);
        for kind in [WaitKind::PythonRlock, WaitKind::ImportLock] {
            assert_eq!(
                gone(kind, proven, Resource::default()),
                Some(Confidence::Proven)
            );
        }
        assert_eq!(
            gone(WaitKind::PthreadMutex, proven, futex(Some(false))),
            Some(Confidence::Proven)
        );
        assert_eq!(
            gone(WaitKind::PythonLock, inferred, Resource::default()),
            None
        );
        // Whoever has the same open file or maps the same semaphore may have it, and is perhaps not to be seen.
        for kind in [WaitKind::FileLock, WaitKind::SharedSemaphore] {
            for confidence in [proven, inferred] {
                assert_eq!(
                    gone(kind, confidence, Resource::default()),
                    None,
                    "{kind:?}"
                );
            }
        }
    }

    #[test]
    fn a_pipe_of_ones_own_is_hopeless_if_all_was_seen() {
        let pipe = |kind: &str| Resource {
            kind: kind.into(),
            is_alone: Some(true),
            ..Resource::default()
        };
        let alone = process(1, vec![waiter(WaitKind::PipeRead, pipe("pipe"))]);
        assert_eq!(hopeless(&alone), Some(Confidence::Proven));
        let mut gap = alone.clone();
        let wait = gap.threads[0].wait.as_mut().unwrap();
        wait.missing.push("the descriptors of 3 processes".into());
        assert_eq!(hopeless(&gap), Some(Confidence::Likely));
        let fifo = process(1, vec![waiter(WaitKind::PipeRead, pipe("fifo"))]);
        assert_eq!(hopeless(&fifo), None);
        let mut handles = alone;
        handles.handles_signals = true;
        assert_eq!(hopeless(&handles), None);
    }
}
