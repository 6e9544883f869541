//! What a frame keeps on its value stack: the context managers of the `with` statements that it is inside of, and its locals.
//!
//! While a frame runs, nothing says how high its value stack is. But a frame inside `with manager:` keeps the manager's
//! `__exit__` at a depth that its block stack (<= 3.10) or its code's table of handlers (3.11+) states.

use smallvec::SmallVec;

use super::frame::FramePlace;
use super::layout::{EvaluationLayout, FrameLayout};
use super::object::{ObjectError, ObjectReader, offset};
use crate::model::Address;
use crate::sys::memory::ReadError;

/// Most blocks of a frame: `CO_MAXBLOCKS` (`Include/code.h`, 2.7-3.10).
const MAX_BLOCKS: u64 = 20;
/// Most handlers around one instruction: each level of `with` has two.
const MAX_HANDLERS: usize = 256;
/// Most bytes of a table of handlers.
const MAX_TABLE: u64 = 1 << 20;
/// Most slots of a frame's locals and values that are looked at.
const MAX_SLOTS: u64 = 4096;
/// Most locals of one frame that are looked at.
const MAX_LOCALS: u64 = 64;
/// Most frames of one stack that are looked into.
const MAX_FRAMES: usize = 4096;
/// Frames whose locals are taken too.
const FRAMES_WITH_LOCALS: usize = 64;

/// What one frame holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FrameValues {
    /// The managers of its open `with` statements, whose `__enter__` has returned; innermost first.
    pub managers: SmallVec<[Address; 2]>,
    /// Its first locals, null where one has no value; only of the innermost frames.
    pub locals: SmallVec<[Address; 8]>,
}

/// What the frames of one stack hold, innermost first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StackValues {
    /// As many as there are frames that are no markers, but at most 4,096.
    pub frames: Vec<FrameValues>,
    /// All slots of the innermost frame's value stack, those above its top too, which hold what was there before.
    pub innermost: Vec<Address>,
}

/// One entry of a table of handlers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handler {
    /// The first code unit that it is for.
    pub start: u64,
    /// How many code units.
    pub length: u64,
    /// The code unit that handles exceptions.
    pub target: u64,
    /// How many values stay on the stack.
    pub depth: u64,
    /// Whether the instruction is put on the stack too: so it is for `with` statements, and for the end of other handlers.
    pub keeps_instruction: bool,
}

/// Reads what the frames at `places` hold. Frames that can't be read hold nothing.
pub fn read_values(reader: ObjectReader<'_>, places: &[FramePlace]) -> StackValues {
    let frames = places.iter().take(MAX_FRAMES).enumerate();
    let frames = frames
        .map(|(index, place)| {
            let locals = if index < FRAMES_WITH_LOCALS {
                read_locals(reader, place).unwrap_or_default()
            } else {
                SmallVec::new()
            };
            FrameValues {
                managers: read_managers(reader, place).unwrap_or_default(),
                locals,
            }
        })
        .collect();
    let innermost = places
        .first()
        .and_then(|place| read_stack_slots(reader, place).ok());
    StackValues {
        frames,
        innermost: innermost.unwrap_or_default(),
    }
}

/// Where the frame's locals begin.
fn first_local(reader: ObjectReader<'_>, place: &FramePlace) -> Result<Address, ObjectError> {
    let size = match &reader.layout.frame {
        FrameLayout::Object(layout) => layout.size,
        FrameLayout::Interpreter(layout) => layout.size,
    };
    offset(place.frame, u64::from(size))
}

/// Where the frame's value stack begins, and how many slots are before it.
fn stack_base(reader: ObjectReader<'_>, place: &FramePlace) -> Result<(Address, u64), ObjectError> {
    let garbage = ObjectError::Garbage {
        address: place.frame,
        what: "number of locals",
    };
    let first = first_local(reader, place)?;
    match reader.layout.evaluation {
        EvaluationLayout::Blocks { value_stack, .. } => {
            let base = reader.field(place.frame, value_stack)?;
            let bytes = base.checked_sub(first).ok_or(garbage.clone())?;
            match bytes / 8 {
                count if bytes % 8 == 0 && count <= MAX_SLOTS => Ok((base, count)),
                _ => Err(garbage),
            }
        }
        EvaluationLayout::Table { locals, .. } => {
            let count = u64::try_from(reader.field(place.code, locals)?);
            match count {
                Ok(count) if count <= MAX_SLOTS => Ok((offset(first, 8 * count)?, count)),
                _ => Err(garbage),
            }
        }
    }
}

