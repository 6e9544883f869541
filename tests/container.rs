//! stuckspy as Kubernetes runs it: alone in an empty root, beside a container whose pid and network namespaces it shares and nothing
//! else, with CAP_SYS_PTRACE and the runtime's seccomp profile; and from the node, looking into containers.

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
use std::time::Instant;

use container::{Container, Plan};
use live::{DEADLINE, assert_at_large, wait_until};
use pod::{answer, ask_from, beside, can_run, debugger, image, interpreter, python, start};
use serde_json::{Value, json};
use static_binary::static_binary;
use support::report_skipped;

/// The versions that run in containers here.
const VERSIONS: [u8; 4] = [6, 9, 11, 13];
const THRESHOLD: [&str; 2] = ["--threshold", "300ms"];

fn main_thread(document: &Value) -> &Value {
    &document["processes"][0]["threads"][0]
}

/// Asks again and again until there are findings.
fn wait_for_findings(what: &str, mut ask: impl FnMut() -> Value) -> Value {
    let mut document = Value::Null;
    wait_until(&format!("something is found in {what}"), || {
        document = ask();
        document["findings"]
            .as_array()
            .is_some_and(|all| !all.is_empty())
    });
    document
}

#[test]
fn everything_works_in_an_empty_root_with_one_capability() {
    if !can_run("stuckspy beside a container") {
        return;
    }
    for interpreter in VERSIONS.into_iter().filter_map(interpreter) {
        let container = start(interpreter, "stuck_scheduler");
        let debugger = debugger(&container);
        let diagnosis = wait_for_findings(&interpreter.label, || {
            let arguments = ["diagnose", "--json", "--pid", "1"];
            ask_from(&debugger, &[&arguments[..], &THRESHOLD].concat())
                .expect_one_of(&[0, 1])
                .json()
        });
        let finding = &diagnosis["findings"][0];
        assert_eq!(finding["verdict"], "hang-network", "{finding:#}");
        assert_eq!(finding["root"]["pid"], 1, "{finding:#}");
        let holder = &main_thread(&diagnosis)["wait"]["holder"];
        assert!(
            holder["title"]
                .as_str()
                .is_some_and(|title| title.ends_with("--serve")),
            "{holder:#}"
        );
        assert!(
            finding["context"].to_string().contains("POST"),
            "{finding:#}"
        );

        let dump = ask_from(&debugger, &["dump", "--json", "--locals", "--pid", "1"])
            .expect(0)
            .json();
        let process = &dump["processes"][0];
        let version = format!("{}.{}", interpreter.version, interpreter.patch);
        assert_eq!(process["runtime"]["version"], version.as_str());
        let frames = main_thread(&dump)["frames"].as_array().expect("frames");
        let outermost = frames.last().expect("a frame");
        assert_eq!(outermost["function"], "<module>");
        assert_eq!(outermost["file"], "/app/programs/stuck_scheduler.py");
        assert!(frames.iter().any(|frame| {
            frame["locals"]
                .as_array()
                .is_some_and(|all| !all.is_empty())
        }));
        let worker = process["threads"].as_array().into_iter().flatten();
        let mut worker = worker.filter(|thread| thread["name"] == "example_dag.load.2019-10-17");
        let wait = &worker.next().expect("it is there")["wait"];
        assert!(
            ["queue", "python-lock", "condition", "futex"]
                .iter()
                .any(|kind| wait["kind"] == *kind),
            "{wait:#}"
        );

        // From the node, its files are read through its own root.
        let outside = live::ask_about("dump", container.pid(), &["--json"])
            .expect(0)
            .json();
        let seen = &outside["processes"][0];
        assert_eq!(seen["runtime"], process["runtime"]);
        assert_eq!(seen["ns_pid"], 1);

        let top = ask_from(
            &debugger,
            &["top", "--pid", "1", "--count", "2", "-d", "200ms", "--idle"],
        )
        .expect(0);
        assert!(top.stdout.contains("readinto"), "{top:#?}");
        let record = ["record", "--pid", "1", "-d", "500ms", "--idle", "-o", "-"];
        let svg = ask_from(&debugger, &record).expect(0);
        let options = roxmltree::ParsingOptions {
            allow_dtd: true,
            ..roxmltree::ParsingOptions::default()
        };
        roxmltree::Document::parse_with_options(&svg.stdout, options).expect("a whole picture");
        assert!(svg.stdout.contains("scheduler_loop"), "{svg:#?}");
        assert!(svg.stderr.contains("wrote the standard output"), "{svg:#?}");
        assert_at_large(container.pid());
    }
}

