//! One process, sampled: which of its threads have run since the last sample, and what those do now.

use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashSet;

use super::thread::{Progress, Seen, Tally, ThreadSampler, keep_ends};
use super::thread_lists::{Owner, ThreadLists};
use super::thread_set::ThreadSet;
use crate::model::{Activity, Address, Batch, Frame, Gil, ProcessIndex, SamplingStats, Tid};
use crate::python::frame::{FrameDecoder, StackError, StackRoom};
use crate::python::runtime::ThreadState;
use crate::snapshot::attach::Attached;
use crate::snapshot::reader::{futex_of, gil_part, read_stack};
use crate::snapshot::stops::{Stopping, Stops};
use crate::snapshot::window::{KernelThread, Window};
use crate::sys::affinity::Perch;
use crate::sys::clock::now;
use crate::sys::descriptors::shortages;
use crate::sys::memory::{ReadError, RemoteMemory};
use crate::sys::planned::{Plan, PlannedView};
use crate::sys::ptrace::Tracer;
use crate::target::Target;
use crate::target::tasks::Syscall;
use crate::wait::wait_kind;

/// How often a thread is read again at least before it is given up as torn.
const MIN_TRIES: usize = 5;
/// How often at most, where there is time.
const MAX_TRIES: usize = 40;
/// How often it is looked whether the process has ended.
const CHECK: Duration = Duration::from_millis(20);
/// How often it is looked whether it runs another program, for which the kernel adds up what all of its threads have done.
const CHECK_PROGRAM: Duration = Duration::from_millis(200);
/// Most bytes of the stacks that the threads of all processes are doing; those of more threads are shown as `<more>`.
const MAX_HELD: usize = 8 << 20;
/// Most code points of the name of a function or a file; profiles show no more of it.
const MAX_NAME: u64 = 512;
/// Most bytes of stacks that are read for one sample of a process.
const SAMPLE_ROOM: StackRoom = StackRoom {
    memory: 8 << 20,
    written: usize::MAX,
};
/// The process can't be sampled any more: it has ended, runs another program, or its Python can't be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost;

/// What one sample of one process works with.
pub struct SampleContext<'a> {
    /// Where the recording stood before this sample.
    pub before: Progress,
    /// When the next sample is due at the earliest: what can't be read by then is not tried much longer.
    pub next_at: Duration,
    /// Where the reading thread runs.
    pub perch: &'a mut Perch,
    /// What stops threads that could run while they are read, if they are to be.
    pub tracer: Option<&'a mut Tracer>,
    /// Counts what threads do.
    pub tally: &'a mut Tally,
    /// Takes what comes out.
    pub batch: &'a mut Batch,
    /// Counts what it costs.
    pub stats: &'a mut SamplingStats,
    /// The number of the next thread.
    pub next_thread: &'a mut u32,
}

impl SampleContext<'_> {
    fn take(&mut self, thread: &mut ThreadSampler, seen: Seen) {
        thread.take(seen, self.before, self.tally, &mut self.batch.runs);
    }

    fn end(&mut self, thread: &mut ThreadSampler) {
        thread.end(self.before, self.tally, &mut self.batch.runs);
    }
}

/// A process that is sampled.
#[derive(Debug)]
pub struct ProcessSampler {
    /// Its number in the recording.
    pub index: ProcessIndex,
    target: Arc<Target>,
    attached: Attached,
    /// Which of its threads may be stopped.
    stops: Stops,
    decoder: FrameDecoder,
    lists: ThreadLists,
    threads: ThreadSet,
    checked_at: Duration,
    program_checked_at: Duration,
    /// The thread state that was seen to hold a GIL in this sample.
    gil_holder: Option<Address>,
    /// What the stack that was read last needed of memory: one that was never read has most likely much in common with it.
    plan: Plan,
    /// Room for what is read.
    buffer: Vec<u8>,
    /// How many processes are sampled together.
    share: usize,
    /// About how many bytes the stacks of all threads take.
    held: usize,
    told: FxHashSet<String>,
    /// Threads that could not be read, at least once.
    unread: FxHashSet<Tid>,
}

