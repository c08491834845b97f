//! From a Service to the address of one of its ready endpoints.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use crate::registry::Cacher;
use crate::registry::cache::{Filter, object_key};

/// Addresses that a Service's port leads to; the text says what is missing.
pub(crate) fn service_address(
    cacher: &Cacher,
    namespace: &str,
    name: &str,
    port: u16,
) -> Result<SocketAddr, String> {
    let key = object_key("", "services", namespace, name);
    let service = cacher
        .resource("", "services")
        .get(&key)
        .ok_or_else(|| format!("service {name:?} not found"))?
        .value();
    let ports = service["spec"]["ports"].as_array();
    let chosen = ports
        .into_iter()
        .flatten()
        .find(|p| p["port"].as_u64() == Some(port.into()))
        .ok_or_else(|| format!("no service port {port} found for service {name:?}"))?;
    let (address, port) = ready_endpoint(cacher, namespace, name, chosen)
        .ok_or_else(|| format!("no endpoints available for service {name:?}"))?;
    Ok(SocketAddr::new(address, port))
}

/// Any ready endpoint of a Service's port (an entry of its `ports`).
pub(crate) fn ready_endpoint(
    cacher: &Cacher,
    namespace: &str,
    name: &str,
    port: &Value,
) -> Option<(IpAddr, u16)> {
    let filter = Filter {
        namespace: namespace.to_owned(),
        ..Filter::default()
    };
    let slices = cacher.resource("discovery.k8s.io", "endpointslices");
    let mut found: Vec<(IpAddr, u16)> = slices
        .list(&filter, None, 0, 0)
        .objects
        .iter()
        .filter(|s| s.label("kubernetes.io/service-name") == Some(name))
        .flat_map(|s| endpoints(&s.value(), port))
        .collect();
    if found.is_empty() {
        return None;
    }
    let pick = rand::random_range(0..found.len());
    Some(found.swap_remove(pick))
}

fn endpoints(slice: &Value, port: &Value) -> Vec<(IpAddr, u16)> {
    let name = port["name"].as_str().unwrap_or_default();
    let same = |p: &&Value| p["name"].as_str().unwrap_or_default() == name;
    let ports = slice["ports"].as_array();
    let number = ports
        .and_then(|ports| ports.iter().find(same))
        .and_then(|p| p["port"].as_u64())
        .and_then(|p| u16::try_from(p).ok());
    let Some(number) = number else {
        return Vec::new();
    };
    slice["endpoints"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|e| e["conditions"]["ready"] != false)
        .filter_map(|e| Some((e["addresses"][0].as_str()?.parse().ok()?, number)))
        .collect()
}
