//! Which threads an interpreter has, and their names: lists that change while they are read.

use rustc_hash::FxHashMap;

use crate::python::names::thread_names;
use crate::python::runtime::{Interpreter, Runtime, ThreadState};
use crate::sys::memory::{LiveMemory, PageView};

/// How often the list of threads is read again when it was changed meanwhile.
const MAX_LIST_TRIES: usize = 20;
/// How often the names of threads are read again when they were changed meanwhile.
const MAX_NAME_TRIES: usize = 10;

/// The thread states of an interpreter, oldest first; what could not be had is told in `errors`.
pub fn list_threads(
    runtime: &Runtime,
    memory: &LiveMemory,
    interpreter: &Interpreter,
    errors: &mut Vec<String>,
) -> Vec<ThreadState> {
    let mut best = Vec::new();
    for _ in 0..MAX_LIST_TRIES {
        let threads = runtime.threads(&PageView::new(memory), interpreter);
        if !threads.is_broken {
            return threads.states;
        }
        if threads.states.len() > best.len() {
            best = threads.states;
        }
    }
    errors.push(format!(
        "the list of threads of interpreter {} changed whenever it was read; {} could be followed",
        interpreter.id,
        best.len()
    ));
    best
}

/// The names of threads by pthread_t. The dict that has them is changed with every thread that starts or ends.
pub fn read_names(
    runtime: &Runtime,
    memory: &LiveMemory,
    interpreter: &Interpreter,
    states: &[ThreadState],
    errors: &mut Vec<String>,
) -> FxHashMap<u64, String> {
    let mut best = FxHashMap::default();
    let mut failure = None;
    let mut complete_readings = 0;
    for _ in 0..MAX_NAME_TRIES {
        let view = PageView::new(memory);
        match thread_names(runtime.objects(&view), interpreter.modules) {
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
        errors.push(format!("read the names of threads: {error}"));
    }
    best
}
