//! Whether a value that was read twice has become another in between, clocks aside, as far as that can be seen.

use crate::model::{Moment, Value};

/// How far a change of a number may be off the time that has passed for the number to be a clock.
const CLOCK_TOLERANCE: f64 = 0.2;
/// The same in seconds, for short times.
const CLOCK_SLACK: f64 = 0.02;
/// How far a clock that a program has read may be off the time of the look, in seconds: it was read some time before.
const CLOCK_ERROR: f64 = 5.0;

/// The moments of two looks.
pub type Times = (Moment, Moment);

/// What is known of a value from one look to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// It is the same, clocks aside.
    Same,
    /// Not all of it was seen, or it says nothing of itself: it may have become another.
    Unknown,
    /// It has become another.
    Changed,
}

/// Whether one value has become another, other than by the passing of time. An object that is made anew in each round is the
/// same if it says the same; one that says nothing of itself may hold anything.
pub fn change(before: &Value, after: &Value, times: Times) -> Change {
    use Change::{Changed, Same, Unknown};
    let differs = |is_other: bool| if is_other { Changed } else { Same };
    let items = |one: &[Value], other: &[Value], first: u64, second: u64| {
        if first != second {
            return Changed;
        }
        let changes = one
            .iter()
            .zip(other)
            .map(|(one, other)| change(one, other, times));
        let seen = changes.max().unwrap_or(Same);
        seen.max(complete(one.len().min(other.len()), first))
    };
    match (before, after) {
        (Value::None, Value::None) => Same,
        (Value::Bool { value: one }, Value::Bool { value: other }) => differs(one != other),
        (Value::Float { text: one }, Value::Float { text: other })
        | (
            Value::Int {
                text: Some(one), ..
            },
            Value::Int {
                text: Some(other), ..
            },
        ) => differs(one != other && !is_clock(one, other, times)),
        (
            Value::Str {
                text: one,
                length: first,
            },
            Value::Str {
                text: other,
                length: second,
            },
        ) => match one != other || first != second {
            true => Changed,
            false => complete(one.chars().count().max(one.len()), *first),
        },
        (
            Value::Bytes {
                text: one,
                length: first,
            },
            Value::Bytes {
                text: other,
                length: second,
            },
        ) => match one != other || first != second {
            true => Changed,
            false => complete(one.len(), *first),
        },
        (
            Value::List {
                items: one,
                length: first,
            },
            Value::List {
                items: other,
                length: second,
            },
        )
        | (
            Value::Tuple {
                items: one,
                length: first,
            },
            Value::Tuple {
                items: other,
                length: second,
            },
        )
        | (
            Value::Set {
                items: one,
                length: first,
            },
            Value::Set {
                items: other,
                length: second,
            },
        )
        | (
            Value::FrozenSet {
                items: one,
                length: first,
            },
            Value::FrozenSet {
                items: other,
                length: second,
            },
        ) => items(one, other, *first, *second),
        (
            Value::Dict {
                entries: one,
                length: first,
            },
            Value::Dict {
                entries: other,
                length: second,
            },
        ) => {
            if first != second {
                return Changed;
            }
            let changes = one.iter().zip(other).map(|(one, other)| {
                let keys = change(&one.key, &other.key, times);
                keys.max(change(&one.value, &other.value, times))
            });
            let seen = changes.max().unwrap_or(Same);
            seen.max(complete(one.len().min(other.len()), *first))
        }
        (Value::Object { type_name, .. }, Value::Object { .. }) => {
            change_of_object(before, after, type_name, times)
        }
        // A container around it is compared where it stands.
        (Value::Cycle { .. }, Value::Cycle { .. }) => Same,
        (
            Value::Omitted { type_name: one, .. },
            Value::Omitted {
                type_name: other, ..
            },
        ) if one == other && is_stateless(one) => Same,
        (Value::Omitted { .. } | Value::Unreadable { .. } | Value::Int { text: None, .. }, _)
        | (_, Value::Omitted { .. } | Value::Unreadable { .. } | Value::Int { text: None, .. }) => {
            Unknown
        }
        _ => Changed,
    }
}

