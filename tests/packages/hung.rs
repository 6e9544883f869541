//! Calls that never return, as reports to their packages tell: in slices, by retries, over hand-offs to other threads, for locks in
//! files, over poll sets and pipes. Each is scored:
//!
//! - RIGHT: a finding has a root that is expected, a class that is expected, and says what it has to; nothing that is well is called
//!   stuck, and nothing that is stuck is called idle or working.
//! - PARTLY: a finding is about a process of the case, but one of the others is missing.
//! - WRONG: anything else.
//!
//! `scripts/score-packages` shows the scores of each; a test fails with each that is not RIGHT.

use std::env;
use std::fs::OpenOptions;
use std::io::Write;
use std::thread;

use serde_json::{Value, json};

use crate::case::{Case, PATIENT, find_thread, verdicts};
use crate::support::report_skipped;

/// What is true of a program that hangs. "$name" stands for what the program said under that name.
struct Hung {
    case: &'static str,
    classes: &'static [&'static str],
    /// The processes of which a thread may be the root.
    roots: &'static [&'static str],
    /// The finding has to say one of each group.
    says: &'static [&'static [&'static str]],
    /// Processes whose main thread is stuck.
    stuck: &'static [&'static str],
    /// Processes in which nothing is stuck.
    well: &'static [&'static str],
}

const NO_ANSWER: &[&str] = &["hang-network", "hang-lock", "stalled"];

const SLICES: &[Hung] = &[
    Hung {
        case: "remote_calls paramiko_open_session",
        classes: NO_ANSWER,
        roots: &["$pid", "$server"],
        says: &[&["$peer"]],
        stuck: &["$pid"],
        well: &[],
    },
    Hung {
        case: "remote_calls pika_channel",
        classes: NO_ANSWER,
        roots: &["$pid"],
        says: &[&["$peer"]],
        stuck: &["$pid"],
        well: &["$server"],
    },
    Hung {
        case: "remote_calls pymongo_find",
        classes: NO_ANSWER,
        roots: &["$pid"],
        says: &[&["$peer"]],
        stuck: &["$pid"],
        well: &["$server"],
    },
    Hung {
        case: "remote_calls tenacity_retry",
        classes: NO_ANSWER,
        roots: &["$pid"],
        says: &[&["$peer", "refused", "ECONNREFUSED"]],
        stuck: &["$pid"],
        well: &[],
    },
    Hung {
        case: "task_queues huey_result",
        classes: &["stalled", "hang-lock", "hang-file-lock"],
        roots: &["$pid"],
        says: &[&["$path", "wait_result", "get_raw_result"]],
        stuck: &["$pid"],
        well: &[],
    },
    Hung {
        case: "commands psutil_wait",
        classes: &["hang-network"],
        roots: &["$other"],
        says: &[&["$peer"]],
        stuck: &["$pid", "$other"],
        well: &["$server"],
    },
];

const HAND_OFFS: &[Hung] = &[
    Hung {
        case: "remote_calls stomp_connect",
        classes: NO_ANSWER,
        roots: &["$pid"],
        says: &[&["$peer"]],
        stuck: &["$pid"],
        well: &["$server"],
    },
    Hung {
        case: "remote_calls paho_publish",
        classes: NO_ANSWER,
        roots: &["$pid"],
        says: &[&["$peer"]],
        stuck: &["$pid"],
        well: &["$server"],
    },
    Hung {
        case: "remote_calls kazoo_get",
        classes: NO_ANSWER,
        roots: &["$pid"],
        says: &[&["$peer"]],
        stuck: &["$pid"],
        well: &["$server"],
    },
    Hung {
        case: "remote_calls grpc_ready",
        classes: NO_ANSWER,
        roots: &["$pid"],
        says: &[&["$peer"]],
        stuck: &["$pid"],
        well: &["$server"],
    },
    Hung {
        case: "task_queues apscheduler_shutdown",
        classes: &["hang-network"],
        roots: &["$pid"],
        says: &[&["$peer"]],
        stuck: &["$pid"],
        well: &["$server"],
    },
    Hung {
        case: "task_queues segment_flush",
        classes: &["hang-lock", "stalled", "deadlock"],
        roots: &["$child"],
        says: &[&["queue", "Queue"]],
        stuck: &["$pid", "$child"],
        well: &["$server"],
    },
    Hung {
        case: "commands execnet_receive",
        classes: &["hang-network"],
        roots: &["$child"],
        says: &[&["$peer"]],
        stuck: &["$pid", "$child"],
        well: &["$server"],
    },
];

