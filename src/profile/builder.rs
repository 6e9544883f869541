//! From what a sampler sends to a profile.

use std::sync::Arc;
use std::time::SystemTime;

use rustc_hash::FxHashMap;

use super::tables::{MORE, TableLimits};
use super::timeline::MAX_ENTRIES;
use super::{Entry, Place, Profile, StackTable, Timeline, Weight};
use crate::model::{Activity, Batch, Frame, FrameKind, Gil, Run, ThreadIndex};
use crate::python::byte_cache::ByteCache;

/// Most bytes of frames that are known in the form that they are kept in.
const MAX_REDUCED: usize = 4 << 20;
/// Most different places that time is added up for: that many fit into a hash table of 2^18 places. The time of later ones is added up
/// by thread, as `<more>`.
const MAX_PLACES: usize = (7 << 18) / 8;
/// One of so many parts of them is kept for that.
const PARTS_FOR_MORE: usize = 8;
/// Most processes that are known by name. (Of threads, the sampler numbers only so many.)
const MAX_PROCESSES: usize = 1 << 14;
/// Longest title of a process, and name of a thread, in code points.
const MAX_TITLE: usize = 256;
const MAX_THREAD_NAME: usize = 128;

/// What is kept of what was seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct BuilderOptions {
    /// Threads that are blocked too.
    pub idle: bool,
    /// Only threads that hold the GIL.
    pub gil: bool,
    /// Functions, whatever line of them ran: each frame has the line that its function begins with.
    pub by_function: bool,
    /// No lines at all.
    pub without_lines: bool,
    /// The order of time too.
    pub timeline: bool,
}

/// How large a profile may become.
#[derive(Clone, Copy, Debug)]
pub struct ProfileLimits {
    /// Frames and stacks.
    pub table: TableLimits,
    /// Entries of the timeline.
    pub timeline: usize,
    /// Places that time is added up for.
    pub places: usize,
}

impl Default for ProfileLimits {
    fn default() -> Self {
        ProfileLimits {
            table: TableLimits::default(),
            timeline: MAX_ENTRIES,
            places: MAX_PLACES,
        }
    }
}

/// Adds up what a sampler sends.
#[derive(Debug)]
pub struct ProfileBuilder {
    options: BuilderOptions,
    places: usize,
    profile: Profile,
    /// Frames in the form that they are kept in, by the address of the original, which is held.
    reduced: ByteCache<usize, (Arc<Frame>, Arc<Frame>)>,
    scratch: Vec<Arc<Frame>>,
}

impl ProfileBuilder {
    /// A builder of a recording that begins now.
    pub fn new(options: BuilderOptions, started_at: SystemTime) -> Self {
        ProfileBuilder::with_limits(options, started_at, ProfileLimits::default())
    }

    /// The same with other limits than usual.
    pub fn with_limits(
        options: BuilderOptions,
        started_at: SystemTime,
        limits: ProfileLimits,
    ) -> Self {
        ProfileBuilder {
            options,
            places: limits.places,
            profile: Profile {
                started_at,
                stats: Default::default(),
                processes: Vec::new(),
                threads: Vec::new(),
                stacks: StackTable::new(limits.table),
                totals: FxHashMap::default(),
                timeline: options.timeline.then(|| Timeline::new(limits.timeline)),
                cut: Weight::default(),
            },
            reduced: ByteCache::new(MAX_REDUCED),
            scratch: Vec::new(),
        }
    }

    /// Adds a batch.
    pub fn add(&mut self, batch: &Batch) {
        for (index, process) in &batch.processes {
            if (index.0 as usize) < MAX_PROCESSES {
                let mut process = process.clone();
                shorten(&mut process.title, MAX_TITLE);
                put(&mut self.profile.processes, index.0, process);
            }
        }
        for (index, thread) in &batch.threads {
            let mut thread = thread.clone();
            shorten(&mut thread.name, MAX_THREAD_NAME);
            put(&mut self.profile.threads, index.0, thread);
        }
        for run in &batch.runs {
            self.add_run(run);
        }
        self.profile.stats = batch.stats;
    }

    fn add_run(&mut self, run: &Run) {
        let is_wanted = match run.activity {
            _ if self.options.gil => run.gil == Gil::Held,
            Activity::Active => true,
            Activity::Waiting(_) => self.options.idle,
        };
        if !is_wanted {
            return;
        }
        let stack = if self.options.by_function || self.options.without_lines {
            let mut frames = std::mem::take(&mut self.scratch);
            frames.clear();
            frames.extend(run.stack.iter().map(|frame| self.reduce(frame)));
            let stack = self.profile.stacks.intern(&frames);
            frames.clear();
            self.scratch = frames;
            stack
        } else {
            self.profile.stacks.intern(&run.stack)
        };
        let place = Place {
            thread: run.thread,
            stack: stack.stack,
            activity: run.activity,
            gil: run.gil,
        };
        let weight = Weight {
            time: run.weight,
            samples: run.samples,
        };
        let added = self.add_weight(place, weight);
        // A stack that was cut when it was read ends in a frame that says so.
        let was_cut = |frame: &Arc<Frame>| {
            frame.kind == FrameKind::Marker && (run.stack.len() > 1 || &*frame.function == MORE)
        };
        if !stack.is_whole || added != place || run.stack.last().is_some_and(was_cut) {
            self.profile.cut.add(weight);
        }
        if let Some(timeline) = &mut self.profile.timeline {
            timeline.push(Entry {
                place,
                start: run.start,
                weight,
            });
        }
    }

