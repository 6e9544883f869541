//! Secrets in texts of any kind: headers, settings, keys, tokens, URLs, statements.
//!
//! All of it is linear in the text: nothing looks further back than a name is long, and what is hidden is skipped.

use std::ops::Range;

use super::REDACTED;
use super::names::{NameClass, class_of, looks_random};
use super::shapes::find_tokens;
use super::sql::{Mark, mark_statement};
use super::statement::is_statement;
use super::url::{find_in_urls, only_host};

/// Longest name of a setting, with the spaces behind it.
const MAX_NAME: usize = 128;
/// Longest value that is checked for randomness; a longer one counts as random.
const MAX_DOUBTFUL: usize = 512;
/// How often a text is gone over until nothing changes.
pub(super) const MAX_PASSES: usize = 6;

/// A text without the secrets in it; of a text that is cut the end may be the beginning of one.
///
/// What was redacted is so for good: to do it again changes nothing.
pub fn redact_text(text: &str, is_cut: bool) -> String {
    settle(text, |text| pass(text, is_statement(text, false), is_cut))
}

/// A statement of SQL with `?` in the place of each literal, and without other secrets.
pub(super) fn redact_statement(text: &str, is_cut: bool) -> String {
    settle(text, |text| pass(text, true, is_cut))
}

/// Does the same again until nothing changes.
pub(super) fn settle(text: &str, pass: impl Fn(&str) -> String) -> String {
    let mut shown = text.to_owned();
    for _ in 0..MAX_PASSES {
        let again = pass(&shown);
        if again == shown {
            return shown;
        }
        shown = again;
    }
    // What never comes to rest was made for that.
    REDACTED.to_owned()
}

/// Each kind of secret is searched for in the unchanged text: what one kind hides may be what another is recognised by.
fn pass(text: &str, is_statement: bool, is_cut: bool) -> String {
    let marks = match is_statement {
        true => mark_statement(text),
        false => vec![Mark::Shown; text.len()],
    };
    let mut is_secret = vec![false; text.len()];
    let found = [
        find_private_keys(text),
        find_headers(text),
        find_in_urls(text, is_cut),
        find_settings(text),
        find_tokens(text),
    ];
    for range in found.into_iter().flatten() {
        is_secret[range].fill(true);
    }
    redact_webhooks(&without(text, &marks, &is_secret))
}

/// A text with something else in the place of each stretch that is hidden.
fn without(text: &str, marks: &[Mark], is_secret: &[bool]) -> String {
    let is_hidden = |at: &usize| marks[*at] != Mark::Shown || is_secret[*at];
    let mut shown = String::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let hidden = (at..text.len()).take_while(is_hidden).count();
        let stretch = at..at + hidden;
        if marks[stretch.clone()].contains(&Mark::Shown) {
            shown.push_str(REDACTED);
        } else {
            let mut last = Mark::Shown;
            for mark in &marks[stretch.clone()] {
                if *mark != last {
                    shown.push_str(mark.text());
                }
                last = *mark;
            }
        }
        let length = (stretch.end..text.len())
            .take_while(|at| !is_hidden(at))
            .count();
        at = stretch.end + length;
        shown.push_str(&text[stretch.end..at]);
    }
    shown
}

/// Keys of PEM, to their ends or to the end of the text.
fn find_private_keys(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(start) = text[from..].find("-----BEGIN ").map(|at| from + at) {
        let begun = start + "-----BEGIN ".len();
        let head_end = text[begun..].find("-----").map(|at| begun + at);
        let is_private = head_end
            .is_some_and(|end| end - begun <= 64 && text[begun..end].contains("PRIVATE KEY"));
        if !is_private {
            from = begun;
            // A text full of beginnings is looked through once.
            if head_end.is_none() {
                break;
            }
            continue;
        }
        let body = head_end.unwrap_or(begun);
        let end = text[body..]
            .find("-----END ")
            .map(|at| body + at + "-----END ".len());
        let end = end.and_then(|end| Some(end + text[end..].find("-----")? + "-----".len()));
        from = end.unwrap_or(text.len());
        found.push(start..from);
    }
    found
}

