//! Which situation a finding is in, and what usually fixes it: the sentences are data, in `advice.toml`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

use crate::diagnose::wait_graph::holder_progress::asks_nobody;
use crate::diagnose::wait_graph::left_open::find_left_open;
use crate::model::{
    Confidence, Context, Finding, Frame, FrameKind, Link, ProcessSnapshot, Resource, SchedState,
    ThreadSnapshot, VerdictClass, Wait, WaitKind, find_thread,
};
use crate::wait::LOCK_FILE;

/// What can be advised on, by its name in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Situation {
    LockWithItself,
    LockCycle,
    PipeCycle,
    ThreadCycle,
    Fork,
    Lock,
    LockWithoutHolder,
    ImportLock,
    SharedSemaphore,
    Future,
    Queue,
    Event,
    Semaphore,
    ThreadJoin,
    ProcessPool,
    Network,
    QuietPeer,
    Connect,
    Send,
    BrokenPath,
    OwnListener,
    Proxy,
    Retry,
    Dns,
    FullPipe,
    EmptyPipe,
    LonelyPipe,
    LeftOpenPipe,
    Terminal,
    ChildAtTerminal,
    Child,
    FileLock,
    Disk,
    RegularExpression,
    GilInC,
    BusyLoop,
    CountingLoop,
    LockFile,
    StalledCall,
    Stopped,
}

impl Situation {
    /// What usually fixes it.
    pub fn advice(self) -> &'static str {
        TABLE.get(&self).map_or("", String::as_str)
    }
}

static TABLE: LazyLock<BTreeMap<Situation, String>> =
    LazyLock::new(|| toml::from_str(include_str!("advice.toml")).unwrap_or_default());

/// Gives a finding its advice, once it is known what its call is about.
pub fn advise(finding: &mut Finding, processes: &[ProcessSnapshot]) {
    let thread = find_thread(processes, finding.teller);
    finding.advice = match (finding.verdict, thread) {
        (VerdictClass::Stopped, Some(thread)) => advice_on_stop(thread),
        (VerdictClass::HangPipe, Some(thread)) if is_left_open(finding, thread, processes) => {
            Situation::LeftOpenPipe.advice().to_owned()
        }
        (VerdictClass::HangChild | VerdictClass::HangPipe, _) if asks(finding, processes) => {
            Situation::ChildAtTerminal.advice().to_owned()
        }
        _ => situation_of(finding, thread)
            .map_or("", Situation::advice)
            .to_owned(),
    };
}

/// Whether it reads a pipe that a command has left open.
fn is_left_open(finding: &Finding, thread: &ThreadSnapshot, processes: &[ProcessSnapshot]) -> bool {
    let mut all = processes.iter();
    let process = all.find(|process| process.pid == finding.teller.pid);
    let found = process.and_then(|process| find_left_open(processes, process, thread));
    finding.root == finding.teller && found.is_some()
}

/// Whether its root asks at a terminal.
fn asks(finding: &Finding, processes: &[ProcessSnapshot]) -> bool {
    let root = find_thread(processes, finding.root);
    let wait = root.and_then(|root| root.wait.as_ref());
    wait.is_some_and(asks_nobody)
}

/// The situation that a finding is in; its thread is the one that its summary is about.
pub fn situation_of(finding: &Finding, thread: Option<&ThreadSnapshot>) -> Option<Situation> {
    let wait = thread.and_then(|thread| thread.wait.as_ref());
    let situation = match finding.verdict {
        VerdictClass::Deadlock => of_cycle(&finding.chain),
        VerdictClass::HangNetwork => of_network(finding, wait),
        VerdictClass::HangDns => Situation::Dns,
        VerdictClass::HangLock => of_lock(finding, wait),
        VerdictClass::HangPipe => of_pipe(wait),
        VerdictClass::HangChild => Situation::Child,
        VerdictClass::HangFileLock => match resource_kind(wait) {
            Some(LOCK_FILE) => Situation::LockFile,
            _ => Situation::FileLock,
        },
        VerdictClass::HangDisk => Situation::Disk,
        VerdictClass::Spin => of_spin(thread),
        VerdictClass::GilHeld => match thread.is_some_and(runs_expression) {
            true => Situation::RegularExpression,
            false => Situation::GilInC,
        },
        VerdictClass::Stalled => Situation::StalledCall,
        VerdictClass::Stopped => Situation::Stopped,
        VerdictClass::Working
        | VerdictClass::Idle
        | VerdictClass::Waiting
        | VerdictClass::Unknown => return None,
    };
    Some(situation)
}

fn resource_kind(wait: Option<&Wait>) -> Option<&str> {
    let resource = wait.and_then(|wait| wait.resource.as_ref());
    resource.map(|resource| &*resource.kind)
}

fn of_cycle(chain: &[Link]) -> Situation {
    let waits = |kinds: &[WaitKind]| chain.iter().any(|link| kinds.contains(&link.waits));
    let between_processes = [
        WaitKind::Child,
        WaitKind::PipeRead,
        WaitKind::PipeWrite,
        WaitKind::SocketRecv,
        WaitKind::SocketSend,
    ];
    match chain {
        [only] if only.thread == only.on => Situation::LockWithItself,
        _ if waits(&between_processes) => Situation::PipeCycle,
        _ if waits(&[WaitKind::Condition]) => Situation::ThreadCycle,
        _ if waits(&[WaitKind::ImportLock]) => Situation::ImportLock,
        _ => Situation::LockCycle,
    }
}

