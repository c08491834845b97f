//! Pods and pod templates.

use std::collections::HashSet;

use serde_json::Value;

use super::storage::{self, SOURCES, fraction};
use super::{ip, items, nodes};

const NULL_SELECTOR: &str = "labelSelector: a null labelSelector results in matching no pod";

/// Annotations that had a meaning once.
const ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    (
        "security.alpha.kubernetes.io/sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
];

/// A pod or a pod template; `path` leads to it and ends with a dot, for a pod it is empty.
pub(super) fn pod(pod: &Value, path: &str, out: &mut Vec<String>) {
    let spec = &pod["spec"];
    node_labels(spec, path, out);
    for (i, constraint) in items(spec, "topologySpreadConstraints") {
        let own = format!("{path}spec.topologySpreadConstraints[{i}]");
        let key = constraint["topologyKey"].as_str().unwrap_or_default();
        if let Some(text) = nodes::deprecated(key) {
            out.push(format!("{own}.topologyKey: {key} is {text}"));
        }
        if constraint["labelSelector"].is_null() {
            out.push(format!("{own}.{NULL_SELECTOR}"));
        }
    }
    let annotations = &pod["metadata"]["annotations"];
    for (key, text) in ANNOTATIONS {
        if !annotations[key].is_null() {
            out.push(format!("{path}metadata.annotations[{key}]: {text}"));
        }
    }
    for (i, volume) in items(spec, "volumes") {
        self::volume(volume, &format!("{path}spec.volumes[{i}]"), out);
    }
    for (_, volume) in items(spec, "volumes") {
        overlaps(volume, out);
    }
    repeated(spec, path, out);
    for resource in ["memory", "ephemeral-storage"] {
        fraction(
            &spec["overhead"],
            resource,
            &format!("{path}spec.overhead"),
            out,
        );
    }
    profiles(pod, path, out);
    ports(spec, path, out);
    if spec["terminationGracePeriodSeconds"]
        .as_i64()
        .is_some_and(|s| s < 0)
    {
        let text = "must be >= 0; negative values are invalid and will be treated as 1";
        out.push(format!("{path}spec.terminationGracePeriodSeconds: {text}"));
    }
    affinity(spec, path, out);
}

fn node_labels(spec: &Value, path: &str, out: &mut Vec<String>) {
    let selector = spec["nodeSelector"].as_object();
    for key in selector.into_iter().flatten().map(|(k, _)| k) {
        if let Some(text) = nodes::deprecated(key) {
            out.push(format!("{path}spec.nodeSelector[{key}]: {text}"));
        }
    }
    let own = &spec["affinity"]["nodeAffinity"];
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let path = format!("{path}spec.affinity.nodeAffinity");
    for (i, term) in items(&own[required], "nodeSelectorTerms") {
        let path = format!("{path}.{required}.nodeSelectorTerms[{i}]");
        nodes::term(term, false, &path, out);
    }
    let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
    for (i, term) in items(own, preferred) {
        let path = format!("{path}.{preferred}[{i}].preference");
        nodes::term(&term["preference"], true, &path, out);
    }
}

fn affinity(spec: &Value, path: &str, out: &mut Vec<String>) {
    for name in ["podAffinity", "podAntiAffinity"] {
        let own = &spec["affinity"][name];
        let path = format!("{path}spec.affinity.{name}");
        let required = "requiredDuringSchedulingIgnoredDuringExecution";
        for (i, term) in items(own, required) {
            if term["labelSelector"].is_null() {
                out.push(format!("{path}.{required}[{i}].{NULL_SELECTOR}"));
            }
        }
        let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
        for (i, term) in items(own, preferred) {
            if term["podAffinityTerm"]["labelSelector"].is_null() {
                out.push(format!(
                    "{path}.{preferred}[{i}].podAffinityTerm.{NULL_SELECTOR}"
                ));
            }
        }
    }
}

fn volume(volume: &Value, path: &str, out: &mut Vec<String>) {
    for (source, shown, text) in SOURCES {
        if volume[source].is_object() {
            out.push(format!("{path}.{shown}: {text}"));
        }
    }
    let claim = &volume["ephemeral"]["volumeClaimTemplate"]["spec"];
    storage::amounts(
        claim,
        &format!("{path}.ephemeral.volumeClaimTemplate.spec"),
        out,
    );
}

