//! Who is where: names and addresses of a lab, computed from its name, number and size.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use serde::{Deserialize, Serialize};

/// The place of the control plane.
pub const SERVER: &str = "server";
/// The network namespace that joins the places.
pub const SWITCH: &str = "switch";

/// Which IP families a lab has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpFamily {
    Ipv4,
    Ipv6,
    Dual,
}

impl IpFamily {
    pub fn has_ipv4(self) -> bool {
        self != IpFamily::Ipv6
    }

    pub fn has_ipv6(self) -> bool {
        self != IpFamily::Ipv4
    }
}

/// Why a name is not one of a lab.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{name:?} cannot name a lab: use 1 to 24 of a-z, 0-9 and -, starting with a letter")]
pub struct NameError {
    pub name: String,
}

/// Names end up in paths, cgroups and namespaces.
pub fn check_name(name: &str) -> Result<(), NameError> {
    let valid = (1..=24).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && !name.ends_with('-')
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if valid {
        Ok(())
    } else {
        Err(NameError {
            name: name.to_owned(),
        })
    }
}

/// A lab's number picks its ranges: no two labs have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LabNumber(pub u8);

impl LabNumber {
    pub fn ipv4_range(self) -> Ipv4Network {
        Ipv4Network::new(Ipv4Addr::new(10, 199, self.0, 0), 24).expect("24 is a prefix length")
    }

    pub fn ipv6_range(self) -> Ipv6Network {
        let address = Ipv6Addr::new(0xfd00, 0xfa1e, u16::from(self.0), 0, 0, 0, 0, 0);
        Ipv6Network::new(address, 64).expect("64 is a prefix length")
    }

    /// The machine's interface on the lab's switch.
    pub fn host_interface(self) -> String {
        format!("lab{}", self.0)
    }

    /// The first number whose ranges nobody uses.
    pub fn free(taken: &[LabNumber], in_use: &[IpNetwork]) -> Option<Self> {
        (0..=u8::MAX).map(LabNumber).find(|number| {
            !taken.contains(number) && !in_use.iter().any(|range| number.overlaps(*range))
        })
    }

    fn overlaps(self, range: IpNetwork) -> bool {
        // A default route covers everything and takes nothing.
        match range {
            IpNetwork::V4(range) => range.prefix() > 0 && range.overlaps(self.ipv4_range()),
            IpNetwork::V6(range) => range.prefix() > 0 && range.overlaps(self.ipv6_range()),
        }
    }

    /// The address of a station on the lab's switch: 1 is the machine, 2 the server, nodes follow.
    pub fn address(self, station: u8, family: IpFamily) -> Vec<IpNetwork> {
        let ipv4 = Ipv4Network::new(Ipv4Addr::new(10, 199, self.0, station), 24)
            .expect("24 is a prefix length");
        let mut segments = self.ipv6_range().ip().segments();
        segments[7] = u16::from(station);
        let ipv6 = Ipv6Network::new(Ipv6Addr::from(segments), 64).expect("64 is a prefix length");
        let mut addresses = Vec::new();
        if family.has_ipv4() {
            addresses.push(IpNetwork::V4(ipv4));
        }
        if family.has_ipv6() {
            addresses.push(IpNetwork::V6(ipv6));
        }
        addresses
    }
}

/// What a place is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlaceKind {
    Server,
    Node,
}

/// One machine of the lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub name: String,
    pub kind: PlaceKind,
    #[serde(with = "as_text")]
    pub addresses: Vec<IpNetwork>,
}

mod as_text {
    use ipnetwork::IpNetwork;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(
        networks: &[IpNetwork],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let texts: Vec<String> = networks.iter().map(ToString::to_string).collect();
        texts.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<IpNetwork>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        texts
            .iter()
            .map(|text| text.parse().map_err(D::Error::custom))
            .collect()
    }
}

impl Place {
    /// The address that others use.
    pub fn address(&self) -> IpAddr {
        self.addresses[0].ip()
    }
}

/// The names and addresses of a lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    pub lab: String,
    pub number: LabNumber,
    pub family: IpFamily,
    /// The server first, then the nodes.
    pub places: Vec<Place>,
}

impl Topology {
    pub fn new(lab: &str, number: LabNumber, family: IpFamily, nodes: u16) -> Self {
        let server = Place {
            name: SERVER.to_owned(),
            kind: PlaceKind::Server,
            addresses: number.address(2, family),
        };
        let nodes = (1..=nodes).map(|index| Place {
            name: format!("node{index}"),
            kind: PlaceKind::Node,
            addresses: number.address(10 + index as u8, family),
        });
        let places = std::iter::once(server).chain(nodes).collect();
        Self {
            lab: lab.to_owned(),
            number,
            family,
            places,
        }
    }

