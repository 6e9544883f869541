//! The peers whose answer a thread waits for: whether one is owed, and since when.

use std::time::Duration;

use crate::model::{Pid, Resource, Since, SinceSource, TcpTimes, VerdictClass, Wait, WaitKind};
use crate::wait::polls_pipes;

/// The kernel's slowest usual tick, by which TCP counts its times.
pub const TCP_TICK: Duration = Duration::from_millis(10);

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

/// Whether it is a connection to a peer that could owe an answer: not one that this end accepted, since a server's last word is an
/// answer, or news, and owes nothing and is owed nothing.
pub fn wait_for_peer(resource: &Resource) -> bool {
    let is_known = ["tcp", "udp", "unix"].contains(&resource.kind.as_str());
    let waits_for_anybody = matches!(resource.state.as_deref(), Some("UNCONNECTED" | "LISTEN"));
    is_known && !waits_for_anybody && !was_accepted(resource)
}

/// The class of a poll of nothing but pipes and processes that is never woken up by its own process: it waits as a read of one of them
/// does. `None` for other polls.
pub fn class_of_pipes(wait: &Wait) -> Option<VerdictClass> {
    let resource = wait.resource.as_ref()?;
    if wait.kind != WaitKind::Poll || !polls_pipes(resource) {
        return None;
    }
    let mut members = resource.members.iter();
    Some(
        match members.all(|member| member.resource.kind == "process") {
            true => VerdictClass::HangChild,
            false => VerdictClass::HangPipe,
        },
    )
}

/// Whether a connection came in: its port is still listened on, or TCP's own counts show which end connected. Once this end has
/// closed its side those count the FIN as well.
pub fn was_accepted(resource: &Resource) -> bool {
    let is_sending = matches!(
        resource.state.as_deref(),
        Some("ESTABLISHED" | "CLOSE_WAIT")
    );
    let by_counts = resource.tcp.as_ref().and_then(TcpTimes::was_accepted);
    resource.accepted == Some(true) || (is_sending && by_counts == Some(true))
}

/// Of a thread that receives from peers or polls their connections, in slices or not: for how long all of them have owed an answer, zero where they owe
/// none. `None` for other waits. What its own process has the other end of wakes it up, and is no peer.
pub fn silent_for(wait: &Wait, own: Pid) -> Option<Duration> {
    let is_own = |resource: &Resource| {
        let ends = &resource.ends;
        !ends.is_empty() && ends.iter().all(|end| end.pid == own)
    };
    let peers: Vec<&Resource> = match wait.kind {
        WaitKind::SocketRecv => wait.resource.iter().collect(),
        WaitKind::Poll => {
            let members = wait.resource.iter().flat_map(|resource| &resource.members);
            let others = members.filter(|member| !member.is_wakeup);
            others.map(|member| &member.resource).collect()
        }
        _ => return None,
    };
    let mut peers: Vec<&Resource> = peers.into_iter().filter(|peer| !is_own(peer)).collect();
    // What nothing was ever sent on is asked nothing: it wakes the thread up.
    let is_asked = |peer: &&Resource| peer.tcp.is_some_and(|tcp| tcp.has_sent());
    if peers.iter().any(is_asked) {
        peers.retain(is_asked);
    }
    if peers.is_empty() || !peers.iter().all(|peer| wait_for_peer(peer)) {
        return None;
    }
    let silent = peers.iter().map(|peer| {
        let tcp = peer.tcp.filter(|tcp| tcp.is_answer_due());
        tcp.map_or(Duration::ZERO, |tcp| {
            Duration::from_millis(u64::from(tcp.last_data_sent_ms))
        })
    });
    silent.min()
}

/// Whether the connection itself shows that a request is outstanding: data was sent after the last data came, or is not taken; or the
/// connection is not made yet. Without TCP's counts nothing shows it: waiting for the next message is as usual.
pub fn is_request_outstanding(wait: &Wait) -> bool {
    let Some(resource) = &wait.resource else {
        return false;
    };
    match wait.kind {
        WaitKind::SocketSend | WaitKind::SocketConnect => {
            resource.kind == "tcp" || resource.kind == "udp"
        }
        // Who has to find the address of a name has asked for it.
        _ if resource.resolves_names == Some(true) => true,
        _ => resource.tcp.is_some_and(|tcp| tcp.is_answer_due()),
    }
}

/// For how long all peers of a receive or poll without a timeout have owed an answer, by the connections' own record. Whatever wakes a
/// thread - a tracer, a signal, a stop - resets the scheduler's clock, and not this one.
pub fn outstanding_since(wait: &Wait) -> Option<Since> {
    if wait.timeout.is_some() {
        return None;
    }
    let peers = peers_of(wait).filter(|peers| !peers.is_empty())?;
    let asked = peers.iter().map(|peer| {
        let tcp = peer.tcp.filter(|tcp| tcp.is_answer_due())?;
        wait_for_peer(peer).then_some(tcp.last_data_sent_ms)
    });
    let latest = asked.collect::<Option<Vec<u32>>>()?.into_iter().min()?;
    Some(Since {
        elapsed: Duration::from_millis(u64::from(latest)),
        error: TCP_TICK,
        source: SinceSource::Tcp,
    })
}
