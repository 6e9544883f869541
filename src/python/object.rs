//! Python's basic objects - types, str, bytes, int - read from a target's memory by a layout table.
//!
//! All of it may be garbage or change while it is read: each length has a limit, each type is checked before the object
//! is believed, and nothing here loops longer than its limits say.

use smallvec::SmallVec;
use thiserror::Error;
use zerocopy::FromBytes;

use super::layout::{Field, Layout, StructView, UnicodeLayout};
use crate::model::Address;
use crate::sys::memory::{ReadError, RemoteMemory};

/// Most code points of a text that are read; what is longer is cut and ends in an ellipsis.
pub const MAX_TEXT: u64 = 4096;
/// Most digits of an int that are read: 64 bits need three of 30 bits or five of 15.
const MAX_DIGITS: u64 = 5;
/// Most bytes of a struct that is copied whole; the largest known has less than 1 KiB.
const MAX_STRUCT: usize = 16 << 10;
/// Longest name of a type.
const MAX_TYPE_NAME: usize = 256;

/// `Py_TPFLAGS_*` (`Include/object.h`, the same in 2.7 and 3.6-3.15).
pub(super) const FLAG_INT_SUBCLASS: u64 = 1 << 23;
pub(super) const FLAG_LONG_SUBCLASS: u64 = 1 << 24;
pub(super) const FLAG_LIST_SUBCLASS: u64 = 1 << 25;
pub(super) const FLAG_TUPLE_SUBCLASS: u64 = 1 << 26;
pub(super) const FLAG_BYTES_SUBCLASS: u64 = 1 << 27;
pub(super) const FLAG_UNICODE_SUBCLASS: u64 = 1 << 28;
pub(super) const FLAG_DICT_SUBCLASS: u64 = 1 << 29;
pub(super) const FLAG_TYPE_SUBCLASS: u64 = 1 << 31;
pub(super) const FLAG_HEAPTYPE: u64 = 1 << 9;
/// `Py_TPFLAGS_MANAGED_DICT` (3.11+).
pub(super) const FLAG_MANAGED_DICT: u64 = 1 << 4;

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

impl<'a> ObjectReader<'a> {
    pub(super) fn field<T: FromBytes>(
        &self,
        address: Address,
        field: Field<T>,
    ) -> Result<T, ObjectError> {
        let mut bytes = [0; 8];
        let size = size_of::<T>();
        let bytes = bytes
            .get_mut(..size)
            .ok_or(ReadError::TooLarge(size as u64))?;
        self.memory.read(offset(address, field.offset())?, bytes)?;
        T::read_from_bytes(bytes).map_err(|_| ReadError::Unmapped(address).into())
    }

    pub(super) fn pointer(
        &self,
        address: Address,
        field: Field<Address>,
    ) -> Result<Address, ObjectError> {
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
        self.c_string(name)?.ok_or(ObjectError::Garbage {
            address: type_object,
            what: "name without an end",
        })
    }

    /// The text that ends with a zero byte, or `None` when none comes within 256 bytes.
    pub(super) fn c_string(&self, at: Address) -> Result<Option<String>, ObjectError> {
        let mut text = Vec::new();
        let mut piece = [0; 16];
        while text.len() < MAX_TYPE_NAME {
            self.memory
                .read(offset(at, text.len() as u64)?, &mut piece)?;
            match piece.iter().position(|byte| *byte == 0) {
                Some(end) => {
                    text.extend_from_slice(&piece[..end]);
                    return Ok(Some(String::from_utf8_lossy(&text).into_owned()));
                }
                None => text.extend_from_slice(&piece),
            }
        }
        Ok(None)
    }

    pub(super) fn require(
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
        self.text_up_to(object, MAX_TEXT)
    }

    /// The same with at most `limit` (no more than 4,096) code points.
    pub fn text_up_to(&self, object: Address, limit: u64) -> Result<String, ObjectError> {
        let (text, length) = self.text_part(object, limit)?;
        Ok(with_ellipsis(text, length > limit))
    }

