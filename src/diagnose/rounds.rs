//! Which loop a thread goes round, from the stacks that it was seen with; and whether it gets anywhere, from its variables.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{Attribute, Frame, FrameKind, Local, Loop, Moment, Value};

/// Times that a line must be come back to.
const MIN_ROUNDS: usize = 3;
/// Calls around the innermost common one whose variables are compared too.
const MAX_COMPARED: usize = 8;
/// How far a change of a number may be off the time that has passed for the number to be a clock.
const CLOCK_TOLERANCE: f64 = 0.2;
/// The same in seconds, for short times.
const CLOCK_SLACK: f64 = 0.02;
/// How far a clock that a program has read may be off the time of the look, in seconds: it was read some time before.
const CLOCK_ERROR: f64 = 5.0;

/// The moments of two looks.
type Times = (Moment, Moment);

/// One look at the stack of a thread.
#[derive(Clone, Debug)]
pub struct Look {
    /// When.
    pub at: Moment,
    /// Its calls, *outermost* first.
    pub calls: Vec<Arc<Frame>>,
}

/// The loop that a thread goes round, if the looks show one: the innermost of the calls that were there each time comes back to lines
/// that it has left.
///
/// A call that is made again and again by the call around it looks just the same, and is told as the loop: what counts is that
/// the same lines come again.
pub fn find_loop(looks: &[Look]) -> Option<Loop> {
    let common = count_common(looks);
    let place = common.checked_sub(1)?;
    let lines: Vec<Option<u32>> = looks.iter().map(|look| look.calls[place].line).collect();
    let rounds = count_returns(&lines);
    if rounds < MIN_ROUNDS {
        return None;
    }
    let mut visited: Vec<u32> = lines.iter().copied().flatten().collect();
    visited.sort_unstable();
    visited.dedup();
    let last = looks.last()?;
    let frames = last.calls[..common].iter().rev().map(|frame| {
        Arc::new(Frame {
            locals: None,
            ..(**frame).clone()
        })
    });
    Some(Loop {
        frames: frames.collect(),
        lines: visited,
        rounds,
        changes: find_changes(looks, common),
    })
}

/// How many of the outermost calls are the same at all looks, whatever line they are at.
fn count_common(looks: &[Look]) -> usize {
    let Some((first, others)) = looks.split_first() else {
        return 0;
    };
    let is_common = |index: &usize| {
        let frame = &first.calls[*index];
        let is_same = |look: &Look| {
            let other = look.calls.get(*index);
            other.is_some_and(|other| is_same_function(frame, other))
        };
        frame.kind == FrameKind::Python && others.iter().all(is_same)
    };
    (0..first.calls.len()).take_while(is_common).count()
}

fn is_same_function(one: &Frame, other: &Frame) -> bool {
    one.first_line == other.first_line
        && one.kind == other.kind
        && one.function == other.function
        && one.file == other.file
}

/// How often a line is come back to that had been left.
fn count_returns(lines: &[Option<u32>]) -> usize {
    let mut seen = std::collections::BTreeSet::new();
    let mut before = None;
    let mut returns = 0;
    for line in lines {
        if *line != before && !seen.insert(*line) {
            returns += 1;
        }
        before = *line;
    }
    returns
}

/// Whether the variables of the innermost common calls change between looks that met the call at the same line. Between other
/// lines they differ anyway, as the work of one round goes on.
fn find_changes(looks: &[Look], common: usize) -> Option<bool> {
    let mut is_known = false;
    for place in (common.saturating_sub(MAX_COMPARED)..common).rev() {
        let mut by_line: BTreeMap<Option<u32>, Vec<(Moment, &[Local])>> = BTreeMap::new();
        for look in looks {
            let frame = &look.calls[place];
            if let Some(locals) = frame.locals.as_deref() {
                by_line
                    .entry(frame.line)
                    .or_default()
                    .push((look.at, locals));
            }
        }
        for (_, seen) in by_line {
            for pair in seen.windows(2) {
                if differ(pair[0].1, pair[1].1, (pair[0].0, pair[1].0)) {
                    return Some(true);
                }
                is_known |= place + 1 == common;
            }
        }
    }
    is_known.then_some(false)
}

