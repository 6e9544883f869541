//! Walking the frames of one thread, innermost first, and saying what each is.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use thiserror::Error;

use super::byte_cache::ByteCache;
use super::code::{CodeCache, CodeInfo};
use super::layout::{FrameLayout, FrameObjectLayout, InterpreterFrameLayout};
use super::object::{ObjectError, ObjectReader, copy_struct, member};
use super::stack_limits::Trail;
pub use super::stack_limits::{Cut, MAX_FRAMES, StackRoom};
use crate::model::{Address, Frame, FrameKind};
use crate::sys::memory::ReadError;

/// Frames that most stacks have room for.
const USUAL_FRAMES: usize = 48;
/// Most bytes of line tables that are gone through for one snapshot; lines that would take more are not given.
const MAX_LINE_WORK: usize = 512 << 20;
/// Most bytes that are kept from one stack or sample to the next: code objects, their texts, and frames.
const MAX_CACHE: usize = 16 << 20;
/// Of that, the part for frames is as large as that for code objects and texts.
const CACHES: usize = 2;
/// Most bytes of names of modules that are kept.
const MAX_MODULES: usize = 2 << 20;
/// What a frame takes beside its texts: itself, and its place in a cache.
const FRAME_BYTES: usize = size_of::<Frame>() + 2 * size_of::<usize>();
/// What a frame takes of a stack while it is read: a pointer, and its place.
const ENTRY_BYTES: usize = size_of::<Arc<Frame>>();
/// What a frame takes in a document beside its texts.
const WRITTEN_BYTES: usize = 160;

/// Why a stack could not be read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum StackError {
    /// Memory of a frame could not be read.
    #[error("read the frame at {frame}: {source}")]
    Read {
        /// Where the frame is.
        frame: Address,
        /// Why.
        source: ReadError,
    },
    /// What a frame points to is not what it should be.
    #[error("decode the frame at {frame}: {source}")]
    Object {
        /// Where the frame is.
        frame: Address,
        /// Why.
        source: ObjectError,
    },
    /// The frames of one stack are of two types: the chain has left the stack.
    #[error("the object at {0} is no frame")]
    NoFrame(Address),
}

/// What is kept between stacks: code objects, frames, and the names of modules.
#[derive(Debug)]
pub struct FrameDecoder {
    codes: CodeCache,
    /// Key: address of a `globals` dict. A dict that takes the address of a freed one would be mistaken for it, so the
    /// names are forgotten at the start of each snapshot.
    modules: ByteCache<Address, Option<Arc<str>>>,
    /// Frames as they are shown. One is used again only while its code object is still the same, by its serial number.
    frames: ByteCache<FrameKey, (u64, Arc<Frame>)>,
    room: StackRoom,
    /// What was taken of it.
    taken: StackRoom,
    /// What the code objects had taken when the snapshot began.
    codes_before: usize,
    line_work: usize,
    /// Frames of the current snapshot whose line would have taken too much work to find.
    lineless: usize,
    /// Whether the last stack ended as one does that stands still.
    is_closed: bool,
    /// Whether the last stack has fewer frames than there are.
    cut: Option<Cut>,
    /// Where the frames of the last stack lie.
    places: Vec<FramePlace>,
}

impl Default for FrameDecoder {
    fn default() -> Self {
        FrameDecoder::new(StackRoom::MAX)
    }
}

/// Where a frame lies in the target, so that more of it can be read while its thread does not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FramePlace {
    /// The frame: `PyFrameObject` (<= 3.10) or `_PyInterpreterFrame`.
    pub frame: Address,
    /// Its code object.
    pub code: Address,
    /// What the code object says.
    pub info: Arc<CodeInfo>,
    /// `f_lasti` (<= 3.10; see the layout), or the index of the current code unit (3.11+).
    pub lasti: i32,
}

/// All that the description of a frame depends on, but for the content of the code object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct FrameKey {
    code: Address,
    globals: Address,
    lasti: i32,
    stated_line: Option<i32>,
}

/// One frame as it lies in memory.
struct RawFrame {
    code: Address,
    globals: Address,
    /// As the version counts it.
    lasti: i32,
    /// The line that the frame itself states while it is traced.
    stated_line: Option<i32>,
    /// Known only when the instruction had to be compared with the code.
    info: Option<Arc<CodeInfo>>,
}

