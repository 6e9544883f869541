//! One process from outside: who it is, what is mapped, its threads, descriptors and family. No Python here.

pub mod access;
pub mod candidates;
pub mod cgroup;
pub mod connections;
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
pub mod terminals;

use std::io;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use thiserror::Error;

use crate::model::{Pid, SchedState, Tid};
use crate::sys::descriptors::{Budget, Permit, Use, is_shortage};
use crate::sys::pidfd::PidFd;
use crate::sys::procfile::{Identity, ProcDir, is_gone};
use status::{Stat, parse_place, parse_start_ticks};

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

/// Descriptors that an open target keeps: its directory and its pidfd.
const KEPT: usize = 2;

/// A process under observation: its identity is the pidfd (where the kernel has it) and the start time, so that a
/// reused pid is noticed. Where the budget of descriptors has no room for it, nothing is kept open, and the start time alone is
/// compared each time.
#[derive(Debug)]
pub struct Target {
    proc: ProcDir,
    /// None also where the kernel has no pidfds.
    pidfd: Option<PidFd>,
    /// None where nothing is kept open.
    permit: Option<Permit>,
    stat: Box<Stat>,
}

impl Target {
    /// Takes hold of process `pid`.
    pub fn open(pid: Pid) -> Result<Self, TargetError> {
        let pidfd = PidFd::open(pid).ok();
        let is_there = || pidfd.as_ref().is_some_and(|pidfd| !pidfd.has_ended());
        let proc = ProcDir::open(pid).map_err(|error| match is_there() {
            _ if is_shortage(&error) => TargetError::from_io(pid, "open the directory", error),
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
        let permit = Budget::own().take(KEPT, Use::Often);
        Ok(Target::keep(proc, pidfd, permit, stat))
    }

    /// Keeps open what there is a permit for.
    fn keep(proc: ProcDir, pidfd: Option<PidFd>, permit: Option<Permit>, stat: Stat) -> Self {
        let identity = Identity {
            record: "stat",
            parse: parse_start_ticks,
            value: stat.start_ticks,
        };
        Target {
            proc: match permit {
                Some(_) => proc,
                None => proc.closed(identity),
            },
            pidfd: pidfd.filter(|_| permit.is_some()),
            permit,
            stat: Box::new(stat),
        }
    }

    /// Its pid.
    pub fn pid(&self) -> Pid {
        self.proc.pid()
    }

    /// Its directory below `/proc`.
    pub fn proc(&self) -> &ProcDir {
        &self.proc
    }

    /// A new handle on it, where the kernel has pidfds.
    pub fn open_pidfd(&self) -> Option<PidFd> {
        if let Some(pidfd) = &self.pidfd {
            return pidfd.try_clone().ok();
        }
        let pidfd = PidFd::open(self.pid())
            .ok()
            .filter(|_| self.permit.is_none())?;
        // It is of whoever has the pid; if that is this one now, it was when it was opened.
        self.read_stat().ok().map(|_| pidfd)
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
            None => match self.read_stat() {
                Ok(stat) => stat.state == SchedState::Zombie,
                Err(error) => matches!(error, TargetError::Ended(_)),
            },
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
        let status = |tid: Tid| match self.proc.read_record(&format!("task/{tid}/status")) {
            Ok(bytes) => Ok(Some(status::Status::parse(&bytes))),
            Err(error) if is_shortage(&error) => Err(error),
            Err(_) => Ok(None),
        };
        let tids = self.proc.tasks()?;
        let levels = status(self.pid().main_thread())?.map_or(0, |main| main.ns_pids.len());
        if levels == 1 {
            return Ok(tids.into_iter().map(|tid| tid.0).collect());
        }
        let innermost = tids.into_iter().filter_map(|tid| match status(tid) {
            Ok(own) => Some(Ok(own?.innermost_pid().unwrap_or(tid.0))),
            Err(error) => Some(Err(error)),
        });
        innermost.collect()
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
    fn what_keeps_nothing_open_sees_the_same_and_notices_another_with_its_pid() {
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let open = Target::open(Pid(child.id().cast_signed())).unwrap();
        let Target { proc, stat, .. } = Target::open(open.pid()).unwrap();
        let other = Stat {
            start_ticks: stat.start_ticks + 1,
            ..*stat.clone()
        };
        let other = Target::keep(proc.clone(), None, None, other);
        let closed = Target::keep(proc, None, None, *stat);
        assert!(!closed.has_ended() && !closed.has_execed());
        assert_eq!(closed.open_pidfd().is_some(), open.open_pidfd().is_some());
        assert_eq!(
            closed.innermost_tids().unwrap(),
            open.innermost_tids().unwrap()
        );
        assert!(other.has_ended() && other.open_pidfd().is_none());
        assert!(is_gone(&other.proc().tasks().unwrap_err()));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(closed.has_ended() && closed.open_pidfd().is_none());
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
