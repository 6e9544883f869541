//! How the words behind `kubectl stuckspy` are taken: which are kubectl's, which stuckspy's, and what is refused before a container is added.

mod support;

#[path = "support/kubectl.rs"]
mod kubectl;
#[path = "support/live.rs"]
mod live;

use std::fs;
use std::os::unix::fs::symlink;

use kubectl::{Cluster, behind, program_of};

#[test]
fn what_makes_no_sense_is_told_before_anything_is_done() {
    for arguments in [
        &["dump"][..],
        &["explain", "web-0"],
        &["dump", "deploy/web"],
        &["dump", "web-0", "-o", "file"],
        &["diagnose", "web-0", "--", "python3"],
        &["dump", "web-0", "-c"],
        &["dump", "web-0", "web-1"],
        // Options that stuckspy does not have, or not with this command.
        &["dump", "web-0", "--jsn"],
        &["dump", "web-0", "-it"],
        &["dump", "web-0", "-sx"],
        &["dump", "web-0", "--json=yes"],
        &["dump", "web-0", "--json --pid"],
        &["dump", "web-0", "--threshold", "5s"],
        &["doctor", "web-0", "--json"],
        &["record", "web-0", "--as"],
        // What nothing would end.
        &["record", "web-0", "-d", "unlimited"],
        &["top", "web-0"],
        &[],
    ] {
        let cluster = Cluster::new();
        cluster.run(arguments).expect(2);
        assert!(!cluster.path("calls").exists(), "{arguments:?}");
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

/// The commands that are run, as stuckspy gets them.
fn run(arguments: &[&str]) -> Vec<String> {
    let cluster = Cluster::new();
    cluster.run(arguments).expect(0);
    let exec = &cluster.calls("exec")[0];
    program_of(exec).into_iter().map(str::to_owned).collect()
}

#[test]
fn options_are_spelled_as_kubectl_and_stuckspy_take_them() {
    for arguments in [
        &["dump", "web-0", "-n", "shop", "-c", "web", "-s", "-p", "7"][..],
        &["dump", "web-0", "-nshop", "-cweb", "-sp7"],
        &["-n=shop", "dump", "-c=web", "po/web-0", "-sp=7"],
        &["dump", "pod", "web-0", "--namespace=shop", "-scweb", "-p7"],
        &[
            "dump",
            "pods/web-0",
            "-snshop",
            "--container=web",
            "-p",
            "7",
        ],
    ] {
        let cluster = Cluster::new();
        // With the container named, nobody asks for the default one.
        cluster.play("get.1.out", "");
        cluster.play("get.2.out", "2026-01-01T00:00:00Z|  ||");
        cluster.run(arguments).expect(0);
        let debug = &cluster.calls("debug")[0];
        assert_eq!(behind(debug, "--namespace"), "shop", "{arguments:?}");
        assert_eq!(behind(debug, "--target"), "web", "{arguments:?}");
        assert!(debug.contains(&"web-0".to_owned()), "{debug:?}");
        let program = ["/stuckspy", "dump", "-s", "-p", "7"];
        assert_eq!(program_of(&cluster.calls("exec")[0]), program);
    }
    assert_eq!(
        run(&["dump", "--after", "5s", "web-0"]),
        ["/stuckspy", "dump", "--after", "5s"]
    );
    assert_eq!(
        run(&["top", "-d2", "--count=1", "web-0", "-ig"]),
        ["/stuckspy", "top", "-d", "2", "--count", "1", "-i", "-g"]
    );
}

#[test]
fn options_of_kubectl_go_to_all_of_its_calls() {
    let given = [
        "--as=deploy bot",
        "--as-group=one",
        "--as-group=two",
        "--cluster=east",
        "--user=me",
        "--token=a*b'c\"d",
        "--server=https://[::1]:6443",
        "--request-timeout=5s",
        "--insecure-skip-tls-verify",
        "--kubeconfig=a file",
        "--warnings-as-errors=false",
    ];
    let attached = [&["dump", "web-0"], &given[..]].concat();
    // `--name value` is `--name=value`.
    let apart: Vec<&str> = attached
        .iter()
        .flat_map(|word| match word.split_once('=') {
            Some((name, value)) if !value.starts_with("fa") => vec![name, value],
            _ => vec![*word],
        })
        .collect();
    for arguments in [attached.as_slice(), &apart] {
        let cluster = Cluster::new();
        cluster.run(arguments).expect(0);
        for verb in ["get", "debug", "exec"] {
            for call in cluster.calls(verb) {
                assert_eq!(call[1..=given.len()], given, "{call:?}");
            }
        }
        let exec = &cluster.calls("exec")[0];
        assert_eq!(program_of(exec), ["/stuckspy", "dump"]);
    }
}

/// The plugin's lists are those of the commands: each option of theirs gets through, with its value.
#[test]
fn every_option_of_stuckspy_gets_through() {
    for command in ["diagnose", "dump", "top", "record", "doctor"] {
        let help = live::ask(&[command, "--help"]).expect(0);
        let lines = help.stdout.lines().map(str::trim_start);
        let mut given: Vec<Vec<&str>> = Vec::new();
        for line in lines.filter(|line| line.starts_with('-') && !line.starts_with("- ")) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let names = words.iter().take_while(|word| word.starts_with('-'));
            // Dots stand behind what may be given more than once.
            let names: Vec<&str> = names
                .map(|name| name.trim_end_matches([',', '.']))
                .collect();
            let value = words.get(names.len()).filter(|word| word.starts_with('<'));
            // The plugin's own help, and the file that stays here.
            let not_own = |name: &&str| !["-h", "--help", "-o", "--output"].contains(name);
            for name in names.into_iter().filter(not_own) {
                given.push([name].into_iter().chain(value.map(|_| "7")).collect());
            }
        }
        assert!(given.len() >= 4, "{command}: {help:#?}");
        let program = run(&[&[command, "web-0"], &given.concat()[..]].concat());
        for words in given {
            let mut windows = program.windows(words.len());
            assert!(windows.any(|part| part == words), "{words:?}: {program:?}");
        }
    }
}

#[test]
fn names_of_files_are_nothing_but_names() {
    for name in [
        "it's $(touch owned) `touch owned`; touch owned.folded",
        "-flame.folded",
        "--help.folded",
        "a\nb'; touch owned; '.folded",
    ] {
        let cluster = Cluster::new();
        cluster.answers(0, "<module> (it) 1\n", "");
        cluster.run(&["record", "web-0", "-o", name]).expect(0);
        let written = fs::read_to_string(cluster.path(name)).expect("it is there");
        assert_eq!(written, "<module> (it) 1\n");
        assert!(!cluster.path("owned").exists());
        assert!(!cluster.path(&format!("{name}.part")).exists());
    }
}

#[test]
fn a_file_that_can_not_be_written_is_told_before_anything_is_done() {
    let cluster = Cluster::new();
    fs::create_dir(cluster.path("folder")).expect("it is made");
    for name in ["folder", "folder/", "no/such/flame.svg", "/proc/flame.svg"] {
        cluster.run(&["record", "web-0", "-o", name]).expect(2);
        assert!(!cluster.path("calls").exists(), "{name}");
    }
    assert!(cluster.path("folder").is_dir());
}

#[test]
fn what_is_no_usual_file_is_written_to_and_not_replaced() {
    let cluster = Cluster::new();
    symlink("/dev/null", cluster.path("nowhere")).expect("it is made");
    cluster.answers(0, "<module> (it) 1\n", "");
    cluster.run(&["record", "web-0", "-o", "nowhere"]).expect(0);
    let link = fs::symlink_metadata(cluster.path("nowhere")).expect("it is there");
    assert!(link.is_symlink());

    let cluster = Cluster::new();
    cluster.answers(0, "<module> (it) 1\n", "");
    let answer = cluster.run(&["record", "web-0", "-o", "/dev/stdout"]);
    assert_eq!(answer.expect(0).stdout, "<module> (it) 1\n");
}
