//! The file that a recording goes to: opened before the run, and never left half-written. It must not print.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Most names that are tried for the temporary file.
const MAX_NAMES: u32 = 100;

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
}

#[derive(Debug)]
enum Target {
    Stdout,
    /// Not a regular file, or one in a folder that takes no new ones.
    Direct(File),
    /// A regular file, itself where the path is a link to it, that is replaced by a new one as a whole.
    Replaced(PathBuf),
}

/// A file that is removed unless it gets its own name.
#[derive(Debug)]
struct Temporary {
    path: PathBuf,
    file: File,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After a rename there is none.
        let _ = fs::remove_file(&self.path);
    }
}

impl Output {
    /// Opens `path`, `-` for the standard output, so that what can't be written fails at once. What is there stays as it
    /// is until the first writing has come to its end. A FIFO without a reader is waited for, as a shell does.
    pub fn open(path: &Path) -> Result<Output, OutputError> {
        let target = if path.as_os_str() == "-" {
            Ok(Target::Stdout)
        } else {
            open(path)
        };
        match target {
            Ok(target) => Ok(Output {
                path: path.to_owned(),
                target,
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
            Target::Stdout => buffered(io::stdout().lock(), contents),
            Target::Direct(file) => rewind(file).and_then(|()| buffered(file, contents)),
            Target::Replaced(target) => replace(target, contents),
        };
        written.map_err(|source| OutputError::Write {
            path: self.path.clone(),
            source,
        })
    }
}

fn open(path: &Path) -> io::Result<Target> {
    let existing = OpenOptions::new().write(true).open(path);
    match existing {
        Ok(file) if is_replaceable(path, &file)? => {
            let target = fs::canonicalize(path)?;
            match Temporary::beside(&target) {
                Ok(_) => Ok(Target::Replaced(target)),
                // A file that is mounted by itself, as containers have them, in a folder that is read-only.
                Err(_) => Ok(Target::Direct(file)),
            }
        }
        Ok(file) => Ok(Target::Direct(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // One is made, and removed, to see that it can be.
            Temporary::beside(path)?;
            Ok(Target::Replaced(path.to_owned()))
        }
        Err(error) => Err(error),
    }
}

/// Whether it is a regular file that somebody looks for by its name: what stands in /dev and /proc leads to files that
/// others have open.
fn is_replaceable(path: &Path, file: &File) -> io::Result<bool> {
    let is_special = ["/dev", "/proc"].iter().any(|root| path.starts_with(root));
    Ok(!is_special && file.metadata()?.is_file())
}

/// Makes a regular file empty; anything else has no beginning to go back to.
fn rewind(file: &mut File) -> io::Result<()> {
    if file.metadata()?.is_file() {
        file.set_len(0)?;
        file.rewind()?;
    }
    Ok(())
}

fn buffered(
    out: impl Write,
    contents: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 16, out);
    contents(&mut out)?;
    out.flush()
}

impl Temporary {
    /// A new file in the folder of `target`, under a name of its own.
    fn beside(target: &Path) -> io::Result<Temporary> {
        let Some(name) = target.file_name() else {
            return Err(io::ErrorKind::IsADirectory.into());
        };
        let mut number = 0;
        loop {
            let mut hidden = OsString::from(".");
            hidden.push(name);
            hidden.push(format!(".{}-{number}", std::process::id()));
            let path = target.with_file_name(hidden);
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => return Ok(Temporary { path, file }),
                Err(error)
                    if error.kind() == io::ErrorKind::AlreadyExists && number < MAX_NAMES =>
                {
                    number += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Puts a new file into the place of `target`, once it is whole.
fn replace(
    target: &Path,
    contents: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let temporary = Temporary::beside(target)?;
    if let Ok(metadata) = fs::metadata(target) {
        temporary.file.set_permissions(metadata.permissions())?;
    }
    buffered(&temporary.file, contents)?;
    match fs::rename(&temporary.path, target) {
        // A file that is mounted by itself can't be replaced, but it can be filled.
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            fs::copy(&temporary.path, target)?;
            Ok(())
        }
        renamed => renamed,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

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
        let mut output = Output::open(&path).unwrap();
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
        drop(Output::open(&link).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        let mut output = Output::open(&link).unwrap();
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
        let error = Output::open(&missing).unwrap_err();
        assert_eq!(error.io().kind(), io::ErrorKind::NotFound);
        assert_eq!(
            error.to_string(),
            format!("open {} for writing", missing.display())
        );
        let error = Output::open(folder.path()).unwrap_err();
        assert_eq!(error.io().kind(), io::ErrorKind::IsADirectory);
        assert!(Output::open(Path::new("")).is_err());
    }

    /// Run by hand in a mount namespace: `STUCKSPY_MOUNTED_FILE=/a/file` that is mounted by itself.
    #[test]
    fn a_file_that_is_mounted_is_filled() {
        let Some(path) = std::env::var_os("STUCKSPY_MOUNTED_FILE") else {
            return;
        };
        let mut output = Output::open(Path::new(&path)).unwrap();
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
            rustix::fs::Mode::RWXU,
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
        let mut output = Output::open(&fifo).unwrap();
        write(&mut output, "one");
        write(&mut output, "two");
        drop(output);
        assert_eq!(reader.join().unwrap(), "onetwo");
        assert_eq!(names(folder.path()), ["fifo"]);
        write(&mut Output::open(Path::new("/dev/null")).unwrap(), "gone");
    }
}
