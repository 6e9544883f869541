//! `/proc/PID/stat` and `/proc/PID/status`, and the same files of each task: bytes to values, no I/O.

use std::time::Duration;

use crate::model::{Pid, SchedState};

/// `PF_KTHREAD`, `include/linux/sched.h` (Linux 6.18).
const PF_KTHREAD: u64 = 0x0020_0000;

/// What is used of a `stat` file (`Documentation/filesystems/proc.rst`, table 1-4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// The command name, at most 15 bytes, any bytes.
    pub comm: Vec<u8>,
    /// Field 3.
    pub state: SchedState,
    /// Field 4.
    pub ppid: Pid,
    /// Field 5, in our pid namespace.
    pub process_group: Option<i32>,
    /// Field 7: the device number of its controlling terminal, major and minor.
    pub terminal: Option<(u32, u32)>,
    /// Field 9.
    pub flags: u64,
    /// Fields 14 and 15, in clock ticks.
    pub cpu_ticks: u64,
    /// Field 22, in clock ticks since the machine started.
    pub start_ticks: u64,
    /// Field 26, zero without the right to read memory.
    pub start_code: u64,
    /// Field 28, zero without the right to read memory.
    pub start_stack: u64,
    /// Field 39: the processor it ran on last.
    pub processor: Option<u32>,
    /// Field 52, as `waitpid` gives it: zero without the right to read memory, and until it has ended.
    pub exit_status: u32,
}

impl Stat {
    /// Parses the file; `None` when it is no such file.
    pub fn parse(bytes: &[u8]) -> Option<Stat> {
        // The name may hold anything, also ") R 1": only the last parenthesis ends it.
        let open = bytes.iter().position(|byte| *byte == b'(')?;
        let close = bytes.iter().rposition(|byte| *byte == b')')?;
        let comm = bytes.get(open + 1..close)?.to_vec();
        let rest = std::str::from_utf8(bytes.get(close + 1..)?).ok()?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // The first of `fields` is the file's field 3.
        let number = |field: usize| {
            fields
                .get(field - 3)
                .and_then(|text| text.parse::<u64>().ok())
        };
        Some(Stat {
            comm,
            state: SchedState::from_letter(fields.first()?.bytes().next()?),
            ppid: Pid(fields.get(1)?.parse().ok()?),
            process_group: fields.get(2).and_then(|group| group.parse().ok()),
            terminal: fields
                .get(4)
                .and_then(|text| text.parse().ok())
                .and_then(device),
            flags: number(9)?,
            cpu_ticks: number(14)?.saturating_add(number(15)?),
            start_ticks: number(22)?,
            start_code: number(26).unwrap_or(0),
            start_stack: number(28).unwrap_or(0),
            processor: number(39).and_then(|processor| u32::try_from(processor).ok()),
            exit_status: number(52)
                .and_then(|status| u32::try_from(status).ok())
                .unwrap_or(0),
        })
    }

    /// Since the machine started.
    pub fn start_time(&self) -> Duration {
        ticks(self.start_ticks)
    }

    /// Time on a processor, in user and in kernel mode.
    pub fn cpu_time(&self) -> Duration {
        ticks(self.cpu_ticks)
    }

    /// Whether this is a thread of the kernel.
    pub fn is_kernel_thread(&self) -> bool {
        self.flags & PF_KTHREAD != 0
    }

    /// How it has ended, where that is known: `killed by SIGKILL`, `exit code 1`. That it was 0 looks the same as what may not be read.
    pub fn how_ended(&self) -> Option<String> {
        let signal = (self.exit_status & 0x7f).cast_signed();
        match (signal, self.exit_status >> 8 & 0xff) {
            (0, 0) => None,
            (0, code) => Some(format!("exit code {code}")),
            (signal, _) => Some(match nix::sys::signal::Signal::try_from(signal) {
                Ok(signal) => format!("killed by {}", signal.as_str()),
                Err(_) => format!("killed by signal {signal}"),
            }),
        }
    }

    /// What changes when the process replaces its program.
    pub fn program_stamp(&self) -> (u64, u64) {
        (self.start_code, self.start_stack)
    }
}

/// The numbers of a device as the kernel writes them in one (`include/linux/kdev_t.h::new_encode_dev`, Linux 6.18); none is 0.
fn device(encoded: i32) -> Option<(u32, u32)> {
    let encoded = encoded.cast_unsigned();
    let (major, minor) = (
        encoded >> 8 & 0xfff,
        encoded & 0xff | encoded >> 12 & 0xf_ff00,
    );
    (encoded != 0).then_some((major, minor))
}

fn ticks(count: u64) -> Duration {
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Duration::from_millis(count.saturating_mul(1000) / per_second)
}

