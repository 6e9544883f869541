//! File systems that do not answer: stuckspy answers in time and ends, whatever hangs around it. On a FUSE of its own
//! (`fixtures/hostile/silent_file_system.py`).

mod support;

#[path = "support/live.rs"]
mod live;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use live::{Target, ask, ask_about, hostile, is_root, wait_until};
use support::interpreter::{Interpreter, interpreters};
use support::report_skipped;
use tempfile::TempDir;

/// Longer than any answer may take here: a deadline of a second, and what a loaded machine adds.
const IN_TIME: Duration = Duration::from_secs(8);
const DEADLINE: [&str; 2] = ["--deadline", "1s"];
const SLEEPER: &str = "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(1000)\n";
const BUSY: &str = "import os\nprint(os.getpid(), flush=True)\nwhile True: pass\n";
const SEMAPHORE: &str = "\
import ctypes, multiprocessing, os
semaphore = multiprocessing.get_context('fork').Semaphore(0)
def wait():
    ctypes.CDLL(None).prctl(1, 9)  # it ends with its parent
    semaphore.acquire()
multiprocessing.get_context('fork').Process(target=wait).start()
print(os.getpid(), flush=True)
semaphore.acquire()
";

/// A file system that has one file, and can be silent.
struct SilentFileSystem {
    daemon: Option<Target>,
    folder: TempDir,
}

impl SilentFileSystem {
    /// `None` where the machine does not let us mount one; that is named.
    fn with(file: &Path) -> Option<SilentFileSystem> {
        let what = "file systems that do not answer";
        if !is_root(what) {
            return None;
        }
        if fs::File::open("/dev/fuse").is_err() {
            report_skipped(what, "no /dev/fuse");
            return None;
        }
        let folder = TempDir::with_prefix("stuckspy-").expect("a temporary folder");
        for part in ["mount", "files"] {
            fs::create_dir(folder.path().join(part)).expect("a new folder");
        }
        let name = file.file_name().expect("a file");
        fs::copy(file, folder.path().join("files").join(name)).expect("it can be copied");
        let mut command = Command::new("python3");
        command
            .arg(hostile("silent_file_system.py"))
            .args([folder.path().join("mount"), folder.path().join("files")]);
        let mut daemon = Target::start(&mut command);
        if daemon.line() != "ready" {
            report_skipped(what, "FUSE can not be mounted here");
            return None;
        }
        Some(SilentFileSystem {
            daemon: Some(daemon),
            folder,
        })
    }

    fn path(&self, file: &Path) -> PathBuf {
        let name = file.file_name().expect("a file");
        self.folder.path().join("mount").join(name)
    }

    fn be(&mut self, word: &str) {
        let daemon = self.daemon.as_mut().expect("it runs");
        daemon.say(word);
        assert_eq!(daemon.line(), word);
    }
}

impl Drop for SilentFileSystem {
    fn drop(&mut self) {
        // It unmounts when its input closes; whoever is still waiting then gets an error.
        if let Some(daemon) = self.daemon.take() {
            daemon.finish();
        }
    }
}

/// An interpreter whose symbols have to be read from the file of its library, and that library.
fn with_library() -> Option<(&'static Interpreter, PathBuf)> {
    let mut found = interpreters().iter().filter_map(|one| {
        let is_old = one.version.major == 3 && one.version.minor == 6;
        let library = Path::new(&one.prefix).join("lib/libpython3.6m.so.1.0");
        (is_old && library.is_file()).then_some((one, library))
    });
    let found = found.next();
    if found.is_none() {
        report_skipped(
            "a library on a silent file system",
            "no CPython 3.6 with a shared library",
        );
    }
    found
}

/// Processes that run our binary, but for `known`, other than as zombies.
fn runs_of_ours() -> Vec<i32> {
    let ours = fs::canonicalize(env!("CARGO_BIN_EXE_stuckspy")).expect("it is there");
    let entries = fs::read_dir("/proc").expect("a /proc").flatten();
    let pids = entries.filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let parent = fs::read_to_string(entry.path().join("status")).ok()?;
        let is_mine = live::field(&parent, "PPid") == std::process::id().to_string();
        let program = fs::read_link(entry.path().join("exe")).ok()?;
        (program == ours && is_mine).then_some(pid)
    });
    pids.collect()
}

