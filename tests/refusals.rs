//! What stuckspy says where a container or the machine refuses something: the best partial answer, the one change that helps, and
//! `doctor` says the same beforehand.

mod support;

#[path = "support/container.rs"]
mod container;
#[path = "support/live.rs"]
mod live;
#[path = "support/pod.rs"]
mod pod;
#[path = "support/static_binary.rs"]
mod static_binary;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use container::{Container, Plan, WITH_PTRACE, default_seccomp};
use live::{Answer, Target, assert_at_large, find_tool, wait_until, wait_until_in_call};
use pod::{answer, ask_from, beside, can_run, debugger, image, interpreter, python, start};
use serde_json::Value;
use static_binary::static_binary;
use support::interpreter::Interpreter;
use syscalls::Sysno;

/// What is tried in a container whose interpreter does not matter.
const PROGRAM: &str = "waits/recv_tcp";

fn some_interpreter() -> Option<&'static Interpreter> {
    interpreter(11)
}

/// Fails unless everybody says the same: `dump` gives what the kernel shows to all and ends with 4, `diagnose` and `record` too, and
/// `doctor` knows beforehand.
#[track_caller]
fn expect_refusal(plan: &Plan, container: &Container, hint: &str) {
    let dump = ask_from(plan, &["dump", "--pid", "1"]).expect(4);
    assert!(dump.stdout.contains("sleeping for"), "{dump:#?}");
    let json = ask_from(plan, &["dump", "--json", "--pid", "1"]).expect(4);
    let thread = &json.json()["processes"][0]["threads"][0];
    assert_eq!(thread["state"], "S", "{thread:#}");
    for answer in [
        &dump,
        &json,
        &ask_from(plan, &["diagnose", "--pid", "1"]).expect(4),
        &ask_from(plan, &["record", "-o", "-", "-d", "1", "--pid", "1"]).expect(4),
    ] {
        assert!(
            answer.hints().iter().any(|line| line.contains(hint)),
            "{answer:#?}"
        );
    }
    expect_doctor(&ask_from(plan, &["doctor", "--pid", "1"]).expect(4), hint);
    assert_at_large(container.pid());
}

#[track_caller]
fn expect_doctor(doctor: &Answer, hint: &str) {
    let helps = doctor
        .stdout
        .lines()
        .find(|line| line.starts_with("suggestion: "));
    assert!(helps.is_some_and(|line| line.contains(hint)), "{doctor:#?}");
}

#[test]
fn without_the_capability() {
    let Some(interpreter) = some_interpreter().filter(|_| can_run("no capability")) else {
        return;
    };
    let container = start(interpreter, PROGRAM);
    expect_refusal(
        &beside(&container),
        &container,
        "this container lacks CAP_SYS_PTRACE",
    );
}

#[test]
fn with_the_capability_only_in_the_bounding_set() {
    let Some(interpreter) = some_interpreter().filter(|_| can_run("a bounding set")) else {
        return;
    };
    let container = start(interpreter, PROGRAM);
    let plan = beside(&container)
        .with_user(65534)
        .with_capabilities(&["CAP_SYS_PTRACE"]);
    expect_refusal(&plan, &container, "only its root gets it: run as user 0");
}

#[test]
fn from_another_user_namespace() {
    if !can_run("another user namespace") || find_tool("unshare").is_none() {
        return;
    }
    let target = start_sleeper();
    let pid = target.pid().to_string();
    let ask = |command: &str| {
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", "--map-root-user"]);
        unshare.arg(env!("CARGO_BIN_EXE_stuckspy"));
        answer(
            unshare
                .args([command, "--pid", &pid])
                .output()
                .expect("it starts"),
        )
    };
    let dump = ask("dump").expect(4);
    assert!(
        dump.hints()[0].contains("another user namespace"),
        "{dump:#?}"
    );
    expect_doctor(&ask("doctor").expect(4), "another user namespace");
    assert_at_large(target.pid());
}

