//! Containers as a node has them, made by `runc`: what runs in them is described by a [`Plan`].
//!
//! Nothing is left behind: a container is deleted when its guard is dropped, and its mounts live in its own namespace.

#![allow(dead_code, reason = "each test crate uses its own part")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::live::wait_until;

/// What is to run in a container, and with which rights.
#[derive(Debug)]
pub struct Plan {
    folder: TempDir,
    mounts: Vec<Value>,
    namespaces: Vec<Value>,
    environment: Vec<String>,
    bounding: Vec<&'static str>,
    effective: Vec<&'static str>,
    user: u32,
    has_users: bool,
    seccomp: Option<Value>,
    cgroup: Option<String>,
}

/// The system, read-only, as programs need it that are not static.
pub const SYSTEM: [&str; 3] = ["/usr", "/lib", "/lib64"];

impl Plan {
    /// An empty, read-only root with nothing but `/proc`, no environment, and root without a single capability.
    pub fn new() -> Plan {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("root")).expect("a root");
        Plan {
            folder,
            mounts: vec![json!({"destination": "/proc", "type": "proc", "source": "proc"})],
            namespaces: ["mount", "ipc", "uts"]
                .map(|kind| json!({"type": kind}))
                .into(),
            environment: Vec::new(),
            bounding: Vec::new(),
            effective: Vec::new(),
            user: 0,
            has_users: false,
            seccomp: None,
            cgroup: None,
        }
    }

    /// Puts a copy of a file into the root.
    pub fn with_file(self, source: &Path, name: &str) -> Plan {
        fs::copy(source, self.folder.path().join("root").join(name)).expect("it is copied");
        self
    }

    /// Shows a folder of this machine at the same place, read-only.
    pub fn with_bound(self, path: &str) -> Plan {
        self.with_bound_at(Path::new(path), path, "ro")
    }

    /// Shows a folder of this machine at `place`, `ro` or `rw`.
    pub fn with_bound_at(mut self, source: &Path, place: &str, mode: &str) -> Plan {
        self.mounts.push(json!({"destination": place, "type": "bind", "source": source, "options": ["rbind", mode]}));
        self
    }

    /// Shows a folder of this machine at the same place as the lower layer of an image, which can be written over.
    pub fn with_layer(mut self, path: &Path) -> Plan {
        let folder = |name: &str| {
            let folder = self.folder.path().join(name);
            fs::create_dir_all(&folder).expect("a folder");
            folder
        };
        let options = [
            format!("lowerdir={}", path.display()),
            format!("upperdir={}", folder("upper").display()),
            format!("workdir={}", folder("work").display()),
        ];
        self.mounts.push(json!({"destination": path, "type": "overlay", "source": "overlay", "options": options}));
        self
    }

    /// A writable `/tmp`.
    pub fn with_tmp(mut self) -> Plan {
        self.mounts
            .push(json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}));
        self
    }

    /// `/proc` with an option, such as `hidepid=2`.
    pub fn with_proc_option(mut self, option: &str) -> Plan {
        self.mounts[0]["options"] = json!([option]);
        self
    }

    pub fn with_variable(mut self, name: &str, value: &str) -> Plan {
        self.environment.push(format!("{name}={value}"));
        self
    }

    /// Gives it namespaces of its own, such as `pid` and `network`.
    pub fn with_own(mut self, kinds: &[&str]) -> Plan {
        self.namespaces
            .extend(kinds.iter().map(|kind| json!({"type": kind})));
        self
    }

    /// Gives it a user namespace of its own, or that of the process `pid`. Its users have the same numbers as outside.
    pub fn with_users(mut self, pid: Option<i32>) -> Plan {
        self.namespaces.push(match pid {
            Some(pid) => json!({"type": "user", "path": format!("/proc/{pid}/ns/user")}),
            None => json!({"type": "user"}),
        });
        self.has_users = true;
        self
    }

    /// Puts it beside the process `pid`: into its pid and network namespaces, and no other.
    pub fn beside(mut self, pid: i32) -> Plan {
        for (kind, file) in [("pid", "pid"), ("network", "net")] {
            let path = format!("/proc/{pid}/ns/{file}");
            self.namespaces.push(json!({"type": kind, "path": path}));
        }
        self
    }

    /// Gives it capabilities; what is not root has them in the bounding set only, as the engines do it.
    pub fn with_capabilities(mut self, names: &[&'static str]) -> Plan {
        self.bounding = names.to_vec();
        self.effective = if self.user == 0 {
            names.to_vec()
        } else {
            Vec::new()
        };
        self
    }

    /// Runs it as another user; before capabilities are given.
    pub fn with_user(mut self, user: u32) -> Plan {
        self.user = user;
        self
    }

    pub fn with_seccomp(mut self, profile: Value) -> Plan {
        self.seccomp = Some(profile);
        self
    }

    /// The path of its cgroup, below one of its own.
    pub fn with_cgroup(mut self, path: &str) -> Plan {
        self.cgroup = Some(path.to_owned());
        self
    }

    /// Its name, which no other has.
    fn name(&self) -> String {
        let own = self.folder.path().file_name();
        let own = own.map(|name| name.to_string_lossy().replace('.', "-"));
        format!("stuckspy{}", own.unwrap_or_default())
    }

    fn prepare(&self, program: &[&str]) -> Command {
        let cgroup = self.cgroup.as_deref().unwrap_or_default();
        let mut config = json!({
            "ociVersion": "1.0.2",
            "root": {"path": "root", "readonly": true},
            "process": {
                "user": {"uid": self.user, "gid": self.user},
                "cwd": "/",
                "args": program,
                "env": self.environment,
                "noNewPrivileges": true,
                "capabilities": {"bounding": self.bounding, "effective": self.effective, "permitted": self.effective},
            },
            "mounts": self.mounts,
            "linux": {"namespaces": self.namespaces, "cgroupsPath": format!("/{}{cgroup}", self.name())},
        });
        if self.has_users {
            let all = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
            config["linux"]["uidMappings"] = all.clone();
            config["linux"]["gidMappings"] = all;
        }
        if let Some(profile) = &self.seccomp {
            config["linux"]["seccomp"] = profile.clone();
        }
        let path = self.folder.path().join("config.json");
        fs::write(path, config.to_string()).expect("the configuration is written");
        let mut command = Command::new("runc");
        command
            .args(["run", "--bundle"])
            .arg(self.folder.path())
            .arg(self.name());
        command
    }

    /// Runs a program to its end.
    pub fn run(&self, program: &[&str]) -> Output {
        let command = &mut self.prepare(program);
        let output = command.output().expect("runc can be started");
        let _guard = Guard { name: self.name() };
        output
    }

    /// Starts a program that says a line when it may be looked at; gives the line too.
    pub fn start(self, program: &[&str]) -> (Container, String) {
        let mut container = self.launch(program);
        let mut line = String::new();
        container.stdout.read_line(&mut line).expect("it says text");
        assert!(!line.is_empty(), "{program:?} said nothing");
        container.pid = container.find_pid().expect("it runs");
        (container, line.trim_end().to_owned())
    }

    /// Starts a program that says nothing, and waits until it runs.
    pub fn keep(self, program: &[&str]) -> Container {
        let mut container = self.launch(program);
        wait_until("a container runs", || {
            let pid = container.find_pid();
            container.pid = pid.unwrap_or_default();
            pid.is_some()
        });
        container
    }

    fn launch(self, program: &[&str]) -> Container {
        let mut child = self
            .prepare(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("runc can be started");
        Container {
            pid: 0,
            stdin: child.stdin.take(),
            stdout: BufReader::new(child.stdout.take().expect("it is piped")),
            child,
            _guard: Guard { name: self.name() },
            plan: self,
        }
    }
}

/// A container that runs.
#[derive(Debug)]
pub struct Container {
    pid: i32,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    _guard: Guard,
    plan: Plan,
}

impl Container {
    /// Its first process, as this machine numbers it.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The name of its cgroup's top.
    pub fn name(&self) -> String {
        self.plan.name()
    }

    /// Its first process, once the program in it has been started.
    fn find_pid(&self) -> Option<i32> {
        let mut runc = Command::new("runc");
        let output = runc.args(["state", &self.name()]).output();
        let output = output.expect("runc can be started");
        let state: Value = serde_json::from_slice(&output.stdout).ok()?;
        let pid = state["pid"]
            .as_i64()
            .filter(|_| state["status"] == "running");
        pid?.try_into().ok()
    }

    /// Runs a further program in it, as `kubectl exec` does.
    pub fn exec(&self, program: &[&str]) -> Output {
        let mut runc = Command::new("runc");
        let command = runc.args(["exec", &self.name()]).args(program);
        command.output().expect("runc can be started")
    }

    /// Has it end, as the end of its pod does; gives its exit code.
    pub fn end(mut self) -> Option<i32> {
        let mut runc = Command::new("runc");
        let status = runc.args(["kill", &self.name(), "TERM"]).status();
        assert!(status.expect("runc can be started").success());
        self.child.wait().expect("it is our own child").code()
    }

    /// Tells it a line.
    pub fn say(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("it is open");
        writeln!(stdin, "{line}").expect("it listens");
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        drop(self.stdin.take());
        // The guard deletes it; here is only who waits for it.
        delete(&self.name());
        let _ = self.child.wait();
    }
}

/// Deletes a container, dead or alive, with its cgroups.
#[derive(Debug)]
struct Guard {
    name: String,
}

impl Drop for Guard {
    fn drop(&mut self) {
        delete(&self.name);
        for hierarchy in fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten()
        {
            remove_folders(&hierarchy.path().join(&self.name));
        }
        remove_folders(&Path::new("/sys/fs/cgroup").join(&self.name));
    }
}

fn delete(name: &str) {
    // One that has ended is gone already, and then this fails.
    let _ = Command::new("runc")
        .args(["delete", "--force", name])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
}

/// Removes empty folders, the innermost first: the files in those of cgroups can't be removed, and needn't be.
fn remove_folders(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_folders(&entry.path());
        }
    }
    let _ = fs::remove_dir(path);
}

