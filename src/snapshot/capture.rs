//! One process at one instant: the kernel's facts first, then its Python, under a deadline.

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::attach::read_python;
use super::facts::{OsFacts, ThreadFacts};
use super::options::CaptureOptions;
use super::view::{News, PythonThread, PythonView, ResolvedWait};
use crate::model::{
    Address, Consistency, Container, Gil, Holder, HolderConfidence, MemoryOutcome, Pid,
    ProcessSnapshot, Resource, SchedState, Since, SinceSource, ThreadSnapshot, Tid, Wait, WaitKind,
};
use crate::sys::deadline;
use crate::sys::memory::LiveMemory;
use crate::target::Target;
use crate::target::cgroup::find_frozen;
use crate::target::container::find_container;
use crate::target::sharers::{SharedSemaphore, find_semaphores};
use crate::target::sockets::Sockets;
use crate::target::status::Status;
use crate::target::tasks::{Syscall, read_wchan};
use crate::wait::{
    FutexCall, Pointed, Scene, Sight, SinceClock, classify, moves_data, read_pointed,
};

/// How long it may take to find out which the target's cgroup is, and whether it is frozen.
const MAX_CGROUPS: Duration = Duration::from_millis(200);

/// Forked, but has not replaced its program (`include/linux/sched.h`, Linux 6.18).
const PF_FORKNOEXEC: u64 = 0x40;
/// How long the other processes that share a semaphore may be looked for.
const SHARERS_DEADLINE: Duration = Duration::from_millis(500);
/// How often a process that replaces its program while it is read is looked at anew.
const MAX_EXECS: usize = 3;

/// One process at one instant.
#[derive(Debug)]
pub struct Capture {
    /// The process.
    pub process: ProcessSnapshot,
    /// How long its threads were made to stand still, in all.
    pub pause: Duration,
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
                pause: Duration::ZERO,
            }
        }
    }
}

