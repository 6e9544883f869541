//! The kernel's directory of sockets (`NETLINK_SOCK_DIAG`) of a network namespace; asks for one socket at a time.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
    sockopt,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::socket::TcpFacts;

use super::descriptors::noted;

/// How long an answer may take; the kernel makes it before `send` returns.
const MAX_WAIT: Duration = Duration::from_secs(1);
/// Most bytes of an answer: one message about one socket has some hundred.
const MAX_ANSWER: usize = 32 << 10;

// Numbers of `include/uapi/linux/{netlink,sock_diag,unix_diag,inet_diag}.h`, Linux 6.18.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const HEADER: usize = 16;
const NO_COOKIE: [u8; 8] = [0xff; 8];
const UDIAG_SHOW_NAME: u32 = 0x1;
const UDIAG_SHOW_PEER: u32 = 0x4;
const UDIAG_SHOW_QUEUE: u32 = 0x10;
const UNIX_DIAG_NAME: u16 = 0;
const UNIX_DIAG_PEER: u16 = 2;
const UNIX_DIAG_QUEUE: u16 = 4;
const UNIX_MESSAGE: usize = 16;
const INET_DIAG_INFO: u16 = 2;
const INET_MESSAGE: usize = 72;

/// A unix socket, as the kernel's directory has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnixDiag {
    /// Inode of the socket that it is connected to.
    pub peer_inode: Option<u64>,
    /// Its own name; it begins with a zero byte in the abstract namespace.
    pub name: Option<Vec<u8>>,
    /// Bytes to be read; of a listening socket, connections to be accepted.
    pub recv_queue: Option<u64>,
}

/// A TCP socket, as the kernel's directory has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpDiag {
    /// Its inode.
    pub inode: u64,
    /// Bytes to be read.
    pub recv_queue: u64,
    /// Bytes that were written and not acknowledged.
    pub send_queue: u64,
    /// What TCP knows.
    pub facts: Option<TcpFacts>,
}

/// A connection to the directory. That of our own network namespace needs no right.
#[derive(Debug)]
pub struct Diag {
    socket: OwnedFd,
}

impl Diag {
    /// Connects; fails where the kernel has no such directory or a filter forbids it.
    pub fn open() -> io::Result<Diag> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            Some(netlink::SOCK_DIAG),
        )
        .map_err(noted)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(MAX_WAIT))?;
        Ok(Diag { socket })
    }

    /// Connects to the directory of another network namespace, which takes CAP_SYS_ADMIN. A thread of ours goes there, makes the
    /// connection, which stays there, and ends.
    pub fn open_in(namespace: OwnedFd) -> io::Result<Diag> {
        let connect = move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            Diag::open()
        };
        let thread = std::thread::Builder::new().spawn(connect)?;
        thread
            .join()
            .unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
    }

    /// The unix socket with this inode.
    pub fn unix(&self, inode: u64) -> io::Result<UnixDiag> {
        // The directory numbers sockets by 32 bits, as their inodes are.
        let inode = u32::try_from(inode).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut request = vec![AddressFamily::UNIX.as_raw() as u8, 0, 0, 0];
        request.extend(u32::MAX.to_ne_bytes());
        request.extend(inode.to_ne_bytes());
        request.extend((UDIAG_SHOW_NAME | UDIAG_SHOW_PEER | UDIAG_SHOW_QUEUE).to_ne_bytes());
        request.extend(NO_COOKIE);
        let answer = self.ask(&request)?;
        Ok(parse_unix(&answer))
    }

    /// The TCP socket with these addresses.
    pub fn tcp(&self, local: SocketAddr, peer: SocketAddr) -> io::Result<TcpDiag> {
        let family = if local.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let extensions = 1_u8 << (INET_DIAG_INFO - 1);
        let tcp = 6; // IPPROTO_TCP
        let mut request = vec![family.as_raw() as u8, tcp, extensions, 0];
        request.extend(u32::MAX.to_ne_bytes());
        request.extend(local.port().to_be_bytes());
        request.extend(peer.port().to_be_bytes());
        for address in [local.ip(), peer.ip()] {
            let mut bytes = [0; 16];
            match address {
                IpAddr::V4(address) => bytes[..4].copy_from_slice(&address.octets()),
                IpAddr::V6(address) => bytes = address.octets(),
            }
            request.extend(bytes);
        }
        request.extend(0_u32.to_ne_bytes());
        request.extend(NO_COOKIE);
        parse_tcp(&self.ask(&request)?).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Sends a request for one socket and gives what follows the header of the answer.
    fn ask(&self, request: &[u8]) -> io::Result<Vec<u8>> {
        let length =
            u32::try_from(HEADER + request.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut message = Vec::with_capacity(HEADER + request.len());
        message.extend(length.to_ne_bytes());
        message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        message.extend(NLM_F_REQUEST.to_ne_bytes());
        message.extend([0; 8]);
        message.extend(request);
        rustix::io::retry_on_intr(|| send(&self.socket, &message, SendFlags::empty()))?;
        let mut answer = vec![0; MAX_ANSWER];
        let (count, _) =
            rustix::io::retry_on_intr(|| recv(&self.socket, &mut answer[..], RecvFlags::empty()))?;
        answer.truncate(count);
        parse_answer(&answer).map(<[u8]>::to_vec)
    }
}

/// What follows the header of an answer, or the error that it is.
fn parse_answer(answer: &[u8]) -> io::Result<&[u8]> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let length = word(answer, 0)
        .and_then(|length| usize::try_from(length).ok())
        .ok_or_else(invalid)?;
    let body = answer.get(HEADER..length).ok_or_else(invalid)?;
    match half(answer, 4) {
        Some(NLMSG_ERROR) => {
            let code = word(body, 0).ok_or_else(invalid)?.cast_signed();
            Err(io::Error::from_raw_os_error(code.saturating_neg()))
        }
        Some(SOCK_DIAG_BY_FAMILY) => Ok(body),
        _ => Err(invalid()),
    }
}

