//! Captures some processes as a whole, again and again for a while: for what one snapshot can't tell, whether they make progress.

use std::time::{Duration, Instant};

use crate::model::{Moment, Pid, ProcessSnapshot};
use crate::snapshot::{CaptureOptions, Locals, capture};
use crate::sys::clock::read_clocks;
use crate::target::Target;

/// Shortest time between two snapshots.
const MIN_INTERVAL: Duration = Duration::from_millis(40);
/// We do not work for more than one part in so many of the time.
const IDLENESS: u32 = 4;
/// Snapshots at the least, however long one takes.
const MIN_SNAPSHOTS: u32 = 4;
/// Variables are read in one snapshot of so many.
const LOCALS_EVERY: usize = 2;
/// After so long, snapshots are taken the more seldom the longer it goes on: ten minutes have seven times as many as the first two
/// seconds, which bounds both what they cost the target and what is kept of them.
const DENSE: Duration = Duration::from_secs(2);
/// How often it is checked whether the end was asked for.
const ROUND: Duration = Duration::from_millis(50);

/// An observation of some processes.
///
/// Snapshots are taken at random times, so that no cycle of the target's is met at the same point again and again. How far they lie
/// apart depends on what the cheapest one cost: others may only have waited for a processor.
#[derive(Debug)]
pub struct Watch {
    pids: Vec<Pid>,
    began: Instant,
    taken: usize,
    cheapest: Duration,
    random: fastrand::Rng,
}

impl Watch {
    /// Begins to watch `pids`.
    pub fn start(pids: Vec<Pid>) -> Self {
        Watch {
            pids,
            began: Instant::now(),
            taken: 0,
            cheapest: Duration::MAX,
            random: fastrand::Rng::new(),
        }
    }

    /// For how long it has watched.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Watches until `end`, counted from the beginning, or until `is_over`. Hands each snapshot to `see`, with its moment; the last one
    /// is not taken before `end`. Processes that end are missing from then on; gives whether any is left.
    pub fn watch_until(
        &mut self,
        end: Duration,
        options: CaptureOptions,
        is_over: &mut dyn FnMut() -> bool,
        see: &mut dyn FnMut(&[ProcessSnapshot], Moment),
    ) -> bool {
        // Where a snapshot takes long, a few are taken all the same.
        let most = end.saturating_sub(self.elapsed()) / MIN_SNAPSHOTS;
        loop {
            if self.taken > 0 {
                let elapsed = self.elapsed();
                let mut interval = interval(self.cheapest, elapsed);
                if self.taken < MIN_SNAPSHOTS as usize {
                    interval = interval.min(most);
                }
                let next = interval.mul_f64(0.5 + self.random.f64());
                if sleep(next.min(end.saturating_sub(elapsed)), is_over) {
                    return true;
                }
            }
            let started = Instant::now();
            let seen = capture_all(&self.pids, options, self.taken);
            if seen.is_empty() {
                return false;
            }
            let clocks = read_clocks();
            self.cheapest = self.cheapest.min(started.elapsed());
            let elapsed = match self.taken {
                0 => Duration::ZERO,
                _ => self.elapsed(),
            };
            self.taken += 1;
            see(&seen, Moment { elapsed, clocks });
            if elapsed >= end {
                return true;
            }
        }
    }
}

/// How far snapshots lie apart on average, one of which takes `cost`, once it has watched for `elapsed`.
fn interval(cost: Duration, elapsed: Duration) -> Duration {
    let dense = cost.saturating_mul(IDLENESS).max(MIN_INTERVAL);
    dense.mul_f64(elapsed.div_duration_f64(DENSE).max(1.0))
}

/// Sleeps for so long, or until it is over; gives whether it is.
fn sleep(time: Duration, is_over: &mut dyn FnMut() -> bool) -> bool {
    let began = Instant::now();
    loop {
        if is_over() {
            return true;
        }
        let left = time.saturating_sub(began.elapsed());
        if left.is_zero() {
            return false;
        }
        std::thread::sleep(left.min(ROUND));
    }
}

fn capture_all(pids: &[Pid], options: CaptureOptions, number: usize) -> Vec<ProcessSnapshot> {
    let options = CaptureOptions {
        locals: match number % LOCALS_EVERY {
            0 => Locals::Few,
            _ => Locals::None,
        },
        counts: true,
        ..options
    };
    let targets = pids.iter().filter_map(|pid| Target::open(*pid).ok());
    let captures = targets.map(|target| capture(target, options).process);
    captures
        .filter(|process| !process.threads.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many snapshots are taken in that time, on average.
    fn count(cost: Duration, end: Duration) -> usize {
        let mut elapsed = Duration::ZERO;
        (0..)
            .take_while(|_| {
                elapsed += cost + interval(cost, elapsed);
                elapsed < end
            })
            .count()
    }

    #[test]
    fn a_long_observation_is_not_a_dense_one() {
        let cheap = Duration::from_millis(2);
        let short = count(cheap, DENSE);
        assert!((40..=50).contains(&short), "{short}");
        let long = count(cheap, Duration::from_secs(600));
        assert!(long < 8 * short, "{long}");
        // What costs much is not done often, and ever more seldom.
        let dear = Duration::from_millis(500);
        assert!(count(dear, Duration::from_secs(600)) < 10);
    }

    #[test]
    fn an_observation_ends_when_it_is_asked_to() {
        let mut watch = Watch::start(vec![Pid::own()]);
        let mut seen = 0;
        let began = Instant::now();
        let mut asked = 0;
        let mut is_over = || {
            asked += 1;
            asked > 3
        };
        let far = Duration::from_secs(600);
        let options = CaptureOptions::default();
        assert!(watch.watch_until(far, options, &mut is_over, &mut |_, _| seen += 1));
        assert!(seen > 0 && began.elapsed() < Duration::from_secs(60));
        // It goes on from there.
        let soon = watch.elapsed() + Duration::from_millis(100);
        let mut last = Duration::ZERO;
        let mut see = |_: &[ProcessSnapshot], moment: Moment| last = moment.elapsed;
        assert!(watch.watch_until(soon, options, &mut || false, &mut see));
        assert!(last >= soon);
    }

    #[test]
    fn nothing_is_left_of_processes_that_have_ended() {
        let gone = Pid(i32::MAX);
        let mut watch = Watch::start(vec![gone]);
        let options = CaptureOptions::default();
        let end = Duration::from_secs(600);
        assert!(!watch.watch_until(end, options, &mut || false, &mut |_, _| {}));
    }
}
