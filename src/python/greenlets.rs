//! The hubs of gevent: in which threads they are, and how many greenlets wait for each.
//!
//! Nothing that can be reached by names leads to a hub, so that it is looked for among all objects that the collector of garbage knows.

use rustc_hash::FxHashMap;

use super::collector::visit_objects;
use super::object::{ObjectError, ObjectReader, offset};
use super::runtime::Interpreter;
use crate::model::Address;

/// Most objects that are looked at.
const MAX_OBJECTS: usize = 2_000_000;
/// Most greenlets that are counted.
const MAX_GREENLETS: usize = 100_000;
/// Most hubs: one for each thread that uses gevent.
const MAX_HUBS: usize = 1024;
/// Most classes that one inherits from, one behind the other, that are looked at.
const MAX_BASES: usize = 64;
/// How far apart the greenlets of one thread can be on its stack, in bytes.
const MAX_STACK: u64 = 8 << 20;

/// Where a greenlet has its stack that has not been left since it began (`StackState.cpp`).
const FRESH: u64 = 1;

/// A hub, whose loop runs all other greenlets of its thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hub {
    /// The `pthread_t` of its thread.
    pub thread_id: u64,
    /// How many greenlets of the thread have begun and are not done, it and the one that runs among them; `None` where that can't be
    /// told.
    pub begun: Option<u64>,
}

/// What a class is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Other,
    Greenlet,
    Hub,
}

/// All hubs of the interpreter that run in a thread; none without `gevent`.
pub fn find_hubs(reader: ObjectReader<'_>, interpreter: &Interpreter) -> Vec<Hub> {
    if !matches!(
        reader.dict_value(interpreter.modules, "gevent.hub"),
        Ok(Some(_))
    ) {
        return Vec::new();
    }
    let mut classes: FxHashMap<Address, Class> = FxHashMap::default();
    let (mut greenlets, mut hubs) = (Vec::new(), Vec::new());
    let is_all = visit_objects(reader, interpreter, MAX_OBJECTS, &mut |object, of| {
        let class = *classes.entry(of).or_insert_with(|| class_of(reader, of));
        if class == Class::Hub && hubs.len() < MAX_HUBS {
            hubs.push(object);
        }
        if class != Class::Other && greenlets.len() <= MAX_GREENLETS {
            greenlets.push(object);
        }
    });
    let is_all = is_all && greenlets.len() <= MAX_GREENLETS;
    let begun: Option<Vec<u64>> = greenlets
        .iter()
        .filter_map(|greenlet| begun_at(reader, *greenlet).transpose())
        .collect::<Result<_, _>>()
        .ok()
        .filter(|_| is_all);
    let is_only = hubs.len() == 1;
    let hub = |object: Address| {
        let ident = reader.attribute(object, "thread_ident").ok()??;
        let own = begun_at(reader, object).ok().flatten();
        let begun = own
            .zip(begun.as_ref())
            .and_then(|(own, begun)| count_near(begun, own, is_only));
        Some(Hub {
            thread_id: reader.unsigned(ident).ok()?,
            begun,
        })
    };
    hubs.into_iter().filter_map(hub).collect()
}

/// How many greenlets are on the same thread's stack as the hub at `own`. Of one that runs for the first time the place is not known; if
/// there are other hubs it may be another one's.
fn count_near(begun: &[u64], own: u64, is_only: bool) -> Option<u64> {
    let fresh = begun.iter().filter(|at| **at == FRESH).count();
    if own == FRESH || fresh > usize::from(is_only) {
        return None;
    }
    let near = begun
        .iter()
        .filter(|at| **at != FRESH && at.abs_diff(own) <= MAX_STACK);
    Some((near.count() + fresh) as u64)
}

fn class_of(reader: ObjectReader<'_>, class: Address) -> Class {
    let mut at = class;
    let mut is_hub = false;
    for _ in 0..MAX_BASES {
        if at.is_null() {
            break;
        }
        let Ok(name) = reader.type_name(at) else {
            break;
        };
        if name == "greenlet.greenlet" {
            return if is_hub { Class::Hub } else { Class::Greenlet };
        }
        is_hub |= name == "Hub"
            && reader
                .type_name_with_module(at)
                .is_ok_and(|name| name == "gevent.hub.Hub");
        let Ok(base) = reader.pointer(at, reader.layout.values.type_base) else {
            break;
        };
        at = base;
    }
    Class::Other
}

