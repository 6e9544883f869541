//! Recordings of any threads with any names, within limits that are soon reached: no time is lost, and every format can be written.
#![no_main]

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arbitrary::Unstructured;
use libfuzzer_sys::{Corpus, fuzz_target};
use stuckspy::export::{FileLimits, Format, Style};
use stuckspy::model::{
    Activity, Batch, Frame, FrameKind, Gil, Pid, ProcessIndex, Run, SampledProcess, SampledThread,
    SamplingStats, ThreadIndex, Tid, WaitKind,
};
use stuckspy::profile::{
    BuilderOptions, Profile, ProfileBuilder, ProfileLimits, TableLimits, Window,
};
use stuckspy_fuzz::weave::any_text;

/// Most frames of all stacks together, and most bytes of a name.
const MAX_FRAMES: usize = 20_000;
const MAX_NAME: usize = 4096;
const INTERVAL: Duration = Duration::from_millis(1);

fuzz_target!(|bytes: &[u8]| -> Corpus { run(bytes).map_or(Corpus::Reject, |()| Corpus::Keep) });

fn run(bytes: &[u8]) -> arbitrary::Result<()> {
    let mut u = Unstructured::new(bytes);
    let limits = ProfileLimits {
        table: TableLimits {
            frames: u.int_in_range(0..=64)?,
            frame_bytes: u.int_in_range(0..=1 << 14)?,
            stacks: u.int_in_range(0..=256)?,
        },
        timeline: u.int_in_range(2..=64)?,
        places: u.int_in_range(0..=64)?,
    };
    let options = BuilderOptions {
        idle: u.arbitrary()?,
        gil: u.arbitrary()?,
        by_function: u.arbitrary()?,
        without_lines: u.arbitrary()?,
        timeline: u.arbitrary()?,
    };
    let batch = batch(&mut u)?;
    let mut builder = ProfileBuilder::with_limits(options, SystemTime::UNIX_EPOCH, limits);
    let mut window = Window::new(options.without_lines);
    let half = batch.runs.len() / 2;
    for runs in [&batch.runs[..half], &batch.runs[half..]] {
        let batch = Batch {
            runs: runs.to_vec(),
            ..batch.clone()
        };
        builder.add(&batch);
        window.add(&batch);
        window.take_picture();
    }
    let profile = builder.finish();
    check_profile(&profile, options, limits, &batch.runs);
    let file = FileLimits {
        file: u.int_in_range(0..=1 << 16)?,
        memory: u.int_in_range(0..=1 << 16)?,
    };
    let style = Style {
        threads: u.arbitrary()?,
        processes: u.arbitrary()?,
        full_filenames: u.arbitrary()?,
    };
    for format in Format::ALL {
        write(&profile, format, style, FileLimits::default());
        write(&profile, format, style, file);
    }
    Ok(())
}

fn batch(u: &mut Unstructured<'_>) -> arbitrary::Result<Batch> {
    let names = names(u)?;
    let frames = frames(u, &names)?;
    let threads: u32 = u.int_in_range(1..=40)?;
    let (mut runs, mut start, mut left) = (Vec::new(), Duration::ZERO, MAX_FRAMES);
    while !u.is_empty() && runs.len() < 400 && left > 0 {
        let stack = stack(u, &frames)?;
        left = left.saturating_sub(stack.len());
        let samples = u.int_in_range(1..=5_u32)?;
        let weight = INTERVAL * samples;
        runs.push(Run {
            thread: ThreadIndex(u.int_in_range(0..=threads - 1)?),
            start,
            weight,
            samples: samples.into(),
            stack: stack.into(),
            activity: *u.choose(&[
                Activity::Active,
                Activity::Waiting(WaitKind::Sleep),
                Activity::Waiting(WaitKind::SocketRecv),
            ])?,
            gil: *u.choose(&[Gil::None, Gil::Held, Gil::Waiting])?,
        });
        start += weight;
    }
    let name = |number: u32| names[number as usize % names.len()].to_string();
    Ok(Batch {
        processes: (0..2)
            .map(|number| {
                let process = SampledProcess {
                    pid: Pid(number as i32 + 1),
                    ppid: Pid(1),
                    title: name(number),
                    python: None,
                    is_alive: true,
                };
                (ProcessIndex(number), process)
            })
            .collect(),
        threads: (0..threads)
            .map(|number| {
                let thread = SampledThread {
                    process: ProcessIndex(number % 2),
                    tid: Tid(number as i32 + 1),
                    name: name(number),
                };
                (ThreadIndex(number), thread)
            })
            .collect(),
        runs,
        stats: SamplingStats {
            interval: INTERVAL,
            elapsed: start,
            ..SamplingStats::default()
        },
        ..Batch::default()
    })
}

