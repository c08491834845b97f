use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use super::*;
use crate::preemption;

fn node(name: &str, change: Value) -> Arc<Node> {
    let mut node = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "10"}},
    });
    merge(&mut node, change);
    Arc::new(serde_json::from_value(node).unwrap())
}

fn pod(name: &str, change: Value) -> Arc<PodInfo> {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    });
    merge(&mut pod, change);
    let pod: Pod = serde_json::from_value(pod).unwrap();
    Arc::new(PodInfo::new(Arc::new(pod)))
}

fn cpu(amount: &str) -> Value {
    json!([{"name": "c", "image": "i", "resources": {"requests": {"cpu": amount}}}])
}

fn merge(into: &mut Value, change: Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            for (key, value) in change {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, change) => *into = change,
    }
}

fn cluster(nodes: Vec<Arc<Node>>) -> ClusterState {
    let mut state = ClusterState::default();
    nodes.into_iter().for_each(|node| state.set_node(node));
    state
}

fn zoned(name: &str, zone: &str) -> Arc<Node> {
    node(name, json!({"metadata": {"labels": {"zone": zone}}}))
}

/// Where the pod lands in a cluster of `a` (changed) and nothing else, or why it does not.
#[track_caller]
fn check(node_change: Value, placed: &[Value], pod_change: Value, expected: Result<(), &str>) {
    let mut state = cluster(vec![node("a", node_change)]);
    for (index, change) in placed.iter().enumerate() {
        state.place("a", pod(&format!("placed-{index}"), change.clone()));
    }
    let answer = schedule(&state, &pod("new", pod_change), 1);
    match (answer, expected) {
        (Ok(node), Ok(())) => assert_eq!(node, "a"),
        (Err(no_fit), Err(reason)) => {
            assert_eq!(
                no_fit.message(),
                format!("0/1 nodes are available: {reason}.")
            );
        }
        (answer, expected) => panic!("{answer:?} is not {expected:?}"),
    }
}

#[test]
fn resources_are_counted() {
    let half = json!({"spec": {"containers": cpu("500m")}});
    let most = json!({"spec": {"containers": cpu("600m")}});
    check(json!({}), std::slice::from_ref(&half), half.clone(), Ok(()));
    check(json!({}), &[half], most, Err("1 Insufficient cpu"));
    let full = json!({"status": {"allocatable": {"pods": "1"}}});
    check(full, &[json!({})], json!({}), Err("1 Too many pods"));
    let extended = json!({"spec": {"containers": [
        {"name": "c", "resources": {"requests": {"example.com/gpu": "1"}}}]}});
    check(
        json!({}),
        &[],
        extended,
        Err("1 Insufficient example.com/gpu"),
    );
}

#[test]
fn the_node_and_the_pod_choose_each_other() {
    let cordoned = json!({"spec": {"unschedulable": true}});
    check(
        cordoned,
        &[],
        json!({}),
        Err("1 node(s) were unschedulable"),
    );
    let tainted = json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}});
    let refusal = Err("1 node(s) had untolerated taint {k: v}");
    check(tainted.clone(), &[], json!({}), refusal);
    let tolerant = json!({"spec": {"tolerations": [{"key": "k", "operator": "Exists"}]}});
    check(tainted, &[], tolerant, Ok(()));
    let selecting = json!({"spec": {"nodeSelector": {"disk": "ssd"}}});
    let refusal = Err("1 node(s) didn't match Pod's node affinity/selector");
    check(json!({}), &[], selecting.clone(), refusal);
    check(
        json!({"metadata": {"labels": {"disk": "ssd"}}}),
        &[],
        selecting,
        Ok(()),
    );
}

#[test]
fn host_ports_conflict_by_address_and_protocol() {
    let port = |ip: &str, protocol: &str| {
        json!({"spec": {"containers": [{"name": "c", "ports": [
            {"containerPort": 1, "hostPort": 80, "hostIP": ip, "protocol": protocol}]}]}})
    };
    let refusal = Err("1 node(s) didn't have free ports for the requested pod ports");
    check(
        json!({}),
        &[port("10.0.0.1", "TCP")],
        port("10.0.0.1", "TCP"),
        refusal,
    );
    check(
        json!({}),
        &[port("", "TCP")],
        port("10.0.0.1", "TCP"),
        refusal,
    );
    check(
        json!({}),
        &[port("10.0.0.1", "TCP")],
        port("10.0.0.2", "TCP"),
        Ok(()),
    );
    check(json!({}), &[port("", "TCP")], port("", "UDP"), Ok(()));
}

fn affinity(kind: &str, app: &str, key: &str) -> Value {
    json!({"spec": {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key}]}}}})
}

