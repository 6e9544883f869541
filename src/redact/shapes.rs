//! Tokens that are secrets by their shape, and the other data of `secrets.toml`.

use std::ops::Range;
use std::sync::LazyLock;

use regex_lite::Regex;
use serde::Deserialize;

/// Longest part of a word that a shape is compared with; what follows a token in the same word is hidden with it.
const MAX_TOKEN: usize = 512;
/// Shortest word that can be a token.
const MIN_TOKEN: usize = 12;
/// Most comparisons of one text. A text that calls for more was made to cost time: the rest of it is hidden.
const MAX_ATTEMPTS: usize = 1000;

/// What `secrets.toml` says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "token")]
    tokens: Vec<TokenRule>,
    #[serde(rename = "service")]
    services: Vec<Service>,
    #[serde(rename = "program")]
    programs: Vec<Program>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "what only tests and readers need is data too")]
struct TokenRule {
    name: String,
    #[serde(default)]
    prefix: Vec<String>,
    infix: Option<String>,
    rest: String,
    #[serde(default)]
    ends_word: bool,
    found: String,
    innocent: String,
    documented: String,
}

/// A host whose paths are secrets.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "what only tests and readers need is data too")]
pub(super) struct Service {
    /// The host, or with a dot first the end of its name.
    host: String,
    /// How many parts of the path are shown.
    keep: usize,
    found: String,
    shown: String,
    documented: String,
}

/// A program that takes secrets as arguments.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "what only tests and readers need is data too")]
pub(super) struct Program {
    /// Its names.
    pub(super) name: Vec<String>,
    /// Options whose next argument is the secret.
    #[serde(default)]
    pub(super) separate: Vec<String>,
    /// Options with the secret in the same argument.
    #[serde(default)]
    pub(super) attached: Vec<String>,
    /// Options whose argument is `user:password`.
    #[serde(default)]
    pub(super) user: Vec<String>,
    /// Arguments that are followed by a secret, without being options.
    #[serde(default)]
    pub(super) after: Vec<String>,
    /// Whether the first argument that is no option is another program.
    #[serde(default)]
    pub(super) runs_another: bool,
    /// Arguments after which the last argument is a secret.
    #[serde(default)]
    pub(super) last_of: Vec<String>,
    found: Vec<String>,
    shown: Vec<String>,
    documented: String,
}

/// A rule that is ready to be used. Its pattern is compiled when it is first needed.
struct Token {
    infix: Option<String>,
    pattern: LazyLock<Option<Regex>, Box<dyn FnOnce() -> Option<Regex> + Send>>,
    ends_word: bool,
}

/// All that is known.
struct Shapes {
    tokens: Vec<Token>,
    /// By the first byte, the prefixes with their rules, the longest ones first.
    by_first: Vec<Vec<(String, usize)>>,
    /// The rules without a prefix.
    unprefixed: Vec<usize>,
    services: Vec<Service>,
    programs: Vec<Program>,
}

static SHAPES: LazyLock<Option<Shapes>> = LazyLock::new(|| {
    Some(Shapes::new(
        toml::from_str(include_str!("secrets.toml")).ok()?,
    ))
});

impl Shapes {
    fn new(file: File) -> Shapes {
        let mut by_first: Vec<Vec<(String, usize)>> = vec![Vec::new(); 256];
        let (mut tokens, mut unprefixed) = (Vec::new(), Vec::new());
        for rule in file.tokens {
            if rule.prefix.is_empty() {
                unprefixed.push(tokens.len());
            }
            for prefix in rule.prefix {
                if let Some(first) = prefix.bytes().next() {
                    by_first[usize::from(first)].push((prefix, tokens.len()));
                }
            }
            let rest = format!("^(?:{})", rule.rest);
            tokens.push(Token {
                infix: rule.infix,
                pattern: LazyLock::new(Box::new(move || Regex::new(&rest).ok())),
                ends_word: rule.ends_word,
            });
        }
        for prefixes in &mut by_first {
            prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        }
        Shapes {
            tokens,
            by_first,
            unprefixed,
            services: file.services,
            programs: file.programs,
        }
    }
}

/// The program of this name, if it takes secrets as arguments.
pub(super) fn find_program(name: &str) -> Option<&'static Program> {
    let programs = SHAPES.as_ref()?.programs.iter();
    programs
        .into_iter()
        .find(|program| program.name.iter().any(|known| known == name))
}

/// How many parts of a path are shown at this host, if its paths are secrets.
pub(super) fn shown_parts(host: &str) -> Option<usize> {
    let services = &SHAPES.as_ref()?.services;
    let is_it = |service: &&Service| match service.host.starts_with('.') {
        true => host.ends_with(&service.host),
        false => host == service.host,
    };
    services.iter().find(is_it).map(|service| service.keep)
}

