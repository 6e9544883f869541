//! What we may see of a target: the rights we have, what stands in the way, and what was really possible when tried.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};
use serde::Serialize;

use super::Target;
use super::maps::parse_maps;
use super::mounts::find_hidepid;
use super::status::Status;
use super::tasks::read_syscall;
use crate::model::{Address, Pid};
use crate::sys::deadline;
use crate::sys::memory::{LiveMemory, ReadError, RemoteMemory};
use crate::sys::procfile::ProcDir;

/// Bits of capability sets (`include/uapi/linux/capability.h`, Linux 6.18).
const CAP_SYS_PTRACE: u64 = 1 << 19;
const CAP_SYS_ADMIN: u64 = 1 << 21;
const CAP_SYS_MODULE: u64 = 1 << 16;

/// How long trying to read memory may take.
const MAX_PROBE: Duration = Duration::from_secs(2);

/// What can be done to a target, each tried for real; `None` where there was nothing to try it on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Access {
    /// Its memory can be read (PTRACE_MODE_ATTACH).
    pub ptrace: Option<bool>,
    /// Many pieces of it can be read in one call (`process_vm_readv`); else it is read through `/proc/PID/mem`.
    pub vectored: Option<bool>,
    /// `/proc/PID/task/TID/syscall` can be read (PTRACE_MODE_ATTACH).
    pub syscall: Option<bool>,
    /// Its descriptors can be listed (PTRACE_MODE_READ).
    pub fds: Option<bool>,
    /// Its kernel stack can be read (CAP_SYS_ADMIN).
    pub kernel_stack: Option<bool>,
    /// Its descriptors can be duplicated (PTRACE_MODE_ATTACH, Linux 5.6).
    pub pidfd_getfd: Option<bool>,
    /// Its mapped files can be opened even when deleted (CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE).
    pub map_files: Option<bool>,
}

/// Who we are and what rules us.
#[derive(Clone, Debug)]
pub struct Ourselves {
    /// Our effective user.
    pub uid: u32,
    /// Whether CAP_SYS_PTRACE is in effect.
    pub cap_sys_ptrace: bool,
    /// Whether CAP_SYS_PTRACE is in the bounding set, so that it could be had.
    pub cap_sys_ptrace_in_bounds: bool,
    /// Whether CAP_SYS_ADMIN is in effect.
    pub cap_sys_admin: bool,
    /// Whether gaining rights by exec is switched off.
    pub no_new_privs: bool,
    /// Whether a seccomp filter is on.
    pub seccomp: bool,
    /// `kernel.yama.ptrace_scope`, where the kernel has it.
    pub yama: Option<u8>,
    /// Whether we seem to be in a container: its engine left a mark, or took away what no container is given.
    pub in_container: bool,
    /// How `/proc` hides the processes of others (its option `hidepid`), where it does.
    pub hidepid: Option<String>,
}

/// Who the target is, as far as it matters for rights.
#[derive(Clone, Debug)]
pub struct Them {
    /// The process.
    pub pid: Pid,
    /// Its effective user.
    pub uid: Option<u32>,
    /// Whether the kernel hides its memory also from its own user (not "dumpable": it changed its user, or its program
    /// can't be read).
    pub undumpable: bool,
    /// Who traces it.
    pub tracer: Option<Pid>,
    /// Whether it lives in another user namespace; `None` when that can't be told.
    pub other_user_namespace: Option<bool>,
    /// Whether it is a thread of the kernel.
    pub is_kernel_thread: bool,
    /// Whether it has memory at all: zombies have none.
    pub has_memory: bool,
}

/// The one change that would give more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Advice {
    /// Everything works.
    Nothing,
    /// Yama forbids all attaching until the next boot.
    YamaForbids,
    /// Yama allows attaching only with CAP_SYS_PTRACE, or to descendants.
    Yama(u8),
    /// Our container has CAP_SYS_PTRACE, but only its root gets it.
    ContainerUser,
    /// CAP_SYS_PTRACE has to be given to our container.
    ContainerCapability,
    /// The capability has to be held in the target's user namespace: run outside.
    UserNamespace,
    /// Run as root, or with CAP_SYS_PTRACE.
    Root,
    /// Memory can be read, but the files of its user below `/proc` are closed to root without a capability for that.
    Files,
    /// Rights suffice by the rules, but calls are refused: a seccomp filter or a security module.
    Filtered,
}

/// Everything about rights.
#[derive(Clone, Debug)]
pub struct AccessReport {
    /// Who we are.
    pub ourselves: Ourselves,
    /// Who the target is, when there is one.
    pub them: Option<Them>,
    /// What worked.
    pub access: Access,
    /// What would help.
    pub advice: Advice,
}

impl AccessReport {
    /// Looks at ourselves, and at `target` if there is one.
    pub fn probe(target: Option<&Target>) -> AccessReport {
        let ourselves = Ourselves::look();
        let them = target.map(Them::look);
        let access = target.map(probe_access).unwrap_or_default();
        let advice = advise(&ourselves, them.as_ref(), &access);
        AccessReport {
            ourselves,
            them,
            access,
            advice,
        }
    }
}

