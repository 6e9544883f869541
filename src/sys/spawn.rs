//! Starting a child that does not outlive us.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use rustix::process::{Signal, set_parent_process_death_signal};

/// Starts `command`; the kernel sends it SIGTERM when the calling thread ends in whatever way, so call it from the
/// main thread.
#[allow(unsafe_code)]
pub fn spawn_bound(command: &mut Command) -> io::Result<Child> {
    // SAFETY: between fork and exec only async-signal-safe functions may be called; this is one system call (prctl)
    // and the conversion of its error, which allocates nothing.
    unsafe {
        command.pre_exec(|| {
            set_parent_process_death_signal(Some(Signal::TERM)).map_err(io::Error::from)
        });
    }
    command.spawn()
}
