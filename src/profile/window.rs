//! What a live view shows: own and total time of each line and function, over the last interval and since the beginning,
//! and what each thread and process does now. Every choice of what to show is made afterwards, so that none loses history.

use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::{FrameId, StackTable, TableLimits};
use crate::model::{
    Activity, Batch, CallStack, Frame, Gil, Pid, ProcessIndex, Run, SampledProcess, SampledThread,
    SamplingStats, ThreadIndex, Tid,
};

/// Most distinct lines, most distinct functions, and most bytes of both; the time of later ones is shown as
/// `<other functions>`.
const MAX_FRAMES: usize = 1 << 15;
const MAX_FRAME_BYTES: usize = 16 << 20;
/// Most threads that are remembered; beyond it, those are forgotten that were not seen for long.
const MAX_THREADS: usize = 1 << 14;
/// Most processes that are remembered; beyond it, those are forgotten that have ended.
const MAX_PROCESSES: usize = 1 << 14;
/// How long a thread is shown after it was seen last, so that what is told late is not taken for an end.
const LINGER: Duration = Duration::from_millis(1500);

/// Which time counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// That of blocked threads too.
    pub idle: bool,
    /// Only that of threads that hold the GIL.
    pub gil: bool,
}

/// Time, told apart by what a [`Choice`] asks for; in nanoseconds, of which 64 bits hold 584 years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    cells: [u64; 4],
}

impl Times {
    fn add(&mut self, cell: usize, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.cells[cell] = self.cells[cell].saturating_add(nanoseconds);
    }

    /// The cell for what a run did.
    fn cell(run: &Run) -> usize {
        usize::from(run.activity != Activity::Active) * 2 + usize::from(run.gil == Gil::Held)
    }

    /// The time that counts.
    pub fn of(&self, choice: Choice) -> Duration {
        let [active, active_gil, _, idle_gil] = self.cells;
        Duration::from_nanos(match choice {
            Choice { gil: true, .. } => active_gil.saturating_add(idle_gil),
            Choice { idle: false, .. } => active.saturating_add(active_gil),
            Choice { idle: true, .. } => self
                .cells
                .iter()
                .fold(0, |sum, cell| sum.saturating_add(*cell)),
        })
    }
}

/// Time in a line or a function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// While it was innermost.
    pub own: Times,
    /// While it was anywhere on the stack; once, however often it stood there.
    pub total: Times,
}

impl Spent {
    fn add(&mut self, cell: usize, time: Duration, is_own: bool) {
        self.total.add(cell, time);
        if is_own {
            self.own.add(cell, time);
        }
    }
}

/// A line or a function with its time.
#[derive(Clone, Debug)]
pub struct Row {
    /// Which; of a function, the line is the one that it begins with.
    pub frame: Arc<Frame>,
    /// In the last interval.
    pub recent: Spent,
    /// Since the beginning or the last reset.
    pub ever: Spent,
}

/// A thread, as it was seen last.
#[derive(Clone, Debug)]
pub struct ThreadRow {
    /// Which.
    pub index: ThreadIndex,
    /// Its process.
    pub process: ProcessIndex,
    /// Its process' number.
    pub pid: Pid,
    /// Its number.
    pub tid: Tid,
    /// Its name.
    pub name: String,
    /// Its stack, innermost first.
    pub stack: CallStack,
    /// Whether it ran.
    pub activity: Activity,
    /// Its part in the GIL.
    pub gil: Gil,
    /// How long it was active in the last interval.
    pub active: Duration,
    /// How long it held the GIL in the last interval.
    pub held: Duration,
}

/// A process, as it was seen last.
#[derive(Clone, Debug)]
pub struct ProcessRow {
    /// Which.
    pub index: ProcessIndex,
    /// What is known of it.
    pub process: SampledProcess,
    /// Its threads.
    pub threads: usize,
    /// How long these were active in the last interval, added up.
    pub active: Duration,
    /// How long these held the GIL in the last interval, added up.
    pub held: Duration,
}

