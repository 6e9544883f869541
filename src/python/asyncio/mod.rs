//! The event loop of `asyncio` that runs in a thread: its running task, the others, where they stand and what they wait for.
//!
//! Which loop runs in a thread, the thread itself says. Which tasks there are, the runtime's own rings say from 3.14 on, and before, and
//! for tasks that are written in Python, the sets of `asyncio.tasks`. It is as true as the thread stands still meanwhile.

mod chain;
mod tasks;
#[cfg(test)]
mod tests;

use rustc_hash::{FxHashMap, FxHashSet};

use super::frame::FrameDecoder;
use super::layout::AsyncioLayout;
use super::object::{ObjectReader, offset};
use super::runtime::{Interpreter, ThreadState};
use crate::model::{Address, Awaited, EventLoop, Task, TaskState};
pub(super) use chain::top_of_stack;
use chain::{Chain, Stage};
use tasks::{TaskFacts, TaskReader};

/// Most classes that one inherits from, one behind the other, that are looked at.
const MAX_BASES: usize = 64;
/// Most tasks that one gathers or that are named to wait for one.
const MAX_RELATED: usize = 256;
/// What an own name of a loop's class has to end in, or of one that it is derived from.
const LOOP: &str = "Loop";

/// Where tasks are looked for.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// The interpreter.
    pub interpreter: &'a Interpreter,
    /// Its thread states.
    pub states: &'a [ThreadState],
    /// The threads of the process, by their numbers in its own pid namespace.
    pub tids: &'a [i32],
}

/// How much is read of one loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tasks that are counted.
    pub counted: usize,
    /// Tasks that are described.
    pub described: usize,
    /// Frames of all tasks together.
    pub frames: usize,
}

/// The event loop that runs in the thread; a thread without one costs two reads.
pub fn read_event_loop(
    reader: ObjectReader<'_>,
    decoder: &mut FrameDecoder,
    state: &ThreadState,
    around: Surroundings<'_>,
    limits: Limits,
) -> Option<EventLoop> {
    let layout = reader.layout.asyncio.as_ref()?;
    let event_loop = find_loop(reader, layout, state, around.tids)?;
    let mut tasks = TaskReader::new(reader, layout, around.interpreter.modules);
    let type_of_loop = reader.type_of(event_loop).ok()?;
    let type_name = reader.type_name_with_module(type_of_loop).ok()?;
    let running = tasks.running(state, event_loop);
    let found = tasks.find_all(around, event_loop, limits.counted);
    let mut missing = found.missing;
    let mut describer = Describer {
        reader,
        layout,
        decoder,
        frames: limits.frames,
    };
    let running_task = running.and_then(|task| {
        let facts = tasks.facts(task)?;
        Some(describer.describe(&mut tasks, &facts, true))
    });
    let others: Vec<TaskFacts> = found
        .tasks
        .into_iter()
        .filter(|facts| Some(facts.id) != running)
        .collect();
    let total = others.len() as u64 + u64::from(running_task.is_some());
    let mut described: Vec<Task> = others
        .iter()
        .take(limits.described)
        .map(|facts| describer.describe(&mut tasks, facts, false))
        .collect();
    if described.len() < others.len() {
        let beside = running_task
            .as_ref()
            .map_or("", |_| " beside the running one");
        missing.push(format!(
            "of {} tasks{beside}, {} were looked into",
            others.len(),
            described.len()
        ));
    }
    if describer.frames == 0 {
        missing.push("where the last tasks stand is more than is read at once".to_owned());
    }
    let mut running_task = running_task;
    tasks.relate(running_task.iter_mut().chain(&mut described));
    described.sort_by(|one, other| {
        let key = |task: &Task| (task.name.len(), task.name.clone(), task.id);
        key(one).cmp(&key(other))
    });
    Some(EventLoop {
        type_name,
        running: running_task,
        total,
        is_total_minimum: found.is_partial,
        tasks: described,
        missing,
    })
}

/// The loop that runs in the thread, if one does.
fn find_loop(
    reader: ObjectReader<'_>,
    layout: &AsyncioLayout,
    state: &ThreadState,
    tids: &[i32],
) -> Option<Address> {
    let found = match (layout.running_loop, layout.thread_dict) {
        (Some(field), _) => reader.pointer(state.address, field).ok()?,
        (None, Some(field)) => {
            let dict = reader.pointer(state.address, field).ok()?;
            if dict.is_null() {
                return None;
            }
            let entry = reader
                .dict_value(dict, "__asyncio_running_event_loop__")
                .ok()??;
            held_loop(reader, entry, tids)?
        }
        (None, None) => return None,
    };
    (!found.is_null() && is_loop(reader, found)).then_some(found)
}

