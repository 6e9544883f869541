//! How one thread stands by itself: whether it works, waits by design, will go on by itself, or waits for others beyond
//! the threshold. Whether those others will end its wait is for the graph to say.

use std::time::Duration;

use crate::diagnose::observation::Seen;
use crate::diagnose::rules::Rules;
use crate::diagnose::wait_graph::peers::{peers_of, wait_for_peer, was_accepted};
use crate::diagnose::wait_graph::unblockers::is_starved_by;
use crate::model::{Gil, SchedState, Since, ThreadSnapshot, Tid, VerdictClass, Wait, WaitKind};

// Why a wait of these kinds is by design.
const FOR_CONNECTIONS: &str = "it waits for connections";
const FOR_CHANGES: &str = "it waits for changes of files";
const FOR_A_SIGNAL: &str = "it waits for a signal";
/// Why a poll of connections that owe nothing is idle.
const QUIET_PEERS: &str =
    "it waits for events of connections on which it has asked nothing since the last data came";

/// How a thread stands by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Assessment {
    /// It runs, or ran within the threshold.
    Works,
    /// It waits for work by design, for this reason, and has done so beyond the threshold.
    Idle(String),
    /// The same, below the threshold: it was active a moment ago, and may be again in the next.
    IdleLately(String),
    /// It waits beyond the threshold, and will go on by itself: a time is set, or a signal or user is waited for.
    Ends(&'static str),
    /// It waits for somebody else, beyond the threshold or in a cycle that no time resolves; if nobody ends that, it is a hang of this
    /// class.
    Waits(VerdictClass),
    /// It was made to stand still.
    Stopped,
    /// It has ended and was not reaped.
    Ended,
    /// What it waits for can't be told, for this reason.
    Unknown(&'static str),
}

/// For how long a thread has waited, or not run.
pub fn since_of(thread: &ThreadSnapshot) -> Option<Since> {
    let wait = thread.wait.as_ref();
    wait.and_then(|wait| wait.since).or(thread.off_cpu)
}

/// What is known of a thread beside itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Surroundings<'a> {
    /// The thread of its process that keeps the GIL beyond the threshold, if there is one.
    pub long_gil_holder: Option<Tid>,
    /// What was seen of it while it was watched.
    pub seen: Option<&'a Seen>,
    /// Whether it was seen to burn a processor without getting anywhere.
    pub is_spinning: bool,
    /// Whether it is in a closed cycle of lock owners, or waits for one: that does not end, however short it is.
    pub is_in_closed_cycle: bool,
    /// Why it waits by design, where the values of its variables show that it does.
    pub idle_by_values: Option<&'a str>,
}

/// How `thread` stands by itself.
pub fn assess(
    thread: &ThreadSnapshot,
    surroundings: Surroundings<'_>,
    threshold: Duration,
    rules: &Rules,
) -> Assessment {
    let long_gil_holder = surroundings.long_gil_holder;
    // Whoever waits for the GIL wakes every few milliseconds (`Python/ceval_gil.c::take_gil`, 3.2+): its own time says nothing.
    let is_starved = long_gil_holder.is_some_and(|holder| is_starved_by(thread, holder));
    if is_starved || long_gil_holder == Some(thread.tid) {
        return Assessment::Waits(VerdictClass::GilHeld);
    }
    match thread.state {
        SchedState::Stopped | SchedState::Traced => return Assessment::Stopped,
        SchedState::Zombie | SchedState::Dead => return Assessment::Ended,
        _ if surroundings.is_spinning => return Assessment::Waits(VerdictClass::Spin),
        SchedState::Running => return Assessment::Works,
        _ => {}
    }
    if matches!(kind_of(thread), Some(WaitKind::Stopped | WaitKind::Traced)) {
        return Assessment::Stopped;
    }
    let since = since_of(thread);
    let is_beyond = since.is_some_and(|since| is_beyond(since, threshold));
    if !is_beyond && let Some(why) = idle_point(thread, rules) {
        return Assessment::IdleLately(why);
    }
    let Some(since) = since else {
        return Assessment::Unknown("the kernel does not say since when");
    };
    if let (Some(unanswered), Some(wait)) = (
        surroundings.seen.and_then(|seen| seen.unanswered),
        thread.wait.as_ref(),
    ) && unanswered.elapsed.saturating_sub(unanswered.error) >= threshold
        && rules.find_idle(thread).is_none()
        && thread.interpreter.is_some()
    {
        // Each slice ends by itself; the wait that they make up does not.
        return Assessment::Waits(network_class(wait));
    }
    if !is_beyond && !surroundings.is_in_closed_cycle {
        return Assessment::Works;
    }
    let Some(wait) = &thread.wait else {
        return Assessment::Unknown("the kernel does not show us what it waits for");
    };
    if let Some(why) = surroundings.idle_by_values.filter(|_| !owes_answer(wait)) {
        return idle(why);
    }
    if let Some(rule) = rules.find_idle(thread)
        && !owes_answer(wait)
        && rule
            .at_most
            .is_none_or(|most| since.elapsed <= Duration::from_secs(most))
    {
        return Assessment::Idle(rule.why.clone());
    }
    let is_owed = rules.find_answer(thread).is_some();
    assess_wait(thread, wait, is_owed)
}

