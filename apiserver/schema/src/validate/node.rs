//! Namespaces and nodes.

use std::collections::BTreeSet;

use super::address::{check_cidr, parse_cidr};
use super::field::{Errors, Node, Path, same};
use super::{Change, internal, names, pod};

const POD_SECURITY: &str = "pod-security.kubernetes.io/";

/// Finalizers that need no domain.
const FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

/// Namespace
pub(super) fn namespace(e: &mut Errors, change: &Change<'_>) {
    let new = &change.new;
    if change.subresource.is_empty() {
        pod_security(e, change);
    }
    let whole = Path::new("spec.finalizers");
    for finalizer in new.get("spec.finalizers").items() {
        // On creation upstream names the list, when they are taken away the item.
        let at = match change.old {
            None => &whole,
            Some(_) => &finalizer.path,
        };
        let text = finalizer.text();
        e.faults(at, text, names::qualified_name_faults(text));
        if !text.contains('/') && !FINALIZERS.contains(&text) {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            e.invalid(at, text, why);
        }
    }
    if change.is_status() {
        phase(e, new);
    }
}

fn phase(e: &mut Errors, new: &Node<'_>) {
    let phase = new.get("status.phase");
    let deleted = new.get("metadata.deletionTimestamp").is_set();
    let (expected, state) = if deleted {
        ("Terminating", "not empty")
    } else {
        ("Active", "empty")
    };
    if phase.text() != expected {
        let why = format!("may only be '{expected}' if `deletionTimestamp` is {state}");
        // Upstream writes the name of the field as Go does.
        e.invalid(&Path::new("status.Phase"), phase.text(), why);
    }
}

/// The levels of Pod Security that a namespace asks for.
fn pod_security(e: &mut Errors, change: &Change<'_>) {
    let labels = change.new.get("metadata.labels");
    for mode in ["enforce", "audit", "warn"] {
        let level = labels.path.key(&format!("{POD_SECURITY}{mode}"));
        if let Some(text) = labels.value[format!("{POD_SECURITY}{mode}")].as_str()
            && !["privileged", "baseline", "restricted"].contains(&text)
        {
            let why = "must be one of privileged, baseline, restricted";
            e.invalid(&level, text, why);
        }
        let key = format!("{POD_SECURITY}{mode}-version");
        if let Some(text) = labels.value[key.as_str()].as_str()
            && !is_version(text)
        {
            e.invalid(
                &labels.path.key(&key),
                text,
                "must be \"latest\" or \"v1.x\"",
            );
        }
    }
}

fn is_version(text: &str) -> bool {
    let minor = text.strip_prefix("v1.").unwrap_or_default();
    let digits = !minor.is_empty() && minor.bytes().all(|c| c.is_ascii_digit());
    let plain = minor == "0" || !minor.starts_with('0');
    text == "latest" || (digits && plain && minor.len() < 9)
}

/// Node
pub(super) fn node(e: &mut Errors, change: &Change<'_>) {
    let new = &change.new;
    annotations(e, new);
    match &change.old {
        Some(old) => node_update(e, new, old),
        None => pod::scheduling::taints(e, &new.get("spec.taints"), &Path::new("metadata.taints")),
    }
    if change.old.is_none() {
        amounts(e, &new.get("status.capacity"));
        amounts(e, &new.get("status.allocatable"));
        ranges(e, new);
    }
}

fn annotations(e: &mut Errors, node: &Node<'_>) {
    let key = "scheduler.alpha.kubernetes.io/preferAvoidPods";
    let annotations = node.get("metadata.annotations");
    let text = annotations.value[key].as_str().unwrap_or_default();
    if !text.is_empty() && serde_json::from_str::<serde_json::Value>(text).is_err() {
        let at = Path::new("AvoidPods");
        e.invalid(&at, key, "invalid character");
    }
}

fn amounts(e: &mut Errors, amounts: &Node<'_>) {
    for (name, amount) in amounts.entries() {
        // Upstream writes the resource as if it were a field.
        let amount = Node::new(amount.value, amounts.path.child(name));
        pod::resources::amount(e, &amount, name);
    }
}

fn ranges(e: &mut Errors, node: &Node<'_>) {
    let list = node.get("spec.podCIDRs");
    for range in list.items() {
        check_cidr(e, &range, range.text());
    }
    let parsed: Vec<_> = list.texts().into_iter().filter_map(parse_cidr).collect();
    if list.len() < 2 {
        return;
    }
    if let Some(wrong) = list.texts().into_iter().find(|r| parse_cidr(r).is_none()) {
        let why = format!(
            "invalid PodCIDRs. failed to check with dual stack with error:invalid CIDR address: {wrong}"
        );
        e.internal(&list, why);
    }
    let dual = parsed.len() == list.len()
        && parsed.iter().any(|r| r.0.is_ipv4())
        && parsed.iter().any(|r| r.0.is_ipv6());
    if list.len() > 2 || !dual {
        e.bad(
            &list,
            "may specify no more than one CIDR for each IP family",
        );
    }
    let mut known = BTreeSet::new();
    for range in list.items() {
        if !known.insert(range.text()) {
            e.duplicate(&range, range.text());
        }
    }
}

fn node_update(e: &mut Errors, new: &Node<'_>, old: &Node<'_>) {
    amounts(e, &new.get("status.capacity"));
    amounts(e, &new.get("status.allocatable"));
    addresses(e, &new.get("status.addresses"));
    let (ranges, before) = (new.get("spec.podCIDRs"), old.get("spec.podCIDRs"));
    if !before.is_empty() && !same(ranges.value, before.value) {
        e.forbidden(
            &ranges,
            "node updates may not change podCIDR except from \"\" to valid",
        );
    }
    let (provider, before) = (new.get("spec.providerID"), old.get("spec.providerID"));
    if !before.is_empty() && provider.text() != before.text() {
        let why = "node updates may not change providerID except from \"\" to valid";
        e.forbidden(&provider, why);
    }
    pod::scheduling::taints(e, &new.get("spec.taints"), &Path::new("metadata.taints"));
    let external = new.get("spec.externalID");
    if external.text() != old.get("spec.externalID").text() {
        e.forbidden(&external, "may not be updated");
    }
}

fn addresses(e: &mut Errors, list: &Node<'_>) {
    let mut known = BTreeSet::new();
    for address in list.items() {
        let (kind, text) = (address.get("type"), address.get("address"));
        if !known.insert((kind.text(), text.text())) {
            let shown = internal::shown("NodeAddress", address.value);
            e.duplicate(&address, shown);
        }
    }
}
