//! Python's basic objects - str, bytes, int, dict, instances - read from a target's memory by a layout table.
//!
//! All of it may be garbage or change while it is read: each length has a limit, each type is checked before the object
//! is believed, and nothing here loops longer than its limits say.

use thiserror::Error;
use zerocopy::FromBytes;

use super::layout::{
    DictKeysLayout, DictLayout, Field, Layout, ManagedDict, StructView, UnicodeLayout,
};
use crate::model::Address;
use crate::sys::memory::{ReadError, RemoteMemory};

/// Most code points of a text that are read; what is longer is cut and ends in an ellipsis.
pub const MAX_TEXT: u64 = 4096;
/// Most entries of a dict that are looked at.
const MAX_ENTRIES: u64 = 65_536;
/// Most bytes of an index table that lies before the entries of a dict.
const MAX_INDICES: u64 = 64 << 20;
/// Most digits of an int that are read: 64 bits need three of 30 bits or five of 15.
const MAX_DIGITS: u64 = 5;
/// Longest name of a type.
const MAX_TYPE_NAME: usize = 256;

/// `Py_TPFLAGS_*` (`Include/object.h`, the same in 2.7 and 3.6-3.15).
const FLAG_INT_SUBCLASS: u64 = 1 << 23;
const FLAG_LONG_SUBCLASS: u64 = 1 << 24;
const FLAG_BYTES_SUBCLASS: u64 = 1 << 27;
const FLAG_UNICODE_SUBCLASS: u64 = 1 << 28;
const FLAG_DICT_SUBCLASS: u64 = 1 << 29;
const FLAG_HEAPTYPE: u64 = 1 << 9;
/// `Py_TPFLAGS_MANAGED_DICT` (3.11+).
const FLAG_MANAGED_DICT: u64 = 1 << 4;

/// Why an object could not be read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ObjectError {
    /// Its memory could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It is something else.
    #[error("the object at {address} is no {expected}")]
    WrongType {
        /// Where it is.
        address: Address,
        /// What it should have been.
        expected: &'static str,
    },
    /// What it says of itself can't be.
    #[error("the object at {address} contradicts itself: {what}")]
    Garbage {
        /// Where it is.
        address: Address,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// Reads objects of one target.
#[derive(Clone, Copy)]
pub struct ObjectReader<'a> {
    /// The target's memory.
    pub memory: &'a dyn RemoteMemory,
    /// Where its version keeps what.
    pub layout: &'a Layout,
}

/// What is used of a type.
#[derive(Clone, Copy, Debug)]
pub struct TypeFacts {
    /// The type object.
    pub address: Address,
    /// `tp_flags`.
    pub flags: u64,
}

/// One entry of a dict: key and value are objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DictEntry {
    /// The key.
    pub key: Address,
    /// The value.
    pub value: Address,
}

impl<'a> ObjectReader<'a> {
    fn field<T: FromBytes>(&self, address: Address, field: Field<T>) -> Result<T, ObjectError> {
        let mut bytes = [0; 8];
        let size = size_of::<T>();
        let bytes = bytes
            .get_mut(..size)
            .ok_or(ReadError::TooLarge(size as u64))?;
        self.memory.read(offset(address, field.offset())?, bytes)?;
        T::read_from_bytes(bytes).map_err(|_| ReadError::Unmapped(address).into())
    }

    fn pointer(&self, address: Address, field: Field<Address>) -> Result<Address, ObjectError> {
        self.field(address, field).map(Address::untagged)
    }

    /// The type of the object.
    pub fn type_of(&self, object: Address) -> Result<Address, ObjectError> {
        if object.is_null() {
            return Err(ObjectError::Garbage {
                address: object,
                what: "null",
            });
        }
        self.field(object, self.layout.object.ob_type)
    }

    /// The type of the object with its flags.
    pub fn type_facts(&self, object: Address) -> Result<TypeFacts, ObjectError> {
        let address = self.type_of(object)?;
        let flags = self.field(address, self.layout.type_object.flags)?;
        Ok(TypeFacts { address, flags })
    }

