//! `autoscaling`: HorizontalPodAutoscalers.

use serde_json::{Value, json};

use super::{Object, object, object_or_new, set};

pub(super) fn apply(map: &mut Object, kind: &str, version: &str) {
    if kind != "HorizontalPodAutoscaler" {
        return;
    }
    let Some(spec) = object_or_new(map, "spec") else {
        return;
    };
    set(spec, "minReplicas", 1);
    if version == "v1" {
        return;
    }
    if spec
        .get("metrics")
        .and_then(Value::as_array)
        .is_none_or(Vec::is_empty)
    {
        let target = json!({"type": "Utilization", "averageUtilization": 80});
        spec.insert(
            "metrics".into(),
            json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]),
        );
    }
    if let Some(behavior) = object(spec, "behavior") {
        let pods = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
        let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
        if let Some(up) = object_or_new(behavior, "scaleUp") {
            set(up, "stabilizationWindowSeconds", 0);
            rules(up, json!([pods, percent]));
        }
        if let Some(down) = object_or_new(behavior, "scaleDown") {
            rules(down, json!([percent]));
        }
    }
}

fn rules(map: &mut Object, policies: Value) {
    set(map, "selectPolicy", "Max");
    set(map, "policies", policies);
}
