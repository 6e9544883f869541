//! Taking secrets out of values before they are shown. Nothing is read, nothing is written.
//!
//! What is a secret is told by names - of variables, keys, attributes, options - and by the form of texts. Neither finds
//! all; what is told wrongly as a secret is the smaller harm.

use std::sync::{Arc, LazyLock};

use regex_lite::{Captures, Regex};

use crate::model::{Context, Entry, Local, ProcessSnapshot, Value};

/// What is shown in the place of a part of a text.
const REDACTED: &str = "<redacted>";
/// Longest text that can be the name of something.
const MAX_NAME: usize = 128;

/// Parts of names, without what separates words in them.
const SECRET_PARTS: [&str; 18] = [
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "secret",
    "token",
    "apikey",
    "authorization",
    "cookie",
    "privatekey",
    "credential",
    "sessionkey",
    "sessionid",
    "accesskey",
    "accountkey",
    "signingkey",
    "encryptionkey",
    "signature",
];
/// Whole words of names.
const SECRET_WORDS: [&str; 11] = [
    "auth", "pwd", "pw", "pass", "jwt", "otp", "cred", "creds", "csrf", "sig", "authkey",
];

/// Takes the secrets out of the local variables of all frames.
pub fn redact_locals(processes: &mut [ProcessSnapshot]) {
    let threads = processes.iter_mut().flat_map(|one| &mut one.threads);
    for frame in threads.flat_map(|thread| &mut thread.frames) {
        if let Some(locals) = &frame.locals {
            let redacted = locals.iter().cloned().map(|local| Local {
                value: redact_named(&local.name, local.value),
                ..local
            });
            let redacted = redacted.collect();
            Arc::make_mut(frame).locals = Some(redacted);
        }
    }
}

/// Takes the secrets out of what a stuck call is about.
pub fn redact_context(context: &mut Context) {
    for field in &mut context.fields {
        let value = std::mem::replace(&mut field.value, Value::Redacted);
        field.value = redact_named(&field.name, value);
    }
}

/// The value of a variable, key or attribute `name` without secrets.
pub fn redact_named(name: &str, value: Value) -> Value {
    // That there is none, or whether there is one, is no secret.
    let tells_nothing = matches!(value, Value::None | Value::Bool { .. } | Value::Redacted);
    if is_secret_name(name) && !tells_nothing {
        return Value::Redacted;
    }
    redact_value(value)
}

