//! How one thread stands by itself: whether it works, waits by design, will go on by itself, or waits for others beyond
//! the threshold. Whether those others will end its wait is for the graph to say.

use std::fmt;
use std::time::Duration;

use crate::diagnose::observation::Seen;
use crate::diagnose::rules::Rules;
use crate::diagnose::wait_graph::peers::{class_of_pipes, peers_of, wait_for_peer, was_accepted};
use crate::diagnose::wait_graph::unblockers::is_starved_by;
use crate::model::{Gil, SchedState, Since, ThreadSnapshot, Tid, VerdictClass, Wait, WaitKind};

/// How a thread stands by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Assessment {
    /// It makes progress, as far as is known: it runs, or was seen to run most of the time.
    Works,
    /// It waits for work by design.
    Idle(Idle),
    /// It waits, for less than the threshold so far.
    Blocked(Blocked),
    /// It waits and will go on by itself: a time is set, or a signal or user is waited for.
    Ends(&'static str),
    /// It waits for somebody else, for longer than the threshold or in a cycle that no time resolves; if nobody ends that, it is a hang of this
    /// class.
    Waits(VerdictClass),
    /// It was made to stand still.
    Stopped,
    /// It has ended and was not reaped.
    Ended,
    /// What it waits for can't be told, for this reason.
    Unknown(&'static str),
}

/// A wait by design.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idle {
    /// Which one, in a sentence.
    pub why: String,
    /// Whether it has lasted for less than the threshold: whoever it keeps waiting may still get what it holds.
    pub is_brief: bool,
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

/// A wait that is shorter than the threshold, by the clocks that there are. A signal or a tracer wakes a thread, which then goes back to
/// the same wait: its own clock starts anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// Whether all waiting threads of its process woke at one moment, well after the process began: something outside woke them.
    pub is_woken_with_all: bool,
}