fn of_network(finding: &Finding, wait: Option<&Wait>) -> Situation {
    let Some(wait) = wait else {
        return Situation::Network;
    };
    let tcp = wait.resource.as_ref().and_then(|resource| resource.tcp);
    let is_own = wait
        .holder
        .as_ref()
        .is_some_and(|holder| holder.pid == finding.teller.pid);
    let names_proxy = |context: &Context| {
        let mut fields = context.fields.iter();
        context.kind == "proxy" || fields.any(|field| field.name == "proxy")
    };
    match wait.kind {
        _ if is_own => Situation::OwnListener,
        _ if finding.context.as_ref().is_some_and(names_proxy) => Situation::Proxy,
        _ if tcp.is_some_and(|tcp| tcp.unacked > 0 && tcp.retransmits > 0) => Situation::BrokenPath,
        WaitKind::SocketConnect if wait.slices.is_some() => Situation::Retry,
        WaitKind::SocketConnect => Situation::Connect,
        WaitKind::SocketSend => Situation::Send,
        _ if wait.timeout.is_some() || wait.slices.is_some() => Situation::Retry,
        _ if finding.confidence == Confidence::Possible => Situation::QuietPeer,
        _ => Situation::Network,
    }
}

fn of_lock(finding: &Finding, wait: Option<&Wait>) -> Situation {
    let Some(wait) = wait else {
        return Situation::Lock;
    };
    let kind = wait.resource.as_ref().map(|resource| &*resource.kind);
    let kind = kind.unwrap_or_default();
    let is_of = |module: &str| {
        kind.strip_prefix(module)
            .is_some_and(|rest| rest.starts_with('.'))
    };
    let holder = wait.holder.as_ref();
    match wait.kind {
        WaitKind::SharedSemaphore => Situation::SharedSemaphore,
        WaitKind::ImportLock => Situation::ImportLock,
        WaitKind::Semaphore => Situation::Semaphore,
        WaitKind::Condition if kind == "threading.Thread" => Situation::ThreadJoin,
        WaitKind::Condition if is_of("concurrent.futures") || kind.ends_with(".Future") => {
            Situation::Future
        }
        WaitKind::Condition if is_of("queue") || is_of("Queue") => Situation::Queue,
        WaitKind::Condition if is_of("multiprocessing.pool") => Situation::ProcessPool,
        WaitKind::Condition => Situation::Event,
        _ if wait.reach.as_ref().is_some_and(|reach| reach.is_closed) => {
            Situation::LockWithoutHolder
        }
        _ if finding.confidence == Confidence::Proven
            && holder.is_none_or(|holder| holder.is_gone) =>
        {
            Situation::Fork
        }
        _ if holder.is_none() => Situation::LockWithoutHolder,
        _ => Situation::Lock,
    }
}

fn of_pipe(wait: Option<&Wait>) -> Situation {
    let resource = wait.and_then(|wait| wait.resource.as_ref());
    let is_alone = |resource: &Resource| resource.is_alone == Some(true);
    let is_terminal = |resource: &Resource| resource.kind == "tty";
    match wait.map(|wait| wait.kind) {
        _ if resource.is_some_and(is_terminal) => Situation::Terminal,
        Some(WaitKind::Tty) => Situation::Terminal,
        _ if resource.is_some_and(is_alone) => Situation::LonelyPipe,
        Some(WaitKind::PipeWrite | WaitKind::SocketSend) => Situation::FullPipe,
        _ => Situation::EmptyPipe,
    }
}

fn of_spin(thread: Option<&ThreadSnapshot>) -> Situation {
    let progress = thread.and_then(|thread| thread.progress.as_ref());
    let round = progress.and_then(|progress| progress.round.as_ref());
    match round {
        Some(round) if round.only_counts => Situation::CountingLoop,
        None if thread.is_some_and(runs_expression) => Situation::RegularExpression,
        _ => Situation::BusyLoop,
    }
}

/// Whether a thread is in the matcher of a regular expression: the innermost call is of the standard library's `re` (one file until
/// 3.10, a package after that), or it is in a function of the application that has called a compiled pattern, which shows no frame of
/// its own; then only the line's text could say it.
fn runs_expression(thread: &ThreadSnapshot) -> bool {
    let mut calls = thread
        .frames
        .iter()
        .filter(|frame| frame.kind == FrameKind::Python);
    let is_expression = |frame: &Frame| {
        let module = frame.module.as_deref();
        matches!(module, Some("re" | "regex" | "regex.regex" | "regex._main"))
    };
    calls.next().is_some_and(|frame| is_expression(frame))
}

/// What continues a thread that is stopped, by what stopped it: a signal continues neither a frozen nor a traced one.
fn advice_on_stop(thread: &ThreadSnapshot) -> String {
    let wait = thread.wait.as_ref();
    let is_traced = thread.state == SchedState::Traced
        || wait.is_some_and(|wait| wait.kind == WaitKind::Traced);
    if is_traced {
        let tracer = wait.and_then(|wait| wait.holder.as_ref());
        return match tracer {
            Some(tracer) => format!("let its tracer, process {}, continue or detach", tracer.pid),
            None => "let its tracer continue or detach".to_owned(),
        };
    }
    let resource = wait.and_then(|wait| wait.resource.as_ref());
    let group = resource.filter(|resource| resource.kind == "cgroup");
    match group.and_then(|group| group.name.as_deref()) {
        Some(group) if thread.state != SchedState::Stopped => format!(
            "thaw {group}, or the one above it that was frozen: `docker unpause`, or write 0 to its cgroup.freeze (version 1: THAWED to its freezer.state); SIGCONT does not"
        ),
        _ => Situation::Stopped.advice().to_owned(),
    }
}

#[cfg(test)]
mod tests;
