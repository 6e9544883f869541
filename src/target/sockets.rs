//! The sockets of a target: asked of the kernel through a moment's own handle, else looked up in the tables.

use std::cell::{Cell, OnceCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use procfs::net::TcpState;
use rustix::fs::OFlags;
use rustix::net::{AddressFamily, SocketAddrAny, SocketType};

use super::Target;
use super::net_tables::{NetTables, tcp_state};
use crate::model::{Pid, Socket, SocketKind, TcpTimes};
use crate::sys::deadline;
use crate::sys::diag::Diag;
use crate::sys::pidfd::PidFd;
use crate::sys::procfile::ProcDir;
use crate::sys::socket::{BorrowedSocket, SocketFacts, TcpFacts};

/// How long it may take to ask about a borrowed descriptor; it is microseconds as a rule.
const MAX_BORROWING: Duration = Duration::from_millis(500);

/// Looks at the sockets of one target at one instant.
#[derive(Debug)]
pub struct Sockets<'a> {
    target: &'a Target,
    tables: Rc<NetTables>,
    directory: OnceCell<Option<Diag>>,
    looks_for_listeners: bool,
    /// Whether descriptors may be borrowed, and none has blocked us yet.
    may_borrow: Cell<bool>,
}

impl<'a> Sockets<'a> {
    /// Nothing is read before it is asked for. To look for listeners costs a walk of the kernel through all
    /// connections of the namespace.
    pub fn new(target: &'a Target, looks_for_listeners: bool) -> Self {
        Sockets {
            target,
            tables: Rc::default(),
            directory: OnceCell::new(),
            looks_for_listeners,
            may_borrow: Cell::new(true),
        }
    }

    /// The same without borrowing any descriptor: a thread that faults while it writes to a pipe or socket holds the kernel's lock
    /// of that, and whoever asks for it then sleeps in the kernel until the fault is over.
    pub fn without_borrowing(self) -> Self {
        self.may_borrow.set(false);
        self
    }

