//! When samples are taken: one at a chance moment of each interval, and what is late or lost is told.

use std::time::Duration;

use crate::sys::clock::{now, sleep_until};

/// Parts of an interval, each of which is used once in as many samples.
const PARTS: usize = 8;

/// Longest sleep at a stretch, so that a wish to end is heard.
const MAX_SLEEP: Duration = Duration::from_millis(100);

/// The moment of one sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tick {
    /// The end of its interval, since the beginning: the sample stands for the time since the end of the one before.
    pub end: Duration,
    /// How many intervals before it had no sample.
    pub lost: u64,
    /// How long after its moment it came.
    pub lateness: Duration,
}

/// Divides time into intervals and chooses a moment in each.
///
/// A target that does the same things in a cycle as long as the interval, or a multiple or fraction of it, would be met at
/// the same point again and again by a clock that ticks evenly. So each moment lies by chance in its interval; every
/// part of the interval is used once in eight samples, which meets such a cycle more evenly than chance alone does. (Steps by an
/// irrational number meet most cycles better still, and a few much worse: up to 15 points off for 1.62 intervals.)
///
/// A sample stands for its whole interval and not for the time since the last moment: that is longer when the moment is
/// late in its interval, and would give the late points of such a cycle more weight.
#[derive(Clone, Debug)]
pub struct Clock {
    interval: Duration,
    began: Duration,
    chance: fastrand::Rng,
    /// The parts of an interval that are still to be used, in an order by chance.
    parts: Vec<usize>,
    /// The interval of the next sample.
    next: u64,
    /// The last interval that has one.
    last: u64,
    /// Where in its interval that one lies.
    offset: Duration,
}

impl Clock {
    /// A clock that begins now, with `interval` above zero, and goes on for `duration`, rounded up to whole intervals and at
    /// least one.
    pub fn start(interval: Duration, duration: Option<Duration>) -> Self {
        Clock::with_chance(interval, duration, fastrand::Rng::new())
    }

    fn with_chance(interval: Duration, duration: Option<Duration>, chance: fastrand::Rng) -> Self {
        let intervals = duration.map_or(u128::MAX, |duration| {
            duration.as_nanos().div_ceil(interval.as_nanos().max(1))
        });
        let mut clock = Clock {
            interval,
            began: now(),
            chance,
            parts: Vec::new(),
            next: 0,
            last: u64::try_from(intervals.saturating_sub(1)).unwrap_or(u64::MAX),
            offset: Duration::ZERO,
        };
        clock.draw();
        clock
    }

    /// Chooses where in its interval the next sample lies.
    fn draw(&mut self) {
        if self.parts.is_empty() {
            self.parts.extend(0..PARTS);
            self.chance.shuffle(&mut self.parts);
        }
        let part = self.parts.pop().unwrap_or(0);
        let fraction = (part as f64 + self.chance.f64()) / PARTS as f64;
        self.offset = self.interval.mul_f64(fraction);
    }

    /// Time since the beginning.
    pub fn elapsed(&self) -> Duration {
        now().saturating_sub(self.began)
    }

    fn start_of(&self, index: u64) -> Duration {
        let nanoseconds = self.interval.as_nanos() * u128::from(index);
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }

    /// Whether the last sample has been taken.
    pub fn is_over(&self) -> bool {
        self.next > self.last
    }

    /// Sleeps until the next moment, or shorter when `is_over` says so; `None` then.
    pub fn wait(&mut self, is_over: impl Fn() -> bool) -> Option<Tick> {
        let (index, lost) = self.choose(self.elapsed());
        let moment = self.start_of(index) + self.offset;
        loop {
            if is_over() {
                return None;
            }
            let elapsed = self.elapsed();
            if elapsed >= moment {
                self.next = index + 1;
                self.draw();
                return Some(Tick {
                    end: self.start_of(index + 1),
                    lost,
                    lateness: elapsed - moment,
                });
            }
            sleep_until(self.began + moment.min(elapsed + MAX_SLEEP));
        }
    }

    /// When the next moment is, by [`now`].
    pub fn next_at(&self) -> Duration {
        self.began + self.start_of(self.next) + self.offset
    }

