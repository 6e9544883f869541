//! A call that waits in slices: where it is, how often it woke, and what its attempts end with.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::frame::Frame;
use super::milliseconds::milliseconds;

/// A place in the code of a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CallSite {
    /// The function: its qualified name where the version of Python has one (3.11+), else its name.
    pub function: Arc<str>,
    /// The file, as the code object names it.
    pub file: Arc<str>,
    /// The line that is being executed.
    pub line: Option<u32>,
}

impl From<&Frame> for CallSite {
    fn from(frame: &Frame) -> Self {
        CallSite {
            function: Arc::clone(&frame.function),
            file: Arc::clone(&frame.file),
            line: frame.line,
        }
    }
}

/// How a call waits that wakes now and then, and waits again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Slices {
    /// How often it woke while it was watched.
    pub count: u64,
    /// How long one slice takes on average.
    #[serde(rename = "period_ms", serialize_with = "milliseconds")]
    pub period: Option<Duration>,
    /// What its attempts were seen to end with, each error once.
    pub errors: Vec<CaughtError>,
}

/// An exception of a target that was raised and is being handled, or is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct CaughtError {
    /// Its type, with the module where that is not `builtins`.
    #[serde(rename = "type")]
    pub type_name: String,
    /// `errno` of an `OSError`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errno: Option<i32>,
    /// The address that the attempt was about, `host:port`, as the variables of the calls have it that raised the exception.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The function that caught it, by its name and first line.
    #[serde(skip)]
    pub caught_in: Option<(Arc<str>, u32)>,
}
