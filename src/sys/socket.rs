//! A moment's own handle on a socket of another process, and what the kernel says of it.

use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketAddrAny, SocketType, sockopt};
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};

use super::pidfd::PidFd;

use super::descriptors::noted;

/// A duplicate of a descriptor of another process (`pidfd_getfd`, Linux 5.6; PTRACE_MODE_ATTACH).
///
/// As long as it lives, the target's own close does not end a connection: drop it at once.
#[derive(Debug)]
pub struct BorrowedSocket {
    fd: OwnedFd,
}

/// What the kernel says of a socket.
#[derive(Clone, Debug)]
pub struct SocketFacts {
    /// Its family.
    pub family: AddressFamily,
    /// Its type.
    pub kind: SocketType,
    /// Its own address.
    pub local: Option<SocketAddrAny>,
    /// The other end's address; `None` when it is not connected.
    pub peer: Option<SocketAddrAny>,
    /// Whether it listens.
    pub is_listening: bool,
    /// `SO_RCVTIMEO`; `None` when a receive may take for ever.
    pub recv_timeout: Option<Duration>,
    /// `SO_SNDTIMEO`; `None` when a send (or a connect) may take for ever.
    pub send_timeout: Option<Duration>,
    /// `SO_KEEPALIVE`.
    pub keepalive: Option<bool>,
    /// `TCP_KEEPIDLE` + `TCP_KEEPINTVL` x `TCP_KEEPCNT`: how long it takes to notice a peer that is gone.
    pub keepalive_time: Option<Duration>,
    /// `TCP_USER_TIMEOUT`; the inner `None` is the system's own limit.
    pub user_timeout: Option<Option<Duration>>,
    /// `SIOCINQ`: bytes to be read (of datagrams, those of the next one).
    pub recv_queue: Option<u64>,
    /// `SIOCOUTQ`: bytes that were written and not taken by the other end.
    pub send_queue: Option<u64>,
    /// Who had the other end of a unix socket when it was connected (`SO_PEERCRED`).
    pub peer_pid: Option<i32>,
    /// What TCP knows, for a TCP socket.
    pub tcp: Option<TcpFacts>,
}

/// A part of `struct tcp_info` (`include/uapi/linux/tcp.h`, Linux 6.18; members are only ever added at its end).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpFacts {
    /// `tcpi_state` (`include/net/tcp_states.h`).
    pub state: u8,
    /// `tcpi_unacked`: segments.
    pub unacked: u32,
    /// `tcpi_last_data_sent`: milliseconds ago.
    pub last_data_sent_ms: u32,
    /// `tcpi_last_data_recv`: milliseconds ago; since the connection was made when nothing was received.
    pub last_data_recv_ms: u32,
    /// `tcpi_last_ack_recv`: milliseconds ago; every segment that acknowledges counts, with data or without.
    pub last_ack_recv_ms: u32,
    /// `tcpi_retransmits`: in a row.
    pub retransmits: u32,
    /// `tcpi_notsent_bytes` (Linux 4.6).
    pub notsent_bytes: u32,
    /// `tcpi_bytes_received` (Linux 4.1).
    pub bytes_received: u64,
    /// `tcpi_bytes_acked` (Linux 4.1): of the end that connected, the SYN counts as one.
    pub bytes_acked: u64,
    /// `tcpi_bytes_sent`, payload only, and again each time that it is retransmitted; `None` before Linux 4.19.
    pub bytes_sent: Option<u64>,
    /// `tcpi_bytes_retrans`: how many of those were retransmissions; `None` before Linux 4.19.
    pub bytes_retrans: Option<u64>,
}

impl TcpFacts {
    /// Decodes as much of a `struct tcp_info` as there is; older kernels give less of it.
    pub fn from_bytes(bytes: &[u8]) -> Option<TcpFacts> {
        let word = |offset: usize| {
            let field = bytes.get(offset..offset + 4)?.try_into().ok()?;
            Some(u32::from_ne_bytes(field))
        };
        let long = |offset: usize| {
            let field = bytes.get(offset..offset + 8)?.try_into().ok()?;
            Some(u64::from_ne_bytes(field))
        };
        Some(TcpFacts {
            state: *bytes.get(offset_of!(libc::tcp_info, tcpi_state))?,
            unacked: word(offset_of!(libc::tcp_info, tcpi_unacked))?,
            last_data_sent_ms: word(offset_of!(libc::tcp_info, tcpi_last_data_sent))?,
            last_data_recv_ms: word(offset_of!(libc::tcp_info, tcpi_last_data_recv))?,
            last_ack_recv_ms: word(offset_of!(libc::tcp_info, tcpi_last_ack_recv))?,
            retransmits: u32::from(*bytes.get(offset_of!(libc::tcp_info, tcpi_retransmits))?),
            notsent_bytes: word(offset_of!(libc::tcp_info, tcpi_notsent_bytes)).unwrap_or(0),
            bytes_received: long(offset_of!(libc::tcp_info, tcpi_bytes_received)).unwrap_or(0),
            bytes_acked: long(offset_of!(libc::tcp_info, tcpi_bytes_acked)).unwrap_or(0),
            bytes_sent: long(offset_of!(libc::tcp_info, tcpi_bytes_sent)),
            bytes_retrans: long(offset_of!(libc::tcp_info, tcpi_bytes_retrans)),
        })
    }
}

