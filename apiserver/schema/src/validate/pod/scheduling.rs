//! Where pods may run: affinity, tolerations, spreading, gates, claims.

use std::collections::BTreeSet;

use super::super::field::{Errors, Node, Path};
use super::super::{internal, meta, names};

/// `resourceClaims`
pub(super) fn resource_claims(e: &mut Errors, list: &Node<'_>) {
    let mut known = BTreeSet::new();
    for claim in list.items() {
        let name = claim.get("name");
        if name.is_empty() {
            e.required(&name, "");
        } else if known.insert(name.text()) {
            e.check(&name, names::label_faults);
        } else {
            e.duplicate(&name, name.text());
        }
        let (own, template) = (
            claim.get("resourceClaimName"),
            claim.get("resourceClaimTemplateName"),
        );
        let why = match (own.is_set(), template.is_set()) {
            (true, true) => Some(
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            ),
            (false, false) => {
                Some("must specify one of: `resourceClaimName`, `resourceClaimTemplateName`")
            }
            _ => None,
        };
        if let Some(why) = why {
            let shown = internal::shown("PodResourceClaim", claim.value);
            e.invalid(&claim, shown, why);
        }
        for reference in [own, template] {
            if reference.is_set() {
                e.check(&reference, names::subdomain_faults);
            }
        }
    }
}

/// `schedulingGates`
pub(super) fn gates(e: &mut Errors, list: &Node<'_>) {
    let mut known = BTreeSet::new();
    for gate in list.items() {
        let name = gate.get("name").text();
        e.faults(&gate, name, names::qualified_name_faults(name));
        if !known.insert(name) {
            e.duplicate(&gate, name);
        }
    }
}

/// `affinity`
pub(super) fn affinity(e: &mut Errors, node: &Node<'_>) {
    let of_nodes = node.get("nodeAffinity");
    let required = of_nodes.get("requiredDuringSchedulingIgnoredDuringExecution");
    if required.is_set() {
        node_selector(e, &required);
    }
    let preferred = of_nodes.get("preferredDuringSchedulingIgnoredDuringExecution");
    for term in preferred.items() {
        weight(e, &term);
        node_term(e, &term.get("preference"), Values::Any);
    }
    for name in ["podAffinity", "podAntiAffinity"] {
        let of_pods = node.get(name);
        let required = of_pods.get("requiredDuringSchedulingIgnoredDuringExecution");
        for term in required.items() {
            pod_term(e, &term);
        }
        let preferred = of_pods.get("preferredDuringSchedulingIgnoredDuringExecution");
        for term in preferred.items() {
            weight(e, &term);
            pod_term(e, &term.get("podAffinityTerm"));
        }
    }
}

fn weight(e: &mut Errors, term: &Node<'_>) {
    let weight = term.get("weight");
    if !(1..=100).contains(&weight.int()) {
        e.invalid(&weight, weight.int(), "must be in the range 1-100");
    }
}

/// Whether values have to be those of labels.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Values {
    Labels,
    Any,
}

/// A selector of nodes: at least one term.
pub(in crate::validate) fn node_selector(e: &mut Errors, node: &Node<'_>) {
    let terms = node.get("nodeSelectorTerms");
    if terms.is_empty() {
        e.required(&terms, "must have at least one node selector term");
    }
    for term in terms.items() {
        node_term(e, &term, Values::Labels);
    }
}

fn node_term(e: &mut Errors, term: &Node<'_>, rule: Values) {
    for requirement in term.get("matchExpressions").items() {
        node_requirement(e, &requirement, rule);
    }
    for requirement in term.get("matchFields").items() {
        field_requirement(e, &requirement);
    }
}

const NO_OPERATOR: &str = "not a valid selector operator";

