//! The role of a call in its thread, by names: machinery that starts or waits on behalf of others, a service that runs for ever, or a call that was
//! made to get something and has to return.

use std::sync::Arc;

use crate::model::{Frame, FrameKind};

/// Modules whose functions start threads and programs, or wait on behalf of others: of the standard library, of what reads command lines, and of
/// pools. Packages below them are meant too.
const MACHINERY: [&str; 18] = [
    "threading",
    "queue",
    "Queue",
    "_queue",
    "concurrent.futures",
    "multiprocessing",
    "billiard",
    "gevent",
    "runpy",
    "importlib",
    "_frozen_importlib",
    "_frozen_importlib_external",
    "argparse",
    "click",
    "typer",
    "fire",
    "absl.app",
    "django.core.management",
];
/// Functions that start a program, by their names.
const MAINS: [&str; 4] = ["<module>", "main", "_main", "__main__"];
/// Functions that serve for as long as their program runs, by the names that they have in most libraries, beside those that end in `loop` or
/// `forever`. They say so only where nothing else is known of them.
const SERVICES: [&str; 10] = [
    "run_until_complete",
    "serve",
    "run",
    "start",
    "start_consuming",
    "consume",
    "listen",
    "watch",
    "work",
    "exec_",
];

/// Calls, from the innermost on, whose names say what they are about.
const MAX_NAMES: usize = 3;

/// Whether a call is none of the program's own: it starts what its thread is for, or waits on behalf of others.
pub fn is_machinery(frame: &Frame) -> bool {
    let module = frame.module.as_deref().unwrap_or_default();
    let is_of = |known: &str| {
        let rest = module.strip_prefix(known);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    MAINS.contains(&last_name(frame)) || MACHINERY.iter().any(|known| is_of(known))
}

/// The name of a function without its class.
fn last_name(frame: &Frame) -> &str {
    let mut parts = frame.function.rsplit('.');
    let last = parts.find(|part| *part != "<locals>");
    last.unwrap_or(&frame.function)
}

/// Whether a thread was started by its program, by the outermost function of `threading`.
fn is_started(frames: &[Arc<Frame>]) -> bool {
    frames.iter().any(|frame| {
        frame.module.as_deref() == Some("threading") && last_name(frame) == "_bootstrap"
    })
}

/// How many functions of the program are on the stack of a thread, beside the one that it begins with.
///
/// A worker's loop that waits for the next thing to do stands in the function that its thread was started with, and a program that does all its
/// work in threads waits for them, or for ever, in the module that was started or its `main`. A call that ought to return is made from further in.
pub fn calls_inside(frames: &[Arc<Frame>]) -> usize {
    let own = frames
        .iter()
        .filter(|frame| frame.kind == FrameKind::Python && !is_machinery(frame));
    own.count().saturating_sub(usize::from(is_started(frames)))
}

/// Whether a call has the name of one that serves for ever.
pub fn is_service(frame: &Frame) -> bool {
    SERVICES.contains(&last_name(frame)) || is_loop(frame)
}

fn is_loop(frame: &Frame) -> bool {
    let name = last_name(frame).trim_end_matches('_');
    name.ends_with("loop") || name.ends_with("forever")
}

/// Whether a thread that its program has started is a loop, by the names of its functions: what it receives there may be the answer to what another
/// thread has sent, or to nothing.
pub fn is_receiving_loop(frames: &[Arc<Frame>]) -> bool {
    is_started(frames) && frames.iter().any(|frame| is_loop(frame))
}

/// The calls, innermost first, that something else than the start of the thread has made and that have no name of a service: they have to
/// return. What the first function of the thread's own does is its work, and so is all that a service calls from there.
pub fn calls_to_return(calls: &[Arc<Frame>]) -> &[Arc<Frame>] {
    let is_python = |frame: &Arc<Frame>| frame.kind == FrameKind::Python;
    // From the outermost on: machinery, then the base function.
    let Some(base) = calls
        .iter()
        .rposition(|frame| is_python(frame) && !is_machinery(frame))
    else {
        return &[];
    };
    let service = calls[..=base].iter().position(|frame| is_service(frame));
    &calls[..service.unwrap_or(base).min(base)]
}

/// The same without those of the library that only wait on behalf of others, innermost first.
pub fn inner_calls(calls: &[Arc<Frame>]) -> Vec<Arc<Frame>> {
    let calls = calls_to_return(calls).iter();
    calls
        .filter(|frame| !is_machinery(frame))
        .cloned()
        .collect()
}

/// Whether the innermost of these calls are about locks, by the names of their functions or modules.
pub fn is_about_locks(calls: &[Arc<Frame>]) -> bool {
    let names = |frame: &Arc<Frame>| {
        let module = frame.module.as_deref().unwrap_or_default();
        // What an inner function stands in is another function.
        let function = frame
            .function
            .rsplit("<locals>.")
            .next()
            .unwrap_or_default();
        let text = format!("{module}.{function}").to_ascii_lowercase();
        text.contains("lock") || text.contains("acquire")
    };
    calls.iter().take(MAX_NAMES).any(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(names: &[(&str, &str)]) -> Vec<Arc<Frame>> {
        let call = |(module, function): &(&str, &str)| {
            Arc::new(Frame {
                module: Some((*module).into()),
                kind: FrameKind::Python,
                ..Frame::marker(function)
            })
        };
        names.iter().map(call).collect()
    }

    fn count(names: &[(&str, &str)]) -> usize {
        calls_to_return(&calls(names)).len()
    }

    #[test]
    fn the_first_function_of_ones_own_is_the_work_itself() {
        let thread = ("threading", "Thread._bootstrap");
        assert_eq!(count(&[("app", "worker"), thread]), 0);
        assert_eq!(count(&[("app", "fetch"), ("app", "worker"), thread]), 1);
        assert_eq!(count(&[("__main__", "<module>")]), 0);
        assert_eq!(
            count(&[
                ("kafka.coordinator.base", "ensure_coordinator_ready"),
                ("kafka.consumer.group", "KafkaConsumer.poll"),
                ("__main__", "consume"),
                ("__main__", "<module>"),
            ]),
            2
        );
    }

    #[test]
    fn what_a_service_calls_is_its_work() {
        assert_eq!(
            count(&[
                (
                    "apscheduler.schedulers.blocking",
                    "BlockingScheduler._main_loop"
                ),
                ("apscheduler.schedulers.blocking", "BlockingScheduler.start"),
                ("__main__", "setup"),
                ("__main__", "<module>"),
            ]),
            0
        );
        // But what was called from there and does not come back is none.
        assert_eq!(
            count(&[
                ("client", "Client.connect"),
                ("client", "Client.serve_forever"),
                ("__main__", "setup"),
                ("__main__", "<module>"),
            ]),
            1
        );
    }
}
