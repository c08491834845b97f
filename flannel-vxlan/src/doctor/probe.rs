//! Measures: reads the kernel, runs the plugin, sends packets.

use std::io;
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use ip_pools::model::{own_ranges, pod_ranges};
use ip_pools::span::is_host;
use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::Node;
use kernel::icmp::{Echo, Echoed};
use kernel::netlink::{self, Socket};
use kernel::route::{self, Protocol};
use kernel::{ethtool, link, sysctl};
use kube::ResourceExt;
use serde_json::Value;

use super::{Carried, Machine, Path, Peer, Way, largest};
use crate::config::{ChecksumOffload, DEFAULT_VNI};
use crate::driver::internal_addresses;
use crate::model::Outer;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_millis(700);
/// A lost packet is no small path: so often each size is tried.
const TRIES: usize = 2;

/// What to measure.
#[derive(Debug, Clone)]
pub struct Probe {
    pub node_name: String,
    pub vni: u32,
    pub conflist: PathBuf,
    /// Where the plugin is installed; not looked at without.
    pub plugin: Option<PathBuf>,
}

impl Default for Probe {
    fn default() -> Self {
        let config = crate::Config::default();
        Self {
            node_name: String::new(),
            vni: DEFAULT_VNI,
            conflist: config.conflist,
            plugin: None,
        }
    }
}

/// Measures this node and the ways to all others, one after the other. Works in the calling
/// thread's network namespace and blocks.
pub fn measure(probe: &Probe, nodes: &[Node]) -> io::Result<(Machine, Vec<Peer>)> {
    let mut tester = Tester {
        socket: Socket::route().map_err(io::Error::other)?,
        vni: probe.vni,
        echoes: [Echo::open(false)?, Echo::open(true)?],
    };
    let own = nodes.iter().find(|node| node.name_any() == probe.node_name);
    let machine = tester.machine(probe, own).map_err(io::Error::other)?;
    let others = nodes
        .iter()
        .filter(|node| node.name_any() != probe.node_name);
    let peers = others.map(|node| tester.peer(node));
    Ok((machine, peers.collect::<io::Result<_>>()?))
}

struct Tester {
    socket: Socket,
    vni: u32,
    echoes: [Echo; 2],
}

impl Tester {
    fn machine(&mut self, probe: &Probe, own: Option<&Node>) -> Result<Machine, netlink::Error> {
        let conflist = std::fs::read(&probe.conflist).ok();
        let conflist_found = conflist.is_some();
        let list: Value = conflist
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        let plugin = &list["plugins"][0];
        let ranges = own.map(pod_ranges).unwrap_or_default();
        let sockets = ["policySocket", "poolSocket"].map(|key| plugin[key].as_str());
        let silent = |path: &PathBuf| UnixStream::connect(path).is_err();
        Ok(Machine {
            node: probe.node_name.clone(),
            not_forwarding: not_forwarding(&ranges),
            ranges,
            conflist: probe.conflist.clone(),
            conflist_found,
            pod_mtu: plugin["mtu"]
                .as_u64()
                .and_then(|mtu| u32::try_from(mtu).ok()),
            bad_offload: self.bad_offload(),
            silent_sockets: sockets
                .into_iter()
                .flatten()
                .map(PathBuf::from)
                .filter(silent)
                .collect(),
            plugin: probe.plugin.as_ref().and_then(runs),
        })
    }

    /// Tunnel devices that would lose every first packet.
    fn bad_offload(&mut self) -> Vec<String> {
        let release = sysctl::read("kernel/osrelease").unwrap_or_default();
        if !ChecksumOffload::Detect.must_be_off(&release) {
            return Vec::new();
        }
        let names = Outer::ALL.map(|outer| outer.device_name(self.vni));
        let on = |name: &String| ethtool::tx_checksum(name).unwrap_or(false);
        names.into_iter().filter(on).collect()
    }

    fn peer(&mut self, node: &Node) -> io::Result<Peer> {
        let mut paths = Vec::new();
        let addresses = internal_addresses(node);
        // Blocks go the same way as the node's own ranges; a node may have blocks alone.
        let mut ranges = own_ranges(node);
        if ranges.is_empty() {
            ranges = pod_ranges(node);
            ranges.retain(|range| !is_host(range));
        }
        for range in ranges {
            paths.push(self.path(range, &addresses)?);
        }
        Ok(Peer {
            node: node.name_any(),
            paths,
        })
    }

