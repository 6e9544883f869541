//! Finds the processes that are to be sampled as they come, and tells when they go: on a thread of its own, since to look
//! into a process for the first time takes milliseconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use rustc_hash::{FxHashMap, FxHashSet};

use crate::model::{MemoryOutcome, Pid, ProcessIndex, SampledProcess, SchedState};
use crate::redact::redact_command;
use crate::snapshot::attach::{Attached, NotAttached, attach};
use crate::sys::deadline::{self, DeadlineError, TimeBudget};
use crate::sys::descriptors::is_shortage;
use crate::sys::fork::is_ours;
use crate::sys::procfile::{ProcDir, is_gone};
use crate::target::status::Stat;
use crate::target::{Target, TargetError, family};

/// How often it looks around.
const ROUND: Duration = Duration::from_millis(50);
/// How often titles are read again.
const RETITLE: Duration = Duration::from_millis(250);
/// How long reading a process' memory may take: it blocks for as long as its `mmap_lock` is held.
const MAX_READ: Duration = Duration::from_secs(10);
/// How long after its start a process may still become a Python.
const YOUTH: Duration = Duration::from_secs(5);
/// Most processes of a recording.
const MAX_PROCESSES: usize = 65_536;

/// What the finder tells.
#[derive(Debug)]
pub enum ProcessEvent {
    /// A process has come, or has another title, or has ended.
    Process(ProcessIndex, SampledProcess),
    /// A process whose Python has been found.
    Attached(ProcessIndex, Arc<Target>, Box<Attached>),
    /// Something that people should know.
    Remark(String),
    /// All processes have ended.
    NoneLeft,
}

/// Looks for Python in `target`, under a deadline.
pub fn look_into(target: &Arc<Target>) -> Result<Attached, NotAttached> {
    let owned = Arc::clone(target);
    let found = deadline::run_patiently(TimeBudget::new(MAX_READ).patience(), move || match owned
        .innermost_tids()
    {
        Err(error) if !is_gone(&error) => Err(NotAttached {
            outcome: MemoryOutcome::Unreadable,
            failure: Some(format!("list its threads: {error}")),
        }),
        tids => attach(&owned, &tids.unwrap_or_default()),
    });
    found.unwrap_or_else(|error| {
        Err(NotAttached {
            outcome: MemoryOutcome::TimedOut,
            failure: Some(format!("read its memory: {error}")),
        })
    })
}

/// The title of a process as `ps` shows it, without secrets: what is recorded is passed on.
fn title_of(target: &Arc<Target>) -> Result<Option<String>, DeadlineError> {
    let owned = Arc::clone(target);
    let patience = TimeBudget::new(MAX_READ).patience();
    let command = deadline::run_patiently(patience, move || owned.command_line())?;
    let command = command.unwrap_or_default();
    if command.is_empty() {
        return Ok(None);
    }
    let words: Vec<String> = command
        .iter()
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    Ok(Some(redact_command(&words).join(" ")))
}

/// How far it has come with a process.
#[derive(Debug)]
enum Stage {
    /// Its Python is looked for, next time at that moment.
    Looking { next: Instant, pause: Duration },
    /// Its Python was found, or none will be.
    Settled,
    /// It has ended.
    Ended,
}

#[derive(Debug)]
struct Tracked {
    index: ProcessIndex,
    /// None once it has ended: it would keep descriptors.
    target: Option<Arc<Target>>,
    told: SampledProcess,
    stage: Stage,
    /// Reading its memory has blocked once: its title is not read any more.
    is_blocked: bool,
}

/// There were too few descriptors to look at a process.
#[derive(Debug)]
struct Unopened;

/// The finder's own state.
pub struct ProcessFinder {
    tracked: Vec<Tracked>,
    /// Which of them has the pid now.
    by_pid: FxHashMap<Pid, usize>,
    /// Processes that have been looked at and are none of ours.
    unrelated: FxHashSet<Pid>,
    subprocesses: bool,
    is_shortage_told: bool,
    retitled: Instant,
    news: Sender<ProcessEvent>,
}

