//! Stacks with counts of samples, for formats that show no order of time.
//!
//! The count of a stack is its time divided by the interval, not the number of looks that saw it: when looks are lost,
//! because one took too long or we were not let run, the next one stands for their time, so that what is slow to read
//! is not shown as less than it is. Counts are rounded so that their sum is that of the time (largest remainders
//! first); what was seen for less than half an interval can so be left out.

use std::collections::BTreeMap;
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::Style;
use super::label::{self, Origin, Owner};
use crate::model::ThreadIndex;
use crate::profile::{FrameId, Profile, Weight};

/// A frame as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Shown {
    /// What it is called.
    pub(super) label: String,
    /// Where it comes from.
    pub(super) origin: Origin,
}

/// What a stack is made of.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Part {
    Process(ThreadIndex),
    Thread(ThreadIndex),
    Frame(FrameId),
    Wait(&'static str),
}

/// The stacks of a profile, those that look the same as one.
pub(super) struct Counts {
    /// The frames that occur.
    pub(super) shown: Vec<Shown>,
    /// Stacks, outermost frame first, each by its frames' places in `shown`, with its count, which is not 0.
    pub(super) stacks: Vec<(Vec<usize>, u64)>,
}

impl Counts {
    /// Counts what `profile` has seen.
    pub(super) fn of(profile: &Profile, style: Style) -> Counts {
        let mut parts = Parts {
            profile,
            style,
            known: FxHashMap::default(),
            numbers: FxHashMap::default(),
            shown: Vec::new(),
        };
        let mut weights: BTreeMap<Vec<usize>, Weight> = BTreeMap::new();
        for (place, weight) in profile.sorted_totals() {
            let mut stack = Vec::new();
            if let Some(word) = label::wait_of(&place) {
                stack.push(parts.number(Part::Wait(word)));
            }
            for frame in profile.stacks.walk(place.stack) {
                stack.push(parts.number(Part::Frame(frame)));
            }
            if style.threads {
                stack.push(parts.number(Part::Thread(place.thread)));
            }
            if style.processes {
                stack.push(parts.number(Part::Process(place.thread)));
            }
            stack.reverse();
            weights.entry(stack).or_default().add(weight);
        }
        let counts = counts(
            &weights.values().copied().collect::<Vec<_>>(),
            profile.stats.interval,
        );
        Counts {
            shown: parts.shown,
            stacks: weights
                .into_keys()
                .zip(counts)
                .filter(|(_, count)| *count > 0)
                .collect(),
        }
    }
}

/// The frames that were shown so far.
struct Parts<'a> {
    profile: &'a Profile,
    style: Style,
    known: FxHashMap<Part, usize>,
    numbers: FxHashMap<Shown, usize>,
    shown: Vec<Shown>,
}

impl Parts<'_> {
    fn number(&mut self, part: Part) -> usize {
        if let Some(number) = self.known.get(&part) {
            return *number;
        }
        let (label, origin) = match part {
            Part::Process(thread) => (Owner::of(self.profile, thread).process(), Origin::Owner),
            Part::Thread(thread) => (Owner::of(self.profile, thread).thread(), Origin::Owner),
            Part::Wait(word) => (label::wait(word), Origin::Wait),
            Part::Frame(id) => {
                let frame = self.profile.stacks.frame(id);
                (label::frame(frame, self.style), Origin::of(frame))
            }
        };
        let shown = Shown { label, origin };
        let number = *self.numbers.entry(shown.clone()).or_insert_with(|| {
            self.shown.push(shown);
            self.shown.len() - 1
        });
        self.known.insert(part, number);
        number
    }
}

/// How many intervals each weight is worth, rounded so that the sum is that of all; samples where there is no interval.
fn counts(weights: &[Weight], interval: Duration) -> Vec<u64> {
    let interval = interval.as_nanos();
    if interval == 0 {
        return weights.iter().map(|weight| weight.samples).collect();
    }
    let times: Vec<u128> = weights
        .iter()
        .map(|weight| weight.time.as_nanos())
        .collect();
    let mut counts: Vec<u128> = times.iter().map(|time| time / interval).collect();
    let all = (times.iter().sum::<u128>() + interval / 2) / interval;
    let missing = all.saturating_sub(counts.iter().sum());
    let mut order: Vec<usize> = (0..times.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(times[*index] % interval));
    let missing = usize::try_from(missing).unwrap_or(usize::MAX);
    for index in order.into_iter().take(missing) {
        counts[index] += 1;
    }
    counts
        .into_iter()
        .map(|count| u64::try_from(count).unwrap_or(u64::MAX))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn weights(times: &[u64]) -> Vec<Weight> {
        times
            .iter()
            .map(|time| Weight {
                time: Duration::from_millis(*time),
                samples: 1,
            })
            .collect()
    }

    #[test]
    fn counts_are_shares_of_the_time() {
        let ten = Duration::from_millis(10);
        assert_eq!(counts(&weights(&[10, 30, 5]), ten), [1, 3, 1]);
        assert_eq!(counts(&weights(&[14, 14, 14]), ten), [2, 1, 1]);
        assert_eq!(counts(&weights(&[4]), ten), [0]);
        assert_eq!(counts(&weights(&[14, 4]), Duration::ZERO), [1, 1]);
        assert!(counts(&[], ten).is_empty());
    }

    proptest! {
        #[test]
        fn the_sum_is_kept(times in proptest::collection::vec(0u64..100_000, 0..50), interval in 1u64..2000) {
            let counts = counts(&weights(&times), Duration::from_millis(interval));
            let all: u64 = times.iter().sum();
            prop_assert_eq!(counts.iter().sum::<u64>(), (all + interval / 2) / interval);
            for (count, time) in counts.iter().zip(&times) {
                prop_assert!(*count == time / interval || *count == time / interval + 1);
            }
        }
    }
}
