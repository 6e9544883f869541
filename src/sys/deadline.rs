//! Running work that may never return, and giving it up when its time is over.

use std::fs;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::model::span;

/// How long a reader must not have moved to be taken for stuck in the kernel.
const STILLNESS: Duration = Duration::from_millis(100);
/// Most time that a reader may be stuck, of what a command has left: a tree may have several processes that block.
const STUCK_SHARE: u32 = 4;
/// Most that it may be.
const MAX_STUCK: Duration = Duration::from_secs(2);
/// Least time for anything that is tried at all.
const LEAST: Duration = Duration::from_millis(20);

/// Why there is no result.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeadlineError {
    /// The time was over; the work goes on in a thread of its own that nobody waits for.
    #[error("the kernel did not answer within {}", span(*.0))]
    TimedOut(Duration),
    /// No thread could be started for it.
    #[error(
        "no thread could be started: a limit such as `ulimit -u` or a cgroup's pids.max is reached"
    )]
    NoThread,
}

/// The time that a whole command has for reading; each step gets a share of what is left.
#[derive(Clone, Copy, Debug)]
pub struct TimeBudget {
    ends: Instant,
}

impl TimeBudget {
    /// A budget that begins now.
    pub fn new(total: Duration) -> Self {
        let now = Instant::now();
        // An end beyond all times is none: a century is as good.
        let century = Duration::from_secs(100 * 365 * 86_400);
        TimeBudget {
            ends: now + total.min(century),
        }
    }

    /// What is left of it.
    pub fn left(self) -> Duration {
        self.ends.saturating_duration_since(Instant::now())
    }

    /// Whether nothing is left.
    pub fn is_over(self) -> bool {
        self.left().is_zero()
    }

    /// The same with an end that comes that much later.
    pub fn extended(self, by: Duration) -> Self {
        TimeBudget {
            ends: self.ends.checked_add(by).unwrap_or(self.ends),
        }
    }

    /// The patience with one process: for as long as it is read, most of what is left; stuck, a smaller share.
    pub fn patience(self) -> Patience {
        let left = self.left();
        Patience {
            stuck: (left / STUCK_SHARE).clamp(LEAST, MAX_STUCK),
            all: (left - left / STUCK_SHARE).max(LEAST),
        }
    }

    /// What is left of it, and at most that.
    pub fn at_most(self, limit: Duration) -> Duration {
        self.left().min(limit).max(LEAST)
    }
}

/// How long work may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// As long as that in any case; after it, only while its thread is on a processor now and then.
    pub stuck: Duration,
    /// And no longer.
    pub all: Duration,
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
    let reader = Reader::start(work)?;
    match reader.results.recv_timeout(limit) {
        Err(RecvTimeoutError::Timeout) => Err(DeadlineError::TimedOut(limit)),
        other => reader.take(other.ok()),
    }
}

/// Runs `work` as [`run`] does, for as long as it gets something done: what is merely slow has more time than what is stuck.
pub fn run_patiently<T, F>(patience: Patience, work: F) -> Result<T, DeadlineError>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let reader = Reader::start(work)?;
    let began = Instant::now();
    let mut limit = patience.stuck.min(patience.all);
    let mut last = None;
    loop {
        match reader.results.recv_timeout(limit) {
            Err(RecvTimeoutError::Timeout) => {}
            other => return reader.take(other.ok()),
        }
        let now = reader.stillness();
        let is_stuck = now.is_some() && now == last;
        let left = patience.all.saturating_sub(began.elapsed());
        if is_stuck || left.is_zero() {
            return Err(DeadlineError::TimedOut(began.elapsed()));
        }
        last = now;
        limit = STILLNESS.min(left);
    }
}

/// What came of asking about one of several items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply<R> {
    /// The answer.
    Given(R),
    /// It took longer than its limit; the thread that asks was left behind.
    Silent,
    /// The time of all was over before.
    NotAsked,
}

impl<R> Reply<R> {
    /// The answer, if there is one.
    pub fn given(self) -> Option<R> {
        match self {
            Reply::Given(answer) => Some(answer),
            Reply::Silent | Reply::NotAsked => None,
        }
    }
}

/// Asks `ask` about each of `items`, one by one, each for at most `limit` and all for `time`; the replies come in their order.
pub fn each<T, R, F>(items: Vec<T>, limit: Duration, time: TimeBudget, ask: F) -> Vec<Reply<R>>
where
    T: Send + Sync + 'static,
    R: Send + 'static,
    F: Fn(&T) -> R + Send + Sync + 'static,
{
    let mut answers: Vec<Reply<R>> = items.iter().map(|_| Reply::NotAsked).collect();
    let shared = Arc::new((items, ask));
    let mut from = 0;
    while from < answers.len() && !time.is_over() {
        let at = Arc::new(AtomicUsize::new(from));
        let (told, given) = mpsc::channel();
        let (work, progress) = (Arc::clone(&shared), Arc::clone(&at));
        let started = Reader::start(move || {
            for (index, item) in work.0.iter().enumerate().skip(from) {
                progress.store(index, Ordering::Relaxed);
                if told.send((index, (work.1)(item))).is_err() {
                    return;
                }
            }
        });
        let Ok(reader) = started else {
            return answers;
        };
        loop {
            let asked = at.load(Ordering::Relaxed);
            match given.recv_timeout(time.at_most(limit)) {
                Ok((index, answer)) => answers[index] = Reply::Given(answer),
                Err(RecvTimeoutError::Timeout) if time.is_over() => return answers,
                // It may have come to the next one only just now.
                Err(RecvTimeoutError::Timeout) if at.load(Ordering::Relaxed) != asked => {}
                Err(RecvTimeoutError::Timeout) => {
                    answers[asked] = Reply::Silent;
                    from = asked + 1;
                    break;
                }
                Err(RecvTimeoutError::Disconnected) => {
                    // All were asked, unless it has panicked.
                    let _ = reader.take(reader.results.recv().ok());
                    return answers;
                }
            }
        }
    }
    answers
}

