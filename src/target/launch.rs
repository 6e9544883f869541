//! Starting a program that is to be looked at.

use std::ffi::OsString;
use std::io::{self, PipeReader};
use std::os::fd::AsFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};

use crate::model::Pid;
use crate::sys::spawn::spawn_bound;

/// How long a program that was asked to end may take before it is killed.
const MAX_GOODBYE: Duration = Duration::from_secs(5);

/// Where the standard output of a program goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgramOutput {
    /// To our own standard output.
    Stdout,
    /// To our standard error, since our standard output is for data.
    Stderr,
}

/// A program that we started; it ends with us.
#[derive(Debug)]
pub struct Launched {
    child: Child,
}

impl Launched {
    /// Starts `command` with our own standard input and error.
    pub fn start(command: &[OsString], output: ProgramOutput) -> io::Result<Self> {
        let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        command.args(arguments);
        if output == ProgramOutput::Stderr {
            command.stdout(io::stderr().as_fd().try_clone_to_owned()?);
        }
        let child = spawn_bound(&mut command)?;
        Ok(Launched { child })
    }

    /// Starts `command` with nothing to read, for when the terminal is in use. What it prints can be read from the pipe,
    /// which has to be done lest it blocks.
    pub fn start_apart(command: &[OsString]) -> io::Result<(Self, PipeReader)> {
        let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let (reader, writer) = io::pipe()?;
        let child = spawn_bound(
            Command::new(program)
                .args(arguments)
                .stdin(Stdio::null())
                .stdout(writer.try_clone()?)
                .stderr(writer),
        )?;
        Ok((Launched { child }, reader))
    }

    /// Its pid.
    pub fn pid(&self) -> Pid {
        Pid(self.child.id().cast_signed())
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// How it has ended; `None` while it runs, and where somebody else has reaped it.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        if self.has_ended() {
            return;
        }
        // It is our own child: nobody else can have been given its pid before we reap it.
        let _ = kill(self.pid().to_nix(), Signal::SIGTERM);
        let asked = Instant::now();
        while !self.has_ended() {
            if asked.elapsed() > MAX_GOODBYE {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_ends_with_its_guard() {
        let output = ProgramOutput::Stderr;
        let launched = Launched::start(&["sleep".into(), "600".into()], output).unwrap();
        let pid = launched.pid();
        assert!(crate::target::Target::open(pid).is_ok());
        drop(launched);
        assert!(crate::target::Target::open(pid).is_err());
        assert!(Launched::start(&["/no/such/program".into()], output).is_err());
        assert!(Launched::start(&[], output).is_err());
    }

    #[test]
    fn what_a_program_apart_prints_can_be_read() {
        let command = ["sh", "-c", "cat; echo out; echo error >&2"].map(OsString::from);
        let (launched, mut reader) = Launched::start_apart(&command).unwrap();
        let mut text = String::new();
        io::Read::read_to_string(&mut reader, &mut text).unwrap();
        assert_eq!(text, "out\nerror\n");
        drop(launched);
    }
}
