use std::time::Duration;

use events::EventType;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
use tokio::task::JoinError;

use super::state::Worker;
use crate::logs;
use crate::pod::announce;
use crate::pod::memory::{Cause, FailedStart, Pending, Volumes, Waiting};
use crate::pod::observed::{Observed, Record, Sandbox};
use crate::pod::probe::{ProbeKind, Probes};
use crate::probes::Answer;
use crate::volumes::ReadyVolumes;

/// What an action brings back.
#[derive(Debug)]
pub(super) enum Report {
    Volumes(Result<Prepared, (String, String)>),
    /// Volumes were brought up to date while the pod runs.
    Refreshed(Result<Prepared, (String, String)>),
    Sandbox(Result<Sandbox, String>, Duration),
    Started(Box<Record>, Duration),
    StartFailed {
        name: String,
        waiting: Waiting,
        cause: Cause,
    },
    StartsOver,
    HookBegan(String),
    HookOver {
        id: String,
        answer: Answer,
    },
    Killed {
        id: String,
        deadline: Timestamp,
    },
    SandboxStopped {
        id: String,
        result: Result<(), cri::Error>,
    },
    Removed {
        id: String,
        result: Result<(), cri::Error>,
    },
    TornDown(Result<(), String>),
    Erased(Result<(), String>),
    Probed {
        id: String,
        kind: ProbeKind,
        answer: Answer,
    },
    Resized {
        name: String,
        result: Result<ResourceRequirements, String>,
    },
    /// The pod's cgroup was held to other limits.
    Held(Result<(), String>),
    Patched(Result<Box<Pod>, kube::Error>),
    Deleted(Result<(), kube::Error>),
}

/// Volumes in place.
#[derive(Debug, Clone, Default)]
pub(super) struct Prepared {
    pub(super) volumes: ReadyVolumes,
    pub(super) renew_at: Option<Timestamp>,
}

impl Worker {
    pub(super) fn joined(&mut self, done: Result<(), JoinError>) {
        // A task that panicked has not reported: nothing may wait for it for ever.
        if let Err(error) = done
            && error.is_panic()
        {
            tracing::error!(uid = self.uid, %error, "an action of a pod's worker broke off");
            self.memory.starting = false;
            self.memory.stopping_sandbox = false;
            self.memory.stopping.clear();
            self.memory.removing.clear();
            self.patching = false;
            self.deleting = false;
            self.refreshing = false;
            if self.memory.volumes == Volumes::Preparing {
                self.memory.volumes = Volumes::Absent;
            }
            self.look = true;
        }
    }

    pub(super) async fn absorb(&mut self, report: Report) {
        let now = Timestamp::now();
        match report {
            Report::Volumes(result) => self.volumes_prepared(result, now),
            Report::Refreshed(result) => self.volumes_refreshed(result, now),
            Report::Sandbox(result, took) => self.sandbox_made(result, took, now),
            Report::Started(record, took) => {
                self.runtime_time += took;
                self.container_started(*record);
            }
            Report::StartFailed {
                name,
                waiting,
                cause,
            } => self.start_failed(name, waiting, cause, now),
            Report::StartsOver => self.memory.starting = false,
            Report::HookBegan(id) => {
                self.memory.hooks.insert(id);
            }
            Report::HookOver { id, answer } => self.hook_over(&id, answer),
            Report::Killed { id, deadline } => {
                // A second order with an earlier deadline may be under way.
                if self.memory.stopping.get(&id) == Some(&deadline) {
                    self.memory.stopping.remove(&id);
                }
                self.look = true;
            }
            Report::SandboxStopped { id, result } => self.sandbox_stopped(&id, result, now),
            Report::Removed { id, result } => self.removed(&id, result, now),
            Report::TornDown(result) => self.torn_down(result, now),
            Report::Erased(result) => match result {
                Ok(()) => self.erased = true,
                Err(error) => {
                    tracing::warn!(uid = self.uid, error, "a pod's files were not removed");
                    self.memory.removing.remove("files");
                    self.retry_erase_at = Some(now + SignedDuration::from_secs(5));
                }
            },
            Report::Probed { id, kind, answer } => self.probed(&id, kind, answer, now),
            Report::Resized { name, result } => self.resized(&name, result, now),
            Report::Held(result) => self.held(result, now),
            Report::Patched(result) => self.patched(result, now),
            Report::Deleted(result) => self.deleted(result, now),
        }
    }

    fn volumes_prepared(&mut self, result: Result<Prepared, (String, String)>, now: Timestamp) {
        match result {
            Ok(prepared) => {
                self.volumes = std::sync::Arc::new(prepared.volumes);
                self.renew_at = prepared.renew_at;
                self.memory.volumes = Volumes::Ready;
                self.memory.pulls.forget("volumes");
            }
            Err((volume, error)) => {
                self.mount_failed(&volume, &error);
                self.memory.pulls.attempt("volumes", now);
                // Mounts are retried more eagerly than crashed containers.
                let pause =
                    (self.memory.pulls.pause("volumes") / 10).min(SignedDuration::from_secs(20));
                self.memory.volumes = Volumes::Failed {
                    retry_at: now + pause,
                };
            }
        }
    }

