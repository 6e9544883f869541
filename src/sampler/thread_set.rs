//! The threads of a process, and which of them have run since the last sample. It does not read what they do.

use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};

use super::thread::ThreadSampler;
use crate::model::{Pid, Tid};
use crate::sys::clock::{self, ProcessClock};
use crate::sys::procfile::is_gone;
use crate::target::tasks::RunCount;

/// The clock is not read again before this many times what reading it took, while other threads run: at most 0.2 % of a
/// processor go into it...
const CLOCK_SHARE: u32 = 500;
/// ...and no more often than that.
const CLOCK_PAUSE: Duration = Duration::from_millis(5);

/// The threads of a process.
///
/// Those that have run of late are asked one by one. The others are cold: together they have used no processor time as
/// long as the process has used no more than the warm ones have.
#[derive(Debug)]
pub struct ThreadSet {
    threads: FxHashMap<Tid, ThreadSampler>,
    /// Threads that have run of late, or have not been looked at.
    warm: Vec<Tid>,
    clock: Option<ProcessClock>,
    /// When the clock is worth reading again: it adds up all threads of the process each time.
    clock_at: Duration,
    /// Processor time of all threads but the warm ones, at the last sample.
    cold_time: Option<u64>,
    /// That of threads that are not known, ended ones too.
    unknown_time: u64,
}

/// What has become of the threads since the last sample.
#[derive(Debug, Default)]
pub struct Changes {
    /// Threads that have run, or run now.
    pub ran: Vec<Tid>,
    /// Threads that are not there any more.
    pub ended: Vec<ThreadSampler>,
    /// Threads that are there and could not be asked.
    pub unread: Vec<Tid>,
    /// Whether a thread has run that is not known.
    pub has_unknown_threads: bool,
}

/// Whether a thread has run since it was looked at last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ran {
    Yes,
    No,
    /// The kernel does not count that.
    NotCounted,
    /// It could not be asked.
    Unread,
}

impl ThreadSet {
    /// No threads yet, of `pid`.
    pub fn new(pid: Pid) -> Self {
        ThreadSet {
            threads: FxHashMap::default(),
            warm: Vec::new(),
            clock: ProcessClock::of(pid).ok(),
            clock_at: Duration::ZERO,
            cold_time: None,
            unknown_time: 0,
        }
    }

    /// The thread with this number.
    pub fn get(&self, tid: Tid) -> Option<&ThreadSampler> {
        self.threads.get(&tid)
    }

