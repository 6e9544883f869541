//! A CPU limit for a process.

use std::fs;
use std::path::PathBuf;

/// A cgroup with a CPU limit, which is removed in the end.
#[derive(Debug)]
pub struct CpuLimit(PathBuf);

impl CpuLimit {
    /// A tenth of a processor, by cgroups of version 1 or 2; `None` where none can be made.
    pub fn new(name: &str) -> Option<CpuLimit> {
        let first = PathBuf::from("/sys/fs/cgroup/cpu").join(name);
        if fs::create_dir(&first).is_ok() {
            let limit = CpuLimit(first);
            let is_set = fs::write(limit.0.join("cpu.cfs_quota_us"), "10000").is_ok();
            return is_set.then_some(limit);
        }
        let second = PathBuf::from("/sys/fs/cgroup").join(name);
        fs::create_dir(&second).ok()?;
        let limit = CpuLimit(second);
        let is_set = fs::write(limit.0.join("cpu.max"), "10000 100000").is_ok();
        is_set.then_some(limit)
    }

    pub fn take_in(&self, pid: i32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).expect("it takes processes in");
    }
}

impl Drop for CpuLimit {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}
