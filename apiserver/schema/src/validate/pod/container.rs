//! Containers of all three sorts.

use std::collections::BTreeSet;

use super::super::address::check_port_number;
use super::super::field::{Errors, Node};
use super::super::{internal, names};
use super::{Scope, environment, mount, probe, resources, security, trimmed_image};

pub(super) const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

/// The regular containers.
pub(super) fn containers(e: &mut Errors, scope: &Scope<'_>) {
    let list = scope.spec.get("containers");
    if list.is_empty() {
        return e.required(&list, "");
    }
    let mut known = BTreeSet::new();
    for container in list.items() {
        common(e, &container, scope);
        let name = container.get("name");
        if !known.insert(name.text()) {
            e.duplicate(&name, name.text());
        }
        probe::lifecycle(e, &container.get("lifecycle"), scope);
        probe::all(e, &container, scope.grace);
        restart_policy(e, &container);
    }
    host_port_conflicts(e, &list);
}

/// Those that run before the regular ones; beside them if they always restart.
pub(super) fn init_containers(e: &mut Errors, scope: &Scope<'_>) {
    let list = scope.spec.get("initContainers");
    let regular = scope.spec.get("containers");
    let mut known: BTreeSet<&str> = regular.items().map(|c| c.get("name").text()).collect();
    for container in list.items() {
        common(e, &container, scope);
        restart_policy(e, &container);
        let name = container.get("name");
        if known.contains(name.text()) {
            e.duplicate(&name, name.text());
        } else if !name.is_empty() {
            known.insert(name.text());
        }
        let ports = container.get("ports");
        conflicts(e, ports.items().collect(), &mut BTreeSet::new());
        if container.get("restartPolicy").text() == "Always" {
            probe::lifecycle(e, &container.get("lifecycle"), scope);
            probe::all(e, &container, scope.grace);
            continue;
        }
        for field in [
            "lifecycle",
            "livenessProbe",
            "readinessProbe",
            "startupProbe",
        ] {
            let inner = container.get(field);
            if inner.is_set() {
                let why = "may not be set for init containers without restartPolicy=Always";
                e.forbidden(&inner, why);
            }
        }
        let policy = container.get("resizePolicy");
        if !policy.is_empty() {
            let shown = internal::shown("[ContainerResizePolicy]", policy.value);
            e.invalid(&policy, shown, "must not be set for init containers");
        }
    }
}

/// Fields that ephemeral containers cannot have, in the order of the type.
const NOT_EPHEMERAL: [&str; 9] = [
    "ports",
    "resources",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
];

/// Those that are added to a running pod.
pub(super) fn ephemeral_containers(e: &mut Errors, scope: &Scope<'_>) {
    let spec = &scope.spec;
    let others: BTreeSet<&str> = ["containers", "initContainers"]
        .iter()
        .flat_map(|list| spec.get(list).items().collect::<Vec<_>>())
        .map(|c| c.get("name").text())
        .collect();
    let mut known = others.clone();
    for container in spec.get("ephemeralContainers").items() {
        common(e, &container, scope);
        trimmed_image(e, &container);
        let name = container.get("name");
        if !known.insert(name.text()) {
            e.duplicate(&name, name.text());
        }
        let target = container.get("targetContainerName");
        if !target.is_empty() && !others.contains(target.text()) {
            e.not_found(&target, target.text(), "");
        }
        for field in NOT_EPHEMERAL {
            let inner = container.get(field);
            if !inner.is_empty() {
                e.forbidden(&inner, "cannot be set for an Ephemeral Container");
            }
        }
        for mount in container.get("volumeMounts").items() {
            for field in ["subPath", "subPathExpr"] {
                let inner = mount.get(field);
                if !inner.is_empty() {
                    e.forbidden(&inner, "cannot be set for an Ephemeral Container");
                }
            }
        }
    }
}