fn node_requirement(e: &mut Errors, requirement: &Node<'_>, rule: Values) {
    let (operator, values) = (requirement.get("operator"), requirement.get("values"));
    match operator.text() {
        "In" | "NotIn" if values.is_empty() => {
            e.required(
                &values,
                "must be specified when `operator` is 'In' or 'NotIn'",
            );
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            e.forbidden(&values, why);
        }
        "Gt" | "Lt" if values.len() != 1 => {
            let why = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            e.required(&values, why);
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => e.invalid(&operator, other, NO_OPERATOR),
    }
    e.check(&requirement.get("key"), names::qualified_name_faults);
    if rule == Values::Labels {
        for value in values.items() {
            e.check(&value, names::label_value_faults);
        }
    }
}

fn field_requirement(e: &mut Errors, requirement: &Node<'_>) {
    let (operator, values) = (requirement.get("operator"), requirement.get("values"));
    match operator.text() {
        "In" | "NotIn" if values.len() != 1 => {
            let why =
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            e.required(&values, why);
        }
        "In" | "NotIn" => {}
        other => e.invalid(&operator, other, NO_OPERATOR),
    }
    let key = requirement.get("key");
    if key.text() == "metadata.name" {
        for value in values.items() {
            e.check(&value, names::subdomain_faults);
        }
    } else {
        e.invalid(&key, key.text(), "not a valid field selector key");
    }
}

fn pod_term(e: &mut Errors, term: &Node<'_>) {
    let selector = term.get("labelSelector");
    meta::selector(e, &selector);
    meta::selector(e, &term.get("namespaceSelector"));
    for name in term.get("namespaces").texts() {
        // Upstream names the field in the singular.
        e.faults(
            &term.path.child("namespace"),
            name,
            names::label_faults(name),
        );
    }
    let (keys, mismatched) = (term.get("matchLabelKeys"), term.get("mismatchLabelKeys"));
    for list in [&keys, &mismatched] {
        if !list.is_empty() && !selector.is_set() {
            e.forbidden(list, "must not be specified when labelSelector is not set");
            continue;
        }
        for key in list.items() {
            e.check(&key, names::qualified_name_faults);
        }
    }
    repeated_keys(e, term, &selector, &keys);
    let others = mismatched.texts();
    for key in keys.items().filter(|k| others.contains(&k.text())) {
        e.bad(&key, "exists in both matchLabelKeys and mismatchLabelKeys");
    }
    let topology = term.get("topologyKey");
    if topology.is_empty() {
        e.required(&topology, "can not be empty");
    }
    e.check(&topology, names::qualified_name_faults);
}

/// The server adds an expression for each key; a second one is the client's.
fn repeated_keys(e: &mut Errors, term: &Node<'_>, selector: &Node<'_>, keys: &Node<'_>) {
    let listed = keys.texts();
    let mut known: BTreeSet<&str> = selector
        .get("matchLabels")
        .entries()
        .map(|(k, _)| k)
        .collect();
    for expression in selector.get("matchExpressions").items() {
        let key = expression.get("key").text();
        let index = listed.iter().rposition(|k| *k == key);
        if let Some(i) = index.filter(|_| known.contains(key)) {
            let why = "exists in both matchLabelKeys and labelSelector";
            e.invalid(&term.path.index(i), key, why);
        }
        known.insert(key);
    }
}

/// `topologySpreadConstraints`
pub(super) fn spread(e: &mut Errors, list: &Node<'_>) {
    let all: Vec<Node<'_>> = list.items().collect();
    for (i, constraint) in all.iter().enumerate() {
        let skew = constraint.get("maxSkew");
        if skew.int() <= 0 {
            e.invalid(&skew, skew.int(), "must be greater than zero");
        }
        let topology = constraint.get("topologyKey");
        if topology.is_empty() {
            e.required(&topology, "can not be empty");
        }
        let action = constraint.get("whenUnsatisfiable");
        let actions = ["DoNotSchedule", "ScheduleAnyway"];
        if !actions.contains(&action.text()) {
            e.not_supported(&action, action.text(), &actions);
        }
        let kind = |c: &Node<'_>| {
            let (key, action) = (c.get("topologyKey"), c.get("whenUnsatisfiable"));
            format!("{{{}, {}}}", key.text(), action.text())
        };
        if all[i + 1..].iter().any(|c| kind(c) == kind(constraint)) {
            let at = constraint.path.child("{topologyKey, whenUnsatisfiable}");
            e.duplicate(&at, kind(constraint).as_str());
        }
        domains(e, constraint, action.text());
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            e.one_of(&constraint.get(policy), &["Honor", "Ignore"]);
        }
        spread_keys(e, constraint);
        meta::selector(e, &constraint.get("labelSelector"));
    }
}

