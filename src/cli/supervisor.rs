//! Running a command in a process of its own, so that stuckspy ends also where the kernel does not let that process go.
//!
//! A thread that asks a file system for something and is not answered sleeps in the kernel, and not even SIGKILL ends it
//! (`fs/fuse/dev.c::request_wait_answer`, Linux 6.18: once a request has reached the file system's daemon, the wait for its
//! answer can't be interrupted). Such a thread keeps its whole process from ending. So the command runs in a worker; the
//! process that was started passes signals to it, and its exit code back as soon as the worker has said it.

use std::io::{self, PipeReader, Write};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::low_level::emulate_default_handler;

use super::exit::ExitStatus;
use super::printer::Printer;
use super::worker_link::{self, Message};
use crate::model::{Pid, span};
use crate::sys::fork::{Half, split};

/// How long a worker that has said its exit code may take to end.
const MAX_GOODBYE: Duration = Duration::from_millis(200);
/// How long after a request to end a worker that sleeps in the kernel is waited for.
const MAX_SLEEP: Duration = Duration::from_secs(5);
/// How much longer than it said reading may take.
const SLACK: Duration = Duration::from_secs(2);
/// After that, it must have used a processor within so long.
const PROGRESS: Duration = Duration::from_secs(1);

/// What the kernel says of a signal that a terminal, or the kernel itself, has sent (`SI_KERNEL`, `asm-generic/siginfo.h`,
/// Linux 6.18): the whole process group has got it.
const FROM_KERNEL: i32 = 0x80;

/// Signals that the supervisor passes on.
const PASSED_ON: [Signal; 8] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGTSTP,
    Signal::SIGCONT,
];

/// Runs `work` in a worker and gives how it ended. Where there can't be a worker, it runs here.
pub fn run(printer: &Printer, work: impl FnOnce() -> ExitStatus) -> ExitStatus {
    let Ok((signals, old_mask)) = take_signals() else {
        return work();
    };
    let restore = || {
        let _ = old_mask.thread_set_mask();
    };
    let Ok((reader, writer)) = io::pipe() else {
        drop(signals);
        restore();
        return work();
    };
    match split() {
        Ok(Half::Supervisor(worker)) => {
            drop(writer);
            Supervisor {
                worker,
                signals,
                reader: Some(reader),
                said: None,
                reading_until: None,
                used: None,
                asked_to_end: None,
                stops: 0,
            }
            .watch(printer)
        }
        Ok(Half::Worker) => {
            drop((signals, reader));
            restore();
            worker_link::open(writer);
            let status = work();
            leave_streams();
            worker_link::tell(Message::Ending(status.code()));
            status
        }
        Err(_) => {
            restore();
            work()
        }
    }
}

/// Closes what the worker has of the standard streams: where a thread of it keeps it from ending, whoever reads the other end
/// would wait for more.
fn leave_streams() {
    let _ = io::stdout().flush();
    if let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}

