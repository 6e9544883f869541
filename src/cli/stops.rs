//! What `--blocking` has cost the target, in words.

use super::printer::Printer;
use crate::snapshot::stops::StopAccount;

/// Says it after `dump` and `diagnose`, and when it was of no use.
pub fn say_stops(account: StopAccount, printer: &Printer) {
    if account.made + account.left_out == 0 {
        printer.hint("no thread was running, so none was stopped: --blocking is not needed here");
    } else {
        printer.warn(&in_words(account));
    }
}

/// How often threads were stopped, and for how long.
pub fn in_words(account: StopAccount) -> String {
    let mut text = format!(
        "stopped threads {} times, for at most {} in all",
        account.made,
        milliseconds(account)
    );
    if account.left_out > 0 {
        text.push_str(&format!(
            ", and read running threads {} times without stopping them",
            account.left_out
        ));
    }
    text
}

fn milliseconds(account: StopAccount) -> String {
    format!("{:.3} ms", account.pause.as_secs_f64() * 1e3)
}
