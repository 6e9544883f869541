//! `_Py_DebugOffsets` (3.13+): the target's own statement of its layout, laid over the table of its minor version.

use thiserror::Error;

use super::{
    DictLayout, Field, FrameLayout, Layout, LocalNames, TopFrame, UnicodeLayout, find_positions,
    find_table,
};
use crate::model::Address;
use crate::sys::memory::{ReadError, RemoteMemory};

/// Where, in bytes from the start of `_Py_DebugOffsets`, each statement that we use stands; each is a `uint64_t`.
///
/// `Include/internal/pycore_runtime.h` (3.13), `Include/internal/pycore_debug_offsets.h` (3.14+).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Positions {
    /// Minor version, e.g. 13.
    pub minor: u8,
    /// `sizeof(_Py_DebugOffsets)`.
    pub size: u32,
    /// `free_threaded`.
    pub free_threaded: u32,
    /// `runtime_state.size`.
    pub runtime_size: u32,
    /// `runtime_state.interpreters_head`.
    pub runtime_interpreters_head: u32,
    /// `interpreter_state.size`.
    pub interpreter_size: u32,
    /// `interpreter_state.id`.
    pub interpreter_id: u32,
    /// `interpreter_state.next`.
    pub interpreter_next: u32,
    /// `interpreter_state.threads_head`.
    pub interpreter_threads_head: u32,
    /// `interpreter_state.imports_modules`.
    pub interpreter_imports_modules: u32,
    /// `interpreter_state.ceval_gil`.
    pub interpreter_ceval_gil: u32,
    /// `interpreter_state.gil_runtime_state`.
    pub interpreter_gil_runtime_state: u32,
    /// `interpreter_state.gil_runtime_state_locked`.
    pub interpreter_gil_runtime_state_locked: u32,
    /// `interpreter_state.gil_runtime_state_holder`.
    pub interpreter_gil_runtime_state_holder: u32,
    /// `thread_state.size`.
    pub thread_size: u32,
    /// `thread_state.next`.
    pub thread_next: u32,
    /// `thread_state.interp`.
    pub thread_interp: u32,
    /// `thread_state.current_frame`.
    pub thread_current_frame: u32,
    /// `thread_state.thread_id`.
    pub thread_thread_id: u32,
    /// `thread_state.native_thread_id`.
    pub thread_native_thread_id: u32,
    /// `thread_state.datastack_chunk`.
    pub thread_datastack_chunk: u32,
    /// `interpreter_frame.size`.
    pub frame_size: u32,
    /// `interpreter_frame.previous`.
    pub frame_previous: u32,
    /// `interpreter_frame.executable`.
    pub frame_executable: u32,
    /// `interpreter_frame.instr_ptr`.
    pub frame_instr_ptr: u32,
    /// `interpreter_frame.localsplus`.
    pub frame_localsplus: u32,
    /// `interpreter_frame.owner`.
    pub frame_owner: u32,
    /// `interpreter_frame.tlbc_index` (3.14+).
    pub frame_tlbc_index: Option<u32>,
    /// `code_object.size`.
    pub code_size: u32,
    /// `code_object.filename`.
    pub code_filename: u32,
    /// `code_object.name`.
    pub code_name: u32,
    /// `code_object.qualname`.
    pub code_qualname: u32,
    /// `code_object.linetable`.
    pub code_linetable: u32,
    /// `code_object.firstlineno`.
    pub code_firstlineno: u32,
    /// `code_object.co_code_adaptive`.
    pub code_co_code_adaptive: u32,
    /// `code_object.co_tlbc` (3.14+).
    pub code_co_tlbc: Option<u32>,
    /// `pyobject.ob_type`.
    pub object_ob_type: u32,
    /// `type_object.tp_name`.
    pub type_tp_name: u32,
    /// `type_object.tp_flags`.
    pub type_tp_flags: u32,
    /// `dict_object.ma_keys`.
    pub dict_ma_keys: u32,
    /// `dict_object.ma_values`.
    pub dict_ma_values: u32,
    /// `long_object.lv_tag`.
    pub long_lv_tag: u32,
    /// `long_object.ob_digit`.
    pub long_ob_digit: u32,
    /// `bytes_object.ob_size`.
    pub bytes_ob_size: u32,
    /// `bytes_object.ob_sval`.
    pub bytes_ob_sval: u32,
    /// `unicode_object.state`.
    pub unicode_state: u32,
    /// `unicode_object.length`.
    pub unicode_length: u32,
    /// `unicode_object.asciiobject_size`.
    pub unicode_asciiobject_size: u32,
    /// `code_object.localsplusnames`.
    pub code_localsplusnames: u32,
    /// `code_object.localspluskinds`.
    pub code_localspluskinds: u32,
    /// `list_object.ob_item`.
    pub list_ob_item: u32,
    /// `tuple_object.ob_item`.
    pub tuple_ob_item: u32,
    /// `float_object.ob_fval`.
    pub float_ob_fval: u32,
}

