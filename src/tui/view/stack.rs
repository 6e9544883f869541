//! The stack of the selected thread, innermost frame first.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::{put, row_of, state_word};
use crate::profile::ThreadRow;
use crate::tui::app::App;
use crate::tui::label;

/// Draws it over the whole area.
pub fn draw(app: &App, area: Rect, buffer: &mut Buffer) {
    match app.selected_thread() {
        Some(thread) => draw_stack(app, thread, app.stack_cursor, area, buffer),
        None => {
            let text = "the thread has ended (Esc: back)";
            put(area, 0, Span::styled(text, app.theme.dim), buffer);
        }
    }
}

/// Draws a stack, from a frame on.
pub fn draw_stack(app: &App, row: &ThreadRow, first: usize, area: Rect, buffer: &mut Buffer) {
    let theme = &app.theme;
    let name = label::shown(&row.name, 60);
    let title = format!(
        "Stack of {} \"{name}\": {}, {} frames",
        row.tid,
        state_word(row),
        row.stack.len()
    );
    put(area, 0, title, buffer);
    buffer.set_style(row_of(area, 0).intersection(area), theme.head);
    // The last page stays full.
    let height = usize::from(area.height.saturating_sub(1));
    let first = first.min(row.stack.len().saturating_sub(height.max(1)));
    for (line, frame) in (1..area.height).zip(row.stack.iter().skip(first)) {
        let rest = usize::from(area.width).saturating_sub(2);
        let (function, place) = label::fitted(frame, app.full_filenames, rest);
        let text = vec![
            Span::raw("  "),
            Span::styled(function, theme.name),
            Span::raw(place),
        ];
        put(area, line, Line::from(text), buffer);
    }
    if row.stack.is_empty() {
        put(
            area,
            1,
            Span::styled("  no Python on it", theme.dim),
            buffer,
        );
    }
}
