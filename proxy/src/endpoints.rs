//! EndpointSlices of the API as plain data, and the choice among their endpoints.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::model::{Backend, Family, Protocol, ServiceKey};
use crate::service::{Distribution, protocol};

const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// An endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) address: IpAddr,
    pub(crate) ready: bool,
    pub(crate) serving: bool,
    pub(crate) terminating: bool,
    pub(crate) local: bool,
    pub(crate) node_hints: Hints,
    pub(crate) zone_hints: Hints,
}

/// Where an endpoint's traffic should come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hints {
    None,
    /// There are hints, and this node (or zone) is among them.
    Here,
    Elsewhere,
}

/// What a proxy has to know of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slice {
    pub(crate) service: ServiceKey,
    pub(crate) family: Family,
    pub(crate) ports: Vec<SlicePort>,
    pub(crate) endpoints: Vec<Endpoint>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SlicePort {
    pub(crate) name: Arc<str>,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
}

/// The node for which choices are made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Here {
    pub(crate) node: String,
    pub(crate) zone: Option<String>,
}

impl Slice {
    /// The plain form of a slice; `None` where it belongs to no Service or holds names.
    pub(crate) fn of(slice: &EndpointSlice, here: &Here) -> Option<Self> {
        let name = slice.metadata.labels.as_ref()?.get(SERVICE_LABEL)?;
        let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
        let family = match slice.address_type.as_str() {
            "IPv4" => Family::V4,
            "IPv6" => Family::V6,
            _ => return None,
        };
        let service = ServiceKey::new(namespace, name);
        let listed = slice.endpoints.iter().flatten();
        let endpoints = listed.filter_map(|e| endpoint(e, family, here)).collect();
        let ports = slice.ports.iter().flatten().filter_map(|port| {
            Some(SlicePort {
                name: port.name.as_deref().unwrap_or_default().into(),
                protocol: protocol(port.protocol.as_deref())?,
                port: u16::try_from(port.port?).ok().filter(|port| *port != 0)?,
            })
        });
        Some(Self {
            service,
            family,
            ports: ports.collect(),
            endpoints,
        })
    }
}

fn endpoint(
    endpoint: &k8s_openapi::api::discovery::v1::Endpoint,
    family: Family,
    here: &Here,
) -> Option<Endpoint> {
    // All addresses of an endpoint are the same endpoint; the API says to use the first.
    let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
    if Family::of(address) != family || !is_reachable(address) {
        tracing::warn!(%address, "an endpoint's address cannot be a back end, it is left out");
        return None;
    }
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
    let node_name = endpoint.node_name.as_deref();
    let hints = endpoint.hints.as_ref();
    let zone = here.zone.as_deref();
    let node_hints = hints.map(|h| h.for_nodes.iter().flatten().map(|n| n.name.as_str()));
    let zone_hints = hints.map(|h| h.for_zones.iter().flatten().map(|z| z.name.as_str()));
    Some(Endpoint {
        address,
        ready,
        serving: conditions.and_then(|c| c.serving).unwrap_or(ready),
        terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
        local: node_name == Some(here.node.as_str()),
        node_hints: among(node_hints, Some(&here.node)),
        zone_hints: among(zone_hints, zone),
    })
}

fn among<'a>(hints: Option<impl Iterator<Item = &'a str>>, here: Option<&str>) -> Hints {
    let mut result = Hints::None;
    for hint in hints.into_iter().flatten() {
        if Some(hint) == here {
            return Hints::Here;
        }
        result = Hints::Elsewhere;
    }
    result
}

/// Loopback, link-local, multicast and unspecified addresses mean something else on each node.
fn is_reachable(address: IpAddr) -> bool {
    let special = match address {
        IpAddr::V4(a) => a.is_link_local() || a.is_broadcast(),
        IpAddr::V6(a) => a.is_unicast_link_local() || a.to_ipv4_mapped().is_some(),
    };
    !(special || address.is_loopback() || address.is_multicast() || address.is_unspecified())
}

/// The endpoints that each policy chooses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) cluster: Vec<Backend>,
    pub(crate) local: Vec<Backend>,
    /// About to end, but still serving.
    pub(crate) leaving: Vec<Backend>,
    /// Any node has one that serves.
    pub(crate) served: bool,
}

/// Endpoints of one Service port by address and port, duplicates merged.
pub(crate) type Candidates = BTreeMap<(IpAddr, u16), Endpoint>;

/// Adds an endpoint; of two with the same address the better one stays, since one slice may
/// lag behind another while an endpoint moves between them.
pub(crate) fn merge(candidates: &mut Candidates, port: u16, endpoint: &Endpoint) {
    let rank = |e: &Endpoint| (e.ready, e.serving, !e.terminating, e.local);
    let slot = candidates
        .entry((endpoint.address, port))
        .or_insert_with(|| endpoint.clone());
    if rank(endpoint) > rank(slot) {
        *slot = endpoint.clone();
    }
}

/// Chooses by readiness, hints and termination.
///
/// Traffic under the cluster policy goes to ready endpoints (near ones where hints or the
/// Service's distribution say so), and if there are none, to terminating ones that still
/// serve. The local policy does the same among this node's endpoints and ignores hints.
pub(crate) fn choose(candidates: &Candidates, distribution: Option<Distribution>) -> Choice {
    let near = Nearness::of(candidates, distribution);
    let backend = |((address, port), e): (&(IpAddr, u16), &Endpoint)| Backend {
        address: *address,
        port: *port,
        local: e.local,
    };
    let pick = |wanted: &dyn Fn(&Endpoint) -> bool| -> Vec<Backend> {
        candidates
            .iter()
            .filter(|(_, e)| wanted(e))
            .map(backend)
            .collect()
    };
    let lingering = |e: &Endpoint| e.serving && e.terminating;
    let mut cluster = pick(&|e| e.ready && near.admits(e));
    if cluster.is_empty() {
        cluster = pick(&lingering);
    }
    let mut local = pick(&|e| e.ready && e.local);
    if local.is_empty() {
        local = pick(&|e| e.local && lingering(e));
    }
    let served = candidates.values().any(|e| e.ready || lingering(e));
    Choice {
        leaving: pick(&lingering),
        cluster,
        local,
        served,
    }
}

/// How near an endpoint must be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Nearness {
    Any,
    Zone,
    Node,
    /// On this node, by the endpoint's own node and not by hints.
    Local,
}

impl Nearness {
    /// Hints count only if every ready endpoint has them and one of them is for here.
    fn of(candidates: &Candidates, distribution: Option<Distribution>) -> Self {
        let ready = || candidates.values().filter(|e| e.ready);
        let usable = |hints: &dyn Fn(&Endpoint) -> Hints| {
            ready().all(|e| hints(e) != Hints::None) && ready().any(|e| hints(e) == Hints::Here)
        };
        if usable(&|e| e.node_hints) {
            return Self::Node;
        }
        if usable(&|e| e.zone_hints) {
            return Self::Zone;
        }
        // Slices that nobody wrote hints into (made by hand, for a Service without selector)
        // still name the node.
        let unhinted = ready().all(|e| e.node_hints == Hints::None && e.zone_hints == Hints::None);
        let same_node = distribution == Some(Distribution::PreferSameNode);
        if same_node && unhinted && ready().any(|e| e.local) {
            return Self::Local;
        }
        Self::Any
    }

    fn admits(self, endpoint: &Endpoint) -> bool {
        match self {
            Self::Any => true,
            Self::Zone => endpoint.zone_hints == Hints::Here,
            Self::Node => endpoint.node_hints == Hints::Here,
            Self::Local => endpoint.local,
        }
    }
}
