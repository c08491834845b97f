//! From API objects to the picture, one changed Service at a time.
//!
//! [`Index`] holds the plain forms of Services and slices. A change of either makes the
//! Services that it concerns dirty; [`Index::take_changes`] computes their picture anew and
//! tells which of them really changed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::endpoints::{Candidates, Choice, Here, Slice, choose, merge};
use crate::model::{
    Family, HealthCheck, Protocol, ServiceKey, ServicePicture, ServicePort, TrafficPolicy,
};
use crate::service::{Spec, SpecPort};

/// An address and port that traffic is sent to; without an address, a port of the node.
type Front = (Option<IpAddr>, Protocol, u16);

/// Rank, creation and name of a Service that wants a front.
type Claim = (u8, i64, ServiceKey);

/// The Services that changed, with their new picture; `None` for those that are gone.
pub type Changes = BTreeMap<ServiceKey, Option<Arc<ServicePicture>>>;

/// Everything that the picture is made of.
#[derive(Debug, Clone, Default)]
pub struct Index {
    here: Here,
    proxy_name: Option<String>,
    service_cidrs: Vec<IpNetwork>,
    services: BTreeMap<ServiceKey, Spec>,
    slices: BTreeMap<ServiceKey, BTreeMap<Arc<str>, Slice>>,
    /// Which Service each slice belonged to, since its label may change.
    owners: BTreeMap<(Arc<str>, Arc<str>), ServiceKey>,
    /// Who wants each front: cluster IPs come before external addresses, then the oldest
    /// Service comes first.
    claims: BTreeMap<Front, BTreeSet<Claim>>,
    pictures: BTreeMap<ServiceKey, Arc<ServicePicture>>,
    dirty: BTreeSet<ServiceKey>,
}

impl Index {
    /// For a node's proxy; with a name, it serves only Services labelled with that name.
    pub fn new(node: &str, proxy_name: Option<&str>) -> Self {
        Self {
            here: Here {
                node: node.to_owned(),
                zone: None,
            },
            proxy_name: proxy_name.map(str::to_owned),
            ..Self::default()
        }
    }

    /// The picture as last taken.
    pub fn pictures(&self) -> &BTreeMap<ServiceKey, Arc<ServicePicture>> {
        &self.pictures
    }

    /// The zone of this node. Slices must be given again after it changed.
    pub fn set_zone(&mut self, zone: Option<&str>) -> bool {
        let changed = self.here.zone.as_deref() != zone;
        self.here.zone = zone.map(str::to_owned);
        changed
    }

    /// The ranges that cluster IPs come from; endpoints within them are left out.
    pub fn set_service_cidrs(&mut self, ranges: &[IpNetwork]) {
        if self.service_cidrs != ranges {
            self.service_cidrs = ranges.to_vec();
            self.dirty.extend(self.services.keys().cloned());
        }
    }

    /// A Service is there, or has changed.
    pub fn service_applied(&mut self, service: &Service) {
        let metadata = &service.metadata;
        let Some(name) = metadata.name.as_deref() else {
            return;
        };
        let key = ServiceKey::new(metadata.namespace.as_deref().unwrap_or_default(), name);
        match Spec::of(service, self.proxy_name.as_deref()) {
            Some(spec) => {
                if self.services.get(&key) != Some(&spec) {
                    self.unclaim(&key);
                    self.claim(&spec);
                    self.services.insert(key.clone(), spec);
                    self.dirty.insert(key);
                }
            }
            None => self.service_deleted(&key),
        }
    }

    /// A Service is gone.
    pub fn service_deleted(&mut self, key: &ServiceKey) {
        self.unclaim(key);
        if self.services.remove(key).is_some() {
            self.dirty.insert(key.clone());
        }
    }

