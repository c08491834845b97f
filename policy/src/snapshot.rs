//! A cluster as it is, or as a file would make it, for questions: who reaches whom, and why.
//!
//! The answers come from the same [`Desired`] that becomes the kernel's rules, made for all pods
//! instead of one node's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::ListParams;
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api::{self, ClusterNetworkPolicy, NodeView, PodView};
use crate::connections::Seen;
use crate::index::{Desired, Index};
use crate::model::{Attachment, Direction, ObjectName, Pod, Protocol};
use crate::verdict::{Packet, judge};

/// A question that cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot list {kind}: {source}")]
    List {
        kind: String,
        #[source]
        source: kube::Error,
    },
    #[error("{kind} {name}: {source}")]
    Object {
        kind: String,
        name: String,
        source: serde_json::Error,
    },
    #[error("{0:?} is neither a pod (NAMESPACE/NAME), nor a node, nor an address")]
    UnknownSource(String),
    #[error(
        "{0:?} is not reachable by a name or address: write NAMESPACE/POD:PORT, NAMESPACE/SERVICE:PORT, NODE:PORT or ADDRESS:PORT"
    )]
    UnknownDestination(String),
    #[error("{0} has no address of the family of {1}")]
    NoAddress(String, String),
}

/// See the module's documentation.
#[derive(Default)]
pub struct Snapshot {
    index: Index,
    services: BTreeMap<ObjectName, Service>,
    slices: Vec<EndpointSlice>,
}

/// What one pod's policies say of one direction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Said {
    pub pod: String,
    pub direction: &'static str,
    pub allowed: bool,
    pub decision: String,
    pub asked: Vec<String>,
}

/// The way to one real destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Way {
    pub destination: String,
    pub address: SocketAddr,
    pub steps: Vec<Said>,
    pub allowed: bool,
}

/// Where a connection comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub name: String,
    pub address: IpAddr,
    /// Whether it is a pod with a network of its own.
    pub is_pod: bool,
    /// The pod's node, or the node itself; `None`: from outside of the cluster.
    pub node: Option<String>,
}

/// Where a connection goes, behind Service translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    pub address: SocketAddr,
    /// The source that the destination's policies see.
    pub seen: IpAddr,
}

/// A connection that was seen and that policies would end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cut {
    #[serde(flatten)]
    pub seen: Seen,
    pub because: String,
}

/// A pair of pods whose connectivity differs between two snapshots.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Difference {
    pub source: String,
    pub destination: String,
    pub port: String,
    /// Whether the connection is allowed afterwards.
    pub allowed: bool,
    pub because: String,
}

impl Snapshot {
    /// Reads everything that decides about connections. A cluster without
    /// ClusterNetworkPolicies has none.
    pub async fn load(client: &Client) -> Result<Self, Error> {
        let mut own = Self::default();
        for namespace in list::<Namespace>(client).await? {
            own.set_namespace(&namespace);
        }
        for node in list::<NodeView>(client).await? {
            own.index
                .set_node(&api::name(&node.metadata).1, api::node(&node));
        }
        for pod in list::<PodView>(client).await? {
            own.set_pod(&pod);
        }
        for policy in list::<NetworkPolicy>(client).await? {
            own.index.set_policy(api::policy(&policy).0);
        }
        match list::<ClusterNetworkPolicy>(client).await {
            Ok(policies) => policies.iter().for_each(|own_policy| {
                own.index
                    .set_cluster_policy(api::cluster_policy(own_policy).0)
            }),
            Err(Error::List {
                source: kube::Error::Api(status),
                ..
            }) if status.code == 404 => {}
            Err(error) => return Err(error),
        }
        for service in list::<Service>(client).await? {
            own.services.insert(api::name(&service.metadata), service);
        }
        own.slices = list(client).await?;
        for slice in &own.slices {
            if let Some((name, pod)) = api::dns_pod(slice) {
                own.index.set_pod(name, pod);
            }
        }
        Ok(own)
    }

