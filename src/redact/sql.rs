//! SQL statements without their literals: strings and numbers are shown as `?`.
//!
//! Dialects differ in what ends a string (whether `\` escapes) and in what is a comment (`#`, `--` without a space, comments in
//! comments), and which one a statement is in is not known. So a statement is read as each of them reads it, and only what is outside
//! of literals for all of them is shown.

/// Longest identifier that is shown where it could be a string.
const MAX_IDENTIFIER: usize = 63;

/// How a dialect reads a statement.
#[derive(Clone, Copy)]
struct Dialect {
    /// `\` escapes the next character in strings: MySQL, BigQuery, Hive.
    backslash: bool,
    /// `#` begins a comment: MySQL, BigQuery.
    hash: bool,
    /// `--` begins a comment only before white space: MySQL.
    spaced_dashes: bool,
    /// Comments may contain comments: PostgreSQL, SQL Server.
    nested: bool,
    /// `$tag$…$tag$` is a string: PostgreSQL.
    dollars: bool,
    /// `q'[…]'` is a string: Oracle.
    brackets: bool,
}

const DIALECTS: [Dialect; 5] = [
    // PostgreSQL.
    Dialect {
        backslash: false,
        hash: false,
        spaced_dashes: false,
        nested: true,
        dollars: true,
        brackets: false,
    },
    // MySQL, MariaDB.
    Dialect {
        backslash: true,
        hash: true,
        spaced_dashes: true,
        nested: false,
        dollars: false,
        brackets: false,
    },
    // The same with NO_BACKSLASH_ESCAPES.
    Dialect {
        backslash: false,
        hash: true,
        spaced_dashes: true,
        nested: false,
        dollars: false,
        brackets: false,
    },
    // BigQuery, Spark, Snowflake.
    Dialect {
        backslash: true,
        hash: false,
        spaced_dashes: false,
        nested: false,
        dollars: true,
        brackets: false,
    },
    // Oracle, SQLite, the standard.
    Dialect {
        backslash: false,
        hash: false,
        spaced_dashes: false,
        nested: false,
        dollars: false,
        brackets: true,
    },
];

/// What is to be done with a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mark {
    /// It is shown.
    Shown,
    /// It is part of a comment with quotes or numbers in it.
    Comment,
    /// It is part of a literal.
    Literal,
}

impl Mark {
    /// What is shown in its place.
    pub(super) fn text(self) -> &'static str {
        match self {
            Mark::Shown => "",
            Mark::Comment => "/*…*/",
            Mark::Literal => "?",
        }
    }
}

/// What of a statement is to be shown, byte by byte.
pub(super) fn mark_statement(text: &str) -> Vec<Mark> {
    let mut marks = vec![Mark::Shown; text.len()];
    // Without what they differ in, all dialects read the same.
    let differs = ["\\", "#", "--", "/*", "$", "q'", "Q'"]
        .iter()
        .any(|sign| text.contains(sign));
    let dialects = match differs {
        true => &DIALECTS[..],
        false => &DIALECTS[..1],
    };
    for dialect in dialects {
        Reading::new(text, *dialect, &mut marks).run();
    }
    marks
}

/// One dialect's reading of a statement.
struct Reading<'a> {
    text: &'a str,
    bytes: &'a [u8],
    dialect: Dialect,
    marks: &'a mut [Mark],
    at: usize,
    /// The last word or sign before, in small letters.
    before: Vec<u8>,
    /// For each open parenthesis, whether values stand in it.
    values: Vec<bool>,
}

/// Words and signs that a value follows.
const BEFORE_VALUES: [&[u8]; 14] = [
    b"=",
    b"<",
    b">",
    b"like",
    b"ilike",
    b"by",
    b"password",
    b"value",
    b"values",
    b"regexp",
    b"rlike",
    b"escape",
    b"between",
    b"identified",
];

