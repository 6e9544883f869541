//! Signals that the screen has to know of, as events; one that ends us ends us also when the terminal is stuck.

use std::io;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use super::Event;
use super::terminal::give_back_mode;

/// How long the end may take after a signal, before it is enforced: writing to a terminal that takes no output blocks.
const GRACE: Duration = Duration::from_secs(3);

/// Sends signals as events from now on.
pub fn watch(events: SyncSender<Event>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT])?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                let is_end = !matches!(signal, SIGTSTP | SIGCONT);
                // A full queue means that the terminal is stuck.
                let _ = events.try_send(Event::Signal(signal));
                if is_end {
                    std::thread::park_timeout(GRACE);
                    give_back_mode();
                    let _ = emulate_default_handler(signal);
                }
            }
        })?;
    Ok(())
}