    /// A slice is there, or has changed.
    pub fn slice_applied(&mut self, slice: &EndpointSlice) {
        let metadata = &slice.metadata;
        let Some(name) = metadata.name.as_deref() else {
            return;
        };
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        let Some(plain) = Slice::of(slice, &self.here) else {
            self.slice_deleted(namespace, name);
            return;
        };
        let id: (Arc<str>, Arc<str>) = (namespace.into(), name.into());
        if self
            .owners
            .get(&id)
            .is_some_and(|owner| *owner != plain.service)
        {
            self.slice_deleted(namespace, name);
        }
        let service = plain.service.clone();
        let slices = self.slices.entry(service.clone()).or_default();
        if slices.get(&id.1) != Some(&plain) {
            slices.insert(id.1.clone(), plain);
            self.owners.insert(id, service.clone());
            self.dirty.insert(service);
        }
    }

    /// A slice is gone.
    pub fn slice_deleted(&mut self, namespace: &str, name: &str) {
        let id: (Arc<str>, Arc<str>) = (namespace.into(), name.into());
        let Some(service) = self.owners.remove(&id) else {
            return;
        };
        if let Some(slices) = self.slices.get_mut(&service) {
            slices.remove(&id.1);
            if slices.is_empty() {
                self.slices.remove(&service);
            }
        }
        self.dirty.insert(service);
    }

    /// Forgets the Services that are not among these.
    pub fn retain_services(&mut self, present: &BTreeSet<ServiceKey>) {
        let gone: Vec<ServiceKey> = self
            .services
            .keys()
            .filter(|key| !present.contains(key))
            .cloned()
            .collect();
        gone.iter().for_each(|key| self.service_deleted(key));
    }

    /// Forgets the slices whose namespace and name are not among these.
    pub fn retain_slices(&mut self, present: &BTreeSet<ServiceKey>) {
        let there = |(namespace, name): &&(Arc<str>, Arc<str>)| {
            present.contains(&ServiceKey {
                namespace: namespace.clone(),
                name: name.clone(),
            })
        };
        let gone: Vec<_> = self
            .owners
            .keys()
            .filter(|id| !there(id))
            .cloned()
            .collect();
        gone.iter()
            .for_each(|(namespace, name)| self.slice_deleted(namespace, name));
    }

    /// Whether there is something to take.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Computes the pictures of the Services that changed and answers with those that differ.
    pub fn take_changes(&mut self) -> Changes {
        let mut changes = Changes::new();
        for key in std::mem::take(&mut self.dirty) {
            let new = self
                .services
                .get(&key)
                .map(|spec| Arc::new(self.picture(spec)));
            if self.pictures.get(&key) == new.as_ref() {
                continue;
            }
            match &new {
                Some(picture) => self.pictures.insert(key.clone(), picture.clone()),
                None => self.pictures.remove(&key),
            };
            changes.insert(key, new);
        }
        changes
    }

    fn fronts(spec: &Spec) -> impl Iterator<Item = (u8, Front)> {
        spec.ports.iter().flat_map(|port| {
            let own = spec.cluster_ips.iter().map(|address| (0, address));
            let external = spec.external_ips.iter().chain(&spec.load_balancer_ips);
            let addresses = own.chain(external.map(|address| (1, address)));
            let shared =
                addresses.map(|(rank, address)| (rank, (Some(*address), port.protocol, port.port)));
            shared.chain(
                port.node_port
                    .map(|number| (1, (None, port.protocol, number))),
            )
        })
    }

    fn claim(&mut self, spec: &Spec) {
        for (rank, front) in Self::fronts(spec) {
            let claims = self.claims.entry(front).or_default();
            claims.insert((rank, spec.created, spec.key.clone()));
            if claims.len() > 1 {
                self.dirty
                    .extend(claims.iter().map(|(_, _, key)| key.clone()));
            }
        }
    }

    fn unclaim(&mut self, key: &ServiceKey) {
        let Some(spec) = self.services.get(key) else {
            return;
        };
        for (rank, front) in Self::fronts(spec) {
            if let Some(claims) = self.claims.get_mut(&front) {
                claims.remove(&(rank, spec.created, key.clone()));
                self.dirty
                    .extend(claims.iter().map(|(_, _, key)| key.clone()));
                if claims.is_empty() {
                    self.claims.remove(&front);
                }
            }
        }
    }

