//! Which loop a thread goes round, from the stacks that it was seen with, and whether the variables of its calls change from round to round.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::diagnose::observation::pending_call::is_same_function;
use crate::diagnose::observation::value_change::{Change, Times, change, is_state};
use crate::model::{Frame, FrameKind, Local, Loop, Moment, Value};

/// Times that a line must be come back to.
const MIN_ROUNDS: usize = 3;
/// Calls around the innermost common one whose variables are compared too.
const MAX_COMPARED: usize = 8;

/// Most variables that are named as changing, and as constant.
const MAX_NAMED: usize = 12;

/// One part of the comparisons of a variable, in so many, may be without outcome for it to count as seen.
const MAX_UNSEEN: usize = 5;

/// One look at the stack of a thread.
#[derive(Clone, Debug)]
pub struct LoopSample {
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
pub fn find_loop(looks: &[LoopSample]) -> Option<Loop> {
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
    let tally = compare_variables(looks, common);
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
        changes: tally.sum_up(common),
        changing: tally.changing(common),
        constant: tally.constant(common),
        only_counts: tally.only_counts(common),
    })
}

/// Whether the innermost of the calls that were there at every look was at the same line at all of them, and its variables were not seen to
/// change.
pub fn stays_at_one_line(looks: &[LoopSample]) -> bool {
    let common = count_common(looks);
    let Some(place) = common.checked_sub(1) else {
        return false;
    };
    let mut lines = looks.iter().map(|look| look.calls[place].line);
    let first = lines.next();
    lines.all(|line| Some(line) == first)
        && compare_variables(looks, common).sum_up(common) != Some(true)
}

/// How many of the outermost calls are the same at all looks, whatever line they are at.
fn count_common(looks: &[LoopSample]) -> usize {
    let Some((first, others)) = looks.split_first() else {
        return 0;
    };
    let is_common = |index: &usize| {
        let frame = &first.calls[*index];
        let is_same = |look: &LoopSample| {
            let other = look.calls.get(*index);
            other.is_some_and(|other| is_same_function(frame, other))
        };
        frame.kind == FrameKind::Python && others.iter().all(is_same)
    };
    (0..first.calls.len()).take_while(is_common).count()
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

/// Compares the variables of the common calls between samples that met the call at the same line. Between other lines they differ
/// anyway, as the work of one round goes on.
fn compare_variables(looks: &[LoopSample], common: usize) -> Tally<'_> {
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
    tally
}

/// What was found of each variable of each call at each line.
#[derive(Default)]
struct Tally<'a> {
    variables: BTreeMap<(usize, Option<u32>, &'a str), Found>,
    /// Pairs of looks that were compared at each place.
    pairs: BTreeMap<usize, usize>,
}

/// Whether a variable is one of the program's own, and neither a global nor one that Python gives every module.
fn is_own(name: &str) -> bool {
    !name.starts_with("global ") && !name.starts_with("__")
}

/// How often one variable was compared, and with what outcome.
#[derive(Default)]
struct Found {
    same: usize,
    unknown: usize,
    changed: usize,
    /// Changes that were numbers growing, and shrinking.
    grown: usize,
    shrunk: usize,
    /// Whether it is an object or a container.
    is_state: bool,
}

impl Found {
    /// Whether it is a number that only grows, or only shrinks.
    fn counts(&self) -> bool {
        self.changed > 0 && (self.grown == self.changed || self.shrunk == self.changed)
    }
}

