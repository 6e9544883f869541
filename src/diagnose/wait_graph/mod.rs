//! Who waits for whom: from how each thread stands alone to what becomes of it. Roots and cycles; no words.
//!
//! A wait ends if any of those who could end it goes on. So "goes on" spreads from the threads that work to those that wait for
//! them, until nothing more changes; whoever has not been reached then is stuck. A stuck thread leads to its holder and so on to
//! the root: a thread that waits for nobody who is known, or the cycle that the way comes back to.

pub mod assessment;
pub mod children;
pub mod clocks;
pub mod closed_cycle;
pub mod holder_progress;
pub mod left_open;
mod next_step;
pub mod peers;
pub mod unblockers;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::diagnose::call_role::{calls_inside, inner_calls};
use crate::diagnose::observation::Observed;
use crate::diagnose::wait_graph::assessment::Assessment;
use crate::diagnose::wait_graph::holder_progress::HolderFacts;
use crate::diagnose::wait_graph::next_step::cycle_limit;
use crate::diagnose::wait_graph::peers::{silent_for, was_accepted};
use crate::diagnose::wait_graph::unblockers::{
    Target, Unblockers, Who, unblockers_of, within_process,
};
use crate::model::{
    Confidence, HolderConfidence, Link, Pid, ProcessSnapshot, SchedState, ThreadRef,
    ThreadSnapshot, Tid, VerdictClass, WaitKind,
};

/// What becomes of a thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It does not wait for others beyond the threshold.
    Alone,
    /// Whoever it waits for goes on.
    Awaits(Unblocker),
    /// Nobody who could end its wait goes on.
    Stuck(Stuck),
}

/// Who goes on, and so may end a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unblocker {
    /// This thread.
    Thread(ThreadRef),
    /// A process that was not looked into.
    Process(Pid),
    /// Any of the other threads of its own process.
    AnyThread,
    /// A process that can't be seen from here.
    Unseen,
    /// A handler of signals, which its own thread runs.
    Signal,
}

/// A wait that nobody ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// The class of its own wait; `Deadlock` in a cycle and before one.
    pub class: VerdictClass,
    /// The thread at the end of the way.
    pub root: ThreadRef,
    /// The wait that leads to the next thread on the way there; none at its end.
    pub next: Option<Link>,
    /// Waits from here to the root, or until a cycle closes.
    pub distance: usize,
    /// How sure the weakest step of the way is.
    pub weakest: HolderConfidence,
    /// How sure it is that the facts leave nobody who could end it; `None` where they leave somebody.
    pub hopeless: Option<Confidence>,
}

/// One thread in the graph.
struct Node {
    assessment: Assessment,
    unblockers: Unblockers,
    /// Whether it has a processor, or waits for one: all the time, where it was watched.
    is_running: bool,
    /// Whether it waits inside a call that its program made.
    is_inside_call: bool,
    /// Whether it waits for the next request of a client that it has accepted: only that client ends this.
    serves_client: bool,
    /// Whether its program has made a call that has to return, as far as names tell what serves for ever.
    has_to_return: bool,
    /// Of a thread that does nothing but wait for peers, for how long they have owed it an answer.
    silent_for: Option<Duration>,
    /// Whether it can run Python at any time, and shows no frames of it meanwhile: a thread of another language that calls back.
    calls_back: bool,
    facts: HolderFacts,
}

impl Node {
    /// Whether it is idle, and has been for long, on an object of its own process: a queue, say.
    fn is_idle_inside(&self) -> bool {
        let is_idle = matches!(&self.assessment, Assessment::Idle(idle) if !idle.is_brief);
        is_idle && within_process(self.unblockers.kind)
    }
}

/// Whether it sleeps in code of another language, in a thread that has run Python and may do so again.
fn calls_back(thread: &ThreadSnapshot) -> bool {
    let kind = thread.wait.as_ref().map(|wait| wait.kind);
    thread.interpreter.is_some() && thread.frames.is_empty() && kind == Some(WaitKind::Futex)
}

/// Whether it waits for data on a connection that it has accepted.
fn serves_client(thread: &ThreadSnapshot) -> bool {
    let wait = thread.wait.as_ref();
    let received = wait.filter(|wait| wait.kind == WaitKind::SocketRecv);
    let resource = received.and_then(|wait| wait.resource.as_ref());
    resource.is_some_and(was_accepted)
}

/// The waits between the threads of some processes.
pub struct Graph {
    nodes: BTreeMap<ThreadRef, Node>,
    threads_of: BTreeMap<Pid, Vec<ThreadRef>>,
    /// Processes of which threads could not be read: what those do is not known, so they may go on.
    unread: BTreeSet<Pid>,
    /// For how long a holder may sleep on.
    threshold: Duration,
}

