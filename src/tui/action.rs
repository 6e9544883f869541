//! What each command does to the state. Pure: what reaches beyond the state is handed back as an [`Effect`].

use super::app::{App, Prompt, PromptKind, View};
use super::command::{Action, Column};

/// Most characters of a text that is typed.
const MAX_TYPED: usize = 1000;

/// What is to be done outside of the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// End.
    Quit,
    /// Give the terminal back for a while.
    Suspend,
    /// Draw all of the screen.
    Redraw,
    /// Save the profile so far to this file.
    Save(String),
}

/// Does what was asked for.
pub fn update(app: &mut App, action: Action) -> Option<Effect> {
    if app.prompt.is_some() {
        return update_prompt(app, action);
    }
    app.message = None;
    match action {
        Action::Sort(column) => app.sort_by(column),
        Action::SortNext => app.sort_by(app.sort.step(1)),
        Action::SortPrevious => app.sort_by(app.sort.step(Column::ALL.len() - 1)),
        Action::Invert => {
            app.is_inverted = !app.is_inverted;
            app.arrange();
        }
        Action::ToggleLines => {
            app.by_function = !app.by_function;
            app.arrange();
        }
        Action::ToggleIdle => {
            app.choice.idle = !app.choice.idle;
            app.arrange();
        }
        Action::ToggleGil => {
            app.choice.gil = !app.choice.gil;
            app.arrange();
        }
        Action::ToggleFilenames => {
            app.full_filenames = !app.full_filenames;
            app.arrange();
        }
        Action::Reset => app.reset(),
        Action::Pause => app.toggle_pause(),
        Action::Search => app.ask(PromptKind::Search, String::new()),
        Action::SearchNext => app.find_next(1),
        Action::Filter => app.ask(PromptKind::Filter, app.filter.clone()),
        Action::NextView => app.next_view(),
        Action::Threads => app.show(View::Threads),
        Action::Processes => app.show(View::Processes),
        Action::Open => app.open(),
        Action::Back => app.back(),
        Action::Move(motion) => app.go(motion),
        Action::Save => app.ask(PromptKind::Save, app.suggested_file()),
        Action::Help => app.toggle_help(),
        Action::Redraw => return Some(Effect::Redraw),
        Action::Suspend => return Some(Effect::Suspend),
        Action::Quit => return Some(Effect::Quit),
        Action::Type(_) | Action::Erase | Action::EraseAll | Action::Accept | Action::Cancel => {}
    }
    None
}

