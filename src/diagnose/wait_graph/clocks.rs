//! Since when a thread waits, where the clocks contradict each other: the older one that is proven counts.
//!
//! The scheduler's record begins anew with each wake-up. A tracer that stops a process (`py-spy dump`, `gdb -p`) and a signal wake all of its
//! threads, which then go back to the same waits; whoever waits for the GIL wakes every few milliseconds by itself.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::diagnose::call_role::inner_calls;
use crate::diagnose::key_of;
use crate::diagnose::observation::Observed;
use crate::diagnose::wait_graph::assessment::since_of;
use crate::diagnose::wait_graph::peers::{TCP_TICK, outstanding_since, silent_for};
use crate::diagnose::wait_graph::unblockers::is_starved_by;
use crate::model::{
    Gil, Pid, ProcessSnapshot, SchedState, Since, SinceSource, ThreadRef, ThreadSnapshot, Tid,
};

/// How far apart threads that one stop or signal has woken go back to sleep at most: they are let go one after another.
const MAX_SPREAD: Duration = Duration::from_millis(50);
/// How much older a proven time is at the least than the scheduler's for it to count: between a question and the wait for its answer a
/// program does this and that.
const MIN_GAP: Duration = Duration::from_secs(1);
/// How long after the start of a process its threads are there for other reasons than that they were woken.
const SETTLED: Duration = Duration::from_secs(5);

/// Gives each wait the time that is proven for it:
/// - a wait for an answer has lasted for as long as TCP knows that it is owed, also if it is one in slices, inside a call that has to return;
/// - a wait for the GIL for as long as its holder is known to keep it, and for an unknown time where that is not known.
pub fn settle_since(
    processes: &mut [ProcessSnapshot],
    gil_keepers: &BTreeMap<Pid, Tid>,
    observed: Option<&Observed>,
) {
    for process in processes {
        let keeper = gil_keepers.get(&process.pid).copied();
        let mut threads = process.threads.iter();
        let kept_since = threads
            .find(|thread| Some(thread.tid) == keeper)
            .and_then(|keeper| match keeper.state {
                SchedState::Running => {
                    let seen = observed?.thread(key_of(process.pid, keeper))?;
                    seen.keeps_gil.then(|| seen.watched_since())
                }
                _ => since_of(keeper),
            });
        let pid = process.pid;
        for thread in &mut process.threads {
            let is_starved = keeper.is_some_and(|keeper| is_starved_by(thread, keeper));
            let is_for_gil = thread.gil == Gil::Waiting;
            let has_to_return = !inner_calls(&thread.frames).is_empty();
            let key = ThreadRef {
                pid,
                tid: thread.tid,
            };
            let seen = observed.and_then(|observed| observed.thread(key));
            let is_observed = seen.is_some_and(|seen| seen.unanswered.is_some());
            let Some(wait) = &mut thread.wait else {
                continue;
            };
            if is_for_gil {
                wait.since = kept_since.filter(|_| is_starved);
                continue;
            }
            // Whoever waits anew for an answer that has been due for longer waits in slices for it.
            let silent = silent_for(wait, pid)
                .filter(|_| wait.timeout.is_some() && has_to_return && !is_observed);
            if let (Some(silent), Some(since)) = (silent, wait.since)
                && silent > since.elapsed.saturating_add(since.error + MIN_GAP)
            {
                wait.slices.get_or_insert_default();
                wait.timeout = None;
                wait.since = Some(Since {
                    elapsed: silent,
                    error: TCP_TICK,
                    source: SinceSource::Tcp,
                });
                continue;
            }
            if let Some(owed) = outstanding_since(wait)
                && wait
                    .since
                    .is_none_or(|since| owed.elapsed > since.elapsed.saturating_add(MIN_GAP))
            {
                wait.since = Some(owed);
            }
        }
    }
}

