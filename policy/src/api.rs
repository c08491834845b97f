//! API objects as the model has them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

pub use crate::cluster_policy::{ClusterNetworkPolicy, cluster_policy};
use crate::model::Action;
use crate::model::{
    Namespaces, Node, ObjectName, Peer, Pod, PodSelector, Policy, Port, PortMatch, Protocol,
    Requirement, Rule, Selector,
};
pub use crate::pod_view::{NodeView, PodView};

/// Namespace and name.
pub fn name(meta: &ObjectMeta) -> ObjectName {
    (
        meta.namespace.clone().unwrap_or_default(),
        meta.name.clone().unwrap_or_default(),
    )
}

pub(crate) fn selector(selector: &LabelSelector) -> Selector {
    let equal = selector.match_labels.iter().flatten();
    let mut requirements: BTreeSet<Requirement> = equal
        .map(|(key, value)| Requirement::In(key.clone(), BTreeSet::from([value.clone()])))
        .collect();
    requirements.extend(
        selector
            .match_expressions
            .iter()
            .flatten()
            .map(|requirement| {
                let key = requirement.key.clone();
                let values = || requirement.values.iter().flatten().cloned().collect();
                match requirement.operator.as_str() {
                    "In" => Requirement::In(key, values()),
                    "NotIn" => Requirement::NotIn(key, values()),
                    "Exists" => Requirement::Exists(key),
                    "DoesNotExist" => Requirement::DoesNotExist(key),
                    _ => Requirement::Never,
                }
            }),
    );
    Selector(requirements)
}

/// The policy, and what of it cannot be understood. Such a part allows nothing.
pub fn policy(object: &NetworkPolicy) -> (Policy, Vec<String>) {
    let mut faults = Vec::new();
    let empty = NetworkPolicySpec::default();
    let spec = object.spec.as_ref().unwrap_or(&empty);
    let name = name(&object.metadata);
    let types = spec.policy_types.as_deref().unwrap_or_default();
    let isolates = |kind: &str, otherwise: bool| match types {
        [] => otherwise,
        types => types.iter().any(|own| own == kind),
    };
    let ingress = isolates("Ingress", true).then(|| {
        let rules = spec.ingress.iter().flatten();
        rules
            .map(|rule| Rule {
                action: Action::Accept,
                peers: peers(rule.from.as_deref(), &name.0, &mut faults),
                ports: ports(rule.ports.as_deref(), &mut faults),
            })
            .collect()
    });
    let egress = isolates("Egress", spec.egress.is_some()).then(|| {
        let rules = spec.egress.iter().flatten();
        rules
            .map(|rule| Rule {
                action: Action::Accept,
                peers: peers(rule.to.as_deref(), &name.0, &mut faults),
                ports: ports(rule.ports.as_deref(), &mut faults),
            })
            .collect()
    });
    let pods = spec.pod_selector.as_ref().map(selector).unwrap_or_default();
    (
        Policy {
            name,
            pods,
            ingress,
            egress,
        },
        faults,
    )
}

fn peers(
    peers: Option<&[NetworkPolicyPeer]>,
    namespace: &str,
    faults: &mut Vec<String>,
) -> Option<Vec<Peer>> {
    let peers = peers.filter(|peers| !peers.is_empty())?;
    Some(
        peers
            .iter()
            .filter_map(|own| peer(own, namespace, faults))
            .collect(),
    )
}

fn peer(peer: &NetworkPolicyPeer, namespace: &str, faults: &mut Vec<String>) -> Option<Peer> {
    if let Some(block) = &peer.ip_block {
        let network = network(&block.cidr, faults)?;
        let except = block.except.iter().flatten();
        let except: Vec<IpNetwork> = except
            .filter_map(|text| self::network(text, faults))
            .collect();
        // The kernel compares addresses of one family; the other one is no part of the block.
        let (except, foreign): (Vec<_>, Vec<_>) = except
            .into_iter()
            .partition(|not| not.is_ipv4() == network.is_ipv4());
        faults.extend(
            foreign
                .iter()
                .map(|not| format!("the exception {not} is of another family than {network}")),
        );
        return Some(Peer::Block { network, except });
    }
    if peer.pod_selector.is_none() && peer.namespace_selector.is_none() {
        faults.push(
            "a peer selects nothing: give it a podSelector, a namespaceSelector or an ipBlock"
                .to_owned(),
        );
        return None;
    }
    let namespaces = match &peer.namespace_selector {
        Some(own) => Namespaces::Selected(selector(own)),
        None => Namespaces::One(namespace.to_owned()),
    };
    let pods = peer.pod_selector.as_ref().map(selector).unwrap_or_default();
    Some(Peer::Pods(PodSelector { namespaces, pods }))
}

