//! Which other processes that run the same program map a semaphore that processes share; what they do with it, nobody can say from here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use rustix::fs::{AtFlags, OFlags, StatxFlags, statx};

use super::Target;
use super::family::list_processes;
use super::maps::{Mapping, find_mapping, parse_maps};
use crate::model::{Address, Pid};
use crate::sys::deadline::{self, Reply, TimeBudget};
use crate::sys::procfile::ProcDir;

/// Most processes that are looked at.
const MAX_PROCESSES: usize = 65_536;
/// Most processes that are named for one semaphore.
const MAX_SHARERS: usize = 64;
/// How long the search may take.
const MAX_SEARCH: Duration = Duration::from_millis(500);
/// How long one process may take to show its mappings.
const MAX_ONE: Duration = Duration::from_millis(100);
/// Where `sem_open` makes its files (`sysdeps/pthread/sem_open.c`, glibc 2.36).
const SEMAPHORES: &[u8] = b"/dev/shm/sem.";

/// Processes that have not shown their mappings in time, and when: each attempt leaves a thread behind.
static SILENT: Mutex<BTreeMap<Pid, Instant>> = Mutex::new(BTreeMap::new());
/// After so long they are asked again.
const SILENCE: Duration = Duration::from_secs(30);

/// A semaphore in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedSemaphore {
    /// The file's name, as it was made; `multiprocessing` deletes it at once.
    pub name: String,
    /// The other processes that map it, with their titles, in ascending order of pids.
    pub sharers: Vec<(Pid, Option<String>)>,
    /// How many processes did not show in time whether they map it.
    pub unasked: usize,
}

/// The semaphores at these addresses of `target`. Reading the mappings of a process can block for as long as its `mmap_lock` is held:
/// one that does not show them in time is left out, and counted.
pub fn find_semaphores(
    target: &Arc<Target>,
    addresses: &[Address],
    time: TimeBudget,
) -> FxHashMap<Address, SharedSemaphore> {
    let time = TimeBudget::new(time.at_most(MAX_SEARCH));
    let mut found = FxHashMap::default();
    let owned = Arc::clone(target);
    let own = deadline::run(time.left(), move || mappings_of_semaphores(owned.proc()));
    let own = own.ok().flatten().unwrap_or_default();
    let mut files: FxHashMap<(u64, Vec<u8>), Vec<Address>> = FxHashMap::default();
    for address in addresses {
        if let Some(mapping) = find_mapping(&own, *address) {
            files.entry(file_of(mapping)).or_default().push(*address);
            let name = mapping
                .name
                .strip_suffix(b" (deleted)")
                .unwrap_or(&mapping.name);
            let semaphore = SharedSemaphore {
                name: String::from_utf8_lossy(name).into_owned(),
                sharers: Vec::new(),
                unasked: 0,
            };
            found.insert(*address, semaphore);
        }
    }
    if files.is_empty() {
        return found;
    }
    let others = others_of_program(target.pid());
    let mut silent = SILENT
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    silent.retain(|_, since| since.elapsed() < SILENCE);
    let mut unasked = others.iter().filter(|pid| silent.contains_key(pid)).count();
    let asked: Vec<Pid> = others
        .into_iter()
        .filter(|pid| !silent.contains_key(pid))
        .collect();
    let wanted = files.clone();
    let answers = deadline::each(asked.clone(), MAX_ONE, time, move |pid| {
        sharer(*pid, &wanted)
    });
    for (pid, answer) in asked.into_iter().zip(answers) {
        let answer = match answer {
            Reply::Given(answer) => answer,
            Reply::Silent => {
                unasked += 1;
                silent.insert(pid, Instant::now());
                continue;
            }
            Reply::NotAsked => {
                unasked += 1;
                continue;
            }
        };
        for address in answer.shared {
            if let Some(semaphore) = found.get_mut(&address)
                && semaphore.sharers.len() < MAX_SHARERS
            {
                semaphore.sharers.push((pid, answer.title.clone()));
            }
        }
    }
    *SILENT.lock().unwrap_or_else(PoisonError::into_inner) = silent;
    for semaphore in found.values_mut() {
        semaphore.unasked = unasked;
    }
    found
}

/// What another process says.
#[derive(Debug, Default)]
struct Sharer {
    /// The addresses, in the target, of the semaphores that it maps too.
    shared: Vec<Address>,
    title: Option<String>,
}

/// Which of the semaphores in `files` a process maps; none if we may not ask it.
fn sharer(pid: Pid, files: &FxHashMap<(u64, Vec<u8>), Vec<Address>>) -> Sharer {
    let mappings = ProcDir::open(pid)
        .ok()
        .and_then(|proc| mappings_of_semaphores(&proc));
    let mut shared: Vec<Address> = mappings
        .iter()
        .flatten()
        .filter_map(|mapping| files.get(&file_of(mapping)))
        .flatten()
        .copied()
        .collect();
    shared.sort_unstable();
    shared.dedup();
    let title = (!shared.is_empty()).then(|| title_of(pid)).flatten();
    Sharer { shared, title }
}

fn mappings_of_semaphores(proc: &ProcDir) -> Option<Vec<Mapping>> {
    let mut mappings = parse_maps(&proc.read("maps").ok()?);
    mappings.retain(|mapping| mapping.name.starts_with(SEMAPHORES));
    Some(mappings)
}

/// The other processes that run the same program. Those that share semaphores run the same interpreter, and to look at the mappings of
/// all processes of a machine would take long.
fn others_of_program(own: Pid) -> Vec<Pid> {
    let own_program = program(own);
    let mut pids = list_processes().unwrap_or_default();
    pids.sort_unstable();
    pids.truncate(MAX_PROCESSES);
    pids.retain(|pid| *pid != own && program(*pid) == own_program);
    pids
}

/// Which program a process runs, by what is known of the file without asking its file system, which may not answer.
fn program(pid: Pid) -> Option<(u32, u32, u64)> {
    let exe = ProcDir::open(pid)
        .ok()?
        .open_with("exe", OFlags::PATH)
        .ok()?;
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let file = statx(&exe, "", flags, StatxFlags::INO).ok()?;
    Some((file.stx_dev_major, file.stx_dev_minor, file.stx_ino))
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
