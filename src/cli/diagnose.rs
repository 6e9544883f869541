//! `stuckspy diagnose`: what is stuck in a process and its descendants.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use super::args::DiagnoseArguments;
use super::exit::{ExitStatus, Failure, denied, status_of_diagnosis};
use super::hints::{access_hint, descriptors_hint};
use super::printer::Printer;
use super::progress::Progress;
use super::selection::Selection;
use super::stops::say_stops;
use super::worker_link;
use crate::diagnose::rules::Rules;
use crate::diagnose::{
    DiagnoseOptions, MAX_WATCHED, Observed, Observer, advise, diagnose, find_context,
    idle_by_values, processes_to_watch,
};
use crate::model::{
    Context, Finding, Pid, ProcessSnapshot, ThreadRef, ThreadSnapshot, VerdictClass,
};
use crate::redact::{redact_commands, redact_context};
use crate::report::answer::{AnswerOptions, write_diagnosis};
use crate::report::json::{self, DiagnosisDocument, Head};
use crate::report::text::TextOptions;
use crate::sampler::watch;
use crate::snapshot::stops::StopAccount;
use crate::snapshot::{CaptureOptions, Locals, TreeCapture, TreeOptions, capture_tree};
use crate::sys::bounded_read::read_bounded;
use crate::sys::deadline::TimeBudget;
use crate::sys::descriptors::is_shortage;
use crate::sys::job_control::DeferredSuspension;
use crate::target::access::AccessReport;
use crate::target::launch::Launched;
use crate::target::{Target, TargetError};

/// How often a program that we have started is looked at.
const WATCH: Duration = Duration::from_millis(500);

/// Most bytes of a file of rules; the built-in ones have 110 KiB.
const MAX_RULES: usize = 1 << 20;
/// How long such a file, which may be a pipe, may take to come to its end.
const RULES_DEADLINE: Duration = Duration::from_secs(5);
/// Most findings whose call is looked into.
const MAX_CONTEXTS: usize = 16;

/// What was seen at one look.
struct Look {
    taken_at: SystemTime,
    took: Duration,
    processes: Vec<ProcessSnapshot>,
    findings: Vec<Finding>,
    stops: StopAccount,
    /// Processes that were not watched, since there were too many.
    unwatched: usize,
}

/// Runs the command.
pub fn run(arguments: &DiagnoseArguments, printer: &Printer) -> Result<ExitStatus, Failure> {
    let rules = read_rules(arguments)?;
    match Selection::resolve_tree(&arguments.target, printer)? {
        Selection::Running(pid) => show(&look(pid, arguments, &rules)?, pid, arguments, printer),
        Selection::Launched(mut launched) => {
            await_trouble(&mut launched, arguments, &rules, printer)
        }
    }
}

