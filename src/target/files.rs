//! Opening the target's files as the target sees them, without being fooled and without blocking.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2};

use super::maps::Mapping;
use crate::sys::descriptors::noted;
use crate::sys::procfile::ProcDir;

/// Opens the file behind `mapping`.
///
/// `/proc/PID/map_files` gives exactly the mapped file, also when it was deleted or replaced, but may be refused
/// (CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE, `fs/proc/base.c`, Linux 6.18); else the path is looked up below the
/// target's own root, and the caller has to check that it is still the same file.
pub fn open_mapped_file(proc: &ProcDir, mapping: &Mapping) -> io::Result<File> {
    let link = format!("map_files/{:x}-{:x}", mapping.start.0, mapping.end.0);
    if let Ok(handle) = proc.open_with(link.as_str(), OFlags::PATH) {
        return open_regular(handle);
    }
    let path = mapping.path().ok_or(io::ErrorKind::NotFound)?;
    if mapping.is_deleted() {
        return Err(io::ErrorKind::NotFound.into());
    }
    open_in_root(proc, path)
}

/// Opens `path` as the target would: below its root, with absolute symbolic links staying below it.
pub fn open_in_root(proc: &ProcDir, path: &Path) -> io::Result<File> {
    open_regular(find_in_root(proc, path)?)
}

/// A handle that reads nothing on the file at `path`, as the target would find it: below its root, or, where the path is relative, below its current
/// directory and nowhere else.
pub fn find_in_root(proc: &ProcDir, path: &Path) -> io::Result<OwnedFd> {
    let (base, resolve) = match path.is_absolute() {
        true => ("root", ResolveFlags::IN_ROOT),
        false => ("cwd", ResolveFlags::BENEATH),
    };
    let base = proc.open_with(base, OFlags::PATH | OFlags::DIRECTORY)?;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = resolve | ResolveFlags::NO_MAGICLINKS;
    openat2(&base, path, flags, Mode::empty(), resolve).map_err(noted)
}

/// Turns a handle that reads nothing into an open file, if it is a regular one: opening a FIFO would block, opening a
/// device can have effects.
pub fn open_regular(handle: OwnedFd) -> io::Result<File> {
    if FileType::from_raw_mode(fstat(&handle)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        ));
    }
    File::open(format!("/proc/self/fd/{}", handle.as_raw_fd())).map_err(noted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Pid;
    use crate::target::maps::parse_maps;

    #[test]
    fn its_own_program_is_opened_and_a_fifo_is_refused_at_once() {
        let own = ProcDir::open(Pid::own()).unwrap();
        let maps = parse_maps(&own.read("maps").unwrap());
        let program = maps
            .iter()
            .find(|mapping| mapping.path().is_some())
            .unwrap();
        assert!(
            open_mapped_file(&own, program)
                .unwrap()
                .metadata()
                .unwrap()
                .len()
                > 0
        );
        assert!(open_in_root(&own, program.path().unwrap()).is_ok());

        // A relative path is one below the current directory, and one that leads out of it is none.
        assert!(find_in_root(&own, Path::new("Cargo.toml")).is_ok());
        assert!(find_in_root(&own, Path::new("../../etc/passwd")).is_err());

        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert_eq!(
            open_in_root(&own, &fifo).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }
}