/// The network that a text means; host bits do not count.
pub(crate) fn network(text: &str, faults: &mut Vec<String>) -> Option<IpNetwork> {
    let parsed = text
        .parse::<IpNetwork>()
        .ok()
        .filter(|_| text.contains('/'));
    match parsed.and_then(|own| IpNetwork::new(own.network(), own.prefix()).ok()) {
        Some(network) => Some(network),
        None => {
            faults.push(format!("{text:?} is not a CIDR such as 10.0.0.0/8"));
            None
        }
    }
}

fn ports(ports: Option<&[NetworkPolicyPort]>, faults: &mut Vec<String>) -> Option<Vec<PortMatch>> {
    let ports = ports.filter(|ports| !ports.is_empty())?;
    Some(ports.iter().filter_map(|own| port(own, faults)).collect())
}

fn port(port: &NetworkPolicyPort, faults: &mut Vec<String>) -> Option<PortMatch> {
    let Some(protocol) = Protocol::parse(port.protocol.as_deref()) else {
        faults.push(format!(
            "protocol {:?} is not one of TCP, UDP, SCTP",
            port.protocol
        ));
        return None;
    };
    let number = |number: i32| u16::try_from(number).ok().filter(|number| *number > 0);
    let port = match &port.port {
        None => Port::Any,
        Some(IntOrString::String(name)) => Port::Named(name.clone()),
        Some(IntOrString::Int(from)) => {
            let to = port.end_port.unwrap_or(*from);
            match (number(*from), number(to)) {
                (Some(from), Some(to)) if from <= to => Port::Range(from, to),
                _ => {
                    faults.push(format!("{from} to {to} is not a range of ports"));
                    return None;
                }
            }
        }
    };
    Some(PortMatch { protocol, port })
}

/// The pod as policies see it; `None` if they do not apply: it uses the node's network or has
/// ended.
pub fn pod(object: &PodView) -> Option<Pod> {
    let (spec, status) = (&object.spec, &object.status);
    if spec.host_network || matches!(status.phase.as_str(), "Succeeded" | "Failed") {
        return None;
    }
    let addresses = status
        .pod_ips
        .iter()
        .filter_map(|own| own.ip.parse().ok())
        .collect();
    let sidecars = spec
        .init_containers
        .iter()
        .filter(|c| c.restart_policy == "Always");
    let named_ports = spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| &container.ports)
        .filter_map(|port| {
            let protocol = Protocol::parse(Some(&port.protocol))?;
            let number = u16::try_from(port.container_port).ok()?;
            (!port.name.is_empty()).then(|| (port.name.clone(), protocol, number))
        })
        .collect();
    let labels = object.metadata.labels.clone().unwrap_or_default();
    let owners = object.metadata.owner_references.iter().flatten();
    let mut owners = owners.filter(|own| own.controller == Some(true));
    Some(Pod {
        labels,
        addresses,
        named_ports,
        owner: owners
            .next()
            .map(|own| format!("{}/{}", own.kind, own.name)),
    })
}

const DNS_NAMESPACE: &str = "kube-system";
const DNS_SERVICE: &str = "kube-dns";

/// A node as policies see it.
pub fn node(object: &NodeView) -> Node {
    let addresses = object.status.addresses.iter();
    Node {
        labels: object.metadata.labels.clone().unwrap_or_default(),
        addresses: addresses
            .filter_map(|own| own.address.parse().ok())
            .collect(),
    }
}

