//! Which CPython it is, from what the target itself says.

use std::fmt;

use crate::model::Address;
use crate::sys::memory::RemoteMemory;

/// Most bytes of writable data that are searched.
const MAX_SEARCH: u64 = 16 << 20;
/// Bytes that are read at once.
const PIECE: u64 = 64 << 10;
/// A version's text is shorter than this.
const OVERLAP: u64 = 32;

/// A version of CPython.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    major: u8,
    minor: u8,
    /// `None` when only a file's name told the version.
    micro: Option<u8>,
    /// Level (`a`, `b`, `c`) and serial of a pre-release.
    pre_release: Option<(char, u8)>,
}

impl Version {
    /// From `PY_VERSION_HEX` (`Include/patchlevel.h`).
    pub fn from_hex(hex: u32) -> Self {
        let [major, minor, micro, level] = hex.to_be_bytes();
        let pre_release = match level >> 4 {
            0xa => Some('a'),
            0xb => Some('b'),
            0xc => Some('c'),
            _ => None,
        };
        Version {
            major,
            minor,
            micro: Some(micro),
            pre_release: pre_release.map(|letter| (letter, level & 0xf)),
        }
    }

    /// Major and minor number.
    pub fn minor(self) -> (u8, u8) {
        (self.major, self.minor)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        if let Some(micro) = self.micro {
            write!(f, ".{micro}")?;
        }
        match self.pre_release {
            Some(('c', serial)) => write!(f, "rc{serial}"),
            Some((letter, serial)) => write!(f, "{letter}{serial}"),
            None => Ok(()),
        }
    }
}

/// Finds `sys.version` in writable data, where `Py_GetVersion` has put it: "3.6.15 (default, ...".
pub fn find_version_text(
    memory: &dyn RemoteMemory,
    ranges: impl Iterator<Item = (Address, u64)>,
) -> Option<Version> {
    for (start, size) in ranges {
        let size = size.min(MAX_SEARCH);
        let mut done = 0;
        while done < size {
            let count = (PIECE + OVERLAP).min(size - done);
            if let Some(at) = start.checked_add(done)
                && let Ok(bytes) = memory.read_vec(at, count, PIECE + OVERLAP)
                && let Some(version) = version_in_text(&bytes)
            {
                return Some(version);
            }
            done += PIECE;
        }
    }
    None
}

/// The first `D.DD.DD` that a space and a parenthesis follow, and that starts a C string.
fn version_in_text(bytes: &[u8]) -> Option<Version> {
    let starts = (0..bytes.len())
        .filter(|at| matches!(bytes[*at], b'2' | b'3') && (*at == 0 || bytes[at - 1] == 0));
    starts.into_iter().find_map(|at| {
        let tail = &bytes[at..bytes.len().min(at + OVERLAP as usize)];
        let end = tail.windows(2).position(|pair| pair == b" (")?;
        parse(std::str::from_utf8(&tail[..end]).ok()?)
    })
}

fn parse(text: &str) -> Option<Version> {
    let text = text.trim_end_matches('+');
    let mut parts = text.splitn(3, '.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?.parse().ok()?;
    let last = parts.next()?;
    let digits = last
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(last.len());
    let (micro, rest) = last.split_at(digits);
    let pre_release = match rest.strip_prefix("rc").map(|serial| ('c', serial)) {
        Some(found) => Some(found),
        None => rest
            .chars()
            .next()
            .filter(|letter| matches!(letter, 'a' | 'b'))
            .map(|letter| (letter, &rest[1..])),
    };
    let pre_release = match pre_release {
        Some((letter, serial)) => Some((letter, serial.parse().ok()?)),
        None if rest.is_empty() => None,
        None => return None,
    };
    Some(Version {
        major,
        minor,
        micro: Some(micro.parse().ok()?),
        pre_release,
    })
}

/// The version that a file's name tells, e.g. `libpython3.9.so.1.0` or `/usr/bin/python3.9`.
pub fn version_in_name(name: &[u8]) -> Option<Version> {
    let file = name.rsplit(|byte| *byte == b'/').next()?;
    let text = std::str::from_utf8(file).ok()?;
    let (_, tail) = text.split_once("python")?;
    let (major, rest) = tail.split_once('.')?;
    let digits = rest
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(rest.len());
    Some(Version {
        major: major.parse().ok()?,
        minor: rest[..digits].parse().ok()?,
        micro: None,
        pre_release: None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sys::memory::RecordedMemory;

    #[test]
    fn versions_in_data() {
        let text = |bytes: &[u8]| version_in_text(bytes).map(|version| version.to_string());
        assert_eq!(
            text(b"\x001.2.3 (\x003.6.15 (default, May  9 2026)\0"),
            Some("3.6.15".into())
        );
        assert_eq!(text(b"2.7.18 (default"), Some("2.7.18".into()));
        assert_eq!(text(b"\x003.12.0rc2+ (main"), Some("3.12.0rc2".into()));
        assert_eq!(text(b"\x003.11.0a7 (main"), Some("3.11.0a7".into()));
        assert_eq!(text(b"x3.6.15 (default"), None);
        assert_eq!(text(b"\x003.6.15x (default"), None);
    }

    #[test]
    fn versions_in_names_and_numbers() {
        let name = |name: &[u8]| version_in_name(name).map(|version| version.to_string());
        assert_eq!(name(b"/usr/lib/libpython3.9.so.1.0"), Some("3.9".into()));
        assert_eq!(name(b"/usr/bin/python2.7"), Some("2.7".into()));
        assert_eq!(name(b"/usr/bin/python3"), None);
        assert_eq!(Version::from_hex(0x030d_05f0).to_string(), "3.13.5");
        assert_eq!(Version::from_hex(0x030f_00b2).to_string(), "3.15.0b2");
    }

    #[test]
    fn a_text_across_two_pieces_is_found() {
        let mut bytes = vec![0; PIECE as usize + 100];
        bytes[PIECE as usize - 3..][..18].copy_from_slice(b"3.8.18 (default, M");
        let memory = RecordedMemory::new().with(Address(0x1000), bytes.clone());
        let found = find_version_text(&memory, [(Address(0x1000), bytes.len() as u64)].into_iter());
        assert_eq!(
            found.map(|version| version.to_string()),
            Some("3.8.18".into())
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = version_in_text(&bytes);
            let _ = version_in_name(&bytes);
        }
    }
}
