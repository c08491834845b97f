//! Addresses of Services: ranges from every node, single addresses from nodes that have the
//! endpoints of a Service whose traffic stays local.

use super::*;

use crate::resources::{Block, Switch};

/// Nodes with this label attract no traffic from outside.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The configured ranges.
struct Ranges {
    cluster: Vec<IpNetwork>,
    external: Vec<IpNetwork>,
    balancer: Vec<IpNetwork>,
}

pub(super) fn originate(inputs: &Inputs, own: &Host, config: &mut Config, problems: &mut Problems) {
    let spec = &inputs.configuration;
    let mut read = |blocks: &[Block], field: &str| -> Vec<IpNetwork> {
        let mut ranges = Vec::new();
        for block in blocks {
            match policy::network(&block.cidr, field) {
                Ok(range) => ranges.push(range),
                Err(what) => {
                    let name = crate::resources::DEFAULT.to_owned();
                    problems.insert((Kind::Configuration, name), what);
                }
            }
        }
        ranges
    };
    let ranges = Ranges {
        cluster: read(&spec.service_cluster_ips, "serviceClusterIPs"),
        external: read(&spec.service_external_ips, "serviceExternalIPs"),
        balancer: read(&spec.service_load_balancer_ips, "serviceLoadBalancerIPs"),
    };
    let all = [&ranges.cluster, &ranges.external, &ranges.balancer];
    // Every node translates addresses of Services itself.
    config.not_for_kernel.extend(all.into_iter().flatten());
    if own.labels.contains_key(EXCLUDED) {
        return;
    }
    let aggregated = spec.service_load_balancer_aggregation != Some(Switch::Disabled);
    let balancer = ranges.balancer.iter().filter(|_| aggregated);
    let whole = ranges
        .cluster
        .iter()
        .chain(&ranges.external)
        .chain(balancer);
    for range in whole {
        config.originate.insert(*range, Origination::default());
    }
    for service in &inputs.services {
        let local = service
            .spec
            .as_ref()
            .and_then(|own| own.external_traffic_policy.as_deref())
            == Some("Local");
        if local && !has_local_endpoints(inputs, service, &own.name) {
            continue;
        }
        for address in addresses(service, &ranges, local, aggregated) {
            config.originate.insert(address, Origination::default());
        }
    }
}

/// The addresses of a Service that are advertised by themselves.
fn addresses(
    service: &Service,
    ranges: &Ranges,
    local: bool,
    aggregated: bool,
) -> BTreeSet<IpNetwork> {
    let spec = service.spec.as_ref();
    let none = Vec::new;
    let cluster = spec
        .and_then(|own| own.cluster_ips.clone())
        .unwrap_or_else(none);
    let external = spec
        .and_then(|own| own.external_ips.clone())
        .unwrap_or_else(none);
    let status = service.status.as_ref();
    let balancer: Vec<String> = status
        .and_then(|own| own.load_balancer.as_ref()?.ingress.as_deref())
        .unwrap_or_default()
        .iter()
        .filter_map(|own| own.ip.clone())
        .collect();
    let lists = [
        (cluster, &ranges.cluster, local),
        (external, &ranges.external, local),
        (balancer, &ranges.balancer, local || !aggregated),
    ];
    let mut found = BTreeSet::new();
    for (texts, ranges, wanted) in lists {
        let parsed = texts.iter().filter_map(|text| text.parse::<IpAddr>().ok());
        let inside = parsed.filter(|own| ranges.iter().any(|range| range.contains(*own)));
        found.extend(inside.filter(|_| wanted).map(IpNetwork::from));
    }
    found
}

fn has_local_endpoints(inputs: &Inputs, service: &Service, node: &str) -> bool {
    let metadata = &service.metadata;
    let of_service = |slice: &&Arc<EndpointSlice>| {
        let name = slice
            .metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(SERVICE_NAME));
        slice.metadata.namespace == metadata.namespace && name == metadata.name.as_ref()
    };
    let mut slices = inputs.slices.iter().filter(of_service);
    slices.any(|slice| {
        let mut endpoints = slice.endpoints.iter().flatten();
        endpoints.any(|endpoint| {
            let ready = endpoint
                .conditions
                .as_ref()
                .and_then(|own| own.ready)
                .unwrap_or(true);
            ready && endpoint.node_name.as_deref() == Some(node)
        })
    })
}
