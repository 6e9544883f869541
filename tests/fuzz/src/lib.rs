//! What the fuzz targets share: a process that is made of the fuzzer's bytes, and the walk through all of it.
//!
//! Bytes alone would never decode to more than the first error. So a process is *woven*: objects, threads and frames are
//! laid out as some version of CPython lays them out, with contents that the fuzzer chooses, and then spoilt in places
//! that the fuzzer chooses too. What was not spoilt must be read back exactly; what was must do no harm.

pub mod memory;
pub mod process;
pub mod statement;
pub mod walk;
pub mod weave;

use stuckspy::python::layout::{Layout, find_table, known_versions};

/// The layouts of all versions and builds, in the order of the tables.
pub fn layouts() -> Vec<&'static Layout> {
    known_versions()
        .flat_map(|version| [find_table(version, false), find_table(version, true)])
        .flatten()
        .collect()
}
