//! Snapshots and answers for people (text) and programs (JSON). Nothing here touches a target or a terminal.

pub mod answer;
mod event_loop;
pub mod json;
mod place;
pub mod sanitize;
mod stack;
pub mod text;
