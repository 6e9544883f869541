//! One process from outside: who it is, what is mapped, its threads, descriptors and family. No Python here.

pub mod access;
pub mod candidates;
pub mod cgroup;
pub mod container;
pub mod counts;
pub mod family;
pub mod fd_index;
pub mod fdinfo;
pub mod fds;
pub mod file_locks;
pub mod files;
pub mod image;
pub mod launch;
pub mod maps;
pub mod mounts;
pub mod net_tables;
pub mod sharers;
pub mod sockets;
pub mod status;
pub mod tasks;

use std::io;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use thiserror::Error;

use crate::model::{Pid, SchedState, Tid};
use crate::sys::pidfd::PidFd;
use crate::sys::procfile::{ProcDir, is_gone};
use status::{Stat, parse_place};

/// Most bytes of a command line that are kept.
const MAX_COMMAND_LINE: usize = 64 << 10;

/// Why a process can't be looked at.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TargetError {
    /// There is no process with this pid.
    #[error("there is no process {0}")]
    NotFound(Pid),
    /// It is there, but `/proc` does not show it.
    #[error("process {0} is there, but /proc does not show it")]
    Hidden(Pid),
    /// The number is that of a thread of a process.
    #[error("{thread} is a thread of process {process}, not a process")]
    IsThread {
        /// The number that was given.
        thread: Pid,
        /// The process that it belongs to.
        process: Pid,
    },
    /// The process ended while it was looked at.
    #[error("process {0} has ended")]
    Ended(Pid),
    /// The kernel refuses what is needed.
    #[error("not permitted to {what} of process {pid}")]
    Denied {
        /// The process.
        pid: Pid,
        /// What was tried, e.g. "read the memory".
        what: &'static str,
    },
    /// Anything else that the system said.
    #[error("{what} of process {pid}: {source}")]
    Io {
        /// The process.
        pid: Pid,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl TargetError {
    /// The error of a failed look into `/proc/PID`.
    pub fn from_io(pid: Pid, what: &'static str, source: io::Error) -> Self {
        match source.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EACCES | Errno::EPERM) => TargetError::Denied { pid, what },
            Some(Errno::ENOENT | Errno::ESRCH) => TargetError::Ended(pid),
            _ => TargetError::Io { pid, what, source },
        }
    }
}

/// A process under observation: its identity is the pidfd (where the kernel has it) and the start time, so that a
/// reused pid is noticed.
#[derive(Debug)]
pub struct Target {
    proc: ProcDir,
    pidfd: Option<PidFd>,
    stat: Stat,
}

impl Target {
    /// Takes hold of process `pid`.
    pub fn open(pid: Pid) -> Result<Self, TargetError> {
        let pidfd = PidFd::open(pid).ok();
        let is_there = || pidfd.as_ref().is_some_and(|pidfd| !pidfd.has_ended());
        let proc = ProcDir::open(pid).map_err(|_| match is_there() {
            true => TargetError::Hidden(pid),
            false => TargetError::NotFound(pid),
        })?;
        let read = |name: &str| {
            proc.read_record(name).map_err(|error| {
                // With `hidepid` the directory is there, and nothing in it (`fs/proc/base.c::proc_pid_permission`, Linux 6.18).
                match is_gone(&error) && is_there() {
                    true => TargetError::Hidden(pid),
                    false => TargetError::from_io(pid, "read the state", error),
                }
            })
        };
        let stat = Stat::parse(&read("stat")?).ok_or(TargetError::Ended(pid))?;
        // The kernel answers under /proc/TID too, though it does not list it.
        let status = status::Status::parse(&read("status")?);
        if let Some(process) = status.tgid.filter(|process| *process != pid) {
            return Err(TargetError::IsThread {
                thread: pid,
                process,
            });
        }
        Ok(Target { proc, pidfd, stat })
    }

    /// Its pid.
    pub fn pid(&self) -> Pid {
        self.proc.pid()
    }

    /// Its directory below `/proc`.
    pub fn proc(&self) -> &ProcDir {
        &self.proc
    }

    /// A handle on it, where the kernel has pidfds.
    pub fn pidfd(&self) -> Option<&PidFd> {
        self.pidfd.as_ref()
    }

    /// Its `stat` when it was opened.
    pub fn stat(&self) -> &Stat {
        &self.stat
    }

    /// Its `stat` now.
    pub fn read_stat(&self) -> Result<Stat, TargetError> {
        let bytes = self
            .proc
            .read_record("stat")
            .map_err(|error| TargetError::from_io(self.pid(), "read the state", error))?;
        Stat::parse(&bytes).ok_or(TargetError::Ended(self.pid()))
    }

    /// Whether it has ended since; a zombie has.
    pub fn has_ended(&self) -> bool {
        match &self.pidfd {
            Some(pidfd) => pidfd.has_ended(),
            None => self
                .read_stat()
                .map_or(true, |stat| stat.state == SchedState::Zombie),
        }
    }

