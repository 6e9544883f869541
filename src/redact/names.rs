//! Which names - of variables, keys, attributes, options, parameters - stand for secrets. Values are not seen here.

/// Longest text that can be the name of something.
const MAX_NAME: usize = 128;

/// Parts of names, without what separates words in them.
const SECRET_PARTS: [&str; 32] = [
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "passkey",
    "storepass",
    "keypass",
    "secret",
    "token",
    "apikey",
    "appkey",
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
    "masterkey",
    "sharedkey",
    "subscriptionkey",
    "licensekey",
    "hmackey",
    "aeskey",
    "fernetkey",
    "integrationkey",
    "connectionstring",
    "samlresponse",
];
/// Whole words of names.
const SECRET_WORDS: [&str; 14] = [
    "auth", "pwd", "pw", "pass", "jwt", "otp", "totp", "cred", "creds", "csrf", "xsrf", "sig",
    "authkey", "bearer",
];
/// Secrets if they are the last word: `user_pin` but not `pin_memory`.
const LAST_WORDS: [&str; 2] = ["pin", "salt"];
/// Last words that say what of a secret it is that is named: how many, where, of what type. Not the secret.
const DESCRIBING: [&str; 30] = [
    "count", "counts", "type", "types", "url", "uri", "endpoint", "host", "name", "names", "path",
    "file", "filename", "dir", "field", "header", "length", "len", "size", "ttl", "expiry",
    "expires", "timeout", "required", "enabled", "limit", "policy", "class", "func", "method",
];
/// Names for numbers or software of language models and parsers.
const OTHER_TOKENS: [&str; 9] = [
    "tokenizer",
    "tokenize",
    "tokenized",
    "tokenization",
    "maxtokens",
    "numtokens",
    "ntokens",
    "mintokens",
    "maxnewtokens",
];
/// Names whose values are secrets if they look made by chance: `key` names what a loop over a dict is at, too.
const DOUBTFUL: [&str; 4] = ["key", "keys", "hash", "nonce"];
/// Parameters of URLs whose values are secrets if they look made by chance.
const DOUBTFUL_PARAMETERS: [&str; 16] = [
    "code",
    "state",
    "ticket",
    "assertion",
    "session",
    "sid",
    "hash",
    "hmac",
    "mac",
    "nonce",
    "invite",
    "k",
    "t",
    "s",
    "h",
    "verifier",
];

/// What a name says of its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameClass {
    /// It is a secret.
    Secret,
    /// It is one if it looks made by chance.
    Doubtful,
    /// It is a URL that gives whoever has it the right to post there.
    Webhook,
    /// A number of some digits.
    Pin,
    /// Nothing.
    Plain,
}

/// Whether what has this name is a secret.
pub fn is_secret_name(name: &str) -> bool {
    class_of(name) == NameClass::Secret
}

/// What a name says of its value.
pub fn class_of(name: &str) -> NameClass {
    if name.len() > MAX_NAME || name.is_empty() {
        return NameClass::Plain;
    }
    let joined: String = name
        .chars()
        .filter(|letter| letter.is_alphanumeric())
        .flat_map(char::to_lowercase)
        .collect();
    let words: Vec<String> = words_of(name).filter(|word| !word.is_empty()).collect();
    let last = words.last().map_or("", String::as_str);
    if words.len() > 1 && DESCRIBING.contains(&last)
        || OTHER_TOKENS.iter().any(|other| joined.contains(other))
    {
        return NameClass::Plain;
    }
    if SECRET_PARTS.iter().any(|part| joined.contains(part))
        || words
            .iter()
            .any(|word| SECRET_WORDS.contains(&word.as_str()))
    {
        return NameClass::Secret;
    }
    if LAST_WORDS.contains(&last) {
        return match last {
            "pin" => NameClass::Pin,
            _ => NameClass::Secret,
        };
    }
    if joined.contains("webhook") {
        return NameClass::Webhook;
    }
    if words.len() == 1 && DOUBTFUL.contains(&last) {
        return NameClass::Doubtful;
    }
    NameClass::Plain
}

/// What the name of a parameter in a URL says of its value.
pub fn class_of_parameter(name: &str) -> NameClass {
    match class_of(name) {
        NameClass::Plain => {
            let small = name.to_ascii_lowercase();
            match DOUBTFUL_PARAMETERS.contains(&small.as_str()) {
                true => NameClass::Doubtful,
                false => NameClass::Plain,
            }
        }
        known => known,
    }
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

/// Whether a text looks made by chance, as keys and tokens are, and not chosen by people, as names, paths and numbers are.
pub fn looks_random(text: &str) -> bool {
    if text.len() < 8 || text.len() > 4096 || text.contains(char::is_whitespace) {
        return false;
    }
    let is_of_keys = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=_-.~%".contains(&byte);
    if !text.bytes().all(is_of_keys) || text.starts_with(['/', '.', '-']) {
        return false;
    }
    let count = |is: fn(&u8) -> bool| text.bytes().filter(is).count();
    let digits = count(u8::is_ascii_digit);
    let (small, large) = (count(u8::is_ascii_lowercase), count(u8::is_ascii_uppercase));
    // Names with a number behind each part, versions, times and addresses have separators every few letters.
    let longest = text
        .split(|letter: char| !letter.is_ascii_alphanumeric())
        .map(switches)
        .max()
        .unwrap_or(0);
    let letters = small + large;
    digits > 0 && letters > 0 && longest >= 2 || small > 0 && large > 0 && longest >= 4
}

/// How often a word goes over from digits to letters, or from large letters to small ones within it.
fn switches(word: &str) -> usize {
    let class = |byte: u8| match byte {
        b'0'..=b'9' => 0,
        b'A'..=b'Z' => 1,
        _ => 2,
    };
    let bytes = word.as_bytes();
    bytes
        .windows(2)
        .filter(|pair| class(pair[0]) != class(pair[1]))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_secrets() {
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
            "bearer",
            "salt",
            "password_salt",
            "X-Amz-Signature",
        ];
        for name in secret {
            assert!(is_secret_name(name), "{name}");
        }
    }

    #[test]
    fn names_of_other_things() {
        let other = [
            "author",
            "path",
            "passenger",
            "url",
            "monkey",
            "host",
            "key_func",
            "primary_key",
            "foreign_key",
            "cache_key",
            "sort_key",
            "keyword",
            "pin_memory",
            "pinned",
            "spinner",
            "basalt",
            "max_tokens",
            "token_count",
            "tokenizer",
            "secret_name",
            "token_url",
            "password_file",
            "",
        ];
        for name in other {
            assert_eq!(class_of(name), NameClass::Plain, "{name}");
        }
        assert_eq!(class_of("key"), NameClass::Doubtful);
        assert_eq!(class_of("slack_webhook"), NameClass::Webhook);
        assert_eq!(class_of("user_pin"), NameClass::Pin);
        assert_eq!(class_of_parameter("code"), NameClass::Doubtful);
    }

    #[test]
    fn what_looks_made_by_chance() {
        for text in [
            "f3b1c2d4e5a60718",
            "kX92mQpL0vZt",
            "s3cr3tv4lu3",
            "4/0AX4XfWh8bq3KpZ",
            "QmFzZTY0RGF0YQ",
        ] {
            assert!(looks_random(text), "{text}");
        }
        for text in [
            "customer_name",
            "running",
            "2024-01-31T10:00:00",
            "worker-12",
            "user:42",
            "/etc/ssl/key1.pem",
            "python3.11",
            "1234567890",
            "DEFAULT",
            "some plain words 12",
        ] {
            assert!(!looks_random(text), "{text}");
        }
    }
}