#[test]
fn a_library_that_can_not_be_read_is_left_out_in_time() {
    let Some((interpreter, library)) = with_library() else {
        return;
    };
    let Some(mut system) = SilentFileSystem::with(&library) else {
        return;
    };
    let mut command = Command::new(&interpreter.path);
    command
        .args(["-c", SLEEPER])
        .env("PYTHONHOME", &interpreter.prefix)
        .env("LD_PRELOAD", system.path(&library));
    let (mut target, pid) = Target::start_and_listen(&mut command);
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("it can be read");
    assert!(maps.contains(system.path(&library).to_str().expect("a text")));
    ask_about("dump", target.pid(), &DEADLINE).expect(0);

    system.be("silent");
    for command in ["dump", "diagnose"] {
        let answer = ask_about(command, target.pid(), &DEADLINE).expect(5);
        assert!(answer.took < IN_TIME, "{answer:#?}");
        assert!(
            answer.stdout.contains("the kernel did not answer within"),
            "{answer:#?}"
        );
    }
    // The kernel's own view is there all the same.
    let answer = ask_about("dump", target.pid(), &DEADLINE);
    assert!(answer.stdout.contains("waits"), "{answer:#?}");
    // Whoever reads the other end of a pipe is not left waiting either: the output was read to its end.
    assert_eq!(runs_of_ours(), Vec::<i32>::new());
    system.be("answer");
    ask_about("dump", target.pid(), &DEADLINE).expect(0);
    target.assert_unharmed();
}

#[test]
fn strangers_on_a_silent_file_system_cost_nothing() {
    let interpreter = live::any_interpreter();
    let Some(mut system) = SilentFileSystem::with(&interpreter.path) else {
        return;
    };
    let prefix = Path::new(&interpreter.prefix);
    let strangers: Vec<_> = (0..4)
        .map(|_| {
            let mut command = Command::new(system.path(&interpreter.path));
            command
                .args(["-c", SLEEPER])
                .env("PYTHONHOME", prefix)
                .env("LD_LIBRARY_PATH", prefix.join("lib"));
            Target::start_and_listen(&mut command).0
        })
        .collect();
    let (target, _) =
        Target::start_and_listen(Command::new(&interpreter.path).args(["-c", SEMAPHORE]));
    system.be("silent");
    let options = ["--threshold", "200ms", "--window", "0"];
    wait_until("both wait for the semaphore", || {
        let answer = ask_about("diagnose", target.pid(), &options);
        assert!(answer.took < IN_TIME, "{answer:#?}");
        answer.code == Some(1) && answer.stdout.contains("shared semaphore")
    });
    system.be("answer");
    drop(strangers);
}

#[test]
fn stuckspy_ends_by_the_signal_that_is_sent_to_it() {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use std::os::unix::process::ExitStatusExt;
    let (mut target, _) =
        Target::start_and_listen(Command::new(&live::any_interpreter().path).args(["-c", BUSY]));
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let mut run = Command::new(env!("CARGO_BIN_EXE_stuckspy"))
            .args([
                "diagnose",
                "--window",
                "600s",
                "--pid",
                &target.pid().to_string(),
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("stuckspy can be started");
        let supervisor = run.id().cast_signed();
        wait_until("it has a worker", || live::worker_of(supervisor).is_some());
        let worker = live::worker_of(supervisor).expect("it has one");
        kill(Pid::from_raw(supervisor), signal).expect("it is our own child");
        let status = run.wait().expect("it is our own child");
        assert_eq!(status.signal(), Some(signal as i32));
        live::wait_until_ended(worker);
    }
    target.assert_unharmed();
}

#[test]
fn exit_codes_come_through() {
    let nobody = i32::MAX.to_string();
    ask(&["dump", "--pid", &nobody]).expect(3);
    ask(&["dump", "--deadline", "1ms", "--pid", "1"]).expect(2);
}