/// The state and the processor that the thread ran on last, from a `stat` file; `None` when it is no such file.
pub fn parse_place(bytes: &[u8]) -> Option<(SchedState, Option<u32>)> {
    let close = bytes.iter().rposition(|byte| *byte == b')')?;
    let mut fields = bytes.get(close + 2..)?.split(|byte| *byte == b' ');
    // The first of `fields` is the file's field 3.
    let state = SchedState::from_letter(*fields.next()?.first()?);
    let processor = fields
        .nth(39 - 3 - 1)
        .and_then(|text| std::str::from_utf8(text).ok()?.trim_end().parse().ok());
    Some((state, processor))
}

/// Field 22 of a `stat` file, which with the number tells a process or thread from every other; `None` when it is no such file.
pub fn parse_start_ticks(bytes: &[u8]) -> Option<u64> {
    let close = bytes.iter().rposition(|byte| *byte == b')')?;
    let mut fields = bytes.get(close + 2..)?.split(|byte| *byte == b' ');
    // The first of `fields` is the file's field 3.
    std::str::from_utf8(fields.nth(22 - 3)?).ok()?.parse().ok()
}

/// What is used of a `schedstat` file (`fs/proc/base.c::proc_pid_schedstat`, Linux 6.18).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedStat {
    /// Time on a processor in nanoseconds (`se.sum_exec_runtime`): of a thread that runs, up to the last tick.
    pub cpu_nanoseconds: u64,
    /// How often it was given a processor (`sched_info.pcount`).
    pub runs: u64,
}

impl SchedStat {
    /// Parses the file; `None` when it is no such file. All zero is what kernels show that do not count.
    pub fn parse(bytes: &[u8]) -> Option<SchedStat> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut numbers = text.split_ascii_whitespace().map(str::parse::<u64>);
        let cpu_nanoseconds = numbers.next()?.ok()?;
        let runs = numbers.nth(1)?.ok()?;
        (runs > 0).then_some(SchedStat {
            cpu_nanoseconds,
            runs,
        })
    }
}

/// What is used of a `status` file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// `Tgid`: the process that a task belongs to.
    pub tgid: Option<Pid>,
    /// `TracerPid`, when not zero.
    pub tracer: Option<Pid>,
    /// `Uid`: real, effective, saved, file system.
    pub uids: Vec<u32>,
    /// `Gid`: likewise.
    pub gids: Vec<u32>,
    /// `NSpid`: its number in each pid namespace, ours first, its own last.
    pub ns_pids: Vec<i32>,
    /// `CapEff`.
    pub cap_effective: u64,
    /// `CapPrm`.
    pub cap_permitted: u64,
    /// `CapBnd`.
    pub cap_bounding: u64,
    /// `NoNewPrivs`.
    pub no_new_privs: bool,
    /// `Seccomp`: 0 off, 1 strict, 2 filter.
    pub seccomp: u8,
    /// `CoreDumping`/`VmSize` are absent for kernel threads and zombies: whether there is memory.
    pub has_memory: bool,
    /// `SigCgt`: the signals that have a handler, the lowest bit for signal 1.
    pub caught: u64,
    /// `voluntary_ctxt_switches` and `nonvoluntary_ctxt_switches`.
    pub switches: Option<Switches>,
}

/// How often a thread has left the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switches {
    /// Because it waited.
    pub voluntary: u64,
    /// Because another was let run.
    pub involuntary: u64,
}

impl Switches {
    /// All of them.
    pub fn count(self) -> u64 {
        self.voluntary.wrapping_add(self.involuntary)
    }
}

impl Status {
    /// Parses the file; what is missing keeps its default.
    pub fn parse(bytes: &[u8]) -> Status {
        let mut status = Status::default();
        let (mut voluntary, mut involuntary) = (None, None);
        for line in bytes.split(|byte| *byte == b'\n') {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else {
                continue;
            };
            let Ok(value) = std::str::from_utf8(&line[colon + 1..]) else {
                continue;
            };
            let value = value.trim();
            let hex = || u64::from_str_radix(value, 16).unwrap_or(0);
            match &line[..colon] {
                b"Tgid" => status.tgid = value.parse().ok().map(Pid),
                b"TracerPid" => status.tracer = value.parse().ok().filter(|pid| *pid != 0).map(Pid),
                b"Uid" => status.uids = numbers(value),
                b"Gid" => status.gids = numbers(value),
                b"NSpid" => status.ns_pids = numbers(value),
                b"CapEff" => status.cap_effective = hex(),
                b"CapPrm" => status.cap_permitted = hex(),
                b"CapBnd" => status.cap_bounding = hex(),
                b"SigCgt" => status.caught = hex(),
                b"NoNewPrivs" => status.no_new_privs = value == "1",
                b"Seccomp" => status.seccomp = value.parse().unwrap_or(0),
                b"VmSize" => status.has_memory = true,
                b"voluntary_ctxt_switches" => voluntary = value.parse().ok(),
                b"nonvoluntary_ctxt_switches" => involuntary = value.parse().ok(),
                _ => {}
            }
        }
        status.switches = voluntary
            .zip(involuntary)
            .map(|(voluntary, involuntary)| Switches {
                voluntary,
                involuntary,
            });
        status
    }

