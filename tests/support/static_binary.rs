//! The static binary, as `scripts/build-static` builds it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Where it is; `STUCKSPY_STATIC` names one that is to be used instead.
///
/// # Panics
///
/// When it can not be built.
pub fn static_binary() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        if let Some(path) = env::var_os("STUCKSPY_STATIC") {
            return path.into();
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/build-static");
        let output = Command::new(script).output().expect("it can be started");
        assert!(output.status.success(), "{output:?}");
        let path = String::from_utf8(output.stdout).expect("a path in UTF-8");
        PathBuf::from(path.trim_end())
    })
}
