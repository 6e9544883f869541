//! What a descriptor of the target is, with all that the kernel says of it; no judgement of what it is used for.

use rustix::fs::FileType;

use crate::model::{Pid, Resource, Socket, SocketKind, WaitKind};
use crate::sys::pipe::pipe_facts;
use crate::target::fdinfo::FdInfo;
use crate::target::fds::{FdTarget, file_facts, read_fd};
use crate::target::sockets::Sockets;
use crate::target::terminals::{had_input, is_controlling, slave_had_input, slave_number};

/// Ports on which name servers answer: DNS, mDNS, DNS over TLS.
const NAME_PORTS: [&str; 3] = [":53", ":5353", ":853"];
/// Sockets of this machine's own resolvers: nscd's, systemd-resolved's, Avahi's.
const NAME_SOCKETS: [&str; 3] = ["nscd/socket", "io.systemd.Resolve", "avahi-daemon/socket"];
/// Major numbers of terminals (`Documentation/admin-guide/devices.txt`, Linux 6.18): 4 tty, 5 console, 136-143 pty.
const TERMINALS: [u32; 10] = [4, 5, 136, 137, 138, 139, 140, 141, 142, 143];

/// What sort of thing a descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    Socket,
    Pipe,
    Eventfd,
    Epoll,
    Inotify,
    Signalfd,
    Timerfd,
    Pidfd,
    Tty,
    Other,
}

/// A descriptor, looked at.
#[derive(Clone, Debug)]
pub struct Described {
    /// What it is, in the model's words.
    pub resource: Resource,
    /// The same as a sort.
    pub sort: Sort,
    /// Who had the other end of a unix socket when it was connected.
    pub peer_pid: Option<Pid>,
    /// What could not be had.
    pub missing: Option<String>,
}

/// Looks at descriptor `fd`; `None` where the kernel does not let us, or it is closed.
pub fn describe_fd(sockets: &Sockets<'_>, fd: i32) -> Option<Described> {
    let proc = sockets.target().proc();
    let mut described = Described {
        resource: Resource {
            fd: Some(fd),
            ..Resource::default()
        },
        sort: Sort::Other,
        peer_pid: None,
        missing: None,
    };
    match read_fd(proc, fd).ok()? {
        FdTarget::Socket { inode } => describe_socket(sockets, fd, inode, &mut described),
        FdTarget::Pipe { inode } => describe_pipe(sockets, fd, "pipe", inode, &mut described),
        FdTarget::Anonymous { kind } => describe_anonymous(sockets, fd, kind, &mut described),
        FdTarget::Path { path } => {
            let path = String::from_utf8_lossy(&path).into_owned();
            // Linux 6.9 and later: a file system of its own (`fs/pidfs.c`).
            if path.starts_with("pidfd:[") {
                describe_anonymous(sockets, fd, "pidfd".to_owned(), &mut described);
            } else {
                describe_file(sockets, fd, path, &mut described);
            }
        }
    }
    Some(described)
}

fn describe_socket(sockets: &Sockets<'_>, fd: i32, inode: u64, described: &mut Described) {
    described.sort = Sort::Socket;
    let resource = &mut described.resource;
    resource.inode = Some(inode);
    let Some(socket) = sockets.describe(fd, inode) else {
        "socket".clone_into(&mut resource.kind);
        return;
    };
    if socket.recv_timeout.is_none() {
        described.missing = Some(
            "timeouts of the socket: its descriptor can not be borrowed (pidfd_getfd)".to_owned(),
        );
    }
    socket.kind.word().clone_into(&mut resource.kind);
    resource.accepted = sockets.find_accepted(&socket);
    resource.resolves_names = resolves_names(&socket).then_some(true);
    resource.local = socket.local;
    resource.peer = socket.peer;
    resource.state = Some(socket.state);
    resource.recv_timeout = socket.recv_timeout;
    resource.send_timeout = socket.send_timeout;
    resource.user_timeout = socket.user_timeout;
    resource.keepalive = socket.keepalive;
    resource.keepalive_time = socket.keepalive_time;
    resource.recv_queue = socket.recv_queue;
    resource.send_queue = socket.send_queue;
    resource.tcp = socket.tcp;
    // Whoever has made a pair of sockets is the peer of both, whomever the other one was given to.
    let own = sockets.target().pid();
    described.peer_pid = socket.peer_pid.filter(|pid| *pid != own);
}

