//! Arithmetic of address ranges.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

/// Consecutive addresses of one subnet, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    pub subnet: IpNetwork,
    pub first: IpAddr,
    pub last: IpAddr,
}

/// The address as a number.
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// The address with that number; numbers beyond IPv4's end are cut to it.
pub fn address(number: u128, ipv4: bool) -> IpAddr {
    match ipv4 {
        true => Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into(),
        false => Ipv6Addr::from(number).into(),
    }
}

/// Whether the whole of `inner` is in `outer`.
pub fn contains(outer: &IpNetwork, inner: &IpNetwork) -> bool {
    outer.is_ipv4() == inner.is_ipv4()
        && outer.prefix() <= inner.prefix()
        && outer.contains(inner.network())
}

pub fn overlap(a: &IpNetwork, b: &IpNetwork) -> bool {
    contains(a, b) || contains(b, a)
}

/// Without host bits.
pub fn clean(network: IpNetwork) -> IpNetwork {
    IpNetwork::new(network.network(), network.prefix()).unwrap_or(network)
}

/// One address as a network.
pub fn host(address: IpAddr) -> IpNetwork {
    address.into()
}

pub fn is_host(network: &IpNetwork) -> bool {
    network.prefix() == if network.is_ipv4() { 32 } else { 128 }
}

impl Span {
    /// All addresses of a network.
    pub fn all(network: IpNetwork) -> Self {
        Self {
            subnet: network,
            first: network.network(),
            last: network.broadcast(),
        }
    }

    /// The addresses of a network that pods can get: all but the first, which is the node's,
    /// unless there are but one or two.
    pub fn usable(network: IpNetwork) -> Self {
        let all = Self::all(network);
        let ipv4 = network.is_ipv4();
        match number(all.last) - number(all.first) {
            0 | 1 => all,
            _ => Self {
                first: address(number(all.first) + 1, ipv4),
                ..all
            },
        }
    }

    /// A node's own range, as the plugin cuts it without being told: without the first two
    /// addresses and IPv4's last.
    pub fn of_node(range: IpNetwork) -> Self {
        let all = Self::all(range);
        let ipv4 = range.is_ipv4();
        match number(all.last) - number(all.first) {
            0..=2 => all,
            _ => Self {
                first: address(number(all.first) + 2, ipv4),
                last: address(number(all.last) - u128::from(ipv4), ipv4),
                ..all
            },
        }
    }

    pub fn contains(&self, wanted: IpAddr) -> bool {
        wanted.is_ipv4() == self.first.is_ipv4()
            && (number(self.first)..=number(self.last)).contains(&number(wanted))
    }

    /// What is left of it without some networks, in order.
    pub fn without(self, networks: &[IpNetwork]) -> Vec<Self> {
        let ipv4 = self.first.is_ipv4();
        let mut holes: Vec<(u128, u128)> = networks
            .iter()
            .filter(|network| network.is_ipv4() == ipv4)
            .map(|network| (number(network.network()), number(network.broadcast())))
            .collect();
        holes.sort_unstable();
        let (mut next, last) = (Some(number(self.first)), number(self.last));
        let mut left = Vec::new();
        let mut keep = |first: u128, last: u128| {
            left.push(Self {
                subnet: self.subnet,
                first: address(first, ipv4),
                last: address(last, ipv4),
            });
        };
        for (from, to) in holes {
            let Some(at) = next.filter(|at| *at <= to && from <= last) else {
                continue;
            };
            if from > at {
                keep(at, from - 1);
            }
            next = to.checked_add(1);
        }
        if let Some(at) = next.filter(|at| *at <= last) {
            keep(at, last);
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    fn check(span: Span, without: &[&str], expected: &[&str]) {
        let holes: Vec<IpNetwork> = without.iter().map(|text| net(text)).collect();
        let left = span.without(&holes);
        let left: Vec<String> = left
            .iter()
            .map(|own| format!("{}-{}", own.first, own.last))
            .collect();
        assert_eq!(left, expected, "{span:?} without {without:?}");
    }

    #[test]
    fn holes_are_cut_out() {
        let block = Span::usable(net("10.0.0.0/29"));
        check(block, &[], &["10.0.0.1-10.0.0.7"]);
        check(
            block,
            &["10.0.0.4/32"],
            &["10.0.0.1-10.0.0.3", "10.0.0.5-10.0.0.7"],
        );
        check(
            block,
            &["10.0.0.6/31", "10.0.0.0/31"],
            &["10.0.0.2-10.0.0.5"],
        );
        check(
            block,
            &["10.0.0.4/30", "10.0.0.5/32"],
            &["10.0.0.1-10.0.0.3"],
        );
        check(block, &["10.0.0.0/8"], &[]);
        check(block, &["fd00::/8", "10.0.1.0/24"], &["10.0.0.1-10.0.0.7"]);
        let end = Span::all(net("255.255.255.254/31"));
        check(
            end,
            &["255.255.255.255/32"],
            &["255.255.255.254-255.255.255.254"],
        );
        let last = Span::all(net("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127"));
        check(
            last,
            &["ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"],
            &["ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe-ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe"],
        );
    }

    #[test]
    fn the_first_address_is_the_nodes_and_single_ones_are_pods() {
        let ends = |span: Span| (span.first.to_string(), span.last.to_string());
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            ends(Span::usable(net("10.0.0.0/30"))),
            pair("10.0.0.1", "10.0.0.3")
        );
        assert_eq!(
            ends(Span::usable(net("10.0.0.8/32"))),
            pair("10.0.0.8", "10.0.0.8")
        );
        assert_eq!(
            ends(Span::of_node(net("10.0.0.0/24"))),
            pair("10.0.0.2", "10.0.0.254")
        );
        assert_eq!(
            ends(Span::of_node(net("fd00::/126"))),
            pair("fd00::2", "fd00::3")
        );
    }

    proptest! {
        #[test]
        fn what_is_left_is_what_no_hole_has(holes in proptest::collection::vec((0u32..64, 26u8..=32), 0..6)) {
            let holes: Vec<IpNetwork> = holes
                .into_iter()
                .map(|(at, prefix)| clean(IpNetwork::new(address((10u128 << 24) + u128::from(at), true), prefix).unwrap()))
                .collect();
            let left = Span::all(net("10.0.0.0/26")).without(&holes);
            for at in 0..64u128 {
                let here = address((10u128 << 24) + at, true);
                let kept = left.iter().filter(|span| span.contains(here)).count();
                let hit = holes.iter().any(|hole| hole.contains(here));
                prop_assert_eq!(kept, usize::from(!hit));
            }
        }
    }
}
