//! Clusters on one machine.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{ClusterNetwork, Output, ProxyMode};

/// Clusters of several nodes on this machine, to try things and to test
#[derive(Debug, Subcommand)]
pub(crate) enum Lab {
    /// Starts a cluster and waits until every node is Ready
    #[command(after_help = "Example:\n  fairlead lab up demo --nodes 3\n  \
                            export KUBECONFIG=/var/lib/fairlead-labs/demo/kubeconfig")]
    Up(LabUp),
    /// Removes a cluster and everything that belongs to it
    #[command(after_help = "Example:\n  fairlead lab down demo")]
    Down(LabName),
    /// Lists the clusters, their nodes and processes
    #[command(after_help = "Example:\n  fairlead lab list -o json")]
    List(LabList),
    /// Runs a command on a node
    #[command(after_help = "Example:\n  fairlead lab exec demo node1 -- ip route")]
    Exec(LabExec),
    /// Imports an image archive on every node
    #[command(after_help = "Example:\n  fairlead lab load demo app.tar")]
    Load(LabLoad),
    /// Stops a node at once, as a power failure would
    #[command(after_help = "Example:\n  fairlead lab stop demo node2")]
    Stop(LabNode),
    /// Starts a stopped node
    #[command(after_help = "Example:\n  fairlead lab start demo node2")]
    Start(LabNode),
    /// Drops all traffic between two nodes
    #[command(after_help = "Example:\n  fairlead lab cut demo node1 node2")]
    Cut(LabLink),
    /// Lets traffic between two nodes pass again
    #[command(after_help = "Example:\n  fairlead lab heal demo node1 node2")]
    Heal(LabLink),
}

#[derive(Debug, Args)]
pub(crate) struct LabUp {
    /// What the cluster is called
    pub(crate) name: String,
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=50))]
    pub(crate) nodes: u16,
    /// How pods of different nodes reach each other
    #[arg(long, default_value = "vxlan")]
    pub(crate) network: ClusterNetwork,
    /// What programs Services into the kernel
    #[arg(long, default_value = "iptables")]
    pub(crate) proxy: ProxyMode,
    #[arg(long, default_value = "ipv4")]
    pub(crate) ip_family: IpFamily,
    /// Waits this many times longer than usual, as an emulated machine needs
    #[arg(long, default_value_t = 1, value_name = "TIMES")]
    pub(crate) slow: u32,
    /// Use the containerd, ctr and shims of this directory
    #[arg(long, value_name = "DIR")]
    pub(crate) containerd: Option<PathBuf>,
    /// Archives to load on every node; `images` beside this program when not given
    #[arg(long, env = "FAIRLEAD_IMAGES", value_name = "DIR")]
    pub(crate) images: Option<PathBuf>,
    /// More arguments for `fairlead server`
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    pub(crate) server_arg: Vec<String>,
    /// When something fails, leave everything where it is
    #[arg(long)]
    pub(crate) keep: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum IpFamily {
    Ipv4,
    Ipv6,
    Dual,
}

#[derive(Debug, Args)]
pub(crate) struct LabName {
    /// The cluster's name
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct LabList {
    #[arg(short, long, default_value = "text")]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct LabExec {
    /// The cluster's name
    pub(crate) name: String,
    /// The node's name; `server` for the control plane's place
    pub(crate) node: String,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct LabLoad {
    /// The cluster's name
    pub(crate) name: String,
    /// A docker or OCI archive
    pub(crate) archive: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct LabNode {
    /// The cluster's name
    pub(crate) name: String,
    /// The node's name
    pub(crate) node: String,
}

#[derive(Debug, Args)]
pub(crate) struct LabLink {
    /// The cluster's name
    pub(crate) name: String,
    /// One end; `server` for the control plane's place
    pub(crate) from: String,
    /// The other end
    pub(crate) to: String,
}

#[derive(Debug, Args)]
pub(crate) struct LabPlace {
    /// The file that describes the place
    pub(crate) specification: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct LabRegistry {
    /// The archives to serve
    pub(crate) directory: PathBuf,
}
