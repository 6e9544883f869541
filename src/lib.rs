//! stuckspy: where every thread of a running Python process is, what it waits for, since when, and on whom.
//!
//! ```text
//!             sys, model
//!                │
//!  pid ─▶ target ─▶ snapshot ─▶ diagnose ─▶ report ─▶ text, JSON
//!            │         │
//!            │         └─▶ wait: what each thread waits for
//!            └─ python: knowledge of CPython, pure over remote memory
//! ```
//!
//! A module may use what stands below it, never what stands above; `docs/architecture.md` walks through one command.

mod cli;
pub mod diagnose;
pub mod model;
pub mod python;
pub mod report;
pub mod snapshot;
pub mod sys;
pub mod target;
pub mod wait;

pub use cli::{ExitStatus, run};
