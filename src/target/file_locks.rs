//! `/proc/locks`: who holds a file lock, and who waits for it. Needs no right; locks of processes in other pid namespaces are left out by the kernel.

use crate::model::Pid;
use crate::sys::descriptors::noted;

/// Most bytes of `/proc/locks` that are taken.
const MAX_LOCKS: u64 = 16 << 20;

/// The sort of a file lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockSort {
    /// `flock`.
    Flock,
    /// `fcntl` with F_SETLK, and `lockf`: of a process.
    Posix,
    /// `fcntl` with F_OFD_SETLK: of an open file.
    Ofd,
    /// A lease, or something newer.
    Other,
}

/// A line of `/proc/locks`, or of a `lock:` line of `fdinfo` (`fs/locks.c::lock_get_status`, Linux 6.18).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileLock {
    /// The number of the lock; those that wait for it have the same.
    pub number: u64,
    /// Whether this one waits.
    pub waits: bool,
    /// Its sort.
    pub sort: LockSort,
    /// Whether it excludes everybody else.
    pub is_exclusive: bool,
    /// The process that asked for it, which may have ended since; `None` for the locks of open files.
    pub pid: Option<Pid>,
    /// Inode of the file.
    pub inode: u64,
}

/// All locks, in the order of the file; empty where there is none.
pub fn read_locks() -> Vec<FileLock> {
    use std::io::Read;

    let mut bytes = Vec::new();
    let read = std::fs::File::open("/proc/locks")
        .map_err(noted)
        .and_then(|file| file.take(MAX_LOCKS).read_to_end(&mut bytes));
    match read {
        Ok(_) => parse_locks(&bytes),
        Err(_) => Vec::new(),
    }
}

/// Parses the file; lines that are not understood are left out.
pub fn parse_locks(bytes: &[u8]) -> Vec<FileLock> {
    let text = String::from_utf8_lossy(bytes);
    text.lines().filter_map(parse_lock).collect()
}

/// Parses a line: `3: -> POSIX  ADVISORY  WRITE 812 08:01:1234 0 EOF`.
pub fn parse_lock(line: &str) -> Option<FileLock> {
    let mut words = line.split_ascii_whitespace().peekable();
    let number = words.next()?.strip_suffix(':')?.parse().ok()?;
    let waits = words.next_if(|word| *word == "->").is_some();
    let sort = match words.next()? {
        "FLOCK" => LockSort::Flock,
        "POSIX" => LockSort::Posix,
        "OFDLCK" => LockSort::Ofd,
        _ => LockSort::Other,
    };
    let _advisory = words.next()?;
    let access = words.next()?;
    let pid: i32 = words.next()?.parse().ok()?;
    let inode = words.next()?.rsplit(':').next()?.parse().ok()?;
    Some(FileLock {
        number,
        waits,
        sort,
        is_exclusive: access == "WRITE",
        pid: (pid > 0).then_some(Pid(pid)),
        inode,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn holders_and_waiters() {
        let locks = parse_locks(
            b"1: POSIX  ADVISORY  WRITE 812 08:01:1234 0 EOF\n1: -> POSIX  ADVISORY  READ 813 08:01:1234 0 EOF\n1:  -> POSIX  ADVISORY  WRITE 814 08:01:1234 0 EOF\n2: OFDLCK ADVISORY  WRITE -1 00:13:7 0 9\nrubbish\n",
        );
        assert_eq!(locks.len(), 4);
        assert_eq!(locks[0].pid, Some(Pid(812)));
        assert!(!locks[0].waits && locks[1].waits && locks[2].waits);
        assert!(locks[0].is_exclusive && !locks[1].is_exclusive);
        assert_eq!(
            (locks[3].sort, locks[3].pid, locks[3].inode),
            (LockSort::Ofd, None, 7)
        );
    }

    #[test]
    fn a_lock_of_our_own_is_there() {
        let file = tempfile::tempfile().unwrap();
        file.lock().unwrap();
        let inode = rustix::fs::fstat(&file).unwrap().st_ino;
        let found = read_locks().into_iter().find(|lock| lock.inode == inode);
        let found = found.unwrap();
        assert_eq!((found.sort, found.pid), (LockSort::Flock, Some(Pid::own())));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_locks(&bytes);
        }

        #[test]
        fn a_line_comes_back(number in any::<u64>(), waits: bool, pid in 1_i32.., inode in any::<u64>()) {
            let arrow = if waits { "-> " } else { "" };
            let line = format!("{number}: {arrow}FLOCK  ADVISORY  WRITE {pid} 103:02:{inode} 0 EOF");
            let lock = parse_lock(&line).unwrap();
            prop_assert_eq!((lock.number, lock.waits, lock.pid, lock.inode), (number, waits, Some(Pid(pid)), inode));
        }
    }
}
