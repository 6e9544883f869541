use std::sync::Arc;

use super::*;
use crate::diagnose::rules::Rules;
use crate::diagnose::testing::{held_by, process, receiver, thread};
use crate::diagnose::{DiagnoseOptions, diagnose};
use crate::model::{
    Address, Awaited, EventLoop, Frame, FrameKind, HolderConfidence, MemoryOutcome, Resource,
    SchedState, Task, TaskState, Tid, WaitKind,
};

/// Lines that an answer on one problem has at most.
const SCREEN: usize = 40;

fn call(function: &str, file: &str, line: u32) -> Arc<Frame> {
    Arc::new(Frame {
        function: function.into(),
        file: file.into(),
        line: Some(line),
        kind: FrameKind::Python,
        ..Frame::marker("")
    })
}

/// A stack of so many calls, the innermost with this name.
fn stack(innermost: &str, depth: u32) -> Vec<Arc<Frame>> {
    let mut frames = vec![call(innermost, "/usr/lib/python3.12/socket.py", 706)];
    let calls = (1..depth).map(|line| call(&format!("call_{line}"), "/srv/app.py", line));
    frames.extend(calls);
    frames
}

fn answer(processes: &mut [ProcessSnapshot], is_all: bool) -> String {
    let threshold = Duration::from_secs(30);
    let options = DiagnoseOptions {
        threshold,
        rules: Rules::built_in(),
        observed: None,
        idle_by_values: None,
    };
    let findings = diagnose(processes, options);
    let options = AnswerOptions {
        text: TextOptions::default(),
        threshold,
        is_all,
    };
    let mut out = Vec::new();
    write_diagnosis(processes, &findings, options, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

/// Threads of a pool in the same call, each on a connection of its own.
fn pool(threads: i32) -> ProcessSnapshot {
    let threads = (0..threads).map(|number| {
        let mut thread = receiver(41 + number as u64 % 3);
        thread.tid = Tid(100 + number);
        thread.name = Some(format!("ThreadPoolExecutor-0_{number}"));
        thread.frames = stack("SocketIO.readinto", 40);
        let resource = thread.wait.as_mut().unwrap().resource.as_mut().unwrap();
        resource.local = Some(format!("10.1.2.3:{}", 41_000 + number));
        thread
    });
    process(1, threads.collect())
}

/// Threads that wait for one lock, whose owner waits for a peer.
fn crowd(waiting: i32) -> ProcessSnapshot {
    let mut owner = receiver(90);
    owner.tid = Tid(50);
    owner.name = Some("owner".into());
    owner.frames = stack("SocketIO.readinto", 30);
    let waiters = (0..waiting).map(|number| {
        let waiter = thread(100 + number, WaitKind::PythonLock, 80);
        let mut waiter = held_by(waiter, 1, Some(50), HolderConfidence::Inferred);
        waiter.wait.as_mut().unwrap().resource = Some(Resource {
            kind: "threading.Lock".into(),
            address: Some(Address(0x7000)),
            ..Resource::default()
        });
        waiter.frames = stack("Pool.take", 30);
        waiter
    });
    process(1, [owner].into_iter().chain(waiters).collect())
}

#[test]
fn equal_findings_are_one_screen() {
    let text = answer(&mut [pool(32)], false);
    assert!(text.lines().count() <= SCREEN, "{text}");
    assert_eq!(text.matches("hang-network (likely)").count(), 1, "{text}");
    insta::assert_snapshot!("pool", text);
    let all = answer(&mut [pool(32)], true);
    assert!(all.contains("ThreadPoolExecutor-0_31 (tid 131)"), "{all}");
    assert!(all.contains("call_20 "), "{all}");
}

#[test]
fn a_crowd_behind_one_owner_is_one_screen() {
    let text = answer(&mut [crowd(49)], false);
    assert!(text.lines().count() <= SCREEN, "{text}");
    insta::assert_snapshot!("crowd", text);
    let all = answer(&mut [crowd(49)], true);
    assert!(all.contains("Thread-148 (tid 148)"), "{all}");
}

/// A root that only keeps what it holds says what it does itself.
#[test]
fn the_root_says_its_own_wait() {
    let mut prompt = thread(50, WaitKind::Tty, 300);
    prompt.name = Some("debugger".into());
    prompt.frames = stack("Pdb.interaction", 3);
    prompt.wait.as_mut().unwrap().resource = Some(Resource {
        kind: "tty".into(),
        path: Some("/dev/pts/0".into()),
        ..Resource::default()
    });
    let waiter = thread(60, WaitKind::PythonLock, 120);
    let waiter = held_by(waiter, 1, Some(50), HolderConfidence::Proven);
    let text = answer(&mut [process(1, vec![prompt, waiter])], false);
    assert!(text.contains("root cause: debugger (tid 50)"), "{text}");
    let evidence = text.lines().find(|line| line.contains("/dev/pts/0"));
    assert!(evidence.is_some(), "{text}");
    // Who reports it is not held up once more.
    assert!(!text.contains("holds up:"), "{text}");
}

/// Two findings: the one that is surer comes first, however old the other is.
#[test]
fn a_guess_comes_last() {
    let mut guess = receiver(900);
    let tcp = guess.wait.as_mut().unwrap().resource.as_mut().unwrap();
    let tcp = tcp.tcp.as_mut().unwrap();
    (tcp.last_data_recv_ms, tcp.bytes_received) = (1, 5);
    let mut sure = receiver(60);
    sure.tid = Tid(8);
    let text = answer(&mut [process(1, vec![guess, sure])], false);
    let place = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part}: {text}"));
    assert!(place("(likely)") < place("(possible)"), "{text}");
    assert!(
        text.starts_with("STUCK for 1m00s: 2 root causes, 2 threads affected\n\n"),
        "{text}"
    );
}

#[test]
fn a_guess_alone_is_possibly_stuck() {
    let mut guess = receiver(900);
    let tcp = guess.wait.as_mut().unwrap().resource.as_mut().unwrap();
    let tcp = tcp.tcp.as_mut().unwrap();
    (tcp.last_data_recv_ms, tcp.bytes_received) = (1, 5);
    let text = answer(&mut [process(1, vec![guess])], false);
    assert!(text.starts_with("possibly stuck for 15m00s: "), "{text}");
}

#[test]
fn without_a_finding_the_longest_waits_and_hottest_loops_are_listed() {
    let mut blocked = receiver(17);
    let tcp = blocked.wait.as_mut().unwrap().resource.as_mut().unwrap();
    let tcp = tcp.tcp.as_mut().unwrap();
    (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (17_000, 17_300);
    blocked.frames = stack("SocketIO.readinto", 5);
    let mut hot = thread(8, WaitKind::Unknown, 0);
    hot.name = Some("scheduler".into());
    (hot.state, hot.wait, hot.off_cpu) = (SchedState::Running, None, None);
    hot.frames = stack("run", 2);
    let mut looping = thread(9, WaitKind::Poll, 41);
    looping.name = Some("loop".into());
    looping.wait.as_mut().unwrap().resource = Some(Resource {
        kind: "epoll".into(),
        ..Resource::default()
    });
    looping.event_loop = Some(EventLoop {
        type_name: "asyncio.Loop".into(),
        running: None,
        total: 3,
        is_total_minimum: false,
        tasks: (1..=3)
            .map(|number| Task {
                id: Address(number),
                name: format!("Task-{number}"),
                state: TaskState::Waiting,
                coroutine: Some("consumer".into()),
                frames: vec![call(
                    "Queue.get",
                    "/usr/lib/python3.12/asyncio/queues.py",
                    158,
                )],
                awaits: Some(Awaited {
                    id: Address(9),
                    type_name: "_asyncio.Future".into(),
                    task: None,
                }),
                awaited_by: Vec::new(),
            })
            .collect(),
        missing: Vec::new(),
    });
    let mut sleeper = thread(10, WaitKind::Sleep, 95);
    sleeper.frames = stack("time.sleep", 3);
    let text = answer(
        &mut [process(1, vec![blocked, hot, looping, sleeper])],
        false,
    );
    insta::assert_snapshot!("no-finding", text);
}

#[test]
fn what_could_not_be_read_is_in_the_headline() {
    let mut partly = process(1, vec![thread(7, WaitKind::Sleep, 60)]);
    partly.unread_threads = 1749;
    let text = answer(&mut [partly], false);
    assert!(
        text.starts_with(
            "not stuck (threshold 30s), as far as could be read: 1749 threads could not be read\n"
        ),
        "{text}"
    );
    let mut closed = process(1, Vec::new());
    closed.memory = MemoryOutcome::Denied;
    let text = answer(&mut [closed], false);
    assert!(
        text.starts_with("not diagnosed: 1 process could not be read\n"),
        "{text}"
    );
    let mut other = process(1, vec![thread(7, WaitKind::Sleep, 60)]);
    other.memory = MemoryOutcome::NotPython;
    let text = answer(&mut [other.clone()], false);
    assert!(
        text.starts_with("not diagnosed: no Python was found\n"),
        "{text}"
    );
    other.memory = MemoryOutcome::None;
    other.state = SchedState::Zombie;
    let text = answer(&mut [other], false);
    assert!(
        text.starts_with("not diagnosed: the process has ended\n"),
        "{text}"
    );
    let text = answer(
        &mut [process(1, vec![thread(7, WaitKind::Sleep, 60)])],
        false,
    );
    assert!(text.starts_with("not stuck (threshold 30s)\n\n"), "{text}");
}

#[test]
fn notes_that_are_left_out_are_counted() {
    let threads = (1..=5).map(|tid| thread(tid, WaitKind::Unknown, 60));
    let mut process = process(1, threads.collect());
    for thread in &mut process.threads {
        thread.verdict = Some(crate::model::Verdict {
            class: VerdictClass::Unknown,
            confidence: Confidence::Possible,
            summary: format!("note {}", thread.tid),
            evidence: Vec::new(),
        });
    }
    let mut out = Vec::new();
    process_line::write_process_line(&process, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(text.contains(": 5 unknown\n"), "{text}");
    assert!(
        text.ends_with("  note 3\n  ... 2 more (--json lists all)\n"),
        "{text}"
    );
}

fn line_of(process: &ProcessSnapshot) -> String {
    let mut out = Vec::new();
    process_line::write_process_line(process, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn a_child_that_nobody_has_reaped_is_said_to_have_ended() {
    let mut child = process(7, vec![thread(7, WaitKind::Zombie, 40)]);
    child.state = SchedState::Zombie;
    child.errors = vec!["it has no memory".into()];
    child.threads[0].wait.as_mut().unwrap().resource = None;
    let line = line_of(&child);
    assert!(
        line.contains("ended") && line.contains("not reaped"),
        "{line}"
    );
    assert!(!line.contains("unknown"), "{line}");
    assert_eq!(line.lines().count(), 1, "{line}");
}

/// A database is described by its command, a child that is gone not at all.
#[test]
fn what_says_nothing_is_left_out() {
    let mut database = process(9, vec![thread(9, WaitKind::Futex, 40)]);
    database.is_related = true;
    database.memory = MemoryOutcome::NotPython;
    database.title = "mariadbd".into();
    assert_eq!(
        line_of(&database),
        "waited for: process 9 (mariadbd, no Python found)\n"
    );
    let mut gone = process(10, Vec::new());
    (gone.memory, gone.depth) = (MemoryOutcome::Ended, 1);
    let text = answer(
        &mut [process(1, vec![thread(1, WaitKind::Sleep, 40)]), gone],
        false,
    );
    assert!(!text.contains("process 10"), "{text}");
}
