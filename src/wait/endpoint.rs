//! Who could end a wait: whose is the other end of a socket or pipe, and who holds a file lock, among all processes that can be
//! seen. Looks further than the waiting process only when one of its waits calls for it, and once.

mod file_lock;
mod titles;
pub mod users;

use std::cell::{OnceCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;

use rustc_hash::{FxHashMap, FxHashSet};

use self::titles::name_all;
use super::child::describe_pidfd;
use super::poll::{is_plain_poll, kind_of_polled};
use super::surroundings::{only_thread, process_holder};
use crate::model::{
    End, EndAccess, Holder, HolderConfidence, Pid, ProcessSnapshot, Resource, SocketKind,
    ThreadCounts, ThreadSnapshot, Tid, Wait, WaitKind,
};
use crate::sys::procfile::ProcDir;
use crate::target::Target;
use crate::target::family::list_processes;
use crate::target::fd_index::{FdIndex, OpenFd};
use crate::target::fdinfo::FdInfo;
use crate::target::fds::file_facts;
use crate::target::file_locks::{FileLock, read_locks};
use crate::target::net_tables::NetTables;
use crate::target::sockets::Sockets;
use crate::target::tasks::TaskFiles;
use crate::target::terminals::master_number;

/// Most ends of one pipe or socket that are listed, and most others who could end a wait.
const MAX_ENDS: usize = 256;
/// Most network namespaces that are looked into for the other end of a connection; a node has one for each pod.
const MAX_NETWORKS: usize = 512;
/// The pid namespace that all others are in (`PROC_PID_INIT_INO`, `include/linux/proc_ns.h`, Linux 6.18).
const INITIAL_NAMESPACE: &[u8] = b"pid:[4026531836]";

/// What is found out at most once for all waits.
#[derive(Debug, Default)]
struct Machine {
    index: OnceCell<FdIndex>,
    /// Why an end that nobody is seen to have may be somebody's all the same.
    doubt: OnceCell<Option<String>>,
    locks: OnceCell<Vec<FileLock>>,
    /// By the link of the network namespace; where that can't be read, each process has tables of its own.
    tables: RefCell<FxHashMap<Vec<u8>, Rc<NetTables>>>,
    networks: OnceCell<Vec<(Vec<u8>, Pid)>>,
}

impl Machine {
    fn index(&self) -> &FdIndex {
        self.index.get_or_init(FdIndex::build)
    }

    /// The tables of the target's network namespace, read once for all of its processes.
    fn tables_of(&self, target: &Target) -> Rc<NetTables> {
        match target.proc().read_link("ns/net") {
            Ok(namespace) => self.tables(namespace),
            Err(_) => Rc::default(),
        }
    }

    fn tables(&self, namespace: Vec<u8>) -> Rc<NetTables> {
        Rc::clone(self.tables.borrow_mut().entry(namespace).or_default())
    }

    /// The network namespaces of all processes that can be seen, each with a process of it.
    fn networks(&self) -> &[(Vec<u8>, Pid)] {
        self.networks.get_or_init(|| {
            let mut found: Vec<(Vec<u8>, Pid)> = Vec::new();
            let mut seen = FxHashSet::default();
            for pid in list_processes().unwrap_or_default() {
                let link = ProcDir::open(pid).and_then(|proc| proc.read_link("ns/net"));
                if let Ok(link) = link
                    && found.len() < MAX_NETWORKS
                    && seen.insert(link.clone())
                {
                    found.push((link, pid));
                }
            }
            found
        })
    }

    /// Why the lists of descriptors of all processes, though complete, may lack somebody who has one open.
    fn doubt(&self) -> Option<String> {
        let find = || {
            let namespace = ProcDir::open(Pid::own()).and_then(|proc| proc.read_link("ns/pid"));
            if namespace.ok().as_deref() != Some(INITIAL_NAMESPACE) {
                return Some(
                    "whether a process outside of this pid namespace has its other end".to_owned(),
                );
            }
            let in_flight = self.index().has_fds_in_flight();
            in_flight.then(|| {
                "whether its other end is among the descriptors that were sent through unix sockets and are not received yet".to_owned()
            })
        };
        self.doubt.get_or_init(find).clone()
    }

    fn locks(&self) -> &[FileLock] {
        self.locks.get_or_init(read_locks)
    }
}

/// Finds out for all waits of these processes who could end them.
pub fn link(processes: &mut [ProcessSnapshot]) {
    let machine = Machine::default();
    for process in processes.iter_mut() {
        if !process.threads.iter().any(calls_for_others) {
            continue;
        }
        let Ok(target) = Target::open(process.pid) else {
            continue;
        };
        let sockets = Sockets::with_tables(&target, machine.tables_of(&target));
        let waiting = Waiting {
            machine: &machine,
            sockets: &sockets,
            pid: process.pid,
            // Of one that had more threads when it was captured, another one may have done something before it ended.
            is_only_thread: only_thread(process.pid).is_some()
                && process.threads.len() == 1
                && process.unread_threads == 0,
        };
        for thread in &mut process.threads {
            let counts = thread.counts;
            let Some(wait) = &mut thread.wait else {
                continue;
            };
            waiting.link(wait);
            let is_alone = wait
                .resource
                .as_ref()
                .and_then(|resource| resource.is_alone);
            if is_alone == Some(true) && has_run(&target, thread.tid, counts) {
                // Whoever had the other end then has done something with it, and may have it no more.
                retract(wait);
            }
        }
    }
    name_all(processes);
}

/// Whether a thread has run, or may have, since it was captured with these counts.
fn has_run(target: &Target, tid: Tid, counts: Option<ThreadCounts>) -> bool {
    let now = TaskFiles::new(target.proc(), tid).facts();
    now.map_or(true, |now| {
        Some(now.counts.runs) != counts.map(|counts| counts.runs)
    })
}

/// Takes back what was found of the other end: it is of another moment than the wait.
fn retract(wait: &mut Wait) {
    wait.holder = None;
    wait.other_holders.clear();
    if let Some(resource) = &mut wait.resource {
        resource.is_alone = None;
        resource.ends.clear();
    }
    wait.missing
        .push("who has its other end: the thread has run since it was read".to_owned());
}

/// Whether somebody else could end the wait, who is not known from the thread's own process.
fn calls_for_others(thread: &ThreadSnapshot) -> bool {
    let Some(wait) = &thread.wait else {
        return false;
    };
    matches!(
        wait.kind,
        WaitKind::SocketRecv
            | WaitKind::SocketSend
            | WaitKind::SocketConnect
            | WaitKind::PipeRead
            | WaitKind::PipeWrite
            | WaitKind::FileLock
    ) && wait.resource.is_some()
        || writes_terminal(wait)
        || wait.resource.as_ref().is_some_and(is_plain_poll)
}

/// Whether it is a wait for room in a terminal.
fn writes_terminal(wait: &Wait) -> bool {
    let call = wait.syscall.as_deref().unwrap_or_default();
    wait.kind == WaitKind::Tty && call.contains("write")
}

/// The process whose waits are read.
struct Waiting<'a> {
    machine: &'a Machine,
    sockets: &'a Sockets<'a>,
    pid: Pid,
    is_only_thread: bool,
}