/// Whether a socket serves to find the address of a name, by whom it is connected to.
fn resolves_names(socket: &Socket) -> bool {
    let Some(peer) = &socket.peer else {
        return false;
    };
    match socket.kind {
        SocketKind::Tcp | SocketKind::Udp => NAME_PORTS.iter().any(|port| peer.ends_with(port)),
        SocketKind::Unix => NAME_SOCKETS.iter().any(|path| peer.ends_with(path)),
    }
}

fn describe_pipe(
    sockets: &Sockets<'_>,
    fd: i32,
    kind: &str,
    inode: u64,
    described: &mut Described,
) {
    described.sort = Sort::Pipe;
    let resource = &mut described.resource;
    kind.clone_into(&mut resource.kind);
    resource.inode = Some(inode);
    match sockets.borrow(move |pidfd| pipe_facts(pidfd, fd)) {
        Some(facts) => {
            resource.fill = Some(facts.fill);
            resource.capacity = Some(facts.capacity);
        }
        None => {
            let why = "how full the pipe is: its descriptor can not be borrowed (pidfd_getfd)";
            described.missing = Some(why.to_owned());
        }
    }
}

fn describe_anonymous(sockets: &Sockets<'_>, fd: i32, kind: String, described: &mut Described) {
    let info = FdInfo::read(sockets.target().proc(), fd).unwrap_or_default();
    let resource = &mut described.resource;
    let (sort, word) = match kind.as_str() {
        "eventfd" => (Sort::Eventfd, "eventfd"),
        "eventpoll" => (Sort::Epoll, "epoll"),
        "inotify" => (Sort::Inotify, "inotify"),
        "signalfd" => (Sort::Signalfd, "anon"),
        "timerfd" => (Sort::Timerfd, "anon"),
        "pidfd" => (Sort::Pidfd, "process"),
        _ => (Sort::Other, "anon"),
    };
    described.sort = sort;
    word.clone_into(&mut resource.kind);
    match sort {
        Sort::Eventfd => resource.fill = info.eventfd_count,
        Sort::Inotify => resource.member_count = Some(info.inotify_watches),
        Sort::Pidfd => resource.pid = info.pid.filter(|pid| *pid > 0).map(Pid),
        Sort::Timerfd => resource.remaining = info.timer.filter(|left| !left.is_zero()),
        Sort::Signalfd => resource.name = info.signals.map(signal_names),
        _ => {}
    }
    if word == "anon" {
        resource.path = Some(kind);
    }
}

fn describe_file(sockets: &Sockets<'_>, fd: i32, path: String, described: &mut Described) {
    let facts = file_facts(sockets.target().proc(), fd).ok();
    match facts {
        Some(facts) if facts.kind == FileType::Fifo => {
            describe_pipe(sockets, fd, "fifo", facts.inode, described);
        }
        Some(facts)
            if facts.kind == FileType::CharacterDevice && TERMINALS.contains(&facts.device.0) =>
        {
            describe_terminal(sockets, fd, facts.device, &path, described);
            return;
        }
        facts => {
            "file".clone_into(&mut described.resource.kind);
            described.resource.inode = facts.map(|facts| facts.inode);
        }
    }
    described.resource.path = Some(path);
}