/// The pipe and the file get the same bytes; a picture says when it was made, which is left out.
#[test]
fn a_recording_through_a_pipe_is_what_a_file_gets() {
    if !can_run("a recording to standard output") {
        return;
    }
    let Some(interpreter) = interpreter(11) else {
        return;
    };
    let container = start(interpreter, "waits/pipe_alone");
    let folder = tempfile::tempdir().unwrap();
    let debugger = debugger(&container).with_bound_at(folder.path(), "/out", "rw");
    let record = [
        "record", "--pid", "1", "-d", "1", "-r", "20", "--idle", "-f",
    ];
    for format in ["folded", "flamegraph"] {
        let options = [&record[..], &[format, "-o"]].concat();
        let piped = ask_from(&debugger, &[&options[..], &["-"]].concat()).expect(0);
        ask_from(&debugger, &[&options[..], &["/out/file"]].concat()).expect(0);
        let file = fs::read_to_string(folder.path().join("file")).unwrap();
        let (piped, file) = (essence_of(&piped.stdout), essence_of(&file));
        assert!(
            piped == file,
            "{format}:\n{piped:.3000}\n-- in the file:\n{file:.3000}"
        );
        assert!(file.contains("pipe_alone"), "{file:.3000}");
    }
}

/// A recording without what is said below the title of a picture: when it was made, and how many samples came late.
fn essence_of(recording: &str) -> String {
    let (before, rest) = recording
        .split_once("<text id=\"subtitle\"")
        .unwrap_or((recording, ""));
    let after = rest.split_once("</text>").map_or("", |(_, after)| after);
    before.to_owned() + after
}

/// The text with its digits, which are counts and times, left out.
fn without_numbers(text: &str) -> String {
    text.chars()
        .filter(|letter| !letter.is_ascii_digit() && *letter != '.')
        .collect()
}

/// A pod with users of its own (`hostUsers: false`): the capability counts in its namespace, and from the node.
#[test]
fn a_pod_with_users_of_its_own_is_read_by_its_own_and_by_the_node() {
    if !can_run("a user namespace") {
        return;
    }
    let Some(interpreter) = interpreter(11) else {
        return;
    };
    let program = ["/app/programs/waits/pipe_alone.py"];
    let program = [&[python(interpreter)][..], &program].concat();
    let (container, _) = image(interpreter).with_users(None).start(&program);
    let own = debugger(&container).with_users(Some(container.pid()));
    let inside = ask_from(&own, &["dump", "--pid", "1"]).expect(0);
    let outside = live::ask_about("dump", container.pid(), &[]).expect(0);
    for dump in [inside, outside] {
        assert!(dump.stdout.contains("waits/pipe_alone.py:"), "{dump:#?}");
    }
    let doctor = ask_from(&own, &["doctor", "--pid", "1"]).expect(0);
    assert!(doctor.stdout.contains("ours"), "{doctor:#?}");
    assert_at_large(container.pid());
}

/// Whatever a test does: its containers, their processes, mounts and cgroups go with it.
#[test]
fn nothing_is_left_behind() {
    if !can_run("what is left behind") {
        return;
    }
    let Some(interpreter) = interpreter(11) else {
        return;
    };
    let program = [python(interpreter), "/app/programs/waits/pipe_alone.py"];
    let id = "6".repeat(64);
    let plan = image(interpreter).with_cgroup(&format!("/kubepods/burstable/{id}"));
    let (container, _) = plan.start(&program);
    let (name, pid) = (container.name(), container.pid());
    let state = |name: &str| {
        let mut runc = std::process::Command::new("runc");
        let output = runc.args(["state", name]).output();
        output.expect("runc can be started").status.success()
    };
    let groups = || {
        let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().flatten();
        let mut paths = hierarchies.map(|hierarchy| hierarchy.path().join(&name));
        paths.any(|path| path.exists())
    };
    assert!(state(&name) && groups());
    ask_from(&debugger(&container), &["dump", "--pid", "1"]).expect(0);
    drop(container);
    assert!(!state(&name) && !groups());
    assert!(fs::metadata(format!("/proc/{pid}")).is_err());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(
        !mounts.contains(name.trim_start_matches("stuckspy-")),
        "{mounts}"
    );
}

/// A `kubectl` for a pod with one container, beside which one of ours waits already: what is run in that, runs in the container NAME.
const CLUSTER: &str = r#"#!/bin/sh
case "$*" in
    "debug --help") echo --custom ;;
    get*default-container*) echo web ;;
    get*ephemeralContainers*) printf 'spec stuckspy-default-1 web image\nruns stuckspy-default-1\n' ;;
    exec*)
        while [ "$1" != -- ]; do shift; done
        shift
        runc exec NAME "$@"
        code=$?
        [ $code -eq 0 ] || echo "command terminated with exit code $code" >&2
        exit $code
        ;;
    *) exit 1 ;;
