//! Ranges of addresses and who has them, so that who else wants one is found without looking at all.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::span::{clean, is_host, overlap};

/// Ranges with the names of their owners. A single address of another's range is a borrowed one,
/// whose route is the more specific: it is in nobody's way but another single address's.
#[derive(Debug, Clone, Default)]
pub struct Ranges {
    hosts: BTreeMap<IpAddr, String>,
    networks: BTreeMap<IpNetwork, String>,
    /// Which lengths the networks of each family have, IPv4 (`true`) and IPv6.
    lengths: BTreeSet<(bool, u8)>,
}

impl Ranges {
    /// The first owner of a range keeps it.
    pub fn insert(&mut self, network: IpNetwork, owner: String) {
        let network = clean(network);
        if is_host(&network) {
            self.hosts.entry(network.ip()).or_insert(owner);
            return;
        }
        self.lengths.insert((network.is_ipv4(), network.prefix()));
        self.networks.entry(network).or_insert(owner);
    }

    /// A range that its owner and somebody else's `network` cannot both be.
    pub fn clash(&self, network: &IpNetwork) -> Option<(IpNetwork, &str)> {
        let network = clean(*network);
        if is_host(&network) {
            let owner = self.hosts.get(&network.ip())?;
            return Some((network, owner));
        }
        let around = self
            .lengths
            .range((network.is_ipv4(), 0)..=(network.is_ipv4(), network.prefix()))
            .filter_map(|(_, length)| IpNetwork::new(network.ip(), *length).ok())
            .find_map(|wider| self.networks.get_key_value(&clean(wider)));
        // In order of their first addresses: if one is within, the next one is.
        let within = || {
            let next = self.networks.range(network..).next();
            next.filter(|(other, _)| overlap(other, &network))
        };
        let (other, owner) = around.or_else(within)?;
        Some((*other, owner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn networks() -> impl Strategy<Value = IpNetwork> {
        let v4 = (0u32..64, 24u8..=32).prop_map(|(low, prefix)| {
            (IpAddr::from((0x0a00_0000 + low * 8).to_be_bytes()), prefix)
        });
        let v6 = (0u128..64, 120u8..=128)
            .prop_map(|(low, prefix)| (IpAddr::from((low * 8).to_be_bytes()), prefix));
        prop_oneof![v4, v6].prop_map(|(ip, prefix)| IpNetwork::new(ip, prefix).unwrap())
    }

    proptest! {
        #[test]
        fn a_clash_is_found_exactly_where_two_ranges_have_an_address_in_common(
            known in proptest::collection::vec(networks(), 0..12), wanted in networks(),
        ) {
            let mut ranges = Ranges::default();
            for (index, network) in known.iter().enumerate() {
                ranges.insert(*network, index.to_string());
            }
            let clashes = |other: &IpNetwork| overlap(other, &wanted) && is_host(other) == is_host(&wanted);
            let found = ranges.clash(&wanted);
            prop_assert_eq!(found.is_some(), known.iter().any(clashes), "{:?}", found);
            if let Some((other, owner)) = found {
                prop_assert!(clashes(&other));
                prop_assert_eq!(clean(known[owner.parse::<usize>().unwrap()]), other);
            }
        }
    }
}