/// A thread that does some work.
struct Reader<T> {
    results: Receiver<T>,
    tid: Arc<AtomicI32>,
    handle: Mutex<Option<JoinHandle<()>>>,
}

impl<T: Send + 'static> Reader<T> {
    fn start(work: impl FnOnce() -> T + Send + 'static) -> Result<Self, DeadlineError> {
        let (sender, results) = mpsc::sync_channel(1);
        let tid = Arc::new(AtomicI32::new(0));
        let own = Arc::clone(&tid);
        let handle = thread::Builder::new()
            .name("reader".to_owned())
            .spawn(move || {
                own.store(nix::unistd::gettid().as_raw(), Ordering::Relaxed);
                // The receiver is gone when nobody waits any more.
                let _ = sender.send(work());
            })
            .map_err(|_| DeadlineError::NoThread)?;
        Ok(Reader {
            results,
            tid,
            handle: Mutex::new(Some(handle)),
        })
    }

    /// The result, or the panic that has taken its place.
    fn take(&self, result: Option<T>) -> Result<T, DeadlineError> {
        if let Some(result) = result {
            return Ok(result);
        }
        let mut handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        match handle.take().map(JoinHandle::join) {
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            _ => Err(DeadlineError::NoThread),
        }
    }

    /// What stays the same while the thread sleeps, if it does (`schedstat`, which counts how often it was given a processor). Where
    /// that is not known, it is taken for asleep.
    fn stillness(&self) -> Option<Vec<u8>> {
        let folder = format!("/proc/self/task/{}", self.tid.load(Ordering::Relaxed));
        let stat = fs::read(format!("{folder}/stat")).unwrap_or_default();
        let behind_name = stat.iter().rposition(|byte| *byte == b')');
        let state = behind_name.and_then(|at| stat.get(at + 2)).copied();
        if state == Some(b'R') {
            return None;
        }
        Some(fs::read(format!("{folder}/schedstat")).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn for_ever() {
        let (_keep, never) = mpsc::channel::<()>();
        let _ = never.recv();
    }

    #[test]
    fn gives_the_result_or_gives_up() {
        assert_eq!(run(Duration::from_secs(60), || 7), Ok(7));
        let limit = Duration::from_millis(10);
        assert_eq!(run(limit, for_ever), Err(DeadlineError::TimedOut(limit)));
    }

    #[test]
    #[should_panic(expected = "on purpose")]
    fn a_panic_is_passed_on() {
        let _ = run(Duration::from_secs(60), || panic!("on purpose"));
    }

    #[test]
    fn who_works_has_more_time_than_who_is_stuck() {
        let patience = Patience {
            stuck: Duration::from_millis(1),
            all: Duration::from_secs(600),
        };
        let began = Instant::now();
        let slow = move || {
            let mut rounds = 0_u64;
            while began.elapsed() < 4 * STILLNESS {
                rounds += 1;
            }
            rounds > 0
        };
        assert_eq!(run_patiently(patience, slow), Ok(true));
        let stuck = run_patiently(patience, for_ever);
        assert!(matches!(stuck, Err(DeadlineError::TimedOut(_))));
        // Nobody has it for ever.
        let patience = Patience {
            all: Duration::from_millis(30),
            ..patience
        };
        let (stop, stopped) = mpsc::channel::<()>();
        let busy = move || while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {};
        assert!(run_patiently(patience, busy).is_err());
        drop(stop);
    }

    #[test]
    fn one_that_is_stuck_does_not_keep_the_others() {
        let time = TimeBudget::new(Duration::from_secs(600));
        let ask = |item: &u32| {
            if *item % 3 == 1 {
                for_ever();
            }
            item * 2
        };
        let answers = each((0..6).collect(), Duration::from_millis(400), time, ask);
        let given = Reply::Given;
        let expected = [
            given(0),
            Reply::Silent,
            given(4),
            given(6),
            Reply::Silent,
            given(10),
        ];
        assert_eq!(answers, expected);
        let over = TimeBudget::new(Duration::ZERO);
        assert_eq!(
            each(vec![0, 3], Duration::from_secs(60), over, ask),
            [Reply::NotAsked, Reply::NotAsked]
        );
        let none: Vec<Reply<u32>> = each(Vec::new(), Duration::ZERO, time, ask);
        assert!(none.is_empty());
    }

    #[test]
    fn shares_add_up_to_no_more_than_all() {
        let total = Duration::from_secs(10);
        let time = TimeBudget::new(total);
        assert!(time.left() <= total && !time.is_over());
        let patience = time.patience();
        assert!(patience.stuck <= MAX_STUCK && patience.all <= total);
        assert!(time.extended(total).left() > total);
        let over = TimeBudget::new(Duration::ZERO);
        assert!(over.is_over());
        assert_eq!(over.patience().all, LEAST);
        assert!(!TimeBudget::new(Duration::MAX).is_over());
    }
}
