//! Where a coroutine that does not run stands: its frame, that of the coroutine that it awaits, and so on inwards.

use std::sync::Arc;

use crate::model::{Address, Frame};
use crate::python::frame::{FrameDecoder, FramePlace};
use crate::python::layout::{AsyncioLayout, EvaluationLayout, FrameLayout, StackTop};
use crate::python::object::{FLAG_HEAPTYPE, ObjectError, ObjectReader, offset};

/// Most coroutines that await each other in a line; the recursion limit keeps them below 1,000 as a rule.
const MAX_DEPTH: usize = 2000;
/// Most slots of a frame's locals and values.
const MAX_SLOTS: u64 = 1 << 16;
/// `YIELD_FROM` (`Include/opcode.h`, 3.8-3.10).
const YIELD_FROM: u8 = 72;

/// How far a coroutine has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Created,
    Suspended,
    Executing,
    Finished,
}

/// Where the coroutines of one task stand.
#[derive(Debug, Default)]
pub(super) struct Chain {
    /// How far the outermost has come; `None` for one that is not CPython's own.
    pub(super) stage: Option<Stage>,
    /// Its function, or its type.
    pub(super) outermost: Option<Arc<str>>,
    /// Innermost first.
    pub(super) frames: Vec<Arc<Frame>>,
}

impl Chain {
    /// What is further in can't be looked into: it is of this type.
    fn end_with(&mut self, type_name: &str) {
        let marker = Frame::marker(&format!("<{type_name}>"));
        if self.frames.is_empty() {
            self.outermost = Some(Arc::clone(&marker.function));
        }
        self.frames.push(Arc::new(marker));
    }
}

/// What an object is on the way inwards.
enum Link {
    /// A coroutine, generator or asynchronous generator.
    Generator,
    /// It hands on to what its first member points to.
    Wrapper,
    /// The end of the way.
    Future,
    /// A coroutine of another make, as Cython has.
    Foreign(String),
}

/// Follows a task's coroutine inwards, for at most `limit` frames. What can't be read ends it.
pub(super) fn follow(
    reader: ObjectReader<'_>,
    layout: &AsyncioLayout,
    decoder: &mut FrameDecoder,
    coroutine: Address,
    limit: usize,
) -> Chain {
    let mut chain = Chain::default();
    let mut at = coroutine;
    for _ in 0..MAX_DEPTH {
        if chain.frames.len() >= limit {
            break;
        }
        match link_of(reader, at) {
            Ok(Link::Generator) => {
                // Of the names of types, Cython's coroutines have some too.
                let Ok(step) = read_step(reader, layout, decoder, at) else {
                    chain.end_with("coroutine");
                    break;
                };
                if chain.frames.is_empty() {
                    chain.stage = Some(step.stage);
                    chain.outermost = step.frame.as_ref().map(|frame| Arc::clone(&frame.function));
                }
                chain.frames.extend(step.frame);
                match step.awaited {
                    Some(awaited) => at = awaited,
                    None => break,
                }
            }
            Ok(Link::Wrapper) => {
                let inside = offset(at, u64::from(reader.layout.object.size));
                match inside.and_then(|inside| Ok(reader.memory.read_address(inside)?)) {
                    Ok(inner) => at = inner,
                    Err(_) => break,
                }
            }
            Ok(Link::Foreign(name)) => {
                chain.end_with(&name);
                break;
            }
            Ok(Link::Future) | Err(_) => break,
        }
    }
    chain.frames.reverse();
    chain
}

/// What the object is. Of CPython's own types the names are believed only of types that C code has made.
fn link_of(reader: ObjectReader<'_>, object: Address) -> Result<Link, ObjectError> {
    let facts = reader.type_facts(object)?;
    let name = reader.type_name(facts.address)?;
    if facts.flags & FLAG_HEAPTYPE == 0 {
        match &*name {
            "coroutine" | "generator" | "async_generator" => return Ok(Link::Generator),
            // `Objects/genobject.c` (3.8-3.15): `cw_coroutine`, `ags_gen`, `agt_gen`; `Objects/iterobject.c` (3.10+): `wrapped`.
            "coroutine_wrapper"
            | "async_generator_asend"
            | "async_generator_athrow"
            | "anext_awaitable" => return Ok(Link::Wrapper),
            _ => {}
        }
    }
    if name.to_ascii_lowercase().ends_with("coroutine") {
        return Ok(Link::Foreign(name));
    }
    Ok(Link::Future)
}

/// One coroutine on the way inwards.
struct Step {
    stage: Stage,
    frame: Option<Arc<Frame>>,
    awaited: Option<Address>,
}

