//! Who can end the waits on locks: what one thread waits for, compared with what the frames of all others hold.

use rustc_hash::{FxHashMap, FxHashSet};

use super::view::{LockHolder, PythonThread, ResolvedWait};
use crate::model::{Address, Consistency, Gil, HolderConfidence, WaitKind};
use crate::python::locks::{
    LockWait, Owner, Sleeper, condition_lock, find_wait, future_of, lock_of,
};
use crate::python::object::ObjectReader;
use crate::python::runtime::ThreadState;
use crate::python::thread_ids::{is_shown_ended, native_ids};

/// Most objects whose attributes are looked through.
const MAX_SELVES: usize = 4096;
/// Most others that are named for one wait.
const MAX_HOLDERS: usize = 64;

/// Finds out what each thread waits for that sleeps on a futex which is not the GIL's; gives the waits for locks, each with its thread's place.
pub fn resolve_waits(
    reader: ObjectReader<'_>,
    threads: &mut [PythonThread],
    tids: &[i32],
) -> Vec<(usize, LockWait)> {
    let mut found: Vec<(usize, LockWait)> = Vec::new();
    let mut unknown = Vec::new();
    for (index, thread) in threads.iter().enumerate() {
        let (Some(futex), Some(values)) = (thread.futex, &thread.values) else {
            continue;
        };
        if thread.gil == Gil::Waiting || thread.consistency != Consistency::Exact {
            continue;
        }
        let sleeper = Sleeper {
            futex,
            frames: &thread.frames,
            values,
        };
        match find_wait(reader, sleeper) {
            Some(wait) => found.push((index, wait)),
            None => unknown.push(index),
        }
    }
    for index in unknown {
        threads[index].lock = resolve_mutex(reader, threads, index, tids);
    }
    if found.is_empty() {
        return found;
    }
    let crowd = Crowd::look(reader, threads, &found, tids);
    let resolved: Vec<_> = found
        .iter()
        .map(|(index, wait)| (*index, crowd.resolve(*index, wait)))
        .collect();
    for (index, mut wait) in resolved {
        if wait.timeout.is_none() {
            let call = threads[index].futex_call;
            wait.timeout = call.and_then(|call| call.total(reader.memory));
            wait.remaining = call.and_then(|call| call.remaining(reader.memory));
            let is_end_known = wait.timeout.or(wait.remaining).is_some();
            // Without the call it could have an end too.
            if !is_end_known && call.is_none_or(|call| call.has_end()) {
                wait.missing = wait.missing.or(Some("when it gives up"));
            }
        }
        threads[index].lock = Some(wait);
    }
    found
}

/// A wait for a mutex of the C library, or another that is no lock of Python's.
///
/// That the owner holds it is `proven` where the word names it and lies in memory that no other process has: the call is private, as
/// here, or the mapping is (`merge::tell_word`). A mutex is released by its owner only, whatever the owner waits for.
fn resolve_mutex(
    reader: ObjectReader<'_>,
    threads: &[PythonThread],
    waiter: usize,
    tids: &[i32],
) -> Option<ResolvedWait> {
    let call = threads[waiter].futex_call?;
    let (timeout, remaining) = (call.total(reader.memory), call.remaining(reader.memory));
    let is_end_known = timeout.or(remaining).is_some();
    let resolved = |kind, type_name: &str, holders, named_owner| ResolvedWait {
        kind,
        type_name: type_name.to_owned(),
        object: Some(call.address),
        name: None,
        timeout,
        remaining,
        holders,
        missing: (!is_end_known && call.has_end()).then_some("when it gives up"),
        named_owner,
        reach: None,
    };
    let owner = call.mutex_owner(reader.memory).ok().flatten();
    if call.is_shared() && owner.is_some() {
        let kind = WaitKind::PthreadMutex;
        return Some(resolved(kind, "pthread_mutex_t", Vec::new(), owner));
    }
    // A number that is no thread's is believed only where a fork has left just one.
    let owner = owner.filter(|owner| tids.contains(owner) || tids.len() == 1);
    if let Some(owner) = owner.filter(|owner| *owner != threads[waiter].innermost_tid) {
        let known = threads.iter().find(|thread| thread.innermost_tid == owner);
        let holder = LockHolder {
            innermost_tid: tids.contains(&owner).then_some(owner),
            name: known.and_then(|thread| thread.name.clone()),
            confidence: HolderConfidence::Proven,
        };
        return Some(resolved(
            WaitKind::PthreadMutex,
            "pthread_mutex_t",
            vec![holder],
            Some(owner),
        ));
    }
    Some(resolved(WaitKind::Futex, "futex", Vec::new(), None))
}

