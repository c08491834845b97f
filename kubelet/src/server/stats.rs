//! What pods and the node use.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use nix::sys::statvfs::statvfs;
use serde_json::{Value, json};

use super::kernel::{self, Interface, Throttling, VolumeUsage};
use crate::context::Context;
use crate::pod::containers;
use crate::pod::resources::{self, Side};
use crate::runtime::{PodIdentity, Selector, label};

/// The usage of one container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ContainerUsage {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) image: String,
    pub(super) cpu_nanoseconds: u64,
    pub(super) cpu_nanocores: u64,
    pub(super) working_set: u64,
    pub(super) usage: u64,
    pub(super) rss: u64,
    pub(super) page_faults: u64,
    pub(super) major_page_faults: u64,
    pub(super) layer_bytes: u64,
    pub(super) layer_inodes: u64,
    pub(super) started_at: Option<Timestamp>,
    pub(super) throttling: Throttling,
    /// In bytes; 0 for none.
    pub(super) memory_limit: i64,
    /// In thousandths; 0 for none.
    pub(super) cpu_limit: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PodUsage {
    pub(super) identity: PodIdentity,
    pub(super) started_at: Option<Timestamp>,
    pub(super) containers: Vec<ContainerUsage>,
    pub(super) interfaces: Vec<Interface>,
    pub(super) processes: Option<u64>,
    pub(super) volumes: Vec<VolumeUsage>,
}

/// A file system's bytes and inodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Filesystem {
    pub(super) capacity: u64,
    pub(super) available: u64,
    pub(super) inodes: u64,
    pub(super) inodes_free: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) node: String,
    pub(super) at: Timestamp,
    pub(super) cpu_nanoseconds: u64,
    pub(super) memory_total: u64,
    pub(super) memory_available: u64,
    pub(super) filesystem: Filesystem,
    pub(super) processors: u64,
    /// Of the node's own network.
    pub(super) interfaces: Vec<Interface>,
    pub(super) pods: Vec<PodUsage>,
}

fn value(wrapped: Option<&cri::v1::UInt64Value>) -> u64 {
    wrapped.map_or(0, |wrapped| wrapped.value)
}

/// Asks the runtime and the kernel.
pub(super) async fn usage(context: &Context) -> Result<Usage, cri::Error> {
    let listed = context.list();
    let mut pods: BTreeMap<String, PodUsage> = listed
        .iter()
        .filter(|listed| listed.observed.alive().next().is_some())
        .map(|listed| {
            let identity = PodIdentity::of(&listed.pod);
            let started = listed
                .current
                .status
                .as_ref()
                .and_then(|status| status.start_time.as_ref());
            let started_at = started.map(|time| time.0);
            (
                identity.uid.clone(),
                PodUsage {
                    identity,
                    started_at,
                    containers: Vec::new(),
                    interfaces: kernel::interfaces(context, listed),
                    processes: kernel::processes(context, &listed.pod),
                    volumes: Vec::new(),
                },
            )
        })
        .collect();
    for stats in context.runtime.stats(Selector::new()).await? {
        let attributes = stats.attributes.clone().unwrap_or_default();
        let Some(uid) = attributes.labels.get(label::POD_UID) else {
            continue;
        };
        let Some(pod) = pods.get_mut(uid) else {
            continue;
        };
        let owner = listed
            .iter()
            .find(|listed| listed.observed.by_id(&attributes.id).is_some());
        let record = owner.and_then(|listed| listed.observed.by_id(&attributes.id));
        let limit = |resource| {
            let spec = containers::find(&owner?.pod, &record?.name)?;
            resources::of_container(&spec.container, Side::Limits, resource)
        };
        let (cpu, memory) = (
            stats.cpu.unwrap_or_default(),
            stats.memory.unwrap_or_default(),
        );
        let layer = stats.writable_layer.unwrap_or_default();
        pod.containers.push(ContainerUsage {
            name: attributes.metadata.unwrap_or_default().name,
            image: record
                .map(|record| record.image.clone())
                .unwrap_or_default(),
            started_at: record.and_then(crate::pod::observed::Record::started_at),
            throttling: owner.map_or_else(Throttling::default, |owner| {
                kernel::throttling(context, &owner.pod, &attributes.id)
            }),
            memory_limit: limit("memory").unwrap_or(0),
            cpu_limit: limit("cpu").unwrap_or(0),
            id: attributes.id,
            cpu_nanoseconds: value(cpu.usage_core_nano_seconds.as_ref()),
            cpu_nanocores: value(cpu.usage_nano_cores.as_ref()),
            working_set: value(memory.working_set_bytes.as_ref()),
            usage: value(memory.usage_bytes.as_ref()),
            rss: value(memory.rss_bytes.as_ref()),
            page_faults: value(memory.page_faults.as_ref()),
            major_page_faults: value(memory.major_page_faults.as_ref()),
            layer_bytes: value(layer.used_bytes.as_ref()),
            layer_inodes: value(layer.inodes_used.as_ref()),
        });
    }
    Ok(Usage {
        node: context.config.node_name.clone(),
        at: Timestamp::now(),
        cpu_nanoseconds: node_cpu(&std::fs::read_to_string("/proc/stat").unwrap_or_default()),
        memory_total: meminfo("MemTotal"),
        memory_available: meminfo("MemAvailable"),
        filesystem: filesystem(&context.config.root),
        processors: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
        interfaces: kernel::parse_interfaces(
            &std::fs::read_to_string("/proc/net/dev").unwrap_or_default(),
        ),
        pods: pods.into_values().collect(),
    })
}

