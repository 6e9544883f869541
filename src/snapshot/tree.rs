//! A process and its descendants at one instant; what vanishes meanwhile is an entry, not an error.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::capture::{Capture, capture};
use super::descriptor_uses::find_descriptor_uses;
use super::options::CaptureOptions;
use super::stops::StopAccount;
use crate::model::{
    MemoryOutcome, Pid, ProcessCounts, ProcessSnapshot, SchedState, ThreadRef, Wait,
};
use crate::python::frame::StackRoom;
use crate::sys::deadline::TimeBudget;
use crate::sys::descriptors::{is_shortage, shortages};
use crate::sys::fork::is_ours;
use crate::target::family::{Relative, tree};
use crate::target::{Target, TargetError};
use crate::wait::{contested_ends, link, name_users, uses_by_call};

/// How long all strangers that somebody waits for may take together.
const STRANGERS_TIME: Duration = Duration::from_secs(1);

/// How long it may take in all to find out which threads use the other ends of waits.
const USERS_TIME: Duration = Duration::from_secs(1);

/// Most processes outside of the tree that are captured because somebody waits for them.
const MAX_HOLDERS: usize = 16;
/// How far such waits are followed.
const MAX_ROUNDS: usize = 3;

/// Which processes are captured.
#[derive(Clone, Copy, Debug)]
pub struct TreeOptions {
    /// How each is captured.
    pub capture: CaptureOptions,
    /// Whether the descendants are captured too.
    pub subprocesses: bool,
    /// Whether processes that a thread of the tree has waited for that long are captured too.
    pub holders_after: Option<Duration>,
}

/// The processes of a tree.
#[derive(Debug)]
pub struct TreeCapture {
    /// Parents before their children.
    pub processes: Vec<ProcessSnapshot>,
    /// What stopping threads has cost, in all.
    pub stops: StopAccount,
}

/// Captures `root`, and its descendants if they are wanted.
///
/// Fails only when `root` itself can't be looked at.
pub fn capture_tree(root: Pid, options: TreeOptions) -> Result<TreeCapture, TargetError> {
    capture_tree_with(root, options, &BTreeMap::new())
}

/// The same; threads of which it is known what they wait for in slices have that wait.
pub fn capture_tree_with(
    root: Pid,
    options: TreeOptions,
    known: &BTreeMap<ThreadRef, Wait>,
) -> Result<TreeCapture, TargetError> {
    let shortages_before = shortages();
    let target = Target::open(root)?;
    let holders_after = options.holders_after;
    let relatives = if options.subprocesses {
        tree(root)
    } else {
        Vec::new()
    };
    // Without /proc of others (hidepid) the tree can be empty; the root is captured all the same.
    let mut options = options.capture;
    if relatives.len() > 1 || holders_after.is_some() {
        options.room = options.room.half();
    }
    let Capture {
        process,
        mut stops,
        taken,
    } = capture(target, options);
    options.room = room_for_next(options.room, taken);
    let mut processes = vec![process];
    for relative in relatives
        .into_iter()
        .filter(|relative| relative.pid != root && !is_ours(relative.pid))
    {
        match Target::open(relative.pid) {
            Ok(target) => {
                let captured = capture(target, options);
                stops.add(captured.stops);
                options.room = room_for_next(options.room, captured.taken);
                processes.push(ProcessSnapshot {
                    depth: relative.depth,
                    ..captured.process
                });
            }
            Err(error) => processes.push(vanished(&relative, &error)),
        }
    }
    for process in &mut processes {
        let pid = process.pid;
        for thread in &mut process.threads {
            let key = ThreadRef {
                pid,
                tid: thread.tid,
            };
            if let Some(wait) = known.get(&key) {
                thread.wait = Some(wait.clone());
            }
        }
    }
    link(&mut processes);
    if let Some(after) = holders_after {
        stops.add(add_holders(&mut processes, after, options));
        find_end_users(&mut processes, after, options);
    }
    let unopened = shortages() - shortages_before;
    if unopened > 0
        && let Some(root) = processes.first_mut()
    {
        // Whoever needed them has gone on without.
        root.lacks_descriptors = true;
        root.errors.push(format!(
            "{unopened} files could not be opened: too many open files"
        ));
    }
    Ok(TreeCapture { processes, stops })
}

