//! From waits to verdicts and findings: what is stuck, how sure that is, and who is the root. No reading of targets.
//!
//! `wait_graph/` assesses each thread by itself and finds out who could unblock it; `observation/` is what threads did during the window; `verdict/` puts both
//! into words, with the evidence; what is known of packages is data (`rules/`).

mod advice;
mod call_role;
pub mod explain;
mod groups;
mod observation;
mod pending;
pub mod rules;
#[cfg(test)]
pub(crate) mod testing;
mod verdict;
mod wait_graph;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::model::{
    Finding, Link, Pid, ProcessSnapshot, SchedState, Since, SinceSource, ThreadRef, ThreadSnapshot,
    Tid, Verdict, VerdictClass, Wait, WaitKind, find_thread,
};
pub use advice::advise;
use observation::is_worth_watching;
pub use observation::{Observed, Observer};
use pending::{Stall, find_stalls};
pub use pending::{find_attempts, is_between_slices, waits_inside};
use rules::Rules;
pub use rules::content_type::idle_by_values;
pub use rules::request_context::find_context;
use verdict::case::{Case, stuck_since};
use verdict::event_loop::add_event_loop;
use verdict::judge;
use wait_graph::assessment::{Assessment, Surroundings, assess, find_long_gil_holder, since_of};
use wait_graph::clocks::{is_woken_as_one, settle_since};
use wait_graph::closed_cycle::{find_candidates, find_closed_cycles};
use wait_graph::{Graph, Outcome, Stuck, wait_chain};

/// Waits on the way to the root that a thread's verdict tells.
const MAX_TOLD: usize = 8;
/// Waits of the chain that a finding has.
const MAX_CHAIN: usize = 10_000;

/// Most processes that are worth watching at once.
pub const MAX_WATCHED: usize = 64;

/// How a diagnosis is made.
#[derive(Clone, Copy, Debug)]
pub struct DiagnoseOptions<'a> {
    /// How long a wait may take.
    pub threshold: Duration,
    /// What is known of packages.
    pub rules: &'a Rules,
    /// What was seen while the threads were watched, if they were.
    pub observed: Option<&'a Observed>,
    /// Threads that wait by design as the values of their variables show, each with why.
    pub idle_by_values: Option<&'a BTreeMap<ThreadRef, String>>,
}

/// Gives every thread its verdict, and collects what is stuck: one finding for each root, the surest first.
pub fn diagnose(processes: &mut [ProcessSnapshot], options: DiagnoseOptions<'_>) -> Vec<Finding> {
    tell_progress(processes, options.observed);
    let stalls = find_stalls(
        processes,
        options.observed,
        options.threshold,
        options.rules,
    );
    let gil_holders = find_long_gil_holders(processes, options);
    settle_since(processes, &gil_holders, options.observed);
    let assessments = assess_all(processes, &gil_holders, &stalls, options);
    let graph = Graph::new(processes, &assessments, &gil_holders, options.observed);
    let outcomes = graph.with_threshold(options.threshold).outcomes();
    let verdicts = judge_all(processes, &assessments, &outcomes, &stalls, options);
    let mut findings = collect(
        processes,
        &assessments,
        &outcomes,
        &verdicts,
        options.observed,
    );
    // What else is stuck in a process that was looked at only because it is waited for is none of this.
    let is_asked_for = |key: &ThreadRef| {
        let mut asked = processes.iter().filter(|process| !process.is_related);
        asked.any(|process| process.pid == key.pid)
    };
    findings
        .retain(|finding| is_asked_for(&finding.root) || finding.blocks.iter().any(is_asked_for));
    groups::sort_and_group(&mut findings, processes);
    for process in processes {
        let pid = process.pid;
        for thread in &mut process.threads {
            let key = key_of(pid, thread);
            thread.verdict = verdicts.get(&key).cloned();
        }
    }
    findings
}

