//! The core group, pods aside.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Cells;
use super::text::{View, condition, containers, is_true, labels, or_none, with_more};

pub(super) fn cells(view: View<'_>, kind: &str) -> Option<Cells> {
    let name = view.name();
    Some(match kind {
        "ConfigMap" => {
            let count = view.count("/data").as_u64().unwrap_or(0)
                + view.count("/binaryData").as_u64().unwrap_or(0);
            vec![name, count.into(), view.age()]
        }
        "Secret" => vec![
            name,
            view.text("/type").into(),
            view.count("/data"),
            view.age(),
        ],
        "ServiceAccount" => vec![name, view.age()],
        "Namespace" => vec![name, view.text("/status/phase").into(), view.age()],
        "Endpoints" => vec![name, endpoints(view).into(), view.age()],
        "Service" => service(view),
        "Node" => node(view),
        "Event" => event(view),
        "PersistentVolume" => persistent_volume(view),
        "PersistentVolumeClaim" => claim(view),
        "ReplicationController" => {
            let [names, images] = containers(view.at("/spec/template/spec"));
            let numbers = [
                "/spec/replicas",
                "/status/replicas",
                "/status/readyReplicas",
            ]
            .map(|p| view.number(p).into());
            let mut own = vec![name];
            own.extend(numbers);
            own.extend([
                view.age(),
                names,
                images,
                labels(view.at("/spec/selector")).into(),
            ]);
            own
        }
        "PodTemplate" => {
            let [names, images] = containers(view.at("/template/spec"));
            vec![
                name,
                names,
                images,
                labels(view.at("/template/metadata/labels")).into(),
            ]
        }
        "ResourceQuota" => quota(view),
        "ComponentStatus" => component_status(view),
        _ => return None,
    })
}