/// What was read of a thread's Python.
struct Reading {
    frames: Result<Vec<Arc<Frame>>, StackError>,
    gil: Gil,
    /// The thread state that holds the GIL.
    holder: Option<Address>,
    /// Whether the thread's state is still its own.
    is_current: bool,
    /// Whether the newest thread state is another than when the lists were read.
    has_newcomer: bool,
}

impl ProcessSampler {
    /// A process whose Python has been found.
    pub fn new(index: ProcessIndex, target: Arc<Target>, attached: Attached) -> Self {
        let threads = ThreadSet::new(target.pid());
        ProcessSampler {
            index,
            target,
            attached,
            stops: Stops::for_a_while(),
            decoder: FrameDecoder::new(SAMPLE_ROOM).with_short_names(MAX_NAME),
            lists: ThreadLists::default(),
            threads,
            checked_at: Duration::ZERO,
            program_checked_at: Duration::ZERO,
            gil_holder: None,
            plan: Plan::default(),
            buffer: Vec::new(),
            share: 1,
            held: 0,
            told: FxHashSet::default(),
            unread: FxHashSet::default(),
        }
    }

    /// Keeps no more than one of so many processes that are sampled together may.
    pub fn share_memory(&mut self, share: usize) {
        self.share = share;
        self.decoder.share_cache(share);
    }

    /// Takes one sample.
    pub fn look(&mut self, sampling: &mut SampleContext<'_>) -> Result<(), Lost> {
        let began = now();
        self.check(began)?;
        self.decoder.renew_budget();
        if self.lists.is_due(began) {
            self.refresh(sampling)?;
        }
        let changes = self.threads.find_changes(began);
        if changes.has_unknown_threads || !changes.ended.is_empty() {
            self.lists.want();
        }
        for mut thread in changes.ended {
            sampling.end(&mut thread);
        }
        for tid in &changes.unread {
            // What it does now is not known.
            if let Some(mut thread) = self.threads.take(*tid) {
                thread.asleep_at = None;
                sampling.end(&mut thread);
                self.threads.put_back(*tid, thread);
            }
        }
        self.note_unread(&changes.unread, sampling);
        let mut ran = changes.ran;
        let here = sampling.perch.processor();
        ran.sort_by_key(|tid| {
            let processor = self.threads.get(*tid).and_then(|thread| thread.processor);
            (processor != here, processor, *tid)
        });
        for tid in ran {
            self.read_thread(tid, sampling)?;
        }
        // Whoever holds the GIL runs, or has run: one that was not asked is found by that before its time shows.
        let holder = self.gil_holder.take();
        let holder = holder.and_then(|state| self.lists.thread_of(state));
        if let Some(tid) = holder.filter(|tid| !self.threads.is_warm(*tid)) {
            self.threads.warm_up(&[tid]);
            self.read_thread(tid, sampling)?;
        }
        Ok(())
    }

    fn refresh(&mut self, sampling: &mut SampleContext<'_>) -> Result<(), Lost> {
        let owner = Owner {
            index: self.index,
            target: &self.target,
            attached: &self.attached,
        };
        let refreshed = self
            .lists
            .refresh(owner, &mut self.threads, sampling.next_thread);
        let Some(refreshed) = refreshed else {
            return Err(Lost);
        };
        sampling.batch.threads.extend(refreshed.told);
        for mut thread in refreshed.ended {
            sampling.end(&mut thread);
        }
        self.note_unread(&refreshed.unread, sampling);
        if let Some(error) = refreshed.unlisted {
            self.note_unread(&[self.target.pid().main_thread()], sampling);
            self.remark(format!("list its threads: {error}"), sampling);
        }
        let threads = self.threads.iter_mut();
        self.held = threads.map(|(_, thread)| thread.held).sum();
        if let Some(error) = refreshed.failure {
            if error.source == ReadError::Gone || self.is_lost() {
                return Err(Lost);
            }
            self.remark(error.to_string(), sampling);
        }
        Ok(())
    }

    /// Puts out what all threads have been doing up to now.
    pub fn flush(&mut self, now: Progress, batch: &mut Batch) {
        for (_, thread) in self.threads.iter_mut() {
            thread.flush(now, &mut batch.runs);
        }
    }

