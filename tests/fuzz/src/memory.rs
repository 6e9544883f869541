//! The memory of a made-up process.

use stuckspy::model::Address;
use stuckspy::sys::memory::{ReadError, RecordedMemory, RemoteMemory};

/// Where the bytes start that were laid out.
pub const IMAGE: u64 = 0x1_0000;
/// Where a long stretch starts that repeats a short pattern.
pub const STRETCH: u64 = 0x7000_0000_0000;
/// Bytes of it: whatever length is limited, this is longer.
pub const STRETCH_SIZE: u64 = 32 << 20;

/// An image, and a stretch that takes no room: lists of a million entries need no input of a million bytes.
#[derive(Clone, Debug)]
pub struct FuzzMemory {
    image: RecordedMemory,
    size: u64,
    pattern: Vec<u8>,
}

impl FuzzMemory {
    /// Memory with `image` at [`IMAGE`], filled up to a whole page, and a stretch of `pattern`, which may be empty.
    pub fn new(mut image: Vec<u8>, pattern: Vec<u8>) -> Self {
        image.resize(image.len().next_multiple_of(4096), 0);
        // Copied in pieces of this length, so not too short.
        let repeats = 4096_usize.checked_div(pattern.len()).unwrap_or(0) + 1;
        FuzzMemory {
            size: image.len() as u64,
            image: RecordedMemory::new().with(Address(IMAGE), image),
            pattern: pattern.repeat(repeats),
        }
    }

    /// Bytes of the image.
    pub fn image_size(&self) -> u64 {
        self.size
    }

    /// Whether there is a stretch.
    pub fn has_stretch(&self) -> bool {
        !self.pattern.is_empty()
    }

    /// The same with another region, where nothing is yet.
    #[must_use]
    pub fn with(mut self, start: Address, bytes: Vec<u8>) -> Self {
        self.image = self.image.with(start, bytes);
        self
    }
}

impl RemoteMemory for FuzzMemory {
    fn read(&self, address: Address, buffer: &mut [u8]) -> Result<(), ReadError> {
        if buffer.is_empty() {
            return Ok(());
        }
        let offset = match address.checked_sub(Address(STRETCH)) {
            Some(offset) if !self.pattern.is_empty() => offset,
            _ => return self.image.read(address, buffer),
        };
        if offset
            .checked_add(buffer.len() as u64)
            .is_none_or(|end| end > STRETCH_SIZE)
        {
            return Err(ReadError::Unmapped(address));
        }
        let mut phase = offset as usize % self.pattern.len();
        let mut rest = buffer;
        while !rest.is_empty() {
            let count = rest.len().min(self.pattern.len() - phase);
            let (piece, tail) = rest.split_at_mut(count);
            piece.copy_from_slice(&self.pattern[phase..phase + count]);
            rest = tail;
            phase = 0;
        }
        Ok(())
    }
}
