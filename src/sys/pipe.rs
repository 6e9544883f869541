//! What a pipe of another process holds, by a moment's own handle on it; nothing is read out of it.

use std::io;
use std::os::fd::AsFd;

use rustix::process::{PidfdGetfdFlags, pidfd_getfd};

use super::pidfd::PidFd;

use super::descriptors::noted;

/// How full a pipe is, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PipeFacts {
    /// What is in it (`FIONREAD`).
    pub fill: u64,
    /// What it can hold (`F_GETPIPE_SZ`).
    pub capacity: u64,
}

/// Asks about descriptor `fd` of the process (`pidfd_getfd`, Linux 5.6; PTRACE_MODE_ATTACH); fails when it is no pipe.
///
/// The duplicate lives only in here: while it does, the target's own close does not end the pipe.
pub fn pipe_facts(process: &PidFd, fd: i32) -> io::Result<PipeFacts> {
    let pipe = pidfd_getfd(process.as_fd(), fd, PidfdGetfdFlags::empty()).map_err(noted)?;
    let capacity = rustix::pipe::fcntl_getpipe_size(&pipe);
    let fill = rustix::io::ioctl_fionread(&pipe);
    drop(pipe);
    Ok(PipeFacts {
        fill: fill?,
        capacity: u64::try_from(capacity?).map_err(|_| io::ErrorKind::InvalidData)?,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::model::Pid;

    #[test]
    fn what_was_written_is_in_it() {
        let own = PidFd::open(Pid::own()).unwrap();
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"seven b").unwrap();
        let facts = pipe_facts(&own, reader.as_raw_fd()).unwrap();
        assert_eq!(facts.fill, 7);
        assert!(facts.capacity >= 4096);
        let file = std::fs::File::open("/proc/self/stat").unwrap();
        assert!(pipe_facts(&own, file.as_raw_fd()).is_err());
    }
}
