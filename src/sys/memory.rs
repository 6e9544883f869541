//! Reading another process' memory: one interface for the live process, a cached view and recorded bytes. No decoding.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::IoSliceMut;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use rustc_hash::FxHashMap;
use thiserror::Error;

use super::descriptors::{Budget, Permit, Use, noted};
use crate::model::{Address, Pid};

/// Most pieces that the kernel takes in one vectored read (`UIO_MAXIOV`, `include/uapi/linux/uio.h`, Linux 6.18).
const MAX_PIECES: usize = 1024;

/// Bytes in a page of the cached view; every Linux page size is a multiple of it.
const PAGE: u64 = 4096;

/// Pages that the cached view keeps (1 MiB) before it starts anew.
const MAX_PAGES: usize = 256;

/// Most bytes that are read through one view before its budget is renewed: more than a stack of 200,000 calls needs.
const MAX_VIEWED: u64 = 512 << 20;

/// Why bytes of a target could not be had.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadError {
    /// Nothing readable is mapped there.
    #[error("no readable memory at {0}")]
    Unmapped(Address),
    /// The process has ended (or has no memory, as kernel threads and zombies).
    #[error("the process has no memory any more")]
    Gone,
    /// The kernel refuses us this process' memory.
    #[error("not permitted to read the process' memory")]
    Denied,
    /// There were too few descriptors for the file that it is read through.
    #[error("the process' memory could not be opened: too many open files")]
    Unopened,
    /// More was asked for than a named limit allows.
    #[error("{0} bytes are more than is ever read at once")]
    TooLarge(u64),
}

/// One piece of a vectored read.
#[derive(Debug)]
pub struct ReadRequest<'a> {
    /// Where the piece starts in the target.
    pub address: Address,
    /// Where the bytes go; all of it is filled, or the outcome says why not.
    pub buffer: &'a mut [u8],
    /// What became of the piece.
    pub outcome: Result<(), ReadError>,
}

impl<'a> ReadRequest<'a> {
    /// A request to fill `buffer` from `address`.
    pub fn new(address: Address, buffer: &'a mut [u8]) -> Self {
        ReadRequest {
            address,
            buffer,
            outcome: Err(ReadError::Unmapped(address)),
        }
    }
}

/// The memory of some process, live or recorded.
///
/// A read gives all bytes asked for or an error: zero is never a stand-in for "could not be read".
pub trait RemoteMemory {
    /// Fills `buffer` from `address`.
    fn read(&self, address: Address, buffer: &mut [u8]) -> Result<(), ReadError>;

