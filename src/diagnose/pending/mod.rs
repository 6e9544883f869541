//! Calls that should have returned and wait in slices: since when, and what shows that they make no progress.
//!
//! That a call waits in slices is normal: consumers, schedulers and servers do. It is stuck only if something says so: each of its attempts ends with
//! the same error, it has gone on for longer than the limit that it was given, or what it tries to get is held by others.

pub mod variables;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::diagnose::call_role::{calls_to_return, inner_calls, is_about_locks};
use crate::diagnose::key_of;
use crate::diagnose::observation::slices::PendingCall;
use crate::diagnose::observation::{Observed, Seen};
use crate::diagnose::pending::variables::{Limit, is_connection_error, kept_error, limits, paths};
use crate::diagnose::rules::Rules;
use crate::model::{
    CallSite, CaughtError, Confidence, Frame, Gil, Pid, ProcessSnapshot, Resource, SchedState,
    Since, SinceSource, Slices, ThreadRef, ThreadSnapshot, VerdictClass, Wait, WaitKind,
};
use crate::wait::{Attempts, LOCK_FILE};

/// Share of the samples, in percent, at which an exception was being handled at the least that each attempt ends with.
const MOST_ERRORS: usize = 60;
/// How much longer than its limit a call has gone on at the least: it may begin to count late, and look at the time seldom.
const MIN_EXCESS: Duration = Duration::from_secs(1);
/// Exceptions that say that there is nothing yet, and not that something failed.
const NOTHING_YET: [&str; 8] = [
    "Empty",
    "Full",
    "BlockingIOError",
    "StopIteration",
    "StopAsyncIteration",
    "TimeoutError",
    "timeout",
    "InterruptedError",
];

/// A call that makes no progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stall {
    /// The class of its wait.
    pub class: VerdictClass,
    /// How sure that is, if nothing else is known of whom it waits for.
    pub confidence: Confidence,
    /// For how long it has been pending at least.
    pub since: Since,
    /// The call.
    pub call: Arc<Frame>,
    /// What shows it.
    pub cause: Cause,
}

/// What shows that a call makes no progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It has gone on for longer than it was told to.
    OverLimit(Limit),
    /// Its attempts end with this error.
    Fails(CaughtError),
    /// It tries again and again to take what others hold, which its wait names.
    Held,
    /// It waits for what only some threads of its process can give it, which its wait names; none of them goes on.
    HandOff,
}

/// Completes the waits of threads that wait in slices by the call and the slices, and finds those that are stuck in one.
pub fn find_stalls(
    processes: &mut [ProcessSnapshot],
    observed: Option<&Observed>,
    threshold: Duration,
    rules: &Rules,
) -> BTreeMap<ThreadRef, Stall> {
    let mut stalls = BTreeMap::new();
    let Some(observed) = observed else {
        return stalls;
    };
    for process in processes {
        let (pid, age) = (process.pid, process.age.unwrap_or_default());
        for thread in &mut process.threads {
            let key = key_of(pid, thread);
            let Some((seen, pending)) = pending_of(observed, key, thread) else {
                continue;
            };
            let Some(call) = pending.calls.first() else {
                continue;
            };
            let slices = slices_of(seen, pending);
            // One that does not end by itself is no slice, whatever woke the thread before.
            let is_slice =
                |wait: &&mut Wait| wait.timeout.is_some() || wait.kind == WaitKind::Sleep;
            if let Some(wait) = thread.wait.as_mut().filter(is_slice) {
                wait.call = Some(CallSite::from(&**call));
                wait.slices = Some(slices.clone());
            }
            if rules.find_idle(thread).is_some() {
                continue;
            }
            let since = since_of(seen, pending, thread, age);
            if since.elapsed < threshold {
                continue;
            }
            let Some((class, confidence, cause)) = judge(thread, seen, pending, age, pid) else {
                continue;
            };
            let wait = asked_wait(thread, pending, &cause, since, slices);
            thread.wait = wait;
            let call = Arc::clone(call);
            stalls.entry(key).or_insert(Stall {
                class,
                confidence,
                since,
                call,
                cause,
            });
        }
    }
    stalls
}

/// Whether some thread waits in slices for what threads of its own process give it.
pub fn waits_inside(observed: &Observed) -> bool {
    let mut pending = observed.threads().filter_map(|seen| seen.pending.as_ref());
    pending.any(|pending| pending.wait.as_ref().is_some_and(is_inside))
}