    /// Asks about a borrowed descriptor, for which the target must let itself be looked into. `None` where that is refused, or was
    /// not answered in time; then nothing more is borrowed.
    pub fn borrow<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&PidFd) -> io::Result<T> + Send + 'static,
    ) -> Option<T> {
        if !self.may_borrow.get() {
            return None;
        }
        let pidfd = self.target.open_pidfd()?;
        match deadline::run(MAX_BORROWING, move || ask(&pidfd)) {
            Ok(answer) => answer.ok(),
            Err(_) => {
                self.may_borrow.set(false);
                None
            }
        }
    }

    /// The same with tables of its network namespace that others use too; listeners are not looked for.
    pub fn with_tables(target: &'a Target, tables: Rc<NetTables>) -> Self {
        Sockets {
            tables,
            ..Sockets::new(target, false)
        }
    }

    /// The target.
    pub fn target(&self) -> &'a Target {
        self.target
    }

    /// What descriptor `fd`, a socket with `inode`, is.
    pub fn describe(&self, fd: i32, inode: u64) -> Option<Socket> {
        match self.ask(fd) {
            Some(mut socket) => {
                // Nobody answers for a peer while the connection is being made; the tables have it.
                if socket.kind == SocketKind::Tcp && socket.state == "SYN_SENT" {
                    let listed = self.tables.find_socket(self.target.proc(), inode);
                    socket.peer = socket.peer.or(listed.and_then(|listed| listed.peer));
                }
                Some(socket)
            }
            None => self.look_up(inode),
        }
    }

    /// What the tables have, which are for everybody to read, and what the kernel's directory adds to it.
    fn look_up(&self, inode: u64) -> Option<Socket> {
        let mut socket = self.tables.find_socket(self.target.proc(), inode)?;
        if let Some(diag) = self.directory() {
            complete(diag, inode, &mut socket);
        }
        Some(socket)
    }

    /// The kernel's directory of the sockets in the target's network namespace; in another one than ours it is only for those who
    /// may go there.
    pub fn directory(&self) -> Option<&Diag> {
        let open = || {
            let own = ProcDir::open(Pid::own()).ok()?.read_link("ns/net").ok()?;
            // Without the right to look, our own directory would be as good a guess as any; we do not guess.
            let proc = self.target.proc();
            if proc.read_link("ns/net").ok()? == own {
                return Diag::open().ok();
            }
            let namespace = proc.open_with("ns/net", OFlags::RDONLY).ok()?;
            Diag::open_in(namespace).ok()
        };
        self.directory.get_or_init(open).as_ref()
    }

    /// The tables of its network namespace.
    pub fn tables(&self) -> &NetTables {
        &self.tables
    }

    fn ask(&self, fd: i32) -> Option<Socket> {
        let facts = self.borrow(move |pidfd| {
            let socket = BorrowedSocket::borrow(pidfd, fd)?;
            let facts = socket.facts();
            drop(socket);
            facts
        });
        from_facts(&facts?)
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

/// Adds what the directory says of a socket; an entry of another socket, with the same addresses by now, is left alone.
fn complete(diag: &Diag, inode: u64, socket: &mut Socket) {
    let address = |text: &Option<String>| text.as_deref()?.parse::<SocketAddr>().ok();
    match socket.kind {
        SocketKind::Tcp => {
            let Some(pair) = address(&socket.local).zip(address(&socket.peer)) else {
                return;
            };
            if let Ok(found) = diag.tcp(pair.0, pair.1)
                && found.inode == inode
            {
                socket.recv_queue = Some(found.recv_queue);
                socket.send_queue = Some(found.send_queue);
                socket.tcp = found.facts.map(tcp_times);
            }
        }
        SocketKind::Unix => {
            let Ok(found) = diag.unix(inode) else {
                return;
            };
            socket.recv_queue = found.recv_queue;
            let peer = found.peer_inode.and_then(|peer| diag.unix(peer).ok());
            socket.peer = peer.and_then(|peer| unix_name(&peer.name?));
        }
        SocketKind::Udp => {}
    }
}

/// A unix socket's name as it is written: a path, or `@name` in the abstract namespace.
fn unix_name(name: &[u8]) -> Option<String> {
    let name = match name.split_first()? {
        (0, rest) => format!("@{}", String::from_utf8_lossy(rest)),
        _ => {
            let end = name.iter().position(|byte| *byte == 0);
            String::from_utf8_lossy(&name[..end.unwrap_or(name.len())]).into_owned()
        }
    };
    Some(name)
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
        send_timeout: Some(facts.send_timeout),
        user_timeout: facts.user_timeout,
        keepalive: facts.keepalive,
        keepalive_time: facts
            .keepalive_time
            .filter(|_| facts.keepalive == Some(true)),
        recv_queue: facts.recv_queue,
        send_queue: facts.send_queue,
        // The kernel says 0 for processes that are not in our pid namespace, and -1 where nobody has connected.
        peer_pid: facts.peer_pid.filter(|pid| *pid > 0).map(Pid),
        tcp: facts.tcp.map(tcp_times),
    })
}

fn tcp_times(tcp: TcpFacts) -> TcpTimes {
    TcpTimes {
        unacked: tcp.unacked,
        last_data_sent_ms: tcp.last_data_sent_ms,
        last_data_recv_ms: tcp.last_data_recv_ms,
        last_ack_recv_ms: tcp.last_ack_recv_ms,
        retransmits: tcp.retransmits,
        notsent_bytes: tcp.notsent_bytes,
        bytes_received: tcp.bytes_received,
        bytes_acked: tcp.bytes_acked,
        bytes_sent: tcp.bytes_sent,
        bytes_retransmitted: tcp.bytes_retrans,
    }
}

/// An address as it is written: `10.0.0.1:443`, `[::1]:443`, a path, or `@name` in the abstract namespace.
fn address_text(address: &SocketAddrAny) -> Option<String> {
    if let Ok(address) = SocketAddr::try_from(address.clone()) {
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
                    send_timeout: None,
                    user_timeout: None,
                    keepalive: None,
                    recv_queue: None,
                    send_queue: None,
                    peer_pid: None,
                    tcp: None,
                    ..asked.clone()
                },
                listed
            );
            // Where its descriptor can't be had, the directory gives the most of it.
            let looked_up = sockets.look_up(inode).unwrap();
            assert_eq!(looked_up.peer, asked.peer);
            let is_connected = asked.kind == SocketKind::Tcp && asked.peer.is_some();
            if is_connected || asked.kind == SocketKind::Unix {
                assert_eq!(looked_up.recv_queue, asked.recv_queue);
            }
            assert_eq!(looked_up.tcp.is_some(), is_connected);
            if asked.kind == SocketKind::Tcp {
                assert_eq!(
                    sockets.find_accepted(&asked),
                    Some(fd == accepted.as_raw_fd())
                );
            }
        }
    }
}