fn parse_unix(body: &[u8]) -> UnixDiag {
    let mut found = UnixDiag::default();
    for (kind, value) in attributes(body.get(UNIX_MESSAGE..).unwrap_or_default()) {
        match kind {
            UNIX_DIAG_NAME => found.name = Some(value.to_vec()),
            // A peer that was closed has no inode any more.
            UNIX_DIAG_PEER => {
                found.peer_inode = word(value, 0).filter(|inode| *inode != 0).map(u64::from);
            }
            UNIX_DIAG_QUEUE => found.recv_queue = word(value, 0).map(u64::from),
            _ => {}
        }
    }
    found
}

fn parse_tcp(body: &[u8]) -> Option<TcpDiag> {
    // `struct inet_diag_msg`: four bytes, the socket's id of 48, and five words.
    let facts = attributes(body.get(INET_MESSAGE..)?)
        .into_iter()
        .find(|(kind, _)| *kind == INET_DIAG_INFO)
        .and_then(|(_, value)| TcpFacts::from_bytes(value));
    Some(TcpDiag {
        recv_queue: word(body, 56)?.into(),
        send_queue: word(body, 60)?.into(),
        inode: word(body, 68)?.into(),
        facts,
    })
}

/// The attributes of a message: length and kind in two bytes each, then the value, at multiples of four.
fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let (Some(length), Some(kind)) = (half(bytes, 0), half(bytes, 2)) {
        let length = usize::from(length);
        let Some(value) = bytes.get(4..length) else {
            break;
        };
        found.push((kind, value));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    let field = bytes.get(offset..offset.checked_add(4)?)?;
    Some(u32::from_ne_bytes(field.try_into().ok()?))
}

fn half(bytes: &[u8], offset: usize) -> Option<u16> {
    let field = bytes.get(offset..offset.checked_add(2)?)?;
    Some(u16::from_ne_bytes(field.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use proptest::prelude::*;

    use super::*;

    fn inode(fd: &impl AsFd) -> u64 {
        rustix::fs::fstat(fd).unwrap().st_ino
    }

    #[test]
    fn both_ends_of_a_unix_connection() {
        let diag = Diag::open().unwrap();
        let (one, mut other) = UnixStream::pair().unwrap();
        other.write_all(b"abc").unwrap();
        let found = diag.unix(inode(&one)).unwrap();
        assert_eq!(found.peer_inode, Some(inode(&other)));
        assert_eq!(found.recv_queue, Some(3));
        assert_eq!(
            diag.unix(inode(&other)).unwrap().peer_inode,
            Some(inode(&one))
        );
        drop(other);
        assert_eq!(diag.unix(inode(&one)).unwrap().peer_inode, None);
        assert!(diag.unix(1).is_err());
    }

    #[test]
    fn a_tcp_connection_by_its_addresses() {
        let diag = Diag::open().unwrap();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            stream.write_all(b"abcd").unwrap();
            let (local, peer) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
            let found = diag.tcp(local, peer).unwrap();
            assert_eq!(found.inode, inode(&stream));
            assert_eq!(found.facts.unwrap().state, 1);
            let found = diag.tcp(peer, local).unwrap();
            assert_eq!((found.inode, found.recv_queue), (inode(&accepted), 4));
            assert!(diag.tcp(local, local).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_answer_is_taken(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_answer(&bytes);
            let _ = parse_unix(&bytes);
            let _ = parse_tcp(&bytes);
        }
    }
}