    /// `tp_name` of a type, which for static types includes the module.
    pub fn type_name(&self, type_object: Address) -> Result<String, ObjectError> {
        let name: Address = self.field(type_object, self.layout.type_object.name)?;
        let mut text = Vec::new();
        let mut piece = [0; 16];
        while text.len() < MAX_TYPE_NAME {
            self.memory
                .read(offset(name, text.len() as u64)?, &mut piece)?;
            match piece.iter().position(|byte| *byte == 0) {
                Some(end) => {
                    text.extend_from_slice(&piece[..end]);
                    return Ok(String::from_utf8_lossy(&text).into_owned());
                }
                None => text.extend_from_slice(&piece),
            }
        }
        Err(ObjectError::Garbage {
            address: type_object,
            what: "name without an end",
        })
    }

    fn require(
        &self,
        object: Address,
        flag: u64,
        expected: &'static str,
    ) -> Result<TypeFacts, ObjectError> {
        let facts = self.type_facts(object)?;
        if facts.flags & flag == 0 {
            return Err(ObjectError::WrongType {
                address: object,
                expected,
            });
        }
        Ok(facts)
    }

    /// A text: `str`, or in 2.7 `str` or `unicode`. Bytes that are not UTF-8 and lone surrogates become U+FFFD.
    pub fn text(&self, object: Address) -> Result<String, ObjectError> {
        let facts = self.type_facts(object)?;
        if facts.flags & FLAG_UNICODE_SUBCLASS != 0 {
            return self.unicode(object);
        }
        if facts.flags & FLAG_BYTES_SUBCLASS != 0 && self.layout.version.0 == 2 {
            let (bytes, cut) = self.bytes_content(object)?;
            return Ok(with_ellipsis(
                String::from_utf8_lossy(&bytes).into_owned(),
                cut,
            ));
        }
        Err(ObjectError::WrongType {
            address: object,
            expected: "text",
        })
    }

    fn unicode(&self, object: Address) -> Result<String, ObjectError> {
        let garbage = |what| ObjectError::Garbage {
            address: object,
            what,
        };
        let (length, unit, data) = match self.layout.unicode {
            UnicodeLayout::Flexible {
                length,
                state,
                kind_shift,
                compact_shift,
                ascii_shift,
                ascii_size,
                compact_size,
                data,
            } => {
                let length = self.field(object, length)?;
                let state = self.field(object, state)?;
                let is_set = |shift: u8| state >> shift & 1 == 1;
                let unit = (state >> kind_shift & 7) as u8;
                let data = match (is_set(compact_shift), is_set(ascii_shift)) {
                    (true, true) => offset(object, u64::from(ascii_size))?,
                    (true, false) => offset(object, u64::from(compact_size))?,
                    (false, _) => self.field(object, data)?,
                };
                (length, unit, data)
            }
            UnicodeLayout::Legacy { length, data, unit } => {
                (self.field(object, length)?, unit, self.field(object, data)?)
            }
        };
        let length = u64::try_from(length).map_err(|_| garbage("negative length"))?;
        if !matches!(unit, 1 | 2 | 4) {
            return Err(garbage("width of a code point"));
        }
        let taken = length.min(MAX_TEXT);
        let size = taken * u64::from(unit);
        let bytes = self.memory.read_vec(data, size, MAX_TEXT * 4)?;
        Ok(with_ellipsis(decode_units(&bytes, unit), taken < length))
    }

    /// The content of a `bytes` object.
    pub fn bytes(&self, object: Address, limit: u64) -> Result<Vec<u8>, ObjectError> {
        self.require(object, FLAG_BYTES_SUBCLASS, "bytes")?;
        let size = self.var_size(object)?;
        let data = offset(object, self.layout.bytes.data.offset())?;
        Ok(self.memory.read_vec(data, size, limit)?)
    }

    fn bytes_content(&self, object: Address) -> Result<(Vec<u8>, bool), ObjectError> {
        let size = self.var_size(object)?;
        let taken = size.min(MAX_TEXT);
        let data = offset(object, self.layout.bytes.data.offset())?;
        Ok((self.memory.read_vec(data, taken, MAX_TEXT)?, taken < size))
    }

