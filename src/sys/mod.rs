//! The system calls that look at another process, each behind a small safe interface; no knowledge of what is read.

pub mod affinity;
pub mod bounded_read;
pub mod clock;
pub mod deadline;
pub mod descriptors;
pub mod diag;
pub mod fork;
pub mod job_control;
pub mod memory;
pub mod own_proc;
pub mod pidfd;
pub mod pipe;
pub mod planned;
pub mod priority;
pub mod procfile;
pub mod ptrace;
pub mod socket;
pub mod spawn;
pub mod stdio;
