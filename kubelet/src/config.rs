use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::server::Serving;

/// How a kubelet runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node's name; the machine's host name when empty.
    pub node_name: String,
    /// The runtime's CRI socket.
    pub runtime_socket: PathBuf,
    /// Volumes and what else belongs to pods.
    pub root: PathBuf,
    /// Container logs, one directory for each pod.
    pub pod_logs: PathBuf,
    /// Links to the logs by container.
    pub container_logs: PathBuf,
    /// The node's addresses, one of each family; found by the default routes when empty.
    pub node_ips: Vec<IpAddr>,
    /// Labels that the node is registered with.
    pub labels: BTreeMap<String, String>,
    /// Taints that the node is registered with.
    pub taints: Vec<Taint>,
    pub provider_id: Option<String>,
    /// The cluster's name servers, for pods.
    pub cluster_dns: Vec<IpAddr>,
    pub cluster_domain: String,
    /// The resolver configuration that pods with the node's resolver get.
    pub resolv_conf: PathBuf,
    /// Below this cgroup are those of the pods; the root when empty.
    pub cgroup_root: String,
    /// Where the cgroup hierarchies are mounted.
    pub cgroup_mount: PathBuf,
    pub max_pods: u32,
    /// Kernel settings, beside the safe ones, that pods may change; `*` at the end is any.
    pub allowed_sysctls: Vec<String>,
    /// Held back from pods, by resource.
    pub reserved: BTreeMap<String, String>,
    pub eviction: EvictionThresholds,
    pub images: ImageCollection,
    /// A directory with manifests of pods that run without the API server; it need not exist.
    pub manifests: Option<PathBuf>,
    /// A container's log is rotated at this size.
    pub log_max_bytes: u64,
    /// Log files of a container, with the one that is written.
    pub log_max_files: usize,
    pub lease_seconds: i32,
    /// How often the status of a node on which nothing changes is written.
    pub status_interval: Duration,
    /// Where the kubelet's own server listens; nowhere when `None`.
    pub listen: Option<SocketAddr>,
    /// The server's certificate and who may ask.
    pub serving: Option<Serving>,
}

/// Below these the node evicts pods.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EvictionThresholds {
    pub memory_available_bytes: u64,
    /// Of the file system with the kubelet's files, in percent.
    pub nodefs_available_percent: f64,
    pub nodefs_inodes_percent: f64,
    /// Of the file system with the images, in percent.
    pub imagefs_available_percent: f64,
    /// Of the process ids, in percent.
    pub pid_available_percent: f64,
}

impl Default for EvictionThresholds {
    fn default() -> Self {
        Self {
            memory_available_bytes: 100 << 20,
            nodefs_available_percent: 10.0,
            nodefs_inodes_percent: 5.0,
            imagefs_available_percent: 15.0,
            pid_available_percent: 5.0,
        }
    }
}

impl EvictionThresholds {
    /// Nothing is evicted, however full the node is.
    pub const NONE: Self = Self {
        memory_available_bytes: 0,
        nodefs_available_percent: 0.0,
        nodefs_inodes_percent: 0.0,
        imagefs_available_percent: 0.0,
        pid_available_percent: 0.0,
    };
}

/// A list of thresholds that is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{threshold:?} is no eviction threshold: write SIGNAL<VALUE, {expected}")]
pub struct InvalidThreshold {
    threshold: String,
    expected: &'static str,
}

/// As the kubelet's `--eviction-hard`: `memory.available<100Mi,nodefs.available<10%`. A signal
/// that is not named has no threshold.
impl FromStr for EvictionThresholds {
    type Err = InvalidThreshold;

