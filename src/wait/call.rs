//! System calls by their numbers, and what their registers hold.

use syscalls::Sysno;

/// Whether the call with this number is `futex`.
pub fn is_futex(number: i64) -> bool {
    sysno(number) == Some(Sysno::futex)
}

/// The call with this number.
pub(super) fn sysno(number: i64) -> Option<Sysno> {
    Sysno::new(usize::try_from(number).ok()?)
}

/// The kernel takes an int: the upper half of the register may hold anything.
pub(super) fn fd_of(argument: u64) -> Option<i32> {
    i32::try_from(argument & u64::from(u32::MAX)).ok()
}
