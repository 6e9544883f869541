//! The table of functions or lines with their own and total time.

use std::time::Duration;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::{percent, put, row_of, shown};
use crate::profile::Row;
use crate::tui::app::App;
use crate::tui::command::Column;
use crate::tui::label;

/// The columns, with the width of each and the least width of a screen that has it.
const COLUMNS: [(Column, usize, u16); 4] = [
    (Column::OwnShare, 8, 0),
    (Column::TotalShare, 8, 36),
    (Column::OwnTime, 9, 64),
    (Column::TotalTime, 11, 64),
];

/// Draws its head and as many rows as fit.
pub fn draw(app: &App, area: Rect, buffer: &mut Buffer) {
    put(area, 0, head(app, area.width), buffer);
    let body = Rect {
        y: area.y + area.height.min(1),
        height: area.height.saturating_sub(1),
        ..area
    };
    let rows: Vec<&Row> = app.shown_rows().collect();
    if rows.is_empty() {
        put(body, 0, Span::styled(hint(app), app.theme.dim), buffer);
        return;
    }
    for (line, at) in shown(app.cursor, rows.len(), body.height) {
        put(body, line, row_line(app, rows[at], area.width), buffer);
        if at == app.cursor && app.cursor > 0 {
            buffer.set_style(row_of(body, line), app.theme.selected);
        }
    }
}

/// Why there is nothing to show.
fn hint(app: &App) -> String {
    if !app.filter.is_empty() {
        format!("  no row has {}", label::shown(&app.filter, 40))
    } else if app.picture.samples == 0 {
        "  no samples yet".to_owned()
    } else if app.choice.gil {
        "  no thread held the GIL (g: all threads)".to_owned()
    } else {
        "  no thread was active (i: with blocked ones)".to_owned()
    }
}

fn head(app: &App, width: u16) -> Line<'static> {
    let theme = &app.theme;
    let mut spans = Vec::new();
    let mut used = 0;
    for (column, column_width, _) in columns(width) {
        let is_sorted = column == app.sort;
        let sign = match (is_sorted, app.is_inverted) {
            (false, _) => "",
            (true, false) => "▼",
            (true, true) => "▲",
        };
        let style = if is_sorted { theme.sorted } else { theme.head };
        let text = format!("{}{sign}", column.head());
        let blank = column_width.saturating_sub(text.chars().count());
        spans.push(Span::styled(" ".repeat(blank), theme.head));
        spans.push(Span::styled(text, style));
        used += column_width;
    }
    let what = match (app.by_function, app.without_lines) {
        (false, _) => "  Function (filename:line)",
        (true, false) => "  Function (filename:first line)",
        (true, true) => "  Function (filename)",
    };
    let rest = usize::from(width).saturating_sub(used);
    spans.push(Span::styled(label::padded(what, rest), theme.head));
    Line::from(spans)
}

fn columns(width: u16) -> impl Iterator<Item = (Column, usize, u16)> {
    COLUMNS
        .into_iter()
        .filter(move |(_, _, least)| width >= *least)
}

fn row_line(app: &App, row: &Row, width: u16) -> Line<'static> {
    let theme = &app.theme;
    let mut text = String::new();
    for (column, column_width, _) in columns(width) {
        let figure = figure(app, row, column);
        text.push_str(&format!("{figure:>column_width$}"));
    }
    let rest = usize::from(width).saturating_sub(text.len() + 2);
    let (function, place) = label::fitted(&row.frame, app.full_filenames, rest);
    let is_found = !app.search.is_empty()
        && format!("{function}{place}")
            .to_lowercase()
            .contains(&app.search.to_lowercase());
    let name = if is_found { theme.found } else { theme.name };
    Line::from(vec![
        Span::raw(format!("{text}  ")),
        Span::styled(function, name),
        Span::raw(place),
    ])
}

/// A figure of a row, as the column shows it.
fn figure(app: &App, row: &Row, column: Column) -> String {
    let choice = app.choice;
    let share = |time: Duration| format!("{:.2}%", percent(time, app.picture.interval));
    match column {
        Column::OwnShare => share(row.recent.own.of(choice)),
        Column::TotalShare => share(row.recent.total.of(choice)),
        Column::OwnTime => seconds(row.ever.own.of(choice)),
        Column::TotalTime => seconds(row.ever.total.of(choice)),
    }
}

/// Seconds with as many decimals as fit in seven columns: `0.512s`, `38.00s`, `43994s`.
pub fn seconds(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 1.0 {
        format!("{seconds:.3}s")
    } else if seconds < 1000.0 {
        format!("{seconds:.2}s")
    } else {
        format!("{seconds:.0}s")
    }
}