    fn path(&mut self, range: IpNetwork, addresses: &[IpAddr]) -> io::Result<Path> {
        // An address of the middle: the first one may be that of a device of ours.
        let within = range.iter().nth(1).unwrap_or(range.network());
        let (way, hop) = self.way(within)?;
        let same_family = |own: &&IpAddr| match &way {
            Way::Tunnel { overhead, .. } => own.is_ipv4() == (*overhead == Outer::V4.overhead()),
            _ => own.is_ipv4() == range.is_ipv4(),
        };
        let of_node = addresses.iter().find(same_family).copied();
        let outer = match (&way, of_node.or(hop)) {
            (Way::Tunnel { .. } | Way::Plain { .. }, Some(address)) => Some(self.carried(address)?),
            _ => None,
        };
        let inner = match (&way, &outer) {
            (Way::Tunnel { .. }, Some(outer)) if outer.largest.is_some() => {
                Some(self.carried(range.network())?)
            }
            (Way::Tunnel { .. }, Some(_)) => Some(Carried {
                address: range.network(),
                mtu: 0,
                largest: None,
            }),
            _ => None,
        };
        Ok(Path {
            range,
            way,
            outer,
            inner,
        })
    }

    /// How a packet to the address would leave, and to whom.
    fn way(&mut self, address: IpAddr) -> io::Result<(Way, Option<IpAddr>)> {
        let found = route::lookup(&mut self.socket, address).map_err(io::Error::other)?;
        let Some((found, hop)) =
            found.and_then(|own| Some((own.clone(), own.next_hops.first()?.clone())))
        else {
            return Ok((Way::None, None));
        };
        let device = match hop.interface {
            Some(index) => link::get_by_index(&mut self.socket, index).map_err(io::Error::other)?,
            None => None,
        };
        let device = device.map(|own| own.name).unwrap_or_default();
        let tunnel = Outer::ALL
            .into_iter()
            .find(|outer| outer.device_name(self.vni) == device);
        if let Some(outer) = tunnel {
            let overhead = outer.overhead();
            return Ok((Way::Tunnel { device, overhead }, hop.gateway));
        }
        // A lookup does not say which route it was; ours have a number.
        let listed = route::list(&mut self.socket, route::Filter::main_table());
        let ours = |own: &route::Route| {
            let protocol = own.protocol == Protocol::VXLAN || own.protocol == Protocol::BGP;
            protocol && own.destination.contains(address)
        };
        let for_pods = listed.map_err(io::Error::other)?.iter().any(ours);
        let way = match (for_pods, found.next_hops.is_empty()) {
            (_, true) => Way::None,
            (true, _) => Way::Plain { device },
            (false, _) => Way::Stray { device },
        };
        Ok((way, hop.gateway))
    }

    /// What the path to an address carries, up to what its interface takes.
    fn carried(&mut self, address: IpAddr) -> io::Result<Carried> {
        let found = route::lookup(&mut self.socket, address).map_err(io::Error::other)?;
        let index = found.and_then(|own| own.next_hops.first()?.interface);
        let device = match index {
            Some(index) => link::get_by_index(&mut self.socket, index).map_err(io::Error::other)?,
            None => None,
        };
        let mtu = device.map_or(1500, |own| own.mtu);
        let echo = &mut self.echoes[usize::from(address.is_ipv6())];
        let largest = largest(mtu, |size| {
            for _ in 0..TRIES {
                match echo.send(address, size, PATIENCE)? {
                    Echoed::Answered => return Ok(true),
                    Echoed::TooBig | Echoed::Unreachable => return Ok(false),
                    Echoed::Silence => {}
                }
            }
            io::Result::Ok(false)
        })?;
        Ok(Carried {
            address,
            mtu,
            largest,
        })
    }
}

/// The families of the node's ranges that the kernel does not forward.
fn not_forwarding(ranges: &[IpNetwork]) -> Vec<&'static str> {
    let families = [
        (true, "IPv4", "net/ipv4/ip_forward"),
        (false, "IPv6", "net/ipv6/conf/all/forwarding"),
    ];
    let is_off = |(ipv4, _, setting): &(bool, &str, &str)| {
        let wanted = ranges.iter().any(|range| range.is_ipv4() == *ipv4);
        wanted && sysctl::read(setting).is_ok_and(|value| value.trim() == "0")
    };
    let off = families.into_iter().filter(is_off);
    off.map(|(_, name, _)| name).collect()
}

/// Why the plugin does not run.
fn runs(plugin: &PathBuf) -> Option<String> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = match std::fs::metadata(plugin) {
        Ok(metadata) => metadata,
        Err(error) => return Some(format!("{}: {error}", plugin.display())),
    };
    let runnable = metadata.is_file() && metadata.permissions().mode() & 0o111 != 0;
    (!runnable).then(|| format!("{} is no program", plugin.display()))
}