#[test]
fn pods_attract_and_repel_each_other() {
    let state = || {
        let mut state = cluster(vec![zoned("a", "1"), zoned("b", "1"), zoned("c", "2")]);
        state.place("a", pod("web", json!({})));
        state
    };
    let near = pod("new", affinity("podAffinity", "web", "zone"));
    assert!(["a", "b"].contains(&schedule(&state(), &near, 3).unwrap().as_str()));
    let far = pod("new", affinity("podAntiAffinity", "web", "zone"));
    assert_eq!(schedule(&state(), &far, 3).unwrap(), "c");
    let mut repelling = state();
    repelling.place("b", pod("shy", affinity("podAntiAffinity", "new", "zone")));
    assert_eq!(
        schedule(&repelling, &pod("new", json!({})), 3).unwrap(),
        "c"
    );
    let lonely = pod("new", affinity("podAffinity", "nobody", "zone"));
    let message = schedule(&state(), &lonely, 3).unwrap_err().message();
    let expected = "0/3 nodes are available: 3 node(s) didn't match pod affinity rules.";
    assert_eq!(message, expected);
}

#[test]
fn the_first_of_a_group_that_wants_to_be_together_may_start() {
    let state = cluster(vec![zoned("a", "1")]);
    let first = pod("new", affinity("podAffinity", "new", "zone"));
    assert_eq!(schedule(&state, &first, 0).unwrap(), "a");
}

