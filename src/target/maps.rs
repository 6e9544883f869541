//! `/proc/PID/maps`: bytes to mappings, no I/O.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::model::Address;

/// Most mappings that are kept; the kernel's own default limit is 65,530 (`vm.max_map_count`).
const MAX_MAPPINGS: usize = 1 << 18;

/// One mapped region of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: Address,
    /// First address behind it.
    pub end: Address,
    /// `r`.
    pub readable: bool,
    /// `w`.
    pub writable: bool,
    /// `x`.
    pub executable: bool,
    /// `s`: what is written there, others that map it see too.
    pub shared: bool,
    /// Major and minor number of the file's device.
    pub device: (u32, u32),
    /// Offset in the file.
    pub offset: u64,
    /// Inode of the file, 0 for none.
    pub inode: u64,
    /// The name as the kernel gives it: a path, `[heap]`, or empty; newlines are `\012` in it.
    pub name: Vec<u8>,
}

impl Mapping {
    /// Whether `address` lies in it.
    pub fn contains(&self, address: Address) -> bool {
        self.start <= address && address < self.end
    }

    /// Bytes in it.
    pub fn size(&self) -> u64 {
        self.end.0.saturating_sub(self.start.0)
    }

    /// The file's path in the target's own mount namespace, without the kernel's ` (deleted)`.
    pub fn path(&self) -> Option<&Path> {
        let name = self.name.strip_suffix(b" (deleted)").unwrap_or(&self.name);
        (self.inode != 0 && name.first() == Some(&b'/')).then(|| Path::new(OsStr::from_bytes(name)))
    }

    /// Whether the file has been deleted or replaced since it was mapped.
    pub fn is_deleted(&self) -> bool {
        self.inode != 0 && self.name.ends_with(b" (deleted)")
    }
}

/// Parses a whole `maps` file, in ascending order of addresses; lines that are none are left out.
pub fn parse_maps(bytes: &[u8]) -> Vec<Mapping> {
    bytes
        .split(|byte| *byte == b'\n')
        .filter_map(parse_line)
        .take(MAX_MAPPINGS)
        .collect()
}

fn parse_line(line: &[u8]) -> Option<Mapping> {
    let mut rest = line;
    let mut word = || {
        let start = rest.iter().position(|byte| *byte != b' ')?;
        let tail = &rest[start..];
        let end = tail
            .iter()
            .position(|byte| *byte == b' ')
            .unwrap_or(tail.len());
        rest = &tail[end..];
        std::str::from_utf8(&tail[..end]).ok()
    };
    let (start, end) = word()?.split_once('-')?;
    let permissions = word()?.as_bytes();
    let offset = u64::from_str_radix(word()?, 16).ok()?;
    let (major, minor) = word()?.split_once(':')?;
    let number = |text| u32::from_str_radix(text, 16).ok();
    let device = (number(major)?, number(minor)?);
    let inode = word()?.parse().ok()?;
    let name = rest
        .iter()
        .position(|byte| *byte != b' ')
        .map_or(&[][..], |start| &rest[start..]);
    let mapping = Mapping {
        start: Address(u64::from_str_radix(start, 16).ok()?),
        end: Address(u64::from_str_radix(end, 16).ok()?),
        readable: permissions.first() == Some(&b'r'),
        writable: permissions.get(1) == Some(&b'w'),
        executable: permissions.get(2) == Some(&b'x'),
        shared: permissions.get(3) == Some(&b's'),
        device,
        offset,
        inode,
        name: name.to_vec(),
    };
    (mapping.start < mapping.end).then_some(mapping)
}

/// The mapping that `address` lies in; `mappings` is in ascending order.
pub fn find_mapping(mappings: &[Mapping], address: Address) -> Option<&Mapping> {
    let behind = mappings.partition_point(|mapping| mapping.start <= address);
    mappings
        .get(behind.checked_sub(1)?)
        .filter(|mapping| mapping.contains(address))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_with_spaces_deleted_files_and_no_name() {
        let maps = parse_maps(
            b"00400000-00401000 r-xp 00001000 fd:00 77                 /opt/my app/python3 (deleted)\n\
              00600000-00601000 rw-p 00000000 00:00 0 \n\
              7ffc0000-7ffc1000 rw-p 00000000 00:00 0                  [stack]\n\
              garbage\n",
        );
        assert_eq!(maps.len(), 3);
        assert_eq!(maps[0].path(), Some(Path::new("/opt/my app/python3")));
        assert!(maps[0].is_deleted() && maps[0].executable && !maps[0].writable);
        assert_eq!(
            (maps[0].offset, maps[0].inode, maps[0].size()),
            (0x1000, 77, 0x1000)
        );
        assert_eq!((maps[1].path(), maps[1].name.as_slice()), (None, &b""[..]));
        assert_eq!(maps[2].name, b"[stack]");
        assert_eq!(find_mapping(&maps, Address(0x60_0fff)), Some(&maps[1]));
        assert_eq!(find_mapping(&maps, Address(0x60_1000)), None);
        assert_eq!(find_mapping(&maps, Address(0)), None);
    }

    #[test]
    fn a_path_that_is_not_utf8_is_kept() {
        let maps = parse_maps(b"1000-2000 r--p 00000000 fd:00 5 /tmp/\xff.so\n");
        assert_eq!(maps[0].name, b"/tmp/\xff.so");
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            for mapping in parse_maps(&bytes) {
                prop_assert!(mapping.start < mapping.end);
            }
        }
    }
}