/// All that a view shows, at one instant.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    /// The length of the interval.
    pub interval: Duration,
    /// Time in it in which at least one thread was active.
    pub active: Duration,
    /// Time in it in which at least one thread held a GIL.
    pub gil: Duration,
    /// Time since the beginning or the last reset.
    pub elapsed: Duration,
    /// Samples since then.
    pub samples: u64,
    /// Samples since then that could not be taken.
    pub lost: u64,
    /// Stacks since then that were read.
    pub stacks: u64,
    /// Stacks since then that could not be read.
    pub torn: u64,
    /// Time between two samples.
    pub period: Duration,
    /// By lines, in the order in which they were seen first.
    pub lines: Vec<Row>,
    /// By functions, in the order in which they were seen first.
    pub functions: Vec<Row>,
    /// The threads, by process and number.
    pub threads: Vec<ThreadRow>,
    /// The processes that live, in the order in which they were seen first.
    pub processes: Vec<ProcessRow>,
}

/// What is counted for a line or a function.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    recent: Spent,
    ever: Spent,
}

/// The lines and functions of a stack, each once; the innermost is the first.
#[derive(Clone, Debug, Default)]
struct Spots {
    lines: Vec<FrameId>,
    functions: Vec<FrameId>,
}

#[derive(Clone, Debug)]
struct Thread {
    known: SampledThread,
    stack: CallStack,
    /// Of `stack`; empty before the first run and after a reset.
    spots: Spots,
    activity: Activity,
    gil: Gil,
    active: Duration,
    held: Duration,
    seen: Duration,
}

/// Adds up what a sampler sends, for a view that is drawn again and again.
#[derive(Debug)]
pub struct Window {
    without_lines: bool,
    frames: StackTable,
    /// The function of each line, by the line's number.
    function_of: Vec<Option<FrameId>>,
    lines: Vec<Slot>,
    functions: Vec<Slot>,
    /// When a line was last put into a list, for putting it there once.
    stamps: Vec<u32>,
    stamp: u32,
    threads: FxHashMap<ThreadIndex, Thread>,
    processes: FxHashMap<ProcessIndex, SampledProcess>,
    stats: SamplingStats,
    /// The figures as they were when the interval began.
    opened: SamplingStats,
    /// The figures as they were at the last reset.
    reset: SamplingStats,
}

impl Window {
    /// A window of a recording that begins now; functions have no line at all if that is asked for.
    pub fn new(without_lines: bool) -> Self {
        Window {
            without_lines,
            frames: empty_table(),
            function_of: Vec::new(),
            lines: Vec::new(),
            functions: Vec::new(),
            stamps: Vec::new(),
            stamp: 0,
            threads: FxHashMap::default(),
            processes: FxHashMap::default(),
            stats: SamplingStats::default(),
            opened: SamplingStats::default(),
            reset: SamplingStats::default(),
        }
    }

    /// Adds a batch.
    pub fn add(&mut self, batch: &Batch) {
        for (index, process) in &batch.processes {
            self.processes.insert(*index, process.clone());
        }
        for (index, thread) in &batch.threads {
            match self.threads.get_mut(index) {
                Some(known) => known.known = thread.clone(),
                None => {
                    self.threads.insert(*index, Thread::new(thread.clone()));
                }
            }
        }
        for run in &batch.runs {
            self.add_run(run);
        }
        self.stats = batch.stats;
        self.forget();
    }

