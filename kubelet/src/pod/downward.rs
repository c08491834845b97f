//! What a pod may know about itself: field references and resource references.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, ObjectFieldSelector, Pod, ResourceFieldSelector};

use super::containers;
use super::resources::{self, Side};
use crate::quantity::{ResourceList, amount, milli, nanos};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DownwardError {
    #[error("unsupported fieldPath: {0}")]
    Field(String),
    #[error("unsupported container resource : {0}")]
    Resource(String),
    #[error("container {0} not found")]
    Container(String),
}

/// What the references can see beside the pod itself.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    pub pod_ips: &'a [IpAddr],
    pub host_ips: &'a [IpAddr],
    pub node_name: &'a str,
    /// What the node can give away: the limit of a container without one.
    pub allocatable: &'a ResourceList,
}

fn joined(ips: &[IpAddr]) -> String {
    ips.iter()
        .take(2)
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

/// The text of `key="value"` lines, as downward API volumes have labels and annotations.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    map.into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", quoted(value)))
        .collect::<Vec<_>>()
        .join("\n")
}

/// A string in quotes, with the escapes of Go's `%q`.
fn quoted(text: &str) -> String {
    let mut output = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => output.push_str("\\\""),
            '\\' => output.push_str("\\\\"),
            '\n' => output.push_str("\\n"),
            '\r' => output.push_str("\\r"),
            '\t' => output.push_str("\\t"),
            '\u{7}' => output.push_str("\\a"),
            '\u{8}' => output.push_str("\\b"),
            '\u{b}' => output.push_str("\\v"),
            '\u{c}' => output.push_str("\\f"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                output.push_str(&format!("\\x{:02x}", c as u32));
            }
            c => output.push(c),
        }
    }
    output.push('"');
    output
}

/// The key in `metadata.labels['KEY']`.
fn subscript<'a>(path: &'a str, map: &str) -> Option<&'a str> {
    path.strip_prefix(map)?
        .strip_prefix("['")?
        .strip_suffix("']")
}

/// The value of a field reference.
pub fn field(
    pod: &Pod,
    selector: &ObjectFieldSelector,
    around: &Surroundings<'_>,
) -> Result<String, DownwardError> {
    let path = selector.field_path.as_str();
    let meta = &pod.metadata;
    let labels = meta.labels.as_ref();
    let annotations = meta.annotations.as_ref();
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    if let Some(key) = subscript(path, "metadata.labels") {
        return Ok(labels
            .and_then(|map| map.get(key))
            .cloned()
            .unwrap_or_default());
    }
    if let Some(key) = subscript(path, "metadata.annotations") {
        return Ok(annotations
            .and_then(|map| map.get(key))
            .cloned()
            .unwrap_or_default());
    }
    let spec = containers::spec(pod);
    Ok(match path {
        "metadata.name" => text(&meta.name),
        "metadata.namespace" => text(&meta.namespace),
        "metadata.uid" => text(&meta.uid),
        "metadata.labels" => lines(labels),
        "metadata.annotations" => lines(annotations),
        "spec.nodeName" => around.node_name.to_owned(),
        "spec.serviceAccountName" => text(&spec.service_account_name),
        "status.hostIP" => around
            .host_ips
            .first()
            .map(ToString::to_string)
            .unwrap_or_default(),
        "status.hostIPs" => joined(around.host_ips),
        "status.podIP" => around
            .pod_ips
            .first()
            .map(ToString::to_string)
            .unwrap_or_default(),
        "status.podIPs" => joined(around.pod_ips),
        _ => return Err(DownwardError::Field(path.to_owned())),
    })
}

