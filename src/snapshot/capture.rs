//! One process at one instant: the kernel's facts first, then its Python, under a deadline.

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::attach::read_python;
use super::facts::{OsFacts, ThreadFacts};
use super::merge::{Words, merge_all};
use super::options::CaptureOptions;
use super::stops::StopAccount;
use super::view::{News, PythonThread, PythonView};
use crate::model::{
    Container, MemoryOutcome, Pid, ProcessCounts, ProcessSnapshot, SchedState, Tid,
};
use crate::python::frame::StackRoom;
use crate::sys::deadline::{self, DeadlineError, TimeBudget};
use crate::sys::memory::LiveMemory;
use crate::target::Target;
use crate::target::cgroup::{find_frozen, find_throttled};
use crate::target::container::find_container;
use crate::target::counts::read_counts;
use crate::target::sharers::{Word, find_words};
use crate::target::sockets::Sockets;
use crate::target::status::Status;
use crate::target::tasks::{Syscall, read_wchan};
use crate::wait::{
    FutexCall, PointedArguments, SinceClock, WaitContext, moves_data, read_pointed_arguments,
};

/// How long it may take to find out which the target's cgroup is, and whether it is frozen.
const MAX_CGROUPS: Duration = Duration::from_millis(200);

/// The signal's bit in a set (`signal(7)`: number 14).
const SIGALRM: u64 = 1 << 13;

/// How often a process that replaces its program while it is read is looked at anew.
const MAX_EXECS: usize = 3;

/// One process at one instant.
#[derive(Debug)]
pub struct Capture {
    /// The process.
    pub process: ProcessSnapshot,
    /// What stopping its threads has cost.
    pub stops: StopAccount,
    /// What its stacks have taken.
    pub taken: StackRoom,
}

/// Captures `target`. What can't be had is an entry in its errors.
pub fn capture(target: Target, options: CaptureOptions) -> Capture {
    let mut target = target;
    for _ in 0..MAX_EXECS {
        let captured = capture_once(target, options);
        match captured {
            Ok(capture) => return capture,
            // It runs another program now, and what was read may be of either.
            Err(reopened) => target = reopened,
        }
    }
    match capture_once(target, options) {
        Ok(mut capture) => {
            capture
                .process
                .errors
                .push("it replaced its program (exec) each time it was read".to_owned());
            capture
        }
        Err(target) => {
            let facts = OsFacts::none();
            let mut process = describe(&target, &facts, Vec::new());
            process
                .errors
                .push("it replaced its program (exec) each time it was read".to_owned());
            Capture {
                process,
                stops: StopAccount::default(),
                taken: StackRoom::default(),
            }
        }
    }
}

fn capture_once(target: Target, options: CaptureOptions) -> Result<Capture, Target> {
    let target = Arc::new(target);
    let mut clock = SinceClock::new();
    let facts = Arc::new(OsFacts::gather(&target, &mut clock));

    let owned = Arc::clone(&target);
    let command = in_time(options, move || owned.command_line().unwrap_or_default());

    let (owned, owned_facts) = (Arc::clone(&target), Arc::clone(&facts));
    let python = match &command {
        Ok(_) => in_time(options, move || {
            let part = read_python(&owned, &owned_facts, options);
            // After the stacks: by then it is known which threads have moved on, and to which call.
            let pointed = read_arguments(&owned, &owned_facts, &part.view);
            (part, pointed)
        }),
        // The first read did not come back: the next would not either.
        Err(error) => Err(*error),
    };

    if target.has_execed()
        && let Ok(reopened) = Target::open(target.pid())
    {
        return Err(reopened);
    }

    let mut process = describe(&target, &facts, command.unwrap_or_default());
    process.errors.extend(facts.errors.iter().cloned());
    let mut view = PythonView::default();
    let mut pointed = FxHashMap::default();
    match python {
        Ok((part, read)) => {
            pointed = read;
            process.memory = part.outcome;
            process.runtime = part.runtime;
            process.errors.extend(part.failure);
            view = part.view;
        }
        Err(error) => process.errors.push(why_unread(error)),
    }
    process.errors.append(&mut view.errors);
    let mut sockets = Sockets::new(&target, options.looks_for_listeners);
    if facts
        .threads
        .iter()
        .any(|thread| may_hold_kernel_lock(&target, thread))
    {
        sockets = sockets.without_borrowing();
    }
    if options.counts {
        process.counts = read_counts(&sockets);
    }
    let cgroups = look_at_cgroups(&target, options.counts);
    process.container = cgroups.container;
    process.counts.throttled = cgroups.throttled;
    let context = WaitContext {
        sockets: &sockets,
        pointed,
        tracer: facts.tracer,
        frozen: cgroups.frozen,
        children: OnceCell::new(),
    };
    let words = look_for_words(&target, &view.threads, options.time);
    process.threads = merge_all(&context, &facts, view.threads, &words);
    if target.has_ended() {
        process.state = target
            .read_stat()
            .map_or(SchedState::Dead, |stat| stat.state);
    }
    Ok(Capture {
        process,
        stops: view.stops,
        taken: view.taken,
    })
}

