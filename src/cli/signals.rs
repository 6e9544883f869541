//! Signals that end a recording, or have it write what there is.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals as Incoming;
use signal_hook::low_level::emulate_default_handler;

use super::exit::Failure;
use super::printer::Printer;
use crate::export::unfinished;
use crate::sys::job_control::DeferredSuspension;

/// Signals within so long of the first are the same request: `timeout` sends one to the process and one to its group, a
/// terminal that is closed sends SIGHUP more than once, and a key is easily hit twice.
pub const REPEAT: Duration = Duration::from_secs(1);

/// What signals have asked for since.
#[derive(Debug)]
pub struct Signals {
    ends: Arc<AtomicBool>,
    reports: Arc<AtomicBool>,
}

impl Signals {
    /// Catches SIGINT, SIGTERM and SIGHUP, which end it, and SIGUSR1. Only a SIGINT that comes later than [`REPEAT`] after the first
    /// of them ends the program at once: it is sent by a person, who can know better than to wait.
    pub fn catch(printer: &Printer) -> Result<Self, Failure> {
        Signals::start(*printer).map_err(|source| Failure::System {
            what: "start a thread that catches signals",
            source,
        })
    }

    fn start(printer: Printer) -> io::Result<Self> {
        let signals = Signals {
            ends: Arc::default(),
            reports: Arc::default(),
        };
        let ends = [SIGINT, SIGTERM, SIGHUP].into_iter();
        // `nohup` means that the end of the terminal is not ours.
        let caught = ends.filter(|signal| *signal != SIGHUP || !is_ignored(SIGHUP));
        let mut incoming = Incoming::new(caught.chain([SIGUSR1]))?;
        let (ends, reports) = (Arc::clone(&signals.ends), Arc::clone(&signals.reports));
        // A thread that takes SIGTSTP suspends all of us, at whatever moment.
        let _deferred = DeferredSuspension::begin();
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                let mut asked: Option<Instant> = None;
                for signal in incoming.forever() {
                    if signal == SIGUSR1 {
                        reports.store(true, Ordering::Relaxed);
                    } else if is_abort(signal, asked) {
                        abort(signal, &printer);
                    } else {
                        asked.get_or_insert_with(Instant::now);
                        ends.store(true, Ordering::Relaxed);
                    }
                }
            })?;
        Ok(signals)
    }

    /// Whether the end was asked for.
    pub fn is_end(&self) -> bool {
        self.ends.load(Ordering::Relaxed)
    }

    /// What becomes true when the end is asked for.
    pub fn end(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.ends)
    }

    /// Whether it was asked, since the last call, to write what there is.
    pub fn take_report(&self) -> bool {
        self.reports.swap(false, Ordering::Relaxed)
    }
}

/// Catches SIGINT while something is watched: the first one ends that, and what is known by then is the answer. Once the answer is
/// given, it ends us, as usual.
#[derive(Debug)]
pub struct Interrupt {
    is_asked: Arc<AtomicBool>,
    answers_since: Arc<OnceLock<Instant>>,
}

impl Interrupt {
    /// Begins to catch it; not if we were started with it ignored, as jobs in the background are. Where there are too few descriptors
    /// or threads for that, it ends us as usual.
    pub fn catch() -> Self {
        let interrupt = Interrupt {
            is_asked: Arc::default(),
            answers_since: Arc::default(),
        };
        if !is_ignored(SIGINT)
            && let Err(error) = interrupt.start()
        {
            tracing::debug!("signals are not caught: {error}");
        }
        interrupt
    }

    fn start(&self) -> io::Result<()> {
        let mut incoming = Incoming::new([SIGINT])?;
        let is_asked = Arc::clone(&self.is_asked);
        let answers_since = Arc::clone(&self.answers_since);
        // A thread that takes SIGTSTP suspends all of us, at whatever moment.
        let _deferred = DeferredSuspension::begin();
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                let mut asked: Option<Instant> = None;
                for signal in incoming.forever() {
                    // What comes just when the answer does has asked for it too.
                    let before = asked.or_else(|| answers_since.get().copied());
                    if is_abort(signal, before) {
                        let _ = emulate_default_handler(signal);
                    }
                    asked.get_or_insert_with(Instant::now);
                    is_asked.store(true, Ordering::Relaxed);
                }
            })?;
        Ok(())
    }

    /// Whether the end of the watching was asked for.
    pub fn is_asked(&self) -> bool {
        self.is_asked.load(Ordering::Relaxed)
    }

    /// The watching is over, and the answer is given.
    pub fn answer(&self) {
        let _ = self.answers_since.set(Instant::now());
    }
}

/// Whether we were started with `signal` ignored.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (signal - 1)) != 0)
}

/// Whether a signal is more than a repetition of the one at `asked`.
fn is_abort(signal: i32, asked: Option<Instant>) -> bool {
    signal == SIGINT && asked.is_some_and(|asked| asked.elapsed() > REPEAT)
}

/// Ends the program by `signal`, whatever it does at the moment. What it was writing stays, and it is said where.
pub fn abort(signal: i32, printer: &Printer) {
    let files = unfinished::abandon();
    for file in &files {
        let file = file.display();
        printer.say_at_once(&format!(
            "ended at once; what was written so far is in {file}"
        ));
    }
    if files.is_empty() {
        printer.say_at_once("ended at once");
    }
    // Whoever waits for us sees that we have ended by it.
    let _ = emulate_default_handler(signal);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_later_interrupt_is_more_than_a_repetition() {
        let now = Instant::now();
        let before = |time| now.checked_sub(time);
        assert!(!is_abort(SIGINT, None));
        assert!(!is_abort(SIGINT, before(Duration::ZERO)));
        for later in [SIGTERM, SIGHUP] {
            assert!(!is_abort(later, before(REPEAT * 2)));
        }
        assert!(is_abort(SIGINT, before(REPEAT * 2)));
    }
}
