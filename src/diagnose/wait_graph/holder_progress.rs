//! Whether a thread that others wait for makes progress, by what it is that they need of it: one that sleeps, asks at a terminal or waits for
//! work gives nothing back meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::diagnose::wait_graph::assessment::Assessment;
use crate::diagnose::wait_graph::left_open::find_left_open;
use crate::diagnose::wait_graph::unblockers::{Basis, Target, is_lock};
use crate::diagnose::wait_graph::{Graph, Node, Unblocker};
use crate::model::{
    Frame, FrameKind, ProcessSnapshot, ThreadRef, ThreadSnapshot, UsedBy, Wait, WaitKind,
};

/// What bears on whether a thread, or whoever it waits for, makes progress.
#[derive(Debug, Default)]
pub(super) struct HolderFacts {
    /// What is left of its sleep.
    sleep_left: Option<Duration>,
    /// Whether it reads from a terminal at which nothing was ever typed.
    asks_nobody: bool,
    /// The outermost function that is its own: what sort of thread it is.
    base: Option<(Arc<str>, Arc<str>)>,
    /// Whether it reads a pipe that a command has left open.
    reads_left_open: bool,
    /// The threads of other processes that serve its connection, as their frames show, or that may as they run all the time.
    pub(super) served_by: Vec<ThreadRef>,
    /// Whether it is one of those.
    pub(super) serves: bool,
}

impl HolderFacts {
    pub(super) fn of(
        processes: &[ProcessSnapshot],
        process: &ProcessSnapshot,
        thread: &ThreadSnapshot,
    ) -> HolderFacts {
        let wait = thread.wait.as_ref();
        let resource = wait.and_then(|wait| wait.resource.as_ref());
        let sleeps = wait.is_some_and(|wait| wait.kind == WaitKind::Sleep);
        // Who reads what somebody writes to a pipe is no client of his.
        let connection = resource.filter(|resource| ["tcp", "unix"].contains(&&*resource.kind));
        let users = connection.map(|resource| &resource.users[..]);
        let users = users.unwrap_or_default().iter();
        HolderFacts {
            sleep_left: resource
                .filter(|_| sleeps)
                .and_then(|resource| resource.remaining),
            asks_nobody: wait.is_some_and(asks_nobody),
            base: base_of(thread),
            reads_left_open: find_left_open(processes, process, thread).is_some(),
            served_by: users
                .filter(|user| user.by != UsedBy::Call && user.pid != process.pid)
                .map(|user| ThreadRef {
                    pid: user.pid,
                    tid: user.tid,
                })
                .collect(),
            serves: false,
        }
    }
}

/// Whether it is a read from a terminal at which nothing was ever typed.
pub fn asks_nobody(wait: &Wait) -> bool {
    let resource = wait.resource.as_ref();
    let had_input = resource.and_then(|resource| resource.had_input);
    let reads = !wait
        .syscall
        .as_deref()
        .unwrap_or_default()
        .contains("write");
    wait.kind == WaitKind::Tty && reads && had_input == Some(false)
}

/// The outermost function of a thread that is not of the machinery that starts threads.
fn base_of(thread: &ThreadSnapshot) -> Option<(Arc<str>, Arc<str>)> {
    let is_own = |frame: &&Arc<Frame>| {
        frame.kind == FrameKind::Python && frame.module.as_deref() != Some("threading")
    };
    let frame = thread.frames.iter().rev().find(is_own)?;
    Some((frame.module.clone()?, Arc::clone(&frame.function)))
}

impl Graph {
    /// Marks the threads that serve connections of other processes.
    pub(super) fn mark_serving(&mut self) {
        let served = self.nodes.values();
        let serving: Vec<ThreadRef> = served
            .flat_map(|node| node.facts.served_by.iter().copied())
            .collect();
        for key in serving {
            if let Some(node) = self.nodes.get_mut(&key) {
                node.facts.serves = true;
            }
        }
    }

