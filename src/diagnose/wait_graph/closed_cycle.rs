//! Cycles of lock owners that no time resolves: whoever is in one, or waits for one, is stuck, however short its wait is by the clock.

use std::collections::{BTreeMap, BTreeSet};

use crate::diagnose::key_of;
use crate::diagnose::observation::Observed;
use crate::model::{
    Consistency, HolderConfidence, ProcessSnapshot, SchedState, ThreadRef, ThreadSnapshot, Wait,
    WaitKind,
};

/// The threads in closed cycles, and those that wait for them: each with a wait without a timeout on a lock whose only holder is the next.
///
/// A healthy program holds a lock and waits for another one too, and two threads may do so crosswise if they give up in time. So a wait
/// with a timeout, or of which it is not known whether it has one, closes nothing. Without timeouts a cycle stays as it is whatever its
/// age: each thread in it sleeps until the next one has released a lock, which none of them does before it wakes.
///
/// That needs two premises. A lock is released only by its holder: so it is with the owner that a lock itself stores, as reentrant locks,
/// import locks and mutexes of the C library do; a plain lock could be released by any thread. And all of the cycle has to be true at one
/// moment. A stored owner is `Proven` only if its waiter has not run from when the kernel's facts were read until after all owners
/// were, so that a cycle of nothing but proven owners was closed at one moment; nothing else is asked of it. A holder that is inferred from
/// a stack is believed if all threads of its cycle slept through the whole time that they were watched: what other thread would
/// release their locks for them had that long to do it.
pub fn find_closed_cycles(
    processes: &[ProcessSnapshot],
    observed: Option<&Observed>,
) -> BTreeSet<ThreadRef> {
    let slept = |key| {
        let seen = observed.and_then(|observed| observed.thread(key));
        seen.is_some_and(|seen| seen.asleep.is_some())
    };
    find_cycles(processes, |key, confidence| {
        confidence == HolderConfidence::Proven || slept(key)
    })
}

/// The threads that would be in a closed cycle if they were seen to sleep for a while.
pub fn find_candidates(processes: &[ProcessSnapshot]) -> BTreeSet<ThreadRef> {
    find_cycles(processes, |_, _| true)
}

fn find_cycles(
    processes: &[ProcessSnapshot],
    is_believed: impl Fn(ThreadRef, HolderConfidence) -> bool,
) -> BTreeSet<ThreadRef> {
    let mut next: BTreeMap<ThreadRef, ThreadRef> = BTreeMap::new();
    for process in processes {
        for thread in &process.threads {
            let key = key_of(process.pid, thread);
            if let Some((holder, confidence)) = holder_of(thread, key)
                && is_believed(key, confidence)
            {
                // A thread inside several interpreters stands here more than once, innermost first.
                next.entry(key).or_insert(holder);
            }
        }
    }
    let mut closed = BTreeSet::new();
    for start in next.keys() {
        let mut way = Vec::new();
        let mut seen = BTreeSet::new();
        let mut at = *start;
        loop {
            if closed.contains(&at) || !seen.insert(at) {
                closed.extend(way);
                break;
            }
            way.push(at);
            match next.get(&at) {
                Some(holder) => at = *holder,
                None => break,
            }
        }
    }
    closed
}

/// The one thread that holds what this one waits for without a limit.
fn holder_of(thread: &ThreadSnapshot, key: ThreadRef) -> Option<(ThreadRef, HolderConfidence)> {
    let wait = thread.wait.as_ref().filter(|wait| is_lock(wait))?;
    let is_asleep = thread.state == SchedState::Sleeping;
    let is_read = thread.consistency == Consistency::Exact;
    let is_limited = wait.timeout.is_some() || !wait.missing.is_empty();
    if !is_asleep || !is_read || is_limited || !wait.other_holders.is_empty() {
        return None;
    }
    let holder = wait.holder.as_ref().filter(|holder| !holder.is_gone)?;
    let is_known = holder.confidence > HolderConfidence::Possible;
    let tid = holder.tid.filter(|_| is_known && holder.pid == key.pid)?;
    let next = ThreadRef { tid, ..key };
    Some((next, holder.confidence))
}

