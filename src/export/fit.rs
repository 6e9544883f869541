//! Makes a profile coarse enough for what a format may take of memory and of a file. No time is lost by it.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};

use super::{Format, Style, label};
use crate::model::{Frame, ThreadIndex};
use crate::profile::{FrameId, Place, Profile, StackId, StackTable, Timeline, Weight};

/// Most bytes of an output file, as far as they can be told before it is written.
const MAX_FILE: u64 = 256 << 20;
/// Most bytes that are taken of memory while it is written, as far as they can be told.
const MAX_MEMORY: u64 = 32 << 20;

/// What a format may take, as far as it can be told before it is written.
#[derive(Clone, Copy, Debug)]
pub struct FileLimits {
    /// Bytes of the file.
    pub file: u64,
    /// Bytes of memory while it is written.
    pub memory: u64,
}

impl Default for FileLimits {
    fn default() -> Self {
        FileLimits {
            file: MAX_FILE,
            memory: MAX_MEMORY,
        }
    }
}

/// Stacks are made shallower by halves, down to that many frames.
const MIN_DEPTH: usize = 16;
/// What a stack has less of than that part of all time is the first to be left out, then twice as much, and so on.
const FIRST_PART: u64 = 1 << 20;

/// A profile that fits, and how much of its time has only a part of its stack for that reason.
pub(super) struct Fitted<'a> {
    pub(super) profile: Cow<'a, Profile>,
    pub(super) cut: Weight,
}

/// How stacks are made smaller. Frames that belong to less than `least` of the time are left out, and so are those in the middle of
/// a stack of more than `depth`.
#[derive(Clone, Copy, Debug)]
struct Coarseness {
    least: u64,
    depth: usize,
}

/// What a format takes, in the things that it has most of. What has a bound of its own, as the samples of `gecko`, is not counted.
#[derive(Clone, Copy, Debug, Default)]
struct Size {
    /// Different frames, and bytes of what they are called.
    frames: u64,
    labels: u64,
    /// Different stacks, those of callers among them.
    stacks: u64,
    /// Stretches of time, or stacks with their counts.
    rows: u64,
    /// Frames of the stacks of all rows, and bytes of what these are called.
    entries: u64,
    texts: u64,
    /// The same for what is not on the stack of the row before.
    new_entries: u64,
    new_texts: u64,
}

impl Size {
    fn memory(&self, format: Format) -> u64 {
        match format {
            Format::Folded => 4 * self.labels + 8 * self.entries + 64 * self.rows,
            // inferno keeps the lines, its frames and the picture.
            Format::Flamegraph => 4 * self.labels + self.texts + 400 * self.stacks,
            Format::Speedscope => 2 * self.labels + 96 * self.rows,
            Format::Pprof => 3 * self.labels + 12 * self.entries + 400 * self.rows,
            Format::Chrometrace => 2 * self.labels + 56 * self.new_entries + 56 * self.rows,
            Format::Gecko => {
                3 * self.labels + 400 * self.frames + 32 * self.stacks + 56 * self.rows
            }
        }
    }

    fn file(&self, format: Format) -> u64 {
        match format {
            Format::Folded => self.texts + self.entries + 10 * self.rows,
            Format::Flamegraph => 2 * self.labels + 400 * self.stacks,
            Format::Speedscope => 2 * self.labels + 8 * self.entries + 24 * self.rows,
            Format::Pprof => self.labels + 3 * self.entries + 100 * self.rows,
            Format::Chrometrace => 2 * self.new_texts + 160 * self.new_entries,
            Format::Gecko => 2 * self.labels + 60 * self.frames + 16 * self.stacks + 60 * self.rows,
        }
    }

    fn fits(&self, format: Format, limits: FileLimits) -> bool {
        self.memory(format) <= limits.memory && self.file(format) <= limits.file
    }
}

/// The profile as it fits into a file of `format`.
pub(super) fn fit(
    profile: &Profile,
    format: Format,
    style: Style,
    limits: FileLimits,
) -> Fitted<'_> {
    let scale = Scale::of(profile, format, style);
    let mut coarseness = Coarseness {
        least: 0,
        depth: usize::MAX,
    };
    if scale.measure(coarseness).fits(format, limits) {
        return Fitted {
            profile: Cow::Borrowed(profile),
            cut: Weight::default(),
        };
    }
    let all = scale.all_time();
    let deepest = profile
        .totals
        .keys()
        .map(|place| profile.stacks.callers(place.stack).count())
        .max()
        .unwrap_or(0);
    coarseness = Coarseness {
        least: (all / FIRST_PART).max(1),
        depth: deepest,
    };
    while !scale.measure(coarseness).fits(format, limits) {
        if coarseness.least < all / 100 {
            coarseness.least *= 2;
        } else if coarseness.depth > MIN_DEPTH {
            coarseness.depth /= 2;
        } else if coarseness.least <= all {
            coarseness.least *= 2;
        } else {
            break;
        }
    }
    scale.apply(coarseness)
}