    /// Takes an object of a manifest: policies, and the pods and namespaces that they are about.
    /// What no policy reads is left out. Answers with what of a policy cannot be enforced.
    pub fn apply(&mut self, object: &Value, namespace: &str) -> Result<Vec<String>, Error> {
        let kind = object["kind"].as_str().unwrap_or_default();
        let mut object = object.clone();
        let named = matches!(kind, "Pod" | "NetworkPolicy");
        if named && object["metadata"]["namespace"].is_null() {
            object["metadata"]["namespace"] = namespace.into();
        }
        let mut faults = Vec::new();
        match kind {
            "NetworkPolicy" => {
                let (policy, told) = api::policy(&typed(kind, &object)?);
                faults = told;
                self.index.set_policy(policy);
            }
            "ClusterNetworkPolicy" => {
                let (policy, told) = api::cluster_policy(&typed(kind, &object)?);
                faults = told;
                self.index.set_cluster_policy(policy);
            }
            "Namespace" => self.set_namespace(&typed(kind, &object)?),
            "Pod" => self.set_pod(&typed(kind, &object)?),
            "List" => {
                for item in object["items"].as_array().into_iter().flatten() {
                    faults.extend(self.apply(item, namespace)?);
                }
            }
            _ => {}
        }
        Ok(faults)
    }

    fn set_namespace(&mut self, namespace: &Namespace) {
        let (_, name) = api::name(&namespace.metadata);
        let mut labels = namespace.metadata.labels.clone().unwrap_or_default();
        let own = "kubernetes.io/metadata.name";
        labels.entry(own.to_owned()).or_insert_with(|| name.clone());
        self.index.set_namespace(&name, labels);
    }

    fn set_pod(&mut self, object: &PodView) {
        let name = api::name(&object.metadata);
        let Some(mut pod) = api::pod(object) else {
            return;
        };
        if pod.addresses.is_empty() {
            // Of a manifest: addresses that nobody has tell it from the others.
            let number = u32::try_from(self.index.pods().len()).unwrap_or(u32::MAX);
            let v4 = Ipv4Addr::from(0xf000_0000 | number);
            let v6 = v4.to_ipv6_mapped().to_bits() | (0x100_u128 << 112);
            pod.addresses = [v4.into(), Ipv6Addr::from(v6).into()].into();
        }
        let attachment = Attachment {
            pod: name.clone(),
            addresses: pod.addresses.clone(),
            node: object.spec.node_name.clone(),
        };
        self.index.set_attachment(display(&name), attachment);
        self.index.set_pod(name, pod);
    }

    /// Follows a connection of this protocol to each of its targets.
    pub fn ways(&mut self, source: IpAddr, targets: &[Target], protocol: Protocol) -> Vec<Way> {
        let desired = self.index.desired();
        let ways = targets.iter().map(|target| {
            let packet = Packet {
                source,
                destination: target.address.ip(),
                protocol,
                port: target.address.port(),
            };
            self.way(&desired, &packet, target.seen)
        });
        ways.collect()
    }

    fn way(&self, desired: &Desired, packet: &Packet, seen: IpAddr) -> Way {
        let (from, to) = (self.pod_at(packet.source), self.pod_at(packet.destination));
        let mut steps = Vec::new();
        // A pod cannot block the way to itself.
        if from.is_none() || from != to {
            if let Some(pod) = &from {
                steps.push(said(desired, pod, Direction::Egress, packet));
            }
            if let Some(pod) = &to {
                let packet = Packet {
                    source: seen,
                    ..*packet
                };
                steps.push(said(desired, pod, Direction::Ingress, &packet));
            }
        }
        Way {
            destination: to.unwrap_or_else(|| packet.destination.to_string()),
            address: SocketAddr::new(packet.destination, packet.port),
            allowed: steps.iter().all(|own| own.allowed),
            steps,
        }
    }

    /// The pod that has an address and an interface of its own.
    fn pod_at(&self, address: IpAddr) -> Option<String> {
        let mut attachments = self.index.attachments().iter();
        let (name, _) = attachments.find(|(_, own)| own.addresses.contains(&address))?;
        Some(name.clone())
    }