impl Graph {
    /// The graph of these processes, whose threads stand as `stand` says, and in some of which a thread keeps the GIL; `observed` is
    /// what was seen of them for a while.
    pub fn new(
        processes: &[ProcessSnapshot],
        assessment: &BTreeMap<ThreadRef, Assessment>,
        long_gil_holders: &BTreeMap<Pid, Tid>,
        observed: Option<&Observed>,
    ) -> Graph {
        let seen_of = |key| observed.and_then(|observed| observed.thread(key));
        let mut graph = Graph {
            nodes: BTreeMap::new(),
            threads_of: BTreeMap::new(),
            unread: BTreeSet::new(),
            threshold: Duration::MAX,
        };
        for process in processes {
            if process.unread_threads > 0 {
                graph.unread.insert(process.pid);
            }
            let holder = long_gil_holders.get(&process.pid).copied();
            let mut keys = Vec::with_capacity(process.threads.len());
            for thread in &process.threads {
                let key = ThreadRef {
                    pid: process.pid,
                    tid: thread.tid,
                };
                // A thread inside several interpreters stands here more than once, innermost first.
                graph.nodes.entry(key).or_insert_with(|| {
                    keys.push(key);
                    Node {
                        assessment: assessment.get(&key).cloned().unwrap_or(Assessment::Works),
                        unblockers: unblockers_of(process, thread, holder),
                        is_running: seen_of(key)
                            .map_or(thread.state == SchedState::Running, |seen| seen.is_busy),
                        is_inside_call: calls_inside(&thread.frames) > 0,
                        serves_client: serves_client(thread),
                        has_to_return: !inner_calls(&thread.frames).is_empty(),
                        silent_for: thread
                            .wait
                            .as_ref()
                            .and_then(|wait| silent_for(wait, process.pid)),
                        calls_back: calls_back(thread),
                        facts: HolderFacts::of(processes, process, thread),
                    }
                });
            }
            graph.threads_of.insert(process.pid, keys);
        }
        graph.mark_serving();
        graph
    }

    /// The same, where a holder that sleeps for at least that long from now does not end the waits of others. Without it, any sleep does.
    pub fn with_threshold(mut self, threshold: Duration) -> Graph {
        self.threshold = threshold;
        self
    }

    /// What becomes of each thread.
    pub fn outcomes(&self) -> BTreeMap<ThreadRef, Outcome> {
        let going = self.find_going();
        let mut outcomes: BTreeMap<ThreadRef, Outcome> = BTreeMap::new();
        for (key, node) in &self.nodes {
            let outcome = match &node.assessment {
                Assessment::Waits(_) => going.get(key).map(|unblocker| Outcome::Awaits(*unblocker)),
                _ => Some(Outcome::Alone),
            };
            outcomes.extend(outcome.map(|outcome| (*key, outcome)));
        }
        for key in self.nodes.keys() {
            if !outcomes.contains_key(key) {
                self.follow(*key, &going, &mut outcomes);
            }
        }
        outcomes
    }

    /// The waiting threads whose wait somebody may end, each with who.
    fn find_going(&self) -> BTreeMap<ThreadRef, Unblocker> {
        let mut going = BTreeMap::new();
        loop {
            let before = going.len();
            for (key, node) in &self.nodes {
                let may_go_on =
                    matches!(node.assessment, Assessment::Waits(_)) || node.is_idle_inside();
                if may_go_on && !going.contains_key(key) {
                    let mut targets = node.unblockers.targets.iter();
                    let unblocker =
                        targets.find_map(|target| self.goes_on(*key, node, *target, &going));
                    going.extend(unblocker.map(|unblocker| (*key, unblocker)));
                }
            }
            if going.len() == before {
                return going;
            }
        }
    }

