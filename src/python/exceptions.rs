//! The exception that a thread is handling: its type and number, who caught it, and which address the attempt was about that failed.

use super::frame::{FrameDecoder, FramePlace};
use super::layout::ExceptionLayout;
use super::locals::{LocalVariable, read_locals};
use super::object::{FLAG_HEAPTYPE, ObjectError, ObjectReader, offset};
use super::runtime::ThreadState;
use crate::model::{Address, CaughtError, Frame};

/// Generators inside one another, each with a place for the exception that it handles, that are gone through.
const MAX_PLACES: usize = 64;
/// Exceptions that led to one another that are gone through.
const MAX_CAUSES: usize = 8;
/// Calls of a traceback that are gone through, and those of them, from the innermost on, in whose variables an address is looked for.
const MAX_CALLS: usize = 256;
const MAX_SEARCHED: usize = 12;
/// Classes that a class is derived from in a line.
const MAX_BASES: usize = 64;
/// Longest host name or path that is taken.
const MAX_HOST: u64 = 256;
/// Highest number of an error that is believed (`MAX_ERRNO`, `include/linux/err.h`); those of `getaddrinfo` are negative.
const MAX_NUMBER: u64 = 4095;
/// `Py_TPFLAGS_BASE_EXC_SUBCLASS` (`Include/object.h`, 2.7-3.15).
const FLAG_EXCEPTION: u64 = 1 << 30;

/// The exception that the thread is handling, `None` where it is handling none, or that can't be read.
pub fn read_handled(
    reader: ObjectReader<'_>,
    decoder: &mut FrameDecoder,
    state: &ThreadState,
) -> Option<CaughtError> {
    let layout = reader.layout.exceptions.as_ref()?;
    let handled = find_handled(reader, layout, state).ok()??;
    let (error, number) = telling_cause(reader, layout, handled);
    let calls = traceback(reader, layout, handled);
    let caught_in = calls
        .first()
        .and_then(|frame| read_frame(reader, layout, decoder, *frame))
        .and_then(|(frame, _)| Some((frame.function.clone(), frame.first_line?)));
    let calls = match error == handled {
        true => calls,
        false => traceback(reader, layout, error),
    };
    let searched = calls.iter().rev().take(MAX_SEARCHED);
    let address = searched
        .filter_map(|frame| read_frame(reader, layout, decoder, *frame))
        .find_map(|(_, place)| find_address(reader, &place));
    let type_name = reader.type_of(error).ok()?;
    let type_name = reader.type_name_with_module(type_name).ok()?;
    Some(CaughtError {
        type_name: type_name.trim_start_matches("builtins.").to_owned(),
        errno: number,
        address,
        caught_in,
    })
}

/// `_PyErr_GetTopmostException` (`Python/errors.c`, 3.7-3.15): generators that are not handling any look further out.
fn find_handled(
    reader: ObjectReader<'_>,
    layout: &ExceptionLayout,
    state: &ThreadState,
) -> Result<Option<Address>, ObjectError> {
    let is_exception = |value: Address| {
        !value.is_null()
            && reader
                .type_facts(value)
                .is_ok_and(|facts| facts.flags & FLAG_EXCEPTION != 0)
    };
    let (Some(info), Some(previous)) = (layout.info, layout.previous) else {
        let value = reader.pointer(state.address, layout.value)?;
        return Ok(is_exception(value).then_some(value));
    };
    let mut place = reader.pointer(state.address, info)?;
    for _ in 0..MAX_PLACES {
        if place.is_null() {
            break;
        }
        let value = reader.pointer(place, layout.value)?;
        if is_exception(value) {
            return Ok(Some(value));
        }
        place = reader.pointer(place, previous)?;
    }
    Ok(None)
}

/// The exception itself, or the one further back that led to it and that has a number of the system: libraries raise their own in place of it.
fn telling_cause(
    reader: ObjectReader<'_>,
    layout: &ExceptionLayout,
    handled: Address,
) -> (Address, Option<i32>) {
    let mut at = handled;
    for _ in 0..MAX_CAUSES {
        if let Some(number) = system_number(reader, layout, at) {
            return (at, Some(number));
        }
        let cause = [layout.cause, layout.context]
            .into_iter()
            .find_map(|field| reader.pointer(at, field).ok().filter(|at| !at.is_null()));
        match cause {
            Some(cause) => at = cause,
            None => break,
        }
    }
    (handled, None)
}

