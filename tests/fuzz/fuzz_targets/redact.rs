//! Texts of any kind, and texts made of what secrets are made of: redaction ends, is done once and for all, and hides what is planted.
#![no_main]

use arbitrary::Unstructured;
use libfuzzer_sys::{Corpus, fuzz_target};
use stuckspy::model::{Context, ContextField, Entry, Value};
use stuckspy::redact::{
    redact_command, redact_context, redact_line, redact_named, redact_text, redact_value,
};
use stuckspy_fuzz::weave::rarely;

/// What means something to one of the scanners.
const PIECES: [&str; 64] = [
    "password",
    "token",
    "key",
    "pin",
    "webhook",
    "=",
    ":",
    " ",
    "\n",
    "\r\n",
    "'",
    "\"",
    "\\",
    "\\'",
    "`",
    "://",
    "@",
    "/",
    "//",
    "?",
    "&",
    "#",
    ";",
    ",",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "-",
    "--",
    "-p",
    "-u",
    "/*",
    "*/",
    "$$",
    "$a$",
    "E'",
    "N'",
    "q'[",
    "SELECT ",
    " FROM ",
    "INSERT INTO ",
    " VALUES ",
    "IDENTIFIED BY ",
    "reset",
    "bot1:",
    "sk-",
    "eyJ",
    "AKIA",
    ":A",
    "-us",
    "AZDO",
    "-----BEGIN PRIVATE KEY-----",
    "-----END PRIVATE KEY-----",
    "Authorization",
    "Cookie",
    "Bearer ",
    "<redacted>",
    "mysql",
    "sshpass",
    "ü",
    "\u{10f7ff}",
];

fuzz_target!(|bytes: &[u8]| -> Corpus { run(bytes).map_or(Corpus::Reject, |()| Corpus::Keep) });

fn run(bytes: &[u8]) -> arbitrary::Result<()> {
    let mut u = Unstructured::new(bytes);
    let is_cut: bool = u.arbitrary()?;
    // Long ones now and then: they are slow.
    let longest = if rarely(&mut u, 32)? {
        64 << 10
    } else {
        1 << 10
    };
    let mut text = String::new();
    let mut words = vec![String::new()];
    while !u.is_empty() {
        let piece = match u.int_in_range(0..=70)? {
            known @ 0..=63 => PIECES[known].to_owned(),
            64 => "x".repeat(u.int_in_range(1..=600)?),
            65 => PIECES[u.choose_index(PIECES.len())?].repeat(u.int_in_range(1..=100)?),
            _ => u.arbitrary::<char>()?.to_string(),
        };
        text.push_str(&piece);
        match piece == " " && words.len() < 64 {
            true => words.push(String::new()),
            false => words.last_mut().expect("there is one").push_str(&piece),
        }
        if text.len() > longest {
            break;
        }
    }
    let once = redact_text(&text, is_cut);
    assert_eq!(redact_text(&once, is_cut), once, "{text:?}");
    let line = redact_line(&text);
    assert_eq!(redact_line(&line), line, "{text:?}");
    let command = redact_command(&words);
    assert_eq!(command.len(), words.len());
    assert_eq!(redact_command(&command), command, "{words:?}");

    let value = Value::Str {
        length: text.chars().count() as u64,
        text: text.clone(),
    };
    let once = redact_value(value.clone());
    assert_eq!(redact_value(once.clone()), once, "{text:?}");
    assert_eq!(redact_named("password", value.clone()), Value::Redacted);
    redact_value(Value::Bytes {
        length: text.len() as u64,
        text: text.escape_default().to_string(),
    });
    let items = words.iter().map(|word| Value::Str {
        text: word.clone(),
        length: word.chars().count() as u64,
    });
    let items: Vec<Value> = items.collect();
    redact_value(Value::List {
        length: items.len() as u64,
        items: items.clone(),
    });
    let entries = items.windows(2).map(|pair| Entry {
        key: pair[0].clone(),
        value: pair[1].clone(),
    });
    redact_value(Value::Dict {
        length: items.len() as u64,
        entries: entries.collect(),
    });
    redact_context(&mut Context {
        kind: "sql".into(),
        what: "SQL statement".into(),
        fields: vec![ContextField {
            name: "statement".into(),
            value,
        }],
    });

    // Where nothing that stands before can take it for something else, what is planted is hidden.
    let planted = "Zq7xW3vT9kLm2Np8";
    for secret in [
        format!("\n db_password={planted}"),
        format!("\n https://ann:{planted}@host/"),
        format!("\n ghp_{planted}{planted}abcd"),
    ] {
        let shown = redact_text(&format!("{text}{secret}"), is_cut);
        assert!(
            !shown.contains(planted) || text.contains(planted),
            "{text:?}: {shown}"
        );
    }
    Ok(())
}