fn update_prompt(app: &mut App, action: Action) -> Option<Effect> {
    let Prompt { kind, mut text } = app.prompt.take()?;
    match action {
        Action::Accept => {
            return match kind {
                PromptKind::Search => {
                    app.search = text;
                    app.find_next(0);
                    None
                }
                PromptKind::Filter => {
                    app.filter = text;
                    app.arrange();
                    None
                }
                PromptKind::Save if text.is_empty() => None,
                PromptKind::Save => Some(Effect::Save(text)),
            };
        }
        Action::Cancel => return None,
        Action::Type(letter) if text.chars().count() < MAX_TYPED => text.push(letter),
        Action::Erase => {
            text.pop();
        }
        Action::EraseAll => text.clear(),
        _ => {}
    }
    app.prompt = Some(Prompt { kind, text });
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::command::Motion;
    use crate::tui::testing;

    fn typed(app: &mut App, text: &str) -> Option<Effect> {
        for letter in text.chars() {
            update(app, Action::Type(letter));
        }
        update(app, Action::Accept)
    }

    fn names(app: &App) -> Vec<String> {
        app.shown_rows()
            .map(|row| row.frame.function.to_string())
            .collect()
    }

    #[test]
    fn columns_follow_each_other_round() {
        let mut app = testing::app();
        let mut seen = Vec::new();
        for _ in 0..4 {
            update(&mut app, Action::SortNext);
            seen.push(app.sort);
        }
        assert_eq!(
            seen,
            [
                Column::TotalShare,
                Column::OwnTime,
                Column::TotalTime,
                Column::OwnShare
            ]
        );
        update(&mut app, Action::SortPrevious);
        assert_eq!(app.sort, Column::TotalTime);
    }

    #[test]
    fn sorting_and_inverting_order_the_rows() {
        let mut app = testing::app();
        assert_eq!(names(&app)[0], "burn");
        update(&mut app, Action::Sort(Column::TotalTime));
        // Both have all of the time; of these, the one with more time of its own comes first.
        assert_eq!(names(&app)[..2], ["main", "<module>"]);
        let mut expected = names(&app);
        update(&mut app, Action::Invert);
        expected.reverse();
        assert_eq!(names(&app), expected);
    }

    #[test]
    fn toggles_work_on_a_picture_that_is_held() {
        let mut app = testing::app();
        update(&mut app, Action::Pause);
        assert!(app.is_paused && !names(&app).contains(&"recv_into".to_owned()));
        update(&mut app, Action::ToggleIdle);
        assert!(names(&app).contains(&"recv_into".to_owned()));
        update(&mut app, Action::ToggleGil);
        assert!(!names(&app).contains(&"recv_into".to_owned()));
        let before = names(&app).len();
        update(&mut app, Action::ToggleLines);
        assert!(app.by_function && names(&app).len() < before);
    }

    #[test]
    fn a_filter_leaves_rows_with_its_text_and_back_clears_it() {
        let mut app = testing::app();
        let all = names(&app).len();
        update(&mut app, Action::Filter);
        assert_eq!(typed(&mut app, "BURN"), None);
        assert_eq!(names(&app), ["burn", "burn"]);
        update(&mut app, Action::Back);
        assert_eq!(names(&app).len(), all);
    }

    #[test]
    fn a_search_goes_from_match_to_match_and_round() {
        let mut app = testing::app();
        update(&mut app, Action::Search);
        typed(&mut app, "main");
        let first = app.cursor;
        assert_eq!(names(&app)[first], "main");
        update(&mut app, Action::SearchNext);
        assert_eq!(app.cursor, first);
        update(&mut app, Action::Search);
        typed(&mut app, "no such thing");
        assert_eq!(app.cursor, first);
        assert!(
            app.message
                .as_deref()
                .is_some_and(|text| text.contains("not found"))
        );
    }

    #[test]
    fn a_prompt_takes_letters_and_can_be_cancelled() {
        let mut app = testing::app();
        update(&mut app, Action::Save);
        update(&mut app, Action::EraseAll);
        assert_eq!(
            typed(&mut app, "out.svg"),
            Some(Effect::Save("out.svg".to_owned()))
        );
        update(&mut app, Action::Save);
        update(&mut app, Action::Cancel);
        assert!(app.prompt.is_none());
        assert_eq!(update(&mut app, Action::Quit), Some(Effect::Quit));
    }

    #[test]
    fn enter_leads_from_processes_to_threads_to_a_stack_and_escape_back() {
        let mut app = testing::app();
        let mut seen = Vec::new();
        update(&mut app, Action::Processes);
        for action in [Action::Open, Action::Open, Action::Back, Action::Back] {
            update(&mut app, action);
            seen.push(app.view);
        }
        assert_eq!(
            seen,
            [View::Threads, View::Stack, View::Threads, View::Processes]
        );
    }

    #[test]
    fn motions_stay_within_the_list() {
        assert_eq!(Motion::Down.apply(2, 3, 10), 2);
        assert_eq!(Motion::Up.apply(0, 3, 10), 0);
        assert_eq!(Motion::PageDown.apply(0, 30, 10), 10);
        assert_eq!(Motion::PageUp.apply(25, 30, 10), 15);
        assert_eq!(Motion::Last.apply(0, 0, 10), 0);
        assert_eq!(Motion::First.apply(7, 30, 10), 0);
    }
}
