//! The only place that writes to standard output and standard error: data on the one, talk on the other.

use std::io::{self, BufWriter, Write};
use std::sync::atomic::AtomicBool;

use super::exit::{ExitStatus, Failure};
use super::hints::hints;
use super::worker_link;
use crate::report::sanitize::Shown;
use crate::sys::stdio::{check_stdout, say_at_once, stdout};

/// Data that is printed is waited for as long as it takes: the usual signals end us.
static IS_NEVER_OVER: AtomicBool = AtomicBool::new(false);

/// Writes what the program has to say.
#[derive(Clone, Copy, Debug)]
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
        worker_link::reading_is_over();
        let written = stdout(&IS_NEVER_OVER).and_then(|stdout| {
            let mut out = BufWriter::new(stdout);
            write(&mut out)?;
            out.flush()
        });
        match written {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(Failure::Output(error)),
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

    /// Writes a remark if standard error takes it at once, whoever else writes there: for the last words before the end.
    pub fn say_at_once(&self, text: &str) {
        say_at_once(&format!("stuckspy: {}\n", Shown(text)));
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
        if error.use_stderr() {
            // Where standard error is gone, nobody wants it.
            let _ = error.print();
            return ExitStatus::Usage;
        }
        match check_stdout()
            .and_then(|()| error.print())
            .and_then(|()| io::stdout().flush())
        {
            // A closed pipe behind `--help` is no failure.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                let failure = Failure::Output(error);
                self.show_failure(&failure);
                failure.status()
            }
            _ => ExitStatus::Done,
        }
    }
}
