//! What the arguments of a blocked call point to in the target's memory: descriptors that are polled, times, paths, addresses.
//! Reading can block: call it under a deadline.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use syscalls::Sysno;

use super::call::sysno;
use crate::model::Address;
use crate::sys::memory::{ReadError, RemoteMemory};
use crate::target::tasks::Syscall;

/// Most descriptors of a poll that are read: as many as a process may have by most systems' limits.
const MAX_POLLED: u64 = 65_536;
/// Most of them that are kept and looked at; more are counted.
pub(super) const MAX_LISTED: usize = 64;
/// Most bytes of a path (`PATH_MAX`, `include/uapi/linux/limits.h`).
const MAX_PATH: usize = 4096;
/// Bytes of a path that are read at once; a page's end may be the end of what is mapped.
const PATH_PIECE: u64 = 256;
/// Most bytes of a socket address (`struct sockaddr_storage`).
const MAX_SOCKET_ADDRESS: u64 = 128;

const POLLIN: u16 = 0x001;
const POLLPRI: u16 = 0x002;
const POLLOUT: u16 = 0x004;
const POLLRDNORM: u16 = 0x040;
const POLLWRNORM: u16 = 0x100;
const POLLRDHUP: u16 = 0x2000;

/// A descriptor that is polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolledFd {
    /// The descriptor.
    pub fd: i32,
    /// Whether data is waited for.
    pub for_read: bool,
    /// Whether room is waited for.
    pub for_write: bool,
}

impl PolledFd {
    /// A descriptor with the events of poll or epoll (`include/uapi/asm-generic/poll.h`; the low bits are the same).
    pub fn new(fd: i32, events: u16) -> Self {
        PolledFd {
            fd,
            for_read: events & (POLLIN | POLLPRI | POLLRDNORM | POLLRDHUP) != 0,
            for_write: events & (POLLOUT | POLLWRNORM) != 0,
        }
    }
}

/// The descriptors of one poll or select.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Polled {
    /// The first of them.
    pub first: Vec<PolledFd>,
    /// How many there are.
    pub count: u64,
}

impl FromIterator<PolledFd> for Polled {
    fn from_iter<T: IntoIterator<Item = PolledFd>>(all: T) -> Self {
        let mut polled = Polled::default();
        for one in all {
            polled.count += 1;
            if polled.first.len() < MAX_LISTED {
                polled.first.push(one);
            }
        }
        polled
    }
}

/// What the arguments of a call point to. What is absent was not asked for by the call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PointedArguments {
    /// The descriptors of poll or select.
    pub polled: Option<Polled>,
    /// The time in memory; the inner `None` is a null pointer.
    pub time: Option<Option<Duration>>,
    /// A path.
    pub path: Option<Vec<u8>>,
    /// The signals that are waited for, bit 0 for signal 1.
    pub signals: Option<u64>,
    /// The flags of a clone3 (`struct clone_args`, `include/uapi/linux/sched.h`).
    pub clone_flags: Option<u64>,
    /// The address that a socket is being connected to, as it is written.
    pub address: Option<String>,
    /// Why something of it could not be read.
    pub failure: Option<ReadError>,
}

/// Reads what the call points to; `None` for calls that point to nothing of interest.
pub fn read_pointed_arguments(
    memory: &dyn RemoteMemory,
    syscall: &Syscall,
) -> Option<PointedArguments> {
    let Syscall::In { number, arguments } = syscall else {
        return None;
    };
    let call = sysno(*number)?;
    let mut pointed = PointedArguments::default();
    match read_call(memory, call, arguments, &mut pointed) {
        Ok(true) => {}
        Ok(false) => return None,
        Err(error) => pointed.failure = Some(error),
    }
    Some(pointed)
}

