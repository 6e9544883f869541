//! What the variables of a pending call say: limits that were given to it, the time at which it began, texts that may be paths, errors
//! that it keeps.

use std::sync::Arc;
use std::time::Duration;

use crate::model::{Address, CaughtError, Frame, Local, Moment, Since, SinceSource, Value};

/// Names of limits: they have this in them, or are one of those.
const LIMIT: &str = "timeout";
const LIMITS: [&str; 4] = ["max_wait", "wait_time", "max_time", "time_limit"];
/// Longest limit that is believed.
const MAX_LIMIT: Duration = Duration::from_secs(100 * 24 * 3600);
/// Most texts that are taken for paths.
const MAX_PATHS: usize = 64;
/// Longest path (`PATH_MAX`, `include/uapi/linux/limits.h`).
const MAX_PATH: usize = 4096;
/// How deep in the variables errors and paths are looked for.
const MAX_DEPTH: usize = 4;

/// A limit that a call was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The name of the argument, and the call.
    pub name: String,
    /// The call.
    pub call: Arc<Frame>,
    /// How long it may take by that.
    pub limit: Duration,
}

fn locals(frame: &Frame) -> &[Local] {
    frame.locals.as_deref().unwrap_or_default()
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Float { text }
        | Value::Int {
            text: Some(text), ..
        } => text.parse().ok(),
        _ => None,
    }
}

/// The limits that a call was given as arguments.
pub fn limits(call: &Arc<Frame>) -> Vec<Limit> {
    let mut found = Vec::new();
    for local in locals(call).iter().filter(|local| local.argument) {
        let name = local.name.to_ascii_lowercase();
        if !name.contains(LIMIT) && !LIMITS.contains(&&*name) {
            continue;
        }
        let is_ms = name.ends_with("_ms") || name.ends_with("millis");
        let Some(number) = number(&local.value) else {
            continue;
        };
        let seconds = if is_ms { number / 1000.0 } else { number };
        let limit = Duration::try_from_secs_f64(seconds).ok();
        let is_sane = |limit: &Duration| !limit.is_zero() && *limit <= MAX_LIMIT;
        if let Some(limit) = limit.filter(is_sane) {
            found.push(Limit {
                name: local.name.clone(),
                call: Arc::clone(call),
                limit,
            });
        }
    }
    found
}

/// For how long a call has run at least, by a variable of its own that holds a time between the start of its process and now, and held the
/// same before; with the variable's name. Of several the earliest.
pub fn since(
    call: &Frame,
    before: Option<&Frame>,
    at: Moment,
    age: Duration,
) -> Option<(Since, String)> {
    // Globals stand among the variables of the outermost call of their module.
    let is_own = |local: &&Local| {
        let is_global = local.name.starts_with("global ");
        !local.argument && !is_global && matches!(local.value, Value::Float { .. })
    };
    let stayed = |local: &&Local| {
        let mut first = before.map(locals).unwrap_or_default().iter();
        first.any(|other| other.name == local.name && other.value == local.value)
    };
    if call.function.as_ref() == "<module>" {
        return None;
    }
    let elapsed = |local: &Local| {
        let time = number(&local.value)?;
        let clocks = [at.clocks.monotonic, at.clocks.real];
        let ago = clocks.into_iter().filter_map(|clock| {
            let ago = clock.as_secs_f64() - time;
            let ago = Duration::try_from_secs_f64(ago).ok()?;
            (time > 0.0 && ago <= age).then_some(ago)
        });
        ago.min()
    };
    let found = locals(call)
        .iter()
        .filter(is_own)
        .filter(stayed)
        .filter_map(|local| Some((elapsed(local)?, local.name.clone())));
    let (elapsed, name) = found.max()?;
    let since = Since {
        elapsed,
        error: Duration::ZERO,
        source: SinceSource::Locals,
    };
    Some((since, name))
}

/// Goes through a value and all that is in it, to a bounded depth.
fn visit<'v>(value: &'v Value, depth: usize, see: &mut dyn FnMut(&'v Value)) {
    see(value);
    if depth == 0 {
        return;
    }
    match value {
        Value::List { items, .. }
        | Value::Tuple { items, .. }
        | Value::Set { items, .. }
        | Value::FrozenSet { items, .. } => {
            items.iter().for_each(|item| visit(item, depth - 1, see));
        }
        Value::Dict { entries, .. } => entries
            .iter()
            .for_each(|entry| visit(&entry.value, depth - 1, see)),
        Value::Object {
            content,
            attributes,
            ..
        } => {
            if let Some(content) = content {
                visit(content, depth - 1, see);
            }
            attributes
                .iter()
                .for_each(|attribute| visit(&attribute.value, depth - 1, see));
        }
        _ => {}
    }
}

/// Texts among the variables of these calls that may be paths, those of the innermost call first.
pub fn paths(calls: &[Arc<Frame>]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for call in calls {
        for local in locals(call) {
            visit(&local.value, MAX_DEPTH, &mut |value| {
                if let Value::Str { text, length } = value
                    && text.chars().count() as u64 == *length
                    && (2..=MAX_PATH).contains(&text.len())
                    && text.contains(['/', '.'])
                    && !text.contains(['\n', '\0'])
                    && !text.contains("://")
                    && found.len() < MAX_PATHS
                    && !found.contains(text)
                {
                    found.push(text.clone());
                }
            });
        }
    }
    found
}

