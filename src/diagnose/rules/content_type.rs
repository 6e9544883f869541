//! Whether a thread reads a response that goes on for as long as its server likes, by the content type among the variables of its
//! frames: no package is known by name for that.

use crate::diagnose::rules::{MAX_DEPTH, Rules, is_module};
use crate::model::{Entry, FrameKind, ThreadSnapshot, Value};

/// The header that says what a response is, in lower case.
const HEADER: &str = "content-type";
/// Most values that are looked through for one frame.
const MAX_VALUES: usize = 4096;

/// Why a thread, whose frames have their variables, waits by design, if those show it: by a rule that needs their values, or by the content
/// type of the response that it reads.
pub fn idle_by_values(thread: &ThreadSnapshot, rules: &Rules) -> Option<String> {
    if reads_stream(thread, rules) {
        return Some("it reads a stream, to which its server writes when it has news".to_owned());
    }
    let rule = rules.find_idle(thread)?;
    let waited = thread.wait.as_ref().and_then(|wait| wait.since);
    waited
        .is_none_or(|since| rule.holds_after(since.elapsed))
        .then(|| rule.why.clone())
}

/// Whether the response that the thread reads is a stream: that of the innermost frame whose `self` has a content type, as long as those
/// inside of it only read for it. So a response further out, in whose loop another request hangs, says nothing.
fn reads_stream(thread: &ThreadSnapshot, rules: &Rules) -> bool {
    let frames = thread.frames.iter();
    let python = frames.filter(|frame| frame.kind == FrameKind::Python);
    for frame in python.take(MAX_DEPTH) {
        let locals = frame.locals.as_deref().unwrap_or_default();
        let owner = locals
            .iter()
            .find(|local| local.argument && local.name == "self");
        if let Some(content_type) = owner.and_then(|owner| find_content_type(&owner.value)) {
            return rules.is_stream(content_type);
        }
        let Some(module) = frame.module.as_deref() else {
            return false;
        };
        if !rules.only_reads(module) {
            return false;
        }
    }
    false
}

impl Rules {
    fn is_stream(&self, content_type: &str) -> bool {
        let plain: String = content_type
            .chars()
            .filter(|letter| !letter.is_whitespace())
            .collect();
        let plain = plain.to_ascii_lowercase();
        let mut known = self.streams.content_types.iter();
        known.any(|known| {
            let rest = plain.strip_prefix(known.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(';'))
        })
    }

    fn only_reads(&self, module: &str) -> bool {
        let mut known = self.machinery.modules.iter().chain(&self.streams.clients);
        known.any(|pattern| is_module(module, pattern))
    }
}

/// The content type among the headers that a value has: a text after the header's name in a pair, or under it in a dict.
fn find_content_type(value: &Value) -> Option<&str> {
    let mut open = vec![value];
    let mut seen = 0;
    while let Some(value) = open.pop() {
        seen += 1;
        if seen > MAX_VALUES {
            return None;
        }
        match value {
            Value::List { items, .. } | Value::Tuple { items, .. } => {
                if items.iter().any(is_header) {
                    let mut texts = items.iter().filter(|item| !is_header(item));
                    if let Some(text) = texts.find_map(media_type) {
                        return Some(text);
                    }
                }
                open.extend(items);
            }
            Value::Dict { entries, .. } => {
                if let Some(Entry { value, .. }) =
                    entries.iter().find(|entry| is_header(&entry.key))
                    && let Some(text) = first_text(value)
                {
                    return Some(text);
                }
                open.extend(entries.iter().map(|entry| &entry.value));
            }
            Value::Object {
                attributes,
                content,
                ..
            } => {
                open.extend(attributes.iter().map(|attribute| &attribute.value));
                open.extend(content.as_deref());
            }
            _ => {}
        }
    }
    None
}

fn text_of(value: &Value) -> Option<&str> {
    match value {
        Value::Str { text, .. } | Value::Bytes { text, .. } => Some(text),
        _ => None,
    }
}

fn is_header(value: &Value) -> bool {
    text_of(value).is_some_and(|text| text.eq_ignore_ascii_case(HEADER))
}

