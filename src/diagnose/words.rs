//! Threads, waits and resources in the words of a verdict.

use crate::model::{Resource, ThreadSnapshot, Wait, WaitKind};

/// A thread by its best name.
pub fn thread_name(thread: &ThreadSnapshot) -> String {
    format!("{} (tid {})", thread.best_name(), thread.tid)
}

/// What a wait is for, as it follows "has waited 3s": "for data from 10.0.0.1:443 (tcp)".
pub fn waited_for(wait: &Wait) -> String {
    let resource = wait.resource.as_ref();
    let name = resource.and_then(|resource| resource.name.as_deref());
    let kind = resource.map_or("", |resource| resource.kind.as_str());
    match wait.kind {
        WaitKind::SocketRecv => format!("for data from {}", peer(resource)),
        WaitKind::SocketSend => format!("for {} to read", peer(resource)),
        WaitKind::SocketConnect => format!("for {} to take its connection", peer(resource)),
        WaitKind::PipeRead => format!("for data in {}", pipe(resource)),
        WaitKind::PipeWrite => format!("for room in {}", pipe(resource)),
        WaitKind::PythonLock => format!("for a {}", or(kind, "lock")),
        WaitKind::PythonRlock => format!("for a {}", or(kind, "reentrant lock")),
        WaitKind::Condition if kind == "threading.Thread" => {
            format!(
                "for {} to end",
                name.map_or_else(|| "a thread".to_owned(), |name| format!("thread {name}"))
            )
        }
        WaitKind::Condition => format!("for a {}", or(kind, "condition")),
        WaitKind::Semaphore => format!("for a {}", or(kind, "semaphore")),
        WaitKind::ImportLock => format!("for module {} to be imported", name.unwrap_or("?")),
        WaitKind::Gil => "for the GIL".to_owned(),
        WaitKind::PthreadMutex => "for a mutex of the C library".to_owned(),
        WaitKind::SharedSemaphore => "for a semaphore that processes share".to_owned(),
        WaitKind::Child => match resource.and_then(|resource| resource.pid) {
            Some(pid) => format!(
                "for its child {pid}{}",
                name.map(|name| format!(" ({name})")).unwrap_or_default()
            ),
            None => "for any of its children".to_owned(),
        },
        WaitKind::FileLock => match resource.and_then(|resource| resource.path.as_deref()) {
            Some(path) => format!("for the lock of {path}"),
            None => "for a file lock".to_owned(),
        },
        WaitKind::Disk => match resource.and_then(|resource| resource.path.as_deref()) {
            Some(path) => format!("for its disk ({path})"),
            None => "for a disk".to_owned(),
        },
        _ => format!("in {}", call_of(wait)),
    }
}

fn or<'a>(text: &'a str, fallback: &'a str) -> &'a str {
    if text.is_empty() { fallback } else { text }
}

fn pipe(resource: Option<&Resource>) -> String {
    let path = resource.and_then(|resource| resource.path.as_deref());
    match (path, resource.and_then(|resource| resource.fd)) {
        (Some(path), _) => path.to_owned(),
        (None, Some(fd)) => format!("the pipe of fd {fd}"),
        (None, None) => "a pipe".to_owned(),
    }
}

fn peer(resource: Option<&Resource>) -> String {
    match resource {
        Some(Resource {
            peer: Some(peer),
            kind,
            ..
        }) => format!("{peer} ({kind})"),
        Some(Resource {
            kind, fd: Some(fd), ..
        }) => format!("the other end of fd {fd} ({kind})"),
        _ => "its peer".to_owned(),
    }
}

/// What a resource is.
pub fn resource_text(resource: &Resource) -> String {
    let fd = resource
        .fd
        .map(|fd| format!("fd {fd} is "))
        .unwrap_or_default();
    let part = |text: &Option<String>, before: &str| {
        text.as_deref()
            .map(|text| format!("{before}{text}"))
            .unwrap_or_default()
    };
    let is_socket = ["tcp", "udp", "unix"].contains(&resource.kind.as_str());
    let noun = if is_socket { " socket" } else { "" };
    let address = resource
        .address
        .map(|address| format!(" at {address}"))
        .unwrap_or_default();
    format!(
        "{fd}a {}{noun}{}{}{}{}{}{address}",
        resource.kind,
        part(&resource.path, " "),
        part(&resource.name, " "),
        part(&resource.local, " from "),
        part(&resource.peer, " to "),
        part(&resource.state, ", "),
    )
}

/// The call that a thread is blocked in, with its descriptor.
pub fn call_of(wait: &Wait) -> String {
    let call = wait.syscall.as_deref().unwrap_or("a system call");
    match wait.resource.as_ref().and_then(|resource| resource.fd) {
        Some(fd) => format!("{call}(fd {fd})"),
        None => call.to_owned(),
    }
}
