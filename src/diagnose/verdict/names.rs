//! Threads, waits and resources in the words of a verdict.

use crate::model::{Resource, ThreadSnapshot, Wait};

/// A thread by its best name.
pub fn thread_name(thread: &ThreadSnapshot) -> String {
    format!("{} (tid {})", thread.best_name(), thread.tid)
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
    let kind = match resource.kind.as_str() {
        "anon" => "a piece of memory of its own".to_owned(),
        kind if kind.starts_with(['a', 'e', 'i', 'o']) => format!("an {kind}"),
        kind => format!("a {kind}"),
    };
    format!(
        "{fd}{kind}{noun}{}{}{}{}{}{address}",
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
