//! What can be asked for, by a key or otherwise. No state.

/// A column that functions are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Column {
    /// `%Own`.
    #[default]
    OwnShare,
    /// `%Total`.
    TotalShare,
    /// `OwnTime`.
    OwnTime,
    /// `TotalTime`.
    TotalTime,
}

impl Column {
    /// All of them, from left to right.
    pub const ALL: [Column; 4] = [
        Column::OwnShare,
        Column::TotalShare,
        Column::OwnTime,
        Column::TotalTime,
    ];

    /// What stands above it.
    pub fn head(self) -> &'static str {
        match self {
            Column::OwnShare => "%Own",
            Column::TotalShare => "%Total",
            Column::OwnTime => "OwnTime",
            Column::TotalTime => "TotalTime",
        }
    }

    /// The one so many to the right; behind the last comes the first.
    pub fn step(self, by: usize) -> Column {
        let at = Column::ALL.iter().position(|column| *column == self);
        Column::ALL[(at.unwrap_or(0) + by) % Column::ALL.len()]
    }
}

/// How far to go in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Motion {
    /// One up.
    Up,
    /// One down.
    Down,
    /// A screenful up.
    PageUp,
    /// A screenful down.
    PageDown,
    /// To the first.
    First,
    /// To the last.
    Last,
}

impl Motion {
    /// Where it leads from `at` in a list of `count`.
    pub fn apply(self, at: usize, count: usize, page: usize) -> usize {
        let last = count.saturating_sub(1);
        match self {
            Motion::Up => at.saturating_sub(1),
            Motion::Down => at.saturating_add(1),
            Motion::PageUp => at.saturating_sub(page),
            Motion::PageDown => at.saturating_add(page),
            Motion::First => 0,
            Motion::Last => last,
        }
        .min(last)
    }
}

/// Something that a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Sort by a column.
    Sort(Column),
    /// Sort by the next column.
    SortNext,
    /// Sort by the column before.
    SortPrevious,
    /// Turn the order round.
    Invert,
    /// Show lines, or functions.
    ToggleLines,
    /// Count blocked threads, or not.
    ToggleIdle,
    /// Count only what holds the GIL, or all.
    ToggleGil,
    /// Show whole paths, or modules' files.
    ToggleFilenames,
    /// Begin anew.
    Reset,
    /// Hold the picture, or go on.
    Pause,
    /// Ask for a text to search for.
    Search,
    /// Go to the next match.
    SearchNext,
    /// Ask for a text that rows must have.
    Filter,
    /// Show the next view.
    NextView,
    /// Show the threads.
    Threads,
    /// Show the processes.
    Processes,
    /// Open what is selected.
    Open,
    /// Go back.
    Back,
    /// Go elsewhere in the list.
    Move(Motion),
    /// Ask for a file to save to.
    Save,
    /// Show the help, or leave it.
    Help,
    /// Draw all of the screen.
    Redraw,
    /// Give the terminal back for a while.
    Suspend,
    /// End.
    Quit,
    /// Add a character to what is typed.
    Type(char),
    /// Take its last character away.
    Erase,
    /// Take all of it away.
    EraseAll,
    /// It is complete.
    Accept,
    /// It is not wanted.
    Cancel,
}
