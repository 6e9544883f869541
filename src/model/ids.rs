//! Numbers that name processes and threads.

use std::fmt;

use serde::Serialize;

/// A process, as numbered in our own pid namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Pid(pub i32);

/// A thread, as numbered in our own pid namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Tid(pub i32);

impl Pid {
    /// This process.
    pub fn own() -> Self {
        Pid(nix::unistd::getpid().as_raw())
    }

    /// The same number as nix' type.
    pub fn to_nix(self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.0)
    }

    /// The thread that the process started with, which has the same number.
    pub fn main_thread(self) -> Tid {
        Tid(self.0)
    }
}

impl Tid {
    /// The same number as nix' type.
    pub fn to_nix(self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.0)
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Tid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
