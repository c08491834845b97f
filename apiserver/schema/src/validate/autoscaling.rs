//! Autoscalers and scales.

use super::field::{Errors, Node};
use super::{Change, meta, names};

const TYPES: [&str; 5] = [
    "ContainerResource",
    "External",
    "Object",
    "Pods",
    "Resource",
];
const MAX_PERIOD: i64 = 1800;
const MAX_WINDOW: i64 = 3600;

/// Scale
pub(super) fn scale(e: &mut Errors, change: &Change<'_>) {
    e.non_negative(&change.new.get("spec.replicas"));
}

/// HorizontalPodAutoscaler, as `autoscaling/v2` has it.
pub(super) fn autoscaler(e: &mut Errors, change: &Change<'_>) {
    if change.is_status() {
        for field in ["status.currentReplicas", "status.desiredReplicas"] {
            e.non_negative(&change.new.get(field));
        }
        return;
    }
    let spec = change.new.get("spec");
    let (least, most) = (spec.get("minReplicas"), spec.get("maxReplicas"));
    let before = change.old.as_ref().map(|old| old.get("spec.minReplicas"));
    let bound = i64::from(before.and_then(|b| b.number()) != Some(0));
    if least.is_set() && least.int() < bound {
        e.bad(&least, format!("must be greater than or equal to {bound}"));
    }
    if most.int() < 1 {
        e.invalid(&most, most.int(), "must be greater than 0");
    }
    if least.is_set() && most.int() < least.int() {
        e.invalid(
            &most,
            most.int(),
            "must be greater than or equal to `minReplicas`",
        );
    }
    reference(e, &spec.get("scaleTargetRef"));
    scaled_version(e, change);
    metrics(e, &spec.get("metrics"), &least);
    for direction in ["behavior.scaleUp", "behavior.scaleDown"] {
        let rules = spec.get(direction);
        if rules.is_set() {
            scaling_rules(e, &rules);
        }
    }
}

fn reference(e: &mut Errors, reference: &Node<'_>) {
    e.check_required(&reference.get("kind"), names::path_segment_faults);
    e.check_required(&reference.get("name"), names::path_segment_faults);
}

/// What is scaled has to have a group, unless it is a kind of the core group that scales, or was
/// there before.
fn scaled_version(e: &mut Errors, change: &Change<'_>) {
    let scaled = change.new.get("spec.scaleTargetRef");
    let version = scaled.get("apiVersion");
    let before = change
        .old
        .as_ref()
        .map(|old| old.get("spec.scaleTargetRef"));
    let core = version.text() == "v1" && scaled.get("kind").text() == "ReplicationController";
    if core || before.is_some_and(|old| old.get("apiVersion").value == version.value) {
        return;
    }
    let text = version.text();
    if text.matches('/').count() > 1 {
        e.invalid(
            &version,
            text,
            format!("unexpected GroupVersion string: {text}"),
        );
    } else if text
        .split_once('/')
        .is_none_or(|(group, _)| group.is_empty())
    {
        e.invalid(&version, text, "apiVersion must specify API group");
    }
}

fn metrics(e: &mut Errors, list: &Node<'_>, least: &Node<'_>) {
    let mut counts_others = false;
    for metric in list.items() {
        self::metric(e, &metric);
        counts_others |= ["Object", "External"].contains(&metric.get("type").text());
    }
    if least.number() == Some(0) && !counts_others {
        let why = "must specify at least one Object or External metric to support scaling to zero replicas";
        e.forbidden(list, why);
    }
}

fn metric(e: &mut Errors, metric: &Node<'_>) {
    let kind = metric.get("type");
    if kind.is_empty() {
        e.required(&kind, "must specify a metric source type");
    }
    let own = match kind.text() {
        "Object" => "object",
        "Pods" => "pods",
        "Resource" => "resource",
        "External" => "external",
        "ContainerResource" => "containerResource",
        other => {
            e.not_supported(&kind, other, &TYPES);
            ""
        }
    };
    let all = [
        "object",
        "external",
        "pods",
        "resource",
        "containerResource",
    ];
    let present: Vec<&str> = all.into_iter().filter(|f| metric.get(f).is_set()).collect();
    if let Some(first) = present.first() {
        source(e, first, &metric.get(first));
    }
    if own.is_empty() {
        e.not_supported(&kind, kind.text(), &TYPES);
    } else if !present.contains(&own) {
        let why = "must populate information for the given metric source";
        e.required(&metric.get(own), why);
    }
    if present.len() != 1 {
        for other in present.iter().filter(|f| **f != own) {
            e.forbidden(
                &metric.get(other),
                "must populate the given metric source only",
            );
        }
    }
}