fn capture_once(target: Target, options: CaptureOptions) -> Result<Capture, Target> {
    let target = Arc::new(target);
    let mut clock = SinceClock::new();
    let facts = Arc::new(OsFacts::gather(&target, &mut clock));

    let owned = Arc::clone(&target);
    let command = deadline::run(options.deadline, move || {
        owned.command_line().unwrap_or_default()
    });

    let (owned, owned_facts) = (Arc::clone(&target), Arc::clone(&facts));
    let python = match &command {
        Ok(_) => deadline::run(options.deadline, move || {
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
        Err(error) => process.errors.push(format!(
            "read its memory: {error}; most likely its mmap_lock is held, as during a fault on a dead network file system"
        )),
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
    let (frozen, container) = look_at_cgroups(&target);
    process.container = container;
    let scene = Scene {
        sockets: &sockets,
        pointed,
        tracer: facts.tracer,
        frozen,
        children: OnceCell::new(),
    };
    let semaphores = look_for_semaphores(&target, &view.threads, options.deadline);
    process.threads = merge_all(&scene, &facts, view.threads, &semaphores);
    if target.has_ended() {
        process.state = target
            .read_stat()
            .map_or(SchedState::Dead, |stat| stat.state);
    }
    Ok(Capture {
        process,
        pause: view.pause,
    })
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
fn look_at_cgroups(target: &Arc<Target>) -> (Option<String>, Option<Container>) {
    let target = Arc::clone(target);
    let look = move || (find_frozen(target.proc()), find_container(target.proc()));
    deadline::run(MAX_CGROUPS, look).unwrap_or_default()
}

/// What the calls of all threads point to, of those that were still in the same call afterwards.
fn read_arguments(
    target: &Target,
    facts: &OsFacts,
    view: &PythonView,
) -> FxHashMap<Tid, (Syscall, Pointed)> {
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
        if let Some(pointed) = read_pointed(&memory, syscall)
            && thread.files.read_syscall().ok().as_ref() == Some(syscall)
        {
            all.insert(thread.task.tid, (syscall.clone(), pointed));
        }
    }
    all
}

/// The kernel's view of all threads with Python's view of those that it knows.
fn merge_all(
    scene: &Scene<'_>,
    facts: &OsFacts,
    python: Vec<PythonThread>,
    semaphores: &Semaphores,
) -> Vec<ThreadSnapshot> {
    let mut by_tid: FxHashMap<i32, Vec<PythonThread>> = FxHashMap::default();
    for thread in python {
        by_tid.entry(thread.innermost_tid).or_default().push(thread);
    }
    let mut threads = Vec::new();
    let others = Others {
        gil_holders: gil_holders(facts, &by_tid),
        semaphores,
        is_forked_alone: scene.sockets.target().stat().flags & PF_FORKNOEXEC != 0
            && facts.threads.len() == 1,
    };
    for thread in &facts.threads {
        let python = by_tid
            .remove(&thread.task.innermost_tid)
            .unwrap_or_default();
        if python.is_empty() {
            threads.push(merge_native(scene, facts, thread));
        }
        // A thread inside several interpreters: the newest, which is the innermost, first.
        threads.extend(
            python
                .into_iter()
                .rev()
                .map(|python| merge(scene, facts, thread, python, &others)),
        );
    }
    threads
}

/// What is known beside a thread's own facts of those who could end its wait.
struct Others<'a> {
    /// By the number of the interpreter.
    gil_holders: Vec<(i64, Holder)>,
    semaphores: &'a Semaphores,
    /// Whether the process was made by a fork, still runs the same program, and has one thread only.
    is_forked_alone: bool,
}

/// Semaphores that processes share, by the address of the futex.
type Semaphores = FxHashMap<Address, SharedSemaphore>;

/// Looks at all processes, if a thread sleeps on a futex that processes share.
fn look_for_semaphores(
    target: &Arc<Target>,
    threads: &[PythonThread],
    deadline: Duration,
) -> Semaphores {
    let calls = threads.iter().filter_map(|thread| thread.futex_call);
    let shared: Vec<_> = calls
        .filter(FutexCall::is_shared)
        .map(|call| call.address)
        .collect();
    if shared.is_empty() {
        return Semaphores::default();
    }
    let target = Arc::clone(target);
    // What is not found in time stays unnamed.
    deadline::run(deadline.min(SHARERS_DEADLINE), move || {
        find_semaphores(&target, &shared)
    })
    .unwrap_or_default()
}

/// Adds a shared semaphore's name, and who else could release it.
fn tell_semaphore(wait: &mut Wait, semaphore: &SharedSemaphore) {
    wait.kind = WaitKind::SharedSemaphore;
    let resource = wait.resource.get_or_insert_default();
    resource.name = Some(semaphore.name.clone());
    if resource.kind == "futex" {
        "sem_t".clone_into(&mut resource.kind);
    }
    let sharers = semaphore.sharers.iter().map(|(pid, title)| Holder {
        pid: *pid,
        tid: None,
        thread: None,
        title: title.clone(),
        confidence: HolderConfidence::Possible,
        is_gone: false,
    });
    wait.other_holders.extend(sharers);
    if wait.holder.is_none() && !wait.other_holders.is_empty() {
        wait.holder = Some(wait.other_holders.remove(0));
    }
}

/// Who holds the GIL that each interpreter runs under. Interpreters before 3.12 share one.
fn gil_holders(facts: &OsFacts, by_tid: &FxHashMap<i32, Vec<PythonThread>>) -> Vec<(i64, Holder)> {
    let threads = facts.threads.iter().flat_map(|thread| {
        let python = by_tid.get(&thread.task.innermost_tid);
        python
            .into_iter()
            .flatten()
            .map(move |python| (thread, python))
    });
    let holders = threads.filter(|(_, python)| python.gil == Gil::Held);
    let pid = facts.pid;
    holders
        .map(|(thread, python)| {
            let holder = Holder {
                pid,
                tid: Some(thread.task.tid),
                thread: python.name.clone(),
                title: None,
                confidence: HolderConfidence::Proven,
                is_gone: false,
            };
            (python.interpreter, holder)
        })
        .collect()
}

/// Says of a wait on a futex what it is and who can end it.
fn tell_lock(facts: &OsFacts, wait: &mut Wait, python: &PythonThread, others: &Others<'_>) {
    if wait.kind != WaitKind::Futex {
        return;
    }
    if python.gil == Gil::Waiting {
        wait.kind = WaitKind::Gil;
        let own = |(interpreter, _): &&(i64, Holder)| *interpreter == python.interpreter;
        let holders = others.gil_holders.as_slice();
        let holder = holders.iter().find(own).or(match holders {
            [only] => Some(only),
            _ => None,
        });
        wait.holder = holder.map(|(_, holder)| holder.clone());
        return;
    }
    if let Some(lock) = &python.lock {
        tell_python_lock(facts, wait, lock);
        let is_untold = wait.holder.is_none() && wait.timeout.is_none();
        if others.is_forked_alone && wait.kind == WaitKind::PythonLock && is_untold {
            // A thread of the parent may have had it, which was not copied.
            wait.holder = Some(Holder {
                pid: facts.pid,
                tid: None,
                thread: None,
                title: None,
                confidence: HolderConfidence::Possible,
                is_gone: true,
            });
        }
    }
    let semaphore = python.futex.and_then(|futex| others.semaphores.get(&futex));
    if let Some(semaphore) = semaphore {
        tell_semaphore(wait, semaphore);
    }
}

/// What was found out of a wait on a lock inside of the process.
fn tell_python_lock(facts: &OsFacts, wait: &mut Wait, lock: &ResolvedWait) {
    wait.kind = lock.kind;
    wait.resource = Some(Resource {
        kind: lock.type_name.clone(),
        address: lock.object,
        name: lock.name.clone(),
        ..Resource::default()
    });
    let elapsed = wait.since.map_or(Duration::ZERO, |since| since.elapsed);
    let total = lock
        .remaining
        .map(|remaining| remaining.saturating_add(elapsed));
    wait.timeout = lock.timeout.or(total);
    wait.missing.extend(lock.missing.map(str::to_owned));
    let mut holders = lock.holders.iter().map(|holder| {
        let is_it = |thread: &&ThreadFacts| Some(thread.task.innermost_tid) == holder.innermost_tid;
        Holder {
            pid: facts.pid,
            tid: facts
                .threads
                .iter()
                .find(is_it)
                .map(|thread| thread.task.tid),
            thread: holder.name.clone(),
            title: None,
            confidence: holder.confidence,
            is_gone: holder.innermost_tid.is_none(),
        }
    });
    wait.holder = holders.next();
    wait.other_holders = holders.collect();
}

/// A thread that Python does not know: its facts are compared with its stamp now, as reading a stack does.
fn merge_native(scene: &Scene<'_>, process: &OsFacts, facts: &ThreadFacts) -> ThreadSnapshot {
    let mut thread = describe_thread(scene, facts);
    let before = facts.task.stamp_before();
    if let Ok(after) = facts.files.stamp_after(before)
        && after != before
        && let Ok(now) = facts.files.stamp_before()
    {
        let news = News {
            state: now.state,
            syscall: None,
        };
        tell_news(scene, process, &mut thread, &news);
    }
    thread
}

fn merge(
    scene: &Scene<'_>,
    process: &OsFacts,
    facts: &ThreadFacts,
    python: PythonThread,
    others: &Others<'_>,
) -> ThreadSnapshot {
    let mut thread = describe_thread(scene, facts);
    if let Some(news) = &python.news {
        tell_news(scene, process, &mut thread, news);
    }
    if let Some(wait) = &mut thread.wait {
        tell_lock(process, wait, &python, others);
    }
    thread.name = python.name;
    thread.gil = python.gil;
    thread.interpreter = Some(python.interpreter);
    thread.consistency = python.consistency;
    thread.frames = python.frames;
    thread
}

fn describe_thread(scene: &Scene<'_>, facts: &ThreadFacts) -> ThreadSnapshot {
    ThreadSnapshot {
        tid: facts.task.tid,
        name: None,
        comm: String::from_utf8_lossy(&facts.task.comm).into_owned(),
        state: facts.task.state,
        off_cpu: facts.off_cpu,
        gil: Gil::None,
        interpreter: None,
        consistency: Consistency::Exact,
        frames: Vec::new(),
        wait: classify(
            scene,
            Sight {
                tid: facts.task.tid,
                state: facts.task.state,
                syscall: facts.syscall.as_ref(),
                since: facts.off_cpu,
            },
        ),
        verdict: None,
    }
}

/// The thread has moved on: since when it does not run, and what for, is of a moment that has passed.
fn tell_news(scene: &Scene<'_>, process: &OsFacts, thread: &mut ThreadSnapshot, news: &News) {
    thread.state = news.state;
    thread.off_cpu = (!news.state.is_runnable()).then(|| Since {
        elapsed: Duration::ZERO,
        error: process.read_at.elapsed(),
        source: SinceSource::Observed,
    });
    let sight = Sight {
        tid: thread.tid,
        state: news.state,
        // It was not asked for, which is another thing than a refusal.
        syscall: Some(news.syscall.as_ref().unwrap_or(&Syscall::Running)),
        since: thread.off_cpu,
    };
    thread.wait = classify(scene, sight);
}
