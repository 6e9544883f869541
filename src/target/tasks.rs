//! What the kernel says of each thread of a target, read without touching it.

use std::io;
use std::time::Duration;

use super::status::{SchedStat, Stat, Status, parse_place};
use crate::model::{Pid, SchedState, ThreadCounts, Tid};
use crate::sys::procfile::{ProcDir, ProcFile};

/// The open files of one thread below `/proc/PID/task/TID`.
#[derive(Debug)]
pub struct TaskFiles {
    tid: Tid,
    stat: ProcFile,
    status: ProcFile,
    syscall: io::Result<ProcFile>,
    /// Only where the kernel counts what it says (CONFIG_SCHED_INFO).
    schedstat: Option<ProcFile>,
}

/// Room for a `stat`, `syscall` or `schedstat` record; the longest, `stat`, has 52 numbers.
const RECORD: usize = 1280;

/// Whether and where a thread is in a system call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Syscall {
    /// It runs or could run: the kernel tells nothing.
    Running,
    /// It is blocked outside a system call (a page fault, say).
    None,
    /// It is blocked in this call.
    In {
        /// The architecture's number of the call.
        number: i64,
        /// The six argument registers.
        arguments: [u64; 6],
    },
}

/// What was seen of a thread at one moment, before anything of its memory was read.
#[derive(Clone, Debug)]
pub struct TaskFacts {
    /// The thread, in our pid namespace.
    pub tid: Tid,
    /// Its number in its own pid namespace, as the target itself knows it.
    pub innermost_tid: i32,
    /// The kernel's name for it, at most 15 bytes, any bytes.
    pub comm: Vec<u8>,
    /// The scheduler's state.
    pub state: SchedState,
    /// The processor that it ran on last.
    pub processor: Option<u32>,
    /// How often it was let run.
    pub runs: Option<RunCount>,
    /// Its time on a processor, and how often it was let run: to the nanosecond where the kernel counts so, else by the tick.
    pub counts: ThreadCounts,
    /// Who traces it.
    pub tracer: Option<Pid>,
    /// In clock ticks since the machine started: with the tid, its identity.
    pub start_ticks: u64,
}

/// A count that grows whenever the thread runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunCount {
    /// How often it was given a processor (`schedstat`): grows when it begins to run.
    Begun(u64),
    /// How often it has left a processor (`status`): grows when it ends to run.
    Ended(u64),
}

/// What must not change for a thread not to have run in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunStamp {
    /// The scheduler's state.
    pub state: SchedState,
    /// The processor that it ran on last.
    pub processor: Option<u32>,
    /// How often it was let run.
    pub runs: Option<RunCount>,
}

impl RunStamp {
    /// The processor, as it is counted for affinities.
    pub fn processor(&self) -> Option<usize> {
        self.processor
            .and_then(|processor| usize::try_from(processor).ok())
    }
}

impl TaskFiles {
    /// Opens the files of `tid`.
    pub fn open(proc: &ProcDir, tid: Tid) -> io::Result<Self> {
        let schedstat = proc.open_file(&format!("task/{tid}/schedstat")).ok();
        let counts = |file: &ProcFile| {
            file.read_into(&mut [0; RECORD])
                .is_ok_and(|bytes| SchedStat::parse(bytes).is_some())
        };
        Ok(TaskFiles {
            tid,
            stat: proc.open_file(&format!("task/{tid}/stat"))?,
            status: proc.open_file(&format!("task/{tid}/status"))?,
            syscall: proc.open_file(&format!("task/{tid}/syscall")),
            schedstat: schedstat.filter(counts),
        })
    }

    /// The thread.
    pub fn tid(&self) -> Tid {
        self.tid
    }