    /// Whether the Service is the one that gets the front.
    fn owns(&self, spec: &Spec, front: Front) -> bool {
        let first = self.claims.get(&front).and_then(|claims| claims.first());
        let owns = first.is_some_and(|(_, _, key)| *key == spec.key);
        if !owns && let Some((_, _, winner)) = first {
            tracing::warn!(service = %spec.key, %winner, port = front.2, "another Service has this address and port already");
        }
        owns
    }

    fn picture(&self, spec: &Spec) -> ServicePicture {
        let mut ports = Vec::new();
        let mut local_endpoints = BTreeSet::new();
        for port in &spec.ports {
            for cluster_ip in &spec.cluster_ips {
                let choice = self.choice(spec, port, Family::of(*cluster_ip));
                local_endpoints.extend(choice.local.iter().map(|backend| backend.address));
                ports.push(self.port(spec, port, *cluster_ip, choice));
            }
        }
        let health = spec.health_check_node_port.map(|port| HealthCheck {
            port,
            local_endpoints: local_endpoints.len(),
        });
        ServicePicture { ports, health }
    }

    fn choice(&self, spec: &Spec, port: &SpecPort, family: Family) -> Choice {
        let mut candidates = Candidates::new();
        let slices = self
            .slices
            .get(&spec.key)
            .into_iter()
            .flat_map(BTreeMap::values);
        for slice in slices.filter(|slice| slice.family == family) {
            let target = slice
                .ports
                .iter()
                .find(|target| target.name == port.name && target.protocol == port.protocol);
            let Some(target) = target else { continue };
            for endpoint in &slice.endpoints {
                if self
                    .service_cidrs
                    .iter()
                    .any(|range| range.contains(endpoint.address))
                {
                    tracing::warn!(service = %spec.key, address = %endpoint.address, "an endpoint is in the Service range, it is left out");
                    continue;
                }
                merge(&mut candidates, target.port, endpoint);
            }
        }
        choose(&candidates, spec.distribution)
    }

    fn port(
        &self,
        spec: &Spec,
        port: &SpecPort,
        cluster_ip: IpAddr,
        choice: Choice,
    ) -> ServicePort {
        let family = Family::of(cluster_ip);
        let owned = |addresses: &[IpAddr]| -> BTreeSet<IpAddr> {
            let ours = |address: &&IpAddr| {
                Family::of(**address) == family
                    && self.owns(spec, (Some(**address), port.protocol, port.port))
            };
            addresses.iter().filter(ours).copied().collect()
        };
        let mut result = ServicePort {
            id: crate::model::PortId {
                service: spec.key.clone(),
                port: port.name.clone(),
            },
            protocol: port.protocol,
            cluster_ip,
            port: port.port,
            node_port: port
                .node_port
                .filter(|number| self.owns(spec, (None, port.protocol, *number))),
            external_ips: owned(&spec.external_ips),
            load_balancer_ips: owned(&spec.load_balancer_ips),
            source_ranges: family.networks(&spec.source_ranges).collect(),
            internal_policy: spec.internal_policy,
            external_policy: spec.external_policy,
            affinity: spec.affinity,
            cluster: choice.cluster,
            local: choice.local,
            leaving: match port.protocol {
                Protocol::Tcp => Vec::new(),
                Protocol::Udp | Protocol::Sctp => choice.leaving,
            },
            served: choice.served,
            ipvs: spec.ipvs.clone(),
        };
        // One address in several lists is one front end.
        result.external_ips.remove(&cluster_ip);
        result.load_balancer_ips.remove(&cluster_ip);
        result
            .external_ips
            .retain(|address| !result.load_balancer_ips.contains(address));
        if !result.external() {
            result.external_policy = TrafficPolicy::Cluster;
        }
        if result.internal_policy == TrafficPolicy::Cluster
            && result.external_policy == TrafficPolicy::Cluster
        {
            result.local = Vec::new();
        }
        result
    }
}

#[cfg(test)]
mod tests;
