//! What threads and processes did while they were watched, from the looks at them.

pub mod busy_loop;
mod pending_call;
pub mod slices;
pub mod value_change;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::diagnose::key_of;
use crate::diagnose::observation::busy_loop::{LoopSample, find_loop, stays_at_one_line};
use crate::diagnose::observation::slices::{PendingCall, SliceTrack};
use crate::diagnose::wait_graph::peers::{peers_of, wait_for_peer};

use crate::model::{
    Consistency, Frame, Gil, Moment, Pid, ProcessCounts, ProcessProgress, ProcessSnapshot,
    SchedState, Since, SinceSource, Socket, TcpTimes, ThreadCounts, ThreadProgress, ThreadRef,
    ThreadSnapshot, WaitKind,
};

/// Looks at the least from which anything is concluded.
const MIN_LOOKS: usize = 4;
/// Share of the looks, in percent, at which a thread must be as it is said to be.
const MOST: usize = 90;
/// The same for a thread that is said to have waited for the GIL all the time: it wakes each 5 ms to ask for it again (`take_gil` of
/// `Python/ceval_gil.c`, 3.2-3.15), and a sample that meets it awake does not show what it wants. That it did nothing else shows its CPU time.
const MOST_STARVED: usize = 75;
/// Share of a processor, in percent, that a thread uses at the least which never waits for anything: others may want it too.
const MIN_CPU: u32 = 10;
/// Share of a processor, in percent, that a thread may use which is said to have waited for the GIL all the time: looking whether it is
/// free takes some.
const MAX_STARVED_CPU: u32 = 3;
/// Longest slice of a wait that is watched for, in any window: most that are longer would be met once.
const MAX_SLICE: Duration = Duration::from_millis(1100);
/// The same as a part of the window: it has to see a few of them.
const SLICES_OF_WINDOW: u32 = 3;
/// Times that a thread must wake at the least for its wait to be one in slices.
const MIN_SLICES: u64 = 2;
/// Most different stacks of a thread whose loop is in one line.
const MAX_CALLEES: usize = 12;
/// Most calls of a stack that are kept at each look, from the outermost on.
const MAX_CALLS: usize = 1000;
/// Most calls that are kept of all threads at all looks.
const MAX_KEPT: usize = 2_000_000;

/// Collects looks.
#[derive(Debug, Default)]
pub struct Observer {
    threads: BTreeMap<ThreadRef, Track>,
    processes: BTreeMap<Pid, Vec<(Duration, ProcessCounts)>>,
    frames: FxHashSet<Arc<Frame>>,
    kept: usize,
}

/// What was seen of a thread.
#[derive(Debug, Default)]
struct Track {
    looks: usize,
    first: Option<(Duration, ThreadCounts)>,
    last: Option<(Duration, ThreadCounts)>,
    /// Looks at which it ran, or could.
    running: usize,
    /// Looks at which it was in the sort of wait that it was in at the first.
    asleep: usize,
    kind: Option<WaitKind>,
    /// Looks at which it held the GIL, and waited for it.
    gil_held: usize,
    gil_waiting: usize,
    /// Its stacks, of looks at which it was not blocked.
    stacks: Vec<LoopSample>,
    /// What it waited on at the looks at which it did.
    connections: Vec<Connections>,
    /// What it waited for, and in which call.
    slices: SliceTrack,
}

/// The connections that a thread waits on, at one look.
#[derive(Debug)]
struct Connections {
    /// When the call gives up by itself.
    timeout: Option<Duration>,
    names: Vec<(Option<i32>, Option<String>)>,
    tcp: Vec<TcpTimes>,
}

/// What all looks together say.
#[derive(Debug, Default)]
pub struct Observed {
    threads: FxHashMap<ThreadRef, Seen>,
    processes: FxHashMap<Pid, ProcessProgress>,
    connections: FxHashMap<Pid, Vec<Socket>>,
}

