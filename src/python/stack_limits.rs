//! What stacks may take: how many bytes, and how many frames before they are cut, and how a chain without an end is found. It must not
//! read anything.

use thiserror::Error;

use crate::model::{Address, Frame};

/// Most frames of one stack; a deeper one ends in a marker.
pub const MAX_FRAMES: usize = 200_000;
/// Frames after which it is first looked whether the chain leads back to itself.
const FIRST_CHECK: usize = 64;

/// How much the stacks of one snapshot may take, or have taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StackRoom {
    /// Bytes of memory: texts, line tables, frames.
    pub memory: usize,
    /// Bytes of a document that has all of it, where each frame has its texts as often as it stands on a stack.
    pub written: usize,
}

impl StackRoom {
    /// What one snapshot may take.
    pub const MAX: StackRoom = StackRoom {
        memory: 24 << 20,
        written: 256 << 20,
    };

    /// Half of it.
    pub fn half(self) -> StackRoom {
        StackRoom {
            memory: self.memory / 2,
            written: self.written / 2,
        }
    }

    /// As large a part of `whole` as this is of [`StackRoom::MAX`].
    pub fn share_of(self, whole: usize) -> usize {
        whole.min(whole.saturating_mul(self.memory) / Self::MAX.memory)
    }

    /// What is left when so much was taken.
    pub fn without(self, taken: StackRoom) -> StackRoom {
        StackRoom {
            memory: self.memory.saturating_sub(taken.memory),
            written: self.written.saturating_sub(taken.written),
        }
    }
}

/// Why a stack has fewer frames than were there. The outermost ones are missing then, and a marker stands for them.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Cut {
    /// A frame names one as its caller that it has called itself, so that the chain has no end.
    #[error("the chain of frames is a cycle of {0} and can't be trusted")]
    Cycle(usize),
    /// It is deeper than can be read.
    #[error("the stack is deeper than {MAX_FRAMES} frames; the outer ones were left out")]
    TooDeep,
    /// All that was read together takes too many bytes.
    #[error(
        "the stacks of the process take more bytes than are read at once; the outer frames of this one were left out"
    )]
    TooLarge,
}

impl Cut {
    /// The frame that stands where frames are missing.
    pub(super) fn marker(self) -> Frame {
        match self {
            Cut::Cycle(frames) => Frame::marker(&format!("<cycle of {frames} frames>")),
            Cut::TooDeep | Cut::TooLarge => Frame::marker("<truncated>"),
        }
    }
}

/// Finds that a chain leads back to itself, at the cost of one comparison for each step: a mark is left behind, further apart each
/// time (R. P. Brent, An improved Monte Carlo factorization algorithm, BIT 20, 1980).
pub(super) struct Trail {
    mark: Address,
    pub(super) since_mark: usize,
    until_next: usize,
    pub(super) steps: usize,
}

impl Default for Trail {
    fn default() -> Self {
        Trail {
            mark: Address::NULL,
            since_mark: 0,
            until_next: FIRST_CHECK,
            steps: 0,
        }
    }
}

impl Trail {
    /// Whether `at`, which comes next, was met before. The steps since the mark are the length of the cycle then.
    pub(super) fn leads_back(&mut self, at: Address) -> bool {
        self.since_mark += 1;
        self.steps += 1;
        if at == self.mark {
            return true;
        }
        if self.since_mark >= self.until_next {
            self.mark = at;
            self.since_mark = 0;
            self.until_next *= 2;
        }
        false
    }
}
