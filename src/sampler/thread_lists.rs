//! Which threads a process has, by the kernel and by Python, brought up to date when something calls for it.

use std::io;
use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};

use super::thread::ThreadSampler;
use super::thread_set::ThreadSet;
use crate::model::{Address, ProcessIndex, SampledThread, ThreadIndex, Tid};
use crate::python::runtime::{Interpreter, RuntimeError, ThreadState};
use crate::python::thread_ids::native_ids;
use crate::snapshot::attach::Attached;
use crate::snapshot::roster::{list_threads, read_names};
use crate::sys::clock::now;
use crate::sys::memory::{PageView, ReadError};
use crate::sys::procfile::is_gone;
use crate::target::Target;
use crate::target::tasks::TaskFiles;

/// How often the lists are read again when nothing calls for it: a thread that comes or goes is noticed by the processor
/// time that it takes, but its name can be changed at any time.
const REFRESH: Duration = Duration::from_secs(5);
/// Most distinct threads of a recording; each process has one more, for all that come later.
const MAX_THREADS: u32 = 1 << 14;
/// The lists are not read again before this many times what reading them took.
const REFRESH_SHARE: u32 = 20;

/// The lists of threads of one process.
#[derive(Debug, Default)]
pub struct ThreadLists {
    interpreters: Vec<Interpreter>,
    /// The newest thread state of each interpreter when the lists were read.
    newest: Vec<Address>,
    /// Which thread each thread state belongs to.
    owners: FxHashMap<Address, Tid>,
    /// Whether something calls for it.
    is_wanted: bool,
    at: Option<Duration>,
    named_at: Option<Duration>,
    /// The number that threads have when there are too many.
    rest: Option<ThreadIndex>,
    cost: Duration,
}

/// What came of bringing the lists up to date.
#[derive(Debug, Default)]
pub struct Refreshed {
    /// Threads that are not there any more.
    pub ended: Vec<ThreadSampler>,
    /// Threads that are new or have another name.
    pub told: Vec<(ThreadIndex, SampledThread)>,
    /// Threads that are there and could not be read.
    pub unread: Vec<Tid>,
    /// Why all lists are the old ones.
    pub unlisted: Option<io::Error>,
    /// Why Python's list is the old one.
    pub failure: Option<RuntimeError>,
}

/// The process that lists are of.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// Its number in the recording.
    pub index: ProcessIndex,
    /// The process.
    pub target: &'a Target,
    /// Its Python.
    pub attached: &'a Attached,
}

impl Owner<'_> {
    fn describe(&self, tid: Tid, thread: &ThreadSampler) -> (ThreadIndex, SampledThread) {
        let name = match thread.index.0 < MAX_THREADS {
            true => thread.name.clone(),
            false => "<more threads>".to_owned(),
        };
        let told = SampledThread {
            process: self.index,
            tid,
            name,
        };
        (thread.index, told)
    }
}

impl ThreadLists {
    /// The interpreter at this place.
    pub fn interpreter(&self, place: usize) -> Option<&Interpreter> {
        self.interpreters.get(place)
    }

    /// Whether the thread state was the newest of the interpreter at this place when the lists were read.
    pub fn is_newest(&self, place: usize, state: Address) -> bool {
        self.newest.get(place) == Some(&state)
    }

    /// The thread that a thread state belongs to.
    pub fn thread_of(&self, state: Address) -> Option<Tid> {
        self.owners.get(&state).copied()
    }

    /// Asks for them to be read again soon.
    pub fn want(&mut self) {
        self.is_wanted = true;
    }

    /// Whether they should be read again now.
    pub fn is_due(&self, now: Duration) -> bool {
        let Some(at) = self.at else {
            return true;
        };
        let since = now.saturating_sub(at);
        since >= REFRESH || (self.is_wanted && since >= self.cost * REFRESH_SHARE)
    }

    /// Reads them again. `None` when the process has ended.
    pub fn refresh(
        &mut self,
        owner: Owner<'_>,
        threads: &mut ThreadSet,
        next_thread: &mut u32,
    ) -> Option<Refreshed> {
        let began = now();
        self.is_wanted = false;
        self.at = Some(began);
        let mut refreshed = Refreshed::default();
        let tids = match owner.target.proc().tasks() {
            Ok(tids) => tids,
            Err(error) if is_gone(&error) => return None,
            Err(error) => {
                refreshed.unlisted = Some(error);
                self.is_wanted = true;
                return Some(refreshed);
            }
        };
        let alive: FxHashSet<Tid> = tids.iter().copied().collect();
        // A number that is used again is another thread: the files of the one before say that it has ended.
        refreshed.ended =
            threads.take_if(|tid, thread| !alive.contains(&tid) || thread.files.has_ended());
        for tid in tids {
            if threads.get(tid).is_some() {
                continue;
            }
            match find_thread(owner, tid, next_thread, &mut self.rest) {
                Ok(thread) => {
                    refreshed.told.push(owner.describe(tid, &thread));
                    threads.add(tid, thread);
                }
                Err(error) if is_gone(&error) => {}
                Err(_) => refreshed.unread.push(tid),
            }
        }
        let attached = owner.attached;
        match attached
            .runtime
            .interpreters(&PageView::new(&attached.memory))
        {
            Ok(interpreters) => self.interpreters = interpreters,
            Err(error) => refreshed.failure = Some(error),
        }
        if refreshed.failure.as_ref().map(|error| error.source) != Some(ReadError::Gone) {
            self.assign_states(owner, threads, &mut refreshed);
        }
        self.cost = now().saturating_sub(began);
        Some(refreshed)
    }

