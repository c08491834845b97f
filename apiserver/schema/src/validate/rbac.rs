//! Roles and who has them.

use super::field::{Errors, Node};
use super::{Change, Rule, internal, names};

const GROUP: &str = "rbac.authorization.k8s.io";

/// The rule of a kind of the group.
pub(super) fn rule(kind: &str) -> Option<Rule> {
    Some(match kind {
        "Role" => role,
        "ClusterRole" => cluster_role,
        "RoleBinding" => role_binding,
        "ClusterRoleBinding" => cluster_role_binding,
        _ => return None,
    })
}

/// Whether a kind lives in a namespace.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Namespaced,
    Cluster,
}

fn role(e: &mut Errors, change: &Change<'_>) {
    rules(e, &change.new, Scope::Namespaced);
}

fn cluster_role(e: &mut Errors, change: &Change<'_>) {
    rules(e, &change.new, Scope::Cluster);
    for selector in change
        .new
        .get("aggregationRule.clusterRoleSelectors")
        .items()
    {
        super::meta::selector(e, &selector);
    }
}

fn rules(e: &mut Errors, role: &Node<'_>, scope: Scope) {
    for rule in role.get("rules").items() {
        policy_rule(e, &rule, scope);
    }
}

fn policy_rule(e: &mut Errors, rule: &Node<'_>, scope: Scope) {
    let (groups, resources, named) = (
        rule.get("apiGroups"),
        rule.get("resources"),
        rule.get("resourceNames"),
    );
    let verbs = rule.get("verbs");
    if verbs.is_empty() {
        e.required(&verbs, "verbs must contain at least one value");
    }
    let urls = rule.get("nonResourceURLs");
    if !urls.is_empty() {
        if scope == Scope::Namespaced {
            e.bad(&urls, "namespaced rules cannot apply to non-resource URLs");
        }
        if ![&groups, &resources, &named].iter().all(|n| n.is_empty()) {
            let why = "rules cannot apply to both regular resources and non-resource URLs";
            e.bad(&urls, why);
        }
        return;
    }
    if groups.is_empty() {
        e.required(&groups, "resource rules must supply at least one api group");
    }
    if resources.is_empty() {
        e.required(
            &resources,
            "resource rules must supply at least one resource",
        );
    }
}

fn role_binding(e: &mut Errors, change: &Change<'_>) {
    binding(e, change, Scope::Namespaced);
}

fn cluster_role_binding(e: &mut Errors, change: &Change<'_>) {
    binding(e, change, Scope::Cluster);
}

fn binding(e: &mut Errors, change: &Change<'_>, scope: Scope) {
    let role = change.new.get("roleRef");
    let group = role.get("apiGroup");
    if group.text() != GROUP {
        e.not_supported(&group, group.text(), &[GROUP]);
    }
    let kinds: &[&str] = match scope {
        Scope::Namespaced => &["Role", "ClusterRole"],
        Scope::Cluster => &["ClusterRole"],
    };
    let kind = role.get("kind");
    if !kinds.contains(&kind.text()) {
        e.not_supported(&kind, kind.text(), kinds);
    }
    e.check_required(&role.get("name"), names::path_segment_faults);
    for subject in change.new.get("subjects").items() {
        self::subject(e, &subject, scope);
    }
    if let Some(old) = &change.old
        && old.get("roleRef").value != role.value
    {
        e.invalid(
            &role,
            internal::shown("RoleRef", role.value),
            "cannot change roleRef",
        );
    }
}

fn subject(e: &mut Errors, subject: &Node<'_>, scope: Scope) {
    let (name, group, kind) = (
        subject.get("name"),
        subject.get("apiGroup"),
        subject.get("kind"),
    );
    e.need(&name);
    match kind.text() {
        "ServiceAccount" => {
            e.check_optional(&name, names::subdomain_faults);
            if !group.is_empty() {
                e.not_supported(&group, group.text(), &[""]);
            }
            if scope == Scope::Cluster {
                e.need(&subject.get("namespace"));
            }
        }
        "User" | "Group" => {
            if group.text() != GROUP {
                e.not_supported(&group, group.text(), &[GROUP]);
            }
        }
        other => e.not_supported(&kind, other, &["ServiceAccount", "User", "Group"]),
    }
}
