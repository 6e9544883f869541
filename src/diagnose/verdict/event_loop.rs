//! What a thread holds up beside other threads: the event loop that runs in it, and its tasks.

use std::collections::BTreeMap;

use serde_json::json;

use crate::model::{
    Address, EventLoop, Evidence, Task, TaskState, ThreadSnapshot, Verdict, VerdictClass,
};

/// Tasks of a cycle that are named.
const MAX_NAMED: usize = 8;

/// Adds to a verdict what the thread's event loop, or the hub of gevent in it, has to do with it.
pub fn add_event_loop(verdict: Verdict, thread: &ThreadSnapshot) -> Verdict {
    let mut verdict = add_hub(verdict, thread);
    let Some(event_loop) = &thread.event_loop else {
        return verdict;
    };
    let others = event_loop.others();
    let at_least = event_loop.at_least();
    let tasks = match others {
        1 => format!("{at_least}1 task"),
        others => format!("{at_least}{others} tasks"),
    };
    if let Some(culprit) = blocking_task_of(event_loop, thread) {
        if matches!(verdict.class, VerdictClass::Working | VerdictClass::Stopped) {
            return verdict;
        }
        verdict
            .summary
            .push_str(&format!("; it blocks the event loop, {tasks}"));
        let text = match others {
            0 => format!("the event loop in it runs {culprit}, and nothing else meanwhile"),
            _ => format!("the event loop in it runs {culprit}; {tasks} can't go on meanwhile"),
        };
        verdict.evidence.push(Evidence {
            fact: "event_loop.tasks",
            value: json!(others),
            text,
        });
        return verdict;
    }
    if verdict.class == VerdictClass::Idle && others > 0 {
        let verb = if others == 1 { "waits" } else { "wait" };
        verdict
            .summary
            .push_str(&format!("; {tasks} {verb} in its event loop"));
        verdict.evidence.push(Evidence {
            fact: "event_loop.tasks",
            value: json!(others),
            text: format!("the event loop in it has {tasks}, and runs none of them"),
        });
        verdict
            .evidence
            .extend(find_cycle(&event_loop.tasks).map(cycle_fact));
    }
    verdict
}

/// Adds that the hub of gevent can't run meanwhile. One for which no other greenlet waits holds up nothing.
fn add_hub(mut verdict: Verdict, thread: &ThreadSnapshot) -> Verdict {
    let is_of_moment = matches!(verdict.class, VerdictClass::Working | VerdictClass::Stopped);
    let Some(hub) = thread.blocked_hub.filter(|_| !is_of_moment) else {
        return verdict;
    };
    let greenlets = match hub.greenlets {
        Some(0) => return verdict,
        Some(1) => Some("1 greenlet".to_owned()),
        Some(greenlets) => Some(format!("{greenlets} greenlets")),
        None => None,
    };
    verdict.summary.push_str("; it blocks gevent's hub");
    if let Some(greenlets) = &greenlets {
        verdict.summary.push_str(&format!(", {greenlets}"));
    }
    let who = greenlets.unwrap_or_else(|| "no other greenlet".to_owned());
    let verb = if hub.greenlets.is_some() {
        "can't"
    } else {
        "can"
    };
    verdict.evidence.push(Evidence {
        fact: "hub.greenlets",
        value: json!(hub.greenlets),
        text: format!(
            "a greenlet has the thread, and not gevent's hub: {who} {verb} go on meanwhile"
        ),
    });
    verdict
}

/// What the loop is in, as people say it; `None` while it waits for events.
fn blocking_task_of(event_loop: &EventLoop, thread: &ThreadSnapshot) -> Option<String> {
    if let Some(task) = &event_loop.running {
        let coroutine = task.coroutine.as_ref().map(|name| format!(" ({name})"));
        return Some(format!(
            "task {}{}",
            task.name,
            coroutine.unwrap_or_default()
        ));
    }
    // `Lib/asyncio/events.py::Handle._run` (3.8-3.15) calls what `call_soon` and the like were given.
    let is_handle = |module: Option<&str>, function: &str| {
        module == Some("asyncio.events") && function.rsplit('.').next() == Some("_run")
    };
    let mut frames = thread.frames.iter();
    let is_callback = frames.any(|frame| is_handle(frame.module.as_deref(), &frame.function));
    is_callback.then(|| "a callback".to_owned())
}

/// Tasks each of which waits for the next, and the last for the first.
fn find_cycle(tasks: &[Task]) -> Option<Vec<&Task>> {
    let by_id: BTreeMap<Address, &Task> = tasks.iter().map(|task| (task.id, task)).collect();
    let next = |task: &Task| {
        let awaits = task.awaits.as_ref()?;
        let waits_for_task = task.state == TaskState::Waiting && awaits.task.is_some();
        by_id.get(&awaits.id).filter(|_| waits_for_task).copied()
    };
    // At which walk each was met: who is met twice on one walk is in a cycle, who was met on an earlier one leads to none.
    let mut met: BTreeMap<Address, usize> = BTreeMap::new();
    for (walk, task) in tasks.iter().enumerate() {
        let mut at = Some(task);
        while let Some(task) = at {
            match met.insert(task.id, walk) {
                Some(before) if before == walk => return Some(cycle_of(task, next)),
                Some(_) => break,
                None => at = next(task),
            }
        }
    }
    None
}

