//! The thin part: makes, checks and deletes what [`crate::wiring`] and [`crate::rules`] say.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::Path;

use kernel::conntrack::{Conntrack, Flow};
use kernel::link::{Kind, Link, NewLink, Peer, Settings};
use kernel::netlink::{self, Protocol, Request, Socket, ignore_not_found};
use kernel::netns::Netns;
use kernel::nftables::Connection;
use kernel::qdisc::{self, TokenBucket};
use kernel::{Ifindex, MacAddress, address, link, neighbour, route, sysctl};

use crate::config::Bandwidth;
use crate::error::{Code, Error};
use crate::rules::{self, Wanted};
use crate::wiring::Pair;

/// What a default route's interface without an MTU of its own has.
const ETHERNET_MTU: u32 = 1500;
/// A burst of nothing lets nothing pass: what half a second brings, but a full segment.
const SMALLEST_BURST: u64 = 64 * 1024;

/// A pair that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    pub host: Ifindex,
    pub host_mac: MacAddress,
    pub pod_mac: MacAddress,
}

/// Sockets into the host's and the pod's namespace.
pub struct Dataplane {
    host: Socket,
    nft: Option<Connection>,
}

fn failed(what: &str) -> impl Fn(netlink::Error) -> Error + '_ {
    move |error| Error::kernel(what, error)
}

