//! One examination of a process and its descendants: a snapshot, an observation of what it leaves open, and the verdicts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

use super::args::DiagnoseArguments;
use super::exit::Failure;
use super::progress::Progress;
use super::request::{SnapshotsWithLocals, add_requests, find_idle_by_values};
use super::worker_link;
use crate::diagnose::rules::Rules;
use crate::diagnose::{
    DiagnoseOptions, MAX_WATCHED, Observed, Observer, diagnose, find_attempts, is_between_slices,
    processes_to_watch, waits_inside,
};
use crate::model::{Finding, Pid, ProcessSnapshot, ThreadRef, VerdictClass, Wait};
use crate::redact::redact_commands;
use crate::sampler::Watch;
use crate::snapshot::stops::StopAccount;
use crate::snapshot::{CaptureOptions, TreeCapture, TreeOptions, capture_tree_with};
use crate::sys::deadline::TimeBudget;
use crate::sys::job_control::DeferredSuspension;
use crate::target::connections::list_connections;
use crate::wait::find_retried;

/// The observation window where none is given.
pub const DEFAULT_WINDOW: Duration = Duration::from_secs(2);

/// Shortest time from one judgement to the next while it is open whether something is stuck.
const MIN_ROUND: Duration = Duration::from_secs(1);
/// The next judgement comes after at least so many parts of the time that has passed, and so many times what the last one took.
const ROUND_SHARE: u32 = 10;
/// Most threads that wait in slices for which it is looked for what they try to take.
const MAX_ATTEMPTS: usize = 16;
/// Most captures at the end of an observation, where a thread is met between two slices of its wait.
const MAX_CAPTURES: usize = 3;

/// What was found at one examination.
pub struct Examination {
    /// When it began.
    pub taken_at: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// The processes, with a verdict for each thread.
    pub processes: Vec<ProcessSnapshot>,
    /// What is stuck.
    pub findings: Vec<Finding>,
    /// What `--blocking` has cost the target.
    pub stops: StopAccount,
    /// Processes that were not watched, since there were too many.
    pub unwatched: usize,
}

impl Examination {
    /// The examination of a program that has ended.
    pub fn of_nothing() -> Examination {
        Examination {
            taken_at: SystemTime::now(),
            took: Duration::ZERO,
            processes: Vec::new(),
            findings: Vec::new(),
            stops: StopAccount::default(),
            unwatched: 0,
        }
    }
}

/// For how long a process is watched.
pub struct Patience<'a> {
    /// For how long at first.
    pub window: Duration,
    /// For how long at most, as long as it is open whether something is stuck.
    pub longest: Duration,
    /// Whether it is shown how far it has come.
    pub shows_progress: bool,
    /// Whether the answer is wanted now.
    pub is_over: &'a mut dyn FnMut() -> bool,
}

impl Patience<'_> {
    fn is_adaptive(&self) -> bool {
        self.longest > self.window
    }
}

/// Examines a process and its descendants.
pub fn examine(
    pid: Pid,
    arguments: &DiagnoseArguments,
    rules: &Rules,
    patience: &mut Patience<'_>,
) -> Result<Examination, Failure> {
    let (taken_at, started) = (SystemTime::now(), Instant::now());
    let deadline = arguments.reading.deadline;
    worker_link::reading_ends_within(deadline);
    let deferred = arguments.reading.blocking.then(DeferredSuspension::begin);
    let mut examiner = Examiner::start(pid, arguments, rules, TimeBudget::new(deadline))?;
    if examiner.findings.is_empty() && !patience.window.is_zero() {
        examiner.observe(patience);
    }
    drop(deferred);
    let mut snapshots = SnapshotsWithLocals::new(examiner.options.capture.time);
    examiner.leave_out_idle(&mut snapshots);
    let Examiner {
        tree,
        mut findings,
        unwatched,
        ..
    } = examiner;
    add_requests(
        &mut findings,
        &tree.processes,
        arguments,
        rules,
        &mut snapshots,
    );
    Ok(Examination {
        taken_at,
        took: started.elapsed(),
        processes: tree.processes,
        findings,
        stops: tree.stops,
        unwatched,
    })
}

/// An examination under way.
struct Examiner<'a> {
    pid: Pid,
    arguments: &'a DiagnoseArguments,
    rules: &'a Rules,
    options: TreeOptions,
    tree: TreeCapture,
    findings: Vec<Finding>,
    /// What was seen while it was watched, if it was.
    observed: Option<Observed>,
    unwatched: usize,
}

impl<'a> Examiner<'a> {
    /// The first snapshot, and what it says.
    fn start(
        pid: Pid,
        arguments: &'a DiagnoseArguments,
        rules: &'a Rules,
        time: TimeBudget,
    ) -> Result<Self, Failure> {
        let options = TreeOptions {
            capture: CaptureOptions {
                is_blocking: arguments.reading.blocking,
                looks_for_listeners: true,
                reach_after: Some(arguments.threshold),
                time,
                ..CaptureOptions::default()
            },
            subprocesses: !arguments.no_children,
            holders_after: Some(arguments.threshold),
        };
        let mut examiner = Examiner {
            pid,
            arguments,
            rules,
            options,
            tree: capture(pid, arguments, options, &BTreeMap::new())?,
            findings: Vec::new(),
            observed: None,
            unwatched: 0,
        };
        examiner.judge(None);
        Ok(examiner)
    }

