//! A pipe that a command has left open: the command has ended, and what it started in the background still has the writing end.

use std::time::Duration;

use crate::diagnose::wait_graph::children::children_of;
use crate::model::{Pid, ProcessSnapshot, Resource, ThreadSnapshot, WaitKind};
use crate::wait::polls_pipes;

/// Most generations that are followed from a process to its ancestors.
const MAX_GENERATIONS: usize = 64;
/// How far off the time is at which a process has started: the kernel counts it in ticks.
const MAX_START_ERROR: Duration = Duration::from_millis(20);
/// Functions of `subprocess` that read the output of a command to its end.
const READ_TO_END: [&str; 6] = [
    "communicate",
    "_communicate",
    "check_output",
    "run",
    "getoutput",
    "getstatusoutput",
];

/// What keeps a pipe open whose command has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOpen {
    /// The command: a child that has ended and was not reaped. Where the pipe was merely inherited, it is not known.
    pub child: Option<Pid>,
    /// Those who have the writing end.
    pub keepers: Vec<Pid>,
    /// Whether the call, as its frames show, reads until nobody has the writing end any more. Else it may read line by line what is written in
    /// the background, by design.
    pub reads_to_end: bool,
}

/// What keeps the pipe open that a thread reads from. It is one of two cases.
///
/// Whoever has its writing end is no descendant of the reading process, and yet not older than one of that process' children, which has
/// ended: so it was started by that child, or one of its children, and has inherited the pipe. (It could also have been sent the
/// descriptor, which is why this alone is not the whole evidence.) A process that takes in orphans is their parent: there it is not told apart.
///
/// Or the output of a command is read to its end, and nobody has the writing end as its standard output or error, which a command has it
/// as: others have inherited it, such as workers that another thread forked while the command was started.
pub fn find_left_open(
    processes: &[ProcessSnapshot],
    process: &ProcessSnapshot,
    thread: &ThreadSnapshot,
) -> Option<LeftOpen> {
    let wait = thread.wait.as_ref()?;
    let resource = wait.resource.as_ref()?;
    let reads = match wait.kind {
        WaitKind::PipeRead => resource.kind == "pipe",
        WaitKind::Poll => polls_pipes(resource),
        _ => false,
    };
    if !reads || wait.timeout.is_some() || thread.interpreter.is_none() {
        return None;
    }
    let holders = wait.holder.iter().chain(&wait.other_holders);
    let mut keepers: Vec<Pid> = holders.map(|holder| holder.pid).collect();
    keepers.sort_unstable();
    keepers.dedup();
    let find = |pid: Pid| processes.iter().find(|process| process.pid == pid);
    if keepers.is_empty() || !keepers.iter().all(|keeper| find(*keeper).is_some()) {
        return None;
    }
    let reads_to_end = reads_to_end(thread);
    let child = find_starter(processes, process, &keepers);
    let is_inherited = reads_to_end && is_nobodys_output(resource, process.pid);
    (child.is_some() || is_inherited).then_some(LeftOpen {
        child,
        keepers,
        reads_to_end,
    })
}

/// The last child of `process` that has ended and may have started all of the keepers, none of which is a descendant.
fn find_starter(
    processes: &[ProcessSnapshot],
    process: &ProcessSnapshot,
    keepers: &[Pid],
) -> Option<Pid> {
    let starts = keepers.iter().map(|keeper| {
        let mut all = processes.iter();
        let keeper = all.find(|process| process.pid == *keeper)?;
        keeper
            .started_at
            .filter(|_| !descends(processes, keeper, process.pid))
    });
    let first = starts.collect::<Option<Vec<_>>>()?.into_iter().min()?;
    let children = children_of(processes, process.pid).into_iter();
    let ended = children.filter(|child| child.end.is_some());
    let ended = ended.map(|child| child.process);
    let starter = ended
        .filter(|child| {
            let started = child.started_at;
            started.is_some_and(|started| started <= first + MAX_START_ERROR)
        })
        .max_by_key(|child| (child.started_at, child.pid));
    starter.map(|child| child.pid)
}

/// Whether others than `own` have the writing ends, and nobody has one as its standard output or error.
fn is_nobodys_output(resource: &Resource, own: Pid) -> bool {
    const STANDARD: std::ops::RangeInclusive<i32> = 0..=2;
    let members = resource
        .members
        .iter()
        .filter(|member| member.for_read)
        .map(|member| &member.resource);
    let parts = std::iter::once(resource).chain(members);
    let mut ends = parts.flat_map(|part| &part.ends).peekable();
    ends.peek().is_some() && ends.all(|end| end.pid != own && !STANDARD.contains(&end.fd))
}

/// Whether `process` is `ancestor`, or a descendant of it through parents that are there.
fn descends(processes: &[ProcessSnapshot], process: &ProcessSnapshot, ancestor: Pid) -> bool {
    let mut at = process;
    for _ in 0..MAX_GENERATIONS {
        if at.pid == ancestor || at.ppid == ancestor {
            return true;
        }
        match processes.iter().find(|parent| parent.pid == at.ppid) {
            Some(parent) => at = parent,
            None => return false,
        }
    }
    true
}

