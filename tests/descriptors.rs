//! stuckspy with few descriptors, as containers have: it sees as much as with many, and where it can't, it says so.

mod support;

#[path = "support/live.rs"]
mod live;

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use live::{any_interpreter, ask_about, wait_until, worker_of};
use rustix::process::{Resource, Rlimit, prlimit};
use serde_json::Value;
use support::fixture::{Fixture, Started};
use support::program::Program;
use support::schema::find_schema_errors;

/// What is said where something could not be opened, whoever says it.
const TOO_MANY: &str = "too many open files";

fn start(arguments: &[&str]) -> Fixture {
    let program = Program::load("many_threads");
    match Fixture::start_with(&program, any_interpreter(), arguments) {
        Ok(Started::Ready(fixture)) => fixture,
        Ok(Started::Skipped(why)) | Err(why) => panic!("{why}"),
    }
}

/// stuckspy with at most `limit` descriptors, as the hard limit.
fn limited(limit: u64, command: &str, pid: i32, options: &[&str]) -> Command {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &format!("ulimit -n {limit} && exec \"$0\" \"$@\"")])
        .arg(env!("CARGO_BIN_EXE_stuckspy"))
        .args([command, "--pid", &pid.to_string()])
        .args(options)
        .stdin(Stdio::null());
    shell
}

fn run(mut command: Command) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("sh can be started");
    let text = |bytes| String::from_utf8(bytes).expect("stuckspy writes valid UTF-8");
    let (stdout, stderr) = (text(stdout), text(stderr));
    assert!(!stderr.contains("panicked"), "{stderr}");
    (status.code(), stdout, stderr)
}

fn mentions_shortage(text: &str) -> bool {
    text.to_lowercase().contains(TOO_MANY)
}

/// Whether a cycle of `one` and `other` is among the findings.
fn has_deadlock(document: &Value) -> bool {
    let findings = document["findings"].as_array().into_iter().flatten();
    let mut summaries = findings
        .filter(|finding| finding["verdict"] == "deadlock")
        .filter_map(|finding| finding["summary"].as_str());
    summaries.any(|summary| summary.contains("one (tid") && summary.contains("other (tid"))
}

fn start_deadlock(threads: &str) -> Fixture {
    let fixture = start(&[threads, "deadlock"]);
    // Both have taken the first lock, and may not sleep on the second yet.
    wait_until("the deadlock is there", || {
        let options = ["--json", "--threshold", "0", "--window", "0"];
        let answer = ask_about("diagnose", fixture.pid(), &options);
        has_deadlock(&answer.json())
    });
    fixture
}

#[test]
fn a_deadlock_among_two_thousand_threads_is_found() {
    let fixture = start_deadlock("2000");
    for limit in [1024, 256, 64] {
        let options = ["--json", "--threshold", "0", "--window", "0"];
        let (code, stdout, stderr) = run(limited(limit, "diagnose", fixture.pid(), &options));
        assert_eq!(code, Some(1), "{limit}: {stderr}");
        let document: Value = serde_json::from_str(&stdout).expect("it is JSON");
        assert!(has_deadlock(&document), "{limit}: {stdout:.2000}");
        assert_eq!(find_schema_errors("diagnosis", &document), [""; 0]);
        let process = &document["processes"][0];
        let threads = process["threads"].as_array().expect("a list");
        assert_eq!(threads.len(), 2004, "{limit}");
        let without_stack = threads
            .iter()
            .filter(|thread| thread["frames"] == serde_json::json!([]));
        assert_eq!(without_stack.count(), 0, "{limit}");
        assert_eq!(process["errors"], serde_json::json!([]), "{limit}");
        assert!(!mentions_shortage(&stderr), "{limit}: {stderr}");
    }
    fixture.assert_unharmed().expect("it is as it was");
    fixture.finish().expect("it ends as it should");
}

