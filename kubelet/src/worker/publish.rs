//! Telling the API how the pod is.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};

use super::reports::Report;
use super::state::Worker;
use crate::pod::memory::Volumes;
use crate::pod::patch;
use crate::pod::status::{Inputs, generate};

impl Worker {
    /// Makes the status; writes it when it says something new.
    pub(super) fn publish(&mut self, now: Timestamp) {
        if self.stale && self.memory.volumes == Volumes::Ready && !self.refreshing {
            self.refresh_volumes();
        }
        if self.renew_at.is_some_and(|at| at <= now)
            && self.memory.volumes == Volumes::Ready
            && !self.refreshing
        {
            self.refresh_volumes();
        }
        let ended = self.ended();
        if !self.blind && !self.orphan {
            let host_ips = self.context.facts.read().host_ips.clone();
            let status = generate(&Inputs {
                pod: &self.pod,
                observed: &self.observed,
                memory: &self.memory,
                host_ips: &host_ips,
                ended,
                now,
            });
            self.measure(&status);
            self.status = Some(status);
        }
        self.list(!ended);
        if !self.gone && !self.orphan {
            self.write(now);
        }
    }

    /// Once, when the pod's containers run for the first time.
    fn measure(&mut self, status: &PodStatus) {
        if !self.start_measured && status.phase.as_deref() == Some("Running") {
            self.start_measured = true;
            self.context
                .metrics
                .observe_start(self.first_seen.elapsed(), self.runtime_time);
        }
    }

    fn write(&mut self, now: Timestamp) {
        let Some(status) = &self.status else { return };
        if self.patching || self.patch_at.is_some_and(|at| now < at) {
            return;
        }
        let uid = match &self.mirror {
            Some(mirror) => mirror.as_str(),
            None if self.is_static => return,
            None => &self.uid,
        };
        let patch = patch::between(&self.pod, uid, status);
        let patch = patch.filter(|patch| !self.is_answered(patch, now));
        self.patch_at = None;
        let Some(patch) = patch else {
            self.delete_when_over();
            return;
        };
        self.patching = true;
        self.sent = Some((patch.clone(), now));
        let api = self.api();
        let name = self.pod.metadata.name.clone().unwrap_or_default();
        self.act(async move {
            let params = PatchParams::default();
            let patched = api
                .patch_status(&name, &params, &Patch::Strategic(&patch))
                .await;
            Report::Patched(patched.map(Box::new))
        });
    }

    /// Whether the same was written just now: a server that keeps it in other words is not
    /// told again and again.
    fn is_answered(&self, patch: &serde_json::Value, now: Timestamp) -> bool {
        self.sent.as_ref().is_some_and(|(sent, at)| {
            sent == patch && self.patch_failures == 0 && now.duration_since(*at).as_secs() < 10
        })
    }

    fn api(&self) -> Api<Pod> {
        let namespace = self.pod.metadata.namespace.clone().unwrap_or_default();
        Api::namespaced(self.context.client.clone(), &namespace)
    }

    pub(super) fn patched(&mut self, result: Result<Box<Pod>, kube::Error>, now: Timestamp) {
        self.patching = false;
        match result {
            Ok(pod) => {
                self.patch_failures = 0;
                let uid = pod.metadata.uid.as_deref();
                if self.mirror.is_some() && uid == self.mirror.as_deref() {
                    self.take_mirror(Some(std::sync::Arc::from(pod)));
                } else if uid == Some(self.uid.as_str()) {
                    self.take(super::Message::Pod(std::sync::Arc::from(pod)));
                }
            }
            // The pod is gone, or another has its name: the watch brings that, too.
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {
                self.sent = None;
                self.patch_at = Some(now + SignedDuration::from_secs(1));
            }
            Err(error) => {
                self.patch_failures += 1;
                let refused = matches!(&error, kube::Error::Api(status) if status.code < 500);
                if refused && self.patch_failures == 1 {
                    tracing::warn!(uid = self.uid, %error, "the API refuses a pod's status");
                }
                tracing::debug!(uid = self.uid, %error, "a pod's status was not written");
                let pause = 200_i64 << self.patch_failures.min(6);
                self.patch_at = Some(now + SignedDuration::from_millis(pause));
            }
        }
    }

    /// A deleted pod goes from the API when nothing of it runs, its volumes are down, and
    /// its last status has been taken.
    fn delete_when_over(&mut self) {
        let deleted = self.pod.metadata.deletion_timestamp.is_some();
        let finalizers = self
            .pod
            .metadata
            .finalizers
            .as_ref()
            .is_some_and(|list| !list.is_empty());
        let down = self.memory.volumes == Volumes::Gone;
        if !deleted || !down || !self.ended() || self.deleting || self.is_static {
            return;
        }
        // With finalizers the deletion is left to whoever holds the pod; ours must still be
        // asked for, so that grace is over for the API as well.
        let over = finalizers && self.pod.metadata.deletion_grace_period_seconds == Some(0);
        if over {
            return;
        }
        self.deleting = true;
        let api = self.api();
        let name = self.pod.metadata.name.clone().unwrap_or_default();
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: Some(self.uid.clone()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        self.act(async move { Report::Deleted(api.delete(&name, &params).await.map(drop)) });
    }

    pub(super) fn deleted(&mut self, result: Result<(), kube::Error>, now: Timestamp) {
        match result {
            // `deleting` stays: the watch will tell.
            Ok(()) => {}
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {}
            Err(error) => {
                tracing::debug!(uid = self.uid, %error, "a pod was not deleted");
                self.deleting = false;
                self.patch_at = Some(now + SignedDuration::from_secs(1));
            }
        }
    }
}
