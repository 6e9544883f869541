//! What `/proc/PID/fdinfo/FD` says of an open file: access, and what its kind has of its own. No judgement.

use std::io;
use std::time::Duration;

use crate::model::EndAccess;
use crate::sys::procfile::ProcDir;

/// Most lines of one kind that are kept: descriptors that an epoll watches, locks.
const MAX_LINES: usize = 65_536;

/// A descriptor that an epoll watches (`fs/eventpoll.c::ep_show_fdinfo`, Linux 6.18).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watched {
    /// The descriptor as it was when it was added: the number may have been given to something else since.
    pub fd: i32,
    /// The events that are waited for (`EPOLLIN` ...).
    pub events: u32,
    /// Inode of the file.
    pub inode: Option<u64>,
}

/// An `fdinfo` file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FdInfo {
    /// The flags of `open` (octal in the file).
    pub flags: u32,
    /// Inode, from Linux 5.14 on.
    pub inode: Option<u64>,
    /// An epoll's descriptors.
    pub watched: Vec<Watched>,
    /// How many there are, where more were found than are kept.
    pub watched_count: u64,
    /// An eventfd's count.
    pub eventfd_count: Option<u64>,
    /// How many watches an inotify has.
    pub inotify_watches: u64,
    /// A pidfd's process in the pid namespace of this `/proc`; negative when it has ended and was reaped.
    pub pid: Option<i32>,
    /// Time until a timerfd goes off; zero when it is not armed.
    pub timer: Option<Duration>,
    /// A signalfd's signals, bit 0 for signal 1.
    pub signals: Option<u64>,
    /// Descriptors that have been sent through a unix socket and not been received (`net/unix/af_unix.c::unix_show_fdinfo`, Linux 5.6 and later).
    pub sent_fds: u64,
    /// The number of the pseudo terminal whose master this is.
    pub terminal: Option<u32>,
    /// Lines of locks that are held through this file.
    pub locks: Vec<String>,
}

impl FdInfo {
    /// Reads it; needs PTRACE_MODE_READ.
    pub fn read(proc: &ProcDir, fd: i32) -> io::Result<FdInfo> {
        Ok(FdInfo::parse(&proc.read(&format!("fdinfo/{fd}"))?))
    }

    /// Parses the file; lines that are not understood are left out.
    pub fn parse(bytes: &[u8]) -> FdInfo {
        let mut info = FdInfo::default();
        let text = String::from_utf8_lossy(bytes);
        for line in text.lines() {
            let Some((key, value)) = line.split_once(':') else {
                // `inotify wd:1 ...` has its first colon in the second word.
                continue;
            };
            let value = value.trim();
            match key.trim() {
                "flags" => info.flags = u32::from_str_radix(value, 8).unwrap_or(0),
                "ino" => info.inode = value.parse().ok(),
                "tfd" => {
                    if let Some(watched) = parse_watched(value) {
                        info.watched_count += 1;
                        if info.watched.len() < MAX_LINES {
                            info.watched.push(watched);
                        }
                    }
                }
                // Hexadecimal (`fs/eventfd.c::eventfd_show_fdinfo`, Linux 6.18).
                "eventfd-count" => info.eventfd_count = u64::from_str_radix(value, 16).ok(),
                "inotify wd" => info.inotify_watches += 1,
                "tty-index" => info.terminal = value.parse().ok(),
                "scm_fds" => info.sent_fds = value.parse().unwrap_or(0),
                "Pid" => info.pid = value.parse().ok(),
                "it_value" => info.timer = parse_timer(value),
                "sigmask" => info.signals = u64::from_str_radix(value, 16).ok(),
                "lock" if info.locks.len() < MAX_LINES => info.locks.push(value.to_owned()),
                _ => {}
            }
        }
        info
    }

    /// What can be done with the file.
    pub fn access(&self) -> EndAccess {
        match self.flags & 0o3 {
            0 => EndAccess::Read,
            1 => EndAccess::Write,
            _ => EndAccess::Both,
        }
    }
}

