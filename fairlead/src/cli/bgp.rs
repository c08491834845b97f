//! The routed mode's speaker: running it, asking it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Output;

/// Runs the BGP speaker of a node, or of a machine without a cluster; or asks the running one
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  fairlead bgp --kubeconfig K --node-name node1\n  \
                  fairlead bgp --config /etc/fairlead/bgp.yaml\n  \
                  fairlead bgp neighbors"
)]
pub(crate) struct Bgp {
    #[command(subcommand)]
    pub(crate) question: Option<BgpQuestion>,
    /// The API server and the part's credentials
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The node's name; the host name when not given
    #[arg(long, value_name = "NAME")]
    pub(crate) node_name: Option<String>,
    /// Everything from this file, without an API server
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The port to listen on
    #[arg(long, default_value_t = 179, value_name = "PORT")]
    pub(crate) port: u16,
    /// Where metrics are served, such as 127.0.0.1:9179
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) metrics: Option<SocketAddr>,
    /// The socket that questions are answered on
    #[arg(long, value_name = "SOCKET", default_value = bgp_agent::CONTROL_SOCKET)]
    pub(crate) control: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BgpQuestion {
    /// The speaker as a whole
    #[command(after_help = "Example:\n  fairlead bgp status")]
    Status(Asking),
    /// The sessions
    #[command(after_help = "Example:\n  fairlead bgp neighbors -o json")]
    Neighbors(Asking),
    /// The routes, each with its paths and why the best is the best
    #[command(
        after_help = "Example:\n  fairlead bgp routes\n  fairlead bgp routes 10.244.1.7\n  \
                      fairlead bgp routes --to 192.0.2.1"
    )]
    Routes(BgpRoutes),
    /// Prints the definitions of the resources, for `kubectl apply -f -` on other clusters
    #[command(after_help = "Example:\n  fairlead bgp definitions | kubectl apply -f -")]
    Definitions,
}

#[derive(Debug, Args)]
pub(crate) struct Asking {
    #[arg(short, long, default_value = "text")]
    pub(crate) output: Output,
    /// The socket of the speaker
    #[arg(long, value_name = "SOCKET", default_value = bgp_agent::CONTROL_SOCKET)]
    pub(crate) control: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct BgpRoutes {
    /// This prefix, or those that contain this address
    pub(crate) prefix: Option<ipnetwork::IpNetwork>,
    /// Routes that this peer told
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) from: Option<IpAddr>,
    /// Routes that this peer was told
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) to: Option<IpAddr>,
    #[command(flatten)]
    pub(crate) asking: Asking,
}