impl ProcessFinder {
    /// A finder that knows the root already; `is_attached` when its Python has been found.
    pub fn new(
        root: Arc<Target>,
        is_attached: bool,
        python: Option<String>,
        subprocesses: bool,
        news: Sender<ProcessEvent>,
    ) -> Self {
        let mut finder = ProcessFinder {
            tracked: Vec::new(),
            by_pid: FxHashMap::default(),
            unrelated: FxHashSet::default(),
            subprocesses,
            is_shortage_told: false,
            retitled: Instant::now(),
            news,
        };
        finder.track(root, python);
        if is_attached && let Some(tracked) = finder.tracked.first_mut() {
            tracked.stage = Stage::Settled;
        }
        finder
    }

    /// Works until `is_over`, or until nobody listens. Processes that `changed` names are looked into anew.
    pub fn run(mut self, is_over: &AtomicBool, changed: &Receiver<ProcessIndex>) {
        while !is_over.load(Ordering::Relaxed) {
            while let Ok(index) = changed.try_recv() {
                if let Some(tracked) = self.tracked.get_mut(index.0 as usize) {
                    look_again(tracked);
                }
            }
            if self.subprocesses {
                self.find_new();
            }
            for tracked in &mut self.tracked {
                visit(tracked, &self.news);
            }
            if self.retitled.elapsed() >= RETITLE {
                self.retitled = Instant::now();
                self.retitle();
            }
            let has_ended = |tracked: &Tracked| matches!(tracked.stage, Stage::Ended);
            let is_done = if self.subprocesses {
                self.tracked.iter().all(has_ended)
            } else {
                self.tracked.first().is_none_or(has_ended)
            };
            if is_done {
                let _ = self.news.send(ProcessEvent::NoneLeft);
                return;
            }
            std::thread::sleep(ROUND);
        }
    }

    fn track(&mut self, target: Arc<Target>, python: Option<String>) {
        let Ok(number) = u32::try_from(self.tracked.len()) else {
            return;
        };
        if self.tracked.len() >= MAX_PROCESSES {
            return;
        }
        let title = title_of(&target);
        let is_blocked = title.is_err();
        let told = SampledProcess {
            pid: target.pid(),
            ppid: target.stat().ppid,
            title: title
                .ok()
                .flatten()
                .unwrap_or_else(|| String::from_utf8_lossy(&target.stat().comm).into_owned()),
            python,
            is_alive: true,
        };
        let index = ProcessIndex(number);
        let _ = self.news.send(ProcessEvent::Process(index, told.clone()));
        self.by_pid.insert(target.pid(), self.tracked.len());
        let mut tracked = Tracked {
            index,
            target: Some(target),
            told,
            stage: Stage::Ended,
            is_blocked,
        };
        look_again(&mut tracked);
        self.tracked.push(tracked);
    }

    /// Takes up processes whose parent is one of ours. A process that loses its parent later stays ours.
    fn find_new(&mut self) {
        let Ok(pids) = family::list_processes() else {
            return;
        };
        let present: FxHashSet<Pid> = pids.iter().copied().collect();
        self.unrelated.retain(|pid| present.contains(pid));
        let mut unknown: Vec<Pid> = pids
            .into_iter()
            .filter(|pid| !self.unrelated.contains(pid) && !self.is_ours_still(*pid))
            .collect();
        // Children can have lower numbers than their parents once the numbers have been used up.
        let mut unopened = 0;
        loop {
            let before = unknown.len() + unopened;
            let mut left = Vec::new();
            for pid in unknown {
                match self.take_up(pid) {
                    Ok(true) => {}
                    Ok(false) => left.push(pid),
                    // Looked at again in the next round.
                    Err(Unopened) => unopened += 1,
                }
            }
            unknown = left;
            if unknown.len() + unopened == before {
                break;
            }
        }
        self.unrelated.extend(unknown);
        if unopened > 0 && !self.is_shortage_told {
            self.is_shortage_told = true;
            let text = format!(
                "{unopened} processes could not be read, and may be descendants: too many open files"
            );
            let _ = self.news.send(ProcessEvent::Remark(text));
        }
    }

