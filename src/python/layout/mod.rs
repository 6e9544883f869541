//! Where CPython keeps its members: one table of offsets per minor version, as data. No reading, no decoding.
//!
//! The tables under `tables/` are generated from each version's own headers by `scripts/gen-layouts`. From 3.13 on the
//! target states most offsets itself (`_Py_DebugOffsets`); [`debug_offsets`] lays those over the table.

mod asyncio;
pub mod debug_offsets;
mod field;
mod references;
mod tables;
mod values;

pub use asyncio::{AsyncioLayout, GeneratorLayout, GeneratorStates, StackTop, TaskLayout};
pub use field::{Field, StructView};
pub use references::{FunctionLayout, ReferenceLayout};
pub use values::{
    LocalNames, LocalsLayout, MemberLayout, OldInstanceLayout, SetLayout, ValueLayout,
};

use crate::model::Address;
use debug_offsets::Positions;

/// The table of a version, or `None` for one that is not known.
///
/// The tables are made from the headers of x86-64. On other machines locks of the C library have other sizes, and what stands behind
/// them is elsewhere: there is none, rather than a wrong one, until `scripts/gen-layouts` has made them there.
pub fn find_table(version: (u8, u8), free_threaded: bool) -> Option<&'static Layout> {
    if cfg!(not(target_arch = "x86_64")) {
        return None;
    }
    tables::TABLES
        .iter()
        .copied()
        .find(|table| table.version == version && table.free_threaded == free_threaded)
}

/// Where the numbers of `_Py_DebugOffsets` stand in a version (3.13+).
fn find_positions(version: (u8, u8)) -> Option<&'static Positions> {
    let known = tables::POSITIONS.iter().copied();
    known
        .filter(|_| version.0 == 3)
        .find(|positions| positions.minor == version.1)
}

/// The versions that there are tables for, in ascending order.
pub fn known_versions() -> impl Iterator<Item = (u8, u8)> {
    tables::TABLES
        .iter()
        .filter(|table| !table.free_threaded)
        .map(|table| table.version)
}

/// Every offset that the decoders use, for one minor version and build kind of CPython.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Major and minor version, e.g. `(3, 11)`.
    pub version: (u8, u8),
    /// Whether the table is for a build without the GIL (`Py_GIL_DISABLED`, 3.13+).
    pub free_threaded: bool,
    /// `_PyRuntimeState` (3.7+).
    pub runtime: Option<RuntimeLayout>,
    /// `struct _gil_runtime_state` (3.7+; statics before).
    pub gil: Option<GilLayout>,
    /// `PyInterpreterState`.
    pub interpreter: InterpreterLayout,
    /// `PyThreadState`.
    pub thread: ThreadLayout,
    /// The frame struct of this version.
    pub frame: FrameLayout,
    /// `PyCodeObject`.
    pub code: CodeLayout,
    /// `PyObject` and `PyVarObject`.
    pub object: ObjectLayout,
    /// `PyTypeObject` and `PyHeapTypeObject`.
    pub type_object: TypeLayout,
    /// `str` (3.x) or `unicode` (2.7).
    pub unicode: UnicodeLayout,
    /// `bytes` (3.x) or `str` (2.7).
    pub bytes: BytesLayout,
    /// `dict`.
    pub dict: DictLayout,
    /// `int` (3.x) or `long` (2.7).
    pub int: IntLayout,
    /// Where instances of heap types keep their attributes.
    pub managed_dict: ManagedDict,
    /// The containers, and the rest of what values are read by.
    pub values: ValueLayout,
    /// The local variables of frames.
    pub locals: LocalsLayout,
    /// What a frame keeps on its value stack.
    pub evaluation: EvaluationLayout,
    /// Locks, and what leads to them.
    pub locks: LockLayout,
    /// What references to an object are counted by, and who holds them.
    pub references: ReferenceLayout,
    /// Event loops, tasks and coroutines (3.8+).
    pub asyncio: Option<AsyncioLayout>,
    /// The lists of the collector of garbage (3.9+, builds with the GIL).
    pub collector: Option<CollectorLayout>,
    /// Exceptions, and which one a thread is handling (3.6+).
    pub exceptions: Option<ExceptionLayout>,
}

