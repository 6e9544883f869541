//! stuckspy: where every thread of a running Python process is, what it waits for, since when, and on whom.
//!
//! ```text
//!             sys, model
//!                │
//!  pid ─▶ target ─▶ snapshot ─▶ sampler ─▶ profile ─▶ export ─▶ file, standard output
//!            │         │                      └─────▶ tui
//!            │         ├─▶ wait: what each thread waits for
//!            │         └─▶ diagnose ─▶ report ─▶ text, JSON
//!            └─ python: knowledge of CPython, pure over remote memory
//! ```
//!
//! A module may use what stands below it, never what stands above; `docs/architecture.md` walks through one command.

mod cli;
pub mod diagnose;
pub mod export;
pub mod model;
pub mod profile;
pub mod python;
pub mod redact;
pub mod report;
pub mod sampler;
pub mod snapshot;
pub mod sys;
pub mod target;
pub mod tui;
pub mod wait;

pub use cli::{ExitStatus, run};
