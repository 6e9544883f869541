//! Finding and reading the Python of a process. Everything here reads its memory, and so may block: call it under a deadline.

use std::cell::RefCell;
use std::io;

use super::facts::OsFacts;
use super::locals::LocalsBudget;
use super::options::CaptureOptions;
use super::reader::{PythonReader, futex_of};
use super::stops::Stops;
use super::view::PythonView;
use super::window::KernelThread;
use crate::model::{MemoryOutcome, Pid, RuntimeInfo, Tid};
use crate::python::detect::{DetectError, Surroundings, detect};
use crate::python::frame::FrameDecoder;
use crate::python::runtime::Runtime;
use crate::sys::descriptors::shortages;
use crate::sys::memory::{LiveMemory, ReadError, RemoteMemory};
use crate::sys::procfile::is_gone;
use crate::sys::ptrace::Tracer;
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

/// A Python that was found in a process.
#[derive(Debug)]
pub struct Attached {
    /// The process' memory.
    pub memory: LiveMemory,
    /// The CPython in it.
    pub runtime: Runtime,
    /// Whether the C part of `greenlet` is loaded, as a file.
    pub has_greenlets: bool,
}

/// Why no Python was found in a process.
#[derive(Clone, Debug)]
pub struct NotAttached {
    /// What came of reading its memory.
    pub outcome: MemoryOutcome,
    /// What is wrong; nothing is with a process of another kind.
    pub failure: Option<String>,
}

/// Finds the Python of `target`, whose threads have the numbers `tids` in its own pid namespace.
pub fn attach(target: &Target, tids: &[i32]) -> Result<Attached, NotAttached> {
    let tid = target.thread_with_memory();
    let memory = LiveMemory::new(Pid(tid.0));
    let maps = readable_maps(target, tid, &memory).map_err(|(outcome, failure)| NotAttached {
        outcome,
        failure: Some(failure),
    })?;
    let surroundings = Surroundings {
        proc: target.proc(),
        memory: &memory,
        mappings: &maps,
        tids,
    };
    let shortages_before = shortages();
    match detect(surroundings) {
        Ok(runtime) => Ok(Attached {
            memory,
            runtime,
            has_greenlets: maps.iter().any(is_of_greenlet),
        }),
        // Its Python may be in a file that was not opened.
        Err(_) if shortages() > shortages_before => Err(NotAttached {
            outcome: MemoryOutcome::Unreadable,
            failure: Some("open the files that it has mapped: too many open files".to_owned()),
        }),
        Err(DetectError::NotPython { .. }) => Err(NotAttached {
            outcome: MemoryOutcome::NotPython,
            failure: None,
        }),
        Err(error) => Err(NotAttached {
            outcome: MemoryOutcome::Unreadable,
            failure: Some(error.to_string()),
        }),
    }
}

/// Finds the Python of `target` and reads all its threads, of which `facts` is the kernel's view.
pub fn read_python(target: &Target, facts: &OsFacts, options: CaptureOptions) -> PythonPart {
    let tids: Vec<i32> = facts
        .threads
        .iter()
        .map(|thread| thread.task.innermost_tid)
        .collect();
    match attach(target, &tids) {
        Ok(attached) => read_runtime(facts, &attached, options),
        Err(error) => PythonPart {
            outcome: error.outcome,
            runtime: None,
            view: PythonView::default(),
            failure: error.failure,
        },
    }
}

fn is_of_greenlet(mapping: &Mapping) -> bool {
    const NAME: &[u8] = b"greenlet";
    mapping.executable && mapping.name.windows(NAME.len()).any(|part| part == NAME)
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
        Err(error @ ReadError::Unopened) => Err((MemoryOutcome::Unreadable, error.to_string())),
        Err(error @ ReadError::Gone) => Err((MemoryOutcome::Ended, error.to_string())),
        _ => Ok(maps),
    }
}

fn read_runtime(facts: &OsFacts, attached: &Attached, options: CaptureOptions) -> PythonPart {
    let Attached {
        memory,
        runtime,
        has_greenlets,
    } = attached;
    let kernel_threads = facts.threads.iter().map(|thread| {
        let kernel = KernelThread {
            tid: thread.task.tid,
            files: &thread.files,
            asleep: thread.asleep(),
            still: thread.still(),
            futex: futex_of(thread.syscall.as_ref()),
            slept: thread.off_cpu.map(|since| since.elapsed),
        };
        (thread.task.innermost_tid, kernel)
    });
    let reader = PythonReader {
        runtime,
        memory,
        kernel_threads: kernel_threads.collect(),
        stopper: options
            .is_blocking
            .then(|| RefCell::new((Tracer::start(), Stops::for_one_look()))),
        has_greenlets: *has_greenlets,
        locals: LocalsBudget::new(options.locals, options.room),
        reach_after: options.reach_after,
        reach_of_slices: options.reach_of_slices,
    };
    PythonPart {
        outcome: MemoryOutcome::Python,
        runtime: Some(runtime.info.clone()),
        view: reader.read(&mut FrameDecoder::new(options.room)),
        failure: None,
    }
}
