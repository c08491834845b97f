//! Pods and pod templates.

use serde_json::{Value, json};

use super::{Object, has, object, object_or_new, objects, set, text};
use crate::quantity;

const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// What a pod has and a template has not.
pub(super) fn pod(map: &mut Object) {
    if let Some(spec) = object(map, "spec") {
        for container in objects_of(spec, &CONTAINERS[..2]) {
            requests_from_limits(container);
        }
        pod_level_requests(spec);
        set(spec, "enableServiceLinks", true);
        if spec.get("hostNetwork") == Some(&Value::Bool(true)) {
            for container in objects_of(spec, &CONTAINERS[..2]) {
                for port in objects(container, "ports") {
                    let number = port.get("containerPort").cloned().unwrap_or(0.into());
                    set(port, "hostPort", number);
                }
            }
        }
    }
    template(map);
    if let Some(status) = object_or_new(map, "status") {
        set(status, "phase", "Pending");
    }
}

fn objects_of<'a>(spec: &'a mut Object, names: &'a [&str]) -> impl Iterator<Item = &'a mut Object> {
    spec.iter_mut()
        .filter(|(name, _)| names.contains(&name.as_str()))
        .filter_map(|(_, list)| list.as_array_mut())
        .flatten()
        .filter_map(Value::as_object_mut)
}

fn requests_from_limits(container: &mut Object) {
    let Some(resources) = object(container, "resources") else {
        return;
    };
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else {
        return;
    };
    if let Some(requests) = object_or_new(resources, "requests") {
        for (name, amount) in limits {
            set(requests, &name, amount);
        }
    }
}

/// Resources that a pod as a whole can ask for.
fn pod_level(name: &str) -> bool {
    name == "cpu" || name == "memory" || name.starts_with("hugepages-")
}

/// Requests of the whole pod: those of its containers together, else its limits.
fn pod_level_requests(spec: &mut Object) {
    let limits = spec
        .get("resources")
        .and_then(|r| r.get("limits"))
        .and_then(Value::as_object)
        .cloned();
    let Some(limits) = limits.filter(|l| !l.is_empty()) else {
        return;
    };
    let sums = container_requests(spec);
    let Some(requests) = object(spec, "resources").and_then(|r| object_or_new(r, "requests"))
    else {
        return;
    };
    for (name, amount) in sums.into_iter().chain(limits) {
        if pod_level(&name) {
            set(requests, &name, amount);
        }
    }
    if requests.is_empty()
        && let Some(resources) = object(spec, "resources")
    {
        resources.remove("requests");
    }
}

/// The sum over the containers, sidecars included; init containers count when larger.
fn container_requests(spec: &Object) -> Object {
    let list = |name: &str| {
        spec.get(name)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
    };
    let mut sum = Object::new();
    let mut add = |container: &Value| {
        for (name, amount) in container["resources"]["requests"]
            .as_object()
            .into_iter()
            .flatten()
        {
            let amount = amount.as_str().unwrap_or("0");
            let total = sum.get(name).and_then(Value::as_str).unwrap_or("0");
            let total = quantity::add(total, amount).unwrap_or_else(|_| amount.to_owned());
            sum.insert(name.clone(), total.into());
        }
    };
    list("containers").for_each(&mut add);
    list("initContainers")
        .filter(|c| c["restartPolicy"] == "Always")
        .for_each(&mut add);
    for container in list("initContainers").filter(|c| c["restartPolicy"] != "Always") {
        for (name, amount) in container["resources"]["requests"]
            .as_object()
            .into_iter()
            .flatten()
        {
            let total = sum.get(name).and_then(Value::as_str).unwrap_or("0");
            if quantity::compare(amount.as_str().unwrap_or("0"), total)
                == Ok(std::cmp::Ordering::Greater)
            {
                sum.insert(name.clone(), amount.clone());
            }
        }
    }
    sum
}

/// The template (or pod) whose spec is in `map`.
pub(super) fn template(map: &mut Object) {
    let Some(spec) = object_or_new(map, "spec") else {
        return;
    };
    service_account(spec);
    set(spec, "dnsPolicy", "ClusterFirst");
    set(spec, "restartPolicy", "Always");
    set(spec, "securityContext", json!({}));
    set(spec, "terminationGracePeriodSeconds", 30);
    set(spec, "schedulerName", "default-scheduler");
    for container in objects_of(spec, &CONTAINERS) {
        self::container(container);
    }
    for volume in objects(spec, "volumes") {
        self::volume(volume);
    }
}

/// One account under its old and its new name.
fn service_account(spec: &mut Object) {
    for (from, to) in [
        ("serviceAccount", "serviceAccountName"),
        ("serviceAccountName", "serviceAccount"),
    ] {
        if !text(spec, from).is_empty() && (to == "serviceAccount" || text(spec, to).is_empty()) {
            let name = text(spec, from).to_owned();
            spec.insert(to.into(), name.into());
        }
    }
}

