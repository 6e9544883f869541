//! Where every thread of a process is at this instant; no judgement.

pub mod attach;
mod capture;
mod descriptor_uses;
mod facts;
mod hubs;
mod locals;
mod locks;
mod merge;
mod options;
mod reach;
pub mod reader;
pub mod roster;
pub mod stops;
mod tree;
mod view;
pub mod window;

pub use capture::capture;
pub use options::{CaptureOptions, DEFAULT_TIME, Locals};
pub use tree::{TreeCapture, TreeOptions, capture_tree, capture_tree_with};
