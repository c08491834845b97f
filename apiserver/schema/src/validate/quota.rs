//! Limits and quotas of namespaces.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use super::field::{Errors, Node, same};
use super::pod::resources as amounts;
use super::{Change, names};
use crate::quantity;

/// LimitRange
pub(super) fn limit_range(e: &mut Errors, change: &Change<'_>) {
    let mut known = BTreeSet::new();
    for limit in change.new.get("spec.limits").items() {
        let kind = limit.get("type");
        limit_type(e, &kind);
        if !known.insert(kind.text()) {
            e.duplicate(&kind, kind.text());
        }
        self::limit(e, &limit, kind.text());
    }
}

fn limit_type(e: &mut Errors, kind: &Node<'_>) {
    let text = kind.text();
    let faults = names::qualified_name_faults(text);
    let right = faults.is_empty();
    e.faults(kind, text, faults);
    let standard = ["Pod", "Container", "PersistentVolumeClaim"].contains(&text);
    if right && !text.contains('/') && !standard {
        e.bad(kind, "must be a standard limit type or fully qualified");
    }
}

fn limit(e: &mut Errors, limit: &Node<'_>, kind: &str) {
    let mut keys = BTreeSet::new();
    let mut take = |e: &mut Errors, field: &str| {
        for (key, value) in limit.get(field).entries() {
            if kind == "Pod" || kind == "Container" {
                amounts::container_name(e, &value, key);
            } else {
                amounts::name(e, &value, key);
            }
            keys.insert(key);
        }
    };
    take(e, "max");
    take(e, "min");
    for field in ["default", "defaultRequest"] {
        if kind != "Pod" {
            take(e, field);
        } else if !limit.get(field).is_empty() {
            let why = "may not be specified when `type` is 'Pod'";
            e.forbidden(&limit.get(field), why);
        }
    }
    let has = |field: &str| !limit.get(field).value["storage"].is_null();
    if kind == "PersistentVolumeClaim" && !has("min") && !has("max") {
        let why = "either minimum or maximum storage value is required, but neither was provided";
        e.required(&limit.path.child("limits"), why);
    }
    take(e, "maxLimitRequestRatio");
    for key in keys {
        Bounds::of(limit, key, kind).check(e);
    }
}

/// What a limit says on one resource.
struct Bounds<'a> {
    resource: &'a str,
    least: Node<'a>,
    most: Node<'a>,
    default: Node<'a>,
    request: Node<'a>,
    ratio: Node<'a>,
}

impl<'a> Bounds<'a> {
    fn of(limit: &Node<'a>, resource: &'a str, kind: &str) -> Self {
        let field = |name: &str| {
            let map = limit.get(name);
            Node::new(&map.value[resource], map.path.key(resource))
        };
        let defaults = |name: &str| {
            let node = field(name);
            if kind == "Pod" {
                Node::new(&serde_json::Value::Null, node.path)
            } else {
                node
            }
        };
        Bounds {
            resource,
            least: field("min"),
            most: field("max"),
            default: defaults("default"),
            request: defaults("defaultRequest"),
            ratio: field("maxLimitRequestRatio"),
        }
    }

    fn check(&self, e: &mut Errors) {
        let (least, most) = (&self.least, &self.most);
        let (default, request) = (&self.default, &self.request);
        let ordered = [
            (least, "min", most, "max", least),
            (least, "min", request, "default request", request),
            (request, "default request", most, "max", request),
            (
                request,
                "default request",
                default,
                "default limit",
                request,
            ),
            (least, "min", default, "default", default),
            (default, "default", most, "max", default),
        ];
        for (i, (low, low_name, high, high_name, at)) in ordered.into_iter().enumerate() {
            if compare(low, high) == Some(Ordering::Greater) {
                let why = format!(
                    "{low_name} value {} is greater than {high_name} value {}",
                    low.text(),
                    high.text()
                );
                // Of defaults the bound is shown that they break.
                let shown = match i {
                    4 => low,
                    5 => high,
                    _ => at,
                };
                e.invalid(at, shown, why);
            }
        }
        self.check_ratio(e);
        if !amounts::may_overcommit(self.resource)
            && compare(default, request).is_some_and(|o| o != Ordering::Equal)
        {
            let why = format!(
                "default value {} must equal to defaultRequest value {} in {}",
                default.text(),
                request.text(),
                self.resource
            );
            e.bad(request, why);
        }
    }

    fn check_ratio(&self, e: &mut Errors) {
        let ratio = &self.ratio;
        if !ratio.is_set() {
            return;
        }
        if quantity::compare(ratio.text(), "1").is_ok_and(Ordering::is_lt) {
            e.bad(ratio, format!("ratio {} is less than 1", ratio.text()));
        }
        // Exact as far as thousandths of what clusters have go.
        #[expect(clippy::cast_precision_loss, reason = "upstream's arithmetic")]
        let milli = |node: &Node<'_>| quantity::to_milli(node.text()).map(|n| n as f64);
        if let (Some(own), Some(least), Some(most)) =
            (milli(ratio), milli(&self.least), milli(&self.most))
        {
            let limit = most / least;
            if own / 1000.0 > limit {
                let why = format!(
                    "ratio {} is greater than max/min = {limit:.6}",
                    ratio.text()
                );
                e.bad(ratio, why);
            }
        }
    }
}

