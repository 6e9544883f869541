//! Reading the Python of one process: all thread states, each stack with proof that its thread did not move meanwhile.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::hubs::find_blocked_hubs;
use super::locals::LocalsBudget;
use super::locks::resolve_waits;
use super::reach::{Memories, find_reach, has_end};
use super::roster::{list_threads, read_names};
use super::stops::{Stopping, Stops};
use super::view::{News, PythonThread, PythonView};
use super::window::{KernelThread, Window};
use crate::model::{
    Address, CaughtError, Consistency, EventLoop, Frame, Gil, HolderConfidence, SchedState,
};
use crate::python::asyncio::{Limits, Surroundings, read_event_loop};
use crate::python::eval_stack::{StackValues, read_values};
use crate::python::exceptions::read_handled;
use crate::python::frame::{FrameDecoder, StackError};
use crate::python::reachability::{StackReferences, read_references};
use crate::python::runtime::{GilState, Interpreter, Runtime, ThreadState};
use crate::python::thread_ids::native_ids;
use crate::sys::affinity::Perch;
use crate::sys::memory::{LiveMemory, PageView, RemoteMemory};
use crate::sys::ptrace::Tracer;
use crate::target::tasks::Syscall;
use crate::wait::{FutexCall, is_futex};

/// How often a thread that runs is read again before it is given up as torn.
const MAX_STACK_TRIES: usize = 40;
/// Most tasks of one event loop that are counted.
const MAX_TASKS: usize = 65_536;
/// Most of them that are looked into, and most of their frames.
const MAX_DESCRIBED_TASKS: usize = 1000;
const MAX_TASK_FRAMES: usize = 10_000;
/// Of a thread that could run, so many halves of that, and at each further try half as many as at the one before, down to 1/64.
const HALVINGS_OF_RUNNING: usize = 3;
const MAX_HALVINGS: usize = 6;

/// Reads one process again and again.
pub struct PythonReader<'a> {
    /// The CPython that was found in it.
    pub runtime: &'a Runtime,
    /// Its memory.
    pub memory: &'a LiveMemory,
    /// Kernel threads by their numbers in the target's own pid namespace.
    pub kernel_threads: FxHashMap<i32, KernelThread<'a>>,
    /// What stops threads that could run while they are read, if they are to be.
    pub stopper: Option<RefCell<(Tracer, Stops)>>,
    /// Whether it may have greenlets.
    pub has_greenlets: bool,
    /// What the local variables of frames may take, if they are read.
    pub locals: Option<LocalsBudget>,
    /// How long a wait has to last for it to be found out which threads can reach what it is for.
    pub reach_after: Option<Duration>,
    /// The same of waits that end by themselves, however short they are.
    pub reach_of_slices: bool,
}