/// The rules that are built in, and those of a file.
fn read_rules(arguments: &DiagnoseArguments) -> Result<Rules, Failure> {
    let Some(path) = &arguments.rules else {
        return Ok(Rules::built_in().clone());
    };
    let failed = |reason: String| Failure::Rules {
        path: path.clone(),
        reason,
    };
    let bytes =
        read_bounded(path, MAX_RULES, RULES_DEADLINE).map_err(|error| failed(error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|error| failed(error.to_string()))?;
    let more = Rules::parse(&text).map_err(|error| failed(error.to_string()))?;
    Ok(Rules::built_in().extended(more))
}

fn look(pid: Pid, arguments: &DiagnoseArguments, rules: &Rules) -> Result<Look, Failure> {
    let (taken_at, started) = (SystemTime::now(), Instant::now());
    let deadline = arguments.reading.deadline;
    worker_link::reading_ends_within(deadline.saturating_add(arguments.window));
    let mut options = TreeOptions {
        capture: CaptureOptions {
            is_blocking: arguments.reading.blocking,
            looks_for_listeners: true,
            time: TimeBudget::new(deadline),
            ..CaptureOptions::default()
        },
        subprocesses: !arguments.no_children,
        holders_after: Some(arguments.threshold),
    };
    let deferred = arguments.reading.blocking.then(DeferredSuspension::begin);
    let mut tree = capture(pid, arguments, options)?;
    let judge = |processes: &mut [ProcessSnapshot],
                 observed: Option<&Observed>,
                 idle: Option<&BTreeMap<ThreadRef, String>>| {
        let options = DiagnoseOptions {
            threshold: arguments.threshold,
            rules,
            observed,
            idle_by_values: idle,
        };
        diagnose(processes, options)
    };
    let mut stops = tree.stops;
    let mut findings = judge(&mut tree.processes, None, None);
    let mut observed = None;
    let mut unwatched = 0;
    if findings.is_empty() && !arguments.window.is_zero() {
        let mut pids = processes_to_watch(&tree.processes, arguments.threshold);
        unwatched = pids.len().saturating_sub(MAX_WATCHED);
        pids.truncate(MAX_WATCHED);
        if !pids.is_empty() {
            options.capture.time = options.capture.time.extended(arguments.window);
            // It needs no stops, and so many would be too many.
            let watched = CaptureOptions {
                is_blocking: false,
                ..options.capture
            };
            observed = Some(observe(&pids, arguments, watched));
            // If all has ended meanwhile, what was seen before is what there is to tell.
            if let Ok(later) = capture(pid, arguments, options) {
                stops.add(later.stops);
                tree = later;
            }
            findings = judge(&mut tree.processes, observed.as_ref(), None);
        }
    }
    drop(deferred);
    let mut looks = LooksWithLocals {
        time: options.capture.time,
        taken: BTreeMap::new(),
    };
    let idle = find_idle_by_values(&findings, &tree.processes, rules, &mut looks);
    if !idle.is_empty() {
        findings = judge(&mut tree.processes, observed.as_ref(), Some(&idle));
    }
    add_context(&mut findings, &tree.processes, arguments, rules, &mut looks);
    Ok(Look {
        unwatched,
        taken_at,
        took: started.elapsed(),
        processes: tree.processes,
        findings,
        stops,
    })
}

/// Captures the tree. What is judged has no secrets in its command lines any more: verdicts say them in words.
fn capture(
    pid: Pid,
    arguments: &DiagnoseArguments,
    options: TreeOptions,
) -> Result<TreeCapture, Failure> {
    let mut tree = capture_tree(pid, options)?;
    if !arguments.no_redact {
        redact_commands(&mut tree.processes);
    }
    Ok(tree)
}

/// Watches processes for the window.
fn observe(pids: &[Pid], arguments: &DiagnoseArguments, options: CaptureOptions) -> Observed {
    let progress = Progress::new(Some(arguments.window), arguments.quiet);
    let mut observer = Observer::default();
    watch(pids, arguments.window, options, &mut |seen, moment| {
        progress.tell(
            moment.elapsed,
            "watching whether it gets anywhere; --window 0 does not",
        );
        observer.see(seen, moment);
    });
    progress.clear();
    observer.finish()
}

/// Processes captured once more with the variables of their frames, when one of their threads is stuck: those do not move.
struct LooksWithLocals {
    time: TimeBudget,
    taken: BTreeMap<Pid, Vec<ProcessSnapshot>>,
}

impl LooksWithLocals {
    /// A thread with its variables, if it is where it was.
    fn thread(&mut self, key: ThreadRef, processes: &[ProcessSnapshot]) -> Option<ThreadSnapshot> {
        let find = |processes: &[ProcessSnapshot]| {
            let process = processes.iter().find(|process| process.pid == key.pid)?;
            let mut threads = process.threads.iter();
            threads.find(|thread| thread.tid == key.tid).cloned()
        };
        let thread = find(processes)?;
        let time = self.time;
        let look = self.taken.entry(key.pid).or_insert_with(|| {
            let options = TreeOptions {
                capture: CaptureOptions {
                    locals: Locals::All,
                    time,
                    ..CaptureOptions::default()
                },
                subprocesses: false,
                holders_after: None,
            };
            let tree = capture_tree(key.pid, options);
            tree.map(|tree| tree.processes).unwrap_or_default()
        });
        let again = find(look)?;
        let is_same = again.frames.len() == thread.frames.len()
            && again
                .frames
                .iter()
                .zip(&thread.frames)
                .all(|(one, other)| one.is_same_call(other));
        is_same.then_some(again)
    }
}

/// The threads that seem to wait for an answer, and by the values of their variables wait for news: each with why.
fn find_idle_by_values(
    findings: &[Finding],
    processes: &[ProcessSnapshot],
    rules: &Rules,
    looks: &mut LooksWithLocals,
) -> BTreeMap<ThreadRef, String> {
    let is_network = |finding: &&Finding| finding.verdict == VerdictClass::HangNetwork;
    let waiting = findings.iter().filter(is_network).take(MAX_CONTEXTS);
    let idle = waiting.filter_map(|finding| {
        let thread = looks.thread(finding.teller, processes)?;
        Some((finding.teller, idle_by_values(&thread, rules)?))
    });
    idle.collect()
}

/// Finds out what the stuck calls are about, from their variables.
fn add_context(
    findings: &mut [Finding],
    processes: &[ProcessSnapshot],
    arguments: &DiagnoseArguments,
    rules: &Rules,
    looks: &mut LooksWithLocals,
) {
    for finding in findings.iter_mut().take(MAX_CONTEXTS) {
        // What it is about is known to the thread that tells it; if that was stopped, to the one that waits for it.
        let direct = finding.chain.last().map(|link| link.thread);
        let mut keys = [Some(finding.teller), direct].into_iter().flatten();
        let context = keys.find_map(|key| context_of(key, processes, rules, looks));
        finding.context = context.map(|mut context| {
            if !arguments.no_redact {
                redact_context(&mut context);
            }
            context
        });
        // A proxy, say, is known by its request only.
        advise(finding, processes);
    }
}

/// What the call of one thread is about.
fn context_of(
    key: ThreadRef,
    processes: &[ProcessSnapshot],
    rules: &Rules,
    looks: &mut LooksWithLocals,
) -> Option<Context> {
    let process = processes.iter().find(|process| process.pid == key.pid)?;
    let thread = process
        .threads
        .iter()
        .find(|thread| thread.tid == key.tid)?;
    let mut frames = thread.frames.iter();
    frames.find(|frame| rules.find_context(frame).is_some())?;
    find_context(&looks.thread(key, processes)?.frames, rules)
}

/// Whether a program is ended for a finding. One that seems to go round in circles may yet get somewhere, until the threshold.
fn is_lasting(finding: &Finding, threshold: Duration) -> bool {
    finding.verdict != VerdictClass::Spin || finding.since.is_some_and(|since| since >= threshold)
}

/// Whether the target is there and there were too few descriptors to open it.
fn is_unopened(error: &TargetError) -> bool {
    matches!(error, TargetError::Io { source, .. } if is_shortage(source))
}

/// Looks again and again until something is stuck, or the program ends: then nothing was.
fn await_trouble(
    launched: &mut Launched,
    arguments: &DiagnoseArguments,
    rules: &Rules,
    printer: &Printer,
) -> Result<ExitStatus, Failure> {
    let pid = launched.pid();
    loop {
        std::thread::sleep(WATCH.min(arguments.threshold.max(Duration::from_millis(50))));
        if launched.has_ended() {
            printer.warn("the program ended by itself; nothing in it was stuck");
            return Ok(ExitStatus::Done);
        }
        match look(pid, arguments, rules) {
            Ok(look)
                if look
                    .findings
                    .iter()
                    .any(|finding| is_lasting(finding, arguments.threshold)) =>
            {
                return show(&look, pid, arguments, printer);
            }
            Ok(look) => {
                let status = status_of_diagnosis(&look.processes, false);
                // Between its start and its first line it has no Python yet; what never comes right is told at its end.
                if matches!(status, ExitStatus::Denied | ExitStatus::Incomplete) {
                    return show(&look, pid, arguments, printer);
                }
            }
            // It ended between the two.
            Err(Failure::Target(error)) if !is_unopened(&error) => {}
            Err(failure) => return Err(failure),
        }
    }
}

fn show(
    look: &Look,
    pid: Pid,
    arguments: &DiagnoseArguments,
    printer: &Printer,
) -> Result<ExitStatus, Failure> {
    let reading = &arguments.reading;
    let status = status_of_diagnosis(&look.processes, !look.findings.is_empty());
    if arguments.quiet {
        return Ok(status);
    }
    if reading.json {
        let access = Target::open(pid)
            .map(|target| AccessReport::probe(Some(&target)).access)
            .unwrap_or_default();
        let head = Head::new(look.taken_at, look.took);
        let document = DiagnosisDocument::new(
            head,
            access,
            arguments.threshold,
            &look.processes,
            &look.findings,
        );
        printer.print(|out| json::write(&document, out))?;
    } else {
        let options = AnswerOptions {
            text: TextOptions {
                full_filenames: reading.full_filenames,
                ..TextOptions::default()
            },
            threshold: arguments.threshold,
            is_all: arguments.all,
        };
        printer.print(|out| write_diagnosis(&look.processes, &look.findings, options, out))?;
    }
    if look.unwatched > 0 {
        printer.warn(&format!(
            "watched {MAX_WATCHED} processes for progress; {} more were sampled once only",
            look.unwatched
        ));
    }
    if reading.blocking {
        say_stops(look.stops, printer);
    }
    if let Some(hint) = denied(&look.processes).and_then(access_hint) {
        printer.hint(&hint);
    }
    if let Some(hint) = descriptors_hint(&look.processes) {
        printer.hint(&hint);
    }
    Ok(status)
}
