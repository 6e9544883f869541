//! The threads and what each does, and below them the stack of the selected one where there is room.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::{percent, put, row_of, shown, stack};
use crate::model::{Activity, Gil};
use crate::profile::ThreadRow;
use crate::tui::app::App;
use crate::tui::label;

/// Least height that is divided between threads and a stack.
const MIN_DIVIDED: u16 = 8;

/// Draws it.
pub fn draw(app: &App, area: Rect, buffer: &mut Buffer) {
    let rows = app.shown_threads();
    let count = u16::try_from(rows.len()).unwrap_or(u16::MAX);
    let height = if area.height >= MIN_DIVIDED {
        count.saturating_add(1).min(area.height / 2)
    } else {
        area.height
    };
    let list = Rect { height, ..area };
    draw_list(app, &rows, list, buffer);
    let below = Rect {
        y: area.y + height,
        height: area.height - height,
        ..area
    };
    if let Some(thread) = app.selected_thread() {
        stack::draw_stack(app, thread, 0, below, buffer);
    }
}

fn draw_list(app: &App, rows: &[&ThreadRow], area: Rect, buffer: &mut Buffer) {
    let theme = &app.theme;
    let columns = Columns::new(app, area.width);
    let head = label::padded(&columns.head(), usize::from(area.width));
    put(area, 0, Span::styled(head, theme.head), buffer);
    let body = Rect {
        y: area.y + area.height.min(1),
        height: area.height.saturating_sub(1),
        ..area
    };
    if rows.is_empty() {
        put(body, 0, Span::styled("  no threads", theme.dim), buffer);
    }
    let selected = app.selected_thread().map(|row| row.index);
    let cursor = rows.iter().position(|row| Some(row.index) == selected);
    for (line, at) in shown(cursor.unwrap_or(0), rows.len(), body.height) {
        let row = rows[at];
        put(body, line, row_line(app, row, columns, area.width), buffer);
        if Some(at) == cursor {
            buffer.set_style(row_of(body, line), theme.selected);
        }
    }
}

/// Which columns there are, and how wide.
#[derive(Clone, Copy, Debug)]
struct Columns {
    has_pids: bool,
    has_gil: bool,
    name: usize,
}

impl Columns {
    fn new(app: &App, width: u16) -> Self {
        Columns {
            has_pids: app.picture.processes.len() > 1,
            // The state names the one that holds it.
            has_gil: width >= 100,
            name: (usize::from(width) / 7).clamp(6, 24),
        }
    }

    fn line(self, figures: [&str; 4], state: &str, name: &str) -> String {
        let [pid, tid, active, gil] = figures;
        let mut text = String::new();
        if self.has_pids {
            text.push_str(&format!("{pid:>8}"));
        }
        text.push_str(&format!("{tid:>8}{active:>9}"));
        if self.has_gil {
            text.push_str(&format!("{gil:>8}"));
        }
        let name = label::padded(name, self.name);
        text.push_str(&format!("  {} {name}  ", label::padded(state, 13)));
        text
    }

    fn head(self) -> String {
        self.line(["PID", "TID", "%Active", "%GIL"], "State", "Name") + "Function"
    }
}

fn row_line(app: &App, row: &ThreadRow, columns: Columns, width: u16) -> Line<'static> {
    let share = |time| format!("{:.1}%", percent(time, app.picture.interval));
    let text = columns.line(
        [
            &row.pid.to_string(),
            &row.tid.to_string(),
            &share(row.active),
            &share(row.held),
        ],
        &state_word(row),
        &label::shown(&row.name, columns.name),
    );
    let used = unicode_width::UnicodeWidthStr::width(text.as_str());
    let rest = usize::from(width).saturating_sub(used);
    let (function, place) = match row.stack.first() {
        Some(frame) => label::fitted(frame, app.full_filenames, rest),
        None => (label::cut("<no Python>", rest), String::new()),
    };
    Line::from(vec![
        Span::raw(text),
        Span::styled(function, app.theme.name),
        Span::raw(place),
    ])
}

/// What a thread does, in a word or two.
pub fn state_word(row: &ThreadRow) -> String {
    let word = match row.activity {
        Activity::Active => "active".to_owned(),
        Activity::Waiting(kind) => match serde_json::to_value(kind) {
            Ok(serde_json::Value::String(word)) if word != "unknown" => word,
            _ => "waiting".to_owned(),
        },
    };
    match row.gil {
        Gil::None => word,
        Gil::Held => format!("{word}+gil"),
        Gil::Waiting => "waits for gil".to_owned(),
    }
}
