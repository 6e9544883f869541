//! One thread of a sampled process: what it was like at the last look, and what it has been doing since when.

use std::sync::Arc;
use std::time::Duration;

use crate::model::{Activity, CallStack, Frame, Gil, Run, ThreadIndex};
use crate::python::runtime::ThreadState;
use crate::sys::planned::Plan;
use crate::target::tasks::{RunCount, TaskFiles};

/// Frames of a stack that are kept: so many innermost and so many outermost ones, with a marker between them. Profiles show no more
/// of a stack than that.
const MAX_INNERMOST: usize = 1024;
const MAX_OUTERMOST: usize = 3072;
/// How long a thread is looked at one by one after it has run.
const WARM: Duration = Duration::from_secs(1);

/// Where a recording stands.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// The time that has been accounted for.
    pub until: Duration,
    /// Samples that have been taken.
    pub ticks: u64,
}

/// How many threads do what at present.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Threads that run.
    pub active: usize,
    /// Threads that hold a GIL.
    pub gil: usize,
}

/// What a thread is doing, since when.
#[derive(Debug)]
struct CurrentActivity {
    stack: CallStack,
    activity: Activity,
    gil: Gil,
    since: Progress,
}

/// One thread.
#[derive(Debug)]
pub struct ThreadSampler {
    /// Its number in the recording.
    pub index: ThreadIndex,
    /// Its number in its own pid namespace.
    pub innermost_tid: i32,
    /// Its files.
    pub files: TaskFiles,
    /// Its name, as it was last told.
    pub name: String,
    /// Its thread states, each with the place of its interpreter; empty while it has nothing to do with Python.
    pub states: Vec<(usize, ThreadState)>,
    /// What its stack needs of memory.
    pub plan: Plan,
    /// Time on a processor at the last look, in nanoseconds.
    pub cpu_nanoseconds: u64,
    /// The count at the last look, when it was off its processor then: while the count stays, so does all the rest.
    pub asleep_at: Option<RunCount>,
    /// The processor that it was on at the last look.
    pub processor: Option<usize>,
    /// Until when it is looked at one by one.
    pub warm_until: Duration,
    /// About how many bytes what it does takes, beside what other threads have in common with it.
    pub held: usize,
    doing: Option<CurrentActivity>,
}

impl ThreadSampler {
    /// A thread that has not been looked at.
    pub fn new(index: ThreadIndex, innermost_tid: i32, files: TaskFiles) -> Self {
        ThreadSampler {
            index,
            innermost_tid,
            files,
            name: String::new(),
            states: Vec::new(),
            plan: Plan::default(),
            cpu_nanoseconds: 0,
            asleep_at: None,
            processor: None,
            warm_until: Duration::ZERO,
            held: 0,
            doing: None,
        }
    }

    /// Notes that it has run.
    pub fn warm(&mut self, now: Duration) {
        self.warm_until = now + WARM;
        self.files.warm();
    }

    /// Takes what was seen of it in the sample that comes after `before`. What it did till then is put out if it is something
    /// else.
    pub fn take(&mut self, seen: Seen, before: Progress, tally: &mut Tally, out: &mut Vec<Run>) {
        if let Some(doing) = &self.doing
            && doing.activity == seen.activity
            && doing.gil == seen.gil
            && is_same(&doing.stack, &seen.frames)
        {
            return;
        }
        self.end(before, tally, out);
        tally.active += usize::from(seen.activity == Activity::Active);
        tally.gil += usize::from(seen.gil == Gil::Held);
        self.doing = Some(CurrentActivity {
            stack: seen.frames.into(),
            activity: seen.activity,
            gil: seen.gil,
            since: before,
        });
        self.held = seen.bytes;
    }

    /// Puts out what it has been doing up to now; it goes on with it.
    pub fn flush(&mut self, now: Progress, out: &mut Vec<Run>) {
        if let Some(doing) = &mut self.doing {
            let samples = now.ticks - doing.since.ticks;
            if samples > 0 {
                out.push(Run {
                    thread: self.index,
                    start: doing.since.until,
                    weight: now.until.saturating_sub(doing.since.until),
                    samples,
                    stack: Arc::clone(&doing.stack),
                    activity: doing.activity,
                    gil: doing.gil,
                });
            }
            doing.since = now;
        }
    }

    /// Puts out what it has been doing; it does nothing that is known any more.
    pub fn end(&mut self, now: Progress, tally: &mut Tally, out: &mut Vec<Run>) {
        self.flush(now, out);
        if let Some(doing) = self.doing.take() {
            tally.active -= usize::from(doing.activity == Activity::Active);
            tally.gil -= usize::from(doing.gil == Gil::Held);
        }
        self.held = 0;
    }
}

/// What was seen of a thread in one sample.
#[derive(Debug)]
pub struct Seen {
    /// Innermost first.
    pub frames: Vec<Arc<Frame>>,
    /// About how many bytes they take, beside what was known before.
    pub bytes: usize,
    /// Whether it ran.
    pub activity: Activity,
    /// Its part in the GIL.
    pub gil: Gil,
}

/// Leaves out the middle of a stack that is too deep to be kept.
pub fn keep_ends(frames: &mut Vec<Arc<Frame>>) {
    if frames.len() > MAX_INNERMOST + MAX_OUTERMOST {
        let more = Arc::new(Frame::marker("<more>"));
        let outermost = frames.len() - MAX_OUTERMOST;
        frames.splice(MAX_INNERMOST..outermost, [more]);
        frames.shrink_to_fit();
    }
}

/// Frames are made once and shared, so that in general equal ones are the same.
fn is_same(stack: &[Arc<Frame>], other: &[Arc<Frame>]) -> bool {
    stack.len() == other.len()
        && stack
            .iter()
            .zip(other)
            .all(|(one, other)| Arc::ptr_eq(one, other) || one == other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Pid, WaitKind};
    use crate::sys::procfile::ProcDir;

    #[test]
    fn what_goes_on_is_one_run_and_its_time_is_all_time() {
        let proc = ProcDir::open(Pid::own()).unwrap();
        let files = TaskFiles::new(&proc, Pid::own().main_thread());
        let mut thread = ThreadSampler::new(ThreadIndex(3), 7, files);
        let (mut tally, mut out) = (Tally::default(), Vec::new());
        let at = |ticks: u64| Progress {
            until: Duration::from_millis(10 * ticks),
            ticks,
        };
        let seen = |name: &str, activity| Seen {
            frames: vec![Arc::new(Frame::marker(name))],
            bytes: 100,
            activity,
            gil: Gil::Held,
        };
        thread.take(seen("a", Activity::Active), at(0), &mut tally, &mut out);
        thread.take(seen("a", Activity::Active), at(1), &mut tally, &mut out);
        assert_eq!((tally.active, tally.gil, out.len()), (1, 1, 0));
        let asleep = Activity::Waiting(WaitKind::Sleep);
        thread.take(seen("a", asleep), at(2), &mut tally, &mut out);
        assert_eq!((tally.active, tally.gil), (0, 1));
        thread.flush(at(5), &mut out);
        thread.flush(at(5), &mut out);
        thread.end(at(6), &mut tally, &mut out);
        let runs: Vec<_> = out
            .iter()
            .map(|run| (run.start.as_millis(), run.weight.as_millis(), run.samples))
            .collect();
        assert_eq!(runs, [(0, 20, 2), (20, 30, 3), (50, 10, 1)]);
        assert_eq!((tally.active, tally.gil), (0, 0));
    }
}
