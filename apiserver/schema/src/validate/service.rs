//! Services.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::address::{
    check_cidr, check_ip, check_not_special, check_port, check_port_number, is_dual, parse_ip,
};
use super::field::{Errors, Node};
use super::{Change, internal, meta, names};

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const ONLY_BALANCERS: &str = "may only be used when `type` is 'LoadBalancer'";

fn kind<'a>(service: &Node<'a>) -> &'a str {
    service.get("spec.type").text()
}

fn is_headless(service: &Node<'_>) -> bool {
    service.get("spec.clusterIPs").texts() == ["None"]
}

fn needs_health_check(service: &Node<'_>) -> bool {
    kind(service) == "LoadBalancer" && service.get("spec.externalTrafficPolicy").text() == "Local"
}

/// Service
pub(super) fn service(e: &mut Errors, change: &Change<'_>) {
    if change.is_status() {
        return balancer_status(e, &change.new);
    }
    let new = &change.new;
    if let Some(old) = &change.old {
        addresses_update(e, new, old);
        families_update(e, new, old);
        class_update(e, new, old);
        class(e, new);
        let health = new.get("spec.healthCheckNodePort");
        if needs_health_check(old)
            && needs_health_check(new)
            && health.int() != old.get("spec.healthCheckNodePort").int()
        {
            e.forbidden(&health, "field is immutable");
        }
    }
    whole(e, new);
}

fn whole(e: &mut Errors, service: &Node<'_>) {
    let spec = service.get("spec");
    topology(e, service);
    let ports = spec.get("ports");
    if ports.is_empty() && !is_headless(service) && kind(service) != "ExternalName" {
        e.required(&ports, "");
    }
    by_type(e, service, &spec);
    self::ports(e, &ports);
    meta::labels(e, &spec.get("selector"));
    affinity(e, &spec);
    if kind(service) != "ExternalName" {
        addresses(e, service, &spec);
    }
    for address in spec.get("externalIPs").items() {
        if check_ip(e, &address) {
            check_not_special(e, &address);
        }
    }
    e.one_of_required(&spec.get("type"), &TYPES);
    if kind(service) == "ClusterIP" {
        for port in ports.items() {
            let node_port = port.get("nodePort");
            if node_port.int() != 0 {
                e.forbidden(&node_port, "may not be used when `type` is 'ClusterIP'");
            }
        }
    }
    repeated_ports(e, &ports);
    source_ranges(e, service, &spec);
    let allocates = spec.get("allocateLoadBalancerNodePorts");
    if allocates.is_set() && kind(service) != "LoadBalancer" {
        e.forbidden(&allocates, ONLY_BALANCERS);
    }
    class(e, service);
    traffic(e, service, &spec);
}

fn topology(e: &mut Errors, service: &Node<'_>) {
    let annotations = service.get("metadata.annotations");
    let (hints, mode) = (
        "service.kubernetes.io/topology-aware-hints",
        "service.kubernetes.io/topology-mode",
    );
    let text = |key: &str| annotations.value[key].as_str();
    if let (Some(h), Some(m)) = (text(hints), text(mode))
        && h != m
    {
        let why = format!("must match annotations[{hints}] when both are specified");
        e.invalid(&annotations.path.key(mode), m, why);
    }
}

fn by_type(e: &mut Errors, service: &Node<'_>, spec: &Node<'_>) {
    match kind(service) {
        own @ ("LoadBalancer" | "NodePort") if is_headless(service) => {
            let at = spec.path.child("clusterIPs").index(0);
            let why = format!("may not be set to 'None' for {own} services");
            e.invalid(&at, "None", why);
        }
        "ExternalName" => {
            for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                let node = spec.get(field);
                if !node.is_empty() {
                    e.forbidden(&node, "may not be set for ExternalName services");
                }
            }
            let name = spec.get("externalName");
            let own = name.text().strip_suffix('.').unwrap_or(name.text());
            if own.is_empty() {
                e.required(&name, "");
            } else {
                e.faults(&name, own, names::subdomain_faults(own));
            }
        }
        _ => {}
    }
}