    fn add_run(&mut self, run: &Run) {
        let end = run.start.saturating_add(run.weight);
        // What is told late belongs to an interval that is over.
        let recent = run.weight.min(end.saturating_sub(self.opened.elapsed));
        let spots = match self.threads.get_mut(&run.thread) {
            Some(thread) => {
                if run.activity == Activity::Active {
                    thread.active = thread.active.saturating_add(recent);
                }
                if run.gil == Gil::Held {
                    thread.held = thread.held.saturating_add(recent);
                }
                thread.activity = run.activity;
                thread.gil = run.gil;
                thread.seen = thread.seen.max(end);
                let is_same = Arc::ptr_eq(&thread.stack, &run.stack);
                thread.stack = Arc::clone(&run.stack);
                let spots = std::mem::take(&mut thread.spots);
                if is_same && !spots.lines.is_empty() {
                    spots
                } else {
                    self.find_spots(&run.stack)
                }
            }
            None => self.find_spots(&run.stack),
        };
        let cell = Times::cell(run);
        for (slots, ids) in [
            (&mut self.lines, &spots.lines),
            (&mut self.functions, &spots.functions),
        ] {
            for (index, id) in ids.iter().enumerate() {
                if let Some(slot) = slots.get_mut(id.0 as usize) {
                    slot.recent.add(cell, recent, index == 0);
                    slot.ever.add(cell, run.weight, index == 0);
                }
            }
        }
        if let Some(thread) = self.threads.get_mut(&run.thread) {
            thread.spots = spots;
        }
    }

    fn find_spots(&mut self, stack: &[Arc<Frame>]) -> Spots {
        let nothing = [Arc::new(Frame::marker("<no Python>"))];
        let stack = if stack.is_empty() { &nothing } else { stack };
        let mut spots = Spots::default();
        let stamp = self.next_stamp();
        for frame in stack {
            let id = self.id_of(frame);
            if std::mem::replace(&mut self.stamps[id.0 as usize], stamp) != stamp {
                spots.lines.push(id);
            }
        }
        let stamp = self.next_stamp();
        for index in 0..spots.lines.len() {
            let id = self.function_of(spots.lines[index]);
            if std::mem::replace(&mut self.stamps[id.0 as usize], stamp) != stamp {
                spots.functions.push(id);
            }
        }
        spots
    }

    /// A number that no entry of `stamps` has.
    fn next_stamp(&mut self) -> u32 {
        if self.stamp == u32::MAX {
            self.stamps.fill(0);
            self.stamp = 0;
        }
        self.stamp += 1;
        self.stamp
    }

    /// The frame's number; the slots for it are there afterwards.
    fn id_of(&mut self, frame: &Arc<Frame>) -> FrameId {
        let known = self.frames.intern_frame(frame);
        let id = known.unwrap_or_else(|| self.frames.intern_marker("<other functions>"));
        let count = self.frames.frames().len();
        self.function_of.resize(count, None);
        self.lines.resize(count, Slot::default());
        self.functions.resize(count, Slot::default());
        self.stamps.resize(count, 0);
        id
    }

    /// The function that a line belongs to.
    fn function_of(&mut self, line: FrameId) -> FrameId {
        if let Some(id) = self.function_of[line.0 as usize] {
            return id;
        }
        let frame = self.frames.frame(line);
        let function = Arc::new(Frame {
            line: frame.first_line.filter(|_| !self.without_lines),
            ..frame.clone()
        });
        let id = self.id_of(&function);
        self.function_of[line.0 as usize] = Some(id);
        id
    }

    /// Forgets what is over, when there is much of it.
    fn forget(&mut self) {
        let now = self.stats.elapsed;
        if self.threads.len() > MAX_THREADS {
            self.threads
                .retain(|_, thread| now.saturating_sub(thread.seen) <= LINGER);
        }
        if self.processes.len() > MAX_PROCESSES {
            self.processes.retain(|_, process| process.is_alive);
        }
    }

    /// Begins anew: nothing was seen so far.
    pub fn reset(&mut self) {
        self.frames = empty_table();
        self.function_of.clear();
        self.lines.clear();
        self.functions.clear();
        self.stamps.clear();
        for thread in self.threads.values_mut() {
            thread.spots = Spots::default();
            thread.active = Duration::ZERO;
            thread.held = Duration::ZERO;
        }
        self.opened = self.stats;
        self.reset = self.stats;
    }

    /// How long the interval is so far.
    pub fn interval(&self) -> Duration {
        self.stats.elapsed.saturating_sub(self.opened.elapsed)
    }

