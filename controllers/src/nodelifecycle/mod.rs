//! Node lifecycle: notices nodes that have fallen silent and tells it by conditions and
//! taints; [`crate::tainteviction`] then makes pods leave.
//!
//! Nothing polls: every sign of life moves the node's timer, and a timer that ends is a node
//! that has been silent for too long.

mod health;
mod zones;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::json;
use watch_cache::{Change, Index, WatchCache};

use crate::framework::{
    Context, During, Error, EventType, Outcome, Reconciler, Tolerate, act, pods,
};
use crate::podgc::by_node;
use health::{Evict, Pulse, readiness};
use zones::Zones;

const NAME: &str = "node-lifecycle-controller";
const EVENT_SOURCE: &str = "node-controller";
const LEASES: &str = "kube-node-lease";

pub(crate) fn start(context: &Context) {
    let nodes = context.caches.of::<Node>();
    let leases = context.caches.of::<Lease>();
    let all_pods = context.caches.of::<Pod>();
    let siblings = nodes.clone();
    context
        .controller(NAME)
        .watch(&nodes, move |change| {
            let mut keys = vec![change.key().name];
            // Readiness of one node decides how fast others are evicted.
            if let Change::Applied {
                old: Some(old),
                new,
            } = change
                && readiness(old) != readiness(new)
            {
                let all = siblings.list();
                let unready = all.iter().filter(|node| readiness(node) != "True");
                keys.extend(unready.map(|node| node.name_any()));
            }
            keys
        })
        .watch(&leases, |change| {
            let key = change.key();
            (key.namespace == LEASES).then_some(key.name)
        })
        .reads(&all_pods)
        .run(
            context.config.workers,
            Controller {
                context: context.clone(),
                nodes,
                leases,
                of_node: by_node(&all_pods),
                pulses: Mutex::default(),
                zones: Mutex::default(),
            },
        );
}

struct Controller {
    context: Context,
    nodes: WatchCache<Node>,
    leases: WatchCache<Lease>,
    of_node: Index<Pod>,
    pulses: Mutex<HashMap<String, Pulse>>,
    zones: Mutex<Zones>,
}

impl Reconciler for Controller {
    type Key = String;

    async fn sync(&self, name: &String) -> Result<Outcome, Error> {
        let Some(node) = self.nodes.get("", name) else {
            self.pulses.lock().remove(name);
            return Ok(Outcome::Done);
        };
        let config = &self.context.config.node_health;
        let silence = self
            .observe(name, &node)
            .remaining(&node, config, Instant::now());
        if silence.is_zero()
            && let Some(conditions) = health::silenced(&node, Timestamp::now())
        {
            self.silence(&node, conditions).await?;
            // The node as it is told now comes back by the watch.
            return Ok(Outcome::Done);
        }
        if readiness(&node) != "True" {
            self.unready_pods(&node).await?;
        }
        let wait = self.taint(&node).await?;
        let silence = (!silence.is_zero()).then_some(silence);
        Ok(Outcome::after(silence.into_iter().chain(wait).min()))
    }
}

impl Controller {
    fn observe(&self, name: &str, node: &Node) -> Pulse {
        let lease = self.leases.get(LEASES, name);
        let renewed = lease.and_then(|lease| lease.spec.as_ref()?.renew_time.clone());
        let renewed = renewed.map(|time| time.0.to_string());
        let mut pulses = self.pulses.lock();
        let pulse = Pulse::observe(pulses.remove(name), renewed, node, Instant::now());
        pulses.insert(name.to_owned(), pulse.clone());
        pulse
    }

    async fn silence(
        &self,
        node: &Node,
        conditions: Vec<k8s_openapi::api::core::v1::NodeCondition>,
    ) -> Result<(), Error> {
        let name = node.name_any();
        let was_ready = readiness(node) == "True";
        let mut silent = node.clone();
        silent.status.get_or_insert_default().conditions = Some(conditions);
        let api = self.context.cluster_api::<Node>();
        act::replace_status(&api, &silent).await.unless_gone()?;
        if was_ready {
            let message = format!("Node {name} status is now: NodeNotReady");
            let recorder = &self.context.recorder;
            recorder.event(
                EVENT_SOURCE,
                node,
                EventType::Normal,
                "NodeNotReady",
                message,
            );
        }
        Ok(())
    }

    /// Pods of a node that is not ready are not ready: Services must not send to them.
    async fn unready_pods(&self, node: &Node) -> Result<(), Error> {
        for pod in self.of_node.get(&node.name_any()) {
            if !pods::is_ready(&pod) {
                continue;
            }
            let mut conditions = pod
                .status
                .as_ref()
                .and_then(|s| s.conditions.clone())
                .unwrap_or_default();
            for condition in conditions.iter_mut().filter(|c| c.type_ == "Ready") {
                condition.status = "False".to_owned();
                condition.last_transition_time = Some(Time(Timestamp::now()));
            }
            let change = json!({
                "metadata": {"uid": pod.metadata.uid,
                    "resourceVersion": pod.metadata.resource_version},
                "status": {"conditions": conditions}});
            let api = self
                .context
                .api::<Pod>(&pod.namespace().unwrap_or_default());
            api.patch_status(
                &pod.name_any(),
                &PatchParams::default(),
                &Patch::Merge(&change),
            )
            .await
            .during("marking Pod", pod.name_any())
            .unless_gone()?;
            let kind = EventType::Warning;
            let recorder = &self.context.recorder;
            recorder.event(
                EVENT_SOURCE,
                pod.as_ref(),
                kind,
                "NodeNotReady",
                "Node is not ready",
            );
        }
        Ok(())
    }

    /// Brings the taints up to date; returns when the node's turn to be evicted may come.
    async fn taint(&self, node: &Node) -> Result<Option<Duration>, Error> {
        let (evict, wait) = self.may_evict(node);
        let Some(taints) = health::taints(node, evict, Timestamp::now()) else {
            return Ok(wait);
        };
        let api = self.context.cluster_api::<Node>();
        act::merge(&api, node, json!({"spec": {"taints": taints}}))
            .await
            .unless_gone()?;
        Ok(wait)
    }

    fn may_evict(&self, node: &Node) -> (Evict, Option<Duration>) {
        let config = &self.context.config.node_health;
        let mut zones = self.zones.lock();
        zones.count(&self.nodes.list());
        if zones.all_down(config) {
            return (Evict::Never, None);
        }
        if !health::wants_eviction(node) {
            return (Evict::Hold, None);
        }
        match zones.admit(&zones::zone_of(node), config, Instant::now()) {
            Ok(()) => (Evict::Yes, None),
            Err(wait) => (Evict::Hold, wait),
        }
    }
}
