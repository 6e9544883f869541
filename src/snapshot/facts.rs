//! The kernel's view of all threads, taken before anything of the target's memory is touched: cheap, and never blocking.

use std::io;
use std::time::Instant;

use crate::model::{Pid, SchedState, Since, Tid};
use crate::sys::descriptors::is_shortage;
use crate::sys::procfile::is_gone;
use crate::target::Target;
use crate::target::tasks::{RunStamp, Syscall, TaskFacts, TaskFiles};
use crate::wait::SinceClock;

/// How often a thread that runs while it is looked at is looked at again.
const MAX_TRIES: usize = 4;

/// One thread as the kernel sees it.
#[derive(Debug)]
pub struct ThreadFacts {
    /// Its files.
    pub files: TaskFiles,
    /// Its state.
    pub task: TaskFacts,
    /// The call that it is blocked in; `None` where the kernel refuses to say.
    pub syscall: Option<Syscall>,
    /// How long it has not run, for one that doesn't.
    pub off_cpu: Option<Since>,
}

/// All threads as the kernel sees them.
#[derive(Debug)]
pub struct OsFacts {
    /// The process; 0 where there are no facts.
    pub pid: Pid,
    /// When the first of them was read.
    pub read_at: Instant,
    /// In ascending order of tids; threads that end meanwhile are left out.
    pub threads: Vec<ThreadFacts>,
    /// Who traces the process.
    pub tracer: Option<Pid>,
    /// Whether the kernel refuses to tell in which calls its threads are.
    pub refuses_calls: bool,
    /// Threads that are there and could not be read, in ascending order.
    pub unread: Vec<Tid>,
    /// What could not be had.
    pub errors: Vec<String>,
}

impl OsFacts {
    /// No facts.
    pub fn none() -> OsFacts {
        OsFacts {
            pid: Pid(0),
            read_at: Instant::now(),
            threads: Vec::new(),
            tracer: None,
            refuses_calls: false,
            unread: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// Looks at every thread of `target`.
    pub fn gather(target: &Target, clock: &mut SinceClock) -> OsFacts {
        let mut facts = OsFacts::none();
        facts.pid = target.pid();
        let tasks = match target.proc().tasks() {
            Ok(tasks) => tasks,
            Err(error) => {
                facts.errors.push(format!("list the threads: {error}"));
                return facts;
            }
        };
        let mut refused = None;
        let mut last_error = None;
        for tid in tasks {
            match ThreadFacts::gather(target, tid, clock) {
                Ok((thread, error)) => {
                    facts.tracer = facts.tracer.or(thread.task.tracer);
                    refused = refused.or(error);
                    facts.threads.push(thread);
                }
                Err(error) if is_gone(&error) => {}
                Err(error) => {
                    facts.unread.push(tid);
                    last_error = Some(error);
                }
            }
        }
        if let Some(error) = last_error {
            let text = match facts.unread[..] {
                [tid] => format!("thread {tid} could not be read: {error}"),
                _ => format!("{} threads could not be read: {error}", facts.unread.len()),
            };
            facts.errors.push(text);
        }
        if let Some(error) = refused {
            facts.refuses_calls = true;
            facts
                .errors
                .push(format!("read the system calls of its threads: {error}"));
        }
        facts
    }

    /// The state of the main thread, which stands for the process.
    pub fn main_state(&self, pid: Pid) -> Option<SchedState> {
        self.find(pid.main_thread()).map(|thread| thread.task.state)
    }

    /// The thread with this number.
    pub fn find(&self, tid: Tid) -> Option<&ThreadFacts> {
        self.threads
            .binary_search_by_key(&tid, |thread| thread.task.tid)
            .ok()
            .map(|index| &self.threads[index])
    }
}

impl ThreadFacts {
    /// The facts, and why the system call is not among them.
    fn gather(
        target: &Target,
        tid: Tid,
        clock: &mut SinceClock,
    ) -> io::Result<(ThreadFacts, Option<io::Error>)> {
        let files = TaskFiles::new(target.proc(), tid);
        let mut task = files.facts()?;
        let mut off_cpu = None;
        let mut syscall = Ok(None);
        for attempt in 1..=MAX_TRIES {
            (off_cpu, syscall) = Self::look_at_sleeper(target, &files, &task, clock);
            // Where something is missing it may have run meanwhile. That it did with nothing missing is seen later,
            // when its stamp is compared with the one of these facts.
            if off_cpu.is_some() && matches!(syscall, Ok(Some(Syscall::In { .. } | Syscall::None)))
            {
                break;
            }
            let now = files.facts()?;
            if now.stamp_before() == task.stamp_before() {
                break;
            }
            // It ran meanwhile, so that what was read is of different moments.
            task = now;
            if attempt == MAX_TRIES {
                (off_cpu, syscall) = (None, Ok(None));
                task.state = SchedState::Running;
            }
        }
        let (syscall, error) = match syscall {
            Ok(syscall) => (syscall, None),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => (None, Some(error)),
            Err(error) if is_shortage(&error) => return Err(error),
            Err(_) => (None, None),
        };
        let facts = ThreadFacts {
            files,
            task,
            syscall,
            off_cpu,
        };
        Ok((facts, error))
    }

    /// What it was like, if it was blocked and off its processor: that is so where the kernel told its call.
    pub fn asleep(&self) -> Option<RunStamp> {
        let is_off = matches!(self.syscall, Some(Syscall::In { .. } | Syscall::None));
        (is_off && !self.task.state.is_runnable()).then(|| self.task.stamp_before())
    }

    /// What it was like, if it slept: it may not have left its processor yet where the kernel does not tell its call.
    pub fn still(&self) -> Option<RunStamp> {
        let is_leaving = matches!(self.syscall, Some(Syscall::Running));
        (!is_leaving && !self.task.state.is_runnable()).then(|| self.task.stamp_before())
    }

    /// Since when a thread sleeps, and in which call.
    fn look_at_sleeper(
        target: &Target,
        files: &TaskFiles,
        task: &TaskFacts,
        clock: &mut SinceClock,
    ) -> (Option<Since>, io::Result<Option<Syscall>>) {
        match task.state {
            SchedState::Running | SchedState::Zombie | SchedState::Dead => (None, Ok(None)),
            _ => {
                let off_cpu = clock.off_cpu(target.proc(), task.tid, task.processor);
                // The kernel's own threads make no calls; the file shows zeroes, which would be a read of descriptor 0.
                let syscall = if target.is_kernel_thread() {
                    Ok(None)
                } else {
                    files.read_syscall_between_stamps().map(Some)
                };
                (off_cpu, syscall)
            }
        }
    }
}
