//! The tables of functions, frames, stacks and texts that all threads share, as the processed format has them.

use rustc_hash::FxHashMap;
use serde::Serialize;
use serde_json::{Value, json};

use super::super::Style;
use super::super::functions::Functions;
use super::super::label::{self, Origin};
use super::super::stretches::Stretch;
use crate::profile::{FrameId, Profile, StackId};

/// What all threads share, as it is written.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Shared {
    stack_table: StackTable,
    frame_table: FrameTable,
    func_table: FuncTable,
    resource_table: Value,
    native_symbols: Value,
    sources: Sources,
    string_array: Vec<String>,
}

#[derive(Default, Serialize)]
struct StackTable {
    frame: Vec<usize>,
    prefix: Vec<Option<usize>>,
    length: usize,
}

/// Columns that hold the same for all are made when they are written.
#[derive(Default)]
struct FrameTable {
    category: Vec<usize>,
    func: Vec<usize>,
    line: Vec<Option<u32>>,
}

#[derive(Default)]
struct FuncTable {
    name: Vec<usize>,
    source: Vec<Option<usize>>,
    line: Vec<Option<u32>>,
}

#[derive(Default)]
struct Sources {
    filename: Vec<usize>,
}

impl Serialize for FrameTable {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let length = self.func.len();
        json!({
            "address": vec![-1; length],
            "inlineDepth": vec![0; length],
            "category": self.category,
            "subcategory": vec![0; length],
            "func": self.func,
            "nativeSymbol": vec![(); length],
            "innerWindowID": vec![0; length],
            "line": self.line,
            "column": vec![(); length],
            "length": length,
        })
        .serialize(serializer)
    }
}

impl Serialize for FuncTable {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let length = self.name.len();
        json!({
            "name": self.name,
            "isJS": vec![false; length],
            "relevantForJS": vec![false; length],
            "resource": vec![-1; length],
            "source": self.source,
            "lineNumber": self.line,
            "columnNumber": vec![(); length],
            "length": length,
        })
        .serialize(serializer)
    }
}

impl Serialize for Sources {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let length = self.filename.len();
        json!({
            "uuid": vec![(); length],
            "filename": self.filename,
            "length": length,
        })
        .serialize(serializer)
    }
}

/// The origins in the order of the categories; the first one is the default.
pub(super) const CATEGORIES: [(Origin, &str, &str); 7] = [
    (Origin::Marker, "Other", "grey"),
    (Origin::Own, "Own code", "orange"),
    (Origin::Installed, "Packages", "green"),
    (Origin::Library, "Standard library", "yellow"),
    (Origin::Native, "Native", "brown"),
    (Origin::Kernel, "Kernel", "magenta"),
    (Origin::Wait, "Waits", "blue"),
];

/// The category of an origin.
pub(super) fn category(origin: Origin) -> usize {
    let known = CATEGORIES.iter().position(|(known, ..)| *known == origin);
    known.unwrap_or(0)
}

/// What all threads share, as it grows.
pub(super) struct Tables {
    stacks: StackTable,
    frames: FrameTable,
    functions: FuncTable,
    sources: Sources,
    strings: Vec<String>,
    numbers: FxHashMap<String, usize>,
    /// The frame of each kind of wait.
    waits: FxHashMap<&'static str, usize>,
    /// Stacks that wait.
    waiting: FxHashMap<(StackId, &'static str), usize>,
}

impl Tables {
    /// Stacks and frames have the numbers that they have in the profile; waits come after.
    pub(super) fn of(profile: &Profile, style: Style) -> Tables {
        let mut tables = Tables {
            stacks: StackTable::default(),
            frames: FrameTable::default(),
            functions: FuncTable::default(),
            sources: Sources::default(),
            strings: Vec::new(),
            numbers: FxHashMap::default(),
            waits: FxHashMap::default(),
            waiting: FxHashMap::default(),
        };
        let functions = Functions::of(profile.stacks.frames());
        let mut sources: FxHashMap<String, usize> = FxHashMap::default();
        for example in functions.examples() {
            let frame = profile.stacks.frame(*example);
            let name = tables.string(&label::function(frame));
            let source = label::file(frame, style).map(|file| {
                let filename = tables.string(&file);
                *sources.entry(file).or_insert_with(|| {
                    tables.sources.filename.push(filename);
                    tables.sources.filename.len() - 1
                })
            });
            tables.functions.name.push(name);
            tables.functions.source.push(source);
            tables.functions.line.push(frame.first_line);
        }
        for (id, frame) in (0..).map(FrameId).zip(profile.stacks.frames()) {
            tables.frames.category.push(category(Origin::of(frame)));
            tables.frames.func.push(functions.function(id));
            tables.frames.line.push(frame.line);
        }
        for id in (0..).map(StackId).take(profile.stacks.len()) {
            let (frame, caller) = profile.stacks.node(id);
            tables.stacks.frame.push(frame.0 as usize);
            tables
                .stacks
                .prefix
                .push(caller.map(|caller| caller.0 as usize));
        }
        tables
    }

    /// The number of a text.
    pub(super) fn string(&mut self, text: &str) -> usize {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        self.strings.push(text.to_owned());
        self.numbers.insert(text.to_owned(), self.strings.len() - 1);
        self.strings.len() - 1
    }

    /// The stack of a stretch.
    pub(super) fn stack(&mut self, stretch: &Stretch) -> usize {
        let stack = stretch.place.stack;
        let Some(word) = label::wait_of(&stretch.place) else {
            return stack.0 as usize;
        };
        if let Some(number) = self.waiting.get(&(stack, word)) {
            return *number;
        }
        let frame = self.wait(word);
        self.stacks.frame.push(frame);
        self.stacks.prefix.push(Some(stack.0 as usize));
        let number = self.stacks.frame.len() - 1;
        self.waiting.insert((stack, word), number);
        number
    }

    fn wait(&mut self, word: &'static str) -> usize {
        if let Some(frame) = self.waits.get(word) {
            return *frame;
        }
        let name = self.string(&label::wait(word));
        self.functions.name.push(name);
        self.functions.source.push(None);
        self.functions.line.push(None);
        self.frames.category.push(category(Origin::Wait));
        self.frames.func.push(self.functions.name.len() - 1);
        self.frames.line.push(None);
        let frame = self.frames.func.len() - 1;
        self.waits.insert(word, frame);
        frame
    }

    /// All of it.
    pub(super) fn finish(self) -> Shared {
        let mut stacks = self.stacks;
        stacks.length = stacks.frame.len();
        Shared {
            stack_table: stacks,
            frame_table: self.frames,
            func_table: self.functions,
            resource_table: json!({"lib": [], "name": [], "host": [], "type": [], "length": 0}),
            native_symbols: json!({
                "libIndex": [], "address": [], "name": [], "functionSize": [], "length": 0,
            }),
            sources: self.sources,
            string_array: self.strings,
        }
    }
}