fn reads_to_end(thread: &ThreadSnapshot) -> bool {
    thread.frames.iter().any(|frame| {
        let is_subprocess = matches!(frame.module.as_deref(), Some("subprocess" | "subprocess32"));
        let name = frame.function.rsplit('.').next().unwrap_or_default();
        is_subprocess && READ_TO_END.contains(&name)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::diagnose::testing::{held_by, process, thread};
    use crate::model::{End, EndAccess, Frame, HolderConfidence, SchedState};

    /// Process 1 reads from a pipe of 9; its child 2 has ended.
    fn family() -> Vec<ProcessSnapshot> {
        let mut reader = held_by(
            thread(1, WaitKind::PipeRead, 60),
            9,
            None,
            HolderConfidence::Proven,
        );
        let wait = reader.wait.as_mut().unwrap();
        wait.resource = Some(Resource {
            kind: "pipe".into(),
            ..Resource::default()
        });
        let aged = |pid: i32, ppid: i32, seconds: u64, threads: Vec<ThreadSnapshot>| {
            let mut process = process(pid, threads);
            process.ppid = Pid(ppid);
            let all = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000);
            process.started_at = Some(all - Duration::from_secs(seconds));
            process
        };
        let mut child = aged(2, 1, 50, Vec::new());
        child.state = SchedState::Zombie;
        let keeper = aged(9, 77, 50, vec![thread(9, WaitKind::Sleep, 50)]);
        vec![aged(1, 70, 100, vec![reader]), child, keeper]
    }

    fn find(family: &[ProcessSnapshot]) -> Option<LeftOpen> {
        find_left_open(family, &family[0], &family[0].threads[0])
    }

    #[test]
    fn what_a_command_left_behind_is_no_descendant_and_younger() {
        let found = find(&family()).unwrap();
        assert_eq!(
            (found.child, &found.keepers[..], found.reads_to_end),
            (Some(Pid(2)), &[Pid(9)][..], false)
        );
        let mut communicates = family();
        let frame = Frame {
            module: Some("subprocess".into()),
            ..Frame::marker("Popen.communicate")
        };
        communicates[0].threads[0].frames = vec![Arc::new(frame)];
        assert!(find(&communicates).unwrap().reads_to_end);
    }

    #[test]
    fn whoever_inherited_it_does_not_have_it_as_its_output() {
        let inherited = |fd: i32, communicates: bool| {
            let mut family = family();
            // A worker of the reader's own; no child has ended.
            family[2].ppid = Pid(1);
            family.remove(1);
            let thread = &mut family[0].threads[0];
            let wait = thread.wait.as_mut().unwrap();
            wait.resource.as_mut().unwrap().ends = vec![End {
                pid: Pid(9),
                fd,
                access: EndAccess::Write,
            }];
            let frame = Frame {
                module: Some("subprocess".into()),
                ..Frame::marker("Popen.communicate")
            };
            thread.frames = communicates.then(|| Arc::new(frame)).into_iter().collect();
            find(&family).map(|left| (left.child, left.keepers))
        };
        assert_eq!(inherited(5, true), Some((None, vec![Pid(9)])));
        // The command itself; and a pipe that is none of a command.
        assert_eq!(inherited(1, true), None);
        assert_eq!(inherited(2, true), None);
        assert_eq!(inherited(5, false), None);
    }

    #[test]
    fn whoever_may_have_it_for_another_reason_left_nothing_open() {
        let changes: [fn(&mut Vec<ProcessSnapshot>); 8] = [
            // The command has not ended.
            |family| family[1].state = SchedState::Sleeping,
            // It was there before the command: the other half of a pipeline.
            |family| family[2].started_at = family[0].started_at,
            // A child of its own, and one of that.
            |family| family[2].ppid = Pid(1),
            |family| {
                let mut between = family[2].clone();
                (between.pid, between.ppid) = (Pid(8), Pid(1));
                family[2].ppid = Pid(8);
                family.push(between);
            },
            |family| family[1].ppid = Pid(70),
            // It was not looked into.
            |family| drop(family.pop()),
            |family| {
                let wait = family[0].threads[0].wait.as_mut().unwrap();
                wait.timeout = Some(Duration::from_secs(5));
            },
            |family| {
                let wait = family[0].threads[0].wait.as_mut().unwrap();
                wait.resource.as_mut().unwrap().kind = "fifo".into();
            },
        ];
        for (index, change) in changes.into_iter().enumerate() {
            let mut family = family();
            change(&mut family);
            assert_eq!(find(&family), None, "{index}");
        }
    }

    #[test]
    fn parents_that_lead_back_to_themselves_end() {
        let mut family = family();
        family[2].ppid = Pid(9);
        assert_eq!(find(&family), None);
    }
}
