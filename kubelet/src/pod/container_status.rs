//! The status of one container in the words of the API.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, ContainerUser, LinuxContainerUser, Pod, ResourceRequirements,
    VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::containers::{Kind, Spec};
use super::memory::{Memory, Waiting};
use super::observed::{Exit, Observed, Record, State};
use super::phase::Stage;

/// Whole seconds, as the API keeps times.
pub(super) fn time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

/// The runtime's name goes before the id, as upstream.
const SCHEME: &str = "containerd://";

/// A container id as the API has it.
pub fn qualified(id: &str) -> String {
    format!("{SCHEME}{id}")
}

/// The id without the runtime's name.
pub fn unqualified(id: &str) -> &str {
    id.split_once("://").map_or(id, |(_, id)| id)
}

pub(super) struct Context<'a> {
    pub pod: &'a Pod,
    pub observed: &'a Observed,
    pub memory: &'a Memory,
    pub stage: Stage,
}

impl Context<'_> {
    pub(super) fn status(&self, spec: &Spec<'_>) -> ContainerStatus {
        let record = self.observed.newest(spec.name());
        let mut status = ContainerStatus {
            name: spec.name().to_owned(),
            image: spec.container.image.clone().unwrap_or_default(),
            ..ContainerStatus::default()
        };
        let Some(record) = record else {
            return self.absent(spec, status);
        };
        self.describe(spec, record, &mut status);
        let waits = match &record.state {
            State::Exited(_) if self.stage == Stage::Alive => {
                // What is made anew never counts as ended: the API takes no end back.
                let renewed = self.memory.replace.contains(spec.name());
                let waiting = self.memory.waiting.get(spec.name()).cloned();
                waiting.or_else(|| renewed.then(|| Waiting::new("ContainerCreating", "")))
            }
            _ => None,
        };
        status.last_state = match (&waits, record.exit()) {
            (Some(_), Some(exit)) => Some(self.terminated(record, exit)),
            _ => self.last_state(record),
        };
        status.state = Some(match (waits, &record.state) {
            (Some(waiting), _) => waiting_state(waiting),
            (None, State::Running { started_at }) => running_state(*started_at),
            (None, State::Exited(exit)) => self.terminated(record, exit),
            (None, State::Created | State::Unknown) => waiting_state(self.creating(spec)),
        });
        status
    }

    /// What every container of which there is a record has.
    fn describe(&self, spec: &Spec<'_>, record: &Record, status: &mut ContainerStatus) {
        let started = record.is_running() && self.memory.is_started(&record.id);
        let ready = match spec.kind {
            Kind::Init => record.exit().is_some_and(|exit| exit.exit_code == 0),
            Kind::Ephemeral => false,
            Kind::Main | Kind::Sidecar => {
                started
                    && self
                        .memory
                        .probed
                        .get(&record.id)
                        .is_some_and(|probed| probed.ready)
            }
        };
        status.ready = ready;
        status.started = Some(started);
        status.restart_count = i32::try_from(record.attempt).unwrap_or(i32::MAX);
        status.container_id = Some(qualified(&record.id));
        if !record.image.is_empty() {
            status.image.clone_from(&record.image);
        }
        status.image_id.clone_from(&record.image_ref);
        status.stop_signal.clone_from(&record.stop_signal);
        status.user = record.user.as_ref().map(|user| ContainerUser {
            linux: Some(LinuxContainerUser {
                uid: user.uid,
                gid: user.gid,
                supplemental_groups: Some(user.supplemental_groups.clone()),
            }),
        });
        if record.is_alive() && spec.kind != Kind::Ephemeral {
            let given = self.memory.allocated.get(spec.name()).cloned();
            let given = given.or_else(|| spec.container.resources.clone());
            status.allocated_resources = given.as_ref().and_then(|given| given.requests.clone());
            let is_set = |given: &ResourceRequirements| given != &ResourceRequirements::default();
            status.resources = Some(given.filter(is_set).unwrap_or_default());
        }
        status.volume_mounts = mounts(spec);
    }

    /// No container yet, or none any more.
    fn absent(&self, spec: &Spec<'_>, mut status: ContainerStatus) -> ContainerStatus {
        status.started = Some(false);
        status.volume_mounts = mounts(spec);
        let before = self.before(spec);
        if let Some(before) = before.filter(|before| before.container_id.is_some()) {
            // It was there and has been removed: what the API last knew is the truth.
            let mut kept = before.clone();
            kept.ready &= spec.kind == Kind::Init;
            kept.started = Some(false);
            let ended = kept
                .state
                .as_ref()
                .is_some_and(|state| state.terminated.is_some());
            if !ended {
                let message = "The container could not be located when the pod was terminated";
                let lost = lost(message, kept.container_id.clone());
                if self.stage == Stage::Ended {
                    kept.state = Some(lost);
                } else {
                    kept.last_state = Some(lost);
                    kept.state = Some(waiting_state(self.creating(spec)));
                }
            }
            return kept;
        }
        status.state = Some(waiting_state(
            self.memory
                .waiting
                .get(spec.name())
                .cloned()
                .unwrap_or_else(|| self.creating(spec)),
        ));
        status
    }

    fn before(&self, spec: &Spec<'_>) -> Option<&ContainerStatus> {
        let status = self.pod.status.as_ref()?;
        let list = match spec.kind {
            Kind::Init | Kind::Sidecar => &status.init_container_statuses,
            Kind::Main => &status.container_statuses,
            Kind::Ephemeral => &status.ephemeral_container_statuses,
        };
        list.as_ref()?
            .iter()
            .find(|status| status.name == spec.name())
    }

    fn creating(&self, spec: &Spec<'_>) -> Waiting {
        let has_init = !super::containers::init(self.pod).is_empty();
        let initializing = has_init && spec.kind != Kind::Ephemeral;
        Waiting::new(
            if initializing {
                "PodInitializing"
            } else {
                "ContainerCreating"
            },
            "",
        )
    }

    fn last_state(&self, record: &Record) -> Option<ContainerState> {
        let previous = self.observed.previous(&record.name)?;
        Some(self.terminated(previous, previous.exit()?))
    }

    fn terminated(&self, record: &Record, exit: &Exit) -> ContainerState {
        let words = self
            .memory
            .last_words
            .get(&record.id)
            .cloned()
            .unwrap_or_default();
        let message = if words.is_empty() {
            exit.message.clone()
        } else {
            words
        };
        let reason = match (exit.reason.as_str(), exit.exit_code) {
            ("", 0) => "Completed",
            ("", _) => "Error",
            (reason, _) => reason,
        };
        ContainerState {
            terminated: Some(ContainerStateTerminated {
                container_id: Some(qualified(&record.id)),
                exit_code: exit.exit_code,
                finished_at: Some(time(exit.finished_at)),
                message: Some(message).filter(|message| !message.is_empty()),
                reason: Some(reason.to_owned()),
                signal: None,
                started_at: Some(time(exit.started_at)),
            }),
            ..ContainerState::default()
        }
    }
}

