//! Which of the node's addresses and interfaces the tunnels use.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use kernel::Ifindex;
use kernel::address::{Address, Scope};
use kernel::link::Link;
use kernel::route::Route;

use crate::config::Underlay;
use crate::model::Outer;

/// What the node has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Interfaces {
    pub links: Vec<Link>,
    pub addresses: Vec<Address>,
    pub routes: Vec<Route>,
    /// The interface that leads to the address that the operator named.
    pub reaching: Option<Ifindex>,
}

/// An address with its interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    pub address: IpAddr,
    pub interface: Ifindex,
    pub mtu: u32,
}

/// No address fits what the operator says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoUnderlay {
    #[error("there is no interface {0}")]
    NoInterface(String),
    #[error("no interface's name or address matches {0:?}")]
    NoMatch(String),
    #[error("there is no route to {0}")]
    Unreachable(IpAddr),
    #[error("none of the node's addresses ({0}) is on an interface, and there is no default route")]
    NoAddress(String),
    #[error("interface {0} has no address that others could reach")]
    NoUsableAddress(String),
}

/// The addresses for the tunnels, at most one for each family.
pub fn choose(
    underlay: &Underlay,
    node_addresses: &[IpAddr],
    interfaces: &Interfaces,
) -> Result<BTreeMap<Outer, Choice>, NoUnderlay> {
    let link = match underlay {
        Underlay::KubernetesAddress => return by_node_address(node_addresses, interfaces),
        Underlay::Interface(name) => interfaces
            .links
            .iter()
            .find(|link| link.name == *name)
            .ok_or_else(|| NoUnderlay::NoInterface(name.clone()))?,
        Underlay::Pattern(pattern) => {
            let mut links: Vec<&Link> = interfaces.links.iter().collect();
            links.sort_by(|a, b| a.name.cmp(&b.name));
            let matches = |link: &&Link| {
                let address = |a: &IpAddr| pattern.is_match(&a.to_string());
                pattern.is_match(&link.name) || interfaces.of(link.index).any(|a| address(&a))
            };
            let found = links
                .into_iter()
                .find(|link| matches(link) && interfaces.usable(link));
            found.ok_or_else(|| NoUnderlay::NoMatch(pattern.to_string()))?
        }
        Underlay::Reaching(target) => interfaces
            .reaching
            .and_then(|index| interfaces.link(index))
            .ok_or(NoUnderlay::Unreachable(*target))?,
    };
    let choices = interfaces.choices(link);
    if choices.is_empty() {
        return Err(NoUnderlay::NoUsableAddress(link.name.clone()));
    }
    Ok(choices)
}

/// The choice, with what was chosen before and is missing for the moment: while a link flaps
/// its IPv6 addresses are gone, and the other nodes should not change their routes for that.
pub fn keep_missing(
    mut choices: BTreeMap<Outer, Choice>,
    before: &BTreeMap<Outer, Choice>,
    node_addresses: &[IpAddr],
    interfaces: &Interfaces,
) -> BTreeMap<Outer, Choice> {
    for (outer, choice) in before {
        let there = interfaces.link(choice.interface).is_some();
        if there && node_addresses.contains(&choice.address) {
            choices.entry(*outer).or_insert_with(|| choice.clone());
        }
    }
    choices
}

/// The networks on the links of the chosen interfaces.
pub fn on_link(
    choices: &BTreeMap<Outer, Choice>,
    interfaces: &Interfaces,
) -> Vec<(IpNetwork, Ifindex)> {
    interfaces
        .addresses
        .iter()
        .filter(|address| {
            choices
                .values()
                .any(|choice| choice.interface == address.interface)
        })
        .filter(|address| address.scope == Scope::Global && address.peer.is_none())
        .map(|address| (address.network, address.interface))
        .collect()
}

fn by_node_address(
    node_addresses: &[IpAddr],
    interfaces: &Interfaces,
) -> Result<BTreeMap<Outer, Choice>, NoUnderlay> {
    let mut choices = BTreeMap::new();
    for address in node_addresses {
        let Some(link) = interfaces.owner(*address) else {
            continue;
        };
        let choice = Choice {
            address: *address,
            interface: link.index,
            mtu: link.mtu,
        };
        choices.entry(Outer::of(address)).or_insert(choice);
    }
    // The node may be known by an address that a router translates.
    for outer in Outer::ALL {
        let known =
            node_addresses.is_empty() || node_addresses.iter().any(|a| Outer::of(a) == outer);
        if !known || choices.contains_key(&outer) {
            continue;
        }
        if let Some(choice) = interfaces
            .default_link(outer)
            .and_then(|link| interfaces.choices(link).remove(&outer))
        {
            choices.insert(outer, choice);
        }
    }
    if choices.is_empty() {
        let known: Vec<String> = node_addresses.iter().map(IpAddr::to_string).collect();
        return Err(NoUnderlay::NoAddress(known.join(", ")));
    }
    Ok(choices)
}

impl Interfaces {
    fn link(&self, index: Ifindex) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    fn owner(&self, address: IpAddr) -> Option<&Link> {
        let found = self
            .addresses
            .iter()
            .find(|have| have.network.ip() == address)?;
        self.link(found.interface)
    }

    fn default_link(&self, outer: Outer) -> Option<&Link> {
        self.routes
            .iter()
            .filter(|route| route.destination.prefix() == 0)
            .filter(|route| Outer::of_network(&route.destination) == outer)
            .min_by_key(|route| route.priority)
            .and_then(|route| route.next_hops.iter().find_map(|hop| hop.interface))
            .and_then(|index| self.link(index))
    }

    /// Addresses that others could reach, the interface's first ones first.
    fn of(&self, interface: Ifindex) -> impl Iterator<Item = IpAddr> {
        self.addresses
            .iter()
            .filter(move |address| address.interface == interface)
            .filter(|address| address.scope == Scope::Global && !address.duplicate)
            .map(|address| (address.secondary, address.network.ip()))
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .map(|(_, address)| address)
    }

    fn usable(&self, link: &Link) -> bool {
        !link.loopback && !self.choices(link).is_empty()
    }

    fn choices(&self, link: &Link) -> BTreeMap<Outer, Choice> {
        let mut choices = BTreeMap::new();
        for address in self.of(link.index) {
            let choice = Choice {
                address,
                interface: link.index,
                mtu: link.mtu,
            };
            choices.entry(Outer::of(&address)).or_insert(choice);
        }
        choices
    }
}

#[cfg(test)]
mod tests;