impl Ourselves {
    /// Looks at this process.
    pub fn look() -> Ourselves {
        let own = ProcDir::open(Pid::own());
        let status = own
            .and_then(|proc| proc.read_record("status"))
            .map(|bytes| Status::parse(&bytes))
            .unwrap_or_default();
        let yama = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope");
        Ourselves {
            uid: status.uids.get(1).copied().unwrap_or(u32::MAX),
            cap_sys_ptrace: status.cap_effective & CAP_SYS_PTRACE != 0,
            cap_sys_ptrace_in_bounds: status.cap_bounding & CAP_SYS_PTRACE != 0,
            cap_sys_admin: status.cap_effective & CAP_SYS_ADMIN != 0,
            no_new_privs: status.no_new_privs,
            seccomp: status.seccomp != 0,
            yama: yama.ok().and_then(|text| text.trim().parse().ok()),
            in_container: is_in_container(&status),
            hidepid: find_hidepid(),
        }
    }
}

/// Engines mark the file system or the environment; and root of a container may neither load modules nor mount, unless it is
/// privileged.
fn is_in_container(status: &Status) -> bool {
    let marks = ["/.dockerenv", "/run/.containerenv"];
    status.cap_bounding & (CAP_SYS_MODULE | CAP_SYS_ADMIN) == 0
        || marks.iter().any(|mark| std::path::Path::new(mark).exists())
        || std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
        || std::env::var_os("container").is_some()
}

impl Them {
    fn look(target: &Target) -> Them {
        let status = target
            .proc()
            .read_record("status")
            .map(|bytes| Status::parse(&bytes))
            .unwrap_or_default();
        let uid = status.uids.get(1).copied();
        let owner = target
            .proc()
            .open_with(".", OFlags::PATH | OFlags::DIRECTORY)
            .and_then(|directory| Ok(rustix::fs::fstat(&directory)?.st_uid))
            .ok();
        Them {
            pid: target.pid(),
            uid,
            // The files of a process that is not dumpable belong to root (`fs/proc/base.c::task_dump_owner`).
            undumpable: matches!((uid, owner), (Some(uid), Some(owner)) if uid != owner && uid != 0),
            tracer: status.tracer,
            other_user_namespace: is_in_other_user_namespace(target.proc()),
            is_kernel_thread: target.is_kernel_thread(),
            has_memory: status.has_memory,
        }
    }
}

/// Whether the target lives in another user namespace than we. Its link is shown only to those who may look into it; its map of
/// users is shown to everybody, and where that is another one than ours, the namespace is too.
fn is_in_other_user_namespace(theirs: &ProcDir) -> Option<bool> {
    let ours = ProcDir::open(Pid::own()).ok()?;
    let links = (ours.read_link("ns/user"), theirs.read_link("ns/user"));
    if let (Ok(ours), Ok(theirs)) = links {
        return Some(ours != theirs);
    }
    let maps = (ours.read("uid_map").ok()?, theirs.read("uid_map").ok()?);
    (maps.0 != maps.1).then_some(true)
}

fn probe_access(target: &Target) -> Access {
    let proc = target.proc();
    let allowed = |result: io::Result<()>| match result {
        Ok(()) => Some(true),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Some(false),
        Err(_) => None,
    };
    let main = target.pid().main_thread();
    let first = proc.list_numbers("fd").map(|fds| fds.first().copied());
    let duplicate = || {
        let pidfd = crate::sys::pidfd::PidFd::open(target.pid()).ok()?;
        let fd = first.as_ref().ok().copied().flatten()?;
        allowed(
            pidfd_getfd(pidfd.as_fd(), fd, PidfdGetfdFlags::empty())
                .map(drop)
                .map_err(Into::into),
        )
    };
    // These two read the maps and memory, which can block for as long as the target's `mmap_lock` is held.
    let pid = target.pid();
    let probe = move || {
        Target::open(pid)
            .map(|target| (can_read_memory(&target), can_open_map_files(target.proc())))
    };
    let ((ptrace, vectored), map_files) = deadline::run(MAX_PROBE, probe)
        .ok()
        .and_then(Result::ok)
        .unwrap_or_default();
    Access {
        ptrace,
        vectored,
        syscall: allowed(read_syscall(proc, main).map(drop)),
        fds: allowed(
            first
                .as_ref()
                .map(|_| ())
                .map_err(|error| error.kind().into()),
        ),
        kernel_stack: allowed(proc.read(&format!("task/{main}/stack")).map(drop)),
        pidfd_getfd: duplicate(),
        map_files,
    }
}

