//! The cluster as the scheduler sees it: nodes with what is taken of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use api_rules::requests::{self, Amounts};
use api_rules::selector::Labels;
use k8s_openapi::api::core::v1::{Node, Taint};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use crate::pod::{HostPort, PodInfo};
use crate::volumes::Volumes;

/// Amounts of what a node has; CPU in thousandths of a core, memory and storage in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    pub milli_cpu: i64,
    pub memory: i64,
    pub ephemeral_storage: i64,
    pub pods: i64,
    /// Extended resources and huge pages, by name.
    pub others: BTreeMap<String, i64>,
}

impl Resources {
    pub fn of(amounts: &Amounts) -> Self {
        let mut resources = Self::default();
        for (name, amount) in amounts {
            match name.as_str() {
                "cpu" => resources.milli_cpu = *amount,
                "memory" => resources.memory = *amount,
                "ephemeral-storage" => resources.ephemeral_storage = *amount,
                "pods" => resources.pods = *amount,
                _ => {
                    resources.others.insert(name.clone(), *amount);
                }
            }
        }
        resources
    }

    /// The same for a pod's requests; every pod takes one of the node's pods.
    pub fn of_pod(amounts: &Amounts) -> Self {
        Self {
            pods: 1,
            ..Self::of(amounts)
        }
    }

    /// Whether some amount is smaller than the other's.
    pub fn is_below(&self, other: &Self) -> bool {
        let less = |name: &String, amount: &i64| self.others.get(name).unwrap_or(&0) < amount;
        self.milli_cpu < other.milli_cpu
            || self.memory < other.memory
            || self.ephemeral_storage < other.ephemeral_storage
            || other.others.iter().any(|(name, amount)| less(name, amount))
    }

    fn add(&mut self, other: &Self, sign: i64) {
        let step = |into: &mut i64, amount: i64| *into = into.saturating_add(sign * amount);
        step(&mut self.milli_cpu, other.milli_cpu);
        step(&mut self.memory, other.memory);
        step(&mut self.ephemeral_storage, other.ephemeral_storage);
        step(&mut self.pods, other.pods);
        for (name, amount) in &other.others {
            step(self.others.entry(name.clone()).or_default(), *amount);
        }
    }
}

/// A node and the pods that are on it or assumed to be.
#[derive(Debug, Clone)]
pub struct NodeInfo {
    pub node: Arc<Node>,
    pub name: String,
    pub allocatable: Resources,
    pub requested: Resources,
    pub scored_requested: Resources,
    pub pods: BTreeMap<String, Arc<PodInfo>>,
    pub host_ports: BTreeSet<HostPort>,
    /// Size in bytes of each image on the node, by every name it has.
    pub images: HashMap<String, i64>,
}

impl NodeInfo {
    pub fn new(node: Arc<Node>) -> Self {
        let status = node.status.as_ref();
        let allocatable = status
            .and_then(|s| s.allocatable.as_ref().or(s.capacity.as_ref()))
            .map(requests::amounts)
            .unwrap_or_default();
        let images = status
            .and_then(|s| s.images.as_ref())
            .into_iter()
            .flatten()
            .flat_map(|image| {
                let size = image.size_bytes.unwrap_or(0);
                image
                    .names
                    .iter()
                    .flatten()
                    .map(move |name| (name.clone(), size))
            })
            .collect();
        Self {
            name: node.metadata.name.clone().unwrap_or_default(),
            allocatable: Resources::of(&allocatable),
            requested: Resources::default(),
            scored_requested: Resources::default(),
            pods: BTreeMap::new(),
            host_ports: BTreeSet::new(),
            images,
            node,
        }
    }

    pub fn labels(&self) -> Option<&Labels> {
        self.node.metadata.labels.as_ref()
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels()?.get(key).map(String::as_str)
    }

    pub fn taints(&self) -> &[Taint] {
        self.node
            .spec
            .as_ref()
            .and_then(|spec| spec.taints.as_deref())
            .unwrap_or_default()
    }

    pub fn is_unschedulable(&self) -> bool {
        self.node
            .spec
            .as_ref()
            .is_some_and(|spec| spec.unschedulable == Some(true))
    }

