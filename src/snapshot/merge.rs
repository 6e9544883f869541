//! One thread as the kernel sees it and as Python does, put together: which wait it is in, and who could end it.

use std::time::Duration;

use rustc_hash::FxHashMap;

use super::facts::{OsFacts, ThreadFacts};
use super::view::{News, ObjectReach, PythonThread, ResolvedWait};
use crate::model::{
    Address, CallSite, Consistency, FrameKind, Gil, Holder, HolderConfidence, Reach, Resource,
    Since, SinceSource, ThreadSnapshot, Tid, Wait, WaitKind,
};
use crate::target::sharers::{SharedWord, WordMemory};
use crate::target::tasks::Syscall;
use crate::wait::{ThreadView, WaitContext, classify};

/// Forked, but has not replaced its program (`include/linux/sched.h`, Linux 6.18).
const PF_FORKNOEXEC: u64 = 0x40;

/// The kernel's view of all threads with Python's view of those that it knows.
pub fn merge_all(
    context: &WaitContext<'_>,
    facts: &OsFacts,
    python: Vec<PythonThread>,
    words: &Words,
) -> Vec<ThreadSnapshot> {
    let mut by_tid: FxHashMap<i32, Vec<PythonThread>> = FxHashMap::default();
    for thread in python {
        by_tid.entry(thread.innermost_tid).or_default().push(thread);
    }
    let mut threads = Vec::new();
    let others = Others {
        gil_holders: gil_holders(facts, &by_tid),
        words,
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
    words: &'a Words,
    /// Whether the process was made by a fork, still runs the same program, and has one thread only.
    is_forked_alone: bool,
}

/// What futex words lie in that processes may share, by their address.
pub type Words = FxHashMap<Address, WordMemory>;

/// Adds of a wait on a futex who can release it beside the threads of its process, as far as the memory that the word lies in tells.
///
/// Only of a word in private memory it can be said that nobody else releases it. One that others can map may be released by whoever
/// maps it, or will: a mutex by its owner, which the word names, in whichever process that is. It is `proven` to be a thread if that
/// is the only one with this number, in its own pid namespace, among all processes that map the word, and no process that did not show
/// whether it does has such a thread; of several each is `possible`, and so are all processes that map a word which names nobody.
fn tell_word(facts: &OsFacts, wait: &mut Wait, python: &PythonThread, others: &Others<'_>) {
    let Some(lock) = &python.lock else {
        return;
    };
    let call = python.futex_call;
    let word = call.and_then(|call| others.words.get(&call.address));
    let is_private = match word {
        Some(WordMemory::Shared(shared)) if shared.is_semaphore => {
            tell_semaphore(wait, shared);
            return;
        }
        _ if !matches!(wait.kind, WaitKind::Futex | WaitKind::PthreadMutex) => return,
        Some(WordMemory::Shared(shared)) => {
            tell_shared_word(facts, wait, lock.named_owner, shared);
            false
        }
        Some(WordMemory::Private) => true,
        None => call.is_some_and(|call| !call.is_shared()),
    };
    let resource = wait.resource.get_or_insert_default();
    match word {
        None if !is_private => {
            let why = "which memory the futex lies in, and so who can release it: the mappings of the process were not read";
            wait.missing.push(why.to_owned());
        }
        _ => resource.is_shared = Some(!is_private),
    }
    let is_shared_call = call.is_some_and(|call| call.is_shared());
    if is_private && is_shared_call {
        tell_own_owner(facts, wait, python, lock.named_owner);
    }
}

/// The owner of a mutex in private memory for which a call is made that allows for others, as for every robust one.
fn tell_own_owner(
    facts: &OsFacts,
    wait: &mut Wait,
    python: &PythonThread,
    named_owner: Option<i32>,
) {
    let Some(owner) = named_owner.filter(|owner| *owner != python.innermost_tid) else {
        wait.kind = WaitKind::Futex;
        return;
    };
    let mut threads = facts.threads.iter();
    let thread = threads.find(|thread| thread.task.innermost_tid == owner);
    // A number that is no thread's is believed only where a fork has left just one.
    let is_alone = facts.threads.len() == 1 && facts.unread.is_empty();
    if thread.is_none() && !is_alone {
        return;
    }
    wait.holder = Some(Holder {
        pid: facts.pid,
        tid: thread.map(|thread| thread.task.tid),
        thread: None,
        title: None,
        confidence: HolderConfidence::Proven,
        is_gone: thread.is_none(),
    });
}

/// Adds who can release a word that other processes can map too.
fn tell_shared_word(
    facts: &OsFacts,
    wait: &mut Wait,
    named_owner: Option<i32>,
    shared: &SharedWord,
) {
    let resource = wait.resource.get_or_insert_default();
    resource.path = Some(shared.name.clone());
    let holder = |pid, tid, title: Option<&String>| Holder {
        pid,
        tid,
        thread: None,
        title: title.cloned(),
        confidence: HolderConfidence::Possible,
        is_gone: false,
    };
    let is_it = |tid: i32| named_owner == Some(tid);
    let own = facts
        .threads
        .iter()
        .filter(|thread| is_it(thread.task.innermost_tid));
    let mut holders: Vec<Holder> = own
        .map(|thread| holder(facts.pid, Some(thread.task.tid), None))
        .collect();
    for sharer in &shared.sharers {
        let owners = sharer.owners.iter();
        holders.extend(owners.map(|tid| holder(sharer.pid, Some(*tid), sharer.title.as_ref())));
    }
    if let [only] = &mut holders[..] {
        only.confidence = match shared.rivals == 0 && facts.unread.is_empty() {
            true => HolderConfidence::Proven,
            false => HolderConfidence::Inferred,
        };
    } else if holders.is_empty() {
        if let Some(owner) = named_owner {
            wait.missing.push(format!(
                "who holds it: thread {owner} does, in the number of its own pid namespace, and is in no process that was seen to map {}",
                shared.name
            ));
        }
        let all = shared.sharers.iter();
        holders.extend(all.map(|sharer| holder(sharer.pid, None, sharer.title.as_ref())));
    }
    if holders
        .iter()
        .all(|holder| holder.confidence != HolderConfidence::Proven)
    {
        note_unasked(wait, shared);
    }
    let mut holders = holders.into_iter();
    wait.holder = holders.next();
    wait.other_holders = holders.collect();
}

fn note_unasked(wait: &mut Wait, shared: &SharedWord) {
    if shared.unasked > 0 {
        wait.missing.push(format!(
            "{} processes did not show whether they map it",
            shared.unasked
        ));
    }
}

/// Adds a shared semaphore's name, and who else could release it.
fn tell_semaphore(wait: &mut Wait, semaphore: &SharedWord) {
    wait.kind = WaitKind::SharedSemaphore;
    let resource = wait.resource.get_or_insert_default();
    resource.name = Some(semaphore.name.clone());
    if resource.kind == "futex" {
        "sem_t".clone_into(&mut resource.kind);
    }
    let sharers = semaphore.sharers.iter().map(|sharer| Holder {
        pid: sharer.pid,
        tid: None,
        thread: None,
        title: sharer.title.clone(),
        confidence: HolderConfidence::Possible,
        is_gone: false,
    });
    wait.other_holders.extend(sharers);
    note_unasked(wait, semaphore);
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
    tell_word(facts, wait, python, others);
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
    wait.reach = lock.reach.as_ref().map(|reach| tell_reach(facts, reach));
}

/// The same by the kernel's numbers of threads.
fn tell_reach(facts: &OsFacts, reach: &ObjectReach) -> Reach {
    let tid_of = |innermost: &i32| {
        let mut threads = facts.threads.iter();
        let thread = threads.find(|thread| thread.task.innermost_tid == *innermost);
        thread.map(|thread| thread.task.tid)
    };
    let threads: Vec<Tid> = reach.innermost_tids.iter().filter_map(tid_of).collect();
    Reach {
        is_closed: reach.is_closed && threads.len() == reach.innermost_tids.len(),
        is_global: reach.is_global,
        is_cut: reach.is_cut,
        references: reach.counted,
        found: reach.found,
        threads,
    }
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
        let mut calls = python.frames.iter();
        let call = calls.find(|frame| frame.kind == FrameKind::Python);
        wait.call = call.map(|call| CallSite::from(&**call));
    }
    thread.name = python.name;
    thread.gil = python.gil;
    thread.interpreter = Some(python.interpreter);
    thread.consistency = python.consistency;
    thread.frames = python.frames;
    thread.event_loop = python.event_loop;
    thread.blocked_hub = python.blocked_hub;
    thread.exception = python.exception;
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
        exception: None,
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
