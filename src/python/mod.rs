//! Knowledge of CPython: where its threads and frames are and what they say, pure over a target's memory.

pub mod asyncio;
pub mod attribute;
pub mod byte_cache;
pub mod code;
mod collector;
pub mod descriptors;
pub mod detect;
pub mod dict;
pub mod eval_stack;
pub mod exceptions;
pub mod frame;
pub mod greenlets;
pub mod layout;
mod linetable;
pub mod locals;
mod lock_rules;
pub mod locks;
pub mod names;
mod number;
pub mod object;
pub mod reachability;
pub mod runtime;
mod scan;
mod set;
mod stack_limits;
#[cfg(test)]
mod testing;
pub mod thread_ids;
pub mod value;
mod version;

pub use linetable::find_line;
