//! The fixture programs and what their headers ask for.

use std::fs;
use std::path::{Path, PathBuf};

use super::interpreter::{Interpreter, Version};

/// One program of `fixtures/programs`.
#[derive(Clone, Debug)]
pub struct Program {
    pub name: String,
    pub path: PathBuf,
    /// Interpreter options (`# options: -S`).
    pub options: Vec<String>,
    /// It runs inside `embed.c` (`# run: embed`).
    pub is_embedded: bool,
    at_least: Option<Version>,
    below: Option<Version>,
}

impl Program {
    /// Reads a program's header.
    ///
    /// # Panics
    ///
    /// When there is no such program or its header can not be understood: both are mistakes in the tests.
    pub fn load(name: &str) -> Program {
        let path = folder().join(format!("{name}.py"));
        let source =
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut program = Program {
            name: name.to_owned(),
            path,
            options: Vec::new(),
            is_embedded: false,
            at_least: None,
            below: None,
        };
        for line in source.lines().take_while(|line| line.starts_with('#')) {
            let Some((key, value)) = line.trim_start_matches('#').split_once(':') else {
                continue;
            };
            match (key.trim(), value.trim()) {
                ("requires", versions) => program.require(versions),
                ("options", options) => {
                    program.options = options.split_whitespace().map(str::to_owned).collect();
                }
                ("run", "embed") => program.is_embedded = true,
                _ => {}
            }
        }
        program
    }

    fn require(&mut self, versions: &str) {
        for condition in versions.split(',').map(str::trim) {
            let (bound, version) = match condition.strip_prefix('<') {
                Some(version) => (&mut self.below, version),
                None => (&mut self.at_least, condition),
            };
            *bound = Some(Version::parse(version).unwrap_or_else(|| {
                panic!("{}: can not understand `# requires: {versions}`", self.name)
            }));
        }
    }

    /// Why it can not run under this interpreter, if so.
    pub fn find_obstacle(&self, interpreter: &Interpreter) -> Option<String> {
        if let Some(version) = self.at_least.filter(|&least| interpreter.version < least) {
            return Some(format!("needs {version}"));
        }
        let version = self.below.filter(|&below| interpreter.version >= below)?;
        Some(format!("is for versions before {version}"))
    }
}

/// `fixtures/programs`.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/programs")
}

/// The names of all programs, sorted.
pub fn names() -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder())
        .expect("the fixtures can be listed")
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            let stem = name.strip_suffix(".py")?;
            (!stem.starts_with('_')).then(|| stem.to_owned())
        })
        .collect();
    names.sort();
    names
}