    /// Whether it has replaced its program (`execve`) since it was opened: the pid stays, all memory is new.
    pub fn has_execed(&self) -> bool {
        // The main thread's own file says it too, and for the process' the kernel adds up what all threads have done.
        let name = format!("task/{}/stat", self.pid());
        let now = self.proc.read_record(&name).ok();
        now.and_then(|bytes| Stat::parse(&bytes))
            .is_some_and(|now| {
                // One that has ended before its other threads shows no program.
                now.state != SchedState::Zombie && now.program_stamp() != self.stat.program_stamp()
            })
    }

    /// The thread through which its memory is read: the main one, which lives as long as the process as a rule. When it has
    /// ended before the others, the process shows its memory only through one of those.
    pub fn thread_with_memory(&self) -> Tid {
        let has_memory = |tid: &Tid| {
            let bytes = self.proc.read_record(&format!("task/{tid}/stat")).ok();
            bytes
                .and_then(|bytes| parse_place(&bytes))
                .is_some_and(|(state, _)| !matches!(state, SchedState::Zombie | SchedState::Dead))
        };
        let main = self.pid().main_thread();
        if has_memory(&main) {
            return main;
        }
        let others = self.proc.tasks().unwrap_or_default();
        others.into_iter().find(has_memory).unwrap_or(main)
    }

    /// The numbers of its threads in its own pid namespace, as it knows them itself.
    pub fn innermost_tids(&self) -> io::Result<Vec<i32>> {
        let status = |tid: Tid| {
            let bytes = self.proc.read_record(&format!("task/{tid}/status")).ok()?;
            Some(status::Status::parse(&bytes))
        };
        let tids = self.proc.tasks()?;
        let levels = status(self.pid().main_thread()).map_or(0, |main| main.ns_pids.len());
        if levels == 1 {
            return Ok(tids.into_iter().map(|tid| tid.0).collect());
        }
        let innermost = tids.into_iter().filter_map(|tid| {
            let own = status(tid)?;
            Some(own.innermost_pid().unwrap_or(tid.0))
        });
        Ok(innermost.collect())
    }

    /// Whether it is a thread of the kernel, which has no memory of its own.
    pub fn is_kernel_thread(&self) -> bool {
        self.stat.is_kernel_thread()
    }

    /// Its arguments, as bytes; empty for kernel threads and zombies.
    ///
    /// Reading them can block for as long as the target's `mmap_lock` is held.
    pub fn command_line(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut bytes = self.proc.read("cmdline")?;
        bytes.truncate(MAX_COMMAND_LINE);
        Ok(split_arguments(&bytes))
    }

    /// When it started, by the wall clock.
    pub fn started_at(&self) -> Option<SystemTime> {
        let uptime = uptime()?;
        let age = uptime.checked_sub(self.stat.start_time())?;
        SystemTime::now().checked_sub(age)
    }

    /// How long it has been running.
    pub fn age(&self) -> Option<Duration> {
        uptime()?.checked_sub(self.stat.start_time())
    }
}

fn split_arguments(bytes: &[u8]) -> Vec<Vec<u8>> {
    // A title written over the arguments (setproctitle) ends in many zero bytes.
    let end = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    if end == 0 {
        return Vec::new();
    }
    bytes[..end]
        .split(|byte| *byte == 0)
        .map(<[u8]>::to_vec)
        .collect()
}

/// Time since the machine started, as `starttime` in `stat` counts it (CLOCK_BOOTTIME).
fn uptime() -> Option<Duration> {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Some(Duration::new(
        u64::try_from(now.tv_sec).ok()?,
        u32::try_from(now.tv_nsec).ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_keep_empty_ones_and_lose_the_padding() {
        assert_eq!(
            split_arguments(b"python\0-c\0\0x\0"),
            [&b"python"[..], b"-c", b"", b"x"]
        );
        assert_eq!(
            split_arguments(b"gunicorn: worker\0\0\0\0"),
            [b"gunicorn: worker"]
        );
        assert!(split_arguments(b"\0\0").is_empty());
    }

    #[test]
    fn a_thread_is_told_from_a_process() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let (quit, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            sender.send(nix::unistd::gettid().as_raw()).unwrap();
            let _ = wait.recv();
        });
        let tid = Pid(receiver.recv().unwrap());
        let error = Target::open(tid).unwrap_err();
        assert!(matches!(error, TargetError::IsThread { process, .. } if process == Pid::own()));
        drop(quit);
        thread.join().unwrap();
    }

    #[test]
    fn its_own_threads() {
        let own = Target::open(Pid::own()).unwrap();
        // The test runs in a thread of its own.
        assert!(own.innermost_tids().unwrap().len() > 1);
        assert_eq!(own.thread_with_memory(), Pid::own().main_thread());
    }

    #[test]
    fn its_own_age_is_small_and_known() {
        let own = Target::open(Pid::own()).unwrap();
        assert!(own.age().unwrap() < Duration::from_secs(3600));
        assert!(!own.has_ended() && !own.has_execed() && !own.is_kernel_thread());
    }
}
