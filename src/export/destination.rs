//! Where a path leads that is to be written to, and whether it may be: links and files of others in folders that everybody can
//! write to are refused, and the owner of a file is known. It must not write contents.
//!
//! The rules are those of `fs/namei.c::may_follow_link` and `::may_create_in_sticky` (Linux 6.18), which the kernel applies only
//! where `fs.protected_symlinks`, `fs.protected_regular` and `fs.protected_fifos` are set, and the latter two not to a rename.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, PROC_SUPER_MAGIC, Stat, XattrFlags};
use rustix::fs::{fchmod, fchown, fgetxattr, fremovexattr, fsetxattr, fstat, fstatfs, fsync};
use rustix::fs::{openat, readlinkat, renameat, statat, unlinkat};
use rustix::io::Errno;
use rustix::process::{Gid, Uid, geteuid};

/// Most links that lead on to each other (`include/linux/namei.h::MAXSYMLINKS`, Linux 6.18).
const MAX_LINKS: usize = 40;
/// How often a FIFO is tried to be opened.
const ROUND: Duration = Duration::from_millis(50);
/// Who else may do what with a file, where its mode does not say it.
const ACL: &str = "system.posix_acl_access";
/// Longest access control list: the kernel's own limit for the value of an attribute (`XATTR_SIZE_MAX`).
const MAX_ACL: usize = 64 << 10;

/// A folder that is held open, and a name in it: nobody can put another folder in its place.
#[derive(Debug)]
pub struct Place {
    folder: OwnedFd,
    /// The folder, for people.
    shown: PathBuf,
    name: OsString,
}

/// What stands at the end of a path.
#[derive(Debug)]
pub enum Destination {
    /// Nothing yet.
    Nothing(Place),
    /// A regular file.
    Regular(Place),
    /// Anything else, open for writing.
    Special(File),
}

/// A regular file, open for writing, with what is to be kept when another one takes its place.
#[derive(Debug)]
pub struct Existing {
    pub file: File,
    stat: Stat,
    acl: Option<Vec<u8>>,
}

impl Destination {
    /// Follows the links of `path` to their end. A FIFO without a reader is waited for, until `is_over`.
    pub fn find(path: &Path, is_over: &AtomicBool) -> io::Result<Destination> {
        let mut folder = openat(CWD, ".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let mut shown = PathBuf::new();
        let mut rest = path.to_owned();
        for _ in 0..=MAX_LINKS {
            let name = match rest.file_name() {
                Some(name) if !rest.as_os_str().as_bytes().ends_with(b"/") => name.to_owned(),
                _ if rest.as_os_str().is_empty() => return Err(Errno::NOENT.into()),
                _ => return Err(Errno::ISDIR.into()),
            };
            if let Some(parent) = rest.parent().filter(|parent| *parent != Path::new("")) {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                folder = openat(&folder, parent, flags, Mode::empty())?;
                shown.push(parent);
            }
            let place = Place {
                folder,
                shown,
                name,
            };
            // What stands in /proc are no links that have a path, but files that somebody has open.
            if fstatfs(&place.folder)?.f_type == PROC_SUPER_MAGIC {
                let file = open_special(&place, OFlags::empty(), is_over)?;
                return Ok(Destination::Special(file));
            }
            let stat = match statat(&place.folder, &place.name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => return Ok(Destination::Nothing(place)),
                Err(error) => return Err(error.into()),
            };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Symlink => {
                    check_link(&place.folder, &stat)?;
                    let target = readlinkat(&place.folder, &place.name, Vec::new())?;
                    rest = PathBuf::from(OsString::from_vec(target.into_bytes()));
                    (folder, shown) = (place.folder, place.shown);
                }
                FileType::Directory => return Err(Errno::ISDIR.into()),
                FileType::RegularFile => {
                    place.open_existing()?;
                    return Ok(Destination::Regular(place));
                }
                kind => {
                    if kind == FileType::Fifo {
                        check_owner(&place.folder, &stat)?;
                    }
                    let file = open_special(&place, OFlags::NOFOLLOW, is_over)?;
                    return Ok(Destination::Special(file));
                }
            }
        }
        Err(Errno::LOOP.into())
    }
}