/// Calls that neither Docker nor containerd lets a container make, unless a capability goes with them: the documented ones
/// (docs.docker.com, "Significant syscalls blocked by the default profile"), and those that their allow-lists do not have.
const BLOCKED: &str = "_sysctl acct add_key afs_syscall bpf cachestat clock_settime clone3 create_module delete_module \
    fanotify_init fchmodat2 finit_module fsconfig fsmount fsopen fspick futex_requeue futex_wait futex_wake get_kernel_syms \
    get_mempolicy getpmsg init_module io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load \
    kexec_load keyctl landlock_add_rule landlock_create_ruleset landlock_restrict_self listmount lookup_dcookie \
    lsm_get_self_attr lsm_list_modules lsm_set_self_attr map_shadow_stack mbind migrate_pages mount mount_setattr move_mount \
    move_pages mseal nfsservctl open_by_handle_at open_tree perf_event_open personality pidfd_getfd pivot_root \
    process_madvise process_mrelease process_vm_readv process_vm_writev ptrace putpmsg query_module quotactl quotactl_fd reboot \
    request_key security set_mempolicy set_mempolicy_home_node setdomainname sethostname setns settimeofday statmount swapoff \
    swapon sysfs syslog tuxcall umount2 unshare uselib userfaultfd ustat vhangup vserver";

/// The calls that go with CAP_SYS_PTRACE. Older profiles do not have `pidfd_getfd`.
pub const WITH_PTRACE: [&str; 6] = [
    "kcmp",
    "pidfd_getfd",
    "process_madvise",
    "process_vm_readv",
    "process_vm_writev",
    "ptrace",
];

/// What the runtimes' default profile lets through, with `more` of what it blocks: everything else fails with EPERM, and `clone3`
/// with ENOSYS, for the arguments of `clone` can be looked at and those of `clone3` can't.
pub fn default_seccomp(more: &[&str]) -> Value {
    let is_blocked = |name: &str| BLOCKED.split_whitespace().any(|blocked| blocked == name);
    let calls = syscalls::Sysno::iter().map(|call| call.name());
    let allowed: Vec<&str> = calls
        .filter(|name| *name != "clone" && (!is_blocked(name) || more.contains(name)))
        .collect();
    // Namespaces of its own: CLONE_NEWNS and all others (`include/uapi/linux/sched.h`).
    let namespaces = 0x7e02_0000;
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [
            {"names": allowed, "action": "SCMP_ACT_ALLOW"},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW",
             "args": [{"index": 0, "value": namespaces, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        ],
    })
}