/// The values of headers that authorize, and what follows the name of a scheme.
fn find_headers(text: &str) -> Vec<Range<usize>> {
    let small = text.to_ascii_lowercase();
    let bytes = small.as_bytes();
    let mut found: Vec<Range<usize>> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let length = match rest[0] {
            b'a' if rest.starts_with(b"authorization") => header(text, at, "authorization".len()),
            b'c' if rest.starts_with(b"cookie2") => header(text, at, "cookie2".len()),
            b'c' if rest.starts_with(b"cookie") => header(text, at, "cookie".len()),
            b'b' if is_word_start(bytes, at) && rest.starts_with(b"bearer") => {
                scheme(text, at, "bearer".len())
            }
            b'b' if is_word_start(bytes, at) && rest.starts_with(b"basic") => {
                scheme(text, at, "basic".len())
            }
            _ => None,
        };
        match length {
            Some(range) => {
                at = range.end.max(at + 1);
                found.push(range);
            }
            None => at += 1,
        }
    }
    found
}

fn is_word_start(bytes: &[u8], at: usize) -> bool {
    at == 0 || !bytes[at - 1].is_ascii_alphanumeric()
}

/// The value of a header whose name has `length` bytes.
fn header(text: &str, at: usize, length: usize) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    let mut next = at + length;
    next += count(&bytes[next..], |byte| byte == b'\\').min(2);
    next += count(&bytes[next..], |byte| byte == b'"' || byte == b'\'').min(1);
    next += count(&bytes[next..], |byte| byte == b' ').min(8);
    let sign = *bytes.get(next)?;
    if !matches!(sign, b':' | b'=') {
        return None;
    }
    next += 1;
    next += count(&bytes[next..], |byte| byte == b' ' || byte == b'\t').min(8);
    let quote = value_quote(bytes, &mut next);
    // A setting, of which the value is no longer than a word.
    if sign == b'=' && quote.is_none() {
        return None;
    }
    // Around the whole line, as in the arguments of a command.
    let outer = at.checked_sub(1).map(|before| bytes[before]);
    let outer = outer.filter(|byte| *byte == b'"' || *byte == b'\'');
    let end_quote = quote.or(outer);
    let mut end = next;
    while let Some(byte) = bytes.get(end) {
        let is_end = match end_quote {
            Some(quote) => {
                *byte == quote && (bytes[end - 1] != b'\\' || quote_is_escaped(bytes, next))
            }
            None => false,
        };
        if is_end || matches!(byte, b'\r' | b'\n') || bytes[end..].starts_with(br"\r\n") {
            break;
        }
        end += 1;
    }
    if end > next && bytes[end - 1] == b'\\' && end_quote.is_some() {
        end -= 1;
    }
    (end > next).then_some(next..end)
}

/// The quote that a value begins with; `next` is moved behind it.
fn value_quote(bytes: &[u8], next: &mut usize) -> Option<u8> {
    let mut at = *next;
    if matches!(bytes.get(at), Some(b'b' | b'u' | b'B' | b'U')) {
        at += 1;
    }
    at += count(&bytes[at..], |byte| byte == b'\\').min(2);
    let quote = bytes
        .get(at)
        .copied()
        .filter(|byte| *byte == b'"' || *byte == b'\'')?;
    *next = at + 1;
    Some(quote)
}

fn quote_is_escaped(bytes: &[u8], value: usize) -> bool {
    value >= 2 && bytes[value - 2] == b'\\'
}

/// What follows `Bearer` or `Basic`, if it looks like what does.
fn scheme(text: &str, at: usize, length: usize) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    let spaces = count(&bytes[at + length..], |byte| byte == b' ').min(8);
    let start = at + length + spaces;
    let of_token = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=_.~-".contains(&byte);
    let word = count(&bytes[start..], of_token);
    let token = &bytes[start..start + word];
    let is_likely = token.iter().any(u8::is_ascii_digit) || token.ends_with(b"=") || word >= 20;
    (spaces > 0 && word >= 8 && is_likely).then_some(start..start + word)
}

fn count(bytes: &[u8], is: impl Fn(u8) -> bool) -> usize {
    bytes.iter().take_while(|byte| is(**byte)).count()
}

