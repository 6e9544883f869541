//! Moving the calling thread to a chosen processor and back.

use std::marker::PhantomData;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// While it lives, the calling thread runs on one processor only; dropping it gives the thread its old set back.
#[derive(Debug)]
pub struct Pinned {
    processor: usize,
    before: CpuSet,
    /// The affinity is that of the calling thread: the guard must not move to another.
    not_send: PhantomData<*const ()>,
}

impl Pinned {
    /// Moves the calling thread to `processor`; `None` where a cpuset or a refusal forbids it.
    pub fn to(processor: usize) -> Option<Self> {
        let before = sched_getaffinity(Pid::from_raw(0)).ok()?;
        let mut only = CpuSet::new();
        only.set(processor).ok()?;
        sched_setaffinity(Pid::from_raw(0), &only).ok()?;
        Some(Pinned {
            processor,
            before,
            not_send: PhantomData,
        })
    }

    /// The processor that the thread is kept on.
    pub fn processor(&self) -> usize {
        self.processor
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // The old set was in force a moment ago; where it has been forbidden since, the kernel has chosen for us.
        let _ = sched_setaffinity(Pid::from_raw(0), &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_and_gives_the_old_set_back() {
        let own = Pid::from_raw(0);
        let before = sched_getaffinity(own).unwrap();
        let allowed = (0..CpuSet::count())
            .find(|cpu| before.is_set(*cpu).unwrap())
            .unwrap();
        let pinned = Pinned::to(allowed).unwrap();
        assert_eq!(pinned.processor(), allowed);
        assert_eq!(rustix::thread::sched_getcpu(), allowed);
        drop(pinned);
        assert_eq!(sched_getaffinity(own).unwrap(), before);
        assert!(Pinned::to(CpuSet::count() - 1).is_none());
    }
}
