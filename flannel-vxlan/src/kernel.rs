//! Reads what is, does what the plan says. The only file here that talks to the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use kernel::address::{self, Address};
use kernel::link::{self, Kind, NewLink, Settings};
use kernel::neighbour::{self, FdbEntry, Neighbour};
use kernel::netlink::{self, Request, Socket, ignore_not_found};
use kernel::route::{self, Filter, NextHop, Protocol, Route};
use kernel::{Ifindex, ethtool};

use crate::config::Underlay;
use crate::model::{Actual, ActualDevice, ActualRoute, Op, Outer, Via};
use crate::underlay::Interfaces;

/// The priority of our routes: behind those that a routing protocol learns, so that a node
/// can change from one mode to the other while its connections go on.
pub const PRIORITY: u32 = 2048;

/// A step that failed. What depends on it is tried with it again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    #[error(transparent)]
    Offload(#[from] ethtool::Error),
    #[error("there is no device for tunnels over {0:?}")]
    NoDevice(Outer),
}

/// The overlay's hand in the kernel of one network namespace.
pub struct Kernel {
    socket: Socket,
    vni: u32,
    /// The devices as last seen or made.
    indexes: BTreeMap<Outer, Ifindex>,
}

impl Kernel {
    /// Works in the calling thread's namespace.
    pub fn open(vni: u32) -> Result<Self, Error> {
        Ok(Self {
            socket: Socket::route()?,
            vni,
            indexes: BTreeMap::new(),
        })
    }

    /// The devices' numbers.
    pub fn indexes(&self) -> &BTreeMap<Outer, Ifindex> {
        &self.indexes
    }

    /// What the underlay can be chosen from. The tunnels themselves cannot be it.
    pub fn interfaces(&mut self, underlay: &Underlay) -> Result<Interfaces, Error> {
        let ours: Vec<String> = Outer::ALL.map(|outer| outer.device_name(self.vni)).into();
        let reaching = match underlay {
            Underlay::Reaching(target) => route::lookup(&mut self.socket, *target)?
                .and_then(|route| route.next_hops.first()?.interface),
            _ => None,
        };
        let mut links = link::list(&mut self.socket)?;
        links.retain(|link| !ours.contains(&link.name));
        let mut addresses = address::list(&mut self.socket, None)?;
        addresses.retain(|address| links.iter().any(|link| link.index == address.interface));
        let routes = route::list(&mut self.socket, Filter::main_table())?;
        Ok(Interfaces {
            links,
            addresses,
            routes,
            reaching,
        })
    }

    /// Everything of ours.
    pub fn observe(&mut self) -> Result<Actual, Error> {
        let mut actual = Actual::default();
        self.indexes.clear();
        for outer in Outer::ALL {
            let name = outer.device_name(self.vni);
            let Some(device) = self.observe_device(&name)? else {
                continue;
            };
            let index = device.index;
            if device.vxlan.is_some() {
                self.indexes.insert(outer, index);
                for neighbour in neighbour::list(&mut self.socket, Some(index))? {
                    if let (true, Some(mac)) = (neighbour.permanent, neighbour.mac) {
                        actual.neighbours.insert((outer, neighbour.address, mac));
                    }
                }
                for entry in neighbour::list_fdb(&mut self.socket, index)? {
                    actual.fdb.insert((outer, entry.mac, entry.destination));
                }
            }
            actual.devices.insert(outer, device);
        }
        actual.routes = self.observe_routes()?;
        Ok(actual)
    }

    fn observe_device(&mut self, name: &str) -> Result<Option<ActualDevice>, Error> {
        let Some(link) = link::get(&mut self.socket, name)? else {
            return Ok(None);
        };
        let addresses = address::list(&mut self.socket, Some(link.index))?;
        // Every device has an address of its link; only what we put there is ours.
        let own = addresses
            .iter()
            .filter(|a| a.scope == address::Scope::Global);
        let vxlan = match link.kind {
            Kind::Vxlan(vxlan) => Some(vxlan),
            _ => None,
        };
        Ok(Some(ActualDevice {
            name: link.name,
            index: link.index,
            vxlan,
            mac: link.mac,
            mtu: link.mtu,
            up: link.up,
            addresses: own.map(|address| address.network.ip()).collect(),
            // A driver without the switch has no offload to switch off.
            tx_checksum: ethtool::tx_checksum(name).unwrap_or(false),
        }))
    }

