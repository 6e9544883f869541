//! What one thread waits for and since when, from the kernel's facts about it; no judgement.

mod arguments;
mod call;
mod child;
mod classify;
mod describe;
mod endpoint;
mod lock;
mod open;
mod poll;
mod retried;
mod sentence;
mod since;
mod sleep;
mod surroundings;

pub use arguments::{PointedArguments, read_pointed_arguments};
pub use call::is_futex;
pub use classify::{classify, moves_data, wait_kind};
pub use endpoint::link;
pub use endpoint::users::{DescriptorUse, contested_ends, name_users, uses_by_call};
pub use lock::FutexCall;
pub use poll::{is_plain_poll, polls_pipes};
pub use retried::{Attempts, LOCK_FILE, find_retried};
pub use sentence::sentence;
pub use since::SinceClock;
pub use surroundings::{ThreadView, WaitContext};
