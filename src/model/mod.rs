//! Plain data in the field's own words; no I/O, no handles, and nothing of the other modules.

mod address;
mod container;
mod event_loop;
mod frame;
mod ids;
mod milliseconds;
mod pending;
mod process;
mod progress;
mod sample;
mod sched_state;
mod socket;
mod span;
mod thread;
mod value;
mod verdict;
mod wait;

pub use address::Address;
pub use container::Container;
pub use event_loop::{Awaited, BlockedHub, EventLoop, Task, TaskState};
pub use frame::{CallStack, Frame, FrameKind};
pub use ids::{Pid, Tid};
pub use milliseconds::whole_milliseconds;
pub use pending::{CallSite, CaughtError, Slices};
pub use process::{MemoryOutcome, ProcessSnapshot, RuntimeInfo, find_thread};
pub use progress::{
    Clocks, Loop, Moment, ProcessCounts, ProcessProgress, ThreadCounts, ThreadProgress,
};
pub use sample::{
    Activity, Batch, ProcessIndex, Run, SampledProcess, SampledThread, SamplingEnd, SamplingStats,
    ThreadIndex,
};
pub use sched_state::SchedState;
pub use socket::{LastSender, Socket, SocketKind, TcpTimes};
pub use span::span;
pub use thread::{Consistency, Gil, ThreadSnapshot};
pub use value::{Attribute, Entry, Local, Value};
pub use verdict::{
    Confidence, Context, ContextField, Evidence, Finding, Link, ThreadRef, Verdict, VerdictClass,
};
pub use wait::{
    End, EndAccess, EndUser, Holder, HolderConfidence, Member, Reach, Resource, Since, SinceSource,
    UsedBy, Wait, WaitKind,
};