fn domains(e: &mut Errors, constraint: &Node<'_>, action: &str) {
    let domains = constraint.get("minDomains");
    if !domains.is_set() {
        return;
    }
    if domains.int() <= 0 {
        e.bad(&domains, "must be greater than zero");
    }
    if action != "DoNotSchedule" {
        let why =
            format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
        e.bad(&domains, why);
    }
}

fn spread_keys(e: &mut Errors, constraint: &Node<'_>) {
    let (keys, selector) = (
        constraint.get("matchLabelKeys"),
        constraint.get("labelSelector"),
    );
    if keys.is_empty() {
        return;
    }
    if !selector.is_set() {
        e.forbidden(&keys, "must not be specified when labelSelector is not set");
    }
    for key in keys.items() {
        e.check(&key, names::qualified_name_faults);
    }
    repeated_keys_of_spread(e, &keys, &selector);
}

fn repeated_keys_of_spread(e: &mut Errors, keys: &Node<'_>, selector: &Node<'_>) {
    let labels: BTreeSet<&str> = selector
        .get("matchLabels")
        .entries()
        .map(|(k, _)| k)
        .collect();
    let mut known = labels;
    let listed = keys.texts();
    for expression in selector.get("matchExpressions").items() {
        let key = expression.get("key").text();
        let index = listed.iter().rposition(|k| *k == key);
        if let Some(i) = index.filter(|_| known.contains(key)) {
            let why = "exists in both matchLabelKeys and labelSelector";
            e.invalid(&keys.path.index(i), key, why);
        }
        known.insert(key);
    }
}

/// Tolerations of pods and runtime classes.
pub(in crate::validate) fn tolerations(e: &mut Errors, list: &Node<'_>) {
    for toleration in list.items() {
        let key = toleration.get("key");
        e.check_optional(&key, names::qualified_name_faults);
        let (operator, value) = (toleration.get("operator"), toleration.get("value"));
        let effect = toleration.get("effect");
        if key.is_empty() && operator.text() != "Exists" {
            let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            e.invalid(&operator, operator.text(), why);
        }
        if toleration.get("tolerationSeconds").is_set() && effect.text() != "NoExecute" {
            let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            e.invalid(&effect, effect.text(), why);
        }
        match operator.text() {
            "" | "Equal" => {
                let faults = names::label_value_faults(value.text());
                if !faults.is_empty() {
                    e.invalid(&operator, value.text(), faults.join(";"));
                }
            }
            "Exists" => {
                if !value.is_empty() {
                    let why = "value must be empty when `operator` is 'Exists'";
                    e.invalid(&operator, value.text(), why);
                }
            }
            // Known operators that are not switched on are listed as they will be.
            other @ ("Lt" | "Gt") => {
                e.not_supported(&operator, other, &["Equal", "Exists", "Lt", "Gt"]);
            }
            other => e.not_supported(&operator, other, &["Equal", "Exists"]),
        }
        if !effect.is_empty() {
            e.one_of(&effect, &EFFECTS);
        }
    }
}

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// Taints of nodes.
pub(in crate::validate) fn taints(e: &mut Errors, list: &Node<'_>, at: &Path) {
    let mut known = BTreeSet::new();
    let list = Node::new(list.value, at.clone());
    for taint in list.items() {
        e.check(&taint.get("key"), names::qualified_name_faults);
        let value = taint.get("value");
        let faults = names::label_value_faults(value.text());
        if !faults.is_empty() {
            e.invalid(&value, value.text(), faults.join(";"));
        }
        let effect = taint.get("effect");
        e.one_of_required(&effect, &EFFECTS);
        if !known.insert((effect.text(), taint.get("key").text())) {
            let shown = internal::shown("Taint", taint.value);
            e.duplicate_of(
                &taint,
                shown,
                "taints must be unique by key and effect pair",
            );
        }
    }
}
