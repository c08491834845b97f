//! The laws of a planner, on a model of the kernel.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use kernel::link::Vxlan;
use kernel::route::{NextHop, Protocol, Route};
use kernel::{Ifindex, MacAddress};
use proptest::prelude::*;

use super::*;
use crate::model::{ActualRoute, Via};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn mac(last: u8) -> MacAddress {
    MacAddress([2, 0, 0, 0, 0, last])
}

fn device(outer: Outer) -> Device {
    let local = match outer {
        Outer::V4 => ip("192.0.2.1"),
        Outer::V6 => ip("2001:db8::1"),
    };
    Device {
        name: outer.device_name(1),
        vxlan: Vxlan {
            vni: 1,
            port: 8472,
            local: Some(local),
            device: Some(Ifindex(2)),
            learning: false,
            group_policy: false,
        },
        mac: mac(1),
        mtu: 1450,
        no_tx_checksum: true,
        addresses: [ip("10.244.1.0")].into(),
    }
}

fn network(n: u8) -> IpNetwork {
    format!("10.244.{n}.0/24").parse().unwrap()
}

/// What nodes 10 to 19 want: some through a tunnel, some on the link.
fn wanted(nodes: &[(u8, bool)], v6: bool) -> Desired {
    let mut desired = Desired::default();
    desired.devices.insert(Outer::V4, device(Outer::V4));
    if v6 {
        desired.devices.insert(Outer::V6, device(Outer::V6));
    }
    for (n, direct) in nodes {
        let outer = if v6 && n % 2 == 0 {
            Outer::V6
        } else {
            Outer::V4
        };
        let (gateway, peer) = (network(*n).network(), ip(&format!("192.0.2.{n}")));
        if *direct {
            let via = Via::Direct {
                gateway: peer,
                interface: Ifindex(2),
            };
            desired.routes.insert(network(*n), via);
        } else {
            desired
                .routes
                .insert(network(*n), Via::Tunnel { outer, gateway });
            desired.neighbours.insert((outer, gateway), mac(*n));
            desired.fdb.insert((outer, mac(*n)), peer);
        }
    }
    desired
}

fn kernel_route(destination: IpNetwork) -> Route {
    Route::new(destination, Protocol::VXLAN, NextHop::device(Ifindex(9)))
}

