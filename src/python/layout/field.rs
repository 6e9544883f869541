//! Typed member offsets and bounded views of structs copied from a target; no I/O, no version knowledge.

use std::marker::PhantomData;

use zerocopy::FromBytes;

use crate::model::Address;

/// Offset in bytes of a member of type `T` inside its C struct.
///
/// `T` is what is read from the target: an integer of the member's width, or [`Address`] for a pointer.
pub struct Field<T> {
    offset: u32,
    member: PhantomData<fn() -> T>,
}

impl<T> Field<T> {
    /// The member at `offset` bytes from the start of its struct.
    pub const fn at(offset: u32) -> Self {
        Field {
            offset,
            member: PhantomData,
        }
    }

    /// Offset in bytes from the start of the struct.
    pub const fn offset(self) -> u64 {
        self.offset as u64
    }

    /// The member of a struct whose size has grown from `from` to `to` bytes before it.
    pub const fn moved(self, from: u32, to: u32) -> Option<Self> {
        match self
            .offset
            .checked_add_signed(to.wrapping_sub(from).cast_signed())
        {
            Some(offset) => Some(Field::at(offset)),
            None => None,
        }
    }

    /// Offset of the first byte behind the member.
    pub const fn end(self) -> usize {
        self.offset as usize + size_of::<T>()
    }
}

impl<T> Clone for Field<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Field<T> {}

impl<T> PartialEq for Field<T> {
    fn eq(&self, other: &Self) -> bool {
        self.offset == other.offset
    }
}

impl<T> Eq for Field<T> {}

impl<T> std::fmt::Debug for Field<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "+{}", self.offset)
    }
}

/// A struct of the target as bytes copied from it, read member by member.
#[derive(Clone, Copy, Debug)]
pub struct StructView<'a> {
    bytes: &'a [u8],
}

impl<'a> StructView<'a> {
    /// A view of `bytes`, which start at the struct's first byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        StructView { bytes }
    }

    /// The member, or `None` when the copy does not reach that far.
    pub fn get<T: FromBytes>(&self, field: Field<T>) -> Option<T> {
        let start = field.offset as usize;
        let bytes = self.bytes.get(start..start.checked_add(size_of::<T>())?)?;
        T::read_from_bytes(bytes).ok()
    }

    /// The pointer member without the tag bits that newer versions keep in its low bits.
    pub fn pointer(&self, field: Field<Address>) -> Option<Address> {
        self.get(field).map(Address::untagged)
    }
}
