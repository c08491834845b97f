//! The Service proxy alone. Flags are called as kube-proxy calls them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use ipnetwork::IpNetwork;

use super::ProxyMode;

/// Runs the Service proxy, in the place of kube-proxy
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  fairlead proxy --kubeconfig /etc/kubernetes/proxy.conf --mode nftables\n  \
                  fairlead proxy --cleanup"
)]
pub(crate) struct Proxy {
    /// The API server and the proxy's credentials
    #[arg(
        long,
        env = "KUBECONFIG",
        value_name = "FILE",
        required_unless_present = "cleanup"
    )]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The node's name; the host name when not given
    #[arg(long, alias = "hostname-override", value_name = "NAME")]
    pub(crate) node_name: Option<String>,
    /// What programs Services into the kernel
    #[arg(long, alias = "proxy-mode", default_value = "iptables")]
    pub(crate) mode: ProxyMode,
    /// Removes the rules of every mode from this machine, and ends
    #[arg(long)]
    pub(crate) cleanup: bool,
    /// The pods' ranges: what comes from elsewhere to a ClusterIP is masqueraded
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "10.244.0.0/16",
        value_name = "CIDR"
    )]
    pub(crate) cluster_cidr: Vec<IpNetwork>,
    /// The Services' ranges, besides those that the API has ServiceCIDRs for: what no Service
    /// has there is refused
    #[arg(long, value_delimiter = ',', value_name = "CIDR")]
    pub(crate) service_cidr: Vec<IpNetwork>,
    /// Serves node ports only on addresses of the node in these ranges
    #[arg(long, value_delimiter = ',', value_name = "CIDR")]
    pub(crate) nodeport_addresses: Vec<IpNetwork>,
    /// Serves node ports on 127.0.0.1 too (not with ipvs)
    #[arg(
        long,
        alias = "iptables-localhost-nodeports",
        default_value_t = true,
        action = clap::ArgAction::Set
    )]
    pub(crate) localhost_nodeports: bool,
    /// Masquerades everything that is sent to a ClusterIP
    #[arg(long)]
    pub(crate) masquerade_all: bool,
    /// The bit of the packet mark that says "masquerade"
    #[arg(
        long,
        alias = "iptables-masquerade-bit",
        default_value_t = 14,
        value_name = "BIT",
        value_parser = clap::value_parser!(u8).range(0..32)
    )]
    pub(crate) masquerade_bit: u8,
    /// Serves the Services labelled `service.kubernetes.io/service-proxy-name` with this name,
    /// and no others
    #[arg(long, value_name = "NAME")]
    pub(crate) service_proxy_name: Option<String>,
    /// The least time between two changes of the kernel, in milliseconds
    #[arg(long, default_value_t = 0, value_name = "MS")]
    pub(crate) min_sync_period: u64,
    /// Where `/healthz` and `/livez` answer
    #[arg(long, default_value = "0.0.0.0:10256", value_name = "ADDRESS")]
    pub(crate) healthz_bind_address: SocketAddr,
    /// Where `/metrics` and `/proxyMode` answer
    #[arg(long, default_value = "127.0.0.1:10249", value_name = "ADDRESS")]
    pub(crate) metrics_bind_address: SocketAddr,
    #[command(flatten)]
    pub(crate) conntrack: Conntrack,
    #[command(flatten)]
    pub(crate) ipvs: Ipvs,
    /// Offloads established connections between these devices (nftables)
    #[arg(long, value_delimiter = ',', value_name = "DEVICE")]
    pub(crate) flowtable_devices: Vec<String>,
}

/// How the kernel tracks connections. 0 leaves what it has.
#[derive(Debug, Args)]
#[command(next_help_heading = "Connection tracking")]
pub(crate) struct Conntrack {
    /// How many connections are tracked at most, for each processor; never lowered
    #[arg(long, default_value_t = 32_768, value_name = "NUMBER")]
    pub(crate) conntrack_max_per_core: u64,
    /// The least that follows from it
    #[arg(long, default_value_t = 131_072, value_name = "NUMBER")]
    pub(crate) conntrack_min: u64,
    /// How long an idle TCP connection is remembered
    #[arg(long, default_value = "86400", value_name = "SECONDS", value_parser = seconds)]
    pub(crate) conntrack_tcp_timeout_established: Duration,
    /// How long one is remembered that one end has closed and the other has not
    #[arg(long, default_value = "3600", value_name = "SECONDS", value_parser = seconds)]
    pub(crate) conntrack_tcp_timeout_close_wait: Duration,
    /// The same for datagrams that nobody answered
    #[arg(long, default_value = "0", value_name = "SECONDS", value_parser = seconds)]
    pub(crate) conntrack_udp_timeout: Duration,
    /// The same for those that were answered
    #[arg(long, default_value = "0", value_name = "SECONDS", value_parser = seconds)]
    pub(crate) conntrack_udp_timeout_stream: Duration,
    /// Lets packets pass that belong to no connection, instead of dropping them
    #[arg(long)]
    pub(crate) conntrack_tcp_be_liberal: bool,
}

/// What only the mode ipvs knows.
#[derive(Debug, Args)]
#[command(next_help_heading = "Mode ipvs")]
pub(crate) struct Ipvs {
    /// rr, wrr, lc, wlc, dh, sh, sed, nq, lblc, lblcr or mh
    #[arg(long, default_value = "rr", value_name = "NAME",
        value_parser = proxy::config::SCHEDULERS)]
    pub(crate) ipvs_scheduler: String,
    /// Answers ARP for virtual addresses only where they are routed to
    #[arg(long)]
    pub(crate) ipvs_strict_arp: bool,
    /// Idle seconds after which TCP connections are forgotten
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) ipvs_tcp_timeout: Option<Duration>,
    /// The same for TCP connections that are closing
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) ipvs_tcpfin_timeout: Option<Duration>,
    /// The same for UDP
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) ipvs_udp_timeout: Option<Duration>,
    /// How long back ends that are gone keep their connections
    #[arg(long, default_value = "900", value_name = "SECONDS", value_parser = seconds)]
    pub(crate) ipvs_drain: Duration,
}

fn seconds(text: &str) -> Result<Duration, std::num::ParseIntError> {
    text.trim_end_matches('s').parse().map(Duration::from_secs)
}
