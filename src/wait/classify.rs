//! From the system call that a thread is blocked in to what it waits for.

use std::time::Duration;

use syscalls::Sysno;

use super::arguments::PointedArguments;
use super::call::{fd_of, sysno};
use super::child::{describe_child, describe_vfork};
use super::describe::{describe_fd, kind_of_sort, signal_names};
use super::open::describe_open;
use super::poll::describe_poll;
use super::sleep::describe_sleep;
use super::surroundings::{ThreadView, WaitContext, process_holder, take};
use crate::model::{
    HolderConfidence, Resource, SchedState, Since, SinceSource, Tid, Wait, WaitKind,
};
use crate::sys::procfile::ProcDir;
use crate::target::fds::{FdTarget, read_fd};
use crate::target::mounts::find_mount;
use crate::target::status::Stat;
use crate::target::tasks::{Syscall, read_wchan};

/// Commands of `fcntl` that wait for a lock (`include/uapi/asm-generic/fcntl.h`).
const F_SETLKW: u64 = 7;
const F_OFD_SETLKW: u64 = 38;

/// The kernel's slowest usual tick, by which TCP counts its times.
const TCP_TICK: Duration = Duration::from_millis(10);

/// What a call does to the descriptor in its first argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Read,
    Write,
}

/// What a blocked thread waits for; `None` for one that is not blocked.
pub fn classify(context: &WaitContext<'_>, sight: ThreadView<'_>) -> Option<Wait> {
    let mut wait = Wait {
        since: sight.since,
        ..Wait::of_kind(WaitKind::Unknown)
    };
    match sight.state {
        SchedState::Sleeping | SchedState::DiskSleep => {}
        SchedState::Stopped | SchedState::Traced | SchedState::Zombie => {
            describe_halt(context, sight, &mut wait);
            return Some(wait);
        }
        _ => return None,
    }
    match sight.syscall {
        Some(Syscall::In { number, arguments }) => {
            describe_call(context, sight, *number, arguments, &mut wait);
        }
        Some(Syscall::None) => describe_fault(context, sight.tid, &mut wait),
        Some(Syscall::Running) => {}
        None if context.sockets.target().is_kernel_thread() => {}
        None => wait.missing.push(
            "the system call that it is in: the kernel does not let us see it (needs the right to trace it)"
                .to_owned(),
        ),
    }
    if sight.state == SchedState::DiskSleep && wait.kind != WaitKind::Child {
        describe_disk(context, sight, &mut wait);
    }
    if let Some(group) = &context.frozen {
        freeze(group, &mut wait);
    }
    wait.since = wait.since.or_else(|| since_of_connection(&wait));
    Some(wait)
}

/// Since when nothing has been sent or received on the connection that is waited on. The scheduler's record may be missing: of a
/// kernel that keeps none, and for an instant of a thread that it has just moved to another processor.
fn since_of_connection(wait: &Wait) -> Option<Since> {
    let tcp = wait.resource.as_ref()?.tcp?;
    let quiet = tcp.last_data_sent_ms.min(tcp.last_data_recv_ms);
    Some(Since {
        elapsed: Duration::from_millis(u64::from(quiet)),
        error: TCP_TICK,
        source: SinceSource::Tcp,
    })
}

/// A thread that was halted: by a signal, by a tracer, or for ever.
fn describe_halt(context: &WaitContext<'_>, sight: ThreadView<'_>, wait: &mut Wait) {
    let target = context.sockets.target();
    if let Some(Syscall::In { number, .. }) = sight.syscall {
        wait.syscall = sysno(*number).map(|call| call.name().to_owned());
    }
    match sight.state {
        SchedState::Stopped => {
            wait.kind = WaitKind::Stopped;
            wait.missing
                .push("who stopped it: the kernel keeps no record of that".to_owned());
        }
        SchedState::Traced => {
            wait.kind = WaitKind::Traced;
            wait.holder = context
                .tracer
                .map(|pid| process_holder(pid, HolderConfidence::Proven));
        }
        _ => {
            wait.kind = WaitKind::Zombie;
            let stat = target.read_stat().ok();
            // A main thread that has ended before the others waits for them.
            let is_last = target.proc().tasks().is_ok_and(|tasks| tasks.len() <= 1);
            if is_last && sight.tid == target.pid().main_thread() {
                wait.resource = stat.as_ref().and_then(Stat::how_ended).map(|how| Resource {
                    kind: "process".to_owned(),
                    state: Some(how),
                    ..Resource::default()
                });
                let parent = stat.map(|stat| stat.ppid).filter(|parent| parent.0 > 0);
                wait.holder = parent.map(|pid| process_holder(pid, HolderConfidence::Proven));
            }
        }
    }
}

