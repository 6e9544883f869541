//! One call on a stack.

use std::sync::Arc;

use serde::Serialize;

/// What a frame is a call of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FrameKind {
    /// Python code.
    Python,
    /// Machine code.
    Native,
    /// The kernel.
    Kernel,
    /// No call: it says something of the stack itself, e.g. `<truncated>`.
    Marker,
}

/// One call on a stack; stacks are innermost first.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Frame {
    /// The function: its qualified name where the version of Python has one (3.11+), else its name.
    pub function: Arc<str>,
    /// The file, as the code object names it.
    pub file: Arc<str>,
    /// The line that is being executed; `None` where the code has none there.
    pub line: Option<u32>,
    /// `__name__` of the module that the code belongs to.
    pub module: Option<Arc<str>>,
    /// What it is a call of.
    pub kind: FrameKind,
}

impl Frame {
    /// A frame that says `text` of the stack at this place.
    pub fn marker(text: &str) -> Frame {
        Frame {
            function: text.into(),
            file: "".into(),
            line: None,
            module: None,
            kind: FrameKind::Marker,
        }
    }
}
