//! The next step of a wait chain: for which thread in particular a stuck one waits, and how sure that is.

use std::collections::{BTreeMap, BTreeSet};

use crate::diagnose::wait_graph::assessment::Assessment;
use crate::diagnose::wait_graph::unblockers::{Basis, Unblockers, Who, within_process};
use crate::diagnose::wait_graph::{Graph, Node, Unblocker};
use crate::model::{HolderConfidence, Pid, ThreadRef, WaitKind};

impl Graph {
    /// Whom a stuck thread waits for, where it is one in particular.
    pub(super) fn next_of(
        &self,
        at: ThreadRef,
        node: &Node,
        going: &BTreeMap<ThreadRef, Unblocker>,
    ) -> Option<(ThreadRef, HolderConfidence)> {
        if !matches!(node.assessment, Assessment::Waits(_)) {
            return None;
        }
        let is_network = node.unblockers.is_network;
        if self.reads_left_open(at) {
            return None;
        }
        if node.unblockers.kind == WaitKind::SharedSemaphore {
            return self.next_of_semaphore(at, node, going);
        }
        let named = node
            .unblockers
            .targets
            .iter()
            .filter(|target| target.is_named());
        // The likeliest stands first among those of which the same is known.
        let Some(target) = named.rev().max_by_key(|target| target.confidence) else {
            return self
                .next_reaching(node, going)
                .or_else(|| self.next_outside(at, node, going));
        };
        let (next, confidence) = match target.who {
            Who::Thread(key) if is_network => {
                (self.is_stuck(key, going).then_some(key), target.confidence)
            }
            Who::Thread(key) => (Some(key), target.confidence),
            // Which of its threads it is about is not known: with all of them stuck it is one of those.
            Who::Process(pid) if is_network => {
                let keys = self.threads_of.get(&pid)?;
                let are_all_stuck = keys.iter().all(|key| self.is_stuck(*key, going));
                let next = are_all_stuck
                    .then(|| self.stuck_thread_of(pid, going))
                    .flatten();
                // A process that is stopped does not answer, whichever thread it would be.
                let is_stopped = keys.iter().all(|key| {
                    self.nodes.get(key).map(|node| &node.assessment) == Some(&Assessment::Stopped)
                });
                match is_stopped {
                    true => (next, target.confidence),
                    false => (next, HolderConfidence::Possible),
                }
            }
            Who::Process(pid) => {
                let first = self
                    .threads_of
                    .get(&pid)
                    .and_then(|keys| keys.first().copied());
                let next = self.stuck_thread_of(pid, going).or(first);
                (
                    next,
                    target
                        .confidence
                        .min(self.choice_limit(at, pid, next, going)),
                )
            }
            Who::Others(_) | Who::Unseen | Who::Signal => return None,
        };
        // It can be the thread itself, which has taken a lock twice that can be taken once.
        let next = next.filter(|next| self.nodes.contains_key(next))?;
        // Whoever has the master of a terminal that is paused does nothing wrong.
        if node.unblockers.kind == WaitKind::Tty && !self.is_stuck(next, going) {
            return None;
        }
        // One that is joined does what it does until somebody gives it something else to do.
        let is_idle = self.nodes.get(&next).is_some_and(Node::is_idle_inside);
        let is_joined = is_idle && node.unblockers.idle_helps;
        match is_joined || self.may_go_on_later(node.unblockers.kind, next) {
            true => Some((next, HolderConfidence::Possible)),
            false => Some((next, confidence)),
        }
    }

