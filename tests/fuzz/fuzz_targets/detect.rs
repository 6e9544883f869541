//! Finding the Python of a process by each method that needs nothing but its memory.
#![no_main]

use arbitrary::Unstructured;
use libfuzzer_sys::{Corpus, fuzz_target};
use stuckspy::model::{Address, Pid};
use stuckspy::python::detect::{Surroundings, detect};
use stuckspy::python::layout::Layout;
use stuckspy::python::runtime::Root;
use stuckspy::sys::procfile::ProcDir;
use stuckspy::target::maps::Mapping;
use stuckspy_fuzz::memory::{IMAGE, STRETCH, STRETCH_SIZE};
use stuckspy_fuzz::statement::statements;
use stuckspy_fuzz::{elf, layouts, process::Process, walk::walk, weave::rarely};

fuzz_target!(|bytes: &[u8]| -> Corpus { run(bytes).map_or(Corpus::Reject, |()| Corpus::Keep) });

fn run(bytes: &[u8]) -> arbitrary::Result<()> {
    let mut u = Unstructured::new(bytes);
    let layout = *u.choose(&layouts())?;
    let statement = statements()
        .iter()
        .find(|statement| statement.layout == layout);
    let is_stated = statement.is_some() && !rarely(&mut u, 8)?;
    let head = statement
        .filter(|_| is_stated)
        .map_or(&[][..], |statement| &statement.bytes);
    let (major, minor) = layout.version;
    let text = format!("{major}.{minor}.7 (main, Jan  1 2026)");
    let hex = (u64::from(major) << 24 | u64::from(minor) << 16 | 0x07f0).to_le_bytes();
    let has_symbol = u.arbitrary()?;
    let (has_text, has_hex) = (u.arbitrary()?, u.arbitrary()?);

    let text = if has_text { text.as_bytes() } else { b"" };
    let mut process = Process::weave(layout, head, &[text, &hex], false, &mut u)?;
    let mut symbols = Vec::new();
    if major == 2 {
        // Says that code units have four bytes, as in the table.
        symbols.push(("PyUnicodeUCS4_AsUTF8String", process.data[1]));
    }
    if has_hex {
        symbols.push(("Py_Version", process.data[1]));
    }
    match (process.runtime.root, process.runtime.current_thread) {
        (Root::Runtime(address), _) if has_symbol => symbols.push(("_PyRuntime", address)),
        (_, Some(current)) if has_symbol => symbols.push(("_PyThreadState_Current", current)),
        _ => {}
    }
    let data = (Address(IMAGE), process.memory.image_size());
    let mut image = elf::image(data, &symbols);
    let spoilt = if rarely(&mut u, 4)? {
        u.int_in_range(1..=4)?
    } else {
        0
    };
    for _ in 0..spoilt {
        let at = u.choose_index(image.len() / 8)? * 8;
        image[at..at + 8].copy_from_slice(&u.arbitrary::<u64>()?.to_le_bytes());
    }
    let mappings = mappings(&mut u, layout, image.len() as u64, &process)?;
    image.resize(image.len().next_multiple_of(4096), 0);
    process.memory = process.memory.with(elf::ELF, image);

    let own = ProcDir::open(Pid::own()).unwrap();
    let found = detect(Surroundings {
        proc: &own,
        memory: &process.memory,
        mappings: &mappings,
        tids: &process.tids,
    });
    let has_threads = process.expected.as_ref().is_some_and(|interpreters| {
        interpreters
            .iter()
            .all(|interpreter| !interpreter.threads.is_empty())
    });
    let is_version_told = is_stated || has_text || (has_hex && has_symbol);
    // A build without the GIL is told by its statement only.
    if spoilt == 0 && has_threads && is_version_told && (is_stated || !layout.free_threaded) {
        let runtime = found.as_ref().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(runtime.layout.version, layout.version);
        if has_symbol && layout.runtime.is_some() {
            assert_eq!(runtime.info.found_by, "dynamic-symbol");
        }
        assert_eq!(runtime.layout, *layout);
        // Without its symbol, the variable that names the GIL's holder is not found.
        let current_thread = process.runtime.current_thread.or(runtime.current_thread);
        process.runtime = runtime.clone();
        process.runtime.current_thread = current_thread;
        walk(&process);
    } else if let Ok(runtime) = found {
        process.expected = None;
        process.runtime = runtime;
        walk(&process);
    }
    Ok(())
}

fn mappings(
    u: &mut Unstructured<'_>,
    layout: &Layout,
    elf_size: u64,
    process: &Process,
) -> arbitrary::Result<Vec<Mapping>> {
    let (major, minor) = layout.version;
    // No file of these names is there, so that only memory can be looked into.
    let names = [
        format!("/nonexistent/libpython{major}.{minor}.so.1.0"),
        format!("/nonexistent/python{major}.{minor}"),
        "/nonexistent/program (deleted)".to_owned(),
    ];
    let mapping = |start: u64, size: u64, writable, executable, inode, name: &str| Mapping {
        start: Address(start),
        end: Address(start + size),
        readable: true,
        writable,
        executable,
        shared: false,
        device: (8, 1),
        offset: 0,
        inode,
        name: name.as_bytes().to_vec(),
    };
    let name = u.choose(&names)?;
    let mut mappings = vec![
        mapping(elf::ELF.0, elf_size, false, true, 7, name),
        mapping(IMAGE, process.memory.image_size(), true, false, 0, "[heap]"),
    ];
    if process.memory.has_stretch() {
        mappings.push(mapping(STRETCH, STRETCH_SIZE, true, false, 0, ""));
    }
    Ok(mappings)
}
