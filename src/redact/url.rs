//! Secrets in URLs: user info, parts of paths, parameters.

use std::ops::Range;

use super::names::{NameClass, class_of_parameter, looks_random};
use super::shapes::shown_parts;

/// Longest scheme.
const MAX_SCHEME: usize = 32;

/// How many parts behind such a one may be a secret: an id can stand between.
const MAX_BEHIND: usize = 2;
/// Parts of paths that a secret follows: links that are sent by mail, and hooks.
const BEFORE_SECRETS: [&str; 30] = [
    "reset",
    "recover",
    "recovery",
    "verify",
    "verification",
    "confirm",
    "confirmation",
    "activate",
    "activation",
    "magic",
    "invite",
    "invites",
    "invitation",
    "invitations",
    "join",
    "unsubscribe",
    "optout",
    "webhook",
    "webhooks",
    "webhookb2",
    "hook",
    "hooks",
    "token",
    "tokens",
    "key",
    "signed",
    "share",
    "shared",
    "passwordless",
    "integration",
];

/// What is to be hidden in a text, as ranges in ascending order without overlaps.
///
/// `is_cut` says that the text goes on beyond its end: what stands there may be the beginning of a user info.
pub(super) fn find_in_urls(text: &str, is_cut: bool) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(start) = next_url(text, from) {
        let after = match start {
            Start::Authority(at) => at,
            Start::Path(at) => at,
        };
        let end = after + end_of_url(&text[after..]);
        let path = match start {
            Start::Path(at) => (String::new(), at),
            Start::Authority(at) => {
                let (info, host_at) = user_info(&text[at..end]);
                let whole_rest = end == text.len() && is_cut;
                let authority = &text[at + host_at..end];
                let authority_end = authority.find(['/', '?', '#']).unwrap_or(authority.len());
                match info {
                    Some(info) => found.push(at + info.start..at + info.end),
                    None if whole_rest && authority_end == authority.len() && end > at => {
                        found.push(at..end);
                    }
                    None => {}
                }
                let host = &authority[..authority_end];
                let host = host.split(':').next().unwrap_or(host);
                (host.to_ascii_lowercase(), at + host_at + authority_end)
            }
        };
        if path.1 < end {
            find_in_path(&text[path.1..end], path.1, &path.0, &mut found);
        }
        from = end.max(after);
    }
    found
}

/// Where a URL, or a path without one, begins.
enum Start {
    /// After `://`.
    Authority(usize),
    /// At its slash.
    Path(usize),
}

fn next_url(text: &str, from: usize) -> Option<Start> {
    let bytes = text.as_bytes();
    let mut at = from;
    while at < bytes.len() {
        if bytes[at] == b'/' {
            let before = at.checked_sub(1).map(|before| bytes[before]);
            let is_double = bytes.get(at + 1) == Some(&b'/');
            if before == Some(b':') && is_double && has_scheme(&bytes[..at - 1]) {
                return Some(Start::Authority(at + 2));
            }
            let stands_free = before
                .is_none_or(|byte| byte.is_ascii_whitespace() || b"\"'=([{,`>".contains(&byte));
            if stands_free && !is_double {
                return Some(Start::Path(at));
            }
        }
        at += 1;
    }
    None
}

fn has_scheme(before: &[u8]) -> bool {
    let scheme = before
        .iter()
        .rev()
        .take(MAX_SCHEME)
        .take_while(|byte| byte.is_ascii_alphanumeric() || b"+.-".contains(byte));
    scheme.last().is_some_and(u8::is_ascii_alphanumeric)
}

/// Where what may belong to a URL ends.
fn end_of_url(text: &str) -> usize {
    let is_over = |letter: char| letter.is_whitespace() || "\"'`".contains(letter);
    text.find(is_over).unwrap_or(text.len())
}

/// The user info of an authority without what marks it as redacted, and where the host begins.
fn user_info(rest: &str) -> (Option<Range<usize>>, usize) {
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    if let Some(at) = rest[..end].rfind('@') {
        return (Some(0..at), at + 1);
    }
    // A password that has a `/`, `?` or `#` in it.
    if let Some(colon) = rest[..end].find(':')
        && let Some(at) = rest[colon..].find('@').map(|at| colon + at)
    {
        let behind = &rest[colon + 1..at];
        let after_port = behind.trim_start_matches(|letter: char| letter.is_ascii_digit());
        let is_port = after_port.len() < behind.len() && after_port.starts_with(['/', '?', '#']);
        // The address of a host, as `[::1]`.
        if !is_port && !rest.starts_with('[') {
            return (Some(0..at), at + 1);
        }
    }
    (None, 0)
}

fn find_in_path(text: &str, base: usize, host: &str, found: &mut Vec<Range<usize>>) {
    let path_end = text.find(['?', '#']).unwrap_or(text.len());
    let mut hide = |range: Range<usize>| found.push(base + range.start..base + range.end);
    let hides_from = shown_parts(host);
    let (mut at, mut index, mut expected) = (0, 0, 0_usize);
    for part in text[..path_end].split('/') {
        let range = at..at + part.len();
        at += part.len() + 1;
        // Before the first slash is nothing.
        if range.start == 0 {
            continue;
        }
        if let Some(keep) = hides_from
            && index >= keep
        {
            if !part.is_empty() {
                hide(range.start..text[..path_end].trim_end_matches('/').len());
            }
            break;
        }
        index += 1;
        if is_bot(part) {
            hide(range.start + "bot".len()..range.end);
        } else if expected > 0 && (looks_random(part) || is_long_hex(part)) {
            hide(range);
            expected -= 1;
        } else {
            expected = match expects_secret(part) {
                true => MAX_BEHIND,
                false => expected - usize::from(expected > 0),
            };
        }
    }
    let mut at = path_end;
    for parameter in text[path_end..].split_inclusive(['?', '#', '&', ';']) {
        let start = at;
        at += parameter.len();
        let parameter = parameter.trim_end_matches(['?', '#', '&', ';']);
        let Some((name, value)) = parameter.split_once('=') else {
            continue;
        };
        if is_secret_parameter(name, value) {
            hide(start + name.len() + 1..start + parameter.len());
        }
    }
}

