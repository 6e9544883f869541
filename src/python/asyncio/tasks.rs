//! Task objects: where they are found, and what they say. Of C and of Python.

use rustc_hash::{FxHashMap, FxHashSet};

use super::{MAX_BASES, Surroundings};
use crate::model::Address;
use crate::python::layout::{AsyncioLayout, Field};
use crate::python::object::{FLAG_LIST_SUBCLASS, ObjectError, ObjectReader, offset, shift};
use crate::python::runtime::ThreadState;

/// Most code points of a task's name.
const MAX_NAME: u64 = 256;
/// By how many bytes a patch version may have moved the members of a task, as 3.10's and 3.9's have.
const MAX_MOVE: i64 = 64;

/// What one task says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TaskFacts {
    pub(super) id: Address,
    pub(super) event_loop: Address,
    pub(super) is_done: bool,
    /// The future that it waits for; null for none.
    pub(super) waiter: Address,
    pub(super) coroutine: Address,
    /// A text or a number; null where it has none.
    name: Address,
}

/// All tasks of one loop that are not done.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) tasks: Vec<TaskFacts>,
    /// Whether there may be more than were looked at.
    pub(super) is_partial: bool,
    pub(super) missing: Vec<String>,
}

/// How a task is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TaskKind {
    /// `TaskObj`, whose members are so many bytes further on than the table has them.
    C { moved: i64 },
    /// The class of `asyncio.tasks` that is written in Python.
    Python,
}

/// Reads tasks of one interpreter.
pub(super) struct TaskReader<'a> {
    reader: ObjectReader<'a>,
    layout: &'a AsyncioLayout,
    /// The module `asyncio.tasks`, if it was imported.
    module: Option<Address>,
    /// What each class is that an object was of.
    kinds: FxHashMap<Address, Option<TaskKind>>,
}

impl<'a> TaskReader<'a> {
    pub(super) fn new(
        reader: ObjectReader<'a>,
        layout: &'a AsyncioLayout,
        modules: Address,
    ) -> Self {
        let module = reader.dict_value(modules, "asyncio.tasks").ok().flatten();
        TaskReader {
            reader,
            layout,
            module,
            kinds: FxHashMap::default(),
        }
    }

    /// The task that `event_loop`, which runs in the thread, is in.
    pub(super) fn running(&mut self, state: &ThreadState, event_loop: Address) -> Option<Address> {
        if let Some(field) = self.layout.running_task
            && let Ok(task) = self.reader.pointer(state.address, field)
            && !task.is_null()
        {
            return self.facts(task).map(|facts| facts.id);
        }
        let current = self.of_module("_current_tasks")?;
        let entries = self.reader.dict_entries(current).ok()?;
        let entry = entries.iter().find(|entry| entry.key == event_loop)?;
        self.facts(entry.value).map(|facts| facts.id)
    }

    /// The tasks of the loop that are not done, each once; at most `limit` of all tasks that there are, are looked at.
    pub(super) fn find_all(
        &mut self,
        around: Surroundings<'_>,
        event_loop: Address,
        limit: usize,
    ) -> Found {
        let mut seen = FxHashSet::default();
        let mut found = Found::default();
        let mut candidates = Vec::new();
        if let (Some(thread_tasks), Some(node)) = (self.layout.thread_tasks, self.layout.task.node)
        {
            let of_interpreter = self.layout.interpreter_tasks;
            let heads = around
                .states
                .iter()
                .map(|state| (state.address, thread_tasks));
            let ended = of_interpreter.map(|field| (around.interpreter.address, field));
            for (base, field) in heads.chain(ended) {
                if let Ok(head) = offset(base, field.offset())
                    && !self.walk_ring(head, node, limit, &mut candidates)
                {
                    found
                        .missing
                        .push("a list of tasks could not be followed to its end".to_owned());
                }
            }
        }
        // Up to 3.13 all tasks are in a set; later, those that are written in Python.
        let lists = ["_all_tasks", "_scheduled_tasks"].map(|name| self.of_module(name));
        for weak in lists.into_iter().flatten() {
            match self.weakly_held(weak, limit) {
                Ok((tasks, is_partial)) => {
                    candidates.extend(tasks);
                    found.is_partial |= is_partial;
                }
                Err(error) => found.missing.push(format!("the list of tasks: {error}")),
            }
        }
        if let Some(eager) = self.of_module("_eager_tasks")
            && let Ok((tasks, length)) = self.reader.set_part(eager, limit)
        {
            found.is_partial |= length > tasks.len() as u64;
            candidates.extend(tasks);
        }
        if candidates.len() > limit {
            candidates.truncate(limit);
            found.is_partial = true;
        }
        if found.is_partial {
            found.missing.push(format!(
                "there are more than {limit} tasks; the rest were not read"
            ));
        }
        let mut unread = 0_usize;
        for task in candidates {
            if !seen.insert(task) {
                continue;
            }
            match self.facts(task) {
                Some(facts) if facts.event_loop == event_loop && !facts.is_done => {
                    found.tasks.push(facts);
                }
                Some(_) => {}
                None => unread += 1,
            }
        }
        if unread > 0 {
            found.missing.push(format!(
                "{unread} objects that should be tasks could not be read"
            ));
        }
        found
    }

