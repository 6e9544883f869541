//! What one thread waits for and since when, from the kernel's facts about it; no judgement.

mod classify;
mod lock;
mod since;

pub use classify::{classify, is_futex, wait_kind};
pub use lock::FutexCall;
pub use since::SinceClock;
