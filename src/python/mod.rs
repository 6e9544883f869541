//! Knowledge of CPython: where its threads and frames are and what they say, pure over a target's memory.

pub mod code;
pub mod detect;
pub mod frame;
pub mod layout;
mod linetable;
pub mod names;
pub mod object;
pub mod runtime;
pub mod thread_ids;
mod version;

pub use linetable::find_line;
