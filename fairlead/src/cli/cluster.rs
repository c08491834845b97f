//! A cluster: its server, its nodes and what lets a node in.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{AuthenticationSettings, AuthorizationSettings, ClusterNetwork, Output, ProxyMode};

/// This machine as a whole cluster: control plane and one node
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  fairlead up --network vxlan --proxy iptables\n  \
                        export KUBECONFIG=/var/lib/fairlead/admin.kubeconfig"
)]
pub(crate) struct Up {
    #[command(flatten)]
    pub(crate) server: ServerSettings,
    #[command(flatten)]
    pub(crate) node: NodeSettings,
}

/// Control plane only; prints the command that joins a node
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  fairlead server --data-dir /var/lib/fairlead\n  \
                        fairlead server --controllers '*,-node-lifecycle' --no-scheduler"
)]
pub(crate) struct Server {
    #[command(flatten)]
    pub(crate) settings: ServerSettings,
    /// Controllers to run: `*` for all, NAME to add one, -NAME to leave one out
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "*",
        allow_hyphen_values = true
    )]
    pub(crate) controllers: Vec<String>,
    /// Let another scheduler place the pods
    #[arg(long)]
    pub(crate) no_scheduler: bool,
}

/// Where a server keeps its state, listens, and what the cluster's networks are.
#[derive(Debug, Args)]
pub(crate) struct ServerSettings {
    /// Certificates, the store and the admin's kubeconfig
    #[arg(long, default_value = "/var/lib/fairlead", value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// The address to listen on; all of them when not given
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) bind_address: Option<IpAddr>,
    /// The address that nodes and clients reach this server at; that of the default route when
    /// not given
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) advertise_address: Option<IpAddr>,
    #[arg(long, default_value_t = 6443, value_name = "PORT")]
    pub(crate) secure_port: u16,
    /// Services get their addresses from here: one range per IP family
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "10.96.0.0/12",
        value_name = "CIDR"
    )]
    pub(crate) service_cidr: Vec<ipnetwork::IpNetwork>,
    /// Pods get their addresses from here: one range per IP family
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "10.244.0.0/16",
        value_name = "CIDR"
    )]
    pub(crate) cluster_cidr: Vec<ipnetwork::IpNetwork>,
    /// How pods of different nodes reach each other
    #[arg(long, default_value = "vxlan")]
    pub(crate) network: ClusterNetwork,
    /// What programs Services into the kernel
    #[arg(long, default_value = "iptables")]
    pub(crate) proxy: ProxyMode,
    /// Where the API's objects are kept
    #[arg(long, default_value = "embedded")]
    pub(crate) storage: Storage,
    /// The members of the etcd cluster, for `--storage etcd`
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "URL",
        required_if_eq("storage", "etcd")
    )]
    pub(crate) etcd_endpoints: Vec<String>,
    /// Trusts an etcd whose certificate this authority signed
    #[arg(long, value_name = "FILE")]
    pub(crate) etcd_cafile: Option<PathBuf>,
    /// The certificate that etcd knows this server by
    #[arg(long, value_name = "FILE", requires = "etcd_keyfile")]
    pub(crate) etcd_certfile: Option<PathBuf>,
    #[arg(long, value_name = "FILE")]
    pub(crate) etcd_keyfile: Option<PathBuf>,
    /// What the store keeps encrypted: an EncryptionConfiguration
    #[arg(long, value_name = "FILE")]
    pub(crate) encryption_provider_config: Option<PathBuf>,
    /// Hours that events are kept
    #[arg(long, default_value_t = 1, value_name = "HOURS")]
    pub(crate) event_ttl: u32,
    #[command(flatten)]
    pub(crate) audit: AuditSettings,
    #[command(flatten)]
    pub(crate) authentication: AuthenticationSettings,
    #[command(flatten)]
    pub(crate) authorization: AuthorizationSettings,
}

