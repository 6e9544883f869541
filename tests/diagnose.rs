//! `stuckspy diagnose` finds what is stuck, and nothing in what is not; both documents keep to their schemas.

mod support;

#[path = "support/live.rs"]
mod live;

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use live::{Answer, any_interpreter, ask, ask_about};
use serde_json::Value;
use support::fixture::{Fixture, Started};
use support::interpreter::Interpreter;
use support::program::{self, Program};
use support::schema::find_schema_errors;
use support::variety::without_variety;

/// The threshold of the demonstration, and the longest that it may take until the hang is told.
const THRESHOLD: Duration = Duration::from_secs(2);
const LATEST: Duration = Duration::from_secs(30);

fn start(name: &str, interpreter: &Interpreter) -> Option<Fixture> {
    match Fixture::start(&Program::load(name), interpreter) {
        Ok(Started::Ready(fixture)) => Some(fixture),
        Ok(Started::Skipped(_)) => None,
        Err(why) => panic!("{name}: {why}"),
    }
}

/// Starts the demonstration under `stuckspy diagnose` and waits for what it says; gives the server's port too.
fn run_demonstration(interpreter: &Interpreter, options: &[&str]) -> Result<(Answer, u16), String> {
    let started = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_stuckspy"))
        .args(["diagnose", "--threshold", "2s"])
        .args(options)
        .arg("--")
        .arg(&interpreter.path)
        .arg("stuck_scheduler.py")
        .current_dir(program::folder())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    let answer = Answer {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).map_err(|error| error.to_string())?,
        stderr: String::from_utf8(output.stderr).map_err(|error| error.to_string())?,
        took: started.elapsed(),
    };
    let port = answer
        .stderr
        .split("API server on port ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next()?.parse().ok());
    match port {
        Some(port) => Ok((answer, port)),
        None => Err(format!("no port: {answer:?}")),
    }
}

fn check_demonstration(interpreter: &Interpreter) -> Result<(), String> {
    let (answer, port) = run_demonstration(interpreter, &["--json"])?;
    if answer.code != Some(1) {
        return Err(format!("{answer:?}"));
    }
    let document = answer.json();
    let mut failures = find_schema_errors("diagnosis", &document);
    let mut expect = |what: &str, is_so: bool, value: &Value| {
        if !is_so {
            failures.push(format!("{what}: {value}"));
        }
    };
    let findings = &document["findings"];
    expect(
        "one finding",
        findings.as_array().is_some_and(|all| all.len() == 1),
        findings,
    );
    let finding = &findings[0];
    expect("verdict", finding["verdict"] == "hang-network", finding);
    expect("confidence", finding["confidence"] == "likely", finding);
    expect(
        "advice",
        finding["advice"]
            .as_str()
            .is_some_and(|text| text.contains("timeout")),
        finding,
    );
    let process = &document["processes"][0];
    let root = &finding["root"];
    expect(
        "the root is the scheduler's main thread",
        root["pid"] == process["pid"] && root["tid"] == process["pid"],
        root,
    );
    let threads = process["threads"].as_array().cloned().unwrap_or_default();
    let find = |name: &str| {
        threads
            .iter()
            .find(|thread| thread["name"] == name)
            .cloned()
            .unwrap_or_default()
    };
    let main = find("MainThread");
    let verdict = &main["verdict"];
    expect(
        "its own verdict",
        verdict["class"] == "hang-network",
        verdict,
    );
    let wait = &main["wait"];
    expect("kind", wait["kind"] == "socket-recv", wait);
    expect(
        "call",
        wait["syscall"]
            .as_str()
            .is_some_and(|call| call.starts_with("recv")),
        wait,
    );
    expect("no time limit", wait["timeout_ms"].is_null(), wait);
    let peer = format!("127.0.0.1:{port}");
    expect("peer", wait["resource"]["peer"] == peer.as_str(), wait);
    expect("type", wait["resource"]["type"] == "tcp", wait);
    let since = Duration::from_millis(finding["since_ms"].as_u64().unwrap_or_default());
    expect(
        "since",
        since >= THRESHOLD && since < answer.took,
        &finding["since_ms"],
    );
    let functions: Vec<_> = main["frames"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|frame| frame["function"].as_str()?.rsplit('.').next())
        .collect();
    // `recv_into` is C code in the standard library's own client: its caller is the innermost Python.
    expect(
        "innermost",
        functions.first() == Some(&"readinto"),
        &main["frames"],
    );
    for name in ["call_api", "create_namespaced_pod", "scheduler_loop"] {
        expect(name, functions.contains(&name), &main["frames"]);
    }
    for name in ["heartbeat", "example_dag.load.2019-10-17"] {
        let class = &find(name)["verdict"]["class"];
        expect(name, class == "working" || class == "waiting", class);
    }
    let server = &document["processes"][1];
    expect("the server", server["ppid"] == process["pid"], server);
    if failures.is_empty() {
        Ok(())
    } else {
        Err(failures.join("\n"))
    }
}

