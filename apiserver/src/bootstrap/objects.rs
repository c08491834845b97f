//! The objects themselves.

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::Facts;
use crate::authn::bootstrap_token;
use crate::registry::meta;

/// How long a join token made at a start is valid.
pub const JOIN_TOKEN_HOURS: i64 = 24;

type Placed = (&'static str, &'static str, Value);

const FLOW: &str = "flowcontrol.apiserver.k8s.io";

/// What is made once, and then belongs to the operator.
pub(super) fn fixed(facts: &Facts<'_>) -> Vec<Placed> {
    let mut all = vec![
        priority_class(
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to \
             another node if necessary.",
        ),
        priority_class(
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
        settings(facts),
        service_cidr(facts),
    ];
    all.extend(kubernetes_service(facts));
    all.extend(priority_levels());
    all.extend(flow_schemas());
    all.extend(api_services());
    all
}

/// What follows this server's address and keys.
pub(super) fn current(facts: &Facts<'_>) -> Vec<Placed> {
    let mut all = vec![authentication_config(facts), cluster_info(facts)];
    // An address that only this machine reaches is no endpoint.
    if !facts.advertise.is_loopback() {
        all.extend([endpoint_slice(facts), endpoints(facts)]);
    }
    all
}

fn config_map(namespace: &str, name: &str, data: Value) -> Placed {
    let metadata = json!({"name": name, "namespace": namespace});
    let object =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data});
    ("", "configmaps", object)
}

fn priority_class(name: &str, value: i64, description: &str) -> Placed {
    let object = json!({
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": name},
        "value": value,
        "description": description,
        "preemptionPolicy": "PreemptLowerPriority",
    });
    ("scheduling.k8s.io", "priorityclasses", object)
}

fn comma_list<T: ToString>(items: &[T]) -> String {
    items
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

/// What every node's process reads.
fn settings(facts: &Facts<'_>) -> Placed {
    let config = facts.config;
    config_map(
        "kube-system",
        "fairlead",
        json!({
            "network": config.network,
            "proxy": config.proxy,
            "clusterCIDRs": comma_list(&config.cluster_cidrs),
            "serviceCIDRs": comma_list(&config.service_cidrs),
            "clusterDNS": comma_list(&config.cluster_dns),
            "clusterDomain": config.cluster_domain,
        }),
    )
}

/// What servers that extend the API need to recognise this one and its users.
fn authentication_config(facts: &Facts<'_>) -> Placed {
    config_map(
        "kube-system",
        "extension-apiserver-authentication",
        json!({
            "client-ca-file": facts.pki.authority.certificate_pem(),
            "requestheader-allowed-names": "[\"front-proxy-client\"]",
            "requestheader-client-ca-file": facts.pki.front_proxy_authority.certificate_pem(),
            "requestheader-extra-headers-prefix": "[\"X-Remote-Extra-\"]",
            "requestheader-group-headers": "[\"X-Remote-Group\"]",
            "requestheader-uid-headers": "[\"X-Remote-Uid\"]",
            "requestheader-username-headers": "[\"X-Remote-User\"]",
        }),
    )
}

fn cluster_info(facts: &Facts<'_>) -> Placed {
    use base64::Engine;
    let ca = facts.pki.authority.certificate_pem();
    let ca = base64::engine::general_purpose::STANDARD.encode(ca);
    let kubeconfig = format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: \"\"\n  cluster:\n    \
         certificate-authority-data: {ca}\n    server: {}\ncontexts: null\n\
         current-context: \"\"\nusers: null\n",
        facts.url
    );
    config_map(
        "kube-public",
        "cluster-info",
        json!({"kubeconfig": kubeconfig}),
    )
}

fn service_cidr(facts: &Facts<'_>) -> Placed {
    let cidrs: Vec<String> = facts
        .config
        .service_cidrs
        .iter()
        .map(ToString::to_string)
        .collect();
    let object = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {
            "name": "kubernetes",
            "finalizers": ["networking.k8s.io/service-cidr-finalizer"],
        },
        "spec": {"cidrs": cidrs},
    });
    ("networking.k8s.io", "servicecidrs", object)
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// The address with this offset in a range: .1 is the API's, .10 that of DNS.
pub fn nth_address(range: &ipnetwork::IpNetwork, offset: u8) -> IpAddr {
    match range.network() {
        IpAddr::V4(base) => IpAddr::V4((u32::from(base).wrapping_add(offset.into())).into()),
        IpAddr::V6(base) => IpAddr::V6((u128::from(base).wrapping_add(offset.into())).into()),
    }
}