/// What is recorded of requests.
#[derive(Debug, Args)]
pub(crate) struct AuditSettings {
    /// What is recorded of requests: a Policy of audit.k8s.io
    #[arg(long, value_name = "FILE", requires = "audit_log_path")]
    pub(crate) audit_policy_file: Option<PathBuf>,
    /// Where it is recorded; - is standard output
    #[arg(long, value_name = "FILE", requires = "audit_policy_file")]
    pub(crate) audit_log_path: Option<PathBuf>,
    /// Megabytes after which the file is put aside
    #[arg(long, default_value_t = 100, value_name = "MEGABYTES")]
    pub(crate) audit_log_maxsize: u64,
    /// Files that are kept aside; 0 for all
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    pub(crate) audit_log_maxbackup: usize,
    /// Days that they are kept; 0 for ever
    #[arg(long, default_value_t = 0, value_name = "DAYS")]
    pub(crate) audit_log_maxage: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Storage {
    /// A crash-safe store in the data directory
    Embedded,
    /// An etcd cluster, which several servers share
    Etcd,
}

/// This machine as a node of a cluster
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  fairlead join https://192.0.2.1:6443 --token abcdef.0123456789abcdef \\\n      \
                        --ca-cert-hash sha256:1234...\n\nThe server prints this line when it starts; \
                        `fairlead token create` prints a new one."
)]
pub(crate) struct Join {
    /// The server, such as https://192.0.2.1:6443
    pub(crate) server: String,
    /// A join token, ID.SECRET; not needed once the node has its certificate
    #[arg(long, env = "FAIRLEAD_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// The fingerprint of the cluster's certificate authority
    #[arg(long, value_name = "sha256:HEX")]
    pub(crate) ca_cert_hash: Option<String>,
    #[command(flatten)]
    pub(crate) node: NodeSettings,
}

/// What a node is called and which runtime it uses.
#[derive(Debug, Args)]
pub(crate) struct NodeSettings {
    /// The node's name; the host name when not given
    #[arg(long, value_name = "NAME")]
    pub(crate) node_name: Option<String>,
    /// The node's address in each IP family; those of the default route when not given
    #[arg(long, value_delimiter = ',', value_name = "ADDRESS")]
    pub(crate) node_ip: Vec<IpAddr>,
    /// Labels that the node registers with
    #[arg(long, value_delimiter = ',', value_name = "KEY=VALUE")]
    pub(crate) node_labels: Vec<String>,
    /// The socket of the container runtime
    #[arg(
        long,
        default_value = "/run/containerd/containerd.sock",
        value_name = "SOCKET"
    )]
    pub(crate) container_runtime: PathBuf,
    /// Pods are evicted below these, such as memory.available<100Mi,nodefs.available<10%; empty: never
    #[arg(
        long,
        default_value = "memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,imagefs.available<15%,pid.available<5%",
        value_name = "LIST"
    )]
    pub(crate) eviction_hard: kubelet::EvictionThresholds,
    /// How full, in percent, the images' file system is when unused images are removed; 100: never
    #[arg(long, default_value = "85", value_name = "PERCENT",
          value_parser = clap::value_parser!(u8).range(1..=100))]
    pub(crate) image_gc_high_threshold: u8,
    /// A directory with manifests of pods that the node runs by itself
    #[arg(long, default_value = "/etc/kubernetes/manifests", value_name = "DIR")]
    pub(crate) pod_manifest_path: PathBuf,
    /// Where the node keeps its credentials
    #[arg(long, default_value = "/var/lib/fairlead/node", value_name = "DIR")]
    pub(crate) node_dir: PathBuf,
}

/// Join tokens
#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Makes a token and prints the command that joins a node
    #[command(after_help = "Example:\n  fairlead token create --ttl 2h")]
    Create(TokenCreate),
    /// Lists the tokens and their expiry
    #[command(after_help = "Example:\n  fairlead token list")]
    List(TokenList),
    /// Deletes a token: nobody joins with it any more
    #[command(after_help = "Example:\n  fairlead token delete abcdef")]
    Delete(TokenDelete),
}

#[derive(Debug, Args)]
pub(crate) struct TokenCreate {
    /// How long the token is valid: 30m, 24h, or 0 for ever
    #[arg(long, default_value = "24h")]
    pub(crate) ttl: String,
    /// What the token is for
    #[arg(long, default_value = "")]
    pub(crate) description: String,
    #[command(flatten)]
    pub(crate) admin: AdminKubeconfig,
}

#[derive(Debug, Args)]
pub(crate) struct TokenList {
    #[arg(short, long, default_value = "text")]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) admin: AdminKubeconfig,
}

#[derive(Debug, Args)]
pub(crate) struct TokenDelete {
    /// The token, or the part before its dot
    pub(crate) token: String,
    #[command(flatten)]
    pub(crate) admin: AdminKubeconfig,
}

#[derive(Debug, Args)]
pub(crate) struct AdminKubeconfig {
    /// The kubeconfig of an administrator
    #[arg(
        long,
        env = "KUBECONFIG",
        default_value = "/var/lib/fairlead/admin.kubeconfig"
    )]
    pub(crate) kubeconfig: PathBuf,
}
