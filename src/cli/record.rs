//! `stuckspy record`: samples a process and writes where its time went.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::args::{RecordArguments, SamplingArguments};
use super::exit::{ExitStatus, Failure};
use super::hints::{access_hint, limit_hint};
use super::printer::Printer;
use super::progress::Progress;
use super::selection::Selection;
use super::signals::Signals;
use super::stops::in_words;
use crate::export::{Format, Output, Style};
use crate::model::{Batch, Pid, SamplingEnd, span};
use crate::profile::{BuilderOptions, Profile, ProfileBuilder, Weight};
use crate::sampler::{SamplerOptions, Sampling};
use crate::snapshot::stops::StopAccount;
use crate::sys::job_control::DeferredSuspension;
use crate::target::launch::ProgramOutput;

/// How long a batch may be in coming before it is said that none comes.
const MAX_SILENCE: Duration = Duration::from_secs(5);
/// How long the last batch is waited for.
const MAX_GOODBYE: Duration = Duration::from_secs(2);
/// One in so many samples that is late is worth a word of advice.
const MANY_LATE: u64 = 20;
/// How often signals are looked for.
const ROUND: Duration = Duration::from_millis(100);

/// Runs the command.
pub fn run(arguments: &RecordArguments, printer: &Printer) -> Result<ExitStatus, Failure> {
    let format = choose_format(arguments)?;
    let is_for_stdout = arguments.output.as_deref() == Some(Path::new("-"));
    if is_for_stdout && std::io::stdout().is_terminal() {
        return Err(Failure::DataToTerminal);
    }
    // Signals that come while the target is looked for must not lose anything either.
    let signals = Signals::catch(printer)?;
    // What nobody named is named after the process, which is known only then; a file that can't be written is told before
    // anything is started.
    let open = |path: &Path| Output::open(path, signals.end());
    let named = arguments.output.as_deref().map(open).transpose()?;
    let program_output = match is_for_stdout {
        true => ProgramOutput::Stderr,
        false => ProgramOutput::Stdout,
    };
    let selection = Selection::resolve(&arguments.target, program_output, printer)?;
    let pid = selection.pid();
    let mut output = match named {
        Some(output) => output,
        None => open(&default_name(pid, format))?,
    };
    let deferred = (arguments.sampling.blocking).then(DeferredSuspension::begin);
    let mut sampling = Sampling::start(pid, options(arguments))?;
    let mut recording = Recording::new(arguments, format, printer);
    recording.follow(&mut sampling, &signals, &mut output)?;
    drop(deferred);
    recording.finish(&mut output, pid)
}

fn options(arguments: &RecordArguments) -> SamplerOptions {
    SamplerOptions {
        duration: arguments.duration.0,
        ..arguments.sampling.options()
    }
}

/// The format that is asked for, or that the end of the file's name stands for. A name that says nothing is a flame graph's.
fn choose_format(arguments: &RecordArguments) -> Result<Format, Failure> {
    if let Some(format) = arguments.format {
        return Ok(format);
    }
    let Some(path) = arguments.output.as_deref() else {
        return Ok(Format::Flamegraph);
    };
    match Format::of_file_name(path) {
        Some(format) => Ok(format),
        None if path.extension().is_some() => Err(Failure::UnknownFormat(path.to_owned())),
        None => Ok(Format::Flamegraph),
    }
}

fn default_name(pid: Pid, format: Format) -> PathBuf {
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let stamp: String = now.chars().filter(|letter| *letter != ':').collect();
    PathBuf::from(format!("stuckspy-{pid}-{stamp}.{}", format.extension()))
}

/// A recording under way.
struct Recording<'a> {
    printer: &'a Printer,
    format: Format,
    style: Style,
    builder: ProfileBuilder,
    progress: Progress,
    end: Option<SamplingEnd>,
    is_blocking: bool,
}

impl<'a> Recording<'a> {
    fn new(arguments: &RecordArguments, format: Format, printer: &'a Printer) -> Self {
        let SamplingArguments { idle, gil, .. } = arguments.sampling;
        let options = BuilderOptions {
            idle,
            gil,
            by_function: arguments.sampling.function,
            without_lines: arguments.sampling.nolineno,
            timeline: format.needs_timeline(),
        };
        Recording {
            printer,
            format,
            style: Style {
                threads: arguments.threads,
                processes: arguments.sampling.subprocesses,
                full_filenames: arguments.sampling.full_filenames,
            },
            builder: ProfileBuilder::new(options, SystemTime::now()),
            progress: Progress::new(arguments.duration.0, arguments.hide_progress),
            end: None,
            is_blocking: arguments.sampling.blocking,
        }
    }

