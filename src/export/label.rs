//! What frames, threads and processes are called in every format; it must not know any of the formats.

use std::fmt::Write;

use super::Style;
use crate::model::{Activity, Frame, FrameKind, Gil, ProcessIndex, ThreadIndex};
use crate::profile::{Place, Profile};
use crate::report::sanitize;

/// What stands where a name is empty.
const NO_NAME: &str = "<no name>";

/// Where the code of a frame comes from, which decides its color.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Origin {
    /// The program's own Python.
    Own,
    /// Python of packages that were installed.
    Installed,
    /// Python's own library.
    Library,
    /// Machine code.
    Native,
    /// The kernel.
    Kernel,
    /// Not code: something that is said of the stack.
    Marker,
    /// Not code: what the thread waits for.
    Wait,
    /// Not code: the thread or the process that the stack belongs to.
    Owner,
}

impl Origin {
    /// Every origin, in the order in which they are shown.
    pub(super) const ALL: [Origin; 8] = [
        Origin::Own,
        Origin::Installed,
        Origin::Library,
        Origin::Native,
        Origin::Kernel,
        Origin::Marker,
        Origin::Wait,
        Origin::Owner,
    ];

    /// The origin of a frame, by its kind and the path of its file.
    pub(super) fn of(frame: &Frame) -> Origin {
        match frame.kind {
            FrameKind::Native => Origin::Native,
            FrameKind::Kernel => Origin::Kernel,
            FrameKind::Marker => Origin::Marker,
            FrameKind::Python => of_file(&frame.file),
        }
    }

    /// The origin in a word or two.
    pub(super) fn word(self) -> &'static str {
        match self {
            Origin::Own => "own code",
            Origin::Installed => "packages",
            Origin::Library => "stdlib",
            Origin::Native => "native",
            Origin::Kernel => "kernel",
            Origin::Marker => "marker",
            Origin::Wait => "waits",
            Origin::Owner => "owner",
        }
    }
}

fn of_file(file: &str) -> Origin {
    let mut parts = file.split('/');
    if file.starts_with("<frozen ") {
        return Origin::Library;
    }
    // A file straight in a folder called python3 belongs to whoever made the folder.
    parts.next_back();
    let mut origin = Origin::Own;
    for part in parts {
        if matches!(part, "site-packages" | "dist-packages") {
            return Origin::Installed;
        }
        if is_library_folder(part) {
            origin = Origin::Library;
        }
    }
    origin
}

/// `python3.11`, `python3.13t`, `python311.zip`: what a library folder of Python is called.
fn is_library_folder(part: &str) -> bool {
    let Some(version) = part.strip_prefix("python") else {
        return false;
    };
    if let Some(digits) = version.strip_suffix(".zip") {
        return !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    }
    let version = version.strip_suffix('t').unwrap_or(version);
    version.contains('.')
        && version
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.')
}

/// `text` in one line with everything that could act on a screen, mislead its reader, or not stand in XML, as an escape
/// as [`sanitize::Shown`] writes it; without blanks at its ends, and never empty.
pub(super) fn visible(text: &str) -> String {
    let text = text.trim();
    if text.is_empty() {
        return NO_NAME.to_owned();
    }
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        if sanitize::acts(letter) || matches!(letter, '\u{fffe}' | '\u{ffff}') {
            shown.extend(letter.escape_unicode());
        } else {
            shown.push(letter);
        }
    }
    shown
}

/// The function of a frame.
pub(super) fn function(frame: &Frame) -> String {
    visible(&frame.function)
}

/// The file of a frame, if it has one.
pub(super) fn file(frame: &Frame, style: Style) -> Option<String> {
    let file = if style.full_filenames {
        &frame.file
    } else {
        frame.short_file()
    };
    (!file.is_empty()).then(|| visible(file))
}

/// `function (file:line)`, with what is known of it.
pub(super) fn frame(frame: &Frame, style: Style) -> String {
    let mut label = function(frame);
    // Writing to a String can't fail.
    let _ = match (file(frame, style), frame.line) {
        (Some(file), Some(line)) => write!(label, " ({file}:{line})"),
        (Some(file), None) => write!(label, " ({file})"),
        (None, Some(line)) => write!(label, " (line {line})"),
        (None, None) => Ok(()),
    };
    label
}

/// What a thread in `place` waits for, if it does: the GIL, else what the kernel says.
pub(super) fn wait_of(place: &Place) -> Option<&'static str> {
    match (place.activity, place.gil) {
        (Activity::Active, _) => None,
        (Activity::Waiting(_), Gil::Waiting) => Some("gil"),
        (Activity::Waiting(kind), _) => Some(kind.word()),
    }
}