/// What all looks at one thread say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// In numbers.
    pub progress: ThreadProgress,
    /// Whether it ran all the time, or would have if others had not had the GIL or the processor.
    pub is_busy: bool,
    /// Whether it held the GIL all the time.
    pub keeps_gil: bool,
    /// Whether it waited for the GIL all the time.
    pub is_starved: bool,
    /// Whether it was at the same line of the same calls all the time.
    pub is_at_one_line: bool,
    /// Whether the innermost call that was always there was at the same line all the time, with the same variables as far as they can be
    /// seen, and made but a few different calls from it: a loop in one line, or C code.
    pub stays_at_one_line: bool,
    /// For how long it was seen asleep, in the same sort of wait and without having run.
    pub asleep: Option<Duration>,
    /// The innermost call that it was in all the time, waking now and then and using next to no processor: a wait in slices.
    pub pending: Option<PendingCall>,
    /// For how long its peers have not answered, where it asks them again and again, and they owe it one.
    pub unanswered: Option<Since>,
}

impl Seen {
    /// That it has been so for as long as it was watched, at least.
    pub fn watched_since(&self) -> Since {
        Since {
            elapsed: self.progress.watched,
            error: Duration::ZERO,
            source: SinceSource::Observed,
        }
    }
}

impl Observer {
    /// Takes in what was seen at a moment.
    pub fn see(&mut self, processes: &[ProcessSnapshot], at: Moment) {
        for process in processes {
            self.processes
                .entry(process.pid)
                .or_default()
                .push((at.elapsed, process.counts));
            let mut before = None;
            for thread in &process.threads {
                // A thread inside several interpreters stands there more than once, innermost first.
                if before == Some(thread.tid) {
                    continue;
                }
                before = Some(thread.tid);
                self.see_thread(key_of(process.pid, thread), thread, at);
            }
        }
    }

    fn see_thread(&mut self, key: ThreadRef, thread: &ThreadSnapshot, at: Moment) {
        let track = self.threads.entry(key).or_default();
        track.looks += 1;
        if let Some(counts) = thread.counts {
            track.first.get_or_insert((at.elapsed, counts));
            track.last = Some((at.elapsed, counts));
        }
        let is_running = thread.state == SchedState::Running;
        track.running += usize::from(is_running);
        if let Some(wait) = &thread.wait {
            let kind = *track.kind.get_or_insert(wait.kind);
            track.asleep += usize::from(kind == wait.kind);
        }
        track.gil_held += usize::from(thread.gil == Gil::Held);
        track.gil_waiting += usize::from(thread.gil == Gil::Waiting);
        if let Some(wait) = &thread.wait
            && let Some(peers) = peers_of(wait)
            && peers.iter().all(|peer| wait_for_peer(peer))
        {
            track.connections.push(Connections {
                timeout: wait.timeout,
                names: peers
                    .iter()
                    .map(|peer| (peer.fd, peer.peer.clone()))
                    .collect(),
                tcp: peers.iter().filter_map(|peer| peer.tcp).collect(),
            });
        }
        track.slices.see(thread, at, MAX_CALLS);
        let calls = thread.frames.len().min(MAX_CALLS);
        // A torn stack says nothing, and there is one now and then.
        let is_known = calls > 0 && thread.consistency != Consistency::Torn;
        let is_active = is_running || thread.gil == Gil::Waiting;
        if is_active && is_known && self.kept + calls <= MAX_KEPT {
            self.kept += calls;
            let keeps_locals = keeps_locals(track.stacks.len());
            let calls = thread.frames.iter().rev().take(MAX_CALLS);
            let calls = calls.map(|frame| match keeps_locals {
                true => Arc::clone(frame),
                false => intern(&mut self.frames, frame),
            });
            let calls = calls.collect();
            track.stacks.push(LoopSample { at, calls });
        }
    }

    /// What all of it says so far.
    pub fn finish(&self) -> Observed {
        let threads = self.threads.iter();
        let processes = self.processes.iter();
        Observed {
            threads: threads
                .filter_map(|(key, track)| Some((*key, track.sum_up()?)))
                .collect(),
            processes: processes
                .filter_map(|(pid, counts)| Some((*pid, compare(counts)?)))
                .collect(),
            connections: FxHashMap::default(),
        }
    }
}

