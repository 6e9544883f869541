//! Where the time went: what a sampler saw, added up. Pure; no reading of targets.

mod builder;
mod tables;
mod timeline;
mod window;

pub use builder::{BuilderOptions, ProfileBuilder, ProfileLimits};
pub use tables::{FrameId, Interned, StackId, StackTable, TableLimits};
pub use timeline::{Entry, Timeline};
pub use window::{Choice, Picture, ProcessRow, Row, Spent, ThreadRow, Times, Window};

use std::time::{Duration, SystemTime};

use rustc_hash::FxHashMap;

use crate::model::{Activity, Gil, SampledProcess, SampledThread, SamplingStats, ThreadIndex};

/// A finished recording, or what there is of one so far.
#[derive(Clone, Debug)]
pub struct Profile {
    /// When it began.
    pub started_at: SystemTime,
    /// What sampling gave and cost.
    pub stats: SamplingStats,
    /// The processes, by their indices.
    pub processes: Vec<SampledProcess>,
    /// The threads, by their indices.
    pub threads: Vec<SampledThread>,
    /// The stacks that were seen.
    pub stacks: StackTable,
    /// How much time each thread spent where.
    pub totals: FxHashMap<Place, Weight>,
    /// The same in the order of time, where that was asked for.
    pub timeline: Option<Timeline>,
    /// How much of that time has only a part of its stack, since the whole was too deep or there were too many.
    pub cut: Weight,
}

/// What a thread did, for adding up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The thread.
    pub thread: ThreadIndex,
    /// Its stack.
    pub stack: StackId,
    /// Whether it ran, or what it waited for.
    pub activity: Activity,
    /// Its part in the GIL.
    pub gil: Gil,
}

/// How much was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    /// Wall time.
    pub time: Duration,
    /// Samples.
    pub samples: u64,
}

impl Weight {
    /// Adds another to it.
    pub fn add(&mut self, other: Weight) {
        self.time += other.time;
        self.samples += other.samples;
    }
}

impl Profile {
    /// What was seen in an order that does not depend on chance: by thread, then by stack.
    pub fn sorted_totals(&self) -> Vec<(Place, Weight)> {
        let mut totals: Vec<(Place, Weight)> = self
            .totals
            .iter()
            .map(|(place, weight)| (*place, *weight))
            .collect();
        totals.sort_by_key(|(place, _)| {
            (
                place.thread,
                place.stack,
                place.activity.order(),
                place.gil as u8,
            )
        });
        totals
    }
}
