//! Which threads use the other ends of what is waited on, among those that have them open: whoever merely inherited one is no reader.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::MAX_ENDS;
use super::titles::name_all;
use crate::model::{
    End, EndUser, Holder, HolderConfidence, MemoryOutcome, Pid, ProcessSnapshot, Resource,
    ThreadRef, UsedBy, Wait, WaitKind,
};
use crate::wait::surroundings::only_thread;

/// A use of a descriptor, with how far it is from the thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorUse {
    /// Who uses it.
    pub user: EndUser,
    /// Steps from a variable to it; none to the one in the thread's call.
    pub steps: u8,
}

/// The descriptors of which several threads may be the user, by process: the other ends of waits of at least that long. Only
/// processes whose Python was read are among them.
pub fn contested_ends(
    processes: &[ProcessSnapshot],
    after: Duration,
) -> BTreeMap<Pid, BTreeSet<i32>> {
    let mut wanted: BTreeMap<Pid, BTreeSet<i32>> = BTreeMap::new();
    for process in processes {
        for thread in &process.threads {
            let Some(wait) = &thread.wait else {
                continue;
            };
            let is_long = wait.since.is_some_and(|since| since.elapsed >= after);
            if !is_long || !is_contested(processes, wait) {
                continue;
            }
            for end in linked(wait).flat_map(taken_ends) {
                if find_python(processes, end.pid).is_some() {
                    wanted.entry(end.pid).or_default().insert(end.fd);
                }
            }
        }
    }
    wanted
}

/// Whether more than one thread could be the one that uses the other end.
fn is_contested(processes: &[ProcessSnapshot], wait: &Wait) -> bool {
    linked(wait).any(|resource| {
        let pids: BTreeSet<Pid> = taken_ends(resource).iter().map(|end| end.pid).collect();
        let is_threaded = |pid: &Pid| {
            find_python(processes, *pid).is_some_and(|process| process.threads.len() > 1)
        };
        pids.len() > 1 || pids.iter().any(is_threaded)
    })
}

/// The other ends of which it matters who uses them. A listener, which those of an unaccepted connection are, is in the variables of whoever looks
/// after the server; who accepts from it nothing shows but the call.
fn taken_ends(resource: &Resource) -> &[End] {
    match resource.is_unaccepted {
        true => &[],
        false => &resource.ends,
    }
}

/// What a wait is on, with the parts whose other ends were looked for.
fn linked(wait: &Wait) -> impl Iterator<Item = &Resource> {
    let resource = wait.resource.iter();
    resource.flat_map(|resource| {
        let members = resource.members.iter().map(|member| &member.resource);
        std::iter::once(resource).chain(members)
    })
}

fn find_python(processes: &[ProcessSnapshot], pid: Pid) -> Option<&ProcessSnapshot> {
    let mut all = processes.iter();
    all.find(|process| process.pid == pid && process.memory == MemoryOutcome::Python)
}

/// The uses of descriptors that the calls of threads show: what they are blocked on, or poll.
pub fn uses_by_call(processes: &[ProcessSnapshot]) -> Vec<DescriptorUse> {
    let mut uses = Vec::new();
    for process in processes {
        for thread in &process.threads {
            let waits = thread.wait.iter();
            let fds = waits.flat_map(linked).filter_map(|resource| resource.fd);
            uses.extend(fds.map(|fd| DescriptorUse {
                user: EndUser {
                    pid: process.pid,
                    tid: thread.tid,
                    fd,
                    by: UsedBy::Call,
                },
                steps: 0,
            }));
        }
    }
    uses
}

