//! Which object of Python a thread that sleeps on a futex waits for, and whom that object names as its owner.
//!
//! Nothing is taken for it that the futex does not prove: up to 3.12 a lock points to the semaphore that is slept on; from 3.13 on a
//! sleeper's own record (`struct wait_entry`) says which lock it waits for. What the lock is *for* is told by the frames.

use std::sync::Arc;
use std::time::Duration;

use super::eval_stack::StackValues;
use super::lock_rules::{
    RULES, Rule, Subject, THREADING, WAIT_FOR_CONDITION, is_call_of, is_instance, local, rule,
};
use super::object::{ObjectError, ObjectReader, offset};
use crate::model::{Address, Frame, WaitKind};

/// Bytes of a `ThreadHandle`, of which one is waited on (`Modules/_threadmodule.c`, 3.13-3.15: 64 to 96).
const MAX_HANDLE: u64 = 256;
/// Most bytes of a semaphore's name.
const MAX_SEMAPHORE_NAME: usize = 256;

/// A thread that sleeps on a futex.
#[derive(Clone, Copy, Debug)]
pub struct Sleeper<'a> {
    /// The futex word.
    pub futex: Address,
    /// Its frames, innermost first.
    pub frames: &'a [Arc<Frame>],
    /// What they hold.
    pub values: &'a StackValues,
}

/// What a thread waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockWait {
    /// What sort of wait it is.
    pub kind: WaitKind,
    /// The type of the object, with its module as people write it.
    pub type_name: String,
    /// The object, where there is one.
    pub object: Option<Address>,
    /// What of it is slept on: a lock or something like it, to which all that leads that can end the wait; `None` for the end of a thread.
    pub slept_on: Option<Address>,
    /// A name that it has itself.
    pub name: Option<String>,
    /// When the wait ends by itself, from its beginning, as the frames have it.
    pub timeout: Option<Duration>,
    /// Who could end it.
    pub owner: Owner,
}

/// Who could end a wait, as far as the object itself tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// It does not tell.
    Unknown,
    /// The thread with this `pthread_t`, which the object names.
    Thread(u64),
    /// The same, of something that others can release too.
    LikelyThread(u64),
    /// Whoever has taken this lock, which no object says.
    Lock(Address),
    /// Whoever runs this `Future`.
    Future(Address),
}

/// What is waited on, found by its address.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Waited {
    object: Address,
    kind: WaitedKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WaitedKind {
    Lock,
    Rlock,
    SimpleQueue,
    Semaphore,
    Thread,
}

/// What the thread waits for; `None` where its futex proves nothing.
pub fn find_wait(reader: ObjectReader<'_>, sleeper: Sleeper<'_>) -> Option<LockWait> {
    let waited = find_waited(reader, sleeper)?;
    let slept_on = (waited.kind != WaitedKind::Thread).then_some(waited.object);
    let wait = describe_wait(reader, sleeper, &waited)?;
    Some(LockWait { slept_on, ..wait })
}

/// What the thread waits for that sleeps on this object.
fn describe_wait(
    reader: ObjectReader<'_>,
    sleeper: Sleeper<'_>,
    waited: &Waited,
) -> Option<LockWait> {
    let locks = &reader.layout.locks;
    let object = waited.object;
    let plain = |kind, type_name: &str, owner| LockWait {
        kind,
        type_name: type_name.to_owned(),
        object: Some(object),
        slept_on: None,
        name: None,
        timeout: None,
        owner,
    };
    match waited.kind {
        WaitedKind::Rlock => {
            let owner = reader.field(object, locks.owner).ok()?;
            let level = reader.field(object, locks.level).ok()?;
            let is_taken = owner != 0 && (level > 0 || reader.layout.version >= (3, 14));
            let owner = if is_taken {
                Owner::Thread(owner)
            } else {
                Owner::Unknown
            };
            Some(plain(WaitKind::PythonRlock, "threading.RLock", owner))
        }
        WaitedKind::SimpleQueue => Some(plain(
            WaitKind::Condition,
            "queue.SimpleQueue",
            Owner::Unknown,
        )),
        WaitedKind::Semaphore => find_semaphore(reader, sleeper, object),
        WaitedKind::Thread => find_purpose(reader, sleeper),
        WaitedKind::Lock => Some(
            find_import(reader, sleeper)
                .or_else(|| find_python_rlock(reader, sleeper))
                .or_else(|| match is_taken_again(reader, sleeper, object) {
                    true => None,
                    false => find_purpose(reader, sleeper),
                })
                .unwrap_or_else(|| {
                    plain(WaitKind::PythonLock, "threading.Lock", Owner::Lock(object))
                }),
        ),
    }
}