    fn var_size(&self, object: Address) -> Result<u64, ObjectError> {
        let size = self.field(object, self.layout.object.ob_size)?;
        u64::try_from(size).map_err(|_| ObjectError::Garbage {
            address: object,
            what: "negative size",
        })
    }

    /// The value of an int, if 64 bits hold it; a `pthread_t` can need all of them, so they are read as unsigned.
    pub fn unsigned(&self, object: Address) -> Result<u64, ObjectError> {
        let facts = self.type_facts(object)?;
        let layout = &self.layout.int;
        if let Some(small) = layout.small
            && facts.flags & FLAG_INT_SUBCLASS != 0
        {
            return Ok(self.field(object, small)?.cast_unsigned());
        }
        if facts.flags & FLAG_LONG_SUBCLASS == 0 {
            return Err(ObjectError::WrongType {
                address: object,
                expected: "int",
            });
        }
        let (digits, negative) = match layout.tag {
            Some(tag) => {
                let tag = self.field(object, tag)?;
                (tag >> 3, tag & 3 == 2)
            }
            None => {
                let size = self.field(object, self.layout.object.ob_size)?;
                (size.unsigned_abs(), size < 0)
            }
        };
        if digits > MAX_DIGITS {
            return Err(ReadError::TooLarge(digits).into());
        }
        let width = if layout.digit_bits > 16 { 4 } else { 2 };
        let bytes = self.memory.read_vec(
            offset(object, layout.digits.offset())?,
            digits * width,
            MAX_DIGITS * 4,
        )?;
        let mut value: u128 = 0;
        for digit in bytes.chunks_exact(width as usize).rev() {
            let digit = digit
                .iter()
                .rev()
                .fold(0_u128, |value, byte| value << 8 | u128::from(*byte));
            value = value << layout.digit_bits | digit;
        }
        let value = u64::try_from(value).map_err(|_| ReadError::TooLarge(digits))?;
        Ok(if negative {
            value.wrapping_neg()
        } else {
            value
        })
    }

    /// The entries of a dict in the order of its table, at most 65,536.
    pub fn dict_entries(&self, dict: Address) -> Result<Vec<DictEntry>, ObjectError> {
        self.require(dict, FLAG_DICT_SUBCLASS, "dict")?;
        match self.layout.dict {
            DictLayout::Table { mask, table, .. } => {
                let slots = self.field(dict, mask)?.unsigned_abs().saturating_add(1);
                let bytes = self.entry_bytes(dict, self.pointer(dict, table)?, slots, 24)?;
                Ok(entries(&bytes, 24))
            }
            DictLayout::Keys {
                keys,
                values,
                keys_layout,
                first_value,
                ..
            } => {
                let keys = self.pointer(dict, keys)?;
                let values = self.pointer(dict, values)?;
                let values = if values.is_null() {
                    None
                } else {
                    Some(offset(values, u64::from(first_value))?)
                };
                self.entries_of_keys(keys, keys_layout, values)
            }
        }
    }

    /// The entries of a keys object, with the values in it, or for a split table at `values`.
    fn entries_of_keys(
        &self,
        keys: Address,
        layout: DictKeysLayout,
        values: Option<Address>,
    ) -> Result<Vec<DictEntry>, ObjectError> {
        let (count, entries_at, unicode_only) = match layout {
            DictKeysLayout::Size {
                size,
                nentries,
                indices,
            } => {
                let slots = self.field(keys, size)?.unsigned_abs();
                // `Objects/dictobject.c::DK_IXSIZE` (3.6-3.10).
                let width = match slots {
                    0..=0xff => 1,
                    0x100..=0xffff => 2,
                    0x1_0000..=0xffff_ffff => 4,
                    _ => 8,
                };
                let table = slots.saturating_mul(width);
                (
                    self.field(keys, nentries)?,
                    self.behind_indices(keys, indices, table)?,
                    false,
                )
            }
            DictKeysLayout::Log2 {
                log2_index_bytes,
                kind,
                nentries,
                indices,
                ..
            } => {
                let table = 1_u64
                    .checked_shl(u32::from(self.field(keys, log2_index_bytes)?))
                    .unwrap_or(u64::MAX);
                let unicode_only = self.field(keys, kind)? != 0;
                (
                    self.field(keys, nentries)?,
                    self.behind_indices(keys, indices, table)?,
                    unicode_only,
                )
            }
        };
        let size = if unicode_only { 16 } else { 24 };
        let count = count.unsigned_abs();
        let mut entries = entries(&self.entry_bytes(keys, entries_at, count, size)?, size);
        if let Some(values) = values {
            let bytes = self.entry_bytes(keys, values, entries.len() as u64, 8)?;
            for (entry, value) in entries.iter_mut().zip(bytes.chunks_exact(8)) {
                entry.value = address_in(value);
            }
        }
        Ok(entries)
    }