    /// Watches the processes in which something may be stuck: for the window, and on for as long as that is open.
    fn observe(&mut self, patience: &mut Patience<'_>) {
        let threshold = self.arguments.threshold;
        let mut pids = processes_to_watch(&self.tree.processes, threshold, patience.longest);
        if patience.is_adaptive() {
            let open = self.findings_at(Duration::ZERO);
            pids.extend(open.iter().map(|finding| finding.root.pid));
            pids.sort_unstable();
            pids.dedup();
        }
        self.unwatched = pids.len().saturating_sub(MAX_WATCHED);
        pids.truncate(MAX_WATCHED);
        if pids.is_empty() {
            return;
        }
        let progress = Progress::new(Some(patience.longest), !patience.shows_progress);
        let mut text = "Ctrl-C answers now; watching for progress".to_owned();
        let mut watch = Watch::start(pids);
        let mut observer = Observer::default();
        let time = self.options.capture.time;
        let mut end = patience.window;
        loop {
            self.options.capture.time = time.extended(end);
            worker_link::reading_ends_within(self.options.capture.time.left());
            // It needs no stops, and so many would be too many.
            let watched = CaptureOptions {
                is_blocking: false,
                reach_after: None,
                ..self.options.capture
            };
            let are_left =
                watch.watch_until(end, watched, patience.is_over, &mut |seen, moment| {
                    progress.show_text(moment.elapsed, &text);
                    observer.see(seen, moment);
                });
            let began = Instant::now();
            let mut observed = observer.finish();
            let known = find_known_waits(&mut observed, &self.tree.processes, threshold);
            // If all has ended meanwhile, what was seen before is what there is to report.
            self.options.capture.reach_of_slices = waits_inside(&observed);
            let mut captured = capture(self.pid, self.arguments, self.options, &known);
            for _ in 1..MAX_CAPTURES {
                let Ok(tree) = &captured else {
                    break;
                };
                if !is_between_slices(&observed, &tree.processes) {
                    break;
                }
                self.tree.stops.add(tree.stops);
                captured = capture(self.pid, self.arguments, self.options, &known);
            }
            let is_captured = captured.is_ok();
            if let Ok(mut later) = captured {
                later.stops.add(self.tree.stops);
                self.tree = later;
            }
            self.observed = Some(observed);
            self.judge(None);
            let mut findings = self.findings.iter();
            let is_decided = findings.any(|finding| is_lasting(finding, threshold))
                || end >= patience.longest
                || !(are_left && is_captured)
                || (patience.is_over)();
            if is_decided {
                break;
            }
            // What has begun since is not waited for: else there would be something new all the time.
            let open = self.findings_at(threshold.min(end * 3 / 4));
            let Some(first) = open.first() else {
                break;
            };
            text = format!("Ctrl-C answers now; undecided: {}", first.summary);
            let round = MIN_ROUND
                .max(end / ROUND_SHARE)
                .max(began.elapsed() * ROUND_SHARE);
            end = watch.elapsed().saturating_add(round).min(patience.longest);
        }
        progress.clear();
    }

    /// Judges anew without the threads that wait for news, as their variables show.
    fn leave_out_idle(&mut self, snapshots: &mut SnapshotsWithLocals) {
        let idle = find_idle_by_values(&self.findings, &self.tree.processes, self.rules, snapshots);
        if !idle.is_empty() {
            self.judge(Some(&idle));
        }
    }

    /// Gives each thread its verdict.
    fn judge(&mut self, idle_by_values: Option<&BTreeMap<ThreadRef, String>>) {
        let options = DiagnoseOptions {
            threshold: self.arguments.threshold,
            rules: self.rules,
            observed: self.observed.as_ref(),
            idle_by_values,
        };
        self.findings = diagnose(&mut self.tree.processes, options);
    }

    /// What would be stuck if the threshold were another one.
    fn findings_at(&self, threshold: Duration) -> Vec<Finding> {
        let mut processes = self.tree.processes.clone();
        let options = DiagnoseOptions {
            threshold,
            rules: self.rules,
            observed: self.observed.as_ref(),
            idle_by_values: None,
        };
        diagnose(&mut processes, options)
    }
}

/// Captures the tree. What is judged has no secrets in its command lines any more: verdicts show them.
fn capture(
    pid: Pid,
    arguments: &DiagnoseArguments,
    options: TreeOptions,
    known: &BTreeMap<ThreadRef, Wait>,
) -> Result<TreeCapture, Failure> {
    let mut tree = capture_tree_with(pid, options, known)?;
    if !arguments.no_redact {
        redact_commands(&mut tree.processes);
    }
    Ok(tree)
}

/// What threads that wait in slices try to take, where it is found among the files of the machine; their processes' connections are added
/// to what was observed.
fn find_known_waits(
    observed: &mut Observed,
    processes: &[ProcessSnapshot],
    threshold: Duration,
) -> BTreeMap<ThreadRef, Wait> {
    let attempts = find_attempts(observed, processes, threshold);
    let pids: BTreeSet<Pid> = attempts.keys().map(|key| key.pid).collect();
    for pid in pids.into_iter().take(MAX_ATTEMPTS) {
        observed.add_connections(pid, list_connections(pid));
    }
    let attempts = attempts.into_iter().take(MAX_ATTEMPTS);
    attempts
        .filter_map(|(key, attempts)| Some((key, find_retried(&attempts)?)))
        .collect()
}

/// Whether more watching would not change a finding. A loop that makes no visible progress has as long as the threshold.
pub fn is_lasting(finding: &Finding, threshold: Duration) -> bool {
    finding.verdict != VerdictClass::Spin || finding.since.is_some_and(|since| since >= threshold)
}
