//! The house stands as it was drawn: a module uses only what lies below it, and only `sys` touches the system unsafely.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

/// From the roof down. A room may use the rooms below it, and `model` may be used from everywhere.
const FLOORS: [&str; 14] = [
    "cli", "tui", "export", "report", "profile", "diagnose", "sampler", "snapshot", "wait",
    "python", "target", "sys", "redact", "model",
];

/// Where code differs from machine to machine: the calls that only x86-64 has, and what is known of the memory of its programs.
const MACHINES: [&str; 7] = [
    "python/layout/mod.rs",
    "python/thread_ids.rs",
    "wait/child.rs",
    "wait/classify.rs",
    "wait/open.rs",
    "wait/arguments.rs",
    "wait/poll.rs",
];

/// Uses of a higher floor that were thought about.
const ALLOWED: [(&str, &str); 0] = [];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn source_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The room that a file belongs to; `None` for the crate's own roots.
fn room_of(path: &Path) -> Option<String> {
    let relative = path.strip_prefix(source_root()).unwrap();
    let mut parts = relative.components();
    let first = parts.next()?.as_os_str().to_str()?.to_owned();
    parts.next().map(|_| first)
}

/// The file without its tests: they may look from above.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text)
}

/// The rooms that a text names as `crate::room`, also in grouped imports.
fn rooms_used(text: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let names: Vec<&str> = match rest.strip_prefix('{') {
            Some(group) => group
                .split('}')
                .next()
                .unwrap_or_default()
                .split(',')
                .collect(),
            None => vec![rest],
        };
        for name in names {
            let name = name.trim();
            let end = name
                .find(|letter: char| !letter.is_alphanumeric() && letter != '_')
                .unwrap_or(name.len());
            rooms.push(name[..end].to_owned());
        }
    }
    rooms
}

#[test]
fn every_room_uses_only_what_lies_below_it() {
    let floor = |room: &str| FLOORS.iter().position(|known| *known == room);
    let mut wrong = Vec::new();
    for path in sources(&source_root()) {
        let Some(room) = room_of(&path) else {
            continue;
        };
        let text = fs::read_to_string(&path).unwrap();
        let own = floor(&room).unwrap_or_else(|| panic!("{} is in no known room", path.display()));
        for used in rooms_used(without_tests(&text)) {
            // Names in the crate's root, such as re-exports, are no rooms.
            let Some(other) = floor(&used) else {
                continue;
            };
            let is_upwards = other < own;
            if is_upwards && !ALLOWED.contains(&(room.as_str(), used.as_str())) {
                wrong.push(format!("{}: {room} uses {used}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_room_stands_in_the_plan() {
    for room in FLOORS {
        assert!(
            source_root().join(room).join("mod.rs").exists(),
            "no room {room}"
        );
    }
}

#[test]
fn only_sys_is_unsafe_and_says_why() {
    for path in sources(&source_root()) {
        let text = fs::read_to_string(&path).unwrap();
        let blocks = text.matches("unsafe {").count();
        if room_of(&path).as_deref() == Some("sys") {
            assert!(
                text.matches("// SAFETY:").count() >= blocks,
                "{}: unsafe without a reason",
                path.display()
            );
        } else {
            assert!(
                !text.contains("unsafe_code)]") && blocks == 0,
                "{}: unsafe outside sys",
                path.display()
            );
        }
    }
}

#[test]
fn only_what_is_named_depends_on_the_machine() {
    for path in sources(&source_root()) {
        let text = fs::read_to_string(&path).unwrap();
        let name = path.strip_prefix(source_root()).unwrap().to_str().unwrap();
        assert_eq!(
            text.contains("target_arch"),
            MACHINES.contains(&name),
            "{name}"
        );
    }
}

#[test]
fn only_the_printer_prints() {
    for path in sources(&source_root()) {
        let text = fs::read_to_string(&path).unwrap();
        for word in [
            "println!",
            "eprintln!",
            "print!(",
            "eprint!(",
            "process::exit",
        ] {
            assert!(
                !without_tests(&text).contains(word),
                "{}: {word}",
                path.display()
            );
        }
    }
}

#[test]
fn the_check_sees_an_upward_use() {
    assert_eq!(
        rooms_used("use crate::cli::exit;\nuse crate::{report, model::Pid};"),
        ["cli", "report", "model"]
    );
    assert_eq!(
        without_tests("a\n#[cfg(test)]\nmod tests {\n use crate::cli; }"),
        "a\n"
    );
}
