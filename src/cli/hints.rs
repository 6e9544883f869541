//! From a failure to the lines that help: chosen by the kind of error, never by its text.

use super::exit::Failure;
use crate::model::{Pid, ProcessSnapshot, span};
use crate::sampler::SamplerError;
use crate::sys::descriptors::{is_shortage, soft_limit};
use crate::sys::own_proc::ProcError;
use crate::target::access::{AccessReport, Advice, Ourselves};
use crate::target::{Target, TargetError};

/// What would help after this failure.
pub fn hints(failure: &Failure) -> Vec<String> {
    match failure {
        Failure::Target(TargetError::Denied { pid, .. }) => {
            access_hint(*pid).or_else(hidepid_hint).into_iter().collect()
        }
        Failure::Target(TargetError::Hidden(_)) => hidepid_hint().into_iter().collect(),
        Failure::Target(TargetError::Io { source, .. }) if is_shortage(source) => {
            vec![limit_hint()]
        }
        Failure::Proc(ProcError::Unreadable(source)) if is_shortage(source) => vec![limit_hint()],
        Failure::Proc(_) => vec![
            "mount the one of this pid namespace: `mount -t proc proc /proc`, or `unshare --mount-proc` or `nsenter --mount --pid` when \
             the namespace is entered"
                .to_owned(),
        ],
        Failure::Target(TargetError::IsThread { process, .. }) => {
            vec![format!("try --pid {process}")]
        }
        Failure::Target(TargetError::NotFound(_)) => {
            vec!["pids are those of this pid namespace: inside a container its first process is --pid 1".to_owned()]
        }
        Failure::Terminal(_) => {
            vec!["set TERM to what it is (TERM=xterm, say), or let the output go elsewhere: `stuckspy top … | cat` prints plain text".to_owned()]
        }
        Failure::DataToTerminal => vec![
            "name a file (`-o flame.svg`), or send it elsewhere (`-o - > flame.svg`), without -t where kubectl or docker is between: \
             `kubectl stuckspy record POD -o flame.svg` does that"
                .to_owned(),
        ],
        Failure::NoTarget(candidates) if candidates.is_empty() => {
            vec!["name one with --pid PID, or start one with `-- CMD`".to_owned()]
        }
        Failure::NoTarget(candidates) => {
            let line = |candidate: &crate::target::candidates::Candidate| {
                let version = candidate.version.as_deref().unwrap_or("?");
                let age = candidate.age.map(span).unwrap_or_default();
                format!(
                    "--pid {:<8} Python {version:<5} up {age:<7} {}",
                    candidate.pid, candidate.title
                )
            };
            candidates.iter().map(line).collect()
        }
        Failure::UnclearFormat(_) => {
            vec!["say it with --format: speedscope, chrometrace or gecko".to_owned()]
        }
        Failure::Sampler(SamplerError::NotPython(_)) => {
            vec!["with --subprocesses, the Python processes below it are sampled".to_owned()]
        }
        Failure::System { source, .. } if source.kind() == std::io::ErrorKind::WouldBlock => vec![
            "the limit of processes and threads is reached: see `ulimit -u`, and pids.max of the control group"
                .to_owned(),
        ],
        _ => Vec::new(),
    }
}

/// What would show the processes that `/proc` hides, if it hides any.
fn hidepid_hint() -> Option<String> {
    let value = Ourselves::look().hidepid?;
    Some(format!(
        "/proc is mounted with hidepid={value}: run as root with CAP_SYS_PTRACE, from which nothing is hidden"
    ))
}

/// What would let us read these processes whole, where there were too few descriptors.
pub fn descriptors_hint(processes: &[ProcessSnapshot]) -> Option<String> {
    (!processes.iter().all(ProcessSnapshot::is_whole)).then(limit_hint)
}

/// What helps against too few descriptors.
pub fn limit_hint() -> String {
    match soft_limit() {
        usize::MAX => "the machine has too many files open".to_owned(),
        limit => format!("raise the limit of open files, which is {limit} (`ulimit -n`)"),
    }
}

/// The one change that would let us read `pid`.
pub fn access_hint(pid: Pid) -> Option<String> {
    let target = Target::open(pid).ok()?;
    advice_text(&AccessReport::probe(Some(&target)))
}

/// The advice of a report in words.
pub fn advice_text(report: &AccessReport) -> Option<String> {
    let pid = report.them.as_ref().map_or(Pid(0), |them| them.pid);
    match report.advice {
        Advice::Nothing => None,
        Advice::YamaForbids => {
            Some("kernel.yama.ptrace_scope is 3: nobody may attach to anything until the next boot".to_owned())
        }
        Advice::Yama(scope) => Some(format!(
            "kernel.yama.ptrace_scope is {scope}: run as root (`sudo stuckspy … --pid {pid}`), or set it to 0"
        )),
        Advice::ContainerCapability => Some(
            "this container lacks CAP_SYS_PTRACE: add it (`kubectl debug --profile=general`, \
             securityContext.capabilities.add: [\"SYS_PTRACE\"], or `docker run --cap-add SYS_PTRACE`)"
                .to_owned(),
        ),
        Advice::ContainerUser => Some(
            "this container may have CAP_SYS_PTRACE, but only its root gets it: run as user 0 (securityContext.runAsUser: 0, with \
             `kubectl debug` by --custom, or `docker exec -u 0`)"
                .to_owned(),
        ),
        Advice::UserNamespace => Some(format!(
            "process {pid} lives in another user namespace: run stuckspy outside of it, as root of the machine"
        )),
        Advice::Root => Some(format!("run as root (`sudo stuckspy … --pid {pid}`), or with CAP_SYS_PTRACE")),
        Advice::Files => Some(format!(
            "process {pid} is another user's, whose files in /proc are closed to root without CAP_DAC_OVERRIDE: add it beside \
             SYS_PTRACE (securityContext.capabilities.add), or run as that user"
        )),
        Advice::Filtered => Some(
            "the rights suffice, but a seccomp filter or security module refuses: allow process_vm_readv and \
             reading /proc/PID/mem"
                .to_owned(),
        ),
    }
}
