//! What the frames of a stack refer to: references that they own for sure, and such as they may own or borrow.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::model::{Address, Frame};
use crate::python::asyncio::top_of_stack;
use crate::python::frame::FramePlace;
use crate::python::layout::{EvaluationLayout, FrameLayout};
use crate::python::object::{ObjectError, ObjectReader, offset};
use crate::sys::memory::ReadError;

/// Most frames of one stack whose references are read.
const MAX_FRAMES: usize = 512;
/// Most slots of one frame, variables and value stack.
const MAX_SLOTS: u64 = 512;
/// Bits of a slot that are no part of the address (3.14+, `Py_TAG_BITS` in `Include/internal/pycore_stackref.h`).
const TAGS: u64 = 3;
/// `CALL_FUNCTION` and `CALL_FUNCTION_KW` (`Include/opcode.h`, 3.6-3.10), `CALL_METHOD` (3.7-3.10), and `CALL_FUNCTION_EX` (3.6-3.12; `Include/opcode_ids.h`, 3.13).
const CALL_FUNCTION: u8 = 131;
const CALL_FUNCTION_KW: u8 = 141;
const CALL_METHOD: u8 = 161;
const CALL_FUNCTION_EX: u8 = 142;
const CALL_FUNCTION_EX_OF_13: u8 = 54;

/// What one frame refers to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FrameReferences {
    /// Each of these is one counted reference of the frame.
    pub owned: SmallVec<[Address; 8]>,
    /// The frame may refer to these: slots of a value stack whose height is not known hold what was there before, too, and
    /// a borrowed reference is not counted (3.14+).
    pub loose: SmallVec<[Address; 8]>,
    /// The first variable, `self` in methods; null where it has no value.
    pub first: Address,
    /// The globals of its function.
    pub globals: Address,
    /// Whether the height of its value stack is known.
    pub is_height_known: bool,
}

/// What the frames of one stack refer to, innermost first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StackReferences {
    /// One for each frame that is no marker.
    pub frames: Vec<FrameReferences>,
    /// Whether there is more than was read.
    pub is_cut: bool,
}

/// Reads what the frames at `places`, innermost first, refer to.
pub fn read_references(reader: ObjectReader<'_>, places: &[FramePlace]) -> StackReferences {
    let mut stack = StackReferences {
        frames: Vec::with_capacity(places.len().min(MAX_FRAMES)),
        is_cut: places.len() > MAX_FRAMES,
    };
    for (index, place) in places.iter().take(MAX_FRAMES).enumerate() {
        let callee = index.checked_sub(1).and_then(|inner| places.get(inner));
        let mut frame = FrameReferences::default();
        if read_frame(reader, place, callee, &mut frame).is_err() {
            stack.is_cut = true;
        }
        stack.frames.push(frame);
    }
    stack
}

