//! HorizontalPodAutoscaler: `v2` (stored) and `v1`, which knows one CPU target and keeps
//! the rest in annotations.

use serde_json::{Map, Value, json};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// The CPU utilization that a v1 object without any metric aims at.
const DEFAULT_CPU_UTILIZATION: i64 = 80;

fn is_cpu_utilization(metric: &Value, value: &str) -> bool {
    metric["type"] == "Resource"
        && metric["resource"]["name"] == "cpu"
        && metric["resource"][value]["averageUtilization"].is_number()
}

fn section<'a>(map: &'a mut Map<String, Value>, name: &str) -> Option<&'a mut Map<String, Value>> {
    map.get_mut(name).and_then(Value::as_object_mut)
}

fn annotate(map: &mut Map<String, Value>, name: &str, value: &Value) {
    let meta = map.entry("metadata").or_insert_with(|| json!({}));
    if let Some(meta) = meta.as_object_mut()
        && let Some(all) = meta
            .entry("annotations")
            .or_insert_with(|| json!({}))
            .as_object_mut()
    {
        all.insert(name.into(), value.to_string().into());
    }
}

fn unannotate(map: &mut Map<String, Value>, name: &str) -> Option<Value> {
    let meta = section(map, "metadata")?;
    let all = section(meta, "annotations")?;
    let text = all.remove(name);
    if all.is_empty() {
        meta.remove("annotations");
    }
    serde_json::from_str(text?.as_str()?).ok()
}

/// v1's annotations hold the metric sources in the shape of `v2beta1`.
fn to_alpha(metric: &Value) -> Value {
    let mut out = metric.clone();
    for source in [
        "resource",
        "pods",
        "object",
        "external",
        "containerResource",
    ] {
        let Some(own) = out.get_mut(source).and_then(Value::as_object_mut) else {
            continue;
        };
        for (side, prefix) in [("target", "target"), ("current", "current")] {
            let Some(target) = own.remove(side) else {
                continue;
            };
            if let Some(u) = target.get("averageUtilization") {
                own.insert(format!("{prefix}AverageUtilization"), u.clone());
            }
            if let Some(v) = target.get("averageValue") {
                let key = if source == "object" {
                    "averageValue".into()
                } else {
                    format!("{prefix}AverageValue")
                };
                own.insert(key, v.clone());
            }
            if let Some(v) = target.get("value") {
                own.insert(format!("{prefix}Value"), v.clone());
            }
        }
        if let Some(metric) = own.remove("metric") {
            if let Some(name) = metric.get("name") {
                own.insert("metricName".into(), name.clone());
            }
            if let Some(selector) = metric.get("selector") {
                let key = if source == "external" {
                    "metricSelector"
                } else {
                    "selector"
                };
                own.insert(key.into(), selector.clone());
            }
        }
        if let Some(object) = own.remove("describedObject") {
            own.insert("target".into(), object);
        }
    }
    out
}

fn from_alpha(metric: &Value, side: &str) -> Value {
    let mut out = metric.clone();
    for source in [
        "resource",
        "pods",
        "object",
        "external",
        "containerResource",
    ] {
        let Some(own) = out.get_mut(source).and_then(Value::as_object_mut) else {
            continue;
        };
        if source == "object"
            && let Some(object) = own.remove("target")
        {
            own.insert("describedObject".into(), object);
        }
        let mut target = Map::new();
        let mut kind = "Value";
        let taken = own.remove(&format!("{side}AverageUtilization"));
        if let Some(u) = taken {
            target.insert("averageUtilization".into(), u);
            kind = "Utilization";
        }
        let taken = own
            .remove(&format!("{side}AverageValue"))
            .or_else(|| own.remove("averageValue"));
        if let Some(v) = taken {
            target.insert("averageValue".into(), v);
            if kind == "Value" {
                kind = "AverageValue";
            }
        }
        if let Some(v) = own.remove(&format!("{side}Value")) {
            target.insert("value".into(), v);
        }
        if side == "target" {
            target.insert("type".into(), kind.into());
        }
        own.insert(side.into(), Value::Object(target));
        if let Some(name) = own.remove("metricName") {
            let mut identifier = Map::from_iter([("name".to_owned(), name)]);
            if let Some(selector) = own
                .remove("metricSelector")
                .or_else(|| own.remove("selector"))
            {
                identifier.insert("selector".into(), selector);
            }
            own.insert("metric".into(), Value::Object(identifier));
        }
    }
    out
}

