//! What is no living, readable, peaceful Python process: each gives an answer, with an exit code that can be relied on.

mod support;

#[path = "support/live.rs"]
mod live;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use live::{
    Answer, Dice, Target, all_in_state, any_interpreter, ask, ask_about, field, find_tool, hostile,
    is_root, peak_memory, statuses, wait_until, wait_until_in_call,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::comparison::differences;
use support::dump::dump;
use support::fixture::{Fixture, Started};
use support::interpreter::Interpreter;
use support::program::Program;
use support::report_skipped;
use syscalls::Sysno;

/// The longest that memory may be read, and what else a run may take.
const GIVES_UP_WITHIN: Duration = Duration::from_secs(15);
/// The longest that a started program may go on after stuckspy has ended.
const GOODBYE: Duration = Duration::from_secs(6);

fn start(name: &str) -> Fixture {
    match Fixture::start(&Program::load(name), any_interpreter()) {
        Ok(Started::Ready(fixture)) => fixture,
        Ok(Started::Skipped(why)) => panic!("{name}: {why}"),
        Err(why) => panic!("{name}: {why}"),
    }
}

/// An interpreter's command for one of the hostile programs.
fn python(arguments: &[&str]) -> Command {
    let mut command = Command::new(&any_interpreter().path);
    command.args(["-S", "-E"]).args(arguments);
    command
}

fn start_hostile(name: &str) -> Target {
    let path = hostile(name);
    let (target, line) =
        Target::start_and_listen(&mut python(&[path.to_str().expect("our own path is text")]));
    assert_eq!(line, "ready");
    target
}

fn start_cat() -> Target {
    let target = Target::start(&mut Command::new("cat"));
    wait_until_in_call(target.pid(), Sysno::read);
    target
}

fn thread_of(process: &serde_json::Value, tid: i32) -> &serde_json::Value {
    let threads = process["threads"].as_array().expect("threads");
    let found = threads.iter().find(|thread| thread["tid"] == tid);
    found.unwrap_or_else(|| panic!("no thread {tid} in {process}"))
}

#[test]
fn no_such_process_is_told_in_one_line_and_a_hint() {
    for command in ["dump", "diagnose", "doctor"] {
        let answer = ask_about(command, i32::MAX, &[]).expect(3);
        assert_eq!(answer.stdout, "");
        let lines: Vec<_> = answer.stderr.lines().collect();
        assert_eq!(lines.len(), 2, "{answer:#?}");
        assert_eq!(
            lines[0],
            format!("stuckspy: there is no process {}", i32::MAX)
        );
        assert_eq!(answer.hints().len(), 1, "{answer:#?}");
    }
}

#[test]
fn a_thread_given_as_a_process_is_told_with_its_process() {
    let fixture = start("threads");
    let thread = fixture
        .truth
        .threads
        .iter()
        .find(|thread| thread.tid != fixture.pid());
    let tid = thread.expect("it has several threads").tid;
    for command in ["dump", "diagnose", "doctor"] {
        let answer = ask_about(command, tid, &[]).expect(3);
        assert!(
            answer
                .stderr
                .contains(&format!("{tid} is a thread of process {}", fixture.pid()))
        );
        assert_eq!(
            answer.hints(),
            [format!("hint: try --pid {}", fixture.pid())]
        );
    }
    fixture.assert_unharmed().unwrap();
    fixture.finish().unwrap();
}

#[test]
fn a_thread_of_the_kernel_has_no_memory_and_is_in_no_call() {
    let Ok(stat) = fs::read_to_string("/proc/2/stat") else {
        return report_skipped(
            "a thread of the kernel",
            "there is none in this pid namespace",
        );
    };
    if !stat.starts_with("2 (kthreadd)") {
        return report_skipped(
            "a thread of the kernel",
            "there is none in this pid namespace",
        );
    }
    let answer = ask_about("dump", 2, &[]).expect(5);
    assert!(answer.stdout.contains("Process 2: kthreadd"), "{answer:#?}");
    assert!(
        answer.stdout.contains("it is a thread of the kernel"),
        "{answer:#?}"
    );
    // Its `syscall` file holds zeros, which would be `read`.
    assert!(!answer.stdout.contains("in read"), "{answer:#?}");
    ask_about("diagnose", 2, &["--no-children"]).expect(5);
    ask_about("doctor", 2, &[]).expect(5);
}

#[test]
fn a_zombie_waits_to_be_reaped() {
    let program = "import os, sys
child = os.fork()
if child == 0:
    os._exit(0)
os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
os.write(1, b'%d\\n' % child)
os.read(0, 1)";
    let (mut target, line) = Target::start_and_listen(&mut python(&["-c", program]));
    let zombie: i32 = line.parse().expect("a pid");
    for command in ["dump", "diagnose"] {
        let answer = ask_about(command, zombie, &[]).expect(5);
        assert!(answer.stdout.contains("reaped by "), "{answer:#?}");
    }
    let answer = ask_about("diagnose", zombie, &["--json"]).expect(5);
    let document = answer.json();
    assert_eq!(document["processes"][0]["state"], "Z");
    let verdict = &thread_of(&document["processes"][0], zombie)["verdict"]["class"];
    assert_ne!(verdict, "working", "a zombie does no work");

    // As a child it is an entry beside its living parent.
    let answer = ask_about("dump", target.pid(), &["--subprocesses"]).expect(0);
    assert!(answer.stdout.contains("state zombie, child of"));
    target.assert_unharmed();
    assert_eq!(target.finish(), Some(0));
}

#[test]
fn a_process_without_python_shows_what_the_kernel_knows() {
    let mut target = start_cat();
    let answer = ask_about("dump", target.pid(), &["--json"]).expect(5);
    let process = &answer.json()["processes"][0];
    assert_eq!(process["runtime"], serde_json::Value::Null);
    let thread = thread_of(process, target.pid());
    assert_eq!(
        (&thread["state"], &thread["comm"]),
        (&"S".into(), &"cat".into())
    );
    let wait = &thread["wait"];
    assert_eq!(
        (&wait["kind"], &wait["syscall"]),
        (&"pipe-read".into(), &"read".into())
    );
    assert_eq!(
        (&wait["resource"]["type"], &wait["resource"]["fd"]),
        (&"pipe".into(), &0.into())
    );

    let answer = ask_about("dump", target.pid(), &[]).expect(5);
    assert!(answer.stdout.contains("no Python found"), "{answer:#?}");
    assert!(answer.stdout.contains("read(fd 0)"), "{answer:#?}");
    assert_eq!(answer.stderr, "stuckspy: no Python was found\n");
    ask_about("diagnose", target.pid(), &[]).expect(5);
    target.assert_unharmed();
    assert_eq!(target.finish(), Some(0));
}

#[test]
fn without_rights_the_kernels_facts_and_one_hint_are_given() {
    if !is_root("a process of another user") {
        return;
    }
    let Some(setpriv) = find_tool("setpriv") else {
        return;
    };
    // The user that we become must be able to reach the program.
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let stuckspy = folder.path().join("stuckspy");
    fs::copy(env!("CARGO_BIN_EXE_stuckspy"), &stuckspy).unwrap();
    let fixture = start("nested");
    let pid = fixture.pid().to_string();
    let ask_as_nobody = |bounds: &[&str], arguments: &[&str]| {
        let output = Command::new(&setpriv)
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .args(bounds)
            .arg(&stuckspy)
            .args(arguments)
            .args(["--pid", &pid])
            .output()
            .unwrap();
        Answer {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
            took: Duration::ZERO,
        }
    };
    let none = ["--inh-caps=-all", "--bounding-set=-all"];
    for command in ["dump", "diagnose"] {
        for bounds in [&none[..], &[]] {
            let answer = ask_as_nobody(bounds, &[command]).expect(4);
            assert_eq!(answer.hints().len(), 1, "{answer:#?}");
            assert_eq!(answer.stderr.lines().count(), 1, "{answer:#?}");
            assert!(
                answer.stdout.contains(&format!("rocess {pid}")),
                "{answer:#?}"
            );
            assert!(answer.stdout.contains("ermission denied"), "{answer:#?}");
        }
    }
    let answer = ask_as_nobody(&none, &["dump"]).expect(4);
    assert!(
        answer.stdout.contains("sleeping for"),
        "the kernel tells that much to all: {answer:#?}"
    );
    let answer = ask_as_nobody(&none, &["dump", "--json"]).expect(4);
    let process = &answer.json()["processes"][0];
    assert_eq!(process["state"], "S");
    assert_eq!(answer.json()["access"]["ptrace"], false);
    ask_as_nobody(&none, &["doctor"]).expect(4);
    // That a thread runs does not say that it makes progress.
    let burning = start("deep_cpu");
    let output = Command::new(&setpriv)
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&stuckspy)
        .args(["diagnose", "--pid", &burning.pid().to_string()])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains(" unknown"), "{said}");
    assert!(!said.contains(" working"), "{said}");
    burning.finish().unwrap();
    fixture.assert_unharmed().unwrap();
    fixture.finish().unwrap();
}

