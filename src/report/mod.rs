//! Snapshots and findings for people (text) and programs (JSON). Nothing here touches a target or a terminal.

pub mod json;
mod place;
pub mod redact;
pub mod sanitize;
pub mod text;