fn ports(e: &mut Errors, list: &Node<'_>) {
    let mut known = BTreeSet::new();
    for port in list.items() {
        let name = port.get("name");
        if name.is_empty() {
            if list.len() > 1 {
                e.required(&name, "");
            }
        } else {
            e.check(&name, names::label_faults);
            if !known.insert(name.text()) {
                e.duplicate(&name, name.text());
            }
        }
        check_port_number(e, &port.get("port"));
        e.one_of_required(&port.get("protocol"), &PROTOCOLS);
        check_port(e, &port.get("targetPort"));
        let protocol = port.get("appProtocol");
        if protocol.is_set() {
            e.check(&protocol, names::qualified_name_faults);
        }
    }
}

fn affinity(e: &mut Errors, spec: &Node<'_>) {
    let affinity = spec.get("sessionAffinity");
    e.one_of_required(&affinity, &["ClientIP", "None"]);
    let config = spec.get("sessionAffinityConfig");
    match affinity.text() {
        "ClientIP" => {
            let missing = "when session affinity type is ClientIP";
            let client = config.get("clientIP");
            let timeout = client.get("timeoutSeconds");
            if let Some(absent) = [&config, &client, &timeout]
                .into_iter()
                .find(|n| !n.is_set())
            {
                e.required(absent, missing);
            } else if !(1..=86400).contains(&timeout.int()) {
                e.bad(&timeout, "must be greater than 0 and less than 86400");
            }
        }
        "None" if config.is_set() => {
            e.forbidden(&config, "must not be set when session affinity is None");
        }
        _ => {}
    }
}

/// Whether addresses can be allocated for what a service asks for.
pub(super) fn has_sound_addresses(service: &Value) -> bool {
    let mut e = Errors::default();
    let node = Node::root(service);
    by_type(&mut e, &node, &node.get("spec"));
    addresses(&mut e, &node, &node.get("spec"));
    e.list.is_empty()
}

fn addresses(e: &mut Errors, service: &Node<'_>, spec: &Node<'_>) {
    let (one, list) = (spec.get("clusterIP"), spec.get("clusterIPs"));
    let all = list.texts();
    match (one.text(), all.first()) {
        ("", None) => {}
        ("", Some(_)) => e.bad(&list, "must be empty when `clusterIP` is not specified"),
        (_, None) => e.required(&list, ""),
        (own, Some(first)) => {
            if own != *first {
                e.bad(&list, "first value must match `clusterIP`");
            }
        }
    }
    families(e, spec);
    let mut right = true;
    for (i, address) in list.items().enumerate() {
        if i == 0 && address.text() == "None" {
            if all.len() > 1 {
                right = false;
                e.bad(&list, "'None' must be the first and only value");
            }
            continue;
        }
        right &= check_ip(e, &address);
    }
    if all.len() > 2 {
        e.bad(&list, "may only hold up to 2 values");
    }
    if !right {
        return;
    }
    let parsed: Vec<IpAddr> = all.iter().filter_map(|a| parse_ip(a)).collect();
    if all.len() > 1 && !is_dual(&parsed) {
        let why = "may specify no more than one IP for each IP family";
        e.bad(&list, why);
    }
    if is_headless(service) {
        return;
    }
    let families = spec.get("ipFamilies").texts();
    for (i, (address, family)) in parsed.iter().zip(&families).enumerate() {
        let own = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        if matches!(*family, "IPv4" | "IPv6") && *family != own {
            let why = format!("expected an {family} value as indicated by `ipFamilies[{i}]`");
            e.invalid(&list.path.index(i), all[i], why);
        }
    }
}