/// Waits until all threads of a fixture are traced by `tracer`, dumps it, and gives the document's text.
fn dump_traced(fixture: &Fixture, tracer: i32, options: &[&str]) -> String {
    let pid = fixture.pid();
    wait_until(&format!("{tracer} traces {pid}"), || {
        let statuses = statuses(pid);
        statuses
            .iter()
            .all(|status| field(status, "TracerPid") == tracer.to_string())
    });
    let process = dump(pid).expect("it can be dumped");
    assert_eq!(
        differences(&fixture.truth, &process),
        Vec::<String>::new(),
        "{options:?}"
    );
    let answer = ask_about("dump", pid, options).expect(0);
    assert!(
        answer
            .stdout
            .contains(&format!("traced by process {tracer}")),
        "{answer:#?}"
    );
    let document = ask_about("dump", pid, &["--json"]).expect(0).json();
    assert_eq!(document["processes"][0]["tracer"], tracer);
    answer.stdout
}

#[test]
fn a_process_under_strace_is_dumped_and_its_tracer_named() {
    let Some(strace) = find_tool("strace") else {
        return;
    };
    for options in [&[][..], &["--blocking"]] {
        let fixture = start("nested");
        let pid = fixture.pid().to_string();
        let mut command = Command::new(&strace);
        let tracer = Target::start(
            command
                .args(["-f", "-p", &pid, "-o", "/dev/null"])
                .stderr(Stdio::null()),
        );
        dump_traced(&fixture, tracer.pid(), options);
        let status = statuses(fixture.pid());
        assert!(
            status
                .iter()
                .all(|status| field(status, "TracerPid") == tracer.pid().to_string())
        );
        tracer.signal(Signal::SIGTERM);
        drop(tracer);
        fixture.assert_unharmed().unwrap();
        fixture.finish().unwrap();
    }
}

