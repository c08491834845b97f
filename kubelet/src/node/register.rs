use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeDaemonEndpoints, NodeSpec, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::conditions::{self, Health};
use super::{Machine, addresses};
use crate::config::Config;
use crate::context::{Context, Facts};
use crate::quantity::{ResourceList, amount, from_kibibytes, from_milli, quantity};

/// How often the node is looked at while all is well, and while it is not.
const CALM: Duration = Duration::from_secs(10);
const UNREADY: Duration = Duration::from_millis(500);
/// The runtime may be away this long before the node is called unready: it restarts.
const RUNTIME_GRACE: Duration = Duration::from_secs(5);
/// Images in the status, the largest ones.
const IMAGES: usize = 50;

/// What the node offers: what the machine has, less what is held back.
pub(crate) fn facts(config: &Config, machine: &Machine) -> Facts {
    let mut capacity = ResourceList::new();
    let cpus = i64::try_from(machine.cpus).unwrap_or(1);
    capacity.insert("cpu".to_owned(), from_milli(cpus * 1000));
    capacity.insert("memory".to_owned(), from_kibibytes(machine.memory_bytes));
    capacity.insert(
        "ephemeral-storage".to_owned(),
        from_kibibytes(machine.storage_bytes),
    );
    capacity.insert("pods".to_owned(), Quantity(config.max_pods.to_string()));
    for (size, bytes) in &machine.hugepages {
        let name = match size {
            size if size % (1 << 30) == 0 => format!("hugepages-{}Gi", size >> 30),
            size if size % (1 << 20) == 0 => format!("hugepages-{}Mi", size >> 20),
            size => format!("hugepages-{}Ki", size >> 10),
        };
        capacity.insert(name, Quantity(bytes.to_string()));
    }
    let mut allocatable = capacity.clone();
    let eviction = i64::try_from(config.eviction.memory_available_bytes).unwrap_or(0);
    let storage = amount("ephemeral-storage", &capacity["ephemeral-storage"]);
    let held = (storage as f64 * config.eviction.nodefs_available_percent / 100.0) as i64;
    hold_back(&mut allocatable, "memory", eviction);
    hold_back(&mut allocatable, "ephemeral-storage", held);
    for (name, text) in &config.reserved {
        hold_back(
            &mut allocatable,
            name,
            amount(name, &Quantity(text.clone())),
        );
    }
    let host_ips = if config.node_ips.is_empty() {
        addresses::detect()
    } else {
        config.node_ips.clone()
    };
    Facts {
        host_ips,
        capacity,
        allocatable,
        ..Facts::default()
    }
}

fn hold_back(list: &mut ResourceList, name: &str, held: i64) {
    if let Some(present) = list.get_mut(name) {
        let left = (amount(name, present) - held).max(0);
        *present = match name {
            "memory" => from_kibibytes(u64::try_from(left).unwrap_or(0)),
            _ => quantity(name, left),
        };
    }
}

/// What others advertise in the node's capacity (extended resources, which have a domain in their
/// names) is offered whole: it is theirs to change, and to take away.
fn offer_of_others(facts: &mut Facts, there: Option<&NodeStatus>) {
    let advertised = there.and_then(|status| status.capacity.as_ref());
    for (name, amount) in advertised.into_iter().flatten() {
        if name.contains('/') && !facts.capacity.contains_key(name) {
            facts.capacity.insert(name.clone(), amount.clone());
            facts.allocatable.insert(name.clone(), amount.clone());
        }
    }
}

/// Resources that the node has no more. A merge patch keeps what it does not name.
fn gone<'a>(there: &'a NodeStatus, new: &'a NodeStatus) -> impl Iterator<Item = &'a String> {
    let has = |list: &Option<ResourceList>, name: &String| {
        list.as_ref().is_some_and(|list| list.contains_key(name))
    };
    let offered = there.allocatable.iter().flat_map(ResourceList::keys);
    offered.filter(move |name| {
        let advertised = name.contains('/') && has(&there.capacity, name);
        !advertised && !has(&new.allocatable, name)
    })
}

/// Registers the node and keeps its status true.
pub(crate) async fn run(context: Arc<Context>, machine: Machine, shutdown: CancellationToken) {
    let held = context.csi.held.clone();
    let mut keeper = Keeper {
        context,
        machine,
        written: None,
        written_at: None,
        runtime_seen: None,
    };
    loop {
        let pause = keeper.step().await;
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            () = held.changed() => {}
        }
    }
}

struct Keeper {
    context: Arc<Context>,
    machine: Machine,
    /// The last status that was written, without its heartbeats.
    written: Option<Value>,
    written_at: Option<std::time::Instant>,
    runtime_seen: Option<std::time::Instant>,
}