/// Whether all threads of a process that sleep, and have slept for less than `threshold`, woke at one moment, long after the process began:
/// then something from outside woke them, and they may have waited before. Of a single thread nothing shows it.
pub fn is_woken_as_one(process: &ProcessSnapshot, threshold: Duration) -> bool {
    let is_asleep = |thread: &&ThreadSnapshot| thread.state == SchedState::Sleeping;
    let slept: Option<Vec<Duration>> = process
        .threads
        .iter()
        .filter(is_asleep)
        .map(|thread| thread.off_cpu.map(|since| since.elapsed))
        .collect();
    let slept = slept.unwrap_or_default();
    let (Some(least), Some(most)) = (slept.iter().min(), slept.iter().max()) else {
        return false;
    };
    let is_settled = process
        .age
        .is_some_and(|age| age.saturating_sub(*most) > SETTLED);
    slept.len() > 1 && *most < threshold && most.saturating_sub(*least) <= MAX_SPREAD && is_settled
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testing::{asked, held_by, process, receiver, thread};
    use crate::model::{HolderConfidence, SinceSource, WaitKind};

    fn settled(
        threads: Vec<ThreadSnapshot>,
        keeper: Option<i32>,
    ) -> Vec<Option<(u64, SinceSource)>> {
        let mut processes = [process(1, threads)];
        let keepers = keeper.map(|tid| (Pid(1), Tid(tid))).into_iter().collect();
        settle_since(&mut processes, &keepers, None);
        let waits = processes[0]
            .threads
            .iter()
            .map(|thread| thread.wait.as_ref());
        waits
            .map(|wait| {
                let since = wait?.since?;
                Some((since.elapsed.as_secs(), since.source))
            })
            .collect()
    }

    #[test]
    fn what_tcp_knows_outlives_a_wake_up() {
        let owed = Some((552, SinceSource::Tcp));
        assert_eq!(settled(vec![asked(receiver(1), 552)], None), [owed]);
        assert_eq!(
            settled(vec![asked(receiver(900), 552)], None),
            [Some((900, SinceSource::Sched))]
        );
        let mut slice = asked(receiver(1), 552);
        slice.wait.as_mut().unwrap().timeout = Some(Duration::from_secs(2));
        let mut pushed = asked(receiver(1), 552);
        let resource = pushed.wait.as_mut().unwrap().resource.as_mut().unwrap();
        let tcp = resource.tcp.as_mut().unwrap();
        (tcp.bytes_received, tcp.last_data_recv_ms) = (5, 400_000);
        let as_is = Some((1, SinceSource::Sched));
        assert_eq!(settled(vec![slice, pushed], None), [as_is, as_is]);
    }

    #[test]
    fn a_wait_for_the_gil_lasts_as_long_as_it_is_kept() {
        let mut keeper = thread(1, WaitKind::Futex, 8);
        keeper.gil = Gil::Held;
        let mut starved = held_by(
            thread(2, WaitKind::Gil, 0),
            1,
            Some(1),
            HolderConfidence::Proven,
        );
        starved.gil = Gil::Waiting;
        let both = vec![keeper, starved];
        let kept = Some((8, SinceSource::Sched));
        assert_eq!(settled(both.clone(), Some(1)), [kept, kept]);
        // In a convoy nobody keeps it for long, and for how long one has queued is not known: "0ms" would be wrong.
        assert_eq!(settled(both, None), [kept, None]);
    }

    #[test]
    fn threads_that_a_tracer_woke_woke_as_one() {
        let woken = |seconds: [u64; 2], age: u64| {
            let threads = seconds.iter().zip(1..);
            let threads = threads.map(|(slept, tid)| thread(tid, WaitKind::PythonLock, *slept));
            let mut process = process(1, threads.collect());
            process.age = Some(Duration::from_secs(age));
            is_woken_as_one(&process, Duration::from_secs(30))
        };
        assert!(woken([1, 1], 900));
        assert!(!woken([1, 2], 900));
        assert!(!woken([40, 40], 900));
        assert!(!woken([1, 1], 3));
    }
}
