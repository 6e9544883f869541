//! Files below `/proc/PID`, reached through a directory handle that a reused pid can't fool. No parsing.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use super::descriptors::noted;
use crate::model::{Pid, Tid};

/// Most bytes that are taken from one file: a map of 100,000 regions fits, an endless file does not.
const MAX_FILE: usize = 32 << 20;

/// Bytes that are asked for at first; `sched` and `status`, the longest of a thread's files, have about 1.5 KiB.
const FIRST_READ: usize = 4096;

/// Whether an error of a look into `/proc/PID` says that the process or thread is not there any more.
pub fn is_gone(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::NOENT | Errno::SRCH)
    )
}

/// The directory `/proc/PID`: after the process has ended, and even when its pid is used again, every look-up in it fails.
/// A clone is another handle on the same open directory.
#[derive(Clone, Debug)]
pub struct ProcDir {
    access: Access,
    pid: Pid,
}

/// How the directory is reached.
#[derive(Clone, Debug)]
enum Access {
    /// It is open, so that the kernel tells one process from the next with the same pid.
    Open(Arc<OwnedFd>),
    /// It is opened for each look-up, and compared with this.
    ByPid(Arc<Identity>),
}

/// What tells a process from a later one with the same pid.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// The record that it is read from.
    pub record: &'static str,
    /// How it is read; `None` from what is no such record.
    pub parse: fn(&[u8]) -> Option<u64>,
    /// What it was.
    pub value: u64,
}

impl ProcDir {
    /// Opens the directory of `pid`; `NotFound` when there is no such process.
    pub fn open(pid: Pid) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(
            rustix::fs::CWD,
            format!("/proc/{pid}"),
            flags,
            Mode::empty(),
        )
        .map_err(noted)?;
        Ok(ProcDir {
            access: Access::Open(Arc::new(directory)),
            pid,
        })
    }

    /// The same directory without a descriptor: it is opened for each look-up, which fails if `identity` has changed.
    #[must_use]
    pub fn closed(self, identity: Identity) -> Self {
        ProcDir {
            access: Access::ByPid(Arc::new(identity)),
            ..self
        }
    }

    /// The open directory.
    fn directory(&self) -> io::Result<Arc<OwnedFd>> {
        match &self.access {
            Access::Open(directory) => Ok(Arc::clone(directory)),
            Access::ByPid(identity) => {
                let opened = ProcDir::open(self.pid)?;
                let value = (identity.parse)(&opened.read_record(identity.record)?);
                match value == Some(identity.value) {
                    true => opened.directory(),
                    false => Err(Errno::SRCH.into()),
                }
            }
        }
    }

    /// The pid it was opened for.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Opens the file `name`, e.g. `stat` or `task/7/syscall`, for reading again and again.
    pub fn open_file(&self, name: &str) -> io::Result<ProcFile> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = openat(&*self.directory()?, name, flags, Mode::empty()).map_err(noted)?;
        Ok(ProcFile {
            file: File::from(file),
        })
    }

    /// The whole content of the file `name` as it is now.
    pub fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.open_file(name)?.read()
    }

    /// The content of the file `name`, which the kernel makes as one record (see [`ProcFile::read_record`]).
    pub fn read_record(&self, name: &str) -> io::Result<Vec<u8>> {
        self.open_file(name)?.read_record()
    }

    /// What the symbolic link `name` points to.
    pub fn read_link(&self, name: &str) -> io::Result<Vec<u8>> {
        Ok(rustix::fs::readlinkat(&*self.directory()?, name, Vec::new())?.into_bytes())
    }

    /// The entries of the directory `name` that are numbers, in ascending order.
    pub fn list_numbers(&self, name: &str) -> io::Result<Vec<i32>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(&*self.directory()?, name, flags, Mode::empty()).map_err(noted)?;
        let mut numbers = Vec::new();
        for entry in rustix::fs::Dir::new(directory)? {
            if let Some(number) = entry?
                .file_name()
                .to_str()
                .ok()
                .and_then(|name| name.parse().ok())
            {
                numbers.push(number);
            }
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// The threads of the process, in ascending order.
    pub fn tasks(&self) -> io::Result<Vec<Tid>> {
        Ok(self.list_numbers("task")?.into_iter().map(Tid).collect())
    }

    /// Opens `name` with the given flags, relative to the directory.
    pub fn open_with(&self, name: impl rustix::path::Arg, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC;
        openat(&*self.directory()?, name, flags, Mode::empty()).map_err(noted)
    }
}

/// An open file of `/proc`; each read gives the content as it is at that moment.
#[derive(Debug)]
pub struct ProcFile {
    file: File,
}

impl ProcFile {
    /// The whole content as it is now.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while !self.read_on(&mut bytes)?.is_end {}
        Ok(bytes)
    }

    /// The content of a file that the kernel makes as one record (`fs/seq_file.c::single_open`, as `stat`, `status`,
    /// `sched`, `syscall`): a read that does not fill the buffer has got all of it. To ask once more whether there is
    /// more would have the kernel make the record a second time.
    pub fn read_record(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        loop {
            let piece = self.read_on(&mut bytes)?;
            if piece.is_end || !piece.is_full {
                return Ok(bytes);
            }
        }
    }

    /// Fills `buffer` with the beginning of a record and gives what was filled; for records that are known to fit.
    pub fn read_into<'a>(&self, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        loop {
            match self.file.read_at(buffer, 0) {
                Ok(count) => return Ok(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads what comes behind `bytes`.
    fn read_on(&self, bytes: &mut Vec<u8>) -> io::Result<Piece> {
        let filled = bytes.len();
        if filled >= MAX_FILE {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "more than 32 MiB in a /proc file",
            ));
        }
        bytes.resize(filled + FIRST_READ.max(filled), 0);
        loop {
            match self.file.read_at(&mut bytes[filled..], filled as u64) {
                Ok(count) => {
                    let is_full = filled + count == bytes.len();
                    bytes.truncate(filled + count);
                    return Ok(Piece {
                        is_end: count == 0,
                        is_full,
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// What one read gave.
struct Piece {
    /// Nothing: the file had ended before.
    is_end: bool,
    /// As much as there was room for.
    is_full: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_files_links_and_lists_of_its_own_process() {
        let own = ProcDir::open(Pid::own()).unwrap();
        assert!(
            own.read("stat")
                .unwrap()
                .starts_with(Pid::own().to_string().as_bytes())
        );
        assert!(own.read("maps").unwrap().len() > 1024);
        assert!(own.read_record("status").unwrap().ends_with(b"\n"));
        assert!(!own.read_link("exe").unwrap().is_empty());
        assert!(own.tasks().unwrap().contains(&Tid(Pid::own().0)));
    }

    #[test]
    fn no_such_process_is_not_found() {
        let error = ProcDir::open(Pid(i32::MAX)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn an_ended_process_is_told_even_though_the_directory_was_open() {
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let directory = ProcDir::open(Pid(child.id() as i32)).unwrap();
        assert!(directory.read("stat").is_ok());
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(directory.read("stat").is_err());
    }
}