fn read_slots(reader: ObjectReader<'_>, at: Address, count: u64) -> Result<Vec<u8>, ReadError> {
    reader.memory.read_vec(at, 8 * count, 8 * MAX_SLOTS)
}

fn addresses(bytes: &[u8]) -> impl Iterator<Item = Address> + '_ {
    bytes.chunks_exact(8).map(|chunk| {
        let word = chunk
            .first_chunk()
            .map_or(0, |word| u64::from_le_bytes(*word));
        Address(word).untagged()
    })
}

fn read_locals(
    reader: ObjectReader<'_>,
    place: &FramePlace,
) -> Result<SmallVec<[Address; 8]>, ObjectError> {
    let (_, count) = stack_base(reader, place)?;
    let first = first_local(reader, place)?;
    let bytes = read_slots(reader, first, count.min(MAX_LOCALS))?;
    Ok(addresses(&bytes).collect())
}

fn read_stack_slots(
    reader: ObjectReader<'_>,
    place: &FramePlace,
) -> Result<Vec<Address>, ObjectError> {
    let (base, _) = stack_base(reader, place)?;
    let (EvaluationLayout::Blocks { stack_size, .. } | EvaluationLayout::Table { stack_size, .. }) =
        reader.layout.evaluation;
    let size = u64::try_from(reader.field(place.code, stack_size)?).unwrap_or(0);
    let bytes = read_slots(reader, base, size.min(MAX_SLOTS))?;
    Ok(addresses(&bytes).collect())
}

/// The managers of the open `with` statements of a frame, innermost first.
fn read_managers(
    reader: ObjectReader<'_>,
    place: &FramePlace,
) -> Result<SmallVec<[Address; 2]>, ObjectError> {
    let mut managers = SmallVec::new();
    let mut depths = match reader.layout.evaluation {
        EvaluationLayout::Blocks { .. } => block_levels(reader, place)?,
        EvaluationLayout::Table { .. } => handler_depths(reader, place)?,
    };
    if depths.is_empty() {
        return Ok(managers);
    }
    depths.sort_unstable_by(|one, other| other.cmp(one));
    depths.dedup();
    let (base, _) = stack_base(reader, place)?;
    for depth in depths {
        // Below each block or handler of a `with` lies what its end calls.
        let Some(index) = depth.checked_sub(1) else {
            continue;
        };
        let slot = offset(base, 8 * index)?;
        let on_top = reader.memory.read_address(slot)?.untagged();
        let manager = if reader.layout.version >= (3, 14) {
            // `Python/bytecodes.c::WITH_EXCEPT_START` (3.14): the function, and above it what it is a method of.
            match on_top {
                Address::NULL if index > 0 => {
                    let function = reader.memory.read_address(offset(base, 8 * (index - 1))?)?;
                    reader.bound_to(function.untagged())
                }
                _ => Some(on_top),
            }
        } else {
            reader.bound_to(on_top)
        };
        managers.extend(manager);
    }
    Ok(managers)
}

/// The levels of a frame's blocks (<= 3.10).
fn block_levels(
    reader: ObjectReader<'_>,
    place: &FramePlace,
) -> Result<SmallVec<[u64; 8]>, ObjectError> {
    let EvaluationLayout::Blocks {
        block_count,
        blocks,
        block_size,
        level,
        ..
    } = reader.layout.evaluation
    else {
        return Ok(SmallVec::new());
    };
    let count = u64::try_from(reader.field(place.frame, block_count)?).unwrap_or(0);
    let first = offset(place.frame, blocks.offset())?;
    let levels = (0..count.min(MAX_BLOCKS)).map(|index| {
        let block = offset(first, index * u64::from(block_size))?;
        let level = u64::try_from(reader.field(block, level)?).unwrap_or(0);
        Ok(if level <= MAX_SLOTS { level } else { 0 })
    });
    levels.collect()
}