/// Where the tokens of a text are, in ascending order, without overlaps.
pub(super) fn find_tokens(text: &str) -> Vec<Range<usize>> {
    if text.len() < MIN_TOKEN {
        return Vec::new();
    }
    let Some(shapes) = &*SHAPES else {
        // Never, as the tests show; but then nothing may be shown.
        return std::iter::once(0..text.len()).collect();
    };
    let bytes = text.as_bytes();
    // Where each infix stands; rules whose infix does not are left out.
    let infixes: Vec<Option<Vec<usize>>> = shapes
        .tokens
        .iter()
        .map(|token| {
            let infix = token.infix.as_deref()?;
            Some(text.match_indices(infix).map(|(at, _)| at).collect())
        })
        .collect();
    let (mut found, mut attempts, mut at, mut word_end) = (Vec::new(), 0, 0, 0);
    while at < bytes.len() {
        if at >= word_end {
            word_end = at
                + bytes[at..]
                    .iter()
                    .take_while(|byte| is_of_token(**byte))
                    .count();
            if word_end - at < MIN_TOKEN {
                at = word_end.max(at + 1);
                continue;
            }
        }
        let is_start = at == 0 || !bytes[at - 1].is_ascii_alphanumeric();
        if !is_start {
            at += 1;
            continue;
        }
        // A word is ASCII, so that each of its bytes begins a character.
        let word = &text[at..word_end.min(at + MAX_TOKEN)];
        let prefixed = shapes.by_first[usize::from(bytes[at])]
            .iter()
            .filter(|(prefix, _)| word.starts_with(prefix.as_str()))
            .map(|(prefix, rule)| (prefix.len(), *rule));
        let candidates = prefixed.chain(shapes.unprefixed.iter().map(|rule| (0, *rule)));
        let mut length = None;
        for (prefix, rule) in candidates {
            if let Some(places) = &infixes[rule] {
                let next = places.partition_point(|place| *place < at);
                if places
                    .get(next)
                    .is_none_or(|place| *place >= at + word.len())
                {
                    continue;
                }
            }
            attempts += 1;
            let token = &shapes.tokens[rule];
            length = token.length(&word[prefix..]).map(|length| prefix + length);
            if length.is_some() {
                break;
            }
        }
        if attempts > MAX_ATTEMPTS {
            found.push(at..bytes.len());
            break;
        }
        match length {
            Some(length) => {
                let mut end = at + length;
                if length == word.len() {
                    end = word_end;
                }
                found.push(at..end);
                at = end;
            }
            None => at += 1,
        }
    }
    found
}

impl Token {
    /// How long the token at the beginning of a text is, if there is one.
    fn length(&self, text: &str) -> Option<usize> {
        let end = self.pattern.as_ref()?.find(text)?.end();
        let next = text.as_bytes().get(end);
        let is_whole = !next.is_some_and(u8::is_ascii_alphanumeric);
        (!self.ends_word || is_whole).then_some(end)
    }
}

fn is_of_token(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"\"'<>`\\".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redact::{redact_command, redact_text};

    fn file() -> File {
        toml::from_str(include_str!("secrets.toml")).unwrap()
    }

    #[test]
    fn every_token_is_found_by_its_own_rule_and_no_innocent_is() {
        let rules = file().tokens;
        assert!(rules.len() >= 80);
        for rule in rules {
            let name = rule.name.clone();
            let (found, innocent) = (rule.found.replace('|', ""), rule.innocent.clone());
            assert!(rule.documented.starts_with("http"), "{name}");
            let alone = Regex::new(&format!("^(?:{})", rule.rest)).unwrap();
            let matches = |text: &str| match rule.prefix.is_empty() {
                true => alone.is_match(text),
                false => rule.prefix.iter().any(|prefix| {
                    let rest = text.strip_prefix(prefix.as_str());
                    rest.is_some_and(|rest| alone.is_match(rest))
                }),
            };
            assert!(matches(&found) && !matches(&innocent), "{name}");
            let places = find_tokens(&found);
            assert!(
                places.len() == 1 && places[0] == (0..found.len()),
                "{name}: {found}"
            );
            assert!(find_tokens(&innocent).is_empty(), "{name}: {innocent}");
            let sentence = format!("x = {found}, and ({innocent})");
            let shown = redact_text(&sentence, false);
            assert!(
                !shown.contains(&found[..found.len() - 1]),
                "{name}: {shown}"
            );
            assert!(shown.contains(&innocent), "{name}: {shown}");
        }
    }

    #[test]
    fn every_service_hides_its_paths() {
        for service in file().services {
            assert!(service.documented.starts_with("http"));
            assert_eq!(redact_text(&service.found, false), service.shown);
            assert_eq!(redact_text(&service.shown, false), service.shown);
        }
    }

    #[test]
    fn every_program_hides_its_passwords() {
        for program in file().programs {
            assert!(program.documented.starts_with("http"));
            assert_eq!(redact_command(&program.found), program.shown);
            assert_eq!(redact_command(&program.shown), program.shown);
        }
    }

    #[test]
    fn a_token_that_is_longer_than_any_is_hidden_whole() {
        let token = format!("ghp_{}", "a1".repeat(2000));
        assert_eq!(redact_text(&token, false), "<redacted>");
    }

    #[test]
    fn a_text_made_of_beginnings_is_hidden_from_where_it_costs_too_much() {
        let text = "sk-x ".repeat(20_000) + &"sk-.....12345 ".repeat(5000);
        let found = find_tokens(&text);
        assert!(found.last().is_some_and(|last| last.end == text.len()));
        assert!(found[0].start > 100_000);
    }
}
