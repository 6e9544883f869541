//! The profile behind the screen, for saving it; it forgets nothing that the screen leaves out.

use std::time::SystemTime;

use crate::model::{Activity, Batch, Gil, ProcessIndex, SamplingStats, ThreadIndex};
use crate::profile::{BuilderOptions, Choice, Profile, ProfileBuilder};

/// Most stacks that are recorded, about 20 MB; whoever wants more records to a file from the beginning.
const MAX_STACKS: usize = 1 << 18;

/// A profile that grows.
#[derive(Debug)]
pub struct Recording {
    builder: ProfileBuilder,
    /// The figures as they were when it began.
    began: SamplingStats,
    latest: SamplingStats,
    is_full: bool,
}

/// All threads; what is wanted of it is chosen when it is saved.
const EVERYTHING: BuilderOptions = BuilderOptions {
    idle: true,
    gil: false,
    by_function: false,
    without_lines: false,
    timeline: false,
};

impl Recording {
    /// One that begins now.
    pub fn new(started_at: SystemTime) -> Self {
        Recording {
            builder: ProfileBuilder::new(EVERYTHING, started_at),
            began: SamplingStats::default(),
            latest: SamplingStats::default(),
            is_full: false,
        }
    }

    /// Adds a batch.
    pub fn add(&mut self, batch: &Batch) {
        self.latest = batch.stats;
        self.is_full |= self.builder.profile().stacks.len() >= MAX_STACKS;
        if self.is_full {
            // Names may still change; they are few.
            self.builder.add(&Batch {
                processes: batch.processes.clone(),
                threads: batch.threads.clone(),
                stats: self.builder.profile().stats,
                ..Batch::default()
            });
        } else {
            self.builder.add(batch);
        }
    }

    /// Begins anew, with the processes and threads that are known.
    pub fn reset(&mut self) {
        let old = self.builder.profile();
        let since = self.latest.elapsed.saturating_sub(self.began.elapsed);
        let mut builder = ProfileBuilder::new(
            EVERYTHING,
            old.started_at.checked_add(since).unwrap_or(old.started_at),
        );
        builder.add(&Batch {
            processes: numbered(&old.processes, ProcessIndex),
            threads: numbered(&old.threads, ThreadIndex),
            stats: self.latest,
            ..Batch::default()
        });
        self.builder = builder;
        self.began = self.latest;
        self.is_full = false;
    }

    /// What there is so far, with the time that counts.
    pub fn profile(&self, choice: Choice) -> Profile {
        let mut profile = self.builder.profile().clone();
        profile.totals.retain(|place, _| match choice {
            Choice { gil: true, .. } => place.gil == Gil::Held,
            Choice { idle, .. } => idle || place.activity == Activity::Active,
        });
        let (now, began) = (profile.stats, self.began);
        profile.stats = SamplingStats {
            elapsed: now.elapsed.saturating_sub(began.elapsed),
            taken: now.taken.saturating_sub(began.taken),
            late: now.late.saturating_sub(began.late),
            lost: now.lost.saturating_sub(began.lost),
            stacks: now.stacks.saturating_sub(began.stacks),
            torn: now.torn.saturating_sub(began.torn),
            active: now.active.saturating_sub(began.active),
            gil: now.gil.saturating_sub(began.gil),
            pause: now.pause.saturating_sub(began.pause),
            stops: now.stops.saturating_sub(began.stops),
            unstopped: now.unstopped.saturating_sub(began.unstopped),
            cpu: now.cpu.saturating_sub(began.cpu),
            ..now
        };
        profile
    }

    /// Why it is not all that was seen, if so.
    pub fn limit(&self) -> Option<&'static str> {
        self.is_full
            .then_some("it ends where there were too many different stacks to keep")
    }
}

fn numbered<T: Clone, I>(entries: &[T], index: impl Fn(u32) -> I) -> Vec<(I, T)> {
    (0..).map(index).zip(entries.iter().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::tui::testing;

    #[test]
    fn what_is_saved_is_what_counts_and_a_reset_keeps_names() {
        let mut recording = Recording::new(SystemTime::UNIX_EPOCH);
        recording.add(&testing::batch(1000));
        let count = |recording: &Recording, idle, gil| {
            let profile = recording.profile(Choice { idle, gil });
            profile.totals.len()
        };
        let all = count(&recording, true, false);
        assert!(count(&recording, false, false) < all && count(&recording, false, true) < all);
        recording.reset();
        let profile = recording.profile(Choice::default());
        assert_eq!((profile.totals.len(), profile.threads.len()), (0, 4));
        assert_eq!(profile.stats.elapsed, Duration::ZERO);
        assert_eq!(
            profile.started_at,
            SystemTime::UNIX_EPOCH + Duration::from_secs(1)
        );
        recording.add(&testing::batch(1500));
        let profile = recording.profile(Choice::default());
        assert_eq!(profile.stats.elapsed, Duration::from_millis(500));
        assert!(!profile.totals.is_empty());
    }
}
