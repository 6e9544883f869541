//! The order of a family: parents before their children, each with its depth.

use rustc_hash::{FxHashMap, FxHashSet};

use crate::model::Pid;
use crate::profile::ProcessRow;

/// Processes in the order of a tree; those whose parent is not among them stand at its root.
pub fn order(rows: &[ProcessRow]) -> Vec<(&ProcessRow, usize)> {
    let pids: FxHashSet<Pid> = rows.iter().map(|row| row.process.pid).collect();
    let mut children: FxHashMap<Pid, Vec<&ProcessRow>> = FxHashMap::default();
    let mut pending: Vec<(&ProcessRow, usize)> = Vec::new();
    for row in rows.iter().rev() {
        let parent = row.process.ppid;
        if pids.contains(&parent) && parent != row.process.pid {
            children.entry(parent).or_default().push(row);
        } else {
            pending.push((row, 0));
        }
    }
    let mut ordered = Vec::with_capacity(rows.len());
    while let Some((row, depth)) = pending.pop() {
        ordered.push((row, depth));
        // Each list is taken once, so that no loop of parents leads round for ever.
        let below = children.remove(&row.process.pid).unwrap_or_default();
        pending.extend(below.into_iter().map(|child| (child, depth + 1)));
    }
    // What is in such a loop is not reached from any root.
    let mut rest: Vec<&ProcessRow> = children.into_values().flatten().collect();
    rest.sort_by_key(|row| row.index);
    ordered.extend(rest.into_iter().map(|row| (row, 0)));
    ordered
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{ProcessIndex, SampledProcess};

    fn row(index: u32, pid: i32, ppid: i32) -> ProcessRow {
        ProcessRow {
            index: ProcessIndex(index),
            process: SampledProcess {
                pid: Pid(pid),
                ppid: Pid(ppid),
                title: String::new(),
                python: None,
                is_alive: true,
            },
            threads: 1,
            active: Duration::ZERO,
            held: Duration::ZERO,
        }
    }

    fn ordered(rows: &[ProcessRow]) -> Vec<(i32, usize)> {
        let found = order(rows);
        found
            .iter()
            .map(|(row, depth)| (row.process.pid.0, *depth))
            .collect()
    }

    #[test]
    fn children_follow_their_parents() {
        let rows = [
            row(0, 1, 0),
            row(1, 2, 1),
            row(2, 3, 1),
            row(3, 4, 2),
            row(4, 9, 77),
        ];
        assert_eq!(ordered(&rows), [(1, 0), (2, 1), (4, 2), (3, 1), (9, 0)]);
    }

    #[test]
    fn a_loop_of_parents_is_shown_once() {
        let rows = [row(0, 1, 2), row(1, 2, 1), row(2, 5, 5)];
        let mut found = ordered(&rows);
        found.sort();
        assert_eq!(found, [(1, 0), (2, 0), (5, 0)]);
    }
}
