//! The bookkeeping of ended pods in a Job's status, step by step. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::batch::v1::{Job, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::plan::{find, is_finished};
use super::tally::{Tally, is_indexed};

/// Uids in the status at a time.
const AT_ONCE: usize = 500;

/// The status of the first write: ended pods are in it by uid, so that they are known when
/// their finalizers go. A Job is not told to be finished while any are.
pub(crate) fn first(job: &Job, tally: &Tally, planned: &JobStatus) -> JobStatus {
    let mut status = planned.clone();
    let ending = find(planned, "FailureTarget")
        .or(find(planned, "SuccessCriteriaMet"))
        .is_some();
    let kept =
        |pod: &&Arc<Pod>| ending || !tally.remembered.iter().any(|kept| Arc::ptr_eq(kept, pod));
    let mut uncounted = status.uncounted_terminated_pods.take().unwrap_or_default();
    let room = AT_ONCE
        .saturating_sub(len(&uncounted.succeeded))
        .saturating_sub(len(&uncounted.failed));
    let good = tally.new_succeeded.iter().map(|pod| (pod, true));
    let bad = tally.new_failed.iter().filter(kept).map(|pod| (pod, false));
    for (pod, good) in good.chain(bad).take(room) {
        let list = if good {
            &mut uncounted.succeeded
        } else {
            &mut uncounted.failed
        };
        list.get_or_insert_default()
            .push(pod.uid().unwrap_or_default());
    }
    if is_indexed(job) {
        let text = tally.succeeded_indexes.to_string();
        status.completed_indexes = Some(text).filter(|text| !text.is_empty());
        status.failed_indexes = tally.failed_indexes.as_ref().map(ToString::to_string);
    }
    let more = tally.new_succeeded.len() + tally.new_failed.len() > 0;
    if more || len(&uncounted.succeeded) + len(&uncounted.failed) > 0 {
        unfinished(&mut status);
    }
    status.uncounted_terminated_pods = Some(uncounted);
    status
}

fn len(list: &Option<Vec<String>>) -> usize {
    list.as_ref().map_or(0, Vec::len)
}

fn unfinished(status: &mut JobStatus) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| !matches!(condition.type_.as_str(), "Complete" | "Failed"));
    }
    status.completion_time = None;
}

/// The pods whose finalizers may go now that the status knows them.
pub(crate) fn releasable(status: &JobStatus, tally: &Tally, pods: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
    let known = known(status);
    let ended = find(status, "FailureTarget")
        .or(find(status, "SuccessCriteriaMet"))
        .is_some();
    let mut release: Vec<Arc<Pod>> = pods
        .iter()
        .filter(|pod| pod.uid().is_some_and(|uid| known.contains(&uid)))
        .cloned()
        .collect();
    let ignored = tally
        .ignored
        .iter()
        .filter(|pod| ended || !tally.remembered.iter().any(|kept| Arc::ptr_eq(kept, pod)));
    release.extend(ignored.cloned());
    release.retain(|pod| super::tally::is_tracked(pod));
    release
}

fn known(status: &JobStatus) -> BTreeSet<String> {
    let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
    let lists = [uncounted.succeeded, uncounted.failed];
    lists.into_iter().flatten().flatten().collect()
}

/// The status of the second write: pods without finalizer are numbers now. `tracked` are
/// the uids that still have it.
pub(crate) fn second(
    job: &Job,
    first: &JobStatus,
    planned: &JobStatus,
    tracked: &BTreeSet<String>,
) -> JobStatus {
    let mut status = first.clone();
    let uncounted = status.uncounted_terminated_pods.take().unwrap_or_default();
    let split = |list: Option<Vec<String>>, count: &mut Option<i32>| {
        let (left, counted): (Vec<_>, Vec<_>) = list
            .unwrap_or_default()
            .into_iter()
            .partition(|uid| tracked.contains(uid));
        let counted = i32::try_from(counted.len()).unwrap_or(i32::MAX);
        let sum = count.unwrap_or(0).saturating_add(counted);
        *count = Some(sum).filter(|sum| *sum != 0);
        Some(left).filter(|left| !left.is_empty())
    };
    let succeeded = split(uncounted.succeeded, &mut status.succeeded);
    let failed = split(uncounted.failed, &mut status.failed);
    if is_indexed(job) {
        let completions = job
            .spec
            .as_ref()
            .and_then(|spec| spec.completions)
            .unwrap_or(0);
        let text = status.completed_indexes.as_deref().unwrap_or_default();
        let total = super::indexes::Indexes::parse(text, completions).total();
        status.succeeded = Some(total).filter(|total| *total != 0);
    }
    if succeeded.is_none() && failed.is_none() && is_finished(planned) {
        status.conditions = planned.conditions.clone();
        status.completion_time = planned.completion_time.clone();
    }
    status.uncounted_terminated_pods = Some(UncountedTerminatedPods { failed, succeeded });
    status
}

/// Whether two statuses say the same; the server may leave empty lists out.
pub(crate) fn same(a: &JobStatus, b: &JobStatus) -> bool {
    let normal = |status: &JobStatus| {
        let mut status = status.clone();
        let empty = |pods: &UncountedTerminatedPods| len(&pods.succeeded) + len(&pods.failed) == 0;
        status.uncounted_terminated_pods =
            status.uncounted_terminated_pods.filter(|pods| !empty(pods));
        status.conditions = status.conditions.filter(|list| !list.is_empty());
        status
    };
    normal(a) == normal(b)
}