fn compare(a: &Node<'_>, b: &Node<'_>) -> Option<Ordering> {
    if !a.is_set() || !b.is_set() {
        return None;
    }
    quantity::compare(a.text(), b.text()).ok()
}

const SCOPES: [&str; 7] = [
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];
const CONFLICTS: [[&str; 2]; 2] = [
    ["BestEffort", "NotBestEffort"],
    ["Terminating", "NotTerminating"],
];

/// ResourceQuota
pub(super) fn resource_quota(e: &mut Errors, change: &Change<'_>) {
    if change.is_status() {
        for field in ["status.hard", "status.used"] {
            hard(e, &change.new.get(field));
        }
        return;
    }
    let spec = change.new.get("spec");
    hard(e, &spec.get("hard"));
    scopes(e, &spec);
    scope_selector(e, &spec);
    if let Some(old) = &change.old {
        let scopes = spec.get("scopes");
        let sorted = |node: &Node<'_>| {
            let mut list: Vec<String> = node.texts().into_iter().map(str::to_owned).collect();
            list.sort();
            list
        };
        if sorted(&scopes) != sorted(&old.get("spec.scopes"))
            && !same(scopes.value, old.get("spec.scopes").value)
        {
            e.bad(&scopes, super::field::IMMUTABLE);
        }
    }
}

fn hard(e: &mut Errors, hard: &Node<'_>) {
    for (name, amount) in hard.entries() {
        amounts::name(e, &amount, name);
        if !name.contains('/') && !is_quota_resource(name) {
            e.invalid(&amount, name, "must be a standard resource for quota");
        }
        amounts::amount(e, &amount, name);
    }
}

fn is_quota_resource(name: &str) -> bool {
    const PLAIN: [&str; 19] = [
        "cpu",
        "memory",
        "ephemeral-storage",
        "requests.cpu",
        "requests.memory",
        "requests.storage",
        "requests.ephemeral-storage",
        "limits.cpu",
        "limits.memory",
        "limits.ephemeral-storage",
        "pods",
        "resourcequotas",
        "services",
        "replicationcontrollers",
        "secrets",
        "persistentvolumeclaims",
        "configmaps",
        "services.nodeports",
        "services.loadbalancers",
    ];
    PLAIN.contains(&name)
        || name.starts_with("hugepages-")
        || name.starts_with("requests.hugepages-")
}

/// Whether a scope can be told of a resource.
fn applies(scope: &str, resource: &str) -> bool {
    let computed = [
        "pods",
        "cpu",
        "memory",
        "requests.cpu",
        "requests.memory",
        "limits.cpu",
        "limits.memory",
    ];
    match scope {
        "Terminating"
        | "NotTerminating"
        | "NotBestEffort"
        | "PriorityClass"
        | "CrossNamespacePodAffinity" => computed.contains(&resource),
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => {
            ["persistentvolumeclaims", "requests.storage"].contains(&resource)
        }
        _ => true,
    }
}

fn scopes(e: &mut Errors, spec: &Node<'_>) {
    let list = spec.get("scopes");
    let hard = spec.get("hard");
    for scope in list.texts() {
        if !SCOPES.contains(&scope) {
            e.bad(&list, "unsupported scope");
        }
        for (name, _) in hard.entries() {
            if is_quota_resource(name) && !applies(scope, name) {
                e.bad(&list, "unsupported scope applied to resource");
            }
        }
    }
    conflicts(e, &list, spec, &list.texts());
}

/// Scopes that exclude each other; of whichever list they are, upstream shows `scopes`.
fn conflicts(e: &mut Errors, list: &Node<'_>, spec: &Node<'_>, scopes: &[&str]) {
    for pair in CONFLICTS {
        if pair.iter().all(|s| scopes.contains(s)) {
            e.invalid(list, &spec.get("scopes"), "conflicting scopes");
        }
    }
}

fn scope_selector(e: &mut Errors, spec: &Node<'_>) {
    let selector = spec.get("scopeSelector");
    if !selector.is_set() {
        return;
    }
    let list = selector.get("matchExpressions");
    let mut scopes = Vec::new();
    for requirement in list.items() {
        let (scope, operator, values) = (
            requirement.get("scopeName").text(),
            requirement.get("operator").text(),
            requirement.get("values"),
        );
        // The faults are the list's, whichever requirement has them.
        let at = |field: &str| list.path.child(field);
        if !SCOPES.contains(&scope) {
            e.invalid(&at("scopeName"), scope, "unsupported scope");
        }
        for (name, _) in spec.get("hard").entries() {
            if is_quota_resource(name) && !applies(scope, name) {
                let shown = super::internal::shown("ScopeSelector", selector.value);
                e.invalid(&list, shown, "unsupported scope applied to resource");
            }
        }
        let only_exists = [
            "BestEffort",
            "NotBestEffort",
            "Terminating",
            "NotTerminating",
            "CrossNamespacePodAffinity",
        ];
        if only_exists.contains(&scope) && operator != "Exists" {
            let why = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
            e.invalid(&at("operator"), operator, why);
        }
        match operator {
            "In" | "NotIn" if values.is_empty() => {
                let why = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                e.required(&at("values"), why);
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let why = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                e.invalid(&at("values"), &values, why);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => e.invalid(&at("operator"), other, "not a valid selector operator"),
        }
        scopes.push(scope);
    }
    conflicts(e, &list, spec, &scopes);
}
