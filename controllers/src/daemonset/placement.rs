//! On which nodes a DaemonSet's pods belong, and what such a pod looks like.

use std::collections::BTreeMap;
use std::sync::Arc;

use api_rules::selector::{Labels, map_matches, node_selector_matches};
use api_rules::toleration::untolerated;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod,
    PodSpec, Toleration,
};
use kube::ResourceExt;

use crate::framework::history::HASH_LABEL;
use crate::framework::owners::controller_of;
use crate::framework::pods;

const NAME_FIELD: &str = "metadata.name";
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";
/// A daemon runs where other pods would not.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];

/// Whether a pod belongs on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    Runs,
    /// None is started there, but one that is there may stay.
    MayStay,
    No,
}

fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut tolerations = spec.tolerations.clone().unwrap_or_default();
    let network = ("node.kubernetes.io/network-unavailable", "NoSchedule");
    let own_network = spec.host_network == Some(true);
    for (key, effect) in TOLERATED.into_iter().chain(own_network.then_some(network)) {
        let known = tolerations.iter().any(|known| {
            known.key.as_deref() == Some(key)
                && known.effect.as_deref() == Some(effect)
                && known.operator.as_deref() == Some("Exists")
        });
        if !known {
            tolerations.push(Toleration {
                key: Some(key.to_owned()),
                operator: Some("Exists".to_owned()),
                effect: Some(effect.to_owned()),
                ..Toleration::default()
            });
        }
    }
    tolerations
}

fn template_spec(set: &DaemonSet) -> PodSpec {
    let template = set.spec.as_ref().map(|spec| &spec.template);
    template
        .and_then(|template| template.spec.clone())
        .unwrap_or_default()
}

/// Whether the set's pod belongs on the node, by name, labels and taints.
pub(crate) fn fit(set: &DaemonSet, node: &Node) -> Fit {
    let spec = template_spec(set);
    let named = spec.node_name.as_deref().filter(|name| !name.is_empty());
    let no_labels = Labels::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&no_labels);
    let selected = spec
        .node_selector
        .as_ref()
        .is_none_or(|wanted| map_matches(wanted, labels));
    let affinity = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|a| {
        a.required_during_scheduling_ignored_during_execution
            .as_ref()
    });
    let near = required.is_none_or(|required| node_selector_matches(required, node));
    if named.is_some_and(|name| name != node.name_any()) || !selected || !near {
        return Fit::No;
    }
    let taints = node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.clone())
        .unwrap_or_default();
    let tolerations = tolerations(&spec);
    if untolerated(&taints, &tolerations, &["NoExecute"]).is_some() {
        return Fit::No;
    }
    match untolerated(&taints, &tolerations, &["NoSchedule"]) {
        Some(_) => Fit::MayStay,
        None => Fit::Runs,
    }
}

/// The set's pod for a node. It is bound to the node by affinity, so that the scheduler
/// places it.
pub(crate) fn pod(set: &DaemonSet, node: &str, hash: &str) -> Pod {
    let template = set
        .spec
        .as_ref()
        .map(|spec| spec.template.clone())
        .unwrap_or_default();
    let namespace = set.namespace().unwrap_or_default();
    let mut pod = pods::from_template(&template, &namespace, &set.name_any(), controller_of(set));
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(HASH_LABEL.to_owned(), hash.to_owned());
    if let Some(generation) = set.annotations().get(TEMPLATE_GENERATION) {
        labels.insert("pod-template-generation".to_owned(), generation.clone());
    }
    let spec = pod.spec.get_or_insert_default();
    spec.tolerations = Some(tolerations(spec));
    let affinity = spec.affinity.get_or_insert_default();
    bind(affinity, node);
    pod
}

fn bind(affinity: &mut Affinity, node: &str) {
    let term = NodeSelectorTerm {
        match_fields: Some(vec![NodeSelectorRequirement {
            key: NAME_FIELD.to_owned(),
            operator: "In".to_owned(),
            values: Some(vec![node.to_owned()]),
        }]),
        match_expressions: None,
    };
    let nodes: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    nodes.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
        node_selector_terms: vec![term],
    });
}

