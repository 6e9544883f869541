//! How many bytes a process has moved, as the kernel has counted.

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

/// The counts of bytes of the process that `sockets` looks at, as they are now.
pub fn read_counts(sockets: &Sockets<'_>) -> ProcessCounts {
    let proc = sockets.target().proc();
    let files = proc.read_record("io").ok();
    let files = files.and_then(|bytes| parse_io(&bytes));
    let connections = count_connections(sockets);
    // A connection may be closed meanwhile: the sums can shrink, which is a change too.
    let moved = files.map(|files| Moved {
        read: files.read.wrapping_add(connections.read),
        written: files.written.wrapping_add(connections.written),
    });
    ProcessCounts {
        read_bytes: moved.map(|moved| moved.read),
        written_bytes: moved.map(|moved| moved.written),
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

/// What all of its TCP connections have moved, of those that are open now. Nothing where we may not borrow them.
fn count_connections(sockets: &Sockets<'_>) -> Moved {
    let proc = sockets.target().proc();
    let fds = proc.list_numbers("fd").unwrap_or_default();
    let is_socket = |fd: &i32| matches!(read_fd(proc, *fd), Ok(FdTarget::Socket { .. }));
    let fds = fds.into_iter().take(MAX_DESCRIPTORS).filter(is_socket);
    let fds: Vec<i32> = fds.take(MAX_CONNECTIONS).collect();
    if fds.is_empty() {
        return Moved::default();
    }
    let moved = sockets.borrow(move |pidfd| {
        let mut sum = Moved::default();
        for fd in fds {
            let facts = BorrowedSocket::borrow(pidfd, fd).and_then(|socket| socket.facts());
            if let Some(tcp) = facts.ok().and_then(|facts| facts.tcp) {
                sum.read = sum.read.wrapping_add(tcp.bytes_received);
                sum.written = sum.written.wrapping_add(tcp.bytes_acked);
            }
        }
        Ok(sum)
    });
    moved.unwrap_or_default()
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