impl Keeper {
    /// Looks once; answers how long to wait for the next time.
    async fn step(&mut self) -> Duration {
        let (status, ready) = self.status().await;
        let steady = steady(&status);
        let due = self
            .written_at
            .is_none_or(|at| at.elapsed() >= self.context.config.status_interval);
        if due || self.written.as_ref() != Some(&steady) {
            match self.write(&status).await {
                Ok(()) => {
                    self.written = Some(steady);
                    self.written_at = Some(std::time::Instant::now());
                }
                Err(error) => {
                    tracing::debug!(%error, "the node's status was not written");
                    return UNREADY;
                }
            }
        }
        if ready { CALM } else { UNREADY }
    }

    async fn status(&mut self) -> (NodeStatus, bool) {
        let context = self.context.clone();
        let runtime = context.runtime.status().await;
        let complaint = match runtime {
            Ok(answer) => {
                self.runtime_seen = Some(std::time::Instant::now());
                let conditions = answer.status.unwrap_or_default().conditions;
                let failing: Vec<String> = conditions
                    .iter()
                    .filter(|condition| {
                        matches!(condition.r#type.as_str(), "RuntimeReady" | "NetworkReady")
                            && !condition.status
                    })
                    .map(|c| {
                        format!(
                            "container runtime: {}: {}: {}",
                            c.r#type, c.reason, c.message
                        )
                    })
                    .collect();
                (!failing.is_empty()).then(|| failing.join(", "))
            }
            Err(_)
                if self
                    .runtime_seen
                    .is_some_and(|at| at.elapsed() < RUNTIME_GRACE) =>
            {
                None
            }
            Err(error) => Some(format!("container runtime is down: {error}")),
        };
        let mut facts = context.facts.read().clone();
        let health = Health {
            memory_pressure: facts.memory_pressure,
            disk_pressure: facts.disk_pressure,
            pid_pressure: facts.pid_pressure,
            complaint,
        };
        let node = context.node_object();
        let there = node.as_ref().and_then(|node| node.status.as_ref());
        offer_of_others(&mut facts, there);
        let before = there.and_then(|status| status.conditions.clone());
        let conditions = conditions::make(&health, &before.unwrap_or_default(), Timestamp::now());
        let ready = health.complaint.is_none();
        let status = NodeStatus {
            addresses: Some(super::node_addresses(
                &facts.host_ips,
                &context.config.node_name,
            )),
            capacity: Some(facts.capacity),
            allocatable: Some(facts.allocatable),
            conditions: Some(conditions),
            daemon_endpoints: context.config.listen.map(|address| NodeDaemonEndpoints {
                kubelet_endpoint: Some(DaemonEndpoint {
                    port: i32::from(address.port()),
                }),
            }),
            images: Some(self.images().await),
            node_info: Some(self.info().await),
            volumes_in_use: Some(context.csi.held.volumes()).filter(|names| !names.is_empty()),
            ..NodeStatus::default()
        };
        (status, ready)
    }

    async fn info(&self) -> NodeSystemInfo {
        let version = self.context.runtime.version().await.unwrap_or_default();
        NodeSystemInfo {
            container_runtime_version: format!(
                "{}://{}",
                version.runtime_name, version.runtime_version
            ),
            ..self.machine.info.clone()
        }
    }

    async fn images(&self) -> Vec<ContainerImage> {
        let mut images = self.context.runtime.list_images().await.unwrap_or_default();
        // Seen now, so that unused images have an age.
        self.context
            .images
            .last_used(images.iter().map(|image| image.id.clone()));
        images.sort_by(|a, b| (b.size, &a.id).cmp(&(a.size, &b.id)));
        images.truncate(IMAGES);
        images
            .into_iter()
            .map(|image| ContainerImage {
                names: Some(
                    image
                        .repo_digests
                        .into_iter()
                        .chain(image.repo_tags)
                        .take(5)
                        .collect(),
                ),
                size_bytes: i64::try_from(image.size).ok(),
            })
            .collect()
    }

    async fn write(&self, status: &NodeStatus) -> Result<(), kube::Error> {
        let api = Api::<Node>::all(self.context.client.clone());
        let name = &self.context.config.node_name;
        let params = PatchParams::default();
        let mut value = serde_json::to_value(status).map_err(kube::Error::SerdeError)?;
        // Addresses that the node does not have any more have to go.
        if let Some(list) = value["addresses"].as_array_mut() {
            list.insert(0, json!({"$patch": "replace"}));
        }
        // What is left out of a patch stays.
        if status.volumes_in_use.is_none() {
            value["volumesInUse"] = Value::Null;
        }
        let node = self.context.node_object();
        for name in (node.iter().filter_map(|node| node.status.as_ref()))
            .flat_map(|there| gone(there, status))
        {
            value["allocatable"][name] = Value::Null;
            // The capacity of others is theirs to write.
            if !name.contains('/') {
                value["capacity"][name] = Value::Null;
            }
        }
        let patch = json!({"status": value});
        match api
            .patch_status(name, &params, &Patch::Strategic(&patch))
            .await
        {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error),
            Ok(node) => return self.label(&api, &node).await,
        }
        let node = Node {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                labels: Some(self.labels()),
                annotations: Some(BTreeMap::from([(
                    "volumes.kubernetes.io/controller-managed-attach-detach".to_owned(),
                    "true".to_owned(),
                )])),
                ..ObjectMeta::default()
            },
            spec: Some(NodeSpec {
                taints: Some(self.context.config.taints.clone())
                    .filter(|taints| !taints.is_empty()),
                provider_id: self.context.config.provider_id.clone(),
                ..NodeSpec::default()
            }),
            status: Some(status.clone()),
        };
        tracing::info!(node = name, "registering the node");
        api.create(&PostParams::default(), &node).await.map(drop)
    }

    /// Labels that a node which was registered before lacks.
    async fn label(&self, api: &Api<Node>, node: &Node) -> Result<(), kube::Error> {
        let present = node.metadata.labels.clone().unwrap_or_default();
        let missing: BTreeMap<String, String> = self
            .labels()
            .into_iter()
            .filter(|(key, value)| present.get(key) != Some(value))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let patch = json!({"metadata": {"labels": missing}});
        let name = &self.context.config.node_name;
        api.patch(name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .map(drop)
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let info = &self.machine.info;
        let own = [
            (
                "kubernetes.io/hostname",
                self.context.config.node_name.clone(),
            ),
            ("kubernetes.io/os", info.operating_system.clone()),
            ("kubernetes.io/arch", info.architecture.clone()),
            ("beta.kubernetes.io/os", info.operating_system.clone()),
            ("beta.kubernetes.io/arch", info.architecture.clone()),
        ];
        let mut labels: BTreeMap<String, String> = own
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect();
        labels.extend(self.context.config.labels.clone());
        labels
    }
}