fn read_step(
    reader: ObjectReader<'_>,
    layout: &AsyncioLayout,
    decoder: &mut FrameDecoder,
    object: Address,
) -> Result<Step, ObjectError> {
    let finished = Step {
        stage: Stage::Finished,
        frame: None,
        awaited: None,
    };
    let generator = &layout.generator;
    let (at, mut stage, waits) = match generator.states {
        Some(states) => {
            let state = reader.field(object, states.state)?;
            let stage = match state {
                state if state > states.executing => return Ok(finished),
                state if state == states.executing => Stage::Executing,
                state if state >= states.suspended => Stage::Suspended,
                state if state == states.created => Stage::Created,
                _ => return Ok(finished),
            };
            let tells = states.suspended + 1 < states.executing;
            let waits = tells.then_some(stage == Stage::Suspended && state > states.suspended);
            (offset(object, generator.frame.offset())?, stage, waits)
        }
        None => match reader.pointer(object, generator.frame)? {
            Address::NULL => return Ok(finished),
            frame => (frame, Stage::Suspended, None),
        },
    };
    let garbage = ObjectError::Garbage {
        address: object,
        what: "frame",
    };
    let read = decoder.read_frame(reader, at).map_err(|_| garbage)?;
    let Some((frame, place)) = read else {
        return Ok(Step { stage, ..finished });
    };
    let top = top_of_stack(reader, layout, at);
    if generator.states.is_none() {
        stage = match top {
            _ if place.lasti < 0 => Stage::Created,
            Ok(None) => Stage::Executing,
            _ => Stage::Suspended,
        };
    }
    let mut awaited = None;
    if stage == Stage::Suspended
        && let Ok(Some(top)) = top
        && waits.unwrap_or_else(|| awaits(reader, layout, &place).unwrap_or(false))
    {
        let slot = top.checked_sub(Address(8 * u64::from(generator.awaited_slot)));
        awaited = slot
            .and_then(|slot| reader.memory.read_address(Address(slot)).ok())
            .map(Address::untagged)
            .filter(|awaited| !awaited.is_null());
    }
    Ok(Step {
        stage,
        frame: Some(frame),
        awaited,
    })
}

/// Behind the topmost slot of the value stack of a frame that does not run; `None` while it runs.
pub(in crate::python) fn top_of_stack(
    reader: ObjectReader<'_>,
    layout: &AsyncioLayout,
    frame: Address,
) -> Result<Option<Address>, ObjectError> {
    let size = match &reader.layout.frame {
        FrameLayout::Object(layout) => layout.size,
        FrameLayout::Interpreter(layout) => layout.size,
    };
    let first = offset(frame, u64::from(size))?;
    let garbage = ObjectError::Garbage {
        address: frame,
        what: "height of a value stack",
    };
    let above = |base: Address, slots: i32| match u64::try_from(slots) {
        Err(_) | Ok(0) => Ok(None),
        Ok(slots) if slots <= MAX_SLOTS => offset(base, 8 * slots).map(Some),
        Ok(_) => Err(garbage.clone()),
    };
    let top = match layout.generator.top {
        StackTop::Pointer(field) => reader.pointer(frame, field)?,
        StackTop::Count(field) => return above(first, reader.field(frame, field)?),
        StackTop::Depth(field) => {
            let depth = reader.field(frame, field)?;
            let EvaluationLayout::Blocks { value_stack, .. } = reader.layout.evaluation else {
                return Err(garbage);
            };
            return above(reader.field(frame, value_stack)?, depth);
        }
    };
    if top.is_null() {
        return Ok(None);
    }
    match top.checked_sub(first) {
        Some(bytes) if bytes > 0 && bytes % 8 == 0 && bytes / 8 <= MAX_SLOTS => Ok(Some(top)),
        _ => Err(garbage),
    }
}

/// Whether a frame that does not run waits for another coroutine, and has not just given a value: by the instruction that comes next
/// (`Objects/genobject.c::_PyGen_yf`, 3.8-3.12).
fn awaits(
    reader: ObjectReader<'_>,
    layout: &AsyncioLayout,
    place: &FramePlace,
) -> Result<bool, ObjectError> {
    let Ok(last) = u64::try_from(place.lasti) else {
        return Ok(false);
    };
    if let Some(bytecode) = layout.generator.bytecode {
        let code = reader.pointer(place.code, bytecode)?;
        let data = offset(code, reader.layout.bytes.data.offset())?;
        // Counted in bytes up to 3.9, in code units in 3.10.
        let next = match reader.layout.version >= (3, 10) {
            true => 2 * (last + 1),
            false => last + 2,
        };
        let mut opcode = [0; 1];
        reader.memory.read(offset(data, next)?, &mut opcode)?;
        return Ok(opcode == [YIELD_FROM]);
    }
    let Some(first) = place.info.bytecode else {
        return Ok(false);
    };
    // `RESUME` comes next, and says why it was left: 2 for `yield from`, 3 for `await` (`Doc/library/dis.rst`, 3.11+).
    let mut argument = [0; 1];
    let next = offset(first, 2 * (last + 1) + 1)?;
    reader.memory.read(next, &mut argument)?;
    Ok(argument[0] & 3 >= 2)
}
