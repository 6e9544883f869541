//! Finds the CPython interpreters on this machine; it runs nothing but their version check.
//!
//! `STUCKSPY_REQUIRE` (for example `2.7,3.6,debian-3.11,3.13t`) makes a missing one a failure, `STUCKSPY_ONLY` restricts a run to some.

use std::collections::BTreeSet;
use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use super::report_skipped;

/// What a complete run has; those that are not found are named as skipped.
const SUPPORTED: [&str; 14] = [
    "2.7",
    "3.6",
    "3.7",
    "3.8",
    "3.9",
    "3.10",
    "3.11",
    "3.12",
    "3.13",
    "3.14",
    "3.15",
    "3.13t",
    "3.14t",
    "debian-3.11",
];

/// Prints version, free-threadedness and whether libpython is a shared library.
const PROBE: &str = "import sys; v = sys.version_info; maps = open('/proc/self/maps').read(); \
    sys.stdout.write('%d %d %d %d %d %s' % (v[0], v[1], v[2], 't' in getattr(sys, 'abiflags', ''), 'libpython' in maps, sys.prefix))";

/// Where an interpreter comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    Pyenv,
    Debian,
    Cache,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Origin::Pyenv => "pyenv",
            Origin::Debian => "debian",
            Origin::Cache => "cache",
        })
    }
}

/// Major and minor version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: u8,
    pub minor: u8,
}

impl Version {
    /// Parses `3.11`.
    pub fn parse(text: &str) -> Option<Version> {
        let (major, minor) = text.split_once('.')?;
        Some(Version {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// One CPython interpreter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interpreter {
    pub version: Version,
    pub patch: u8,
    pub is_free_threaded: bool,
    pub origin: Origin,
    pub path: PathBuf,
    pub prefix: PathBuf,
    /// For people: `3.11.7 (pyenv, shared)`.
    pub label: String,
}

impl Interpreter {
    /// Is it meant by `3.11`, `3.11.7`, `3.13t` or one of these with the origin before it, as in `debian-3.11`?
    fn is_meant_by(&self, name: &str) -> bool {
        let flag = if self.is_free_threaded { "t" } else { "" };
        let short = format!("{}{flag}", self.version);
        let full = format!("{}.{}{flag}", self.version, self.patch);
        let version = match name.split_once('-') {
            Some((origin, _)) if origin != self.origin.to_string() => return false,
            Some((_, version)) => version,
            None => name,
        };
        version == short || version == full
    }
}

/// All interpreters found, oldest first.
///
/// # Panics
///
/// When one that `STUCKSPY_REQUIRE` names is missing.
pub fn interpreters() -> &'static [Interpreter] {
    static FOUND: OnceLock<Vec<Interpreter>> = OnceLock::new();
    FOUND.get_or_init(|| {
        let mut found = probe(candidates());
        let is_found = |name: &str| found.iter().any(|one| one.is_meant_by(name));
        let required = names_in("STUCKSPY_REQUIRE");
        let missing: Vec<_> = required.iter().filter(|name| !is_found(name)).collect();
        assert!(
            missing.is_empty(),
            "STUCKSPY_REQUIRE names interpreters that are not here: {missing:?}; found: {:?}",
            found.iter().map(|one| &one.label).collect::<Vec<_>>()
        );
        for name in SUPPORTED.iter().filter(|name| !is_found(name)) {
            report_skipped(&format!("python {name}"), "not found");
        }
        let only = names_in("STUCKSPY_ONLY");
        if !only.is_empty() {
            found.retain(|one| only.iter().any(|name| one.is_meant_by(name)));
        }
        assert!(!found.is_empty(), "no Python to test with");
        found
    })
}

/// The comma-separated names in an environment variable.
fn names_in(variable: &str) -> Vec<String> {
    let value = env::var(variable).unwrap_or_default();
    value
        .split(',')
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .collect()
}

/// Paths that may be interpreters, without those that are the same file.
fn candidates() -> Vec<(Origin, PathBuf)> {
    let home = env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
    let folder =
        |variable: &str, default: PathBuf| env::var_os(variable).map_or(default, PathBuf::from);
    let pyenv = folder("PYENV_ROOT", home.join(".pyenv")).join("versions");
    let caches = folder("XDG_CACHE_HOME", home.join(".cache"));
    let cache = folder("STUCKSPY_PYTHONS", caches.join("stuckspy/pythons"));

    let mut paths = Vec::new();
    for version in entries(&pyenv) {
        paths.push((Origin::Pyenv, version.join("bin/python")));
    }
    for path in entries(Path::new("/usr/bin")) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name
            .strip_prefix("python")
            .is_some_and(|version| Version::parse(version).is_some())
        {
            paths.push((Origin::Debian, path));
        }
    }
    for version in entries(&cache) {
        let mut name = std::ffi::OsString::from("python");
        name.push(version.file_name().unwrap_or_default());
        paths.push((Origin::Cache, version.join("bin").join(name)));
    }

    let mut seen = BTreeSet::new();
    paths.retain(|(_, path)| path.canonicalize().is_ok_and(|real| seen.insert(real)));
    paths
}

/// A folder's entries, sorted; none when it can not be read.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    paths
}

/// Asks all candidates at once what they are. One that does not answer as a supported CPython is named as skipped.
fn probe(candidates: Vec<(Origin, PathBuf)>) -> Vec<Interpreter> {
    let asked: Vec<_> = candidates
        .into_iter()
        .map(|(origin, path)| {
            let child = Command::new(&path)
                .args(["-S", "-E", "-c", PROBE])
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn();
            (origin, path, child)
        })
        .collect();
    let mut found = Vec::new();
    for (origin, path, child) in asked {
        match child.ok().and_then(|child| describe(origin, &path, child)) {
            Some(interpreter) => found.push(interpreter),
            None => report_skipped(&path.display().to_string(), "does not run"),
        }
    }
    found.sort();
    found
}

/// Reads the probe's answer.
fn describe(origin: Origin, path: &Path, child: Child) -> Option<Interpreter> {
    let output = child.wait_with_output().ok()?;
    let answer = String::from_utf8(output.stdout).ok()?;
    let fields: Vec<_> = answer.splitn(6, ' ').collect();
    let &[major, minor, patch, is_free_threaded, is_shared, prefix] = fields.as_slice() else {
        return None;
    };
    let version = Version {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
    };
    let patch = patch.parse().ok()?;
    let flag = if is_free_threaded == "1" { "t" } else { "" };
    let linking = if is_shared == "1" { "shared" } else { "static" };
    Some(Interpreter {
        version,
        patch,
        is_free_threaded: is_free_threaded == "1",
        origin,
        path: path.to_owned(),
        prefix: PathBuf::from(prefix),
        label: format!("{version}.{patch}{flag} ({origin}, {linking})"),
    })
}
