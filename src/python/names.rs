//! The names that `threading` has for threads.

use rustc_hash::FxHashMap;

use super::object::{ObjectError, ObjectReader};
use crate::model::Address;

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
            names.insert(ident, name);
        }
    }
    Ok(names)
}
