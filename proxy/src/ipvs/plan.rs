//! What IPVS is to hold for a Service, and the operations to get there: pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use kernel::ipvs::{Op, RealId, VirtualId, VirtualServer, flag};

use crate::config::SCHEDULERS;
use crate::model::{ServicePicture, ServicePort, TrafficPolicy};

/// A virtual server with the weights of its real servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Virtual {
    pub(crate) server: VirtualServer,
    pub(crate) reals: BTreeMap<RealId, u32>,
}

/// All virtual servers, or some.
pub(crate) type Virtuals = BTreeMap<VirtualId, Virtual>;

/// What the virtual servers depend on besides the picture.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Context {
    pub(crate) scheduler: String,
    /// The node's own addresses, on which node ports are served.
    pub(crate) node_addresses: BTreeSet<IpAddr>,
    /// Of them, those on which node ports are not served.
    pub(crate) without_nodeports: BTreeSet<IpAddr>,
}

/// The virtual servers of a Service.
pub(crate) fn virtuals(picture: &ServicePicture, context: &Context) -> Virtuals {
    let mut all = Virtuals::new();
    for port in &picture.ports {
        let mut add = |address: IpAddr, number: u16, policy: TrafficPolicy| {
            let backends = port.backends(policy);
            if backends.is_empty() {
                return;
            }
            let id = VirtualId {
                address,
                protocol: port.protocol.number(),
                port: number,
            };
            let real = |address, port| RealId { address, port };
            let reals = backends
                .iter()
                .map(|b| (real(b.address, b.port), weight(port, b.address)))
                .collect();
            all.insert(
                id,
                Virtual {
                    server: server(port, context),
                    reals,
                },
            );
        };
        add(port.cluster_ip, port.port, port.internal_policy);
        for address in port.external_ips.iter().chain(&port.load_balancer_ips) {
            add(*address, port.port, port.external_policy);
        }
        if let Some(number) = port.node_port {
            let serving = context
                .node_addresses
                .difference(&context.without_nodeports);
            for address in serving.filter(|a| a.is_ipv6() == port.cluster_ip.is_ipv6()) {
                add(*address, number, port.external_policy);
            }
        }
    }
    all
}

/// The addresses that are to be on the device, for a Service.
pub(crate) fn addresses(picture: &ServicePicture, context: &Context) -> BTreeSet<IpAddr> {
    let of = |port: &ServicePort| {
        let external = port
            .external_ips
            .iter()
            .chain(&port.load_balancer_ips)
            .copied();
        std::iter::once(port.cluster_ip)
            .chain(external)
            .collect::<Vec<_>>()
    };
    let all = picture.ports.iter().flat_map(of);
    all.filter(|address| !context.node_addresses.contains(address))
        .collect()
}

fn weight(port: &ServicePort, address: IpAddr) -> u32 {
    let weights = port.ipvs.weights.iter().flat_map(|weights| weights.iter());
    weights
        .filter(|(of, _)| *of == address)
        .map(|(_, weight)| *weight)
        .next()
        .unwrap_or(1)
}

fn server(port: &ServicePort, context: &Context) -> VirtualServer {
    let scheduler = match &port.ipvs.scheduler {
        Some(name) if SCHEDULERS.contains(&&**name) => name.to_string(),
        Some(name) => {
            tracing::warn!(service = %port.id, %name, "no such IPVS scheduler, the default is used");
            context.scheduler.clone()
        }
        None => context.scheduler.clone(),
    };
    let words = port.ipvs.flags.iter().flat_map(|flags| flags.split(','));
    let mut flags = words.fold(0, |flags, word| {
        flags
            | match word.trim() {
                "sh-port" | "mh-port" => flag::SOURCE_PORT,
                "sh-fallback" | "mh-fallback" => flag::FALLBACK,
                _ => 0,
            }
    });
    if port.affinity.is_some() {
        flags |= flag::PERSISTENT;
    }
    VirtualServer {
        scheduler,
        flags,
        persistence: port.affinity.unwrap_or_default(),
    }
}

/// A real server of a virtual one.
pub(crate) type Place = (VirtualId, RealId);

/// Operations, and the real servers that are to lose their connections in peace.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) ops: Vec<Op>,
    pub(crate) drained: BTreeSet<Place>,
    /// Real servers that were on their way out and are wanted again, or gone at once.
    pub(crate) settled: BTreeSet<Place>,
}

/// From the old virtual servers to the new ones. `leaving` are real servers that the kernel
/// holds with weight 0 though nobody wants them.
pub(crate) fn plan(old: &Virtuals, new: &Virtuals, leaving: &BTreeSet<Place>) -> Plan {
    let mut plan = Plan::default();
    for (id, wanted) in new {
        match old.get(id) {
            None => {
                let server = wanted.server.clone();
                plan.ops.push(Op::AddService { id: *id, server });
                plan.reals(*id, &BTreeMap::new(), &wanted.reals, &BTreeSet::new());
            }
            Some(held) => {
                if held.server != wanted.server {
                    let server = wanted.server.clone();
                    plan.ops.push(Op::UpdateService { id: *id, server });
                }
                plan.reals(*id, &held.reals, &wanted.reals, leaving);
            }
        }
    }
    for id in old.keys().filter(|id| !new.contains_key(id)) {
        plan.ops.push(Op::DeleteService { id: *id });
        plan.settled
            .extend(leaving.iter().filter(|(service, _)| service == id));
    }
    plan
}

/// No new connections; those of datagrams end, since their flows go elsewhere now.
pub(crate) fn retire(observed: &Virtuals) -> Vec<Op> {
    let mut ops = Vec::new();
    for (id, held) in observed {
        if is_datagram(id) {
            ops.push(Op::DeleteService { id: *id });
            continue;
        }
        ops.extend(held.reals.keys().map(|server| Op::UpdateServer {
            service: *id,
            server: *server,
            weight: 0,
        }));
    }
    ops
}

/// A datagram to a back end that is gone is lost; there is no state to drain.
pub(crate) fn is_datagram(id: &VirtualId) -> bool {
    const UDP: u8 = 17;
    id.protocol == UDP
}

impl Plan {
    fn reals(
        &mut self,
        service: VirtualId,
        held: &BTreeMap<RealId, u32>,
        wanted: &BTreeMap<RealId, u32>,
        leaving: &BTreeSet<Place>,
    ) {
        for (server, weight) in wanted {
            let (service, server, weight) = (service, *server, *weight);
            if leaving.contains(&(service, server)) {
                self.ops.push(Op::UpdateServer {
                    service,
                    server,
                    weight,
                });
                self.settled.insert((service, server));
                continue;
            }
            match held.get(&server) {
                None => self.ops.push(Op::AddServer {
                    service,
                    server,
                    weight,
                }),
                Some(is) if *is != weight => {
                    self.ops.push(Op::UpdateServer {
                        service,
                        server,
                        weight,
                    });
                }
                Some(_) => {}
            }
        }
        for server in held.keys().filter(|server| !wanted.contains_key(server)) {
            let server = *server;
            if is_datagram(&service) {
                self.ops.push(Op::DeleteServer { service, server });
            } else {
                self.ops.push(Op::UpdateServer {
                    service,
                    server,
                    weight: 0,
                });
                self.drained.insert((service, server));
            }
        }
    }
}

#[cfg(test)]
mod tests;