/// Fills `pointed`; false for a call that points to nothing of interest.
fn read_call(
    memory: &dyn RemoteMemory,
    call: Sysno,
    arguments: &[u64; 6],
    pointed: &mut PointedArguments,
) -> Result<bool, ReadError> {
    match call {
        #[cfg(target_arch = "x86_64")]
        Sysno::poll => pointed.polled = Some(read_pollfds(memory, arguments)?),
        #[cfg(target_arch = "x86_64")]
        Sysno::select => {
            pointed.time = Some(read_time(memory, arguments[4], 1000)?);
            pointed.polled = Some(read_sets(memory, arguments)?);
        }
        Sysno::ppoll => {
            pointed.time = Some(read_time(memory, arguments[2], 1)?);
            pointed.polled = Some(read_pollfds(memory, arguments)?);
        }
        Sysno::pselect6 => {
            pointed.time = Some(read_time(memory, arguments[4], 1)?);
            pointed.polled = Some(read_sets(memory, arguments)?);
        }
        Sysno::epoll_pwait2 => pointed.time = Some(read_time(memory, arguments[3], 1)?),
        Sysno::nanosleep => pointed.time = Some(read_time(memory, arguments[0], 1)?),
        Sysno::clock_nanosleep => pointed.time = Some(read_time(memory, arguments[2], 1)?),
        Sysno::rt_sigtimedwait => {
            pointed.time = Some(read_time(memory, arguments[2], 1)?);
            pointed.signals = Some(memory.read_u64(Address(arguments[0]))?);
        }
        Sysno::clone3 => pointed.clone_flags = Some(memory.read_u64(Address(arguments[0]))?),
        Sysno::connect => pointed.address = read_socket_address(memory, arguments)?,
        #[cfg(target_arch = "x86_64")]
        Sysno::open | Sysno::creat => pointed.path = Some(read_path(memory, arguments[0])?),
        Sysno::openat | Sysno::openat2 => pointed.path = Some(read_path(memory, arguments[1])?),
        _ => return Ok(false),
    }
    Ok(true)
}

/// The `struct pollfd`s: a descriptor, and the events asked for and found, in two bytes each. Negative ones are passed over by
/// the kernel too.
fn read_pollfds(memory: &dyn RemoteMemory, arguments: &[u64; 6]) -> Result<Polled, ReadError> {
    let count = arguments[1] & u64::from(u32::MAX);
    let bytes = memory.read_vec(
        Address(arguments[0]),
        count.saturating_mul(8),
        MAX_POLLED * 8,
    )?;
    let all = bytes.chunks_exact(8).map(|entry| {
        let fd = i32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]);
        PolledFd::new(fd, u16::from_le_bytes([entry[4], entry[5]]))
    });
    Ok(all.filter(|polled| polled.fd >= 0).collect())
}

/// The three sets of select: a bit for each descriptor below the number in the first argument, in whole words.
fn read_sets(memory: &dyn RemoteMemory, arguments: &[u64; 6]) -> Result<Polled, ReadError> {
    // An int; the kernel takes none that is negative.
    let count = arguments[0] & u64::from(u32::MAX >> 1);
    let length = count.div_ceil(64) * 8;
    let mut sets = Vec::new();
    for place in &arguments[1..4] {
        let set = match place {
            0 => Vec::new(),
            place => memory.read_vec(Address(*place), length, MAX_POLLED / 8)?,
        };
        sets.push(set);
    }
    let is_in = |set: usize, fd: usize| {
        sets[set]
            .get(fd / 8)
            .is_some_and(|byte| byte >> (fd % 8) & 1 == 1)
    };
    let count = usize::try_from(count.min(MAX_POLLED)).unwrap_or(0);
    let all = (0..count).filter_map(|fd| {
        let (for_read, for_write) = (is_in(0, fd), is_in(1, fd));
        (for_read || for_write || is_in(2, fd)).then(|| PolledFd {
            // Below `MAX_POLLED`.
            fd: i32::try_from(fd).unwrap_or(i32::MAX),
            for_read,
            for_write,
        })
    });
    Ok(all.collect())
}

/// A `timespec`, or a `timeval` with a `scale` of 1000 nanoseconds. `None` for a null pointer, and for what the kernel would not
/// have taken.
fn read_time(
    memory: &dyn RemoteMemory,
    place: u64,
    scale: u64,
) -> Result<Option<Duration>, ReadError> {
    if place == 0 {
        return Ok(None);
    }
    let mut bytes = [0; 16];
    memory.read(Address(place), &mut bytes)?;
    let (seconds, fraction) = bytes.split_at(8);
    let word = |half: &[u8]| half.try_into().map(u64::from_le_bytes).unwrap_or(0);
    let nanoseconds = word(fraction).saturating_mul(scale);
    // A timeval may have more than a second of microseconds (`fs/select.c::kern_select`, Linux 6.18).
    Ok(Duration::from_secs(word(seconds)).checked_add(Duration::from_nanos(nanoseconds)))
}

