//! Objects of every layout as values, and memory of any kind as a frame with variables: what comes out is bounded and harmless.
#![no_main]

use arbitrary::Unstructured;
use libfuzzer_sys::{Corpus, fuzz_target};
use stuckspy::model::{Address, Value};
use stuckspy::python::layout::Layout;
use stuckspy::python::locals::{MAX_LOCALS, read_locals_at};
use stuckspy::python::object::ObjectReader;
use stuckspy::python::value::{Budget, ValueReader};
use stuckspy::redact::redact_value;
use stuckspy::report::sanitize::Shown;
use stuckspy::sys::memory::PageView;
use stuckspy_fuzz::layouts;
use stuckspy_fuzz::memory::{FuzzMemory, IMAGE, STRETCH};
use stuckspy_fuzz::weave::{Weaver, any_text, rarely};

/// What may be read.
const BUDGET: Budget = Budget {
    nodes: 2000,
    bytes: 64 << 10,
};
/// Most objects that are put into one process.
const MAX_OBJECTS: usize = 24;

fuzz_target!(|bytes: &[u8]| -> Corpus { run(bytes).map_or(Corpus::Reject, |()| Corpus::Keep) });

fn run(bytes: &[u8]) -> arbitrary::Result<()> {
    let mut u = Unstructured::new(bytes);
    let layout = *u.choose(&layouts())?;
    let mut weaver = Weaver::new(layout);
    let mut objects = vec![weaver.int(1, false, 0)];
    for _ in 0..u.int_in_range(2..=MAX_OBJECTS)? {
        let object = weave(&mut weaver, &mut u, &objects)?;
        objects.push(object);
    }
    let places = weaver.places().to_vec();
    let is_spoilt = weaver.spoil(&mut u, 8)?;
    let memory = weaver.finish(&mut u)?;
    let view = PageView::new(&memory);
    let reader = ObjectReader {
        memory: &view,
        layout,
    };
    for object in &objects {
        let value = look(reader, *object);
        assert!(
            is_spoilt || !matches!(value, Value::Unreadable { .. }),
            "{value:?}"
        );
    }
    let any = [
        Address(STRETCH),
        Address(IMAGE),
        Address(8),
        Address(u64::MAX - 7),
    ];
    for place in places.iter().rev().take(16).chain(&any) {
        look(reader, *place);
        for code in objects.iter().rev().take(4).chain(&any) {
            look_at_frame(layout, &memory, *place, *code);
        }
    }
    Ok(())
}

/// An object, of containers with those that are there.
fn weave(
    weaver: &mut Weaver<'_>,
    u: &mut Unstructured<'_>,
    objects: &[Address],
) -> arbitrary::Result<Address> {
    let form: u8 = u.arbitrary()?;
    let mut items = Vec::new();
    for _ in 0..u.int_in_range(0..=4)? {
        items.push(*u.choose(objects)?);
    }
    let values = weaver.layout.values.clone();
    let content: Vec<u8> = items.iter().flat_map(|item| item.0.to_le_bytes()).collect();
    Ok(match u.int_in_range(0..=7)? {
        0 => {
            let text = any_text(u)?;
            weaver.text(&text, form)
        }
        1 => {
            let bytes: Vec<u8> = u.arbitrary()?;
            weaver.bytes(&bytes)
        }
        2 => {
            let magnitude = u.arbitrary()?;
            weaver.int(magnitude, u.arbitrary()?, form)
        }
        3 => {
            let list = new_object(weaver, "list", 1 << 25, 64);
            let table = weaver.place_bytes(&content);
            weaver.set(list, values.list_items, table);
            let size = weaver.layout.object.ob_size;
            weaver.set(list, size, items.len() as i64);
            list
        }
        4 => {
            let first = values.tuple_items.offset();
            let tuple = new_object(weaver, "tuple", 1 << 26, first + content.len() as u64);
            weaver.write(Address(tuple.0 + first), &content);
            let size = weaver.layout.object.ob_size;
            weaver.set(tuple, size, items.len() as i64);
            tuple
        }
        5 => {
            let float = new_object(weaver, "float", 0, 64);
            weaver.set(float, values.float, u.arbitrary::<u64>()?);
            float
        }
        kind => {
            let mut entries = Vec::new();
            for (index, item) in items.iter().enumerate() {
                let name = if rarely(u, 3)? { "password" } else { "name" };
                let key = weaver.text(&format!("{name}{index}"), 0);
                entries.push((key, *item));
            }
            if kind == 6 {
                weaver.dict(&entries, form)
            } else {
                weaver.instance(&entries, form)
            }
        }
    })
}

fn new_object(weaver: &mut Weaver<'_>, name: &str, flags: u64, size: u64) -> Address {
    let ob_type = weaver.new_type(name, flags, 16, 0, Address::NULL);
    let object = weaver.place(size);
    let field = weaver.layout.object.ob_type;
    weaver.set(object, field, ob_type);
    object
}

fn look(reader: ObjectReader<'_>, at: Address) -> Value {
    let mut values = ValueReader::new(reader, BUDGET);
    let value = values.value(at);
    let left = values.budget();
    assert!(left.nodes < BUDGET.nodes || left.nodes == BUDGET.nodes && left.bytes <= BUDGET.bytes);
    assert!(count(&value) <= 40 * BUDGET.nodes);
    let shown = redact_value(value.clone()).to_string();
    assert!(!Shown(&shown).to_string().chars().any(char::is_control));
    value
}

/// How many values there are in one.
fn count(value: &Value) -> usize {
    1 + match value {
        Value::List { items, .. }
        | Value::Tuple { items, .. }
        | Value::Set { items, .. }
        | Value::FrozenSet { items, .. } => items.iter().map(count).sum(),
        Value::Dict { entries, .. } => {
            let entries = entries.iter();
            entries
                .map(|entry| count(&entry.key) + count(&entry.value))
                .sum()
        }
        Value::Object {
            content,
            attributes,
            ..
        } => {
            let attributes = attributes.iter().map(|attribute| count(&attribute.value));
            attributes.sum::<usize>() + content.as_deref().map_or(0, count)
        }
        _ => 0,
    }
}

fn look_at_frame(layout: &Layout, memory: &FuzzMemory, frame: Address, code: Address) {
    let reader = ObjectReader { memory, layout };
    let Ok(locals) = read_locals_at(reader, frame, code) else {
        return;
    };
    assert!(locals.len() <= MAX_LOCALS);
    assert!(locals.iter().all(|local| local.name.chars().count() <= 256));
}
