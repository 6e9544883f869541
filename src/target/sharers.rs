//! Which other processes that run the same program map a semaphore that processes share; what they do with it, nobody can say from here.

use std::os::unix::fs::MetadataExt;

use rustc_hash::FxHashMap;

use super::Target;
use super::family::list_processes;
use super::maps::{Mapping, find_mapping, parse_maps};
use crate::model::{Address, Pid};
use crate::sys::procfile::ProcDir;

/// Most processes that are looked at.
const MAX_PROCESSES: usize = 65_536;
/// Most processes that are named for one semaphore.
const MAX_SHARERS: usize = 64;
/// Where `sem_open` makes its files (`sysdeps/pthread/sem_open.c`, glibc 2.36).
const SEMAPHORES: &[u8] = b"/dev/shm/sem.";

/// A semaphore in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedSemaphore {
    /// The file's name, as it was made; `multiprocessing` deletes it at once.
    pub name: String,
    /// The other processes that map it, with their titles, in ascending order of pids.
    pub sharers: Vec<(Pid, Option<String>)>,
}

/// The semaphores at these addresses of `target`. Reading the mappings of a process can block for as long as its `mmap_lock` is held.
pub fn find_semaphores(
    target: &Target,
    addresses: &[Address],
) -> FxHashMap<Address, SharedSemaphore> {
    let mut found = FxHashMap::default();
    let Ok(bytes) = target.proc().read("maps") else {
        return found;
    };
    let own = parse_maps(&bytes);
    let mut files: FxHashMap<(u64, Vec<u8>), Vec<Address>> = FxHashMap::default();
    for address in addresses {
        let mapping = find_mapping(&own, *address);
        if let Some(mapping) = mapping.filter(|mapping| mapping.name.starts_with(SEMAPHORES)) {
            files.entry(file_of(mapping)).or_default().push(*address);
            let name = mapping
                .name
                .strip_suffix(b" (deleted)")
                .unwrap_or(&mapping.name);
            let semaphore = SharedSemaphore {
                name: String::from_utf8_lossy(name).into_owned(),
                sharers: Vec::new(),
            };
            found.insert(*address, semaphore);
        }
    }
    if files.is_empty() {
        return found;
    }
    let own_program = program(target.pid());
    let mut pids = list_processes().unwrap_or_default();
    pids.sort_unstable();
    for pid in pids.into_iter().take(MAX_PROCESSES) {
        if pid == target.pid() || program(pid) != own_program {
            continue;
        }
        // One that we may not look at stays unnamed.
        let Some(bytes) = ProcDir::open(pid)
            .ok()
            .and_then(|proc| proc.read("maps").ok())
        else {
            continue;
        };
        let mut title = None;
        for mapping in parse_maps(&bytes)
            .iter()
            .filter(|mapping| mapping.name.starts_with(SEMAPHORES))
        {
            for address in files.get(&file_of(mapping)).into_iter().flatten() {
                let title = title.get_or_insert_with(|| title_of(pid)).clone();
                if let Some(semaphore) = found.get_mut(address)
                    && semaphore.sharers.len() < MAX_SHARERS
                    && semaphore
                        .sharers
                        .last()
                        .is_none_or(|(last, _)| *last != pid)
                {
                    semaphore.sharers.push((pid, title));
                }
            }
        }
    }
    found
}

/// Which program a process runs. Those that share semaphores run the same interpreter, and to look at the mappings of all processes of a
/// machine would take long.
fn program(pid: Pid) -> Option<(u64, u64)> {
    let file = std::fs::metadata(format!("/proc/{pid}/exe")).ok()?;
    Some((file.dev(), file.ino()))
}

/// What tells one file from another: names are made up by chance, so that the same number on two file systems does not matter.
fn file_of(mapping: &Mapping) -> (u64, Vec<u8>) {
    (mapping.inode, mapping.name.clone())
}

fn title_of(pid: Pid) -> Option<String> {
    let arguments = Target::open(pid).ok()?.command_line().ok()?;
    let arguments = arguments
        .iter()
        .map(|argument| String::from_utf8_lossy(argument));
    let title = arguments.collect::<Vec<_>>().join(" ");
    (!title.is_empty()).then_some(title)
}