/// The condition that this thread has given up the lock of: it waits in `Condition.wait`.
pub fn condition_lock(
    reader: ObjectReader<'_>,
    frames: &[Arc<Frame>],
    values: &StackValues,
) -> Option<Address> {
    let wait = &WAIT_FOR_CONDITION;
    let index = (0..frames.len().min(values.frames.len()).min(2))
        .find(|index| is_call_of(reader, wait, frames, values, *index))?;
    lock_of(reader, local(values, index, 0)?)
}

/// What is locked by `with object`: the object itself where it is a lock, the lock of a condition; `None` for all else.
pub fn lock_of(reader: ObjectReader<'_>, object: Address) -> Option<Address> {
    let is_lock = |object| {
        let kind = type_name(reader, object).and_then(|name| waited_kind(&name));
        matches!(kind, Some(WaitedKind::Lock | WaitedKind::Rlock))
    };
    if is_lock(object) {
        return Some(object);
    }
    if !is_instance(reader, object, "Condition") {
        return None;
    }
    let held = ["_lock", "_Condition__lock"]
        .into_iter()
        .find_map(|name| reader.attribute(object, name).ok().flatten())?;
    is_lock(held).then_some(held)
}

/// The future that a worker of a `ThreadPoolExecutor` runs, by the frame `index` of it: `Lib/concurrent/futures/thread.py::_WorkItem.run`
/// (3.6-3.15).
pub fn future_of(
    reader: ObjectReader<'_>,
    frames: &[Arc<Frame>],
    values: &StackValues,
    index: usize,
) -> Option<Address> {
    const RULE: Rule = rule(
        &["concurrent.futures.thread"],
        "_WorkItem",
        &["run"],
        usize::MAX,
        WaitKind::Unknown,
        Subject::Inner,
    );
    if !is_call_of(reader, &RULE, frames, values, index) {
        return None;
    }
    let item = local(values, index, 0)?;
    reader.attribute(item, "future").ok().flatten()
}

fn waited_kind(name: &str) -> Option<WaitedKind> {
    match name {
        "_thread.lock" | "thread.lock" => Some(WaitedKind::Lock),
        "_thread.RLock" => Some(WaitedKind::Rlock),
        "_queue.SimpleQueue" => Some(WaitedKind::SimpleQueue),
        "_multiprocessing.SemLock" => Some(WaitedKind::Semaphore),
        "_thread._ThreadHandle" => Some(WaitedKind::Thread),
        _ => None,
    }
}

fn type_name(reader: ObjectReader<'_>, object: Address) -> Option<String> {
    reader.type_name(reader.type_of(object).ok()?).ok()
}

/// The object that the futex belongs to, among those that the innermost frame has at hand.
fn find_waited(reader: ObjectReader<'_>, sleeper: Sleeper<'_>) -> Option<Waited> {
    let futex = sleeper.futex;
    let mutex = reader.layout.locks.mutex;
    // `Python/parking_lot.c::struct wait_entry` (3.13-3.15): `addr` stands before the semaphore that is slept on.
    let parked = match futex.checked_sub(Address(8)) {
        Some(before) if reader.layout.version >= (3, 13) => {
            reader.memory.read_address(Address(before)).ok()
        }
        _ => None,
    };
    let check = |object: Address| {
        let kind = waited_kind(&type_name(reader, object)?)?;
        let inside = offset(object, mutex.offset()).ok()?;
        let pointer = reader.memory.read_address(inside).ok()?;
        let is_it = match kind {
            WaitedKind::Thread => parked.is_some_and(|parked| {
                let distance = parked.checked_sub(pointer);
                distance.is_some_and(|distance| distance < MAX_HANDLE)
            }),
            _ => pointer == futex || parked.is_some_and(|at| at == inside || at == pointer),
        };
        is_it.then_some(Waited { object, kind })
    };
    if let Some(object) = parked.and_then(|parked| parked.checked_sub(Address(mutex.offset())))
        && let Some(waited) = check(Address(object))
    {
        return Some(waited);
    }
    let locals = sleeper.values.frames.first().map(|frame| &frame.locals);
    let at_hand = sleeper.values.innermost.iter().rev();
    at_hand
        .chain(locals.into_iter().flatten())
        .filter(|object| !object.is_null())
        .find_map(|object| check(*object).or_else(|| reader.bound_to(*object).and_then(check)))
}