/// The values of settings - `name=value`, `name: value`, `"name": "value"` - whose names are those of secrets. What another one sets is
/// looked into: it may be a URL.
fn find_settings(text: &str) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let (mut at, mut from) = (0, 0);
    while at < bytes.len() {
        let is_sign = bytes[at] == b'=' || bytes[at] == b':';
        let Some(name) = is_sign.then(|| name_before(text, from, at)).flatten() else {
            at += 1;
            continue;
        };
        at += 1;
        if bytes[at - 1] == b'=' && bytes.get(at) == Some(&b'>') {
            at += 1;
        }
        let start = at + count(&bytes[at..], |byte| byte.is_ascii_whitespace()).min(16);
        from = at;
        let class = class_of(name);
        if class == NameClass::Plain || is_placeholder(&text[start..]) {
            continue;
        }
        // What is hidden is skipped; of what is only looked at, a part must do.
        let most = match class {
            NameClass::Secret => usize::MAX,
            _ => MAX_DOUBTFUL,
        };
        let (inner, mut end) = value_at(text, start, most);
        let value = &text[inner];
        // No name of anything is that long.
        let is_long = most < usize::MAX && end - start > MAX_DOUBTFUL - char::MAX.len_utf8();
        let is_secret = match class {
            NameClass::Secret => true,
            NameClass::Pin => value.len() >= 4,
            NameClass::Doubtful | NameClass::Webhook => is_long || looks_random(value),
            NameClass::Plain => false,
        };
        if is_secret && is_long {
            end = value_at(text, start, usize::MAX).1;
        }
        if is_secret && end > start {
            found.push(start..end);
            (at, from) = (end, end);
        }
    }
    found
}

/// Whether a value begins with what stands for one: what we have hidden, or a parameter of a statement.
fn is_placeholder(rest: &str) -> bool {
    if rest.starts_with(REDACTED) {
        return true;
    }
    // The longest one is shorter.
    let rest = &rest[..rest.floor_char_boundary(8)];
    let end = rest.find(|letter: char| letter.is_whitespace() || ",;)&".contains(letter));
    let word = &rest[..end.unwrap_or(rest.len())];
    let is_number = |sign: char| {
        let digits = word.strip_prefix(sign);
        digits.is_some_and(|digits| {
            !digits.is_empty()
                && digits.len() < 4
                && digits.bytes().all(|byte| byte.is_ascii_digit())
        })
    };
    matches!(word, "?" | "%s") || is_number('$') || is_number(':')
}

/// The name that ends before a sign, in quotes perhaps.
fn name_before(text: &str, from: usize, sign: usize) -> Option<&str> {
    let bytes = &text.as_bytes()[..sign];
    let back = |end: usize, is: &dyn Fn(u8) -> bool, most: usize| {
        let lowest = from.max(end.saturating_sub(most));
        end - bytes[lowest..end]
            .iter()
            .rev()
            .take_while(|byte| is(**byte))
            .count()
    };
    let end = back(sign, &|byte| byte.is_ascii_whitespace(), 16);
    let end = back(end, &|byte| byte == b'"' || byte == b'\'', 1);
    let end = back(end, &|byte| byte == b'\\', 2);
    let start = back(
        end,
        &|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte),
        MAX_NAME,
    );
    (start < end).then(|| &text[start..end])
}

/// A value, without its quotes, and where it ends with them. Of one that is longer than `most` the beginning.
fn value_at(text: &str, start: usize, most: usize) -> (Range<usize>, usize) {
    let text = match start.checked_add(most) {
        Some(end) if end < text.len() => &text[..text.floor_char_boundary(end)],
        _ => text,
    };
    let bytes = text.as_bytes();
    let mut inner = start;
    let Some(quote) = value_quote(bytes, &mut inner) else {
        let is_over = |letter: char| letter.is_whitespace() || "&'\"".contains(letter);
        let rest = &text[start..];
        let end = start + rest.find(is_over).unwrap_or(rest.len());
        return (start..end, end);
    };
    let is_escaped = quote_is_escaped(bytes, inner);
    let mut end = inner;
    while let Some(byte) = bytes.get(end) {
        match byte {
            b'\\' if is_escaped && bytes.get(end + 1) == Some(&quote) => {
                return (inner..end, end + 2);
            }
            b'\\' => end += 2,
            byte if *byte == quote => return (inner..end, end + 1),
            _ => end += 1,
        }
    }
    (inner..text.len(), text.len())
}

