//! Finding and reading the Python of a process. Everything here reads its memory, and so may block: call it under a deadline.

use std::io;

use super::facts::OsFacts;
use super::reader::{PythonReader, PythonView, futex_of};
use super::window::KernelThread;
use crate::model::{MemoryOutcome, Pid, RuntimeInfo, SchedState, Tid};
use crate::python::detect::{DetectError, Surroundings, detect};
use crate::python::frame::FrameDecoder;
use crate::python::runtime::Runtime;
use crate::sys::memory::{LiveMemory, ReadError, RemoteMemory};
use crate::sys::procfile::is_gone;
use crate::target::Target;
use crate::target::maps::{Mapping, parse_maps};

/// What the memory of a process gave.
#[derive(Debug)]
pub struct PythonPart {
    /// What came of reading it.
    pub outcome: MemoryOutcome,
    /// The Python that was found.
    pub runtime: Option<RuntimeInfo>,
    /// Its threads.
    pub view: PythonView,
    /// Why there is no more, where something is wrong.
    pub failure: Option<String>,
}

impl PythonPart {
    fn nothing(outcome: MemoryOutcome, failure: Option<String>) -> Self {
        PythonPart {
            outcome,
            runtime: None,
            view: PythonView::default(),
            failure,
        }
    }
}

/// Finds the Python of `target` and reads all its threads, of which `facts` is the kernel's view.
pub fn read_python(target: &Target, facts: &OsFacts, is_blocking: bool) -> PythonPart {
    // When the main thread has ended before the others, the process shows its memory only through one of those.
    let is_alive = |state: SchedState| !matches!(state, SchedState::Zombie | SchedState::Dead);
    let alive = facts
        .threads
        .iter()
        .find(|thread| is_alive(thread.task.state));
    let tid = alive.map_or(target.pid().main_thread(), |thread| thread.task.tid);
    let memory = LiveMemory::new(Pid(tid.0));
    let maps = match readable_maps(target, tid, &memory) {
        Ok(maps) => maps,
        Err((outcome, failure)) => return PythonPart::nothing(outcome, Some(failure)),
    };
    let tids: Vec<i32> = facts
        .threads
        .iter()
        .map(|thread| thread.task.innermost_tid)
        .collect();
    let surroundings = Surroundings {
        proc: target.proc(),
        memory: &memory,
        mappings: &maps,
        tids: &tids,
    };
    match detect(surroundings) {
        Ok(runtime) => read_runtime(facts, &runtime, &memory, is_blocking),
        // Nothing is wrong with a process that is of another kind.
        Err(DetectError::NotPython { .. }) => PythonPart::nothing(MemoryOutcome::NotPython, None),
        Err(error) => PythonPart::nothing(MemoryOutcome::Unreadable, Some(error.to_string())),
    }
}

/// The mappings of a process whose memory can be read, or why it can't.
fn readable_maps(
    target: &Target,
    tid: Tid,
    memory: &LiveMemory,
) -> Result<Vec<Mapping>, (MemoryOutcome, String)> {
    if target.is_kernel_thread() {
        let failure = "it is a thread of the kernel: it has no memory of its own";
        return Err((MemoryOutcome::None, failure.to_owned()));
    }
    let bytes = target
        .proc()
        .read(&format!("task/{tid}/maps"))
        .map_err(|error| {
            let outcome = match error.kind() {
                io::ErrorKind::PermissionDenied => MemoryOutcome::Denied,
                _ if is_gone(&error) => MemoryOutcome::Ended,
                _ => MemoryOutcome::Unreadable,
            };
            (outcome, format!("read its memory map: {error}"))
        })?;
    let maps = parse_maps(&bytes);
    let Some(readable) = maps.iter().find(|mapping| mapping.readable) else {
        let failure = "it has no memory: it has ended and waits to be reaped by its parent";
        return Err((MemoryOutcome::None, failure.to_owned()));
    };
    match memory.read(readable.start, &mut [0]) {
        Err(error @ ReadError::Denied) => Err((MemoryOutcome::Denied, error.to_string())),
        Err(error @ ReadError::Gone) => Err((MemoryOutcome::Ended, error.to_string())),
        _ => Ok(maps),
    }
}

fn read_runtime(
    facts: &OsFacts,
    runtime: &Runtime,
    memory: &LiveMemory,
    is_blocking: bool,
) -> PythonPart {
    let kernel_threads = facts.threads.iter().map(|thread| {
        let kernel = KernelThread {
            tid: thread.task.tid,
            files: &thread.files,
            known: thread.task.stamp_before(),
            futex: futex_of(thread.syscall.as_ref()),
        };
        (thread.task.innermost_tid, kernel)
    });
    let reader = PythonReader {
        runtime,
        memory,
        kernel_threads: kernel_threads.collect(),
        is_blocking,
    };
    PythonPart {
        outcome: MemoryOutcome::Python,
        runtime: Some(runtime.info.clone()),
        view: reader.read(&mut FrameDecoder::default()),
        failure: None,
    }
}