/// Names the threads that use the other end of each wait, where that is known, as those who could end it.
pub fn name_users(processes: &mut [ProcessSnapshot], uses: &[DescriptorUse]) {
    let names: BTreeMap<ThreadRef, Option<String>> = processes
        .iter()
        .flat_map(|process| {
            process.threads.iter().map(|thread| {
                let (pid, tid) = (process.pid, thread.tid);
                (ThreadRef { pid, tid }, thread.name.clone())
            })
        })
        .collect();
    let read: BTreeSet<Pid> = processes
        .iter()
        .filter(|process| process.memory == MemoryOutcome::Python)
        .map(|process| process.pid)
        .collect();
    let parents: BTreeMap<Pid, Pid> = processes
        .iter()
        .map(|process| (process.pid, process.ppid))
        .collect();
    let known = Known {
        uses,
        names,
        read,
        parents,
    };
    let mut contested: BTreeSet<ThreadRef> = BTreeSet::new();
    for process in processes.iter() {
        for thread in &process.threads {
            let waits = thread.wait.as_ref();
            if waits.is_some_and(|wait| is_contested(processes, wait)) {
                contested.insert(ThreadRef {
                    pid: process.pid,
                    tid: thread.tid,
                });
            }
        }
    }
    for process in processes.iter_mut() {
        let pid = process.pid;
        for thread in &mut process.threads {
            let own = ThreadRef {
                pid,
                tid: thread.tid,
            };
            if let Some(wait) = thread.wait.as_mut().filter(|_| contested.contains(&own)) {
                name_users_of(wait, own, &known);
            }
        }
    }
    name_all(processes);
}

/// What is known of all processes.
struct Known<'a> {
    uses: &'a [DescriptorUse],
    /// The names of threads.
    names: BTreeMap<ThreadRef, Option<String>>,
    /// Those whose Python was read.
    read: BTreeSet<Pid>,
    parents: BTreeMap<Pid, Pid>,
}

fn name_users_of(wait: &mut Wait, own: ThreadRef, known: &Known<'_>) {
    let read = &known.read;
    let is_network = matches!(
        wait.kind,
        WaitKind::SocketRecv | WaitKind::SocketSend | WaitKind::SocketConnect
    );
    let Some(resource) = &mut wait.resource else {
        return;
    };
    let mut users: BTreeMap<ThreadRef, u8> = BTreeMap::new();
    let mut tell = |resource: &mut Resource| {
        let found = known.uses_of(resource, own, is_network);
        for found in &found {
            let (pid, tid) = (found.user.pid, found.user.tid);
            let steps = users.entry(ThreadRef { pid, tid }).or_insert(found.steps);
            *steps = found.steps.min(*steps);
        }
        resource.users = nearest(&found);
    };
    tell(resource);
    for member in &mut resource.members {
        tell(&mut member.resource);
    }
    let Some(least) = users.values().min().copied() else {
        return;
    };
    let used: BTreeSet<Pid> = users.keys().map(|thread| thread.pid).collect();
    let before = wait.holder.take().into_iter();
    let before: Vec<Holder> = before
        .chain(std::mem::take(&mut wait.other_holders))
        .collect();
    let is_proven = |pid: Pid| match &before[..] {
        [only] => only.pid == pid && only.confidence == HolderConfidence::Proven,
        _ => false,
    };
    let mut holders = Vec::new();
    if reads(wait.kind) {
        // Any thread of a process may write, and the end of data comes only when nobody has the writing end any more.
        let (first, inherited): (Vec<Holder>, Vec<Holder>) = before
            .into_iter()
            .partition(|holder| used.contains(&holder.pid) || !read.contains(&holder.pid));
        holders.extend(first);
        holders.extend(inherited.into_iter().map(|holder| Holder {
            confidence: HolderConfidence::Possible,
            ..holder
        }));
    } else {
        let nearest = users.values().filter(|steps| **steps == least).count();
        let mut by_steps: Vec<(u8, ThreadRef)> = users
            .into_iter()
            .map(|(thread, steps)| (steps, thread))
            .collect();
        by_steps.sort_unstable();
        holders.extend(by_steps.into_iter().map(|(steps, thread)| Holder {
            pid: thread.pid,
            tid: Some(thread.tid),
            thread: known.names.get(&thread).cloned().flatten(),
            title: None,
            confidence: match steps == least && nearest == 1 && steps < u8::MAX {
                // Which process has it the kernel says, and it has no other thread.
                true if is_proven(thread.pid) && only_thread(thread.pid).is_some() => {
                    HolderConfidence::Proven
                }
                true => HolderConfidence::Inferred,
                false => HolderConfidence::Possible,
            },
            is_gone: false,
        }));
        // Of a process without Python nothing shows what it does with it. One with Python that does nothing with it has inherited it.
        let is_left = |holder: &Holder| holder.pid != own.pid && used.contains(&holder.pid);
        holders.extend(before.into_iter().filter_map(|holder| {
            if !read.contains(&holder.pid) {
                let confidence = holder.confidence.min(HolderConfidence::Inferred);
                return Some(Holder {
                    confidence,
                    ..holder
                });
            }
            is_left(&holder).then_some(Holder {
                confidence: HolderConfidence::Possible,
                tid: None,
                ..holder
            })
        }));
    }
    let mut holders = holders.into_iter();
    wait.holder = holders.next();
    wait.other_holders = holders.take(MAX_ENDS).collect();
}

