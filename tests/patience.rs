//! How long `stuckspy diagnose` watches where a person waits at a terminal, and where nobody does.

mod support;

#[path = "support/live.rs"]
mod live;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use live::{Target, any_interpreter, ask_about, find_tool, wait_until};
use support::{program, report_skipped};
use tempfile::TempDir;

/// A request whose answer never comes, or comes; then it has nothing left to do.
const CLIENT: &str = "import socket, sys, time
peer = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
peer.sendall(b'question')
print('asked', flush=True)
peer.recv(1)
sys.stdin.read()";

/// The same beside a thread that never sleeps.
const BUSY: &str = "import threading
def work():
    number = 0
    while True:
        number += 1
threading.Thread(target=work, daemon=True).start()
";

/// A server that takes one connection and keeps it, and its client.
fn start_client() -> (Target, TcpStream) {
    start_client_with("")
}

fn start_client_with(before: &str) -> (Target, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = listener
        .local_addr()
        .expect("it is bound")
        .port()
        .to_string();
    let mut command = Command::new(&any_interpreter().path);
    let code = format!("{before}{CLIENT}");
    command.args(["-S", "-E", "-c", &code, &port]);
    let (target, _) = Target::start_and_listen(&mut command);
    let (connection, _) = listener.accept().expect("it has connected");
    live::wait_until_in_call(target.pid(), syscalls::Sysno::recvfrom);
    (target, connection)
}

/// `stuckspy diagnose` whose standard error is a terminal, in the way of a shell: its answer goes to a file.
struct AtTerminal {
    script: Child,
    keys: ChildStdin,
    screen: Arc<Mutex<String>>,
    folder: TempDir,
    began: Instant,
}

impl AtTerminal {
    /// `None` where there is no terminal to be had.
    fn start(pid: i32, options: &str) -> Option<AtTerminal> {
        if find_tool("script").is_none() {
            report_skipped("a terminal", "no script(1)");
            return None;
        }
        let folder = TempDir::with_prefix("stuckspy-").expect("a temporary folder");
        let command = format!(
            "stty cols 100; exec {} diagnose --pid {pid} {options} >{}",
            env!("CARGO_BIN_EXE_stuckspy"),
            folder.path().join("answer").display()
        );
        let mut script = Command::new("script")
            .args(["--quiet", "--return", "--command", &command, "/dev/null"])
            .env("TERM", "xterm")
            .env("SHELL", "/bin/sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it can be started");
        let screen = Arc::new(Mutex::new(String::new()));
        let shown = Arc::clone(&screen);
        let mut terminal = script.stdout.take().expect("it is piped");
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = terminal.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..count]);
                shown.lock().expect("nobody panics").push_str(&text);
            }
        });
        Some(AtTerminal {
            keys: script.stdin.take().expect("it is piped"),
            script,
            screen,
            folder,
            began: Instant::now(),
        })
    }

    fn screen(&self) -> String {
        self.screen.lock().expect("nobody panics").clone()
    }

    #[track_caller]
    fn wait_for(&self, text: &str) {
        wait_until(text, || self.screen().contains(text));
    }

    fn press_ctrl_c(&mut self) {
        self.keys.write_all(b"\x03").expect("it reads its keys");
    }

    /// Its exit code, its answer, and how long it took.
    fn finish(mut self) -> (Option<i32>, String, Duration) {
        let status = self.script.wait().expect("it is our own child");
        let answer = self.folder.path().join("answer");
        let answer = fs::read_to_string(answer).expect("it was written");
        (status.code(), answer, self.began.elapsed())
    }
}

