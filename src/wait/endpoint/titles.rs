//! The titles of processes that are waited for.

use std::time::Duration;

use rustc_hash::FxHashMap;

use crate::model::{Pid, ProcessSnapshot};
use crate::sys::deadline::{self, TimeBudget};
use crate::sys::procfile::ProcDir;
use crate::target::Target;

/// How long reading the titles of other processes may take; it blocks while their `mmap_lock` is held.
const MAX_TITLES: Duration = Duration::from_secs(1);
/// How long one may take.
const MAX_ONE_TITLE: Duration = Duration::from_millis(100);
/// Most bytes of a title.
const MAX_TITLE: usize = 4096;

/// Gives holders in other processes those processes' titles, and processes that are waited for.
pub(super) fn name_all(processes: &mut [ProcessSnapshot]) {
    let mut titles: FxHashMap<Pid, String> = processes
        .iter()
        .map(|process| (process.pid, process.title.clone()))
        .collect();
    let waits = |process: &ProcessSnapshot| -> Vec<Pid> {
        let waits = process
            .threads
            .iter()
            .filter_map(|thread| thread.wait.as_ref());
        let pids = waits.flat_map(|wait| {
            let holders = wait
                .holder
                .iter()
                .chain(&wait.other_holders)
                .map(|holder| holder.pid);
            let resource = wait.resource.iter().filter_map(|resource| resource.pid);
            holders.chain(resource).collect::<Vec<_>>()
        });
        pids.collect()
    };
    let mut unknown: Vec<Pid> = processes.iter().flat_map(waits).collect();
    unknown.retain(|pid| !titles.contains_key(pid));
    unknown.sort_unstable();
    unknown.dedup();
    if !unknown.is_empty() {
        titles.extend(read_titles(&unknown));
    }
    for process in processes {
        let pid = process.pid;
        for wait in process
            .threads
            .iter_mut()
            .filter_map(|thread| thread.wait.as_mut())
        {
            for holder in wait.holder.iter_mut().chain(&mut wait.other_holders) {
                if holder.pid != pid {
                    holder.title = titles.get(&holder.pid).cloned();
                }
            }
            if let Some(resource) = &mut wait.resource
                && let Some(child) = resource.pid
                && resource.name.is_none()
            {
                resource.name = titles.get(&child).cloned();
            }
        }
    }
}

/// Titles of processes: the arguments, or where they can't be had the kernel's name.
fn read_titles(pids: &[Pid]) -> Vec<(Pid, String)> {
    let title = |pid: &Pid| {
        let mut bytes = ProcDir::open(*pid).ok()?.read("cmdline").ok()?;
        bytes.truncate(MAX_TITLE);
        let text = String::from_utf8_lossy(&bytes).replace('\0', " ");
        let text = text.trim_end().to_owned();
        (!text.is_empty()).then_some(text)
    };
    let time = TimeBudget::new(MAX_TITLES);
    let answers = deadline::each(pids.to_vec(), MAX_ONE_TITLE, time, title);
    let named = pids.iter().zip(answers);
    let mut titles: FxHashMap<Pid, String> = named
        .filter_map(|(pid, answer)| Some((*pid, answer.given()??)))
        .collect();
    for pid in pids {
        if !titles.contains_key(pid)
            && let Ok(target) = Target::open(*pid)
        {
            let name = String::from_utf8_lossy(&target.stat().comm).into_owned();
            titles.insert(*pid, name);
        }
    }
    let mut titles: Vec<_> = titles.into_iter().collect();
    titles.sort();
    titles
}
