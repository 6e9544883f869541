//! A wait in one sentence, for people; it does not judge whether the wait is a problem.

use std::time::Duration;

use crate::model::{
    Holder, HolderConfidence, LastSender, Member, Pid, Resource, Wait, WaitKind, span,
};

/// Longest part of a title that is shown, in characters.
const MAX_TITLE: usize = 40;
/// Most who could end a wait that are named; the others are counted.
const MAX_NAMED: usize = 3;

/// What a thread of process `pid` waits for, for how long, and on whom: `waits 41s for lock held by Thread-3 (tid 812)`. `None`
/// where nothing is known but the call. Text of the target is in it as it is: whoever shows it has to make it harmless.
pub fn sentence(wait: &Wait, pid: Pid) -> Option<String> {
    let text = match wait.kind {
        WaitKind::SocketRecv => receive(wait, pid),
        WaitKind::SocketSend => send(wait, pid),
        WaitKind::SocketConnect => {
            let to = peer(wait).unwrap_or("a socket");
            for_what(
                wait,
                pid,
                &format!("a connection to {to}"),
                &socket_facts(wait, pid),
            )
        }
        WaitKind::SocketAccept => {
            let at = local(wait)
                .map(|local| format!(" at {local}"))
                .unwrap_or_default();
            for_what(
                wait,
                pid,
                &format!("incoming connections{at}"),
                &socket_facts(wait, pid),
            )
        }
        WaitKind::Poll => poll(wait, pid),
        WaitKind::PipeRead | WaitKind::PipeWrite => pipe(wait, pid),
        WaitKind::Eventfd => for_what(wait, pid, "an event (eventfd)", &[]),
        WaitKind::Inotify => inotify(wait, pid),
        WaitKind::Tty => {
            let path = path(wait).unwrap_or("(unknown)");
            let call = wait.syscall.as_deref().unwrap_or_default();
            let way = if call.contains("write") {
                "write"
            } else {
                "read"
            };
            for_what(wait, pid, &format!("terminal {path} ({way})"), &[])
        }
        WaitKind::Futex => for_what(wait, pid, "a futex", &address(wait)),
        WaitKind::PythonLock => lock(wait, pid, "lock"),
        WaitKind::PythonRlock => lock(wait, pid, "reentrant lock"),
        WaitKind::Semaphore => lock(wait, pid, "semaphore"),
        WaitKind::SharedSemaphore => lock(wait, pid, "shared semaphore"),
        WaitKind::PthreadMutex => lock(wait, pid, "mutex"),
        WaitKind::Gil => lock(wait, pid, "the GIL"),
        WaitKind::ImportLock => lock(wait, pid, "the import lock"),
        WaitKind::Condition => condition(wait, pid),
        WaitKind::Child => child(wait),
        WaitKind::FileLock => file_lock(wait, pid),
        WaitKind::Sleep => sleep(wait),
        WaitKind::Signal => signal(wait, pid),
        WaitKind::Disk => disk(wait, "a disk or file system"),
        WaitKind::PageFault => disk(wait, "a page fault"),
        WaitKind::Stopped => stopped(wait),
        WaitKind::Traced => {
            let by = wait
                .holder
                .as_ref()
                .map(|holder| format!(" by {}", who(holder, pid)));
            format!(
                "traced{}, stopped{}",
                by.unwrap_or_default(),
                for_time(wait)
            )
        }
        WaitKind::Zombie => {
            let how = resource(wait).and_then(|resource| resource.state.as_deref());
            let how = how.map(|how| format!(" ({how})")).unwrap_or_default();
            let by = wait.holder.as_ref().map(|holder| who(holder, pid));
            match by {
                Some(parent) => format!("ended{how}, not reaped by {parent}"),
                None => format!("ended{how}"),
            }
        }
        WaitKind::Unknown => return None,
    };
    Some(text)
}

/// `waits 9m12s for WHAT (FACTS; no timeout)`, with who could end it.
fn for_what(wait: &Wait, pid: Pid, what: &str, facts: &[String]) -> String {
    let mut text = format!("{} for {what}", since_verb("waits", wait));
    let holders = holders(wait, pid);
    let mut inside = facts.join(", ");
    let limit = limit(wait);
    if !inside.is_empty() && limit.is_some() {
        inside.push_str("; ");
    }
    inside.push_str(&limit.unwrap_or_default());
    if !inside.is_empty() {
        text.push_str(&format!(" ({inside})"));
    }
    let from = match resource(wait).is_some_and(|resource| resource.is_unaccepted) {
        true => "in the accept queue of",
        false => "from",
    };
    if let Some((sure, by)) = holders {
        text.push_str(&format!(", {sure}{from} {by}"));
    }
    text
}

