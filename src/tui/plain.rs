//! The screen as plain text, one frame after the other, for an output that is no terminal.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use super::app::App;
use super::view::{activity_line, percent, samples_line, seconds, subject};
use crate::model::span;
use crate::report::sanitize::Shown;

/// Most rows of functions in a frame.
const MAX_ROWS: usize = 40;
/// Most rows of blocked threads in a frame.
const MAX_BLOCKED: usize = 20;

/// Writes a frame, with the time of day as `top -b` has it, and an empty line behind it.
pub fn write_frame(app: &App, now: SystemTime, out: &mut dyn Write) -> io::Result<()> {
    let (subject, title) = subject(app);
    writeln!(out, "{subject}{title}")?;
    writeln!(
        out,
        "{}, at {}",
        samples_line(app),
        humantime::format_rfc3339_seconds(now)
    )?;
    writeln!(out, "{}", activity_line(app))?;
    write_blocked(app, out)?;
    let what = match (app.by_function, app.without_lines) {
        (false, _) => "(filename:line)",
        (true, false) => "(filename:first line)",
        (true, true) => "(filename)",
    };
    writeln!(out, "  %Own  %Total  OwnTime  TotalTime  Function {what}")?;
    let choice = app.choice;
    let share = |time: Duration| format!("{:.2}%", percent(time, app.picture.interval));
    let mut recent = app
        .shown_rows()
        .filter(|row| row.recent.total.of(choice) > Duration::ZERO);
    for row in recent.by_ref().take(MAX_ROWS) {
        writeln!(
            out,
            "{:>6} {:>7} {:>8} {:>10}  {}",
            share(row.recent.own.of(choice)),
            share(row.recent.total.of(choice)),
            seconds(row.ever.own.of(choice)),
            seconds(row.ever.total.of(choice)),
            app.label(&row.frame)
        )?;
    }
    write_more(recent.count(), out)?;
    writeln!(out)
}

fn write_blocked(app: &App, out: &mut dyn Write) -> io::Result<()> {
    let Some(rows) = &app.blocked else {
        return Ok(());
    };
    writeln!(out, "Blocked: {}", app.blocked_summary())?;
    for row in rows.iter().take(MAX_BLOCKED) {
        let sign = if row.verdict.is_stuck() { '!' } else { ' ' };
        let since = row.since.map(span).unwrap_or_else(|| "?".to_owned());
        let frame = row.frame.as_ref().map(|frame| app.label(frame));
        writeln!(
            out,
            "{sign} {:<13} {since:>6} {} {} {}  {}",
            Shown(row.word()).to_string(),
            row.pid,
            Shown(&row.name),
            Shown(&row.on),
            frame.unwrap_or_default()
        )?;
    }
    write_more(rows.len().saturating_sub(MAX_BLOCKED), out)
}

/// Says how many rows are left out, if any are.
fn write_more(more: usize, out: &mut dyn Write) -> io::Result<()> {
    match more {
        0 => Ok(()),
        more => writeln!(out, "  ... {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::testing;

    #[test]
    fn a_frame_is_text_without_anything_that_acts() {
        let mut out = Vec::new();
        write_frame(&testing::app(), SystemTime::UNIX_EPOCH, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(
            !text
                .chars()
                .any(|letter| letter != '\n' && crate::report::sanitize::acts(letter))
        );
        insta::assert_snapshot!(text);
    }

    #[test]
    fn rows_that_are_left_out_are_counted() {
        let mut app = testing::app();
        let mut rows = app.blocked.clone().unwrap();
        let row = rows[0].clone();
        rows.resize(MAX_BLOCKED + 3, row);
        app.receive_blocked(rows);
        let mut out = Vec::new();
        write_frame(&app, SystemTime::UNIX_EPOCH, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.matches("  ... 3 more\n").count(), 1, "{text}");
    }
}
