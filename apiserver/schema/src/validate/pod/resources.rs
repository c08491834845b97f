//! Amounts of resources: what they may be called and how much there may be.

use std::collections::{BTreeMap, BTreeSet};

use super::super::field::{Errors, NEGATIVE, Node, Shown};
use super::super::names;
use super::Scope;
use crate::quantity;

const COUNTED: [&str; 9] = [
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];
const MEASURED: [&str; 11] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "storage",
    "requests.storage",
];

/// `hugepages-2Mi`
pub(in crate::validate) fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// A name of Kubernetes' own: without a domain or with kubernetes.io's.
pub(in crate::validate) fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

fn is_standard(name: &str) -> bool {
    MEASURED.contains(&name)
        || COUNTED.contains(&name)
        || is_huge_page(name)
        || name.starts_with("requests.hugepages-")
}

/// `example.com/name`, of which quotas can tell.
pub(in crate::validate) fn is_extended(name: &str) -> bool {
    let prefixed = format!("requests.{name}");
    !is_native(name)
        && !name.starts_with("requests.")
        && names::qualified_name_faults(&prefixed).is_empty()
}

/// Whether less can be asked for than is the limit.
pub(in crate::validate) fn may_overcommit(name: &str) -> bool {
    is_native(name) && !is_huge_page(name)
}

/// A resource's name.
pub(in crate::validate) fn name(e: &mut Errors, at: &Node<'_>, name: &str) -> bool {
    let before = e.list.len();
    e.faults(at, name, names::qualified_name_faults(name));
    if e.list.len() == before && !name.contains('/') && !is_standard(name) {
        e.invalid(
            at,
            name,
            "must be a standard resource type or fully qualified",
        );
    }
    e.list.len() == before
}

/// The name of a resource that containers have.
pub(in crate::validate) fn container_name(e: &mut Errors, at: &Node<'_>, own: &str) {
    name(e, at, own);
    if !own.contains('/') {
        let known = matches!(own, "cpu" | "memory" | "ephemeral-storage") || is_huge_page(own);
        if !known {
            e.invalid(at, own, "must be a standard resource for containers");
        }
    } else if !is_native(own) && !is_extended(own) {
        e.invalid(at, own, "doesn't follow extended resource name standard");
    }
}

fn pod_name(e: &mut Errors, at: &Node<'_>, own: &str) {
    let supported = ["cpu", "memory"];
    if name(e, at, own) && !supported.contains(&own) && !is_huge_page(own) {
        e.not_supported(at, own, &supported);
    }
}

/// An amount: not negative, and whole where parts make no sense.
pub(in crate::validate) fn amount(e: &mut Errors, node: &Node<'_>, name: &str) {
    if is_negative(node.text()) {
        e.bad(node, NEGATIVE);
    }
    if (COUNTED.contains(&name) || is_extended(name)) && quantity::is_fractional(node.text()) {
        e.bad(node, "must be an integer");
    }
}

fn is_negative(text: &str) -> bool {
    quantity::compare(text, "0").is_ok_and(|o| o.is_lt())
}

fn huge_page(e: &mut Errors, node: &Node<'_>, name: &str) {
    let size = name
        .strip_prefix("hugepages-")
        .and_then(quantity::to_integer);
    let value = quantity::to_integer(node.text());
    let divisible = match (size, value) {
        (Some(size), Some(value)) if size > 0 => value % size == 0,
        _ => false,
    };
    if !divisible {
        let why = format!("{} is not positive integer multiple of {name}", node.text());
        e.bad(node, why);
    }
}

/// A container's `resources`.
pub(super) fn requirements(e: &mut Errors, node: &Node<'_>, scope: &Scope<'_>) {
    check(e, node, container_name);
    claims(e, &node.get("claims"), &scope.claims);
}

/// What a pod takes beside its containers.
pub(in crate::validate) fn amounts(e: &mut Errors, limits: &Node<'_>) {
    // Upstream looks at them as the limits of a container.
    let at = Node::new(limits.value, limits.path.child("limits"));
    for (own, value) in at.entries() {
        container_name(e, &value, own);
        amount(e, &value, own);
        if is_huge_page(own) {
            huge_page(e, &value, own);
        }
    }
    let huge = at.entries().any(|(n, _)| is_huge_page(n));
    let plain = at.entries().any(|(n, _)| matches!(n, "cpu" | "memory"));
    if huge && !plain {
        e.forbidden(limits, "HugePages require cpu or memory");
    }
}

fn check(e: &mut Errors, node: &Node<'_>, name_rule: fn(&mut Errors, &Node<'_>, &str)) {
    let (limits, requests) = (node.get("limits"), node.get("requests"));
    for (own, value) in limits.entries() {
        name_rule(e, &value, own);
        amount(e, &value, own);
        if is_huge_page(own) {
            huge_page(e, &value, own);
        }
    }
    for (own, value) in requests.entries() {
        name_rule(e, &value, own);
        amount(e, &value, own);
        within(e, own, &value, &limits, &requests);
        if is_huge_page(own) {
            huge_page(e, &value, own);
        }
    }
    let all = || limits.entries().chain(requests.entries()).map(|(n, _)| n);
    if all().any(is_huge_page) && !all().any(|n| matches!(n, "cpu" | "memory")) {
        e.forbidden(node, "HugePages require cpu or memory");
    }
}

