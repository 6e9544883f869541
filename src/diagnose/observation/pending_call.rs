//! The pending call: the innermost call that a thread was in at every sample, however often it woke in it.

use std::sync::Arc;

use crate::model::{Frame, FrameKind};

/// The calls that were on a stack at all samples so far, outermost first, at the lines of the last one.
#[derive(Debug, Default)]
pub struct CommonCalls {
    calls: Vec<Arc<Frame>>,
    samples: usize,
    /// Whether some sample had no stack: then nothing is known of it.
    is_broken: bool,
}

impl CommonCalls {
    /// Takes in the stack of a sample, innermost first; of a very deep one, at most so many of the outermost calls.
    pub fn see(&mut self, frames: &[Arc<Frame>], limit: usize) {
        self.samples += 1;
        if frames.is_empty() {
            self.is_broken = true;
        }
        if self.is_broken {
            self.calls.clear();
            return;
        }
        if self.samples == 1 {
            self.calls = frames.iter().rev().take(limit).cloned().collect();
            return;
        }
        let pairs = self.calls.iter().zip(frames.iter().rev());
        let common = pairs
            .take_while(|(one, other)| is_same_function(one, other))
            .count();
        self.calls.truncate(common);
        for (call, frame) in self.calls.iter_mut().zip(frames.iter().rev()) {
            if call.line != frame.line {
                *call = Arc::clone(frame);
            }
        }
    }

    /// How many of the outermost calls of a stack they are, up to the innermost that is Python; `None` where there is none.
    pub fn depth(&self) -> Option<usize> {
        let mut calls = self.calls.iter();
        let place = calls.rposition(|call| call.kind == FrameKind::Python)?;
        Some(place + 1)
    }
}

/// Whether two frames are calls of the same function, whatever line they are at.
pub fn is_same_function(one: &Frame, other: &Frame) -> bool {
    one.first_line == other.first_line
        && one.kind == other.kind
        && one.function == other.function
        && one.file == other.file
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(calls: &[(&str, u32)]) -> Vec<Arc<Frame>> {
        let call = |(function, line): &(&str, u32)| {
            Arc::new(Frame {
                function: (*function).into(),
                file: "app.py".into(),
                line: Some(*line),
                first_line: Some(1),
                kind: FrameKind::Python,
                ..Frame::marker("")
            })
        };
        calls.iter().map(call).collect()
    }

    fn innermost(stacks: &[&[(&str, u32)]]) -> Option<(String, Option<u32>)> {
        let mut common = CommonCalls::default();
        for calls in stacks {
            common.see(&stack(calls), 10);
        }
        let frame = &common.calls[common.depth()? - 1];
        Some((frame.function.to_string(), frame.line))
    }

    #[test]
    fn the_call_that_was_always_there_at_its_last_line() {
        let found = innermost(&[
            &[("sleep", 1), ("poll", 4), ("main", 9)],
            &[("is_done", 2), ("poll", 3), ("main", 9)],
            &[("poll", 5), ("main", 9)],
        ]);
        assert_eq!(found, Some(("poll".to_owned(), Some(5))));
    }

    #[test]
    fn another_outermost_call_or_no_stack_leaves_none() {
        assert_eq!(innermost(&[&[("a", 1)], &[("b", 1)]]), None);
        assert_eq!(innermost(&[&[("a", 1)], &[], &[("a", 1)]]), None);
        assert_eq!(innermost(&[]), None);
    }
}
