//! What each verdict means, what it is detected by and what usually fixes it: one text for each, in `explain/`.

use crate::model::VerdictClass;

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
        VerdictClass::Stalled => include_str!("explain/stalled.md"),
        VerdictClass::GilHeld => include_str!("explain/gil-held.md"),
        VerdictClass::Stopped => include_str!("explain/stopped.md"),
        VerdictClass::Unknown => include_str!("explain/unknown.md"),
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
    #[test]
    fn each_text_says_what_how_and_what_helps() {
        for class in VerdictClass::ALL {
            let text = text(class);
            assert_eq!(text.split("\n\n").count(), 3, "{}", class.name());
            assert!(text.contains("Detected by: ") && text.contains("Fix: "));
            assert_eq!(VerdictClass::from_name(class.name()), Some(class));
        }
        assert_eq!(VerdictClass::from_name("hang"), None);
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
