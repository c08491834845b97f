//! Deployments are played against simulated ReplicaSets: each plan is applied, pods become
//! available one after another, until nothing is left to do.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().expect("a time")
}

fn deployment(change: Value) -> Deployment {
    let mut object = json!({
        "metadata": {"name": "web", "namespace": "ns", "uid": "d", "generation": 1},
        "spec": {"replicas": 10, "progressDeadlineSeconds": 600, "revisionHistoryLimit": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}},
            "template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "v1"}]}}}});
    json_merge(&mut object, &change);
    serde_json::from_value(object).expect("a Deployment")
}

fn json_merge(into: &mut Value, change: &Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            for (key, value) in change {
                json_merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, change) => *into = change.clone(),
    }
}

/// A cluster of one Deployment in which time stands still.
struct World {
    deployment: Deployment,
    sets: BTreeMap<String, ReplicaSet>,
    created: i64,
    least_available: i32,
    most_pods: i32,
    old_pods: OldPods,
}

impl World {
    fn new(deployment: Deployment) -> Self {
        Self {
            deployment,
            sets: BTreeMap::new(),
            created: 0,
            least_available: i32::MAX,
            most_pods: 0,
            old_pods: OldPods { running: false },
        }
    }

    fn change(&mut self, change: Value) {
        let mut object = serde_json::to_value(&self.deployment).expect("JSON");
        json_merge(&mut object, &change);
        self.deployment = serde_json::from_value(object).expect("a Deployment");
        *self.deployment.metadata.generation.get_or_insert(0) += 1;
    }

    fn plan(&self) -> Plan {
        let sets = self.sets.values().cloned().map(Arc::new).collect();
        plan(&self.deployment, sets, |_| self.old_pods, now()).expect("JSON")
    }

    /// Plans and applies; false when there was nothing to do.
    fn step(&mut self) -> bool {
        let plan = self.plan();
        let mut changed = self.deployment.status.as_ref() != Some(&plan.status);
        self.deployment.status = Some(plan.status);
        if let Some(revision) = plan.revision {
            self.deployment
                .annotations_mut()
                .insert(REVISION.to_owned(), revision);
            changed = true;
        }
        changed |= !plan.ops.is_empty();
        for op in plan.ops {
            self.apply(op);
        }
        self.observe();
        changed
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Create(set) => {
                let mut set = *set;
                self.created += 1;
                let at = now() + std::time::Duration::from_secs(self.created.unsigned_abs());
                set.metadata.creation_timestamp =
                    Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at));
                self.sets.insert(set.name_any(), set);
            }
            Op::Change { set, patch, .. } => {
                let mut object = serde_json::to_value(set.as_ref()).expect("JSON");
                json_merge(&mut object, &patch);
                let set: ReplicaSet = serde_json::from_value(object).expect("a ReplicaSet");
                self.sets.insert(set.name_any(), set);
            }
            Op::Delete(set) => drop(self.sets.remove(&set.name_any())),
        }
    }

    /// What the ReplicaSet controller would report, with surplus pods gone at once.
    fn observe(&mut self) {
        let mut pods = 0;
        let mut available = 0;
        for set in self.sets.values_mut() {
            let replicas = set
                .spec
                .as_ref()
                .and_then(|spec| spec.replicas)
                .unwrap_or(0);
            let status = set.status.get_or_insert_default();
            status.replicas = replicas;
            status.available_replicas = status.available_replicas.map(|n| n.min(replicas));
            pods += replicas;
            available += status.available_replicas.unwrap_or(0);
        }
        self.most_pods = self.most_pods.max(pods);
        self.least_available = self.least_available.min(available);
    }

    /// One more pod somewhere becomes available.
    fn pod_ready(&mut self) -> bool {
        for set in self.sets.values_mut() {
            let status = set.status.get_or_insert_default();
            let available = status.available_replicas.unwrap_or(0);
            if available < status.replicas {
                status.available_replicas = Some(available + 1);
                status.ready_replicas = Some(available + 1);
                return true;
            }
        }
        false
    }

    fn settle(&mut self) {
        for _ in 0..500 {
            if !self.step() && !self.pod_ready() {
                return;
            }
        }
        panic!("the deployment does not come to rest: {:?}", self.sizes());
    }

    fn sizes(&self) -> Vec<(String, i32)> {
        let mut sets: Vec<Set> = self
            .sets
            .values()
            .cloned()
            .map(Arc::new)
            .map(Set::new)
            .collect();
        sets.sort_by_key(|set| set.object.creation_timestamp());
        let image = |set: &Set| {
            let template = set
                .object
                .spec
                .as_ref()
                .and_then(|spec| spec.template.clone());
            let spec = template
                .and_then(|template| template.spec)
                .unwrap_or_default();
            spec.containers[0].image.clone().unwrap_or_default()
        };
        sets.iter().map(|set| (image(set), set.replicas)).collect()
    }

    fn reason(&self, kind: &str) -> Option<String> {
        status::find(self.deployment.status.as_ref()?, kind)?
            .reason
            .clone()
    }
}

fn image(name: &str) -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": name}]}}}})
}

fn sizes(of: &[(&str, i32)]) -> Vec<(String, i32)> {
    of.iter()
        .map(|(image, size)| ((*image).to_owned(), *size))
        .collect()
}

#[test]
fn a_new_deployment_makes_its_set_and_becomes_complete() {
    let mut world = World::new(deployment(json!({})));
    world.settle();
    assert_eq!(world.sizes(), sizes(&[("v1", 10)]));
    assert_eq!(
        world.reason(PROGRESSING).as_deref(),
        Some(status::NEW_SET_AVAILABLE)
    );
    assert_eq!(world.deployment.annotations()[REVISION], "1");
    let set = world.sets.values().next().expect("a set");
    let hash = &set.labels()[HASH_LABEL];
    assert_eq!(set.name_any(), format!("web-{hash}"));
    let selector = &set.spec.as_ref().expect("a spec").selector;
    assert_eq!(
        selector.match_labels.as_ref().expect("labels")[HASH_LABEL],
        *hash
    );
}