/// Exceptions (`Include/cpython/pyerrors.h`, `pyerrors.h` before 3.8), their tracebacks (`Include/cpython/traceback.h`, `traceback.h` before
/// 3.8), and where a thread has the one that it is handling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExceptionLayout {
    /// `PyThreadState.exc_info` (3.7+): pointer to the innermost `_PyErr_StackItem`.
    pub info: Option<Field<Address>>,
    /// `_PyErr_StackItem.exc_value`; in 3.6 `PyThreadState.exc_value`.
    pub value: Field<Address>,
    /// `_PyErr_StackItem.previous_item` (3.7+).
    pub previous: Option<Field<Address>>,
    /// `PyBaseExceptionObject.traceback`.
    pub traceback: Field<Address>,
    /// `PyBaseExceptionObject.cause`.
    pub cause: Field<Address>,
    /// `PyBaseExceptionObject.context`.
    pub context: Field<Address>,
    /// `PyOSErrorObject.myerrno`.
    pub number: Field<Address>,
    /// `PyTracebackObject.tb_next`: the one further in.
    pub next: Field<Address>,
    /// `PyTracebackObject.tb_frame`.
    pub frame: Field<Address>,
    /// `PyFrameObject.f_frame` (3.11+): the frame itself.
    pub frame_data: Option<Field<Address>>,
}

/// `struct _gc_runtime_state`, `Include/internal/pycore_gc.h` (`pycore_interp_structs.h` from 3.14 on). Each generation begins with the
/// head of a ring, `PyGC_Head`: pointers to the next and to the previous one, with flags in their lowest bits. In front of each object that
/// can be in a circle of references is one too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CollectorLayout {
    /// `gc.generations` in the interpreter's state: three of them.
    pub generations: Field<Address>,
    /// `sizeof(struct gc_generation)`.
    pub generation_size: u32,
    /// `gc.permanent_generation`: what `gc.freeze` has put aside.
    pub permanent: Field<Address>,
    /// `sizeof(PyGC_Head)`.
    pub head_size: u32,
}

/// `_PyRuntimeState`, `Include/internal/pycore_runtime.h`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeLayout {
    /// Size of the struct.
    pub size: u32,
    /// `interpreters.head`.
    pub interpreters_head: Field<Address>,
    /// `interpreters.main`.
    pub interpreters_main: Field<Address>,
    /// `gilstate.tstate_current` (3.7-3.11): the thread state that holds the GIL.
    pub current_thread: Option<Field<Address>>,
    /// `ceval.gil` (3.7-3.11): the GIL itself, inside the runtime.
    pub gil: Option<Field<Address>>,
}

/// `struct _gil_runtime_state`, `Include/internal/pycore_gil.h`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GilLayout {
    /// Size of the struct.
    pub size: u32,
    /// `last_holder`: thread state that took the GIL last.
    pub last_holder: Field<Address>,
    /// `locked`: 1 held, 0 free, -1 not initialised.
    pub locked: Field<i32>,
}

/// `PyInterpreterState`, `Include/internal/pycore_interp.h` (`pystate.h` before 3.8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterpreterLayout {
    /// Size of the struct.
    pub size: u32,
    /// `next`.
    pub next: Field<Address>,
    /// `id` (3.7+).
    pub id: Option<Field<i64>>,
    /// `tstate_head`, or `threads.head` (3.11+).
    pub threads_head: Field<Address>,
    /// `modules`, or `imports.modules` (3.12+): the dict `sys.modules`.
    pub modules: Field<Address>,
    /// `ceval.gil` (3.12+): pointer to the GIL.
    pub gil: Option<Field<Address>>,
}

/// `PyThreadState`, `Include/cpython/pystate.h` (`pystate.h` before 3.8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadLayout {
    /// Size of the struct.
    pub size: u32,
    /// `next`.
    pub next: Field<Address>,
    /// `interp`.
    pub interp: Field<Address>,
    /// `thread_id`: the pthread_t.
    pub thread_id: Field<u64>,
    /// `native_thread_id` (3.11+): the kernel's tid in the target's own pid namespace.
    pub native_thread_id: Option<Field<u64>>,
    /// Where the innermost frame is found.
    pub top: TopFrame,
    /// `datastack_chunk` (3.11+): newest chunk of the frame stack.
    pub datastack_chunk: Option<Field<Address>>,
}