/// Whether the variables of a look are kept, of which so many came before it: of the first ones, and then of ever fewer.
fn keeps_locals(before: usize) -> bool {
    before < 32 || before.is_multiple_of(1 << (before.ilog2() - 3))
}

/// The same frame without variables, once: looks repeat each other.
fn intern(frames: &mut FxHashSet<Arc<Frame>>, frame: &Arc<Frame>) -> Arc<Frame> {
    let plain = match frame.locals {
        None => Arc::clone(frame),
        Some(_) => Arc::new(Frame {
            locals: None,
            ..(**frame).clone()
        }),
    };
    if let Some(known) = frames.get(&plain) {
        return Arc::clone(known);
    }
    frames.insert(Arc::clone(&plain));
    plain
}

/// What has been counted between the first and the last look.
fn compare(counts: &[(Duration, ProcessCounts)]) -> Option<ProcessProgress> {
    let ((began, first), (ended, last)) = (counts.first()?, counts.last()?);
    // From look to look: connections come and go, so that a sum may shrink, and come out as it was.
    let moved = |of: fn(&ProcessCounts) -> Option<u64>| {
        let pairs = counts.windows(2);
        let steps = pairs.map(|pair| Some(of(&pair[1].1)?.abs_diff(of(&pair[0].1)?)));
        steps.sum::<Option<u64>>()
    };
    let sockets = counts.iter().map(|(_, counts)| counts.sockets);
    let sockets: Option<Vec<u64>> = sockets.collect();
    let throttled = last.throttled.map(|last| {
        let before = first.throttled.unwrap_or_default();
        last.saturating_sub(before)
    });
    Some(ProcessProgress {
        watched: ended.saturating_sub(*began),
        read_bytes: moved(|counts| counts.read_bytes),
        written_bytes: moved(|counts| counts.written_bytes),
        keeps_sockets: sockets.map(|all| all.windows(2).all(|pair| pair[0] == pair[1])),
        throttled,
    })
}

impl Track {
    fn sum_up(&self) -> Option<Seen> {
        let ((began, first), (ended, last)) = (self.first?, self.last?);
        if self.looks < MIN_LOOKS {
            return None;
        }
        let watched = ended.saturating_sub(began);
        let cpu = last.cpu.saturating_sub(first.cpu);
        let wake_ups = last.runs.saturating_sub(first.runs);
        let is_most = |count: usize| count * 100 >= self.looks * MOST;
        let is_busy = is_most(self.running + self.gil_waiting) && cpu >= watched * MIN_CPU / 100;
        let stacks: FxHashSet<Vec<(&str, &str, Option<u32>)>> = self
            .stacks
            .iter()
            .map(|look| {
                let calls = look.calls.iter();
                calls
                    .map(|call| (&*call.function, &*call.file, call.line))
                    .collect()
            })
            .collect();
        Some(Seen {
            is_busy,
            // One sample may be torn, or of the moment before.
            keeps_gil: is_most(self.gil_held) || self.gil_held + 1 >= self.looks,
            // Who gets it now and then is not kept from it.
            is_starved: (self.gil_waiting * 100 >= self.looks * MOST_STARVED
                || self.gil_waiting + 1 >= self.looks)
                && cpu * 100 <= watched * MAX_STARVED_CPU,
            is_at_one_line: stacks.len() == 1 && is_most(self.stacks.len()),
            stays_at_one_line: stacks.len() <= MAX_CALLEES
                && is_most(self.stacks.len())
                && stays_at_one_line(&self.stacks),
            asleep: (self.asleep == self.looks && wake_ups == 0).then_some(watched),
            pending: (wake_ups >= MIN_SLICES && cpu * 100 < watched * MIN_CPU)
                .then(|| self.slices.pending())
                .flatten(),
            unanswered: self.unanswered(watched).filter(|_| wake_ups >= MIN_SLICES),
            progress: ThreadProgress {
                watched,
                looks: self.looks,
                cpu: Some(cpu),
                wake_ups: Some(wake_ups),
                stacks: stacks.len(),
                received_bytes: self.received(),
                round: is_busy.then(|| find_loop(&self.stacks)).flatten(),
            },
        })
    }

