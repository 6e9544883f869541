//! `stuckspy dump` against what each fixture program knows about itself, on every interpreter here.

mod support;

use support::comparison::differences;
use support::dump::dump;
use support::fixture::{Fixture, Started};
use support::interpreter::Interpreter;
use support::program::{self, Program};

/// Dumps one program under one interpreter, and looks after it when that is done.
fn check(program: &Program, interpreter: &Interpreter) -> Result<Option<String>, String> {
    let fixture = match Fixture::start(program, interpreter)? {
        Started::Ready(fixture) => fixture,
        Started::Skipped(why) => return Ok(Some(why)),
    };
    let mut failures = match dump(fixture.pid()) {
        Ok(process) => differences(&fixture.truth, &process),
        Err(failure) => vec![failure],
    };
    failures.extend(fixture.assert_unharmed().err());
    failures.extend(fixture.finish().err());
    if failures.is_empty() {
        Ok(None)
    } else {
        Err(failures.join("\n"))
    }
}

macro_rules! programs {
    ($($name:ident)*) => {
        const TESTED: &[&str] = &[$(stringify!($name)),*];

        $(
            #[test]
            fn $name() {
                let program = Program::load(stringify!($name));
                support::for_each_interpreter(&program.name, |interpreter| check(&program, interpreter));
            }
        )*
    };
}

programs! {
    callbacks compiled comprehensions coroutines cpu crowd decorators deep deep_cpu embedded fork fork_thread generators handlers importing lambdas
    leaves line_tables many_threads monitoring multiline nested no_threading odd_code odd_files recursion shares sleeper stuck_scheduler subinterpreters
    thrash thread_names threads tracing unicode_names values yield_from
}

#[test]
fn every_program_is_tested() {
    assert_eq!(program::names(), TESTED);
}