/// A value without the secrets in it.
pub fn redact_value(value: Value) -> Value {
    match value {
        Value::Str { text, length } => {
            let is_cut = length > text.len() as u64 || length > text.chars().count() as u64;
            let text = redact_text(&text, is_cut);
            Value::Str { text, length }
        }
        Value::Bytes { text, length } => {
            let text = redact_text(&text, length > unescaped_length(&text));
            Value::Bytes { text, length }
        }
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

/// Items of a list or tuple: the second of a pair is what the first names, and what follows an option is its value.
fn redact_items(items: Vec<Value>) -> Vec<Value> {
    let is_pair = items.len() == 2;
    let mut redacted = Vec::with_capacity(items.len());
    let mut name: Option<String> = None;
    for item in items {
        let next = text_of(&item)
            .filter(|text| is_pair || text.starts_with('-'))
            .map(str::to_owned);
        redacted.push(match &name {
            Some(name) => redact_named(name, item),
            None => redact_value(item),
        });
        name = next;
    }
    redacted
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

/// Whether what has this name is a secret.
pub fn is_secret_name(name: &str) -> bool {
    if name.len() > MAX_NAME {
        return false;
    }
    let joined: String = name
        .chars()
        .filter(|letter| letter.is_alphanumeric())
        .flat_map(char::to_lowercase)
        .collect();
    SECRET_PARTS.iter().any(|part| joined.contains(part))
        || words_of(name).any(|word| SECRET_WORDS.contains(&word.as_str()))
}

/// The words of `some_name`, `some-name` and `someName`, in small letters.
fn words_of(name: &str) -> impl Iterator<Item = String> {
    let mut words = vec![String::new()];
    let mut was_small = false;
    for letter in name.chars() {
        if !letter.is_alphanumeric() || letter.is_uppercase() && was_small {
            words.push(String::new());
        }
        was_small = letter.is_lowercase();
        if letter.is_alphanumeric()
            && let Some(word) = words.last_mut()
        {
            word.extend(letter.to_lowercase());
        }
    }
    words.into_iter()
}

/// A pattern; each is a constant of this file, and tested.
macro_rules! pattern {
    ($name:ident, $text:expr) => {
        static $name: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new($text).ok());
    };
}

// A key of PEM to its end, or to the end of the text.
pattern!(
    PRIVATE_KEY,
    r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)"
);
// The rest of a header's line.
pattern!(
    HEADER,
    r#"(?i)((?:authorization|cookie2?)\\?["']?\s*[:=]\s*b?\\?["']?)[^\r\n"'\\]+"#
);
pattern!(
    SCHEME,
    r"(?i)\b(bearer\s+|basic\s+)([A-Za-z0-9+/=_.~-]{8,})"
);
// `user:password@` and `token@` before a host.
pattern!(USER_INFO, r#"(?i)([a-z][a-z0-9+.-]*://)[^\s/?#'"]*@"#);
// The same where the password has a `/`, `?` or `#` in it.
pattern!(
    ODD_USER_INFO,
    r#"(?i)([a-z][a-z0-9+.-]*://)([^\s/?#@:'"]*):([^\s@'"]*)@"#
);
// A cut text that may end inside of it.
pattern!(OPEN_USER_INFO, r#"(?i)([a-z][a-z0-9+.-]*://)[^\s/?#@'"]*$"#);
// What stands before the value in `name=value`, `name: value`, `"name": "value"`.
pattern!(SETTING, r#"([A-Za-z0-9_.-]+)\\?["']?\s*(?:=>?|:)\s*"#);
// That value, quoted or up to what ends it.
pattern!(
    SETTING_VALUE,
    r#"^(?:[buBU]?\\?"(?:[^"\\]|\\.)*"?|[buBU]?\\?'(?:[^'\\]|\\.)*'?|[^\s&'"]+)"#
);
// Tokens that tell by their form what they are: AWS, GitHub, Slack, JSON web tokens.
pattern!(
    TOKEN,
    r"\b(?:A[KS]IA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|xox[abeprs]-[A-Za-z0-9-]{10,}|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?)"
);

/// A text without the secrets in it; of a text that is cut the end may be the beginning of one.
pub fn redact_text(text: &str, is_cut: bool) -> String {
    let fixed = |text: &str, pattern: &LazyLock<Option<Regex>>, by: &str| match &**pattern {
        Some(pattern) => pattern.replace_all(text, by).into_owned(),
        // Never, as the tests show; but then nothing may be told.
        None => REDACTED.to_owned(),
    };
    let text = fixed(text, &PRIVATE_KEY, REDACTED);
    let text = fixed(&text, &HEADER, "${1}<redacted>");
    let text = fixed(&text, &SCHEME, "${1}<redacted>");
    let text = fixed(&text, &USER_INFO, "${1}<redacted>@");
    let text = chosen(&text, &ODD_USER_INFO, |found| {
        let behind = found[3].trim_start_matches(|letter: char| letter.is_ascii_digit());
        // A port and a path, with an @ further on.
        let is_port = behind.len() < found[3].len() && behind.starts_with(['/', '?', '#']);
        (!is_port && &found[2] != REDACTED).then(|| format!("{}{REDACTED}@", &found[1]))
    });
    let text = redact_settings(&text);
    let text = fixed(&text, &TOKEN, REDACTED);
    if is_cut {
        return fixed(&text, &OPEN_USER_INFO, "${1}<redacted>");
    }
    text
}

/// Redacts the values of settings whose names are those of secrets. What another one sets is looked into: it may be a URL.
fn redact_settings(text: &str) -> String {
    let (Some(setting), Some(value)) = (&*SETTING, &*SETTING_VALUE) else {
        return REDACTED.to_owned();
    };
    let (mut shown, mut from) = (String::with_capacity(text.len()), 0);
    while let Some(found) = setting.captures_at(text, from) {
        let (Some(whole), Some(name)) = (found.get(0), found.get(1)) else {
            break;
        };
        let mut end = whole.end();
        shown.push_str(&text[from..end]);
        if is_secret_name(name.as_str())
            && let Some(value) = value.find(&text[end..])
            && value.as_str() != REDACTED
        {
            shown.push_str(REDACTED);
            end += value.end();
        }
        from = end;
    }
    shown.push_str(&text[from..]);
    shown
}

/// Replaces what `choose` has something for.
fn chosen(
    text: &str,
    pattern: &LazyLock<Option<Regex>>,
    choose: impl Fn(&Captures<'_>) -> Option<String>,
) -> String {
    match &**pattern {
        Some(pattern) => pattern
            .replace_all(text, |found: &Captures<'_>| {
                choose(found).unwrap_or_else(|| found[0].to_owned())
            })
            .into_owned(),
        None => REDACTED.to_owned(),
    }
}

/// How many bytes a text stands for in which some are escaped as `\xff`, `\n` and the like.
fn unescaped_length(text: &str) -> u64 {
    let (mut count, mut letters) = (0, text.chars());
    while let Some(letter) = letters.next() {
        count += 1;
        if letter == '\\' && letters.next() == Some('x') {
            letters.by_ref().take(2).for_each(drop);
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Address, Attribute};

    fn text(text: &str) -> Value {
        Value::Str {
            text: text.to_owned(),
            length: text.chars().count() as u64,
        }
    }

    #[test]
    fn all_patterns_are_sound() {
        let all = [
            &PRIVATE_KEY,
            &HEADER,
            &SCHEME,
            &USER_INFO,
            &ODD_USER_INFO,
            &OPEN_USER_INFO,
            &SETTING,
            &SETTING_VALUE,
            &TOKEN,
        ];
        assert!(all.iter().all(|pattern| pattern.is_some()));
    }

    #[test]
    fn names() {
        let secret = [
            "password",
            "DB_PASSWORD",
            "userPasswd",
            "client_secret",
            "access_token",
            "X-Api-Key",
            "api_key",
            "Authorization",
            "Set-Cookie",
            "private_key",
            "aws_credentials",
            "sessionKey",
            "AWS_SECRET_ACCESS_KEY",
            "auth",
            "http_auth",
            "pwd",
            "--password",
        ];
        for name in secret {
            assert!(is_secret_name(name), "{name}");
        }
        for name in [
            "key",
            "author",
            "path",
            "passenger",
            "url",
            "monkey",
            "host",
            "",
        ] {
            assert!(!is_secret_name(name), "{name}");
        }
    }

    #[test]
    fn texts() {
        let known = [
            (
                "https://user:pw@host/?token=x",
                "https://<redacted>@host/?token=<redacted>",
            ),
            ("https://ghp@host/a", "https://<redacted>@host/a"),
            (
                "postgresql://u:p/w#x@h:5432/db",
                "postgresql://<redacted>@h:5432/db",
            ),
            (
                "https://host:8080/a?mail=a@b",
                "https://host:8080/a?mail=a@b",
            ),
            (
                "https://host/a?id=3&api_key=x&b=1",
                "https://host/a?id=3&api_key=<redacted>&b=1",
            ),
            (
                "host=h password=s3cr;et dbname=x",
                "host=h password=<redacted> dbname=x",
            ),
            ("password='a b' dbname=x", "password=<redacted> dbname=x"),
            ("Authorization: Bearer abc.def", "Authorization: <redacted>"),
            (
                "GET / HTTP/1.1\r\nCookie: a=b; c=d\r\nHost: h",
                "GET / HTTP/1.1\r\nCookie: <redacted>\r\nHost: h",
            ),
            (
                "use bearer 0123456789abcdef now",
                "use bearer <redacted> now",
            ),
            (
                r#"{"password": "a\"b", "x": 1}"#,
                r#"{"password": <redacted>, "x": 1}"#,
            ),
            ("AKIAABCDEFGHIJKLMNOP", "<redacted>"),
            ("-----BEGIN RSA PRIVATE KEY-----\nabc", "<redacted>"),
            (
                "plain text, nothing to hide: really",
                "plain text, nothing to hide: really",
            ),
            ("https://host", "https://host"),
        ];
        for (given, expected) in known {
            assert_eq!(redact_text(given, false), expected);
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

    proptest! {
        /// Any text is taken, and what was redacted once is so for good.
        #[test]
        fn any_text_is_taken(text in any::<String>(), secret in "[a-z0-9]{6,20}", is_cut in any::<bool>()) {
            let _ = redact_text(&text, is_cut);
            let hidden = redact_text(&format!("{text} db_password={secret} {text}"), is_cut);
            prop_assert!(!hidden.contains(&secret) || text.contains(&secret), "{}", hidden);
            let hidden = redact_text(&format!("http://u:{secret}@h/"), is_cut);
            prop_assert!(!hidden.contains(&secret), "{}", hidden);
        }
    }
}
