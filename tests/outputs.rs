//! What becomes of the file that a recording replaces, and which files, of others, are not touched.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod support;

#[path = "support/live.rs"]
mod live;

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use live::{find_tool, is_root, make_fifo};
use rustix::fs::{XattrFlags, getxattr, setxattr};
use tempfile::TempDir;

const NOBODY: u32 = 65534;
const ACL: &str = "system.posix_acl_access";

/// A folder that others can reach, with a mode of its own.
fn folder(mode: u32) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(mode)).unwrap();
    folder
}

/// A file that belongs to `user`.
fn file_of(user: u32, path: &Path, mode: u32) {
    fs::write(path, "old").unwrap();
    chown(path, Some(user), Some(user)).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Records a program of its own to `path`.
fn record(before: &[&OsStr], binary: &Path, path: &Path) -> Output {
    let mut words = before.iter().copied().chain([binary.as_os_str()]);
    let mut command = Command::new(words.next().unwrap());
    let python = &live::any_interpreter().path;
    command
        .args(words)
        .args(["record", "-f", "folded", "-d", "100ms", "-o"])
        .arg(path)
        .arg("--")
        .arg(python)
        .args(["-S", "-c", "while True: pass"])
        .output()
        .unwrap()
}

fn record_here(path: &Path) -> Output {
    record(&[], Path::new(env!("CARGO_BIN_EXE_stuckspy")), path)
}

#[track_caller]
fn expect_refused(output: &Output, reason: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(74), "{stderr}");
    assert!(stderr.contains(reason), "{stderr}");
}

#[track_caller]
fn expect_done(output: &Output) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
}

/// What stands in a folder.
fn names(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into())
        .collect();
    names.sort();
    names
}

fn is_new(path: &Path) -> bool {
    fs::read_to_string(path).unwrap() != "old"
}

#[test]
fn owner_and_mode_of_a_file_are_kept_when_it_is_replaced() {
    if !is_root("a file of another user") {
        return;
    }
    let folder = folder(0o755);
    let path = folder.path().join("flame");
    file_of(NOBODY, &path, 0o4640);
    let before = fs::metadata(&path).unwrap();
    expect_done(&record_here(&path));
    let after = fs::metadata(&path).unwrap();
    assert!(is_new(&path));
    assert_ne!(before.ino(), after.ino(), "it was replaced as a whole");
    assert_eq!((after.uid(), after.gid()), (NOBODY, NOBODY));
    assert_eq!(after.mode() & 0o7777, 0o4640);
    assert_eq!(names(folder.path()), [Path::new("flame")]);
}