    /// The interval of the next sample, and how many before it are over without one.
    fn choose(&self, elapsed: Duration) -> (u64, u64) {
        let current = elapsed.as_nanos() / self.interval.as_nanos().max(1);
        let current = u64::try_from(current).unwrap_or(u64::MAX);
        // However late it is: there is no time beyond the last interval that a sample could stand for.
        let index = current.min(self.last).max(self.next);
        (index, index - self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(interval: Duration) -> Clock {
        Clock::with_chance(interval, None, fastrand::Rng::with_seed(7))
    }

    /// Where the samples of so many intervals lie.
    fn moments(clock: &mut Clock, count: u64) -> Vec<Duration> {
        let moment = |index| {
            let moment = clock.start_of(index) + clock.offset;
            clock.draw();
            moment
        };
        (0..count).map(moment).collect()
    }

    #[test]
    fn each_interval_has_one_moment_and_what_is_over_is_lost() {
        let interval = Duration::from_millis(10);
        let mut clock = clock(interval);
        for (index, moment) in (0..1000).zip(moments(&mut clock, 1000)) {
            assert!(interval * index <= moment && moment < interval * (index + 1));
        }
        assert_eq!(clock.choose(Duration::ZERO), (0, 0));
        assert_eq!(clock.choose(Duration::from_millis(9)), (0, 0));
        assert_eq!(clock.choose(Duration::from_millis(39)), (3, 3));
        let later = Clock { next: 7, ..clock };
        assert_eq!(later.choose(Duration::from_millis(39)), (7, 0));
    }

    #[test]
    fn it_does_not_go_beyond_its_duration() {
        let interval = Duration::from_millis(10);
        let of = |duration| {
            let duration = Some(Duration::from_millis(duration));
            Clock::with_chance(interval, duration, fastrand::Rng::with_seed(7))
        };
        assert_eq!(of(1000).choose(Duration::from_secs(9)), (99, 99));
        assert_eq!(of(1001).choose(Duration::from_secs(9)), (100, 100));
        let mut clock = of(0);
        assert_eq!(clock.choose(Duration::from_secs(9)), (0, 0));
        assert!(!clock.is_over() && clock.wait(|| false).is_some() && clock.is_over());
    }

    #[test]
    fn it_sleeps_until_the_moment_and_hears_the_end() {
        let mut clock = clock(Duration::from_millis(3));
        let ends: Vec<Duration> = (0..3).map(|_| clock.wait(|| false).unwrap().end).collect();
        assert!(ends.is_sorted() && clock.elapsed() >= clock.interval * 2);
        assert!(
            self::clock(Duration::from_secs(3600))
                .wait(|| true)
                .is_none()
        );
    }

    /// How far off the shares of 50, 30 and 20 % of a cycle of so many milliseconds are in 2,000 samples.
    fn worst_error(clock: &mut Clock, cycle: f64) -> f64 {
        let mut counts = [0_u32; 3];
        for moment in moments(clock, 2000) {
            let point = (moment.as_secs_f64() * 1e3 / cycle).fract();
            counts[usize::from(point >= 0.5) + usize::from(point >= 0.8)] += 1;
        }
        let shares = counts.map(|count| f64::from(count) / 2000.0);
        let errors = shares.iter().zip([0.5, 0.3, 0.2]);
        errors.fold(0.0, |worst, (share, truth)| {
            (share - truth).abs().max(worst)
        })
    }

    #[test]
    fn no_cycle_of_the_target_misleads_it() {
        let mut clock = clock(Duration::from_millis(10));
        let cycles: Vec<f64> = (10..=1000).map(|step| 0.1 * f64::from(step)).collect();
        let errors: Vec<f64> = cycles
            .iter()
            .map(|cycle| worst_error(&mut clock, *cycle))
            .collect();
        let squares: f64 = errors.iter().map(|error| error * error).sum();
        let usual = (squares / errors.len() as f64).sqrt();
        // By chance alone, one share of 50 % is off by 1.1 points as a rule.
        assert!(usual < 0.011, "{usual}");
        assert!(errors.iter().all(|error| *error < 0.045));
        assert!(worst_error(&mut clock, 10.0) < 0.005);
    }
}
