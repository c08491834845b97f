//! What the parts of one kubelet share.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::Client;
use parking_lot::{Mutex, RwLock};
use watch_cache::WatchCache;

use crate::cgroups::Cgroups;
use crate::config::Config;
use crate::csi::Drivers;
use crate::events::Recorder;
use crate::images::Images;
use crate::metrics::Metrics;
use crate::objects::ObjectStore;
use crate::pod::admission::Room;
use crate::pod::observed::Observed;
use crate::quantity::{ResourceList, value};
use crate::runtime::Runtime;
use crate::static_pods;
use crate::tokens::Tokens;
use crate::volumes::Paths;

/// What is known of the node itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    pub host_ips: Vec<IpAddr>,
    pub capacity: ResourceList,
    pub allocatable: ResourceList,
    pub memory_pressure: bool,
    pub disk_pressure: bool,
    pub pid_pressure: bool,
}

/// A pod as the rest of the kubelet sees it.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    pub pod: Arc<Pod>,
    /// With the status as the kubelet last made it.
    pub current: Arc<Pod>,
    pub observed: Arc<Observed>,
    /// Whether the pod still takes something of the node.
    pub holds: bool,
}

pub(crate) struct Context {
    pub config: Config,
    pub client: Client,
    pub runtime: Arc<dyn Runtime>,
    pub cgroups: Cgroups,
    pub paths: Paths,
    pub events: Recorder,
    pub images: Images,
    pub objects: ObjectStore,
    pub tokens: Tokens,
    pub csi: Drivers,
    pub services: WatchCache<Service>,
    pub node: WatchCache<Node>,
    pub runtime_classes: WatchCache<RuntimeClass>,
    pub facts: RwLock<Facts>,
    /// The pods that have a worker, by uid.
    pub pods: Mutex<BTreeMap<String, Listed>>,
    pub metrics: Metrics,
}

impl Context {
    pub(crate) fn node_object(&self) -> Option<Arc<Node>> {
        self.node.get("", &self.config.node_name)
    }

    pub(crate) fn memory_capacity(&self) -> i64 {
        self.facts.read().capacity.get("memory").map_or(0, value)
    }

    /// Runs a check against the node and the pods on it, without the one that is checked.
    pub(crate) fn with_room<T>(&self, uid: &str, check: impl FnOnce(&Room<'_>) -> T) -> T {
        let facts = self.facts.read().clone();
        let node = self.node_object();
        let none = Node::default();
        let others: Vec<Arc<Pod>> = self
            .pods
            .lock()
            .iter()
            .filter(|(other, listed)| *other != uid && listed.holds)
            .map(|(_, listed)| listed.pod.clone())
            .collect();
        let others: Vec<&Pod> = others.iter().map(Arc::as_ref).collect();
        check(&Room {
            node: node.as_deref().unwrap_or(&none),
            allocatable: &facts.allocatable,
            others: &others,
            allowed_sysctls: &self.config.allowed_sysctls,
            memory_pressure: facts.memory_pressure,
            disk_pressure: facts.disk_pressure,
        })
    }

    pub(crate) fn list(&self) -> Vec<Listed> {
        self.pods.lock().values().cloned().collect()
    }

    /// A pod by name, the one that still runs before others of the name.
    pub(crate) fn find(&self, namespace: &str, name: &str, uid: Option<&str>) -> Option<Listed> {
        let pods = self.pods.lock();
        let mut found: Vec<&Listed> = pods
            .values()
            .filter(|listed| {
                let meta = &listed.pod.metadata;
                meta.namespace.as_deref() == Some(namespace)
                    && meta.name.as_deref() == Some(name)
                    // A static pod is asked for by the uid of its mirror.
                    && (uid.is_none()
                        || meta.uid.as_deref() == uid
                        || static_pods::is_static(&listed.pod))
            })
            .collect();
        found.sort_by_key(|listed| !listed.holds);
        found.first().map(|listed| (*listed).clone())
    }
}
