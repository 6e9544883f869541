//! Texts cut to the width that they have; what a target has chosen is made harmless first.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::model::{Frame, FrameKind};
use crate::report::sanitize::Shown;

/// A frame as `function (file:line)`.
pub fn whole(frame: &Frame, full_filenames: bool) -> String {
    let (function, place) = parts(frame, full_filenames);
    if place.is_empty() {
        function
    } else {
        format!("{function} ({place})")
    }
}

/// A frame's function and `(file:line)`, together at most `width` wide. Of a path that is too long the end is kept.
pub fn fitted(frame: &Frame, full_filenames: bool, width: usize) -> (String, String) {
    let (function, place) = parts(frame, full_filenames);
    let left = width.saturating_sub(function.width() + 3);
    if place.is_empty() || left < 4 {
        return (cut(&function, width), String::new());
    }
    (function, format!(" ({})", cut_front(&place, left)))
}

fn parts(frame: &Frame, full_filenames: bool) -> (String, String) {
    let function = Shown(&frame.function).to_string();
    if frame.kind == FrameKind::Marker && frame.file.is_empty() {
        return (function, String::new());
    }
    let file = if full_filenames {
        &frame.file
    } else {
        frame.short_file()
    };
    let place = match frame.line {
        Some(line) => format!("{}:{line}", Shown(file)),
        None => Shown(file).to_string(),
    };
    (function, place)
}

/// A text's beginning, at most `width` wide, with an ellipsis where something is left out.
pub fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut kept = take(text.chars(), width);
    if width > 0 {
        kept.push('…');
    }
    kept
}

/// A text's end, at most `width` wide, with an ellipsis where something is left out.
pub fn cut_front(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut kept = take(text.chars().rev(), width);
    if width > 0 {
        kept.push('…');
    }
    kept.chars().rev().collect()
}

/// A target's text in one line, at most `width` wide.
pub fn shown(text: &str, width: usize) -> String {
    // A text of megabytes need not be walked for what fits on a screen.
    let longest = text.len().min(width.saturating_mul(8).saturating_add(64));
    let end = (0..=longest).rev().find(|at| text.is_char_boundary(*at));
    let beginning = &text[..end.unwrap_or(0)];
    let harmless = Shown(beginning).to_string();
    if beginning.len() < text.len() {
        return cut(&format!("{harmless}…"), width);
    }
    cut(&harmless, width)
}

/// A text in exactly `width` columns.
pub fn padded(text: &str, width: usize) -> String {
    let mut text = cut(text, width);
    let missing = width.saturating_sub(text.width());
    text.extend(std::iter::repeat_n(' ', missing));
    text
}

/// As many characters as leave a column of `width` for an ellipsis.
fn take(letters: impl Iterator<Item = char>, width: usize) -> String {
    let mut left = width.saturating_sub(1);
    letters
        .take_while(|letter| {
            let own = letter.width().unwrap_or(0);
            let fits = own <= left;
            left = left.saturating_sub(own);
            fits
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    fn frame(function: &str, file: &str) -> Frame {
        Frame {
            file: file.into(),
            line: Some(12),
            kind: FrameKind::Python,
            ..Frame::marker(function)
        }
    }

    #[test]
    fn a_path_keeps_its_end_and_a_name_its_beginning() {
        let frame = Arc::new(frame("recv_into", "/usr/lib/python3/OpenSSL/SSL.py"));
        let fit = |width| {
            let (function, place) = fitted(&frame, false, width);
            function + &place
        };
        assert_eq!(fit(80), "recv_into (/usr/lib/python3/OpenSSL/SSL.py:12)");
        assert_eq!(fit(30), "recv_into (…OpenSSL/SSL.py:12)");
        assert_eq!(fit(14), "recv_into");
        assert_eq!(fit(5), "recv…");
        assert_eq!(fit(0), "");
    }

    #[test]
    fn wide_characters_are_counted_as_wide() {
        assert_eq!(cut("名前名前", 5), "名前…");
        assert_eq!(cut("名前名前", 4), "名…");
        assert_eq!(cut_front("名前名前", 5), "…名前");
        assert_eq!(padded("名前", 6), "名前  ");
    }

    proptest! {
        #[test]
        fn nothing_is_wider_than_it_may_be(text in any::<String>(), width in 0usize..40) {
            prop_assert!(shown(&text, width).width() <= width);
            prop_assert_eq!(padded(&shown(&text, width), width).width(), width);
            let (function, place) = fitted(&frame(&text, &text), true, width);
            prop_assert!((function + &place).width() <= width);
        }
    }
}
