//! Stopping one thread of another process for a moment, in the way that can't leave it stopped.

use std::cell::Cell;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
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
    has_stopped: Cell<bool>,
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
            has_stopped: Cell::new(false),
            not_send: PhantomData,
        };
        match ptrace::interrupt(tid.to_nix()) {
            Ok(()) => {}
            Err(Errno::ESRCH) => return Err(StopError::Gone(tid)),
            Err(errno) => return Err(StopError::Call(tid, errno)),
        }
        stopped.wait_until_stopped()?;
        stopped.has_stopped.set(true);
        Ok(stopped)
    }

    /// How long the thread has stood still so far.
    pub fn pause(&self) -> Duration {
        self.since.elapsed()
    }

    fn wait_until_stopped(&self) -> Result<(), StopError> {
        loop {
            match wait_once(self.tid) {
                Ok(None) => {
                    if self.since.elapsed() > MAX_STOP_WAIT {
                        return Err(StopError::Unwilling(self.tid));
                    }
                    std::thread::yield_now();
                }
                // A stop by a signal that is about to be delivered: it must reach the target, so pass it on and
                // wait for our own stop behind it.
                Ok(Some(Stop::BySignal(signal))) => {
                    // It fails only when the thread has been killed meanwhile, which the next wait tells.
                    let _ = resume(libc::PTRACE_CONT, self.tid, signal);
                }
                Ok(Some(Stop::ByEvent)) => return Ok(()),
                Ok(Some(Stop::Ended)) | Err(Errno::ECHILD | Errno::ESRCH) => {
                    return Err(StopError::Gone(self.tid));
                }
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(StopError::Call(self.tid, errno)),
            }
        }
    }
}

/// Why a traced thread reports.
enum Stop {
    /// An event stop of any kind: PTRACE_EVENT_STOP, with SIGTRAP or with the signal of a job-control stop when the
    /// target was stopped already. The thread stands still.
    ByEvent,
    /// This signal is about to be delivered to it; real-time signals have numbers that no enumeration has.
    BySignal(libc::c_int),
    /// It has ended.
    Ended,
}

/// Asks once, without waiting, whether the thread has stopped.
#[allow(unsafe_code)]
fn wait_once(tid: Tid) -> Result<Option<Stop>, Errno> {
    let mut status = 0;
    // SAFETY: `status` is a valid place for one int, and waitpid writes nothing else.
    let found = unsafe { libc::waitpid(tid.0, &raw mut status, libc::__WALL | libc::WNOHANG) };
    match found {
        -1 => Err(Errno::last()),
        0 => Ok(None),
        _ if !libc::WIFSTOPPED(status) => Ok(Some(Stop::Ended)),
        _ if status >> 16 != 0 => Ok(Some(Stop::ByEvent)),
        _ => Ok(Some(Stop::BySignal(libc::WSTOPSIG(status)))),
    }
}

/// Lets a stopped thread go on by PTRACE_CONT or PTRACE_DETACH, with a signal to deliver or 0.
#[allow(unsafe_code)]
fn resume(request: libc::c_uint, tid: Tid, signal: libc::c_int) -> Result<(), Errno> {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: for these two requests the address is ignored and the data is a signal number, not a pointer to anything.
    let result = unsafe { libc::ptrace(request, tid.0, none, libc::c_long::from(signal)) };
    Errno::result(result).map(drop)
}

impl Drop for StoppedThread {
    fn drop(&mut self) {
        // PTRACE_DETACH works on a stopped tracee only. One that never stopped is waited for a moment longer; if it
        // still does not, our own end detaches it. A signal that it reports instead goes along, so that none is lost.
        while !self.has_stopped.get() && self.since.elapsed() < 2 * MAX_STOP_WAIT {
            match wait_once(self.tid) {
                Ok(None) => std::thread::yield_now(),
                Ok(Some(Stop::ByEvent)) => self.has_stopped.set(true),
                Ok(Some(Stop::BySignal(signal))) => {
                    let _ = resume(libc::PTRACE_DETACH, self.tid, signal);
                    break;
                }
                Ok(Some(Stop::Ended)) => break,
                Err(Errno::EINTR) => {}
                Err(_) => break,
            }
        }
        if self.has_stopped.get() {
            let _ = resume(libc::PTRACE_DETACH, self.tid, 0);
        }
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.old_mask), None);
    }
}
