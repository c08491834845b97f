//! Limit ranges: defaults for containers, and bounds that pods and claims have to keep.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use schema::quantity;
use serde_json::{Value, json};

use super::{Attributes, Operation};
use crate::registry::meta;
use crate::response::ApiError;

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

fn limits(a: &Attributes<'_>) -> Vec<Value> {
    let ranges = a.call.registry.list("", "limitranges", a.call.namespace());
    let items = ranges.iter().flat_map(|r| {
        r.value()["spec"]["limits"]
            .as_array()
            .cloned()
            .unwrap_or_default()
    });
    items.collect()
}

pub(super) fn mutate(a: &mut Attributes<'_>) {
    if !a.is_create_of("", "pods") {
        return;
    }
    let limits = limits(a);
    if let Some(pod) = a.object.as_deref_mut() {
        set_defaults(pod, &limits);
    }
}

/// Requests and limits that containers do not name; an annotation tells which.
fn set_defaults(pod: &mut Value, limits: &[Value]) {
    let mut set: Vec<String> = Vec::new();
    for limit in limits.iter().filter(|l| l["type"] == "Container") {
        for (list, word) in [
            ("containers", "container"),
            ("initContainers", "init container"),
        ] {
            let containers = pod
                .pointer_mut(&format!("/spec/{list}"))
                .and_then(Value::as_array_mut);
            for container in containers.into_iter().flatten() {
                let name = container["name"].as_str().unwrap_or_default().to_owned();
                for (kind, source, noun) in [
                    ("requests", "defaultRequest", "request"),
                    ("limits", "default", "limit"),
                ] {
                    let added = fill(container, kind, &limit[source]);
                    if !added.is_empty() {
                        set.push(format!("{} {noun} for {word} {name}", added.join(", ")));
                    }
                }
            }
        }
    }
    if set.is_empty() {
        return;
    }
    let annotations = meta::of_mut(pod)
        .entry("annotations")
        .or_insert_with(|| json!({}));
    if let Some(annotations) = annotations.as_object_mut() {
        let text = format!("LimitRanger plugin set: {}", set.join("; "));
        annotations.insert(ANNOTATION.into(), text.into());
    }
}

fn fill(container: &mut Value, kind: &str, defaults: &Value) -> Vec<String> {
    let Some(defaults) = defaults.as_object() else {
        return Vec::new();
    };
    if !container["resources"].is_object() {
        container["resources"] = json!({});
    }
    let mut own = container["resources"][kind]
        .as_object()
        .cloned()
        .unwrap_or_default();
    let missing: Vec<String> = defaults
        .keys()
        .filter(|k| !own.contains_key(*k))
        .cloned()
        .collect();
    for key in &missing {
        own.insert(key.clone(), defaults[key].clone());
    }
    if !missing.is_empty() {
        container["resources"][kind] = Value::Object(own);
    }
    missing
}

pub(super) fn validate(a: &Attributes<'_>) -> Result<(), ApiError> {
    let pods = a.is_create_of("", "pods");
    let claims = matches!(a.operation, Operation::Create | Operation::Update)
        && a.is_for("", "persistentvolumeclaims");
    if !pods && !claims {
        return Ok(());
    }
    let Some(object) = a.object.as_deref() else {
        return Ok(());
    };
    let limits = limits(a);
    let faults = if pods {
        pod_faults(object, &limits)
    } else {
        claim_faults(object, &limits)
    };
    match faults.as_slice() {
        [] => Ok(()),
        [one] => Err(a.forbidden(one)),
        many => Err(a.forbidden(&format!("[{}]", many.join(", ")))),
    }
}

type Amounts = BTreeMap<String, String>;

fn amounts(value: &Value) -> Amounts {
    let map = value.as_object();
    map.into_iter()
        .flatten()
        .filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())))
        .collect()
}

fn pod_faults(pod: &Value, limits: &[Value]) -> Vec<String> {
    let mut faults = Vec::new();
    for limit in limits {
        match limit["type"].as_str() {
            Some("Container") => {
                for list in ["containers", "initContainers"] {
                    for container in pod["spec"][list].as_array().into_iter().flatten() {
                        let resources = &container["resources"];
                        let (requests, own) = (
                            amounts(&resources["requests"]),
                            amounts(&resources["limits"]),
                        );
                        faults.extend(check("Container", limit, &requests, &own));
                    }
                }
            }
            Some("Pod") => {
                let (requests, own) = (pod_sum(pod, "requests"), pod_sum(pod, "limits"));
                faults.extend(check("Pod", limit, &requests, &own));
            }
            _ => {}
        }
    }
    faults
}

fn claim_faults(claim: &Value, limits: &[Value]) -> Vec<String> {
    let requests = amounts(&claim["spec"]["resources"]["requests"]);
    let own = limits
        .iter()
        .filter(|l| l["type"] == "PersistentVolumeClaim");
    own.flat_map(|limit| {
        let mut faults = Vec::new();
        for (name, bound) in amounts(&limit["min"]) {
            faults.extend(at_least("PersistentVolumeClaim", &name, &bound, requests.get(&name), None));
        }
        for (name, bound) in amounts(&limit["max"]) {
            if let Some(request) = requests.get(&name)
                && is(request, Ordering::Greater, &bound)
            {
                faults.push(format!(
                    "maximum {name} usage per PersistentVolumeClaim is {bound}, but request is {request}"
                ));
            }
        }
        faults
    })
    .collect()
}

