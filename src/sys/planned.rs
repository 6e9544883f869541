//! Reading what will most likely be looked at in one call: what was looked at the last time. No decoding.

use std::cell::{Cell, RefCell};

use rustc_hash::FxHashMap;

use super::memory::{ReadError, ReadRequest, RemoteMemory};
use crate::model::Address;

/// Bytes in a page that is read when something was not foreseen.
const PAGE: u64 = 4096;
/// Regions begin and end at multiples of it.
const LINE: u64 = 64;
/// Regions with less than that between them are read as one: a further piece costs as much as some kilobytes more.
const GAP: u64 = 2048;
/// Most regions of a plan: as many as one call takes.
const MAX_REGIONS: usize = 1024;
/// Most bytes of a plan.
const MAX_BYTES: u64 = 1 << 20;
/// How often what a region has too much of is read in vain before it is given up.
const MAX_UNUSED: u8 = 4;

/// What was looked at the last time, as a few regions of memory.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// In ascending order, apart from each other.
    regions: Vec<Region>,
}

impl Plan {
    /// Whether nothing is foreseen.
    pub fn is_empty(&self) -> bool {
        self.regions.is_empty()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Region {
    start: u64,
    end: u64,
    /// How often in a row part of it was not looked at.
    unused: u8,
}

/// A region that was fetched.
struct Piece {
    region: Region,
    /// Where its bytes are in the buffer; `None` when it could not be read.
    at: Option<usize>,
    /// What was looked at of it.
    used: Cell<Option<(u64, u64)>>,
}

/// A page that was not foreseen.
struct Page {
    bytes: Box<[u8; PAGE as usize]>,
    used: (u64, u64),
}

/// A view of a target's memory at one instant: one call for all that the plan foresees, one more for each page that it does
/// not. Nothing is read twice.
pub struct PlannedView<'a> {
    source: &'a dyn RemoteMemory,
    pieces: Vec<Piece>,
    buffer: Vec<u8>,
    pages: RefCell<FxHashMap<u64, Page>>,
    /// What lies across the edge of what was fetched.
    across: RefCell<Vec<(u64, u64)>>,
}

impl<'a> PlannedView<'a> {
    /// Reads what `plan` foresees; `buffer` is only there to be used again.
    pub fn fetch(source: &'a dyn RemoteMemory, plan: &Plan, mut buffer: Vec<u8>) -> Self {
        let size = |region: &Region| usize::try_from(region.end - region.start).unwrap_or(0);
        let total = plan.regions.iter().map(size).sum();
        // What is not filled is never looked at.
        buffer.resize(total, 0);
        let mut requests = Vec::with_capacity(plan.regions.len());
        let mut rest = buffer.as_mut_slice();
        for region in &plan.regions {
            let (piece, behind) = rest.split_at_mut(size(region));
            requests.push(ReadRequest::new(Address(region.start), piece));
            rest = behind;
        }
        source.read_many(&mut requests);
        let mut at = 0;
        let pieces = plan.regions.iter().zip(&requests).map(|(region, request)| {
            let start = at;
            at += size(region);
            Piece {
                region: *region,
                at: request.outcome.is_ok().then_some(start),
                used: Cell::new(None),
            }
        });
        let pieces = pieces.collect();
        PlannedView {
            source,
            pieces,
            buffer,
            pages: RefCell::default(),
            across: RefCell::default(),
        }
    }

    /// Puts what was looked at into `plan`, and gives the buffer back.
    pub fn learn(self, plan: &mut Plan) -> Vec<u8> {
        let mut regions: Vec<Region> = Vec::with_capacity(self.pieces.len() + 4);
        for piece in &self.pieces {
            let Region { start, end, unused } = piece.region;
            let used = piece.used.get().map(|(from, to)| (down(from), up(to)));
            if used == Some((start, end)) {
                regions.push(Region {
                    unused: 0,
                    ..piece.region
                });
            } else if unused < MAX_UNUSED && piece.at.is_some() {
                regions.push(Region {
                    unused: unused + 1,
                    ..piece.region
                });
            } else if let Some((start, end)) = used {
                regions.push(Region {
                    start,
                    end,
                    unused: 0,
                });
            }
        }
        let known = regions.len();
        let pages = self.pages.borrow();
        let unforeseen = pages.values().map(|page| page.used);
        let across = self.across.borrow();
        regions.extend(
            unforeseen
                .chain(across.iter().copied())
                .map(|(from, to)| Region {
                    start: down(from),
                    end: up(to),
                    unused: 0,
                }),
        );
        if regions.len() > known {
            regions.sort_unstable_by_key(|region| region.start);
        }
        plan.regions.clear();
        let mut total = 0;
        for region in regions {
            let count = plan.regions.len();
            match plan.regions.last_mut() {
                Some(last) if region.start <= last.end.saturating_add(GAP) => {
                    total += region.end.saturating_sub(last.end);
                    last.end = last.end.max(region.end);
                    last.unused = last.unused.max(region.unused);
                }
                _ if count < MAX_REGIONS => {
                    total += region.end - region.start;
                    plan.regions.push(region);
                }
                _ => break,
            }
            if total > MAX_BYTES {
                plan.regions.pop();
                break;
            }
        }
        drop((pages, across));
        self.buffer
    }

