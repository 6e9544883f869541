//! Signals that end a recording, or have it write what there is.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag;

/// What signals have asked for since.
#[derive(Debug)]
pub struct Signals {
    ends: Arc<AtomicBool>,
    reports: Arc<AtomicBool>,
}

impl Signals {
    /// Catches SIGINT, SIGTERM and SIGHUP, which end it, and SIGUSR1. Whoever asks for the end twice gets it at once.
    pub fn catch() -> io::Result<Self> {
        let ends = Arc::new(AtomicBool::new(false));
        let reports = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            flag::register_conditional_default(signal, Arc::clone(&ends))?;
            flag::register(signal, Arc::clone(&ends))?;
        }
        flag::register(SIGUSR1, Arc::clone(&reports))?;
        Ok(Signals { ends, reports })
    }

    /// Whether the end was asked for.
    pub fn is_end(&self) -> bool {
        self.ends.load(Ordering::Relaxed)
    }

    /// Whether it was asked, since the last call, to write what there is.
    pub fn take_report(&self) -> bool {
        self.reports.swap(false, Ordering::Relaxed)
    }
}
