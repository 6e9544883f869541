//! Who waits for whom: from how each thread stands alone to what becomes of it. Roots and cycles; no words.
//!
//! A wait ends if any of those who could end it goes on. So "goes on" spreads from the threads that work to those that wait for
//! them, until nothing more changes; whoever has not been reached then is stuck. A stuck thread leads to its holder and so on to
//! the root: a thread that waits for nobody who is known, or the cycle that the way comes back to.

use std::collections::BTreeMap;

use super::stand::Stand;
use crate::model::{
    Gil, HolderConfidence, Link, Pid, ProcessSnapshot, SchedState, ThreadRef, ThreadSnapshot, Tid,
    VerdictClass, Wait, WaitKind,
};

/// Longest way from a thread to its root that is followed.
const MAX_WAY: usize = 10_000;

/// What becomes of a thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It does not wait for others beyond the threshold.
    Alone,
    /// Whoever it waits for goes on.
    Awaits(Ender),
    /// Nobody who could end its wait goes on.
    Stuck(Stuck),
}

/// Who goes on, and so may end a wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ender {
    /// This thread.
    Thread(ThreadRef),
    /// A process that was not looked into.
    Process(Pid),
    /// Any of the other threads of its own process.
    AnyThread,
}

/// A wait that nobody ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// The class of its own wait; `Deadlock` in a cycle and before one.
    pub class: VerdictClass,
    /// The thread at the end of the way.
    pub root: ThreadRef,
    /// The waits that lead to it, from this thread on; the whole cycle for one.
    pub way: Vec<Link>,
    /// How sure the weakest step of the way is.
    pub weakest: HolderConfidence,
    /// Whether the facts leave nobody who could end it.
    pub is_hopeless: bool,
}

/// One thread in the graph.
struct Node {
    stand: Stand,
    kind: WaitKind,
    enders: Vec<Target>,
    is_hopeless: bool,
    /// Whether it has a processor, or waits for one.
    is_running: bool,
}

/// Somebody who could end a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Target {
    who: Who,
    confidence: HolderConfidence,
    /// Whether it is known to be the one, so that its own idleness does not help.
    is_named: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Thread(ThreadRef),
    /// Any thread of a process; its main thread stands for it.
    Process(Pid),
    /// Any other thread of the same process.
    Others(Pid),
}

/// The waits between the threads of some processes.
pub struct Graph {
    nodes: BTreeMap<ThreadRef, Node>,
    threads_of: BTreeMap<Pid, Vec<ThreadRef>>,
}

impl Graph {
    /// The graph of these processes, whose threads stand as `stand` says, and in some of which a thread keeps the GIL.
    pub fn new(
        processes: &[ProcessSnapshot],
        stand: &BTreeMap<ThreadRef, Stand>,
        gil_hogs: &BTreeMap<Pid, Tid>,
    ) -> Graph {
        let mut graph = Graph {
            nodes: BTreeMap::new(),
            threads_of: BTreeMap::new(),
        };
        for process in processes {
            let keys = graph.threads_of.entry(process.pid).or_default();
            for thread in &process.threads {
                let key = ThreadRef {
                    pid: process.pid,
                    tid: thread.tid,
                };
                if !keys.contains(&key) {
                    keys.push(key);
                }
                let stand = stand.get(&key).cloned().unwrap_or(Stand::Works);
                let hog = gil_hogs.get(&process.pid).copied();
                let node = || node(process, thread, stand, hog);
                graph.nodes.entry(key).or_insert_with(node);
            }
        }
        graph
    }

    /// What becomes of each thread.
    pub fn fates(&self) -> BTreeMap<ThreadRef, Fate> {
        let going = self.find_going();
        let fate = |(key, node): (&ThreadRef, &Node)| {
            let fate = match &node.stand {
                Stand::Waits(class) => match going.get(key) {
                    Some(ender) => Fate::Awaits(ender.clone()),
                    None => Fate::Stuck(self.follow(*key, *class, &going)),
                },
                _ => Fate::Alone,
            };
            (*key, fate)
        };
        self.nodes.iter().map(fate).collect()
    }

    /// The waiting threads whose wait somebody may end, each with who.
    fn find_going(&self) -> BTreeMap<ThreadRef, Ender> {
        let mut going = BTreeMap::new();
        loop {
            let mut found = Vec::new();
            for (key, node) in &self.nodes {
                if matches!(node.stand, Stand::Waits(_)) && !going.contains_key(key) {
                    let mut enders = node.enders.iter();
                    let ender = enders.find_map(|target| self.goes_on(*key, node, *target, &going));
                    found.extend(ender.map(|ender| (*key, ender)));
                }
            }
            if found.is_empty() {
                return going;
            }
            going.extend(found);
        }
    }

