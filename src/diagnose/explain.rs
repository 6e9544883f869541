//! What each verdict means, how it is told and what usually helps: one text for each, in `explain/`.

use crate::model::{Link, SchedState, ThreadSnapshot, VerdictClass, WaitKind};

/// The text on a verdict, in three paragraphs.
pub fn text(class: VerdictClass) -> &'static str {
    match class {
        VerdictClass::Working => include_str!("explain/working.md"),
        VerdictClass::Idle => include_str!("explain/idle.md"),
        VerdictClass::Waiting => include_str!("explain/waiting.md"),
        VerdictClass::HangNetwork => include_str!("explain/hang-network.md"),
        VerdictClass::HangDns => include_str!("explain/hang-dns.md"),
        VerdictClass::HangLock => include_str!("explain/hang-lock.md"),
        VerdictClass::Deadlock => include_str!("explain/deadlock.md"),
        VerdictClass::HangPipe => include_str!("explain/hang-pipe.md"),
        VerdictClass::HangChild => include_str!("explain/hang-child.md"),
        VerdictClass::HangFileLock => include_str!("explain/hang-file-lock.md"),
        VerdictClass::HangDisk => include_str!("explain/hang-disk.md"),
        VerdictClass::Spin => include_str!("explain/spin.md"),
        VerdictClass::GilHeld => include_str!("explain/gil-held.md"),
        VerdictClass::Stopped => include_str!("explain/stopped.md"),
        VerdictClass::Unknown => include_str!("explain/unknown.md"),
    }
}

/// What usually helps against a verdict that came about by these waits.
pub fn advice_on(class: VerdictClass, chain: &[Link]) -> &'static str {
    let is_between_processes = |link: &Link| {
        matches!(
            link.waits,
            WaitKind::Child
                | WaitKind::PipeRead
                | WaitKind::PipeWrite
                | WaitKind::SocketRecv
                | WaitKind::SocketSend
        )
    };
    match class {
        VerdictClass::Deadlock if chain.len() == 1 => {
            "do not take it in finalizers and in handlers of signals, or make it one that its holder may take again"
        }
        VerdictClass::Deadlock if chain.iter().any(is_between_processes) => {
            "read what the other writes before waiting for it: communicate(), or draining a queue before its process is joined"
        }
        _ => advice(class),
    }
}

/// What helps a thread that stands still, by what made it: a signal continues neither a frozen nor a traced one.
pub fn advice_on_stop(thread: &ThreadSnapshot) -> String {
    let wait = thread.wait.as_ref();
    let is_traced = thread.state == SchedState::Traced
        || wait.is_some_and(|wait| wait.kind == WaitKind::Traced);
    if is_traced {
        let tracer = wait.and_then(|wait| wait.holder.as_ref());
        return match tracer {
            Some(tracer) => format!(
                "let process {}, which traces it, continue or detach it",
                tracer.pid
            ),
            None => "let what traces it continue or detach it".to_owned(),
        };
    }
    let resource = wait.and_then(|wait| wait.resource.as_ref());
    let group = resource.filter(|resource| resource.kind == "cgroup");
    match group.and_then(|group| group.name.as_deref()) {
        Some(group) if thread.state != SchedState::Stopped => format!(
            "thaw {group}, or the one above it that was frozen: `docker unpause`, or write 0 to its cgroup.freeze (version 1: THAWED to its freezer.state); SIGCONT does not"
        ),
        _ => advice(VerdictClass::Stopped).to_owned(),
    }
}

/// What usually helps, in one sentence; empty where nothing has to.
pub fn advice(class: VerdictClass) -> &'static str {
    match class {
        VerdictClass::HangNetwork => {
            "set a timeout on this call (and, for TCP, keep-alive on its connection); find out why the peer does not answer"
        }
        VerdictClass::HangDns => "find out whether the name servers of /etc/resolv.conf answer",
        VerdictClass::HangLock => {
            "look at whoever holds it, or find out why nobody is left who could release it"
        }
        VerdictClass::Deadlock => "take these in the same order everywhere, or with a timeout",
        VerdictClass::HangPipe => {
            "close the ends that are not used, and read what children write while they run"
        }
        VerdictClass::HangChild => "look at the child; wait for it with a timeout",
        VerdictClass::HangFileLock => {
            "look at the process that holds the lock; take it with a limit of time"
        }
        VerdictClass::HangDisk => {
            "look at the file system or device: no signal ends this before it answers"
        }
        VerdictClass::Spin => {
            "let the loop wait for something, or see with `stuckspy top` what it computes"
        }
        VerdictClass::GilHeld => "the C function that it is in must release the GIL while it waits",
        VerdictClass::Stopped => "continue it (SIGCONT)",
        VerdictClass::Working
        | VerdictClass::Idle
        | VerdictClass::Waiting
        | VerdictClass::Unknown => "",
    }
}

/// All texts as one document.
pub fn document() -> String {
    let mut document = "# Verdicts\n\nWhat `stuckspy diagnose` says of a thread. `stuckspy explain VERDICT` prints the same.\n".to_owned();
    for class in VerdictClass::ALL {
        document.push_str(&format!("\n## `{}`\n\n{}", class.name(), text(class)));
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testing::held_by;
    use crate::model::{HolderConfidence, Resource};

    #[test]
    fn each_text_says_what_how_and_what_helps() {
        for class in VerdictClass::ALL {
            let text = text(class);
            assert_eq!(text.split("\n\n").count(), 3, "{}", class.name());
            assert!(text.contains("How it is told: ") && text.contains("What helps: "));
            assert_eq!(VerdictClass::from_name(class.name()), Some(class));
            assert_eq!(advice(class).is_empty(), !class.is_stuck());
        }
        assert_eq!(VerdictClass::from_name("hang"), None);
    }

    #[test]
    fn what_stands_still_is_continued_by_whoever_halted_it() {
        let mut thread = crate::diagnose::testing::thread(7, WaitKind::Stopped, 60);
        thread.state = SchedState::Stopped;
        assert_eq!(advice_on_stop(&thread), "continue it (SIGCONT)");
        thread.state = SchedState::Sleeping;
        let wait = thread.wait.as_mut().unwrap();
        wait.resource = Some(Resource {
            kind: "cgroup".to_owned(),
            name: Some("cgroup /a".to_owned()),
            ..Resource::default()
        });
        let advice = advice_on_stop(&thread);
        assert!(advice.starts_with("thaw cgroup /a, "), "{advice}");
        let mut thread = crate::diagnose::testing::thread(7, WaitKind::Traced, 60);
        thread.state = SchedState::Traced;
        assert_eq!(
            advice_on_stop(&thread),
            "let what traces it continue or detach it"
        );
        let thread = held_by(thread, 42, None, HolderConfidence::Proven);
        assert_eq!(
            advice_on_stop(&thread),
            "let process 42, which traces it, continue or detach it"
        );
    }

    /// `docs/verdicts.md` is these texts; `STUCKSPY_BLESS=1 cargo test` writes it anew.
    #[test]
    fn the_document_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/verdicts.md");
        if std::env::var_os("STUCKSPY_BLESS").is_some() {
            std::fs::write(path, document()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), document());
    }
}
