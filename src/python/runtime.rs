//! A CPython found in a target: its interpreters, their threads, and who holds the GIL.

use thiserror::Error;

use super::layout::{GilLayout, Layout, TopFrame};
use super::object::{ObjectReader, copy_struct, member};
use crate::model::{Address, RuntimeInfo};
use crate::sys::memory::{ReadError, RemoteMemory};

/// Most interpreters of one process.
const MAX_INTERPRETERS: usize = 4096;
/// Most threads of one interpreter.
const MAX_THREADS: usize = 100_000;

/// Size in bytes of a `sem_t`, which a lock of 2.7 is (`Python/thread_pthread.h`; glibc and musl on 64 bits).
const SEMAPHORE: u64 = 32;

/// Where the list of interpreters begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// `_PyRuntime` (3.7+).
    Runtime(Address),
    /// A variable that points to the newest interpreter: `interp_head` (<= 3.6), or one that a scan has found.
    Head(Address),
}

/// A CPython found in a target.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// Where it keeps what.
    pub layout: Layout,
    /// Where its interpreters are.
    pub root: Root,
    /// The variable that points to the thread that holds the GIL: `_PyThreadState_Current` (<= 3.6).
    pub current_thread: Option<Address>,
    /// The variable that points to the lock that is the GIL: `interpreter_lock` (2.7), where a symbol names it.
    pub gil_lock: Option<Address>,
    /// The writable data of the image that it is in, where the locks of old versions lie.
    pub data: Vec<(Address, u64)>,
    /// What to say of it.
    pub info: RuntimeInfo,
}

/// Why the runtime's own structures could not be read.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("read {what} at {address}: {source}")]
pub struct RuntimeError {
    /// What was read.
    pub what: &'static str,
    /// Where.
    pub address: Address,
    /// Why it failed.
    pub source: ReadError,
}

/// An interpreter of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interpreter {
    /// `PyInterpreterState`.
    pub address: Address,
    /// Its number; 0 is the main one. Versions without numbers are counted from the oldest.
    pub id: i64,
    /// `sys.modules`.
    pub modules: Address,
    gil: Option<Address>,
}

#[cfg(test)]
impl Interpreter {
    /// The main one, made up.
    pub(super) fn at(address: Address, modules: Address) -> Self {
        Interpreter {
            address,
            id: 0,
            modules,
            gil: None,
        }
    }
}

/// A thread state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadState {
    /// `PyThreadState`.
    pub address: Address,
    /// The interpreter that it belongs to.
    pub interpreter: Address,
    /// The pthread_t.
    pub thread_id: u64,
    /// The kernel's number for it in its own pid namespace (3.11+).
    pub native_thread_id: Option<u64>,
}

/// Who holds a GIL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GilState {
    /// The thread state that holds it; `None` when it is free.
    pub holder: Option<Address>,
    /// Where the GIL's own locks lie, so that a futex can be recognised: start and size in bytes.
    pub locks: Option<(Address, u64)>,
}

impl Runtime {
    /// A reader of its objects.
    pub fn objects<'a>(&'a self, memory: &'a dyn RemoteMemory) -> ObjectReader<'a> {
        ObjectReader {
            memory,
            layout: &self.layout,
        }
    }

    /// All interpreters, the oldest (main) one first.
    pub fn interpreters(
        &self,
        memory: &dyn RemoteMemory,
    ) -> Result<Vec<Interpreter>, RuntimeError> {
        let head = match (self.root, &self.layout.runtime) {
            (Root::Runtime(address), Some(runtime)) => {
                address.checked_add(runtime.interpreters_head.offset())
            }
            (Root::Head(address) | Root::Runtime(address), _) => Some(address),
        };
        let head = head.unwrap_or(Address::NULL);
        let failed = |what, address| {
            move |source| RuntimeError {
                what,
                address,
                source,
            }
        };
        let mut at = memory
            .read_address(head)
            .map_err(failed("the head of the interpreters", head))?;
        let mut interpreters: Vec<Interpreter> = Vec::new();
        while !at.is_null() && interpreters.len() < MAX_INTERPRETERS {
            if interpreters.iter().any(|known| known.address == at) {
                break;
            }
            let (interpreter, next) = self
                .read_interpreter(memory, at)
                .map_err(failed("an interpreter's state", at))?;
            interpreters.push(interpreter);
            at = next;
        }
        interpreters.reverse();
        if self.layout.interpreter.id.is_none() {
            for (id, interpreter) in (0..).zip(&mut interpreters) {
                interpreter.id = id;
            }
        }
        Ok(interpreters)
    }

    fn read_interpreter(
        &self,
        memory: &dyn RemoteMemory,
        at: Address,
    ) -> Result<(Interpreter, Address), ReadError> {
        // The struct has up to 360 KB: its members are read one by one.
        let layout = &self.layout.interpreter;
        let pointer = |offset: u64| {
            memory.read_address(at.checked_add(offset).ok_or(ReadError::Unmapped(at))?)
        };
        let id = match layout.id {
            Some(field) => pointer(field.offset())?.0.cast_signed(),
            None => 0,
        };
        let interpreter = Interpreter {
            address: at,
            id,
            modules: pointer(layout.modules.offset())?,
            gil: layout
                .gil
                .map(|field| pointer(field.offset()))
                .transpose()?,
        };
        Ok((interpreter, pointer(layout.next.offset())?))
    }