/// Runs what reads a process for as long as there is time for it.
fn in_time<T: Send + 'static>(
    options: CaptureOptions,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, DeadlineError> {
    if options.time.is_over() {
        return Err(DeadlineError::TimedOut(Duration::ZERO));
    }
    deadline::run_patiently(options.time.patience(), work)
}

/// Why the memory of a process was not read.
fn why_unread(error: DeadlineError) -> String {
    match error {
        DeadlineError::TimedOut(Duration::ZERO) => {
            "left out: the time for reading was over (see --deadline)".to_owned()
        }
        DeadlineError::TimedOut(_) => format!(
            "read its memory: {error}; its mmap_lock is held, or a file system that it uses does not answer"
        ),
        DeadlineError::NoThread => format!("read its memory: {error}"),
    }
}

fn describe(target: &Target, facts: &OsFacts, command: Vec<Vec<u8>>) -> ProcessSnapshot {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let command: Vec<String> = command.iter().map(|argument| text(argument)).collect();
    let title = if command.is_empty() {
        text(&target.stat().comm)
    } else {
        command.join(" ")
    };
    let status = target.proc().read_record("status").ok();
    let status = status
        .map(|bytes| Status::parse(&bytes))
        .unwrap_or_default();
    ProcessSnapshot {
        pid: target.pid(),
        ns_pid: status.inner_pid(),
        ppid: target.stat().ppid,
        depth: 0,
        handles_signals: handles_signals(&status),
        handles_alarms: status.caught & SIGALRM != 0,
        is_related: false,
        title,
        command,
        runtime: None,
        memory: MemoryOutcome::TimedOut,
        state: facts
            .main_state(target.pid())
            .unwrap_or(target.stat().state),
        started_at: target.started_at(),
        age: target
            .age()
            .and_then(|age| age.checked_sub(facts.read_at.elapsed())),
        container: None,
        tracer: facts.tracer,
        refuses_calls: facts.refuses_calls,
        unread_threads: facts.unread.len(),
        lacks_descriptors: false,
        counts: ProcessCounts::default(),
        progress: None,
        threads: Vec::new(),
        errors: Vec::new(),
    }
}

/// Whether signals other than SIGINT, which Python itself takes, would be handled in the target; 32 and 33 are the C library's own.
fn handles_signals(status: &Status) -> bool {
    const USUAL: u64 = 1 << 1 | 1 << 31 | 1 << 32;
    status.caught & !USUAL != 0
}