    /// Bytes that came in between the first and the last look on the connections that it waits on, if these were the same.
    fn received(&self) -> Option<u64> {
        let (first, last) = (self.connections.first()?, self.connections.last()?);
        let sum = |connections: &Connections| {
            let bytes = connections.tcp.iter().map(|tcp| tcp.bytes_received);
            bytes.fold(0, u64::wrapping_add)
        };
        (first.names == last.names && !first.tcp.is_empty()).then(|| sum(last).abs_diff(sum(first)))
    }

    /// For how long nothing has come on its connections though something was asked, if it waited on the same ones at (almost) all
    /// looks: in slices, each of which ends by itself.
    fn unanswered(&self, watched: Duration) -> Option<Since> {
        let (first, last) = (self.connections.first()?, self.connections.last()?);
        let same = self.connections.iter();
        let same = same
            .filter(|connections| connections.names == first.names)
            .count();
        let is_slice = |connections: &Connections| {
            let timeout = connections.timeout;
            timeout.is_some_and(|timeout| timeout <= watched)
        };
        if !self.connections.iter().all(is_slice) {
            return None;
        }
        let is_complete = !last.tcp.is_empty() && last.tcp.len() == last.names.len();
        if same * 100 < self.looks * MOST || !is_complete || self.received() != Some(0) {
            return None;
        }
        let is_owed = TcpTimes::is_answer_due;
        if !last.tcp.iter().all(is_owed) {
            return None;
        }
        // Who goes on sending does not wait for an answer.
        let asked = |tcp: &TcpTimes| Duration::from_millis(u64::from(tcp.last_data_sent_ms));
        if last.tcp.iter().any(|tcp| asked(tcp) < watched) {
            return None;
        }
        Some(Since {
            elapsed: last.tcp.iter().map(asked).min()?,
            error: Duration::from_millis(10),
            source: SinceSource::Tcp,
        })
    }
}

impl Observed {
    /// What was seen of a thread.
    pub fn thread(&self, key: ThreadRef) -> Option<&Seen> {
        self.threads.get(&key)
    }

    /// Adds the connections that a process has at the end.
    pub fn add_connections(&mut self, pid: Pid, connections: Vec<Socket>) {
        self.connections.insert(pid, connections);
    }

    /// The connections on which a process has sent or received something while it was watched, or that it was making at the end.
    pub fn busy_connections(&self, pid: Pid) -> Vec<&Socket> {
        let watched = self.process(pid).map(|process| process.watched);
        let is_busy = |socket: &&Socket| {
            let moved = socket.tcp.zip(watched).is_some_and(|(tcp, watched)| {
                let last = tcp.last_data_sent_ms.min(tcp.last_data_recv_ms);
                Duration::from_millis(u64::from(last)) <= watched
            });
            moved || socket.state == "SYN_SENT"
        };
        let all = self.connections.get(&pid).map(Vec::as_slice);
        all.unwrap_or_default().iter().filter(is_busy).collect()
    }

    /// What was seen of all threads.
    pub fn threads(&self) -> impl Iterator<Item = &Seen> {
        self.threads.values()
    }

    /// What was seen of a process.
    pub fn process(&self, pid: Pid) -> Option<ProcessProgress> {
        self.processes.get(&pid).copied()
    }

    /// Whether a thread goes round a loop without getting anywhere: it never waits, its variables stay what they are, and its process
    /// neither reads nor writes. A loop in a single line looks like C code that computes: it has `threshold` to come to an end.
    pub fn is_spinning(&self, key: ThreadRef, threshold: Duration) -> bool {
        let Some(seen) = self.thread(key).filter(|seen| seen.is_busy) else {
            return false;
        };
        // What only counts may be a long computation: it has `threshold` to come to an end, too.
        let stays = |round: &crate::model::Loop| {
            round.changes == Some(false)
                || (round.only_counts && seen.progress.watched >= threshold)
        };
        let goes_round = seen.progress.round.as_ref().is_some_and(stays);
        let stays_there = seen.stays_at_one_line && seen.progress.watched >= threshold;
        (goes_round || stays_there) && self.is_mute(key.pid)
    }