/// How a thread state names its innermost frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopFrame {
    /// A pointer to it in the thread state: `frame` (<= 3.10), `current_frame` (3.13+).
    Direct(Field<Address>),
    /// `cframe` points to a `_PyCFrame`, whose `current_frame` points to it (3.11, 3.12).
    CFrame {
        /// `PyThreadState.cframe`.
        cframe: Field<Address>,
        /// `_PyCFrame.current_frame`.
        current_frame: Field<Address>,
    },
}

/// The frame struct of a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrameLayout {
    /// `PyFrameObject` (<= 3.10): one heap object per call.
    Object(FrameObjectLayout),
    /// `_PyInterpreterFrame` (3.11+): on the thread's data stack.
    Interpreter(InterpreterFrameLayout),
}

/// `PyFrameObject` up to 3.10, `Include/frameobject.h`, `Include/cpython/frameobject.h`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameObjectLayout {
    /// Offset of `f_localsplus`: bytes of the fixed part.
    pub size: u32,
    /// `f_back`.
    pub back: Field<Address>,
    /// `f_code`.
    pub code: Field<Address>,
    /// `f_globals`.
    pub globals: Field<Address>,
    /// `f_trace`.
    pub trace: Field<Address>,
    /// `f_lasti`: bytes (<= 3.9) or code units (3.10) from the start of the code; -1 before the first.
    pub lasti: Field<i32>,
    /// `f_lineno`: valid only while tracing (see the decoder).
    pub lineno: Field<i32>,
}

/// `_PyInterpreterFrame`, `Include/internal/pycore_frame.h` (`pycore_interpframe_structs.h` from 3.14).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterpreterFrameLayout {
    /// Offset of `localsplus`: bytes of the fixed part.
    pub size: u32,
    /// `f_code` (3.11, 3.12), `f_executable` (3.13+; tagged in 3.14+).
    pub code: Field<Address>,
    /// `previous`.
    pub previous: Field<Address>,
    /// `f_globals`.
    pub globals: Field<Address>,
    /// `prev_instr` (3.11, 3.12), `instr_ptr` (3.13+).
    pub instruction: Field<Address>,
    /// `owner`.
    pub owner: Field<u8>,
    /// `FRAME_OWNED_BY_GENERATOR`.
    pub owned_by_generator: u8,
    /// Values of `owner` from this one on are no frames of Python code (`FRAME_OWNED_BY_CSTACK` in 3.12 and 3.13,
    /// `FRAME_OWNED_BY_INTERPRETER` in 3.14+); `None` in 3.11, which has no such frames.
    pub first_hidden_owner: Option<u8>,
    /// `tlbc_index` (free-threaded 3.14+): which thread-local copy of the bytecode `instruction` points into.
    pub tlbc_index: Option<Field<i32>>,
}

/// `PyCodeObject`, `Include/cpython/code.h` (`code.h` before 3.8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeLayout {
    /// Bytes of the fixed part.
    pub size: u32,
    /// `co_name`.
    pub name: Field<Address>,
    /// `co_qualname` (3.11+).
    pub qualname: Option<Field<Address>>,
    /// `co_filename`.
    pub filename: Field<Address>,
    /// `co_firstlineno`.
    pub firstlineno: Field<i32>,
    /// `co_lnotab` (<= 3.9), `co_linetable` (3.10+).
    pub linetable: Field<Address>,
    /// What `linetable` holds.
    pub linetable_format: LineTableFormat,
    /// `_co_firsttraceable` (3.11+): first code unit of the function's own body.
    pub first_traceable: Option<Field<i32>>,
    /// `co_code_adaptive` (3.11+): the bytecode, inside the object.
    pub bytecode: Option<Field<u8>>,
    /// `co_tlbc` (free-threaded 3.14+): pointer to `_PyCodeArray {size, entries[]}`.
    pub tlbc: Option<Field<Address>>,
}

/// The three formats that map an instruction to its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineTableFormat {
    /// Pairs of unsigned bytes (2.7; `Objects/lnotab_notes.txt`).
    LnotabUnsigned,
    /// Pairs of an unsigned and a signed byte (3.6-3.9; `Objects/lnotab_notes.txt`).
    Lnotab,
    /// Pairs with "no line" entries (3.10; `Objects/lnotab_notes.txt`).
    LineTable,
    /// Location entries of variable length (3.11+; `Objects/locations.md`).
    Locations,
}

