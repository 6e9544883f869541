//! Which thread of the kernel a thread state belongs to.

use rustc_hash::{FxHashMap, FxHashSet};

use super::runtime::ThreadState;
use crate::model::Address;
use crate::sys::memory::RemoteMemory;

/// How far into a thread's descriptor its number is looked for.
const DESCRIPTOR: usize = 1024;
/// Where the C libraries have it (x86-64; their `struct pthread`, field `tid`): glibc 2.36-2.43, musl 1.2.
#[cfg(target_arch = "x86_64")]
const KNOWN_OFFSETS: &[usize] = &[720, 48];
/// On other machines it is found where the descriptors of all threads have one.
#[cfg(not(target_arch = "x86_64"))]
const KNOWN_OFFSETS: &[usize] = &[];

/// The kernel's number of each thread state, by its address; states whose thread has ended are left out.
///
/// From 3.11 on the state itself has the number (in the target's own pid namespace, as `tids` are). Before, and after a
/// fork that left the parent's number in it, it is read from the C library's descriptor of the thread, which the
/// `pthread_t` points to, at the offset where the descriptors of all threads have numbers of threads of this process.
pub fn native_ids(
    memory: &dyn RemoteMemory,
    states: &[ThreadState],
    tids: &[i32],
) -> FxHashMap<Address, i32> {
    let known: FxHashSet<i32> = tids.iter().copied().collect();
    let mut ids = FxHashMap::default();
    let mut open = Vec::new();
    for state in states {
        let stated = state
            .native_thread_id
            .and_then(|id| i32::try_from(id).ok())
            .filter(|id| known.contains(id));
        match stated {
            Some(id) => {
                ids.insert(state.address, id);
            }
            None => open.push(state),
        }
    }
    if open.is_empty() {
        return ids;
    }
    let descriptors: Vec<(Address, Vec<u8>)> = open
        .iter()
        .filter_map(|state| Some((state.address, read_descriptor(memory, state.thread_id)?)))
        .collect();
    let Some(offset) = find_offset(&descriptors, &known) else {
        return ids;
    };
    for (address, descriptor) in &descriptors {
        if let Some(id) = number_at(descriptor, offset).filter(|id| known.contains(id)) {
            ids.insert(*address, id);
        }
    }
    ids
}

/// Whether it shows that the thread with this `pthread_t` has ended, by what the descriptors of `living` ones, each with its number, are like:
/// the C library frees an ended thread's, or keeps it with a number that is no thread's (0; after a fork, that of the parent's thread).
/// Where no offset is known that all living ones have their number at, nothing shows.
pub fn is_shown_ended(
    memory: &dyn RemoteMemory,
    living: &[(u64, i32)],
    thread_id: u64,
    tids: &[i32],
) -> bool {
    let Some(descriptor) = read_descriptor(memory, thread_id) else {
        return true;
    };
    let living: Vec<(Vec<u8>, i32)> = living
        .iter()
        .filter_map(|(thread_id, tid)| Some((read_descriptor(memory, *thread_id)?, *tid)))
        .collect();
    let is_right = |offset: &usize| {
        let mut all = living.iter();
        all.all(|(descriptor, tid)| number_at(descriptor, *offset) == Some(*tid))
    };
    // A chance word of one descriptor could be its number too.
    let others = (0..DESCRIPTOR).step_by(4).filter(|_| living.len() > 1);
    let mut offsets = KNOWN_OFFSETS.iter().copied().chain(others);
    let offset = offsets.find(is_right).filter(|_| !living.is_empty());
    let number = offset.and_then(|offset| number_at(&descriptor, offset));
    number.is_some_and(|number| !tids.contains(&number))
}

fn read_descriptor(memory: &dyn RemoteMemory, thread_id: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0; DESCRIPTOR];
    memory.read(Address(thread_id), &mut bytes).ok()?;
    Some(bytes)
}

fn number_at(descriptor: &[u8], offset: usize) -> Option<i32> {
    descriptor
        .get(offset..)?
        .first_chunk()
        .map(|bytes| i32::from_le_bytes(*bytes))
}