/// The value of a resource reference. `own` is the container that refers, for references
/// without a container name.
pub fn resource(
    pod: &Pod,
    own: Option<&Container>,
    selector: &ResourceFieldSelector,
    around: &Surroundings<'_>,
) -> Result<String, DownwardError> {
    let name = selector.container_name.as_deref().unwrap_or_default();
    let named = containers::find(pod, name);
    let container = match (name, own, &named) {
        ("", Some(own), _) => own,
        (_, _, Some(spec)) => &*spec.container,
        _ => return Err(DownwardError::Container(name.to_owned())),
    };
    let unsupported = || DownwardError::Resource(selector.resource.clone());
    let (side, resource) = selector.resource.split_once('.').ok_or_else(unsupported)?;
    let known = matches!(resource, "cpu" | "memory" | "ephemeral-storage")
        || resource.starts_with("hugepages-");
    let side = match side {
        "limits" if known => Side::Limits,
        "requests" if known => Side::Requests,
        _ => return Err(unsupported()),
    };
    let own = resources::of_container(container, side, resource);
    let amount = own
        .filter(|amount| *amount != 0)
        .unwrap_or_else(|| match side {
            // Without a limit a container may use what the node has.
            Side::Limits => around
                .allocatable
                .get(resource)
                .map_or(0, |q| amount(resource, q)),
            Side::Requests => 0,
        });
    Ok(divided(resource, amount, selector).to_string())
}

/// The amount in units of the divisor, rounded up.
fn divided(resource: &str, amount: i64, selector: &ResourceFieldSelector) -> i64 {
    let divisor = selector
        .divisor
        .as_ref()
        .filter(|divisor| nanos(&divisor.0) != Some(0));
    let divisor = match (resource, divisor) {
        ("cpu", Some(divisor)) => milli(divisor).max(1),
        ("cpu", None) => 1000,
        (_, Some(divisor)) => crate::quantity::value(divisor).max(1),
        (_, None) => 1,
    };
    amount / divisor + i64::from(amount % divisor != 0)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    use serde_json::json;

    use super::*;
    use crate::testing::pod;

    fn check(path: &str, expected: Result<&str, DownwardError>) {
        let pod = pod(json!({
            "metadata": {"labels": {"a": "1", "b": "x\"y"}, "annotations": {"k/x": "v\nw"}},
            "spec": {"containers": [], "serviceAccountName": "sa"},
        }));
        let ips: Vec<IpAddr> = vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        let allocatable = ResourceList::new();
        let around = Surroundings {
            pod_ips: &ips,
            host_ips: &ips[..1],
            node_name: "n1",
            allocatable: &allocatable,
        };
        let selector = ObjectFieldSelector {
            field_path: path.into(),
            api_version: None,
        };
        assert_eq!(
            field(&pod, &selector, &around),
            expected.map(str::to_owned),
            "{path}"
        );
    }

    #[test]
    fn fields_are_read_by_their_paths() {
        check("metadata.name", Ok("p"));
        check("metadata.labels", Ok("a=\"1\"\nb=\"x\\\"y\""));
        check("metadata.labels['a']", Ok("1"));
        check("metadata.annotations['k/x']", Ok("v\nw"));
        check("metadata.annotations['none']", Ok(""));
        check("status.podIPs", Ok("10.0.0.1,fd00::1"));
        check("status.hostIP", Ok("10.0.0.1"));
        check("spec.nodeName", Ok("n1"));
        check(
            "spec.hostname",
            Err(DownwardError::Field("spec.hostname".into())),
        );
    }

    #[test]
    fn resources_divide_and_fall_back_to_the_node() {
        let pod = pod(json!({"spec": {"containers": [{"name": "c", "resources": {
            "requests": {"cpu": "250m"}, "limits": {"memory": "64Mi"}}}]}}));
        let allocatable = ResourceList::from([("cpu".into(), Quantity("2".into()))]);
        let around = Surroundings {
            pod_ips: &[],
            host_ips: &[],
            node_name: "n",
            allocatable: &allocatable,
        };
        for (name, divisor, expected) in [
            ("requests.cpu", None, "1"),
            ("requests.cpu", Some("1m"), "250"),
            ("limits.memory", Some("1Mi"), "64"),
            ("limits.memory", None, "67108864"),
            ("limits.cpu", None, "2"),
            ("limits.cpu", Some("0"), "2"),
            ("requests.memory", Some("1Mi"), "64"),
        ] {
            let selector = ResourceFieldSelector {
                container_name: Some("c".into()),
                divisor: divisor.map(|text: &str| Quantity(text.into())),
                resource: name.into(),
            };
            assert_eq!(
                resource(&pod, None, &selector, &around).as_deref(),
                Ok(expected),
                "{name}"
            );
        }
    }
}
