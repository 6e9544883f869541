//! Made-up threads and processes for the tests of this room.

use std::sync::Arc;
use std::time::Duration;

use crate::model::{
    Consistency, Frame, FrameKind, Gil, Holder, HolderConfidence, MemoryOutcome, Pid,
    ProcessCounts, ProcessSnapshot, Reach, Resource, SchedState, Since, SinceSource, TcpTimes,
    ThreadRef, ThreadSnapshot, Tid, Wait, WaitKind,
};

/// The thread with these numbers.
pub fn at(pid: i32, tid: i32) -> ThreadRef {
    ThreadRef {
        pid: Pid(pid),
        tid: Tid(tid),
    }
}

/// A Python thread that has waited for so many seconds.
pub fn thread(tid: i32, kind: WaitKind, seconds: u64) -> ThreadSnapshot {
    let since = Since {
        elapsed: Duration::from_secs(seconds),
        error: Duration::from_millis(10),
        source: SinceSource::Sched,
    };
    ThreadSnapshot {
        tid: Tid(tid),
        name: Some(format!("Thread-{tid}")),
        comm: "python".into(),
        state: SchedState::Sleeping,
        off_cpu: Some(since),
        gil: Gil::None,
        interpreter: Some(0),
        consistency: Consistency::Exact,
        frames: Vec::new(),
        event_loop: None,
        blocked_hub: None,
        exception: None,
        wait: Some(Wait {
            kind,
            since: Some(since),
            syscall: Some("call".into()),
            timeout: None,
            resource: None,
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

/// The main thread, that has waited for an answer for so many seconds.
pub fn receiver(seconds: u64) -> ThreadSnapshot {
    let mut thread = thread(7, WaitKind::SocketRecv, seconds);
    thread.name = Some("MainThread".into());
    if let Some(wait) = &mut thread.wait {
        wait.resource = Some(Resource {
            kind: "tcp".into(),
            fd: Some(9),
            local: Some("10.1.2.3:41044".into()),
            peer: Some("10.0.0.1:443".into()),
            state: Some("ESTABLISHED".into()),
            accepted: Some(false),
            recv_timeout: Some(None),
            tcp: Some(TcpTimes {
                bytes_acked: 31,
                ..TcpTimes::default()
            }),
            ..Resource::default()
        });
    }
    asked(thread, seconds)
}

/// The same, whose connection has carried nothing for so many seconds: a question went out last.
pub fn asked(mut thread: ThreadSnapshot, seconds: u64) -> ThreadSnapshot {
    let resource = thread.wait.as_mut().and_then(|wait| wait.resource.as_mut());
    if let Some(tcp) = resource.and_then(|resource| resource.tcp.as_mut()) {
        let milliseconds = u32::try_from(seconds * 1000).unwrap_or(u32::MAX - 300);
        tcp.last_data_sent_ms = milliseconds + 10;
        tcp.last_data_recv_ms = milliseconds + 300;
    }
    thread
}

/// The thread, waiting for a thread or for a process as a whole.
pub fn held_by(
    mut thread: ThreadSnapshot,
    pid: i32,
    tid: Option<i32>,
    confidence: HolderConfidence,
) -> ThreadSnapshot {
    if let Some(wait) = &mut thread.wait {
        wait.holder = Some(Holder {
            pid: Pid(pid),
            tid: tid.map(Tid),
            thread: None,
            title: None,
            confidence,
            is_gone: false,
        });
    }
    thread
}

/// The thread, with calls of functions `module.function`, innermost first.
pub fn inside(mut thread: ThreadSnapshot, calls: &[&str]) -> ThreadSnapshot {
    let frame = |call: &&str| {
        let (module, function) = call.split_once('.').unwrap_or(("", call));
        Arc::new(Frame {
            function: function.into(),
            module: Some(module.into()),
            kind: FrameKind::Python,
            ..Frame::marker("")
        })
    };
    thread.frames = calls.iter().map(frame).collect();
    thread
}

/// The thread, of whose object all references were found: these threads of its process have them.
pub fn reached_by(mut thread: ThreadSnapshot, tids: &[i32]) -> ThreadSnapshot {
    if let Some(wait) = &mut thread.wait {
        wait.reach = Some(Reach {
            threads: tids.iter().copied().map(Tid).collect(),
            is_closed: true,
            references: Some(3),
            found: 3,
            ..Reach::default()
        });
    }
    thread
}

/// A Python process with these threads.
pub fn process(pid: i32, threads: Vec<ThreadSnapshot>) -> ProcessSnapshot {
    ProcessSnapshot {
        pid: Pid(pid),
        ns_pid: None,
        ppid: Pid(1),
        depth: 0,
        handles_signals: false,
        handles_alarms: false,
        is_related: false,
        title: "python app.py".into(),
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
        threads,
        errors: Vec::new(),
    }
}