/// The same pid is another process there, so that of two processes one answer would be made.
#[test]
fn the_proc_of_another_pid_namespace_is_refused_and_so_is_none() {
    let tools = ["unshare", "umount", "sh"].map(find_tool);
    if !live::is_root("another pid namespace") || tools.iter().any(Option::is_none) {
        return;
    }
    let ask = |options: &[&str], script: &str, arguments: &[&str]| {
        let mut unshare = Command::new("unshare");
        unshare.args(options).args(["sh", "-c", script]);
        unshare.arg(env!("CARGO_BIN_EXE_stuckspy")).args(arguments);
        answer(unshare.output().expect("it starts"))
    };
    let own = std::process::id().to_string();
    for arguments in [
        &["dump", "--pid", "1"][..],
        &["diagnose", "--pid", &own],
        &["record", "-o", "-", "--pid", "1"],
        &["top", "--count", "1", "--pid", "1"],
        &["doctor"],
        &["dump"],
        &["dump", "--", "true"],
    ] {
        let foreign = ask(&["--pid", "--fork"], "\"$0\" \"$@\"", arguments).expect(5);
        let none = ask(
            &["--mount"],
            "umount -l /proc; exec \"$0\" \"$@\"",
            arguments,
        )
        .expect(5);
        assert!(
            foreign.stderr.contains("that of another pid namespace"),
            "{foreign:#?}"
        );
        assert!(
            none.stderr
                .contains("no proc file system is mounted on /proc"),
            "{none:#?}"
        );
        for answer in [foreign, none] {
            assert!(
                answer.hints()[0].contains("mount -t proc proc /proc"),
                "{answer:#?}"
            );
            assert_eq!(answer.stdout, "");
        }
    }
    // With one of its own, it is the first process there.
    let own = ["--pid", "--fork", "--mount-proc"];
    let answer = ask(&own, "\"$0\" \"$@\"", &["dump", "--pid", "1"]).expect(5);
    assert!(answer.stdout.contains("Process 1: sh"), "{answer:#?}");
    // What looks at no process needs none.
    ask(
        &["--mount"],
        "umount -l /proc; exec \"$0\" \"$@\"",
        &["explain", "stopped"],
    )
    .expect(0);
}

fn start_sleeper() -> Target {
    let mut command = Command::new("sleep");
    let target = Target::start(command.arg("3600"));
    wait_until_in_call(target.pid(), Sysno::clock_nanosleep);
    target
}

