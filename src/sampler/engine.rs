//! The loop: waits for the moment of the next sample, takes it of all processes, and sends what comes out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::SamplerOptions;
use super::clock::{Clock, Tick};
use super::process::{ProcessSampler, SampleContext};
use super::process_finder::ProcessEvent;
use super::thread::{Progress, Tally};
use crate::model::{
    Activity, Batch, CallStack, Frame, Gil, ProcessIndex, Run, SampledProcess, SamplingEnd,
    SamplingStats, ThreadIndex,
};
use crate::sys::affinity::Perch;
use crate::sys::clock::{own_cpu_time, sleep_precisely};
use crate::sys::priority::{Promptness, ask_for_short_turns, be_prompt};
use crate::sys::ptrace::Tracer;

/// How often what has come in is sent.
const SEND: Duration = Duration::from_millis(100);

/// Most bytes of stacks in a batch: it is sent before its time then.
const MAX_BATCH: usize = 4 << 20;
/// Most bytes that are on their way to whoever adds them up; what comes then is kept back, and added up by thread.
const MAX_BACKLOG: usize = 8 << 20;

/// Lateness that is of no account: what a wake-up takes.
const UNSEEN: Duration = Duration::from_micros(50);

/// The sampler's own state.
pub struct Engine {
    clock: Clock,
    is_blocking: bool,
    /// What stops threads, where that is asked for.
    tracer: Option<Tracer>,
    duration: Option<Duration>,
    processes: Vec<ProcessSampler>,
    perch: Perch,
    tally: Tally,
    progress: Progress,
    stats: SamplingStats,
    batch: Batch,
    sent_at: Duration,
    next_thread: u32,
    cpu_before: Duration,
    /// Whether the last process has ended: it is told once, and that can be before the first sample.
    is_none_left: bool,
    links: Links,
}

/// Its connections to other threads.
pub struct Links {
    /// Where batches go.
    pub batches: Sender<Batch>,
    /// What the finder tells.
    pub news: Receiver<ProcessEvent>,
    /// Processes that the finder shall look into anew.
    pub changed: Sender<ProcessIndex>,
    /// Whether it is to end.
    pub is_over: Arc<AtomicBool>,
    /// Bytes of the batches that were sent and not taken.
    pub backlog: Arc<AtomicUsize>,
}

impl Engine {
    /// An engine that begins now.
    pub fn new(options: SamplerOptions, links: Links) -> Self {
        let interval = options.interval();
        Engine {
            clock: Clock::start(interval, options.duration),
            is_blocking: options.is_blocking,
            tracer: None,
            duration: options.duration,
            processes: Vec::new(),
            perch: Perch::default(),
            tally: Tally::default(),
            progress: Progress::default(),
            stats: SamplingStats {
                interval,
                ..SamplingStats::default()
            },
            batch: Batch::default(),
            sent_at: Duration::ZERO,
            next_thread: 0,
            cpu_before: own_cpu_time(),
            is_none_left: false,
            links,
        }
    }

    /// Works until it is to end, or no process is left.
    pub fn run(mut self) {
        sleep_precisely();
        let promptness = match self.is_blocking {
            true => ask_for_short_turns(),
            false => be_prompt(),
        };
        self.tracer = self.is_blocking.then(Tracer::start);
        tracing::debug!("the sampler is let run: {promptness:?}");
        self.stats.is_prompt = promptness == Promptness::AtOnce;
        self.perch = Perch::that_goes_first(self.stats.is_prompt);
        self.take_news();
        self.look_around();
        // What was found at first takes longer to read than what is known: time begins behind that.
        self.clock = Clock::start(self.stats.interval, self.duration);
        self.cpu_before = own_cpu_time();
        let end = loop {
            self.take_news();
            if self.is_none_left {
                break SamplingEnd::TargetEnded;
            }
            let is_over = Arc::clone(&self.links.is_over);
            let Some(tick) = self.clock.wait(|| is_over.load(Ordering::Relaxed)) else {
                break SamplingEnd::Stopped;
            };
            self.take_sample(tick);
            if self.clock.is_over() {
                break SamplingEnd::Stopped;
            }
            let is_due = self.clock.elapsed() >= self.sent_at + SEND;
            if (is_due || self.batch.bytes > MAX_BATCH) && !self.send(None) {
                return;
            }
        };
        self.links.is_over.store(true, Ordering::Relaxed);
        self.send(Some(end));
    }

    fn take_news(&mut self) {
        while let Ok(news) = self.links.news.try_recv() {
            match news {
                ProcessEvent::Process(index, process) => self.note(index, process),
                ProcessEvent::Attached(index, target, attached) => {
                    self.drop_process(index);
                    self.processes
                        .push(ProcessSampler::new(index, target, *attached));
                    self.share_memory();
                }
                ProcessEvent::Remark(text) => self.batch.remarks.push(text),
                ProcessEvent::NoneLeft => self.is_none_left = true,
            }
        }
    }

    fn note(&mut self, index: ProcessIndex, process: SampledProcess) {
        if !process.is_alive {
            self.drop_process(index);
        }
        self.batch.processes.push((index, process));
    }

    fn drop_process(&mut self, index: ProcessIndex) {
        let gone = self
            .processes
            .iter()
            .position(|process| process.index == index);
        if let Some(place) = gone {
            let mut process = self.processes.swap_remove(place);
            process.end(self.progress, &mut self.tally, &mut self.batch);
            self.share_memory();
        }
    }

    fn share_memory(&mut self) {
        let share = self.processes.len();
        for process in &mut self.processes {
            process.share_memory(share);
        }
    }

