//! What each thread did in the order of time, for formats that show it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::label::Owner;
use crate::model::{ProcessIndex, ThreadIndex};
use crate::profile::{Place, Profile};

/// A stretch of time that a thread spent in one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    /// What it did.
    pub(super) place: Place,
    /// When that began, since the recording began.
    pub(super) start: Duration,
    /// When it ended.
    pub(super) end: Duration,
}

impl Stretch {
    /// How long it is.
    pub(super) fn length(&self) -> Duration {
        self.end - self.start
    }
}

/// One thread's time.
#[derive(Clone, Debug)]
pub(super) struct Track {
    /// The thread.
    pub(super) thread: ThreadIndex,
    /// Whose it is.
    pub(super) owner: Owner,
    /// What it did, in the order of time and without overlaps; what lies between two was not seen, or was left out.
    pub(super) stretches: Vec<Stretch>,
}

/// What each thread did, by process, then by thread; without those that were not seen. Of a profile without a timeline
/// one place follows the other, in no order that means anything.
pub(super) fn tracks(profile: &Profile) -> Vec<Track> {
    let mut tracks: BTreeMap<(ProcessIndex, ThreadIndex), Track> = BTreeMap::new();
    let mut add = |place: Place, start: Option<Duration>, length: Duration| {
        let process = profile
            .threads
            .get(place.thread.0 as usize)
            .map_or(ProcessIndex(u32::MAX), |thread| thread.process);
        let track = tracks
            .entry((process, place.thread))
            .or_insert_with(|| Track {
                thread: place.thread,
                owner: Owner::of(profile, place.thread),
                stretches: Vec::new(),
            });
        let last = track
            .stretches
            .last()
            .map_or(Duration::ZERO, |last| last.end);
        let start = start.unwrap_or(last);
        let end = start + length;
        // Never the case unless clocks run backwards.
        let start = start.max(last);
        if end > start {
            track.stretches.push(Stretch { place, start, end });
        }
    };
    match &profile.timeline {
        Some(timeline) => {
            for entry in timeline.entries() {
                add(entry.place, Some(entry.start), entry.weight.time);
            }
        }
        None => {
            for (place, weight) in profile.sorted_totals() {
                add(place, None, weight.time);
            }
        }
    }
    tracks
        .into_values()
        .filter(|track| !track.stretches.is_empty())
        .collect()
}

/// When the recording ended, since it began.
pub(super) fn end(profile: &Profile, tracks: &[Track]) -> Duration {
    tracks
        .iter()
        .filter_map(|track| track.stretches.last())
        .map(|last| last.end)
        .fold(profile.stats.elapsed, Duration::max)
}

/// How often each of `numbers` stands before itself in them: a pid that is used again is another process.
pub(super) fn repetitions(numbers: impl Iterator<Item = i32>) -> Vec<u32> {
    let mut seen: BTreeMap<i32, u32> = BTreeMap::new();
    numbers
        .map(|number| {
            let count = seen.entry(number).or_default();
            *count += 1;
            *count - 1
        })
        .collect()
}
