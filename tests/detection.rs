//! Python is found, and its stacks are right, wherever it lies: shared, static, stripped, deleted, elsewhere, embedded, renamed.

mod support;

#[path = "support/live.rs"]
mod live;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use live::{ask_about, field, find_tool, is_root};
use serde::Deserialize;
use serde_json::Value;
use support::comparison::differences;
use support::dump::DumpedProcess;
use support::fixture::{Fixture, Started};
use support::interpreter::{Interpreter, Origin};
use support::program::Program;
use support::truth::Truth;
use tempfile::TempDir;

const ALL: &[&str] = &[
    "dynamic-symbol",
    "static-symbol",
    "section",
    "cookie",
    "scan",
];

type Outcome = Result<Option<String>, String>;

/// Dumps a process and compares version, method and all stacks with the truth; gives the runtime's description.
fn check_process(
    pid: i32,
    truth: &Truth,
    interpreter: &Interpreter,
    methods: &[&str],
) -> Result<Value, String> {
    let answer = ask_about("dump", pid, &["--json"]);
    if answer.code != Some(0) {
        return Err(format!("{answer:?}"));
    }
    let mut document = answer.json();
    let process = document["processes"][0].take();
    let runtime = process["runtime"].clone();
    let mut failures = Vec::new();
    let version = format!("{}.{}", interpreter.version, interpreter.patch);
    if runtime["version"] != version.as_str() {
        failures.push(format!("version {} of {version}", runtime["version"]));
    }
    if runtime["free_threaded"] != interpreter.is_free_threaded {
        failures.push(format!("free-threaded: {}", runtime["free_threaded"]));
    }
    if !methods.contains(&runtime["found_by"].as_str().unwrap_or_default()) {
        failures.push(format!(
            "found by {}, not by {methods:?}",
            runtime["found_by"]
        ));
    }
    if process["errors"] != Value::Array(Vec::new()) {
        failures.push(format!("errors: {}", process["errors"]));
    }
    let process = DumpedProcess::deserialize(process).map_err(|error| error.to_string())?;
    failures.extend(differences(truth, &process));
    if failures.is_empty() {
        Ok(runtime)
    } else {
        Err(failures.join("\n"))
    }
}

/// Starts `program` under `interpreter`; `meddle` comes between its being ready and its being looked at, and may correct the truth.
fn check_with(
    program: &Program,
    interpreter: &Interpreter,
    methods: &[&str],
    meddle: impl FnOnce(&mut Truth),
) -> Outcome {
    let mut fixture = match Fixture::start(program, interpreter)? {
        Started::Ready(fixture) => fixture,
        Started::Skipped(why) => return Ok(Some(why)),
    };
    meddle(&mut fixture.truth);
    let mut failures = Vec::new();
    let checked = check_process(fixture.pid(), &fixture.truth, interpreter, methods);
    failures.extend(checked.err());
    failures.extend(fixture.assert_unharmed().err());
    failures.extend(fixture.finish().err());
    if failures.is_empty() {
        Ok(None)
    } else {
        Err(failures.join("\n"))
    }
}

fn check(interpreter: &Interpreter, methods: &[&str]) -> Outcome {
    check_with(&Program::load("nested"), interpreter, methods, |_| {})
}

/// The interpreter with another path.
fn at(path: PathBuf, interpreter: &Interpreter) -> Interpreter {
    Interpreter {
        path,
        ..interpreter.clone()
    }
}

/// Writes an executable script.
fn write_script(path: &Path, text: &str) {
    fs::write(path, text).expect("a temporary folder can be written to");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("it is ours");
}

/// An interpreter that is started by a script: `{python}` stands for the real one with its arguments.
fn by_script(folder: &Path, interpreter: &Interpreter, text: &str) -> Interpreter {
    let path = folder.join("start");
    let python = format!("'{}' \"$@\"", interpreter.path.display());
    write_script(
        &path,
        &format!("#!/bin/sh\nset -e\n{}\n", text.replace("{python}", &python)),
    );
    at(path, interpreter)
}