    /// The thread state that was made last, which the list of an interpreter begins with. It is the first to go, so that the
    /// list must be read from it anew each time.
    pub fn newest_thread(
        &self,
        memory: &dyn RemoteMemory,
        interpreter: &Interpreter,
    ) -> Result<Address, ReadError> {
        let head = self.layout.interpreter.threads_head.offset();
        let address = interpreter.address;
        memory.read_address(
            address
                .checked_add(head)
                .ok_or(ReadError::Unmapped(address))?,
        )
    }

    /// The thread states of an interpreter, oldest first. The chain is followed only as far as it can be believed: each
    /// state must name the interpreter as its own.
    pub fn threads(&self, memory: &dyn RemoteMemory, interpreter: &Interpreter) -> Threads {
        let mut threads = Threads::default();
        let Ok(mut at) = self.newest_thread(memory, interpreter) else {
            threads.is_broken = true;
            return threads;
        };
        let mut seen = rustc_hash::FxHashSet::default();
        while !at.is_null() && threads.states.len() < MAX_THREADS && seen.insert(at) {
            match self.read_thread(memory, at) {
                Ok((state, next)) if state.interpreter == interpreter.address => {
                    threads.states.push(state);
                    at = next;
                }
                _ => {
                    threads.is_broken = true;
                    break;
                }
            }
        }
        threads.states.reverse();
        threads
    }

    fn read_thread(
        &self,
        memory: &dyn RemoteMemory,
        at: Address,
    ) -> Result<(ThreadState, Address), ReadError> {
        let layout = &self.layout.thread;
        let bytes = copy_struct(memory, at, layout.size)?;
        let native_thread_id = layout
            .native_thread_id
            .map(|field| member(&bytes, field, at))
            .transpose()?;
        let state = ThreadState {
            address: at,
            interpreter: member(&bytes, layout.interp, at)?,
            thread_id: member(&bytes, layout.thread_id, at)?,
            native_thread_id,
        };
        Ok((state, member(&bytes, layout.next, at)?))
    }

    /// Whether the thread state is still the same thread's.
    pub fn is_current(&self, memory: &dyn RemoteMemory, state: &ThreadState) -> bool {
        self.read_thread(memory, state.address)
            .is_ok_and(|(now, _)| now == *state)
    }

    /// The innermost frame of a thread; null when it runs no Python.
    pub fn top_frame(
        &self,
        memory: &dyn RemoteMemory,
        state: &ThreadState,
    ) -> Result<Address, ReadError> {
        let read = |base: Address, offset: u64| {
            memory.read_address(base.checked_add(offset).ok_or(ReadError::Unmapped(base))?)
        };
        match self.layout.thread.top {
            TopFrame::Direct(field) => read(state.address, field.offset()),
            TopFrame::CFrame {
                cframe,
                current_frame,
            } => match read(state.address, cframe.offset())? {
                Address::NULL => Ok(Address::NULL),
                cframe => read(cframe, current_frame.offset()),
            },
        }
    }

    /// Who holds the GIL that `interpreter` runs under; `None` where that can't be told, or where there is none.
    pub fn gil(&self, memory: &dyn RemoteMemory, interpreter: &Interpreter) -> Option<GilState> {
        let embedded = match (
            self.root,
            self.layout.runtime.as_ref().and_then(|runtime| runtime.gil),
        ) {
            (Root::Runtime(address), Some(field)) => address.checked_add(field.offset()),
            _ => None,
        };
        let address = interpreter
            .gil
            .or(embedded)
            .filter(|address| !address.is_null());
        match (address, &self.layout.gil) {
            (Some(address), Some(layout)) => read_gil(memory, address, layout),
            _ if self.layout.free_threaded => None,
            _ => {
                let holder = memory.read_address(self.current_thread?).ok()?;
                let lock = self
                    .gil_lock
                    .and_then(|lock| memory.read_address(lock).ok());
                Some(GilState {
                    holder: (!holder.is_null()).then_some(holder),
                    locks: lock.map(|lock| (lock, SEMAPHORE)),
                })
            }
        }
    }

    /// Whether a futex at `address` is one of the GIL's.
    ///
    /// In 3.6 the GIL is a set of statics; nothing else in the interpreter's own data is waited on by the futex of a
    /// condition (`Python/ceval_gil.h`), so any futex there is the GIL's.
    pub fn is_gil_futex(&self, gil: &GilState, address: Address) -> bool {
        let within = |(start, size): &(Address, u64)| {
            address
                .checked_sub(*start)
                .is_some_and(|offset| offset < *size)
        };
        match &gil.locks {
            Some(locks) => within(locks),
            None => self.data.iter().any(within),
        }
    }
}

