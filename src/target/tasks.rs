//! What the kernel says of each thread of a target, read without touching it.

use std::io;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustix::io::Errno;

use super::status::{SchedStat, Stat, Status, parse_place, parse_start_ticks};
use crate::model::{Pid, SchedState, ThreadCounts, Tid};
use crate::sys::descriptors::{Budget, Permit, Use, is_shortage};
use crate::sys::procfile::{ProcDir, ProcFile, is_gone};

/// The files of one thread below `/proc/PID/task/TID`, opened when they are read.
///
/// Those that are read again stay open while the budget of descriptors has room; the others are closed after each read. A file
/// that is open belongs to its thread for good. One that is opened anew could belong to a later thread with the same tid, so
/// the start time in `stat` is compared before its content is believed. A thread that has been replaced is reported as gone.
#[derive(Debug)]
pub struct TaskFiles {
    proc: ProcDir,
    tid: Tid,
    budget: &'static Budget,
    purpose: Use,
    stat: OnceLock<Kept>,
    status: OnceLock<Kept>,
    syscall: OnceLock<Kept>,
    schedstat: OnceLock<Kept>,
    /// Field 22 of `stat`, with the tid its identity; not known before the first read of `stat`.
    start_ticks: OnceLock<u64>,
    /// Whether the kernel counts how often it is given a processor (CONFIG_SCHED_INFO); not known before the first read.
    counts_runs: OnceLock<bool>,
    /// What `schedstat` said last.
    last: Mutex<Option<SchedStat>>,
}

/// A file that stays open.
#[derive(Debug)]
struct Kept {
    file: ProcFile,
    _permit: Permit,
}

