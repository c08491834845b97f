//! Labels, annotations, selectors and conditions: what many kinds have.

use std::collections::BTreeMap;

use serde_json::Value;

use super::field::{Errors, Node};
use super::internal;
use super::names;

const MAX_ANNOTATIONS: usize = 256 * 1024;

/// A map of labels; the faults are the map's, not those of an entry.
pub(super) fn labels(e: &mut Errors, node: &Node<'_>) {
    for (key, value) in node.entries() {
        e.faults(node, key, names::qualified_name_faults(key));
        e.faults(node, value.text(), names::label_value_faults(value.text()));
    }
}

/// A map of annotations.
pub(super) fn annotations(e: &mut Errors, node: &Node<'_>) {
    let mut size = 0;
    for (key, value) in node.entries() {
        e.faults(node, key, names::qualified_name_faults(&key.to_lowercase()));
        size += key.len() + value.text().len();
    }
    if size > MAX_ANNOTATIONS {
        e.too_long(node, MAX_ANNOTATIONS);
    }
}

/// Whether an update has to keep the rules for values in selectors: it has not where the old
/// selector broke them.
pub(super) fn selector(e: &mut Errors, node: &Node<'_>) {
    labels(e, &node.get("matchLabels"));
    for requirement in node.get("matchExpressions").items() {
        let values = requirement.get("values");
        operator(e, &requirement.get("operator"), &values);
        e.check(&requirement.get("key"), names::qualified_name_faults);
        for value in values.items() {
            e.check(&value, names::label_value_faults);
        }
    }
}

fn operator(e: &mut Errors, operator: &Node<'_>, values: &Node<'_>) {
    match operator.text() {
        "In" | "NotIn" if values.is_empty() => {
            e.required(
                values,
                "must be specified when `operator` is 'In' or 'NotIn'",
            );
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            e.forbidden(values, why);
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        text => e.invalid(operator, text, "not a valid selector operator"),
    }
}

/// Whether a selector selects nothing in particular: neither labels nor expressions.
pub(super) fn is_empty_selector(node: &Node<'_>) -> bool {
    node.get("matchLabels").is_empty() && node.get("matchExpressions").is_empty()
}

/// Whether a selector can be evaluated.
pub(super) fn is_usable(node: &Node<'_>) -> bool {
    let mut e = Errors::default();
    selector(&mut e, node);
    e.list.is_empty()
}

/// Whether a selector selects these labels. An absent selector selects nothing, an empty one
/// everything.
pub(super) fn selects(selector: &Node<'_>, labels: &Value) -> bool {
    if !selector.is_set() {
        return false;
    }
    let equal = |(key, value): (&str, Node<'_>)| labels[key].as_str() == Some(value.text());
    selector.get("matchLabels").entries().all(equal)
        && selector.get("matchExpressions").items().all(|r| {
            let own = labels[r.get("key").text()].as_str();
            let listed = own.is_some_and(|own| r.get("values").texts().contains(&own));
            match r.get("operator").text() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => own.is_some(),
                _ => own.is_none(),
            }
        })
}

/// The labels of a template have to be among those that the selector selects.
pub(super) fn template_matches(e: &mut Errors, selector: &Node<'_>, template: &Node<'_>) {
    let own = template.get("metadata.labels");
    if !selects(selector, own.value) {
        e.bad(&own, "`selector` does not match template `labels`");
    }
}

/// The bad value of a selector as messages show it.
pub(super) fn shown_selector(node: &Node<'_>) -> super::field::Shown {
    internal::shown("LabelSelector", node.value)
}

/// The metadata of a template of claims: labels and annotations, nothing else.
pub(super) fn template_metadata(e: &mut Errors, node: &Node<'_>) {
    annotations(e, &node.get("annotations"));
    labels(e, &node.get("labels"));
    for field in [
        "name",
        "generateName",
        "namespace",
        "selfLink",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "ownerReferences",
        "finalizers",
        "managedFields",
    ] {
        let inner = node.get(field);
        if !inner.is_empty() && inner.value != &Value::from(0) {
            // Upstream writes the name of the field as Go does, but for its first letter.
            let shown = if field == "uid" { "uID" } else { field };
            e.forbidden(&node.path.child(shown), "cannot be set");
        }
    }
}

/// Conditions of the common form.
pub(super) fn conditions(e: &mut Errors, node: &Node<'_>) {
    let mut first: BTreeMap<&str, usize> = BTreeMap::new();
    for (i, condition) in node.items().enumerate() {
        let kind = condition.get("type");
        if *first.entry(kind.text()).or_insert(i) != i {
            e.duplicate(&kind, kind.text());
        }
        e.check(&kind, names::qualified_name_faults);
        let status = condition.get("status");
        if !["True", "False", "Unknown"].contains(&status.text()) {
            e.not_supported(&status, status.text(), &["False", "True", "Unknown"]);
        }
        let generation = condition.get("observedGeneration");
        if generation.int() < 0 {
            e.bad(&generation, "must be greater than or equal to zero");
        }
        let time = condition.get("lastTransitionTime");
        if time.is_empty() {
            e.required(&time, "must be set");
        }
        let reason = condition.get("reason");
        if reason.is_empty() {
            e.required(&reason, "must be set");
        } else {
            condition_reason(e, &reason);
        }
        let message = condition.get("message");
        if message.text().len() > 32 * 1024 {
            e.too_long(&message, 32 * 1024);
        }
    }
}

fn condition_reason(e: &mut Errors, reason: &Node<'_>) {
    let text = reason.text();
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let right = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.ends_with(word)
        && text.chars().all(|c| word(c) || c == ',' || c == ':');
    if !right {
        e.bad(reason, "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')");
    }
    if text.len() > 1024 {
        e.too_long(reason, 1024);
    }
}
