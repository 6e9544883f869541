//! Reading all that the decoders can read of a process, and holding it against what must be so.

use std::collections::HashMap;
use std::sync::Arc;

use rustix::time::{ClockId, clock_gettime};
use stuckspy::model::{Address, Frame, FrameKind};
use stuckspy::python::eval_stack::read_values;
use stuckspy::python::frame::{FrameDecoder, MAX_FRAMES, StackRoom};
use stuckspy::python::locks::{Sleeper, find_wait, lock_of};
use stuckspy::python::names::thread_names;
use stuckspy::python::object::{MAX_TEXT, ObjectReader};
use stuckspy::python::thread_ids::native_ids;
use stuckspy::report::sanitize::Shown;
use stuckspy::sys::memory::{PageView, RemoteMemory};
use stuckspy::target::tasks::Syscall;
use stuckspy::wait::read_pointed_arguments;

use crate::process::{ExpectedInterpreter, Process};

/// Most interpreters, and threads of each, that may be listed.
const MAX_INTERPRETERS: usize = 4096;
const MAX_THREADS: usize = 100_000;
/// Most seconds of a processor that reading a process may take.
const MAX_TIME: i64 = 10;
/// Most entries that a dict may have.
const MAX_ENTRIES: usize = 65_536;
/// Most frames whose values may be read.
const MAX_LOOKED_INTO: usize = 4096;
/// Calls whose arguments point to more: open, poll, select, ppoll, nanosleep, connect, futex, rt_sigtimedwait (x86-64).
const CALLS: [i64; 8] = [2, 7, 23, 271, 35, 42, 202, 128];
/// Frames of a stack that are looked at one by one.
const LOOKED_AT: usize = 64;

/// Reads everything as the program does, with a view of its own for each step.
///
/// # Panics
///
/// When a limit is not kept, or when something is not read that was laid out and not spoilt.
pub fn walk(process: &Process) {
    let began = processor_time();
    read(process);
    read_in_little_room(process);
    // The fuzzer's own limit is one of the clock on the wall, which a busy machine exceeds for nothing.
    let took = processor_time() - began;
    assert!(took <= MAX_TIME, "took {took} s");
}

/// Seconds that this process has had a processor.
fn processor_time() -> i64 {
    clock_gettime(ClockId::ProcessCPUTime).tv_sec
}

fn read(process: &Process) {
    let (runtime, memory) = (&process.runtime, &process.memory);
    let mut decoder = FrameDecoder::default();
    decoder.begin_snapshot();
    let interpreters = runtime.interpreters(&PageView::new(memory));
    if let Some(expected) = &process.expected {
        let interpreters = interpreters.as_ref().expect("interpreters are read");
        assert_eq!(interpreters.len(), expected.len());
    }
    let interpreters = interpreters.unwrap_or_default();
    assert!(interpreters.len() <= MAX_INTERPRETERS);
    for (index, interpreter) in interpreters.iter().enumerate() {
        let expected = process.expected.as_ref().map(|expected| &expected[index]);
        let view = PageView::new(memory);
        let threads = runtime.threads(&view, interpreter);
        assert!(threads.states.len() <= MAX_THREADS);
        let ids = native_ids(&view, &threads.states, &process.tids);
        assert!(ids.values().all(|id| process.tids.contains(id)));
        let names = thread_names(runtime.objects(&view), interpreter.modules);
        let names: Option<HashMap<u64, String>> =
            names.ok().map(|names| names.into_iter().collect());
        assert!(names.iter().all(|names| names.len() <= MAX_ENTRIES));
        names
            .iter()
            .flatten()
            .for_each(|(_, name)| check_text(name));
        let gil = runtime.gil(&view, interpreter);
        if let Some(gil) = gil {
            runtime.is_gil_futex(&gil, interpreter.address);
        }
        let mut stacks = Vec::new();
        for state in &threads.states {
            let view = PageView::new(memory);
            assert!(runtime.is_current(&view, state), "memory stands still");
            let stack = read_stack(process, &mut decoder, &view, state);
            stack.iter().for_each(|frames| check_stack(frames));
            // A spoilt list can be as long as memory; the stacks of a few are enough then.
            stacks.push(stack);
            if expected.is_none() && stacks.len() >= 16 {
                break;
            }
        }
        if let Some(expected) = expected {
            let ExpectedInterpreter {
                address,
                id,
                names: expected_names,
                threads: expected_threads,
                gil: expected_gil,
            } = expected;
            assert_eq!((interpreter.address, interpreter.id), (*address, *id));
            assert_eq!(names.as_ref(), Some(expected_names));
            assert_eq!(gil.map(|gil| gil.holder), *expected_gil);
            let found: Vec<_> = threads
                .states
                .iter()
                .zip(stacks)
                .map(|(state, stack)| (state.address, ids.get(&state.address).copied(), stack))
                .collect();
            let wanted: Vec<_> = expected_threads
                .iter()
                .map(|thread| {
                    (
                        thread.address,
                        Some(thread.tid),
                        Some(thread.frames.clone()),
                    )
                })
                .collect();
            assert_eq!(found, wanted);
            assert!(!threads.is_broken);
        }
    }
}

