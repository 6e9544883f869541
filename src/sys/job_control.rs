//! Being suspended (SIGTSTP, Ctrl-Z) only while no thread of a target is stopped by us.

use std::marker::PhantomData;

use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};

/// While it lives, the calling thread and those that it starts leave SIGTSTP to a thread of ours that takes it
/// ([`TracerSignals`]): a process is suspended as a whole, as soon as one of its threads takes the signal
/// (`kernel/signal.c::do_signal_stop`, Linux 6.18). SIGSTOP can't be deferred by anybody.
#[derive(Debug)]
pub struct DeferredSuspension {
    before: Option<SigSet>,
    /// The mask is that of the calling thread.
    not_send: PhantomData<*const ()>,
}

impl DeferredSuspension {
    /// Begins it. Programs that are started meanwhile would inherit it.
    pub fn begin() -> Self {
        let mut before = SigSet::empty();
        let mut suspension = SigSet::empty();
        suspension.add(Signal::SIGTSTP);
        let blocked = pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&suspension), Some(&mut before));
        DeferredSuspension {
            before: blocked.is_ok().then_some(before),
            not_send: PhantomData,
        }
    }
}

impl Drop for DeferredSuspension {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(before), None);
        }
    }
}

/// Which signals a thread takes that stops others: SIGTSTP between two stops, else none. SIGKILL is the kernel's affair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TracerSignals {
    /// SIGTSTP.
    Suspension,
    /// None.
    None,
}

impl TracerSignals {
    /// Takes these and no others from now on.
    pub fn take(self) {
        let mut blocked = SigSet::all();
        if self == TracerSignals::Suspension {
            blocked.remove(Signal::SIGTSTP);
        }
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&blocked), None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_mask_comes_back() {
        let mask = || SigSet::thread_get_mask().unwrap();
        let before = mask();
        let deferred = DeferredSuspension::begin();
        assert!(mask().contains(Signal::SIGTSTP));
        drop(deferred);
        assert_eq!(mask(), before);
        let taken = std::thread::spawn(|| {
            TracerSignals::Suspension.take();
            let between = SigSet::thread_get_mask().unwrap();
            TracerSignals::None.take();
            let during = SigSet::thread_get_mask().unwrap();
            [between, during].map(|mask| mask.contains(Signal::SIGTSTP))
        });
        assert_eq!(taken.join().unwrap(), [false, true]);
    }
}
