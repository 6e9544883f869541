//! Waits for any of several descriptors: poll, select and epoll; a wait for a single one is that one's own wait.

use std::cell::OnceCell;

use syscalls::Sysno;

use super::arguments::{MAX_LISTED, PointedArguments, PolledFd};
use super::call::fd_of;
use super::describe::{Described, Sort, describe_fd, kind_of_sort};
use super::surroundings::{WaitContext, take};
use crate::model::{Member, Resource, Wait, WaitKind};
use crate::target::fdinfo::FdInfo;
use crate::target::fds::{FdTarget, read_fd};

/// Most descriptors of the process among which the other ends of its own pipes and pairs are looked for.
const MAX_OWN: usize = 4096;

/// Describes a poll, select or epoll; the timeouts in registers are there already.
pub(super) fn describe_poll(
    context: &WaitContext<'_>,
    call: Sysno,
    arguments: &[u64; 6],
    pointed: Option<&PointedArguments>,
    wait: &mut Wait,
) {
    let is_epoll = is_epoll(call);
    let has_timeout_in_memory =
        !matches!(call, Sysno::epoll_pwait) && !has_timeout_in_register(call);
    let time = pointed.and_then(|pointed| pointed.time);
    if has_timeout_in_memory {
        wait.timeout = time.flatten();
    }
    let is_timeout_known = !has_timeout_in_memory || time.is_some();
    if !is_timeout_known && wait.missing.is_empty() {
        wait.missing
            .push("what the call points to: it was not read".to_owned());
    }
    if is_epoll {
        describe_epoll(context, arguments[0], wait);
    } else if let Some(polled) = pointed.and_then(|pointed| pointed.polled.as_ref()) {
        describe_all(context, &polled.first, polled.count, wait);
    }
    let is_single = wait
        .resource
        .as_ref()
        .is_some_and(|resource| resource.members.len() == 1 && resource.member_count.is_none());
    if is_single && is_timeout_known {
        become_member(context, is_epoll, wait);
    }
}

fn is_epoll(call: Sysno) -> bool {
    #[cfg(target_arch = "x86_64")]
    if call == Sysno::epoll_wait {
        return true;
    }
    matches!(call, Sysno::epoll_pwait | Sysno::epoll_pwait2)
}

fn has_timeout_in_register(call: Sysno) -> bool {
    #[cfg(target_arch = "x86_64")]
    if matches!(call, Sysno::poll | Sysno::epoll_wait) {
        return true;
    }
    call == Sysno::epoll_pwait
}

/// An epoll's members are in its `fdinfo`.
fn describe_epoll(context: &WaitContext<'_>, argument: u64, wait: &mut Wait) {
    let proc = context.sockets.target().proc();
    let Some(fd) = fd_of(argument) else {
        return;
    };
    let Ok(mut info) = FdInfo::read(proc, fd) else {
        wait.missing
            .push("what it polls: its descriptors can not be seen".to_owned());
        return;
    };
    // The kernel lists them by where its records lie.
    info.watched.sort_by_key(|watched| watched.fd);
    // The rest of the bits are those of edge triggers and the like.
    let polled: Vec<_> = info
        .watched
        .iter()
        .map(|watched| PolledFd::new(watched.fd, (watched.events & 0xffff) as u16))
        .collect();
    describe_all(context, &polled, info.watched_count, wait);
    let Some(resource) = &mut wait.resource else {
        return;
    };
    "epoll".clone_into(&mut resource.kind);
    resource.fd = Some(fd);
    for (member, watched) in resource.members.iter_mut().zip(&info.watched) {
        let now = member.resource.inode;
        // Anonymous inodes are one for all of their kind, and are not told apart.
        let is_another = now
            .zip(watched.inode)
            .is_some_and(|(now, then)| now != then);
        if is_another {
            // The file was closed under this number and lives on under another one, or in another process.
            member.resource = Resource {
                kind: "file".to_owned(),
                inode: watched.inode,
                ..Resource::default()
            };
        }
    }
}

