//! What the cgroup of a target does to it, by the files of version 1 or 2: whether it is frozen, and how long its CPU limit has
//! kept it from running.

use std::path::Path;
use std::time::Duration;

use crate::sys::procfile::ProcDir;

/// Where the hierarchies are mounted on every usual system, the newer one beside the older ones too.
const UNIFIED: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
const FREEZER: &str = "/sys/fs/cgroup/freezer";
const CPU: [&str; 2] = ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"];

/// Most ancestors of a cgroup that are looked at.
const MAX_LEVELS: usize = 32;

/// A line of `/proc/PID/cgroup`.
struct Membership {
    group: String,
    /// Whether it is of version 2, where the group has all controllers.
    is_unified: bool,
    /// The controllers of version 1.
    controllers: Vec<String>,
}

/// The cgroup of the target that is frozen, if one is. One whose files are not to be seen from here is not known to be.
pub fn find_frozen(proc: &ProcDir) -> Option<String> {
    memberships(proc).into_iter().find_map(|membership| {
        let is_frozen = if membership.is_unified {
            UNIFIED.iter().any(|root| {
                read(root, &membership.group, "cgroup.events")
                    .is_some_and(|events| says_frozen(&events))
            })
        } else {
            // FREEZING lasts while some of its threads can't be frozen.
            membership.has("freezer")
                && read(FREEZER, &membership.group, "freezer.state")
                    .is_some_and(|state| state.trim() != "THAWED")
        };
        is_frozen.then_some(membership.group)
    })
}

/// For how long the threads of the target's cgroup were not let run because of a CPU limit, in all, by its own `cpu.stat` or an
/// ancestor's, whichever says more (`kernel/sched/core.c::cpu_cfs_stat_show` and `cpu_extra_stat_show`, Linux 6.18). `None` where
/// no limit is set, or none is to be seen from here.
pub fn find_throttled(proc: &ProcDir) -> Option<Duration> {
    let times = memberships(proc).into_iter().flat_map(|membership| {
        let roots: &[&str] = match membership.is_unified {
            true => &UNIFIED,
            false if membership.has("cpu") => &CPU,
            false => &[],
        };
        let time_of = |root: &&str| most_throttled(root, &membership.group);
        roots.iter().filter_map(time_of).max()
    });
    times.max()
}

fn most_throttled(root: &str, group: &str) -> Option<Duration> {
    let ancestors = Path::new(group).ancestors().take(MAX_LEVELS);
    let texts = ancestors.filter_map(|group| read(root, group.to_str()?, "cpu.stat"));
    texts.filter_map(|text| parse_throttled(&text)).max()
}

/// The time in a `cpu.stat` of a group that has a limit: it counts the periods of that.
fn parse_throttled(text: &str) -> Option<Duration> {
    let number = |name: &str| {
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        value.trim().parse::<u64>().ok()
    };
    number("nr_periods").filter(|periods| *periods > 0)?;
    let microseconds = number("throttled_usec").map(Duration::from_micros);
    microseconds.or_else(|| number("throttled_time").map(Duration::from_nanos))
}

fn memberships(proc: &ProcDir) -> Vec<Membership> {
    let bytes = proc.read_record("cgroup").unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    text.lines().filter_map(parse_membership).collect()
}

/// One line. A group outside the root of our cgroup namespace shows as `/../…`: its files can't be seen.
fn parse_membership(line: &str) -> Option<Membership> {
    let mut parts = line.splitn(3, ':');
    let (number, controllers, group) = (parts.next()?, parts.next()?, parts.next()?);
    let is_visible = group.starts_with('/') && !group.split('/').any(|part| part == "..");
    is_visible.then(|| Membership {
        group: group.to_owned(),
        is_unified: number == "0" && controllers.is_empty(),
        controllers: controllers.split(',').map(str::to_owned).collect(),
    })
}

impl Membership {
    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }
}

fn says_frozen(events: &str) -> bool {
    events.lines().any(|line| line == "frozen 1")
}

fn read(root: &str, group: &str, name: &str) -> Option<String> {
    let path = Path::new(root)
        .join(group.trim_start_matches('/'))
        .join(name);
    std::fs::read_to_string(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Pid;

    #[test]
    fn lines_of_both_versions() {
        let parse = |line| {
            let membership = parse_membership(line)?;
            let known = ["freezer", "cpu"].map(|name| membership.has(name));
            Some((membership.group, membership.is_unified, known))
        };
        let group = |text: &str| text.to_owned();
        let none = [false, false];
        assert_eq!(parse("0::/a/b"), Some((group("/a/b"), true, none)));
        let freezer = Some((group("/x:y"), false, [true, false]));
        assert_eq!(parse("7:freezer:/x:y"), freezer);
        let cpu = Some((group("/x"), false, [false, true]));
        assert_eq!(parse("3:cpu,cpuacct:/x"), cpu);
        assert_eq!(parse("0::/../other"), None);
        assert_eq!(parse("rubbish"), None);
        assert!(says_frozen("populated 1\nfrozen 1\n") && !says_frozen("frozen 0\n"));
    }

    #[test]
    fn what_a_limit_took_away() {
        let first = "nr_periods 9\nnr_throttled 4\nthrottled_time 250000000\n";
        let second = "usage_usec 7\nnr_periods 9\nnr_throttled 4\nthrottled_usec 250000\n";
        let time = Some(Duration::from_millis(250));
        assert_eq!(parse_throttled(first), time);
        assert_eq!(parse_throttled(second), time);
        let without = "nr_periods 0\nnr_throttled 0\nthrottled_time 0\n";
        assert_eq!(parse_throttled(without), None);
        assert_eq!(parse_throttled("usage_usec 7\n"), None);
    }

    #[test]
    fn we_are_not_frozen() {
        assert_eq!(find_frozen(&ProcDir::open(Pid::own()).unwrap()), None);
    }
}
