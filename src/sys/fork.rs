//! Splitting this process in two at its start, so that one half can end when the other can't. No policy.

use std::io;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::unistd::{ForkResult, fork, getppid};
use rustix::process::{Signal, getpid, kill_process, set_parent_process_death_signal};

use crate::model::Pid;

/// The pid of the other half, in the half that works; 0 elsewhere.
static SUPERVISOR: AtomicI32 = AtomicI32::new(0);

/// Which half this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// The one that was started; the other has this pid.
    Supervisor(Pid),
    /// The new one. The kernel kills it when the supervisor ends in whatever way.
    Worker,
}

/// Splits the process. To be called before any thread is started: a lock that another thread holds would be held for ever
/// in the worker.
#[allow(unsafe_code)]
pub fn split() -> io::Result<Half> {
    let supervisor = Pid::own();
    // SAFETY: the process has one thread, as the caller guarantees, so that the child may do whatever the parent may.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(Half::Supervisor(Pid(child.as_raw()))),
        ForkResult::Child => {
            SUPERVISOR.store(supervisor.0, Ordering::Relaxed);
            set_parent_process_death_signal(Some(Signal::KILL))?;
            if getppid().as_raw() != supervisor.0 {
                // It ended before the kernel was asked to kill us then.
                let _ = kill_process(getpid(), Signal::KILL);
            }
            Ok(Half::Worker)
        }
    }
}

/// Whether this is a process of this run of stuckspy: its worker, or the supervisor of that.
pub fn is_ours(pid: Pid) -> bool {
    pid == Pid::own() || pid.0 == SUPERVISOR.load(Ordering::Relaxed)
}
