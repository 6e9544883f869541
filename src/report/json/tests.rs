//! Documents with every field that there is: the schemas in `docs/` name them all, and no other.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::model::{
    Address, Attribute, Awaited, BlockedHub, CallSite, CaughtError, Confidence, Consistency,
    Container, Context, ContextField, End, EndAccess, EndUser, Entry, EventLoop, Evidence, Frame,
    FrameKind, Gil, Holder, HolderConfidence, Link, Local, Loop, Member, MemoryOutcome, Pid,
    ProcessCounts, ProcessProgress, Reach, Resource, RuntimeInfo, SchedState, Since, SinceSource,
    Slices, Task, TaskState, TcpTimes, ThreadProgress, ThreadRef, ThreadSnapshot, Tid, UsedBy,
    Value, Verdict, VerdictClass, Wait, WaitKind,
};
use schema::{collect_filled, fields_of, find_schema_errors};

#[path = "../../../tests/support/schema.rs"]
mod schema;

const TIME: Duration = Duration::from_millis(1500);
const ADDRESS: Address = Address(0x7f00_0000_1000);

proptest! {
    #[test]
    fn a_text_comes_back_and_does_not_act(text in any::<String>()) {
        let text = format!("{text}\u{7f}\u{9b}\u{202e}\u{e0001}");
        let mut out = Vec::new();
        write(&[&text], &mut out).unwrap();
        let written = String::from_utf8(out).unwrap();
        prop_assert!(!written.chars().any(|letter| acts(letter) && letter != '\n'));
        prop_assert_eq!(serde_json::from_str::<Vec<String>>(&written).unwrap(), [text]);
    }
}

// Everything below is written out in full, so that a new field does not compile until it is filled here.

/// One value of each kind.
fn values() -> Vec<Value> {
    let text = || "a".to_owned();
    let items = || vec![Value::None];
    let length = 1;
    vec![
        Value::None,
        Value::Bool { value: true },
        Value::Int {
            text: Some("-7".into()),
            bits: 3,
        },
        Value::Int {
            text: None,
            bits: 1 << 40,
        },
        Value::Float {
            text: "1e+16".into(),
        },
        Value::Str {
            text: text(),
            length,
        },
        Value::Bytes {
            text: text(),
            length,
        },
        Value::List {
            items: items(),
            length,
        },
        Value::Tuple {
            items: items(),
            length,
        },
        Value::Set {
            items: items(),
            length,
        },
        Value::FrozenSet {
            items: items(),
            length,
        },
        Value::Dict {
            entries: vec![Entry {
                key: Value::None,
                value: Value::Redacted,
            }],
            length,
        },
        Value::Object {
            type_name: "app.Job".into(),
            address: ADDRESS,
            name: Some(text()),
            content: Some(Box::new(Value::None)),
            attributes: vec![Attribute {
                name: text(),
                value: Value::None,
            }],
            length,
        },
        Value::Cycle { address: ADDRESS },
        Value::Omitted {
            type_name: String::new(),
            address: ADDRESS,
        },
        Value::Unreadable { why: text() },
        Value::Redacted,
    ]
}

fn frames() -> Vec<Arc<Frame>> {
    let local = |value| Local {
        name: "job".into(),
        argument: true,
        value,
    };
    vec![Arc::new(Frame {
        function: "fetch".into(),
        file: "/srv/app.py".into(),
        line: Some(7),
        first_line: Some(5),
        module: Some("app".into()),
        kind: FrameKind::Python,
        locals: Some(values().into_iter().map(local).collect()),
    })]
}

fn event_loop() -> EventLoop {
    let task = |state| Task {
        id: ADDRESS,
        name: "Task-1".into(),
        state,
        coroutine: Some("fetch".into()),
        frames: frames(),
        awaits: Some(Awaited {
            id: ADDRESS,
            type_name: "_asyncio.Task".into(),
            task: Some("Task-2".into()),
        }),
        awaited_by: vec![ADDRESS],
    };
    EventLoop {
        type_name: "asyncio.unix_events._UnixSelectorEventLoop".into(),
        running: Some(task(TaskState::Running)),
        total: 4,
        is_total_minimum: true,
        tasks: [TaskState::Waiting, TaskState::Ready, TaskState::Created]
            .map(task)
            .into(),
        missing: vec!["one".into()],
    }
}

