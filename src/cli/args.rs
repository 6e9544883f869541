//! What was typed; parsing has no side effects.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::export::Format;
use crate::model::VerdictClass;
use crate::sampler::{MAX_RATE, SamplerOptions};

/// What stands below the list of commands.
const AFTER_HELP: &str = "\
Examples:
  stuckspy diagnose --pid 1              what is stuck in it and its descendants
  stuckspy dump --pid 4242 -s            every stack of a whole tree
  stuckspy top --pid 4242                where its time goes, live
  stuckspy record --pid 4242 -o flame.svg -d 30
  stuckspy diagnose -- python3 job.py    start a program and say when it gets stuck

Exit codes:
  0  done, nothing stuck      1  something is stuck (diagnose)   2  usage
  3  no such process          4  not permitted                   5  nothing readable
  70 a bug in stuckspy   74 the output can't be written";

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
    /// Show where the time goes, as it goes, and what is blocked
    Top(TopArguments),
    /// Sample it and write where its time went
    Record(RecordArguments),
    /// Say what may be seen here, and the one change that would give more
    Doctor(DoctorArguments),
    /// Say what a verdict means, how it is told, and what usually helps
    Explain(ExplainArguments),
    /// Do nothing for a while: keeps a container of its own there, to run the other commands in
    #[command(hide = true)]
    Stay(StayArguments),
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
    /// Stop each running thread for a moment while it is read (never needed to find a hang)
    #[arg(long, conflicts_with = "nonblocking")]
    pub blocking: bool,

    /// Do not stop the target: this is the default
    #[arg(long)]
    pub nonblocking: bool,

    /// How long all reading may take, e.g. 10s; what the kernel does not answer in its share of that is left out and named. The
    /// window of `diagnose` comes on top
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_deadline)]
    pub deadline: Duration,

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

    /// How long threads that seem to work are watched for whether they get anywhere; 0 for a single look. What is stuck by the
    /// kernel's own record is told at once
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration)]
    pub window: Duration,

    /// Look at the process itself only, not at its descendants
    #[arg(long)]
    pub no_children: bool,

    /// Look at its descendants too: this is the default
    #[arg(short, long, conflicts_with = "no_children")]
    pub subprocesses: bool,

    /// Show everything: each finding with its whole stack, every thread that is held up, every wait. Also with -v
    #[arg(short, long)]
    pub all: bool,

    /// Further rules on where packages wait by design, as a TOML file; they go before those that are built in
    #[arg(long, value_name = "FILE")]
    pub rules: Option<PathBuf>,

    /// Show secrets too: in requests, values of SQL statements, command lines
    #[arg(long)]
    pub no_redact: bool,

    /// Print nothing: the exit code says it (for probes)
    #[arg(short, long, conflicts_with = "json")]
    pub quiet: bool,

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

    /// Show the arguments and local variables of each call, without what looks like a secret
    #[arg(short, long)]
    pub locals: bool,

    /// Show secrets too: passwords, tokens, keys, in variables and command lines
    #[arg(long)]
    pub no_redact: bool,

    /// How long a program that was started may run before it is looked at
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_duration)]
    pub after: Duration,

    #[command(flatten)]
    pub reading: ReadingArguments,
}

/// How processes are sampled, and which samples count.
#[derive(Debug, Args)]
pub struct SamplingArguments {
    /// Samples a second
    #[arg(short, long, value_name = "HZ", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_RATE)))]
    pub rate: u32,

    /// Sample its descendants too, as they come and go
    #[arg(short, long)]
    pub subprocesses: bool,

    /// Show threads that are blocked too
    #[arg(short, long)]
    pub idle: bool,

    /// Show only threads that hold the GIL
    #[arg(short, long)]
    pub gil: bool,

    /// Show functions as a whole, not the lines in them that ran
    #[arg(short = 'F', long)]
    pub function: bool,

    /// Show no line numbers
    #[arg(long)]
    pub nolineno: bool,

    /// Show whole paths of files
    #[arg(long)]
    pub full_filenames: bool,

    /// Stop each running thread for a moment while it is read, for at most 10 % of the time (never needed for a right picture)
    #[arg(long, conflicts_with = "nonblocking")]
    pub blocking: bool,

    /// Do not stop the target: this is the default
    #[arg(long)]
    pub nonblocking: bool,
}

