//! What scripts and probes rely on: exit codes, which stream has what, and how programs, pids and files are named on the command line.

mod support;

#[path = "support/live.rs"]
mod live;

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use live::{Answer, Target, any_interpreter, ask, ask_about};
use nix::sys::signal::Signal;
use serde_json::Value;
use support::program;
use support::schema::find_schema_errors;

fn python() -> &'static str {
    any_interpreter().path.to_str().expect("a path in UTF-8")
}

/// A program of Python that is started as the target.
fn start(command: &[&str], code: &str) -> Answer {
    ask(&[command, &[python(), "-S", "-E", "-c", code]].concat())
}

/// Starts a program of `fixtures/programs/waits`, which says a line when it is about to wait.
fn waiter(name: &str) -> Target {
    let path = program::folder().join("waits").join(format!("{name}.py"));
    let mut command = Command::new(&any_interpreter().path);
    command.arg(path).env("PYTHONDONTWRITEBYTECODE", "1");
    Target::start_and_listen(&mut command).0
}

/// A receive on a unix socket is `possible`, one on TCP `likely`, one whose other end is its own `proven`.
#[test]
fn a_finding_counts_from_the_confidence_that_fails() {
    let options = |fail_on| ["--threshold", "0", "--window", "0", "--fail-on", fail_on];
    for (program, confidence) in [
        ("recv_unix", None),
        ("fifo_open", Some("possible")),
        ("recv_tcp", Some("likely")),
        ("recv_alone", Some("proven")),
    ] {
        let mut target = waiter(program);
        let mut document = Value::Null;
        live::wait_until("it waits", || {
            document = ask_about("diagnose", target.pid(), &["--json", "--threshold", "0"]).json();
            let finding = &document["findings"][0];
            finding["confidence"].as_str() == confidence
        });
        let rank = |word: &str| {
            ["possible", "likely", "proven"]
                .iter()
                .position(|one| *one == word)
        };
        for fail_on in ["possible", "likely", "proven"] {
            let is_failure = confidence.is_some_and(|found| rank(found) >= rank(fail_on));
            let answer = ask_about("diagnose", target.pid(), &options(fail_on));
            let answer = answer.expect(i32::from(is_failure));
            // It is printed all the same.
            let is_printed = confidence.is_none_or(|found| answer.stdout.contains(found));
            assert!(is_printed, "{answer:#?}");
        }
        let is_failure = matches!(confidence, Some("likely" | "proven"));
        let default = ask_about("diagnose", target.pid(), &["-q", "--threshold", "0"]);
        let default = default.expect(i32::from(is_failure));
        assert_eq!((&*default.stdout, &*default.stderr), ("", ""));
        target.assert_unharmed();
    }
}

#[test]
fn a_process_without_python_is_not_healthy() {
    let target = Target::start(&mut Command::new("cat"));
    for (command, text) in [("diagnose", "no Python"), ("dump", "cat")] {
        let answer = ask_about(command, target.pid(), &[]).expect(5);
        assert!(answer.stdout.contains(text), "{answer:#?}");
        assert!(answer.stderr.contains("no Python was found"), "{answer:#?}");
        let document = ask_about(command, target.pid(), &["--json"])
            .expect(5)
            .json();
        assert_eq!(document["processes"][0]["pid"], target.pid());
    }
    ask_about("diagnose", target.pid(), &["--quiet"]).expect(5);
    assert_eq!(target.finish(), Some(0));
}

/// As an init, or the master of some servers: the Python below it is what is meant.
#[test]
fn a_shell_that_runs_python_is_healthy_if_that_is() {
    let mut shell = Command::new("sh");
    // A second command keeps the shell from replacing itself.
    shell.args([
        "-c",
        "\"$0\" -S -E -c \"import sys; print('ready', flush=True); sys.stdin.read()\"; :",
        python(),
    ]);
    let (target, _) = Target::start_and_listen(&mut shell);
    let pid = target.pid();
    ask_about("diagnose", pid, &["--window", "0"]).expect(0);
    ask_about("dump", pid, &["-s"]).expect(0);
    let alone = ask_about("diagnose", pid, &["--no-children"]).expect(5);
    assert!(alone.hints()[0].contains("--no-children"), "{alone:#?}");
    let alone = ask_about("dump", pid, &[]).expect(5);
    assert!(alone.hints()[0].contains("--subprocesses"), "{alone:#?}");
    assert_eq!(target.finish(), Some(0));
}

