//! Pod Security: what a namespace's labels say that its pods may not be.
//!
//! `enforce` refuses pods, `warn` and `audit` speak up, about workloads too. [`checks`] has the
//! standards as pure functions over a pod.

mod checks;
mod policy;

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Attributes, Operation};
use crate::audit;
use crate::registry::meta;
use crate::response::{ApiError, Cause};
use checks::{Failure, evaluate};
use policy::{Level, Policies, Policy};

/// Where each kind of workload has the template of its pods.
const TEMPLATES: [(&str, &str, &str); 8] = [
    ("", "podtemplates", "/template"),
    ("", "replicationcontrollers", "/spec/template"),
    ("apps", "daemonsets", "/spec/template"),
    ("apps", "deployments", "/spec/template"),
    ("apps", "replicasets", "/spec/template"),
    ("apps", "statefulsets", "/spec/template"),
    ("batch", "cronjobs", "/spec/jobTemplate/spec/template"),
    ("batch", "jobs", "/spec/template"),
];

/// Pods that a change of a namespace is checked against.
const MAX_PODS: usize = 3000;

pub(super) fn validate(a: &Attributes<'_>) -> Result<(), ApiError> {
    if a.call.internal || !matches!(a.operation, Operation::Create | Operation::Update) {
        return Ok(());
    }
    if a.is_for("", "namespaces") {
        return namespace(a);
    }
    let resource = &a.call.resource;
    let sub = a.call.info.subresource.as_str();
    if resource.group.is_empty() && resource.plural == "pods" {
        return match sub {
            "" | "ephemeralcontainers" | "resize" => pod(a),
            _ => Ok(()),
        };
    }
    if sub.is_empty() {
        let template = TEMPLATES
            .iter()
            .find(|(group, plural, _)| *group == resource.group && *plural == resource.plural);
        if let Some((_, _, pointer)) = template {
            workload(a, pointer);
        }
    }
    Ok(())
}

fn policies(a: &Attributes<'_>) -> Policies {
    let found = a.call.registry.lookup("", "namespaces", "", a.namespace());
    found.map_or_else(Policies::default, |namespace| {
        Policies::of(&namespace.value()["metadata"]["labels"]).0
    })
}

fn pod(a: &Attributes<'_>) -> Result<(), ApiError> {
    let Some(pod) = a.object.as_deref() else {
        return Ok(());
    };
    if a.old.is_some_and(|old| !is_significant(old, pod)) {
        return Ok(());
    }
    let policies = policies(a);
    audit::annotate(
        "pod-security.kubernetes.io/enforce-policy",
        policies.enforce.to_string(),
    );
    let enforced = evaluate(&policies.enforce, pod);
    if !enforced.is_empty() {
        let why = format!(
            "violates PodSecurity \"{}\": {}",
            policies.enforce,
            told(&enforced)
        );
        return Err(a.forbidden(&why));
    }
    speak_up(a, &policies, pod);
    Ok(())
}

/// A pod's template is not refused: its pods are, and whoever makes it hears of it now.
fn workload(a: &Attributes<'_>, pointer: &str) {
    let template = |object: &Value| object.pointer(pointer).cloned();
    let Some(new) = a.object.as_deref().and_then(template) else {
        return;
    };
    if a.old.and_then(template).as_ref() == Some(&new) {
        return;
    }
    speak_up(a, &policies(a), &new);
}

fn speak_up(a: &Attributes<'_>, policies: &Policies, pod: &Value) {
    let would = |policy: &Policy| {
        let failures = evaluate(policy, pod);
        (!failures.is_empty()).then(|| {
            format!(
                "would violate PodSecurity \"{policy}\": {}",
                told(&failures)
            )
        })
    };
    if let Some(violation) = would(&policies.audit) {
        audit::annotate("pod-security.kubernetes.io/audit-violations", violation);
    }
    // What is enforced and was passed needs no warning.
    if policies.warn != policies.enforce
        && let Some(warning) = would(&policies.warn)
    {
        a.call.warn(warning);
    } else if a.call.resource.plural != "pods"
        && let Some(warning) = would(&policies.warn)
    {
        a.call.warn(warning);
    }
}

fn told(failures: &[Failure]) -> String {
    let all: Vec<String> = failures
        .iter()
        .map(|f| {
            if f.detail.is_empty() {
                f.reason.clone()
            } else {
                format!("{} ({})", f.reason, f.detail)
            }
        })
        .collect();
    all.join(", ")
}

/// Whether an update changes what the standards look at.
fn is_significant(old: &Value, new: &Value) -> bool {
    let judged = |pod: &Value| {
        let mut spec = pod["spec"].clone();
        if let Some(spec) = spec.as_object_mut() {
            for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
                spec.remove(field);
            }
        }
        let annotations = pod["metadata"]["annotations"].as_object();
        let profiles: Vec<(String, Value)> = annotations
            .into_iter()
            .flatten()
            .filter(|(key, _)| key.starts_with(checks::APPARMOR_ANNOTATION))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        (spec, profiles)
    };
    judged(old) != judged(new)
}

/// Labels of a namespace have to be levels; pods that a stricter one would refuse are told.
fn namespace(a: &Attributes<'_>) -> Result<(), ApiError> {
    let Some(new) = a.object.as_deref() else {
        return Ok(());
    };
    let (policies, faults) = Policies::of(&new["metadata"]["labels"]);
    let before = a.old.map(|old| Policies::of(&old["metadata"]["labels"]));
    if !faults.is_empty() && before.as_ref().is_none_or(|(_, old)| *old != faults) {
        let causes = faults
            .into_iter()
            .map(|(field, why)| Cause::new("FieldValueInvalid", why, field))
            .collect();
        return Err(ApiError::invalid("", "Namespace", meta::name(new), causes));
    }
    let Some((before, _)) = before else {
        return Ok(());
    };
    if policies.enforce == before.enforce || policies.enforce.level == Level::Privileged {
        return Ok(());
    }
    for warning in existing(a, &policies.enforce, meta::name(new)) {
        a.call.warn(warning);
    }
    Ok(())
}

fn existing(a: &Attributes<'_>, policy: &Policy, namespace: &str) -> Vec<String> {
    let mut by_reason: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let pods = a.call.registry.list("", "pods", namespace);
    for pod in pods.iter().take(MAX_PODS) {
        let failures = evaluate(policy, &pod.value());
        if !failures.is_empty() {
            let reasons: Vec<String> = failures.into_iter().map(|f| f.reason).collect();
            let names = by_reason.entry(reasons.join(", ")).or_default();
            names.push(pod.name().to_owned());
        }
    }
    if by_reason.is_empty() {
        return Vec::new();
    }
    let mut warnings = vec![format!(
        "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{policy}\""
    )];
    for (reason, names) in by_reason {
        let first = &names[0];
        warnings.push(match names.len() {
            1 => format!("{first}: {reason}"),
            2 => format!("{first} (and 1 other pod): {reason}"),
            n => format!("{first} (and {} other pods): {reason}", n - 1),
        });
    }
    warnings
}