    /// Routes with our number, and whatever leads through our devices but the kernel's own.
    fn observe_routes(&mut self) -> Result<BTreeSet<ActualRoute>, Error> {
        let routes = route::list(&mut self.socket, Filter::main_table())?;
        let through = |route: &Route| {
            route.next_hops.iter().find_map(|hop| {
                let index = hop.interface?;
                self.indexes
                    .iter()
                    .find(|(_, known)| **known == index)
                    .map(|(outer, _)| *outer)
            })
        };
        Ok(routes
            .into_iter()
            .filter_map(|route| {
                let outer = through(&route);
                let ours = route.protocol == Protocol::VXLAN
                    || (outer.is_some() && route.protocol != Protocol::KERNEL);
                let via = recognise(&route, outer);
                let destination = route.destination;
                ours.then_some(ActualRoute {
                    destination,
                    via,
                    outer,
                    route,
                })
            })
            .collect())
    }

    /// Does the steps, all that can be done; the failed ones come back with their reasons.
    pub fn apply(&mut self, ops: &[Op]) -> Vec<(Op, Error)> {
        let mut failed = Vec::new();
        let mut batch: Vec<(Op, Request)> = Vec::new();
        for op in ops {
            if is_about_a_device(op) {
                if let Err(error) = self.device_step(op) {
                    failed.push((op.clone(), error));
                }
                continue;
            }
            match self.request(op) {
                Ok(request) => batch.push((op.clone(), request)),
                Err(error) => failed.push((op.clone(), error)),
            }
        }
        let requests: Vec<Request> = batch.iter().map(|(_, request)| request.clone()).collect();
        match self.socket.batch(&requests) {
            Ok(results) => {
                for ((op, _), result) in batch.into_iter().zip(results) {
                    let result = if is_deletion(&op) {
                        ignore_not_found(result)
                    } else {
                        result
                    };
                    failed.extend(result.err().map(|error| (op, error.into())));
                }
            }
            Err(error) => {
                let op = batch.swap_remove(0).0;
                failed.push((op, error.into()));
            }
        }
        failed
    }

    fn index(&self, outer: Outer) -> Result<Ifindex, Error> {
        self.indexes
            .get(&outer)
            .copied()
            .ok_or(Error::NoDevice(outer))
    }

    fn device_step(&mut self, op: &Op) -> Result<(), Error> {
        match op {
            Op::DeleteDevice { outer, name } => {
                self.indexes.remove(outer);
                let request = link::delete_by_name(name);
                Ok(ignore_not_found(self.socket.execute(&request))?)
            }
            Op::CreateDevice { outer, device } => {
                let settings = Settings {
                    mac: Some(device.mac),
                    mtu: Some(device.mtu),
                    ..Settings::up()
                };
                let new = NewLink::vxlan(&device.name, device.vxlan.clone()).with(settings);
                self.socket.execute(&link::create(&new))?;
                let made = link::get(&mut self.socket, &device.name)?;
                let made = made.ok_or(Error::NoDevice(*outer))?;
                self.indexes.insert(*outer, made.index);
                Ok(())
            }
            Op::DisableTxChecksum { name, .. } => Ok(ethtool::set_tx_checksum(name, false)?),
            Op::SetMac { outer, mac } => {
                // The kernel takes another address on a running device; its entries stay.
                self.change(
                    *outer,
                    &Settings {
                        mac: Some(*mac),
                        ..Settings::new()
                    },
                )
            }
            Op::SetMtu { outer, mtu } => self.change(
                *outer,
                &Settings {
                    mtu: Some(*mtu),
                    ..Settings::new()
                },
            ),
            Op::SetUp { outer } => self.change(*outer, &Settings::up()),
            _ => Ok(()),
        }
    }

