use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::diagnose::testing::{at, held_by, process, receiver, thread};
use crate::model::{ContextField, HolderConfidence, Loop, TcpTimes, ThreadProgress, Tid, Value};
use crate::wait::LOCK_FILE;

fn finding(verdict: VerdictClass, confidence: Confidence) -> Finding {
    Finding {
        verdict,
        confidence,
        summary: String::new(),
        since: None,
        root: at(1, 7),
        teller: at(1, 7),
        chain: Vec::new(),
        blocks: Vec::new(),
        context: None,
        advice: String::new(),
        group: 0,
    }
}

fn cycle(links: &[(i32, WaitKind, i32)]) -> Finding {
    let link = |(from, waits, to): &(i32, WaitKind, i32)| Link {
        thread: at(1, *from),
        waits: *waits,
        on: at(1, *to),
    };
    Finding {
        chain: links.iter().map(link).collect(),
        ..finding(VerdictClass::Deadlock, Confidence::Likely)
    }
}

/// A thread that waits like this for an object of this type.
fn on(kind: WaitKind, type_name: &str) -> ThreadSnapshot {
    let mut thread = thread(7, kind, 60);
    thread.wait.as_mut().unwrap().resource = Some(Resource {
        kind: type_name.to_owned(),
        ..Resource::default()
    });
    thread
}

fn with_resource(
    kind: WaitKind,
    type_name: &str,
    change: impl Fn(&mut Resource),
) -> ThreadSnapshot {
    let mut thread = on(kind, type_name);
    change(thread.wait.as_mut().unwrap().resource.as_mut().unwrap());
    thread
}

/// A thread whose innermost call is in this module.
fn in_module(module: &str) -> ThreadSnapshot {
    let mut thread = thread(7, WaitKind::Unknown, 0);
    thread.frames = vec![Arc::new(Frame {
        module: Some(module.into()),
        kind: FrameKind::Python,
        ..Frame::marker("match")
    })];
    thread
}

fn looping(only_counts: bool) -> ThreadSnapshot {
    let mut thread = thread(7, WaitKind::Unknown, 0);
    thread.progress = Some(ThreadProgress {
        round: Some(Loop {
            frames: Vec::new(),
            lines: vec![1, 2],
            rounds: 9,
            changes: Some(only_counts),
            changing: Vec::new(),
            constant: Vec::new(),
            only_counts,
        }),
        ..ThreadProgress::default()
    });
    thread
}