/// Whether some thread that waits in slices inside of its process was met between two of them, when it is not known who can reach what it waits for.
pub fn is_between_slices(observed: &Observed, processes: &[ProcessSnapshot]) -> bool {
    processes.iter().any(|process| {
        process.threads.iter().any(|thread| {
            let key = key_of(process.pid, thread);
            let pending = pending_of(observed, key, thread).map(|(_, pending)| pending);
            let is_asked = pending.is_some_and(|pending| {
                pending.wait.as_ref().is_some_and(is_inside)
                    && !inner_calls(&pending.calls).is_empty()
            });
            is_asked && thread.wait.as_ref().is_none_or(|wait| wait.reach.is_none())
        })
    })
}

fn is_inside(wait: &Wait) -> bool {
    matches!(
        wait.kind,
        WaitKind::Condition | WaitKind::Semaphore | WaitKind::PythonLock
    )
}

/// The threads that sleep between attempts, and what is known of what they try to take.
pub fn find_attempts(
    observed: &Observed,
    processes: &[ProcessSnapshot],
    threshold: Duration,
) -> BTreeMap<ThreadRef, Attempts> {
    let mut found = BTreeMap::new();
    for process in processes {
        let age = process.age.unwrap_or_default();
        for thread in &process.threads {
            let key = key_of(process.pid, thread);
            let Some((seen, pending)) = pending_of(observed, key, thread) else {
                continue;
            };
            let since = since_of(seen, pending, thread, age);
            if !sleeps(pending) || since.elapsed < threshold {
                continue;
            }
            let wait = pending.wait.as_ref();
            found.entry(key).or_insert(Attempts {
                pid: process.pid,
                paths: paths(&pending.calls),
                is_native: wait.is_some_and(is_native_sleep),
                is_about_locks: is_about_locks(&pending.calls) || is_refused_lock(pending),
                since,
            });
        }
    }
    found
}

/// Whether attempts end with the error of a lock that another process has (`fcntl(2)`, `flock(2)`).
fn is_refused_lock(pending: &PendingCall) -> bool {
    const EAGAIN: i32 = 11;
    const EACCES: i32 = 13;
    let numbers = pending.errors.iter().filter_map(|(error, _)| error.errno);
    numbers
        .into_iter()
        .any(|number| number == EAGAIN || number == EACCES)
}

/// Whether C code sleeps, and not `time.sleep`, which sleeps until a moment (`Modules/timemodule.c::pysleep`, 3.11-3.15) or in a `select`
/// (2.7-3.10).
fn is_native_sleep(wait: &Wait) -> bool {
    let is_call = matches!(
        wait.syscall.as_deref(),
        Some("nanosleep" | "clock_nanosleep")
    );
    let state = wait
        .resource
        .as_ref()
        .and_then(|resource| resource.state.as_deref());
    is_call && state.is_none()
}

/// What was seen of a thread that waits in slices inside one call of Python.
fn pending_of<'o>(
    observed: &'o Observed,
    key: ThreadRef,
    thread: &ThreadSnapshot,
) -> Option<(&'o Seen, &'o PendingCall)> {
    let is_there = !matches!(
        thread.state,
        SchedState::Stopped | SchedState::Traced | SchedState::Zombie | SchedState::Dead
    );
    // Whoever waits for the GIL wakes each 5 ms, and says so.
    let is_asked = is_there && thread.gil != Gil::Waiting && thread.interpreter.is_some();
    let seen = observed.thread(key).filter(|_| is_asked)?;
    Some((seen, seen.pending.as_ref()?))
}

fn slices_of(seen: &Seen, pending: &PendingCall) -> Slices {
    let count = seen.progress.wake_ups.unwrap_or_default();
    let parts = u32::try_from(count).unwrap_or(u32::MAX).max(1);
    let errors = pending.errors.iter().map(|(error, _)| error.clone());
    Slices {
        count,
        period: Some(seen.progress.watched / parts),
        errors: errors.collect(),
    }
}

/// Since when the call is pending: the oldest of what is known.
pub fn since_of(
    seen: &Seen,
    pending: &PendingCall,
    thread: &ThreadSnapshot,
    age: Duration,
) -> Since {
    let by_locals = time_of(pending, 0, age);
    let wait = thread.wait.as_ref().and_then(|wait| wait.since);
    let known = [Some(seen.watched_since()), by_locals, wait];
    let known = known.into_iter().flatten();
    known
        .max_by_key(|since| since.elapsed.saturating_sub(since.error))
        .unwrap_or(Since {
            elapsed: Duration::ZERO,
            error: Duration::ZERO,
            source: SinceSource::Observed,
        })
}

