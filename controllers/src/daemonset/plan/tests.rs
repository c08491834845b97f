use serde_json::{Value, json};

use super::super::placement::{self, by_node};
use super::*;

fn set(rolling: Value) -> DaemonSet {
    serde_json::from_value(json!({
        "metadata": {"name": "ds", "namespace": "ns", "uid": "d", "generation": 1},
        "spec": {"selector": {}, "updateStrategy": rolling,
            "template": {"spec": {"containers": []}}}}))
    .expect("a DaemonSet")
}

fn rolling(surge: Value, unavailable: Value) -> DaemonSet {
    set(json!({"type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}))
}

fn nodes(count: usize) -> Vec<Arc<Node>> {
    let node = |n| json!({"metadata": {"name": format!("n{n}")}});
    (0..count)
        .map(|n| Arc::new(serde_json::from_value(node(n)).expect("a Node")))
        .collect()
}

fn now() -> Timestamp {
    "2026-01-01T00:01:00Z".parse().expect("a time")
}

/// Nodes with daemons, in which pods become ready when told.
struct World {
    set: DaemonSet,
    nodes: Vec<Arc<Node>>,
    pods: Vec<Arc<Pod>>,
    hash: &'static str,
    made: usize,
}

impl World {
    fn new(set: DaemonSet, count: usize) -> Self {
        Self {
            set,
            nodes: nodes(count),
            pods: Vec::new(),
            hash: "v1",
            made: 0,
        }
    }

    fn plan(&self, decide: fn(&View<'_>) -> Plan) -> Plan {
        let placed = by_node(&self.pods);
        decide(&View {
            set: &self.set,
            nodes: &self.nodes,
            placed: &placed,
            hash: self.hash,
            now: now(),
        })
    }

    fn status(&self) -> DaemonSetStatus {
        let placed = by_node(&self.pods);
        let view = View {
            set: &self.set,
            nodes: &self.nodes,
            placed: &placed,
            hash: self.hash,
            now: now(),
        };
        status(&view)
    }

    fn step(&mut self) -> bool {
        let mut plan = self.plan(manage);
        if plan.is_empty() {
            plan = self.plan(update);
        }
        let changed = !plan.is_empty();
        let gone: Vec<String> = plan
            .delete
            .iter()
            .chain(plan.ended.iter().map(|(_, pod)| pod))
            .map(|pod| pod.name_any())
            .collect();
        self.pods.retain(|pod| !gone.contains(&pod.name_any()));
        for node in plan.create {
            let mut pod = placement::pod(&self.set, &node, self.hash);
            self.made += 1;
            pod.metadata.name = Some(format!("p{}", self.made));
            self.pods.push(Arc::new(pod));
        }
        changed
    }

    fn ready(&mut self) {
        for pod in &mut self.pods {
            set_ready(Arc::make_mut(pod), true);
        }
    }

    fn of_hash(&self, hash: &str) -> usize {
        self.pods
            .iter()
            .filter(|pod| pod.labels()[HASH_LABEL] == hash)
            .count()
    }

    fn available(&self) -> usize {
        self.pods.iter().filter(|pod| is_ready(pod)).count()
    }
}

fn set_ready(pod: &mut Pod, ready: bool) {
    let status = json!({"phase": "Running", "conditions": [
        {"type": "Ready", "status": if ready { "True" } else { "False" }}]});
    pod.status = serde_json::from_value(status).expect("a status");
}

#[test]
fn every_node_gets_one_pod_and_a_deleted_one_is_made_again() {
    let mut world = World::new(rolling(json!(0), json!(1)), 3);
    while world.step() {}
    assert_eq!(world.pods.len(), 3);
    world.pods.pop();
    while world.step() {}
    assert_eq!(world.pods.len(), 3);
    world.ready();
    let status = world.status();
    assert_eq!(
        (status.desired_number_scheduled, status.number_ready),
        (3, 3)
    );
    assert_eq!(status.number_unavailable, None);
}

#[test]
fn doubles_ended_pods_and_those_on_wrong_nodes_go() {
    let mut world = World::new(rolling(json!(0), json!(1)), 2);
    while world.step() {}
    let double = world.pods[0].clone();
    let mut double = double.as_ref().clone();
    double.metadata.name = Some("double".to_owned());
    world.pods.push(Arc::new(double));
    Arc::make_mut(&mut world.pods[1])
        .status
        .get_or_insert_default()
        .phase = Some("Failed".to_owned());
    let plan = world.plan(manage);
    assert_eq!(plan.delete.len(), 1);
    assert_eq!(plan.ended.len(), 1);
    let taint = json!([{"key": "gone", "effect": "NoExecute"}]);
    let node = json!({"metadata": {"name": "n0"}, "spec": {"taints": taint}});
    world.nodes[0] = Arc::new(serde_json::from_value(node).expect("a Node"));
    assert_eq!(world.plan(manage).delete.len(), 2);
    assert_eq!(world.status().number_misscheduled, 1);
}

#[test]
fn an_update_in_place_keeps_all_but_so_many_available() {
    for (unavailable, step) in [
        (json!(1), 1),
        (json!(2), 2),
        (json!("50%"), 3),
        (json!(0), 1),
    ] {
        let mut world = World::new(rolling(json!(0), unavailable.clone()), 6);
        while world.step() {}
        world.ready();
        world.hash = "v2";
        let mut least = usize::MAX;
        while world.of_hash("v2") < 6 || world.available() < 6 {
            while world.step() {
                least = least.min(world.available());
            }
            world.ready();
        }
        assert_eq!(least, 6 - step, "{unavailable}");
        assert_eq!(world.of_hash("v1"), 0);
    }
}

#[test]
fn an_update_by_surge_never_loses_a_node() {
    let mut world = World::new(rolling(json!(2), json!(0)), 5);
    while world.step() {}
    world.ready();
    world.hash = "v2";
    let (mut least, mut most) = (usize::MAX, 0);
    for _ in 0..50 {
        while world.step() {
            least = least.min(world.available());
            most = most.max(world.pods.len());
        }
        world.ready();
    }
    assert_eq!((world.of_hash("v2"), world.of_hash("v1")), (5, 0));
    assert_eq!((least, most), (5, 7));
}

#[test]
fn on_delete_waits_for_the_user() {
    let mut world = World::new(set(json!({"type": "OnDelete"})), 2);
    while world.step() {}
    world.ready();
    world.hash = "v2";
    assert!(!world.step());
    world.pods.pop();
    while world.step() {}
    assert_eq!((world.of_hash("v1"), world.of_hash("v2")), (1, 1));
    assert_eq!(world.status().updated_number_scheduled, Some(1));
}

#[test]
fn a_sick_old_pod_is_replaced_without_waiting_its_turn() {
    let mut world = World::new(rolling(json!(0), json!(1)), 3);
    while world.step() {}
    world.ready();
    set_ready(Arc::make_mut(&mut world.pods[0]), false);
    set_ready(Arc::make_mut(&mut world.pods[1]), false);
    world.hash = "v2";
    assert_eq!(world.plan(update).delete.len(), 2);
}

#[test]
fn a_rollback_leaves_pods_of_the_old_revision_alone() {
    let mut world = World::new(rolling(json!(0), json!(1)), 3);
    while world.step() {}
    world.ready();
    world.hash = "v2";
    world.step();
    world.step();
    let kept: Vec<String> = world
        .pods
        .iter()
        .map(|pod| pod.name_any())
        .take(2)
        .collect();
    world.hash = "v1";
    for _ in 0..10 {
        while world.step() {}
        world.ready();
    }
    assert_eq!(world.of_hash("v1"), 3);
    assert!(
        kept.iter()
            .all(|name| world.pods.iter().any(|pod| pod.name_any() == *name))
    );
}