/// Opens the container's namespace; `None` when it is not there.
pub fn open_netns(path: &Path) -> Result<Option<Netns>, Error> {
    match Netns::open(path) {
        Ok(netns) => Ok(Some(netns)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(Error::kernel(
            "cannot open the container's namespace",
            error,
        )),
    }
}

/// A socket inside the container's namespace.
pub fn pod_socket(netns: &Netns) -> Result<Socket, Error> {
    netns
        .socket(Protocol::Route)
        .map_err(|error| Error::kernel("cannot enter the container's namespace", error))
}

impl Dataplane {
    pub fn open() -> Result<Self, Error> {
        let host = Socket::route().map_err(failed("cannot talk to the kernel"))?;
        Ok(Self { host, nft: None })
    }

    pub fn host(&mut self) -> &mut Socket {
        &mut self.host
    }

    fn nft(&mut self) -> Result<&mut Connection, Error> {
        if self.nft.is_none() {
            let opened = Connection::open();
            self.nft =
                Some(opened.map_err(|error| Error::kernel("cannot talk to nf_tables", error))?);
        }
        self.nft
            .as_mut()
            .ok_or_else(|| Error::new(Code::Kernel, "cannot talk to nf_tables"))
    }

    /// The MTU of the interface that leads out of the machine.
    pub fn default_mtu(&mut self) -> Result<u32, Error> {
        let find = |socket: &mut Socket| -> Result<Option<u32>, netlink::Error> {
            let routes = route::list(socket, route::Filter::main_table())?;
            let hop = routes
                .iter()
                .filter(|route| route.destination.prefix() == 0)
                .flat_map(|route| &route.next_hops)
                .find_map(|hop| hop.interface);
            let Some(index) = hop else { return Ok(None) };
            Ok(link::get_by_index(socket, index)?.map(|link| link.mtu))
        };
        let mtu = find(&mut self.host).map_err(failed("cannot find the MTU"))?;
        Ok(mtu.unwrap_or(ETHERNET_MTU))
    }

    /// Makes the pair and everything inside the pod. The host side stays down: nothing
    /// passes before [`Dataplane::open_host_side`].
    pub fn create(
        &mut self,
        pair: &Pair,
        netns: &Netns,
        pod: &mut Socket,
        sysctl: &[(String, String)],
    ) -> Result<Made, Error> {
        self.create_links(pair, netns)?;
        let host = self.require_link(&pair.host_name)?;
        let inside = link::get(pod, &pair.pod_name)
            .map_err(failed("cannot read the container's interface"))?
            .ok_or_else(|| Error::new(Code::Kernel, "the container's interface has vanished"))?;
        let settings = pair.pod_settings();
        if !settings.is_empty() || !sysctl.is_empty() {
            set_inside(netns, &settings, sysctl)?;
        }
        let taken = route::list(pod, route::Filter::default())
            .map_err(failed("cannot read the container's routes"))?;
        execute(pod, &pair.pod_requests(inside.index, &taken))?;
        Ok(Made {
            host: host.index,
            host_mac: host.mac.unwrap_or(pair.host_mac),
            pod_mac: inside.mac.unwrap_or(pair.pod_mac),
        })
    }

    fn create_links(&mut self, pair: &Pair, netns: &Netns) -> Result<(), Error> {
        let peer = Peer {
            mac: Some(pair.pod_mac),
            mtu: Some(pair.mtu),
            netns: Some(netns.as_raw_fd()),
            ..Peer::named(&pair.pod_name)
        };
        let settings = Settings {
            mac: Some(pair.host_mac),
            mtu: Some(pair.mtu),
            ..Settings::new()
        };
        let request = link::create(&NewLink::veth(&pair.host_name, peer).with(settings));
        let result = match self.host.execute(&request) {
            Err(error) if error.is_exists() => {
                // What a killed ADD of the same attachment has left on the host's side: the
                // container's side was looked at before.
                ignore_not_found(self.host.execute(&link::delete_by_name(&pair.host_name)))
                    .and_then(|()| self.host.execute(&request))
            }
            other => other,
        };
        result.map_err(|error| Error::kernel("cannot make the interface", error))?;
        let alias = Settings {
            alias: Some(pair.alias.clone()),
            ..Settings::new()
        };
        self.host
            .execute(&link::set_by_name(&pair.host_name, &alias))
            .map_err(failed("cannot mark the interface"))
    }

    fn require_link(&mut self, name: &str) -> Result<Link, Error> {
        link::get(&mut self.host, name)
            .map_err(failed("cannot read the host's interface"))?
            .ok_or_else(|| Error::new(Code::Kernel, format!("the interface {name} has vanished")))
    }

    /// Settings of the host side and of the host, which forwards from now on.
    pub fn configure_host(&mut self, pair: &Pair, local_ports: bool) -> Result<(), Error> {
        let fail = |error: sysctl::Error| Error::kernel("cannot configure the host", error);
        for (name, value) in pair.host_settings(local_ports) {
            sysctl::write(&name, value).map_err(fail)?;
        }
        if pair.has_v4() {
            sysctl::ensure("net/ipv4/ip_forward", "1").map_err(fail)?;
        }
        if pair.has_v6() {
            sysctl::ensure("net/ipv6/conf/all/forwarding", "1").map_err(fail)?;
        }
        Ok(())
    }

    /// Lets packets through.
    pub fn open_host_side(&mut self, pair: &Pair, made: &Made) -> Result<(), Error> {
        execute(&mut self.host, &pair.host_requests(made.host))
    }

    /// Whether the container has no interface of that name. One of ours whose host side is down is
    /// on its way out and is helped along.
    pub fn make_way(
        &mut self,
        pod: &mut Socket,
        ifname: &str,
        host: &str,
        mac: MacAddress,
    ) -> Result<bool, Error> {
        let fail = failed("cannot read the container's interfaces");
        let Some(there) = link::get(pod, ifname).map_err(&fail)? else {
            return Ok(true);
        };
        let open = link::get(&mut self.host, host)
            .map_err(&fail)?
            .is_some_and(|link| link.up);
        if there.kind == Kind::Veth && there.mac == Some(mac) && !open {
            ignore_not_found(pod.execute(&link::delete(there.index))).map_err(fail)?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Takes an interface down, and its routes with it; `None` when there is none.
    ///
    /// From then on its number stands for it: the name may be that of a new interface when the
    /// old one is deleted, since a name comes from the attachment.
    pub fn retire_link(&mut self, name: &str) -> Result<Option<Ifindex>, Error> {
        let fail = failed("cannot take the interface down");
        let Some(there) = link::get(&mut self.host, name).map_err(&fail)? else {
            return Ok(None);
        };
        let down = Settings {
            up: Some(false),
            ..Settings::new()
        };
        match self.host.execute(&link::set(there.index, &down)) {
            Ok(()) => Ok(Some(there.index)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(fail(error)),
        }
    }

    /// Deletes the host's interface and with it the container's, as often as it is told.
    pub fn delete_link(&mut self, index: Ifindex) -> Result<(), Error> {
        ignore_not_found(self.host.execute(&link::delete(index)))
            .map_err(failed("cannot delete the interface"))
    }

    /// Deletes the container's end, for when somebody gave the host's another name. Only an
    /// interface with the address that we gave it is ours.
    pub fn delete_inside(
        &mut self,
        netns: &Netns,
        ifname: &str,
        mac: MacAddress,
    ) -> Result<(), Error> {
        let mut pod = pod_socket(netns)?;
        let fail = failed("cannot delete the container's interface");
        let Some(link) = link::get(&mut pod, ifname).map_err(&fail)? else {
            return Ok(());
        };
        if link.kind != Kind::Veth || link.mac != Some(mac) {
            return Ok(());
        }
        ignore_not_found(pod.execute(&link::delete(link.index))).map_err(fail)
    }

    pub fn install_rules(&mut self, wanted: &Wanted) -> Result<(), Error> {
        rules::install(self.nft()?, wanted).map_err(|error| match rules::taken(&error) {
            Some(element) if !wanted.ports.is_empty() => {
                Error::new(Code::PortTaken, "a host port belongs to another container")
                    .with_details(element)
            }
            _ => Error::kernel("cannot write the rules", error),
        })
    }

    /// Forgets the flows that `is_stale` says, of one transport protocol.
    pub fn forget_flows(
        &mut self,
        protocol: u8,
        is_stale: impl Fn(&Flow) -> bool,
    ) -> Result<(), Error> {
        let fail = failed("cannot look through the tracked connections");
        let mut conntrack = Conntrack::open().map_err(&fail)?;
        for v6 in [false, true] {
            let mut flows = conntrack.flows_of(v6, protocol).map_err(&fail)?;
            flows.retain(&is_stale);
            conntrack.delete(&flows).map_err(&fail)?;
        }
        Ok(())
    }

    /// The host's own addresses.
    pub fn own_addresses(&mut self) -> Result<BTreeSet<IpAddr>, Error> {
        let listed = address::list(&mut self.host, None);
        let listed = listed.map_err(failed("cannot list the host's addresses"))?;
        Ok(listed.iter().map(|own| own.network.ip()).collect())
    }

    pub fn uninstall_rules(&mut self, wanted: &Wanted) -> Result<(), Error> {
        rules::uninstall(self.nft()?, wanted)
            .map_err(|error| Error::kernel("cannot delete the rules", error))
    }

    pub fn missing_rules(&mut self, wanted: &Wanted) -> Result<Vec<String>, Error> {
        rules::missing(self.nft()?, wanted)
            .map_err(|error| Error::kernel("cannot read the rules", error))
    }

    /// Limits both directions: what the host side sends is what the container receives; what
    /// it receives is limited on a device of its own.
    pub fn limit(
        &mut self,
        host: Ifindex,
        bandwidth: &Bandwidth,
        shaper: &str,
        mtu: u32,
    ) -> Result<(), Error> {
        let fail = failed("cannot limit the bandwidth");
        if bandwidth.ingress_rate > 0 {
            let bucket = bucket(bandwidth.ingress_rate, bandwidth.ingress_burst);
            self.host
                .execute(&qdisc::replace_token_bucket(host, &bucket))
                .map_err(&fail)?;
        }
        if bandwidth.egress_rate > 0 {
            ignore_not_found(self.host.execute(&link::delete_by_name(shaper))).map_err(&fail)?;
            let settings = Settings {
                mtu: Some(mtu),
                ..Settings::up()
            };
            let device = link::create(&NewLink::ifb(shaper).with(settings));
            self.host.execute(&device).map_err(&fail)?;
            let device = self.require_link(shaper)?.index;
            let bucket = bucket(bandwidth.egress_rate, bandwidth.egress_burst);
            let mut requests = vec![qdisc::replace_token_bucket(device, &bucket)];
            requests.extend(qdisc::redirect_ingress(host, device));
            self.host.execute_all(&requests).map_err(&fail)?;
        }
        Ok(())
    }

    /// The limit that an interface has.
    fn rate(&mut self, name: &str) -> Result<Option<u64>, Error> {
        let fail = failed("cannot read the bandwidth limit");
        let Some(link) = link::get(&mut self.host, name).map_err(&fail)? else {
            return Ok(None);
        };
        let queues = qdisc::list(&mut self.host, link.index).map_err(fail)?;
        Ok(queues.iter().find_map(|queue| queue.rate))
    }

    /// What of the limits is not in the kernel.
    pub fn missing_limits(
        &mut self,
        host: &str,
        bandwidth: &Bandwidth,
        shaper: &str,
    ) -> Result<Vec<String>, Error> {
        let mut missing = Vec::new();
        for (rate, name) in [
            (bandwidth.ingress_rate, host),
            (bandwidth.egress_rate, shaper),
        ] {
            if rate > 0 && self.rate(name)? != Some((rate / 8).max(1)) {
                missing.push(format!("the limit of {rate} bits per second on {name}"));
            }
        }
        Ok(missing)
    }

    /// What of the pair is not as it was made.
    pub fn missing_parts(&mut self, pair: &Pair, netns: &Netns) -> Result<Vec<String>, Error> {
        let mut missing = Vec::new();
        let fail = failed("cannot read the host's interface");
        match link::get(&mut self.host, &pair.host_name).map_err(&fail)? {
            None => missing.push(format!("the host's interface {}", pair.host_name)),
            Some(host) => {
                if !host.up {
                    missing.push(format!("interface {} is down", pair.host_name));
                }
                let routes = route::list(
                    &mut self.host,
                    route::Filter::protocol(route::Protocol::CNI),
                )
                .map_err(&fail)?;
                let wanted = pair.host_routes(host.index);
                let lost = wanted.iter().filter(|route| !routes.contains(route));
                missing
                    .extend(lost.map(|route| format!("the host's route to {}", route.destination)));
            }
        }
        let mut pod = pod_socket(netns)?;
        missing
            .extend(missing_inside(pair, &mut pod).map_err(failed("cannot read the container"))?);
        Ok(missing)
    }

    /// The interfaces that carry a mark of this network: attachment by attachment.
    pub fn marked_links(&mut self) -> Result<Vec<Link>, Error> {
        let links = link::list(&mut self.host).map_err(failed("cannot list the interfaces"))?;
        Ok(links
            .into_iter()
            .filter(|link| link.alias.is_some())
            .collect())
    }

    /// The addresses that routes of ours lead to through an interface.
    pub fn routed_addresses(&mut self, interface: Ifindex) -> Result<Vec<IpAddr>, Error> {
        let filter = route::Filter {
            interface: Some(interface),
            ..route::Filter::protocol(route::Protocol::CNI)
        };
        let routes =
            route::list(&mut self.host, filter).map_err(failed("cannot list the routes"))?;
        Ok(routes.iter().map(|route| route.destination.ip()).collect())
    }
}

fn missing_inside(pair: &Pair, pod: &mut Socket) -> Result<Vec<String>, netlink::Error> {
    let name = &pair.pod_name;
    let Some(inside) = link::get(pod, name)? else {
        return Ok(vec![format!("the container's interface {name}")]);
    };
    let mut missing = Vec::new();
    if !inside.up {
        missing.push(format!("the container's interface {name} is down"));
    }
    if inside.mtu != pair.mtu {
        missing.push(format!(
            "the MTU of {name}: it is {}, not {}",
            inside.mtu, pair.mtu
        ));
    }
    let addresses = address::list(pod, Some(inside.index))?;
    for wanted in &pair.addresses {
        if !addresses
            .iter()
            .any(|address| address.network.ip() == *wanted)
        {
            missing.push(format!("the address {wanted} on {name}"));
        }
    }
    // Later plugins may have changed routes; the way to the gateway is ours.
    let neighbours = neighbour::list(pod, Some(inside.index))?;
    for v4 in [true, false] {
        let gateway = crate::wiring::gateway(v4);
        let needed = pair.addresses.iter().any(|address| address.is_ipv4() == v4);
        if needed && !neighbours.iter().any(|known| known.address == gateway) {
            missing.push(format!("the gateway {gateway} on {name}"));
        }
    }
    Ok(missing)
}

fn bucket(bits_per_second: u64, burst_bits: u64) -> TokenBucket {
    let bytes_per_second = (bits_per_second / 8).max(1);
    let burst = match burst_bits / 8 {
        0 => (bytes_per_second / 2).max(SMALLEST_BURST),
        given => given,
    };
    // The kernel keeps the burst as a time in 64 ns ticks: what does not fit is cut there.
    TokenBucket {
        bytes_per_second,
        burst_bytes: u32::try_from(burst).unwrap_or(u32::MAX),
    }
}

fn set_inside(
    netns: &Netns,
    settings: &[(String, &'static str)],
    sysctl: &[(String, String)],
) -> Result<(), Error> {
    let write = || {
        for (name, value) in settings {
            sysctl::write(name, value)?;
        }
        sysctl
            .iter()
            .try_for_each(|(name, value)| sysctl::write(name, value))
    };
    netns
        .run(write)
        .map_err(|error| Error::kernel("cannot enter the container's namespace", error))?
        .map_err(|error| Error::kernel("cannot configure the container", error))
}

fn execute(socket: &mut Socket, requests: &[Request]) -> Result<(), Error> {
    socket
        .execute_all(requests)
        .map_err(failed("cannot configure the interface"))
}
