//! What is known of a wait in each situation: as root, in a container with nothing but SYS_PTRACE, as another user without rights.
//!
//! The table is `docs/what-is-known.md`; `STUCKSPY_BLESS=1` writes it anew. The container is what `kubectl debug` makes: it shares the
//! pid and network namespaces of the target and nothing else, above all not its files.

mod support;

#[path = "support/container.rs"]
mod container;
#[path = "support/live.rs"]
mod live;

use std::env;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use container::{Plan, SYSTEM};
use live::{any_interpreter, find_tool, is_root, wait_until};
use serde_json::Value;
use support::program;
use syscalls::Sysno;

/// A kind of fact: its name, the program that blocks so, the call, and where it stands in the thread of `dump --json`.
const FACTS: [(&str, &str, Sysno, &str); 20] = [
    ("state of the thread", "recv_tcp", Sysno::recvfrom, "/state"),
    (
        "since when it waits",
        "recv_tcp",
        Sysno::recvfrom,
        "/wait/since_ms",
    ),
    ("system call", "recv_tcp", Sysno::recvfrom, "/wait/syscall"),
    (
        "addresses of a socket",
        "recv_tcp",
        Sysno::recvfrom,
        "/wait/resource/peer",
    ),
    (
        "timeouts of a socket",
        "recv_timeout",
        Sysno::recvfrom,
        "/wait/timeout_ms",
    ),
    (
        "what TCP has counted",
        "recv_tcp",
        Sysno::recvfrom,
        "/wait/resource/bytes_received",
    ),
    (
        "keep-alive of a socket",
        "recv_tcp",
        Sysno::recvfrom,
        "/wait/resource/keepalive_ms",
    ),
    (
        "process at the other end: TCP",
        "recv_tcp",
        Sysno::recvfrom,
        "/wait/holder/pid",
    ),
    (
        "process at the other end: unix",
        "recv_unix",
        Sysno::recvfrom,
        "/wait/holder/pid",
    ),
    (
        "process at the other end: pipe",
        "pipe_read",
        Sysno::read,
        "/wait/holder/pid",
    ),
    (
        "how full a pipe is",
        "pipe_read",
        Sysno::read,
        "/wait/resource/fill",
    ),
    (
        "what a poll polls, and its timeout",
        "poll_many",
        Sysno::poll,
        "/wait/resource/members",
    ),
    (
        "what an epoll watches",
        "epoll_many",
        Sysno::epoll_wait,
        "/wait/resource/members",
    ),
    (
        "child that is waited for",
        "child",
        Sysno::wait4,
        "/wait/resource/pid",
    ),
    (
        "holder of a file lock",
        "flock",
        Sysno::flock,
        "/wait/holder/pid",
    ),
    (
        "path of a fifo that is being opened",
        "fifo_open",
        Sysno::openat,
        "/wait/resource/path",
    ),
    (
        "what is left of a sleep",
        "sleep_libc",
        Sysno::clock_nanosleep,
        "/wait/resource/remaining_ms",
    ),
    (
        "signals that are waited for",
        "sigtimedwait",
        Sysno::rt_sigtimedwait,
        "/wait/resource/name",
    ),
    ("stack of Python", "recv_tcp", Sysno::recvfrom, "/frames/0"),
    ("name in threading", "flock", Sysno::flock, "/name"),
];

/// From where the target is looked at.
#[derive(Clone, Copy, Debug)]
enum Situation {
    /// Beside it, as root.
    Root,
    /// As another user, without any right.
    AnotherUser,
    /// In a container of its own beside the target's, as root with SYS_PTRACE only.
    Container,
}

const SITUATIONS: [(&str, Situation); 3] = [
    ("root", Situation::Root),
    ("container with only SYS_PTRACE", Situation::Container),
    ("another user", Situation::AnotherUser),
];

/// The document about `pid` in a situation.
fn dump(binary: &Path, situation: Situation, pid: i32) -> Value {
    let pid = pid.to_string();
    let arguments = ["dump", "--json", "--pid", &pid];
    let output = match situation {
        Situation::Root => Command::new(binary).args(arguments).output(),
        Situation::AnotherUser => Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .args(["--inh-caps=-all", "--"])
            .arg(binary)
            .args(arguments)
            .output(),
        Situation::Container => {
            Ok(beside(binary).run(&[&["/stuckspy"], arguments.as_slice()].concat()))
        }
    };
    let output = output.expect("it can be started");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// What `kubectl debug` makes, with the libraries that a debug build needs: it shares the pid and network namespaces.
fn beside(binary: &Path) -> Plan {
    SYSTEM
        .iter()
        .fold(Plan::new(), |plan, path| plan.with_bound(path))
        .with_file(binary, "stuckspy")
        .with_capabilities(&["CAP_SYS_PTRACE"])
}

/// The words for each situation: whether the fact is known.
fn look(binary: &Path, program: &str, call: Sysno, pointer: &str) -> Vec<&'static str> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = program::folder()
        .join("waits")
        .join(format!("{program}.py"));
    let mut command = Command::new(&any_interpreter().path);
    command
        .arg(path)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("TMPDIR", folder.path());
    let (mut target, _) = live::Target::start_and_listen(&mut command);
    let number = format!("{} ", call.id());
    let pid = target.pid();
    wait_until(&format!("{program} is in {call}"), || {
        let text = fs::read_to_string(format!("/proc/{pid}/syscall"));
        text.is_ok_and(|text| text.starts_with(&number))
    });
    let words = SITUATIONS.iter().map(|(_, situation)| {
        let document = dump(binary, *situation, pid);
        let thread = &document["processes"][0]["threads"][0];
        match thread.pointer(pointer) {
            None | Some(Value::Null) => "no",
            Some(_) => "yes",
        }
    });
    let words = words.collect();
    target.assert_unharmed();
    words
}

#[test]
fn what_is_known_in_each_situation() {
    let tools = ["setpriv", "runc"].map(find_tool);
    if !is_root("what is known") || tools.iter().any(Option::is_none) {
        return;
    }
    // Where another user can reach it.
    let folder = tempfile::tempdir().unwrap();
    let binary = folder.path().join("stuckspy");
    fs::copy(env!("CARGO_BIN_EXE_stuckspy"), &binary).unwrap();
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(folder.path(), everybody).unwrap();
    let mut table = String::from(
        "# What is known of a wait\n\n\
         Made by `tests/rights.rs` (`STUCKSPY_BLESS=1`), on a machine without Yama; the target is root's.\n\
         The container shares the pid and network namespaces, as `kubectl debug --target` makes it, and has its own files.\n\n",
    );
    let names: Vec<_> = SITUATIONS.iter().map(|(name, _)| *name).collect();
    writeln!(table, "| fact | {} |", names.join(" | ")).unwrap();
    writeln!(table, "|---|{}", "---|".repeat(names.len())).unwrap();
    for (fact, program, call, pointer) in FACTS {
        let words = look(&binary, program, call, pointer);
        writeln!(table, "| {fact} | {} |", words.join(" | ")).unwrap();
    }
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/what-is-known.md");
    if env::var_os("STUCKSPY_BLESS").is_some() {
        fs::write(&path, &table).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap_or_default(), table);
}