#[test]
fn spread_constraints_limit_the_skew() {
    let spreading = json!({"metadata": {"labels": {"app": "s"}}, "spec": {"topologySpreadConstraints": [{
        "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "s"}}}]}});
    let mut state = cluster(vec![zoned("a", "1"), zoned("b", "2")]);
    for (index, expected) in [(0, None), (1, None), (2, None)] {
        let new = pod(&format!("s{index}"), spreading.clone());
        let node = schedule(&state, &new, index).unwrap();
        assert!(expected.is_none_or(|expected: &str| expected == node));
        state.place(&node, new);
    }
    let counts: Vec<usize> = state.nodes.values().map(|node| node.pods.len()).collect();
    assert!(counts.iter().all(|count| *count >= 1), "{counts:?}");
}

#[test]
fn replicas_go_to_different_nodes() {
    let owned = |name: &str| {
        pod(
            name,
            json!({"metadata": {"ownerReferences": [{"apiVersion": "apps/v1",
            "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true}]}}),
        )
    };
    let mut state = cluster(vec![node("a", json!({})), node("b", json!({}))]);
    for turn in 0..4 {
        let new = owned(&format!("r{turn}"));
        let node = schedule(&state, &new, turn).unwrap();
        state.place(&node, new);
    }
    let counts: Vec<usize> = state.nodes.values().map(|node| node.pods.len()).collect();
    assert_eq!(counts, [2, 2]);
}

#[test]
fn less_important_pods_make_room() {
    let sized = |priority: i32, amount: &str| json!({"spec": {"priority": priority, "containers": cpu(amount)}});
    let mut state = cluster(vec![node("a", json!({})), node("b", json!({}))]);
    state.place("a", pod("a-low", sized(1, "500m")));
    state.place("a", pod("a-middle", sized(5, "500m")));
    state.place("b", pod("b-high", sized(50, "900m")));
    let new = pod("new", sized(10, "500m"));
    let no_fit = schedule(&state, &new, 0).unwrap_err();
    let found = preemption::find(&state, &new, &no_fit).unwrap();
    let victims: Vec<&str> = found
        .victims
        .iter()
        .map(|victim| victim.uid.as_str())
        .collect();
    assert_eq!((found.node.as_str(), victims), ("a", vec!["a-low"]));
    let humble = pod("humble", sized(0, "500m"));
    assert!(preemption::find(&state, &humble, &no_fit).is_none());
}

#[test]
fn nobody_is_evicted_twice_for_the_same_pod() {
    let leaving = |reason: &str| {
        json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"priority": 1, "containers": cpu("800m")},
            "status": {"conditions": [
                {"type": "DisruptionTarget", "status": "True", "reason": reason}]}})
    };
    let nominated = json!({"spec": {"priority": 10, "containers": cpu("800m")},
        "status": {"nominatedNodeName": "a"}});
    let allowed = |reason: &str, node_change: Value, change: Value| {
        let mut state = cluster(vec![node("a", node_change)]);
        state.place("a", pod("victim", leaving(reason)));
        let mut new = nominated.clone();
        merge(&mut new, change);
        let new = pod("new", new);
        let no_fit = schedule(&state, &new, 0).unwrap_err();
        preemption::allowed(&state, &new, &no_fit)
    };
    let by_us = "PreemptionByScheduler";
    assert!(
        !allowed(by_us, json!({}), json!({})),
        "the victim is on its way out"
    );
    assert!(
        allowed("EvictionByEvictionAPI", json!({}), json!({})),
        "it goes for another reason"
    );
    let cordoned = json!({"spec": {"unschedulable": true}});
    assert!(
        allowed(by_us, cordoned, json!({})),
        "the node is lost to the pod"
    );
    let never = json!({"spec": {"preemptionPolicy": "Never"}});
    assert!(!allowed("", json!({}), never), "its policy forbids it");
}

#[test]
fn room_is_given_to_the_more_important_of_two_that_wait_for_it() {
    let of = |priority: i32| json!({"spec": {"priority": priority, "containers": cpu("800m")}});
    let mut state = cluster(vec![node("a", json!({})), node("b", json!({}))]);
    for (name, on, priority) in [("less", "a", 5), ("more", "a", 50), ("elsewhere", "b", 5)] {
        let waiting = (on.to_owned(), pod(name, of(priority)));
        state.nominated.insert(name.to_owned(), waiting);
    }
    let displaced = preemption::displaced(&state, &pod("new", of(10)), "a");
    let names: Vec<&str> = displaced.iter().map(|other| other.uid.as_str()).collect();
    assert_eq!(names, ["less"]);
}

#[test]
fn a_nominated_pod_keeps_its_room() {
    let sized = |priority: i32| json!({"spec": {"priority": priority, "containers": cpu("800m")}});
    let mut state = cluster(vec![node("a", json!({}))]);
    let nominated = pod("nominated", sized(10));
    state
        .nominated
        .insert("nominated".into(), ("a".into(), nominated));
    assert!(schedule(&state, &pod("lower", sized(1)), 0).is_err());
    assert!(schedule(&state, &pod("higher", sized(20)), 0).is_ok());
}

#[test]
fn claims_decide_on_the_node() {
    let claiming = json!({"spec": {"volumes": [
        {"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}});
    let mut state = cluster(vec![node("a", json!({})), node("b", json!({}))]);
    let message = |state: &ClusterState| {
        schedule(state, &pod("new", claiming.clone()), 0).map_err(|no_fit| no_fit.message())
    };
    let missing = "0/2 nodes are available: 2 persistentvolumeclaim \"data\" not found.";
    assert_eq!(message(&state), Err(missing.to_owned()));
    let claim = json!({"metadata": {"name": "data", "namespace": "default"},
        "spec": {"volumeName": "disk"}});
    let key = watch_cache::ObjectKey::new("default", "data");
    state
        .volumes
        .claims
        .insert(key, Arc::new(serde_json::from_value(claim).unwrap()));
    let volume = json!({"metadata": {"name": "disk"}, "spec": {"nodeAffinity": {"required":
        {"nodeSelectorTerms": [{"matchFields": [
            {"key": "metadata.name", "operator": "In", "values": ["b"]}]}]}}}});
    state.volumes.volumes.insert(
        "disk".into(),
        Arc::new(serde_json::from_value(volume).unwrap()),
    );
    assert_eq!(message(&state), Ok("b".to_owned()));
}

#[test]
fn a_claim_for_one_pod_is_not_shared_on_any_node() {
    let mut state = cluster(vec![node("a", json!({})), node("b", json!({}))]);
    let claim = json!({"metadata": {"name": "c", "namespace": "default"},
        "spec": {"accessModes": ["ReadWriteOncePod"], "volumeName": "v"}});
    let volume = json!({"metadata": {"name": "v"}});
    state.volumes.claims.insert(
        watch_cache::ObjectKey::new("default", "c"),
        Arc::new(serde_json::from_value(claim).unwrap()),
    );
    state.volumes.volumes.insert(
        "v".to_owned(),
        Arc::new(serde_json::from_value(volume).unwrap()),
    );
    let using = |name: &str| {
        let source = json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}});
        pod(name, json!({"spec": {"volumes": [source]}}))
    };
    assert!(schedule(&state, &using("first"), 0).is_ok());
    state.place("a", using("first"));
    let refused = schedule(&state, &using("second"), 0).unwrap_err();
    assert!(
        refused.message().contains("ReadWriteOncePod"),
        "{}",
        refused.message()
    );
    state.remove_pod("first");
    assert!(schedule(&state, &using("second"), 0).is_ok());
}

#[test]
fn a_pod_that_claims_devices_waits() {
    let claims = json!({"spec": {"resourceClaims": [{"name": "d", "resourceClaimName": "c"}]}});
    check(json!({}), &[], claims, Err("1 cannot allocate all claims"));
}

#[test]
fn no_nodes_is_said_so() {
    let no_fit = schedule(&ClusterState::default(), &pod("new", json!({})), 0).unwrap_err();
    assert_eq!(no_fit.message(), "no nodes available to schedule pods");
}
