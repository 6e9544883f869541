//! Small made-up profiles for the tests of all formats.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::model::{
    Activity, Batch, Frame, FrameKind, Gil, Pid, ProcessIndex, Run, SampledProcess, SampledThread,
    SamplingStats, ThreadIndex, Tid, WaitKind,
};
use crate::profile::{BuilderOptions, Profile, ProfileBuilder};

/// A name that does what a target could do to a format.
pub(super) const HOSTILE: &str = "a;b\n<&\"'>]]>\u{1b}[31m\u{202e}\u{200b}\0\u{fffe}#${}\\ 7";

fn frame(function: &str, file: &str, module: Option<&str>, line: Option<u32>) -> Arc<Frame> {
    Arc::new(Frame {
        function: function.into(),
        file: file.into(),
        line,
        first_line: Some(1),
        module: module.map(Into::into),
        kind: FrameKind::Python,
        locals: None,
    })
}

fn process(pid: i32, title: &str) -> SampledProcess {
    SampledProcess {
        pid: Pid(pid),
        ppid: Pid(1),
        title: title.to_owned(),
        python: Some("3.13.1".to_owned()),
        is_alive: true,
    }
}

fn thread(process: u32, tid: i32, name: &str) -> SampledThread {
    SampledThread {
        process: ProcessIndex(process),
        tid: Tid(tid),
        name: name.to_owned(),
    }
}

struct Runs(Vec<Run>);

impl Runs {
    fn add(
        &mut self,
        thread: u32,
        start: u64,
        length: u64,
        stack: &[Arc<Frame>],
        activity: Activity,
        gil: Gil,
    ) {
        let stack: Vec<Arc<Frame>> = stack.iter().rev().cloned().collect();
        self.0.push(Run {
            thread: ThreadIndex(thread),
            start: Duration::from_millis(start),
            weight: Duration::from_millis(length),
            samples: length / 10,
            stack: stack.into(),
            activity,
            gil,
        });
    }
}

/// When all of them began.
pub(super) fn began() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600)
}

fn stats() -> SamplingStats {
    SamplingStats {
        elapsed: Duration::from_millis(1000),
        interval: Duration::from_millis(10),
        taken: 98,
        lost: 2,
        torn: 1,
        ..SamplingStats::default()
    }
}

fn build(batch: &Batch) -> Profile {
    let options = BuilderOptions {
        idle: true,
        timeline: true,
        ..BuilderOptions::default()
    };
    let mut builder = ProfileBuilder::new(options, began());
    builder.add(batch);
    builder.finish()
}

/// Nothing was seen.
pub(super) fn empty() -> Profile {
    build(&Batch {
        processes: vec![(ProcessIndex(0), process(4242, HOSTILE))],
        stats: stats(),
        ..Batch::default()
    })
}

/// One thread in one function with these names for a second.
pub(super) fn named(function: &str, file: &str, name: &str, title: &str) -> Profile {
    let mut runs = Runs(Vec::new());
    let stack = [
        frame(function, file, None, None),
        frame(function, file, None, Some(3)),
    ];
    runs.add(0, 0, 1000, &stack, Activity::Active, Gil::None);
    build(&Batch {
        processes: vec![(ProcessIndex(0), process(4242, title))],
        threads: vec![(ThreadIndex(0), thread(0, 4242, name))],
        runs: runs.0,
        stats: stats(),
        ..Batch::default()
    })
}