/// The node that a pod is on, or is meant for.
pub(crate) fn node_of(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    if let Some(name) = spec.node_name.clone().filter(|name| !name.is_empty()) {
        return Some(name);
    }
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity
        .required_during_scheduling_ignored_during_execution
        .as_ref()?;
    let fields = required
        .node_selector_terms
        .iter()
        .flat_map(|term| term.match_fields.iter().flatten());
    let mut named = fields.filter(|field| field.key == NAME_FIELD && field.operator == "In");
    named.next()?.values.as_ref()?.first().cloned()
}

/// The set's pods by node.
pub(crate) fn by_node(pods: &[Arc<Pod>]) -> BTreeMap<String, Vec<Arc<Pod>>> {
    let mut placed: BTreeMap<String, Vec<Arc<Pod>>> = BTreeMap::new();
    for pod in pods {
        if let Some(node) = node_of(pod) {
            placed.entry(node).or_default().push(pod.clone());
        }
    }
    for pods in placed.values_mut() {
        pods.sort_by_key(|pod| (pod.creation_timestamp(), pod.name_any()));
    }
    placed
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn set(spec: Value) -> DaemonSet {
        serde_json::from_value(json!({
            "metadata": {"name": "ds", "namespace": "ns", "uid": "d"},
            "spec": {"selector": {}, "template": {"spec": spec}}}))
        .expect("a DaemonSet")
    }

    fn node(taints: Value) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n1", "labels": {"disk": "ssd"}}, "spec": {"taints": taints}}))
        .expect("a Node")
    }

    #[test]
    fn a_daemon_belongs_where_name_labels_and_taints_allow() {
        let taint = |key: &str, effect: &str| json!([{"key": key, "effect": effect}]);
        let plain = json!({"containers": []});
        let cases = [
            (plain.clone(), json!([]), Fit::Runs),
            (
                json!({"containers": [], "nodeSelector": {"disk": "ssd"}}),
                json!([]),
                Fit::Runs,
            ),
            (
                json!({"containers": [], "nodeSelector": {"disk": "hdd"}}),
                json!([]),
                Fit::No,
            ),
            (
                json!({"containers": [], "nodeName": "n2"}),
                json!([]),
                Fit::No,
            ),
            (plain.clone(), taint("gpu", "NoSchedule"), Fit::MayStay),
            (plain.clone(), taint("gpu", "NoExecute"), Fit::No),
            (plain.clone(), taint("gpu", "PreferNoSchedule"), Fit::Runs),
            (
                plain.clone(),
                taint("node.kubernetes.io/unschedulable", "NoSchedule"),
                Fit::Runs,
            ),
            (
                plain.clone(),
                taint("node.kubernetes.io/not-ready", "NoExecute"),
                Fit::Runs,
            ),
            (
                plain,
                taint("node.kubernetes.io/network-unavailable", "NoSchedule"),
                Fit::MayStay,
            ),
            (
                json!({"containers": [], "hostNetwork": true}),
                taint("node.kubernetes.io/network-unavailable", "NoSchedule"),
                Fit::Runs,
            ),
        ];
        for (spec, taints, expect) in cases {
            assert_eq!(
                fit(&set(spec.clone()), &node(taints.clone())),
                expect,
                "{spec} {taints}"
            );
        }
    }

    #[test]
    fn a_pod_is_bound_to_its_node_and_found_by_it() {
        let affinity = json!({"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms":
                [{"matchExpressions": [{"key": "disk", "operator": "Exists"}]}]}}});
        let pod = pod(
            &set(json!({"containers": [], "affinity": affinity})),
            "n7",
            "hash",
        );
        assert_eq!(node_of(&pod).as_deref(), Some("n7"));
        assert_eq!(pod.labels()[HASH_LABEL], "hash");
        let tolerations = pod.spec.expect("a spec").tolerations.expect("tolerations");
        assert_eq!(tolerations.len(), TOLERATED.len());
    }
}