/// A frozen cgroup halts its threads where they were: what they waited for does not matter until it is thawed.
fn freeze(group: &str, wait: &mut Wait) {
    wait.kind = WaitKind::Stopped;
    wait.timeout = None;
    wait.holder = None;
    wait.other_holders.clear();
    wait.resource = Some(Resource {
        kind: "cgroup".to_owned(),
        name: Some(format!("cgroup {group}")),
        state: Some("frozen".to_owned()),
        ..Resource::default()
    });
}

/// A thread that sleeps outside of any call is in a fault: the page comes from a file, from swap, or from a userfaultfd.
fn describe_fault(context: &WaitContext<'_>, tid: Tid, wait: &mut Wait) {
    wait.kind = WaitKind::PageFault;
    wait.resource = read_wchan(context.proc(), tid).map(|function| Resource {
        kind: "anon".to_owned(),
        function: Some(function),
        ..Resource::default()
    });
}

/// An uninterruptible sleep: where in the kernel, and on which file system.
fn describe_disk(context: &WaitContext<'_>, sight: ThreadView<'_>, wait: &mut Wait) {
    let function = read_wchan(context.proc(), sight.tid);
    let is_fault = matches!(sight.syscall, Some(Syscall::None));
    wait.kind = if is_fault {
        WaitKind::PageFault
    } else {
        WaitKind::Disk
    };
    if wait.resource.is_none()
        && let Some(Syscall::In { number, arguments }) = sight.syscall
        && sysno(*number).is_some_and(works_on_descriptor)
    {
        let found = fd_of(arguments[0]).and_then(|fd| describe_fd(context.sockets, fd));
        wait.resource = found.map(|found| found.resource);
    }
    if wait.resource.is_none() && function.is_none() {
        return;
    }
    let resource = wait.resource.get_or_insert_with(|| Resource {
        kind: "file".to_owned(),
        ..Resource::default()
    });
    resource.function = function;
    let path = resource
        .path
        .as_deref()
        .filter(|path| path.starts_with('/'));
    resource.mount = path
        .and_then(|path| find_mount(context.proc(), path.as_bytes()))
        .map(|mount| mount.describe());
}

