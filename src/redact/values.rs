//! Secrets in values: of variables, dicts, attributes, arguments.

use super::command::{redact_command, redact_prose};
use super::names::{NameClass, class_of, looks_random};
use super::statement::is_statement;
use super::text::{redact_statement, redact_text, unescaped_length};
use super::url::only_host;
use crate::model::{Context, Entry, Local, Value};

/// Names of what holds statements of SQL.
const STATEMENTS: [&str; 8] = [
    "sql",
    "query",
    "stmt",
    "statement",
    "operation",
    "raw_sql",
    "sql_query",
    "querystring",
];

/// Takes the secrets out of what a stuck call is about.
pub fn redact_context(context: &mut Context) {
    let is_sql = context.kind == "sql";
    for field in &mut context.fields {
        let value = std::mem::replace(&mut field.value, Value::Redacted);
        let is_statement = is_sql
            && matches!(
                field.name.as_str(),
                "statement" | "query" | "command" | "operation" | "sql"
            );
        let value = match is_statement {
            true => map_text(value, &mut redact_statement),
            false => value,
        };
        field.value = redact_named(&field.name, value);
    }
}

/// A local variable without secrets.
pub(super) fn redact_local(local: &Local) -> Local {
    Local {
        name: local.name.clone(),
        argument: local.argument,
        value: redact_named(&local.name, local.value.clone()),
    }
}

/// The value of a variable, key or attribute `name` without secrets.
pub fn redact_named(name: &str, value: Value) -> Value {
    // That there is none, or whether there is one, is no secret.
    if matches!(value, Value::None | Value::Bool { .. } | Value::Redacted) {
        return value;
    }
    let text = text_of(&value);
    match class_of(name) {
        NameClass::Secret => return Value::Redacted,
        NameClass::Pin => {
            let has_digits = match &value {
                Value::Int { text, .. } => text.as_ref().is_none_or(|text| text.len() >= 4),
                _ => text.is_some_and(|text| text.len() >= 4),
            };
            if has_digits {
                return Value::Redacted;
            }
        }
        NameClass::Doubtful => {
            // Bytes that are no text are a key or a hash.
            let is_binary = matches!(&value, Value::Bytes { text, .. } if text.contains("\\x"));
            if is_binary || text.is_some_and(looks_random) {
                return Value::Redacted;
            }
        }
        NameClass::Webhook => {
            if let Value::Str { text, length } = &value
                && let Some(text) = only_host(text)
            {
                return Value::Str {
                    text,
                    length: *length,
                };
            }
            if text.is_some_and(looks_random) {
                return Value::Redacted;
            }
        }
        NameClass::Plain => {}
    }
    let small = name.to_ascii_lowercase();
    if STATEMENTS.contains(&small.as_str()) {
        let value = map_text(value, &mut |text, is_cut| match is_statement(text, true) {
            true => redact_statement(text, is_cut),
            false => text.to_owned(),
        });
        return redact_value(value);
    }
    redact_value(value)
}

/// A value without the secrets in it.
pub fn redact_value(value: Value) -> Value {
    match value {
        Value::Str { .. } | Value::Bytes { .. } => map_text(value, &mut redact_prose),
        Value::List { items, length } => Value::List {
            items: redact_items(items),
            length,
        },
        Value::Tuple { items, length } => Value::Tuple {
            items: redact_items(items),
            length,
        },
        Value::Set { items, length } => Value::Set {
            items: items.into_iter().map(redact_value).collect(),
            length,
        },
        Value::FrozenSet { items, length } => Value::FrozenSet {
            items: items.into_iter().map(redact_value).collect(),
            length,
        },
        Value::Dict { entries, length } => {
            let entries = entries.into_iter().map(|Entry { key, value }| Entry {
                value: match text_of(&key) {
                    Some(name) => redact_named(name, value),
                    None => redact_value(value),
                },
                key: redact_value(key),
            });
            Value::Dict {
                entries: entries.collect(),
                length,
            }
        }
        Value::Object {
            type_name,
            address,
            name,
            content,
            mut attributes,
            length,
        } => {
            for attribute in &mut attributes {
                let value = std::mem::replace(&mut attribute.value, Value::None);
                attribute.value = redact_named(&attribute.name, value);
            }
            // A class of secrets, such as `SecretStr`, may be a text itself.
            let content = content.map(|content| Box::new(redact_named(&type_name, *content)));
            Value::Object {
                type_name,
                address,
                name,
                content,
                attributes,
                length,
            }
        }
        other => other,
    }
}

