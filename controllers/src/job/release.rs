//! Pods that a Job holds on to no longer: whose tracking finalizer goes, and which pods are
//! nobody's although they still have it. Pure.

use std::sync::Arc;

use api_rules::selector::label_selector_matches;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::tally::{FINALIZER, is_tracked};
use crate::framework::owners;

/// Labels that name a pod's Job, the older one last.
const JOB_NAMES: [&str; 2] = ["batch.kubernetes.io/job-name", "job-name"];

/// Takes the finalizer from a pod whose end is in the books.
pub(crate) fn untracked(pod: &Pod) -> Value {
    let mut finalizers = pod.finalizers().to_vec();
    finalizers.retain(|finalizer| finalizer != FINALIZER);
    json!({"metadata": {"finalizers": finalizers}})
}

/// The same for a pod that the Job does not select any more, which is no longer its own.
pub(crate) fn disowned(pod: &Pod, job: &str) -> Value {
    let mut patch = untracked(pod);
    patch["metadata"]["ownerReferences"] = json!(owners::without_owner(pod, job));
    patch
}

/// The name of the Job that has to look after a pod which is tracked and has no controller;
/// an empty one where the pod does not tell.
pub(crate) fn guardian(pod: &Pod) -> Option<String> {
    if !is_tracked(pod) || owners::controller(pod).is_some() {
        return None;
    }
    let labels = pod.labels();
    let named = JOB_NAMES.iter().find_map(|label| labels.get(*label));
    Some(named.cloned().unwrap_or_default())
}

/// Tracked pods of a Job of this name that is gone, or that will not take them back: without
/// this nobody would ever take their finalizer away, and they could not be deleted.
pub(crate) fn abandoned(name: &str, job: Option<&Job>, pods: Vec<Arc<Pod>>) -> Vec<Arc<Pod>> {
    let adopts = |pod: &Pod| {
        job.is_some_and(|job| {
            let selector = job.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            job.metadata.deletion_timestamp.is_none()
                && pod.metadata.deletion_timestamp.is_none()
                && selector.is_some_and(|selector| label_selector_matches(selector, pod.labels()))
        })
    };
    let is_abandoned = |pod: &Arc<Pod>| {
        if !is_tracked(pod) {
            return false;
        }
        if owners::controller(pod.as_ref()).is_none() {
            return guardian(pod).as_deref() == Some(name) && !adopts(pod);
        }
        owners::controller_of_kind::<Job>(pod.as_ref()).is_some_and(|owner| {
            owner.name == name
                && job.is_none_or(|job| job.metadata.uid.as_ref() != Some(&owner.uid))
        })
    };
    pods.into_iter().filter(is_abandoned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(uid: &str) -> Job {
        serde_json::from_value(json!({
            "metadata": {"name": "j", "namespace": "ns", "uid": uid},
            "spec": {"selector": {"matchLabels": {"job": "j"}}, "template": {"spec": {}}}}))
        .expect("a Job")
    }

    fn pod(owner: Option<&str>, labels: Value) -> Arc<Pod> {
        let owners: Vec<Value> = owner
            .iter()
            .map(|uid| {
                json!({"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": uid,
                    "controller": true})
            })
            .collect();
        let pod = json!({"metadata": {"name": "p", "namespace": "ns", "uid": "p",
            "labels": labels, "finalizers": [FINALIZER, "other"], "ownerReferences": owners}});
        Arc::new(serde_json::from_value(pod).expect("a Pod"))
    }

    #[test]
    fn a_pod_that_is_let_go_loses_owner_and_finalizer_in_one_patch() {
        let patch = disowned(&pod(Some("u"), json!({})), "u");
        let expected = json!({"metadata": {"finalizers": ["other"], "ownerReferences": []}});
        assert_eq!(patch, expected);
        let kept = disowned(&pod(Some("u"), json!({})), "another");
        assert_eq!(kept["metadata"]["ownerReferences"][0]["uid"], "u");
    }

    #[test]
    fn pods_without_a_job_that_would_take_them_are_abandoned() {
        let labels = || json!({"job": "j", "job-name": "j"});
        let check = |job: Option<Job>, pod: &Arc<Pod>| {
            !abandoned("j", job.as_ref(), vec![pod.clone()]).is_empty()
        };
        let owned = pod(Some("u"), labels());
        assert!(check(None, &owned), "its Job is gone");
        assert!(check(Some(job("new")), &owned), "its Job was replaced");
        assert!(!check(Some(job("u")), &owned), "its Job is there");
        let orphan = pod(None, labels());
        assert!(check(None, &orphan), "an orphan of no Job");
        assert!(!check(Some(job("u")), &orphan), "it will be adopted");
        let mut going = job("u");
        going.metadata.deletion_timestamp =
            serde_json::from_value(json!("2026-01-01T00:00:00Z")).ok();
        assert!(check(Some(going), &orphan), "its Job is on its way out");
        let changed = pod(None, json!({"job-name": "j"}));
        assert!(
            check(Some(job("u")), &changed),
            "it is not selected any more"
        );
    }

    #[test]
    fn only_tracked_pods_without_a_controller_need_a_guardian() {
        assert_eq!(
            guardian(&pod(None, json!({"job-name": "j"}))),
            Some("j".to_owned())
        );
        assert_eq!(guardian(&pod(None, json!({}))), Some(String::new()));
        assert_eq!(guardian(&pod(Some("u"), json!({"job-name": "j"}))), None);
    }
}