/// What the kernel does with a step; `Err` when it would refuse it.
fn step(actual: &mut Actual, op: &Op) -> Result<(), String> {
    let needs = |actual: &Actual, outer: &Outer| {
        let there = actual
            .devices
            .get(outer)
            .is_some_and(|d| d.vxlan.is_some() && d.up);
        if there {
            Ok(())
        } else {
            Err(format!("{op:?} has no device"))
        }
    };
    match op {
        Op::DeleteDevice { outer, .. } => {
            actual.devices.remove(outer).ok_or("no device")?;
            actual.routes.retain(|route| route.outer != Some(*outer));
            actual.neighbours.retain(|entry| entry.0 != *outer);
            actual.fdb.retain(|entry| entry.0 != *outer);
        }
        Op::CreateDevice { outer, device } => {
            if actual.devices.contains_key(outer) {
                return Err("the device is there".into());
            }
            let there = ActualDevice {
                name: device.name.clone(),
                index: Ifindex(9),
                vxlan: Some(device.vxlan.clone()),
                mac: Some(device.mac),
                mtu: device.mtu,
                up: true,
                addresses: BTreeSet::new(),
                tx_checksum: true,
            };
            actual.devices.insert(*outer, there);
        }
        Op::SetMac { outer, mac } => actual.devices.get_mut(outer).ok_or("none")?.mac = Some(*mac),
        Op::SetMtu { outer, mtu } => actual.devices.get_mut(outer).ok_or("none")?.mtu = *mtu,
        Op::SetUp { outer } => actual.devices.get_mut(outer).ok_or("none")?.up = true,
        Op::DisableTxChecksum { outer, .. } => {
            actual.devices.get_mut(outer).ok_or("none")?.tx_checksum = false;
        }
        Op::AddAddress { outer, address } => {
            actual
                .devices
                .get_mut(outer)
                .ok_or("none")?
                .addresses
                .insert(*address);
        }
        Op::DeleteAddress { outer, address } => {
            actual
                .devices
                .get_mut(outer)
                .ok_or("none")?
                .addresses
                .remove(address);
        }
        Op::SetNeighbour {
            outer,
            address,
            mac,
        } => {
            needs(actual, outer)?;
            actual
                .neighbours
                .retain(|entry| (entry.0, entry.1) != (*outer, *address));
            actual.neighbours.insert((*outer, *address, *mac));
        }
        Op::SetFdb {
            outer,
            mac,
            destination,
        } => {
            needs(actual, outer)?;
            actual
                .fdb
                .retain(|entry| (entry.0, entry.1) != (*outer, *mac));
            actual.fdb.insert((*outer, *mac, Some(*destination)));
        }
        Op::SetRoute { destination, via } => {
            if let Via::Tunnel { outer, gateway } = via {
                needs(actual, outer)?;
                let known = actual
                    .neighbours
                    .iter()
                    .find(|e| (e.0, e.1) == (*outer, *gateway));
                let (_, _, mac) = known.ok_or("a route without its neighbour")?;
                let sent = actual
                    .fdb
                    .iter()
                    .any(|entry| (entry.0, entry.1) == (*outer, *mac));
                if !sent {
                    return Err("a route without its FDB entry".into());
                }
            }
            // A route of another form has another priority and stays beside ours.
            actual
                .routes
                .retain(|r| r.destination != *destination || r.via.is_none());
            actual.routes.insert(ActualRoute {
                destination: *destination,
                via: Some(via.clone()),
                outer: via.outer(),
                route: kernel_route(*destination).with_priority(7),
            });
        }
        Op::DeleteRoute(route) => actual.routes.retain(|there| there.route != **route),
        Op::DeleteFdb {
            outer,
            mac,
            destination,
        } => {
            actual.fdb.remove(&(*outer, *mac, *destination));
        }
        Op::DeleteNeighbour {
            outer,
            address,
            mac,
        } => {
            let lost = actual.routes.iter().any(|route| {
                route.via
                    == Some(Via::Tunnel {
                        outer: *outer,
                        gateway: *address,
                    })
            });
            if lost {
                return Err("a neighbour that a route needs".into());
            }
            actual.neighbours.remove(&(*outer, *address, *mac));
        }
    }
    Ok(())
}

fn run(actual: &mut Actual, ops: &[Op]) {
    for op in ops {
        step(actual, op).unwrap_or_else(|error| panic!("{error} at {op:?} of {ops:#?}"));
    }
}

fn settle(actual: &mut Actual, desired: &Desired) {
    let ops = plan(desired, actual, Deletions::Allowed);
    run(actual, &ops);
}

fn nodes() -> impl Strategy<Value = Vec<(u8, bool)>> {
    proptest::collection::btree_map(10u8..20, any::<bool>(), 0..8)
        .prop_map(|nodes| nodes.into_iter().collect())
}

/// A kernel that some earlier life has left, with damage.
fn damaged() -> impl Strategy<Value = Actual> {
    (nodes(), any::<bool>(), any::<u16>()).prop_map(|(nodes, v6, damage)| {
        let mut actual = Actual::default();
        settle(&mut actual, &wanted(&nodes, v6));
        let bit = |n: u16| damage & (1 << n) != 0;
        if let Some(device) = actual.devices.get_mut(&Outer::V4) {
            device.mtu = if bit(0) { 1400 } else { device.mtu };
            device.up = !bit(1);
            device.tx_checksum = bit(2);
            if bit(3) {
                device.addresses = [ip("10.9.9.9")].into();
            }
            if bit(4) {
                device.vxlan.as_mut().unwrap().port = 4789;
            }
            if bit(5) {
                device.mac = Some(mac(99));
            }
        }
        if bit(6) {
            actual.neighbours.pop_first();
        }
        if bit(7) {
            actual.fdb.pop_last();
        }
        if bit(8) {
            actual.routes.pop_first();
        }
        if bit(9) && actual.devices.contains_key(&Outer::V4) {
            actual.fdb.insert((Outer::V4, mac(77), None));
            actual
                .neighbours
                .insert((Outer::V4, ip("10.1.1.1"), mac(78)));
        }
        if bit(10) {
            let destination = network(10);
            let route = kernel_route(destination);
            actual.routes.insert(ActualRoute {
                destination,
                via: None,
                outer: None,
                route,
            });
        }
        if bit(11) {
            actual.devices.remove(&Outer::V4);
            actual.routes.retain(|route| route.outer != Some(Outer::V4));
            actual.neighbours.retain(|entry| entry.0 != Outer::V4);
            actual.fdb.retain(|entry| entry.0 != Outer::V4);
        }
        actual
    })
}

