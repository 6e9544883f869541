//! The local variables of a thread's frames, within what one snapshot may take. Whether the thread moved is judged elsewhere.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::options::Locals;
use crate::model::{Address, Frame, FrameKind, Local};
use crate::python::frame::{FrameDecoder, StackRoom};
use crate::python::locals::globals_of;
use crate::python::object::ObjectReader;
use crate::python::value::{Budget, ValueReader};

/// Most objects, and bytes of their texts, that are read for one thread.
const THREAD_BUDGET: Budget = Budget {
    nodes: 20_000,
    bytes: 1 << 20,
};
/// Most of them that are read for all threads together.
const SNAPSHOT_BUDGET: Budget = Budget {
    nodes: 100_000,
    bytes: 8 << 20,
};
/// What an object takes beside its texts.
const NODE_BYTES: usize = size_of::<Local>();
/// Most frames of one thread whose variables are read, from the innermost on.
const MAX_FRAMES: usize = 2000;
/// How long the variables of one thread, and of all together, may take to read.
const MAX_THREAD_TIME: Duration = Duration::from_millis(100);
const MAX_SNAPSHOT_TIME: Duration = Duration::from_millis(400);
/// A thread that could run is not kept from it for long: each further try has half of the one before, down to 1/64.
const MAX_HALVINGS: usize = 6;

/// The same where only a few are wanted, and soon.
const FEW_BUDGET: Budget = Budget {
    nodes: 4000,
    bytes: 64 << 10,
};
/// Calls whose simple variables are read where there is no room for more of them.
const MAX_SIMPLE_FRAMES: usize = 64;
const MAX_FEW_THREAD_TIME: Duration = Duration::from_millis(4);
const MAX_FEW_TIME: Duration = Duration::from_millis(40);

/// What the variables of a snapshot may still take.
#[derive(Debug)]
pub struct LocalsBudget {
    of_thread: Budget,
    time_of_thread: Duration,
    with_globals: bool,
    given: Budget,
    left: Cell<Budget>,
    time: Cell<Duration>,
}

/// Frames with their variables, and how many frames there was no room for.
pub struct WithLocals {
    /// The frames, innermost first.
    pub frames: Vec<Arc<Frame>>,
    /// Frames whose variables were left out.
    pub left_out: usize,
}

impl LocalsBudget {
    /// What is wanted; `None` where that is nothing. Where stacks may take less than they usually may, so may variables.
    pub fn new(wanted: Locals, room: StackRoom) -> Option<LocalsBudget> {
        let (of_thread, time_of_thread, time) = match wanted {
            Locals::None => return None,
            Locals::Few => (FEW_BUDGET, MAX_FEW_THREAD_TIME, MAX_FEW_TIME),
            Locals::All => (THREAD_BUDGET, MAX_THREAD_TIME, MAX_SNAPSHOT_TIME),
        };
        let given = Budget {
            nodes: room.share_of(SNAPSHOT_BUDGET.nodes),
            bytes: room.share_of(SNAPSHOT_BUDGET.bytes),
        };
        Some(LocalsBudget {
            of_thread,
            time_of_thread,
            with_globals: wanted == Locals::Few,
            given,
            left: Cell::new(given),
            time: Cell::new(time),
        })
    }

    /// About how many bytes the variables have taken so far.
    pub fn taken(&self) -> usize {
        let left = self.left.get();
        (self.given.nodes - left.nodes) * NODE_BYTES + (self.given.bytes - left.bytes)
    }

    /// Adds their variables to the frames that `decoder` has just read through `reader`, at the try number `attempt`; whether its thread
    /// sleeps is for the caller to say.
    pub fn add_locals(
        &self,
        reader: ObjectReader<'_>,
        decoder: &FrameDecoder,
        frames: &[Arc<Frame>],
        attempt: usize,
        is_asleep: bool,
    ) -> WithLocals {
        let started = Instant::now();
        let halvings = attempt.min(MAX_HALVINGS);
        let left = self.left.get();
        let given = Budget {
            nodes: left.nodes.min(self.of_thread.nodes >> halvings),
            bytes: left.bytes.min(self.of_thread.bytes >> halvings),
        };
        let time = self.time.get().min(self.time_of_thread / (1 << halvings));
        let mut values = ValueReader::new(reader, given);
        if self.with_globals {
            values = values.with_globals();
        }
        // Each module's globals go to the outermost of its calls, which stays where others come and go.
        let mut globals: FxHashMap<Address, Address> = FxHashMap::default();
        if self.with_globals {
            for place in decoder.places().iter().take(MAX_FRAMES) {
                if let Ok(dict) = globals_of(reader, place) {
                    globals.insert(dict, place.frame);
                }
            }
        }
        let mut places = decoder.places().iter().take(MAX_FRAMES);
        let mut left_out = 0;
        let frames = frames.iter().map(|frame| {
            if frame.kind == FrameKind::Marker {
                return Arc::clone(frame);
            }
            let place = places.next().filter(|_| started.elapsed() < time);
            let locals = place.and_then(|place| {
                let mut locals = values.locals(place)?;
                let owned = globals.iter().filter(|(_, owner)| **owner == place.frame);
                for (dict, _) in owned {
                    locals.extend(values.globals(*dict));
                }
                Some(locals)
            });
            match locals {
                Some(locals) => Arc::new(Frame {
                    locals: Some(locals.into()),
                    ..(**frame).clone()
                }),
                None => {
                    left_out += 1;
                    Arc::clone(frame)
                }
            }
        });
        let mut frames: Vec<Arc<Frame>> = frames.collect();
        // Of one that runs they would be compared with whole ones.
        if self.with_globals && is_asleep {
            add_simple(&mut values, decoder, &mut frames, time / 2);
        }
        let rest = values.budget();
        self.left.set(Budget {
            nodes: left.nodes - (given.nodes - rest.nodes),
            bytes: left.bytes - (given.bytes - rest.bytes),
        });
        let time = self.time.get().saturating_sub(started.elapsed());
        self.time.set(time);
        WithLocals { frames, left_out }
    }
}

/// Gives the calls for whose variables there was no room those that are numbers, texts and the like: limits and times are.
fn add_simple(
    values: &mut ValueReader<'_>,
    decoder: &FrameDecoder,
    frames: &mut [Arc<Frame>],
    time: Duration,
) {
    let started = Instant::now();
    let calls = frames
        .iter_mut()
        .filter(|frame| frame.kind != FrameKind::Marker);
    let without = calls
        .zip(decoder.places())
        .filter(|(frame, _)| frame.locals.is_none());
    for (frame, place) in without.take(MAX_SIMPLE_FRAMES) {
        if started.elapsed() >= time {
            break;
        }
        let locals = values.simple_locals(place);
        *frame = Arc::new(Frame {
            locals: Some(locals.into()),
            ..(**frame).clone()
        });
    }
}
