//! Which threads of one process may be stopped, and for how long: the budget that keeps `--blocking` from harm.

use std::time::Duration;

use rustc_hash::FxHashSet;

use crate::model::Tid;
use crate::sys::clock::now;
use crate::sys::ptrace::{Hold, MAX_HOLD, StopError, StoppedThread, Tracer};

/// Threads are stopped for at most one part in so many of the time.
const BUDGET_SHARE: u32 = 10;
/// How much of the budget can be kept for later: what one second gives.
const MAX_SAVED: Duration = Duration::from_millis(100);
/// After so many threads that could not be stopped, no thread of the process is any more.
const MAX_LEFT_ALONE: usize = 8;

/// Time for which threads may be stopped: a tenth of the time that passes. One stop can take more than there is; then there is no
/// other until the debt is paid.
#[derive(Clone, Copy, Debug)]
struct Budget {
    /// What is left.
    saved: Duration,
    /// What was taken too much.
    debt: Duration,
    updated_at: Duration,
}

impl Budget {
    fn new(saved: Duration, now: Duration) -> Self {
        Budget {
            saved,
            debt: Duration::ZERO,
            updated_at: now,
        }
    }

    /// Whether something is left at `now`.
    fn has_some(&mut self, now: Duration) -> bool {
        let earned = now.saturating_sub(self.updated_at) / BUDGET_SHARE;
        self.updated_at = self.updated_at.max(now);
        let kept = earned.saturating_sub(self.debt);
        self.debt = self.debt.saturating_sub(earned);
        self.saved = (self.saved + kept).min(MAX_SAVED);
        self.debt.is_zero() && !self.saved.is_zero()
    }

    fn spend(&mut self, pause: Duration) {
        self.debt += pause.saturating_sub(self.saved);
        self.saved = self.saved.saturating_sub(pause);
    }
}

/// The stops of one process.
#[derive(Debug)]
pub struct Stops {
    budget: Budget,
    left_alone: FxHashSet<Tid>,
    is_spent_told: bool,
    remarks: Vec<String>,
    account: StopAccount,
}

/// What stops have cost, and what they were not made for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StopAccount {
    /// Stops that were made.
    pub made: u64,
    /// Readings of threads that could run and were not stopped all the same.
    pub left_out: u64,
    /// How long threads were stopped, in all: an upper bound.
    pub pause: Duration,
}

impl StopAccount {
    /// Adds another one.
    pub fn add(&mut self, other: StopAccount) {
        self.made += other.made;
        self.left_out += other.left_out;
        self.pause += other.pause;
    }
}

impl Stops {
    /// The stops of a process that is read once: its budget is what a second gives.
    pub fn for_one_look() -> Self {
        Stops::new(MAX_SAVED)
    }

    /// The stops of a process that is read for a while: its budget is what passing time gives.
    pub fn for_a_while() -> Self {
        Stops::new(MAX_SAVED / BUDGET_SHARE)
    }

    fn new(saved: Duration) -> Self {
        Stops {
            budget: Budget::new(saved, now()),
            left_alone: FxHashSet::default(),
            is_spent_told: false,
            remarks: Vec::new(),
            account: StopAccount::default(),
        }
    }

    /// Stops `tid`, if it may be stopped and does stop.
    pub fn stop<'a>(&mut self, tracer: &'a mut Tracer, tid: Tid) -> Option<StoppedThread<'a>> {
        if !self.may_stop(tid) {
            self.account.left_out += 1;
            return None;
        }
        match tracer.stop(tid) {
            Ok(stopped) => Some(stopped),
            Err(refusal) => {
                self.account.left_out += 1;
                self.charge(refusal.pause);
                if !matches!(refusal.error, StopError::Gone(_)) {
                    self.leave_alone(tid, &refusal.error.to_string());
                }
                None
            }
        }
    }

    fn may_stop(&mut self, tid: Tid) -> bool {
        if self.left_alone.len() >= MAX_LEFT_ALONE || self.left_alone.contains(&tid) {
            return false;
        }
        let has_budget = self.budget.has_some(now());
        if !has_budget && !self.is_spent_told {
            self.is_spent_told = true;
            self.remarks.push(format!(
                "threads were stopped for {} % of the time, and no more is allowed: some are read without being stopped",
                100 / BUDGET_SHARE
            ));
        }
        has_budget
    }

    /// Releases a thread; whether it was stopped all the while.
    pub fn release(&mut self, tid: Tid, stopped: StoppedThread<'_>) -> bool {
        let Hold { is_whole, pause } = stopped.release();
        self.account.made += 1;
        self.charge(pause);
        if !is_whole {
            let reason = format!("thread {tid} was not read within {MAX_HOLD:?} and was released");
            self.leave_alone(tid, &reason);
        }
        is_whole
    }

    fn charge(&mut self, pause: Duration) {
        self.account.pause += pause;
        self.budget.spend(pause);
    }

    fn leave_alone(&mut self, tid: Tid, reason: &str) {
        self.left_alone.insert(tid);
        self.remarks
            .push(format!("{reason}; it is read without being stopped"));
        if self.left_alone.len() == MAX_LEFT_ALONE {
            self.remarks.push(format!(
                "{MAX_LEFT_ALONE} threads could not be stopped: no thread of this process is stopped any more"
            ));
        }
    }

    /// What is to be said since the last call.
    pub fn take_remarks(&mut self) -> Vec<String> {
        std::mem::take(&mut self.remarks)
    }

    /// What stops have cost since the last call.
    pub fn take_account(&mut self) -> StopAccount {
        std::mem::take(&mut self.account)
    }
}

/// What stops a thread, and which may be.
pub struct Stopping<'a> {
    /// Stops it.
    pub tracer: &'a mut Tracer,
    /// Those of its process.
    pub stops: &'a mut Stops,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_stop_that_was_too_long_is_paid_back() {
        let mut budget = Budget::new(10 * MS, Duration::ZERO);
        assert!(budget.has_some(Duration::ZERO));
        budget.spend(90 * MS);
        assert!(!budget.has_some(799 * MS));
        assert!(!budget.has_some(800 * MS));
        assert!(budget.has_some(801 * MS));
    }

    #[test]
    fn no_more_is_saved_than_a_second_gives() {
        let mut budget = Budget::new(Duration::ZERO, Duration::ZERO);
        assert!(!budget.has_some(Duration::ZERO));
        assert!(budget.has_some(Duration::from_secs(3600)));
        budget.spend(MAX_SAVED);
        assert!(!budget.has_some(Duration::from_secs(3600)));
    }

    proptest! {
        /// Whatever stops are made, they take a tenth of the time, what was saved, and one stop at most.
        #[test]
        fn stops_take_a_tenth_of_the_time(steps in prop::collection::vec((0_u32..50_000, 0_u32..90_000), 1..200)) {
            let saved = 10 * MS;
            let mut budget = Budget::new(saved, Duration::ZERO);
            let (mut time, mut stopped) = (Duration::ZERO, Duration::ZERO);
            for (passed, wanted) in steps {
                time += Duration::from_micros(u64::from(passed));
                if budget.has_some(time) {
                    prop_assert!(stopped <= saved + time / BUDGET_SHARE);
                    let pause = Duration::from_micros(u64::from(wanted));
                    budget.spend(pause);
                    stopped += pause;
                    time += pause;
                }
            }
        }
    }
}
