//! What a target makes stuckspy take of memory and of files is bounded, whatever the target does, and what was left out is said.

mod support;

#[path = "support/live.rs"]
mod live;

use std::fs;
use std::path::Path;
use std::process::Command;

use live::{Answer, Target, ask_about, hostile, peak_memory};
use serde_json::Value;
use support::interpreter::{Interpreter, interpreters};
use support::report_skipped;
use support::schema::find_schema_errors;

/// Most memory that a dump may take, and a recording.
const MOST_FOR_DUMP: u64 = 64 << 20;
const MOST_FOR_RECORD: u64 = 128 << 20;

/// The programs change what only this version has where they change it.
fn python_3_11() -> Option<&'static Interpreter> {
    let found = interpreters()
        .iter()
        .find(|one| (one.version.major, one.version.minor) == (3, 11));
    if found.is_none() {
        report_skipped("targets that take many bytes", "needs Python 3.11");
    }
    found
}

fn start(kind: &str, number: u32) -> Option<Target> {
    let mut command = Command::new(&python_3_11()?.path);
    command.args(["-S", "-E"]).arg(hostile("bytes.py"));
    command.args([kind, &number.to_string()]);
    let (target, line) = Target::start_and_listen(&mut command);
    assert_eq!(line, "ready", "{kind}");
    Some(target)
}

/// The memory that `dump` takes with each of these options stays below the limit.
#[track_caller]
fn assert_dump_is_small(target: &Target, all_options: &[&[&str]]) {
    let pid = target.pid().to_string();
    for options in all_options {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stuckspy"));
        command.args(["dump", "--pid", &pid]).args(*options);
        let peak = peak_memory(&mut command);
        assert!(peak < MOST_FOR_DUMP, "{options:?}: {} MiB", peak >> 20);
    }
}

const EVERY_DUMP: [&[&str]; 4] = [&[], &["--json"], &["--locals"], &["--locals", "--json"]];

