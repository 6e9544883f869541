//! The file that a recording goes to: opened before the run, and never left half-written. It must not print.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::fs::{Mode, fsync};
use thiserror::Error;

use super::destination::{Destination, Existing, Place, sync};
use super::unfinished::Unfinished;
use crate::sys::stdio::{self, PatientWriter};

/// Most names that are tried for the temporary file.
const MAX_NAMES: u32 = 100;
/// Most bytes of the file's own name that its temporary name has: a name has at most 255 (`NAME_MAX`).
const MAX_NAME: usize = 200;

/// Why an output can't be had.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OutputError {
    /// It can't be opened or made.
    #[error("open {} for writing", path.display())]
    Open {
        /// What was asked for.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It can't be written.
    #[error("write {}", path.display())]
    Write {
        /// What was asked for, `-` for the standard output.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl OutputError {
    /// The system's reason.
    pub fn io(&self) -> &io::Error {
        match self {
            OutputError::Open { source, .. } | OutputError::Write { source, .. } => source,
        }
    }
}

/// Where a recording goes. It can be written several times: a regular file then holds what was written last, anything
/// else gets one after the other.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    target: Target,
    is_over: Arc<AtomicBool>,
}

#[derive(Debug)]
enum Target {
    Stdout,
    /// Not a regular file, or one in a folder that takes no new ones.
    Direct(File),
    /// A regular file, itself where the path is a link to it, that is replaced by a new one as a whole.
    Replaced(Place),
}

/// A file that is removed unless it gets its own name.
#[derive(Debug)]
struct Temporary<'a> {
    place: &'a Place,
    name: OsString,
    file: File,
    is_kept: bool,
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.is_kept {
            let _ = self.place.remove(&self.name);
        }
    }
}

