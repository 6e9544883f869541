//! Frames and stacks, each kept once and named by a number; bounded by bytes, by giving up detail and never time.

use std::hash::{BuildHasher, BuildHasherDefault};
use std::sync::Arc;

use hashbrown::HashTable;
use rustc_hash::{FxHashMap, FxHasher};

use crate::model::Frame;
use crate::python::byte_cache::ByteCache;

/// Most bytes of different frames, each with its texts; calls of later ones are shown as `<more>`.
const MAX_FRAME_BYTES: usize = 16 << 20;
/// Most different stacks. What comes after is shown as a call `<more>` of the part of its stack that is known. Just as many fit into a
/// hash table of 2^20 places.
const MAX_STACKS: usize = (7 << 20) / 8;
/// How many of them are kept for those calls.
const STACKS_FOR_MORE: usize = MAX_STACKS / 8;
/// Most frames of a stack: so many outermost and so many innermost ones, with `<more>` between them.
const MAX_OUTERMOST: usize = 3072;
const MAX_INNERMOST: usize = 1024;
/// Longest name of a function or a file, in code points.
const MAX_NAME: usize = 512;
/// Most bytes of frames that are known by where they lie in our memory.
const MAX_POINTERS: usize = 4 << 20;
/// What a frame takes beside its texts: itself, and its places in the tables.
const FRAME_BYTES: usize = size_of::<Frame>() + 64;
/// What stands for what was left out.
pub(super) const MORE: &str = "<more>";

/// A frame of a [`StackTable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameId(pub u32);

/// A stack of a [`StackTable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StackId(pub u32);

/// How large a [`StackTable`] may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableLimits {
    /// Frames.
    pub frames: usize,
    /// Bytes of frames with their texts.
    pub frame_bytes: usize,
    /// Stacks.
    pub stacks: usize,
}

impl Default for TableLimits {
    fn default() -> Self {
        TableLimits {
            frames: usize::MAX,
            frame_bytes: MAX_FRAME_BYTES,
            stacks: MAX_STACKS - STACKS_FOR_MORE,
        }
    }
}

/// A stack: a frame, and the stack of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Node {
    caller: Option<StackId>,
    frame: FrameId,
}

/// Frames and stacks, each kept once. A stack is a frame on the stack of its caller, so that stacks share their outer
/// parts. It only grows, up to its limits.
#[derive(Clone, Debug)]
pub struct StackTable {
    limits: TableLimits,
    frames: Vec<Arc<Frame>>,
    frame_ids: FxHashMap<Arc<Frame>, FrameId>,
    /// Bytes of `frames` with their texts.
    frame_bytes: usize,
    /// By address, which saves hashing the texts; the frame is held so that its address is not used again.
    pointers: Pointers,
    nodes: Vec<Node>,
    /// The numbers of the nodes, by what these are.
    node_ids: HashTable<StackId>,
    empty: Option<StackId>,
}

/// Not worth to be copied with its table.
#[derive(Debug)]
struct Pointers(ByteCache<usize, (Arc<Frame>, FrameId)>);

impl Default for Pointers {
    fn default() -> Self {
        Pointers(ByteCache::new(MAX_POINTERS))
    }
}

impl Clone for Pointers {
    fn clone(&self) -> Self {
        Pointers::default()
    }
}

impl Default for StackTable {
    fn default() -> Self {
        StackTable::new(TableLimits::default())
    }
}

/// The number of a stack, and whether all of it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interned {
    /// The number.
    pub stack: StackId,
    /// Whether each of its frames is there; if not, a frame `<more>` stands for the others.
    pub is_whole: bool,
}

impl StackTable {
    /// An empty table.
    pub fn new(limits: TableLimits) -> Self {
        StackTable {
            limits,
            frames: Vec::new(),
            frame_ids: FxHashMap::default(),
            frame_bytes: 0,
            pointers: Pointers::default(),
            nodes: Vec::new(),
            node_ids: HashTable::new(),
            empty: None,
        }
    }

    /// The frame's number; `None` for one that is not known when there is no room for more.
    pub fn intern_frame(&mut self, frame: &Arc<Frame>) -> Option<FrameId> {
        let pointer = Arc::as_ptr(frame).addr();
        if let Some((_, id)) = self.pointers.0.get(&pointer) {
            return Some(*id);
        }
        let short = shortened(frame);
        let id = match self.frame_ids.get(&short) {
            Some(id) => *id,
            None => {
                let bytes = FRAME_BYTES + shown_bytes(&short);
                let is_full = self.frame_bytes.saturating_add(bytes) > self.limits.frame_bytes
                    || self.frames.len() >= self.limits.frames;
                if is_full {
                    return None;
                }
                self.frame_bytes += bytes;
                self.add_frame(short)
            }
        };
        let bytes = FRAME_BYTES + frame.function.len() + frame.file.len();
        self.pointers
            .0
            .insert(pointer, (Arc::clone(frame), id), bytes);
        Some(id)
    }

