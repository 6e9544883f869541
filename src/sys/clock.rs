//! Clocks: sleeping until a moment, and the processor time of processes.

use std::time::Duration;

use nix::errno::Errno;
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};

use crate::model::{Clocks, Pid};

/// Time since some moment in the past, which never goes back (CLOCK_MONOTONIC).
pub fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// What the clocks show that programs read.
pub fn read_clocks() -> Clocks {
    let real = clock_gettime(ClockId::CLOCK_REALTIME).map_or(Duration::ZERO, Duration::from);
    Clocks {
        real,
        monotonic: now(),
    }
}

/// Sleeps until [`now`] is `moment`; a signal may end it earlier.
pub fn sleep_until(moment: Duration) {
    let _ = clock_nanosleep(
        ClockId::CLOCK_MONOTONIC,
        ClockNanosleepFlags::TIMER_ABSTIME,
        &moment.into(),
    );
}

/// Lets the calling thread's sleeps end when they should; as a rule the kernel adds up to 50 us to save wake-ups.
pub fn sleep_precisely() {
    // Where it is refused, sleeps end late, which is seen and told.
    let _ = nix::sys::prctl::set_timerslack(1);
}

/// Processor time of this process.
pub fn own_cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// The clock that shows the processor time of all threads of a process, ended ones too.
///
/// It is the sum of what the `schedstat` files of its threads show, and what ended ones have left
/// (`kernel/time/posix-cpu-timers.c::cpu_clock_sample_group`, Linux 6.18).
#[derive(Clone, Copy, Debug)]
pub struct ProcessClock {
    id: ClockId,
}

impl ProcessClock {
    /// The clock of `pid`; no rights are needed.
    pub fn of(pid: Pid) -> Result<Self, Errno> {
        Ok(ProcessClock {
            id: ClockId::pid_cpu_clock_id(pid.to_nix())?,
        })
    }

    /// What it shows, in nanoseconds; fails when the process has ended.
    pub fn nanoseconds(self) -> Result<u64, Errno> {
        let time = Duration::from(clock_gettime(self.id)?);
        u64::try_from(time.as_nanos()).map_err(|_| Errno::EOVERFLOW)
    }
}

/// The processor time of the calling thread.
pub fn read_thread_time() -> Duration {
    // It can't fail: the clock is there since Linux 2.6.12.
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_go_on() {
        sleep_precisely();
        let before = now();
        sleep_until(before + Duration::from_millis(2));
        assert!(now() >= before + Duration::from_millis(2));
        let own = ProcessClock::of(Pid::own()).unwrap();
        let first = own.nanoseconds().unwrap();
        assert!(u128::from(first) <= own_cpu_time().as_nanos());
        assert!(own.nanoseconds().unwrap() >= first);
        // More than any pid_max (PID_MAX_LIMIT, include/linux/threads.h).
        assert!(ProcessClock::of(Pid(5_000_000)).is_err());
    }
}
