//! From what is to what is to be.

use std::collections::BTreeSet;

use crate::model::{Actual, ActualDevice, Desired, Device, Op, Outer};

/// Whether things may be deleted that nobody wants: not before all nodes are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletions {
    Allowed,
    Forbidden,
}

/// The steps, in an order in which each finds what it needs: devices, then neighbours and FDB
/// entries, then the routes that send packets to them; deletions the other way round.
pub fn plan(desired: &Desired, actual: &Actual, deletions: Deletions) -> Vec<Op> {
    let mut planner = Planner {
        desired,
        actual,
        usable: BTreeSet::new(),
        ops: Vec::new(),
    };
    for outer in Outer::ALL {
        planner.device(outer, deletions);
    }
    planner.neighbours();
    planner.fdb();
    planner.routes();
    if deletions == Deletions::Allowed {
        planner.delete();
    }
    planner.ops
}

struct Planner<'a> {
    desired: &'a Desired,
    actual: &'a Actual,
    /// The devices that stay as they are, with what is on them.
    usable: BTreeSet<Outer>,
    ops: Vec<Op>,
}

impl Planner<'_> {
    fn device(&mut self, outer: Outer, deletions: Deletions) {
        let wanted = self.desired.devices.get(&outer);
        match (wanted, self.actual.devices.get(&outer)) {
            (None, None) => {}
            (None, Some(there)) => {
                if there.vxlan.is_some() && deletions == Deletions::Allowed {
                    self.ops.push(Op::DeleteDevice {
                        outer,
                        name: there.name.clone(),
                    });
                } else {
                    self.usable.insert(outer);
                }
            }
            (Some(device), None) => self.create(outer, device),
            // Somebody else's interface has our name: nothing can be done here.
            (Some(_), Some(ActualDevice { vxlan: None, .. })) => {}
            (Some(device), Some(there)) if there.vxlan.as_ref() != Some(&device.vxlan) => {
                self.ops.push(Op::DeleteDevice {
                    outer,
                    name: there.name.clone(),
                });
                self.create(outer, device);
            }
            (Some(device), Some(there)) => {
                self.usable.insert(outer);
                self.adjust(outer, device, there);
            }
        }
    }

    fn create(&mut self, outer: Outer, device: &Device) {
        self.ops.push(Op::CreateDevice {
            outer,
            device: device.clone(),
        });
        if device.no_tx_checksum {
            self.ops.push(Op::DisableTxChecksum {
                outer,
                name: device.name.clone(),
            });
        }
        let addresses = device.addresses.iter();
        self.ops.extend(addresses.map(|address| Op::AddAddress {
            outer,
            address: *address,
        }));
    }

    fn adjust(&mut self, outer: Outer, device: &Device, there: &ActualDevice) {
        if there.mac != Some(device.mac) {
            self.ops.push(Op::SetMac {
                outer,
                mac: device.mac,
            });
        }
        if there.mtu != device.mtu {
            self.ops.push(Op::SetMtu {
                outer,
                mtu: device.mtu,
            });
        }
        if there.tx_checksum && device.no_tx_checksum {
            self.ops.push(Op::DisableTxChecksum {
                outer,
                name: device.name.clone(),
            });
        }
        if !there.up {
            self.ops.push(Op::SetUp { outer });
        }
        for address in device.addresses.difference(&there.addresses) {
            self.ops.push(Op::AddAddress {
                outer,
                address: *address,
            });
        }
        for address in there.addresses.difference(&device.addresses) {
            self.ops.push(Op::DeleteAddress {
                outer,
                address: *address,
            });
        }
    }

    /// Whether the tunnel is there or will be when its turn comes.
    fn reachable(&self, outer: Outer) -> bool {
        let foreign = self
            .actual
            .devices
            .get(&outer)
            .is_some_and(|d| d.vxlan.is_none());
        self.desired.devices.contains_key(&outer) && !foreign
    }

    fn neighbours(&mut self) {
        for ((outer, address), mac) in &self.desired.neighbours {
            let there = self.usable.contains(outer)
                && self.actual.neighbours.contains(&(*outer, *address, *mac));
            if !there && self.reachable(*outer) {
                self.ops.push(Op::SetNeighbour {
                    outer: *outer,
                    address: *address,
                    mac: *mac,
                });
            }
        }
    }

    fn fdb(&mut self) {
        for ((outer, mac), destination) in &self.desired.fdb {
            let there = self.usable.contains(outer)
                && self
                    .actual
                    .fdb
                    .contains(&(*outer, *mac, Some(*destination)));
            if !there && self.reachable(*outer) {
                let destination = *destination;
                self.ops.push(Op::SetFdb {
                    outer: *outer,
                    mac: *mac,
                    destination,
                });
            }
        }
    }

    fn routes(&mut self) {
        let recognised = self.actual.routes.iter();
        let actual: BTreeSet<_> = recognised
            .filter_map(|route| Some((route.destination, route.via.as_ref()?)))
            .collect();
        for (destination, via) in &self.desired.routes {
            if via.outer().is_some_and(|outer| !self.reachable(outer)) {
                continue;
            }
            let lost = via
                .outer()
                .is_some_and(|outer| !self.usable.contains(&outer));
            if lost || !actual.contains(&(*destination, via)) {
                self.ops.push(Op::SetRoute {
                    destination: *destination,
                    via: via.clone(),
                });
            }
        }
    }

    /// What nobody wants. What is on a device that goes away goes with it.
    fn delete(&mut self) {
        for route in &self.actual.routes {
            let gone = route
                .outer
                .is_some_and(|outer| !self.usable.contains(&outer));
            // One of our own form was replaced above, in its place.
            let replaced =
                route.via.is_some() && self.desired.routes.contains_key(&route.destination);
            if !gone && !replaced {
                self.ops
                    .push(Op::DeleteRoute(Box::new(route.route.clone())));
            }
        }
        for (outer, mac, destination) in &self.actual.fdb {
            let wanted = self.desired.fdb.get(&(*outer, *mac));
            // An entry for a wanted Ethernet address was replaced above.
            if self.usable.contains(outer) && wanted.is_none() {
                let destination = *destination;
                self.ops.push(Op::DeleteFdb {
                    outer: *outer,
                    mac: *mac,
                    destination,
                });
            }
        }
        for (outer, address, mac) in &self.actual.neighbours {
            let wanted = self.desired.neighbours.contains_key(&(*outer, *address));
            if self.usable.contains(outer) && !wanted {
                self.ops.push(Op::DeleteNeighbour {
                    outer: *outer,
                    address: *address,
                    mac: *mac,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests;
