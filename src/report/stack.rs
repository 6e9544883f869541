//! Stacks as lines of text.

use std::io::{self, Write};
use std::sync::Arc;

use super::sanitize::Shown;
use crate::model::{Frame, FrameKind, Local};

/// Turns of a repetition that are all shown; of more, the rest are counted.
const SHOWN_REPEATS: usize = 3;
/// Longest repetition that is looked for, in frames.
const MAX_PERIOD: usize = 8;
/// Lines of a longer stack that are shown at its inner and its outer end.
const SHOWN_INNERMOST: usize = 300;
const SHOWN_OUTERMOST: usize = 100;
/// How many times as many there may be when local variables are shown.
const LINES_WITH_LOCALS: usize = 10;
/// Longest line on a local variable, in characters.
const MAX_LOCAL: usize = 200;
/// Longest name of a function or a file, in characters.
const MAX_NAME: usize = 400;

/// How many lines of a long stack are shown.
#[derive(Clone, Copy, Debug)]
pub struct FrameLimit {
    /// At its inner end.
    pub innermost: usize,
    /// At its outer end.
    pub outermost: usize,
    /// Where the others are to be had.
    pub rest: &'static str,
}

impl Default for FrameLimit {
    fn default() -> Self {
        FrameLimit {
            innermost: SHOWN_INNERMOST,
            outermost: SHOWN_OUTERMOST,
            rest: "--json has them",
        }
    }
}

/// How stacks are shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct TextOptions {
    /// How much of a long one.
    pub limit: FrameLimit,
    /// Whether files are shown with their whole path, not by their module's.
    pub full_filenames: bool,
}

/// Writes a stack. Recursion is counted: of a run of the same frames, or of the same few frames in turn, some are shown.
/// What is still longer than a screenful of screens is cut in its middle; the JSON has all of it.
pub fn write_frames(
    frames: &[Arc<Frame>],
    options: TextOptions,
    indent: &str,
    out: &mut dyn Write,
) -> io::Result<()> {
    let lines = fold(frames);
    let with_locals = frames.iter().any(|frame| frame.locals.is_some());
    let scale = if with_locals { LINES_WITH_LOCALS } else { 1 };
    let limit = options.limit;
    let innermost = limit.innermost * scale;
    let left_out = lines
        .len()
        .saturating_sub(innermost + limit.outermost * scale);
    for (index, line) in lines.iter().enumerate() {
        if left_out > 0 && index == innermost {
            writeln!(out, "{indent}... {left_out} more lines ({})", limit.rest)?;
        }
        if left_out == 0 || index < innermost || index >= innermost + left_out {
            writeln!(out, "{indent}{}", line.describe(options))?;
        }
    }
    Ok(())
}

/// What a line says. Its text is made when it is shown: names can be long, and most lines of a deep stack are not.
#[derive(Clone, Copy, Debug)]
enum Line<'a> {
    Frame(&'a Frame),
    Local(&'a Local),
    /// That so many frames stand there some more times.
    Again(usize, usize),
}

impl Line<'_> {
    fn describe(self, options: TextOptions) -> String {
        match self {
            Line::Frame(frame) => describe_frame(frame, options),
            Line::Local(local) => describe_local(local),
            Line::Again(1, more) => format!("... the same {more} more times"),
            Line::Again(period, more) => format!("... the same {period} {more} more times"),
        }
    }
}

/// A stack as lines, with repetitions counted.
fn fold(frames: &[Arc<Frame>]) -> Vec<Line<'_>> {
    let mut lines = Vec::new();
    let mut rest = frames;
    while !rest.is_empty() {
        let (period, turns) = find_repetition(rest);
        let shown = turns.min(SHOWN_REPEATS);
        lines.extend(rest[..period * shown].iter().flat_map(|frame| {
            let locals = frame.locals.iter().flat_map(|locals| locals.iter());
            [Line::Frame(frame)]
                .into_iter()
                .chain(locals.map(Line::Local))
        }));
        if turns > shown {
            lines.push(Line::Again(period, turns - shown));
        }
        rest = &rest[period * turns..];
    }
    lines
}