/// Whether a wait is longer than the threshold. A bound of error that reaches below it is no proof that it was crossed.
fn is_beyond(since: Since, threshold: Duration) -> bool {
    since.elapsed.saturating_sub(since.error) >= threshold
}

/// Why the thread waits for work by design, however short the wait is: by what it waits for, or by a rule whose frame is the base of
/// its stack. A rule's frame further in may be part of a call that has just begun and is expected to return.
fn idle_point(thread: &ThreadSnapshot, rules: &Rules) -> Option<String> {
    let wait = thread.wait.as_ref()?;
    let why = match wait.kind {
        WaitKind::SocketAccept => FOR_CONNECTIONS,
        WaitKind::Inotify => FOR_CHANGES,
        WaitKind::Signal => FOR_A_SIGNAL,
        _ if owes_answer(wait) => return None,
        _ => {
            let rule = rules.find_idle_base(thread)?;
            let limit = rule.at_most.map(Duration::from_secs);
            let waited = since_of(thread).map(|since| since.elapsed);
            let is_over = limit
                .zip(waited)
                .is_some_and(|(limit, waited)| waited > limit);
            return (!is_over).then(|| rule.why.clone());
        }
    };
    Some(why.to_owned())
}

/// The thread that has held the GIL beyond the threshold without running Python: it is in a C function that should have released it,
/// asleep, or at the same line all the time while others starve.
pub fn find_long_gil_holder<'a>(
    threads: &[ThreadSnapshot],
    threshold: Duration,
    seen_of: impl Fn(Tid) -> Option<&'a Seen>,
) -> Option<Tid> {
    let is_starved = |thread: &ThreadSnapshot| {
        thread.gil == Gil::Waiting && seen_of(thread.tid).is_some_and(|seen| seen.is_starved)
    };
    let burns = |thread: &ThreadSnapshot| {
        seen_of(thread.tid).is_some_and(|seen| {
            seen.keeps_gil
                && seen.is_busy
                && seen.is_at_one_line
                && seen.progress.watched >= threshold
        }) && threads.iter().any(is_starved)
    };
    let is_hog = |thread: &&ThreadSnapshot| {
        if thread.gil == Gil::Held && thread.state == SchedState::Running && burns(thread) {
            return true;
        }
        let is_asleep = matches!(thread.state, SchedState::Sleeping | SchedState::DiskSleep);
        let slept = since_of(thread).map(|since| since.elapsed.saturating_sub(since.error));
        thread.gil == Gil::Held && is_asleep && slept.is_some_and(|slept| slept >= threshold)
    };
    threads.iter().find(is_hog).map(|thread| thread.tid)
}

fn kind_of(thread: &ThreadSnapshot) -> Option<WaitKind> {
    thread.wait.as_ref().map(|wait| wait.kind)
}

fn assess_wait(thread: &ThreadSnapshot, wait: &Wait, is_owed: bool) -> Assessment {
    let class = match wait.kind {
        WaitKind::SocketAccept => return idle(FOR_CONNECTIONS),
        WaitKind::Inotify => return idle(FOR_CHANGES),
        WaitKind::Signal => return idle(FOR_A_SIGNAL),
        // Nobody needs to type anything; but what is written has to be read, by whoever has the other side of the terminal.
        WaitKind::Tty if writes(wait) => VerdictClass::HangPipe,
        WaitKind::Tty => return idle("it waits for its terminal"),
        WaitKind::Sleep => return Assessment::Ends("it sleeps, and will wake by itself"),
        WaitKind::PageFault | WaitKind::Disk => VerdictClass::HangDisk,
        WaitKind::SocketRecv if is_owed => network_class(wait),
        WaitKind::SocketRecv => match class_of_receive(wait) {
            Ok(class) => class,
            Err(assessment) => return assessment,
        },
        WaitKind::SocketSend | WaitKind::SocketConnect => network_class(wait),
        WaitKind::Poll => match class_of_poll(wait) {
            Ok(class) => class,
            Err(assessment) => return assessment,
        },
        // Who keeps a fifo open for writing himself does so to be there for the next writer, whoever that is.
        WaitKind::PipeRead if is_own_fifo(wait) => {
            return idle("it waits for the next writer of a fifo");
        }
        WaitKind::PipeRead | WaitKind::PipeWrite => VerdictClass::HangPipe,
        WaitKind::PythonLock
        | WaitKind::PythonRlock
        | WaitKind::Condition
        | WaitKind::Semaphore
        | WaitKind::ImportLock
        | WaitKind::PthreadMutex
        | WaitKind::SharedSemaphore
        | WaitKind::Futex => VerdictClass::HangLock,
        WaitKind::Gil => VerdictClass::GilHeld,
        WaitKind::Child => VerdictClass::HangChild,
        WaitKind::FileLock => VerdictClass::HangFileLock,
        WaitKind::Stopped | WaitKind::Traced => return Assessment::Stopped,
        WaitKind::Zombie => return Assessment::Ended,
        WaitKind::Eventfd => return Assessment::Ends("it waits for an event of its own process"),
        WaitKind::Unknown if wait.syscall.is_none() => {
            return Assessment::Unknown("the kernel does not show us what it waits for");
        }
        WaitKind::Unknown => {
            return Assessment::Unknown("this call is not known to wait for anybody");
        }
    };
    // Threads of other languages, and processes without Python, wait by rules of their own. But who writes has nothing else to do
    // until that is read.
    let is_certain =
        class == VerdictClass::HangDisk || matches!(wait.kind, WaitKind::PipeWrite | WaitKind::Tty);
    if thread.interpreter.is_none() && !is_certain {
        return Assessment::Unknown("it is no thread of Python, which wait by rules of their own");
    }
    if wait.timeout.is_some() {
        return Assessment::Ends("a timeout is set");
    }
    Assessment::Waits(class)
}