    /// Whether `key` makes progress towards the end of the wait of `waiter`, as far as is known by now; `target` is how it is known.
    pub(super) fn makes_progress(
        &self,
        waiter: ThreadRef,
        node: &Node,
        key: ThreadRef,
        target: Target,
        going: &BTreeMap<ThreadRef, Unblocker>,
    ) -> bool {
        let is_named = target.is_named();
        let unblockers = &node.unblockers;
        let Some(other) = self.nodes.get(&key).filter(|_| key != waiter) else {
            return false;
        };
        let is_left_open = node.facts.reads_left_open;
        // Whoever reads what is written to a terminal has nothing else to do: its other threads say nothing, and it can be paused.
        let is_terminal = unblockers.kind == WaitKind::Tty;
        // It does what it does when its peer says something.
        if self.only_listens(node, target, other) {
            return false;
        }
        match &other.assessment {
            Assessment::Works | Assessment::Blocked(_) => true,
            // What it holds it gives back when it wakes.
            Assessment::Ends(_) | Assessment::Unknown(_) if is_terminal => false,
            Assessment::Ends(_) if is_left_open || is_named && is_held(unblockers.kind) => {
                !self.sleeps_on(other)
            }
            Assessment::Ends(_) => true,
            Assessment::Unknown(_) => !is_left_open,
            // It has been there for a moment only, and may give back what it holds.
            Assessment::Idle(idle) if idle.is_brief => true,
            Assessment::Idle(_) if is_left_open => false,
            // Servers that take connections in turn keep a semaphore while they wait for one.
            Assessment::Idle(_) if unblockers.kind == WaitKind::SharedSemaphore => matches!(
                other.unblockers.kind,
                WaitKind::SocketAccept | WaitKind::Poll
            ),
            Assessment::Idle(_) if is_named && other.facts.asks_nobody => false,
            Assessment::Idle(_) if is_named && !unblockers.idle_helps => false,
            Assessment::Idle(_) => self.idle_goes_on(key, node, target, going),
            Assessment::Waits(_) => {
                let is_any = target.basis == Basis::Any;
                going.contains_key(&key) || is_any && other.calls_back
            }
            Assessment::Stopped | Assessment::Ended => false,
        }
    }

    /// Whether a thread that is idle may end the wait of `waiter`: one that waits for something from outside its process does when that
    /// comes, one that waits for something inside only if somebody who can end that goes on.
    fn idle_goes_on(
        &self,
        key: ThreadRef,
        waiter: &Node,
        target: Target,
        going: &BTreeMap<ThreadRef, Unblocker>,
    ) -> bool {
        let Some(idle) = self.nodes.get(&key) else {
            return false;
        };
        // What a thread takes that serves a connection it has for its client, which may give it back at any time.
        if waiter.facts.serves && is_lock(waiter.unblockers.kind) && idle.serves_client {
            return true;
        }
        // Whoever waits where it begins waits by design, as far as nothing else is known.
        let is_call = waiter.is_inside_call && matches!(waiter.assessment, Assessment::Waits(_));
        let is_by_design = matches!(waiter.assessment, Assessment::Waits(_)) && !is_call;
        if is_by_design && target.basis == Basis::Any {
            return true;
        }
        if idle.is_idle_inside() {
            return going.contains_key(&key);
        }
        !(is_call && idle.serves_client && !target.is_named())
    }

    /// Whether a call that has to return can be ended by this thread, as one of the few who reach what is waited for, only once a peer answers it that
    /// has owed an answer for long. A peer that owes nothing may have nothing to say, as a server that pushes.
    pub(super) fn only_listens(&self, waiter: &Node, target: Target, other: &Node) -> bool {
        let is_active = matches!(other.assessment, Assessment::Works);
        target.basis == Basis::Reaches
            && waiter.has_to_return
            && other.silent_for >= Some(self.threshold)
            && !is_active
    }

    /// Whether a thread that serves the connection of `waiter`, as its frames show, makes progress: unlike a process of which some thread
    /// wakes now and then, what it waits for is part of the answer.
    pub(super) fn serves_on(
        &self,
        node: &Node,
        key: ThreadRef,
        going: &BTreeMap<ThreadRef, Unblocker>,
    ) -> bool {
        if !node.facts.served_by.contains(&key) {
            return false;
        }
        let Some(server) = self.nodes.get(&key) else {
            return false;
        };
        match &server.assessment {
            Assessment::Works | Assessment::Blocked(_) => true,
            Assessment::Ends(_) => !self.sleeps_on(server),
            Assessment::Waits(_) => going.contains_key(&key),
            _ => false,
        }
    }

    /// Whether a thread of the process could release what `waiter` waits for, of which it is not known who holds it. What a thread takes that serves
    /// a connection it takes on behalf of its client; those who accept connections, or look after the server, release nothing.
    pub(super) fn could_release(&self, node: &Node, key: ThreadRef) -> bool {
        if !node.facts.serves || !is_lock(node.unblockers.kind) || node.facts.base.is_none() {
            return true;
        }
        let other = self.nodes.get(&key);
        other.is_some_and(|other| other.facts.base == node.facts.base)
    }

    /// Whether a thread sleeps for longer than the threshold from now.
    fn sleeps_on(&self, node: &Node) -> bool {
        let left = node.facts.sleep_left;
        left.is_some_and(|left| left >= self.threshold)
    }