impl Drop for AtTerminal {
    fn drop(&mut self) {
        // It may have ended already. Its terminal ends with it, and so does what runs there.
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

/// What has been pending for less than the threshold is watched until it is stuck by it.
#[test]
fn a_wait_below_the_threshold_is_watched_up_to_it() {
    let (mut target, _connection) = start_client();
    let options = ["--threshold", "6s"];
    let short = ask_about("diagnose", target.pid(), &options).expect(0);
    assert!(short.took < Duration::from_secs(5), "{short:#?}");
    let Some(terminal) = AtTerminal::start(target.pid(), "--threshold 6s") else {
        return;
    };
    terminal.wait_for("undecided");
    let (code, answer, _) = terminal.finish();
    assert_eq!(code, Some(1), "{answer}");
    assert!(answer.contains("hang-network (likely)"), "{answer}");
    target.assert_unharmed();
}

/// The healthy twin: what is answered meanwhile is no longer waited for, however far away the threshold is.
#[test]
fn a_wait_that_ends_is_not_watched_any_longer() {
    let (mut target, mut connection) = start_client();
    let Some(terminal) = AtTerminal::start(target.pid(), "--threshold 1h") else {
        return;
    };
    terminal.wait_for("undecided");
    connection.write_all(b"answer").expect("it is open");
    let (code, answer, _) = terminal.finish();
    assert_eq!(code, Some(0), "{answer}");
    target.assert_unharmed();
}

#[test]
fn ctrl_c_answers_with_what_is_known() {
    let (mut target, _connection) = start_client();
    let Some(mut terminal) = AtTerminal::start(target.pid(), "--threshold 1h") else {
        return;
    };
    terminal.wait_for("Ctrl-C answers now; undecided");
    terminal.press_ctrl_c();
    let (code, answer, _) = terminal.finish();
    assert_eq!(code, Some(0), "{answer}");
    assert!(answer.contains(&target.pid().to_string()), "{answer}");
    target.assert_unharmed();
    // What has become stuck meanwhile is known.
    let (mut target, _connection) = start_client_with(BUSY);
    let Some(mut terminal) = AtTerminal::start(target.pid(), "--threshold 4s --window 1h") else {
        return;
    };
    // What stands before it is the time that has passed.
    terminal.wait_for(" 5s Ctrl-C answers now");
    terminal.press_ctrl_c();
    let (code, answer, _) = terminal.finish();
    assert_eq!(code, Some(1), "{answer}");
    assert!(answer.contains("hang-network (likely)"), "{answer}");
    target.assert_unharmed();
}

/// A window that is typed is kept, a program that reads the answer does not wait, and neither does a probe.
#[test]
fn only_who_waits_is_kept_waiting() {
    let (mut target, _connection) = start_client();
    for options in [
        "--threshold 1h --window 1s",
        "--threshold 1h --window 0",
        "--threshold 1h --json",
        "--threshold 1h --quiet",
    ] {
        let Some(terminal) = AtTerminal::start(target.pid(), options) else {
            return;
        };
        let (code, answer, took) = terminal.finish();
        assert_eq!(code, Some(0), "{options}: {answer}");
        assert!(took < Duration::from_secs(15), "{options}: {took:?}");
    }
    target.assert_unharmed();
}

/// At a terminal too, what is idle by design is answered at once.
#[test]
fn what_waits_by_design_is_not_watched_up_to_the_threshold() {
    for name in ["accept", "epoll_many", "sleep", "recv_timeout"] {
        let path = program::folder().join("waits").join(format!("{name}.py"));
        let mut command = Command::new(&any_interpreter().path);
        command.arg(path).env("PYTHONDONTWRITEBYTECODE", "1");
        let (mut target, _) = Target::start_and_listen(&mut command);
        let Some(terminal) = AtTerminal::start(target.pid(), "--threshold 1h") else {
            return;
        };
        let (code, answer, took) = terminal.finish();
        assert_eq!(code, Some(0), "{name}: {answer}");
        assert!(took < Duration::from_secs(15), "{name}: {took:?}");
        target.assert_unharmed();
    }
}

fn start_moving(name: &str) -> Target {
    let path = program::folder().join("moving").join(format!("{name}.py"));
    let mut command = Command::new(&any_interpreter().path);
    command.arg(path).env("PYTHONDONTWRITEBYTECODE", "1");
    Target::start_and_listen(&mut command).0
}

#[test]
fn a_loop_and_an_expression_are_watched_up_to_the_threshold() {
    for (name, verdict, request) in [
        ("spin_flag", "spin (likely)", ""),
        (
            "burn_regex",
            "gil-held (likely)",
            "regular expression: pattern '(a|aa)+$'",
        ),
    ] {
        let mut target = start_moving(name);
        // It says that it is ready just before.
        let burns = ["is_done", "wait_for", "match (re"];
        wait_until("it burns", || {
            let dump = ask_about("dump", target.pid(), &[]).expect(0).stdout;
            burns.iter().any(|call| dump.contains(call))
        });
        let Some(terminal) = AtTerminal::start(target.pid(), "--threshold 5s") else {
            return;
        };
        let (code, answer, took) = terminal.finish();
        assert_eq!(code, Some(1), "{name}: {answer}");
        assert!(answer.contains(verdict), "{name}: {answer}");
        assert!(answer.contains(request), "{name}: {answer}");
        assert!(took >= Duration::from_secs(5), "{name}: {took:?}");
        target.assert_unharmed();
    }
}

/// A started program that ignores Ctrl-C is diagnosed at once; one that ends by it passes its exit code on.
#[test]
fn ctrl_c_at_a_started_program() {
    use nix::sys::signal::{Signal, killpg};
    use std::os::unix::process::CommandExt;
    for (before, code) in [
        ("signal.signal(signal.SIGINT, signal.SIG_IGN)", 0),
        ("signal.signal(signal.SIGINT, lambda *_: sys.exit(6))", 6),
        ("signal.signal(signal.SIGINT, signal.SIG_DFL)", 130),
    ] {
        let folder = TempDir::with_prefix("stuckspy-").expect("a temporary folder");
        let path = folder.path().join("stdout");
        let program =
            format!("import signal, sys\n{before}\nprint('ready', flush=True)\nsignal.pause()\n");
        let mut child = Command::new(env!("CARGO_BIN_EXE_stuckspy"))
            .args(["diagnose", "--threshold", "1h"])
            .arg(&any_interpreter().path)
            .args(["-S", "-E", "-c", &program])
            .stdin(Stdio::null())
            .stdout(File::create(&path).expect("it can be created"))
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("stuckspy can be started");
        wait_until("the program is ready", || {
            fs::read_to_string(&path).is_ok_and(|text| text.contains("ready"))
        });
        let group = nix::unistd::Pid::from_raw(child.id().cast_signed());
        killpg(group, Signal::SIGINT).expect("it runs");
        let status = child.wait().expect("it is our own child");
        assert_eq!(status.code(), Some(code), "{before}");
        let text = fs::read_to_string(&path).expect("it was written");
        assert_eq!(text.contains("process "), code == 0, "{before}: {text}");
    }
}