/// The same of two objects of other types than those that values know.
fn change_of_object(before: &Value, after: &Value, type_name: &str, times: Times) -> Change {
    let (
        Value::Object {
            content: one_content,
            attributes: one,
            length: first,
            ..
        },
        Value::Object {
            type_name: other_type,
            content: other_content,
            attributes: other,
            length: second,
            ..
        },
    ) = (before, after)
    else {
        return Change::Unknown;
    };
    if type_name != other_type {
        return Change::Changed;
    }
    if is_stateless(type_name) {
        return Change::Same;
    }
    let says_nothing = one.is_empty() && one_content.is_none();
    if says_nothing && other.is_empty() && other_content.is_none() {
        return Change::Unknown;
    }
    let content = match (one_content, other_content) {
        (Some(one), Some(other)) => change(one, other, times),
        (None, None) => Change::Same,
        _ => Change::Changed,
    };
    let same_names = one.len() == other.len()
        && one
            .iter()
            .zip(other)
            .all(|(one, other)| one.name == other.name);
    if !same_names {
        return Change::Changed;
    }
    let attributes = one
        .iter()
        .zip(other)
        .map(|(one, other)| change(&one.value, &other.value, times));
    let seen = attributes.max().unwrap_or(Change::Same);
    seen.max(content)
        .max(complete(one.len(), (*first).max(*second)))
}

/// Whether it is something that a loop could be asking again and again: an object or a container, and nothing that is merely called.
pub fn is_state(value: &Value) -> bool {
    match value {
        Value::Object { type_name, .. } => !is_stateless(type_name),
        Value::List { .. }
        | Value::Dict { .. }
        | Value::Set { .. }
        | Value::Tuple { .. }
        | Value::FrozenSet { .. } => true,
        _ => false,
    }
}

/// What is known of a value of which so many parts were seen, all of them the same.
fn complete(seen: usize, length: u64) -> Change {
    match seen as u64 >= length {
        true => Change::Same,
        false => Change::Unknown,
    }
}

/// Types whose objects keep nothing that a loop could get somewhere with: what is called, what is waited on, and moments, of which a
/// new one is made each time somebody looks at a clock. What functions and modules have of their own is in their frames and globals.
fn is_stateless(type_name: &str) -> bool {
    const STATELESS: [&str; 22] = [
        "function",
        "method",
        "instancemethod",
        "builtin_function_or_method",
        "method-wrapper",
        "wrapper_descriptor",
        "method_descriptor",
        "staticmethod",
        "classmethod",
        "property",
        "module",
        "type",
        "classobj",
        "_thread.lock",
        "thread.lock",
        "_thread.RLock",
        "re.Pattern",
        "_sre.SRE_Pattern",
        "datetime.datetime",
        "datetime.timedelta",
        "datetime.date",
        "NotImplementedType",
    ];
    STATELESS.contains(&type_name)
}

/// Whether a number is the time of day or since the start, in seconds, milli-, micro- or nanoseconds; or has grown as fast as time.
fn is_clock(before: &str, after: &str, times: Times) -> bool {
    let (Ok(before), Ok(after)) = (before.parse::<f64>(), after.parse::<f64>()) else {
        return false;
    };
    let elapsed = times.1.elapsed.saturating_sub(times.0.elapsed);
    let elapsed = elapsed.as_secs_f64();
    [1.0, 1e3, 1e6, 1e9].iter().any(|scale| {
        let is_now = |value: f64, at: Moment| {
            let clocks = [at.clocks.real, at.clocks.monotonic].map(|clock| clock.as_secs_f64());
            clocks
                .iter()
                .any(|clock| (value / scale - clock).abs() <= CLOCK_ERROR)
        };
        let grown = (after - before) / scale;
        let off = (grown - elapsed).abs();
        is_now(before, times.0) && is_now(after, times.1)
            || (grown > 0.0 && off <= elapsed * CLOCK_TOLERANCE + CLOCK_SLACK)
    })
}
