//! Looks at some processes as a whole, again and again for a while: for what a single look can't tell, whether they get anywhere.

use std::time::{Duration, Instant};

use super::clock::Clock;
use crate::model::{Pid, ProcessSnapshot};
use crate::snapshot::{CaptureOptions, Locals, capture};
use crate::target::Target;

/// Shortest time between two looks.
const MIN_INTERVAL: Duration = Duration::from_millis(40);
/// We do not work for more than one part in so many of the time.
const IDLENESS: u32 = 4;
/// Looks at the least, however long one takes.
const MIN_LOOKS: u32 = 4;
/// Variables are read at one look in so many.
const LOCALS_EVERY: usize = 2;

/// Looks at `pids` for as long as `window`, and gives each look to `see` with the time since the first one. Processes that end
/// are missing from then on; when none is left, it ends.
pub fn watch(
    pids: &[Pid],
    window: Duration,
    options: CaptureOptions,
    see: &mut dyn FnMut(&[ProcessSnapshot], Duration),
) {
    let began = Instant::now();
    let first = look(pids, options, 0);
    see(&first, Duration::ZERO);
    let interval = (began.elapsed() * IDLENESS)
        .max(MIN_INTERVAL)
        .min(window / MIN_LOOKS);
    let rest = window.saturating_sub(began.elapsed());
    if first.is_empty() || interval.is_zero() || rest.is_zero() {
        return;
    }
    let mut clock = Clock::start(interval, Some(rest));
    let mut number = 0;
    while !clock.is_over() && clock.wait(|| false).is_some() {
        number += 1;
        let seen = look(pids, options, number);
        if seen.is_empty() {
            return;
        }
        see(&seen, began.elapsed());
    }
}

fn look(pids: &[Pid], options: CaptureOptions, number: usize) -> Vec<ProcessSnapshot> {
    let options = CaptureOptions {
        locals: match number % LOCALS_EVERY {
            0 => Locals::Few,
            _ => Locals::None,
        },
        counts: true,
        ..options
    };
    let targets = pids.iter().filter_map(|pid| Target::open(*pid).ok());
    let captures = targets.map(|target| capture(target, options).process);
    captures
        .filter(|process| !process.threads.is_empty())
        .collect()
}
