//! Which loop a thread goes round, from the stacks that it was seen with; and whether it gets anywhere, from its variables.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{Frame, FrameKind, Local, Loop, Moment, Value};

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

/// One part of the comparisons of a variable, in so many, may be without outcome for it to count as seen.
const MAX_UNSEEN: usize = 5;

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

/// Whether the innermost of the calls that were there at every look was at the same line at all of them, and its variables were not seen to
/// change.
pub fn stays_at_one_line(looks: &[Look]) -> bool {
    let common = count_common(looks);
    let Some(place) = common.checked_sub(1) else {
        return false;
    };
    let mut lines = looks.iter().map(|look| look.calls[place].line);
    let first = lines.next();
    lines.all(|line| Some(line) == first) && find_changes(looks, common) != Some(true)
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

/// What is known of a value from one look to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    /// It is the same, clocks aside.
    Same,
    /// Not all of it was seen, or it says nothing of itself: it may have become another.
    Unknown,
    /// It has become another.
    Changed,
}

/// Whether the variables of the innermost common calls change between looks that met the call at the same line. Between other
/// lines they differ anyway, as the work of one round goes on. `None` where that can't be told: what can't be seen may have changed.
fn find_changes(looks: &[Look], common: usize) -> Option<bool> {
    let mut tally = Tally::default();
    for place in (0..common).rev() {
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
        for (line, seen) in by_line {
            for pair in seen.windows(2) {
                let times = (pair[0].0, pair[1].0);
                tally.compare((place, line), pair[0].1, pair[1].1, times);
            }
        }
    }
    tally.sum_up(common)
}

/// What was found of each variable of each call at each line.
#[derive(Default)]
struct Tally<'a> {
    variables: BTreeMap<(usize, Option<u32>, &'a str), Found>,
    /// Pairs of looks that were compared at each place.
    pairs: BTreeMap<usize, usize>,
}

/// How often one variable was compared, and with what outcome.
#[derive(Default)]
struct Found {
    same: usize,
    unknown: usize,
    changed: usize,
}

impl<'a> Tally<'a> {
    fn compare(
        &mut self,
        (place, line): (usize, Option<u32>),
        before: &'a [Local],
        after: &'a [Local],
        times: Times,
    ) {
        *self.pairs.entry(place).or_default() += 1;
        for one in before {
            let other = after.iter().find(|other| other.name == one.name);
            let found = match other {
                Some(other) => change(&one.value, &other.value, times),
                // It comes and goes, as what an `except` has caught does.
                None => Change::Unknown,
            };
            let tally = self.variables.entry((place, line, &*one.name)).or_default();
            match found {
                Change::Same => tally.same += 1,
                Change::Unknown => tally.unknown += 1,
                Change::Changed => tally.changed += 1,
            }
        }
    }

    /// Whether any variable changes: of the calls nearby all count, of those further out only the globals. What was not seen a few times,
    /// as when there was no time left, and is the same otherwise, is the same.
    fn sum_up(&self, common: usize) -> Option<bool> {
        let is_near = |place: usize| common - place <= MAX_COMPARED;
        // Of globals there are many, and most are of no concern here: only what is seen to change counts.
        let counts = |(place, _, name): &(usize, Option<u32>, &str)| {
            is_near(*place) || name.starts_with("global ")
        };
        let mut counted = self.variables.iter().filter(|(key, _)| counts(key));
        if counted.clone().any(|(_, found)| found.changed > 0) {
            return Some(true);
        }
        let is_unknown = |((_, _, name), found): (&(usize, Option<u32>, &str), &Found)| {
            !name.starts_with("global ") && found.unknown * MAX_UNSEEN > found.same + found.unknown
        };
        let is_compared = common
            .checked_sub(1)
            .and_then(|innermost| self.pairs.get(&innermost))
            .is_some();
        (is_compared && !counted.any(is_unknown)).then_some(false)
    }
}

/// Whether one value has become another, other than by the passing of time. An object that is made anew in each round is the
/// same if it says the same; one that says nothing of itself may hold anything.
fn change(before: &Value, after: &Value, times: Times) -> Change {
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

/// What is told of a value of which so many parts were seen, all of them the same.
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{Address, Attribute, Clocks};

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
        assert_eq!(changes(&mute), None);
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