fn differ(before: &[Local], after: &[Local], times: Times) -> bool {
    before.len() != after.len()
        || before.iter().zip(after).any(|(one, other)| {
            one.name != other.name || is_change(&one.value, &other.value, times)
        })
}

/// Whether one value has become another, other than by the passing of time. An object that is made anew in each round is the
/// same if it says the same; one that says nothing is told by where it is.
fn is_change(before: &Value, after: &Value, times: Times) -> bool {
    let items = |before: &[Value], after: &[Value]| {
        before.len() != after.len()
            || before
                .iter()
                .zip(after)
                .any(|(one, other)| is_change(one, other, times))
    };
    match (before, after) {
        (Value::Float { text: one }, Value::Float { text: other })
        | (
            Value::Int {
                text: Some(one), ..
            },
            Value::Int {
                text: Some(other), ..
            },
        ) => one != other && !is_clock(one, other, times),
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
        ) => first != second || items(one, other),
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
            first != second
                || one.len() != other.len()
                || one.iter().zip(other).any(|(one, other)| {
                    is_change(&one.key, &other.key, times)
                        || is_change(&one.value, &other.value, times)
                })
        }
        (
            Value::Object {
                type_name: one,
                address: first,
                content: one_content,
                attributes: one_attributes,
                ..
            },
            Value::Object {
                type_name: other,
                address: second,
                content: other_content,
                attributes: other_attributes,
                ..
            },
        ) => {
            if one != other {
                return true;
            }
            if first == second && one_attributes.is_empty() && one_content.is_none() {
                return false;
            }
            let says_nothing = one_attributes.is_empty() && one_content.is_none();
            if says_nothing && other_attributes.is_empty() && other_content.is_none() {
                return !is_passing(one);
            }
            let contents = match (one_content, other_content) {
                (Some(one), Some(other)) => is_change(one, other, times),
                (None, None) => false,
                _ => true,
            };
            contents || attributes_differ(one_attributes, other_attributes, times)
        }
        // What was left out is of the same kind at least.
        (
            Value::Omitted { type_name: one, .. },
            Value::Omitted {
                type_name: other, ..
            },
        ) => one != other,
        // That it could not be read says nothing.
        (Value::Unreadable { .. }, _) | (_, Value::Unreadable { .. }) => false,
        (one, other) => one != other,
    }
}

