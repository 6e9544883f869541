//! What is blocked, from a diagnosis: for how long, on what, and whether that is thought to be a hang.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use crate::model::{
    Frame, Pid, ProcessSnapshot, SchedState, ThreadSnapshot, Tid, VerdictClass, Wait, WaitKind,
};
use crate::wait::sentence;

/// Shorter waits come and go with every look; they are not shown.
const SHORTEST: Duration = Duration::from_secs(1);
/// Most rows that are kept.
pub const MAX_ROWS: usize = 1000;

/// A thread that is blocked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockedRow {
    /// Its process.
    pub pid: Pid,
    /// Its number.
    pub tid: Tid,
    /// Its name.
    pub name: String,
    /// For how long.
    pub since: Option<Duration>,
    /// What is thought of it.
    pub verdict: VerdictClass,
    /// What sort of wait it is, in the word of the JSON.
    pub kind: String,
    /// What it waits on: the peer, the file, or at least the call.
    pub on: String,
    /// Its innermost frame.
    pub frame: Option<Arc<Frame>>,
}

impl BlockedRow {
    /// The word that says what it is: the verdict on what is stuck, else the sort of wait.
    pub fn word(&self) -> &str {
        if self.verdict.is_stuck() {
            self.verdict.name()
        } else {
            &self.kind
        }
    }
}

/// The threads of diagnosed processes that are blocked: the stuck ones first, then the longest waits.
pub fn blocked_rows(processes: &[ProcessSnapshot]) -> Vec<BlockedRow> {
    let mut rows: Vec<BlockedRow> = processes
        .iter()
        .flat_map(|process| {
            process
                .threads
                .iter()
                .filter_map(|thread| blocked_row(process.pid, thread))
        })
        .collect();
    rows.sort_by_key(|row| {
        (
            !row.verdict.is_stuck(),
            Reverse(row.since),
            row.pid,
            row.tid,
        )
    });
    rows.truncate(MAX_ROWS);
    rows
}

fn blocked_row(pid: Pid, thread: &ThreadSnapshot) -> Option<BlockedRow> {
    let verdict = thread.verdict.as_ref()?.class;
    let since = thread
        .wait
        .as_ref()
        .and_then(|wait| wait.since)
        .or(thread.off_cpu)
        .map(|since| since.elapsed);
    let is_blocked = thread.interpreter.is_some()
        && !matches!(
            thread.state,
            SchedState::Running | SchedState::Zombie | SchedState::Dead
        )
        && since.is_some_and(|since| since >= SHORTEST);
    if !is_blocked && !verdict.is_stuck() {
        return None;
    }
    Some(BlockedRow {
        pid,
        tid: thread.tid,
        name: thread.best_name().to_owned(),
        since,
        verdict,
        kind: match &thread.wait {
            Some(wait) => kind_word(wait),
            None => thread.state.word().to_owned(),
        },
        on: thread
            .wait
            .as_ref()
            .map(|wait| waited_on(wait, pid))
            .unwrap_or_default(),
        frame: thread.frames.first().cloned(),
    })
}

/// The sort of wait, or at least the call.
fn kind_word(wait: &Wait) -> String {
    match (wait.kind, &wait.syscall) {
        (WaitKind::Unknown, Some(call)) => call.clone(),
        (kind, _) => kind.word().to_owned(),
    }
}

/// What is waited on: the sentence of the report without what the row has already, which is that it waits and for how long.
fn waited_on(wait: &Wait, pid: Pid) -> String {
    let Some(text) = sentence(wait, pid) else {
        return match &wait.syscall {
            Some(call) => format!("in {call}"),
            None => String::new(),
        };
    };
    match text
        .strip_prefix("waits ")
        .and_then(|rest| rest.split_once("for "))
    {
        Some((_, what)) => what.to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::rules::Rules;
    use crate::diagnose::{DiagnoseOptions, diagnose};
    use crate::model::{
        Consistency, Gil, MemoryOutcome, ProcessCounts, Resource, Since, SinceSource,
    };

    fn thread(tid: i32, seconds: u64, kind: WaitKind) -> ThreadSnapshot {
        let since = Since {
            elapsed: Duration::from_secs(seconds),
            error: Duration::ZERO,
            source: SinceSource::Sched,
        };
        ThreadSnapshot {
            tid: Tid(tid),
            name: Some(format!("thread {tid}")),
            comm: "python3".to_owned(),
            state: SchedState::Sleeping,
            off_cpu: Some(since),
            gil: Gil::None,
            interpreter: Some(0),
            consistency: Consistency::Exact,
            frames: vec![Arc::new(Frame::marker("recv"))],
            event_loop: None,
            blocked_hub: None,
            exception: None,
            wait: Some(Wait {
                kind,
                since: Some(since),
                syscall: Some("recvfrom".to_owned()),
                timeout: None,
                resource: (kind == WaitKind::SocketRecv).then(|| Resource {
                    kind: "tcp".to_owned(),
                    fd: Some(9),
                    local: Some("10.1.2.3:41044".to_owned()),
                    peer: Some("10.0.0.1:443".to_owned()),
                    state: Some("ESTABLISHED".to_owned()),
                    recv_timeout: Some(None),
                    ..Resource::default()
                }),
                call: None,
                slices: None,
                holder: None,
                other_holders: Vec::new(),
                reach: None,
                missing: Vec::new(),
            }),
            counts: None,
            progress: None,
            verdict: None,
        }
    }

    #[test]
    fn what_is_stuck_comes_first_and_short_waits_are_left_out() {
        let mut processes = vec![ProcessSnapshot {
            pid: Pid(7),
            ns_pid: None,
            ppid: Pid(1),
            depth: 0,
            handles_signals: false,
            handles_alarms: false,
            is_related: false,
            title: "python app.py".to_owned(),
            command: Vec::new(),
            runtime: None,
            memory: MemoryOutcome::Python,
            state: SchedState::Sleeping,
            started_at: None,
            age: None,
            container: None,
            tracer: None,
            refuses_calls: false,
            unread_threads: 0,
            lacks_descriptors: false,
            counts: ProcessCounts::default(),
            progress: None,
            threads: vec![
                thread(7, 0, WaitKind::Sleep),
                thread(8, 900, WaitKind::Futex),
                thread(9, 60, WaitKind::SocketRecv),
                thread(10, 5, WaitKind::Unknown),
            ],
            errors: Vec::new(),
        }];
        diagnose(
            &mut processes,
            DiagnoseOptions {
                threshold: Duration::from_secs(30),
                rules: Rules::built_in(),
                observed: None,
                idle_by_values: None,
            },
        );
        let rows = blocked_rows(&processes);
        let shown: Vec<_> = rows
            .iter()
            .map(|row| (row.tid.0, row.word(), row.on.as_str()))
            .collect();
        assert_eq!(
            shown,
            [
                (
                    9,
                    "hang-network",
                    "data from 10.0.0.1:443 (tcp, established; no timeout)"
                ),
                (8, "futex", "a futex"),
                (10, "recvfrom", "in recvfrom"),
            ]
        );
    }
}
