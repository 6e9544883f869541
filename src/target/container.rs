//! Which container and pod a process belongs to, by the path of its cgroup.
//!
//! Engines put the container's identifier, 64 hexadecimal digits, into the last part of that path, and the kubelet puts the pod's
//! into one before it. Both have a way for each of the two drivers:
//!
//! | | cgroupfs | systemd |
//! |---|---|---|
//! | pod | `pod<uid>` | `kubepods-burstable-pod<uid with underscores>.slice` |
//! | container | `<id>` | `cri-containerd-<id>.scope`, `crio-<id>.scope`, `docker-<id>.scope`, `libpod-<id>.scope` |
//!
//! (kubelet: `pkg/kubelet/cm/cgroup_manager_linux.go`; containerd's CRI: `internal/cri/server/helpers.go::getCgroupsPath`.)

use crate::model::Container;
use crate::sys::procfile::ProcDir;

/// Digits of a container's identifier.
const ID_DIGITS: usize = 64;
/// Characters of a pod's identifier, and of that of one which the kubelet has from a file: a checksum.
const UID_LENGTH: usize = 36;
const CHECKSUM_LENGTH: usize = 32;

/// The container of the process, if the path of its cgroup names one. In a container with a cgroup namespace of its own, its own
/// path is `/`; those of its neighbours begin with `/..` and are as good.
pub fn find_container(proc: &ProcDir) -> Option<Container> {
    let bytes = proc.read_record("cgroup").ok()?;
    parse_cgroups(&String::from_utf8_lossy(&bytes))
}

/// The container in the lines of `/proc/PID/cgroup`, one for each hierarchy: `7:memory:/path`.
fn parse_cgroups(text: &str) -> Option<Container> {
    text.lines()
        .filter_map(|line| line.splitn(3, ':').nth(2))
        .find_map(parse_path)
}

/// Of containers in containers, the innermost.
fn parse_path(path: &str) -> Option<Container> {
    // containerd writes `slice:cri-containerd:id` where it is told to use systemd's names without systemd.
    let parts: Vec<&str> = path.split(['/', ':']).collect();
    let (at, (id, engine)) = parts
        .iter()
        .enumerate()
        .rev()
        .find_map(|(at, part)| Some((at, parse_container(&parts[..at], part)?)))?;
    let pod_uid = parts[..at].iter().rev().find_map(|part| parse_pod(part));
    Some(Container {
        id,
        engine,
        pod_uid,
    })
}

/// The identifier in one part of a path, and the engine that it or the part before it names.
fn parse_container(before: &[&str], part: &str) -> Option<(String, Option<&'static str>)> {
    let name = part.strip_suffix(".scope").unwrap_or(part);
    let (prefix, id) = match name.rsplit_once('-') {
        Some((prefix, id)) => (prefix, id),
        None => (before.last().copied().unwrap_or_default(), name),
    };
    // Beside a container's own group stands that of the process that watches it.
    let is_watcher = prefix.ends_with("-conmon");
    let is_id = id.len() == ID_DIGITS && id.bytes().all(|digit| digit.is_ascii_hexdigit());
    (is_id && !is_watcher).then(|| (id.to_owned(), engine(prefix)))
}

fn engine(prefix: &str) -> Option<&'static str> {
    match prefix {
        "cri-containerd" | "nerdctl" => Some("containerd"),
        "crio" => Some("cri-o"),
        "docker" => Some("docker"),
        "libpod" | "libpod_parent" => Some("podman"),
        _ => None,
    }
}

