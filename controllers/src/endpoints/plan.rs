//! The Endpoints object of a Service: addresses grouped by the ports that they share.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use crate::endpointslice::desired;
use crate::framework::pods;

pub(crate) const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const HEADLESS: &str = "service.kubernetes.io/headless";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// The most addresses that an Endpoints object has.
const CAPACITY: usize = 1000;

type PortKey = (String, i32, String, Option<String>);

/// An address with the pod behind it, ready or not.
#[derive(Debug, Clone, PartialEq)]
struct Place {
    address: EndpointAddress,
    ready: bool,
}

/// The object as it should be.
pub(crate) fn endpoints(
    service: &Service,
    pods: &[Arc<Pod>],
    current: Option<&Endpoints>,
) -> Endpoints {
    let (subsets, truncated) = subsets(service, pods);
    let mut metadata = match current {
        Some(current) => current.metadata.clone(),
        None => ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
    };
    let mut labels = service.labels().clone();
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels.remove(HEADLESS);
    if desired::is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    metadata.labels = Some(labels);
    let mut notes = metadata.annotations.take().unwrap_or_default();
    notes.remove(OVER_CAPACITY);
    if truncated {
        notes.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    }
    metadata.annotations = Some(notes).filter(|notes| !notes.is_empty());
    Endpoints {
        metadata,
        subsets: Some(subsets).filter(|subsets| !subsets.is_empty()),
    }
}

/// Whether nothing that this controller cares for differs.
pub(crate) fn is_same(a: &Endpoints, b: &Endpoints) -> bool {
    let subsets = |e: &Endpoints| e.subsets.clone().unwrap_or_default();
    a.labels() == b.labels() && a.annotations() == b.annotations() && subsets(a) == subsets(b)
}

fn subsets(service: &Service, pods: &[Arc<Pod>]) -> (Vec<EndpointSubset>, bool) {
    let unready_too = desired::publishes_unready(service);
    let family = desired::address_types(service).remove(0);
    // For each address its ports; addresses with the same ports share a subset.
    let mut places: BTreeMap<(String, String), (Place, Vec<PortKey>)> = BTreeMap::new();
    for pod in pods
        .iter()
        .filter(|pod| desired::has_endpoint(pod, unready_too))
    {
        let Some(ip) = desired::address(pod, &family) else {
            continue;
        };
        let address = EndpointAddress {
            ip: ip.to_string(),
            hostname: desired::hostname(pod, service),
            node_name: Some(pods::node_name(pod).to_owned()).filter(|name| !name.is_empty()),
            target_ref: Some(desired::target(pod)),
        };
        let place = Place {
            address,
            ready: unready_too || pods::is_ready(pod),
        };
        let ports = ports(service, pod);
        if ports.is_empty() && !(desired::is_headless(service) && has_no_ports(service)) {
            continue;
        }
        places.insert(
            (ip.to_string(), pod.uid().unwrap_or_default()),
            (place, ports),
        );
    }
    let truncated = places.len() > CAPACITY;
    let mut subsets: BTreeMap<Vec<PortKey>, EndpointSubset> = BTreeMap::new();
    // Ready addresses are the last to be left out.
    let mut kept: Vec<(Place, Vec<PortKey>)> = places.into_values().collect();
    if truncated {
        kept.sort_by_key(|(place, _)| !place.ready);
        kept.truncate(CAPACITY);
    }
    for (place, ports) in kept {
        let subset = subsets
            .entry(ports.clone())
            .or_insert_with(|| EndpointSubset {
                ports: Some(ports.into_iter().map(port).collect())
                    .filter(|p: &Vec<_>| !p.is_empty()),
                ..EndpointSubset::default()
            });
        let list = if place.ready {
            &mut subset.addresses
        } else {
            &mut subset.not_ready_addresses
        };
        list.get_or_insert_default().push(place.address);
    }
    (subsets.into_values().collect(), truncated)
}

fn has_no_ports(service: &Service) -> bool {
    service
        .spec
        .as_ref()
        .and_then(|spec| spec.ports.as_ref())
        .is_none_or(Vec::is_empty)
}

fn ports(service: &Service, pod: &Pod) -> Vec<PortKey> {
    let wanted = service
        .spec
        .iter()
        .flat_map(|spec| spec.ports.iter().flatten());
    let mut ports: Vec<PortKey> = wanted
        .filter_map(|port| {
            let number = desired::target_port(port, pod)?;
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            Some((
                port.name.clone().unwrap_or_default(),
                number,
                protocol,
                port.app_protocol.clone(),
            ))
        })
        .collect();
    ports.sort();
    ports
}

fn port((name, port, protocol, app_protocol): PortKey) -> EndpointPort {
    let name = Some(name).filter(|name| !name.is_empty());
    EndpointPort {
        name,
        port,
        protocol: Some(protocol),
        app_protocol,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(unready_too: bool) -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns", "labels": {"team": "a"}},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}],
                "publishNotReadyAddresses": unready_too}}))
        .expect("a Service")
    }

    fn pod(n: usize, ready: bool) -> Arc<Pod> {
        let ip = format!("10.{}.{}.{}", n / 65536, n / 256 % 256, n % 256);
        let pod = json!({
            "metadata": {"name": format!("p{n}"), "namespace": "ns", "uid": n.to_string()},
            "spec": {"nodeName": "n1", "containers": []},
            "status": {"phase": "Running", "podIP": ip, "conditions":
                [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}});
        Arc::new(serde_json::from_value(pod).expect("a Pod"))
    }

    fn counts(endpoints: &Endpoints) -> Vec<(usize, usize)> {
        let len = |list: &Option<Vec<EndpointAddress>>| list.as_ref().map_or(0, Vec::len);
        let subsets = endpoints.subsets.iter().flatten();
        subsets
            .map(|s| (len(&s.addresses), len(&s.not_ready_addresses)))
            .collect()
    }

    #[test]
    fn ready_and_unready_addresses_share_a_subset() {
        let pods = [pod(1, true), pod(2, false), pod(3, true)];
        assert_eq!(counts(&endpoints(&service(false), &pods, None)), [(2, 1)]);
        assert_eq!(counts(&endpoints(&service(true), &pods, None)), [(3, 0)]);
    }

    #[test]
    fn more_than_a_thousand_addresses_are_cut_and_the_cut_is_told() {
        let pods: Vec<_> = (0..1100).map(|n| pod(n, n >= 300)).collect();
        let cut = endpoints(&service(false), &pods, None);
        assert_eq!(counts(&cut), [(800, 200)]);
        assert_eq!(cut.annotations()[OVER_CAPACITY], "truncated");
        let fewer = endpoints(&service(false), &pods[..10], Some(&cut));
        assert!(!fewer.annotations().contains_key(OVER_CAPACITY));
    }

    #[test]
    fn the_same_pods_give_the_same_object() {
        let pods = [pod(2, true), pod(1, true)];
        let first = endpoints(&service(false), &pods, None);
        let reversed = [pods[1].clone(), pods[0].clone()];
        assert!(is_same(
            &first,
            &endpoints(&service(false), &reversed, Some(&first))
        ));
    }
}
