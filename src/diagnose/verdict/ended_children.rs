//! Children that have ended, in words: those that were killed, and those that have left a pipe open for others.

use serde_json::json;

use crate::diagnose::verdict::case::Case;
use crate::diagnose::wait_graph::Stuck;
use crate::diagnose::wait_graph::children::{ChildProcess, children_of, end_text};
use crate::diagnose::wait_graph::left_open::{LeftOpen, find_left_open};
use crate::model::{Evidence, Pid, ProcessSnapshot, VerdictClass};
use crate::wait::sentence;

/// Most who keep it open that are named.
const MAX_NAMED: usize = 3;

/// What keeps the pipe open that the thread is stuck on.
pub fn left_open_of(case: &Case<'_>, stuck: &Stuck) -> Option<LeftOpen> {
    let is_own = stuck.class == VerdictClass::HangPipe && stuck.root == case.key();
    is_own
        .then(|| find_left_open(case.processes, case.process, case.thread))
        .flatten()
}

/// `; its child 4711 (sh) has ended, and process 4712 (sleep 600) keeps the pipe open`.
pub fn left_open_text(case: &Case<'_>, left: &LeftOpen) -> String {
    let keepers = left.keepers.iter().take(MAX_NAMED);
    let mut keepers: Vec<String> = keepers
        .map(|keeper| format!("process {}", named(case, *keeper)))
        .collect();
    let more = left.keepers.len().saturating_sub(MAX_NAMED);
    if more > 0 {
        keepers.push(format!("{more} more"));
    }
    let verb = match left.keepers.len() {
        1 => "keeps",
        _ => "keep",
    };
    let keepers = keepers.join(" and ");
    match left.child {
        Some(child) => format!(
            "; its child {} has ended, and {keepers} {verb} the pipe open",
            named(case, child)
        ),
        None => format!(
            "; it is no command's output any more, and {keepers}, which inherited it, {verb} the pipe open"
        ),
    }
}

/// What the child and those who have the pipe do.
pub fn left_open_facts(case: &Case<'_>, left: &LeftOpen) -> Vec<Evidence> {
    let children = children_of(case.processes, case.process.pid);
    let mut children = children.iter();
    let child = children.find(|child| Some(child.process.pid) == left.child);
    let mut facts: Vec<Evidence> = child.and_then(child_fact).into_iter().collect();
    facts.extend(left.keepers.iter().take(MAX_NAMED).map(|keeper| Evidence {
        fact: "keeper",
        value: json!(keeper),
        text: format!(
            "process {}, which has its write end, {}",
            named(case, *keeper),
            does(case, *keeper)
        ),
    }));
    facts
}

/// That a child of its process was killed and is not reaped: what it should have done is not done.
pub fn killed_children_facts(case: &Case<'_>) -> Vec<Evidence> {
    let children = children_of(case.processes, case.process.pid);
    let killed = children
        .iter()
        .filter(|child| child.end.is_some_and(|end| end.is_killed()));
    killed.take(MAX_NAMED).filter_map(child_fact).collect()
}

fn child_fact(child: &ChildProcess<'_>) -> Option<Evidence> {
    Some(Evidence {
        fact: "child",
        value: json!({
            "pid": child.process.pid,
            "how": child.end?.how,
        }),
        text: end_text(child)?,
    })
}

fn find<'a>(case: &Case<'a>, pid: Pid) -> Option<&'a ProcessSnapshot> {
    case.processes.iter().find(|process| process.pid == pid)
}

fn named(case: &Case<'_>, pid: Pid) -> String {
    match find(case, pid).map(|process| &process.title) {
        Some(title) if !title.is_empty() => format!("{pid} ({title})"),
        _ => pid.to_string(),
    }
}

/// What the main thread of a process waits for.
fn does(case: &Case<'_>, pid: Pid) -> String {
    let thread = find(case, pid).and_then(|process| process.threads.first());
    let wait = thread.and_then(|thread| thread.wait.as_ref());
    let text = wait.and_then(|wait| sentence(wait, pid));
    text.unwrap_or_else(|| match thread {
        Some(thread) => format!("is {}", thread.state.word()),
        None => "is there".to_owned(),
    })
}