/// A file of a volume, and what it is made of where there is more than one source.
struct File {
    path: String,
    source: String,
}

impl File {
    fn shown(&self) -> String {
        match self.source.as_str() {
            "" => format!("{:?}", self.path),
            source => format!("{:?} ({source})", self.path),
        }
    }

    /// One of the two is in the place of the other, or below it.
    fn meets(&self, other: &File) -> bool {
        let within = |a: &str, b: &str| {
            a.strip_prefix(b)
                .is_some_and(|r| r.is_empty() || r.starts_with('/'))
        };
        within(&self.path, &other.path) || within(&other.path, &self.path)
    }
}

fn files(list: &Value, source: &str) -> Vec<File> {
    let file = |(_, item): (usize, &Value)| File {
        path: item["path"]
            .as_str()
            .unwrap_or_default()
            .trim_end_matches('/')
            .to_owned(),
        source: source.to_owned(),
    };
    items(list, "items").map(file).collect()
}

/// Files of a volume that stand in each other's way.
fn overlaps(volume: &Value, out: &mut Vec<String>) {
    let name = volume["name"].as_str().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut tell = |what: &str, all: Vec<File>| {
        for (at, file) in all.iter().enumerate() {
            for other in all[..at].iter().filter(|o| o.meets(file)) {
                out.push(format!(
                    "volume {name:?} ({what}): overlapping paths: {} with {}",
                    file.shown(),
                    other.shown()
                ));
            }
        }
    };
    let map = &volume["configMap"];
    tell(
        &format!("ConfigMap {:?}", text(&map["name"])),
        files(map, ""),
    );
    let secret = &volume["secret"];
    tell(
        &format!("Secret {:?}", text(&secret["secretName"])),
        files(secret, ""),
    );
    tell("DownwardAPI", files(&volume["downwardAPI"], ""));
    if volume["projected"].is_object() {
        let mut all = Vec::new();
        let mut empty = 0;
        for (_, source) in items(&volume["projected"], "sources") {
            match projected(source) {
                Some(own) => all.extend(own),
                None => empty += 1,
            }
        }
        tell("Projected", all);
        for _ in 0..empty {
            out.push(format!(
                "volume {name:?} (Projected) has no sources provided"
            ));
        }
    }
}

/// The files of a source of a projected volume; `None` when it has no source at all.
fn projected(source: &Value) -> Option<Vec<File>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let one = |path: &Value, source: String| File {
        path: text(path).trim_end_matches('/').to_owned(),
        source,
    };
    let (kind, own) = source.as_object()?.iter().find(|(_, v)| !v.is_null())?;
    Some(match kind.as_str() {
        "configMap" => files(own, &format!("ConfigMap {:?}", text(&own["name"]))),
        "secret" => files(own, &format!("Secret {:?}", text(&own["name"]))),
        "downwardAPI" => files(own, "DownwardAPI"),
        "serviceAccountToken" => vec![one(&own["path"], "ServiceAccountToken".into())],
        "clusterTrustBundle" => {
            let name = if own["name"].is_null() {
                &own["signerName"]
            } else {
                &own["name"]
            };
            vec![one(
                &own["path"],
                format!("ClusterTrustBundle {:?}", text(name)),
            )]
        }
        _ => Vec::new(),
    })
}

/// Entries of lists that stand there twice, or that are empty.
fn repeated(spec: &Value, path: &str, out: &mut Vec<String>) {
    for (list, field) in [("hostAliases", "ip"), ("imagePullSecrets", "name")] {
        let mut known = HashSet::new();
        for (i, item) in items(spec, list) {
            let own = item[field].as_str().unwrap_or_default();
            let path = format!("{path}spec.{list}[{i}].{field}");
            if !known.insert(own) {
                out.push(format!("{path}: duplicate {field} {own:?}"));
            }
            if field == "ip" {
                ip(&path, own, out);
            }
        }
    }
    for (i, secret) in items(spec, "imagePullSecrets") {
        if secret["name"].as_str().unwrap_or_default().is_empty() {
            out.push(format!(
                "{path}spec.imagePullSecrets[{i}].name: invalid empty name \"\""
            ));
        }
    }
    for (i, server) in items(&spec["dnsConfig"], "nameservers") {
        let own = server.as_str().unwrap_or_default();
        ip(&format!("{path}spec.dnsConfig.nameservers[{i}]"), own, out);
    }
}

