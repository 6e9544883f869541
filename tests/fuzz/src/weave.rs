//! Laying out objects as a version of CPython lays them out: the decoders' work, the other way round.

use arbitrary::{Result, Unstructured};
use stuckspy::model::Address;
use stuckspy::python::layout::{
    DictKeysLayout, DictLayout, Field, Layout, ManagedDict, UnicodeLayout,
};
use zerocopy::{Immutable, IntoBytes};

use crate::memory::{FuzzMemory, IMAGE, STRETCH, STRETCH_SIZE};

/// Most bytes of an image; what does not fit is left out.
const MAX_IMAGE: usize = 4 << 20;
/// Entries of a table whose members are among the places to be spoilt; the others are as good as these.
const SPOILT_ENTRIES: usize = 32;
/// Bytes before each object, where some versions keep a pointer to its dict.
const BEFORE: u64 = 32;

/// `Py_TPFLAGS_*` (`Include/object.h`).
mod flag {
    pub const INT: u64 = 1 << 23;
    pub const LONG: u64 = 1 << 24;
    pub const BYTES: u64 = 1 << 27;
    pub const UNICODE: u64 = 1 << 28;
    pub const DICT: u64 = 1 << 29;
    pub const HEAP: u64 = 1 << 9;
    pub const MANAGED_DICT: u64 = 1 << 4;
}

/// An image that grows object by object.
pub struct Weaver<'l> {
    /// Where things are laid out.
    pub layout: &'l Layout,
    image: Vec<u8>,
    /// Addresses of all objects and structs so far.
    places: Vec<Address>,
    /// Addresses of all members that were set, with their widths: the places worth spoiling.
    members: Vec<(Address, usize)>,
    types: Vec<(&'static str, Address)>,
}

impl<'l> Weaver<'l> {
    /// An empty image.
    pub fn new(layout: &'l Layout) -> Self {
        Weaver {
            layout,
            image: Vec::with_capacity(1 << 16),
            places: Vec::new(),
            members: Vec::new(),
            types: Vec::new(),
        }
    }

    /// Everything that was placed, in order.
    pub fn places(&self) -> &[Address] {
        &self.places
    }

    /// Takes `size` bytes, all zero.
    pub fn place(&mut self, size: u64) -> Address {
        let start = (self.image.len() as u64 + BEFORE).next_multiple_of(16);
        let end = start.saturating_add(size).min(MAX_IMAGE as u64).max(start);
        self.image.resize(end as usize, 0);
        let address = Address(IMAGE + start);
        self.places.push(address);
        address
    }

    /// Writes bytes; what lies outside of the image is left out.
    pub fn write(&mut self, at: Address, bytes: &[u8]) {
        let room = at
            .checked_sub(Address(IMAGE))
            .and_then(|start| usize::try_from(start).ok())
            .and_then(|start| self.image.get_mut(start..start.checked_add(bytes.len())?));
        if let Some(room) = room {
            room.copy_from_slice(bytes);
        }
    }

    /// Sets what lies `offset` bytes behind `base`.
    pub fn set_at<T: IntoBytes + Immutable>(&mut self, base: Address, offset: i64, value: T) {
        if let Some(at) = base.checked_offset(offset) {
            self.members.push((at, size_of::<T>()));
            self.write(at, value.as_bytes());
        }
    }

    /// Sets a member of the struct at `base`.
    pub fn set<T: IntoBytes + Immutable>(&mut self, base: Address, field: Field<T>, value: T) {
        self.set_at(base, field.offset() as i64, value);
    }

    /// Takes room for `bytes` and some zeros behind them.
    pub fn place_bytes(&mut self, bytes: &[u8]) -> Address {
        let at = self.place(bytes.len() as u64 + 16);
        self.write(at, bytes);
        at
    }

    /// A type.
    pub fn new_type(
        &mut self,
        name: &str,
        flags: u64,
        basicsize: i64,
        dictoffset: i64,
        cached_keys: Address,
    ) -> Address {
        let layout = &self.layout.type_object;
        let keys_end = layout.cached_keys.map_or(0, Field::end);
        let size = keys_end
            .max(layout.name.end())
            .max(layout.flags.end())
            .max(layout.basicsize.end())
            .max(layout.dictoffset.end());
        let at = self.place(size as u64);
        let name = self.place_bytes(name.as_bytes());
        self.set(at, layout.name, name);
        self.set(at, layout.flags, flags);
        self.set(at, layout.basicsize, basicsize);
        self.set(at, layout.dictoffset, dictoffset);
        if let Some(field) = layout.cached_keys {
            self.set(at, field, cached_keys);
        }
        at
    }

