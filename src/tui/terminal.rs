//! Taking the terminal over and giving it back as it was: at the end, on a panic, on a signal, and while we are suspended.

use std::io::{self, BufWriter, Stdout, Write};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::layout::Rect;
use signal_hook::consts::SIGTSTP;
use signal_hook::low_level::emulate_default_handler;

use super::app::App;
use super::view;

/// Whether the terminal is ours now. There is one terminal, so there is one of this.
static IS_TAKEN: AtomicBool = AtomicBool::new(false);
static PANIC_HOOK: Once = Once::new();

/// Bytes of a picture that are sent at once; over a slow connection a picture in pieces flickers.
const BUFFER: usize = 64 << 10;

/// The terminal, for as long as it is ours.
#[derive(Debug)]
pub struct Screen {
    terminal: Terminal<CrosstermBackend<BufWriter<Stdout>>>,
}

impl Screen {
    /// Takes the terminal over.
    pub fn open() -> io::Result<Self> {
        PANIC_HOOK.call_once(|| {
            let previous = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                // What the hook writes is to be seen.
                give_back();
                previous(panic);
            }));
        });
        take()?;
        let backend = CrosstermBackend::new(BufWriter::with_capacity(BUFFER, io::stdout()));
        match Terminal::new(backend) {
            Ok(terminal) => Ok(Screen { terminal }),
            Err(error) => {
                give_back();
                Err(error)
            }
        }
    }

    /// Draws the state; fails when the terminal is no longer ours, as after a panic of another thread.
    pub fn draw(&mut self, app: &mut App) -> io::Result<()> {
        if !IS_TAKEN.load(Ordering::Acquire) {
            return Err(io::Error::other("the terminal was given back"));
        }
        let area = self.area()?;
        app.set_page(view::page(app, area));
        self.terminal.draw(|frame| view::draw(app, frame))?;
        Ok(())
    }

    /// Makes the next picture be drawn as a whole.
    pub fn clear(&mut self) -> io::Result<()> {
        // `Terminal::clear` asks the terminal where its cursor is, and the thread that reads keys gets the answer.
        let area = self.area()?;
        self.terminal.resize(area)
    }

    fn area(&self) -> io::Result<Rect> {
        let size = self.terminal.size()?;
        Ok(Rect::new(0, 0, size.width, size.height))
    }

    /// Gives the terminal back, stops this process as its shell expects, and takes the terminal again when it goes on.
    pub fn suspend(&mut self) -> io::Result<()> {
        give_back();
        emulate_default_handler(SIGTSTP)?;
        self.retake()
    }

    /// Takes the terminal again, of which others may have changed the mode meanwhile.
    pub fn retake(&mut self) -> io::Result<()> {
        give_back();
        take()?;
        self.clear()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

fn take() -> io::Result<()> {
    enable_raw_mode()?;
    IS_TAKEN.store(true, Ordering::Release);
    execute!(io::stdout(), EnterAlternateScreen, Hide).inspect_err(|_| give_back())
}

/// Gives the terminal back, if it is ours. Where that fails, there is no terminal any more.
fn give_back() {
    if IS_TAKEN.swap(false, Ordering::AcqRel) {
        let mut stdout = io::stdout();
        let _ = execute!(stdout, LeaveAlternateScreen, Show);
        let _ = disable_raw_mode();
        let _ = stdout.flush();
    }
}

/// Gives at least the keyboard's mode back, which works also when the terminal takes no output.
pub fn give_back_mode() {
    let _ = disable_raw_mode();
}
