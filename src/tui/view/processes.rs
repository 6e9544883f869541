//! The processes as a tree, with how busy each is.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::Span;
use unicode_width::UnicodeWidthStr;

use super::{percent, put, row_of, shown};
use crate::profile::ProcessRow;
use crate::tui::app::App;
use crate::tui::label;

/// Deepest indentation that is drawn.
const MAX_INDENT: usize = 12;

/// Draws it.
pub fn draw(app: &App, area: Rect, buffer: &mut Buffer) {
    let theme = &app.theme;
    let head = "     PID  Threads  %Active    %GIL  Python   Title";
    let head = label::padded(head, usize::from(area.width));
    put(area, 0, Span::styled(head, theme.head), buffer);
    let body = Rect {
        y: area.y + area.height.min(1),
        height: area.height.saturating_sub(1),
        ..area
    };
    let rows = app.shown_processes();
    if rows.is_empty() {
        put(body, 0, Span::styled("  no processes", theme.dim), buffer);
    }
    let selected = app.selected_process().map(|row| row.index);
    let cursor = rows.iter().position(|(row, _)| Some(row.index) == selected);
    for (line, at) in shown(cursor.unwrap_or(0), rows.len(), body.height) {
        let (row, depth) = rows[at];
        put(body, line, row_text(app, row, depth, area.width), buffer);
        if Some(at) == cursor {
            buffer.set_style(row_of(body, line), theme.selected);
        }
    }
}

fn row_text(app: &App, row: &ProcessRow, depth: usize, width: u16) -> String {
    let interval = app.picture.interval;
    let python = row.process.python.as_deref().unwrap_or("-");
    let text = format!(
        "{:>8}{:>9}{:>8.1}%{:>7.1}%  {} {}{}",
        row.process.pid,
        row.threads,
        percent(row.active, interval),
        percent(row.held, interval),
        label::padded(&label::shown(python, 8), 8),
        "  ".repeat(depth.min(MAX_INDENT)),
        if depth > 0 { "└ " } else { "" },
    );
    let rest = usize::from(width).saturating_sub(text.width());
    text + &label::shown(&row.process.title, rest)
}
