//! Whether a pod that was given to this node may run here.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelectorTerm, Pod, Taint, Toleration};

use super::containers;
use super::resources::{self, Side};
use super::security;
use crate::quantity::{ResourceList, amount};

/// Why a pod is refused, as its status says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    pub reason: String,
    pub message: String,
}

impl Rejection {
    fn new(reason: impl Into<String>, message: impl AsRef<str>) -> Self {
        let message = format!("Pod was rejected: {}", message.as_ref());
        Self {
            reason: reason.into(),
            message,
        }
    }
}

/// What the pod is checked against.
pub struct Room<'a> {
    pub node: &'a Node,
    pub allocatable: &'a ResourceList,
    /// The pods that hold something of the node, without the one that is checked.
    pub others: &'a [&'a Pod],
    pub allowed_sysctls: &'a [String],
    /// Pressures of the node: a pod that would make them worse is refused.
    pub memory_pressure: bool,
    pub disk_pressure: bool,
}

/// Checks the pod against the node.
pub fn admit(pod: &Pod, room: &Room<'_>) -> Result<(), Rejection> {
    if let Some(name) = security::forbidden_sysctl(pod, room.allowed_sysctls) {
        let message = format!("forbidden sysctl: \"{name}\" not allowlisted");
        return Err(Rejection::new("SysctlForbidden", message));
    }
    under_pressure(pod, room)?;
    if !matches_node(pod, room.node) {
        let message =
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
        return Err(Rejection::new("NodeAffinity", message));
    }
    if let Some(port) = taken_port(pod, room.others) {
        let message = format!("Predicate NodePorts failed: host port {port} is in use");
        return Err(Rejection::new("NodePorts", message));
    }
    if !tolerates_all(pod, room.node) {
        let message =
            "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate";
        return Err(Rejection::new("TaintToleration", message));
    }
    fits(pod, room)
}

fn under_pressure(pod: &Pod, room: &Room<'_>) -> Result<(), Rejection> {
    let critical = containers::spec(pod).priority.unwrap_or(0) >= 2_000_000_000;
    let best_effort = super::qos::class(pod) == super::qos::Qos::BestEffort;
    let condition = match (room.disk_pressure, room.memory_pressure && best_effort) {
        _ if critical => return Ok(()),
        (true, _) => "DiskPressure",
        (_, true) => "MemoryPressure",
        _ => return Ok(()),
    };
    let message = format!("The node had condition: [{condition}]. ");
    Err(Rejection::new("Evicted", message))
}

/// Whether the requests fit beside those of the other pods.
pub fn fits(pod: &Pod, room: &Room<'_>) -> Result<(), Rejection> {
    let capacity = |name: &str| room.allocatable.get(name).map_or(0, |q| amount(name, q));
    let shortage = |name: &str, requested: i64, used: i64, capacity: i64| {
        Rejection::new(
            format!("OutOf{name}"),
            format!(
                "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
            ),
        )
    };
    let pods = i64::try_from(room.others.len()).unwrap_or(i64::MAX);
    if pods >= capacity("pods") {
        return Err(shortage("pods", 1, pods, capacity("pods")));
    }
    for name in resources::names(pod) {
        // An extended resource that others gave to the Node object is the scheduler's business.
        if name.contains('/') && !room.allocatable.contains_key(&name) {
            continue;
        }
        let requested = resources::of_pod(pod, Side::Requests, &name).unwrap_or(0);
        if requested == 0 {
            continue;
        }
        let used: i64 = room
            .others
            .iter()
            .map(|other| resources::of_pod(other, Side::Requests, &name).unwrap_or(0))
            .sum();
        if used.saturating_add(requested) > capacity(&name) {
            return Err(shortage(&name, requested, used, capacity(&name)));
        }
    }
    Ok(())
}

type HostPort = (String, String, i32);

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    containers::all(pod)
        .iter()
        .flat_map(|spec| {
            spec.container
                .ports
                .iter()
                .flatten()
                .filter_map(|port| {
                    let number = port.host_port.filter(|number| *number > 0)?;
                    let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
                    let address = port.host_ip.clone().unwrap_or_default();
                    Some((address, protocol, number))
                })
                .collect::<Vec<_>>()
        })
        .collect()
}

fn taken_port(pod: &Pod, others: &[&Pod]) -> Option<i32> {
    let any = |address: &str| matches!(address, "" | "0.0.0.0" | "::");
    let taken: Vec<HostPort> = others.iter().flat_map(|other| host_ports(other)).collect();
    host_ports(pod)
        .into_iter()
        .find_map(|(address, protocol, number)| {
            let clash = taken.iter().any(|(other, other_protocol, other_number)| {
                *other_number == number
                    && *other_protocol == protocol
                    && (any(other) || any(&address) || *other == address)
            });
            clash.then_some(number)
        })
}