#[test]
fn a_process_stopped_by_gdb_is_dumped_and_called_stopped() {
    let Some(gdb) = find_tool("gdb") else {
        return;
    };
    let fixture = start("nested");
    let pid = fixture.pid();
    let mut command = Command::new(&gdb);
    let debugger = Target::start(
        command
            .args(["-nx", "-q", "-p", &pid.to_string()])
            .stderr(Stdio::null()),
    );
    wait_until("gdb has stopped it", || all_in_state(pid, 't'));
    for options in [&[][..], &["--blocking"]] {
        let text = dump_traced(&fixture, debugger.pid(), options);
        assert!(text.contains(": traced"), "{text}");
    }
    let answer = ask_about("diagnose", pid, &["--json"]).expect_one_of(&[0, 1]);
    let document = answer.json();
    let verdict = &thread_of(&document["processes"][0], pid)["verdict"];
    assert_eq!(verdict["class"], "stopped", "{answer:#?}");
    assert!(all_in_state(pid, 't'), "{:?}", statuses(pid));
    // At the end of its input it lets go of what it is attached to.
    assert_eq!(debugger.finish(), Some(0));
    fixture.assert_unharmed().unwrap();
    fixture.finish().unwrap();
}

#[test]
fn a_stopped_process_is_dumped_stays_stopped_and_goes_on_when_told_to() {
    let fixture = start("nested");
    let pid = fixture.pid();
    kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
    wait_until("it has stopped", || all_in_state(pid, 'T'));
    for options in [&[][..], &["--blocking"]] {
        let process = dump(pid).unwrap();
        assert_eq!(
            differences(&fixture.truth, &process),
            Vec::<String>::new(),
            "{options:?}"
        );
        let answer = ask_about("dump", pid, options).expect(0);
        assert!(answer.stdout.contains(": stopped"), "{answer:#?}");
        assert!(!answer.stdout.contains("\n! "), "{answer:#?}");

        let mut all = vec!["--json"];
        all.extend(options);
        let answer = ask_about("diagnose", pid, &all).expect_one_of(&[0, 1]);
        let document = answer.json();
        let verdict = &thread_of(&document["processes"][0], pid)["verdict"];
        assert_eq!(verdict["class"], "stopped", "{answer:#?}");
        wait_until("it is untraced and still stopped", || {
            all_in_state(pid, 'T')
                && statuses(pid)
                    .iter()
                    .all(|status| field(status, "TracerPid") == "0")
        });
    }
    kill(Pid::from_raw(pid), Signal::SIGCONT).unwrap();
    wait_until("it goes on", || !all_in_state(pid, 'T'));
    fixture.assert_unharmed().unwrap();
    fixture.finish().unwrap();
}

