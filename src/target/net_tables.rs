//! The sockets of a target's network namespace, as `/proc/PID/net` lists them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
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

    /// The inode of the socket at the other end of a connection with these addresses, if that is in this namespace too.
    pub fn find_other_end(
        &self,
        proc: &ProcDir,
        kind: SocketKind,
        local: SocketAddr,
        peer: SocketAddr,
    ) -> Option<u64> {
        let tables: [&'static str; 2] = match kind {
            SocketKind::Tcp => ["net/tcp", "net/tcp6"],
            SocketKind::Udp => ["net/udp", "net/udp6"],
            SocketKind::Unix => return None,
        };
        let pairs = spellings(peer).into_iter().zip(spellings(local));
        let find = |name: &'static str, local: SocketAddr, peer: Option<SocketAddr>| {
            let table = self.table(proc, name)?;
            let peer = peer.map(table_text);
            find_inode(&table, 9, &table_text(local), peer.as_deref()).filter(|inode| *inode != 0)
        };
        let mut both = pairs.flat_map(|pair| tables.map(|name| (name, pair)));
        both.find_map(|(name, (theirs, ours))| find(name, theirs, Some(ours)))
            .or_else(|| {
                // A server of datagrams is connected to nobody.
                if kind != SocketKind::Udp {
                    return None;
                }
                tables
                    .iter()
                    .find_map(|name| self.find_bound(proc, name, peer))
            })
    }

    /// Whether the other end of a connection of TCP with these addresses is in this namespace and was not accepted: it is established and is no
    /// file of anybody yet (`net/ipv4/tcp_ipv4.c::get_tcp4_sock`, Linux 6.18, shows inode 0; a closed one has another state).
    pub fn is_unaccepted(&self, proc: &ProcDir, local: SocketAddr, peer: SocketAddr) -> bool {
        const ESTABLISHED: &str = "01";
        let tables = ["net/tcp", "net/tcp6"].map(|name| self.table(proc, name));
        let pairs: Vec<_> = spellings(peer)
            .into_iter()
            .zip(spellings(local))
            .map(|(theirs, ours)| (table_text(theirs), table_text(ours)))
            .collect();
        let mut lines = tables
            .iter()
            .flatten()
            .flat_map(|table| table.split(|byte| *byte == b'\n').skip(1));
        lines.any(|line| {
            let text = String::from_utf8_lossy(line);
            let words: Vec<&str> = text.split_ascii_whitespace().take(10).collect();
            let is_it = |(theirs, ours): &(String, String)| {
                words.get(1) == Some(&theirs.as_str()) && words.get(2) == Some(&ours.as_str())
            };
            words.get(3) == Some(&ESTABLISHED)
                && words.get(9) == Some(&"0")
                && pairs.iter().any(is_it)
        })
    }

    /// The inode of the connection in this namespace whose other end has the address `local`, if there is just one: what is
    /// left to go by where the address that was called is translated on the way, as that of a Kubernetes service.
    pub fn find_called_from(&self, proc: &ProcDir, local: SocketAddr) -> Option<u64> {
        let places: Vec<String> = spellings(local).into_iter().map(table_text).collect();
        let tables = ["net/tcp", "net/tcp6"].map(|name| self.table(proc, name));
        let lines = tables
            .iter()
            .flatten()
            .flat_map(|table| table.split(|byte| *byte == b'\n').skip(1));
        let mut inodes = lines.filter_map(|line| {
            let text = std::str::from_utf8(line).ok()?;
            let mut words = text.split_ascii_whitespace();
            let is_it = places
                .iter()
                .any(|place| words.clone().nth(2) == Some(place));
            let inode = words.nth(9).filter(|_| is_it)?.parse().ok()?;
            (inode != 0).then_some(inode)
        });
        let only = inodes.next()?;
        inodes.next().is_none().then_some(only)
    }

    /// The inode of the socket that listens at `address`.
    pub fn find_listener(&self, proc: &ProcDir, address: SocketAddr) -> Option<u64> {
        ["net/tcp", "net/tcp6"]
            .iter()
            .find_map(|name| self.find_bound(proc, name, address))
    }

    fn find_bound(&self, proc: &ProcDir, name: &'static str, address: SocketAddr) -> Option<u64> {
        let table = self.table(proc, name)?;
        let any = [
            SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port()),
            SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), address.port()),
        ];
        let places = spellings(address).into_iter().chain(any);
        places
            .map(table_text)
            .find_map(|place| find_inode(&table, 9, &place, None))
            .filter(|inode| *inode != 0)
    }

    /// The inode of the unix socket that listens at `path` (`@name` in the abstract namespace).
    pub fn find_unix_listener(&self, proc: &ProcDir, path: &str) -> Option<u64> {
        let table = self.table(proc, "net/unix")?;
        let text = String::from_utf8_lossy(&table);
        text.lines().skip(1).find_map(|line| {
            let mut words = line.split_ascii_whitespace();
            // Flag `__SO_ACCEPTCON` (`include/uapi/linux/net.h`).
            let is_listening = words.nth(3)? == "00010000";
            let inode = words.nth(2)?;
            let is_it = is_listening && line.ends_with(&format!(" {inode} {path}"));
            is_it.then(|| inode.parse().ok()).flatten()
        })
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
        local: Some(local.to_string()),
        peer: (peer.port() != 0 || !peer.ip().is_unspecified()).then(|| peer.to_string()),
        state: state.to_owned(),
        ..nothing_known(kind)
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
                local: entry.path.map(|path| path.to_string_lossy().into_owned()),
                state: state.to_owned(),
                ..nothing_known(kind)
            })
        }
    }
}

