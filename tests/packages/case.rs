//! A program on packages as a case: its start, what is expected of the diagnosis, and how that is compared.
//!
//! In what is expected, "$name" stands for what the program said under that name, and "*" for anything but null. Of objects only the
//! members named are compared, but a context is compared as a whole. A thread is named by its pid, or by its pid and tid.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::live::{Dice, Target, ask_about, is_brief, wait_until};
use crate::support::{program, report_skipped};

/// Long enough for a healthy program to be left alone, short enough for a test.
const THRESHOLD: &str = "300ms";
/// How often a healthy program is looked at, unless `STUCKSPY_LOOKS` says so; and how long it is left alone in between, at most.
const LOOKS: u32 = 5;
const PHASE: Duration = Duration::from_millis(300);

/// For a call that should return: it is pending for longer than the threshold, and the window is long enough to see that it makes
/// no progress.
pub const PATIENT: &[&str] = &["--threshold", "1s", "--window", "3s"];
/// The same without a window of its own.
const BRIEF: &[&str] = &["--threshold", "1s"];
/// For how long a call is pending before it is diagnosed. It waits in slices, so that no clock of the kernel shows this time.
const PENDING: Duration = Duration::from_secs(2);

/// Programs with databases in files: on a disk, a transaction may wait for longer than the threshold, and that is no hang.
const IN_MEMORY: [&str; 2] = ["lock_files", "task_queues"];
const MEMORY: &str = "/dev/shm";

/// A running program of `fixtures/programs/packages`.
pub struct Case {
    target: Target,
    names: Map<String, Value>,
    folder: tempfile::TempDir,
}

/// The interpreter of the environment with packages for this version of Python; without it, the case is named as skipped.
fn find_python(version: &str, what: &str) -> Option<PathBuf> {
    let home = env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
    let caches = env::var_os("XDG_CACHE_HOME").map_or_else(|| home.join(".cache"), PathBuf::from);
    let root = env::var_os("STUCKSPY_PACKAGES")
        .map_or_else(|| caches.join("stuckspy/packages"), PathBuf::from);
    let folder = root.join(version);
    // The stamp comes last: without it the packages are not all there.
    if folder.join("packages.txt").is_file() {
        return Some(folder.join("bin/python"));
    }
    assert!(
        env::var("CI").as_deref() != Ok("true"),
        "no packages for Python {version}"
    );
    report_skipped(what, "run scripts/fetch-packages first");
    None
}

/// How often a healthy program is to be diagnosed, if that is given.
fn looks() -> Option<u32> {
    let text = env::var("STUCKSPY_LOOKS").ok()?;
    Some(text.parse().expect("a number"))
}