/// A resource that is of all kinds at once.
fn resource(members: Vec<Member>) -> Resource {
    Resource {
        kind: "tcp".into(),
        fd: Some(9),
        local: Some("10.1.2.3:41044".into()),
        peer: Some("10.0.0.1:443".into()),
        state: Some("ESTABLISHED".into()),
        accepted: Some(true),
        resolves_names: Some(true),
        recv_timeout: Some(Some(TIME)),
        send_timeout: Some(Some(TIME)),
        user_timeout: Some(Some(TIME)),
        keepalive: Some(true),
        keepalive_time: Some(TIME),
        recv_queue: Some(1),
        send_queue: Some(1),
        tcp: Some(TcpTimes {
            bytes_sent: Some(1),
            bytes_retransmitted: Some(1),
            ..TcpTimes::default()
        }),
        path: Some("/srv/data".into()),
        inode: Some(1),
        fill: Some(1),
        capacity: Some(65_536),
        ends: vec![End {
            pid: Pid(8),
            fd: 3,
            access: EndAccess::Both,
        }],
        users: vec![EndUser {
            pid: Pid(8),
            tid: Tid(8),
            fd: 3,
            by: UsedBy::Stack,
        }],
        had_input: Some(true),
        is_alone: Some(true),
        is_unaccepted: true,
        is_shared: Some(true),
        members,
        member_count: Some(5000),
        address: Some(ADDRESS),
        name: Some("app".into()),
        pid: Some(Pid(8)),
        remaining: Some(TIME),
        function: Some("folio_wait_bit_common".into()),
        mount: Some("/srv".into()),
    }
}

fn wait(kind: WaitKind) -> Wait {
    let holder = Holder {
        pid: Pid(8),
        tid: Some(Tid(8)),
        thread: Some("MainThread".into()),
        title: Some("python server.py".into()),
        confidence: HolderConfidence::Possible,
        is_gone: true,
    };
    Wait {
        kind,
        since: Some(Since {
            elapsed: TIME,
            error: TIME,
            source: SinceSource::Observed,
        }),
        syscall: Some("poll".into()),
        timeout: Some(TIME),
        resource: Some(resource(vec![Member {
            resource: resource(Vec::new()),
            for_read: true,
            for_write: true,
            is_wakeup: true,
        }])),
        call: Some(CallSite {
            function: "poll".into(),
            file: "client.py".into(),
            line: Some(7),
        }),
        slices: Some(Slices {
            count: 9,
            period: Some(TIME),
            errors: vec![caught()],
        }),
        holder: Some(holder.clone()),
        other_holders: vec![holder],
        reach: Some(Reach {
            threads: vec![Tid(8)],
            is_closed: true,
            is_global: true,
            is_cut: true,
            references: Some(3),
            found: 3,
        }),
        missing: vec!["its name".into()],
    }
}

/// An exception as it is told.
fn caught() -> CaughtError {
    CaughtError {
        type_name: "ConnectionRefusedError".into(),
        errno: Some(111),
        address: Some("127.0.0.1:5672".into()),
        caught_in: None,
    }
}

/// A thread as a dump has it.
fn thread(kind: WaitKind) -> ThreadSnapshot {
    ThreadSnapshot {
        tid: Tid(7),
        name: Some("MainThread".into()),
        comm: "python".into(),
        state: SchedState::Sleeping,
        off_cpu: None,
        counts: None,
        gil: Gil::Waiting,
        interpreter: Some(0),
        consistency: Consistency::Repeated,
        frames: frames(),
        event_loop: Some(event_loop()),
        blocked_hub: Some(BlockedHub { greenlets: Some(4) }),
        exception: Some(caught()),
        wait: Some(wait(kind)),
        progress: None,
        verdict: None,
    }
}