impl SamplingArguments {
    /// What the sampler is to do, without an end of its own.
    pub fn options(&self) -> SamplerOptions {
        SamplerOptions {
            rate: self.rate,
            subprocesses: self.subprocesses,
            is_blocking: self.blocking,
            duration: None,
        }
    }
}

/// Arguments of `record`.
#[derive(Debug, Args)]
pub struct RecordArguments {
    #[command(flatten)]
    pub target: TargetArguments,

    /// The file to write, - for standard output; without it, one is named after the process and the time
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// What to write; by the end of the file's name if it is not said
    #[arg(short, long, value_enum)]
    pub format: Option<Format>,

    /// How long to sample; without it (or `unlimited`), until Ctrl-C or the end of the target. A bare number is seconds
    #[arg(short, long, value_name = "DURATION", default_value = "unlimited", hide_default_value = true, value_parser = parse_length)]
    pub duration: Length,

    /// Tell threads apart
    #[arg(short, long)]
    pub threads: bool,

    /// Do not show how far it has come
    #[arg(short = 'H', long)]
    pub hide_progress: bool,

    #[command(flatten)]
    pub sampling: SamplingArguments,
}

/// Arguments of `top`.
#[derive(Debug, Args)]
pub struct TopArguments {
    #[command(flatten)]
    pub target: TargetArguments,

    /// How long a wait may take before it is suspicious, e.g. 30s, 5m, 250ms; a bare number is seconds
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    pub threshold: Duration,

    /// Time from one picture to the next; a bare number is seconds
    #[arg(short, long, value_name = "DURATION", default_value = "1s", value_parser = parse_delay)]
    pub delay: Duration,

    /// End after so many pictures, which are printed one below the other
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,

    #[command(flatten)]
    pub sampling: SamplingArguments,
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArguments {
    /// The process to look at
    #[arg(short, long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pub pid: Option<i32>,
}

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub struct ExplainArguments {
    /// The verdict, as `diagnose` names it; all of them without one
    #[arg(value_name = "VERDICT", value_parser = parse_verdict)]
    pub verdict: Option<VerdictClass>,
}

/// Arguments of `stay`.
#[derive(Debug, Args)]
pub struct StayArguments {
    /// For how long; a bare number is seconds
    #[arg(value_name = "DURATION", default_value = "15m", value_parser = parse_duration)]
    pub time: Duration,
}

fn parse_verdict(name: &str) -> Result<VerdictClass, String> {
    VerdictClass::from_name(name).ok_or_else(|| {
        let names: Vec<_> = VerdictClass::ALL.map(VerdictClass::name).into();
        format!("one of {}", names.join(", "))
    })
}

/// A time between pictures: batches of samples come ten times a second, and nobody reads faster.
fn parse_delay(text: &str) -> Result<Duration, String> {
    let delay = parse_duration(text)?;
    if delay < Duration::from_millis(100) {
        return Err("at least 100ms".to_owned());
    }
    Ok(delay)
}

/// A time for all reading: one step takes milliseconds.
fn parse_deadline(text: &str) -> Result<Duration, String> {
    let deadline = parse_duration(text)?;
    if deadline < Duration::from_millis(100) {
        return Err("at least 100ms".to_owned());
    }
    Ok(deadline)
}

/// How long something goes on: for this time, or until something else ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Length(pub Option<Duration>);

/// A length of time, or `unlimited`.
fn parse_length(text: &str) -> Result<Length, String> {
    match text {
        "unlimited" => Ok(Length(None)),
        text => parse_duration(text).map(|duration| Length(Some(duration))),
    }
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
        assert_eq!(parse_length("unlimited"), Ok(Length(None)));
        assert_eq!(parse_length("2"), Ok(Length(Some(Duration::from_secs(2)))));
        assert!(parse_length("for ever").is_err());
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

    #[test]
    fn top_takes_the_flags_of_py_spy() {
        let parse = |words: &[&str]| Arguments::try_parse_from(words);
        let words =
            "stuckspy top -p 7 -r 250 -s -g -i -F --nolineno --full-filenames --nonblocking -d 2.5";
        let words: Vec<&str> = words.split(' ').collect();
        assert!(parse(&words).is_ok());
        assert!(parse(&["stuckspy", "top", "-r", "0"]).is_err());
        assert!(parse(&["stuckspy", "top", "-d", "0.05"]).is_err());
    }
}
