//! An address in a target's memory.

use std::fmt;

use serde::{Serialize, Serializer};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An address in the target (an AVMA: actual virtual memory address), never one of ours.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(transparent)]
pub struct Address(pub u64);

impl Address {
    /// The null pointer.
    pub const NULL: Address = Address(0);

    /// Whether this is the null pointer.
    pub const fn is_null(self) -> bool {
        self.0 == 0
    }

    /// The address `bytes` further on, or `None` when that is no address.
    pub const fn checked_add(self, bytes: u64) -> Option<Address> {
        match self.0.checked_add(bytes) {
            Some(address) => Some(Address(address)),
            None => None,
        }
    }

    /// The address moved by `bytes`, which may be negative, or `None` when that is no address.
    pub const fn checked_offset(self, bytes: i64) -> Option<Address> {
        match self.0.checked_add_signed(bytes) {
            Some(address) => Some(Address(address)),
            None => None,
        }
    }

    /// Bytes from `start` to here, or `None` when this lies before `start`.
    pub const fn checked_sub(self, start: Address) -> Option<u64> {
        self.0.checked_sub(start.0)
    }

    /// Without the tag that CPython 3.14+ keeps in the lowest bits of stack references
    /// (`Include/internal/pycore_stackref.h`: `Py_TAG_BITS` is 3).
    pub const fn untagged(self) -> Address {
        Address(self.0 & !3)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