impl PythonReader<'_> {
    /// Reads all threads.
    pub fn read(&self, decoder: &mut FrameDecoder) -> PythonView {
        decoder.begin_snapshot();
        let mut result = PythonView::default();
        let tids: Vec<i32> = self.kernel_threads.keys().copied().collect();
        let interpreters = match self.runtime.interpreters(&PageView::new(self.memory)) {
            Ok(interpreters) => interpreters,
            Err(error) => {
                result.errors.push(error.to_string());
                return result;
            }
        };
        let mut names = FxHashMap::default();
        for interpreter in &interpreters {
            self.read_interpreter(decoder, interpreter, &tids, &mut names, &mut result);
        }
        drop_idle_doubles(&mut result.threads);
        let view = PageView::new(self.memory);
        for thread in &mut result.threads {
            let kernel = self.kernel_threads.get(&thread.innermost_tid);
            let Some((kernel, futex)) =
                kernel.zip(thread.futex).filter(|_| thread.values.is_some())
            else {
                continue;
            };
            let call = kernel.files.read_syscall().ok();
            let call = call.and_then(|call| FutexCall::of(&call));
            thread.futex_call = call.filter(|call| call.address == futex);
        }
        let waits = resolve_waits(self.runtime.objects(&view), &mut result.threads, &tids);
        if let Some(least) = self.reach_after {
            let fresh = PageView::new(self.memory);
            let memories = Memories {
                walked: self.memory,
                now: &fresh,
            };
            let has_lasted = |thread: &PythonThread| {
                let ends = thread.lock.as_ref().is_some_and(has_end);
                let kernel = self.kernel_threads.get(&thread.innermost_tid);
                let slept = kernel.and_then(|kernel| kernel.slept);
                let lasts = match ends {
                    true => self.reach_of_slices,
                    false => slept.is_some_and(|slept| slept >= least),
                };
                thread.news.is_none() && lasts
            };
            find_reach(
                self.runtime,
                &memories,
                &mut result.threads,
                &waits,
                has_lasted,
            );
        }
        self.confirm_owners(&mut result.threads);
        for interpreter in interpreters.iter().filter(|_| self.has_greenlets) {
            find_blocked_hubs(
                self.runtime.objects(&view),
                interpreter,
                &mut result.threads,
            );
        }
        if let Some(stopper) = &self.stopper {
            let (_, stops) = &mut *stopper.borrow_mut();
            result.errors.append(&mut stops.take_remarks());
            result.stops = stops.take_account();
        }
        result.taken = decoder.taken();
        if let Some(locals) = &self.locals {
            result.taken.memory += locals.taken();
        }
        if decoder.lineless() > 0 {
            result.errors.push(format!(
                "the lines of {} frames were left out: the tables that have them are too long",
                decoder.lineless()
            ));
        }
        result
    }

    /// Owners of locks are read after all stacks: only what a waiter has slept through, from the kernel's facts until now, is proven of
    /// the lock that it waits for. So all that is proven was true at one moment.
    fn confirm_owners(&self, threads: &mut [PythonThread]) {
        for thread in threads {
            let Some(lock) = &mut thread.lock else {
                continue;
            };
            let kernel = self.kernel_threads.get(&thread.innermost_tid);
            let has_slept = thread.news.is_none()
                && kernel.is_some_and(|kernel| {
                    let still = kernel.still;
                    still.is_some_and(|still| {
                        kernel
                            .files
                            .stamp_after(still)
                            .is_ok_and(|now| now == still)
                    })
                });
            if !has_slept {
                for holder in &mut lock.holders {
                    holder.confidence = holder.confidence.min(HolderConfidence::Inferred);
                }
                if let Some(reach) = &mut lock.reach {
                    reach.is_closed = false;
                }
            }
        }
    }

    /// Reads the threads of one interpreter. `names` has those of the ones before it: a thread of the main interpreter
    /// that has entered another keeps the name that it has at home.
    fn read_interpreter(
        &self,
        decoder: &mut FrameDecoder,
        interpreter: &Interpreter,
        tids: &[i32],
        names: &mut FxHashMap<u64, String>,
        result: &mut PythonView,
    ) {
        let states = list_threads(self.runtime, self.memory, interpreter, &mut result.errors);
        let ids = native_ids(&PageView::new(self.memory), &states, tids);
        let known = read_names(
            self.runtime,
            self.memory,
            interpreter,
            &states,
            &mut result.errors,
        );
        for (thread_id, name) in known {
            names.entry(thread_id).or_insert(name);
        }
        let first = result.threads.len();
        let view = PageView::new(self.memory);
        let sleepers = Sleepers {
            reads_values: self.has_lock_waiter(&view, interpreter),
            reads_references: self.reach_of_slices
                || self.reach_after.is_some_and(|least| self.has_waited(least)),
            view,
            around: Surroundings {
                interpreter,
                states: &states,
                tids,
            },
        };
        for state in &states {
            // A state whose thread is not there any more, or was not yet when the kernel's list was read, has no number.
            let Some(innermost_tid) = ids.get(&state.address).copied() else {
                continue;
            };
            let Some(kernel) = self.kernel_threads.get(&innermost_tid) else {
                continue;
            };
            let Some(reading) =
                self.read_thread(decoder, interpreter, state, kernel, &sleepers, result)
            else {
                continue;
            };
            if reading.gil == Gil::Held {
                // Threads are read one after another and the GIL moves on: the last look is the one that holds.
                let before = result.threads[first..].iter_mut();
                before
                    .filter(|thread| thread.gil == Gil::Held)
                    .for_each(|thread| thread.gil = Gil::None);
            }
            result.threads.push(PythonThread {
                innermost_tid,
                name: names.get(&state.thread_id).cloned(),
                interpreter: interpreter.id,
                gil: reading.gil,
                consistency: reading.consistency,
                frames: reading.frames,
                news: reading.news,
                thread_id: state.thread_id,
                futex: reading.futex,
                futex_call: None,
                values: reading.values,
                references: reading.references,
                lock: None,
                event_loop: reading.event_loop,
                blocked_hub: None,
                exception: reading.exception,
            });
        }
    }

    /// Whether a thread sleeps on a futex that is not the GIL's: only then it is looked into what frames hold.
    fn has_lock_waiter(&self, view: &PageView<'_>, interpreter: &Interpreter) -> bool {
        let mut futexes = self
            .kernel_threads
            .values()
            .filter_map(|kernel| kernel.futex)
            .peekable();
        if futexes.peek().is_none() {
            return false;
        }
        let gil = self.runtime.gil(view, interpreter);
        futexes.any(|futex| {
            !gil.as_ref()
                .is_some_and(|gil| self.runtime.is_gil_futex(gil, futex))
        })
    }

    /// Whether a thread that sleeps on a futex has done so for that long.
    fn has_waited(&self, least: Duration) -> bool {
        let mut kernel_threads = self.kernel_threads.values();
        kernel_threads.any(|kernel| {
            kernel.futex.is_some() && kernel.slept.is_some_and(|slept| slept >= least)
        })
    }

    /// The stack of one thread; `None` when it ended meanwhile.
    fn read_thread(
        &self,
        decoder: &mut FrameDecoder,
        interpreter: &Interpreter,
        state: &ThreadState,
        kernel: &KernelThread<'_>,
        sleepers: &Sleepers<'_>,
        result: &mut PythonView,
    ) -> Option<Reading> {
        let mut last: Option<Vec<Arc<Frame>>> = None;
        let mut failure = None;
        // Left after each thread that could run, so that it is not kept from it while others are read.
        let mut perch = Perch::default();
        let mut stopper = self.stopper.as_ref().map(RefCell::borrow_mut);
        for attempt in 0..MAX_STACK_TRIES {
            let stopping = stopper.as_mut().map(|stopper| {
                let (tracer, stops) = &mut **stopper;
                Stopping { tracer, stops }
            });
            let window = Window::open(kernel, &mut perch, stopping, attempt)?;
            sleepers.view.renew_budget();
            let fresh = PageView::new(self.memory);
            let view = if window.is_open_since_facts(kernel) {
                &sleepers.view
            } else {
                &fresh
            };
            let is_current = self.runtime.is_current(view, state);
            let read = read_stack(self.runtime, decoder, view, state);
            let cut = decoder.cut().filter(|_| read.is_ok());
            let located = match (&self.locals, &read) {
                (Some(budget), Ok(frames)) => {
                    // Not through the view of all that sleep: what variables hold may change while they do.
                    let reader = self.runtime.objects(&fresh);
                    let is_asleep = !window.stamp().state.is_runnable();
                    Some(budget.add_locals(reader, decoder, frames, attempt, is_asleep))
                }
                _ => None,
            };
            let values = (sleepers.reads_values && read.is_ok())
                .then(|| read_values(self.runtime.objects(view), decoder.places()));
            let references = (values.is_some() && sleepers.reads_references)
                .then(|| read_references(self.runtime.objects(view), decoder.places()));
            let gil = self.runtime.gil(view, interpreter);
            let event_loop = read.is_ok().then(|| {
                let limits = limits_of(attempt, window.stamp().state.is_runnable());
                read_event_loop(
                    self.runtime.objects(view),
                    decoder,
                    state,
                    sleepers.around,
                    limits,
                )
            });
            let event_loop = event_loop.flatten();
            let can_run = window.stamp().state.is_runnable();
            let exception = (read.is_ok() && !can_run)
                .then(|| read_handled(self.runtime.objects(view), decoder, state))
                .flatten();
            let news = window.new_state(kernel).map(|state| News {
                state,
                syscall: match window.is_stopped() {
                    // It was not in a call, and the kernel would name the last one.
                    true => Some(Syscall::Running),
                    false => kernel.files.read_syscall().ok(),
                },
            });
            let proof = window.close(kernel, &perch);
            if !is_current {
                // The state was freed, and maybe given to another thread: then that one is, or will be, in the list.
                return None;
            }
            let futex = match &news {
                Some(news) => futex_of(news.syscall.as_ref()),
                None => kernel.futex,
            };
            let reading = |frames: Vec<Arc<Frame>>, consistency: Consistency| Reading {
                frames,
                consistency,
                gil: gil_part(self.runtime, gil, state, futex),
                news: news.clone(),
                futex,
                values: values.clone().filter(|_| consistency == Consistency::Exact),
                references: references
                    .clone()
                    .filter(|_| consistency == Consistency::Exact),
                event_loop: event_loop
                    .clone()
                    .filter(|_| consistency == Consistency::Exact),
                exception: exception
                    .clone()
                    .filter(|_| consistency == Consistency::Exact),
            };
            // Of one that was only kept from running, the end of the stack can be cut off for a moment.
            let is_whole = !proof.could_run || decoder.is_closed();
            match read {
                Ok(mut frames) if proof.is_exact && is_whole => {
                    if let Some(located) = located {
                        frames = located.frames;
                        result.note_left_out(kernel.tid, located.left_out);
                    }
                    result.note_cut(kernel.tid, cut);
                    return Some(reading(frames, Consistency::Exact));
                }
                Ok(frames)
                    if last.as_ref() == Some(&frames) && attempt + 1 >= MAX_STACK_TRIES / 2 =>
                {
                    result.note_cut(kernel.tid, cut);
                    return Some(reading(frames, Consistency::Repeated));
                }
                Ok(frames) => last = is_whole.then_some(frames),
                // A thread that sleeps stays as it is: what is there can't be decoded. One that was only kept from
                // running can be in the middle of making or leaving a frame; it will not be, some time later.
                Err(error) if proof.is_exact && !proof.could_run => {
                    result
                        .errors
                        .push(format!("thread {}: {error}", kernel.tid));
                    return Some(reading(Vec::new(), Consistency::Exact));
                }
                Err(error) => failure = Some(error),
            }
        }
        let reason = failure
            .map(|error| format!(" ({error})"))
            .unwrap_or_default();
        result.errors.push(format!(
            "thread {} ran whenever it was read{reason}",
            kernel.tid
        ));
        Some(Reading::torn())
    }
}

