//! Which key does what: one table, from which the help screen is drawn too.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::command::{Action, Column, Motion};

/// A key, with Control held down or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chord {
    code: KeyCode,
    is_control: bool,
}

/// Keys that do the same.
#[derive(Clone, Copy, Debug)]
pub struct Binding {
    /// The keys.
    pub chords: &'static [Chord],
    /// What they do.
    pub action: Action,
    /// That in words.
    pub help: &'static str,
}

const fn key(code: KeyCode) -> Chord {
    Chord {
        code,
        is_control: false,
    }
}

const fn letter(letter: char) -> Chord {
    key(KeyCode::Char(letter))
}

const fn control(letter: char) -> Chord {
    Chord {
        code: KeyCode::Char(letter),
        is_control: true,
    }
}

const fn function(number: u8) -> Chord {
    key(KeyCode::F(number))
}

const fn bind(chords: &'static [Chord], action: Action, help: &'static str) -> Binding {
    Binding {
        chords,
        action,
        help,
    }
}

/// All keys, in the order of the help screen.
#[rustfmt::skip]
pub const KEYMAP: &[Binding] = &[
    bind(&[letter('1')], Action::Sort(Column::OwnShare), "sort by %Own: time in the function itself, of the last interval"),
    bind(&[letter('2')], Action::Sort(Column::TotalShare), "sort by %Total: with the functions that it called"),
    bind(&[letter('3')], Action::Sort(Column::OwnTime), "sort by OwnTime: since the beginning"),
    bind(&[letter('4')], Action::Sort(Column::TotalTime), "sort by TotalTime"),
    bind(&[letter('>'), function(6)], Action::SortNext, "sort by the next column"),
    bind(&[letter('<')], Action::SortPrevious, "sort by the column before"),
    bind(&[letter('I')], Action::Invert, "reverse the sort order"),
    bind(&[letter('l'), letter('L')], Action::ToggleLines, "lines or functions"),
    bind(&[letter('i')], Action::ToggleIdle, "with or without blocked threads"),
    bind(&[letter('g'), letter('G')], Action::ToggleGil, "all threads, or only the ones that hold the GIL"),
    bind(&[letter('f')], Action::ToggleFilenames, "whole paths of files"),
    bind(&[letter('r'), letter('R')], Action::Reset, "reset: count from now on"),
    bind(&[letter(' '), letter('p'), letter('z'), letter('Z')], Action::Pause, "pause the screen; sampling continues"),
    bind(&[letter('/'), function(3)], Action::Search, "search"),
    bind(&[letter('n')], Action::SearchNext, "next match"),
    bind(&[letter('\\'), function(4)], Action::Filter, "show only rows with a text"),
    bind(&[key(KeyCode::Tab), letter('T')], Action::NextView, "next view: functions, threads, processes"),
    bind(&[letter('H')], Action::Threads, "threads, with the stack of the selected one"),
    bind(&[letter('t'), function(5)], Action::Processes, "processes, as a tree"),
    bind(&[key(KeyCode::Enter)], Action::Open, "open the selected thread's stack, or process' threads"),
    bind(&[key(KeyCode::Esc), letter('x'), letter('X')], Action::Back, "back; clears filter and search"),
    bind(&[key(KeyCode::Up), letter('k')], Action::Move(Motion::Up), "up"),
    bind(&[key(KeyCode::Down), letter('j')], Action::Move(Motion::Down), "down"),
    bind(&[key(KeyCode::PageUp)], Action::Move(Motion::PageUp), "a page up"),
    bind(&[key(KeyCode::PageDown)], Action::Move(Motion::PageDown), "a page down"),
    bind(&[key(KeyCode::Home)], Action::Move(Motion::First), "to the top"),
    bind(&[key(KeyCode::End)], Action::Move(Motion::Last), "to the bottom"),
    bind(&[letter('s'), letter('S')], Action::Save, "save the profile so far to a file"),
    bind(&[letter('?'), function(1), letter('h')], Action::Help, "this help"),
    bind(&[control('l')], Action::Redraw, "draw the screen anew"),
    bind(&[control('z')], Action::Suspend, "suspend"),
    bind(&[letter('q'), letter('Q'), function(10), control('c')], Action::Quit, "quit"),
];