/// The shared libpython that an interpreter uses; none when it is static.
fn find_libpython(interpreter: &Interpreter) -> Option<PathBuf> {
    let program = "print([line.split(None, 5)[5].strip() for line in open('/proc/self/maps') if 'libpython' in line][:1])";
    let output = Command::new(&interpreter.path)
        .args(["-S", "-E", "-c", program])
        .output()
        .ok()?;
    let answer = String::from_utf8(output.stdout).ok()?;
    let path = answer.trim().strip_prefix("['")?.strip_suffix("']")?;
    Some(PathBuf::from(path))
}

/// A copy of an interpreter's program and library, which uses the standard library of the original.
struct Copied {
    interpreter: Interpreter,
    files: Vec<PathBuf>,
    folder: TempDir,
}

fn copy(interpreter: &Interpreter, name: &str) -> Copied {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = folder.path().join(name);
    let real = interpreter.path.canonicalize().expect("it runs");
    fs::copy(real, &program).expect("there is room");
    let mut files = vec![program.clone()];
    if let Some(library) = find_libpython(interpreter) {
        let copied = folder.path().join(library.file_name().expect("a file"));
        fs::copy(&library, &copied).expect("there is room");
        files.push(copied);
    }
    let start = folder.path().join("start");
    // The loader looks into LD_LIBRARY_PATH before the RUNPATH, but after an old RPATH: LD_PRELOAD settles both.
    let preload = files.get(1).map_or_else(String::new, |library| {
        format!("LD_PRELOAD='{}' ", library.display())
    });
    write_script(
        &start,
        &format!(
            "#!/bin/sh\nexec env {preload}PYTHONHOME='{}' '{}' \"$@\"\n",
            interpreter.prefix.display(),
            program.display()
        ),
    );
    Copied {
        interpreter: at(start, interpreter),
        files,
        folder,
    }
}

/// Why a copy can not be used, if it does not run: what was done to it is more than its loader bears.
fn find_damage(interpreter: &Interpreter) -> Option<String> {
    let program = "import encodings, json, linecache, os, threading, time, traceback";
    let output = Command::new(&interpreter.path)
        .args(["-S", "-c", program])
        .output();
    match output {
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            let last = stderr.lines().last().unwrap_or_default();
            Some(format!("the copy does not run: {last}"))
        }
        Err(error) => Some(format!("the copy does not run: {error}")),
    }
}

#[test]
fn as_installed() {
    support::for_each_interpreter("as installed", |interpreter| {
        let methods: &[&str] = if (interpreter.version.major, interpreter.version.minor) < (3, 7) {
            &["static-symbol", "scan"]
        } else {
            &["dynamic-symbol"]
        };
        check(interpreter, methods)
    });
}

#[test]
fn static_and_stripped() {
    support::for_each_interpreter("static and stripped", |interpreter| {
        if interpreter.origin != Origin::Debian {
            return Ok(Some("is not from Debian".to_owned()));
        }
        if find_libpython(interpreter).is_some() {
            return Ok(Some("is shared".to_owned()));
        }
        check(interpreter, ALL)
    });
}

#[test]
fn renamed() {
    support::for_each_interpreter("renamed", |interpreter| {
        check(&copy(interpreter, "worker").interpreter, ALL)
    });
}

#[test]
fn stripped_of_all_names() {
    let Some(strip) = find_tool("strip") else {
        return;
    };
    support::for_each_interpreter("stripped", |interpreter| {
        let copied = copy(interpreter, "worker");
        let output = Command::new(&strip)
            .arg("--strip-all")
            .args(&copied.files)
            .output()
            .map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        if let Some(why) = find_damage(&copied.interpreter) {
            return Ok(Some(why));
        }
        // `interp_head` is static: without a symbol table only what it points to can be found.
        let methods: &[&str] = if (interpreter.version.major, interpreter.version.minor) < (3, 7) {
            &["scan"]
        } else {
            &["dynamic-symbol"]
        };
        check(&copied.interpreter, methods)
    });
}