/// What `_Py_DebugOffsets` starts with, and so `_PyRuntime`.
pub const COOKIE: &[u8; 8] = b"xdebugpy";
/// Where `PY_VERSION_HEX` stands in it.
const VERSION_AT: usize = 8;
/// Largest table that is taken.
const MAX_TABLE: u64 = 4096;
/// Largest struct that a table may state, in bytes.
const MAX_STRUCT: u64 = 1 << 24;

/// Why a target's own statement of its layout is not believed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum OffsetsError {
    /// It could not be read.
    #[error("read _Py_DebugOffsets: {0}")]
    Read(#[from] ReadError),
    /// It is not there.
    #[error("no _Py_DebugOffsets there")]
    NoCookie,
    /// It is of a version that this program does not know.
    #[error("CPython {0}.{1} is a version that this program does not know")]
    UnknownVersion(u8, u8),
    /// It states something impossible.
    #[error("_Py_DebugOffsets states {value} for {member}, which can't be")]
    Impossible {
        /// Which member.
        member: &'static str,
        /// What it states.
        value: u64,
    },
}

/// A layout that the target itself stated.
#[derive(Clone, Debug)]
pub struct Stated {
    /// The layout.
    pub layout: Layout,
    /// `PY_VERSION_HEX` (`Include/patchlevel.h`).
    pub version_hex: u32,
}

/// Reads the statement at `runtime` and lays it over the table of its version.
pub fn read(memory: &dyn RemoteMemory, runtime: Address) -> Result<Stated, OffsetsError> {
    let mut head = [0; 16];
    memory.read(runtime, &mut head)?;
    if head[..COOKIE.len()] != *COOKIE {
        return Err(OffsetsError::NoCookie);
    }
    let version_hex = read_u64(&head, VERSION_AT).unwrap_or(0);
    let [.., major, minor, _, _] = version_hex.to_be_bytes();
    let unknown = OffsetsError::UnknownVersion(major, minor);
    let positions = find_positions((major, minor)).ok_or(unknown.clone())?;
    let bytes = memory.read_vec(runtime, u64::from(positions.size), MAX_TABLE)?;
    let free_threaded = read_u64(&bytes, positions.free_threaded as usize).unwrap_or(0) != 0;
    let table = find_table((major, minor), free_threaded).ok_or(unknown)?;
    Ok(Stated {
        layout: overlay(table, positions, &bytes)?,
        version_hex: version_hex as u32,
    })
}

fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|bytes| u64::from_le_bytes(*bytes))
}

/// The statement's bytes with the checks that every number in them has to pass.
struct Statement<'a> {
    bytes: &'a [u8],
}

impl Statement<'_> {
    fn number(&self, at: u32, member: &'static str, limit: u64) -> Result<u32, OffsetsError> {
        let value = read_u64(self.bytes, at as usize).unwrap_or(u64::MAX);
        let fits = value <= limit && value <= MAX_STRUCT;
        u32::try_from(value)
            .ok()
            .filter(|_| fits)
            .ok_or(OffsetsError::Impossible { member, value })
    }

    /// The size of a struct.
    fn size(&self, at: u32, member: &'static str) -> Result<u32, OffsetsError> {
        self.number(at, member, MAX_STRUCT)
    }

    /// A member of a struct of `size` bytes, aligned to its own width.
    fn field<T>(&self, at: u32, member: &'static str, size: u32) -> Result<Field<T>, OffsetsError> {
        let width = size_of::<T>() as u64;
        let limit = u64::from(size)
            .checked_sub(width)
            .ok_or(OffsetsError::Impossible {
                member,
                value: u64::from(size),
            })?;
        let offset = self.number(at, member, limit)?;
        if u64::from(offset) % width != 0 {
            return Err(OffsetsError::Impossible {
                member,
                value: u64::from(offset),
            });
        }
        Ok(Field::at(offset))
    }
}

