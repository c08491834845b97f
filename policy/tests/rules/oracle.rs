//! The words of the API, evaluated literally over the objects as they are written. Shares nothing
//! with the code that it judges, and prefers being obvious to being fast.

use std::net::IpAddr;

use serde_json::Value;

#[derive(Debug, Clone)]
pub(crate) struct TestPod {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) labels: Value,
    pub(crate) address: IpAddr,
    /// Name, protocol, number.
    pub(crate) ports: Vec<(String, &'static str, u16)>,
}

#[derive(Debug, Clone)]
pub(crate) struct World {
    /// Names and labels.
    pub(crate) namespaces: Vec<(String, Value)>,
    pub(crate) pods: Vec<TestPod>,
    pub(crate) node_labels: Value,
    pub(crate) node_address: IpAddr,
    /// The node where the pods are. It has no labels.
    pub(crate) host: IpAddr,
    /// What the cluster DNS answered: names with an address each.
    pub(crate) learnt: Vec<(String, IpAddr)>,
    pub(crate) policies: Vec<Value>,
    pub(crate) cluster_policies: Vec<Value>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Attempt {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) protocol: &'static str,
    pub(crate) port: u16,
}

pub(crate) fn selects(selector: &Value, labels: &Value) -> bool {
    let equal = selector["matchLabels"].as_object().into_iter().flatten();
    let mut equal = equal.map(|(key, value)| labels[key] == *value);
    let expressions = selector["matchExpressions"]
        .as_array()
        .into_iter()
        .flatten();
    let mut expressions = expressions.map(|expression| {
        let own = &labels[expression["key"].as_str().unwrap()];
        let listed = expression["values"]
            .as_array()
            .is_some_and(|values| values.contains(own));
        match expression["operator"].as_str().unwrap() {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => !own.is_null(),
            "DoesNotExist" => own.is_null(),
            other => panic!("{other}"),
        }
    });
    equal.all(|holds| holds) && expressions.all(|holds| holds)
}

fn in_network(network: &Value, address: IpAddr) -> bool {
    let network: ipnetwork::IpNetwork = network.as_str().unwrap().parse().unwrap();
    network.contains(address)
}

impl World {
    fn pod_at(&self, address: IpAddr) -> Option<&TestPod> {
        self.pods.iter().find(|pod| pod.address == address)
    }

    fn namespace_labels(&self, name: &str) -> &Value {
        &self
            .namespaces
            .iter()
            .find(|(own, _)| own == name)
            .unwrap()
            .1
    }

    pub(crate) fn allows(&self, attempt: &Attempt) -> bool {
        // A pod cannot block the way to itself, and nothing blocks the node's way to its pods.
        if attempt.from == attempt.to || attempt.from == self.host {
            return true;
        }
        let leaves = self.pod_at(attempt.from);
        let enters = self.pod_at(attempt.to);
        leaves.is_none_or(|pod| self.passes(pod, "egress", attempt))
            && enters.is_none_or(|pod| self.passes(pod, "ingress", attempt))
    }

    fn passes(&self, pod: &TestPod, direction: &str, attempt: &Attempt) -> bool {
        if let Some(decided) = self.tier("Admin", pod, direction, attempt) {
            return decided;
        }
        let selecting: Vec<&Value> = self
            .policies
            .iter()
            .filter(|policy| policy["metadata"]["namespace"] == pod.namespace.as_str())
            .filter(|policy| selects(&policy["spec"]["podSelector"], &pod.labels))
            .filter(|policy| isolates(policy, direction))
            .collect();
        // "Traffic to and from the node where a Pod is running is always allowed", says the API of
        // NetworkPolicies; cluster policies select nodes as they select others.
        if !selecting.is_empty() && attempt.to == self.host {
            return true;
        }
        if !selecting.is_empty() {
            return selecting.iter().any(|policy| {
                let rules = policy["spec"][direction].as_array().into_iter().flatten();
                rules
                    .into_iter()
                    .any(|rule| self.rule_allows(policy, rule, direction, attempt))
            });
        }
        self.tier("Baseline", pod, direction, attempt)
            .unwrap_or(true)
    }

    /// The first rule that matches, by priority and order; nothing if none does or it passes.
    fn tier(&self, tier: &str, pod: &TestPod, direction: &str, attempt: &Attempt) -> Option<bool> {
        let mut policies: Vec<&Value> = self
            .cluster_policies
            .iter()
            .filter(|policy| policy["spec"]["tier"] == tier)
            .filter(|policy| self.cluster_peer(&policy["spec"]["subject"], pod.address))
            .collect();
        policies.sort_by_key(|policy| {
            let name = policy["metadata"]["name"].as_str().unwrap();
            (policy["spec"]["priority"].as_i64().unwrap(), name)
        });
        for policy in policies {
            for rule in policy["spec"][direction].as_array().into_iter().flatten() {
                if self.cluster_rule_matches(rule, direction, attempt) {
                    return match rule["action"].as_str().unwrap() {
                        "Accept" => Some(true),
                        "Deny" => Some(false),
                        _ => None,
                    };
                }
            }
        }
        None
    }