/// Whether it is a wait for data of pipes.
fn reads(kind: WaitKind) -> bool {
    matches!(kind, WaitKind::PipeRead | WaitKind::Poll)
}

impl Known<'_> {
    /// The uses of one of the other ends. The waiting thread itself has none. A child that was forked goes on in the frames of its parent: where both
    /// have it there, it is the parent's.
    /// Of an answer, whoever runs all the time may be about to give it, if nobody else is known.
    fn uses_of(&self, resource: &Resource, own: ThreadRef, is_network: bool) -> Vec<DescriptorUse> {
        let is_use = |found: &&DescriptorUse| {
            let user = &found.user;
            let mut ends = taken_ends(resource).iter();
            let is_own = (user.pid, user.tid) == (own.pid, own.tid);
            !is_own && ends.any(|end| (end.pid, end.fd) == (user.pid, user.fd))
        };
        let mut found: Vec<DescriptorUse> = self.uses.iter().filter(is_use).copied().collect();
        let is_shown = |found: &DescriptorUse| found.user.by != UsedBy::Running;
        if !is_network || found.iter().any(is_shown) {
            found.retain(is_shown);
        }
        let pids: BTreeSet<Pid> = found.iter().map(|found| found.user.pid).collect();
        for found in &mut found {
            let parent = self.parents.get(&found.user.pid);
            if found.user.by == UsedBy::Stack && parent.is_some_and(|pid| pids.contains(pid)) {
                found.steps = found.steps.saturating_add(1);
            }
        }
        found
    }
}