fn kubernetes_service(facts: &Facts<'_>) -> Option<Placed> {
    let address = nth_address(facts.config.service_cidrs.first()?, 1);
    let object = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": address,
            "clusterIPs": [address],
            "ipFamilies": [family(address)],
            "ipFamilyPolicy": "SingleStack",
            "sessionAffinity": "None",
            "ports": [{
                "name": "https", "port": 443, "protocol": "TCP", "targetPort": facts.port,
            }],
        },
    });
    Some(("", "services", object))
}

/// The cluster's DNS, which nodes serve: without nodes there is none.
pub(super) fn dns_service(facts: &Facts<'_>) -> Option<Placed> {
    let addresses = &facts.config.cluster_dns;
    let first = addresses.first()?;
    let families: Vec<&str> = addresses.iter().map(|address| family(*address)).collect();
    let policy = if addresses.len() > 1 {
        "RequireDualStack"
    } else {
        "SingleStack"
    };
    let object = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kube-dns",
            "namespace": "kube-system",
            "labels": {
                "k8s-app": "kube-dns",
                "kubernetes.io/cluster-service": "true",
                "kubernetes.io/name": "CoreDNS",
            },
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": first,
            "clusterIPs": addresses,
            "ipFamilies": families,
            "ipFamilyPolicy": policy,
            "trafficDistribution": "PreferSameNode",
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
            ],
        },
    });
    Some(("", "services", object))
}

fn endpoint_slice(facts: &Facts<'_>) -> Placed {
    let object = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": family(facts.advertise),
        "endpoints": [{"addresses": [facts.advertise], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": facts.port, "protocol": "TCP"}],
    });
    ("discovery.k8s.io", "endpointslices", object)
}

fn endpoints(facts: &Facts<'_>) -> Placed {
    let object = json!({
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [{
            "addresses": [{"ip": facts.advertise}],
            "ports": [{"name": "https", "port": facts.port, "protocol": "TCP"}],
        }],
    });
    ("", "endpoints", object)
}

/// Name, shares, percent that may be lent, and (hand size, queues) when it queues.
type Level = (&'static str, u32, u32, Option<(u32, u32)>);

const LEVELS: &[Level] = &[
    ("catch-all", 5, 0, None),
    ("global-default", 20, 50, Some((6, 128))),
    ("leader-election", 10, 0, Some((4, 16))),
    ("node-high", 40, 25, Some((6, 64))),
    ("system", 30, 33, Some((6, 64))),
    ("workload-high", 40, 50, Some((6, 128))),
    ("workload-low", 100, 90, Some((6, 128))),
];

fn flow_object(kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": format!("{FLOW}/v1"),
        "kind": kind,
        "metadata": {
            "name": name,
            "annotations": {"apf.kubernetes.io/autoupdate-spec": "true"},
        },
        "spec": spec,
    })
}

fn priority_levels() -> Vec<Placed> {
    let place = |name: &str, spec: Value| {
        let object = flow_object("PriorityLevelConfiguration", name, spec);
        (FLOW, "prioritylevelconfigurations", object)
    };
    let exempt =
        json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}});
    let mut all = vec![place("exempt", exempt)];
    all.extend(LEVELS.iter().map(|(name, shares, lendable, queuing)| {
        let response = match queuing {
            None => json!({"type": "Reject"}),
            Some((hand, queues)) => json!({
                "type": "Queue",
                "queuing": {"handSize": hand, "queues": queues, "queueLengthLimit": 50},
            }),
        };
        place(
            name,
            json!({
                "type": "Limited",
                "limited": {
                    "nominalConcurrencyShares": shares,
                    "lendablePercent": lendable,
                    "limitResponse": response,
                },
            }),
        )
    }));
    all
}

/// Name, precedence, level, distinguisher (or empty), subjects and what it is about.
type Schema = (
    &'static str,
    u32,
    &'static str,
    &'static str,
    &'static [&'static str],
    About,
);

#[derive(Clone, Copy)]
enum About {
    Everything,
    Probes,
    Leases,
    NodeObjects,
}

