//! A process and its descendants at one instant; what vanishes meanwhile is an entry, not an error.

use std::time::Duration;

use super::capture::{Capture, CaptureOptions, capture};
use crate::model::{MemoryOutcome, Pid, ProcessSnapshot, SchedState};
use crate::target::family::{Relative, tree};
use crate::target::{Target, TargetError};
use crate::wait::link;

/// How long reading a process may take once reading another has blocked.
const LATER_DEADLINE: Duration = Duration::from_secs(1);

/// Which processes are captured.
#[derive(Clone, Copy, Debug)]
pub struct TreeOptions {
    /// How each is captured.
    pub capture: CaptureOptions,
    /// Whether the descendants are captured too.
    pub subprocesses: bool,
}

/// The processes of a tree.
#[derive(Debug)]
pub struct TreeCapture {
    /// Parents before their children.
    pub processes: Vec<ProcessSnapshot>,
    /// How long threads were made to stand still, in all.
    pub pause: Duration,
}

/// Captures `root`, and its descendants if they are wanted.
///
/// Fails only when `root` itself can't be looked at.
pub fn capture_tree(root: Pid, options: TreeOptions) -> Result<TreeCapture, TargetError> {
    let target = Target::open(root)?;
    let relatives = if options.subprocesses {
        tree(root)
    } else {
        Vec::new()
    };
    let Capture { process, mut pause } = capture(target, options.capture);
    let mut processes = vec![process];
    // Without /proc of others (hidepid) the tree can be empty; the root is captured all the same.
    let mut options = options.capture;
    for relative in relatives
        .into_iter()
        .filter(|relative| relative.pid != root && relative.pid != Pid::own())
    {
        if processes
            .last()
            .is_some_and(|process| process.memory == MemoryOutcome::TimedOut)
        {
            // Where one waits for a dead file system, the others most likely do too.
            options.deadline = options.deadline.min(LATER_DEADLINE);
        }
        match Target::open(relative.pid) {
            Ok(target) => {
                let captured = capture(target, options);
                pause += captured.pause;
                processes.push(ProcessSnapshot {
                    depth: relative.depth,
                    ..captured.process
                });
            }
            Err(error) => processes.push(vanished(&relative, &error)),
        }
    }
    link(&mut processes);
    Ok(TreeCapture { processes, pause })
}

fn vanished(relative: &Relative, error: &TargetError) -> ProcessSnapshot {
    ProcessSnapshot {
        pid: relative.pid,
        ppid: relative.ppid,
        depth: relative.depth,
        title: String::new(),
        command: Vec::new(),
        runtime: None,
        memory: MemoryOutcome::Ended,
        state: SchedState::Dead,
        started_at: None,
        age: None,
        tracer: None,
        threads: Vec::new(),
        errors: vec![error.to_string()],
    }
}
