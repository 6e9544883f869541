//! What a call that sleeps between attempts tries to take: a file that others have locked, or a lock file, among the files that its process has
//! open and the paths that its variables hold.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, StatxFlags, statx};

use super::surroundings::process_holder;
use crate::model::{HolderConfidence, Pid, Resource, Since, Wait, WaitKind};
use crate::sys::deadline;
use crate::sys::procfile::{ProcDir, is_gone};
use crate::target::family::list_processes;
use crate::target::fdinfo::FdInfo;
use crate::target::fds::{FdTarget, file_facts, read_fd};
use crate::target::file_locks::{FileLock, LockSort, parse_lock, read_locks};
use crate::target::files::{find_in_root, open_in_root};
use crate::target::status::Status;

/// How long the search may take: paths can lead to file systems that do not answer.
const MAX_SEARCH: Duration = Duration::from_secs(2);
/// How often it is looked whether a lock is still held, and how long after each other: one that is given back and taken in turns is to be had.
const LOOKS: usize = 8;
const BETWEEN_LOOKS: Duration = Duration::from_millis(25);
/// Most descriptors of the process that are looked at.
const MAX_DESCRIPTORS: usize = 4096;
/// Most bytes of a lock file: it has a number, and maybe a name, in it.
const MAX_LOCK_FILE: u64 = 256;
/// The type of a resource that is a lock by being there.
pub const LOCK_FILE: &str = "lock-file";

/// A call that may try to take a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempts {
    /// Its process.
    pub pid: Pid,
    /// Texts among its variables that may be paths, the likeliest first.
    pub paths: Vec<String>,
    /// Whether it sleeps in C code: then the file is one that the process has open.
    pub is_native: bool,
    /// Whether it is about locks, by the names of its functions, or as its attempts end with the error of a lock that is taken. Other calls have paths
    /// of files that are locked by others for good reason, as the file with the number of a server.
    pub is_about_locks: bool,
    /// Since when it is pending.
    pub since: Since,
}

/// The wait for the file that these attempts are about; `None` where there is none, or which one is not known. Who holds it is
/// still to be linked, except for lock files.
pub fn find_retried(attempts: &Attempts) -> Option<Wait> {
    let owned = attempts.clone();
    deadline::run(MAX_SEARCH, move || search(&owned)).ok()?
}

fn search(attempts: &Attempts) -> Option<Wait> {
    let proc = ProcDir::open(attempts.pid).ok()?;
    let locks: Vec<FileLock> = read_locks()
        .into_iter()
        .filter(|lock| {
            lock.is_exclusive
                && !lock.waits
                && lock.pid != Some(attempts.pid)
                && lock.sort != LockSort::Other
        })
        .collect();
    let mut found = None;
    if attempts.is_about_locks || attempts.is_native {
        found = by_path(attempts, &proc, &locks);
    }
    if attempts.is_native {
        found = found.or_else(|| by_descriptor(attempts, &proc, &locks));
    }
    if attempts.is_about_locks {
        found = found.or_else(|| lock_file(attempts, &proc));
    }
    found
}

fn by_path(attempts: &Attempts, proc: &ProcDir, locks: &[FileLock]) -> Option<Wait> {
    if locks.is_empty() {
        return None;
    }
    attempts.paths.iter().find_map(|path| {
        let inode = facts_of(proc, path)?.inode;
        let lock = locks.iter().find(|lock| lock.inode == inode)?;
        // A lock of an open file that it has itself, maybe from its parent.
        let is_own = has_lock(proc, inode, lock.sort);
        (!is_own && is_kept(lock)).then(|| wait_for(attempts, path.clone(), inode, lock))
    })
}

/// The only file that it has open and somebody else has locked for himself alone.
fn by_descriptor(attempts: &Attempts, proc: &ProcDir, locks: &[FileLock]) -> Option<Wait> {
    if locks.is_empty() {
        return None;
    }
    let mut found: Option<(String, u64, &FileLock)> = None;
    for fd in proc
        .list_numbers("fd")
        .ok()?
        .into_iter()
        .take(MAX_DESCRIPTORS)
    {
        let Ok(FdTarget::Path { path }) = read_fd(proc, fd) else {
            continue;
        };
        let Ok(facts) = file_facts(proc, fd) else {
            continue;
        };
        let is_its = |lock: &&FileLock| lock.inode == facts.inode;
        let Some(lock) = locks.iter().find(is_its) else {
            continue;
        };
        if facts.kind != FileType::RegularFile || has_lock(proc, facts.inode, lock.sort) {
            continue;
        }
        match found {
            Some((_, inode, _)) if inode != facts.inode => return None,
            Some(_) => {}
            None => {
                let path = String::from_utf8_lossy(&path).into_owned();
                found = Some((path, facts.inode, lock));
            }
        }
    }
    let (path, inode, lock) = found?;
    is_kept(lock).then(|| wait_for(attempts, path, inode, lock))
}