impl FrameDecoder {
    /// A decoder whose snapshots take no more than `room`.
    pub fn new(room: StackRoom) -> Self {
        FrameDecoder {
            codes: CodeCache::new(MAX_CACHE / CACHES),
            modules: ByteCache::new(MAX_MODULES),
            frames: ByteCache::new(MAX_CACHE / CACHES),
            room,
            taken: StackRoom::default(),
            codes_before: 0,
            line_work: 0,
            lineless: 0,
            is_closed: true,
            cut: None,
            places: Vec::new(),
        }
    }

    /// Reads only so many code points of the names of functions and files.
    pub fn with_short_names(mut self, length: u64) -> Self {
        self.codes.shorten_texts(length);
        self
    }

    /// Keeps only a `share`th of what a decoder may keep: for many processes that are sampled together.
    pub fn share_cache(&mut self, share: usize) {
        let limit = MAX_CACHE / CACHES / share.max(1);
        self.codes.set_limit(limit);
        self.frames.set_limit(limit);
        self.modules.set_limit(MAX_MODULES / share.max(1));
    }

    /// Forgets what may have changed since the last snapshot.
    pub fn begin_snapshot(&mut self) {
        self.modules.clear();
        self.frames.clear();
        self.renew_budget();
    }

    /// Lets as much be taken in again, without forgetting: for a sampler, which looks at the same stacks all the time.
    /// A module's name can be an old one then, where a dict of globals has taken the address of another.
    pub fn renew_budget(&mut self) {
        self.codes_before = self.codes.taken();
        self.taken = StackRoom::default();
        self.line_work = 0;
        self.lineless = 0;
    }

    /// What the stacks of the snapshot have taken so far.
    pub fn taken(&self) -> StackRoom {
        let codes = self.codes.taken() - self.codes_before;
        StackRoom {
            memory: self.taken.memory.saturating_add(codes),
            written: self.taken.written,
        }
    }

    fn is_full(&self) -> bool {
        let taken = self.taken();
        taken.memory >= self.room.memory || taken.written >= self.room.written
    }

    /// Whether the stack that was read last has fewer frames than there are, and why.
    pub fn cut(&self) -> Option<Cut> {
        self.cut
    }

    /// Frames of this snapshot that have no line because finding it would have taken too long.
    pub fn lineless(&self) -> usize {
        self.lineless
    }

    /// Whether the stack that was read last ended where a thread's stack ends. From 3.12 on the outermost frame is one
    /// of the interpreter's own. A generator that has just yielded is cut off from its caller a moment before its thread
    /// leaves it (`Python/bytecodes.c`, `YIELD_VALUE` and `RETURN_VALUE`, 3.12; compilers turn the two stores round): its
    /// stack ends in a frame of Python code then.
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Where the frames of the stack that was read last lie, one for each frame that is no marker, in the same order.
    pub fn places(&self) -> &[FramePlace] {
        &self.places
    }

    /// The stack whose innermost frame is at `top`; null gives no frames.
    pub fn read_stack(
        &mut self,
        reader: ObjectReader<'_>,
        top: Address,
    ) -> Result<Vec<Arc<Frame>>, StackError> {
        self.is_closed = true;
        self.cut = None;
        self.places.clear();
        let has_base = match &reader.layout.frame {
            FrameLayout::Object(_) => false,
            FrameLayout::Interpreter(layout) => layout.first_hidden_owner.is_some(),
        };
        let mut frames = Vec::with_capacity(USUAL_FRAMES);
        let mut at = top;
        let mut frame_type = None;
        let mut trail = Trail::default();
        let cut = loop {
            if at.is_null() {
                return Ok(frames);
            }
            if trail.leads_back(at) {
                self.is_closed = false;
                // Of frames that are not shown there is nothing to leave out.
                let cycle = self.cut_cycle(&mut frames);
                break cycle.unwrap_or(Cut::Cycle(trail.since_mark));
            }
            if trail.steps > MAX_FRAMES {
                // A cycle that is nearly as long as that is not noticed on the way.
                break self.cut_cycle(&mut frames).unwrap_or(Cut::TooDeep);
            }
            if self.is_full() {
                break Cut::TooLarge;
            }
            let (raw, previous) = self.read_raw(reader, at, &mut frame_type)?;
            self.is_closed = !has_base || raw.is_none();
            if let Some(raw) = raw {
                let frame = self
                    .describe(reader, at, raw)
                    .map_err(|source| StackError::Object { frame: at, source })?;
                self.taken.written = self.taken.written.saturating_add(written_bytes(&frame));
                self.taken.memory += ENTRY_BYTES;
                frames.push(frame);
            }
            at = previous;
        };
        frames.push(Arc::new(cut.marker()));
        self.cut = Some(cut);
        Ok(frames)
    }