/// `       5 events:       19 data: 5  pos:0 ino:61 sdev:d`.
fn parse_watched(line: &str) -> Option<Watched> {
    let mut words = line.split_ascii_whitespace();
    let fd = words.next()?.parse().ok()?;
    let mut watched = Watched {
        fd,
        events: 0,
        inode: None,
    };
    while let Some(word) = words.next() {
        let (key, value) = word.split_once(':')?;
        let value = if value.is_empty() && key != "data" {
            words.next()?
        } else {
            value
        };
        match key {
            "events" => watched.events = u32::from_str_radix(value, 16).ok()?,
            "ino" => watched.inode = u64::from_str_radix(value, 16).ok(),
            "data" if value.is_empty() => {
                words.next()?;
            }
            _ => {}
        }
    }
    Some(watched)
}

/// `(3, 999999999)`.
fn parse_timer(text: &str) -> Option<Duration> {
    let (seconds, nanoseconds) = text.strip_prefix('(')?.strip_suffix(')')?.split_once(',')?;
    let nanoseconds: u32 = nanoseconds.trim().parse().ok()?;
    let seconds: u64 = seconds.trim().parse().ok()?;
    (nanoseconds < 1_000_000_000).then(|| Duration::new(seconds, nanoseconds))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use proptest::prelude::*;

    use super::*;
    use crate::model::Pid;

    #[test]
    fn each_kind_of_file() {
        let epoll = FdInfo::parse(
            b"pos:\t0\nflags:\t02000002\nmnt_id:\t15\nino:\t1057\ntfd:        5 events:       19 data: fffffff5  pos:0 ino:3d sdev:d\ntfd:        7 events: 8000001d data:                7 pos:0 ino:3e sdev:d\n",
        );
        assert_eq!(epoll.inode, Some(1057));
        assert_eq!(epoll.access(), EndAccess::Both);
        assert_eq!(
            epoll.watched,
            [
                Watched {
                    fd: 5,
                    events: 0x19,
                    inode: Some(0x3d)
                },
                Watched {
                    fd: 7,
                    events: 0x8000_001d,
                    inode: Some(0x3e)
                },
            ]
        );
        let info = FdInfo::parse(b"flags:\t0100000\neventfd-count:               1f\n");
        assert_eq!(
            (info.eventfd_count, info.access()),
            (Some(0x1f), EndAccess::Read)
        );
        let info = FdInfo::parse(
            b"flags:\t01\ninotify wd:2 ino:1 sdev:1 mask:fce\ninotify wd:1 ino:2 sdev:1\n",
        );
        assert_eq!((info.inotify_watches, info.access()), (2, EndAccess::Write));
        let info =
            FdInfo::parse(b"Pid:\t-1\nNSpid:\t-1\nsigmask:\t0000000000000200\nit_value: (3, 5)\n");
        assert_eq!((info.pid, info.signals), (Some(-1), Some(0x200)));
        assert_eq!(info.timer, Some(Duration::new(3, 5)));
        let info = FdInfo::parse(b"lock:\t1: FLOCK  ADVISORY  WRITE 359 00:13:11691 0 EOF\n");
        assert_eq!(
            info.locks,
            ["1: FLOCK  ADVISORY  WRITE 359 00:13:11691 0 EOF"]
        );
    }

    #[test]
    fn the_ends_of_a_pipe() {
        let own = ProcDir::open(Pid::own()).unwrap();
        let (reader, writer) = io::pipe().unwrap();
        let access = |fd| FdInfo::read(&own, fd).unwrap().access();
        assert_eq!(access(reader.as_raw_fd()), EndAccess::Read);
        assert_eq!(access(writer.as_raw_fd()), EndAccess::Write);
        assert!(FdInfo::read(&own, 999_999).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(bytes in proptest::collection::vec(any::<u8>(), 0..300), text in "(tfd|lock|it_value|flags|Pid): ?[ -~]{0,60}") {
            let _ = FdInfo::parse(&bytes);
            let _ = FdInfo::parse(text.as_bytes());
        }
    }
}
