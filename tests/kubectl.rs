//! `kubectl stuckspy` against a `kubectl` that records its arguments and plays back what a cluster would say.

mod support;

#[path = "support/kubectl.rs"]
mod kubectl;
#[path = "support/live.rs"]
mod live;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;

use kubectl::{Cluster, behind, program_of};
use live::{DEADLINE, Target, any_interpreter, find_tool};
use serde_json::{Value, json};
use support::{program, report_skipped};

#[test]
fn a_diagnosis_with_its_exit_code() {
    let cluster = Cluster::new();
    let last = "command terminated with exit code 1\n";
    cluster.answers(
        1,
        "deadlock (likely): …\n",
        &format!("hint: look there\n{last}"),
    );
    let arguments = [
        "diagnose",
        "pod/web-0",
        "-n",
        "shop",
        "--context=east",
        "--threshold",
        "5s",
    ];
    let answer = cluster.run(&arguments).expect(1);
    assert_eq!(answer.stdout, "deadlock (likely): …\n");
    assert_eq!(answer.stderr, "hint: look there\n");

    let debug = &cluster.calls("debug")[0];
    for (option, value) in [
        ("--namespace", "shop"),
        ("--context", "east"),
        ("--image", "example.org/stuckspy:1"),
        ("--target", "web"),
        ("--profile", "general"),
    ] {
        assert_eq!(behind(debug, option), value, "{debug:?}");
    }
    assert!(debug.contains(&"web-0".to_owned()), "{debug:?}");
    assert_eq!(program_of(debug), ["/stuckspy", "stay", "15m"]);
    // Root, for a capability reaches nobody else, and those that read.
    let custom: Value = serde_json::from_slice(&fs::read(cluster.path("custom")).unwrap()).unwrap();
    let context = &custom["securityContext"];
    assert_eq!(context["runAsUser"], 0);
    assert_eq!(
        context["capabilities"],
        json!({"drop": ["ALL"], "add": ["SYS_PTRACE", "DAC_OVERRIDE"]})
    );

    let exec = &cluster.calls("exec")[0];
    assert_eq!(behind(exec, "-c"), behind(debug, "--container"));
    assert_eq!(behind(exec, "--namespace"), "shop");
    assert_eq!(
        program_of(exec),
        ["/stuckspy", "diagnose", "--threshold", "5s"]
    );
    assert!(
        !exec.iter().any(|word| word == "-t" || word == "-i"),
        "{exec:?}"
    );
}

#[test]
fn exit_codes_are_those_of_stuckspy_or_say_that_kubectl_failed() {
    for code in [0, 1, 2, 3, 4, 5, 70, 137] {
        let cluster = Cluster::new();
        let line = format!("command terminated with exit code {code}\n");
        cluster.answers(code, "", if code == 0 { "" } else { &line });
        let answer = cluster.run(&["dump", "web-0"]).expect(code);
        assert_eq!(
            answer.stderr.contains("has ended"),
            code == 137,
            "{answer:#?}"
        );
    }
    let cluster = Cluster::new();
    cluster.answers(1, "", "error: unable to upgrade connection: Forbidden\n");
    let answer = cluster.run(&["diagnose", "web-0"]).expect(69);
    assert!(answer.stderr.contains("Forbidden"), "{answer:#?}");

    let cluster = Cluster::new();
    cluster.play("debug.code", "1").play(
        "debug.err",
        "Error from server (Forbidden): violates PodSecurity\n",
    );
    let answer = cluster.run(&["diagnose", "web-0"]).expect(69);
    assert!(answer.stderr.contains("PodSecurity"), "{answer:#?}");
    assert_eq!(cluster.calls("exec").len(), 0);
}

#[test]
fn a_recording_comes_out_as_a_file_without_a_terminal() {
    let cluster = Cluster::new();
    let mut command = Command::new(&any_interpreter().path);
    command.arg(program::folder().join("waits/recv_tcp.py"));
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    let (mut target, _) = Target::start_and_listen(&mut command);
    cluster.play("real", "");
    let pid = target.pid().to_string();
    let record = [
        "record",
        "web-0",
        "-o",
        "flame.svg",
        "-d",
        "300ms",
        "--idle",
        "-p",
        &pid,
    ];
    let answer = cluster.run(&record).expect(0);
    assert_eq!(answer.stdout, "");
    let svg = fs::read_to_string(cluster.path("flame.svg")).unwrap();
    let options = roxmltree::ParsingOptions {
        allow_dtd: true,
        ..roxmltree::ParsingOptions::default()
    };
    roxmltree::Document::parse_with_options(&svg, options).expect("a whole picture");
    assert!(svg.contains("recv_tcp.py"));
    let exec = &cluster.calls("exec")[0];
    assert_eq!(behind(exec, "-o"), "-");
    assert!(
        !exec.iter().any(|word| word == "-t" || word == "-i"),
        "{exec:?}"
    );
    target.assert_unharmed();
}