    /// Leaves each frame of a stack that leads back to itself once; `None` if each is there once.
    fn cut_cycle(&mut self, frames: &mut Vec<Arc<Frame>>) -> Option<Cut> {
        let mut seen = FxHashMap::default();
        let places = self.places.iter().map(|place| place.frame).enumerate();
        let (first, again) = places
            .filter_map(|(index, frame)| Some((seen.insert(frame, index)?, index)))
            .next()?;
        self.is_closed = false;
        for frame in &frames[again..] {
            self.taken.written = self.taken.written.saturating_sub(written_bytes(frame));
        }
        frames.truncate(again);
        self.places.truncate(again);
        Some(Cut::Cycle(again - first))
    }

    /// The frame at `at` and none of its callers, as a coroutine that does not run keeps it; `None` for one that is not shown,
    /// and when as much was read for this snapshot as may be.
    pub fn read_frame(
        &mut self,
        reader: ObjectReader<'_>,
        at: Address,
    ) -> Result<Option<(Arc<Frame>, FramePlace)>, StackError> {
        if self.is_full() {
            return Ok(None);
        }
        let (Some(raw), _) = self.read_raw(reader, at, &mut None)? else {
            return Ok(None);
        };
        let frame = self.describe(reader, at, raw);
        let frame = frame.map_err(|source| StackError::Object { frame: at, source })?;
        self.taken.written = self.taken.written.saturating_add(written_bytes(&frame));
        self.taken.memory += ENTRY_BYTES;
        // The places are those of the last whole stack.
        Ok(self.places.pop().map(|place| (frame, place)))
    }

    /// A frame as it lies in memory, if it is one that is shown, and the address of its caller's.
    fn read_raw(
        &mut self,
        reader: ObjectReader<'_>,
        at: Address,
        frame_type: &mut Option<Address>,
    ) -> Result<(Option<RawFrame>, Address), StackError> {
        match &reader.layout.frame {
            FrameLayout::Object(layout) => read_frame_object(reader, layout, at, frame_type),
            FrameLayout::Interpreter(layout) => self.read_interpreter_frame(reader, layout, at),
        }
    }

    fn describe(
        &mut self,
        reader: ObjectReader<'_>,
        at: Address,
        raw: RawFrame,
    ) -> Result<Arc<Frame>, ObjectError> {
        let info = match raw.info {
            Some(info) => info,
            None => self.codes.load(reader, raw.code)?,
        };
        self.places.push(FramePlace {
            frame: at,
            code: raw.code,
            info: Arc::clone(&info),
            lasti: raw.lasti,
        });
        let key = FrameKey {
            code: raw.code,
            globals: raw.globals,
            lasti: raw.lasti,
            stated_line: raw.stated_line,
        };
        if let Some((known, frame)) = self.frames.get(&key)
            && *known == info.serial
        {
            return Ok(Arc::clone(frame));
        }
        let line = match raw.stated_line {
            Some(line) => u32::try_from(line).ok(),
            None => self.line_of(reader, &info, raw.lasti),
        };
        let frame = Arc::new(Frame {
            function: Arc::clone(&info.function),
            file: Arc::clone(&info.file),
            line,
            first_line: u32::try_from(info.first_line).ok(),
            module: self.module_name(reader, raw.globals),
            kind: FrameKind::Python,
            locals: None,
        });
        self.taken.memory += FRAME_BYTES;
        // Its texts may have been let go by the other caches.
        let bytes = FRAME_BYTES + text_bytes(&frame);
        self.frames
            .insert(key, (info.serial, Arc::clone(&frame)), bytes);
        Ok(frame)
    }

