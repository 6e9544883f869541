//! What was typed; parsing has no side effects.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::export::Format;
use crate::model::{Confidence, VerdictClass};
use crate::sampler::{MAX_RATE, SamplerOptions};

/// What stands below the list of commands.
const AFTER_HELP: &str = "\
Examples:
  stuckspy diagnose --pid 1              what is stuck in the process and its descendants
  stuckspy dump --pid 4242 -s            the call stack of every thread in the process tree
  stuckspy top --pid 4242                where the time goes, live
  stuckspy record --pid 4242 -o flame.svg -d 30
  stuckspy diagnose python3 job.py       start a program and report when it gets stuck

Exit codes:
  0  done, nothing stuck   1  something is stuck: likely or proven (diagnose, --fail-on)
  2  usage error           3  no such process, or it has ended
  4  not permitted         5  no Python in the process, or it can't be read
  70 a bug in stuckspy     74 the output can't be written
  `diagnose CMD` exits with the exit code of CMD if nothing was stuck (128+N if signal N killed it)";

/// Shows what every thread of a running Python process waits for, since when, and on whom.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, arg_required_else_help = true)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// What to do
    #[command(subcommand)]
    pub command: Command,

    /// Log what is tried, on stderr
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Report what is stuck, since when, and on whom
    Diagnose(DiagnoseArguments),
    /// Print the call stack of every thread
    Dump(DumpArguments),
    /// Show live where the time goes, and what is blocked
    Top(TopArguments),
    /// Sample a process and write a profile: flame graph, pprof, speedscope and others
    Record(RecordArguments),
    /// Check permissions: what can be read from here, and the one change that would give more
    Doctor(DoctorArguments),
    /// Explain a verdict: what it means, how it is detected, and how to fix it
    Explain(ExplainArguments),
    /// Sleep: keeps a container alive in which the other commands are run
    #[command(hide = true)]
    Stay(StayArguments),
}

/// Which process is meant.
#[derive(Debug, Args)]
pub struct TargetArguments {
    /// The target process, in decimal or hexadecimal (0x2340); found automatically if there is only one candidate
    #[arg(short, long, value_name = "PID", value_parser = parse_pid)]
    pub pid: Option<i32>,

    /// A program to start as the target, with its arguments; `--` before it is optional. It ends with stuckspy. Its standard output
    /// stays standard output, unless stuckspy writes data there (--json, -o -, top): then it goes to stderr
    #[arg(trailing_var_arg = true, value_name = "CMD", conflicts_with = "pid")]
    pub launch: Vec<OsString>,
}

/// How processes are read.
#[derive(Debug, Args)]
pub struct ReadingArguments {
    /// Stop each running thread briefly while it is read (never needed to find a hang)
    #[arg(long, conflicts_with = "nonblocking")]
    pub blocking: bool,

    /// Do not stop the target (default)
    #[arg(long)]
    pub nonblocking: bool,

    /// Time limit for all reading, e.g. 10s. What the kernel does not answer in time is left out and named. The observation
    /// window of `diagnose` comes on top
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_deadline)]
    pub deadline: Duration,

    /// Show full paths of files
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

    /// How long a thread may be blocked before it counts as stuck, e.g. 30s, 5m, 250ms; a bare number is seconds
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    pub threshold: Duration,

    /// Observation window: how long threads are sampled to see whether they make progress; 0 for one snapshot. Default: 2s; on a
    /// terminal up to --threshold while something may be stuck (Ctrl-C answers with what is known by then). Threads that are
    /// blocked for longer than the threshold are reported at once
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub window: Option<Duration>,

    /// The lowest confidence of a finding for exit code 1, and for ending a program that was started. Findings below it are printed too
    #[arg(long, value_name = "CONFIDENCE", value_enum, default_value = "likely")]
    pub fail_on: FailOn,

    /// Diagnose the process only, not its descendants
    #[arg(long)]
    pub no_children: bool,

    /// Diagnose the descendants too (default)
    #[arg(short, long, conflicts_with = "no_children")]
    pub subprocesses: bool,

    /// Show everything: each finding with its whole stack, every thread that is held up, every wait. Also with -v
    #[arg(short, long)]
    pub all: bool,

    /// A TOML file of further rules: where packages wait by design, where an answer is owed, which variables name a request. They
    /// take precedence over the built-in ones. The format: docs/rules.md
    #[arg(long, value_name = "FILE")]
    pub rules: Option<PathBuf>,

    /// Show secrets too: in requests, values of SQL statements, command lines
    #[arg(long)]
    pub no_redact: bool,

    /// Print nothing, only set the exit code (for probes)
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

    /// Dump the descendants too
    #[arg(short, long)]
    pub subprocesses: bool,

    /// Show the arguments and local variables of each frame, without what looks like a secret. Given twice (-ll), long ones are not
    /// shortened to a line
    #[arg(short, long, action = ArgAction::Count)]
    pub locals: u8,

    /// Show secrets too: passwords, tokens, keys, in variables and command lines
    #[arg(long)]
    pub no_redact: bool,

    /// How long a program that was started runs before it is dumped
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_duration)]
    pub after: Duration,

    #[command(flatten)]
    pub reading: ReadingArguments,
}

