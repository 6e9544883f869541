//! The clock and the loop: looks at all threads of a process, or of a tree, again and again, and tells what it saw.

mod clock;
mod engine;
mod process;
mod process_finder;
mod thread;
mod thread_lists;
mod thread_set;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use thiserror::Error;

use crate::model::{Batch, MemoryOutcome, Pid, ProcessIndex, SamplingEnd};
use crate::snapshot::attach::Attached;
use crate::target::{Target, TargetError};
use engine::{Engine, Links, batch_bytes};
use process_finder::{ProcessEvent, ProcessFinder, look_into};
pub use watch::Watch;

/// Highest rate in samples a second.
pub const MAX_RATE: u32 = 10_000;

/// How long after its start a process that holds no Python is waited for.
const YOUTH: Duration = Duration::from_secs(5);
/// How often it is looked at meanwhile.
const RETRY: Duration = Duration::from_millis(20);

/// How a process is sampled.
#[derive(Clone, Copy, Debug)]
pub struct SamplerOptions {
    /// Samples a second, 1 to 10,000.
    pub rate: u32,
    /// Whether its descendants are sampled too, as they come and go.
    pub subprocesses: bool,
    /// Whether each thread that could run is stopped while it is read.
    pub is_blocking: bool,
    /// How long it goes on, if it has an end of its own.
    pub duration: Option<Duration>,
}

impl SamplerOptions {
    /// Time between two samples.
    pub fn interval(&self) -> Duration {
        Duration::from_secs(1) / self.rate.clamp(1, MAX_RATE)
    }
}

/// Why a process can't be sampled.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SamplerError {
    /// It can't be looked at.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// It holds no Python.
    #[error("process {0} holds no Python")]
    NotPython(Pid),
    /// Its Python can't be read.
    #[error("process {pid}: {reason}")]
    Unreadable {
        /// The process.
        pid: Pid,
        /// Why.
        reason: String,
    },
    /// A thread could not be started.
    #[error("start a thread: {0}")]
    NoThread(std::io::Error),
}

/// A sampler at work, on threads of its own.
#[derive(Debug)]
pub struct Sampling {
    batches: Receiver<Batch>,
    is_over: Arc<AtomicBool>,
    backlog: Arc<AtomicUsize>,
    engine: Option<std::thread::JoinHandle<()>>,
}

impl Sampling {
    /// Begins to sample `pid`: with its descendants when they are wanted, and then it need not be a Python itself. A
    /// process that has only just been started is given some seconds to become one.
    pub fn start(pid: Pid, options: SamplerOptions) -> Result<Sampling, SamplerError> {
        let (target, attached) = attach_root(pid, options.subprocesses)?;
        let (batches_in, batches) = mpsc::channel();
        let (news_in, news) = mpsc::channel();
        let (changed_in, changed) = mpsc::channel();
        let is_over = Arc::new(AtomicBool::new(false));
        let backlog = Arc::new(AtomicUsize::new(0));
        let python = attached
            .as_ref()
            .map(|attached| attached.runtime.info.version.clone());
        let finder = ProcessFinder::new(
            Arc::clone(&target),
            attached.is_some(),
            python,
            options.subprocesses,
            news_in.clone(),
        );
        if let Some(attached) = attached {
            // The receiver is in our hands: it can't be closed.
            let _ = news_in.send(ProcessEvent::Attached(
                ProcessIndex(0),
                target,
                Box::new(attached),
            ));
        }
        let links = Links {
            batches: batches_in,
            news,
            changed: changed_in,
            is_over: Arc::clone(&is_over),
            backlog: Arc::clone(&backlog),
        };
        let ends = Arc::clone(&is_over);
        std::thread::Builder::new()
            .name("finder".to_owned())
            .spawn(move || finder.run(&ends, &changed))
            .map_err(SamplerError::NoThread)?;
        let engine = std::thread::Builder::new()
            .name("sampler".to_owned())
            .spawn(move || Engine::new(options, links).run())
            .map_err(SamplerError::NoThread)?;
        Ok(Sampling {
            batches,
            is_over,
            backlog,
            engine: Some(engine),
        })
    }

    /// What has come in: at once if there is something, else as soon as there is, within `timeout`. The last batch has
    /// its `end` set; after it comes `None` only. Batches come about every 100 ms, also when nothing changes: when none
    /// comes for seconds, reading the target has blocked.
    pub fn next(&mut self, timeout: Duration) -> Option<Batch> {
        match self.batches.recv_timeout(timeout) {
            Ok(batch) => {
                let bytes = batch_bytes(&batch);
                self.backlog.fetch_sub(bytes, Ordering::Relaxed);
                Some(batch)
            }
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                if let Some(Err(panic)) = self.engine.take().map(std::thread::JoinHandle::join) {
                    std::panic::resume_unwind(panic);
                }
                None
            }
        }
    }

    /// Asks it to end; the last batch comes soon after, unless it is stuck in the kernel.
    pub fn stop(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// Asks it to end and gives what is still to come, for at most `timeout`. Where the last batch does not come in time,
    /// one that says so takes its place.
    pub fn finish(&mut self, timeout: Duration) -> Vec<Batch> {
        self.stop();
        let began = std::time::Instant::now();
        let mut batches = Vec::new();
        while let Some(left) = timeout.checked_sub(began.elapsed()) {
            match self.next(left) {
                Some(batch) => {
                    let is_last = batch.end.is_some();
                    batches.push(batch);
                    if is_last {
                        return batches;
                    }
                }
                None if self.engine.is_none() => return batches,
                None => {}
            }
        }
        batches.push(Batch {
            end: Some(SamplingEnd::Failed(
                "reading the target has blocked".to_owned(),
            )),
            ..Batch::default()
        });
        batches
    }
}

impl Drop for Sampling {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The process that is asked for, and its Python, which it has unless it need not.
fn attach_root(
    pid: Pid,
    need_not_be_python: bool,
) -> Result<(Arc<Target>, Option<Attached>), SamplerError> {
    loop {
        let target = Arc::new(Target::open(pid)?);
        let error = match look_into(&target) {
            Ok(attached) => return Ok((target, Some(attached))),
            Err(error) => error,
        };
        let is_young = target.age().is_none_or(|age| age < YOUTH);
        match error.outcome {
            MemoryOutcome::Denied => {
                return Err(TargetError::Denied {
                    pid,
                    what: "read the memory",
                }
                .into());
            }
            // Whatever was found of it then was of a process that was going away.
            _ if error.outcome == MemoryOutcome::Ended || target.has_ended() => {
                return Err(TargetError::Ended(pid).into());
            }
            MemoryOutcome::NotPython if need_not_be_python => return Ok((target, None)),
            // What was just started, or has just replaced its program, may not have come to its Python yet.
            _ if is_young => std::thread::sleep(RETRY),
            MemoryOutcome::NotPython => return Err(SamplerError::NotPython(pid)),
            _ => {
                let reason = error
                    .failure
                    .unwrap_or_else(|| "its Python can't be read".to_owned());
                return Err(SamplerError::Unreadable { pid, reason });
            }
        }
    }
}