/// A process at any instant of its short life, and after it.
#[test]
fn a_process_that_ends_meanwhile_has_ended_or_was_seen() {
    let mut dice = Dice::new(1);
    let mut seen = std::collections::BTreeMap::new();
    for round in 0..60 {
        let mut command = python(&["-c", "pass"]);
        let mut child = command.spawn().unwrap();
        thread::sleep(dice.below(Duration::from_millis(25)));
        let options: &[&str] = match round % 3 {
            0 => &[],
            1 => &["--blocking"],
            _ => &["--subprocesses", "--json"],
        };
        let name = if round % 2 == 0 { "dump" } else { "diagnose" };
        let answer = ask_about(name, child.id().cast_signed(), options).expect_one_of(&[0, 3, 5]);
        assert!(answer.took < GIVES_UP_WITHIN, "{answer:#?}");
        if options.contains(&"--json") && !answer.stdout.is_empty() {
            answer.json();
        }
        *seen.entry(answer.code).or_insert(0) += 1;
        assert!(child.wait().unwrap().success());
    }
    let count = seen.values().sum::<u32>();
    assert_eq!(count, 60, "{seen:?}");
}

#[test]
fn a_process_that_replaces_its_program_all_the_time_is_one_process() {
    let mut target = start_hostile("execs.py");
    for round in 0..30 {
        let options: &[&str] = if round % 2 == 0 { &[] } else { &["--blocking"] };
        let answer = ask_about("dump", target.pid(), options).expect_one_of(&[0, 5]);
        assert!(answer.took < GIVES_UP_WITHIN, "{answer:#?}");
        assert!(answer.stdout.contains(&format!("Process {}", target.pid())));
    }
    wait_until("no thread is traced", || {
        statuses(target.pid())
            .iter()
            .all(|status| field(status, "TracerPid") == "0")
    });
    target.assert_unharmed();
}

#[test]
fn children_that_vanish_are_entries_and_no_errors() {
    let mut target = start_hostile("forks.py");
    for round in 0..20 {
        let name = if round % 2 == 0 { "dump" } else { "diagnose" };
        let answer = ask_about(name, target.pid(), &["--subprocesses", "--json"]).expect(0);
        assert_eq!(answer.stderr, "");
        let document = answer.json();
        assert_eq!(document["processes"][0]["pid"], target.pid());
        for process in document["processes"].as_array().expect("processes") {
            assert!(process["state"].is_string(), "{process}");
        }
        ask_about(name, target.pid(), &["--subprocesses"]).expect(0);
    }
    target.assert_unharmed();
}

#[test]
fn threads_that_come_and_go_disturb_nobody() {
    let fixture = start("thrash");
    for round in 0..20 {
        let options: &[&str] = if round % 2 == 0 { &[] } else { &["--blocking"] };
        let answer = ask_about("dump", fixture.pid(), options).expect(0);
        for name in ["MainThread", "churn"] {
            assert!(
                answer.stdout.contains(&format!("\"{name}\"")),
                "{answer:#?}"
            );
        }
        ask_about("diagnose", fixture.pid(), options).expect(0);
    }
    wait_until("no thread is traced", || {
        statuses(fixture.pid())
            .iter()
            .all(|status| field(status, "TracerPid") == "0")
    });
    fixture.assert_unharmed().unwrap();
    let before = fixture.progress();
    wait_until("it makes progress", || fixture.progress() > before);
    fixture.finish().unwrap();
}

#[test]
fn names_that_act_on_a_terminal_do_not() {
    for name in [
        "odd_code",
        "thread_names",
        "odd_files",
        "no_threading",
        "unicode_names",
    ] {
        let fixture = start(name);
        for command in ["dump", "diagnose"] {
            for options in [&[][..], &["--full-filenames"], &["--json"]] {
                let answer = ask_about(command, fixture.pid(), options).expect_one_of(&[0, 1]);
                if options.contains(&"--json") {
                    // Programs read it: every string is valid, none is changed.
                    answer.json();
                } else {
                    answer.assert_harmless();
                }
            }
        }
        fixture.assert_unharmed().unwrap();
        fixture.finish().unwrap();
    }
}

