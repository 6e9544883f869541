//! Which process is meant when none is named.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::fs::{OFlags, fstat};

use super::Target;
use super::family::own_ancestors;
use crate::model::Pid;
use crate::redact::redact_command;
use crate::sys::deadline::{self, TimeBudget};
use crate::sys::procfile::ProcDir;

/// How long one process may take to show its maps; one whose `mmap_lock` is held is passed over.
const MAX_LOOK: Duration = Duration::from_millis(250);
/// How long the search may take; of more processes that do not answer, those with the highest pids are passed over.
const MAX_SEARCH: Duration = Duration::from_secs(5);

/// A process that could be meant.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The process.
    pub pid: Pid,
    /// Its command line in one string, lossily.
    pub title: String,
    /// The version that a file name of it tells, e.g. "3.9".
    pub version: Option<String>,
    /// How long it has been running.
    pub age: Option<Duration>,
}

/// What was found to look at.
#[derive(Clone, Debug)]
pub enum Choice {
    /// We are beside a container: its first process.
    Neighbour(Pid),
    /// The only Python process that we may read.
    Only(Candidate),
    /// Several, or none.
    Ambiguous(Vec<Candidate>),
}

/// Chooses the target when none is named: the whole tree of a container, if that `takes_trees`.
pub fn choose(takes_trees: bool) -> Choice {
    let ancestors = own_ancestors();
    let is_beside = is_beside_container(&ancestors);
    if is_beside && !look_at_all(vec![Pid(1)]).is_empty() {
        return Choice::Neighbour(Pid(1));
    }
    let processes = super::family::all_processes();
    let others = processes.keys().copied();
    let others = others.filter(|pid| *pid != Pid::own() && !ancestors.contains(pid));
    let mut found = look_at_all(others.collect());
    if is_beside {
        // The first process is an init, or the pause of a pod whose containers share their processes: what it has started is
        // meant, if that is one program with its own children.
        let pids: Vec<Pid> = found.iter().map(|candidate| candidate.pid).collect();
        let parents = processes.iter().map(|(pid, stat)| (*pid, stat.ppid));
        let tops = topmost(&pids, &parents.collect());
        match tops.as_slice() {
            [] => return Choice::Neighbour(Pid(1)),
            [only] => found.retain(|candidate| candidate.pid == *only),
            _ if takes_trees => return Choice::Neighbour(Pid(1)),
            _ => {}
        }
    }
    match found.len() {
        1 => Choice::Only(found.remove(0)),
        _ => Choice::Ambiguous(found),
    }
}

/// Those of `pids` that have no other one of them above them.
fn topmost(pids: &[Pid], parents: &BTreeMap<Pid, Pid>) -> Vec<Pid> {
    let is_below_another = |pid: &Pid| {
        let above = std::iter::successors(parents.get(pid), |pid| parents.get(pid));
        // A list that was read while processes moved can have a circle.
        above
            .take(parents.len())
            .any(|ancestor| pids.contains(ancestor))
    };
    let tops = pids.iter().filter(|pid| !is_below_another(pid));
    tops.copied().collect()
}

/// Pid 1 is in our pid namespace, is not our ancestor, and has another root: an ephemeral container beside it.
fn is_beside_container(ancestors: &[Pid]) -> bool {
    if ancestors.contains(&Pid(1)) || Pid::own() == Pid(1) {
        return false;
    }
    let root_of = |pid: Pid| {
        let root = ProcDir::open(pid)
            .ok()?
            .open_with("root", OFlags::PATH | OFlags::DIRECTORY)
            .ok()?;
        let stat = fstat(&root).ok()?;
        Some((stat.st_dev, stat.st_ino))
    };
    match (root_of(Pid(1)), root_of(Pid::own())) {
        (Some(theirs), Some(ours)) => theirs != ours,
        // It is not shown to us. Whoever is not below it has come from outside, as into a container.
        (None, Some(_)) => true,
        _ => false,
    }
}

/// Those of `pids` that are a Python, as far as there is time.
fn look_at_all(pids: Vec<Pid>) -> Vec<Candidate> {
    let answers = deadline::each(pids, MAX_LOOK, TimeBudget::new(MAX_SEARCH), |pid| {
        look_at(*pid)
    });
    answers
        .into_iter()
        .filter_map(|reply| reply.given()?)
        .collect()
}

fn look_at(pid: Pid) -> Option<Candidate> {
    let target = Target::open(pid).ok()?;
    let exe = target.proc().read_link("exe").ok()?;
    let maps = target.proc().read("maps").ok()?;
    if !contains(&maps, b"python") && !contains(&exe, b"python") {
        return None;
    }
    let command = target.command_line().ok()?;
    let command: Vec<String> = command
        .iter()
        .map(|argument| String::from_utf8_lossy(argument).into_owned())
        .collect();
    Some(Candidate {
        pid,
        title: redact_command(&command).join(" "),
        version: version_in(&maps),
        age: target.age(),
    })
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}

/// The digits behind the first "python" that has some, e.g. of `/usr/lib/python3.9/…` or `libpython3.9.so`.
fn version_in(text: &[u8]) -> Option<String> {
    let word = b"python";
    (0..text.len())
        .filter(|at| text[*at..].starts_with(word))
        .find_map(|at| {
            let tail = &text[at + word.len()..];
            let end = tail
                .iter()
                .position(|byte| !byte.is_ascii_digit() && *byte != b'.')
                .unwrap_or(tail.len());
            let version = std::str::from_utf8(&tail[..end])
                .ok()?
                .trim_end_matches('.');
            version.contains('.').then(|| version.to_owned())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tops_of_trees() {
        let parents = [(1, 0), (7, 1), (8, 7), (9, 8), (12, 1), (13, 12)];
        let parents = parents.map(|(pid, parent)| (Pid(pid), Pid(parent))).into();
        let tops = |pids: &[i32]| {
            let pids: Vec<Pid> = pids.iter().copied().map(Pid).collect();
            topmost(&pids, &parents)
        };
        assert_eq!(tops(&[7, 8, 9]), [Pid(7)]);
        assert_eq!(tops(&[9, 7, 13]), [Pid(7), Pid(13)]);
        assert!(tops(&[]).is_empty());
    }

    #[test]
    fn the_version_in_a_file_name() {
        assert_eq!(
            version_in(b"/usr/bin/python3 /usr/lib/libpython3.9.so.1.0"),
            Some("3.9".into())
        );
        assert_eq!(version_in(b"/opt/python/lib"), None);
    }
}
