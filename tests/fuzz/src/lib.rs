//! What the fuzz targets share: a process that is made of the fuzzer's bytes, and the walk through all of it.
//!
//! Bytes alone would never decode to more than the first error. So a process is *woven*: objects, threads and frames are
//! laid out as some version of CPython lays them out, with contents that the fuzzer chooses, and then spoilt in places
//! that the fuzzer chooses too. What was not spoilt must be read back exactly; what was must do no harm.

pub mod elf;
pub mod memory;
pub mod process;
pub mod statement;
pub mod walk;
pub mod weave;

use dlmalloc::GlobalDlmalloc;
use stuckspy::python::layout::{Layout, find_table, known_versions};

/// Not libc's: when an input takes too long, the fuzzer's signal handler allocates memory to say so, which would wait
/// for ever for the lock of an allocation that the signal has interrupted.
#[global_allocator]
static ALLOCATOR: GlobalDlmalloc = GlobalDlmalloc;

/// The layouts of all versions and builds, in the order of the tables.
pub fn layouts() -> Vec<&'static Layout> {
    known_versions()
        .flat_map(|version| [find_table(version, false), find_table(version, true)])
        .flatten()
        .collect()
}

#[cfg(test)]
mod tests {
    use arbitrary::Unstructured;

    use super::*;

    /// Bytes that look random, the same each time.
    fn noise(seed: u64, length: usize) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        (0..length).map(|_| next()).collect()
    }

    #[test]
    fn what_is_woven_is_read_back_in_every_version() {
        for layout in layouts() {
            let mut whole = 0;
            for seed in 0..200 {
                let bytes = noise(seed, 4096);
                let process = process::Process::weave(
                    layout,
                    &[],
                    &[],
                    false,
                    &mut Unstructured::new(&bytes),
                )
                .unwrap();
                whole += usize::from(process.expected.is_some());
                walk::walk(&process);
            }
            assert!(whole > 10, "{:?}: {whole}", layout.version);
        }
    }

    #[test]
    fn every_version_that_states_its_layout_is_read_from_its_statement() {
        assert!(statement::statements().len() >= 6);
    }
}
