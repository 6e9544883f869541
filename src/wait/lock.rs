//! The futex call that a thread sleeps in: what kind it is, when it ends, and whose a mutex of the C library is.

use std::time::Duration;

use crate::model::Address;
use crate::sys::clock;
use crate::sys::memory::{ReadError, RemoteMemory};
use crate::target::tasks::Syscall;

use super::call::is_futex;

/// `FUTEX_*` of `include/uapi/linux/futex.h` (Linux 6.18).
const COMMANDS: u64 = 0x7f;
const WAIT: u64 = 0;
const WAIT_BITSET: u64 = 9;
const PRIVATE: u64 = 128;
const CLOCK_REALTIME: u64 = 256;
/// A mutex of the C library that somebody waits for (`nptl/lowlevellock.h`, glibc 2.36).
const CONTENDED: u32 = 2;
/// Most threads that a mutex may have waiting for it.
const MAX_USERS: u32 = 1 << 22;
/// Highest number of a thread (`PID_MAX_LIMIT`, `include/linux/threads.h`, Linux 6.18).
const MAX_TID: i32 = 1 << 22;

/// A wait on a futex.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FutexCall {
    /// The word.
    pub address: Address,
    operation: u64,
    value: u32,
    timeout: Address,
}

impl FutexCall {
    /// The call, if it is one that waits.
    pub fn of(syscall: &Syscall) -> Option<FutexCall> {
        let Syscall::In { number, arguments } = syscall else {
            return None;
        };
        // An int: the upper half of the register may hold anything.
        let operation = arguments[1] & u64::from(u32::MAX);
        let waits = matches!(operation & COMMANDS, WAIT | WAIT_BITSET);
        (is_futex(*number) && waits).then_some(FutexCall {
            address: Address(arguments[0]),
            operation,
            value: (arguments[2] & u64::from(u32::MAX)) as u32,
            timeout: Address(arguments[3]),
        })
    }

    /// Whether other processes may share the word.
    pub fn is_shared(&self) -> bool {
        self.operation & PRIVATE == 0
    }

    /// Whether it ends by itself, be it known when or not.
    pub fn has_end(&self) -> bool {
        !self.timeout.is_null()
    }

    /// In how much time it ends by itself; `None` for never, or for a wait that does not tell what is left of it.
    pub fn remaining(&self, memory: &dyn RemoteMemory) -> Option<Duration> {
        // A plain wait has the whole of its time there, and no end.
        if self.timeout.is_null() || self.operation & COMMANDS != WAIT_BITSET {
            return None;
        }
        let seconds = memory.read_u64(self.timeout).ok()?;
        let nanoseconds = memory.read_u64(self.timeout.checked_add(8)?).ok()?;
        let nanoseconds = u32::try_from(nanoseconds)
            .ok()
            .filter(|count| *count < 1_000_000_000)?;
        let end = Duration::new(seconds, nanoseconds);
        let now = if self.operation & CLOCK_REALTIME != 0 {
            std::time::SystemTime::UNIX_EPOCH.elapsed().ok()?
        } else {
            clock::now()
        };
        Some(end.saturating_sub(now))
    }

    /// The number, in its own pid namespace, of the thread that has the mutex of the C library which is waited for; `None` where
    /// the word does not look like the one of such a mutex.
    ///
    /// `sysdeps/x86/nptl/bits/struct_mutex.h::__pthread_mutex_s` (glibc 2.36): lock, count, owner, users, kind, four bytes each. Other
    /// locks of the C library have no owner behind the word, so that a number there still has to be a thread's.
    pub fn mutex_owner(&self, memory: &dyn RemoteMemory) -> Result<Option<i32>, ReadError> {
        if self.operation & COMMANDS != WAIT || self.value != CONTENDED {
            return Ok(None);
        }
        let mut bytes = [0; 20];
        memory.read(self.address, &mut bytes)?;
        let mut words = [0_u32; 5];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = chunk
                .first_chunk()
                .map_or(0, |chunk| u32::from_le_bytes(*chunk));
        }
        let [lock, count, owner, users, kind] = words;
        // Recursive (1), error-checking (2) and adaptive (3) ones, robust, inheriting and shared ones (bits 4 to 9).
        let is_sane = lock == CONTENDED && (1..=MAX_USERS).contains(&users) && kind < 1 << 10;
        let is_counted = kind & 3 == 1 || count == 0;
        let owner = i32::try_from(owner)
            .ok()
            .filter(|owner| (1..=MAX_TID).contains(owner));
        Ok(owner.filter(|_| is_sane && is_counted))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sys::memory::RecordedMemory;

    fn call(operation: u64, value: u64, timeout: u64) -> Option<FutexCall> {
        FutexCall::of(&Syscall::In {
            number: i64::from(syscalls::Sysno::futex.id()),
            arguments: [0x1000, operation, value, timeout, 0, 0],
        })
    }

    fn words(words: [u32; 5]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn only_waits_are_calls() {
        assert_eq!(call(1, 0, 0), None);
        assert!(call(128, 2, 0).is_some_and(|call| !call.is_shared()));
        assert!(call(265, 0, 0).is_some_and(|call| call.is_shared()));
    }

    #[test]
    fn the_end_of_a_wait() {
        let end = (clock::now() + Duration::from_secs(50)).as_secs();
        let memory = RecordedMemory::new().with(
            Address(0x2000),
            [end.to_le_bytes(), 0_u64.to_le_bytes()].concat(),
        );
        let left = call(128 + 9, 0, 0x2000)
            .unwrap()
            .remaining(&memory)
            .unwrap();
        assert!(left > Duration::from_secs(40) && left <= Duration::from_secs(50));
        assert_eq!(call(128 + 9, 0, 0).unwrap().remaining(&memory), None);
        assert_eq!(call(128, 0, 0x2000).unwrap().remaining(&memory), None);
        assert_eq!(call(128 + 9, 0, 0x3000).unwrap().remaining(&memory), None);
        let passed = RecordedMemory::new().with(Address(0x2000), [0; 16]);
        assert_eq!(
            call(128 + 9 + 256, 0, 0x2000).unwrap().remaining(&passed),
            Some(Duration::ZERO)
        );
    }

    #[test]
    fn the_owner_of_a_mutex() {
        let owner = |content: [u32; 5]| {
            let memory = RecordedMemory::new().with(Address(0x1000), words(content));
            call(128, 2, 0).unwrap().mutex_owner(&memory).unwrap()
        };
        assert_eq!(owner([2, 0, 77, 1, 0]), Some(77));
        assert_eq!(owner([2, 3, 77, 1, 1]), Some(77));
        assert_eq!(owner([2, 3, 77, 1, 0]), None);
        assert_eq!(owner([1, 0, 77, 1, 0]), None);
        assert_eq!(owner([2, 0, 0, 1, 0]), None);
        assert_eq!(owner([2, 0, 77, 0, 0]), None);
        assert_eq!(owner([2, 0, 77, 1, 1 << 20]), None);
        assert_eq!(owner([2, 0, u32::MAX, 1, 0]), None);
    }

    proptest! {
        #[test]
        fn garbage_is_no_panic(arguments in any::<[u64; 6]>(), bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let memory = RecordedMemory::new().with(Address(arguments[0]), bytes.clone()).with(Address(arguments[3]), bytes);
            let number = i64::from(syscalls::Sysno::futex.id());
            if let Some(call) = FutexCall::of(&Syscall::In { number, arguments }) {
                let _ = (call.remaining(&memory), call.mutex_owner(&memory));
            }
        }
    }
}