/// A terminal, by the name of the one that it is: `/dev/tty` is another one for each process.
fn describe_terminal(
    sockets: &Sockets<'_>,
    fd: i32,
    device: (u32, u32),
    path: &str,
    described: &mut Described,
) {
    let target = sockets.target();
    described.sort = Sort::Tty;
    let resource = &mut described.resource;
    "tty".clone_into(&mut resource.kind);
    resource.path = Some(path.to_owned());
    if !is_controlling(device) {
        let is_slave = slave_number(device).is_some();
        resource.had_input = is_slave
            .then(|| had_input(target.proc(), fd).ok())
            .flatten();
    } else if let Some(number) = target.stat().terminal.and_then(slave_number) {
        resource.path = Some(format!("/dev/pts/{number}"));
        resource.had_input = slave_had_input(target.proc(), number).ok();
    }
}

/// The signals of a set with bit 0 for signal 1: `SIGUSR1, SIGTERM`.
pub fn signal_names(mask: u64) -> String {
    let all = (0..64).filter(|bit| mask >> bit & 1 == 1).map(|bit| {
        let number = bit + 1;
        match nix::sys::signal::Signal::try_from(number) {
            Ok(signal) => signal.as_str().to_owned(),
            Err(_) => format!("signal {number}"),
        }
    });
    all.collect::<Vec<_>>().join(", ")
}

/// The kind of wait that a wait for data from, or else for room in, such a descriptor is.
pub(super) fn kind_of_sort(sort: Sort, for_read: bool) -> WaitKind {
    match sort {
        Sort::Socket if for_read => WaitKind::SocketRecv,
        Sort::Socket => WaitKind::SocketSend,
        Sort::Pipe if for_read => WaitKind::PipeRead,
        Sort::Pipe => WaitKind::PipeWrite,
        Sort::Eventfd => WaitKind::Eventfd,
        Sort::Inotify => WaitKind::Inotify,
        Sort::Signalfd => WaitKind::Signal,
        Sort::Timerfd => WaitKind::Sleep,
        Sort::Pidfd => WaitKind::Child,
        Sort::Tty => WaitKind::Tty,
        Sort::Epoll => WaitKind::Poll,
        Sort::Other => WaitKind::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::target::Target;

    #[test]
    fn pipes_files_and_terminals() {
        let own = Target::open(Pid::own()).unwrap();
        let sockets = Sockets::new(&own, false);
        let (reader, mut writer) = std::io::pipe().unwrap();
        std::io::Write::write_all(&mut writer, b"abc").unwrap();
        let found = describe_fd(&sockets, reader.as_raw_fd()).unwrap();
        assert_eq!((found.sort, found.resource.fill), (Sort::Pipe, Some(3)));
        let file = tempfile::NamedTempFile::new().unwrap();
        let found = describe_fd(&sockets, file.as_raw_fd()).unwrap();
        assert_eq!(found.resource.kind, "file");
        assert_eq!(found.resource.path.as_deref(), file.path().to_str());
        let terminal = std::fs::File::open("/dev/ptmx").unwrap();
        assert_eq!(
            describe_fd(&sockets, terminal.as_raw_fd()).unwrap().sort,
            Sort::Tty
        );
        let null = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(
            describe_fd(&sockets, null.as_raw_fd()).unwrap().sort,
            Sort::Other
        );
        assert!(describe_fd(&sockets, 999_999).is_none());
    }

    #[test]
    fn resolvers_and_signals() {
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let own = Target::open(Pid::own()).unwrap();
        let sockets = Sockets::new(&own, false);
        udp.connect("127.0.0.1:53").unwrap();
        let found = describe_fd(&sockets, udp.as_raw_fd()).unwrap();
        assert_eq!(found.resource.resolves_names, Some(true));
        udp.connect("127.0.0.1:1053").unwrap();
        let found = describe_fd(&sockets, udp.as_raw_fd()).unwrap();
        assert_eq!(found.resource.resolves_names, None);
        assert_eq!(signal_names(1 << 9 | 1 << 63), "SIGUSR1, signal 64");
    }
}