/// A text that is the name of a type: `text/event-stream`.
fn media_type(value: &Value) -> Option<&str> {
    text_of(value).filter(|text| text.contains('/'))
}

/// The text that a header's value is, or has in a list of its values.
fn first_text(value: &Value) -> Option<&str> {
    match value {
        Value::List { items, .. } | Value::Tuple { items, .. } => items.iter().find_map(media_type),
        value => media_type(value),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::diagnose::testing::thread;
    use crate::model::{Address, Attribute, Frame, Local, WaitKind};

    fn text(text: &str) -> Value {
        Value::Str {
            text: text.into(),
            length: text.len() as u64,
        }
    }

    fn bytes(text: &str) -> Value {
        Value::Bytes {
            text: text.into(),
            length: text.len() as u64,
        }
    }

    fn list(items: Vec<Value>) -> Value {
        Value::List {
            length: items.len() as u64,
            items,
        }
    }

    fn object(name: &str, value: Value) -> Value {
        Value::Object {
            type_name: "x".into(),
            address: Address(8),
            name: None,
            content: None,
            attributes: vec![Attribute {
                name: name.into(),
                value,
            }],
            length: 1,
        }
    }

    fn frame(module: &str, own: Option<Value>) -> Arc<Frame> {
        let locals: Vec<Local> = own
            .map(|value| Local {
                name: "self".into(),
                argument: true,
                value,
            })
            .into_iter()
            .collect();
        Arc::new(Frame {
            module: Some(module.into()),
            kind: FrameKind::Python,
            locals: Some(locals.into()),
            ..Frame::marker("f")
        })
    }

    fn reads(frames: Vec<Arc<Frame>>) -> bool {
        let mut thread = thread(7, WaitKind::SocketRecv, 60);
        thread.frames = frames;
        reads_stream(&thread, Rules::built_in())
    }

    fn response(content_type: &str) -> Value {
        let pair = list(vec![text("Content-Type"), text(content_type)]);
        object("headers", object("_headers", list(vec![pair])))
    }

    #[test]
    fn the_content_type_of_what_is_read_decides() {
        let reading = |content_type| {
            let inner = frame("socket", Some(object("_sock", Value::None)));
            let outer = frame("app", None);
            reads(vec![
                inner,
                frame("http.client", Some(response(content_type))),
                outer,
            ])
        };
        assert!(reading("text/event-stream"));
        assert!(reading("Text/Event-Stream; charset=utf-8"));
        assert!(reading("application/json; stream=watch"));
        assert!(!reading("application/json"));
        assert!(!reading("text/event-streams"));
    }

    /// Which headers a client accepts is no content type, and no response has begun.
    #[test]
    fn what_is_asked_for_has_not_come() {
        let accept = list(vec![text("Accept"), text("text/event-stream")]);
        let request = object("headers", list(vec![accept]));
        assert!(!reads(vec![frame("http.client", Some(request))]));
    }

    #[test]
    fn a_stream_further_out_says_nothing_of_a_request_inside_its_loop() {
        let stream = || frame("app", Some(response("text/event-stream")));
        assert!(reads(vec![frame("socket", None), stream()]));
        assert!(!reads(vec![
            frame("socket", None),
            frame("database", None),
            stream()
        ]));
        let plain = frame("http.client", Some(response("text/html")));
        assert!(!reads(vec![plain, stream()]));
    }

    #[test]
    fn headers_have_many_forms() {
        let raw = Value::Tuple {
            items: vec![
                bytes("Content-Type"),
                bytes("content-type"),
                bytes("text/event-stream"),
            ],
            length: 3,
        };
        let of_key = Value::Dict {
            entries: vec![Entry {
                key: text("content-type"),
                value: list(vec![text("Content-Type"), text("text/event-stream")]),
            }],
            length: 1,
        };
        for headers in [list(vec![raw]), of_key] {
            assert!(reads(vec![frame(
                "http.client",
                Some(object("headers", headers))
            )]));
        }
    }
}
