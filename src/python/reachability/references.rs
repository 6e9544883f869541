//! What one object refers to: the references that it owns, each as often as it is counted, and what may be some.

use super::types::{Kind, TypeInfo};
use crate::model::Address;
use crate::python::attribute::Attributes;
use crate::python::layout::{DictLayout, FrameLayout};
use crate::python::object::{
    FLAG_INT_SUBCLASS, FLAG_LONG_SUBCLASS, ObjectError, ObjectReader, offset, shift,
};

/// Most items of one container.
pub(super) const MAX_ITEMS: usize = 65_536;
/// Most attributes of an instance that are not in a dict: keys that instances share are at most 30.
const MAX_SHARED: usize = 1024;
/// Most bytes of an object in C that are gone through for what may be references.
const MAX_SCANNED: u64 = 64 << 10;
/// How many items of a block of a deque (`Modules/_collectionsmodule.c`, `BLOCKLEN`, 3.6-3.15).
const BLOCK_ITEMS: u64 = 64;
/// Longest name of an attribute that is looked at.
const MAX_NAME: u64 = 16;

/// What a reference is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strength {
    /// It is counted, and who has the one object has the other.
    Owned,
    /// It is counted, but only the thread itself takes it: what a thread that runs was started with.
    Private,
    /// It may be none.
    Loose,
}

/// The references of one object.
#[derive(Debug, Default)]
pub(super) struct References {
    pub(super) found: Vec<(Address, Strength)>,
    /// Dicts that are the globals of some module: they are not gone into.
    pub(super) globals: Vec<Address>,
    /// The dict that has the attributes of a thread which was started.
    pub(super) thread_dict: Option<Address>,
    /// Whether there are more than were read.
    pub(super) is_cut: bool,
}

impl References {
    fn clear(&mut self) {
        self.found.clear();
        self.globals.clear();
        self.thread_dict = None;
        self.is_cut = false;
    }

    fn own(&mut self, object: Address) {
        self.add(object, Strength::Owned);
    }

    fn add(&mut self, object: Address, strength: Strength) {
        if !object.is_null() {
            self.found.push((object, strength));
        }
    }
}

/// Finds what `object`, of the type that `info` is about, refers to. `is_of_thread` says of a dict that it has the attributes of a started thread.
pub(super) fn find_references(
    reader: ObjectReader<'_>,
    object: Address,
    info: &TypeInfo,
    is_of_thread: bool,
    into: &mut References,
) -> Result<(), ObjectError> {
    into.clear();
    match info.kind {
        Kind::Leaf | Kind::Shared | Kind::Instance => {}
        Kind::List => {
            let items = reader.pointer(object, reader.layout.values.list_items)?;
            add_items(reader, object, items, into)?;
        }
        Kind::Tuple => {
            let items = offset(object, reader.layout.values.tuple_items.offset())?;
            add_items(reader, object, items, into)?;
        }
        Kind::Dict => add_entries(reader, object, is_of_thread, into)?,
        Kind::Set => {
            let (items, count) = reader.set_part(object, MAX_ITEMS)?;
            into.is_cut = count > items.len() as u64;
            items.into_iter().for_each(|item| into.own(item));
        }
        Kind::Deque => add_blocks(reader, object, into)?,
        Kind::Cell => into.own(reader.pointer(object, reader.layout.values.cell)?),
        Kind::Method => {
            let own = reader.layout.locks.method_self;
            into.own(reader.pointer(object, own)?);
            // `im_func` stands before it.
            let at = offset(object, own.offset().saturating_sub(8))?;
            into.own(reader.memory.read_address(at)?);
        }
        Kind::BoundBuiltin => {
            into.own(reader.pointer(object, reader.layout.locks.function_self)?);
        }
        Kind::Function => {
            let layout = reader.layout.references.function;
            into.globals.push(reader.pointer(object, layout.globals)?);
            let owned = [
                Some(layout.defaults),
                layout.keyword_defaults,
                Some(layout.closure),
                Some(layout.attributes),
            ];
            for field in owned.into_iter().flatten() {
                into.own(reader.pointer(object, field)?);
            }
        }
        Kind::Partial => {
            // `Modules/_functoolsmodule.c::partialobject` (3.6-3.15): the function, its arguments, and those by name.
            let first = u64::from(reader.layout.object.size);
            for index in 0..3 {
                let at = offset(object, first + 8 * index)?;
                into.own(reader.memory.read_address(at)?.untagged());
            }
        }
        Kind::Frame => {
            note_globals(reader, object, into);
            scan(reader, object, info, into)?;
        }
        Kind::Other => scan(reader, object, info, into)?,
    }
    if info.has_attributes {
        add_attributes(reader, object, info, into)?;
    }
    Ok(())
}