fn container(map: &mut Object) {
    let policy = pull_policy(text(map, "image"));
    set(map, "imagePullPolicy", policy);
    set(map, "terminationMessagePath", "/dev/termination-log");
    set(map, "terminationMessagePolicy", "File");
    for port in objects(map, "ports") {
        set(port, "protocol", "TCP");
    }
    for env in objects(map, "env") {
        let Some(from) = object(env, "valueFrom") else {
            continue;
        };
        if let Some(field) = object(from, "fieldRef") {
            set(field, "apiVersion", "v1");
        }
        if let Some(file) = object(from, "fileKeyRef") {
            set(file, "optional", false);
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = object(map, name) {
            handler(probe);
            set(probe, "timeoutSeconds", 1);
            set(probe, "periodSeconds", 10);
            set(probe, "successThreshold", 1);
            set(probe, "failureThreshold", 3);
        }
    }
    if let Some(lifecycle) = object(map, "lifecycle") {
        for name in ["postStart", "preStop"] {
            if let Some(hook) = object(lifecycle, name) {
                handler(hook);
            }
        }
    }
}

fn handler(map: &mut Object) {
    if let Some(http) = object(map, "httpGet") {
        set(http, "path", "/");
        set(http, "scheme", "HTTP");
    }
    if let Some(grpc) = object(map, "grpc") {
        set(grpc, "service", "");
    }
}

/// `Always` for the tag `latest`, said or meant.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = image
        .split_once('@')
        .map_or((image, false), |(n, _)| (n, true));
    let last = name.rsplit('/').next().unwrap_or_default();
    match last.split_once(':') {
        Some((_, "latest")) => "Always",
        None if !digest && valid_name(name) => "Always",
        _ => "IfNotPresent",
    }
}

/// Whether upstream's parser takes it for an image name without a tag.
fn valid_name(name: &str) -> bool {
    let ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    let mut parts = name.split('/');
    let first = parts.next().unwrap_or_default();
    let domain = first
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || ".-:_[]".contains(c));
    let rest: Vec<&str> = parts.collect();
    let first_ok = if rest.is_empty() {
        first.chars().all(ok)
    } else {
        domain
    };
    let edges = |p: &&str| {
        !p.is_empty() && !p.starts_with(['.', '-', '_']) && !p.ends_with(['.', '-', '_'])
    };
    first_ok && edges(&first) && rest.iter().all(|p| p.chars().all(ok) && edges(p))
}

/// A volume of a pod.
fn volume(map: &mut Object) {
    if map
        .iter()
        .all(|(name, value)| name == "name" || value.is_null())
    {
        map.insert("emptyDir".into(), json!({}));
    }
    for name in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = object(map, name) {
            set(source, "defaultMode", 420);
            downward_items(source);
            for projected in objects(source, "sources") {
                if let Some(token) = object(projected, "serviceAccountToken") {
                    set(token, "expirationSeconds", 3600);
                }
                if let Some(downward) = object(projected, "downwardAPI") {
                    downward_items(downward);
                }
            }
        }
    }
    if let Some(image) = object(map, "image") {
        let policy = pull_policy(text(image, "reference"));
        set(image, "pullPolicy", policy);
    }
    if let Some(claim) = super::at(map, &["ephemeral", "volumeClaimTemplate"])
        && let Some(spec) = object_or_new(claim, "spec")
    {
        set(spec, "volumeMode", "Filesystem");
    }
    volume_source(map);
}

fn downward_items(source: &mut Object) {
    for item in objects(source, "items") {
        if let Some(field) = object(item, "fieldRef") {
            set(field, "apiVersion", "v1");
        }
    }
}

/// Sources that a volume and a persistent volume have in common.
pub(super) fn volume_source(map: &mut Object) {
    if let Some(host) = object(map, "hostPath") {
        set(host, "type", "");
    }
    if let Some(disk) = object(map, "azureDisk") {
        set(disk, "readOnly", false);
    }
}

/// Whether nothing was said about the claim's mode.
pub(super) fn claim(map: &mut Object) {
    if let Some(spec) = object_or_new(map, "spec") {
        set(spec, "volumeMode", "Filesystem");
    }
    if let Some(status) = object_or_new(map, "status")
        && !has(status, "phase")
    {
        status.insert("phase".into(), "Pending".into());
    }
}

#[cfg(test)]
mod tests {
    use super::pull_policy;

    #[test]
    fn latest_images_are_always_pulled() {
        for (image, expect) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.2", "IfNotPresent"),
            ("host:5000/a/nginx", "Always"),
            ("host:5000/a/nginx:1", "IfNotPresent"),
            ("nginx@sha256:0", "IfNotPresent"),
            ("", "IfNotPresent"),
            ("NGINX", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), expect, "{image}");
        }
    }
}