/// `PyObject`, `PyVarObject`, `Include/object.h`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectLayout {
    /// `sizeof(PyObject)`.
    pub size: u32,
    /// `ob_type`.
    pub ob_type: Field<Address>,
    /// `ob_size` of a `PyVarObject`.
    pub ob_size: Field<i64>,
}

/// `PyTypeObject`, `PyHeapTypeObject`, `Include/cpython/object.h`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeLayout {
    /// `tp_name`: a C string.
    pub name: Field<Address>,
    /// `tp_basicsize`.
    pub basicsize: Field<i64>,
    /// `tp_flags`.
    pub flags: Field<u64>,
    /// `tp_dictoffset`.
    pub dictoffset: Field<i64>,
    /// `ht_cached_keys` of a `PyHeapTypeObject` (3.3+).
    pub cached_keys: Option<Field<Address>>,
}

/// `PyASCIIObject`, `PyCompactUnicodeObject`, `PyUnicodeObject` (3.x); `PyUnicodeObject` (2.7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnicodeLayout {
    /// PEP 393 (3.3+).
    Flexible {
        /// `length` in code points.
        length: Field<i64>,
        /// `state`, a word of bit fields.
        state: Field<u32>,
        /// Lowest bit of `state.kind` (3 bits: bytes per code point, 1, 2 or 4).
        kind_shift: u8,
        /// Bit of `state.compact`.
        compact_shift: u8,
        /// Bit of `state.ascii`.
        ascii_shift: u8,
        /// `sizeof(PyASCIIObject)`: where the data of compact ASCII text starts.
        ascii_size: u32,
        /// `sizeof(PyCompactUnicodeObject)`: where the data of other compact text starts.
        compact_size: u32,
        /// `data.any` of a `PyUnicodeObject`: pointer to the data of text that is not compact.
        data: Field<Address>,
    },
    /// 2.7's `PyUnicodeObject`.
    Legacy {
        /// `length` in code units.
        length: Field<i64>,
        /// `str`: pointer to the code units.
        data: Field<Address>,
        /// Bytes per code unit: 2 or 4, by the build that the table was made from.
        unit: u8,
    },
}

/// `PyBytesObject` (3.x), `PyStringObject` (2.7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BytesLayout {
    /// Offset of `ob_sval`.
    pub data: Field<u8>,
}

/// `PyDictObject` and its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DictLayout {
    /// `ma_table` with open addressing (2.7).
    Table {
        /// `ma_used`.
        used: Field<i64>,
        /// `ma_mask`: slots minus one.
        mask: Field<i64>,
        /// `ma_table`: array of `{hash, key, value}`.
        table: Field<Address>,
    },
    /// `ma_keys` with an index table and dense entries (3.6+), `Include/internal/pycore_dict.h`.
    Keys {
        /// `ma_used`.
        used: Field<i64>,
        /// `ma_keys`.
        keys: Field<Address>,
        /// `ma_values`: not null when the table is split.
        values: Field<Address>,
        /// The header of the keys.
        keys_layout: DictKeysLayout,
        /// Offset of the first value behind what `ma_values` points to: 0 (<= 3.12), `offsetof(PyDictValues, values)` (3.13+).
        first_value: u32,
    },
}

/// `PyDictKeysObject`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DictKeysLayout {
    /// `dk_size` (3.6-3.10): index width follows from it; entries are `{hash, key, value}`.
    Size {
        /// `dk_size`.
        size: Field<i64>,
        /// `dk_nentries`.
        nentries: Field<i64>,
        /// Offset of `dk_indices`.
        indices: Field<u8>,
    },
    /// `dk_log2_size` (3.11+).
    Log2 {
        /// `dk_log2_size`.
        log2_size: Field<u8>,
        /// `dk_log2_index_bytes`.
        log2_index_bytes: Field<u8>,
        /// `dk_kind`: 0 general `{hash, key, value}`, 1 `{key, value}` with str keys, 2 split.
        kind: Field<u8>,
        /// `dk_nentries`.
        nentries: Field<i64>,
        /// Offset of `dk_indices`.
        indices: Field<u8>,
    },
}