/// The processes in which something was found to work that a single look can't tell from going round in circles: they are worth
/// watching for a while, at most [`MAX_WATCHED`] of them.
pub fn processes_to_watch(
    processes: &[ProcessSnapshot],
    threshold: Duration,
    window: Duration,
) -> Vec<Pid> {
    let class_of = |thread: &ThreadSnapshot| thread.verdict.as_ref().map(|verdict| verdict.class);
    let asked = processes.iter().filter(|process| !process.is_related);
    let mut pids = BTreeSet::new();
    let cycles = find_candidates(processes);
    for process in asked {
        for thread in &process.threads {
            let is_brief = since_of(thread).is_some_and(|since| since.elapsed < threshold);
            let is_open = match class_of(thread) {
                Some(VerdictClass::Working) => is_worth_watching(thread, threshold, window),
                Some(VerdictClass::Waiting)
                    if is_worth_watching(thread, threshold, window)
                        || (is_brief && cycles.contains(&key_of(process.pid, thread))) =>
                {
                    true
                }
                // The scheduler has no record of when it ran last: then it is for us to see how long it sleeps.
                Some(VerdictClass::Waiting | VerdictClass::Unknown)
                    if thread.wait.is_some() && since_of(thread).is_none() =>
                {
                    true
                }
                Some(VerdictClass::Waiting) => {
                    // That its peer runs at this instant does not say that it works at the answer.
                    let peers = running_peers(thread, processes);
                    pids.extend(&peers);
                    !peers.is_empty()
                }
                _ => false,
            };
            if is_open {
                pids.insert(process.pid);
            }
        }
    }
    pids.into_iter().collect()
}

/// The processes that a thread waits for through a connection, and in which a thread runs.
fn running_peers(thread: &ThreadSnapshot, processes: &[ProcessSnapshot]) -> Vec<Pid> {
    let is_network = |wait: &&Wait| {
        matches!(
            wait.kind,
            WaitKind::SocketRecv | WaitKind::SocketSend | WaitKind::SocketConnect | WaitKind::Poll
        ) && wait.timeout.is_none()
    };
    let wait = thread.wait.as_ref().filter(is_network);
    let holders = wait
        .iter()
        .flat_map(|wait| wait.holder.iter().chain(&wait.other_holders));
    let runs = |pid: &Pid| {
        let mut peers = processes.iter().filter(|process| process.pid == *pid);
        peers.any(|peer| {
            let mut threads = peer.threads.iter();
            threads.any(|thread| thread.state == SchedState::Running)
        })
    };
    holders.map(|holder| holder.pid).filter(runs).collect()
}

/// Adds to each thread and process what it was seen to do.
fn tell_progress(processes: &mut [ProcessSnapshot], observed: Option<&Observed>) {
    let Some(observed) = observed else {
        return;
    };
    for process in processes {
        process.progress = observed.process(process.pid);
        for thread in &mut process.threads {
            let seen = observed.thread(key_of(process.pid, thread));
            thread.progress = seen.map(|seen| seen.progress.clone());
            // Where the scheduler has no record, it has slept for at least as long as we saw it sleep.
            let asleep = seen.and_then(|seen| seen.asleep);
            if let (Some(wait), Some(elapsed)) = (&mut thread.wait, asleep)
                && wait.since.is_none()
            {
                wait.since = Some(Since {
                    elapsed,
                    error: Duration::ZERO,
                    source: SinceSource::Observed,
                });
            }
        }
    }
}

fn key_of(pid: Pid, thread: &ThreadSnapshot) -> ThreadRef {
    ThreadRef {
        pid,
        tid: thread.tid,
    }
}

fn find_long_gil_holders(
    processes: &[ProcessSnapshot],
    options: DiagnoseOptions<'_>,
) -> BTreeMap<Pid, Tid> {
    let holder = |process: &ProcessSnapshot| {
        let pid = process.pid;
        let seen_of = |tid| options.observed?.thread(ThreadRef { pid, tid });
        Some((
            pid,
            find_long_gil_holder(&process.threads, options.threshold, seen_of)?,
        ))
    };
    processes.iter().filter_map(holder).collect()
}