/// The innermost frame of a thread that waits.
pub(super) fn wait(word: &str) -> String {
    format!("[waits: {word}]")
}

/// Whose stack it is, fit to be shown.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    /// The process.
    pub(super) process: ProcessIndex,
    /// Its pid; 0 where it is not known.
    pub(super) pid: i32,
    /// Its title.
    pub(super) title: String,
    /// The thread's number; 0 where it is not known.
    pub(super) tid: i32,
    /// Its name.
    pub(super) name: String,
}

impl Owner {
    /// The owner of the stacks of `thread`.
    pub(super) fn of(profile: &Profile, thread: ThreadIndex) -> Owner {
        let thread = profile.threads.get(thread.0 as usize);
        let index = thread.map_or(ProcessIndex(u32::MAX), |thread| thread.process);
        let process = profile.processes.get(index.0 as usize);
        Owner {
            process: index,
            pid: process.map_or(0, |process| process.pid.0),
            title: visible(process.map_or("", |process| &process.title)),
            tid: thread.map_or(0, |thread| thread.tid.0),
            name: visible(thread.map_or("", |thread| &thread.name)),
        }
    }

    /// `thread TID: NAME`.
    pub(super) fn thread(&self) -> String {
        format!("thread {}: {}", self.tid, self.name)
    }

    /// `process PID: TITLE`.
    pub(super) fn process(&self) -> String {
        format!("process {}: {}", self.pid, self.title)
    }

    /// Whether it is the thread that its process began with.
    pub(super) fn is_main(&self) -> bool {
        self.pid == self.tid
    }
}

/// What was recorded: the first process' title and pid, and how many more there are.
pub(super) fn what(profile: &Profile) -> String {
    const MOST_LETTERS: usize = 80;
    let Some(first) = profile.processes.first() else {
        return "no process".to_owned();
    };
    let title = visible(&first.title);
    let mut what: String = title.chars().take(MOST_LETTERS).collect();
    if what.len() < title.len() {
        what.push('…');
    }
    let _ = write!(what, " (pid {})", first.pid);
    if let more @ 1.. = profile.processes.len() - 1 {
        let _ = write!(what, " and {more} more");
    }
    what
}

/// When and how it was recorded, and what was lost of it.
pub(super) fn how(profile: &Profile) -> String {
    let stats = &profile.stats;
    let mut how = format!(
        "{}, {:.1} s",
        humantime::format_rfc3339_seconds(profile.started_at),
        stats.elapsed.as_secs_f64()
    );
    let interval = stats.interval.as_secs_f64();
    if interval > 0.0 {
        let rate = (10.0 / interval).round() / 10.0;
        let _ = write!(how, " at {rate} Hz");
    }
    let _ = write!(how, ", {} samples of all threads", stats.taken);
    for (count, word) in [
        (stats.lost, "lost"),
        (stats.late, "late"),
        (stats.torn, "torn"),
    ] {
        if count > 0 {
            let _ = write!(how, ", {count} {word}");
        }
    }
    how
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_origins() {
        for (file, origin) in [
            ("/srv/app.py", Origin::Own),
            ("<string>", Origin::Own),
            ("/usr/lib/python3.11/json/decoder.py", Origin::Library),
            ("/opt/lib/python3.13t/queue.py", Origin::Library),
            ("/usr/lib/python311.zip/os.py", Origin::Library),
            ("<frozen importlib._bootstrap>", Origin::Library),
            (
                "/venv/lib/python3.11/site-packages/requests/api.py",
                Origin::Installed,
            ),
            (
                "/usr/lib/python3/dist-packages/apt/cache.py",
                Origin::Installed,
            ),
            ("/home/me/python/job.py", Origin::Own),
            ("/home/me/python3.py", Origin::Own),
        ] {
            assert_eq!(of_file(file), origin, "{file}");
        }
    }

    #[test]
    fn labels_say_what_is_known() {
        let mut call = Frame::marker("f");
        let style = Style::default();
        assert_eq!(frame(&call, style), "f");
        call.line = Some(3);
        assert_eq!(frame(&call, style), "f (line 3)");
        call.file = "/srv/a/b.py".into();
        call.module = Some("a.b".into());
        assert_eq!(frame(&call, style), "f (a/b.py:3)");
        let full = Style {
            full_filenames: true,
            ..style
        };
        assert_eq!(frame(&call, full), "f (/srv/a/b.py:3)");
        call.line = None;
        assert_eq!(frame(&call, style), "f (a/b.py)");
        call.function = " \u{202e}x\n".into();
        assert_eq!(function(&call), "\\u{202e}x");
        assert_eq!(visible(" \u{ffff} "), "\\u{ffff}");
        assert_eq!(visible("\n"), "<no name>");
    }
}
