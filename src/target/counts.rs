//! How many bytes a process has moved, as the kernel has counted.

use std::hash::Hasher;

use rustc_hash::FxHasher;

use crate::model::ProcessCounts;
use crate::sys::socket::BorrowedSocket;
use crate::target::fds::{FdTarget, read_fd};
use crate::target::sockets::Sockets;

/// Most descriptors of a process that are looked at for connections.
const MAX_DESCRIPTORS: usize = 1024;
/// Most connections whose bytes are added up.
const MAX_CONNECTIONS: usize = 256;

/// Bytes in and out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Moved {
    read: u64,
    written: u64,
}

/// The counts of bytes of the process that `sockets` looks at, as they are now; nothing where not all of them can be had.
pub fn read_counts(sockets: &Sockets<'_>) -> ProcessCounts {
    let proc = sockets.target().proc();
    let files = proc.read_record("io").ok();
    let files = files.and_then(|bytes| parse_io(&bytes));
    let moved = files.zip(count_connections(sockets));
    // A connection may be closed meanwhile: the sums can shrink, which is a change too.
    let sum = |one: u64, other: u64| one.wrapping_add(other);
    ProcessCounts {
        read_bytes: moved.map(|(files, (sockets, _))| sum(files.read, sockets.read)),
        written_bytes: moved.map(|(files, (sockets, _))| sum(files.written, sockets.written)),
        sockets: moved.map(|(_, (_, inodes))| inodes),
        throttled: None,
    }
}

/// Parses `/proc/PID/io`: what `read` and `write` and their kin moved, not what `recv` and `send` did (`fs/read_write.c`,
/// `add_rchar`, Linux 6.18).
fn parse_io(bytes: &[u8]) -> Option<Moved> {
    let text = std::str::from_utf8(bytes).ok()?;
    let number = |name: &str| {
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        value.trim().parse().ok()
    };
    Some(Moved {
        read: number("rchar")?,
        written: number("wchar")?,
    })
}

/// What all of its TCP connections have moved, of those that are open now, and a number that stands for which sockets it has. Nothing
/// where we may not borrow them, or they are too many.
fn count_connections(sockets: &Sockets<'_>) -> Option<(Moved, u64)> {
    let proc = sockets.target().proc();
    let fds = proc.list_numbers("fd").ok()?;
    if fds.len() > MAX_DESCRIPTORS {
        return None;
    }
    let mut hasher = FxHasher::default();
    let mut found = Vec::new();
    for fd in fds {
        if let Ok(FdTarget::Socket { inode }) = read_fd(proc, fd) {
            found.push(fd);
            hasher.write_u64(inode);
        }
    }
    if found.len() > MAX_CONNECTIONS {
        return None;
    }
    if found.is_empty() {
        return Some((Moved::default(), hasher.finish()));
    }
    let moved = sockets.borrow(move |pidfd| {
        let mut sum = Moved::default();
        for fd in found {
            match BorrowedSocket::borrow(pidfd, fd).and_then(|socket| socket.facts()) {
                Ok(facts) => {
                    if let Some(tcp) = facts.tcp {
                        sum.read = sum.read.wrapping_add(tcp.bytes_received);
                        sum.written = sum.written.wrapping_add(tcp.bytes_acked);
                    }
                }
                // It was closed meanwhile, which shows in the inodes.
                Err(error) if error.raw_os_error() == Some(libc::EBADF) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(sum)
    });
    Some((moved?, hasher.finish()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_the_kernel() {
        let text = b"rchar: 120\nwchar: 7\nsyscr: 3\nsyscw: 1\nread_bytes: 0\n";
        let moved = Moved {
            read: 120,
            written: 7,
        };
        assert_eq!(parse_io(text), Some(moved));
        assert_eq!(parse_io(b"rchar: 120\n"), None);
        assert_eq!(parse_io(b"rubbish"), None);
    }
}