/// For how long the call number `place`, the innermost at 0, has run at least, as a time among its own variables says.
fn time_of(pending: &PendingCall, place: usize, age: Duration) -> Option<Since> {
    let before = pending.before.first()?.get(place)?;
    let found = variables::since(
        pending.calls.get(place)?,
        Some(before),
        pending.read_at,
        age,
    );
    found.map(|(since, _)| since)
}

fn judge(
    thread: &ThreadSnapshot,
    seen: &Seen,
    pending: &PendingCall,
    age: Duration,
    pid: Pid,
) -> Option<(VerdictClass, Confidence, Cause)> {
    // It was found out what it tries to take, and who holds that; a lock that nobody has any more is to be had at the next attempt.
    let file = thread.wait.as_ref();
    if let Some(wait) = file.filter(|wait| wait.kind == WaitKind::FileLock) {
        let kind = wait.resource.as_ref().map(|resource| &*resource.kind);
        return match (&wait.holder, kind) {
            // It has it itself by now.
            (Some(holder), _) if holder.pid == pid => None,
            (Some(_), _) => Some((VerdictClass::HangFileLock, Confidence::Likely, Cause::Held)),
            (None, Some(LOCK_FILE)) => Some((
                VerdictClass::HangFileLock,
                Confidence::Possible,
                Cause::Held,
            )),
            (None, _) => None,
        };
    }
    let to_return = calls_to_return(&pending.calls);
    // Who was called to get something, or has nothing else to do, matters to the program. Others may do without what they try to reach.
    let is_main = thread.tid == pid.main_thread();
    let confidence = match is_main || !to_return.is_empty() {
        true => Confidence::Likely,
        false => Confidence::Possible,
    };
    if let Some(error) = failing(pending) {
        if is_connection_error(&error.type_name) {
            return Some((VerdictClass::HangNetwork, confidence, Cause::Fails(error)));
        }
        let is_failure = !NOTHING_YET.contains(&error.type_name.rsplit('.').next()?);
        if !to_return.is_empty() && is_failure {
            let cause = Cause::Fails(error);
            return Some((VerdictClass::Stalled, Confidence::Possible, cause));
        }
    }
    if sleeps(pending)
        && let Some(error) = renewed_error(pending, to_return.len().max(1))
    {
        return Some((VerdictClass::HangNetwork, confidence, Cause::Fails(error)));
    }
    if let Some((limit, _)) = over_limit(seen, pending, age, to_return) {
        let cause = Cause::OverLimit(limit);
        return Some((VerdictClass::Stalled, Confidence::Likely, cause));
    }
    let inner = inner_calls(&pending.calls);
    if inner.is_empty() {
        return None;
    }
    if is_handed_off(thread, pending) {
        return Some((VerdictClass::HangLock, Confidence::Likely, Cause::HandOff));
    }
    None
}

/// Whether it waits for an object that only some other threads of its process can reach.
fn is_handed_off(thread: &ThreadSnapshot, pending: &PendingCall) -> bool {
    let wait = thread.wait.as_ref().filter(|wait| is_inside(wait));
    let reach = wait.and_then(|wait| wait.reach.as_ref());
    let is_same = pending.wait.as_ref().map(|wait| wait.kind) == wait.map(|wait| wait.kind);
    is_same
        && pending.share >= MOST_ERRORS
        && reach.is_some_and(|reach| !reach.threads.is_empty() && !reach.is_global)
}

/// The exception that the attempts of a call end with: it was being handled at most samples, by the call itself or inside of it. One that
/// an outer call handles is no attempt of this one.
fn failing(pending: &PendingCall) -> Option<CaughtError> {
    let most = pending.errors.iter().max_by_key(|(_, share)| *share);
    let (error, _) = most.filter(|(_, share)| *share >= MOST_ERRORS)?;
    let is_outside = error.caught_in.as_ref().is_some_and(|(function, line)| {
        let mut outer = pending.calls.iter().skip(1);
        outer.any(|call| call.function == *function && call.first_line == Some(*line))
    });
    (!is_outside).then(|| error.clone())
}

/// Whether it does nothing but sleep, as far as it was met.
fn sleeps(pending: &PendingCall) -> bool {
    let wait = pending.wait.as_ref();
    wait.is_some_and(|wait| wait.kind == WaitKind::Sleep) && pending.share >= MOST_ERRORS
}

