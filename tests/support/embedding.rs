//! Builds the C program that embeds Python; what an interpreter lacks for that is told, not guessed.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::interpreter::Interpreter;
use super::program;

/// Compiles `embed.c` against this interpreter into `folder`; `Ok(Err(why))` when it has nothing to build with.
pub fn build(interpreter: &Interpreter, folder: &Path) -> Result<Result<PathBuf, String>, String> {
    let Some(config) = find_config(interpreter) else {
        return Ok(Err("has no python-config".to_owned()));
    };
    let ask = |arguments: &[&str]| {
        let output = Command::new(&config).args(arguments).output().ok()?;
        let answer = String::from_utf8(output.stdout).ok()?;
        let words = answer.split_whitespace().map(str::to_owned);
        output.status.success().then(|| words.collect::<Vec<_>>())
    };
    let Some(flags) = ask(&["--cflags"]) else {
        return Err(format!("{}: --cflags fails", config.display()));
    };
    // Before 3.8 the option is not known, and not needed.
    let Some(libraries) = ask(&["--ldflags", "--embed"]).or_else(|| ask(&["--ldflags"])) else {
        return Err(format!("{}: --ldflags fails", config.display()));
    };
    let program = folder.join("embed");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let output = Command::new(compiler)
        .arg("-o")
        .arg(&program)
        .arg(program::folder().join("embed.c"))
        .args(flags)
        .args(libraries)
        .arg(format!("-Wl,-rpath,{}/lib", interpreter.prefix.display()))
        .output()
        .map_err(|error| format!("run the C compiler: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "compile embed.c:\n{}",
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    Ok(Ok(program))
}

/// The `pythonX.Y-config` beside the interpreter.
fn find_config(interpreter: &Interpreter) -> Option<PathBuf> {
    let folder = interpreter.path.parent()?;
    let version = interpreter.version;
    ["t", "m", ""]
        .iter()
        .filter(|&&flag| interpreter.is_free_threaded == (flag == "t"))
        .map(|flag| folder.join(format!("python{version}{flag}-config")))
        .find(|path| path.exists())
}