    /// What is to be shown now; the next interval begins.
    pub fn take_picture(&mut self) -> Picture {
        let (stats, opened, reset) = (self.stats, self.opened, self.reset);
        let picture = Picture {
            interval: self.interval(),
            active: stats.active.saturating_sub(opened.active),
            gil: stats.gil.saturating_sub(opened.gil),
            elapsed: stats.elapsed.saturating_sub(reset.elapsed),
            samples: stats.taken.saturating_sub(reset.taken),
            lost: stats.lost.saturating_sub(reset.lost),
            stacks: stats.stacks.saturating_sub(reset.stacks),
            torn: stats.torn.saturating_sub(reset.torn),
            period: stats.interval,
            lines: rows(&mut self.lines, self.frames.frames()),
            functions: rows(&mut self.functions, self.frames.frames()),
            threads: self.thread_rows(),
            processes: Vec::new(),
        };
        let processes = self.process_rows(&picture.threads);
        for thread in self.threads.values_mut() {
            thread.active = Duration::ZERO;
            thread.held = Duration::ZERO;
        }
        self.opened = stats;
        Picture {
            processes,
            ..picture
        }
    }

    fn thread_rows(&self) -> Vec<ThreadRow> {
        let now = self.stats.elapsed;
        let mut rows: Vec<ThreadRow> = self
            .threads
            .iter()
            .filter(|(_, thread)| {
                let process = self.processes.get(&thread.known.process);
                let is_there = process.is_none_or(|process| process.is_alive);
                is_there && now.saturating_sub(thread.seen) <= LINGER
            })
            .map(|(index, thread)| ThreadRow {
                index: *index,
                process: thread.known.process,
                pid: self
                    .processes
                    .get(&thread.known.process)
                    .map_or(Pid(thread.known.tid.0), |process| process.pid),
                tid: thread.known.tid,
                name: thread.known.name.clone(),
                stack: Arc::clone(&thread.stack),
                activity: thread.activity,
                gil: thread.gil,
                active: thread.active,
                held: thread.held,
            })
            .collect();
        rows.sort_by_key(|row| (row.process, row.tid.0, row.index));
        rows
    }

    fn process_rows(&self, threads: &[ThreadRow]) -> Vec<ProcessRow> {
        let mut rows: Vec<ProcessRow> = self
            .processes
            .iter()
            .filter(|(_, process)| process.is_alive)
            .map(|(index, process)| ProcessRow {
                index: *index,
                process: process.clone(),
                threads: 0,
                active: Duration::ZERO,
                held: Duration::ZERO,
            })
            .collect();
        rows.sort_by_key(|row| row.index);
        for thread in threads {
            if let Ok(at) = rows.binary_search_by_key(&thread.process, |row| row.index) {
                rows[at].threads += 1;
                rows[at].active = rows[at].active.saturating_add(thread.active);
                rows[at].held = rows[at].held.saturating_add(thread.held);
            }
        }
        rows
    }
}

/// A table of frames only.
fn empty_table() -> StackTable {
    StackTable::new(TableLimits {
        frames: MAX_FRAMES,
        frame_bytes: MAX_FRAME_BYTES,
        stacks: 0,
    })
}

impl Thread {
    fn new(known: SampledThread) -> Self {
        Thread {
            known,
            stack: Arc::new([]),
            spots: Spots::default(),
            activity: Activity::Active,
            gil: Gil::None,
            active: Duration::ZERO,
            held: Duration::ZERO,
            seen: Duration::ZERO,
        }
    }
}

