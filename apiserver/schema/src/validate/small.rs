//! Kinds with few rules.

use super::field::{Errors, Node, Path};
use super::{Change, meta, names, pod};

const HIGHEST_USER_PRIORITY: i64 = 1_000_000_000;

/// PriorityClass
pub(super) fn priority_class(e: &mut Errors, change: &Change<'_>) {
    let new = &change.new;
    let policy = new.get("preemptionPolicy");
    if let Some(old) = &change.old {
        if new.get("value").int() != old.get("value").int() {
            e.forbidden(&new.get("value"), "may not be changed in an update.");
        }
        let before = old.get("preemptionPolicy");
        if policy.text() != before.text() {
            e.bad(&policy, super::field::IMMUTABLE);
        }
        return;
    }
    let name = new.get("metadata.name").text();
    let value = new.get("value");
    if name.starts_with("system-") {
        if let Some(fault) = system_fault(name, value.int()) {
            let why = format!(
                "priority class names with 'system-' prefix are reserved for system use only. error: {fault}"
            );
            e.forbidden(&new.get("metadata.name"), why);
        }
    } else if value.int() > HIGHEST_USER_PRIORITY {
        let why =
            format!("maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}");
        e.forbidden(&value, why);
    }
    if policy.is_set() {
        pod::preemption_policy(e, &policy);
    }
}

fn system_fault(name: &str, value: i64) -> Option<String> {
    let own = match name {
        "system-node-critical" => HIGHEST_USER_PRIORITY * 2 + 1000,
        "system-cluster-critical" => HIGHEST_USER_PRIORITY * 2,
        _ => return Some(format!("{name} is not a known system priority class")),
    };
    (own != value).then(|| format!("value of {name} PriorityClass must be {own}"))
}

/// RuntimeClass
pub(super) fn runtime_class(e: &mut Errors, change: &Change<'_>) {
    let new = &change.new;
    if change.old.is_some() {
        change.immutable(e, "handler");
        return;
    }
    e.check(&new.get("handler"), names::label_faults);
    let overhead = new.get("overhead.podFixed");
    pod::resources::amounts(e, &overhead);
    let scheduling = new.get("scheduling");
    meta::labels(e, &scheduling.get("nodeSelector"));
    let list = scheduling.get("tolerations");
    pod::scheduling::tolerations(e, &list);
    for (i, toleration) in list.items().enumerate() {
        if list
            .items()
            .skip(i + 1)
            .any(|other| other.value == toleration.value)
        {
            e.duplicate(&toleration, &toleration);
        }
    }
}

/// Lease
pub(super) fn lease(e: &mut Errors, change: &Change<'_>) {
    let spec = change.new.get("spec");
    let strategy = spec.get("strategy");
    let duration = spec.get("leaseDurationSeconds");
    if duration.is_set() && duration.int() <= 0 {
        e.bad(&duration, "must be greater than 0");
    }
    let transitions = spec.get("leaseTransitions");
    if transitions.int() < 0 {
        e.bad(&transitions, super::field::NEGATIVE);
    }
    if strategy.is_set() {
        e.check_optional(&strategy, names::qualified_name_faults);
    }
    let preferred = spec.get("preferredHolder");
    if !preferred.text().is_empty() && !strategy.is_set() {
        e.forbidden(&preferred, "may only be specified if `strategy` is defined");
    }
}

/// APIService
pub(super) fn api_service(e: &mut Errors, change: &Change<'_>) {
    let spec = change.new.get("spec");
    let (group, version) = (spec.get("group").text(), spec.get("version").text());
    if change.is_status() {
        return conditions(e, &change.new.get("status.conditions"));
    }
    let name = change.new.get("metadata.name");
    let expected = format!("{version}.{group}");
    if name.text() != expected {
        e.bad(&name, "must be `spec.version+\".\"+spec.group`");
    }
    e.check_optional(&spec.get("group"), names::subdomain_faults);
    e.check(&spec.get("version"), names::label_1035_faults);
    let minimum = spec.get("groupPriorityMinimum");
    if minimum.int() <= 0 || minimum.int() > 20_000 {
        e.invalid(
            &minimum,
            minimum.int(),
            "must be positive and less than 20000",
        );
    }
    let priority = spec.get("versionPriority");
    if priority.int() <= 0 || priority.int() > 1000 {
        e.invalid(
            &priority,
            priority.int(),
            "must be positive and less than 1000",
        );
    }
    let service = spec.get("service");
    let (insecure, bundle) = (spec.get("insecureSkipTLSVerify"), spec.get("caBundle"));
    if service.is_set() {
        let name = service.get("name");
        e.need(&service.get("namespace"));
        e.need(&name);
        let port = service.get("port");
        if port.is_set() && !names::is_port(port.int()) {
            e.bad(
                &port,
                format!("port is not valid: {}", names::between(1, 65535)),
            );
        }
        if insecure.flag() && !bundle.is_empty() {
            e.bad(&insecure, "may not be true if caBundle is present");
        }
        return;
    }
    if !bundle.is_empty() {
        let size = Path::new("spec.caBundle");
        let shown = format!("{} bytes", super::config::decoded(&bundle).len());
        e.invalid(
            &size,
            shown.as_str(),
            "local APIServices may not have a caBundle",
        );
    }
    if insecure.flag() {
        e.bad(
            &insecure,
            "local APIServices may not have insecureSkipTLSVerify",
        );
    }
}

fn conditions(e: &mut Errors, conditions: &Node<'_>) {
    for condition in conditions.items() {
        let status = condition.get("status");
        if !["True", "False", "Unknown"].contains(&status.text()) {
            e.not_supported(&status, status.text(), &["False", "True", "Unknown"]);
        }
    }
}