/// Whether the thread is, or may be, in a fault while it moves data through a descriptor: then the kernel has locked what the
/// descriptor is of, and to ask for it would block.
fn may_hold_kernel_lock(target: &Target, thread: &ThreadFacts) -> bool {
    match (thread.task.state, &thread.syscall) {
        (SchedState::DiskSleep, _) | (SchedState::Sleeping, Some(Syscall::None)) => true,
        (SchedState::Sleeping, Some(Syscall::In { number, .. })) if moves_data(*number) => {
            // A wait for a page, wherever it comes from.
            let function = read_wchan(target.proc(), thread.task.tid).unwrap_or_default();
            ["userfault", "folio", "page", "fuse", "nfs", "rpc"]
                .iter()
                .any(|word| function.contains(word))
        }
        _ => false,
    }
}

/// The cgroup of the target if that is frozen, and the container that its path names; the kernel answers only when nobody changes
/// cgroups meanwhile.
fn look_at_cgroups(target: &Arc<Target>, counts: bool) -> Cgroups {
    let target = Arc::clone(target);
    let look = move || Cgroups {
        frozen: find_frozen(target.proc()),
        container: find_container(target.proc()),
        throttled: counts.then(|| find_throttled(target.proc())).flatten(),
    };
    deadline::run(MAX_CGROUPS, look).unwrap_or_default()
}

/// What is known by the cgroups of a process.
#[derive(Debug, Default)]
struct Cgroups {
    /// The one that is frozen.
    frozen: Option<String>,
    /// The container that it is in.
    container: Option<Container>,
    /// For how long a CPU limit has kept it from running.
    throttled: Option<Duration>,
}

/// What the calls of all threads point to, of those that were still in the same call afterwards.
fn read_arguments(
    target: &Target,
    facts: &OsFacts,
    view: &PythonView,
) -> FxHashMap<Tid, (Syscall, PointedArguments)> {
    let memory = LiveMemory::new(Pid(target.thread_with_memory().0));
    let news: FxHashMap<i32, &News> = view
        .threads
        .iter()
        .filter_map(|thread| Some((thread.innermost_tid, thread.news.as_ref()?)))
        .collect();
    let mut all = FxHashMap::default();
    for thread in &facts.threads {
        let syscall = match news.get(&thread.task.innermost_tid) {
            Some(news) => news.syscall.as_ref(),
            None => thread.syscall.as_ref(),
        };
        let Some(syscall) = syscall else {
            continue;
        };
        if let Some(pointed) = read_pointed_arguments(&memory, syscall)
            && thread.files.read_syscall().ok().as_ref() == Some(syscall)
        {
            all.insert(thread.task.tid, (syscall.clone(), pointed));
        }
    }
    all
}

/// Looks at other processes, if a thread sleeps on a futex that processes may share.
fn look_for_words(target: &Arc<Target>, threads: &[PythonThread], time: TimeBudget) -> Words {
    let shared = threads.iter().filter_map(|thread| {
        let call = thread.futex_call.filter(FutexCall::is_shared)?;
        Some(Word {
            address: call.address,
            owner: thread.lock.as_ref().and_then(|lock| lock.named_owner),
        })
    });
    let shared: Vec<Word> = shared.collect();
    if shared.is_empty() {
        return Words::default();
    }
    find_words(target, &shared, time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_time_a_process_is_left_out_and_named() {
        let options = CaptureOptions {
            time: TimeBudget::new(Duration::ZERO),
            ..CaptureOptions::default()
        };
        let target = Target::open(Pid::own()).unwrap();
        let process = capture(target, options).process;
        assert_eq!(process.memory, MemoryOutcome::TimedOut);
        assert_eq!(
            process.errors,
            [why_unread(DeadlineError::TimedOut(Duration::ZERO))]
        );
        // What the kernel says of its threads costs next to nothing.
        assert!(!process.threads.is_empty());
    }

    #[test]
    fn only_what_took_too_long_is_the_targets_fault() {
        let text = why_unread(DeadlineError::TimedOut(Duration::from_secs(1)));
        assert!(text.contains("mmap_lock"), "{text}");
        let text = why_unread(DeadlineError::NoThread);
        assert!(
            text.contains("no thread could be started") && !text.contains("mmap_lock"),
            "{text}"
        );
    }
}
