//! Pods stay for five minutes on a node that went away.

use serde_json::{Value, json};

use super::{Attributes, Operation};

const SECONDS: i64 = 300;
const TAINTS: [&str; 2] = [
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
];

pub(super) fn mutate(a: &mut Attributes<'_>) {
    let writes = matches!(a.operation, Operation::Create | Operation::Update);
    if !writes || !a.is_for("", "pods") {
        return;
    }
    if let Some(pod) = a.object.as_deref_mut() {
        add(pod);
    }
}

fn add(pod: &mut Value) {
    let mut all: Vec<Value> = pod["spec"]["tolerations"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let mut added = false;
    for taint in TAINTS {
        let tolerated = all.iter().any(|t| {
            let key = t["key"].as_str().unwrap_or_default();
            let effect = t["effect"].as_str().unwrap_or_default();
            (key == taint || key.is_empty()) && (effect == "NoExecute" || effect.is_empty())
        });
        if !tolerated {
            all.push(json!({
                "key": taint,
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": SECONDS,
            }));
            added = true;
        }
    }
    if added {
        pod["spec"]["tolerations"] = all.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_tolerated_already_is_left_alone() {
        let mut pod = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
        add(&mut pod);
        assert_eq!(pod["spec"]["tolerations"].as_array().map(Vec::len), Some(1));
        let mut pod = json!({"spec": {"tolerations": [{"key": TAINTS[0], "effect": "NoExecute"}]}});
        add(&mut pod);
        assert_eq!(pod["spec"]["tolerations"].as_array().map(Vec::len), Some(2));
    }
}