    fn rule_allows(
        &self,
        policy: &Value,
        rule: &Value,
        direction: &str,
        attempt: &Attempt,
    ) -> bool {
        let (peers, address) = match direction {
            "ingress" => (&rule["from"], attempt.from),
            _ => (&rule["to"], attempt.to),
        };
        let namespace = policy["metadata"]["namespace"].as_str().unwrap();
        let any = |list: &Value| list.as_array().is_none_or(Vec::is_empty);
        let peer = any(peers)
            || peers
                .as_array()
                .into_iter()
                .flatten()
                .any(|own| self.is_peer(own, namespace, address));
        let ports = &rule["ports"];
        let port = any(ports)
            || ports
                .as_array()
                .into_iter()
                .flatten()
                .any(|own| self.is_port(own, attempt));
        peer && port
    }

    fn is_peer(&self, peer: &Value, namespace: &str, address: IpAddr) -> bool {
        if let Some(block) = peer.get("ipBlock") {
            let mut except = block["except"].as_array().into_iter().flatten();
            return in_network(&block["cidr"], address)
                && !except.any(|not| in_network(not, address));
        }
        let Some(pod) = self.pod_at(address) else {
            return false;
        };
        let in_namespace = match peer.get("namespaceSelector") {
            Some(selector) => selects(selector, self.namespace_labels(&pod.namespace)),
            None => pod.namespace == namespace,
        };
        in_namespace
            && peer
                .get("podSelector")
                .is_none_or(|own| selects(own, &pod.labels))
    }

    fn is_port(&self, port: &Value, attempt: &Attempt) -> bool {
        if port["protocol"].as_str().unwrap_or("TCP") != attempt.protocol {
            return false;
        }
        match &port["port"] {
            Value::Null => true,
            Value::String(name) => self.is_named(name, attempt),
            number => {
                let first = number.as_u64().unwrap();
                let last = port["endPort"].as_u64().unwrap_or(first);
                (first..=last).contains(&attempt.port.into())
            }
        }
    }

    fn is_named(&self, name: &str, attempt: &Attempt) -> bool {
        self.pod_at(attempt.to).is_some_and(|pod| {
            let mut ports = pod.ports.iter();
            ports.any(|(own, protocol, number)| {
                own == name && *protocol == attempt.protocol && *number == attempt.port
            })
        })
    }

    fn cluster_rule_matches(&self, rule: &Value, direction: &str, attempt: &Attempt) -> bool {
        let (peers, address) = match direction {
            "ingress" => (&rule["from"], attempt.from),
            _ => (&rule["to"], attempt.to),
        };
        let mut peers = peers.as_array().unwrap().iter();
        let protocols = rule["protocols"].as_array();
        peers.any(|peer| self.cluster_peer(peer, address))
            && protocols.is_none_or(|own| own.iter().any(|own| self.cluster_port(own, attempt)))
    }

    fn cluster_peer(&self, peer: &Value, address: IpAddr) -> bool {
        if let Some(networks) = peer["networks"].as_array() {
            return networks.iter().any(|network| in_network(network, address));
        }
        if let Some(nodes) = peer.get("nodes") {
            return (address == self.node_address && selects(nodes, &self.node_labels))
                || (address == self.host && selects(nodes, &Value::Null));
        }
        if let Some(patterns) = peer["domainNames"].as_array() {
            let mut learnt = self.learnt.iter().filter(|(_, own)| *own == address);
            return learnt.any(|(name, _)| patterns.iter().any(|own| is_name(own, name)));
        }
        let Some(pod) = self.pod_at(address) else {
            return false;
        };
        let namespace = self.namespace_labels(&pod.namespace);
        match (peer.get("namespaces"), peer.get("pods")) {
            (Some(namespaces), _) => selects(namespaces, namespace),
            (_, Some(pods)) => {
                selects(&pods["namespaceSelector"], namespace)
                    && selects(&pods["podSelector"], &pod.labels)
            }
            _ => panic!("{peer}"),
        }
    }

    fn cluster_port(&self, protocol: &Value, attempt: &Attempt) -> bool {
        if let Some(name) = protocol["destinationNamedPort"].as_str() {
            return self.is_named(name, attempt);
        }
        let Some(own) = protocol.get(attempt.protocol.to_lowercase()) else {
            return false;
        };
        let destination = &own["destinationPort"];
        if destination.is_null() {
            return true;
        }
        let number = u64::from(attempt.port);
        match destination["number"].as_u64() {
            Some(only) => only == number,
            None => {
                let range = &destination["range"];
                let (start, end) = (
                    range["start"].as_u64().unwrap(),
                    range["end"].as_u64().unwrap(),
                );
                (start..=end).contains(&number)
            }
        }
    }
}

/// A name itself, or `*` for one or more labels before the rest.
fn is_name(pattern: &Value, name: &str) -> bool {
    let pattern: Vec<&str> = pattern.as_str().unwrap().split('.').collect();
    let name: Vec<&str> = name.split('.').collect();
    match pattern[0] {
        "*" => name.len() >= pattern.len() && name.ends_with(&pattern[1..]),
        _ => name == pattern,
    }
}

/// `policyTypes`; without it ingress always, and egress where there are rules for it.
fn isolates(policy: &Value, direction: &str) -> bool {
    let spec = &policy["spec"];
    match spec["policyTypes"].as_array() {
        Some(types) if !types.is_empty() => types
            .iter()
            .any(|own| own.as_str().unwrap().to_lowercase() == direction),
        _ => direction == "ingress" || !spec["egress"].is_null(),
    }
}