/// URLs of settings that are named as webhooks, without what is behind their hosts.
fn redact_webhooks(text: &str) -> String {
    let small = text.to_ascii_lowercase();
    let Some(at) = small.find("webhook") else {
        return text.to_owned();
    };
    let (mut shown, mut from) = (text[..at].to_owned(), at);
    for (sign, _) in text
        .match_indices(['=', ':'])
        .filter(|(sign, _)| *sign >= at)
    {
        let has_url = |start: usize| {
            text.as_bytes()[start..]
                .iter()
                .take(40)
                .any(|byte| *byte == b'/')
        };
        if sign < from
            || !has_url(sign)
            || !name_before(text, from, sign)
                .is_some_and(|name| class_of(name) == NameClass::Webhook)
        {
            continue;
        }
        let start = sign + 1 + count(&text.as_bytes()[sign + 1..], |byte| byte == b' ').min(16);
        let (inner, _) = value_at(text, start, usize::MAX);
        if let Some(url) = only_host(&text[inner.clone()]) {
            shown.push_str(&text[from..inner.start]);
            shown.push_str(&url);
            from = inner.end;
        }
    }
    shown.push_str(&text[from..]);
    shown
}

/// How many bytes a text stands for in which some are escaped as `\xff`, `\n` and the like.
pub(super) fn unescaped_length(text: &str) -> u64 {
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
    fn a_long_value_is_hidden_whole() {
        for name in ["password", "key", "pin"] {
            for quote in ["", "'", "\""] {
                for length in 490..530 {
                    let value = "aB3".repeat(200);
                    let text = format!("{name}={quote}{}{quote} end", &value[..length]);
                    let shown = redact_text(&text, false);
                    assert_eq!(shown, format!("{name}=<redacted> end"), "{length}");
                }
            }
        }
    }

    #[test]
    fn what_stays_readable() {
        for text in [
            "f0e1d2c3b4a5968778695a4b3c2d1e0f01234567",
            "550e8400-e29b-41d4-a716-446655440000",
            "2024-01-31T10:00:00+00:00",
            "/var/lib/postgresql/16/main/base/16384/2619",
            "SELECT id FROM users WHERE id = ?",
            "ip-10-0-12-34.eu-west-1.compute.internal:5432",
            "sort_key=lambda row: row.key",
            "the key: value pairs",
            "basic authentication failed",
            "keyword=abc123def456",
            "primary_key=a1b2c3d4e5",
            "don't select it from 5 'lists'",
            "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        ] {
            assert_eq!(redact_text(text, false), text);
        }
    }

    #[test]
    fn a_long_text_takes_a_time_in_proportion() {
        let pieces = [
            "password=",
            "sk-",
            "://",
            "://a:b",
            "@",
            "a=",
            "eyJ",
            "-----BEGIN ",
            "-----BEGIN A PRIVATE KEY-----",
            "Authorization: \"",
            "bearer ",
            "webhook=http://",
            "/reset/",
            "?code=",
            "'",
            "\\",
            "SELECT '",
            "/*",
            "$a$",
            "AKIA",
            "1:A",
            "-us",
            "::",
            "==",
            " : ",
            "a-",
            "login password ",
            "key='",
        ];
        for piece in pieces {
            let text = format!("SELECT ( {}", piece.repeat((64 << 10) / piece.len()));
            for text in [text.as_str(), &text[9..]] {
                let started = std::time::Instant::now();
                let shown = redact_text(text, true);
                let took = started.elapsed();
                // Of a build without optimization, on a machine that does other things too; quadratic would be minutes.
                assert!(took.as_secs() < 5, "{piece}: {took:?}");
                assert_eq!(redact_text(&shown, true), shown, "{piece}");
            }
        }
    }

    proptest! {
        /// Made of what means something here.
        #[test]
        fn twice_is_once(
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    "password", "=", ":", " ", "'", "\"", "\\", "://", "@", "/", "?", "&", "#", "code", "hush123x9", "SELECT",
                    " FROM ", "(", "Authorization", "Bearer ", "webhook", "<redacted>", "\n", "--", "/*", "*/", "$a$", "reset",
                    "bot1:", "eyJhbGciOiJI.eyJzdWIiOi", "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----", "key", "ü",
                ]),
                0..24,
            ),
            is_cut in any::<bool>(),
        ) {
            let text = pieces.concat();
            let once = redact_text(&text, is_cut);
            prop_assert_eq!(redact_text(&once, is_cut), once);
        }

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