/// Where a greenlet that has begun and is not done has its part of the thread's stack.
///
/// `PyGreenlet` has a list of weak references, a dict, and a pointer to the C++ object that it is for (greenlet 2.0-3.5,
/// `greenlet_object.hpp`); that begins with its methods, its `PyGreenlet`, the state of exceptions, whose size is that of
/// `_PyErr_StackItem`, and the arguments of a switch, and then has where its stack starts and stops (`TGreenlet.hpp`).
fn begun_at(reader: ObjectReader<'_>, greenlet: Address) -> Result<Option<u64>, ObjectError> {
    let word = |at: Address, distance: u64| -> Result<Address, ObjectError> {
        Ok(reader.memory.read_address(offset(at, distance)?)?)
    };
    let garbage = ObjectError::Garbage {
        address: greenlet,
        what: "greenlet of an unknown version",
    };
    let inner = word(greenlet, u64::from(reader.layout.object.size) + 16)?;
    if word(inner, 8)? != greenlet {
        return Err(garbage);
    }
    // `_PyErr_StackItem` (`Include/cpython/pystate.h`): the type and the traceback beside the exception up to 3.10.
    let exceptions = if reader.layout.version >= (3, 11) {
        24
    } else {
        40
    };
    let stack = 16 + exceptions + 16;
    let (start, stop) = (word(inner, stack)?, word(inner, stack + 8)?);
    match start.0 {
        0 => Ok(None),
        start if start < stop.0 => Ok(Some(start)),
        _ => Err(garbage),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::testing::{Builder, all_layouts};

    fn reader(builder: &Builder) -> ObjectReader<'_> {
        ObjectReader {
            memory: builder,
            layout: builder.layout,
        }
    }

    /// An interpreter whose collector knows greenlets with these beginnings of their stacks, the hub's first.
    fn scene(builder: &mut Builder, starts: &[u64]) -> Interpreter {
        let layout = builder.layout;
        let collector = layout.collector.as_ref().unwrap();
        let key = builder.text("gevent.hub");
        let none = builder.none();
        let modules = builder.dict(&[(key, none)]);
        let (interpreter, _) = builder.interpreter(modules);
        let heads: Vec<u64> = (0..3)
            .map(|index| {
                collector.generations.offset() + index * u64::from(collector.generation_size)
            })
            .chain([collector.permanent.offset()])
            .map(|at| interpreter.0 + at)
            .collect();
        for head in &heads {
            builder.overwrite(Address(*head), &head.to_le_bytes());
        }
        let exceptions = if layout.version >= (3, 11) { 24 } else { 40 };
        let mut last = heads[1];
        for (index, start) in starts.iter().enumerate() {
            let before = builder.put(&[0; 16]);
            let name = if index == 0 {
                "Hub"
            } else {
                "greenlet.greenlet"
            };
            let greenlet = builder.object(name, 128);
            assert_eq!(greenlet.0, before.0 + 16);
            let inner = builder.put(&[0; 128]);
            let members = u64::from(layout.object.size);
            builder.overwrite(Address(greenlet.0 + members + 16), &inner.0.to_le_bytes());
            builder.overwrite(Address(inner.0 + 8), &greenlet.0.to_le_bytes());
            builder.overwrite(Address(inner.0 + 32 + exceptions), &start.to_le_bytes());
            builder.overwrite(Address(inner.0 + 40 + exceptions), &[255; 8]);
            builder.overwrite(Address(last), &before.0.to_le_bytes());
            builder.overwrite(before, &heads[1].to_le_bytes());
            last = before.0;
        }
        Interpreter::at(interpreter, modules)
    }

    #[test]
    fn greenlets_are_counted_by_the_stack_that_they_are_on() {
        assert_eq!(
            count_near(&[5000, 6000, 1, 0xffff_ffff], 5000, true),
            Some(3)
        );
        assert_eq!(count_near(&[5000, 6000, 1], 5000, false), None);
        assert_eq!(count_near(&[1, 6000], 1, true), None);
        assert_eq!(count_near(&[5000, 6000], 5000, false), Some(2));
    }

    #[test]
    fn all_greenlets_are_found_and_broken_lists_end() {
        for layout in all_layouts()
            .into_iter()
            .filter(|one| one.collector.is_some())
        {
            let mut builder = Builder::new(layout);
            let interpreter = scene(&mut builder, &[7000, 0, 8000]);
            let mut seen = Vec::new();
            let is_all = visit_objects(reader(&builder), &interpreter, 10, &mut |object, _| {
                seen.push(object);
            });
            assert!(is_all, "{:?}", layout.version);
            let begun: Vec<_> = seen
                .iter()
                .map(|one| begun_at(reader(&builder), *one))
                .collect();
            assert_eq!(
                begun,
                [Ok(Some(7000)), Ok(None), Ok(Some(8000))],
                "{:?}",
                layout.version
            );
            // The last leads back to itself.
            let last = seen[2].0 - 16;
            builder.overwrite(Address(last), &last.to_le_bytes());
            let mut count = 0;
            let is_all =
                visit_objects(reader(&builder), &interpreter, 1000, &mut |_, _| count += 1);
            assert_eq!((is_all, count), (false, 1000));
            assert!(find_hubs(reader(&builder), &interpreter).is_empty());
        }
    }
}
