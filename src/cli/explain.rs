//! `stuckspy explain`: what a verdict means.

use super::args::ExplainArguments;
use super::exit::{ExitStatus, Failure};
use super::printer::Printer;
use crate::diagnose::explain;

/// Runs the command.
pub fn run(arguments: &ExplainArguments, printer: &Printer) -> Result<ExitStatus, Failure> {
    let text = match arguments.verdict {
        Some(class) => format!("{}: {}", class.name(), explain::text(class)),
        None => explain::document(),
    };
    printer.print(|out| out.write_all(text.as_bytes()))?;
    Ok(ExitStatus::Done)
}