    /// A type of the interpreter's own.
    pub fn static_type(&mut self, name: &'static str) -> Address {
        if let Some((_, known)) = self.types.iter().find(|(known, _)| *known == name) {
            return *known;
        }
        let is_old = self.layout.version.0 == 2;
        let flags = match name {
            "str" if is_old => flag::BYTES,
            "unicode" | "str" => flag::UNICODE,
            "bytes" => flag::BYTES,
            "dict" => flag::DICT,
            "int" if is_old => flag::INT,
            "int" | "long" => flag::LONG,
            _ => 0,
        };
        let at = self.new_type(name, flags, 16, 0, Address::NULL);
        self.types.push((name, at));
        at
    }

    fn object(&mut self, size: u64, of: &'static str) -> Address {
        let ob_type = self.static_type(of);
        let at = self.place(size.max(self.layout.object.ob_size.end() as u64));
        self.set(at, self.layout.object.ob_type, ob_type);
        at
    }

    /// A text in one of the forms that the version has for it.
    pub fn text(&mut self, text: &str, form: u8) -> Address {
        let length = text.chars().count() as i64;
        let widest = text.chars().map(u32::from).max().unwrap_or(0);
        match self.layout.unicode {
            UnicodeLayout::Flexible {
                length: length_field,
                state,
                kind_shift,
                compact_shift,
                ascii_shift,
                ascii_size,
                compact_size,
                data,
            } => {
                let unit: u8 = match widest {
                    0..=0xff => 1,
                    0x100..=0xffff => 2,
                    _ => 4,
                };
                let bytes = encode(text, unit);
                let (is_compact, is_ascii) = (form & 1 == 0, widest < 0x80);
                let fixed = u64::from(ascii_size.max(compact_size)).max(data.end() as u64);
                let fixed = fixed.max(length_field.end().max(state.end()) as u64);
                let at = self.object(fixed + bytes.len() as u64 + 4, "str");
                let data_at = match (is_compact, is_ascii) {
                    (true, true) => Address(at.0 + u64::from(ascii_size)),
                    (true, false) => Address(at.0 + u64::from(compact_size)),
                    (false, _) => self.place_bytes(&bytes),
                };
                self.write(data_at, &bytes);
                if !is_compact {
                    self.set(at, data, data_at);
                }
                let bits = u32::from(unit) << kind_shift
                    | u32::from(is_compact) << compact_shift
                    | u32::from(is_ascii) << ascii_shift;
                self.set(at, length_field, length);
                self.set(at, state, bits);
                at
            }
            UnicodeLayout::Legacy { .. } if form & 1 == 0 => self.bytes_of(text.as_bytes(), "str"),
            UnicodeLayout::Legacy {
                length: length_field,
                data,
                unit,
            } => {
                let bytes = encode(text, unit);
                let at = self.object(data.end() as u64, "unicode");
                let data_at = self.place_bytes(&bytes);
                self.set(at, length_field, bytes.len() as i64 / i64::from(unit));
                self.set(at, data, data_at);
                at
            }
        }
    }

    fn bytes_of(&mut self, bytes: &[u8], of: &'static str) -> Address {
        let data = self.layout.bytes.data;
        let at = self.object(data.offset() + bytes.len() as u64 + 1, of);
        self.write(Address(at.0 + data.offset()), bytes);
        self.set(at, self.layout.object.ob_size, bytes.len() as i64);
        at
    }

    /// A `bytes` object (2.7: `str`).
    pub fn bytes(&mut self, bytes: &[u8]) -> Address {
        let of = if self.layout.version.0 == 2 {
            "str"
        } else {
            "bytes"
        };
        self.bytes_of(bytes, of)
    }