/// The cluster DNS as the pod that policies take it for: people allow `k8s-app: kube-dns` in
/// `kube-system`, and here each node answers by itself.
pub(crate) fn dns_pod(slice: &EndpointSlice) -> Option<(ObjectName, Pod)> {
    let (namespace, name) = name(&slice.metadata);
    let service = slice
        .metadata
        .labels
        .as_ref()?
        .get("kubernetes.io/service-name")?;
    if namespace != DNS_NAMESPACE || service != DNS_SERVICE {
        return None;
    }
    let endpoints = slice.endpoints.iter().flatten();
    let has_pod = |endpoint: &k8s_openapi::api::discovery::v1::Endpoint| {
        endpoint
            .target_ref
            .as_ref()
            .is_some_and(|target| target.kind.as_deref() == Some("Pod"))
    };
    let addresses: BTreeSet<IpAddr> = endpoints
        .filter(|endpoint| !has_pod(endpoint))
        .flat_map(|endpoint| &endpoint.addresses)
        .filter_map(|text| text.parse().ok())
        .collect();
    let named_ports = slice
        .ports
        .iter()
        .flatten()
        .filter_map(|port| {
            let protocol = Protocol::parse(port.protocol.as_deref())?;
            Some((
                port.name.clone()?,
                protocol,
                u16::try_from(port.port?).ok()?,
            ))
        })
        .collect();
    let labels = [("k8s-app".to_owned(), DNS_SERVICE.to_owned())].into();
    // A slash keeps the name apart from every real pod's.
    Some((
        (namespace, format!("endpointslice/{name}")),
        Pod {
            labels,
            addresses,
            named_ports,
            owner: Some(format!("Service/{DNS_SERVICE}")),
        },
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parsed(spec: serde_json::Value) -> (Policy, Vec<String>) {
        let object = json!({"metadata": {"namespace": "ns", "name": "p"}, "spec": spec});
        policy(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn missing_and_empty_fields_have_their_different_meanings() {
        let (policy, faults) = parsed(json!({"podSelector": {}}));
        assert_eq!((policy.ingress, policy.egress), (Some(vec![]), None));
        assert!(faults.is_empty());
        let (policy, _) = parsed(json!({"podSelector": {}, "egress": []}));
        assert_eq!(
            (policy.ingress, policy.egress),
            (Some(vec![]), Some(vec![]))
        );
        let (policy, _) =
            parsed(json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]}));
        assert_eq!(
            (policy.ingress, policy.egress),
            (None, Some(vec![Rule::default()]))
        );
        let (policy, _) =
            parsed(json!({"podSelector": {}, "ingress": [{"from": [], "ports": []}]}));
        assert_eq!(policy.ingress, Some(vec![Rule::default()]));
    }

    #[test]
    fn what_cannot_be_understood_allows_nothing_and_is_told() {
        let (policy, faults) = parsed(json!({"podSelector": {}, "ingress": [{
            "from": [{"ipBlock": {"cidr": "10.0.0.300/8"}}],
            "ports": [{"port": 90, "endPort": 80}],
        }]}));
        let expected = Rule {
            action: Action::Accept,
            peers: Some(vec![]),
            ports: Some(vec![]),
        };
        assert_eq!(policy.ingress, Some(vec![expected]));
        assert_eq!(faults.len(), 2);
    }

    #[test]
    fn an_exception_of_the_other_family_is_told_and_left_out() {
        let (policy, faults) = parsed(json!({"podSelector": {}, "ingress": [{
            "from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["fd00::/64", "10.1.0.0/16"]}}],
        }]}));
        let except = vec!["10.1.0.0/16".parse().unwrap()];
        let network = "10.0.0.0/8".parse().unwrap();
        let expected = Rule {
            action: Action::Accept,
            peers: Some(vec![Peer::Block { network, except }]),
            ports: None,
        };
        assert_eq!(policy.ingress, Some(vec![expected]));
        assert_eq!(faults.len(), 1);
    }

    #[test]
    fn host_bits_of_a_block_do_not_count() {
        let mut faults = Vec::new();
        assert_eq!(
            network("10.1.2.3/8", &mut faults),
            "10.0.0.0/8".parse().ok()
        );
        assert_eq!(network("fd00::5/64", &mut faults), "fd00::/64".parse().ok());
        assert_eq!(network("10.0.0.1", &mut faults), None);
    }
}
