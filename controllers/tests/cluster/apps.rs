//! Deployments, ReplicaSets and StatefulSets.

use k8s_openapi::api::apps::v1::{ControllerRevision, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::fixture::{Cluster, owners, template};

const ALL: &str = "deployment,replicaset,statefulset,garbagecollector";

fn image(change: &str) -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": change}]}}}})
}

fn is_rolled_out(all: &[Deployment]) -> bool {
    all.iter().all(|deployment| {
        let status = deployment.status.clone().unwrap_or_default();
        let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas);
        status.observed_generation == deployment.metadata.generation
            && status.updated_replicas == wanted
            && status.available_replicas == wanted
            && status.replicas == wanted
    })
}

#[tokio::test]
async fn a_deployment_rolls_out_and_goes_back_to_the_set_it_had() {
    let cluster = Cluster::start(ALL).await;
    let spec = json!({"replicas": 3, "selector": {"matchLabels": {"app": "web"}},
        "template": template("web", "one")});
    let deployment = json!({"metadata": {"name": "web"}, "spec": spec});
    cluster.create::<Deployment>(deployment).await;
    cluster
        .run_until("app=web", "is rolled out", is_rolled_out)
        .await;
    let first = cluster
        .until::<ReplicaSet>("app=web", "is one", |all| all.len() == 1)
        .await;
    assert_eq!(owners(&first[0]), ["Deployment web"]);
    cluster.merge::<Deployment>("web", image("two")).await;
    cluster
        .run_until("app=web", "is rolled out", is_rolled_out)
        .await;
    cluster.merge::<Deployment>("web", image("one")).await;
    cluster
        .run_until("app=web", "is rolled back", is_rolled_out)
        .await;
    let sets = cluster
        .until::<ReplicaSet>("app=web", "are two", |all| all.len() == 2)
        .await;
    let current = sets.iter().find(|set| set.uid() == first[0].uid()).unwrap();
    assert_eq!(current.spec.as_ref().unwrap().replicas, Some(3));
    assert_eq!(
        current.annotations()["deployment.kubernetes.io/revision"],
        "3"
    );
}

#[tokio::test]
async fn a_replica_set_takes_pods_over_and_lets_them_go() {
    let cluster = Cluster::start(ALL).await;
    let mut pod = template("web", "one");
    pod["metadata"]["name"] = json!("found");
    cluster.create::<Pod>(pod).await;
    let spec = json!({"replicas": 1, "selector": {"matchLabels": {"app": "web"}},
        "template": template("web", "one")});
    cluster
        .create::<ReplicaSet>(json!({"metadata": {"name": "set"}, "spec": spec}))
        .await;
    let adopted = |all: &[Pod]| all.iter().all(|pod| owners(pod) == ["ReplicaSet set"]);
    let pods = cluster.until("app=web", "are adopted", adopted).await;
    assert_eq!(
        pods.len(),
        1,
        "nothing was made beside the pod that was there"
    );
    let change = json!({"metadata": {"labels": {"app": "mine"}}});
    cluster.merge::<Pod>("found", change).await;
    let free = |all: &[Pod]| all.iter().all(|pod| owners(pod).is_empty());
    cluster.until("app=mine", "is let go", free).await;
    cluster.pods("app=web", 1).await;
}

#[tokio::test]
async fn a_stateful_set_starts_in_order_and_keeps_its_revisions() {
    let cluster = Cluster::start(ALL).await;
    let spec = json!({"replicas": 2, "serviceName": "s", "template": template("db", "one"),
        "selector": {"matchLabels": {"app": "db"}}});
    let set = json!({"metadata": {"name": "db"}, "spec": spec});
    cluster.create::<StatefulSet>(set).await;
    let pods = cluster.pods("app=db", 1).await;
    assert_eq!(pods[0].name_any(), "db-0");
    cluster.report("db-0", "Running").await;
    let ready = |count: i32| {
        move |all: &[StatefulSet]| {
            all.iter().all(|set| {
                let status = set.status.clone().unwrap_or_default();
                status.observed_generation == set.metadata.generation
                    && status.ready_replicas == Some(count)
                    && status.updated_replicas == Some(count)
                    && status.current_revision == status.update_revision
            })
        }
    };
    cluster.run_until("app=db", "is ready", ready(2)).await;
    for step in ["two", "one"] {
        cluster.merge::<StatefulSet>("db", image(step)).await;
        cluster.run_until("app=db", "is updated", ready(2)).await;
    }
    let revisions = cluster
        .until::<ControllerRevision>("app=db", "are two", |all| all.len() == 2)
        .await;
    let mut numbers: Vec<i64> = revisions.iter().map(|revision| revision.revision).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [2, 3], "the first revision is used again");
}