fn attributes_differ(before: &[Attribute], after: &[Attribute], times: Times) -> bool {
    before.len() != after.len()
        || before.iter().zip(after).any(|(one, other)| {
            one.name != other.name || is_change(&one.value, &other.value, times)
        })
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

/// Types of moments, of which a new one is made each time somebody looks at a clock.
fn is_passing(type_name: &str) -> bool {
    ["datetime.datetime", "datetime.timedelta", "datetime.date"].contains(&type_name)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{Address, Clocks};

    fn number(value: i64) -> Value {
        Value::Int {
            text: Some(value.to_string()),
            bits: 64,
        }
    }

    fn frame(function: &str, line: u32, locals: Option<Vec<(&str, Value)>>) -> Arc<Frame> {
        let locals = locals.map(|locals| {
            let local = |(name, value): (&str, Value)| Local {
                name: name.into(),
                argument: false,
                value,
            };
            locals.into_iter().map(local).collect::<Vec<_>>().into()
        });
        Arc::new(Frame {
            function: function.into(),
            file: "app.py".into(),
            line: Some(line),
            first_line: Some(1),
            kind: FrameKind::Python,
            locals,
            ..Frame::marker("")
        })
    }

    /// Looks a tenth of a second apart at a main function, a loop at these lines with this variable, and some call inside.
    fn looks(lines: &[u32], value: impl Fn(usize) -> Value) -> Vec<Look> {
        let look = |(index, line): (usize, &u32)| Look {
            at: Moment {
                elapsed: Duration::from_millis(100 * index as u64),
                clocks: Clocks {
                    real: Duration::from_secs(1_800_000_000),
                    monotonic: Duration::from_secs(7_000),
                },
            },
            calls: vec![
                frame("main", 9, None),
                frame("run", *line, Some(vec![("left", value(index))])),
                frame(if index % 2 == 0 { "get" } else { "put" }, 5, None),
            ],
        };
        lines.iter().enumerate().map(look).collect()
    }

    const ROUND: [u32; 8] = [12, 14, 12, 14, 17, 12, 17, 14];

    #[test]
    fn a_loop_comes_back_to_its_lines() {
        let found = find_loop(&looks(&ROUND, |_| number(3))).unwrap();
        assert_eq!(found.lines, [12, 14, 17]);
        assert_eq!(
            (found.rounds, found.frames.len(), found.changes),
            (5, 2, Some(false))
        );
        assert_eq!(&*found.frames[0].function, "run");
        assert!(found.frames[0].locals.is_none());
    }

    #[test]
    fn a_walk_through_a_function_is_no_loop() {
        assert_eq!(
            find_loop(&looks(&[12, 12, 14, 14, 17, 17], |_| number(3))),
            None
        );
        assert_eq!(find_loop(&looks(&[12; 9], |_| number(3))), None);
        assert_eq!(find_loop(&[]), None);
    }

    #[test]
    fn what_counts_on_gets_somewhere() {
        let counting = looks(&ROUND, |index| number(index as i64 * 700));
        assert_eq!(find_loop(&counting).unwrap().changes, Some(true));
    }

    #[test]
    fn the_time_of_day_is_no_progress() {
        let clock = looks(&ROUND, |index| Value::Float {
            text: format!("{:.3}", 1_700_000_000.5 + 0.1 * index as f64),
        });
        assert_eq!(find_loop(&clock).unwrap().changes, Some(false));
        // Met late, it has not grown as much as the time that has passed.
        let late = looks(&ROUND, |index| Value::Float {
            text: format!("{:.3}", 7_000.5 + 0.003 * index as f64),
        });
        assert_eq!(find_loop(&late).unwrap().changes, Some(false));
        let nanoseconds = looks(&ROUND, |index| number(5_000 + 100_000_000 * index as i64));
        assert_eq!(find_loop(&nanoseconds).unwrap().changes, Some(false));
    }

    #[test]
    fn objects_are_what_they_say() {
        let object = |address: u64, type_name: &str, state: Option<i64>| Value::Object {
            type_name: type_name.into(),
            address: Address(address),
            name: None,
            content: None,
            attributes: state
                .map(|state| Attribute {
                    name: "state".into(),
                    value: number(state),
                })
                .into_iter()
                .collect(),
            length: 1,
        };
        let changes = |value: &dyn Fn(usize) -> Value| {
            let found = find_loop(&looks(&ROUND, value)).unwrap();
            found.changes
        };
        let anew = |index: usize| object(index as u64 * 64, "app.Result", Some(1));
        assert_eq!(changes(&anew), Some(false));
        let mute = |index: usize| object(index as u64 * 64, "app.Handle", None);
        assert_eq!(changes(&mute), Some(true));
        let moment = |index: usize| object(index as u64 * 64, "datetime.datetime", None);
        assert_eq!(changes(&moment), Some(false));
    }

    #[test]
    fn without_variables_nothing_is_claimed() {
        let mut blind = looks(&ROUND, |_| number(3));
        for look in &mut blind {
            look.calls[1] = frame("run", look.calls[1].line.unwrap(), None);
        }
        assert_eq!(find_loop(&blind).unwrap().changes, None);
    }
}
