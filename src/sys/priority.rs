//! How promptly the calling thread is let run when it wakes.

use nix::errno::Errno;

/// How promptly a thread is let run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promptness {
    /// At once: it goes before all usual threads (SCHED_FIFO, lowest priority).
    AtOnce,
    /// As a rule at once: its turns are so short that it may go before threads with turns of usual length.
    ShortTurns,
    /// When whoever runs has had its turn, which takes milliseconds.
    Usual,
}

/// `struct sched_attr` (`include/uapi/linux/sched/types.h`, Linux 6.18), in its first version.
#[repr(C)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// The shortest turn that can be asked for, in nanoseconds (`kernel/sched/syscalls.c`, Linux 6.12).
const SHORTEST_TURN: u64 = 100_000;

/// Asks that the calling thread be let run as promptly as it may.
///
/// Without that a thread that wakes waits until the one that runs has used up its turn, up to 3 ms (`RUN_TO_PARITY` in
/// `kernel/sched/features.h`, Linux 6.6 and later). To go before all others takes CAP_SYS_NICE; short turns are there for
/// everybody from 6.12 on. Threads that this one starts are not favoured.
pub fn be_prompt() -> Promptness {
    if be_first().is_ok() {
        Promptness::AtOnce
    } else {
        ask_for_short_turns()
    }
}

/// The same, but never before all others: a thread that must run before it can be stopped must not be kept from it.
pub fn ask_for_short_turns() -> Promptness {
    match take_short_turns() {
        Ok(()) => Promptness::ShortTurns,
        Err(_) => Promptness::Usual,
    }
}

#[allow(unsafe_code)]
fn be_first() -> Result<(), Errno> {
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: the kernel reads the struct, which outlives the call; 0 is the calling thread.
    let result = unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) };
    Errno::result(result).map(|_| ())
}

#[allow(unsafe_code)]
fn take_short_turns() -> Result<(), Errno> {
    let attributes = SchedAttr {
        size: u32::try_from(size_of::<SchedAttr>()).unwrap_or(0),
        policy: libc::SCHED_OTHER.cast_unsigned(),
        flags: 0,
        nice: 0,
        priority: 0,
        runtime: SHORTEST_TURN,
        deadline: 0,
        period: 0,
    };
    // SAFETY: the kernel reads as many bytes of the struct as it says it has, and it outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    Errno::result(result).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(unsafe_code)]
    fn asking_gives_what_is_permitted() {
        std::thread::spawn(|| {
            let promptness = be_prompt();
            // SAFETY: it takes no pointers.
            let policy = unsafe { libc::sched_getscheduler(0) };
            let is_first = policy == libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
            assert_eq!(promptness == Promptness::AtOnce, is_first);
            assert!(take_short_turns().is_ok() || promptness != Promptness::ShortTurns);
        })
        .join()
        .unwrap();
    }
}
