//! Graphs of objects of every layout, with rings, wrong sizes and spoilt members: a walk keeps its limits, and an account is closed only where the
//! numbers say so.
#![no_main]

use std::cell::Cell;

use arbitrary::Unstructured;
use libfuzzer_sys::{Corpus, fuzz_target};
use stuckspy::model::Address;
use stuckspy::python::object::ObjectReader;
use stuckspy::python::reachability::{FrameReferences, Graph, Limits, StackReferences};
use stuckspy::sys::memory::PageView;
use stuckspy_fuzz::layouts;
use stuckspy_fuzz::memory::{IMAGE, STRETCH};
use stuckspy_fuzz::weave::{Weaver, rarely};

/// Most objects that are put into one process.
const MAX_OBJECTS: usize = 24;
/// Types by name, with their flags; the last are of classes in Python.
const TYPES: [(&str, u64); 16] = [
    ("list", 1 << 25),
    ("tuple", 1 << 26),
    ("dict", 1 << 29),
    ("set", 0),
    ("collections.deque", 0),
    ("cell", 0),
    ("method", 0),
    ("builtin_function_or_method", 0),
    ("function", 0),
    ("functools.partial", 0),
    ("generator", 0),
    ("frame", 0),
    ("module", 0),
    ("made.up", 0),
    ("Thread", 1 << 9 | 1 << 4),
    ("Box", 1 << 9),
];
/// Bytes of a type, and of an object with what follows it.
const TYPE_SIZE: u64 = 1200;
const OBJECT_SIZE: u64 = 256;

fuzz_target!(|bytes: &[u8]| -> Corpus { run(bytes).map_or(Corpus::Reject, |()| Corpus::Keep) });

fn run(bytes: &[u8]) -> arbitrary::Result<()> {
    let mut u = Unstructured::new(bytes);
    let layout = *u.choose(&layouts())?;
    let mut weaver = Weaver::new(layout);
    let types = &layout.type_object;
    let meta = weaver.place(TYPE_SIZE);
    let named = |weaver: &mut Weaver<'_>, at: Address, name: &str, flags: u64| {
        let name = weaver.place_bytes(format!("{name}\0").as_bytes());
        weaver.set(at, types.name, name);
        weaver.set(at, types.flags, flags);
        weaver.set(at, layout.object.ob_type, meta);
    };
    named(&mut weaver, meta, "type", 1 << 31);
    let mut known = Vec::new();
    for (name, flags) in TYPES {
        let at = weaver.place(TYPE_SIZE);
        named(&mut weaver, at, name, flags);
        let (size, items): (i64, i64) = (u.int_in_range(0..=300)?, u.int_in_range(0..=9)?);
        weaver.set(at, types.basicsize, size);
        weaver.set(at, layout.values.type_itemsize, items);
        if rarely(&mut u, 4)? {
            weaver.set(at, layout.references.weak_list, u.int_in_range(-40..=300_i64)?);
            weaver.set(at, types.dictoffset, u.int_in_range(-40..=300_i64)?);
        }
        known.push(at);
    }
    let mut objects = Vec::new();
    for _ in 0..u.int_in_range(2..=MAX_OBJECTS)? {
        objects.push(weaver.place(OBJECT_SIZE));
    }
    // All words of an object are numbers that may be sizes, or pointers to any object or into one.
    for object in &objects {
        for word in 0..OBJECT_SIZE / 8 {
            let value = match u.int_in_range(0..=5)? {
                0 => u64::from(u.arbitrary::<u8>()?),
                1 => u.arbitrary()?,
                2 => u.choose(&objects)?.0 + 8 * u.int_in_range(0..=OBJECT_SIZE / 8)?,
                _ => u.choose(&objects)?.0,
            };
            weaver.write(Address(object.0 + 8 * word), &value.to_le_bytes());
        }
        let of = *u.choose(&known)?;
        weaver.set(*object, layout.object.ob_type, of);
        if let Some(count) = layout.references.count {
            weaver.set(*object, count, u.int_in_range(0..=6_u64)?);
        }
    }
    weaver.spoil(&mut u, 8)?;
    let mut stacks = Vec::new();
    for _ in 0..u.int_in_range(1..=3)? {
        let mut frame = FrameReferences::default();
        for _ in 0..u.int_in_range(0..=4)? {
            frame.owned.push(*u.choose(&objects)?);
            frame.loose.push(*u.choose(&objects)?);
        }
        frame.loose.extend([Address(STRETCH), Address(IMAGE), Address(u64::MAX - 7)]);
        stacks.push(StackReferences {
            frames: vec![frame],
            is_cut: false,
        });
    }
    let (most, rounds) = (u.int_in_range(1..=4000_usize)?, u.int_in_range(1..=200_u32)?);
    let memory = weaver.finish(&mut u)?;
    let view = PageView::new(&memory);
    let reader = ObjectReader {
        memory: &view,
        layout,
    };
    let asked = Cell::new(0);
    let is_over = || {
        asked.set(asked.get() + 1);
        asked.get() > rounds
    };
    let limits = Limits {
        objects: most,
        is_over: &is_over,
    };
    let all: Vec<Option<&StackReferences>> = stacks.iter().map(Some).collect();
    let mut graph = Graph::walk(reader, &all, limits);
    assert!(graph.len() <= most);
    for object in &objects {
        let reaching = graph.threads_reaching(*object);
        assert!(reaching.iter().all(|thread| *thread < stacks.len()));
        let account = graph.account(*object, 0, reader);
        if account.is_closed {
            assert_eq!(account.counted, Some(account.found));
            assert!(account.threads.iter().all(|thread| reaching.contains(thread)));
        }
        graph.is_in_globals(*object, limits);
    }
    Ok(())
}