    /// All threads.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Tid, &mut ThreadSampler)> {
        self.threads.iter_mut().map(|(tid, thread)| (*tid, thread))
    }

    /// Adds a thread, to be looked at in the next sample.
    pub fn add(&mut self, tid: Tid, thread: ThreadSampler) {
        self.threads.insert(tid, thread);
        self.warm_up(&[tid]);
    }

    /// Takes a thread out to work with it; it is put back afterwards, or has ended.
    pub fn take(&mut self, tid: Tid) -> Option<ThreadSampler> {
        self.threads.remove(&tid)
    }

    /// Puts a thread back.
    pub fn put_back(&mut self, tid: Tid, thread: ThreadSampler) {
        self.threads.insert(tid, thread);
    }

    /// Takes out all threads for which `is_over`.
    pub fn take_if(&mut self, is_over: impl Fn(Tid, &ThreadSampler) -> bool) -> Vec<ThreadSampler> {
        let over: Vec<Tid> = self
            .threads
            .iter()
            .filter(|(tid, thread)| is_over(**tid, thread))
            .map(|(tid, _)| *tid)
            .collect();
        over.iter()
            .filter_map(|tid| self.threads.remove(tid))
            .collect()
    }

    /// Whether the thread is asked one by one.
    pub fn is_warm(&self, tid: Tid) -> bool {
        self.warm.contains(&tid)
    }

    /// Has these threads asked in the next sample.
    pub fn warm_up(&mut self, tids: &[Tid]) {
        let warm: FxHashSet<Tid> = self.warm.iter().copied().collect();
        self.warm
            .extend(tids.iter().filter(|tid| !warm.contains(tid)));
        // The account was drawn up with fewer warm ones.
        self.cold_time = None;
    }

    /// Finds out which threads have run since they were looked at last.
    pub fn find_changes(&mut self, now: Duration) -> Changes {
        let mut changes = Changes::default();
        let mut counts_all = true;
        let warm = std::mem::take(&mut self.warm);
        let mut kept = Vec::with_capacity(warm.len());
        let mut warm_time = 0;
        let is_clock_due = now >= self.clock_at;
        for tid in warm {
            if !is_clock_due && self.runs_on(tid, now) {
                changes.ran.push(tid);
                kept.push(tid);
                continue;
            }
            if let Some(ran) = self.ask(tid, now, &mut changes) {
                counts_all &= !matches!(ran, Ran::NotCounted | Ran::Unread);
                warm_time += self.time_of(tid);
                kept.push(tid);
            }
        }
        self.warm = kept;
        if counts_all && !changes.ran.is_empty() && !is_clock_due {
            return changes;
        }
        // After the warm ones, so that nothing that they have done till then is missing.
        let total = self.read_clock().filter(|_| counts_all);
        let is_accounted_for = |total: &u64| self.cold_time == Some(total.wrapping_sub(warm_time));
        if !total.as_ref().is_some_and(is_accounted_for) {
            let cold_time = self.ask_cold(now, &mut changes);
            if let Some(total) = total {
                // It can also be that a warm one was accounted for in between; then it is less the next time.
                let unknown = total.wrapping_sub(warm_time).wrapping_sub(cold_time);
                changes.has_unknown_threads = unknown > self.unknown_time;
                self.unknown_time = unknown;
            }
        }
        self.cool(now);
        self.cold_time = total.map(|total| {
            let warm = self.warm.iter().map(|tid| self.time_of(*tid));
            total.wrapping_sub(warm.sum())
        });
        changes
    }

    fn read_clock(&mut self) -> Option<u64> {
        let began = clock::now();
        let time = self.clock?.nanoseconds().ok();
        let ended = clock::now();
        self.clock_at = ended + (ended.saturating_sub(began) * CLOCK_SHARE).max(CLOCK_PAUSE);
        time
    }

    /// Asks all threads that are not asked one by one; gives the processor time of all of them.
    fn ask_cold(&mut self, now: Duration, changes: &mut Changes) -> u64 {
        let warm: FxHashSet<Tid> = self.warm.iter().copied().collect();
        let cold: Vec<Tid> = self
            .threads
            .keys()
            .filter(|tid| !warm.contains(tid))
            .copied()
            .collect();
        let mut time = 0;
        for tid in cold {
            if let Some(ran) = self.ask(tid, now, changes) {
                time += self.time_of(tid);
                // One that could not be asked is asked again each time.
                if ran != Ran::No {
                    self.warm.push(tid);
                }
            }
        }
        time
    }

    /// Whether the thread ran at the last sample: then it is read anew, whatever it says.
    fn runs_on(&mut self, tid: Tid, now: Duration) -> bool {
        let thread = self.threads.get_mut(&tid);
        thread.is_some_and(|thread| {
            let runs_on = thread.asleep_at.is_none() && thread.files.counts_runs();
            if runs_on {
                thread.warm(now);
            }
            runs_on
        })
    }

    /// Asks one thread and notes what it says; `None` when it is not there any more.
    fn ask(&mut self, tid: Tid, now: Duration, changes: &mut Changes) -> Option<Ran> {
        let thread = self.threads.get_mut(&tid)?;
        let ran = match thread.files.read_schedstat() {
            Err(error) if is_gone(&error) => {
                changes.ended.extend(self.threads.remove(&tid));
                return None;
            }
            Err(_) => {
                changes.unread.push(tid);
                return Some(Ran::Unread);
            }
            Ok(None) => Ran::NotCounted,
            Ok(Some(stat)) => {
                thread.cpu_nanoseconds = stat.cpu_nanoseconds;
                if thread.asleep_at == Some(RunCount::Begun(stat.runs)) {
                    return Some(Ran::No);
                }
                thread.warm(now);
                Ran::Yes
            }
        };
        changes.ran.push(tid);
        Some(ran)
    }

    fn time_of(&self, tid: Tid) -> u64 {
        self.threads
            .get(&tid)
            .map_or(0, |thread| thread.cpu_nanoseconds)
    }

    fn cool(&mut self, now: Duration) {
        let threads = &mut self.threads;
        self.warm.retain(|tid| {
            let Some(thread) = threads.get_mut(tid) else {
                return false;
            };
            let is_warm = thread.asleep_at.is_none() || now < thread.warm_until;
            if !is_warm {
                thread.files.cool();
            }
            is_warm
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::model::ThreadIndex;
    use crate::sys::procfile::ProcDir;
    use crate::target::tasks::TaskFiles;

    fn own_thread(tid: Tid) -> ThreadSampler {
        let proc = ProcDir::open(Pid::own()).unwrap();
        let files = TaskFiles::new(&proc, tid);
        ThreadSampler::new(ThreadIndex(0), tid.0, files)
    }

    fn own_tid() -> Tid {
        Tid(nix::unistd::gettid().as_raw())
    }

    /// A thread that has slept for long is found when it runs, though it is not asked one by one.
    #[test]
    fn a_cold_thread_that_runs_is_found_and_one_that_ends_is_told() {
        let (tell, told) = mpsc::channel();
        let (wake, woken) = mpsc::channel::<()>();
        let (done, seen) = mpsc::channel();
        let sleeper = std::thread::spawn(move || {
            tell.send(own_tid()).unwrap();
            while woken.recv().is_ok() {
                done.send(()).unwrap();
            }
        });
        let tid = told.recv().unwrap();
        let mut threads = ThreadSet::new(Pid::own());
        threads.add(tid, own_thread(tid));
        let asleep = |threads: &mut ThreadSet| {
            let thread = threads.threads.get_mut(&tid).unwrap();
            loop {
                let stamp = thread.files.stamp_before().unwrap();
                if !stamp.state.is_runnable() {
                    thread.asleep_at = stamp.runs;
                    return;
                }
                std::thread::yield_now();
            }
        };
        assert_eq!(threads.find_changes(Duration::from_secs(1)).ran, [tid]);
        asleep(&mut threads);
        assert!(threads.find_changes(Duration::from_secs(9)).ran.is_empty());
        assert!(threads.warm.is_empty());
        wake.send(()).unwrap();
        seen.recv().unwrap();
        assert_eq!(threads.find_changes(Duration::from_secs(10)).ran, [tid]);
        asleep(&mut threads);
        drop(wake);
        sleeper.join().unwrap();
        // Its directory may stay for a moment after the join.
        while threads
            .find_changes(Duration::from_secs(11))
            .ended
            .is_empty()
        {
            std::thread::yield_now();
        }
        assert!(threads.get(tid).is_none());
    }
}