/// `errno` of an `OSError`.
fn system_number(
    reader: ObjectReader<'_>,
    layout: &ExceptionLayout,
    error: Address,
) -> Option<i32> {
    let mut class = reader.type_of(error).ok()?;
    for _ in 0..MAX_BASES {
        let flags = reader.field(class, reader.layout.type_object.flags).ok()?;
        if flags & FLAG_HEAPTYPE == 0 && reader.type_name(class).ok()? == "OSError" {
            let number = reader.pointer(error, layout.number).ok()?;
            let number = reader.unsigned(number).ok()?;
            return i32::try_from(number).ok().filter(|_| number <= MAX_NUMBER);
        }
        class = reader
            .pointer(class, reader.layout.values.type_base)
            .ok()
            .filter(|class| !class.is_null())?;
    }
    None
}

/// The frames that the exception came through, the one that caught it first.
fn traceback(reader: ObjectReader<'_>, layout: &ExceptionLayout, error: Address) -> Vec<Address> {
    let mut frames = Vec::new();
    let mut at = reader.pointer(error, layout.traceback).ok();
    while let Some(entry) = at.filter(|entry| !entry.is_null() && frames.len() < MAX_CALLS) {
        match reader.pointer(entry, layout.frame) {
            Ok(frame) if !frame.is_null() => frames.push(frame),
            _ => break,
        }
        at = reader.pointer(entry, layout.next).ok();
    }
    frames
}

fn read_frame(
    reader: ObjectReader<'_>,
    layout: &ExceptionLayout,
    decoder: &mut FrameDecoder,
    object: Address,
) -> Option<(std::sync::Arc<Frame>, FramePlace)> {
    let frame = match layout.frame_data {
        Some(data) => reader.pointer(object, data).ok()?,
        None => object,
    };
    decoder.read_frame(reader, frame).ok()?
}

/// The address among the variables of a call: a pair of host and port as sockets take it, or variables of such names.
fn find_address(reader: ObjectReader<'_>, place: &FramePlace) -> Option<String> {
    let locals = read_locals(reader, place, false).ok()?;
    let pair = locals
        .iter()
        .filter_map(LocalVariable::object)
        .find_map(|object| read_pair(reader, object));
    pair.or_else(|| {
        let named = |names: &[&str]| {
            let mut all = locals.iter();
            all.find(|local| names.contains(&&*local.name))
                .and_then(LocalVariable::object)
        };
        join(
            reader,
            named(&["host", "hostname", "server"])?,
            named(&["port"])?,
        )
    })
    .or_else(|| {
        let first = locals.iter().find(|local| local.name == "self")?.object()?;
        let named = |names: [&str; 2]| {
            let mut names = names.into_iter();
            names.find_map(|name| reader.attribute(first, name).ok().flatten())
        };
        join(reader, named(["host", "_host"])?, named(["port", "_port"])?)
    })
}

/// `(host, port)`, and what may stand behind it for IPv6.
fn read_pair(reader: ObjectReader<'_>, object: Address) -> Option<String> {
    let name = reader.type_name(reader.type_of(object).ok()?).ok()?;
    if name != "tuple" || !(2..=4).contains(&reader.var_size(object).ok()?) {
        return None;
    }
    let items = offset(object, reader.layout.values.tuple_items.offset()).ok()?;
    let item = |index: u64| {
        let at = offset(items, index * 8).ok()?;
        Some(reader.memory.read_address(at).ok()?.untagged())
    };
    join(reader, item(0)?, item(1)?)
}

