//! The TCP connections of a process, with what TCP has counted on each.

use crate::model::{Pid, Socket, SocketKind};
use crate::target::Target;
use crate::target::fds::{FdTarget, read_fd};
use crate::target::sockets::Sockets;

/// Most descriptors of a process that are looked at, and most of its sockets that are asked about.
const MAX_DESCRIPTORS: usize = 1024;
const MAX_SOCKETS: usize = 128;

/// The TCP sockets of a process that have, or want, a peer; in the order of their descriptors, the first of very many.
pub fn list_connections(pid: Pid) -> Vec<Socket> {
    let Ok(target) = Target::open(pid) else {
        return Vec::new();
    };
    let sockets = Sockets::new(&target, false);
    let fds = target.proc().list_numbers("fd").unwrap_or_default();
    let mut inodes: Vec<u64> = Vec::new();
    let found = fds.into_iter().take(MAX_DESCRIPTORS).filter_map(|fd| {
        let Ok(FdTarget::Socket { inode }) = read_fd(target.proc(), fd) else {
            return None;
        };
        // A descriptor that was copied is the same connection.
        if inodes.contains(&inode) || inodes.len() >= MAX_SOCKETS {
            return None;
        }
        inodes.push(inode);
        sockets.describe(fd, inode)
    });
    found
        .filter(|socket| socket.kind == SocketKind::Tcp && socket.peer.is_some())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_is_there_with_its_counts_and_a_listener_is_none() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let _stream = TcpStream::connect(address).unwrap();
        let found = list_connections(Pid::own());
        let ours = found
            .iter()
            .filter(|socket| socket.peer.as_deref() == Some(&*address.to_string()));
        let ours: Vec<_> = ours.collect();
        assert_eq!(ours.len(), 1);
        assert!(ours[0].tcp.is_some() && ours[0].state == "ESTABLISHED");
        assert!(found.iter().all(|socket| socket.state != "LISTEN"));
    }
}