#[test]
fn the_one_thread_of_four_hundred_that_works_is_recorded() {
    let fixture = start(&["400", "busy"]);
    let path = fixture.folder().join("recording.folded");
    let name = path.to_str().expect("a plain name");
    for limit in [128, 32] {
        let options = ["-d", "2", "-o", name, "--format", "folded"];
        let (code, _, stderr) = run(limited(limit, "record", fixture.pid(), &options));
        assert_eq!(code, Some(0), "{limit}: {stderr}");
        assert!(!mentions_shortage(&stderr), "{limit}: {stderr}");
        let text = fs::read_to_string(&path).expect("it was written");
        let counts = text.lines().filter(|line| line.contains("compute"));
        let samples: u64 = counts
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum();
        // The machine may be busy too: a sample that comes late stands for those before it.
        assert!(samples >= 50, "{limit}: {text:.2000}\n{stderr}");
    }
    fixture.assert_unharmed().expect("it is as it was");
    fixture.finish().expect("it ends as it should");
}

/// From the limit at which nothing can be opened to the one at which all can: whoever saw less says so, and nobody calls it health.
#[test]
fn too_few_descriptors_are_never_health() {
    let healthy = start(&["20"]);
    let stuck = start_deadlock("20");
    let (mut refused, mut whole) = (0, 0);
    for limit in 4..=20 {
        let options = ["--window", "0", "--no-children"];
        let (code, stdout, stderr) = run(limited(limit, "diagnose", healthy.pid(), &options));
        let is_told = mentions_shortage(&stdout) || mentions_shortage(&stderr);
        let hint = format!("raise the limit of open files, which is {limit}");
        match code {
            Some(0) => {
                assert!(!is_told, "{limit}: {stdout}{stderr}");
                whole += 1;
            }
            Some(4) => {
                assert!(
                    is_told && stderr.contains(&hint),
                    "{limit}: {stdout}{stderr}"
                );
                refused += 1;
            }
            _ => panic!("{limit}: {code:?}: {stdout}{stderr}"),
        }
        let quiet = [&options[..], &["--quiet"]].concat();
        assert_eq!(
            run(limited(limit, "diagnose", healthy.pid(), &quiet)).0,
            code
        );

        let options = ["--threshold", "0", "--window", "0", "--quiet"];
        let (code, _, stderr) = run(limited(limit, "diagnose", stuck.pid(), &options));
        assert!(matches!(code, Some(1 | 4)), "{limit}: {code:?}: {stderr}");
    }
    assert!(refused > 0 && whole > 0, "{refused} {whole}");
    for fixture in [healthy, stuck] {
        fixture.assert_unharmed().expect("it is as it was");
        fixture.finish().expect("it ends as it should");
    }
}

/// The limit is lowered while it is at work, below what it has open.
#[test]
fn a_recording_that_can_open_nothing_more_says_so() {
    let fixture = start(&["400"]);
    // The lists of threads are read again every 5 s at the latest.
    let options = ["-d", "7", "-o", "-", "--format", "folded"];
    let mut command = limited(64, "record", fixture.pid(), &options);
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("sh can be started");
    let pid = child.id().cast_signed();
    wait_until("it has a worker", || worker_of(pid).is_some());
    let worker = worker_of(pid).expect("it has one");
    wait_until("it samples", || has_thread(worker, "sampler"));
    let fewest = Rlimit {
        current: Some(3),
        maximum: Some(3),
    };
    let process = rustix::process::Pid::from_raw(worker);
    prlimit(process, Resource::Nofile, fewest).expect("it is our own child");
    let output = child.wait_with_output().expect("it is our own child");
    let stderr = String::from_utf8(output.stderr).expect("stuckspy writes valid UTF-8");
    assert_eq!(output.status.code(), Some(4), "{stderr}");
    assert!(stderr.contains("could not be read"), "{stderr}");
    assert!(stderr.contains("raise the limit of open files"), "{stderr}");
    fixture.assert_unharmed().expect("it is as it was");
    fixture.finish().expect("it ends as it should");
}

fn has_thread(pid: i32, name: &str) -> bool {
    let tasks = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("task"));
    let mut tasks = tasks.into_iter().flatten().flatten();
    tasks.any(|task| {
        let comm = fs::read_to_string(task.path().join("comm"));
        comm.is_ok_and(|comm| comm.trim_end() == name)
    })
}
