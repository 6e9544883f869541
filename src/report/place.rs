//! Where a process runs, in words.

use super::sanitize::Shown;
use crate::model::Container;

/// The container with its engine and its pod, as far as they are known.
pub fn container_words(container: &Container) -> String {
    let engine = container.engine.map(|engine| format!(" ({engine})"));
    let pod = container
        .pod_uid
        .as_ref()
        .map(|uid| format!(" of pod {uid}"));
    format!(
        "in container {}{}{}",
        Shown(container.short_id()),
        engine.unwrap_or_default(),
        Shown(&pod.unwrap_or_default())
    )
}