    /// The number of a frame that stands for others; there is always room for the few that there are.
    pub fn intern_marker(&mut self, text: &str) -> FrameId {
        let marker = Arc::new(Frame::marker(text));
        match self.frame_ids.get(&marker) {
            Some(id) => *id,
            None => self.add_frame(marker),
        }
    }

    fn add_frame(&mut self, frame: Arc<Frame>) -> FrameId {
        let id = FrameId(number(self.frames.len()));
        self.frames.push(Arc::clone(&frame));
        self.frame_ids.insert(frame, id);
        id
    }

    /// The number of a stack, given innermost first. One without frames is that of a thread that runs no Python.
    pub fn intern(&mut self, stack: &[Arc<Frame>]) -> Interned {
        let is_whole = stack.len() <= MAX_INNERMOST + MAX_OUTERMOST;
        if is_whole {
            return self.push_all(None, stack);
        }
        let inner = &stack[..MAX_INNERMOST];
        let outer = &stack[stack.len() - MAX_OUTERMOST..];
        let outer = self.push_all(None, outer);
        if outer.is_whole {
            let more = self.more(Some(outer.stack));
            return Interned {
                is_whole: false,
                ..self.push_all(Some(more), inner)
            };
        }
        outer
    }

    /// Puts frames, innermost first, on the stack of their caller.
    fn push_all(&mut self, caller: Option<StackId>, stack: &[Arc<Frame>]) -> Interned {
        let mut caller = caller;
        for frame in stack.iter().rev() {
            let id = self.intern_frame(frame);
            match id.and_then(|id| self.push(caller, id, self.limits.stacks)) {
                Some(stack) => caller = Some(stack),
                None => {
                    return Interned {
                        stack: self.more(caller),
                        is_whole: false,
                    };
                }
            }
        }
        let stack = match (caller, self.empty) {
            (Some(stack), _) | (None, Some(stack)) => stack,
            (None, None) => {
                let stack = self.only("<no Python>");
                self.empty = Some(stack);
                stack
            }
        };
        Interned {
            stack,
            is_whole: true,
        }
    }

    /// The stack that stands for others that are called from `caller`.
    pub fn more(&mut self, caller: Option<StackId>) -> StackId {
        let more = self.intern_marker(MORE);
        let limit = self.limits.stacks.saturating_add(STACKS_FOR_MORE);
        let below = self.push(caller, more, limit);
        below.unwrap_or_else(|| self.only(MORE))
    }

    fn only(&mut self, marker: &str) -> StackId {
        let marker = self.intern_marker(marker);
        let pushed = self.push(None, marker, usize::MAX);
        // Without a limit there is always room.
        pushed.unwrap_or(StackId(0))
    }

    /// The stack of a frame and its caller, if it is known or fewer than `limit` are.
    fn push(&mut self, caller: Option<StackId>, frame: FrameId, limit: usize) -> Option<StackId> {
        let node = Node { caller, frame };
        let nodes = &self.nodes;
        let hash = hash(node);
        let known = self
            .node_ids
            .find(hash, |id| nodes[id.0 as usize] == node)
            .copied();
        if known.is_some() {
            return known;
        }
        if nodes.len() >= limit {
            return None;
        }
        let id = StackId(number(nodes.len()));
        self.node_ids
            .insert_unique(hash, id, |id| self::hash(nodes[id.0 as usize]));
        self.nodes.push(node);
        Some(id)
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

    /// The stack and those of its callers, from the innermost on.
    pub fn callers(&self, stack: StackId) -> impl Iterator<Item = StackId> {
        std::iter::successors(Some(stack), |stack| self.node(*stack).1)
    }

    /// The frames of a stack, innermost first.
    pub fn walk(&self, stack: StackId) -> impl Iterator<Item = FrameId> {
        self.callers(stack).map(|stack| self.node(stack).0)
    }
}

fn hash(node: Node) -> u64 {
    BuildHasherDefault::<FxHasher>::default().hash_one(node)
}

/// The frame with names that are not too long to be shown.
fn shortened(frame: &Arc<Frame>) -> Arc<Frame> {
    // A code point takes one byte at least.
    if frame.function.len() <= MAX_NAME && frame.file.len() <= MAX_NAME {
        return Arc::clone(frame);
    }
    Arc::new(Frame {
        function: shorten(&frame.function),
        file: shorten(&frame.file),
        ..Frame::clone(frame)
    })
}

fn shorten(text: &Arc<str>) -> Arc<str> {
    match text.char_indices().nth(MAX_NAME) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => Arc::clone(text),
    }
}

