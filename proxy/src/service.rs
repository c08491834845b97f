//! Services of the API as plain data: what a proxy has to know, and nothing else.

use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::{Service, ServiceSpec};

use crate::model::{IpvsOptions, Protocol, ServiceKey, TrafficPolicy};

/// Another proxy than the cluster's usual one serves the Service.
const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
/// The IPVS scheduler of one Service.
pub const SCHEDULER_ANNOTATION: &str = "fairlead.dev/ipvs-scheduler";
/// The flags of a Service's IPVS scheduler: `sh-port`, `sh-fallback`, `mh-port`, `mh-fallback`.
pub const FLAGS_ANNOTATION: &str = "fairlead.dev/ipvs-scheduler-flags";
/// Weights of back ends for IPVS, as `ADDRESS=WEIGHT,...`.
pub const WEIGHTS_ANNOTATION: &str = "fairlead.dev/ipvs-weights";

/// How the API says that traffic should stay near.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Distribution {
    PreferSameZone,
    PreferSameNode,
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SpecPort {
    pub(crate) name: Arc<str>,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    pub(crate) node_port: Option<u16>,
}

/// What a proxy has to know of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spec {
    pub(crate) key: ServiceKey,
    /// Earlier Services win where two claim the same address and port.
    pub(crate) created: i64,
    pub(crate) cluster_ips: Vec<IpAddr>,
    pub(crate) ports: Vec<SpecPort>,
    pub(crate) external_ips: Vec<IpAddr>,
    pub(crate) load_balancer_ips: Vec<IpAddr>,
    pub(crate) source_ranges: Vec<IpNetwork>,
    pub(crate) internal_policy: TrafficPolicy,
    pub(crate) external_policy: TrafficPolicy,
    pub(crate) affinity: Option<u32>,
    pub(crate) health_check_node_port: Option<u16>,
    pub(crate) distribution: Option<Distribution>,
    pub(crate) ipvs: IpvsOptions,
}

impl Spec {
    /// The plain form of a Service; `None` where it is not ours to serve: headless, an
    /// external name, or left to a proxy of another name.
    pub(crate) fn of(service: &Service, proxy_name: Option<&str>) -> Option<Self> {
        let metadata = &service.metadata;
        let labels = metadata.labels.as_ref();
        let label = |name: &str| {
            labels
                .and_then(|labels| labels.get(name))
                .map(String::as_str)
        };
        if label(PROXY_NAME_LABEL) != proxy_name || label(HEADLESS_LABEL).is_some() {
            return None;
        }
        let spec = service.spec.as_ref()?;
        if spec.type_.as_deref() == Some("ExternalName") {
            return None;
        }
        let cluster_ips = cluster_ips(spec);
        if cluster_ips.is_empty() {
            return None;
        }
        let name = metadata.name.as_deref()?;
        let key = ServiceKey::new(metadata.namespace.as_deref().unwrap_or_default(), name);
        let external = spec.external_traffic_policy.as_deref() == Some("Local");
        let internal = spec.internal_traffic_policy.as_deref() == Some("Local");
        let policy = |local| {
            if local {
                TrafficPolicy::Local
            } else {
                TrafficPolicy::Cluster
            }
        };
        let load_balancer = spec.type_.as_deref() == Some("LoadBalancer");
        Some(Self {
            created: metadata
                .creation_timestamp
                .as_ref()
                .map_or(0, |t| t.0.as_second()),
            cluster_ips,
            ports: spec.ports.iter().flatten().filter_map(spec_port).collect(),
            external_ips: addresses(&key, spec.external_ips.iter().flatten()),
            load_balancer_ips: if load_balancer {
                load_balancer_ips(service, &key)
            } else {
                Vec::new()
            },
            source_ranges: source_ranges(spec, &key),
            internal_policy: policy(internal),
            external_policy: policy(external),
            affinity: affinity(spec),
            health_check_node_port: spec
                .health_check_node_port
                .and_then(port_number)
                .filter(|_| load_balancer && external),
            distribution: distribution(service),
            ipvs: ipvs_options(service),
            key,
        })
    }
}

