//! What the kernel's scheduler says of a thread.

use serde::{Serialize, Serializer};

/// The state letter of `/proc/PID/stat` (`fs/proc/array.c::task_state_array`, Linux 6.18).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SchedState {
    /// `R`: on a processor or waiting for one.
    Running,
    /// `S`: interruptible sleep.
    Sleeping,
    /// `D`: uninterruptible sleep, most often a disk or a network file system.
    DiskSleep,
    /// `T`: stopped by a signal.
    Stopped,
    /// `t`: stopped by a tracer.
    Traced,
    /// `Z`: ended, not yet reaped.
    Zombie,
    /// `X`: ended.
    Dead,
    /// `I`: an idle thread of the kernel.
    Idle,
    /// Another letter.
    Unknown(u8),
}

impl SchedState {
    /// The state for the kernel's letter.
    pub fn from_letter(letter: u8) -> Self {
        match letter {
            b'R' => SchedState::Running,
            b'S' => SchedState::Sleeping,
            b'D' => SchedState::DiskSleep,
            b'T' => SchedState::Stopped,
            b't' => SchedState::Traced,
            b'Z' => SchedState::Zombie,
            b'X' | b'x' => SchedState::Dead,
            b'I' => SchedState::Idle,
            other => SchedState::Unknown(other),
        }
    }

    /// The kernel's letter.
    pub fn letter(self) -> char {
        match self {
            SchedState::Running => 'R',
            SchedState::Sleeping => 'S',
            SchedState::DiskSleep => 'D',
            SchedState::Stopped => 'T',
            SchedState::Traced => 't',
            SchedState::Zombie => 'Z',
            SchedState::Dead => 'X',
            SchedState::Idle => 'I',
            SchedState::Unknown(letter) => char::from(letter),
        }
    }

    /// The state in a word.
    pub fn word(self) -> &'static str {
        match self {
            SchedState::Running => "running",
            SchedState::Sleeping => "sleeping",
            SchedState::DiskSleep => "uninterruptible",
            SchedState::Stopped => "stopped",
            SchedState::Traced => "traced",
            SchedState::Zombie => "zombie",
            SchedState::Dead => "dead",
            SchedState::Idle => "idle",
            SchedState::Unknown(_) => "unknown",
        }
    }

    /// Whether the thread is on a processor or waiting for one.
    pub fn is_runnable(self) -> bool {
        self == SchedState::Running
    }
}

impl Serialize for SchedState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_char(self.letter())
    }
}
