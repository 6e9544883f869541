//! The names that `threading` has for threads.

use rustc_hash::FxHashMap;

use super::object::{ObjectError, ObjectReader};
use crate::model::Address;

/// Most bytes of all names together.
const MAX_NAMES: usize = 16 << 20;

/// Names by pthread_t, as `threading._active` of the interpreter with this `sys.modules` holds them; empty when
/// `threading` was never imported.
pub fn thread_names(
    reader: ObjectReader<'_>,
    modules: Address,
) -> Result<FxHashMap<u64, String>, ObjectError> {
    let Some(threading) = reader.dict_value(modules, "threading")? else {
        return Ok(FxHashMap::default());
    };
    let Some(active) = reader.attribute(threading, "_active")? else {
        return Ok(FxHashMap::default());
    };
    // 2.7 mangles the attribute's name: it starts with two underscores in class Thread.
    let attribute = if reader.layout.version.0 == 2 {
        "_Thread__name"
    } else {
        "_name"
    };
    let mut names = FxHashMap::default();
    let mut bytes = 0;
    for entry in reader.dict_entries(active)? {
        if entry.key.is_null() || entry.value.is_null() {
            continue;
        }
        // An entry that changes while it is read costs its own name only.
        let name = || {
            reader
                .text(reader.attribute(entry.value, attribute).ok()??)
                .ok()
        };
        if let (Ok(ident), Some(name)) = (reader.unsigned(entry.key), name()) {
            bytes += name.len();
            if bytes > MAX_NAMES {
                break;
            }
            names.insert(ident, name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::testing::{Builder, all_layouts};

    #[test]
    fn names_by_pthread() {
        for layout in all_layouts() {
            let mut builder = Builder::new(layout);
            let attribute = if layout.version.0 == 2 {
                "_Thread__name"
            } else {
                "_name"
            };
            let name = builder.text("wörker");
            // A module stands in for the thread object: both keep their attributes in a dict at tp_dictoffset.
            let thread = builder.module(&[("other", name), (attribute, name)]);
            let ident = builder.int(0x7fff_1234_5678);
            let active = builder.dict(&[(ident, thread)]);
            let threading = builder.module(&[("_active", active)]);
            let key = builder.text("threading");
            let modules = builder.dict(&[(key, threading)]);
            let empty = builder.dict(&[]);
            let reader = ObjectReader {
                memory: &builder,
                layout,
            };
            let names = thread_names(reader, modules).unwrap();
            assert_eq!(names.len(), 1, "{:?}", layout.version);
            assert_eq!(names[&0x7fff_1234_5678], "wörker");
            assert!(thread_names(reader, empty).unwrap().is_empty());
            assert!(thread_names(reader, Address(1)).is_err());
        }
    }
}
