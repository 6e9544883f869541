//! From the system call that a thread is blocked in to what it waits for.

use std::time::Duration;

use syscalls::Sysno;

use crate::model::{Resource, SchedState, Since, SocketKind, Wait, WaitKind};
use crate::sys::procfile::ProcDir;
use crate::target::fds::{FdTarget, is_fifo, read_fd};
use crate::target::sockets::Sockets;
use crate::target::tasks::Syscall;

/// What a call does to the descriptor in its first argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Read,
    Write,
}

/// What a blocked thread waits for; `None` for one that is not blocked.
pub fn classify(
    sockets: &Sockets<'_>,
    state: SchedState,
    syscall: Option<&Syscall>,
    since: Option<Since>,
) -> Option<Wait> {
    if !matches!(state, SchedState::Sleeping | SchedState::DiskSleep) {
        return None;
    }
    let mut wait = Wait {
        kind: WaitKind::Unknown,
        since,
        syscall: None,
        timeout: None,
        resource: None,
        holder: None,
        other_holders: Vec::new(),
        missing: Vec::new(),
    };
    if let Some(Syscall::In { number, arguments }) = syscall {
        describe_call(sockets, *number, arguments, &mut wait);
    }
    if state == SchedState::DiskSleep {
        wait.kind = WaitKind::Disk;
    }
    Some(wait)
}

/// What kind of wait a blocked thread is in, without a look at what it waits on.
pub fn wait_kind(proc: &ProcDir, state: SchedState, syscall: Option<&Syscall>) -> WaitKind {
    let call = match syscall {
        _ if state == SchedState::DiskSleep => return WaitKind::Disk,
        Some(Syscall::In { number, arguments }) => sysno(*number).zip(Some(arguments)),
        _ => None,
    };
    let Some((call, arguments)) = call else {
        return WaitKind::Unknown;
    };
    let Some((direction, is_socket_call)) = transfer(call) else {
        return kind_of(call);
    };
    let target = match is_socket_call {
        true => None,
        false => fd_of(arguments[0]).and_then(|fd| read_fd(proc, fd).ok()),
    };
    let is_socket = is_socket_call || matches!(target, Some(FdTarget::Socket { .. }));
    kind_of_transfer(
        direction,
        is_socket,
        matches!(target, Some(FdTarget::Pipe { .. })),
    )
}

/// Whether the call with this number is `futex`.
pub fn is_futex(number: i64) -> bool {
    sysno(number) == Some(Sysno::futex)
}

fn sysno(number: i64) -> Option<Sysno> {
    Sysno::new(usize::try_from(number).ok()?)
}

fn describe_call(sockets: &Sockets<'_>, number: i64, arguments: &[u64; 6], wait: &mut Wait) {
    let Some(call) = sysno(number) else {
        wait.syscall = Some(format!("syscall_{number}"));
        return;
    };
    wait.syscall = Some(call.name().to_owned());
    if let Some((direction, is_socket_call)) = transfer(call) {
        describe_transfer(sockets, arguments[0], direction, is_socket_call, wait);
        return;
    }
    wait.kind = kind_of(call);
    wait.timeout = poll_timeout(call, arguments);
    if matches!(wait.kind, WaitKind::SocketConnect | WaitKind::SocketAccept) {
        wait.resource = describe_fd(sockets, arguments[0]).map(|(resource, _)| resource);
    }
}

/// The kind of wait that a call other than a transfer is.
fn kind_of(call: Sysno) -> WaitKind {
    match call {
        Sysno::connect => WaitKind::SocketConnect,
        Sysno::accept | Sysno::accept4 => WaitKind::SocketAccept,
        Sysno::ppoll | Sysno::pselect6 | Sysno::epoll_pwait | Sysno::epoll_pwait2 => WaitKind::Poll,
        #[cfg(target_arch = "x86_64")]
        Sysno::poll | Sysno::select | Sysno::epoll_wait => WaitKind::Poll,
        #[cfg(target_arch = "x86_64")]
        Sysno::pause => WaitKind::Signal,
        Sysno::futex | Sysno::futex_waitv => WaitKind::Futex,
        Sysno::wait4 | Sysno::waitid => WaitKind::Child,
        Sysno::nanosleep | Sysno::clock_nanosleep => WaitKind::Sleep,
        Sysno::flock | Sysno::fcntl => WaitKind::FileLock,
        Sysno::rt_sigsuspend | Sysno::rt_sigtimedwait => WaitKind::Signal,
        _ => WaitKind::Unknown,
    }
}

