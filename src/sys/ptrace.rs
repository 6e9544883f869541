//! Stopping one thread of another process for a moment, in the way that can't leave it stopped.

use std::marker::PhantomData;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use thiserror::Error;

use crate::model::Tid;

/// How long a thread may take to stop; one in uninterruptible sleep never does.
const MAX_STOP_WAIT: Duration = Duration::from_millis(200);

/// Why a thread was not stopped.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopError {
    /// The kernel refuses the attach: no right, or somebody else traces the thread.
    #[error("not permitted to stop thread {0} (or it is traced already)")]
    Denied(Tid),
    /// The thread has ended.
    #[error("thread {0} has ended")]
    Gone(Tid),
    /// It did not stop in time (uninterruptible sleep, frozen cgroup); it was left alone.
    #[error("thread {0} did not stop within {MAX_STOP_WAIT:?}")]
    Unwilling(Tid),
    /// Another failure of a call.
    #[error("stopping thread {0}: {1}")]
    Call(Tid, Errno),
}

/// A thread that stands still; dropping it lets the thread go on and detaches.
///
/// PTRACE_SEIZE is used, not PTRACE_ATTACH: it sends no signal, and the kernel detaches and resumes the thread by
/// itself when the tracer dies at any instant (`kernel/ptrace.c::exit_ptrace`, Linux 6.18).
/// All calls must come from the thread that attached, so the guard can't be sent elsewhere.
#[derive(Debug)]
pub struct StoppedThread {
    tid: Tid,
    since: Instant,
    old_mask: SigSet,
    not_send: PhantomData<*const ()>,
}

impl StoppedThread {
    /// Seizes and interrupts `tid`, and waits until it stands still.
    pub fn stop(tid: Tid) -> Result<Self, StopError> {
        let mut old_mask = SigSet::empty();
        // A signal to us between the stop and the release would lengthen the stop; SIGKILL is the kernel's affair.
        let all = SigSet::all();
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&all), Some(&mut old_mask))
            .map_err(|errno| StopError::Call(tid, errno))?;
        let since = Instant::now();
        let restore = |error| {
            let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&old_mask), None);
            error
        };
        ptrace::seize(tid.to_nix(), ptrace::Options::empty()).map_err(|errno| {
            restore(match errno {
                Errno::EPERM | Errno::EACCES => StopError::Denied(tid),
                Errno::ESRCH => StopError::Gone(tid),
                errno => StopError::Call(tid, errno),
            })
        })?;
        // From here on the guard detaches, whatever happens.
        let stopped = StoppedThread {
            tid,
            since,
            old_mask,
            not_send: PhantomData,
        };
        match ptrace::interrupt(tid.to_nix()) {
            Ok(()) => {}
            Err(Errno::ESRCH) => return Err(StopError::Gone(tid)),
            Err(errno) => return Err(StopError::Call(tid, errno)),
        }
        stopped.wait_until_stopped()?;
        Ok(stopped)
    }

    /// How long the thread has stood still so far.
    pub fn pause(&self) -> Duration {
        self.since.elapsed()
    }

    fn wait_until_stopped(&self) -> Result<(), StopError> {
        let flags = WaitPidFlag::__WALL | WaitPidFlag::WNOHANG;
        loop {
            match waitpid(self.tid.to_nix(), Some(flags)) {
                Ok(WaitStatus::StillAlive) => {
                    if self.since.elapsed() > MAX_STOP_WAIT {
                        return Err(StopError::Unwilling(self.tid));
                    }
                    std::thread::yield_now();
                }
                // A stop by a signal that is about to be delivered: it must reach the target, so pass it on and
                // wait for our own stop behind it.
                Ok(WaitStatus::Stopped(tid, signal)) => {
                    let _ = ptrace::cont(tid, signal);
                }
                // An event stop of any kind (PTRACE_EVENT_STOP, with SIGTRAP or with the signal of a job-control
                // stop when the target was stopped already) is a thread that stands still.
                Ok(WaitStatus::PtraceEvent(..)) => return Ok(()),
                Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => {
                    return Err(StopError::Gone(self.tid));
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::ECHILD | Errno::ESRCH) => return Err(StopError::Gone(self.tid)),
                Err(errno) => return Err(StopError::Call(self.tid, errno)),
            }
        }
    }
}

impl Drop for StoppedThread {
    fn drop(&mut self) {
        // PTRACE_DETACH works on a stopped tracee only. One that never stopped is waited for a moment longer; if it
        // still does not, our own end detaches it.
        let detach = || ptrace::detach(self.tid.to_nix(), None::<Signal>);
        if detach().is_err()
            && self.since.elapsed() < 2 * MAX_STOP_WAIT
            && self.wait_until_stopped().is_ok()
        {
            let _ = detach();
        }
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.old_mask), None);
    }
}
