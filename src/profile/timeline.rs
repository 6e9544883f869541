//! What threads did, in the order of time; bounded, by giving up detail and never time.

use std::time::Duration;

use rustc_hash::FxHashMap;

use super::{Place, StackId, Weight};
use crate::model::{Activity, Gil, ThreadIndex};

/// Most entries: 16 MiB.
pub(super) const MAX_ENTRIES: usize = 1 << 19;

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

/// An entry as it is kept, in half of the bytes.
#[derive(Clone, Copy, Debug)]
struct Packed {
    /// Nanoseconds, of which 64 bits hold 584 years.
    start: u64,
    time: u64,
    thread: ThreadIndex,
    stack: StackId,
    samples: u32,
    activity: Activity,
    gil: Gil,
}

impl Packed {
    fn of(entry: Entry) -> Packed {
        let Place {
            thread,
            stack,
            activity,
            gil,
        } = entry.place;
        Packed {
            start: nanoseconds(entry.start),
            time: nanoseconds(entry.weight.time),
            thread,
            stack,
            samples: u32::try_from(entry.weight.samples).unwrap_or(u32::MAX),
            activity,
            gil,
        }
    }

    fn entry(self) -> Entry {
        Entry {
            place: self.place(),
            start: Duration::from_nanos(self.start),
            weight: Weight {
                time: Duration::from_nanos(self.time),
                samples: u64::from(self.samples),
            },
        }
    }

    fn place(&self) -> Place {
        Place {
            thread: self.thread,
            stack: self.stack,
            activity: self.activity,
            gil: self.gil,
        }
    }

    fn end(&self) -> u64 {
        self.start.saturating_add(self.time)
    }

    /// Adds the time of another, which comes later.
    fn add(&mut self, other: &Packed) {
        self.time = self.time.saturating_add(other.time);
        self.samples = self.samples.saturating_add(other.samples);
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What threads did, in the order in which it was seen to end; for each thread that is the order of time.
#[derive(Clone, Debug)]
pub struct Timeline {
    entries: Vec<Packed>,
    /// The last entry of each thread.
    last: FxHashMap<ThreadIndex, usize>,
    /// How often detail was given up.
    halvings: u32,
    limit: usize,
}

impl Default for Timeline {
    fn default() -> Self {
        Timeline::new(MAX_ENTRIES)
    }
}

impl Timeline {
    /// An empty one that has at most `limit` entries.
    pub fn new(limit: usize) -> Self {
        Timeline {
            entries: Vec::new(),
            last: FxHashMap::default(),
            halvings: 0,
            limit,
        }
    }

    /// Adds what comes next for its thread. What only goes on is added to what is there.
    pub fn push(&mut self, entry: Entry) {
        let entry = Packed::of(entry);
        if let Some(last) = self.last.get(&entry.thread)
            && let Some(known) = self.entries.get_mut(*last)
            && known.place() == entry.place()
            && known.end() == entry.start
        {
            known.add(&entry);
            return;
        }
        if self.entries.len() >= self.limit {
            self.halve();
        }
        self.last.insert(entry.thread, self.entries.len());
        self.entries.push(entry);
    }

    /// Of two entries of a thread that follow each other one stays, with the time of both: the first and the second by
    /// turns, so that neither kind of place is preferred. It takes no room of its own but for each thread.
    fn halve(&mut self) {
        let mut open: FxHashMap<ThreadIndex, (Packed, bool)> = FxHashMap::default();
        let mut kept = 0;
        for index in 0..self.entries.len() {
            let entry = self.entries[index];
            match open.get_mut(&entry.thread) {
                Some((first, takes_first)) if first.samples > 0 => {
                    let mut merged = *first;
                    if !*takes_first {
                        (merged.stack, merged.activity, merged.gil) =
                            (entry.stack, entry.activity, entry.gil);
                    }
                    merged.add(&entry);
                    *takes_first = !*takes_first;
                    first.samples = 0;
                    // Two were taken for each that is put back.
                    self.entries[kept] = merged;
                    kept += 1;
                }
                Some((first, _)) => *first = entry,
                None => {
                    open.insert(entry.thread, (entry, true));
                }
            }
        }
        self.entries.truncate(kept);
        let mut rest: Vec<Packed> = open
            .into_values()
            .map(|(entry, _)| entry)
            .filter(|entry| entry.samples > 0)
            .collect();
        rest.sort_by_key(|entry| (entry.start, entry.thread));
        self.entries.extend(rest);
        self.last = self
            .entries
            .iter()
            .enumerate()
            .map(|(index, entry)| (entry.thread, index))
            .collect();
        self.halvings += 1;
    }

    /// All entries.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = Entry> + DoubleEndedIterator {
        self.entries.iter().map(|entry| entry.entry())
    }

    /// How often detail was given up to stay within the limit of memory.
    pub fn halvings(&self) -> u32 {
        self.halvings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(
            timeline.entries().next_back(),
            Some(entry(0, 9, 300_000, 10))
        );
    }

    /// Whatever the limit and however many threads there are: the time stays, and so does the bound.
    #[test]
    fn a_limit_is_kept_by_giving_up_detail() {
        for threads in [1, 3, 40, 200] {
            let mut timeline = Timeline::new(100);
            for index in 0..5000_u32 {
                timeline.push(entry(index % threads, index % 7, u64::from(index) * 10, 10));
            }
            // A thread has one entry at the least.
            let most = 101_usize.max(threads as usize + 1);
            assert!(timeline.entries().len() <= most);
            let time: Duration = timeline.entries().map(|entry| entry.weight.time).sum();
            assert_eq!(time, Duration::from_millis(50_000));
        }
    }
}
