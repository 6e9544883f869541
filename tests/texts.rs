//! What `stuckspy diagnose` prints for each verdict, as somebody reads it who has never seen it: one program for each.

mod support;

#[path = "support/live.rs"]
mod live;

use std::process::Command;

use live::{Answer, Target, any_interpreter, ask_about, find_tool, is_root, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::fixture::{Fixture, Started};
use support::program::{self, Program};
use support::variety::without_variety;

/// Long enough for a healthy program to be left alone, short enough for a test.
const THRESHOLD: &str = "400ms";

/// Starts a program that says a line before it goes its way.
fn start(name: &str) -> (Target, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut command = Command::new(&any_interpreter().path);
    command
        .arg(program::folder().join(format!("{name}.py")))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("TMPDIR", folder.path());
    let (target, line) = Target::start_and_listen(&mut command);
    assert!(!line.starts_with("skip"), "{name}: {line}");
    (target, folder)
}

/// What it prints once the thread that matters has this verdict.
fn text_of(pid: i32, verdict: &str) -> String {
    text_with(pid, &[&format!("N {verdict}")])
}

/// What it prints once all of this is in it.
fn text_with(pid: i32, parts: &[&str]) -> String {
    let mut text = String::new();
    wait_until(&format!("{parts:?} is told of {pid}"), || {
        let answer = ask_about("diagnose", pid, &["--threshold", THRESHOLD]);
        let answer = answer.expect_one_of(&[0, 1]);
        text = plain(&answer);
        parts.iter().all(|part| text.contains(part))
    });
    text
}

fn plain(answer: &Answer) -> String {
    let folder = format!("{}/", program::folder().display());
    // A package from 3.11 on.
    let text = answer.stdout.replace(&folder, "");
    let text = text.replace("re/__init__.py", "re.py");
    let lines = text.lines().map(|line| hide_places(&without_variety(line)));
    lines.collect::<Vec<_>>().join("\n")
}

/// A temporary folder's name is another one each time.
fn hide_places(line: &str) -> String {
    let words = line.split(' ').map(|word| {
        let name = word.rsplit('/').next().unwrap_or(word);
        match word.starts_with("/tmp/") {
            true => format!("/tmp/…/{name}"),
            false => word.to_owned(),
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

macro_rules! texts {
    ($($name:ident: $program:literal $verdict:literal)*) => {$(
        #[test]
        fn $name() {
            let (mut target, _folder) = start($program);
            let text = text_of(target.pid(), $verdict);
            target.assert_unharmed();
            insta::assert_snapshot!($verdict, text);
        }
    )*};
}

texts! {
    idle: "waits/inotify" "idle"
    waiting: "waits/sleep_libc" "waiting"
    hang_network: "waits/recv_tcp" "hang-network"
    hang_dns: "waits/resolver" "hang-dns"
    hang_pipe: "waits/pipe_alone" "hang-pipe"
    hang_child: "hangs/child" "hang-child"
    hang_file_lock: "hangs/file_lock" "hang-file-lock"
    gil_held: "moving/burn_regex" "gil-held"
}

/// Where it is met, and whether often enough for its loop to be seen, is by chance.
#[test]
fn working() {
    let (mut target, _folder) = start("moving/work_counts");
    let text = text_of(target.pid(), "working");
    target.assert_unharmed();
    let lines = text
        .lines()
        .map(|line| match line.split_once(" different call") {
            Some((before, _)) => before,
            None => line,
        });
    insta::assert_snapshot!("working", lines.collect::<Vec<_>>().join("\n"));
}

/// Where in its loop it is met is by chance.
#[test]
fn spin() {
    let (mut target, _folder) = start("moving/spin_flag");
    let text = text_of(target.pid(), "spin");
    target.assert_unharmed();
    let text = text.replace("lines N, N and N", "lines N and N");
    let lines = text.lines().filter(|line| !line.contains("is_done"));
    insta::assert_snapshot!("spin", lines.collect::<Vec<_>>().join("\n"));
}

#[test]
fn hang_disk() {
    if !is_root("a page fault that nobody serves") {
        return;
    }
    let (mut target, _folder) = start("waits/page_fault");
    let text = text_of(target.pid(), "hang-disk");
    target.assert_unharmed();
    insta::assert_snapshot!("hang-disk", text);
}

/// A process that somebody waits for, stopped as long as this lives.
struct Stopped(Pid);

impl Stopped {
    fn new(pid: i32) -> Stopped {
        let pid = Pid::from_raw(pid);
        kill(pid, Signal::SIGSTOP).expect("it is there");
        Stopped(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

#[test]
fn stopped() {
    let (mut target, _folder) = start("waits/sleep");
    // Once it has said its line it is still on its way.
    text_of(target.pid(), "waiting");
    let pause = Stopped::new(target.pid());
    let text = text_of(target.pid(), "stopped");
    drop(pause);
    target.assert_unharmed();
    insta::assert_snapshot!("stopped", text);
}

/// Its parent waits for it: that is told with it.
#[test]
fn a_stopped_child() {
    let (mut target, _folder) = start("waits/child");
    let document = ask_about("dump", target.pid(), &["--json"])
        .expect(0)
        .json();
    let child = document["processes"][0]["threads"][0]["wait"]["holder"]["pid"].as_i64();
    let child = child.and_then(|child| i32::try_from(child).ok());
    let pause = Stopped::new(child.expect("a child that it waits for"));
    let text = text_of(target.pid(), "hang-child");
    drop(pause);
    target.assert_unharmed();
    insta::assert_snapshot!("stopped-child", text);
}

fn start_locks(name: &str) -> Option<Fixture> {
    match Fixture::start(&Program::load(&format!("locks/{name}")), any_interpreter()) {
        Ok(Started::Ready(fixture)) => Some(fixture),
        Ok(Started::Skipped(_)) => None,
        Err(why) => panic!("{name}: {why}"),
    }
}

#[test]
fn deadlock() {
    let Some(fixture) = start_locks("deadlock") else {
        return;
    };
    // Those who wait for each other, and the one that waits for itself.
    let parts = ["    crossing (", "    oneself ("];
    let text = text_with(fixture.pid(), &parts);
    fixture.assert_unharmed().unwrap();
    fixture.finish().unwrap();
    // Which of the two begins earlier may be so or so.
    let mut findings: Vec<_> = text.split("\n\n").collect();
    findings.retain(|finding| finding.starts_with("deadlock"));
    findings.sort_unstable();
    let text = findings.join("\n\n");
    insta::assert_snapshot!("deadlock", text);
}

#[test]
fn hang_lock() {
    let Some(fixture) = start_locks("forked") else {
        return;
    };
    let waits = &fixture.truth.extra["waits"];
    let child = waits[0]["pid"]
        .as_i64()
        .and_then(|pid| i32::try_from(pid).ok());
    let text = text_of(child.expect("a pid"), "hang-lock");
    fixture.assert_unharmed().unwrap();
    fixture.finish().unwrap();
    insta::assert_snapshot!("hang-lock", text);
}

#[test]
fn unknown() {
    let Some(setpriv) = find_tool("setpriv").filter(|_| is_root("another user")) else {
        return;
    };
    let (mut target, _folder) = start("waits/recv_tcp");
    // Where another user can reach it.
    let folder = tempfile::tempdir().unwrap();
    let binary = folder.path().join("stuckspy");
    std::fs::copy(env!("CARGO_BIN_EXE_stuckspy"), &binary).unwrap();
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), everybody).unwrap();
    let mut text = String::new();
    wait_until("it has waited for long enough", || {
        let output = Command::new(&setpriv)
            .args([
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
                "--inh-caps=-all",
                "--",
            ])
            .arg(&binary)
            .args(["diagnose", "--threshold", THRESHOLD, "--pid"])
            .arg(target.pid().to_string())
            .output()
            .unwrap();
        text = String::from_utf8_lossy(&output.stdout).into_owned();
        // Its child too: each has a line among the longest waits, and one at its process.
        text.matches("is off-CPU for").count() == 4
    });
    target.assert_unharmed();
    let lines: Vec<_> = text.lines().map(without_variety).collect();
    insta::assert_snapshot!("unknown", lines.join("\n"));
}
