//! Knowledge of CPython: where its threads and frames are and what they say, pure over a target's memory.

mod attribute;
pub mod code;
pub mod detect;
pub mod dict;
pub mod eval_stack;
pub mod frame;
pub mod layout;
mod linetable;
mod lock_rules;
pub mod locks;
pub mod names;
pub mod object;
pub mod runtime;
mod scan;
#[cfg(test)]
mod testing;
pub mod thread_ids;
mod version;

pub use linetable::find_line;
