//! The last line: what is being typed, else what is to be told, else the most useful keys. And the banner of the end.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use unicode_width::UnicodeWidthStr;

use super::put;
use crate::tui::app::{App, PromptKind};
use crate::tui::label;

/// The keys that are named, the most important ones first.
const KEYS: [(&str, &str); 11] = [
    ("q", "Quit"),
    ("?", "Help"),
    ("Tab", "View"),
    ("Spc", "Pause"),
    ("i", "Idle"),
    ("g", "GIL"),
    ("l", "Lines"),
    ("/", "Search"),
    ("\\", "Filter"),
    ("<>", "Sort"),
    ("s", "Save"),
];

/// Draws the last line.
pub fn draw(app: &App, area: Rect, buffer: &mut Buffer) {
    let theme = &app.theme;
    let width = usize::from(area.width);
    if let Some(prompt) = &app.prompt {
        let question = match prompt.kind {
            PromptKind::Search => "search: ",
            PromptKind::Filter => "filter: ",
            PromptKind::Save => "save to file: ",
        };
        let rest = width.saturating_sub(question.len() + 1);
        let typed = crate::report::sanitize::Shown(&prompt.text).to_string();
        let line = vec![
            Span::styled(question, theme.figure),
            Span::raw(label::cut_front(&typed, rest)),
            Span::styled(" ", theme.selected),
        ];
        put(area, 0, line, buffer);
    } else if let Some(message) = &app.message {
        put(area, 0, label::shown(message, width), buffer);
    } else {
        put(area, 0, keys(app, width), buffer);
    }
}

fn keys(app: &App, width: usize) -> Line<'static> {
    let mut spans = Vec::new();
    let mut left = width;
    for (key, what) in KEYS {
        let Some(rest) = left.checked_sub(key.width() + what.width() + 2) else {
            break;
        };
        left = rest;
        spans.push(Span::styled(key, app.theme.key));
        spans.push(Span::raw(format!(":{what} ")));
    }
    Line::from(spans)
}

/// Draws the banner of the end.
pub fn draw_banner(app: &App, area: Rect, buffer: &mut Buffer) {
    if let Some(why) = &app.ended {
        let width = usize::from(area.width);
        let text = label::padded(&label::shown(why, width), width);
        put(area, 0, Span::styled(text, app.theme.banner), buffer);
    }
}
