//! Which threads keep the hub of gevent from running: those that sleep in another greenlet than it.

use std::sync::Arc;

use super::view::PythonThread;
use crate::model::{BlockedHub, Consistency, Frame};
use crate::python::greenlets::find_hubs;
use crate::python::object::ObjectReader;
use crate::python::runtime::Interpreter;

/// Looks for the hubs of one interpreter, if a thread of it sleeps in a greenlet that may keep one from running.
pub fn find_blocked_hubs(
    reader: ObjectReader<'_>,
    interpreter: &Interpreter,
    threads: &mut [PythonThread],
) {
    let is_candidate = |thread: &PythonThread| {
        let runs = thread
            .news
            .as_ref()
            .is_some_and(|news| news.state.is_runnable());
        thread.interpreter == interpreter.id
            && !runs
            && thread.consistency == Consistency::Exact
            && !thread.frames.is_empty()
            && !is_in_hub(&thread.frames)
    };
    if !threads.iter().any(is_candidate) {
        return;
    }
    let hubs = find_hubs(reader, interpreter);
    for thread in threads.iter_mut().filter(|thread| is_candidate(thread)) {
        let hub = hubs.iter().find(|hub| hub.thread_id == thread.thread_id);
        // The hub itself, and the greenlet that runs instead of it, unless the hub runs a callback.
        let at_it = 1 + u64::from(run_of(&thread.frames).is_none());
        thread.blocked_hub = hub.map(|hub| BlockedHub {
            greenlets: hub.begun.map(|begun| begun.saturating_sub(at_it)),
        });
    }
}

/// The frame in which the hub runs its loop.
fn run_of(frames: &[Arc<Frame>]) -> Option<usize> {
    frames.iter().position(|frame| {
        frame.module.as_deref() == Some("gevent.hub")
            && matches!(&*frame.function, "Hub.run" | "run")
    })
}

/// Whether the hub itself has the thread and waits for events: further in than `Hub.run` there is nothing but gevent.
fn is_in_hub(frames: &[Arc<Frame>]) -> bool {
    let is_own = |frame: &Arc<Frame>| {
        let module = frame.module.as_deref();
        module.is_some_and(|module| module.starts_with("gevent."))
    };
    run_of(frames).is_some_and(|run| frames.iter().take(run).all(is_own))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(function: &str, module: &str) -> Arc<Frame> {
        Arc::new(Frame {
            module: Some(module.into()),
            ..Frame::marker(function)
        })
    }

    #[test]
    fn a_hub_that_waits_is_told_from_one_that_is_in_a_callback() {
        let run = || frame("Hub.run", "gevent.hub");
        assert!(is_in_hub(&[run()]));
        assert!(is_in_hub(&[frame("loop.run", "gevent._ffi.loop"), run()]));
        assert!(!is_in_hub(&[frame("recv", "app"), run()]));
        assert!(!is_in_hub(&[
            frame("handle", "app"),
            frame("<module>", "__main__")
        ]));
    }
}
