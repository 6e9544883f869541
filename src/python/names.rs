//! The names that `threading` has for threads.

use rustc_hash::FxHashMap;

use super::object::{ObjectError, ObjectReader};
use crate::model::Address;
use crate::sys::memory::LimitedMemory;

/// Most bytes of all names together.
const MAX_NAMES: usize = 4 << 20;
/// Most bytes that are read to find them: some KiB for each of as many threads as are listed. What is behind has no name.
const MAX_READ: u64 = 128 << 20;

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
    let memory = LimitedMemory::new(reader.memory, MAX_READ);
    let reader = ObjectReader {
        memory: &memory,
        ..reader
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

    /// Threads with very many attributes cost a bounded amount of reading, and those at the front have their names.
    #[test]
    fn what_is_read_for_all_names_is_bounded() {
        let layout = all_layouts()[7];
        let mut builder = Builder::new(layout);
        let name = builder.text("worker");
        let mut attributes = vec![("_xxxx", name); 30_000];
        attributes.push(("_name", name));
        let thread = builder.module(&attributes);
        let entries: Vec<_> = (0..2000)
            .map(|number| (builder.int(0x7fff_0000_0000 + number), thread))
            .collect();
        let active = builder.dict(&entries);
        let threading = builder.module(&[("_active", active)]);
        let key = builder.text("threading");
        let modules = builder.dict(&[(key, threading)]);
        let reader = ObjectReader {
            memory: &builder,
            layout,
        };
        let names = thread_names(reader, modules).unwrap();
        assert!((10..1000).contains(&names.len()), "{}", names.len());
    }

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