/// The error of a failed attempt that one of these calls keeps among its variables, and where that lies.
pub fn kept_error(calls: &[Arc<Frame>]) -> Option<(CaughtError, Address)> {
    let mut found = None;
    for call in calls {
        for local in locals(call) {
            visit(&local.value, MAX_DEPTH, &mut |value| {
                let (Value::Object {
                    type_name, address, ..
                }
                | Value::Omitted { type_name, address }) = value
                else {
                    return;
                };
                if found.is_none() && is_connection_error(type_name) {
                    let error = CaughtError {
                        type_name: type_name.trim_start_matches("builtins.").to_owned(),
                        ..CaughtError::default()
                    };
                    found = Some((error, *address));
                }
            });
        }
    }
    found
}

/// Whether an exception of this type says that a peer was not reached: those of the standard library, and what others call by such names.
pub fn is_connection_error(type_name: &str) -> bool {
    let name = type_name.rsplit('.').next().unwrap_or(type_name);
    let is_error = name.ends_with("Error") || name.ends_with("Exception");
    matches!(
        name,
        "ConnectionRefusedError" | "ConnectionResetError" | "ConnectionAbortedError" | "gaierror"
    ) || is_error && name.contains("Connect")
        || matches!(name, "NoBrokersAvailable" | "ServerSelectionTimeoutError")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Attribute, Clocks};

    fn local(name: &str, argument: bool, value: Value) -> Local {
        Local {
            name: name.into(),
            argument,
            value,
        }
    }

    fn float(text: &str) -> Value {
        Value::Float { text: text.into() }
    }

    fn text(text: &str) -> Value {
        Value::Str {
            text: text.into(),
            length: text.len() as u64,
        }
    }

    fn call(locals: Vec<Local>) -> Arc<Frame> {
        Arc::new(Frame {
            locals: Some(locals.into()),
            ..Frame::marker("fetch")
        })
    }

    #[test]
    fn only_arguments_that_are_called_so_are_limits() {
        let thousand = Value::Int {
            text: Some("1000".into()),
            bits: 10,
        };
        let frame = call(vec![
            local("timeout_ms", true, thousand.clone()),
            local("timeout", true, float("2.5")),
            local("timeout", false, float("3.0")),
            local("count", true, thousand),
            local("max_wait", true, float("inf")),
            local("connect_timeout", true, Value::None),
            local("read_timeout", true, float("-1.0")),
        ]);
        let found: Vec<_> = limits(&frame)
            .into_iter()
            .map(|limit| (limit.name, limit.limit))
            .collect();
        assert_eq!(
            found,
            [
                ("timeout_ms".to_owned(), Duration::from_secs(1)),
                ("timeout".to_owned(), Duration::from_millis(2500)),
            ]
        );
    }

    #[test]
    fn a_time_of_the_calls_own_says_since_when() {
        let at = Moment {
            clocks: Clocks {
                real: Duration::from_secs(1_700_000_000),
                monotonic: Duration::from_secs(5000),
            },
            ..Moment::default()
        };
        let age = Duration::from_secs(600);
        let since = |locals: Vec<Local>, before: Vec<Local>| {
            let found = since(&call(locals), Some(&call(before)), at, age);
            found.map(|(since, name)| (since.elapsed.as_secs(), name))
        };
        let started = || vec![local("started", false, float("4960.0"))];
        assert_eq!(since(started(), started()), Some((40, "started".into())));
        let began = || vec![local("t0", false, float("1699999700.0"))];
        assert_eq!(since(began(), began()), Some((300, "t0".into())));
        // Before the process was there, in the future, given by the caller, or read anew each time: none of its own.
        for time in ["4000.0", "5100.0", "0.0", "nan"] {
            let locals = || vec![local("t0", false, float(time))];
            assert_eq!(since(locals(), locals()), None, "{time}");
        }
        let given = || vec![local("t0", true, float("4960.0"))];
        assert_eq!(since(given(), given()), None);
        assert_eq!(
            since(started(), vec![local("started", false, float("4950.0"))]),
            None
        );
    }

    #[test]
    fn paths_and_errors_are_found_inside_of_objects() {
        let object = |type_name: &str, attributes: Vec<(&str, Value)>| Value::Object {
            type_name: type_name.into(),
            address: Address(8),
            name: None,
            content: None,
            length: attributes.len() as u64,
            attributes: attributes
                .into_iter()
                .map(|(name, value)| Attribute {
                    name: name.into(),
                    value,
                })
                .collect(),
        };
        let error = object("builtins.ConnectionRefusedError", Vec::new());
        let outcome = object("tenacity.Future", vec![("_exception", error)]);
        let context = object("FileLockContext", vec![("lock_file", text("/tmp/a.lock"))]);
        let frame = call(vec![
            local(
                "self",
                true,
                object("FileLock", vec![("_context", context)]),
            ),
            local("url", true, text("http://127.0.0.1/x")),
            local(
                "state",
                false,
                object("RetryCallState", vec![("outcome", outcome)]),
            ),
        ]);
        let calls = [frame];
        assert_eq!(paths(&calls), ["/tmp/a.lock"]);
        assert_eq!(
            kept_error(&calls).unwrap().0.type_name,
            "ConnectionRefusedError"
        );
        assert!(!is_connection_error("builtins.ValueError"));
        assert!(is_connection_error("requests.exceptions.ConnectionError"));
        assert!(is_connection_error("amqp.exceptions.ConnectionError"));
    }
}
