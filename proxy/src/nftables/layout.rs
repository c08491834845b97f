//! What is there once, whatever the Services are: sets, maps and the kernel's chains; and the
//! chains that Services share by the number of their back ends.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use kernel::nftables::{
    BaseChain, Chain, CtField, DataType, Datum, Element, Family as TableFamily, FibKey, FibResult,
    Field, Flowtable, Hook, NatKind, NatTarget, NumgenMode, Op, Reject, Right, Rule, Set, SetRef,
    Statement, Table, Transaction, address_type, ct_state, ct_status, protocol,
};

use crate::config::Config;
use crate::model::Family;

/// Who translates packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Translation {
    /// The table itself.
    Nftables,
    /// IPVS, which sees what is addressed to the node: virtual addresses are the node's own.
    /// The table marks, filters, and translates only what IPVS cannot.
    Ipvs,
}

impl Translation {
    fn table(self) -> &'static str {
        match self {
            Self::Nftables => "fairlead-proxy",
            Self::Ipvs => "fairlead-ipvs",
        }
    }
}

/// The chain that answers what nobody serves.
pub(super) const REFUSE: &str = "reject";

/// The maps and sets that Services put elements into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Map {
    ServiceIps,
    ServiceNodeports,
    ClusterIps,
    UnservedIps,
    UnservedNodeports,
    FirewallIps,
    Endpoints,
    LocalEndpoints,
    NodeportEndpoints,
    NodeportLocalEndpoints,
    /// Pairs of the same local address: a pod that reaches itself.
    Hairpin,
}

impl Map {
    pub(crate) const ALL: [Self; 11] = [
        Self::ServiceIps,
        Self::ServiceNodeports,
        Self::ClusterIps,
        Self::UnservedIps,
        Self::UnservedNodeports,
        Self::FirewallIps,
        Self::Endpoints,
        Self::LocalEndpoints,
        Self::NodeportEndpoints,
        Self::NodeportLocalEndpoints,
        Self::Hairpin,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ServiceIps => "service-ips",
            Self::ServiceNodeports => "service-nodeports",
            Self::ClusterIps => "cluster-ips",
            Self::UnservedIps => "unserved-ips",
            Self::UnservedNodeports => "unserved-nodeports",
            Self::FirewallIps => "firewall-ips",
            Self::Endpoints => "endpoints",
            Self::LocalEndpoints => "local-endpoints",
            Self::NodeportEndpoints => "nodeport-endpoints",
            Self::NodeportLocalEndpoints => "nodeport-local-endpoints",
            Self::Hairpin => "hairpin",
        }
    }

    fn set(self, table: &Table, family: Family) -> Set {
        let address = DataType::address(family.is_v6());
        let front = vec![address, DataType::InetProto, DataType::InetService];
        let port = vec![DataType::InetProto, DataType::InetService];
        let numbered = |mut key: Vec<DataType>| {
            key.push(DataType::Number);
            key
        };
        let target = vec![address, DataType::InetService];
        let name = self.name();
        match self {
            Self::ServiceIps | Self::UnservedIps | Self::FirewallIps => {
                Set::verdict_map(table, name, front)
            }
            Self::ServiceNodeports | Self::UnservedNodeports => Set::verdict_map(table, name, port),
            Self::ClusterIps => Set::new(table, name, [address]),
            Self::Endpoints | Self::LocalEndpoints => {
                Set::map(table, name, numbered(front), target)
            }
            Self::NodeportEndpoints | Self::NodeportLocalEndpoints => {
                Set::map(table, name, numbered(port), target)
            }
            Self::Hairpin => Set::new(table, name, [address, address]),
        }
    }
}

/// What a front end is found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Front {
    Address,
    Nodeport,
}

/// How a front end's traffic is treated, with the number of back ends to choose from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Treatment {
    /// A cluster IP.
    Internal(u32),
    /// A cluster IP whose traffic stays on the node.
    InternalLocal(u32),
    /// From outside, to any back end.
    External(u32),
    /// From outside to back ends on this node; what begins in the cluster goes to all.
    ExternalLocal { cluster: u32, local: u32 },
    /// Only the choice.
    Choice(u32),
    /// From outside, and IPVS translates.
    Marked,
    /// A cluster IP, and IPVS translates.
    MarkedOffCluster,
}