/// Whether a file that was just opened is known to be of the same thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// Its content says so.
    Same,
    /// The start time has to be compared.
    Unknown,
    /// Whoever compares stamps afterwards finds out: if the thread is still there then, it was when the file was opened.
    ComparedLater,
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
    /// The files of `tid`; none is open yet.
    pub fn new(proc: &ProcDir, tid: Tid) -> Self {
        TaskFiles::within(Budget::own(), proc, tid)
    }

    fn within(budget: &'static Budget, proc: &ProcDir, tid: Tid) -> Self {
        TaskFiles {
            proc: proc.clone(),
            tid,
            budget,
            purpose: Use::Seldom,
            stat: OnceLock::new(),
            status: OnceLock::new(),
            syscall: OnceLock::new(),
            schedstat: OnceLock::new(),
            start_ticks: OnceLock::new(),
            counts_runs: OnceLock::new(),
            last: Mutex::new(None),
        }
    }

    /// The thread.
    pub fn tid(&self) -> Tid {
        self.tid
    }

    /// From now on they are read often, and have precedence over those that are not.
    pub fn warm(&mut self) {
        self.purpose = Use::Often;
    }

    /// From now on they are read seldom: they are closed unless the budget is ample.
    pub fn cool(&mut self) {
        self.purpose = Use::Seldom;
        if !self.budget.is_ample() {
            for file in [
                &mut self.stat,
                &mut self.status,
                &mut self.syscall,
                &mut self.schedstat,
            ] {
                file.take();
            }
        }
    }

    /// Whether the thread is not there any more. False where that can't be found out.
    pub fn has_ended(&self) -> bool {
        self.read_place().is_err_and(|error| is_gone(&error))
    }

    /// The thread's state now.
    pub fn facts(&self) -> io::Result<TaskFacts> {
        // In the order of `stamp_before`, so that the stamp of these facts serves as one.
        let begun = self.read_schedstat()?;
        let status = self.read_status()?;
        let stat = self.read_stat()?;
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
            state: self.settled(state)?,
            processor,
            runs,
        })
    }

    /// The same, to be taken after something was read. A count of what has begun says all; one of what has ended needs the
    /// state before it, so that a thread which runs shows there.
    pub fn stamp_after(&self, before: RunStamp) -> io::Result<RunStamp> {
        if self.counts_runs() {
            return Ok(RunStamp {
                runs: self.read_runs()?,
                ..before
            });
        }
        let (state, processor) = self.read_place()?;
        Ok(RunStamp {
            state: self.settled(state)?,
            processor,
            runs: self.read_runs()?,
        })
    }

    /// The state, corrected for a thread that says that it sleeps and has not left the processor. Where the call can't be
    /// asked for by right, neither can memory be read.
    fn settled(&self, state: SchedState) -> io::Result<SchedState> {
        if state.is_runnable() {
            return Ok(state);
        }
        match self.read_call(Owner::ComparedLater) {
            Ok(Syscall::Running) => Ok(SchedState::Running),
            Err(error) if is_shortage(&error) => Err(error),
            _ => Ok(state),
        }
    }

    /// The system call that it is blocked in; needs PTRACE_MODE_ATTACH (`fs/proc/base.c::proc_pid_syscall`, Linux 6.18).
    pub fn read_syscall(&self) -> io::Result<Syscall> {
        self.read_call(Owner::Unknown)
    }

    /// The same, for those who compare stamps afterwards: a thread that has been replaced shows there.
    pub fn read_syscall_between_stamps(&self) -> io::Result<Syscall> {
        self.read_call(Owner::ComparedLater)
    }

    fn read_call(&self, owner: Owner) -> io::Result<Syscall> {
        let call = self.read(&self.syscall, "syscall", parse_syscall, |_, _| owner)?;
        call.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Whether the kernel counts how often it was given a processor, as far as is known by now.
    pub fn counts_runs(&self) -> bool {
        self.counts_runs.get() == Some(&true)
    }

    /// How often it was let run.
    pub fn read_runs(&self) -> io::Result<Option<RunCount>> {
        if let Some(schedstat) = self.read_schedstat()? {
            return Ok(Some(RunCount::Begun(schedstat.runs)));
        }
        let switches = self.read_status()?.switches;
        Ok(switches.map(|switches| RunCount::Ended(switches.count())))
    }

    /// Its time on a processor, and how often it was given one; `None` where the kernel does not count that.
    pub fn read_schedstat(&self) -> io::Result<Option<SchedStat>> {
        if self.counts_runs.get() == Some(&false) {
            return Ok(None);
        }
        // No other thread has had the same time on a processor, to the nanosecond.
        let owner = |_: &[u8], now: &Option<SchedStat>| match now.is_some() && *now == self.last() {
            true => Owner::Same,
            false => Owner::Unknown,
        };
        let read = self.read(&self.schedstat, "schedstat", SchedStat::parse, owner);
        let now = match read {
            Ok(now) => now,
            // There may be no such file; that the thread has ended shows in the others.
            Err(error) if is_gone(&error) && self.counts_runs.get().is_none() => None,
            Err(error) => return Err(error),
        };
        self.counts_runs.get_or_init(|| now.is_some());
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = now;
        Ok(now)
    }

    fn last(&self) -> Option<SchedStat> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_place(&self) -> io::Result<(SchedState, Option<u32>)> {
        let owner = |bytes: &[u8], _: &_| match parse_start_ticks(bytes) {
            Some(ticks) if *self.start_ticks.get_or_init(|| ticks) == ticks => Owner::Same,
            _ => Owner::Unknown,
        };
        let place = self.read(&self.stat, "stat", parse_place, owner)?;
        place.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Its `stat`, which is not kept open for that.
    fn read_stat(&self) -> io::Result<Stat> {
        let bytes = match self.stat.get() {
            Some(kept) => kept.file.read_record()?,
            None => self.open("stat")?.read_record()?,
        };
        let stat = Stat::parse(&bytes).ok_or(io::ErrorKind::InvalidData)?;
        match self.start_ticks.get_or_init(|| stat.start_ticks) {
            known if *known == stat.start_ticks => Ok(stat),
            _ => Err(Errno::SRCH.into()),
        }
    }

    /// Its `status`, which stays open only where it has the count of its runs.
    fn read_status(&self) -> io::Result<Status> {
        if let Some(kept) = self.status.get() {
            return Ok(Status::parse(&kept.file.read_record()?));
        }
        let file = self.open("status")?;
        let status = Status::parse(&file.read_record()?);
        if self.counts_runs.get() == Some(&false) {
            self.keep(&self.status, file, Owner::Unknown)?;
        }
        Ok(status)
    }

    /// Reads a record that is known to fit. Where it was opened anew, `owner_of` says whose it is by its content.
    fn read<T>(
        &self,
        slot: &OnceLock<Kept>,
        name: &str,
        parse: impl Fn(&[u8]) -> T,
        owner_of: impl Fn(&[u8], &T) -> Owner,
    ) -> io::Result<T> {
        let mut record = [0; RECORD];
        if let Some(kept) = slot.get() {
            return Ok(parse(kept.file.read_into(&mut record)?));
        }
        let file = self.open(name)?;
        let bytes = file.read_into(&mut record)?;
        let content = parse(bytes);
        self.keep(slot, file, owner_of(bytes, &content))?;
        Ok(content)
    }

    fn open(&self, name: &str) -> io::Result<ProcFile> {
        self.proc.open_file(&format!("task/{}/{name}", self.tid))
    }

    /// Keeps a file that was just opened and read, if it is of this thread and there is room.
    fn keep(&self, slot: &OnceLock<Kept>, file: ProcFile, owner: Owner) -> io::Result<()> {
        if owner == Owner::Unknown && self.start_ticks.get().is_some() {
            // It was opened before: if the thread is still there now, it was then.
            self.read_stat()?;
        }
        if let Some(permit) = self.budget.take(1, self.purpose) {
            let kept = Kept {
                file,
                _permit: permit,
            };
            // If another thread of ours was faster, its file serves as well.
            let _ = slot.set(kept);
        }
        Ok(())
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
        let files = TaskFiles::new(&proc, tid);
        let facts = files.facts().unwrap();
        assert_eq!((facts.tid, facts.state), (tid, SchedState::Running));
        assert!(facts.runs.is_some() && facts.processor.is_some());
        assert_eq!(
            read_syscall(&proc, Tid(-1)).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }

    /// A thread of this process that sleeps until the returned function is called.
    fn sleeper() -> (Tid, impl FnOnce()) {
        let (tell, told) = std::sync::mpsc::channel();
        let (quit, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            tell.send(Tid(nix::unistd::gettid().as_raw())).unwrap();
            let _ = wait.recv();
        });
        let tid = told.recv().unwrap();
        let end = move || {
            drop(quit);
            thread.join().unwrap();
        };
        (tid, end)
    }

    fn budget(most: usize) -> &'static Budget {
        Box::leak(Box::new(Budget::new(most)))
    }

    fn count_kept(files: &TaskFiles) -> usize {
        let slots = [&files.stat, &files.status, &files.syscall, &files.schedstat];
        slots
            .into_iter()
            .filter(|slot| slot.get().is_some())
            .count()
    }

    #[test]
    fn without_room_the_same_is_read_and_nothing_stays_open() {
        let proc = ProcDir::open(Pid::own()).unwrap();
        let (tid, end) = sleeper();
        let kept = TaskFiles::within(budget(100), &proc, tid);
        let closed = TaskFiles::within(budget(0), &proc, tid);
        let before = loop {
            let stamp = kept.stamp_before().unwrap();
            if !stamp.state.is_runnable() {
                break stamp;
            }
            std::thread::yield_now();
        };
        assert_eq!(closed.facts().unwrap().stamp_before(), before);
        assert_eq!(closed.stamp_before().unwrap(), before);
        assert_eq!(closed.stamp_after(before).unwrap(), before);
        assert_eq!(kept.stamp_after(before).unwrap(), before);
        assert_eq!(closed.read_syscall().unwrap(), kept.read_syscall().unwrap());
        assert_eq!((count_kept(&closed), count_kept(&kept)), (0, 3));
        assert!(!closed.has_ended());
        end();
        // Its directory may stay for a moment after the join.
        while !closed.has_ended() || !kept.has_ended() {
            std::thread::yield_now();
        }
        assert!(is_gone(&closed.read_runs().unwrap_err()));
        assert!(is_gone(&closed.facts().unwrap_err()));
    }

    #[test]
    fn warm_files_go_before_cold_ones() {
        let proc = ProcDir::open(Pid::own()).unwrap();
        let (tid, end) = sleeper();
        let budget = budget(4);
        let read = |files: &TaskFiles| {
            files.stamp_before().unwrap();
            files.read_syscall().unwrap();
        };
        let cold = TaskFiles::within(budget, &proc, tid);
        read(&cold);
        assert_eq!(count_kept(&cold), 2);
        let mut warm = TaskFiles::within(budget, &proc, tid);
        warm.warm();
        read(&warm);
        assert_eq!(count_kept(&warm), 2);
        warm.cool();
        assert_eq!(count_kept(&warm), 0);
        warm.cool();
        read(&warm);
        assert_eq!(count_kept(&warm), 0);
        drop(cold);
        read(&warm);
        assert_eq!(count_kept(&warm), 2);
        warm.cool();
        assert_eq!(count_kept(&warm), 2);
        end();
    }

    /// What a later thread with the same tid would say is not taken for what this one says.
    #[test]
    fn a_tid_that_is_used_again_is_noticed() {
        let proc = ProcDir::open(Pid::own()).unwrap();
        let (tid, end) = sleeper();
        let files = TaskFiles::within(budget(0), &proc, tid);
        let begun = files.facts().unwrap();
        let other = TaskFiles {
            start_ticks: OnceLock::from(begun.start_ticks + 1),
            ..TaskFiles::within(budget(100), &proc, tid)
        };
        for error in [
            other.facts().unwrap_err(),
            other.stamp_before().unwrap_err(),
            other.read_runs().unwrap_err(),
            other.read_syscall().unwrap_err(),
        ] {
            assert!(is_gone(&error), "{error}");
        }
        assert!(other.has_ended());
        assert_eq!(count_kept(&other), 0);
        end();
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_syscall(&bytes);
            let _ = parse_exec_start(&bytes);
        }
    }
}
