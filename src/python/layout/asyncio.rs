//! Where CPython keeps event loops, tasks and coroutines, as data. No reading, no decoding.

use super::Field;
use crate::model::Address;

/// The event loops of `asyncio`, their tasks, and the coroutines that these run (3.8+).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsyncioLayout {
    /// `PyThreadState.dict` (3.8-3.12): its entry `__asyncio_running_event_loop__` has the loop that runs in the thread.
    pub thread_dict: Option<Field<Address>>,
    /// `_PyThreadStateImpl.asyncio_running_loop` (3.13+).
    pub running_loop: Option<Field<Address>>,
    /// `_PyThreadStateImpl.asyncio_running_task` (3.14+).
    pub running_task: Option<Field<Address>>,
    /// `_PyThreadStateImpl.asyncio_tasks_head` (3.14+): a ring of the `node`s of all tasks that the thread has made.
    pub thread_tasks: Option<Field<Address>>,
    /// `PyInterpreterState.asyncio_tasks_head` (3.14+): the same of threads that have ended.
    pub interpreter_tasks: Option<Field<Address>>,
    /// `PyWeakReference.wr_object`.
    pub weak_target: Field<Address>,
    /// `TaskObj`.
    pub task: TaskLayout,
    /// `PyGenObject`, `PyCoroObject` and `PyAsyncGenObject`.
    pub generator: GeneratorLayout,
}

/// `TaskObj`, `Modules/_asynciomodule.c`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskLayout {
    /// `sizeof(TaskObj)`, which its type states too.
    pub size: u32,
    /// `task_loop`.
    pub event_loop: Field<Address>,
    /// `task_state`: 0 pending, 1 cancelled, 2 finished.
    pub state: Field<i32>,
    /// `task_fut_waiter`: the future that it waits for; null when it may go on.
    pub waiter: Field<Address>,
    /// `task_coro`.
    pub coroutine: Field<Address>,
    /// `task_name`: a text, or the number that its name is made of (3.13+).
    pub name: Field<Address>,
    /// `task_awaited_by` (3.14+): a task, or a set of them.
    pub awaited_by: Option<Field<Address>>,
    /// `task_node` (3.14+): `struct llist_node`, whose pointers are to the next and to the previous one.
    pub node: Option<Field<Address>>,
}

/// Generators, coroutines and asynchronous generators, which begin alike: `Include/cpython/genobject.h` (`genobject.h` in 3.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneratorLayout {
    /// `gi_frame` (<= 3.10): pointer to its frame, null when it has finished. `gi_iframe` (3.11+): the frame itself, inside it.
    pub frame: Field<Address>,
    /// What it does (3.11+).
    pub states: Option<GeneratorStates>,
    /// `PyCodeObject.co_code` (<= 3.10): a `bytes`, by which one that waits for another is told from one that has given a value.
    pub bytecode: Option<Field<Address>>,
    /// At which slot, counted from the top of its value stack, one that waits keeps what it waits for.
    pub awaited_slot: u8,
    /// Where its frame says how high its value stack is while it does not run.
    pub top: StackTop,
}

/// `gi_frame_state` and what its values mean, `Include/internal/pycore_frame.h`. They are in ascending order; between `suspended`
/// and `executing` are those of one that waits for another, where the version tells that (3.13+).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneratorStates {
    /// `gi_frame_state`.
    pub state: Field<i8>,
    /// `FRAME_CREATED`.
    pub created: i8,
    /// `FRAME_SUSPENDED`.
    pub suspended: i8,
    /// `FRAME_EXECUTING`; what is above has finished.
    pub executing: i8,
}

/// How a frame that does not run says how high its value stack is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StackTop {
    /// A pointer behind the topmost slot: `f_stacktop` (<= 3.9; null while it runs), `stackpointer` (3.14+).
    Pointer(Field<Address>),
    /// Slots above `f_valuestack`: `f_stackdepth` (3.10; -1 while it runs).
    Depth(Field<i32>),
    /// Slots behind the fixed part of the frame, locals too: `stacktop` (3.11-3.13; at most 0 while it runs).
    Count(Field<i32>),
}
