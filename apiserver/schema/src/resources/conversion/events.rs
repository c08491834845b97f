//! Events: `v1` (stored) and `events.k8s.io/v1` are one object with other field names.

use serde_json::{Map, Value};

/// Fields with another name: core, events.k8s.io.
const RENAMED: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// Fields that the core version always writes.
const CORE_ALWAYS: [(&str, &str); 2] = [("reportingComponent", ""), ("reportingInstance", "")];

fn rename(map: &mut Map<String, Value>, pairs: impl Iterator<Item = (&'static str, &'static str)>) {
    for (from, to) in pairs {
        if let Some(value) = map.remove(from) {
            map.insert(to.into(), value);
        }
    }
}

pub(super) fn core_to_events(object: &mut Value) {
    let Some(map) = object.as_object_mut() else {
        return;
    };
    rename(map, RENAMED.iter().copied());
    for name in ["reportingController", "reportingInstance"] {
        if map.get(name).and_then(Value::as_str) == Some("") {
            map.remove(name);
        }
    }
    for (name, empty) in [
        ("deprecatedSource", Value::Object(Map::new())),
        ("regarding", Value::Object(Map::new())),
    ] {
        map.entry(name).or_insert(empty);
    }
    for name in ["deprecatedFirstTimestamp", "deprecatedLastTimestamp"] {
        map.entry(name).or_insert(Value::Null);
    }
}

pub(super) fn events_to_core(object: &mut Value) {
    let Some(map) = object.as_object_mut() else {
        return;
    };
    rename(map, RENAMED.iter().map(|(core, events)| (*events, *core)));
    for (name, empty) in CORE_ALWAYS {
        map.entry(name).or_insert(empty.into());
    }
    for name in ["firstTimestamp", "lastTimestamp", "eventTime"] {
        map.entry(name).or_insert(Value::Null);
    }
    for name in ["source", "involvedObject"] {
        map.entry(name).or_insert(Value::Object(Map::new()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_survives_the_round_trip() {
        let core = json!({"involvedObject": {"kind": "Pod"}, "message": "m", "reason": "r", "source": {"component": "c"},
            "firstTimestamp": null, "lastTimestamp": null, "eventTime": null, "count": 2, "type": "Normal",
            "reportingComponent": "", "reportingInstance": ""});
        let mut own = core.clone();
        core_to_events(&mut own);
        assert_eq!(own["note"], "m");
        assert_eq!(own["regarding"]["kind"], "Pod");
        assert!(own.get("reportingController").is_none());
        events_to_core(&mut own);
        assert_eq!(own, core);
    }
}
