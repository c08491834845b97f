//! What one Service adds to the table: a pure function of its picture.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use kernel::nftables::{Datum, ElementData, Key, Set, Statement, Verdict};

use super::affinity;
use super::layout::{Front, Layout, Map, REFUSE, Shared, Translation, Treatment};
use crate::model::{Backend, ServicePicture, ServicePort, TrafficPolicy, Unserved};

/// Elements, chains and sets of one Service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) elements: BTreeMap<(Map, Key), Option<ElementData>>,
    /// Shared chains that its elements lead to.
    pub(crate) shared: BTreeSet<Shared>,
    /// Chains of its own, with their rules.
    pub(crate) chains: BTreeMap<String, Vec<Vec<Statement>>>,
    /// Sets of its own.
    pub(crate) sets: BTreeMap<String, Arc<Set>>,
    /// Elements that other Services may have too: local back ends, and with IPVS virtual
    /// addresses that several Services share.
    pub(crate) counted: BTreeSet<(Map, Key)>,
}

/// What a Service adds in the layout's family.
pub(crate) fn content(picture: &ServicePicture, layout: &Layout) -> Content {
    let mut content = Content::default();
    for port in picture
        .ports
        .iter()
        .filter(|port| port.family() == layout.family)
    {
        Writer {
            port,
            layout,
            content: &mut content,
        }
        .write();
    }
    content
}

/// Where the traffic of a front end is sent to: chains made for this Service, or shared ones.
pub(crate) struct Writer<'a> {
    pub(crate) port: &'a ServicePort,
    pub(crate) layout: &'a Layout,
    pub(crate) content: &'a mut Content,
}

