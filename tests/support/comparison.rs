//! Compares a dump with the truth, and says how they differ in a way that can be read.
//!
//! Exact in all fields of all frames of all threads, but for these rules:
//! - Text longer than `LONG` may be cut: a prefix of at least `KEPT` characters, with or without an ellipsis, is right.
//! - Text that is no valid Unicode has U+FFFD for each lone surrogate or bad byte, in the truth as in the dump.
//! - A thread that `threading` does not know has the kernel's name for it, or none.
//! - A thread that entered subinterpreters may be one stack (innermost first) or one entry for each; of several entries, one has
//!   to have its name and none another.
//! - A very deep stack may be cut, if a frame that is not a Python frame or is named `<truncated>` says so.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;

use super::dump::{DumpedFrame, DumpedProcess, DumpedThread};
use super::truth::{Account, TrueFrame, Truth};

/// Text up to this many characters must be whole.
const LONG: usize = 1000;
/// What must be left of longer text.
const KEPT: usize = 100;
/// Frames shown of two stacks that differ.
const SHOWN: usize = 40;

/// All differences; empty when the dump tells the truth.
pub fn differences(truth: &Truth, dump: &DumpedProcess) -> Vec<String> {
    let mut found = Vec::new();
    let mut accounts: BTreeMap<i32, Vec<&Account>> = BTreeMap::new();
    for account in &truth.threads {
        accounts.entry(account.tid).or_default().push(account);
    }
    for (&tid, accounts) in &accounts {
        let entries: Vec<_> = dump
            .threads
            .iter()
            .filter(|thread| thread.tid == tid)
            .collect();
        if entries.is_empty() {
            found.push(format!("thread {tid} {:?} is missing", accounts[0].name));
            continue;
        }
        if entries.len() > accounts.len() {
            found.push(format!("thread {tid} is there {} times", entries.len()));
        }
        found.extend(compare_names(truth.pid, accounts, &entries));
        if !accounts.iter().any(|account| account.moving) {
            found.extend(compare_stacks(tid, accounts, &entries));
        }
    }
    for thread in &dump.threads {
        let is_known = accounts.contains_key(&thread.tid) || thread.tid == truth.reporter;
        // With no accounts at all the program does not describe its threads.
        if !is_known && !accounts.is_empty() && python_frames(thread).next().is_some() {
            found.push(format!(
                "thread {} {:?} should not be there:\n{}",
                thread.tid,
                thread.name,
                show(&python_frames(thread).collect::<Vec<_>>())
            ));
        }
    }
    found
}

fn python_frames(thread: &DumpedThread) -> impl Iterator<Item = &DumpedFrame> {
    thread
        .frames
        .iter()
        .filter(|frame| frame.kind.is_empty() || frame.kind == "python" || is_cut(frame))
}

/// Does the frame stand for those that were left out?
fn is_cut(frame: &DumpedFrame) -> bool {
    frame.function == "<truncated>" || frame.kind == "marker"
}

fn compare_names(pid: i32, accounts: &[&Account], entries: &[&DumpedThread]) -> Vec<String> {
    let tid = accounts[0].tid;
    let name = accounts.iter().find_map(|account| account.name.as_deref());
    let comm = fs::read(format!("/proc/{pid}/task/{tid}/comm")).unwrap_or_default();
    let comm = String::from_utf8_lossy(&comm);
    let comm = comm.trim_end_matches('\n');
    let is_right = |dumped: Option<&str>| match (name, dumped) {
        (Some(name), Some(dumped)) => is_same_text(name, dumped),
        (Some(_), None) => false,
        (None, dumped) => dumped.is_none_or(|dumped| dumped == comm),
    };
    let names: Vec<_> = entries
        .iter()
        .map(|thread| thread.name.as_deref())
        .collect();
    let is_named = names.iter().any(|&dumped| is_right(dumped));
    names
        .into_iter()
        .filter(|&dumped| !is_right(dumped) && (dumped.is_some() || !is_named))
        .map(|dumped| {
            let none = || "none".to_owned();
            let (truth, dumped) = (
                name.map_or_else(none, quote),
                dumped.map_or_else(none, quote),
            );
            format!("thread {tid}: name: truth {truth}, dump {dumped}")
        })
        .collect()
}

fn compare_stacks(tid: i32, accounts: &[&Account], entries: &[&DumpedThread]) -> Option<String> {
    if let &[account] = accounts
        && !account.outer.is_empty()
    {
        return compare_deep(account, entries[0]);
    }
    // The main interpreter has id 0, and its frames are the outer ones.
    let mut accounts = accounts.to_vec();
    accounts.sort_by_key(|account| std::cmp::Reverse(account.interpreter));
    let truth: Vec<_> = accounts
        .iter()
        .flat_map(|account| &account.frames)
        .collect();
    let in_order: Vec<_> = entries
        .iter()
        .flat_map(|thread| python_frames(thread))
        .collect();
    let backwards: Vec<_> = entries
        .iter()
        .rev()
        .flat_map(|thread| python_frames(thread))
        .collect();
    if is_same_stack(&truth, &in_order) || is_same_stack(&truth, &backwards) {
        return None;
    }
    let name = accounts[0].name.as_deref().unwrap_or_default();
    Some(format!(
        "thread {tid} {}:\n{}",
        quote(name),
        diff(&truth, &in_order)
    ))
}

