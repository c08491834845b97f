//! What the scheduler needs of a pod, worked out once when the pod is seen.

use std::collections::BTreeSet;
use std::sync::Arc;

use api_rules::requests::{self, Amounts, Count};
use k8s_openapi::api::core::v1::{Pod, PodAffinityTerm, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    LabelSelector, LabelSelectorRequirement, OwnerReference,
};
use watch_cache::ObjectKey;

use crate::state::Resources;

/// A port of the node's addresses that a pod takes: protocol, address (`0.0.0.0` for all), number.
pub type HostPort = (String, String, i32);

/// A required or preferred term of pod affinity, with its keys merged into its selector.
#[derive(Debug, Clone)]
pub struct AffinityTerm {
    pub namespaces: BTreeSet<String>,
    pub namespace_selector: Option<LabelSelector>,
    /// `None` picks no pod.
    pub selector: Option<LabelSelector>,
    pub topology_key: String,
    /// 0 for a required term.
    pub weight: i64,
}

/// A pod with what filters and scores read often.
#[derive(Debug, Clone)]
pub struct PodInfo {
    pub pod: Arc<Pod>,
    pub key: ObjectKey,
    pub uid: String,
    pub priority: i32,
    pub requests: Resources,
    /// Requests with upstream's defaults for containers that name none; used by scores only.
    pub scored_requests: Resources,
    pub host_ports: Vec<HostPort>,
    pub required_affinity: Vec<AffinityTerm>,
    pub required_anti_affinity: Vec<AffinityTerm>,
    pub preferred_affinity: Vec<AffinityTerm>,
    pub preferred_anti_affinity: Vec<AffinityTerm>,
}

/// Upstream's guess for a container without a request: a tenth of a core, 200 MiB.
const DEFAULT_MILLI_CPU: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

impl PodInfo {
    pub fn new(pod: Arc<Pod>) -> Self {
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let amounts = requests::of_pod(spec, Count::Requests);
        let terms = Terms::of(&pod, spec);
        Self {
            key: ObjectKey::of(pod.as_ref()),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            priority: spec.priority.unwrap_or(0),
            requests: Resources::of_pod(&amounts),
            scored_requests: scored_requests(spec, &amounts),
            host_ports: host_ports(spec),
            required_affinity: terms.required_affinity,
            required_anti_affinity: terms.required_anti_affinity,
            preferred_affinity: terms.preferred_affinity,
            preferred_anti_affinity: terms.preferred_anti_affinity,
            pod,
        }
    }

    pub fn spec(&self) -> Option<&PodSpec> {
        self.pod.spec.as_ref()
    }

    pub fn node_name(&self) -> Option<&str> {
        self.spec()?
            .node_name
            .as_deref()
            .filter(|name| !name.is_empty())
    }

    pub fn is_terminating(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }

    /// Succeeded or Failed: it takes nothing of its node any more.
    pub fn is_finished(&self) -> bool {
        let phase = self
            .pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    }

    pub fn nominated_node(&self) -> Option<&str> {
        self.pod
            .status
            .as_ref()?
            .nominated_node_name
            .as_deref()
            .filter(|name| !name.is_empty())
    }

    pub fn controller(&self) -> Option<&OwnerReference> {
        let owners = self.pod.metadata.owner_references.as_ref()?;
        owners.iter().find(|owner| owner.controller == Some(true))
    }
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|c| requests::is_sidecar(c));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let number = port.host_port.filter(|number| *number > 0)?;
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            let address = port
                .host_ip
                .clone()
                .filter(|ip| !ip.is_empty() && ip != "::");
            Some((
                protocol,
                address.unwrap_or_else(|| "0.0.0.0".to_owned()),
                number,
            ))
        })
        .collect()
}

fn scored_requests(spec: &PodSpec, amounts: &Amounts) -> Resources {
    let mut resources = Resources::of_pod(amounts);
    let missing = |name: &str| {
        let without = spec.containers.iter().filter(|container| {
            let requests = container
                .resources
                .as_ref()
                .and_then(|r| r.requests.as_ref());
            requests.is_none_or(|requests| !requests.contains_key(name))
        });
        i64::try_from(without.count()).unwrap_or(i64::MAX)
    };
    resources.milli_cpu += missing("cpu").saturating_mul(DEFAULT_MILLI_CPU);
    resources.memory += missing("memory").saturating_mul(DEFAULT_MEMORY);
    resources
}

#[derive(Default)]
struct Terms {
    required_affinity: Vec<AffinityTerm>,
    required_anti_affinity: Vec<AffinityTerm>,
    preferred_affinity: Vec<AffinityTerm>,
    preferred_anti_affinity: Vec<AffinityTerm>,
}

impl Terms {
    fn of(pod: &Pod, spec: &PodSpec) -> Self {
        let Some(affinity) = &spec.affinity else {
            return Self::default();
        };
        let required = |terms: Option<&Vec<PodAffinityTerm>>| {
            terms
                .into_iter()
                .flatten()
                .map(|term| AffinityTerm::new(pod, term, 0))
                .collect()
        };
        let mut terms = Self::default();
        if let Some(own) = &affinity.pod_affinity {
            terms.required_affinity = required(
                own.required_during_scheduling_ignored_during_execution
                    .as_ref(),
            );
            terms.preferred_affinity = own
                .preferred_during_scheduling_ignored_during_execution
                .iter()
                .flatten()
                .map(|w| AffinityTerm::new(pod, &w.pod_affinity_term, i64::from(w.weight)))
                .collect();
        }
        if let Some(own) = &affinity.pod_anti_affinity {
            terms.required_anti_affinity = required(
                own.required_during_scheduling_ignored_during_execution
                    .as_ref(),
            );
            terms.preferred_anti_affinity = own
                .preferred_during_scheduling_ignored_during_execution
                .iter()
                .flatten()
                .map(|w| AffinityTerm::new(pod, &w.pod_affinity_term, i64::from(w.weight)))
                .collect();
        }
        terms
    }
}

impl AffinityTerm {
    fn new(pod: &Pod, term: &PodAffinityTerm, weight: i64) -> Self {
        let mut namespaces: BTreeSet<String> = term.namespaces.iter().flatten().cloned().collect();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.insert(pod.metadata.namespace.clone().unwrap_or_default());
        }
        let matching = term.match_label_keys.as_deref().unwrap_or_default();
        let differing = term.mismatch_label_keys.as_deref().unwrap_or_default();
        let selector = term.label_selector.clone().map(|mut selector| {
            merge_label_keys(&mut selector, pod, matching, "In");
            merge_label_keys(&mut selector, pod, differing, "NotIn");
            selector
        });
        Self {
            namespaces,
            namespace_selector: term.namespace_selector.clone(),
            selector,
            topology_key: term.topology_key.clone(),
            weight,
        }
    }
}

/// Adds `key operator (the pod's own value)` for each key that the pod has and the selector
/// does not already demand.
pub fn merge_label_keys(selector: &mut LabelSelector, pod: &Pod, keys: &[String], operator: &str) {
    let Some(labels) = &pod.metadata.labels else {
        return;
    };
    for key in keys {
        let Some(value) = labels.get(key) else {
            continue;
        };
        let requirement = LabelSelectorRequirement {
            key: key.clone(),
            operator: operator.to_owned(),
            values: Some(vec![value.clone()]),
        };
        let expressions = selector.match_expressions.get_or_insert_default();
        if !expressions.contains(&requirement) {
            expressions.push(requirement);
        }
    }
}
