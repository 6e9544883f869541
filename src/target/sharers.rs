//! Which other processes map the memory that a futex word lies in, and which of their threads has the number that the word names;
//! what they do with it, nobody can say from here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use rustix::fs::{AtFlags, OFlags, StatxFlags, statx};

use super::Target;
use super::family::list_processes;
use super::maps::{Mapping, find_mapping, parse_maps};
use super::status::Status;
use crate::model::{Address, Pid, Tid};
use crate::sys::deadline::{self, Reply, TimeBudget};
use crate::sys::fork::is_ours;
use crate::sys::procfile::{ProcDir, is_gone};

/// Most processes that are looked at.
const MAX_PROCESSES: usize = 65_536;
/// Most processes that are named for one word.
const MAX_SHARERS: usize = 64;
/// Most threads of one process that are asked for their number in their own pid namespace.
const MAX_THREADS: usize = 4096;
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

/// What a futex word lies in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WordMemory {
    /// Memory that its process has for itself, whatever the call allows.
    Private,
    /// Memory that other processes can map.
    Shared(SharedWord),
}

/// A futex word in memory that processes share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedWord {
    /// The file's name, as the kernel has it; `multiprocessing` deletes it at once.
    pub name: String,
    /// Whether it is in a file that `sem_open` has made.
    pub is_semaphore: bool,
    /// The other processes that map it, in ascending order of pids.
    pub sharers: Vec<Sharer>,
    /// How many processes did not show, or not in time, whether they map it.
    pub unasked: usize,
    /// How many of those can have a thread with the number that the word names.
    pub rivals: usize,
}

/// Another process that maps a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sharer {
    /// The process.
    pub pid: Pid,
    /// Its title.
    pub title: Option<String>,
    /// Its threads that have, in their own pid namespace, the number that the word names as its owner.
    pub owners: Vec<Tid>,
}

/// A futex word of the target, and the number of the thread that it names, in that thread's own pid namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// Where it is.
    pub address: Address,
    /// Whom it names.
    pub owner: Option<i32>,
}

/// What is searched for in other processes.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    word: Word,
    /// Device and inode: what tells one file from another in all mount namespaces.
    file: ((u32, u32), u64),
    /// Where the word is in it.
    offset: u64,
}

/// Which of these words of `target` others can have, and who does; a word whose mapping is not seen is left out. Reading the mappings of
/// a process can block for as long as its `mmap_lock` is held: one that does not show them in time is counted.
///
/// Semaphores are looked for in processes that run the same program, as those of `multiprocessing` do; all other words in all processes.
pub fn find_words(
    target: &Arc<Target>,
    words: &[Word],
    time: TimeBudget,
) -> FxHashMap<Address, WordMemory> {
    let time = TimeBudget::new(time.at_most(MAX_SEARCH));
    let owned = Arc::clone(target);
    let own = deadline::run(time.left(), move || mappings_of(owned.proc()).ok());
    let own = own.ok().flatten().unwrap_or_default();
    let mut found = FxHashMap::default();
    let mut wanted = Vec::new();
    for word in words {
        let Some(mapping) = find_mapping(&own, word.address) else {
            continue;
        };
        if !mapping.shared {
            found.insert(word.address, WordMemory::Private);
            continue;
        }
        wanted.push(Wanted {
            word: *word,
            file: (mapping.device, mapping.inode),
            offset: offset_in_file(mapping, word.address),
        });
        let name = mapping
            .name
            .strip_suffix(b" (deleted)")
            .unwrap_or(&mapping.name);
        let shared = SharedWord {
            name: String::from_utf8_lossy(name).into_owned(),
            is_semaphore: name.starts_with(SEMAPHORES),
            sharers: Vec::new(),
            unasked: 0,
            rivals: 0,
        };
        found.insert(word.address, WordMemory::Shared(shared));
    }
    if !wanted.is_empty() {
        add_sharers(target.pid(), wanted, time, &mut found);
    }
    found
}