const FILE_LOCKS: &[Hung] = &[
    Hung {
        case: "lock_files fasteners_lock",
        classes: &["hang-network", "hang-file-lock"],
        roots: &["$other"],
        says: &[&["$peer"]],
        stuck: &["$pid", "$other"],
        well: &["$server"],
    },
    Hung {
        case: "lock_files lockfile_of_the_dead",
        classes: &["stalled", "hang-lock", "hang-file-lock"],
        roots: &["$pid"],
        says: &[&["$path"]],
        stuck: &["$pid"],
        well: &[],
    },
    // It tries so often that it may be called a busy loop too.
    Hung {
        case: "lock_files diskcache_lock_of_the_dead",
        classes: &["stalled", "hang-lock", "hang-file-lock", "spin"],
        roots: &["$pid"],
        says: &[&["$path", "Lock.acquire"]],
        stuck: &["$pid"],
        well: &[],
    },
    Hung {
        case: "lock_files diskcache_busy",
        classes: &["hang-network", "hang-file-lock"],
        roots: &["$other"],
        says: &[&["$peer"]],
        stuck: &["$pid", "$other"],
        well: &["$server"],
    },
];

const POLL_SETS: &[Hung] = &[
    Hung {
        case: "remote_calls zmq_reply",
        classes: NO_ANSWER,
        roots: &["$pid"],
        says: &[&["$peer"]],
        stuck: &["$pid"],
        well: &["$server"],
    },
    Hung {
        case: "commands serial_command",
        classes: &["hang-tty", "hang-pipe", "hang-network", "stalled"],
        roots: &["$pid"],
        says: &[&["$path"]],
        stuck: &["$pid"],
        well: &[],
    },
];

const PIPES: &[Hung] = &[
    Hung {
        case: "commands invoke_background",
        classes: &["hang-pipe", "hang-child", "hang-lock", "stalled"],
        roots: &["$pid"],
        says: &[&["$daemon"]],
        stuck: &["$pid"],
        well: &[],
    },
    Hung {
        case: "commands pexpect_wait",
        classes: &["deadlock", "hang-tty", "hang-pipe", "hang-child", "stalled"],
        roots: &["$pid", "$child"],
        says: &[&["$child"]],
        stuck: &["$pid"],
        well: &[],
    },
    Hung {
        case: "commands git_fetch",
        classes: &[
            "hang-network",
            "hang-pipe",
            "hang-child",
            "hang-lock",
            "stalled",
        ],
        roots: &["$pid", "$child"],
        says: &[&["$peer"]],
        stuck: &["$pid"],
        well: &["$server"],
    },
];