/// All threads, and what was found about them once for all waits.
struct Crowd<'a> {
    reader: ObjectReader<'a>,
    threads: &'a [PythonThread],
    /// Which lock each thread waits for, by its place in `threads`.
    waits: FxHashMap<usize, Address>,
    /// Which threads are inside `with` on each lock.
    inside: FxHashMap<Address, Vec<usize>>,
    /// Which threads have each of the other locks in a variable.
    at_hand: FxHashMap<Address, Vec<usize>>,
    tids: &'a [i32],
}

impl<'a> Crowd<'a> {
    fn look(
        reader: ObjectReader<'a>,
        threads: &'a [PythonThread],
        found: &[(usize, LockWait)],
        tids: &'a [i32],
    ) -> Self {
        let mut inside: FxHashMap<Address, Vec<usize>> = FxHashMap::default();
        let mut locks: FxHashMap<Address, Option<Address>> = FxHashMap::default();
        for (index, thread) in threads.iter().enumerate() {
            let Some(values) = &thread.values else {
                continue;
            };
            // Inside `with condition`, whoever waits for it has given its lock up.
            let given_up = condition_lock(reader, &thread.frames, values);
            let managers = values.frames.iter().flat_map(|frame| &frame.managers);
            for manager in managers {
                let lock = *locks
                    .entry(*manager)
                    .or_insert_with(|| lock_of(reader, *manager));
                if let Some(lock) = lock.filter(|lock| Some(*lock) != given_up) {
                    let holders = inside.entry(lock).or_default();
                    if holders.last() != Some(&index) {
                        holders.push(index);
                    }
                }
            }
        }
        let waits = found.iter().filter_map(|(index, wait)| match wait.owner {
            Owner::Lock(lock) => Some((*index, lock)),
            _ => None,
        });
        let waits: FxHashMap<usize, Address> = waits.collect();
        let open = waits.values().filter(|lock| !inside.contains_key(lock));
        let at_hand = look_for(reader, threads, &open.copied().collect());
        Crowd {
            reader,
            threads,
            waits,
            inside,
            at_hand,
            tids,
        }
    }

    fn resolve(&self, waiter: usize, wait: &LockWait) -> ResolvedWait {
        let (mut holders, missing) = match wait.owner {
            Owner::Unknown => (Vec::new(), None),
            Owner::Thread(id) => self.named(id, HolderConfidence::Proven),
            Owner::LikelyThread(id) => self.named(id, HolderConfidence::Inferred),
            Owner::Future(future) => (self.runners(waiter, future), None),
            Owner::Lock(lock) => self.holders_of(waiter, lock),
        };
        holders.truncate(MAX_HOLDERS);
        ResolvedWait {
            kind: wait.kind,
            type_name: wait.type_name.clone(),
            object: wait.object,
            name: wait.name.clone(),
            timeout: wait.timeout,
            remaining: None,
            holders,
            missing,
            named_owner: None,
            reach: None,
        }
    }

    fn holder(&self, index: usize, confidence: HolderConfidence) -> LockHolder {
        let thread = &self.threads[index];
        LockHolder {
            innermost_tid: Some(thread.innermost_tid),
            name: thread.name.clone(),
            confidence,
        }
    }

