//! What may change in a pod's status.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::super::address::{check_ip, is_dual, parse_ip};
use super::super::field::{Errors, Node};
use super::super::{internal, names};
use super::annotations;

/// An update of the status.
pub(super) fn update(e: &mut Errors, new: &Node<'_>, old: &Node<'_>) {
    annotations::update(
        e,
        &new.get("metadata.annotations"),
        &old.get("metadata.annotations"),
        &new.get("spec"),
    );
    let (after, before) = (new.get("status"), old.get("status"));
    for (i, condition) in after.get("conditions").items().enumerate() {
        let kind = condition.get("type").text();
        if !["PodScheduled", "Ready", "Initialized"].contains(&kind) {
            // Upstream looks for them in the metadata.
            let at = new.path.child("metadata.conditions").index(i).child("Type");
            e.faults(&at, kind, names::qualified_name_faults(kind));
        }
    }
    let nominated = after.get("nominatedNodeName");
    if nominated.text() != before.get("nominatedNodeName").text() {
        e.check_optional(&nominated, names::subdomain_faults);
    }
    let class = after.get("qosClass");
    e.immutable(&class, &before.get("qosClass"));
    let policy = old.get("spec.restartPolicy");
    for (list, policy) in [
        ("containerStatuses", policy.text()),
        ("initContainerStatuses", policy.text()),
        ("ephemeralContainerStatuses", "Never"),
    ] {
        transitions(e, &after.get(list), &before.get(list), policy, old);
    }
    claims(e, &after.get("resourceClaimStatuses"), new);
    addresses(e, &after.get("podIPs"));
    let hosts = after.get("hostIPs");
    if let Some(first) = hosts.items().next() {
        let own = first.get("ip");
        if own.text() != after.get("hostIP").text() {
            e.bad(&own, "must be equal to `hostIP`");
        }
    }
    addresses(e, &hosts);
}

/// A container that ended for good stays so.
fn transitions(e: &mut Errors, new: &Node<'_>, old: &Node<'_>, policy: &str, pod: &Node<'_>) {
    if policy == "Always" {
        return;
    }
    let sidecars: Vec<&str> = pod
        .get("spec.initContainers")
        .items()
        .filter(|c| c.get("restartPolicy").text() == "Always")
        .map(|c| c.get("name").text())
        .collect();
    for (i, before) in old.items().enumerate() {
        let (name, ended) = (before.get("name").text(), before.get("state.terminated"));
        let again = ended.get("exitCode").int() != 0 && policy == "OnFailure";
        if !ended.is_set() || again || sidecars.contains(&name) {
            continue;
        }
        for after in new.items() {
            let runs = !after.get("state.terminated").is_set();
            if after.get("name").text() == name && runs {
                let at = new.path.index(i).child("state");
                e.forbidden(&at, "may not be transitioned to non-terminated state");
            }
        }
    }
}

fn claims(e: &mut Errors, list: &Node<'_>, pod: &Node<'_>) {
    let declared = pod.get("spec.resourceClaims");
    let known: Vec<&str> = declared.items().map(|c| c.get("name").text()).collect();
    let mut seen = BTreeSet::new();
    for status in list.items() {
        let name = status.get("name");
        if !known.contains(&name.text()) {
            let why = "must match the name of an entry in `spec.resourceClaims`";
            e.bad(&name, why);
        }
        if !seen.insert(name.text()) {
            e.duplicate(&name, name.text());
        }
        let claim = status.get("resourceClaimName");
        if claim.is_set() {
            e.faults(&name, claim.text(), names::subdomain_faults(claim.text()));
        }
    }
}

fn addresses(e: &mut Errors, list: &Node<'_>) {
    for item in list.items() {
        check_ip(e, &Node::new(&item.value["ip"], item.path.clone()));
    }
    if list.len() < 2 {
        return;
    }
    let parsed: Vec<IpAddr> = list
        .items()
        .filter_map(|i| parse_ip(i.get("ip").text()))
        .collect();
    if !is_dual(&parsed) || list.len() > 2 {
        let shown = internal::shown("[PodIP]", list.value);
        let why = "may specify no more than one IP for each IP family";
        e.invalid(list, shown, why);
    }
    let mut seen = BTreeSet::new();
    for item in list.items() {
        if !seen.insert(item.get("ip").text()) {
            e.duplicate(&item, internal::shown("PodIP", item.value));
        }
    }
}