fn overlay(table: &Layout, at: &Positions, bytes: &[u8]) -> Result<Layout, OffsetsError> {
    let stated = Statement { bytes };
    let mut layout = table.clone();
    overlay_runtime(&mut layout, at, &stated)?;
    overlay_interpreter(&mut layout, at, &stated)?;
    overlay_gil(&mut layout, at, &stated)?;
    overlay_thread(&mut layout, at, &stated)?;
    overlay_frame(&mut layout, at, &stated)?;
    overlay_code(&mut layout, at, &stated)?;
    overlay_objects(&mut layout, at, &stated)?;
    overlay_values(&mut layout, at, &stated)?;
    Ok(layout)
}

/// `_PyRuntimeState`.
fn overlay_runtime(
    layout: &mut Layout,
    at: &Positions,
    stated: &Statement<'_>,
) -> Result<(), OffsetsError> {
    if let Some(runtime) = &mut layout.runtime {
        runtime.size = stated.size(at.runtime_size, "runtime_state.size")?;
        runtime.interpreters_head = stated.field(
            at.runtime_interpreters_head,
            "runtime_state.interpreters_head",
            runtime.size,
        )?;
    }
    Ok(())
}

/// `PyInterpreterState`.
fn overlay_interpreter(
    layout: &mut Layout,
    at: &Positions,
    stated: &Statement<'_>,
) -> Result<(), OffsetsError> {
    let interpreter = &mut layout.interpreter;
    interpreter.size = stated.size(at.interpreter_size, "interpreter_state.size")?;
    interpreter.next = stated.field(
        at.interpreter_next,
        "interpreter_state.next",
        interpreter.size,
    )?;
    interpreter.id =
        Some(stated.field(at.interpreter_id, "interpreter_state.id", interpreter.size)?);
    interpreter.threads_head = stated.field(
        at.interpreter_threads_head,
        "interpreter_state.threads_head",
        interpreter.size,
    )?;
    interpreter.modules = stated.field(
        at.interpreter_imports_modules,
        "interpreter_state.imports_modules",
        interpreter.size,
    )?;
    interpreter.gil = Some(stated.field(
        at.interpreter_ceval_gil,
        "interpreter_state.ceval_gil",
        interpreter.size,
    )?);
    Ok(())
}

/// The GIL, whose members are stated from the start of the interpreter that may contain it.
fn overlay_gil(
    layout: &mut Layout,
    at: &Positions,
    stated: &Statement<'_>,
) -> Result<(), OffsetsError> {
    if let Some(gil) = &mut layout.gil {
        let start = stated.number(
            at.interpreter_gil_runtime_state,
            "gil_runtime_state",
            u64::from(layout.interpreter.size),
        )?;
        let inside = |position, member| {
            let offset = stated.number(position, member, u64::from(layout.interpreter.size))?;
            offset
                .checked_sub(start)
                .filter(|offset| *offset < gil.size)
                .ok_or(OffsetsError::Impossible {
                    member,
                    value: u64::from(offset),
                })
        };
        let locked = inside(
            at.interpreter_gil_runtime_state_locked,
            "gil_runtime_state_locked",
        )?;
        let holder = inside(
            at.interpreter_gil_runtime_state_holder,
            "gil_runtime_state_holder",
        )?;
        gil.locked = Field::at(locked);
        gil.last_holder = Field::at(holder);
    }
    Ok(())
}

