//! `stuckspy stay`: does nothing for a while, so that a container in which there is nothing else stays there to run commands in.

use std::time::{Duration, Instant};

use super::args::StayArguments;
use super::exit::{ExitStatus, Failure};
use super::signals::Signals;

/// How often it is looked whether the end was asked for.
const ROUND: Duration = Duration::from_millis(250);

/// Runs the command. As the first process of a pid namespace it would not be ended by signals that it does not catch.
pub fn run(arguments: &StayArguments) -> Result<ExitStatus, Failure> {
    let signals = Signals::catch()?;
    let started = Instant::now();
    while let Some(left) = arguments.time.checked_sub(started.elapsed())
        && !left.is_zero()
        && !signals.is_end()
    {
        std::thread::sleep(left.min(ROUND));
    }
    Ok(ExitStatus::Done)
}
