//! The local variables of one frame, by name: where their objects are. What these are is not looked at.

use rustc_hash::FxHashMap;

use super::frame::FramePlace;
use super::layout::{FrameLayout, LocalNames};
use super::object::{FLAG_TUPLE_SUBCLASS, ObjectError, ObjectReader, offset};
use crate::model::Address;

/// Most local variables of a frame that are read; of more, the rest are left out.
pub const MAX_LOCALS: usize = 512;
/// Most variables that a code object can have: what says more is none.
const MAX_STATED: u64 = 1 << 16;
/// Longest name of a variable that is read, in code points.
const MAX_NAME: u64 = 256;

/// `co_flags` (`Include/code.h`; `Include/cpython/code.h` from 3.8 on; the same in 2.7 and 3.6-3.15).
const CO_OPTIMIZED: i32 = 1;
const CO_VARARGS: i32 = 4;
const CO_VARKEYWORDS: i32 = 8;
/// `CO_FAST_CELL` and `CO_FAST_FREE` (`Include/internal/pycore_code.h`, 3.11-3.15).
const KINDS_IN_CELLS: u8 = 0x40 | 0x80;

/// A local variable that has a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalVariable {
    /// Its name.
    pub name: String,
    /// Whether it is an argument of the function.
    pub is_argument: bool,
    /// What it holds.
    pub holds: Held,
}

/// What a variable of a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// An object.
    Object(Address),
    /// A number that is no object (3.14+, `Include/internal/pycore_stackref.h::PyStackRef_TagInt`).
    Number(i64),
}

impl LocalVariable {
    /// The object, if it holds one.
    pub fn object(&self) -> Option<Address> {
        match self.holds {
            Held::Object(address) => Some(address),
            Held::Number(_) => None,
        }
    }
}

/// One variable as the frame has it: its name, a slot, and whether the slot may hold a cell.
struct NamedSlot {
    name: Address,
    slot: u64,
    may_be_cell: bool,
    is_argument: bool,
}

/// The local variables of a frame that have a value: arguments first, then in the order of the code object, at most 512.
///
/// Variables shared with inner or outer functions are among them, with what their cell holds. A class body's are those
/// of its namespace; a module's are its globals, and told only if asked for.
pub fn read_locals(
    reader: ObjectReader<'_>,
    place: &FramePlace,
    with_globals: bool,
) -> Result<Vec<LocalVariable>, ObjectError> {
    let mut found = read_locals_at(reader, place.frame, place.code)?;
    if reader.field(place.code, reader.layout.locals.flags)? & CO_OPTIMIZED == 0 {
        add_namespace(reader, place.frame, with_globals, &mut found)?;
    }
    Ok(found)
}

/// The same for the frame at `frame` that runs the code object at `code`.
pub fn read_locals_at(
    reader: ObjectReader<'_>,
    frame: Address,
    code: Address,
) -> Result<Vec<LocalVariable>, ObjectError> {
    let layout = &reader.layout.locals;
    let flags = reader.field(code, layout.flags)?;
    let slots = read_slots(reader, frame, code, flags)?;
    let mut found: Vec<(Address, LocalVariable)> = Vec::new();
    let mut cell_type = None;
    for slot in slots.into_iter().take(MAX_LOCALS) {
        let Some(mut holds) = held(layout.int_tag, slot.slot) else {
            continue;
        };
        if slot.may_be_cell
            && let Held::Object(object) = holds
            && is_cell(reader, object, &mut cell_type)?
        {
            match reader.pointer(object, reader.layout.values.cell)? {
                Address::NULL => continue,
                content => holds = Held::Object(content),
            }
        }
        // The names of a variable's places are the same object, or at least of the same text; the last one holds.
        let name = read_name(reader, slot.name)?;
        let known = found
            .iter_mut()
            .find(|(at, local)| *at == slot.name || local.name == name);
        if let Some((_, local)) = known {
            local.holds = holds;
            continue;
        }
        let variable = LocalVariable {
            name,
            is_argument: slot.is_argument,
            holds,
        };
        found.push((slot.name, variable));
    }
    let mut found: Vec<_> = found.into_iter().map(|(_, variable)| variable).collect();
    found.sort_by_key(|variable| !variable.is_argument);
    Ok(found)
}

