//! From a Service and its pods to the endpoints that there should be.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use super::pack::Group;
use crate::framework::pods;

pub(crate) const ZONE: &str = "topology.kubernetes.io/zone";

/// Whether this controller makes endpoints for the Service.
pub(crate) fn is_selecting(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| {
        spec.type_.as_deref() != Some("ExternalName")
            && spec
                .selector
                .as_ref()
                .is_some_and(|selector| !selector.is_empty())
    })
}

pub(crate) fn is_headless(service: &Service) -> bool {
    service
        .spec
        .as_ref()
        .and_then(|spec| spec.cluster_ip.as_deref())
        == Some("None")
}

pub(crate) fn publishes_unready(service: &Service) -> bool {
    service
        .spec
        .as_ref()
        .and_then(|spec| spec.publish_not_ready_addresses)
        .unwrap_or(false)
}

/// `IPv4` and `IPv6` as the Service wants them.
pub(crate) fn address_types(service: &Service) -> Vec<String> {
    let spec = service.spec.clone().unwrap_or_default();
    if let Some(families) = spec.ip_families.filter(|families| !families.is_empty()) {
        return families;
    }
    let is_v6 = spec
        .cluster_ip
        .and_then(|ip| ip.parse::<IpAddr>().ok())
        .is_some_and(|ip| ip.is_ipv6());
    vec![if is_v6 { "IPv6" } else { "IPv4" }.to_owned()]
}

/// Whether the pod has an address that may be told: it has not ended for good.
pub(crate) fn has_endpoint(pod: &Pod, terminating_too: bool) -> bool {
    let told = terminating_too || !pods::is_terminating(pod);
    told && !pods::is_terminal(pod) && !addresses(pod).is_empty()
}

fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    let all = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut parsed: Vec<IpAddr> = all.filter_map(|ip| ip.parse().ok()).collect();
    if parsed.is_empty() {
        parsed.extend(
            status
                .pod_ip
                .as_deref()
                .and_then(|ip| ip.parse::<IpAddr>().ok()),
        );
    }
    parsed
}

/// The pod's address of a family.
pub(crate) fn address(pod: &Pod, address_type: &str) -> Option<IpAddr> {
    addresses(pod)
        .into_iter()
        .find(|ip| ip.is_ipv6() == (address_type == "IPv6"))
}

/// The number behind a Service's port in this pod; a named target port is looked up in the
/// containers. None if the pod has no such port.
pub(crate) fn target_port(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let sidecars = spec.init_containers.iter().flatten();
            let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
            let ports = spec
                .containers
                .iter()
                .chain(sidecars)
                .flat_map(|c| c.ports.iter().flatten());
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let mut named = ports.filter(|candidate| {
                candidate.name.as_ref() == Some(name)
                    && candidate.protocol.as_deref().unwrap_or("TCP") == protocol
            });
            named.next().map(|candidate| candidate.container_port)
        }
    }
}

fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let wanted = service
        .spec
        .iter()
        .flat_map(|spec| spec.ports.iter().flatten());
    wanted
        .filter_map(|port| {
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(target_port(port, pod)?),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect()
}

pub(crate) fn target(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// The name that DNS gives the pod within a headless Service.
pub(crate) fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let hostname = spec.hostname.clone().filter(|name| !name.is_empty())?;
    (spec.subdomain.as_ref() == service.metadata.name.as_ref()).then_some(hostname)
}

fn endpoint(pod: &Pod, ip: IpAddr, node: Option<&Node>, service: &Service) -> Endpoint {
    let serving = pods::is_ready(pod);
    let terminating = pods::is_terminating(pod);
    let ready = publishes_unready(service) || (serving && !terminating);
    let zone = node.and_then(|node| node.labels().get(ZONE).cloned());
    let node_name = Some(pods::node_name(pod)).filter(|name| !name.is_empty());
    let mut endpoint = Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname(pod, service),
        node_name: node_name.map(str::to_owned),
        target_ref: Some(target(pod)),
        zone: zone.filter(|zone| !zone.is_empty()),
        ..Endpoint::default()
    };
    endpoint.hints = hints(&endpoint, service, ready);
    endpoint
}

/// Near endpoints are preferred by telling each endpoint whom it is for.
fn hints(endpoint: &Endpoint, service: &Service, ready: bool) -> Option<EndpointHints> {
    let wish = service.spec.as_ref()?.traffic_distribution.as_deref()?;
    if !ready {
        return None;
    }
    let for_zones = endpoint.zone.clone().map(|name| vec![ForZone { name }]);
    let for_nodes = endpoint
        .node_name
        .clone()
        .map(|name| vec![ForNode { name }]);
    match wish {
        "PreferClose" | "PreferSameZone" if for_zones.is_some() => Some(EndpointHints {
            for_zones,
            for_nodes: None,
        }),
        "PreferSameNode" if for_nodes.is_some() => Some(EndpointHints {
            for_zones,
            for_nodes,
        }),
        _ => None,
    }
}

/// The endpoints of a Service, grouped by address type and by the ports that their pods have.
/// A pod whose node is gone is no endpoint any more.
pub(crate) fn groups(
    service: &Service,
    pods: &[Arc<Pod>],
    node: impl Fn(&str) -> Option<Arc<Node>>,
) -> Vec<Group> {
    let mut groups: BTreeMap<(String, String), Group> = BTreeMap::new();
    for address_type in address_types(service) {
        for pod in pods.iter().filter(|pod| has_endpoint(pod, true)) {
            let Some(ip) = address(pod, &address_type) else {
                continue;
            };
            let node = node(pods::node_name(pod));
            if node.is_none() && !publishes_unready(service) {
                continue;
            }
            let ports = ports(service, pod);
            let key = (address_type.clone(), format!("{ports:?}"));
            let group = groups
                .entry(key)
                .or_insert_with(|| Group::new(&address_type, ports));
            group
                .endpoints
                .push(endpoint(pod, ip, node.as_deref(), service));
        }
    }
    groups.into_values().collect()
}