#[test]
fn a_program_passes_its_exit_code_on() {
    let killed = 128 + Signal::SIGTERM as i32;
    for (code, status) in [
        ("pass", 0),
        ("import sys; sys.exit(1)", 1),
        ("import sys; sys.exit(42)", 42),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
            killed,
        ),
    ] {
        let answer = start(&["diagnose", "--"], code).expect(status);
        let mut lines = answer.stderr.lines();
        let first = lines.next().unwrap_or_default();
        assert!(first.contains("watching process") && first.contains("30s"));
        assert!(answer.stderr.contains("ended by itself"), "{answer:#?}");
        let quiet = start(&["diagnose", "--quiet"], code).expect(status);
        assert_eq!((&*quiet.stdout, &*quiet.stderr), ("", ""));
    }
}

/// The output of the program is its own, unless ours is data for another program.
#[test]
fn standard_output_of_a_program_stays_standard_output_unless_ours_is_data() {
    let code = "import sys; print('result'); print('remark', file=sys.stderr)";
    let slow = format!("{code}\nsys.stdout.flush(); import time; time.sleep(60)");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("x.svg");
    let file = file.to_str().expect("a path in UTF-8");
    let answers = [
        (start(&["diagnose"], code).expect(0), true),
        (start(&["diagnose", "--json"], code).expect(0), false),
        (start(&["dump"], &slow).expect(0), true),
        (start(&["dump", "--json"], &slow).expect(0), false),
        (
            start(&["record", "-d", "500ms", "-o", file], &slow).expect(0),
            true,
        ),
        (
            start(&["record", "-d", "500ms", "-f", "folded", "-o", "-"], &slow).expect(0),
            false,
        ),
        (start(&["top", "--count", "1"], &slow).expect(0), false),
    ];
    for (answer, is_kept) in answers {
        assert_eq!(
            answer.stdout.lines().any(|line| line == "result"),
            is_kept,
            "{answer:#?}"
        );
        assert_eq!(
            answer.stderr.lines().any(|line| line == "result"),
            !is_kept,
            "{answer:#?}"
        );
        assert!(answer.stderr.contains("remark"), "{answer:#?}");
    }
}

#[test]
fn a_program_that_ends_at_once_has_a_document() {
    let answer = start(&["diagnose", "--json"], "import sys; sys.exit(7)").expect(7);
    assert_eq!(
        find_schema_errors("diagnosis", &answer.json()),
        Vec::<String>::new()
    );
    assert_eq!(answer.json()["findings"], Value::Array(Vec::new()));
    let answer = ask(&["dump", "--json", "--after", "100ms", "true"]).expect(3);
    assert_eq!(
        find_schema_errors("dump", &answer.json()),
        Vec::<String>::new()
    );
}

/// What ends the watching of a program is `--fail-on` too. A writer of a FIFO that nobody opens may be waited for by design.
#[test]
fn a_possible_finding_does_not_end_a_program() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let fifo = folder.path().join("fifo");
    live::make_fifo(&fifo);
    let fifo = fifo.to_str().expect("a path in UTF-8");
    let code = format!(
        "import os, threading
def open_later():
    os.read(0, 1)
    os.close(os.open('{fifo}', os.O_RDONLY))
threading.Thread(target=open_later).start()
os.close(os.open('{fifo}', os.O_WRONLY))
raise SystemExit(9)"
    );
    let watch = |fail_on: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stuckspy"));
        command
            .args(["diagnose", "--threshold", "500ms", "--fail-on", fail_on])
            .args([python(), "-S", "-E", "-c", &code])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().expect("stuckspy can be started")
    };
    let mut possible = watch("possible");
    // The end of its standard input would let it go on.
    let _stdin = possible.stdin.take();
    let possible = possible.wait_with_output().expect("it ends");
    assert_eq!(possible.status.code(), Some(1));
    let mut likely = watch("likely");
    let mut stderr = std::io::BufReader::new(likely.stderr.take().expect("it is piped"));
    let mut said = String::new();
    while !said.contains("still watching") {
        let count = std::io::BufRead::read_line(&mut stderr, &mut said).expect("it is text");
        assert!(count > 0, "{said}");
    }
    assert!(said.contains("(possible)"), "{said}");
    let mut stdin = likely.stdin.take().expect("it is piped");
    stdin.write_all(b"x").expect("the program reads it");
    let likely = likely.wait_with_output().expect("it ends");
    assert_eq!(likely.status.code(), Some(9));
}