/// Calls that move data through the descriptor in their first argument, and whether only sockets have them.
fn transfer(call: Sysno) -> Option<(Direction, bool)> {
    match call {
        Sysno::recvfrom | Sysno::recvmsg | Sysno::recvmmsg => Some((Direction::Read, true)),
        Sysno::sendto | Sysno::sendmsg | Sysno::sendmmsg => Some((Direction::Write, true)),
        Sysno::read | Sysno::readv | Sysno::pread64 | Sysno::preadv => {
            Some((Direction::Read, false))
        }
        Sysno::write | Sysno::writev | Sysno::pwrite64 | Sysno::pwritev => {
            Some((Direction::Write, false))
        }
        _ => None,
    }
}

fn describe_transfer(
    sockets: &Sockets<'_>,
    fd: u64,
    direction: Direction,
    is_socket_call: bool,
    wait: &mut Wait,
) {
    let (resource, is_pipe) = match describe_fd(sockets, fd) {
        Some((resource, is_pipe)) => (Some(resource), is_pipe),
        None => (None, false),
    };
    let is_socket = is_socket_call
        || resource
            .as_ref()
            .is_some_and(|resource| is_socket_type(&resource.kind));
    wait.kind = kind_of_transfer(direction, is_socket, is_pipe);
    if wait.kind == WaitKind::SocketRecv {
        wait.timeout = resource
            .as_ref()
            .and_then(|resource| resource.recv_timeout)
            .flatten();
    }
    wait.resource = resource;
}

fn kind_of_transfer(direction: Direction, is_socket: bool, is_pipe: bool) -> WaitKind {
    match direction {
        Direction::Read if is_socket => WaitKind::SocketRecv,
        Direction::Write if is_socket => WaitKind::SocketSend,
        Direction::Read if is_pipe => WaitKind::PipeRead,
        Direction::Write if is_pipe => WaitKind::PipeWrite,
        _ => WaitKind::Unknown,
    }
}

fn is_socket_type(kind: &str) -> bool {
    kind == "socket"
        || [SocketKind::Tcp, SocketKind::Udp, SocketKind::Unix]
            .iter()
            .any(|known| known.word() == kind)
}

/// The kernel takes an int: the upper half of the register may hold anything.
fn fd_of(argument: u64) -> Option<i32> {
    i32::try_from(argument & u64::from(u32::MAX)).ok()
}

/// What a descriptor of the target is, and whether it is a pipe; `None` where the kernel does not let us look.
fn describe_fd(sockets: &Sockets<'_>, argument: u64) -> Option<(Resource, bool)> {
    let fd = fd_of(argument)?;
    let mut resource = Resource {
        fd: Some(fd),
        ..Resource::default()
    };
    let mut is_pipe = false;
    match read_fd(sockets.target().proc(), fd).ok()? {
        FdTarget::Socket { inode } => match sockets.describe(fd, inode) {
            Some(socket) => {
                socket.kind.word().clone_into(&mut resource.kind);
                resource.accepted = sockets.find_accepted(&socket);
                resource.local = socket.local;
                resource.peer = socket.peer;
                resource.state = Some(socket.state);
                resource.recv_timeout = socket.recv_timeout;
                resource.tcp = socket.tcp;
            }
            None => "socket".clone_into(&mut resource.kind),
        },
        FdTarget::Pipe { .. } => {
            "pipe".clone_into(&mut resource.kind);
            is_pipe = true;
        }
        FdTarget::Anonymous { kind } => {
            "anon".clone_into(&mut resource.kind);
            resource.path = Some(kind);
        }
        FdTarget::Path { path } => {
            is_pipe = is_fifo(sockets.target().proc(), fd);
            let kind = if is_pipe { "pipe" } else { "file" };
            kind.clone_into(&mut resource.kind);
            resource.path = Some(String::from_utf8_lossy(&path).into_owned());
        }
    }
    Some((resource, is_pipe))
}

