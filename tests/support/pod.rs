//! A pod as the tests have it: an interpreter in a container of its own, and stuckspy in another one beside it.

#![allow(dead_code, reason = "each test crate uses its own part")]

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use crate::container::{Container, Plan, SYSTEM, WITH_PTRACE, default_seccomp};
use crate::live::{Answer, find_tool, is_root};
use crate::static_binary::static_binary;
use crate::support::interpreter::{Interpreter, Origin, interpreters};
use crate::support::report_skipped;

/// Some of the capabilities that the engines give without being asked: enough for the kernel to protect who has them from who has not.
const DEFAULT: [&str; 4] = [
    "CAP_CHOWN",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETUID",
];

/// Whether containers can be made; if not, what needs them is named as skipped.
pub fn can_run(what: &str) -> bool {
    is_root(what) && find_tool("runc").is_some()
}

pub fn interpreter(minor: u8) -> Option<&'static Interpreter> {
    let found = interpreters()
        .iter()
        .filter(|one| one.origin == Origin::Pyenv && !one.is_free_threaded)
        .find(|one| (one.version.major, one.version.minor) == (3, minor));
    if found.is_none() {
        report_skipped(&format!("CPython 3.{minor} in a container"), "not found");
    }
    found
}

/// An interpreter as an image has it: its own root, pid 1 of its own pid namespace, its own network.
pub fn image(interpreter: &Interpreter) -> Plan {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    SYSTEM
        .iter()
        .fold(Plan::new(), |plan, path| plan.with_bound(path))
        .with_layer(&interpreter.prefix)
        .with_bound_at(&fixtures, "/app", "ro")
        .with_tmp()
        .with_own(&["pid", "network"])
        .with_capabilities(&DEFAULT)
        .with_variable("PYTHONDONTWRITEBYTECODE", "1")
        .with_variable("LC_ALL", "C.UTF-8")
        .with_variable("STUCKSPY_READY_FD", "1")
        .with_variable("STUCKSPY_TRUTH", "/tmp/truth.json")
        .with_variable("STUCKSPY_PROGRESS", "/tmp/progress")
}

pub fn python(interpreter: &Interpreter) -> &str {
    interpreter.path.to_str().expect("a path in UTF-8")
}

/// Starts a program of `fixtures/programs` in a container; it is ready when this returns.
pub fn start(interpreter: &Interpreter, program: &str) -> Container {
    let path = format!("/app/programs/{program}.py");
    let (container, _) = image(interpreter).start(&[python(interpreter), &path]);
    container
}

/// stuckspy in an empty root beside a container, without a right.
pub fn beside(container: &Container) -> Plan {
    Plan::new()
        .with_file(static_binary(), "stuckspy")
        .beside(container.pid())
        .with_seccomp(default_seccomp(&WITH_PTRACE))
}

/// What `kubectl debug --profile=general` makes.
pub fn debugger(container: &Container) -> Plan {
    beside(container).with_capabilities(&["CAP_SYS_PTRACE"])
}

pub fn answer(output: Output) -> Answer {
    Answer {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("stuckspy writes valid UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("stuckspy writes valid UTF-8"),
        took: Duration::ZERO,
    }
}

pub fn ask_from(plan: &Plan, arguments: &[&str]) -> Answer {
    answer(plan.run(&[&["/stuckspy"], arguments].concat()))
}
