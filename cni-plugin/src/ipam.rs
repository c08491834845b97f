//! Which address is next: pure arithmetic over ranges.
//!
//! An address that was never handed out is preferred; when there is none left, the one that
//! was given back the longest time ago is. So an address rests as long as it can before
//! somebody else gets packets that were meant for its last owner.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

/// Consecutive addresses of one subnet, both ends included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    subnet: IpNetwork,
    first: u128,
    last: u128,
    gateway: Option<IpAddr>,
}

/// Ranges of one family from which one address is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeSet {
    ranges: Vec<Range>,
}

/// Why ranges cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRange {
    #[error("a set of ranges is empty")]
    Empty,
    #[error("{0} has host bits set: the subnet is {1}")]
    HostBits(IpNetwork, IpNetwork),
    #[error("{what} {address} is not in {subnet}")]
    Outside {
        what: &'static str,
        address: IpAddr,
        subnet: IpNetwork,
    },
    #[error("the range {0} to {1} ends before it starts")]
    Reversed(IpAddr, IpAddr),
    #[error("{0} and {1} are of different families")]
    MixedFamilies(IpNetwork, IpNetwork),
    #[error("{0} and {1} overlap")]
    Overlap(IpNetwork, IpNetwork),
}

/// No address is left.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no address is left in {ranges}: {used} of {capacity} are in use")]
pub struct Exhausted {
    pub ranges: String,
    pub used: u128,
    pub capacity: u128,
}

impl Range {
    /// Without bounds: all but the network's own address, the first one (which is the
    /// node's) and IPv4's broadcast address; all of a subnet of one or two addresses.
    pub fn new(
        subnet: IpNetwork,
        start: Option<IpAddr>,
        end: Option<IpAddr>,
        gateway: Option<IpAddr>,
    ) -> Result<Self, InvalidRange> {
        if subnet.ip() != subnet.network() {
            let clean = IpNetwork::new(subnet.network(), subnet.prefix()).unwrap_or(subnet);
            return Err(InvalidRange::HostBits(subnet, clean));
        }
        let inside = |what, address: IpAddr| {
            if subnet.contains(address) {
                Ok(number(address))
            } else {
                Err(InvalidRange::Outside {
                    what,
                    address,
                    subnet,
                })
            }
        };
        let bits = if subnet.is_ipv4() { 32 } else { 128 };
        let tiny = bits - subnet.prefix() < 2;
        let (low, high) = (number(subnet.network()), number(subnet.broadcast()));
        let first = match start {
            Some(address) => inside("rangeStart", address)?,
            None if tiny => low,
            None => low + 2,
        };
        let last = match end {
            Some(address) => inside("rangeEnd", address)?,
            None if tiny || subnet.is_ipv6() => high,
            None => high - 1,
        };
        if let Some(gateway) = gateway {
            inside("gateway", gateway)?;
        }
        if first > last {
            let family = subnet.is_ipv4();
            return Err(InvalidRange::Reversed(
                address(first, family),
                address(last, family),
            ));
        }
        Ok(Self {
            subnet,
            first,
            last,
            gateway,
        })
    }

    pub fn subnet(&self) -> IpNetwork {
        self.subnet
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.subnet.is_ipv4()
            && (self.first..=self.last).contains(&number(address))
    }

    fn size(&self) -> u128 {
        (self.last - self.first).saturating_add(1)
    }
}

impl RangeSet {
    pub fn new(ranges: Vec<Range>) -> Result<Self, InvalidRange> {
        let first = ranges.first().ok_or(InvalidRange::Empty)?.subnet;
        for (index, range) in ranges.iter().enumerate() {
            if range.subnet.is_ipv4() != first.is_ipv4() {
                return Err(InvalidRange::MixedFamilies(first, range.subnet));
            }
            let overlap = |other: &&Range| range.first <= other.last && other.first <= range.last;
            if let Some(other) = ranges[..index].iter().find(overlap) {
                return Err(InvalidRange::Overlap(other.subnet, range.subnet));
            }
        }
        Ok(Self { ranges })
    }

