//! For how long a thread has not run, by the scheduler's own record.

use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use crate::model::{Pid, Since, SinceSource, Tid};
use crate::sys::affinity::Pinned;
use crate::sys::procfile::ProcDir;
use crate::target::tasks::read_exec_start;

/// How far our own `exec_start` can lie behind when we read it: the scheduler brings it up to date at each tick, and
/// the slowest usual tick is 10 ms (CONFIG_HZ=100).
const TICK: Duration = Duration::from_millis(10);
/// How far the scheduler clocks of two processors of one machine were seen to lie apart.
const CLOCK_SKEW: Duration = Duration::from_secs(3);

/// Tells how long ago a thread ran.
///
/// `se.exec_start` counts by the clock of the processor that the thread ran on (`kernel/sched/fair.c::update_curr`,
/// Linux 6.18), which is neither CLOCK_MONOTONIC nor the same on all processors. So ours is read beside it, after
/// moving to that processor: we run, so ours is "now".
#[derive(Debug)]
pub struct SinceClock {
    own: Option<(ProcDir, Tid)>,
    /// By processor.
    readings: FxHashMap<Option<u32>, Option<Reading>>,
}

/// A processor's scheduler clock, read once.
#[derive(Clone, Copy, Debug)]
struct Reading {
    /// What it showed, in nanoseconds.
    clock: u64,
    /// When that was.
    at: Instant,
    /// Whether we could move to the processor, so that it is its clock indeed.
    is_its_own: bool,
    /// How far it has fallen behind CLOCK_MONOTONIC since the machine started: it leaves out the time that a hypervisor
    /// stole, and with some configurations interrupts (`kernel/sched/core.c::update_rq_clock_task`, Linux 6.18).
    lag: Duration,
}

impl SinceClock {
    /// A clock for one instant; it must be used on the thread that made it.
    pub fn new() -> Self {
        let own = ProcDir::open(Pid::own()).ok();
        SinceClock {
            own: own.map(|proc| (proc, Tid(nix::unistd::gettid().as_raw()))),
            readings: FxHashMap::default(),
        }
    }

    /// How long ago `tid`, which ran on `processor` last, ran; `None` where the kernel has no record.
    pub fn off_cpu(&mut self, proc: &ProcDir, tid: Tid, processor: Option<u32>) -> Option<Since> {
        let last_ran = read_exec_start(proc, tid)?;
        if last_ran == 0 {
            return None;
        }
        let reading = self.read_clock(processor)?;
        let passed = u64::try_from(reading.at.elapsed().as_nanos()).ok()?;
        // Ours may be a tick old when the thread has just gone to sleep.
        let elapsed = reading
            .clock
            .saturating_add(passed)
            .saturating_sub(last_ran);
        Some(Since {
            elapsed: Duration::from_nanos(elapsed),
            error: reading.error(Duration::from_nanos(elapsed)),
            source: SinceSource::Sched,
        })
    }

    fn read_clock(&mut self, processor: Option<u32>) -> Option<Reading> {
        let (own, tid) = self.own.as_ref()?;
        *self.readings.entry(processor).or_insert_with(|| {
            let wanted = processor.and_then(|processor| usize::try_from(processor).ok());
            let pinned = wanted.and_then(Pinned::to);
            // Moving brings our record up to date; where we did not move, giving way once does.
            rustix::thread::sched_yield();
            let clock = read_exec_start(own, *tid)?;
            Some(Reading {
                clock,
                lag: monotonic().saturating_sub(Duration::from_nanos(clock)),
                at: Instant::now(),
                is_its_own: pinned.is_some(),
            })
        })
    }
}

impl Reading {
    /// How far off an elapsed time may be. By its own clock it can only be too short, by as much as the clock lost in that
    /// time, which is at most all that it has ever lost; another processor's clock may have lost more or less.
    fn error(&self, elapsed: Duration) -> Duration {
        let lost = if self.is_its_own {
            // Stolen time comes steadily: ten times the average of the machine's life is a generous share.
            let share = self.lag.as_secs_f64() / self.at_since_start().as_secs_f64().max(1.0);
            self.lag.min(elapsed.mul_f64((10.0 * share).min(1.0)))
        } else {
            self.lag.max(CLOCK_SKEW)
        };
        TICK + lost
    }

    fn at_since_start(&self) -> Duration {
        Duration::from_nanos(self.clock) + self.lag
    }
}

fn monotonic() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(
        u64::try_from(now.tv_sec).unwrap_or(0),
        u32::try_from(now.tv_nsec).unwrap_or(0),
    )
}

impl Default for SinceClock {
    fn default() -> Self {
        SinceClock::new()
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::target::tasks::TaskFiles;

    #[test]
    fn a_child_that_has_just_gone_to_sleep_ran_a_moment_ago() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let proc = ProcDir::open(Pid(child.id().cast_signed())).unwrap();
        let tid = Tid(child.id().cast_signed());
        let files = TaskFiles::new(&proc, tid);
        let facts = loop {
            let facts = files.facts().unwrap();
            if !facts.state.is_runnable() {
                break facts;
            }
            std::thread::yield_now();
        };
        // Kernels without the file give nothing; where there is one, it must be right.
        if let Some(since) = SinceClock::new().off_cpu(&proc, tid, facts.processor) {
            assert!(since.elapsed < Duration::from_secs(5), "{since:?}");
        }
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