/// A process as a dump has it, with a thread in each kind of wait.
fn process() -> ProcessSnapshot {
    ProcessSnapshot {
        pid: Pid(7),
        ns_pid: Some(1),
        ppid: Pid(1),
        depth: 0,
        is_related: true,
        title: "python app.py".into(),
        command: vec!["python".into()],
        runtime: Some(RuntimeInfo {
            kind: "cpython",
            version: "3.6.15".into(),
            free_threaded: false,
            found_by: "section",
            image: "/usr/bin/python".into(),
        }),
        memory: MemoryOutcome::Python,
        state: SchedState::Sleeping,
        started_at: Some(SystemTime::UNIX_EPOCH),
        age: None,
        container: Some(Container {
            id: "4".repeat(64),
            engine: Some("containerd"),
            pod_uid: Some("0f9f8b3e-6b8e-4c7e-9d2b-6a3f2f1b1c11".into()),
        }),
        tracer: Some(Pid(9)),
        handles_signals: false,
        handles_alarms: false,
        refuses_calls: false,
        unread_threads: 2,
        lacks_descriptors: false,
        counts: ProcessCounts::default(),
        progress: None,
        threads: WaitKind::ALL.map(thread).into(),
        errors: vec!["its files".into()],
    }
}

/// Adds what only a diagnosis tells, each thread with another verdict.
fn judge(process: &mut ProcessSnapshot) {
    process.progress = Some(ProcessProgress {
        watched: TIME,
        read_bytes: Some(1),
        keeps_sockets: Some(true),
        written_bytes: Some(1),
        throttled: Some(TIME),
    });
    let classes = VerdictClass::ALL.into_iter().cycle();
    for (thread, class) in process.threads.iter_mut().zip(classes) {
        thread.progress = Some(ThreadProgress {
            watched: TIME,
            looks: 25,
            cpu: Some(TIME),
            wake_ups: Some(1),
            stacks: 3,
            received_bytes: Some(0),
            round: Some(Loop {
                frames: frames(),
                lines: vec![7, 8],
                rounds: 9,
                changes: Some(false),
                changing: vec!["left".into()],
                constant: vec!["queue".into()],
                only_counts: false,
            }),
        });
        thread.verdict = Some(Verdict {
            class,
            confidence: Confidence::Proven,
            summary: "waits".into(),
            evidence: vec![Evidence {
                fact: "wait.since_ms",
                value: json!(1500),
                text: "it waits".into(),
            }],
        });
    }
}

fn finding(verdict: VerdictClass) -> Finding {
    let root = ThreadRef {
        pid: Pid(7),
        tid: Tid(7),
    };
    let fields = values().into_iter().enumerate();
    Finding {
        verdict,
        confidence: Confidence::Likely,
        summary: "waits".into(),
        since: Some(TIME),
        root,
        teller: root,
        chain: vec![Link {
            thread: root,
            waits: WaitKind::Condition,
            on: root,
        }],
        blocks: vec![root],
        context: Some(Context {
            kind: "http".into(),
            what: "POST http://example.org/".into(),
            fields: fields
                .map(|(number, value)| ContextField {
                    name: format!("field_{number}"),
                    value,
                })
                .collect(),
        }),
        advice: "set a timeout".into(),
        group: 0,
    }
}

const ACCESS: Access = Access {
    ptrace: Some(true),
    vectored: Some(true),
    syscall: Some(true),
    fds: Some(true),
    kernel_stack: Some(true),
    pidfd_getfd: Some(true),
    map_files: Some(true),
};

/// Fails unless the document keeps to its schema and fills every field of it.
fn check<T: Serialize>(name: &str, document: &T) {
    let mut written = Vec::new();
    write(document, &mut written).unwrap();
    let document = serde_json::from_slice(&written).unwrap();
    assert_eq!(find_schema_errors(name, &document), Vec::<String>::new());
    let mut filled = BTreeSet::new();
    collect_filled(&document, "", &mut filled);
    let fields = fields_of(name);
    let missing: Vec<_> = fields.difference(&filled).collect();
    assert!(missing.is_empty(), "{name}: {missing:#?}");
}

#[test]
fn every_field_is_in_its_schema() {
    let head = Head::new(SystemTime::UNIX_EPOCH, TIME);
    let mut processes = [process()];
    check("dump", &DumpDocument::new(head.clone(), ACCESS, &processes));
    judge(&mut processes[0]);
    let findings = VerdictClass::ALL.map(finding);
    check(
        "diagnosis",
        &DiagnosisDocument::new(head, ACCESS, TIME, &processes, &findings),
    );
}
