//! The peers whose answer a thread waits for.

use crate::model::{Resource, Wait, WaitKind};

/// The connections that a receive or poll waits on; `None` for other waits, and where they are not known.
pub fn peers_of(wait: &Wait) -> Option<Vec<&Resource>> {
    let resource = wait.resource.as_ref()?;
    match wait.kind {
        WaitKind::SocketRecv => Some(vec![resource]),
        WaitKind::Poll => {
            let members = resource.members.iter().map(|member| &member.resource);
            Some(members.collect())
        }
        _ => None,
    }
}

/// Whether it is a connection to a peer that could owe an answer.
pub fn wait_for_peer(resource: &Resource) -> bool {
    let is_known = ["tcp", "udp", "unix"].contains(&resource.kind.as_str());
    let waits_for_anybody = matches!(resource.state.as_deref(), Some("UNCONNECTED" | "LISTEN"));
    is_known && !waits_for_anybody && resource.accepted != Some(true)
}