/// Static builds in which one name after another is overwritten, so that the next method has to do.
#[test]
fn without_the_names_that_usually_lead_to_it() {
    support::for_each_interpreter("without names", |interpreter| {
        if find_libpython(interpreter).is_some() {
            return Ok(Some("is shared: its own parts need the name".to_owned()));
        }
        let copied = copy(interpreter, "worker");
        let has_offsets = (interpreter.version.major, interpreter.version.minor) >= (3, 13);
        let last = if has_offsets { "cookie" } else { "scan" };
        // The section is there from 3.11 on.
        let steps: [(&[u8], &[u8], &[&str]); 2] = [
            (b"\0_PyRuntime\0", b"\0_PyRuntimX\0", &["section", last]),
            (b"\0.PyRuntime\0", b"\0.PyRuntimX\0", &[last]),
        ];
        for (name, other, methods) in steps {
            let program = &copied.files[0];
            let mut bytes = fs::read(program).map_err(|error| error.to_string())?;
            overwrite(&mut bytes, name, other);
            fs::write(program, bytes).map_err(|error| error.to_string())?;
            if let Some(why) = find_damage(&copied.interpreter) {
                return Ok(Some(why));
            }
            let outcome = check(&copied.interpreter, methods)?;
            if outcome.is_some() {
                return Ok(outcome);
            }
        }
        Ok(None)
    });
}

/// Puts `other` wherever `name` is.
fn overwrite(bytes: &mut [u8], name: &[u8], other: &[u8]) {
    let places: Vec<_> = (0..bytes.len().saturating_sub(name.len()))
        .filter(|&at| bytes[at..].starts_with(name))
        .collect();
    for at in places {
        bytes[at..at + other.len()].copy_from_slice(other);
    }
}

#[test]
fn deleted_while_it_runs() {
    support::for_each_interpreter("deleted", |interpreter| {
        let copied = copy(interpreter, "worker");
        check_with(
            &Program::load("nested"),
            &copied.interpreter,
            ALL,
            |_truth| {
                for file in &copied.files {
                    fs::remove_file(file).expect("it is ours");
                }
            },
        )
    });
}

/// As after an upgrade: other files of the same names lie where the running ones lay.
#[test]
fn replaced_while_it_runs() {
    support::for_each_interpreter("replaced", |interpreter| {
        let copied = copy(interpreter, "worker");
        check_with(
            &Program::load("nested"),
            &copied.interpreter,
            ALL,
            |_truth| {
                let other = fs::read("/proc/self/exe").expect("our own program");
                for file in &copied.files {
                    let new = copied.folder.path().join("new");
                    fs::write(&new, &other).expect("there is room");
                    fs::rename(&new, file).expect("it is ours");
                }
            },
        )
    });
}

/// A FIFO where the file lay: opening it would block for ever.
#[test]
fn replaced_by_a_fifo_while_it_runs() {
    support::for_each_interpreter("replaced by a FIFO", |interpreter| {
        let copied = copy(interpreter, "worker");
        check_with(
            &Program::load("nested"),
            &copied.interpreter,
            ALL,
            |_truth| {
                for file in &copied.files {
                    fs::remove_file(file).expect("it is ours");
                    let made = Command::new("mkfifo").arg(file).status();
                    assert!(made.is_ok_and(|status| status.success()));
                }
            },
        )
    });
}

#[test]
fn in_a_mount_namespace_where_its_paths_are_hidden_from_us() {
    if !is_root("another mount namespace") {
        return;
    }
    let Some(_) = find_tool("unshare") else {
        return;
    };
    support::for_each_interpreter("another mount namespace", |interpreter| {
        let copied = copy(interpreter, "worker");
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        // Its files lie in a file system that only it has mounted; for us the folder is empty.
        let hidden = folder.path().join("hidden");
        fs::create_dir(&hidden).map_err(|error| error.to_string())?;
        let preload = if copied.files.len() > 1 {
            let name = copied.files[1].file_name().expect("a file");
            format!("LD_PRELOAD={}/{} ", hidden.display(), name.display())
        } else {
            String::new()
        };
        let start = folder.path().join("start");
        let text = format!(
            "#!/bin/sh\nexec unshare --mount sh -ec 'mount -t tmpfs none {0}\ncp {1} {0}\nexec env {preload}PYTHONHOME={2} {0}/worker \"$@\"' sh \"$@\"\n",
            hidden.display(),
            copied
                .files
                .iter()
                .map(|file| file.display().to_string())
                .collect::<Vec<_>>()
                .join(" "),
            interpreter.prefix.display(),
        );
        write_script(&start, &text);
        let outcome = check(&at(start, interpreter), ALL);
        assert!(fs::read_dir(&hidden).is_ok_and(|mut entries| entries.next().is_none()));
        outcome
    });
}

