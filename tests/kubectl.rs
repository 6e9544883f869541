//! `kubectl stuckspy` against a `kubectl` that records its arguments and plays back what a cluster would say.

mod support;

#[path = "support/live.rs"]
mod live;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use live::{Answer, Target, any_interpreter};
use serde_json::{Value, json};
use support::program;
use tempfile::TempDir;

/// Writes its arguments to `calls`, one call a line with `|` between them; then, for the Nth call of a verb, prints `VERB.N.out` and
/// `VERB.N.err`, and ends with `VERB.N.code`; without these, the same without the number. With `real` in place of that, `exec` runs
/// stuckspy itself and says its exit code as kubectl does.
const STUB: &str = r#"#!/bin/sh
verb=$1
[ "$2" = --help ] && verb=help
{ printf '%s' "$1"; shift; for word; do printf '|%s' "$word"; done; echo; } >>"$PLAY/calls"
number=$(grep -c "^$verb|" "$PLAY/calls")
for word; do [ -f "$word" ] && cp "$word" "$PLAY/custom"; done
if [ "$verb" = exec ] && [ -e "$PLAY/real" ]; then
    while [ "$1" != /stuckspy ]; do shift; done
    shift
    "$STUCKSPY" "$@"
    code=$?
    [ $code -eq 0 ] || echo "command terminated with exit code $code" >&2
    exit $code
fi
file=$PLAY/$verb.$number
[ -e "$file.out" ] || [ -e "$file.err" ] || [ -e "$file.code" ] || file=$PLAY/$verb
cat "$file.out" 2>/dev/null
cat "$file.err" >&2 2>/dev/null
exit "$(cat "$file.code" 2>/dev/null || echo 0)"
"#;

/// A pod with one container, without an ephemeral one, whose next one runs at once.
struct Cluster {
    folder: TempDir,
}

impl Cluster {
    fn new() -> Cluster {
        let cluster = Cluster {
            folder: tempfile::tempdir().expect("a folder"),
        };
        cluster.play("stub", STUB);
        let stub = cluster.path("stub");
        fs::set_permissions(stub, fs::Permissions::from_mode(0o755)).expect("it is ours");
        cluster.play("help.out", "--custom='': Path to a JSON or YAML file\n");
        // Its default container, its ephemeral ones, and the state of the new one.
        cluster.play("get.1.out", "web");
        cluster.play("get.2.out", "");
        cluster.play("get.3.out", "2026-01-01T00:00:00Z|  ||");
        cluster
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn play(&self, name: &str, text: &str) -> &Self {
        fs::write(self.path(name), text).expect("it is written");
        self
    }

    /// What `kubectl exec` says and ends with.
    fn answers(&self, code: i32, stdout: &str, stderr: &str) -> &Self {
        self.play("exec.out", stdout)
            .play("exec.err", stderr)
            .play("exec.code", &code.to_string())
    }

    fn run(&self, arguments: &[&str]) -> Answer {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kubectl-stuckspy");
        let output = Command::new(script)
            .args(arguments)
            .env("KUBECTL", self.path("stub"))
            .env("PLAY", self.folder.path())
            .env("STUCKSPY", env!("CARGO_BIN_EXE_stuckspy"))
            .env("STUCKSPY_IMAGE", "example.org/stuckspy:1")
            .env("STUCKSPY_TRIES", "2")
            .current_dir(self.folder.path())
            .output()
            .expect("it can be started");
        Answer {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("text"),
            stderr: String::from_utf8(output.stderr).expect("text"),
            took: Duration::ZERO,
        }
    }

    /// The calls with this verb.
    fn calls(&self, verb: &str) -> Vec<Vec<String>> {
        let text = fs::read_to_string(self.path("calls")).unwrap_or_default();
        let calls = text
            .lines()
            .map(|line| line.split('|').map(str::to_owned).collect::<Vec<_>>());
        calls
            .filter(|call| call[0] == verb && call.get(1).is_none_or(|word| word != "--help"))
            .collect()
    }
}

/// The word behind another one.
fn behind<'a>(call: &'a [String], option: &str) -> &'a str {
    let at = call.iter().position(|word| word == option);
    at.and_then(|at| call.get(at + 1))
        .map_or_else(|| panic!("no {option} in {call:?}"), String::as_str)
}

/// What stands behind `--`.
fn program_of(call: &[String]) -> Vec<&str> {
    let words = call.iter().map(String::as_str);
    words.skip_while(|word| *word != "--").skip(1).collect()
}

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
    // Root, for a capability reaches nobody else, and that one capability.
    let custom: Value = serde_json::from_slice(&fs::read(cluster.path("custom")).unwrap()).unwrap();
    let context = &custom["securityContext"];
    assert_eq!(context["runAsUser"], 0);
    assert_eq!(
        context["capabilities"],
        json!({"drop": ["ALL"], "add": ["SYS_PTRACE"]})
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
        cluster.run(&["dump", "web-0"]).expect(code);
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

#[test]
fn a_container_that_still_waits_is_used_again() {
    let other = "spec stuckspy-other db example.org/stuckspy:1\n";
    let ended = "spec stuckspy-ended web example.org/stuckspy:1\n";
    let old = "spec stuckspy-old web example.org/stuckspy:0\n";
    let ours = "spec stuckspy-ours web example.org/stuckspy:1\n";
    let runs = "runs stuckspy-other\nruns stuckspy-old\nruns stuckspy-ours\n";
    let cluster = Cluster::new();
    cluster.play("get.2.out", &[other, ended, old, ours, runs].concat());
    cluster.run(&["doctor", "web-0"]).expect(0);
    assert_eq!(cluster.calls("debug").len(), 0);
    let exec = &cluster.calls("exec")[0];
    assert_eq!(behind(exec, "-c"), "stuckspy-ours");
    assert_eq!(program_of(exec), ["/stuckspy", "doctor", "--pid", "1"]);

    let cluster = Cluster::new();
    cluster.play(
        "get.2.out",
        &[
            other,
            ended,
            old,
            "runs stuckspy-other\nruns stuckspy-old\n",
        ]
        .concat(),
    );
    cluster.run(&["doctor", "web-0"]).expect(0);
    assert_eq!(cluster.calls("debug").len(), 1);
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
    assert!(!debug.contains(&"--custom".to_owned()), "{debug:?}");

    let cluster = Cluster::new();
    cluster.play("get.2.out", "2026-01-01T00:00:00Z|  ||");
    cluster
        .run(&["dump", "web-0", "--profile", "sysadmin"])
        .expect(0);
    let debug = &cluster.calls("debug")[0];
    assert_eq!(behind(debug, "--profile"), "sysadmin");
    assert!(!debug.contains(&"--custom".to_owned()), "{debug:?}");
}

#[test]
fn what_makes_no_sense_is_told_before_anything_is_done() {
    for arguments in [
        &["dump"][..],
        &["explain", "web-0"],
        &["dump", "deploy/web"],
        &["dump", "web-0", "-o", "file"],
        &["diagnose", "web-0", "--", "python3"],
        &["dump", "web-0", "-c"],
        &[],
    ] {
        let cluster = Cluster::new();
        cluster.run(arguments).expect(2);
        assert_eq!(
            cluster.calls("debug").len() + cluster.calls("exec").len(),
            0
        );
    }
    let cluster = Cluster::new();
    let answer = cluster.run(&["dump", "web-0", "--image="]).expect(2);
    assert!(answer.stderr.contains("which image?"), "{answer:#?}");
    let help = Cluster::new().run(&["--help"]).expect(0);
    assert!(
        help.stdout.contains("kubectl stuckspy diagnose"),
        "{help:#?}"
    );
}