/// The stack of the thread with this state, innermost first.
pub fn read_stack(
    runtime: &Runtime,
    decoder: &mut FrameDecoder,
    view: &dyn RemoteMemory,
    state: &ThreadState,
) -> Result<Vec<Arc<Frame>>, StackError> {
    let failed = |source| StackError::Read {
        frame: state.address,
        source,
    };
    let top = runtime.top_frame(view, state).map_err(failed)?;
    decoder.read_stack(runtime.objects(view), top)
}

/// What part a thread has in the GIL, if it sleeps on `futex`.
pub fn gil_part(
    runtime: &Runtime,
    gil: Option<GilState>,
    state: &ThreadState,
    futex: Option<Address>,
) -> Gil {
    let Some(gil) = gil else {
        return Gil::None;
    };
    if gil.holder == Some(state.address) {
        Gil::Held
    } else if futex.is_some_and(|futex| runtime.is_gil_futex(&gil, futex)) {
        Gil::Waiting
    } else {
        Gil::None
    }
}

/// The futex word that a thread sleeps on.
pub fn futex_of(syscall: Option<&Syscall>) -> Option<Address> {
    match syscall? {
        Syscall::In { number, arguments } => is_futex(*number).then_some(Address(arguments[0])),
        _ => None,
    }
}