    /// An int; `form` chooses between 2.7's two kinds of it.
    pub fn int(&mut self, magnitude: u64, is_negative: bool, form: u8) -> Address {
        let layout = self.layout.int;
        if let (Some(small), Ok(value), 0) = (layout.small, i64::try_from(magnitude), form & 1) {
            let at = self.object(small.end() as u64, "int");
            self.set(at, small, if is_negative { -value } else { value });
            return at;
        }
        let mut digits = Vec::new();
        let mut rest = magnitude;
        while rest != 0 {
            digits.push((rest & ((1 << layout.digit_bits) - 1)) as u32);
            rest >>= layout.digit_bits;
        }
        self.long(&digits, is_negative)
    }

    /// An int of these digits, the lowest first (2.7: a long).
    pub fn long(&mut self, digits: &[u32], is_negative: bool) -> Address {
        let layout = self.layout.int;
        let width = if layout.digit_bits > 16 { 4 } else { 2 };
        let of = if layout.small.is_some() {
            "long"
        } else {
            "int"
        };
        let fixed = layout
            .digits
            .offset()
            .max(layout.tag.map_or(0, |tag| tag.end() as u64));
        let at = self.object(fixed + digits.len() as u64 * width + 4, of);
        for (index, digit) in (0..).zip(digits) {
            let place = Address(at.0 + layout.digits.offset() + index * width);
            self.write(place, &digit.to_le_bytes()[..width as usize]);
        }
        let count = digits.len() as i64;
        match layout.tag {
            Some(tag) => {
                let sign = match (count, is_negative) {
                    (0, _) => 1,
                    (_, false) => 0,
                    (_, true) => 2,
                };
                self.set(at, tag, (count as u64) << 3 | sign);
            }
            None => {
                let size = if is_negative { -count } else { count };
                self.set(at, self.layout.object.ob_size, size);
            }
        }
        at
    }

    /// Sets keys and values, from `first` bytes behind `base` on, one pair each `size` bytes.
    fn set_entries(
        &mut self,
        base: Address,
        first: i64,
        size: i64,
        entries: &[(Address, Address)],
    ) {
        let places = (0..).map(|index| first + index * size);
        for (index, (at, (key, value))) in places.zip(entries).enumerate() {
            if index < SPOILT_ENTRIES {
                self.set_at(base, at, *key);
                self.set_at(base, at + 8, *value);
            } else if let Some(at) = base.checked_offset(at) {
                self.write(at, [*key, *value].as_bytes());
            }
        }
    }

    /// A copy of `size` bytes.
    pub fn copy(&mut self, of: Address, size: u64) -> Address {
        let at = self.place(size);
        let start = of.0.saturating_sub(IMAGE) as usize;
        if let Some(bytes) = self.image.get(start..start.saturating_add(size as usize)) {
            let bytes = bytes.to_vec();
            self.write(at, &bytes);
        }
        at
    }

    /// A keys object of one of the kinds that 3.11+ has: 0 any keys, 1 texts only, 2 texts only and split.
    fn keys(&mut self, entries: &[(Address, Address)], kind: u8) -> Address {
        let DictLayout::Keys { keys_layout, .. } = self.layout.dict else {
            return Address::NULL;
        };
        let slots = (entries.len() as u64 + 1).next_power_of_two().max(8);
        let (indices, table, entry_size) = match keys_layout {
            DictKeysLayout::Size { indices, .. } => {
                let width = match slots {
                    0..=0xff => 1,
                    0x100..=0xffff => 2,
                    _ => 4,
                };
                (indices, slots * width, 24)
            }
            DictKeysLayout::Log2 { indices, .. } => {
                (indices, slots * 2, if kind == 0 { 24 } else { 16 })
            }
        };
        let entries_at = indices.offset() + table;
        let at = self.place(entries_at + entries.len() as u64 * entry_size);
        let count = entries.len() as i64;
        match keys_layout {
            DictKeysLayout::Size { size, nentries, .. } => {
                self.set(at, size, slots as i64);
                self.set(at, nentries, count);
            }
            DictKeysLayout::Log2 {
                log2_size,
                log2_index_bytes,
                kind: kind_field,
                nentries,
                ..
            } => {
                self.set(at, log2_size, slots.ilog2() as u8);
                self.set(at, log2_index_bytes, (slots * 2).ilog2() as u8);
                self.set(at, kind_field, kind);
                self.set(at, nentries, count);
            }
        }
        let first = (entries_at + entry_size - 16) as i64;
        self.set_entries(at, first, entry_size as i64, entries);
        at
    }

