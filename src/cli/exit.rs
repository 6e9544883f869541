//! What the exit code says; it is chosen here and nowhere else.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use thiserror::Error;

use crate::export::OutputError;
use crate::model::{MemoryOutcome, Pid, ProcessSnapshot};
use crate::sampler::SamplerError;
use crate::sys::descriptors::is_shortage;
use crate::sys::own_proc::ProcError;
use crate::target::TargetError;
use crate::target::candidates::Candidate;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// Done; nothing is stuck.
    Done,
    /// Done; something is stuck.
    Stuck,
    /// The command line makes no sense.
    Usage,
    /// There is no such process, or it ended before anything was seen.
    NoProcess,
    /// Not permitted.
    Denied,
    /// Nothing is stuck as far as was seen, but threads or files could not be read.
    Incomplete,
    /// Nothing readable in it.
    Unreadable,
    /// A bug of ours.
    Bug,
    /// What another process has ended with.
    Passed(u8),
    /// The output can't be written.
    OutputFailed,
}

impl ExitStatus {
    /// The number that the kernel is given.
    pub fn code(self) -> u8 {
        match self {
            ExitStatus::Done => 0,
            ExitStatus::Stuck => 1,
            ExitStatus::Usage => 2,
            ExitStatus::NoProcess => 3,
            ExitStatus::Denied | ExitStatus::Incomplete => 4,
            ExitStatus::Unreadable => 5,
            ExitStatus::Bug => 70,
            // EX_IOERR of sysexits.h, as EX_SOFTWARE is.
            ExitStatus::OutputFailed => 74,
            ExitStatus::Passed(code) => code,
        }
    }
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> ExitCode {
        ExitCode::from(status.code())
    }
}