    /// Adds the tasks of a ring of nodes until there are more than `limit`; whether the ring was not seen to be broken.
    fn walk_ring(
        &mut self,
        head: Address,
        node: Field<Address>,
        limit: usize,
        found: &mut Vec<Address>,
    ) -> bool {
        let mut before = head;
        while found.len() <= limit {
            let Ok(at) = self.reader.memory.read_address(before) else {
                return false;
            };
            let back = offset(at, 8).and_then(|at| Ok(self.reader.memory.read_address(at)?));
            if back != Ok(before) {
                return false;
            }
            if at == head {
                return true;
            }
            let Some(task) = self.task_of_node(at, node) else {
                return false;
            };
            found.push(task);
            before = at;
        }
        true
    }

    /// The task whose node this is. Where a patch version has moved the node, the task's own type confirms by how much.
    fn task_of_node(&mut self, at: Address, node: Field<Address>) -> Option<Address> {
        let offset = i64::try_from(node.offset()).ok()?;
        let moves = (0..=MAX_MOVE).step_by(8).flat_map(|by| [by, -by]);
        for moved in moves {
            let task = shift(at, -(offset + moved)).ok()?;
            if self.kind_of(task) == Some(TaskKind::C { moved }) {
                return Some(task);
            }
        }
        None
    }

    /// At most `limit` objects of a `WeakSet` that are still there, and whether there may be more: its `data` is a set of weak
    /// references (`Lib/_weakrefset.py`).
    fn weakly_held(&self, set: Address, limit: usize) -> Result<(Vec<Address>, bool), ObjectError> {
        let Some(data) = self.reader.attribute(set, "data")? else {
            return Ok((Vec::new(), false));
        };
        let (references, length) = self.reader.set_part(data, limit)?;
        let is_partial = length > references.len() as u64;
        let target = |reference: Address| self.reader.pointer(reference, self.layout.weak_target);
        // A reference to an object that has gone points to None.
        let targets = references.into_iter().filter_map(|one| target(one).ok());
        let targets = targets.filter(|object| !self.is_none(*object));
        Ok((targets.collect(), is_partial))
    }

    fn is_none(&self, object: Address) -> bool {
        let name = self
            .reader
            .type_of(object)
            .and_then(|of| self.reader.type_name(of));
        name.is_ok_and(|name| name == "NoneType")
    }

    fn of_module(&self, name: &str) -> Option<Address> {
        self.reader.attribute(self.module?, name).ok().flatten()
    }

    /// What a task says; `None` for what is no task.
    pub(super) fn facts(&mut self, task: Address) -> Option<TaskFacts> {
        match self.kind_of(task)? {
            TaskKind::C { moved } => self.facts_of_c(task, moved).ok().flatten(),
            TaskKind::Python => self.facts_of_python(task).ok().flatten(),
        }
    }

    fn facts_of_c(&self, task: Address, moved: i64) -> Result<Option<TaskFacts>, ObjectError> {
        let layout = &self.layout.task;
        // The loop stands before all that was ever added.
        let event_loop = self.reader.pointer(task, layout.event_loop)?;
        let base = shift(task, moved)?;
        let state = self.reader.field(base, layout.state)?;
        if !(0..=2).contains(&state) {
            return Ok(None);
        }
        Ok(Some(TaskFacts {
            id: task,
            event_loop,
            is_done: state != 0,
            waiter: self.reader.pointer(base, layout.waiter)?,
            coroutine: self.reader.pointer(base, layout.coroutine)?,
            name: self.reader.pointer(base, layout.name)?,
        }))
    }

    /// `Lib/asyncio/tasks.py::Task`, `futures.py::Future` (3.8-3.15): what is not set is as the class has it, pending.
    fn facts_of_python(&self, task: Address) -> Result<Option<TaskFacts>, ObjectError> {
        let attribute = |name| self.reader.attribute(task, name);
        let Some(coroutine) = attribute("_coro")? else {
            return Ok(None);
        };
        let state = attribute("_state")?.map(|state| self.reader.text(state));
        let is_done = state.transpose()?.is_some_and(|state| state != "PENDING");
        let waiter = attribute("_fut_waiter")?.filter(|waiter| !self.is_none(*waiter));
        Ok(Some(TaskFacts {
            id: task,
            event_loop: attribute("_loop")?.unwrap_or(Address::NULL),
            is_done,
            waiter: waiter.unwrap_or(Address::NULL),
            coroutine,
            name: attribute("_name")?.unwrap_or(Address::NULL),
        }))
    }

