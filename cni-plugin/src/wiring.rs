//! The routed veth pair as plain data: what each side is to have.
//!
//! A pod has a /32 and a /128 and sends everything to a link-local gateway, whose Ethernet
//! address is the host side's. So there is no bridge, no subnet on the link, and every packet
//! of a pod is routed by the host, where policy sees it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use kernel::address::Address;
use kernel::neighbour::Neighbour;
use kernel::netlink::Request;
use kernel::route::{self, NextHop, Protocol, Route};
use kernel::{Ifindex, MacAddress, address, link, neighbour};
use sha2::{Digest, Sha256};

/// The gateway that IPv4 pods send to. Nobody has it; the host answers for it.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The gateway that IPv6 pods send to: an address of the host side itself.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Added to the priority of a route whose place an earlier interface has.
const LATER_PRIORITY: u32 = 1000;

/// What the names of host sides start with.
pub const HOST_PREFIX: &str = kernel::POD_INTERFACE_PREFIX;
/// What the names of the devices start with through which a pod's own traffic is limited.
pub const SHAPER_PREFIX: &str = "flb";

/// The name of the host side, from which any process recognises the attachment.
pub fn host_interface_name(container_id: &str, ifname: &str) -> String {
    format!(
        "{HOST_PREFIX}{}",
        &hex::encode(digest(container_id, ifname))[..11]
    )
}

