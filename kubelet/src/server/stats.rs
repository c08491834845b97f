//! What pods and the node use.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use nix::sys::statvfs::statvfs;
use serde_json::{Value, json};

use crate::context::Context;
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
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PodUsage {
    pub(super) identity: PodIdentity,
    pub(super) started_at: Option<Timestamp>,
    pub(super) containers: Vec<ContainerUsage>,
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
        let record = listed
            .iter()
            .find_map(|listed| listed.observed.by_id(&attributes.id));
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
        pods: pods.into_values().collect(),
    })
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
    let pods: Vec<Value> = usage
        .pods
        .iter()
        .map(|pod| {
            let sum = |of: fn(&ContainerUsage) -> u64| pod.containers.iter().map(of).sum::<u64>();
            json!({
                "podRef": {
                    "name": pod.identity.name,
                    "namespace": pod.identity.namespace,
                    "uid": pod.identity.uid,
                },
                "startTime": pod.started_at.map(time),
                "containers": pod.containers.iter().map(|c| usage.container_json(c)).collect::<Vec<_>>(),
                "cpu": {
                    "time": time(usage.at),
                    "usageNanoCores": sum(|c| c.cpu_nanocores),
                    "usageCoreNanoSeconds": sum(|c| c.cpu_nanoseconds),
                },
                "memory": {
                    "time": time(usage.at),
                    "workingSetBytes": sum(|c| c.working_set),
                    "usageBytes": sum(|c| c.usage),
                    "rssBytes": sum(|c| c.rss),
                },
                "ephemeral-storage": usage.filesystem_json(sum(|c| c.layer_bytes)),
            })
        })
        .collect();
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
            pods: vec![PodUsage {
                identity: PodIdentity {
                    namespace: "ns".into(),
                    name: "p".into(),
                    uid: "u".into(),
                },
                started_at: None,
                containers: vec![container("a", 3), container("b", 4)],
            }],
        };
        let made = summary(&usage);
        assert_eq!(made["pods"][0]["memory"]["workingSetBytes"], 7);
        assert_eq!(made["node"]["memory"]["workingSetBytes"], 6);
    }
}