/// Without an access control list, the mode's bits for the group would let in its group, where they were a limit for all.
#[test]
fn an_access_control_list_is_kept() {
    let folder = folder(0o755);
    let path = folder.path().join("flame");
    fs::write(&path, "old").unwrap();
    // `include/uapi/linux/posix_acl_xattr.h`: version 2, then tag, permissions and id of each entry: owner rw, user 65534 rw, group
    // nothing, mask rw, others nothing.
    let entries: [(u16, u16, u32); 5] = [
        (0x01, 6, u32::MAX),
        (0x02, 6, NOBODY),
        (0x04, 0, u32::MAX),
        (0x10, 6, u32::MAX),
        (0x20, 0, u32::MAX),
    ];
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        list.extend(tag.to_le_bytes());
        list.extend(permissions.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    if let Err(error) = setxattr(&path, ACL, &list, XattrFlags::empty()) {
        support::report_skipped("an access control list", &error.to_string());
        return;
    }
    expect_done(&record_here(&path));
    assert!(is_new(&path));
    let mut kept = [0; 256];
    let length = getxattr(&path, ACL, &mut kept[..]).expect("it has one");
    assert_eq!(kept[..length], list);
    let mode = fs::metadata(&path).unwrap().mode();
    assert_eq!(mode & 0o777, 0o660, "the group's bits are the mask");
}

/// Nobody but root may give a file away. Then it is not replaced by one of another owner.
#[test]
fn a_file_whose_owner_can_not_be_kept_is_refused() {
    if !is_root("a file of another user") {
        return;
    }
    let Some(setpriv) = find_tool("setpriv") else {
        return;
    };
    let folder = folder(0o755);
    let binary = folder.path().join("stuckspy");
    fs::copy(env!("CARGO_BIN_EXE_stuckspy"), &binary).unwrap();
    let inner = folder.path().join("inner");
    fs::create_dir(&inner).unwrap();
    chown(&inner, Some(NOBODY), Some(NOBODY)).unwrap();
    let path = inner.join("flame");
    file_of(0, &path, 0o666);
    let user = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let mut before = vec![setpriv.as_os_str()];
    before.extend(user.iter().map(OsStr::new));
    let output = record(&before, &binary, &path);
    expect_refused(&output, "belongs to group 0, which can't be given");
    // Neither is one whose group alone is its own.
    chown(&path, Some(0), Some(NOBODY)).unwrap();
    let output = record(&before, &binary, &path);
    expect_refused(&output, "belongs to user 0, which can't be given");
    assert!(!is_new(&path));
    assert_eq!(names(&inner), [Path::new("flame")]);
}

/// As `fs.protected_symlinks` has it, whether that is set here or not.
#[test]
fn a_link_of_another_in_a_shared_folder_is_not_followed() {
    if !is_root("a link of another user") {
        return;
    }
    let shared = folder(0o1777);
    let kept = folder(0o755);
    let aim = kept.path().join("aim");
    fs::write(&aim, "old").unwrap();
    let link = shared.path().join("flame");
    symlink(&aim, &link).unwrap();
    lchown(&link, Some(NOBODY), Some(NOBODY)).unwrap();
    expect_refused(&record_here(&link), "a symbolic link of user 65534");
    // Nor if one of our own leads to it.
    let first = kept.path().join("first");
    symlink(&link, &first).unwrap();
    expect_refused(&record_here(&first), "a symbolic link of user 65534");
    assert!(!is_new(&aim));
    // Nor to a file that is not there yet.
    fs::remove_file(&aim).unwrap();
    expect_refused(&record_here(&link), "a symbolic link of user 65534");
    assert!(!aim.exists());
    fs::write(&aim, "old").unwrap();
    // The folder's owner may do there what he likes, and in a folder that is not shared anybody may.
    chown(shared.path(), Some(NOBODY), None).unwrap();
    expect_done(&record_here(&link));
    assert!(is_new(&aim) && link.is_symlink());
    chown(shared.path(), Some(0), None).unwrap();
    fs::set_permissions(shared.path(), Permissions::from_mode(0o777)).unwrap();
    fs::write(&aim, "old").unwrap();
    expect_done(&record_here(&first));
    assert!(is_new(&aim) && link.is_symlink());
    assert_eq!(names(kept.path()), [Path::new("aim"), Path::new("first")]);
}

#[test]
fn our_own_links_are_followed_everywhere() {
    let shared = folder(0o1777);
    fs::create_dir(shared.path().join("inner")).unwrap();
    symlink("second", shared.path().join("first")).unwrap();
    symlink("inner/../inner/aim", shared.path().join("second")).unwrap();
    expect_done(&record_here(&shared.path().join("first")));
    let inner = shared.path().join("inner");
    assert!(is_new(&inner.join("aim")));
    assert_eq!(names(&inner), [Path::new("aim")]);
    // A circle of them has no end.
    symlink("circle", shared.path().join("circle")).unwrap();
    expect_refused(
        &record_here(&shared.path().join("circle")),
        "Too many levels of symbolic links",
    );
}

/// As `fs.protected_regular` and `fs.protected_fifos` have it: whoever has put a file there beforehand would own the recording.
#[test]
fn a_file_of_another_in_a_shared_folder_is_not_written() {
    if !is_root("a file of another user") {
        return;
    }
    let shared = folder(0o1777);
    let path = shared.path().join("flame");
    file_of(NOBODY, &path, 0o666);
    expect_refused(&record_here(&path), "a file of user 65534");
    assert!(!is_new(&path));
    let fifo = shared.path().join("fifo");
    make_fifo(&fifo);
    chown(&fifo, Some(NOBODY), None).unwrap();
    expect_refused(&record_here(&fifo), "a file of user 65534");
    assert_eq!(
        names(shared.path()),
        [Path::new("fifo"), Path::new("flame")]
    );
    // Our own is ours there too.
    chown(&path, Some(0), Some(0)).unwrap();
    expect_done(&record_here(&path));
    assert!(is_new(&path));
}

#[test]
fn a_name_as_long_as_can_be_has_a_temporary_one_too() {
    let folder = folder(0o755);
    let path = folder.path().join("x".repeat(255));
    expect_done(&record_here(&path));
    assert_eq!(names(folder.path()).len(), 1);
}

/// After a loss of power the file is there as a whole, or the old one is.
#[test]
fn a_recording_is_on_the_disk_before_it_has_its_name() {
    let Some(strace) = find_tool("strace") else {
        return;
    };
    let folder = folder(0o755);
    let path = folder.path().join("flame");
    let trace = folder.path().join("trace");
    let calls = "trace=fsync,rename,renameat,renameat2";
    let before: Vec<&OsStr> = vec![
        strace.as_os_str(),
        OsStr::new("-f"),
        OsStr::new("-e"),
        OsStr::new(calls),
        OsStr::new("-o"),
        trace.as_os_str(),
    ];
    let binary = Path::new(env!("CARGO_BIN_EXE_stuckspy"));
    expect_done(&record(&before, binary, &path));
    let trace = fs::read_to_string(&trace).unwrap();
    let calls: Vec<_> = trace
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1)?.split_once('('))
        .map(|(call, _)| call)
        .filter(|call| call.starts_with("fsync") || call.starts_with("rename"))
        .collect();
    assert!(
        matches!(calls[..], ["fsync", rename, "fsync"] if rename.starts_with("rename")),
        "{trace}"
    );
}
