//! Which threads can reach what a thread waits for: one walk from all frames of a process, for all of its waits.

use std::time::{Duration, Instant};

use super::view::{ObjectReach, PythonThread, ResolvedWait};
use crate::model::{Address, HolderConfidence, WaitKind};
use crate::python::locks::LockWait;
use crate::python::object::ObjectReader;
use crate::python::reachability::{Graph, Limits, StackReferences, settle_start};
use crate::python::runtime::Runtime;
use crate::sys::clock::read_thread_time;
use crate::sys::memory::{LimitedMemory, PageView, RemoteMemory};

/// Most processor time that the walk of one process takes, and most time in all, where we are not let run or reading blocks.
const MAX_CPU_TIME: Duration = Duration::from_millis(50);
const MAX_TIME: Duration = Duration::from_millis(500);
/// Most objects that are looked into for it.
const MAX_OBJECTS: usize = 200_000;
/// Most objects that are looked into to find one in globals.
const MAX_GLOBAL_OBJECTS: usize = 20_000;
/// Most bytes that are read for it.
const MAX_BYTES: u64 = 256 << 20;
/// Pages that are kept meanwhile (8 MiB).
const MAX_PAGES: usize = 2048;
/// Most waits of one process for which it is found out.
const MAX_WAITS: usize = 256;

/// The memory of a process, twice.
pub struct Memories<'a> {
    /// For the walk.
    pub walked: &'a dyn RemoteMemory,
    /// For what has to be as it is now; nothing was read through it yet.
    pub now: &'a dyn RemoteMemory,
}

/// Finds out for each of these waits, that has lasted and of which no holder is known, which threads can reach its object. Whether one that ends by itself
/// has lasted is for the caller to say.
pub fn find_reach(
    runtime: &Runtime,
    memories: &Memories<'_>,
    threads: &mut [PythonThread],
    waits: &[(usize, LockWait)],
    has_lasted: impl Fn(&PythonThread) -> bool,
) {
    let is_open = |index: usize| {
        threads
            .get(index)
            .is_some_and(|thread| has_lasted(thread) && is_open(thread))
    };
    let open: Vec<(usize, Address)> = waits
        .iter()
        .filter(|(index, _)| is_open(*index))
        .filter_map(|(index, wait)| Some((*index, wait.slept_on?)))
        .take(MAX_WAITS)
        .collect();
    // The lists of the older versions' C types are not known.
    if open.is_empty() || runtime.layout.version < (3, 6) {
        return;
    }
    let (began, used) = (Instant::now(), read_thread_time());
    let is_over =
        || began.elapsed() >= MAX_TIME || read_thread_time().saturating_sub(used) >= MAX_CPU_TIME;
    let limited = LimitedMemory::new(memories.walked, MAX_BYTES);
    let view = PageView::with_room(&limited, MAX_PAGES);
    let reader = runtime.objects(&view);
    for thread in threads.iter_mut() {
        if let Some(references) = &mut thread.references {
            settle_start(reader, &thread.frames, references);
        }
    }
    let stacks: Vec<Option<&StackReferences>> = threads
        .iter()
        .map(|thread| thread.references.as_ref())
        .collect();
    let limits = |objects| Limits {
        objects,
        is_over: &is_over,
    };
    let mut graph = Graph::walk(reader, &stacks, limits(MAX_OBJECTS));
    let are_all_read = stacks.iter().all(Option::is_some);
    let now = runtime.objects(memories.now);
    let mut found = Vec::new();
    for (index, object) in open {
        let further =
            stacks[index].map_or(0, |stack| u64::from(is_on_stack(reader, stack, object)));
        let account = graph.account(object, further, now);
        let reaching = match account.is_closed {
            true => account.threads.clone(),
            false => graph.threads_reaching(object),
        };
        let reach = ObjectReach {
            innermost_tids: reaching
                .into_iter()
                .filter(|other| *other != index)
                .map(|other| threads[other].innermost_tid)
                .collect(),
            is_closed: account.is_closed,
            is_global: !account.is_closed
                && graph.is_in_globals(object, limits(MAX_GLOBAL_OBJECTS)),
            is_cut: !account.is_closed && (graph.is_cut() || !are_all_read || is_over()),
            counted: account.counted,
            found: account.found,
        };
        found.push((index, reach));
    }
    for (index, reach) in found {
        if let Some(lock) = &mut threads[index].lock {
            lock.reach = Some(reach);
        }
    }
}

/// Whether a wait ends by itself.
pub fn has_end(lock: &ResolvedWait) -> bool {
    lock.timeout.or(lock.remaining).is_some() || lock.missing == Some("when it gives up")
}

/// Whether it is not known who ends the wait of a thread.
fn is_open(thread: &PythonThread) -> bool {
    let Some(lock) = &thread.lock else {
        return false;
    };
    let is_known = |confidence| confidence != HolderConfidence::Possible;
    let is_inside = matches!(
        lock.kind,
        WaitKind::Condition | WaitKind::Semaphore | WaitKind::PythonLock
    );
    is_inside
        && !lock
            .holders
            .iter()
            .any(|holder| is_known(holder.confidence))
}

/// Whether the innermost frame has one reference more to the object than its variables show: it has called a method of it, which it holds
/// on its stack until that returns (`LOAD_METHOD`, 3.7-3.11; `LOAD_ATTR`, 3.12+). Where it may have a bound method instead, that has the reference.
fn is_on_stack(reader: ObjectReader<'_>, stack: &StackReferences, object: Address) -> bool {
    let Some(innermost) = stack.frames.first() else {
        return false;
    };
    let mut all = innermost.owned.iter().chain(&innermost.loose);
    !innermost.is_height_known
        && innermost.loose.contains(&object)
        && !all.any(|at| reader.bound_to(*at) == Some(object))
}
