//! What `stuckspy diagnose` thinks of programs that move: a loop that gets nowhere, one that does, a question that is asked again and
//! again, and a CPU limit.

mod support;

#[path = "support/live.rs"]
mod live;

use std::fs;
use std::process::Command;

use live::{Target, any_interpreter, ask_about, is_root, wait_until};
use serde_json::Value;
use support::cpu_limit::CpuLimit;
use support::interpreter::Interpreter;
use support::schema::find_schema_errors;
use support::{program, report_skipped};

/// Starts a program of `fixtures/programs/moving`, which says a line before it goes on in its way.
fn start(interpreter: &Interpreter, name: &str, arguments: &[&str]) -> Target {
    let path = program::folder().join("moving").join(format!("{name}.py"));
    let mut command = Command::new(&interpreter.path);
    command
        .arg(path)
        .args(arguments)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    Target::start_and_listen(&mut command).0
}

fn diagnose(pid: i32, window: &str) -> Value {
    let options = ["--json", "--threshold", "1s", "--window", window];
    let answer = ask_about("diagnose", pid, &options);
    answer.expect_one_of(&[0, 1]).json()
}

/// The thread with this name.
fn thread_of<'a>(document: &'a Value, name: &str) -> &'a Value {
    let mut threads = document["processes"][0]["threads"]
        .as_array()
        .into_iter()
        .flatten();
    // A program that has never imported threading has no names.
    let main = &document["processes"][0]["pid"];
    let found = threads
        .find(|thread| thread["name"] == name || (name == "MainThread" && thread["tid"] == *main));
    found.unwrap_or_else(|| panic!("no {name}: {document:#}"))
}

/// The scheduler that asks its queue again and again is told with its loop, on every version.
#[test]
fn a_scheduler_that_never_sleeps_spins() {
    support::for_each_interpreter("spin_scheduler", |interpreter| {
        let mut target = start(interpreter, "spin_scheduler", &[]);
        let document = diagnose(target.pid(), "3s");
        let finding = &document["findings"][0];
        let thread = thread_of(&document, "MainThread");
        let round = &thread["progress"]["loop"];
        target.assert_unharmed();
        let functions: Vec<_> = round["frames"].as_array().into_iter().flatten().collect();
        let is_loop = functions
            .iter()
            .any(|frame| frame["function"].as_str() == Some("loop"));
        if finding["verdict"] == "spin" && finding["confidence"] == "likely" && is_loop {
            Ok(None)
        } else {
            Err(format!("{finding:#}\n{thread:#}"))
        }
    });
}

/// It takes a processor to look whether another thread is done.
#[test]
fn a_thread_that_asks_instead_of_waiting_spins() {
    let mut target = start(any_interpreter(), "spin_flag", &[]);
    let document = diagnose(target.pid(), "3s");
    let finding = &document["findings"][0];
    assert_eq!(finding["verdict"], "spin", "{document:#}");
    assert_eq!(finding["root"]["tid"], target.pid());
    let since = finding["since_ms"].as_u64().expect("a number");
    assert!((1500..60_000).contains(&since), "{finding:#}");
    let round = &thread_of(&document, "MainThread")["progress"]["loop"];
    assert_eq!(round["frames"][0]["function"], "wait_for");
    assert_eq!(round["changes"], false);
    // Below the threshold it is only a possibility.
    let answer = ask_about("diagnose", target.pid(), &["--json", "--window", "3s"]).expect(1);
    assert_eq!(answer.json()["findings"][0]["confidence"], "possible");
    // A single look can't tell.
    let answer = ask_about("diagnose", target.pid(), &["--json", "--window", "0"]).expect(0);
    let document = answer.json();
    assert_eq!(document["processes"][0]["progress"], Value::Null);
    target.assert_unharmed();
}

/// The variables of a loop that stands in no function are its module's.
#[test]
fn a_script_spins_too() {
    let mut target = start(any_interpreter(), "spin_module", &[]);
    let document = diagnose(target.pid(), "3s");
    let finding = &document["findings"][0];
    assert_eq!(finding["verdict"], "spin", "{document:#}");
    let round = &thread_of(&document, "MainThread")["progress"]["loop"];
    assert_eq!(round["frames"][0]["function"], "<module>");
    target.assert_unharmed();
}