proptest! {
    /// Whatever is there becomes what is wanted; then there is nothing to do.
    #[test]
    fn any_kernel_converges_and_then_rests(start in damaged(), nodes in nodes(), v6 in any::<bool>()) {
        let desired = wanted(&nodes, v6);
        let mut actual = start;
        let ops = plan(&desired, &actual, Deletions::Allowed);
        run(&mut actual, &ops);
        prop_assert_eq!(plan(&desired, &actual, Deletions::Allowed), vec![]);
        prop_assert_eq!(actual.neighbours.len(), desired.neighbours.len());
        prop_assert_eq!(actual.fdb.len(), desired.fdb.len());
        prop_assert_eq!(actual.routes.len(), desired.routes.len());
        prop_assert_eq!(actual.devices.len(), desired.devices.len());
    }

    /// A step that fails, with all behind it, is made good by the next plan.
    #[test]
    fn it_converges_after_a_failure_at_any_step(
        start in damaged(), nodes in nodes(), v6 in any::<bool>(), at in 0usize..40,
    ) {
        let desired = wanted(&nodes, v6);
        let mut actual = start;
        let ops = plan(&desired, &actual, Deletions::Allowed);
        run(&mut actual, &ops[..at.min(ops.len())]);
        let ops = plan(&desired, &actual, Deletions::Allowed);
        run(&mut actual, &ops);
        prop_assert_eq!(plan(&desired, &actual, Deletions::Allowed), vec![]);
    }

    /// Before all nodes are known nothing is taken away.
    #[test]
    fn nothing_is_deleted_before_the_first_full_list(start in damaged(), nodes in nodes()) {
        let ops = plan(&wanted(&nodes, true), &start, Deletions::Forbidden);
        let devices: BTreeSet<Outer> = ops.iter().filter_map(|op| match op {
            Op::CreateDevice { outer, .. } => Some(*outer),
            _ => None,
        }).collect();
        for op in &ops {
            let deletes = matches!(op, Op::DeleteRoute(_) | Op::DeleteFdb { .. } | Op::DeleteNeighbour { .. });
            prop_assert!(!deletes, "{op:?}");
            // A device with other settings has to make room for the one that is made at once.
            if let Op::DeleteDevice { outer, .. } = op {
                prop_assert!(devices.contains(outer));
            }
        }
    }

    #[test]
    fn the_same_input_gives_the_same_plan(start in damaged(), nodes in nodes()) {
        let desired = wanted(&nodes, true);
        let once = plan(&desired, &start, Deletions::Allowed);
        prop_assert_eq!(once, plan(&desired, &start, Deletions::Allowed));
    }
}

#[test]
fn somebody_elses_interface_with_our_name_is_not_touched() {
    let mut actual = Actual::default();
    settle(&mut actual, &wanted(&[(10, false)], false));
    actual.devices.get_mut(&Outer::V4).unwrap().vxlan = None;
    actual.neighbours.clear();
    actual.fdb.clear();
    actual.routes.clear();
    for desired in [wanted(&[(10, false)], false), Desired::default()] {
        assert_eq!(plan(&desired, &actual, Deletions::Allowed), []);
    }
}

#[test]
fn a_node_that_moves_to_another_address_keeps_its_route() {
    let mut actual = Actual::default();
    let mut desired = wanted(&[(10, false)], false);
    settle(&mut actual, &desired);
    *desired.fdb.get_mut(&(Outer::V4, mac(10))).unwrap() = ip("192.0.2.99");
    let destination = ip("192.0.2.99");
    let expected = Op::SetFdb {
        outer: Outer::V4,
        mac: mac(10),
        destination,
    };
    assert_eq!(plan(&desired, &actual, Deletions::Allowed), [expected]);
}
