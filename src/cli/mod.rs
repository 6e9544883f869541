//! The command line: what was typed, what it means, running it, and what the exit code says.

mod args;
mod diagnose;
mod doctor;
mod dump;
mod examine;
mod exit;
mod explain;
mod hints;
mod printer;
mod program;
mod progress;
mod record;
mod request;
mod selection;
mod signals;
mod stay;
mod stops;
mod supervisor;
mod top;
mod worker_link;

use std::io::IsTerminal;

use clap::Parser;

pub use exit::ExitStatus;

use args::{Arguments, Command};
use exit::Failure;
use printer::Printer;

use crate::sys::own_proc::check_own_proc;

/// Runs the program with its own arguments.
pub fn run() -> ExitStatus {
    let printer = Printer::new();
    let mut arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return printer.show_usage(&error),
    };
    if let Command::Diagnose(command) = &mut arguments.command {
        command.all |= arguments.verbose;
    }
    start_logging(arguments.verbose && !shows_screen(&arguments.command));
    crate::sys::descriptors::raise_limit();
    let run = || run_caught(&arguments.command, &printer);
    match &arguments.command {
        Command::Explain(_) | Command::Stay(_) => run(),
        _ => supervisor::run(&printer, run),
    }
}

/// Runs a command; a bug in it becomes its exit code.
fn run_caught(command: &Command, printer: &Printer) -> ExitStatus {
    let result = std::panic::catch_unwind(|| run_command(command, printer));
    match result {
        Ok(Ok(status)) => status,
        Ok(Err(failure)) => {
            printer.show_failure(&failure);
            failure.status()
        }
        // The panic's own message has been printed already.
        Err(_) => {
            printer.warn("this is a bug in stuckspy; the target was only read, not changed");
            ExitStatus::Bug
        }
    }
}

fn run_command(command: &Command, printer: &Printer) -> Result<ExitStatus, Failure> {
    let looks_at_processes = !matches!(command, Command::Explain(_) | Command::Stay(_));
    if looks_at_processes {
        check_own_proc()?;
    }
    match command {
        Command::Diagnose(command) => diagnose::run(command, printer),
        Command::Dump(command) => dump::run(command, printer),
        Command::Top(command) => top::run(command, printer),
        Command::Record(command) => record::run(command, printer),
        Command::Doctor(command) => doctor::run(command, printer),
        Command::Explain(command) => explain::run(command, printer),
        Command::Stay(command) => stay::run(command, printer),
    }
}

/// Whether what goes to stderr would be written over a screen.
fn shows_screen(command: &Command) -> bool {
    let is_top = matches!(command, Command::Top(_));
    is_top && std::io::stdout().is_terminal() && std::io::stderr().is_terminal()
}

/// What was tried and found goes to stderr with `-v`.
fn start_logging(is_verbose: bool) {
    if is_verbose {
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_writer(std::io::stderr)
            .with_ansi(false)
            .init();
    }
}
