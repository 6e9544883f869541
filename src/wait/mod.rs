//! What one thread waits for and since when, from the kernel's facts about it; no judgement.

mod child;
mod classify;
mod describe;
mod endpoint;
mod lock;
mod open;
mod pointed;
mod poll;
mod sentence;
mod since;
mod sleep;

pub use classify::{Scene, Sight, classify, is_futex, moves_data, wait_kind};
pub use endpoint::link;
pub use lock::FutexCall;
pub use pointed::{Pointed, read_pointed};
pub use sentence::sentence;
pub use since::SinceClock;