/// Measures what the volumes hold, which is dearer than the rest.
pub(super) async fn add_volumes(context: &Arc<Context>, usage: &mut Usage) {
    let listed = context.list();
    let paths = context.paths.clone();
    let uids: BTreeSet<String> = usage
        .pods
        .iter()
        .map(|pod| pod.identity.uid.clone())
        .collect();
    let measured = tokio::task::spawn_blocking(move || {
        let pods = listed.iter().filter_map(|listed| {
            let uid = listed.pod.metadata.uid.clone()?;
            let used = uids.contains(&uid);
            used.then(|| (uid, kernel::volumes(&paths, &listed.pod)))
        });
        pods.collect::<BTreeMap<String, Vec<VolumeUsage>>>()
    });
    let mut measured = measured.await.unwrap_or_default();
    for pod in &mut usage.pods {
        pod.volumes = measured.remove(&pod.identity.uid).unwrap_or_default();
    }
}

fn meminfo(field: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text
        .lines()
        .find(|line| line.starts_with(field))
        .unwrap_or_default();
    line.split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse::<u64>().ok())
        .unwrap_or(0)
        * 1024
}

/// Time that all processors together were busy.
fn node_cpu(stat: &str) -> u64 {
    const TICK_NANOSECONDS: u64 = 10_000_000;
    let fields: Vec<u64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|f| f.parse().ok())
        .collect();
    // The fourth and fifth fields are idle time.
    let busy: u64 = fields
        .iter()
        .take(8)
        .enumerate()
        .filter(|(i, _)| !matches!(i, 3 | 4))
        .map(|(_, t)| t)
        .sum();
    busy * TICK_NANOSECONDS
}

fn filesystem(path: &std::path::Path) -> Filesystem {
    statvfs(path).map_or_else(
        |_| Filesystem::default(),
        |stat| Filesystem {
            capacity: stat.blocks() * stat.fragment_size(),
            available: stat.blocks_available() * stat.fragment_size(),
            inodes: stat.files(),
            inodes_free: stat.files_free(),
        },
    )
}

fn time(at: Timestamp) -> Value {
    json!(Time(at))
}

impl Usage {
    fn filesystem_json(&self, used: u64) -> Value {
        let Filesystem {
            capacity,
            available,
            inodes,
            inodes_free,
        } = self.filesystem;
        json!({
            "time": time(self.at),
            "availableBytes": available,
            "capacityBytes": capacity,
            "usedBytes": used,
            "inodes": inodes,
            "inodesFree": inodes_free,
            "inodesUsed": inodes.saturating_sub(inodes_free),
        })
    }

    fn network_json(&self, interfaces: &[Interface]) -> Value {
        let one = |found: &Interface| {
            json!({
                "name": found.name,
                "rxBytes": found.receive.bytes,
                "rxErrors": found.receive.errors,
                "txBytes": found.transmit.bytes,
                "txErrors": found.transmit.errors,
            })
        };
        // The first is the one with the way out; `eth0` in a pod.
        let mut network = interfaces.first().map_or_else(|| json!({}), one);
        network["time"] = time(self.at);
        network["interfaces"] = interfaces.iter().map(one).collect();
        network
    }

    fn volume_json(&self, volume: &VolumeUsage) -> Value {
        json!({
            "name": volume.name,
            "time": time(self.at),
            "availableBytes": volume.available,
            "capacityBytes": volume.capacity,
            "usedBytes": volume.used,
            "inodes": volume.inodes,
            "inodesFree": volume.inodes_free,
            "inodesUsed": volume.inodes_used,
        })
    }