fn since_verb(verb: &str, wait: &Wait) -> String {
    match wait.since {
        Some(since) => format!("{verb} {}", span(since.elapsed)),
        None => verb.to_owned(),
    }
}

fn for_time(wait: &Wait) -> String {
    wait.since
        .map(|since| format!(" for {}", span(since.elapsed)))
        .unwrap_or_default()
}

/// Whether what could not be read may be the end that is set to the wait: not how full a pipe is, nor who else has its other end.
fn concerns_limit(missing: &str) -> bool {
    !["whether ", "how full "]
        .iter()
        .any(|other| missing.starts_with(other))
}

/// The end that is set to the wait; nothing where that can't be told.
fn limit(wait: &Wait) -> Option<String> {
    match wait.timeout {
        Some(timeout) => Some(format!("timeout {}", span(timeout))),
        // Whether a timeout is set is known from the socket itself, or from the arguments of a poll.
        None if wait.missing.iter().any(|what| concerns_limit(what)) => None,
        None => match wait.kind {
            WaitKind::SocketRecv => resource(wait)?.recv_timeout?.is_none(),
            WaitKind::SocketSend | WaitKind::SocketConnect => {
                resource(wait)?.send_timeout?.is_none()
            }
            WaitKind::Poll => true,
            _ => false,
        }
        .then(|| "no timeout".to_owned()),
    }
}

fn resource(wait: &Wait) -> Option<&Resource> {
    wait.resource.as_ref()
}

fn peer(wait: &Wait) -> Option<&str> {
    resource(wait)?.peer.as_deref()
}

fn local(wait: &Wait) -> Option<&str> {
    resource(wait)?.local.as_deref()
}

fn path(wait: &Wait) -> Option<&str> {
    resource(wait)?.path.as_deref()
}

fn address(wait: &Wait) -> Vec<String> {
    let address = resource(wait).and_then(|resource| resource.address);
    address
        .map(|address| format!("at {address}"))
        .into_iter()
        .collect()
}

/// The kind of a socket, its state, and what is odd about it.
fn socket_facts(wait: &Wait, pid: Pid) -> Vec<String> {
    let Some(resource) = resource(wait) else {
        return Vec::new();
    };
    let mut facts = vec![resource.kind.clone()];
    facts.extend(
        resource
            .state
            .as_ref()
            .map(|state| state.to_lowercase().replace('_', "-")),
    );
    if resource.resolves_names == Some(true) {
        facts.push("name lookup".to_owned());
    }
    let is_own = !resource.ends.is_empty() && resource.ends.iter().all(|end| end.pid == pid);
    facts.extend(match (resource.is_unaccepted, is_own) {
        (true, true) => Some("not accepted by this process, which listens for it".to_owned()),
        (true, false) => Some("not accepted".to_owned()),
        (false, true) => Some("the peer is this process itself".to_owned()),
        (false, false) => None,
    });
    facts
}

fn receive(wait: &Wait, pid: Pid) -> String {
    let from = match peer(wait) {
        Some(peer) => format!("data from {peer}"),
        None => match local(wait) {
            Some(local) => format!("data at {local}"),
            None => "data from a socket".to_owned(),
        },
    };
    let mut facts = socket_facts(wait, pid);
    if let Some(tcp) = resource(wait).and_then(|resource| resource.tcp) {
        let received = Duration::from_millis(tcp.last_data_recv_ms.into());
        facts.push(match tcp.last_sender() {
            _ if tcp.bytes_received == 0 => "nothing ever received".to_owned(),
            LastSender::Own => "nothing received since it last sent".to_owned(),
            LastSender::Unknown => {
                format!("nothing sent or received for {}", span(received))
            }
            _ => format!(
                "nothing sent since data last arrived {} ago",
                span(received)
            ),
        });
    }
    for_what(wait, pid, &from, &facts)
}

fn send(wait: &Wait, pid: Pid) -> String {
    let to = peer(wait).unwrap_or("the peer of a socket");
    let mut facts = socket_facts(wait, pid);
    if let Some(bytes) = resource(wait).and_then(|resource| resource.send_queue) {
        facts.push(format!("{bytes} bytes in the send queue"));
    }
    for_what(wait, pid, &format!("{to} to read data"), &facts)
}

