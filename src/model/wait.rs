//! What a thread waits for.

use std::time::Duration;

use serde::{Serialize, Serializer};

use super::address::Address;
use super::ids::{Pid, Tid};
use super::milliseconds::{known_milliseconds, milliseconds, whole_milliseconds};
use super::pending::{CallSite, Slices};
use super::socket::TcpTimes;

/// What sort of wait it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    /// Data from a pipe or fifo, or somebody to open its other end for writing.
    PipeRead,
    /// Room in a pipe or fifo, or somebody to open its other end for reading.
    PipeWrite,
    /// An eventfd to be signalled.
    Eventfd,
    /// Changes of watched files.
    Inotify,
    /// Input from a terminal, or room in its output.
    Tty,
    /// A futex that could not be told to be anything of the kinds below.
    Futex,
    /// A `threading.Lock`.
    PythonLock,
    /// A `threading.RLock`.
    PythonRlock,
    /// A condition: `threading.Condition` and what is built on it (`Event`, `queue.Queue`, `Future`, a thread's end).
    Condition,
    /// A `threading.Semaphore`.
    Semaphore,
    /// The global interpreter lock.
    Gil,
    /// A module's import lock.
    ImportLock,
    /// A mutex of the C library.
    PthreadMutex,
    /// A semaphore in memory that processes share.
    SharedSemaphore,
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
    /// A page of its own memory.
    PageFault,
    /// To be continued: it is stopped, or its cgroup frozen.
    Stopped,
    /// Its tracer.
    Traced,
    /// To be reaped by its parent.
    Zombie,
    /// Something else.
    Unknown,
}

impl WaitKind {
    /// All of them.
    pub const ALL: [WaitKind; 29] = [
        WaitKind::SocketRecv,
        WaitKind::SocketSend,
        WaitKind::SocketConnect,
        WaitKind::SocketAccept,
        WaitKind::Poll,
        WaitKind::PipeRead,
        WaitKind::PipeWrite,
        WaitKind::Eventfd,
        WaitKind::Inotify,
        WaitKind::Tty,
        WaitKind::Futex,
        WaitKind::PythonLock,
        WaitKind::PythonRlock,
        WaitKind::Condition,
        WaitKind::Semaphore,
        WaitKind::Gil,
        WaitKind::ImportLock,
        WaitKind::PthreadMutex,
        WaitKind::SharedSemaphore,
        WaitKind::Child,
        WaitKind::FileLock,
        WaitKind::Sleep,
        WaitKind::Signal,
        WaitKind::Disk,
        WaitKind::PageFault,
        WaitKind::Stopped,
        WaitKind::Traced,
        WaitKind::Zombie,
        WaitKind::Unknown,
    ];

    /// Its name, as reports and documents have it.
    pub fn word(self) -> &'static str {
        match self {
            WaitKind::SocketRecv => "socket-recv",
            WaitKind::SocketSend => "socket-send",
            WaitKind::SocketConnect => "socket-connect",
            WaitKind::SocketAccept => "socket-accept",
            WaitKind::Poll => "poll",
            WaitKind::PipeRead => "pipe-read",
            WaitKind::PipeWrite => "pipe-write",
            WaitKind::Eventfd => "eventfd",
            WaitKind::Inotify => "inotify",
            WaitKind::Tty => "tty",
            WaitKind::Futex => "futex",
            WaitKind::PythonLock => "python-lock",
            WaitKind::PythonRlock => "python-rlock",
            WaitKind::Condition => "condition",
            WaitKind::Semaphore => "semaphore",
            WaitKind::Gil => "gil",
            WaitKind::ImportLock => "import-lock",
            WaitKind::PthreadMutex => "pthread-mutex",
            WaitKind::SharedSemaphore => "shared-semaphore",
            WaitKind::Child => "child",
            WaitKind::FileLock => "file-lock",
            WaitKind::Sleep => "sleep",
            WaitKind::Signal => "signal",
            WaitKind::Disk => "disk",
            WaitKind::PageFault => "page-fault",
            WaitKind::Stopped => "stopped",
            WaitKind::Traced => "traced",
            WaitKind::Zombie => "zombie",
            WaitKind::Unknown => "unknown",
        }
    }
}

