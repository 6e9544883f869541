//! Which request a stuck thread is busy with: the values that the rules name, taken from the variables of its frames. They are told
//! as they are; secrets are for the reports to take out.

use std::sync::Arc;

use crate::diagnose::rules::Rules;
use crate::model::{Context, ContextField, Entry, Frame, Value};

/// Most fields of one context.
const MAX_FIELDS: usize = 16;

/// What the innermost call that a rule knows is about, with what calls further out add to it.
///
/// A client is made of layers: the innermost ones know the connection, the outer ones the whole address and the timeout. So the
/// fields of all calls of the same kind come together, each as the innermost call that has it says.
pub fn find_context(frames: &[Arc<Frame>], rules: &Rules) -> Option<Context> {
    let mut context: Option<Context> = None;
    for frame in frames {
        let Some(rule) = rules.find_context(frame) else {
            continue;
        };
        let context = context.get_or_insert_with(|| Context {
            kind: rule.kind.clone(),
            what: rule.what.clone(),
            fields: Vec::new(),
        });
        if context.kind != rule.kind {
            continue;
        }
        for (name, path) in &rule.fields {
            let is_known = context.fields.iter().any(|field| field.name == *name);
            if is_known || context.fields.len() >= MAX_FIELDS {
                continue;
            }
            let mut paths = path.split(" or ");
            if let Some(value) = paths.find_map(|path| find_value(frame, path).filter(is_telling)) {
                context.fields.push(ContextField {
                    name: name.clone(),
                    value: value.clone(),
                });
            }
        }
    }
    context.map(|mut context| {
        context.fields.sort_by_key(|field| order(&field.name));
        context
    })
}

/// Where a field stands among the others: what people look for first.
fn order(name: &str) -> (usize, String) {
    const FIRST: [&str; 8] = [
        "method",
        "command",
        "statement",
        "url",
        "host",
        "port",
        "name",
        "timeout",
    ];
    let place = FIRST.iter().position(|known| *known == name);
    (place.unwrap_or(FIRST.len()), name.to_owned())
}

/// Whether a value says anything to people: an object of which only the address is known does not.
fn is_telling(value: &&Value) -> bool {
    match value {
        Value::Unreadable { .. } | Value::Omitted { .. } | Value::Cycle { .. } => false,
        Value::Object {
            name,
            content,
            attributes,
            ..
        } => name.is_some() || content.is_some() || !attributes.is_empty(),
        _ => true,
    }
}

/// The value at a path: a variable, then `.attribute` or `["key"]`.
pub fn find_value<'a>(frame: &'a Frame, path: &str) -> Option<&'a Value> {
    let steps = parse_path(path)?;
    let (variable, steps) = steps.split_first()?;
    let locals = frame.locals.as_deref()?;
    let local = locals.iter().find(|local| local.name == *variable)?;
    let mut value = &local.value;
    for step in steps {
        value = member(value, step)?;
    }
    Some(value)
}

fn member<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    match value {
        Value::Object {
            attributes,
            content,
            ..
        } => {
            let mut attributes = attributes.iter();
            let attribute = attributes.find(|attribute| attribute.name == name);
            attribute
                .map(|attribute| &attribute.value)
                .or_else(|| member(content.as_deref()?, name))
        }
        Value::Dict { entries, .. } => {
            let is_it =
                |entry: &&Entry| matches!(&entry.key, Value::Str { text, .. } if text == name);
            entries.iter().find(is_it).map(|entry| &entry.value)
        }
        _ => None,
    }
}

/// The steps of a path; `None` when it is none.
fn parse_path(path: &str) -> Option<Vec<&str>> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(key) = rest.strip_prefix("[\"") {
            let (key, after) = key.split_once("\"]")?;
            steps.push(key);
            rest = after;
            continue;
        }
        let name = match steps.is_empty() {
            true => rest,
            false => rest.strip_prefix('.')?,
        };
        let end = name.find(['.', '[']).unwrap_or(name.len());
        if end == 0 {
            return None;
        }
        steps.push(&name[..end]);
        rest = &name[end..];
    }
    Some(steps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Address, Attribute, FrameKind, Local};

    fn text(text: &str) -> Value {
        Value::Str {
            text: text.into(),
            length: text.len() as u64,
        }
    }

    fn frame(module: &str, function: &str, locals: &[(&str, Value)]) -> Arc<Frame> {
        let locals: Vec<_> = locals
            .iter()
            .map(|(name, value)| Local {
                name: (*name).into(),
                argument: true,
                value: value.clone(),
            })
            .collect();
        Arc::new(Frame {
            function: function.into(),
            module: Some(module.into()),
            kind: FrameKind::Python,
            locals: Some(locals.into()),
            ..Frame::marker("")
        })
    }

    #[test]
    fn paths() {
        assert_eq!(
            parse_path("self.pool[\"a.b\"].host"),
            Some(vec!["self", "pool", "a.b", "host"])
        );
        assert_eq!(parse_path("method"), Some(vec!["method"]));
        assert_eq!(parse_path("a..b"), None);
        assert_eq!(parse_path("a[b]"), None);
    }

    #[test]
    fn layers_of_a_client_come_together() {
        let rules = Rules::parse(
            r#"
            [[context]]
            module = "client"
            function = "Connection.read"
            kind = "http"
            what = "HTTP request"
            fields = { method = "self.method or self._method", timeout = "self.timeout" }
            [[context]]
            module = "pool"
            function = "Pool.open"
            kind = "http"
            what = "HTTP request"
            fields = { method = "method", url = "options[\"url\"]", nothing = "missing" }
            [[context]]
            module = "task"
            function = "run"
            kind = "task"
            what = "task"
            fields = { name = "name" }
            "#,
        )
        .unwrap();
        let connection = Value::Object {
            type_name: "client.Connection".into(),
            address: Address(8),
            name: None,
            content: None,
            attributes: vec![
                Attribute {
                    name: "_method".into(),
                    value: text("POST"),
                },
                Attribute {
                    name: "timeout".into(),
                    value: Value::None,
                },
            ],
            length: 2,
        };
        let options = Value::Dict {
            entries: vec![Entry {
                key: text("url"),
                value: text("/pods"),
            }],
            length: 1,
        };
        let frames = [
            frame("socket", "recv", &[]),
            frame("client", "read", &[("self", connection)]),
            frame(
                "pool",
                "Pool.open",
                &[("method", text("other")), ("options", options)],
            ),
            frame("task", "run", &[("name", text("x"))]),
        ];
        let context = find_context(&frames, &rules).unwrap();
        let fields: Vec<_> = context
            .fields
            .iter()
            .map(|field| (field.name.as_str(), field.value.to_string()))
            .collect();
        let expected = [
            ("method", "'POST'"),
            ("url", "'/pods'"),
            ("timeout", "None"),
        ];
        assert_eq!(
            fields,
            expected.map(|(name, value)| (name, value.to_owned()))
        );
        assert_eq!(context.what, "HTTP request");
        assert_eq!(find_context(&frames[..1], &rules), None);
    }
}