/// It might be C code that computes: that it is not is only likely when it has taken as long as may be.
#[test]
fn a_loop_in_one_line_has_as_long_as_the_threshold() {
    let mut target = start(any_interpreter(), "spin_line", &[]);
    let document = diagnose(target.pid(), "500ms");
    assert_eq!(document["findings"], Value::Array(Vec::new()));
    let document = diagnose(target.pid(), "2s");
    let finding = &document["findings"][0];
    assert_eq!(
        (&finding["verdict"], &finding["confidence"]),
        (&"spin".into(), &"possible".into()),
        "{document:#}"
    );
    target.assert_unharmed();
}

#[test]
fn what_gets_somewhere_works() {
    for name in [
        "work_counts",
        "work_items",
        "work_recursive",
        "work_bytes",
        "work_naps",
        "work_module",
    ] {
        let mut target = start(any_interpreter(), name, &[]);
        let document = diagnose(target.pid(), "1500ms");
        assert_eq!(
            document["findings"],
            Value::Array(Vec::new()),
            "{name}: {document:#}"
        );
        target.assert_unharmed();
    }
}

/// A loop that polls and counts how often: after the threshold that is possibly a busy loop, before that it works; either way it is
/// known by its line, and by what changes in it.
#[test]
fn a_scheduler_that_only_counts_is_known_by_its_loop() {
    let mut target = start(any_interpreter(), "spin_counts", &[]);
    let answer = ask_about("diagnose", target.pid(), &["--window", "2s"]).expect(0);
    assert!(
        answer.stdout.contains("only counters change: ") && answer.stdout.contains("unchanged: "),
        "{answer:#?}"
    );
    let document = diagnose(target.pid(), "2s");
    let finding = &document["findings"][0];
    assert_eq!(
        (&finding["verdict"], &finding["confidence"]),
        (&"spin".into(), &"possible".into()),
        "{document:#}"
    );
    target.assert_unharmed();
}

#[test]
fn bytes_that_move_are_counted() {
    let mut target = start(any_interpreter(), "work_bytes", &[]);
    let document = diagnose(target.pid(), "500ms");
    let progress = &document["processes"][0]["progress"];
    for moved in ["read_bytes", "written_bytes"] {
        assert!(
            progress[moved].as_u64().is_some_and(|bytes| bytes > 0),
            "{progress:#}"
        );
    }
    target.assert_unharmed();
}

#[test]
fn c_code_that_burns_with_the_gil_starves_the_others() {
    let mut target = start(any_interpreter(), "burn_regex", &[]);
    let document = diagnose(target.pid(), "2s");
    let finding = &document["findings"][0];
    assert_eq!(
        (&finding["verdict"], &finding["confidence"]),
        (&"gil-held".into(), &"likely".into()),
        "{document:#}"
    );
    assert_eq!(finding["root"]["tid"], target.pid());
    assert_eq!(finding["blocks"].as_array().map(Vec::len), Some(2));
    for name in ["ticker-0", "ticker-1"] {
        assert_eq!(thread_of(&document, name)["verdict"]["class"], "gil-held");
    }
    // It is not known to go on for longer than it was watched; the text says how to find out.
    let answer = ask_about("diagnose", target.pid(), &["--window", "2s"]).expect(0);
    assert!(
        answer.stdout.contains("while 2 threads wait for it")
            && answer.stdout.contains("--window 30s"),
        "{answer:#?}"
    );
    target.assert_unharmed();
}

/// Each slice ends after 50 ms; that the answer does not come is told all the same, by what TCP has counted.
#[test]
fn a_wait_in_slices_is_a_wait() {
    let mut target = start(any_interpreter(), "slices", &[]);
    let pid = target.pid();
    let mut document = Value::Null;
    wait_until("the answer is late", || {
        document = diagnose(pid, "1s");
        document["findings"] != Value::Array(Vec::new())
    });
    let finding = &document["findings"][0];
    assert_eq!(
        (&finding["verdict"], &finding["confidence"]),
        (&"hang-network".into(), &"likely".into()),
        "{document:#}"
    );
    let since = finding["since_ms"].as_u64().expect("a number");
    assert!((1000..60_000).contains(&since), "{finding:#}");
    let progress = &thread_of(&document, "MainThread")["progress"];
    assert_eq!(progress["received_bytes"], 0);
    assert!(progress["wake_ups"].as_u64() > Some(3), "{progress:#}");
    let summary = finding["summary"].as_str().unwrap_or_default();
    assert!(summary.contains("in slices of 50ms"), "{summary}");
    target.assert_unharmed();
}

