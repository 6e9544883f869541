//! Which threads of a process have certain descriptors in the variables of their frames. Read only where a wait calls for it.

use std::time::{Duration, SystemTime};

use rustc_hash::FxHashMap;

use super::attach::attach;
use super::reader::read_stack;
use super::roster::list_threads;
use crate::model::{EndUser, Frame, ProcessSnapshot, Tid, UsedBy, WaitKind};
use crate::python::descriptors::DescriptorSearch;
use crate::python::eval_stack::read_values;
use crate::python::frame::{FrameDecoder, StackRoom};
use crate::python::thread_ids::native_ids;
use crate::sys::deadline::{self, TimeBudget};
use crate::sys::memory::PageView;
use crate::target::Target;
use crate::target::tasks::TaskFiles;
use crate::wait::DescriptorUse;

/// Most threads of one process that are looked into.
const MAX_THREADS: usize = 256;

/// How often a thread that wakes while it is read is read again.
const MAX_TRIES: usize = 40;
/// What is left of the time when no further thread is read.
const TIME_KEPT: Duration = Duration::from_millis(300);
/// How far the same start of a process may come out apart by the wall clock, which is set now and then.
const MAX_START_SPREAD: Duration = Duration::from_secs(1);

/// A thread that may use a descriptor.
struct Candidate {
    files: TaskFiles,
    tid: Tid,
    /// Whether it waits for a connection: the last one, which it has handed on, is still in its variables.
    accepts: bool,
}

impl Candidate {
    /// How often it was let run, if it sleeps now.
    fn runs_asleep(&self) -> Option<u64> {
        let now = self.files.facts().ok()?;
        (!now.state.is_runnable()).then_some(now.counts.runs)
    }
}

/// The threads of `process` whose variables lead to these descriptors of its. Each is read while it sleeps; one that runs whenever it is read may
/// use any of them.
pub fn find_descriptor_uses(
    process: &ProcessSnapshot,
    wanted: &[i32],
    time: TimeBudget,
) -> Vec<DescriptorUse> {
    let Ok(target) = Target::open(process.pid) else {
        return Vec::new();
    };
    if time.is_over() || !started_then(&target, process.started_at) {
        return Vec::new();
    }
    let known = process
        .threads
        .iter()
        .filter(|thread| thread.interpreter.is_some());
    let known = known.map(|thread| {
        let wait = thread.wait.as_ref();
        let accepts = wait.is_some_and(|wait| wait.kind == WaitKind::SocketAccept);
        (thread.tid, accepts)
    });
    let known: Vec<(Tid, bool)> = known.take(MAX_THREADS).collect();
    let wanted = wanted.to_vec();
    let read = move || read_uses(&target, &known, &wanted, time);
    deadline::run_patiently(time.patience(), read).unwrap_or_default()
}

/// Whether it is still the process that was captured, and not another one with its pid.
fn started_then(target: &Target, then: Option<SystemTime>) -> bool {
    let Some((now, then)) = target.started_at().zip(then) else {
        return false;
    };
    let spread = now
        .duration_since(then)
        .or_else(|_| then.duration_since(now));
    spread.is_ok_and(|spread| spread < MAX_START_SPREAD)
}

fn read_uses(
    target: &Target,
    known: &[(Tid, bool)],
    wanted: &[i32],
    time: TimeBudget,
) -> Vec<DescriptorUse> {
    let candidates = known.iter().filter_map(|(tid, accepts)| {
        let files = TaskFiles::new(target.proc(), *tid);
        let innermost_tid = files.facts().ok()?.innermost_tid;
        let candidate = Candidate {
            files,
            tid: *tid,
            accepts: *accepts,
        };
        Some((innermost_tid, candidate))
    });
    let candidates: FxHashMap<i32, Candidate> = candidates.collect();
    let tids = target.innermost_tids().unwrap_or_default();
    let Ok(attached) = attach(target, &tids) else {
        return Vec::new();
    };
    let (runtime, memory) = (&attached.runtime, &attached.memory);
    let Ok(interpreters) = runtime.interpreters(&PageView::new(memory)) else {
        return Vec::new();
    };
    let mut decoder = FrameDecoder::new(StackRoom::MAX);
    let mut search = DescriptorSearch::new(wanted);
    let mut uses = Vec::new();
    for interpreter in &interpreters {
        let states = list_threads(runtime, memory, interpreter, &mut Vec::new());
        let ids = native_ids(&PageView::new(memory), &states, &tids);
        for state in &states {
            let candidate = ids.get(&state.address).and_then(|id| candidates.get(id));
            let Some(candidate) = candidate else {
                continue;
            };
            // What was found by then is better than nothing.
            if time.left() < TIME_KEPT {
                return uses;
            }
            let found = (0..MAX_TRIES).find_map(|_| {
                let before = candidate.runs_asleep()?;
                let view = PageView::new(memory);
                let frames = read_stack(runtime, &mut decoder, &view, state).ok()?;
                let values = read_values(runtime.objects(&view), decoder.places());
                let own = count_own(frames.iter().map(|frame| &**frame));
                let variables = values.frames.iter().take(own).flat_map(|frame| {
                    let managers = frame.managers.iter();
                    frame.locals.iter().chain(managers).copied()
                });
                let found = search.find(runtime.objects(&view), variables);
                (candidate.runs_asleep() == Some(before)).then_some(found)
            });
            let user = |fd, by| EndUser {
                pid: target.pid(),
                tid: candidate.tid,
                fd,
                by,
            };
            match found {
                Some(found) => uses.extend(found.into_iter().map(|(fd, steps)| DescriptorUse {
                    user: user(fd, UsedBy::Stack),
                    steps: steps + u8::from(candidate.accepts),
                })),
                None => uses.extend(wanted.iter().map(|fd| DescriptorUse {
                    user: user(*fd, UsedBy::Running),
                    steps: u8::MAX,
                })),
            }
        }
    }
    uses
}

/// How many frames, from the innermost on, are the thread's own: a child that `multiprocessing` has forked goes on inside of its parent's
/// calls, whose variables are no business of its.
fn count_own<'a>(frames: impl Iterator<Item = &'a Frame>) -> usize {
    let mut count = 0;
    for frame in frames {
        let is_fork = frame.module.as_deref() == Some("multiprocessing.popen_fork")
            && frame.function.ends_with("_launch");
        if is_fork {
            break;
        }
        count += 1;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calls_of_the_parent_are_not_a_forked_childs_own() {
        let frame = |function: &str, module: &str| Frame {
            module: Some(module.into()),
            ..Frame::marker(function)
        };
        let all = [
            frame("_recv", "multiprocessing.connection"),
            frame("BaseProcess._bootstrap", "multiprocessing.process"),
            frame("Popen._launch", "multiprocessing.popen_fork"),
            frame("main", "__main__"),
        ];
        assert_eq!(count_own(all.iter()), 2);
        assert_eq!(count_own(all[..2].iter()), 2);
    }
}
