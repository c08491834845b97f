use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

/// Labels by which the kubelet finds its own again. The names are upstream's: other tools
/// look for them.
pub mod label {
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    pub const CONTAINER: &str = "io.kubernetes.container.name";
}

/// Annotations that tell a new kubelet process what it has to know of a container.
pub mod annotation {
    pub const HASH: &str = "io.kubernetes.container.hash";
    pub const RESTARTS: &str = "io.kubernetes.container.restartCount";
    pub const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
    pub const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
    pub const GRACE_PERIOD: &str = "io.kubernetes.pod.terminationGracePeriod";
}

/// Which pod something belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodIdentity {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

impl PodIdentity {
    pub fn of(pod: &Pod) -> Self {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let meta = &pod.metadata;
        Self {
            namespace: text(&meta.namespace),
            name: text(&meta.name),
            uid: text(&meta.uid),
        }
    }

    /// From the labels of a sandbox or a container; `None` for what is not a kubelet's.
    pub fn from_labels(labels: &BTreeMap<String, String>) -> Option<Self> {
        Some(Self {
            namespace: labels.get(label::POD_NAMESPACE)?.clone(),
            name: labels.get(label::POD_NAME)?.clone(),
            uid: labels.get(label::POD_UID)?.clone(),
        })
    }

    pub fn labels(&self) -> BTreeMap<String, String> {
        [
            (label::POD_NAME, &self.name),
            (label::POD_NAMESPACE, &self.namespace),
            (label::POD_UID, &self.uid),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.clone()))
        .collect()
    }
}

impl std::fmt::Display for PodIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
