//! Stopping one thread of another process for a moment, by a thread of our own that lets go of it whatever the reader does.
//!
//! Only the thread that has seized a tracee can let it go, and a tracee can be detached only while it is stopped
//! (`kernel/ptrace.c::ptrace_check_attach`, Linux 6.18). So the tracer must never block, and must be able to let go of a
//! thread that has not stopped. Hence it is a thread of its own, which reads nothing: it holds a stop no longer than
//! [`MAX_HOLD`], even if the reader is blocked in the kernel. If the tracee doesn't stop in time, the tracer ends itself: when a
//! tracer ends, the kernel detaches its tracees and takes back the request to stop, also from one in uninterruptible sleep
//! (`exit_ptrace`, `__ptrace_unlink`). The next stop gets a new tracer.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::ptrace;
use thiserror::Error;

use super::affinity::Affinity;
use super::clock::{now, sleep_precisely};
use super::job_control::TracerSignals;
use super::priority::ask_for_short_turns;
use crate::model::Tid;

/// How long a thread may take to stop. One that waits for a processor for longer (CPU limit), or is in uninterruptible sleep, is
/// let go.
pub const MAX_STOP_WAIT: Duration = Duration::from_millis(50);
/// How long a thread is held at most, if we are let run.
pub const MAX_HOLD: Duration = Duration::from_millis(50);
/// How often it is asked whether a thread has stopped, after the first few times.
const POLL: Duration = Duration::from_micros(50);
/// So many times it is asked at once: a thread on another processor stops within microseconds.
const QUICK_POLLS: u32 = 3;
/// How long the end of a tracer thread is waited for.
const MAX_GOODBYE: Duration = Duration::from_secs(1);

/// Why a thread was not stopped.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopError {
    /// The kernel refuses the attach: no right, or another process traces the thread.
    #[error("not permitted to stop thread {0} (or it is traced already)")]
    Denied(Tid),
    /// The thread has ended.
    #[error("thread {0} has ended")]
    Gone(Tid),
    /// It did not stop in time, and was let go.
    #[error(
        "thread {0} did not stop within {MAX_STOP_WAIT:?} (CPU limit, busy processor, uninterruptible sleep or frozen cgroup)"
    )]
    Unwilling(Tid),
    /// Another failure of a call.
    #[error("stopping thread {0}: {1}")]
    Call(Tid, Errno),
    /// The tracer could not be started.
    #[error("no thread could be started to stop thread {0}")]
    NoTracer(Tid),
}

/// A thread that was not stopped, and how long it may have been stopped all the same before it was let go.
#[derive(Clone, Copy, Debug)]
pub struct Refusal {
    /// Why.
    pub error: StopError,
    /// An upper bound.
    pub pause: Duration,
}

/// How a stop went.
#[derive(Clone, Copy, Debug)]
pub struct Hold {
    /// Whether the thread was stopped until it was released. If not, it was let go after [`MAX_HOLD`].
    pub is_whole: bool,
    /// How long the thread was stopped: from the last moment at which it was seen not to be, until it was detached. An upper bound,
    /// too long by 50 µs at most if we are let run.
    pub pause: Duration,
}

/// Stops threads, one at a time.
#[derive(Debug)]
pub struct Tracer {
    link: Option<Link>,
    /// Where our threads may run; whoever asks for a stop may be pinned.
    affinity: Affinity,
}

/// The connection to a tracer thread.
#[derive(Debug)]
struct Link {
    requests: Sender<Request>,
    answers: Receiver<Answer>,
    thread: JoinHandle<()>,
    tid: Tid,
}

#[derive(Clone, Copy, Debug)]
enum Request {
    Stop(Tid),
    Release,
}

#[derive(Clone, Copy, Debug)]
enum Answer {
    /// What was asked for is stopped.
    Stopped,
    /// It is not, and not seized either.
    Refused(StopError),
    /// It can't be detached, so the tracer ends; since that moment it may be stopped.
    Ends(StopError, Duration),
    /// It is released.
    Released(Hold),
    /// The same, but it can't be detached, so the tracer ends.
    ReleasedByEnd(Hold, Duration),
}

impl Tracer {
    /// Starts a tracer thread. Call it before the calling thread is pinned to a processor.
    pub fn start() -> Self {
        let affinity = Affinity::of_this_thread();
        Tracer {
            link: Link::open(&affinity),
            affinity,
        }
    }

