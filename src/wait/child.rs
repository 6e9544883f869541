//! Waits for processes to end: the children of wait4 and waitid, the process of a pidfd, and the child of a vfork.

use std::time::Duration;

use syscalls::Sysno;

use super::arguments::PointedArguments;
use super::call::fd_of;
use super::describe::describe_fd;
use super::surroundings::{Child, WaitContext, only_thread, process_holder};
use crate::model::{HolderConfidence, Pid, Resource, SchedState, Wait, WaitKind};
use crate::sys::procfile::ProcDir;
use crate::target::Target;
use crate::target::family::all_processes;
use crate::target::status::{Stat, Status};

/// Most children that are listed as those any of which could end the wait.
const MAX_CHILDREN: usize = 1000;
/// How far the beginnings of a vfork's child and of the wait for it may be apart, by clocks of which one counts ticks.
const MAX_BEGINNING: Duration = Duration::from_millis(100);
/// `CLONE_VFORK` (`include/uapi/linux/sched.h`).
const CLONE_VFORK: u64 = 0x4000;

// `idtype` of waitid (`include/uapi/linux/wait.h`).
const P_PID: u64 = 1;
const P_PGID: u64 = 2;
const P_PIDFD: u64 = 3;

/// Whose end is waited for, in the numbers of the target's pid namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Any,
    Process(i32),
    Group(i32),
}

/// Describes a wait4 or waitid.
pub(super) fn describe_child(
    context: &WaitContext<'_>,
    call: Sysno,
    arguments: &[u64; 6],
    wait: &mut Wait,
) {
    let sockets = context.sockets;
    let target = sockets.target();
    let number = |argument: u64| ((argument & u64::from(u32::MAX)) as u32).cast_signed();
    let wanted = if call == Sysno::waitid {
        match arguments[0] & u64::from(u32::MAX) {
            P_PIDFD => {
                let described = fd_of(arguments[1]).and_then(|fd| describe_fd(sockets, fd));
                wait.resource = described.map(|described| described.resource);
                describe_pidfd(wait);
                return;
            }
            P_PID => Wanted::Process(number(arguments[1])),
            P_PGID => Wanted::Group(number(arguments[1])),
            _ => Wanted::Any,
        }
    } else {
        match number(arguments[0]) {
            pid @ 1.. => Wanted::Process(pid),
            -1 => Wanted::Any,
            group => Wanted::Group(group.saturating_neg()),
        }
    };
    // Once for all threads: a pool of those can wait for a child each.
    let all = context.children.get_or_init(|| children_of(target));
    let mut children: Vec<&Child> = all.iter().collect();
    match wanted {
        Wanted::Any => {}
        Wanted::Process(pid) => children.retain(|child| child.innermost == Some(pid)),
        // Numbers of groups are those of the target's pid namespace: compared only where that is ours.
        Wanted::Group(group) => {
            let own = target.stat().process_group;
            let group = if group == 0 { own } else { Some(group) };
            children.retain(|child| child.stat.process_group == group);
        }
    }
    name_children(&children, wanted, wait);
}

fn name_children(children: &[&Child], wanted: Wanted, wait: &mut Wait) {
    let mut resource = Resource {
        kind: "process".to_owned(),
        ..Resource::default()
    };
    if let [child] = children {
        resource.pid = Some(child.pid);
        resource.state = Some(child.stat.state.word().to_owned());
    } else if wanted == Wanted::Any {
        resource.name = Some(format!("any of {} children", children.len()));
    }
    wait.resource = Some(resource);
    // One that has ended and was not taken can't be what is waited for. Of one whose main thread alone has ended, the others go on
    // (`kernel/exit.c::wait_consider_task`, `delay_group_leader`, Linux 6.18).
    let mut holders = children
        .iter()
        .filter(|child| child.stat.state != SchedState::Zombie || has_other_threads(child.pid))
        .take(MAX_CHILDREN)
        .map(|child| process_holder(child.pid, HolderConfidence::Proven));
    wait.holder = holders.next();
    wait.other_holders = holders.collect();
}

fn has_other_threads(pid: Pid) -> bool {
    let tasks = ProcDir::open(pid).and_then(|proc| proc.tasks());
    tasks.is_ok_and(|tasks| tasks.len() > 1)
}

/// Completes a wait on a pidfd, whose resource has the pid.
pub(super) fn describe_pidfd(wait: &mut Wait) {
    let Some(resource) = &mut wait.resource else {
        return;
    };
    let Some(pid) = resource.pid else {
        return;
    };
    resource.state = read_stat(pid).map(|stat| stat.state.word().to_owned());
    wait.holder = Some(process_holder(pid, HolderConfidence::Proven));
}