    fn volumes_refreshed(&mut self, result: Result<Prepared, (String, String)>, now: Timestamp) {
        self.refreshing = false;
        match result {
            Ok(prepared) => {
                self.volumes = std::sync::Arc::new(prepared.volumes);
                self.renew_at = prepared.renew_at;
            }
            Err((volume, error)) => {
                self.mount_failed(&volume, &error);
                self.renew_at = Some(now + SignedDuration::from_secs(30));
            }
        }
    }

    fn mount_failed(&self, volume: &str, error: &str) {
        let message = format!("MountVolume.SetUp failed for volume \"{volume}\" : {error}");
        let (events, reason) = (&self.context.events, "FailedMount");
        events.pod(&self.pod, None, EventType::Warning, reason, message);
    }

    fn sandbox_made(&mut self, result: Result<Sandbox, String>, took: Duration, now: Timestamp) {
        self.memory.starting = false;
        self.runtime_time += took;
        match result {
            Ok(sandbox) => {
                self.memory.sandbox_failed = None;
                self.memory.sandbox_stopped = false;
                self.observed.add_sandbox(sandbox);
            }
            Err(error) => {
                let message = format!("Failed to create pod sandbox: {error}");
                let (events, reason) = (&self.context.events, "FailedCreatePodSandBox");
                events.pod(&self.pod, None, EventType::Warning, reason, message);
                self.memory.sandbox_failed = Some(now);
                self.look = true;
            }
        }
    }

    fn container_started(&mut self, record: Record) {
        let name = record.name.clone();
        self.memory.waiting.remove(&name);
        self.memory.failed_starts.remove(&name);
        self.memory.pulls.forget(&name);
        self.memory.replace.remove(&name);
        // A look at the runtime may have been quicker, and seen more.
        let seen_exited = self
            .observed
            .by_id(&record.id)
            .is_some_and(|seen| seen.exit().is_some());
        if seen_exited {
            return;
        }
        self.adopt(&record, None);
        self.tighten_limits();
        self.observed
            .containers
            .retain(|other| other.id != record.id);
        self.observed.containers.push(record);
        self.observed.sort();
        self.show_running();
    }

    /// Begins to probe a container that runs.
    fn adopt(&mut self, record: &Record, known: Option<crate::pod::memory::Probed>) {
        let Some(started_at) = record.started_at().filter(|_| record.is_running()) else {
            return;
        };
        let Some(spec) = crate::pod::containers::find(&self.pod, &record.name) else {
            return;
        };
        let probes = Probes::new(&spec.container, started_at, known);
        self.memory.probed.insert(record.id.clone(), probes.probed);
        self.probes.insert(record.id.clone(), probes);
    }

    pub(super) fn show_running(&self) {
        let names: Vec<String> = self
            .observed
            .alive()
            .map(|record| record.name.clone())
            .collect();
        self.running.send_replace(names);
    }

    fn start_failed(&mut self, name: String, waiting: Waiting, cause: Cause, now: Timestamp) {
        self.memory.pulls.attempt(&name, now);
        let retry_at = match cause {
            Cause::Image => now + self.memory.pulls.pause(&name),
            Cause::Config => {
                now + self
                    .memory
                    .pulls
                    .pause(&name)
                    .min(SignedDuration::from_secs(60))
            }
        };
        self.memory.waiting.insert(name.clone(), waiting);
        self.memory.failed_starts.insert(
            name,
            FailedStart {
                at: now,
                retry_at,
                cause,
            },
        );
        self.look = true;
    }

    /// Remembers why a container waits, and tells it once.
    pub(super) fn wait_with(&mut self, name: String, waiting: Waiting) {
        let before = self.memory.waiting.get(&name);
        for notice in announce::of_pause(&self.pod, &name, before, &waiting) {
            let (events, message) = (&self.context.events, notice.message);
            events.pod(&self.pod, Some(&name), notice.kind, notice.reason, message);
        }
        self.memory.waiting.insert(name, waiting);
    }

    fn hook_over(&mut self, id: &str, answer: Answer) {
        self.memory.hooks.remove(id);
        if let Err(error) = answer {
            let name = self
                .observed
                .by_id(id)
                .map(|record| record.name.clone())
                .unwrap_or_default();
            let message = format!("PostStartHook failed: {error}");
            let (events, reason) = (&self.context.events, "FailedPostStartHook");
            events.pod(&self.pod, Some(&name), EventType::Warning, reason, message);
            self.memory
                .condemned
                .insert(id.to_owned(), "FailedPostStartHook".to_owned());
        }
    }