#[test]
fn a_recording_that_fails_leaves_the_old_file() {
    let cluster = Cluster::new();
    cluster.play("flame.folded", "old");
    cluster.answers(
        4,
        "half of",
        "stuckspy: not permitted\ncommand terminated with exit code 4\n",
    );
    let answer = cluster
        .run(&["record", "web-0", "-o", "flame.folded"])
        .expect(4);
    assert!(answer.stderr.contains("not permitted"), "{answer:#?}");
    assert_eq!(
        fs::read_to_string(cluster.path("flame.folded")).unwrap(),
        "old"
    );
    assert!(!cluster.path("flame.folded.part").exists());
    // It ends by itself, and writes what the name asks for.
    let exec = &cluster.calls("exec")[0];
    assert_eq!((behind(exec, "-d"), behind(exec, "-f")), ("30", "folded"));
    cluster
        .run(&["record", "web-0", "-o", "what.json"])
        .expect(2);
}

/// A line of the list of ephemeral containers.
fn spec(name: &str, target: &str, tag: u8) -> String {
    format!("spec {name} {target} example.org/stuckspy:{tag}\n")
}

#[test]
fn a_container_that_still_waits_is_used_again() {
    let others = [
        spec("stuckspy-default-1", "db", 1),
        spec("stuckspy-default-2", "web", 1),
        spec("stuckspy-default-3", "web", 0),
        // Those with other rights, and those that somebody else made.
        spec("stuckspy-asked-4", "web", 1),
        spec("stuckspy-general-5", "web", 1),
        spec("stuckspy-6", "web", 1),
    ]
    .concat();
    let run = ["default-1", "default-3", "asked-4", "general-5", "6"];
    let states: String = run.map(|name| format!("runs stuckspy-{name}\n")).concat();
    let states = states + "ended stuckspy-default-2\n";

    let ours = spec("stuckspy-default-7", "web", 1);
    // One that is still to start goes behind one that runs.
    let late = spec("stuckspy-default-8", "web", 1);
    let runs = "runs stuckspy-default-7\n";
    let cluster = Cluster::new();
    let list = [others.as_str(), &ours, &late, &states, runs];
    cluster.play("get.2.out", &list.concat());
    cluster.run(&["doctor", "web-0"]).expect(0);
    assert_eq!(cluster.calls("debug").len(), 0);
    let exec = &cluster.calls("exec")[0];
    assert_eq!(behind(exec, "-c"), "stuckspy-default-7");
    assert_eq!(program_of(exec), ["/stuckspy", "doctor", "--pid", "1"]);

    let cluster = Cluster::new();
    cluster.play("get.2.out", &[others.as_str(), &states].concat());
    cluster.run(&["doctor", "web-0"]).expect(0);
    assert_eq!(cluster.calls("debug").len(), 1);
}

/// An image that is slow to come: whoever asks again waits for the same container.
#[test]
fn a_container_that_is_still_to_start_is_waited_for_again() {
    let cluster = Cluster::new();
    cluster.play("get.2.out", &spec("stuckspy-default-1", "web", 1));
    cluster.play("get.3.out", "|  |ContainerCreating|");
    cluster.play("get.4.out", "2026-01-01T00:00:00Z|  ||");
    cluster.run(&["dump", "web-0"]).expect(0);
    assert_eq!(cluster.calls("debug").len(), 0);
    assert_eq!(
        behind(&cluster.calls("exec")[0], "-c"),
        "stuckspy-default-1"
    );
}

#[test]
fn names_are_unique_and_labels_of_dns() {
    let names = [(), ()].map(|()| {
        let cluster = Cluster::new();
        cluster.play("get.2.out", "2026-01-01T00:00:00Z|  ||");
        cluster.run(&["dump", "web-0", "--new"]).expect(0);
        behind(&cluster.calls("debug")[0], "--container").to_owned()
    });
    assert_ne!(names[0], names[1]);
    for name in &names {
        let is_plain =
            |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
        assert!(name.len() < 64 && name.chars().all(is_plain), "{name}");
    }
}

#[test]
fn it_waits_for_the_container_and_tells_why_it_does_not_come() {
    let cluster = Cluster::new();
    cluster.play("get.3.out", "|  |ContainerCreating|");
    cluster.play("get.4.out", "2026-01-01T00:00:00Z|  ||");
    cluster.run(&["dump", "web-0"]).expect(0);
    assert_eq!(cluster.calls("get").len(), 4);

    for (state, said) in [
        (
            "|  |ImagePullBackOff|Back-off pulling image",
            "Back-off pulling image",
        ),
        ("|128 StartError no such file||", "StartError"),
        // Nothing is said of it at all, for as long as it is waited for.
        ("", "does not start"),
    ] {
        let cluster = Cluster::new();
        for number in 3..7 {
            cluster.play(&format!("get.{number}.out"), state);
        }
        let answer = cluster.run(&["dump", "web-0"]).expect(69);
        assert!(answer.stderr.contains(said), "{answer:#?}");
        assert_eq!(cluster.calls("exec").len(), 0);
    }
}

