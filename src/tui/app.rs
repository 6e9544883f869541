//! The state of the screen: what was seen, and how the user wants to see it. It does no input or output.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::blocked::{BlockedRow, MAX_ROWS};
use super::command::{Column, Motion};
use super::label;
use super::recording::Recording;
use super::theme::Theme;
use crate::model::{
    Batch, Frame, Pid, ProcessIndex, SampledProcess, SamplingEnd, ThreadIndex, span,
};
use crate::profile::{Choice, Picture, ProcessRow, Profile, Row, ThreadRow, Window};

/// The first picture is shown as soon as there is this much to show.
const FIRST_INTERVAL: Duration = Duration::from_millis(100);

/// How a view begins.
#[derive(Clone, Debug)]
pub struct AppOptions {
    /// The process that is looked at.
    pub pid: Pid,
    /// When that began.
    pub started_at: SystemTime,
    /// Time from picture to picture.
    pub delay: Duration,
    /// The first picture comes sooner than that.
    pub has_early_picture: bool,
    /// How long a wait may take before it is suspicious.
    pub threshold: Duration,
    /// Which time counts.
    pub choice: Choice,
    /// Functions, not lines.
    pub by_function: bool,
    /// No lines at all.
    pub without_lines: bool,
    /// Whole paths of files.
    pub full_filenames: bool,
    /// How it looks.
    pub theme: Theme,
}

/// What fills the screen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum View {
    /// The table of functions.
    #[default]
    Functions,
    /// The threads, with the stack of the selected one.
    Threads,
    /// The stack of the selected thread.
    Stack,
    /// The processes.
    Processes,
    /// The keys.
    Help,
}

/// What a text is typed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromptKind {
    /// To search for.
    Search,
    /// That rows must have.
    Filter,
    /// The file to save to.
    Save,
}

/// A text that is being typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// What for.
    pub kind: PromptKind,
    /// It, so far.
    pub text: String,
}

/// The state of the screen.
#[derive(Debug)]
pub struct App {
    /// The process that is looked at.
    pub pid: Pid,
    /// What is known of it.
    pub root: Option<SampledProcess>,
    /// How long a wait may take before it is suspicious.
    pub threshold: Duration,
    /// How it looks.
    pub theme: Theme,
    /// Which time counts.
    pub choice: Choice,
    /// Functions, not lines.
    pub by_function: bool,
    /// Functions are shown without a line.
    pub without_lines: bool,
    /// Whole paths of files.
    pub full_filenames: bool,
    /// What fills the screen.
    pub view: View,
    /// The column that functions are sorted by.
    pub sort: Column,
    /// Whether the least comes first.
    pub is_inverted: bool,
    /// What rows must have.
    pub filter: String,
    /// What was searched for.
    pub search: String,
    /// What is being typed.
    pub prompt: Option<Prompt>,
    /// The picture is held.
    pub is_paused: bool,
    /// The selected row of functions, or of a stack.
    pub cursor: usize,
    /// The first line of the stack that is shown.
    pub stack_cursor: usize,
    /// The first line of the help that is shown.
    pub help_cursor: usize,
    /// The selected thread.
    pub thread: Option<ThreadIndex>,
    /// The selected process.
    pub process: Option<ProcessIndex>,
    /// The process whose threads are shown, of several.
    pub only_process: Option<ProcessIndex>,
    /// What was seen in the last interval.
    pub picture: Picture,
    /// What is blocked; `None` until it was looked for.
    pub blocked: Option<Vec<BlockedRow>>,
    /// Something to be told.
    pub message: Option<String>,
    /// Why nothing more will come.
    pub ended: Option<String>,
    delay: Duration,
    has_early_picture: bool,
    pictures: u64,
    view_before_help: View,
    /// The rows of the picture that are shown, in their order.
    order: Vec<usize>,
    page: usize,
    window: Window,
    recording: Recording,
    is_fresh: bool,
}

impl App {
    /// A screen that has seen nothing yet.
    pub fn new(options: AppOptions) -> Self {
        App {
            pid: options.pid,
            root: None,
            threshold: options.threshold,
            theme: options.theme,
            choice: options.choice,
            by_function: options.by_function || options.without_lines,
            without_lines: options.without_lines,
            full_filenames: options.full_filenames,
            view: View::default(),
            sort: Column::default(),
            is_inverted: false,
            filter: String::new(),
            search: String::new(),
            prompt: None,
            is_paused: false,
            cursor: 0,
            stack_cursor: 0,
            help_cursor: 0,
            thread: None,
            process: None,
            only_process: None,
            picture: Picture::default(),
            blocked: None,
            message: None,
            ended: None,
            delay: options.delay,
            has_early_picture: options.has_early_picture,
            pictures: 0,
            view_before_help: View::default(),
            order: Vec::new(),
            page: 10,
            window: Window::new(options.without_lines),
            recording: Recording::new(options.started_at),
            is_fresh: true,
        }
    }