fn names(u: &mut Unstructured<'_>) -> arbitrary::Result<Vec<Arc<str>>> {
    let mut names = Vec::new();
    for _ in 0..u.int_in_range(1..=12)? {
        let text = any_text(u)?;
        let times = if u.ratio(1, 4)? {
            u.int_in_range(0..=MAX_NAME)? / text.len().max(1)
        } else {
            1
        };
        names.push(text.repeat(times).into());
    }
    Ok(names)
}

fn frames(u: &mut Unstructured<'_>, names: &[Arc<str>]) -> arbitrary::Result<Vec<Arc<Frame>>> {
    let count = u.int_in_range(1..=200)?;
    (0..count)
        .map(|_| {
            Ok(Arc::new(Frame {
                function: Arc::clone(u.choose(names)?),
                file: Arc::clone(u.choose(names)?),
                line: u.arbitrary::<Option<u8>>()?.map(u32::from),
                first_line: Some(1),
                module: None,
                kind: *u.choose(&[FrameKind::Python, FrameKind::Python, FrameKind::Marker])?,
                locals: None,
            }))
        })
        .collect()
}

/// Some frames, rarely so many that they are too many.
fn stack(u: &mut Unstructured<'_>, frames: &[Arc<Frame>]) -> arbitrary::Result<Vec<Arc<Frame>>> {
    let mut stack = Vec::new();
    for _ in 0..u.int_in_range(0..=6)? {
        stack.push(Arc::clone(u.choose(frames)?));
    }
    if u.ratio(1, 32)? {
        let times = u.int_in_range(1..=1200)?;
        stack = stack
            .iter()
            .cycle()
            .take(stack.len() * times)
            .cloned()
            .collect();
    }
    Ok(stack)
}

fn check_profile(profile: &Profile, options: BuilderOptions, limits: ProfileLimits, runs: &[Run]) {
    let wanted = runs.iter().filter(|run| match run.activity {
        _ if options.gil => run.gil == Gil::Held,
        Activity::Active => true,
        Activity::Waiting(_) => options.idle,
    });
    let all: Duration = wanted.map(|run| run.weight).sum();
    assert_eq!(
        profile
            .totals
            .values()
            .map(|weight| weight.time)
            .sum::<Duration>(),
        all
    );
    assert!(profile.cut.time <= all);
    if let Some(timeline) = &profile.timeline {
        let in_order: Duration = timeline.entries().map(|entry| entry.weight.time).sum();
        assert_eq!(in_order, all);
        // Each thread has one entry at the least.
        assert!(timeline.entries().len() <= limits.timeline + 41);
    }
    // Those that stand for others come in addition: of 3 activities and 3 parts in the GIL.
    assert!(profile.totals.len() <= limits.places + 9);
    let markers = 4;
    assert!(profile.stacks.frames().len() <= limits.table.frames + markers);
}

/// Where nothing is kept of what is written.
#[derive(Default)]
struct Count(u64);

impl io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write(profile: &Profile, format: Format, style: Style, limits: FileLimits) {
    let mut written = Count::default();
    let cut = format
        .write_within(limits, profile, style, &mut written)
        .unwrap_or_else(|error| panic!("{format}: {error}"));
    let all: Duration = profile.totals.values().map(|weight| weight.time).sum();
    assert!(cut.time <= all, "{format}");
    // Threads are told apart in each file, with names of 128 letters of up to ten bytes each; samples of equal distance have a bound
    // of their own.
    let least = 400_000;
    assert!(
        written.0 <= 4 * limits.file + least,
        "{format}: {}",
        written.0
    );
}