    fn behind_indices(
        &self,
        keys: Address,
        indices: Field<u8>,
        table: u64,
    ) -> Result<Address, ObjectError> {
        if table > MAX_INDICES {
            return Err(ObjectError::Garbage {
                address: keys,
                what: "size of a dict",
            });
        }
        offset(keys, indices.offset() + table)
    }

    fn entry_bytes(
        &self,
        dict: Address,
        at: Address,
        count: u64,
        size: u64,
    ) -> Result<Vec<u8>, ObjectError> {
        if count == 0 {
            return Ok(Vec::new());
        }
        if at.is_null() {
            return Err(ObjectError::Garbage {
                address: dict,
                what: "no table",
            });
        }
        let count = count.min(MAX_ENTRIES);
        Ok(self.memory.read_vec(at, count * size, MAX_ENTRIES * 24)?)
    }

    /// The value of the text key `name` in a dict.
    pub fn dict_value(&self, dict: Address, name: &str) -> Result<Option<Address>, ObjectError> {
        Ok(self.find_key(&self.dict_entries(dict)?, name))
    }

    /// The value of the first entry whose key is the text `name` and that has a value; keys that can't be read are others.
    fn find_key(&self, entries: &[DictEntry], name: &str) -> Option<Address> {
        let found = entries.iter().find(|entry| {
            !entry.key.is_null() && !entry.value.is_null() && self.is_text(entry.key, name)
        });
        found.map(|entry| entry.value)
    }

    /// Whether `object` is the text `name`; its length is looked at before its content.
    fn is_text(&self, object: Address, name: &str) -> bool {
        let length = match self.layout.unicode {
            UnicodeLayout::Flexible { length, .. } => length,
            UnicodeLayout::Legacy { .. } => self.layout.object.ob_size,
        };
        let same_length = || {
            self.field(object, length)
                .is_ok_and(|length| length == name.len() as i64)
        };
        same_length() && self.text(object).is_ok_and(|text| text == name)
    }

    /// The attribute `name` of an instance, as its own `__dict__` or inline values hold it; classes are not searched.
    pub fn attribute(&self, object: Address, name: &str) -> Result<Option<Address>, ObjectError> {
        let facts = self.type_facts(object)?;
        let has_managed_dict = facts.flags & FLAG_MANAGED_DICT != 0;
        match self.layout.managed_dict {
            ManagedDict::DictAndValues { dict, values } if has_managed_dict => {
                let dict = self.memory.read_address(shift(object, i64::from(dict))?)?;
                if !dict.is_null() {
                    return self.dict_value(dict, name);
                }
                let values = self
                    .memory
                    .read_address(shift(object, i64::from(values))?)?;
                self.split_attribute(facts, values, name)
            }
            ManagedDict::Tagged { pointer } if has_managed_dict => {
                let pointer = self
                    .memory
                    .read_address(shift(object, i64::from(pointer))?)?;
                if pointer.0 & 1 == 0 {
                    return self.dict_value(pointer, name);
                }
                // `Include/internal/pycore_object.h::_PyDictOrValues_GetValues` (3.12): the tag is one less than the values.
                self.split_attribute(facts, offset(pointer, 1)?, name)
            }
            ManagedDict::Inline { dict, valid, flag } if has_managed_dict => {
                let dict = self.memory.read_address(shift(object, i64::from(dict))?)?;
                if !dict.is_null() {
                    return self.dict_value(dict, name);
                }
                if facts.flags & flag == 0 {
                    return Ok(None);
                }
                let basicsize = self.field(facts.address, self.layout.type_object.basicsize)?;
                let inline = shift(object, basicsize)?;
                if self.field(inline, valid)? == 0 {
                    return Ok(None);
                }
                let DictLayout::Keys { first_value, .. } = self.layout.dict else {
                    return Ok(None);
                };
                self.split_attribute(facts, offset(inline, u64::from(first_value))?, name)
            }
            _ => {
                let at = self.field(facts.address, self.layout.type_object.dictoffset)?;
                if at <= 0 {
                    // None at all, or behind items of variable number, as no class in question has it.
                    return Ok(None);
                }
                match self.memory.read_address(shift(object, at)?)? {
                    Address::NULL => Ok(None),
                    dict => self.dict_value(dict, name),
                }
            }
        }
    }

