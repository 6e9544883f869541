//! Functions of the standard library that wait by means of others further in, as data; and whether a frame runs one.

use std::sync::Arc;

use super::eval_stack::StackValues;
use super::object::ObjectReader;
use crate::model::{Address, Frame, WaitKind};

/// Most classes that a class is derived from in a line.
const MAX_BASES: usize = 64;

/// A function of the library that waits by means of another one further in.
pub(super) struct Rule {
    pub(super) modules: &'static [&'static str],
    /// The class that defines it; empty for a function of the module.
    pub(super) class: &'static str,
    pub(super) functions: &'static [&'static str],
    /// Which of its parameters is the timeout.
    pub(super) timeout: usize,
    pub(super) kind: WaitKind,
    pub(super) subject: Subject,
}

/// What is waited on, by the parameters of the function.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    /// `self`, of this module, with one of these names of classes; the first is for derived ones.
    Own(&'static str, &'static [&'static str]),
    /// `self` is a thread.
    Thread,
    /// `self` is a future.
    Future,
    /// Several objects of this type.
    Several(&'static str),
    /// As the function further in has it.
    Inner,
}

pub(super) const THREADING: &[&str] = &["threading"];
const POOL: &[&str] = &["multiprocessing.pool"];
const FUTURES: &[&str] = &["concurrent.futures._base"];

pub(super) const fn rule(
    modules: &'static [&'static str],
    class: &'static str,
    functions: &'static [&'static str],
    timeout: usize,
    kind: WaitKind,
    subject: Subject,
) -> Rule {
    Rule {
        modules,
        class,
        functions,
        timeout,
        kind,
        subject,
    }
}

/// The innermost function of nearly all waits.
pub(super) const WAIT_FOR_CONDITION: Rule = rule(
    THREADING,
    "Condition",
    &["wait"],
    1,
    WaitKind::Condition,
    Subject::Own("threading", &["Condition"]),
);

/// `Lib/threading.py`, `Lib/queue.py` (`Queue.py` in 2.7), `Lib/concurrent/futures/_base.py`, `Lib/multiprocessing/pool.py`, 2.7 and
/// 3.6-3.15.
pub(super) const RULES: &[Rule] = &[
    WAIT_FOR_CONDITION,
    rule(
        THREADING,
        "Condition",
        &["wait_for"],
        2,
        WaitKind::Condition,
        Subject::Inner,
    ),
    rule(
        THREADING,
        "Event",
        &["wait"],
        1,
        WaitKind::Condition,
        Subject::Own("threading", &["Event"]),
    ),
    rule(
        THREADING,
        "Semaphore",
        &["acquire"],
        2,
        WaitKind::Semaphore,
        Subject::Own("threading", &["Semaphore", "BoundedSemaphore"]),
    ),
    rule(
        THREADING,
        "Barrier",
        &["wait"],
        1,
        WaitKind::Condition,
        Subject::Own("threading", &["Barrier"]),
    ),
    rule(
        THREADING,
        "Barrier",
        &["_wait"],
        1,
        WaitKind::Condition,
        Subject::Own("threading", &["Barrier"]),
    ),
    rule(
        THREADING,
        "Barrier",
        &["_enter"],
        usize::MAX,
        WaitKind::Condition,
        Subject::Own("threading", &["Barrier"]),
    ),
    rule(
        THREADING,
        "Thread",
        &["join"],
        1,
        WaitKind::Condition,
        Subject::Thread,
    ),
    rule(
        THREADING,
        "Thread",
        &["start", "_wait_for_tstate_lock"],
        usize::MAX,
        WaitKind::Condition,
        Subject::Thread,
    ),
    rule(
        &["queue", "Queue"],
        "Queue",
        &["get"],
        2,
        WaitKind::Condition,
        Subject::Own("queue", &["Queue", "LifoQueue", "PriorityQueue"]),
    ),
    rule(
        &["queue", "Queue"],
        "Queue",
        &["put"],
        3,
        WaitKind::Condition,
        Subject::Own("queue", &["Queue", "LifoQueue", "PriorityQueue"]),
    ),
    rule(
        &["queue", "Queue"],
        "Queue",
        &["join"],
        usize::MAX,
        WaitKind::Condition,
        Subject::Own("queue", &["Queue", "LifoQueue", "PriorityQueue"]),
    ),
    rule(
        FUTURES,
        "Future",
        &["result", "exception"],
        1,
        WaitKind::Condition,
        Subject::Future,
    ),
    rule(
        THREADING,
        "",
        &["_shutdown"],
        usize::MAX,
        WaitKind::Condition,
        Subject::Several("threading.Thread"),
    ),
    rule(
        FUTURES,
        "",
        &["wait", "as_completed"],
        1,
        WaitKind::Condition,
        Subject::Several("concurrent.futures._base.Future"),
    ),
    rule(
        POOL,
        "ApplyResult",
        &["wait", "get"],
        1,
        WaitKind::Condition,
        Subject::Own(
            "multiprocessing.pool",
            &["ApplyResult", "MapResult", "AsyncResult"],
        ),
    ),
    rule(
        POOL,
        "IMapIterator",
        &["next"],
        1,
        WaitKind::Condition,
        Subject::Own(
            "multiprocessing.pool",
            &["IMapIterator", "IMapUnorderedIterator"],
        ),
    ),
];

/// A local variable of a frame, if it has a value.
pub(super) fn local(values: &StackValues, frame: usize, index: usize) -> Option<Address> {
    let local = values.frames.get(frame)?.locals.get(index)?;
    (!local.is_null()).then_some(*local)
}

/// Whether frame `index` runs a function that the rule is about.
pub(super) fn is_call_of(
    reader: ObjectReader<'_>,
    rule: &Rule,
    frames: &[Arc<Frame>],
    values: &StackValues,
    index: usize,
) -> bool {
    let Some(frame) = frames.get(index) else {
        return false;
    };
    let is_module = frame
        .module
        .as_deref()
        .is_some_and(|module| rule.modules.contains(&module));
    if !is_module {
        return false;
    }
    if rule.class.is_empty() {
        return rule.functions.contains(&&*frame.function);
    }
    if reader.layout.code.qualname.is_some() {
        return frame
            .function
            .split_once('.')
            .is_some_and(|(class, function)| {
                class.trim_start_matches('_') == rule.class.trim_start_matches('_')
                    && rule.functions.contains(&function)
            });
    }
    // Where an inner function uses `self`, as in `Barrier._wait`, it is in a cell: then the name has to do.
    rule.functions.contains(&&*frame.function)
        && local(values, index, 0).is_none_or(|object| is_instance(reader, object, rule.class))
}

/// Whether the object's class, or one that it is derived from, has this name; in 2.7 with an underscore before it, too. Instances
/// of 2.7's classes of the old kind do not tell their class here.
pub(super) fn is_instance(reader: ObjectReader<'_>, object: Address, class: &str) -> bool {
    let Ok(mut at) = reader.type_of(object) else {
        return false;
    };
    let class = class.trim_start_matches('_');
    for _ in 0..MAX_BASES {
        let Ok(name) = reader.type_name(at) else {
            return false;
        };
        if name.trim_start_matches('_') == class || name == "instance" {
            return true;
        }
        match reader.field(at, reader.layout.values.type_base) {
            Ok(base) if !base.is_null() => at = base,
            _ => return false,
        }
    }
    false
}