    /// Whether this one goes on, as far as is known by now.
    fn goes_on(
        &self,
        waiter: ThreadRef,
        node: &Node,
        target: Target,
        going: &BTreeMap<ThreadRef, Unblocker>,
    ) -> Option<Unblocker> {
        let unblockers = &node.unblockers;
        let is_going = |key: &ThreadRef| self.makes_progress(waiter, node, *key, target, going);
        let runs = |key: &ThreadRef| {
            *key != waiter && self.nodes.get(key).is_some_and(|node| node.is_running)
        };
        // Nobody has looked into it: for a pipe or a child it may do what it does for good reason.
        let has_unread = |pid| self.unread.contains(&pid);
        let stranger =
            |pid| (unblockers.stranger_helps || has_unread(pid)).then_some(Unblocker::Process(pid));
        match target.who {
            Who::Thread(key) if !self.nodes.contains_key(&key) => stranger(key.pid),
            // A peer that sleeps or waits for something else does not answer meanwhile.
            Who::Thread(key) if unblockers.is_network => {
                let is_going = runs(&key) || self.serves_on(node, key, going);
                is_going.then_some(Unblocker::Thread(key))
            }
            Who::Thread(key) => is_going(&key).then_some(Unblocker::Thread(key)),
            Who::Process(pid) => {
                let Some(keys) = self.threads_of.get(&pid) else {
                    return stranger(pid);
                };
                let mut keys = keys.iter().copied();
                // Which of its threads serves a connection is not known: that another one goes on says nothing.
                let found = match unblockers.is_network {
                    true => keys.find(runs),
                    false => keys.find(is_going),
                };
                let unread = has_unread(pid).then_some(Unblocker::Process(pid));
                found.map(Unblocker::Thread).or(unread)
            }
            Who::Others(pid) => {
                let keys = self.threads_of.get(&pid)?;
                let mut keys = keys.iter().filter(|key| self.could_release(node, **key));
                (keys.any(is_going) || has_unread(pid)).then_some(Unblocker::AnyThread)
            }
            Who::Unseen => Some(Unblocker::Unseen),
            Who::Signal => Some(Unblocker::Signal),
        }
    }

    /// Finds what becomes of a stuck thread and of all on its way to the root.
    fn follow(
        &self,
        start: ThreadRef,
        going: &BTreeMap<ThreadRef, Unblocker>,
        outcomes: &mut BTreeMap<ThreadRef, Outcome>,
    ) {
        let mut way: Vec<(ThreadRef, Option<(ThreadRef, HolderConfidence)>)> = Vec::new();
        let mut seen = BTreeSet::new();
        let mut at = start;
        loop {
            seen.insert(at);
            let next = self
                .nodes
                .get(&at)
                .and_then(|node| self.next_of(at, node, going));
            way.push((at, next));
            match next {
                Some((next, _)) if seen.contains(&next) => {
                    self.close_cycle(&mut way, next, outcomes);
                    break;
                }
                // It is known already, or the end of the way.
                Some((next, _)) if !outcomes.contains_key(&next) => at = next,
                _ => break,
            }
        }
        for (at, next) in way.into_iter().rev() {
            let stuck = self.stuck(at, next, outcomes);
            outcomes.insert(at, Outcome::Stuck(stuck));
        }
    }

    /// Takes the threads of a cycle, which begins at `first`, off the way. Whichever thread leads to it, the cycle has one root.
    ///
    /// A deadlock is `proven` if each step is: whoever is waited for is the only one who could end the wait, by the object's or the
    /// kernel's own word; is the thread that has to do it, not one of several of its process; and no timer may break off a wait.
    /// Facts of several processes are of different moments, but a thread that has waited since before the first of them has
    /// neither taken nor released anything in between.
    fn close_cycle(
        &self,
        way: &mut Vec<(ThreadRef, Option<(ThreadRef, HolderConfidence)>)>,
        first: ThreadRef,
        outcomes: &mut BTreeMap<ThreadRef, Outcome>,
    ) {
        let place = way.iter().position(|(key, _)| *key == first).unwrap_or(0);
        let cycle = way.split_off(place);
        let steps = cycle.iter().filter_map(|(at, next)| {
            let node = self.nodes.get(at)?;
            Some((*next)?.1.min(cycle_limit(&node.unblockers)))
        });
        let weakest = steps.min().unwrap_or(HolderConfidence::Possible);
        // A circle that leads through a guess is none that is known: each has what it has of its own.
        let is_known = weakest > HolderConfidence::Possible;
        // Then whoever waits for a child, or for what that writes, is held up by it like any other parent; and so where a peer is waited for, whose
        // other threads may be what answers.
        let keys = cycle.iter().map(|(key, _)| *key);
        let is_network = |key: ThreadRef| {
            let node = self.nodes.get(&key);
            node.is_some_and(|node| node.unblockers.is_network)
        };
        let is_doubtful = !is_known || keys.clone().any(is_network);
        let root = keys.min_by_key(|key| (is_doubtful && self.waits_for_child(*key), *key));
        let root = root.unwrap_or(first);
        for (at, next) in &cycle {
            let stuck = Stuck {
                class: match is_known {
                    true => VerdictClass::Deadlock,
                    false => self.class_of(*at),
                },
                root,
                next: next.map(|(next, _)| self.link(*at, next)),
                distance: cycle.len(),
                weakest,
                hopeless: is_known.then_some(Confidence::Proven),
            };
            outcomes.insert(*at, Outcome::Stuck(stuck));
        }
    }