/// Items of a list or tuple: the second of a pair is what the first names, and a list with options in it is a command line.
fn redact_items(items: Vec<Value>) -> Vec<Value> {
    if let [name, _] = items.as_slice()
        && let Some(name) = text_of(name).map(str::to_owned)
        && !name.starts_with('-')
    {
        let mut items = items.into_iter();
        let first = items.next().map(redact_value);
        let second = items.next().map(|value| redact_named(&name, value));
        return first.into_iter().chain(second).collect();
    }
    let texts: Vec<String> = items.iter().map(plain_text).collect();
    let has_options = texts
        .iter()
        .any(|text| text.starts_with('-') || text.contains('='));
    let is_command = has_options || texts.first().is_some_and(|first| !first.is_empty());
    if !is_command || texts.len() < 2 {
        return items.into_iter().map(redact_value).collect();
    }
    let shown = redact_command(&texts);
    let redacted = items.into_iter().zip(texts).zip(shown);
    redacted
        .map(|((item, text), shown)| match text_of(&item) {
            _ if shown == text => redact_value(item),
            Some(_) => map_text(item, &mut |_, is_cut| redact_text(&shown, is_cut)),
            // Of another type, and in the place of a secret.
            None if matches!(item, Value::None | Value::Bool { .. }) => item,
            None => Value::Redacted,
        })
        .collect()
}

/// The text of a text or of bytes, without the escapes of a literal.
fn plain_text(value: &Value) -> String {
    let text = text_of(value).unwrap_or_default();
    match value {
        Value::Bytes { .. } => unescape(text),
        _ => text.to_owned(),
    }
}

fn text_of(value: &Value) -> Option<&str> {
    match value {
        Value::Str { text, .. } | Value::Bytes { text, .. } => Some(text),
        // A subclass of str, as the keys of some headers are.
        Value::Object {
            content: Some(content),
            ..
        } => match &**content {
            Value::Str { text, .. } | Value::Bytes { text, .. } => Some(text),
            _ => None,
        },
        _ => None,
    }
}

/// A text or bytes with another text; `change` is given whether it is cut. Bytes are changed as the text that they are, without the
/// escapes of a literal.
fn map_text(value: Value, change: &mut dyn FnMut(&str, bool) -> String) -> Value {
    match value {
        Value::Str { text, length } => {
            let is_cut = length > text.len() as u64 || length > text.chars().count() as u64;
            let text = change(&text, is_cut);
            // What is shown of a whole text is whole.
            let length = match is_cut {
                true => length,
                false => text.chars().count() as u64,
            };
            Value::Str { text, length }
        }
        Value::Bytes { text, length } => {
            let is_cut = length > unescaped_length(&text);
            let plain = unescape(&text);
            let changed = change(&plain, is_cut);
            // What has no secret in it stays as it was read.
            let text = match changed == plain {
                true => text,
                false => escape(&changed),
            };
            let length = match is_cut {
                true => length,
                false => unescaped_length(&text),
            };
            Value::Bytes { text, length }
        }
        Value::Object {
            type_name,
            address,
            name,
            content,
            attributes,
            length,
        } => Value::Object {
            type_name,
            address,
            name,
            content: content.map(|content| Box::new(map_text(*content, change))),
            attributes,
            length,
        },
        other => other,
    }
}

/// Where bytes that are no ASCII are put while a text is changed: a part of Unicode for private use.
const HIGH: u32 = 0x10_f700;

/// The text that a bytes literal stands for.
fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            plain.push(letter);
            continue;
        }
        match letters.next() {
            Some('n') => plain.push('\n'),
            Some('r') => plain.push('\r'),
            Some('t') => plain.push('\t'),
            Some('x') => {
                let digits: String = letters.by_ref().take(2).collect();
                let byte = u32::from_str_radix(&digits, 16).unwrap_or(0x3f);
                plain.extend(char::from_u32(HIGH + byte));
            }
            Some(other) => plain.push(other),
            None => plain.push('\\'),
        }
    }
    plain
}

