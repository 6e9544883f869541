//! What a fixture program says about itself; the protocol stands in `fixtures/programs/_truth.py`.
//!
//! Its text is already lossy: U+FFFD stands for each lone surrogate (3.x) or bad byte (2.7), as it does in our JSON.

use serde::Deserialize;

/// A process at the instant when all its threads stood still.
#[derive(Clone, Debug, Deserialize)]
pub struct Truth {
    pub pid: i32,
    pub version: (u8, u8, u8),
    pub threads: Vec<Account>,
    /// The kernel id of the thread that told this.
    pub reporter: i32,
    /// The program's own message.
    pub extra: serde_json::Value,
}

/// One thread state; a thread that entered a subinterpreter has one in each.
#[derive(Clone, Debug, Deserialize)]
pub struct Account {
    pub tid: i32,
    /// None when `threading` does not know it.
    pub name: Option<String>,
    pub interpreter: u64,
    /// It does not stand still: its frames mean nothing.
    pub moving: bool,
    /// How many frames there are.
    pub depth: usize,
    /// All frames, innermost first; of a very deep stack only the innermost.
    pub frames: Vec<TrueFrame>,
    /// Of a very deep stack, the outermost frames, also innermost first.
    pub outer: Vec<TrueFrame>,
}

/// One Python frame.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(from = "(String, String, Option<u64>, Option<String>)")]
pub struct TrueFrame {
    pub function: String,
    pub file: String,
    pub line: Option<u64>,
    pub module: Option<String>,
}

impl From<(String, String, Option<u64>, Option<String>)> for TrueFrame {
    fn from(fields: (String, String, Option<u64>, Option<String>)) -> TrueFrame {
        TrueFrame {
            function: fields.0,
            file: fields.1,
            line: fields.2,
            module: fields.3,
        }
    }
}
