//! Ingresses and their classes, network policies, and what Services' addresses come from.

use super::address::{
    canonical_cidr_faults, check_cidr, check_domain_path, check_ip, check_port_number, contains,
    parse_cidr, parse_ip,
};
use super::field::{Errors, IMMUTABLE, Node, Path, Shown};
use super::{Change, Rule, internal, meta, names};

/// The rule of a kind of `networking.k8s.io`.
pub(super) fn rule(kind: &str) -> Option<Rule> {
    Some(match kind {
        "Ingress" => ingress,
        "IngressClass" => ingress_class,
        "NetworkPolicy" => network_policy,
        "IPAddress" => ip_address,
        "ServiceCIDR" => service_cidr,
        _ => return None,
    })
}

fn is_address(text: &str) -> bool {
    parse_ip(text).is_some()
}

fn ingress(e: &mut Errors, change: &Change<'_>) {
    if change.is_status() {
        return balancer(e, &change.new);
    }
    let (new, spec) = (&change.new, change.new.get("spec"));
    let (rules, default) = (spec.get("rules"), spec.get("defaultBackend"));
    if rules.is_empty() && !default.is_set() {
        let why = "either `defaultBackend` or `rules` must be specified";
        let shown = if rules.is_set() {
            rules.value.into()
        } else {
            Shown("null".into())
        };
        e.invalid(&spec, shown, why);
    }
    if default.is_set() {
        backend(e, &default);
    }
    for rule in rules.items() {
        ingress_rule(e, &rule);
    }
    for tls in spec.get("tls").items() {
        for host in tls.get("hosts").items() {
            self::host(e, &host);
        }
        e.check_optional(&tls.get("secretName"), names::subdomain_faults);
    }
    let class = spec.get("ingressClassName");
    if class.is_set() {
        e.check(&class, names::subdomain_faults);
    }
    let key = "kubernetes.io/ingress.class";
    if let Some(own) = new.get("metadata.annotations").value[key].as_str()
        && change.old.is_none()
        && class.is_set()
        && class.text() != own
    {
        let at = Path::new("annotations").child(key);
        e.invalid(
            &at,
            own,
            "must match `ingressClassName` when both are specified",
        );
    }
}

fn balancer(e: &mut Errors, ingress: &Node<'_>) {
    for point in ingress.get("status.loadBalancer.ingress").items() {
        let (ip, name) = (point.get("ip"), point.get("hostname"));
        if !ip.is_empty() {
            check_ip(e, &ip);
        }
        e.check_optional(&name, names::subdomain_faults);
        if is_address(name.text()) {
            e.bad(&name, "must be a DNS name, not an IP address");
        }
    }
}

fn host(e: &mut Errors, host: &Node<'_>) {
    if host.text().contains('*') {
        e.check(host, names::wildcard_faults);
    } else {
        e.check(host, names::subdomain_faults);
    }
}

fn ingress_rule(e: &mut Errors, rule: &Node<'_>) {
    let name = rule.get("host");
    if !name.is_empty() {
        if is_address(name.text()) {
            e.bad(&name, "must be a DNS name, not an IP address");
        }
        host(e, &name);
    }
    let http = rule.get("http");
    if !http.is_set() {
        return;
    }
    let paths = http.get("paths");
    e.need(&paths);
    for path in paths.items() {
        http_path(e, &path);
    }
}

fn http_path(e: &mut Errors, item: &Node<'_>) {
    let (kind, path) = (item.get("pathType"), item.get("path"));
    if !kind.is_set() {
        return e.required(&kind, "pathType must be specified");
    }
    let relative = !path.text().starts_with('/');
    match kind.text() {
        "Exact" | "Prefix" => {
            if relative {
                e.invalid(&path, path.text(), "must be an absolute path");
            }
            for part in ["//", "/./", "/../", "%2f", "%2F"] {
                if path.text().contains(part) {
                    e.bad(&path, format!("must not contain '{part}'"));
                }
            }
            for end in ["/..", "/."] {
                if path.text().ends_with(end) {
                    e.bad(&path, format!("cannot end with '{end}'"));
                }
            }
        }
        "ImplementationSpecific" => {
            if !path.is_empty() && relative {
                e.bad(&path, "must be an absolute path");
            }
        }
        other => {
            e.not_supported(&kind, other, &["Exact", "ImplementationSpecific", "Prefix"]);
        }
    }
    backend(e, &item.get("backend"));
}

fn backend(e: &mut Errors, backend: &Node<'_>) {
    let (service, resource) = (backend.get("service"), backend.get("resource"));
    match (service.is_set(), resource.is_set()) {
        (true, true) => e.invalid(backend, "", "cannot set both resource and service backends"),
        (false, false) => e.invalid(backend, "", "resource or service backend is required"),
        (false, true) => reference(e, &resource),
        (true, false) => {
            e.check_required(&service.get("name"), names::label_faults);
            let (name, number) = (service.get("port.name"), service.get("port.number"));
            match (!name.is_empty(), number.int() != 0) {
                (true, true) => e.invalid(backend, "", "cannot set both port name & port number"),
                (true, false) => e.check(&name, names::port_name_faults),
                (false, true) => check_port_number(e, &number),
                (false, false) => e.required(backend, "port name or number is required"),
            }
        }
    }
}

fn reference(e: &mut Errors, reference: &Node<'_>) {
    let group = reference.get("apiGroup");
    if group.is_set() {
        e.check(&group, names::subdomain_faults);
    }
    e.check_required(&reference.get("kind"), names::path_segment_faults);
    e.check_required(&reference.get("name"), names::path_segment_faults);
}