    /// The pod, node or address that a text means, with its address of the family.
    pub fn origin(&self, text: &str, v6: bool) -> Result<Origin, Error> {
        let family = if v6 { "IPv6" } else { "IPv4" };
        let none = || Error::NoAddress(text.to_owned(), family.to_owned());
        if let Ok(address) = text.parse::<IpAddr>() {
            let pod = self.pod_at(address);
            let attachment = pod
                .as_ref()
                .and_then(|own| self.index.attachments().get(own));
            let node = match attachment {
                Some(own) => Some(own.node.clone()),
                None => self.node_at(address),
            };
            let (name, is_pod) = (
                pod.clone().unwrap_or_else(|| text.to_owned()),
                pod.is_some(),
            );
            return Ok(Origin {
                name,
                address,
                is_pod,
                node,
            });
        }
        if let Some(node) = self.index.node(text) {
            let mut own = node.addresses.iter().copied();
            return Ok(Origin {
                name: text.to_owned(),
                address: own.find(|own| own.is_ipv6() == v6).ok_or_else(none)?,
                is_pod: false,
                node: Some(text.to_owned()),
            });
        }
        let name = object_name(text);
        let pod = self.index.pod(&name);
        let pod = pod.ok_or_else(|| Error::UnknownSource(text.to_owned()))?;
        let attachment = self.index.attachments().get(&display(&name));
        Ok(Origin {
            name: display(&name),
            address: address_of(pod, v6).ok_or_else(none)?,
            is_pod: true,
            node: attachment.map(|own| own.node.clone()),
        })
    }

    /// The node that has an address.
    pub fn node_at(&self, address: IpAddr) -> Option<String> {
        let mut nodes = self.index.nodes().iter();
        let (name, _) = nodes.find(|(_, node)| node.addresses.contains(&address))?;
        Some(name.clone())
    }

    /// The addresses of a node.
    pub fn node_addresses(&self, name: &str) -> BTreeSet<IpAddr> {
        let node = self.index.node(name);
        node.map(|node| node.addresses.clone()).unwrap_or_default()
    }

    /// The node where the pod is that has an address.
    pub fn node_of_pod(&self, address: IpAddr) -> Option<String> {
        let attachment = self.index.attachments().get(&self.pod_at(address)?)?;
        Some(attachment.node.clone())
    }

