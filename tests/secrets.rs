//! A hundred secrets where programs have them: none is in what stuckspy shows, unless it is asked for; and what is no secret is.

mod support;

#[path = "support/live.rs"]
mod live;

use std::process::Command;

use live::{Answer, Target, any_interpreter, ask_about, hostile};
use serde_json::Value;

/// A program with secrets everywhere, and where they are by its own word.
struct Planted {
    target: Target,
    truth: Value,
}

impl Planted {
    fn start() -> Planted {
        let mut command = Command::new(&any_interpreter().path);
        let command = command.args(["-S", "-E"]).arg(hostile("planted.py"));
        let (target, line) = Target::start_and_listen(command);
        let truth = serde_json::from_str(&line).expect("it says what it has");
        Planted { target, truth }
    }

    fn texts(&self, path: &str) -> Vec<&str> {
        let texts = self.truth.pointer(path).and_then(Value::as_array);
        let texts = texts.expect("it is a list").iter();
        texts.filter_map(Value::as_str).collect()
    }

    fn ask(&self, command: &str, options: &[&str]) -> Answer {
        let code = i32::from(command == "diagnose");
        ask_about(command, self.target.pid(), options).expect(code)
    }

    fn all(&self) -> Vec<&str> {
        ["commands", "requests", "locals"]
            .iter()
            .flat_map(|place| self.texts(&format!("/secrets/{place}")))
            .collect()
    }
}

const DIAGNOSE: [&str; 2] = ["--threshold", "0s"];

#[test]
fn no_secret_is_shown_by_default() {
    let planted = Planted::start();
    let secrets = planted.all();
    assert!(secrets.len() == 100, "{}", secrets.len());
    let with = |more: &[&'static str]| [&DIAGNOSE[..], more].concat();
    let answers = [
        planted.ask("dump", &[]),
        planted.ask("dump", &["-s", "--json"]),
        planted.ask("dump", &["-s", "--locals"]),
        planted.ask("dump", &["-s", "--locals", "--json"]),
        planted.ask("diagnose", &with(&[])),
        planted.ask("diagnose", &with(&["--json"])),
    ];
    let mut shown = Vec::new();
    for (number, answer) in answers.iter().enumerate() {
        for secret in &secrets {
            for text in [&answer.stdout, &answer.stderr] {
                if let Some(line) = text.lines().find(|line| line.contains(secret)) {
                    let at = line.find(secret).unwrap_or_default();
                    let from = line.floor_char_boundary(at.saturating_sub(100));
                    shown.push(format!("answer {number}: {secret}: {:.300}", &line[from..]));
                }
            }
        }
    }
    assert!(shown.is_empty(), "{}", shown.join("\n"));
}

#[test]
fn what_is_no_secret_stays_readable() {
    let planted = Planted::start();
    let dump = planted.ask("dump", &["-s", "--locals", "--json"]).stdout;
    let diagnosis = planted.ask("diagnose", &[&DIAGNOSE[..], &["--json"]].concat());
    for text in planted.texts("/readable") {
        assert!(dump.contains(text), "{text}");
    }
    let path = planted.truth["path"].as_str().expect("a path");
    assert!(diagnosis.stdout.contains(path), "{diagnosis:#?}");
    let statement = "UPDATE accounts SET mail = ? WHERE id = ?";
    assert!(diagnosis.stdout.contains(statement), "{diagnosis:#?}");
    let arguments = planted.texts("/arguments").join(" ");
    assert!(diagnosis.stdout.contains(&arguments), "{diagnosis:#?}");
}

#[test]
fn secrets_are_shown_when_asked_for() {
    let mut planted = Planted::start();
    let dump = planted.ask("dump", &["--locals", "--no-redact", "--json"]);
    let diagnosis = planted.ask(
        "diagnose",
        &[&DIAGNOSE[..], &["--no-redact", "--json"]].concat(),
    );
    let commands = planted.ask("dump", &["--no-redact", "-s", "--json"]);
    for (answer, place) in [
        (&dump, "locals"),
        (&diagnosis, "requests"),
        (&diagnosis, "commands"),
        (&commands, "commands"),
    ] {
        for secret in planted.texts(&format!("/secrets/{place}")) {
            assert!(answer.stdout.contains(secret), "{place}: {secret}");
        }
    }
    planted.target.assert_unharmed();
}