/// The stacks of all threads again and again, with caches and budgets that are soon full: nothing is taken beyond them, and what
/// is there is what is read with more room.
fn read_in_little_room(process: &Process) {
    const ROOM: StackRoom = StackRoom {
        memory: 16 << 10,
        written: 32 << 10,
    };
    // One code object with its texts, or one frame, may be the last that is taken in.
    const LAST: usize = 64 << 10;
    let (runtime, memory) = (&process.runtime, &process.memory);
    let mut small = FrameDecoder::new(ROOM);
    small.share_cache(4096);
    let view = PageView::new(memory);
    let interpreters = runtime.interpreters(&view).unwrap_or_default();
    for interpreter in interpreters.iter().take(4) {
        for state in runtime.threads(&view, interpreter).states.iter().take(4) {
            let Ok(top) = runtime.top_frame(&view, state) else {
                continue;
            };
            let mut large = FrameDecoder::default();
            let whole = large.read_stack(runtime.objects(&view), top);
            for _ in 0..2 {
                small.renew_budget();
                let part = small.read_stack(runtime.objects(&view), top);
                let taken = small.taken();
                assert!(taken.memory <= ROOM.memory + LAST, "{taken:?}");
                assert!(taken.written <= ROOM.written + LAST, "{taken:?}");
                let (Ok(part), Ok(whole)) = (part, &whole) else {
                    continue;
                };
                assert_eq!(small.cut().is_some(), has_marker(&part));
                if small.cut().is_none() || small.cut() == large.cut() {
                    assert_eq!(&part, whole);
                } else {
                    let known = part.len() - 1;
                    // A cycle may have been gone through more than once before the room was used up.
                    let same = known.min(whole.len() - usize::from(has_marker(whole)));
                    assert_eq!(part[..same], whole[..same]);
                }
            }
        }
    }
}

fn has_marker(frames: &[Arc<Frame>]) -> bool {
    frames.iter().any(|frame| frame.kind == FrameKind::Marker)
}

fn read_stack(
    process: &Process,
    decoder: &mut FrameDecoder,
    view: &dyn RemoteMemory,
    state: &stuckspy::python::runtime::ThreadState,
) -> Option<Vec<Frame>> {
    let top: Address = process.runtime.top_frame(view, state).ok()?;
    let reader = process.runtime.objects(view);
    let stack = decoder.read_stack(reader, top).ok()?;
    let places = decoder.places();
    let markers = stack.iter().filter(|frame| frame.kind == FrameKind::Marker);
    assert_eq!(places.len() + markers.count(), stack.len());
    read_locks(process, reader, &stack, decoder);
    Some(stack.iter().map(|frame| Frame::clone(frame)).collect())
}

/// What the frames hold, and what the thread would wait for if it slept on one of the things that they hold.
fn read_locks(
    process: &Process,
    reader: ObjectReader<'_>,
    frames: &[Arc<Frame>],
    decoder: &FrameDecoder,
) {
    let values = read_values(reader, decoder.places());
    assert!(values.frames.len() <= MAX_LOOKED_INTO && values.frames.len() <= frames.len());
    let held = values.frames.iter().flat_map(|frame| frame.managers.iter());
    let held: Vec<Address> = held
        .chain(&values.innermost)
        .copied()
        .take(LOOKED_AT)
        .collect();
    for address in held {
        let _ = lock_of(reader, address);
        for futex in [address.0, address.0.wrapping_add(8)] {
            let sleeper = Sleeper {
                futex: Address(futex),
                frames,
                values: &values,
            };
            if let Some(name) = find_wait(reader, sleeper).and_then(|wait| wait.name) {
                check_text(&name);
            }
        }
    }
    for number in CALLS {
        let argument = decoder.places().first().map_or(0, |place| place.frame.0);
        let syscall = Syscall::In {
            number,
            arguments: [argument; 6],
        };
        let _ = read_pointed_arguments(&process.memory, &syscall);
    }
}

fn check_stack(frames: &[Frame]) {
    assert!(frames.len() <= MAX_FRAMES + 1);
    let is_marker = |frame: &&Frame| frame.kind == FrameKind::Marker;
    assert_eq!(
        frames.iter().filter(is_marker).count(),
        usize::from(frames.last().is_some_and(|last| is_marker(&last)))
    );
    for frame in frames.iter().take(LOOKED_AT) {
        check_text(&frame.function);
        check_text(&frame.file);
        frame.module.iter().for_each(|module| check_text(module));
    }
}

/// A text of a target is bounded, and harmless once it is shown.
pub fn check_text(text: &str) {
    assert!(text.chars().count() as u64 <= MAX_TEXT + 1);
    let shown = Shown(text).to_string();
    assert!(
        !shown
            .chars()
            .any(|letter| letter.is_control() || letter == '\u{202e}')
    );
}
