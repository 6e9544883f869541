//! One process at one instant: the kernel's facts first, then its Python, under a deadline.

use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::attach::read_python;
use super::facts::{OsFacts, ThreadFacts};
use super::reader::{News, PythonThread, PythonView};
use crate::model::{
    Consistency, Gil, MemoryOutcome, Pid, ProcessSnapshot, SchedState, Since, SinceSource,
    ThreadSnapshot, Tid,
};
use crate::sys::deadline;
use crate::sys::memory::LiveMemory;
use crate::target::Target;
use crate::target::cgroup::find_frozen;
use crate::target::sockets::Sockets;
use crate::target::tasks::Syscall;
use crate::wait::{Pointed, Scene, Sight, SinceClock, classify, read_pointed};

/// How a process is captured.
#[derive(Clone, Copy, Debug)]
pub struct CaptureOptions {
    /// Whether each thread is stopped while it is read.
    pub is_blocking: bool,
    /// Whether the local variables of frames are read too.
    pub reads_locals: bool,
    /// Whether it is found out which connections came in; it costs milliseconds for each process that has any.
    pub looks_for_listeners: bool,
    /// How long reading its memory may take: it blocks for as long as the target's `mmap_lock` is held.
    pub deadline: Duration,
}

impl Default for CaptureOptions {
    fn default() -> Self {
        CaptureOptions {
            is_blocking: false,
            reads_locals: false,
            looks_for_listeners: false,
            deadline: Duration::from_secs(10),
        }
    }
}

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
    let sockets = Sockets::new(&target, options.looks_for_listeners);
    let scene = Scene {
        sockets: &sockets,
        pointed,
        tracer: facts.tracer,
        frozen: find_frozen(target.proc()),
    };
    process.threads = merge_all(&scene, &facts, view.threads);
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
    ProcessSnapshot {
        pid: target.pid(),
        ppid: target.stat().ppid,
        depth: 0,
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
        tracer: facts.tracer,
        threads: Vec::new(),
        errors: Vec::new(),
    }
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
fn merge_all(scene: &Scene<'_>, facts: &OsFacts, python: Vec<PythonThread>) -> Vec<ThreadSnapshot> {
    let mut by_tid: FxHashMap<i32, Vec<PythonThread>> = FxHashMap::default();
    for thread in python {
        by_tid.entry(thread.innermost_tid).or_default().push(thread);
    }
    let mut threads = Vec::new();
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
                .map(|python| merge(scene, facts, thread, python)),
        );
    }
    threads
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
) -> ThreadSnapshot {
    let mut thread = describe_thread(scene, facts);
    thread.name = python.name;
    thread.gil = python.gil;
    thread.interpreter = Some(python.interpreter);
    thread.consistency = python.consistency;
    thread.frames = python.frames;
    if let Some(news) = &python.news {
        tell_news(scene, process, &mut thread, news);
    }
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
        syscall: news.syscall.as_ref(),
        since: thread.off_cpu,
    };
    thread.wait = classify(scene, sight);
}