    pub fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    pub fn is_ipv4(&self) -> bool {
        self.ranges
            .first()
            .is_some_and(|range| range.subnet.is_ipv4())
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(address))
    }

    pub fn overlaps(&self, other: &Self) -> bool {
        self.is_ipv4() == other.is_ipv4()
            && self.ranges.iter().any(|a| {
                other
                    .ranges
                    .iter()
                    .any(|b| a.first <= b.last && b.first <= a.last)
            })
    }

    /// Whether a network has an address of it.
    pub fn touches(&self, network: &IpNetwork) -> bool {
        let (first, last) = (number(network.network()), number(network.broadcast()));
        self.is_ipv4() == network.is_ipv4()
            && self
                .ranges
                .iter()
                .any(|range| range.first <= last && first <= range.last)
    }

    /// A gateway is nobody's address.
    fn admits(&self, address: IpAddr) -> bool {
        self.contains(address)
            && self
                .ranges
                .iter()
                .all(|range| range.gateway != Some(address))
    }

    /// How many addresses there are to give, and how many of them are given.
    pub fn usage(&self, used: &BTreeSet<IpAddr>) -> (u128, u128) {
        let size = self
            .ranges
            .iter()
            .fold(0u128, |sum, range| sum.saturating_add(range.size()));
        let gateways = self
            .ranges
            .iter()
            .filter_map(|range| range.gateway)
            .filter(|gateway| self.contains(*gateway))
            .collect::<BTreeSet<_>>();
        let taken = used.iter().filter(|address| self.admits(**address)).count();
        (taken as u128, size.saturating_sub(gateways.len() as u128))
    }

    /// The next free address. `released` is in the order of giving back, `last` is what was
    /// handed out last.
    pub fn next(
        &self,
        used: &BTreeSet<IpAddr>,
        released: &VecDeque<IpAddr>,
        last: Option<IpAddr>,
    ) -> Result<IpAddr, Exhausted> {
        let resting: BTreeSet<IpAddr> = released.iter().copied().collect();
        let fresh = |address: &IpAddr| {
            self.admits(*address) && !used.contains(address) && !resting.contains(address)
        };
        // Every address that is passed over is used, resting or a gateway.
        let attempts = used.len() + resting.len() + self.ranges.len() + 1;
        if let Some(address) = self.from(last).take(attempts).find(fresh) {
            return Ok(address);
        }
        let free = |address: &&IpAddr| self.admits(**address) && !used.contains(*address);
        released
            .iter()
            .find(free)
            .copied()
            .ok_or_else(|| self.exhausted(used))
    }

    /// The error that says that all are taken.
    pub fn exhausted(&self, used: &BTreeSet<IpAddr>) -> Exhausted {
        let (used, capacity) = self.usage(used);
        Exhausted {
            ranges: self.to_string(),
            used,
            capacity,
        }
    }

    /// Every address once, starting behind `last`.
    fn from(&self, last: Option<IpAddr>) -> impl Iterator<Item = IpAddr> {
        let ipv4 = self.is_ipv4();
        let place = last.and_then(|last| {
            let index = self.ranges.iter().position(|range| range.contains(last))?;
            Some((index, number(last)))
        });
        let (start, after) = match place {
            Some((index, at)) => (index, at.checked_add(1)),
            None => (0, self.ranges.first().map(|range| range.first)),
        };
        let rest = self.ranges[start..]
            .iter()
            .enumerate()
            .flat_map(move |(n, range)| {
                let first = if n == 0 {
                    after.unwrap_or(u128::MAX)
                } else {
                    range.first
                };
                first.max(range.first)..=range.last
            });
        let again = self
            .ranges
            .iter()
            .flat_map(|range| range.first..=range.last);
        rest.chain(again).map(move |n| address(n, ipv4))
    }
}

impl fmt::Display for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.ranges.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{}", range.subnet)?;
        }
        Ok(())
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