/// The cycle that a task is in.
fn cycle_of<'a>(task: &'a Task, next: impl Fn(&'a Task) -> Option<&'a Task>) -> Vec<&'a Task> {
    let mut cycle = vec![task];
    let mut at = next(task);
    while let Some(other) = at.filter(|other| other.id != task.id) {
        cycle.push(other);
        at = next(other);
    }
    cycle
}

fn cycle_fact(cycle: Vec<&Task>) -> Evidence {
    let more = format!("{} more", cycle.len().saturating_sub(MAX_NAMED));
    let mut names: Vec<&str> = cycle
        .iter()
        .map(|task| &*task.name)
        .take(MAX_NAMED)
        .collect();
    if cycle.len() > MAX_NAMED {
        names.push(&more);
    }
    Evidence {
        fact: "event_loop.circle",
        value: json!(cycle.iter().map(|task| task.id).collect::<Vec<_>>()),
        text: format!(
            "of these, {} wait for each other in a cycle: only a cancellation can end that",
            names.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testing::{receiver, thread};
    use crate::model::{Awaited, BlockedHub, Confidence, Frame, WaitKind};
    use std::sync::Arc;

    fn task(id: u64, awaits: Option<u64>) -> Task {
        Task {
            id: Address(id),
            name: format!("Task-{id}"),
            state: TaskState::Waiting,
            coroutine: Some("worker".into()),
            frames: Vec::new(),
            awaits: awaits.map(|id| Awaited {
                id: Address(id),
                type_name: "_asyncio.Task".into(),
                task: Some(format!("Task-{id}")),
            }),
            awaited_by: Vec::new(),
        }
    }

    fn looped(
        mut thread: ThreadSnapshot,
        running: Option<Task>,
        tasks: Vec<Task>,
    ) -> ThreadSnapshot {
        thread.event_loop = Some(EventLoop {
            type_name: "Loop".into(),
            total: tasks.len() as u64 + u64::from(running.is_some()),
            is_total_minimum: false,
            running,
            tasks,
            missing: Vec::new(),
        });
        thread
    }

    fn told(class: VerdictClass, thread: &ThreadSnapshot) -> (String, Vec<&'static str>) {
        let verdict = Verdict {
            class,
            confidence: Confidence::Likely,
            summary: "it".into(),
            evidence: Vec::new(),
        };
        let verdict = add_event_loop(verdict, thread);
        let facts = verdict.evidence.iter().map(|one| one.fact).collect();
        (verdict.summary, facts)
    }

    #[test]
    fn a_task_or_callback_blocks_its_loop() {
        let blocked = looped(receiver(99), Some(task(1, None)), vec![task(2, None)]);
        let (summary, facts) = told(VerdictClass::HangNetwork, &blocked);
        assert_eq!(summary, "it; it blocks the event loop, 1 task");
        assert_eq!(facts, ["event_loop.tasks"]);
        let mut callback = looped(receiver(99), None, Vec::new());
        callback.frames = vec![Arc::new(Frame {
            module: Some("asyncio.events".into()),
            ..Frame::marker("Handle._run")
        })];
        let (summary, _) = told(VerdictClass::HangLock, &callback);
        assert_eq!(summary, "it; it blocks the event loop, 0 tasks");
        let (summary, _) = told(VerdictClass::Working, &blocked);
        assert_eq!(summary, "it");
        assert_eq!(told(VerdictClass::HangLock, &receiver(99)).0, "it");
    }

    #[test]
    fn a_greenlet_blocks_the_hub() {
        let with = |greenlets| {
            let mut thread = receiver(99);
            thread.blocked_hub = Some(BlockedHub { greenlets });
            told(VerdictClass::HangNetwork, &thread).0
        };
        assert_eq!(with(Some(3)), "it; it blocks gevent's hub, 3 greenlets");
        assert_eq!(with(None), "it; it blocks gevent's hub");
        assert_eq!(with(Some(0)), "it");
    }

    #[test]
    fn an_idle_loop_says_how_many_tasks_wait_and_which_in_a_circle() {
        let poll = || thread(7, WaitKind::Poll, 99);
        let idle = looped(poll(), None, vec![task(1, None), task(2, Some(1))]);
        let (summary, facts) = told(VerdictClass::Idle, &idle);
        assert_eq!(summary, "it; 2 tasks wait in its event loop");
        assert_eq!(facts, ["event_loop.tasks"]);
        let tasks = vec![
            task(1, Some(2)),
            task(2, Some(3)),
            task(3, Some(2)),
            task(4, Some(9)),
        ];
        let cycle = looped(poll(), None, tasks);
        let (_, facts) = told(VerdictClass::Idle, &cycle);
        assert_eq!(facts, ["event_loop.tasks", "event_loop.circle"]);
        let cycle = find_cycle(&cycle.event_loop.as_ref().unwrap().tasks).map(|all| all.len());
        assert_eq!(cycle, Some(2));
        // A long line of tasks is gone through once, from whichever end.
        let line = || (0..1000).map(|id| task(500 + id, Some(501 + id)));
        assert!(find_cycle(&line().collect::<Vec<_>>()).is_none());
        let backwards: Vec<_> = line().rev().collect();
        assert!(find_cycle(&backwards).is_none());
    }
}
