//! Where file systems are mounted, as a target sees it (`/proc/PID/mountinfo`). Touches no file system.

use crate::model::Pid;
use crate::sys::procfile::ProcDir;

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub point: Vec<u8>,
    /// Type of the file system.
    pub kind: String,
    /// What is mounted: a device, a server.
    pub source: String,
    /// The file system's own options, comma between them.
    pub options: String,
}

impl Mount {
    /// `/mnt/data (nfs4, server:/data)`.
    pub fn describe(&self) -> String {
        let point = String::from_utf8_lossy(&self.point);
        format!("{point} ({}, {})", self.kind, self.source)
    }
}

/// The mount below which `path` lies: the last one of those with the longest point, which covers what was mounted before.
pub fn find_mount(proc: &ProcDir, path: &[u8]) -> Option<Mount> {
    let mounts = parse_mounts(&proc.read("mountinfo").ok()?);
    mounts
        .into_iter()
        .filter(|mount| contains(&mount.point, path))
        .max_by_key(|mount| mount.point.len())
}

/// How the `/proc` that we look at hides the processes of others: the value of its option `hidepid` (proc(5)), a word since Linux
/// 5.8 and a number before.
pub fn find_hidepid() -> Option<String> {
    let own = ProcDir::open(Pid::own()).ok()?;
    hidepid_in(&parse_mounts(&own.read("mountinfo").ok()?))
}

fn hidepid_in(mounts: &[Mount]) -> Option<String> {
    let proc = mounts
        .iter()
        .rfind(|mount| mount.point == b"/proc" && mount.kind == "proc")?;
    let mut options = proc.options.split(',');
    let value = options.find_map(|option| option.strip_prefix("hidepid="))?;
    (!matches!(value, "0" | "off")).then(|| value.to_owned())
}

fn contains(point: &[u8], path: &[u8]) -> bool {
    match path.strip_prefix(point) {
        Some(rest) => rest.is_empty() || rest[0] == b'/' || point.ends_with(b"/"),
        None => false,
    }
}

/// Parses the file (`fs/proc_namespace.c::show_mountinfo`, Linux 6.18); lines that are not understood are left out.
pub fn parse_mounts(bytes: &[u8]) -> Vec<Mount> {
    bytes
        .split(|byte| *byte == b'\n')
        .filter_map(parse_mount)
        .collect()
}

/// `36 35 98:0 /root /point rw,noatime master:1 - ext3 /dev/root rw`.
fn parse_mount(line: &[u8]) -> Option<Mount> {
    let mut words = line.split(|byte| *byte == b' ');
    let point = unescape(words.nth(4)?);
    words.find(|word| *word == b"-")?;
    let text = |word: &[u8]| String::from_utf8_lossy(&unescape(word)).into_owned();
    Some(Mount {
        point,
        kind: text(words.next()?),
        source: text(words.next()?),
        options: words.next().map(text).unwrap_or_default(),
    })
}

/// Blanks and the like are written as `\040` (`lib/seq_file.c::mangle_path`).
fn unescape(word: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, after)) = rest.split_first() {
        let code = after
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| {
                let digits = std::str::from_utf8(digits).ok()?;
                u8::from_str_radix(digits, 8).ok()
            });
        match code {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_longest_point_that_contains_it() {
        let mounts = parse_mounts(
            b"1 0 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n2 1 0:40 / /mnt/my\\040data rw - nfs4 host:/export rw\nrubbish\n",
        );
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[1].describe(), "/mnt/my data (nfs4, host:/export)");
        assert!(
            contains(b"/", b"/etc") && contains(b"/mnt", b"/mnt/a") && contains(b"/mnt", b"/mnt")
        );
        assert!(!contains(b"/mnt", b"/mnt2"));
        let own = ProcDir::open(Pid::own()).unwrap();
        assert_eq!(find_mount(&own, b"/proc/1/stat").unwrap().kind, "proc");
    }

    #[test]
    fn how_proc_hides() {
        let of = |options: &str| {
            let line = format!("5 1 0:5 / /proc rw,nosuid - proc proc {options}\n");
            hidepid_in(&parse_mounts(line.as_bytes()))
        };
        assert_eq!(of("rw,hidepid=invisible"), Some("invisible".to_owned()));
        assert_eq!(of("rw,hidepid=2,gid=7"), Some("2".to_owned()));
        assert_eq!((of("rw"), of("rw,hidepid=off")), (None, None));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_mounts(&bytes);
        }
    }
}
