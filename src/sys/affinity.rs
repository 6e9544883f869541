//! Moving the calling thread to a chosen processor and back.

use std::marker::PhantomData;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The processors that a thread may run on.
#[derive(Clone, Debug)]
pub struct Affinity(Option<CpuSet>);

impl Affinity {
    /// Those of the calling thread.
    pub fn of_this_thread() -> Self {
        Affinity(sched_getaffinity(Pid::from_raw(0)).ok())
    }

    /// Gives them to the calling thread; where that is forbidden by now, it stays where it may run.
    pub fn take(&self) {
        if let Some(set) = &self.0 {
            let _ = sched_setaffinity(Pid::from_raw(0), set);
        }
    }
}

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

    /// Moves on to another processor; false where that is forbidden, and then it stays.
    fn move_to(&mut self, processor: usize) -> bool {
        let mut only = CpuSet::new();
        let is_moved =
            only.set(processor).is_ok() && sched_setaffinity(Pid::from_raw(0), &only).is_ok();
        if is_moved {
            self.processor = processor;
        }
        is_moved
    }

    /// The processor that the thread is kept on.
    pub fn processor(&self) -> usize {
        self.processor
    }
}

/// What came of asking for a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seat {
    /// We have been there already.
    Kept,
    /// We have come there just now.
    Taken,
    /// It is forbidden.
    Refused,
}

/// The processor that the calling thread stays on while it reads threads of that processor, one after another.
#[derive(Debug, Default)]
pub struct Perch {
    pinned: Option<Pinned>,
    /// Whether the thread goes before all usual ones wherever it comes.
    goes_first: bool,
}

impl Perch {
    /// A perch of a thread that goes before all usual ones: it need not sleep to be ahead of them.
    pub fn that_goes_first(goes_first: bool) -> Self {
        Perch {
            pinned: None,
            goes_first,
        }
    }

    /// Whether the thread goes before all usual ones.
    pub fn goes_first(&self) -> bool {
        self.goes_first
    }

    /// Moves the calling thread to `processor`.
    pub fn move_to(&mut self, processor: usize) -> Seat {
        match &mut self.pinned {
            Some(pinned) if pinned.processor == processor => Seat::Kept,
            Some(pinned) => match pinned.move_to(processor) {
                true => Seat::Taken,
                false => Seat::Refused,
            },
            None => match Pinned::to(processor) {
                Some(pinned) => {
                    self.pinned = Some(pinned);
                    Seat::Taken
                }
                None => Seat::Refused,
            },
        }
    }

    /// The processor that we stay on and do run on now: a change of cpusets may have moved us all the same.
    pub fn processor(&self) -> Option<usize> {
        let processor = self.pinned.as_ref()?.processor;
        (rustix::thread::sched_getcpu() == processor).then_some(processor)
    }

    /// Gives the thread its old set of processors back.
    pub fn leave(&mut self) {
        self.pinned = None;
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

    #[test]
    fn a_perch_is_kept_until_it_is_left() {
        let own = Pid::from_raw(0);
        let before = sched_getaffinity(own).unwrap();
        let allowed: Vec<usize> = (0..CpuSet::count())
            .filter(|cpu| before.is_set(*cpu).unwrap())
            .collect();
        let (first, last) = (allowed[0], allowed[allowed.len() - 1]);
        let mut perch = Perch::default();
        assert_eq!(perch.processor(), None);
        assert_eq!(perch.move_to(first), Seat::Taken);
        assert_eq!(perch.move_to(first), Seat::Kept);
        assert_eq!(perch.move_to(CpuSet::count() - 1), Seat::Refused);
        assert_eq!(perch.processor(), Some(first));
        if last != first {
            assert_eq!(perch.move_to(last), Seat::Taken);
        }
        assert_eq!(perch.processor(), Some(last));
        perch.leave();
        assert_eq!(sched_getaffinity(own).unwrap(), before);
    }
}