    /// The thread's state now.
    pub fn facts(&self) -> io::Result<TaskFacts> {
        // In the order of `stamp_before`, so that the stamp of these facts serves as one.
        let begun = self.read_schedstat()?;
        let status = Status::parse(&self.status.read_record()?);
        let stat = Stat::parse(&self.stat.read_record()?).ok_or(io::ErrorKind::InvalidData)?;
        let left = status.switches.map_or(0, |switches| switches.count());
        let counts = match begun {
            Some(begun) => ThreadCounts {
                cpu: Duration::from_nanos(begun.cpu_nanoseconds),
                runs: begun.runs,
            },
            None => ThreadCounts {
                cpu: stat.cpu_time(),
                runs: left,
            },
        };
        Ok(TaskFacts {
            counts,
            tid: self.tid,
            innermost_tid: status.innermost_pid().unwrap_or(self.tid.0),
            comm: stat.comm,
            state: stat.state,
            processor: stat.processor,
            runs: begun.map(|begun| RunCount::Begun(begun.runs)).or(status
                .switches
                .map(|switches| RunCount::Ended(switches.count()))),
            tracer: status.tracer,
            start_ticks: stat.start_ticks,
        })
    }

    /// What would change if the thread ran, to be taken before something is read.
    ///
    /// The count comes first: a thread that begins or ends to run after that is on another count afterwards. A thread that
    /// is about to sleep says so a moment before it leaves the processor, and may go on without leaving it. To ask for
    /// its system call has the kernel wait until it has left (`lib/syscall.c::task_current_syscall`, Linux 6.18); one that
    /// has not is given as running.
    pub fn stamp_before(&self) -> io::Result<RunStamp> {
        let runs = self.read_runs()?;
        let (state, processor) = self.read_place()?;
        Ok(RunStamp {
            state: self.settled(state),
            processor,
            runs,
        })
    }

    /// The same, to be taken after something was read. A count of what has begun says all; one of what has ended needs the
    /// state before it, so that a thread which runs shows there.
    pub fn stamp_after(&self, before: RunStamp) -> io::Result<RunStamp> {
        if self.schedstat.is_some() {
            return Ok(RunStamp {
                runs: self.read_runs()?,
                ..before
            });
        }
        let (state, processor) = self.read_place()?;
        Ok(RunStamp {
            state: self.settled(state),
            processor,
            runs: self.read_runs()?,
        })
    }

    /// The state, corrected for a thread that says that it sleeps and has not left the processor. Where the call can't be
    /// asked for, neither can memory be read.
    fn settled(&self, state: SchedState) -> SchedState {
        if !state.is_runnable() && matches!(self.read_syscall(), Ok(Syscall::Running)) {
            return SchedState::Running;
        }
        state
    }

