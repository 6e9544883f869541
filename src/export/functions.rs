//! Frames told apart by their function alone, for formats that keep functions and lines in different places.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::model::{Frame, FrameKind};
use crate::profile::FrameId;

/// A frame without the line that it is at.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key<'a> {
    function: &'a str,
    file: &'a str,
    first_line: Option<u32>,
    kind: FrameKind,
}

/// The functions of a profile, in the order in which they were first seen.
pub(super) struct Functions {
    of_frame: Vec<usize>,
    examples: Vec<FrameId>,
}

impl Functions {
    /// The functions of `frames`.
    pub(super) fn of(frames: &[Arc<Frame>]) -> Functions {
        let mut known: FxHashMap<Key<'_>, usize> = FxHashMap::default();
        let mut functions = Functions {
            of_frame: Vec::with_capacity(frames.len()),
            examples: Vec::new(),
        };
        for (id, frame) in (0..).map(FrameId).zip(frames) {
            let key = Key {
                function: &frame.function,
                file: &frame.file,
                first_line: frame.first_line,
                kind: frame.kind,
            };
            let function = *known.entry(key).or_insert_with(|| {
                functions.examples.push(id);
                functions.examples.len() - 1
            });
            functions.of_frame.push(function);
        }
        functions
    }

    /// The number of a frame's function.
    pub(super) fn function(&self, frame: FrameId) -> usize {
        self.of_frame[frame.0 as usize]
    }

    /// For each function, one of its frames.
    pub(super) fn examples(&self) -> &[FrameId] {
        &self.examples
    }
}
