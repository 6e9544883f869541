//! The sockets of a target's network namespace, as `/proc/PID/net` lists them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;

use procfs::net::{TcpNetEntries, TcpState, UdpNetEntries, UdpState, UnixNetEntries, UnixState};
use procfs::{FromBufRead, FromBufReadSI, current_system_info};

use crate::model::{Socket, SocketKind};
use crate::sys::procfile::ProcDir;

/// The tables in which a socket can stand, likeliest first, and the column of its inode.
const TABLES: [(&str, SocketKind, usize); 5] = [
    ("net/tcp", SocketKind::Tcp, 9),
    ("net/tcp6", SocketKind::Tcp, 9),
    ("net/unix", SocketKind::Unix, 6),
    ("net/udp", SocketKind::Udp, 9),
    ("net/udp6", SocketKind::Udp, 9),
];

/// The tables of one network namespace, each read at most once: the kernel walks all its connections for that, which
/// takes milliseconds.
#[derive(Debug, Default)]
pub struct NetTables {
    tables: RefCell<BTreeMap<&'static str, Option<Rc<[u8]>>>>,
}

impl NetTables {
    /// The socket with `inode`, or `None` when no table has it (another family, or closed meanwhile).
    ///
    /// Needs no right: the files are world-readable, and are those of the target's own network namespace.
    pub fn find_socket(&self, proc: &ProcDir, inode: u64) -> Option<Socket> {
        TABLES.iter().find_map(|(name, kind, column)| {
            let table = self.table(proc, name)?;
            parse_entry(*kind, find_line(&table, *column, inode)?)
        })
    }

    /// Whether somebody listens on this port of TCP.
    pub fn is_listened_on(&self, proc: &ProcDir, port: u16) -> bool {
        let tables = ["net/tcp", "net/tcp6"].map(|name| self.table(proc, name));
        tables.iter().flatten().any(|table| listens_on(table, port))
    }

    fn table(&self, proc: &ProcDir, name: &'static str) -> Option<Rc<[u8]>> {
        let mut tables = self.tables.borrow_mut();
        tables
            .entry(name)
            .or_insert_with(|| proc.read(name).ok().map(Into::into))
            .clone()
    }
}

/// Whether a table of TCP has a listening socket with this port. Columns: number, local address, peer, state.
fn listens_on(table: &[u8], port: u16) -> bool {
    let ending = format!(":{port:04X}");
    table.split(|byte| *byte == b'\n').skip(1).any(|line| {
        let mut words = line
            .split(u8::is_ascii_whitespace)
            .filter(|word| !word.is_empty());
        let local = words.nth(1);
        local.is_some_and(|local| local.ends_with(ending.as_bytes())) && words.nth(1) == Some(b"0A")
    })
}

/// The line whose `column` (from 0, at white space) is `inode`; the first line is a heading.
fn find_line(table: &[u8], column: usize, inode: u64) -> Option<&[u8]> {
    let wanted = inode.to_string();
    table.split(|byte| *byte == b'\n').skip(1).find(|line| {
        let mut words = line
            .split(u8::is_ascii_whitespace)
            .filter(|word| !word.is_empty());
        words.nth(column) == Some(wanted.as_bytes())
    })
}

/// Parses one line of a table; only this line is shown to the parser, so that nothing else in the table can fail it.
fn parse_entry(kind: SocketKind, line: &[u8]) -> Option<Socket> {
    let text = String::from_utf8_lossy(line);
    let table = format!("heading\n{text}\n");
    let inet = |local: SocketAddr, peer: SocketAddr, state: &str| Socket {
        kind,
        local: Some(local.to_string()),
        peer: (peer.port() != 0 || !peer.ip().is_unspecified()).then(|| peer.to_string()),
        state: state.to_owned(),
        recv_timeout: None,
        tcp: None,
    };
    match kind {
        SocketKind::Tcp => {
            let entry = TcpNetEntries::from_buf_read(table.as_bytes(), current_system_info())
                .ok()?
                .0
                .pop()?;
            Some(inet(
                entry.local_address,
                entry.remote_address,
                tcp_state(&entry.state),
            ))
        }
        SocketKind::Udp => {
            let entry = UdpNetEntries::from_buf_read(table.as_bytes(), current_system_info())
                .ok()?
                .0
                .pop()?;
            let state = match entry.state {
                UdpState::Established => "CONNECTED",
                _ => "UNCONNECTED",
            };
            Some(inet(entry.local_address, entry.remote_address, state))
        }
        SocketKind::Unix => {
            let entry = UnixNetEntries::from_buf_read(table.as_bytes())
                .ok()?
                .0
                .pop()?;
            let state = match entry.state {
                UnixState::CONNECTED => "CONNECTED",
                UnixState::CONNECTING => "CONNECTING",
                UnixState::DISCONNECTING => "DISCONNECTING",
                _ => "UNCONNECTED",
            };
            Some(Socket {
                kind,
                local: entry.path.map(|path| path.to_string_lossy().into_owned()),
                peer: None,
                state: state.to_owned(),
                recv_timeout: None,
                tcp: None,
            })
        }
    }
}