    /// Where a connection to this is sent: the address of a pod, a node or a Service, in the family
    /// that both have, IPv4 first.
    pub fn destination(&self, text: &str, source: &str) -> Result<SocketAddr, Error> {
        let unknown = || Error::UnknownDestination(text.to_owned());
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(address);
        }
        let (name, port) = text.rsplit_once(':').ok_or_else(unknown)?;
        let port: u16 = port.parse().map_err(|_| unknown())?;
        let addresses: Vec<IpAddr> = if let Some(node) = self.index.node(name) {
            node.addresses.iter().copied().collect()
        } else if let Some(pod) = self.index.pod(&object_name(name)) {
            pod.addresses.iter().copied().collect()
        } else {
            let service = self.services.get(&object_name(name)).ok_or_else(unknown)?;
            let spec = service.spec.as_ref();
            let addresses = spec.and_then(|spec| spec.cluster_ips.as_ref());
            let addresses = addresses.into_iter().flatten();
            addresses.filter_map(|text| text.parse().ok()).collect()
        };
        let mut families = [false, true].into_iter();
        let common = families.find_map(|v6| {
            self.origin(source, v6).ok()?;
            addresses.iter().copied().find(|own| own.is_ipv6() == v6)
        });
        let address = common.or(addresses.first().copied()).ok_or_else(unknown)?;
        Ok(SocketAddr::new(address, port))
    }

    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    pub fn slices(&self) -> &[EndpointSlice] {
        &self.slices
    }

    /// Which of the connections that were seen are allowed here and not afterwards.
    pub fn cut(&mut self, after: &mut Self, seen: &[Seen]) -> Vec<Cut> {
        let (before, now) = (self.index.desired(), after.index.desired());
        let cut = seen.iter().filter_map(|seen| {
            let own = &seen.connection;
            let packet = Packet {
                source: own.source,
                destination: own.destination,
                protocol: Protocol::parse(Some(&own.protocol))?,
                port: own.port,
            };
            if !self.way(&before, &packet, own.source).allowed {
                return None;
            }
            let way = after.way(&now, &packet, own.source);
            let denied = way.steps.into_iter().find(|own| !own.allowed)?;
            Some(Cut {
                seen: seen.clone(),
                because: denied.decision,
            })
        });
        cut.collect()
    }

    /// Who reaches whom, between the pods of a namespace, or all pods without one.
    pub fn matrix(
        &mut self,
        namespace: Option<&str>,
        port: (Protocol, u16),
    ) -> Vec<(String, String, bool)> {
        let desired = self.index.desired();
        let pods: Vec<(&ObjectName, &Pod)> = self
            .local_pods()
            .filter(|(name, _)| namespace.is_none_or(|own| own == name.0))
            .collect();
        let mut rows = Vec::new();
        for (source, from) in &pods {
            for (destination, to) in &pods {
                let way = self.between(&desired, from, to, port);
                let allowed = way.is_some_and(|way| way.allowed);
                rows.push((display(source), display(destination), allowed));
            }
        }
        rows
    }

    fn local_pods(&self) -> impl Iterator<Item = (&ObjectName, &Pod)> {
        let attachments = self.index.attachments();
        let pods = self.index.pods().iter();
        pods.filter(|(name, _)| attachments.contains_key(&display(name)))
    }

    fn between(
        &self,
        desired: &Desired,
        from: &Pod,
        to: &Pod,
        port: (Protocol, u16),
    ) -> Option<Way> {
        let common = [false, true]
            .into_iter()
            .find_map(|v6| address_of(from, v6).zip(address_of(to, v6)));
        let (source, destination) = common?;
        let (protocol, port) = port;
        let packet = Packet {
            source,
            destination,
            protocol,
            port,
        };
        Some(self.way(desired, &packet, packet.source))
    }

    /// What changes for the pods of both when this becomes that: the ports that the destination
    /// declares, and one that it does not.
    pub fn differences(&mut self, after: &mut Self) -> Vec<Difference> {
        let (before, now) = (self.index.desired(), after.index.desired());
        let pods: Vec<(ObjectName, Pod)> = after
            .local_pods()
            .filter(|(name, _)| self.index.pod(name).is_some())
            .map(|(name, pod)| (name.clone(), pod.clone()))
            .collect();
        let mut differences = Vec::new();
        for (source, from) in &pods {
            for (destination, to) in pods.iter().filter(|(name, _)| name != source) {
                for (label, port) in ports_of(to) {
                    let old = self.between(&before, from, to, port).map(|way| way.allowed);
                    let Some(new) = after.between(&now, from, to, port) else {
                        continue;
                    };
                    if old == Some(new.allowed) {
                        continue;
                    }
                    let denied = new.steps.iter().find(|own| !own.allowed);
                    let said = denied.or(new.steps.last());
                    differences.push(Difference {
                        source: display(source),
                        destination: display(destination),
                        port: label,
                        allowed: new.allowed,
                        because: said.map(|own| own.decision.clone()).unwrap_or_default(),
                    });
                }
            }
        }
        differences
    }
}

fn said(desired: &Desired, pod: &str, direction: Direction, packet: &Packet) -> Said {
    let verdict = judge(desired, pod, direction, packet);
    Said {
        pod: pod.to_owned(),
        direction: crate::flows::name(direction),
        allowed: verdict.allowed,
        decision: verdict.decision.to_string(),
        asked: verdict.asked.iter().map(ToString::to_string).collect(),
    }
}

/// The declared ports of a pod, and one in the place of all others.
fn ports_of(pod: &Pod) -> Vec<(String, (Protocol, u16))> {
    const OTHER: u16 = 1;
    let declared = pod.named_ports.iter();
    let mut ports: Vec<_> = declared
        .map(|(_, protocol, port)| (format!("{port}/{}", protocol.name()), (*protocol, *port)))
        .collect();
    ports.push(("other ports".to_owned(), (Protocol::Tcp, OTHER)));
    ports
}

fn address_of(pod: &Pod, v6: bool) -> Option<IpAddr> {
    pod.addresses
        .iter()
        .copied()
        .find(|own| own.is_ipv6() == v6)
}

fn display((namespace, name): &ObjectName) -> String {
    format!("{namespace}/{name}")
}