/// The users that have it nearest, each once.
fn nearest(uses: &[DescriptorUse]) -> Vec<EndUser> {
    let least = uses.iter().map(|found| found.steps).min();
    let nearest = uses.iter().filter(|found| Some(found.steps) == least);
    let users: BTreeSet<EndUser> = nearest.map(|found| found.user).collect();
    users.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{EndAccess, Tid};

    fn end(pid: i32, fd: i32) -> End {
        End {
            pid: Pid(pid),
            fd,
            access: EndAccess::Read,
        }
    }

    fn found(pid: i32, tid: i32, fd: i32, steps: u8) -> DescriptorUse {
        DescriptorUse {
            user: EndUser {
                pid: Pid(pid),
                tid: Tid(tid),
                fd,
                by: UsedBy::Stack,
            },
            steps,
        }
    }

    fn holder(pid: i32, confidence: HolderConfidence) -> Holder {
        Holder {
            pid: Pid(pid),
            tid: None,
            thread: None,
            title: None,
            confidence,
            is_gone: false,
        }
    }

    /// Who could end a wait of thread 10 of process 1, of whose other end these were found; processes 1 to 5 are of Python.
    fn named(
        kind: WaitKind,
        before: &[i32],
        uses: &[DescriptorUse],
    ) -> Vec<(i32, Option<i32>, HolderConfidence)> {
        let mut holders = before
            .iter()
            .map(|pid| holder(*pid, HolderConfidence::Inferred));
        let mut wait = Wait {
            holder: holders.next(),
            other_holders: holders.collect(),
            resource: Some(Resource {
                ends: [1, 2, 3, 9].map(|pid| end(pid, 7)).to_vec(),
                ..Resource::default()
            }),
            ..Wait::of_kind(kind)
        };
        let (pid, tid) = (Pid(1), Tid(10));
        let known = Known {
            uses,
            names: BTreeMap::new(),
            read: (1..=5).map(Pid).collect(),
            parents: BTreeMap::from([(Pid(3), Pid(2))]),
        };
        name_users_of(&mut wait, ThreadRef { pid, tid }, &known);
        let all = wait.holder.iter().chain(&wait.other_holders);
        all.map(|holder| (holder.pid.0, holder.tid.map(|tid| tid.0), holder.confidence))
            .collect()
    }

    #[test]
    fn whoever_uses_it_comes_before_whoever_inherited_it() {
        use HolderConfidence::{Inferred, Possible};
        let own_thread = found(1, 11, 7, 1);
        let far = found(2, 2, 7, 3);
        let write = |uses: &[DescriptorUse]| named(WaitKind::PipeWrite, &[2, 3], uses);
        assert_eq!(write(&[own_thread]), [(1, Some(11), Inferred)]);
        assert_eq!(
            write(&[far, own_thread]),
            [
                (1, Some(11), Inferred),
                (2, Some(2), Possible),
                (2, None, Possible)
            ]
        );
        // Two that have it equally near, and one without Python, which may read it.
        let two = [own_thread, found(2, 2, 7, 1)];
        assert_eq!(
            named(WaitKind::PipeWrite, &[2, 9], &two),
            [
                (1, Some(11), Possible),
                (2, Some(2), Possible),
                (2, None, Possible),
                (9, None, Inferred)
            ]
        );
    }

    #[test]
    fn what_a_forked_child_has_in_its_parents_frames_is_the_parents() {
        use HolderConfidence::{Inferred, Possible};
        let both = [found(2, 2, 7, 1), found(3, 3, 7, 1)];
        let named = named(WaitKind::SocketRecv, &[2, 3], &both);
        assert_eq!(named[0], (2, Some(2), Inferred));
        assert!(named[1..].iter().all(|(.., sure)| *sure == Possible));
    }

    #[test]
    fn who_looks_after_a_listener_does_not_accept_from_it() {
        let resource = Resource {
            ends: vec![end(2, 7), end(3, 7)],
            is_unaccepted: true,
            ..Resource::default()
        };
        let known = Known {
            uses: &[found(2, 2, 7, 1)],
            names: BTreeMap::new(),
            read: (1..=5).map(Pid).collect(),
            parents: BTreeMap::new(),
        };
        let (pid, tid) = (Pid(1), Tid(10));
        let own = ThreadRef { pid, tid };
        assert_eq!(known.uses_of(&resource, own, true), []);
        let accepted = Resource {
            is_unaccepted: false,
            ..resource
        };
        assert_eq!(known.uses_of(&accepted, own, true).len(), 1);
    }

    /// Its frames are not known; it may be about to answer, if nobody else is.
    #[test]
    fn a_thread_that_runs_all_the_time_may_be_the_one_that_answers() {
        use HolderConfidence::{Inferred, Possible};
        let mut runs = found(2, 20, 7, u8::MAX);
        runs.user.by = UsedBy::Running;
        assert_eq!(
            named(WaitKind::SocketRecv, &[2], &[runs]),
            [(2, Some(20), Possible), (2, None, Possible)]
        );
        let served = [runs, found(2, 21, 7, 1)];
        let named_first = named(WaitKind::SocketRecv, &[2], &served)[0];
        assert_eq!(named_first, (2, Some(21), Inferred));
        // What it does with a pipe nothing shows.
        assert_eq!(
            named(WaitKind::PipeWrite, &[2, 3], &[runs]),
            [(2, None, Inferred), (3, None, Inferred)]
        );
    }

    #[test]
    fn without_a_user_nothing_changes() {
        use HolderConfidence::Inferred;
        let before = [(2, None, Inferred), (3, None, Inferred)];
        for kind in [WaitKind::PipeWrite, WaitKind::PipeRead] {
            assert_eq!(named(kind, &[2, 3], &[]), before);
            // Of another descriptor, and the waiting thread's own.
            let others = [found(2, 2, 8, 1), found(1, 10, 7, 1)];
            assert_eq!(named(kind, &[2, 3], &others), before);
        }
    }

    #[test]
    fn any_thread_may_write_and_every_open_end_counts() {
        use HolderConfidence::{Inferred, Possible};
        assert_eq!(
            named(WaitKind::PipeRead, &[2, 3, 9], &[found(3, 4, 7, 2)]),
            [
                (3, None, Inferred),
                (9, None, Inferred),
                (2, None, Possible)
            ]
        );
    }
}
