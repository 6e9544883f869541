//! The files that are being written now, so that whoever ends the program in the middle can say where they are. It must not
//! print.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a file that is whole may take to get its name, before the end is not put off for it any more.
const MAX_RENAME: Duration = Duration::from_secs(1);

/// Whatever the program writes, it ends as a whole: so there is one of this.
static STATE: Mutex<State> = Mutex::new(State {
    is_abandoned: false,
    files: Vec::new(),
});

struct State {
    /// Nobody goes on with them: they keep their temporary names.
    is_abandoned: bool,
    files: Vec<File>,
}

#[derive(Clone, Debug)]
struct File {
    path: PathBuf,
    is_whole: bool,
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file under its temporary name, for as long as it has that.
#[derive(Debug)]
pub struct Unfinished {
    path: PathBuf,
}

impl Unfinished {
    /// Writing begins.
    pub fn begin(path: &Path) -> Unfinished {
        state().files.push(File {
            path: path.to_owned(),
            is_whole: false,
        });
        Unfinished {
            path: path.to_owned(),
        }
    }

    /// All of it is written, and it is about to get its own name.
    pub fn complete(&self) {
        let mut state = state();
        stop_if_abandoned(&state);
        for file in &mut state.files {
            file.is_whole |= file.path == self.path;
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let mut state = state();
        stop_if_abandoned(&state);
        state.files.retain(|file| file.path != self.path);
    }
}

/// Keeps a thread from doing anything more to a file that was reported: the program ends at this moment.
fn stop_if_abandoned(state: &State) {
    if state.is_abandoned {
        loop {
            std::thread::park();
        }
    }
}

/// Whether a file is being written.
pub fn is_any() -> bool {
    !state().files.is_empty()
}

/// Leaves all files as they are, for a program that ends now; where they are. None of them is touched after this.
pub fn abandon() -> Vec<PathBuf> {
    let asked = Instant::now();
    loop {
        let mut state = state();
        let is_renaming = state.files.iter().any(|file| file.is_whole);
        if !is_renaming || asked.elapsed() > MAX_RENAME {
            state.is_abandoned = true;
            return state.files.iter().map(|file| file.path.clone()).collect();
        }
        drop(state);
        std::thread::sleep(Duration::from_millis(1));
    }
}
