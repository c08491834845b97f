//! Owners, namespaces and quotas: what goes with what, and what is counted.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, ResourceQuota};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams};
use serde_json::{Value, json};

use super::fixture::{Cluster, owners, template};

fn set(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"replicas": 2,
        "selector": {"matchLabels": {"app": name}}, "template": template(name, "i")}})
}

#[tokio::test]
async fn dependents_go_with_their_owner_or_stay_as_it_is_asked() {
    let cluster = Cluster::start("replicaset,garbagecollector").await;
    let policies = [
        ("background", DeleteParams::background(), 0),
        ("foreground", DeleteParams::foreground(), 0),
        (
            "orphan",
            DeleteParams {
                propagation_policy: Some(kube::api::PropagationPolicy::Orphan),
                ..DeleteParams::default()
            },
            2,
        ),
    ];
    for (name, params, left) in policies {
        let selector = format!("app={name}");
        cluster.create::<ReplicaSet>(set(name)).await;
        cluster.pods(&selector, 2).await;
        cluster.delete::<ReplicaSet>(name, &params).await;
        let gone = |all: &[ReplicaSet]| all.iter().all(|set| set.name_any() != name);
        cluster.until("", "is gone", gone).await;
        let free = |all: &[Pod]| all.len() == left && all.iter().all(|p| owners(p).is_empty());
        cluster.until(&selector, "are as asked", free).await;
    }
}

#[tokio::test]
async fn pods_go_first_when_a_namespace_is_deleted() {
    let cluster = Cluster::start("namespace").await;
    let mut pod = template("app", "i");
    pod["metadata"]["name"] = json!("held");
    pod["metadata"]["finalizers"] = json!(["example.com/held"]);
    cluster.create::<Pod>(pod).await;
    cluster
        .create::<ConfigMap>(json!({"metadata": {"name": "kept"}}))
        .await;
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    namespaces
        .delete("work", &DeleteParams::default())
        .await
        .unwrap();
    let going = |all: &[Pod]| {
        all.iter()
            .all(|pod| pod.metadata.deletion_timestamp.is_some())
    };
    cluster.until("", "are told to go", going).await;
    let kept = cluster.api::<ConfigMap>().get("kept").await.unwrap();
    assert!(kept.metadata.deletion_timestamp.is_none());
    cluster
        .merge::<Pod>("held", json!({"metadata": {"finalizers": null}}))
        .await;
    cluster
        .until::<ConfigMap>("", "are gone", <[_]>::is_empty)
        .await;
}

#[tokio::test]
async fn a_quota_shows_what_is_used() {
    let cluster = Cluster::start("resourcequota").await;
    let quota = json!({"metadata": {"name": "q"},
        "spec": {"hard": {"configmaps": "5", "count/pods": "5"}}});
    cluster.create::<ResourceQuota>(quota).await;
    let used = |configmaps: &'static str, pods: &'static str| {
        move |all: &[ResourceQuota]| {
            all.iter().all(|quota| {
                let used = quota.status.as_ref().and_then(|status| status.used.clone());
                let used = used.unwrap_or_default();
                let is = |name: &str, wanted: &str| used.get(name).is_some_and(|q| q.0 == wanted);
                is("configmaps", configmaps) && is("count/pods", pods)
            })
        }
    };
    cluster.until("", "is counted", used("0", "0")).await;
    cluster
        .create::<ConfigMap>(json!({"metadata": {"name": "c"}}))
        .await;
    let mut pod = template("app", "i");
    pod["metadata"]["name"] = json!("p");
    cluster.create::<Pod>(pod).await;
    cluster.until("", "counts what came", used("1", "1")).await;
    cluster
        .delete::<ConfigMap>("c", &DeleteParams::default())
        .await;
    cluster.until("", "counts what went", used("0", "1")).await;
}