/// Whether it is a wait for what one thread has: a lock, or its own end.
fn is_lock(wait: &Wait) -> bool {
    let resource = wait.resource.as_ref();
    match wait.kind {
        WaitKind::PythonLock
        | WaitKind::PythonRlock
        | WaitKind::ImportLock
        | WaitKind::PthreadMutex => true,
        WaitKind::Condition => resource.is_some_and(|resource| resource.kind == "threading.Thread"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::diagnose::observation::Observer;
    use crate::diagnose::testing::{at, held_by, process, thread};
    use crate::model::{Moment, ThreadCounts};

    fn waiter(tid: i32, holder: i32, confidence: HolderConfidence) -> ThreadSnapshot {
        held_by(
            thread(tid, WaitKind::PythonRlock, 0),
            1,
            Some(holder),
            confidence,
        )
    }

    fn closed(threads: Vec<ThreadSnapshot>) -> Vec<ThreadRef> {
        let found = find_closed_cycles(&[process(1, threads)], None);
        found.into_iter().collect()
    }

    #[test]
    fn a_cycle_of_stored_owners_is_closed_at_any_age() {
        let (one, two) = (
            waiter(1, 2, HolderConfidence::Proven),
            waiter(2, 1, HolderConfidence::Proven),
        );
        let before = waiter(3, 1, HolderConfidence::Proven);
        assert_eq!(
            closed(vec![one, two, before, thread(4, WaitKind::Sleep, 9)]),
            [at(1, 1), at(1, 2), at(1, 3)]
        );
    }

    /// Threads that take two locks crosswise and give up in time are healthy.
    #[test]
    fn a_limit_a_guess_or_a_torn_stack_closes_nothing() {
        let changes: [fn(&mut ThreadSnapshot); 7] = [
            |thread| thread.wait.as_mut().unwrap().timeout = Some(Duration::from_secs(1)),
            |thread| {
                let missing = &mut thread.wait.as_mut().unwrap().missing;
                missing.push("when it gives up".to_owned());
            },
            |thread| {
                let wait = thread.wait.as_mut().unwrap();
                wait.other_holders.extend(wait.holder.clone());
            },
            |thread| {
                let holder = thread.wait.as_mut().unwrap().holder.as_mut();
                holder.unwrap().confidence = HolderConfidence::Inferred;
            },
            |thread| thread.consistency = Consistency::Torn,
            |thread| thread.state = SchedState::Running,
            |thread| thread.wait.as_mut().unwrap().kind = WaitKind::Condition,
        ];
        for change in changes {
            let mut one = waiter(1, 2, HolderConfidence::Proven);
            change(&mut one);
            assert_eq!(
                closed(vec![one, waiter(2, 1, HolderConfidence::Proven)]),
                []
            );
        }
    }

    #[test]
    fn a_holder_on_a_stack_is_believed_when_nobody_moved() {
        let look = |number: u64, moves: bool| {
            let threads = [(1, 2), (2, 1)].map(|(tid, holder)| {
                let mut thread = waiter(tid, holder, HolderConfidence::Inferred);
                thread.counts = Some(ThreadCounts {
                    cpu: Duration::ZERO,
                    runs: if moves && tid == 2 { number } else { 1 },
                });
                thread
            });
            [process(1, threads.to_vec())]
        };
        let found = |moves| {
            let mut observer = Observer::default();
            for number in 0..5 {
                let moment = Moment {
                    elapsed: Duration::from_millis(100 * number),
                    ..Moment::default()
                };
                observer.see(&look(number, moves), moment);
            }
            find_closed_cycles(&look(5, moves), Some(&observer.finish())).len()
        };
        assert_eq!((found(false), found(true)), (2, 0));
        assert_eq!(find_closed_cycles(&look(0, false), None).len(), 0);
        assert_eq!(find_candidates(&look(0, false)).len(), 2);
    }
}
