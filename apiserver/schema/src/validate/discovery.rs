//! Endpoints and EndpointSlices.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::address::{check_domain, check_ip, check_not_special, check_port_number, parse_ip};
use super::field::{Errors, Node, same};
use super::{Change, meta, names};

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;
const MAX_TOPOLOGY: usize = 16;
const MAX_HINTS: usize = 8;

/// Endpoints; an update that leaves the subsets alone may keep what is wrong with them.
pub(super) fn endpoints(e: &mut Errors, change: &Change<'_>) {
    let subsets = change.new.get("subsets");
    let unchanged = change
        .old
        .as_ref()
        .is_some_and(|old| same(old.get("subsets").value, subsets.value));
    if unchanged {
        return;
    }
    for subset in subsets.items() {
        let (ready, other) = (subset.get("addresses"), subset.get("notReadyAddresses"));
        if ready.is_empty() && other.is_empty() {
            e.required(&subset, "must specify `addresses` or `notReadyAddresses`");
        }
        for address in ready.items().chain(other.items()) {
            endpoint_address(e, &address);
        }
        let ports = subset.get("ports");
        for port in ports.items() {
            endpoint_port(e, &port, ports.len() > 1);
        }
    }
}

fn endpoint_address(e: &mut Errors, address: &Node<'_>) {
    let ip = address.get("ip");
    check_ip(e, &ip);
    e.check_optional(&address.get("hostname"), names::label_faults);
    let node = address.get("nodeName");
    if node.is_set() {
        e.check(&node, names::subdomain_faults);
    }
    // What is no address is told twice.
    check_not_special(e, &ip);
}

fn endpoint_port(e: &mut Errors, port: &Node<'_>, named: bool) {
    let name = port.get("name");
    if named && name.is_empty() {
        e.required(&name, "");
    } else {
        e.check_optional(&name, names::label_faults);
    }
    check_port_number(e, &port.get("port"));
    e.one_of_required(&port.get("protocol"), &PROTOCOLS);
    let protocol = port.get("appProtocol");
    if protocol.is_set() {
        e.check(&protocol, names::qualified_name_faults);
    }
}

/// EndpointSlice
pub(super) fn endpoint_slice(e: &mut Errors, change: &Change<'_>) {
    let kind = change.new.get("addressType");
    e.one_of_required(&kind, &["FQDN", "IPv4", "IPv6"]);
    let list = change.new.get("endpoints");
    if list.len() > MAX_ENDPOINTS {
        e.too_many(&list, list.len(), MAX_ENDPOINTS);
    } else {
        let known = known_addresses(change);
        for endpoint in list.items() {
            self::endpoint(e, &endpoint, kind.text(), &known);
        }
    }
    slice_ports(e, &change.new.get("ports"));
    change.immutable(e, "addressType");
}

/// Addresses that were there before may stay, whatever they are.
fn known_addresses<'a>(change: &Change<'a>) -> BTreeSet<&'a str> {
    let before: Vec<Node<'a>> = change
        .old
        .as_ref()
        .map(|old| old.get("endpoints").items().collect())
        .unwrap_or_default();
    let addresses = before.iter().map(|e| e.get("addresses").texts());
    addresses.flatten().collect()
}

fn endpoint(e: &mut Errors, endpoint: &Node<'_>, kind: &str, known: &BTreeSet<&str>) {
    let addresses = endpoint.get("addresses");
    if addresses.is_empty() {
        e.required(&addresses, "must contain at least 1 address");
    } else if addresses.len() > MAX_ADDRESSES {
        e.too_many(&addresses, addresses.len(), MAX_ADDRESSES);
    }
    for address in addresses.items().filter(|a| !known.contains(a.text())) {
        if kind == "FQDN" {
            check_domain(e, &address, 2);
        } else if kind == "IPv4" || kind == "IPv6" {
            slice_address(e, &addresses, &address, kind);
        }
    }
    let node = endpoint.get("nodeName");
    if node.is_set() {
        e.check(&node, names::subdomain_faults);
    }
    let topology = endpoint.get("deprecatedTopology");
    if topology.len() > MAX_TOPOLOGY {
        e.too_many(&topology, topology.len(), MAX_TOPOLOGY);
    }
    meta::labels(e, &topology);
    let hostname = endpoint.get("hostname");
    if hostname.is_set() {
        e.check(&hostname, names::label_faults);
    }
    hints(e, &endpoint.get("hints.forZones"), true);
    hints(e, &endpoint.get("hints.forNodes"), false);
}

fn slice_address(e: &mut Errors, addresses: &Node<'_>, address: &Node<'_>, kind: &str) {
    if !check_ip(e, address) {
        return;
    }
    let fits = parse_ip(address.text()).is_some_and(|a: IpAddr| a.is_ipv4() == (kind == "IPv4"));
    if !fits {
        let why = format!("must be an {kind} address");
        e.invalid(addresses, address.text(), why);
    }
    check_not_special(e, address);
}

fn hints(e: &mut Errors, list: &Node<'_>, zones: bool) {
    if list.len() > MAX_HINTS {
        return e.too_many(list, list.len(), MAX_HINTS);
    }
    let mut known = BTreeSet::new();
    for hint in list.items() {
        let name = hint.get("name");
        if !known.insert(name.text()) {
            e.duplicate(&name, name.text());
        }
        if zones {
            e.check(&name, names::label_value_faults);
        } else {
            e.check(&name, names::subdomain_faults);
        }
    }
}

fn slice_ports(e: &mut Errors, list: &Node<'_>) {
    if list.len() > MAX_PORTS {
        return e.too_many(list, list.len(), MAX_PORTS);
    }
    let mut known = BTreeSet::new();
    for port in list.items() {
        let name = port.get("name");
        e.check_optional(&name, names::label_faults);
        if !known.insert(name.text()) {
            e.duplicate(&name, name.text());
        }
        let protocol = port.get("protocol");
        if protocol.is_set() {
            e.one_of(&protocol, &PROTOCOLS);
        } else {
            e.required(&protocol, "");
        }
        let application = port.get("appProtocol");
        if application.is_set() {
            e.check(&application, names::qualified_name_faults);
        }
    }
}
