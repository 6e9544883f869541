//! What a thread waits for.

use std::time::Duration;

use serde::{Serialize, Serializer};

/// What sort of wait it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WaitKind {
    /// Data from a socket.
    SocketRecv,
    /// Room in a socket's send buffer.
    SocketSend,
    /// A connection to be made.
    SocketConnect,
    /// A connection to come in.
    SocketAccept,
    /// Any of several descriptors (poll, select, epoll).
    Poll,
    /// Data from a pipe.
    PipeRead,
    /// Room in a pipe.
    PipeWrite,
    /// A futex: a lock, a condition, the GIL.
    Futex,
    /// A child process.
    Child,
    /// A file lock.
    FileLock,
    /// Time to pass.
    Sleep,
    /// A signal.
    Signal,
    /// An uninterruptible sleep.
    Disk,
    /// Something else.
    Unknown,
}

/// Where the beginning of a wait is known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SinceSource {
    /// The scheduler's record of when the thread last ran.
    Sched,
    /// The kernel's record of the connection.
    Tcp,
    /// Our own looks at it: it is at least that long.
    Observed,
}

/// For how long something has been so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since {
    /// How long.
    pub elapsed: Duration,
    /// How far off that may be.
    pub error: Duration,
    /// How it is known.
    pub source: SinceSource,
}

/// A socket's family and type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SocketKind {
    /// TCP over IPv4 or IPv6.
    Tcp,
    /// UDP over IPv4 or IPv6.
    Udp,
    /// A unix socket.
    Unix,
}

impl SocketKind {
    /// The kind in a word.
    pub fn word(self) -> &'static str {
        match self {
            SocketKind::Tcp => "tcp",
            SocketKind::Udp => "udp",
            SocketKind::Unix => "unix",
        }
    }
}

/// When a TCP connection last moved data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TcpTimes {
    /// When data was sent last, in milliseconds before now.
    pub last_data_sent_ms: u32,
    /// When data was received last (or, before any was, the connection was made), in milliseconds before now.
    pub last_data_recv_ms: u32,
    /// Segments that were sent and not acknowledged.
    pub unacked: u32,
}

/// A socket of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Its family and type.
    pub kind: SocketKind,
    /// Its own address.
    pub local: Option<String>,
    /// The other end's address.
    pub peer: Option<String>,
    /// Its state, in capitals, as `ss` names it.
    pub state: String,
    /// The timeout of a receive (`SO_RCVTIMEO`), where the kernel was asked directly; the inner `None` is for ever.
    pub recv_timeout: Option<Option<Duration>>,
    /// What TCP has counted, where the kernel was asked directly.
    pub tcp: Option<TcpTimes>,
}

/// What a thread waits on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Resource {
    /// `tcp`, `udp`, `unix`, `socket` (family unknown), `pipe`, `file`, `anon`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The descriptor in the target.
    pub fd: Option<i32>,
    /// A socket's own address.
    pub local: Option<String>,
    /// A socket's other end.
    pub peer: Option<String>,
    /// A socket's state.
    pub state: Option<String>,
    /// Whether a TCP connection came in through a port that is still listened on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepted: Option<bool>,
    /// The timeout of a receive (`SO_RCVTIMEO`) in milliseconds, null for none; absent where it was not to be had.
    #[serde(
        rename = "recv_timeout_ms",
        skip_serializing_if = "Option::is_none",
        serialize_with = "known_milliseconds"
    )]
    pub recv_timeout: Option<Option<Duration>>,
    /// What TCP has counted.
    #[serde(flatten)]
    pub tcp: Option<TcpTimes>,
    /// A file's path, or the kind of an anonymous inode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// One thread's wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Wait {
    /// What sort of wait it is.
    pub kind: WaitKind,
    /// For how long it has lasted.
    #[serde(flatten, serialize_with = "since_fields")]
    pub since: Option<Since>,
    /// The system call that it is in.
    pub syscall: Option<String>,
    /// When it ends by itself, in milliseconds from its beginning.
    #[serde(rename = "timeout_ms", serialize_with = "milliseconds")]
    pub timeout: Option<Duration>,
    /// What is waited on.
    pub resource: Option<Resource>,
}

/// Serializes a duration in whole milliseconds.
pub(super) fn milliseconds<S: Serializer>(
    duration: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    duration.map(whole_milliseconds).serialize(serializer)
}

fn known_milliseconds<S: Serializer>(
    known: &Option<Option<Duration>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    milliseconds(&known.flatten(), serializer)
}

/// A duration in whole milliseconds, at most what JSON's consumers can hold.
pub(super) fn whole_milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn since_fields<S: Serializer>(since: &Option<Since>, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Fields {
        since_ms: Option<u64>,
        since_source: Option<SinceSource>,
        since_error_ms: Option<u64>,
    }
    Fields {
        since_ms: since.map(|since| whole_milliseconds(since.elapsed)),
        since_source: since.map(|since| since.source),
        since_error_ms: since.map(|since| whole_milliseconds(since.error)),
    }
    .serialize(serializer)
}