    /// Whether this one goes on, as far as is known by now.
    fn goes_on(
        &self,
        waiter: ThreadRef,
        node: &Node,
        target: Target,
        going: &BTreeMap<ThreadRef, Ender>,
    ) -> Option<Ender> {
        let is_going = |key: &ThreadRef| {
            *key != waiter
                && match self.nodes.get(key).map(|node| &node.stand) {
                    Some(Stand::Works | Stand::Ends(_) | Stand::Unknown(_)) => true,
                    Some(Stand::Idle(_)) => !target.is_named || idle_helps(node.kind),
                    Some(Stand::Waits(_)) => going.contains_key(key),
                    Some(Stand::Stopped | Stand::Ended) | None => false,
                }
        };
        let runs = |key: &&ThreadRef| self.nodes.get(*key).is_some_and(|node| node.is_running);
        match target.who {
            // A peer that sleeps or waits for something else does not answer meanwhile.
            Who::Thread(key) if is_network(node.kind) => runs(&&key).then_some(Ender::Thread(key)),
            Who::Thread(key) if self.nodes.contains_key(&key) => {
                is_going(&key).then_some(Ender::Thread(key))
            }
            Who::Thread(_) => None,
            // Which of its threads serves this connection is not known: that another one goes on says nothing.
            Who::Process(pid) if is_network(node.kind) => {
                let keys = self.threads_of.get(&pid)?;
                let mut running = keys.iter().filter(|key| **key != waiter);
                running.find(runs).map(|key| Ender::Thread(*key))
            }
            Who::Process(pid) => match self.threads_of.get(&pid) {
                Some(keys) => keys
                    .iter()
                    .find(|key| is_going(key))
                    .map(|key| Ender::Thread(*key)),
                // Nobody has looked into it: for a pipe or a child it may do what it does for good reason.
                None => stranger_helps(node.kind).then_some(Ender::Process(pid)),
            },
            Who::Others(pid) => {
                let keys = self.threads_of.get(&pid)?;
                keys.iter().any(is_going).then_some(Ender::AnyThread)
            }
        }
    }

    /// The way from a stuck thread to its root.
    fn follow(
        &self,
        start: ThreadRef,
        class: VerdictClass,
        going: &BTreeMap<ThreadRef, Ender>,
    ) -> Stuck {
        let mut stuck = Stuck {
            class,
            root: start,
            way: Vec::new(),
            weakest: HolderConfidence::Proven,
            is_hopeless: false,
        };
        let mut at = start;
        let mut seen = vec![start];
        while stuck.way.len() < MAX_WAY {
            let Some(node) = self.nodes.get(&at) else {
                break;
            };
            stuck.is_hopeless = node.is_hopeless;
            let Some((next, confidence)) = self.next_of(node, going) else {
                break;
            };
            stuck.way.push(Link {
                thread: at,
                waits: node.kind,
                on: next,
            });
            stuck.weakest = stuck.weakest.min(confidence);
            if let Some(place) = seen.iter().position(|key| *key == next) {
                let cycle = &seen[place..];
                // Whichever thread leads to it, the cycle has one root.
                stuck.root = cycle.iter().copied().min().unwrap_or(next);
                stuck.class = VerdictClass::Deadlock;
                stuck.is_hopeless = true;
                return stuck;
            }
            seen.push(next);
            at = next;
        }
        stuck.root = at;
        stuck
    }

    /// Whom a stuck thread waits for, where it is one in particular.
    fn next_of(
        &self,
        node: &Node,
        going: &BTreeMap<ThreadRef, Ender>,
    ) -> Option<(ThreadRef, HolderConfidence)> {
        if !matches!(node.stand, Stand::Waits(_)) {
            return None;
        }
        let named = node.enders.iter().filter(|target| target.is_named);
        let target = named.max_by_key(|target| target.confidence)?;
        let next = match target.who {
            Who::Thread(key) if is_network(node.kind) => self.is_stuck(key, going).then_some(key),
            Who::Thread(key) => Some(key),
            Who::Process(pid) => self.stuck_thread_of(pid, node.kind, going),
            Who::Others(_) => None,
        };
        // It can be the thread itself, which has taken a lock twice that can be taken once.
        let next = next.filter(|next| self.nodes.contains_key(next))?;
        Some((next, target.confidence))
    }

    /// Whether it waits for somebody who does not go on, or is made to stand still.
    fn is_stuck(&self, key: ThreadRef, going: &BTreeMap<ThreadRef, Ender>) -> bool {
        match self.nodes.get(&key).map(|node| &node.stand) {
            Some(Stand::Waits(_)) => !going.contains_key(&key),
            Some(Stand::Stopped) => true,
            _ => false,
        }
    }

