//! Running work that may never return, and giving it up when its time is over.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use thiserror::Error;

/// Why there is no result.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeadlineError {
    /// The time was over; the work goes on in a thread of its own that nobody waits for.
    #[error("gave up after {0:?}")]
    TimedOut(Duration),
    /// No thread could be started for it.
    #[error("no thread could be started")]
    NoThread,
}

/// Runs `work` on a thread of its own and waits for it at most `limit`. If the work panics, so does this.
///
/// Work that is stuck in the kernel can't be cancelled, only left behind: it must own all it uses, and it ends with
/// the process at the latest.
pub fn run<T, F>(limit: Duration, work: F) -> Result<T, DeadlineError>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let (sender, receiver) = mpsc::sync_channel(1);
    let started = thread::Builder::new()
        .name("reader".to_owned())
        .spawn(move || {
            // The receiver is gone when nobody waits any more.
            let _ = sender.send(work());
        });
    let Ok(reader) = started else {
        return Err(DeadlineError::NoThread);
    };
    receiver.recv_timeout(limit).map_err(|error| match error {
        mpsc::RecvTimeoutError::Timeout => DeadlineError::TimedOut(limit),
        mpsc::RecvTimeoutError::Disconnected => match reader.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => DeadlineError::NoThread,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_result_or_gives_up() {
        assert_eq!(run(Duration::from_secs(60), || 7), Ok(7));
        let (_keep, never) = mpsc::channel::<()>();
        let limit = Duration::from_millis(10);
        assert_eq!(
            run(limit, move || never.recv().is_ok()),
            Err(DeadlineError::TimedOut(limit))
        );
    }

    #[test]
    #[should_panic(expected = "on purpose")]
    fn a_panic_is_passed_on() {
        let _ = run(Duration::from_secs(60), || panic!("on purpose"));
    }
}