/// `NAMESPACE/NAME`, or a name in the namespace `default`.
fn object_name(text: &str) -> ObjectName {
    match text.split_once('/') {
        Some((namespace, name)) => (namespace.to_owned(), name.to_owned()),
        None => ("default".to_owned(), text.to_owned()),
    }
}

fn typed<K: DeserializeOwned>(kind: &str, object: &Value) -> Result<K, Error> {
    serde_json::from_value(object.clone()).map_err(|source| Error::Object {
        kind: kind.to_owned(),
        name: object["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        source,
    })
}

async fn list<K>(client: &Client) -> Result<Vec<K>, Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let api: Api<K> = Api::all(client.clone());
    let list = api.list(&ListParams::default()).await;
    list.map(|list| list.items).map_err(|source| Error::List {
        kind: K::plural(&()).into_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str) -> Value {
        json!({"kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
            "spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 80}]}]}})
    }

    fn snapshot() -> Snapshot {
        let mut own = Snapshot::default();
        let objects = [
            json!({"kind": "Namespace", "metadata": {"name": "ns"}}),
            pod("a"),
            pod("b"),
        ];
        for object in objects {
            own.apply(&object, "ns").unwrap();
        }
        own
    }

    fn only_http_from_a() -> Value {
        json!({"kind": "NetworkPolicy", "metadata": {"name": "p"}, "spec": {
            "podSelector": {"matchLabels": {"app": "b"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "a"}}}], "ports": [{"port": "http"}]}]}})
    }

    fn way(own: &mut Snapshot, source: &str, destination: &str) -> Result<Way, Error> {
        let address = own.destination(destination, source)?;
        let source = own.origin(source, address.is_ipv6())?.address;
        let target = Target {
            address,
            seen: source,
        };
        let mut ways = own.ways(source, &[target], Protocol::Tcp);
        Ok(ways.remove(0))
    }

    #[test]
    fn a_way_names_who_decides() {
        let mut own = snapshot();
        own.apply(&only_http_from_a(), "ns").unwrap();
        let allowed = way(&mut own, "ns/a", "ns/b:80").unwrap();
        assert!(allowed.allowed);
        let ingress = &allowed.steps[1];
        assert_eq!(ingress.decision, "rule 1 of NetworkPolicy ns/p");
        assert!(!way(&mut own, "ns/a", "ns/b:81").unwrap().allowed);
        assert!(way(&mut own, "ns/c", "ns/b:81").is_err());
        assert!(way(&mut own, "ns/a", "ns/b").is_err());
        let itself = way(&mut own, "ns/b", "ns/b:81").unwrap();
        assert!(itself.allowed, "a pod reaches itself");
    }

    #[test]
    fn what_was_seen_and_is_denied_afterwards_is_cut() {
        let (mut before, mut after) = (snapshot(), snapshot());
        after.apply(&only_http_from_a(), "ns").unwrap();
        let seen = |port| {
            let address = |name| before.origin(name, false).unwrap().address;
            let connection = crate::connections::Connection {
                source: address("ns/a"),
                destination: address("ns/b"),
                protocol: "TCP".into(),
                port,
                source_pod: None,
                destination_pod: None,
            };
            Seen {
                connection,
                seen: 0,
            }
        };
        let seen = [seen(80), seen(81)];
        let cut = before.cut(&mut after, &seen);
        let expected = Cut {
            seen: seen[1].clone(),
            because: "no rule of NetworkPolicy ns/p allows it".into(),
        };
        assert_eq!(cut, [expected]);
    }

    #[test]
    fn differences_tell_who_loses_what() {
        let (mut before, mut after) = (snapshot(), snapshot());
        after.apply(&only_http_from_a(), "ns").unwrap();
        let differences = before.differences(&mut after);
        let lost = Difference {
            source: "ns/a".into(),
            destination: "ns/b".into(),
            port: "other ports".into(),
            allowed: false,
            because: "no rule of NetworkPolicy ns/p allows it".into(),
        };
        assert_eq!(differences, [lost]);
        assert!(
            after
                .matrix(Some("ns"), (Protocol::Tcp, 80))
                .iter()
                .all(|row| row.2)
        );
    }
}
