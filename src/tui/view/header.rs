//! The header: what is sampled, how often, and how busy it is. The words are py-spy's, which people know.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use unicode_width::UnicodeWidthStr;

use super::{percent, put};
use crate::model::span;
use crate::tui::app::App;
use crate::tui::label;

/// Widest title that is shown.
const MAX_TITLE: usize = 300;

/// Draws it in three lines, or in one.
pub fn draw(app: &App, area: Rect, buffer: &mut Buffer) {
    let theme = &app.theme;
    let activity = marked(app, activity_line(app), area);
    if area.height < 3 {
        put(area, 0, activity, buffer);
        return;
    }
    let (subject, title) = subject(app);
    let line = vec![Span::raw(subject), Span::styled(title, theme.dim)];
    put(area, 0, line, buffer);
    put(area, 1, samples_line(app), buffer);
    put(area, 2, activity, buffer);
}

/// What is sampled, and its title.
pub fn subject(app: &App) -> (String, String) {
    let python = app.root.as_ref().and_then(|root| root.python.as_deref());
    let python = match python {
        Some(version) => format!(" (python v{})", label::shown(version, 40)),
        None => String::new(),
    };
    let title = app.root.as_ref().map_or("", |root| &root.title);
    (
        format!("Collecting samples from 'pid: {}'{python}", app.pid),
        format!("  {}", label::shown(title, MAX_TITLE)),
    )
}

/// How many samples there are, and how good they are.
pub fn samples_line(app: &App) -> String {
    let picture = &app.picture;
    let mut text = format!("Total Samples {}", picture.samples);
    if !picture.period.is_zero() {
        let rate = 1.0 / picture.period.as_secs_f64();
        text.push_str(&format!(", {rate:.0} per second"));
    }
    text.push_str(&format!(", {}", span(picture.elapsed)));
    let mut share = |part: u64, whole: u64, what: &str| {
        // Of a few samples, the first that fails is no news.
        if part > 0 && whole > 100 {
            let share = 100.0 * part as f64 / whole as f64;
            text.push_str(&format!(", {what} {share:.2}%"));
        }
    };
    share(picture.torn, picture.stacks + picture.torn, "torn");
    share(picture.lost, picture.samples + picture.lost, "missed");
    text
}

/// How busy it is.
pub fn activity_line(app: &App) -> String {
    let picture = &app.picture;
    format!(
        "GIL: {:.2}%, Active: {:.2}%, Threads: {}",
        percent(picture.gil, picture.interval),
        percent(picture.active, picture.interval),
        picture.threads.len()
    )
}

/// A line with what is set otherwise than usual at its end, as far as there is room.
fn marked(app: &App, text: String, area: Rect) -> Line<'static> {
    let theme = &app.theme;
    let mut marks = Vec::new();
    if app.is_paused {
        marks.push(("PAUSED".to_owned(), theme.banner));
    }
    if area.height < 3 && app.stuck_count() > 0 {
        marks.push((format!("STUCK: {}", app.stuck_count()), theme.stuck));
    }
    if app.choice.gil {
        marks.push(("GIL only".to_owned(), theme.figure));
    } else if app.choice.idle {
        marks.push(("with idle".to_owned(), theme.figure));
    }
    if !app.filter.is_empty() {
        let filter = label::shown(&app.filter, 30);
        marks.push((format!("filter: {filter}"), theme.figure));
    }
    let mut left = usize::from(area.width).saturating_sub(text.width());
    let mut spans = vec![Span::raw(text)];
    for (mark, style) in marks {
        let mark = format!("[{mark}]");
        let Some(rest) = left.checked_sub(mark.width() + 2) else {
            break;
        };
        left = rest;
        spans.push(Span::raw("  "));
        spans.push(Span::styled(mark, style));
    }
    Line::from(spans)
}