fn tolerates_all(pod: &Pod, node: &Node) -> bool {
    let tolerations = containers::spec(pod)
        .tolerations
        .as_deref()
        .unwrap_or_default();
    let taints = node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default();
    taints
        .iter()
        .filter(|taint| taint.effect == "NoExecute")
        .all(|taint| {
            tolerations
                .iter()
                .any(|toleration| tolerates(toleration, taint))
        })
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or("Equal") {
        "Exists" => true,
        _ => {
            let value = |text: &Option<String>| text.clone().unwrap_or_default();
            !key.is_empty() && value(&toleration.value) == value(&taint.value)
        }
    }
}

/// Whether the node has what the pod's node selector and required node affinity ask for.
pub fn matches_node(pod: &Pod, node: &Node) -> bool {
    let spec = containers::spec(pod);
    let none = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&none);
    let selected = spec
        .node_selector
        .iter()
        .flatten()
        .all(|(key, value)| labels.get(key) == Some(value));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| {
            affinity
                .required_during_scheduling_ignored_during_execution
                .as_ref()
        });
    selected
        && required.is_none_or(|required| {
            required
                .node_selector_terms
                .iter()
                .any(|term| matches_term(term, node, labels))
        })
}

fn matches_term(term: &NodeSelectorTerm, node: &Node, labels: &BTreeMap<String, String>) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let name = node.metadata.name.as_ref();
    let in_labels = |r: &k8s_openapi::api::core::v1::NodeSelectorRequirement| {
        matches_requirement(&r.operator, r.values.as_deref(), labels.get(&r.key))
    };
    let in_fields = |r: &k8s_openapi::api::core::v1::NodeSelectorRequirement| {
        let value = name.filter(|_| r.key == "metadata.name");
        matches_requirement(&r.operator, r.values.as_deref(), value)
    };
    expressions.iter().all(in_labels) && fields.iter().all(in_fields)
}

fn matches_requirement(operator: &str, values: Option<&[String]>, value: Option<&String>) -> bool {
    let values = values.unwrap_or_default();
    let number = |text: &String| text.parse::<i64>().ok();
    let bound = values.first().and_then(number);
    match operator {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => value.is_none_or(|value| !values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => value
            .and_then(number)
            .zip(bound)
            .is_some_and(|(value, bound)| value > bound),
        "Lt" => value
            .and_then(number)
            .zip(bound)
            .is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::pod;

    fn check(spec: Value, expected: Option<&str>) {
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": "n1", "labels": {"zone": "a", "cores": "8"}},
            "spec": {"taints": [{"key": "gone", "effect": "NoExecute"}, {"key": "no", "effect": "NoSchedule"}]},
        }))
        .unwrap();
        let mut spec = spec;
        if spec.get("tolerations").is_none() {
            spec["tolerations"] = json!([{"operator": "Exists"}]);
        }
        let shown = spec.to_string();
        let pod_ = pod(json!({"spec": spec}));
        let other = pod(
            json!({"metadata": {"name": "o"}, "spec": {"containers": [{"name": "c",
            "ports": [{"containerPort": 1, "hostPort": 80, "hostIP": "127.0.0.1"}],
            "resources": {"requests": {"cpu": "1500m"}}}]}}),
        );
        let allocatable: ResourceList = [("cpu", "2"), ("memory", "1Gi"), ("pods", "2")]
            .map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned())))
            .into();
        let room = Room {
            node: &node,
            allocatable: &allocatable,
            others: &[&other],
            allowed_sysctls: &[],
            memory_pressure: false,
            disk_pressure: false,
        };
        let reason = admit(&pod_, &room).err().map(|rejection| rejection.reason);
        assert_eq!(reason.as_deref(), expected, "{shown}");
    }

    #[test]
    fn pods_that_do_not_fit_are_refused_with_the_reason() {
        let requests =
            |list: Value| json!({"containers": [{"name": "c", "resources": {"requests": list}}]});
        check(requests(json!({"cpu": "500m", "memory": "1Gi"})), None);
        check(requests(json!({"cpu": "501m"})), Some("OutOfcpu"));
        check(requests(json!({"memory": "1025Mi"})), Some("OutOfmemory"));
        check(requests(json!({"example.com/gpu": "1"})), None);
    }

    #[test]
    fn selectors_ports_and_taints_are_checked() {
        let port = |ip: &str| json!({"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": 80, "hostIP": ip}]}]});
        check(port("0.0.0.0"), Some("NodePorts"));
        check(port("127.0.0.2"), None);
        check(
            json!({"containers": [], "nodeSelector": {"zone": "b"}}),
            Some("NodeAffinity"),
        );
        let affinity = |operator: &str, values: Value| {
            json!({"containers": [], "affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "cores", "operator": operator, "values": values}]}]}}}})
        };
        check(affinity("Gt", json!(["4"])), None);
        check(affinity("Lt", json!(["4"])), Some("NodeAffinity"));
        check(affinity("NotIn", json!(["8"])), Some("NodeAffinity"));
        check(
            json!({"containers": [], "tolerations": []}),
            Some("TaintToleration"),
        );
        check(
            json!({"containers": [], "tolerations": [{"key": "gone", "operator": "Exists"}]}),
            None,
        );
    }
}