/// Records all threads to a file that ends as given; gives the file's text.
#[track_caller]
fn record(target: &Target, ending: &str, options: &[&str]) -> String {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join(format!("profile.{ending}"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_stuckspy"));
    command.args(["record", "--pid", &target.pid().to_string()]);
    command.args(options).arg("-o").arg(&path);
    let peak = peak_memory(&mut command);
    assert!(peak < MOST_FOR_RECORD, "{ending}: {} MiB", peak >> 20);
    read(&path)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("it was written, and is text")
}

#[track_caller]
fn dumped(target: &Target, options: &[&str]) -> (Answer, Value) {
    let answer = ask_about("dump", target.pid(), &[&["--json"], options].concat()).expect(0);
    let document = answer.json();
    assert_eq!(find_schema_errors("dump", &document), Vec::<String>::new());
    (answer, document)
}

/// The stack of the main thread, and what is said of it.
fn stack_of(document: &Value) -> (Vec<&str>, &str) {
    let process = &document["processes"][0];
    let frames = process["threads"][0]["frames"].as_array().expect("a list");
    let functions = frames.iter().map(|frame| frame["function"].as_str());
    let functions: Option<Vec<&str>> = functions.collect();
    let error = process["errors"][0].as_str().unwrap_or_default();
    (functions.expect("texts"), error)
}

#[test]
fn a_cycle_of_frames_with_long_names_is_found_and_said() {
    let Some(mut target) = start("cycle", 300) else {
        return;
    };
    assert_dump_is_small(&target, &EVERY_DUMP);
    let (answer, document) = dumped(&target, &[]);
    assert!(answer.stdout.len() < 32 << 20);
    let (functions, error) = stack_of(&document);
    let last = functions.last().expect("it has frames");
    assert!(last.starts_with("<cycle of 30"), "{last}");
    assert!((300..310).contains(&functions.len()), "{}", functions.len());
    assert!(error.contains("is a cycle of 30"), "{error}");
    let text = ask_about("dump", target.pid(), &[]).expect(0).stdout;
    assert!(
        text.contains("    <cycle of 30") && text.contains(error),
        "{text:.3000}"
    );
    let folded = record(&target, "folded", &["--idle", "-d", "1"]);
    assert!(folded.len() < 4 << 20, "{}", folded.len());
    assert!(folded.contains("<cycle of 30"));
    target.assert_unharmed();
}

#[test]
fn very_many_bytes_of_names_are_left_out_and_that_is_said() {
    let Some(mut target) = start("names", 1500) else {
        return;
    };
    assert_dump_is_small(&target, &EVERY_DUMP);
    let (_, document) = dumped(&target, &[]);
    let (functions, error) = stack_of(&document);
    assert_eq!(functions.last(), Some(&"<truncated>"));
    assert!(
        (100..1500).contains(&functions.len()),
        "{}",
        functions.len()
    );
    assert!(error.contains("take more bytes"), "{error}");
    target.assert_unharmed();
}

/// No process takes from the others all that there is.
#[test]
fn processes_of_a_tree_share_what_they_may_take() {
    let Some(mut target) = start("family", 500) else {
        return;
    };
    assert_dump_is_small(
        &target,
        &[&["-s"], &["-s", "--json"], &["-s", "--locals", "--json"]],
    );
    let (_, document) = dumped(&target, &["-s"]);
    let processes = document["processes"].as_array().expect("a list");
    assert_eq!(processes.len(), 4);
    for process in processes {
        let frames = process["threads"][0]["frames"].as_array().expect("a list");
        assert!(frames.len() > 30, "{}", frames.len());
    }
    target.assert_unharmed();
}

#[test]
fn a_stack_that_is_too_deep_is_cut_and_that_is_said() {
    let Some(mut target) = start("deep", 250_000) else {
        return;
    };
    assert_dump_is_small(&target, &[&[], &["--json"]]);
    let text = ask_about("dump", target.pid(), &[]).expect(0).stdout;
    assert!(text.contains("    <truncated>"), "{text}");
    assert!(text.contains("deeper than 200000 frames"), "{text}");
    for ending in ["svg", "speedscope.json"] {
        let file = record(&target, ending, &["--idle", "-d", "1"]);
        assert!(file.len() < 16 << 20, "{ending}: {}", file.len());
        assert!(file.contains(if ending == "svg" {
            "&lt;more&gt;"
        } else {
            "<more>"
        }));
    }
    target.assert_unharmed();
}

#[test]
fn long_tables_of_lines_are_not_kept() {
    let Some(mut target) = start("tables", 60) else {
        return;
    };
    assert_dump_is_small(&target, &[&[], &["--json"]]);
    let (_, document) = dumped(&target, &[]);
    let (functions, _) = stack_of(&document);
    assert!(functions.len() > 60, "{}", functions.len());
    record(&target, "folded", &["--idle", "-d", "1"]);
    target.assert_unharmed();
}

/// For ever new functions with long names: the time stays, the memory does not grow.
#[test]
fn code_that_is_always_new_fills_neither_memory_nor_the_file() {
    let Some(mut target) = start("codes", 0) else {
        return;
    };
    for ending in ["folded", "speedscope.json"] {
        let file = record(&target, ending, &["-r", "1000", "-d", "10"]);
        assert!(file.len() < 64 << 20, "{ending}: {}", file.len());
        assert!(file.contains("<more>"), "{ending}");
        if ending == "folded" {
            let counts = file.lines().filter_map(|line| line.rsplit_once(' '));
            let samples: u64 = counts
                .filter_map(|(_, count)| count.parse::<u64>().ok())
                .sum();
            assert!((9_900..=10_100).contains(&samples), "{samples}");
        }
    }
    target.assert_unharmed();
}

#[test]
fn of_polls_of_very_many_descriptors_a_few_are_kept() {
    let Some(mut target) = start("polls", 10) else {
        return;
    };
    assert_dump_is_small(&target, &[&[], &["--json"]]);
    let (_, document) = dumped(&target, &[]);
    let threads = document["processes"][0]["threads"]
        .as_array()
        .expect("a list");
    let counts = threads.iter().filter_map(|thread| {
        let resource = &thread["wait"]["resource"];
        Some((
            resource["members"].as_array()?.len(),
            resource["member_count"].as_u64()?,
        ))
    });
    let counts: Vec<_> = counts.collect();
    assert!(counts.len() > 100, "{}", counts.len());
    assert!(
        counts
            .iter()
            .all(|(listed, all)| *listed == 64 && *all > 1000)
    );
    target.assert_unharmed();
}