    /// At most `limit` (no more than 4,096) code points of a text - `str`, or in 2.7 `str` or `unicode` - and how many it
    /// has; the `str` of 2.7 is counted in bytes.
    pub fn text_part(&self, object: Address, limit: u64) -> Result<(String, u64), ObjectError> {
        let facts = self.type_facts(object)?;
        if facts.flags & FLAG_UNICODE_SUBCLASS != 0 {
            return self.unicode(object, limit);
        }
        if facts.flags & FLAG_BYTES_SUBCLASS != 0 && self.layout.version.0 == 2 {
            let (bytes, length) = self.bytes_content(object, limit)?;
            return Ok((String::from_utf8_lossy(&bytes).into_owned(), length));
        }
        Err(ObjectError::WrongType {
            address: object,
            expected: "text",
        })
    }

    /// At most `limit` (no more than 4,096) code points of a `str` (`unicode` in 2.7), and how many it has. In a 2.7 build
    /// of narrow code units, these are counted. The type is not looked at.
    pub(super) fn unicode(
        &self,
        object: Address,
        limit: u64,
    ) -> Result<(String, u64), ObjectError> {
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
        if length > limit {
            // Its end is looked at, so that garbage is not taken for a long text: there is always a zero behind it.
            let end = length
                .checked_mul(u64::from(unit))
                .and_then(|bytes| data.checked_add(bytes));
            let mut last = [0; 1];
            self.memory
                .read(end.ok_or(garbage("length of a text"))?, &mut last)?;
            if last != [0] {
                return Err(garbage("end of a text"));
            }
        }
        let size = length.min(limit) * u64::from(unit);
        let bytes = self.memory.read_vec(data, size, MAX_TEXT * 4)?;
        Ok((decode_units(&bytes, unit), length))
    }

    /// The content of a `bytes` object.
    pub fn bytes(&self, object: Address, limit: u64) -> Result<Vec<u8>, ObjectError> {
        self.require(object, FLAG_BYTES_SUBCLASS, "bytes")?;
        let size = self.var_size(object)?;
        let data = offset(object, self.layout.bytes.data.offset())?;
        Ok(self.memory.read_vec(data, size, limit)?)
    }

    /// At most `limit` (no more than 4,096) bytes of a `bytes` object, and how many it has. The type is not looked at.
    pub(super) fn bytes_content(
        &self,
        object: Address,
        limit: u64,
    ) -> Result<(Vec<u8>, u64), ObjectError> {
        let size = self.var_size(object)?;
        let data = offset(object, self.layout.bytes.data.offset())?;
        if size > limit {
            // As for texts.
            let mut last = [0; 1];
            self.memory.read(offset(data, size)?, &mut last)?;
            if last != [0] {
                return Err(ObjectError::Garbage {
                    address: object,
                    what: "end of its bytes",
                });
            }
        }
        let bytes = self.memory.read_vec(data, size.min(limit), MAX_TEXT)?;
        Ok((bytes, size))
    }

    pub(super) fn var_size(&self, object: Address) -> Result<u64, ObjectError> {
        let size = self.field(object, self.layout.object.ob_size)?;
        u64::try_from(size).map_err(|_| ObjectError::Garbage {
            address: object,
            what: "negative size",
        })
    }