/// The containers' sum, or the largest init container where that is more.
fn pod_sum(pod: &Value, kind: &str) -> Amounts {
    if let Some(own) = pod["spec"]["resources"].get(kind) {
        return amounts(own);
    }
    let mut sum = Amounts::new();
    for container in pod["spec"]["containers"].as_array().into_iter().flatten() {
        for (name, amount) in amounts(&container["resources"][kind]) {
            let total = match sum.get(&name) {
                Some(sum) => quantity::add(sum, &amount).unwrap_or(amount),
                None => amount,
            };
            sum.insert(name, total);
        }
    }
    for container in pod["spec"]["initContainers"]
        .as_array()
        .into_iter()
        .flatten()
    {
        for (name, amount) in amounts(&container["resources"][kind]) {
            if sum
                .get(&name)
                .is_none_or(|s| is(&amount, Ordering::Greater, s))
            {
                sum.insert(name, amount);
            }
        }
    }
    sum
}

fn is(a: &str, order: Ordering, b: &str) -> bool {
    quantity::compare(a, b).is_ok_and(|o| o == order)
}

fn check(kind: &str, limit: &Value, requests: &Amounts, limits: &Amounts) -> Vec<String> {
    let mut faults = Vec::new();
    for (name, bound) in amounts(&limit["min"]) {
        faults.extend(at_least(
            kind,
            &name,
            &bound,
            requests.get(&name),
            limits.get(&name),
        ));
    }
    for (name, bound) in amounts(&limit["max"]) {
        faults.extend(at_most(
            kind,
            &name,
            &bound,
            requests.get(&name),
            limits.get(&name),
        ));
    }
    for (name, ratio) in amounts(&limit["maxLimitRequestRatio"]) {
        faults.extend(within_ratio(
            kind,
            &name,
            &ratio,
            requests.get(&name),
            limits.get(&name),
        ));
    }
    faults
}

fn at_least(
    kind: &str,
    name: &str,
    bound: &str,
    request: Option<&String>,
    limit: Option<&String>,
) -> Option<String> {
    let Some(request) = request else {
        return Some(format!(
            "minimum {name} usage per {kind} is {bound}.  No request is specified"
        ));
    };
    if is(request, Ordering::Less, bound) {
        return Some(format!(
            "minimum {name} usage per {kind} is {bound}, but request is {request}"
        ));
    }
    limit
        .filter(|l| is(l, Ordering::Less, bound))
        .map(|limit| format!("minimum {name} usage per {kind} is {bound}, but limit is {limit}"))
}

fn at_most(
    kind: &str,
    name: &str,
    bound: &str,
    request: Option<&String>,
    limit: Option<&String>,
) -> Option<String> {
    let Some(limit) = limit else {
        return Some(format!(
            "maximum {name} usage per {kind} is {bound}.  No limit is specified"
        ));
    };
    if is(limit, Ordering::Greater, bound) {
        return Some(format!(
            "maximum {name} usage per {kind} is {bound}, but limit is {limit}"
        ));
    }
    request
        .filter(|r| is(r, Ordering::Greater, bound))
        .map(|request| {
            format!("maximum {name} usage per {kind} is {bound}, but request is {request}")
        })
}

fn within_ratio(
    kind: &str,
    name: &str,
    ratio: &str,
    request: Option<&String>,
    limit: Option<&String>,
) -> Option<String> {
    let positive =
        |amount: Option<&String>| amount.filter(|a| is(a, Ordering::Greater, "0")).cloned();
    let Some(request) = positive(request) else {
        return Some(format!(
            "{name} max limit to request ratio per {kind} is {ratio}, but no request is specified or request is 0"
        ));
    };
    let Some(limit) = positive(limit) else {
        return Some(format!(
            "{name} max limit to request ratio per {kind} is {ratio}, but no limit is specified or limit is 0"
        ));
    };
    let own = thousandths(&limit)? / thousandths(&request)?;
    let bound = thousandths(ratio)? / 1000.0;
    (own > bound).then(|| {
        format!("{name} max limit to request ratio per {kind} is {ratio}, but provided ratio is {own:.6}")
    })
}

/// An amount in thousandths, for ratios alone.
fn thousandths(text: &str) -> Option<f64> {
    let digits = text
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let number: f64 = number.parse().ok()?;
    let scale = match suffix {
        "m" => 1.0,
        "" => 1e3,
        "k" => 1e6,
        "M" => 1e9,
        "G" => 1e12,
        "T" => 1e15,
        "Ki" => 1e3 * 1024.0,
        "Mi" => 1e3 * 1024f64.powi(2),
        "Gi" => 1e3 * 1024f64.powi(3),
        "Ti" => 1e3 * 1024f64.powi(4),
        _ => return None,
    };
    Some(number * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_set_and_told() {
        let mut pod = json!({"spec": {"containers": [{"name": "c"}]}});
        let limits = [
            json!({"type": "Container", "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m"}}),
        ];
        set_defaults(&mut pod, &limits);
        assert_eq!(
            pod["spec"]["containers"][0]["resources"],
            json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "500m"}})
        );
        assert_eq!(
            pod["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu request for container c; cpu limit for container c"
        );
    }

    #[test]
    fn bounds_are_kept() {
        let pod = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"memory": "1Mi"}, "limits": {"memory": "4Mi"}}}]}});
        let check = |limit: Value, expect: &[&str]| assert_eq!(pod_faults(&pod, &[limit]), expect);
        check(
            json!({"type": "Container", "min": {"memory": "2Mi"}}),
            &["minimum memory usage per Container is 2Mi, but request is 1Mi"],
        );
        check(
            json!({"type": "Pod", "max": {"memory": "3Mi"}}),
            &["maximum memory usage per Pod is 3Mi, but limit is 4Mi"],
        );
        check(
            json!({"type": "Container", "maxLimitRequestRatio": {"memory": "2"}}),
            &[
                "memory max limit to request ratio per Container is 2, but provided ratio is 4.000000",
            ],
        );
        check(json!({"type": "Container", "max": {"memory": "4Mi"}}), &[]);
    }
}