/// Whether an integer is greater or less than before; `None` for other values.
fn compare_integers(before: &Value, after: &Value) -> Option<Ordering> {
    let number = |value: &Value| match value {
        Value::Int {
            text: Some(text), ..
        } => text.parse::<i128>().ok(),
        _ => None,
    };
    Some(number(after)?.cmp(&number(before)?))
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
            tally.is_state |= is_state(&one.value);
            match found {
                Change::Same => tally.same += 1,
                Change::Unknown => tally.unknown += 1,
                Change::Changed => tally.changed += 1,
            }
            if found == Change::Changed {
                let step = other.and_then(|other| compare_integers(&one.value, &other.value));
                tally.grown += usize::from(step == Some(Ordering::Greater));
                tally.shrunk += usize::from(step == Some(Ordering::Less));
            }
        }
    }

    /// The variables that count: those of the calls nearby, and globals.
    fn counted(
        &self,
        common: usize,
    ) -> impl Iterator<Item = (&(usize, Option<u32>, &'a str), &Found)> + Clone {
        let is_near = move |place: usize| common - place <= MAX_COMPARED;
        // Of globals there are many, and most are of no concern here: only what is seen to change counts.
        let counts = move |(place, _, name): &(usize, Option<u32>, &str)| {
            is_near(*place) || name.starts_with("global ")
        };
        self.variables.iter().filter(move |(key, _)| counts(key))
    }

    /// The variables that were seen to change, innermost call first.
    fn changing(&self, common: usize) -> Vec<String> {
        let changed = self.counted(common).filter(|(_, found)| found.changed > 0);
        self.names(changed.map(|(key, _)| key))
    }

    /// The variables of the innermost common call that were seen and stayed the same.
    fn constant(&self, common: usize) -> Vec<String> {
        let is_constant = |(place, name): (usize, &str)| {
            let of_it = self.variables.iter();
            let mut of_it = of_it.filter(|(key, _)| (key.0, key.2) == (place, name));
            of_it.all(|(_, found)| found.changed == 0 && found.unknown == 0 && found.same > 0)
        };
        let innermost = common.wrapping_sub(1);
        let own = self.variables.keys().filter(|(place, _, name)| {
            *place == innermost && is_own(name) && is_constant((*place, name))
        });
        self.names(own)
    }

    /// Whether something changes, all of that is counters, and there is an object that stays the same and may be what the loop asks: a
    /// loop of nothing but numbers computes with them.
    fn only_counts(&self, common: usize) -> bool {
        let mut changed = self
            .counted(common)
            .filter(|(_, found)| found.changed > 0)
            .peekable();
        let is_unknown = |((_, _, name), found): (&(usize, Option<u32>, &str), &Found)| {
            !name.starts_with("global ") && found.unknown * MAX_UNSEEN > found.same + found.unknown
        };
        let asks = |((_, _, name), found): (&(usize, Option<u32>, &str), &Found)| {
            found.is_state && found.changed == 0 && found.same > 0 && is_own(name)
        };
        changed.peek().is_some()
            && self.counted(common).any(asks)
            && changed.all(|(_, found)| found.counts())
            && !self
                .counted(common)
                .any(|(key, found)| found.changed == 0 && is_unknown((key, found)))
    }

    /// Names once each, innermost call first; at most [`MAX_NAMED`].
    fn names<'b>(
        &self,
        keys: impl Iterator<Item = &'b (usize, Option<u32>, &'a str)>,
    ) -> Vec<String>
    where
        'a: 'b,
    {
        let mut keys: Vec<(usize, &str)> = keys.map(|(place, _, name)| (*place, *name)).collect();
        keys.sort_by_key(|(place, name)| (std::cmp::Reverse(*place), *name));
        keys.dedup();
        let mut names: Vec<String> = Vec::new();
        for (_, name) in keys {
            // At the level of a module a variable is a global, too.
            let name = name.strip_prefix("global ").unwrap_or(name);
            if names.len() == MAX_NAMED {
                break;
            }
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        names
    }

    /// Whether any variable changes: of the calls nearby all count, of those further out only the globals. What was not seen a few times,
    /// as when there was no time left, and is the same otherwise, is the same.
    fn sum_up(&self, common: usize) -> Option<bool> {
        let mut counted = self.counted(common);
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
    fn looks(lines: &[u32], value: impl Fn(usize) -> Value) -> Vec<LoopSample> {
        let look = |(index, line): (usize, &u32)| LoopSample {
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
    fn a_loop_that_only_counts_is_known_as_one() {
        // A variable, and a queue that stays empty all the time.
        let of = |value: &dyn Fn(usize) -> Value| {
            let mut looks = looks(&ROUND, value);
            for look in &mut looks {
                let left = look.calls[1].locals.as_ref().unwrap()[0].value.clone();
                let queue = Value::List {
                    items: Vec::new(),
                    length: 0,
                };
                let line = look.calls[1].line.unwrap();
                look.calls[1] = frame("run", line, Some(vec![("left", left), ("queue", queue)]));
            }
            find_loop(&looks).unwrap()
        };
        let counting = of(&|index| number(index as i64 * 700));
        assert_eq!(
            (counting.only_counts, counting.changing, counting.constant),
            (true, vec!["left".to_owned()], vec!["queue".to_owned()])
        );
        let still = of(&|_| number(3));
        assert_eq!(
            (still.only_counts, still.changing),
            (false, Vec::<String>::new())
        );
        assert_eq!(still.constant, ["left", "queue"]);
        // To and fro is more than a count, and so is a text.
        let values = [5, 9, 7, 1, 3, 8, 2, 6];
        assert!(!of(&|index| number(values[index])).only_counts);
        let text = |index: usize| Value::Str {
            text: index.to_string(),
            length: 1,
        };
        assert!(!of(&text).only_counts);
    }

    #[test]
    fn a_loop_of_nothing_but_numbers_computes() {
        let counting = looks(&ROUND, |index| number(index as i64 * 700));
        let found = find_loop(&counting).unwrap();
        assert_eq!(
            (found.only_counts, found.changing),
            (false, vec!["left".to_owned()])
        );
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