fn ingress_class(e: &mut Errors, change: &Change<'_>) {
    let spec = change.new.get("spec");
    change.immutable(e, "spec.controller");
    let controller = spec.get("controller");
    if controller.text().len() > 250 {
        e.too_long(&controller, 250);
    }
    check_domain_path(e, &controller);
    let parameters = spec.get("parameters");
    if !parameters.is_set() {
        return;
    }
    reference(e, &parameters);
    let (scope, namespace) = (parameters.get("scope"), parameters.get("namespace"));
    match scope.text() {
        _ if !scope.is_set() => e.required(&scope, ""),
        "Namespace" if !namespace.is_set() => {
            e.required(&namespace, "`parameters.scope` is set to 'Namespace'");
        }
        "Namespace" => e.check(&namespace, names::label_faults),
        "Cluster" if namespace.is_set() => {
            e.forbidden(&namespace, "`parameters.scope` is set to 'Cluster'");
        }
        "Cluster" => {}
        other => e.not_supported(&scope, other, &["Cluster", "Namespace"]),
    }
}

fn network_policy(e: &mut Errors, change: &Change<'_>) {
    let spec = change.new.get("spec");
    meta::selector(e, &spec.get("podSelector"));
    for (rules, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.get(rules).items() {
            for port in rule.get("ports").items() {
                policy_port(e, &port);
            }
            for peer in rule.get(peers).items() {
                self::peer(e, &peer);
            }
        }
    }
    let types = spec.get("policyTypes");
    if types.len() > 2 {
        return e.bad(&types, "may not specify more than two policyTypes");
    }
    for kind in types.items() {
        e.one_of(&kind, &["Ingress", "Egress"]);
    }
}

fn policy_port(e: &mut Errors, item: &Node<'_>) {
    e.one_of(&item.get("protocol"), &["TCP", "UDP", "SCTP"]);
    let (port, end) = (item.get("port"), item.get("endPort"));
    if let Some(number) = port.number() {
        check_port_number(e, &port);
        if end.is_set() {
            if end.int() < number {
                e.bad(&end, "must be greater than or equal to `port`");
            }
            check_port_number(e, &end);
        }
        return;
    }
    if end.is_set() {
        let what = if port.is_set() {
            "non-numeric"
        } else {
            "not specified"
        };
        e.bad(&end, format!("may not be specified when `port` is {what}"));
    }
    if port.is_set() {
        e.check(&port, names::port_name_faults);
    }
}

fn peer(e: &mut Errors, peer: &Node<'_>) {
    let block = peer.get("ipBlock");
    let selectors = [peer.get("podSelector"), peer.get("namespaceSelector")];
    let mut selects = false;
    for selector in selectors.iter().filter(|s| s.is_set()) {
        selects = true;
        meta::selector(e, selector);
    }
    if block.is_set() {
        ip_block(e, &block);
    }
    if !selects && !block.is_set() {
        e.required(peer, "must specify a peer");
    } else if selects && block.is_set() {
        e.forbidden(peer, "may not specify both ipBlock and another peer");
    }
}

fn ip_block(e: &mut Errors, block: &Node<'_>) {
    let cidr = block.get("cidr");
    if cidr.is_empty() {
        return e.required(&cidr, "");
    }
    check_cidr(e, &cidr, cidr.text());
    let Some(range) = parse_cidr(cidr.text()) else {
        return;
    };
    for except in block.get("except").items() {
        check_cidr(e, &except, except.text());
        let Some(inner) = parse_cidr(except.text()) else {
            continue;
        };
        if !contains(range, inner.0) || range.1 >= inner.1 {
            e.bad(&except, "must be a strict subset of `cidr`");
        }
    }
}

fn ip_address(e: &mut Errors, change: &Change<'_>) {
    let parent = change.new.get("spec.parentRef");
    if parent.is_set() {
        let group = parent.get("group");
        e.check_optional(&group, names::subdomain_faults);
        e.check_required(&parent.get("resource"), names::path_segment_faults);
        e.check_required(&parent.get("name"), names::path_segment_faults);
        e.check_optional(&parent.get("namespace"), names::path_segment_faults);
    } else {
        e.required(&parent, "");
    }
    if let Some(old) = &change.old {
        let (new, old) = (parent, old.get("spec.parentRef"));
        if new.value != old.value {
            e.invalid(
                &new,
                internal::shown("ParentReference", new.value),
                IMMUTABLE,
            );
        }
    }
}

fn service_cidr(e: &mut Errors, change: &Change<'_>) {
    if change.is_status() {
        return;
    }
    let ranges = change.new.get("spec.cidrs");
    let Some(old) = &change.old else {
        return service_ranges(e, &ranges);
    };
    let before = old.get("spec.cidrs").texts();
    let grows = before.len() == 1 && ranges.len() == 2;
    if before.len() != ranges.len() && !grows {
        return e.bad(&ranges, IMMUTABLE);
    }
    for (range, before) in ranges.items().zip(before) {
        if range.text() != before {
            e.bad(&range, IMMUTABLE);
        }
    }
    if grows {
        service_ranges(e, &ranges);
    }
}

fn service_ranges(e: &mut Errors, ranges: &Node<'_>) {
    if ranges.is_empty() {
        return e.required(ranges, "at least one CIDR required");
    }
    if ranges.len() > 2 {
        let shown = Shown(format!("{{\"CIDRs\":{}}}", ranges.value));
        return e.invalid(ranges, shown, "may only hold up to 2 values");
    }
    for range in ranges.items() {
        let faults = canonical_cidr_faults(range.text());
        e.faults(&range, range.text(), faults);
    }
    let parsed: Vec<_> = ranges.texts().into_iter().filter_map(parse_cidr).collect();
    if let [one, other] = parsed[..]
        && one.0.is_ipv4() == other.0.is_ipv4()
    {
        e.bad(
            ranges,
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
        );
    }
}