    fn change(&mut self, outer: Outer, settings: &Settings) -> Result<(), Error> {
        let index = self.index(outer)?;
        Ok(self.socket.execute(&link::set(index, settings))?)
    }

    fn request(&self, op: &Op) -> Result<Request, Error> {
        Ok(match op {
            Op::AddAddress { outer, address } => {
                address::replace(&own_address(self.index(*outer)?, *address))
            }
            Op::DeleteAddress { outer, address } => {
                address::delete(&own_address(self.index(*outer)?, *address))
            }
            Op::SetNeighbour {
                outer,
                address,
                mac,
            } => neighbour::replace(&Neighbour::permanent(self.index(*outer)?, *address, *mac)),
            Op::DeleteNeighbour {
                outer,
                address,
                mac,
            } => neighbour::delete(&Neighbour::permanent(self.index(*outer)?, *address, *mac)),
            Op::SetFdb {
                outer,
                mac,
                destination,
            } => neighbour::replace_fdb(&FdbEntry::tunnel(self.index(*outer)?, *mac, *destination)),
            Op::DeleteFdb {
                outer,
                mac,
                destination,
            } => {
                let interface = self.index(*outer)?;
                let destination = *destination;
                neighbour::delete_fdb(&FdbEntry {
                    interface,
                    mac: *mac,
                    destination,
                    permanent: true,
                })
            }
            Op::SetRoute { destination, via } => route::replace(&self.route(*destination, via)?),
            Op::DeleteRoute(route) => route::delete(route),
            Op::DeleteDevice { .. }
            | Op::CreateDevice { .. }
            | Op::SetMac { .. }
            | Op::SetMtu { .. }
            | Op::SetUp { .. }
            | Op::DisableTxChecksum { .. } => return Err(Error::NoDevice(Outer::V4)),
        })
    }

    fn route(&self, destination: IpNetwork, via: &Via) -> Result<Route, Error> {
        let hop = match via {
            Via::Tunnel { outer, gateway } => {
                NextHop::via(*gateway).on(self.index(*outer)?).onlink()
            }
            Via::Direct { gateway, interface } => NextHop::via(*gateway).on(*interface),
        };
        Ok(Route::new(destination, Protocol::VXLAN, hop).with_priority(PRIORITY))
    }
}

fn own_address(interface: Ifindex, address: IpAddr) -> Address {
    Address::new(interface, IpNetwork::from(address))
}

/// The form of one of our own routes, exactly.
fn recognise(route: &Route, outer: Option<Outer>) -> Option<Via> {
    let [hop] = route.next_hops.as_slice() else {
        return None;
    };
    let (gateway, interface) = (hop.gateway?, hop.interface?);
    if route.protocol != Protocol::VXLAN || route.priority != PRIORITY {
        return None;
    }
    match outer {
        Some(outer) if hop.onlink => Some(Via::Tunnel { outer, gateway }),
        None if !hop.onlink => Some(Via::Direct { gateway, interface }),
        _ => None,
    }
}

fn is_about_a_device(op: &Op) -> bool {
    matches!(
        op,
        Op::DeleteDevice { .. }
            | Op::CreateDevice { .. }
            | Op::SetMac { .. }
            | Op::SetMtu { .. }
            | Op::SetUp { .. }
            | Op::DisableTxChecksum { .. }
    )
}

fn is_deletion(op: &Op) -> bool {
    matches!(
        op,
        Op::DeleteAddress { .. }
            | Op::DeleteRoute(_)
            | Op::DeleteFdb { .. }
            | Op::DeleteNeighbour { .. }
    )
}

/// Takes the overlay out of the kernel: for a node that uses another mode from now on.
pub fn sweep(vni: u32) -> Result<(), Error> {
    let mut kernel = Kernel::open(vni)?;
    let actual = kernel.observe()?;
    let ops = crate::plan::plan(
        &crate::model::Desired::default(),
        &actual,
        crate::plan::Deletions::Allowed,
    );
    kernel
        .apply(&ops)
        .into_iter()
        .next()
        .map_or(Ok(()), |(_, error)| Err(error))
}