fn mounts(spec: &Spec<'_>) -> Option<Vec<VolumeMountStatus>> {
    let mounts: Vec<_> = spec
        .container
        .volume_mounts
        .iter()
        .flatten()
        .map(|mount| VolumeMountStatus {
            mount_path: mount.mount_path.clone(),
            name: mount.name.clone(),
            read_only: mount.read_only.filter(|read_only| *read_only),
            recursive_read_only: mount.read_only.filter(|read_only| *read_only).map(|_| {
                mount
                    .recursive_read_only
                    .clone()
                    .unwrap_or_else(|| "Disabled".to_owned())
            }),
            volume_status: None,
        })
        .collect();
    (!mounts.is_empty()).then_some(mounts)
}

fn waiting_state(waiting: Waiting) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(waiting.reason),
            message: Some(waiting.message).filter(|message| !message.is_empty()),
        }),
        ..ContainerState::default()
    }
}

fn running_state(started_at: Timestamp) -> ContainerState {
    ContainerState {
        running: Some(ContainerStateRunning {
            started_at: Some(time(started_at)),
        }),
        ..ContainerState::default()
    }
}

/// A container whose end nobody saw counts as killed.
pub(super) fn lost(message: &str, container_id: Option<String>) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id,
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".to_owned()),
            message: Some(message.to_owned()),
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    }
}