/// Whether one of its own descriptors has a lock of this sort on the file.
fn has_lock(proc: &ProcDir, inode: u64, sort: LockSort) -> bool {
    let fds = proc.list_numbers("fd").unwrap_or_default();
    let mut fds = fds.into_iter().take(MAX_DESCRIPTORS);
    fds.any(|fd| {
        let is_path = matches!(read_fd(proc, fd), Ok(FdTarget::Path { .. }));
        let info = is_path.then(|| FdInfo::read(proc, fd).ok()).flatten();
        info.is_some_and(|info| {
            let mut locks = info.locks.iter().filter_map(|line| parse_lock(line));
            locks.any(|lock| lock.inode == inode && lock.sort == sort && !lock.waits)
        })
    })
}

/// Whether the lock is held by the same one all the time.
fn is_kept(lock: &FileLock) -> bool {
    let is_it = |other: &FileLock| {
        !other.waits && (other.inode, other.sort, other.pid) == (lock.inode, lock.sort, lock.pid)
    };
    (0..LOOKS).all(|_| {
        std::thread::sleep(BETWEEN_LOOKS);
        read_locks().iter().any(is_it)
    })
}

fn wait_for(attempts: &Attempts, path: String, inode: u64, lock: &FileLock) -> Wait {
    let call = match lock.sort {
        LockSort::Flock => "flock",
        _ => "fcntl",
    };
    wait(
        attempts,
        Resource {
            kind: "file".to_owned(),
            path: Some(path),
            inode: Some(inode),
            ..Resource::default()
        },
        Some(call),
    )
}

fn wait(attempts: &Attempts, resource: Resource, call: Option<&str>) -> Wait {
    Wait {
        since: Some(attempts.since),
        syscall: call.map(str::to_owned),
        resource: Some(resource),
        ..Wait::of_kind(WaitKind::FileLock)
    }
}

/// A file that is a lock by being there: the process whose pid is in it has taken it.
fn lock_file(attempts: &Attempts, proc: &ProcDir) -> Option<Wait> {
    attempts.paths.iter().find_map(|path| {
        let facts = facts_of(proc, path)?;
        if facts.size > MAX_LOCK_FILE {
            return None;
        }
        let pid = read_pid(proc, path, &facts);
        let own = Status::parse(&proc.read_record("status").ok()?).innermost_pid();
        // Who has it itself does not wait for it; and a file in which nobody is named is one by its name only.
        if pid.is_some() && pid == own || pid.is_none() && !is_lock_name(path) {
            return None;
        }
        if !stays(proc, path, facts.inode) {
            return None;
        }
        let mut found = wait(
            attempts,
            Resource {
                kind: LOCK_FILE.to_owned(),
                path: Some(path.clone()),
                inode: Some(facts.inode),
                ..Resource::default()
            },
            None,
        );
        match pid {
            Some(pid) => name_owner(proc, pid, &mut found),
            None => found
                .missing
                .push("who has made the lock file: it names no process".to_owned()),
        }
        Some(found)
    })
}

/// Names the owner of a lock file, whose pid is one of the target's own pid namespace.
fn name_owner(proc: &ProcDir, pid: i32, wait: &mut Wait) {
    let namespace = |proc: &ProcDir| proc.read_link("ns/pid").ok();
    let theirs = namespace(proc);
    let ours = ProcDir::open(Pid::own())
        .ok()
        .and_then(|own| namespace(&own));
    if theirs.is_some() && theirs == ours {
        let mut owner = process_holder(Pid(pid), HolderConfidence::Inferred);
        owner.is_gone = ProcDir::open(owner.pid).is_err_and(|error| is_gone(&error));
        wait.holder = Some(owner);
        return;
    }
    let is_owner = |candidate: &Pid| {
        let Ok(candidate) = ProcDir::open(*candidate) else {
            return false;
        };
        let status = candidate.read_record("status").ok();
        let status = status.map(|bytes| Status::parse(&bytes));
        theirs.is_some()
            && status.and_then(|status| status.innermost_pid()) == Some(pid)
            && namespace(&candidate) == theirs
    };
    match list_processes().unwrap_or_default().into_iter().find(is_owner) {
        Some(owner) => wait.holder = Some(process_holder(owner, HolderConfidence::Inferred)),
        None => wait.missing.push(format!(
            "who has made the lock file: it names process {pid} of its own pid namespace, which is not there"
        )),
    }
}