/// Calls on a file's descriptor in their first argument that can sleep on a disk, besides transfers.
fn works_on_descriptor(call: Sysno) -> bool {
    matches!(
        call,
        Sysno::fsync
            | Sysno::fdatasync
            | Sysno::close
            | Sysno::fstat
            | Sysno::getdents64
            | Sysno::ftruncate
            | Sysno::fallocate
            | Sysno::lseek
            | Sysno::syncfs
            | Sysno::sync_file_range
    )
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

/// Whether the call with this number moves data through a descriptor.
pub fn moves_data(number: i64) -> bool {
    sysno(number).is_some_and(|call| transfer(call).is_some())
}

fn describe_call(
    context: &WaitContext<'_>,
    sight: ThreadView<'_>,
    number: i64,
    arguments: &[u64; 6],
    wait: &mut Wait,
) {
    let Some(call) = sysno(number) else {
        wait.syscall = Some(format!("syscall_{number}"));
        return;
    };
    wait.syscall = Some(call.name().to_owned());
    let read_for = context.pointed.get(&sight.tid);
    let pointed = read_for
        .filter(|(read_for, _)| Some(read_for) == sight.syscall)
        .map(|(_, pointed)| pointed);
    if let Some(failure) = pointed.and_then(|pointed| pointed.failure) {
        wait.missing
            .push(format!("what the call points to: {failure}"));
    }
    if let Some((direction, is_socket_call)) = transfer(call) {
        describe_transfer(context, arguments[0], direction, is_socket_call, wait);
        return;
    }
    wait.kind = kind_of(call);
    wait.timeout = poll_timeout(call, arguments);
    match wait.kind {
        WaitKind::SocketConnect | WaitKind::SocketAccept => {
            describe_connection(context, arguments[0], pointed, wait);
        }
        WaitKind::Poll => describe_poll(context, call, arguments, pointed, wait),
        WaitKind::Sleep => describe_sleep(context.sockets.target(), call, arguments, pointed, wait),
        WaitKind::Child => describe_child(context, call, arguments, wait),
        WaitKind::Signal => {
            wait.timeout = pointed.and_then(|pointed| pointed.time).flatten();
            let signals = pointed.and_then(|pointed| pointed.signals);
            wait.resource = signals.map(|signals| Resource {
                kind: "signal".to_owned(),
                name: Some(signal_names(signals)),
                ..Resource::default()
            });
        }
        WaitKind::FileLock => describe_file_lock(context, call, arguments, wait),
        WaitKind::Unknown => {
            describe_vfork(context.sockets.target(), call, arguments, pointed, wait);
            describe_open(
                context.sockets.target(),
                sight.tid,
                call,
                arguments,
                pointed,
                wait,
            );
        }
        _ => {}
    }
}

/// A connect or an accept: its socket, its timeout, and whom it is to be connected to.
fn describe_connection(
    context: &WaitContext<'_>,
    fd: u64,
    pointed: Option<&PointedArguments>,
    wait: &mut Wait,
) {
    let Some(described) = fd_of(fd).and_then(|fd| describe_fd(context.sockets, fd)) else {
        return;
    };
    wait.missing.extend(described.missing);
    let mut resource = described.resource;
    if wait.kind == WaitKind::SocketConnect {
        let address = pointed.and_then(|pointed| pointed.address.clone());
        resource.peer = resource.peer.or(address);
        // A connect waits as long as a send (`net/ipv4/af_inet.c::__inet_stream_connect`, Linux 6.18).
        wait.timeout = resource.send_timeout.flatten();
    } else {
        wait.timeout = resource.recv_timeout.flatten();
    }
    wait.resource = Some(resource);
}

fn describe_file_lock(
    context: &WaitContext<'_>,
    call: Sysno,
    arguments: &[u64; 6],
    wait: &mut Wait,
) {
    let command = arguments[1] & u64::from(u32::MAX);
    if call == Sysno::fcntl && ![F_SETLKW, F_OFD_SETLKW].contains(&command) {
        wait.kind = WaitKind::Unknown;
    }
    let described = fd_of(arguments[0]).and_then(|fd| describe_fd(context.sockets, fd));
    wait.resource = described.map(|described| described.resource);
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
    context: &WaitContext<'_>,
    fd: u64,
    direction: Direction,
    is_socket_call: bool,
    wait: &mut Wait,
) {
    let described = fd_of(fd).and_then(|fd| describe_fd(context.sockets, fd));
    let sort = described.as_ref().map(|described| described.sort);
    wait.kind = match sort {
        _ if is_socket_call => kind_of_transfer(direction, true, false),
        Some(sort) => kind_of_sort(sort, direction == Direction::Read),
        None => WaitKind::Unknown,
    };
    if let Some(described) = described {
        take(described, wait);
    }
    let resource = wait.resource.as_ref();
    wait.timeout = match wait.kind {
        WaitKind::SocketRecv => resource
            .and_then(|resource| resource.recv_timeout)
            .flatten(),
        WaitKind::SocketSend => resource
            .and_then(|resource| resource.send_timeout)
            .flatten(),
        WaitKind::Sleep => resource.and_then(|resource| resource.remaining),
        _ => None,
    };
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
    use crate::target::sockets::Sockets;

    fn classify_own(call: Sysno, arguments: [u64; 6]) -> Wait {
        let own = Target::open(Pid::own()).unwrap();
        let syscall = Syscall::In {
            number: i64::from(call.id()),
            arguments,
        };
        let sockets = Sockets::new(&own, false);
        see(
            &WaitContext::new(&sockets),
            SchedState::Sleeping,
            Some(&syscall),
        )
        .unwrap()
    }

    fn see(
        context: &WaitContext<'_>,
        state: SchedState,
        syscall: Option<&Syscall>,
    ) -> Option<Wait> {
        let sight = ThreadView {
            tid: Pid::own().main_thread(),
            state,
            syscall,
            since: None,
        };
        classify(context, sight)
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
        let own = WaitContext::new(&own);
        let odd = Syscall::In {
            number: 99_999,
            arguments: [0; 6],
        };
        let wait = see(&own, SchedState::Sleeping, Some(&odd)).unwrap();
        assert_eq!(
            (wait.kind, wait.syscall.as_deref()),
            (WaitKind::Unknown, Some("syscall_99999"))
        );
        assert_eq!(see(&own, SchedState::Running, None), None);
        assert_eq!(
            see(&own, SchedState::DiskSleep, None).unwrap().kind,
            WaitKind::Disk
        );
    }
}