fn read_path(memory: &dyn RemoteMemory, place: u64) -> Result<Vec<u8>, ReadError> {
    let mut path = Vec::new();
    let mut next = place;
    while path.len() < MAX_PATH {
        // Up to a multiple of the piece, so that no piece crosses a page.
        let length = PATH_PIECE - next % PATH_PIECE;
        let piece = memory.read_vec(Address(next), length, PATH_PIECE)?;
        if let Some(end) = piece.iter().position(|byte| *byte == 0) {
            path.extend(&piece[..end]);
            return Ok(path);
        }
        path.extend(piece);
        next = next.wrapping_add(length);
    }
    Err(ReadError::TooLarge(MAX_PATH as u64))
}

fn read_socket_address(
    memory: &dyn RemoteMemory,
    arguments: &[u64; 6],
) -> Result<Option<String>, ReadError> {
    let length = arguments[2] & u64::from(u32::MAX);
    let bytes = memory.read_vec(Address(arguments[1]), length, MAX_SOCKET_ADDRESS)?;
    Ok(parse_socket_address(&bytes))
}

/// A `sockaddr_in`, `sockaddr_in6` or `sockaddr_un` as it is written; `None` for other families.
pub fn parse_socket_address(bytes: &[u8]) -> Option<String> {
    let family = i32::from(u16::from_le_bytes([*bytes.first()?, *bytes.get(1)?]));
    let port = || Some(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]));
    match family {
        libc::AF_INET => {
            let octets: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
            Some(SocketAddr::new(Ipv4Addr::from(octets).into(), port()?).to_string())
        }
        libc::AF_INET6 => {
            let octets: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
            Some(SocketAddr::new(Ipv6Addr::from(octets).into(), port()?).to_string())
        }
        libc::AF_UNIX => match bytes.get(2..)? {
            [] => None,
            [0, name @ ..] => Some(format!("@{}", String::from_utf8_lossy(name))),
            path => {
                let end = path.iter().position(|byte| *byte == 0);
                let path = &path[..end.unwrap_or(path.len())];
                Some(String::from_utf8_lossy(path).into_owned())
            }
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Some bytes at an address, and nothing else.
    struct Piece(u64, Vec<u8>);

    impl RemoteMemory for Piece {
        fn read(&self, address: Address, buffer: &mut [u8]) -> Result<(), ReadError> {
            let start = address
                .0
                .checked_sub(self.0)
                .and_then(|at| usize::try_from(at).ok());
            let bytes = start.and_then(|at| self.1.get(at..at.checked_add(buffer.len())?));
            buffer.copy_from_slice(bytes.ok_or(ReadError::Unmapped(address))?);
            Ok(())
        }
    }

    fn pointed(call: Sysno, arguments: [u64; 6], bytes: &[u8]) -> PointedArguments {
        let mut memory = bytes.to_vec();
        memory.resize(bytes.len().next_multiple_of(256), 0);
        let call = Syscall::In {
            number: i64::from(call.id()),
            arguments,
        };
        read_pointed_arguments(&Piece(0x1000, memory), &call).unwrap()
    }

    fn time(seconds: u64, fraction: u64) -> Vec<u8> {
        [seconds.to_le_bytes(), fraction.to_le_bytes()].concat()
    }

    #[test]
    fn descriptors_of_a_poll() {
        let mut bytes = time(3, 500_000_000);
        for (fd, events) in [(5_i32, 1_u16), (-1, 1), (6, 5), (7, 0)] {
            bytes.extend(fd.to_le_bytes());
            bytes.extend(events.to_le_bytes());
            bytes.extend([0, 0]);
        }
        let found = pointed(Sysno::ppoll, [0x1010, 4, 0x1000, 0, 0, 0], &bytes);
        assert_eq!(found.time, Some(Some(Duration::from_millis(3500))));
        let flags: Vec<_> = found
            .polled
            .unwrap()
            .first
            .iter()
            .map(|one| (one.fd, one.for_read, one.for_write))
            .collect();
        assert_eq!(
            flags,
            [(5, true, false), (6, true, true), (7, false, false)]
        );
        let found = pointed(
            Sysno::ppoll,
            [0x1010, u64::from(u32::MAX), 0, 0, 0, 0],
            &bytes,
        );
        assert!(matches!(found.failure, Some(ReadError::TooLarge(_))));
        assert_eq!((found.polled, found.time), (None, Some(None)));
    }

    #[test]
    fn descriptors_of_a_select() {
        let mut bytes = time(1, 250_000);
        bytes.extend([0b10_0001, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend([0b10_0000; 16]);
        let found = pointed(Sysno::select, [70, 0x1010, 0x1020, 0, 0x1000, 0], &bytes);
        assert_eq!(found.time, Some(Some(Duration::from_millis(1250))));
        let all = found.polled.unwrap().first;
        let of = |fd| {
            all.iter()
                .find(|one| one.fd == fd)
                .map(|one| (one.for_read, one.for_write))
        };
        assert_eq!(
            (of(0), of(5), of(65)),
            (Some((true, false)), Some((true, true)), Some((true, false)))
        );
        assert_eq!((of(69), of(70)), (Some((false, true)), None));
    }

    /// However many there are, a few are kept.
    #[test]
    fn of_many_descriptors_the_first_are_kept_and_the_rest_counted() {
        let mut bytes = time(0, 0);
        for fd in 0..MAX_POLLED {
            bytes.extend((fd as i32 - 1).to_le_bytes());
            bytes.extend([1, 0, 0, 0]);
        }
        let found = pointed(Sysno::ppoll, [0x1010, MAX_POLLED, 0, 0, 0, 0], &bytes);
        let polled = found.polled.unwrap();
        assert_eq!((polled.first.len(), polled.count), (64, MAX_POLLED - 1));
        assert_eq!(polled.first[63].fd, 63);
        let found = pointed(Sysno::ppoll, [0x1010, MAX_POLLED + 1, 0, 0, 0, 0], &bytes);
        assert!(matches!(found.failure, Some(ReadError::TooLarge(_))));
    }

    #[test]
    fn times_paths_and_addresses() {
        let found = pointed(
            Sysno::clock_nanosleep,
            [1, 0, 0x1000, 0, 0, 0],
            &time(60, 1),
        );
        assert_eq!(found.time, Some(Some(Duration::new(60, 1))));
        let found = pointed(Sysno::openat, [0, 0x1000, 0, 0, 0, 0], b"/tmp/fifo\0rest");
        assert_eq!(found.path.as_deref(), Some(&b"/tmp/fifo"[..]));
        let found = pointed(Sysno::openat, [0, 0x1000, 0, 0, 0, 0], &[b'a'; 8192]);
        assert_eq!(found.failure, Some(ReadError::TooLarge(4096)));
        let found = pointed(
            Sysno::connect,
            [3, 0x1000, 16, 0, 0, 0],
            &[2, 0, 1, 187, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        );
        assert_eq!(found.address.as_deref(), Some("10.0.0.1:443"));
        assert_eq!(
            parse_socket_address(b"\x01\0/run/x\0").as_deref(),
            Some("/run/x")
        );
        assert_eq!(
            parse_socket_address(b"\x01\0\0name").as_deref(),
            Some("@name")
        );
        let nothing = Syscall::In {
            number: i64::from(Sysno::read.id()),
            arguments: [0; 6],
        };
        assert_eq!(
            read_pointed_arguments(&Piece(0, Vec::new()), &nothing),
            None
        );
    }

    proptest! {
        #[test]
        fn any_arguments_are_taken(number in 0_i64..460, arguments: [u64; 6], bytes in proptest::collection::vec(any::<u8>(), 0..600), near: [bool; 6]) {
            let mut arguments = arguments;
            for (argument, near) in arguments.iter_mut().zip(near) {
                if near {
                    *argument = 0x1000 + *argument % 600;
                }
            }
            let _ = read_pointed_arguments(&Piece(0x1000, bytes.clone()), &Syscall::In { number, arguments });
            let _ = parse_socket_address(&bytes);
        }
    }
}
