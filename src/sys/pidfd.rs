//! A handle on a process that a reused pid can't take over.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid as RustixPid, PidfdFlags, pidfd_open};

use super::descriptors::noted;
use crate::model::Pid;

/// An open pidfd (Linux 5.3+).
#[derive(Debug)]
pub struct PidFd {
    fd: OwnedFd,
}

impl PidFd {
    /// Opens a pidfd for `pid`.
    pub fn open(pid: Pid) -> io::Result<Self> {
        let raw = RustixPid::from_raw(pid.0).ok_or(io::ErrorKind::NotFound)?;
        let fd = pidfd_open(raw, PidfdFlags::empty()).map_err(noted)?;
        Ok(PidFd { fd })
    }

    /// Another handle on the same process.
    pub fn try_clone(&self) -> io::Result<Self> {
        let fd = self.fd.try_clone().map_err(noted)?;
        Ok(PidFd { fd })
    }

    /// Whether the process has ended: it is a zombie, or reaped.
    pub fn has_ended(&self) -> bool {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        let now = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        matches!(poll(&mut fds, Some(&now)), Ok(count) if count > 0)
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_an_ended_process_from_a_living_one() {
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pidfd = PidFd::open(Pid(child.id() as i32)).unwrap();
        assert!(!pidfd.has_ended());
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(pidfd.has_ended());
    }
}
