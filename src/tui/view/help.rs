//! The keys and what they do, from the one table of keys.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::put;
use crate::tui::app::App;
use crate::tui::keymap::KEYMAP;
use crate::tui::label;

/// Columns that the names of keys get.
const KEYS: usize = 14;

/// Draws it, from the line on that was scrolled to.
pub fn draw(app: &App, area: Rect, buffer: &mut Buffer) {
    let theme = &app.theme;
    let title = "Keys (Esc: back, arrows: scroll)";
    let title = label::padded(title, usize::from(area.width));
    put(area, 0, Span::styled(title, theme.head), buffer);
    let height = usize::from(area.height.saturating_sub(1));
    let first = app
        .help_cursor
        .min(KEYMAP.len().saturating_sub(height.max(1)));
    for (line, binding) in (1..area.height).zip(&KEYMAP[first..]) {
        let keys = format!("{:>KEYS$}  ", binding.keys());
        let text = vec![Span::styled(keys, theme.key), Span::raw(binding.help)];
        put(area, line, Line::from(text), buffer);
    }
}