    fn split_attribute(
        &self,
        facts: TypeFacts,
        values: Address,
        name: &str,
    ) -> Result<Option<Address>, ObjectError> {
        let (Some(cached_keys), DictLayout::Keys { keys_layout, .. }) =
            (self.layout.type_object.cached_keys, &self.layout.dict)
        else {
            return Ok(None);
        };
        if facts.flags & FLAG_HEAPTYPE == 0 || values.is_null() {
            return Ok(None);
        }
        let keys = self.pointer(facts.address, cached_keys)?;
        if keys.is_null() {
            return Ok(None);
        }
        Ok(self.find_key(
            &self.entries_of_keys(keys, *keys_layout, Some(values))?,
            name,
        ))
    }
}

fn offset(address: Address, bytes: u64) -> Result<Address, ObjectError> {
    address
        .checked_add(bytes)
        .ok_or(ReadError::Unmapped(address).into())
}

fn shift(address: Address, bytes: i64) -> Result<Address, ObjectError> {
    address
        .checked_offset(bytes)
        .ok_or(ReadError::Unmapped(address).into())
}

fn address_in(bytes: &[u8]) -> Address {
    bytes
        .first_chunk()
        .map_or(Address::NULL, |bytes| Address(u64::from_le_bytes(*bytes)))
}

/// Entries of `size` bytes that end in key and value.
fn entries(bytes: &[u8], size: u64) -> Vec<DictEntry> {
    let skip = size as usize - 16;
    let entry = |chunk: &[u8]| DictEntry {
        key: address_in(&chunk[skip..]),
        value: address_in(&chunk[skip + 8..]),
    };
    bytes.chunks_exact(size as usize).map(entry).collect()
}

/// Text from code units of 1, 2 or 4 bytes. Runs of U+DC80..U+DCFF stand for bytes that were not UTF-8 (PEP 383).
fn decode_units(bytes: &[u8], unit: u8) -> String {
    let lossy = |code: u32| char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
    match unit {
        1 => bytes.iter().map(|byte| char::from(*byte)).collect(),
        2 => {
            let units = bytes
                .chunks_exact(2)
                .map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
            char::decode_utf16(units)
                .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
                .collect()
        }
        _ => bytes
            .chunks_exact(4)
            .map(|quad| lossy(u32::from_le_bytes([quad[0], quad[1], quad[2], quad[3]])))
            .collect(),
    }
}

fn with_ellipsis(mut text: String, cut: bool) -> String {
    if cut {
        text.push('…');
    }
    text
}

/// A view of a struct that was copied whole, or an error that names its address.
pub fn copy_struct(
    memory: &dyn RemoteMemory,
    address: Address,
    size: u32,
) -> Result<Vec<u8>, ReadError> {
    memory.read_vec(address, u64::from(size), 1 << 20)
}

/// The member of a struct that was copied whole; the layout was validated to lie inside.
pub fn member<T: FromBytes>(
    bytes: &[u8],
    field: Field<T>,
    address: Address,
) -> Result<T, ReadError> {
    StructView::new(bytes)
        .get(field)
        .ok_or(ReadError::Unmapped(address))
}
