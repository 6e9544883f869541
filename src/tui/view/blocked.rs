//! The panel of what is blocked: the verdict or the sort of wait, for how long, whose thread, on what, and where in Python.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::put;
use crate::model::span;
use crate::tui::app::{App, View};
use crate::tui::blocked::BlockedRow;
use crate::tui::label;

/// Least height of a screen that has room for the panel.
const MIN_SCREEN: u16 = 14;
/// Least height at which what is stuck gets a line all the same.
const MIN_SCREEN_STUCK: u16 = 8;

/// How many lines it would like to have on a screen of this height.
pub fn wanted_height(app: &App, screen: u16) -> u16 {
    let rows = app.blocked.as_ref().map_or(0, Vec::len);
    let rows = u16::try_from(rows).unwrap_or(u16::MAX);
    if screen >= MIN_SCREEN {
        let most = (screen / 6).max(1);
        1 + rows.min(most)
    } else {
        u16::from(screen >= MIN_SCREEN_STUCK && app.stuck_count() > 0 && app.view != View::Stack)
    }
}

/// Draws it: a title when there is room for more than one line, then a line for each thread.
pub fn draw(app: &App, area: Rect, buffer: &mut Buffer) {
    let rows = app.blocked.as_deref().unwrap_or_default();
    let has_title = area.height > 1 || rows.is_empty() || app.stuck_count() == 0;
    if has_title {
        let style = if app.stuck_count() > 0 {
            app.theme.stuck
        } else {
            app.theme.dim
        };
        let title = vec![
            Span::raw("Blocked: "),
            Span::styled(app.blocked_summary(), style),
        ];
        put(area, 0, title, buffer);
    }
    let is_tree = rows.iter().any(|row| row.pid != app.pid);
    for (row, blocked) in (u16::from(has_title)..area.height).zip(rows) {
        let line = line(app, blocked, usize::from(area.width), is_tree);
        put(area, row, line, buffer);
    }
}

fn line(app: &App, row: &BlockedRow, width: usize, is_tree: bool) -> Line<'static> {
    let theme = &app.theme;
    let is_stuck = row.verdict.is_stuck();
    let style = if is_stuck { theme.stuck } else { theme.figure };
    let sign = if is_stuck { "! " } else { "  " };
    let since = row.since.map(span).unwrap_or_else(|| "?".to_owned());
    let name = label::shown(&row.name, 60);
    let name = if is_tree {
        format!("{} {name}", row.pid)
    } else {
        name
    };
    // Names and peers get a share of what room there is; the frame gets the rest.
    let name_width = (width / 5).clamp(8, 24);
    let on_width = (width / 3).clamp(10, 44);
    let mut spans = vec![
        Span::styled(format!("{sign}{} ", label::padded(row.word(), 13)), style),
        Span::styled(format!("{since:>6} "), style),
        Span::raw(format!("{} ", label::padded(&name, name_width))),
    ];
    let used = 2 + 14 + 7 + name_width + 1;
    let left = width.saturating_sub(used);
    let on = label::shown(&row.on, left.min(on_width));
    spans.push(Span::raw(on.clone()));
    let rest = left.saturating_sub(unicode_width::UnicodeWidthStr::width(on.as_str()) + 1);
    if let Some(frame) = row.frame.as_ref().filter(|_| rest >= 8) {
        let (function, place) = label::fitted(frame, app.full_filenames, rest);
        spans.push(Span::styled(format!(" {function}"), theme.name));
        spans.push(Span::styled(place, theme.dim));
    }
    Line::from(spans)
}