/// Opens what is no regular file, as a rule. It never waits for a writer to be let in: `NONBLOCK` stays set.
fn open_special(place: &Place, flags: OFlags, is_over: &AtomicBool) -> io::Result<File> {
    let flags = flags | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    loop {
        match openat(&place.folder, &place.name, flags, Mode::empty()) {
            Ok(file) => return Ok(File::from(file)),
            Err(Errno::INTR) => {}
            // A FIFO that nobody reads; anything else that says so will not change its mind.
            Err(Errno::NXIO) if place.is_fifo() => {
                if is_over.load(Ordering::Relaxed) {
                    return Err(io::Error::new(
                        io::ErrorKind::NotConnected,
                        "the end was asked for before anybody read it",
                    ));
                }
                std::thread::sleep(ROUND);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

impl Place {
    /// The path of `name` in the same folder, for people.
    pub fn shown(&self, name: &OsStr) -> PathBuf {
        self.shown.join(name)
    }

    /// The name in the folder.
    pub fn name(&self) -> &OsStr {
        &self.name
    }

    /// Makes a new file of the name `name` in the folder.
    pub fn create(&self, name: &OsStr, mode: Mode) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        Ok(openat(&self.folder, name, flags, mode)?.into())
    }

    /// Opens the file of the name `name`, which is ours, for reading.
    pub fn open(&self, name: &OsStr) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(openat(&self.folder, name, flags, Mode::empty())?.into())
    }

    /// Removes the file of the name `name`.
    pub fn remove(&self, name: &OsStr) -> io::Result<()> {
        Ok(unlinkat(&self.folder, name, AtFlags::empty())?)
    }

    /// Gives the file of the name `name` the name of the place.
    pub fn take(&self, name: &OsStr) -> io::Result<()> {
        Ok(renameat(&self.folder, name, &self.folder, &self.name)?)
    }

    /// Has the folder written to the disk: without that, a new name in it may be lost with the power.
    pub fn sync(&self) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match openat(&self.folder, ".", flags, Mode::empty()) {
            Ok(folder) => sync(fsync(&folder)),
            // Whoever may write into a folder need not be allowed to list it.
            Err(_) => Ok(()),
        }
    }

    /// Opens the regular file that stands there, if one does, and if it may be replaced.
    pub fn open_existing(&self) -> io::Result<Option<Existing>> {
        let flags =
            OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW;
        let file = match openat(&self.folder, &self.name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let stat = fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("it is no regular file any more"));
        }
        check_owner(&self.folder, &stat)?;
        let acl = read_acl(&file)?;
        Ok(Some(Existing { file, stat, acl }))
    }

    fn is_fifo(&self) -> bool {
        statat(&self.folder, &self.name, AtFlags::empty())
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo)
    }
}

impl Existing {
    /// Gives `new` the owner, the group, the mode and the access control list of this file.
    pub fn pass_on(&self, new: &File) -> io::Result<()> {
        let now = fstat(new)?;
        let refused = |what: String, error: Errno| {
            let text = format!("it belongs to {what}, which can't be given to a new file: {error}");
            io::Error::new(io::Error::from(error).kind(), text)
        };
        let (uid, gid) = (self.stat.st_uid, self.stat.st_gid);
        if now.st_gid != gid {
            fchown(new, None, Some(Gid::from_raw(gid)))
                .map_err(|error| refused(format!("group {gid}"), error))?;
        }
        if now.st_uid != uid {
            fchown(new, Some(Uid::from_raw(uid)), None)
                .map_err(|error| refused(format!("user {uid}"), error))?;
        }
        match &self.acl {
            Some(acl) => fsetxattr(new, ACL, acl, XattrFlags::empty())?,
            // A new one may have been given one by its folder.
            None => match fremovexattr(new, ACL) {
                Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS) => {}
                Err(error) => return Err(error.into()),
            },
        }
        fchmod(new, Mode::from_raw_mode(self.stat.st_mode & 0o7777))?;
        Ok(())
    }
}

/// What becomes of a sync: some file systems have none, and others fail.
pub fn sync(result: Result<(), Errno>) -> io::Result<()> {
    match result {
        Ok(()) | Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn read_acl(file: &File) -> io::Result<Option<Vec<u8>>> {
    let mut acl = vec![0; MAX_ACL];
    match fgetxattr(file, ACL, &mut acl[..]) {
        Ok(length) => {
            acl.truncate(length);
            Ok(Some(acl))
        }
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A folder that everybody can write to, but in which nobody can remove the files of others, as /tmp is.
fn is_shared(folder: &Stat) -> bool {
    let both = (Mode::SVTX | Mode::WOTH).as_raw_mode();
    folder.st_mode & both == both
}

/// Whether what stands in a shared folder is neither ours nor of the folder's owner.
fn is_strange(folder: &OwnedFd, stat: &Stat) -> io::Result<bool> {
    let folder = fstat(folder)?;
    let is_known = stat.st_uid == geteuid().as_raw() || stat.st_uid == folder.st_uid;
    Ok(is_shared(&folder) && !is_known)
}

fn check_link(folder: &OwnedFd, link: &Stat) -> io::Result<()> {
    match is_strange(folder, link)? {
        true => Err(refused("a symbolic link", link)),
        false => Ok(()),
    }
}

fn check_owner(folder: &OwnedFd, file: &Stat) -> io::Result<()> {
    match is_strange(folder, file)? {
        true => Err(refused("a file", file)),
        false => Ok(()),
    }
}

fn refused(what: &str, stat: &Stat) -> io::Error {
    io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!(
            "it is {what} of user {} in a folder that everybody can write to, and what others put there is not trusted",
            stat.st_uid
        ),
    )
}
