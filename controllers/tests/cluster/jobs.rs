//! Jobs and the finalizer by which they count their pods.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::{Value, json};

use super::fixture::{Cluster, owners};

const ALL: &str = "job,garbagecollector";

fn job(name: &str, parallelism: i32) -> Value {
    json!({"metadata": {"name": name}, "spec": {"parallelism": parallelism,
        "completions": parallelism, "completionMode": "Indexed",
        "template": {"metadata": {"labels": {"work": name}}, "spec": {"restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": "i"}]}}}})
}

fn is_complete(all: &[Job]) -> bool {
    all.iter().all(|job| {
        let conditions = job
            .status
            .iter()
            .flat_map(|s| s.conditions.iter().flatten());
        conditions
            .into_iter()
            .any(|c| c.type_ == "Complete" && c.status == "True")
    })
}

#[tokio::test]
async fn an_indexed_job_counts_every_index_once() {
    let cluster = Cluster::start(ALL).await;
    cluster.create::<Job>(job("work", 3)).await;
    for pod in cluster.pods("work=work", 3).await {
        cluster.report(&pod.name_any(), "Succeeded").await;
    }
    let jobs = cluster.until::<Job>("", "are complete", is_complete).await;
    let status = jobs[0].status.clone().unwrap();
    assert_eq!(status.succeeded, Some(3));
    assert_eq!(status.completed_indexes.as_deref(), Some("0-2"));
    let untracked = |all: &[Pod]| all.iter().all(|pod| pod.finalizers().is_empty());
    cluster.until("work=work", "are let go", untracked).await;
}

#[tokio::test]
async fn a_pod_that_a_job_no_longer_selects_is_its_own() {
    let cluster = Cluster::start(ALL).await;
    cluster.create::<Job>(job("work", 1)).await;
    let pod = cluster.pods("work=work", 1).await.remove(0).name_any();
    let change = json!({"metadata": {"labels": null}});
    cluster.merge::<Pod>(&pod, change).await;
    let free = |all: &[Pod]| {
        let own = all.iter().find(|other| other.name_any() == pod);
        own.is_some_and(|pod| owners(pod).is_empty() && pod.finalizers().is_empty())
    };
    cluster.until("", "is let go", free).await;
    cluster.pods("work=work", 1).await;
}

#[tokio::test]
async fn orphans_of_a_job_can_be_deleted() {
    let cluster = Cluster::start(ALL).await;
    cluster.create::<Job>(job("work", 2)).await;
    cluster.pods("work=work", 2).await;
    let orphan = DeleteParams {
        propagation_policy: Some(kube::api::PropagationPolicy::Orphan),
        ..DeleteParams::default()
    };
    cluster.delete::<Job>("work", &orphan).await;
    let free = |all: &[Pod]| {
        let free = |pod: &Pod| owners(pod).is_empty() && pod.finalizers().is_empty();
        all.len() == 2 && all.iter().all(free)
    };
    cluster.until("work=work", "are free", free).await;
}