    /// Fills all requests, in order, with as few system calls as can be; each carries its own outcome.
    fn read_many(&self, requests: &mut [ReadRequest<'_>]) {
        for request in requests {
            request.outcome = self.read(request.address, request.buffer);
        }
    }

    /// Fills a new vector of `length` bytes from `address`, or fails when `length` is above `limit`.
    fn read_vec(&self, address: Address, length: u64, limit: u64) -> Result<Vec<u8>, ReadError> {
        let size = usize::try_from(length).map_err(|_| ReadError::TooLarge(length))?;
        if length > limit {
            return Err(ReadError::TooLarge(length));
        }
        let mut bytes = vec![0; size];
        self.read(address, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads a pointer.
    fn read_address(&self, address: Address) -> Result<Address, ReadError> {
        self.read_u64(address).map(Address)
    }

    /// Reads a little-endian `u64`.
    fn read_u64(&self, address: Address) -> Result<u64, ReadError> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Reads a little-endian `i32`.
    fn read_i32(&self, address: Address) -> Result<i32, ReadError> {
        let mut bytes = [0; 4];
        self.read(address, &mut bytes)?;
        Ok(i32::from_le_bytes(bytes))
    }
}

/// A running process, read with `process_vm_readv`, or through `/proc/PID/mem` where that call is refused (a seccomp
/// profile, say) but the file is not: both need PTRACE_MODE_ATTACH.
///
/// A read can block for as long as the target's `mmap_lock` is held; callers that must answer run it under a
/// [deadline](crate::sys::deadline).
#[derive(Debug)]
pub struct LiveMemory {
    pid: Pid,
    /// Kept where the budget of descriptors has room; else it is opened for each read.
    mem_file: OnceLock<(File, Permit)>,
}

impl LiveMemory {
    /// The memory of `pid`; nothing is opened or read yet.
    pub fn new(pid: Pid) -> Self {
        LiveMemory {
            pid,
            mem_file: OnceLock::new(),
        }
    }

    /// Whether the kernel lets us read with `process_vm_readv`, tried at `address`; `None` where nothing can be read there.
    pub fn can_read_vectored(&self, address: Address) -> Option<bool> {
        match self.read_vectored(&mut [ReadRequest::new(address, &mut [0])]) {
            Ok(_) => Some(true),
            Err(Errno::EPERM | Errno::ENOSYS | Errno::EACCES) => Some(false),
            Err(_) => None,
        }
    }

    fn read_through_file(&self, address: Address, buffer: &mut [u8]) -> Result<(), ReadError> {
        if let Some((file, _)) = self.mem_file.get() {
            return read_file(file, address, buffer);
        }
        let file = File::open(format!("/proc/{}/mem", self.pid))
            .map_err(|error| open_error(&noted(error)))?;
        let outcome = read_file(&file, address, buffer);
        if let Some(permit) = Budget::own().take(1, Use::Often) {
            let _ = self.mem_file.set((file, permit));
        }
        outcome
    }

    /// One system call; gives the bytes that were filled, from the front.
    fn read_vectored(&self, requests: &mut [ReadRequest<'_>]) -> Result<usize, Errno> {
        let remote: Vec<RemoteIoVec> = requests
            .iter()
            .map(|request| RemoteIoVec {
                base: request.address.0 as usize,
                len: request.buffer.len(),
            })
            .collect();
        let mut local: Vec<IoSliceMut<'_>> = requests
            .iter_mut()
            .map(|request| IoSliceMut::new(request.buffer))
            .collect();
        loop {
            match process_vm_readv(self.pid.to_nix(), &mut local, &remote) {
                Err(Errno::EINTR) => {}
                other => return other,
            }
        }
    }
}

fn read_file(file: &File, address: Address, buffer: &mut [u8]) -> Result<(), ReadError> {
    let mut done = 0;
    while done < buffer.len() {
        let at = address
            .checked_add(done as u64)
            .ok_or(ReadError::Unmapped(address))?;
        match file.read_at(&mut buffer[done..], at.0) {
            Ok(0) => return Err(ReadError::Gone),
            Ok(count) => done += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return Err(ReadError::Unmapped(at)),
        }
    }
    Ok(())
}

fn open_error(error: &std::io::Error) -> ReadError {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EACCES | Errno::EPERM) => ReadError::Denied,
        Some(Errno::EMFILE | Errno::ENFILE) => ReadError::Unopened,
        _ => ReadError::Gone,
    }
}

impl RemoteMemory for LiveMemory {
    fn read(&self, address: Address, buffer: &mut [u8]) -> Result<(), ReadError> {
        let mut request = [ReadRequest::new(address, buffer)];
        self.read_many(&mut request);
        request[0].outcome
    }

    fn read_many(&self, requests: &mut [ReadRequest<'_>]) {
        let mut from = 0;
        while from < requests.len() {
            let to = requests.len().min(from + MAX_PIECES);
            let batch = &mut requests[from..to];
            match self.read_vectored(batch) {
                Ok(mut filled) => {
                    // The kernel stops at the first piece that it can't read, and counts whole pages of a piece that
                    // is in part unmapped (seen on Linux 6.18). That piece has failed; go on behind it.
                    let mut done = 0;
                    for request in batch.iter_mut() {
                        if request.buffer.len() > filled {
                            request.outcome = Err(ReadError::Unmapped(request.address));
                            done += 1;
                            break;
                        }
                        filled -= request.buffer.len();
                        request.outcome = Ok(());
                        done += 1;
                    }
                    from += done;
                }
                Err(Errno::EFAULT) => {
                    batch[0].outcome = Err(ReadError::Unmapped(batch[0].address));
                    from += 1;
                }
                Err(Errno::EPERM | Errno::ENOSYS | Errno::EACCES) => {
                    for request in batch.iter_mut() {
                        request.outcome = self.read_through_file(request.address, request.buffer);
                    }
                    from = to;
                }
                Err(_) => {
                    for request in batch.iter_mut() {
                        request.outcome = Err(ReadError::Gone);
                    }
                    from = to;
                }
            }
        }
    }
}

/// Another memory, of which no more than so many bytes are read.
pub struct LimitedMemory<'a> {
    source: &'a dyn RemoteMemory,
    left: Cell<u64>,
}

impl<'a> LimitedMemory<'a> {
    /// The memory `source`, of which at most `limit` bytes are read.
    pub fn new(source: &'a dyn RemoteMemory, limit: u64) -> Self {
        LimitedMemory {
            source,
            left: Cell::new(limit),
        }
    }
}

impl RemoteMemory for LimitedMemory<'_> {
    fn read(&self, address: Address, buffer: &mut [u8]) -> Result<(), ReadError> {
        let size = buffer.len() as u64;
        let left = self.left.get().checked_sub(size);
        self.left.set(left.ok_or(ReadError::TooLarge(size))?);
        self.source.read(address, buffer)
    }
}

/// A view that reads each 4 KiB page of another memory at most once.
///
/// Key: page address. Never invalidated: make a new view for each instant that is looked at. It holds at most
/// 1 MiB and forgets all of it when that is full.
pub struct PageView<'a> {
    source: &'a dyn RemoteMemory,
    /// Most pages that it keeps.
    room: usize,
    pages: RefCell<FxHashMap<u64, Option<Box<[u8; PAGE as usize]>>>>,
    viewed: Cell<u64>,
}