/// `waits 41s for 10.0.0.1:443 (tcp) or a pipe (no timeout)`: the one or two that come from outside, or how many there are.
fn poll(wait: &Wait, pid: Pid) -> String {
    let Some(resource) = resource(wait) else {
        return for_what(wait, pid, "any of some fds", &[]);
    };
    let listed = resource.members.len() as u64;
    let count = resource.member_count.unwrap_or(listed);
    let outside: Vec<&Member> = resource
        .members
        .iter()
        .filter(|member| !member.is_wakeup)
        .collect();
    let listening = outside.iter().filter(|member| is_listening(member));
    let what = match &outside[..] {
        _ if count == 0 => "any of some fds".to_owned(),
        _ if count > listed => format!("any of {count} fds"),
        [] => "a wake-up by its own process".to_owned(),
        [one] => polled(one),
        [one, other] => format!("{} or {}", polled(one), polled(other)),
        more => format!("any of {} fds", more.len()),
    };
    let what = match listening.count() {
        listening if listening > 0 && (outside.len() > 2 || count > listed) => {
            format!("{what}, {listening} listening")
        }
        _ => what,
    };
    for_what(wait, pid, &what, &[])
}

fn is_listening(member: &Member) -> bool {
    member.resource.state.as_deref() == Some("LISTEN")
}

/// One of the few things that are polled.
fn polled(member: &Member) -> String {
    let resource = &member.resource;
    let fd = resource
        .fd
        .map(|fd| format!(" (fd {fd})"))
        .unwrap_or_default();
    let path = resource.path.as_deref();
    let kind = resource.kind.as_str();
    match (kind, resource.peer.as_deref(), resource.local.as_deref()) {
        (_, _, Some(local)) if is_listening(member) => format!("connections at {local}"),
        (kind, Some(peer), _) => format!("{peer} ({kind})"),
        (kind, None, Some(local)) => format!("{local} ({kind})"),
        ("unix" | "socket", ..) => format!("a socket{fd}"),
        ("tty", ..) => format!("terminal {}", path.unwrap_or("(unknown)")),
        ("process", ..) => match resource.pid {
            Some(pid) => format!("process {pid}"),
            None => format!("a process{fd}"),
        },
        ("fifo" | "file", ..) => match path {
            Some(path) => format!("{kind} {path}"),
            None => format!("a {kind}{fd}"),
        },
        ("anon", ..) => format!("a {}{fd}", path.unwrap_or("file")),
        ("inotify", ..) => format!("changes of files{fd}"),
        ("", ..) => format!("a file{fd}"),
        ("epoll" | "eventfd", ..) => format!("an {kind}{fd}"),
        _ => format!("a {kind}{fd}"),
    }
}

fn pipe(wait: &Wait, pid: Pid) -> String {
    let is_read = wait.kind == WaitKind::PipeRead;
    let Some(resource) = resource(wait) else {
        let what = if is_read {
            "data from a pipe"
        } else {
            "room in a pipe"
        };
        return for_what(wait, pid, what, &[]);
    };
    let name = match &resource.path {
        Some(path) => format!("{} {path}", resource.kind),
        None => format!("a {}", resource.kind),
    };
    if resource.state.as_deref() == Some("opening") {
        let other = if is_read { "writer" } else { "reader" };
        return for_what(wait, pid, &format!("a {other} to open {name}"), &[]);
    }
    let what = if is_read {
        format!("data from {name}")
    } else {
        format!("room in {name}")
    };
    let mut facts = Vec::new();
    if let (Some(fill), Some(capacity)) = (resource.fill, resource.capacity) {
        facts.push(match fill {
            0 => "empty".to_owned(),
            fill => format!("{fill} of {capacity} bytes full"),
        });
    }
    if resource.is_alone == Some(true) {
        let end = if is_read { "write" } else { "read" };
        facts.push(format!("only this process has its {end} end"));
    }
    for_what(wait, pid, &what, &facts)
}

fn inotify(wait: &Wait, pid: Pid) -> String {
    let count = resource(wait).and_then(|resource| resource.member_count);
    let facts = count.map(|count| match count {
        1 => "1 watch".to_owned(),
        count => format!("{count} watches"),
    });
    for_what(
        wait,
        pid,
        "changes of files (inotify)",
        &facts.into_iter().collect::<Vec<_>>(),
    )
}

