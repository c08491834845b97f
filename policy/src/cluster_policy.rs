//! ClusterNetworkPolicy (`policy.networking.k8s.io/v1alpha2`) as the model has it.
//!
//! What cannot be understood fails closed, as the API demands: such an Accept matches nothing, such
//! a Deny or Pass denies everything.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::Resource;
use serde::Deserialize;

use crate::api::{network, selector};
use crate::model::{
    Action, ClusterPolicy, DomainPattern, Namespaces, Peer, PodSelector, Port, PortMatch, Protocol,
    Rule, Selector, Tier,
};

/// The object; unknown fields are kept apart from known ones, see [`PeerView`].
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ClusterNetworkPolicy {
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub spec: Spec,
    #[serde(default)]
    pub status: StatusView,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct StatusView {
    pub conditions: Vec<serde_json::Value>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Spec {
    pub tier: String,
    pub priority: i32,
    pub subject: PeerView,
    pub ingress: Vec<RuleView>,
    pub egress: Vec<RuleView>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct RuleView {
    pub name: String,
    pub action: String,
    pub from: Vec<PeerView>,
    pub to: Vec<PeerView>,
    pub protocols: Option<Vec<ProtocolView>>,
}

/// One of the fields is set; none of them: a field that this version does not know.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PeerView {
    pub namespaces: Option<LabelSelector>,
    pub pods: Option<PodsView>,
    pub nodes: Option<LabelSelector>,
    pub networks: Vec<String>,
    pub domain_names: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodsView {
    pub namespace_selector: LabelSelector,
    pub pod_selector: LabelSelector,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProtocolView {
    pub tcp: Option<DestinationView>,
    pub udp: Option<DestinationView>,
    pub sctp: Option<DestinationView>,
    pub destination_named_port: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DestinationView {
    pub destination_port: Option<PortView>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct PortView {
    pub number: i32,
    pub range: Option<RangeView>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct RangeView {
    pub start: i32,
    pub end: i32,
}

impl Resource for ClusterNetworkPolicy {
    type DynamicType = ();
    type Scope = kube::core::ClusterResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "ClusterNetworkPolicy".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "policy.networking.k8s.io".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1alpha2".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "clusternetworkpolicies".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// The policy, and what of it cannot be enforced.
pub fn cluster_policy(object: &ClusterNetworkPolicy) -> (ClusterPolicy, Vec<String>) {
    let mut faults = Vec::new();
    let spec = &object.spec;
    let tier = match spec.tier.as_str() {
        "Baseline" => Tier::Baseline,
        "Admin" => Tier::Admin,
        other => {
            faults.push(format!(
                "tier {other:?} is neither Admin nor Baseline; it counts as Admin"
            ));
            Tier::Admin
        }
    };
    let subject = pods(&spec.subject);
    if subject.is_none() {
        faults.push("the subject names neither namespaces nor pods: it selects nobody".to_owned());
    }
    let ingress = spec.ingress.iter();
    let ingress = ingress
        .map(|own| rule(own, &own.from, &mut faults))
        .collect();
    let egress = spec.egress.iter();
    let egress = egress.map(|own| rule(own, &own.to, &mut faults)).collect();
    let policy = ClusterPolicy {
        name: object.metadata.name.clone().unwrap_or_default(),
        tier,
        priority: spec.priority,
        subject,
        ingress,
        egress,
    };
    (policy, faults)
}

fn rule(view: &RuleView, peers: &[PeerView], faults: &mut Vec<String>) -> Rule {
    let before = faults.len();
    let action = match view.action.as_str() {
        "Accept" => Some(Action::Accept),
        "Deny" => Some(Action::Deny),
        "Pass" => Some(Action::Pass),
        other => {
            faults.push(format!(
                "action {other:?} is none of Accept, Deny, Pass: it denies"
            ));
            None
        }
    };
    let names = peers.iter().any(|own| !own.domain_names.is_empty());
    if names && action != Some(Action::Accept) {
        faults.push("domainNames are for Accept only: this rule denies".to_owned());
    }
    let peers: Vec<Peer> = peers.iter().flat_map(|own| peer(own, faults)).collect();
    let ports = view.protocols.as_ref().map(|protocols| {
        protocols
            .iter()
            .flat_map(|own| protocol(own, faults))
            .collect()
    });
    let understood = faults.len() == before;
    match action {
        Some(Action::Accept) => Rule {
            action: Action::Accept,
            peers: Some(peers),
            ports,
        },
        Some(action) if understood => Rule {
            action,
            peers: Some(peers),
            ports,
        },
        _ => Rule {
            action: Action::Deny,
            peers: None,
            ports: None,
        },
    }
}

fn pods(view: &PeerView) -> Option<PodSelector> {
    match (&view.namespaces, &view.pods) {
        (Some(namespaces), None) => Some(PodSelector {
            namespaces: Namespaces::Selected(selector(namespaces)),
            pods: Selector::default(),
        }),
        (None, Some(pods)) => Some(PodSelector {
            namespaces: Namespaces::Selected(selector(&pods.namespace_selector)),
            pods: selector(&pods.pod_selector),
        }),
        _ => None,
    }
}

fn peer(view: &PeerView, faults: &mut Vec<String>) -> Vec<Peer> {
    if let Some(selector) = pods(view) {
        return vec![Peer::Pods(selector)];
    }
    if let Some(nodes) = &view.nodes {
        return vec![Peer::Nodes(selector(nodes))];
    }
    if !view.domain_names.is_empty() {
        let names = view.domain_names.iter().map(|own| DomainPattern::new(own));
        return vec![Peer::Domains(names.collect())];
    }
    if view.networks.is_empty() {
        faults.push("a peer has no field that is known".to_owned());
    }
    let networks = view.networks.iter();
    networks
        .filter_map(|text| network(text, faults))
        .map(|network| Peer::Block {
            network,
            except: Vec::new(),
        })
        .collect()
}

fn protocol(view: &ProtocolView, faults: &mut Vec<String>) -> Vec<PortMatch> {
    let all = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    if !view.destination_named_port.is_empty() {
        let named = |protocol| PortMatch {
            protocol,
            port: Port::Named(view.destination_named_port.clone()),
        };
        return all.map(named).into();
    }
    let given = all.into_iter().zip([&view.tcp, &view.udp, &view.sctp]);
    let Some((protocol, destination)) = given
        .into_iter()
        .find_map(|(protocol, own)| Some((protocol, own.as_ref()?)))
    else {
        faults.push("a protocol has no field that is known".to_owned());
        return Vec::new();
    };
    let port = match &destination.destination_port {
        None => Some(Port::Any),
        Some(PortView {
            range: Some(own), ..
        }) => range(own.start, own.end),
        Some(own) => range(own.number, own.number),
    };
    match port {
        Some(port) => vec![PortMatch { protocol, port }],
        None => {
            faults.push("a destinationPort is not a port or a range of ports".to_owned());
            Vec::new()
        }
    }
}

fn range(from: i32, to: i32) -> Option<Port> {
    let number = |number: i32| u16::try_from(number).ok().filter(|number| *number > 0);
    let (from, to) = (number(from)?, number(to)?);
    (from <= to).then_some(Port::Range(from, to))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parsed(spec: serde_json::Value) -> (ClusterPolicy, Vec<String>) {
        let object = json!({"metadata": {"name": "p"}, "spec": spec});
        cluster_policy(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn a_whole_policy_is_understood() {
        let (policy, faults) = parsed(json!({
            "tier": "Baseline", "priority": 7,
            "subject": {"pods": {"podSelector": {"matchLabels": {"a": "b"}}}},
            "ingress": [{"action": "Pass", "from": [{"namespaces": {}}]}],
            "egress": [{"action": "Deny", "to": [{"networks": ["10.0.0.0/8", "fd00::/8"]}, {"nodes": {}}],
                "protocols": [{"tcp": {"destinationPort": {"number": 80}}},
                              {"udp": {"destinationPort": {"range": {"start": 1, "end": 9}}}},
                              {"sctp": {}}, {"destinationNamedPort": "http"}]}],
        }));
        assert!(faults.is_empty(), "{faults:?}");
        assert_eq!((policy.tier, policy.priority), (Tier::Baseline, 7));
        assert_eq!(policy.ingress[0].action, Action::Pass);
        let egress = &policy.egress[0];
        assert_eq!(egress.peers.as_ref().unwrap().len(), 3);
        let ports = egress.ports.as_ref().unwrap();
        assert_eq!(ports.len(), 6);
        assert_eq!(ports[1].port, Port::Range(1, 9));
    }

    #[test]
    fn domain_names_are_for_accept_only() {
        for (action, understood) in [("Accept", true), ("Deny", false), ("Pass", false)] {
            let (policy, faults) = parsed(json!({
                "tier": "Admin", "priority": 1, "subject": {"namespaces": {}},
                "egress": [{"action": action, "to": [{"domainNames": ["*.example.com."]}]}],
            }));
            assert_eq!(faults.is_empty(), understood, "{action}");
            let names = Peer::Domains([DomainPattern::new("*.example.com")].into());
            let expected = understood.then(|| vec![names]);
            assert_eq!(policy.egress[0].peers, expected, "{action}");
            assert_eq!(
                policy.egress[0].action == Action::Deny,
                !understood,
                "{action}"
            );
        }
    }

    #[test]
    fn what_cannot_be_understood_fails_closed() {
        for (action, peers) in [
            ("Accept", Some(vec![])),
            ("Deny", None),
            ("Pass", None),
            ("X", None),
        ] {
            let (policy, faults) = parsed(json!({
                "tier": "Admin", "priority": 1, "subject": {"namespaces": {}},
                "egress": [{"action": action, "to": [{"somethingNew": {}}]}],
            }));
            assert!(!faults.is_empty());
            let rule = &policy.egress[0];
            assert_eq!(rule.peers, peers, "{action}");
            assert_eq!(rule.action == Action::Accept, action == "Accept");
        }
    }
}
