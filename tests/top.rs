//! `stuckspy top` in a real terminal: tmux types the keys and reads the screen.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod support;

#[path = "support/live.rs"]
mod live;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use live::{any_interpreter, ask_about, find_tool, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::fixture::{Fixture, Started};
use support::program::Program;
use tempfile::TempDir;

const STUCKSPY: &str = env!("CARGO_BIN_EXE_stuckspy");

/// A terminal of 80x24 with a shell in it; it ends with this.
struct Terminal {
    tmux: PathBuf,
    socket: String,
    folder: TempDir,
}

impl Terminal {
    /// `None`, with a word on it, where there is no tmux.
    fn open() -> Option<Terminal> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let tmux = find_tool("tmux")?;
        let bash = find_tool("bash")?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let terminal = Terminal {
            tmux,
            socket: format!("stuckspy-{}-{number}", std::process::id()),
            folder: TempDir::with_prefix("stuckspy-top-").unwrap(),
        };
        let folder = terminal.folder.path().to_str().unwrap().to_owned();
        let shell = format!("exec {} --norc --noprofile -i", bash.display());
        terminal.tmux(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            "80",
            "-y",
            "24",
            "-c",
            &folder,
            &shell,
        ]);
        // Neither the tester's own wishes nor a prompt's colours are to be seen.
        terminal.type_line("unset NO_COLOR; PS1='prompt:'; clear");
        terminal.wait_for("prompt:");
        Some(terminal)
    }

    fn tmux(&self, arguments: &[impl AsRef<OsStr>]) -> String {
        let output = Command::new(&self.tmux)
            .args(["-L", &self.socket])
            .args(arguments)
            .env("LC_ALL", "C.UTF-8")
            .env_remove("TMUX")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Presses keys, by tmux' names for them.
    fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    fn type_text(&self, text: &str) {
        self.tmux(&["send-keys", "-l", text]);
    }

    fn type_line(&self, text: &str) {
        self.type_text(text);
        self.press(&["Enter"]);
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    fn screen_with_escapes(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-e"])
    }

    #[track_caller]
    fn wait_for(&self, text: &str) {
        self.wait_until_screen(text, |screen| screen.contains(text));
    }

    #[track_caller]
    fn wait_until_screen(&self, what: &str, is_so: impl Fn(&str) -> bool) {
        let mut last = String::new();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_until(what, || {
                last = self.screen();
                is_so(&last)
            });
        }));
        assert!(result.is_ok(), "waited for {what}; the screen is\n{last}");
    }

    fn ask(&self, format: &str) -> String {
        self.tmux(&["display-message", "-p", format])
            .trim()
            .to_owned()
    }

    /// Starts `stuckspy top` with what stands before and behind, and waits until it has taken the screen.
    #[track_caller]
    fn start_top(&self, before: &str, arguments: &str) {
        // The mode of the terminal is told before and after, and the pid is that of the program itself.
        self.type_line(&format!(
            "stty -g > before; {before} bash -c 'echo $$ > pid; exec {STUCKSPY} top {arguments}'; \
             echo \"code:$?\"; stty -g > after"
        ));
        self.wait_for("%Own");
        assert_eq!(self.ask("#{alternate_on}"), "1");
    }

    fn pid_of_top(&self) -> Pid {
        let text = fs::read_to_string(self.folder().join("pid")).unwrap();
        Pid::from_raw(text.trim().parse().unwrap())
    }

    /// Waits until the program has ended with this code, and checks that the terminal is as it was.
    #[track_caller]
    fn assert_left(&self, code: i32) {
        self.wait_for(&format!("code:{code}"));
        let read = |name| fs::read_to_string(self.folder().join(name)).unwrap_or_default();
        wait_until("the mode is told", || !read("after").is_empty());
        assert_eq!(read("after"), read("before"));
        assert_eq!(self.ask("#{alternate_on} #{cursor_flag}"), "0 1");
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = Command::new(&self.tmux)
            .args(["-L", &self.socket, "kill-server"])
            .env_remove("TMUX")
            .output();
    }
}

fn start(name: &str) -> Fixture {
    match Fixture::start(&Program::load(name), any_interpreter()) {
        Ok(Started::Ready(fixture)) => fixture,
        Ok(Started::Skipped(why)) | Err(why) => panic!("{name}: {why}"),
    }
}

/// Whether a text has an escape that sets a colour.
fn has_color(text: &str) -> bool {
    text.split("\x1b[").skip(1).any(|rest| {
        let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != ';');
        let codes = &rest[..end.unwrap_or(rest.len())];
        rest[codes.len()..].starts_with('m')
            && codes.split(';').any(|code| {
                let code: u32 = code.parse().unwrap_or(0);
                matches!(code, 30..=38 | 40..=48 | 90..=107)
            })
    })
}