fn families(e: &mut Errors, spec: &Node<'_>) {
    let mut known = BTreeSet::new();
    for family in spec.get("ipFamilies").items() {
        e.one_of(&family, &["IPv4", "IPv6"]);
        if !known.insert(family.text()) {
            e.duplicate(&family, family.text());
        }
    }
    e.one_of(
        &spec.get("ipFamilyPolicy"),
        &["PreferDualStack", "RequireDualStack", "SingleStack"],
    );
}

fn repeated_ports(e: &mut Errors, list: &Node<'_>) {
    let mut known = BTreeSet::new();
    for port in list.items() {
        let node_port = port.get("nodePort");
        let key = (port.get("protocol").text(), node_port.int());
        if node_port.int() != 0 && !known.insert(key) {
            e.duplicate(&node_port, node_port.int());
        }
    }
    let mut known = BTreeSet::new();
    for port in list.items() {
        let (protocol, number) = (port.get("protocol").text(), port.get("port").int());
        if !known.insert((protocol, number)) {
            let key = json!({"protocol": protocol, "port": number});
            e.duplicate(&port, internal::shown("ServicePort", &key));
        }
    }
}

fn source_ranges(e: &mut Errors, service: &Node<'_>, spec: &Node<'_>) {
    const KEY: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
    let list = spec.get("loadBalancerSourceRanges");
    let balancer = kind(service) == "LoadBalancer";
    if !list.is_empty() {
        // Upstream writes the name of the field as Go does.
        let at = spec.path.child("LoadBalancerSourceRanges");
        if !balancer {
            e.forbidden(&at, ONLY_BALANCERS);
        }
        for (i, range) in list.texts().into_iter().enumerate() {
            check_cidr(e, &at.index(i), range.trim());
        }
        return;
    }
    let annotation = Node::new(
        &service.value["metadata"]["annotations"][KEY],
        service.path.child("metadata.annotations").key(KEY),
    );
    if !annotation.is_set() {
        return;
    }
    if !balancer {
        e.forbidden(&annotation, ONLY_BALANCERS);
    }
    let text = annotation.text().trim();
    if !text.is_empty() {
        for range in text.split(',') {
            check_cidr(e, &annotation, range.trim());
        }
    }
}

fn class(e: &mut Errors, service: &Node<'_>) {
    let class = service.get("spec.loadBalancerClass");
    if !class.is_set() {
        return;
    }
    if kind(service) == "LoadBalancer" {
        e.check(&class, names::qualified_name_faults);
    } else {
        e.forbidden(&class, ONLY_BALANCERS);
    }
}

fn traffic(e: &mut Errors, service: &Node<'_>, spec: &Node<'_>) {
    const POLICIES: [&str; 2] = ["Cluster", "Local"];
    let external = matches!(kind(service), "LoadBalancer" | "NodePort")
        || (kind(service) == "ClusterIP" && !spec.get("externalIPs").is_empty());
    let policy = spec.get("externalTrafficPolicy");
    if external {
        e.one_of_required(&policy, &POLICIES);
    } else if !policy.is_empty() {
        let why = "may only be set for externally-accessible services";
        e.bad(&policy, why);
    }
    let health = spec.get("healthCheckNodePort");
    if !needs_health_check(service) {
        if health.int() != 0 {
            let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            e.bad(&health, why);
        }
    } else if health.int() == 0 {
        e.required(&health, "");
    } else {
        check_port_number(e, &health);
    }
    let internal = spec.get("internalTrafficPolicy");
    if !internal.is_set() && matches!(kind(service), "NodePort" | "LoadBalancer" | "ClusterIP") {
        e.required(&internal, "");
    }
    e.one_of(&internal, &POLICIES);
    e.one_of(
        &spec.get("trafficDistribution"),
        &["PreferClose", "PreferSameNode", "PreferSameZone"],
    );
}

fn either_external_name(new: &Node<'_>, old: &Node<'_>) -> bool {
    kind(new) == "ExternalName" || kind(old) == "ExternalName"
}