fn within(e: &mut Errors, own: &str, value: &Node<'_>, limits: &Node<'_>, requests: &Node<'_>) {
    let Some(limit) = limits.value[own].as_str() else {
        if !may_overcommit(own) {
            e.required(limits, "Limit must be set for non overcommitable resources");
        }
        return;
    };
    let Ok(order) = quantity::compare(value.text(), limit) else {
        return;
    };
    if order.is_ne() && !may_overcommit(own) {
        let why = format!("must be equal to {own} limit of {limit}");
        e.invalid(requests, value.text(), why);
    } else if order.is_gt() {
        let why = format!("must be less than or equal to {own} limit of {limit}");
        e.invalid(requests, value.text(), why);
    }
}

fn claims(e: &mut Errors, list: &Node<'_>, known: &[&str]) {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for claim in list.items() {
        let name = claim.get("name").text();
        if name.is_empty() {
            e.required(&claim, "");
            continue;
        }
        if seen.contains(name) {
            e.duplicate(&claim, name);
        } else {
            let request = claim.get("request");
            let mut key = name.to_owned();
            if !request.is_empty() {
                e.check(&request, names::label_faults);
                key = format!("{name}/{}", request.text());
            }
            if seen.contains(&key) {
                e.duplicate(&claim, key.as_str());
            } else if request.is_empty() {
                let part = format!("{name}/");
                for _ in seen.iter().filter(|k| k.starts_with(&part)) {
                    e.duplicate(&claim, name);
                }
            }
            seen.insert(key);
        }
        if !known.contains(&name) {
            let mut why = "must be one of the names in pod.spec.resourceClaims".to_owned();
            if known.is_empty() {
                why.push_str(" which is empty");
            } else {
                let mut sorted = known.to_vec();
                sorted.sort_unstable();
                why.push_str(": ");
                why.push_str(&sorted.join(", "));
            }
            e.not_found(&claim, name, why);
        }
    }
}

/// The resources of a pod as a whole.
pub(super) fn of_pod(e: &mut Errors, scope: &Scope<'_>) {
    let own = scope.spec.get("resources");
    if !own.is_set() {
        return;
    }
    let listed = own.get("claims");
    if listed.is_set() {
        e.forbidden(&listed, "claims cannot be set for Resources at pod-level");
    }
    check(e, &own, pod_name);
    claims(e, &listed, &scope.claims);
    consistent(e, scope, &own);
}

fn consistent(e: &mut Errors, scope: &Scope<'_>, own: &Node<'_>) {
    let requests = own.get("requests");
    for (name, total) in total_requests(&scope.spec) {
        if !matches!(name.as_str(), "cpu" | "memory") && !is_huge_page(&name) {
            continue;
        }
        let amount = requests.value[name.as_str()].as_str().unwrap_or("0");
        if quantity::compare(&total, amount).is_ok_and(|o| o.is_gt()) {
            let why =
                format!("must be greater than or equal to aggregate container requests of {total}");
            e.invalid(&requests.path.key(&name), amount, why);
        }
    }
    for (i, container) in scope.spec.get("containers").items().enumerate() {
        for (name, limit) in container.get("resources.limits").entries() {
            let Some(most) = own.value["limits"][name].as_str() else {
                continue;
            };
            if quantity::compare(limit.text(), most).is_ok_and(|o| o.is_gt()) {
                // Upstream names the place in this order.
                let at = own
                    .path
                    .child("containers")
                    .index(i)
                    .key(name)
                    .child("limits");
                let why = format!("must be less than or equal to pod limits of {most}");
                e.invalid(&at, Shown::from(limit.text()), why);
            }
        }
    }
}

/// What the containers of a pod ask for together: those that run at the same time added up, and
/// no less than what each that runs alone asks for.
fn total_requests(spec: &Node<'_>) -> BTreeMap<String, String> {
    let mut running: BTreeMap<String, String> = BTreeMap::new();
    let mut alone: BTreeMap<String, String> = BTreeMap::new();
    let plus = |sum: &BTreeMap<String, String>, name: &str, amount: &str| {
        let before = sum.get(name).map_or("0", String::as_str);
        quantity::add(before, amount).unwrap_or_else(|_| amount.to_owned())
    };
    for container in spec.get("initContainers").items() {
        let sidecar = container.get("restartPolicy").text() == "Always";
        for (name, amount) in container.get("resources.requests").entries() {
            let sum = plus(&running, name, amount.text());
            if sidecar {
                running.insert(name.to_owned(), sum);
            } else {
                largest(&mut alone, name, &sum);
            }
        }
    }
    for container in spec.get("containers").items() {
        for (name, amount) in container.get("resources.requests").entries() {
            let sum = plus(&running, name, amount.text());
            running.insert(name.to_owned(), sum);
        }
    }
    for (name, amount) in alone {
        largest(&mut running, &name, &amount);
    }
    running
}

fn largest(most: &mut BTreeMap<String, String>, name: &str, amount: &str) {
    let before = most.get(name).map_or("0", String::as_str);
    if quantity::compare(amount, before).is_ok_and(|o| o.is_gt()) {
        most.insert(name.to_owned(), amount.to_owned());
    }
}
