//! Annotations that pods gave a meaning to before there were fields.

use serde_json::Value;

use super::super::field::{Errors, Node, quote};
use super::security::descending;
use super::{WINDOWS, all_containers};

const MIRROR: &str = "kubernetes.io/config.mirror";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP: &str = "container.seccomp.security.alpha.kubernetes.io/";
const APPARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Rules for single annotations.
pub(super) fn check(e: &mut Errors, node: &Node<'_>, spec: &Node<'_>) {
    for (key, value) in node.entries() {
        match key {
            MIRROR if spec.get("nodeName").is_empty() => {
                e.bad(
                    &value,
                    "must set spec.nodeName if mirror pod annotation is set",
                );
            }
            DELETION_COST if !is_cost(value.text()) => {
                e.bad(&value, "must be a 32bit integer");
            }
            _ => {}
        }
    }
    for (key, value) in node.entries() {
        if key == SECCOMP_POD || key.starts_with(SECCOMP) {
            seccomp(e, &Node::new(value.value, node.path.child(key)));
        }
    }
    for (key, value) in node.entries() {
        let Some(container) = key.strip_prefix(APPARMOR) else {
            continue;
        };
        let known = |c: &Node<'_>| c.get("name").text() == container;
        if !all_containers(spec).iter().any(known) {
            e.invalid(&value, container, "container not found");
        }
        let profile = value.text();
        if !matches!(profile, "" | "runtime/default" | "unconfined")
            && !profile.starts_with("localhost/")
        {
            let why = format!("invalid AppArmor profile name: {}", quote(profile));
            e.bad(&value, why);
        }
    }
}

fn is_cost(text: &str) -> bool {
    let plain =
        !text.starts_with('+') && (text == "0" || !text.trim_start_matches('-').starts_with('0'));
    plain && text.parse::<i32>().is_ok()
}

fn seccomp(e: &mut Errors, node: &Node<'_>) {
    match node.text() {
        "runtime/default" | "docker/default" | "unconfined" => {}
        text => match text.strip_prefix("localhost/") {
            Some(profile) => descending(e, node, profile),
            None => e.bad(node, "must be a valid seccomp profile"),
        },
    }
}

/// Which annotations an update cannot change, and the rules for single ones.
pub(super) fn update(e: &mut Errors, new: &Node<'_>, old: &Node<'_>, spec: &Node<'_>) {
    let fixed = |key: &str| match key {
        MIRROR => Some("mirror pod annotation"),
        key if key.starts_with(APPARMOR) => Some("AppArmor annotations"),
        _ => None,
    };
    for (key, before) in old.entries() {
        if let Some(what) = fixed(key).filter(|_| new.value[key] != *before.value) {
            e.forbidden(
                &new.path.key(key),
                format!("may not remove or update {what}"),
            );
        }
    }
    for (key, added) in new.entries() {
        if let Some(what) = fixed(key).filter(|_| old.value[key].is_null()) {
            e.forbidden(&added, format!("may not add {what}"));
        }
    }
    check(e, new, spec);
}

/// Annotations and fields have to say the same.
pub(super) fn match_fields(e: &mut Errors, object: &Value, spec: &Node<'_>) {
    let annotations = &object["metadata"]["annotations"];
    let text = |key: String| annotations[key.as_str()].as_str();
    let own = spec.get("securityContext.seccompProfile");
    if let Some(annotation) = text(SECCOMP_POD.into()) {
        same_profile(e, "seccomp", annotation, &own, &own);
    }
    for container in all_containers(spec) {
        let field = container.get("securityContext.seccompProfile");
        let key = format!("{SECCOMP}{}", container.get("name").text());
        if let Some(annotation) = text(key) {
            same_profile(e, "seccomp", annotation, &field, &field);
        }
    }
    if spec.value["os"]["name"] == WINDOWS {
        return;
    }
    let own = spec.get("securityContext.appArmorProfile");
    for container in all_containers(spec) {
        let field = container.get("securityContext.appArmorProfile");
        let used = if field.is_set() { &field } else { &own };
        let key = format!("{APPARMOR}{}", container.get("name").text());
        if let Some(annotation) = text(key) {
            same_profile(e, "apparmor", annotation, used, &field);
        }
    }
}

fn same_profile(e: &mut Errors, what: &str, annotation: &str, field: &Node<'_>, at: &Node<'_>) {
    let wrong_type = format!("{what} type in annotation and field must match");
    let right = match field.get("type").text() {
        "Unconfined" => annotation == "unconfined",
        "RuntimeDefault" => {
            annotation == "runtime/default" || (what == "seccomp" && annotation == "docker/default")
        }
        "Localhost" => match annotation.strip_prefix("localhost/") {
            None => false,
            Some(profile) => {
                if field.value["localhostProfile"].as_str() != Some(profile) {
                    let why = format!("{what} profile in annotation and field must match");
                    e.forbidden(&at.path.child("localhostProfile"), why);
                }
                true
            }
        },
        _ => true,
    };
    if !right {
        e.forbidden(&at.path.child("type"), wrong_type);
    }
}
