//! The container that a process runs in.

use serde::Serialize;

/// The container that a process runs in, as the path of its cgroup names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Container {
    /// Its identifier, as its engine knows it.
    pub id: String,
    /// The engine that made it, if the path tells: `containerd`, `cri-o`, `docker` or `podman`.
    pub engine: Option<&'static str>,
    /// The identifier of the Kubernetes pod that it belongs to.
    pub pod_uid: Option<String>,
}

/// Characters of an identifier that engines themselves show, enough to find it by.
const SHORT: usize = 12;

impl Container {
    /// The beginning of the identifier, which engines take for the whole.
    pub fn short_id(&self) -> &str {
        self.id.get(..SHORT).unwrap_or(&self.id)
    }
}