impl<'a> PageView<'a> {
    /// An empty view of `source`.
    pub fn new(source: &'a dyn RemoteMemory) -> Self {
        PageView::with_room(source, MAX_PAGES)
    }

    /// The same for what goes back and forth in the memory: it keeps so many pages of 4 KiB.
    pub fn with_room(source: &'a dyn RemoteMemory, room: usize) -> Self {
        PageView {
            source,
            room,
            pages: RefCell::default(),
            viewed: Cell::new(0),
        }
    }

    /// Lets as much be read through it again: for a view that serves several stacks.
    pub fn renew_budget(&self) {
        self.viewed.set(0);
    }
}

impl RemoteMemory for PageView<'_> {
    fn read(&self, address: Address, buffer: &mut [u8]) -> Result<(), ReadError> {
        let viewed = self.viewed.get() + buffer.len() as u64;
        if viewed > MAX_VIEWED {
            return Err(ReadError::TooLarge(viewed));
        }
        self.viewed.set(viewed);
        if buffer.len() as u64 > 4 * PAGE {
            return self.source.read(address, buffer);
        }
        let mut done = 0;
        while done < buffer.len() {
            let at = address
                .checked_add(done as u64)
                .ok_or(ReadError::Unmapped(address))?;
            let page = at.0 & !(PAGE - 1);
            let skip = (at.0 - page) as usize;
            let count = (buffer.len() - done).min(PAGE as usize - skip);
            let mut pages = self.pages.borrow_mut();
            if pages.len() >= self.room && !pages.contains_key(&page) {
                pages.clear();
            }
            let entry = match pages.entry(page) {
                std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::hash_map::Entry::Vacant(entry) => {
                    let mut bytes = Box::new([0; PAGE as usize]);
                    let content = match self.source.read(Address(page), bytes.as_mut_slice()) {
                        Ok(()) => Some(bytes),
                        Err(ReadError::Unmapped(_)) => None,
                        Err(error) => return Err(error),
                    };
                    entry.insert(content)
                }
            };
            let bytes = entry.as_ref().ok_or(ReadError::Unmapped(at))?;
            buffer[done..done + count].copy_from_slice(&bytes[skip..skip + count]);
            done += count;
        }
        Ok(())
    }
}

/// Memory that is given as bytes: recorded, made up by a test, or found by a fuzzer.
#[derive(Clone, Debug, Default)]
pub struct RecordedMemory {
    regions: Vec<(Address, Vec<u8>)>,
}

impl RecordedMemory {
    /// No memory at all.
    pub fn new() -> Self {
        RecordedMemory::default()
    }

