//! Combinations of what policies are made of, each judged by the oracle and by real packets.

use serde_json::{Map, Value, json};

use crate::Suite;
use crate::probes::{At, PortProtocol};
use crate::steps::{OF_CLUSTER, Step};

/// A name, the policies (namespace and spec), and the ports that are asked.
struct Case {
    name: String,
    specs: Vec<(&'static str, Value)>,
    ports: Vec<PortProtocol>,
}

const DIRECTIONS: [(&str, &str, &str); 2] =
    [("Ingress", "ingress", "from"), ("Egress", "egress", "to")];
const TCP: [PortProtocol; 1] = [(80, "TCP")];
const ALL: [PortProtocol; 6] = [
    (80, "TCP"),
    (81, "TCP"),
    (80, "UDP"),
    (81, "UDP"),
    (80, "SCTP"),
    (81, "SCTP"),
];

pub(crate) fn generated_policies_hold(suite: &Suite) -> anyhow::Result<()> {
    let mut cases = peers();
    cases.extend(ports());
    cases.extend(targets());
    cases.extend(conflicts());
    cases.extend(tiers());
    let count = cases.len();
    anyhow::ensure!(count >= 200, "only {count} cases");
    let steps = cases.into_iter().map(|case| {
        let mut step = Step {
            ports: case.ports,
            ..Step::default()
        };
        let specs = case.specs.into_iter();
        let specs = specs.map(|(namespace, spec)| (namespace.to_owned(), spec));
        step.add_policies(specs.collect(), &suite.places);
        let judged = step.judged(&suite.places)?;
        Ok((case.name, step, judged))
    });
    suite.walk(At::Pods, steps)
}

fn selectors(key: &str, own: &str, others: [&str; 2]) -> Vec<Value> {
    vec![
        json!({}),
        json!({"matchLabels": {key: own}}),
        json!({"matchExpressions": [{"key": key, "operator": "In", "values": others}]}),
        json!({"matchExpressions": [{"key": key, "operator": "NotIn", "values": others}]}),
        json!({"matchExpressions": [{"key": "missing", "operator": "DoesNotExist"},
                                     {"key": key, "operator": "Exists"}]}),
    ]
}

fn policy(direction: &str, field: &str, rules: &Value) -> Value {
    json!({"podSelector": {"matchLabels": {"pod": "a"}}, "policyTypes": [direction], field: rules})
}

/// Every kind of peer, alone.
fn peers() -> Vec<Case> {
    let mut peers = Vec::new();
    let pods = selectors("pod", "b", ["b", "c"]);
    let namespaces = selectors("ns", "y", ["x", "y"]);
    peers.extend(pods.iter().map(|own| json!({"podSelector": own})));
    peers.extend(
        namespaces
            .iter()
            .map(|own| json!({"namespaceSelector": own})),
    );
    for namespace in &namespaces {
        let both = |pod| json!({"namespaceSelector": namespace, "podSelector": pod});
        peers.extend(pods.iter().map(both));
    }
    let everything = "0.0.0.0/0";
    for (cidr, except) in [
        (everything, vec![]),
        ("$y/b/32", vec![]),
        (everything, vec!["$y/b/32"]),
        (everything, vec!["$x/b/32", "$z/c/32"]),
        ("$x/c/32", vec![]),
    ] {
        peers.push(json!({"ipBlock": {"cidr": cidr, "except": except}}));
    }
    let mut cases = Vec::new();
    for (direction, field, list) in DIRECTIONS {
        for peer in &peers {
            cases.push(Case {
                name: format!("{direction} {peer}"),
                specs: vec![("x", policy(direction, field, &json!([{list: [peer]}])))],
                ports: TCP.into(),
            });
        }
    }
    cases
}

/// Every kind of port, alone and in pairs with another.
fn ports() -> Vec<Case> {
    let mut ports = Vec::new();
    for protocol in ["TCP", "UDP", "SCTP"] {
        let suffix = match protocol {
            "TCP" => String::new(),
            other => format!("-{}", other.to_lowercase()),
        };
        ports.extend([
            json!({"protocol": protocol}),
            json!({"protocol": protocol, "port": 80}),
            json!({"protocol": protocol, "port": format!("serve-81{suffix}")}),
            json!({"protocol": protocol, "port": 79, "endPort": 80}),
            json!({"protocol": protocol, "port": 82, "endPort": 65535}),
        ]);
    }
    ports.push(json!({"port": 81}));
    ports.push(json!({"port": "no-such-port"}));
    let mut lists: Vec<Value> = ports.iter().map(|own| json!([own])).collect();
    lists.extend(ports.windows(2).map(|pair| json!(pair)));
    let mut cases = Vec::new();
    for (direction, field, _) in DIRECTIONS {
        for list in &lists {
            cases.push(Case {
                name: format!("{direction} {list}"),
                specs: vec![("x", policy(direction, field, &json!([{"ports": list}])))],
                ports: ALL.into(),
            });
        }
    }
    cases
}

/// Whom a policy selects, and which directions it isolates.
fn targets() -> Vec<Case> {
    let mut cases = Vec::new();
    for selector in selectors("pod", "a", ["a", "c"]) {
        for types in [
            json!(null),
            json!(["Ingress"]),
            json!(["Egress"]),
            json!(["Ingress", "Egress"]),
        ] {
            let mut spec = json!({"podSelector": selector,
                "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"ns": "z"}}}]}]});
            if !types.is_null() {
                spec["policyTypes"] = types.clone();
            }
            cases.push(Case {
                name: format!("selects {selector}, {types}"),
                specs: vec![("y", spec)],
                ports: TCP.into(),
            });
        }
    }
    cases
}

/// Several policies of one pod, and of both ends of a connection.
fn conflicts() -> Vec<Case> {
    let rules = [
        json!([]),
        json!([{}]),
        json!([{"PEERS": [{"podSelector": {}}]}]),
    ];
    let mut cases = Vec::new();
    for (direction, field, list) in DIRECTIONS {
        for first in &rules {
            for second in &rules {
                let with_field = |rules: &Value| -> Value {
                    let text = rules.to_string().replace("PEERS", list);
                    serde_json::from_str(&text).unwrap_or_default()
                };
                let all = |rules: &Value| json!({"podSelector": {}, "policyTypes": [direction], field: with_field(rules)});
                cases.push(Case {
                    name: format!("{direction} {first} and {second}"),
                    specs: vec![("x", all(first)), ("x", all(second)), ("y", all(second))],
                    ports: TCP.into(),
                });
            }
        }
    }
    cases
}

/// Tiers, actions and priorities around NetworkPolicies.
fn tiers() -> Vec<Case> {
    let peers = [
        json!({"namespaces": {"matchLabels": {"ns": "y"}}}),
        json!({"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"pod": "b"}}}}),
    ];
    let subject = json!({"namespaces": {"matchLabels": {"ns": "x"}}});
    let of_namespace = [None, Some(json!([])), Some(json!([{}]))];
    let mut cases = Vec::new();
    for (direction, field, list) in DIRECTIONS {
        for (tier, action) in ["Admin", "Baseline"]
            .iter()
            .flat_map(|tier| ["Accept", "Deny", "Pass"].map(|action| (*tier, action)))
        {
            for (peer, inner) in peers
                .iter()
                .flat_map(|peer| of_namespace.iter().map(move |own| (peer, own)))
            {
                let rule = |action: &str, peer: &Value| {
                    let mut rule = Map::new();
                    rule.insert("action".into(), action.into());
                    rule.insert(list.into(), json!([peer]));
                    Value::from(rule)
                };
                let of_tier = |priority: u16, rule: Value| json!({"tier": tier, "priority": priority, "subject": subject, field: [rule]});
                let mut specs = vec![
                    (OF_CLUSTER, of_tier(10, rule(action, peer))),
                    (
                        OF_CLUSTER,
                        of_tier(20, rule("Deny", &json!({"namespaces": {}}))),
                    ),
                ];
                if let Some(rules) = inner {
                    specs.push((
                        "x",
                        json!({"podSelector": {}, "policyTypes": [direction], field: rules}),
                    ));
                }
                cases.push(Case {
                    name: format!("{direction} {tier} {action} {peer}, {inner:?}"),
                    specs,
                    ports: TCP.into(),
                });
            }
        }
    }
    cases
}
