//! `stuckspy diagnose`: what is stuck in a process and its descendants.

use std::io::IsTerminal;
use std::time::Duration;

use super::args::DiagnoseArguments;
use super::examine::{DEFAULT_WINDOW, Examination, Patience, examine};
use super::exit::{
    ExitStatus, Failure, denied, is_failure, is_without_python, status_of_diagnosis,
};
use super::hints::{access_hint, descriptors_hint};
use super::printer::Printer;
use super::program::watch_program;
use super::selection::Selection;
use super::signals::Interrupt;
use super::stops::say_stops;
use crate::diagnose::MAX_WATCHED;
use crate::diagnose::rules::Rules;
use crate::model::Pid;
use crate::report::answer::{AnswerOptions, write_diagnosis};
use crate::report::json::{self, DiagnosisDocument, Head};
use crate::report::text::TextOptions;
use crate::sys::bounded_read::read_bounded;
use crate::target::Target;
use crate::target::access::AccessReport;
use crate::target::launch::ProgramOutput;

/// Most bytes of a file of rules; the built-in ones have 110 KiB.
const MAX_RULES: usize = 1 << 20;
/// How long such a file, which may be a pipe, may take to come to its end.
const RULES_DEADLINE: Duration = Duration::from_secs(5);

/// Runs the command.
pub fn run(arguments: &DiagnoseArguments, printer: &Printer) -> Result<ExitStatus, Failure> {
    let rules = read_rules(arguments)?;
    let program_output = match arguments.reading.json {
        true => ProgramOutput::Stderr,
        false => ProgramOutput::Stdout,
    };
    match Selection::resolve_tree(&arguments.target, program_output, printer)? {
        Selection::Running(pid) => {
            let interrupt = Interrupt::catch();
            let window = arguments.window.unwrap_or(DEFAULT_WINDOW);
            let is_patient = arguments.window.is_none() && is_somebody_waiting(arguments);
            let mut patience = Patience {
                window,
                longest: match is_patient {
                    true => window.max(arguments.threshold),
                    false => window,
                },
                shows_progress: !arguments.quiet,
                is_over: &mut || interrupt.is_asked(),
            };
            let examination = examine(pid, arguments, &rules, &mut patience)?;
            interrupt.answer();
            show(&examination, pid, arguments, printer)
        }
        Selection::Launched(mut launched) => {
            watch_program(&mut launched, arguments, &rules, printer)
        }
    }
}

/// Whether a person waits for the answer, and sees how far it has come; not where a program reads it.
fn is_somebody_waiting(arguments: &DiagnoseArguments) -> bool {
    let is_read_by_a_program = arguments.reading.json && !std::io::stdout().is_terminal();
    std::io::stderr().is_terminal() && !arguments.quiet && !is_read_by_a_program
}

/// The rules that are built in, and those of a file.
fn read_rules(arguments: &DiagnoseArguments) -> Result<Rules, Failure> {
    let Some(path) = &arguments.rules else {
        return Ok(Rules::built_in().clone());
    };
    let failed = |reason: String| Failure::Rules {
        path: path.clone(),
        reason,
    };
    let bytes =
        read_bounded(path, MAX_RULES, RULES_DEADLINE).map_err(|error| failed(error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|error| failed(error.to_string()))?;
    let more = Rules::parse(&text).map_err(|error| failed(error.to_string()))?;
    Ok(Rules::built_in().extended(more))
}

/// Prints what was found, and gives the exit code for it.
pub fn show(
    examination: &Examination,
    pid: Pid,
    arguments: &DiagnoseArguments,
    printer: &Printer,
) -> Result<ExitStatus, Failure> {
    let (processes, findings) = (&examination.processes, &examination.findings);
    let is_stuck = is_failure(findings, arguments.fail_on.confidence());
    let status = status_of_diagnosis(processes, is_stuck);
    if arguments.quiet {
        return Ok(status);
    }
    if arguments.reading.json {
        print_document(examination, Some(pid), arguments, printer)?;
    } else {
        let options = AnswerOptions {
            text: TextOptions {
                full_filenames: arguments.reading.full_filenames,
                ..TextOptions::default()
            },
            threshold: arguments.threshold,
            is_all: arguments.all,
        };
        printer.print(|out| write_diagnosis(processes, findings, options, out))?;
    }
    if examination.unwatched > 0 {
        printer.warn(&format!(
            "watched {MAX_WATCHED} processes for progress; of {} more there is one snapshot only",
            examination.unwatched
        ));
    }
    if arguments.reading.blocking {
        say_stops(examination.stops, printer);
    }
    if is_without_python(processes) {
        printer.warn("no Python was found");
        if arguments.no_children {
            printer.hint("without --no-children, the Python processes below it are diagnosed too");
        }
    }
    if let Some(hint) = denied(processes).and_then(access_hint) {
        printer.hint(&hint);
    }
    if let Some(hint) = descriptors_hint(processes) {
        printer.hint(&hint);
    }
    Ok(status)
}

/// Prints the document for programs, with what may be read of process `pid`.
pub fn print_document(
    examination: &Examination,
    pid: Option<Pid>,
    arguments: &DiagnoseArguments,
    printer: &Printer,
) -> Result<(), Failure> {
    let access = pid
        .and_then(|pid| Target::open(pid).ok())
        .map(|target| AccessReport::probe(Some(&target)).access)
        .unwrap_or_default();
    let head = Head::new(examination.taken_at, examination.took);
    let document = DiagnosisDocument::new(
        head,
        access,
        arguments.threshold,
        &examination.processes,
        &examination.findings,
    );
    printer.print(|out| json::write(&document, out))
}
