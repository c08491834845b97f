//! One part alone, against any conformant API server.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::Args;

/// Runs this part with the kubeconfig's user
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  fairlead scheduler --kubeconfig /etc/kubernetes/scheduler.conf"
)]
pub(crate) struct Part {
    /// The API server and the part's credentials
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    pub(crate) kubeconfig: PathBuf,
}

/// Runs the scheduler with the kubeconfig's user
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  fairlead scheduler --kubeconfig /etc/kubernetes/scheduler.conf"
)]
pub(crate) struct Scheduler {
    #[command(flatten)]
    pub(crate) part: Part,
    /// Where /metrics and /healthz are served, as plain HTTP; `off` for nowhere
    #[arg(long, default_value = "127.0.0.1:10259", value_name = "ADDRESS:PORT", value_parser = address_or_off)]
    pub(crate) metrics_bind_address: Bind,
}

/// An address, or none.
pub(crate) type Bind = Option<SocketAddr>;

fn address_or_off(text: &str) -> Result<Bind, std::net::AddrParseError> {
    match text {
        "off" => Ok(None),
        address => address.parse().map(Some),
    }
}

/// Runs the controllers with the kubeconfig's user
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  fairlead controllers --kubeconfig K --controllers deployment,replicaset"
)]
pub(crate) struct Controllers {
    #[command(flatten)]
    pub(crate) part: Part,
    /// Controllers to run: `*` for all, NAME to add one, -NAME to leave one out
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "*",
        allow_hyphen_values = true
    )]
    pub(crate) controllers: Vec<String>,
    /// Pods get their addresses from here: one range per IP family
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "10.244.0.0/16",
        value_name = "CIDR"
    )]
    pub(crate) cluster_cidr: Vec<ipnetwork::IpNetwork>,
    /// The certificate that signs nodes' certificates; signing is off when not given
    #[arg(long, value_name = "FILE", requires = "signing_key")]
    pub(crate) signing_certificate: Option<PathBuf>,
    #[arg(long, value_name = "FILE")]
    pub(crate) signing_key: Option<PathBuf>,
    /// Where /metrics and /healthz are served, as plain HTTP; `off` for nowhere
    #[arg(long, default_value = "127.0.0.1:10257", value_name = "ADDRESS:PORT", value_parser = address_or_off)]
    pub(crate) metrics_bind_address: Bind,
}

/// Runs this part of a node, for the Node of this machine's name
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  fairlead vxlan --kubeconfig K --node-name node1")]
pub(crate) struct NodePart {
    #[command(flatten)]
    pub(crate) part: Part,
    /// The node's name; the host name when not given
    #[arg(long, value_name = "NAME")]
    pub(crate) node_name: Option<String>,
}

/// Runs the kubelet for this machine
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  fairlead kubelet --kubeconfig /etc/kubernetes/kubelet.conf")]
pub(crate) struct Kubelet {
    #[command(flatten)]
    pub(crate) part: Part,
    #[command(flatten)]
    pub(crate) node: super::NodeSettings,
    /// The name servers of pods; the machine's own when not given
    #[arg(long, value_delimiter = ',', value_name = "ADDRESS")]
    pub(crate) cluster_dns: Vec<IpAddr>,
    /// The domain of Services
    #[arg(long, default_value = "cluster.local", value_name = "DOMAIN")]
    pub(crate) cluster_domain: String,
}

/// Runs the cluster's DNS
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  fairlead dns --kubeconfig K --listen 10.0.0.1")]
pub(crate) struct Dns {
    #[command(flatten)]
    pub(crate) part: Part,
    /// Addresses to answer on, port 53
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "0.0.0.0",
        value_name = "ADDRESS"
    )]
    pub(crate) listen: Vec<IpAddr>,
    #[arg(long, default_value = "cluster.local", value_name = "DOMAIN")]
    pub(crate) domain: String,
}
