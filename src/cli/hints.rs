//! From a failure to the lines that help: chosen by the kind of error, never by its text.

use super::exit::Failure;
use crate::export::Format;
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
            "mount the /proc of this pid namespace: `mount -t proc proc /proc`; or enter the namespace by `unshare --mount-proc` or \
             `nsenter --mount --pid`"
                .to_owned(),
        ],
        Failure::Target(TargetError::IsThread { process, .. }) => {
            vec![format!("try --pid {process}")]
        }
        Failure::Target(TargetError::NotFound(_)) => {
            vec!["pids are those of this pid namespace: in a container, the first process is --pid 1".to_owned()]
        }
        Failure::Terminal(_) => {
            vec!["set TERM (e.g. TERM=xterm), or redirect the output: `stuckspy top … | cat` prints plain text".to_owned()]
        }
        Failure::DataToTerminal => vec![
            "name a file (`-o flame.svg`) or redirect the output (`-o - > flame.svg`), without -t through kubectl or docker: \
             `kubectl stuckspy record POD -o flame.svg` does that"
                .to_owned(),
        ],
        Failure::NoTarget(candidates) if candidates.is_empty() => {
            vec!["name one by --pid PID, or start one: `stuckspy … python3 job.py`".to_owned()]
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
        Failure::UnknownFormat(_) => vec![format!(
            "name the format by --format, or by the end of the file's name: {}",
            Format::list_endings()
        )],
        Failure::Rules { .. } => {
            vec!["the format of rules is described in docs/rules.md".to_owned()]
        }
        Failure::Launch { program, .. } if is_number(program) => {
            vec![format!("to attach to process {program}: --pid {program}")]
        }
        Failure::Sampler(SamplerError::NotPython(_)) => {
            vec!["--subprocesses samples the Python processes below it".to_owned()]
        }
        Failure::System { source, .. } if source.kind() == std::io::ErrorKind::WouldBlock => vec![
            "the limit of processes and threads is reached: check `ulimit -u`, and pids.max of the cgroup"
                .to_owned(),
        ],
        _ => Vec::new(),
    }
}

fn is_number(program: &str) -> bool {
    !program.is_empty() && program.bytes().all(|byte| byte.is_ascii_digit())
}

/// What would show the processes that `/proc` hides, if it hides any.
fn hidepid_hint() -> Option<String> {
    let value = Ourselves::look().hidepid?;
    Some(format!(
        "/proc is mounted with hidepid={value}: run as root with CAP_SYS_PTRACE, to which all processes are shown"
    ))
}

/// What would let us read these processes whole, where there were too few descriptors.
pub fn descriptors_hint(processes: &[ProcessSnapshot]) -> Option<String> {
    (!processes.iter().all(ProcessSnapshot::is_whole)).then(limit_hint)
}

/// What helps against too few descriptors.
pub fn limit_hint() -> String {
    match soft_limit() {
        usize::MAX => "the system's limit of open files is reached (fs.file-max)".to_owned(),
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
            Some("kernel.yama.ptrace_scope is 3: nobody may attach to any process until the next boot".to_owned())
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
            "this container may have CAP_SYS_PTRACE, but only its root gets it: run as user 0 (securityContext.runAsUser: 0, by --custom \
             of `kubectl debug`; or `docker exec -u 0`)"
                .to_owned(),
        ),
        Advice::UserNamespace => Some(format!(
            "process {pid} is in another user namespace: run stuckspy in the initial one, as root of the machine"
        )),
        Advice::Root => Some(format!("run as root (`sudo stuckspy … --pid {pid}`), or with CAP_SYS_PTRACE")),
        Advice::Files => Some(format!(
            "process {pid} belongs to another user, and root needs CAP_DAC_OVERRIDE to read its files in /proc: add it to SYS_PTRACE \
             (securityContext.capabilities.add), or run as that user"
        )),
        Advice::Filtered => Some(
            "the capabilities suffice, but a seccomp filter or a security module (AppArmor, SELinux) denies access: allow \
             process_vm_readv and reading /proc/PID/mem"
                .to_owned(),
        ),
    }
}