    /// Whether what the task waits for has come. Futures begin as tasks do.
    pub(super) fn is_future_done(&mut self, facts: &TaskFacts) -> bool {
        let moved = match self.kind_of(facts.id) {
            Some(TaskKind::C { moved }) => moved,
            _ => 0,
        };
        let future = facts.waiter;
        let is_c = self
            .class_names(future)
            .iter()
            .any(|name| name == "_asyncio.Future" || name == "_asyncio.Task");
        if is_c {
            let state = shift(future, moved)
                .and_then(|base| self.reader.field(base, self.layout.task.state));
            return matches!(state, Ok(1 | 2));
        }
        let state = self.reader.attribute(future, "_state").ok().flatten();
        state.is_some_and(|state| {
            self.reader
                .text(state)
                .is_ok_and(|state| state != "PENDING")
        })
    }

    /// The names of the object's class and of those that its layout comes from.
    fn class_names(&self, object: Address) -> Vec<String> {
        let mut names = Vec::new();
        let mut at = self.reader.type_of(object).unwrap_or(Address::NULL);
        while !at.is_null() && names.len() < MAX_BASES {
            let Ok(name) = self.reader.type_name(at) else {
                break;
            };
            names.push(name);
            at = self
                .reader
                .pointer(at, self.reader.layout.values.type_base)
                .unwrap_or(Address::NULL);
        }
        names
    }

    /// The name of a task. From 3.13 on, one that was given none has a number until somebody asks for the name
    /// (`Modules/_asynciomodule.c::TaskObj_get_name`).
    pub(super) fn name(&self, facts: &TaskFacts) -> String {
        if let Ok((name, length)) = self.reader.text_part(facts.name, MAX_NAME) {
            return if length > MAX_NAME {
                name + "…"
            } else {
                name
            };
        }
        match self.reader.unsigned(facts.name) {
            Ok(number) => format!("Task-{number}"),
            Err(_) => format!("task at {}", facts.id),
        }
    }

    /// The tasks that wait for this one, as it has them itself (3.14+).
    pub(super) fn awaited_by(&mut self, task: Address, limit: usize) -> Vec<Address> {
        let (Some(field), Some(TaskKind::C { moved })) =
            (self.layout.task.awaited_by, self.kind_of(task))
        else {
            return Vec::new();
        };
        let stated = shift(task, moved).and_then(|base| self.reader.pointer(base, field));
        match stated {
            Ok(one) if one.is_null() => Vec::new(),
            Ok(one) if self.kind_of(one).is_some() => vec![one],
            Ok(several) if self.is_set(several) => {
                let items = self.reader.set_part(several, limit);
                items.map(|(items, _)| items).unwrap_or_default()
            }
            _ => Vec::new(),
        }
    }

    fn is_set(&self, object: Address) -> bool {
        let name = self
            .reader
            .type_of(object)
            .and_then(|of| self.reader.type_name(of));
        name.is_ok_and(|name| name == "set")
    }

    /// What an `asyncio.gather` waits for: `_GatheringFuture._children` (`Lib/asyncio/tasks.py`).
    pub(super) fn gathered(&self, future: Address, limit: usize) -> Vec<Address> {
        let children = self.reader.attribute(future, "_children").ok().flatten();
        let items = children.and_then(|children| self.list_part(children, limit).ok());
        items.unwrap_or_default()
    }

    fn list_part(&self, list: Address, limit: usize) -> Result<Vec<Address>, ObjectError> {
        self.reader.require(list, FLAG_LIST_SUBCLASS, "list")?;
        let length = self.reader.var_size(list)?.min(limit as u64);
        let first = self
            .reader
            .pointer(list, self.reader.layout.values.list_items)?;
        let item = |index| Ok(self.reader.memory.read_address(offset(first, 8 * index)?)?);
        (0..length).map(item).collect()
    }

    fn kind_of(&mut self, object: Address) -> Option<TaskKind> {
        let class = self.reader.type_of(object).ok()?;
        if let Some(known) = self.kinds.get(&class) {
            return *known;
        }
        let kind = self.kind_of_class(class).ok().flatten();
        self.kinds.insert(class, kind);
        kind
    }

    fn kind_of_class(&self, class: Address) -> Result<Option<TaskKind>, ObjectError> {
        let mut at = class;
        for _ in 0..MAX_BASES {
            if at.is_null() {
                break;
            }
            match &*self.reader.type_name(at)? {
                "_asyncio.Task" => {
                    let size = self
                        .reader
                        .field(at, self.reader.layout.type_object.basicsize)?;
                    let moved = size.checked_sub(i64::from(self.layout.task.size));
                    return Ok(moved
                        .filter(|moved| moved % 8 == 0 && (-MAX_MOVE..=MAX_MOVE).contains(moved))
                        .map(|moved| TaskKind::C { moved }));
                }
                "Task" if self.reader.type_name_with_module(at)? == "asyncio.tasks.Task" => {
                    return Ok(Some(TaskKind::Python));
                }
                _ => {}
            }
            at = self
                .reader
                .pointer(at, self.reader.layout.values.type_base)?;
        }
        Ok(None)
    }
}
