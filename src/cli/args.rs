//! What was typed; parsing has no side effects.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

/// What stands below the list of commands.
const AFTER_HELP: &str = "\
Examples:
  stuckspy diagnose --pid 1              what is stuck in it and its descendants
  stuckspy dump --pid 4242 -s            every stack of a whole tree
  stuckspy diagnose -- python3 job.py    start a program and say when it gets stuck

Exit codes:
  0  done, nothing stuck      1  something is stuck (diagnose)   2  usage
  3  no such process          4  not permitted                   5  nothing readable
  70 a bug in stuckspy";

/// Says where every thread of a running Python process is, what it waits for, since when, and on whom.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, arg_required_else_help = true)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// What to do
    #[command(subcommand)]
    pub command: Command,

    /// Say on stderr what was tried
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say what is stuck, since when, and on whom
    Diagnose(DiagnoseArguments),
    /// Print the stack of every thread
    Dump(DumpArguments),
    /// Say what may be seen here, and the one change that would give more
    Doctor(DoctorArguments),
}

/// Which process is meant.
#[derive(Debug, Args)]
pub struct TargetArguments {
    /// The process to look at; without it and without a command, it is searched for
    #[arg(short, long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pub pid: Option<i32>,

    /// A program to start and look at; what it prints goes to stderr, and it ends with stuckspy
    #[arg(last = true, value_name = "CMD", conflicts_with = "pid")]
    pub launch: Vec<OsString>,
}

/// How processes are read.
#[derive(Debug, Args)]
pub struct ReadingArguments {
    /// Stop each thread for a moment while it is read (never needed to find a hang)
    #[arg(long, conflicts_with = "nonblocking")]
    pub blocking: bool,

    /// Do not stop the target: this is the default
    #[arg(long)]
    pub nonblocking: bool,

    /// Show whole paths of files
    #[arg(long)]
    pub full_filenames: bool,

    /// Print one JSON document
    #[arg(short, long)]
    pub json: bool,
}

/// Arguments of `diagnose`.
#[derive(Debug, Args)]
pub struct DiagnoseArguments {
    #[command(flatten)]
    pub target: TargetArguments,

    /// How long a wait may take before it is suspicious, e.g. 30s, 5m, 250ms; a bare number is seconds
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    pub threshold: Duration,

    /// Look at the process itself only, not at its descendants
    #[arg(long)]
    pub no_children: bool,

    /// Look at its descendants too: this is the default
    #[arg(short, long, conflicts_with = "no_children")]
    pub subprocesses: bool,

    #[command(flatten)]
    pub reading: ReadingArguments,
}

/// Arguments of `dump`.
#[derive(Debug, Args)]
pub struct DumpArguments {
    #[command(flatten)]
    pub target: TargetArguments,

    /// Look at its descendants too
    #[arg(short, long)]
    pub subprocesses: bool,

    /// How long a program that was started may run before it is looked at
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_duration)]
    pub after: Duration,

    #[command(flatten)]
    pub reading: ReadingArguments,
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArguments {
    /// The process to look at
    #[arg(short, long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pub pid: Option<i32>,
}

/// A length of time; a bare number is seconds.
fn parse_duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string());
    }
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write e.g. 30s, 5m, 250ms or a number of seconds"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("2.5"), Ok(Duration::from_millis(2500)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        assert!(parse_duration("-1").is_err());
        assert!(parse_duration("soon").is_err());
        assert!(parse_duration("inf").is_err());
    }

    #[test]
    fn a_pid_and_a_command_exclude_each_other() {
        let parse = |words: &[&str]| Arguments::try_parse_from(words);
        assert!(parse(&["stuckspy", "dump", "-p", "7"]).is_ok());
        assert!(parse(&["stuckspy", "dump", "--", "python3", "-c", "pass"]).is_ok());
        assert!(parse(&["stuckspy", "dump", "-p", "7", "--", "python3"]).is_err());
        assert!(parse(&["stuckspy", "dump", "-p", "0"]).is_err());
        assert!(parse(&["stuckspy", "dump", "--blocking", "--nonblocking"]).is_err());
    }
}
