//! Policies: enforcing them, and asking about them.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Output;

/// Enforces policies for the pods of this machine; or answers questions about policies
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  fairlead policy --kubeconfig K\n  fairlead policy check -f new-policy.yaml"
)]
pub(crate) struct Policy {
    #[command(subcommand)]
    pub(crate) question: Option<PolicyQuestion>,
    /// The API server and the part's credentials
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Where metrics are served, such as 127.0.0.1:9180; a node that joined serves them with its kubelet's
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) metrics: Option<std::net::SocketAddr>,
    /// Where the plugin asks and people ask, and what a restart has to know
    #[arg(long, default_value = "/run/fairlead", value_name = "DIR")]
    pub(crate) run_dir: PathBuf,
    /// Taken for the sake of other parts' scripts: policies need no node's name
    #[arg(long, value_name = "NAME", hide = true)]
    pub(crate) node_name: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyQuestion {
    Check(PolicyCheck),
    Matrix(PolicyMatrix),
}

/// Shows which pods would gain or lose connections if the manifests were applied, and which
/// connections of the last hour would be cut
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  fairlead policy check -f new-policy.yaml\n  \
                  fairlead policy check -f new-policy.yaml --against manifests/"
)]
pub(crate) struct PolicyCheck {
    /// A manifest, or a folder of manifests
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    pub(crate) filename: Vec<PathBuf>,
    /// Manifests that stand for the cluster; the live cluster when not given
    #[arg(long, value_name = "FILE")]
    pub(crate) against: Vec<PathBuf>,
    /// Connections that were seen, as `fairlead flows --connections -o json` prints them on a node;
    /// of a live cluster they are asked for
    #[arg(long, value_name = "FILE")]
    pub(crate) seen: Vec<PathBuf>,
    /// The namespace of objects that name none
    #[arg(short, long, default_value = "default")]
    pub(crate) namespace: String,
    #[command(flatten)]
    pub(crate) asking: PolicyAsking,
}

/// Draws who reaches whom
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  fairlead policy matrix shop --port 8080/TCP")]
pub(crate) struct PolicyMatrix {
    /// The namespace; all of them when not given
    pub(crate) namespace: Option<String>,
    /// The port that is asked for
    #[arg(long, default_value = "80/TCP", value_name = "PORT/PROTOCOL")]
    pub(crate) port: String,
    #[command(flatten)]
    pub(crate) asking: PolicyAsking,
}

/// Whom to ask, and how to print the answer.
#[derive(Debug, Args)]
pub(crate) struct PolicyAsking {
    /// The cluster to ask
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    #[arg(short, long, default_value = "text")]
    pub(crate) output: Output,
}

/// Shows what this node's policies dropped or accept, with the policy and rule that decided
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  fairlead flows --drop --pod shop/cart\n  \
                  fairlead lab exec demo node1 -- fairlead flows --accepted --follow\n  \
                  fairlead flows --connections -o json")]
pub(crate) struct Flows {
    /// Only dropped connections
    #[arg(long, conflicts_with = "accepted")]
    pub(crate) drop: bool,
    /// Accepted connections too: they are logged while this runs
    #[arg(long, requires = "follow")]
    pub(crate) accepted: bool,
    /// The connections that this node's pods had in the last hour, instead
    #[arg(long, conflicts_with_all = ["drop", "accepted", "follow"])]
    pub(crate) connections: bool,
    /// Only from and to this pod
    #[arg(long, value_name = "[NAMESPACE/]NAME")]
    pub(crate) pod: Option<String>,
    /// Go on with what comes
    #[arg(long)]
    pub(crate) follow: bool,
    #[arg(short, long, default_value = "text")]
    pub(crate) output: Output,
    /// Where the node's agent answers
    #[arg(long, value_name = "SOCKET", default_value = policy::FLOWS_SOCKET)]
    pub(crate) socket: PathBuf,
}

/// Explains what becomes of a connection: Service, policies, the rule that decides, and the route
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  fairlead trace shop/cart shop/db:5432\n  \
                  fairlead trace shop/cart 10.96.0.10:53 --protocol udp\n  \
                  fairlead trace node1 shop/db:5432\n  \
                  fairlead trace shop/cart shop/db:5432 --probe")]
pub(crate) struct Trace {
    /// A pod (NAMESPACE/NAME), a node or an address
    pub(crate) source: String,
    /// A pod, a Service, a node or an address, with its port
    #[arg(value_name = "DESTINATION:PORT")]
    pub(crate) destination: String,
    /// tcp, udp or sctp
    #[arg(long, default_value = "tcp")]
    pub(crate) protocol: String,
    /// Also make the connection, from the pod that is the source
    #[arg(long)]
    pub(crate) probe: bool,
    #[command(flatten)]
    pub(crate) asking: PolicyAsking,
}
