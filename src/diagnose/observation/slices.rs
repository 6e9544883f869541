//! What was seen of a thread that wakes now and then inside one call: that call, what it waits for, and with which variables.

use std::sync::Arc;

use super::pending_call::CommonCalls;
use crate::model::{CaughtError, Consistency, Frame, Moment, Resource, ThreadSnapshot, Wait};

/// Most different waits, and errors, of one thread that are told apart.
const MAX_KINDS: usize = 32;
/// The first samples whose variables are kept, beside the last one's.
const MAX_KEPT: usize = 3;

/// A call that was there at every sample, and in which the thread did nothing but wait.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PendingCall {
    /// The call, and those around it, innermost first, at the lines of the last sample that has their variables.
    pub calls: Vec<Arc<Frame>>,
    /// The same at the first few samples that have variables, in their order.
    pub before: Vec<Vec<Arc<Frame>>>,
    /// When the variables were read last.
    pub read_at: Moment,
    /// The wait that it was met in most often, as it was last met in.
    pub wait: Option<Wait>,
    /// In percent, how many of the samples met it in that wait.
    pub share: usize,
    /// Whether it was met in other waits too, other than sleeps.
    pub is_mixed: bool,
    /// The exceptions that it was handling, each with at how many of a hundred samples.
    pub errors: Vec<(CaughtError, usize)>,
}

/// Collects what is seen of one thread.
#[derive(Debug, Default)]
pub struct SliceTrack {
    common: CommonCalls,
    samples: usize,
    first: Vec<Vec<Arc<Frame>>>,
    last: Option<(Moment, Vec<Arc<Frame>>)>,
    waits: Vec<(Wait, usize)>,
    errors: Vec<(CaughtError, usize)>,
}

impl SliceTrack {
    /// Takes in a sample; of a very deep stack, at most so many of the outermost calls.
    pub fn see(&mut self, thread: &ThreadSnapshot, at: Moment, limit: usize) {
        if thread.consistency == Consistency::Torn {
            return;
        }
        self.samples += 1;
        self.common.see(&thread.frames, limit);
        if thread.frames.iter().any(|frame| frame.locals.is_some()) {
            let calls = || thread.frames.iter().rev().take(limit).cloned().collect();
            match self.first.len() < MAX_KEPT {
                true => self.first.push(calls()),
                false => self.last = Some((at, calls())),
            }
        }
        if let Some(wait) = &thread.wait {
            count(&mut self.waits, wait, is_same_wait);
        }
        if let Some(error) = &thread.exception {
            count(&mut self.errors, error, PartialEq::eq);
        }
    }

    /// The call that the thread was in all the time.
    pub fn pending(&self) -> Option<PendingCall> {
        let depth = self.common.depth()?;
        let share = |seen: usize| seen * 100 / self.samples.max(1);
        let calls = |calls: &[Arc<Frame>]| calls.iter().take(depth).rev().cloned().collect();
        let (read_at, last) = self.last.as_ref()?;
        let most = self.waits.iter().max_by_key(|(_, seen)| *seen);
        let others = self.waits.iter().filter(|(wait, _)| {
            let is_sleep = wait.kind == crate::model::WaitKind::Sleep;
            !is_sleep && most.is_none_or(|(most, _)| !is_same_wait(most, wait))
        });
        Some(PendingCall {
            calls: calls(last),
            before: self.first.iter().map(|sample| calls(sample)).collect(),
            read_at: *read_at,
            wait: most.map(|(wait, _)| wait.clone()),
            share: most.map_or(0, |(_, seen)| share(*seen)),
            is_mixed: others.count() > 0,
            errors: self
                .errors
                .iter()
                .map(|(error, seen)| (error.clone(), share(*seen)))
                .collect(),
        })
    }
}

/// Counts one more of those that are the same; the last one stands for all.
fn count<T: Clone>(all: &mut Vec<(T, usize)>, one: &T, is_same: impl Fn(&T, &T) -> bool) {
    if let Some((known, seen)) = all.iter_mut().find(|(known, _)| is_same(known, one)) {
        *known = one.clone();
        *seen += 1;
    } else if all.len() < MAX_KINDS {
        all.push((one.clone(), 1));
    }
}

/// Whether two waits are for the same thing.
fn is_same_wait(one: &Wait, other: &Wait) -> bool {
    let what = |resource: &Resource| {
        (
            resource.fd,
            resource.address,
            resource.inode,
            resource.pid,
            resource.peer.clone(),
        )
    };
    one.kind == other.kind && one.resource.as_ref().map(what) == other.resource.as_ref().map(what)
}