fn read_frame(
    reader: ObjectReader<'_>,
    place: &FramePlace,
    callee: Option<&FramePlace>,
    frame: &mut FrameReferences,
) -> Result<(), ObjectError> {
    let (size, globals) = match &reader.layout.frame {
        FrameLayout::Object(layout) => (layout.size, layout.globals),
        FrameLayout::Interpreter(layout) => (layout.size, layout.globals),
    };
    frame.globals = reader.pointer(place.frame, globals)?;
    let first = offset(place.frame, u64::from(size))?;
    let too_many = |count: u64| ObjectError::from(ReadError::TooLarge(count));
    let (variables, stack_size) = match reader.layout.evaluation {
        EvaluationLayout::Blocks {
            value_stack,
            stack_size,
            ..
        } => {
            let base = reader.field(place.frame, value_stack)?;
            let bytes = base.checked_sub(first).ok_or(too_many(0))?;
            (bytes / 8, reader.field(place.code, stack_size)?)
        }
        EvaluationLayout::Table {
            locals, stack_size, ..
        } => {
            let count = reader.field(place.code, locals)?;
            let count = u64::try_from(count).map_err(|_| too_many(0))?;
            (count, reader.field(place.code, stack_size)?)
        }
    };
    let count = variables.saturating_add(u64::try_from(stack_size).unwrap_or(0));
    if count > MAX_SLOTS {
        return Err(too_many(count));
    }
    let bytes = reader.memory.read_vec(first, 8 * count, 8 * MAX_SLOTS)?;
    let slots: SmallVec<[u64; 32]> = bytes
        .chunks_exact(8)
        .map(|chunk| {
            chunk
                .first_chunk()
                .map_or(0, |word| u64::from_le_bytes(*word))
        })
        .collect();
    let variables = usize::try_from(variables).unwrap_or(0).min(slots.len());
    let (locals, stack) = slots.split_at(variables);
    frame.first = locals
        .first()
        .map_or(Address::NULL, |word| Address(*word).untagged());
    let height = match stated_height(reader, place, first, variables) {
        Some(height) => Some(height),
        None => called_height(reader, place, callee, stack),
    };
    let height = height.filter(|height| *height <= stack.len());
    frame.is_height_known = height.is_some();
    let live = stack.get(..height.unwrap_or(0)).unwrap_or_default();
    for word in locals.iter().chain(live) {
        frame.add(reader, *word);
    }
    if height.is_none() {
        for word in stack {
            frame.add_loose(*word);
        }
    }
    if let Some(function) = reader.layout.references.frame_function {
        let function: Address = reader.field(place.frame, function)?;
        frame.add(reader, function.0);
    }
    Ok(())
}

impl FrameReferences {
    /// A slot whose content is live.
    fn add(&mut self, reader: ObjectReader<'_>, word: u64) {
        // A number, or a reference that is borrowed or not counted (`Include/internal/pycore_stackref.h`, 3.14-3.15).
        if word & TAGS != 0 || reader.layout.free_threaded {
            return self.add_loose(word);
        }
        if word != 0 {
            self.owned.push(Address(word));
        }
    }

    fn add_loose(&mut self, word: u64) {
        let address = Address(word & !TAGS);
        if word & TAGS != TAGS && !address.is_null() {
            self.loose.push(address);
        }
    }

    /// Takes one reference for owned that was not known to be.
    fn settle(&mut self, address: Address) {
        if let Some(at) = self.loose.iter().position(|loose| *loose == address) {
            self.loose.remove(at);
            self.owned.push(address);
        }
    }
}

/// How many values are on the stack of a frame that states it, since it waits for a function that it has called: for one in Python (3.11-3.13), or
/// for any (3.14+).
fn stated_height(
    reader: ObjectReader<'_>,
    place: &FramePlace,
    first: Address,
    variables: usize,
) -> Option<usize> {
    let layout = reader.layout.asyncio.as_ref()?;
    let top = top_of_stack(reader, layout, place.frame).ok().flatten()?;
    let slots = usize::try_from(top.checked_sub(first)? / 8).ok()?;
    slots.checked_sub(variables)
}