fn describe_all(context: &WaitContext<'_>, polled: &[PolledFd], count: u64, wait: &mut Wait) {
    if count == 0 {
        // Nothing to wait for but the time; or, without any, a signal.
        wait.kind = match wait.timeout {
            Some(_) => WaitKind::Sleep,
            None => WaitKind::Signal,
        };
        super::sleep::set_remaining(wait);
        return;
    }
    let own = OnceCell::new();
    let members: Vec<_> = polled
        .iter()
        .take(MAX_LISTED)
        .map(|polled| {
            let described = describe_fd(context.sockets, polled.fd);
            let resource = described.map_or_else(
                || Resource {
                    kind: "file".to_owned(),
                    fd: Some(polled.fd),
                    ..Resource::default()
                },
                |described| described.resource,
            );
            Member {
                is_wakeup: polled.for_read && is_wakeup(context, &resource, &own),
                resource,
                for_read: polled.for_read,
                for_write: polled.for_write,
            }
        })
        .collect();
    wait.resource = Some(Resource {
        kind: "poll".to_owned(),
        member_count: (count > members.len() as u64).then_some(count),
        members,
        ..Resource::default()
    });
}

/// Whether the process itself has the other end, as event loops have to be woken up by other threads and by handlers of signals. `own` is the
/// process' pipes and sockets, listed once.
fn is_wakeup(
    context: &WaitContext<'_>,
    resource: &Resource,
    own: &OnceCell<Vec<(i32, FdTarget)>>,
) -> bool {
    let proc = context.proc();
    let is_elsewhere = |wanted: FdTarget| {
        let list = own.get_or_init(|| {
            let fds = proc.list_numbers("fd").unwrap_or_default().into_iter();
            let read = |fd| Some((fd, read_fd(proc, fd).ok()?));
            fds.take(MAX_OWN).filter_map(read).collect()
        });
        let mut others = list.iter();
        others.any(|(fd, target)| *target == wanted && Some(*fd) != resource.fd)
    };
    match (resource.kind.as_str(), resource.inode) {
        ("eventfd", _) => true,
        ("pipe", Some(inode)) => is_elsewhere(FdTarget::Pipe { inode }),
        ("unix", Some(inode)) if resource.peer.is_none() => {
            let directory = context.sockets.directory();
            let socket = directory.and_then(|directory| directory.unix(inode).ok());
            let peer = socket.and_then(|socket| socket.peer_inode);
            peer.is_some_and(|inode| is_elsewhere(FdTarget::Socket { inode }))
        }
        _ => false,
    }
}

/// Makes the only member what is waited on. Not so for the channels by which an event loop is woken by its own process: a loop
/// that polls nothing else is idle.
fn become_member(context: &WaitContext<'_>, is_epoll: bool, wait: &mut Wait) {
    let Some(member) = wait.resource.as_ref().and_then(|all| all.members.first()) else {
        return;
    };
    let (for_read, for_write) = (member.for_read, member.for_write);
    let fd = member.resource.fd;
    let is_wakeup = ["unix", "pipe", "eventfd"].contains(&member.resource.kind.as_str());
    if !(for_read || for_write) || is_epoll && is_wakeup {
        return;
    }
    let Some(described) = fd.and_then(|fd| describe_fd(context.sockets, fd)) else {
        return;
    };
    let kind = kind_of_member(&described, for_read, for_write);
    if matches!(kind, WaitKind::Unknown | WaitKind::Poll) {
        return;
    }
    wait.kind = kind;
    take(described, wait);
    if kind == WaitKind::Child {
        super::child::describe_pidfd(wait);
    }
}

/// Whether a poll is a wait like that for one of its members: all of them are known, all are pipes, processes and pairs of sockets that
/// others have, or all are connections to peers, and none brings work in, as listeners, accepted connections, signals, timers and
/// the channels by which a loop is woken up do.
pub fn is_plain_poll(resource: &Resource) -> bool {
    let members = &resource.members;
    !members.is_empty()
        && resource.member_count.is_none()
        && (polls_pipes(resource) || members.iter().all(is_connection))
}

/// Whether a poll is one of nothing but pipes, processes and pairs of sockets, none of which its own process wakes itself up by.
pub fn polls_pipes(resource: &Resource) -> bool {
    let is_pipe = |member: &Member| {
        let resource = &member.resource;
        let is_pair =
            resource.kind == "unix" && resource.local.is_none() && resource.peer.is_none();
        !member.is_wakeup && (is_pair || ["pipe", "process"].contains(&resource.kind.as_str()))
    };
    let members = &resource.members;
    !members.is_empty() && resource.member_count.is_none() && members.iter().all(is_pipe)
}

fn is_connection(member: &Member) -> bool {
    let resource = &member.resource;
    let is_known = ["tcp", "unix"].contains(&resource.kind.as_str());
    let is_accepted = resource.accepted == Some(true)
        || resource
            .tcp
            .is_some_and(|tcp| tcp.was_accepted() == Some(true));
    is_known && !is_accepted && !member.is_wakeup && resource.state.as_deref() != Some("LISTEN")
}

