//! Which range is free.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::Node;

/// More nodes than any cluster has.
const MOST_RANGES: u128 = 1 << 20;

/// A cluster CIDR cut into ranges of one size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pool {
    pub cidr: IpNetwork,
    prefix: u8,
    excluded: Vec<IpNetwork>,
}

impl Pool {
    /// None if the CIDR holds no range of that size.
    pub(crate) fn new(cidr: IpNetwork, prefix: u8, excluded: Vec<IpNetwork>) -> Option<Self> {
        let bits = if cidr.is_ipv4() { 32 } else { 128 };
        let fits = cidr.prefix() <= prefix && prefix <= bits;
        fits.then_some(Self {
            cidr,
            prefix,
            excluded,
        })
    }

    /// The lowest range that neither a node has nor Services use.
    pub(crate) fn allocate(&self, taken: &BTreeSet<IpNetwork>) -> Option<IpNetwork> {
        let wide = u32::from(self.prefix - self.cidr.prefix());
        let count = 1u128
            .checked_shl(wide)
            .unwrap_or(u128::MAX)
            .min(MOST_RANGES);
        // Ranges of another size are nodes' from before a change of configuration.
        let odd = taken.iter().filter(|range| range.prefix() != self.prefix);
        let odd: Vec<IpNetwork> = odd.chain(&self.excluded).copied().collect();
        let mut at = 0;
        while at < count {
            let range = self.range(at)?;
            match odd.iter().find(|other| overlap(range, **other)) {
                Some(other) => at = self.after(*other).max(at + 1),
                None if !taken.contains(&range) => return Some(range),
                None => at += 1,
            }
        }
        None
    }

    /// The index of the first range after another network.
    fn after(&self, other: IpNetwork) -> u128 {
        let size = self.shift();
        let last = number(other.broadcast());
        (last.saturating_sub(number(self.cidr.network())) >> size) + 1
    }

    fn shift(&self) -> u32 {
        let bits = if self.cidr.is_ipv4() { 32 } else { 128 };
        bits - u32::from(self.prefix)
    }

    fn range(&self, index: u128) -> Option<IpNetwork> {
        let offset = index.checked_shl(self.shift()).unwrap_or(0);
        let start = number(self.cidr.network()).checked_add(offset)?;
        let address = match self.cidr {
            IpNetwork::V4(_) => IpAddr::V4(Ipv4Addr::from(u32::try_from(start).ok()?)),
            IpNetwork::V6(_) => IpAddr::V6(Ipv6Addr::from(start)),
        };
        IpNetwork::new(address, self.prefix).ok()
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn overlap(a: IpNetwork, b: IpNetwork) -> bool {
    a.is_ipv4() == b.is_ipv4() && (a.contains(b.network()) || b.contains(a.network()))
}

/// The IPPools that nodes claim blocks of: parts of a cluster CIDR in which no node has its range.
pub(crate) fn left_to_blocks(
    ip_pools: &[IpNetwork],
    clusters: &[IpNetwork],
    taken: &BTreeSet<IpNetwork>,
) -> Vec<IpNetwork> {
    let is_part = |pool: &IpNetwork| {
        let within = |own: &IpNetwork| overlap(*own, *pool) && own.prefix() < pool.prefix();
        clusters.iter().any(within)
    };
    let is_free = |pool: &IpNetwork| !taken.iter().any(|range| overlap(*range, *pool));
    let pools = ip_pools.iter().copied();
    pools
        .filter(|pool| is_part(pool) && is_free(pool))
        .collect()
}

/// The ranges that a node has.
pub(crate) fn ranges(node: &Node) -> Vec<IpNetwork> {
    let Some(spec) = &node.spec else {
        return Vec::new();
    };
    let all = spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr);
    let parsed: BTreeSet<IpNetwork> = all.filter_map(|text| text.parse().ok()).collect();
    parsed.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNetwork {
        text.parse().expect("a network")
    }

    #[test]
    fn nodes_get_no_range_of_a_pool_that_is_left_to_blocks() {
        let nets = |texts: &[&str]| texts.iter().map(|text| net(text)).collect::<Vec<_>>();
        let pools = nets(&[
            "10.0.0.0/23",
            "10.0.4.0/22",
            "10.0.0.0/16",
            "192.168.0.0/16",
        ]);
        let mut taken: BTreeSet<IpNetwork> = nets(&["10.0.4.0/24"]).into_iter().collect();
        let left = left_to_blocks(&pools, &nets(&["10.0.0.0/16"]), &taken);
        assert_eq!(left, nets(&["10.0.0.0/23"]));
        taken.extend(left);
        let next = pool("10.0.0.0/16", 24, &[]).allocate(&taken);
        assert_eq!(next, Some(net("10.0.2.0/24")));
    }

    fn pool(cidr: &str, prefix: u8, excluded: &[&str]) -> Pool {
        let excluded = excluded.iter().map(|text| net(text)).collect();
        Pool::new(net(cidr), prefix, excluded).expect("it fits")
    }

    #[test]
    fn the_lowest_free_range_is_given() {
        let cases = [
            (
                pool("10.244.0.0/16", 24, &[]),
                vec![],
                Some("10.244.0.0/24"),
            ),
            (
                pool("10.244.0.0/16", 24, &[]),
                vec!["10.244.0.0/24"],
                Some("10.244.1.0/24"),
            ),
            (
                pool("10.244.0.0/16", 24, &[]),
                vec!["10.244.1.0/24"],
                Some("10.244.0.0/24"),
            ),
            (pool("10.244.0.0/24", 24, &[]), vec!["10.244.0.0/24"], None),
            (
                pool("10.0.0.0/8", 24, &["10.0.0.0/16"]),
                vec![],
                Some("10.1.0.0/24"),
            ),
            (
                pool("10.0.0.0/16", 24, &[]),
                vec!["10.0.0.0/20"],
                Some("10.0.16.0/24"),
            ),
            (
                pool("fd00:10:244::/56", 64, &[]),
                vec![],
                Some("fd00:10:244::/64"),
            ),
            (
                pool("fd00:10:244::/56", 64, &[]),
                vec!["fd00:10:244::/64"],
                Some("fd00:10:244:1::/64"),
            ),
        ];
        for (pool, taken, expect) in cases {
            let taken = taken.into_iter().map(net).collect();
            assert_eq!(pool.allocate(&taken), expect.map(net), "{pool:?} {taken:?}");
        }
    }

    #[test]
    fn a_cidr_smaller_than_a_range_is_refused() {
        assert!(Pool::new(net("10.0.0.0/25"), 24, Vec::new()).is_none());
    }

    proptest! {
        #[test]
        fn no_range_is_given_twice_and_all_are_given(wide in 0u8..7) {
            let pool = pool("10.0.0.0/16", 16 + wide, &[]);
            let mut taken = BTreeSet::new();
            while let Some(range) = pool.allocate(&taken) {
                prop_assert!(taken.insert(range));
            }
            prop_assert_eq!(taken.len(), 1 << wide);
        }
    }
}