/// The status without what changes all the time.
fn steady(status: &NodeStatus) -> Value {
    let mut value = serde_json::to_value(status).unwrap_or_default();
    if let Some(conditions) = value["conditions"].as_array_mut() {
        for condition in conditions.iter_mut().filter_map(Value::as_object_mut) {
            condition.remove("lastHeartbeatTime");
            condition.remove("lastTransitionTime");
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_advertise_is_offered_and_what_is_measured_stays() {
        let list = |entries: &[(&str, &str)]| -> ResourceList {
            let entry = |(name, amount): &(&str, &str)| {
                ((*name).to_owned(), Quantity((*amount).to_owned()))
            };
            entries.iter().map(entry).collect()
        };
        let mut facts = Facts {
            capacity: list(&[("cpu", "2")]),
            allocatable: list(&[("cpu", "1")]),
            ..Facts::default()
        };
        let there = NodeStatus {
            capacity: Some(list(&[
                ("cpu", "9"),
                ("hugepages-2Mi", "4Mi"),
                ("example.com/dongle", "5"),
            ])),
            allocatable: Some(list(&[
                ("cpu", "9"),
                ("hugepages-2Mi", "4Mi"),
                ("example.com/gone", "1"),
            ])),
            ..NodeStatus::default()
        };
        offer_of_others(&mut facts, Some(&there));
        assert_eq!(
            facts.capacity,
            list(&[("cpu", "2"), ("example.com/dongle", "5")])
        );
        assert_eq!(
            facts.allocatable,
            list(&[("cpu", "1"), ("example.com/dongle", "5")])
        );
        let new = NodeStatus {
            capacity: Some(facts.capacity),
            allocatable: Some(facts.allocatable),
            ..NodeStatus::default()
        };
        let gone: Vec<&String> = gone(&there, &new).collect();
        assert_eq!(gone, ["example.com/gone", "hugepages-2Mi"]);
    }

    #[test]
    fn what_is_held_back_is_not_offered() {
        let machine = Machine {
            cpus: 2,
            memory_bytes: 4 << 30,
            storage_bytes: 100 << 30,
            hugepages: vec![(2 << 20, 64 << 20)],
            ..Machine::default()
        };
        let config = Config {
            reserved: [("cpu".to_owned(), "100m".to_owned())].into(),
            node_ips: vec!["10.0.0.1".parse().unwrap()],
            ..Config::default()
        };
        let facts = facts(&config, &machine);
        let text = |name: &str| facts.allocatable[name].0.clone();
        assert_eq!(text("cpu"), "1900m");
        assert_eq!(text("memory"), format!("{}Ki", (4 << 20) - 100 * 1024));
        assert_eq!(text("pods"), "110");
        assert_eq!(facts.capacity["hugepages-2Mi"].0, (64 << 20).to_string());
        assert_eq!(text("ephemeral-storage"), (90_i64 << 30).to_string());
    }
}