/// `PyLongObject`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntLayout {
    /// Bits per digit of the build: 15 or 30.
    pub digit_bits: u8,
    /// Offset of the first digit.
    pub digits: Field<u8>,
    /// `long_value.lv_tag` (3.12+): count of digits shifted left by 3, sign in the low 2 bits (0 positive, 1 zero, 2
    /// negative). Before, `ob_size` is the count, negative for negative numbers.
    pub tag: Option<Field<u64>>,
    /// `PyIntObject.ob_ival` (2.7's `int`).
    pub small: Option<Field<i64>>,
}

/// Where an instance with `Py_TPFLAGS_MANAGED_DICT` keeps its attributes; without that flag, at `tp_dictoffset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManagedDict {
    /// No managed dicts (<= 3.10).
    None,
    /// Two pointers before the object: one to a dict, one to values (3.11). Offsets in bytes from the object.
    DictAndValues {
        /// Offset of the dict pointer.
        dict: i16,
        /// Offset of the pointer to the values.
        values: i16,
    },
    /// One pointer before the object, to values when its lowest bit is set (value pointer = tagged pointer minus 1 ...), else to a dict (3.12).
    Tagged {
        /// Offset of the tagged pointer.
        pointer: i16,
    },
    /// A dict pointer before the object, and inline values behind it when the type has `Py_TPFLAGS_INLINE_VALUES` (3.13+).
    Inline {
        /// Offset of the dict pointer.
        dict: i16,
        /// Offset of `PyDictValues.valid` from the start of the inline values.
        valid: Field<u8>,
        /// `Py_TPFLAGS_INLINE_VALUES`.
        flag: u64,
    },
}

/// Where a frame's values lie, and what says which of them a `with` statement keeps there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvaluationLayout {
    /// The frame has a stack of blocks (<= 3.10).
    Blocks {
        /// `PyCodeObject.co_stacksize`.
        stack_size: Field<i32>,
        /// `PyFrameObject.f_valuestack`: the first slot behind the locals.
        value_stack: Field<Address>,
        /// `f_iblock`: how many blocks there are.
        block_count: Field<i32>,
        /// `f_blockstack`, an array of `PyTryBlock`.
        blocks: Field<u8>,
        /// `sizeof(PyTryBlock)`.
        block_size: u32,
        /// `PyTryBlock.b_level`.
        level: Field<i32>,
    },
    /// The code has a table of handlers (3.11+; `Objects/exception_handling_notes.txt`, `InternalDocs/exception_handling.md` from 3.14).
    Table {
        /// `PyCodeObject.co_stacksize`.
        stack_size: Field<i32>,
        /// `PyCodeObject.co_exceptiontable`: a `bytes`.
        exception_table: Field<Address>,
        /// `PyCodeObject.co_nlocalsplus`: slots before the first value.
        locals: Field<i32>,
    },
}

/// Locks and semaphores, `Modules/_threadmodule.c`, `Modules/_multiprocessing/`, and what leads to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockLayout {
    /// `lockobject.lock_lock` and `rlockobject.rlock_lock`, or the `PyMutex` in their place (3.13t, 3.14+). A
    /// `_queue.SimpleQueue` and a `_thread._ThreadHandle` have what is waited on at the same place.
    pub mutex: Field<Address>,
    /// `rlockobject.rlock_owner`, or `lock.thread` (3.14+): a `pthread_t`.
    pub owner: Field<u64>,
    /// `rlockobject.rlock_count`, or `lock.level` (3.14+), which is one less.
    pub level: Field<u64>,
    /// `SemLockObject.handle`: the `sem_t`.
    pub handle: Field<Address>,
    /// `SemLockObject.last_tid`: a `pthread_t`.
    pub last_tid: Field<u64>,
    /// `SemLockObject.count`: how often this process has it.
    pub count: Field<i32>,
    /// `SemLockObject.maxvalue`: how many can have it at once.
    pub max_value: Field<i32>,
    /// `SemLockObject.kind`: 0 recursive, 1 not.
    pub kind: Field<i32>,
    /// `PyCFunctionObject.m_self`.
    pub function_self: Field<Address>,
    /// `PyMethodObject.im_self`.
    pub method_self: Field<Address>,
}
