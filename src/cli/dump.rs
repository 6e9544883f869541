//! `stuckspy dump`: every thread of a process, with its stack.

use std::time::{Instant, SystemTime};

use super::args::DumpArguments;
use super::exit::{ExitStatus, Failure, denied, status_of};
use super::hints::{access_hint, descriptors_hint};
use super::printer::Printer;
use super::selection::Selection;
use super::stops::say_stops;
use super::worker_link;
use crate::model::{MemoryOutcome, ProcessSnapshot};
use crate::redact::{redact_commands, redact_locals};
use crate::report::json::{self, DumpDocument, Head};
use crate::report::text::{self, TextOptions};
use crate::snapshot::{CaptureOptions, Locals, TreeOptions, capture_tree};
use crate::sys::deadline::TimeBudget;
use crate::sys::job_control::DeferredSuspension;
use crate::target::Target;
use crate::target::access::AccessReport;
use crate::target::family::tree as tree_of;

/// Runs the command.
pub fn run(arguments: &DumpArguments, printer: &Printer) -> Result<ExitStatus, Failure> {
    let mut selection = Selection::resolve(&arguments.target, printer)?;
    let pid = match &mut selection {
        Selection::Running(pid) => *pid,
        Selection::Launched(launched) => {
            std::thread::sleep(arguments.after);
            if launched.has_ended() {
                return Err(Failure::LaunchedEnded);
            }
            launched.pid()
        }
    };
    let reading = &arguments.reading;
    let (taken_at, started) = (SystemTime::now(), Instant::now());
    worker_link::reading_ends_within(reading.deadline);
    let options = TreeOptions {
        capture: CaptureOptions {
            is_blocking: reading.blocking,
            time: TimeBudget::new(reading.deadline),
            locals: match arguments.locals {
                true => Locals::All,
                false => Locals::None,
            },
            ..CaptureOptions::default()
        },
        subprocesses: arguments.subprocesses,
        holders_after: None,
    };
    let deferred = reading.blocking.then(DeferredSuspension::begin);
    let mut tree = capture_tree(pid, options)?;
    drop(deferred);
    if !arguments.no_redact {
        redact_locals(&mut tree.processes);
        redact_commands(&mut tree.processes);
    }
    let head = Head::new(taken_at, started.elapsed());
    if reading.json {
        let access = Target::open(pid)
            .map(|target| AccessReport::probe(Some(&target)).access)
            .unwrap_or_default();
        printer.print(|out| json::write(&DumpDocument::new(head, access, &tree.processes), out))?;
    } else {
        let options = TextOptions {
            full_filenames: reading.full_filenames,
            ..TextOptions::default()
        };
        printer.print(|out| text::write_dump(&tree.processes, options, out))?;
    }
    if reading.blocking {
        say_stops(tree.stops, printer);
    }
    if let Some(hint) = denied(&tree.processes).and_then(access_hint) {
        printer.hint(&hint);
    }
    if let Some(hint) = descriptors_hint(&tree.processes) {
        printer.hint(&hint);
    }
    let is_other = |process: &ProcessSnapshot| process.memory == MemoryOutcome::NotPython;
    let has_children = || tree_of(pid).iter().any(|relative| relative.pid != pid);
    let is_root_other = tree.processes.first().is_some_and(is_other);
    if !arguments.subprocesses && is_root_other && has_children() {
        printer.hint("with --subprocesses, the Python processes below it are dumped too");
    }
    Ok(status_of(&tree.processes, false))
}