/// Bytes of the frame's texts as they are shown: what could act on a terminal is written as an escape.
fn shown_bytes(frame: &Frame) -> usize {
    // A control character of one byte takes six.
    const ESCAPE: usize = 5;
    let bytes = |text: &str| {
        let acting = text.chars().filter(|letter| letter.is_control()).count();
        text.len() + acting * ESCAPE
    };
    bytes(&frame.function) + bytes(&frame.file)
}

/// Tables hold fewer than 2^32 entries (see the limits).
fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::FrameKind;

    fn frame(name: &str) -> Arc<Frame> {
        Arc::new(Frame::marker(name))
    }

    #[test]
    fn equal_frames_and_stacks_are_one() {
        let mut table = StackTable::default();
        let [a, b] = ["a", "b"].map(frame);
        let one = table.intern(&[Arc::clone(&b), Arc::clone(&a)]).stack;
        let other = table.intern(&[frame("b"), frame("a")]).stack;
        let deeper = table.intern(&[frame("c"), b, a]).stack;
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
        let empty = table.intern(&[]).stack;
        assert_eq!(table.intern(&[]).stack, empty);
        assert_eq!(&*table.frame(table.node(empty).0).function, "<no Python>");
    }

    fn call(name: &str) -> Arc<Frame> {
        Arc::new(Frame {
            kind: FrameKind::Python,
            ..Frame::marker(name)
        })
    }

    fn names(table: &StackTable, stack: StackId) -> Vec<String> {
        let frames = table.walk(stack);
        frames
            .map(|id| table.frame(id).function.to_string())
            .collect()
    }

    #[test]
    fn when_there_is_no_room_for_a_stack_its_known_part_stays() {
        let mut table = StackTable::new(TableLimits {
            stacks: 3,
            ..TableLimits::default()
        });
        let [main, work] = ["main", "work"].map(call);
        let whole = table.intern(&[call("a"), Arc::clone(&work), Arc::clone(&main)]);
        assert!(whole.is_whole);
        for name in ["b", "c", "d"] {
            let part = table.intern(&[call(name), Arc::clone(&work), Arc::clone(&main)]);
            assert!(!part.is_whole);
            assert_eq!(names(&table, part.stack), ["<more>", "work", "main"]);
        }
        assert_eq!(table.len(), 4);
        let again = table.intern(&[call("a"), work, main]);
        assert_eq!(again, whole);
    }

    #[test]
    fn when_there_is_no_room_for_a_frame_its_callers_stay() {
        let mut table = StackTable::new(TableLimits {
            frame_bytes: 10_000,
            ..TableLimits::default()
        });
        let main = call("main");
        for number in 0..1000 {
            let long = call(&format!("{number}{}", "ö".repeat(4000)));
            table.intern(&[call("leaf"), long, Arc::clone(&main)]);
        }
        assert!(table.frame_bytes <= 10_000);
        assert!(table.frames().len() < 12);
        let part = table.intern(&[call(&"other".repeat(100)), main]);
        assert_eq!(names(&table, part.stack), ["<more>", "main"]);
        let longest = table
            .frames()
            .iter()
            .map(|frame| frame.function.chars().count());
        assert_eq!(longest.max(), Some(MAX_NAME + 1));
    }

    #[test]
    fn a_deep_stack_keeps_its_ends() {
        let mut table = StackTable::default();
        let mut frames = vec![call("deep"); 100_000];
        frames[0] = call("leaf");
        frames[99_999] = call("main");
        let deep = table.intern(&frames);
        assert!(!deep.is_whole);
        let names = names(&table, deep.stack);
        assert_eq!(names.len(), MAX_INNERMOST + 1 + MAX_OUTERMOST);
        assert_eq!((&*names[0], &*names[names.len() - 1]), ("leaf", "main"));
        assert_eq!(names[MAX_INNERMOST], MORE);
        assert!(
            table
                .intern(&frames[..MAX_INNERMOST + MAX_OUTERMOST])
                .is_whole
        );
    }
}
