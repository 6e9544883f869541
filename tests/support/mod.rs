//! What live tests need: interpreters, fixture programs that tell the truth about themselves, and the program under test.

#![allow(dead_code, reason = "each test crate uses its own part")]

pub mod comparison;
pub mod cpu_limit;
pub mod dump;
pub mod embedding;
pub mod fixture;
pub mod interpreter;
pub mod program;
pub mod recording;
pub mod schema;
pub mod thrash;
pub mod truth;
pub mod variety;

use std::io::Write;

/// Says on standard error, past the test runner's capture, what was not tested and why.
pub fn report_skipped(what: &str, why: &str) {
    // A closed standard error leaves nobody to tell.
    let _ = writeln!(std::io::stderr(), "skipped: {what}: {why}");
}

/// Runs `check` for each interpreter and panics at the end with everything that failed.
///
/// `check` returns why it skipped, if it did.
pub fn for_each_interpreter(
    subject: &str,
    mut check: impl FnMut(&interpreter::Interpreter) -> Result<Option<String>, String>,
) {
    let mut failures = Vec::new();
    let mut tested = 0;
    for interpreter in interpreter::interpreters() {
        match check(interpreter) {
            Ok(None) => tested += 1,
            Ok(Some(why)) => report_skipped(&format!("{subject} on {}", interpreter.label), &why),
            Err(failure) => {
                failures.push(format!(
                    "== {subject} on {} ==\n{failure}",
                    interpreter.label
                ));
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {} interpreters failed\n{}",
        failures.len(),
        failures.len() + tested,
        failures.join("\n")
    );
}