#[test]
fn keys_lead_through_the_screens_and_the_terminal_is_given_back() {
    let Some(terminal) = Terminal::open() else {
        return;
    };
    let fixture = start("cpu");
    terminal.start_top("", &format!("--pid {}", fixture.pid()));
    terminal.wait_for("Total Samples");
    terminal.wait_for(&format!("Collecting samples from 'pid: {}'", fixture.pid()));
    terminal.wait_for("burn (");
    terminal.press(&["C-l", "2"]);
    terminal.wait_for("%Total▼");
    terminal.press(&["l"]);
    terminal.wait_for("filename:first line");
    terminal.press(&["\\"]);
    terminal.wait_for("filter:");
    terminal.type_text("step");
    terminal.press(&["Enter"]);
    terminal.wait_until_screen("rows with step only", |screen| {
        screen.contains("[filter: step]") && screen.contains("step (") && !screen.contains("burn (")
    });
    terminal.press(&["Escape"]);
    terminal.wait_for("burn (");
    terminal.press(&["i"]);
    terminal.wait_for("[with idle]");
    terminal.wait_for("park (");
    terminal.press(&["Tab"]);
    terminal.wait_for("Stack of");
    terminal.press(&["Down", "Enter"]);
    terminal.wait_for("park (");
    terminal.press(&["t"]);
    terminal.wait_for("Title");
    terminal.press(&["?"]);
    terminal.wait_for("Keys (");
    // An Escape with a key right behind it would be Alt with that key.
    terminal.press(&["Escape"]);
    terminal.wait_for("Title");
    terminal.press(&["Space"]);
    terminal.wait_for("[PAUSED]");
    terminal.press(&["Space", "s"]);
    terminal.wait_for("save to file:");
    terminal.wait_for(".svg");
    terminal.press(&["C-u"]);
    terminal.type_text("saved.folded");
    terminal.press(&["Enter"]);
    terminal.wait_for("saved to saved.folded");
    let saved = fs::read_to_string(terminal.folder().join("saved.folded")).unwrap();
    assert!(saved.contains("burn"), "{saved}");
    terminal.press(&["q"]);
    terminal.assert_left(0);
    fixture.assert_unharmed().unwrap();
    fixture.finish().unwrap();
}

#[test]
fn signals_give_the_terminal_back() {
    let Some(terminal) = Terminal::open() else {
        return;
    };
    let fixture = start("cpu");
    terminal.type_line("ulimit -c 0");
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
        terminal.start_top("", &format!("--pid {}", fixture.pid()));
        kill(terminal.pid_of_top(), signal).unwrap();
        terminal.assert_left(128 + signal as i32);
        fs::remove_file(terminal.folder().join("after")).unwrap();
        terminal.type_line("clear");
        terminal.wait_until_screen("an empty screen", |screen| !screen.contains("code:"));
    }
    // A shell whose command was interrupted does not go on with its line.
    terminal.start_top("", &format!("--pid {}", fixture.pid()));
    kill(terminal.pid_of_top(), Signal::SIGINT).unwrap();
    terminal.wait_until_screen("the shell's prompt", |screen| {
        screen.trim_end().ends_with("\nprompt:")
    });
    terminal.type_line("clear; echo \"code:$?\"; stty -g > after");
    terminal.assert_left(0);
    fs::remove_file(terminal.folder().join("after")).unwrap();
    // Interrupted by its key it has simply ended.
    terminal.start_top("", &format!("--pid {}", fixture.pid()));
    terminal.press(&["C-c"]);
    terminal.assert_left(0);
    fixture.assert_unharmed().unwrap();
}

#[test]
fn it_can_be_suspended_and_goes_on() {
    let Some(terminal) = Terminal::open() else {
        return;
    };
    let fixture = start("cpu");
    terminal.type_line(&format!("{STUCKSPY} top --pid {}", fixture.pid()));
    terminal.wait_for("burn (");
    terminal.press(&["C-z"]);
    terminal.wait_for("Stopped");
    assert_eq!(terminal.ask("#{alternate_on} #{cursor_flag}"), "0 1");
    terminal.type_line("echo here-$((6 * 7))");
    terminal.wait_for("here-42");
    terminal.type_line("fg");
    terminal.wait_for("burn (");
    terminal.press(&["q"]);
    terminal.wait_for("here-42");
    fixture.assert_unharmed().unwrap();
}

#[test]
fn the_last_picture_stays_when_the_target_ends() {
    let Some(terminal) = Terminal::open() else {
        return;
    };
    let fixture = start("cpu");
    let pid = fixture.pid();
    terminal.start_top("", &format!("--pid {pid}"));
    terminal.wait_for("burn (");
    fixture.finish().unwrap();
    terminal.wait_for(&format!("process {pid} ended; press q"));
    assert!(terminal.screen().contains("burn ("));
    terminal.press(&["q"]);
    terminal.assert_left(0);
}