fn read_gil(memory: &dyn RemoteMemory, address: Address, layout: &GilLayout) -> Option<GilState> {
    let bytes = copy_struct(memory, address, layout.size).ok()?;
    let holder: Address = member(&bytes, layout.last_holder, address).ok()?;
    let locked = member(&bytes, layout.locked, address).ok()?;
    // `locked` is -1 before the GIL is made, which free-threaded builds never do.
    (locked >= 0).then_some(GilState {
        holder: (locked == 1 && !holder.is_null()).then_some(holder),
        locks: Some((address, u64::from(layout.size))),
    })
}

/// The threads of an interpreter.
#[derive(Clone, Debug, Default)]
pub struct Threads {
    /// Oldest first.
    pub states: Vec<ThreadState>,
    /// Whether the chain ended in something that is no thread state: it was changed while it was read.
    pub is_broken: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::testing::{Builder, all_layouts};

    fn runtime(layout: &Layout, head: Address) -> Runtime {
        Runtime {
            layout: layout.clone(),
            root: Root::Head(head),
            current_thread: None,
            gil_lock: None,
            data: vec![(Address(0x5000), 0x1000)],
            info: RuntimeInfo {
                kind: "cpython",
                version: "x".into(),
                free_threaded: layout.free_threaded,
                found_by: "test",
                image: String::new(),
            },
        }
    }

    #[test]
    fn threads_are_found_oldest_first_and_lead_to_their_frames() {
        for layout in all_layouts() {
            let mut builder = Builder::new(layout);
            let (interpreter, head) = builder.interpreter(Address(0x77));
            let old = builder.thread(interpreter, Address(0x88), 111, Address::NULL);
            let new = builder.thread(interpreter, Address::NULL, 222, old);
            builder.set(interpreter, layout.interpreter.threads_head, new.0);
            let runtime = runtime(layout, head);
            let interpreters = runtime.interpreters(&builder).unwrap();
            assert_eq!(
                (
                    interpreters.len(),
                    interpreters[0].id,
                    interpreters[0].modules
                ),
                (1, 0, Address(0x77))
            );
            let threads = runtime.threads(&builder, &interpreters[0]);
            let ids: Vec<_> = threads.states.iter().map(|state| state.thread_id).collect();
            assert_eq!(
                (ids, threads.is_broken),
                (vec![111, 222], false),
                "{:?}",
                layout.version
            );
            assert_eq!(
                runtime.top_frame(&builder, &threads.states[0]),
                Ok(Address(0x88))
            );
            assert!(runtime.is_current(&builder, &threads.states[1]));
        }
    }

    #[test]
    fn a_state_of_another_interpreter_and_a_loop_end_the_list() {
        for layout in all_layouts() {
            let mut builder = Builder::new(layout);
            let (interpreter, head) = builder.interpreter(Address::NULL);
            let stranger = builder.thread(Address(0x99), Address::NULL, 1, Address::NULL);
            let thread = builder.thread(interpreter, Address::NULL, 2, stranger);
            builder.set(interpreter, layout.interpreter.threads_head, thread.0);
            builder.set(interpreter, layout.interpreter.next, interpreter.0);
            let runtime = runtime(layout, head);
            let interpreters = runtime.interpreters(&builder).unwrap();
            assert_eq!(interpreters.len(), 1);
            let threads = runtime.threads(&builder, &interpreters[0]);
            assert_eq!((threads.states.len(), threads.is_broken), (1, true));
            builder.set(thread, layout.thread.next, thread.0);
            let threads = runtime.threads(&builder, &interpreters[0]);
            assert_eq!((threads.states.len(), threads.is_broken), (1, false));
        }
    }

    #[test]
    fn the_gil_has_a_holder_only_while_it_is_locked() {
        for layout in all_layouts() {
            let (Some(gil), Some(pointer)) = (&layout.gil, layout.interpreter.gil) else {
                continue;
            };
            let mut builder = Builder::new(layout);
            let at = builder.put(&vec![0; gil.size as usize]);
            let (interpreter, head) = builder.interpreter(Address::NULL);
            builder.set(interpreter, pointer, at.0);
            builder.set(at, gil.last_holder, 0x1234);
            let runtime = runtime(layout, head);
            let holder = |builder: &Builder| {
                let interpreters = runtime.interpreters(builder).unwrap();
                runtime.gil(builder, &interpreters[0]).map(|gil| gil.holder)
            };
            assert_eq!(holder(&builder), Some(None));
            builder.set(at, gil.locked, 1);
            assert_eq!(holder(&builder), Some(Some(Address(0x1234))));
            builder.set(at, gil.locked, u64::MAX);
            assert_eq!(holder(&builder), None);
            let state = GilState {
                holder: None,
                locks: Some((at, u64::from(gil.size))),
            };
            assert!(runtime.is_gil_futex(&state, Address(at.0 + 8)));
            assert!(!runtime.is_gil_futex(&state, Address(at.0 + u64::from(gil.size))));
        }
    }
}