/// How well a diagnosis does.
/// What the diagnosis does not find, or not each time: scored, and not demanded.
const MISSED: &[(&str, &str)] = &[
    (
        "remote_calls tenacity_retry",
        "missed: nothing of a refused attempt is left while it sleeps",
    ),
    (
        "task_queues huey_result",
        "missed: nothing tells a result that never comes from one that is late",
    ),
    (
        "remote_calls kazoo_get",
        "missed while the server answers pings: its connection owes nothing",
    ),
    (
        "remote_calls grpc_ready",
        "missed: the connection is in code of another language",
    ),
    (
        "remote_calls zmq_reply",
        "missed: the connection is in code of another language",
    ),
    (
        "remote_calls pika_channel",
        "missed in its first slice, which takes five seconds",
    ),
    (
        "remote_calls paho_publish",
        "missed where the connection that wakes the loop is not known as its own",
    ),
    (
        "lock_files diskcache_lock_of_the_dead",
        "missed: the lock is a row of a database",
    ),
    (
        "commands serial_command",
        "missed: a terminal among several that are polled is not judged",
    ),
    (
        "commands invoke_background",
        "missed: its threads poll the pipe in slices",
    ),
    (
        "commands git_fetch",
        "missed: the threads that read its output wait for a command of a command",
    ),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Score {
    Right,
    Partly,
    Wrong,
}

impl Score {
    fn name(self) -> &'static str {
        match self {
            Score::Right => "RIGHT",
            Score::Partly => "PARTLY",
            Score::Wrong => "WRONG",
        }
    }
}

/// A program that hangs, and its diagnosis.
struct Diagnosed<'a> {
    hung: &'a Hung,
    case: Case,
    document: Value,
}

impl Diagnosed<'_> {
    /// The score, and each reason why it is no better.
    fn score(&self) -> (Score, Vec<String>) {
        let findings = self.document["findings"].as_array().expect("a list");
        let mut reasons = self.contradictions();
        let Some(nearest) = findings
            .iter()
            .filter(|finding| self.is_about_the_case(finding))
            .map(|finding| self.shortcomings(finding))
            .min_by_key(Vec::len)
        else {
            let why = if findings.is_empty() {
                "nothing is called stuck"
            } else {
                "another process is blamed"
            };
            return (Score::Wrong, vec![why.to_owned()]);
        };
        reasons.extend(nearest);
        let score = if reasons.is_empty() {
            Score::Right
        } else {
            Score::Partly
        };
        (score, reasons)
    }

    /// What is said of threads, against what is true.
    fn contradictions(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        for name in self.hung.stuck {
            let pid = self.value(name);
            let thread = find_thread(&self.document, &json!({"pid": pid, "tid": pid}));
            let class = thread.map_or(&Value::Null, |thread| &thread["verdict"]["class"]);
            if class == "idle" || class == "working" {
                reasons.push(format!("{name}, which is stuck, is called {class}"));
            }
        }
        for name in self.hung.well {
            let pid = self.value(name);
            let findings = self.document["findings"].as_array().into_iter().flatten();
            for finding in findings.filter(|finding| finding["root"]["pid"] == pid) {
                let class = &finding["verdict"];
                reasons.push(format!("{name}, which is well, is called {class}"));
            }
        }
        reasons
    }

    fn is_about_the_case(&self, finding: &Value) -> bool {
        let mut names = self.hung.roots.iter().chain(self.hung.stuck);
        names.any(|name| finding["root"]["pid"] == self.value(name))
    }

    /// What is missing in a finding, or wrong.
    fn shortcomings(&self, finding: &Value) -> Vec<String> {
        let mut reasons = Vec::new();
        let class = finding["verdict"].as_str().unwrap_or_default();
        if !self.hung.classes.contains(&class) {
            reasons.push(format!("called {class}"));
        }
        let root = &finding["root"];
        let mut roots = self.hung.roots.iter();
        if !roots.any(|name| root["pid"] == self.value(name)) {
            reasons.push(format!("the root is {root}"));
        }
        let said = self.what_it_says(finding);
        for group in self.hung.says {
            let mut wanted = group.iter().map(|text| self.text(text));
            if !wanted.any(|text| says(&said, &text)) {
                reasons.push(format!("does not say {group:?}"));
            }
        }
        reasons
    }

    /// The finding and its root's wait and evidence, without call stacks and advice: those say much by chance.
    fn what_it_says(&self, finding: &Value) -> String {
        let mut finding = finding.clone();
        let members = finding.as_object_mut().expect("an object");
        for name in ["frames", "stack", "advice"] {
            members.remove(name);
        }
        let root = find_thread(&self.document, &finding["root"]);
        let thread = root.unwrap_or(&Value::Null);
        format!(
            "{finding}\n{}\n{}",
            thread["wait"], thread["verdict"]["evidence"]
        )
    }

    fn value(&self, name: &str) -> Value {
        self.case.resolve(&json!(name))
    }

    fn text(&self, name: &str) -> String {
        match self.value(name) {
            Value::String(text) => text,
            value => value.to_string(),
        }
    }
}