fn add_items(
    reader: ObjectReader<'_>,
    object: Address,
    items: Address,
    into: &mut References,
) -> Result<(), ObjectError> {
    let count = reader.var_size(object)?;
    let taken = count.min(MAX_ITEMS as u64);
    into.is_cut = count > taken;
    if taken == 0 {
        return Ok(());
    }
    let bytes = reader
        .memory
        .read_vec(items, 8 * taken, 8 * MAX_ITEMS as u64)?;
    words(&bytes).for_each(|item| into.own(Address(item).untagged()));
    Ok(())
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    bytes.chunks_exact(8).map(|chunk| {
        chunk
            .first_chunk()
            .map_or(0, |word| u64::from_le_bytes(*word))
    })
}

fn add_entries(
    reader: ObjectReader<'_>,
    dict: Address,
    is_of_thread: bool,
    into: &mut References,
) -> Result<(), ObjectError> {
    let (entries, count) = reader.mapping_part(dict, MAX_ITEMS)?;
    into.is_cut = count > entries.len() as u64;
    // The keys of a table that instances share are the table's own.
    let owns_keys = match reader.layout.dict {
        DictLayout::Table { .. } => true,
        DictLayout::Keys { values, .. } => reader.pointer(dict, values)?.is_null(),
    };
    for entry in entries {
        let strength = match is_of_thread && is_start(reader, entry.key) {
            true => Strength::Private,
            false => Strength::Owned,
        };
        into.add(entry.value.untagged(), strength);
        if owns_keys {
            into.own(entry.key.untagged());
        }
    }
    Ok(())
}

/// Whether this is the name of an attribute that `Thread.run` alone takes (`Lib/threading.py`, 3.6-3.15).
fn is_start(reader: ObjectReader<'_>, key: Address) -> bool {
    let name = reader.text_part(key, MAX_NAME);
    name.is_ok_and(|(name, _)| matches!(name.as_str(), "_target" | "_args" | "_kwargs"))
}

/// The items of a deque: `Modules/_collectionsmodule.c::dequeobject` (3.6-3.15) has, behind its size, the leftmost block, the
/// rightmost, and the place of the first item in the leftmost. A block has a link, 64 items, and a link.
fn add_blocks(
    reader: ObjectReader<'_>,
    deque: Address,
    into: &mut References,
) -> Result<(), ObjectError> {
    let garbage = || ObjectError::Garbage {
        address: deque,
        what: "place in a block",
    };
    let count = reader.var_size(deque)?;
    let behind = reader.layout.object.ob_size.offset() + 8;
    let mut block = reader.memory.read_address(offset(deque, behind)?)?;
    let mut at = reader.memory.read_u64(offset(deque, behind + 16)?)?;
    let mut left = count.min(MAX_ITEMS as u64);
    into.is_cut = count > left;
    while left > 0 {
        let here = BLOCK_ITEMS.checked_sub(at).ok_or_else(garbage)?.min(left);
        let first = offset(block, 8 * (1 + at))?;
        let bytes = reader.memory.read_vec(first, 8 * here, 8 * BLOCK_ITEMS)?;
        words(&bytes).for_each(|item| into.own(Address(item).untagged()));
        left -= here;
        at = 0;
        if left > 0 {
            block = reader
                .memory
                .read_address(offset(block, 8 * (1 + BLOCK_ITEMS))?)?;
        }
    }
    Ok(())
}