impl Writer<'_> {
    fn write(&mut self) {
        let port = self.port;
        self.content
            .elements
            .insert((Map::ClusterIps, port.cluster_ip.into()), None);
        let local = port
            .cluster
            .iter()
            .chain(&port.local)
            .filter(|backend| backend.local);
        let pair = |address: IpAddr| Key::from([address.into(), address.into()]);
        self.content
            .counted
            .extend(local.map(|backend| (Map::Hairpin, pair(backend.address))));
        if self.has_chains() {
            affinity::chains(self);
        }
        if self.layout.translation == Translation::Ipvs {
            self.virtual_addresses();
        }
        self.internal();
        self.external();
    }

    /// With IPVS, persistence is its business.
    fn has_chains(&self) -> bool {
        self.port.affinity.is_some() && self.layout.translation == Translation::Nftables
    }

    /// Addresses that only Services have: what else goes there is refused.
    fn virtual_addresses(&mut self) {
        for address in self
            .port
            .external_ips
            .iter()
            .chain(&self.port.load_balancer_ips)
        {
            if !self.layout.own_addresses.contains(address) {
                self.content
                    .counted
                    .insert((Map::ClusterIps, (*address).into()));
            }
        }
    }

    /// What IPVS translates is not refused on its way there.
    fn spare(&mut self, key: &Key) {
        self.put(Map::UnservedIps, key.clone(), Verdict::Return);
    }

    fn key(&self, address: IpAddr) -> Key {
        let protocol = Datum::Proto(self.port.protocol.number());
        [address.into(), protocol, Datum::Port(self.port.port)].into()
    }

    fn put(&mut self, map: Map, key: Key, verdict: Verdict) {
        self.content
            .elements
            .insert((map, key), Some(ElementData::Verdict(verdict)));
    }

    fn internal(&mut self) {
        let port = self.port;
        let key = self.key(port.cluster_ip);
        if let Some(unserved) = port.internal_unserved() {
            self.put(Map::UnservedIps, key, refusal(unserved));
            return;
        }
        if self.layout.translation == Translation::Ipvs {
            self.spare(&key);
            self.lead(
                Map::ServiceIps,
                key,
                Front::Address,
                Treatment::MarkedOffCluster,
            );
            return;
        }
        let count = port.backends(port.internal_policy).len() as u32;
        let (treatment, map) = match port.internal_policy {
            TrafficPolicy::Cluster => (Treatment::Internal(count), Map::Endpoints),
            TrafficPolicy::Local => (Treatment::InternalLocal(count), Map::LocalEndpoints),
        };
        self.lead(Map::ServiceIps, key.clone(), Front::Address, treatment);
        if !self.has_chains() {
            self.endpoints(map, &key, port.backends(port.internal_policy));
        }
    }

    fn external(&mut self) {
        let port = self.port;
        let addresses = port.external_ips.iter().chain(&port.load_balancer_ips);
        let mut fronts: Vec<(Front, Key)> = addresses
            .map(|address| (Front::Address, self.key(*address)))
            .collect();
        if let Some(number) = port.node_port {
            let protocol = Datum::Proto(port.protocol.number());
            fronts.push((Front::Nodeport, [protocol, Datum::Port(number)].into()));
        }
        for (front, key) in fronts {
            self.external_front(front, key);
        }
        if !port.source_ranges.is_empty() {
            self.firewall();
        }
    }

    fn external_front(&mut self, front: Front, key: Key) {
        let port = self.port;
        let (services, unserved, all, local) = match front {
            Front::Address => (
                Map::ServiceIps,
                Map::UnservedIps,
                Map::Endpoints,
                Map::LocalEndpoints,
            ),
            Front::Nodeport => (
                Map::ServiceNodeports,
                Map::UnservedNodeports,
                Map::NodeportEndpoints,
                Map::NodeportLocalEndpoints,
            ),
        };
        match port.external_unserved() {
            Some(what) => self.put(unserved, key.clone(), refusal(what)),
            None if self.layout.translation == Translation::Ipvs && front == Front::Address => {
                self.spare(&key);
            }
            None => {}
        }
        let (cluster, here) = (port.cluster.len() as u32, port.local.len() as u32);
        let ipvs = self.layout.translation == Translation::Ipvs;
        let treatment = match port.external_policy {
            TrafficPolicy::Cluster if ipvs => Treatment::Marked,
            TrafficPolicy::Cluster => Treatment::External(cluster),
            // IPVS has only the local ones: the table sends what begins in the cluster to all.
            TrafficPolicy::Local if ipvs => Treatment::ExternalLocal { cluster, local: 0 },
            TrafficPolicy::Local => Treatment::ExternalLocal {
                cluster,
                local: here,
            },
        };
        if cluster + here == 0 {
            return;
        }
        self.lead(services, key.clone(), front, treatment);
        if !self.has_chains() {
            if !matches!(treatment, Treatment::Marked) {
                self.endpoints(all, &key, &port.cluster);
            }
            if !ipvs && port.external_policy == TrafficPolicy::Local {
                self.endpoints(local, &key, &port.local);
            }
        }
    }

    /// Leads a front end to the chain of its treatment.
    fn lead(&mut self, map: Map, key: Key, front: Front, treatment: Treatment) {
        let chain = if self.has_chains() {
            affinity::entrance(self, treatment)
        } else {
            let shared = Shared { front, treatment };
            self.content.shared.extend(shared.needs());
            self.content.shared.insert(shared);
            shared.name()
        };
        self.put(map, key, Verdict::Goto(chain.into()));
    }

    fn endpoints(&mut self, map: Map, front: &Key, backends: &[Backend]) {
        for (number, backend) in (0u32..).zip(backends) {
            let mut key = front.0.to_vec();
            key.push(Datum::Number(number));
            let target = [backend.address.into(), Datum::Port(backend.port)].into();
            self.content
                .elements
                .insert((map, key.into()), Some(ElementData::Value(target)));
        }
    }

    /// Only the source ranges may use the load balancer's addresses.
    fn firewall(&mut self) {
        let port = self.port;
        if port.load_balancer_ips.is_empty() {
            return;
        }
        let name = format!("firewall-{}", affinity::suffix(&port.id, port.protocol));
        let field = kernel::nftables::Field::saddr(self.layout.family.is_v6());
        let allowed = match port.source_ranges.as_slice() {
            [range] => Statement::ne(field, *range),
            ranges => Statement::Lookup {
                key: vec![field],
                negate: true,
                set: kernel::nftables::SetRef::Anonymous {
                    elements: merged(ranges),
                },
            },
        };
        self.content
            .chains
            .insert(name.clone(), vec![vec![allowed, Statement::drop()]]);
        for address in &port.load_balancer_ips {
            let key = self.key(*address);
            self.put(Map::FirewallIps, key, Verdict::Goto(name.as_str().into()));
        }
    }
}

fn refusal(unserved: Unserved) -> Verdict {
    match unserved {
        Unserved::Reject => Verdict::Goto(REFUSE.into()),
        Unserved::Drop => Verdict::Drop,
    }
}

/// The networks without those that lie in another one: intervals must not overlap.
fn merged(ranges: &[ipnetwork::IpNetwork]) -> Vec<kernel::nftables::Element> {
    let within = |small: &ipnetwork::IpNetwork, large: &ipnetwork::IpNetwork| {
        small != large && large.prefix() < small.prefix() && large.contains(small.network())
    };
    ranges
        .iter()
        .filter(|range| !ranges.iter().any(|other| within(range, other)))
        .map(|range| kernel::nftables::Element::network(*range))
        .collect()
}