impl<'a> Reading<'a> {
    fn new(text: &'a str, dialect: Dialect, marks: &'a mut [Mark]) -> Reading<'a> {
        Reading {
            text,
            bytes: text.as_bytes(),
            dialect,
            marks,
            at: 0,
            before: Vec::new(),
            values: Vec::new(),
        }
    }

    fn run(&mut self) {
        while self.at < self.bytes.len() {
            let start = self.at;
            let byte = self.bytes[start];
            match byte {
                b'\'' => self.string(start, self.dialect.backslash),
                b'"' => self.quoted(start),
                b'`' => self.backticks(start),
                b'$' if self.dialect.dollars && self.dollars(start) => {}
                b'-' if self.bytes[start..].starts_with(b"--") && self.is_dashes(start) => {
                    self.line_comment(start);
                }
                b'#' if self.dialect.hash => self.line_comment(start),
                b'/' if self.bytes[start..].starts_with(b"/*") => self.comment(start),
                b'0'..=b'9' => self.number(start),
                b'.' if self.bytes.get(start + 1).is_some_and(u8::is_ascii_digit)
                    && !self.is_part_of_word(start) =>
                {
                    self.number(start);
                }
                _ if is_of_word(byte) => self.word(start),
                _ => self.sign(start),
            }
        }
    }

    fn is_part_of_word(&self, at: usize) -> bool {
        at > 0 && (is_of_word(self.bytes[at - 1]) || b"\"`]".contains(&self.bytes[at - 1]))
    }

    fn hide(&mut self, from: usize, to: usize, mark: Mark) {
        for place in &mut self.marks[from..to] {
            *place = (*place).max(mark);
        }
        self.at = to;
    }

    fn literal(&mut self, from: usize, to: usize) {
        self.hide(from, to, Mark::Literal);
        self.before = b"?".to_vec();
    }

    fn string(&mut self, from: usize, has_escapes: bool) {
        let is_triple = self.dialect.backslash && self.bytes[self.at..].starts_with(b"'''");
        let end = match is_triple {
            true => self.find(self.at + 3, b"'''"),
            false => self.end_of_quotes(self.at + 1, b'\'', has_escapes),
        };
        self.literal(from, end);
    }

    /// Where what is quoted ends, after its last quote. A quote that is doubled does not end it.
    fn end_of_quotes(&self, from: usize, quote: u8, has_escapes: bool) -> usize {
        let mut at = from;
        while at < self.bytes.len() {
            match self.bytes[at] {
                b'\\' if has_escapes => at += 2,
                byte if byte == quote => match self.bytes.get(at + 1) {
                    Some(next) if *next == quote => at += 2,
                    _ => return at + 1,
                },
                _ => at += 1,
            }
        }
        self.bytes.len()
    }

    fn find(&self, from: usize, what: &[u8]) -> usize {
        let rest = self.bytes.get(from..).unwrap_or_default();
        let found = rest.windows(what.len()).position(|window| window == what);
        found.map_or(self.bytes.len(), |at| from + at + what.len())
    }

    /// What is in double quotes: an identifier, or in some dialects a string. It is shown if it looks like the former.
    fn quoted(&mut self, start: usize) {
        let end = self.end_of_quotes(start + 1, b'"', self.dialect.backslash);
        let content = self.text.get(start + 1..end - 1).unwrap_or_default();
        let touches_dot =
            start > 0 && self.bytes[start - 1] == b'.' || self.bytes.get(end) == Some(&b'.');
        let is_name = content.len() <= MAX_IDENTIFIER
            && !content.is_empty()
            && content.bytes().all(|byte| is_of_word(byte) || byte == b' ')
            && !content.starts_with(|letter: char| letter.is_ascii_digit());
        let is_closed = end > start + 1 && self.bytes[end - 1] == b'"';
        let is_value =
            BEFORE_VALUES.contains(&self.before.as_slice()) || self.values.last() == Some(&true);
        if is_closed && is_name && (touches_dot || !is_value) {
            self.at = end;
            self.before = b"\"".to_vec();
        } else {
            self.literal(start, end);
        }
    }

    /// An identifier of MySQL or BigQuery. What is not quoted so elsewhere has no quotes in it.
    fn backticks(&mut self, start: usize) {
        let end = self.end_of_quotes(start + 1, b'`', false);
        let content = &self.bytes[start + 1..end];
        let is_name = content.ends_with(b"`") && !content.iter().any(|byte| b"'\"$".contains(byte));
        match is_name {
            true => self.at = end,
            false => self.literal(start, end),
        }
    }

    /// A string between `$tag$` and the same again.
    fn dollars(&mut self, start: usize) -> bool {
        if start > 0 && is_of_word(self.bytes[start - 1]) {
            return false;
        }
        let rest = &self.bytes[start + 1..];
        let length = rest
            .iter()
            .take(MAX_IDENTIFIER)
            .take_while(|byte| is_of_word(**byte) && **byte != b'$')
            .count();
        let is_tag =
            rest.get(length) == Some(&b'$') && !rest.first().is_some_and(u8::is_ascii_digit);
        if !is_tag {
            return false;
        }
        let tag = start..start + length + 2;
        let end = self.find(tag.end, &self.bytes[tag.clone()]);
        self.literal(start, end);
        true
    }

    fn is_dashes(&self, start: usize) -> bool {
        let next = self.bytes.get(start + 2);
        !self.dialect.spaced_dashes || next.is_none_or(u8::is_ascii_whitespace)
    }

    fn line_comment(&mut self, start: usize) {
        let rest = &self.bytes[start..];
        let length = rest
            .iter()
            .position(|byte| *byte == b'\n')
            .unwrap_or(rest.len());
        self.end_comment(start, start + length);
    }

    fn comment(&mut self, start: usize) {
        let (mut depth, mut at) = (1, start + 2);
        while at < self.bytes.len() && depth > 0 {
            if self.bytes[at..].starts_with(b"*/") {
                depth -= 1;
                at += 2;
            } else if self.dialect.nested && self.bytes[at..].starts_with(b"/*") {
                depth += 1;
                at += 2;
            } else {
                at += 1;
            }
        }
        self.end_comment(start, at.min(self.bytes.len()));
    }

    /// A comment is shown if there is nothing in it that could be a value.
    fn end_comment(&mut self, start: usize, end: usize) {
        let content = &self.bytes[start..end];
        let is_plain = !content
            .iter()
            .any(|byte| b"'\"$`\\=".contains(byte) || byte.is_ascii_digit());
        match is_plain || self.text.get(start..end) == Some("/*…*/") {
            true => self.at = end,
            false => self.hide(start, end, Mark::Comment),
        }
    }

    fn number(&mut self, start: usize) {
        let rest = &self.bytes[start..];
        let mut length = 0;
        while let Some(byte) = rest.get(length) {
            let is_sign = b"+-".contains(byte)
                && rest[length - 1].eq_ignore_ascii_case(&b'e')
                && !rest.starts_with(b"0x");
            if !is_of_word(*byte) && *byte != b'.' && !is_sign {
                break;
            }
            length += 1;
        }
        self.literal(start, start + length);
    }

    fn word(&mut self, start: usize) {
        let rest = &self.bytes[start..];
        let length = rest.iter().take_while(|byte| is_of_word(**byte)).count();
        let word = rest[..length].to_ascii_lowercase();
        let end = start + length;
        let is_quoted = self.bytes.get(end) == Some(&b'\'');
        match word.as_slice() {
            // PostgreSQL's strings with escapes; MySQL's of a character set.
            b"e" if is_quoted => {
                self.at = end;
                return self.string(start, true);
            }
            b"n" | b"x" | b"b" | b"r" | b"rb" | b"br" | b"q" | b"nq" | b"u" if is_quoted => {
                self.at = end;
                if word.ends_with(b"q") && self.dialect.brackets && self.oracle_string(start) {
                    return;
                }
                return self.string(start, self.dialect.backslash);
            }
            b"u" if self.bytes[end..].starts_with(b"&'") => {
                self.at = end + 1;
                return self.string(start, false);
            }
            // A password without quotes, as Oracle has it.
            _ if self.before == b"by" && self.at_identified(start) => {
                return self.literal(start, end);
            }
            _ => {}
        }
        self.at = end;
        self.before = word;
    }

    /// Whether `IDENTIFIED BY` stands before.
    fn at_identified(&self, start: usize) -> bool {
        let before = self
            .text
            .get(start.saturating_sub(40)..start)
            .unwrap_or_default();
        let mut words = before.split_whitespace().rev();
        words.next();
        words
            .next()
            .is_some_and(|word| word.eq_ignore_ascii_case("identified"))
    }

    /// Oracle's `q'[…]'`, which ends with the bracket and a quote.
    fn oracle_string(&mut self, from: usize) -> bool {
        let Some(open) = self.bytes.get(self.at + 1) else {
            return false;
        };
        let close = match open {
            b'[' => b']',
            b'(' => b')',
            b'{' => b'}',
            b'<' => b'>',
            other => *other,
        };
        let end = self.find(self.at + 2, &[close, b'\'']);
        self.literal(from, end);
        true
    }

    fn sign(&mut self, start: usize) {
        let byte = self.bytes[start];
        match byte {
            b'(' => {
                let is_list = BEFORE_VALUES.contains(&self.before.as_slice())
                    || [&b"in"[..], b"values", b"any", b"array"].contains(&self.before.as_slice());
                let is_row =
                    self.before == b"," && self.values.is_empty() && self.after_values(start);
                self.values
                    .push(is_list || is_row || self.values.last() == Some(&true));
            }
            b')' => {
                self.values.pop();
            }
            _ => {}
        }
        if !byte.is_ascii_whitespace() {
            self.before = vec![byte];
        }
        // Parameters, such as `$1` and `:1`: numbers, but no values.
        self.at = start + 1;
        if b"$:?@%".contains(&byte) {
            let digits = self.bytes[self.at..]
                .iter()
                .take_while(|byte| byte.is_ascii_digit());
            self.at += digits.count();
        }
    }

    /// Whether a row of `VALUES (…), (…)` begins here: the parenthesis before was one of values.
    fn after_values(&self, start: usize) -> bool {
        let before = self.text[..start]
            .trim_end_matches(|letter: char| letter == ',' || letter.is_whitespace());
        before.ends_with(')')
    }
}

fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::redact::text;

    fn redact_statement(text: &str) -> String {
        text::redact_statement(text, false)
    }

    #[test]
    fn literals_are_question_marks() {
        let known = [
            (
                "SELECT * FROM t WHERE a = 'x' AND b = 12.5e-3",
                "SELECT * FROM t WHERE a = ? AND b = ?",
            ),
            (
                "INSERT INTO t2 (a, b) VALUES ('it''s', NULL), (3, 'x')",
                "INSERT INTO t2 (a, b) VALUES (?, NULL), (?, ?)",
            ),
            (
                "ALTER USER ann WITH PASSWORD 'hush'",
                "ALTER USER ann WITH PASSWORD ?",
            ),
            (
                "CREATE USER a IDENTIFIED BY hush QUOTA 5 ON x",
                "CREATE USER a IDENTIFIED BY ? QUOTA ? ON x",
            ),
            (
                "SET PASSWORD FOR 'a'@'h' = PASSWORD('x')",
                "SET PASSWORD FOR ?@? = PASSWORD(?)",
            ),
            (
                "UPDATE t SET a = E'it\\'s', b = N'x', c = x'0f', d = $$its$$, e = $q$a$q$",
                "UPDATE t SET a = ?, b = ?, c = ?, d = ?, e = ?",
            ),
            (
                r#"SELECT "auth_user"."id" FROM "auth_user" WHERE "auth_user"."name" = 'x' LIMIT 21"#,
                r#"SELECT "auth_user"."id" FROM "auth_user" WHERE "auth_user"."name" = ? LIMIT ?"#,
            ),
            (
                r#"SELECT `a` FROM t WHERE pw = "hush" AND c IN ("x", "y")"#,
                "SELECT `a` FROM t WHERE pw = ? AND c IN (?, ?)",
            ),
            (
                "SELECT a FROM t1 WHERE b = $1 AND c = :2 AND d = %s AND e = ?",
                "SELECT a FROM t1 WHERE b = $1 AND c = :2 AND d = %s AND e = ?",
            ),
            (
                "SELECT 1 -- it's a note\nFROM t WHERE a='hush'",
                "SELECT ? /*…*/\nFROM t WHERE a=?",
            ),
            (
                "SELECT a /* all of them */ FROM t",
                "SELECT a /* all of them */ FROM t",
            ),
            (
                "SELECT a FROM t WHERE b = q'[it's]' AND c = 1",
                "SELECT a FROM t WHERE b = ?",
            ),
            ("SELECT 'not closed", "SELECT ?"),
        ];
        for (given, expected) in known {
            assert_eq!(redact_statement(given), expected);
            assert_eq!(redact_statement(expected), expected);
        }
    }

    #[test]
    fn what_dialects_read_differently_is_hidden() {
        let hidden = [
            r"SELECT a FROM t WHERE p = 'C:\' AND q = 'hush'",
            r"SELECT a FROM t WHERE p = 'it\'s hush' AND q = 'hush'",
            "SELECT a FROM t WHERE p = 5--'hush'",
            "SELECT a # it's\n FROM t WHERE q = 'hush'",
            "SELECT a /* /* it's */ */ FROM t WHERE q = 'hush'",
            "SELECT a /* /* */ FROM t WHERE q = 'hush'",
            "SELECT $$ it's $$, 'hush'",
            "SELECT $1$, 'hush', $1$",
            "SELECT a -- hush='hush'",
            r#"INSERT INTO t VALUES ("hush"), ("hush")"#,
        ];
        for text in hidden {
            let shown = redact_statement(text);
            assert!(!shown.contains("hush"), "{text}: {shown}");
        }
    }

    proptest! {
        #[test]
        fn any_statement_is_taken_and_none_twice(text in "[ a-zE'\"`$#\\-/*\\\\0-9().,=?\n]{0,60}") {
            let once = redact_statement(&text);
            prop_assert!(!once.contains('\''));
            let _ = redact_statement(&once);
        }

        #[test]
        fn no_string_is_shown(secret in "[g-z]{8}", before in "[ a-f=(,']{0,12}") {
            let before = before.replace('\'', "''");
            let shown = redact_statement(&format!("SELECT a FROM t WHERE b = '{before}{secret}' AND c = 1"));
            prop_assert!(!shown.contains(&secret), "{}", shown);
        }
    }
}
