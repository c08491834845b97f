//! What a pod's worker remembers between decisions, and the runtime does not know.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ResourceRequirements;

use super::backoff::Backoff;

/// Why a container waits, in the words of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub reason: String,
    pub message: String,
}

impl Waiting {
    pub fn new(reason: &str, message: impl Into<String>) -> Self {
        Self {
            reason: reason.to_owned(),
            message: message.into(),
        }
    }
}

/// Whether the pod's volumes are in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Volumes {
    #[default]
    Absent,
    Preparing,
    Ready,
    /// The last attempt failed; the next one comes at its time.
    Failed {
        retry_at: Timestamp,
    },
    /// Unmounted again, after the end of the pod.
    Gone,
}

/// What the probes found out about one running container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Probed {
    /// The startup probe has passed, or there is none.
    pub started: bool,
    /// The readiness probe passes, or there is none.
    pub ready: bool,
}

/// Why the whole pod ends before its containers do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    pub reason: String,
    pub message: String,
    /// Seconds that the containers get; the pod's own when `None`.
    pub grace: Option<i64>,
    /// A condition that tells controllers of a disruption.
    pub disrupted: bool,
}

/// A start that failed, and when it is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailedStart {
    pub at: Timestamp,
    pub retry_at: Timestamp,
    pub cause: Cause,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The image could not be had.
    Image,
    /// What the container refers to is missing or wrong, or the runtime refused it.
    Config,
}

/// A change of resources that has to wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    pub reason: String,
    pub message: String,
    pub retry_at: Timestamp,
}

/// Kept by the worker, changed by what its operations bring back.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// A sandbox is being made or containers are being started.
    pub starting: bool,
    /// A sandbox is being stopped.
    pub stopping_sandbox: bool,
    /// Containers that are being stopped, and when they are killed.
    pub stopping: BTreeMap<String, Timestamp>,
    /// Containers and sandboxes that are being removed.
    pub removing: BTreeSet<String>,
    pub volumes: Volumes,
    pub cgroups_ready: bool,
    /// Why containers wait, by container name.
    pub waiting: BTreeMap<String, Waiting>,
    /// Restarts, by container name.
    pub restarts: Backoff,
    /// Pulls, by container name.
    pub pulls: Backoff,
    /// Starts that failed before there was a container, by container name.
    pub failed_starts: BTreeMap<String, FailedStart>,
    /// When making a sandbox failed last.
    pub sandbox_failed: Option<Timestamp>,
    /// What probes say, by container id.
    pub probed: BTreeMap<String, Probed>,
    /// Running containers that have to be stopped, by id, and why.
    pub condemned: BTreeMap<String, String>,
    /// Containers, by name, that are made anew after a change whatever the restart policy.
    pub replace: BTreeSet<String>,
    /// When the definition of a container last changed.
    pub changed_at: Option<Timestamp>,
    /// Containers, by id, whose postStart hook runs.
    pub hooks: BTreeSet<String>,
    pub ending: Option<Ending>,
    /// The pod was refused before anything of it ran.
    pub rejected: bool,
    /// When the kubelet first saw the pod.
    pub started_at: Option<Timestamp>,
    /// The resources that were given to each container, by name.
    pub allocated: BTreeMap<String, ResourceRequirements>,
    /// Why a wanted change of resources does not happen, and when to look again.
    pub resize_pending: Option<Pending>,
    pub resize_error: Option<String>,
    /// The pod's cgroup is held to more than the pod's limits, since a container changes.
    pub loose_limits: bool,
    /// Last words by container id.
    pub last_words: BTreeMap<String, String>,
    /// When the sandbox was last stopped for good.
    pub sandbox_stopped: bool,
}

impl Memory {
    /// Whether some operation is under way that changes what the runtime has.
    pub fn is_busy(&self) -> bool {
        self.starting
            || self.stopping_sandbox
            || !self.stopping.is_empty()
            || self.volumes == Volumes::Preparing
    }

    pub fn is_started(&self, id: &str) -> bool {
        self.probed.get(id).is_some_and(|probed| probed.started) && !self.hooks.contains(id)
    }
}
