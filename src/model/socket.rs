//! Sockets: their kind, addresses and options, and what TCP has counted on a connection.

use std::cmp::Ordering;
use std::time::Duration;

use serde::Serialize;

use super::ids::Pid;

/// A socket's family and type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SocketKind {
    /// TCP over IPv4 or IPv6.
    Tcp,
    /// UDP over IPv4 or IPv6.
    Udp,
    /// A unix socket.
    Unix,
}

impl SocketKind {
    /// The kind in a word.
    pub fn word(self) -> &'static str {
        match self {
            SocketKind::Tcp => "tcp",
            SocketKind::Udp => "udp",
            SocketKind::Unix => "unix",
        }
    }
}

/// What TCP has counted on a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TcpTimes {
    /// When data was sent last, in milliseconds before now.
    pub last_data_sent_ms: u32,
    /// When data was received last (or, before any was, the connection was made), in milliseconds before now.
    pub last_data_recv_ms: u32,
    /// Segments that were sent and not acknowledged.
    pub unacked: u32,
    /// Times that the oldest of those was sent again in a row.
    pub retransmits: u32,
    /// Bytes that were written and not sent yet.
    pub notsent_bytes: u32,
    /// Bytes that have come in since the connection was made.
    pub bytes_received: u64,
    /// Bytes that were sent and acknowledged since then; for the end that connected, one more.
    pub bytes_acked: u64,
    /// When the peer last acknowledged anything, in milliseconds before now.
    pub last_ack_recv_ms: u32,
    /// Bytes that were sent, retransmitted ones again; `None` before Linux 4.19.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_sent: Option<u64>,
    /// How many of those were retransmitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_retransmitted: Option<u64>,
}

/// Which end of a connection sent data last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastSender {
    /// This end: if that was a question, the peer owes the answer.
    Own,
    /// The peer.
    Peer,
    /// Neither has ever sent anything.
    Nobody,
    /// Both did within one tick of the kernel's clock, and nothing tells which came first.
    Unknown,
}

impl TcpTimes {
    /// How long after data an acknowledgement without data comes at most: the delay that the peer's kernel allows itself (200 ms,
    /// `include/net/tcp.h::TCP_DELACK_MAX`, Linux 6.18) and a long round trip. Keep-alive probes, which are acknowledged too,
    /// begin after a second at the earliest.
    const MAX_ACK_DELAY_MS: u32 = 900;

    /// Whether this end has ever sent data. The end that connected has had its SYN acknowledged, which counts as one byte
    /// (`net/ipv4/tcp_input.c::tcp_snd_una_update`, Linux 6.18): without the count of bytes sent, a single byte is none.
    pub fn has_sent(&self) -> bool {
        let sent = match self.bytes_sent {
            Some(bytes) => bytes > 0,
            None => self.bytes_acked > 1,
        };
        sent || self.unacked > 0 || self.notsent_bytes > 0
    }

    /// Which end sent data last.
    ///
    /// The kernel keeps both times in ticks (`tcp_jiffies32` in `net/ipv4/tcp.c::tcp_get_info`, Linux 6.18: 1 to 10 ms), read at one
    /// instant. So different times are in order, and equal ones say nothing by themselves. Before anything has come, the time of the
    /// last data is that of the connection. In a tie it is the acknowledgement that tells: an answer carries the one of its question,
    /// while what nobody answers is acknowledged alone, and, if the tick is not longer than the way there and back or the peer's
    /// kernel waits for data to send it with (40 ms as a rule), later.
    pub fn last_sender(&self) -> LastSender {
        match (self.has_sent(), self.bytes_received > 0) {
            (false, false) => return LastSender::Nobody,
            (false, true) => return LastSender::Peer,
            (true, false) => return LastSender::Own,
            (true, true) => {}
        }
        let acknowledged_alone = self.last_data_recv_ms.checked_sub(self.last_ack_recv_ms);
        match self.last_data_sent_ms.cmp(&self.last_data_recv_ms) {
            Ordering::Less => LastSender::Own,
            Ordering::Greater => LastSender::Peer,
            Ordering::Equal => match acknowledged_alone {
                Some(1..=Self::MAX_ACK_DELAY_MS) => LastSender::Own,
                _ => LastSender::Unknown,
            },
        }
    }

    /// Whether something was sent after the last data came, so that it is the peer's turn, if what was sent was a question.
    pub fn is_answer_due(&self) -> bool {
        self.last_sender() == LastSender::Own
    }

    /// Whether this end accepted the connection, and did not make it: only of the end that connected the acknowledged bytes count the
    /// SYN. `None` where the counts do not show it: while data is under way, and before Linux 4.19.
    pub fn was_accepted(&self) -> Option<bool> {
        if self.unacked > 0 {
            return None;
        }
        let sent = self.bytes_sent?.checked_sub(self.bytes_retransmitted?)?;
        match self.bytes_acked.checked_sub(sent)? {
            0 => Some(true),
            1 => Some(false),
            _ => None,
        }
    }
}

