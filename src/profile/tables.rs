//! Frames and stacks, each kept once and named by a number.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::model::Frame;

/// Most different frames and stacks of a recording; what comes after is shown as `<too many stacks>`.
const MAX_NODES: usize = 8 << 20;
/// Most frames that are known by where they lie in our memory.
const MAX_POINTERS: usize = 1 << 18;

/// A frame of a [`StackTable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameId(pub u32);

/// A stack of a [`StackTable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StackId(pub u32);

/// A stack: a frame, and the stack of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Node {
    caller: Option<StackId>,
    frame: FrameId,
}

/// Frames and stacks, each kept once. A stack is a frame on the stack of its caller, so that stacks share their outer
/// parts. It only grows, and holds at most 8,388,608 of either.
#[derive(Clone, Debug, Default)]
pub struct StackTable {
    frames: Vec<Arc<Frame>>,
    frame_ids: FxHashMap<Arc<Frame>, FrameId>,
    /// By address, which saves hashing the texts; the frame is held so that its address is not used again.
    pointers: FxHashMap<usize, (Arc<Frame>, FrameId)>,
    nodes: Vec<Node>,
    node_ids: FxHashMap<Node, StackId>,
    empty: Option<StackId>,
}

impl StackTable {
    /// The frame's number.
    pub fn intern_frame(&mut self, frame: &Arc<Frame>) -> FrameId {
        let pointer = Arc::as_ptr(frame).addr();
        if let Some((_, id)) = self.pointers.get(&pointer) {
            return *id;
        }
        let id = match self.frame_ids.get(frame) {
            Some(id) => *id,
            None => {
                let id = FrameId(number(self.frames.len()));
                self.frames.push(Arc::clone(frame));
                self.frame_ids.insert(Arc::clone(frame), id);
                id
            }
        };
        if self.pointers.len() >= MAX_POINTERS {
            self.pointers.clear();
        }
        self.pointers.insert(pointer, (Arc::clone(frame), id));
        id
    }

    /// The frame's number, if it is known.
    pub fn find_frame(&self, frame: &Frame) -> Option<FrameId> {
        self.frame_ids.get(frame).copied()
    }

    /// The number of a stack, given innermost first. One without frames is that of a thread that runs no Python.
    pub fn intern(&mut self, stack: &[Arc<Frame>]) -> StackId {
        if self.nodes.len() + stack.len() > MAX_NODES {
            return self.only("<too many stacks>");
        }
        let mut caller = None;
        for frame in stack.iter().rev() {
            let frame = self.intern_frame(frame);
            caller = Some(self.push(caller, frame));
        }
        match (caller, self.empty) {
            (Some(stack), _) | (None, Some(stack)) => stack,
            (None, None) => {
                let stack = self.only("<no Python>");
                self.empty = Some(stack);
                stack
            }
        }
    }

    fn only(&mut self, marker: &str) -> StackId {
        let frame = self.intern_frame(&Arc::new(Frame::marker(marker)));
        self.push(None, frame)
    }

    fn push(&mut self, caller: Option<StackId>, frame: FrameId) -> StackId {
        let node = Node { caller, frame };
        if let Some(id) = self.node_ids.get(&node) {
            return *id;
        }
        let id = StackId(number(self.nodes.len()));
        self.nodes.push(node);
        self.node_ids.insert(node, id);
        id
    }

    /// All frames, by their numbers.
    pub fn frames(&self) -> &[Arc<Frame>] {
        &self.frames
    }

    /// The frame with this number.
    pub fn frame(&self, id: FrameId) -> &Frame {
        &self.frames[id.0 as usize]
    }

    /// How many stacks there are; their numbers are below it, and a caller's is below its callee's.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is no stack.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The innermost frame of a stack, and the stack of its caller.
    pub fn node(&self, stack: StackId) -> (FrameId, Option<StackId>) {
        let node = self.nodes[stack.0 as usize];
        (node.frame, node.caller)
    }

    /// The frames of a stack, innermost first.
    pub fn walk(&self, stack: StackId) -> impl Iterator<Item = FrameId> {
        let mut next = Some(stack);
        std::iter::from_fn(move || {
            let (frame, caller) = self.node(next?);
            next = caller;
            Some(frame)
        })
    }
}

/// Tables hold fewer than 2^32 entries (see the limits).
fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(name: &str) -> Arc<Frame> {
        Arc::new(Frame::marker(name))
    }

    #[test]
    fn equal_frames_and_stacks_are_one() {
        let mut table = StackTable::default();
        let [a, b] = ["a", "b"].map(frame);
        let one = table.intern(&[Arc::clone(&b), Arc::clone(&a)]);
        let other = table.intern(&[frame("b"), frame("a")]);
        let deeper = table.intern(&[frame("c"), b, a]);
        assert_eq!(one, other);
        assert_eq!((table.frames().len(), table.len()), (3, 3));
        let names: Vec<_> = table
            .walk(deeper)
            .map(|id| table.frame(id).function.to_string())
            .collect();
        assert_eq!(names, ["c", "b", "a"]);
        assert_eq!(table.node(deeper).1, Some(one));
    }

    #[test]
    fn a_thread_without_python_has_a_stack_that_says_so() {
        let mut table = StackTable::default();
        let empty = table.intern(&[]);
        assert_eq!(table.intern(&[]), empty);
        assert_eq!(&*table.frame(table.node(empty).0).function, "<no Python>");
    }
}
