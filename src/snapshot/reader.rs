//! Reading the Python of one process: all thread states, each stack with proof that its thread did not move meanwhile.

use std::time::Duration;

use rustc_hash::FxHashMap;

use crate::model::{Address, Consistency, Frame, Gil, Tid};
use crate::python::frame::{FrameDecoder, StackError};
use crate::python::names::thread_names;
use crate::python::runtime::{GilState, Interpreter, Runtime, ThreadState};
use crate::python::thread_ids::native_ids;
use crate::sys::affinity::Pinned;
use crate::sys::memory::{LiveMemory, PageView, RemoteMemory};
use crate::sys::ptrace::StoppedThread;
use crate::target::tasks::{RunStamp, TaskFiles};

/// How often the list of threads is read again when it was changed meanwhile.
const MAX_LIST_TRIES: usize = 20;
/// How often the names of threads are read again when they were changed meanwhile.
const MAX_NAME_TRIES: usize = 10;
/// How often a thread that runs is read again before it is given up as torn.
const MAX_STACK_TRIES: usize = 40;
/// How long the reading thread sleeps on the target's processor before it reads: waking up is what puts it ahead of the
/// target there.
const NAP: Duration = Duration::from_micros(60);

/// One thread as Python sees it.
#[derive(Debug)]
pub struct PythonThread {
    /// The kernel's number for it, in the target's own pid namespace.
    pub innermost_tid: i32,
    /// Its name in `threading`.
    pub name: Option<String>,
    /// Number of the interpreter.
    pub interpreter: i64,
    /// Its part in the GIL.
    pub gil: Gil,
    /// How far the frames can be trusted.
    pub consistency: Consistency,
    /// Innermost first.
    pub frames: Vec<Frame>,
}

/// The Python of one process at one instant.
#[derive(Debug, Default)]
pub struct PythonView {
    /// In the order of creation, interpreter by interpreter.
    pub threads: Vec<PythonThread>,
    /// What could not be had.
    pub errors: Vec<String>,
    /// How long threads of the target were made to stand still, in all.
    pub pause: Duration,
}

/// A kernel thread that a stack may belong to.
pub struct KernelThread<'a> {
    /// Its number in our pid namespace.
    pub tid: Tid,
    /// Its files, open.
    pub files: &'a TaskFiles,
    /// What it was like when the kernel's facts were read.
    pub known: RunStamp,
    /// The futex that it sleeps on.
    pub futex: Option<Address>,
}