    /// Adds `bytes` at `start`; where regions overlap, the one that was added first is read.
    #[must_use]
    pub fn with(mut self, start: Address, bytes: impl Into<Vec<u8>>) -> Self {
        self.regions.push((start, bytes.into()));
        self
    }
}

impl RemoteMemory for RecordedMemory {
    fn read(&self, address: Address, buffer: &mut [u8]) -> Result<(), ReadError> {
        for (start, bytes) in &self.regions {
            let Some(offset) = address
                .checked_sub(*start)
                .and_then(|offset| usize::try_from(offset).ok())
            else {
                continue;
            };
            let end = offset.checked_add(buffer.len());
            if let Some(piece) = end.and_then(|end| bytes.get(offset..end)) {
                buffer.copy_from_slice(piece);
                return Ok(());
            }
        }
        Err(ReadError::Unmapped(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> LiveMemory {
        LiveMemory::new(Pid::own())
    }

    #[test]
    fn reads_its_own_process() {
        let value = 0x1122_3344_5566_7788_u64;
        let address = Address(&raw const value as u64);
        assert_eq!(own().read_u64(address), Ok(value));
    }

    #[test]
    fn one_bad_piece_does_not_spoil_the_others() {
        let value = 7_u64.to_le_bytes();
        let good = Address(value.as_ptr() as u64);
        let (mut a, mut b, mut c) = ([0; 8], [0; 8], [0; 8]);
        let mut requests = [
            ReadRequest::new(good, &mut a),
            ReadRequest::new(Address(8), &mut b),
            ReadRequest::new(good, &mut c),
        ];
        own().read_many(&mut requests);
        let outcomes = requests.map(|request| request.outcome);
        assert_eq!(
            outcomes,
            [Ok(()), Err(ReadError::Unmapped(Address(8))), Ok(())]
        );
        assert_eq!((a, c), (value, value));
    }

    #[test]
    fn more_pieces_than_one_call_takes() {
        let value = 9_u64.to_le_bytes();
        let good = Address(value.as_ptr() as u64);
        let mut buffers = vec![[0_u8; 8]; 2 * MAX_PIECES + 3];
        let mut requests: Vec<_> = buffers
            .iter_mut()
            .map(|buffer| ReadRequest::new(good, buffer))
            .collect();
        own().read_many(&mut requests);
        assert!(requests.iter().all(|request| request.outcome.is_ok()));
        assert!(buffers.iter().all(|buffer| *buffer == value));
    }

    #[test]
    fn the_file_gives_what_the_call_gives() {
        let value = 11_u64.to_le_bytes();
        let mut buffer = [0; 8];
        let memory = own();
        assert_eq!(
            memory.read_through_file(Address(value.as_ptr() as u64), &mut buffer),
            Ok(())
        );
        assert_eq!(buffer, value);
        assert!(matches!(
            memory.read_through_file(Address(8), &mut buffer),
            Err(ReadError::Unmapped(_))
        ));
    }

    #[test]
    fn a_process_that_is_not_there_is_gone() {
        let memory = LiveMemory::new(Pid(i32::MAX));
        assert_eq!(memory.read_u64(Address(4096)), Err(ReadError::Gone));
    }

    #[test]
    fn the_view_reads_across_pages_and_keeps_failures_apart() {
        let bytes: Vec<u8> = (0..2 * PAGE).map(|n| n as u8).collect();
        let source = RecordedMemory::new().with(Address(PAGE), bytes.clone());
        let view = PageView::new(&source);
        let mut buffer = [0; 16];
        assert_eq!(view.read(Address(2 * PAGE - 8), &mut buffer), Ok(()));
        assert_eq!(buffer, bytes[PAGE as usize - 8..PAGE as usize + 8]);
        assert!(view.read(Address(3 * PAGE - 8), &mut buffer).is_err());
        assert!(view.read(Address(u64::MAX - 3), &mut buffer).is_err());
    }

    #[test]
    fn a_limit_is_kept_before_anything_is_allocated() {
        let source = RecordedMemory::new();
        assert_eq!(
            source.read_vec(Address(0), u64::MAX, 100),
            Err(ReadError::TooLarge(u64::MAX))
        );
    }
}
