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
    /// Taken for the sake of other parts' scripts: policies need no node's name
    #[arg(long, value_name = "NAME", hide = true)]
    pub(crate) node_name: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyQuestion {
    Check(PolicyCheck),
    Matrix(PolicyMatrix),
}

/// Shows which pods would gain or lose connections if the manifests were applied
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

/// Shows what this node's policies dropped, with the policy and rule that decided
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  fairlead flows --drop --pod shop/cart\n  \
                  fairlead lab exec demo node1 -- fairlead flows --follow")]
pub(crate) struct Flows {
    /// Only dropped connections; others are not logged yet
    #[arg(long)]
    pub(crate) drop: bool,
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

/// Explains what becomes of a connection: Service, policies, and the rule that decides
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  fairlead trace shop/cart shop/db:5432\n  \
                  fairlead trace shop/cart 10.96.0.10:53 --protocol udp")]
pub(crate) struct Trace {
    /// A pod (NAMESPACE/NAME) or an address
    pub(crate) source: String,
    /// A pod, a Service or an address, with its port
    #[arg(value_name = "DESTINATION:PORT")]
    pub(crate) destination: String,
    /// tcp, udp or sctp
    #[arg(long, default_value = "tcp")]
    pub(crate) protocol: String,
    #[command(flatten)]
    pub(crate) asking: PolicyAsking,
}
