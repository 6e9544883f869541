//! One line per stack: its frames, outermost first, with `;` between them, a blank, and its count.

use std::io::{self, Write};

use super::Style;
use super::counts::Counts;
use crate::profile::Profile;

/// Writes `profile`, with its lines sorted.
pub(super) fn write(profile: &Profile, style: Style, out: &mut dyn Write) -> io::Result<()> {
    for line in lines(&Counts::of(profile, style)) {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// The lines, sorted, without their ends.
pub(super) fn lines(counts: &Counts) -> Vec<String> {
    let labels = counts.shown.iter().map(|shown| &shown.label);
    let (inner, outer): (Vec<String>, Vec<String>) = labels
        .map(|label| (innermost(label), escaped(label)))
        .unzip();
    let mut lines: Vec<String> = counts
        .stacks
        .iter()
        .filter_map(|(stack, count)| {
            let (last, callers) = stack.split_last()?;
            let mut line = String::new();
            for frame in callers {
                line.push_str(&outer[*frame]);
                line.push(';');
            }
            Some(format!("{line}{} {count}", inner[*last]))
        })
        .collect();
    lines.sort_unstable();
    lines
}

/// A label that a reader of folded stacks takes for one frame: `;` would end it, a `#` at the beginning may make the
/// line a remark, and some names mean "no frame" or an annotation.
pub(super) fn escaped(label: &str) -> String {
    let mut escaped = label.replace(';', "\\u{3b}");
    if let Some(rest) = escaped.strip_prefix('#') {
        escaped = format!("\\u{{23}}{rest}");
    }
    if matches!(escaped.as_str(), "-" | "--") {
        escaped = escaped.replace('-', "\\u{2d}");
    }
    if let Some((before, last)) = escaped.rsplit_once("_[")
        && last.len() == 2
        && last.ends_with(']')
    {
        escaped = format!("{before}_\\u{{5b}}{last}");
    }
    escaped
}

/// The same for a label that the count follows: a number at its end would be taken for another count.
pub(super) fn innermost(label: &str) -> String {
    let escaped = escaped(label);
    match escaped.rsplit_once(' ') {
        Some((before, last)) if last.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.')) => {
            format!("{before}\\u{{20}}{last}")
        }
        _ => escaped,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Format;
    use super::super::testing::{self, named, small, written};
    use super::*;

    fn text(profile: &Profile, style: Style) -> String {
        String::from_utf8(written(Format::Folded, profile, style)).unwrap()
    }

    #[test]
    fn stacks_are_lines() {
        insta::assert_snapshot!(text(&small(), Style::default()));
        assert_eq!(text(&testing::empty(), Style::default()), "");
    }

    #[test]
    fn owners_are_outer_frames_when_asked() {
        let style = Style {
            threads: true,
            processes: true,
            full_filenames: true,
        };
        insta::assert_snapshot!(text(&small(), style));
    }

    #[test]
    fn inferno_reads_every_line() {
        let style = Style {
            threads: true,
            ..Style::default()
        };
        let text = text(&small(), style);
        let mut svg = Vec::new();
        let mut options = inferno::flamegraph::Options::default();
        inferno::flamegraph::from_reader(&mut options, text.as_bytes(), &mut svg).unwrap();
        let svg = String::from_utf8(svg).unwrap();
        assert!(svg.contains("total_samples=\"250\""));
    }

    #[test]
    fn names_that_mean_something_to_readers_are_escaped() {
        for (label, expected) in [
            ("a;b", "a\\u{3b}b"),
            ("# x", "\\u{23} x"),
            ("x 5", "x 5"),
            ("--", "\\u{2d}\\u{2d}"),
            ("f_[k]", "f_\\u{5b}k]"),
            ("[waits: futex]", "[waits: futex]"),
        ] {
            assert_eq!(escaped(label), expected);
        }
        for (label, expected) in [
            ("x 5", "x\\u{20}5"),
            ("x 5.5", "x\\u{20}5.5"),
            ("x (5)", "x (5)"),
            ("x;", "x\\u{3b}"),
        ] {
            assert_eq!(innermost(label), expected);
        }
    }

    proptest! {
        #[test]
        fn any_name_is_one_frame(function in any::<String>(), file in any::<String>(), name in any::<String>()) {
            let style = Style { threads: true, ..Style::default() };
            let text = text(&named(&function, &file, &name, ""), style);
            prop_assert_eq!(text.lines().count(), 1);
            let (stack, count) = text.trim_end().rsplit_once(' ').unwrap();
            prop_assert_eq!(count, "100");
            prop_assert_eq!(stack.split(';').count(), 3);
            prop_assert!(stack.split(';').all(|frame| !frame.is_empty() && frame.trim() == frame));
        }
    }
}
