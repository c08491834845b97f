//! The pod network: alone on the nodes of any cluster, the overlay by itself, the self-test.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use ipnetwork::IpNetwork;

use super::{Network, Output};

/// Runs the pod network of this node on a cluster of any kind: the CNI plugin, the overlay or
/// the routed mode, IP pools and policies; nothing else
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  fairlead network manifest --image registry.example/fairlead:1 | kubectl apply -f -\n  \
                  fairlead network --kubeconfig K --node-name node1 --mode bgp"
)]
pub(crate) struct NodeNetwork {
    #[command(subcommand)]
    pub(crate) question: Option<NetworkQuestion>,
    /// The API server and the credentials; those of the pod that this runs in when not given
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The node's name; the host name when not given
    #[arg(long, value_name = "NAME")]
    pub(crate) node_name: Option<String>,
    /// How pods of different nodes reach each other
    #[arg(long, default_value = "vxlan")]
    pub(crate) mode: Network,
    /// Where the container runtime looks for plugins
    #[arg(long, default_value = "/opt/cni/bin", value_name = "DIR")]
    pub(crate) cni_bin_dir: PathBuf,
    /// Somebody else enforces policies
    #[arg(long)]
    pub(crate) no_policy: bool,
    #[command(flatten)]
    pub(crate) overlay: OverlaySettings,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NetworkQuestion {
    /// Prints what brings the network to every node: definitions, rights and a DaemonSet
    #[command(
        after_help = "Example:\n  fairlead network manifest --image registry.example/fairlead:1 --mode bgp | kubectl apply -f -"
    )]
    Manifest(Manifest),
}

/// What the manifest says.
#[derive(Debug, Args)]
pub(crate) struct Manifest {
    /// An image that has `fairlead` and `fairlead-cni` in /usr/local/bin
    #[arg(long, value_name = "IMAGE")]
    pub(crate) image: String,
    #[arg(long, default_value = "vxlan")]
    pub(crate) mode: Network,
    /// The ranges that all pods of the cluster are in
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "10.244.0.0/16",
        value_name = "CIDR"
    )]
    pub(crate) cluster_cidr: Vec<IpNetwork>,
    /// Further arguments of `fairlead network` on every node
    #[arg(last = true)]
    pub(crate) arguments: Vec<String>,
}

/// Runs the overlay of this node, for the Node of this machine's name
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  fairlead vxlan --kubeconfig K --node-name node1 --cluster-cidr 10.244.0.0/16 --iface eth1"
)]
pub(crate) struct Vxlan {
    #[command(flatten)]
    pub(crate) part: super::NodePart,
    #[command(flatten)]
    pub(crate) overlay: OverlaySettings,
}

/// The overlay's settings, and those that both modes have.
#[derive(Debug, Args)]
pub(crate) struct OverlaySettings {
    /// The ranges that all pods of the cluster are in
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "10.244.0.0/16",
        value_name = "CIDR"
    )]
    pub(crate) cluster_cidr: Vec<IpNetwork>,
    /// The number of the overlay in the outer packets
    #[arg(long, default_value_t = 1, value_name = "VNI")]
    pub(crate) vni: u32,
    /// The UDP port of the outer packets
    #[arg(long, default_value_t = 8472, value_name = "PORT")]
    pub(crate) vxlan_port: u16,
    /// The MTU of pods; from the underlay when not given
    #[arg(long, value_name = "BYTES")]
    pub(crate) mtu: Option<u32>,
    /// The interface whose addresses the tunnels use; the Node's InternalIP when not given
    #[arg(long, value_name = "NAME", group = "underlay")]
    pub(crate) iface: Option<String>,
    /// The first interface whose name or address matches
    #[arg(long, value_name = "PATTERN", group = "underlay")]
    pub(crate) iface_regex: Option<regex::Regex>,
    /// The interface through which this address is reached
    #[arg(long, value_name = "ADDRESS", group = "underlay")]
    pub(crate) iface_can_reach: Option<IpAddr>,
    /// Nodes on the same link get plain routes
    #[arg(long)]
    pub(crate) direct_routing: bool,
    /// Pods keep their addresses wherever they send
    #[arg(long)]
    pub(crate) no_masquerade: bool,
    /// Destinations outside that see the pods' own addresses
    #[arg(long, value_delimiter = ',', value_name = "CIDR")]
    pub(crate) masquerade_exceptions: Vec<IpNetwork>,
    /// Whether tunnels may leave checksums to the hardware
    #[arg(long, default_value = "detect")]
    pub(crate) checksum_offload: Offload,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Offload {
    /// Where the kernel does it right
    Detect,
    Off,
    /// As the kernel has it
    Keep,
}

/// Tests this node's pod network: what is set up, and the largest packet that reaches each node
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  fairlead doctor\n  fairlead lab exec demo node1 -- fairlead doctor -o json"
)]
pub(crate) struct Doctor {
    /// The API server and credentials that may read Nodes; the node's own when not given
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The node's name; the host name when not given
    #[arg(long, value_name = "NAME")]
    pub(crate) node_name: Option<String>,
    #[arg(long, default_value_t = 1, value_name = "VNI")]
    pub(crate) vni: u32,
    #[arg(short, long, default_value = "text")]
    pub(crate) output: Output,
}