    fn sandbox_stopped(&mut self, id: &str, result: Result<(), cri::Error>, now: Timestamp) {
        self.memory.stopping_sandbox = false;
        match result {
            Ok(()) => {
                self.memory.sandbox_stopped |= self.observed.sandbox().is_some_and(|s| s.id == id);
                for sandbox in self
                    .observed
                    .sandboxes
                    .iter_mut()
                    .filter(|sandbox| sandbox.id == id)
                {
                    sandbox.ready = false;
                }
                self.look = true;
            }
            Err(error) if error.is_not_found() => {
                self.observed.sandboxes.retain(|sandbox| sandbox.id != id);
                self.look = true;
            }
            Err(error) => {
                let message = format!("error killing pod: failed to stop its sandbox: {error}");
                self.context.events.pod(
                    &self.pod,
                    None,
                    EventType::Warning,
                    "FailedKillPod",
                    message,
                );
                self.pause_after_failure(now);
            }
        }
    }

    /// The runtime did not do what it was told: look again in a moment, not at once.
    fn pause_after_failure(&mut self, now: Timestamp) {
        self.blind = true;
        self.look_at = Some(now + SignedDuration::from_secs(1));
    }

    fn removed(&mut self, id: &str, result: Result<(), cri::Error>, now: Timestamp) {
        self.memory.removing.remove(id);
        match result {
            Err(error) if !error.is_not_found() => {
                tracing::debug!(uid = self.uid, id, %error, "not removed from the runtime");
                self.pause_after_failure(now);
            }
            _ => {
                self.observed.containers.retain(|record| record.id != id);
                self.observed.sandboxes.retain(|sandbox| sandbox.id != id);
                self.memory.last_words.remove(id);
                self.memory.condemned.remove(id);
            }
        }
    }

    fn torn_down(&mut self, result: Result<(), String>, now: Timestamp) {
        match result {
            Ok(()) => self.memory.volumes = Volumes::Gone,
            Err(error) => {
                tracing::warn!(uid = self.uid, error, "a pod's volumes were not taken down");
                self.memory.volumes = Volumes::Failed { retry_at: now };
                self.pause_after_failure(now);
            }
        }
    }

    fn resized(
        &mut self,
        name: &str,
        result: Result<ResourceRequirements, String>,
        now: Timestamp,
    ) {
        match result {
            Ok(given) => {
                self.memory.allocated.insert(name.to_owned(), given);
                self.memory.resize_error = None;
                self.memory.resize_pending = None;
            }
            Err(error) => {
                self.memory.resize_pending = Some(Pending {
                    reason: "Error".to_owned(),
                    message: error.clone(),
                    retry_at: now + SignedDuration::from_secs(5),
                });
                self.memory.resize_error = Some(error);
            }
        }
        self.memory.starting = false;
        self.look = true;
        self.tighten_limits();
    }

    fn held(&mut self, result: Result<(), String>, now: Timestamp) {
        if let Err(error) = result {
            tracing::warn!(uid = self.uid, error, "a pod's cgroup was not changed");
            self.memory.loose_limits = true;
            self.look_at = Some(now + SignedDuration::from_secs(5));
        }
    }

    /// Takes over what the runtime says, and looks after what has changed.
    pub(super) async fn replace_observed(&mut self, observed: Observed) {
        self.observed = observed;
        let ids: Vec<String> = self
            .observed
            .containers
            .iter()
            .map(|record| record.id.clone())
            .collect();
        let running = |id: &String| self.observed.by_id(id).is_some_and(Record::is_running);
        self.probes
            .retain(|id, _| self.observed.by_id(id).is_some_and(Record::is_running));
        self.memory.probed.retain(|id, _| ids.contains(id));
        self.memory.condemned.retain(|id, _| running(id));
        let new: Vec<Record> = self
            .observed
            .containers
            .iter()
            .filter(|record| record.is_running() && !self.probes.contains_key(&record.id))
            .cloned()
            .collect();
        for record in new {
            let known = self.known_probed(&record.id);
            self.adopt(&record, known);
        }
        self.hear_last_words().await;
        self.show_running();
    }

    async fn hear_last_words(&mut self) {
        let silent: Vec<Record> = self
            .observed
            .containers
            .iter()
            .filter(|record| {
                record.exit().is_some() && !self.memory.last_words.contains_key(&record.id)
            })
            .cloned()
            .collect();
        for record in silent {
            let failed = record.exit().is_some_and(|exit| exit.exit_code != 0);
            let message = record.termination.host_path.clone();
            let log =
                (failed && record.termination.fallback_to_logs).then(|| record.log_path.clone());
            let read = move || {
                let message = (!message.is_empty()).then_some(message.as_ref());
                logs::last_words(message, log.as_deref().map(AsRef::as_ref))
            };
            let words = tokio::task::spawn_blocking(read).await.unwrap_or_default();
            self.memory.last_words.insert(record.id, words);
        }
    }
}