esac
"#;

/// What the plugin makes of a pod: a container that only waits, in which commands run one after the other.
#[test]
fn a_container_that_waits_serves_many_commands() {
    if !can_run("commands in a container that waits") {
        return;
    }
    let Some(interpreter) = interpreter(11) else {
        return;
    };
    let container = start(interpreter, "waits/pipe_alone");
    let waiting = debugger(&container).keep(&["/stuckspy", "stay", "10m"]);
    let exec = |arguments: &[&str]| answer(waiting.exec(&[&["/stuckspy"], arguments].concat()));
    wait_until("the hang is found", || {
        let arguments = ["diagnose", "--quiet", "--pid", "1"];
        let found = exec(&[&arguments[..], &THRESHOLD].concat()).expect_one_of(&[0, 1]);
        found.code == Some(1)
    });
    // Nobody has to name the target: it is not ours that waits.
    let dump = exec(&["dump"]).expect(0);
    assert!(dump.stdout.contains("pipe_alone.py"), "{dump:#?}");
    exec(&["dump", "--pid", "30000"]).expect(3);
    let record = ["record", "-d", "300ms", "--idle", "-f", "folded", "-o", "-"];
    let record = exec(&record).expect(0);
    assert!(record.stdout.starts_with("<module> ("), "{record:#?}");

    // And with the plugin itself between: only the cluster is made up.
    let folder = tempfile::tempdir().unwrap();
    let kubectl = folder.path().join("kubectl");
    let text = CLUSTER.replace("NAME", &waiting.name());
    fs::write(&kubectl, text).unwrap();
    fs::set_permissions(&kubectl, fs::Permissions::from_mode(0o755)).unwrap();
    let plugin = |arguments: &[&str]| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kubectl-stuckspy");
        let mut plugin = std::process::Command::new(script);
        plugin
            .env("KUBECTL", &kubectl)
            .env("STUCKSPY_IMAGE", "image");
        let output = plugin.args(arguments).current_dir(folder.path()).output();
        answer(output.expect("it can be started"))
    };
    plugin(&["diagnose", "web-0", "--quiet", "--threshold", "300ms"]).expect(1);
    let record = [
        "record",
        "web-0",
        "-o",
        "flame.folded",
        "-d",
        "300ms",
        "--idle",
    ];
    assert_eq!(plugin(&record).expect(0).stdout, "");
    let folded = fs::read_to_string(folder.path().join("flame.folded")).unwrap();
    assert!(folded.starts_with("<module> ("), "{folded}");
    assert_eq!(waiting.end(), Some(0));
    assert_at_large(container.pid());
}

#[test]
fn it_needs_nothing_of_the_root_that_it_runs_in() {
    if !can_run("stuckspy in an empty root") {
        return;
    }
    let alone = Plan::new()
        .with_file(static_binary(), "stuckspy")
        .with_own(&["pid"]);
    let version = ask_from(&alone, &["--version"]).expect(0);
    assert!(version.stdout.starts_with("stuckspy "), "{version:#?}");
    ask_from(&alone, &["explain", "deadlock"]).expect(0);
    ask_from(&alone, &["doctor"]).expect(0);
    // As the first process of its namespace it sees nobody else.
    ask_from(&alone, &["dump"]).expect(2);
    ask_from(&alone, &["stay", "1ms"]).expect(0);
}

/// A finding without what is different each time: numbers, and who has which.
fn essence(document: &Value, inner_pid: impl Fn(&Value) -> Value) -> Vec<Value> {
    // From inside it can't be proven that nobody outside has something too; and whether TCP's clock has moved between what came last
    // and the question is by chance.
    let text = |value: &Value| {
        without_numbers(value.as_str().unwrap_or_default())
            .replace(", likely from", ", from")
            .replace(
                "nothing sent or received for s",
                "nothing received since it last sent",
            )
    };
    let confidence = |finding: &Value| match finding["confidence"] == "proven" {
        true => json!("likely"),
        false => finding["confidence"].clone(),
    };
    let findings = document["findings"].as_array().expect("a list");
    let mut all: Vec<Value> = findings
        .iter()
        .map(|finding| {
            let chain = finding["chain"].as_array().into_iter().flatten();
            let chain: Vec<_> = chain.map(|link| link["waits"].clone()).collect();
            json!({
                "verdict": finding["verdict"],
                "confidence": confidence(finding),
                "summary": text(&finding["summary"]),
                "pid": inner_pid(&finding["root"]["pid"]),
                "chain": chain,
                "blocks": finding["blocks"].as_array().map(Vec::len),
                "context": without_numbers(&finding["context"].to_string()),
                "advice": finding["advice"],
            })
        })
        .collect();
    all.sort_by_key(Value::to_string);
    all
}