    /// The system call that it is blocked in; needs PTRACE_MODE_ATTACH (`fs/proc/base.c::proc_pid_syscall`, Linux 6.18).
    pub fn read_syscall(&self) -> io::Result<Syscall> {
        let file = self
            .syscall
            .as_ref()
            .map_err(|error| io::Error::from(error.kind()))?;
        parse_syscall(file.read_into(&mut [0; RECORD])?)
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Whether the kernel counts how often it was given a processor.
    pub fn counts_runs(&self) -> bool {
        self.schedstat.is_some()
    }

    /// How often it was let run.
    pub fn read_runs(&self) -> io::Result<Option<RunCount>> {
        if let Some(schedstat) = self.read_schedstat()? {
            return Ok(Some(RunCount::Begun(schedstat.runs)));
        }
        let status = Status::parse(&self.status.read_record()?);
        Ok(status
            .switches
            .map(|switches| RunCount::Ended(switches.count())))
    }

    /// Its time on a processor, and how often it was given one; `None` where the kernel does not count that.
    pub fn read_schedstat(&self) -> io::Result<Option<SchedStat>> {
        match &self.schedstat {
            Some(file) => Ok(SchedStat::parse(file.read_into(&mut [0; RECORD])?)),
            None => Ok(None),
        }
    }

    fn read_place(&self) -> io::Result<(SchedState, Option<u32>)> {
        parse_place(self.stat.read_into(&mut [0; RECORD])?)
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

impl TaskFacts {
    /// What would change if the thread ran after these facts were read.
    pub fn stamp_before(&self) -> RunStamp {
        RunStamp {
            state: self.state,
            processor: self.processor,
            runs: self.runs,
        }
    }
}

/// The system call that `tid` is blocked in; needs PTRACE_MODE_ATTACH (`fs/proc/base.c::proc_pid_syscall`, Linux 6.18).
pub fn read_syscall(proc: &ProcDir, tid: Tid) -> io::Result<Syscall> {
    let bytes = proc.read_record(&format!("task/{tid}/syscall"))?;
    parse_syscall(&bytes).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Parses a `syscall` file.
pub fn parse_syscall(bytes: &[u8]) -> Option<Syscall> {
    let text = std::str::from_utf8(bytes).ok()?.trim_end();
    if text == "running" {
        return Some(Syscall::Running);
    }
    let mut words = text.split(' ');
    let number: i64 = words.next()?.parse().ok()?;
    if number < 0 {
        return Some(Syscall::None);
    }
    let mut arguments = [0; 6];
    for argument in &mut arguments {
        *argument = u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()?;
    }
    Some(Syscall::In { number, arguments })
}

/// The kernel function that `tid` sleeps in; `None` where the kernel does not say (no right, or not asleep).
pub fn read_wchan(proc: &ProcDir, tid: Tid) -> Option<String> {
    let bytes = proc.read_record(&format!("task/{tid}/wchan")).ok()?;
    let name = String::from_utf8(bytes).ok()?;
    (name != "0" && !name.is_empty()).then_some(name)
}

/// `se.exec_start` of a `sched` file: when the thread last ran, in nanoseconds of its processor's scheduler clock.
/// `None` on kernels that do not have the file (CONFIG_SCHED_DEBUG).
pub fn read_exec_start(proc: &ProcDir, tid: Tid) -> Option<u64> {
    parse_exec_start(&proc.read_record(&format!("task/{tid}/sched")).ok()?)
}

/// Parses `se.exec_start`, which is printed in milliseconds with six decimals (`kernel/sched/debug.c`, Linux 6.18).
pub fn parse_exec_start(bytes: &[u8]) -> Option<u64> {
    let line = bytes
        .split(|byte| *byte == b'\n')
        .find(|line| line.starts_with(b"se.exec_start"))?;
    let text = std::str::from_utf8(line).ok()?.split(':').nth(1)?.trim();
    let (milliseconds, fraction) = text.split_once('.')?;
    let nanoseconds: u64 = fraction.parse().ok().filter(|_| fraction.len() == 6)?;
    milliseconds
        .parse::<u64>()
        .ok()?
        .checked_mul(1_000_000)?
        .checked_add(nanoseconds)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_three_forms_of_the_syscall_file() {
        assert_eq!(parse_syscall(b"running\n"), Some(Syscall::Running));
        assert_eq!(parse_syscall(b"-1 0x7ffc 0x7f00\n"), Some(Syscall::None));
        assert_eq!(
            parse_syscall(b"45 0x9 0x7f00 0x2000 0x0 0x0 0x0 0x7ffc 0x7f01\n"),
            Some(Syscall::In {
                number: 45,
                arguments: [9, 0x7f00, 0x2000, 0, 0, 0]
            })
        );
        assert_eq!(parse_syscall(b"45 0x9\n"), None);
    }

    #[test]
    fn exec_start_in_nanoseconds() {
        let text = b"python (1, #threads: 2)\n---\nse.exec_start                :      12345678.901234\nse.vruntime : 1.0\n";
        assert_eq!(parse_exec_start(text), Some(12_345_678_901_234));
        assert_eq!(parse_exec_start(b"nothing"), None);
    }

    #[test]
    fn its_own_thread() {
        let proc = ProcDir::open(Pid::own()).unwrap();
        let tid = Tid(nix::unistd::gettid().as_raw());
        let files = TaskFiles::open(&proc, tid).unwrap();
        let facts = files.facts().unwrap();
        assert_eq!((facts.tid, facts.state), (tid, SchedState::Running));
        assert!(facts.runs.is_some() && facts.processor.is_some());
        assert_eq!(
            read_syscall(&proc, Tid(-1)).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_syscall(&bytes);
            let _ = parse_exec_start(&bytes);
        }
    }
}