fn source(e: &mut Errors, kind: &str, source: &Node<'_>) {
    let target = source.get("target");
    let (value, average, share) = (
        target.get("value"),
        target.get("averageValue"),
        target.get("averageUtilization"),
    );
    let neither = !value.is_set() && !average.is_set();
    match kind {
        "object" => {
            reference(e, &source.get("describedObject"));
            identifier(e, &source.get("metric"));
            self::target(e, &target);
            if neither {
                e.required(&average, "must set either a target value or averageValue");
            }
        }
        "external" => {
            identifier(e, &source.get("metric"));
            self::target(e, &target);
            if neither {
                let why = "must set either a target value for metric or a per-pod target";
                e.required(&average, why);
            }
            if value.is_set() && average.is_set() {
                let why = "may not set both a target value for metric and a per-pod target";
                e.forbidden(&value, why);
            }
        }
        "pods" => {
            identifier(e, &source.get("metric"));
            self::target(e, &target);
            if !average.is_set() || !is_positive(&average) {
                e.required(&average, "must specify a positive target averageValue");
            }
        }
        _ => {
            let name = source.get("name");
            if name.is_empty() {
                e.required(&name, "must specify a resource name");
            }
            let container = source.get("container");
            if kind == "containerResource" && container.is_empty() {
                e.required(&container, "must specify a container");
            }
            self::target(e, &target);
            match (share.is_set(), average.is_set()) {
                (false, false) => e.required(
                    &share,
                    "must set either a target raw value or a target utilization",
                ),
                (true, true) => e.forbidden(
                    &average,
                    "may not set both a target raw value and a target utilization",
                ),
                _ => {}
            }
        }
    }
}

fn identifier(e: &mut Errors, metric: &Node<'_>) {
    let name = metric.get("name");
    if name.is_empty() {
        e.required(&name, "must specify a metric name");
    } else {
        e.check(&name, names::path_segment_faults);
    }
    let selector = metric.get("selector");
    if selector.is_set() {
        meta::selector(e, &selector);
    }
}

fn is_positive(node: &Node<'_>) -> bool {
    crate::quantity::compare(node.text(), "0").is_ok_and(std::cmp::Ordering::is_gt)
}

fn target(e: &mut Errors, target: &Node<'_>) {
    let kind = target.get("type");
    if kind.is_empty() {
        e.required(&kind, "must specify a metric target type");
    }
    if !["Utilization", "Value", "AverageValue"].contains(&kind.text()) {
        let why = "must be either Utilization, Value, or AverageValue";
        e.invalid(&kind, kind.text(), why);
    }
    for field in ["value", "averageValue"] {
        let amount = target.get(field);
        if amount.is_set() && !is_positive(&amount) {
            e.bad(&amount, "must be positive");
        }
    }
    let share = target.get("averageUtilization");
    if share.is_set() && share.int() < 1 {
        e.bad(&share, "must be greater than 0");
    }
}

fn scaling_rules(e: &mut Errors, rules: &Node<'_>) {
    let window = rules.get("stabilizationWindowSeconds");
    if window.int() < 0 {
        e.bad(&window, "must be greater than or equal to zero");
    }
    if window.int() > MAX_WINDOW {
        e.bad(
            &window,
            format!("must be less than or equal to {MAX_WINDOW}"),
        );
    }
    e.one_of(&rules.get("selectPolicy"), &["Disabled", "Max", "Min"]);
    let policies = rules.get("policies");
    if policies.is_empty() {
        e.required(&policies, "must specify at least one Policy");
    }
    for policy in policies.items() {
        let kind = policy.get("type");
        if !["Percent", "Pods"].contains(&kind.text()) {
            e.not_supported(&kind, kind.text(), &["Percent", "Pods"]);
        }
        let value = policy.get("value");
        if value.int() <= 0 {
            e.invalid(&value, value.int(), "must be greater than zero");
        }
        let period = policy.get("periodSeconds");
        if period.int() <= 0 {
            e.invalid(&period, period.int(), "must be greater than zero");
        }
        if period.int() > MAX_PERIOD {
            e.bad(
                &period,
                format!("must be less than or equal to {MAX_PERIOD}"),
            );
        }
    }
    let tolerance = rules.get("tolerance");
    if tolerance.is_set() {
        e.non_negative_quantity(&tolerance);
    }
}
