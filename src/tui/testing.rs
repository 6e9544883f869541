//! A made-up target for the tests of the screen: a busy main thread, a stuck one, and one with a hostile name.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::app::{App, AppOptions};
use super::blocked::BlockedRow;
use super::theme::Theme;
use crate::model::{
    Activity, Batch, Frame, FrameKind, Gil, Pid, ProcessIndex, Run, SampledProcess, SampledThread,
    SamplingStats, ThreadIndex, Tid, VerdictClass, WaitKind,
};
use crate::profile::Choice;

/// How screens of tests begin.
pub fn options() -> AppOptions {
    AppOptions {
        pid: Pid(4242),
        started_at: SystemTime::UNIX_EPOCH,
        delay: Duration::from_secs(1),
        has_early_picture: true,
        threshold: Duration::from_secs(30),
        choice: Choice::default(),
        by_function: false,
        without_lines: false,
        full_filenames: false,
        theme: Theme::new(true),
    }
}

/// A screen that has seen two seconds.
pub fn app() -> App {
    let mut app = App::new(options());
    app.receive(&batch(1000));
    app.receive(&batch(2000));
    app.receive_blocked(blocked());
    app
}

fn frame(function: &str, file: &str, line: u32, first_line: u32, module: &str) -> Arc<Frame> {
    Arc::new(Frame {
        function: function.into(),
        file: file.into(),
        line: Some(line),
        first_line: Some(first_line),
        module: Some(module.into()),
        kind: FrameKind::Python,
        locals: None,
    })
}

fn app_frame(function: &str, line: u32, first_line: u32) -> Arc<Frame> {
    frame(
        function,
        "/srv/airflow/scheduler_job.py",
        line,
        first_line,
        "__main__",
    )
}

/// What happened in the second before `end`, in milliseconds since the beginning.
pub fn batch(end: u64) -> Batch {
    let start = end.saturating_sub(1000);
    let module = app_frame("<module>", 90, 1);
    let main = app_frame("main", 80, 70);
    let burn = |line| {
        vec![
            app_frame("burn", line, 10),
            Arc::clone(&main),
            Arc::clone(&module),
        ]
    };
    let recv = vec![
        frame(
            "recv_into",
            "/usr/lib/python3/dist-packages/OpenSSL/SSL.py",
            1821,
            1800,
            "OpenSSL.SSL",
        ),
        frame(
            "_make_request",
            "/usr/lib/python3/dist-packages/urllib3/connectionpool.py",
            383,
            350,
            "urllib3.connectionpool",
        ),
        frame(
            "run",
            "/usr/lib/python3.6/threading.py",
            864,
            860,
            "threading",
        ),
    ];
    let hostile = vec![frame(
        "\x1b[2Jevil\u{202e}",
        "/tmp/\x07名前.py",
        3,
        1,
        "evil",
    )];
    let run = |thread, offset, weight, stack: Vec<Arc<Frame>>, activity, gil| Run {
        thread: ThreadIndex(thread),
        start: Duration::from_millis(start + offset),
        weight: Duration::from_millis(weight),
        samples: weight / 10,
        stack: stack.into(),
        activity,
        gil,
    };
    let (active, recv_wait) = (Activity::Active, Activity::Waiting(WaitKind::SocketRecv));
    let process = |pid, ppid, title: &str| SampledProcess {
        pid: Pid(pid),
        ppid: Pid(ppid),
        title: title.to_owned(),
        python: Some("3.6.9".to_owned()),
        is_alive: true,
    };
    let thread = |process, tid, name: &str| SampledThread {
        process: ProcessIndex(process),
        tid: Tid(tid),
        name: name.to_owned(),
    };
    Batch {
        processes: vec![
            (ProcessIndex(0), process(4242, 1, "airflow scheduler")),
            (
                ProcessIndex(1),
                process(4250, 4242, "airflow worker \x1b]0;owned\x07"),
            ),
        ],
        threads: vec![
            (ThreadIndex(0), thread(0, 4242, "MainThread")),
            (ThreadIndex(1), thread(0, 4243, "KubernetesJobWatcher")),
            (ThreadIndex(2), thread(0, 4244, "\x1b[31mtask\n名前")),
            (ThreadIndex(3), thread(1, 4250, "MainThread")),
        ],
        runs: vec![
            run(0, 0, 640, burn(12), active, Gil::Held),
            run(0, 640, 160, burn(13), active, Gil::Held),
            run(0, 800, 200, vec![main, module], active, Gil::None),
            run(1, 0, 1000, recv, recv_wait, Gil::None),
            run(2, 0, 30, hostile.clone(), active, Gil::Waiting),
            run(
                2,
                30,
                970,
                hostile,
                Activity::Waiting(WaitKind::Futex),
                Gil::None,
            ),
            run(
                3,
                0,
                1000,
                Vec::new(),
                Activity::Waiting(WaitKind::Poll),
                Gil::None,
            ),
        ],
        stats: SamplingStats {
            elapsed: Duration::from_millis(end),
            interval: Duration::from_millis(10),
            taken: end / 10,
            stacks: end / 10 * 4,
            torn: end / 500,
            active: Duration::from_millis(end),
            gil: Duration::from_millis(end * 8 / 10),
            ..SamplingStats::default()
        },
        ..Batch::default()
    }
}

/// What is blocked in it.
pub fn blocked() -> Vec<BlockedRow> {
    let row = |tid, name: &str, seconds, verdict, kind: &str, on: &str, frame| BlockedRow {
        pid: Pid(4242),
        tid: Tid(tid),
        name: name.to_owned(),
        since: Some(Duration::from_secs(seconds)),
        verdict,
        kind: kind.to_owned(),
        on: on.to_owned(),
        frame: Some(frame),
    };
    vec![
        row(
            4243,
            "KubernetesJobWatcher",
            552,
            VerdictClass::HangNetwork,
            "socket-recv",
            "tcp 10.0.0.1:443",
            frame(
                "recv_into",
                "/usr/lib/python3/dist-packages/OpenSSL/SSL.py",
                1821,
                1800,
                "OpenSSL.SSL",
            ),
        ),
        row(
            4244,
            "\x1b[31mtask\n名前",
            11,
            VerdictClass::Working,
            "futex",
            "in futex",
            frame("\x1b[2Jevil\u{202e}", "/tmp/\x07名前.py", 3, 1, "evil"),
        ),
    ]
}
