//! The only place that writes to standard output and standard error: data on the one, talk on the other.

use std::io::{self, BufWriter, Write};

use super::exit::{ExitStatus, Failure};
use super::hints::hints;
use super::supervisor;
use crate::report::sanitize::Shown;

/// Writes what the program has to say.
#[derive(Debug)]
pub struct Printer {}

impl Printer {
    /// A printer on this process' own output and error.
    pub fn new() -> Self {
        Printer {}
    }

    /// Writes data: all of it, or an error. Whoever reads only its beginning is welcome to that.
    pub fn print(
        &self,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), Failure> {
        self.print_more(write).map(|_| ())
    }

    /// Writes data of which more may follow. Whether anybody still reads it.
    pub fn print_more(
        &self,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<bool, Failure> {
        supervisor::reading_is_over();
        let mut out = BufWriter::new(io::stdout().lock());
        match write(&mut out).and_then(|()| out.flush()) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes what a program that we started has printed, as it is.
    pub fn pass_on(&self, bytes: &[u8]) {
        let _ = io::stderr().lock().write_all(bytes);
    }

    /// Writes a remark. Where standard error is gone, nobody wants it.
    pub fn warn(&self, text: &str) {
        let _ = writeln!(io::stderr().lock(), "stuckspy: {}", Shown(text));
    }

    /// Writes something that would help.
    pub fn hint(&self, text: &str) {
        let _ = writeln!(io::stderr().lock(), "hint: {}", Shown(text));
    }

    /// Writes why there is nothing, and what would help.
    pub fn show_failure(&self, failure: &Failure) {
        self.warn(&failure.to_string());
        for hint in hints(failure) {
            self.hint(&hint);
        }
    }

    /// Writes help, the version, or what is wrong with the command line, as the parser has it.
    pub fn show_usage(&self, error: &clap::Error) -> ExitStatus {
        // A closed pipe behind `--help` is no failure.
        let _ = error.print();
        if error.use_stderr() {
            ExitStatus::Usage
        } else {
            ExitStatus::Done
        }
    }
}
