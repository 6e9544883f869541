//! Signals that the screen has to know of, as events; one that ends us ends us also when the terminal is stuck.

use std::io;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
use signal_hook::iterator::Signals;

use crate::export::unfinished;

use super::Event;
use super::terminal::give_back_mode;

/// How long the end may take after a signal, before it is enforced: writing to a terminal that takes no output blocks.
const GRACE: Duration = Duration::from_secs(3);
/// How long a file that is being saved may keep the end up.
const MAX_SAVE: Duration = Duration::from_secs(60);
/// Signals within so long of the first are the same request.
const REPEAT: Duration = Duration::from_secs(1);
/// How often it is looked whether the end may be enforced.
const ROUND: Duration = Duration::from_millis(50);

/// Ends the program by a signal, and says which file is left unfinished.
pub type Abort = Box<dyn Fn(i32) + Send>;

/// Sends signals as events from now on.
pub fn watch(events: SyncSender<Event>, abort: Abort) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT])?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            loop {
                let Some(signal) = signals.forever().next() else {
                    return;
                };
                let is_end = !matches!(signal, SIGTSTP | SIGCONT);
                // A full queue means that the terminal is stuck.
                let _ = events.try_send(Event::Signal(signal));
                if is_end {
                    let enforced = await_end(&mut signals).unwrap_or(signal);
                    give_back_mode();
                    abort(enforced);
                }
            }
        })?;
    Ok(())
}

/// Waits for as long as the end may take. A SIGINT that is more than a repetition ends that; it is given back.
fn await_end(signals: &mut Signals) -> Option<i32> {
    let asked = Instant::now();
    loop {
        let is_saving = unfinished::is_any();
        let most = if is_saving { MAX_SAVE } else { GRACE };
        if asked.elapsed() > most {
            return None;
        }
        std::thread::sleep(ROUND);
        let is_insisted = signals.pending().any(|signal| signal == SIGINT);
        if is_insisted && asked.elapsed() > REPEAT {
            return Some(SIGINT);
        }
    }
}