/// A chain that Services share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Shared {
    pub(crate) front: Front,
    pub(crate) treatment: Treatment,
}

impl Shared {
    pub(crate) fn name(self) -> String {
        let external = match self.front {
            Front::Address => "external",
            Front::Nodeport => "nodeport",
        };
        match self.treatment {
            Treatment::Marked => external.to_owned(),
            Treatment::MarkedOffCluster => "cluster-ip".to_owned(),
            Treatment::Internal(n) => format!("cluster-ip-{n}"),
            Treatment::InternalLocal(n) => format!("cluster-ip-local-{n}"),
            Treatment::External(n) => format!("{external}-{n}"),
            Treatment::ExternalLocal { cluster, local } => {
                format!("{external}-local-{cluster}-{local}")
            }
            Treatment::Choice(n) => format!("{external}-choice-{n}"),
        }
    }

    /// The chains that must be there before it.
    pub(crate) fn needs(self) -> Option<Self> {
        match self.treatment {
            Treatment::ExternalLocal { cluster, .. } if cluster > 0 => Some(Self {
                front: self.front,
                treatment: Treatment::Choice(cluster),
            }),
            _ => None,
        }
    }
}

/// The table's fixed part, for one family.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) translation: Translation,
    pub(crate) table: Table,
    pub(crate) family: Family,
    sets: Vec<(Map, Arc<Set>)>,
    mark: u32,
    cluster_cidrs: Vec<IpNetwork>,
    masquerade_all: bool,
    nodeport_addresses: Option<Vec<IpNetwork>>,
    localhost_nodeports: bool,
    tcp_be_liberal: bool,
    pub(crate) service_cidrs: Vec<IpNetwork>,
    flowtable_devices: Vec<String>,
    /// The node's own addresses, which are never taken for virtual ones.
    pub(crate) own_addresses: BTreeSet<IpAddr>,
}

impl Layout {
    pub(crate) fn new(config: &Config, family: Family, translation: Translation) -> Self {
        let table = Table::new(TableFamily::ip(family.is_v6()), translation.table());
        let sets = Map::ALL
            .map(|map| (map, Arc::new(map.set(&table, family))))
            .to_vec();
        let of = |all: &[IpNetwork]| family.networks(all).collect::<Vec<_>>();
        Self {
            sets,
            mark: config.mark(),
            cluster_cidrs: of(&config.cluster_cidrs),
            masquerade_all: config.masquerade_all,
            nodeport_addresses: Some(of(&config.nodeport_addresses))
                .filter(|ranges| !ranges.is_empty()),
            localhost_nodeports: config.localhost_nodeports && family == Family::V4,
            tcp_be_liberal: config.conntrack.tcp_be_liberal,
            service_cidrs: of(&config.service_cidrs),
            flowtable_devices: config.nftables.flowtable_devices.clone(),
            own_addresses: BTreeSet::new(),
            translation,
            table,
            family,
        }
    }

    pub(crate) fn set(&self, map: Map) -> &Arc<Set> {
        &self.sets[map as usize].1
    }

    fn saddr(&self) -> Field {
        Field::saddr(self.family.is_v6())
    }

    fn daddr(&self) -> Field {
        Field::daddr(self.family.is_v6())
    }

    /// The fields that a front end is found by.
    fn key(&self, front: Front) -> Vec<Field> {
        match front {
            Front::Address => vec![self.daddr(), Field::L4Proto, Field::Dport],
            Front::Nodeport => vec![Field::L4Proto, Field::Dport],
        }
    }

    /// The source is in one of the networks, or in none.
    fn source_in(&self, networks: &[IpNetwork], inside: bool) -> Statement {
        match networks {
            [network] if inside => Statement::saddr(*network),
            [network] => Statement::ne(self.saddr(), *network),
            _ => Statement::Lookup {
                key: vec![self.saddr()],
                negate: !inside,
                set: SetRef::Anonymous {
                    elements: networks.iter().map(|n| Element::network(*n)).collect(),
                },
            },
        }
    }