#[test]
fn an_answer_that_drips_is_one() {
    let mut target = start(any_interpreter(), "slices", &["drip"]);
    let pid = target.pid();
    wait_until("some of it has come", || {
        let document = diagnose(pid, "200ms");
        assert_eq!(
            document["findings"],
            Value::Array(Vec::new()),
            "{document:#}"
        );
        let resource = &thread_of(&document, "MainThread")["wait"]["resource"];
        resource["bytes_received"].as_u64() > Some(12)
    });
    target.assert_unharmed();
}

#[test]
fn a_cpu_limit_that_starves_is_named() {
    if !is_root("a CPU limit") {
        return;
    }
    let Some(limit) = CpuLimit::new(&format!("stuckspy-limit-{}", std::process::id())) else {
        return report_skipped("a CPU limit", "no cgroup with one can be made here");
    };
    let mut target = start(any_interpreter(), "work_counts", &[]);
    limit.take_in(target.pid());
    let document = diagnose(target.pid(), "2s");
    assert_eq!(document["findings"], Value::Array(Vec::new()));
    let progress = &document["processes"][0]["progress"];
    let throttled = progress["throttled_ms"].as_u64().expect("a number");
    assert!(throttled > 500, "{progress:#}");
    let errors = find_schema_errors("diagnosis", &document);
    assert_eq!(errors, Vec::<String>::new());
    let summary = &thread_of(&document, "MainThread")["verdict"]["summary"];
    let summary = summary.as_str().unwrap_or_default();
    assert!(
        summary.contains("its cgroup was throttled (CPU limit)"),
        "{summary}"
    );
    let answer = ask_about("diagnose", target.pid(), &[]).expect(0);
    assert!(
        answer.stdout.contains("throttled (CPU limit)"),
        "{answer:#?}"
    );
    target.assert_unharmed();
    drop(target);
}

/// What the kernel's record decides is told at once, whatever the window, and without the target being let run or stopped.
#[test]
fn what_is_decided_is_told_at_once() {
    let path = program::folder().join("waits").join("pipe_alone.py");
    let mut command = Command::new(&any_interpreter().path);
    command.arg(path).env("PYTHONDONTWRITEBYTECODE", "1");
    let (mut target, _) = Target::start_and_listen(&mut command);
    let pid = target.pid();
    let options = ["--json", "--threshold", "300ms", "--window", "1h"];
    wait_until("it is found", || {
        let answer = ask_about("diagnose", pid, &["--quiet", "--threshold", "300ms"]);
        answer.code == Some(1)
    });
    let switches = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
        let lines = status
            .lines()
            .filter(|line| line.contains("_ctxt_switches"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let before = switches();
    let document = ask_about("diagnose", pid, &options).expect(1).json();
    assert_eq!(document["findings"][0]["verdict"], "hang-pipe");
    assert_eq!((switches(), before.len()), (before, 2));
    target.assert_unharmed();
}

/// A program that was started for it is not ended for a loop that may yet get somewhere, and is for one that has had its time.
#[test]
fn a_started_program_has_as_long_as_the_threshold() {
    let interpreter = any_interpreter().path.to_str().expect("a path in UTF-8");
    let code =
        "import time\nend = time.time() + 3\nwhile time.time() < end:\n    pass\nprint('done')";
    let answer = live::ask(&["diagnose", "--window", "1s", "--", interpreter, "-c", code]);
    let answer = answer.expect(0);
    assert!(answer.stderr.contains("done"), "{answer:#?}");
    let code = "while True:\n    pass";
    let options = ["diagnose", "--window", "1s", "--threshold", "1s", "--"];
    let program = [interpreter, "-c", code];
    let answer = live::ask(&[&options[..], &program].concat()).expect(1);
    assert!(
        answer.stdout.contains("\n\nspin (possible): "),
        "{answer:#?}"
    );
}