    /// Takes in what the sampler sends. Whether there is something new to be seen.
    pub fn receive(&mut self, batch: &Batch) -> bool {
        let is_root = |process: &SampledProcess| process.pid == self.pid;
        if let Some((_, root)) = batch
            .processes
            .iter()
            .rfind(|(index, process)| *index == ProcessIndex(0) || is_root(process))
        {
            self.root = Some(root.clone());
        }
        if let Some(remark) = batch.remarks.last() {
            self.message = Some(remark.clone());
        }
        self.window.add(batch);
        self.recording.add(batch);
        if let Some(end) = &batch.end {
            self.end(end);
            return true;
        }
        let is_due = self.window.interval() >= self.due();
        if is_due && !self.is_paused {
            self.picture = self.window.take_picture();
            self.pictures += 1;
            self.is_fresh = false;
            self.arrange();
        }
        is_due || !batch.remarks.is_empty()
    }

    fn due(&self) -> Duration {
        if self.is_fresh && self.has_early_picture {
            self.delay.min(FIRST_INTERVAL)
        } else {
            self.delay
        }
    }

    /// The last picture stays; what came after it replaces it only when it is as good.
    fn end(&mut self, end: &SamplingEnd) {
        let is_worth_it = self.is_fresh || self.window.interval().saturating_mul(2) >= self.delay;
        if is_worth_it && !self.is_paused {
            let last = std::mem::replace(&mut self.picture, self.window.take_picture());
            self.pictures += 1;
            // Nothing lives any more: its threads are shown as they were seen last.
            if self.picture.threads.is_empty() {
                self.picture.threads = last.threads;
            }
            if self.picture.processes.is_empty() {
                self.picture.processes = last.processes;
            }
            self.arrange();
        }
        self.ended = Some(match end {
            SamplingEnd::TargetEnded => format!("process {} ended; press q", self.pid),
            SamplingEnd::Stopped => "sampling was stopped; press q".to_owned(),
            SamplingEnd::Failed(why) => format!("sampling can't go on: {why}; press q"),
        });
    }

    /// Takes in what is blocked. Whether there is something new to be seen.
    pub fn receive_blocked(&mut self, rows: Vec<BlockedRow>) -> bool {
        if self.is_paused || self.ended.is_some() {
            return false;
        }
        let is_new = self.blocked.as_ref() != Some(&rows);
        self.blocked = Some(rows);
        is_new
    }

    /// How many pictures there were so far.
    pub fn pictures(&self) -> u64 {
        self.pictures
    }

    /// How many rows a screenful is.
    pub fn set_page(&mut self, rows: usize) {
        self.page = rows.max(1);
    }

    /// The profile so far, with the time that counts.
    pub fn profile(&self) -> Profile {
        self.recording.profile(self.choice)
    }