/// A vfork (and `posix_spawn`, which uses it) sleeps, uninterruptibly, until its child has replaced its program or ended.
pub(super) fn describe_vfork(
    target: &Target,
    call: Sysno,
    arguments: &[u64; 6],
    pointed: Option<&PointedArguments>,
    wait: &mut Wait,
) {
    let is_vfork = match call {
        #[cfg(target_arch = "x86_64")]
        Sysno::vfork => true,
        Sysno::clone => arguments[0] & CLONE_VFORK != 0,
        Sysno::clone3 => {
            let flags = pointed.and_then(|pointed| pointed.clone_flags);
            flags.is_some_and(|flags| flags & CLONE_VFORK != 0)
        }
        _ => false,
    };
    if !is_vfork {
        return;
    }
    wait.kind = WaitKind::Child;
    // Until it is done, the thread can't have started another; other threads could, and a process that takes in orphans gets younger ones. The
    // child has the memory of its parent meanwhile, so that its stamp is the same; so is that of a fork.
    let stamp = target.stat().program_stamp();
    let mut children = children_of(target);
    if children
        .iter()
        .any(|child| child.stat.program_stamp() == stamp)
    {
        children.retain(|child| child.stat.program_stamp() == stamp);
    }
    let newest = children
        .into_iter()
        .max_by_key(|child| (child.stat.start_ticks, child.pid));
    let Some(child) = newest else {
        return;
    };
    wait.resource = Some(Resource {
        kind: "process".to_owned(),
        pid: Some(child.pid),
        state: Some(child.stat.state.word().to_owned()),
        ..Resource::default()
    });
    // One that was taken in has begun later than the wait.
    let age = Target::open(child.pid).ok().and_then(|child| child.age());
    let has_begun_with = wait.since.zip(age).is_some_and(|(since, age)| {
        age.abs_diff(since.elapsed) <= since.error.saturating_add(MAX_BEGINNING)
    });
    let is_same = child.stat.program_stamp() == stamp && stamp != (0, 0);
    let confidence = if is_same && has_begun_with && only_thread(target.pid()).is_some() {
        HolderConfidence::Proven
    } else {
        HolderConfidence::Inferred
    };
    wait.holder = Some(process_holder(child.pid, confidence));
}

/// The children of all threads of the target, in ascending order of pids.
fn children_of(target: &Target) -> Vec<Child> {
    let pids = list_children(target).unwrap_or_else(|| {
        let all = all_processes().into_iter();
        all.filter(|(_, stat)| stat.ppid == target.pid())
            .map(|(pid, _)| pid)
            .collect()
    });
    let mut children: Vec<_> = pids
        .into_iter()
        .filter_map(|pid| {
            Some(Child {
                pid,
                stat: read_stat(pid)?,
                innermost: innermost(pid),
            })
        })
        // The number may have been given to another process since.
        .filter(|child| child.stat.ppid == target.pid())
        .collect();
    children.sort_by_key(|child| child.pid);
    children
}

/// The children as the kernel lists them (CONFIG_PROC_CHILDREN); `None` where it does not.
fn list_children(target: &Target) -> Option<Vec<Pid>> {
    let mut pids = Vec::new();
    for tid in target.proc().tasks().ok()? {
        match target.proc().read(&format!("task/{tid}/children")) {
            Ok(bytes) => pids.extend(parse_children(&bytes)),
            Err(_) if pids.is_empty() => return None,
            Err(_) => {}
        }
    }
    Some(pids)
}

fn parse_children(bytes: &[u8]) -> Vec<Pid> {
    let text = String::from_utf8_lossy(bytes);
    text.split_ascii_whitespace()
        .filter_map(|word| word.parse().ok().map(Pid))
        .collect()
}

fn read_stat(pid: Pid) -> Option<Stat> {
    Stat::parse(&ProcDir::open(pid).ok()?.read_record("stat").ok()?)
}

/// Its number in its own pid namespace.
fn innermost(pid: Pid) -> Option<i32> {
    let bytes = ProcDir::open(pid).ok()?.read_record("status").ok()?;
    Some(Status::parse(&bytes).innermost_pid().unwrap_or(pid.0))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::target::sockets::Sockets;

    #[test]
    fn the_wanted_child_or_any() {
        let mut children: Vec<_> = (0..2)
            .map(|_| Command::new("cat").stdin(Stdio::piped()).spawn().unwrap())
            .collect();
        let pids = [&children[0], &children[1]].map(|child| Pid(child.id().cast_signed()));
        let own = Target::open(Pid::own()).unwrap();
        let sockets = Sockets::new(&own, false);
        let see = |call, arguments| {
            let mut wait = Wait::of_kind(WaitKind::Child);
            describe_child(&WaitContext::new(&sockets), call, &arguments, &mut wait);
            wait
        };
        let number = u64::try_from(pids[1].0).unwrap();
        for wait in [
            see(Sysno::wait4, [number | 7 << 32, 0, 0, 0, 0, 0]),
            see(Sysno::waitid, [P_PID, number, 0, 0, 0, 0]),
        ] {
            assert_eq!(wait.resource.unwrap().pid, Some(pids[1]));
            let holder = wait.holder.unwrap();
            assert_eq!(
                (holder.pid, holder.tid),
                (pids[1], Some(pids[1].main_thread()))
            );
            assert!(wait.other_holders.is_empty());
        }
        // Children of other tests may be among them.
        let wait = see(Sysno::wait4, [u64::from(u32::MAX), 0, 0, 0, 0, 0]);
        let all: Vec<_> = wait
            .holder
            .iter()
            .chain(&wait.other_holders)
            .map(|one| one.pid)
            .collect();
        assert!(pids.iter().all(|pid| all.contains(pid)), "{all:?}");
        for child in &mut children {
            drop(child.stdin.take());
            child.wait().unwrap();
        }
    }

    #[test]
    fn a_list_of_children() {
        assert_eq!(parse_children(b"12 7 x \n"), [Pid(12), Pid(7)]);
    }
}