    fn pod_json(&self, pod: &PodUsage) -> Value {
        let sum = |of: fn(&ContainerUsage) -> u64| pod.containers.iter().map(of).sum::<u64>();
        let volumes: u64 = pod.volumes.iter().map(|volume| volume.used).sum();
        let containers = pod.containers.iter().map(|c| self.container_json(c));
        let mut made = json!({
            "podRef": {
                "name": pod.identity.name,
                "namespace": pod.identity.namespace,
                "uid": pod.identity.uid,
            },
            "startTime": pod.started_at.map(time),
            "containers": containers.collect::<Vec<_>>(),
            "cpu": {
                "time": time(self.at),
                "usageNanoCores": sum(|c| c.cpu_nanocores),
                "usageCoreNanoSeconds": sum(|c| c.cpu_nanoseconds),
            },
            "memory": {
                "time": time(self.at),
                "workingSetBytes": sum(|c| c.working_set),
                "usageBytes": sum(|c| c.usage),
                "rssBytes": sum(|c| c.rss),
                "pageFaults": sum(|c| c.page_faults),
                "majorPageFaults": sum(|c| c.major_page_faults),
            },
            "volume": pod.volumes.iter().map(|v| self.volume_json(v)).collect::<Vec<_>>(),
            "ephemeral-storage": self.filesystem_json(sum(|c| c.layer_bytes) + volumes),
        });
        if !pod.interfaces.is_empty() {
            made["network"] = self.network_json(&pod.interfaces);
        }
        if let Some(processes) = pod.processes {
            made["process_stats"] = json!({"process_count": processes});
        }
        made
    }

    fn container_json(&self, container: &ContainerUsage) -> Value {
        json!({
            "name": container.name,
            "startTime": container.started_at.map(time),
            "cpu": {
                "time": time(self.at),
                "usageNanoCores": container.cpu_nanocores,
                "usageCoreNanoSeconds": container.cpu_nanoseconds,
            },
            "memory": {
                "time": time(self.at),
                "workingSetBytes": container.working_set,
                "usageBytes": container.usage,
                "rssBytes": container.rss,
                "pageFaults": container.page_faults,
                "majorPageFaults": container.major_page_faults,
            },
            "rootfs": self.filesystem_json(container.layer_bytes),
            "logs": self.filesystem_json(0),
        })
    }
}

/// The answer of `/stats/summary`.
pub(super) fn summary(usage: &Usage) -> Value {
    let pods: Vec<Value> = usage.pods.iter().map(|pod| usage.pod_json(pod)).collect();
    let used = usage
        .filesystem
        .capacity
        .saturating_sub(usage.filesystem.available);
    let working = usage.memory_total.saturating_sub(usage.memory_available);
    json!({
        "node": {
            "nodeName": usage.node,
            "cpu": {"time": time(usage.at), "usageCoreNanoSeconds": usage.cpu_nanoseconds},
            "memory": {
                "time": time(usage.at),
                "availableBytes": usage.memory_available,
                "usageBytes": working,
                "workingSetBytes": working,
            },
            "fs": usage.filesystem_json(used),
            "network": usage.network_json(&usage.interfaces),
            "runtime": {"imageFs": usage.filesystem_json(used)},
        },
        "pods": pods,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_is_not_busy_time() {
        assert_eq!(
            node_cpu("cpu  10 1 5 1000 50 1 2 0 7 7\ncpu0 1\n"),
            19 * 10_000_000
        );
    }

    #[test]
    fn a_pod_uses_what_its_containers_use() {
        let container = |name: &str, bytes| ContainerUsage {
            name: name.into(),
            working_set: bytes,
            ..ContainerUsage::default()
        };
        let usage = Usage {
            node: "n".into(),
            at: crate::testing::at(0),
            cpu_nanoseconds: 1,
            memory_total: 10,
            memory_available: 4,
            filesystem: Filesystem::default(),
            processors: 1,
            interfaces: Vec::new(),
            pods: vec![PodUsage {
                identity: PodIdentity {
                    namespace: "ns".into(),
                    name: "p".into(),
                    uid: "u".into(),
                },
                started_at: None,
                containers: vec![container("a", 3), container("b", 4)],
                interfaces: Vec::new(),
                processes: Some(5),
                volumes: Vec::new(),
            }],
        };
        let made = summary(&usage);
        assert_eq!(made["pods"][0]["memory"]["workingSetBytes"], 7);
        assert_eq!(made["pods"][0]["process_stats"]["process_count"], 5);
        assert_eq!(made["node"]["memory"]["workingSetBytes"], 6);
    }
}