fn address(number: u128, ipv4: bool) -> IpAddr {
    match u32::try_from(number) {
        Ok(number) if ipv4 => Ipv4Addr::from(number).into(),
        _ => Ipv6Addr::from(number).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn set(subnets: &[&str]) -> RangeSet {
        let range = |s: &&str| Range::new(s.parse().unwrap(), None, None, None).unwrap();
        RangeSet::new(subnets.iter().map(range).collect()).unwrap()
    }

    fn all(set: &RangeSet) -> Vec<IpAddr> {
        let (mut used, mut last, mut taken) = (BTreeSet::new(), None, Vec::new());
        while let Ok(address) = set.next(&used, &VecDeque::new(), last) {
            used.insert(address);
            taken.push(address);
            last = Some(address);
        }
        taken
    }

    #[test]
    fn a_subnet_gives_all_but_its_special_addresses_in_order() {
        let given = all(&set(&["10.0.0.0/29"]));
        let expected: Vec<IpAddr> = (2..=6).map(|n| ip(&format!("10.0.0.{n}"))).collect();
        assert_eq!(given, expected);
        assert_eq!(all(&set(&["10.0.0.0/32"])), [ip("10.0.0.0")]);
        assert_eq!(all(&set(&["10.0.0.0/31", "10.1.0.0/31"])).len(), 4);
        assert_eq!(all(&set(&["fd00::/126"])), [ip("fd00::2"), ip("fd00::3")]);
    }

    #[test]
    fn the_ends_of_the_address_space_do_not_overflow() {
        assert_eq!(all(&set(&["255.255.255.252/30"])).len(), 1);
        let last = set(&["ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffc/126"]);
        assert_eq!(all(&last).len(), 2);
        let whole = Range::new("::/0".parse().unwrap(), None, None, None).unwrap();
        assert!(
            RangeSet::new(vec![whole])
                .unwrap()
                .next(&BTreeSet::new(), &VecDeque::new(), None)
                .is_ok()
        );
    }

    #[test]
    fn the_address_that_rested_longest_comes_back_first() {
        let set = set(&["10.0.0.0/29"]);
        let used: BTreeSet<IpAddr> = [ip("10.0.0.3"), ip("10.0.0.6")].into();
        let released: VecDeque<IpAddr> = [ip("10.0.0.5"), ip("10.0.0.2"), ip("10.0.0.4")].into();
        assert_eq!(
            set.next(&used, &released, Some(ip("10.0.0.6"))),
            Ok(ip("10.0.0.5"))
        );
    }

    #[test]
    fn a_full_range_tells_its_numbers() {
        let set = set(&["10.0.0.0/30"]);
        let error = set
            .next(&[ip("10.0.0.2")].into(), &VecDeque::new(), None)
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "no address is left in 10.0.0.0/30: 1 of 1 are in use"
        );
    }

    #[test]
    fn ranges_that_make_no_sense_are_refused() {
        let range = |subnet: &str, start: Option<&str>, end: Option<&str>, gw: Option<&str>| {
            Range::new(
                subnet.parse().unwrap(),
                start.map(ip),
                end.map(ip),
                gw.map(ip),
            )
        };
        assert!(matches!(
            range("10.0.0.1/24", None, None, None),
            Err(InvalidRange::HostBits(..))
        ));
        for (start, end, gw) in [
            (Some("10.0.1.1"), None, None),
            (None, Some("fd00::1"), None),
            (None, None, Some("10.9.9.9")),
        ] {
            let error = range("10.0.0.0/24", start, end, gw);
            assert!(matches!(error, Err(InvalidRange::Outside { .. })));
        }
        let reversed = range("10.0.0.0/24", Some("10.0.0.9"), Some("10.0.0.8"), None);
        assert!(matches!(reversed, Err(InvalidRange::Reversed(..))));
        let one = |s: &str| range(s, None, None, None).unwrap();
        assert_eq!(RangeSet::new(vec![]), Err(InvalidRange::Empty));
        assert!(RangeSet::new(vec![one("10.0.0.0/24"), one("fd00::/64")]).is_err());
        assert!(RangeSet::new(vec![one("10.0.0.0/24"), one("10.0.0.0/25")]).is_err());
    }

    #[test]
    fn a_gateway_is_not_handed_out() {
        let range = Range::new(
            "10.0.0.0/29".parse().unwrap(),
            None,
            None,
            Some(ip("10.0.0.3")),
        );
        let set = RangeSet::new(vec![range.unwrap()]).unwrap();
        assert!(!all(&set).contains(&ip("10.0.0.3")));
        assert_eq!(set.usage(&BTreeSet::new()), (0, 4));
    }

    proptest! {
        /// Any order of taking and giving back never hands out an address twice and only
        /// fails when everything is taken.
        #[test]
        fn no_address_is_given_twice(operations in proptest::collection::vec(0u8..12, 1..200)) {
            let set = set(&["10.0.0.0/29", "10.9.0.0/30"]);
            let (mut held, mut released) = (Vec::<IpAddr>::new(), VecDeque::new());
            let mut last = None;
            for operation in operations {
                let used: BTreeSet<IpAddr> = held.iter().copied().collect();
                if operation < 8 {
                    match set.next(&used, &released, last) {
                        Ok(address) => {
                            prop_assert!(!used.contains(&address) && set.contains(address));
                            released.retain(|other| *other != address);
                            held.push(address);
                            last = Some(address);
                        }
                        Err(_) => prop_assert_eq!(held.len(), 6),
                    }
                } else if !held.is_empty() {
                    let address = held.remove(usize::from(operation) % held.len());
                    released.push_back(address);
                }
            }
        }
    }
}