#[test]
fn arguments_that_act_on_a_terminal_do_not() {
    let (mut target, _) = Target::start_and_listen(&mut python(&[
        "-c",
        "import os; os.write(1, b'ready\\n'); os.read(0, 1)",
        "\x1b]0;title\x07\x1b[2J\u{202e}\n\nThread 1",
    ]));
    wait_until_in_call(target.pid(), Sysno::read);
    for command in ["dump", "diagnose"] {
        let answer = ask_about(command, target.pid(), &[]).expect(0);
        answer.assert_harmless();
        assert!(!answer.stdout.contains("\nThread 1\n"), "{answer:#?}");
    }
    target.assert_unharmed();
}

#[test]
fn deep_recursion_is_short_in_text_whole_in_json_and_small_in_memory() {
    const MOST_MEMORY: u64 = 64 << 20;
    let fixture = start("deep");
    let pid = fixture.pid().to_string();
    let answer = ask_about("dump", fixture.pid(), &[]).expect(0);
    assert!(answer.stdout.lines().count() < 100, "{answer:#?}");
    for options in [&[][..], &["--json"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stuckspy"));
        command.args(["dump", "--pid", &pid]).args(options);
        let peak = peak_memory(&mut command);
        assert!(peak < MOST_MEMORY, "{} MiB {options:?}", peak >> 20);
    }
    let process = dump(fixture.pid()).unwrap();
    assert_eq!(differences(&fixture.truth, &process), Vec::<String>::new());
    fixture.assert_unharmed().unwrap();
    fixture.finish().unwrap();
}

/// Recursion of two functions through each other repeats lines, though not the same line.
#[test]
fn mutual_recursion_is_short_in_text_too() {
    let program = "import os, sys, threading
def even(n):
    return odd(n - 1) if n else wait()
def odd(n):
    return even(n - 1) if n else wait()
def wait():
    os.write(1, b'ready\\n'); os.read(0, 1)
sys.setrecursionlimit(30000)
threading.stack_size(1 << 28)
thread = threading.Thread(target=even, args=(20001,))
thread.start()
thread.join()";
    let (mut target, _) = Target::start_and_listen(&mut python(&["-c", program]));
    let answer = ask_about("dump", target.pid(), &[]).expect(0);
    let lines = answer.stdout.lines().count();
    assert!(lines < 200, "{lines} lines");
    target.assert_unharmed();
}

#[test]
fn a_closed_pipe_is_success_without_a_word() {
    let fixture = start("deep");
    let pid = fixture.pid().to_string();
    let command_lines = [
        &["dump", "--json", "--pid", &pid][..],
        &["dump", "--pid", &pid],
        &["diagnose", "--pid", &pid],
        &["doctor", "--pid", &pid],
        &["--help"],
        &["dump", "--help"],
        &["--version"],
    ];
    for arguments in command_lines {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = Command::new(env!("CARGO_BIN_EXE_stuckspy"))
            .args(arguments)
            .stdout(writer)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
    }
    fixture.assert_unharmed().unwrap();
    fixture.finish().unwrap();
}

#[test]
fn a_full_disk_is_told_and_is_no_bug_of_ours() {
    let mut target = start_cat();
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_stuckspy"))
        .args(["dump", "--pid", &target.pid().to_string()])
        .stdout(full)
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains("write the output: No space left"),
        "{stderr}"
    );
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert_eq!(output.status.code(), Some(74));
    target.assert_unharmed();
}

