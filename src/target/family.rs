//! Parents and children: the process tree below a target, with the title of each process.

use std::collections::BTreeMap;

use super::status::Stat;
use crate::model::Pid;
use crate::sys::descriptors::noted;
use crate::sys::procfile::ProcDir;

/// Most processes of one tree.
const MAX_PROCESSES: usize = 65_536;

/// A process of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relative {
    /// The process.
    pub pid: Pid,
    /// Its parent.
    pub ppid: Pid,
    /// Generations below the root of the tree; the root has 0.
    pub depth: usize,
}

/// The pids of all processes that can be seen.
pub fn list_processes() -> std::io::Result<Vec<Pid>> {
    let entries = std::fs::read_dir("/proc").map_err(noted)?;
    Ok(entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok().map(Pid))
        .collect())
}

/// Every process that can be seen, with its parent, in ascending order of pids. One that vanishes meanwhile is left out.
pub fn all_processes() -> BTreeMap<Pid, Stat> {
    let pids = list_processes().unwrap_or_default();
    pids.into_iter()
        .filter_map(|pid| {
            Some((
                pid,
                Stat::parse(&ProcDir::open(pid).ok()?.read_record("stat").ok()?)?,
            ))
        })
        .collect()
}

/// `root` and all its descendants, parents before their children, siblings in ascending order.
pub fn tree(root: Pid) -> Vec<Relative> {
    tree_of(&all_processes(), root)
}

fn tree_of(processes: &BTreeMap<Pid, Stat>, root: Pid) -> Vec<Relative> {
    let mut children: BTreeMap<Pid, Vec<Pid>> = BTreeMap::new();
    for (pid, stat) in processes {
        children.entry(stat.ppid).or_default().push(*pid);
    }
    let mut tree = Vec::new();
    let mut pending = vec![(root, 0)];
    // A process that is re-parented while the list is read can't make a loop endless: the count is bounded.
    while let Some((pid, depth)) = pending.pop()
        && tree.len() < MAX_PROCESSES
    {
        let Some(stat) = processes.get(&pid) else {
            continue;
        };
        tree.push(Relative {
            pid,
            ppid: stat.ppid,
            depth,
        });
        let below = children.get(&pid).map(Vec::as_slice).unwrap_or_default();
        pending.extend(
            below
                .iter()
                .rev()
                .filter(|child| **child != pid)
                .map(|child| (*child, depth + 1)),
        );
    }
    tree
}

/// Our own ancestors, nearest first.
pub fn own_ancestors() -> Vec<Pid> {
    let mut ancestors = Vec::new();
    let mut pid = Pid::own();
    while ancestors.len() < MAX_PROCESSES {
        let Some(stat) = ProcDir::open(pid)
            .ok()
            .and_then(|proc| Stat::parse(&proc.read_record("stat").ok()?))
        else {
            break;
        };
        if stat.ppid.0 <= 0 {
            break;
        }
        pid = stat.ppid;
        ancestors.push(pid);
    }
    ancestors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(ppid: i32) -> Stat {
        Stat::parse(format!("1 (x) S {ppid} {}", "0 ".repeat(40)).as_bytes()).unwrap()
    }

    #[test]
    fn parents_come_before_children_and_strangers_are_left_out() {
        let processes =
            [(1, 0), (2, 1), (3, 1), (4, 2), (9, 0)].map(|(pid, ppid)| (Pid(pid), stat(ppid)));
        let tree = tree_of(&processes.into(), Pid(1));
        let seen: Vec<_> = tree
            .iter()
            .map(|relative| (relative.pid.0, relative.depth))
            .collect();
        assert_eq!(seen, [(1, 0), (2, 1), (4, 2), (3, 1)]);
    }

    #[test]
    fn a_loop_of_parents_ends() {
        let processes = [(1, 2), (2, 1), (3, 3)].map(|(pid, ppid)| (Pid(pid), stat(ppid)));
        assert!(tree_of(&processes.clone().into(), Pid(1)).len() <= MAX_PROCESSES);
        assert_eq!(tree_of(&processes.into(), Pid(3)).len(), 1);
    }

    #[test]
    fn its_own_parent_is_an_ancestor() {
        let parent = Pid(nix::unistd::getppid().as_raw());
        assert_eq!(own_ancestors().first(), Some(&parent));
        assert!(
            tree(parent)
                .iter()
                .any(|relative| relative.pid == Pid::own())
        );
    }
}