    /// Whether a thread that is waited for like that may go on by itself, though not soon: it sleeps, or somebody may type something after all.
    /// Whoever has a lock at a prompt should not have it there.
    pub(super) fn may_go_on_later(&self, kind: WaitKind, key: ThreadRef) -> bool {
        self.nodes.get(&key).is_some_and(|node| {
            matches!(node.assessment, Assessment::Ends(_)) && node.facts.sleep_left.is_some()
                || node.facts.asks_nobody && !is_held(kind)
        })
    }

    /// Whether it is the reader of a pipe that a command has left open: whoever has the other end does nothing wrong.
    pub(super) fn reads_left_open(&self, key: ThreadRef) -> bool {
        let node = self.nodes.get(&key);
        node.is_some_and(|node| node.facts.reads_left_open)
    }
}

/// Whether what is waited for is something that its holder has to give back, or a reader to read.
fn is_held(kind: WaitKind) -> bool {
    is_lock(kind) || matches!(kind, WaitKind::FileLock | WaitKind::PipeWrite)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testing::{at, held_by, process, thread};
    use crate::diagnose::wait_graph::Outcome;
    use crate::diagnose::wait_graph::assessment::Idle;
    use crate::model::{EndUser, HolderConfidence, Pid, Resource, Tid, VerdictClass};

    const THRESHOLD: Duration = Duration::from_secs(30);

    fn idle() -> Assessment {
        Assessment::Idle(Idle {
            why: String::new(),
            is_brief: false,
        })
    }

    fn outcome(
        processes: &[ProcessSnapshot],
        assessments: &[((i32, i32), Assessment)],
        of: (i32, i32),
    ) -> Outcome {
        let assessments = assessments
            .iter()
            .map(|((pid, tid), assessment)| (at(*pid, *tid), assessment.clone()))
            .collect();
        let graph = Graph::new(processes, &assessments, &BTreeMap::new(), None);
        let outcomes = graph.with_threshold(THRESHOLD).outcomes();
        outcomes[&at(of.0, of.1)].clone()
    }

    /// The root of a stuck thread and how sure the way there is.
    fn root(outcome: &Outcome) -> Option<(ThreadRef, HolderConfidence)> {
        match outcome {
            Outcome::Stuck(stuck) => Some((stuck.root, stuck.weakest)),
            _ => None,
        }
    }

    fn with_resource(mut thread: ThreadSnapshot, resource: Resource) -> ThreadSnapshot {
        if let Some(wait) = &mut thread.wait {
            wait.resource = Some(resource);
        }
        thread
    }

    fn sleeper(tid: i32, left: u64) -> ThreadSnapshot {
        with_resource(
            thread(tid, WaitKind::Sleep, 60),
            Resource {
                remaining: Some(Duration::from_secs(left)),
                ..Resource::default()
            },
        )
    }

    #[test]
    fn a_holder_that_sleeps_on_gives_nothing_back() {
        let held = [
            WaitKind::PythonLock,
            WaitKind::PthreadMutex,
            WaitKind::FileLock,
            WaitKind::PipeWrite,
        ];
        let judged = |kind, left| {
            let waiter = held_by(thread(1, kind, 60), 2, Some(2), HolderConfidence::Proven);
            let both = [process(1, vec![waiter]), process(2, vec![sleeper(2, left)])];
            let assessments = [
                ((1, 1), Assessment::Waits(VerdictClass::HangLock)),
                ((2, 2), Assessment::Ends("it wakes by itself")),
            ];
            root(&outcome(&both, &assessments, (1, 1)))
        };
        let asleep = Some((at(2, 2), HolderConfidence::Possible));
        for kind in held {
            assert_eq!(judged(kind, 590), asleep, "{kind:?}");
            assert_eq!(judged(kind, 29), None, "{kind:?}");
        }
        // A command that takes long, and one that writes when it has something to write.
        for kind in [
            WaitKind::Child,
            WaitKind::PipeRead,
            WaitKind::Condition,
            WaitKind::Poll,
        ] {
            let is_network = kind == WaitKind::Poll;
            assert_eq!(judged(kind, 590).is_some(), is_network, "{kind:?}");
        }
    }

    #[test]
    fn a_child_at_a_terminal_gets_an_answer_where_somebody_types() {
        let judged = |had_input, kind| {
            let terminal = Resource {
                kind: "tty".into(),
                had_input,
                ..Resource::default()
            };
            let waiter = held_by(thread(1, kind, 60), 2, Some(2), HolderConfidence::Proven);
            let child = with_resource(thread(2, WaitKind::Tty, 60), terminal);
            let both = [process(1, vec![waiter]), process(2, vec![child])];
            let assessments = [
                ((1, 1), Assessment::Waits(VerdictClass::HangChild)),
                ((2, 2), idle()),
            ];
            root(&outcome(&both, &assessments, (1, 1)))
        };
        for kind in [WaitKind::Child, WaitKind::PipeRead] {
            let asks = Some((at(2, 2), HolderConfidence::Possible));
            assert_eq!(judged(Some(false), kind), asks, "{kind:?}");
            assert_eq!(judged(Some(true), kind), None, "{kind:?}");
            assert_eq!(judged(None, kind), None, "{kind:?}");
        }
        // A lock that somebody has at a prompt is held up as by any other idle holder.
        let locked = judged(Some(false), WaitKind::PythonLock);
        assert_eq!(locked, Some((at(2, 2), HolderConfidence::Proven)));
    }

    /// A client of process 1 whose connection thread 21 of process 2 serves.
    fn served(thread: ThreadSnapshot) -> ThreadSnapshot {
        let users = vec![EndUser {
            pid: Pid(2),
            tid: Tid(21),
            fd: 5,
            by: UsedBy::Stack,
        }];
        let resource = Resource {
            kind: "tcp".into(),
            users,
            ..Resource::default()
        };
        let thread = held_by(thread, 2, Some(21), HolderConfidence::Inferred);
        with_resource(thread, resource)
    }

    fn based(mut thread: ThreadSnapshot, function: &str) -> ThreadSnapshot {
        let frame = |function: &str, module: &str| {
            Arc::new(Frame {
                module: Some(module.into()),
                kind: FrameKind::Python,
                ..Frame::marker(function)
            })
        };
        thread.frames = vec![
            frame("acquire", "app"),
            frame(function, "server"),
            frame("Thread.run", "threading"),
        ];
        thread
    }

    #[test]
    fn what_the_serving_thread_waits_for_is_what_its_client_waits_for() {
        let client = served(thread(1, WaitKind::SocketRecv, 60));
        let waits = Assessment::Waits(VerdictClass::HangNetwork);
        let judged = |server: ThreadSnapshot, assessment: Assessment| {
            let other = thread(20, WaitKind::SocketAccept, 60);
            let both = [
                process(1, vec![client.clone()]),
                process(2, vec![other, server]),
            ];
            let assessments = [
                ((1, 1), waits.clone()),
                ((2, 20), idle()),
                ((2, 21), assessment),
            ];
            root(&outcome(&both, &assessments, (1, 1)))
        };
        let stuck = held_by(
            thread(21, WaitKind::PythonLock, 60),
            2,
            Some(20),
            HolderConfidence::Inferred,
        );
        let lock = Assessment::Waits(VerdictClass::HangLock);
        assert_eq!(
            judged(stuck, lock),
            Some((at(2, 20), HolderConfidence::Inferred))
        );
        // It does one thing after another.
        let brief = Assessment::Blocked(crate::diagnose::wait_graph::assessment::Blocked {
            is_woken_with_all: false,
        });
        assert_eq!(judged(thread(21, WaitKind::SocketRecv, 1), brief), None);
        let ends = Assessment::Ends("");
        assert_eq!(judged(sleeper(21, 5), ends.clone()), None);
        // It does not answer: it sleeps for long, or waits for the next request.
        let own = Some((at(1, 1), HolderConfidence::Proven));
        assert_eq!(judged(sleeper(21, 590), ends), own);
        assert_eq!(judged(thread(21, WaitKind::SocketRecv, 60), idle()), own);
    }

    #[test]
    fn a_lock_of_clients_is_released_by_threads_that_serve_clients() {
        let judged = |other_base: &str| {
            let server = based(thread(21, WaitKind::PythonLock, 60), "serve_client");
            let accepts = based(thread(20, WaitKind::SocketAccept, 60), "accepter");
            let other = based(thread(22, WaitKind::SocketRecv, 60), other_base);
            let client = served(thread(1, WaitKind::SocketRecv, 60));
            let both = [
                process(1, vec![client]),
                process(2, vec![accepts, server, other]),
            ];
            let assessments = [
                ((1, 1), Assessment::Waits(VerdictClass::HangNetwork)),
                ((2, 20), idle()),
                ((2, 21), Assessment::Waits(VerdictClass::HangLock)),
                ((2, 22), idle()),
            ];
            root(&outcome(&both, &assessments, (1, 1)))
        };
        assert_eq!(judged("serve_client"), None);
        let server = Some((at(2, 21), HolderConfidence::Inferred));
        assert_eq!(judged("watch"), server);
    }
}