    fn line_of(&mut self, reader: ObjectReader<'_>, info: &CodeInfo, lasti: i32) -> Option<u32> {
        self.line_work += info.table_size();
        if self.line_work > MAX_LINE_WORK {
            self.lineless += 1;
            return None;
        }
        info.line(reader, lasti)
    }

    /// `globals()["__name__"]`; code that runs in a dict of its own may have none.
    fn module_name(&mut self, reader: ObjectReader<'_>, globals: Address) -> Option<Arc<str>> {
        if let Some(known) = self.modules.get(&globals) {
            return known.clone();
        }
        let name = reader.dict_value(globals, "__name__").ok().flatten();
        let name = name.and_then(|name| reader.text(name).ok());
        let name = name.map(|name| self.codes.intern(name));
        let bytes = name.as_ref().map_or(0, |name| name.len());
        self.modules.insert(globals, name.clone(), bytes);
        name
    }

    /// A frame of 3.11 and later, and the address of its caller's. There is none for the shims that the interpreter
    /// puts between its own calls, and for frames that have not begun their function's body.
    fn read_interpreter_frame(
        &mut self,
        reader: ObjectReader<'_>,
        layout: &InterpreterFrameLayout,
        at: Address,
    ) -> Result<(Option<RawFrame>, Address), StackError> {
        let failed = |source| StackError::Read { frame: at, source };
        let bytes = copy_struct(reader.memory, at, layout.size).map_err(failed)?;
        let previous = member(&bytes, layout.previous, at).map_err(failed)?;
        let owner = member(&bytes, layout.owner, at).map_err(failed)?;
        if layout
            .first_hidden_owner
            .is_some_and(|hidden| owner >= hidden)
        {
            return Ok((None, previous));
        }
        let code = member(&bytes, layout.code, at).map_err(failed)?.untagged();
        let instruction = member(&bytes, layout.instruction, at).map_err(failed)?;
        let copy = match layout.tlbc_index {
            Some(field) => member(&bytes, field, at).map_err(failed)?,
            None => 0,
        };
        let decode = |decoder: &mut Self| {
            let info = decoder.codes.load(reader, code)?;
            let unit = info.unit_of(reader, code, instruction, copy)?;
            Ok((info, unit))
        };
        let (info, unit) =
            decode(self).map_err(|source| StackError::Object { frame: at, source })?;
        // `Include/internal/pycore_frame.h::_PyFrame_IsIncomplete` (3.11-3.15).
        if owner != layout.owned_by_generator && unit < info.first_traceable {
            return Ok((None, previous));
        }
        let raw = RawFrame {
            code,
            globals: member(&bytes, layout.globals, at).map_err(failed)?,
            lasti: unit,
            stated_line: None,
            info: Some(info),
        };
        Ok((Some(raw), previous))
    }
}

fn text_bytes(frame: &Frame) -> usize {
    frame.function.len() + frame.file.len() + frame.module.as_ref().map_or(0, |name| name.len())
}

fn written_bytes(frame: &Frame) -> usize {
    WRITTEN_BYTES + text_bytes(frame)
}