/// The error of a connection that a call keeps, if it was another object at one sample than at another: each attempt makes its own. One that stays
/// the same may be of long ago.
fn renewed_error(pending: &PendingCall, calls: usize) -> Option<CaughtError> {
    let kept_in = |sample: &[Arc<Frame>]| kept_error(&sample[..calls.min(sample.len())]);
    let (error, last) = kept_in(&pending.calls)?;
    let mut before = pending.before.iter().filter_map(|sample| kept_in(sample));
    before.any(|(_, address)| address != last).then_some(error)
}

/// The limit beyond which a call has gone on, by a time among its own variables, or those of a call that it has made: else it may be another call
/// at each sample. A limit that is no longer than a slice ends that, and not the call.
fn over_limit(
    seen: &Seen,
    pending: &PendingCall,
    age: Duration,
    to_return: &[Arc<Frame>],
) -> Option<(Limit, Since)> {
    let wait = pending.wait.as_ref()?;
    let gets_nothing = match wait.kind {
        WaitKind::Sleep
        | WaitKind::Condition
        | WaitKind::Semaphore
        | WaitKind::PythonLock
        | WaitKind::PythonRlock => true,
        WaitKind::SocketRecv | WaitKind::SocketSend | WaitKind::Poll => {
            seen.progress.received_bytes == Some(0)
        }
        _ => false,
    };
    if !gets_nothing {
        return None;
    }
    let parts = u32::try_from(seen.progress.wake_ups.unwrap_or_default()).unwrap_or(u32::MAX);
    let slice = seen.progress.watched / parts.max(1);
    let is_slice = |limit: Duration| {
        wait.timeout.is_some_and(|timeout| timeout * 2 > limit) || slice * 2 > limit
    };
    let mut since: Option<Since> = None;
    for (place, call) in to_return.iter().enumerate() {
        let own = time_of(pending, place, age);
        since = [since, own]
            .into_iter()
            .flatten()
            .max_by_key(|since| since.elapsed);
        let Some(since) = since else {
            continue;
        };
        let is_over = |limit: Duration| since.elapsed >= limit + MIN_EXCESS.max(limit / 2);
        let found = limits(call)
            .into_iter()
            .find(|limit| !is_slice(limit.limit) && is_over(limit.limit));
        if let Some(limit) = found {
            return Some((limit, since));
        }
    }
    None
}

