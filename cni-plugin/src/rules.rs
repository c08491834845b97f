//! The plugin's nftables rules: anti-spoofing, host ports, masquerading.
//!
//! The rules never change; what they look up are sets and maps that hold the elements of
//! every attachment. So ADD and DEL touch only their own elements, and the number of pods
//! costs a packet nothing.
//!
//! ```text
//! raw        from a pod's interface: (interface, source) must be a pod's, or drop
//! dstnat     to an address of the host: map (protocol, port), or (address, protocol, port)
//! srcnat     pod to itself through its host port, loopback to a pod: masquerade
//! ```

use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use kernel::nftables::{
    BaseChain, Chain, Connection, DataType, Datum, Element, Error, Family, FibKey, FibResult,
    Field, Hook, NatKind, NatTarget, Op, Rule, Set, SetRef, Statement, Table, Transaction,
    address_type, ct_status, protocol,
};

use crate::config::{PortMapping, PortProtocol};

pub const TABLE: &str = "fairlead-cni";
/// Changes with the rules: rules of another version are written anew.
const FINGERPRINT: &str = "fairlead-cni rules 1";

const ANTISPOOF: &str = "antispoof";
const HOSTPORTS: &str = "hostports";
const POSTROUTING: &str = "postrouting";
const PREROUTING_RAW: &str = "prerouting-raw";
const PREROUTING_NAT: &str = "prerouting-nat";
const OUTPUT_NAT: &str = "output-nat";

/// What an attachment needs of the rules.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    pub interface: String,
    pub addresses: Vec<IpAddr>,
    pub ports: Vec<PortMapping>,
    /// Sources that the interface may use.
    pub antispoof: bool,
    /// What leaves towards others than these is masqueraded.
    pub masquerade: Option<Vec<IpNetwork>>,
}

pub fn table() -> Table {
    Table::new(Family::Inet, TABLE)
}

fn suffix(v6: bool) -> &'static str {
    if v6 { "6" } else { "4" }
}

fn set(name: &str, key: Vec<DataType>) -> Arc<Set> {
    Arc::new(Set::new(&table(), name, key))
}

fn interfaces() -> Arc<Set> {
    set("interfaces", vec![DataType::Ifname])
}

fn sources(v6: bool) -> Arc<Set> {
    set(
        &format!("sources{}", suffix(v6)),
        vec![DataType::Ifname, DataType::address(v6)],
    )
}

fn hairpin(v6: bool) -> Arc<Set> {
    let address = DataType::address(v6);
    set(&format!("hairpin{}", suffix(v6)), vec![address, address])
}

fn masqueraded(v6: bool) -> Arc<Set> {
    set(
        &format!("masquerade{}", suffix(v6)),
        vec![DataType::address(v6)],
    )
}

/// Destinations for which a source is not masqueraded.
fn exempt(v6: bool) -> Arc<Set> {
    let address = DataType::address(v6);
    let name = format!("no-masquerade{}", suffix(v6));
    Arc::new(Set::new(&table(), name, vec![address, address]).interval())
}

fn ports(v6: bool) -> Arc<Set> {
    let key = vec![DataType::InetProto, DataType::InetService];
    let data = vec![DataType::address(v6), DataType::InetService];
    Arc::new(Set::map(
        &table(),
        format!("ports{}", suffix(v6)),
        key,
        data,
    ))
}

fn address_ports(v6: bool) -> Arc<Set> {
    let key = vec![
        DataType::address(v6),
        DataType::InetProto,
        DataType::InetService,
    ];
    let data = vec![DataType::address(v6), DataType::InetService];
    Arc::new(Set::map(
        &table(),
        format!("address-ports{}", suffix(v6)),
        key,
        data,
    ))
}

/// The table with its chains, sets and rules, whatever was there before; the sets' elements
/// stay.
pub fn frame() -> Transaction {
    let table = table();
    let mut transaction = Transaction::new();
    transaction.add_table(&table);
    let chains = [
        Chain::new(&table, PREROUTING_RAW).base(BaseChain::filter(Hook::Prerouting, -300)),
        Chain::new(&table, PREROUTING_NAT).base(BaseChain::nat(Hook::Prerouting, -100)),
        Chain::new(&table, OUTPUT_NAT).base(BaseChain::nat(Hook::Output, -100)),
        Chain::new(&table, POSTROUTING).base(BaseChain::nat(Hook::Postrouting, 100)),
        Chain::new(&table, ANTISPOOF),
        Chain::new(&table, HOSTPORTS),
    ];
    for chain in chains {
        let name = chain.name.clone();
        transaction.add_chain(chain).flush_chain(&table, name);
    }
    transaction.add_set(&interfaces());
    for v6 in [false, true] {
        for set in [
            sources(v6),
            hairpin(v6),
            masqueraded(v6),
            exempt(v6),
            ports(v6),
            address_ports(v6),
        ] {
            transaction.add_set(&set);
        }
    }
    for rule in rules(&table) {
        transaction.add_rule(rule);
    }
    transaction
}