const EVERYBODY: &[&str] = &["group:system:unauthenticated", "group:system:authenticated"];

const SCHEMAS: &[Schema] = &[
    (
        "exempt",
        1,
        "exempt",
        "",
        &["group:system:masters"],
        About::Everything,
    ),
    ("probes", 2, "exempt", "", EVERYBODY, About::Probes),
    (
        "system-leader-election",
        100,
        "leader-election",
        "ByUser",
        &[
            "user:system:kube-controller-manager",
            "user:system:kube-scheduler",
            "account:kube-system/*",
        ],
        About::Leases,
    ),
    (
        "system-node-high",
        400,
        "node-high",
        "ByUser",
        &["group:system:nodes"],
        About::NodeObjects,
    ),
    (
        "system-nodes",
        500,
        "system",
        "ByUser",
        &["group:system:nodes"],
        About::Everything,
    ),
    (
        "kube-controller-manager",
        800,
        "workload-high",
        "ByNamespace",
        &["user:system:kube-controller-manager"],
        About::Everything,
    ),
    (
        "kube-scheduler",
        800,
        "workload-high",
        "ByNamespace",
        &["user:system:kube-scheduler"],
        About::Everything,
    ),
    (
        "kube-system-service-accounts",
        900,
        "workload-high",
        "ByNamespace",
        &["account:kube-system/*"],
        About::Everything,
    ),
    (
        "service-accounts",
        9000,
        "workload-low",
        "ByUser",
        &["group:system:serviceaccounts"],
        About::Everything,
    ),
    (
        "global-default",
        9900,
        "global-default",
        "ByUser",
        EVERYBODY,
        About::Everything,
    ),
    (
        "catch-all",
        10_000,
        "catch-all",
        "ByUser",
        EVERYBODY,
        About::Everything,
    ),
];

fn flow_schemas() -> Vec<Placed> {
    let place = |&(name, precedence, level, distinguisher, subjects, about): &Schema| {
        let mut rule = about.rule();
        rule["subjects"] = subjects
            .iter()
            .map(|subject| flow_subject(subject))
            .collect();
        let mut spec = json!({
            "matchingPrecedence": precedence,
            "priorityLevelConfiguration": {"name": level},
            "rules": [rule],
        });
        if !distinguisher.is_empty() {
            spec["distinguisherMethod"] = json!({"type": distinguisher});
        }
        (FLOW, "flowschemas", flow_object("FlowSchema", name, spec))
    };
    SCHEMAS.iter().map(place).collect()
}

impl About {
    fn rule(self) -> Value {
        let resources = |group: &str, resources: &[&str], verbs: &[&str]| {
            json!({
                "apiGroups": [group], "resources": resources, "verbs": verbs, "namespaces": ["*"],
            })
        };
        let cluster_wide = |mut rule: Value| {
            rule["clusterScope"] = true.into();
            rule
        };
        let leases = |verbs: &[&str]| resources("coordination.k8s.io", &["leases"], verbs);
        match self {
            About::Everything => json!({
                "resourceRules": [cluster_wide(resources("*", &["*"], &["*"]))],
                "nonResourceRules": [{"nonResourceURLs": ["*"], "verbs": ["*"]}],
            }),
            About::Probes => json!({"nonResourceRules": [{
                "nonResourceURLs": ["/healthz", "/readyz", "/livez"], "verbs": ["get"],
            }]}),
            About::Leases => json!({"resourceRules": [leases(&["get", "create", "update"])]}),
            About::NodeObjects => json!({"resourceRules": [
                cluster_wide(resources("", &["nodes", "nodes/status"], &["*"])),
                leases(&["*"]),
            ]}),
        }
    }
}

fn flow_subject(text: &str) -> Value {
    match text.split_once(':') {
        Some(("group", name)) => json!({"kind": "Group", "group": {"name": name}}),
        Some(("account", account)) => {
            let (namespace, name) = account.split_once('/').unwrap_or((account, "*"));
            let account = json!({"namespace": namespace, "name": name});
            json!({"kind": "ServiceAccount", "serviceAccount": account})
        }
        Some((_, name)) => json!({"kind": "User", "user": {"name": name}}),
        None => Value::Null,
    }
}

/// Group, version, priority of the group and of the version in it.
type LocalGroup = (&'static str, &'static str, u32, u32);

