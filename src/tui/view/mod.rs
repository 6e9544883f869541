//! Drawing the state: pure, and at every size down to a single cell.
//!
//! ```text
//! ┌ header ────────────────┐
//! ├ blocked ───────────────┤
//! │ functions, threads and │
//! │ stack, processes, help │
//! ├ banner ────────────────┤
//! └ footer ────────────────┘
//! ```

mod blocked;
mod footer;
mod functions;
mod header;
mod help;
mod processes;
mod stack;
mod threads;

use std::time::Duration;

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::Line;
use ratatui::widgets::Widget;

use super::app::{App, View};

pub use functions::seconds;
pub use header::{activity_line, samples_line, subject};
pub use threads::state_word;

/// Where each part stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Parts {
    header: Rect,
    blocked: Rect,
    body: Rect,
    banner: Rect,
    footer: Rect,
}

/// Draws all of the screen.
pub fn draw(app: &App, frame: &mut Frame<'_>) {
    let area = frame.area();
    let buffer = frame.buffer_mut();
    let parts = layout(app, area);
    header::draw(app, parts.header, buffer);
    blocked::draw(app, parts.blocked, buffer);
    match app.view {
        View::Functions => functions::draw(app, parts.body, buffer),
        View::Threads => threads::draw(app, parts.body, buffer),
        View::Stack => stack::draw(app, parts.body, buffer),
        View::Processes => processes::draw(app, parts.body, buffer),
        View::Help => help::draw(app, parts.body, buffer),
    }
    footer::draw_banner(app, parts.banner, buffer);
    footer::draw(app, parts.footer, buffer);
}

/// How many rows of a list fit.
pub fn page(app: &App, area: Rect) -> usize {
    usize::from(layout(app, area).body.height.saturating_sub(2)).max(1)
}

fn layout(app: &App, area: Rect) -> Parts {
    let header = match area.height {
        0..3 => 0,
        3..8 => 1,
        _ => 3,
    };
    let footer = u16::from(area.height >= 5);
    let banner = u16::from(app.ended.is_some() && area.height >= 2);
    let blocked = if app.view == View::Help {
        0
    } else {
        blocked::wanted_height(app, area.height)
    };
    let mut top = area.y;
    let mut left = area.height;
    let mut take = |height: u16| {
        let height = height.min(left);
        let part = Rect {
            y: top,
            height,
            ..area
        };
        top += height;
        left -= height;
        part
    };
    let header = take(header);
    let blocked = take(blocked);
    let body = take(
        area.height
            .saturating_sub(header.height + blocked.height + banner + footer),
    );
    Parts {
        header,
        blocked,
        body,
        banner: take(banner),
        footer: take(footer),
    }
}

/// Puts a line into a row of an area, if it has that row.
fn put<'a>(area: Rect, row: u16, line: impl Into<Line<'a>>, buffer: &mut Buffer) {
    if row < area.height {
        line.into().render(row_of(area, row), buffer);
    }
}

fn row_of(area: Rect, row: u16) -> Rect {
    Rect {
        y: area.y + row,
        height: 1,
        ..area
    }
}

/// The first of `count` rows to show so that the one at `cursor` is seen; it stays in the middle where it can.
fn first_shown(cursor: usize, count: usize, height: usize) -> usize {
    cursor
        .saturating_sub(height / 2)
        .min(count.saturating_sub(height))
}

/// The rows of a list that are shown, with their numbers on the screen.
fn shown(cursor: usize, count: usize, height: u16) -> impl Iterator<Item = (u16, usize)> {
    let first = first_shown(cursor, count, usize::from(height));
    (0..height).zip(first..count)
}

/// A share of a time, in percent.
pub fn percent(part: Duration, whole: Duration) -> f64 {
    if whole.is_zero() {
        return 0.0;
    }
    100.0 * part.as_secs_f64() / whole.as_secs_f64()
}

#[cfg(test)]
mod tests;