#[test]
fn below_another_root() {
    if !is_root("another root") {
        return;
    }
    let (Some(_), Some(_)) = (find_tool("unshare"), find_tool("chroot")) else {
        return;
    };
    support::for_each_interpreter("another root", |interpreter| {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let root = folder.path().join("root");
        fs::create_dir(&root).map_err(|error| error.to_string())?;
        // The whole machine, mounted again below a folder: paths look right and are none of ours.
        let text = format!(
            "exec unshare --mount sh -ec 'mount --rbind / {0}\nexec chroot {0} \"$@\"' sh {{python}}",
            root.display()
        );
        check(&by_script(folder.path(), interpreter, &text), ALL)
    });
}

/// The number of a thread in our pid namespace, by the one that it has in its own.
fn translate(truth: &mut Truth, outer: i32) {
    let entries = fs::read_dir(format!("/proc/{outer}/task")).expect("it lives");
    let pairs: Vec<(i32, i32)> = entries
        .flatten()
        .map(|entry| {
            let status = fs::read_to_string(entry.path().join("status")).expect("it lives");
            let number = |name| {
                let numbers = field(&status, name).split_whitespace();
                numbers
                    .last()
                    .and_then(|number| number.parse().ok())
                    .expect("a number")
            };
            (number("NSpid"), number("Pid"))
        })
        .collect();
    let find = |inner: i32| {
        pairs
            .iter()
            .find(|pair| pair.0 == inner)
            .expect("a thread")
            .1
    };
    truth.pid = outer;
    truth.reporter = find(truth.reporter);
    for account in &mut truth.threads {
        account.tid = find(account.tid);
    }
}

#[test]
fn in_another_pid_namespace() {
    if !is_root("another pid namespace") {
        return;
    }
    let Some(_) = find_tool("unshare") else {
        return;
    };
    support::for_each_interpreter("another pid namespace", |interpreter| {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let note = folder.path().join("pid");
        let text = format!(
            "echo $$ > '{}'\nexec unshare --pid --fork --kill-child --mount-proc -- {{python}}",
            note.display()
        );
        let interpreter = by_script(folder.path(), interpreter, &text);
        for name in ["nested", "threads"] {
            let outcome = check_with(&Program::load(name), &interpreter, ALL, |truth| {
                assert_eq!(truth.pid, 1, "it is the first of its namespace");
                let parent = fs::read_to_string(&note).expect("the script wrote it");
                let parent = parent.trim();
                let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
                let child = children.expect("it lives").trim().parse();
                translate(truth, child.expect("one child"));
            })?;
            if outcome.is_some() {
                return Ok(outcome);
            }
        }
        Ok(None)
    });
}

#[test]
fn embedded_in_a_program() {
    support::for_each_interpreter("embedded", |interpreter| {
        check_with(&Program::load("embedded"), interpreter, ALL, |_| {})
    });
}

#[test]
fn through_a_virtual_environment() {
    support::for_each_interpreter("a virtual environment", |interpreter| {
        if interpreter.version.major < 3 {
            return Ok(Some("has no venv".to_owned()));
        }
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let environment = folder.path().join("environment");
        let output = Command::new(&interpreter.path)
            .args(["-m", "venv", "--without-pip"])
            .arg(&environment)
            .output()
            .map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Ok(Some("its venv module does not work".to_owned()));
        }
        let inside = at(environment.join("bin/python"), interpreter);
        match find_damage(&inside) {
            Some(why) => Ok(Some(why)),
            None => check(&inside, ALL),
        }
    });
}

#[test]
fn as_a_console_script() {
    support::for_each_interpreter("a console script", |interpreter| {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        // As an installer writes it: the program is started by its own name.
        let source = fs::read_to_string(&Program::load("nested").path);
        let source = source.map_err(|error| error.to_string())?;
        let script = folder.path().join("airflow");
        write_script(
            &script,
            &format!("#!{}\n{source}", interpreter.path.display()),
        );
        let truth = Program::load("nested").path.with_file_name("_truth.py");
        symlink(truth, folder.path().join("_truth.py")).map_err(|error| error.to_string())?;
        // The harness starts an interpreter with a program: a script that drops the program.
        let text = format!("exec '{}'", script.display());
        check(&by_script(folder.path(), interpreter, &text), ALL)
    });
}