fn port_number(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number != 0)
}

fn spec_port(port: &k8s_openapi::api::core::v1::ServicePort) -> Option<SpecPort> {
    Some(SpecPort {
        name: port.name.as_deref().unwrap_or_default().into(),
        protocol: protocol(port.protocol.as_deref())?,
        port: port_number(port.port)?,
        node_port: port.node_port.and_then(port_number),
    })
}

pub(crate) fn protocol(name: Option<&str>) -> Option<Protocol> {
    match name {
        None | Some("" | "TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some("SCTP") => Some(Protocol::Sctp),
        Some(_) => None,
    }
}

fn cluster_ips(spec: &ServiceSpec) -> Vec<IpAddr> {
    let listed = spec.cluster_ips.iter().flatten();
    let mut found: Vec<IpAddr> = listed.filter_map(|ip| ip.parse().ok()).collect();
    if found.is_empty() {
        found.extend(
            spec.cluster_ip
                .as_deref()
                .and_then(|ip| ip.parse::<IpAddr>().ok()),
        );
    }
    found
}

fn addresses<'a>(key: &ServiceKey, texts: impl Iterator<Item = &'a String>) -> Vec<IpAddr> {
    let parse = |text: &String| {
        let address = text.parse().ok();
        if address.is_none() {
            tracing::warn!(service = %key, %text, "not an address, it is left out");
        }
        address
    };
    texts.filter_map(parse).collect()
}

fn load_balancer_ips(service: &Service, key: &ServiceKey) -> Vec<IpAddr> {
    let status = service
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref());
    let ingresses = status
        .into_iter()
        .flat_map(|status| status.ingress.iter().flatten());
    // A load balancer of mode Proxy sends packets of its own, which are not addressed to it.
    let direct = ingresses.filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
    addresses(key, direct.filter_map(|ingress| ingress.ip.as_ref()))
}

fn source_ranges(spec: &ServiceSpec, key: &ServiceKey) -> Vec<IpNetwork> {
    let parse = |text: &String| {
        let network = text.trim().parse().ok();
        if network.is_none() {
            tracing::warn!(service = %key, %text, "not a source range, it is left out");
        }
        network
    };
    let mut ranges: Vec<IpNetwork> = spec
        .load_balancer_source_ranges
        .iter()
        .flatten()
        .filter_map(parse)
        .collect();
    ranges.sort();
    ranges.dedup();
    ranges
}

fn affinity(spec: &ServiceSpec) -> Option<u32> {
    const DEFAULT: i32 = 10_800;
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec
        .session_affinity_config
        .as_ref()
        .and_then(|c| c.client_ip.as_ref());
    let seconds = config.and_then(|c| c.timeout_seconds).unwrap_or(DEFAULT);
    u32::try_from(seconds).ok().filter(|seconds| *seconds > 0)
}

fn distribution(service: &Service) -> Option<Distribution> {
    match service.spec.as_ref()?.traffic_distribution.as_deref()? {
        "PreferSameNode" => Some(Distribution::PreferSameNode),
        "PreferClose" | "PreferSameZone" => Some(Distribution::PreferSameZone),
        _ => None,
    }
}

fn ipvs_options(service: &Service) -> IpvsOptions {
    let annotations = service.metadata.annotations.as_ref();
    let get = |name: &str| annotations.and_then(|a| a.get(name)).map(String::as_str);
    let weights = get(WEIGHTS_ANNOTATION).map(|text| {
        text.split(',')
            .filter_map(|pair| {
                let (address, weight) = pair.trim().split_once('=')?;
                Some((address.trim().parse().ok()?, weight.trim().parse().ok()?))
            })
            .collect::<Vec<(IpAddr, u32)>>()
            .into()
    });
    IpvsOptions {
        scheduler: get(SCHEDULER_ANNOTATION).map(Into::into),
        flags: get(FLAGS_ANNOTATION).map(Into::into),
        weights,
    }
}