#[test]
fn a_scheduler_whose_request_is_never_answered() {
    // Each takes a little more than the threshold: all at once.
    let program = Program::load("stuck_scheduler");
    let mut runs = Vec::new();
    let all: Vec<&'static Interpreter> = support::interpreter::interpreters().iter().collect();
    for interpreter in all {
        if let Some(why) = program.find_obstacle(interpreter) {
            support::report_skipped(&format!("the demonstration on {}", interpreter.label), &why);
            continue;
        }
        let run = thread::spawn(move || check_demonstration(interpreter));
        runs.push((interpreter, run));
    }
    let mut failures = Vec::new();
    for (interpreter, run) in runs {
        let failure = run.join().expect("the check does not panic").err();
        failures.extend(failure.map(|why| format!("== on {} ==\n{why}", interpreter.label)));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn the_demonstration_in_text() {
    let interpreter = any_interpreter();
    let (answer, port) = run_demonstration(interpreter, &[]).unwrap();
    assert!(answer.took < LATEST, "{answer:?}");
    let answer = answer.expect(1);
    answer.assert_harmless();
    // How the other threads fare at that instant may be so or so.
    let (finding, processes) = answer.stdout.rsplit_once("\n\n").expect("several parts");
    assert_eq!(processes.lines().count(), 2, "{answer:?}");
    assert!(processes.contains("1 hang-network"), "{answer:?}");
    // From 3.9 on the path of the program is whole.
    let folder = format!("{}/", program::folder().display());
    let text: Vec<_> = finding
        .replace(&format!("127.0.0.1:{port}"), "SERVER")
        .replace(&folder, "")
        .lines()
        .map(without_variety)
        .collect();
    insta::assert_snapshot!("demonstration", text.join("\n"));
}

#[test]
fn a_running_one_is_found_by_its_pid_and_goes_on() {
    let fixture = start("stuck_scheduler", any_interpreter()).expect("a Python 3");
    let pid = fixture.pid();
    let answer = ask_about("diagnose", pid, &["--threshold", "0"]).expect(1);
    let peer = fixture.truth.extra["peer"].as_str().expect("a peer");
    assert!(answer.stdout.contains(peer), "{answer:?}");
    assert!(answer.stdout.starts_with("STUCK for "), "{answer:?}");
    assert!(answer.stdout.contains("\n\nhang-network (likely): "));
    assert_eq!(answer.stderr, "");
    // Below the threshold it is not told.
    let answer = ask_about("diagnose", pid, &["--threshold", "1h"]).expect(0);
    assert!(!answer.stdout.contains("hang-network"), "{answer:?}");
    let answer = ask_about("diagnose", pid, &["--threshold", "0", "--blocking"]).expect(1);
    // Whether a thread of it runs just then is for chance to say.
    assert!(answer.stderr.contains("stopped"), "{answer:?}");
    fixture.assert_unharmed().unwrap();
    fixture.finish().unwrap();
}

#[test]
fn nothing_is_stuck_in_healthy_programs() {
    for name in ["nested", "threads", "cpu", "coroutines", "thrash"] {
        let fixture = start(name, any_interpreter()).expect("it suits all of 3");
        for threshold in ["30s", "0"] {
            let answer = ask_about(
                "diagnose",
                fixture.pid(),
                &["--json", "--threshold", threshold],
            )
            .expect(0);
            assert_eq!(answer.json()["findings"], Value::Array(Vec::new()));
        }
        let answer = ask_about("diagnose", fixture.pid(), &[]).expect(0);
        assert!(!answer.stdout.contains("evidence:"), "{answer:?}");
        fixture.assert_unharmed().unwrap();
        fixture.finish().unwrap();
    }
}

#[test]
fn a_started_program_that_ends_was_not_stuck() {
    let python = any_interpreter().path.display().to_string();
    let answer = ask(&["diagnose", "--", &python, "-S", "-E", "-c", "pass"]).expect(0);
    assert!(answer.stderr.contains("ended by itself"), "{answer:?}");
    assert_eq!(answer.stdout, "");
}

#[test]
fn the_documents_keep_to_their_schemas() {
    for name in [
        "stuck_scheduler",
        "leaves",
        "threads",
        "odd_code",
        "odd_files",
        "thread_names",
        "subinterpreters",
        "fork",
        "no_threading",
        "cpu",
    ] {
        let Some(fixture) = start(name, any_interpreter()) else {
            continue;
        };
        let pid = fixture.pid();
        let document = ask_about("dump", pid, &["--json", "--subprocesses"])
            .expect(0)
            .json();
        assert_eq!(
            find_schema_errors("dump", &document),
            Vec::<String>::new(),
            "{name}"
        );
        assert_eq!(document["schema"], "stuckspy.dump/1");
        let document = ask_about("diagnose", pid, &["--json", "--threshold", "0"])
            .expect_one_of(&[0, 1])
            .json();
        assert_eq!(
            find_schema_errors("diagnosis", &document),
            Vec::<String>::new(),
            "{name}"
        );
        assert_eq!(document["schema"], "stuckspy.diagnosis/1");
        fixture.assert_unharmed().unwrap();
        fixture.finish().unwrap();
    }
}

/// A process without Python, and one that can not be read, keep to them too.
#[test]
fn other_processes_keep_to_the_schemas() {
    let target = live::Target::start(&mut Command::new("cat"));
    for pid in [target.pid(), 1, 2] {
        for (command, name) in [("dump", "dump"), ("diagnose", "diagnosis")] {
            let mut options = vec!["--json"];
            options.extend((command == "diagnose").then_some("--no-children"));
            let answer = ask_about(command, pid, &options);
            if answer.stdout.is_empty() {
                // No such process in this pid namespace.
                assert_eq!(answer.code, Some(3), "{answer:?}");
                continue;
            }
            assert_eq!(
                find_schema_errors(name, &answer.json()),
                Vec::<String>::new(),
                "process {pid}"
            );
        }
    }
    target.finish();
}

/// Starts a program of `fixtures/programs/hangs`, which says a line before it hangs.
fn start_hang(name: &str) -> live::Target {
    let path = program::folder().join("hangs").join(format!("{name}.py"));
    let mut command = Command::new(&any_interpreter().path);
    command.arg(path).env("PYTHONDONTWRITEBYTECODE", "1");
    live::Target::start_and_listen(&mut command).0
}

/// What the text says once something is found.
fn finding_in(target: &live::Target) -> String {
    let mut text = String::new();
    live::wait_until("it is found", || {
        let options = ["--threshold", "400ms"];
        let answer = ask_about("diagnose", target.pid(), &options).expect_one_of(&[0, 1]);
        text = answer.stdout;
        text.starts_with("STUCK")
    });
    text
}

#[test]
fn a_proxy_that_does_not_answer_is_named() {
    let mut target = start_hang("proxy");
    let text = finding_in(&target);
    target.assert_unharmed();
    assert!(
        text.contains(
            "request:    GET api.example.org:443/jobs (CONNECT through a proxy; proxy '127.0.0.1', "
        ) && text.contains("suggestion: check the proxy"),
        "{text}"
    );
}

/// Whoever waits for a lock is told what its holder is busy with.
#[test]
fn the_prompt_that_keeps_a_lock_is_named() {
    let mut target = start_hang("prompt");
    let text = finding_in(&target);
    target.assert_unharmed();
    let mut roots = text
        .lines()
        .filter(|line| line.contains("root cause: debugged (tid "));
    assert!(
        roots.any(|line| line.contains("/dev/pt") && line.contains("waits ")),
        "{text}"
    );
    assert!(
        text.contains("Pdb.") || text.contains("interaction"),
        "{text}"
    );
}

/// By default an answer is a screen; `--all` and `-v` show the whole stack.
#[test]
fn everything_is_shown_when_it_is_asked_for() {
    let fixture = start("stuck_scheduler", any_interpreter()).expect("a Python 3");
    let text = |more: &[&str]| {
        let options = [&["--threshold", "0"], more].concat();
        let answer = ask_about("diagnose", fixture.pid(), &options);
        answer.expect(1).stdout
    };
    assert!(!text(&[]).contains("longest waits:"));
    for option in ["--all", "-v"] {
        let text = text(&[option]);
        assert!(text.contains("longest waits:"), "{option}: {text}");
    }
    fixture.assert_unharmed().unwrap();
    fixture.finish().unwrap();
}
