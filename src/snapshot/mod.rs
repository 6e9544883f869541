//! Where every thread of a process is at this instant; no judgement.

pub mod attach;
mod capture;
mod facts;
mod locals;
mod locks;
pub mod reader;
pub mod roster;
mod tree;
pub mod window;

pub use capture::{CaptureOptions, capture};
pub use tree::{TreeOptions, capture_tree};
