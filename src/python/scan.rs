//! Looking for a runtime that nothing names, in the writable data of an image: by its first bytes, or by its shape.

use super::layout::Layout;
use super::layout::debug_offsets::COOKIE;
use super::runtime::Root;
use crate::model::Address;
use crate::sys::memory::{PageView, RemoteMemory};
use crate::target::image::ElfImage;
use crate::target::maps::{Mapping, find_mapping};

/// Most bytes of writable data of one file that are scanned.
const MAX_SCAN: u64 = 64 << 20;
/// Bytes that a scan reads at once.
const SCAN_PIECE: u64 = 64 << 10;

/// The first place in the image's writable data that begins as `_Py_DebugOffsets` does (3.13+).
pub fn find_cookie(memory: &dyn RemoteMemory, image: &ElfImage) -> Option<Address> {
    scan(memory, image, |at, bytes| {
        let found = bytes.chunks_exact(8).position(|word| word == COOKIE)?;
        at.checked_add(found as u64 * 8)
    })
}

/// The first pointer in the image's writable data that leads to an interpreter.
pub fn find_interpreter(
    memory: &dyn RemoteMemory,
    mappings: &[Mapping],
    image: &ElfImage,
    layout: &Layout,
    view: &PageView<'_>,
) -> Option<Root> {
    let head = scan(memory, image, |at, bytes| {
        let words = bytes.chunks_exact(8).filter_map(|word| word.first_chunk());
        let words = words.map(|word| Address(u64::from_le_bytes(*word)));
        let (index, _) = (0_u64..)
            .zip(words)
            .find(|(_, word)| is_interpreter(mappings, layout, *word, view))?;
        at.checked_add(index * 8)
    })?;
    // From 3.7 on the pointer that was found is most likely the first of two in the runtime, head and main.
    let runtime = layout.runtime.as_ref().and_then(|runtime| {
        let distance = runtime
            .interpreters_main
            .offset()
            .checked_sub(runtime.interpreters_head.offset())?;
        let main = view.read_address(head.checked_add(distance)?).ok()?;
        let start = head.0.checked_sub(runtime.interpreters_head.offset())?;
        is_interpreter(mappings, layout, main, view).then_some(Address(start))
    });
    Some(runtime.map_or(Root::Head(head), Root::Runtime))
}

/// Whether `address` leads to an interpreter: to a thread state in writable memory, and from it back.
fn is_interpreter(
    mappings: &[Mapping],
    layout: &Layout,
    address: Address,
    view: &PageView<'_>,
) -> bool {
    let writable = |address: Address| {
        let mapping = find_mapping(mappings, address);
        address.0.is_multiple_of(8) && mapping.is_some_and(|mapping| mapping.writable)
    };
    let pointer = |base: Address, offset: u64| {
        let address = base
            .checked_add(offset)
            .filter(|address| writable(*address))?;
        view.read_address(address).ok()
    };
    let leads_back = || {
        let thread = pointer(address, layout.interpreter.threads_head.offset())?;
        let back = pointer(thread, layout.thread.interp.offset())?;
        let thread_id = pointer(thread, layout.thread.thread_id.offset())?;
        let modules = pointer(address, layout.interpreter.modules.offset())?;
        Some(back == address && !thread_id.is_null() && writable(modules))
    };
    writable(address) && leads_back().unwrap_or(false)
}

/// Goes through an image's writable data piece by piece until `look` has found something; pieces are whole words.
fn scan<T>(
    memory: &dyn RemoteMemory,
    image: &ElfImage,
    mut look: impl FnMut(Address, &[u8]) -> Option<T>,
) -> Option<T> {
    for (start, size) in image.writable_data() {
        let aligned = Address(start.0 & !7);
        let end = aligned.checked_add(size.min(MAX_SCAN))?;
        let mut at = aligned;
        while at < end {
            let count = SCAN_PIECE.min(end.0 - at.0);
            // A piece that can't be read whole (the rest of a page behind `.bss`, say) is read page by page.
            let step = if memory.read_vec(at, count, SCAN_PIECE).is_ok() {
                count
            } else {
                count.min(4096)
            };
            if let Ok(bytes) = memory.read_vec(at, step, SCAN_PIECE)
                && let Some(found) = look(at, &bytes)
            {
                return Some(found);
            }
            at = at.checked_add(step)?;
        }
    }
    None
}