    /// Takes what comes in until it is over.
    fn follow(
        &mut self,
        sampling: &mut Sampling,
        signals: &Signals,
        output: &mut Output,
    ) -> Result<(), Failure> {
        let mut heard = Instant::now();
        let mut is_silence_told = false;
        while self.end.is_none() {
            match sampling.next(ROUND) {
                Some(batch) => {
                    heard = Instant::now();
                    self.take(&batch);
                }
                None if heard.elapsed() > MAX_SILENCE && !is_silence_told => {
                    is_silence_told = true;
                    self.talk("no samples for 5 s: reading the target is blocked, probably because its mmap_lock is held");
                }
                None => {}
            }
            if signals.take_report() {
                let profile = self.builder.profile();
                let cut = write(output, self.format, profile, self.style)?;
                let text = summary(output, profile, cut);
                self.talk(&format!("{text}; still recording"));
            }
            if signals.is_end() {
                for batch in sampling.finish(MAX_GOODBYE) {
                    self.take(&batch);
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, batch: &Batch) {
        self.builder.add(batch);
        for remark in &batch.remarks {
            self.talk(remark);
        }
        self.progress.show(self.builder.profile());
        if batch.end.is_some() {
            self.end.clone_from(&batch.end);
        }
    }

    fn talk(&self, text: &str) {
        self.progress.suspend(|| self.printer.warn(text));
    }

    fn finish(self, output: &mut Output, pid: Pid) -> Result<ExitStatus, Failure> {
        self.progress.clear();
        let profile = self.builder.profile();
        if profile.stats.taken == 0 && self.end == Some(SamplingEnd::TargetEnded) {
            return Err(Failure::Target(crate::target::TargetError::Ended(pid)));
        }
        let cut = write(output, self.format, profile, self.style)?;
        if let Some(SamplingEnd::Failed(reason)) = &self.end {
            self.printer.warn(reason);
        }
        self.printer.warn(&summary(output, profile, cut));
        let is_often_late = profile.stats.late > profile.stats.taken / MANY_LATE;
        if is_often_late && !profile.stats.is_prompt && !self.is_blocking {
            self.printer
                .hint("with CAP_SYS_NICE (root has it) samples are taken when they are due, and shares are more exact");
        }
        if profile.stats.unread > 0 {
            self.printer.hint(&limit_hint());
        }
        if profile.totals.is_empty() {
            if profile.stats.unread > 0 {
                return Ok(ExitStatus::Incomplete);
            }
            self.explain_nothing(profile, pid);
        }
        Ok(ExitStatus::Done)
    }

    /// A recording without a stack is a riddle to whoever made it.
    fn explain_nothing(&self, profile: &Profile, pid: Pid) {
        if profile
            .processes
            .iter()
            .all(|process| process.python.is_none())
        {
            self.printer.warn("no Python was found");
            if let Some(hint) = access_hint(pid) {
                self.printer.hint(&hint);
            }
        } else if profile.stats.taken > 0 {
            self.printer
                .hint("no thread was on-CPU during the recording: --idle includes blocked threads, `stuckspy diagnose` shows what they wait for");
        }
    }
}

fn write(
    output: &mut Output,
    format: Format,
    profile: &Profile,
    style: Style,
) -> Result<Weight, Failure> {
    let mut cut = Weight::default();
    let written = output.write(|out| {
        cut = format.write(profile, style, out)?;
        Ok(())
    });
    match written {
        // Whoever reads only its beginning is welcome to that.
        Err(error) if error.io().kind() == std::io::ErrorKind::BrokenPipe => Ok(cut),
        result => Ok(result.map(|()| cut)?),
    }
}

/// What was written, with `cut` of it in less detail than there is, and what it rests on.
fn summary(output: &Output, profile: &Profile, cut: Weight) -> String {
    let stats = profile.stats;
    let name = if output.path() == Path::new("-") {
        "the standard output".to_owned()
    } else {
        output.path().display().to_string()
    };
    let percent = |part: u64, whole: u64| 100.0 * part as f64 / (whole.max(1)) as f64;
    let mut text = format!(
        "wrote {name}: {} samples in {}",
        stats.taken,
        span(stats.elapsed)
    );
    let mut flaws = Vec::new();
    if stats.lost > 0 {
        let share = percent(stats.lost, stats.taken + stats.lost);
        flaws.push(format!("{} lost ({share:.1} %)", stats.lost));
    }
    if stats.late > 0 {
        let share = percent(stats.late, stats.taken);
        flaws.push(format!("{} late ({share:.1} %)", stats.late));
    }
    if stats.torn > 0 {
        let share = percent(stats.torn, stats.stacks);
        flaws.push(format!("{} stacks torn ({share:.2} %)", stats.torn));
    }
    if stats.unread > 0 {
        let threads = if stats.unread == 1 {
            "thread"
        } else {
            "threads"
        };
        flaws.push(format!("{} {threads} could not be read", stats.unread));
    }
    let partial = profile.cut.time + cut.time;
    if !partial.is_zero() {
        let whole: Duration = profile.totals.values().map(|weight| weight.time).sum();
        let share = 100.0 * partial.as_secs_f64() / whole.as_secs_f64().max(1e-9);
        // Some stacks may have been cut both when they were read and when they were written.
        let share = share.min(100.0);
        flaws.push(format!(
            "{share:.1} % of the time has shortened stacks, since the file would be too large"
        ));
    }
    if flaws.is_empty() {
        flaws.push("none lost or late".to_owned());
    }
    text.push_str(&format!(", {}", flaws.join(", ")));
    let share = 100.0 * stats.cpu.as_secs_f64() / stats.elapsed.as_secs_f64().max(1e-9);
    text.push_str(&format!("; stuckspy took {share:.1} % of a processor"));
    let stops = StopAccount {
        made: stats.stops,
        left_out: stats.unstopped,
        pause: stats.pause,
    };
    if stops != StopAccount::default() {
        text.push_str(&format!("; {}", in_words(stops)));
    }
    text
}