/// Two processes with three threads in a second at 100 Hz; 2,500 ms were seen of the threads: 1,000, 600 (with a gap
/// from 300 to 700 ms) and 900 ms (from 100 ms).
pub(super) fn small() -> Profile {
    let main = |line| frame("main", "/srv/shop/app.py", Some("__main__"), Some(line));
    let decode = frame(
        "JSONDecoder.decode",
        "/usr/lib/python3.13/json/decoder.py",
        Some("json.decoder"),
        Some(345),
    );
    let send = frame(
        "HTTPAdapter.send",
        "/venv/lib/python3.13/site-packages/requests/adapters.py",
        Some("requests.adapters"),
        None,
    );
    let recv = frame(
        "SSLSocket.recv_into",
        "/usr/lib/python3.13/ssl.py",
        Some("ssl"),
        Some(1285),
    );
    let hostile = frame(HOSTILE, HOSTILE, None, Some(7));
    let torn = Arc::new(Frame::marker("<torn>"));
    let work = frame("work", "/srv/shop/pool.py", Some("shop.pool"), Some(20));
    let native = Arc::new(Frame {
        function: "_PyEval_EvalFrameDefault".into(),
        file: "libpython3.13.so.1.0".into(),
        kind: FrameKind::Native,
        ..Frame::marker("")
    });
    let kernel = Arc::new(Frame {
        kind: FrameKind::Kernel,
        ..Frame::marker("do_futex")
    });
    let active = Activity::Active;
    let waits = Activity::Waiting;
    let mut runs = Runs(Vec::new());
    runs.add(0, 0, 200, &[main(10), decode], active, Gil::Held);
    let stack = [main(12), send, recv];
    runs.add(0, 200, 500, &stack, waits(WaitKind::SocketRecv), Gil::None);
    runs.add(0, 700, 250, &[main(12), hostile], active, Gil::Held);
    runs.add(0, 950, 50, &[torn], active, Gil::None);
    let stack = [work.clone(), native];
    runs.add(1, 0, 300, &stack, active, Gil::None);
    let stack = [work.clone(), kernel];
    runs.add(1, 700, 300, &stack, waits(WaitKind::Futex), Gil::Waiting);
    runs.add(2, 100, 600, &[work], waits(WaitKind::Futex), Gil::None);
    runs.add(2, 700, 300, &[], waits(WaitKind::Sleep), Gil::None);
    build(&Batch {
        processes: vec![
            (ProcessIndex(0), process(4242, "gunicorn: worker [shop]")),
            (ProcessIndex(1), process(4300, HOSTILE)),
        ],
        threads: vec![
            (ThreadIndex(0), thread(0, 4242, "MainThread")),
            (ThreadIndex(1), thread(0, 4250, HOSTILE)),
            (ThreadIndex(2), thread(1, 4300, "MainThread")),
        ],
        runs: runs.0,
        stats: stats(),
        ..Batch::default()
    })
}