fn is_own_fifo(wait: &Wait) -> bool {
    let resource = wait.resource.as_ref();
    // While it is being opened there is no descriptor yet, and nobody to keep anything open.
    resource.is_some_and(|resource| {
        resource.kind == "fifo" && resource.fd.is_some() && resource.is_alone == Some(true)
    })
}

/// Whether a wait for a terminal is one for room in it.
fn writes(wait: &Wait) -> bool {
    let call = wait.syscall.as_deref();
    matches!(call, Some("write" | "writev" | "pwrite64" | "pwritev"))
}

fn idle(why: &str) -> Assessment {
    Assessment::Idle(why.to_owned())
}

fn network_class(wait: &Wait) -> VerdictClass {
    let resource = wait.resource.as_ref();
    match resource.and_then(|resource| resource.resolves_names) {
        Some(true) => VerdictClass::HangDns,
        _ => VerdictClass::HangNetwork,
    }
}

/// A receive from a peer that could owe an answer. On a connection that came in it is the client's turn to ask; a socket that
/// is connected to nobody, as a server of datagrams has it, waits for anybody; and other families than these (netlink, say)
/// wait for news, not for answers.
fn class_of_receive(wait: &Wait) -> Result<VerdictClass, Assessment> {
    let Some(resource) = &wait.resource else {
        return Ok(VerdictClass::HangNetwork);
    };
    if is_poll_of_quiet_peers(wait) {
        return Err(idle(QUIET_PEERS));
    }
    match wait_for_peer(resource) {
        true => Ok(network_class(wait)),
        false if was_accepted(resource) => Err(idle("it waits for the next request of a client")),
        false => Err(idle("it waits for anybody's news, not for an answer")),
    }
}

/// A poll of several descriptors: of sockets that all belong to peers it is like a receive, with a pipe or a listening socket among
/// them it is a loop that waits for whatever comes.
fn class_of_poll(wait: &Wait) -> Result<VerdictClass, Assessment> {
    let members = wait.resource.as_ref().map(|resource| &resource.members[..]);
    match members {
        None | Some([]) => Err(Assessment::Unknown(
            "the descriptors that it polls are not known",
        )),
        Some(_) if is_poll_of_quiet_peers(wait) => Err(idle(QUIET_PEERS)),
        Some(members) if members.iter().all(|member| wait_for_peer(&member.resource)) => {
            Ok(VerdictClass::HangNetwork)
        }
        Some(_) => Err(idle(
            "it waits for any of several descriptors, as an event loop does",
        )),
    }
}

/// Whether it is a select or poll, without a limit, of connections on which nothing was asked since the last data came: whoever wants an
/// answer asks first. So do sessions of a database that listen, and clients of any protocol that sends news.
fn is_poll_of_quiet_peers(wait: &Wait) -> bool {
    let call = wait.syscall.as_deref().unwrap_or_default();
    let is_poll = ["select", "poll"].iter().any(|name| call.contains(name));
    let peers = peers_of(wait).unwrap_or_default();
    is_poll
        && !peers.is_empty()
        && peers
            .iter()
            .all(|peer| wait_for_peer(peer) && peer.tcp.is_some_and(|tcp| !tcp.is_answer_due()))
}

/// Whether it is known that something was sent on this connection and not taken, so that the peer is behind.
fn owes_answer(wait: &Wait) -> bool {
    let tcp = wait.resource.as_ref().and_then(|resource| resource.tcp);
    tcp.is_some_and(|tcp| tcp.unacked > 0 && tcp.retransmits > 0)
}
