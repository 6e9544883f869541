//! Walking the frames of one thread, innermost first, and saying what each is.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use thiserror::Error;

use super::code::{CodeCache, CodeInfo};
use super::layout::{FrameLayout, FrameObjectLayout, InterpreterFrameLayout};
use super::object::{ObjectError, ObjectReader, copy_struct, member};
use crate::model::{Address, Frame, FrameKind};
use crate::sys::memory::ReadError;

/// Most frames of one stack; a deeper one ends in a marker.
pub const MAX_FRAMES: usize = 200_000;
/// Frames that most stacks have room for.
const USUAL_FRAMES: usize = 48;
/// Most frames of all stacks of one snapshot together.
const MAX_SNAPSHOT_FRAMES: usize = 2_000_000;
/// Most bytes of line tables that are gone through for one stack; lines that would take more are not told.
const MAX_LINE_WORK: usize = 512 << 20;
/// Most frames that are kept.
const MAX_CACHED_FRAMES: usize = 65_536;
/// Most dicts whose module name is kept.
const MAX_MODULES: usize = 16_384;

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

/// What is kept between stacks: code objects, and the names of modules.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    codes: CodeCache,
    /// Key: address of a `globals` dict. A dict that takes the address of a freed one would be mistaken for it, so the
    /// names are forgotten at the start of each snapshot.
    modules: FxHashMap<Address, Option<Arc<str>>>,
    /// Frames as they are shown. One is used again only while its code object is still the same.
    frames: FxHashMap<FrameKey, (Arc<CodeInfo>, Arc<Frame>)>,
    line_work: usize,
    /// Frames of the current snapshot so far.
    frame_count: usize,
    /// Whether the last stack ended as one does that stands still.
    is_closed: bool,
    /// Where the frames of the last stack lie.
    places: Vec<FramePlace>,
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
    /// Forgets what may have changed since the last snapshot.
    pub fn begin_snapshot(&mut self) {
        self.modules.clear();
        self.frames.clear();
        self.renew_budget();
    }

    /// Lets as much be taken in again, without forgetting: for a sampler, which looks at the same stacks all the time.
    /// A module's name can be an old one then, where a dict of globals has taken the address of another.
    pub fn renew_budget(&mut self) {
        self.codes.begin_snapshot();
        self.frame_count = 0;
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
        self.line_work = 0;
        self.is_closed = true;
        self.places.clear();
        let has_base = match &reader.layout.frame {
            FrameLayout::Object(_) => false,
            FrameLayout::Interpreter(layout) => layout.first_hidden_owner.is_some(),
        };
        let mut frames = Vec::with_capacity(USUAL_FRAMES);
        let mut at = top;
        let mut frame_type = None;
        for _ in 0..MAX_FRAMES {
            if at.is_null() {
                return Ok(frames);
            }
            if self.codes.is_full() || self.frame_count >= MAX_SNAPSHOT_FRAMES {
                break;
            }
            self.frame_count += 1;
            let (raw, previous) = self.read_raw(reader, at, &mut frame_type)?;
            self.is_closed = !has_base || raw.is_none();
            if let Some(raw) = raw {
                let frame = self
                    .describe(reader, at, raw)
                    .map_err(|source| StackError::Object { frame: at, source })?;
                frames.push(frame);
            }
            at = previous;
        }
        frames.push(Arc::new(Frame::marker("<truncated>")));
        Ok(frames)
    }

    /// The frame at `at` and none of its callers, as a coroutine that does not run keeps it; `None` for one that is not shown,
    /// and when as much was read for this snapshot as may be.
    pub fn read_frame(
        &mut self,
        reader: ObjectReader<'_>,
        at: Address,
    ) -> Result<Option<(Arc<Frame>, FramePlace)>, StackError> {
        if self.codes.is_full() || self.frame_count >= MAX_SNAPSHOT_FRAMES {
            return Ok(None);
        }
        self.frame_count += 1;
        let (Some(raw), _) = self.read_raw(reader, at, &mut None)? else {
            return Ok(None);
        };
        let frame = self.describe(reader, at, raw);
        let frame = frame.map_err(|source| StackError::Object { frame: at, source })?;
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
            && Arc::ptr_eq(known, &info)
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
        if self.frames.len() >= MAX_CACHED_FRAMES {
            self.frames.clear();
        }
        self.frames.insert(key, (info, Arc::clone(&frame)));
        Ok(frame)
    }

    fn line_of(&mut self, reader: ObjectReader<'_>, info: &CodeInfo, lasti: i32) -> Option<u32> {
        self.line_work += info.table_size();
        if self.line_work > MAX_LINE_WORK {
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
        let name: Option<Arc<str>> = name.and_then(|name| reader.text(name).ok()).map(Into::into);
        self.codes
            .take_in(name.as_ref().map_or(0, |name| name.len()));
        if self.modules.len() >= MAX_MODULES {
            self.modules.clear();
        }
        self.modules.insert(globals, name.clone());
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
    fn a_chain_without_an_end_is_cut() {
        for layout in all_layouts().into_iter().step_by(5) {
            let mut builder = Builder::new(layout);
            let [top, base] = stack(&mut builder);
            match &layout.frame {
                FrameLayout::Object(frame) => builder.set(base, frame.back, top.0),
                FrameLayout::Interpreter(frame) => builder.set(base, frame.previous, top.0),
            }
            let frames = read(&builder, top).unwrap();
            assert_eq!(frames.len(), MAX_FRAMES + 1);
            assert_eq!(
                frames.last().map(|frame| &**frame),
                Some(&Frame::marker("<truncated>"))
            );
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

    /// 3,000 code objects with names of 4,096 letters outside ASCII and tables of 64 KiB are more than may be taken in.
    #[test]
    fn what_all_frames_together_take_is_bounded() {
        let layout = all_layouts()[7];
        let mut builder = Builder::new(layout);
        let table = builder.bytes(&vec![0; 64 << 10]);
        let name = builder.text(&"ö".repeat(4096));
        let mut top = Address::NULL;
        for _ in 0..3000 {
            let code = builder.code("f", "/f.py", 1);
            builder.set(code, layout.code.name, name.0);
            builder.set(code, layout.code.linetable, table.0);
            top = builder.frame(code, Address::NULL, top);
        }
        let mut decoder = FrameDecoder::default();
        let reader = ObjectReader {
            memory: &builder,
            layout,
        };
        let frames = decoder.read_stack(reader, top).unwrap();
        assert!(frames.len() < 1100, "{}", frames.len());
        assert_eq!(
            frames.last().map(|frame| &**frame),
            Some(&Frame::marker("<truncated>"))
        );
        assert_eq!(
            decoder.read_stack(reader, top),
            Ok(vec![Arc::new(Frame::marker("<truncated>"))])
        );
        decoder.begin_snapshot();
        assert!(decoder.read_stack(reader, top).unwrap().len() > 900);
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