    /// Marks what does not come from a pod, where that is known.
    pub(crate) fn mark_off_cluster(&self) -> Option<Vec<Statement>> {
        if self.masquerade_all {
            return Some(vec![self.mark_statement()]);
        }
        if self.cluster_cidrs.is_empty() {
            return None;
        }
        Some(vec![
            self.source_in(&self.cluster_cidrs, false),
            self.mark_statement(),
        ])
    }

    /// The rules that send what begins in the cluster to this chain.
    pub(crate) fn short_cut(&self, chain: &str) -> Vec<Vec<Statement>> {
        let mut rules = Vec::new();
        if !self.cluster_cidrs.is_empty() {
            rules.push(vec![
                self.source_in(&self.cluster_cidrs, true),
                Statement::goto(chain),
            ]);
        }
        rules.push(vec![
            self.source_is_own(),
            self.mark_statement(),
            Statement::goto(chain),
        ]);
        rules
    }

    fn source_is_own(&self) -> Statement {
        let field = Field::Fib(vec![FibKey::Saddr], FibResult::Type);
        Statement::eq(field, Datum::AddressType(address_type::LOCAL))
    }

    pub(crate) fn mark_statement(&self) -> Statement {
        Statement::or_mark(self.mark)
    }

    /// The translation to one of the first `count` back ends of the front end.
    fn translate(&self, front: Front, local: bool, count: u32) -> Vec<Statement> {
        let map = match (front, local) {
            (Front::Address, false) => Map::Endpoints,
            (Front::Address, true) => Map::LocalEndpoints,
            (Front::Nodeport, false) => Map::NodeportEndpoints,
            (Front::Nodeport, true) => Map::NodeportLocalEndpoints,
        };
        let mut key = self.key(front);
        key.push(Field::Numgen {
            mode: NumgenMode::Random,
            modulus: count,
            offset: 0,
        });
        let target = NatTarget::Map {
            key,
            map: SetRef::named(map.name()),
            port: true,
        };
        vec![Statement::Nat {
            kind: NatKind::Dnat,
            v6: self.family.is_v6(),
            target,
        }]
    }

    /// The rules of a shared chain.
    pub(crate) fn shared_rules(&self, shared: Shared) -> Vec<Vec<Statement>> {
        let front = shared.front;
        match shared.treatment {
            Treatment::Internal(n) => {
                let mut rules: Vec<_> = self.mark_off_cluster().into_iter().collect();
                rules.push(self.translate(front, false, n));
                rules
            }
            Treatment::InternalLocal(n) => {
                let mut rules: Vec<_> = self.mark_off_cluster().into_iter().collect();
                rules.push(self.translate(front, true, n));
                rules
            }
            Treatment::External(n) => {
                vec![vec![self.mark_statement()], self.translate(front, false, n)]
            }
            Treatment::Marked => vec![vec![self.mark_statement()]],
            Treatment::MarkedOffCluster => {
                let mut rules: Vec<_> = self.mark_off_cluster().into_iter().collect();
                // The node itself sends from the virtual address, which no pod can answer.
                rules.push(vec![self.source_is_own(), self.mark_statement()]);
                rules
            }
            Treatment::ExternalLocal { local, .. } => {
                let choice = shared.needs().map(Self::name_of);
                let mut rules = choice.map_or_else(Vec::new, |name| self.short_cut(&name));
                if local > 0 {
                    rules.push(self.translate(front, true, local));
                }
                rules
            }
            Treatment::Choice(n) => vec![self.translate(front, false, n)],
        }
    }

    fn name_of(shared: Shared) -> String {
        shared.name()
    }

    fn rule(&self, transaction: &mut Transaction, chain: &str, body: Vec<Statement>) {
        transaction.add_rule(Rule::new(&self.table, chain, body));
    }

