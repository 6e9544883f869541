//! Reading a file that a user has named, which may be endless, or never come to its end. No knowledge of what is read.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// The content of the file at `path`; an error if it has more than `most` bytes, or does not end within `limit`.
pub fn read_bounded(path: &Path, most: usize, limit: Duration) -> io::Result<Vec<u8>> {
    let began = Instant::now();
    // Without NONBLOCK, opening a FIFO waits for its writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let late = || {
        let text = format!("it did not come to its end within {} s", limit.as_secs());
        io::Error::new(io::ErrorKind::TimedOut, text)
    };
    let mut bytes = vec![0; most + 1];
    let mut filled = 0;
    while filled <= most {
        let left = limit.checked_sub(began.elapsed()).ok_or_else(late)?;
        // A FIFO that had no writer yet gives an end at once when it is read, but is not ready.
        if !is_ready(&file, left)? {
            continue;
        }
        match file.read(&mut bytes[filled..]) {
            Ok(0) => {
                bytes.truncate(filled);
                return Ok(bytes);
            }
            Ok(count) => filled += count,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                ) => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(
        io::ErrorKind::FileTooLarge,
        format!("it has more than {most} bytes"),
    ))
}

fn is_ready(file: &File, limit: Duration) -> io::Result<bool> {
    let descriptor = file.as_fd();
    let mut polled = [PollFd::new(&descriptor, PollFlags::IN)];
    let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
    match poll(&mut polled, Some(&limit)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn what_fits_is_read_and_what_does_not_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, [7; 10]).unwrap();
        assert_eq!(read_bounded(&path, 10, LONG).unwrap(), [7; 10]);
        let error = read_bounded(&path, 9, LONG).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        let error = read_bounded(Path::new("/dev/zero"), 1 << 20, LONG).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        let error = read_bounded(folder.path(), 10, LONG).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::IsADirectory);
    }

    #[test]
    fn a_fifo_is_read_to_its_end_or_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &path, kind, Mode::RWXU, 0).unwrap();
        let error = read_bounded(&path, 10, Duration::from_millis(10)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let writer = {
            let path = path.clone();
            std::thread::spawn(move || {
                let mut fifo = fs::OpenOptions::new().write(true).open(path).unwrap();
                fifo.write_all(b"one").unwrap();
                fifo.write_all(b"two").unwrap();
            })
        };
        assert_eq!(read_bounded(&path, 10, LONG).unwrap(), b"onetwo");
        writer.join().unwrap();
    }
}