impl BorrowedSocket {
    /// Duplicates descriptor `fd` of the process.
    pub fn borrow(process: &PidFd, fd: i32) -> io::Result<Self> {
        let fd = pidfd_getfd(process.as_fd(), fd, PidfdGetfdFlags::empty()).map_err(noted)?;
        Ok(BorrowedSocket { fd })
    }

    /// Asks the kernel for all of it; fails when the descriptor is no socket.
    pub fn facts(&self) -> io::Result<SocketFacts> {
        let family = sockopt::socket_domain(&self.fd)?;
        let kind = sockopt::socket_type(&self.fd)?;
        let is_tcp = kind == SocketType::STREAM
            && [AddressFamily::INET, AddressFamily::INET6].contains(&family);
        Ok(SocketFacts {
            family,
            kind,
            local: rustix::net::getsockname(&self.fd).ok(),
            peer: rustix::net::getpeername(&self.fd).ok().flatten(),
            is_listening: sockopt::socket_acceptconn(&self.fd).unwrap_or(false),
            recv_timeout: sockopt::socket_timeout(&self.fd, sockopt::Timeout::Recv)?,
            send_timeout: sockopt::socket_timeout(&self.fd, sockopt::Timeout::Send)?,
            keepalive: is_tcp
                .then(|| sockopt::socket_keepalive(&self.fd).ok())
                .flatten(),
            keepalive_time: is_tcp.then(|| self.keepalive_time()).flatten(),
            user_timeout: is_tcp.then(|| self.user_timeout()).flatten(),
            recv_queue: rustix::io::ioctl_fionread(&self.fd).ok(),
            send_queue: self.send_queue(),
            peer_pid: (family == AddressFamily::UNIX)
                .then(|| sockopt::socket_peercred(&self.fd).ok())
                .flatten()
                .map(|credentials| credentials.pid.as_raw_pid()),
            tcp: is_tcp.then(|| self.tcp_facts()).flatten(),
        })
    }

    fn keepalive_time(&self) -> Option<Duration> {
        let idle = sockopt::tcp_keepidle(&self.fd).ok()?;
        let interval = sockopt::tcp_keepintvl(&self.fd).ok()?;
        let probes = sockopt::tcp_keepcnt(&self.fd).ok()?;
        idle.checked_add(interval.checked_mul(probes)?)
    }

    fn user_timeout(&self) -> Option<Option<Duration>> {
        let milliseconds = sockopt::tcp_user_timeout(&self.fd).ok()?;
        Some((milliseconds != 0).then(|| Duration::from_millis(u64::from(milliseconds))))
    }

    #[allow(unsafe_code)]
    fn send_queue(&self) -> Option<u64> {
        let mut bytes: libc::c_int = 0;
        // SAFETY: `TIOCOUTQ` (the number of `SIOCOUTQ`) writes one int to the place given, which lives on our stack.
        let result = unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
        (result == 0).then(|| u64::try_from(bytes).ok()).flatten()
    }

    #[allow(unsafe_code)]
    fn tcp_facts(&self) -> Option<TcpFacts> {
        let mut info = [0_u8; size_of::<libc::tcp_info>()];
        let mut size = libc::socklen_t::try_from(info.len()).ok()?;
        // SAFETY: the buffer is as large as `size` says, and the kernel writes at most that much; it says how much it wrote.
        let result = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                info.as_mut_ptr().cast(),
                &raw mut size,
            )
        };
        if result != 0 {
            return None;
        }
        TcpFacts::from_bytes(info.get(..usize::try_from(size).ok()?)?)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::model::Pid;

    fn facts(fd: &impl AsRawFd) -> io::Result<SocketFacts> {
        BorrowedSocket::borrow(&PidFd::open(Pid::own()).unwrap(), fd.as_raw_fd())?.facts()
    }

    #[test]
    fn addresses_and_state_of_a_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        stream.write_all(b"x").unwrap();
        let seen = facts(&stream).unwrap();
        assert_eq!(seen.peer.unwrap(), listener.local_addr().unwrap().into());
        assert_eq!(seen.tcp.unwrap().state, 1);
        assert!(!seen.is_listening && seen.tcp.unwrap().last_data_sent_ms < 60_000);
        assert_eq!(seen.recv_timeout, None);
        stream
            .set_read_timeout(Some(Duration::from_secs(600)))
            .unwrap();
        assert_eq!(
            facts(&stream).unwrap().recv_timeout,
            Some(Duration::from_secs(600))
        );
        let seen = facts(&listener).unwrap();
        assert!(seen.is_listening && seen.peer.is_none());
    }

    #[test]
    fn what_is_no_socket_is_an_error() {
        assert!(facts(&std::fs::File::open("/proc/self/stat").unwrap()).is_err());
        assert!(BorrowedSocket::borrow(&PidFd::open(Pid::own()).unwrap(), 999_999).is_err());
    }
}
