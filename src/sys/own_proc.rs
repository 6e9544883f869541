//! Whether `/proc` shows the processes of our own pid namespace by the pids that we use: each look at a process goes through it.

use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::{PROC_SUPER_MAGIC, statfs};
use thiserror::Error;

/// Why processes can't be looked at by their pids here.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ProcError {
    /// There is no such file system at `/proc`.
    #[error("no proc file system is mounted on /proc")]
    Missing,
    /// It is that of another pid namespace: the same pid is another process there.
    #[error("the /proc here is that of another pid namespace, in which pids are other processes")]
    Foreign,
    /// It can't be read.
    #[error("read /proc/self/status: {0}")]
    Unreadable(io::Error),
}

/// Finds out whether `/proc` is our own.
///
/// A mount of proc shows the processes of the namespace of whoever mounted it, and those below it, by that namespace's pids. If we
/// are in none of these, `/proc/self` leads nowhere (`fs/proc/self.c::proc_self_get_link`, Linux 6.18). If ours is one below it,
/// then `NSpid` in our own status has more than one pid: one for each namespace from that of the mount down to the process's own
/// (`fs/proc/array.c::task_state`, Linux 4.1 and later). That is no matter of chance, as equal pids may be.
pub fn check_own_proc() -> Result<(), ProcError> {
    check(Path::new("/proc"), std::process::id())
}

fn check(root: &Path, own: u32) -> Result<(), ProcError> {
    match statfs(root) {
        Ok(found) if found.f_type == PROC_SUPER_MAGIC => {}
        _ => return Err(ProcError::Missing),
    }
    match fs::read(root.join("self/status")) {
        Ok(status) if is_own(&String::from_utf8_lossy(&status), own) => Ok(()),
        Ok(_) => Err(ProcError::Foreign),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(ProcError::Foreign),
        Err(error) => Err(ProcError::Unreadable(error)),
    }
}

/// Whether a status is that of process `own` as its own namespace has it.
fn is_own(status: &str, own: u32) -> bool {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(|line| line.split_whitespace().collect::<Vec<_>>())
    };
    let own = own.to_string();
    let is_only = |pids: Vec<&str>| pids == [own.as_str()];
    field("Tgid:").is_some_and(is_only) && field("NSpid:").is_none_or(is_only)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_is_our_own_and_a_folder_is_none() {
        assert!(check_own_proc().is_ok());
        let folder = tempfile::tempdir().unwrap();
        let error = check(folder.path(), std::process::id()).unwrap_err();
        assert!(matches!(error, ProcError::Missing), "{error}");
        let error = check(Path::new("/nonexistent"), 1).unwrap_err();
        assert!(matches!(error, ProcError::Missing), "{error}");
        // The status there is ours, by another pid.
        let error = check(Path::new("/proc"), u32::MAX).unwrap_err();
        assert!(matches!(error, ProcError::Foreign), "{error}");
    }

    #[test]
    fn an_equal_pid_of_another_namespace_is_not_our_own() {
        assert!(is_own("Name:\tx\nTgid:\t100\nNSpid:\t100\n", 100));
        assert!(is_own("Tgid:\t100\n", 100));
        assert!(!is_own("Tgid:\t100\nNSpid:\t100\t100\n", 100));
        assert!(!is_own("Tgid:\t4100\nNSpid:\t4100\t100\n", 100));
        assert!(!is_own("Tgid:\t4100\n", 100));
        assert!(!is_own("", 100));
    }
}