/// Whether its memory can be read at all, and by the call that reads many pieces at once.
fn can_read_memory(target: &Target) -> (Option<bool>, Option<bool>) {
    // Without the right to see the maps there is none to read memory either.
    let maps = match target.proc().read("maps") {
        Ok(bytes) => parse_maps(&bytes),
        Err(error) => {
            let denied = error.kind() == io::ErrorKind::PermissionDenied;
            return (denied.then_some(false), None);
        }
    };
    let address = maps
        .iter()
        .find(|mapping| mapping.readable)
        .map_or(Address::NULL, |mapping| mapping.start);
    let memory = LiveMemory::new(target.pid());
    match memory.read(address, &mut [0]) {
        Ok(()) => (Some(true), memory.can_read_vectored(address)),
        Err(ReadError::Denied) => (Some(false), None),
        Err(_) => (None, None),
    }
}

fn can_open_map_files(proc: &ProcDir) -> Option<bool> {
    let maps = parse_maps(&proc.read("maps").ok()?);
    let mapping = maps.iter().find(|mapping| mapping.path().is_some())?;
    let link = format!("map_files/{:x}-{:x}", mapping.start.0, mapping.end.0);
    Some(proc.open_with(link.as_str(), OFlags::PATH).is_ok())
}

fn advise(ourselves: &Ourselves, them: Option<&Them>, access: &Access) -> Advice {
    if access.ptrace == Some(true) && [access.syscall, access.fds].contains(&Some(false)) {
        return Advice::Files;
    }
    if access.ptrace != Some(false) {
        return Advice::Nothing;
    }
    let Some(them) = them else {
        return Advice::Nothing;
    };
    if ourselves.yama == Some(3) {
        return Advice::YamaForbids;
    }
    // A capability counts only in the namespace that it was given in, and below.
    if them.other_user_namespace == Some(true) {
        return Advice::UserNamespace;
    }
    if ourselves.cap_sys_ptrace {
        return Advice::Filtered;
    }
    // Where the bounding set has the capability, becoming root gives it; root without it can't get it from inside.
    let root_lacks_it = ourselves.uid == 0 || !ourselves.cap_sys_ptrace_in_bounds;
    if ourselves.in_container && root_lacks_it {
        return Advice::ContainerCapability;
    }
    if ourselves.in_container {
        return Advice::ContainerUser;
    }
    if them.uid == Some(ourselves.uid)
        && !them.undumpable
        && let Some(scope @ (1 | 2)) = ourselves.yama
    {
        return Advice::Yama(scope);
    }
    Advice::Root
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ourselves() -> Ourselves {
        Ourselves {
            uid: 1000,
            cap_sys_ptrace: false,
            cap_sys_ptrace_in_bounds: true,
            cap_sys_admin: false,
            no_new_privs: false,
            seccomp: false,
            yama: None,
            in_container: false,
            hidepid: None,
        }
    }

    fn them() -> Them {
        Them {
            pid: Pid(7),
            uid: Some(1000),
            undumpable: false,
            tracer: None,
            other_user_namespace: Some(false),
            is_kernel_thread: false,
            has_memory: true,
        }
    }

    fn advice(ourselves: Ourselves, them: Them) -> Advice {
        let access = Access {
            ptrace: Some(false),
            ..Access::default()
        };
        advise(&ourselves, Some(&them), &access)
    }

    #[test]
    fn each_obstacle_has_its_own_advice() {
        assert_eq!(advice(ourselves(), them()), Advice::Root);
        assert_eq!(
            advice(
                Ourselves {
                    yama: Some(1),
                    ..ourselves()
                },
                them()
            ),
            Advice::Yama(1)
        );
        assert_eq!(
            advice(
                Ourselves {
                    yama: Some(3),
                    ..ourselves()
                },
                them()
            ),
            Advice::YamaForbids
        );
        assert_eq!(
            advice(
                Ourselves {
                    yama: Some(1),
                    ..ourselves()
                },
                Them {
                    uid: Some(0),
                    ..them()
                }
            ),
            Advice::Root
        );
        let contained = Ourselves {
            in_container: true,
            ..ourselves()
        };
        assert_eq!(advice(contained.clone(), them()), Advice::ContainerUser);
        let bounded = Ourselves {
            cap_sys_ptrace_in_bounds: false,
            ..contained
        };
        assert_eq!(advice(bounded, them()), Advice::ContainerCapability);
        let privileged = Ourselves {
            cap_sys_ptrace: true,
            ..ourselves()
        };
        assert_eq!(advice(privileged.clone(), them()), Advice::Filtered);
        assert_eq!(
            advice(
                privileged,
                Them {
                    other_user_namespace: Some(true),
                    ..them()
                }
            ),
            Advice::UserNamespace
        );
    }

    #[test]
    fn nothing_is_advised_where_memory_can_be_read() {
        let own = Target::open(Pid::own()).unwrap();
        let report = AccessReport::probe(Some(&own));
        assert_eq!(report.access.ptrace, Some(true));
        assert_eq!(report.advice, Advice::Nothing);
    }
}
