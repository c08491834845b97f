//! Counts a Job's pods. A pod that has ended is counted exactly once: while it has the
//! tracking finalizer it cannot disappear, its uid goes to the status first, then the
//! finalizer goes, then the uid becomes a number.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::indexes::Indexes;
use super::policy::{self, Action, failures_before, index};
use crate::framework::pods::{is_active, is_ready, is_terminal, is_terminating, phase};

pub(crate) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";

pub(crate) fn spec(job: &Job) -> JobSpec {
    job.spec.clone().unwrap_or_default()
}

pub(crate) fn is_indexed(job: &Job) -> bool {
    job.spec
        .as_ref()
        .and_then(|spec| spec.completion_mode.as_deref())
        == Some("Indexed")
}

/// Whether a pod is replaced only when it has ended, not already when it is deleted.
pub(crate) fn replaces_only_failed(job: &Job) -> bool {
    let spec = job.spec.as_ref();
    let policy = spec.and_then(|spec| spec.pod_replacement_policy.as_deref());
    policy == Some("Failed") || spec.is_some_and(|spec| spec.pod_failure_policy.is_some())
}

pub(crate) fn is_tracked(pod: &Pod) -> bool {
    pod.finalizers()
        .iter()
        .any(|finalizer| finalizer == FINALIZER)
}

/// When a pod ended, as well as one can tell.
pub(crate) fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    let containers = status.container_statuses.iter().flatten();
    let ends = containers.filter_map(|container| {
        let ended = container.state.as_ref()?.terminated.as_ref()?;
        ended.finished_at.as_ref().map(|time| time.0)
    });
    let deleted = pod.metadata.deletion_timestamp.as_ref().map(|time| time.0);
    let turned = status
        .conditions
        .iter()
        .flatten()
        .filter(|c| c.type_ == "Ready");
    let turned = turned.filter_map(|c| c.last_transition_time.as_ref().map(|time| time.0));
    ends.max().or(deleted).or_else(|| turned.max())
}

/// A Job's pods, sorted and counted.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub active: Vec<Arc<Pod>>,
    pub ready: i32,
    pub terminating: i32,
    pub terminating_indexes: Indexes,
    /// Ended well, not in the status yet.
    pub new_succeeded: Vec<Arc<Pod>>,
    /// Ended badly, not in the status yet.
    pub new_failed: Vec<Arc<Pod>>,
    /// Ended badly, but the failure policy does not count it.
    pub ignored: Vec<Arc<Pod>>,
    pub succeeded: i32,
    pub failed: i32,
    pub succeeded_indexes: Indexes,
    pub failed_indexes: Option<Indexes>,
    /// The last failed pod of each index that is to be tried again: it remembers how often.
    pub remembered: Vec<Arc<Pod>>,
    /// Why the failure policy fails the whole Job.
    pub fail_job: Option<String>,
}

fn uids(list: Option<&Vec<String>>) -> BTreeSet<String> {
    list.into_iter().flatten().cloned().collect()
}

pub(crate) fn count(job: &Job, pods: &[Arc<Pod>]) -> Tally {
    let status = job.status.clone().unwrap_or_default();
    let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
    let (told_good, told_bad) = (
        uids(uncounted.succeeded.as_ref()),
        uids(uncounted.failed.as_ref()),
    );
    let patient = replaces_only_failed(job);
    let mut tally = Tally::default();
    for pod in pods {
        let uid = pod.uid().unwrap_or_default();
        let told = told_good.contains(&uid) || told_bad.contains(&uid);
        if is_active(pod) {
            tally.ready += i32::from(is_ready(pod));
            tally.active.push(pod.clone());
        } else if is_terminating(pod) && !is_terminal(pod) {
            tally.terminating += 1;
            tally.terminating_indexes.extend(index(pod));
            if !patient && is_tracked(pod) && !told {
                tally.new_failed.push(pod.clone());
            }
        } else if is_tracked(pod) && !told {
            tally.ended(job, pod);
        }
    }
    let number = |count: Option<i32>| count.unwrap_or(0);
    let len = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    tally.succeeded =
        number(status.succeeded) + len(told_good.len()) + len(tally.new_succeeded.len());
    tally.failed = number(status.failed) + len(told_bad.len()) + len(tally.new_failed.len());
    if is_indexed(job) {
        tally.count_indexes(job, &status, pods);
    }
    tally
}

impl Tally {
    fn ended(&mut self, job: &Job, pod: &Arc<Pod>) {
        if phase(pod) == "Succeeded" {
            self.new_succeeded.push(pod.clone());
            return;
        }
        match policy::of_failed(job, pod) {
            Action::Ignore => self.ignored.push(pod.clone()),
            Action::FailJob(why) => {
                self.fail_job.get_or_insert(why);
                self.new_failed.push(pod.clone());
            }
            Action::Count | Action::FailIndex => self.new_failed.push(pod.clone()),
        }
    }

    fn count_indexes(&mut self, job: &Job, status: &JobStatus, pods: &[Arc<Pod>]) {
        let spec = spec(job);
        let completions = spec.completions.unwrap_or(0);
        let listed = |text: &Option<String>| {
            Indexes::parse(text.as_deref().unwrap_or_default(), completions)
        };
        self.succeeded_indexes = listed(&status.completed_indexes);
        let inside = |pod: &Arc<Pod>| index(pod).filter(|index| *index < completions);
        for pod in self.new_succeeded.iter() {
            if let Some(index) = inside(pod) {
                self.succeeded_indexes.insert(index);
            }
        }
        self.succeeded = self.succeeded_indexes.total();
        let Some(limit) = spec.backoff_limit_per_index else {
            return;
        };
        let mut failed = listed(&status.failed_indexes);
        for pod in &self.new_failed {
            let Some(index) = inside(pod) else { continue };
            let by_policy = is_terminal(pod) && policy::of_failed(job, pod) == Action::FailIndex;
            if by_policy || failures_before(pod) >= limit {
                failed.insert(index);
            }
        }
        for index in self.succeeded_indexes.iter() {
            failed.remove(index);
        }
        self.remember(pods, &failed);
        self.failed_indexes = Some(failed);
    }

    /// Until an index has its next pod, the last failed one is kept, for its count.
    fn remember(&mut self, pods: &[Arc<Pod>], failed: &Indexes) {
        let ended = self.new_failed.iter().chain(&self.ignored);
        for pod in ended {
            let Some(own) = index(pod) else { continue };
            let settled = failed.contains(own) || self.succeeded_indexes.contains(own);
            let newer = pods.iter().any(|other| {
                index(other) == Some(own)
                    && other.uid() != pod.uid()
                    && (is_active(other) || order(other) > order(pod))
            });
            if !settled && !newer {
                self.remembered.push(pod.clone());
            }
        }
    }
}

fn order(pod: &Pod) -> (i32, Option<Timestamp>, String) {
    let created = pod.creation_timestamp().map(|time| time.0);
    (failures_before(pod), created, pod.name_any())
}
