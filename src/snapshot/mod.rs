//! Where every thread of a process is at this instant; no judgement.

mod attach;
mod capture;
mod facts;
mod reader;
mod tree;
mod window;

pub use capture::{CaptureOptions, capture};
pub use tree::{TreeOptions, capture_tree};