/// The offset of the number: a known one if all descriptors have a number of a thread there; else the one at which most
/// of them, and at least two, have numbers of different threads. With one descriptor a chance word could be a number
/// too (1 is the first thread of a container), so that only a known offset will do.
fn find_offset(descriptors: &[(Address, Vec<u8>)], known: &FxHashSet<i32>) -> Option<usize> {
    let numbers = |offset: usize| {
        let numbers = descriptors
            .iter()
            .filter_map(move |(_, descriptor)| number_at(descriptor, offset));
        numbers.filter(|number| known.contains(number))
    };
    let usual = KNOWN_OFFSETS
        .iter()
        .copied()
        .find(|offset| numbers(*offset).count() == descriptors.len());
    usual.or_else(|| {
        let different = |offset: usize| numbers(offset).collect::<FxHashSet<i32>>().len();
        let counts = (0..DESCRIPTOR)
            .step_by(4)
            .map(|offset| (different(offset), offset));
        let least = if known.len() == 1 { 1 } else { 2 };
        let best = counts
            .filter(|(count, _)| *count >= least)
            .max_by_key(|(count, offset)| (*count, usize::MAX - offset));
        best.map(|(_, offset)| offset)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::memory::RecordedMemory;

    fn state(address: u64, thread_id: u64, native: Option<u64>) -> ThreadState {
        ThreadState {
            address: Address(address),
            interpreter: Address(1),
            thread_id,
            native_thread_id: native,
        }
    }

    fn descriptor(tid: i32) -> Vec<u8> {
        let mut bytes = vec![0; DESCRIPTOR];
        bytes[720..724].copy_from_slice(&tid.to_le_bytes());
        // A number of another thread, at the same place in all of them, must not mislead.
        bytes[100..104].copy_from_slice(&70_i32.to_le_bytes());
        bytes
    }

    #[test]
    fn an_ended_thread_is_known_by_its_descriptor_only_where_living_ones_are() {
        let memory = RecordedMemory::new()
            .with(Address(0x1000), descriptor(70))
            .with(Address(0x2000), descriptor(71))
            .with(Address(0x3000), descriptor(0))
            .with(Address(0x4000), vec![0; DESCRIPTOR]);
        let ended = |living: &[(u64, i32)], thread_id| {
            is_shown_ended(&memory, living, thread_id, &[70, 71])
        };
        let living = [(0x1000, 70)];
        assert!(ended(&living, 0x3000));
        assert!(ended(&living, 0x9000));
        assert!(!ended(&living, 0x2000));
        // Another C library, whose descriptors are not known: it may be there.
        assert!(!ended(&[(0x4000, 70)], 0x3000));
        assert!(!ended(&[], 0x3000));
    }

    #[test]
    fn numbers_from_states_and_from_descriptors() {
        let memory = RecordedMemory::new()
            .with(Address(0x1000), descriptor(70))
            .with(Address(0x2000), descriptor(71));
        let states = [
            state(1, 0x1000, None),
            state(2, 0x2000, None),
            state(3, 0x9000, Some(72)),
            state(4, 0x9000, None),
        ];
        let ids = native_ids(&memory, &states, &[70, 71, 72]);
        assert_eq!(ids.len(), 3);
        assert_eq!(
            [ids[&Address(1)], ids[&Address(2)], ids[&Address(3)]],
            [70, 71, 72]
        );
    }

    #[test]
    fn a_number_left_by_a_fork_is_not_believed() {
        let memory = RecordedMemory::new().with(Address(0x1000), descriptor(70));
        let ids = native_ids(&memory, &[state(1, 0x1000, Some(5))], &[70]);
        assert_eq!(ids[&Address(1)], 70);
    }

    #[test]
    fn a_chance_word_is_no_number() {
        let mut bytes = descriptor(8);
        bytes[24..28].copy_from_slice(&1_i32.to_le_bytes());
        let memory = RecordedMemory::new().with(Address(0x1000), bytes.clone());
        let ids = native_ids(&memory, &[state(1, 0x1000, None)], &[1, 8]);
        assert_eq!(ids[&Address(1)], 8);
        bytes[720..724].fill(0);
        let memory = RecordedMemory::new().with(Address(0x1000), bytes);
        assert!(native_ids(&memory, &[state(1, 0x1000, None)], &[1, 8]).is_empty());
    }
}