    /// The number that it has in its own pid namespace, if that is another one than ours.
    pub fn inner_pid(&self) -> Option<i32> {
        self.innermost_pid().filter(|_| self.ns_pids.len() > 1)
    }

    /// The number that it has in its own pid namespace.
    pub fn innermost_pid(&self) -> Option<i32> {
        self.ns_pids.last().copied()
    }
}

fn numbers<T: std::str::FromStr>(text: &str) -> Vec<T> {
    text.split_ascii_whitespace()
        .map_while(|word| word.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STAT: &[u8] = b"4242 (a) R (b) S 1 4242 4242 0 -1 4194304 100 0 0 0 12 34 0 0 20 0 3 0 987654 1000 200 \
        18446744073709551615 4194304 4198400 140722000000000 0 0 0 0 16781312 2 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n";

    #[test]
    fn a_name_with_parentheses_does_not_mislead() {
        let stat = Stat::parse(STAT).unwrap();
        assert_eq!(stat.comm, b"a) R (b");
        assert_eq!((stat.state, stat.ppid), (SchedState::Sleeping, Pid(1)));
        assert_eq!((stat.cpu_ticks, stat.start_ticks), (46, 987_654));
        assert_eq!(stat.program_stamp(), (4_194_304, 140_722_000_000_000));
        assert_eq!(stat.processor, Some(1));
        assert!(!stat.is_kernel_thread());
    }

    #[test]
    fn how_a_process_has_ended() {
        let ended = |status: u32| {
            let mut stat = Stat::parse(STAT).unwrap();
            stat.exit_status = status;
            stat.how_ended()
        };
        assert_eq!(Stat::parse(STAT).unwrap().exit_status, 0);
        assert_eq!(ended(0), None);
        assert_eq!(ended(9).as_deref(), Some("killed by SIGKILL"));
        assert_eq!(ended(11 | 0x80).as_deref(), Some("killed by SIGSEGV"));
        assert_eq!(ended(40).as_deref(), Some("killed by signal 40"));
        assert_eq!(ended(3 << 8).as_deref(), Some("exit code 3"));
    }

    #[test]
    fn a_status_file() {
        let status = Status::parse(
            b"Name:\tpython\nTgid:\t7\nTracerPid:\t0\nUid:\t1\t2\t3\t4\nNSpid:\t77\t7\nCapEff:\t00000000a80425fb\n\
              NoNewPrivs:\t1\nSeccomp:\t2\nvoluntary_ctxt_switches:\t5\nnonvoluntary_ctxt_switches:\t6\n",
        );
        assert_eq!((status.tgid, status.tracer), (Some(Pid(7)), None));
        assert_eq!(status.uids, [1, 2, 3, 4]);
        assert_eq!(status.innermost_pid(), Some(7));
        assert_eq!(status.cap_effective, 0xa804_25fb);
        assert!(status.no_new_privs && !status.has_memory);
        assert_eq!(
            status.switches,
            Some(Switches {
                voluntary: 5,
                involuntary: 6
            })
        );
    }

    #[test]
    fn the_short_way_to_state_and_processor() {
        assert_eq!(parse_place(STAT), Some((SchedState::Sleeping, Some(1))));
        assert_eq!(
            parse_place(b"1 (x) R 1\n"),
            Some((SchedState::Running, None))
        );
        assert_eq!(parse_place(b"1 (x)"), None);
        assert_eq!(parse_start_ticks(STAT), Some(987_654));
        assert_eq!(parse_start_ticks(b"1 (x) R 1"), None);
    }

    #[test]
    fn a_schedstat_file() {
        let parsed = SchedStat::parse(b"412839612 413057857 1540\n").unwrap();
        assert_eq!((parsed.cpu_nanoseconds, parsed.runs), (412_839_612, 1540));
        assert_eq!(SchedStat::parse(b"0 0 0\n"), None);
        assert_eq!(SchedStat::parse(b"1 2"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse_place(&bytes);
            let _ = parse_start_ticks(&bytes);
            let _ = SchedStat::parse(&bytes);
            let _ = Stat::parse(&bytes);
            let _ = Status::parse(&bytes);
        }
    }
}