    pub fn add_pod(&mut self, pod: Arc<PodInfo>) {
        self.remove_pod(&pod.uid);
        self.requested.add(&pod.requests, 1);
        self.scored_requested.add(&pod.scored_requests, 1);
        self.host_ports.extend(pod.host_ports.iter().cloned());
        self.pods.insert(pod.uid.clone(), pod);
    }

    pub fn remove_pod(&mut self, uid: &str) {
        let Some(pod) = self.pods.remove(uid) else {
            return;
        };
        self.requested.add(&pod.requests, -1);
        self.scored_requested.add(&pod.scored_requests, -1);
        self.host_ports = self
            .pods
            .values()
            .flat_map(|other| other.host_ports.iter().cloned())
            .collect();
    }

    /// The same node object with newer content; the pods stay.
    fn renew(&mut self, node: Arc<Node>) {
        let mut renewed = Self::new(node);
        for pod in std::mem::take(&mut self.pods).into_values() {
            renewed.add_pod(pod);
        }
        *self = renewed;
    }
}

/// Everything that a scheduling decision is made from.
#[derive(Debug, Clone, Default)]
pub struct ClusterState {
    pub nodes: BTreeMap<String, NodeInfo>,
    /// Labels of each namespace, for namespace selectors.
    pub namespaces: BTreeMap<String, Labels>,
    pub volumes: Volumes,
    pub budgets: Vec<Arc<PodDisruptionBudget>>,
    /// Pods that wait for a node which is being cleared for them, by uid.
    pub nominated: BTreeMap<String, (String, Arc<PodInfo>)>,
    /// Where each known pod is, by uid; also pods on nodes that are not known (yet).
    placed: HashMap<String, (String, Arc<PodInfo>)>,
    /// Uids of placed pods that demand distance from others.
    repelling: BTreeSet<String>,
}

impl ClusterState {
    pub fn set_node(&mut self, node: Arc<Node>) {
        let name = node.metadata.name.clone().unwrap_or_default();
        if let Some(known) = self.nodes.get_mut(&name) {
            known.renew(node);
            return;
        }
        let mut info = NodeInfo::new(node);
        for (on, pod) in self.placed.values() {
            if *on == name {
                info.add_pod(pod.clone());
            }
        }
        self.nodes.insert(name, info);
    }

    pub fn remove_node(&mut self, name: &str) {
        self.nodes.remove(name);
    }

    /// Puts a pod on a node: one that is bound, or one that is assumed to be soon.
    pub fn place(&mut self, node: &str, pod: Arc<PodInfo>) {
        self.remove_pod(&pod.uid);
        if !pod.required_anti_affinity.is_empty() {
            self.repelling.insert(pod.uid.clone());
        }
        if let Some(info) = self.nodes.get_mut(node) {
            info.add_pod(pod.clone());
        }
        self.placed.insert(pod.uid.clone(), (node.to_owned(), pod));
    }

    pub fn remove_pod(&mut self, uid: &str) {
        self.repelling.remove(uid);
        let Some((node, _)) = self.placed.remove(uid) else {
            return;
        };
        if let Some(info) = self.nodes.get_mut(&node) {
            info.remove_pod(uid);
        }
    }

    pub fn placement(&self, uid: &str) -> Option<&str> {
        self.placed.get(uid).map(|(node, _)| node.as_str())
    }

    /// The pod as it was last seen on its node.
    pub fn placed_pod(&self, uid: &str) -> Option<&Arc<PodInfo>> {
        self.placed.get(uid).map(|(_, pod)| pod)
    }

    /// Pods that demand distance from others, with the node they are on.
    pub fn repelling(&self) -> impl Iterator<Item = (&NodeInfo, &Arc<PodInfo>)> {
        self.repelling.iter().filter_map(|uid| {
            let (node, pod) = self.placed.get(uid)?;
            Some((self.nodes.get(node)?, pod))
        })
    }

    /// Every placed pod on a known node.
    pub fn pods(&self) -> impl Iterator<Item = (&NodeInfo, &Arc<PodInfo>)> {
        self.nodes
            .values()
            .flat_map(|node| node.pods.values().map(move |pod| (node, pod)))
    }
}