/// A socket of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Its family and type.
    pub kind: SocketKind,
    /// Its own address.
    pub local: Option<String>,
    /// The other end's address.
    pub peer: Option<String>,
    /// Its state, in capitals, as `ss` names it.
    pub state: String,
    /// The timeout of a receive (`SO_RCVTIMEO`), where the kernel was asked directly; the inner `None` is for ever.
    pub recv_timeout: Option<Option<Duration>>,
    /// What TCP has counted, where the kernel was asked directly.
    pub tcp: Option<TcpTimes>,
    /// The timeout of a send or connect (`SO_SNDTIMEO`), where the kernel was asked directly; the inner `None` is for ever.
    pub send_timeout: Option<Option<Duration>>,
    /// How long sent data may stay unacknowledged (`TCP_USER_TIMEOUT`); the inner `None` is the system's own limit.
    pub user_timeout: Option<Option<Duration>>,
    /// Whether keep-alive probes are sent (`SO_KEEPALIVE`).
    pub keepalive: Option<bool>,
    /// How long they take at most to notice a dead peer.
    pub keepalive_time: Option<Duration>,
    /// Bytes that have come in and were not read.
    pub recv_queue: Option<u64>,
    /// Bytes that were written and not taken by the other end.
    pub send_queue: Option<u64>,
    /// Who had the other end of a unix socket when it was connected.
    pub peer_pid: Option<Pid>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts of an end that connected, has sent and received some, and whose times are these.
    fn times(sent: u32, received: u32, acknowledged: u32) -> TcpTimes {
        TcpTimes {
            last_data_sent_ms: sent,
            last_data_recv_ms: received,
            last_ack_recv_ms: acknowledged,
            bytes_received: 20,
            bytes_acked: 31,
            bytes_sent: Some(30),
            bytes_retransmitted: Some(0),
            ..TcpTimes::default()
        }
    }

    #[test]
    fn the_later_time_is_of_the_last_sender() {
        assert_eq!(times(500, 504, 500).last_sender(), LastSender::Own);
        assert_eq!(times(504, 500, 500).last_sender(), LastSender::Peer);
    }

    /// As measured on a loopback with ticks of 4 ms: questions and answers within one of them.
    #[test]
    fn a_tie_is_unknown_unless_an_acknowledgement_came_alone() {
        assert_eq!(times(500, 500, 500).last_sender(), LastSender::Unknown);
        assert_eq!(times(500, 500, 456).last_sender(), LastSender::Own);
        // A keep-alive probe was acknowledged.
        assert_eq!(times(9000, 9000, 12).last_sender(), LastSender::Unknown);
        assert!(!times(500, 500, 500).is_answer_due());
    }

    #[test]
    fn who_never_sent_anything_has_asked_nothing() {
        let fresh = TcpTimes {
            bytes_received: 0,
            bytes_acked: 1,
            bytes_sent: Some(0),
            ..times(300, 300, 300)
        };
        assert_eq!(fresh.last_sender(), LastSender::Nobody);
        // The SYN is not taken for a question where bytes sent are not counted.
        let old = TcpTimes {
            bytes_sent: None,
            ..fresh
        };
        assert_eq!(old.last_sender(), LastSender::Nobody);
        let greeted = TcpTimes {
            bytes_received: 5,
            ..old
        };
        assert_eq!(greeted.last_sender(), LastSender::Peer);
        let asked = TcpTimes {
            bytes_acked: 11,
            ..old
        };
        assert_eq!(asked.last_sender(), LastSender::Own);
        let in_flight = TcpTimes { unacked: 1, ..old };
        assert_eq!(in_flight.last_sender(), LastSender::Own);
    }

    #[test]
    fn the_syn_shows_which_end_connected() {
        let connected = times(1, 1, 1);
        assert_eq!(connected.was_accepted(), Some(false));
        let accepted = TcpTimes {
            bytes_acked: 30,
            ..connected
        };
        assert_eq!(accepted.was_accepted(), Some(true));
        let lossy = TcpTimes {
            bytes_sent: Some(75),
            bytes_retransmitted: Some(45),
            ..accepted
        };
        assert_eq!(lossy.was_accepted(), Some(true));
        let unknown = [
            TcpTimes {
                unacked: 1,
                ..accepted
            },
            TcpTimes {
                bytes_sent: None,
                ..accepted
            },
            TcpTimes {
                bytes_acked: 90,
                ..accepted
            },
        ];
        for counts in unknown {
            assert_eq!(counts.was_accepted(), None);
        }
    }
}