/// The kind of wait that a member of a plain poll is by itself.
pub(super) fn kind_of_polled(member: &Member) -> WaitKind {
    let sort = match member.resource.kind.as_str() {
        "pipe" => Sort::Pipe,
        "process" => Sort::Pidfd,
        _ => Sort::Socket,
    };
    kind_of_sort(sort, member.for_read)
}

fn kind_of_member(described: &Described, for_read: bool, for_write: bool) -> WaitKind {
    let resource = &described.resource;
    if described.sort != Sort::Socket {
        return kind_of_sort(described.sort, for_read);
    }
    match resource.state.as_deref() {
        Some("LISTEN") => WaitKind::SocketAccept,
        Some("SYN_SENT" | "CONNECTING") if for_write => WaitKind::SocketConnect,
        // Who waits for both waits for room as long as there is something that was not taken.
        _ if for_read && for_write && resource.send_queue.is_some_and(|bytes| bytes > 0) => {
            WaitKind::SocketSend
        }
        _ => kind_of_sort(Sort::Socket, for_read),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TcpTimes;

    fn member(kind: &str) -> Member {
        let named = kind == "tcp" || kind == "named";
        let kind = if kind == "named" { "unix" } else { kind };
        Member {
            resource: Resource {
                kind: kind.to_owned(),
                peer: named.then(|| "10.0.0.1:443".to_owned()),
                ..Resource::default()
            },
            for_read: true,
            for_write: false,
            is_wakeup: false,
        }
    }

    fn poll(members: Vec<Member>) -> (bool, bool) {
        let resource = Resource {
            kind: "poll".to_owned(),
            members,
            ..Resource::default()
        };
        (is_plain_poll(&resource), polls_pipes(&resource))
    }

    #[test]
    fn a_poll_of_nothing_but_pipes_or_of_nothing_but_peers_is_a_plain_wait() {
        let all = |kinds: &[&str]| poll(kinds.iter().map(|kind| member(kind)).collect());
        // An unnamed unix socket is one of a pair.
        for pipes in [&["pipe"][..], &["pipe", "process"], &["unix", "pipe"]] {
            assert_eq!(all(pipes), (true, true), "{pipes:?}");
        }
        assert_eq!(all(&["tcp", "named"]), (true, false));
        for loops in [
            &["pipe", "tcp"][..],
            &["pipe", "eventfd"],
            &["pipe", "tty"],
            &["pipe", "fifo"],
            &["pipe", "inotify"],
            &["pipe", "anon"],
            &["tcp", "udp"],
            &[],
        ] {
            assert_eq!(all(loops), (false, false), "{loops:?}");
        }
    }

    #[test]
    fn what_brings_work_in_makes_it_a_service() {
        let woken = |mut member: Member| {
            member.is_wakeup = true;
            member
        };
        let woken_up = vec![member("pipe"), woken(member("pipe"))];
        assert_eq!(poll(woken_up), (false, false));
        let mut listener = member("tcp");
        listener.resource.state = Some("LISTEN".to_owned());
        assert_eq!(poll(vec![member("tcp"), listener]), (false, false));
        let mut accepted = member("tcp");
        accepted.resource.tcp = Some(TcpTimes {
            bytes_sent: Some(5),
            bytes_retransmitted: Some(0),
            bytes_acked: 5,
            ..TcpTimes::default()
        });
        assert_eq!(poll(vec![member("tcp"), accepted]), (false, false));
        // Of more than are listed it is not known what the others are.
        let mut resource = Resource {
            members: vec![member("pipe")],
            ..Resource::default()
        };
        resource.member_count = Some(100);
        assert!(!is_plain_poll(&resource) && !polls_pipes(&resource));
    }

    #[test]
    fn each_member_is_a_wait_of_its_kind() {
        let kind = |kind: &str, for_read: bool| {
            let mut member = member(kind);
            (member.for_read, member.for_write) = (for_read, !for_read);
            kind_of_polled(&member)
        };
        assert_eq!(kind("pipe", true), WaitKind::PipeRead);
        assert_eq!(kind("pipe", false), WaitKind::PipeWrite);
        assert_eq!(kind("process", true), WaitKind::Child);
        assert_eq!(kind("unix", true), WaitKind::SocketRecv);
        assert_eq!(kind("tcp", false), WaitKind::SocketSend);
    }
}
