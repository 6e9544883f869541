//! Which threads can reach an object: a bounded walk of the object graph from what their frames refer to, as a collector of garbage
//! would do it, and an account of the references that were found. It judges nothing.
//!
//! `roots.rs` reads what frames refer to, `references.rs` what one object refers to, `types.rs` what is known of its type, `graph.rs` walks, `account.rs`
//! compares the references that were found with the counts that the objects have.

mod account;
mod graph;
mod references;
mod roots;
mod types;

pub use account::Account;
pub use graph::{Graph, Limits};
pub use roots::{FrameReferences, StackReferences, read_references, settle_start};

#[cfg(test)]
mod tests;
