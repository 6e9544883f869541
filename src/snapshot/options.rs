//! How processes are captured.

use std::time::Duration;

/// How a process is captured.
#[derive(Clone, Copy, Debug)]
pub struct CaptureOptions {
    /// Whether each thread is stopped while it is read.
    pub is_blocking: bool,
    /// Whether the local variables of frames are read too.
    pub reads_locals: bool,
    /// Whether it is found out which connections came in; it costs milliseconds for each process that has any.
    pub looks_for_listeners: bool,
    /// How long reading its memory may take: it blocks for as long as the target's `mmap_lock` is held.
    pub deadline: Duration,
}

impl Default for CaptureOptions {
    fn default() -> Self {
        CaptureOptions {
            is_blocking: false,
            reads_locals: false,
            looks_for_listeners: false,
            deadline: Duration::from_secs(10),
        }
    }
}