/// Why a poll of connections that owe nothing is idle.
const QUIET_PEERS: &str =
    "it waits for events of connections on which it has asked nothing since the last data came";

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
    /// Whether all waiting threads of its process woke at one moment.
    pub is_woken_with_all: bool,
    /// The class of the call in which it waits in slices and makes no progress.
    pub stall: Option<VerdictClass>,
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
        SchedState::Running if surroundings.stall.is_none() => return Assessment::Works,
        _ => {}
    }
    if matches!(kind_of(thread), Some(WaitKind::Stopped | WaitKind::Traced)) {
        return Assessment::Stopped;
    }
    if let Some(class) = surroundings.stall {
        return Assessment::Waits(class);
    }
    let Some(since) = since_of(thread) else {
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
    // A bound that reaches below the threshold is no proof that it was crossed.
    let is_brief = since.elapsed.saturating_sub(since.error) < threshold;
    if is_brief && surroundings.seen.is_some_and(|seen| seen.is_busy) {
        return Assessment::Works;
    }
    let Some(wait) = &thread.wait else {
        return match is_brief {
            true => Assessment::Works,
            false => Assessment::Unknown("the kernel does not show us what it waits for"),
        };
    };
    let idle = |why: &str| {
        Assessment::Idle(Idle {
            why: why.to_owned(),
            is_brief,
        })
    };
    if let Some(why) = surroundings.idle_by_values.filter(|_| !owes_answer(wait)) {
        return idle(why);
    }
    // A rule's frame further in may be part of a call that has just begun and is expected to return.
    let rule = match is_brief {
        true => rules.find_idle_base(thread),
        false => rules.find_idle(thread),
    };
    if let Some(rule) = rule
        && !owes_answer(wait)
        && rule.holds_after(since.elapsed)
    {
        return idle(&rule.why);
    }
    let is_owed = rules.find_answer(thread).is_some();
    match assess_wait(thread, wait, is_owed) {
        Judged::Idle(why) => idle(why),
        Judged::As(Assessment::Waits(_) | Assessment::Unknown(_))
            if is_brief && !surroundings.is_in_closed_cycle =>
        {
            Assessment::Blocked(Blocked {
                is_woken_with_all: surroundings.is_woken_with_all,
            })
        }
        Judged::As(assessment) => assessment,
    }
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

/// How a wait stands, however long it has lasted.
enum Judged {
    /// It is by design, for this reason.
    Idle(&'static str),
    As(Assessment),
}

fn assess_wait(thread: &ThreadSnapshot, wait: &Wait, is_owed: bool) -> Judged {
    let class = match wait.kind {
        WaitKind::SocketAccept => return Judged::Idle("it waits for connections"),
        WaitKind::Inotify => return Judged::Idle("it waits for changes of files"),
        WaitKind::Signal => return Judged::Idle("it waits for a signal"),
        // Nobody needs to type anything; but what is written has to be read, by whoever has the other side of the terminal.
        WaitKind::Tty if writes(wait) => VerdictClass::HangPipe,
        WaitKind::Tty => return Judged::Idle("it waits for its terminal"),
        WaitKind::Sleep => {
            return Judged::As(Assessment::Ends("it wakes by itself"));
        }
        WaitKind::PageFault | WaitKind::Disk => VerdictClass::HangDisk,
        WaitKind::SocketRecv if is_owed => network_class(wait),
        WaitKind::SocketRecv => match class_of_receive(wait) {
            Ok(class) => class,
            Err(judged) => return judged,
        },
        WaitKind::SocketSend | WaitKind::SocketConnect => network_class(wait),
        WaitKind::Poll => match class_of_poll(wait) {
            Ok(class) => class,
            Err(judged) => return judged,
        },
        // Who keeps a fifo open for writing himself does so to be there for the next writer, whoever that is.
        WaitKind::PipeRead if is_own_fifo(wait) => {
            return Judged::Idle("it waits for the next writer of a fifo");
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
        WaitKind::Stopped | WaitKind::Traced => return Judged::As(Assessment::Stopped),
        WaitKind::Zombie => return Judged::As(Assessment::Ended),
        WaitKind::Eventfd => {
            return Judged::As(Assessment::Ends("it waits for an event of its own process"));
        }
        WaitKind::Unknown if wait.syscall.is_none() => {
            return Judged::As(Assessment::Unknown(
                "the kernel does not show us what it waits for",
            ));
        }
        WaitKind::Unknown => {
            return Judged::As(Assessment::Unknown(
                "this call is not known to wait for anybody",
            ));
        }
    };
    // Threads of other languages, and processes without Python, wait by rules of their own. But who writes has nothing else to do
    // until that is read.
    let is_certain =
        class == VerdictClass::HangDisk || matches!(wait.kind, WaitKind::PipeWrite | WaitKind::Tty);
    if thread.interpreter.is_none() && !is_certain {
        return Judged::As(Assessment::Unknown(
            "it is no thread of Python, which wait by rules of their own",
        ));
    }
    if wait.timeout.is_some() {
        return Judged::As(Assessment::Ends("a timeout is set"));
    }
    Judged::As(Assessment::Waits(class))
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
fn class_of_receive(wait: &Wait) -> Result<VerdictClass, Judged> {
    let Some(resource) = &wait.resource else {
        return Ok(VerdictClass::HangNetwork);
    };
    if is_poll_of_quiet_peers(wait) {
        return Err(Judged::Idle(QUIET_PEERS));
    }
    match wait_for_peer(resource) {
        true => Ok(network_class(wait)),
        false if was_accepted(resource) => {
            Err(Judged::Idle("it waits for the next request of a client"))
        }
        false => Err(Judged::Idle(
            "it waits for anybody's news, not for an answer",
        )),
    }
}

/// A poll of several descriptors: of sockets that all belong to peers it is like a receive, with a pipe or a listening socket among
/// them it is a loop that waits for whatever comes.
fn class_of_poll(wait: &Wait) -> Result<VerdictClass, Judged> {
    let members = wait.resource.as_ref().map(|resource| &resource.members[..]);
    match members {
        None | Some([]) => Err(Judged::As(Assessment::Unknown(
            "the descriptors that it polls are not known",
        ))),
        Some(_) if is_poll_of_quiet_peers(wait) => Err(Judged::Idle(QUIET_PEERS)),
        Some(members) if members.iter().all(|member| wait_for_peer(&member.resource)) => {
            Ok(VerdictClass::HangNetwork)
        }
        Some(_) => class_of_pipes(wait).ok_or(Judged::Idle(
            "it waits for any of several descriptors, as an event loop does",
        )),
    }
}

/// Whether it is a select or poll, without a limit, of connections on which nothing was asked since the last data came: whoever wants an
/// answer asks first. So do sessions of a database that listen, and clients of any protocol to which a server pushes news.
fn is_poll_of_quiet_peers(wait: &Wait) -> bool {
    let call = wait.syscall.as_deref().unwrap_or_default();
    let is_poll = ["select", "poll", "epoll"]
        .iter()
        .any(|name| call.contains(name));
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
