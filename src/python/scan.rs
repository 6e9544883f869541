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

/// The first pointer in the image's writable data that leads to an interpreter, and that `accept` agrees with: what looks
/// like one may be a left-over, or something else altogether.
pub fn find_interpreter(
    memory: &dyn RemoteMemory,
    mappings: &[Mapping],
    image: &ElfImage,
    layout: &Layout,
    view: &PageView<'_>,
    accept: &dyn Fn(Root) -> bool,
) -> Option<Root> {
    scan(memory, image, |at, bytes| {
        let words = bytes.chunks_exact(8).filter_map(|word| word.first_chunk());
        let words = words.map(|word| Address(u64::from_le_bytes(*word)));
        (0_u64..).zip(words).find_map(|(index, word)| {
            if !is_interpreter(mappings, layout, word, view) {
                return None;
            }
            let head = at.checked_add(index * 8)?;
            let in_runtime = runtime_around(mappings, layout, head, view).map(Root::Runtime);
            let candidates = [in_runtime, Some(Root::Head(head))];
            candidates.into_iter().flatten().find(|root| accept(*root))
        })
    })
}

/// From 3.7 on the first pointer to an interpreter is most likely the first of two in the runtime, head and main: where
/// the runtime starts, if there is such a second one.
fn runtime_around(
    mappings: &[Mapping],
    layout: &Layout,
    head: Address,
    view: &PageView<'_>,
) -> Option<Address> {
    let runtime = layout.runtime.as_ref()?;
    let (head_at, main_at) = (
        runtime.interpreters_head.offset(),
        runtime.interpreters_main.offset(),
    );
    let main = view
        .read_address(head.checked_add(main_at.checked_sub(head_at)?)?)
        .ok()?;
    let start = Address(head.0.checked_sub(head_at)?);
    is_interpreter(mappings, layout, main, view).then_some(start)
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