/// `PyThreadState`.
fn overlay_thread(
    layout: &mut Layout,
    at: &Positions,
    stated: &Statement<'_>,
) -> Result<(), OffsetsError> {
    let thread = &mut layout.thread;
    let before = thread.size;
    thread.size = stated.size(at.thread_size, "thread_state.size")?;
    if let Some(asyncio) = &mut layout.asyncio {
        // They stand behind the state, in `_PyThreadStateImpl` (`Include/internal/pycore_tstate.h`), of which nothing is stated.
        let moved = |field: Option<Field<Address>>| field?.moved(before, thread.size);
        asyncio.running_loop = moved(asyncio.running_loop);
        asyncio.running_task = moved(asyncio.running_task);
        asyncio.thread_tasks = moved(asyncio.thread_tasks);
    }
    thread.next = stated.field(at.thread_next, "thread_state.next", thread.size)?;
    thread.interp = stated.field(at.thread_interp, "thread_state.interp", thread.size)?;
    thread.thread_id = stated.field(at.thread_thread_id, "thread_state.thread_id", thread.size)?;
    thread.native_thread_id = Some(stated.field(
        at.thread_native_thread_id,
        "thread_state.native_thread_id",
        thread.size,
    )?);
    thread.top = TopFrame::Direct(stated.field(
        at.thread_current_frame,
        "thread_state.current_frame",
        thread.size,
    )?);
    thread.datastack_chunk = Some(stated.field(
        at.thread_datastack_chunk,
        "thread_state.datastack_chunk",
        thread.size,
    )?);
    Ok(())
}

/// `_PyInterpreterFrame`.
fn overlay_frame(
    layout: &mut Layout,
    at: &Positions,
    stated: &Statement<'_>,
) -> Result<(), OffsetsError> {
    if let FrameLayout::Interpreter(frame) = &mut layout.frame {
        // What is stated as the size may count one local or none; only the fixed part is used.
        let whole = stated.size(at.frame_size, "interpreter_frame.size")?;
        frame.size = stated.number(
            at.frame_localsplus,
            "interpreter_frame.localsplus",
            u64::from(whole),
        )?;
        frame.previous =
            stated.field(at.frame_previous, "interpreter_frame.previous", frame.size)?;
        frame.code = stated.field(
            at.frame_executable,
            "interpreter_frame.executable",
            frame.size,
        )?;
        frame.instruction = stated.field(
            at.frame_instr_ptr,
            "interpreter_frame.instr_ptr",
            frame.size,
        )?;
        frame.owner = stated.field(at.frame_owner, "interpreter_frame.owner", frame.size)?;
        if let (Some(position), true) = (at.frame_tlbc_index, frame.tlbc_index.is_some()) {
            frame.tlbc_index =
                Some(stated.field(position, "interpreter_frame.tlbc_index", frame.size)?);
        }
    }
    Ok(())
}

/// `PyCodeObject`.
fn overlay_code(
    layout: &mut Layout,
    at: &Positions,
    stated: &Statement<'_>,
) -> Result<(), OffsetsError> {
    let code = &mut layout.code;
    let whole = stated.size(at.code_size, "code_object.size")?;
    code.filename = stated.field(at.code_filename, "code_object.filename", whole)?;
    code.name = stated.field(at.code_name, "code_object.name", whole)?;
    code.qualname = Some(stated.field(at.code_qualname, "code_object.qualname", whole)?);
    code.linetable = stated.field(at.code_linetable, "code_object.linetable", whole)?;
    code.firstlineno = stated.field(at.code_firstlineno, "code_object.firstlineno", whole)?;
    code.bytecode = Some(stated.field(
        at.code_co_code_adaptive,
        "code_object.co_code_adaptive",
        whole,
    )?);
    if let (Some(position), true) = (at.code_co_tlbc, code.tlbc.is_some()) {
        code.tlbc = Some(stated.field(position, "code_object.co_tlbc", whole)?);
    }
    if let LocalNames::Joined { names, kinds, .. } = &mut layout.locals.names {
        *names = stated.field(
            at.code_localsplusnames,
            "code_object.localsplusnames",
            whole,
        )?;
        *kinds = stated.field(
            at.code_localspluskinds,
            "code_object.localspluskinds",
            whole,
        )?;
    }
    code.size = code
        .bytecode
        .map_or(whole, |bytecode| bytecode.offset() as u32)
        .max(code.size);
    Ok(())
}

