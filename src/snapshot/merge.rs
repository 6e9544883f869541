//! One thread as the kernel sees it and as Python does, put together: which wait it is in, and who could end it.

use std::time::Duration;

use rustc_hash::FxHashMap;

use super::facts::{OsFacts, ThreadFacts};
use super::view::{News, PythonThread, ResolvedWait};
use crate::model::{
    Address, Consistency, Gil, Holder, HolderConfidence, Resource, Since, SinceSource,
    ThreadSnapshot, Wait, WaitKind,
};
use crate::target::sharers::SharedSemaphore;
use crate::target::tasks::Syscall;
use crate::wait::{ThreadView, WaitContext, classify};

/// Forked, but has not replaced its program (`include/linux/sched.h`, Linux 6.18).
const PF_FORKNOEXEC: u64 = 0x40;

/// The kernel's view of all threads with Python's view of those that it knows.
pub fn merge_all(
    context: &WaitContext<'_>,
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
        is_forked_alone: context.sockets.target().stat().flags & PF_FORKNOEXEC != 0
            && facts.threads.len() == 1
            && facts.unread.is_empty(),
    };
    for thread in &facts.threads {
        let python = by_tid
            .remove(&thread.task.innermost_tid)
            .unwrap_or_default();
        if python.is_empty() {
            threads.push(merge_native(context, facts, thread));
        }
        // A thread inside several interpreters: the newest, which is the innermost, first.
        threads.extend(
            python
                .into_iter()
                .rev()
                .map(|python| merge(context, facts, thread, python, &others)),
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
pub type Semaphores = FxHashMap<Address, SharedSemaphore>;

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
    if semaphore.unasked > 0 {
        wait.missing.push(format!(
            "{} processes did not show in time whether they map it",
            semaphore.unasked
        ));
    }
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
            // It can be one of those that could not be read.
            is_gone: holder.innermost_tid.is_none() && facts.unread.is_empty(),
        }
    });
    wait.holder = holders.next();
    wait.other_holders = holders.collect();
}

/// A thread that Python does not know: its facts are compared with its stamp now, as reading a stack does.
fn merge_native(
    context: &WaitContext<'_>,
    process: &OsFacts,
    facts: &ThreadFacts,
) -> ThreadSnapshot {
    let mut thread = describe_thread(context, facts);
    let before = facts.task.stamp_before();
    if let Ok(after) = facts.files.stamp_after(before)
        && after != before
        && let Ok(now) = facts.files.stamp_before()
    {
        let news = News {
            state: now.state,
            syscall: None,
        };
        tell_news(context, process, &mut thread, &news);
    }
    thread
}

fn merge(
    context: &WaitContext<'_>,
    process: &OsFacts,
    facts: &ThreadFacts,
    python: PythonThread,
    others: &Others<'_>,
) -> ThreadSnapshot {
    let mut thread = describe_thread(context, facts);
    if let Some(news) = &python.news {
        tell_news(context, process, &mut thread, news);
    }
    if let Some(wait) = &mut thread.wait {
        tell_lock(process, wait, &python, others);
    }
    thread.name = python.name;
    thread.gil = python.gil;
    thread.interpreter = Some(python.interpreter);
    thread.consistency = python.consistency;
    thread.frames = python.frames;
    thread.event_loop = python.event_loop;
    thread.blocked_hub = python.blocked_hub;
    thread
}

fn describe_thread(context: &WaitContext<'_>, facts: &ThreadFacts) -> ThreadSnapshot {
    ThreadSnapshot {
        tid: facts.task.tid,
        name: None,
        comm: String::from_utf8_lossy(&facts.task.comm).into_owned(),
        state: facts.task.state,
        off_cpu: facts.off_cpu,
        counts: Some(facts.task.counts),
        gil: Gil::None,
        interpreter: None,
        consistency: Consistency::Exact,
        frames: Vec::new(),
        event_loop: None,
        blocked_hub: None,
        wait: classify(
            context,
            ThreadView {
                tid: facts.task.tid,
                state: facts.task.state,
                syscall: facts.syscall.as_ref(),
                since: facts.off_cpu,
            },
        ),
        progress: None,
        verdict: None,
    }
}

/// The thread has moved on: since when it does not run, and what for, is of a moment that has passed.
fn tell_news(
    context: &WaitContext<'_>,
    process: &OsFacts,
    thread: &mut ThreadSnapshot,
    news: &News,
) {
    thread.state = news.state;
    thread.off_cpu = (!news.state.is_runnable()).then(|| Since {
        elapsed: Duration::ZERO,
        error: process.read_at.elapsed(),
        source: SinceSource::Observed,
    });
    let sight = ThreadView {
        tid: thread.tid,
        state: news.state,
        // It was not asked for, which is another thing than a refusal.
        syscall: Some(news.syscall.as_ref().unwrap_or(&Syscall::Running)),
        since: thread.off_cpu,
    };
    thread.wait = classify(context, sight);
}
