//! From waits to verdicts and findings: what is stuck, and how sure that is. No reading of targets.

mod verdict;

pub use verdict::judge;

use std::time::Duration;

use crate::model::{Finding, ProcessSnapshot, ThreadRef, VerdictClass};

/// Gives every thread its verdict, and collects what is stuck, longest first.
pub fn diagnose(processes: &mut [ProcessSnapshot], threshold: Duration) -> Vec<Finding> {
    let mut findings = Vec::new();
    for process in processes {
        let pid = process.pid;
        let mut has_stopped = false;
        for thread in &mut process.threads {
            let verdict = judge(thread, threshold);
            // A stop is of the whole process: one finding says it for all threads.
            let is_told =
                verdict.class == VerdictClass::Stopped && std::mem::replace(&mut has_stopped, true);
            if verdict.class.is_stuck() && !is_told {
                findings.push(Finding {
                    verdict: verdict.class,
                    confidence: verdict.confidence,
                    summary: verdict.summary.clone(),
                    since: thread
                        .wait
                        .as_ref()
                        .and_then(|wait| wait.since)
                        .or(thread.off_cpu)
                        .map(|since| since.elapsed),
                    root: ThreadRef {
                        pid,
                        tid: thread.tid,
                    },
                    advice: verdict::advice(verdict.class).to_owned(),
                });
            }
            thread.verdict = Some(verdict);
        }
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.since));
    findings
}