/// The kernel here has no Yama: its file is shown in a mount namespace, and what it would refuse is refused by a capability that
/// the target has and we do not.
#[test]
fn under_yama() {
    let tools = ["unshare", "setpriv", "mount", "chroot"].map(find_tool);
    if !can_run("Yama") || tools.iter().any(Option::is_none) {
        return;
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.args([
        "--inh-caps=+net_bind_service",
        "--ambient-caps=+net_bind_service",
    ]);
    command.args(["sleep", "3600"]);
    let target = Target::start(&mut command);
    wait_until_in_call(target.pid(), Sysno::clock_nanosleep);
    let root = tempfile::tempdir().unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::copy(static_binary(), root.path().join("stuckspy")).unwrap();
    fs::create_dir(root.path().join("proc")).unwrap();
    let yama = root.path().join("kernel/yama");
    fs::create_dir_all(&yama).unwrap();
    // A root of its own has no mark of a container either, should there be one here.
    let script = format!(
        "cd {} && mount -t proc proc proc && mount --bind kernel proc/sys/kernel && \
         exec chroot --userspec=65534:65534 --groups= . /stuckspy \"$@\"",
        root.path().display()
    );
    for (scope, hint) in [
        ("1", "kernel.yama.ptrace_scope is 1: run as root"),
        ("2", "kernel.yama.ptrace_scope is 2: run as root"),
        ("3", "nobody may attach"),
    ] {
        fs::write(yama.join("ptrace_scope"), scope).unwrap();
        let ask = |command: &str| {
            let mut unshare = Command::new("unshare");
            unshare.args(["--mount", "sh", "-c", &script, "sh", command, "--pid"]);
            unshare.arg(target.pid().to_string());
            answer(unshare.output().expect("it starts"))
        };
        let dump = ask("dump").expect(4);
        let hints = dump.hints();
        assert!(hints.iter().any(|line| line.contains(hint)), "{dump:#?}");
        expect_doctor(&ask("doctor").expect(4), hint);
        assert_at_large(target.pid());
    }
}

/// Profiles of containerd had no `pidfd_getfd` at first: what only a borrowed descriptor tells is missing, and the hang is found.
#[test]
fn where_seccomp_refuses_to_borrow_descriptors() {
    let Some(interpreter) = some_interpreter().filter(|_| can_run("an older profile")) else {
        return;
    };
    let container = start(interpreter, PROGRAM);
    let older = WITH_PTRACE.map(|name| if name == "pidfd_getfd" { "kcmp" } else { name });
    let plan = debugger(&container).with_seccomp(default_seccomp(&older));
    let mut document = Value::Null;
    wait_until("the hang is found", || {
        let options = ["diagnose", "--json", "--pid", "1", "--threshold", "300ms"];
        document = ask_from(&plan, &options).expect_one_of(&[0, 1]).json();
        !document["findings"][0].is_null()
    });
    assert_eq!(
        document["findings"][0]["verdict"], "hang-network",
        "{document:#}"
    );
    let thread = &document["processes"][0]["threads"][0];
    assert_eq!(document["access"]["pidfd_getfd"], false);
    assert_eq!(
        thread["wait"]["resource"]["state"], "ESTABLISHED",
        "{thread:#}"
    );
    assert!(
        thread["wait"]["resource"]["recv_timeout_ms"].is_null(),
        "{thread:#}"
    );
    let doctor = ask_from(&plan, &["doctor", "--pid", "1"]).expect(0);
    let row = doctor
        .stdout
        .lines()
        .find(|line| line.contains("duplicates of its sockets"));
    assert!(
        row.is_some_and(|row| row.contains("no; needs")),
        "{doctor:#?}"
    );
    assert_at_large(container.pid());
}

/// A profile from before Linux 4.8, or one that somebody has tightened: memory is read through `/proc/PID/mem`, and what only a
/// borrowed descriptor tells is missing and said to be.
#[test]
fn where_seccomp_refuses_the_calls_that_read() {
    let Some(interpreter) = some_interpreter().filter(|_| can_run("a seccomp profile")) else {
        return;
    };
    let container = start(interpreter, "stuck_scheduler");
    let plan = debugger(&container).with_seccomp(default_seccomp(&[]));
    let dump = ask_from(&plan, &["dump", "--json", "--pid", "1"]).expect(0);
    let document = dump.json();
    assert_eq!(document["access"]["ptrace"], true);
    assert_eq!(document["access"]["vectored"], false);
    assert_eq!(document["access"]["pidfd_getfd"], false);
    let whole = ask_from(&debugger(&container), &["dump", "--json", "--pid", "1"]).expect(0);
    let stacks = |document: &Value| {
        let threads = document["processes"][0]["threads"].as_array().cloned();
        let frames = threads.unwrap_or_default().into_iter().map(|thread| {
            thread["frames"].as_array().map(|frames| {
                frames
                    .iter()
                    .map(|frame| frame["function"].clone())
                    .collect::<Vec<_>>()
            })
        });
        frames.collect::<Vec<_>>()
    };
    assert_eq!(stacks(&document), stacks(&whole.json()));
    let record = [
        "record", "--pid", "1", "-d", "500ms", "--idle", "-f", "folded", "-o", "-",
    ];
    let record = ask_from(&plan, &record).expect(0);
    assert!(record.stdout.contains("scheduler_loop"), "{record:#?}");
    let doctor = ask_from(&plan, &["doctor", "--pid", "1"]).expect(0);
    assert!(
        doctor
            .stdout
            .contains("a seccomp filter refuses process_vm_readv"),
        "{doctor:#?}"
    );
    assert_at_large(container.pid());
}

#[test]
fn where_proc_hides_processes() {
    let Some(interpreter) = some_interpreter().filter(|_| can_run("hidepid")) else {
        return;
    };
    let container = start(interpreter, PROGRAM);
    for option in ["hidepid=2", "hidepid=1"] {
        let plan = beside(&container).with_user(65534).with_proc_option(option);
        let dump = ask_from(&plan, &["dump", "--pid", "1"]).expect(4);
        assert!(
            dump.hints().iter().any(|line| line.contains("hidepid=")),
            "{dump:#?}"
        );
        let doctor = ask_from(&plan, &["doctor"]).expect(0);
        assert!(
            doctor.stdout.contains("/proc hides processes"),
            "{doctor:#?}"
        );
        // To the capability nothing is hidden.
        ask_from(
            &debugger(&container).with_proc_option(option),
            &["dump", "--pid", "1"],
        )
        .expect(0);
    }
    // There is none, hidden or not.
    let plan = beside(&container)
        .with_user(65534)
        .with_proc_option("hidepid=2");
    ask_from(&plan, &["dump", "--pid", "30000"]).expect(3);
    assert_at_large(container.pid());
}

/// An upgrade while it runs: the file is another one by now, in a root of which only the target's own view is there.
#[test]
fn where_the_interpreter_was_replaced() {
    if !can_run("a replaced interpreter") {
        return;
    }
    for interpreter in [6, 11].into_iter().filter_map(interpreter) {
        let container = start(interpreter, PROGRAM);
        let root = format!("/proc/{}/root", container.pid());
        let path = fs::canonicalize(&interpreter.path).unwrap();
        let inside = Path::new(&root).join(path.strip_prefix("/").unwrap());
        let newer = inside.with_extension("newer");
        fs::write(&newer, "not a program at all").unwrap();
        fs::rename(&newer, &inside).unwrap();
        let dump = ask_from(&debugger(&container), &["dump", "--json", "--pid", "1"]).expect(0);
        let process = &dump.json()["processes"][0];
        let version = interpreter.version.to_string();
        let found = process["runtime"]["version"].as_str();
        assert!(
            found.is_some_and(|found| found.starts_with(&version)),
            "{process:#}"
        );
        assert_eq!(process["threads"][0]["frames"][0]["function"], "<module>");
        assert_at_large(container.pid());
    }
}

/// Containers that share their processes have a pause as their first, and others have an init: the one Python below it is meant, and
/// of several nobody can tell.
#[test]
fn where_the_first_process_is_somebody_else() {
    let Some(interpreter) =
        some_interpreter().filter(|_| can_run("a first process that is no Python"))
    else {
        return;
    };
    let python = python(interpreter);
    let program = format!("/app/programs/{PROGRAM}.py");
    for (number, code) in [(1, 0), (2, 2)] {
        let script = format!(
            "for n in $(seq {number}); do {python} {program} & done; while [ $(cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep -c recv_tcp.py) -lt {} ]; do :; done; wait",
            2 * number
        );
        let (container, _) = image(interpreter).start(&["/usr/bin/sh", "-c", &script]);
        let dump = ask_from(&debugger(&container), &["dump"]).expect(code);
        if number == 1 {
            assert!(dump.stdout.contains("recv_tcp.py"), "{dump:#?}");
            assert!(dump.stderr.contains("target: process"), "{dump:#?}");
        } else {
            let hints = dump.hints();
            assert!(
                hints.len() >= 2 && hints.iter().all(|line| line.contains("recv_tcp.py")),
                "{dump:#?}"
            );
        }
        assert_at_large(container.pid());
    }
}
