//! What the cluster's names mean. Pure: the caches stand behind [`Directory`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

/// The version of the naming schema, told under `dns-version`.
const SCHEMA_VERSION: &str = "1.1.0";

/// Where the Services and endpoints are looked up.
pub trait Directory {
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>>;
    fn slices(&self, namespace: &str, service: &str) -> Vec<Arc<EndpointSlice>>;
    fn has_namespace(&self, namespace: &str) -> bool;
    /// The Service that has this cluster address.
    fn service_at(&self, address: IpAddr) -> Option<Arc<Service>>;
    /// Slices with an endpoint at this address.
    fn slices_at(&self, address: IpAddr) -> Vec<Arc<EndpointSlice>>;
}

/// What a query asks for; other types exist and never have data here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    A,
    Aaaa,
    Srv,
    Ptr,
    Txt,
    Cname,
    Any,
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    Address(IpAddr),
    Srv {
        port: u16,
        weight: u16,
        target: String,
    },
    Pointer(String),
    Alias(String),
    Text(String),
}

/// One resource record; names are absolute, without the final dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rr {
    pub name: String,
    pub data: Data,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Found {
        answers: Vec<Rr>,
        additionals: Vec<Rr>,
    },
    /// The name is an alias of one that somebody else knows.
    Alias {
        name: String,
        target: String,
    },
    /// The name exists and has nothing of this type.
    Empty,
    NoSuchName,
    /// The name is not the cluster's.
    Elsewhere,
}

/// The names below one domain.
#[derive(Debug, Clone)]
pub struct Zone {
    pub domain: String,
    /// Reverse names of these ranges are the cluster's.
    pub ranges: Vec<IpNetwork>,
}

impl Zone {
    /// Answers for an absolute name in lower case, without the final dot.
    pub fn answer(&self, directory: &impl Directory, name: &str, kind: Kind) -> Answer {
        if let Some(address) = reverse_address(name) {
            return self.reverse(directory, name, address, kind);
        }
        let below = match name.strip_suffix(&self.domain) {
            Some("") => return Answer::Empty,
            Some(below) => below.strip_suffix('.'),
            None => None,
        };
        let Some(below) = below else {
            return Answer::Elsewhere;
        };
        let labels: Vec<&str> = below.split('.').collect();
        let query = Query {
            zone: self,
            directory,
            name,
            kind,
        };
        match labels.as_slice() {
            ["dns-version"] => query.records(vec![Data::Text(SCHEMA_VERSION.to_owned())]),
            ["svc" | "pod"] => Answer::Empty,
            [namespace, "svc" | "pod"] => match directory.has_namespace(namespace) {
                true => Answer::Empty,
                false => Answer::NoSuchName,
            },
            [dashed, namespace, "pod"] => query.pod(dashed, namespace),
            [service, namespace, "svc"] => query.service(service, namespace),
            [host, service, namespace, "svc"] => query.endpoint(host, service, namespace),
            [port, protocol, service, namespace, "svc"] => {
                query.port(port, protocol, service, namespace)
            }
            _ => Answer::NoSuchName,
        }
    }

    fn service_name(&self, namespace: &str, service: &str) -> String {
        format!("{service}.{namespace}.svc.{}", self.domain)
    }

    fn reverse(
        &self,
        directory: &impl Directory,
        name: &str,
        address: IpAddr,
        kind: Kind,
    ) -> Answer {
        let pointers = self.pointers(directory, address);
        if pointers.is_empty() {
            return match self.ranges.iter().any(|range| range.contains(address)) {
                true => Answer::NoSuchName,
                false => Answer::Elsewhere,
            };
        }
        if !matches!(kind, Kind::Ptr | Kind::Any) {
            return Answer::Empty;
        }
        let rr = |target| Rr {
            name: name.to_owned(),
            data: Data::Pointer(target),
        };
        Answer::Found {
            answers: pointers.into_iter().map(rr).collect(),
            additionals: Vec::new(),
        }
    }

