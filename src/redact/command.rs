//! Command lines without the secrets in them: by the names of options and environment variables, by the programs that take passwords as
//! plain arguments, and by the shape of each argument.

use std::ops::Range;

use super::REDACTED;
use super::names::{NameClass, class_of, looks_random};
use super::shapes::{Program, find_program};
use super::text::{MAX_PASSES, redact_text, settle};

/// Most arguments that are looked at one by one; what follows is hidden.
const MAX_ARGUMENTS: usize = 10_000;
/// Most bytes of all arguments that are looked at; what follows is hidden.
const MAX_BYTES: usize = 128 << 10;
/// Most bytes of an argument that is itself a command line, as of `sh -c`.
const MAX_INNER: usize = 64 << 10;

/// The arguments without secrets.
pub fn redact_command(arguments: &[String]) -> Vec<String> {
    let mut shown = redact_arguments(arguments);
    for _ in 0..MAX_PASSES {
        let again = redact_arguments(&shown);
        if again == shown {
            return shown;
        }
        shown = again;
    }
    // What never comes to rest was made for that.
    vec![REDACTED.to_owned(); arguments.len()]
}

fn redact_arguments(arguments: &[String]) -> Vec<String> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut shown = redact_words(&words);
    let mut bytes = 0;
    for (shown, given) in shown.iter_mut().zip(arguments) {
        bytes += given.len();
        if bytes > MAX_BYTES {
            *shown = REDACTED.to_owned();
            continue;
        }
        // Untouched so far, and more than one word: a command for a shell, or a title that was written over the arguments.
        let is_line = given.contains(char::is_whitespace) && given.len() <= MAX_INNER;
        *shown = match is_line && shown == given {
            true => redact_line(given),
            false => redact_text(shown, false),
        };
    }
    shown
}

/// A command line in one string without secrets. Where one argument ends and the next begins can't be known of it: an argument with
/// spaces in it is taken for several, unless it is quoted.
pub fn redact_line(line: &str) -> String {
    settle(line, |line| redact_text(&redact_words_of(line), false))
}

fn redact_words_of(line: &str) -> String {
    let spans = split(line);
    let words: Vec<&str> = spans.iter().map(|span| &line[span.clone()]).collect();
    let (mut shown, mut from) = (String::with_capacity(line.len()), 0);
    for (span, word) in spans.iter().zip(redact_words(&words)) {
        shown.push_str(&line[from..span.start]);
        shown.push_str(&word);
        from = span.end;
    }
    shown.push_str(&line[from..]);
    shown
}

/// The words of a line, without the quotes around them.
fn split(line: &str) -> Vec<Range<usize>> {
    let mut words = Vec::new();
    let mut rest = line.char_indices().peekable();
    while let Some((at, letter)) = rest.next() {
        if letter.is_whitespace() {
            continue;
        }
        let is_quote = letter == '"' || letter == '\'';
        let mut end = at + letter.len_utf8();
        let quoted = is_quote.then(|| line[end..].find(letter)).flatten();
        let word = match quoted {
            Some(length) => end..end + length,
            None => {
                let rest = &line[at..];
                end = at + rest.find(char::is_whitespace).unwrap_or(rest.len());
                at..end
            }
        };
        let until = word.end.max(end);
        words.push(word);
        while rest.peek().is_some_and(|(next, _)| *next < until) {
            rest.next();
        }
        if quoted.is_some() {
            rest.next();
        }
    }
    words
}

/// What the argument before says of the next one.
enum Expected {
    Nothing,
    /// It is a secret, or the next option.
    Value,
    /// It is a secret, whatever it looks like.
    Secret,
    /// It is `user:password`.
    User,
    /// It is that, or `user:group`.
    UserOrGroup,
    /// It is a secret if it looks made by chance.
    Doubtful,
    /// It is a URL of which only the host is shown.
    Webhook,
}

