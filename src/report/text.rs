//! Snapshots as text for people.

use std::io::{self, Write};

use super::event_loop::{write_blocked_hub, write_event_loop};
use super::place::container_words;
use super::sanitize::Shown;
pub use super::stack::TextOptions;
use super::stack::write_frames;
use crate::model::{
    Consistency, Gil, MemoryOutcome, Pid, ProcessSnapshot, SchedState, ThreadSnapshot, Wait,
    WaitKind, span,
};
use crate::wait::sentence;

/// Writes all processes with all their threads and stacks.
pub fn write_dump(
    processes: &[ProcessSnapshot],
    options: TextOptions,
    out: &mut dyn Write,
) -> io::Result<()> {
    for (index, process) in processes.iter().enumerate() {
        if index > 0 {
            writeln!(out)?;
        }
        write_process_head(process, out)?;
        for thread in process
            .threads
            .iter()
            .filter(|thread| thread.interpreter.is_some())
        {
            writeln!(out)?;
            write_thread_head(process.pid, thread, out)?;
            write_frames(&thread.frames, options, "    ", out)?;
            if let Some(hub) = &thread.blocked_hub {
                write_blocked_hub(hub, "    ", out)?;
            }
            if let Some(event_loop) = &thread.event_loop {
                write_event_loop(event_loop, options, "    ", out)?;
            }
        }
        write_native_threads(process, out)?;
    }
    Ok(())
}

fn write_process_head(process: &ProcessSnapshot, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "Process {}: {}", process.pid, Shown(&process.title))?;
    let mut parts = Vec::new();
    match &process.runtime {
        Some(runtime) => {
            let build = if runtime.free_threaded {
                ", free-threaded"
            } else {
                ""
            };
            parts.push(format!(
                "CPython {}{build} in {}",
                Shown(&runtime.version),
                Shown(&runtime.image)
            ));
        }
        None if process.state != SchedState::Dead => {
            parts.push(format!("state {}", process.state.word()));
        }
        None => {}
    }
    if process.memory == MemoryOutcome::NotPython {
        parts.push("no Python found in it".to_owned());
    }
    if let Some(number) = process.ns_pid {
        parts.push(format!("process {number} in its own pid namespace"));
    }
    parts.extend(process.container.as_ref().map(container_words));
    if process.depth > 0 {
        parts.push(format!("child of {}", process.ppid));
    }
    if let Some(age) = process.age {
        parts.push(format!("started {} ago", span(age)));
    }
    if let Some(tracer) = process.tracer {
        parts.push(format!("traced by process {tracer}"));
    }
    if !parts.is_empty() {
        writeln!(out, "{}", parts.join(", "))?;
    }
    write_errors(process, out)
}

/// Writes what could not be read.
pub fn write_errors(process: &ProcessSnapshot, out: &mut dyn Write) -> io::Result<()> {
    for error in &process.errors {
        writeln!(out, "! {}", Shown(error))?;
    }
    Ok(())
}

fn write_thread_head(pid: Pid, thread: &ThreadSnapshot, out: &mut dyn Write) -> io::Result<()> {
    write!(out, "Thread {}", thread.tid)?;
    if let Some(name) = &thread.name {
        write!(out, " \"{}\"", Shown(name))?;
    }
    if let Some(interpreter) = thread.interpreter.filter(|interpreter| *interpreter != 0) {
        write!(out, " (interpreter {interpreter})")?;
    }
    write!(out, ": {}", Shown(&describe_state(pid, thread)))?;
    match thread.gil {
        Gil::None => {}
        Gil::Held => write!(out, ", holds the GIL")?,
        Gil::Waiting => write!(out, ", waits for the GIL")?,
    }
    match thread.consistency {
        Consistency::Exact => {}
        Consistency::Repeated => write!(out, ", read while it could run: the same twice")?,
        Consistency::Torn => write!(out, ", torn: it ran whenever it was read")?,
    }
    writeln!(out)
}

/// What a thread waits for, with the call that it is in; else its state, for how long it has not run, and the call with what it
/// is on.
fn describe_state(pid: Pid, thread: &ThreadSnapshot) -> String {
    let wait = thread.wait.as_ref();
    if let Some((wait, mut text)) = wait.and_then(|wait| Some((wait, sentence(wait, pid)?))) {
        if thread.state == SchedState::DiskSleep && wait.kind != WaitKind::Stopped {
            text = format!("{}, {text}", thread.state.word());
        }
        let fd = wait.resource.as_ref().and_then(|resource| resource.fd);
        return match (&wait.syscall, fd) {
            (Some(call), Some(fd)) => format!("{text} [{call}(fd {fd})]"),
            (Some(call), None) => format!("{text} [{call}]"),
            (None, _) => text,
        };
    }
    let since = thread
        .off_cpu
        .map(|since| format!(" for {}", span(since.elapsed)));
    let call = wait
        .and_then(describe_wait)
        .map(|call| format!(" in {call}"));
    let parts = [Some(thread.state.word().to_owned()), since, call];
    parts.into_iter().flatten().collect()
}

/// The call that a thread is blocked in, with what it is on.
fn describe_wait(wait: &Wait) -> Option<String> {
    let call = wait.syscall.as_deref()?;
    let Some(resource) = &wait.resource else {
        return Some(call.to_owned());
    };
    let fd = resource
        .fd
        .map(|fd| format!("fd {fd}: "))
        .unwrap_or_default();
    let mut text = format!("{call}({fd}{}", resource.kind);
    if let Some(path) = &resource.path {
        text.push(' ');
        text.push_str(path);
    }
    match (&resource.local, &resource.peer) {
        (Some(local), Some(peer)) => text.push_str(&format!(" {local} -> {peer}")),
        (Some(local), None) => text.push_str(&format!(" {local}")),
        (None, Some(peer)) => text.push_str(&format!(" -> {peer}")),
        (None, None) => {}
    }
    if let Some(state) = &resource.state {
        text.push_str(&format!(" {state}"));
    }
    text.push(')');
    Some(text)
}

/// Threads without Python: a line each, since there is no stack to show.
fn write_native_threads(process: &ProcessSnapshot, out: &mut dyn Write) -> io::Result<()> {
    let mut native = process
        .threads
        .iter()
        .filter(|thread| thread.interpreter.is_none())
        .peekable();
    if native.peek().is_some() && process.runtime.is_some() {
        writeln!(out, "\nThreads without Python:")?;
    }
    for thread in native {
        let comm = Shown(&thread.comm);
        writeln!(
            out,
            "    {} \"{comm}\": {}",
            thread.tid,
            Shown(&describe_state(process.pid, thread))
        )?;
    }
    Ok(())
}