/// Rust's runtime opens /dev/null in the place of a closed stream, and what is written to it is lost without an error.
#[test]
fn a_standard_output_that_takes_nothing_is_told() {
    let mut target = start_cat();
    let pid = target.pid().to_string();
    let command_lines = [
        &["dump", "--pid", &pid][..],
        &["diagnose", "--window", "0", "--json", "--pid", &pid],
        &["record", "-o", "-", "-d", "100ms", "--pid", &pid],
        &["top", "--count", "1", "--pid", &pid],
        &["doctor"],
        &["explain", "stopped"],
        &["--help"],
        &["--version"],
    ];
    for (redirection, reason) in [
        (">&-", "standard output is closed"),
        ("1</dev/null", "standard output is open for reading only"),
        (">/dev/full", "No space left"),
    ] {
        for arguments in command_lines {
            let ask = |redirection: &str| {
                let script = format!("exec \"$0\" \"$@\" {redirection}");
                let mut shell = Command::new("sh");
                shell.args(["-c", &script, env!("CARGO_BIN_EXE_stuckspy")]);
                shell.args(arguments).output().unwrap()
            };
            // What has no Python in it is not sampled at all.
            let is_sampled = !matches!(arguments[0], "top" | "record");
            if is_sampled || redirection != ">/dev/full" && arguments[0] == "record" {
                let output = ask(redirection);
                let stderr = String::from_utf8(output.stderr).unwrap();
                assert_eq!(output.status.code(), Some(74), "{arguments:?}: {stderr}");
                assert!(stderr.contains(reason), "{arguments:?}: {stderr}");
            }
            // Whoever wants nothing of it gets nothing, as Python's `subprocess.DEVNULL` has it.
            if is_sampled {
                let output = ask("1<>/dev/null");
                let code = if arguments.contains(&"--pid") { 5 } else { 0 };
                assert_eq!(
                    output.status.code(),
                    Some(code),
                    "{arguments:?}: {output:?}"
                );
            }
        }
    }
    // Nothing is to be printed.
    let script = "exec \"$0\" diagnose --quiet --window 0 --pid \"$1\" >&-";
    let mut shell = Command::new("sh");
    let status = shell.args(["-c", script, env!("CARGO_BIN_EXE_stuckspy"), &pid]);
    assert_eq!(status.status().unwrap().code(), Some(5));
    target.assert_unharmed();
}

/// A file of rules may be a pipe, as of `<(…)`; it must come to its end soon, and not be endless.
#[test]
fn rules_that_do_not_end_are_refused() {
    let mut target = start_cat();
    let pid = target.pid().to_string();
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("rules");
    live::make_fifo(&fifo);
    let large = folder.path().join("large");
    fs::write(&large, "#".repeat((1 << 20) + 1)).unwrap();
    for (file, reason) in [
        (fifo.to_str().unwrap(), "did not come to its end within 5 s"),
        ("/dev/zero", "more than 1048576 bytes"),
        (large.to_str().unwrap(), "more than 1048576 bytes"),
        ("/nonexistent", "No such file"),
    ] {
        let answer = ask(&["diagnose", "--rules", file, "--pid", &pid]).expect(2);
        assert!(answer.stderr.contains(reason), "{answer:#?}");
        assert!(answer.stderr.contains(file), "{answer:#?}");
        assert!(answer.took < Duration::from_secs(20), "{answer:#?}");
    }
    let script =
        "printf '# none\\n' | exec \"$0\" diagnose --rules /dev/stdin --window 0 --pid \"$1\"";
    let mut shell = Command::new("sh");
    let shell = shell.args(["-c", script, env!("CARGO_BIN_EXE_stuckspy"), &pid]);
    // The rules are read, and the process is looked at, in which there is no Python.
    assert_eq!(shell.output().unwrap().status.code(), Some(5));
    target.assert_unharmed();
}

