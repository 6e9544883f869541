//! Whether a text is a statement of SQL, and not a sentence of English that begins like one.

/// What a verb comes with in a statement; any of them is enough. Without one, the verb alone is too much of a plain word.
const VERBS: [(&str, &[&str]); 26] = [
    ("select", &["from", "where", "::", "("]),
    ("insert", &["into"]),
    ("replace", &["into"]),
    ("merge", &["into", "using"]),
    ("update", &["set"]),
    ("delete", &["from"]),
    ("upsert", &["into"]),
    ("with", &["select", "insert", "update", "delete"]),
    (
        "create",
        &[
            "table", "user", "role", "index", "view", "database", "schema", "login", "function",
            "secret", "server",
        ],
    ),
    (
        "alter",
        &[
            "table", "user", "role", "login", "database", "system", "session", "server",
        ],
    ),
    (
        "drop",
        &[
            "table", "user", "role", "index", "view", "database", "schema",
        ],
    ),
    ("grant", &["to"]),
    ("revoke", &["from"]),
    ("set", &["password", "session", "local", "global", "="]),
    ("copy", &["from", "to"]),
    ("call", &["("]),
    ("exec", &["@", "'"]),
    ("execute", &["(", "using"]),
    ("explain", &["select", "insert", "update", "delete"]),
    ("declare", &["cursor", "@"]),
    ("begin", &["insert", "update", "delete", "select"]),
    ("values", &["("]),
    ("truncate", &["table"]),
    ("attach", &["database"]),
    ("notify", &["'"]),
    ("prepare", &["from", "as"]),
];

/// Whether a text is a statement: it begins with a verb of SQL and has what goes with it, all in capitals or all in small letters.
///
/// `is_named` says that its name says so: then the verb is enough.
pub(super) fn is_statement(text: &str, is_named: bool) -> bool {
    let start = skip_comments(text);
    let start = start.trim_start_matches(|letter: char| letter == '(' || letter.is_whitespace());
    let end = start
        .find(|letter: char| !letter.is_ascii_alphabetic())
        .unwrap_or(start.len());
    let verb = &start[..end];
    let small = verb.to_ascii_lowercase();
    let Some((_, companions)) = VERBS.iter().find(|(known, _)| *known == small) else {
        return false;
    };
    if is_named {
        return true;
    }
    let is_capital = verb.bytes().all(|byte| byte.is_ascii_uppercase());
    if !is_capital && verb != small {
        return false;
    }
    let rest = &start[end..];
    let has = |companion: &&str| match companion.as_bytes()[0].is_ascii_alphabetic() {
        true => {
            let wanted = match is_capital {
                true => companion.to_ascii_uppercase(),
                false => (*companion).to_owned(),
            };
            let mut words =
                rest.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
            words.any(|word| word == wanted)
        }
        false => rest.contains(*companion),
    };
    // In small letters "select one from the list" is English; a statement has signs in it.
    let has_signs = || rest.contains(['=', '(', '*', ';', '<', '>', '%']);
    companions.iter().any(has) && (is_capital || has_signs())
}

fn skip_comments(text: &str) -> &str {
    let mut rest = text.trim_start();
    for _ in 0..16 {
        let after = if rest.starts_with("--") || rest.starts_with('#') {
            rest.find('\n').map(|end| end + 1)
        } else if rest.starts_with("/*") {
            rest.find("*/").map(|end| end + 2)
        } else {
            return rest;
        };
        let Some(after) = after else {
            return "";
        };
        rest = rest[after..].trim_start();
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_and_sentences() {
        for text in [
            "SELECT a FROM b",
            "  /* x */ select * from b where c = 'd'",
            "INSERT INTO a VALUES (1)",
            "WITH x AS (SELECT 1) SELECT * FROM x",
            "ALTER USER a PASSWORD 'x'",
            "CALL f('x')",
        ] {
            assert!(is_statement(text, false), "{text}");
        }
        for text in [
            "Select one of 'a' from the list",
            "select one from the list, and don't wait",
            "update the set",
            "Update: 5 rows set",
            "with 3 workers",
            "SELECTED from",
            "copy 3 files from a to b",
            "",
        ] {
            assert!(!is_statement(text, false), "{text}");
        }
        assert!(is_statement("Select 'x'", true));
    }
}