    /// Of the few threads that can reach the object, the one that is stuck on something outside of the process comes first; one that is idle and does
    /// not go on is the last.
    fn next_reaching(
        &self,
        node: &Node,
        going: &BTreeMap<ThreadRef, Unblocker>,
    ) -> Option<(ThreadRef, HolderConfidence)> {
        let reaching = node.unblockers.targets.iter();
        let candidates = reaching.filter_map(|target| match (target.basis, target.who) {
            (Basis::Reaches, Who::Thread(key)) => {
                let other = self.nodes.get(&key)?;
                let listens = self.only_listens(node, *target, other);
                Some((key, target.confidence, listens))
            }
            _ => None,
        });
        let rank = |key: &ThreadRef, listens: bool| {
            let other = self.nodes.get(key)?;
            let is_stuck = listens || self.is_stuck(*key, going);
            let is_outside = !within_process(other.unblockers.kind);
            Some(match (is_stuck, is_outside) {
                (true, true) => 0,
                (true, false) => 1,
                (false, true) => 2,
                (false, false) => 3,
            })
        };
        let ranked = candidates
            .filter_map(|(key, confidence, listens)| Some((rank(&key, listens)?, key, confidence)));
        let (rank, next, confidence) = ranked.min_by_key(|(rank, key, _)| (*rank, *key))?;
        match rank {
            0 | 1 => Some((next, confidence)),
            _ => Some((next, HolderConfidence::Possible)),
        }
    }

    /// How sure it can be at most that it is for the chosen thread of a process to end the wait of `waiter`, and not for another one of it: that
    /// does not matter where the others wait for the chosen one or for `waiter` in the end. One that waits for something from
    /// outside may go on when it comes.
    fn choice_limit(
        &self,
        waiter: ThreadRef,
        pid: Pid,
        chosen: Option<ThreadRef>,
        going: &BTreeMap<ThreadRef, Unblocker>,
    ) -> HolderConfidence {
        let keys = self.threads_of.get(&pid).map(Vec::as_slice);
        let others = keys.unwrap_or_default().iter().filter_map(|key| {
            let node = self
                .nodes
                .get(key)
                .filter(|_| Some(*key) != chosen && *key != waiter)?;
            let mut targets = node.unblockers.targets.iter();
            let is_inside = within_process(node.unblockers.kind);
            match node.assessment {
                // Whatever it is for, it does nothing any more, or not now.
                Assessment::Ended | Assessment::Stopped => None,
                Assessment::Waits(_) if self.leads_to(*key, waiter, chosen) => None,
                Assessment::Waits(_) if self.is_stuck(*key, going) => {
                    match is_inside || targets.any(|target| target.is_named()) {
                        true => Some(HolderConfidence::Inferred),
                        false => Some(HolderConfidence::Possible),
                    }
                }
                _ => Some(HolderConfidence::Inferred),
            }
        });
        others.min().unwrap_or(HolderConfidence::Proven)
    }

    /// Whether a thread waits, for one after another of whom each is the only one that is known, for `waiter` or `chosen`.
    fn leads_to(&self, from: ThreadRef, waiter: ThreadRef, chosen: Option<ThreadRef>) -> bool {
        let mut at = from;
        let mut seen = BTreeSet::new();
        while seen.insert(at) {
            let targets = self.nodes.get(&at).map(|node| &node.unblockers.targets[..]);
            let Some([target]) = targets else {
                return false;
            };
            at = match target.who {
                _ if target.confidence < HolderConfidence::Proven => return false,
                Who::Thread(key) => key,
                Who::Process(pid) if pid == waiter.pid => return true,
                Who::Process(pid) => match self.threads_of.get(&pid).map(Vec::as_slice) {
                    Some([only]) => *only,
                    _ => return false,
                },
                _ => return false,
            };
            if at == waiter || Some(at) == chosen {
                return true;
            }
        }
        false
    }

