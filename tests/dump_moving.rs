//! `stuckspy dump` of a program that never stands still: no stack that never was, and no harm.

mod support;

use support::dump::dump;
use support::fixture::{Fixture, Started};
use support::interpreter::Interpreter;
use support::program::Program;
use support::thrash::Possible;

/// Dumps of each interpreter.
const ROUNDS: usize = 20;

fn check(program: &Program, interpreter: &Interpreter) -> Result<Option<String>, String> {
    let fixture = match Fixture::start(program, interpreter)? {
        Started::Ready(fixture) => fixture,
        Started::Skipped(why) => return Ok(Some(why)),
    };
    let possible = Possible::parse(&fixture.truth.extra)?;
    let before = fixture.progress();
    let mut failures = Vec::new();
    let mut stacks = 0;
    for round in 0..ROUNDS {
        let process = dump(fixture.pid())?;
        for thread in &process.threads {
            stacks += usize::from(!thread.frames.is_empty());
            let impossible = possible.find_impossible(thread);
            failures
                .extend(impossible.map(|why| format!("round {round}, {:?}: {why}", thread.name)));
        }
        for name in &possible.threads {
            let is_there = process
                .threads
                .iter()
                .any(|thread| thread.name.as_ref() == Some(name));
            if !is_there {
                failures.push(format!("round {round}: thread {name:?} is missing"));
            }
        }
    }
    if stacks < ROUNDS {
        failures.push(format!("only {stacks} stacks in {ROUNDS} dumps"));
    }
    failures.extend(fixture.assert_unharmed().err());
    if fixture.progress() <= before {
        failures.push(format!("no progress after {before:?} rounds"));
    }
    failures.extend(fixture.finish().err());
    if failures.is_empty() {
        Ok(None)
    } else {
        Err(failures.join("\n"))
    }
}

#[test]
fn no_dump_shows_a_stack_that_never_was() {
    let program = Program::load("thrash");
    support::for_each_interpreter(&program.name, |interpreter| check(&program, interpreter));
}