/// Why a run gave nothing.
#[derive(Debug, Error)]
pub enum Failure {
    /// The target can't be looked at.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// No target was named and it is not clear which is meant.
    #[error("no process was named, and {} Python processes can be read", if .0.is_empty() { "no".to_owned() } else { .0.len().to_string() })]
    NoTarget(Vec<Candidate>),
    /// A program could not be started.
    #[error("start {program}: {source}")]
    Launch {
        /// The program.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// A program that was started ended before it could be looked at.
    #[error("the program ended before it could be looked at")]
    LaunchedEnded,
    /// The target can't be sampled.
    #[error(transparent)]
    Sampler(SamplerError),
    /// The name of the file does not say which format is meant.
    #[error("{}: which format is meant? several end in .json", .0.display())]
    UnclearFormat(PathBuf),
    /// A file of rules can't be read, or is none.
    #[error("{}: {reason}", .path.display())]
    Rules {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file of a recording could not be written.
    #[error("{}: {}", .0, .0.io())]
    File(#[from] OutputError),
    /// The terminal can't show a screen.
    #[error("this terminal can't show a screen (TERM={0})")]
    Terminal(String),
    /// A recording would go to a terminal.
    #[error(
        "a recording is not for a terminal, which also mixes it with what is said on standard error"
    )]
    DataToTerminal,
    /// The output could not be written.
    #[error("write the output: {0}")]
    Output(io::Error),
    /// `/proc` does not show what it should.
    #[error(transparent)]
    Proc(#[from] ProcError),
    /// The system refuses what we need for ourselves.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

impl From<SamplerError> for Failure {
    fn from(error: SamplerError) -> Self {
        match error {
            SamplerError::Target(error) => Failure::Target(error),
            other => Failure::Sampler(other),
        }
    }
}

impl Failure {
    /// What the exit code says of it.
    pub fn status(&self) -> ExitStatus {
        match self {
            Failure::Target(TargetError::Denied { .. } | TargetError::Hidden(_)) => {
                ExitStatus::Denied
            }
            Failure::Target(
                TargetError::NotFound(_) | TargetError::IsThread { .. } | TargetError::Ended(_),
            )
            | Failure::LaunchedEnded => ExitStatus::NoProcess,
            Failure::Target(TargetError::Io { source, .. }) if is_shortage(source) => {
                ExitStatus::Incomplete
            }
            Failure::Target(_) => ExitStatus::Unreadable,
            Failure::Proc(ProcError::Unreadable(source)) if is_shortage(source) => {
                ExitStatus::Incomplete
            }
            Failure::Sampler(_) | Failure::Proc(_) | Failure::System { .. } => {
                ExitStatus::Unreadable
            }
            // Where the output was sent can't take it: that is not ours to mend.
            Failure::File(_) | Failure::Output(_) => ExitStatus::OutputFailed,
            Failure::NoTarget(_)
            | Failure::Launch { .. }
            | Failure::UnclearFormat(_)
            | Failure::Rules { .. }
            | Failure::Terminal(_)
            | Failure::DataToTerminal => ExitStatus::Usage,
        }
    }
}

/// The exit code of a run that looked at these processes, the first of which was asked for.
pub fn status_of(processes: &[ProcessSnapshot], is_stuck: bool) -> ExitStatus {
    if is_stuck {
        return ExitStatus::Stuck;
    }
    match processes.first().map(|process| process.memory) {
        Some(MemoryOutcome::Denied) => ExitStatus::Denied,
        Some(MemoryOutcome::None | MemoryOutcome::Unreadable | MemoryOutcome::TimedOut) => {
            ExitStatus::Unreadable
        }
        Some(MemoryOutcome::Ended) | None => ExitStatus::NoProcess,
        Some(MemoryOutcome::Python | MemoryOutcome::NotPython) => ExitStatus::Done,
    }
}

/// The exit code of a diagnosis: that nothing is stuck can be said only of what could be seen. Refused is also a Python whose
/// threads' calls are not told, and a process that is no Python with descendants that were refused, unless one of them was read.
/// Where there were too few descriptors, not all could be seen.
pub fn status_of_diagnosis(processes: &[ProcessSnapshot], is_stuck: bool) -> ExitStatus {
    let status = status_of(processes, is_stuck);
    let asked = || processes.iter().filter(|process| !process.is_related);
    match status {
        ExitStatus::Done | ExitStatus::Unreadable if !asked().all(ProcessSnapshot::is_whole) => {
            return ExitStatus::Incomplete;
        }
        ExitStatus::Done => {}
        other => return other,
    }
    let is_python = |process: &&ProcessSnapshot| process.memory == MemoryOutcome::Python;
    let is_seen = |process: &ProcessSnapshot| !process.refuses_calls;
    match processes.first().filter(is_python) {
        Some(root) if is_seen(root) => ExitStatus::Done,
        Some(_) => ExitStatus::Denied,
        None if asked().filter(is_python).any(is_seen) => ExitStatus::Done,
        None if asked().any(is_denied) => ExitStatus::Denied,
        None => ExitStatus::Done,
    }
}

fn is_denied(process: &ProcessSnapshot) -> bool {
    process.memory == MemoryOutcome::Denied
        || (process.memory == MemoryOutcome::Python && process.refuses_calls)
}

/// The process that hints are about, when it did not let itself be seen.
pub fn denied(processes: &[ProcessSnapshot]) -> Option<Pid> {
    processes
        .iter()
        .find(|process| is_denied(process))
        .map(|process| process.pid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ProcessCounts, SchedState};

    fn process(memory: MemoryOutcome, unread_threads: usize) -> ProcessSnapshot {
        ProcessSnapshot {
            pid: Pid(7),
            ns_pid: None,
            ppid: Pid(1),
            depth: 0,
            is_related: false,
            title: String::new(),
            command: Vec::new(),
            runtime: None,
            memory,
            state: SchedState::Sleeping,
            started_at: None,
            age: None,
            container: None,
            tracer: None,
            handles_signals: false,
            handles_alarms: false,
            refuses_calls: false,
            unread_threads,
            lacks_descriptors: false,
            counts: ProcessCounts::default(),
            progress: None,
            threads: Vec::new(),
            errors: Vec::new(),
        }
    }

    #[test]
    fn health_is_said_only_of_what_was_seen_whole() {
        let status = |process: ProcessSnapshot| status_of_diagnosis(&[process], false);
        let whole = process(MemoryOutcome::Python, 0);
        assert_eq!(status(whole.clone()), ExitStatus::Done);
        assert_eq!(
            status(process(MemoryOutcome::Python, 1)),
            ExitStatus::Incomplete
        );
        assert_eq!(
            status(process(MemoryOutcome::Unreadable, 1)),
            ExitStatus::Incomplete
        );
        let partial = ProcessSnapshot {
            lacks_descriptors: true,
            ..whole.clone()
        };
        assert_eq!(status(partial.clone()), ExitStatus::Incomplete);
        assert_eq!(
            status_of_diagnosis(std::slice::from_ref(&partial), true),
            ExitStatus::Stuck
        );
        // What else is not to be seen of a stranger is no matter.
        let stranger = ProcessSnapshot {
            is_related: true,
            ..partial
        };
        assert_eq!(
            status_of_diagnosis(&[whole, stranger], false),
            ExitStatus::Done
        );
    }
}
