//! Who has what open: the descriptors of all processes that can be seen, by inode or by name. Built once, when asked for.

use rustc_hash::FxHashMap;

use super::family::list_processes;
use super::fdinfo::FdInfo;
use super::fds::{FdTarget, parse_fd_link};
use crate::model::Pid;
use crate::sys::fork::is_ours;
use crate::sys::procfile::{ProcDir, is_gone};

/// Most descriptors that are listed; of more, the rest is left out and said to be.
const MAX_DESCRIPTORS: usize = 4 << 20;

/// Most sockets that are asked for descriptors on their way.
const MAX_SOCKETS: usize = 65_536;

/// An open descriptor of some process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OpenFd {
    /// The process.
    pub pid: Pid,
    /// Its descriptor.
    pub fd: i32,
}

/// The descriptors of all processes, each list in ascending order.
#[derive(Debug, Default)]
pub struct FdIndex {
    sockets: FxHashMap<u64, Vec<OpenFd>>,
    pipes: FxHashMap<u64, Vec<OpenFd>>,
    /// By the last part of the path.
    files: FxHashMap<Vec<u8>, Vec<OpenFd>>,
    /// Processes that did not let us look.
    unreadable: usize,
    /// Whether there were more descriptors than are listed.
    is_cut: bool,
}

impl FdIndex {
    /// Lists them; needs PTRACE_MODE_READ for each process. Ourselves are left out: we hold nothing for long.
    pub fn build() -> FdIndex {
        let mut index = FdIndex::default();
        let mut pids = list_processes().unwrap_or_else(|_| {
            index.unreadable += 1;
            Vec::new()
        });
        pids.sort_unstable();
        let mut count = 0;
        for pid in pids.into_iter().filter(|pid| !is_ours(*pid)) {
            let listed = ProcDir::open(pid).and_then(|proc| Ok((list_fds(&proc)?, proc)));
            let ((folder, fds), proc) = match listed {
                Ok(listed) => listed,
                Err(error) => {
                    index.unreadable += usize::from(!is_gone(&error));
                    continue;
                }
            };
            for fd in fds {
                if count >= MAX_DESCRIPTORS {
                    index.is_cut = true;
                    return index;
                }
                count += 1;
                if let Ok(link) = proc.read_link(&format!("{folder}/{fd}")) {
                    index.add(OpenFd { pid, fd }, &link);
                }
            }
        }
        index
    }

    fn add(&mut self, open: OpenFd, link: &[u8]) {
        match parse_fd_link(link) {
            FdTarget::Socket { inode } => self.sockets.entry(inode).or_default().push(open),
            FdTarget::Pipe { inode } => self.pipes.entry(inode).or_default().push(open),
            FdTarget::Anonymous { .. } => {}
            FdTarget::Path { path } => {
                let name = last_part(&path);
                match self.files.get_mut(name) {
                    Some(open_fds) => open_fds.push(open),
                    None => {
                        self.files.insert(name.to_vec(), vec![open]);
                    }
                }
            }
        }
    }

    /// Who has the socket with this inode.
    pub fn socket(&self, inode: u64) -> &[OpenFd] {
        self.sockets.get(&inode).map_or(&[], Vec::as_slice)
    }

    /// Whether a descriptor may be on its way through a unix socket: until it is received it is in nobody's list.
    pub fn has_fds_in_flight(&self) -> bool {
        self.sockets.len() > MAX_SOCKETS
            || self.sockets.values().any(|open| {
                let open = open.first();
                let info = open.and_then(|open| {
                    let proc = ProcDir::open(open.pid).ok()?;
                    FdInfo::read(&proc, open.fd).ok()
                });
                info.is_some_and(|info| info.sent_fds > 0)
            })
    }

    /// Who has an end of the pipe with this inode.
    pub fn pipe(&self, inode: u64) -> &[OpenFd] {
        self.pipes.get(&inode).map_or(&[], Vec::as_slice)
    }

    /// Who has a file open whose path ends in the same name as this one: the path itself can be another in another mount
    /// namespace. Whether it is the same file is to be seen by its inode.
    pub fn files_named_as(&self, path: &[u8]) -> Vec<OpenFd> {
        let found = self.files.get(last_part(path));
        found.cloned().unwrap_or_default()
    }

    /// Why the lists may lack somebody; `None` when they can't.
    pub fn gap(&self) -> Option<String> {
        match self.unreadable {
            0 if self.is_cut => Some(format!(
                "there are more than {MAX_DESCRIPTORS} open descriptors on this machine; not all were read"
            )),
            0 => None,
            count => Some(format!(
                "the descriptors of {count} processes can not be listed, so others may have its other end"
            )),
        }
    }
}

/// The descriptors of a process, and the folder that has them: of one whose main thread has ended before the others only the
/// folders of those do.
fn list_fds(proc: &ProcDir) -> std::io::Result<(String, Vec<i32>)> {
    let fds = proc.list_numbers("fd")?;
    if !fds.is_empty() {
        return Ok(("fd".to_owned(), fds));
    }
    let others = proc.tasks().unwrap_or_default().into_iter();
    let found = others.skip(1).find_map(|tid| {
        let folder = format!("task/{tid}/fd");
        let fds = proc
            .list_numbers(&folder)
            .ok()
            .filter(|fds| !fds.is_empty())?;
        Some((folder, fds))
    });
    Ok(found.unwrap_or_default())
}

fn last_part(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::target::fds::read_fd;

    #[test]
    fn a_child_has_what_it_was_given() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a file of its own");
        let file = std::fs::File::create(&path).unwrap();
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(file)
            .spawn()
            .unwrap();
        let pid = Pid(child.id().cast_signed());
        let proc = ProcDir::open(pid).unwrap();
        let FdTarget::Pipe { inode } = read_fd(&proc, 0).unwrap() else {
            panic!("no pipe");
        };
        let index = FdIndex::build();
        assert_eq!(index.pipe(inode), [OpenFd { pid, fd: 0 }]);
        assert_eq!(
            index.files_named_as(path.as_os_str().as_encoded_bytes()),
            [OpenFd { pid, fd: 1 }]
        );
        assert!(index.socket(inode).is_empty());
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