#[test]
fn a_screen_of_one_cell_is_no_harm() {
    let Some(terminal) = Terminal::open() else {
        return;
    };
    let fixture = start("cpu");
    terminal.start_top("", &format!("--pid {}", fixture.pid()));
    for (width, height) in [("1", "1"), ("20", "5"), ("2", "40"), ("120", "30")] {
        terminal.tmux(&["resize-window", "-x", width, "-y", height]);
        terminal.press(&["Tab"]);
    }
    terminal.press(&["Escape"]);
    terminal.wait_for("burn (");
    terminal.wait_for("<>:Sort s:Save");
    terminal.press(&["q"]);
    terminal.assert_left(0);
}

#[test]
fn no_color_means_no_color() {
    let Some(terminal) = Terminal::open() else {
        return;
    };
    let fixture = start("cpu");
    for (before, is_colored) in [("", true), ("NO_COLOR=1", false)] {
        terminal.start_top(before, &format!("--pid {}", fixture.pid()));
        terminal.wait_for("burn (");
        let screen = terminal.screen_with_escapes();
        assert_eq!(has_color(&screen), is_colored, "{screen:?}");
        terminal.press(&["q"]);
        terminal.assert_left(0);
        fs::remove_file(terminal.folder().join("after")).unwrap();
        terminal.type_line("clear");
        terminal.wait_until_screen("an empty screen", |screen| !screen.contains("code:"));
    }
}

#[test]
fn a_dumb_terminal_is_refused_with_a_word_on_what_helps() {
    let Some(terminal) = Terminal::open() else {
        return;
    };
    let pid = std::process::id();
    terminal.type_line(&format!(
        "TERM=dumb {STUCKSPY} top --pid {pid}; echo \"code:$?\""
    ));
    terminal.wait_for("code:2");
    let screen = terminal.screen();
    assert!(screen.contains("TERM=dumb)"), "{screen}");
    assert!(screen.contains("hint: "), "{screen}");
}

#[test]
fn what_a_started_program_prints_is_told_at_the_end() {
    let Some(terminal) = Terminal::open() else {
        return;
    };
    let python = any_interpreter().path.display();
    let script = "import time; print(\"printed by it\", flush=True)\nwhile 1: sum(range(999))";
    fs::write(terminal.folder().join("prints.py"), script).unwrap();
    terminal.start_top("", &format!("-- {python} prints.py"));
    terminal.wait_for("prints.py:2");
    assert!(!terminal.screen().contains("printed by it"));
    terminal.press(&["q"]);
    terminal.assert_left(0);
    terminal.wait_for("printed by it");
}

#[test]
fn elsewhere_plain_frames_are_printed() {
    let fixture = start("cpu");
    let answer = ask_about("top", fixture.pid(), &["--count", "2", "-d", "0.3"]);
    assert_eq!(answer.code, Some(0), "{answer:?}");
    let heads = answer
        .stdout
        .matches("%Own  %Total  OwnTime  TotalTime  Function")
        .count();
    assert_eq!(heads, 2, "{answer:?}");
    assert!(answer.stdout.contains("burn ("), "{answer:?}");
    assert!(!answer.stdout.contains('\x1b'), "{answer:?}");

    // Whoever reads the beginning only is no error.
    let line = format!(
        "set -o pipefail; {STUCKSPY} top --pid {} -d 0.2 | head -n 1",
        fixture.pid()
    );
    let output = Command::new("bash").args(["-c", &line]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("Collecting samples from"), "{text}");
    assert_eq!(output.status.code(), Some(0));
    fixture.assert_unharmed().unwrap();
}

#[test]
fn plain_frames_end_with_the_target() {
    let fixture = start("cpu");
    let pid = fixture.pid();
    let watcher = std::thread::spawn(move || ask_about("top", pid, &["-d", "0.2"]));
    wait_until("top has begun", || watcher_has_begun(pid));
    fixture.finish().unwrap();
    let answer = watcher.join().unwrap();
    assert_eq!(answer.code, Some(0), "{answer:?}");
    assert!(
        answer.stderr.contains(&format!("process {pid} ended")),
        "{answer:?}"
    );
}

/// Whether a `stuckspy top` on this process runs threads, so that it has come to sampling.
fn watcher_has_begun(pid: i32) -> bool {
    let wanted = format!("top\0--pid\0{pid}\0");
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .map(|entry| entry.path())
        .filter(|path| {
            fs::read_to_string(path.join("cmdline")).is_ok_and(|text| text.contains(&wanted))
        })
        .any(|path| fs::read_dir(path.join("task")).is_ok_and(|tasks| tasks.count() >= 3))
}

#[test]
fn nothing_there_is_told_before_anything_is_shown() {
    let answer = ask_about("top", 999_999_999, &[]);
    assert_eq!(answer.code, Some(3), "{answer:?}");
    assert_eq!(answer.stdout, "");
    assert!(answer.stderr.contains("hint: "), "{answer:?}");
}
