//! Which process the command line means: the named one, one to be started, or the one that is found.

use super::args::TargetArguments;
use super::exit::Failure;
use super::printer::Printer;
use crate::model::Pid;
use crate::target::candidates::{Choice, choose};
use crate::target::launch::{Launched, ProgramOutput};

/// The process that is meant.
#[derive(Debug)]
pub enum Selection {
    /// One that runs already.
    Running(Pid),
    /// One that we have started, and that ends with us.
    Launched(Launched),
}

impl Selection {
    /// Its pid.
    pub fn pid(&self) -> Pid {
        match self {
            Selection::Running(pid) => *pid,
            Selection::Launched(launched) => launched.pid(),
        }
    }

    /// Finds out, starting the program if one is to be started; reports what was chosen when nobody named it.
    pub fn resolve(
        arguments: &TargetArguments,
        output: ProgramOutput,
        printer: &Printer,
    ) -> Result<Selection, Failure> {
        Selection::resolve_for(arguments, output, false, printer)
    }

    /// The same for a command that reads whole trees, for which the first process of a container does.
    pub fn resolve_tree(
        arguments: &TargetArguments,
        output: ProgramOutput,
        printer: &Printer,
    ) -> Result<Selection, Failure> {
        Selection::resolve_for(arguments, output, true, printer)
    }

    fn resolve_for(
        arguments: &TargetArguments,
        output: ProgramOutput,
        takes_trees: bool,
        printer: &Printer,
    ) -> Result<Selection, Failure> {
        if let Some(program) = arguments.launch.first() {
            return Launched::start(&arguments.launch, output)
                .map(Selection::Launched)
                .map_err(|source| Failure::Launch {
                    program: program.to_string_lossy().into_owned(),
                    source,
                });
        }
        if let Some(pid) = arguments.pid {
            return Ok(Selection::Running(Pid(pid)));
        }
        match choose(takes_trees) {
            Choice::Neighbour(pid) => {
                printer.warn(&format!(
                    "target: process {pid}, the first process of the container beside this one"
                ));
                Ok(Selection::Running(pid))
            }
            Choice::Only(candidate) => {
                printer.warn(&format!(
                    "target: process {} ({})",
                    candidate.pid, candidate.title
                ));
                Ok(Selection::Running(candidate.pid))
            }
            Choice::Ambiguous(candidates) => Err(Failure::NoTarget(candidates)),
        }
    }
}