    /// The thread that an object names by its `pthread_t`. That it is not there any more has to be shown: one that has left Python may still
    /// run, and take up again what it holds.
    fn named(
        &self,
        thread_id: u64,
        confidence: HolderConfidence,
    ) -> (Vec<LockHolder>, Option<&'static str>) {
        let known = self
            .threads
            .iter()
            .position(|thread| thread.thread_id == thread_id);
        if let Some(index) = known {
            return (vec![self.holder(index, confidence)], None);
        }
        let state = ThreadState {
            address: Address(1),
            interpreter: Address::NULL,
            thread_id,
            native_thread_id: None,
        };
        let memory = self.reader.memory;
        let ids = native_ids(memory, &[state], self.tids);
        let innermost_tid = ids.get(&state.address).copied();
        let living: Vec<(u64, i32)> = self
            .threads
            .iter()
            .map(|thread| (thread.thread_id, thread.innermost_tid))
            .collect();
        if innermost_tid.is_none() && !is_shown_ended(memory, &living, thread_id, self.tids) {
            let why =
                "who holds it: a thread that Python does not know any more, and that may be there";
            return (Vec::new(), Some(why));
        }
        let holder = LockHolder {
            innermost_tid,
            name: None,
            confidence,
        };
        (vec![holder], None)
    }

    /// The worker that runs a future.
    fn runners(&self, waiter: usize, future: Address) -> Vec<LockHolder> {
        let runs = |index: &usize| {
            let thread = &self.threads[*index];
            let Some(values) = &thread.values else {
                return false;
            };
            let count = thread.frames.len().min(values.frames.len());
            (0..count).any(|at| future_of(self.reader, &thread.frames, values, at) == Some(future))
        };
        (0..self.threads.len())
            .filter(|index| *index != waiter)
            .filter(runs)
            .map(|index| self.holder(index, HolderConfidence::Possible))
            .collect()
    }

    /// Who has taken a plain lock: it does not say.
    fn holders_of(&self, waiter: usize, lock: Address) -> (Vec<LockHolder>, Option<&'static str>) {
        if let Some(inside) = self.inside.get(&lock) {
            let confidence = match inside.len() {
                1 => HolderConfidence::Inferred,
                _ => HolderConfidence::Possible,
            };
            let holders = inside.iter().map(|index| self.holder(*index, confidence));
            return (holders.collect(), None);
        }
        let at_hand = self.at_hand.get(&lock).into_iter().flatten();
        let possible: Vec<_> = at_hand
            .filter(|index| **index != waiter && self.waits.get(index) != Some(&lock))
            .map(|index| self.holder(*index, HolderConfidence::Possible))
            .collect();
        let missing = if self.tids.len() == 1 {
            "who holds it: the process has no other thread, so that this one took it before, or one that did was not copied by a fork"
        } else if possible.is_empty() {
            "who holds it: no thread is inside a `with` on it, or has it in a local variable or an attribute of one"
        } else {
            "who holds it: no thread is inside a `with` on it; those that are named have it in a variable"
        };
        (possible, Some(missing))
    }
}

/// Which threads have each of these locks in a local variable of their frames, or in an attribute of their frames' first one.
fn look_for(
    reader: ObjectReader<'_>,
    threads: &[PythonThread],
    locks: &FxHashSet<Address>,
) -> FxHashMap<Address, Vec<usize>> {
    let mut at_hand: FxHashMap<Address, Vec<usize>> = FxHashMap::default();
    if locks.is_empty() {
        return at_hand;
    }
    let mut selves: FxHashMap<Address, Vec<Address>> = FxHashMap::default();
    for (index, thread) in threads.iter().enumerate() {
        let frames = thread.values.iter().flat_map(|values| &values.frames);
        for locals in frames.map(|frame| &frame.locals) {
            let mut seen: Vec<Address> = locals.iter().copied().collect();
            if let Some(first) = locals.first().filter(|first| !first.is_null())
                && (selves.len() < MAX_SELVES || selves.contains_key(first))
            {
                let inside = selves.entry(*first).or_insert_with(|| {
                    let attributes = reader.attributes(*first).unwrap_or_default();
                    let values = attributes.iter().map(|entry| entry.value.untagged());
                    values.filter(|value| locks.contains(value)).collect()
                });
                seen.extend_from_slice(inside);
            }
            for lock in seen.into_iter().filter(|object| locks.contains(object)) {
                let holders = at_hand.entry(lock).or_default();
                if holders.last() != Some(&index) {
                    holders.push(index);
                }
            }
        }
    }
    at_hand
}