    fn find_piece(&self, start: u64, end: u64) -> Option<(&Piece, usize)> {
        let after = self
            .pieces
            .partition_point(|piece| piece.region.start <= start);
        let piece = self.pieces.get(after.checked_sub(1)?)?;
        (end <= piece.region.end).then_some((piece, piece.at?))
    }
}

/// The line's beginning.
fn down(address: u64) -> u64 {
    address & !(LINE - 1)
}

/// The end of the line that the byte before `address` lies in.
fn up(address: u64) -> u64 {
    down(address.saturating_add(LINE - 1))
}

fn wider(used: (u64, u64), start: u64, end: u64) -> (u64, u64) {
    (used.0.min(start), used.1.max(end))
}

impl RemoteMemory for PlannedView<'_> {
    fn read(&self, address: Address, buffer: &mut [u8]) -> Result<(), ReadError> {
        let start = address.0;
        let end = start
            .checked_add(buffer.len() as u64)
            .ok_or(ReadError::Unmapped(address))?;
        if let Some((piece, at)) = self.find_piece(start, end) {
            let skip = at + (start - piece.region.start) as usize;
            buffer.copy_from_slice(&self.buffer[skip..skip + buffer.len()]);
            let used = piece.used.get().unwrap_or((start, end));
            piece.used.set(Some(wider(used, start, end)));
            return Ok(());
        }
        let base = start & !(PAGE - 1);
        if end > base.saturating_add(PAGE) {
            self.source.read(address, buffer)?;
            self.across.borrow_mut().push((start, end));
            return Ok(());
        }
        let mut pages = self.pages.borrow_mut();
        let page = match pages.entry(base) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                let mut bytes = Box::new([0; PAGE as usize]);
                self.source.read(Address(base), bytes.as_mut_slice())?;
                entry.insert(Page {
                    bytes,
                    used: (start, end),
                })
            }
        };
        page.used = wider(page.used, start, end);
        let skip = (start - base) as usize;
        buffer.copy_from_slice(&page.bytes[skip..skip + buffer.len()]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sys::memory::RecordedMemory;

    /// Counts the calls.
    struct Counted {
        memory: RecordedMemory,
        calls: Cell<usize>,
    }

    impl RemoteMemory for Counted {
        fn read(&self, address: Address, buffer: &mut [u8]) -> Result<(), ReadError> {
            self.calls.set(self.calls.get() + 1);
            self.memory.read(address, buffer)
        }

        fn read_many(&self, requests: &mut [ReadRequest<'_>]) {
            self.calls.set(self.calls.get() + 1);
            self.memory.read_many(requests);
        }
    }

    fn memory() -> Counted {
        let bytes: Vec<u8> = (0..16 * PAGE).map(|n| (n / 7) as u8).collect();
        Counted {
            memory: RecordedMemory::new().with(Address(16 * PAGE), bytes),
            calls: Cell::new(0),
        }
    }

    fn look(memory: &Counted, plan: &mut Plan, places: &[(u64, usize)]) -> usize {
        memory.calls.set(0);
        let view = PlannedView::fetch(memory, plan, Vec::new());
        for (at, size) in places {
            let mut seen = vec![0; *size];
            view.read(Address(16 * PAGE + at), &mut seen).unwrap();
            let expected: Vec<u8> = (*at..*at + *size as u64).map(|n| (n / 7) as u8).collect();
            assert_eq!(seen, expected);
        }
        view.learn(plan);
        memory.calls.get()
    }

    #[test]
    fn the_second_look_at_the_same_is_one_call() {
        let (memory, mut plan) = (memory(), Plan::default());
        let places = [
            (10, 8),
            (5000, 100),
            (4 * PAGE - 4, 8),
            (9 * PAGE, 64),
            (9 * PAGE + 300, 8),
        ];
        assert!(look(&memory, &mut plan, &places) > 3);
        assert_eq!(look(&memory, &mut plan, &places), 1);
        assert_eq!(look(&memory, &mut plan, &[(10, 8)]), 1);
        assert_eq!(look(&memory, &mut plan, &places), 1);
        assert_eq!(plan.regions.len(), 4);
        for _ in 0..=MAX_UNUSED {
            look(&memory, &mut plan, &[(10, 8)]);
        }
        assert_eq!(plan.regions.len(), 1);
    }

    #[test]
    fn what_is_not_mapped_any_more_is_an_error_and_is_forgotten() {
        let (memory, mut plan) = (memory(), Plan::default());
        look(&memory, &mut plan, &[(10, 8)]);
        let gone = RecordedMemory::new();
        let view = PlannedView::fetch(&gone, &plan, Vec::new());
        assert!(view.read(Address(16 * PAGE + 10), &mut [0; 8]).is_err());
        assert!(view.read(Address(u64::MAX - 3), &mut [0; 8]).is_err());
        view.learn(&mut plan);
        assert!(plan.regions.is_empty());
    }

    proptest! {
        #[test]
        fn any_looks_give_what_is_there(looks in proptest::collection::vec(proptest::collection::vec((0..15 * PAGE, 1_usize..5000), 1..20), 1..12)) {
            let (memory, mut plan) = (memory(), Plan::default());
            for places in &looks {
                let places: Vec<_> = places.iter().map(|(at, size)| (*at, (*size).min((16 * PAGE - at) as usize))).collect();
                look(&memory, &mut plan, &places);
                for pair in plan.regions.windows(2) {
                    prop_assert!(pair[0].end + GAP < pair[1].start);
                }
            }
        }
    }
}