impl Case {
    /// Starts a case, `program case`, and waits until it says that it is about to block.
    pub fn start(version: &str, case: &str) -> Option<Case> {
        let python = find_python(version, case)?;
        let (name, arguments) = case.split_once(' ').unwrap_or((case, ""));
        let folder = if IN_MEMORY.contains(&name) && Path::new(MEMORY).is_dir() {
            tempfile::tempdir_in(MEMORY)
        } else {
            tempfile::tempdir()
        };
        let folder = folder.expect("a temporary folder");
        let mut command = Command::new(python);
        command
            .arg(
                program::folder()
                    .join("packages")
                    .join(format!("{name}.py")),
            )
            .args(arguments.split_whitespace())
            .current_dir(folder.path())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("TMPDIR", folder.path());
        let mut target = Target::start(&mut command);
        let line = target.line();
        let told: Value = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("{case} said {line:?}: {error}"));
        if let Some(why) = told["skip"].as_str() {
            report_skipped(case, why);
            return None;
        }
        let names = told["names"].as_object().expect("names").clone();
        Some(Case {
            target,
            names,
            folder,
        })
    }

    /// What the program said under this name.
    pub fn name(&self, name: &str) -> &Value {
        self.names
            .get(name)
            .unwrap_or_else(|| panic!("no {name} in {:?}", self.names))
    }

    /// Where it runs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn pid(&self) -> i32 {
        self.target.pid()
    }

    /// Lets its calls be pending for longer than the threshold of `PATIENT`.
    pub fn let_pend(&self) {
        thread::sleep(PENDING);
    }

    /// The exit code of the diagnosis with these options, and the document.
    #[track_caller]
    pub fn diagnose_unharmed(&mut self, options: &[&str]) -> (Option<i32>, Value) {
        let answer = ask_about("diagnose", self.pid(), &[&["--json"], options].concat());
        let answer = answer.expect_one_of(&[0, 1]);
        self.target.assert_unharmed();
        (answer.code, answer.json())
    }

    /// What a diagnosis finds in a healthy program, if anything; `may_be_possible` where nothing distinguishes it from one that hangs.
    pub fn find_false_alarm(&mut self, may_be_possible: bool) -> Option<String> {
        self.let_pend();
        let mut dice = Dice::new(7);
        for look in 0..looks().unwrap_or(2) {
            let options = if look % 2 == 0 { PATIENT } else { BRIEF };
            let (code, document) = self.diagnose_unharmed(options);
            let mut findings = document["findings"].as_array().into_iter().flatten();
            let is_quiet = if may_be_possible {
                findings.all(|finding| finding["confidence"] == "possible")
            } else {
                findings.next().is_none()
            };
            if code != Some(0) || !is_quiet {
                let found = &document["findings"];
                return Some(format!(
                    "diagnosis {look}, exit code {code:?}: {found:#}\n{}",
                    verdicts(&document)
                ));
            }
            thread::park_timeout(dice.below(PHASE));
        }
        None
    }

    /// The diagnosis as JSON.
    pub fn diagnose(&self, options: &[&str]) -> Value {
        let options = [&["--json", "--threshold", THRESHOLD], options].concat();
        ask_about("diagnose", self.pid(), &options)
            .expect_one_of(&[0, 1])
            .json()
    }

    /// The diagnosis as text.
    pub fn diagnose_in_text(&self) -> String {
        ask_about("diagnose", self.pid(), &["--threshold", THRESHOLD])
            .expect_one_of(&[0, 1])
            .stdout
    }

    /// The first diagnosis in which this thread is beyond the threshold.
    #[track_caller]
    pub fn diagnose_beyond_threshold(&self, name: &str) -> Value {
        let key = self.thread_ref(&self.resolve(&json!(name)));
        self.diagnose_when_judged(&[], &[key])
    }

    /// Waits until what the findings are about has waited for long enough, and fails unless the findings are these.
    #[track_caller]
    pub fn expect(&mut self, findings: &[Value]) -> Value {
        self.expect_with(&[], findings)
    }

    #[track_caller]
    pub fn expect_with(&mut self, options: &[&str], findings: &[Value]) -> Value {
        let expected = self.resolve(&json!(findings));
        let mut concerned: Vec<Value> = Vec::new();
        for finding in expected.as_array().expect("a list") {
            concerned.push(self.thread_ref(&finding["root"]));
            let blocks = finding["blocks"].as_array().into_iter().flatten();
            concerned.extend(blocks.map(|key| self.thread_ref(key)));
        }
        let document = self.diagnose_when_judged(options, &concerned);
        let mut failures = Vec::new();
        let found = document["findings"].as_array().expect("a list");
        if found.len() != findings.len() {
            failures.push(format!("{} findings", found.len()));
        }
        for wanted in expected.as_array().expect("a list") {
            let root = self.thread_ref(&wanted["root"]);
            match found.iter().find(|finding| finding["root"] == root) {
                Some(finding) => self.compare_finding(wanted, finding, &document, &mut failures),
                None => failures.push(format!("no finding has the root {root}")),
            }
        }
        assert!(
            failures.is_empty(),
            "{failures:#?} in {found:#?}\n{}",
            verdicts(&document)
        );
        self.target.assert_unharmed();
        document
    }

    /// Fails unless nothing is found, with each of these threads beyond the threshold and of this class; and nothing at any further
    /// look, which come at any phase of what the program does.
    #[track_caller]
    pub fn expect_healthy(&mut self, classes: &[(&str, &str)]) {
        let concerned: Vec<Value> = classes
            .iter()
            .map(|(name, _)| self.thread_ref(&self.resolve(&json!(name))))
            .collect();
        let document = self.diagnose_when_judged(&[], &concerned);
        assert_eq!(document["findings"], json!([]), "{}", verdicts(&document));
        for ((name, class), key) in classes.iter().zip(&concerned) {
            let thread = find_thread(&document, key).expect("it is there");
            assert_eq!(thread["verdict"]["class"], *class, "{name}: {thread:#}");
        }
        let mut dice = Dice::new(7);
        for look in 1..looks().unwrap_or(LOOKS) {
            thread::park_timeout(dice.below(PHASE));
            let answer = ask_about(
                "diagnose",
                self.pid(),
                &["--json", "--threshold", THRESHOLD],
            );
            assert_eq!(
                answer.code,
                Some(0),
                "look {look}: {}",
                verdicts(&answer.json())
            );
        }
        self.target.assert_unharmed();
    }

    /// The first diagnosis in which these threads are beyond the threshold.
    #[track_caller]
    fn diagnose_when_judged(&self, options: &[&str], threads: &[Value]) -> Value {
        let mut document = Value::Null;
        wait_until("its threads have waited for long enough", || {
            document = self.diagnose(options);
            threads.iter().all(|key| {
                let thread = find_thread(&document, key);
                // One that is just being woken has no time for an instant.
                let is_judged = |thread: &Value| {
                    let is_timed = thread["wait"]["since_ms"].is_u64() || thread["wait"].is_null();
                    is_timed && !is_brief(&document, thread)
                };
                thread.is_some_and(is_judged)
            })
        });
        document
    }

    fn compare_finding(
        &self,
        wanted: &Value,
        finding: &Value,
        document: &Value,
        failures: &mut Vec<String>,
    ) {
        for field in ["verdict", "confidence"] {
            compare(field, &wanted[field], &finding[field], failures);
        }
        if let Some(context) = wanted.get("context") {
            compare_whole("context", context, &finding["context"], failures);
        }
        let blocks = wanted["blocks"].as_array().cloned().unwrap_or_default();
        let mut blocks: Vec<String> = blocks
            .iter()
            .map(|key| self.thread_ref(key).to_string())
            .collect();
        let mut blocked: Vec<String> = finding["blocks"]
            .as_array()
            .into_iter()
            .flatten()
            .map(Value::to_string)
            .collect();
        blocks.sort();
        blocked.sort();
        if blocks != blocked {
            failures.push(format!("blocks: {blocked:?}, not {blocks:?}"));
        }
        if let Some(wait) = wanted.get("wait") {
            let root = find_thread(document, &finding["root"]);
            let own = root.map_or(&Value::Null, |thread| &thread["wait"]);
            compare("wait", wait, own, failures);
        }
    }

    /// The same with what the program said in the place of names.
    pub fn resolve(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => match text.strip_prefix('$') {
                Some(name) => self.name(name).clone(),
                None => value.clone(),
            },
            Value::Array(items) => items.iter().map(|item| self.resolve(item)).collect(),
            Value::Object(members) => members
                .iter()
                .map(|(name, value)| (name.clone(), self.resolve(value)))
                .collect(),
            other => other.clone(),
        }
    }

    /// A thread as the document names it, from its pid and tid or the pid of a process whose main thread it is.
    fn thread_ref(&self, key: &Value) -> Value {
        match key {
            Value::Array(pair) => json!({"pid": pair[0], "tid": pair[1]}),
            pid => json!({"pid": pid, "tid": pid}),
        }
    }
}

