//! What the exit code says; it is chosen here and nowhere else.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{self, ExitCode};

use thiserror::Error;

use crate::export::OutputError;
use crate::model::{Confidence, Finding, MemoryOutcome, Pid, ProcessSnapshot};
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
    /// No Python in it, or nothing readable.
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

impl ExitStatus {
    /// The exit code of a program that was started, as a shell would give it: 128 and the number of the signal that killed it.
    pub fn of_program(status: process::ExitStatus) -> ExitStatus {
        let code = status.code().or_else(|| Some(128 + status.signal()?));
        code.and_then(|code| u8::try_from(code).ok())
            .map_or(ExitStatus::Bug, ExitStatus::Passed)
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
    #[error("the program ended before it could be dumped")]
    LaunchedEnded,
    /// The target can't be sampled.
    #[error(transparent)]
    Sampler(SamplerError),
    /// The end of the file's name stands for no format, or for several.
    #[error("{}: the end of the name does not say which format to write", .0.display())]
    UnknownFormat(PathBuf),
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
    #[error("a recording can't go to a terminal, which mixes it with messages on standard error")]
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
            | Failure::UnknownFormat(_)
            | Failure::Rules { .. }
            | Failure::Terminal(_)
            | Failure::DataToTerminal => ExitStatus::Usage,
        }
    }
}

/// Whether one of the findings is at least as sure as `fail_on`.
pub fn is_failure(findings: &[Finding], fail_on: Confidence) -> bool {
    findings.iter().any(|finding| finding.confidence >= fail_on)
}

/// The exit code of a dump of these processes, the first of which was asked for.
pub fn status_of_dump(processes: &[ProcessSnapshot]) -> ExitStatus {
    let is_seen = |process: &ProcessSnapshot| process.memory == MemoryOutcome::Python;
    status_of_tree(processes.iter(), is_seen)
}

/// The exit code of a diagnosis: that nothing is stuck can be said only of what could be seen. A Python whose threads' system calls
/// are not shown was not seen. Where there were too few descriptors, not all could be seen.
pub fn status_of_diagnosis(processes: &[ProcessSnapshot], is_stuck: bool) -> ExitStatus {
    if is_stuck {
        return ExitStatus::Stuck;
    }
    let asked = || processes.iter().filter(|process| !process.is_related);
    let is_seen = |process: &ProcessSnapshot| {
        process.memory == MemoryOutcome::Python && !process.refuses_calls
    };
    match status_of_tree(asked(), is_seen) {
        ExitStatus::Done | ExitStatus::Unreadable if !asked().all(ProcessSnapshot::is_whole) => {
            ExitStatus::Incomplete
        }
        status => status,
    }
}

/// What the first process says of the run; where it is no Python, as a shell or an init, what its descendants say.
fn status_of_tree<'a>(
    mut processes: impl Iterator<Item = &'a ProcessSnapshot>,
    is_seen: impl Fn(&ProcessSnapshot) -> bool,
) -> ExitStatus {
    let Some(root) = processes.next() else {
        return ExitStatus::NoProcess;
    };
    match root.memory {
        MemoryOutcome::Python if is_seen(root) => ExitStatus::Done,
        MemoryOutcome::Python | MemoryOutcome::Denied => ExitStatus::Denied,
        MemoryOutcome::None | MemoryOutcome::Unreadable | MemoryOutcome::TimedOut => {
            ExitStatus::Unreadable
        }
        MemoryOutcome::Ended => ExitStatus::NoProcess,
        MemoryOutcome::NotPython => {
            let descendants: Vec<_> = processes.collect();
            if descendants.iter().any(|process| is_seen(process)) {
                ExitStatus::Done
            } else if descendants.iter().any(|process| is_denied(process)) {
                ExitStatus::Denied
            } else {
                ExitStatus::Unreadable
            }
        }
    }
}

/// Whether no Python was found where one was asked for, nor anything that could be one.
pub fn is_without_python(processes: &[ProcessSnapshot]) -> bool {
    let mut asked = processes.iter().filter(|process| !process.is_related);
    asked.all(|process| process.memory == MemoryOutcome::NotPython)
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
    fn a_tree_without_python_is_not_healthy() {
        use MemoryOutcome::{Denied, Ended, NotPython, Python, TimedOut, Unreadable};
        let tree = |outcomes: &[MemoryOutcome]| -> Vec<ProcessSnapshot> {
            outcomes.iter().map(|memory| process(*memory, 0)).collect()
        };
        for (outcomes, status) in [
            (&[Python][..], ExitStatus::Done),
            (&[Python, NotPython, Denied], ExitStatus::Done),
            (&[NotPython], ExitStatus::Unreadable),
            (&[NotPython, NotPython], ExitStatus::Unreadable),
            (&[NotPython, TimedOut], ExitStatus::Unreadable),
            // A shell or an init above it.
            (&[NotPython, NotPython, Python], ExitStatus::Done),
            (&[NotPython, Denied, Python], ExitStatus::Done),
            (&[NotPython, Denied], ExitStatus::Denied),
            (&[Denied, Python], ExitStatus::Denied),
            (&[Unreadable, Python], ExitStatus::Unreadable),
            (&[Ended], ExitStatus::NoProcess),
            (&[], ExitStatus::NoProcess),
        ] {
            let processes = tree(outcomes);
            assert_eq!(status_of_dump(&processes), status, "{outcomes:?}");
            let diagnosed = status_of_diagnosis(&processes, false);
            assert_eq!(diagnosed, status, "{outcomes:?}");
            assert_eq!(status_of_diagnosis(&processes, true), ExitStatus::Stuck);
        }
        // A Python that is only waited for by others was not asked for.
        let mut related = tree(&[NotPython, Python]);
        related[1].is_related = true;
        assert_eq!(status_of_diagnosis(&related, false), ExitStatus::Unreadable);
        assert!(is_without_python(&related));
        // Threads whose system calls are not shown may be stuck.
        let mut hidden = tree(&[Python]);
        hidden[0].refuses_calls = true;
        assert_eq!(status_of_diagnosis(&hidden, false), ExitStatus::Denied);
        assert_eq!(status_of_dump(&hidden), ExitStatus::Done);
    }

    #[test]
    fn a_program_passes_its_exit_code_on() {
        let of = |wait_status| ExitStatus::of_program(process::ExitStatus::from_raw(wait_status));
        assert_eq!(of(0).code(), 0);
        assert_eq!(of(3 << 8).code(), 3);
        assert_eq!(of(255 << 8).code(), 255);
        assert_eq!(of(9).code(), 137);
        // With a core dump.
        assert_eq!(of(0x80 | 11).code(), 139);
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