impl Serialize for WaitKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
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
    /// A time in the variables of the call that waits: it is at least that long.
    Locals,
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

/// What a thread waits on. Absent is unknown, or makes no sense for the kind of resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Resource {
    /// `tcp`, `udp`, `unix`, `socket` (family unknown), `pipe`, `fifo`, `eventfd`, `epoll`, `inotify`, `file`, `tty`, `anon`,
    /// `futex`, `process`, `poll` (of poll and select), `time`, `signal`, `cgroup`; for objects of Python their type with its module (`threading.Event`).
    #[serde(rename = "type")]
    pub kind: String,
    /// The descriptor in the target.
    pub fd: Option<i32>,
    /// A socket's own address.
    pub local: Option<String>,
    /// A socket's other end.
    pub peer: Option<String>,
    /// A socket's state; `opening` for a fifo that is being opened; a child's state; `absolute` for a sleep until a moment.
    pub state: Option<String>,
    /// Whether a TCP connection came in through a port that is still listened on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepted: Option<bool>,
    /// Whether it serves to find the address of a name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolves_names: Option<bool>,
    /// The timeout of a receive (`SO_RCVTIMEO`) in milliseconds, null for none; absent where it was not to be had.
    #[serde(
        rename = "recv_timeout_ms",
        skip_serializing_if = "Option::is_none",
        serialize_with = "known_milliseconds"
    )]
    pub recv_timeout: Option<Option<Duration>>,
    /// The same of a send (`SO_SNDTIMEO`).
    #[serde(
        rename = "send_timeout_ms",
        skip_serializing_if = "Option::is_none",
        serialize_with = "known_milliseconds"
    )]
    pub send_timeout: Option<Option<Duration>>,
    /// How long sent data may stay unacknowledged (`TCP_USER_TIMEOUT`), null for the system's own limit.
    #[serde(
        rename = "user_timeout_ms",
        skip_serializing_if = "Option::is_none",
        serialize_with = "known_milliseconds"
    )]
    pub user_timeout: Option<Option<Duration>>,
    /// Whether a dead peer of a quiet connection is noticed (`SO_KEEPALIVE`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keepalive: Option<bool>,
    /// How long it takes at most to notice it: idle time, and all probes.
    #[serde(
        rename = "keepalive_ms",
        skip_serializing_if = "Option::is_none",
        serialize_with = "milliseconds"
    )]
    pub keepalive_time: Option<Duration>,
    /// Bytes that have come in and were not read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recv_queue: Option<u64>,
    /// Bytes that were written and not taken by the other end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_queue: Option<u64>,
    /// What TCP has counted.
    #[serde(flatten)]
    pub tcp: Option<TcpTimes>,
    /// A file's path, or the kind of an anonymous inode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Inode of a socket, pipe or file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inode: Option<u64>,
    /// Bytes in a pipe; the count of an eventfd.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fill: Option<u64>,
    /// Bytes that it can hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u64>,
    /// Who has its other end open: of a pipe, or of a socket whose other end is on this machine.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ends: Vec<End>,
    /// Threads that use its other end: it is in their current call, or in the variables of their frames. Looked for where
    /// several threads have that end open and the wait is long.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<EndUser>,
    /// Of a terminal, whether anything was ever typed at it, by the times of its device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub had_input: Option<bool>,
    /// Whether nobody but the waiting thread could end the wait: its process alone has the other end, and no other thread
    /// runs there; or nobody has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_alone: Option<bool>,
    /// Whether a connection's other end was not accepted yet: `ends` has who listens for it then.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_unaccepted: bool,
    /// Of a futex, whether other processes can have the memory that it lies in; absent where that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_shared: Option<bool>,
    /// The descriptors of a poll, select or epoll.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<Member>,
    /// How many there are, where not all are listed; the watches of an inotify.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub member_count: Option<u64>,
    /// The futex word, or the object of Python.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<Address>,
    /// A name that it has itself: a module's, a semaphore's, a thread's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The process that is waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<Pid>,
    /// What is left of a sleep.
    #[serde(
        rename = "remaining_ms",
        skip_serializing_if = "Option::is_none",
        serialize_with = "milliseconds"
    )]
    pub remaining: Option<Duration>,
    /// The kernel's function that it sleeps in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// Where the file system of a file is mounted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount: Option<String>,
}