/// What a wait on an inner lock is for, by the functions of the library that are around it.
fn find_purpose(reader: ObjectReader<'_>, sleeper: Sleeper<'_>) -> Option<LockWait> {
    let (frames, values) = (sleeper.frames, sleeper.values);
    let mut found: Option<LockWait> = None;
    for index in 0..frames.len().min(values.frames.len()) {
        let rule = RULES
            .iter()
            .find(|rule| is_call_of(reader, rule, frames, values, index));
        let Some(rule) = rule else {
            break;
        };
        let timeout =
            local(values, index, rule.timeout).and_then(|object| read_seconds(reader, object));
        let inner = found.take();
        let timeout = timeout.or(inner.as_ref().and_then(|inner| inner.timeout));
        let object = local(values, index, 0);
        let (type_name, object, name, owner) = match rule.subject {
            Subject::Inner => {
                found = inner.map(|inner| LockWait { timeout, ..inner });
                continue;
            }
            Subject::Own(module, classes) => {
                let own = object.and_then(|object| type_name(reader, object));
                let own = own.as_deref().unwrap_or_default().trim_start_matches('_');
                let class = classes.iter().find(|class| **class == own);
                let module = match frames[index].module.as_deref() {
                    Some("Queue") => "Queue",
                    _ => module,
                };
                let class = class.unwrap_or(&classes[0]);
                (format!("{module}.{class}"), object, None, Owner::Unknown)
            }
            Subject::Thread => {
                let (name, owner) = describe_thread(reader, object?);
                ("threading.Thread".to_owned(), object, name, owner)
            }
            Subject::Future => {
                let owner = object.map_or(Owner::Unknown, Owner::Future);
                let name = "concurrent.futures._base.Future".to_owned();
                (name, object, None, owner)
            }
            Subject::Several(name) => (name.to_owned(), None, None, Owner::Unknown),
        };
        found = Some(LockWait {
            kind: rule.kind,
            type_name,
            object,
            slept_on: None,
            name,
            timeout,
            owner,
        });
    }
    found
}

/// The name of a `threading.Thread`, and which it is.
fn describe_thread(reader: ObjectReader<'_>, thread: Address) -> (Option<String>, Owner) {
    let attribute = |names: [&str; 2]| {
        let mut names = names.into_iter();
        names.find_map(|name| reader.attribute(thread, name).ok().flatten())
    };
    let name = attribute(["_name", "_Thread__name"]);
    let ident = attribute(["_ident", "_Thread__ident"]).and_then(|id| reader.unsigned(id).ok());
    (
        name.and_then(|name| reader.text(name).ok()),
        ident.map_or(Owner::Unknown, Owner::Thread),
    )
}

/// Whether `lock` is the one that a condition takes again when its wait is over.
fn is_taken_again(reader: ObjectReader<'_>, sleeper: Sleeper<'_>, lock: Address) -> bool {
    condition_lock(reader, sleeper.frames, sleeper.values) == Some(lock)
}

/// The lock of a module that is being imported: `Lib/importlib/_bootstrap.py::_ModuleLock.acquire` (3.6-3.15).
fn find_import(reader: ObjectReader<'_>, sleeper: Sleeper<'_>) -> Option<LockWait> {
    const RULE: Rule = rule(
        &["importlib._bootstrap", "_frozen_importlib"],
        "_ModuleLock",
        &["acquire"],
        usize::MAX,
        WaitKind::ImportLock,
        Subject::Inner,
    );
    if !is_call_of(reader, &RULE, sleeper.frames, sleeper.values, 0) {
        return None;
    }
    let lock = local(sleeper.values, 0, 0)?;
    let attribute = |name| reader.attribute(lock, name).ok().flatten();
    let owner = attribute("owner").and_then(|owner| reader.unsigned(owner).ok());
    Some(LockWait {
        kind: WaitKind::ImportLock,
        type_name: "importlib._bootstrap._ModuleLock".to_owned(),
        object: Some(lock),
        slept_on: None,
        name: attribute("name").and_then(|name| reader.text(name).ok()),
        timeout: None,
        owner: owner.map_or(Owner::Unknown, Owner::Thread),
    })
}