fn assess_all(
    processes: &[ProcessSnapshot],
    gil_holders: &BTreeMap<Pid, Tid>,
    stalls: &BTreeMap<ThreadRef, Stall>,
    options: DiagnoseOptions<'_>,
) -> BTreeMap<ThreadRef, Assessment> {
    let mut assessments = BTreeMap::new();
    let closed = find_closed_cycles(processes, options.observed);
    for process in processes {
        let is_woken_with_all = is_woken_as_one(process, options.threshold);
        for thread in &process.threads {
            let key = key_of(process.pid, thread);
            let observed = options.observed;
            let surroundings = Surroundings {
                long_gil_holder: gil_holders.get(&process.pid).copied(),
                seen: observed.and_then(|observed| observed.thread(key)),
                is_spinning: observed
                    .is_some_and(|observed| observed.is_spinning(key, options.threshold)),
                is_in_closed_cycle: closed.contains(&key),
                is_woken_with_all,
                stall: stalls.get(&key).map(|stall| stall.class),
                idle_by_values: options
                    .idle_by_values
                    .and_then(|idle| idle.get(&key))
                    .map(String::as_str),
            };
            // A thread inside several interpreters stands here more than once, innermost first.
            assessments
                .entry(key)
                .or_insert_with(|| assess(thread, surroundings, options.threshold, options.rules));
        }
    }
    assessments
}

fn judge_all(
    processes: &[ProcessSnapshot],
    assessments: &BTreeMap<ThreadRef, Assessment>,
    outcomes: &BTreeMap<ThreadRef, Outcome>,
    stalls: &BTreeMap<ThreadRef, Stall>,
    options: DiagnoseOptions<'_>,
) -> BTreeMap<ThreadRef, Verdict> {
    let mut verdicts = BTreeMap::new();
    let is_root = |(key, outcome): (&ThreadRef, &Outcome)| match outcome {
        Outcome::Stuck(stuck) => {
            let is_other = stuck.root != *key && stuck.root.pid == key.pid;
            is_other.then_some(stuck.root)
        }
        _ => None,
    };
    let roots: BTreeSet<ThreadRef> = outcomes.iter().filter_map(is_root).collect();
    for process in processes {
        for thread in &process.threads {
            let key = key_of(process.pid, thread);
            let (Some(assessment), Some(outcome)) = (assessments.get(&key), outcomes.get(&key))
            else {
                continue;
            };
            let way = wait_chain(outcomes, key, MAX_TOLD);
            let case = Case {
                processes,
                process,
                thread,
                assessment,
                outcome,
                way: &way,
                threshold: options.threshold,
                observed: options.observed,
                owed: options.rules.find_answer(thread).map(|rule| &*rule.why),
                stall: stalls.get(&key),
                holds_up: roots.contains(&key),
            };
            verdicts
                .entry(key)
                .or_insert_with(|| add_event_loop(judge(&case), thread));
        }
    }
    verdicts
}

/// One finding for each root.
fn collect(
    processes: &[ProcessSnapshot],
    assessments: &BTreeMap<ThreadRef, Assessment>,
    outcomes: &BTreeMap<ThreadRef, Outcome>,
    verdicts: &BTreeMap<ThreadRef, Verdict>,
    observed: Option<&Observed>,
) -> Vec<Finding> {
    let mut held: BTreeMap<ThreadRef, Vec<(ThreadRef, &Stuck)>> = BTreeMap::new();
    for (key, outcome) in outcomes {
        if let Outcome::Stuck(stuck) = outcome {
            held.entry(stuck.root).or_default().push((*key, stuck));
        }
    }
    let mut findings: Vec<Finding> = held
        .iter()
        .filter_map(|(root, waiting)| {
            let is_stopped = assessments.get(root) == Some(&Assessment::Stopped);
            finding(
                processes, outcomes, verdicts, observed, *root, is_stopped, waiting,
            )
        })
        .collect();
    findings.extend(stopped(processes, assessments, verdicts, &held));
    findings
}

