//! Making `_Py_DebugOffsets` of a version, as its own interpreter states them.

use std::sync::OnceLock;

use stuckspy::model::Address;
use stuckspy::python::layout::debug_offsets::{COOKIE, OffsetsError, Stated, read};
use stuckspy::python::layout::{
    DictLayout, FrameLayout, Layout, LocalNames, TopFrame, UnicodeLayout,
};
use stuckspy::sys::memory::RecordedMemory;

use crate::layouts;

/// Where statements are put to be read.
const AT: Address = Address(0x1000);
/// More bytes than the largest statement.
const SIZE: usize = 2048;
/// Where `free_threaded` stands.
const FREE_THREADED: usize = 16;
/// Numbers from this one on are never taken; the rest of such a number is where it stands.
const REFUSED: u64 = 0xffff_0000_0000_0000;

/// A statement that is taken, with the positions of its numbers.
pub struct Statement {
    /// The layout that it states.
    pub layout: &'static Layout,
    /// The bytes, from the cookie on.
    pub bytes: Vec<u8>,
    /// Where each number stands, in the order in which they are looked at.
    pub positions: Vec<usize>,
}

/// A statement for each version and build that makes them.
pub fn statements() -> &'static [Statement] {
    static STATEMENTS: OnceLock<Vec<Statement>> = OnceLock::new();
    STATEMENTS.get_or_init(|| {
        let stating = layouts()
            .into_iter()
            .filter(|layout| layout.version >= (3, 13));
        stating.map(make).collect()
    })
}

/// Reads a statement.
pub fn read_bytes(bytes: &[u8]) -> Result<Stated, OffsetsError> {
    read(&RecordedMemory::new().with(AT, bytes), AT)
}

/// Finds out where the numbers stand: each is refused until it is the right one, and the refusal says where it stood.
fn make(layout: &'static Layout) -> Statement {
    let mut bytes: Vec<u8> = (0..SIZE as u64)
        .step_by(8)
        .flat_map(|at| (REFUSED | at).to_le_bytes())
        .collect();
    let (major, minor) = layout.version;
    let version = u64::from(major) << 24 | u64::from(minor) << 16 | 0xf0;
    bytes[..8].copy_from_slice(COOKIE);
    bytes[8..16].copy_from_slice(&version.to_le_bytes());
    bytes[FREE_THREADED..][..8].copy_from_slice(&u64::from(layout.free_threaded).to_le_bytes());
    let mut positions = vec![FREE_THREADED];
    loop {
        match read_bytes(&bytes) {
            Ok(stated) => {
                assert_eq!(&stated.layout, layout, "what was stated is what is read");
                while read_bytes(&bytes[..bytes.len() - 8]).is_ok() {
                    bytes.truncate(bytes.len() - 8);
                }
                return Statement {
                    layout,
                    bytes,
                    positions,
                };
            }
            Err(OffsetsError::Impossible { member, value }) if value >= REFUSED => {
                let at = (value & 0xffff) as usize;
                let number = number_of(layout, member);
                bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
                positions.push(at);
            }
            Err(error) => panic!("{:?}: {error}", layout.version),
        }
    }
}

/// What a member is in the layout.
fn number_of(layout: &Layout, member: &str) -> u64 {
    let runtime = layout.runtime.as_ref().expect("a runtime");
    let gil = layout.gil.as_ref().expect("a GIL");
    let (interpreter, thread, code) = (&layout.interpreter, &layout.thread, &layout.code);
    let FrameLayout::Interpreter(frame) = &layout.frame else {
        panic!("frames of 3.11+")
    };
    let TopFrame::Direct(current_frame) = thread.top else {
        panic!("threads of 3.13+")
    };
    let DictLayout::Keys { keys, values, .. } = &layout.dict else {
        panic!("dicts of 3.6+")
    };
    let UnicodeLayout::Flexible {
        length,
        state,
        ascii_size,
        ..
    } = &layout.unicode
    else {
        panic!("texts of 3.3+")
    };
    let known = "a member of this version";
    match member {
        "runtime_state.size" => u64::from(runtime.size),
        "runtime_state.interpreters_head" => runtime.interpreters_head.offset(),
        "interpreter_state.size" => u64::from(interpreter.size),
        "interpreter_state.next" => interpreter.next.offset(),
        "interpreter_state.id" => interpreter.id.expect(known).offset(),
        "interpreter_state.threads_head" => interpreter.threads_head.offset(),
        "interpreter_state.imports_modules" => interpreter.modules.offset(),
        "interpreter_state.ceval_gil" => interpreter.gil.expect(known).offset(),
        "gil_runtime_state" => 0,
        "gil_runtime_state_locked" => gil.locked.offset(),
        "gil_runtime_state_holder" => gil.last_holder.offset(),
        "thread_state.size" => u64::from(thread.size),
        "thread_state.next" => thread.next.offset(),
        "thread_state.interp" => thread.interp.offset(),
        "thread_state.thread_id" => thread.thread_id.offset(),
        "thread_state.native_thread_id" => thread.native_thread_id.expect(known).offset(),
        "thread_state.current_frame" => current_frame.offset(),
        "thread_state.datastack_chunk" => thread.datastack_chunk.expect(known).offset(),
        "interpreter_frame.size" | "interpreter_frame.localsplus" => u64::from(frame.size),
        "interpreter_frame.previous" => frame.previous.offset(),
        "interpreter_frame.executable" => frame.code.offset(),
        "interpreter_frame.instr_ptr" => frame.instruction.offset(),
        "interpreter_frame.owner" => frame.owner.offset(),
        "interpreter_frame.tlbc_index" => frame.tlbc_index.expect(known).offset(),
        // The size counts one code unit, as `sizeof` does.
        "code_object.size" => u64::from(code.size) + 8,
        "code_object.filename" => code.filename.offset(),
        "code_object.name" => code.name.offset(),
        "code_object.qualname" => code.qualname.expect(known).offset(),
        "code_object.linetable" => code.linetable.offset(),
        "code_object.firstlineno" => code.firstlineno.offset(),
        "code_object.co_code_adaptive" => code.bytecode.expect(known).offset(),
        "code_object.co_tlbc" => code.tlbc.expect(known).offset(),
        "code_object.localsplusnames" | "code_object.localspluskinds" => {
            let LocalNames::Joined { names, kinds, .. } = &layout.locals.names else {
                panic!("names of 3.11+")
            };
            let is_names = member.ends_with("names");
            if is_names { names } else { kinds }.offset()
        }
        "list_object.ob_item" => layout.values.list_items.offset(),
        "tuple_object.ob_item" => layout.values.tuple_items.offset(),
        "float_object.ob_fval" => layout.values.float.offset(),
        "pyobject.ob_type" => layout.object.ob_type.offset(),
        "type_object.tp_name" => layout.type_object.name.offset(),
        "type_object.tp_flags" => layout.type_object.flags.offset(),
        "bytes_object.ob_size" => layout.object.ob_size.offset(),
        "bytes_object.ob_sval" => layout.bytes.data.offset(),
        "long_object.ob_digit" => layout.int.digits.offset(),
        "long_object.lv_tag" => layout.int.tag.expect(known).offset(),
        "dict_object.ma_keys" => keys.offset(),
        "dict_object.ma_values" => values.offset(),
        "unicode_object.state" => state.offset(),
        "unicode_object.length" => length.offset(),
        "unicode_object.asciiobject_size" => u64::from(*ascii_size),
        _ => panic!("{member} is new: say here what it is"),
    }
}
