//! Taking secrets out of what is shown: values, texts, command lines. Nothing is read, nothing is written.
//!
//! What is a secret is known by names - of variables, keys, attributes, options, parameters -, by the shapes of tokens, and by where
//! something stands: in user info, after `/reset/`, in a literal of SQL. None of these finds all. Where both readings are possible,
//! what may be a secret is hidden.

mod command;
mod names;
mod shapes;
mod sql;
mod statement;
mod text;
mod url;
mod values;

use std::sync::Arc;

pub use command::{redact_command, redact_line};
pub use names::is_secret_name;
pub use text::redact_text;
pub use values::{redact_context, redact_named, redact_value};

use rustc_hash::FxHashMap;

use crate::model::{Holder, ProcessSnapshot, Wait};

/// What is shown in the place of a part of a text.
const REDACTED: &str = "<redacted>";

/// Takes the secrets out of the local variables of all frames.
pub fn redact_locals(processes: &mut [ProcessSnapshot]) {
    let threads = processes.iter_mut().flat_map(|one| &mut one.threads);
    for frame in threads.flat_map(|thread| &mut thread.frames) {
        if let Some(locals) = &frame.locals {
            let redacted = locals.iter().map(values::redact_local).collect();
            Arc::make_mut(frame).locals = Some(redacted);
        }
    }
}

/// Takes the secrets out of the command lines of processes, and of all those that their threads wait for.
pub fn redact_commands(processes: &mut [ProcessSnapshot]) {
    // A title in a wait is that of a process, cut at some length.
    let known: FxHashMap<String, String> = processes
        .iter_mut()
        .map(|process| {
            let before = std::mem::take(&mut process.title);
            let is_command = before == process.command.join(" ");
            process.command = redact_command(&process.command);
            process.title = match is_command {
                true => process.command.join(" "),
                false => redact_line(&before),
            };
            (before, process.title.clone())
        })
        .collect();
    let redact = |title: &mut Option<String>| {
        if let Some(given) = title {
            let same = known.get(given.as_str()).cloned();
            *given = same.unwrap_or_else(|| redact_line(given));
        }
    };
    let threads = processes.iter_mut().flat_map(|one| &mut one.threads);
    for wait in threads.filter_map(|thread| thread.wait.as_mut()) {
        redact_wait(wait, &redact);
    }
}

fn redact_wait(wait: &mut Wait, redact: &dyn Fn(&mut Option<String>)) {
    let holders = wait.holder.iter_mut().chain(&mut wait.other_holders);
    holders.for_each(|holder: &mut Holder| redact(&mut holder.title));
    // The name of a process that is waited for is its title.
    if let Some(resource) = &mut wait.resource
        && resource.pid.is_some()
    {
        redact(&mut resource.name);
    }
}