fn rules(table: &Table) -> Vec<Rule> {
    let rule = |chain: &str, body| Rule::new(table, chain, body);
    let mut rules = vec![rule(
        PREROUTING_RAW,
        vec![
            Statement::is_in([Field::Iifname], "interfaces"),
            Statement::goto(ANTISPOOF),
        ],
    )];
    rules.extend(
        antispoof_rules()
            .into_iter()
            .map(|body| rule(ANTISPOOF, body)),
    );
    let local = || {
        let kind = Field::Fib(vec![FibKey::Daddr], FibResult::Type);
        Statement::eq(kind, Datum::AddressType(address_type::LOCAL))
    };
    for chain in [PREROUTING_NAT, OUTPUT_NAT] {
        rules.push(rule(chain, vec![local(), Statement::goto(HOSTPORTS)]));
    }
    for v6 in [false, true] {
        let exact = vec![Field::daddr(v6), Field::L4Proto, Field::Dport];
        rules.push(rule(HOSTPORTS, vec![dnat(v6, exact, &address_ports(v6))]));
        rules.push(rule(
            HOSTPORTS,
            vec![dnat(v6, vec![Field::L4Proto, Field::Dport], &ports(v6))],
        ));
    }
    rules.extend(
        postrouting_rules()
            .into_iter()
            .map(|body| rule(POSTROUTING, body)),
    );
    if let Some(last) = rules.last_mut() {
        last.comment = Some(FINGERPRINT.into());
    }
    rules
}

fn antispoof_rules() -> Vec<Vec<Statement>> {
    let link_local = IpNetwork::V6("fe80::/10".parse().expect("a network"));
    let unspecified = IpNetwork::V6("::/128".parse().expect("a network"));
    let mut rules: Vec<_> = [false, true]
        .map(|v6| {
            let key = [Field::Iifname, Field::saddr(v6)];
            vec![
                Statement::is_in(key, sources(v6).name.clone()),
                Statement::return_(),
            ]
        })
        .into();
    // Neighbour discovery uses addresses of the link, or none yet; nobody routes these.
    rules.push(vec![Statement::saddr(link_local), Statement::return_()]);
    rules.push(vec![
        Statement::saddr(unspecified),
        Statement::protocol(protocol::ICMPV6),
        Statement::return_(),
    ]);
    rules.push(vec![Statement::drop()]);
    rules
}

fn dnat(v6: bool, key: Vec<Field>, map: &Set) -> Statement {
    let map = SetRef::named(map.name.clone());
    Statement::Nat {
        kind: NatKind::Dnat,
        v6,
        target: NatTarget::Map {
            key,
            map,
            port: true,
        },
    }
}

fn postrouting_rules() -> Vec<Vec<Statement>> {
    let masquerade = || Statement::Masquerade {
        fully_random: false,
    };
    let mut rules = Vec::new();
    let loopback = IpNetwork::V4("127.0.0.0/8".parse().expect("a network"));
    rules.push(vec![
        Statement::saddr(loopback),
        Statement::ct_status(ct_status::DNAT),
        masquerade(),
    ]);
    for v6 in [false, true] {
        let both = [Field::saddr(v6), Field::daddr(v6)];
        rules.push(vec![
            Statement::is_in(both.clone(), hairpin(v6).name.clone()),
            Statement::ct_status(ct_status::DNAT),
            masquerade(),
        ]);
        rules.push(vec![
            Statement::is_in([Field::saddr(v6)], masqueraded(v6).name.clone()),
            Statement::not_in(both, exempt(v6).name.clone()),
            masquerade(),
        ]);
    }
    rules
}

fn proto(protocol: PortProtocol) -> Datum {
    Datum::Proto(match protocol {
        PortProtocol::Tcp => protocol::TCP,
        PortProtocol::Udp => protocol::UDP,
        PortProtocol::Sctp => protocol::SCTP,
    })
}

fn datum(address: IpAddr) -> Datum {
    match address {
        IpAddr::V4(address) => Datum::V4(address),
        IpAddr::V6(address) => Datum::V6(address),
    }
}

/// The elements of an attachment, by set.
pub fn elements(wanted: &Wanted) -> Vec<(Arc<Set>, Vec<Element>)> {
    let name = || Datum::Ifname(wanted.interface.as_str().into());
    let mut all: Vec<(Arc<Set>, Vec<Element>)> = Vec::new();
    if wanted.antispoof {
        all.push((interfaces(), vec![Element::new(name())]));
    }
    for v6 in [false, true] {
        let own: Vec<IpAddr> = wanted
            .addresses
            .iter()
            .copied()
            .filter(|a| a.is_ipv6() == v6)
            .collect();
        let pairs = || {
            own.iter()
                .map(|a| Element::new([datum(*a), datum(*a)]))
                .collect()
        };
        if wanted.antispoof {
            all.push((
                sources(v6),
                own.iter()
                    .map(|a| Element::new([name(), datum(*a)]))
                    .collect(),
            ));
        }
        if !wanted.ports.is_empty() {
            all.push((hairpin(v6), pairs()));
        }
        if let Some(exceptions) = &wanted.masquerade {
            all.push((
                masqueraded(v6),
                own.iter().map(|a| Element::new(datum(*a))).collect(),
            ));
            all.push((exempt(v6), exempt_elements(&own, exceptions, v6)));
        }
        if let Some(to) = own.first() {
            all.extend(port_elements(&wanted.ports, *to));
        }
    }
    all.retain(|(_, elements)| !elements.is_empty());
    all
}