    fn is_ours_still(&self, pid: Pid) -> bool {
        self.by_pid
            .get(&pid)
            .and_then(|place| self.tracked.get(*place))
            .is_some_and(|tracked| !matches!(tracked.stage, Stage::Ended))
    }

    /// Whether it is one of ours, and was taken up.
    fn take_up(&mut self, pid: Pid) -> Result<bool, Unopened> {
        let stat = ProcDir::open(pid).and_then(|proc| proc.read_record("stat"));
        let ppid = match stat {
            Ok(bytes) => Stat::parse(&bytes).map(|stat| stat.ppid),
            Err(error) if is_shortage(&error) => return Err(Unopened),
            Err(_) => None,
        };
        // Children of one that has ended are given to another: its pid would be of a stranger by now.
        let is_child = ppid.is_some_and(|ppid| self.is_ours_still(ppid));
        if !is_child || is_ours(pid) {
            return Ok(false);
        }
        match Target::open(pid) {
            Ok(target) => {
                self.track(Arc::new(target), None);
                Ok(true)
            }
            Err(TargetError::Io { source, .. }) if is_shortage(&source) => Err(Unopened),
            Err(_) => Ok(false),
        }
    }

    fn retitle(&mut self) {
        for tracked in &mut self.tracked {
            if matches!(tracked.stage, Stage::Ended) || tracked.is_blocked {
                continue;
            }
            let Some(target) = &tracked.target else {
                continue;
            };
            let title = title_of(target);
            tracked.is_blocked = title.is_err();
            if let Ok(Some(title)) = title
                && title != tracked.told.title
            {
                tracked.told.title = title;
                let _ = self
                    .news
                    .send(ProcessEvent::Process(tracked.index, tracked.told.clone()));
            }
        }
    }
}

fn look_again(tracked: &mut Tracked) {
    tracked.stage = Stage::Looking {
        next: Instant::now(),
        pause: Duration::from_millis(10),
    };
}

/// Sees whether a process has ended, and whether its Python can be found now.
fn visit(tracked: &mut Tracked, news: &Sender<ProcessEvent>) {
    let Some(known) = &tracked.target else {
        return;
    };
    if known.has_ended() {
        tracked.stage = Stage::Ended;
        tracked.target = None;
        tracked.told.is_alive = false;
        let _ = news.send(ProcessEvent::Process(tracked.index, tracked.told.clone()));
        return;
    }
    let Stage::Looking { next, pause } = &mut tracked.stage else {
        return;
    };
    if Instant::now() < *next {
        return;
    }
    // What it was opened with can be of the program that it ran before.
    let Ok(target) = Target::open(known.pid()) else {
        return;
    };
    let is_same = target.stat().start_ticks == known.stat().start_ticks;
    if !is_same || target.stat().state == SchedState::Zombie {
        return;
    }
    let target = Arc::new(target);
    tracked.target = Some(Arc::clone(&target));
    match look_into(&target) {
        Ok(attached) => {
            tracked.stage = Stage::Settled;
            tracked.told.python = Some(attached.runtime.info.version.clone());
            let _ = news.send(ProcessEvent::Process(tracked.index, tracked.told.clone()));
            let _ = news.send(ProcessEvent::Attached(
                tracked.index,
                target,
                Box::new(attached),
            ));
        }
        Err(error) => {
            *pause = (*pause * 2).min(Duration::from_millis(500));
            *next = Instant::now() + *pause;
            let is_young = target.age().is_none_or(|age| age < YOUTH);
            let is_final = !is_young || error.outcome == MemoryOutcome::Denied;
            if is_final {
                tracked.stage = Stage::Settled;
                // That one is going away is no news: its end is told.
                let is_ending = matches!(error.outcome, MemoryOutcome::None | MemoryOutcome::Ended);
                if let Some(failure) = error.failure.filter(|_| !is_ending) {
                    let pid = tracked.told.pid;
                    let _ = news.send(ProcessEvent::Remark(format!("process {pid}: {failure}")));
                }
            }
        }
    }
}