    /// The thread that stands for a process which does not go on: the main one if it is stuck, else another one that is.
    fn stuck_thread_of(
        &self,
        pid: Pid,
        kind: WaitKind,
        going: &BTreeMap<ThreadRef, Ender>,
    ) -> Option<ThreadRef> {
        let keys = self.threads_of.get(&pid)?;
        let is_stuck = |key: &&ThreadRef| self.is_stuck(**key, going);
        let main = ThreadRef {
            pid,
            tid: pid.main_thread(),
        };
        let mut stuck = keys.iter().filter(is_stuck).copied();
        let found = match is_stuck(&&main) {
            true => Some(main),
            false => stuck.next(),
        };
        // A server that waits for its next request is not what holds up a receive; a child that merely does not end is.
        found.or_else(|| (!is_network(kind)).then(|| keys.first().copied()).flatten())
    }
}

fn node(
    process: &ProcessSnapshot,
    thread: &ThreadSnapshot,
    stand: Stand,
    gil_hog: Option<Tid>,
) -> Node {
    if let Some(tid) = gil_hog.filter(|tid| *tid != thread.tid && thread.gil == Gil::Waiting) {
        let who = Who::Thread(ThreadRef {
            pid: process.pid,
            tid,
        });
        return Node {
            stand,
            kind: WaitKind::Gil,
            enders: vec![Target {
                who,
                confidence: HolderConfidence::Proven,
                is_named: true,
            }],
            is_hopeless: false,
            is_running: false,
        };
    }
    let is_running = thread.state == SchedState::Running;
    let Some(wait) = &thread.wait else {
        return Node {
            stand,
            kind: WaitKind::Unknown,
            enders: Vec::new(),
            is_hopeless: false,
            is_running,
        };
    };
    let (mut enders, mut is_hopeless) = enders_of(process, thread.tid, wait);
    if gil_hog == Some(thread.tid) {
        // That somebody else goes on and may end its wait is no excuse for keeping the GIL meanwhile. But what a thread of its
        // own process holds is never given back without the GIL.
        let is_own = |who| matches!(who, Who::Thread(key) if key.pid == process.pid);
        enders.retain(|target| target.is_named && is_own(target.who));
        is_hopeless = false;
    }
    Node {
        stand,
        kind: wait.kind,
        enders,
        is_hopeless,
        is_running,
    }
}

/// Who could end a wait, and whether it is known that nobody can.
fn enders_of(process: &ProcessSnapshot, tid: Tid, wait: &Wait) -> (Vec<Target>, bool) {
    let is_alone = wait
        .resource
        .as_ref()
        .and_then(|resource| resource.is_alone)
        == Some(true);
    let holders: Vec<_> = wait.holder.iter().chain(&wait.other_holders).collect();
    let is_gone = !holders.is_empty() && holders.iter().all(|holder| holder.is_gone);
    let mut enders: Vec<Target> = holders
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
        return (enders, true);
    }
    let is_only_possible = enders
        .iter()
        .all(|target| target.confidence == HolderConfidence::Possible);
    if within_process(wait.kind) && is_only_possible {
        // Any thread of the process could release it, and nobody else.
        enders.push(Target {
            who: Who::Others(process.pid),
            confidence: HolderConfidence::Possible,
            is_named: false,
        });
        let has_others = process.threads.iter().any(|thread| thread.tid != tid);
        return (enders, !has_others && wait.timeout.is_none());
    }
    (enders, false)
}

/// Whether a peer is waited for.
fn is_network(kind: WaitKind) -> bool {
    matches!(
        kind,
        WaitKind::SocketRecv | WaitKind::SocketSend | WaitKind::SocketConnect | WaitKind::Poll
    )
}

/// Whether only threads of its own process can end such a wait.
fn within_process(kind: WaitKind) -> bool {
    matches!(
        kind,
        WaitKind::PythonLock
            | WaitKind::PythonRlock
            | WaitKind::Condition
            | WaitKind::Semaphore
            | WaitKind::ImportLock
            | WaitKind::PthreadMutex
            | WaitKind::Gil
            | WaitKind::Futex
    )
}

/// Whether somebody who waits for work himself may end it all the same: he will write when there is something to write.
fn idle_helps(kind: WaitKind) -> bool {
    matches!(kind, WaitKind::PipeRead | WaitKind::Child)
}

