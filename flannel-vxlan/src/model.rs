//! The overlay as plain ordered data: what is to be, what is, and the steps between.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use kernel::link::Vxlan;
use kernel::route::Route;
use kernel::{Ifindex, MacAddress};

/// The family of the tunnel's outer addresses. Each has a device of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outer {
    V4,
    V6,
}

impl Outer {
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub fn of(address: &IpAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }

    pub fn of_network(network: &IpNetwork) -> Self {
        if network.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }

    pub fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }

    /// Flannel's name for the device.
    pub fn device_name(self, vni: u32) -> String {
        match self {
            Self::V4 => format!("flannel.{vni}"),
            Self::V6 => format!("flannel-v6.{vni}"),
        }
    }

    /// What the outer headers and the inner Ethernet header take of the underlay's MTU:
    /// IP (20 or 40), UDP (8), VXLAN (8), Ethernet (14).
    pub fn overhead(self) -> u32 {
        match self {
            Self::V4 => 50,
            Self::V6 => 70,
        }
    }
}

/// A tunnel device that is to be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Device {
    pub name: String,
    pub vxlan: Vxlan,
    pub mac: MacAddress,
    pub mtu: u32,
    /// Checksums are computed before a packet enters the tunnel.
    pub no_tx_checksum: bool,
    /// One for each of the node's pod ranges that it carries.
    pub addresses: BTreeSet<IpAddr>,
}

/// How packets to a node's pods travel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Via {
    Tunnel { outer: Outer, gateway: IpAddr },
    Direct { gateway: IpAddr, interface: Ifindex },
}

impl Via {
    pub fn outer(&self) -> Option<Outer> {
        match self {
            Self::Tunnel { outer, .. } => Some(*outer),
            Self::Direct { .. } => None,
        }
    }
}

/// What is to be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Desired {
    pub devices: BTreeMap<Outer, Device>,
    pub routes: BTreeMap<IpNetwork, Via>,
    pub neighbours: BTreeMap<(Outer, IpAddr), MacAddress>,
    pub fdb: BTreeMap<(Outer, MacAddress), IpAddr>,
}

/// A device that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActualDevice {
    pub name: String,
    pub index: Ifindex,
    /// Nothing when it is no VXLAN device: somebody else's, with our name.
    pub vxlan: Option<Vxlan>,
    pub mac: Option<MacAddress>,
    pub mtu: u32,
    pub up: bool,
    pub addresses: BTreeSet<IpAddr>,
    pub tx_checksum: bool,
}

/// What is. Only what is ours.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Actual {
    pub devices: BTreeMap<Outer, ActualDevice>,
    pub routes: BTreeSet<ActualRoute>,
    pub neighbours: BTreeSet<(Outer, IpAddr, MacAddress)>,
    pub fdb: BTreeSet<(Outer, MacAddress, Option<IpAddr>)>,
}

/// A route that is there; `via` when it has the form that we would give it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ActualRoute {
    pub destination: IpNetwork,
    pub via: Option<Via>,
    /// The tunnel that it goes through.
    pub outer: Option<Outer>,
    /// What the kernel calls it, for its deletion.
    pub route: Route,
}

/// One step. The order of a plan is the order in which they have to happen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    DeleteDevice {
        outer: Outer,
        name: String,
    },
    CreateDevice {
        outer: Outer,
        device: Device,
    },
    SetMac {
        outer: Outer,
        mac: MacAddress,
    },
    SetMtu {
        outer: Outer,
        mtu: u32,
    },
    SetUp {
        outer: Outer,
    },
    DisableTxChecksum {
        outer: Outer,
        name: String,
    },
    AddAddress {
        outer: Outer,
        address: IpAddr,
    },
    DeleteAddress {
        outer: Outer,
        address: IpAddr,
    },
    SetNeighbour {
        outer: Outer,
        address: IpAddr,
        mac: MacAddress,
    },
    SetFdb {
        outer: Outer,
        mac: MacAddress,
        destination: IpAddr,
    },
    SetRoute {
        destination: IpNetwork,
        via: Via,
    },
    DeleteRoute(Box<Route>),
    DeleteFdb {
        outer: Outer,
        mac: MacAddress,
        destination: Option<IpAddr>,
    },
    DeleteNeighbour {
        outer: Outer,
        address: IpAddr,
        mac: MacAddress,
    },
}

impl Op {
    /// The device that has to be there for it.
    pub fn device(&self) -> Option<Outer> {
        match self {
            Self::DeleteDevice { outer, .. }
            | Self::CreateDevice { outer, .. }
            | Self::SetMac { outer, .. }
            | Self::SetMtu { outer, .. }
            | Self::SetUp { outer }
            | Self::DisableTxChecksum { outer, .. }
            | Self::AddAddress { outer, .. }
            | Self::DeleteAddress { outer, .. }
            | Self::SetNeighbour { outer, .. }
            | Self::SetFdb { outer, .. }
            | Self::DeleteFdb { outer, .. }
            | Self::DeleteNeighbour { outer, .. } => Some(*outer),
            Self::SetRoute { via, .. } => via.outer(),
            Self::DeleteRoute(_) => None,
        }
    }
}
