//! What one thread waits for and since when, from the kernel's facts about it; no judgement.

mod call;
mod child;
mod classify;
mod describe;
mod endpoint;
mod lock;
mod open;
mod pointed;
mod poll;
mod scene;
mod sentence;
mod since;
mod sleep;

pub use call::is_futex;
pub use classify::{classify, moves_data, wait_kind};
pub use endpoint::link;
pub use lock::FutexCall;
pub use pointed::{Pointed, read_pointed};
pub use scene::{Scene, Sight};
pub use sentence::sentence;
pub use since::SinceClock;