#[test]
fn a_rolling_update_stays_within_surge_and_unavailable() {
    for (surge, unavailable, most, least) in [
        (json!(3), json!(2), 13, 8),
        (json!(0), json!(1), 10, 9),
        (json!(1), json!(0), 11, 10),
        (json!("25%"), json!("25%"), 13, 8),
        (json!(0), json!(0), 10, 9),
        (json!("100%"), json!(0), 20, 10),
    ] {
        let rolling = json!({"maxSurge": surge, "maxUnavailable": unavailable});
        let mut world = World::new(deployment(
            json!({"spec": {"strategy": {"rollingUpdate": rolling}}}),
        ));
        world.settle();
        (world.least_available, world.most_pods) = (i32::MAX, 0);
        world.change(image("v2"));
        world.settle();
        assert_eq!(world.sizes(), sizes(&[("v1", 0), ("v2", 10)]), "{rolling}");
        assert_eq!(world.most_pods, most, "{rolling}");
        assert_eq!(world.least_available, least, "{rolling}");
    }
}

#[test]
fn a_rollback_reuses_the_old_set_with_a_new_revision() {
    let mut world = World::new(deployment(json!({})));
    world.settle();
    world.change(image("v2"));
    world.settle();
    world.change(image("v1"));
    world.settle();
    assert_eq!(world.sizes(), sizes(&[("v1", 10), ("v2", 0)]));
    assert_eq!(world.deployment.annotations()[REVISION], "3");
    let first = world
        .sets
        .values()
        .find(|set| set.annotations()[REVISION] == "3");
    let history =
        first.expect("the reused set").annotations()[super::super::sets::REVISION_HISTORY].clone();
    assert_eq!(history, "1");
}

#[test]
fn a_change_during_a_rollout_rolls_over_to_the_newest() {
    let mut world = World::new(deployment(json!({})));
    world.settle();
    world.change(image("v2"));
    for _ in 0..4 {
        world.step();
    }
    world.change(image("v3"));
    world.settle();
    assert_eq!(world.sizes(), sizes(&[("v1", 0), ("v2", 0), ("v3", 10)]));
}

#[test]
fn recreate_waits_until_the_old_pods_are_gone() {
    let strategy = json!({"spec": {"strategy": {"type": "Recreate", "rollingUpdate": null}}});
    let mut world = World::new(deployment(strategy));
    world.settle();
    world.change(image("v2"));
    world.old_pods = OldPods { running: true };
    world.settle();
    assert_eq!(world.sizes(), sizes(&[("v1", 0)]));
    world.old_pods = OldPods { running: false };
    world.settle();
    assert_eq!(world.sizes(), sizes(&[("v1", 0), ("v2", 10)]));
}

#[test]
fn old_sets_beyond_the_history_limit_are_deleted_after_the_rollout() {
    let mut world = World::new(deployment(json!({})));
    for version in 1..=5 {
        world.change(image(&format!("v{version}")));
        world.settle();
    }
    assert_eq!(world.sizes(), sizes(&[("v3", 0), ("v4", 0), ("v5", 10)]));
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut world = World::new(deployment(json!({})));
    world.settle();
    world.change(json!({"spec": {"paused": true, "replicas": 4}}));
    world.change(image("v2"));
    world.settle();
    assert_eq!(world.sizes(), sizes(&[("v1", 4)]));
    assert_eq!(world.reason(PROGRESSING).as_deref(), Some(status::PAUSED));
    world.change(json!({"spec": {"paused": false}}));
    world.settle();
    assert_eq!(world.sizes(), sizes(&[("v1", 0), ("v2", 4)]));
}

#[test]
fn scaling_during_a_rollout_is_shared_by_size() {
    let mut world = World::new(deployment(json!({})));
    world.settle();
    world.change(image("v2"));
    // Nothing of v2 ever becomes available: the rollout stands at 8 and 5.
    while world.step() {}
    assert_eq!(world.sizes(), sizes(&[("v1", 8), ("v2", 5)]));
    world.change(json!({"spec": {"replicas": 30}}));
    let plan = world.plan();
    let scaled: Vec<(i32, i32)> = plan
        .ops
        .iter()
        .filter_map(|op| match op {
            Op::Change { scaled, .. } => *scaled,
            _ => None,
        })
        .collect();
    assert_eq!(scaled, [(8, 20), (5, 13)]);
}

#[test]
fn a_rollout_without_progress_times_out_and_is_looked_at_then() {
    let mut world = World::new(deployment(json!({})));
    world.settle();
    world.change(image("v2"));
    while world.step() {}
    let waits = world.plan().check_after.expect("a deadline to look at");
    assert_eq!(waits.as_secs(), 601);
    let later = now() + waits;
    let sets = world.sets.values().cloned().map(Arc::new).collect();
    let plan = plan(&world.deployment, sets, |_| world.old_pods, later).expect("JSON");
    let told = status::find(&plan.status, PROGRESSING).expect("a condition");
    assert_eq!(
        (told.status.as_str(), told.reason.as_deref()),
        ("False", Some(status::TIMED_OUT))
    );
}

#[test]
fn a_deployment_being_deleted_touches_nothing() {
    let mut world = World::new(deployment(json!({})));
    world.settle();
    world.change(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
    world.change(image("v2"));
    assert!(world.plan().ops.is_empty());
}
