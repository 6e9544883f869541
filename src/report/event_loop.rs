//! Event loops as text: the running task, and the others grouped by where they stand.

use std::io::{self, Write};
use std::sync::Arc;

use super::sanitize::Shown;
use super::stack::{TextOptions, write_frames};
use crate::model::{BlockedHub, EventLoop, Frame, Task, TaskState};

/// Names of one group that are shown.
const SHOWN_NAMES: usize = 5;
/// Groups that are shown.
const SHOWN_GROUPS: usize = 40;

/// Tasks that stand at the same place and wait for the same sort of thing.
struct Group<'a> {
    state: TaskState,
    awaits: Option<String>,
    frames: &'a [Arc<Frame>],
    tasks: Vec<&'a Task>,
}

/// Writes what an event loop is about.
pub fn write_event_loop(
    event_loop: &EventLoop,
    options: TextOptions,
    indent: &str,
    out: &mut dyn Write,
) -> io::Result<()> {
    write!(out, "{indent}event loop {}: ", Shown(&event_loop.type_name))?;
    let others = event_loop.others();
    match &event_loop.running {
        Some(task) => {
            write!(out, "runs task {}", Shown(&task.name))?;
            if let Some(coroutine) = &task.coroutine {
                write!(out, " ({})", Shown(coroutine))?;
            }
            let others = count(others, "other task");
            writeln!(out, ", {}{others}", event_loop.at_least())?;
        }
        None => writeln!(out, "{}{}", event_loop.at_least(), count(others, "task"))?,
    }
    for missing in &event_loop.missing {
        writeln!(out, "{indent}! {}", Shown(missing))?;
    }
    let groups = group(&event_loop.tasks);
    for group in groups.iter().take(SHOWN_GROUPS) {
        writeln!(out, "{indent}  {}", Shown(&describe(group)))?;
        write_frames(group.frames, options, &format!("{indent}      "), out)?;
    }
    match groups.len().saturating_sub(SHOWN_GROUPS) {
        0 => Ok(()),
        more => writeln!(out, "{indent}  ... {more} more places, which --json has"),
    }
}

/// Writes that a thread keeps the hub of gevent from running.
pub fn write_blocked_hub(hub: &BlockedHub, indent: &str, out: &mut dyn Write) -> io::Result<()> {
    match hub.greenlets {
        Some(greenlets) => writeln!(
            out,
            "{indent}meanwhile gevent's hub can't run: {}",
            count(greenlets, "other greenlet")
        ),
        None => writeln!(out, "{indent}meanwhile gevent's hub can't run"),
    }
}

/// The tasks by where they stand, the largest group first.
fn group(tasks: &[Task]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for task in tasks {
        let awaits = task.awaits.as_ref().map(|awaits| match &awaits.task {
            Some(name) => format!("for task {name}"),
            None if awaits.type_name.ends_with(".Future") => "for a future".to_owned(),
            None => format!("for {}", awaits.type_name),
        });
        let same = groups.iter_mut().find(|group| {
            group.state == task.state && group.awaits == awaits && group.frames == task.frames
        });
        match same {
            Some(group) => group.tasks.push(task),
            None => groups.push(Group {
                state: task.state,
                awaits,
                frames: &task.frames,
                tasks: vec![task],
            }),
        }
    }
    groups.sort_by_key(|group| std::cmp::Reverse(group.tasks.len()));
    groups
}

fn describe(group: &Group<'_>) -> String {
    let is_one = group.tasks.len() == 1;
    let verb = match (group.state, is_one) {
        (TaskState::Waiting, true) => "waits",
        (TaskState::Waiting, false) => "wait",
        (TaskState::Ready, true) => "is ready to go on",
        (TaskState::Ready, false) => "are ready to go on",
        (TaskState::Created, true) => "has not begun",
        (TaskState::Created, false) => "have not begun",
        (TaskState::Running, true) => "is on the stack",
        (TaskState::Running, false) => "are on the stack",
    };
    let awaits = group.awaits.as_deref().map(|awaits| format!(" {awaits}"));
    let mut names: Vec<&str> = group
        .tasks
        .iter()
        .take(SHOWN_NAMES)
        .map(|task| &*task.name)
        .collect();
    let more = format!("{} more", group.tasks.len().saturating_sub(SHOWN_NAMES));
    if group.tasks.len() > SHOWN_NAMES {
        names.push(&more);
    }
    format!(
        "{} {verb}{}: {}",
        count(group.tasks.len() as u64, "task"),
        awaits.unwrap_or_default(),
        names.join(", ")
    )
}

fn count(number: u64, noun: &str) -> String {
    match number {
        0 => format!("no {noun}s"),
        1 => format!("1 {noun}"),
        number => format!("{number} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Address, Awaited, FrameKind};

    fn task(number: u64, line: u32, awaits: Option<&str>) -> Task {
        let frame = Frame {
            function: "worker".into(),
            file: "/app.py".into(),
            line: Some(line),
            kind: FrameKind::Python,
            ..Frame::marker("")
        };
        Task {
            id: Address(number),
            name: format!("Task-{number}"),
            state: awaits.map_or(TaskState::Created, |_| TaskState::Waiting),
            coroutine: Some("worker".into()),
            frames: vec![Arc::new(frame)],
            awaits: awaits.map(|name| Awaited {
                id: Address(9),
                type_name: "_asyncio.Task".into(),
                task: Some(name.into()),
            }),
            awaited_by: Vec::new(),
        }
    }

    fn text(event_loop: &EventLoop) -> String {
        let mut out = Vec::new();
        write_event_loop(event_loop, TextOptions::default(), "", &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn tasks_are_grouped_by_where_they_stand() {
        let mut tasks = vec![task(1, 3, Some("\u{1b}[2J"))];
        tasks.extend((2..10).map(|number| task(number, 7, None)));
        let mut event_loop = EventLoop {
            type_name: "uvloop.loop.Loop".into(),
            running: None,
            total: 9,
            is_total_minimum: false,
            tasks,
            missing: vec!["some".into()],
        };
        let expected = "\
event loop uvloop.loop.Loop: 9 tasks
! some
  8 tasks have not begun: Task-2, Task-3, Task-4, Task-5, Task-6, 3 more
      worker (/app.py:7)
  1 task waits for task \\u{1b}[2J: Task-1
      worker (/app.py:3)
";
        assert_eq!(text(&event_loop), expected);
        event_loop.is_total_minimum = true;
        assert!(text(&event_loop).starts_with("event loop uvloop.loop.Loop: at least 9 tasks\n"));
        event_loop.is_total_minimum = false;
        event_loop.tasks.clear();
        event_loop.missing.clear();
        event_loop.total = 1;
        event_loop.running = Some(task(1, 3, None));
        assert_eq!(
            text(&event_loop),
            "event loop uvloop.loop.Loop: runs task Task-1 (worker), no other tasks\n"
        );
    }

    #[test]
    fn of_very_many_places_the_first_are_shown() {
        let event_loop = EventLoop {
            type_name: "Loop".into(),
            running: None,
            total: 100,
            is_total_minimum: false,
            tasks: (0..100)
                .map(|number| task(number, number as u32, None))
                .collect(),
            missing: Vec::new(),
        };
        let text = text(&event_loop);
        assert!(
            text.ends_with("  ... 60 more places, which --json has\n"),
            "{text}"
        );
    }
}