/// `bot110201543:AAH…`, as in the paths of Telegram's API.
fn is_bot(part: &str) -> bool {
    part.strip_prefix("bot")
        .and_then(|rest| rest.split_once(':').or_else(|| rest.split_once("%3A")))
        .is_some_and(|(id, token)| {
            !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()) && !token.is_empty()
        })
}

/// Digits of a UUID, hash or number made by chance.
fn is_long_hex(part: &str) -> bool {
    part.len() >= 16
        && part
            .bytes()
            .all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

fn expects_secret(part: &str) -> bool {
    let small = part.to_ascii_lowercase();
    let mut words = small.split(['-', '_']);
    words.any(|word| BEFORE_SECRETS.contains(&word))
}

fn is_secret_parameter(name: &str, value: &str) -> bool {
    if value.is_empty() || value.starts_with(super::REDACTED) {
        return false;
    }
    match class_of_parameter(name) {
        NameClass::Secret => true,
        NameClass::Webhook => value.len() >= 8,
        NameClass::Pin => value.len() >= 4,
        NameClass::Doubtful => looks_random(value) || is_long_hex(value) || value.len() >= 32,
        NameClass::Plain => false,
    }
}

/// A URL with nothing shown behind its host, if the text is one.
pub(super) fn only_host(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    if text.contains(char::is_whitespace) || !has_scheme(scheme.as_bytes()) {
        return None;
    }
    let (info, host_at) = user_info(rest);
    let host = &rest[host_at..];
    let end = host.find(['/', '?', '#']).unwrap_or(host.len());
    let info = info.map_or(String::new(), |_| format!("{}@", super::REDACTED));
    let path = match host[end..].len() {
        0 | 1 => String::new(),
        _ => format!("/{}", super::REDACTED),
    };
    Some(format!("{scheme}://{info}{}{path}", &host[..end]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redact::redact_text;

    #[test]
    fn secrets_in_urls() {
        let known = [
            (
                "https://api.telegram.org/bot110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw/sendMessage",
                "https://api.telegram.org/bot<redacted>/sendMessage",
            ),
            (
                "https://discord.com/api/webhooks/123456789/a1B2c3D4e5F6g7H8",
                "https://discord.com/api/webhooks/123456789/<redacted>",
            ),
            ("/reset/MQ/c3x-5a8f2e1b9d", "/reset/MQ/<redacted>"),
            (
                "GET /password-reset/8f14e45fceea167a HTTP/1.1",
                "GET /password-reset/<redacted> HTTP/1.1",
            ),
            (
                "https://h/cb?code=4f9a8b7c6d&state=x9Y8z7W6&page=2",
                "https://h/cb?code=<redacted>&state=<redacted>&page=2",
            ),
            (
                "https://a.blob.core.windows.net/c/b?sv=2022-11-02&sig=ab%2Bc%3D",
                "https://a.blob.core.windows.net/c/b?sv=2022-11-02&sig=<redacted>",
            ),
            (
                "https://b.s3.amazonaws.com/k?X-Amz-Date=20240101T000000Z&X-Amz-Signature=0a1b",
                "https://b.s3.amazonaws.com/k?X-Amz-Date=20240101T000000Z&X-Amz-Signature=<redacted>",
            ),
            (
                "https://h/invite/550e8400-e29b-41d4-a716-446655440000",
                "https://h/invite/<redacted>",
            ),
            (
                "https://h/#access_token=abc&x=1",
                "https://h/#access_token=<redacted>&x=1",
            ),
        ];
        for (given, expected) in known {
            assert_eq!(redact_text(given, false), expected);
            assert_eq!(redact_text(expected, false), expected);
        }
    }

    #[test]
    fn what_stays_readable() {
        for text in [
            "POST https://10.96.0.1:443/api/v1/namespaces/airflow/pods",
            "/api/v1/namespaces/airflow/pods/etl-550e8400-e29b-41d4-a716-446655440000/log?tailLines=100",
            "https://github.com/a/b/commit/0123456789abcdef0123456789abcdef01234567",
            "https://h/issues?state=open&code=404&page=2",
            "/usr/lib/python3.11/site-packages/urllib3/connectionpool.py",
            "https://h/verify/email",
            "https://h/webhooks/github",
            "/hooks/12345",
            "http://[::1]:8080/a@b",
            "s3://bucket/year=2024/month=01/part-00001.parquet",
        ] {
            assert_eq!(redact_text(text, false), text);
        }
    }

    #[test]
    fn a_webhook_shows_its_host() {
        assert_eq!(
            only_host("https://u:p@h:8/a/b?c").as_deref(),
            Some("https://<redacted>@h:8/<redacted>")
        );
        assert_eq!(only_host("https://h/").as_deref(), Some("https://h"));
        assert_eq!(only_host("no url"), None);
    }
}
