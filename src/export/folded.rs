//! One line per stack: its frames, outermost first, with `;` between them, a blank, and its count.

use std::cmp::Ordering;
use std::io::{self, Write};

use super::Style;
use super::counts::Counts;
use crate::profile::Profile;

/// Writes `profile`, with its lines sorted.
pub(super) fn write(profile: &Profile, style: Style, out: &mut dyn Write) -> io::Result<()> {
    let counts = Counts::of(profile, style);
    let names = Names::of(&counts);
    let mut order: Vec<usize> = (0..counts.stacks.len()).collect();
    order.sort_by(|one, other| names.compare(&counts.stacks[*one], &counts.stacks[*other]));
    for (stack, count) in order.into_iter().map(|index| &counts.stacks[index]) {
        for (index, part) in names.parts(stack, 0).enumerate() {
            let separator = if index > 0 { ";" } else { "" };
            write!(out, "{separator}{part}")?;
        }
        writeln!(out, " {count}")?;
    }
    Ok(())
}

/// What frames are called in a line: as one of its callers, and at its end.
struct Names {
    outer: Vec<String>,
    inner: Vec<String>,
}

impl Names {
    fn of(counts: &Counts) -> Names {
        let labels = counts.shown.iter().map(|shown| &shown.label);
        let (inner, outer) = labels
            .map(|label| (innermost(label), escaped(label)))
            .unzip();
        Names { outer, inner }
    }

    /// The names of a stack's frames from the place `from` on, outermost first.
    fn parts<'a>(&'a self, stack: &'a [usize], from: usize) -> impl Iterator<Item = &'a str> {
        let last = stack.len().saturating_sub(1);
        let frames = stack.iter().enumerate().skip(from);
        frames.map(move |(place, frame)| match place == last {
            true => &*self.inner[*frame],
            false => &*self.outer[*frame],
        })
    }

    /// Which of two stacks comes first, by the text of their lines, which can be too long to be kept.
    fn compare(&self, one: &(Vec<usize>, u64), other: &(Vec<usize>, u64)) -> Ordering {
        let same = one.0.iter().zip(&other.0);
        let same = same.take_while(|(one, other)| one == other).count();
        // The last frame of either may be called something else there.
        let from = same.min(one.0.len().min(other.0.len()).saturating_sub(1));
        self.text(one, from).cmp(self.text(other, from))
    }

    /// The text of a line, from the frame at the place `from` on.
    fn text<'a>(
        &'a self,
        (stack, count): &'a (Vec<usize>, u64),
        from: usize,
    ) -> impl Iterator<Item = u8> {
        let last = stack.len().saturating_sub(1);
        let parts = self.parts(stack, from).zip(from..);
        let bytes = parts.flat_map(move |(part, place)| {
            let separator = (place < last).then_some(b';');
            part.bytes().chain(separator)
        });
        bytes.chain(format!(" {count}").into_bytes())
    }
}

/// The lines, sorted, without their ends.
pub(super) fn lines(counts: &Counts) -> Vec<String> {
    let names = Names::of(counts);
    let mut lines: Vec<String> = counts
        .stacks
        .iter()
        .map(|(stack, count)| {
            let parts: Vec<&str> = names.parts(stack, 0).collect();
            format!("{} {count}", parts.join(";"))
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

    /// They are sorted without being made.
    #[test]
    fn lines_are_written_in_the_order_of_their_texts() {
        for profile in [small(), testing::shop()] {
            for threads in [false, true] {
                let style = Style {
                    threads,
                    ..Style::default()
                };
                let lines = lines(&Counts::of(&profile, style));
                assert_eq!(text(&profile, style), lines.join("\n") + "\n");
            }
        }
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
