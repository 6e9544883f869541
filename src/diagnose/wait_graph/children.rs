//! The children of a process and how they are: which have ended, how and when, without being reaped.

use crate::diagnose::wait_graph::assessment::since_of;
use crate::model::{Pid, ProcessSnapshot, SchedState, Since, WaitKind, span};

/// A child of a process that was looked at.
#[derive(Clone, Copy, Debug)]
pub struct ChildProcess<'a> {
    /// The child.
    pub process: &'a ProcessSnapshot,
    /// How it has ended, if it has.
    pub end: Option<ChildEnd<'a>>,
}

/// The end of a child that its parent has not reaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChildEnd<'a> {
    /// `killed by SIGKILL`, `exit code 1`; `None` for exit code 0, and where it may not be read.
    pub how: Option<&'a str>,
    /// How long ago: since then it has not run.
    pub since: Option<Since>,
}

impl ChildEnd<'_> {
    /// Whether a signal has ended it, and not the child itself.
    pub fn is_killed(&self) -> bool {
        self.how.is_some_and(|how| how.starts_with("killed"))
    }
}

/// The children of a process, in ascending order of pids.
pub fn children_of(processes: &[ProcessSnapshot], parent: Pid) -> Vec<ChildProcess<'_>> {
    let children = processes
        .iter()
        .filter(|process| process.ppid == parent && process.pid != parent);
    let mut children: Vec<ChildProcess<'_>> = children
        .map(|process| ChildProcess {
            process,
            end: end_of(process),
        })
        .collect();
    children.sort_by_key(|child| child.process.pid);
    children
}

fn end_of(process: &ProcessSnapshot) -> Option<ChildEnd<'_>> {
    // A main thread that has ended before others is no end of the process.
    let [thread] = &process.threads[..] else {
        return (process.state == SchedState::Zombie && process.threads.is_empty()).then_some(
            ChildEnd {
                how: None,
                since: None,
            },
        );
    };
    let wait = thread
        .wait
        .as_ref()
        .filter(|wait| wait.kind == WaitKind::Zombie);
    if process.state != SchedState::Zombie {
        return None;
    }
    let resource = wait.and_then(|wait| wait.resource.as_ref());
    Some(ChildEnd {
        how: resource.and_then(|resource| resource.state.as_deref()),
        since: since_of(thread),
    })
}

/// `child 4711 (worker) was killed by SIGKILL 40s ago and is not reaped`; `None` for one that is there.
pub fn end_text(child: &ChildProcess<'_>) -> Option<String> {
    let end = child.end?;
    let ago = end
        .since
        .map(|since| format!(" {} ago", span(since.elapsed)));
    let how = match end.how {
        Some(how) if end.is_killed() => format!("was {how}"),
        Some(how) => format!("ended ({how})"),
        None => "ended".to_owned(),
    };
    let title = match child.process.title.as_str() {
        "" => String::new(),
        title => format!(" ({title})"),
    };
    Some(format!(
        "child {}{title} {how}{} and is not reaped",
        child.process.pid,
        ago.unwrap_or_default()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testing::{process, thread};
    use crate::model::{Resource, ThreadSnapshot};

    fn zombie(how: Option<&str>) -> ThreadSnapshot {
        let mut thread = thread(5, WaitKind::Zombie, 40);
        thread.state = SchedState::Zombie;
        if let Some(wait) = &mut thread.wait {
            wait.resource = how.map(|how| Resource {
                state: Some(how.to_owned()),
                ..Resource::default()
            });
        }
        thread
    }

    fn child(threads: Vec<ThreadSnapshot>) -> [ProcessSnapshot; 1] {
        let mut child = process(5, threads);
        child.ppid = Pid(1);
        child.title = "worker".to_owned();
        child.state = child
            .threads
            .first()
            .map_or(SchedState::Zombie, |thread| thread.state);
        [child]
    }

    #[test]
    fn how_a_child_has_ended() {
        let text = |threads| {
            let child = child(threads);
            let children = children_of(&child, Pid(1));
            assert_eq!(children.len(), 1);
            end_text(&children[0])
        };
        assert_eq!(
            text(vec![zombie(Some("killed by SIGKILL"))]).as_deref(),
            Some("child 5 (worker) was killed by SIGKILL 40s ago and is not reaped")
        );
        assert_eq!(
            text(vec![zombie(Some("exit code 3"))]).as_deref(),
            Some("child 5 (worker) ended (exit code 3) 40s ago and is not reaped")
        );
        assert_eq!(
            text(Vec::new()).as_deref(),
            Some("child 5 (worker) ended and is not reaped")
        );
        assert_eq!(text(vec![thread(5, WaitKind::Sleep, 40)]), None);
        // Other threads of it go on.
        assert_eq!(
            text(vec![zombie(None), thread(6, WaitKind::Sleep, 40)]),
            None
        );
        assert!(children_of(&child(vec![zombie(None)]), Pid(2)).is_empty());
    }
}
