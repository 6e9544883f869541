//! The standard streams as they were when we were started, and writing to a descriptor whose reader may take nothing. No
//! formatting.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;

/// Bytes of one write: a pipe that is ready has room for a page (`fs/pipe.c::pipe_poll`, Linux 6.18), so this does not block.
const PIECE: usize = 4096;
/// How often it is looked whether the end was asked for.
const ROUND: Duration = Duration::from_millis(100);
/// How long a reader may take nothing once the end was asked for.
pub const MAX_STALL: Duration = Duration::from_secs(5);

/// Whether standard output was closed when we were started. There is one, so there is one of this.
static WAS_STDOUT_CLOSED: AtomicBool = AtomicBool::new(false);

/// Runs before `main`, and so before Rust's runtime opens `/dev/null` in the place of closed standard streams
/// (`std/src/sys/pal/unix/mod.rs::sanitize_standard_fds`, Rust 1.95). Afterwards the two can't be told apart: others, too, start
/// programs with a `/dev/null` that is open for reading and writing (Python's `subprocess.DEVNULL`).
#[allow(unsafe_code)]
extern "C" fn note_closed_stdout() {
    // SAFETY: fcntl with F_GETFD takes no pointer, changes nothing, and needs nothing of the runtime.
    let flags = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) };
    // EBADF is its only error.
    WAS_STDOUT_CLOSED.store(flags == -1, Ordering::Relaxed);
}

// SAFETY: the C library calls what stands in this section with (argc, argv, envp) or with nothing, before `main`; a function
// of the C ABI that takes nothing may be called with either. It uses no part of the standard library but an atomic.
#[allow(unsafe_code)]
#[used]
#[unsafe(link_section = ".init_array")]
static NOTE_CLOSED_STDOUT: extern "C" fn() = note_closed_stdout;

/// Fails where standard output takes nothing at all: it was closed when we were started, or is open for reading only. What is
/// written through the standard library is lost without a word then (`std/src/io/stdio.rs::handle_ebadf`, Rust 1.95).
pub fn check_stdout() -> io::Result<()> {
    if WAS_STDOUT_CLOSED.load(Ordering::Relaxed) {
        return Err(io::Error::other("standard output is closed"));
    }
    let flags = rustix::fs::fcntl_getfl(rustix::stdio::stdout())?;
    if flags & OFlags::ACCMODE == OFlags::RDONLY {
        return Err(io::Error::other("standard output is open for reading only"));
    }
    Ok(())
}

/// Standard output without the buffer of the standard library, and with its errors.
pub fn stdout(is_over: &AtomicBool) -> io::Result<PatientWriter<'_>> {
    check_stdout()?;
    Ok(PatientWriter::new(rustix::stdio::stdout(), is_over))
}

/// Writes `text` to standard error if it takes that at once: for the last words before the end, which must not be kept up.
pub fn say_at_once(text: &str) {
    let stderr = rustix::stdio::stderr();
    let text = &text.as_bytes()[..text.len().min(PIECE)];
    if is_ready(stderr, ROUND).unwrap_or(false) {
        let _ = rustix::io::write(stderr, text);
    }
}

/// Writes to a descriptor, which may block or not. As long as its reader takes nothing it is waited, but only
/// [`MAX_STALL`] once the end was asked for.
#[derive(Debug)]
pub struct PatientWriter<'a> {
    descriptor: BorrowedFd<'a>,
    is_over: &'a AtomicBool,
}

impl<'a> PatientWriter<'a> {
    /// A writer to `descriptor`, until `is_over`.
    pub fn new(descriptor: BorrowedFd<'a>, is_over: &'a AtomicBool) -> Self {
        PatientWriter {
            descriptor,
            is_over,
        }
    }
}

impl Write for PatientWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(PIECE)];
        let mut stalled_since = None;
        loop {
            if is_ready(self.descriptor, ROUND)? {
                match rustix::io::write(self.descriptor, piece) {
                    // Another writer was faster.
                    Err(Errno::AGAIN) => std::thread::sleep(Duration::from_millis(1)),
                    Err(Errno::INTR) => {}
                    result => return Ok(result?),
                }
            }
            if self.is_over.load(Ordering::Relaxed)
                && stalled_since.get_or_insert_with(Instant::now).elapsed() > MAX_STALL
            {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("its reader took nothing for {} s", MAX_STALL.as_secs()),
                ));
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether something can be written within `limit`, or writing fails at once.
fn is_ready(descriptor: impl AsFd, limit: Duration) -> io::Result<bool> {
    let mut polled = [PollFd::new(&descriptor, PollFlags::OUT)];
    let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
    match poll(&mut polled, Some(&limit)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_pipe_is_filled_as_its_reader_takes_it() {
        let (mut reader, writer) = io::pipe().unwrap();
        let bytes: Vec<u8> = (0..200_000u32).map(|number| number as u8).collect();
        let expected = bytes.clone();
        let written = std::thread::spawn(move || {
            let is_over = AtomicBool::new(false);
            PatientWriter::new(writer.as_fd(), &is_over).write_all(&bytes)
        });
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        written.join().unwrap().unwrap();
        assert_eq!(read, expected);
    }

    #[test]
    fn a_reader_that_takes_nothing_is_left_once_it_is_over() {
        let (_reader, writer) = io::pipe().unwrap();
        let is_over = AtomicBool::new(true);
        let began = Instant::now();
        let mut writer = PatientWriter::new(writer.as_fd(), &is_over);
        let error = writer.write_all(&[0; 1 << 20]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() >= MAX_STALL);
    }

    #[test]
    fn a_reader_that_is_gone_is_a_broken_pipe() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let is_over = AtomicBool::new(false);
        let error = PatientWriter::new(writer.as_fd(), &is_over)
            .write_all(b"text")
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
