//! Which stacks `thrash.py` can have: any other is one that never was.

use std::collections::HashSet;

use serde::Deserialize;

use super::dump::DumpedThread;

/// A function by its name and its file.
pub type Function = (String, String);

/// The program's own account of its calls.
#[derive(Clone, Debug)]
pub struct Possible {
    calls: HashSet<(Function, u64, Function)>,
    outermost: HashSet<Function>,
    files: HashSet<String>,
    /// The names of the threads that stay; others come and go.
    pub threads: Vec<String>,
}

#[derive(Deserialize)]
struct Extra {
    calls: Vec<(String, String, u64, String, String)>,
    outermost: Vec<Function>,
    threads: Vec<String>,
}

impl Possible {
    /// Reads the program's message.
    pub fn parse(extra: &serde_json::Value) -> Result<Possible, String> {
        let extra: Extra = Extra::deserialize(extra).map_err(|error| error.to_string())?;
        let mut files: HashSet<_> = extra
            .outermost
            .iter()
            .map(|(_, file)| file.clone())
            .collect();
        let mut calls = HashSet::new();
        for (caller, caller_file, line, callee, callee_file) in extra.calls {
            files.extend([caller_file.clone(), callee_file.clone()]);
            calls.insert(((caller, caller_file), line, (callee, callee_file)));
        }
        Ok(Possible {
            calls,
            outermost: extra.outermost.into_iter().collect(),
            files,
            threads: extra.threads,
        })
    }

    /// What can not be in this thread's stack.
    pub fn find_impossible(&self, thread: &DumpedThread) -> Option<String> {
        let frames: Vec<_> = thread
            .frames
            .iter()
            .filter(|frame| frame.kind == "python")
            .map(|frame| {
                let file = frame.file.clone().unwrap_or_default();
                (
                    (frame.function.clone(), file),
                    frame.line.unwrap_or_default(),
                )
            })
            .collect();
        self.find_impossible_in(&frames)
    }

    /// What can not be in this stack, innermost frame first. Frames of files that the program does not describe are passed over.
    pub fn find_impossible_in(&self, frames: &[(Function, u64)]) -> Option<String> {
        let is_described = |frame: &(Function, u64)| self.files.contains(&frame.0.1);
        for pair in frames.windows(2) {
            let ([callee, caller], true) = (pair, pair.iter().all(is_described)) else {
                continue;
            };
            let call = (caller.0.clone(), caller.1, callee.0.clone());
            if !self.calls.contains(&call) {
                return Some(format!(
                    "{:?} line {} does not call {:?}",
                    caller.0, caller.1, callee.0
                ));
            }
        }
        let (base, _) = frames.iter().rfind(|frame| is_described(frame))?;
        (!self.outermost.contains(base)).then(|| format!("{base:?} is not called by nobody"))
    }
}
