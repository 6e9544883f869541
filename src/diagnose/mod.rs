//! From waits to verdicts and findings: what is stuck, and how sure that is. No reading of targets.

mod verdict;

pub use verdict::judge;

use crate::model::{Finding, ProcessSnapshot, ThreadRef};
use std::time::Duration;

/// Gives every thread its verdict, and collects what is stuck, longest first.
pub fn diagnose(processes: &mut [ProcessSnapshot], threshold: Duration) -> Vec<Finding> {
    let mut findings = Vec::new();
    for process in processes {
        let pid = process.pid;
        for thread in &mut process.threads {
            let verdict = judge(thread, threshold);
            if verdict.class.is_hang() {
                findings.push(Finding {
                    verdict: verdict.class,
                    confidence: verdict.confidence,
                    summary: verdict.summary.clone(),
                    since: thread
                        .wait
                        .as_ref()
                        .and_then(|wait| wait.since)
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