    /// Of the processes that share a semaphore, the one that does not wait for it may have it. Where all of them wait, whoever had it
    /// has ended; they are told together.
    fn next_of_semaphore(
        &self,
        at: ThreadRef,
        node: &Node,
        going: &BTreeMap<ThreadRef, Unblocker>,
    ) -> Option<(ThreadRef, HolderConfidence)> {
        let waits = |key: &ThreadRef| {
            let kind = self.nodes.get(key).map(|node| node.unblockers.kind);
            kind == Some(WaitKind::SharedSemaphore) && self.is_stuck(*key, going)
        };
        let mut first = at;
        for target in &node.unblockers.targets {
            let Who::Process(pid) = target.who else {
                continue;
            };
            let keys = self.threads_of.get(&pid).map(Vec::as_slice);
            let (waiting, others): (Vec<ThreadRef>, Vec<ThreadRef>) =
                keys.unwrap_or_default().iter().partition(|key| waits(key));
            let stuck = others.iter().find(|key| self.is_stuck(**key, going));
            match (waiting.first(), stuck.or(others.first())) {
                (_, Some(next)) if waiting.is_empty() || stuck.is_some() => {
                    return Some((*next, target.confidence));
                }
                (Some(waiting), _) => first = first.min(*waiting),
                _ => {}
            }
        }
        (first != at).then_some((first, HolderConfidence::Possible))
    }

    /// Where any thread of the process could end the wait and none goes on: one that waits for something outside of it. When that
    /// comes it goes on, and may give back what others wait for, as a connection to its pool.
    fn next_outside(
        &self,
        at: ThreadRef,
        node: &Node,
        going: &BTreeMap<ThreadRef, Unblocker>,
    ) -> Option<(ThreadRef, HolderConfidence)> {
        let mut targets = node.unblockers.targets.iter();
        let pid = targets.find_map(|target| match target.who {
            Who::Others(pid) => Some(pid),
            _ => None,
        })?;
        let waits_outside = |key: &ThreadRef| {
            let kind = self.nodes.get(key).map(|node| node.unblockers.kind);
            kind.is_some_and(|kind| !within_process(kind))
        };
        let keys = self.threads_of.get(&pid)?;
        let find = |is_it: &dyn Fn(&ThreadRef) -> bool| {
            let mut others = keys.iter().copied().filter(|key| *key != at);
            others.find(|key| is_it(key))
        };
        let next = find(&|key| self.is_stuck(*key, going) && waits_outside(key)).or_else(|| {
            // A client that says nothing keeps its server's thread from whatever else it should do.
            let serves = |key: &ThreadRef| {
                self.nodes.get(key).is_some_and(|other| {
                    other.serves_client && matches!(other.assessment, Assessment::Idle(_))
                })
            };
            find(&serves)
        });
        // Whoever waits for threads to end waits for those that do not.
        let joins = within_process(node.unblockers.kind) && node.unblockers.idle_helps;
        let next = next.or_else(|| {
            find(&|key| {
                let other = self.nodes.get(key);
                joins && (self.is_stuck(*key, going) || other.is_some_and(Node::is_idle_inside))
            })
        })?;
        Some((next, HolderConfidence::Possible))
    }

    /// The thread that stands for a process which does not go on: the main one if it is stuck, else another one that is.
    fn stuck_thread_of(
        &self,
        pid: Pid,
        going: &BTreeMap<ThreadRef, Unblocker>,
    ) -> Option<ThreadRef> {
        let keys = self.threads_of.get(&pid)?;
        let main = ThreadRef {
            pid,
            tid: pid.main_thread(),
        };
        let mut stuck = keys
            .iter()
            .copied()
            .filter(|key| self.is_stuck(*key, going));
        match self.is_stuck(main, going) {
            true => Some(main),
            false => stuck.next(),
        }
    }
}

/// How sure a cycle can be at most in which a thread waits like this. Where any of several children will do, others than the one in the cycle may
/// end; and a timer may break off the wait.
pub(super) fn cycle_limit(unblockers: &Unblockers) -> HolderConfidence {
    let named = unblockers.targets.iter().filter(|target| target.is_named());
    if unblockers.kind == WaitKind::Child && named.count() > 1 {
        HolderConfidence::Possible
    } else if unblockers.can_time_out {
        HolderConfidence::Inferred
    } else {
        HolderConfidence::Proven
    }
}