#[test]
fn help_is_data_and_fits_a_terminal() {
    for arguments in [
        &["--help"][..],
        &["dump", "--help"],
        &["diagnose", "--help"],
        &["doctor", "--help"],
        &["help", "dump"],
        &["-h"],
    ] {
        let answer = ask(arguments).expect(0);
        assert!(answer.stdout.contains("Usage: stuckspy"), "{answer:#?}");
        assert_eq!(answer.stderr, "");
        let widest = answer.stdout.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(100), "{answer:#?}");
    }
    let answer = ask(&["--version"]).expect(0);
    assert_eq!(
        answer.stdout,
        concat!("stuckspy ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[test]
fn command_lines_that_make_no_sense_are_usage_errors() {
    for arguments in [
        &[][..],
        &["nonsense"],
        &["dump", "--nonsense"],
        &["dump", "--pid"],
        &["dump", "--pid", "abc"],
        &["dump", "--pid", "0"],
        &["dump", "--pid", "-1"],
        &["dump", "--pid", "99999999999"],
        &["dump", "--pid", "1", "--", "true"],
        &["dump", "--pid", "1", "--blocking", "--nonblocking"],
        &["diagnose", "--pid", "1", "--threshold", "soon"],
        &["diagnose", "--pid", "1", "--threshold=-1"],
        &["diagnose", "--pid", "1", "--no-children", "--subprocesses"],
        &["dump", "--", "/no/such/program"],
        &["diagnose", "--", "/no/such/program"],
    ] {
        let answer = ask(arguments).expect(2);
        assert_eq!(answer.stdout, "", "{arguments:?}");
        assert!(!answer.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_program_that_ends_before_it_is_looked_at_is_no_process() {
    let answer = ask(&["dump", "--after", "100ms", "--", "true"]).expect(3);
    assert_eq!(answer.stdout, "");
}

fn start_unreadable(interpreter: &Interpreter, mode: &str) -> Option<Target> {
    let mut command = Command::new(&interpreter.path);
    command.args(["-S", "-E"]).arg(hostile("unreadable.py"));
    let (target, line) = Target::start_and_listen(command.arg(mode));
    if let Some(why) = line.strip_prefix("skip: ") {
        // Container engines forbid the call.
        report_skipped("memory whose reading blocks", why);
        return None;
    }
    assert_eq!(line, "ready");
    Some(target)
}

/// As on a dead network file system: one read of the target's memory never comes back.
#[test]
fn reading_that_blocks_for_ever_is_given_up() {
    let interpreters = support::interpreter::interpreters();
    let fits =
        |one: &&Interpreter| one.version.major == 3 && (11..=13).contains(&one.version.minor);
    let Some(interpreter) = interpreters.iter().find(fits) else {
        return report_skipped("memory whose reading blocks", "needs 3.11 to 3.13");
    };
    let mut targets = Vec::new();
    for mode in ["frames", "first"] {
        let Some(target) = start_unreadable(interpreter, mode) else {
            return;
        };
        wait_until_in_call(target.pid(), Sysno::read);
        targets.push((mode, target));
    }
    // All at once: each takes its seconds.
    let command_lines: [&[&str]; 5] = [
        &["dump"],
        &["dump", "--json"],
        &["diagnose"],
        &["diagnose", "--json"],
        &["doctor"],
    ];
    let mut runs = Vec::new();
    for (mode, target) in &targets {
        for arguments in command_lines {
            let pid = target.pid();
            let run = thread::spawn(move || {
                let (command, options) = arguments.split_first().expect("a command");
                ask_about(command, pid, options)
            });
            runs.push((*mode, arguments, pid, run));
        }
    }
    let mut failures = Vec::new();
    for (mode, arguments, pid, run) in runs {
        let answer = run.join().unwrap();
        if answer.took > GIVES_UP_WITHIN {
            failures.push(format!("{arguments:?} with {mode}: took {:?}", answer.took));
            continue;
        }
        if arguments == ["doctor"] {
            continue;
        }
        let answer = answer.expect(5);
        assert!(
            answer.stdout.contains("the kernel did not answer within"),
            "{answer:#?}"
        );
        if arguments.contains(&"--json") {
            let document = answer.json();
            let thread = thread_of(&document["processes"][0], pid).clone();
            assert_eq!(thread["wait"]["syscall"], "read", "{answer:#?}");
        }
    }
    for (_, mut target) in targets {
        target.assert_unharmed();
        assert_eq!(target.finish(), Some(0));
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// A program that stuckspy has started must not outlive it, however it ends.
#[test]
fn a_started_program_ends_with_stuckspy() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let program = "import os, signal
os.write(1, b'%d\\n' % os.getpid())
signal.pause()";
        let mut command = Command::new(env!("CARGO_BIN_EXE_stuckspy"));
        command
            .args(["diagnose", "--quiet"])
            .arg(&any_interpreter().path)
            .args(["-S", "-E", "-c", program]);
        let (stuckspy, line) = Target::start_and_listen(&mut command);
        let pid: i32 = line.parse().expect("a pid");
        stuckspy.signal(signal);
        stuckspy.finish();
        let ended = std::time::Instant::now();
        let outlives = || {
            let statuses = statuses(pid);
            let ours = statuses
                .iter()
                .filter(|status| field(status, "Tgid") == line);
            ours.into_iter()
                .any(|status| !field(status, "State").starts_with(['Z', 'X']))
        };
        while outlives() && ended.elapsed() < GOODBYE {
            thread::park_timeout(Duration::from_millis(5));
        }
        let is_left = outlives();
        if is_left {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        assert!(!is_left, "it goes on after {signal} to stuckspy");
    }
}