fn finding(
    processes: &[ProcessSnapshot],
    outcomes: &BTreeMap<ThreadRef, Outcome>,
    verdicts: &BTreeMap<ThreadRef, Verdict>,
    observed: Option<&Observed>,
    root: ThreadRef,
    is_stopped: bool,
    waiting: &[(ThreadRef, &Stuck)],
) -> Option<Finding> {
    let is_root_stuck = is_stopped || waiting.iter().any(|(key, _)| *key == root);
    // A root that is not stuck itself (it is idle, and keeps what it holds) is told by who waits for it directly.
    let teller = if is_root_stuck {
        root
    } else {
        let direct = waiting.iter().min_by_key(|(_, stuck)| stuck.distance);
        direct.map(|(key, _)| *key)?
    };
    let verdict = verdicts.get(&teller)?;
    let longest = waiting.iter().max_by_key(|(_, stuck)| stuck.distance);
    let chain: Vec<Link> = longest
        .map(|(key, _)| wait_chain(outcomes, *key, MAX_CHAIN))
        .unwrap_or_default();
    let blocks = waiting
        .iter()
        .map(|(key, _)| *key)
        .filter(|key| *key != root)
        .collect();
    let mut finding = Finding {
        verdict: verdict.class,
        confidence: verdict.confidence,
        summary: verdict.summary.clone(),
        since: find_thread(processes, teller)
            .and_then(|thread| stuck_since(teller, thread, verdict.class, observed))
            .map(|since| since.elapsed),
        root,
        teller,
        advice: String::new(),
        chain,
        blocks,
        context: None,
        group: 0,
    };
    advise(&mut finding, processes);
    Some(finding)
}