    /// Puts out what all threads have been doing, and forgets them.
    pub fn end(&mut self, now: Progress, tally: &mut Tally, batch: &mut Batch) {
        for mut thread in self.threads.take_if(|_, _| true) {
            thread.end(now, tally, &mut batch.runs);
        }
    }

    fn check(&mut self, now: Duration) -> Result<(), Lost> {
        if now < self.checked_at + CHECK {
            return Ok(());
        }
        self.checked_at = now;
        let is_lost = if now < self.program_checked_at + CHECK_PROGRAM {
            self.target.has_ended()
        } else {
            self.program_checked_at = now;
            self.is_lost()
        };
        if is_lost { Err(Lost) } else { Ok(()) }
    }

    /// Whether it has ended or runs another program.
    fn is_lost(&self) -> bool {
        self.target.has_ended() || self.target.has_execed()
    }

    /// Reads what one thread does.
    fn read_thread(&mut self, tid: Tid, sampling: &mut SampleContext<'_>) -> Result<(), Lost> {
        let Some(mut thread) = self.threads.take(tid) else {
            return Ok(());
        };
        let outcome = self.read_taken(tid, &mut thread, sampling);
        let cost = self.stops.take_account();
        sampling.stats.stops += cost.made;
        sampling.stats.unstopped += cost.left_out;
        sampling.stats.pause += cost.pause;
        for remark in self.stops.take_remarks() {
            self.remark(remark, sampling);
        }
        if matches!(outcome, Ok(Alive::No)) {
            sampling.end(&mut thread);
            self.lists.want();
            return Ok(());
        }
        self.threads.put_back(tid, thread);
        outcome.map(|_| ())
    }

    fn read_taken(
        &mut self,
        tid: Tid,
        thread: &mut ThreadSampler,
        sampling: &mut SampleContext<'_>,
    ) -> Result<Alive, Lost> {
        if thread.states.is_empty() {
            // Nothing of it is told; it is enough to notice that it runs again.
            thread.asleep_at = thread.files.read_runs().ok().flatten();
            sampling.end(thread);
            return Ok(Alive::Yes);
        }
        sampling.stats.stacks += 1;
        if thread.plan.is_empty() {
            thread.plan.clone_from(&self.plan);
            self.plan = Plan::default();
        }
        for attempt in 0..MAX_TRIES {
            if attempt >= MIN_TRIES && now() >= sampling.next_at {
                break;
            }
            let kernel = KernelThread {
                tid,
                files: &thread.files,
                asleep: None,
                still: None,
                futex: None,
                slept: None,
            };
            let stopping = sampling.tracer.as_mut().map(|tracer| Stopping {
                tracer,
                stops: &mut self.stops,
            });
            let Some(window) = Window::open(&kernel, sampling.perch, stopping, attempt) else {
                if thread.files.has_ended() {
                    return Ok(Alive::No);
                }
                thread.asleep_at = None;
                sampling.end(thread);
                self.note_unread(&[tid], sampling);
                return Ok(Alive::Yes);
            };
            let stamp = window.stamp();
            let is_asleep = !stamp.state.is_runnable();
            let syscall = is_asleep
                .then(|| thread.files.read_syscall_between_stamps().ok())
                .flatten();
            let taken = self.decoder.taken().memory;
            let buffer = std::mem::take(&mut self.buffer);
            let view = PlannedView::fetch(&self.attached.memory, &thread.plan, buffer);
            let reading = Self::read_python(
                &self.attached,
                &mut self.decoder,
                &self.lists,
                &thread.states,
                &view,
                syscall.as_ref(),
            );
            let proof = window.close(&kernel, sampling.perch);
            self.buffer = view.learn(&mut thread.plan);
            if self.plan.is_empty() {
                self.plan.clone_from(&thread.plan);
            }
            if reading.has_newcomer {
                self.lists.want();
            }
            thread.processor = stamp.processor();
            self.gil_holder = reading.holder.or(self.gil_holder);
            if !proof.is_exact {
                continue;
            }
            if !reading.is_current {
                // Its state was given back: the lists say what it has now.
                self.lists.want();
                thread.states.clear();
                sampling.end(thread);
                return Ok(Alive::Yes);
            }
            let mut frames = match reading.frames {
                Ok(_) if proof.could_run && !self.decoder.is_closed() => continue,
                Ok(frames) => frames,
                Err(StackError::Read {
                    source: ReadError::Gone,
                    ..
                }) => return Err(Lost),
                // It may be in the middle of making or leaving a frame; it will not be, some time later.
                Err(_) if proof.could_run => continue,
                Err(error) => {
                    self.remark(format!("thread {tid}: {error}"), sampling);
                    vec![Arc::new(Frame::marker("<unreadable>"))]
                }
            };
            keep_ends(&mut frames);
            let new = self.decoder.taken().memory - taken;
            let mut bytes = new + frames.len() * size_of::<Arc<Frame>>();
            let others = self.held.saturating_sub(thread.held);
            if others + bytes > MAX_HELD / self.share {
                frames = vec![Arc::new(Frame::marker("<more>"))];
                bytes = 0;
            }
            sampling.batch.bytes += bytes;
            let activity = if is_asleep {
                Activity::Waiting(wait_kind(self.target.proc(), stamp.state, syscall.as_ref()))
            } else {
                Activity::Active
            };
            // While the count stays as it is, nothing of this can change.
            thread.asleep_at = stamp.runs.filter(|_| is_asleep);
            let seen = Seen {
                frames,
                bytes,
                activity,
                gil: reading.gil,
            };
            sampling.take(thread, seen);
            self.held = others + thread.held;
            return Ok(Alive::Yes);
        }
        sampling.stats.torn += 1;
        thread.asleep_at = None;
        let seen = Seen {
            frames: vec![Arc::new(Frame::marker("<torn>"))],
            bytes: 0,
            activity: Activity::Active,
            gil: Gil::None,
        };
        sampling.take(thread, seen);
        Ok(Alive::Yes)
    }