/// `host:port` of two objects, if they can be that.
fn join(reader: ObjectReader<'_>, host: Address, port: Address) -> Option<String> {
    let host = reader.text_up_to(host, MAX_HOST).ok()?;
    let number = reader.unsigned(port).ok();
    let number = number.or_else(|| reader.text_up_to(port, 8).ok()?.parse().ok())?;
    let is_host = !host.is_empty()
        && host
            .chars()
            .all(|letter| letter.is_alphanumeric() || ".-_:%".contains(letter));
    if !is_host || !(1..=65535).contains(&number) {
        return None;
    }
    Some(match host.contains(':') {
        true => format!("[{host}]:{number}"),
        false => format!("{host}:{number}"),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::python::testing::{Builder, all_layouts};
    use crate::sys::memory::RemoteMemory;

    /// A thread that handles an `OSError` with this number, which `f` has raised with an address among its variables; and where that lies.
    fn thread(builder: &mut Builder, number: u64) -> Option<(ThreadState, Address)> {
        let layout = builder.layout.exceptions?;
        let (host, port) = (builder.text("10.0.0.1"), builder.int(5672));
        let pair = builder.sequence("tuple", &[host, port]);
        let none = builder.none();
        let (mut frame, _) = builder.frame_with_locals(none.0, pair.0, none);
        if let Some(data) = layout.frame_data {
            let object = builder.object("frame", 128);
            builder.set(object, data, frame.0);
            frame = object;
        }
        let entry = builder.object("traceback", 96);
        builder.set(entry, layout.frame, frame.0);
        let error = builder.object("OSError", 160);
        let number = builder.int(number);
        builder.set(error, layout.number, number.0);
        builder.set(error, layout.traceback, entry.0);
        let state = builder.put(&vec![0; builder.layout.thread.size as usize]);
        match (layout.info, layout.previous) {
            (Some(info), Some(previous)) => {
                // A generator that handles none stands before it.
                let (inner, outer) = (builder.put(&[0; 64]), builder.put(&[0; 64]));
                builder.set(state, info, inner.0);
                builder.set(inner, layout.value, none.0);
                builder.set(inner, previous, outer.0);
                builder.set(outer, layout.value, error.0);
            }
            _ => builder.set(state, layout.value, error.0),
        }
        let state = ThreadState {
            address: state,
            interpreter: Address::NULL,
            thread_id: 1,
            native_thread_id: None,
        };
        Some((state, error))
    }

    fn read(builder: &Builder, state: &ThreadState) -> Option<CaughtError> {
        let reader = ObjectReader {
            memory: builder,
            layout: builder.layout,
        };
        read_handled(reader, &mut FrameDecoder::default(), state)
    }

    #[test]
    fn the_error_its_number_and_the_address_on_every_version() {
        let mut versions = 0;
        for layout in all_layouts() {
            let mut builder = Builder::new(layout);
            let Some((state, _)) = thread(&mut builder, 111) else {
                assert!(layout.version < (3, 6));
                continue;
            };
            let expected = CaughtError {
                type_name: "OSError".into(),
                errno: Some(111),
                address: Some("10.0.0.1:5672".into()),
                caught_in: Some(("f".into(), 1)),
            };
            assert_eq!(
                read(&builder, &state),
                Some(expected),
                "{:?}",
                layout.version
            );
            versions += 1;
        }
        assert!(versions >= 10);
    }

    #[test]
    fn who_handles_nothing_has_none() {
        for layout in all_layouts() {
            let mut builder = Builder::new(layout);
            let state = builder.put(&vec![0; layout.thread.size as usize]);
            let state = ThreadState {
                address: state,
                interpreter: Address::NULL,
                thread_id: 1,
                native_thread_id: None,
            };
            assert_eq!(read(&builder, &state), None);
        }
    }

    #[test]
    fn a_traceback_that_leads_back_to_itself_ends() {
        for layout in all_layouts().into_iter().step_by(3) {
            let mut builder = Builder::new(layout);
            let Some((state, error)) = thread(&mut builder, 111) else {
                continue;
            };
            let exceptions = layout.exceptions.unwrap();
            let entry = builder.read_address(Address(error.0 + exceptions.traceback.offset()));
            let entry = entry.unwrap();
            builder.set(entry, exceptions.next, entry.0);
            builder.set(error, exceptions.context, error.0);
            assert!(read(&builder, &state).is_some());
        }
    }

    proptest! {
        #[test]
        fn damaged_memory_is_taken(damage in proptest::collection::vec((any::<u32>(), any::<u8>()), 1..40)) {
            for layout in all_layouts().into_iter().step_by(4) {
                let mut builder = Builder::new(layout);
                let start = builder.none();
                let Some((state, error)) = thread(&mut builder, 111) else {
                    continue;
                };
                for (place, value) in &damage {
                    builder.overwrite(Address(start.0 + u64::from(*place) % (error.0 - start.0)), &[*value]);
                }
                let _ = read(&builder, &state);
            }
        }
    }
}