    /// What becomes of a thread whose next one is known.
    fn stuck(
        &self,
        at: ThreadRef,
        next: Option<(ThreadRef, HolderConfidence)>,
        outcomes: &BTreeMap<ThreadRef, Outcome>,
    ) -> Stuck {
        let node = self.nodes.get(&at);
        let class = self.class_of(at);
        let Some((next, confidence)) = next else {
            return Stuck {
                class,
                root: at,
                next: None,
                distance: 0,
                weakest: HolderConfidence::Proven,
                hopeless: node.and_then(|node| node.unblockers.hopeless),
            };
        };
        let link = Some(self.link(at, next));
        match outcomes.get(&next) {
            Some(Outcome::Stuck(further)) => Stuck {
                class: match further.class {
                    VerdictClass::Deadlock => VerdictClass::Deadlock,
                    _ => class,
                },
                root: further.root,
                next: link,
                distance: further.distance + 1,
                weakest: further.weakest.min(confidence),
                hopeless: further.hopeless,
            },
            // It does not wait itself: it is stopped, or idle and keeps what it holds.
            _ => Stuck {
                class,
                root: next,
                next: link,
                distance: 1,
                weakest: confidence,
                hopeless: None,
            },
        }
    }

    fn waits_for_child(&self, key: ThreadRef) -> bool {
        let kind = self.nodes.get(&key).map(|node| node.unblockers.kind);
        matches!(
            kind,
            Some(WaitKind::Child | WaitKind::PipeRead | WaitKind::Poll)
        )
    }

    /// The class of a thread's own wait.
    fn class_of(&self, key: ThreadRef) -> VerdictClass {
        match self.nodes.get(&key).map(|node| &node.assessment) {
            Some(Assessment::Waits(class)) => *class,
            _ => VerdictClass::Unknown,
        }
    }

    fn link(&self, thread: ThreadRef, on: ThreadRef) -> Link {
        let kind = self.nodes.get(&thread).map(|node| node.unblockers.kind);
        Link {
            thread,
            waits: kind.unwrap_or(WaitKind::Unknown),
            on,
        }
    }

    /// Whether it waits for somebody who does not go on, or is made to stand still.
    fn is_stuck(&self, key: ThreadRef, going: &BTreeMap<ThreadRef, Unblocker>) -> bool {
        match self.nodes.get(&key).map(|node| &node.assessment) {
            Some(Assessment::Waits(_)) => !going.contains_key(&key),
            Some(Assessment::Stopped) => true,
            _ => false,
        }
    }
}