    fn read_python(
        attached: &Attached,
        decoder: &mut FrameDecoder,
        lists: &ThreadLists,
        states: &[(usize, ThreadState)],
        view: &dyn RemoteMemory,
        syscall: Option<&Syscall>,
    ) -> Reading {
        let runtime = &attached.runtime;
        let mut reading = Reading {
            frames: Ok(Vec::new()),
            gil: Gil::None,
            holder: None,
            is_current: false,
            has_newcomer: false,
        };
        // A thread inside several interpreters: the newest, which is the innermost, first; those without frames say nothing.
        for (place, state) in states.iter().rev() {
            let Some(interpreter) = lists.interpreter(*place) else {
                continue;
            };
            let head = runtime.newest_thread(view, interpreter);
            reading.has_newcomer |= !head.is_ok_and(|head| lists.is_newest(*place, head));
            if !runtime.is_current(view, state) {
                continue;
            }
            reading.is_current = true;
            let gil = runtime.gil(view, interpreter);
            reading.holder = gil.and_then(|gil| gil.holder);
            reading.gil = gil_part(runtime, gil, state, futex_of(syscall));
            reading.frames = read_stack(runtime, decoder, view, state);
            if !matches!(&reading.frames, Ok(frames) if frames.is_empty()) {
                break;
            }
        }
        reading
    }

    /// Counts threads that are there and could not be read, each once.
    fn note_unread(&mut self, tids: &[Tid], sampling: &mut SampleContext<'_>) {
        for tid in tids {
            if self.unread.insert(*tid) {
                sampling.stats.unread += 1;
                let text = match shortages() {
                    0 => "threads could not be read",
                    _ => "threads could not be read: too many open files",
                };
                self.remark(text.to_owned(), sampling);
            }
        }
    }

    fn remark(&mut self, text: String, sampling: &mut SampleContext<'_>) {
        // Each is told once, and only so many: a target can make up any number of them.
        if self.told.len() < 16 && self.told.insert(text.clone()) {
            let pid = self.target.pid();
            sampling
                .batch
                .remarks
                .push(format!("process {pid}: {text}"));
        }
    }
}

/// Whether a thread is still there.
enum Alive {
    Yes,
    No,
}