    /// Stops `tid`.
    pub fn stop(&mut self, tid: Tid) -> Result<StoppedThread<'_>, Refusal> {
        let refused = |error| Refusal {
            error,
            pause: Duration::ZERO,
        };
        if self.link.is_none() {
            self.link = Link::open(&self.affinity);
        }
        let Some(link) = &self.link else {
            return Err(refused(StopError::NoTracer(tid)));
        };
        // One that has ended answers nothing.
        let _ = link.requests.send(Request::Stop(tid));
        match link.answers.recv() {
            Ok(Answer::Stopped) => Ok(StoppedThread { tracer: Some(self) }),
            Ok(Answer::Refused(error)) => Err(refused(error)),
            Ok(Answer::Ends(error, since)) => {
                self.see_off();
                Err(Refusal {
                    error,
                    pause: now().saturating_sub(since),
                })
            }
            Ok(Answer::Released(_) | Answer::ReleasedByEnd(..)) | Err(_) => {
                self.see_off();
                Err(refused(StopError::NoTracer(tid)))
            }
        }
    }

    fn release(&mut self) -> Hold {
        let answer = self.link.as_ref().and_then(|link| {
            let _ = link.requests.send(Request::Release);
            link.answers.recv().ok()
        });
        match answer {
            Some(Answer::Released(hold)) => hold,
            Some(Answer::ReleasedByEnd(hold, since)) => {
                self.see_off();
                Hold {
                    pause: now().saturating_sub(since),
                    ..hold
                }
            }
            _ => {
                self.see_off();
                Hold {
                    is_whole: false,
                    pause: Duration::ZERO,
                }
            }
        }
    }

    /// Waits until the tracer thread has ended, and so has let go of its tracee.
    fn see_off(&mut self) {
        let Some(link) = self.link.take() else {
            return;
        };
        drop(link.requests);
        if let Err(panic) = link.thread.join() {
            std::panic::resume_unwind(panic);
        }
        // It is joined before it detaches (`kernel/exit.c::do_exit`: `exit_mm` comes before `exit_notify`), but its number is
        // given back afterwards.
        let since = now();
        while is_our_thread(link.tid) && now() < since + MAX_GOODBYE {
            std::thread::sleep(POLL);
        }
    }
}

impl Link {
    fn open(affinity: &Affinity) -> Option<Link> {
        let (requests, requested) = channel();
        let (answering, answers) = channel();
        let (naming, named) = channel();
        let affinity = affinity.clone();
        let thread = std::thread::Builder::new().name("tracer".to_owned());
        let thread = thread.spawn(move || {
            TracerSignals::Suspension.take();
            affinity.take();
            // Where these are refused, stops take longer, which is measured.
            let _ = ask_for_short_turns();
            sleep_precisely();
            let _ = naming.send(Tid(nix::unistd::gettid().as_raw()));
            serve(&requested, &answering);
        });
        let thread = thread.ok()?;
        let tid = named.recv().ok()?;
        Some(Link {
            requests,
            answers,
            thread,
            tid,
        })
    }
}

/// A thread that is stopped; dropping it lets it go on. It may have been let go before, if it was held for too long.
#[derive(Debug)]
pub struct StoppedThread<'a> {
    tracer: Option<&'a mut Tracer>,
}

impl StoppedThread<'_> {
    /// Lets it go on.
    pub fn release(mut self) -> Hold {
        match self.tracer.take() {
            Some(tracer) => tracer.release(),
            // It is taken here and when it is dropped only.
            None => Hold {
                is_whole: false,
                pause: Duration::ZERO,
            },
        }
    }
}

impl Drop for StoppedThread<'_> {
    fn drop(&mut self) {
        if let Some(tracer) = self.tracer.take() {
            tracer.release();
        }
    }
}

/// What a tracer thread does, until nobody asks any more or it holds a thread that can't be detached.
fn serve(requests: &Receiver<Request>, answers: &Sender<Answer>) {
    while let Ok(request) = requests.recv() {
        let Request::Stop(tid) = request else {
            continue;
        };
        // A signal to us between a stop and the release would lengthen the stop.
        TracerSignals::None.take();
        let (answer, is_end) = match stop(tid) {
            Ok(since) => {
                // If nobody listens any more, the wait below is over at once.
                let _ = answers.send(Answer::Stopped);
                let released = requests.recv_timeout(MAX_HOLD);
                let detached = resume(libc::PTRACE_DETACH, tid, 0);
                let hold = Hold {
                    is_whole: released.is_ok(),
                    pause: now().saturating_sub(since),
                };
                if detached.is_ok() {
                    TracerSignals::Suspension.take();
                }
                if matches!(released, Err(RecvTimeoutError::Timeout)) && detached.is_ok() {
                    // Its reader hears that when it is done.
                    let _ = requests.recv();
                }
                match detached {
                    Ok(()) => (Answer::Released(hold), false),
                    // It was killed, and a dead tracee is buried by our end.
                    Err(_) => (Answer::ReleasedByEnd(hold, since), true),
                }
            }
            Err(Failure::NotSeized(error)) => {
                TracerSignals::Suspension.take();
                (Answer::Refused(error), false)
            }
            Err(Failure::Seized(error, since)) => (Answer::Ends(error, since), true),
        };
        if answers.send(answer).is_err() || is_end {
            return;
        }
    }
}