fn read_slots(
    reader: ObjectReader<'_>,
    frame: Address,
    code: Address,
    flags: i32,
) -> Result<Vec<NamedSlot>, ObjectError> {
    let layout = &reader.layout.locals;
    let mut arguments = u64::try_from(reader.field(code, layout.argcount)?).unwrap_or(0);
    if let Some(kwonly) = layout.kwonlyargcount {
        arguments += u64::try_from(reader.field(code, kwonly)?).unwrap_or(0);
    }
    arguments += u64::from(flags & CO_VARARGS != 0) + u64::from(flags & CO_VARKEYWORDS != 0);
    let mut names = Vec::new();
    match layout.names {
        LocalNames::Split {
            nlocals,
            varnames,
            cellvars,
            freevars,
        } => {
            let plain = read_tuple(reader, reader.pointer(code, varnames)?)?;
            if i64::from(reader.field(code, nlocals)?).cast_unsigned() != plain.len() as u64 {
                return Err(garbage(code, "number of its variables"));
            }
            names.extend(plain.into_iter().map(|name| (name, false)));
            for field in [cellvars, freevars] {
                let cells = read_tuple(reader, reader.pointer(code, field)?)?;
                names.extend(cells.into_iter().map(|name| (name, true)));
            }
        }
        LocalNames::Joined {
            count,
            names: at,
            kinds,
        } => {
            let all = read_tuple(reader, reader.pointer(code, at)?)?;
            let kinds = reader.bytes(reader.pointer(code, kinds)?, MAX_STATED)?;
            let count = i64::from(reader.field(code, count)?).cast_unsigned();
            if all.len() as u64 != count || kinds.len() != all.len() {
                return Err(garbage(code, "number of its variables"));
            }
            let in_cell = kinds.iter().map(|kind| kind & KINDS_IN_CELLS != 0);
            names.extend(all.into_iter().zip(in_cell));
        }
    }
    let first = match &reader.layout.frame {
        FrameLayout::Object(layout) => layout.size,
        FrameLayout::Interpreter(layout) => layout.size,
    };
    let bytes = reader.memory.read_vec(
        offset(frame, u64::from(first))?,
        names.len() as u64 * 8,
        MAX_STATED * 24,
    )?;
    let (slots, _) = bytes.as_chunks();
    let named = names.into_iter().zip(slots).enumerate();
    let named = named.map(|(index, ((name, may_be_cell), slot))| NamedSlot {
        name,
        slot: u64::from_le_bytes(*slot),
        may_be_cell,
        is_argument: (index as u64) < arguments,
    });
    let mut named: Vec<_> = named.collect();
    if let LocalNames::Split { .. } = layout.names {
        join_cells_of_arguments(&mut named);
    }
    // A variable without a value takes no place of the others.
    Ok(named
        .into_iter()
        .filter(|named| named.slot & !3 != 0 || named.slot & 3 == 3)
        .collect())
}

/// Up to 3.10 an argument that inner functions use has a cell further on, and its own place is empty (3.x) or keeps the
/// first value (2.7; `Python/ceval.c::PyEval_EvalCodeEx`). The cell takes its place.
fn join_cells_of_arguments(named: &mut [NamedSlot]) {
    let of_arguments = named.iter().take_while(|named| named.is_argument);
    let places = of_arguments
        .enumerate()
        .map(|(index, named)| (named.name, index));
    let places: FxHashMap<Address, usize> = places.collect();
    for index in 0..named.len() {
        if let Some(place) = places.get(&named[index].name)
            && *place != index
        {
            named[*place].slot = std::mem::take(&mut named[index].slot);
            named[*place].may_be_cell = true;
        }
    }
}

/// What is in a slot, if anything is.
fn held(int_tag: Option<u8>, slot: u64) -> Option<Held> {
    match int_tag {
        Some(tag) if slot & 3 == u64::from(tag) => Some(Held::Number(slot.cast_signed() >> 2)),
        _ => match Address(slot).untagged() {
            Address::NULL => None,
            object => Some(Held::Object(object)),
        },
    }
}

fn is_cell(
    reader: ObjectReader<'_>,
    object: Address,
    cell_type: &mut Option<Address>,
) -> Result<bool, ObjectError> {
    let ob_type = reader.type_of(object)?;
    if *cell_type == Some(ob_type) {
        return Ok(true);
    }
    let is_cell = reader.type_name(ob_type)? == "cell";
    if is_cell {
        *cell_type = Some(ob_type);
    }
    Ok(is_cell)
}

/// The globals of the frame's function: a dict.
pub fn globals_of(reader: ObjectReader<'_>, place: &FramePlace) -> Result<Address, ObjectError> {
    let globals = match &reader.layout.frame {
        FrameLayout::Object(layout) => layout.globals,
        FrameLayout::Interpreter(layout) => layout.globals,
    };
    reader.pointer(place.frame, globals)
}