#[test]
fn which_container_is_meant() {
    let cluster = Cluster::new();
    cluster
        .play("get.1.out", "")
        .play("get.2.out", "web sidecar");
    let answer = cluster.run(&["dump", "web-0"]).expect(2);
    assert!(answer.stderr.contains("web sidecar"), "{answer:#?}");

    let cluster = Cluster::new();
    cluster
        .play("get.1.out", "")
        .play("get.2.out", "2026-01-01T00:00:00Z|  ||");
    cluster.run(&["dump", "web-0", "-c", "scheduler"]).expect(0);
    assert_eq!(behind(&cluster.calls("debug")[0], "--target"), "scheduler");
}

#[test]
fn profiles_are_handed_on() {
    // A kubectl that has no custom profiles.
    let cluster = Cluster::new();
    cluster.play("help.out", "--profile='legacy'\n");
    cluster.run(&["dump", "web-0"]).expect(0);
    let debug = &cluster.calls("debug")[0];
    assert_eq!(behind(debug, "--profile"), "general");
    assert!(behind(debug, "--container").starts_with("stuckspy-general-"));
    assert!(!debug.contains(&"--custom".to_owned()), "{debug:?}");

    let cluster = Cluster::new();
    cluster.play("get.2.out", "2026-01-01T00:00:00Z|  ||");
    cluster
        .run(&["dump", "web-0", "--profile", "sysadmin"])
        .expect(0);
    let debug = &cluster.calls("debug")[0];
    assert_eq!(behind(debug, "--profile"), "sysadmin");
    assert!(behind(debug, "--container").starts_with("stuckspy-asked-"));
    assert!(!debug.contains(&"--custom".to_owned()), "{debug:?}");
}

/// What is said is said at once, without the line that is kubectl's own.
#[test]
fn what_it_says_comes_as_it_is_said() {
    let cluster = Cluster::new();
    let hold = cluster.path("hold");
    let made = Command::new("mkfifo").arg(&hold).status();
    assert!(made.expect("it can be started").success());
    let last = "command terminated with exit code 5\n";
    cluster.answers(5, "", &format!("late\n{last}"));
    cluster.play("early", "");
    let mut plugin = cluster.command(&["dump", "web-0"]);
    let mut plugin = plugin
        .stderr(Stdio::piped())
        .spawn()
        .expect("it can be started");
    let mut stderr = BufReader::new(plugin.stderr.take().expect("it is piped"));
    let (sender, receiver) = mpsc::channel();
    let reader = thread::spawn(move || {
        let mut line = String::new();
        stderr.read_line(&mut line).expect("it says text");
        let _ = sender.send(line);
        let mut rest = String::new();
        stderr.read_to_string(&mut rest).expect("it says text");
        rest
    });
    let early = receiver.recv_timeout(DEADLINE);
    // What reads it ends when this is closed; where nothing was said, there may be nobody who reads it.
    let mut release = fs::OpenOptions::new();
    if early.as_deref() != Ok("early\n") {
        release.custom_flags(libc::O_NONBLOCK);
    }
    drop(release.write(true).open(&hold));
    let rest = reader.join().expect("it does not panic");
    assert_eq!(plugin.wait().expect("it is our child").code(), Some(5));
    assert_eq!(early.as_deref(), Ok("early\n"));
    assert_eq!(rest, "late\n");
}

/// `top` in a terminal: its exit code, and who has failed, are told as without one.
#[test]
fn top_gets_a_terminal_and_keeps_its_exit_code() {
    if find_tool("script").is_none() {
        report_skipped("top in a terminal", "no script(1)");
        return;
    }
    for (stderr, code) in [
        ("command terminated with exit code 4\n", 4),
        ("error: unable to upgrade connection\n", 69),
    ] {
        let cluster = Cluster::new();
        cluster.answers(if code == 4 { 4 } else { 1 }, "", stderr);
        let plugin = cluster.command(&["top", "web-0"]);
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command"]);
        script.arg(format!("{} top web-0", plugin.get_program().display()));
        script.arg("/dev/null").stdin(Stdio::null());
        for (name, value) in plugin.get_envs() {
            script.env(name, value.expect("it is set"));
        }
        let output = script.output().expect("it can be started");
        assert_eq!(output.status.code(), Some(code), "{output:#?}");
        let exec = &cluster.calls("exec")[0];
        assert!(exec.iter().any(|word| word == "-t"), "{exec:?}");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(!said.contains("terminated with"), "{said}");
        assert_eq!(said.contains("unable to upgrade"), code == 69, "{said}");
    }
}