/// `waits 41s for lock held by Thread-3 (tid 812)`.
fn lock(wait: &Wait, pid: Pid, word: &str) -> String {
    let name = resource(wait).and_then(|resource| resource.name.as_deref());
    let name = name.map(|name| format!(" {name}")).unwrap_or_default();
    let mut text = format!("{} for {word}{name}", since_verb("waits", wait));
    // A mutex in memory that others map too.
    if let Some(path) = path(wait) {
        text.push_str(&format!(" in {path}"));
    }
    text.push_str(&held_by(wait, pid));
    if let Some(limit) = limit(wait) {
        text.push_str(&format!(" ({limit})"));
    }
    text
}

fn condition(wait: &Wait, pid: Pid) -> String {
    let kind = resource(wait).map(|resource| resource.kind.as_str());
    let name = resource(wait).and_then(|resource| resource.name.as_deref());
    let what = match (kind, name) {
        (Some(kind), Some(name)) => format!("{kind} {name}"),
        (Some(kind), None) => kind.to_owned(),
        (None, _) => "a condition".to_owned(),
    };
    for_what(wait, pid, &what, &[])
}

/// `waits 3s for child 4242 (python worker.py, sleeping)`.
fn child(wait: &Wait) -> String {
    let verb = since_verb("waits", wait);
    let limit = limit(wait)
        .map(|limit| format!("; {limit}"))
        .unwrap_or_default();
    let Some(resource) = resource(wait) else {
        return format!("{verb} for a child{limit}");
    };
    match resource.pid {
        Some(pid) => {
            let title = resource.name.as_deref().map(shorten);
            let facts: Vec<_> = title.into_iter().chain(resource.state.clone()).collect();
            format!("{verb} for child {pid} ({}{limit})", facts.join(", "))
        }
        None => {
            let what = resource.name.as_deref().unwrap_or("a child");
            let pids: Vec<_> = wait
                .holder
                .iter()
                .chain(&wait.other_holders)
                .take(MAX_NAMED)
                .map(|holder| holder.pid.to_string())
                .collect();
            let more = match (1 + wait.other_holders.len()).saturating_sub(MAX_NAMED) {
                0 => String::new(),
                1 => " and 1 other".to_owned(),
                more => format!(" and {more} others"),
            };
            match pids.is_empty() {
                true => format!("{verb} for {what}{limit}"),
                false => format!("{verb} for {what}: {}{more}{limit}", pids.join(", ")),
            }
        }
    }
}

fn file_lock(wait: &Wait, pid: Pid) -> String {
    let path = path(wait).unwrap_or("a file");
    let sort = resource(wait).and_then(|resource| resource.name.as_deref());
    let sort = sort.map(|sort| format!("{sort} ")).unwrap_or_default();
    let by = held_by(wait, pid);
    let an = if sort.starts_with('e') { "an" } else { "a" };
    format!(
        "{} for {an} {sort}lock on {path}{by}",
        since_verb("waits", wait)
    )
}

/// `sleeps, 27s of 60s left`.
fn sleep(wait: &Wait) -> String {
    let left = resource(wait).and_then(|resource| resource.remaining);
    match (left, wait.timeout) {
        (Some(left), Some(all)) => format!("sleeps, {} of {} left", short(left), short(all)),
        (Some(left), None) => format!("sleeps, {} left", short(left)),
        (None, _) => since_verb("sleeps", wait),
    }
}

/// A time as a span; a whole number of seconds up to two minutes as those.
fn short(time: Duration) -> String {
    match time.as_secs() {
        10..120 => format!("{}s", time.as_secs()),
        _ => span(time),
    }
}

fn signal(wait: &Wait, pid: Pid) -> String {
    match resource(wait).and_then(|resource| resource.name.as_deref()) {
        Some(names) => for_what(wait, pid, &format!("a signal: {names}"), &[]),
        None => for_what(wait, pid, "a signal", &[]),
    }
}

fn disk(wait: &Wait, what: &str) -> String {
    let mut facts = Vec::new();
    if let Some(resource) = resource(wait) {
        let name = resource.peer.as_ref().or(resource.path.as_ref());
        facts.extend(name.cloned());
        facts.extend(resource.mount.as_ref().map(|mount| format!("on {mount}")));
        facts.extend(
            resource
                .function
                .as_ref()
                .map(|function| format!("in the kernel's {function}")),
        );
    }
    let inside = match facts.is_empty() {
        true => String::new(),
        false => format!(" ({})", facts.join(", ")),
    };
    format!("{} for {what}{inside}", since_verb("waits", wait))
}

