//! A fifo that is being opened: the call sleeps until somebody opens the other end.

use syscalls::Sysno;

use super::arguments::PointedArguments;
use crate::model::{Resource, Tid, Wait, WaitKind};
use crate::target::Target;
use crate::target::tasks::read_wchan;

/// Functions in which an open sleeps for a fifo's other end (`fs/pipe.c`, Linux 6.18; `wait_for_partner` may be inlined).
const FIFO_FUNCTIONS: [&str; 2] = ["wait_for_partner", "fifo_open"];

/// Describes an open, openat or openat2 that sleeps in a fifo; other opens are left as they are.
pub(super) fn describe_open(
    target: &Target,
    tid: Tid,
    call: Sysno,
    arguments: &[u64; 6],
    pointed: Option<&PointedArguments>,
    wait: &mut Wait,
) {
    let (folder, flags) = match call {
        #[cfg(target_arch = "x86_64")]
        Sysno::open => (None, Some(arguments[1])),
        #[cfg(target_arch = "x86_64")]
        Sysno::creat => (None, Some(1)),
        Sysno::openat => (Some(arguments[0]), Some(arguments[2])),
        // Its flags are in memory.
        Sysno::openat2 => (Some(arguments[0]), None),
        _ => return,
    };
    let path = pointed.and_then(|pointed| pointed.path.clone());
    let path = path.map(|path| whole_path(target, folder, path));
    let function = read_wchan(target.proc(), tid);
    let is_fifo = function
        .as_deref()
        .is_some_and(|function| FIFO_FUNCTIONS.contains(&function));
    let mut resource = Resource {
        kind: "file".to_owned(),
        path: path.map(|path| String::from_utf8_lossy(&path).into_owned()),
        state: Some("opening".to_owned()),
        function,
        ..Resource::default()
    };
    if is_fifo {
        "fifo".clone_into(&mut resource.kind);
        // If anybody had its other end open, it would not sleep.
        resource.is_alone = Some(true);
        // O_RDONLY is 0.
        match flags {
            Some(flags) if flags & 3 == 0 => wait.kind = WaitKind::PipeRead,
            Some(_) => wait.kind = WaitKind::PipeWrite,
            None => {}
        }
    }
    wait.resource = Some(resource);
}

/// The path as it is from the root, where it was given from another folder.
fn whole_path(target: &Target, folder: Option<u64>, path: Vec<u8>) -> Vec<u8> {
    if path.starts_with(b"/") {
        return path;
    }
    let number = folder.map(|folder| ((folder & u64::from(u32::MAX)) as u32).cast_signed());
    let link = match number.filter(|number| *number >= 0) {
        Some(number) => format!("fd/{number}"),
        // AT_FDCWD.
        None => "cwd".to_owned(),
    };
    match target.proc().read_link(&link) {
        Ok(mut whole) => {
            whole.push(b'/');
            whole.extend(path);
            whole
        }
        Err(_) => path,
    }
}
