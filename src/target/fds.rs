//! What the file descriptors of a target are.

use std::io;

use rustix::fs::{AtFlags, FileType, OFlags, StatxFlags, statx};

use crate::sys::procfile::ProcDir;

/// What a descriptor refers to, by its link below `/proc/PID/fd`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FdTarget {
    /// `socket:[inode]`.
    Socket {
        /// Inode in sockfs; `/proc/PID/net` lists it.
        inode: u64,
    },
    /// `pipe:[inode]`.
    Pipe {
        /// Inode in pipefs, the same for both ends.
        inode: u64,
    },
    /// `anon_inode:name`, e.g. `[eventpoll]`, `[eventfd]`, `inotify`.
    Anonymous {
        /// Its kind as the kernel names it, without brackets.
        kind: String,
    },
    /// Anything with a path.
    Path {
        /// The path in the target's mount namespace, any bytes.
        path: Vec<u8>,
    },
}

/// What descriptor `fd` refers to; needs PTRACE_MODE_READ.
pub fn read_fd(proc: &ProcDir, fd: i32) -> io::Result<FdTarget> {
    proc.read_link(&format!("fd/{fd}"))
        .map(|link| parse_fd_link(&link))
}

/// What a file is, by what is known of it without asking whoever stores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileFacts {
    /// Regular, fifo, device ...
    pub kind: FileType,
    /// Its inode.
    pub inode: u64,
    /// Its device's numbers, for a device.
    pub device: (u32, u32),
}

/// The same of the file that descriptor `fd` has open; a file system that does not answer is not asked.
pub fn file_facts(proc: &ProcDir, fd: i32) -> io::Result<FileFacts> {
    let handle = proc.open_with(format!("fd/{fd}"), OFlags::PATH)?;
    // A network file system would have to be asked whether what is known still holds.
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let found = statx(&handle, "", flags, StatxFlags::TYPE | StatxFlags::INO)?;
    Ok(FileFacts {
        kind: FileType::from_raw_mode(found.stx_mode.into()),
        inode: found.stx_ino,
        device: (found.stx_rdev_major, found.stx_rdev_minor),
    })
}

/// Whether descriptor `fd`, which has a path, is a fifo: a pipe with a name. Opens nothing.
pub fn is_fifo(proc: &ProcDir, fd: i32) -> bool {
    file_facts(proc, fd).is_ok_and(|facts| facts.kind == FileType::Fifo)
}

/// Parses the text of a descriptor's link.
pub fn parse_fd_link(link: &[u8]) -> FdTarget {
    let inode = |prefix: &[u8]| {
        let number = link.strip_prefix(prefix)?.strip_suffix(b"]")?;
        std::str::from_utf8(number).ok()?.parse().ok()
    };
    if let Some(inode) = inode(b"socket:[") {
        return FdTarget::Socket { inode };
    }
    if let Some(inode) = inode(b"pipe:[") {
        return FdTarget::Pipe { inode };
    }
    match link.strip_prefix(b"anon_inode:") {
        Some(kind) => FdTarget::Anonymous {
            kind: String::from_utf8_lossy(kind)
                .trim_matches(['[', ']'])
                .to_owned(),
        },
        None => FdTarget::Path {
            path: link.to_vec(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_link() {
        assert_eq!(
            parse_fd_link(b"socket:[12]"),
            FdTarget::Socket { inode: 12 }
        );
        assert_eq!(parse_fd_link(b"pipe:[7]"), FdTarget::Pipe { inode: 7 });
        assert_eq!(
            parse_fd_link(b"anon_inode:[eventpoll]"),
            FdTarget::Anonymous {
                kind: "eventpoll".into()
            }
        );
        assert_eq!(
            parse_fd_link(b"anon_inode:inotify"),
            FdTarget::Anonymous {
                kind: "inotify".into()
            }
        );
        assert_eq!(
            parse_fd_link(b"/tmp/\xff"),
            FdTarget::Path {
                path: b"/tmp/\xff".to_vec()
            }
        );
        assert_eq!(
            parse_fd_link(b"socket:[x]"),
            FdTarget::Path {
                path: b"socket:[x]".to_vec()
            }
        );
    }
}