/// The same of a frame that does not state it while it runs (3.8-3.13; from 3.11 on that is so only if C code has called the function): the function
/// that it has called, and its arguments, are on top of the stack until it returns. Where that function is found in one place, that place is it.
fn called_height(
    reader: ObjectReader<'_>,
    place: &FramePlace,
    callee: Option<&FramePlace>,
    stack: &[u64],
) -> Option<usize> {
    let callee = callee?;
    let (opcode, argument) = read_instruction(reader, place)?;
    let runs = |at: usize| {
        let word = stack.get(at).filter(|word| **word & TAGS == 0);
        word.is_some_and(|word| runs_code(reader, Address(*word), callee.code) == Some(true))
    };
    let is_of = |at: usize, type_name: &str| {
        let object = stack.get(at).map(|word| Address(*word));
        let of = object.and_then(|object| reader.type_of(object).ok());
        of.is_some_and(|of| reader.type_name(of).is_ok_and(|name| name == type_name))
    };
    let version = reader.layout.version;
    let is_old = version <= (3, 10);
    let is_spread = opcode == CALL_FUNCTION_EX && version <= (3, 12)
        || opcode == CALL_FUNCTION_EX_OF_13 && version == (3, 13);
    let is_head = |at: usize| match opcode {
        // The names of arguments are taken off before the call.
        CALL_FUNCTION | CALL_FUNCTION_KW if is_old => runs(at),
        // Either a function with the object that it is a method of, or nothing with a callable.
        CALL_METHOD if is_old => match stack.get(at) {
            Some(0) => runs(at + 1),
            _ => runs(at) && stack.get(at + 1).is_some_and(|object| *object != 0),
        },
        // The function, its arguments, and those by name if there are some.
        _ if is_spread => {
            runs(at) && is_of(at + 1, "tuple") && (argument & 1 == 0 || is_of(at + 2, "dict"))
        }
        _ => false,
    };
    let size = match opcode {
        CALL_FUNCTION | CALL_FUNCTION_KW if is_old => 1 + usize::from(argument),
        CALL_METHOD if is_old => 2 + usize::from(argument),
        _ if is_spread => 2 + usize::from(argument & 1),
        _ => return None,
    };
    let mut heads = (0..stack.len()).filter(|at| is_head(*at));
    let head = heads.next()?;
    let is_only = heads.next().is_none();
    is_only.then_some(head + size)
}

/// The instruction that a frame is in, and its argument.
fn read_instruction(reader: ObjectReader<'_>, place: &FramePlace) -> Option<(u8, u8)> {
    let last = u64::try_from(place.lasti).ok()?;
    // Counted in bytes up to 3.9, in code units from 3.10 on.
    let at = match (place.info.bytecode, reader.layout.asyncio) {
        (Some(first), _) => offset(first, 2 * last),
        (None, Some(layout)) => {
            let code = reader
                .pointer(place.code, layout.generator.bytecode?)
                .ok()?;
            let data = offset(code, reader.layout.bytes.data.offset()).ok()?;
            let is_in_units = reader.layout.version >= (3, 10);
            offset(data, if is_in_units { 2 * last } else { last })
        }
        _ => return None,
    };
    let mut instruction = [0; 2];
    reader.memory.read(at.ok()?, &mut instruction).ok()?;
    Some((instruction[0], instruction[1]))
}

/// Whether the object is a function with this code, or a method of one.
fn runs_code(reader: ObjectReader<'_>, object: Address, code: Address) -> Option<bool> {
    if object.is_null() {
        return None;
    }
    let name = reader.type_name(reader.type_of(object).ok()?).ok()?;
    let function = match name.as_str() {
        "function" => object,
        // `PyMethodObject.im_func` stands before `im_self` (`Include/cpython/classobject.h`).
        "method" => {
            let own = reader.layout.locks.method_self.offset();
            let at = offset(object, own.checked_sub(8)?).ok()?;
            reader.memory.read_address(at).ok()?
        }
        _ => return Some(false),
    };
    let layout = reader.layout.references.function;
    Some(reader.pointer(function, layout.code).ok()? == code)
}

/// Counts what the frame of `Thread.run` keeps on its value stack: the function that the thread was started with, and its arguments
/// (`Lib/threading.py`, 3.8-3.15: `self._target(*self._args, **self._kwargs)`).
pub fn settle_start(
    reader: ObjectReader<'_>,
    frames: &[Arc<Frame>],
    references: &mut StackReferences,
) {
    for (frame, references) in frames.iter().zip(&mut references.frames) {
        let is_run = frame.module.as_deref() == Some("threading")
            && frame.function.rsplit('.').next() == Some("run");
        if !is_run || references.is_height_known || references.first.is_null() {
            continue;
        }
        for name in ["_target", "_args"] {
            if let Ok(Some(object)) = reader.attribute(references.first, name) {
                references.settle(object.untagged());
            }
        }
    }
}
