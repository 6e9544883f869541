//! Terminals: which one controls a process, whether anything was ever typed at one, and which one a master belongs to.

use std::io;

use rustix::fs::{AtFlags, OFlags, StatxFlags, statx};

use super::fdinfo::FdInfo;
use crate::sys::procfile::ProcDir;

/// Major number of the slaves of pseudo terminals (`UNIX98_PTY_SLAVE_MAJOR`, `include/uapi/linux/major.h`, Linux 6.18).
const SLAVES: u32 = 136;
/// The device number of `/dev/tty`, which stands for the controlling terminal of whoever opens it.
const CONTROLLING: (u32, u32) = (5, 0);

/// Whether a device is `/dev/tty`.
pub fn is_controlling(device: (u32, u32)) -> bool {
    device == CONTROLLING
}

/// The number of the pseudo terminal with this device number: that in `/dev/pts`.
pub fn slave_number(device: (u32, u32)) -> Option<u32> {
    (device.0 == SLAVES).then_some(device.1)
}

/// Whether anything was ever typed at the terminal that a descriptor of the process has open.
///
/// A read that brings something sets the time of access of the device (`drivers/tty/tty_io.c::tty_read`, Linux 6.18), to eight
/// seconds; before the first one it is that of the device's last change, which is its creation. So what was typed in the first eight seconds
/// only does not show.
pub fn had_input(proc: &ProcDir, fd: i32) -> io::Result<bool> {
    had_input_at(proc, format!("fd/{fd}"))
}

/// The same of the pseudo terminal with this number, as the process sees it.
pub fn slave_had_input(proc: &ProcDir, number: u32) -> io::Result<bool> {
    had_input_at(proc, format!("root/dev/pts/{number}"))
}

fn had_input_at(proc: &ProcDir, path: String) -> io::Result<bool> {
    let handle = proc.open_with(path, OFlags::PATH)?;
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let found = statx(&handle, "", flags, StatxFlags::ATIME | StatxFlags::CTIME)?;
    let accessed = (found.stx_atime.tv_sec, found.stx_atime.tv_nsec);
    let changed = (found.stx_ctime.tv_sec, found.stx_ctime.tv_nsec);
    Ok(accessed > changed)
}

/// The number of the pseudo terminal whose master a descriptor of the process is (`drivers/tty/pty.c::ptm_show_fdinfo`, Linux 4.15 and later).
pub fn master_number(proc: &ProcDir, fd: i32) -> Option<u32> {
    FdInfo::read(proc, fd).ok()?.terminal
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::model::Pid;

    #[test]
    fn a_terminal_at_which_nobody_typed() {
        let master = std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/ptmx")
            .unwrap();
        let own = ProcDir::open(Pid::own()).unwrap();
        let number = master_number(&own, master.as_raw_fd()).unwrap();
        assert!(!slave_had_input(&own, number).unwrap());
        assert!(had_input(&own, 999_999).is_err());
        let null = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(master_number(&own, null.as_raw_fd()), None);
    }

    #[test]
    fn numbers_of_devices() {
        assert!(is_controlling((5, 0)) && !is_controlling((5, 2)));
        assert_eq!(slave_number((136, 7)), Some(7));
        assert_eq!(slave_number((4, 1)), None);
    }
}