/// The names of a class body's or an `exec`'s own namespace, or of a module's if these are wanted.
fn add_namespace(
    reader: ObjectReader<'_>,
    frame: Address,
    with_globals: bool,
    found: &mut Vec<LocalVariable>,
) -> Result<(), ObjectError> {
    let globals = match &reader.layout.frame {
        FrameLayout::Object(layout) => layout.globals,
        FrameLayout::Interpreter(layout) => layout.globals,
    };
    let mapping = reader.pointer(frame, reader.layout.locals.mapping)?;
    if mapping.is_null() || (!with_globals && mapping == reader.pointer(frame, globals)?) {
        return Ok(());
    }
    // A metaclass may have given another mapping than a dict.
    let Ok((entries, _)) = reader.dict_part(mapping, MAX_LOCALS) else {
        return Ok(());
    };
    for entry in entries {
        let Ok(name) = read_name(reader, entry.key) else {
            continue;
        };
        if found.len() < MAX_LOCALS && found.iter().all(|known| known.name != name) {
            found.push(LocalVariable {
                name,
                is_argument: false,
                holds: Held::Object(entry.value),
            });
        }
    }
    Ok(())
}

fn read_name(reader: ObjectReader<'_>, name: Address) -> Result<String, ObjectError> {
    reader.text_part(name, MAX_NAME).map(|(text, _)| text)
}

fn read_tuple(reader: ObjectReader<'_>, tuple: Address) -> Result<Vec<Address>, ObjectError> {
    reader.require(tuple, FLAG_TUPLE_SUBCLASS, "tuple")?;
    let count = reader.var_size(tuple)?;
    if count > MAX_STATED {
        return Err(garbage(tuple, "number of names"));
    }
    let first = offset(tuple, reader.layout.values.tuple_items.offset())?;
    let bytes = reader.memory.read_vec(first, count * 8, MAX_STATED * 8)?;
    let (items, _) = bytes.as_chunks();
    let items = items.iter().map(|item| Address(u64::from_le_bytes(*item)));
    Ok(items.collect())
}

fn garbage(address: Address, what: &'static str) -> ObjectError {
    ObjectError::Garbage { address, what }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::python::testing::{Builder, all_layouts};

    fn locals(
        builder: &Builder,
        frame: Address,
        code: Address,
    ) -> Result<Vec<LocalVariable>, ObjectError> {
        let reader = ObjectReader {
            memory: builder,
            layout: builder.layout,
        };
        read_locals_at(reader, frame, code)
    }

    #[test]
    fn arguments_locals_and_cells_on_every_version() {
        for layout in all_layouts() {
            let mut builder = Builder::new(layout);
            let (one, two) = (builder.int(1), builder.int(2));
            // From 3.14 on a borrowed reference has its lowest bit set.
            let borrowed = one.0 | u64::from(layout.locals.int_tag.is_some());
            let (frame, code) = builder.frame_with_locals(borrowed, 0, two);
            let found = locals(&builder, frame, code).unwrap();
            let found: Vec<_> = found
                .iter()
                .map(|local| (local.name.as_str(), local.is_argument, local.object()))
                .collect();
            let expected = [("argument", true, Some(one)), ("shared", false, Some(two))];
            assert_eq!(found, expected, "{:?}", layout.version);
            let (frame, code) = builder.frame_with_locals(0, one.0, Address::NULL);
            let found = locals(&builder, frame, code).unwrap();
            assert_eq!(found.len(), 1, "{:?}", layout.version);
            assert_eq!(found[0].name, "local");
        }
    }

    #[test]
    fn numbers_that_are_no_objects() {
        for layout in all_layouts() {
            let mut builder = Builder::new(layout);
            let number = (-5_i64 << 2 | 3).cast_unsigned();
            let shared = builder.none();
            let (frame, code) = builder.frame_with_locals(0, number, shared);
            let found = locals(&builder, frame, code).unwrap();
            let expected = match layout.locals.int_tag {
                Some(_) => Held::Number(-5),
                None => Held::Object(Address(number).untagged()),
            };
            assert_eq!(found[0].holds, expected, "{:?}", layout.version);
        }
    }

    #[test]
    fn a_code_object_that_contradicts_itself_is_refused() {
        for layout in all_layouts() {
            let mut builder = Builder::new(layout);
            let shared = builder.none();
            let (frame, code) = builder.frame_with_locals(0, 0, shared);
            match layout.locals.names {
                LocalNames::Split { nlocals, .. } => builder.set(code, nlocals, 7),
                LocalNames::Joined { count, .. } => builder.set(code, count, 7),
            }
            assert!(
                locals(&builder, frame, code).is_err(),
                "{:?}",
                layout.version
            );
        }
    }

    proptest! {
        #[test]
        fn damaged_frames_are_taken(damage in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..24)) {
            for layout in all_layouts() {
                let mut builder = Builder::new(layout);
                let shared = builder.none();
                let (frame, code) = builder.frame_with_locals(shared.0, shared.0, shared);
                for (place, value) in &damage {
                    let at = Address(code.0 - 512 + u64::from(*place) % (frame.0 - code.0 + 512));
                    builder.overwrite(at, &[*value]);
                }
                let _ = locals(&builder, frame, code);
            }
        }
    }
}
