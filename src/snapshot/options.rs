//! How processes are captured.

use std::time::Duration;

use crate::python::frame::StackRoom;
use crate::sys::deadline::TimeBudget;

/// The time of a command that does not say how much it has.
pub const DEFAULT_TIME: Duration = Duration::from_secs(10);

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
    /// Whether each thread that could run is stopped while it is read.
    pub is_blocking: bool,
    /// Which local variables of frames are read too.
    pub locals: Locals,
    /// Whether it is asked what the process has moved, and what its CPU limit has cost it.
    pub counts: bool,
    /// Whether it is found out which connections came in; it costs milliseconds for each process that has any.
    pub looks_for_listeners: bool,
    /// Of objects that a thread has waited for at least so long it is found out which threads can reach them; of none where this is absent.
    pub reach_after: Option<Duration>,
    /// The same of waits that end by themselves, however short they are: slices of longer ones.
    pub reach_of_slices: bool,
    /// The time for reading it, and all that is read with it: reading memory blocks for as long as the target's `mmap_lock` is
    /// held, and opening its files for as long as their file system does not answer.
    pub time: TimeBudget,
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
            reach_after: None,
            reach_of_slices: false,
            time: TimeBudget::new(DEFAULT_TIME),
            room: StackRoom::MAX,
        }
    }
}