    /// Why the profile so far is not all that was seen, if so.
    pub fn profile_limit(&self) -> Option<&'static str> {
        self.recording.limit()
    }

    /// A name for the profile's file.
    pub fn suggested_file(&self) -> String {
        format!("stuckspy-{}.svg", self.pid)
    }

    pub(super) fn ask(&mut self, kind: PromptKind, text: String) {
        self.prompt = Some(Prompt { kind, text });
    }

    pub(super) fn sort_by(&mut self, column: Column) {
        self.sort = column;
        self.arrange();
    }

    pub(super) fn reset(&mut self) {
        self.window.reset();
        self.recording.reset();
        self.picture.lines.clear();
        self.picture.functions.clear();
        self.picture.samples = 0;
        self.picture.elapsed = Duration::ZERO;
        (self.picture.stacks, self.picture.torn) = (0, 0);
        self.picture.lost = 0;
        self.is_fresh = true;
        self.arrange();
    }

    pub(super) fn toggle_pause(&mut self) {
        self.is_paused = !self.is_paused;
        if !self.is_paused && self.ended.is_none() {
            // What is shown next is what happens now, not what was missed.
            let _ = self.window.take_picture();
            self.is_fresh = true;
        }
    }

    pub(super) fn show(&mut self, view: View) {
        self.view = view;
        if view == View::Threads {
            self.only_process = None;
        }
    }

    pub(super) fn next_view(&mut self) {
        self.show(match self.view {
            View::Functions => View::Threads,
            View::Threads | View::Stack => View::Processes,
            View::Processes | View::Help => View::Functions,
        });
    }

    pub(super) fn toggle_help(&mut self) {
        if self.view == View::Help {
            self.view = self.view_before_help;
        } else {
            self.view_before_help = self.view;
            self.view = View::Help;
            self.help_cursor = 0;
        }
    }

    pub(super) fn open(&mut self) {
        match self.view {
            View::Threads => {
                self.thread = self.selected_thread().map(|row| row.index);
                self.stack_cursor = 0;
                self.view = View::Stack;
            }
            View::Processes => {
                self.only_process = self.selected_process().map(|row| row.index);
                self.thread = None;
                self.view = View::Threads;
            }
            View::Functions | View::Stack | View::Help => {}
        }
    }

    pub(super) fn back(&mut self) {
        match self.view {
            View::Help => self.toggle_help(),
            View::Stack => self.view = View::Threads,
            _ if !self.filter.is_empty() || !self.search.is_empty() => {
                self.filter.clear();
                self.search.clear();
                self.arrange();
            }
            View::Threads if self.only_process.is_some() => self.show(View::Processes),
            View::Threads | View::Processes | View::Functions => self.show(View::Functions),
        }
    }

    pub(super) fn go(&mut self, motion: Motion) {
        match self.view {
            View::Functions => {
                self.cursor = motion.apply(self.cursor, self.order.len(), self.page);
            }
            View::Stack => {
                let depth = self.selected_thread().map_or(0, |row| row.stack.len());
                self.stack_cursor = motion.apply(self.stack_cursor, depth, self.page);
            }
            View::Help => {
                let count = super::keymap::KEYMAP.len();
                self.help_cursor = motion.apply(self.help_cursor, count, self.page);
            }
            View::Threads => {
                let rows = self.shown_threads();
                let at = position(&rows, self.thread, |row| row.index);
                let to = motion.apply(at, rows.len(), self.page);
                self.thread = rows.get(to).map(|row| row.index);
            }
            View::Processes => {
                let rows = self.shown_processes();
                let at = position(&rows, self.process, |(row, _)| row.index);
                let to = motion.apply(at, rows.len(), self.page);
                self.process = rows.get(to).map(|(row, _)| row.index);
            }
        }
    }

    /// Goes to the first row from `skip` rows behind the cursor on that has what is searched for, round if need be.
    pub(super) fn find_next(&mut self, skip: usize) {
        if self.search.is_empty() {
            return;
        }
        let needle = self.search.to_lowercase();
        let is_found = match self.view {
            View::Functions => {
                let found = next_match(self.order.len(), self.cursor + skip, |at| {
                    self.shown_row(at)
                        .is_some_and(|row| has(&self.label(&row.frame), &needle))
                });
                self.cursor = found.unwrap_or(self.cursor);
                found.is_some()
            }
            View::Stack => {
                let Some(row) = self.selected_thread() else {
                    return;
                };
                let found = next_match(row.stack.len(), self.stack_cursor + skip, |at| {
                    has(&self.label(&row.stack[at]), &needle)
                });
                self.stack_cursor = found.unwrap_or(self.stack_cursor);
                found.is_some()
            }
            View::Threads => {
                let rows = self.shown_threads();
                let at = position(&rows, self.thread, |row| row.index);
                let found = next_match(rows.len(), at + skip, |at| {
                    has(&self.thread_text(rows[at]), &needle)
                });
                if let Some(index) = found.map(|at| rows[at].index) {
                    self.thread = Some(index);
                }
                found.is_some()
            }
            View::Processes => {
                let rows = self.shown_processes();
                let at = position(&rows, self.process, |(row, _)| row.index);
                let found = next_match(rows.len(), at + skip, |at| {
                    has(&process_text(rows[at].0), &needle)
                });
                if let Some(index) = found.map(|at| rows[at].0.index) {
                    self.process = Some(index);
                }
                found.is_some()
            }
            View::Help => true,
        };
        if !is_found {
            self.message = Some(format!("not found: {}", self.search));
        }
    }

    /// The rows of the picture, by lines or by functions.
    fn rows(&self) -> &[Row] {
        if self.by_function {
            &self.picture.functions
        } else {
            &self.picture.lines
        }
    }

    /// Chooses and orders the rows of functions anew.
    pub(super) fn arrange(&mut self) {
        let choice = self.choice;
        let needle = self.filter.to_lowercase();
        let rows = self.rows();
        let mut order: Vec<usize> = (0..rows.len())
            .filter(|at| rows[*at].ever.total.of(choice) > Duration::ZERO)
            .filter(|at| needle.is_empty() || has(&self.label(&rows[*at].frame), &needle))
            .collect();
        order.sort_by_cached_key(|at| {
            let Row {
                frame,
                recent,
                ever,
            } = &rows[*at];
            let times = [recent.own, recent.total, ever.own, ever.total];
            let [own_share, total_share, own, total] = times.map(|times| times.of(choice));
            // What is as much by this column is ordered by the others, and at last by name: the order is always the same.
            let keys = match self.sort {
                Column::OwnShare => [own_share, total_share, own, total],
                Column::TotalShare => [total_share, own_share, total, own],
                Column::OwnTime => [own, total, own_share, total_share],
                Column::TotalTime => [total, own, total_share, own_share],
            };
            (Reverse(keys), Arc::clone(&frame.function), frame.line, *at)
        });
        if self.is_inverted {
            order.reverse();
        }
        self.cursor = self.cursor.min(order.len().saturating_sub(1));
        self.order = order;
    }

    /// The rows of functions that are shown, in their order.
    pub fn shown_rows(&self) -> impl ExactSizeIterator<Item = &Row> {
        self.order.iter().map(|at| &self.rows()[*at])
    }

    fn shown_row(&self, at: usize) -> Option<&Row> {
        self.rows().get(*self.order.get(at)?)
    }

    /// The threads that are shown, in their order.
    pub fn shown_threads(&self) -> Vec<&ThreadRow> {
        let needle = self.filter.to_lowercase();
        self.picture
            .threads
            .iter()
            .filter(|row| self.only_process.is_none_or(|only| row.process == only))
            .filter(|row| needle.is_empty() || has(&self.thread_text(row), &needle))
            .collect()
    }

    /// The thread that keys act on: the selected one, or while there is none the first.
    pub fn selected_thread(&self) -> Option<&ThreadRow> {
        let rows = self.shown_threads();
        let selected = rows.iter().find(|row| Some(row.index) == self.thread);
        if self.view == View::Stack {
            // It may have ended, or be hidden by a filter; then it is not taken for another.
            let all = &self.picture.threads;
            return all.iter().find(|row| Some(row.index) == self.thread);
        }
        selected.or(rows.first()).copied()
    }

    /// The processes that are shown, parents before their children, each with how deep it stands in the tree.
    pub fn shown_processes(&self) -> Vec<(&ProcessRow, usize)> {
        let needle = self.filter.to_lowercase();
        let mut rows = super::tree::order(&self.picture.processes);
        rows.retain(|(row, _)| needle.is_empty() || has(&process_text(row), &needle));
        rows
    }

    /// The process that keys act on: the selected one, or while there is none the first.
    pub fn selected_process(&self) -> Option<&ProcessRow> {
        let rows = self.shown_processes();
        let selected = rows.iter().find(|(row, _)| Some(row.index) == self.process);
        selected.or(rows.first()).map(|(row, _)| *row)
    }

    /// How many of the blocked threads are stuck.
    pub fn stuck_count(&self) -> usize {
        let rows = self.blocked.as_deref().unwrap_or_default();
        rows.iter().filter(|row| row.verdict.is_stuck()).count()
    }

    /// A frame as a row names it.
    pub fn label(&self, frame: &Frame) -> String {
        label::whole(frame, self.full_filenames)
    }

    fn thread_text(&self, row: &ThreadRow) -> String {
        let innermost = row.stack.first();
        format!(
            "{} {} {}",
            row.tid,
            row.name,
            innermost.map(|frame| self.label(frame)).unwrap_or_default()
        )
    }

    /// What the blocked panel's title says of it.
    pub fn blocked_summary(&self) -> String {
        let threshold = span(self.threshold);
        let count = |rows: &[BlockedRow]| match rows.len() {
            all if all >= MAX_ROWS => format!("{all} or more"),
            all => all.to_string(),
        };
        match (&self.blocked, self.stuck_count()) {
            (None, _) => "looking...".to_owned(),
            (Some(rows), 0) if rows.is_empty() => "nothing for 1 s or longer".to_owned(),
            (Some(rows), 0) => format!("{}, none thought stuck", count(rows)),
            (Some(rows), stuck) => {
                format!("{}, STUCK: {stuck} (longer than {threshold})", count(rows))
            }
        }
    }
}

fn process_text(row: &ProcessRow) -> String {
    format!("{} {}", row.process.pid, row.process.title)
}

fn has(text: &str, needle: &str) -> bool {
    text.to_lowercase().contains(needle)
}

/// Where the selected row stands; the first is selected while none is.
fn position<T, I: PartialEq>(rows: &[T], selected: Option<I>, index: impl Fn(&T) -> I) -> usize {
    rows.iter()
        .position(|row| Some(index(row)) == selected)
        .unwrap_or(0)
}

/// The first of `count` rows from `start` on, round, that matches.
fn next_match(count: usize, start: usize, is_match: impl Fn(usize) -> bool) -> Option<usize> {
    (0..count)
        .map(|step| start.wrapping_add(step) % count.max(1))
        .find(|at| is_match(*at))
}