/// How much is read of an event loop at the try number `attempt`: a thread that could run is not kept from it for long.
fn limits_of(attempt: usize, can_run: bool) -> Limits {
    let limits = Limits {
        counted: MAX_TASKS,
        described: MAX_DESCRIBED_TASKS,
        frames: MAX_TASK_FRAMES,
    };
    if !can_run {
        return limits;
    }
    let halvings = HALVINGS_OF_RUNNING + attempt.min(MAX_HALVINGS);
    Limits {
        counted: limits.counted >> halvings,
        described: limits.described >> halvings,
        frames: limits.frames >> halvings,
    }
}

/// What the threads of an interpreter are read with.
struct Sleepers<'a> {
    /// What those that sleep have in common, such as their code, is read once for all of them.
    view: PageView<'a>,
    /// Whether it is looked into what their frames hold.
    reads_values: bool,
    /// Whether it is looked into all that their frames refer to.
    reads_references: bool,
    /// Where the tasks of event loops are looked for.
    around: Surroundings<'a>,
}

/// What reading one thread gave.
struct Reading {
    frames: Vec<Arc<Frame>>,
    consistency: Consistency,
    gil: Gil,
    news: Option<News>,
    futex: Option<Address>,
    values: Option<StackValues>,
    references: Option<StackReferences>,
    event_loop: Option<EventLoop>,
    exception: Option<CaughtError>,
}

impl Reading {
    /// Of a thread that could not be read between two runs of it.
    fn torn() -> Self {
        Reading {
            frames: vec![Arc::new(Frame::marker("<torn>"))],
            consistency: Consistency::Torn,
            gil: Gil::None,
            news: Some(News {
                state: SchedState::Running,
                syscall: None,
            }),
            futex: None,
            values: None,
            references: None,
            event_loop: None,
            exception: None,
        }
    }
}

/// A thread that has entered several interpreters has a state in each; those without frames say nothing more.
fn drop_idle_doubles(threads: &mut Vec<PythonThread>) {
    let mut with_frames: FxHashMap<i32, usize> = FxHashMap::default();
    for thread in threads.iter().filter(|thread| !thread.frames.is_empty()) {
        *with_frames.entry(thread.innermost_tid).or_default() += 1;
    }
    threads.retain(|thread| {
        !thread.frames.is_empty() || !with_frames.contains_key(&thread.innermost_tid)
    });
}