    /// An empty table with everything that does not depend on Services.
    pub(crate) fn create(&self, transaction: &mut Transaction) {
        let table = &self.table;
        transaction.reset_table(table);
        for (_, set) in &self.sets {
            transaction.add_set(set);
        }
        for name in ["services", "unserved", REFUSE] {
            transaction.add_chain(Chain::new(table, name));
        }
        let base = [
            ("nat-prerouting", BaseChain::nat(Hook::Prerouting, -100)),
            ("nat-output", BaseChain::nat(Hook::Output, -100)),
            ("nat-postrouting", BaseChain::nat(Hook::Postrouting, 100)),
            // Before the translation, which hides who was addressed.
            (
                "firewall-prerouting",
                BaseChain::filter(Hook::Prerouting, -110),
            ),
            ("firewall-output", BaseChain::filter(Hook::Output, -110)),
            // After it: what still goes to a front end is served by nobody.
            ("unserved-input", BaseChain::filter(Hook::Input, -10)),
            ("unserved-forward", BaseChain::filter(Hook::Forward, -10)),
            ("unserved-output", BaseChain::filter(Hook::Output, -90)),
        ];
        for (name, base) in base {
            transaction.add_chain(Chain::new(table, name).base(base));
        }
        self.create_nat(transaction);
        self.create_filters(transaction);
        self.create_flowtable(transaction);
    }

    fn create_nat(&self, transaction: &mut Transaction) {
        for chain in ["nat-prerouting", "nat-output"] {
            self.rule(transaction, chain, vec![Statement::jump("services")]);
        }
        let map = Map::ServiceIps.name();
        self.rule(
            transaction,
            "services",
            vec![Statement::vmap(self.key(Front::Address), map)],
        );
        let mut body = self.to_the_node();
        body.push(Statement::vmap(
            self.key(Front::Nodeport),
            Map::ServiceNodeports.name(),
        ));
        self.rule(transaction, "services", body);

        let masquerade = Statement::Masquerade { fully_random: true };
        // The mark is taken away, since the packet may come back through here.
        self.rule(
            transaction,
            "nat-postrouting",
            vec![
                Statement::mark(self.mark, self.mark),
                Statement::clear_mark(self.mark),
                masquerade.clone(),
            ],
        );
        let mut body = vec![
            Statement::is_in([self.saddr(), self.daddr()], Map::Hairpin.name()),
            masquerade,
        ];
        if self.translation == Translation::Nftables {
            body.insert(0, Statement::ct_status(ct_status::DNAT));
        }
        self.rule(transaction, "nat-postrouting", body);
    }

    /// Matches what is addressed to the node, on addresses where node ports are served.
    fn to_the_node(&self) -> Vec<Statement> {
        let field = Field::Fib(vec![FibKey::Daddr], FibResult::Type);
        let mut body = vec![Statement::eq(
            field,
            Datum::AddressType(address_type::LOCAL),
        )];
        match &self.nodeport_addresses {
            Some(networks) => body.push(Statement::one_of(
                [self.daddr()],
                networks.iter().map(|n| Element::network(*n)).collect(),
            )),
            None if !self.localhost_nodeports => {
                body.push(Statement::ne(self.daddr(), self.loopback()));
            }
            None => {}
        }
        if self.translation == Translation::Ipvs {
            // Virtual addresses are the node's own, but have no node ports.
            body.push(Statement::not_in([self.daddr()], Map::ClusterIps.name()));
        }
        body
    }