    fn pointers(&self, directory: &impl Directory, address: IpAddr) -> Vec<String> {
        if let Some(service) = directory.service_at(address) {
            let (namespace, name) = names(&service.metadata);
            return vec![self.service_name(namespace, name)];
        }
        let mut pointers = Vec::new();
        for slice in directory.slices_at(address) {
            let (namespace, _) = names(&slice.metadata);
            let Some(service) = service_of(&slice) else {
                continue;
            };
            let is_headless = directory
                .service(namespace, service)
                .is_some_and(|service| service.spec.as_ref().is_some_and(is_headless));
            let text = address.to_string();
            let here = slice
                .endpoints
                .iter()
                .flatten()
                .find(|e| e.addresses.contains(&text));
            if let Some(endpoint) = here.filter(|_| is_headless) {
                let host = endpoint.hostname.clone().unwrap_or_else(|| dashed(address));
                pointers.push(format!("{host}.{}", self.service_name(namespace, service)));
            }
        }
        pointers.sort();
        pointers.dedup();
        pointers
    }
}

/// One query below the zone's domain.
struct Query<'a, D> {
    zone: &'a Zone,
    directory: &'a D,
    name: &'a str,
    kind: Kind,
}

/// An endpoint's address under the name that it has in a headless Service.
struct Member {
    host: String,
    address: IpAddr,
    ports: Vec<(String, String, u16)>,
}