/// What an open end of a pipe or socket can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EndAccess {
    /// Only read.
    Read,
    /// Only write.
    Write,
    /// Both.
    Both,
}

/// A process that has the other end of something open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct End {
    /// The process.
    pub pid: Pid,
    /// Its descriptor.
    pub fd: i32,
    /// What can be done with it.
    pub access: EndAccess,
}

/// What shows that a thread uses a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum UsedBy {
    /// The call that it is blocked in.
    Call,
    /// The variables of its frames.
    Stack,
    /// Nothing: it never slept while its process was read, so that its frames are not known, and nobody else was found to use it.
    Running,
}

/// A thread that uses the other end of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct EndUser {
    /// Its process.
    pub pid: Pid,
    /// The thread.
    pub tid: Tid,
    /// The descriptor that it uses.
    pub fd: i32,
    /// What shows it.
    pub by: UsedBy,
}

/// A descriptor that is polled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Member {
    /// What it is.
    pub resource: Resource,
    /// Whether data, a connection or a writer is waited for.
    pub for_read: bool,
    /// Whether room is waited for.
    pub for_write: bool,
    /// Whether its other end is its own process', which wakes a thread up by it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_wakeup: bool,
}

/// How sure it is that somebody could end a wait. Unknown is no holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HolderConfidence {
    /// It may be one of several.
    Possible,
    /// What is known speaks for it, and for nobody else.
    Inferred,
    /// The kernel or the object itself says so.
    Proven,
}

/// Who could end a wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// The process.
    pub pid: Pid,
    /// The thread, where it is one in particular; it may have ended.
    pub tid: Option<Tid>,
    /// The thread's name.
    pub thread: Option<String>,
    /// The process' title, where it is another than the waiting one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// How sure that is.
    pub confidence: HolderConfidence,
    /// Whether it is there: the owner of a lock can have ended, or not have been copied by a fork.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_gone: bool,
}

/// Which threads can reach the object that a thread waits for: only they can end that wait.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reach {
    /// The other threads of the process from whose frames a way leads to it.
    pub threads: Vec<Tid>,
    /// Whether all references to it were found, and all to what leads to it: then no other thread can reach it, now or later.
    pub is_closed: bool,
    /// Whether globals of a function that is on a stack lead to it, so that every thread can reach it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_global: bool,
    /// Whether a limit was met, so that more threads may reach it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_cut: bool,
    /// How many references to it there are; null where they are not counted, or not all in one place.
    pub references: Option<u64>,
    /// How many of them were found.
    pub found: u64,
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
    /// The call of Python that waits: the innermost one, or that which waits in slices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call: Option<CallSite>,
    /// How it waits in slices; filled by `diagnose`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slices: Option<Slices>,
    /// Who could end it.
    pub holder: Option<Holder>,
    /// Others who could, where there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub other_holders: Vec<Holder>,
    /// Which threads can reach the object that is waited for, where that was found out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reach: Option<Reach>,
    /// What could not be found out, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}

impl Wait {
    /// A wait of which nothing but its kind is known.
    pub fn of_kind(kind: WaitKind) -> Wait {
        Wait {
            kind,
            since: None,
            syscall: None,
            timeout: None,
            resource: None,
            call: None,
            slices: None,
            holder: None,
            other_holders: Vec::new(),
            reach: None,
            missing: Vec::new(),
        }
    }
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