    fn from_str(text: &str) -> Result<Self, InvalidThreshold> {
        let mut thresholds = Self::NONE;
        for part in text.split(',').filter(|part| !part.trim().is_empty()) {
            let invalid = |expected| InvalidThreshold {
                threshold: part.to_owned(),
                expected,
            };
            let (signal, value) = part
                .split_once('<')
                .ok_or_else(|| invalid("such as nodefs.available<10%"))?;
            let percent = || {
                let number = value.trim().strip_suffix('%').map(str::parse::<f64>);
                number
                    .and_then(Result::ok)
                    .filter(|percent| (0.0..=100.0).contains(percent))
                    .ok_or_else(|| invalid("with the value in percent, such as 10%"))
            };
            match signal.trim() {
                "memory.available" => {
                    let bytes = api_rules::quantity::value(&Quantity(value.trim().to_owned()));
                    thresholds.memory_available_bytes = bytes
                        .ok()
                        .and_then(|bytes| u64::try_from(bytes).ok())
                        .ok_or_else(|| invalid("with the value in bytes, such as 100Mi"))?;
                }
                "nodefs.available" => thresholds.nodefs_available_percent = percent()?,
                "nodefs.inodesFree" => thresholds.nodefs_inodes_percent = percent()?,
                "imagefs.available" => thresholds.imagefs_available_percent = percent()?,
                "pid.available" => thresholds.pid_available_percent = percent()?,
                _ => {
                    return Err(invalid(
                        "where SIGNAL is memory.available, nodefs.available, nodefs.inodesFree, \
                         imagefs.available or pid.available",
                    ));
                }
            }
        }
        Ok(thresholds)
    }
}

/// When unused images are removed.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageCollection {
    /// Usage of the images' file system, in percent, at which removal starts.
    pub high_percent: f64,
    /// Usage at which it ends.
    pub low_percent: f64,
    pub minimum_age: Duration,
    /// Images that stay whatever happens: no registry would bring them back.
    pub keep: Vec<String>,
}

impl ImageCollection {
    /// Removal starts at this usage, in percent; never at 100.
    pub fn above(high_percent: u8) -> Self {
        let default = Self::default();
        let high_percent = f64::from(high_percent);
        Self {
            high_percent,
            low_percent: default.low_percent.min(high_percent),
            ..default
        }
    }
}

impl Default for ImageCollection {
    fn default() -> Self {
        Self {
            high_percent: 85.0,
            low_percent: 80.0,
            minimum_age: Duration::from_secs(120),
            keep: vec!["fairlead/*".to_owned(), "docker.io/fairlead/*".to_owned()],
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node_name: String::new(),
            runtime_socket: "/run/containerd/containerd.sock".into(),
            root: "/var/lib/kubelet".into(),
            pod_logs: "/var/log/pods".into(),
            container_logs: "/var/log/containers".into(),
            node_ips: Vec::new(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            provider_id: None,
            cluster_dns: vec![IpAddr::from([10, 96, 0, 10])],
            cluster_domain: "cluster.local".to_owned(),
            resolv_conf: "/etc/resolv.conf".into(),
            cgroup_root: String::new(),
            cgroup_mount: "/sys/fs/cgroup".into(),
            max_pods: 110,
            allowed_sysctls: Vec::new(),
            reserved: BTreeMap::new(),
            eviction: EvictionThresholds::default(),
            images: ImageCollection::default(),
            manifests: None,
            log_max_bytes: 10 << 20,
            log_max_files: 5,
            lease_seconds: 40,
            status_interval: Duration::from_secs(300),
            listen: Some(SocketAddr::from(([0, 0, 0, 0], 10250))),
            serving: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_written_as_the_kubelet_takes_them() {
        let read: EvictionThresholds = "memory.available<1Gi, nodefs.available<7.5%"
            .parse()
            .unwrap();
        let expected = EvictionThresholds {
            memory_available_bytes: 1 << 30,
            nodefs_available_percent: 7.5,
            ..EvictionThresholds::NONE
        };
        assert_eq!(read, expected);
        assert_eq!("".parse(), Ok(EvictionThresholds::NONE));
        for bad in [
            "disk<5%",
            "nodefs.available",
            "pid.available<5",
            "nodefs.available<101%",
        ] {
            assert!(bad.parse::<EvictionThresholds>().is_err(), "{bad}");
        }
    }
}