    fn loopback(&self) -> IpNetwork {
        match self.family {
            Family::V4 => IpNetwork::V4(
                ipnetwork::Ipv4Network::new_checked(std::net::Ipv4Addr::new(127, 0, 0, 0), 8)
                    .expect("8 is a prefix length"),
            ),
            Family::V6 => IpNetwork::from(std::net::IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)),
        }
    }

    fn create_filters(&self, transaction: &mut Transaction) {
        let new = || Statement::ct_state(ct_state::NEW);
        for chain in ["firewall-prerouting", "firewall-output"] {
            let map = Map::FirewallIps.name();
            self.rule(
                transaction,
                chain,
                vec![new(), Statement::vmap(self.key(Front::Address), map)],
            );
        }
        if self.localhost_nodeports {
            // Node ports on 127.0.0.1 need route_localnet, which must not let others in.
            self.rule(
                transaction,
                "unserved-input",
                vec![
                    Statement::ne(self.saddr(), self.loopback()),
                    Statement::eq(self.daddr(), self.loopback()),
                    Statement::Match {
                        field: Field::Ct(CtField::Status),
                        op: kernel::nftables::CmpOp::Ne,
                        right: Right::AnyBit(Datum::CtStatus(ct_status::DNAT | ct_status::SNAT)),
                    },
                    new(),
                    Statement::drop(),
                ],
            );
        }
        if !self.tcp_be_liberal {
            // What belongs to no connection is not translated: who gets it does not know the
            // sender, and resets what is a connection of the other's.
            self.rule(
                transaction,
                "unserved-forward",
                vec![Statement::ct_state(ct_state::INVALID), Statement::drop()],
            );
        }
        for chain in ["unserved-input", "unserved-forward", "unserved-output"] {
            self.rule(transaction, chain, vec![new(), Statement::jump("unserved")]);
        }
        let map = Map::UnservedIps.name();
        self.rule(
            transaction,
            "unserved",
            vec![Statement::vmap(self.key(Front::Address), map)],
        );
        let mut body = self.to_the_node();
        body.push(Statement::vmap(
            self.key(Front::Nodeport),
            Map::UnservedNodeports.name(),
        ));
        self.rule(transaction, "unserved", body);
        let with_ports = || {
            // A virtual address of IPVS is the node's own, and answers to ping.
            let numbers = [protocol::TCP, protocol::UDP, protocol::SCTP];
            let elements = numbers
                .map(|number| Element::new(Datum::Proto(number)))
                .to_vec();
            let own = self.translation == Translation::Ipvs;
            own.then(|| Statement::one_of([Field::L4Proto], elements))
        };
        let mut refuse = |to: Statement| {
            let body = [Some(to), with_ports(), Some(Statement::goto(REFUSE))];
            self.rule(
                transaction,
                "unserved",
                body.into_iter().flatten().collect(),
            );
        };
        refuse(Statement::is_in([self.daddr()], Map::ClusterIps.name()));
        self.service_cidrs
            .iter()
            .for_each(|range| refuse(Statement::daddr(*range)));
        for body in self.refusals() {
            self.rule(transaction, REFUSE, body);
        }
    }

    /// What is answered to packets that nobody serves.
    fn refusals(&self) -> [Vec<Statement>; 2] {
        let unreachable = match self.family {
            Family::V4 => Reject::Icmp(3),
            Family::V6 => Reject::Icmpv6(4),
        };
        // To an ICMP error in the middle of connecting, Linux clients over IPv6 react only at
        // their next attempt, a second later; to a reset at once.
        let reset = vec![
            Statement::protocol(protocol::TCP),
            Statement::Reject(Reject::TcpReset),
        ];
        [reset, vec![Statement::Reject(unreachable)]]
    }

    /// Drops what would be refused, until [`Layout::give_refusals`]. While the table is replaced,
    /// a packet may meet old rules with new sets, or a filter without the translation before it:
    /// its sender tries again, where a refusal would be the end.
    pub(crate) fn hold_refusals(&self, transaction: &mut Transaction) {
        transaction.flush_chain(&self.table, REFUSE);
        self.rule(transaction, REFUSE, vec![Statement::drop()]);
    }

    /// Refuses again what nobody serves.
    pub(crate) fn give_refusals(&self, transaction: &mut Transaction) {
        transaction.flush_chain(&self.table, REFUSE);
        for body in self.refusals() {
            self.rule(transaction, REFUSE, body);
        }
    }

    fn create_flowtable(&self, transaction: &mut Transaction) {
        if self.flowtable_devices.is_empty() {
            return;
        }
        transaction.push(Op::AddFlowtable(Flowtable {
            table: self.table.clone(),
            name: "established".into(),
            priority: 0,
            devices: self
                .flowtable_devices
                .iter()
                .map(|d| d.as_str().into())
                .collect(),
        }));
        self.rule(
            transaction,
            "unserved-forward",
            vec![
                Statement::ct_state(ct_state::ESTABLISHED),
                Statement::FlowAdd("established".into()),
            ],
        );
    }
}