/// Reads one process again and again.
pub struct PythonReader<'a> {
    /// The CPython that was found in it.
    pub runtime: &'a Runtime,
    /// Its memory.
    pub memory: &'a LiveMemory,
    /// Kernel threads by their numbers in the target's own pid namespace.
    pub kernel_threads: FxHashMap<i32, KernelThread<'a>>,
    /// Whether each thread is stopped while it is read.
    pub is_blocking: bool,
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
            let states = self.list_threads(interpreter, &mut result);
            let view = PageView::new(self.memory);
            let ids = native_ids(&view, &states, &tids);
            // A thread of the main interpreter that has entered another keeps the name that it has at home.
            for (thread_id, name) in self.read_names(interpreter, &states, &mut result) {
                names.entry(thread_id).or_insert(name);
            }
            for state in &states {
                // A state whose thread is not there any more, or was not yet when the kernel's list was read.
                let Some(kernel) = ids
                    .get(&state.address)
                    .and_then(|id| self.kernel_threads.get(id))
                else {
                    continue;
                };
                let stack = self.read_thread(decoder, interpreter, state, kernel, &mut result);
                let Some((frames, gil, consistency)) = stack else {
                    continue;
                };
                if gil == Gil::Held {
                    // Threads are read one after another and the GIL moves on: the last look is the one that holds.
                    result
                        .threads
                        .iter_mut()
                        .filter(|thread| thread.interpreter == interpreter.id)
                        .for_each(|thread| {
                            if thread.gil == Gil::Held {
                                thread.gil = Gil::None;
                            }
                        });
                }
                result.threads.push(PythonThread {
                    innermost_tid: ids[&state.address],
                    name: names.get(&state.thread_id).cloned(),
                    interpreter: interpreter.id,
                    gil,
                    consistency,
                    frames,
                });
            }
        }
        drop_idle_doubles(&mut result.threads);
        result
    }

    fn list_threads(&self, interpreter: &Interpreter, result: &mut PythonView) -> Vec<ThreadState> {
        let mut best = Vec::new();
        for _ in 0..MAX_LIST_TRIES {
            let threads = self
                .runtime
                .threads(&PageView::new(self.memory), interpreter);
            if !threads.is_broken {
                return threads.states;
            }
            if threads.states.len() > best.len() {
                best = threads.states;
            }
        }
        result.errors.push(format!(
            "the list of threads of interpreter {} changed whenever it was read; {} could be followed",
            interpreter.id,
            best.len()
        ));
        best
    }

    /// The names of threads by pthread_t. The dict that has them is changed with every thread that starts or ends.
    fn read_names(
        &self,
        interpreter: &Interpreter,
        states: &[ThreadState],
        result: &mut PythonView,
    ) -> FxHashMap<u64, String> {
        let mut best = FxHashMap::default();
        let mut failure = None;
        let mut complete_readings = 0;
        for _ in 0..MAX_NAME_TRIES {
            let view = PageView::new(self.memory);
            match thread_names(self.runtime.objects(&view), interpreter.modules) {
                Ok(names) => {
                    complete_readings += 1;
                    best.extend(names);
                    let has_name = |state: &ThreadState| best.contains_key(&state.thread_id);
                    // Threads that `threading` did not make have no name however often it is read.
                    if complete_readings == 2 || states.iter().all(has_name) {
                        return best;
                    }
                }
                Err(error) => failure = Some(error),
            }
        }
        if let Some(error) = failure {
            result
                .errors
                .push(format!("read the names of threads: {error}"));
        }
        best
    }

    /// The stack of one thread; `None` when it ended meanwhile.
    fn read_thread(
        &self,
        decoder: &mut FrameDecoder,
        interpreter: &Interpreter,
        state: &ThreadState,
        kernel: &KernelThread<'_>,
        result: &mut PythonView,
    ) -> Option<(Vec<Frame>, Gil, Consistency)> {
        let mut last: Option<Vec<Frame>> = None;
        let mut failure = None;
        for attempt in 0..MAX_STACK_TRIES {
            let window = Window::open(kernel, self.is_blocking, attempt)?;
            let view = PageView::new(self.memory);
            let is_current = self.runtime.is_current(&view, state);
            let read = self.read_stack(decoder, &view, state);
            let gil = self.gil_part(&view, interpreter, state, kernel);
            let was_runnable = window.before.state.is_runnable();
            let (is_exact, pause) = window.close(kernel);
            result.pause += pause;
            if !is_current {
                // The state was freed, and maybe given to another thread: then that one is, or will be, in the list.
                return None;
            }
            match read {
                Ok(frames) if is_exact => return Some((frames, gil, Consistency::Exact)),
                Ok(frames)
                    if last.as_ref() == Some(&frames) && attempt + 1 >= MAX_STACK_TRIES / 2 =>
                {
                    return Some((frames, gil, Consistency::Repeated));
                }
                Ok(frames) => last = Some(frames),
                // A thread that sleeps stays as it is: what is there can't be decoded. One that was only kept from
                // running can be in the middle of making or leaving a frame; it will not be, some time later.
                Err(error) if is_exact && !was_runnable => {
                    result
                        .errors
                        .push(format!("thread {}: {error}", kernel.tid));
                    return Some((Vec::new(), gil, Consistency::Exact));
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
        Some((vec![Frame::marker("<torn>")], Gil::None, Consistency::Torn))
    }

    fn read_stack(
        &self,
        decoder: &mut FrameDecoder,
        view: &dyn RemoteMemory,
        state: &ThreadState,
    ) -> Result<Vec<Frame>, StackError> {
        let failed = |source| StackError::Read {
            frame: state.address,
            source,
        };
        let top = self.runtime.top_frame(view, state).map_err(failed)?;
        decoder.read_stack(self.runtime.objects(view), top)
    }

    fn gil_part(
        &self,
        view: &dyn RemoteMemory,
        interpreter: &Interpreter,
        state: &ThreadState,
        kernel: &KernelThread<'_>,
    ) -> Gil {
        let Some(gil) = self.runtime.gil(view, interpreter) else {
            return Gil::None;
        };
        let waits = |gil: &GilState| {
            kernel
                .futex
                .is_some_and(|futex| self.runtime.is_gil_futex(gil, futex))
        };
        if gil.holder == Some(state.address) {
            Gil::Held
        } else if waits(&gil) {
            Gil::Waiting
        } else {
            Gil::None
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

/// The time during which one thread is read. When it closes, the kernel's own records tell whether the thread can have
/// run in it.
///
/// A sleeping thread that has the same count of context switches before and after has not run. A thread that could run
/// is kept from it without a stop: the reader moves to the thread's processor and sleeps a moment; when it wakes, it
/// takes the processor over. As long as it is there and the thread still belongs to that processor, with the same
/// count of switches, the thread did not run - if it had been moved elsewhere and had run, the count or the processor
/// would have changed (`kernel/sched/core.c::__schedule` counts each leaving of a processor, Linux 6.18).
struct Window {
    before: RunStamp,
    pinned: Option<Pinned>,
    stopped: Option<StoppedThread>,
}

impl Window {
    /// Opens it; `None` when the thread has ended.
    fn open(kernel: &KernelThread<'_>, is_blocking: bool, attempt: usize) -> Option<Window> {
        if is_blocking && let Ok(stopped) = StoppedThread::stop(kernel.tid) {
            return Some(Window {
                before: kernel.files.stamp_before().ok()?,
                pinned: None,
                stopped: Some(stopped),
            });
        }
        // One that slept when the kernel's facts were read most likely still does.
        let before = if attempt == 0 && !kernel.known.state.is_runnable() {
            kernel.known
        } else {
            kernel.files.stamp_before().ok()?
        };
        if !before.state.is_runnable() {
            return Some(Window {
                before,
                pinned: None,
                stopped: None,
            });
        }
        let processor = before
            .processor
            .and_then(|processor| usize::try_from(processor).ok());
        let pinned = processor.and_then(Pinned::to);
        // Later attempts wait longer: whatever keeps the two apart may take a moment to settle.
        std::thread::sleep(NAP * u32::try_from(1 + attempt / 8).unwrap_or(1));
        Some(Window {
            before: kernel.files.stamp_before().ok()?,
            pinned,
            stopped: None,
        })
    }

    /// Whether the thread can't have run since, and how long it was stopped.
    fn close(self, kernel: &KernelThread<'_>) -> (bool, Duration) {
        if let Some(stopped) = self.stopped {
            return (true, stopped.pause());
        }
        let Ok(after) = kernel.files.stamp_after() else {
            return (false, Duration::ZERO);
        };
        let is_same = after == self.before && self.before.switches.is_some();
        let is_ours = || {
            let ours = self.pinned.as_ref().map(Pinned::processor);
            ours.is_some()
                && ours
                    == self
                        .before
                        .processor
                        .and_then(|processor| usize::try_from(processor).ok())
        };
        (
            is_same && (!self.before.state.is_runnable() || is_ours()),
            Duration::ZERO,
        )
    }
}