    /// How many digits a `long` (3.x: `int`) has, and whether it is negative. The type is not looked at.
    pub(super) fn digit_count(&self, object: Address) -> Result<(u64, bool), ObjectError> {
        Ok(match self.layout.int.tag {
            Some(tag) => {
                let tag = self.field(object, tag)?;
                (tag >> 3, tag & 3 == 2)
            }
            None => {
                let size = self.field(object, self.layout.object.ob_size)?;
                (size.unsigned_abs(), size < 0)
            }
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
        let (digits, negative) = self.digit_count(object)?;
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
            if value >> (u128::BITS - u32::from(layout.digit_bits)) != 0 {
                return Err(ReadError::TooLarge(digits).into());
            }
            value = value << layout.digit_bits | digit;
        }
        let value = u64::try_from(value).map_err(|_| ReadError::TooLarge(digits))?;
        Ok(if negative {
            value.wrapping_neg()
        } else {
            value
        })
    }
}

pub(super) fn offset(address: Address, bytes: u64) -> Result<Address, ObjectError> {
    address
        .checked_add(bytes)
        .ok_or(ReadError::Unmapped(address).into())
}

pub(super) fn shift(address: Address, bytes: i64) -> Result<Address, ObjectError> {
    address
        .checked_offset(bytes)
        .ok_or(ReadError::Unmapped(address).into())
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

/// A copy of a struct; those of usual size need no memory of their own.
pub type StructCopy = SmallVec<[u8; 512]>;

/// A struct copied whole.
pub fn copy_struct(
    memory: &dyn RemoteMemory,
    address: Address,
    size: u32,
) -> Result<StructCopy, ReadError> {
    let length = usize::try_from(size)
        .ok()
        .filter(|length| *length <= MAX_STRUCT);
    let length = length.ok_or(ReadError::TooLarge(u64::from(size)))?;
    let mut bytes = StructCopy::from_elem(0, length);
    memory.read(address, &mut bytes)?;
    Ok(bytes)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::python::testing::{Builder, all_layouts};

    fn reader(builder: &Builder) -> ObjectReader<'_> {
        ObjectReader {
            memory: builder,
            layout: builder.layout,
        }
    }

    proptest! {
        #[test]
        fn texts_and_numbers_come_back_on_every_version(text in any::<String>(), number in any::<u64>()) {
            for layout in all_layouts() {
                let mut builder = Builder::new(layout);
                let (text_at, number_at) = (builder.text(&text), builder.int(number));
                prop_assert_eq!(reader(&builder).text(text_at), Ok(text.clone()), "{:?}", layout.version);
                prop_assert_eq!(reader(&builder).unsigned(number_at), Ok(number), "{:?}", layout.version);
            }
        }

        #[test]
        fn garbage_is_an_error_or_some_value(bytes in proptest::collection::vec(any::<u8>(), 64..512), at in 0_u64..64) {
            for layout in all_layouts() {
                let mut builder = Builder::new(layout);
                let object = builder.put(&bytes);
                let object = Address(object.0 + at);
                let _ = reader(&builder).text(object);
                let _ = reader(&builder).unsigned(object);
                let _ = reader(&builder).dict_entries(object);
                let _ = reader(&builder).attribute(object, "name");
            }
        }
    }

    #[test]
    fn one_type_is_not_taken_for_another() {
        for layout in all_layouts() {
            let mut builder = Builder::new(layout);
            let number = builder.int(7);
            let wrong = ObjectError::WrongType {
                address: number,
                expected: "text",
            };
            assert_eq!(reader(&builder).text(number), Err(wrong));
            let text = builder.text("x");
            assert!(reader(&builder).unsigned(text).is_err());
            assert!(reader(&builder).dict_entries(text).is_err());
            assert!(reader(&builder).text(Address::NULL).is_err());
        }
    }

    #[test]
    fn a_long_text_is_cut_and_says_so() {
        for layout in all_layouts() {
            let mut builder = Builder::new(layout);
            let long = builder.text(&"x".repeat(100_000));
            let text = reader(&builder).text(long).unwrap();
            assert_eq!(text.chars().count() as u64, MAX_TEXT + 1);
            assert!(text.ends_with("x…"));
        }
    }

    #[test]
    fn a_size_that_can_not_be_is_refused_before_anything_is_read() {
        for layout in all_layouts() {
            let mut builder = Builder::new(layout);
            let object = builder.bytes(b"abc");
            builder.set(object, layout.object.ob_size, u64::MAX);
            assert!(reader(&builder).bytes(object, 100).is_err());
            builder.set(object, layout.object.ob_size, 1 << 40);
            assert_eq!(
                reader(&builder).bytes(object, 100),
                Err(ReadError::TooLarge(1 << 40).into())
            );
        }
    }

    #[test]
    fn a_number_of_more_than_64_bits_is_refused() {
        for layout in all_layouts() {
            let mut builder = Builder::new(layout);
            let digits = vec![0x3f; 5 * 4];
            let number = builder.int(7);
            let large = builder.put(&[0; 64]);
            let head: Vec<u8> = {
                let mut head = vec![0; layout.int.digits.offset() as usize];
                builder.read(number, &mut head).unwrap();
                head
            };
            builder.overwrite(large, &head);
            builder.overwrite(Address(large.0 + head.len() as u64), &digits);
            match layout.int.tag {
                Some(tag) => builder.set(large, tag, 5 << 3),
                None => builder.set(large, layout.object.ob_size, 5),
            }
            assert!(
                reader(&builder).unsigned(large).is_err(),
                "{:?}",
                layout.version
            );
        }
    }

    #[test]
    fn lone_surrogates_are_replaced() {
        assert_eq!(decode_units(&[0x41, 0, 0xff, 0xdc], 2), "A\u{fffd}");
        assert_eq!(decode_units(&[0xff, 0xdc, 0, 0], 4), "\u{fffd}");
    }
}
