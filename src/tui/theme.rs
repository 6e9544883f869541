//! How things look. Colour never carries a meaning alone: there is always a word or a sign beside it.

use ratatui::style::{Color, Modifier, Style};

/// The styles of the screen's parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Theme {
    /// Figures in the header.
    pub figure: Style,
    /// The heads of tables.
    pub head: Style,
    /// The head of the column that a table is sorted by.
    pub sorted: Style,
    /// The row that keys act on.
    pub selected: Style,
    /// What is stuck.
    pub stuck: Style,
    /// What matters less.
    pub dim: Style,
    /// Names of functions.
    pub name: Style,
    /// What was searched for.
    pub found: Style,
    /// Keys in the footer and in the help.
    pub key: Style,
    /// What has come to its end, or stands still.
    pub banner: Style,
}

impl Theme {
    /// With colours, or for `NO_COLOR` without any.
    pub fn new(has_colors: bool) -> Self {
        let plain = Style::new();
        let bold = plain.add_modifier(Modifier::BOLD);
        let reversed = plain.add_modifier(Modifier::REVERSED);
        let color = |style: Style, color: Color| {
            if has_colors { style.fg(color) } else { style }
        };
        Theme {
            figure: bold,
            head: reversed,
            sorted: reversed.add_modifier(Modifier::BOLD | Modifier::UNDERLINED),
            selected: reversed,
            stuck: color(bold, Color::Red),
            dim: plain.add_modifier(Modifier::DIM),
            name: color(plain, Color::Green),
            found: bold.add_modifier(Modifier::UNDERLINED),
            key: color(bold, Color::Cyan),
            banner: color(reversed.add_modifier(Modifier::BOLD), Color::Yellow),
        }
    }

    /// As the environment asks: without colours where `NO_COLOR` is set to anything.
    pub fn from_environment() -> Self {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Theme::new(!no_color)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_colors_there_are_none() {
        let theme = format!("{:?}", Theme::new(false));
        for color in ["Red", "Green", "Cyan", "Yellow"] {
            assert!(!theme.contains(color), "{theme}");
        }
        assert_ne!(Theme::new(true), Theme::new(false));
    }
}