fn compare_deep(account: &Account, thread: &DumpedThread) -> Option<String> {
    let dumped: Vec<_> = python_frames(thread).collect();
    let inner: Vec<_> = account.frames.iter().collect();
    let outer: Vec<_> = account.outer.iter().collect();
    let tid = account.tid;
    if dumped.len() < inner.len() || !is_same_stack(&inner, &dumped[..inner.len()]) {
        let shown = &dumped[..dumped.len().min(inner.len())];
        return Some(format!(
            "thread {tid}, innermost frames:\n{}",
            diff(&inner, shown)
        ));
    }
    if thread.frames.iter().any(is_cut) {
        return None;
    }
    if dumped.len() != account.depth {
        return Some(format!(
            "thread {tid}: {} frames of {}, and nothing says so",
            dumped.len(),
            account.depth
        ));
    }
    let end = &dumped[dumped.len() - outer.len()..];
    (!is_same_stack(&outer, end))
        .then(|| format!("thread {tid}, outermost frames:\n{}", diff(&outer, end)))
}

fn is_same_stack(truth: &[&TrueFrame], dumped: &[&DumpedFrame]) -> bool {
    truth.len() == dumped.len()
        && truth
            .iter()
            .zip(dumped)
            .all(|(truth, dumped)| is_same_frame(truth, dumped))
}

fn is_same_frame(truth: &TrueFrame, dumped: &DumpedFrame) -> bool {
    is_same_text(&truth.function, &dumped.function)
        && is_same_text(&truth.file, dumped.file.as_deref().unwrap_or_default())
        && truth.line == dumped.line
        && match (truth.module.as_deref(), dumped.module.as_deref()) {
            (Some(truth), Some(dumped)) => is_same_text(truth, dumped),
            (truth, dumped) => truth == dumped,
        }
}

fn is_same_text(truth: &str, dumped: &str) -> bool {
    if truth == dumped {
        return true;
    }
    let kept = dumped.trim_end_matches(['…', '.']);
    truth.chars().nth(LONG).is_some()
        && truth.starts_with(kept)
        && kept.chars().nth(KEPT - 1).is_some()
}

/// Both stacks side by side where they differ.
fn diff(truth: &[&TrueFrame], dumped: &[&DumpedFrame]) -> String {
    let mut text = String::new();
    for index in 0..truth.len().max(dumped.len()).min(SHOWN) {
        let pair = (truth.get(index), dumped.get(index));
        let result = match pair {
            (Some(truth), Some(dumped)) if is_same_frame(truth, dumped) => {
                writeln!(text, "      {index:3} {}", show_true(truth))
            }
            (truth, dumped) => writeln!(
                text,
                "    - {index:3} {}\n    + {index:3} {}",
                truth.map_or_else(|| "(no frame)".to_owned(), |frame| show_true(frame)),
                dumped.map_or_else(|| "(no frame)".to_owned(), |frame| show_dumped(frame))
            ),
        };
        result.expect("a string takes all text");
    }
    text
}

fn show(frames: &[&DumpedFrame]) -> String {
    let shown: Vec<_> = frames
        .iter()
        .take(SHOWN)
        .map(|frame| show_dumped(frame))
        .collect();
    format!("    + {}", shown.join("\n    + "))
}

fn show_true(frame: &TrueFrame) -> String {
    show_frame(
        &frame.function,
        Some(&frame.file),
        frame.line,
        frame.module.as_deref(),
    )
}

fn show_dumped(frame: &DumpedFrame) -> String {
    show_frame(
        &frame.function,
        frame.file.as_deref(),
        frame.line,
        frame.module.as_deref(),
    )
}

fn show_frame(
    function: &str,
    file: Option<&str>,
    line: Option<u64>,
    module: Option<&str>,
) -> String {
    let none = || "none".to_owned();
    format!(
        "{} in {}:{} of module {}",
        quote(function),
        file.map_or_else(none, quote),
        line.map_or_else(none, |line| line.to_string()),
        module.map_or_else(none, quote)
    )
}

/// Text with everything that is not printable escaped, and cut.
fn quote(text: &str) -> String {
    let length = text.chars().count();
    if length > 120 {
        let start: String = text.chars().take(100).collect();
        return format!("{start:?}… ({length} characters)");
    }
    format!("{text:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_may_be_cut_and_short_text_may_not() {
        let long = "x".repeat(LONG + 1);
        assert!(is_same_text(&long, &long));
        assert!(is_same_text(&long, &"x".repeat(KEPT)));
        assert!(is_same_text(&long, &format!("{}…", "x".repeat(KEPT))));
        assert!(!is_same_text(&long, &"x".repeat(KEPT - 1)));
        assert!(!is_same_text(&long, &format!("{}y", "x".repeat(KEPT))));
        assert!(!is_same_text(&"x".repeat(LONG), &"x".repeat(KEPT)));
    }
}
