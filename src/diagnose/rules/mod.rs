//! What is known of packages, as data: where they wait for work by design, and which values of a frame tell what it was asked
//! to do. No code of ours knows a package by name.

pub mod content_type;
pub mod request_context;

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use serde::de::{Error as _, Unexpected};
use serde::{Deserialize, Deserializer};
use thiserror::Error;

use crate::diagnose::call_role::is_machinery;
use crate::diagnose::rules::request_context::find_value;
use crate::model::{Frame, FrameKind, ThreadSnapshot, Value, WaitKind};

/// The rules that are built in.
static BUILT_IN: &str = include_str!("rules.toml");

/// Frames from the innermost that are looked at for an idle pattern.
const MAX_DEPTH: usize = 64;

/// Why a file of rules is not one, and where.
#[derive(Debug, Error)]
#[error("{}{message}", .place.as_ref().map(|(line, text)| format!("line {line}, `{text}`: ")).unwrap_or_default())]
pub struct RulesError {
    /// The number of the line, from 1, and what stands in it.
    place: Option<(usize, String)>,
    message: String,
}

impl RulesError {
    fn new(error: &toml::de::Error, text: &str) -> Self {
        let place = error.span().and_then(|span| {
            let before = text.get(..span.start)?;
            let number = before.matches('\n').count();
            let line = text.lines().nth(number).unwrap_or_default();
            Some((number + 1, line.trim().to_owned()))
        });
        RulesError {
            place,
            message: error.message().replace('\n', "; "),
        }
    }
}

/// A module and a function in it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// `name`, or `name.*` for a package and all below it.
    pub module: String,
    /// The qualified name; versions without qualified names are compared by its last part.
    pub function: String,
}

/// A place where waiting is what it is made for; or where an answer is owed.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct IdleRule {
    /// Module of the frame; empty for code that was made without one.
    pub module: String,
    /// Function of the frame.
    pub function: String,
    /// Package and versions that were looked at.
    #[serde(default)]
    pub package: String,
    /// One sentence.
    pub why: String,
    /// Kinds of wait that it is about; empty for any.
    #[serde(default, deserialize_with = "deserialize_waits")]
    pub waits: Vec<String>,
    /// Modules that may lie between the frame and the wait, beside the machinery.
    #[serde(default)]
    pub through: Vec<String>,
    /// A frame that must lie further out.
    #[serde(default)]
    pub caller: Option<Place>,
    /// How long it waits there at most when all is well, in seconds.
    #[serde(default)]
    pub at_most: Option<u64>,
    /// Values that the frame's variables must have, by the paths to them: a text, or `*` for anything but `None`. Such a rule matches only
    /// where variables were read.
    #[serde(default, rename = "where")]
    pub values: BTreeMap<String, String>,
}

/// Values that tell what a call is about.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct ContextRule {
    /// Module of the frame.
    pub module: String,
    /// Function of the frame.
    pub function: String,
    /// Package and versions that were looked at.
    #[serde(default)]
    pub package: String,
    /// What sort of thing it is: `http`, `sql`, …
    pub kind: String,
    /// The same for people.
    pub what: String,
    /// Name of a value, and the path to it: a local, then `.attribute` or `["key"]`.
    pub fields: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Machinery {
    #[serde(default)]
    modules: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Streams {
    #[serde(default)]
    content_types: Vec<String>,
    /// Modules that read responses for others.
    #[serde(default)]
    clients: Vec<String>,
}

/// What is known of packages.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// Modules whose frames say only that something waits.
    #[serde(default)]
    machinery: Machinery,
    /// Content types of responses that a server sends for as long as it likes.
    #[serde(default)]
    streams: Streams,
    #[serde(default)]
    idle: Vec<IdleRule>,
    #[serde(default)]
    answer: Vec<IdleRule>,
    #[serde(default)]
    context: Vec<ContextRule>,
}

impl IdleRule {
    /// Whether it holds for a wait of this length.
    pub fn holds_after(&self, waited: Duration) -> bool {
        self.at_most
            .is_none_or(|most| waited <= Duration::from_secs(most))
    }
}

/// Where a rule matches a stack.
struct Matched<'a, 't> {
    /// Its place among the frames that count, the innermost at 0.
    depth: usize,
    rule: &'a IdleRule,
    /// The frames further out.
    outer: Vec<&'t Frame>,
}

