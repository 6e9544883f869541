//! Whether the cgroup of a target is frozen: by the freezer of version 1, or by `cgroup.freeze` of version 2.

use std::path::Path;

use crate::sys::procfile::ProcDir;

/// Where the hierarchies are mounted on every usual system, the newer one beside the older ones too.
const UNIFIED: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
const FREEZER: &str = "/sys/fs/cgroup/freezer";

/// The cgroup of the target that is frozen, if one is. One whose files are not to be seen from here is not known to be.
pub fn find_frozen(proc: &ProcDir) -> Option<String> {
    let bytes = proc.read_record("cgroup").ok()?;
    let text = String::from_utf8_lossy(&bytes);
    text.lines().find_map(|line| {
        let (group, is_unified) = parse_membership(line)?;
        let is_frozen = if is_unified {
            UNIFIED.iter().any(|root| {
                read(root, &group, "cgroup.events").is_some_and(|events| says_frozen(&events))
            })
        } else {
            // FREEZING lasts while some of its threads can't be frozen.
            read(FREEZER, &group, "freezer.state").is_some_and(|state| state.trim() != "THAWED")
        };
        is_frozen.then_some(group)
    })
}

/// The group of a line of `/proc/PID/cgroup` that can be frozen, and whether it is of version 2. One outside the root of our
/// cgroup namespace shows as `/../…`: its files can't be seen.
fn parse_membership(line: &str) -> Option<(String, bool)> {
    let mut parts = line.splitn(3, ':');
    let (number, controllers, group) = (parts.next()?, parts.next()?, parts.next()?);
    let is_unified = number == "0" && controllers.is_empty();
    let is_freezer = controllers.split(',').any(|name| name == "freezer");
    let is_visible = group.starts_with('/') && !group.split('/').any(|part| part == "..");
    (is_visible && (is_unified || is_freezer)).then(|| (group.to_owned(), is_unified))
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
        assert_eq!(parse_membership("0::/a/b"), Some(("/a/b".to_owned(), true)));
        assert_eq!(
            parse_membership("7:freezer:/x:y"),
            Some(("/x:y".to_owned(), false))
        );
        assert_eq!(parse_membership("3:cpu,cpuacct:/x"), None);
        assert_eq!(parse_membership("0::/../other"), None);
        assert_eq!(parse_membership("rubbish"), None);
        assert!(says_frozen("populated 1\nfrozen 1\n") && !says_frozen("frozen 0\n"));
    }

    #[test]
    fn we_are_not_frozen() {
        assert_eq!(find_frozen(&ProcDir::open(Pid::own()).unwrap()), None);
    }
}