impl Output {
    /// Opens `path`, `-` for the standard output, so that what can't be written fails at once. What is there stays as it
    /// is until the first writing has come to its end. A FIFO without a reader is waited for, as a shell does; that ends, as
    /// all waiting for readers does, once `is_over`.
    pub fn open(path: &Path, is_over: Arc<AtomicBool>) -> Result<Output, OutputError> {
        let target = if path.as_os_str() == "-" {
            stdio::check_stdout().map(|()| Target::Stdout)
        } else {
            open(path, &is_over)
        };
        match target {
            Ok(target) => Ok(Output {
                path: path.to_owned(),
                target,
                is_over,
            }),
            Err(source) => Err(OutputError::Open {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Whether it is the standard output.
    pub fn is_stdout(&self) -> bool {
        matches!(self.target, Target::Stdout)
    }

    /// What was asked for.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes what `contents` writes. When that fails, a regular file is what it was before.
    pub fn write(
        &mut self,
        contents: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), OutputError> {
        let written = match &mut self.target {
            Target::Stdout => {
                stdio::stdout(&self.is_over).and_then(|stdout| buffered(stdout, contents))
            }
            Target::Direct(file) => write_directly(file, &self.is_over, contents),
            Target::Replaced(place) => replace(place, contents),
        };
        written.map_err(|source| OutputError::Write {
            path: self.path.clone(),
            source,
        })
    }
}

fn open(path: &Path, is_over: &AtomicBool) -> io::Result<Target> {
    match Destination::find(path, is_over)? {
        Destination::Special(file) => Ok(Target::Direct(file)),
        // One is made, and removed, to see that it can be.
        Destination::Nothing(place) => {
            Temporary::beside(&place, Mode::from_raw_mode(0o666))?;
            Ok(Target::Replaced(place))
        }
        Destination::Regular(place) => {
            let existing = place.open_existing()?.ok_or(io::ErrorKind::NotFound)?;
            match Temporary::beside(&place, Mode::RUSR | Mode::WUSR) {
                Ok(temporary) => existing.pass_on(&temporary.file)?,
                // A file that is mounted by itself, as containers have them, in a folder that is read-only.
                Err(_) => return Ok(Target::Direct(existing.file)),
            }
            Ok(Target::Replaced(place))
        }
    }
}

/// Writes into a file that is there. A regular one is made empty; anything else has no beginning to go back to.
fn write_directly(
    file: &mut File,
    is_over: &AtomicBool,
    contents: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    if !file.metadata()?.is_file() {
        return buffered(PatientWriter::new(file.as_fd(), is_over), contents);
    }
    file.set_len(0)?;
    file.rewind()?;
    buffered(&*file, contents)?;
    sync(fsync(&*file))
}

fn buffered(
    out: impl Write,
    contents: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 16, out);
    contents(&mut out)?;
    out.flush()
}

impl Temporary<'_> {
    /// A new file in the same folder, under a name of its own.
    fn beside(place: &Place, mode: Mode) -> io::Result<Temporary<'_>> {
        let mut number = 0;
        loop {
            let own = place.name().as_bytes();
            let mut name = OsString::from(".");
            name.push(OsStr::from_bytes(&own[..own.len().min(MAX_NAME)]));
            name.push(format!(".{}-{number}", std::process::id()));
            match place.create(&name, mode) {
                Ok(file) => {
                    return Ok(Temporary {
                        place,
                        name,
                        file,
                        is_kept: false,
                    });
                }
                Err(error)
                    if error.kind() == io::ErrorKind::AlreadyExists && number < MAX_NAMES =>
                {
                    number += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives it the name of its place. It is whole: where that can't be, it is better under this name than nowhere.
    fn finish(mut self, existing: io::Result<Option<Existing>>) -> io::Result<()> {
        let settled = self.settle(existing);
        self.is_kept = !matches!(settled, Ok(Settled::Copied));
        match settled {
            Ok(Settled::Copied) => Ok(()),
            Ok(Settled::Renamed) => self.place.sync(),
            Err(error) => {
                let shown = self.place.shown(&self.name);
                let text = format!("{error}; what was recorded is in {}", shown.display());
                Err(io::Error::new(error.kind(), text))
            }
        }
    }

    fn settle(&self, existing: io::Result<Option<Existing>>) -> io::Result<Settled> {
        let existing = existing?;
        if let Some(existing) = &existing {
            existing.pass_on(&self.file)?;
            sync(fsync(&self.file))?;
        }
        match (self.place.take(&self.name), existing) {
            // A file that is mounted by itself can't be replaced, but it can be filled.
            (Err(error), Some(existing)) if is_held(&error) => {
                self.fill(existing)?;
                Ok(Settled::Copied)
            }
            (taken, _) => taken.map(|()| Settled::Renamed),
        }
    }

    fn fill(&self, existing: Existing) -> io::Result<()> {
        let mut new = self.place.open(&self.name)?;
        let mut file = existing.file;
        // Written over before it is cut: where there is no room, it is found out as late as that.
        io::copy(&mut new, &mut file)?;
        let length = file.stream_position()?;
        file.set_len(length)?;
        sync(fsync(&file))
    }
}

/// How a file came to its place.
enum Settled {
    Renamed,
    Copied,
}

/// Whether the place of a file is not ours to give, though the file may be written.
fn is_held(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ResourceBusy | io::ErrorKind::PermissionDenied
    )
}

/// Puts a new file into a place, once it is whole and on the disk: after a loss of power there is the old or the new one.
fn replace(
    place: &Place,
    contents: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    // Others may have put something there since it was opened. Then the recording must not be lost for it.
    let existing = place.open_existing();
    let mode = match existing {
        Ok(None) => Mode::from_raw_mode(0o666),
        _ => Mode::RUSR | Mode::WUSR,
    };
    let temporary = Temporary::beside(place, mode)?;
    let unfinished = Unfinished::begin(&place.shown(&temporary.name));
    buffered(&temporary.file, contents)?;
    sync(fsync(&temporary.file))?;
    unfinished.complete();
    temporary.finish(existing)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn open_now(path: &Path) -> Result<Output, OutputError> {
        Output::open(path, Arc::default())
    }

    fn write(output: &mut Output, text: &str) {
        output.write(|out| out.write_all(text.as_bytes())).unwrap();
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("flame.svg");
        let mut output = open_now(&path).unwrap();
        assert!(!path.exists());
        write(&mut output, "one");
        assert_eq!(fs::read_to_string(&path).unwrap(), "one");
        write(&mut output, "2");
        assert_eq!(fs::read_to_string(&path).unwrap(), "2");
        let failed = output.write(|out| {
            out.write_all(b"half")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        let error = failed.unwrap_err();
        assert_eq!(error.io().kind(), io::ErrorKind::StorageFull);
        assert_eq!(error.to_string(), format!("write {}", path.display()));
        assert_eq!(fs::read_to_string(&path).unwrap(), "2");
        drop(output);
        assert_eq!(names(folder.path()), ["flame.svg"]);
    }

    #[test]
    fn what_was_there_stays_until_something_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("old");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let link = folder.path().join("link");
        symlink("old", &link).unwrap();
        drop(open_now(&link).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        let mut output = open_now(&link).unwrap();
        for text in ["new", "newer"] {
            write(&mut output, text);
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o640);
        }
        assert!(link.is_symlink());
        drop(output);
        assert_eq!(names(folder.path()), ["link", "old"]);
    }

    #[test]
    fn what_can_not_be_written_fails_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("none/flame.svg");
        let error = open_now(&missing).unwrap_err();
        assert_eq!(error.io().kind(), io::ErrorKind::NotFound);
        assert_eq!(
            error.to_string(),
            format!("open {} for writing", missing.display())
        );
        let error = open_now(folder.path()).unwrap_err();
        assert_eq!(error.io().kind(), io::ErrorKind::IsADirectory);
        assert!(open_now(Path::new("")).is_err());
    }

    /// Run by hand in a mount namespace: `STUCKSPY_MOUNTED_FILE=/a/file` that is mounted by itself.
    #[test]
    fn a_file_that_is_mounted_is_filled() {
        let Some(path) = std::env::var_os("STUCKSPY_MOUNTED_FILE") else {
            return;
        };
        let mut output = open_now(Path::new(&path)).unwrap();
        for text in ["longer", "short"] {
            write(&mut output, text);
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn devices_and_fifos_are_written_directly() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            Mode::RWXU,
            0,
        )
        .unwrap();
        let reader = {
            let fifo = fifo.clone();
            std::thread::spawn(move || {
                let mut text = String::new();
                File::open(fifo).unwrap().read_to_string(&mut text).unwrap();
                text
            })
        };
        let mut output = open_now(&fifo).unwrap();
        write(&mut output, "one");
        write(&mut output, "two");
        drop(output);
        assert_eq!(reader.join().unwrap(), "onetwo");
        assert_eq!(names(folder.path()), ["fifo"]);
        write(&mut open_now(Path::new("/dev/null")).unwrap(), "gone");
    }
}