fn stopped(wait: &Wait) -> String {
    match resource(wait).and_then(|resource| resource.name.as_deref()) {
        Some(group) => format!("stopped: {group} is frozen"),
        None => format!("stopped{}", for_time(wait)),
    }
}

/// ` held by Thread-3 (tid 812)`, or `, possibly held by Thread-3 (tid 812) or 2 others`; nothing where nobody is known.
fn held_by(wait: &Wait, pid: Pid) -> String {
    match holders(wait, pid) {
        Some(("", by)) => format!(" held by {by}"),
        Some((sure, by)) => format!(", {sure}held by {by}"),
        None => String::new(),
    }
}

/// How sure it is that these could end the wait, and who: `Thread-3 (tid 812) or 2 others`.
fn holders(wait: &Wait, pid: Pid) -> Option<(&'static str, String)> {
    let holder = wait.holder.as_ref()?;
    let first = who(holder, pid);
    // That another thread of the same other process may do it says nothing new.
    let is_another =
        |other: &&Holder| other.pid != holder.pid || other.tid.is_some() || holder.pid == pid;
    let all = match wait.other_holders.iter().filter(is_another).count() {
        0 => first,
        1 => format!("{first} or another"),
        count => format!("{first} or {count} others"),
    };
    let sure = match holder.confidence {
        HolderConfidence::Proven => "",
        HolderConfidence::Inferred => "likely ",
        HolderConfidence::Possible => "possibly ",
    };
    Some((sure, all))
}

/// A thread of this process by its name, another process by its title.
fn who(holder: &Holder, pid: Pid) -> String {
    let mut text = match (&holder.thread, holder.tid) {
        (Some(name), Some(tid)) => format!("{name} (tid {tid})"),
        (None, Some(tid)) if holder.pid == pid => format!("tid {tid}"),
        _ if holder.pid == pid && holder.is_gone => {
            return "a thread that no longer exists".to_owned();
        }
        _ if holder.pid == pid => "another thread of the process".to_owned(),
        _ => String::new(),
    };
    if holder.pid != pid {
        let process = match &holder.title {
            Some(title) => format!("process {} ({})", holder.pid, shorten(title)),
            None => format!("process {}", holder.pid),
        };
        text = match text.is_empty() {
            true => process,
            false => format!("{text} of {process}"),
        };
    }
    if holder.is_gone {
        text.push_str(", which has ended");
    }
    text
}