/// Asks other processes whether they map what is wanted.
fn add_sharers(
    own: Pid,
    wanted: Vec<Wanted>,
    time: TimeBudget,
    found: &mut FxHashMap<Address, WordMemory>,
) {
    let mut shared: FxHashMap<Address, &mut SharedWord> = found
        .iter_mut()
        .filter_map(|(address, memory)| match memory {
            WordMemory::Shared(shared) => Some((*address, shared)),
            WordMemory::Private => None,
        })
        .collect();
    let are_semaphores = shared.values().all(|shared| shared.is_semaphore);
    let others = others_of(own, are_semaphores);
    let mut silent = SILENT
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    silent.retain(|_, since| since.elapsed() < SILENCE);
    let mut refused = 0;
    let mut unasked = others.iter().filter(|pid| silent.contains_key(pid)).count();
    let asked: Vec<Pid> = others
        .into_iter()
        .filter(|pid| !silent.contains_key(pid))
        .collect();
    let answers = deadline::each(asked.clone(), MAX_ONE, time, move |pid| {
        answer_of(*pid, &wanted)
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
        if answer.is_refused {
            refused += 1;
            for address in answer.named {
                if let Some(word) = shared.get_mut(&address) {
                    word.rivals += 1;
                }
            }
            continue;
        }
        for (address, owners) in answer.shared {
            if let Some(word) = shared.get_mut(&address)
                && word.sharers.len() < MAX_SHARERS
            {
                word.sharers.push(Sharer {
                    pid,
                    title: answer.title.clone(),
                    owners,
                });
            }
        }
    }
    *SILENT.lock().unwrap_or_else(PoisonError::into_inner) = silent;
    for word in shared.values_mut() {
        word.sharers.sort_by_key(|sharer| sharer.pid);
        word.unasked = unasked + refused;
        word.rivals += unasked;
    }
}

/// What another process says.
#[derive(Debug, Default)]
struct Answer {
    /// The addresses, in the target, of the words that it maps too, and its threads that these name.
    shared: Vec<(Address, Vec<Tid>)>,
    title: Option<String>,
    /// Whether we may not see what it maps.
    is_refused: bool,
    /// The addresses of the words that name a thread of it, where that is so: a number says which thread only within one pid namespace.
    named: Vec<Address>,
}

/// Which of the words a process maps.
fn answer_of(pid: Pid, wanted: &[Wanted]) -> Answer {
    let mappings = match ProcDir::open(pid).and_then(|proc| Ok((mappings_of(&proc)?, proc))) {
        Ok(found) => found,
        // It maps nothing any more.
        Err(error) if is_gone(&error) => return Answer::default(),
        Err(_) => return refused(pid, wanted),
    };
    let (mappings, proc) = mappings;
    let is_mapped = |wanted: &Wanted| {
        let mut mappings = mappings.iter();
        mappings.any(|mapping| {
            mapping.shared
                && (mapping.device, mapping.inode) == wanted.file
                && (mapping.offset..mapping.offset.saturating_add(mapping.size()))
                    .contains(&wanted.offset)
        })
    };
    let shared: Vec<_> = wanted
        .iter()
        .filter(|wanted| is_mapped(wanted))
        .map(|wanted| {
            let owners = wanted.word.owner.map(|owner| threads_named(&proc, owner));
            (wanted.word.address, owners.unwrap_or_default())
        })
        .collect();
    let title = (!shared.is_empty()).then(|| title_of(pid)).flatten();
    Answer {
        shared,
        title,
        ..Answer::default()
    }
}

/// Of a process that does not show what it maps, only its threads are known.
fn refused(pid: Pid, wanted: &[Wanted]) -> Answer {
    let has_thread =
        |owner: i32| ProcDir::open(pid).is_ok_and(|proc| !threads_named(&proc, owner).is_empty());
    let named = wanted.iter().map(|wanted| wanted.word);
    let named = named.filter(|word| word.owner.is_some_and(has_thread));
    Answer {
        is_refused: true,
        named: named.map(|word| word.address).collect(),
        ..Answer::default()
    }
}

/// The threads of a process that have this number in their own pid namespace.
fn threads_named(proc: &ProcDir, number: i32) -> Vec<Tid> {
    let status = |tid: Tid| {
        let bytes = proc.read_record(&format!("task/{tid}/status")).ok()?;
        Some(Status::parse(&bytes))
    };
    let has_number = |tid: &Tid| {
        status(*tid).is_some_and(|status| status.innermost_pid().unwrap_or(tid.0) == number)
    };
    // In our own pid namespace the number is the tid.
    if has_number(&Tid(number)) {
        return vec![Tid(number)];
    }
    let tids = proc.tasks().unwrap_or_default();
    let is_elsewhere = tids
        .first()
        .and_then(|tid| status(*tid))
        .is_some_and(|status| status.ns_pids.len() > 1);
    match is_elsewhere {
        true => tids
            .into_iter()
            .take(MAX_THREADS)
            .filter(has_number)
            .collect(),
        false => Vec::new(),
    }
}

fn offset_in_file(mapping: &Mapping, address: Address) -> u64 {
    let inside = address.checked_sub(mapping.start).unwrap_or(0);
    mapping.offset.saturating_add(inside)
}

/// The mappings of a process; of one whose main thread has ended before the others, those of another thread.
fn mappings_of(proc: &ProcDir) -> std::io::Result<Vec<Mapping>> {
    let own = proc.read("maps");
    if let Ok(bytes) = &own
        && !bytes.is_empty()
    {
        return Ok(parse_maps(bytes));
    }
    let others = proc.tasks().unwrap_or_default().into_iter().skip(1);
    let found = others
        .last()
        .map(|tid| proc.read(&format!("task/{tid}/maps")));
    Ok(parse_maps(&found.unwrap_or(own)?))
}

/// The other processes, those that run the same program first, or only those.
fn others_of(own: Pid, are_semaphores: bool) -> Vec<Pid> {
    let own_program = program(own);
    let mut pids = list_processes().unwrap_or_default();
    pids.sort_unstable();
    pids.truncate(MAX_PROCESSES);
    pids.retain(|pid| *pid != own && !is_ours(*pid));
    let (mut same, others): (Vec<Pid>, Vec<Pid>) = pids
        .into_iter()
        .partition(|pid| program(*pid) == own_program);
    if !are_semaphores {
        same.extend(others);
    }
    same
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

fn title_of(pid: Pid) -> Option<String> {
    let arguments = Target::open(pid).ok()?.command_line().ok()?;
    let arguments = arguments
        .iter()
        .map(|argument| String::from_utf8_lossy(argument));
    let title = arguments.collect::<Vec<_>>().join(" ");
    (!title.is_empty()).then_some(title)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    /// That it is found where it maps the memory is tested on live programs (`tests/locks.rs`).
    #[test]
    fn a_process_that_maps_nothing_of_it_has_no_part_and_one_that_does_not_show_is_known_by_its_threads()
     {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = Pid(child.id().cast_signed());
        let wanted = |address, owner| Wanted {
            word: Word {
                address: Address(address),
                owner,
            },
            file: ((0, 0), 0),
            offset: address,
        };
        let asked = [wanted(1, Some(pid.0)), wanted(2, Some(1)), wanted(3, None)];
        let answer = answer_of(pid, &asked);
        assert!(answer.shared.is_empty() && !answer.is_refused);
        assert_eq!(refused(pid, &asked).named, [Address(1)]);
        // Other memory than semaphores is searched for in every process, whatever program it runs.
        assert!(others_of(Pid::own(), false).contains(&pid));
        assert!(!others_of(Pid::own(), true).contains(&pid));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(!answer_of(pid, &asked).is_refused);
    }

    #[test]
    fn memory_of_ones_own_is_private() {
        let word = 0_u32;
        let word = Word {
            address: Address(std::ptr::from_ref(&word).addr() as u64),
            owner: None,
        };
        let target = Arc::new(Target::open(Pid::own()).unwrap());
        let found = find_words(&target, &[word], TimeBudget::new(MAX_SEARCH));
        assert_eq!(found[&word.address], WordMemory::Private);
    }
}