/// The depths of all handlers around a frame's instruction that keep the instruction, from the innermost outwards (3.11+).
/// What a handler itself does when an exception comes is in turn handled by the one around it.
fn handler_depths(
    reader: ObjectReader<'_>,
    place: &FramePlace,
) -> Result<SmallVec<[u64; 8]>, ObjectError> {
    let mut depths = SmallVec::new();
    let EvaluationLayout::Table {
        exception_table, ..
    } = reader.layout.evaluation
    else {
        return Ok(depths);
    };
    let table = reader.pointer(place.code, exception_table)?;
    let table = reader.bytes(table, MAX_TABLE)?;
    let Ok(mut unit) = u64::try_from(place.lasti) else {
        return Ok(depths);
    };
    let mut height = MAX_SLOTS;
    for _ in 0..MAX_HANDLERS {
        let Some(handler) = find_handler(&table, unit) else {
            break;
        };
        // What lies above the lowest handler so far would be put there by a handler when it runs; now, other things are there.
        if handler.depth <= height {
            height = handler.depth;
            if handler.keeps_instruction {
                depths.push(handler.depth);
            }
        }
        unit = handler.target;
    }
    Ok(depths)
}

/// The entry of a table of handlers that is for the code unit `unit`.
///
/// `Objects/exception_handling_notes.txt` (3.11): entries in ascending order, each of four numbers in groups of six bits, the
/// first byte of an entry marked by the highest bit, and each byte but the last of a number by the next.
pub fn find_handler(table: &[u8], unit: u64) -> Option<Handler> {
    let mut rest = table;
    while !rest.is_empty() {
        let start = take_number(&mut rest)?;
        let length = take_number(&mut rest)?;
        let target = take_number(&mut rest)?;
        let depth = take_number(&mut rest)?;
        if start > unit {
            return None;
        }
        if unit - start < length {
            return Some(Handler {
                start,
                length,
                target,
                depth: depth >> 1,
                keeps_instruction: depth & 1 == 1,
            });
        }
    }
    None
}

fn take_number(rest: &mut &[u8]) -> Option<u64> {
    let mut value: u64 = 0;
    loop {
        let (byte, tail) = rest.split_first()?;
        *rest = tail;
        // Numbers of code units are far below 2^32; longer ones lose their upper bits, which only garbage has.
        value = (value << 6 | u64::from(byte & 0x3f)) & 0xffff_ffff;
        if byte & 0x40 == 0 {
            return Some(value);
        }
    }
}