/// The names that `ss` and the kernel use (`include/net/tcp_states.h`, Linux 6.18).
pub(super) fn tcp_state(state: &TcpState) -> &'static str {
    match state {
        TcpState::Established => "ESTABLISHED",
        TcpState::SynSent => "SYN_SENT",
        TcpState::SynRecv | TcpState::NewSynRecv => "SYN_RECV",
        TcpState::FinWait1 => "FIN_WAIT1",
        TcpState::FinWait2 => "FIN_WAIT2",
        TcpState::TimeWait => "TIME_WAIT",
        TcpState::Close => "CLOSE",
        TcpState::CloseWait => "CLOSE_WAIT",
        TcpState::LastAck => "LAST_ACK",
        TcpState::Listen => "LISTEN",
        TcpState::Closing => "CLOSING",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::model::Pid;
    use crate::target::fds::{FdTarget, read_fd};

    fn socket_of(fd: i32) -> Option<Socket> {
        let own = ProcDir::open(Pid::own()).unwrap();
        let FdTarget::Socket { inode } = read_fd(&own, fd).unwrap() else {
            panic!("no socket");
        };
        NetTables::default().find_socket(&own, inode)
    }

    #[test]
    fn a_connection_has_both_addresses_and_its_state() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let socket = socket_of(stream.as_raw_fd()).unwrap();
        assert_eq!(socket.local, Some(stream.local_addr().unwrap().to_string()));
        assert_eq!(
            socket.peer,
            Some(listener.local_addr().unwrap().to_string())
        );
        assert_eq!(socket.state, "ESTABLISHED");
        let own = ProcDir::open(Pid::own()).unwrap();
        let port = |address: SocketAddr| address.port();
        let tables = NetTables::default();
        assert!(tables.is_listened_on(&own, port(listener.local_addr().unwrap())));
        assert!(!tables.is_listened_on(&own, port(stream.local_addr().unwrap())));
        let socket = socket_of(listener.as_raw_fd()).unwrap();
        assert_eq!((socket.state.as_str(), socket.peer), ("LISTEN", None));
    }

    #[test]
    fn ipv6_udp_and_unix() {
        let listener = TcpListener::bind("[::1]:0").unwrap();
        assert_eq!(
            socket_of(listener.as_raw_fd()).unwrap().local,
            Some(listener.local_addr().unwrap().to_string())
        );
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(socket_of(udp.as_raw_fd()).unwrap().kind, SocketKind::Udp);
        let (unix, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let socket = socket_of(unix.as_raw_fd()).unwrap();
        assert_eq!(
            (socket.kind, socket.state.as_str()),
            (SocketKind::Unix, "CONNECTED")
        );
    }

    #[test]
    fn other_lines_of_the_table_do_not_matter() {
        let table = b"heading\n  garbage \xff\n   1: 0100007F:1F90 0200007F:01BB 01 00000000:00000000 00:00000000 00000000 0 0 77 1\n";
        let line = find_line(table, 9, 77).unwrap();
        let socket = parse_entry(SocketKind::Tcp, line).unwrap();
        assert_eq!(socket.peer.as_deref(), Some("127.0.0.2:443"));
        assert!(find_line(table, 9, 78).is_none());
        assert!(parse_entry(SocketKind::Tcp, b"x").is_none());
    }

    proptest! {
        #[test]
        fn any_table_is_taken(text in "[ -~\n]{0,300}", column in 0_usize..12) {
            for kind in [SocketKind::Tcp, SocketKind::Udp, SocketKind::Unix] {
                let _ = parse_entry(kind, text.as_bytes());
            }
            let _ = find_line(text.as_bytes(), column, 77);
            let _ = listens_on(text.as_bytes(), 80);
        }

        #[test]
        fn an_address_comes_back(a in any::<[u8; 4]>(), port in 1_u16.., inode in 1_u64..) {
            let word = u32::from_le_bytes(a);
            let line = format!("1: {word:08X}:{port:04X} {word:08X}:{port:04X} 01 00000000:00000000 00:00000000 00000000 0 0 {inode} 1");
            let table = format!("heading\n{line}\n");
            let found = find_line(table.as_bytes(), 9, inode).and_then(|line| parse_entry(SocketKind::Tcp, line)).unwrap();
            let expected = SocketAddr::from((a, port)).to_string();
            prop_assert_eq!(found.local, Some(expected));
        }
    }
}
