//! `stuckspy stay`: does nothing for a while, so that a container in which there is nothing else stays there to run commands in.
//!
//! Whatever runs in a container is killed at the end of its first process, so that waits for commands which still run.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::args::StayArguments;
use super::exit::{ExitStatus, Failure};
use super::printer::Printer;
use super::signals::Signals;

/// How often it is looked whether the end was asked for.
const ROUND: Duration = Duration::from_millis(250);

/// How often it is looked whether a command still runs, once the time is over.
const LOOK: Duration = Duration::from_secs(1);

/// For how long a command is waited for: one whose caller has gone may never end.
const MAX_OVERTIME: Duration = Duration::from_secs(24 * 60 * 60);

/// How much of a command line is read to see what the command is.
const MAX_COMMAND_LINE: u64 = 4096;

/// Runs the command. As the first process of a pid namespace it would not be ended by signals that it does not catch.
pub fn run(arguments: &StayArguments, printer: &Printer) -> Result<ExitStatus, Failure> {
    let signals = Signals::catch(printer)?;
    wait(arguments.time, &signals);
    let over = Instant::now();
    while !signals.is_end() && over.elapsed() < MAX_OVERTIME && is_command_running() {
        wait(LOOK, &signals);
    }
    Ok(ExitStatus::Done)
}

/// Waits for so long, or until the end is asked for.
fn wait(time: Duration, signals: &Signals) {
    let started = Instant::now();
    while let Some(left) = time.checked_sub(started.elapsed())
        && !left.is_zero()
        && !signals.is_end()
    {
        std::thread::sleep(left.min(ROUND));
    }
}

/// Whether another process runs our executable. What can't be known is no reason to stay.
fn is_command_running() -> bool {
    find_command().unwrap_or(false)
}

fn find_command() -> io::Result<bool> {
    let executable = fs::metadata("/proc/self/exe")?;
    // As this /proc numbers us, which may be that of another pid namespace.
    let own = fs::read_link("/proc/self")?;
    for entry in fs::read_dir("/proc")?.flatten() {
        let name = entry.file_name();
        let is_process = name.as_bytes().iter().all(u8::is_ascii_digit);
        if !is_process || name == own.as_os_str() {
            continue;
        }
        let path = entry.path();
        // One may end at any time, or belong to somebody else.
        let is_ours =
            fs::metadata(path.join("exe")).is_ok_and(|other| is_same(&executable, &other));
        if is_ours && !read_start(&path.join("cmdline")).is_ok_and(|line| only_stays(&line)) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

fn read_start(path: &Path) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    File::open(path)?
        .take(MAX_COMMAND_LINE)
        .read_to_end(&mut start)?;
    Ok(start)
}

/// Whether the command line is one of `stay`: two of them would wait for each other.
fn only_stays(line: &[u8]) -> bool {
    line.split(|byte| *byte == 0)
        .nth(1)
        .is_some_and(|word| word == b"stay")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_only_stay() {
        assert!(only_stays(b"/stuckspy\0stay\x0015m\0"));
        assert!(!only_stays(b"/stuckspy\0record\0-d\x0020m\0"));
        assert!(!only_stays(b"/stuckspy\0dump\0--\0stay\0"));
        assert!(!only_stays(b""));
    }
}
