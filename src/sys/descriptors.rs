//! How many descriptors may be kept open: one budget for the whole process, and a count of what could not be opened. Opens nothing.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// One part in so many of the limit may be kept open...
const SHARE_OF_LIMIT: usize = 4;
/// ...and one part in so many of what was free at the start: others may have left us many open descriptors.
const SHARE_OF_FREE: usize = 2;
/// Above this limit, what is open at the start is not counted.
const HIGH_LIMIT: usize = 16_384;
/// Files that are read seldom may fill one part in so many of the budget; the rest is for those that are read again and again.
const SHARE_OF_COLD: usize = 2;

/// How soon a file that is kept open will be read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// At each sample, or as long as a process is watched: it may take all of the budget.
    Often,
    /// Once more, or now and then: it is kept only while half of the budget is free.
    Seldom,
}

/// How many descriptors may be kept open. Files that are not kept are opened, read and closed, one at a time.
#[derive(Debug)]
pub struct Budget {
    most: usize,
    used: AtomicUsize,
}

/// The right to keep some descriptors open, until it is dropped.
#[derive(Debug)]
pub struct Permit {
    budget: &'static Budget,
    count: usize,
}

impl Budget {
    /// A budget of `most` descriptors.
    pub const fn new(most: usize) -> Self {
        Budget {
            most,
            used: AtomicUsize::new(0),
        }
    }

    /// The budget of this process, from its limit when it is asked for the first time.
    pub fn own() -> &'static Budget {
        static OWN: OnceLock<Budget> = OnceLock::new();
        OWN.get_or_init(|| {
            let limit = soft_limit();
            // Nobody leaves us so many that it matters to a high limit.
            let open = if limit > HIGH_LIMIT { 0 } else { count_open() };
            Budget::new(most_kept(limit, open))
        })
    }

    /// The right to keep `count` descriptors open; `None` when there is no room.
    pub fn take(&'static self, count: usize, purpose: Use) -> Option<Permit> {
        let most = match purpose {
            Use::Often => self.most,
            Use::Seldom => self.most / SHARE_OF_COLD,
        };
        let more = |used: usize| used.checked_add(count).filter(|used| *used <= most);
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .ok()?;
        Some(Permit {
            budget: self,
            count,
        })
    }

    /// Whether what is read seldom may stay open.
    pub fn is_ample(&self) -> bool {
        self.used.load(Ordering::Relaxed) <= self.most / SHARE_OF_COLD
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.count, Ordering::Relaxed);
    }
}

/// How many descriptors may be kept, with this limit and that many open.
fn most_kept(limit: usize, open: usize) -> usize {
    (limit / SHARE_OF_LIMIT).min(limit.saturating_sub(open) / SHARE_OF_FREE)
}

/// How many descriptors this process may have.
pub fn soft_limit() -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    })
}

fn count_open() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// Raises the limit of open files as far as it goes.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    // Where it can't be raised, the budget is small.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    );
}

/// How often a file could not be opened for lack of descriptors.
static SHORTAGES: AtomicUsize = AtomicUsize::new(0);

/// Whether an error says that this process, or the machine, has too many files open.
pub fn is_shortage(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE)
    )
}

/// Counts the error of an attempt to open something, if it is for lack of descriptors, so that it is reported whoever ignores it.
pub fn noted(error: impl Into<io::Error>) -> io::Error {
    let error = error.into();
    if is_shortage(&error) {
        SHORTAGES.fetch_add(1, Ordering::Relaxed);
    }
    error
}

/// How many files could not be opened for lack of descriptors, since this process began.
pub fn shortages() -> usize {
    SHORTAGES.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(most: usize) -> &'static Budget {
        Box::leak(Box::new(Budget::new(most)))
    }

    #[test]
    fn half_is_for_what_is_read_seldom_and_a_permit_ends_with_its_owner() {
        let budget = budget(4);
        let seldom: Vec<_> = (0..3).map(|_| budget.take(1, Use::Seldom)).collect();
        assert_eq!(seldom.iter().flatten().count(), 2);
        assert!(budget.is_ample());
        assert!(budget.take(3, Use::Often).is_none());
        let often = budget.take(2, Use::Often);
        assert!(often.is_some() && budget.take(1, Use::Often).is_none() && !budget.is_ample());
        drop(seldom);
        assert!(budget.take(1, Use::Seldom).is_none());
        drop(often);
        assert!(budget.take(4, Use::Often).is_some());
    }

    #[test]
    fn a_quarter_of_the_limit_unless_others_left_us_less() {
        assert_eq!(most_kept(1 << 20, 4), 1 << 18);
        assert_eq!(most_kept(32, 6), 8);
        assert_eq!(most_kept(32, 28), 2);
        assert_eq!(most_kept(8, 9), 0);
    }

    #[test]
    fn only_a_lack_of_descriptors_is_counted() {
        let before = shortages();
        noted(Errno::NOENT);
        noted(io::ErrorKind::NotFound);
        assert!(is_shortage(&noted(Errno::MFILE)) && is_shortage(&noted(Errno::NFILE)));
        assert!(shortages() >= before + 2);
    }
}
