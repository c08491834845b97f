//! What people are told when a container begins to wait.

use events::EventType;
use k8s_openapi::api::core::v1::Pod;

use super::containers;
use super::memory::Waiting;

/// An event about a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) kind: EventType,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// The events for a container that waits now; none while it waits for the same thing still.
pub(crate) fn of_pause(
    pod: &Pod,
    container: &str,
    before: Option<&Waiting>,
    now: &Waiting,
) -> Vec<Notice> {
    if before.is_some_and(|before| before.reason == now.reason) {
        return Vec::new();
    }
    match now.reason.as_str() {
        "CrashLoopBackOff" => vec![Notice {
            kind: EventType::Warning,
            reason: "BackOff",
            message: format!(
                "Back-off restarting failed container {container} in pod {}_{}({})",
                pod.metadata.name.as_deref().unwrap_or_default(),
                pod.metadata.namespace.as_deref().unwrap_or_default(),
                pod.metadata.uid.as_deref().unwrap_or_default(),
            ),
        }],
        "ImagePullBackOff" => {
            let spec = containers::find(pod, container);
            let image = spec.and_then(|spec| spec.container.image.clone());
            vec![
                Notice {
                    kind: EventType::Normal,
                    reason: "BackOff",
                    message: format!("Back-off pulling image \"{}\"", image.unwrap_or_default()),
                },
                Notice {
                    kind: EventType::Warning,
                    reason: "Failed",
                    message: "Error: ImagePullBackOff".to_owned(),
                },
            ]
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::pod;

    #[test]
    fn a_pause_is_told_once() {
        let pod = pod(json!({"spec": {"containers": [{"name": "c", "image": "i:1"}]}}));
        let check = |before: Option<&str>, now: &str, expected: &[(&str, &str)]| {
            let before = before.map(|reason| Waiting::new(reason, ""));
            let told = of_pause(&pod, "c", before.as_ref(), &Waiting::new(now, "x"));
            let told: Vec<_> = told
                .iter()
                .map(|notice| (notice.reason, notice.message.as_str()))
                .collect();
            assert_eq!(told, expected, "{before:?} {now}");
        };
        let crash = "Back-off restarting failed container c in pod p_ns(u1)";
        check(None, "CrashLoopBackOff", &[("BackOff", crash)]);
        check(Some("CrashLoopBackOff"), "CrashLoopBackOff", &[]);
        check(None, "ContainerCreating", &[]);
        let pull = [
            ("BackOff", "Back-off pulling image \"i:1\""),
            ("Failed", "Error: ImagePullBackOff"),
        ];
        check(Some("ErrImagePull"), "ImagePullBackOff", &pull);
    }
}