impl<D: Directory> Query<'_, D> {
    /// The data that the query's type asks for; `Empty` if there is none.
    fn records(&self, data: Vec<Data>) -> Answer {
        self.records_with(data, Vec::new())
    }

    fn records_with(&self, data: Vec<Data>, additionals: Vec<Rr>) -> Answer {
        let wanted = |data: &Data| match (self.kind, data) {
            (Kind::Any, _) => true,
            (Kind::A, Data::Address(address)) => address.is_ipv4(),
            (Kind::Aaaa, Data::Address(address)) => address.is_ipv6(),
            (Kind::Srv, Data::Srv { .. }) | (Kind::Txt, Data::Text(_)) => true,
            _ => false,
        };
        let answers: Vec<Rr> = data
            .into_iter()
            .filter(wanted)
            .map(|data| Rr {
                name: self.name.to_owned(),
                data,
            })
            .collect();
        if answers.is_empty() {
            Answer::Empty
        } else {
            Answer::Found {
                answers,
                additionals,
            }
        }
    }

    /// A pod by its address with dashes; whether such a pod runs is not asked.
    fn pod(&self, dashed: &str, namespace: &str) -> Answer {
        if !self.directory.has_namespace(namespace) {
            return Answer::NoSuchName;
        }
        match undashed(dashed) {
            Some(address) => self.records(vec![Data::Address(address)]),
            None => Answer::NoSuchName,
        }
    }

    fn service(&self, name: &str, namespace: &str) -> Answer {
        let Some(service) = self.directory.service(namespace, name) else {
            return Answer::NoSuchName;
        };
        let Some(spec) = &service.spec else {
            return Answer::Empty;
        };
        if spec.type_.as_deref() == Some("ExternalName") {
            let target = spec.external_name.clone().unwrap_or_default();
            let target = target.trim_end_matches('.').to_ascii_lowercase();
            return Answer::Alias {
                name: self.name.to_owned(),
                target,
            };
        }
        if !is_headless(spec) {
            let ports = spec.ports.iter().flatten();
            let numbers: Vec<u16> = ports.filter_map(|p| u16::try_from(p.port).ok()).collect();
            let mut data: Vec<Data> = addresses(spec).into_iter().map(Data::Address).collect();
            data.extend(srv_of(&numbers, self.name));
            let additionals = self.additionals(&[(self.name.to_owned(), addresses(spec))]);
            return self.records_with(data, additionals);
        }
        let members = self.members(namespace, name);
        let mut data: Vec<Data> = members.iter().map(|m| Data::Address(m.address)).collect();
        data.dedup();
        data.extend(self.member_ports(&members, |_, _| true));
        self.records_with(data, self.member_additionals(&members))
    }

    fn members(&self, namespace: &str, service: &str) -> Vec<Member> {
        let slices = self.directory.slices(namespace, service);
        slices.iter().flat_map(|slice| members_of(slice)).collect()
    }

    fn endpoint(&self, host: &str, service: &str, namespace: &str) -> Answer {
        let members: Vec<Member> = match self.directory.service(namespace, service) {
            Some(found) if found.spec.as_ref().is_some_and(is_headless) => {
                self.members(namespace, service)
            }
            _ => return Answer::NoSuchName,
        };
        let of_host: Vec<Member> = members
            .into_iter()
            .filter(|m| m.host.eq_ignore_ascii_case(host))
            .collect();
        if of_host.is_empty() {
            return Answer::NoSuchName;
        }
        let mut data: Vec<Data> = of_host.iter().map(|m| Data::Address(m.address)).collect();
        data.extend(self.member_ports(&of_host, |_, _| true));
        self.records_with(data, self.member_additionals(&of_host))
    }

    /// `_port._protocol.service.namespace.svc`.
    fn port(&self, port: &str, protocol: &str, name: &str, namespace: &str) -> Answer {
        let (Some(port), Some(protocol)) = (port.strip_prefix('_'), protocol.strip_prefix('_'))
        else {
            return Answer::NoSuchName;
        };
        let Some(service) = self.directory.service(namespace, name) else {
            return Answer::NoSuchName;
        };
        let Some(spec) = &service.spec else {
            return Answer::NoSuchName;
        };
        let is_it = |own_name: &str, own_protocol: &str| {
            own_name.eq_ignore_ascii_case(port) && own_protocol.eq_ignore_ascii_case(protocol)
        };
        let target = self.zone.service_name(namespace, name);
        let (data, additionals) = if is_headless(spec) {
            let members = self.members(namespace, name);
            (
                self.member_ports(&members, is_it),
                self.member_additionals(&members),
            )
        } else {
            let numbers: Vec<u16> = spec
                .ports
                .iter()
                .flatten()
                .filter(|p| {
                    let protocol = p.protocol.as_deref().unwrap_or("TCP");
                    is_it(p.name.as_deref().unwrap_or_default(), protocol)
                })
                .filter_map(|p| u16::try_from(p.port).ok())
                .collect();
            (
                srv_of(&numbers, &target),
                self.additionals(&[(target.clone(), addresses(spec))]),
            )
        };
        if data.is_empty() {
            return Answer::NoSuchName;
        }
        self.records_with(data, additionals)
    }

    /// SRV data of the members' ports that are asked for.
    fn member_ports(&self, members: &[Member], wanted: impl Fn(&str, &str) -> bool) -> Vec<Data> {
        let base = self.service_base();
        let mut targets: Vec<(u16, String)> = members
            .iter()
            .flat_map(|member| {
                let target = format!("{}.{base}", member.host);
                let ports = member.ports.iter();
                ports
                    .filter(|(name, protocol, _)| wanted(name, protocol))
                    .map(move |(_, _, port)| (*port, target.clone()))
            })
            .collect();
        targets.sort();
        targets.dedup();
        let weight = weight(targets.len());
        targets
            .into_iter()
            .map(|(port, target)| Data::Srv {
                port,
                weight,
                target,
            })
            .collect()
    }

    /// The name of the headless Service that the query is about.
    fn service_base(&self) -> String {
        let labels: Vec<&str> = self.name.split('.').collect();
        let domain_labels = self.zone.domain.split('.').count();
        // SERVICE.NAMESPACE.svc before the domain, whatever stands before it.
        labels[labels.len().saturating_sub(domain_labels + 3)..].join(".")
    }

    fn member_additionals(&self, members: &[Member]) -> Vec<Rr> {
        let base = self.service_base();
        let named: Vec<_> = members
            .iter()
            .map(|m| (format!("{}.{base}", m.host), vec![m.address]))
            .collect();
        self.additionals(&named)
    }

    /// Addresses of SRV targets, so that nobody has to ask for them.
    fn additionals(&self, named: &[(String, Vec<IpAddr>)]) -> Vec<Rr> {
        if self.kind != Kind::Srv {
            return Vec::new();
        }
        let records = named.iter().flat_map(|(name, addresses)| {
            addresses.iter().map(|a| Rr {
                name: name.clone(),
                data: Data::Address(*a),
            })
        });
        records.collect()
    }
}