    /// Adds to what was seen in a place, or in one that stands for it; gives which.
    fn add_weight(&mut self, place: Place, weight: Weight) -> Place {
        let totals = &mut self.profile.totals;
        let has_room = |totals: &FxHashMap<Place, Weight>, place: &Place, limit| {
            totals.len() < limit || totals.contains_key(place)
        };
        let mut added = place;
        if !has_room(totals, &added, self.places - self.places / PARTS_FOR_MORE) {
            added.stack = self.profile.stacks.more(None);
        }
        if !has_room(totals, &added, self.places) {
            // The last thread stands for the others then; there are few kinds of what it can do.
            added.thread = ThreadIndex(u32::MAX);
        }
        totals.entry(added).or_default().add(weight);
        added
    }

    fn reduce(&mut self, frame: &Arc<Frame>) -> Arc<Frame> {
        let pointer = Arc::as_ptr(frame).addr();
        if let Some((_, reduced)) = self.reduced.get(&pointer) {
            return Arc::clone(reduced);
        }
        let line = if self.options.without_lines {
            None
        } else {
            frame.first_line
        };
        let reduced = Arc::new(Frame {
            line,
            ..Frame::clone(frame)
        });
        let bytes = 2 * size_of::<Frame>() + frame.function.len() + frame.file.len();
        self.reduced
            .insert(pointer, (Arc::clone(frame), Arc::clone(&reduced)), bytes);
        reduced
    }

    /// What there is so far.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// All of it.
    pub fn finish(self) -> Profile {
        self.profile
    }
}

/// Puts an entry at its place in a list that grows in order.
fn put<T>(list: &mut Vec<T>, index: u32, entry: T) {
    match list.get_mut(index as usize) {
        Some(known) => *known = entry,
        None => list.push(entry),
    }
}

/// Cuts a text to so many code points, and an ellipsis.
fn shorten(text: &mut String, length: usize) {
    if let Some((end, _)) = text.char_indices().nth(length) {
        text.truncate(end);
        text.push('…');
        text.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{ThreadIndex, WaitKind};

    fn frame(name: &str, line: u32) -> Arc<Frame> {
        Arc::new(Frame {
            line: Some(line),
            first_line: Some(1),
            ..Frame::marker(name)
        })
    }

    fn run(stack: &[Arc<Frame>], activity: Activity, gil: Gil) -> Run {
        Run {
            thread: ThreadIndex(0),
            start: Duration::ZERO,
            weight: Duration::from_millis(10),
            samples: 1,
            stack: stack.into(),
            activity,
            gil,
        }
    }

    fn build(options: BuilderOptions) -> Profile {
        let mut builder = ProfileBuilder::new(options, SystemTime::UNIX_EPOCH);
        let waiting = Activity::Waiting(WaitKind::Sleep);
        builder.add(&Batch {
            runs: vec![
                run(&[frame("f", 2), frame("m", 9)], Activity::Active, Gil::Held),
                run(&[frame("f", 3), frame("m", 9)], Activity::Active, Gil::None),
                run(&[frame("g", 5), frame("m", 9)], waiting, Gil::None),
                run(&[frame("g", 5), frame("m", 9)], waiting, Gil::Held),
            ],
            ..Batch::default()
        });
        builder.finish()
    }

    #[test]
    fn idle_threads_and_those_without_the_gil_are_left_out_as_asked() {
        let count = |idle, gil| {
            build(BuilderOptions {
                idle,
                gil,
                ..BuilderOptions::default()
            })
            .totals
            .len()
        };
        assert_eq!(
            [
                count(false, false),
                count(true, false),
                count(false, true),
                count(true, true)
            ],
            [2, 4, 2, 2]
        );
    }

    /// Time is added up whatever the limits are, and what was left out is counted.
    #[test]
    fn limits_cost_detail_and_no_time() {
        let options = BuilderOptions {
            idle: true,
            timeline: true,
            ..BuilderOptions::default()
        };
        let limits = ProfileLimits {
            table: TableLimits {
                stacks: 50,
                ..TableLimits::default()
            },
            timeline: 30,
            places: 40,
        };
        let mut builder = ProfileBuilder::with_limits(options, SystemTime::UNIX_EPOCH, limits);
        for number in 0..1000_u32 {
            let stack = [format!("f{}", number % 300), "m".to_owned()].map(|name| {
                Arc::new(Frame {
                    kind: FrameKind::Python,
                    ..Frame::marker(&name)
                })
            });
            let run = Run {
                thread: ThreadIndex(number % 7),
                start: Duration::from_millis(10 * u64::from(number)),
                ..run(&stack, Activity::Active, Gil::None)
            };
            builder.add(&Batch {
                runs: vec![run],
                ..Batch::default()
            });
        }
        let profile = builder.finish();
        let all: Duration = profile.totals.values().map(|weight| weight.time).sum();
        assert_eq!(all, Duration::from_secs(10));
        // Of each kind of what the last thread can do there is one more.
        assert!(profile.totals.len() <= 41, "{}", profile.totals.len());
        assert!(
            profile.cut.time > Duration::from_secs(7),
            "{:?}",
            profile.cut
        );
        assert!(profile.cut.time < Duration::from_secs(10));
        assert!(profile.timeline.unwrap().entries().len() <= 37);
    }

    #[test]
    fn lines_of_a_function_are_one_when_asked() {
        let by_function = build(BuilderOptions {
            by_function: true,
            ..BuilderOptions::default()
        });
        assert_eq!(by_function.stacks.len(), 2);
        let lines: Vec<_> = by_function
            .stacks
            .frames()
            .iter()
            .map(|frame| frame.line)
            .collect();
        assert_eq!(lines, [Some(1), Some(1)]);
        let without = build(BuilderOptions {
            without_lines: true,
            ..BuilderOptions::default()
        });
        assert!(
            without
                .stacks
                .frames()
                .iter()
                .all(|frame| frame.line.is_none())
        );
    }
}