    /// Finds out which thread each of Python's thread states belongs to.
    fn assign_states(
        &mut self,
        owner: Owner<'_>,
        threads: &mut ThreadSet,
        refreshed: &mut Refreshed,
    ) {
        let Attached {
            memory, runtime, ..
        } = owner.attached;
        let by_number: FxHashMap<i32, Tid> = threads
            .iter_mut()
            .map(|(tid, thread)| (thread.innermost_tid, tid))
            .collect();
        let numbers: Vec<i32> = by_number.keys().copied().collect();
        let mut errors = Vec::new();
        let mut states_of: FxHashMap<Tid, Vec<(usize, ThreadState)>> = FxHashMap::default();
        let mut all_states = Vec::new();
        self.newest.clear();
        self.owners.clear();
        for (place, interpreter) in self.interpreters.iter().enumerate() {
            let states = list_threads(runtime, memory, interpreter, &mut errors);
            let ids = native_ids(&PageView::new(memory), &states, &numbers);
            for state in &states {
                let tid = ids.get(&state.address).and_then(|id| by_number.get(id));
                if let Some(tid) = tid {
                    self.owners.insert(state.address, *tid);
                    states_of.entry(*tid).or_default().push((place, *state));
                }
            }
            self.newest
                .push(states.last().map_or(Address::NULL, |state| state.address));
            all_states.push(states);
        }
        let mut changed = Vec::new();
        for (tid, thread) in threads.iter_mut() {
            let states = states_of.remove(&tid).unwrap_or_default();
            if thread.states != states {
                thread.asleep_at = None;
                thread.states = states;
                changed.push(tid);
            }
        }
        threads.warm_up(&changed);
        let began = self.at.unwrap_or_default();
        let is_rename_due = self
            .named_at
            .is_none_or(|at| began.saturating_sub(at) >= REFRESH);
        if !changed.is_empty() || is_rename_due {
            self.named_at = Some(began);
            let names = self.read_names(owner, &all_states, &mut errors);
            assign_names(owner, &names, threads, refreshed);
        }
        for error in errors {
            // That a list changes while it is read is usual; it will be read again.
            tracing::debug!("process {}: {error}", owner.target.pid());
            self.is_wanted = true;
        }
    }

    fn read_names(
        &self,
        owner: Owner<'_>,
        all_states: &[Vec<ThreadState>],
        errors: &mut Vec<String>,
    ) -> FxHashMap<u64, String> {
        let Attached {
            memory, runtime, ..
        } = owner.attached;
        let mut names = FxHashMap::default();
        for (interpreter, states) in self.interpreters.iter().zip(all_states) {
            // A thread of the main interpreter that has entered another keeps the name that it has at home.
            for (id, name) in read_names(runtime, memory, interpreter, states, errors) {
                names.entry(id).or_insert(name);
            }
        }
        names
    }
}

fn find_thread(
    owner: Owner<'_>,
    tid: Tid,
    next_thread: &mut u32,
    rest: &mut Option<ThreadIndex>,
) -> io::Result<ThreadSampler> {
    let files = TaskFiles::new(owner.target.proc(), tid);
    let facts = files.facts()?;
    let mut next = || {
        let index = ThreadIndex(*next_thread);
        *next_thread = next_thread.saturating_add(1);
        index
    };
    let index = match *rest {
        Some(rest) => rest,
        None => next(),
    };
    if index.0 >= MAX_THREADS {
        *rest = Some(index);
    }
    let mut thread = ThreadSampler::new(index, facts.innermost_tid, files);
    thread.name = String::from_utf8_lossy(&facts.comm).into_owned();
    Ok(thread)
}

fn assign_names(
    owner: Owner<'_>,
    names: &FxHashMap<u64, String>,
    threads: &mut ThreadSet,
    refreshed: &mut Refreshed,
) {
    for (tid, thread) in threads.iter_mut() {
        let mut states = thread.states.iter();
        let name = states.find_map(|(_, state)| names.get(&state.thread_id));
        if let Some(name) = name
            && *name != thread.name
        {
            thread.name.clone_from(name);
            refreshed.told.push(owner.describe(tid, thread));
        }
    }
}