/// How many frames at the front repeat in turn, and how often; one frame, once, when nothing repeats more often than is
/// shown anyway.
fn find_repetition(frames: &[Arc<Frame>]) -> (usize, usize) {
    for period in 1..=MAX_PERIOD.min(frames.len()) {
        let (first, rest) = frames.split_at(period);
        let turns = 1 + rest
            .chunks_exact(period)
            .take_while(|chunk| *chunk == first)
            .count();
        if turns > SHOWN_REPEATS {
            return (period, turns);
        }
    }
    (1, 1)
}

/// A local variable in one line.
fn describe_local(local: &Local) -> String {
    let text = format!("{} = {}", local.name, local.value);
    format!("    {}", shorten(&Shown(&text).to_string(), MAX_LOCAL))
}

pub fn describe_frame(frame: &Frame, options: TextOptions) -> String {
    if frame.kind == FrameKind::Marker {
        return Shown(&frame.function).to_string();
    }
    let file = if options.full_filenames {
        &frame.file
    } else {
        frame.short_file()
    };
    let (function, file) = (shorten(&frame.function, MAX_NAME), shorten(file, MAX_NAME));
    match frame.line {
        Some(line) => format!("{} ({}:{line})", Shown(&function), Shown(&file)),
        None => format!("{} ({})", Shown(&function), Shown(&file)),
    }
}

/// At most `width` characters of a text, with an ellipsis where some were left out.
pub fn shorten(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars()
        .take(width.saturating_sub(1))
        .chain(['…'])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(function: &str, file: &str, module: Option<&str>, line: u32) -> Arc<Frame> {
        Arc::new(Frame {
            function: function.into(),
            file: file.into(),
            line: Some(line),
            first_line: None,
            module: module.map(Into::into),
            kind: FrameKind::Python,
            locals: None,
        })
    }

    #[test]
    fn deep_recursion_is_counted_not_shown() {
        let mut frames = vec![frame("park", "/a.py", None, 9)];
        frames.extend(std::iter::repeat_n(
            frame("deeper", "/a.py", None, 5),
            100_000,
        ));
        frames.push(frame("<module>", "/a.py", None, 20));
        let mut out = Vec::new();
        write_frames(&frames, TextOptions::default(), "  ", &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.lines().count(), 6);
        assert!(text.contains("  ... the same 99997 more times\n"), "{text}");
    }

    #[test]
    fn recursion_in_turns_is_counted_and_the_rest_is_cut() {
        let turns = ["even", "odd"].map(|name| frame(name, "/a.py", None, 5));
        let frames: Vec<_> = turns.iter().cycle().take(20_001).cloned().collect();
        let lines: Vec<_> = fold(&frames)
            .into_iter()
            .map(|line| line.describe(TextOptions::default()))
            .collect();
        assert_eq!(lines.len(), 8);
        assert_eq!(lines[6], "... the same 2 9997 more times");
        assert_eq!(lines[7], lines[0]);

        let different: Vec<_> = (0..5000)
            .map(|line| frame("f", "/a.py", None, line))
            .collect();
        let mut out = Vec::new();
        write_frames(&different, TextOptions::default(), "", &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.lines().count(), SHOWN_INNERMOST + SHOWN_OUTERMOST + 1);
        assert!(
            text.contains("\n... 4600 more lines (--json has them)\nf (/a.py:4900)\n"),
            "{text}"
        );
    }

    #[test]
    fn long_names_are_cut() {
        let long = frame(&"f".repeat(4096), &"ö".repeat(4096), None, 1);
        let text = describe_frame(&long, TextOptions::default());
        assert_eq!(text.chars().count(), 2 * MAX_NAME + " (:1)".len());
        assert!(text.ends_with("ö…:1)"), "{text}");
    }

    #[test]
    fn names_that_act_on_a_terminal_do_not() {
        let text = describe_frame(
            &frame("\x1b[2Jf", "/a\n.py", None, 1),
            TextOptions::default(),
        );
        assert_eq!(text, "\\u{1b}[2Jf (/a\\u{a}.py:1)");
    }
}