/// The waits that lead from a stuck thread to its root, or around the cycle that it is in or comes to; at most `limit`.
pub fn wait_chain(
    outcomes: &BTreeMap<ThreadRef, Outcome>,
    start: ThreadRef,
    limit: usize,
) -> Vec<Link> {
    let mut way: Vec<Link> = Vec::new();
    let mut seen = BTreeSet::new();
    let mut at = start;
    while way.len() < limit && seen.insert(at) {
        let Some(Outcome::Stuck(Stuck {
            next: Some(link), ..
        })) = outcomes.get(&at)
        else {
            break;
        };
        way.push(*link);
        at = link.on;
    }
    way
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testing::{at, held_by, inside, process, reached_by, thread};
    use crate::diagnose::wait_graph::assessment::Idle;
    use crate::model::Resource;

    fn outcomes(processes: &[ProcessSnapshot]) -> BTreeMap<ThreadRef, Outcome> {
        let assessments = processes
            .iter()
            .flat_map(|process| {
                process.threads.iter().map(|thread| {
                    let kind = thread.wait.as_ref().map(|wait| wait.kind);
                    let assessment = match kind {
                        None => Assessment::Works,
                        Some(WaitKind::SocketAccept) => Assessment::Idle(Idle {
                            why: String::new(),
                            is_brief: false,
                        }),
                        Some(WaitKind::SocketRecv) => Assessment::Waits(VerdictClass::HangNetwork),
                        Some(WaitKind::PipeRead) => Assessment::Waits(VerdictClass::HangPipe),
                        Some(_) => Assessment::Waits(VerdictClass::HangLock),
                    };
                    (at(process.pid.0, thread.tid.0), assessment)
                })
            })
            .collect();
        Graph::new(processes, &assessments, &BTreeMap::new(), None).outcomes()
    }

    fn lock(tid: i32, holder: Option<i32>) -> ThreadSnapshot {
        let thread = thread(tid, WaitKind::PythonLock, 60);
        match holder {
            Some(holder) => held_by(thread, 1, Some(holder), HolderConfidence::Inferred),
            None => thread,
        }
    }

    fn working(tid: i32) -> ThreadSnapshot {
        let mut thread = thread(tid, WaitKind::Sleep, 0);
        thread.wait = None;
        thread
    }

    fn stuck(outcome: &Outcome) -> &Stuck {
        match outcome {
            Outcome::Stuck(stuck) => stuck,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_chain_leads_to_its_root() {
        let receiver = thread(4, WaitKind::SocketRecv, 60);
        let threads = vec![
            lock(1, Some(2)),
            lock(2, Some(3)),
            lock(3, Some(4)),
            receiver,
        ];
        let outcomes = outcomes(&[process(1, threads)]);
        for tid in 1..=4 {
            let found = stuck(&outcomes[&at(1, tid)]);
            assert_eq!((found.root, found.distance), (at(1, 4), 4 - tid as usize));
        }
        assert_eq!(stuck(&outcomes[&at(1, 1)]).class, VerdictClass::HangLock);
        assert_eq!(stuck(&outcomes[&at(1, 4)]).class, VerdictClass::HangNetwork);
        assert_eq!(
            stuck(&outcomes[&at(1, 1)]).weakest,
            HolderConfidence::Inferred
        );
    }

    #[test]
    fn a_cycle_is_one_whoever_leads_to_it() {
        let threads = vec![
            lock(1, Some(2)),
            lock(2, Some(3)),
            lock(3, Some(2)),
            working(9),
        ];
        let outcomes = outcomes(&[process(1, threads)]);
        for tid in 1..=3 {
            let found = stuck(&outcomes[&at(1, tid)]);
            assert_eq!(
                (found.class, found.root),
                (VerdictClass::Deadlock, at(1, 2))
            );
        }
        assert_eq!(outcomes[&at(1, 9)], Outcome::Alone);
    }

    /// Two processes that wait for each other: the second one through each of these threads of its, the first through a step of this kind.
    fn circle_of_processes(kind: WaitKind, second: Vec<ThreadSnapshot>) -> Stuck {
        let first = thread(1, kind, 60);
        let first = held_by(first, 2, None, HolderConfidence::Proven);
        let both = [process(1, vec![first]), process(2, second)];
        stuck(&outcomes(&both)[&at(1, 1)]).clone()
    }

    #[test]
    fn a_cycle_through_a_process_is_proven_if_it_has_one_thread() {
        let back = |tid| {
            let reader = thread(tid, WaitKind::PipeRead, 60);
            held_by(reader, 1, Some(1), HolderConfidence::Proven)
        };
        let only = circle_of_processes(WaitKind::PipeRead, vec![back(2)]);
        assert_eq!(
            (only.class, only.weakest),
            (VerdictClass::Deadlock, HolderConfidence::Proven)
        );
        // Another thread that waits inside of its process: for which of them it is matters only if that leads elsewhere.
        for (holder, weakest) in [
            (Some(2), HolderConfidence::Proven),
            (None, HolderConfidence::Inferred),
        ] {
            let inside = thread(3, WaitKind::PythonRlock, 60);
            let inside = match holder {
                Some(tid) => held_by(inside, 2, Some(tid), HolderConfidence::Proven),
                None => inside,
            };
            let two = circle_of_processes(WaitKind::PipeRead, vec![back(2), inside]);
            assert_eq!((two.class, two.weakest), (VerdictClass::Deadlock, weakest));
        }
        // One that waits for a peer may write when that has answered.
        let outside = thread(3, WaitKind::SocketRecv, 60);
        let two = circle_of_processes(WaitKind::PipeRead, vec![back(2), outside]);
        assert_ne!(two.class, VerdictClass::Deadlock);
        assert_eq!(two.weakest, HolderConfidence::Possible);
    }

    #[test]
    fn a_cycle_through_one_of_several_children_is_none() {
        let back = held_by(
            thread(2, WaitKind::PipeRead, 60),
            1,
            Some(1),
            HolderConfidence::Proven,
        );
        let parent = held_by(
            thread(1, WaitKind::Child, 60),
            2,
            Some(2),
            HolderConfidence::Proven,
        );
        let class = |parent: ThreadSnapshot| {
            let other = thread(3, WaitKind::SocketRecv, 60);
            let all = [
                process(1, vec![parent]),
                process(2, vec![back.clone()]),
                process(3, vec![other]),
            ];
            stuck(&outcomes(&all)[&at(1, 1)]).class
        };
        assert_eq!(class(parent.clone()), VerdictClass::Deadlock);
        let mut any = parent;
        let wait = any.wait.as_mut().unwrap();
        let mut other = wait.holder.clone().unwrap();
        (other.pid, other.tid) = (Pid(3), Some(Tid(3)));
        wait.other_holders.push(other);
        assert_ne!(class(any), VerdictClass::Deadlock);
    }

    #[test]
    fn a_cycle_that_a_timer_may_break_is_not_proven() {
        let rlock = |tid, holder| {
            let waiter = thread(tid, WaitKind::PythonRlock, 60);
            held_by(waiter, 1, Some(holder), HolderConfidence::Proven)
        };
        // Thread 1 is the main one, which runs the handlers.
        for (threads, weakest) in [
            ([rlock(1, 2), rlock(2, 1)], HolderConfidence::Inferred),
            ([rlock(2, 3), rlock(3, 2)], HolderConfidence::Proven),
        ] {
            let tid = threads[0].tid.0;
            let mut process = process(1, threads.to_vec());
            process.handles_alarms = true;
            let found = outcomes(&[process]);
            let found = stuck(&found[&at(1, tid)]);
            assert_eq!(
                (found.class, found.weakest),
                (VerdictClass::Deadlock, weakest)
            );
        }
    }

    #[test]
    fn who_waits_for_a_working_holder_only_waits() {
        let threads = vec![lock(1, Some(2)), lock(2, Some(9)), working(9)];
        let outcomes = outcomes(&[process(1, threads)]);
        assert_eq!(
            outcomes[&at(1, 1)],
            Outcome::Awaits(Unblocker::Thread(at(1, 2)))
        );
        assert_eq!(
            outcomes[&at(1, 2)],
            Outcome::Awaits(Unblocker::Thread(at(1, 9)))
        );
    }

    #[test]
    fn a_lock_of_nobody_is_released_by_any_thread_that_goes_on() {
        let with_worker = outcomes(&[process(1, vec![lock(1, None), working(9)])]);
        assert_eq!(
            with_worker[&at(1, 1)],
            Outcome::Awaits(Unblocker::AnyThread)
        );
        let idle = thread(9, WaitKind::SocketAccept, 60);
        let with_idle = outcomes(&[process(1, vec![lock(1, None), idle])]);
        assert_eq!(with_idle[&at(1, 1)], Outcome::Awaits(Unblocker::AnyThread));
        let all_wait = outcomes(&[process(1, vec![lock(1, None), lock(2, None)])]);
        assert_eq!(stuck(&all_wait[&at(1, 1)]).hopeless, None);
        let alone = outcomes(&[process(1, vec![lock(1, None)])]);
        assert_eq!(stuck(&alone[&at(1, 1)]).hopeless, Some(Confidence::Proven));
    }

    /// A parent that waits for the output of a child which waits for it is no more to blame than any other parent; where the circle is certain, both are.
    #[test]
    fn of_a_cycle_that_is_a_guess_the_root_is_not_who_waits_for_a_child() {
        let root = |confidence| {
            let parent = held_by(thread(1, WaitKind::PipeRead, 60), 2, Some(2), confidence);
            let child = held_by(thread(2, WaitKind::PipeWrite, 60), 1, Some(1), confidence);
            let outcomes = outcomes(&[process(1, vec![parent]), process(2, vec![child])]);
            let found = [at(1, 1), at(2, 2)].map(|key| stuck(&outcomes[&key]).root);
            assert_eq!(found[0], found[1]);
            found[0]
        };
        assert_eq!(root(HolderConfidence::Possible), at(2, 2));
        assert_eq!(root(HolderConfidence::Inferred), at(1, 1));
    }

    #[test]
    fn an_idle_holder_keeps_what_it_holds() {
        let idle = thread(9, WaitKind::SocketAccept, 60);
        let outcomes = outcomes(&[process(1, vec![lock(1, Some(9)), idle])]);
        assert_eq!(stuck(&outcomes[&at(1, 1)]).root, at(1, 9));
    }

    /// Threads that take connections in turn, under a lock: while connections come, whoever waits for the lock gets it in the end.
    #[test]
    fn a_holder_that_is_idle_for_a_moment_gives_back_what_it_holds() {
        let threads = vec![lock(1, Some(9)), thread(9, WaitKind::SocketAccept, 1)];
        let short = BTreeMap::from([
            (at(1, 1), Assessment::Waits(VerdictClass::HangLock)),
            (
                at(1, 9),
                Assessment::Idle(Idle {
                    why: String::new(),
                    is_brief: true,
                }),
            ),
        ]);
        let graph = Graph::new(&[process(1, threads)], &short, &BTreeMap::new(), None);
        assert_eq!(
            graph.outcomes()[&at(1, 1)],
            Outcome::Awaits(Unblocker::Thread(at(1, 9)))
        );
    }

    #[test]
    fn ways_cross_processes() {
        let reader = held_by(
            thread(1, WaitKind::PipeRead, 60),
            2,
            None,
            HolderConfidence::Proven,
        );
        let writer = thread(2, WaitKind::SocketRecv, 90);
        let both = [process(1, vec![reader.clone()]), process(2, vec![writer])];
        assert_eq!(stuck(&outcomes(&both)[&at(1, 1)]).root, at(2, 2));
        // A process that nobody has looked into may write at any time.
        let alone = outcomes(&[process(1, vec![reader])]);
        assert_eq!(
            alone[&at(1, 1)],
            Outcome::Awaits(Unblocker::Process(Pid(2)))
        );
    }

    #[test]
    fn a_peer_that_computes_may_answer_and_one_that_wakes_now_and_then_may_not() {
        let client = held_by(
            thread(1, WaitKind::SocketRecv, 60),
            2,
            None,
            HolderConfidence::Proven,
        );
        let mut server = working(2);
        let seen = |server: &ThreadSnapshot| {
            let both = [
                process(1, vec![client.clone()]),
                process(2, vec![server.clone()]),
            ];
            outcomes(&both)[&at(1, 1)].clone()
        };
        assert_eq!(stuck(&seen(&server)).root, at(1, 1));
        server.state = SchedState::Running;
        assert_eq!(seen(&server), Outcome::Awaits(Unblocker::Thread(at(2, 2))));
    }

    #[test]
    fn an_idle_server_is_not_what_holds_up_its_client() {
        let client = held_by(
            thread(1, WaitKind::SocketRecv, 60),
            2,
            None,
            HolderConfidence::Proven,
        );
        let server = thread(2, WaitKind::SocketAccept, 90);
        let outcomes = outcomes(&[process(1, vec![client]), process(2, vec![server])]);
        assert_eq!(stuck(&outcomes[&at(1, 1)]).root, at(1, 1));
    }
    #[test]
    fn who_can_not_be_seen_may_go_on() {
        let seen = |resource: Resource| {
            let mut reader = thread(1, WaitKind::PipeRead, 60);
            reader.wait.as_mut().unwrap().resource = Some(resource);
            outcomes(&[process(1, vec![reader])])[&at(1, 1)].clone()
        };
        let of_kind = |kind: &str| Resource {
            kind: kind.into(),
            ..Resource::default()
        };
        assert_eq!(seen(of_kind("pipe")), Outcome::Awaits(Unblocker::Unseen));
        assert_eq!(seen(of_kind("unix")), Outcome::Awaits(Unblocker::Unseen));
        // A fifo can be open at one end alone, and its own end is known to be the only one.
        assert!(matches!(seen(of_kind("fifo")), Outcome::Stuck(_)));
        let alone = Resource {
            is_alone: Some(true),
            ..of_kind("pipe")
        };
        assert!(matches!(seen(alone), Outcome::Stuck(_)));
    }

    #[test]
    fn who_waits_for_any_thread_waits_for_the_one_that_waits_outside() {
        let receiver = thread(4, WaitKind::SocketRecv, 60);
        let threads = vec![lock(1, None), lock(2, None), lock(3, Some(1)), receiver];
        let outcomes = outcomes(&[process(1, threads)]);
        for tid in 1..=3 {
            let found = stuck(&outcomes[&at(1, tid)]);
            assert_eq!(
                (found.root, found.class),
                (at(1, 4), VerdictClass::HangLock)
            );
            assert_eq!(found.weakest, HolderConfidence::Possible);
        }
    }

    #[test]
    fn of_processes_that_all_wait_for_a_semaphore_none_is_the_cause() {
        let waiter = |pid: i32, other: i32| {
            let thread = thread(pid, WaitKind::SharedSemaphore, 60);
            process(
                pid,
                vec![held_by(thread, other, None, HolderConfidence::Possible)],
            )
        };
        let both = outcomes(&[waiter(1, 2), waiter(2, 1)]);
        for pid in 1..=2 {
            let found = stuck(&both[&at(pid, pid)]);
            assert_eq!(
                (found.root, found.class),
                (at(1, 1), VerdictClass::HangLock)
            );
        }
        // One that waits for a connection has it, as servers that accept in turn do.
        let server = process(2, vec![thread(2, WaitKind::SocketAccept, 60)]);
        let in_turn = outcomes(&[waiter(1, 2), server]);
        assert_eq!(
            in_turn[&at(1, 1)],
            Outcome::Awaits(Unblocker::Thread(at(2, 2)))
        );
    }

    /// A call, some calls deep, that waits for a condition.
    fn call(tid: i32) -> ThreadSnapshot {
        let waiter = thread(tid, WaitKind::Condition, 60);
        inside(waiter, &["threading.wait", "app.ask", "app.serve"])
    }

    /// The outcome for thread 1 of process 1, in which those of `idle` wait by design.
    fn first_outcome(threads: Vec<ThreadSnapshot>, idle: &[i32]) -> Outcome {
        let assessment = |thread: &ThreadSnapshot| match thread.wait.as_ref() {
            _ if idle.contains(&thread.tid.0) => Assessment::Idle(Idle {
                why: String::new(),
                is_brief: false,
            }),
            None => Assessment::Works,
            Some(wait) if wait.kind == WaitKind::SocketRecv => {
                Assessment::Waits(VerdictClass::HangNetwork)
            }
            Some(_) => Assessment::Waits(VerdictClass::HangLock),
        };
        let assessments = threads
            .iter()
            .map(|thread| (at(1, thread.tid.0), assessment(thread)))
            .collect();
        let processes = [process(1, threads)];
        Graph::new(&processes, &assessments, &BTreeMap::new(), None).outcomes()[&at(1, 1)].clone()
    }

    #[test]
    fn only_those_who_reach_it_can_end_a_wait() {
        let receiver = thread(4, WaitKind::SocketRecv, 60);
        let reached = |by: &[i32]| reached_by(call(1), by);
        // The one that reaches it is stuck; others work.
        let found = first_outcome(vec![reached(&[4]), receiver.clone(), working(9)], &[]);
        assert_eq!(
            (stuck(&found).root, stuck(&found).weakest),
            (at(1, 4), HolderConfidence::Inferred)
        );
        // Of several it is one of those.
        let idle = reached_by(call(3), &[4]);
        let two = vec![reached(&[3, 4]), idle, receiver.clone(), working(9)];
        let found = first_outcome(two, &[3]);
        assert_eq!(
            (stuck(&found).root, stuck(&found).weakest),
            (at(1, 4), HolderConfidence::Possible)
        );
        let going = first_outcome(vec![reached(&[4, 9]), receiver, working(9)], &[]);
        assert_eq!(going, Outcome::Awaits(Unblocker::Thread(at(1, 9))));
        // A server that waits for connections sets it when one comes.
        let server = thread(5, WaitKind::SocketAccept, 60);
        let found = first_outcome(vec![reached(&[5]), server], &[5]);
        assert_eq!(found, Outcome::Awaits(Unblocker::Thread(at(1, 5))));
    }

    /// A worker that waits for the next thing to do gets it from those that go on, if there are any.
    #[test]
    fn idle_threads_end_a_call_only_if_something_comes_to_them() {
        let worker = inside(
            thread(2, WaitKind::Condition, 60),
            &["queue.get", "app.work"],
        );
        let found = first_outcome(vec![call(1), worker.clone()], &[2]);
        assert_eq!(stuck(&found).root, at(1, 1));
        let outside = thread(3, WaitKind::SocketAccept, 60);
        let found = first_outcome(vec![call(1), worker.clone(), outside], &[2, 3]);
        assert_eq!(found, Outcome::Awaits(Unblocker::AnyThread));
        // Where a thread begins it waits for whatever comes.
        let base = inside(
            thread(1, WaitKind::Condition, 60),
            &["threading.wait", "app.main"],
        );
        let found = first_outcome(vec![base, worker.clone()], &[2]);
        assert_eq!(found, Outcome::Awaits(Unblocker::AnyThread));
        // It is joined, and nobody is left who could tell it to end.
        let joins = held_by(call(1), 1, Some(2), HolderConfidence::Proven);
        let mut joins = joins;
        joins.wait.as_mut().unwrap().resource = Some(Resource {
            kind: "threading.Thread".into(),
            ..Resource::default()
        });
        let found = first_outcome(vec![joins, worker], &[2]);
        assert_eq!(
            (stuck(&found).root, stuck(&found).weakest),
            (at(1, 2), HolderConfidence::Possible)
        );
    }

    #[test]
    fn a_client_that_says_nothing_keeps_its_servers_thread_from_others() {
        let mut serving = thread(2, WaitKind::SocketRecv, 60);
        serving.wait.as_mut().unwrap().resource = Some(Resource {
            kind: "tcp".into(),
            accepted: Some(true),
            ..Resource::default()
        });
        let found = first_outcome(vec![call(1), serving.clone()], &[2]);
        assert_eq!(
            (stuck(&found).root, stuck(&found).weakest),
            (at(1, 2), HolderConfidence::Possible)
        );
        let accepts = thread(3, WaitKind::SocketAccept, 60);
        let found = first_outcome(vec![call(1), serving, accepts], &[2, 3]);
        assert_eq!(found, Outcome::Awaits(Unblocker::AnyThread));
    }

    /// It sleeps in code of another language, which may call a function of the program.
    #[test]
    fn a_thread_without_frames_may_call_back() {
        let native = thread(2, WaitKind::Futex, 60);
        let found = first_outcome(vec![call(1), native], &[]);
        assert_eq!(found, Outcome::Awaits(Unblocker::AnyThread));
    }
}