/// The wait for what the call asks for, as a whole.
fn asked_wait(
    thread: &ThreadSnapshot,
    pending: &PendingCall,
    cause: &Cause,
    since: Since,
    slices: Slices,
) -> Option<Wait> {
    let met = thread.wait.clone().or_else(|| pending.wait.clone())?;
    let call = pending.calls.first().map(|call| CallSite::from(&**call));
    let mut wait = Wait {
        since: Some(since),
        timeout: None,
        call,
        slices: Some(slices),
        ..met
    };
    let address = match cause {
        Cause::Fails(error) if is_connection_error(&error.type_name) => error.address.clone(),
        _ => None,
    };
    if let Some(address) = address {
        wait.kind = WaitKind::SocketConnect;
        wait.resource = Some(Resource {
            kind: "tcp".to_owned(),
            peer: Some(address),
            ..Resource::default()
        });
        wait.holder = None;
        wait.other_holders = Vec::new();
    }
    Some(wait)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::observation::Observer;
    use crate::diagnose::testing::{at, process, thread};
    use crate::model::{Clocks, FrameKind, Local, Moment, ThreadCounts, Value};

    const THRESHOLD: Duration = Duration::from_secs(5);

    fn call(module: &str, function: &str, locals: Vec<Local>) -> Arc<Frame> {
        Arc::new(Frame {
            module: Some(module.into()),
            line: Some(7),
            first_line: Some(1),
            kind: FrameKind::Python,
            locals: Some(locals.into()),
            ..Frame::marker(function)
        })
    }

    fn timeout(seconds: &str) -> Vec<Local> {
        let float = |name: &str, argument: bool, text: &str| Local {
            name: name.into(),
            argument,
            value: Value::Float { text: text.into() },
        };
        vec![
            float("timeout", true, seconds),
            float("started", false, "1000.0"),
        ]
    }

    /// A main thread that sleeps in slices, in these calls, innermost first.
    fn sleeper(calls: Vec<Arc<Frame>>, error: Option<CaughtError>) -> ThreadSnapshot {
        let mut thread = thread(1, WaitKind::Sleep, 0);
        thread.wait.as_mut().unwrap().timeout = Some(Duration::from_millis(50));
        thread.frames = calls;
        thread.exception = error;
        thread
    }

    /// What is found of it after it was watched for ten seconds, in which it woke each 100 ms.
    fn stall(thread: &ThreadSnapshot) -> Option<Stall> {
        let mut observer = Observer::default();
        for number in 0..=100_u64 {
            let elapsed = Duration::from_millis(100 * number);
            let mut seen = thread.clone();
            seen.counts = Some(ThreadCounts {
                cpu: Duration::from_micros(50 * number),
                runs: number,
            });
            // The call began at 1,000 s.
            let clocks = Clocks {
                monotonic: Duration::from_secs(1001) + elapsed,
                ..Clocks::default()
            };
            observer.see(&[process(1, vec![seen])], Moment { elapsed, clocks });
        }
        let mut processes = [process(1, vec![thread.clone()])];
        processes[0].age = Some(Duration::from_secs(600));
        let observed = observer.finish();
        let rules = Rules::built_in();
        let mut stalls = find_stalls(&mut processes, Some(&observed), THRESHOLD, rules);
        stalls.remove(&at(1, 1))
    }

    fn refused(caught_in: &str) -> CaughtError {
        CaughtError {
            type_name: "ConnectionRefusedError".into(),
            errno: Some(111),
            address: Some("10.0.0.1:5672".into()),
            caught_in: Some((caught_in.into(), 1)),
        }
    }

    fn nested(function: &str, locals: Vec<Local>) -> Vec<Arc<Frame>> {
        vec![
            call("client", function, locals),
            call("app", "work", Vec::new()),
            call("__main__", "<module>", Vec::new()),
        ]
    }

    #[test]
    fn to_sleep_in_slices_is_no_stall_by_itself() {
        assert_eq!(stall(&sleeper(nested("fetch", Vec::new()), None)), None);
    }

    #[test]
    fn a_limit_of_its_own_that_is_passed_is_one() {
        let found = stall(&sleeper(nested("fetch", timeout("1.0")), None)).unwrap();
        assert_eq!(
            (found.class, found.confidence),
            (VerdictClass::Stalled, Confidence::Likely)
        );
        assert_eq!(found.since.elapsed, Duration::from_secs(11));
        // Without a time of its own, it may be another call each time.
        let unknown = sleeper(nested("fetch", timeout("1.0")[..1].to_vec()), None);
        assert_eq!(stall(&unknown), None);
        // It may go on, or it is the limit of a slice, or that of what serves for ever.
        assert_eq!(stall(&sleeper(nested("fetch", timeout("9.5")), None)), None);
        assert_eq!(stall(&sleeper(nested("fetch", timeout("0.1")), None)), None);
        assert_eq!(
            stall(&sleeper(nested("loop_forever", timeout("1.0")), None)),
            None
        );
    }

    #[test]
    fn an_error_of_each_attempt_is_one_and_that_of_an_outer_call_is_none() {
        let found = stall(&sleeper(
            nested("fetch", Vec::new()),
            Some(refused("fetch")),
        ))
        .unwrap();
        assert_eq!(
            (found.class, found.confidence),
            (VerdictClass::HangNetwork, Confidence::Likely)
        );
        let outer = sleeper(nested("fetch", Vec::new()), Some(refused("work")));
        assert_eq!(stall(&outer), None);
        let empty = CaughtError {
            type_name: "queue.Empty".into(),
            caught_in: Some(("fetch".into(), 1)),
            ..CaughtError::default()
        };
        assert_eq!(
            stall(&sleeper(nested("fetch", Vec::new()), Some(empty))),
            None
        );
    }

    #[test]
    fn a_refused_address_is_what_is_waited_for() {
        let thread = sleeper(nested("fetch", Vec::new()), Some(refused("fetch")));
        let pending = PendingCall {
            calls: thread.frames.clone(),
            ..PendingCall::default()
        };
        let since = Since {
            elapsed: THRESHOLD,
            error: Duration::ZERO,
            source: SinceSource::Observed,
        };
        let cause = Cause::Fails(refused("fetch"));
        let wait = asked_wait(&thread, &pending, &cause, since, Slices::default()).unwrap();
        let peer = wait.resource.and_then(|resource| resource.peer);
        assert_eq!(
            (wait.kind, peer.as_deref(), wait.timeout),
            (WaitKind::SocketConnect, Some("10.0.0.1:5672"), None)
        );
    }
}