/// Up to 3.11 a thread keeps its loop in a holder (`PyRunningLoopHolder`, `Modules/_asynciomodule.c`) with the number of the process
/// that it runs in: a fork does not run its parent's loop.
fn held_loop(reader: ObjectReader<'_>, entry: Address, tids: &[i32]) -> Option<Address> {
    let name = reader.type_name(reader.type_of(entry).ok()?).ok()?;
    if !name.ends_with("_RunningLoopHolder") {
        return Some(entry);
    }
    let members = offset(entry, u64::from(reader.layout.object.size)).ok()?;
    let held = reader.memory.read_address(members).ok()?;
    let mut pid = [0; 4];
    reader
        .memory
        .read(offset(members, 8).ok()?, &mut pid)
        .ok()?;
    tids.contains(&i32::from_le_bytes(pid)).then_some(held)
}

/// Whether the object is an event loop, by the names of its classes: `BaseEventLoop`, `uvloop.loop.Loop`, `QEventLoop`, …
fn is_loop(reader: ObjectReader<'_>, object: Address) -> bool {
    let Ok(mut class) = reader.type_of(object) else {
        return false;
    };
    for _ in 0..MAX_BASES {
        if class.is_null() {
            return false;
        }
        match reader.type_name(class) {
            Ok(name) if name.ends_with(LOOP) => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
        match reader.pointer(class, reader.layout.values.type_base) {
            Ok(base) => class = base,
            Err(_) => return false,
        }
    }
    false
}

/// What makes tasks of facts.
struct Describer<'a, 'd> {
    reader: ObjectReader<'a>,
    layout: &'a AsyncioLayout,
    decoder: &'d mut FrameDecoder,
    /// How many frames may still be read.
    frames: usize,
}

impl Describer<'_, '_> {
    fn describe(
        &mut self,
        tasks: &mut TaskReader<'_>,
        facts: &TaskFacts,
        is_running: bool,
    ) -> Task {
        let Chain {
            stage,
            outermost,
            mut frames,
        } = chain::follow(
            self.reader,
            self.layout,
            self.decoder,
            facts.coroutine,
            self.frames,
        );
        self.frames = self.frames.saturating_sub(frames.len());
        let state = match stage {
            _ if is_running => TaskState::Running,
            Some(Stage::Executing) => TaskState::Running,
            // Between the end of what it waits for and its own turn it still names that.
            _ if !facts.waiter.is_null() && !tasks.is_future_done(facts) => TaskState::Waiting,
            Some(Stage::Created) => TaskState::Created,
            _ => TaskState::Ready,
        };
        if state == TaskState::Running {
            frames.clear();
        }
        let awaits = (state == TaskState::Waiting)
            .then(|| self.awaited(tasks, facts.waiter))
            .flatten();
        Task {
            id: facts.id,
            name: tasks.name(facts),
            state,
            coroutine: outermost,
            frames,
            awaits,
            awaited_by: Vec::new(),
        }
    }

    fn awaited(&self, tasks: &mut TaskReader<'_>, waiter: Address) -> Option<Awaited> {
        let type_name = self
            .reader
            .type_name_with_module(self.reader.type_of(waiter).ok()?)
            .ok()?;
        let task = tasks.facts(waiter).map(|facts| tasks.name(&facts));
        Some(Awaited {
            id: waiter,
            type_name,
            task,
        })
    }
}

impl TaskReader<'_> {
    /// Tells each task which others wait for it: by what they wait for themselves, through `asyncio.gather` too, and from 3.14 on as the
    /// task itself has it.
    fn relate<'t>(&mut self, tasks: impl Iterator<Item = &'t mut Task>) {
        let mut tasks: Vec<&mut Task> = tasks.collect();
        let known: FxHashSet<Address> = tasks.iter().map(|task| task.id).collect();
        let mut waiting: FxHashMap<Address, Vec<Address>> = FxHashMap::default();
        for task in &tasks {
            let Some(awaits) = &task.awaits else {
                continue;
            };
            let mut awaited = vec![awaits.id];
            if awaits.type_name.ends_with("_GatheringFuture") {
                awaited.extend(self.gathered(awaits.id, MAX_RELATED));
            }
            for id in awaited.into_iter().filter(|id| known.contains(id)) {
                waiting.entry(id).or_default().push(task.id);
            }
        }
        for task in &mut tasks {
            let mut by = waiting.remove(&task.id).unwrap_or_default();
            let stated = self.awaited_by(task.id, MAX_RELATED);
            by.extend(stated.into_iter().filter(|id| known.contains(id)));
            by.sort_unstable();
            by.dedup();
            by.truncate(MAX_RELATED);
            task.awaited_by = by;
        }
    }
}