#[test]
fn a_program_needs_no_dashes_and_a_pid_may_be_hexadecimal() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("x.folded");
    let path = file.to_str().expect("a path in UTF-8");
    // What stands after the program is its own, also what looks like an option of ours.
    let code = "import sys; assert sys.argv[1:] == ['-o', 'y', '--json', '--', '-h'], sys.argv
while True: pass";
    let command = [
        "record",
        "-d",
        "1s",
        "-o",
        path,
        python(),
        "-S",
        "-E",
        "-c",
        code,
    ];
    ask(&[&command[..], &["-o", "y", "--json", "--", "-h"]].concat()).expect(0);
    let folded = fs::read_to_string(&file).expect("it was written");
    assert!(folded.contains("<module>"), "{folded}");
    let mut target = waiter("pause");
    let pid = format!("{:#x}", target.pid());
    let answer = ask(&["dump", "--pid", &pid]).expect(0);
    assert!(
        answer.stdout.contains(&target.pid().to_string()),
        "{answer:#?}"
    );
    // Who forgets --pid is told.
    let number = target.pid().to_string();
    let answer = ask(&["dump", &number]).expect(2);
    assert!(
        answer.hints()[0].contains(&format!("--pid {number}")),
        "{answer:#?}"
    );
    target.assert_unharmed();
}

#[test]
fn a_name_that_stands_for_no_format_is_refused_before_anything_is_started() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| {
        let path = folder.path().join(name);
        path.to_str().expect("a path in UTF-8").to_owned()
    };
    for name in ["x.html", "x.json", "x.svg.bak", "x.png"] {
        let (path, marker) = (at(name), at("started"));
        let answer = ask(&["record", "-o", &path, "touch", &marker]).expect(2);
        let hints = answer.hints();
        for known in [
            ".svg",
            ".collapsed",
            ".pb.gz",
            ".speedscope.json",
            ".trace.json",
            ".gecko.json",
        ] {
            assert!(hints[0].contains(known), "{answer:#?}");
        }
        assert!(fs::metadata(&path).is_err() && fs::metadata(&marker).is_err());
    }
    for (name, start) in [
        ("x.svg", &b"<?xml"[..]),
        ("x.collapsed", b"<module>"),
        ("x.pb", b"\x1f\x8b"),
        ("x.pprof", b"\x1f\x8b"),
        ("plain", b"<?xml"),
    ] {
        let path = at(name);
        start_burning(&path);
        let bytes = fs::read(&path).expect("it was written");
        assert!(bytes.starts_with(start), "{name}: {:?}", &bytes[..20]);
    }
}

#[track_caller]
fn start_burning(path: &str) {
    start(&["record", "-d", "300ms", "-o", path], "while True: pass").expect(0);
}

#[test]
fn variables_are_shown_in_two_lengths() {
    let code = "def f():
    text = 'x' * 700
    print('ready', flush=True)
    sys.stdin.read()
import sys
f()";
    let mut command = Command::new(python());
    command.args(["-S", "-E", "-c", code]);
    let (target, _) = Target::start_and_listen(&mut command);
    let longest = |option: &str| {
        let answer = ask_about("dump", target.pid(), &[option]).expect(0);
        let of_text = answer
            .stdout
            .lines()
            .filter(|line| line.contains("text = "));
        of_text
            .map(|line| line.matches('x').count())
            .max()
            .expect("it is shown")
    };
    assert!(longest("-l") < 200);
    assert!(longest("-ll") >= 700);
    assert_eq!(target.finish(), Some(0));
}

#[test]
fn an_error_in_a_file_of_rules_names_the_line() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("mine.toml");
    let path = file.to_str().expect("a path in UTF-8");
    fs::write(&file, "[[idle]]\nmodule = \"acme\"\nfunktion = \"get\"\n")
        .expect("it can be written");
    let answer = ask(&["diagnose", "--rules", path, "true"]).expect(2);
    let error = answer.stderr.lines().next().unwrap_or_default();
    assert!(
        error.contains("mine.toml: line 3, `funktion = \"get\"`: unknown field"),
        "{answer:#?}"
    );
    assert!(answer.hints()[0].contains("docs/rules.md"), "{answer:#?}");
    fs::write(&file, b"why = '\xff'").expect("it can be written");
    ask(&["diagnose", "--rules", path, "true"]).expect(2);
}