/// One example of each situation.
fn examples() -> Vec<(Situation, Finding, ThreadSnapshot)> {
    use Confidence::{Likely, Possible, Proven};
    use VerdictClass::{
        GilHeld, HangChild, HangDisk, HangDns, HangFileLock, HangLock, HangNetwork, HangPipe, Spin,
    };
    let lock = || thread(7, WaitKind::PythonLock, 60);
    let held = held_by(lock(), 1, Some(8), HolderConfidence::Inferred);
    let mut own_listener = receiver(60);
    own_listener = held_by(own_listener, 1, None, HolderConfidence::Proven);
    let mut broken = receiver(60);
    let tcp = broken.wait.as_mut().unwrap().resource.as_mut().unwrap();
    tcp.tcp = Some(TcpTimes {
        unacked: 3,
        retransmits: 5,
        ..TcpTimes::default()
    });
    let mut slices = receiver(60);
    slices.wait.as_mut().unwrap().timeout = Some(Duration::from_secs(1));
    let through_proxy = Finding {
        context: Some(Context {
            kind: "http".into(),
            what: "connecting".into(),
            fields: vec![ContextField {
                name: "proxy".into(),
                value: Value::None,
            }],
        }),
        ..finding(HangNetwork, Likely)
    };
    let mut traced = thread(7, WaitKind::Stopped, 60);
    traced.state = SchedState::Stopped;
    vec![
        (
            Situation::LockWithItself,
            cycle(&[(7, WaitKind::PythonLock, 7)]),
            lock(),
        ),
        (
            Situation::LockCycle,
            cycle(&[(7, WaitKind::PythonLock, 8), (8, WaitKind::PythonRlock, 7)]),
            lock(),
        ),
        (
            Situation::PipeCycle,
            cycle(&[(7, WaitKind::Child, 8), (8, WaitKind::PipeWrite, 7)]),
            lock(),
        ),
        (
            Situation::ThreadCycle,
            cycle(&[(7, WaitKind::Condition, 8), (8, WaitKind::PythonLock, 7)]),
            lock(),
        ),
        (
            Situation::ImportLock,
            cycle(&[(7, WaitKind::ImportLock, 8), (8, WaitKind::ImportLock, 7)]),
            lock(),
        ),
        (Situation::Fork, finding(HangLock, Proven), lock()),
        (Situation::Lock, finding(HangLock, Likely), held),
        (
            Situation::LockWithoutHolder,
            finding(HangLock, Possible),
            lock(),
        ),
        (
            Situation::SharedSemaphore,
            finding(HangLock, Likely),
            on(WaitKind::SharedSemaphore, "semaphore"),
        ),
        (
            Situation::Future,
            finding(HangLock, Possible),
            on(WaitKind::Condition, "concurrent.futures._base.Future"),
        ),
        (
            Situation::Queue,
            finding(HangLock, Possible),
            on(WaitKind::Condition, "queue.Queue"),
        ),
        (
            Situation::Event,
            finding(HangLock, Possible),
            on(WaitKind::Condition, "threading.Event"),
        ),
        (
            Situation::Semaphore,
            finding(HangLock, Possible),
            on(WaitKind::Semaphore, "threading.Semaphore"),
        ),
        (
            Situation::ThreadJoin,
            finding(HangLock, Likely),
            on(WaitKind::Condition, "threading.Thread"),
        ),
        (
            Situation::ProcessPool,
            finding(HangLock, Possible),
            on(WaitKind::Condition, "multiprocessing.pool.ApplyResult"),
        ),
        (
            Situation::Network,
            finding(HangNetwork, Likely),
            receiver(60),
        ),
        (
            Situation::QuietPeer,
            finding(HangNetwork, Possible),
            receiver(60),
        ),
        (
            Situation::Connect,
            finding(HangNetwork, Likely),
            on(WaitKind::SocketConnect, "tcp"),
        ),
        (
            Situation::Send,
            finding(HangNetwork, Likely),
            on(WaitKind::SocketSend, "tcp"),
        ),
        (Situation::BrokenPath, finding(HangNetwork, Likely), broken),
        (
            Situation::OwnListener,
            finding(HangNetwork, Likely),
            own_listener,
        ),
        (Situation::Proxy, through_proxy, receiver(60)),
        (Situation::Retry, finding(HangNetwork, Likely), slices),
        (Situation::Dns, finding(HangDns, Likely), receiver(60)),
        (
            Situation::FullPipe,
            finding(HangPipe, Likely),
            on(WaitKind::PipeWrite, "pipe"),
        ),
        (
            Situation::EmptyPipe,
            finding(HangPipe, Likely),
            on(WaitKind::PipeRead, "pipe"),
        ),
        (
            Situation::LonelyPipe,
            finding(HangPipe, Proven),
            with_resource(WaitKind::PipeRead, "pipe", |pipe| {
                pipe.is_alone = Some(true)
            }),
        ),
        (
            Situation::Terminal,
            finding(HangPipe, Possible),
            on(WaitKind::Tty, "tty"),
        ),
        (
            Situation::Child,
            finding(HangChild, Likely),
            on(WaitKind::Child, "process"),
        ),
        (
            Situation::FileLock,
            finding(HangFileLock, Likely),
            on(WaitKind::FileLock, "file"),
        ),
        (
            Situation::LockFile,
            finding(HangFileLock, Likely),
            on(WaitKind::FileLock, LOCK_FILE),
        ),
        (
            Situation::Disk,
            finding(HangDisk, Likely),
            on(WaitKind::Disk, "file"),
        ),
        (
            Situation::RegularExpression,
            finding(GilHeld, Likely),
            in_module("re"),
        ),
        (
            Situation::GilInC,
            finding(GilHeld, Likely),
            in_module("app"),
        ),
        (Situation::BusyLoop, finding(Spin, Likely), looping(false)),
        (
            Situation::CountingLoop,
            finding(Spin, Possible),
            looping(true),
        ),
        (
            Situation::StalledCall,
            finding(VerdictClass::Stalled, Likely),
            on(WaitKind::Sleep, "time"),
        ),
        (
            Situation::Stopped,
            finding(VerdictClass::Stopped, Proven),
            traced,
        ),
    ]
}

#[test]
fn each_situation_is_recognised_and_has_its_advice() {
    let mut lines = Vec::new();
    for (situation, mut finding, mut example) in examples() {
        assert_eq!(situation_of(&finding, Some(&example)), Some(situation));
        example.tid = Tid(7);
        advise(&mut finding, &[process(1, vec![example])]);
        assert!(!finding.advice.is_empty(), "{situation:?}");
        lines.push(format!("{situation:?}: {}", finding.advice));
    }
    insta::assert_snapshot!("advice", lines.join("\n"));
}

/// What has an entry has an example, and the other way round. Two are told by other processes (`tests/peers.rs`).
#[test]
fn the_table_has_each_situation() {
    let examples = examples().into_iter().map(|(situation, ..)| situation);
    let elsewhere = [Situation::LeftOpenPipe, Situation::ChildAtTerminal];
    let examples: BTreeMap<Situation, ()> = examples
        .chain(elsewhere)
        .map(|situation| (situation, ()))
        .collect();
    assert!(TABLE.keys().eq(examples.keys()));
}

#[test]
fn what_is_stopped_is_continued_by_whoever_stopped_it() {
    let mut thread = thread(7, WaitKind::Stopped, 60);
    thread.state = SchedState::Stopped;
    assert_eq!(advice_on_stop(&thread), "continue it (SIGCONT)");
    thread.state = SchedState::Sleeping;
    let wait = thread.wait.as_mut().unwrap();
    wait.resource = Some(Resource {
        kind: "cgroup".to_owned(),
        name: Some("cgroup /a".to_owned()),
        ..Resource::default()
    });
    let advice = advice_on_stop(&thread);
    assert!(advice.starts_with("thaw cgroup /a, "), "{advice}");
    let mut thread = crate::diagnose::testing::thread(7, WaitKind::Traced, 60);
    thread.state = SchedState::Traced;
    assert_eq!(advice_on_stop(&thread), "let its tracer continue or detach");
    let thread = held_by(thread, 42, None, HolderConfidence::Proven);
    assert_eq!(
        advice_on_stop(&thread),
        "let its tracer, process 42, continue or detach"
    );
}