/// How processes are sampled, and which samples count.
#[derive(Debug, Args)]
pub struct SamplingArguments {
    /// Samples per second
    #[arg(short, long, value_name = "HZ", default_value_t = 100, value_parser = parse_rate)]
    pub rate: u32,

    /// Sample the descendants too, as they start and end
    #[arg(short, long)]
    pub subprocesses: bool,

    /// Include threads that are off-CPU (blocked)
    #[arg(short, long)]
    pub idle: bool,

    /// Include only threads that hold the GIL
    #[arg(short, long)]
    pub gil: bool,

    /// Add up by function, not by line
    #[arg(short = 'F', long)]
    pub function: bool,

    /// Do not show line numbers
    #[arg(long)]
    pub nolineno: bool,

    /// Show full paths of files
    #[arg(long)]
    pub full_filenames: bool,

    /// Stop each running thread briefly while it is read, for at most 10 % of the time (never needed for a correct profile)
    #[arg(long, conflicts_with = "nonblocking")]
    pub blocking: bool,

    /// Do not stop the target (default)
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

    /// The file to write, - for standard output. Default: a name made of the pid and the time
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// The format to write. Default: by the end of the file's name; flamegraph if the name has none
    #[arg(short, long, value_enum)]
    pub format: Option<Format>,

    /// How long to sample, e.g. 30s, 5m; a bare number is seconds. Default: until Ctrl-C or the end of the target (`unlimited`)
    #[arg(short, long, value_name = "DURATION", default_value = "unlimited", hide_default_value = true, value_parser = parse_length)]
    pub duration: Length,

    /// Show threads separately
    #[arg(short, long)]
    pub threads: bool,

    /// Do not show progress
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

    /// How long a thread may be blocked before it counts as stuck, e.g. 30s, 5m, 250ms; a bare number is seconds
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    pub threshold: Duration,

    /// Time between two refreshes, e.g. 1s, 500ms; a bare number is seconds
    #[arg(short, long, value_name = "DURATION", default_value = "1s", value_parser = parse_delay)]
    pub delay: Duration,

    /// End after N refreshes, which are printed one below the other
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub count: Option<u64>,

    #[command(flatten)]
    pub sampling: SamplingArguments,
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArguments {
    /// The target process, in decimal or hexadecimal (0x2340)
    #[arg(short, long, value_name = "PID", value_parser = parse_pid)]
    pub pid: Option<i32>,
}

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub struct ExplainArguments {
    /// The verdict, as `diagnose` names it; without it, all of them
    #[arg(value_name = "VERDICT", value_parser = parse_verdict)]
    pub verdict: Option<VerdictClass>,
}

/// Arguments of `stay`.
#[derive(Debug, Args)]
pub struct StayArguments {
    /// How long to sleep, e.g. 15m; a bare number is seconds
    #[arg(value_name = "DURATION", default_value = "15m", value_parser = parse_duration)]
    pub time: Duration,
}

fn parse_verdict(name: &str) -> Result<VerdictClass, String> {
    VerdictClass::from_name(name).ok_or_else(|| {
        let names: Vec<_> = VerdictClass::ALL.map(VerdictClass::name).into();
        format!("one of {}", names.join(", "))
    })
}

/// The lowest confidence that counts as a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FailOn {
    /// Any finding
    Possible,
    /// Findings that are likely or proven
    Likely,
    /// Findings that are proven
    Proven,
}

impl FailOn {
    /// The confidence that it stands for.
    pub fn confidence(self) -> Confidence {
        match self {
            FailOn::Possible => Confidence::Possible,
            FailOn::Likely => Confidence::Likely,
            FailOn::Proven => Confidence::Proven,
        }
    }
}