impl Rules {
    /// The rules that are built in.
    pub fn built_in() -> &'static Rules {
        static PARSED: LazyLock<Rules> = LazyLock::new(|| {
            // A test parses it; a file that is none would leave the diagnosis without its patterns.
            Rules::parse(BUILT_IN).unwrap_or_default()
        });
        &PARSED
    }

    /// Rules as a file has them.
    pub fn parse(text: &str) -> Result<Rules, RulesError> {
        toml::from_str(text).map_err(|error| RulesError::new(&error, text))
    }

    /// These rules and `more`, which go first.
    pub fn extended(&self, more: Rules) -> Rules {
        let mut all = more;
        all.machinery
            .modules
            .extend(self.machinery.modules.iter().cloned());
        all.streams
            .content_types
            .extend(self.streams.content_types.iter().cloned());
        all.streams
            .clients
            .extend(self.streams.clients.iter().cloned());
        all.idle.extend(self.idle.iter().cloned());
        all.answer.extend(self.answer.iter().cloned());
        all.context.extend(self.context.iter().cloned());
        all
    }

    /// The rule by which the thread waits for work: of its frames from the innermost outwards, the first that one matches, as
    /// long as those inside of it are machinery of waiting. A frame further out knows better what the wait is for: an answer that is
    /// owed there, as of a command that is waited for in the loop that also reads news, is no idle wait.
    pub fn find_idle(&self, thread: &ThreadSnapshot) -> Option<&IdleRule> {
        Some(self.find_idle_place(thread)?.rule)
    }

    /// The same, if its frame is the base of the thread's stack: further out there are only frames of its own package, of programs'
    /// main functions, and of what starts those and threads.
    pub fn find_idle_base(&self, thread: &ThreadSnapshot) -> Option<&IdleRule> {
        let Matched { rule, outer, .. } = self.find_idle_place(thread)?;
        let package_of = |module: &str| module.split('.').next().unwrap_or_default().to_owned();
        let caller = rule.caller.as_ref().map(|place| package_of(&place.module));
        let packages = [Some(package_of(&rule.module)), caller];
        let is_outside = |frame: &Frame| {
            let module = frame.module.as_deref().unwrap_or_default();
            let is_own = !module.is_empty() && packages.contains(&Some(package_of(module)));
            is_own || is_machinery(frame)
        };
        outer.into_iter().all(is_outside).then_some(rule)
    }

    fn find_idle_place<'a, 't>(&'a self, thread: &'t ThreadSnapshot) -> Option<Matched<'a, 't>> {
        let idle = self.find_place(&self.idle, thread)?;
        let answer = self.find_place(&self.answer, thread);
        answer
            .is_none_or(|answer| answer.depth < idle.depth)
            .then_some(idle)
    }

    /// The rule by which the peer owes the thread an answer, found in the same way: it has asked, or it is the peer's turn; and no frame
    /// further out says that the answer may take as long as it likes, as in a long poll.
    pub fn find_answer(&self, thread: &ThreadSnapshot) -> Option<&IdleRule> {
        let answer = self.find_place(&self.answer, thread)?;
        let idle = self.find_place(&self.idle, thread);
        idle.is_none_or(|idle| idle.depth <= answer.depth)
            .then_some(answer.rule)
    }

    /// The rule, and the frames that lie further out than its own.
    fn find_place<'a, 't>(
        &self,
        rules: &'a [IdleRule],
        thread: &'t ThreadSnapshot,
    ) -> Option<Matched<'a, 't>> {
        let kind = thread.wait.as_ref()?.kind;
        let frames: Vec<&Frame> = thread
            .frames
            .iter()
            .map(|frame| &**frame)
            .filter(|frame| frame.kind == FrameKind::Python)
            .collect();
        for (depth, frame) in frames.iter().enumerate().take(MAX_DEPTH) {
            let matching = rules.iter().find(|rule| {
                is_at(frame, &rule.module, &rule.function)
                    && is_about(rule, kind)
                    && self.is_reached(&frames[..depth], &rule.through)
                    && has_caller(&frames[depth + 1..], rule.caller.as_ref())
                    && has_values(frame, rule)
            });
            if let Some(rule) = matching {
                return Some(Matched {
                    depth,
                    rule,
                    outer: frames[depth + 1..].to_vec(),
                });
            }
            let goes_on = |rule: &IdleRule| self.is_reached(&frames[..=depth], &rule.through);
            if !rules.iter().any(goes_on) {
                return None;
            }
        }
        None
    }

    /// The rule that tells what the call of this frame is about.
    pub fn find_context(&self, frame: &Frame) -> Option<&ContextRule> {
        let mut rules = self.context.iter();
        rules.find(|rule| is_at(frame, &rule.module, &rule.function))
    }

    /// Whether all frames that lie further in are machinery, or what the rule allows.
    fn is_reached(&self, inner: &[&Frame], through: &[String]) -> bool {
        inner.iter().all(|frame| {
            // Code that was made by `exec` without a name, as methods of proxies are.
            let Some(module) = frame.module.as_deref() else {
                return true;
            };
            let mut allowed = self.machinery.modules.iter().chain(through);
            allowed.any(|pattern| is_module(module, pattern))
        })
    }
}

