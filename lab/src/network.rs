//! The switch and the places' interfaces, by netlink.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

use ipnetwork::IpNetwork;
use kernel::address::{self, Address};
use kernel::link::{self, NewLink, Peer, Settings};
use kernel::netlink::{self, Protocol, Request, Socket};
use kernel::netns::{self, Netns};
use kernel::nftables::{
    self, BaseChain, Chain, Connection, Datum, Element, Family, Field, Hook, Rule, Statement,
    Table, Transaction, Verdict,
};
use kernel::route::{self, NextHop, Route};
use kernel::{Ifindex, sysctl};

use crate::topology::{self, Place, SWITCH, Topology};

const BRIDGE: &str = "bridge";
const HOST_PORT: &str = "host";

/// Why the lab's network could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error(transparent)]
    Namespace(#[from] netns::Error),
    #[error(transparent)]
    Socket(#[from] netns::SocketError),
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    #[error(transparent)]
    Setting(#[from] sysctl::Error),
    #[error(transparent)]
    Rules(#[from] nftables::Error),
    #[error("the interface {name} that was just made is gone; something else removes interfaces")]
    Vanished { name: String },
}

/// The ranges that this machine has routes for.
pub fn ranges_in_use() -> Result<Vec<IpNetwork>, NetworkError> {
    let mut socket = Socket::route()?;
    let routes = route::list(&mut socket, route::Filter::main_table())?;
    Ok(routes.into_iter().map(|route| route.destination).collect())
}

/// Makes the switch and connects this machine to it.
pub fn create_switch(topology: &Topology) -> Result<(), NetworkError> {
    let switch = Netns::create(&topology.namespace(SWITCH))?;
    // Frames between the ports are nobody's packets: they see no iptables of the switch.
    switch.run(|| {
        for family in ["iptables", "ip6tables", "arptables"] {
            let name = format!("net.bridge.bridge-nf-call-{family}");
            match sysctl::ensure(&name, "0") {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    })??;
    let mut socket = switch.socket(Protocol::Route)?;
    socket.execute(&link::create(&NewLink::bridge(BRIDGE).with(Settings::up())))?;
    let machine = Netns::current()?;
    connect(
        &mut socket,
        HOST_PORT,
        &topology.number.host_interface(),
        &machine,
    )?;
    let mut socket = Socket::route()?;
    let interface = index(&mut socket, &topology.number.host_interface())?;
    socket.execute_all(&addresses(interface, &topology.host_addresses()))?;
    Ok(())
}

/// A veth pair: `port` on the bridge, `interface` in the other namespace. Both are up.
fn connect(
    switch: &mut Socket,
    port: &str,
    interface: &str,
    other: &Netns,
) -> Result<(), NetworkError> {
    let bridge = index(switch, BRIDGE)?;
    let peer = Peer {
        name: interface.to_owned(),
        netns: Some(other.as_raw_fd()),
        ..Peer::default()
    };
    let inside = Settings {
        master: Some(Some(bridge)),
        ..Settings::up()
    };
    switch.execute(&link::create(&NewLink::veth(port, peer).with(inside)))?;
    // A peer is made in its own namespace but not set up there.
    let mut socket = other.socket(Protocol::Route)?;
    socket.execute(&link::set_by_name(interface, &Settings::up()))?;
    Ok(())
}

fn index(socket: &mut Socket, name: &str) -> Result<Ifindex, NetworkError> {
    let found = link::get(socket, name)?;
    Ok(found
        .ok_or_else(|| NetworkError::Vanished {
            name: name.to_owned(),
        })?
        .index)
}

fn addresses(interface: Ifindex, networks: &[IpNetwork]) -> Vec<Request> {
    networks
        .iter()
        .map(|network| address::add(&Address::new(interface, *network)))
        .collect()
}

/// Makes a place's network namespace, with `eth0` on the switch and this machine as gateway.
pub fn create_place(topology: &Topology, place: &Place) -> Result<(), NetworkError> {
    let switch = Netns::named(&topology.namespace(SWITCH))?;
    let namespace = Netns::create(&topology.namespace(&place.name))?;
    connect(
        &mut switch.socket(Protocol::Route)?,
        &place.name,
        "eth0",
        &namespace,
    )?;
    let mut socket = namespace.socket(Protocol::Route)?;
    let interface = index(&mut socket, "eth0")?;
    let mut requests = vec![link::set_by_name("lo", &Settings::up())];
    requests.extend(addresses(interface, &place.addresses));
    requests.extend(topology.host_addresses().iter().map(|host| {
        let gateway = NextHop::via(host.ip()).on(interface);
        route::add(&Route::new(
            everything(host),
            route::Protocol::STATIC,
            gateway,
        ))
    }));
    socket.execute_all(&requests)?;
    Ok(())
}

fn everything(family: &IpNetwork) -> IpNetwork {
    let any: IpAddr = match family {
        IpNetwork::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpNetwork::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    IpNetwork::new(any, 0).expect("0 is a prefix length")
}

/// Takes a place off the switch and its namespace's name away.
pub fn remove_place(lab: &str, place: &str) -> Result<(), NetworkError> {
    if let Ok(switch) = Netns::named(&topology::namespace(lab, SWITCH)) {
        let deleted = switch
            .socket(Protocol::Route)?
            .execute(&link::delete_by_name(place));
        netlink::ignore_not_found(deleted)?;
    }
    Netns::delete(&topology::namespace(lab, place))?;
    Ok(())
}

/// Removes every network namespace of the lab. The interfaces go with the switch.
pub fn remove_all(lab: &str) -> Result<(), NetworkError> {
    remove_translation(lab)?;
    for namespace in namespaces(lab) {
        // A namespace lives on while a process holds it; its way to this machine does not.
        if namespace == topology::namespace(lab, SWITCH)
            && let Ok(switch) = Netns::named(&namespace)
        {
            let deleted = switch
                .socket(Protocol::Route)?
                .execute(&link::delete_by_name(HOST_PORT));
            netlink::ignore_not_found(deleted)?;
        }
        Netns::delete(&namespace)?;
    }
    Ok(())
}

/// The names of the lab's network namespaces.
pub fn namespaces(lab: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(netns::RUN_DIR) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| topology::is_namespace_of(lab, name))
        .collect();
    names.sort();
    names
}

/// Lets the lab's places reach what this machine reaches: their packets leave with its address.
pub fn translate(topology: &Topology) -> Result<(), NetworkError> {
    Ok(Connection::open()?.apply(&translation(topology))?)
}

fn translation(topology: &Topology) -> Transaction {
    let mut transaction = Transaction::new();
    let interface = topology.number.host_interface();
    for range in topology.host_addresses() {
        let v6 = range.is_ipv6();
        let table = Table::new(Family::ip(v6), table_name(&topology.lab));
        let network = IpNetwork::new(range.network(), range.prefix()).unwrap_or(range);
        let base = BaseChain::nat(Hook::Postrouting, 100);
        let body = vec![
            Statement::one_of([Field::saddr(v6)], vec![Element::network(network)]),
            Statement::ne(Field::Oifname, Datum::Ifname(interface.as_str().into())),
            Statement::Masquerade {
                fully_random: false,
            },
        ];
        transaction
            .reset_table(&table)
            .add_chain(Chain::new(&table, "postrouting").base(base))
            .add_rule(Rule::new(&table, "postrouting", body));
    }
    transaction
}

fn table_name(lab: &str) -> String {
    format!("fairlead-lab-{lab}")
}

/// Removes what [`translate`] made. Nothing there is fine.
fn remove_translation(lab: &str) -> Result<(), NetworkError> {
    let mut transaction = Transaction::new();
    for v6 in [false, true] {
        transaction.remove_table(&Table::new(Family::ip(v6), table_name(lab)));
    }
    Ok(Connection::open()?.apply(&transaction)?)
}

const FORWARDING: [&str; 2] = ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"];

/// Makes this machine forward packets and returns which of its settings that changed.
pub fn enable_forwarding(topology: &Topology) -> Result<Vec<String>, NetworkError> {
    let mut changed = Vec::new();
    let wanted = [topology.family.has_ipv4(), topology.family.has_ipv6()];
    for (name, wanted) in FORWARDING.into_iter().zip(wanted) {
        if wanted && sysctl::ensure(name, "1")? {
            changed.push(name.to_owned());
        }
    }
    Ok(changed)
}

/// Sets back what [`enable_forwarding`] changed.
pub fn restore_forwarding(changed: &[String]) -> Result<(), NetworkError> {
    for name in FORWARDING
        .iter()
        .filter(|name| changed.iter().any(|changed| changed == *name))
    {
        sysctl::write(name, "0")?;
    }
    Ok(())
}

/// Whether frames pass between two places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    Whole,
    Cut,
}

/// Cuts or heals the link between two places: rules on the switch that drop the frames.
///
/// A chain for each pair, named after its ends in order, which exists while the link is cut.
pub fn set_link(topology: &Topology, from: &str, to: &str, link: Link) -> Result<(), NetworkError> {
    let switch = Netns::named(&topology.namespace(SWITCH))?;
    let transaction = link_transaction(from, to, link);
    Ok(switch.run(|| Connection::open()?.apply(&transaction))??)
}

fn link_transaction(from: &str, to: &str, link: Link) -> Transaction {
    let (first, second) = if from <= to { (from, to) } else { (to, from) };
    let name = format!("{first}--{second}");
    let table = Table::new(Family::Bridge, "fairlead-lab");
    let mut transaction = Transaction::new();
    let base = BaseChain::filter(Hook::Forward, 0);
    // Made first in both cases, so that emptying it succeeds whatever was there.
    transaction
        .add_table(&table)
        .add_chain(Chain::new(&table, name.as_str()).base(base))
        .flush_chain(&table, name.as_str());
    match link {
        Link::Whole => {
            transaction.delete_chain(&table, name.as_str());
        }
        Link::Cut => {
            for (input, output) in [(first, second), (second, first)] {
                let body = vec![
                    Statement::eq(Field::Iifname, Datum::Ifname(input.into())),
                    Statement::eq(Field::Oifname, Datum::Ifname(output.into())),
                    Statement::Verdict(Verdict::Drop),
                ];
                transaction.add_rule(Rule::new(&table, name.as_str(), body));
            }
        }
    }
    transaction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_the_same_from_both_ends() {
        let cut = link_transaction("node1", "node2", Link::Cut);
        assert_eq!(
            cut.to_string(),
            link_transaction("node2", "node1", Link::Cut).to_string()
        );
        let text = cut.to_string();
        assert!(
            text.contains(r#"iifname "node1" oifname "node2" drop"#),
            "{text}"
        );
        assert!(
            text.contains(r#"iifname "node2" oifname "node1" drop"#),
            "{text}"
        );
    }

    #[test]
    fn healing_removes_the_chain() {
        let text = link_transaction("a", "b", Link::Whole).to_string();
        assert!(
            text.contains("delete chain bridge fairlead-lab a--b"),
            "{text}"
        );
    }
}
