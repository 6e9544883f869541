//! Runs `stuckspy dump --json` and reads the part of its answer that tests compare.

use std::time::Duration;

use serde::Deserialize;

/// Far more than a dump may take; past it, it hangs.
const DEADLINE: Duration = Duration::from_secs(60);

/// The document (schema `stuckspy.dump/1`).
#[derive(Clone, Debug, Deserialize)]
pub struct Dump {
    pub processes: Vec<DumpedProcess>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct DumpedProcess {
    pub pid: i32,
    pub threads: Vec<DumpedThread>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct DumpedThread {
    pub tid: i32,
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub frames: Vec<DumpedFrame>,
}

/// One frame; innermost first in its thread.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct DumpedFrame {
    pub function: String,
    #[serde(default)]
    pub file: Option<String>,
    #[serde(default)]
    pub line: Option<u64>,
    #[serde(default)]
    pub module: Option<String>,
    #[serde(default)]
    pub kind: String,
}

/// The program under test: this build, or another one that `STUCKSPY_BINARY` names.
pub fn stuckspy() -> assert_cmd::Command {
    let other = std::env::var_os("STUCKSPY_BINARY");
    let own = env!("CARGO_BIN_EXE_stuckspy");
    let mut command = assert_cmd::Command::new(other.unwrap_or_else(|| own.into()));
    command.timeout(DEADLINE);
    command
}

/// Dumps one process.
///
/// # Errors
///
/// When the exit code is not 0 or the document can not be read, with both streams.
pub fn dump(pid: i32) -> Result<DumpedProcess, String> {
    let output = stuckspy()
        .args(["dump", "--pid", &pid.to_string(), "--json"])
        .output()
        .map_err(|error| format!("run stuckspy: {error}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(format!(
            "stuckspy dump: {}\nstderr: {stderr}\nerrors: {}\nstdout: {stdout:.2000}",
            output.status,
            errors_in(&output.stdout)
        ));
    }
    let dump: Dump = serde_json::from_slice(&output.stdout).map_err(|error| {
        format!("parse the dump: {error}\nstderr: {stderr}\nstdout: {stdout:.2000}")
    })?;
    let process = dump
        .processes
        .into_iter()
        .find(|process| process.pid == pid);
    process.ok_or_else(|| format!("the dump has no process {pid}: {stdout:.2000}"))
}

/// What the document itself says went wrong.
fn errors_in(document: &[u8]) -> serde_json::Value {
    let document: serde_json::Value = serde_json::from_slice(document).unwrap_or_default();
    let processes = document["processes"].as_array().into_iter().flatten();
    processes.map(|process| process["errors"].clone()).collect()
}
