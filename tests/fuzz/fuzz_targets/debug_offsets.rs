//! `_Py_DebugOffsets` that state what the fuzzer says, and processes that are laid out like that.
#![no_main]

use arbitrary::Unstructured;
use libfuzzer_sys::{Corpus, fuzz_target};
use stuckspy::python::layout::debug_offsets;
use stuckspy::python::runtime::Root;
use stuckspy_fuzz::statement::{read_bytes, statements};
use stuckspy_fuzz::{process::Process, walk::walk, weave::rarely};

fuzz_target!(|bytes: &[u8]| -> Corpus { run(bytes).map_or(Corpus::Reject, |()| Corpus::Keep) });

fn run(bytes: &[u8]) -> arbitrary::Result<()> {
    let mut u = Unstructured::new(bytes);
    let statement = u.choose(statements())?;
    let mut head = statement.bytes.clone();
    for _ in 0..u.int_in_range(0..=6)? {
        let at = *u.choose(&statement.positions)?;
        let old = u64::from_le_bytes(head[at..at + 8].try_into().unwrap());
        let number = match u.int_in_range(0..=4)? {
            0 => u.arbitrary()?,
            1 => u64::from(u.arbitrary::<u16>()?),
            2 => u64::from(u.arbitrary::<u8>()?) * 8,
            3 => u64::from(u.arbitrary::<u32>()?) % (1 << 25),
            _ => old.wrapping_add_signed(i64::from(u.arbitrary::<i8>()?) * 4),
        };
        head[at..at + 8].copy_from_slice(&number.to_le_bytes());
    }
    if rarely(&mut u, 16)? {
        // Nothing but the cookie and the version is as it should be.
        let rest = &mut head[16..];
        let noise = u.bytes(rest.len().min(u.len()))?;
        rest[..noise.len()].copy_from_slice(noise);
    }
    let Ok(stated) = read_bytes(&head) else {
        return Ok(());
    };
    let mut process = Process::weave(&stated.layout, &head, &[], false, &mut u)?;
    if stated.layout != *statement.layout {
        // Members may lie over each other now.
        process.expected = None;
    }
    if let Root::Runtime(address) = process.runtime.root {
        let again = debug_offsets::read(&process.memory, address).unwrap();
        assert_eq!(again.layout, stated.layout);
    }
    walk(&process);
    Ok(())
}
