//! How far a recording or an observation has come, shown on standard error while that is a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::model::whole_milliseconds;
use crate::profile::Profile;
use crate::report::sanitize::Shown;

/// A line that says how far it has come.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// One for something of this length, or without an end of its own.
    pub fn new(duration: Option<Duration>, is_hidden: bool) -> Self {
        let length = duration.and_then(|duration| u64::try_from(duration.as_millis()).ok());
        // Nothing is drawn where standard error is no terminal either.
        let place = if is_hidden {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr_with_hz(10)
        };
        let bar = ProgressBar::with_draw_target(length, place);
        let template = match length {
            Some(_) => "{bar:20} {elapsed} {wide_msg}",
            None => "{spinner} {elapsed} {wide_msg}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Progress { bar }
    }

    /// Shows what there is so far.
    pub fn show(&self, profile: &Profile) {
        let stats = &profile.stats;
        let elapsed = whole_milliseconds(stats.elapsed);
        self.bar.set_position(elapsed);
        let rate = stats.taken as f64 / stats.elapsed.as_secs_f64().max(1e-9);
        let alive = profile.processes.iter().filter(|process| process.is_alive);
        let processes = match alive.count() {
            1 => String::new(),
            count => format!(", {count} processes"),
        };
        self.bar.set_message(format!(
            "{} samples, {rate:.0} Hz, {} lost{processes}; Ctrl-C ends it",
            stats.taken, stats.lost
        ));
    }

    /// Shows how far it has come, and what it is about, in one line.
    pub fn show_text(&self, elapsed: Duration, text: &str) {
        self.bar.set_position(whole_milliseconds(elapsed));
        self.bar.set_message(Shown(text).to_string());
    }

    /// Takes the line away while something else is written.
    pub fn suspend(&self, write: impl FnOnce()) {
        self.bar.suspend(write);
    }

    /// Takes the line away.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }
}