/// Who has the other end of what is waited on.
struct Others {
    ends: Vec<End>,
    /// Processes that have the own end too.
    near: Vec<Pid>,
    /// How sure it can be at most that they are the ones.
    at_most: HolderConfidence,
    /// Whether they listen for a connection that nobody has accepted yet.
    are_listeners: bool,
}

impl Waiting<'_> {
    fn link(&self, wait: &mut Wait) {
        if wait.kind == WaitKind::Tty && !writes_terminal(wait) {
            return;
        }
        let Some(resource) = &mut wait.resource else {
            return;
        };
        match wait.kind {
            WaitKind::FileLock => self.link_lock(wait),
            WaitKind::Poll if is_plain_poll(resource) => self.link_members(wait),
            kind => {
                if let Some(others) = self.others(kind, resource) {
                    resource.is_unaccepted = others.are_listeners;
                    self.set_ends(others, wait);
                }
            }
        }
    }

    /// Who has the other end of what a wait of this kind is on.
    fn others(&self, kind: WaitKind, resource: &Resource) -> Option<Others> {
        match kind {
            WaitKind::SocketRecv | WaitKind::SocketSend | WaitKind::SocketConnect => {
                if let Some(inode) = self.other_socket(kind, resource) {
                    return Some(Others {
                        ends: self.socket_ends(&[inode]),
                        near: self.near_socket(resource),
                        at_most: HolderConfidence::Proven,
                        are_listeners: false,
                    });
                }
                if let Some(listener) = self.listener_of_unaccepted(kind, resource) {
                    return Some(Others {
                        ends: self.socket_ends(&[listener]),
                        near: Vec::new(),
                        // Any of those that listen may accept it.
                        at_most: HolderConfidence::Inferred,
                        are_listeners: true,
                    });
                }
                if kind == WaitKind::SocketConnect {
                    return None;
                }
                let (inodes, confidence) = self.sockets_elsewhere(resource);
                (!inodes.is_empty()).then(|| Others {
                    ends: self.socket_ends(&inodes),
                    near: self.near_socket(resource),
                    at_most: confidence,
                    are_listeners: false,
                })
            }
            WaitKind::PipeRead | WaitKind::PipeWrite => {
                let inode = resource.inode?;
                let (wanted, own) = match kind {
                    WaitKind::PipeRead => (EndAccess::Write, EndAccess::Read),
                    _ => (EndAccess::Read, EndAccess::Write),
                };
                let near = self.pipe_ends(resource, inode, own);
                Some(Others {
                    ends: self.pipe_ends(resource, inode, wanted),
                    near: near.iter().map(|end| end.pid).collect(),
                    at_most: HolderConfidence::Proven,
                    are_listeners: false,
                })
            }
            WaitKind::Tty => {
                let ends = self.masters(resource)?;
                // Pseudo terminals of another container can have the same number.
                let at_most = HolderConfidence::Inferred;
                let is_elsewhere = ends.iter().any(|end| end.pid != self.pid);
                is_elsewhere.then_some(Others {
                    ends,
                    near: Vec::new(),
                    at_most,
                    are_listeners: false,
                })
            }
            _ => None,
        }
    }

    /// Who has the master of a pseudo terminal, and so reads what is written to it.
    fn masters(&self, resource: &Resource) -> Option<Vec<End>> {
        let number = resource.path.as_deref()?.strip_prefix("/dev/pts/")?;
        let number: u32 = number.parse().ok()?;
        let open = self.machine.index().files_named_as(b"ptmx");
        let masters = open.into_iter().filter(|open| {
            let proc = ProcDir::open(open.pid);
            proc.is_ok_and(|proc| master_number(&proc, open.fd) == Some(number))
        });
        Some(masters.map(|open| end(open, EndAccess::Both)).collect())
    }

    /// Takes each member of a poll as a wait of its own: whoever could end one of these could end the poll.
    fn link_members(&self, wait: &mut Wait) {
        let Some(resource) = &mut wait.resource else {
            return;
        };
        let mut holders: Vec<Holder> = Vec::new();
        let mut missing = Vec::new();
        for member in &mut resource.members {
            let mut alone = Wait::of_kind(kind_of_polled(member));
            alone.resource = Some(std::mem::take(&mut member.resource));
            match alone.kind {
                WaitKind::Child => describe_pidfd(&mut alone),
                _ => self.link(&mut alone),
            }
            member.resource = alone.resource.unwrap_or_default();
            missing.extend(alone.missing);
            for holder in alone.holder.into_iter().chain(alone.other_holders) {
                let is_it =
                    |known: &&mut Holder| (known.pid, known.tid) == (holder.pid, holder.tid);
                match holders.iter_mut().find(is_it) {
                    Some(known) => known.confidence = known.confidence.min(holder.confidence),
                    None => holders.push(holder),
                }
            }
        }
        if holders.len() > 1 {
            // Any of them could end it.
            for holder in &mut holders {
                holder.confidence = holder.confidence.min(HolderConfidence::Inferred);
            }
        }
        missing.sort_unstable();
        missing.dedup();
        wait.missing.append(&mut missing);
        let mut holders = holders.into_iter().take(MAX_ENDS);
        wait.holder = holders.next();
        wait.other_holders = holders.collect();
    }

    /// The inode of the socket at the other end, if that is on this machine and in the same network namespace.
    fn other_socket(&self, kind: WaitKind, resource: &Resource) -> Option<u64> {
        let proc = self.sockets.target().proc();
        if resource.kind == "unix" {
            if kind == WaitKind::SocketConnect {
                let path = resource.peer.as_deref()?;
                return self.sockets.tables().find_unix_listener(proc, path);
            }
            let socket = self.sockets.directory()?.unix(resource.inode?).ok()?;
            return socket.peer_inode.filter(|inode| *inode != 0);
        }
        let socket_kind = match resource.kind.as_str() {
            "tcp" => SocketKind::Tcp,
            "udp" => SocketKind::Udp,
            _ => return None,
        };
        let local: SocketAddr = resource.local.as_deref()?.parse().ok()?;
        let peer: SocketAddr = resource.peer.as_deref()?.parse().ok()?;
        // The kernel takes the other end's address for the own one when that is on this machine.
        let is_here = peer.ip().to_canonical().is_loopback()
            || peer.ip().to_canonical() == local.ip().to_canonical();
        if !is_here {
            return None;
        }
        if kind == WaitKind::SocketConnect {
            return self.sockets.tables().find_listener(proc, peer);
        }
        let tables = self.sockets.tables();
        tables.find_other_end(proc, socket_kind, local, peer)
    }

    /// The inode of the socket that listens for a connection which nobody has accepted yet, if that is on this machine.
    fn listener_of_unaccepted(&self, kind: WaitKind, resource: &Resource) -> Option<u64> {
        if kind == WaitKind::SocketConnect {
            return None;
        }
        let proc = self.sockets.target().proc();
        let tables = self.sockets.tables();
        match resource.kind.as_str() {
            "tcp" => {
                let local: SocketAddr = resource.local.as_deref()?.parse().ok()?;
                let peer: SocketAddr = resource.peer.as_deref()?.parse().ok()?;
                let is_unaccepted = tables.is_unaccepted(proc, local, peer);
                is_unaccepted.then(|| tables.find_listener(proc, peer))?
            }
            // Its other end has no inode of its own, so that nobody has it.
            "unix" => {
                let own = self.sockets.directory()?.unix(resource.inode?).ok()?;
                // That of a closed one has none either, but then nobody would wait.
                let is_unaccepted = own.peer_inode.is_none();
                let path = resource.peer.as_deref().filter(|_| is_unaccepted)?;
                tables.find_unix_listener(proc, path)
            }
            _ => None,
        }
    }

    /// The inodes of the sockets in other network namespaces of this machine that can be the other end of a connection of TCP, and
    /// how sure it can be at most: networks that know nothing of each other may use the same addresses, and one address may have
    /// called several.
    fn sockets_elsewhere(&self, resource: &Resource) -> (Vec<u64>, HolderConfidence) {
        let address = |text: &Option<String>| text.as_deref()?.parse::<SocketAddr>().ok();
        let pair = address(&resource.local).zip(address(&resource.peer));
        let Some((local, peer)) = pair.filter(|_| resource.kind == "tcp") else {
            return (Vec::new(), HolderConfidence::Possible);
        };
        if peer.ip().to_canonical().is_loopback() || local.ip().to_canonical().is_loopback() {
            return (Vec::new(), HolderConfidence::Possible);
        }
        let own = self.sockets.target().proc().read_link("ns/net").ok();
        let places = self.machine.networks();
        let others = places.iter().filter(|(link, _)| Some(link) != own.as_ref());
        // One after another: there can be hundreds.
        let find = |look: &dyn Fn(&NetTables, &ProcDir) -> Option<u64>| -> Vec<u64> {
            let found = others.clone().filter_map(|(link, pid)| {
                let proc = ProcDir::open(*pid).ok()?;
                look(&self.machine.tables(link.clone()), &proc)
            });
            found.collect()
        };
        let exact = find(&|tables, proc| tables.find_other_end(proc, SocketKind::Tcp, local, peer));
        if exact.is_empty() {
            let called = find(&|tables, proc| tables.find_called_from(proc, local));
            return (called, HolderConfidence::Possible);
        }
        (exact, HolderConfidence::Inferred)
    }

    /// Everybody who has one of these sockets open.
    fn socket_ends(&self, inodes: &[u64]) -> Vec<End> {
        let index = self.machine.index();
        let open = inodes.iter().flat_map(|inode| index.socket(*inode));
        open.map(|open| end(*open, EndAccess::Both)).collect()
    }

    /// The open ends of a pipe or fifo through which what is waited for can come.
    fn pipe_ends(&self, resource: &Resource, inode: u64, wanted: EndAccess) -> Vec<End> {
        let index = self.machine.index();
        let path = resource.path.as_deref().filter(|_| resource.kind == "fifo");
        let open = match path {
            Some(path) => index.files_named_as(path.as_bytes()),
            None => index.pipe(inode).to_vec(),
        };
        let ends = open.into_iter().filter_map(|open| {
            let proc = ProcDir::open(open.pid).ok()?;
            if path.is_some() && file_facts(&proc, open.fd).ok()?.inode != inode {
                return None;
            }
            let access = FdInfo::read(&proc, open.fd).ok()?.access();
            (access == wanted || access == EndAccess::Both).then(|| end(open, access))
        });
        ends.collect()
    }

    /// The processes that have the waiting socket itself open.
    fn near_socket(&self, resource: &Resource) -> Vec<Pid> {
        let own = resource
            .inode
            .map(|inode| self.machine.index().socket(inode));
        let near = own.unwrap_or_default().iter();
        near.map(|open| open.pid).collect()
    }

    /// Takes these as the other ends of what is waited on, and their processes as those who could end the wait.
    ///
    /// A process is `proven` to be the one if it alone has the other end: the descriptors of all processes could be listed, none is on its way
    /// through a unix socket, no process can be out of sight, and no other thread of the waiting process has it too. A thread
    /// that does not share its process' descriptors (`unshare(CLONE_FILES)`) is not looked for.
    fn set_ends(&self, found: Others, wait: &mut Wait) {
        let Others {
            ends,
            near,
            at_most,
            ..
        } = found;
        let gap = self.machine.index().gap();
        let mut others: Vec<Pid> = ends.iter().map(|end| end.pid).collect();
        others.sort_unstable();
        others.dedup();
        let has_itself = others.contains(&self.pid);
        others.retain(|pid| *pid != self.pid);
        if let Some(resource) = &mut wait.resource {
            // What a network's peer does, processes on this machine say nothing about, if none was found.
            let is_local = !ends.is_empty() || ["pipe", "fifo"].contains(&resource.kind.as_str());
            if is_local && others.is_empty() && has_itself && gap.is_none() {
                resource.is_alone = Some(self.is_only_thread);
            } else if !others.is_empty() {
                resource.is_alone = Some(false);
            }
            if !ends.is_empty() {
                // Better than who had it when it was connected.
                wait.holder = None;
            }
            resource.ends = ends.iter().take(MAX_ENDS).cloned().collect();
        }
        // Of several that have the same end, as after a fork, any may be the one.
        let is_only = others.len() == 1 && gap.is_none() && (self.is_only_thread || !has_itself);
        let is_alone = others.is_empty() && has_itself && gap.is_none() && self.is_only_thread;
        let doubt = (is_only || is_alone)
            .then(|| self.machine.doubt())
            .flatten();
        let is_certain = is_only && doubt.is_none();
        let confidence = if is_certain {
            HolderConfidence::Proven
        } else {
            HolderConfidence::Inferred
        };
        let confidence = confidence.min(at_most);
        let kind = wait
            .resource
            .as_ref()
            .map(|resource| resource.kind.as_str());
        if gap.is_none() && ends.is_empty() && matches!(kind, Some("pipe" | "fifo")) {
            // Else it would not wait: without another end a read ends and a write fails (pipe(7)).
            wait.missing.push(
                "who has its other end: somebody who can not be seen from here, as outside of this pid namespace"
                    .to_owned(),
            );
        }
        wait.missing.extend(gap);
        wait.missing.extend(doubt);
        if others.is_empty() && has_itself && !self.is_only_thread {
            others.push(self.pid);
        }
        set_holders(rank(&others, &near, confidence), wait);
    }
}

