//! Making text that a target has chosen fit to be shown.

use std::fmt::{self, Write};

/// Shows a text in one line, with everything that could act on a terminal, or mislead its reader, as an escape:
/// control characters, and the bidirectional and zero-width ones.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a>(pub &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.chars() {
            if acts(letter) {
                write!(f, "{}", letter.escape_unicode())?;
            } else {
                f.write_char(letter)?;
            }
        }
        Ok(())
    }
}

/// Whether a character can act on a terminal, or mislead whoever reads it there.
pub fn acts(letter: char) -> bool {
    letter.is_control() || is_invisible(letter)
}

/// Characters that take no room, or turn the direction of what follows (Unicode 16, UAX #9 and general category Cf),
/// and those that end a line.
fn is_invisible(letter: char) -> bool {
    matches!(letter,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn escapes_what_acts_and_leaves_what_reads() {
        assert_eq!(Shown("größe 名前 🐍").to_string(), "größe 名前 🐍");
        assert_eq!(
            Shown("a\x1b[31mb\n\u{202e}c\u{200b}").to_string(),
            "a\\u{1b}[31mb\\u{a}\\u{202e}c\\u{200b}"
        );
        assert_eq!(Shown("\u{9b}31m").to_string(), "\\u{9b}31m");
    }

    proptest! {
        #[test]
        fn nothing_that_acts_is_left(text in any::<String>()) {
            prop_assert!(!Shown(&text).to_string().chars().any(acts));
        }
    }
}