/// A recursive lock that is written in Python: 2.7's only one, and later ones' spare.
fn find_python_rlock(reader: ObjectReader<'_>, sleeper: Sleeper<'_>) -> Option<LockWait> {
    const RULE: Rule = rule(
        THREADING,
        "RLock",
        &["acquire", "_acquire_restore"],
        usize::MAX,
        WaitKind::PythonRlock,
        Subject::Inner,
    );
    if !is_call_of(reader, &RULE, sleeper.frames, sleeper.values, 0) {
        return None;
    }
    let lock = local(sleeper.values, 0, 0)?;
    let owner = ["_owner", "_RLock__owner"]
        .into_iter()
        .find_map(|name| reader.attribute(lock, name).ok().flatten())
        .and_then(|owner| reader.unsigned(owner).ok());
    Some(LockWait {
        kind: WaitKind::PythonRlock,
        type_name: "threading.RLock".to_owned(),
        object: Some(lock),
        slept_on: None,
        name: None,
        timeout: None,
        owner: owner.map_or(Owner::Unknown, Owner::Thread),
    })
}

/// A semaphore of `multiprocessing`: `Modules/_multiprocessing/semaphore.c` (2.7, 3.6-3.15).
fn find_semaphore(
    reader: ObjectReader<'_>,
    sleeper: Sleeper<'_>,
    semaphore: Address,
) -> Option<LockWait> {
    let layout = &reader.layout.locks;
    let count = reader.field(semaphore, layout.count).ok()?;
    let last = reader.field(semaphore, layout.last_tid).ok()?;
    let is_recursive = reader.field(semaphore, layout.kind).ok()? == 0;
    let max_value = reader.field(semaphore, layout.max_value).ok()?;
    let owner = match (count > 0, is_recursive) {
        // A fork copies the count, and what the parent holds seems to be the child's (`Modules/_multiprocessing/semaphore.c`, 2.7, 3.6-3.15: only
        // the children that `multiprocessing` itself starts set it to 0).
        (true, true) => Owner::LikelyThread(last),
        // Of one that several can have the count grows for ever where others give it back, as with the places of a queue.
        (true, false) if max_value == 1 => Owner::LikelyThread(last),
        _ => Owner::Unknown,
    };
    let wrapper = sleeper.frames.first().and_then(|frame| {
        let is_enter = frame.function.rsplit('.').next() == Some("__enter__");
        (is_enter && frame.module.as_deref() == Some("multiprocessing.synchronize"))
            .then(|| local(sleeper.values, 0, 0))?
    });
    let type_name = match wrapper.and_then(|wrapper| type_name(reader, wrapper)) {
        Some(name) => format!("multiprocessing.{}", truncated(&name)),
        None if is_recursive => "multiprocessing.RLock".to_owned(),
        None => "_multiprocessing.SemLock".to_owned(),
    };
    Some(LockWait {
        kind: WaitKind::SharedSemaphore,
        type_name,
        object: Some(semaphore),
        slept_on: None,
        name: None,
        timeout: None,
        owner,
    })
}

fn truncated(name: &str) -> String {
    name.chars().take(MAX_SEMAPHORE_NAME).collect()
}

/// A number of seconds: a `float` or an `int`; negative ones, and what is no number, mean for ever.
fn read_seconds(reader: ObjectReader<'_>, object: Address) -> Option<Duration> {
    match type_name(reader, object)?.as_str() {
        "float" => {
            let bits = reader.field(object, reader.layout.values.float).ok()?;
            let seconds = f64::from_bits(bits);
            return Duration::try_from_secs_f64(seconds).ok();
        }
        "int" | "long" => {}
        _ => return None,
    }
    let seconds: Result<u64, ObjectError> = reader.unsigned(object);
    // A negative one looks like a huge one here.
    let seconds = seconds.ok().filter(|seconds| *seconds < 1 << 62)?;
    Some(Duration::from_secs(seconds))
}
