use serde_json::{Value, json};

use super::super::pods;
use super::*;

fn set(spec: Value) -> StatefulSet {
    let mut full = json!({"replicas": 3, "serviceName": "web", "selector": {},
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}}});
    for (key, value) in spec.as_object().expect("an object") {
        full[key] = value.clone();
    }
    serde_json::from_value(
        json!({"metadata": {"name": "web", "namespace": "ns", "uid": "s"},
        "spec": full}),
    )
    .expect("a StatefulSet")
}

struct World {
    set: StatefulSet,
    pods: Vec<Arc<Pod>>,
    current: &'static str,
    update: &'static str,
    log: Vec<String>,
}

impl World {
    fn new(spec: Value) -> Self {
        Self {
            set: set(spec),
            pods: Vec::new(),
            current: "v1",
            update: "v1",
            log: Vec::new(),
        }
    }

    fn plan(&self) -> Plan {
        plan(&View {
            set: &self.set,
            pods: &self.pods,
            current: self.current,
            update: self.update,
            now: Timestamp::UNIX_EPOCH,
        })
    }

    /// Carries one plan out; deleted pods are gone at once.
    fn step(&mut self) -> bool {
        let ops = self.plan().ops;
        for op in &ops {
            let (sign, name) = match op {
                Op::Create { ordinal, current } => {
                    let template = spec(&self.set).template;
                    let revision = if *current { self.current } else { self.update };
                    let pod = pods::pod(&self.set, &template, revision, *ordinal);
                    self.pods.push(Arc::new(pod));
                    ('+', format!("web-{ordinal}"))
                }
                Op::Recreate(pod) | Op::Condemn(pod) | Op::Update(pod) => {
                    let name = pod.name_any();
                    self.pods.retain(|pod| pod.name_any() != name);
                    ('-', name)
                }
            };
            self.log
                .push(format!("{sign}{}", name.trim_start_matches("web")));
        }
        !ops.is_empty()
    }

    fn set_phase(&mut self, name: &str, phase: &str, ready: &str) {
        let pod = self
            .pods
            .iter_mut()
            .find(|pod| pod.name_any() == name)
            .expect("a pod");
        let status = json!({"phase": phase, "conditions": [{"type": "Ready", "status": ready}]});
        Arc::make_mut(pod).status = serde_json::from_value(status).expect("a status");
    }

    fn all_ready(&mut self) {
        let names: Vec<String> = self.pods.iter().map(|pod| pod.name_any()).collect();
        for name in names {
            self.set_phase(&name, "Running", "True");
        }
    }

    fn settle(&mut self) -> String {
        for _ in 0..50 {
            let moved = self.step();
            self.all_ready();
            if !moved {
                return std::mem::take(&mut self.log).join(" ");
            }
        }
        panic!("it does not come to rest: {:?}", self.log);
    }

    fn revisions(&self) -> Vec<String> {
        let mut pods: Vec<_> = self
            .pods
            .iter()
            .map(|pod| (pod.name_any(), revision(pod)))
            .collect();
        pods.sort();
        pods.iter()
            .map(|(_, revision)| (*revision).to_owned())
            .collect()
    }
}

#[test]
fn an_ordered_set_grows_and_shrinks_one_by_one() {
    let mut world = World::new(json!({}));
    assert!(world.step());
    assert!(!world.step(), "the second waits for the first to be ready");
    world.all_ready();
    assert_eq!(world.settle(), "+-0 +-1 +-2");
    world.set.spec.as_mut().expect("a spec").replicas = Some(1);
    assert_eq!(world.settle(), "--2 --1");
}

#[test]
fn a_parallel_set_does_all_at_once() {
    let mut world = World::new(json!({"podManagementPolicy": "Parallel"}));
    assert!(world.step());
    assert_eq!(world.pods.len(), 3);
    world.set.spec.as_mut().expect("a spec").replicas = Some(0);
    assert!(world.step());
    assert!(world.pods.is_empty());
}

#[test]
fn ordinals_may_start_elsewhere() {
    let mut world = World::new(json!({"ordinals": {"start": 5}, "replicas": 2}));
    assert_eq!(world.settle(), "+-5 +-6");
}

#[test]
fn a_sick_pod_halts_growth_and_shrinking() {
    let mut world = World::new(json!({"replicas": 2}));
    world.settle();
    world.set_phase("web-0", "Running", "False");
    world.set.spec.as_mut().expect("a spec").replicas = Some(3);
    assert!(!world.step());
    world.set.spec.as_mut().expect("a spec").replicas = Some(1);
    assert!(!world.step());
    world.set_phase("web-0", "Running", "True");
    assert!(world.step());
    assert_eq!(world.pods.len(), 1);
}

#[test]
fn an_update_goes_from_the_highest_ordinal_down() {
    let mut world = World::new(json!({}));
    world.settle();
    world.update = "v2";
    assert_eq!(world.settle(), "--2 +-2 --1 +-1 --0 +-0");
    assert_eq!(world.revisions(), ["v2", "v2", "v2"]);
    let status = world.plan().status;
    assert_eq!(status.current_revision.as_deref(), Some("v2"));
    assert_eq!(
        (status.current_replicas, status.updated_replicas),
        (Some(3), Some(3))
    );
}

#[test]
fn a_partition_keeps_the_lower_ordinals_and_their_replacements() {
    let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 2}});
    let mut world = World::new(json!({"updateStrategy": rolling}));
    world.settle();
    world.update = "v2";
    assert_eq!(world.settle(), "--2 +-2");
    assert_eq!(world.revisions(), ["v1", "v1", "v2"]);
    world.pods.retain(|pod| pod.name_any() != "web-0");
    world.settle();
    assert_eq!(world.revisions(), ["v1", "v1", "v2"]);
    let status = world.plan().status;
    assert_eq!(
        (status.current_replicas, status.updated_replicas),
        (Some(2), Some(1))
    );
}

#[test]
fn several_may_be_unavailable_if_told_so() {
    let rolling = json!({"type": "RollingUpdate",
        "rollingUpdate": {"partition": 0, "maxUnavailable": 2}});
    let mut world = World::new(json!({"updateStrategy": rolling, "replicas": 4,
        "podManagementPolicy": "Parallel"}));
    world.settle();
    world.update = "v2";
    assert!(world.step());
    assert_eq!(world.pods.len(), 2);
}

#[test]
fn a_failed_pod_is_made_again() {
    let mut world = World::new(json!({}));
    world.settle();
    world.set_phase("web-1", "Failed", "False");
    assert_eq!(world.settle(), "--1 +-1");
}

#[test]
fn an_update_that_never_gets_ready_is_undone_where_order_does_not_forbid_it() {
    for (policy, replaced) in [("Parallel", true), ("OrderedReady", false)] {
        let mut world = World::new(json!({"podManagementPolicy": policy}));
        world.settle();
        world.update = "bad";
        world.step();
        world.step();
        world.set_phase("web-2", "Running", "False");
        assert!(!world.step());
        world.update = "v1";
        assert_eq!(world.step(), replaced, "{policy}");
    }
}

#[test]
fn on_delete_waits_for_the_user() {
    let mut world = World::new(json!({"updateStrategy": {"type": "OnDelete"}}));
    world.settle();
    world.update = "v2";
    assert!(!world.step());
    world.pods.retain(|pod| pod.name_any() != "web-1");
    world.settle();
    assert_eq!(world.revisions(), ["v1", "v2", "v1"]);
}
