//! Whether a thread waits where it begins, for whatever comes, or inside a call that its program made and that should return.

use crate::model::{Frame, FrameKind, ThreadSnapshot};

/// Modules of functions that wait on behalf of others, and of those that start a thread or a program.
const MACHINERY: [&str; 12] = [
    "threading",
    "queue",
    "Queue",
    "_queue",
    "concurrent.futures",
    "multiprocessing",
    "runpy",
    "importlib",
    "_frozen_importlib",
    "_frozen_importlib_external",
    "click",
    "typer",
];

/// How many functions of the program are on the stack of a thread, beside the one that it begins with.
///
/// A worker's loop that waits for the next thing to do stands in the function that its thread was started with, and a program that does all its work in
/// threads waits for them, or for ever, in the module that was started or its `main`. A call that ought to return is made from further in.
pub fn calls_inside(thread: &ThreadSnapshot) -> usize {
    let is_started = thread.frames.iter().any(|frame| {
        let function = frame.function.rsplit('.').next();
        frame.module.as_deref() == Some("threading") && function == Some("_bootstrap")
    });
    own_calls(thread).saturating_sub(usize::from(is_started))
}

fn own_calls(thread: &ThreadSnapshot) -> usize {
    let own = |frame: &&Frame| {
        let module = frame.module.as_deref().unwrap_or_default();
        let is_machinery = MACHINERY.iter().any(|known| {
            module
                .strip_prefix(known)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        });
        let is_main = matches!(&*frame.function, "<module>" | "main");
        frame.kind == FrameKind::Python && !is_machinery && !is_main
    };
    let frames = thread.frames.iter().map(|frame| &**frame);
    frames.filter(own).count()
}