/// The identifier of a pod in one part of a path.
fn parse_pod(part: &str) -> Option<String> {
    let name = part.strip_suffix(".slice").unwrap_or(part);
    let at = match name.rfind("-pod") {
        Some(at) => at + "-pod".len(),
        None => name.starts_with("pod").then_some("pod".len())?,
    };
    let uid = name.get(at..)?.replace('_', "-");
    let is_uid = matches!(uid.len(), UID_LENGTH | CHECKSUM_LENGTH)
        && uid
            .bytes()
            .all(|letter| letter.is_ascii_hexdigit() || letter == b'-');
    is_uid.then_some(uid)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "3f2a9c4be1d07a5566f0b1c2d3e4f5061728394a5b6c7d8e9f00112233445566";
    const UID: &str = "0f9f8b3e-6b8e-4c7e-9d2b-6a3f2f1b1c11";

    /// The engine and the pod, where the path has the one container that is meant; `#` stands for its identifier, `@` and `%` for
    /// those of its pod as the two drivers write it.
    fn parsed(path: &str) -> Option<(Option<&'static str>, Option<String>)> {
        let path = path.replace('#', ID).replace('@', UID);
        let path = path.replace('%', &UID.replace('-', "_"));
        let container = parse_cgroups(&format!("0::{path}\n"))?;
        assert_eq!(container.id, ID);
        assert_eq!(container.short_id(), "3f2a9c4be1d0");
        Some((container.engine, container.pod_uid))
    }

    #[test]
    fn in_pods_with_each_engine_and_driver() {
        let nested = format!(
            "/docker/{}/kubelet.slice/kubelet-kubepods-pod%.slice/cri-containerd-#.scope",
            "0".repeat(64)
        );
        for (path, engine) in [
            ("/kubepods/burstable/pod@/#", None),
            ("/kubepods/pod@/#", None),
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod%.slice/cri-containerd-#.scope",
                Some("containerd"),
            ),
            (
                "/kubepods.slice/kubepods-pod%.slice/crio-#.scope/container",
                Some("cri-o"),
            ),
            (
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod%.slice/docker-#.scope",
                Some("docker"),
            ),
            (
                "/system.slice/containerd.service/kubepods-burstable-pod%.slice:cri-containerd:#",
                Some("containerd"),
            ),
            // A cluster whose nodes are containers.
            (nested.as_str(), Some("containerd")),
        ] {
            assert_eq!(parsed(path), Some((engine, Some(UID.to_owned()))), "{path}");
        }
        // A pod that the kubelet has from a file.
        let checksum = "0123456789abcdef0123456789abcdef";
        assert_eq!(
            parsed(&format!("/kubepods/burstable/pod{checksum}/#")),
            Some((None, Some(checksum.to_owned())))
        );
    }

    #[test]
    fn outside_of_pods() {
        for (path, engine) in [
            // What a container in a cgroup namespace of its own sees of its neighbour.
            ("/../cri-containerd-#.scope", Some("containerd")),
            ("/docker/#", Some("docker")),
            ("/system.slice/docker-#.scope", Some("docker")),
            ("/machine.slice/libpod-#.scope/container", Some("podman")),
            (
                "/user.slice/user-1000.slice/user.slice/libpod-#.scope",
                Some("podman"),
            ),
            ("/default/#", None),
        ] {
            assert_eq!(parsed(path), Some((engine, None)), "{path}");
        }
    }

    #[test]
    fn what_is_no_container() {
        for path in [
            "/",
            "/user.slice/user-0.slice/session-4.scope",
            "/system.slice/cron.service",
            "/machine.slice/libpod-conmon-#.scope",
            "/kubepods/burstable/pod@",
            "/system.slice/crio-conmon-#.scope",
        ] {
            assert_eq!(parsed(path), None, "{path}");
        }
        assert_eq!(parse_cgroups("rubbish\n::\n"), None);
    }

    #[test]
    fn of_both_versions_whichever_line_names_it() {
        let text = format!("12:cpuset:/\n4:memory:/docker/{ID}\n0::/\n");
        assert_eq!(
            parse_cgroups(&text).and_then(|found| found.engine),
            Some("docker")
        );
    }

    proptest! {
        #[test]
        fn any_text_is_taken(text in any::<String>()) {
            parse_cgroups(&text);
            parse_pod(&text);
        }
    }
}