/// Whether a process that was not looked into may be taken to go on.
fn stranger_helps(kind: WaitKind) -> bool {
    matches!(
        kind,
        WaitKind::PipeRead | WaitKind::PipeWrite | WaitKind::Child | WaitKind::SharedSemaphore
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testing::{at, held_by, process, thread};

    fn fates(processes: &[ProcessSnapshot]) -> BTreeMap<ThreadRef, Fate> {
        let stand = processes
            .iter()
            .flat_map(|process| {
                process.threads.iter().map(|thread| {
                    let kind = thread.wait.as_ref().map(|wait| wait.kind);
                    let stand = match kind {
                        None => Stand::Works,
                        Some(WaitKind::SocketAccept) => Stand::Idle(String::new()),
                        Some(WaitKind::SocketRecv) => Stand::Waits(VerdictClass::HangNetwork),
                        Some(WaitKind::PipeRead) => Stand::Waits(VerdictClass::HangPipe),
                        Some(_) => Stand::Waits(VerdictClass::HangLock),
                    };
                    (at(process.pid.0, thread.tid.0), stand)
                })
            })
            .collect();
        Graph::new(processes, &stand, &BTreeMap::new()).fates()
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

    fn stuck(fate: &Fate) -> &Stuck {
        match fate {
            Fate::Stuck(stuck) => stuck,
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
        let fates = fates(&[process(1, threads)]);
        for tid in 1..=4 {
            let found = stuck(&fates[&at(1, tid)]);
            assert_eq!((found.root, found.way.len()), (at(1, 4), 4 - tid as usize));
        }
        assert_eq!(stuck(&fates[&at(1, 1)]).class, VerdictClass::HangLock);
        assert_eq!(stuck(&fates[&at(1, 4)]).class, VerdictClass::HangNetwork);
        assert_eq!(stuck(&fates[&at(1, 1)]).weakest, HolderConfidence::Inferred);
    }

    #[test]
    fn a_cycle_is_one_whoever_leads_to_it() {
        let threads = vec![
            lock(1, Some(2)),
            lock(2, Some(3)),
            lock(3, Some(2)),
            working(9),
        ];
        let fates = fates(&[process(1, threads)]);
        for tid in 1..=3 {
            let found = stuck(&fates[&at(1, tid)]);
            assert_eq!(
                (found.class, found.root),
                (VerdictClass::Deadlock, at(1, 2))
            );
        }
        assert_eq!(fates[&at(1, 9)], Fate::Alone);
    }

    #[test]
    fn who_waits_for_a_working_holder_only_waits() {
        let threads = vec![lock(1, Some(2)), lock(2, Some(9)), working(9)];
        let fates = fates(&[process(1, threads)]);
        assert_eq!(fates[&at(1, 1)], Fate::Awaits(Ender::Thread(at(1, 2))));
        assert_eq!(fates[&at(1, 2)], Fate::Awaits(Ender::Thread(at(1, 9))));
    }

    #[test]
    fn a_lock_of_nobody_is_released_by_any_thread_that_goes_on() {
        let with_worker = fates(&[process(1, vec![lock(1, None), working(9)])]);
        assert_eq!(with_worker[&at(1, 1)], Fate::Awaits(Ender::AnyThread));
        let idle = thread(9, WaitKind::SocketAccept, 60);
        let with_idle = fates(&[process(1, vec![lock(1, None), idle])]);
        assert_eq!(with_idle[&at(1, 1)], Fate::Awaits(Ender::AnyThread));
        let all_wait = fates(&[process(1, vec![lock(1, None), lock(2, None)])]);
        assert!(!stuck(&all_wait[&at(1, 1)]).is_hopeless);
        let alone = fates(&[process(1, vec![lock(1, None)])]);
        assert!(stuck(&alone[&at(1, 1)]).is_hopeless);
    }

    #[test]
    fn an_idle_holder_keeps_what_it_holds() {
        let idle = thread(9, WaitKind::SocketAccept, 60);
        let fates = fates(&[process(1, vec![lock(1, Some(9)), idle])]);
        assert_eq!(stuck(&fates[&at(1, 1)]).root, at(1, 9));
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
        assert_eq!(stuck(&fates(&both)[&at(1, 1)]).root, at(2, 2));
        // A process that nobody has looked into may write at any time.
        let alone = fates(&[process(1, vec![reader])]);
        assert_eq!(alone[&at(1, 1)], Fate::Awaits(Ender::Process(Pid(2))));
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
            fates(&both)[&at(1, 1)].clone()
        };
        assert_eq!(stuck(&seen(&server)).root, at(1, 1));
        server.state = SchedState::Running;
        assert_eq!(seen(&server), Fate::Awaits(Ender::Thread(at(2, 2))));
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
        let fates = fates(&[process(1, vec![client]), process(2, vec![server])]);
        assert_eq!(stuck(&fates[&at(1, 1)]).root, at(1, 1));
    }
}