const ONCE: &str = "may not change once set";

fn addresses_update(e: &mut Errors, new: &Node<'_>, old: &Node<'_>) {
    if either_external_name(new, old) || (is_headless(new) && is_headless(old)) {
        return;
    }
    let list = new.get("spec.clusterIPs");
    let (after, before) = (list.texts(), old.get("spec.clusterIPs").texts());
    let first = list.path.index(0);
    if after.len() == before.len() {
        for (i, _) in before
            .iter()
            .zip(&after)
            .enumerate()
            .filter(|(_, (b, a))| b != a)
        {
            e.invalid(&list.path.index(i), &list, ONCE);
        }
        return;
    }
    if after.is_empty() {
        e.invalid(&first, &list, "primary clusterIP can not be unset");
    }
    if let (Some(a), Some(b)) = (after.first(), before.first())
        && a != b
    {
        e.invalid(&first, &list, ONCE);
    }
    let policy = new.get("spec.ipFamilyPolicy");
    if before.len() > after.len() && after.len() == 1 && policy.text() != "SingleStack" {
        let why = "must be set to 'SingleStack' when releasing the secondary clusterIP";
        e.bad(&policy, why);
    }
}

fn families_update(e: &mut Errors, new: &Node<'_>, old: &Node<'_>) {
    if either_external_name(new, old) || is_headless(new) || is_headless(old) {
        return;
    }
    let (list, addresses) = (new.get("spec.ipFamilies"), new.get("spec.clusterIPs"));
    let (after, before) = (list.texts(), old.get("spec.ipFamilies").texts());
    let first = list.path.index(0);
    if after.len() == before.len() {
        for _ in before.iter().zip(&after).filter(|(b, a)| b != a) {
            e.invalid(&first, &list, ONCE);
        }
        return;
    }
    if before.len() > after.len() && addresses.is_empty() {
        e.invalid(&first, &list, "primary ipFamily can not be unset");
    }
    if let (Some(a), Some(b)) = (after.first(), before.first())
        && a != b
    {
        e.invalid(&first, &addresses, ONCE);
    }
    let policy = new.get("spec.ipFamilyPolicy");
    if before.len() > after.len() && after.len() == 1 && policy.text() != "SingleStack" {
        let why = "must be set to 'SingleStack' when releasing the secondary ipFamily";
        e.bad(&policy, why);
    }
}

fn class_update(e: &mut Errors, new: &Node<'_>, old: &Node<'_>) {
    let class = new.get("spec.loadBalancerClass");
    let both = kind(new) == "LoadBalancer" && kind(old) == "LoadBalancer";
    if both && class.value != old.get("spec.loadBalancerClass").value {
        e.bad(&class, ONCE);
    }
}

fn balancer_status(e: &mut Errors, service: &Node<'_>) {
    let list = service.get("status.loadBalancer.ingress");
    if kind(service) != "LoadBalancer" && !list.is_empty() {
        e.forbidden(&list, "may only be used when `spec.type` is 'LoadBalancer'");
        return;
    }
    for ingress in list.items() {
        let (address, mode) = (ingress.get("ip"), ingress.get("ipMode"));
        if !address.is_empty() {
            check_ip(e, &address);
        }
        if !mode.is_set() {
            if !address.is_empty() {
                e.required(&mode, "must be specified when `ip` is set");
            }
        } else if address.is_empty() {
            e.forbidden(&mode, "may not be specified when `ip` is not set");
        } else {
            e.one_of(&mode, &["Proxy", "VIP"]);
        }
        hostname(e, &ingress.get("hostname"));
    }
}

/// A name, not an address.
pub(super) fn hostname(e: &mut Errors, node: &Node<'_>) {
    if node.is_empty() {
        return;
    }
    e.check(node, names::subdomain_faults);
    if parse_ip(node.text()).is_some() {
        e.bad(node, "must be a DNS name, not an IP address");
    }
}
