//! Pictures of every part at several sizes, and that no size, name or sequence of keys breaks any.

use std::time::Duration;

use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::Color;

use super::*;
use crate::model::{SamplingEnd, ThreadIndex};
use crate::report::sanitize::acts;
use crate::tui::action::update;
use crate::tui::command::{Action, Column, Motion};
use crate::tui::keymap::KEYMAP;
use crate::tui::testing;
use crate::tui::theme::Theme;

const SIZES: [(u16, u16); 3] = [(120, 30), (80, 24), (40, 10)];

fn picture(app: &App, (width, height): (u16, u16)) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(app, frame)).unwrap();
    terminal.backend().buffer().clone()
}

fn text(app: &App, (width, height): (u16, u16)) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(app, frame)).unwrap();
    terminal.backend().to_string()
}

/// Compares pictures of all sizes with the kept ones.
fn check(name: &str, app: &App) {
    for size in SIZES {
        insta::assert_snapshot!(format!("{name}-{}x{}", size.0, size.1), text(app, size));
    }
}

fn after(actions: &[Action]) -> App {
    let mut app = testing::app();
    for action in actions {
        update(&mut app, *action);
    }
    app
}

#[test]
fn functions_and_header_and_blocked() {
    check("functions", &testing::app());
    check("nothing-yet", &App::new(testing::options()));
    check(
        "by-function-with-idle",
        &after(&[
            Action::ToggleLines,
            Action::ToggleIdle,
            Action::Sort(Column::TotalTime),
            Action::Move(Motion::Down),
        ]),
    );
}

#[test]
fn threads_and_stack() {
    let down = Action::Move(Motion::Down);
    check("threads", &after(&[Action::Threads, down]));
    check("stack", &after(&[Action::Threads, down, Action::Open]));
}

#[test]
fn processes() {
    check("processes", &after(&[Action::Processes]));
}

#[test]
fn help() {
    check("help", &after(&[Action::Help]));
}

#[test]
fn footer_and_banner() {
    let typed = ['n', 'o', '名', '\u{202e}'].map(Action::Type);
    let mut filter = vec![Action::Filter];
    filter.extend(typed);
    check("prompt", &after(&filter));
    let mut app = after(&[Action::ToggleGil]);
    let mut last = testing::batch(2100);
    last.end = Some(SamplingEnd::TargetEnded);
    for (_, process) in &mut last.processes {
        process.is_alive = false;
    }
    app.receive(&last);
    check("ended", &app);
    assert_eq!(app.picture.threads.len(), 4, "the last picture stays");
}

#[test]
fn a_short_program_is_shown_though_it_ended_before_the_first_picture() {
    let mut app = App::new(testing::options());
    let mut batch = testing::batch(50);
    batch.end = Some(SamplingEnd::TargetEnded);
    app.receive(&batch);
    assert!(app.shown_rows().len() > 0);
}

#[test]
fn without_colors_no_cell_has_one_and_what_is_stuck_says_so() {
    for has_colors in [false, true] {
        let mut app = testing::app();
        app.theme = Theme::new(has_colors);
        let buffer = picture(&app, (80, 24));
        let is_colored = buffer
            .content
            .iter()
            .any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset);
        assert_eq!(is_colored, has_colors);
        let text = text(&app, (80, 24));
        assert!(text.contains("! hang-network"), "{text}");
        assert!(text.contains("STUCK: 1"), "{text}");
    }
}

#[test]
fn a_pause_holds_the_picture() {
    let mut app = after(&[Action::Pause]);
    let held = text(&app, (80, 24));
    assert!(held.contains("[PAUSED]"), "{held}");
    app.receive(&testing::batch(5000));
    app.receive_blocked(Vec::new());
    assert_eq!(text(&app, (80, 24)), held);
    update(&mut app, Action::Pause);
    app.receive(&testing::batch(5200));
    let now = text(&app, (80, 24));
    assert!(
        !now.contains("PAUSED") && now.contains("Total Samples 520"),
        "{now}"
    );
}

#[test]
fn the_selected_thread_stays_selected_when_another_ends() {
    let mut app = after(&[
        Action::Threads,
        Action::Move(Motion::Down),
        Action::Move(Motion::Down),
    ]);
    assert_eq!(app.selected_thread().unwrap().index, ThreadIndex(2));
    let mut later = testing::batch(9000);
    later.runs.retain(|run| run.thread == ThreadIndex(2));
    app.receive(&later);
    assert_eq!(app.picture.threads.len(), 1);
    assert_eq!(app.selected_thread().unwrap().index, ThreadIndex(2));
}

#[test]
fn every_size_can_be_drawn() {
    let mut ended = testing::app();
    ended.receive(&Batch {
        end: Some(SamplingEnd::Failed("no more memory".to_owned())),
        ..testing::batch(2100)
    });
    let apps = [
        testing::app(),
        ended,
        App::new(testing::options()),
        after(&[Action::Help]),
        after(&[Action::Threads]),
        after(&[Action::Threads, Action::Open]),
        after(&[Action::Processes]),
        after(&[Action::Save]),
    ];
    for app in &apps {
        for width in 1..=20 {
            for height in 1..=20 {
                picture(app, (width, height));
            }
        }
    }
}

use crate::model::Batch;

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..KEYMAP.len()).prop_map(|at| Step::Act(KEYMAP[at].action)),
        2 => any::<char>().prop_map(|letter| Step::Act(Action::Type(letter))),
        2 => Just(Step::Act(Action::Accept)),
        1 => Just(Step::Act(Action::Erase)),
        3 => (0u64..3000, any::<bool>()).prop_map(|(time, is_last)| Step::Batch(time, is_last)),
        1 => Just(Step::Blocked),
        3 => (1u16..100, 1u16..40).prop_map(Step::Size),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Act(Action),
    Batch(u64, bool),
    Blocked,
    Size((u16, u16)),
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn nothing_breaks_it(steps in prop::collection::vec(any_step(), 1..60)) {
        let mut app = App::new(testing::options());
        let mut size = (80, 24);
        let mut time = 0;
        for step in steps {
            match step {
                Step::Act(action) => {
                    update(&mut app, action);
                }
                Step::Batch(more, is_last) => {
                    time += more;
                    let mut batch = testing::batch(time);
                    batch.end = (is_last && more % 4 == 0).then_some(SamplingEnd::TargetEnded);
                    app.receive(&batch);
                }
                Step::Blocked => {
                    app.receive_blocked(testing::blocked());
                }
                Step::Size(other) => size = other,
            }
            app.set_page(page(&app, Rect::new(0, 0, size.0, size.1)));
            let buffer = picture(&app, size);
            for cell in &buffer.content {
                prop_assert!(!cell.symbol().chars().any(acts), "{:?}", cell);
            }
        }
    }
}

#[test]
fn a_share_of_nothing_is_nothing() {
    assert_eq!(percent(Duration::from_secs(1), Duration::ZERO), 0.0);
    assert_eq!(first_shown(50, 100, 10), 45);
    assert_eq!(first_shown(99, 100, 10), 90);
    assert_eq!(first_shown(2, 3, 10), 0);
}
