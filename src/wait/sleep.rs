//! Waits for time to pass: how long was asked for, and what is left of it.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use syscalls::Sysno;

use super::arguments::PointedArguments;
use crate::model::{Pid, Resource, Wait};
use crate::sys::procfile::ProcDir;
use crate::target::Target;

/// `TIMER_ABSTIME` (`include/uapi/linux/time.h`): the time is a moment, not a length.
const TIMER_ABSTIME: u64 = 1;

/// The state of a sleep until a moment, and not for a time.
const ABSOLUTE: &str = "absolute";

/// Describes a nanosleep or clock_nanosleep.
pub(super) fn describe_sleep(
    target: &Target,
    call: Sysno,
    arguments: &[u64; 6],
    pointed: Option<&PointedArguments>,
    wait: &mut Wait,
) {
    let Some(time) = pointed.and_then(|pointed| pointed.time).flatten() else {
        return;
    };
    let is_absolute = call == Sysno::clock_nanosleep && arguments[1] & TIMER_ABSTIME != 0;
    if !is_absolute {
        wait.timeout = Some(time);
        set_remaining(wait);
        return;
    }
    match read_clock(target, arguments[0]) {
        Ok(now) => {
            let left = time.saturating_sub(now);
            wait.timeout = wait.since.map(|since| left.saturating_add(since.elapsed));
            let mut resource = time_resource(left);
            resource.state = Some(ABSOLUTE.to_owned());
            wait.resource = Some(resource);
        }
        Err(why) => wait.missing.push(why),
    }
}

/// What is left of a timeout, for a wait that ends with it.
pub(super) fn set_remaining(wait: &mut Wait) {
    let left = wait
        .timeout
        .zip(wait.since)
        .map(|(timeout, since)| timeout.saturating_sub(since.elapsed));
    wait.resource = left.map(time_resource);
}

fn time_resource(remaining: Duration) -> Resource {
    Resource {
        kind: "time".to_owned(),
        remaining: Some(remaining),
        ..Resource::default()
    }
}

/// What the target's clock with this number shows now.
fn read_clock(target: &Target, number: u64) -> Result<Duration, String> {
    let unknown = || "what is left of the sleep: its clock can not be read".to_owned();
    let id = (number & u64::from(u32::MAX)) as u32;
    let clock = ClockId::from_raw(id.cast_signed());
    let is_shiftable = [ClockId::CLOCK_MONOTONIC, ClockId::CLOCK_BOOTTIME].contains(&clock);
    let is_common = [ClockId::CLOCK_REALTIME, ClockId::CLOCK_TAI].contains(&clock);
    if !is_shiftable && !is_common {
        // A clock of processor time.
        return Err(unknown());
    }
    if is_shiftable && !has_our_time(target) {
        return Err("what is left of the sleep: it lives in another time namespace".to_owned());
    }
    clock_gettime(clock)
        .map(Duration::from)
        .map_err(|_| unknown())
}

/// Whether its monotonic clocks are ours (`man 7 time_namespaces`). Kernels without these namespaces have no such link.
fn has_our_time(target: &Target) -> bool {
    let own = ProcDir::open(Pid::own()).and_then(|own| own.read_link("ns/time"));
    match (own, target.proc().read_link("ns/time")) {
        (Ok(own), Ok(theirs)) => own == theirs,
        (Err(_), _) => true,
        (Ok(_), Err(_)) => false,
    }
}