fn end(open: OpenFd, access: EndAccess) -> End {
    End {
        pid: open.pid,
        fd: open.fd,
        access,
    }
}

/// Those who have the other end, the likeliest first. Who has both ends has inherited them, as a rule: a child that was forked while its
/// parent had them, and to whom they are no use. Where others have the other end alone, it is one of those.
fn rank(
    others: &[Pid],
    near: &[Pid],
    confidence: HolderConfidence,
) -> Vec<(Pid, HolderConfidence)> {
    let (inherited, made): (Vec<Pid>, Vec<Pid>) = others.iter().partition(|pid| near.contains(pid));
    if made.is_empty() || inherited.is_empty() {
        return others.iter().map(|pid| (*pid, confidence)).collect();
    }
    let made = made.into_iter().map(|pid| (pid, confidence));
    let inherited = inherited
        .into_iter()
        .map(|pid| (pid, HolderConfidence::Possible));
    made.chain(inherited).collect()
}

fn set_holders(holders: Vec<(Pid, HolderConfidence)>, wait: &mut Wait) {
    let mut holders = holders
        .into_iter()
        .take(MAX_ENDS)
        .map(|(pid, confidence)| process_holder(pid, confidence));
    let Some(first) = holders.next() else {
        return;
    };
    wait.holder = Some(first);
    wait.other_holders = holders.collect();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_both_ends_comes_last() {
        let pids = |numbers: &[i32]| {
            numbers
                .iter()
                .map(|number| Pid(*number))
                .collect::<Vec<_>>()
        };
        let rank = |others: &[i32], near: &[i32]| {
            let ranked = rank(&pids(others), &pids(near), HolderConfidence::Inferred);
            let plain = ranked
                .into_iter()
                .map(|(pid, confidence)| (pid.0, confidence));
            plain.collect::<Vec<_>>()
        };
        let inferred = HolderConfidence::Inferred;
        assert_eq!(
            rank(&[3, 4, 9], &[3, 7]),
            [
                (4, inferred),
                (9, inferred),
                (3, HolderConfidence::Possible)
            ]
        );
        // With nobody else it is one of them.
        assert_eq!(rank(&[3, 4], &[3, 4]), [(3, inferred), (4, inferred)]);
        assert_eq!(rank(&[3, 4], &[]), [(3, inferred), (4, inferred)]);
    }
}
