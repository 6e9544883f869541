//! What threads did, in the order of time; bounded, by giving up detail and never time.

use std::time::Duration;

use rustc_hash::FxHashMap;

use super::{Place, Weight};
use crate::model::ThreadIndex;

/// Most entries: about 200 MiB.
const MAX_ENTRIES: usize = 4 << 20;

/// One thread in one place for some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it did.
    pub place: Place,
    /// When that began, since the recording began.
    pub start: Duration,
    /// For how long.
    pub weight: Weight,
}

/// What threads did, in the order in which it was seen to end; for each thread that is the order of time.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    entries: Vec<Entry>,
    /// The last entry of each thread.
    last: FxHashMap<ThreadIndex, usize>,
    /// How often detail was given up.
    halvings: u32,
}

impl Timeline {
    /// Adds what comes next for its thread. What only goes on is added to what is there.
    pub fn push(&mut self, entry: Entry) {
        if let Some(last) = self.last.get(&entry.place.thread)
            && let Some(known) = self.entries.get_mut(*last)
            && known.place == entry.place
            && known.start + known.weight.time == entry.start
        {
            known.weight.add(entry.weight);
            return;
        }
        if self.entries.len() >= MAX_ENTRIES {
            self.halve();
        }
        self.last.insert(entry.place.thread, self.entries.len());
        self.entries.push(entry);
    }

    /// Of two entries of a thread that follow each other one stays, with the time of both: the first and the second by
    /// turns, so that neither kind of place is preferred.
    fn halve(&mut self) {
        let mut open: FxHashMap<ThreadIndex, (Entry, bool)> = FxHashMap::default();
        let mut kept = Vec::with_capacity(self.entries.len() / 2 + 1);
        for entry in self.entries.drain(..) {
            let thread = entry.place.thread;
            match open.get_mut(&thread) {
                Some((first, takes_first)) if first.weight.samples > 0 => {
                    let mut merged = *first;
                    if !*takes_first {
                        merged.place = entry.place;
                    }
                    merged.weight.add(entry.weight);
                    *takes_first = !*takes_first;
                    first.weight.samples = 0;
                    kept.push(merged);
                }
                Some((first, _)) => *first = entry,
                None => {
                    open.insert(thread, (entry, true));
                }
            }
        }
        let mut rest: Vec<Entry> = open
            .into_values()
            .map(|(entry, _)| entry)
            .filter(|entry| entry.weight.samples > 0)
            .collect();
        rest.sort_by_key(|entry| (entry.start, entry.place.thread));
        kept.extend(rest);
        self.last = kept
            .iter()
            .enumerate()
            .map(|(index, entry)| (entry.place.thread, index))
            .collect();
        self.entries = kept;
        self.halvings += 1;
    }

    /// All entries.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// How often detail was given up to stay within the limit of memory.
    pub fn halvings(&self) -> u32 {
        self.halvings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Activity, Gil};
    use crate::profile::StackId;

    fn entry(thread: u32, stack: u32, start: u64, time: u64) -> Entry {
        Entry {
            place: Place {
                thread: ThreadIndex(thread),
                stack: StackId(stack),
                activity: Activity::Active,
                gil: Gil::None,
            },
            start: Duration::from_millis(start),
            weight: Weight {
                time: Duration::from_millis(time),
                samples: 1,
            },
        }
    }

    #[test]
    fn what_goes_on_is_one_entry() {
        let mut timeline = Timeline::default();
        timeline.push(entry(0, 1, 0, 10));
        timeline.push(entry(1, 1, 0, 10));
        timeline.push(entry(0, 1, 10, 10));
        timeline.push(entry(0, 2, 20, 10));
        timeline.push(entry(0, 2, 40, 10));
        let seen: Vec<_> = timeline
            .entries()
            .iter()
            .map(|entry| {
                (
                    entry.place.thread.0,
                    entry.place.stack.0,
                    entry.weight.time.as_millis(),
                )
            })
            .collect();
        assert_eq!(seen, [(0, 1, 20), (1, 1, 10), (0, 2, 10), (0, 2, 10)]);
    }

    #[test]
    fn halving_keeps_all_time_and_the_shares() {
        let mut timeline = Timeline::default();
        for index in 0..30_000 {
            let stack = u32::try_from(index % 3).unwrap();
            timeline.push(entry(0, stack, index * 10, 10));
            timeline.push(entry(1, 7 + stack, index * 10, 5));
        }
        let before = timeline.entries().len();
        timeline.halve();
        assert!(timeline.entries().len() <= before / 2 + 2);
        let time = |stack: u32| {
            timeline
                .entries()
                .iter()
                .filter(|entry| entry.place.stack.0 == stack)
                .map(|entry| entry.weight.time.as_millis())
                .sum::<u128>()
        };
        let all: u128 = (0..10).map(time).sum();
        assert_eq!(all, 30_000 * 15);
        for stack in 0..3 {
            assert!(time(stack).abs_diff(100_000) < 1000, "{}", time(stack));
        }
        timeline.push(entry(0, 9, 300_000, 10));
        assert_eq!(timeline.entries().last(), Some(&entry(0, 9, 300_000, 10)));
    }
}