/// Whether a text has this part, and not as part of a longer word or number.
fn says(text: &str, part: &str) -> bool {
    let is_part_of_word = |letter: Option<char>| letter.is_some_and(char::is_alphanumeric);
    text.match_indices(part).any(|(place, _)| {
        let before = text[..place].chars().next_back();
        let after = text[place + part.len()..].chars().next();
        !is_part_of_word(before) && !is_part_of_word(after)
    })
}

/// Starts the program, diagnoses it once its call is pending for long enough, and scores that; the failure, if it is not RIGHT.
fn score(hung: &Hung) -> Option<String> {
    let mut case = Case::start("3.11", hung.case)?;
    case.let_pend();
    let (code, document) = case.diagnose_unharmed(PATIENT);
    let diagnosed = Diagnosed {
        hung,
        case,
        document,
    };
    let (score, reasons) = diagnosed.score();
    let findings = diagnosed.document["findings"]
        .as_array()
        .into_iter()
        .flatten();
    let found: Vec<String> = findings
        .map(|finding| {
            format!(
                "{} ({}): {}",
                finding["verdict"], finding["confidence"], finding["summary"]
            )
        })
        .collect();
    record(hung.case, score, &reasons);
    (score != Score::Right).then(|| {
        format!(
            "{} {}: {}\nexit code {code:?}, {found:#?}\n{}",
            score.name(),
            hung.case,
            reasons.join("; "),
            verdicts(&diagnosed.document)
        )
    })
}

/// Adds a line to the file that `STUCKSPY_SCORES` names, for `scripts/score-packages`.
fn record(case: &str, score: Score, reasons: &[String]) {
    let Some(path) = env::var_os("STUCKSPY_SCORES") else {
        return;
    };
    let line = format!("{}\t{case}\t{}\n", score.name(), reasons.join("; "));
    // One write each, so that the lines of several tests do not mix.
    let file = OpenOptions::new().append(true).create(true).open(path);
    file.and_then(|mut file| file.write_all(line.as_bytes()))
        .expect("the file of scores can be written");
}

/// Scores these all at once, since they mostly wait, and fails with each that is not RIGHT.
#[track_caller]
fn all_are_right(cases: &[Hung]) {
    // The script scores those that are missed too.
    let are_all_scored = env::var_os("STUCKSPY_SCORES").is_some();
    let is_missed = |hung: &Hung| MISSED.iter().any(|(case, _)| *case == hung.case);
    for (case, why) in MISSED.iter().filter(|_| !are_all_scored) {
        if cases.iter().any(|hung| hung.case == *case) {
            report_skipped(case, why);
        }
    }
    let failures: Vec<String> = thread::scope(|scope| {
        let scores: Vec<_> = cases
            .iter()
            .filter(|hung| are_all_scored || !is_missed(hung))
            .map(|hung| scope.spawn(|| score(hung)))
            .collect();
        let failures = scores
            .into_iter()
            .map(|score| score.join().expect("a score"));
        failures.flatten().collect()
    });
    assert!(
        failures.is_empty(),
        "{} of {}\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n\n")
    );
}

#[test]
fn slices_and_retries() {
    all_are_right(SLICES);
}

#[test]
fn hand_offs() {
    all_are_right(HAND_OFFS);
}

#[test]
fn locks_in_files() {
    all_are_right(FILE_LOCKS);
}

#[test]
fn poll_sets() {
    all_are_right(POLL_SETS);
}

#[test]
fn pipes_and_processes() {
    all_are_right(PIPES);
}