    /// Values of a split table: the start of the struct, whose values stand `first_value` bytes behind it.
    fn values(&mut self, values: impl ExactSizeIterator<Item = Address>) -> Address {
        let DictLayout::Keys { first_value, .. } = self.layout.dict else {
            return Address::NULL;
        };
        let first = i64::from(first_value);
        let at = self.place(u64::from(first_value) + values.len() as u64 * 8);
        self.set_values(at, first, values);
        at
    }

    /// Sets values one behind the other, from `first` bytes behind `base` on.
    fn set_values(&mut self, base: Address, first: i64, values: impl Iterator<Item = Address>) {
        let places = (0..).map(|index| first + index * 8);
        for (index, (at, value)) in places.zip(values).enumerate() {
            if index < SPOILT_ENTRIES {
                self.set_at(base, at, value);
            } else if let Some(at) = base.checked_offset(at) {
                self.write(at, value.as_bytes());
            }
        }
    }

    /// A dict; `form` chooses between a table of any keys, one of texts, and a split one.
    pub fn dict(&mut self, entries: &[(Address, Address)], form: u8) -> Address {
        match self.layout.dict {
            DictLayout::Table { used, mask, table } => {
                let at = self.object(table.end().max(mask.end()) as u64, "dict");
                let slots = (entries.len() as u64 + 1).next_power_of_two().max(8);
                let slots_at = self.place(slots * 24);
                // Some room before each entry, as hashing leaves it.
                let first = (slots - entries.len() as u64).min(u64::from(form));
                self.set_entries(slots_at, first as i64 * 24 + 8, 24, entries);
                self.set(at, used, entries.len() as i64);
                self.set(at, mask, slots as i64 - 1);
                self.set(at, table, slots_at);
                at
            }
            DictLayout::Keys {
                used, keys, values, ..
            } => {
                let size = keys.end().max(values.end()).max(used.end());
                let at = self.object(size as u64, "dict");
                let kind = form % 3;
                let (keys_at, values_at) = if kind == 2 {
                    let without: Vec<_> = entries
                        .iter()
                        .map(|(key, _)| (*key, Address::NULL))
                        .collect();
                    let values = entries.iter().map(|(_, value)| *value);
                    (self.keys(&without, kind), self.values(values))
                } else {
                    (self.keys(entries, kind), Address::NULL)
                };
                self.set(at, used, entries.len() as i64);
                self.set(at, keys, keys_at);
                self.set(at, values, values_at);
                at
            }
        }
    }

    /// An instance of a class of its own; `form` chooses where its attributes are kept.
    pub fn instance(&mut self, attributes: &[(Address, Address)], form: u8) -> Address {
        let (managed, object) = (self.layout.managed_dict, &self.layout.object);
        let (in_dict, is_managed) = (form & 1 == 0, form & 2 == 0);
        let header = u64::from(object.size).max(object.ob_type.end() as u64);
        let basicsize = header.next_multiple_of(8) + 8;
        let mut flags = flag::HEAP;
        let mut dictoffset = 0;
        let mut cached_keys = Address::NULL;
        let is_managed = is_managed && managed != ManagedDict::None;
        if is_managed {
            flags |= flag::MANAGED_DICT;
            if !in_dict {
                cached_keys = self.keys(
                    &attributes
                        .iter()
                        .map(|(key, _)| (*key, Address::NULL))
                        .collect::<Vec<_>>(),
                    2,
                );
            }
            if let ManagedDict::Inline { flag, .. } = managed {
                flags |= flag;
            }
        } else {
            dictoffset = basicsize - 8;
        }
        let ob_type = self.new_type(
            "Thing",
            flags,
            basicsize as i64,
            dictoffset as i64,
            cached_keys,
        );
        let dict = if in_dict || !is_managed {
            self.dict(attributes, form >> 2)
        } else {
            Address::NULL
        };
        let at = self.place(basicsize + 8 * (attributes.len() as u64 + 2));
        self.set(at, self.layout.object.ob_type, ob_type);
        let values = attributes.iter().map(|(_, value)| *value);
        match managed {
            _ if !is_managed => self.set_at(at, dictoffset as i64, dict),
            ManagedDict::None => {}
            ManagedDict::DictAndValues {
                dict: dict_at,
                values: values_at,
            } => {
                let values = if in_dict {
                    Address::NULL
                } else {
                    self.values(values)
                };
                self.set_at(at, i64::from(dict_at), dict);
                self.set_at(at, i64::from(values_at), values);
            }
            ManagedDict::Tagged { pointer } => {
                let tagged = if in_dict {
                    dict
                } else {
                    Address(self.values(values).0 - 1)
                };
                self.set_at(at, i64::from(pointer), tagged);
            }
            ManagedDict::Inline {
                dict: dict_at,
                valid,
                ..
            } => {
                self.set_at(at, i64::from(dict_at), dict);
                let inline = Address(at.0 + basicsize);
                self.set(inline, valid, u8::from(!in_dict));
                if let DictLayout::Keys { first_value, .. } = self.layout.dict {
                    self.set_values(inline, i64::from(first_value), values);
                }
            }
        }
        at
    }

