//! What an operator decides about an API server.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use ipnetwork::IpNetwork;

use crate::audit::AuditConfig;
use crate::authn::AuthenticationConfig;
use crate::authz::AuthorizationConfig;

/// Where objects are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum StorageKind {
    /// The embedded store, in `DIR/db`.
    #[default]
    Embedded,
    Etcd(EtcdConfig),
}

/// How to reach etcd.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EtcdConfig {
    pub endpoints: Vec<String>,
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
}

/// The whole configuration; [`Config::default`] is what `fairlead server` runs with.
#[derive(Debug, Clone)]
pub struct Config {
    pub data_dir: PathBuf,
    pub bind_address: IpAddr,
    /// 0 lets the system choose (tests); the chosen port stands in the running server.
    pub secure_port: u16,
    /// The address that others reach this server at; default: that of the route out.
    pub advertise_address: Option<IpAddr>,
    /// Further names and addresses for the serving certificate.
    pub extra_sans: Vec<String>,
    pub service_cidrs: Vec<IpNetwork>,
    pub cluster_cidrs: Vec<IpNetwork>,
    pub cluster_domain: String,
    pub cluster_dns: Vec<IpAddr>,
    /// `vxlan` or `bgp`, for the nodes.
    pub network: String,
    /// `ipvs`, `iptables` or `nftables`, for the nodes.
    pub proxy: String,
    pub storage: StorageKind,
    /// Whose credentials are known beside this server's own.
    pub authentication: AuthenticationConfig,
    /// Who says what users may do.
    pub authorization: AuthorizationConfig,
    /// What is recorded of requests, and where.
    pub audit: AuditConfig,
    /// An EncryptionConfiguration: what the store keeps encrypted.
    pub encryption_config_file: Option<PathBuf>,
    /// How long events are kept.
    pub event_ttl: Duration,
    /// Requests that run at the same time, shared out among the priority levels.
    pub max_in_flight: u32,
    /// Privileged containers are allowed in pods.
    pub allow_privileged: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            data_dir: PathBuf::from("/var/lib/fairlead"),
            bind_address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            secure_port: 6443,
            advertise_address: None,
            extra_sans: Vec::new(),
            service_cidrs: ranges(&["10.96.0.0/12"]),
            cluster_cidrs: ranges(&["10.244.0.0/16"]),
            cluster_domain: "cluster.local".into(),
            cluster_dns: vec![IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10))],
            network: "vxlan".into(),
            proxy: "iptables".into(),
            storage: StorageKind::Embedded,
            authentication: AuthenticationConfig::default(),
            authorization: AuthorizationConfig::default(),
            audit: AuditConfig::default(),
            encryption_config_file: None,
            event_ttl: Duration::from_secs(3600),
            max_in_flight: 600,
            allow_privileged: true,
        }
    }
}

fn ranges(texts: &[&str]) -> Vec<IpNetwork> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}
