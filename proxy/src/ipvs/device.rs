//! The device that holds the virtual addresses, and the node's other addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use kernel::address::{self, Address};
use kernel::link::{self, NewLink, Settings};
use kernel::netlink::{self, Socket};
use kernel::{Ifindex, sysctl};

/// As kube-proxy calls it, since people look for it.
const NAME: &str = "kube-ipvs0";

/// Makes the device where it is missing.
pub(crate) fn ensure(socket: &mut Socket) -> Result<Ifindex, netlink::Error> {
    if let Some(link) = link::get(socket, NAME)? {
        if !link.up {
            socket.execute(&link::set(link.index, &Settings::up()))?;
        }
        return Ok(link.index);
    }
    socket.execute(&link::create(&NewLink::dummy(NAME)))?;
    // No link-local address: nobody talks on this device.
    let _ = sysctl::ensure(&format!("net/ipv6/conf/{NAME}/addr_gen_mode"), "1");
    socket.execute(&link::set_by_name(NAME, &Settings::up()))?;
    let link = link::get(socket, NAME)?;
    Ok(link.map_or(Ifindex(0), |link| link.index))
}

/// The virtual addresses, and the addresses of the node that are not virtual.
pub(crate) fn addresses(
    socket: &mut Socket,
    device: Option<Ifindex>,
) -> Result<(BTreeSet<IpAddr>, BTreeSet<IpAddr>), netlink::Error> {
    let (mut own, mut others) = (BTreeSet::new(), BTreeSet::new());
    for entry in address::list(socket, None)? {
        let ip = entry.network.ip();
        if Some(entry.interface) == device {
            own.insert(ip);
        } else if is_reachable(ip) {
            others.insert(ip);
        }
    }
    Ok((own, others))
}

/// IPVS sends nothing from loopback elsewhere, and link-local addresses need a device's name.
fn is_reachable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => !a.is_loopback() && !a.is_link_local(),
        IpAddr::V6(a) => !a.is_loopback() && !a.is_unicast_link_local(),
    }
}

fn entry(device: Ifindex, ip: IpAddr) -> Address {
    Address {
        no_duplicate_detection: ip.is_ipv6(),
        ..Address::new(device, IpNetwork::from(ip))
    }
}

/// Adds addresses; those that are there already are no error.
pub(crate) fn add(
    socket: &mut Socket,
    device: Ifindex,
    addresses: &[IpAddr],
) -> Result<(), netlink::Error> {
    let requests: Vec<_> = addresses
        .iter()
        .map(|ip| address::replace(&entry(device, *ip)))
        .collect();
    socket.execute_all(&requests)
}

/// Removes addresses; those that are not there are no error.
pub(crate) fn remove(
    socket: &mut Socket,
    device: Ifindex,
    addresses: &[IpAddr],
) -> Result<(), netlink::Error> {
    let requests: Vec<_> = addresses
        .iter()
        .map(|ip| address::delete(&entry(device, *ip)))
        .collect();
    for result in socket.batch(&requests)? {
        netlink::ignore_not_found(result)?;
    }
    Ok(())
}

/// Removes the device with its addresses.
pub(crate) fn delete(socket: &mut Socket) -> Result<(), netlink::Error> {
    netlink::ignore_not_found(socket.execute(&link::delete_by_name(NAME)))
}

/// The device's number, if it is there.
pub(crate) fn find(socket: &mut Socket) -> Result<Option<Ifindex>, netlink::Error> {
    Ok(link::get(socket, NAME)?.map(|link| link.index))
}