pub(super) fn v2_to_v1(object: &mut Value) {
    let Some(map) = object.as_object_mut() else {
        return;
    };
    let metrics = section(map, "spec").and_then(|s| s.remove("metrics"));
    let (cpu, other): (Vec<Value>, Vec<Value>) = metrics
        .as_ref()
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default()
        .into_iter()
        .partition(|m| is_cpu_utilization(m, "target"));
    if let (Some(cpu), Some(spec)) = (cpu.first(), section(map, "spec")) {
        spec.insert(
            "targetCPUUtilizationPercentage".into(),
            cpu["resource"]["target"]["averageUtilization"].clone(),
        );
    }
    if !other.is_empty() {
        annotate(
            map,
            METRICS,
            &Value::Array(other.iter().map(to_alpha).collect()),
        );
    }
    if let Some(behavior) = section(map, "spec").and_then(|s| s.remove("behavior")) {
        annotate(map, BEHAVIOR, &behavior);
    }
    let current = section(map, "status").and_then(|s| s.remove("currentMetrics"));
    if let Some(list) = current
        .as_ref()
        .and_then(Value::as_array)
        .filter(|l| !l.is_empty())
    {
        annotate(
            map,
            CURRENT_METRICS,
            &Value::Array(list.iter().map(to_alpha).collect()),
        );
        let cpu = list.iter().find(|m| is_cpu_utilization(m, "current"));
        if let (Some(cpu), Some(status)) = (cpu, section(map, "status")) {
            status.insert(
                "currentCPUUtilizationPercentage".into(),
                cpu["resource"]["current"]["averageUtilization"].clone(),
            );
        }
    }
    let conditions = section(map, "status").and_then(|s| s.remove("conditions"));
    if let Some(conditions) = conditions.filter(|c| c.as_array().is_some_and(|l| !l.is_empty())) {
        annotate(map, CONDITIONS, &conditions);
    }
    if let Some(status) = section(map, "status") {
        status.entry("currentReplicas").or_insert(0.into());
        status.entry("desiredReplicas").or_insert(0.into());
    } else {
        map.insert(
            "status".into(),
            json!({"currentReplicas": 0, "desiredReplicas": 0}),
        );
    }
}

pub(super) fn v1_to_v2(object: &mut Value) {
    let Some(map) = object.as_object_mut() else {
        return;
    };
    let mut metrics: Vec<Value> = match unannotate(map, METRICS) {
        Some(Value::Array(list)) => list.iter().map(|m| from_alpha(m, "target")).collect(),
        _ => Vec::new(),
    };
    let cpu = section(map, "spec").and_then(|s| s.remove("targetCPUUtilizationPercentage"));
    // Only here it is known whether the annotations hold another metric.
    let percent = cpu
        .filter(Value::is_number)
        .or_else(|| metrics.is_empty().then(|| DEFAULT_CPU_UTILIZATION.into()));
    if let Some(percent) = percent {
        let target = json!({"type": "Utilization", "averageUtilization": percent});
        metrics.insert(
            0,
            json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}),
        );
    }
    let behavior = unannotate(map, BEHAVIOR);
    let current = unannotate(map, CURRENT_METRICS);
    let conditions = unannotate(map, CONDITIONS);
    if let Some(spec) = section(map, "spec") {
        spec.insert("metrics".into(), Value::Array(metrics));
        if let Some(behavior) = behavior {
            spec.insert("behavior".into(), behavior);
        }
    }
    if let Some(status) = section(map, "status") {
        status.remove("currentCPUUtilizationPercentage");
        let current = current.as_ref().and_then(Value::as_array);
        let list: Vec<Value> = current
            .into_iter()
            .flatten()
            .map(|m| from_alpha(m, "current"))
            .collect();
        status.insert(
            "currentMetrics".into(),
            if list.is_empty() {
                Value::Null
            } else {
                Value::Array(list)
            },
        );
        if let Some(conditions) = conditions {
            status.insert("conditions".into(), conditions);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_target_is_a_field_in_v1_and_a_metric_in_v2() {
        let mut own = json!({"metadata": {"name": "a"}, "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 60}});
        let old = own.clone();
        v1_to_v2(&mut own);
        assert_eq!(
            own["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"],
            60
        );
        v2_to_v1(&mut own);
        assert_eq!(own["spec"], old["spec"]);
        assert_eq!(own["metadata"], old["metadata"]);
    }

    #[test]
    fn v1_without_a_metric_aims_at_eighty_percent() {
        let mut own = json!({"metadata": {"name": "a"}, "spec": {"maxReplicas": 3}});
        v1_to_v2(&mut own);
        let metrics = &own["spec"]["metrics"];
        assert_eq!(metrics.as_array().map(Vec::len), Some(1));
        assert_eq!(
            metrics[0]["resource"]["target"]["averageUtilization"],
            DEFAULT_CPU_UTILIZATION
        );
    }

    #[test]
    fn what_v1_cannot_say_is_kept_in_annotations() {
        let spec = json!({"maxReplicas": 3, "behavior": {"scaleDown": {"selectPolicy": "Max"}}, "metrics": [
            {"type": "Pods", "pods": {"metric": {"name": "rps"}, "target": {"type": "AverageValue", "averageValue": "10"}}}]});
        let mut own = json!({"metadata": {"name": "a"}, "spec": spec.clone()});
        v2_to_v1(&mut own);
        assert!(
            own["metadata"]["annotations"][METRICS]
                .as_str()
                .is_some_and(|t| t.contains("metricName"))
        );
        v1_to_v2(&mut own);
        assert_eq!(own["spec"], spec);
        assert_eq!(own["metadata"], json!({"name": "a"}));
    }
}
