//! Who holds a file lock that a process waits for, as `/proc/locks` and the descriptors of all processes show it.

use super::{Waiting, set_holders};
use crate::model::{HolderConfidence, Pid, Resource, Wait};
use crate::sys::procfile::{ProcDir, is_gone};
use crate::target::fdinfo::FdInfo;
use crate::target::file_locks::{FileLock, LockSort, parse_lock};
use crate::wait::retried::LOCK_FILE;

impl Waiting<'_> {
    /// Finds who holds a file lock that the process waits for.
    pub(super) fn link_lock(&self, wait: &mut Wait) {
        // One that is a lock by being there names its holder itself.
        if wait
            .resource
            .as_ref()
            .is_some_and(|resource| resource.kind == LOCK_FILE)
        {
            return;
        }
        let Some(inode) = wait.resource.as_ref().and_then(|resource| resource.inode) else {
            return;
        };
        let locks = self.machine.locks();
        let sort = match wait.syscall.as_deref() {
            Some("flock") => vec![LockSort::Flock],
            _ => vec![LockSort::Posix, LockSort::Ofd],
        };
        let of_file = |lock: &&FileLock| lock.inode == inode && sort.contains(&lock.sort);
        let own = locks
            .iter()
            .filter(of_file)
            .find(|lock| lock.waits && (lock.pid == Some(self.pid) || lock.pid.is_none()));
        let held: Vec<_> = locks
            .iter()
            .filter(of_file)
            .filter(|lock| !lock.waits && own.is_none_or(|own| own.number == lock.number))
            .collect();
        if held.is_empty() {
            let why = "who holds the lock: /proc/locks does not show it; its holder lives in another pid namespace, or on another machine";
            wait.missing.push(why.to_owned());
            return;
        }
        if let Some(resource) = &mut wait.resource
            && let Some(own) = own
        {
            let name = if own.is_exclusive {
                "exclusive"
            } else {
                "shared"
            };
            resource.name = Some(name.to_owned());
        }
        let mut holders: Vec<Pid> = Vec::new();
        // A lock of an open file is held by whoever has that, which can be others than who has asked for it.
        if held.iter().any(|lock| lock.sort != LockSort::Posix) {
            holders = self.lock_users(wait.resource.as_ref(), &held);
        }
        if holders.is_empty() {
            holders = held.iter().filter_map(|lock| lock.pid).collect();
        }
        holders.sort_unstable();
        holders.dedup();
        // Of several that share it each has to give it back; the kernel shows one that is in the way.
        let is_certain = holders.len() == held.len() && held.iter().all(|lock| lock.is_exclusive);
        let confidence = if is_certain {
            HolderConfidence::Proven
        } else {
            HolderConfidence::Inferred
        };
        let holders = holders.into_iter().map(|pid| (pid, confidence));
        set_holders(holders.collect(), wait);
        if let Some(holder) = &mut wait.holder {
            holder.is_gone = ProcDir::open(holder.pid).is_err_and(|error| is_gone(&error));
        }
    }

    /// The processes through whose descriptors one of these locks is held.
    fn lock_users(&self, resource: Option<&Resource>, held: &[&FileLock]) -> Vec<Pid> {
        let path = resource.and_then(|resource| resource.path.as_deref());
        let Some(path) = path else {
            return Vec::new();
        };
        let open = self.machine.index().files_named_as(path.as_bytes());
        let users = open.into_iter().filter(|open| {
            let info = ProcDir::open(open.pid).and_then(|proc| FdInfo::read(&proc, open.fd));
            let locks = info.map(|info| info.locks).unwrap_or_default();
            locks
                .iter()
                .filter_map(|line| parse_lock(line))
                .any(|lock| held.iter().any(|held| is_same(held, &lock)))
        });
        users.map(|open| open.pid).collect()
    }
}

/// Whether two lines are of the same lock; their numbers are those of the list that they stand in.
fn is_same(one: &FileLock, other: &FileLock) -> bool {
    (one.sort, one.pid, one.inode) == (other.sort, other.pid, other.inode) && !other.waits
}