fn exempt_elements(own: &[IpAddr], exceptions: &[IpNetwork], v6: bool) -> Vec<Element> {
    let networks = exceptions.iter().filter(|network| network.is_ipv6() == v6);
    networks
        .flat_map(|network| {
            own.iter().map(|address| {
                let source = datum(*address);
                Element::range(
                    [source.clone(), datum(network.network())],
                    [source, datum(network.broadcast())],
                )
            })
        })
        .collect()
}

fn port_elements(mappings: &[PortMapping], to: IpAddr) -> Vec<(Arc<Set>, Vec<Element>)> {
    let v6 = to.is_ipv6();
    let (mut any, mut exact) = (Vec::new(), Vec::new());
    for mapping in mappings {
        let target = [datum(to), Datum::Port(mapping.container_port)];
        let port = Datum::Port(mapping.host_port);
        match mapping.host_ip {
            // "All addresses of that family", as runtimes write it.
            Some(ip) if ip.is_unspecified() && ip.is_ipv6() == v6 => {
                any.push(Element::new([proto(mapping.protocol), port]).value(target));
            }
            Some(ip) if ip.is_ipv6() == v6 => {
                exact.push(Element::new([datum(ip), proto(mapping.protocol), port]).value(target));
            }
            Some(_) => {}
            None => any.push(Element::new([proto(mapping.protocol), port]).value(target)),
        }
    }
    vec![(ports(v6), any), (address_ports(v6), exact)]
}

/// Whether the kernel has the rules as this version of the plugin writes them.
fn is_framed(connection: &mut Connection) -> Result<bool, Error> {
    let found = match connection.rules(&table(), Some(POSTROUTING)) {
        Err(error) if error.is_not_found() => return Ok(false),
        other => other?,
    };
    Ok(found
        .last()
        .is_some_and(|rule| rule.comment.as_deref() == Some(FINGERPRINT)))
}

/// Puts the attachment's elements in, and the rules where they are missing. All or nothing.
pub fn install(connection: &mut Connection, wanted: &Wanted) -> Result<(), Error> {
    let mut transaction = if is_framed(connection)? {
        Transaction::new()
    } else {
        frame()
    };
    for (set, elements) in elements(wanted) {
        transaction.add_elements(&set, elements);
    }
    connection.apply(&transaction)
}

/// Takes the attachment's elements out; what is not there, or is somebody else's by now, is
/// left alone.
pub fn uninstall(connection: &mut Connection, wanted: &Wanted) -> Result<(), Error> {
    let all = elements(wanted);
    if all.is_empty() || !is_framed(connection)? {
        return Ok(());
    }
    // Adding what is there changes nothing, so that the deletion always finds it.
    let remove = |part: &[(Arc<Set>, Vec<Element>)]| {
        let mut transaction = Transaction::new();
        for (set, elements) in part {
            transaction.add_elements(set, elements.clone());
        }
        for (set, elements) in part {
            transaction.delete_elements(set, elements.clone());
        }
        transaction
    };
    if connection.apply(&remove(&all)).is_ok() {
        return Ok(());
    }
    // A key that another attachment has got meanwhile spoils the batch: one by one, then.
    for (set, elements) in all {
        for element in elements {
            match connection.apply(&remove(&[(set.clone(), vec![element])])) {
                Err(Error::Rejected(_)) | Ok(()) => {}
                Err(other) => return Err(other),
            }
        }
    }
    Ok(())
}

/// The elements that are missing in the kernel, as text.
pub fn missing(connection: &mut Connection, wanted: &Wanted) -> Result<Vec<String>, Error> {
    if !is_framed(connection)? {
        return Ok(vec![format!("the rules of table {TABLE}")]);
    }
    let mut missing = Vec::new();
    for (set, elements) in elements(wanted) {
        let listed = connection.elements(&table(), &set.name)?;
        let present: std::collections::BTreeSet<_> = listed
            .iter()
            .filter_map(|element| element.decode(&set.key))
            .collect();
        for element in elements {
            let key = match &element.key {
                kernel::nftables::ElementKey::One(key) => key,
                kernel::nftables::ElementKey::Range(from, _) => from,
                kernel::nftables::ElementKey::CatchAll => continue,
            };
            if !present.contains(key) {
                missing.push(
                    Op::AddElements {
                        set: set.clone(),
                        elements: vec![element],
                    }
                    .to_string(),
                );
            }
        }
    }
    Ok(missing)
}

/// The operations that were refused because a key has another value already.
pub fn taken(error: &Error) -> Option<String> {
    let Error::Rejected(failures) = error else {
        return None;
    };
    let exists =
        |f: &&kernel::nftables::Failure| f.error.kind() == std::io::ErrorKind::AlreadyExists;
    failures
        .iter()
        .find(exists)
        .map(|failure| failure.object.clone())
}