    /// Spoils up to `most` places as the fuzzer says; gives whether anything was.
    pub fn spoil(&mut self, u: &mut Unstructured<'_>, most: usize) -> Result<bool> {
        let count = u.int_in_range(0..=most)?;
        for _ in 0..count {
            if self.members.is_empty() {
                break;
            }
            let (at, width) = *u.choose(&self.members)?;
            let mut old = [0; 8];
            let start = at.0.saturating_sub(IMAGE) as usize;
            if let Some(bytes) = self.image.get(start..start.saturating_add(width)) {
                old[..width].copy_from_slice(bytes);
            }
            let old = u64::from_le_bytes(old);
            let value = match u.int_in_range(0..=7)? {
                0 => u.arbitrary()?,
                1 => u64::from(u.arbitrary::<u8>()?),
                2 => u64::from(u.arbitrary::<u32>()?),
                3 => old.wrapping_add_signed(i64::from(u.arbitrary::<i8>()?)),
                4 => old ^ 1 << u.int_in_range(0..=63)?,
                5 => STRETCH + u64::from(u.arbitrary::<u32>()?) % STRETCH_SIZE,
                6 => 0_u64.wrapping_sub(u64::from(u.arbitrary::<u8>()?)),
                _ => u.choose(&self.places)?.0,
            };
            self.write(at, &value.to_le_bytes()[..width]);
        }
        if rarely(u, 8)? {
            let at = *u.choose(&self.places)?;
            let bytes: [u8; 32] = u.arbitrary()?;
            self.write(at, &bytes);
            return Ok(true);
        }
        Ok(count > 0)
    }

    /// The memory, with a stretch of what the fuzzer says, or of the addresses of what was placed.
    pub fn finish(self, u: &mut Unstructured<'_>) -> Result<FuzzMemory> {
        let mut pattern = Vec::new();
        for _ in 0..u.int_in_range(0..=16)? {
            let word = match u.int_in_range(0..=3)? {
                0 => u.arbitrary()?,
                1 => u64::from(u.arbitrary::<u8>()?),
                _ if self.places.is_empty() => 0,
                _ => u.choose(&self.places)?.0,
            };
            pattern.extend_from_slice(&word.to_le_bytes());
        }
        Ok(FuzzMemory::new(self.image, pattern))
    }
}

/// `text` in units of 1 (Latin-1), 2 (UTF-16) or 4 (UTF-32) bytes.
fn encode(text: &str, unit: u8) -> Vec<u8> {
    match unit {
        1 => text.chars().map(|letter| u32::from(letter) as u8).collect(),
        2 => text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        _ => text
            .chars()
            .flat_map(|letter| u32::from(letter).to_le_bytes())
            .collect(),
    }
}

/// Whether to do something once in `one_in` times, and not when the fuzzer's bytes are used up.
pub fn rarely(u: &mut Unstructured<'_>, one_in: u8) -> Result<bool> {
    Ok(u.int_in_range(1..=one_in)? == one_in)
}

/// A short text of the fuzzer's; most are plain.
pub fn any_text(u: &mut Unstructured<'_>) -> Result<String> {
    const LETTERS: &[char] = &[
        'a', '_', '<', '>', '.', '/', '\0', '\n', '\x1b', 'é', '\u{9b}', '名', '\u{202e}', '🐍',
    ];
    let length = u.int_in_range(0..=12)?;
    (0..length).map(|_| u.choose(LETTERS).copied()).collect()
}