/// A kind of wait that does not exist would match nothing, and nobody would know.
fn deserialize_waits<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let words = Vec::<String>::deserialize(deserializer)?;
    let is_kind = |word: &String| WaitKind::ALL.iter().any(|kind| kind.word() == word);
    match words.iter().find(|word| !is_kind(word)) {
        None => Ok(words),
        Some(word) => {
            let kinds: Vec<&str> = WaitKind::ALL.iter().map(|kind| kind.word()).collect();
            let expected = format!("one of {}", kinds.join(", "));
            Err(D::Error::invalid_value(
                Unexpected::Str(word),
                &expected.as_str(),
            ))
        }
    }
}

fn is_about(rule: &IdleRule, kind: WaitKind) -> bool {
    rule.waits.is_empty() || rule.waits.iter().any(|word| word == kind.word())
}

fn has_values(frame: &Frame, rule: &IdleRule) -> bool {
    rule.values
        .iter()
        .all(|(path, wanted)| match find_value(frame, path) {
            None | Some(Value::None) => false,
            Some(_) if wanted == "*" => true,
            Some(Value::Str { text, .. }) => text == wanted,
            Some(_) => false,
        })
}

fn has_caller(outer: &[&Frame], caller: Option<&Place>) -> bool {
    let is_it = |place: &Place| {
        let mut frames = outer.iter();
        frames.any(|frame| is_at(frame, &place.module, &place.function))
    };
    caller.is_none_or(is_it)
}

fn is_at(frame: &Frame, module: &str, function: &str) -> bool {
    let is_named = || {
        let name = &*frame.function;
        match name.contains('.') {
            true => name == function,
            false => name == function.rsplit('.').next().unwrap_or(function),
        }
    };
    let is_its_module = match frame.module.as_deref() {
        Some(own) => is_module(own, module),
        None => module.is_empty(),
    };
    is_its_module && is_named()
}