/// What a key does on a screen.
pub fn action_of(event: KeyEvent) -> Option<Action> {
    let chord = pressed(event)?;
    KEYMAP
        .iter()
        .find(|binding| binding.chords.contains(&chord))
        .map(|binding| binding.action)
}

/// What a key does while a text is typed.
pub fn typing_action_of(event: KeyEvent) -> Option<Action> {
    let chord = pressed(event)?;
    match (chord.code, chord.is_control) {
        (KeyCode::Enter, false) | (KeyCode::Char('m' | 'j'), true) => Some(Action::Accept),
        (KeyCode::Esc, false) | (KeyCode::Char('c' | 'g'), true) => Some(Action::Cancel),
        (KeyCode::Backspace, _) | (KeyCode::Char('h'), true) => Some(Action::Erase),
        (KeyCode::Char('u'), true) => Some(Action::EraseAll),
        (KeyCode::Char(letter), false) => Some(Action::Type(letter)),
        _ => None,
    }
}

fn pressed(event: KeyEvent) -> Option<Chord> {
    if event.kind == KeyEventKind::Release || event.modifiers.contains(KeyModifiers::ALT) {
        return None;
    }
    Some(Chord {
        code: event.code,
        is_control: event.modifiers.contains(KeyModifiers::CONTROL),
    })
}

impl Binding {
    /// The keys in words.
    pub fn keys(&self) -> String {
        let names: Vec<String> = self.chords.iter().map(|chord| chord.name()).collect();
        names.join(" ")
    }
}

impl Chord {
    fn name(self) -> String {
        match self.code {
            KeyCode::Char(letter) if self.is_control => {
                format!("Ctrl-{}", letter.to_ascii_uppercase())
            }
            KeyCode::Char(' ') => "Space".to_owned(),
            KeyCode::Char(letter) => letter.to_string(),
            KeyCode::F(number) => format!("F{number}"),
            KeyCode::PageUp => "PgUp".to_owned(),
            KeyCode::PageDown => "PgDn".to_owned(),
            code => format!("{code:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_does_two_things() {
        let chords: Vec<Chord> = KEYMAP
            .iter()
            .flat_map(|binding| binding.chords)
            .copied()
            .collect();
        for (index, chord) in chords.iter().enumerate() {
            assert!(!chords[..index].contains(chord), "{chord:?}");
        }
    }

    #[test]
    fn keys_find_their_actions() {
        let press = |code, modifiers| action_of(KeyEvent::new(code, modifiers));
        let none = KeyModifiers::NONE;
        assert_eq!(press(KeyCode::F(10), none), Some(Action::Quit));
        assert_eq!(
            press(KeyCode::Char('c'), KeyModifiers::CONTROL),
            Some(Action::Quit)
        );
        assert_eq!(press(KeyCode::Char('c'), none), None);
        // Terminals differ in whether they tell the shift key with a capital.
        assert_eq!(
            press(KeyCode::Char('L'), KeyModifiers::SHIFT),
            Some(Action::ToggleLines)
        );
        assert_eq!(press(KeyCode::Char('q'), KeyModifiers::ALT), None);
        let release = KeyEvent::new_with_kind(KeyCode::Char('q'), none, KeyEventKind::Release);
        assert_eq!(action_of(release), None);
    }

    #[test]
    fn while_typing_letters_are_letters() {
        let press = |code, modifiers| typing_action_of(KeyEvent::new(code, modifiers));
        assert_eq!(
            press(KeyCode::Char('q'), KeyModifiers::NONE),
            Some(Action::Type('q'))
        );
        assert_eq!(
            press(KeyCode::Char('c'), KeyModifiers::CONTROL),
            Some(Action::Cancel)
        );
        assert_eq!(press(KeyCode::F(10), KeyModifiers::NONE), None);
    }
}