/// Why a thread was not stopped.
enum Failure {
    /// It is not traced.
    NotSeized(StopError),
    /// It is, and may be stopped since that moment.
    Seized(StopError, Duration),
}

/// Seizes and interrupts `tid`, and waits until it is stopped. Gives the last moment at which it was not.
///
/// PTRACE_SEIZE is used, not PTRACE_ATTACH: it sends no signal.
fn stop(tid: Tid) -> Result<Duration, Failure> {
    ptrace::seize(tid.to_nix(), ptrace::Options::empty()).map_err(|errno| {
        Failure::NotSeized(match errno {
            Errno::EPERM | Errno::EACCES => StopError::Denied(tid),
            Errno::ESRCH => StopError::Gone(tid),
            errno => StopError::Call(tid, errno),
        })
    })?;
    let asked = now();
    // Signals that it was about to take make stops of their own.
    let mut stopped_by_signals = Duration::ZERO;
    let mut at_large = asked;
    let failed = |error, since: Duration, more| Failure::Seized(error, since.saturating_sub(more));
    if let Err(errno) = ptrace::interrupt(tid.to_nix()) {
        let error = match errno {
            Errno::ESRCH => StopError::Gone(tid),
            errno => StopError::Call(tid, errno),
        };
        return Err(failed(error, asked, stopped_by_signals));
    }
    let mut polls = 0;
    loop {
        let looked = now();
        match wait_once(tid) {
            Ok(None) if looked > asked + MAX_STOP_WAIT => {
                return Err(failed(
                    StopError::Unwilling(tid),
                    looked,
                    stopped_by_signals,
                ));
            }
            Ok(None) => {
                at_large = looked;
                polls += 1;
                match polls <= QUICK_POLLS {
                    true => std::thread::yield_now(),
                    false => std::thread::sleep(POLL),
                }
            }
            // A stop by a signal that is about to be delivered: it must reach the target, so pass it on and wait for our own
            // stop behind it. It fails only when the thread has been killed meanwhile, which the next wait tells.
            Ok(Some(Stop::BySignal(signal))) => {
                let _ = resume(libc::PTRACE_CONT, tid, signal);
                let resumed = now();
                stopped_by_signals += resumed.saturating_sub(at_large);
                at_large = resumed;
            }
            Ok(Some(Stop::ByEvent)) => return Ok(at_large.saturating_sub(stopped_by_signals)),
            Ok(Some(Stop::Ended)) | Err(Errno::ECHILD) => {
                return Err(Failure::NotSeized(StopError::Gone(tid)));
            }
            Err(Errno::EINTR) => {}
            Err(errno) => {
                return Err(failed(
                    StopError::Call(tid, errno),
                    at_large,
                    stopped_by_signals,
                ));
            }
        }
    }
}

/// Why a traced thread reports.
enum Stop {
    /// An event stop of any kind: PTRACE_EVENT_STOP, with SIGTRAP or with the signal of a job-control stop when the
    /// target was stopped already. The thread is stopped.
    ByEvent,
    /// This signal is about to be delivered to it; real-time signals have numbers that no enumeration has.
    BySignal(libc::c_int),
    /// It has ended.
    Ended,
}

/// Asks once, without waiting, whether the thread has stopped.
#[allow(unsafe_code)]
fn wait_once(tid: Tid) -> Result<Option<Stop>, Errno> {
    let mut status = 0;
    // SAFETY: `status` is a valid place for one int, and waitpid writes nothing else.
    let found = unsafe { libc::waitpid(tid.0, &raw mut status, libc::__WALL | libc::WNOHANG) };
    match found {
        -1 => Err(Errno::last()),
        0 => Ok(None),
        _ if !libc::WIFSTOPPED(status) => Ok(Some(Stop::Ended)),
        _ if status >> 16 != 0 => Ok(Some(Stop::ByEvent)),
        _ => Ok(Some(Stop::BySignal(libc::WSTOPSIG(status)))),
    }
}

/// Lets a stopped thread go on by PTRACE_CONT or PTRACE_DETACH, with a signal to deliver or 0.
#[allow(unsafe_code)]
fn resume(request: libc::c_uint, tid: Tid, signal: libc::c_int) -> Result<(), Errno> {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: for these two requests the address is ignored and the data is a signal number, not a pointer to anything.
    let result = unsafe { libc::ptrace(request, tid.0, none, libc::c_long::from(signal)) };
    Errno::result(result).map(drop)
}

/// Whether a thread of ours has this number.
#[allow(unsafe_code)]
fn is_our_thread(tid: Tid) -> bool {
    let own = std::process::id();
    // SAFETY: tgkill takes no pointers, and signal 0 only asks whether the thread is there.
    unsafe { libc::syscall(libc::SYS_tgkill, own, tid.0, 0) == 0 }
}
