//! The live screen of `top`. It never touches a target: what it shows comes to it as events, and nothing here prints but
//! the terminal's own guard.

mod action;
mod app;
mod blocked;
mod command;
mod keymap;
mod label;
mod plain;
mod recording;
mod signals;
mod terminal;
#[cfg(test)]
mod testing;
mod theme;
mod tree;
mod view;

use std::io;
use std::sync::mpsc::{Receiver, SyncSender};

use ratatui::crossterm::event::{self, KeyEvent};
use signal_hook::consts::{SIGCONT, SIGTSTP};

pub use app::{App, AppOptions};
pub use blocked::{BlockedRow, blocked_rows};
pub use plain::write_frame;
pub use signals::Abort;
pub use theme::Theme;

use crate::model::Batch;
use action::{Effect, update};
use terminal::Screen;

/// Something that the screen reacts to.
#[derive(Debug)]
pub enum Event {
    /// What was sampled.
    Batch(Box<Batch>),
    /// What is blocked.
    Blocked(Vec<BlockedRow>),
    /// A key.
    Key(KeyEvent),
    /// Another size of the terminal.
    Resize,
    /// A signal.
    Signal(i32),
    /// No more keys can come.
    InputEnded,
    /// A thread that sends events has failed.
    Broken,
}

/// Why the screen was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was asked for.
    Quit,
    /// By a signal.
    Signal(i32),
    /// A thread that sends events has failed.
    Broken,
}

/// What the screen can't do itself.
pub trait Host {
    /// Saves the profile to a file; says what came of it.
    fn save(&mut self, app: &App, file: &str) -> String;

    /// The picture is held, or goes on.
    fn hold(&mut self, is_held: bool);
}

/// Shows the state on the terminal until that is to end. `sender` is the other end of `events`.
///
/// Fails when there is no terminal, or none any more; it is given back in any case. `abort` is called for a signal after which the end
/// did not come in time.
pub fn run(
    app: &mut App,
    events: &Receiver<Event>,
    sender: &SyncSender<Event>,
    host: &mut dyn Host,
    abort: Abort,
) -> io::Result<Ending> {
    // Before the terminal changes, so that no signal finds it changed.
    signals::watch(sender.clone(), abort)?;
    let mut screen = Screen::open()?;
    read_input(sender.clone())?;
    let mut is_new = true;
    loop {
        if is_new {
            screen.draw(app)?;
            is_new = false;
        }
        let Ok(first) = events.recv() else {
            return Ok(Ending::Quit);
        };
        // All that is there is taken in before the next picture: a slow terminal gets fewer of them, not later ones.
        for event in std::iter::once(first).chain(events.try_iter().take(1000)) {
            is_new |= match event {
                Event::Batch(batch) => app.receive(&batch),
                Event::Blocked(rows) => app.receive_blocked(rows),
                Event::Resize => true,
                Event::InputEnded => return Ok(Ending::Quit),
                Event::Broken => return Ok(Ending::Broken),
                Event::Signal(SIGTSTP) => {
                    screen.suspend()?;
                    true
                }
                Event::Signal(SIGCONT) => {
                    screen.retake()?;
                    true
                }
                Event::Signal(signal) => return Ok(Ending::Signal(signal)),
                Event::Key(key) => {
                    if press(app, key, &mut screen, host)? {
                        return Ok(Ending::Quit);
                    }
                    true
                }
            };
        }
    }
}

/// Does what a key asks for. Whether that is the end.
fn press(
    app: &mut App,
    key: KeyEvent,
    screen: &mut Screen,
    host: &mut dyn Host,
) -> io::Result<bool> {
    let action = if app.prompt.is_some() {
        keymap::typing_action_of(key)
    } else {
        keymap::action_of(key)
    };
    let Some(action) = action else {
        return Ok(false);
    };
    let was_held = app.is_paused;
    match update(app, action) {
        Some(Effect::Quit) => return Ok(true),
        Some(Effect::Suspend) => screen.suspend()?,
        Some(Effect::Redraw) => screen.clear()?,
        Some(Effect::Save(file)) => app.message = Some(host.save(app, &file)),
        None => {}
    }
    if app.is_paused != was_held {
        host.hold(app.is_paused);
    }
    Ok(false)
}

/// Reads keys and changes of size, on a thread that ends with the program.
fn read_input(events: SyncSender<Event>) -> io::Result<()> {
    std::thread::Builder::new()
        .name("keys".to_owned())
        .spawn(move || {
            loop {
                let event = match event::read() {
                    Ok(event::Event::Key(key)) => Event::Key(key),
                    Ok(event::Event::Resize(..)) => Event::Resize,
                    Ok(_) => continue,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(_) => Event::InputEnded,
                };
                let is_last = matches!(event, Event::InputEnded);
                if events.send(event).is_err() || is_last {
                    return;
                }
            }
        })?;
    Ok(())
}
