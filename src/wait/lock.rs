//! The futex call that a thread sleeps in: what kind it is, when it ends, and whose a mutex is.

use std::time::Duration;

use crate::model::Address;
use crate::sys::clock;
use crate::sys::memory::{ReadError, RemoteMemory};
use crate::target::tasks::Syscall;

use super::call::is_futex;

/// `FUTEX_*` of `include/uapi/linux/futex.h` (Linux 6.18).
const COMMANDS: u64 = 0x7f;
const WAIT: u64 = 0;
const LOCK_PI: u64 = 6;
const WAIT_BITSET: u64 = 9;
const LOCK_PI2: u64 = 13;
const PRIVATE: u64 = 128;
const CLOCK_REALTIME: u64 = 256;
/// The bits of a word that names its owner: somebody waits for it, and the owner's number.
const WAITERS: u32 = 0x8000_0000;
const TID_MASK: u32 = 0x3fff_ffff;
/// Kinds of mutexes of the C library whose word names the owner (`nptl/pthreadP.h`, glibc 2.36: robust, with priority inheritance).
const NAMES_OWNER: u32 = ROBUST | 32;
const ROBUST: u32 = 16;
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
        let waits = matches!(
            operation & COMMANDS,
            WAIT | WAIT_BITSET | LOCK_PI | LOCK_PI2
        );
        (is_futex(*number) && waits).then_some(FutexCall {
            address: Address(arguments[0]),
            operation,
            value: (arguments[2] & u64::from(u32::MAX)) as u32,
            timeout: Address(arguments[3]),
        })
    }

    /// Whether other processes may share the word, if they can have the memory that it lies in.
    pub fn is_shared(&self) -> bool {
        self.operation & PRIVATE == 0
    }

    /// Whether a time is set at which it ends by itself.
    pub fn has_end(&self) -> bool {
        !self.timeout.is_null()
    }

    /// How long it takes from its beginning until it ends by itself: a plain wait is given that, as musl's `sem_timedwait` does
    /// (`src/thread/__timedwait.c`, musl 1.2).
    pub fn total(&self, memory: &dyn RemoteMemory) -> Option<Duration> {
        let is_plain = self.operation & COMMANDS == WAIT;
        self.read_time(memory).filter(|_| is_plain)
    }

    /// In how much time it ends by itself; `None` for never, or for a wait that does not tell what is left of it.
    pub fn remaining(&self, memory: &dyn RemoteMemory) -> Option<Duration> {
        let is_on_real_time = match self.operation & COMMANDS {
            WAIT => return None,
            // By the real-time clock always (`kernel/futex/syscalls.c::do_futex`, Linux 6.18).
            LOCK_PI => true,
            _ => self.operation & CLOCK_REALTIME != 0,
        };
        let end = self.read_time(memory)?;
        let now = if is_on_real_time {
            std::time::SystemTime::UNIX_EPOCH.elapsed().ok()?
        } else {
            clock::now()
        };
        Some(end.saturating_sub(now))
    }

    /// The time that the call points to.
    fn read_time(&self, memory: &dyn RemoteMemory) -> Option<Duration> {
        if self.timeout.is_null() {
            return None;
        }
        let seconds = memory.read_u64(self.timeout).ok()?;
        let nanoseconds = memory.read_u64(self.timeout.checked_add(8)?).ok()?;
        let nanoseconds = u32::try_from(nanoseconds)
            .ok()
            .filter(|count| *count < 1_000_000_000)?;
        Some(Duration::new(seconds, nanoseconds))
    }

    /// The number, in its own pid namespace, of the thread that has the mutex which is waited for; `None` where the word does not look
    /// like the one of a mutex that names its owner.
    ///
    /// A call for a mutex with priority inheritance shows it in the word: the kernel itself reads it there (`futex(2)`). A plain wait does
    /// so only if what is around the word is a mutex of glibc. `sysdeps/x86/nptl/bits/struct_mutex.h::__pthread_mutex_s` (glibc 2.36):
    /// lock, count, owner, users, kind, four bytes each. A robust one has the owner in its lock too. Other locks of the C library have no
    /// owner behind the word, so that a number there still has to be a thread's.
    pub fn mutex_owner(&self, memory: &dyn RemoteMemory) -> Result<Option<i32>, ReadError> {
        let number = |word: u32| {
            let number = i32::try_from(word & TID_MASK).ok();
            number.filter(|number| (1..=MAX_TID).contains(number))
        };
        match self.operation & COMMANDS {
            LOCK_PI | LOCK_PI2 => {
                let mut bytes = [0; 4];
                memory.read(self.address, &mut bytes)?;
                return Ok(number(u32::from_le_bytes(bytes)));
            }
            WAIT if self.value == CONTENDED || self.value & WAITERS != 0 => {}
            _ => return Ok(None),
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
        let is_taken = if self.value & WAITERS != 0 {
            kind & NAMES_OWNER != 0 && lock & WAITERS != 0 && lock & TID_MASK == owner
        } else {
            lock == CONTENDED && owner & !TID_MASK == 0
        };
        let is_sane = is_taken && (1..=MAX_USERS).contains(&users) && kind < 1 << 10;
        // A robust one counts itself once (`nptl/pthread_mutex_lock.c::__pthread_mutex_lock_full`, glibc 2.36).
        let most = u32::from(kind & ROBUST != 0);
        let is_counted = kind & 3 == 1 || count <= most;
        Ok(number(owner).filter(|_| is_sane && is_counted))
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

    #[test]
    fn mutexes_that_name_their_owner_in_the_lock() {
        let owner = |operation, value: u32, content: [u32; 5]| {
            let memory = RecordedMemory::new().with(Address(0x1000), words(content));
            let call = call(operation, u64::from(value), 0).unwrap();
            call.mutex_owner(&memory).unwrap()
        };
        let lock = WAITERS | 77;
        // A robust mutex, which is waited for by a call that is not private wherever it is.
        assert_eq!(owner(0, lock, [lock, 1, 77, 1, 16]), Some(77));
        assert_eq!(owner(0, lock, [lock, 2, 77, 1, 16]), None);
        assert_eq!(owner(0, lock, [lock, 0, 78, 1, 16]), None);
        assert_eq!(owner(0, lock, [lock, 0, 77, 1, 0]), None);
        // The kernel reads the word itself: nothing else has to be a mutex.
        for operation in [6, 13 + 128] {
            assert_eq!(owner(operation, 0, [lock, 9, 9, 9, 9]), Some(77));
            assert_eq!(owner(operation, 0, [WAITERS, 9, 9, 9, 9]), None);
        }
    }

    #[test]
    fn a_plain_wait_is_given_how_long_it_takes() {
        let memory = RecordedMemory::new().with(
            Address(0x2000),
            [5_u64.to_le_bytes(), 0_u64.to_le_bytes()].concat(),
        );
        let plain = call(128, 0, 0x2000).unwrap();
        assert_eq!(plain.total(&memory), Some(Duration::from_secs(5)));
        assert!(plain.has_end() && plain.remaining(&memory).is_none());
        assert_eq!(call(128 + 9, 0, 0x2000).unwrap().total(&memory), None);
        assert!(!call(128, 0, 0).unwrap().has_end());
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