/// What the stacks of the next process may take, where those of the last one were given `given`: half of what is left, so that no
/// process leaves the others nothing.
fn room_for_next(given: StackRoom, taken: StackRoom) -> StackRoom {
    // As much as was given is kept for those that come behind.
    given.without(StackRoom {
        memory: taken.memory / 2,
        written: taken.written / 2,
    })
}

/// Adds the processes that threads have waited for at least that long, and those that these wait for in turn. Gives what
/// stopping their threads has cost.
fn add_holders(
    processes: &mut Vec<ProcessSnapshot>,
    after: Duration,
    options: CaptureOptions,
) -> StopAccount {
    // Strangers are not worth a long wait.
    let mut options = CaptureOptions {
        time: TimeBudget::new(options.time.at_most(STRANGERS_TIME)),
        ..options
    };
    let mut stops = StopAccount::default();
    let mut looked_at = 0;
    let mut left = MAX_HOLDERS;
    for _ in 0..MAX_ROUNDS {
        let wanted = holders_of(&processes[looked_at..], processes, after);
        looked_at = processes.len();
        for pid in wanted.into_iter().take(left) {
            // One that ends meanwhile, or can't be looked at, is known by its pid only.
            if let Ok(target) = Target::open(pid) {
                let captured = capture(target, options);
                stops.add(captured.stops);
                options.room = room_for_next(options.room, captured.taken);
                processes.push(ProcessSnapshot {
                    is_related: true,
                    ..captured.process
                });
                left -= 1;
            }
        }
        if processes.len() == looked_at {
            break;
        }
        link(&mut processes[looked_at..]);
    }
    stops
}

/// The processes that threads of `some` have waited for, and that are not among `all`.
fn holders_of(some: &[ProcessSnapshot], all: &[ProcessSnapshot], after: Duration) -> BTreeSet<Pid> {
    let threads = some.iter().flat_map(|process| &process.threads);
    let waits = threads.filter_map(|thread| thread.wait.as_ref());
    let long = waits.filter(|wait| wait.since.is_some_and(|since| since.elapsed >= after));
    let pids = long.flat_map(|wait| wait.holder.iter().chain(&wait.other_holders));
    pids.filter(|holder| !holder.is_gone)
        .map(|holder| holder.pid)
        .filter(|pid| !is_ours(*pid) && all.iter().all(|process| process.pid != *pid))
        .collect()
}

/// Finds out which threads use the other ends of waits of at least that long, where several could.
fn find_end_users(processes: &mut [ProcessSnapshot], after: Duration, options: CaptureOptions) {
    let contested = contested_ends(processes, after);
    if contested.is_empty() {
        return;
    }
    let mut uses = uses_by_call(processes);
    let time = TimeBudget::new(options.time.at_most(USERS_TIME));
    let mut read = 0;
    for (pid, fds) in contested {
        let is_in_call = |fd: &i32| {
            let mut calls = uses.iter().map(|found| &found.user);
            calls.any(|user| (user.pid, user.fd) == (pid, *fd))
        };
        let open: Vec<i32> = fds.into_iter().filter(|fd| !is_in_call(fd)).collect();
        let process = processes.iter().find(|process| process.pid == pid);
        if let Some(process) = process.filter(|_| !open.is_empty() && read < MAX_HOLDERS) {
            uses.extend(find_descriptor_uses(process, &open, time));
            read += 1;
        }
    }
    name_users(processes, &uses);
}

fn vanished(relative: &Relative, error: &TargetError) -> ProcessSnapshot {
    let is_unopened = matches!(error, TargetError::Io { source, .. } if is_shortage(source));
    ProcessSnapshot {
        pid: relative.pid,
        ns_pid: None,
        ppid: relative.ppid,
        depth: relative.depth,
        handles_signals: false,
        handles_alarms: false,
        is_related: false,
        title: String::new(),
        command: Vec::new(),
        runtime: None,
        memory: match is_unopened {
            true => MemoryOutcome::Unreadable,
            false => MemoryOutcome::Ended,
        },
        state: match is_unopened {
            true => SchedState::Unknown(b'?'),
            false => SchedState::Dead,
        },
        started_at: None,
        age: None,
        container: None,
        tracer: None,
        refuses_calls: false,
        unread_threads: 0,
        lacks_descriptors: is_unopened,
        counts: ProcessCounts::default(),
        progress: None,
        threads: Vec::new(),
        errors: vec![error.to_string()],
    }
}
