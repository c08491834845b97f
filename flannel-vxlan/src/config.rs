//! What an operator says about the overlay.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnetwork::IpNetwork;
use regex::Regex;

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

/// The overlay's settings.
#[derive(Debug, Clone)]
pub struct Config {
    pub node_name: String,
    pub vni: u32,
    pub port: u16,
    /// The MTU of pods; from the underlay when there is none.
    pub mtu: Option<u32>,
    pub underlay: Underlay,
    /// Nodes on the same link get plain routes.
    pub direct_routing: bool,
    /// The ranges that all pods of the cluster are in.
    pub cluster_networks: Vec<IpNetwork>,
    /// What pods send to anywhere else gets the node's address.
    pub masquerade: bool,
    /// Further destinations that see the pods' own addresses.
    pub masquerade_exceptions: Vec<IpNetwork>,
    /// The policy agent that the CNI plugin waits for.
    pub policy_socket: Option<PathBuf>,
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
            direct_routing: false,
            cluster_networks: Vec::new(),
            masquerade: true,
            masquerade_exceptions: Vec::new(),
            policy_socket: None,
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