const LOCAL_GROUPS: &[LocalGroup] = &[
    ("", "v1", 18_000, 1),
    ("admissionregistration.k8s.io", "v1", 16_700, 15),
    ("apiextensions.k8s.io", "v1", 16_700, 15),
    ("apps", "v1", 17_800, 15),
    ("authentication.k8s.io", "v1", 17_700, 15),
    ("authorization.k8s.io", "v1", 17_600, 15),
    ("autoscaling", "v1", 17_500, 15),
    ("batch", "v1", 17_400, 15),
    ("certificates.k8s.io", "v1", 17_300, 15),
    ("coordination.k8s.io", "v1", 16_500, 15),
    ("discovery.k8s.io", "v1", 16_200, 15),
    ("events.k8s.io", "v1", 17_750, 15),
    ("flowcontrol.apiserver.k8s.io", "v1", 16_100, 21),
    ("networking.k8s.io", "v1", 17_200, 15),
    ("node.k8s.io", "v1", 16_300, 15),
    ("policy", "v1", 17_100, 15),
    ("rbac.authorization.k8s.io", "v1", 17_000, 15),
    ("resource.k8s.io", "v1", 16_200, 21),
    ("scheduling.k8s.io", "v1", 16_600, 15),
    ("storage.k8s.io", "v1", 16_800, 15),
    ("autoscaling", "v2", 17_500, 30),
];

const REGISTRATION: &str = "apiregistration.k8s.io";

fn api_services() -> Vec<Placed> {
    let place = |&(group, version, minimum, priority): &LocalGroup| {
        let mut object = json!({
            "apiVersion": format!("{REGISTRATION}/v1"),
            "kind": "APIService",
            "metadata": {
                "name": format!("{version}.{group}"),
                "labels": {"kube-aggregator.kubernetes.io/automanaged": "onstart"},
            },
            "spec": {
                "version": version,
                "groupPriorityMinimum": minimum,
                "versionPriority": priority,
            },
        });
        if !group.is_empty() {
            object["spec"]["group"] = group.into();
        }
        (REGISTRATION, "apiservices", object)
    };
    LOCAL_GROUPS.iter().map(place).collect()
}

/// Patches for the statuses of what `fixed` makes; `has` tells which have one already.
pub(super) fn statuses(
    has: impl Fn(&str, &str, &str) -> bool,
) -> Vec<(&'static str, &'static str, String, Value)> {
    let condition = |kind: &str, status: &str, reason: &str, message: String| {
        json!({"status": {"conditions": [{
            "type": kind, "status": status, "reason": reason, "message": message,
            "lastTransitionTime": meta::now(),
        }]}})
    };
    let mut patches = Vec::new();
    for &(name, _, level, ..) in SCHEMAS {
        let message = format!(
            "This FlowSchema references the PriorityLevelConfiguration object named {level:?} and it exists"
        );
        let patch = condition("Dangling", "False", "Found", message);
        patches.push((FLOW, "flowschemas", name.to_owned(), patch));
    }
    let message = "Kubernetes Service CIDR is ready".to_owned();
    let patch = condition("Ready", "True", "", message);
    patches.push((
        "networking.k8s.io",
        "servicecidrs",
        "kubernetes".to_owned(),
        patch,
    ));
    for (group, version, ..) in LOCAL_GROUPS {
        let message = "Local APIServices are always available".to_owned();
        let patch = condition("Available", "True", "Local", message);
        patches.push((
            REGISTRATION,
            "apiservices",
            format!("{version}.{group}"),
            patch,
        ));
    }
    patches.retain(|(group, plural, name, _)| !has(group, plural, name));
    patches
}

/// The Secret of a join token.
pub(super) fn join_secret(token: &str) -> Option<Value> {
    let (id, secret) = bootstrap_token::split(token)?;
    let until = Timestamp::now() + SignedDuration::from_hours(JOIN_TOKEN_HOURS);
    Some(json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": format!("bootstrap-token-{id}"), "namespace": "kube-system"},
        "type": bootstrap_token::SECRET_TYPE,
        "stringData": {
            "description": "made when the server started",
            "token-id": id,
            "token-secret": secret,
            "expiration": meta::time(until),
            "usage-bootstrap-authentication": "true",
            "usage-bootstrap-signing": "true",
        },
    }))
}