impl ObjectReader<'_> {
    /// What a bound method is a method of: of one in Python (`PyMethodObject`), or in C (`PyCFunctionObject`).
    pub fn bound_to(&self, method: Address) -> Option<Address> {
        let name = self.type_name(self.type_of(method).ok()?).ok()?;
        let layout = &self.layout.locks;
        let field = match name.as_str() {
            "builtin_function_or_method" | "builtin_method" => layout.function_self,
            "method" | "instancemethod" => layout.method_self,
            _ => return None,
        };
        let object = self.pointer(method, field).ok()?;
        (!object.is_null()).then_some(object)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::python::code::CodeCache;
    use crate::python::testing::{Builder, all_layouts};

    fn number(value: u64, first: bool) -> Vec<u8> {
        let mut groups = vec![(value & 0x3f) as u8];
        let mut rest = value >> 6;
        while rest > 0 {
            groups.push((rest & 0x3f) as u8 | 0x40);
            rest >>= 6;
        }
        groups.reverse();
        groups[0] |= if first { 0x80 } else { 0 };
        groups
    }

    fn table(entries: &[(u64, u64, u64, u64, bool)]) -> Vec<u8> {
        let entry = |&(start, length, target, depth, keeps): &(u64, u64, u64, u64, bool)| {
            let last = depth << 1 | u64::from(keeps);
            let numbers = [
                (start, true),
                (length, false),
                (target, false),
                (last, false),
            ];
            numbers.map(|(value, first)| number(value, first)).concat()
        };
        entries.iter().flat_map(entry).collect()
    }

    proptest! {
        #[test]
        fn handlers_are_found_where_they_are(
            sizes in proptest::collection::vec((0_u64..300, 1_u64..5000, 0_u64..1 << 20, 0_u64..100, any::<bool>()), 1..40),
            unit in 0_u64..100_000,
        ) {
            let mut at = 0;
            let entries: Vec<_> = sizes.into_iter().map(|(gap, length, target, depth, keeps)| {
                let start = at + gap;
                at = start + length;
                (start, length, target, depth, keeps)
            }).collect();
            let expected = entries.iter().find(|entry| entry.0 <= unit && unit < entry.0 + entry.1);
            let found = find_handler(&table(&entries), unit);
            prop_assert_eq!(
                found.map(|found| (found.start, found.length, found.target, found.depth, found.keeps_instruction)),
                expected.copied()
            );
        }

        #[test]
        fn garbage_is_no_handler_or_some(bytes in proptest::collection::vec(any::<u8>(), 0..200), unit in any::<u64>()) {
            let _ = find_handler(&bytes, unit);
        }

        #[test]
        fn frames_of_garbage_hold_nothing_or_something(bytes in proptest::collection::vec(any::<u8>(), 600..1200), lasti in any::<i32>()) {
            for layout in all_layouts() {
                let mut builder = Builder::new(layout);
                let code = builder.code("f", "/f.py", 1);
                let info = CodeCache::new(1 << 20).load(ObjectReader { memory: &builder, layout }, code).unwrap();
                let frame = builder.put(&bytes);
                for code in [code, frame] {
                    let place = FramePlace { frame, code, info: Arc::clone(&info), lasti };
                    let _ = read_values(ObjectReader { memory: &builder, layout }, &[place]);
                }
            }
        }
    }

    /// A frame inside two `with` statements, with what lies on its stack: the outer manager, the inner one, rubbish.
    #[test]
    fn managers_of_open_with_statements_on_every_version() {
        for layout in all_layouts() {
            let mut builder = Builder::new(layout);
            let code = builder.code("f", "/f.py", 1);
            let (outer, inner) = (builder.text("outer"), builder.text("inner"));
            let slots: Vec<u64> = if layout.version >= (3, 14) {
                vec![1, outer.0, 2, inner.0, 0xdead]
            } else {
                let bound = [outer, inner].map(|manager| builder.bound_method(manager).0);
                vec![bound[0], bound[1], 0xdead]
            };
            let depth = slots.len() as u64 - 1;
            let half = depth / 2;
            let size = match &layout.frame {
                FrameLayout::Object(frame) => frame.size,
                FrameLayout::Interpreter(frame) => frame.size,
            };
            let frame = builder.put(&vec![0; size as usize + 8 * 16]);
            let base = Address(frame.0 + u64::from(size) + 8);
            builder.overwrite(Address(base.0 - 8), &0x77_u64.to_le_bytes());
            for (index, slot) in slots.iter().enumerate() {
                builder.overwrite(Address(base.0 + 8 * index as u64), &slot.to_le_bytes());
            }
            match layout.evaluation {
                EvaluationLayout::Blocks {
                    value_stack,
                    block_count,
                    blocks,
                    block_size,
                    level,
                    stack_size,
                } => {
                    builder.set(frame, value_stack, base.0);
                    builder.set(frame, block_count, 2);
                    let first = Address(frame.0 + blocks.offset());
                    builder.set(first, level, half);
                    builder.set(Address(first.0 + u64::from(block_size)), level, depth);
                    builder.set(code, stack_size, 8);
                }
                EvaluationLayout::Table {
                    exception_table,
                    locals,
                    stack_size,
                } => {
                    // The handler of the inner one, at 20, is itself in reach of the one of the outer, by way of its own end.
                    let entries = [
                        (2, 8, 20, depth, true),
                        (20, 4, 30, depth + 1, true),
                        (30, 2, 40, half, true),
                    ];
                    let table = builder.bytes(&table(&entries));
                    builder.set(code, exception_table, table.0);
                    builder.set(code, locals, 1);
                    builder.set(code, stack_size, 8);
                }
            }
            let reader = ObjectReader {
                memory: &builder,
                layout,
            };
            let info = CodeCache::new(1 << 20).load(reader, code).unwrap();
            let place = |lasti| FramePlace {
                frame,
                code,
                info: Arc::clone(&info),
                lasti,
            };
            let values = read_values(reader, &[place(4)]);
            assert_eq!(
                values.frames[0].managers.as_slice(),
                [inner, outer],
                "{:?}",
                layout.version
            );
            assert_eq!(
                values.frames[0].locals.as_slice(),
                [Address(0x77).untagged()]
            );
            assert_eq!(values.innermost.len(), 8);
            if matches!(layout.evaluation, EvaluationLayout::Table { .. }) {
                assert!(
                    read_values(reader, &[place(1)]).frames[0]
                        .managers
                        .is_empty()
                );
                assert!(
                    read_values(reader, &[place(-1)]).frames[0]
                        .managers
                        .is_empty()
                );
            }
        }
    }
}