/// The beginning of a title, with an ellipsis where some was left out.
fn shorten(title: &str) -> String {
    if title.chars().count() <= MAX_TITLE {
        return title.to_owned();
    }
    title.chars().take(MAX_TITLE - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Address, End, EndAccess, Since, SinceSource, TcpTimes, Tid};

    fn wait(kind: WaitKind, seconds: u64, resource: Resource) -> Wait {
        Wait {
            kind,
            since: Some(Since {
                elapsed: Duration::from_secs(seconds),
                error: Duration::ZERO,
                source: SinceSource::Sched,
            }),
            syscall: None,
            timeout: None,
            resource: (resource != Resource::default()).then_some(resource),
            call: None,
            slices: None,
            holder: None,
            other_holders: Vec::new(),
            reach: None,
            missing: Vec::new(),
        }
    }

    fn holder(pid: i32, tid: Option<i32>, thread: Option<&str>, title: Option<&str>) -> Holder {
        Holder {
            pid: Pid(pid),
            tid: tid.map(Tid),
            thread: thread.map(Into::into),
            title: title.map(Into::into),
            confidence: HolderConfidence::Proven,
            is_gone: false,
        }
    }

    fn said(wait: &Wait) -> String {
        sentence(wait, Pid(7)).unwrap()
    }

    fn tcp() -> Resource {
        Resource {
            kind: "tcp".into(),
            fd: Some(9),
            local: Some("10.1.2.3:41044".into()),
            peer: Some("10.0.0.1:443".into()),
            state: Some("ESTABLISHED".into()),
            recv_timeout: Some(None),
            send_timeout: Some(None),
            send_queue: Some(7000),
            tcp: Some(TcpTimes {
                last_data_sent_ms: 552_000,
                last_data_recv_ms: 552_300,
                bytes_received: 12,
                bytes_acked: 31,
                ..TcpTimes::default()
            }),
            ..Resource::default()
        }
    }

    #[test]
    fn sockets() {
        let mut receive = wait(WaitKind::SocketRecv, 552, tcp());
        assert_eq!(
            said(&receive),
            "waits 9m12s for data from 10.0.0.1:443 (tcp, established, nothing received since it last sent; no timeout)"
        );
        let mut tied = receive.clone();
        let tcp_of_tied = tied.resource.as_mut().unwrap().tcp.as_mut().unwrap();
        tcp_of_tied.last_data_sent_ms = 552_300;
        assert_eq!(
            said(&tied),
            "waits 9m12s for data from 10.0.0.1:443 (tcp, established, nothing sent or received for 9m12s; no timeout)"
        );
        receive.timeout = Some(Duration::from_secs(5));
        receive.holder = Some(holder(77, None, None, Some("python server.py")));
        assert_eq!(
            said(&receive),
            "waits 9m12s for data from 10.0.0.1:443 (tcp, established, nothing received since it last sent; timeout 5.0s), from process 77 (python server.py)"
        );
        assert_eq!(
            said(&wait(WaitKind::SocketSend, 41, tcp())),
            "waits 41s for 10.0.0.1:443 to read data (tcp, established, 7000 bytes in the send queue; no timeout)"
        );
        let connect = Resource {
            state: Some("SYN_SENT".into()),
            ..tcp()
        };
        assert_eq!(
            said(&wait(WaitKind::SocketConnect, 41, connect)),
            "waits 41s for a connection to 10.0.0.1:443 (tcp, syn-sent; no timeout)"
        );
        let listening = Resource {
            kind: "tcp".into(),
            local: Some("0.0.0.0:80".into()),
            state: Some("LISTEN".into()),
            ..Resource::default()
        };
        assert_eq!(
            said(&wait(WaitKind::SocketAccept, 41, listening)),
            "waits 41s for incoming connections at 0.0.0.0:80 (tcp, listen)"
        );
        let dns = Resource {
            kind: "udp".into(),
            peer: Some("10.0.0.2:53".into()),
            resolves_names: Some(true),
            ..Resource::default()
        };
        assert_eq!(
            said(&wait(WaitKind::SocketRecv, 3, dns)),
            "waits 3.0s for data from 10.0.0.2:53 (udp, name lookup)"
        );
        assert_eq!(
            said(&wait(WaitKind::SocketRecv, 41, Resource::default())),
            "waits 41s for data from a socket"
        );
    }

    #[test]
    fn a_connection_that_nobody_has_accepted() {
        let end = |pid| End {
            pid: Pid(pid),
            fd: 3,
            access: EndAccess::Both,
        };
        let mut queued = tcp();
        (queued.is_unaccepted, queued.tcp) = (true, None);
        queued.ends = vec![end(77)];
        let mut receive = wait(WaitKind::SocketRecv, 41, queued);
        receive.holder = Some(holder(77, None, None, Some("python server.py")));
        assert_eq!(
            said(&receive),
            "waits 41s for data from 10.0.0.1:443 (tcp, established, not accepted; no timeout), in the accept queue of process 77 (python server.py)"
        );
        receive.holder = None;
        let resource = receive.resource.as_mut().unwrap();
        resource.ends = vec![end(7)];
        assert_eq!(
            said(&receive),
            "waits 41s for data from 10.0.0.1:443 (tcp, established, not accepted by this process, which listens for it; no timeout)"
        );
        let resource = receive.resource.as_mut().unwrap();
        resource.is_unaccepted = false;
        assert!(said(&receive).contains("established, the peer is this process itself;"));
        let resource = receive.resource.as_mut().unwrap();
        resource.ends = vec![end(7), end(8)];
        assert!(!said(&receive).contains("itself"));
    }

    #[test]
    fn the_one_or_two_that_are_polled_are_named() {
        let member = |kind: &str, is_wakeup| Member {
            resource: Resource {
                kind: kind.into(),
                fd: Some(9),
                ..Resource::default()
            },
            for_read: true,
            for_write: false,
            is_wakeup,
        };
        let mut peer = member("tcp", false);
        peer.resource = tcp();
        let mut terminal = member("tty", false);
        terminal.resource.path = Some("/dev/pts/0".into());
        let polled = |members: &[&Member]| {
            let resource = Resource {
                kind: "epoll".into(),
                members: members.iter().map(|member| (*member).clone()).collect(),
                ..Resource::default()
            };
            said(&wait(WaitKind::Poll, 41, resource))
        };
        let (own, pipe) = (member("pipe", true), member("pipe", false));
        assert_eq!(
            polled(&[&own, &peer]),
            "waits 41s for 10.0.0.1:443 (tcp) (no timeout)"
        );
        assert_eq!(
            polled(&[&pipe, &own, &terminal]),
            "waits 41s for a pipe (fd 9) or terminal /dev/pts/0 (no timeout)"
        );
        assert_eq!(
            polled(&[&own]),
            "waits 41s for a wake-up by its own process (no timeout)"
        );
        assert_eq!(
            polled(&[&peer, &pipe, &own, &terminal]),
            "waits 41s for any of 3 fds (no timeout)"
        );
    }

    #[test]
    fn descriptors_of_other_kinds() {
        let member = |state: &str| Member {
            resource: Resource {
                state: Some(state.into()),
                ..Resource::default()
            },
            for_read: true,
            for_write: false,
            is_wakeup: false,
        };
        let mut members = vec![member("LISTEN"); 3];
        members.extend(vec![member("ESTABLISHED"); 9]);
        let all = Resource {
            kind: "epoll".into(),
            members,
            ..Resource::default()
        };
        let mut poll = wait(WaitKind::Poll, 41, all);
        poll.since = None;
        poll.timeout = Some(Duration::from_secs(1));
        assert_eq!(
            said(&poll),
            "waits for any of 12 fds, 3 listening (timeout 1.0s)"
        );
        let pipe = Resource {
            kind: "pipe".into(),
            fill: Some(65536),
            capacity: Some(65536),
            is_alone: Some(true),
            ..Resource::default()
        };
        assert_eq!(
            said(&wait(WaitKind::PipeWrite, 41, pipe)),
            "waits 41s for room in a pipe (65536 of 65536 bytes full, only this process has its read end)"
        );
        let fifo = Resource {
            kind: "fifo".into(),
            path: Some("/tmp/f".into()),
            state: Some("opening".into()),
            ..Resource::default()
        };
        assert_eq!(
            said(&wait(WaitKind::PipeRead, 41, fifo)),
            "waits 41s for a writer to open fifo /tmp/f"
        );
        assert_eq!(
            said(&wait(WaitKind::Eventfd, 41, Resource::default())),
            "waits 41s for an event (eventfd)"
        );
        let watches = Resource {
            member_count: Some(2),
            ..Resource::default()
        };
        assert_eq!(
            said(&wait(WaitKind::Inotify, 41, watches)),
            "waits 41s for changes of files (inotify) (2 watches)"
        );
        let terminal = Resource {
            path: Some("/dev/pts/0".into()),
            ..Resource::default()
        };
        assert_eq!(
            said(&wait(WaitKind::Tty, 41, terminal)),
            "waits 41s for terminal /dev/pts/0 (read)"
        );
    }

    #[test]
    fn locks() {
        let mut lock = wait(WaitKind::PythonLock, 41, Resource::default());
        lock.holder = Some(holder(7, Some(812), Some("Thread-3"), None));
        assert_eq!(said(&lock), "waits 41s for lock held by Thread-3 (tid 812)");
        lock.other_holders = vec![holder(7, None, None, None); 2];
        lock.holder.as_mut().unwrap().confidence = HolderConfidence::Possible;
        assert_eq!(
            said(&lock),
            "waits 41s for lock, possibly held by Thread-3 (tid 812) or 2 others"
        );
        for (kind, text) in [
            (WaitKind::PythonRlock, "waits 41s for reentrant lock"),
            (WaitKind::Semaphore, "waits 41s for semaphore"),
            (WaitKind::PthreadMutex, "waits 41s for mutex"),
            (WaitKind::Gil, "waits 41s for the GIL"),
            (WaitKind::ImportLock, "waits 41s for the import lock"),
            (WaitKind::SharedSemaphore, "waits 41s for shared semaphore"),
            (WaitKind::Futex, "waits 41s for a futex"),
            (WaitKind::Condition, "waits 41s for a condition"),
        ] {
            assert_eq!(said(&wait(kind, 41, Resource::default())), text);
        }
        let futex = Resource {
            address: Some(Address(0x10)),
            ..Resource::default()
        };
        assert!(
            said(&wait(WaitKind::Futex, 41, futex)).starts_with("waits 41s for a futex (at 0x")
        );
        let event = Resource {
            kind: "threading.Event".into(),
            ..Resource::default()
        };
        assert_eq!(
            said(&wait(WaitKind::Condition, 41, event)),
            "waits 41s for threading.Event"
        );
        let file = Resource {
            path: Some("/a.lock".into()),
            name: Some("exclusive".into()),
            ..Resource::default()
        };
        let mut lock = wait(WaitKind::FileLock, 41, file);
        lock.holder = Some(Holder {
            is_gone: true,
            ..holder(8, None, None, None)
        });
        assert_eq!(
            said(&lock),
            "waits 41s for an exclusive lock on /a.lock held by process 8, which has ended"
        );
    }

    #[test]
    fn processes_and_time() {
        let child = Resource {
            kind: "process".into(),
            pid: Some(Pid(4242)),
            name: Some("python worker.py".into()),
            state: Some("sleeping".into()),
            ..Resource::default()
        };
        assert_eq!(
            said(&wait(WaitKind::Child, 3, child)),
            "waits 3.0s for child 4242 (python worker.py, sleeping)"
        );
        let any = Resource {
            kind: "process".into(),
            name: Some("any of 2 children".into()),
            ..Resource::default()
        };
        let mut any = wait(WaitKind::Child, 30, any);
        any.holder = Some(holder(8, None, None, None));
        any.other_holders = vec![holder(9, None, None, None)];
        assert_eq!(said(&any), "waits 30s for any of 2 children: 8, 9");
        any.other_holders = vec![any.other_holders[0].clone(); 4];
        assert_eq!(
            said(&any),
            "waits 30s for any of 2 children: 8, 9, 9 and 2 others"
        );
        let time = Resource {
            remaining: Some(Duration::from_secs(27)),
            ..Resource::default()
        };
        let mut sleep = wait(WaitKind::Sleep, 33, time);
        sleep.timeout = Some(Duration::from_secs(60));
        assert_eq!(said(&sleep), "sleeps, 27s of 60s left");
        assert_eq!(
            said(&wait(WaitKind::Sleep, 33, Resource::default())),
            "sleeps 33s"
        );
        let signals = Resource {
            name: Some("SIGTERM".into()),
            ..Resource::default()
        };
        assert_eq!(
            said(&wait(WaitKind::Signal, 33, signals)),
            "waits 33s for a signal: SIGTERM"
        );
        let mut traced = wait(WaitKind::Traced, 33, Resource::default());
        traced.holder = Some(holder(9, None, None, Some("gdb")));
        assert_eq!(said(&traced), "traced by process 9 (gdb), stopped for 33s");
        assert_eq!(
            said(&wait(WaitKind::Stopped, 33, Resource::default())),
            "stopped for 33s"
        );
        let mut zombie = wait(WaitKind::Zombie, 33, Resource::default());
        zombie.holder = Some(holder(9, None, None, None));
        assert_eq!(said(&zombie), "ended, not reaped by process 9");
        zombie.resource = Some(Resource {
            state: Some("killed by SIGKILL".into()),
            ..Resource::default()
        });
        assert_eq!(
            said(&zombie),
            "ended (killed by SIGKILL), not reaped by process 9"
        );
        let frozen = Resource {
            name: Some("cgroup /a".into()),
            ..Resource::default()
        };
        assert_eq!(
            said(&wait(WaitKind::Stopped, 33, frozen)),
            "stopped: cgroup /a is frozen"
        );
        let file = Resource {
            path: Some("/mnt/x".into()),
            mount: Some("/mnt (nfs4, host:/e)".into()),
            function: Some("rpc_wait_bit_killable".into()),
            ..Resource::default()
        };
        assert_eq!(
            said(&wait(WaitKind::Disk, 33, file)),
            "waits 33s for a disk or file system (/mnt/x, on /mnt (nfs4, host:/e), in the kernel's rpc_wait_bit_killable)"
        );
        assert_eq!(
            said(&wait(WaitKind::PageFault, 33, Resource::default())),
            "waits 33s for a page fault"
        );
        assert_eq!(
            sentence(&wait(WaitKind::Unknown, 33, Resource::default()), Pid(7)),
            None
        );
    }
}