/// Whether the same file is there all the time.
fn stays(proc: &ProcDir, path: &str, inode: u64) -> bool {
    (0..LOOKS).all(|_| {
        std::thread::sleep(BETWEEN_LOOKS);
        facts_of(proc, path).is_some_and(|now| now.inode == inode)
    })
}

fn is_lock_name(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path).to_ascii_lowercase();
    name.ends_with(".lock") || name.ends_with(".lck") || name == "lock"
}

/// The pid that a lock file begins with. Files of no stated size are not read: those of `/proc` do things when they are.
fn read_pid(proc: &ProcDir, path: &str, facts: &Facts) -> Option<i32> {
    if facts.size == 0 {
        return None;
    }
    let file = open_in_root(proc, Path::new(path)).ok()?;
    let mut text = String::new();
    file.take(MAX_LOCK_FILE).read_to_string(&mut text).ok()?;
    let mut words = text.split(|letter: char| letter.is_whitespace() || letter == ':');
    let word = words.find(|word| !word.is_empty())?;
    word.parse().ok().filter(|pid| *pid > 0)
}

/// What is used of a regular file.
#[derive(Clone, Copy, Debug)]
struct Facts {
    inode: u64,
    size: u64,
}

/// The facts of a regular file, by its path as the target has it; a file system that does not answer is not asked.
fn facts_of(proc: &ProcDir, path: &str) -> Option<Facts> {
    let handle = find_in_root(proc, Path::new(path)).ok()?;
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let wanted = StatxFlags::TYPE | StatxFlags::INO | StatxFlags::SIZE;
    let found = statx(&handle, "", flags, wanted).ok()?;
    let kind = FileType::from_raw_mode(found.stx_mode.into());
    (kind == FileType::RegularFile).then_some(Facts {
        inode: found.stx_ino,
        size: found.stx_size,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SinceSource;

    fn attempts(paths: &[&Path], is_native: bool, is_about_locks: bool) -> Attempts {
        Attempts {
            pid: Pid::own(),
            paths: paths
                .iter()
                .map(|path| path.to_str().unwrap().to_owned())
                .collect(),
            is_native,
            is_about_locks,
            since: Since {
                elapsed: Duration::from_secs(9),
                error: Duration::ZERO,
                source: SinceSource::Observed,
            },
        }
    }

    #[test]
    fn a_lock_file_names_its_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("job.lock");
        let find = |content: &str, is_about_locks| {
            std::fs::write(&path, content).unwrap();
            search(&attempts(&[&path], false, is_about_locks))
        };
        let holder = |wait: Option<Wait>| {
            wait.unwrap()
                .holder
                .map(|holder| (holder.pid, holder.is_gone))
        };
        let gone = Pid(i32::MAX - 1);
        assert_eq!(
            holder(find(&format!("{}\nhost\n", gone.0), true)),
            Some((gone, true))
        );
        assert_eq!(holder(find("1\n", true)), Some((Pid(1), false)));
        // It is its own, nobody's, or the call is about something else.
        assert_eq!(find(&format!("{}\n", gone.0), false), None);
        assert_eq!(find(&format!("{}\n", Pid::own().0), true), None);
        assert_eq!(find("", false), None);
        assert_eq!(holder(find("", true)), None);
    }

    #[test]
    fn what_we_have_locked_ourselves_is_not_waited_for() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().lock().unwrap();
        assert_eq!(search(&attempts(&[file.path()], true, false)), None);
    }

    #[test]
    fn paths_that_lead_nowhere_are_none() {
        let paths = [
            Path::new("/proc/self/../1/root"),
            Path::new("/no/such/file"),
            Path::new("/"),
        ];
        assert_eq!(search(&attempts(&paths, false, true)), None);
    }
}