    pub fn host_addresses(&self) -> Vec<IpNetwork> {
        self.number.address(1, self.family)
    }

    pub fn place(&self, name: &str) -> Option<&Place> {
        self.places.iter().find(|place| place.name == name)
    }

    pub fn server(&self) -> &Place {
        &self.places[0]
    }

    pub fn nodes(&self) -> impl Iterator<Item = &Place> {
        self.places
            .iter()
            .filter(|place| place.kind == PlaceKind::Node)
    }

    pub fn namespace(&self, place: &str) -> String {
        namespace(&self.lab, place)
    }

    /// `https://ADDRESS:6443`
    pub fn server_url(&self) -> String {
        match self.server().address() {
            IpAddr::V4(address) => format!("https://{address}:6443"),
            IpAddr::V6(address) => format!("https://[{address}]:6443"),
        }
    }

    /// The pods' ranges and the Services' ranges.
    pub fn cluster_ranges(&self) -> (Vec<&'static str>, Vec<&'static str>) {
        let pick = |ipv4, ipv6| {
            let ipv4 = self.family.has_ipv4().then_some(ipv4);
            let ipv6 = self.family.has_ipv6().then_some(ipv6);
            ipv4.into_iter().chain(ipv6).collect()
        };
        (
            pick("10.244.0.0/16", "fd00:10:244::/56"),
            pick("10.96.0.0/12", "fd00:10:96::/112"),
        )
    }
}

/// The name of a place's network namespace.
pub fn namespace(lab: &str, place: &str) -> String {
    format!("fairlead-{lab}-{place}")
}

/// Whether a network namespace belongs to the lab.
pub fn is_namespace_of(lab: &str, namespace: &str) -> bool {
    let Some(place) = namespace.strip_prefix(&format!("fairlead-{lab}-")) else {
        return false;
    };
    let is_node = || {
        place.strip_prefix("node").is_some_and(|index| {
            !index.is_empty() && index.bytes().all(|byte| byte.is_ascii_digit())
        })
    };
    place == SWITCH || place == SERVER || is_node()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_safe_in_paths_are_taken() {
        for name in ["demo", "a", "ci-7", "x9"] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in [
            "",
            "Demo",
            "a/b",
            "..",
            "9a",
            "-a",
            "a-",
            "abcdefghijklmnopqrstuvwxyz",
        ] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_namespace_belongs_to_one_lab_only() {
        assert!(is_namespace_of("a", "fairlead-a-node1"));
        assert!(is_namespace_of("a", "fairlead-a-switch"));
        assert!(!is_namespace_of("a", "fairlead-a-node1-switch"));
        assert!(is_namespace_of("a-node1", "fairlead-a-node1-switch"));
        assert!(!is_namespace_of("a", "fairlead-a-node"));
        assert!(!is_namespace_of("a", "fairlead-ab-server"));
    }

    #[test]
    fn a_number_is_free_when_neither_a_lab_nor_the_machine_uses_its_range() {
        let in_use = ["10.199.1.0/24", "0.0.0.0/0", "fd00:fa1e:2::/64", "::/0"]
            .map(|range| range.parse().unwrap());
        assert_eq!(
            LabNumber::free(&[LabNumber(0)], &in_use),
            Some(LabNumber(3))
        );
        let everything = ["10.0.0.0/8".parse().unwrap()];
        assert_eq!(LabNumber::free(&[], &everything), None);
    }

    #[test]
    fn every_place_has_an_address_of_its_own_in_each_family() {
        let topology = Topology::new("demo", LabNumber(3), IpFamily::Dual, 2);
        let addresses: Vec<String> = topology
            .places
            .iter()
            .flat_map(|place| place.addresses.iter().map(ToString::to_string))
            .collect();
        assert_eq!(
            addresses,
            [
                "10.199.3.2/24",
                "fd00:fa1e:3::2/64",
                "10.199.3.11/24",
                "fd00:fa1e:3::b/64",
                "10.199.3.12/24",
                "fd00:fa1e:3::c/64"
            ]
        );
    }

    #[test]
    fn an_ipv6_lab_has_a_bracketed_server_url() {
        let topology = Topology::new("demo", LabNumber(3), IpFamily::Ipv6, 1);
        assert_eq!(topology.server_url(), "https://[fd00:fa1e:3::2]:6443");
        assert_eq!(topology.cluster_ranges().0, ["fd00:10:244::/56"]);
    }
}