/// A socket of which only the kind is known.
fn nothing_known(kind: SocketKind) -> Socket {
    Socket {
        kind,
        local: None,
        peer: None,
        state: "UNKNOWN".to_owned(),
        recv_timeout: None,
        tcp: None,
        send_timeout: None,
        user_timeout: None,
        keepalive: None,
        keepalive_time: None,
        recv_queue: None,
        send_queue: None,
        peer_pid: None,
    }
}

/// The inode in the line of a table whose addresses, as the kernel writes them, are these; `None` for `peer` means a
/// socket that listens, or that is connected to nobody.
fn find_inode(table: &[u8], column: usize, local: &str, peer: Option<&str>) -> Option<u64> {
    table.split(|byte| *byte == b'\n').skip(1).find_map(|line| {
        let mut words = line
            .split(u8::is_ascii_whitespace)
            .filter(|word| !word.is_empty());
        let has_local = words.nth(1)? == local.as_bytes();
        let other = words.next()?;
        let has_peer = match peer {
            Some(peer) => other == peer.as_bytes(),
            None => other.ends_with(b":0000"),
        };
        if !has_local || !has_peer {
            return None;
        }
        // Three columns are gone.
        let inode = words.nth(column.checked_sub(3)?)?;
        std::str::from_utf8(inode).ok()?.parse().ok()
    })
}

/// An address as the tables have it: words of the network's bytes in the machine's order (`net/ipv4/tcp_ipv4.c::get_tcp4_sock`,
/// `net/ipv6/tcp_ipv6.c::get_tcp6_sock`, Linux 6.18).
fn table_text(address: SocketAddr) -> String {
    let mut text = String::new();
    let octets = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    for word in octets.chunks_exact(4) {
        let word = u32::from_ne_bytes([word[0], word[1], word[2], word[3]]);
        text.push_str(&format!("{word:08X}"));
    }
    format!("{text}:{:04X}", address.port())
}

/// The ways in which an address can stand in a table: IPv4, or mapped into IPv6, and any address of either kind.
fn spellings(address: SocketAddr) -> Vec<SocketAddr> {
    let plain = SocketAddr::new(address.ip().to_canonical(), address.port());
    let mut all = vec![plain];
    if let IpAddr::V4(ip) = plain.ip() {
        all.push(SocketAddr::new(ip.to_ipv6_mapped().into(), plain.port()));
    }
    all
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
    fn a_connection_is_unaccepted_until_it_is_accepted() {
        let own = ProcDir::open(Pid::own()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (local, peer) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
        let is_unaccepted = || NetTables::default().is_unaccepted(&own, local, peer);
        assert!(is_unaccepted());
        let _accepted = listener.accept().unwrap();
        assert!(!is_unaccepted());
        assert!(!NetTables::default().is_unaccepted(&own, peer, local));
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
    fn the_other_end_of_a_connection() {
        let own = ProcDir::open(Pid::own()).unwrap();
        let inode = |fd: i32| match read_fd(&own, fd).unwrap() {
            FdTarget::Socket { inode } => inode,
            other => panic!("{other:?} is no socket"),
        };
        // A listener of both families is connected to by IPv4: one end is in each table.
        for (bound, called) in [
            ("127.0.0.1:0", "127.0.0.1"),
            ("[::1]:0", "::1"),
            ("[::]:0", "127.0.0.1"),
        ] {
            let listener = TcpListener::bind(bound).unwrap();
            let address = SocketAddr::new(
                called.parse().unwrap(),
                listener.local_addr().unwrap().port(),
            );
            let stream = TcpStream::connect(address).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            let tables = NetTables::default();
            let (local, peer) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
            assert_eq!(
                tables.find_other_end(&own, SocketKind::Tcp, local, peer),
                Some(inode(accepted.as_raw_fd()))
            );
            assert_eq!(
                tables.find_called_from(&own, local),
                Some(inode(accepted.as_raw_fd()))
            );
            let (local, peer) = (
                accepted.local_addr().unwrap(),
                accepted.peer_addr().unwrap(),
            );
            assert_eq!(
                tables.find_other_end(&own, SocketKind::Tcp, local, peer),
                Some(inode(stream.as_raw_fd()))
            );
            assert_eq!(
                tables.find_listener(&own, address),
                Some(inode(listener.as_raw_fd()))
            );
        }
        let server = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        client
            .connect(("127.0.0.1", server.local_addr().unwrap().port()))
            .unwrap();
        assert_eq!(
            NetTables::default().find_other_end(
                &own,
                SocketKind::Udp,
                client.local_addr().unwrap(),
                client.peer_addr().unwrap()
            ),
            Some(inode(server.as_raw_fd()))
        );
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a socket");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let tables = NetTables::default();
        assert_eq!(
            tables.find_unix_listener(&own, path.to_str().unwrap()),
            Some(inode(listener.as_raw_fd()))
        );
        assert_eq!(tables.find_unix_listener(&own, "socket"), None);
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
            let _ = find_inode(text.as_bytes(), column, "0100007F:0050", None);
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
