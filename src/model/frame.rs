//! One call on a stack, and stacks of calls.

use std::sync::Arc;

use serde::Serialize;

use super::value::Local;

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
    /// The line that the function begins with (`co_firstlineno`).
    #[serde(skip)]
    pub first_line: Option<u32>,
    /// `__name__` of the module that the code belongs to.
    pub module: Option<Arc<str>>,
    /// What it is a call of.
    pub kind: FrameKind,
    /// Its arguments and local variables, where they were asked for and there was room for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locals: Option<Arc<[Local]>>,
}

/// A stack, innermost first. Frames that are the same call of the same line are one, wherever they occur.
pub type CallStack = Arc<[Arc<Frame>]>;

impl Frame {
    /// A frame that says `text` of the stack at this place.
    pub fn marker(text: &str) -> Frame {
        Frame {
            function: text.into(),
            file: "".into(),
            line: None,
            first_line: None,
            module: None,
            kind: FrameKind::Marker,
            locals: None,
        }
    }

    /// Whether it is the same call, whatever its variables are.
    pub fn is_same_call(&self, other: &Frame) -> bool {
        let call = |frame: &Frame| (frame.line, frame.first_line, frame.kind);
        call(self) == call(other)
            && self.function == other.function
            && self.file == other.file
            && self.module == other.module
    }

    /// The function with its short file and line: `recv (socket.py:706)`.
    pub fn place(&self) -> String {
        match self.line {
            Some(line) => format!("{} ({}:{line})", self.function, self.short_file()),
            None => format!("{} ({})", self.function, self.short_file()),
        }
    }

    /// The end of the file's path that the module's name stands for: `OpenSSL/SSL.py` of `/usr/lib/…/OpenSSL/SSL.py` in
    /// module `OpenSSL.SSL`. The whole path when they don't match, as in `__main__`.
    pub fn short_file(&self) -> &str {
        let Some(module) = &self.module else {
            return &self.file;
        };
        let expected = module.replace('.', "/");
        for ending in [
            format!("/{expected}.py"),
            format!("/{expected}/__init__.py"),
        ] {
            if self.file.ends_with(&ending) {
                return &self.file[self.file.len() - ending.len() + 1..];
            }
        }
        &self.file
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_shown_by_their_module() {
        let short = |file: &str, module: Option<&str>| {
            let frame = Frame {
                file: file.into(),
                module: module.map(Into::into),
                ..Frame::marker("f")
            };
            frame.short_file().to_owned()
        };
        assert_eq!(
            short("/usr/lib/python3/OpenSSL/SSL.py", Some("OpenSSL.SSL")),
            "OpenSSL/SSL.py"
        );
        assert_eq!(
            short("/usr/lib/python3/json/__init__.py", Some("json")),
            "json/__init__.py"
        );
        assert_eq!(short("/srv/app.py", Some("__main__")), "/srv/app.py");
        assert_eq!(short("/srv/app.py", None), "/srv/app.py");
        assert_eq!(short("notjson.py", Some("json")), "notjson.py");
    }
}
