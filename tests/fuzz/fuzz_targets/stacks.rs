//! Whole runtimes of every layout: interpreters, threads, stacks, names, the GIL.
#![no_main]

use arbitrary::Unstructured;
use libfuzzer_sys::{Corpus, fuzz_target};
use stuckspy_fuzz::{layouts, process::Process, walk::walk};

fuzz_target!(|bytes: &[u8]| -> Corpus { run(bytes).map_or(Corpus::Reject, |()| Corpus::Keep) });

fn run(bytes: &[u8]) -> arbitrary::Result<()> {
    let mut u = Unstructured::new(bytes);
    let layout = *u.choose(&layouts())?;
    walk(&Process::weave(layout, &[], &[], false, &mut u)?);
    Ok(())
}
