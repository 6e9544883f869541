//! What the process that works tells the one that supervises it: how long reading may take, and how it ends.

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::sync::OnceLock;
use std::time::Duration;

/// The worker's end of the pipe; none where there is no supervisor.
static LINK: OnceLock<PipeWriter> = OnceLock::new();

/// Bytes of a message: what it is about, and a number. A pipe takes so few at once.
const LENGTH: usize = 9;
const READING: u8 = b'r';
const ENDING: u8 = b'e';

/// A message to the supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// All that is to be read will have been read in that time; nothing is read any more if there is none.
    Reading(Option<Duration>),
    /// The worker ends with this exit code, and has given up its standard streams.
    Ending(u8),
}

impl Message {
    fn to_bytes(self) -> [u8; LENGTH] {
        let (what, number) = match self {
            Message::Reading(None) => (READING, u64::MAX),
            Message::Reading(Some(time)) => {
                let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX - 1);
                (READING, milliseconds.min(u64::MAX - 1))
            }
            Message::Ending(code) => (ENDING, u64::from(code)),
        };
        let mut bytes = [what; LENGTH];
        bytes[1..].copy_from_slice(&number.to_le_bytes());
        bytes
    }

    /// The next message; `None` when the worker has none to send any more.
    pub fn read(reader: &mut PipeReader) -> Option<Message> {
        let mut bytes = [0; LENGTH];
        reader.read_exact(&mut bytes).ok()?;
        let number = bytes[1..].try_into().map_or(0, u64::from_le_bytes);
        match bytes[0] {
            READING if number == u64::MAX => Some(Message::Reading(None)),
            READING => Some(Message::Reading(Some(Duration::from_millis(number)))),
            _ => Some(Message::Ending(u8::try_from(number).unwrap_or(u8::MAX))),
        }
    }
}

/// Makes this the worker of the supervisor at the other end.
pub fn open(writer: PipeWriter) {
    let _ = LINK.set(writer);
}

/// Sends a message, if there is a supervisor. If it has ended, we are about to be killed.
pub fn tell(message: Message) {
    if let Some(mut link) = LINK.get() {
        let _ = link.write_all(&message.to_bytes());
    }
}

/// Tells the supervisor that all that is to be read will have been read in that time.
pub fn reading_ends_within(time: Duration) {
    tell(Message::Reading(Some(time)));
}

/// Tells the supervisor that nothing is read any more. Whoever takes the output may take as long as they like.
pub fn reading_is_over() {
    tell(Message::Reading(None));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_as_they_were_sent() {
        let (mut reader, mut writer) = std::io::pipe().unwrap();
        let messages = [
            Message::Reading(Some(Duration::from_secs(12))),
            Message::Reading(None),
            Message::Ending(74),
        ];
        for message in messages {
            writer.write_all(&message.to_bytes()).unwrap();
            assert_eq!(Message::read(&mut reader), Some(message));
        }
        let forever = Message::Reading(Some(Duration::MAX)).to_bytes();
        writer.write_all(&forever).unwrap();
        assert!(matches!(
            Message::read(&mut reader),
            Some(Message::Reading(Some(_)))
        ));
        drop(writer);
        assert_eq!(Message::read(&mut reader), None);
    }
}
