//! What the proxy is told at its start.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use ipnetwork::IpNetwork;

use crate::model::Family;

/// How Services are brought into the kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    #[default]
    Nftables,
    Iptables,
    Ipvs,
}

impl Mode {
    pub const ALL: [Self; 3] = [Self::Nftables, Self::Iptables, Self::Ipvs];

    pub fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
            Self::Ipvs => "ipvs",
        }
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A mode's name that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown proxy mode {0:?}: it is one of nftables, iptables, ipvs")]
pub struct UnknownMode(String);

impl std::str::FromStr for Mode {
    type Err = UnknownMode;

    fn from_str(name: &str) -> Result<Self, UnknownMode> {
        let found = Self::ALL.into_iter().find(|mode| mode.name() == name);
        found.ok_or_else(|| UnknownMode(name.to_owned()))
    }
}

/// Settings of the proxy.
#[derive(Debug, Clone)]
pub struct Config {
    /// Changed at run time by [`crate::Deps::mode`].
    pub mode: Mode,
    pub node_name: String,
    /// Where pods' addresses come from. Traffic to a cluster IP from elsewhere is masqueraded,
    /// so that the answer comes back through this node; empty: it never is.
    pub cluster_cidrs: Vec<IpNetwork>,
    /// Where cluster IPs come from: what is not a Service's there is rejected.
    pub service_cidrs: Vec<IpNetwork>,
    /// On which of the node's addresses node ports are served; on all of a family that no
    /// range is of.
    pub nodeport_addresses: Vec<IpNetwork>,
    /// Serve node ports on 127.0.0.1 too (IPv4; not with IPVS).
    pub localhost_nodeports: bool,
    /// Masquerade all traffic to cluster IPs.
    pub masquerade_all: bool,
    /// Which bit of the packet mark says "masquerade".
    pub masquerade_bit: u8,
    /// Serve only Services labelled `service.kubernetes.io/service-proxy-name` with this name.
    pub proxy_name: Option<String>,
    /// How long changes are gathered before the kernel is changed.
    pub gather: Duration,
    /// The least time between two changes of the kernel.
    pub min_sync: Duration,
    /// Where `/healthz` and `/livez` answer; `None` for nowhere.
    pub healthz: Option<SocketAddr>,
    /// Where `/metrics`, `/proxyMode` and `/healthz` answer; `None` for nowhere.
    pub metrics: Option<SocketAddr>,
    /// Which iptables to use; `None` for the one that the machine uses.
    pub iptables_variant: Option<kernel::iptables::Variant>,
    pub conntrack: Conntrack,
    pub ipvs: Ipvs,
    pub nftables: Nftables,
}

/// How connections are tracked. `None` and 0 leave what the kernel has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conntrack {
    /// How many connections are tracked at most, for each processor; never lowered.
    pub max_per_core: u64,
    /// The least that follows from it.
    pub min: u64,
    /// How long an idle connection is remembered.
    pub tcp_established: Option<Duration>,
    /// How long one is remembered that one end has closed and the other has not.
    pub tcp_close_wait: Option<Duration>,
    /// Datagrams that nobody answered, and those that were.
    pub udp: Option<Duration>,
    pub udp_stream: Option<Duration>,
    /// Takes packets outside of a connection's window for its own, and lets pass what belongs to
    /// no connection. Otherwise that is dropped, since it would reach its receiver untranslated,
    /// whose answer ends the connection.
    pub tcp_be_liberal: bool,
}

impl Default for Conntrack {
    /// As kube-proxy has it.
    fn default() -> Self {
        Self {
            max_per_core: 32_768,
            min: 131_072,
            tcp_established: Some(Duration::from_secs(24 * 3600)),
            tcp_close_wait: Some(Duration::from_secs(3600)),
            udp: None,
            udp_stream: None,
            tcp_be_liberal: false,
        }
    }
}

/// Settings of the nftables backend.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Nftables {
    /// Offload established connections between these devices to a flowtable.
    pub flowtable_devices: Vec<String>,
}

/// The schedulers of IPVS.
pub const SCHEDULERS: [&str; 11] = [
    "rr", "wrr", "lc", "wlc", "dh", "sh", "sed", "nq", "lblc", "lblcr", "mh",
];

/// Settings of the IPVS backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ipvs {
    pub scheduler: String,
    /// Answer ARP for virtual addresses only where they are routed to.
    pub strict_arp: bool,
    /// Idle timeouts; `None` leaves the kernel's.
    pub tcp_timeout: Option<Duration>,
    pub tcp_fin_timeout: Option<Duration>,
    pub udp_timeout: Option<Duration>,
    /// How long back ends that are gone keep their connections.
    pub drain: Duration,
}

impl Default for Ipvs {
    fn default() -> Self {
        Self {
            scheduler: "rr".to_owned(),
            strict_arp: false,
            tcp_timeout: None,
            tcp_fin_timeout: None,
            udp_timeout: None,
            drain: Duration::from_secs(900),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            node_name: String::new(),
            cluster_cidrs: Vec::new(),
            service_cidrs: Vec::new(),
            nodeport_addresses: Vec::new(),
            localhost_nodeports: true,
            masquerade_all: false,
            masquerade_bit: 14,
            proxy_name: None,
            gather: Duration::from_millis(5),
            min_sync: Duration::ZERO,
            healthz: Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 10256)),
            metrics: Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 10249)),
            iptables_variant: None,
            conntrack: Conntrack::default(),
            ipvs: Ipvs::default(),
            nftables: Nftables::default(),
        }
    }
}

impl Config {
    /// Whether the ranges allow node ports on an address of the node.
    pub fn allows_node_ports(&self, address: IpAddr) -> bool {
        let mut of_family = Family::of(address)
            .networks(&self.nodeport_addresses)
            .peekable();
        of_family.peek().is_none() || of_family.any(|range| range.contains(address))
    }

    /// The mark that says "masquerade".
    pub fn mark(&self) -> u32 {
        1 << self.masquerade_bit
    }
}
