//! A `kubectl` that records its arguments and plays back what a cluster would say.

#![allow(dead_code, reason = "each test crate uses its own part")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::live::Answer;

/// Writes its arguments to `calls`, one call a line with `|` between them; then, for the Nth call of a verb, prints `VERB.N.out` and
/// `VERB.N.err`, and ends with `VERB.N.code`; without these, the same without the number. With `real` in place of that, `exec` runs
/// stuckspy itself and says its exit code as kubectl does. With `early` it says so first, and goes on when `hold` is closed.
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
if [ "$verb" = exec ] && [ -e "$PLAY/early" ]; then
    echo early >&2
    cat "$PLAY/hold"
fi
file=$PLAY/$verb.$number
[ -e "$file.out" ] || [ -e "$file.err" ] || [ -e "$file.code" ] || file=$PLAY/$verb
cat "$file.out" 2>/dev/null
cat "$file.err" >&2 2>/dev/null
exit "$(cat "$file.code" 2>/dev/null || echo 0)"
"#;

/// A pod with one container, without an ephemeral one, whose next one runs at once.
pub struct Cluster {
    folder: TempDir,
}

impl Cluster {
    pub fn new() -> Cluster {
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

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn play(&self, name: &str, text: &str) -> &Self {
        fs::write(self.path(name), text).expect("it is written");
        self
    }

    /// What `kubectl exec` says and ends with.
    pub fn answers(&self, code: i32, stdout: &str, stderr: &str) -> &Self {
        self.play("exec.out", stdout)
            .play("exec.err", stderr)
            .play("exec.code", &code.to_string())
    }

    /// The plugin with these arguments, in the cluster's folder.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kubectl-stuckspy");
        let mut command = Command::new(script);
        command
            .args(arguments)
            .env("KUBECTL", self.path("stub"))
            .env("PLAY", self.folder.path())
            .env("STUCKSPY", env!("CARGO_BIN_EXE_stuckspy"))
            .env("STUCKSPY_IMAGE", "example.org/stuckspy:1")
            .env("STUCKSPY_TRIES", "2")
            .current_dir(self.folder.path());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Answer {
        let output = self.command(arguments).output();
        let output = output.expect("it can be started");
        Answer {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("text"),
            stderr: String::from_utf8(output.stderr).expect("text"),
            took: Duration::ZERO,
        }
    }

    /// The calls with this verb.
    pub fn calls(&self, verb: &str) -> Vec<Vec<String>> {
        let text = fs::read_to_string(self.path("calls")).unwrap_or_default();
        let calls = text
            .lines()
            .map(|line| line.split('|').map(str::to_owned).collect::<Vec<_>>());
        calls
            .filter(|call| call[0] == verb && call.get(1).is_none_or(|word| word != "--help"))
            .collect()
    }
}

/// The value of an option: the word behind it, or behind its `=`.
pub fn behind<'a>(call: &'a [String], option: &str) -> &'a str {
    let at = call.iter().position(|word| word == option);
    let next = at.and_then(|at| call.get(at + 1)).map(String::as_str);
    let mut attached = call.iter().filter_map(|word| {
        word.strip_prefix(option)
            .and_then(|rest| rest.strip_prefix('='))
    });
    next.or_else(|| attached.next())
        .unwrap_or_else(|| panic!("no {option} in {call:?}"))
}

/// What stands behind `--`.
pub fn program_of(call: &[String]) -> Vec<&str> {
    let words = call.iter().map(String::as_str);
    words.skip_while(|word| *word != "--").skip(1).collect()
}