fn time_of(weight: Weight) -> u64 {
    time_nanoseconds(weight.time)
}

fn time_nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What a profile weighs.
struct Scale<'a> {
    profile: &'a Profile,
    /// Whether it has rows in the order of time, and whether each of them only has what is new.
    is_ordered: bool,
    is_of_changes: bool,
    /// Bytes of what each frame is called.
    labels: Vec<u64>,
    /// The time of each stack, with that of what it has called.
    times: Vec<u64>,
}

impl<'a> Scale<'a> {
    fn of(profile: &'a Profile, format: Format, style: Style) -> Scale<'a> {
        let frames = profile.stacks.frames().iter();
        let labels = frames.map(|frame| label::frame(frame, style).len() as u64);
        let mut times = vec![0_u64; profile.stacks.len()];
        for (place, weight) in &profile.totals {
            let time = &mut times[place.stack.0 as usize];
            *time = time.saturating_add(time_of(*weight));
        }
        // A caller's number is below its callee's.
        for stack in (0..times.len()).rev() {
            let caller = profile.stacks.node(StackId(number(stack))).1;
            if let Some(caller) = caller {
                times[caller.0 as usize] = times[caller.0 as usize].saturating_add(times[stack]);
            }
        }
        Scale {
            profile,
            is_ordered: format.needs_timeline(),
            is_of_changes: format == Format::Chrometrace,
            labels: labels.collect(),
            times,
        }
    }

    /// The time of all threads.
    fn all_time(&self) -> u64 {
        let times = self.profile.totals.values().map(|weight| time_of(*weight));
        times.fold(0, u64::saturating_add)
    }

    /// The frames that are left of a stack, innermost first; `None` where some are left out.
    fn cut(&self, stack: StackId, to: Coarseness) -> impl Iterator<Item = Option<StackId>> {
        let kept = self.innermost_kept(stack, to);
        let depth = match to.depth {
            usize::MAX => 0,
            _ => kept.map_or(0, |kept| self.profile.stacks.callers(kept).count()),
        };
        let missing = depth.saturating_sub(to.depth);
        let innermost = to.depth / 2;
        let callers = kept
            .into_iter()
            .flat_map(|kept| self.profile.stacks.callers(kept));
        let callers = callers.enumerate().filter_map(move |(index, caller)| {
            match index.checked_sub(innermost) {
                Some(0) if missing > 0 => Some(None),
                Some(behind) if missing > 0 && behind <= missing => None,
                _ => Some(Some(caller)),
            }
        });
        let is_cut = kept != Some(stack);
        is_cut.then_some(None).into_iter().chain(callers)
    }

    /// The stack or the innermost of its callers that has as much time as is shown.
    fn innermost_kept(&self, stack: StackId, to: Coarseness) -> Option<StackId> {
        let mut callers = self.profile.stacks.callers(stack);
        callers.find(|caller| self.times[caller.0 as usize] >= to.least)
    }

    fn measure(&self, to: Coarseness) -> Size {
        let stacks = &self.profile.stacks;
        let mut size = Size::default();
        let mut frames: FxHashSet<FrameId> = FxHashSet::default();
        let mut known: FxHashSet<StackId> = FxHashSet::default();
        // What a stack takes is the same each time.
        let mut of_stack: FxHashMap<StackId, (u64, u64)> = FxHashMap::default();
        let mut before: Vec<StackId> = Vec::new();
        let mut last: FxHashMap<ThreadIndex, Place> = FxHashMap::default();
        let mut rows: FxHashSet<(Place, bool)> = FxHashSet::default();
        let mut add = |place: Place| {
            let stack = place.stack;
            let kept = self.innermost_kept(stack, to);
            // What looks the same is one row: anywhere, or where it comes right behind the other.
            let shown = Place {
                stack: kept.unwrap_or(StackId(u32::MAX)),
                ..place
            };
            let is_new = match self.is_ordered {
                true => last.insert(place.thread, shown) != Some(shown),
                false => rows.insert((shown, kept == Some(stack))),
            };
            if !is_new {
                return;
            }
            size.rows += 1;
            let (entries, texts) = *of_stack.entry(stack).or_insert_with(|| {
                let (mut entries, mut texts) = (0, 0);
                for kept in self.cut(stack, to) {
                    entries += 1;
                    let Some(kept) = kept else {
                        texts += 8;
                        continue;
                    };
                    let frame = stacks.node(kept).0;
                    let label = self.labels[frame.0 as usize];
                    texts += label;
                    if known.insert(kept) {
                        size.stacks += 1;
                    }
                    if frames.insert(frame) {
                        size.frames += 1;
                        size.labels += label;
                    }
                }
                (entries, texts)
            });
            size.entries += entries;
            size.texts += texts;
            if self.is_of_changes {
                let mut path: Vec<StackId> = self.cut(stack, to).flatten().collect();
                path.reverse();
                let same = path
                    .iter()
                    .zip(&before)
                    .take_while(|(one, other)| one == other);
                let same = same.count();
                size.new_entries += (path.len() - same) as u64;
                let new = path[same..].iter().map(|one| stacks.node(*one).0);
                size.new_texts += new.map(|frame| self.labels[frame.0 as usize]).sum::<u64>();
                before = path;
            }
        };
        match &self.profile.timeline {
            Some(timeline) if self.is_ordered => {
                timeline.entries().for_each(|entry| add(entry.place));
            }
            _ => self.profile.totals.keys().for_each(|place| add(*place)),
        }
        size
    }

    /// The profile with its stacks made smaller.
    fn apply(&self, to: Coarseness) -> Fitted<'a> {
        let stacks = &self.profile.stacks;
        let more = Arc::new(Frame::marker("<more>"));
        let mut table = StackTable::default();
        let mut known: FxHashMap<StackId, StackId> = FxHashMap::default();
        let mut cut = Weight::default();
        let mut frames: Vec<Arc<Frame>> = Vec::new();
        let mut totals: FxHashMap<Place, Weight> = FxHashMap::default();
        // In an order that does not depend on chance.
        for (place, weight) in self.profile.sorted_totals() {
            let is_whole = !self.cut(place.stack, to).any(|kept| kept.is_none());
            if !is_whole {
                cut.add(weight);
            }
            let stack = *known.entry(place.stack).or_insert_with(|| {
                frames.clear();
                frames.extend(self.cut(place.stack, to).map(|kept| match kept {
                    Some(kept) => Arc::clone(&stacks.frames()[stacks.node(kept).0.0 as usize]),
                    None => Arc::clone(&more),
                }));
                table.intern(&frames).stack
            });
            totals
                .entry(Place { stack, ..place })
                .or_default()
                .add(weight);
        }
        let timeline = self.profile.timeline.as_ref().map(|timeline| {
            let mut coarse = Timeline::default();
            for mut entry in timeline.entries() {
                // Each of its places is in the totals too, or in one that stands for it.
                let stack = known.get(&entry.place.stack).copied();
                entry.place.stack = stack.unwrap_or_else(|| table.more(None));
                coarse.push(entry);
            }
            coarse
        });
        let profile = Profile {
            started_at: self.profile.started_at,
            stats: self.profile.stats,
            processes: self.profile.processes.clone(),
            threads: self.profile.threads.clone(),
            stacks: table,
            totals,
            timeline,
            cut: self.profile.cut,
        };
        Fitted {
            profile: Cow::Owned(profile),
            cut,
        }
    }
}

fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::super::testing::{shop, small};
    use super::*;
    use crate::model::{Activity, Batch, FrameKind, Gil, Run, SamplingStats};
    use crate::profile::{BuilderOptions, ProfileBuilder};

    fn call(name: String) -> Arc<Frame> {
        Arc::new(Frame {
            kind: FrameKind::Python,
            ..Frame::marker(&name)
        })
    }

    /// Each stack is given outermost first, with its milliseconds.
    fn profile(stacks: Vec<(Vec<Arc<Frame>>, u64)>) -> Profile {
        let options = BuilderOptions {
            timeline: true,
            ..BuilderOptions::default()
        };
        let mut builder = ProfileBuilder::new(options, SystemTime::UNIX_EPOCH);
        let mut start = Duration::ZERO;
        let mut runs = Vec::new();
        for (mut stack, time) in stacks {
            stack.reverse();
            let weight = Duration::from_millis(time);
            runs.push(Run {
                thread: ThreadIndex(0),
                start,
                weight,
                samples: 1,
                stack: stack.into(),
                activity: Activity::Active,
                gil: Gil::None,
            });
            start += weight;
        }
        builder.add(&Batch {
            runs,
            stats: SamplingStats {
                interval: Duration::from_millis(1),
                elapsed: start,
                ..SamplingStats::default()
            },
            ..Batch::default()
        });
        builder.finish()
    }

    /// One hot function, and very many that were seen for a moment.
    fn long_tail() -> Profile {
        let main = call("main".to_owned());
        let mut stacks = vec![(vec![Arc::clone(&main), call("hot".to_owned())], 5000)];
        stacks.extend((0..5000).map(|number| {
            let part = call(format!("part{}", number % 10));
            let rare = call(format!("rare{number}{}", "x".repeat(100)));
            (vec![Arc::clone(&main), part, rare], 1)
        }));
        profile(stacks)
    }

    fn all_time(profile: &Profile) -> Duration {
        profile.totals.values().map(|weight| weight.time).sum()
    }

    #[test]
    fn what_fits_stays_as_it_is() {
        for profile in [small(), shop(), long_tail()] {
            for format in Format::ALL {
                let fitted = fit(&profile, format, Style::default(), FileLimits::default());
                assert!(matches!(fitted.profile, Cow::Borrowed(_)));
                assert_eq!(fitted.cut, Weight::default());
            }
        }
    }

    #[test]
    fn what_is_rare_is_left_out_first_and_no_time_is() {
        let profile = long_tail();
        for format in Format::ALL {
            let fitted = fit(
                &profile,
                format,
                Style::default(),
                FileLimits {
                    file: 100_000,
                    memory: 100_000,
                },
            );
            let coarse = &*fitted.profile;
            assert_eq!(all_time(coarse), all_time(&profile), "{format}");
            assert_eq!(fitted.cut.time, Duration::from_secs(5), "{format}");
            let timeline = coarse.timeline.as_ref().unwrap();
            let in_order: Duration = timeline.entries().map(|entry| entry.weight.time).sum();
            assert_eq!(in_order, all_time(&profile), "{format}");
            let names: Vec<_> = coarse
                .stacks
                .frames()
                .iter()
                .map(|frame| &*frame.function)
                .collect();
            assert!(
                names.contains(&"hot") && names.contains(&"<more>"),
                "{names:?}"
            );
            let mut out = Vec::new();
            format
                .write_all(coarse, Style::default(), &mut out)
                .unwrap();
            let samples = if format == Format::Gecko { 800_000 } else { 0 };
            assert!(out.len() < 200_000 + samples, "{format}: {}", out.len());
        }
    }

    /// The same function calls itself: each of its frames has all of the time.
    #[test]
    fn a_deep_stack_loses_its_middle() {
        let deep = call("d".repeat(400));
        let mut stack = vec![call("main".to_owned())];
        stack.extend(vec![deep; 3000]);
        stack.push(call("leaf".to_owned()));
        let profile = profile(vec![(stack, 1000)]);
        for format in [Format::Folded, Format::Flamegraph, Format::Chrometrace] {
            let fitted = fit(
                &profile,
                format,
                Style::default(),
                FileLimits {
                    file: 100_000,
                    memory: 100_000,
                },
            );
            let coarse = &*fitted.profile;
            assert_eq!(fitted.cut.time, Duration::from_secs(1));
            let (place, _) = coarse.sorted_totals()[0];
            let names: Vec<_> = coarse
                .stacks
                .walk(place.stack)
                .map(|id| coarse.stacks.frame(id).function.to_string())
                .collect();
            assert!((16..400).contains(&names.len()), "{}", names.len());
            assert_eq!((&*names[0], &**names.last().unwrap()), ("leaf", "main"));
            assert_eq!(names.iter().filter(|name| *name == "<more>").count(), 1);
        }
    }

    /// Estimates have to be of the size of what is written, or limits would mean nothing.
    #[test]
    fn files_are_no_larger_than_estimated() {
        for profile in [long_tail(), shop()] {
            for format in Format::ALL {
                let scale = Scale::of(&profile, format, Style::default());
                let coarseness = Coarseness {
                    least: 0,
                    depth: usize::MAX,
                };
                let estimated = scale.measure(coarseness).file(format);
                let mut out = Vec::new();
                format
                    .write_all(&profile, Style::default(), &mut out)
                    .unwrap();
                let written = out.len() as u64;
                // What every file begins with is not counted, nor are samples of equal distance.
                let samples = match format {
                    Format::Gecko => 80 * all_time(&profile).as_millis() as u64,
                    _ => 0,
                };
                let estimated = estimated + samples;
                assert!(
                    written < estimated * 2 + 50_000,
                    "{format}: {written}, {estimated}"
                );
            }
        }
    }
}