/// The containers and floats.
fn overlay_values(
    layout: &mut Layout,
    at: &Positions,
    stated: &Statement<'_>,
) -> Result<(), OffsetsError> {
    let values = &mut layout.values;
    values.list_items = stated.field(at.list_ob_item, "list_object.ob_item", 256)?;
    values.tuple_items = stated.field(at.tuple_ob_item, "tuple_object.ob_item", 256)?;
    values.float = stated.field(at.float_ob_fval, "float_object.ob_fval", 256)?;
    Ok(())
}

/// The basic objects.
fn overlay_objects(
    layout: &mut Layout,
    at: &Positions,
    stated: &Statement<'_>,
) -> Result<(), OffsetsError> {
    layout.object.ob_type = stated.field(at.object_ob_type, "pyobject.ob_type", 64)?;
    layout.type_object.name = stated.field(at.type_tp_name, "type_object.tp_name", 1024)?;
    layout.type_object.flags = stated.field(at.type_tp_flags, "type_object.tp_flags", 1024)?;
    layout.object.ob_size = stated.field(at.bytes_ob_size, "bytes_object.ob_size", 64)?;
    layout.bytes.data = stated.field(at.bytes_ob_sval, "bytes_object.ob_sval", 128)?;
    layout.int.digits = stated.field(at.long_ob_digit, "long_object.ob_digit", 128)?;
    layout.int.tag = Some(stated.field(at.long_lv_tag, "long_object.lv_tag", 128)?);
    if let DictLayout::Keys { keys, values, .. } = &mut layout.dict {
        *keys = stated.field(at.dict_ma_keys, "dict_object.ma_keys", 256)?;
        *values = stated.field(at.dict_ma_values, "dict_object.ma_values", 256)?;
    }
    if let UnicodeLayout::Flexible {
        length,
        state,
        ascii_size,
        ..
    } = &mut layout.unicode
    {
        *state = stated.field(at.unicode_state, "unicode_object.state", 256)?;
        *length = stated.field(at.unicode_length, "unicode_object.length", 256)?;
        *ascii_size = stated.number(
            at.unicode_asciiobject_size,
            "unicode_object.asciiobject_size",
            256,
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sys::memory::RecordedMemory;

    /// A statement for `positions` in which every number is 8.
    fn statement(positions: &Positions) -> Vec<u8> {
        let mut bytes = vec![0; positions.size as usize];
        for number in bytes.chunks_exact_mut(8) {
            number[0] = 8;
        }
        bytes[..8].copy_from_slice(COOKIE);
        bytes[8..16]
            .copy_from_slice(&(0x0300_00f0 | u64::from(positions.minor) << 16).to_le_bytes());
        bytes
    }

    fn read_from(bytes: Vec<u8>) -> Result<Stated, OffsetsError> {
        read(
            &RecordedMemory::new().with(Address(0x1000), bytes),
            Address(0x1000),
        )
    }

    #[test]
    fn a_member_outside_its_struct_is_refused() {
        for minor in 13..=15 {
            let positions = find_positions((3, minor)).unwrap();
            // Sizes of 8 bytes leave no room for the second member of any struct.
            assert!(matches!(
                read_from(statement(positions)),
                Err(OffsetsError::Impossible { .. })
            ));
        }
    }

    #[test]
    fn other_memory_and_other_versions_are_refused() {
        assert_eq!(read_from(vec![0; 64]).unwrap_err(), OffsetsError::NoCookie);
        let mut future = statement(find_positions((3, 15)).unwrap());
        future[10] = 99;
        assert_eq!(
            read_from(future).unwrap_err(),
            OffsetsError::UnknownVersion(3, 99)
        );
        assert!(matches!(read_from(vec![]), Err(OffsetsError::Read(_))));
    }

    proptest! {
        #[test]
        fn any_statement_is_taken_or_refused(minor in 13_u8..=15, noise in proptest::collection::vec(any::<u64>(), 200)) {
            let positions = find_positions((3, minor)).unwrap();
            let mut bytes = statement(positions);
            for (number, noise) in bytes[16..].chunks_exact_mut(8).zip(noise) {
                number.copy_from_slice(&(noise >> (noise % 64)).to_le_bytes());
            }
            let _ = read_from(bytes);
        }
    }
}
