//! Tracked flows that lead nowhere: what is wanted is compared with what is tracked.
//!
//! A datagram of a known flow follows the flow, whatever the rules say by now. So a client
//! that goes on sending from the same port would send to a back end that is gone for as long
//! as it does not pause. A TCP connection ends by itself; for UDP and SCTP the flow must be
//! forgotten, then the next packet is looked up anew.
//!
//! [`Fronts::is_stale`] decides, and is pure. [`Keeper`] lists and deletes, after the rules
//! were written: from then on no new flow to an old back end can begin. One packet that was
//! in the middle of the old rules is caught by a second look, a moment later.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use kernel::conntrack::{Conntrack, Flow, status};
use kernel::netlink::{self, Socket};

use crate::config::Mode;
use crate::metrics::metrics;
use crate::model::{Backend, Family, Protocol, ServiceKey, ServicePicture, ServicePort};
use crate::picture::Changes;

/// When the second look is.
const AGAIN: Duration = Duration::from_millis(400);
/// Where node ports are; flows to them are looked at also where no Service is known.
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;

/// What a packet is sent to: an address, or any of the node's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Front {
    Address(IpAddr, Protocol, u16),
    Node(Family, Protocol, u16),
}

impl Front {
    fn kind(self) -> (Family, Protocol) {
        match self {
            Self::Address(address, protocol, _) => (Family::of(address), protocol),
            Self::Node(family, protocol, _) => (family, protocol),
        }
    }
}

/// Who may serve a front.
type Serving = BTreeSet<(IpAddr, u16)>;

/// The fronts whose flows are looked after.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fronts {
    /// With the Service that each belongs to: it may pass from one to another.
    wanted: BTreeMap<Front, (ServiceKey, Serving)>,
    of_service: BTreeMap<ServiceKey, BTreeSet<Front>>,
    /// Those that are wanted no more.
    forgotten: BTreeSet<Front>,
    service_cidrs: Vec<IpNetwork>,
    /// IPVS translates; otherwise flows that it has translated are left of a former mode.
    by_ipvs: bool,
    /// What was deleted before this process began is recognised by where it is.
    unknown_past: bool,
}

/// Families and protocols in which something is to be looked for.
type Kinds = BTreeSet<(Family, Protocol)>;

fn keeps_flows(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::Udp | Protocol::Sctp)
}

fn fronts(picture: &ServicePicture) -> BTreeMap<Front, Serving> {
    let mut fronts = BTreeMap::new();
    let ports = picture.ports.iter();
    for port in ports.filter(|port| keeps_flows(port.protocol)) {
        let (inside, outside) = (serving(port, false), serving(port, true));
        let at = |address, number| Front::Address(address, port.protocol, number);
        fronts.insert(at(port.cluster_ip, port.port), inside);
        for address in port.external_ips.iter().chain(&port.load_balancer_ips) {
            fronts.insert(at(*address, port.port), outside.clone());
        }
        if let Some(number) = port.node_port {
            fronts.insert(Front::Node(port.family(), port.protocol, number), outside);
        }
    }
    fronts
}

/// What may be behind a port. From outside, traffic that begins in the cluster reaches all
/// back ends whatever the policy; those that are about to end keep the flows that they have.
fn serving(port: &ServicePort, outside: bool) -> Serving {
    let policy = match outside {
        true => port.external_policy,
        false => port.internal_policy,
    };
    let own = port.backends(policy).iter();
    let all = port.cluster.iter().filter(|_| outside);
    let target = |backend: &Backend| (backend.address, backend.port);
    own.chain(all).chain(&port.leaving).map(target).collect()
}

impl Fronts {
    /// Takes everything as it is to be; answers with where stale flows may be.
    fn replace(
        &mut self,
        pictures: &BTreeMap<ServiceKey, Arc<ServicePicture>>,
        service_cidrs: &[IpNetwork],
        mode: Mode,
    ) -> Kinds {
        let old = std::mem::take(&mut self.wanted);
        self.of_service.clear();
        for (key, picture) in pictures {
            let fronts = fronts(picture);
            if !fronts.is_empty() {
                let names = fronts.keys().copied().collect();
                self.of_service.insert(key.clone(), names);
            }
            for (front, serving) in fronts {
                self.wanted.insert(front, (key.clone(), serving));
            }
        }
        self.forgotten.extend(old.into_keys());
        let wanted = &self.wanted;
        self.forgotten.retain(|front| !wanted.contains_key(front));
        self.service_cidrs = service_cidrs.to_vec();
        self.unknown_past = true;
        self.by_ipvs = mode == Mode::Ipvs;
        let kinds = |family| [(family, Protocol::Udp), (family, Protocol::Sctp)];
        Family::ALL.into_iter().flat_map(kinds).collect()
    }

    /// Takes what changed; answers with where stale flows may be.
    fn change(&mut self, key: &ServiceKey, new: Option<&ServicePicture>) -> Kinds {
        let mut kinds = Kinds::new();
        let new = new.map(fronts).unwrap_or_default();
        let names: BTreeSet<Front> = new.keys().copied().collect();
        let before = match names.is_empty() {
            true => self.of_service.remove(key),
            false => self.of_service.insert(key.clone(), names),
        };
        for front in before.into_iter().flatten() {
            // It may have passed to another Service.
            let mine = self.wanted.get(&front).is_some_and(|(of, _)| of == key);
            if mine && !new.contains_key(&front) {
                self.wanted.remove(&front);
                self.forgotten.insert(front);
                kinds.insert(front.kind());
            }
        }
        for (front, serving) in new {
            self.forgotten.remove(&front);
            let old = self.wanted.insert(front, (key.clone(), serving.clone()));
            // Where back ends were only added, every flow still leads to one.
            let grew = old.is_some_and(|(_, old)| !old.is_empty() && old.is_subset(&serving));
            if !grew {
                kinds.insert(front.kind());
            }
        }
        kinds
    }

