//! Snapshots and findings for people (text) and programs (JSON). Nothing here touches a target or a terminal.

mod event_loop;
pub mod json;
mod place;
pub mod sanitize;
mod stack;
pub mod text;