fn endpoints(view: View<'_>) -> String {
    let mut all = Vec::new();
    for subset in view.list("/subsets") {
        let addresses = || {
            subset["addresses"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|a| a["ip"].as_str())
        };
        let ports: Vec<i64> = subset["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|p| p["port"].as_i64())
            .collect();
        if ports.is_empty() {
            all.extend(addresses().map(str::to_owned));
        }
        for port in ports {
            all.extend(addresses().map(|ip| {
                if ip.contains(':') {
                    format!("[{ip}]:{port}")
                } else {
                    format!("{ip}:{port}")
                }
            }));
        }
    }
    with_more(&all, 3, ",", "<none>")
}

fn service(view: View<'_>) -> Cells {
    let texts = |pointer: &str| {
        view.list(pointer)
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let cluster_ip = texts("/spec/clusterIPs")
        .into_iter()
        .next()
        .unwrap_or_else(|| or_none(view.text("/spec/clusterIP").into()));
    let external_ips = texts("/spec/externalIPs");
    let external = match view.text("/spec/type") {
        "ClusterIP" | "NodePort" => or_none(external_ips.join(",")),
        "LoadBalancer" => {
            let mut all: Vec<String> = balancer(view).into_iter().collect();
            all.extend(external_ips);
            if all.is_empty() {
                "<pending>".into()
            } else {
                all.join(",")
            }
        }
        "ExternalName" => view.text("/spec/externalName").into(),
        _ => "<unknown>".into(),
    };
    let ports = view.list("/spec/ports").iter().map(|p| {
        let (port, protocol) = (
            p["port"].as_i64().unwrap_or(0),
            p["protocol"].as_str().unwrap_or_default(),
        );
        match p["nodePort"].as_i64().unwrap_or(0) {
            0 => format!("{port}/{protocol}"),
            node => format!("{port}:{node}/{protocol}"),
        }
    });
    vec![
        view.name(),
        view.text("/spec/type").into(),
        cluster_ip.into(),
        external.into(),
        or_none(ports.collect::<Vec<_>>().join(",")).into(),
        view.age(),
        labels(view.at("/spec/selector")).into(),
    ]
}

/// Addresses of a load balancer, sorted.
pub(super) fn balancer(view: View<'_>) -> BTreeSet<String> {
    let of = |i: &Value| {
        let ip = i["ip"].as_str().filter(|t| !t.is_empty());
        ip.or(i["hostname"].as_str().filter(|t| !t.is_empty()))
            .map(str::to_owned)
    };
    view.list("/status/loadBalancer/ingress")
        .iter()
        .filter_map(of)
        .collect()
}

fn node(view: View<'_>) -> Cells {
    let conditions = view.at("/status/conditions");
    let mut status = match condition(conditions, "Ready") {
        Some(_) if is_true(conditions, "Ready") => "Ready".to_owned(),
        Some(_) => "NotReady".into(),
        None => "Unknown".into(),
    };
    if view.flag("/spec/unschedulable") {
        status.push_str(",SchedulingDisabled");
    }
    let address = |kind: &str| {
        let own = view
            .list("/status/addresses")
            .iter()
            .find(|a| a["type"] == kind);
        Value::from(own.and_then(|a| a["address"].as_str()).unwrap_or("<none>"))
    };
    vec![
        view.name(),
        status.into(),
        roles(view).into(),
        view.age(),
        view.text("/status/nodeInfo/kubeletVersion").into(),
        address("InternalIP"),
        address("ExternalIP"),
        view.text_or("/status/nodeInfo/osImage", "<unknown>"),
        view.text_or("/status/nodeInfo/kernelVersion", "<unknown>"),
        view.text_or("/status/nodeInfo/containerRuntimeVersion", "<unknown>"),
    ]
}

fn roles(view: View<'_>) -> String {
    let own: BTreeSet<&str> = view
        .at("/metadata/labels")
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(
            |(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
                Some(role) if !role.is_empty() => Some(role),
                _ if key == "kubernetes.io/role" => value.as_str().filter(|v| !v.is_empty()),
                _ => None,
            },
        )
        .collect();
    or_none(own.into_iter().collect::<Vec<_>>().join(","))
}

fn event(view: View<'_>) -> Cells {
    let time = |pointer: &str| Some(view.since(pointer)).filter(|_| !view.at(pointer).is_null());
    let first = time("/firstTimestamp").unwrap_or_else(|| view.since("/eventTime"));
    let mut last = time("/lastTimestamp").unwrap_or_else(|| first.clone());
    let mut count = view.number("/count").max(1);
    if view.at("/series").is_object() {
        last = view.since("/series/lastObservedTime");
        count = view.number("/series/count");
    }
    let kind = view.text("/involvedObject/kind").to_lowercase();
    let target = match view.text("/involvedObject/name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let first_of = |a: &str, b: &str| {
        if view.text(a).is_empty() {
            view.text(b)
        } else {
            view.text(a)
        }
        .to_owned()
    };
    let mut source = first_of("/source/component", "/reportingComponent");
    let instance = first_of("/source/host", "/reportingInstance");
    if !instance.is_empty() {
        source = format!("{source}, {instance}");
    }
    vec![
        last.into(),
        view.text("/type").into(),
        view.text("/reason").into(),
        target.into(),
        view.text("/involvedObject/fieldPath").into(),
        source.into(),
        view.text("/message").trim().into(),
        first.into(),
        count.into(),
        view.name(),
    ]
}

fn access_modes(modes: &[Value]) -> String {
    const SHORT: [(&str, &str); 4] = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let own = SHORT
        .iter()
        .filter(|(long, _)| modes.iter().any(|m| m == long))
        .map(|(_, short)| *short);
    own.collect::<Vec<_>>().join(",")
}

fn phase(view: View<'_>) -> Value {
    if view.terminating() {
        "Terminating".into()
    } else {
        view.text("/status/phase").into()
    }
}

fn storage_class(view: View<'_>) -> Value {
    let old = view.at("/metadata/annotations/volume.beta.kubernetes.io~1storage-class");
    old.as_str()
        .unwrap_or_else(|| view.text("/spec/storageClassName"))
        .into()
}

fn persistent_volume(view: View<'_>) -> Cells {
    let claim = match view.text("/spec/claimRef/name") {
        "" if view.at("/spec/claimRef").is_null() => String::new(),
        name => format!("{}/{name}", view.text("/spec/claimRef/namespace")),
    };
    vec![
        view.name(),
        view.text_or("/spec/capacity/storage", "0"),
        access_modes(view.list("/spec/accessModes")).into(),
        view.text("/spec/persistentVolumeReclaimPolicy").into(),
        phase(view),
        claim.into(),
        storage_class(view),
        view.text_or("/spec/volumeAttributesClassName", "<unset>"),
        view.text("/status/reason").into(),
        view.age(),
        view.text_or("/spec/volumeMode", "<unset>"),
    ]
}

fn claim(view: View<'_>) -> Cells {
    let bound = !view.text("/spec/volumeName").is_empty();
    let (capacity, modes) = if bound {
        (
            view.text_or("/status/capacity/storage", "0"),
            access_modes(view.list("/status/accessModes")),
        )
    } else {
        ("".into(), String::new())
    };
    vec![
        view.name(),
        phase(view),
        view.text("/spec/volumeName").into(),
        capacity,
        modes.into(),
        storage_class(view),
        view.text_or("/spec/volumeAttributesClassName", "<unset>"),
        view.age(),
        view.text_or("/spec/volumeMode", "<unset>"),
    ]
}

fn quota(view: View<'_>) -> Cells {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (name, hard) in view.at("/status/hard").as_object().into_iter().flatten() {
        let used = view.at("/status/used")[name].as_str().unwrap_or("0");
        let text = format!("{name}: {used}/{}", hard.as_str().unwrap_or("0"));
        if name.starts_with("limits") {
            &mut limits
        } else {
            &mut requests
        }
        .push(text);
    }
    vec![
        view.name(),
        requests.join(", ").into(),
        limits.join(", ").into(),
        view.age(),
    ]
}

fn component_status(view: View<'_>) -> Cells {
    let healthy = condition(view.at("/conditions"), "Healthy");
    let text = |name: &str| Value::from(healthy.and_then(|c| c[name].as_str()).unwrap_or_default());
    let status = match healthy.and_then(|c| c["status"].as_str()) {
        Some("True") => "Healthy",
        Some("False") => "Unhealthy",
        _ => "Unknown",
    };
    vec![view.name(), status.into(), text("message"), text("error")]
}