fn escape(plain: &str) -> String {
    let mut text = String::with_capacity(plain.len());
    for letter in plain.chars() {
        match letter {
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\\' | '\'' | '"' => text.extend(['\\', letter]),
            _ => match u32::from(letter).checked_sub(HIGH) {
                Some(byte) if byte < 256 => text.push_str(&format!("\\x{byte:02x}")),
                _ => text.push(letter),
            },
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Address, Attribute, ContextField};

    fn text(text: &str) -> Value {
        Value::Str {
            text: text.to_owned(),
            length: text.chars().count() as u64,
        }
    }

    #[test]
    fn a_text_that_is_cut_inside_of_a_secret() {
        let cut = |text: &str| Value::Str {
            text: text.to_owned(),
            length: 5000,
        };
        let shown = redact_value(cut("postgresql://user:secr")).to_string();
        assert!(!shown.contains("secr"), "{shown}");
        let shown = redact_value(cut("password='very secret")).to_string();
        assert!(!shown.contains("very"), "{shown}");
    }

    #[test]
    fn values_inside_values() {
        let pair = |name: &str, value: &str| Value::Tuple {
            items: vec![text(name), text(value)],
            length: 2,
        };
        let headers = Value::List {
            items: vec![pair("Authorization", "hush"), pair("Accept", "open")],
            length: 2,
        };
        let command = Value::List {
            items: vec![text("psql"), text("--password"), text("hush"), text("open")],
            length: 4,
        };
        let settings = Value::Dict {
            entries: vec![
                Entry {
                    key: text("DB_PASSWORD"),
                    value: text("hush"),
                },
                Entry {
                    key: text("url"),
                    value: text("x://a:hush@open/"),
                },
                Entry {
                    key: text("no_token"),
                    value: Value::None,
                },
            ],
            length: 3,
        };
        let object = Value::Object {
            type_name: "a.SecretStr".to_owned(),
            address: Address(16),
            name: None,
            content: Some(Box::new(text("hush"))),
            attributes: vec![
                Attribute {
                    name: "_token".to_owned(),
                    value: text("hush"),
                },
                Attribute {
                    name: "open".to_owned(),
                    value: settings.clone(),
                },
            ],
            length: 2,
        };
        for value in [headers, command, settings, object] {
            let before = value.to_string();
            let after = redact_named("x", value).to_string();
            assert!(
                before.contains("hush") && before.contains("open"),
                "{before}"
            );
            assert!(!after.contains("hush") && after.contains("open"), "{after}");
        }
        assert_eq!(redact_named("password", text("x")), Value::Redacted);
        assert_eq!(redact_named("password", Value::None), Value::None);
    }

    #[test]
    fn statements_bytes_and_doubtful_names() {
        let shown = |name: &str, value: Value| redact_named(name, value).to_string();
        assert_eq!(
            shown("query", text("Select 'x' From y")),
            "'Select ? From y'"
        );
        assert_eq!(
            shown("x", text("SELECT a FROM b WHERE c = 5")),
            "'SELECT a FROM b WHERE c = ?'"
        );
        let bytes = |text: &str| Value::Bytes {
            text: text.to_owned(),
            length: unescaped_length(text),
        };
        let statement = bytes(r"SELECT a FROM b WHERE c = \'hush\' AND d = \'\xc3\'");
        assert_eq!(
            shown("x", statement),
            "b'SELECT a FROM b WHERE c = ? AND d = ?'"
        );
        assert_eq!(
            shown("x", bytes(r"GET / HTTP/1.1\r\nCookie: a=b\r\nHost: \xff")).replace("...", ""),
            r"b'GET / HTTP/1.1\r\nCookie: <redacted>\r\nHost: \xff'"
        );
        assert_eq!(shown("key", bytes(r"\x8f\x12\x00")), "<redacted>");
        assert_eq!(shown("key", text("customer:42")), "'customer:42'");
        assert_eq!(shown("key", text("f3b1c2d4e5a60718")), "<redacted>");
        assert_eq!(
            shown(
                "pin",
                Value::Int {
                    text: Some("17".into()),
                    bits: 5
                }
            ),
            "17"
        );
        assert_eq!(shown("pin", text("4711")), "<redacted>");
    }

    #[test]
    fn commands_in_lists() {
        let list = |items: Vec<Value>| Value::List {
            length: items.len() as u64,
            items,
        };
        let command = ["mysql", "-phush", "-h", "db"].map(text).to_vec();
        let shown = redact_value(list(command)).to_string();
        assert_eq!(shown, "['mysql', '-p<redacted>', '-h', 'db']");
        let lines = ["GET / HTTP/1.1", "Authorization: hush", "Host: h"].map(|line| Value::Bytes {
            text: line.to_owned(),
            length: line.len() as u64,
        });
        let shown = redact_value(list(lines.to_vec())).to_string();
        assert_eq!(
            shown,
            "[b'GET / HTTP/1.1', b'Authorization: <redacted>', b'Host: h']"
        );
        let cut = Value::Str {
            text: "password=hush postgresql://ann:hush".to_owned(),
            length: 5000,
        };
        let shown = redact_value(list(vec![text("app"), cut, text("x")])).to_string();
        assert!(!shown.contains("hush"), "{shown}");
    }

    #[test]
    fn a_context_of_sql_is_shown_without_literals() {
        let mut context = Context {
            kind: "sql".into(),
            what: "SQL statement".into(),
            fields: vec![ContextField {
                name: "statement".into(),
                value: text("VACUUM (x 'hush') 17"),
            }],
        };
        redact_context(&mut context);
        assert_eq!(context.fields[0].value.to_string(), "'VACUUM (x ?) ?'");
    }
}
