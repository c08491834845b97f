//! What an operator says about the overlay.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnetwork::IpNetwork;
use regex::Regex;
use tokio::sync::watch;

pub const DEFAULT_VNI: u32 = 1;
pub const DEFAULT_PORT: u16 = 8472;

/// Which of the node's addresses the tunnels use.
#[derive(Debug, Clone, Default)]
pub enum Underlay {
    /// The InternalIP of the Node; where it has none, that of the default route's interface.
    #[default]
    KubernetesAddress,
    /// The addresses of that interface.
    Interface(String),
    /// The addresses of the first interface, in alphabetical order, whose name or one of
    /// whose addresses matches.
    Pattern(Regex),
    /// The addresses of the interface through which that address is reached.
    Reaching(IpAddr),
}

/// Whether the tunnels may leave checksums to the underlay's hardware.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChecksumOffload {
    /// Where the kernel does it right.
    #[default]
    Detect,
    Off,
    /// As the kernel has it.
    Keep,
}

impl ChecksumOffload {
    /// Whether it has to be switched off under that kernel release ("5.4.0-42-generic").
    /// Before 5.7 the kernel wrote a checksum into masqueraded tunnel packets that should have
    /// none: the first packets of every connection were lost, for 63 seconds.
    pub fn must_be_off(self, release: &str) -> bool {
        let mut numbers = release
            .split(|c: char| !c.is_ascii_digit())
            .map(str::parse::<u32>);
        let mut next = || numbers.next().and_then(Result::ok).unwrap_or(0);
        match self {
            Self::Detect => (next(), next()) < (5, 7),
            Self::Off => true,
            Self::Keep => false,
        }
    }
}

/// When packets to a range of pods go through the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    Never,
    /// To nodes that are on no link of ours.
    OtherLinks,
    Always,
}

/// Which pods' packets the overlay carries. The rest is somebody else's: routes that a routing
/// daemon makes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Carries {
    #[default]
    Everything,
    /// The smallest range that contains a node's range decides; never without one.
    Within(BTreeMap<IpNetwork, When>),
}

impl Carries {
    /// What counts for a node's range.
    pub fn of(&self, network: &IpNetwork) -> When {
        let Self::Within(ranges) = self else {
            return When::Always;
        };
        let contains = |range: &IpNetwork| {
            range.is_ipv4() == network.is_ipv4()
                && range.prefix() <= network.prefix()
                && range.contains(network.network())
        };
        let smallest = ranges
            .iter()
            .filter(|(range, _)| contains(range))
            .max_by_key(|(range, _)| range.prefix());
        smallest.map_or(When::Never, |(_, when)| *when)
    }
}

/// Pools of addresses beside the nodes' own ranges.
#[derive(Debug, Clone)]
pub struct Pools {
    /// Their agent's.
    pub socket: PathBuf,
    pub ranges: watch::Receiver<ip_pools::Ranges>,
}

/// The overlay's settings.
#[derive(Debug, Clone)]
pub struct Config {
    pub node_name: String,
    pub vni: u32,
    pub port: u16,
    /// The MTU of pods; from the underlay when there is none.
    pub mtu: Option<u32>,
    pub underlay: Underlay,
    pub checksum_offload: ChecksumOffload,
    /// Nodes on the same link get plain routes.
    pub direct_routing: bool,
    /// Beside a routing daemon: what is left to it.
    pub carries: Carries,
    /// The ranges that all pods of the cluster are in.
    pub cluster_networks: Vec<IpNetwork>,
    /// What pods send to anywhere else gets the node's address.
    pub masquerade: bool,
    /// Further destinations that see the pods' own addresses.
    pub masquerade_exceptions: Vec<IpNetwork>,
    /// The policy agent that the CNI plugin waits for.
    pub policy_socket: Option<PathBuf>,
    /// Where the CNI plugin asks for addresses, and the pools that there are.
    pub pools: Option<Pools>,
    pub conflist: PathBuf,
    pub subnet_env: PathBuf,
    /// How often everything is compared although nothing has been heard of.
    pub resync: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node_name: String::new(),
            vni: DEFAULT_VNI,
            port: DEFAULT_PORT,
            mtu: None,
            underlay: Underlay::default(),
            checksum_offload: ChecksumOffload::default(),
            direct_routing: false,
            carries: Carries::default(),
            cluster_networks: Vec::new(),
            masquerade: true,
            masquerade_exceptions: Vec::new(),
            policy_socket: None,
            pools: None,
            conflist: PathBuf::from("/etc/cni/net.d/10-fairlead.conflist"),
            subnet_env: PathBuf::from("/run/flannel/subnet.env"),
            resync: Duration::from_secs(30),
        }
    }
}

/// Settings that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidConfig {
    #[error("the overlay needs to know the name of its node")]
    NoNodeName,
    #[error("VNI {0} is not between 1 and 16777215")]
    Vni(u32),
    #[error("port 0 cannot be the overlay's port")]
    Port,
    #[error("an MTU of {0} is not between 576 and 65535")]
    Mtu(u32),
}

impl Config {
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        if self.node_name.is_empty() {
            return Err(InvalidConfig::NoNodeName);
        }
        if !(1..1 << 24).contains(&self.vni) {
            return Err(InvalidConfig::Vni(self.vni));
        }
        if self.port == 0 {
            return Err(InvalidConfig::Port);
        }
        match self.mtu {
            Some(mtu) if !(576..=65535).contains(&mtu) => Err(InvalidConfig::Mtu(mtu)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offload_is_switched_off_where_the_kernel_does_it_wrong() {
        for (release, off) in [
            ("4.19.0-27-amd64", true),
            ("5.6.19", true),
            ("5.7.0", false),
            ("6.1.0-13-amd64", false),
            ("10.0-rc1", false),
            ("", true),
        ] {
            assert_eq!(
                ChecksumOffload::Detect.must_be_off(release),
                off,
                "{release}"
            );
        }
        assert!(ChecksumOffload::Off.must_be_off("6.1.0"));
        assert!(!ChecksumOffload::Keep.must_be_off("4.19.0"));
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let good = Config {
            node_name: "a".into(),
            ..Config::default()
        };
        assert_eq!(good.validate(), Ok(()));
        assert_eq!(Config::default().validate(), Err(InvalidConfig::NoNodeName));
        let bad = Config {
            vni: 1 << 24,
            ..good.clone()
        };
        assert_eq!(bad.validate(), Err(InvalidConfig::Vni(1 << 24)));
        let bad = Config {
            mtu: Some(100),
            ..good
        };
        assert_eq!(bad.validate(), Err(InvalidConfig::Mtu(100)));
    }
}