fn redact_words(words: &[&str]) -> Vec<String> {
    let mut program: Option<&'static Program> = None;
    let mut expected = Expected::Nothing;
    let mut shown = Vec::with_capacity(words.len());
    let mut hides_last = false;
    for (index, word) in words.iter().enumerate() {
        if index >= MAX_ARGUMENTS {
            shown.push(REDACTED.to_owned());
            continue;
        }
        let is_option = word.starts_with('-') && word.len() > 1;
        let replaced = match expected {
            Expected::Secret => Some(REDACTED.to_owned()),
            Expected::Value if !(is_option && looks_like_option(word)) => Some(REDACTED.to_owned()),
            Expected::User => Some(hide_password(word)),
            Expected::UserOrGroup => Some(hide_unless_group(word)),
            Expected::Doubtful if looks_random(word) => Some(REDACTED.to_owned()),
            Expected::Webhook => super::url::only_host(word),
            _ => None,
        };
        expected = Expected::Nothing;
        if let Some(replaced) = replaced {
            shown.push(replaced);
            continue;
        }
        let name = word.rsplit('/').next().unwrap_or(word);
        let by_program = program.and_then(|program| by_program(program, word));
        if !is_option && program.is_some_and(|program| program.runs_another) {
            program = None;
        }
        if by_program.is_none()
            && !is_option
            && let Some(found) = find_program(name)
        {
            program = Some(found);
            hides_last |= found.last_of.iter().any(|known| known == name);
        }
        let (replaced, next) =
            by_program.unwrap_or_else(|| by_name(word, is_option, is_netrc(words, index)));
        if let Some(program) = program {
            hides_last |= program.last_of.iter().any(|known| known == word);
        }
        expected = next;
        shown.push(replaced.unwrap_or_else(|| (*word).to_owned()));
    }
    if hides_last
        && words.len() > 2
        && let Some(last) = shown.last_mut()
    {
        *last = REDACTED.to_owned();
    }
    shown
}

/// What a program's own options say: what is shown of the argument, and what comes next.
fn by_program(program: &Program, word: &str) -> Option<(Option<String>, Expected)> {
    let is = |options: &[String]| options.iter().any(|option| option == word);
    if is(&program.after) || is(&program.separate) {
        return Some((None, Expected::Secret));
    }
    if is(&program.user) {
        return Some((None, Expected::User));
    }
    let short = |options: &[String]| {
        let mut options = options.iter();
        options
            .find(|option| {
                let is_short = option.len() == 2;
                is_short && word.starts_with(option.as_str()) && !word.starts_with("--")
            })
            .cloned()
    };
    if let Some(option) = short(&program.attached) {
        return match word.len() > option.len() {
            true => Some((Some(format!("{option}{REDACTED}")), Expected::Nothing)),
            false => None,
        };
    }
    let option = short(&program.user)?;
    let rest = &word[option.len()..];
    Some((
        Some(format!("{option}{}", hide_password(rest))),
        Expected::Nothing,
    ))
}

/// What the name of an option or environment variable says.
fn by_name(word: &str, is_option: bool, is_netrc: bool) -> (Option<String>, Expected) {
    let of = |class: NameClass| match class {
        NameClass::Secret | NameClass::Pin => Expected::Value,
        NameClass::Doubtful => Expected::Doubtful,
        NameClass::Webhook => Expected::Webhook,
        NameClass::Plain => Expected::Nothing,
    };
    if let Some((name, value)) = word.split_once('=')
        && !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
        && !value.is_empty()
    {
        let hidden = match class_of(name.trim_start_matches('-')) {
            NameClass::Secret | NameClass::Pin => Some(REDACTED.to_owned()),
            NameClass::Doubtful if looks_random(value) => Some(REDACTED.to_owned()),
            NameClass::Webhook => super::url::only_host(value),
            _ if is_user_option(name) => Some(hide_unless_group(value)),
            _ => None,
        };
        return (
            hidden.map(|hidden| format!("{name}={hidden}")),
            Expected::Nothing,
        );
    }
    if is_user_option(word) {
        return (None, Expected::UserOrGroup);
    }
    let is_name = word
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    if is_option && is_name && !word.starts_with("--no-") {
        let name = word.trim_start_matches('-');
        // `-pass` is an option of some; `-p` says nothing.
        return (None, of(class_of(name)));
    }
    if is_netrc {
        return (None, Expected::Secret);
    }
    (None, Expected::Nothing)
}

/// Whether a word stands where `password` does in `.netrc`: `machine HOST login USER password PASSWORD`.
fn is_netrc(words: &[&str], index: usize) -> bool {
    let before = index.checked_sub(2).map(|before| words[before]);
    words[index] == "password"
        && before.is_some_and(|before| before == "login" || before == "machine")
}

/// A text of any kind: as a command line, if it may be one.
pub(super) fn redact_prose(text: &str, is_cut: bool) -> String {
    settle(text, |text| {
        let may_be = text.len() <= MAX_INNER
            && (text.contains(" -") || text.contains("login ") || text.contains("login\t"));
        match may_be {
            true => redact_text(&redact_words_of(text), is_cut),
            false => redact_text(text, is_cut),
        }
    })
}