/// Whether an interface's name has the form of [`host_interface_name`].
pub fn is_host_interface(name: &str) -> bool {
    name.strip_prefix(HOST_PREFIX)
        .is_some_and(|rest| rest.len() == 11 && rest.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The name of the device that limits what the attachment sends.
pub fn shaper_name(container_id: &str, ifname: &str) -> String {
    format!(
        "{SHAPER_PREFIX}-{}",
        &hex::encode(digest(container_id, ifname))[..11]
    )
}

fn digest(container_id: &str, ifname: &str) -> [u8; 32] {
    Sha256::digest(format!("{container_id}/{ifname}")).into()
}

/// A pair of interfaces to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    pub host_name: String,
    pub host_mac: MacAddress,
    pub pod_name: String,
    pub pod_mac: MacAddress,
    pub mtu: u32,
    pub addresses: Vec<IpAddr>,
    /// Routes beside the default ones; when there are any, they replace those.
    pub routes: Vec<crate::result::Route>,
    /// What the host side says about itself, so that a lost state can be found again.
    pub alias: String,
}

impl Pair {
    /// Both Ethernet addresses come from the attachment, so neither side has to ask.
    pub fn macs(container_id: &str, ifname: &str) -> (MacAddress, MacAddress) {
        let digest = digest(container_id, ifname);
        let part = |at: usize| {
            let mut bytes = [0; 6];
            bytes.copy_from_slice(&digest[at..at + 6]);
            MacAddress::local(bytes)
        };
        (part(12), part(18))
    }

    pub fn has_v4(&self) -> bool {
        self.addresses.iter().any(IpAddr::is_ipv4)
    }

    pub fn has_v6(&self) -> bool {
        self.addresses.iter().any(IpAddr::is_ipv6)
    }

    /// The pod's own routes. `taken` are those that it has already: an interface that comes
    /// later does not get in their way.
    pub fn pod_routes(&self, interface: Ifindex, taken: &[Route]) -> Vec<Route> {
        let place = |route: &Route| (route.destination, route.table, route.priority);
        let mut routes = Vec::new();
        for wanted in self.destinations() {
            // On the link, whatever the addresses say: nobody's subnet has the gateway.
            let hop = NextHop::via(gateway(wanted.dst.is_ipv4()))
                .on(interface)
                .onlink();
            let mut route = Route::new(wanted.dst, Protocol::BOOT, hop);
            route.mtu = wanted.mtu;
            route.priority = wanted.priority.unwrap_or(route.priority);
            route.table = wanted.table.unwrap_or(route.table);
            if taken.iter().any(|other| place(other) == place(&route)) {
                route.priority += LATER_PRIORITY + interface.0;
            }
            routes.push(route);
        }
        routes
    }

    /// Where the pod can send to, in the form of a result.
    pub fn destinations(&self) -> Vec<crate::result::Route> {
        let family = |v4: bool| if v4 { self.has_v4() } else { self.has_v6() };
        let wanted: Vec<_> = self
            .routes
            .iter()
            .filter(|route| family(route.dst.is_ipv4()))
            .cloned()
            .collect();
        let mut all = Vec::new();
        for v4 in [true, false].into_iter().filter(|v4| family(*v4)) {
            let mut own = wanted
                .iter()
                .filter(|route| route.dst.is_ipv4() == v4)
                .peekable();
            if own.peek().is_none() {
                all.push(crate::result::Route::new(everything(v4), Some(gateway(v4))));
            }
            all.extend(own.map(|route| crate::result::Route {
                gw: Some(gateway(v4)),
                ..route.clone()
            }));
        }
        all
    }

    /// Everything inside the pod's namespace, in the order in which the kernel wants it.
    pub fn pod_requests(&self, interface: Ifindex, taken: &[Route]) -> Vec<Request> {
        let mut requests = vec![link::set(interface, &link::Settings::up())];
        for ip in &self.addresses {
            requests.push(address::add(&Address::new(interface, IpNetwork::from(*ip))));
        }
        for v4 in [true, false] {
            if self.addresses.iter().any(|address| address.is_ipv4() == v4) {
                let known = Neighbour::permanent(interface, gateway(v4), self.host_mac);
                requests.push(neighbour::replace(&known));
            }
        }
        requests.extend(self.pod_routes(interface, taken).iter().map(route::add));
        requests
    }

    /// The host's routes to the pod.
    pub fn host_routes(&self, interface: Ifindex) -> Vec<Route> {
        let hop = NextHop::device(interface);
        let route = |ip: &IpAddr| Route::new(IpNetwork::from(*ip), Protocol::CNI, hop.clone());
        self.addresses.iter().map(route).collect()
    }

    /// Everything on the host side; the first request opens the interface.
    pub fn host_requests(&self, interface: Ifindex) -> Vec<Request> {
        let mut requests = vec![link::set(interface, &link::Settings::up())];
        if self.has_v6() {
            let own =
                IpNetwork::new(GATEWAY_V6.into(), 64).unwrap_or(IpAddr::from(GATEWAY_V6).into());
            requests.push(address::replace(&Address::new(interface, own)));
        }
        for ip in &self.addresses {
            requests.push(neighbour::replace(&Neighbour::permanent(
                interface,
                *ip,
                self.pod_mac,
            )));
        }
        requests.extend(self.host_routes(interface).iter().map(route::replace));
        requests
    }

    /// Settings of the host side, below `/proc/sys`.
    pub fn host_settings(&self, local_ports: bool) -> Vec<(String, &'static str)> {
        let name = &self.host_name;
        let v4 = |setting: &str| format!("net/ipv4/conf/{name}/{setting}");
        let v6 = |setting: &str| format!("net/ipv6/conf/{name}/{setting}");
        let mut settings = vec![
            // The kernel answers for the gateway, should the pod ask for it.
            (v4("proxy_arp"), "1"),
            (format!("net/ipv4/neigh/{name}/proxy_delay"), "0"),
            (v4("rp_filter"), "1"),
            (v4("send_redirects"), "0"),
        ];
        if local_ports && self.has_v4() {
            settings.push((v4("route_localnet"), "1"));
        }
        if self.has_v6() {
            settings.push((v6("disable_ipv6"), "0"));
            settings.push((v6("accept_ra"), "0"));
            // The gateway's address is its only one.
            settings.push((v6("addr_gen_mode"), "1"));
        }
        settings
    }

    /// Settings inside the pod that an IPv6 address needs.
    pub fn pod_settings(&self) -> Vec<(String, &'static str)> {
        if !self.has_v6() {
            return Vec::new();
        }
        let v6 = |setting: &str| format!("net/ipv6/conf/{}/{setting}", self.pod_name);
        vec![
            (v6("disable_ipv6"), "0"),
            (v6("accept_dad"), "0"),
            (v6("accept_ra"), "0"),
        ]
    }
}

/// The gateway of a family.
pub fn gateway(v4: bool) -> IpAddr {
    if v4 {
        GATEWAY_V4.into()
    } else {
        GATEWAY_V6.into()
    }
}

fn everything(v4: bool) -> IpNetwork {
    let any: IpAddr = if v4 {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    IpNetwork::new(any, 0).unwrap_or_else(|_| any.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_the_attachment_and_fit_the_kernel() {
        let name = host_interface_name("abc", "eth0");
        assert_eq!(name, host_interface_name("abc", "eth0"));
        assert_ne!(name, host_interface_name("abc", "eth1"));
        assert_eq!(name.len(), 14);
        assert!(is_host_interface(&name));
        assert!(shaper_name("abc", "eth0").len() <= link::MAX_NAME);
        for other in ["flannel.1", "flannel-v6.1", "fl", "flb-0123456789a", "eth0"] {
            assert!(!is_host_interface(other), "{other}");
        }
    }

    #[test]
    fn a_pod_gets_default_routes_of_its_families_unless_it_asks_for_others() {
        let (host_mac, pod_mac) = Pair::macs("abc", "eth0");
        let mut pair = Pair {
            host_name: "fl0".into(),
            host_mac,
            pod_name: "eth0".into(),
            pod_mac,
            mtu: 1450,
            addresses: vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            routes: Vec::new(),
            alias: String::new(),
        };
        let destinations = |pair: &Pair| -> Vec<String> {
            pair.destinations()
                .iter()
                .map(|route| route.dst.to_string())
                .collect()
        };
        assert_eq!(destinations(&pair), ["0.0.0.0/0", "::/0"]);
        pair.routes = vec![crate::result::Route::new(
            "10.0.0.0/8".parse().unwrap(),
            None,
        )];
        assert_eq!(destinations(&pair), ["10.0.0.0/8", "::/0"]);
        pair.addresses.remove(1);
        assert_eq!(destinations(&pair), ["10.0.0.0/8"]);
    }
}