    /// Whether a flow must be forgotten. `own` are the node's addresses.
    fn is_stale(&self, flow: &Flow, own: &BTreeSet<IpAddr>) -> bool {
        let Some(protocol) = protocol(flow.original.protocol) else {
            return false;
        };
        let (address, port) = (flow.original.destination, flow.original.destination_port);
        let served_by = (flow.reply.source, flow.reply.source_port);
        let at = Front::Address(address, protocol, port);
        let node = Front::Node(Family::of(address), protocol, port);
        let is_own = own.contains(&address);
        // IPVS alone redirects without saying so in the status.
        let left_by_ipvs = !self.by_ipvs && flow.is_redirected() && flow.status & status::DNAT == 0;
        if let Some((_, serving)) = self.wanted.get(&at) {
            return left_by_ipvs || !serving.contains(&served_by);
        }
        if self
            .service_cidrs
            .iter()
            .any(|range| range.contains(address))
        {
            return true;
        }
        if is_own && let Some((_, serving)) = self.wanted.get(&node) {
            return left_by_ipvs || !serving.contains(&served_by);
        }
        if !flow.is_redirected() {
            return false;
        }
        // A flow that a host port redirects is redirected to the same pod again.
        let once = self.forgotten.contains(&at) || (is_own && self.forgotten.contains(&node));
        once || (self.unknown_past && is_own && NODE_PORTS.contains(&port))
    }
}

fn protocol(number: u8) -> Option<Protocol> {
    [Protocol::Udp, Protocol::Sctp]
        .into_iter()
        .find(|protocol| protocol.number() == number)
}

/// Looks after the flows of the node.
pub(crate) struct Keeper {
    fronts: Fronts,
    /// `None` where the kernel does not let flows be listed; then nothing is done.
    kernel: Option<(Conntrack, Socket)>,
    todo: Kinds,
    /// When the second look is due, and at what.
    again: Option<(Instant, Kinds)>,
}

impl Keeper {
    /// For the calling thread's network namespace.
    pub(crate) fn new() -> Self {
        let open = || -> Result<_, netlink::Error> { Ok((Conntrack::open()?, Socket::route()?)) };
        let kernel = open().inspect_err(|error| {
            tracing::warn!(%error, "tracked flows of Services are not looked after");
        });
        Self {
            fronts: Fronts::default(),
            kernel: kernel.ok(),
            todo: Kinds::new(),
            again: None,
        }
    }

    /// All rules were written.
    pub(crate) fn replaced(
        &mut self,
        pictures: &BTreeMap<ServiceKey, Arc<ServicePicture>>,
        service_cidrs: &[IpNetwork],
        mode: Mode,
    ) {
        let kinds = self.fronts.replace(pictures, service_cidrs, mode);
        self.todo.extend(kinds);
        self.look(true);
    }

    /// Some rules were written.
    pub(crate) fn changed(&mut self, changes: &Changes) {
        for (key, new) in changes {
            let kinds = self.fronts.change(key, new.as_deref());
            self.todo.extend(kinds);
        }
        self.look(true);
    }

    /// Does what has become due.
    pub(crate) fn tick(&mut self, now: Instant) {
        if let Some((when, kinds)) = self.again.take() {
            if when > now {
                self.again = Some((when, kinds));
                return;
            }
            self.todo.extend(kinds);
            self.look(false);
        }
    }

    fn look(&mut self, first: bool) {
        let kinds = std::mem::take(&mut self.todo);
        if kinds.is_empty() {
            return;
        }
        let Some((conntrack, route)) = &mut self.kernel else {
            return;
        };
        match clean(&self.fronts, &kinds, conntrack, route) {
            Ok(deleted) => {
                metrics().flows_deleted.inc_by(deleted as u64);
                if deleted > 0 {
                    tracing::info!(deleted, "flows that led nowhere were forgotten");
                }
                if first {
                    self.again = Some((Instant::now() + AGAIN, kinds));
                } else {
                    self.fronts.forgotten.clear();
                    self.fronts.unknown_past = false;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "stale flows could not be forgotten, it is tried again");
                self.again = Some((Instant::now() + AGAIN, kinds));
            }
        }
    }
}

fn clean(
    fronts: &Fronts,
    kinds: &Kinds,
    conntrack: &mut Conntrack,
    route: &mut Socket,
) -> Result<usize, netlink::Error> {
    let own: BTreeSet<IpAddr> = kernel::address::list(route, None)?
        .iter()
        .map(|address| address.network.ip())
        .collect();
    let mut deleted = 0;
    for (family, protocol) in kinds {
        let mut flows = conntrack.flows_of(family.is_v6(), protocol.number())?;
        flows.retain(|flow| fronts.is_stale(flow, &own));
        deleted += conntrack.delete(&flows)?;
    }
    Ok(deleted)
}

#[cfg(test)]
mod tests;