fn srv_of(ports: &[u16], target: &str) -> Vec<Data> {
    let weight = weight(ports.len());
    let srv = |port: &u16| Data::Srv {
        port: *port,
        weight,
        target: target.to_owned(),
    };
    ports.iter().map(srv).collect()
}

/// Equal shares of a hundred.
fn weight(targets: usize) -> u16 {
    u16::try_from(100 / targets.max(1)).unwrap_or(1).max(1)
}

fn names(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> (&str, &str) {
    (
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default(),
    )
}

pub(crate) fn service_of(slice: &EndpointSlice) -> Option<&str> {
    slice
        .metadata
        .labels
        .as_ref()?
        .get("kubernetes.io/service-name")
        .map(String::as_str)
}

fn is_headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ip.as_deref() == Some("None")
}

/// The Service's cluster addresses.
pub(crate) fn addresses(spec: &ServiceSpec) -> Vec<IpAddr> {
    let listed = spec.cluster_ips.iter().flatten();
    let parsed: Vec<IpAddr> = listed.filter_map(|text| text.parse().ok()).collect();
    if !parsed.is_empty() {
        return parsed;
    }
    spec.cluster_ip
        .iter()
        .filter_map(|text| text.parse().ok())
        .collect()
}

fn members_of(slice: &EndpointSlice) -> Vec<Member> {
    let ports: Vec<(String, String, u16)> = slice
        .ports
        .iter()
        .flatten()
        .filter_map(|port| {
            let number = u16::try_from(port.port?).ok()?;
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            Some((port.name.clone().unwrap_or_default(), protocol, number))
        })
        .collect();
    let is_ready = |endpoint: &&Endpoint| {
        endpoint
            .conditions
            .as_ref()
            .and_then(|c| c.ready)
            .unwrap_or(true)
    };
    let endpoints = slice.endpoints.iter().flatten();
    endpoints
        .filter(is_ready)
        .filter_map(|endpoint| {
            let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
            let host = endpoint.hostname.clone().unwrap_or_else(|| dashed(address));
            Some(Member {
                host,
                address,
                ports: ports.clone(),
            })
        })
        .collect()
}

fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

fn undashed(text: &str) -> Option<IpAddr> {
    if let Ok(v4) = text.replace('-', ".").parse::<Ipv4Addr>() {
        return Some(IpAddr::V4(v4));
    }
    text.replace('-', ":")
        .parse::<Ipv6Addr>()
        .ok()
        .map(IpAddr::V6)
}

/// The address that a name below `in-addr.arpa` or `ip6.arpa` is about.
fn reverse_address(name: &str) -> Option<IpAddr> {
    if let Some(digits) = name.strip_suffix(".in-addr.arpa") {
        let mut octets = digits.split('.').rev().map(str::parse::<u8>);
        let mut next = || octets.next()?.ok();
        let address = Ipv4Addr::new(next()?, next()?, next()?, next()?);
        return octets.next().is_none().then_some(IpAddr::V4(address));
    }
    let digits = name.strip_suffix(".ip6.arpa")?;
    let nibbles: Vec<&str> = digits.split('.').rev().collect();
    if nibbles.len() != 32 || nibbles.iter().any(|nibble| nibble.len() != 1) {
        return None;
    }
    let value = u128::from_str_radix(&nibbles.concat(), 16).ok()?;
    Some(IpAddr::V6(Ipv6Addr::from(value)))
}

#[cfg(test)]
mod tests;
