//! How processes are captured.

use std::time::Duration;

use crate::python::frame::StackRoom;

/// Which local variables are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locals {
    /// None.
    None,
    /// As many as can be read within milliseconds, so that a thread that runs is kept from it as shortly; with a module's
    /// globals, since these are the variables of a loop there.
    Few,
    /// All that there is room for.
    All,
}

/// How a process is captured.
#[derive(Clone, Copy, Debug)]
pub struct CaptureOptions {
    /// Whether each thread is stopped while it is read.
    pub is_blocking: bool,
    /// Which local variables of frames are read too.
    pub locals: Locals,
    /// Whether it is asked what the process has moved, and what its CPU limit has cost it.
    pub counts: bool,
    /// Whether it is found out which connections came in; it costs milliseconds for each process that has any.
    pub looks_for_listeners: bool,
    /// How long reading its memory may take: it blocks for as long as the target's `mmap_lock` is held.
    pub deadline: Duration,
    /// How much its stacks may take.
    pub room: StackRoom,
}

impl Default for CaptureOptions {
    fn default() -> Self {
        CaptureOptions {
            is_blocking: false,
            locals: Locals::None,
            counts: false,
            looks_for_listeners: false,
            deadline: Duration::from_secs(10),
            room: StackRoom::MAX,
        }
    }
}
