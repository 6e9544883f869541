//! ELF images in a target's memory: headers, writable data, dynamic symbols.
//!
//! The first byte says whether the rest is the image, or spoils one that is in order.
#![no_main]

use arbitrary::Unstructured;
use libfuzzer_sys::{Corpus, fuzz_target};
use stuckspy::model::Address;
use stuckspy::sys::memory::{PageView, RecordedMemory, RemoteMemory};
use stuckspy::target::image::ElfImage;
use stuckspy::target::maps::Mapping;
use stuckspy_fuzz::elf;

const NAMES: [&str; 3] = ["_PyRuntime", "Py_Version", "_PyThreadState_Current"];

fuzz_target!(|bytes: &[u8]| -> Corpus { run(bytes).map_or(Corpus::Reject, |()| Corpus::Keep) });

fn run(bytes: &[u8]) -> arbitrary::Result<()> {
    let mut u = Unstructured::new(bytes);
    if u.arbitrary::<u8>()? & 1 == 0 {
        let image = u.take_rest().to_vec();
        look(image, &[]);
        return Ok(());
    }
    let data = (Address(u.arbitrary::<u32>()?.into()), u.arbitrary()?);
    let symbols: Vec<_> = NAMES[..u.int_in_range(0..=NAMES.len())?]
        .iter()
        .map(|name| Ok((*name, Address(u.arbitrary::<u32>()?.into()))))
        .collect::<arbitrary::Result<_>>()?;
    let mut image = elf::image(data, &symbols);
    let count = u.int_in_range(0..=6)?;
    for _ in 0..count {
        let at = u.choose_index(image.len())?;
        let value = u.arbitrary::<u64>()?.to_le_bytes();
        let width = 1 << u.int_in_range(0..=3)?;
        let end = image.len().min(at + width);
        image[at..end].copy_from_slice(&value[..end - at]);
    }
    look(image, if count == 0 { &symbols } else { &[] });
    Ok(())
}

fn look(mut image: Vec<u8>, symbols: &[(&str, Address)]) {
    let mapping = Mapping {
        start: elf::ELF,
        end: Address(elf::ELF.0 + image.len().max(1) as u64),
        readable: true,
        writable: false,
        executable: true,
        shared: false,
        device: (8, 1),
        offset: 0,
        inode: 7,
        name: b"/lib/libpython3.so".to_vec(),
    };
    image.resize(image.len().next_multiple_of(4096), 0);
    let memory = RecordedMemory::new().with(elf::ELF, image);
    let found = symbols_in(&memory, &mapping);
    assert_eq!(found, symbols_in(&PageView::new(&memory), &mapping));
    for (name, address) in symbols {
        let index = NAMES.iter().position(|known| known == name).unwrap();
        assert_eq!(
            found.as_ref().map(|found| found[index]),
            Some(Some(*address))
        );
    }
}

fn symbols_in(memory: &dyn RemoteMemory, mapping: &Mapping) -> Option<[Option<Address>; 3]> {
    let image = ElfImage::read(memory, mapping).ok()?;
    assert_eq!(image.mapping(), mapping);
    assert!(image.writable_data().count() <= 256);
    Some(NAMES.map(|name| image.find_dynamic_symbol(memory, name)))
}