const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP: &str = "container.seccomp.security.alpha.kubernetes.io/";
const APPARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Annotations without the field that replaced them, and what containers have.
fn profiles(pod: &Value, path: &str, out: &mut Vec<String>) {
    let annotations = &pod["metadata"]["annotations"];
    let is_template = !path.is_empty();
    let instead = |out: &mut Vec<String>, key: &str, text: &str| {
        if !annotations[key].is_null() {
            out.push(format!("{path}metadata.annotations[{key}]: {text}"));
        }
    };
    let context = &pod["spec"]["securityContext"];
    let seccomp = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
    if context["seccompProfile"].is_null() {
        instead(out, SECCOMP_POD, seccomp);
    }
    for list in CONTAINERS {
        for (i, own) in items(&pod["spec"], list) {
            let name = own["name"].as_str().unwrap_or_default();
            let inner = &own["securityContext"];
            if inner["seccompProfile"].is_null() {
                instead(out, &format!("{SECCOMP}{name}"), seccomp);
            }
            let confined =
                !context["appArmorProfile"].is_null() || !inner["appArmorProfile"].is_null();
            if is_template && !confined {
                let text = "deprecated since v1.30; use the \"appArmorProfile\" field instead";
                instead(out, &format!("{APPARMOR}{name}"), text);
            }
            container(own, &format!("{path}spec.{list}[{i}]"), out);
        }
    }
}

fn container(own: &Value, path: &str, out: &mut Vec<String>) {
    for (list, resource) in [
        ("limits", "memory"),
        ("requests", "memory"),
        ("limits", "ephemeral-storage"),
        ("requests", "ephemeral-storage"),
    ] {
        fraction(
            &own["resources"][list],
            resource,
            &format!("{path}.resources.{list}"),
            out,
        );
    }
    let mut names = HashSet::new();
    for (i, env) in items(own, "env") {
        let name = env["name"].as_str().unwrap_or_default();
        // A variable may build on the one before it.
        let reference = format!("$({name})");
        let value = env["value"].as_str().unwrap_or_default();
        let builds_on =
            env["valueFrom"].is_null() && value != reference && value.contains(&reference);
        if !names.insert(name) && !builds_on {
            out.push(format!("{path}.env[{i}]: hides previous definition of \"{name}\", which may be dropped when using apply"));
        }
    }
}

/// Ports that more than one container has, or one container twice.
fn ports(spec: &Value, path: &str, out: &mut Vec<String>) {
    let mut known: Vec<(String, &Value)> = Vec::new();
    for list in CONTAINERS {
        for (i, container) in items(spec, list) {
            for (j, port) in items(container, "ports") {
                let at = format!("{path}spec.{list}[{i}].ports[{j}]");
                port_alone(port, &at, out);
                for (other, before) in &known {
                    if let Some(how) = meets(port, before) {
                        out.push(format!("{at}: {how} port definition with {other}"));
                    }
                }
                known.push((at, port));
            }
        }
    }
}

fn host(port: &Value) -> (&str, i64) {
    (
        port["hostIP"].as_str().unwrap_or_default(),
        port["hostPort"].as_i64().unwrap_or_default(),
    )
}

fn port_alone(port: &Value, at: &str, out: &mut Vec<String>) {
    let (address, number) = host(port);
    if !address.is_empty() && number == 0 {
        let text = |field: &str| port[field].as_str().unwrap_or_default();
        out.push(format!(
            "{at}: hostIP set without hostPort: {{Name:{} HostPort:0 ContainerPort:{} Protocol:{} HostIP:{address}}}",
            text("name"),
            port["containerPort"],
            text("protocol"),
        ));
    }
}

/// How two definitions of a port stand in each other's way.
fn meets(port: &Value, other: &Value) -> Option<&'static str> {
    if port["containerPort"] != other["containerPort"] || port["protocol"] != other["protocol"] {
        return None;
    }
    let ((address, number), (other_address, other_number)) = (host(port), host(other));
    if address == other_address && number == other_number {
        Some("duplicate")
    } else if number == 0 || other_number == 0 {
        Some("overlapping")
    } else if number == other_number && (address.is_empty() != other_address.is_empty()) {
        Some("dangerously ambiguous")
    } else {
        None
    }
}