fn is_user_option(name: &str) -> bool {
    matches!(name, "--user" | "--proxy-user" | "--creds" | "--basic-auth")
}

/// Whether a word is rather the next option than the value of the one before.
fn looks_like_option(word: &str) -> bool {
    let name = word.trim_start_matches('-');
    let dashes = word.len() - name.len();
    let is_letters = name
        .bytes()
        .all(|byte| byte.is_ascii_alphabetic() || b"-=".contains(&byte));
    dashes == 2 && name.starts_with(|letter: char| letter.is_ascii_alphabetic())
        || dashes == 1 && name.len() == 1 && is_letters
}

/// `user:password` or `user%password` without the latter.
fn hide_password(word: &str) -> String {
    match word.find([':', '%']) {
        Some(at) if at + 1 < word.len() && !word[at..].starts_with("://") => {
            format!("{}{REDACTED}", &word[..=at])
        }
        _ => word.to_owned(),
    }
}

/// The same, unless it is `user:group` or `uid:gid`, as some programs have it.
fn hide_unless_group(word: &str) -> String {
    let is_group = word.split_once(':').is_some_and(|(user, group)| {
        user == group || group.bytes().all(|byte| byte.is_ascii_digit())
    });
    match is_group {
        true => word.to_owned(),
        false => hide_password(word),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(line: &str) -> String {
        let arguments: Vec<String> = line.split('|').map(str::to_owned).collect();
        redact_command(&arguments).join("|")
    }

    #[test]
    fn arguments() {
        let known = [
            (
                "app|--access-token|hush|--port|80",
                "app|--access-token|<redacted>|--port|80",
            ),
            ("app|--password=hush|x", "app|--password=<redacted>|x"),
            ("app|--password|two words|x", "app|--password|<redacted>|x"),
            (
                "env|API_KEY=hush|PORT=80|app",
                "env|API_KEY=<redacted>|PORT=80|app",
            ),
            (
                "env|PGPASSWORD=hush|psql|-h|db",
                "env|PGPASSWORD=<redacted>|psql|-h|db",
            ),
            (
                "psql|postgresql://ann:hush@db/x",
                "psql|postgresql://<redacted>@db/x",
            ),
            ("curl|-uann:hush|http://h", "curl|-uann:<redacted>|http://h"),
            (
                "curl|-H|Authorization: Bearer hush|http://h",
                "curl|-H|Authorization: <redacted>|http://h",
            ),
            (
                "curl|--user=ann:hush|http://h",
                "curl|--user=ann:<redacted>|http://h",
            ),
            (
                "sh|-c|mysql -uroot -phush -e 'select 1'",
                "sh|-c|mysql -uroot -p<redacted> -e 'select 1'",
            ),
            (
                "/usr/bin/mysqldump|-phush|db",
                "/usr/bin/mysqldump|-p<redacted>|db",
            ),
            (
                "app|machine h login ann password hush",
                "app|machine h login ann password <redacted>",
            ),
            (
                "app|--webhook|https://h/a/b",
                "app|--webhook|https://h/<redacted>",
            ),
            ("app|--key|f3b1c2d4e5a60718", "app|--key|<redacted>"),
        ];
        for (given, expected) in known {
            assert_eq!(shown(given), expected);
            assert_eq!(shown(expected), expected);
        }
    }

    #[test]
    fn what_stays_readable() {
        for line in [
            "gunicorn|--keepalive|5|-b|0.0.0.0:8000|app:app",
            "python|server.py|-p|8080|--token-ttl|60",
            "ssh|-p|22|ann@host",
            "app|--token|--verbose",
            "app|--key|/etc/ssl/key1.pem|--password-file|/run/secrets/x",
            "app|--no-password|x",
            "celery|-A|proj|worker|-c|8",
            "mysql|-p|-P|3306",
            "docker|run|-p|80:80|--user|1000:1000|img",
            "postgres: ann shop 10.0.0.1(3433) SELECT",
            "gunicorn: master [app:app]",
            "python|-m|pytest|-k|key",
        ] {
            assert_eq!(shown(line), line);
        }
    }

    #[test]
    fn lines() {
        assert_eq!(
            redact_line("app --password 'two words' --port 80"),
            "app --password '<redacted>' --port 80"
        );
        assert_eq!(redact_line("  a  b "), "  a  b ");
    }
}
