//! Which findings are equal but for their threads, and in which order findings come.

use std::cmp::Reverse;

use crate::model::{Finding, ProcessSnapshot, ThreadSnapshot, find_thread};

/// Puts the surest findings first, of those the ones that hold up most, then the oldest; and numbers the groups in that order.
///
/// Equal findings stand next to each other, where the first of them would.
pub fn sort_and_group(findings: &mut [Finding], processes: &[ProcessSnapshot]) {
    findings.sort_by_key(|finding| {
        (
            Reverse(finding.confidence),
            Reverse(finding.blocks.len()),
            Reverse(finding.since),
            finding.root,
        )
    });
    // The first finding of each group.
    let mut groups: Vec<usize> = Vec::new();
    for index in 0..findings.len() {
        let same = groups
            .iter()
            .position(|first| is_alike(&findings[*first], &findings[index], processes));
        let group = same.unwrap_or_else(|| {
            groups.push(index);
            groups.len() - 1
        });
        findings[index].group = group;
    }
    findings.sort_by_key(|finding| finding.group);
}

/// Whether two findings are the same verdict, reached at the same place of the code, on the same thing. One whose root is another
/// thread is about that thread, and stands for itself.
fn is_alike(one: &Finding, other: &Finding, processes: &[ProcessSnapshot]) -> bool {
    let is_plain = |finding: &Finding| finding.root == finding.teller && finding.chain.is_empty();
    if !is_plain(one) || !is_plain(other) {
        return false;
    }
    let (Some(first), Some(second)) = (
        find_thread(processes, one.teller),
        find_thread(processes, other.teller),
    ) else {
        return false;
    };
    let mut calls = first.frames.iter().zip(&second.frames);
    (one.verdict, one.confidence) == (other.verdict, other.confidence)
        && !first.frames.is_empty()
        && first.frames.len() == second.frames.len()
        && calls.all(|(one, other)| one.is_same_call(other))
        && subject(first) == subject(second)
}

/// What a thread waits for, but for what differs from one connection to another of the same peer.
fn subject(thread: &ThreadSnapshot) -> impl PartialEq + '_ {
    thread.wait.as_ref().map(|wait| {
        let resource = wait.resource.as_ref();
        let named = resource.map(|resource| {
            (
                &resource.kind,
                &resource.peer,
                &resource.path,
                &resource.state,
            )
        });
        (wait.kind, named)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::diagnose::testing::{at, process, receiver};
    use crate::model::{Confidence, Frame, Link, ThreadRef, Tid, VerdictClass, WaitKind};

    fn finding(root: ThreadRef, confidence: Confidence, seconds: u64) -> Finding {
        Finding {
            verdict: VerdictClass::HangNetwork,
            confidence,
            summary: String::new(),
            since: Some(Duration::from_secs(seconds)),
            root,
            teller: root,
            chain: Vec::new(),
            blocks: Vec::new(),
            context: None,
            advice: String::new(),
            group: 0,
        }
    }

    /// Threads 1 to 4 of a process: the first three in the same call, the third of them to another peer.
    fn processes() -> Vec<ProcessSnapshot> {
        let threads = (1..=4).map(|tid| {
            let mut thread = receiver(60);
            thread.tid = Tid(tid);
            let function = if tid == 4 { "other" } else { "fetch" };
            thread.frames = vec![Arc::new(Frame::marker(function))];
            let resource = thread.wait.as_mut().unwrap().resource.as_mut().unwrap();
            resource.local = Some(format!("10.1.2.3:{tid}"));
            if tid == 3 {
                resource.peer = Some("10.0.0.2:443".into());
            }
            thread
        });
        vec![process(1, threads.collect())]
    }

    fn order(mut findings: Vec<Finding>) -> Vec<(i32, usize)> {
        sort_and_group(&mut findings, &processes());
        let order = findings.iter();
        order
            .map(|finding| (finding.root.tid.0, finding.group))
            .collect()
    }

    #[test]
    fn the_same_call_to_the_same_peer_is_one_group() {
        let all = (1..=4).map(|tid| finding(at(1, tid), Confidence::Likely, 60));
        assert_eq!(order(all.collect()), [(1, 0), (2, 0), (3, 1), (4, 2)]);
    }

    #[test]
    fn the_surest_come_first_then_what_holds_up_most_then_the_oldest() {
        let mut holds = finding(at(1, 3), Confidence::Likely, 5);
        holds.blocks = vec![at(1, 1), at(1, 2)];
        let findings = vec![
            finding(at(1, 1), Confidence::Possible, 900),
            finding(at(1, 4), Confidence::Likely, 60),
            holds,
        ];
        assert_eq!(order(findings), [(3, 0), (4, 1), (1, 2)]);
    }

    #[test]
    fn equal_findings_stand_together_and_chains_alone() {
        let mut chained = finding(at(1, 2), Confidence::Likely, 50);
        chained.chain = vec![Link {
            thread: at(1, 2),
            waits: WaitKind::PythonLock,
            on: at(1, 1),
        }];
        let findings = vec![
            finding(at(1, 1), Confidence::Likely, 60),
            chained,
            finding(at(1, 4), Confidence::Likely, 55),
            finding(at(1, 1), Confidence::Likely, 40),
        ];
        assert_eq!(order(findings), [(1, 0), (1, 0), (4, 1), (2, 2)]);
    }
}
