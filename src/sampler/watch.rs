//! Looks at some processes as a whole, again and again for a while: for what a single look can't tell, whether they get anywhere.

use std::time::{Duration, Instant};

use crate::model::{Moment, Pid, ProcessSnapshot};
use crate::snapshot::{CaptureOptions, Locals, capture};
use crate::sys::clock::read_clocks;
use crate::target::Target;

/// Shortest time between two looks.
const MIN_INTERVAL: Duration = Duration::from_millis(40);
/// We do not work for more than one part in so many of the time.
const IDLENESS: u32 = 4;
/// Looks at the least, however long one takes.
const MIN_LOOKS: u32 = 4;
/// Variables are read at one look in so many.
const LOCALS_EVERY: usize = 2;

/// Looks at `pids` for as long as `window`, and gives each look to `see` with its moment. Processes that end are missing from then
/// on; when none is left, it ends.
///
/// The looks come at chance times, so that no cycle of the target's is met at the same point again and again. How far they lie apart
/// is for the cheapest one to say: others may only have waited for a processor.
pub fn watch(
    pids: &[Pid],
    window: Duration,
    options: CaptureOptions,
    see: &mut dyn FnMut(&[ProcessSnapshot], Moment),
) {
    let began = Instant::now();
    let mut chance = fastrand::Rng::new();
    let mut cheapest = window;
    for number in 0.. {
        let started = Instant::now();
        let seen = look(pids, options, number);
        if seen.is_empty() {
            return;
        }
        let clocks = read_clocks();
        cheapest = cheapest.min(started.elapsed());
        see(
            &seen,
            Moment {
                elapsed: match number {
                    0 => Duration::ZERO,
                    _ => began.elapsed(),
                },
                clocks,
            },
        );
        let interval = (cheapest * IDLENESS)
            .max(MIN_INTERVAL)
            .min(window / MIN_LOOKS);
        let left = window.saturating_sub(began.elapsed());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(interval.mul_f64(0.5 + chance.f64()).min(left));
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