/// The rows of what was ever seen; their interval begins anew.
fn rows(slots: &mut [Slot], frames: &[Arc<Frame>]) -> Vec<Row> {
    let mut rows = Vec::new();
    for (slot, frame) in slots.iter_mut().zip(frames) {
        if slot.ever.total == Times::default() {
            continue;
        }
        rows.push(Row {
            frame: Arc::clone(frame),
            recent: std::mem::take(&mut slot.recent),
            ever: slot.ever,
        });
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::WaitKind;

    const ALL: Choice = Choice {
        idle: true,
        gil: false,
    };

    fn frame(name: &str, line: u32) -> Arc<Frame> {
        Arc::new(Frame {
            line: Some(line),
            first_line: Some(1),
            ..Frame::marker(name)
        })
    }

    fn run(thread: u32, start: u64, weight: u64, stack: &[Arc<Frame>]) -> Run {
        Run {
            thread: ThreadIndex(thread),
            start: Duration::from_millis(start),
            weight: Duration::from_millis(weight),
            samples: 1,
            stack: stack.into(),
            activity: Activity::Active,
            gil: Gil::None,
        }
    }

    fn batch(elapsed: u64, runs: Vec<Run>) -> Batch {
        let thread = |index: u32| SampledThread {
            process: ProcessIndex(0),
            tid: Tid(100 + index.cast_signed()),
            name: format!("thread {index}"),
        };
        let process = SampledProcess {
            pid: Pid(100),
            ppid: Pid(1),
            title: "python app.py".to_owned(),
            python: None,
            is_alive: true,
        };
        Batch {
            processes: vec![(ProcessIndex(0), process)],
            threads: (0..2)
                .map(|index| (ThreadIndex(index), thread(index)))
                .collect(),
            runs,
            stats: SamplingStats {
                elapsed: Duration::from_millis(elapsed),
                taken: elapsed / 10,
                active: Duration::from_millis(elapsed / 2),
                gil: Duration::from_millis(elapsed / 4),
                ..SamplingStats::default()
            },
            ..Batch::default()
        }
    }

    /// Own and total milliseconds of the interval, then of all time, by `function:line`.
    fn table(rows: &[Row], choice: Choice) -> Vec<(String, [u128; 4])> {
        let mut table: Vec<_> = rows
            .iter()
            .map(|row| {
                let times = [
                    row.recent.own,
                    row.recent.total,
                    row.ever.own,
                    row.ever.total,
                ];
                let line = row
                    .frame
                    .line
                    .map_or(String::new(), |line| line.to_string());
                (
                    format!("{}:{line}", row.frame.function),
                    times.map(|times| times.of(choice).as_millis()),
                )
            })
            .collect();
        table.sort();
        table
    }

    #[test]
    fn a_function_counts_once_however_often_it_recurses() {
        let mut window = Window::new(false);
        let stack = [frame("f", 3), frame("f", 2), frame("f", 2), frame("m", 9)];
        window.add(&batch(100, vec![run(0, 0, 100, &stack)]));
        let picture = window.take_picture();
        assert_eq!(
            table(&picture.lines, ALL),
            [
                ("f:2".to_owned(), [0, 100, 0, 100]),
                ("f:3".to_owned(), [100; 4]),
                ("m:9".to_owned(), [0, 100, 0, 100])
            ]
        );
        assert_eq!(
            table(&picture.functions, ALL),
            [
                ("f:1".to_owned(), [100; 4]),
                ("m:1".to_owned(), [0, 100, 0, 100])
            ]
        );
    }

    #[test]
    fn an_interval_ends_with_its_picture_and_the_sum_goes_on() {
        let mut window = Window::new(true);
        let stack = [frame("f", 3)];
        window.add(&batch(100, vec![run(0, 0, 100, &stack)]));
        window.take_picture();
        window.add(&batch(
            300,
            vec![run(0, 100, 50, &stack), run(1, 100, 20, &stack)],
        ));
        let picture = window.take_picture();
        assert_eq!(
            table(&picture.functions, ALL),
            [("f:".to_owned(), [70, 70, 170, 170])]
        );
        assert_eq!(picture.interval, Duration::from_millis(200));
        assert_eq!(picture.active, Duration::from_millis(100));
        assert_eq!(picture.gil, Duration::from_millis(50));
        assert_eq!((picture.samples, picture.threads.len()), (30, 2));
        assert_eq!(picture.threads[0].active, Duration::from_millis(50));
        assert_eq!(picture.processes[0].active, Duration::from_millis(70));
    }

    #[test]
    fn what_is_told_late_counts_for_the_interval_only_as_far_as_it_reaches_into_it() {
        let mut window = Window::new(false);
        window.add(&batch(1000, vec![]));
        window.take_picture();
        window.add(&batch(1100, vec![run(0, 0, 1100, &[frame("f", 3)])]));
        let picture = window.take_picture();
        assert_eq!(
            table(&picture.lines, ALL),
            [("f:3".to_owned(), [100, 100, 1100, 1100])]
        );
        assert_eq!(picture.threads[0].active, Duration::from_millis(100));
    }

    #[test]
    fn idle_and_gil_are_chosen_afterwards() {
        let mut window = Window::new(false);
        let stack = [frame("f", 3)];
        let kinds = [
            (Activity::Active, Gil::None, 1),
            (Activity::Active, Gil::Held, 20),
            (Activity::Waiting(WaitKind::Sleep), Gil::None, 300),
            (Activity::Waiting(WaitKind::Disk), Gil::Held, 4000),
        ];
        let runs = kinds.map(|(activity, gil, weight)| Run {
            activity,
            gil,
            ..run(0, 0, weight, &stack)
        });
        window.add(&batch(5000, runs.into()));
        let picture = window.take_picture();
        let own = |idle, gil| {
            picture.lines[0]
                .recent
                .own
                .of(Choice { idle, gil })
                .as_millis()
        };
        assert_eq!(
            [
                own(false, false),
                own(true, false),
                own(false, true),
                own(true, true)
            ],
            [21, 4321, 4020, 4020]
        );
    }

    #[test]
    fn a_reset_forgets_times_but_no_threads() {
        let mut window = Window::new(false);
        let stack: CallStack = [frame("f", 3)].into();
        let again = |start| Run {
            stack: Arc::clone(&stack),
            ..run(0, start, 100, &[])
        };
        window.add(&batch(100, vec![again(0)]));
        window.reset();
        let picture = window.take_picture();
        assert!(picture.lines.is_empty());
        assert_eq!((picture.samples, picture.threads.len()), (0, 2));
        window.add(&batch(200, vec![again(100)]));
        let picture = window.take_picture();
        assert_eq!(table(&picture.lines, ALL), [("f:3".to_owned(), [100; 4])]);
        assert_eq!(picture.samples, 10);
    }

    #[test]
    fn threads_and_processes_that_ended_are_not_shown() {
        let mut window = Window::new(false);
        let stack = [frame("f", 3)];
        window.add(&batch(
            100,
            vec![run(0, 0, 100, &stack), run(1, 0, 100, &stack)],
        ));
        window.add(&batch(9000, vec![run(0, 8900, 100, &stack)]));
        assert_eq!(window.take_picture().threads.len(), 1);
        let mut last = batch(9100, vec![]);
        last.processes[0].1.is_alive = false;
        window.add(&last);
        let picture = window.take_picture();
        assert!(picture.threads.is_empty() && picture.processes.is_empty());
    }

    #[test]
    fn more_functions_than_are_told_apart_share_a_row() {
        let mut window = Window::new(true);
        let runs = |range: std::ops::Range<u32>| {
            range
                .map(|line| run(0, 0, 1, &[frame(&format!("f{line}"), line)]))
                .collect()
        };
        let count = u32::try_from(MAX_FRAMES).unwrap();
        window.add(&batch(100, runs(0..count)));
        let picture = window.take_picture();
        assert!(picture.lines.len() <= MAX_FRAMES + 1);
        let other = picture
            .lines
            .iter()
            .find(|row| &*row.frame.function == "<other functions>");
        assert!(other.is_some());
        let sum: Duration = picture.lines.iter().map(|row| row.ever.own.of(ALL)).sum();
        assert_eq!(sum, Duration::from_millis(u64::from(count)));
    }
}
