//! A small ELF image, as the loader has put it into memory.

use stuckspy::model::Address;

/// Where the image is loaded, below what else is in memory.
pub const ELF: Address = Address(0x4000);

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_GNU_HASH: u64 = 0x6fff_fef5;

/// An image with writable data at `data` (start and size) and these dynamic symbols.
pub fn image(data: (Address, u64), symbols: &[(&str, Address)]) -> Vec<u8> {
    const HEADER: u64 = 64;
    const PROGRAM_HEADER: u64 = 56;
    let count = symbols.len() as u64;
    let dynamic = HEADER + 3 * PROGRAM_HEADER;
    let hash = dynamic + 4 * 16;
    let table = hash + (16 + 8 + 4 + 4 * count).next_multiple_of(8);
    let strings = table + 24 * (count + 1);
    let svma = |address: Address| address.0.wrapping_sub(ELF.0);

    let mut text = vec![0];
    let mut entries = vec![0; 24];
    let mut chain = Vec::new();
    for (index, (name, address)) in (1..).zip(symbols) {
        entries.extend_from_slice(&(text.len() as u32).to_le_bytes());
        entries.extend_from_slice(&[0x11, 0, 1, 0]);
        entries.extend_from_slice(&svma(*address).to_le_bytes());
        entries.extend_from_slice(&8_u64.to_le_bytes());
        text.extend_from_slice(name.as_bytes());
        text.push(0);
        let hash = name.bytes().fold(5381, |hash: u32, byte| {
            hash.wrapping_mul(33).wrapping_add(u32::from(byte))
        });
        chain.extend_from_slice(&(hash & !1 | u32::from(index == count)).to_le_bytes());
    }
    let end = strings + text.len() as u64;

    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    bytes.extend_from_slice(&[3, 0, 62, 0, 1, 0, 0, 0]);
    for word in [0, HEADER, 0] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.extend_from_slice(&[0, 0, 0, 0, 64, 0, 56, 0, 3, 0, 64, 0, 0, 0, 0, 0]);
    let segments = [
        (PT_LOAD, 5_u32, 0, end),
        (PT_LOAD, 6, svma(data.0), data.1),
        (PT_DYNAMIC, 6, dynamic, 4 * 16),
    ];
    for (kind, flags, at, size) in segments {
        bytes.extend_from_slice(&kind.to_le_bytes());
        bytes.extend_from_slice(&flags.to_le_bytes());
        for word in [at, at, at, size, size, 8] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
    }
    for (tag, value) in [
        (DT_GNU_HASH, hash),
        (DT_SYMTAB, table),
        (DT_STRTAB, strings),
        (0, 0),
    ] {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&value.to_le_bytes());
    }
    // One bucket, whose chain has all symbols; the first symbol is none.
    for word in [1_u32, 1, 1, 0, u32::MAX, u32::MAX, u32::from(count > 0)] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.extend_from_slice(&chain);
    bytes.resize(table as usize, 0);
    bytes.extend_from_slice(&entries);
    bytes.extend_from_slice(&text);
    bytes
}