fn add_attributes(
    reader: ObjectReader<'_>,
    object: Address,
    info: &TypeInfo,
    into: &mut References,
) -> Result<(), ObjectError> {
    match reader.attributes_at(object, info.facts)? {
        Attributes::None => {}
        Attributes::Dict(dict) => {
            into.own(dict.untagged());
            if info.is_thread && is_started(reader, object) {
                into.thread_dict = Some(dict.untagged());
            }
        }
        Attributes::Split(table) => {
            let entries = reader.first_entries(object, &table, MAX_SHARED)?;
            let is_started = info.is_thread && is_started(reader, object);
            for entry in entries {
                let strength = match is_started && is_start(reader, entry.key) {
                    true => Strength::Private,
                    false => Strength::Owned,
                };
                into.add(entry.value.untagged(), strength);
            }
        }
    }
    for slot in &info.slots {
        into.own(reader.memory.read_address(shift(object, *slot)?)?);
    }
    Ok(())
}

/// Whether a thread was started: then it knows its number.
fn is_started(reader: ObjectReader<'_>, thread: Address) -> bool {
    let number = reader.attribute(thread, "_ident").ok().flatten();
    let facts = number.and_then(|number| reader.type_facts(number).ok());
    facts.is_some_and(|facts| facts.flags & (FLAG_INT_SUBCLASS | FLAG_LONG_SUBCLASS) != 0)
}

/// The globals and the builtins of the function whose frame this object is, or has.
fn note_globals(reader: ObjectReader<'_>, object: Address, into: &mut References) {
    let generator = reader
        .layout
        .asyncio
        .as_ref()
        .map(|layout| layout.generator);
    let places = match &reader.layout.frame {
        // `f_builtins` stands before `f_globals` (3.6-3.10).
        FrameLayout::Object(frame) => {
            let globals = frame.globals.offset();
            [Some(globals), globals.checked_sub(8)]
        }
        FrameLayout::Interpreter(frame) => {
            let inside = generator.map(|generator| generator.frame.offset());
            let globals = inside.map(|inside| inside + frame.globals.offset());
            [globals, globals.map(|globals| globals + 8)]
        }
    };
    for place in places.into_iter().flatten() {
        let found = offset(object, place).ok();
        let found = found.and_then(|at| reader.memory.read_address(at).ok());
        into.globals.extend(found.map(Address::untagged));
    }
}

/// All words of an object that could be references.
fn scan(
    reader: ObjectReader<'_>,
    object: Address,
    info: &TypeInfo,
    into: &mut References,
) -> Result<(), ObjectError> {
    let basic = u64::try_from(info.basicsize).unwrap_or(0);
    let items = match u64::try_from(info.itemsize) {
        Ok(size) if size > 0 => {
            let count = reader.field(object, reader.layout.object.ob_size)?;
            count.unsigned_abs().saturating_mul(size)
        }
        _ => 0,
    };
    let size = basic.saturating_add(items);
    let first = u64::from(reader.layout.object.size);
    let taken = size.min(MAX_SCANNED);
    into.is_cut |= taken < size;
    let Some(taken) = taken.checked_sub(first).filter(|taken| *taken >= 8) else {
        return Ok(());
    };
    let bytes = reader
        .memory
        .read_vec(offset(object, first)?, taken & !7, MAX_SCANNED)?;
    for word in words(&bytes) {
        let address = Address(word).untagged();
        // No object stands on the first page, or in the kernel's half; each begins at a multiple of 8.
        if address.0 >= 4096 && address.0 < 1 << 47 && address.0.is_multiple_of(8) {
            into.add(address, Strength::Loose);
        }
    }
    Ok(())
}