/// A frame object of 3.10 and earlier, and the address of its caller's.
fn read_frame_object(
    reader: ObjectReader<'_>,
    layout: &FrameObjectLayout,
    at: Address,
    frame_type: &mut Option<Address>,
) -> Result<(Option<RawFrame>, Address), StackError> {
    let failed = |source| StackError::Read { frame: at, source };
    let bytes = copy_struct(reader.memory, at, layout.size).map_err(failed)?;
    let ob_type = member(&bytes, reader.layout.object.ob_type, at).map_err(failed)?;
    match *frame_type {
        Some(known) if known == ob_type => {}
        None if reader.type_name(ob_type).is_ok_and(|name| name == "frame") => {
            *frame_type = Some(ob_type)
        }
        _ => return Err(StackError::NoFrame(at)),
    }
    let trace = member(&bytes, layout.trace, at).map_err(failed)?;
    let lineno = member(&bytes, layout.lineno, at).map_err(failed)?;
    // `Objects/frameobject.c::PyFrame_GetLineNumber`: f_lineno holds while a trace function is set (2.7-3.9), or when
    // it is not 0 (3.10).
    let is_stated = if reader.layout.version >= (3, 10) {
        lineno != 0
    } else {
        !trace.is_null()
    };
    let raw = RawFrame {
        code: member(&bytes, layout.code, at).map_err(failed)?,
        globals: member(&bytes, layout.globals, at).map_err(failed)?,
        lasti: member(&bytes, layout.lasti, at).map_err(failed)?,
        stated_line: is_stated.then_some(lineno),
        info: None,
    };
    Ok((Some(raw), member(&bytes, layout.back, at).map_err(failed)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::python::testing::{Builder, all_layouts};

    fn read(builder: &Builder, top: Address) -> Result<Vec<Arc<Frame>>, StackError> {
        let reader = ObjectReader {
            memory: builder,
            layout: builder.layout,
        };
        FrameDecoder::default().read_stack(reader, top)
    }

    fn stack(builder: &mut Builder) -> [Address; 2] {
        let name = builder.text("__name__");
        let module = builder.text("pkg.mod");
        let globals = builder.dict(&[(name, module)]);
        let (outer, inner) = (
            builder.code("outer", "/o.py", 10),
            builder.code("Inner.call", "/i.py", 20),
        );
        let base = builder.frame(outer, globals, Address::NULL);
        [builder.frame(inner, globals, base), base]
    }

    #[test]
    fn a_stack_of_two_on_every_version() {
        for layout in all_layouts() {
            let mut builder = Builder::new(layout);
            let [top, _] = stack(&mut builder);
            let frames = read(&builder, top).unwrap();
            let seen: Vec<_> = frames
                .iter()
                .map(|frame| (&*frame.function, &*frame.file, frame.line))
                .collect();
            let expected = [
                ("Inner.call", "/i.py", Some(20)),
                ("outer", "/o.py", Some(10)),
            ];
            assert_eq!(seen, expected, "{:?}", layout.version);
            assert_eq!(frames[0].module.as_deref(), Some("pkg.mod"));
            assert_eq!(read(&builder, Address::NULL), Ok(Vec::new()));
        }
    }

    #[test]
    fn a_chain_that_leads_back_to_itself_is_cut_where_it_does() {
        for layout in all_layouts().into_iter().step_by(5) {
            let mut builder = Builder::new(layout);
            let [top, base] = stack(&mut builder);
            match &layout.frame {
                FrameLayout::Object(frame) => builder.set(base, frame.back, top.0),
                FrameLayout::Interpreter(frame) => builder.set(base, frame.previous, top.0),
            }
            let mut decoder = FrameDecoder::default();
            let reader = ObjectReader {
                memory: &builder,
                layout,
            };
            let frames = decoder.read_stack(reader, top).unwrap();
            let names: Vec<_> = frames.iter().map(|frame| &*frame.function).collect();
            assert_eq!(names, ["Inner.call", "outer", "<cycle of 2 frames>"]);
            assert_eq!(decoder.cut(), Some(Cut::Cycle(2)));
            assert_eq!(decoder.places().len(), 2);
            assert!(!decoder.is_closed());
            // The next stack is another one.
            decoder.read_stack(reader, Address::NULL).unwrap();
            assert_eq!(decoder.cut(), None);
        }
    }

    #[test]
    fn what_is_no_frame_or_no_code_is_an_error() {
        for layout in all_layouts() {
            let mut builder = Builder::new(layout);
            let [top, base] = stack(&mut builder);
            let number = builder.int(7);
            match &layout.frame {
                FrameLayout::Object(frame) => builder.set(top, frame.code, number.0),
                FrameLayout::Interpreter(frame) => builder.set(top, frame.code, number.0),
            }
            assert!(
                matches!(read(&builder, top), Err(StackError::Object { .. })),
                "{:?}",
                layout.version
            );
            assert!(read(&builder, base).is_ok());
            assert!(matches!(
                read(&builder, Address(8)),
                Err(StackError::Read { .. })
            ));
        }
    }

    /// A chain of calls of functions of their own, with long names and tables of `table` bytes.
    fn long_names(builder: &mut Builder, count: usize, table: usize) -> Address {
        let layout = builder.layout;
        let table = builder.bytes(&vec![0; table]);
        let mut top = Address::NULL;
        for number in 0..count {
            let name = builder.text(&format!("{number}{}", "ö".repeat(4000)));
            let code = builder.code("f", "/f.py", 1);
            builder.set(code, layout.code.name, name.0);
            if let Some(qualname) = layout.code.qualname {
                builder.set(code, qualname, name.0);
            }
            builder.set(code, layout.code.linetable, table.0);
            top = builder.frame(code, Address::NULL, top);
        }
        top
    }

    #[test]
    fn what_all_frames_together_take_is_bounded() {
        const ROOM: StackRoom = StackRoom {
            memory: 1 << 20,
            written: usize::MAX,
        };
        let layout = all_layouts()[7];
        let mut builder = Builder::new(layout);
        let top = long_names(&mut builder, 200, 8 << 10);
        let mut decoder = FrameDecoder::new(ROOM);
        let reader = ObjectReader {
            memory: &builder,
            layout,
        };
        let frames = decoder.read_stack(reader, top).unwrap();
        assert!((60..70).contains(&frames.len()), "{}", frames.len());
        assert_eq!(
            frames.last().map(|frame| &**frame),
            Some(&Frame::marker("<truncated>"))
        );
        assert_eq!(decoder.cut(), Some(Cut::TooLarge));
        assert!(decoder.taken().memory < ROOM.memory + (32 << 10));
        assert_eq!(
            decoder.read_stack(reader, top),
            Ok(vec![Arc::new(Frame::marker("<truncated>"))])
        );
        decoder.begin_snapshot();
        assert!(decoder.read_stack(reader, top).unwrap().len() > 60);
    }

    /// What is read once and stands on many stacks takes little memory, but is written again and again.
    #[test]
    fn what_a_document_of_all_frames_takes_is_bounded() {
        const ROOM: StackRoom = StackRoom {
            memory: usize::MAX,
            written: 1 << 20,
        };
        let layout = all_layouts()[7];
        let mut builder = Builder::new(layout);
        let top = long_names(&mut builder, 20, 0);
        let reader = ObjectReader {
            memory: &builder,
            layout,
        };
        let mut decoder = FrameDecoder::new(ROOM);
        let mut written = 0;
        while decoder.cut().is_none() {
            written += decoder.read_stack(reader, top).unwrap().len();
        }
        assert!((120..140).contains(&written), "{written}");
        assert!(decoder.taken().memory < 300 << 10);
    }

    #[test]
    fn names_are_as_short_as_is_asked_for() {
        for layout in all_layouts() {
            let mut builder = Builder::new(layout);
            let top = long_names(&mut builder, 2, 0);
            let reader = ObjectReader {
                memory: &builder,
                layout,
            };
            let mut decoder = FrameDecoder::default().with_short_names(100);
            let frames = decoder.read_stack(reader, top).unwrap();
            assert_eq!(frames[0].function.chars().count(), 101);
            assert!(frames[0].function.ends_with('…'));
        }
    }

    /// A long table is not kept, and gives the same lines.
    #[test]
    fn a_long_table_takes_no_memory() {
        for layout in all_layouts() {
            let mut builder = Builder::new(layout);
            let top = long_names(&mut builder, 2, 256 << 10);
            let reader = ObjectReader {
                memory: &builder,
                layout,
            };
            let mut decoder = FrameDecoder::default();
            let long = decoder.read_stack(reader, top).unwrap();
            assert!(decoder.taken().memory < 32 << 10);
            let mut builder = Builder::new(layout);
            let top = long_names(&mut builder, 2, 1 << 10);
            let short = read(&builder, top).unwrap();
            assert_eq!(long, short, "{:?}", layout.version);
        }
    }

    /// More code objects than the caches hold, again and again: they are read anew, and nothing piles up.
    #[test]
    fn caches_are_bounded_however_many_code_objects_come() {
        let layout = all_layouts()[7];
        let mut builder = Builder::new(layout);
        let top = long_names(&mut builder, 60, 4 << 10);
        let mut decoder = FrameDecoder::default();
        decoder.share_cache(MAX_CACHE / (256 << 10));
        let reader = ObjectReader {
            memory: &builder,
            layout,
        };
        let first = decoder.read_stack(reader, top).unwrap();
        for _ in 0..3 {
            decoder.renew_budget();
            assert_eq!(decoder.read_stack(reader, top).unwrap(), first);
            assert!(decoder.codes.bytes() + decoder.frames.bytes() <= 256 << 10);
        }
    }

    #[test]
    fn a_cycle_behind_other_frames_is_found_whatever_its_length() {
        for (before, length) in [(0, 1), (3, 1), (1, 63), (500, 64), (10, 1000), (1000, 7)] {
            let layout = all_layouts()[7];
            let mut builder = Builder::new(layout);
            let code = builder.code("f", "/f.py", 1);
            let first = builder.frame(code, Address::NULL, Address::NULL);
            let mut top = first;
            let mut joint = first;
            for number in 1..before + length {
                top = builder.frame(code, Address::NULL, top);
                if number < length {
                    joint = top;
                }
            }
            match &layout.frame {
                FrameLayout::Object(frame) => builder.set(first, frame.back, joint.0),
                FrameLayout::Interpreter(frame) => builder.set(first, frame.previous, joint.0),
            }
            let reader = ObjectReader {
                memory: &builder,
                layout,
            };
            let mut decoder = FrameDecoder::default();
            let frames = decoder.read_stack(reader, top).unwrap();
            assert_eq!(frames.len(), before + length + 1);
            assert_eq!(decoder.cut(), Some(Cut::Cycle(length)));
        }
    }

    #[test]
    fn a_stack_without_its_base_is_told() {
        for layout in all_layouts() {
            let mut builder = Builder::new(layout);
            let [top, base] = stack(&mut builder);
            fn reader(builder: &Builder) -> ObjectReader<'_> {
                ObjectReader {
                    memory: builder,
                    layout: builder.layout,
                }
            }
            let mut decoder = FrameDecoder::default();
            let hidden = match &layout.frame {
                FrameLayout::Interpreter(frame) => frame.first_hidden_owner.zip(Some(frame)),
                FrameLayout::Object(_) => None,
            };
            decoder.read_stack(reader(&builder), top).unwrap();
            assert_eq!(
                decoder.is_closed(),
                hidden.is_none(),
                "{:?}",
                layout.version
            );
            if let Some((owner, frame)) = hidden {
                builder.set(base, frame.owner, u64::from(owner));
                decoder.read_stack(reader(&builder), top).unwrap();
            }
            assert!(decoder.is_closed());
            decoder.read_stack(reader(&builder), Address::NULL).unwrap();
            assert!(decoder.is_closed());
        }
    }

    #[test]
    fn shims_are_left_out() {
        for layout in all_layouts() {
            let FrameLayout::Interpreter(InterpreterFrameLayout {
                owner,
                first_hidden_owner: Some(hidden),
                ..
            }) = layout.frame
            else {
                continue;
            };
            let mut builder = Builder::new(layout);
            let [top, base] = stack(&mut builder);
            builder.set(top, owner, u64::from(hidden));
            assert_eq!(read(&builder, top).unwrap(), read(&builder, base).unwrap());
        }
    }

    #[test]
    fn a_code_object_that_takes_the_address_of_another_is_read_anew() {
        for layout in all_layouts() {
            let mut builder = Builder::new(layout);
            let code = builder.code("before", "/b.py", 1);
            let frame = builder.frame(code, Address::NULL, Address::NULL);
            let other = builder.text("after");
            let mut decoder = FrameDecoder::default();
            let mut name = |builder: &Builder| {
                let reader = ObjectReader {
                    memory: builder,
                    layout,
                };
                decoder.read_stack(reader, frame).unwrap()[0]
                    .function
                    .to_string()
            };
            assert_eq!(name(&builder), "before");
            builder.set(code, layout.code.name, other.0);
            if let Some(qualname) = layout.code.qualname {
                builder.set(code, qualname, other.0);
            }
            assert_eq!(name(&builder), "after", "{:?}", layout.version);
        }
    }

    proptest! {
        /// Bytes that change under the decoder end in frames or in an error, never in a panic or a loop.
        #[test]
        fn a_damaged_stack_is_taken(damage in proptest::collection::vec((0_u64..2048, any::<u8>()), 1..24)) {
            for layout in all_layouts() {
                let mut builder = Builder::new(layout);
                let [top, base] = stack(&mut builder);
                let lowest = Address(base.0.saturating_sub(1024));
                for (offset, value) in &damage {
                    let at = Address(lowest.0 + offset % (top.0 - lowest.0));
                    builder.overwrite(at, &[*value]);
                }
                let _ = read(&builder, top);
            }
        }
    }
}