/// A pid: decimal, or hexadecimal with `0x` as py-spy takes it.
fn parse_pid(text: &str) -> Result<i32, String> {
    let hexadecimal = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let pid = match hexadecimal {
        Some(digits) => i32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    pid.ok()
        .filter(|pid| *pid > 0)
        .ok_or_else(|| format!("a pid is between 1 and {}, e.g. 4242 or 0x1092", i32::MAX))
}

fn parse_rate(text: &str) -> Result<u32, String> {
    let rate = text.parse().ok();
    rate.filter(|rate| (1..=MAX_RATE).contains(rate))
        .ok_or_else(|| format!("a whole number between 1 and {MAX_RATE}, e.g. 100"))
}

fn parse_count(text: &str) -> Result<u64, String> {
    let count = text.parse().ok();
    count
        .filter(|count| *count > 0)
        .ok_or_else(|| format!("a whole number between 1 and {}, e.g. 10", u64::MAX))
}

/// A time between refreshes: batches of samples come ten times a second, and nobody reads faster.
fn parse_delay(text: &str) -> Result<Duration, String> {
    at_least(Duration::from_millis(100), text)
}

/// A time limit for all reading: one step takes milliseconds.
fn parse_deadline(text: &str) -> Result<Duration, String> {
    at_least(Duration::from_millis(100), text)
}

fn at_least(least: Duration, text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    if duration < least {
        return Err(format!(
            "at least {}, e.g. 1s, 500ms",
            humantime::format_duration(least)
        ));
    }
    Ok(duration)
}

/// How long something goes on: for this time, or until something else ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Length(pub Option<Duration>);

/// A length of time, or `unlimited`.
fn parse_length(text: &str) -> Result<Length, String> {
    match text {
        "unlimited" => Ok(Length(None)),
        text => match parse_duration(text) {
            Ok(duration) => Ok(Length(Some(duration))),
            Err(allowed) => Err(format!("{allowed}, or unlimited")),
        },
    }
}

/// A length of time; a bare number is seconds.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok();
    let duration = match seconds {
        Some(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        None => humantime::parse_duration(text).ok(),
    };
    duration.ok_or_else(|| "a duration is e.g. 30s, 5m, 250ms, 2.5 (seconds)".to_owned())
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

    fn parse(words: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(words.split(' '))
    }

    fn error_of(words: &str) -> String {
        parse(words).unwrap_err().to_string()
    }

    #[test]
    fn a_pid_and_a_command_exclude_each_other() {
        assert!(parse("stuckspy dump -p 7").is_ok());
        assert!(parse("stuckspy dump -- python3 -c pass").is_ok());
        assert!(parse("stuckspy dump -p 7 -- python3").is_err());
        assert!(parse("stuckspy dump -p 7 python3").is_err());
        assert!(parse("stuckspy dump --blocking --nonblocking").is_err());
    }

    #[test]
    fn a_pid_is_decimal_or_hexadecimal() {
        let pid = |text: &str| match parse(&format!("stuckspy top --pid {text}")) {
            Ok(Arguments {
                command: Command::Top(top),
                ..
            }) => top.target.pid,
            _ => None,
        };
        assert_eq!(pid("9024"), Some(0x2340));
        assert_eq!(pid("0x2340"), Some(0x2340));
        assert_eq!(pid("0Xff"), Some(255));
        for wrong in ["0", "-1", "0x", "0x-1", "ff", "2147483648", "4242abc"] {
            assert_eq!(pid(wrong), None, "{wrong}");
        }
        assert!(error_of("stuckspy doctor --pid 0").contains("between 1 and 2147483647"));
    }

    /// As py-spy has it: options of ours stand before the program, those after it are its own.
    #[test]
    fn a_program_needs_no_dashes_before_it() {
        let program = |words: &str| {
            let (target, is_verbose) = match parse(words).unwrap() {
                Arguments {
                    command: Command::Record(command),
                    verbose,
                } => (command.target, verbose),
                Arguments {
                    command: Command::Diagnose(command),
                    verbose,
                } => (command.target, verbose),
                other => panic!("{other:?}"),
            };
            assert!(!is_verbose, "{words}");
            target.launch.join(std::ffi::OsStr::new(" "))
        };
        assert_eq!(
            program("stuckspy record -o x.svg python3 job.py -v -o y --pid 7"),
            "python3 job.py -v -o y --pid 7"
        );
        assert_eq!(
            program("stuckspy diagnose --threshold 5s python3 -m a --help -- b"),
            "python3 -m a --help -- b"
        );
        assert_eq!(
            program("stuckspy record -o x.svg -- python3 -- --json"),
            "python3 -- --json"
        );
        assert!(error_of("stuckspy record --outptu x python3").contains("--outptu"));
    }

    #[test]
    fn dump_takes_the_flags_of_py_spy() {
        let locals = |words: &str| match parse(words).unwrap().command {
            Command::Dump(dump) => dump.locals,
            other => panic!("{other:?}"),
        };
        assert_eq!(locals("stuckspy dump -p 7 -j -s --full-filenames"), 0);
        assert_eq!(locals("stuckspy dump -p 7 --locals"), 1);
        assert_eq!(locals("stuckspy dump -ll -p 7"), 2);
    }

    #[test]
    fn errors_say_what_is_allowed() {
        for words in ["record -r 0", "top -r 10001", "record -r many"] {
            let error = error_of(&format!("stuckspy {words}"));
            assert!(error.contains("between 1 and 10000"), "{error}");
        }
        for words in [
            "diagnose --threshold soon",
            "diagnose --window=-1",
            "record -d inf",
            "dump --after 1parsec",
            "dump --deadline x",
        ] {
            let error = error_of(&format!("stuckspy {words}"));
            assert!(error.contains("e.g. 30s"), "{error}");
        }
        assert!(error_of("stuckspy record -d ever").contains("unlimited"));
        assert!(error_of("stuckspy top -d 0.05").contains("at least 100ms, e.g. 1s"));
        assert!(error_of("stuckspy top --count 0").contains("between 1 and"));
        let error = error_of("stuckspy diagnose --fail-on certain");
        assert!(error.contains("possible, likely, proven"), "{error}");
    }

    #[test]
    fn top_takes_the_flags_of_py_spy() {
        let words =
            "stuckspy top -p 7 -r 250 -s -g -i -F --nolineno --full-filenames --nonblocking -d 2.5";
        assert!(parse(words).is_ok());
        assert!(parse("stuckspy top --delay 0.5 python3 job.py").is_ok());
    }
}