/// Asks for a diagnosis inside and outside until both find the same, and something.
fn expect_the_same(program: &str, container: &Container, debugger: &Plan) {
    let host_pid = container.pid().to_string();
    let ask = |pid: &str| -> Value {
        let arguments = [&["diagnose", "--json", "--pid", pid], &THRESHOLD[..]].concat();
        if pid == "1" {
            ask_from(debugger, &arguments)
        } else {
            live::ask(&arguments)
        }
        .expect_one_of(&[0, 1])
        .json()
    };
    // Some have more than one finding, which do not come at once.
    let (mut inside, mut outside) = (Vec::new(), Vec::new());
    let started = Instant::now();
    while inside.is_empty() || inside != outside {
        let (from_inside, from_outside) = (ask("1"), ask(&host_pid));
        inside = essence(&from_inside, Value::clone);
        outside = essence(&from_outside, |pid| {
            let processes = from_outside["processes"].as_array().into_iter().flatten();
            let mut own = processes.filter(|process| process["pid"] == *pid);
            own.next()
                .map_or(Value::Null, |process| process["ns_pid"].clone())
        });
        assert!(
            started.elapsed() < DEADLINE,
            "{program}: inside {inside:#?}, outside {outside:#?}"
        );
    }
    assert_at_large(container.pid());
}

/// Many images run their program as a user of its own: its `syscall` and `fd` are for that user only, or for who may read any file.
#[test]
fn root_with_two_capabilities_reads_another_user() {
    if !can_run("a program of another user in a container") {
        return;
    }
    let Some(interpreter) = interpreter(11) else {
        return;
    };
    for program in ["stuck_scheduler", "waits/pipe_alone", "locks/deadlock"] {
        let path = format!("/app/programs/{program}.py");
        let plan = image(interpreter).with_user(1000).with_capabilities(&[]);
        let (container, _) = plan.start(&[python(interpreter), &path]);
        // The plugin's, and what is left of the runtime's default ones.
        for reading in ["CAP_DAC_READ_SEARCH", "CAP_DAC_OVERRIDE"] {
            let rights = ["CAP_SYS_PTRACE", reading];
            let debugger = beside(&container).with_capabilities(&rights);
            expect_the_same(program, &container, &debugger);
        }
        // Without either it is not known what they wait for, which is said, and is no good news.
        let blind = beside(&container).with_capabilities(&["CAP_SYS_PTRACE"]);
        let answer = ask_from(&blind, &["diagnose", "--pid", "1", "--threshold", "300ms"]);
        let answer = answer.expect(4);
        assert!(answer.stdout.contains("is off-CPU for"), "{answer:#?}");
        assert!(answer.stderr.contains("CAP_DAC_OVERRIDE"), "{answer:#?}");
        // Without any right it is still clear who is meant.
        let nobody = beside(&container).with_capabilities(&[]);
        ask_from(&nobody, &["diagnose"]).expect(4);
    }
}

/// A pod with a `runAsUser` gives that user to the container beside it, too.
#[test]
fn the_same_user_needs_no_capability() {
    let yama = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope");
    if yama.is_ok_and(|scope| scope.trim() != "0") {
        report_skipped("the same user without a capability", "Yama forbids it");
        return;
    }
    if !can_run("the same user without a capability") {
        return;
    }
    let Some(interpreter) = interpreter(11) else {
        return;
    };
    let plan = image(interpreter).with_user(1000).with_capabilities(&[]);
    let program = [python(interpreter), "/app/programs/stuck_scheduler.py"];
    let (container, _) = plan.start(&program);
    let debugger = beside(&container).with_user(1000);
    expect_the_same("stuck_scheduler", &container, &debugger);
}

#[test]
fn the_same_is_found_inside_and_outside() {
    if !can_run("findings inside and outside of a container") {
        return;
    }
    let Some(interpreter) = interpreter(11) else {
        return;
    };
    let programs = [
        "stuck_scheduler",
        "waits/pipe_alone",
        "waits/recv_alone",
        "waits/recv_tcp",
        "waits/recv_udp",
        "waits/connect_tcp",
        "waits/poll_endless",
        "waits/epoll_single",
        "waits/fifo_open",
        "waits/fifo_open_write",
        "locks/deadlock",
        "locks/forked",
    ];
    for program in programs {
        let container = start(interpreter, program);
        expect_the_same(program, &container, &debugger(&container));
    }
}