pub fn find_thread<'a>(document: &'a Value, key: &Value) -> Option<&'a Value> {
    let mut processes = document["processes"].as_array()?.iter();
    let process = processes.find(|process| process["pid"] == key["pid"])?;
    let mut threads = process["threads"].as_array()?.iter();
    threads.find(|thread| thread["tid"] == key["tid"])
}

/// Each thread's verdict, for a failure to show.
pub fn verdicts(document: &Value) -> String {
    let processes = document["processes"].as_array().into_iter().flatten();
    let lines = processes.flat_map(|process| {
        let threads = process["threads"].as_array().into_iter().flatten();
        threads.map(|thread| {
            let (verdict, frame) = (&thread["verdict"], &thread["frames"][0]);
            format!(
                "{} {}: {} {}, in {}",
                process["pid"],
                thread["tid"],
                verdict["class"],
                verdict["summary"],
                frame["function"]
            )
        })
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn compare(path: &str, wanted: &Value, own: &Value, failures: &mut Vec<String>) {
    match (wanted, own) {
        (Value::String(any), own) if any == "*" && !own.is_null() => {}
        (Value::Object(members), Value::Object(_)) => {
            for (name, wanted) in members {
                compare(&format!("{path}.{name}"), wanted, &own[name], failures);
            }
        }
        _ if wanted == own => {}
        _ => failures.push(format!("{path}: {own}, not {wanted}")),
    }
}

/// The same, with no other members than these.
fn compare_whole(path: &str, wanted: &Value, own: &Value, failures: &mut Vec<String>) {
    compare(path, wanted, own, failures);
    let known = wanted.as_object();
    for name in own
        .as_object()
        .into_iter()
        .flat_map(|members| members.keys())
    {
        if known.is_some_and(|known| !known.contains_key(name)) {
            failures.push(format!("{path}: has {name} too: {}", own[name]));
        }
    }
}

/// Starts a case on the newer packages and expects these findings.
#[track_caller]
pub fn finds(case: &str, findings: &[Value]) {
    if let Some(mut case) = Case::start("3.11", case) {
        case.expect(findings);
    }
}

/// The same with nothing found, and these threads of these classes.
#[track_caller]
pub fn is_healthy(case: &str, classes: &[(&str, &str)]) {
    if let Some(mut case) = Case::start("3.11", case) {
        case.expect_healthy(classes);
    }
}

/// Starts these cases all at once, since they mostly wait, diagnoses each, and fails with all that have a finding. A case that begins
/// with "?" may have a possible one: nothing distinguishes it from a program that hangs.
#[track_caller]
pub fn are_healthy(cases: &[&str]) {
    let alarms: Vec<String> = thread::scope(|scope| {
        let diagnoses: Vec<_> = cases
            .iter()
            .map(|case| scope.spawn(|| find_false_alarm(case)))
            .collect();
        let alarms = diagnoses
            .into_iter()
            .map(|one| one.join().expect("a diagnosis"));
        alarms.flatten().collect()
    });
    assert!(
        alarms.is_empty(),
        "{} of {}\n{}",
        alarms.len(),
        cases.len(),
        alarms.join("\n")
    );
}

fn find_false_alarm(case: &str) -> Option<String> {
    let name = case.trim_start_matches('?');
    let alarm = Case::start("3.11", name)?.find_false_alarm(name != case)?;
    Some(format!("== {name} ==\n{alarm}"))
}