fn common(e: &mut Errors, container: &Node<'_>, scope: &Scope<'_>) {
    e.check_required(&container.get("name"), names::label_faults);
    e.need(&container.get("image"));
    e.one_of_required(
        &container.get("terminationMessagePolicy"),
        &["File", "FallbackToLogsOnError"],
    );
    ports(e, &container.get("ports"));
    environment::variables(e, &container.get("env"), scope);
    environment::sources(e, &container.get("envFrom"));
    mount::mounts(e, container, scope);
    mount::devices(e, container, scope);
    pull_policy(e, &container.get("imagePullPolicy"));
    resources::requirements(e, &container.get("resources"), scope);
    resize_policy(e, &container.get("resizePolicy"), scope);
    security::of_container(e, &container.get("securityContext"), scope.host_users);
}

pub(super) fn pull_policy(e: &mut Errors, policy: &Node<'_>) {
    e.one_of_required(policy, &["Always", "IfNotPresent", "Never"]);
}

fn ports(e: &mut Errors, list: &Node<'_>) {
    let mut known = BTreeSet::new();
    for port in list.items() {
        let name = port.get("name");
        if !name.is_empty() {
            let faults = names::port_name_faults(name.text());
            if !faults.is_empty() {
                e.faults(&name, name.text(), faults);
            } else if !known.insert(name.text()) {
                e.duplicate(&name, name.text());
            }
        }
        let number = port.get("containerPort");
        if number.int() == 0 {
            e.required(&number, "");
        } else {
            check_port_number(e, &number);
        }
        let host = port.get("hostPort");
        if host.int() != 0 {
            check_port_number(e, &host);
        }
        let address = port.get("hostIP");
        if !address.is_empty() {
            super::check_ip(e, &address);
        }
        e.one_of_required(&port.get("protocol"), &PROTOCOLS);
    }
}

fn host_port_conflicts(e: &mut Errors, list: &Node<'_>) {
    let mut taken = BTreeSet::new();
    for container in list.items() {
        conflicts(e, container.get("ports").items().collect(), &mut taken);
    }
}

fn conflicts(e: &mut Errors, ports: Vec<Node<'_>>, taken: &mut BTreeSet<String>) {
    for port in ports {
        let host = port.get("hostPort");
        if host.int() == 0 {
            continue;
        }
        let (protocol, address) = (port.get("protocol"), port.get("hostIP"));
        let key = format!("{}/{}/{}", protocol.text(), address.text(), host.int());
        if !taken.insert(key.clone()) {
            e.duplicate(&host, key.as_str());
        }
    }
}

fn resize_policy(e: &mut Errors, list: &Node<'_>, scope: &Scope<'_>) {
    let mut known = BTreeSet::new();
    for item in list.items() {
        let (resource, policy) = (item.get("resourceName"), item.get("restartPolicy"));
        if !known.insert(resource.text()) {
            e.duplicate(&item, resource.text());
        }
        // Upstream names the list, not the item.
        for (text, supported) in [
            (resource.text(), ["cpu", "memory"]),
            (policy.text(), ["NotRequired", "RestartContainer"]),
        ] {
            if text.is_empty() {
                e.required(list, "");
            } else if !supported.contains(&text) {
                e.not_supported(list, text, &supported);
            }
        }
        if scope.restart_policy() == "Never" && policy.text() != "NotRequired" {
            let why = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            e.invalid(list, policy.text(), why);
        }
    }
}

/// A container's own restart policy and its rules.
fn restart_policy(e: &mut Errors, container: &Node<'_>) {
    let (policy, rules) = (
        container.get("restartPolicy"),
        container.get("restartPolicyRules"),
    );
    if !policy.is_set() {
        if !rules.is_empty() {
            let why = "must specify restartPolicy when restart rules are used";
            e.required(&policy, why);
        }
        return;
    }
    e.one_of(&policy, &["Always", "Never", "OnFailure"]);
    if rules.len() > 20 {
        e.too_many(&rules, rules.len(), 20);
    }
    for rule in rules.items() {
        let action = rule.get("action");
        if action.text() != "Restart" {
            e.not_supported(&action, action.text(), &["Restart"]);
        }
        let codes = rule.get("exitCodes");
        if !codes.is_set() {
            e.required(&codes, "must be specified");
            continue;
        }
        let operator = codes.get("operator");
        if !["In", "NotIn"].contains(&operator.text()) {
            e.not_supported(&operator, operator.text(), &["In", "NotIn"]);
        }
        let values = codes.get("values");
        if values.len() > 255 {
            e.too_many(&values, values.len(), 255);
        }
    }
}