    fn take_sample(&mut self, tick: Tick) {
        self.stats.taken += 1;
        self.stats.lost += tick.lost;
        let is_late = tick.lateness > (self.stats.interval / 10).max(UNSEEN);
        self.stats.late += u64::from(is_late);
        self.stats.most_late = self.stats.most_late.max(tick.lateness);
        self.look_around();
        let passed = tick.end.saturating_sub(self.progress.until);
        if self.tally.active > 0 {
            self.stats.active += passed;
        }
        if self.tally.gil > 0 {
            self.stats.gil += passed;
        }
        self.progress = Progress {
            until: tick.end,
            ticks: self.progress.ticks + 1,
        };
    }

    /// Looks at all threads of all processes.
    fn look_around(&mut self) {
        let mut lost = Vec::new();
        for process in &mut self.processes {
            let mut sampling = SampleContext {
                before: self.progress,
                next_at: self.clock.next_at(),
                perch: &mut self.perch,
                tracer: self.tracer.as_mut(),
                tally: &mut self.tally,
                batch: &mut self.batch,
                stats: &mut self.stats,
                next_thread: &mut self.next_thread,
            };
            if process.look(&mut sampling).is_err() {
                lost.push(process.index);
            }
        }
        for index in lost {
            self.drop_process(index);
            // Whoever has ended is found to have; all others may still be, or become, a Python.
            let _ = self.links.changed.send(index);
        }
        // Where it is, the next sample comes as late as whatever wakes a thread there, and does not see it run too early.
        // But it may have to wait there for others, unless it goes before them.
        if self.tally.active == 0 && !self.perch.goes_first() {
            self.perch.leave();
        }
    }

    /// Sends what has come in; false when nobody listens any more.
    fn send(&mut self, end: Option<SamplingEnd>) -> bool {
        for process in &mut self.processes {
            process.flush(self.progress, &mut self.batch);
        }
        self.sent_at = self.clock.elapsed();
        self.stats.elapsed = self.progress.until;
        self.stats.cpu = own_cpu_time().saturating_sub(self.cpu_before);
        if end.is_none() && self.links.backlog.load(Ordering::Relaxed) > MAX_BACKLOG {
            sum_up(&mut self.batch);
            return true;
        }
        let mut batch = std::mem::take(&mut self.batch);
        batch.stats = self.stats;
        batch.end = end;
        let bytes = batch_bytes(&batch);
        self.links.backlog.fetch_add(bytes, Ordering::Relaxed);
        self.links.batches.send(batch).is_ok()
    }
}

/// What a batch takes of memory.
pub fn batch_bytes(batch: &Batch) -> usize {
    batch.bytes + batch.runs.len() * size_of::<Run>()
}

/// Makes one run of all that a thread has done of a kind, without its stacks: the time stays, and the room that it takes depends on
/// the number of threads only.
fn sum_up(batch: &mut Batch) {
    let stack: CallStack = [Arc::new(Frame::marker("<more>"))].into();
    let mut places: FxHashMap<(ThreadIndex, Activity, Gil), usize> = FxHashMap::default();
    let mut runs: Vec<Run> = Vec::new();
    for run in batch.runs.drain(..) {
        let place = *places
            .entry((run.thread, run.activity, run.gil))
            .or_insert(runs.len());
        match runs.get_mut(place) {
            Some(known) => {
                known.weight += run.weight;
                known.samples += run.samples;
            }
            None => runs.push(Run {
                stack: Arc::clone(&stack),
                ..run
            }),
        }
    }
    batch.runs = runs;
    batch.bytes = 0;
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A process can have ended before the engine looks for news the first time.
    #[test]
    fn an_end_that_was_told_before_the_first_sample_is_heard() {
        let (batches, told) = mpsc::channel();
        let (news_in, news) = mpsc::channel();
        let (changed, _kept) = mpsc::channel();
        news_in.send(ProcessEvent::NoneLeft).unwrap();
        let options = SamplerOptions {
            rate: 100,
            subprocesses: false,
            is_blocking: false,
            duration: Some(Duration::from_secs(1)),
        };
        let links = Links {
            batches,
            news,
            changed,
            is_over: Arc::default(),
            backlog: Arc::default(),
        };
        Engine::new(options, links).run();
        let last = told.iter().last().unwrap();
        assert_eq!(last.end, Some(SamplingEnd::TargetEnded));
        assert_eq!(last.stats.taken, 0);
    }

    /// Nobody takes what is sent: the time of all threads stays, their stacks do not.
    #[test]
    fn what_nobody_takes_does_not_pile_up() {
        let run = |thread: u32, start: u64, gil| Run {
            thread: ThreadIndex(thread),
            start: Duration::from_millis(start),
            weight: Duration::from_millis(2),
            samples: 1,
            stack: [Arc::new(Frame::marker("f"))].into(),
            activity: Activity::Active,
            gil,
        };
        let mut batch = Batch {
            bytes: 1 << 20,
            ..Batch::default()
        };
        for round in 0..100 {
            let new = (0..3).map(|thread| run(thread, 10 * round, Gil::None));
            batch
                .runs
                .extend(new.chain([run(0, 10 * round + 5, Gil::Held)]));
            sum_up(&mut batch);
        }
        let runs: Vec<_> = batch
            .runs
            .iter()
            .map(|run| (run.thread.0, run.weight.as_millis(), run.samples))
            .collect();
        assert_eq!(
            runs,
            [(0, 200, 100), (1, 200, 100), (2, 200, 100), (0, 200, 100)]
        );
        assert_eq!(batch.bytes, 0);
        assert_eq!(&*batch.runs[0].stack[0].function, "<more>");
    }
}