/// Has signals kept for the supervisor; also gives the signals that were blocked before.
fn take_signals() -> nix::Result<(SignalFd, SigSet)> {
    let mut watched: SigSet = PASSED_ON.into_iter().collect();
    watched.add(Signal::SIGCHLD);
    let signals = SignalFd::with_flags(&watched, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    Ok((signals, watched.thread_swap_mask(SigmaskHow::SIG_BLOCK)?))
}

/// The process that was started, while the worker works.
struct Supervisor {
    worker: Pid,
    signals: SignalFd,
    reader: Option<PipeReader>,
    /// The exit code that the worker has said, and when.
    said: Option<(u8, Instant)>,
    reading_until: Option<Instant>,
    /// The processor time that it had used when that was over.
    used: Option<u64>,
    /// When a signal first asked it to end, and which.
    asked_to_end: Option<(Signal, Instant)>,
    /// How often we have stopped ourselves because the worker was stopped.
    stops: u64,
}

impl Supervisor {
    fn watch(mut self, printer: &Printer) -> ExitStatus {
        let began = Instant::now();
        loop {
            self.wait();
            self.read_messages();
            if let Some(status) = self.pass_signals_on() {
                return status;
            }
            let now = Instant::now();
            if let Some((code, at)) = self.said
                && now >= at + MAX_GOODBYE
            {
                return ExitStatus::Passed(code);
            }
            if self.said.is_none() && self.is_silent(now) {
                let _ = kill(self.worker.to_nix(), Signal::SIGKILL);
                printer.warn(&format!(
                    "gave up after {}: the kernel has not answered a question about a process in time",
                    span(began.elapsed())
                ));
                return ExitStatus::Denied;
            }
            if let Some((signal, at)) = self.asked_to_end
                && now >= at + MAX_SLEEP
                && self.sleeps_in_kernel()
            {
                let _ = kill(self.worker.to_nix(), Signal::SIGKILL);
                return end_by(signal);
            }
        }
    }

    /// Waits until there is something to do.
    fn wait(&self) {
        let limits = [
            self.said.map(|(_, at)| at + MAX_GOODBYE),
            self.reading_until.filter(|_| self.said.is_none()),
            self.asked_to_end
                .map(|(_, at)| (at + MAX_SLEEP).max(Instant::now() + MAX_SLEEP / 10)),
        ];
        let next = limits.into_iter().flatten().min();
        let left = next.map(|next| next.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        let mut ready = vec![PollFd::new(&self.signals, PollFlags::IN)];
        if let Some(reader) = &self.reader {
            ready.push(PollFd::new(reader, PollFlags::IN));
        }
        let _ = poll(&mut ready, left.as_ref());
    }

    fn read_messages(&mut self) {
        loop {
            let Some(reader) = &mut self.reader else {
                return;
            };
            let mut ready = [PollFd::new(&*reader, PollFlags::IN)];
            if !matches!(poll(&mut ready, Some(&Timespec::default())), Ok(1..)) {
                return;
            }
            let Some(message) = Message::read(reader) else {
                self.reader = None;
                return;
            };
            let now = Instant::now();
            match message {
                Message::Reading(Some(time)) => {
                    self.reading_until = now.checked_add(time.saturating_add(SLACK));
                }
                Message::Reading(None) => self.reading_until = None,
                Message::Ending(code) => self.said = Some((code, now)),
            }
        }
    }

    /// Deals with what has come in; gives the end, if it is that.
    fn pass_signals_on(&mut self) -> Option<ExitStatus> {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let number = i32::try_from(info.ssi_signo).unwrap_or(0);
            let Ok(which) = Signal::try_from(number) else {
                continue;
            };
            if which == Signal::SIGCHLD {
                if let Some(status) = self.reap() {
                    return Some(status);
                }
                continue;
            }
            if which == Signal::SIGTSTP {
                // A SIGCONT that comes right before this is lost (`kernel/signal.c::prepare_signal`, Linux 6.18: a stop signal
                // takes it out of the queue), so that the worker may still be stopped from the time before: it can't stop again.
                let before = self.stops;
                if let Some(status) = self.reap() {
                    return Some(status);
                }
                if self.stops == before && self.is_worker_stopped() {
                    self.stop();
                }
                if self.stops > before {
                    continue;
                }
            }
            if info.ssi_code != FROM_KERNEL {
                let _ = kill(self.worker.to_nix(), which);
            }
            let is_end = matches!(which, Signal::SIGINT | Signal::SIGTERM | Signal::SIGHUP);
            if is_end && self.asked_to_end.is_none() {
                self.asked_to_end = Some((which, Instant::now()));
            }
        }
        None
    }

    /// What has become of the worker.
    fn reap(&mut self) -> Option<ExitStatus> {
        let flags = WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED;
        loop {
            match waitpid(self.worker.to_nix(), Some(flags)) {
                Ok(WaitStatus::Exited(_, code)) => {
                    self.read_messages();
                    let said = self.said.map(|(code, _)| code);
                    return Some(ExitStatus::Passed(
                        said.unwrap_or_else(|| u8::try_from(code).unwrap_or(70)),
                    ));
                }
                Ok(WaitStatus::Signaled(_, signal, _)) => return Some(end_by(signal)),
                // Whoever has stopped it means all of it.
                Ok(WaitStatus::Stopped(..)) => self.stop(),
                Err(Errno::EINTR) => {}
                Ok(_) => return None,
                // Whoever started us has children reaped without being waited for.
                Err(_) => {
                    self.read_messages();
                    let said = self.said.map(|(code, _)| ExitStatus::Passed(code));
                    return Some(said.unwrap_or(ExitStatus::Bug));
                }
            }
        }
    }

    /// Stops as the worker has; whoever continues us continues it, since SIGCONT is passed on.
    fn stop(&mut self) {
        self.stops += 1;
        let _ = raise(Signal::SIGSTOP);
    }

    /// Whether the worker is stopped, by the state that proc(5) has of its main thread.
    fn is_worker_stopped(&self) -> bool {
        let stat = self.read_stat();
        stat.rsplit_once(')')
            .is_some_and(|(_, fields)| fields.starts_with(" T"))
    }

    /// Whether the time for reading is over and the worker gets nothing done. One that is merely slow has more time.
    fn is_silent(&mut self, now: Instant) -> bool {
        if self.reading_until.is_none_or(|until| now < until) {
            return false;
        }
        let used = self.processor_time();
        let is_silent = self.used.is_some() && used == self.used;
        self.used = used.or(self.used);
        self.reading_until = Some(now + PROGRESS);
        is_silent
    }

    /// The time that the worker has had on a processor, in clock ticks: fields 14 and 15 of its `stat` (proc(5)).
    fn processor_time(&self) -> Option<u64> {
        let stat = self.read_stat();
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        let mut ticks = || fields.next()?.parse::<u64>().ok();
        Some(ticks()? + ticks()?)
    }

    fn read_stat(&self) -> String {
        let stat = std::fs::read(format!("/proc/{}/stat", self.worker)).unwrap_or_default();
        String::from_utf8_lossy(&stat).into_owned()
    }

    /// Whether the worker's main thread sleeps where no signal wakes it.
    fn sleeps_in_kernel(&self) -> bool {
        let stat = self.read_stat();
        stat.rsplit_once(')')
            .is_some_and(|(_, fields)| fields.starts_with(" D"))
    }
}

/// Ends as the worker did, or would have.
fn end_by(which: Signal) -> ExitStatus {
    // One core of it is enough.
    let _ = setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: getrlimit(Resource::Core).maximum,
        },
    );
    let _ = [which].into_iter().collect::<SigSet>().thread_unblock();
    let _ = emulate_default_handler(which as i32);
    ExitStatus::Bug
}
