//! `stuckspy diagnose CMD`: watches a program until something in it is stuck, or it ends.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::args::DiagnoseArguments;
use super::diagnose::{print_document, show};
use super::examine::{DEFAULT_WINDOW, Examination, Patience, examine, is_lasting};
use super::exit::{ExitStatus, Failure, status_of_diagnosis};
use super::printer::Printer;
use super::signals::Interrupt;
use crate::diagnose::rules::Rules;
use crate::model::{Finding, ThreadRef, span};
use crate::sys::descriptors::is_shortage;
use crate::target::TargetError;
use crate::target::launch::Launched;

/// How long it rests between two examinations.
const REST: Duration = Duration::from_millis(500);
/// How long a program has to end by itself after Ctrl-C, which a terminal sends to it too.
const MAX_GOODBYE: Duration = Duration::from_secs(2);
/// How often it is checked whether the program has ended.
const ROUND: Duration = Duration::from_millis(20);

/// Examines the program again and again until something is stuck, or it ends: then its exit code is ours.
pub fn watch_program(
    launched: &mut Launched,
    arguments: &DiagnoseArguments,
    rules: &Rules,
    printer: &Printer,
) -> Result<ExitStatus, Failure> {
    let pid = launched.pid();
    if !arguments.quiet {
        printer.warn(&format!(
            "watching process {pid} for threads that are stuck for longer than {}",
            span(arguments.threshold)
        ));
    }
    let interrupt = Interrupt::catch();
    let mut reported = BTreeSet::new();
    let rest = REST.min(arguments.threshold.max(Duration::from_millis(50)));
    loop {
        if has_ended_within(launched, rest, Some(&interrupt)) {
            return end(launched, arguments, printer);
        }
        if interrupt.is_asked() {
            if has_ended_within(launched, MAX_GOODBYE, None) {
                return end(launched, arguments, printer);
            }
            // It does not end: what is known of it is the answer.
            let mut at_once = Patience {
                window: Duration::ZERO,
                longest: Duration::ZERO,
                shows_progress: false,
                is_over: &mut || true,
            };
            let examination = examine(pid, arguments, rules, &mut at_once)?;
            return show(&examination, pid, arguments, printer);
        }
        let window = arguments.window.unwrap_or(DEFAULT_WINDOW);
        let mut patience = Patience {
            window,
            longest: match arguments.window {
                Some(given) => given,
                None => window.max(arguments.threshold),
            },
            // The program's own output is on the same terminal.
            shows_progress: false,
            is_over: &mut || interrupt.is_asked() || launched.has_ended(),
        };
        match examine(pid, arguments, rules, &mut patience) {
            Ok(examination) => {
                if is_end(&examination, arguments) {
                    return show(&examination, pid, arguments, printer);
                }
                if !arguments.quiet {
                    remark(&examination, arguments, &mut reported, printer);
                }
            }
            // It ended between the two.
            Err(Failure::Target(error)) if !is_unopened(&error) => {}
            Err(failure) => return Err(failure),
        }
    }
}

/// Whether the program has ended, or ends within that time; the wait is cut short by an interrupt.
fn has_ended_within(
    launched: &mut Launched,
    time: Duration,
    interrupt: Option<&Interrupt>,
) -> bool {
    let began = Instant::now();
    loop {
        if launched.has_ended() {
            return true;
        }
        let is_asked = interrupt.is_some_and(Interrupt::is_asked);
        if is_asked || began.elapsed() >= time {
            return false;
        }
        std::thread::sleep(ROUND.min(time));
    }
}

/// Whether the watching ends with this examination. Between its start and its first line a program has no Python yet.
fn is_end(examination: &Examination, arguments: &DiagnoseArguments) -> bool {
    let is_failure = |finding: &Finding| {
        finding.confidence >= arguments.fail_on.confidence()
            && is_lasting(finding, arguments.threshold)
    };
    let status = status_of_diagnosis(&examination.processes, false);
    examination.findings.iter().any(is_failure)
        || matches!(status, ExitStatus::Denied | ExitStatus::Incomplete)
}

/// Reports findings for which the watching does not end, each once.
fn remark(
    examination: &Examination,
    arguments: &DiagnoseArguments,
    reported: &mut BTreeSet<(ThreadRef, &'static str)>,
    printer: &Printer,
) {
    let is_worth_it = |finding: &&Finding| is_lasting(finding, arguments.threshold);
    for finding in examination.findings.iter().filter(is_worth_it) {
        let class = finding.verdict.name();
        if reported.insert((finding.root, class)) {
            let (confidence, summary) = (finding.confidence.word(), &finding.summary);
            printer.warn(&format!(
                "{class} ({confidence}): {summary}; still watching"
            ));
        }
    }
}

/// The program has ended, and nothing in it was stuck.
fn end(
    launched: &mut Launched,
    arguments: &DiagnoseArguments,
    printer: &Printer,
) -> Result<ExitStatus, Failure> {
    let status = launched.exit_status();
    if arguments.reading.json {
        print_document(&Examination::of_nothing(), None, arguments, printer)?;
    }
    if !arguments.quiet {
        let how = status.map_or("exit code unknown".to_owned(), |status| status.to_string());
        printer.warn(&format!(
            "the program ended by itself ({how}); nothing in it was stuck"
        ));
    }
    Ok(status.map_or(ExitStatus::Done, ExitStatus::of_program))
}

/// Whether the target is there and there were too few descriptors to open it.
fn is_unopened(error: &TargetError) -> bool {
    matches!(error, TargetError::Io { source, .. } if is_shortage(source))
}