/// The timeout that the registers themselves hold, in milliseconds; the other calls keep theirs in memory.
fn poll_timeout(call: Sysno, arguments: &[u64; 6]) -> Option<Duration> {
    let argument = match call {
        #[cfg(target_arch = "x86_64")]
        Sysno::poll => arguments[2],
        #[cfg(target_arch = "x86_64")]
        Sysno::epoll_wait => arguments[3],
        Sysno::epoll_pwait => arguments[3],
        _ => return None,
    };
    // An int: negative means for ever.
    let milliseconds = (argument & u64::from(u32::MAX)) as u32;
    u64::try_from(milliseconds.cast_signed())
        .ok()
        .map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::model::Pid;
    use crate::target::Target;

    fn classify_own(call: Sysno, arguments: [u64; 6]) -> Wait {
        let own = Target::open(Pid::own()).unwrap();
        let syscall = Syscall::In {
            number: i64::from(call.id()),
            arguments,
        };
        let sockets = Sockets::new(&own, false);
        classify(&sockets, SchedState::Sleeping, Some(&syscall), None).unwrap()
    }

    fn fd_argument(fd: &impl AsRawFd) -> u64 {
        // As a register may really look: rubbish above the int.
        0xdead_beef_0000_0000 | u64::try_from(fd.as_raw_fd()).unwrap()
    }

    #[test]
    fn a_read_is_of_a_socket_or_of_a_pipe() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let wait = classify_own(Sysno::read, [fd_argument(&stream), 0, 0, 0, 0, 0]);
        assert_eq!(wait.kind, WaitKind::SocketRecv);
        assert_eq!(wait.syscall.as_deref(), Some("read"));
        let resource = wait.resource.unwrap();
        assert_eq!(
            resource.peer,
            Some(listener.local_addr().unwrap().to_string())
        );
        assert_eq!(resource.fd, Some(stream.as_raw_fd()));

        let (reader, _writer) = std::io::pipe().unwrap();
        assert_eq!(
            classify_own(Sysno::read, [fd_argument(&reader), 0, 0, 0, 0, 0]).kind,
            WaitKind::PipeRead
        );
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        let (any, fifo) = (rustix::fs::CWD, rustix::fs::FileType::Fifo);
        rustix::fs::mknodat(
            any,
            &path,
            fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        let fifo = std::fs::File::options()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        let wait = classify_own(Sysno::read, [fd_argument(&fifo), 0, 0, 0, 0, 0]);
        assert_eq!(wait.kind, WaitKind::PipeRead);
        assert_eq!(wait.resource.unwrap().path.as_deref(), path.to_str());
        assert_eq!(
            classify_own(Sysno::accept4, [fd_argument(&listener), 0, 0, 0, 0, 0]).kind,
            WaitKind::SocketAccept
        );
    }

    #[test]
    fn a_descriptor_that_is_closed_by_now_costs_only_the_resource() {
        let wait = classify_own(Sysno::recvfrom, [999_999, 0, 0, 0, 0, 0]);
        assert_eq!((wait.kind, wait.resource), (WaitKind::SocketRecv, None));
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn timeouts_in_registers() {
        assert_eq!(
            classify_own(Sysno::poll, [0, 1, 500, 0, 0, 0]).timeout,
            Some(Duration::from_millis(500))
        );
        assert_eq!(
            classify_own(Sysno::poll, [0, 1, 0xffff_ffff, 0, 0, 0]).timeout,
            None
        );
        assert_eq!(
            classify_own(Sysno::epoll_wait, [0, 0, 0, u64::MAX, 0, 0]).timeout,
            None
        );
    }

    #[test]
    fn unknown_calls_and_running_threads() {
        let own = Target::open(Pid::own()).unwrap();
        let own = Sockets::new(&own, false);
        let odd = Syscall::In {
            number: 99_999,
            arguments: [0; 6],
        };
        let wait = classify(&own, SchedState::Sleeping, Some(&odd), None).unwrap();
        assert_eq!(
            (wait.kind, wait.syscall.as_deref()),
            (WaitKind::Unknown, Some("syscall_99999"))
        );
        assert_eq!(classify(&own, SchedState::Running, None, None), None);
        assert_eq!(
            classify(&own, SchedState::DiskSleep, None, None)
                .unwrap()
                .kind,
            WaitKind::Disk
        );
    }
}