    /// Whether a process has neither read nor written anything, as far as that is counted.
    pub fn is_mute(&self, pid: Pid) -> bool {
        let process = self.process(pid);
        process.is_some_and(|process| {
            process.read_bytes == Some(0)
                && process.written_bytes == Some(0)
                && process.keeps_sockets == Some(true)
        })
    }
}

/// Whether a thread is worth watching, which for itself is said to work: it runs, or starves, or waits in slices for a peer that has
/// owed it an answer for as long as `threshold`.
pub fn is_worth_watching(thread: &ThreadSnapshot, threshold: Duration, window: Duration) -> bool {
    if thread.interpreter.is_none() {
        return false;
    }
    if thread.state == SchedState::Running || thread.gil == Gil::Waiting {
        return true;
    }
    let Some(wait) = thread.wait.as_ref().filter(|wait| wait.timeout.is_some()) else {
        return false;
    };
    // What ends soon by itself may be begun anew each time: only watching shows the wait that these slices make up.
    let longest = MAX_SLICE.max(window / SLICES_OF_WINDOW);
    if wait.timeout.is_some_and(|timeout| timeout <= longest) {
        return true;
    }
    let is_late = |tcp: TcpTimes| {
        let silent = Duration::from_millis(u64::from(tcp.last_data_recv_ms));
        tcp.is_answer_due() && silent >= threshold
    };
    let peers = peers_of(wait).unwrap_or_default();
    !peers.is_empty()
        && peers
            .iter()
            .all(|peer| wait_for_peer(peer) && peer.tcp.is_some_and(is_late))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testing::{asked, at, process, receiver, thread};

    /// What is said of a thread that was looked at each 100 ms, as it was the n-th time.
    fn observe(looks: usize, thread: impl Fn(usize) -> ThreadSnapshot) -> Observed {
        let mut observer = Observer::default();
        for number in 0..looks {
            let time = Duration::from_millis(100 * number as u64);
            let mut seen = thread(number);
            seen.counts.get_or_insert(ThreadCounts {
                cpu: time,
                runs: number as u64,
            });
            let mut processes = [process(1, vec![seen])];
            processes[0].counts = ProcessCounts {
                read_bytes: Some(5),
                written_bytes: Some(5),
                sockets: Some(1),
                throttled: None,
            };
            let moment = Moment {
                elapsed: time,
                ..Moment::default()
            };
            observer.see(&processes, moment);
        }
        observer.finish()
    }

    fn running(line: u32) -> ThreadSnapshot {
        let mut thread = thread(7, WaitKind::Sleep, 0);
        thread.state = SchedState::Running;
        thread.wait = None;
        thread.frames = vec![Arc::new(Frame {
            line: Some(line),
            kind: crate::model::FrameKind::Python,
            locals: Some([].into()),
            ..Frame::marker("loop")
        })];
        thread
    }

    #[test]
    fn a_loop_without_a_sleep_spins() {
        let observed = observe(20, |number| running(1 + number as u32 % 3));
        assert!(observed.is_spinning(at(1, 7), Duration::from_secs(1)));
        let seen = observed.thread(at(1, 7)).unwrap();
        assert_eq!(
            (seen.progress.looks, seen.progress.stacks, seen.is_busy),
            (20, 3, true)
        );
        assert!(!seen.is_at_one_line);
    }

    #[test]
    fn a_single_line_has_as_long_as_the_threshold() {
        let observed = observe(20, |_| running(1));
        assert!(!observed.is_spinning(at(1, 7), Duration::from_secs(30)));
        assert!(observed.is_spinning(at(1, 7), Duration::from_secs(1)));
        assert!(observed.thread(at(1, 7)).unwrap().is_at_one_line);
    }

    #[test]
    fn what_sleeps_now_and_then_does_not() {
        let observed = observe(20, |number| match number % 4 {
            0 => thread(7, WaitKind::Sleep, 0),
            _ => running(1 + number as u32 % 3),
        });
        assert!(!observed.is_spinning(at(1, 7), Duration::from_secs(1)));
    }

    #[test]
    fn a_few_looks_say_nothing() {
        let observed = observe(MIN_LOOKS - 1, |number| running(1 + number as u32 % 2));
        assert_eq!(observed.thread(at(1, 7)), None);
    }

    /// A receiver that wakes all the time; `change` says what TCP counts at the n-th look.
    fn slices(change: impl Fn(usize, &mut TcpTimes)) -> Option<Since> {
        let observed = observe(10, |number| {
            let mut thread = asked(receiver(0), 552);
            thread.wait.as_mut().unwrap().timeout = Some(Duration::from_millis(50));
            let resource = thread.wait.as_mut().unwrap().resource.as_mut().unwrap();
            change(number, resource.tcp.as_mut().unwrap());
            thread
        });
        observed.thread(at(1, 7)).unwrap().unanswered
    }

    #[test]
    fn slices_without_an_answer() {
        let since = slices(|_, _| {}).unwrap();
        assert_eq!(since.elapsed, Duration::from_millis(552_010));
        // Who goes on sending does not wait for an answer.
        assert_eq!(slices(|_, tcp| tcp.last_data_sent_ms = 50), None);
        assert_eq!(
            slices(|number, tcp| tcp.bytes_received = number as u64),
            None
        );
        let answered = |_: usize, tcp: &mut TcpTimes| {
            tcp.bytes_received = 5;
            tcp.last_data_recv_ms = 7;
        };
        assert_eq!(slices(answered), None);
    }

    #[test]
    fn a_sleeper_is_seen_asleep() {
        let still = |number: usize, runs: usize| {
            let mut thread = thread(7, WaitKind::PipeRead, 0);
            thread.counts = Some(ThreadCounts {
                cpu: Duration::ZERO,
                runs: (number * runs) as u64,
            });
            thread
        };
        let asleep = |runs| {
            let observed = observe(5, |number| still(number, runs));
            observed.thread(at(1, 7)).unwrap().asleep
        };
        assert_eq!(asleep(0), Some(Duration::from_millis(400)));
        assert_eq!(asleep(1), None);
    }

    #[test]
    fn a_call_that_wakes_now_and_then_is_pending() {
        let at_line = |cpu: u64| {
            observe(10, |number| {
                let mut thread = asked(receiver(0), 552);
                thread.counts = Some(ThreadCounts {
                    cpu: Duration::from_millis(cpu * number as u64),
                    runs: number as u64,
                });
                thread.frames = running(1 + number as u32 % 3).frames;
                thread
            })
        };
        let pending = |cpu| at_line(cpu).thread(at(1, 7)).unwrap().pending.clone();
        assert_eq!(&*pending(1).unwrap().calls[0].function, "loop");
        // Who computes in between is not waiting.
        assert_eq!(pending(50), None);
    }

    #[test]
    fn who_is_worth_watching() {
        let threshold = Duration::from_secs(30);
        let window = Duration::from_secs(2);
        assert!(is_worth_watching(&running(1), threshold, window));
        let mut slice = asked(receiver(0), 552);
        assert!(!is_worth_watching(&slice, threshold, window));
        slice.wait.as_mut().unwrap().timeout = Some(Duration::from_millis(50));
        assert!(is_worth_watching(&slice, threshold, window));
        // A longer one is a wait in slices only if its peer has been late for long.
        slice.wait.as_mut().unwrap().timeout = Some(Duration::from_secs(20));
        assert!(is_worth_watching(&slice, threshold, window));
        assert!(!is_worth_watching(
            &slice,
            Duration::from_secs(3600),
            window
        ));
        assert!(!is_worth_watching(
            &thread(7, WaitKind::Sleep, 0),
            threshold,
            window
        ));
    }
}