/// A stop is of the whole process: one finding says it for all threads, and for all that wait for them.
fn stopped(
    processes: &[ProcessSnapshot],
    assessments: &BTreeMap<ThreadRef, Assessment>,
    verdicts: &BTreeMap<ThreadRef, Verdict>,
    held: &BTreeMap<ThreadRef, Vec<(ThreadRef, &Stuck)>>,
) -> Vec<Finding> {
    let finding = |process: &ProcessSnapshot| {
        let is_stopped = |key: &ThreadRef| assessments.get(key) == Some(&Assessment::Stopped);
        let mut keys = process
            .threads
            .iter()
            .map(|thread| key_of(process.pid, thread));
        let root = keys.find(is_stopped)?;
        let is_told = held
            .keys()
            .any(|key| key.pid == process.pid && is_stopped(key));
        let verdict = verdicts.get(&root).filter(|_| !is_told)?;
        let mut finding = Finding {
            verdict: verdict.class,
            confidence: verdict.confidence,
            summary: verdict.summary.clone(),
            since: find_thread(processes, root)
                .and_then(since_of)
                .map(|since| since.elapsed),
            root,
            teller: root,
            chain: Vec::new(),
            blocks: Vec::new(),
            context: None,
            advice: String::new(),
            group: 0,
        };
        advise(&mut finding, processes);
        Some(finding)
    };
    processes.iter().filter_map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::testing::{at, held_by, process, receiver, thread};
    use super::*;
    use crate::model::{
        Confidence, Gil, HolderConfidence, MemoryOutcome, SchedState, Since, SinceSource, WaitKind,
    };

    fn options() -> DiagnoseOptions<'static> {
        DiagnoseOptions {
            threshold: Duration::from_secs(30),
            rules: Rules::built_in(),
            observed: None,
            idle_by_values: None,
        }
    }

    /// The verdict on a thread of a process in which another one works.
    fn verdict(thread: ThreadSnapshot) -> Verdict {
        let mut working = testing::thread(99, WaitKind::Sleep, 0);
        working.state = SchedState::Running;
        let mut processes = [process(1, vec![thread, working])];
        diagnose(&mut processes, options());
        processes[0].threads[0].verdict.clone().unwrap()
    }

    fn class(thread: ThreadSnapshot) -> VerdictClass {
        verdict(thread).class
    }

    #[test]
    fn a_receive_beyond_the_threshold_is_a_hang_and_says_why() {
        let verdict = verdict(receiver(552));
        assert_eq!(
            (verdict.class, verdict.confidence),
            (VerdictClass::HangNetwork, Confidence::Likely)
        );
        assert_eq!(
            verdict.summary,
            "MainThread (tid 7) waits 9m12s for data from 10.0.0.1:443 (tcp, established, nothing ever received; no timeout)"
        );
        let facts: Vec<_> = verdict
            .evidence
            .iter()
            .map(|evidence| evidence.fact)
            .collect();
        assert_eq!(
            facts,
            [
                "wait.syscall",
                "wait.since_ms",
                "threshold_ms",
                "wait.resource",
                "wait.resource.last_data_recv_ms",
            ]
        );
    }

    #[test]
    fn what_is_no_hang() {
        let with = |change: &dyn Fn(&mut ThreadSnapshot)| {
            let mut thread = receiver(99);
            change(&mut thread);
            class(thread)
        };
        fn resource(thread: &mut ThreadSnapshot) -> &mut crate::model::Resource {
            thread.wait.as_mut().unwrap().resource.as_mut().unwrap()
        }
        let wait_kind = |kind| with(&|thread| thread.wait.as_mut().unwrap().kind = kind);
        let mut brief = thread(7, WaitKind::PipeRead, 29);
        assert_eq!(class(brief.clone()), VerdictClass::Waiting);
        brief.wait.as_mut().unwrap().kind = WaitKind::SocketAccept;
        assert_eq!(class(brief), VerdictClass::Idle);
        assert_eq!(
            with(&|thread| thread.state = SchedState::Running),
            VerdictClass::Working
        );
        assert_eq!(
            with(&|thread| thread.state = SchedState::Stopped),
            VerdictClass::Stopped
        );
        assert_eq!(wait_kind(WaitKind::SocketAccept), VerdictClass::Idle);
        assert_eq!(wait_kind(WaitKind::Futex), VerdictClass::Waiting);
        assert_eq!(
            with(&|thread| resource(thread).accepted = Some(true)),
            VerdictClass::Idle
        );
        let unconnected =
            |thread: &mut ThreadSnapshot| resource(thread).state = Some("UNCONNECTED".into());
        assert_eq!(with(&unconnected), VerdictClass::Idle);
        assert_eq!(
            with(&|thread| resource(thread).kind = "socket".into()),
            VerdictClass::Idle
        );
        assert_eq!(
            with(&|thread| thread.interpreter = None),
            VerdictClass::Waiting
        );
        let timeout = Some(Duration::from_secs(600));
        let armed = |thread: &mut ThreadSnapshot| thread.wait.as_mut().unwrap().timeout = timeout;
        assert_eq!(with(&armed), VerdictClass::Waiting);
    }

    #[test]
    fn who_waits_for_work_is_idle_however_short_the_wait_is() {
        for kind in [WaitKind::SocketAccept, WaitKind::Inotify, WaitKind::Signal] {
            assert_eq!(class(thread(7, kind, 0)), VerdictClass::Idle, "{kind:?}");
        }
        // A lock, or an answer, is not waited for by design.
        for kind in [WaitKind::PythonLock, WaitKind::SocketRecv] {
            assert_eq!(class(thread(7, kind, 1)), VerdictClass::Waiting, "{kind:?}");
        }
    }

    #[test]
    fn what_was_not_read_is_unknown_and_keeps_nobody_stuck() {
        let mut runs = thread(10, WaitKind::Unknown, 0);
        (runs.state, runs.wait, runs.interpreter) = (SchedState::Running, None, None);
        let judged = |memory: MemoryOutcome, runs: &ThreadSnapshot| {
            let mut unread = process(10, vec![runs.clone()]);
            unread.memory = memory;
            // Whoever waits for a running process does not hang, whatever that does.
            let waits = held_by(receiver(99), 10, None, HolderConfidence::Proven);
            let mut processes = [process(20, vec![waits]), unread];
            let findings = diagnose(&mut processes, options());
            let is_running = runs.state == SchedState::Running;
            assert!(findings.is_empty() || !is_running, "{findings:?}");
            processes[1].threads[0].verdict.clone().unwrap()
        };
        assert_eq!(
            judged(MemoryOutcome::Python, &runs).class,
            VerdictClass::Working
        );
        for memory in [
            MemoryOutcome::Denied,
            MemoryOutcome::Unreadable,
            MemoryOutcome::TimedOut,
        ] {
            let verdict = judged(memory, &runs);
            assert_eq!(verdict.class, VerdictClass::Unknown, "{memory:?}");
            assert!(
                verdict.summary.contains("on-CPU") && verdict.summary.contains("was not read"),
                "{}",
                verdict.summary
            );
            let mut slept = thread(10, WaitKind::Unknown, 1);
            slept.interpreter = None;
            let verdict = judged(memory, &slept);
            assert_eq!(verdict.class, VerdictClass::Unknown, "{memory:?}");
            assert!(
                verdict.summary.contains("was on-CPU within the threshold"),
                "{}",
                verdict.summary
            );
        }
    }

    #[test]
    fn a_name_server_that_does_not_answer_has_a_class_of_its_own() {
        let mut thread = receiver(99);
        thread
            .wait
            .as_mut()
            .unwrap()
            .resource
            .as_mut()
            .unwrap()
            .resolves_names = Some(true);
        assert_eq!(class(thread), VerdictClass::HangDns);
    }

    #[test]
    fn when_data_came_last_it_may_be_the_peers_turn() {
        let mut thread = receiver(99);
        let resource = thread.wait.as_mut().unwrap().resource.as_mut().unwrap();
        let tcp = resource.tcp.as_mut().unwrap();
        (tcp.last_data_recv_ms, tcp.bytes_received) = (1, 5);
        assert_eq!(verdict(thread).confidence, Confidence::Possible);
    }

    #[test]
    fn the_bound_of_error_must_not_reach_below_the_threshold() {
        let mut close = thread(7, WaitKind::PipeRead, 31);
        close.wait.as_mut().unwrap().since.as_mut().unwrap().error = Duration::from_secs(3);
        assert_eq!(class(close), VerdictClass::Waiting);
    }

    #[test]
    fn without_facts_it_is_unknown() {
        let mut blind = thread(7, WaitKind::Unknown, 99);
        blind.wait.as_mut().unwrap().syscall = None;
        assert_eq!(class(blind.clone()), VerdictClass::Unknown);
        blind.wait = None;
        blind.off_cpu = None;
        assert_eq!(class(blind), VerdictClass::Unknown);
    }

    /// Threads that wait for a pool whose holder sits in a receive are one finding, which names the receive.
    #[test]
    fn one_root_is_one_finding() {
        let mut threads = vec![receiver(600)];
        for tid in 10..15 {
            let waiter = thread(tid, WaitKind::PythonLock, 60);
            threads.push(held_by(waiter, 1, Some(7), HolderConfidence::Inferred));
        }
        let child = held_by(
            thread(20, WaitKind::PipeRead, 50),
            1,
            None,
            HolderConfidence::Proven,
        );
        let mut processes = [process(1, threads), process(20, vec![child])];
        let findings = diagnose(&mut processes, options());
        assert_eq!(findings.len(), 1, "{findings:#?}");
        let finding = &findings[0];
        assert_eq!(
            (finding.verdict, finding.root),
            (VerdictClass::HangNetwork, at(1, 7))
        );
        assert_eq!((finding.blocks.len(), finding.chain.len()), (6, 1));
        assert_eq!(finding.since, Some(Duration::from_secs(600)));
        let own = processes[0].threads[1].verdict.as_ref().unwrap();
        assert_eq!(
            (own.class, own.confidence),
            (VerdictClass::HangLock, Confidence::Likely)
        );
        assert!(
            own.summary.ends_with("; root cause: MainThread (tid 7)"),
            "{}",
            own.summary
        );
        let other = processes[1].threads[0].verdict.as_ref().unwrap();
        assert_eq!(other.class, VerdictClass::HangPipe);
        assert!(
            other
                .summary
                .ends_with("; root cause: MainThread (tid 7) of process 1")
        );
    }

    #[test]
    fn a_cycle_is_one_finding() {
        let one = held_by(
            thread(1, WaitKind::PythonRlock, 60),
            1,
            Some(2),
            HolderConfidence::Proven,
        );
        let two = held_by(
            thread(2, WaitKind::PythonRlock, 50),
            1,
            Some(1),
            HolderConfidence::Proven,
        );
        let before = held_by(
            thread(3, WaitKind::PythonLock, 40),
            1,
            Some(2),
            HolderConfidence::Inferred,
        );
        let mut processes = [process(1, vec![one, two, before])];
        let findings = diagnose(&mut processes, options());
        assert_eq!(findings.len(), 1);
        assert_eq!(
            (findings[0].verdict, findings[0].confidence),
            (VerdictClass::Deadlock, Confidence::Proven)
        );
        assert_eq!(findings[0].blocks, [at(1, 2), at(1, 3)]);
    }

    #[test]
    fn alone_with_a_lock_there_is_no_hope() {
        let mut processes = [process(1, vec![thread(1, WaitKind::PythonLock, 60)])];
        let findings = diagnose(&mut processes, options());
        assert_eq!(
            (findings[0].verdict, findings[0].confidence),
            (VerdictClass::HangLock, Confidence::Proven)
        );
        assert!(findings[0].summary.contains("nothing can unblock it"));
    }

    /// A thread that could not be read may be the one that ends a wait.
    #[test]
    fn threads_that_could_not_be_read_may_go_on() {
        let alone = process(1, vec![thread(1, WaitKind::PythonLock, 60)]);
        let waits = |tid| {
            let waiter = thread(tid, WaitKind::PythonLock, 60);
            held_by(waiter, 1, None, HolderConfidence::Possible)
        };
        let together = process(1, vec![waits(1), waits(2)]);
        for whole in [alone, together] {
            let mut partial = whole.clone();
            partial.unread_threads = 1;
            assert!(!diagnose(&mut [whole], options()).is_empty());
            assert!(diagnose(&mut [partial], options()).is_empty());
        }
        // What is proven stays so.
        let cycle = [(1, 2), (2, 1)].map(|(tid, other)| {
            let waiter = thread(tid, WaitKind::PythonRlock, 60);
            held_by(waiter, 1, Some(other), HolderConfidence::Proven)
        });
        let mut partial = process(1, cycle.to_vec());
        partial.unread_threads = 1;
        let findings = diagnose(&mut [partial], options());
        assert_eq!(findings[0].verdict, VerdictClass::Deadlock);
    }

    #[test]
    fn who_keeps_the_gil_starves_the_others() {
        let mut holder = thread(1, WaitKind::Sleep, 60);
        holder.gil = Gil::Held;
        let mut starved = thread(2, WaitKind::Gil, 0);
        starved.gil = Gil::Waiting;
        let mut processes = [process(1, vec![holder, starved])];
        let findings = diagnose(&mut processes, options());
        assert_eq!(findings.len(), 1);
        assert_eq!(
            (findings[0].verdict, findings[0].root),
            (VerdictClass::GilHeld, at(1, 1))
        );
        assert_eq!(findings[0].blocks, [at(1, 2)]);
        assert_eq!(findings[0].confidence, Confidence::Proven);
    }

    #[test]
    fn a_stopped_process_is_one_finding_whoever_waits_for_it() {
        let mut threads: Vec<_> = (20..23)
            .map(|tid| thread(tid, WaitKind::Unknown, 60))
            .collect();
        for thread in &mut threads {
            thread.state = SchedState::Stopped;
            thread.wait = None;
        }
        let parent = held_by(
            thread(1, WaitKind::Child, 60),
            20,
            None,
            HolderConfidence::Proven,
        );
        let mut processes = [process(1, vec![parent]), process(20, threads)];
        let findings = diagnose(&mut processes, options());
        assert_eq!(findings.len(), 1, "{findings:#?}");
        assert_eq!(
            (findings[0].root, findings[0].verdict),
            (at(20, 20), VerdictClass::Stopped)
        );
        assert_eq!(
            processes[1].threads[1].verdict.as_ref().unwrap().class,
            VerdictClass::Stopped
        );
        let alone = diagnose(&mut processes[1..], options());
        assert_eq!((alone.len(), alone[0].verdict), (1, VerdictClass::Stopped));
    }

    #[test]
    fn since_is_told_by_its_source() {
        let mut thread = receiver(99);
        let source = SinceSource::Tcp;
        let since = Since {
            source,
            ..thread.off_cpu.unwrap()
        };
        thread.wait.as_mut().unwrap().since = Some(since);
        let texts: Vec<_> = verdict(thread)
            .evidence
            .into_iter()
            .map(|evidence| evidence.text)
            .collect();
        assert!(texts.iter().any(|text| text.ends_with("(TCP clock)")));
    }
}
