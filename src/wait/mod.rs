//! What one thread waits for and since when, from the kernel's facts about it; no judgement.

mod classify;
mod since;

pub use classify::{classify, is_futex, wait_kind};
pub use since::SinceClock;
