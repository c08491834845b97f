//! Built-in kinds that are served in two versions and stored in one.

mod autoscaling;
mod events;

use serde_json::Value;

use crate::types::Gvk;

/// A conversion that is not there.
#[derive(Debug, thiserror::Error)]
pub enum ConversionError {
    /// No pair of versions of one kind.
    #[error("no conversion of {from} to {to}")]
    Unknown {
        /// apiVersion and kind of the object.
        from: String,
        /// What was asked for.
        to: String,
    },
}

/// Group and version that a resource is stored in, where they are not its own.
pub(super) fn storage_version(group: &str, kind: &str) -> Option<(&'static str, &'static str)> {
    match (group, kind) {
        ("events.k8s.io", "Event") => Some(("", "v1")),
        ("autoscaling", "HorizontalPodAutoscaler") => Some(("autoscaling", "v2")),
        _ => None,
    }
}

/// Converts an object of a built-in kind to another of its versions; the same version is
/// left as it is.
pub fn convert(object: &mut Value, from: &Gvk, to: &Gvk) -> Result<(), ConversionError> {
    if from == to {
        return Ok(());
    }
    match (
        from.group.as_ref(),
        from.version.as_ref(),
        to.group.as_ref(),
        to.version.as_ref(),
        to.kind.as_ref(),
    ) {
        ("", "v1", "events.k8s.io", "v1", "Event") => events::core_to_events(object),
        ("events.k8s.io", "v1", "", "v1", "Event") => events::events_to_core(object),
        ("autoscaling", "v1", "autoscaling", "v2", "HorizontalPodAutoscaler") => {
            autoscaling::v1_to_v2(object)
        }
        ("autoscaling", "v2", "autoscaling", "v1", "HorizontalPodAutoscaler") => {
            autoscaling::v2_to_v1(object)
        }
        _ => {
            let name = |g: &Gvk| format!("{}, Kind={}", g.api_version(), g.kind);
            return Err(ConversionError::Unknown {
                from: name(from),
                to: name(to),
            });
        }
    }
    if let Some(map) = object.as_object_mut() {
        map.insert("apiVersion".into(), to.api_version().into());
    }
    Ok(())
}