fn is_module(module: &str, pattern: &str) -> bool {
    match pattern.strip_suffix(".*") {
        Some(package) => module
            .strip_prefix(package)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.')),
        None => module == pattern,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::diagnose::testing::thread;

    fn frame(module: &str, function: &str) -> Arc<Frame> {
        Arc::new(Frame {
            function: function.into(),
            module: Some(module.into()),
            kind: FrameKind::Python,
            ..Frame::marker("")
        })
    }

    fn rules() -> Rules {
        Rules::parse(
            r#"
            [machinery]
            modules = ["select", "threading", "lib.*"]
            [[idle]]
            module = "server.loop"
            function = "Loop.wait"
            why = "it waits for work"
            waits = ["poll"]
            [[idle]]
            module = "queue"
            function = "Queue.get"
            why = "a worker waits for its next task"
            through = ["codec"]
            caller = { module = "pool.*", function = "worker" }
            [[context]]
            module = "http.client"
            function = "Connection.request"
            kind = "http"
            what = "HTTP request"
            fields = { method = "method" }
            "#,
        )
        .unwrap()
    }

    fn idle(kind: WaitKind, frames: &[(&str, &str)]) -> Option<String> {
        let mut thread = thread(7, kind, 60);
        thread.frames = frames
            .iter()
            .map(|(module, name)| frame(module, name))
            .collect();
        rules().find_idle(&thread).map(|rule| rule.why.clone())
    }

    #[test]
    fn a_place_of_idleness_is_reached_through_machinery_only() {
        let work = Some("it waits for work".to_owned());
        let inner = ("lib.deep.poll", "poll");
        assert_eq!(
            idle(WaitKind::Poll, &[inner, ("server.loop", "Loop.wait")]),
            work
        );
        assert_eq!(
            idle(
                WaitKind::Poll,
                &[inner, ("server.loop", "wait"), ("x", "y")]
            ),
            work
        );
        assert_eq!(
            idle(
                WaitKind::Poll,
                &[("app", "task"), ("server.loop", "Loop.wait")]
            ),
            None
        );
        assert_eq!(
            idle(WaitKind::SocketRecv, &[("server.loop", "Loop.wait")]),
            None
        );
        assert_eq!(idle(WaitKind::Poll, &[("server.loop", "Other.wait")]), None);
        assert_eq!(
            idle(
                WaitKind::Poll,
                &[("library", "poll"), ("server.loop", "wait")]
            ),
            None
        );
    }

    #[test]
    fn a_queue_is_told_by_its_caller() {
        let inner = [
            ("threading", "Condition.wait"),
            ("codec", "decode"),
            ("queue", "Queue.get"),
        ];
        let with = |outer| [&inner[..], &[("mine", "f"), outer]].concat();
        assert!(idle(WaitKind::Condition, &with(("pool.threads", "worker"))).is_some());
        assert!(idle(WaitKind::Condition, &with(("app", "fetch"))).is_none());
    }

    /// What a wait is for is known best to the frame furthest out: a long poll is made of requests, and a command's answer may be
    /// read by the loop that reads news.
    #[test]
    fn of_two_rules_the_outer_one_counts() {
        let rules = Rules::parse(
            r#"
            [[idle]]
            module = "news"
            function = "read"
            why = "news"
            [[idle]]
            module = "poll"
            function = "poll"
            why = "a long poll"
            through = ["client"]
            [[answer]]
            module = "client"
            function = "begin"
            why = "a response"
            through = ["news"]
            "#,
        )
        .unwrap();
        let judged = |frames: &[(&str, &str)]| {
            let mut thread = thread(7, WaitKind::SocketRecv, 60);
            let frames = frames.iter();
            thread.frames = frames.map(|(module, name)| frame(module, name)).collect();
            let why = |rule: Option<&IdleRule>| rule.map(|rule| rule.why.clone());
            (
                why(rules.find_idle(&thread)),
                why(rules.find_answer(&thread)),
            )
        };
        let some = |text: &str| Some(text.to_owned());
        let (news, begin, poll) = (("news", "read"), ("client", "begin"), ("poll", "poll"));
        assert_eq!(judged(&[news]), (some("news"), None));
        assert_eq!(judged(&[begin]), (None, some("a response")));
        assert_eq!(judged(&[news, begin]), (None, some("a response")));
        assert_eq!(judged(&[begin, poll]), (some("a long poll"), None));
    }

    #[test]
    fn a_rule_with_values_needs_them() {
        let rules = Rules::parse(
            "[[idle]]\nmodule = 'client'\nfunction = 'call'\nwhy = 'a long poll'\nwhere = { operation = 'Receive', index = '*' }",
        )
        .unwrap();
        let found = |locals: &[(&str, Value)]| {
            let locals = locals.iter().map(|(name, value)| crate::model::Local {
                name: (*name).to_owned(),
                argument: true,
                value: value.clone(),
            });
            let mut thread = thread(7, WaitKind::SocketRecv, 60);
            thread.frames = vec![Arc::new(Frame {
                locals: Some(locals.collect()),
                ..(*frame("client", "call")).clone()
            })];
            rules.find_idle(&thread).is_some()
        };
        let text = |text: &str| Value::Str {
            text: text.to_owned(),
            length: 0,
        };
        let index = ("index", Value::Bool { value: true });
        assert!(found(&[("operation", text("Receive")), index.clone()]));
        assert!(!found(&[("operation", text("Send")), index.clone()]));
        assert!(!found(&[
            ("operation", text("Receive")),
            ("index", Value::None)
        ]));
        assert!(!found(&[index]));
        assert!(!found(&[]));
    }

    #[test]
    fn only_what_starts_a_program_lies_outside_of_its_base() {
        let is_base = |outer: &[(&str, &str)]| {
            let mut thread = thread(7, WaitKind::Poll, 1);
            let own = [("lib.deep.poll", "poll"), ("server.loop", "Loop.wait")];
            let frames = own.iter().chain(outer);
            thread.frames = frames.map(|(module, name)| frame(module, name)).collect();
            rules().find_idle_base(&thread).is_some()
        };
        assert!(is_base(&[]));
        let program = [
            ("server", "run"),
            ("app", "main"),
            ("__main__", "<module>"),
            ("runpy", "_run_code"),
        ];
        assert!(is_base(&program));
        assert!(is_base(&[("threading", "Thread.run")]));
        // A call that the program makes now and then, and that is to return.
        assert!(!is_base(&[("app", "fetch"), ("__main__", "<module>")]));
        assert!(!is_base(&[("servers", "fetch")]));
    }

    #[test]
    fn the_rules_that_are_built_in_are_rules() {
        let rules = Rules::parse(BUILT_IN).unwrap();
        assert!(!rules.machinery.modules.is_empty());
        for rule in rules.idle.iter().chain(&rules.answer) {
            assert!(!rule.why.is_empty(), "{rule:?}");
            for word in &rule.waits {
                assert!(
                    WaitKind::ALL.iter().any(|kind| kind.word() == word),
                    "{rule:?}"
                );
            }
        }
    }

    #[test]
    fn context_and_further_rules() {
        let mut all = rules();
        assert!(all.find_context(&frame("http.client", "request")).is_some());
        assert!(
            all.find_context(&frame("http.client", "Other.request"))
                .is_none()
        );
        let mut sleeper = thread(7, WaitKind::SocketRecv, 60);
        sleeper.frames = vec![frame("select", "read"), frame("http.client", "begin")];
        assert_eq!(all.find_answer(&sleeper), None);
        let rule =
            "[[answer]]\nmodule = 'http.client'\nfunction = 'Response.begin'\nwhy = 'it has asked'";
        all = all.extended(Rules::parse(rule).unwrap());
        assert_eq!(all.find_answer(&sleeper).unwrap().why, "it has asked");
        all = all.extended(
            Rules::parse(
                "[[context]]\nmodule = 'a'\nfunction = 'b'\nkind = 'c'\nwhat = 'd'\nfields = {}",
            )
            .unwrap(),
        );
        assert!(all.find_context(&frame("a", "b")).is_some());
    }

    #[test]
    fn errors_show_the_line() {
        let error = |text: &str| Rules::parse(text).unwrap_err().to_string();
        let unknown = error("# mine\n[[idle]]\n  modul = 'a'\nfunction = 'b'\nwhy = 'c'\n");
        assert!(
            unknown.starts_with("line 3, `modul = 'a'`: unknown field `modul`, expected"),
            "{unknown}"
        );
        let missing = error("\n[[answer]]\nmodule = 'a'\nwhy = 'c'\n");
        assert!(missing.starts_with("line 2, `[[answer]]`: missing field `function`"));
        let syntax = error("[[idle]]\nmodule = a\n");
        assert!(syntax.starts_with("line 2, `module = a`: "), "{syntax}");
        let kind =
            error("[[idle]]\nmodule = 'a'\nfunction = 'b'\nwhy = 'c'\nwaits = ['pole', 'x']\n");
        assert!(
            kind.starts_with("line 5, `waits = ['pole', 'x']`: invalid value: string \"pole\"")
                && kind.contains("socket-recv"),
            "{kind}"
        );
        let cut = error("[[idle]]\nmodule = 'ä'\nwhy = '");
        assert!(cut.starts_with("line 3, "), "{cut}");
        assert!(!kind.contains('\n') && !cut.contains('\n'));
    }

    /// The page names every key, and its examples are rules that do what it says of them.
    #[test]
    fn the_page_on_rules_is_right() {
        let page = include_str!("../../../docs/rules.md");
        // What a table may have is what its error says.
        for table in ["idle", "answer", "context", "streams", "machinery"] {
            let header = match table {
                "machinery" | "streams" => format!("[{table}]"),
                _ => format!("[[{table}]]"),
            };
            let error = Rules::parse(&format!("{header}\nno_key = 1")).unwrap_err();
            let expected = error.message.split("expected ").nth(1).unwrap();
            let keys: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
            assert!(!keys.is_empty(), "{error}");
            assert!(page.contains(&header), "{header}");
            for key in keys {
                assert!(page.contains(&format!("| `{key}` |")), "{table}: {key}");
            }
        }
        for kind in WaitKind::ALL {
            assert!(page.contains(&format!("`{}`", kind.word())), "{kind:?}");
        }
        let blocks = page.split("```toml\n").skip(1);
        let examples = blocks.map(|rest| rest.split("```").next().unwrap());
        let examples: Vec<Rules> = examples
            .map(|text| Rules::built_in().extended(Rules::parse(text).unwrap()))
            .collect();
        let mut worker = thread(7, WaitKind::Condition, 60);
        worker.frames = [
            ("threading", "Condition.wait"),
            ("acme.channel", "Channel.get"),
            ("acme.jobs", "Worker._next_job"),
            ("acme.jobs", "Worker.run"),
        ]
        .map(|(module, name)| frame(module, name))
        .to_vec();
        let example = &examples[0];
        assert_eq!(
            example.find_idle(&worker).unwrap().why,
            "a worker waits for its next job"
        );
        // A hang inside a job, as the page says.
        worker.frames.insert(0, frame("acme.tasks", "resize"));
        assert_eq!(example.find_idle(&worker), None);
        let mut client = thread(7, WaitKind::SocketRecv, 60);
        client.frames = vec![frame("socket", "recv"), frame("acme.rpc", "Client._reply")];
        assert!(example.find_answer(&client).is_some());
        assert!(
            example
                .find_context(&frame("acme.rpc", "Client.call"))
                .is_some()
        );
    }
}