/// A server for a minute, as large as recordings are: 8 threads, thousands of stretches, some deep and some narrow
/// stacks. The same each time.
pub(super) fn shop() -> Profile {
    let package = |function: &str, module: &str, line: u32| {
        let file = format!(
            "/venv/lib/python3.13/site-packages/{}.py",
            module.replace('.', "/")
        );
        frame(function, &file, Some(module), Some(line))
    };
    let library = |function: &str, module: &str, line: u32| {
        let file = format!("/usr/lib/python3.13/{}.py", module.replace('.', "/"));
        frame(function, &file, Some(module), Some(line))
    };
    let own = |function: &str, module: &str, line: u32| {
        let file = format!("/srv/shop/{}.py", module.replace('.', "/"));
        frame(function, &file, Some(module), Some(line))
    };
    let thread_main = [
        library("Thread._bootstrap", "threading", 1014),
        library("Thread._bootstrap_inner", "threading", 1043),
        library("Thread.run", "threading", 994),
        library("_worker", "concurrent.futures.thread", 93),
        library("_WorkItem.run", "concurrent.futures.thread", 59),
    ];
    let request = [
        package("Flask.wsgi_app", "flask.app", 1511),
        package("Flask.full_dispatch_request", "flask.app", 917),
        package("Flask.dispatch_request", "flask.app", 902),
    ];
    let query = [
        package("Session.execute", "sqlalchemy.orm.session", 2362),
        package(
            "Connection._execute_context",
            "sqlalchemy.engine.base",
            1843,
        ),
        package("Cursor.execute", "psycopg.cursor", 97),
    ];
    let leaves: Vec<(Vec<Arc<Frame>>, Activity, Gil)> = vec![
        (
            vec![
                own("list_orders", "shop.views", 41),
                own("price", "shop.money", 12),
            ],
            Activity::Active,
            Gil::Held,
        ),
        (
            vec![
                own("list_orders", "shop.views", 44),
                own("Basket.total", "shop.basket", 88),
                own("Basket.total.<locals>.<genexpr>", "shop.basket", 90),
            ],
            Activity::Active,
            Gil::Held,
        ),
        (
            [vec![own("list_orders", "shop.views", 39)], query.to_vec()].concat(),
            Activity::Waiting(WaitKind::Poll),
            Gil::None,
        ),
        (
            [vec![own("show_order", "shop.views", 71)], query.to_vec()].concat(),
            Activity::Waiting(WaitKind::Poll),
            Gil::None,
        ),
        (
            vec![
                own("pay", "shop.views", 120),
                package("Session.request", "requests.sessions", 589),
                package("HTTPAdapter.send", "requests.adapters", 667),
                package("HTTPConnectionPool.urlopen", "urllib3.connectionpool", 787),
                library("HTTPConnection.getresponse", "http.client", 1430),
                library("SocketIO.readinto", "socket", 719),
                library("SSLSocket.recv_into", "ssl", 1304),
            ],
            Activity::Waiting(WaitKind::SocketRecv),
            Gil::None,
        ),
        (
            vec![
                own("show_order", "shop.views", 75),
                library("dumps", "json", 231),
                library("JSONEncoder.encode", "json.encoder", 200),
                library("JSONEncoder.iterencode", "json.encoder", 261),
            ],
            Activity::Active,
            Gil::Waiting,
        ),
        (
            vec![
                own("show_order", "shop.views", 77),
                own("Cache.get", "shop.cache", 33),
            ],
            Activity::Waiting(WaitKind::Futex),
            Gil::None,
        ),
        (
            vec![
                own("show_order", "shop.views", 78),
                own("Cache.get", "shop.cache", 36),
            ],
            Activity::Waiting(WaitKind::Futex),
            Gil::Waiting,
        ),
        (
            vec![
                package("Template.render", "jinja2.environment", 1304),
                own("root", "<template>", 9),
            ],
            Activity::Active,
            Gil::Held,
        ),
    ];
    let idle = [
        library("Thread._bootstrap", "threading", 1014),
        library("Thread._bootstrap_inner", "threading", 1043),
        library("Thread.run", "threading", 994),
        library("_worker", "concurrent.futures.thread", 90),
    ];
    let mut runs = Runs(Vec::new());
    runs.add(
        0,
        0,
        60_000,
        &[
            own("<module>", "shop.server", 210),
            package("serve_forever", "waitress.server", 225),
            package("poll", "waitress.wasyncore", 178),
        ],
        Activity::Waiting(WaitKind::Poll),
        Gil::None,
    );
    let mut state: u64 = 7;
    let mut random = |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for thread in 1..8 {
        let mut now = 0;
        while now < 60_000 {
            let length = (10 * (1 + random(30))).min(60_000 - now);
            match random(40) {
                0..14 => runs.add(
                    thread,
                    now,
                    length,
                    &idle,
                    Activity::Waiting(WaitKind::Futex),
                    Gil::None,
                ),
                // Not seen.
                39 => {}
                choice => {
                    let (leaf, activity, gil) = &leaves[choice as usize % leaves.len()];
                    let mut stack = [&thread_main[..], &request[..], leaf].concat();
                    if random(8) == 0 {
                        for depth in 0..12 {
                            stack.push(own(&format!("Tree.walk_{}", depth % 3), "shop.tree", 17));
                        }
                    }
                    runs.add(thread, now, length, &stack, *activity, *gil);
                }
            }
            now += length;
        }
    }
    let name = |thread| match thread {
        0 => "MainThread".to_owned(),
        _ => format!("waitress-{}", thread - 1),
    };
    build(&Batch {
        processes: vec![(
            ProcessIndex(0),
            process(4242, "/venv/bin/python -m shop.server --port 8080"),
        )],
        threads: (0..8)
            .map(|index| {
                let tid = 4242 + i32::try_from(index).unwrap();
                (ThreadIndex(index), thread(0, tid, &name(index)))
            })
            .collect(),
        runs: runs.0,
        stats: SamplingStats {
            elapsed: Duration::from_secs(60),
            interval: Duration::from_millis(10),
            taken: 5988,
            lost: 12,
            late: 31,
            torn: 4,
            ..SamplingStats::default()
        },
        ..Batch::default()
    })
}

/// What a format writes.
pub(super) fn written(format: super::Format, profile: &Profile, style: super::Style) -> Vec<u8> {
    let mut out = Vec::new();
    format.write(profile, style, &mut out).unwrap();
    out
}
