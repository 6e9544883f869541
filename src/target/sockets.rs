//! The sockets of a target: asked of the kernel through a moment's own handle, else looked up in the tables.

use procfs::net::TcpState;
use rustix::net::{AddressFamily, SocketAddrAny, SocketType};

use super::Target;
use super::net_tables::{NetTables, tcp_state};
use crate::model::{Socket, SocketKind, TcpTimes};
use crate::sys::socket::{BorrowedSocket, SocketFacts};

/// Looks at the sockets of one target at one instant.
#[derive(Debug)]
pub struct Sockets<'a> {
    target: &'a Target,
    tables: NetTables,
    looks_for_listeners: bool,
}

impl<'a> Sockets<'a> {
    /// Nothing is read before it is asked for. To look for listeners costs a walk of the kernel through all
    /// connections of the namespace.
    pub fn new(target: &'a Target, looks_for_listeners: bool) -> Self {
        Sockets {
            target,
            tables: NetTables::default(),
            looks_for_listeners,
        }
    }

    /// The target.
    pub fn target(&self) -> &'a Target {
        self.target
    }

    /// What descriptor `fd`, a socket with `inode`, is.
    pub fn describe(&self, fd: i32, inode: u64) -> Option<Socket> {
        self.ask(fd)
            .or_else(|| self.tables.find_socket(self.target.proc(), inode))
    }

    fn ask(&self, fd: i32) -> Option<Socket> {
        let socket = BorrowedSocket::borrow(self.target.pidfd()?, fd).ok()?;
        let facts = socket.facts();
        drop(socket);
        from_facts(&facts.ok()?)
    }

    /// Whether a TCP connection came in: somebody listens on its own port. `None` where it was not looked for.
    pub fn find_accepted(&self, socket: &Socket) -> Option<bool> {
        (self.looks_for_listeners && socket.kind == SocketKind::Tcp)
            .then(|| self.is_accepted(socket))
    }

    fn is_accepted(&self, socket: &Socket) -> bool {
        let port = socket
            .local
            .as_deref()
            .and_then(|local| local.rsplit(':').next()?.parse().ok());
        let port = port.filter(|_| socket.state != "LISTEN");
        port.is_some_and(|port| self.tables.is_listened_on(self.target.proc(), port))
    }
}

fn from_facts(facts: &SocketFacts) -> Option<Socket> {
    let kind = match (facts.family, facts.kind) {
        (AddressFamily::UNIX, _) => SocketKind::Unix,
        (AddressFamily::INET | AddressFamily::INET6, SocketType::STREAM) => SocketKind::Tcp,
        (AddressFamily::INET | AddressFamily::INET6, SocketType::DGRAM) => SocketKind::Udp,
        _ => return None,
    };
    let state = match (kind, &facts.tcp) {
        (SocketKind::Tcp, Some(tcp)) => TcpState::from_u8(tcp.state).map(|state| tcp_state(&state)),
        _ if facts.is_listening => Some("LISTEN"),
        _ if facts.peer.is_some() => Some("CONNECTED"),
        _ => Some("UNCONNECTED"),
    };
    Some(Socket {
        kind,
        local: facts.local.as_ref().and_then(address_text),
        peer: facts.peer.as_ref().and_then(address_text),
        state: state.unwrap_or("UNKNOWN").to_owned(),
        recv_timeout: Some(facts.recv_timeout),
        tcp: facts.tcp.map(|tcp| TcpTimes {
            unacked: tcp.unacked,
            last_data_sent_ms: tcp.last_data_sent_ms,
            last_data_recv_ms: tcp.last_data_recv_ms,
            retransmits: tcp.retransmits,
            notsent_bytes: tcp.notsent_bytes,
            bytes_received: tcp.bytes_received,
            bytes_acked: tcp.bytes_acked,
        }),
    })
}

/// An address as it is written: `10.0.0.1:443`, `[::1]:443`, a path, or `@name` in the abstract namespace.
fn address_text(address: &SocketAddrAny) -> Option<String> {
    if let Ok(address) = std::net::SocketAddr::try_from(address.clone()) {
        return Some(address.to_string());
    }
    let unix = rustix::net::SocketAddrUnix::try_from(address.clone()).ok()?;
    let path = unix.path().map(|path| path.to_string_lossy().into_owned());
    // A socket without a name has an empty one here.
    let name = unix.abstract_name().filter(|name| !name.is_empty());
    path.or_else(|| name.map(|name| format!("@{}", String::from_utf8_lossy(name))))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::model::Pid;
    use crate::target::fds::{FdTarget, read_fd};

    #[test]
    fn the_kernel_and_its_tables_say_the_same() {
        let own = Target::open(Pid::own()).unwrap();
        let sockets = Sockets::new(&own, true);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let (unix, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let udp = std::net::UdpSocket::bind("[::1]:0").unwrap();
        for fd in [
            listener.as_raw_fd(),
            stream.as_raw_fd(),
            accepted.as_raw_fd(),
            unix.as_raw_fd(),
            udp.as_raw_fd(),
        ] {
            let FdTarget::Socket { inode } = read_fd(own.proc(), fd).unwrap() else {
                panic!("no socket");
            };
            let asked = sockets.ask(fd).unwrap();
            let listed = NetTables::default().find_socket(own.proc(), inode).unwrap();
            assert_eq!(
                Socket {
                    recv_timeout: None,
                    tcp: None,
                    ..asked.clone()
                },
                listed
            );
            if asked.kind == SocketKind::Tcp {
                assert_eq!(
                    sockets.find_accepted(&asked),
                    Some(fd == accepted.as_raw_fd())
                );
            }
        }
    }
}
