//! Endpoints that people write for a Service without a selector, mirrored into slices.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use kube::ResourceExt;
use watch_cache::{Index, ObjectKey, WatchCache};

use super::pack::{self, Changes, Group, MANAGED_BY, Mold, SERVICE_NAME};
use super::{by_service, carry_out, service_of};
use crate::framework::owners::controller_of;
use crate::framework::{Context, Error, Expectations, Outcome, Reconciler};

const NAME: &str = "endpointslice-mirroring-controller";
const OURS: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Endpoints that only hold a leader election of old.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// Addresses of a subset beyond this number are not mirrored.
const PER_SUBSET: usize = 1000;

pub(crate) fn start(context: &Context) {
    let all = context.caches.of::<Endpoints>();
    let services = context.caches.of::<Service>();
    let slices = context.caches.of::<EndpointSlice>();
    context
        .controller(NAME)
        .watch(&all, |change| [change.key()])
        .watch(&services, |change| [change.key()])
        .watch(&slices, |change| service_of(change.object(), OURS))
        .run(
            context.config.workers,
            Controller {
                context: context.clone(),
                all,
                services,
                of_service: by_service(&slices),
                slices,
                expectations: Expectations::default(),
            },
        );
}

struct Controller {
    context: Context,
    all: WatchCache<Endpoints>,
    services: WatchCache<Service>,
    slices: WatchCache<EndpointSlice>,
    of_service: Index<EndpointSlice>,
    expectations: Expectations,
}

fn is_mirrored(endpoints: &Endpoints, service: &Service) -> bool {
    let skipped = endpoints
        .labels()
        .get(SKIP)
        .is_some_and(|skip| skip == "true");
    let selector = service
        .spec
        .as_ref()
        .and_then(|spec| spec.selector.as_ref());
    let selecting = selector.is_some_and(|selector| !selector.is_empty());
    let external =
        service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("ExternalName");
    !skipped && !selecting && !external && !endpoints.annotations().contains_key(LEADER)
}

impl Reconciler for Controller {
    type Key = ObjectKey;

    async fn sync(&self, key: &ObjectKey) -> Result<Outcome, Error> {
        if let Err(wait) = self.expectations.fresh(key, &self.slices, Instant::now()) {
            return Ok(Outcome::After(wait));
        }
        let existing = self
            .of_service
            .get(&format!("{}/{}/{OURS}", key.namespace, key.name));
        let endpoints = self.all.get_key(key);
        let service = self.services.get_key(key);
        let mirrored = match (endpoints, service) {
            (Some(endpoints), Some(service)) if is_mirrored(&endpoints, &service) => {
                Some(endpoints)
            }
            _ => None,
        };
        let changes = match mirrored {
            Some(endpoints) => {
                let groups = groups(&endpoints);
                pack::pack(&mold(&endpoints), &[], groups, existing)
            }
            None => Changes {
                delete: existing,
                ..Changes::default()
            },
        };
        carry_out(&self.context, &self.expectations, key, changes).await?;
        Ok(Outcome::Done)
    }
}

fn mold(endpoints: &Endpoints) -> Mold {
    let mut labels = endpoints.labels().clone();
    labels.insert(SERVICE_NAME.to_owned(), endpoints.name_any());
    labels.insert(MANAGED_BY.to_owned(), OURS.to_owned());
    let mut annotations = endpoints.annotations().clone();
    for own in [
        TRIGGER_TIME,
        "kubectl.kubernetes.io/last-applied-configuration",
    ] {
        annotations.remove(own);
    }
    Mold {
        namespace: endpoints.namespace().unwrap_or_default(),
        prefix: endpoints.name_any(),
        labels,
        annotations,
        owner: controller_of(endpoints),
    }
}

fn groups(endpoints: &Endpoints) -> Vec<Group> {
    let mut groups: BTreeMap<(&'static str, String), Group> = BTreeMap::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports = ports(subset);
        let ready = subset
            .addresses
            .iter()
            .flatten()
            .map(|address| (address, true));
        let unready = subset
            .not_ready_addresses
            .iter()
            .flatten()
            .map(|address| (address, false));
        for (address, ready) in ready.chain(unready).take(PER_SUBSET) {
            let Ok(ip) = address.ip.parse::<IpAddr>() else {
                continue;
            };
            let address_type = if ip.is_ipv6() { "IPv6" } else { "IPv4" };
            let key = (address_type, format!("{ports:?}"));
            let group = groups
                .entry(key)
                .or_insert_with(|| Group::new(address_type, ports.clone()));
            group.endpoints.push(endpoint(address, ready));
        }
    }
    groups.into_values().collect()
}

fn ports(subset: &EndpointSubset) -> Vec<EndpointPort> {
    let ports = subset.ports.iter().flatten();
    ports
        .map(|port| EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(port.port),
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
            app_protocol: port.app_protocol.clone(),
        })
        .collect()
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: None,
            terminating: None,
        }),
        hostname: address.hostname.clone().filter(|name| !name.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn endpoints() -> Endpoints {
        serde_json::from_value(json!({
            "metadata": {"name": "db", "namespace": "ns", "uid": "e"},
            "subsets": [{"addresses": [{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}],
                "notReadyAddresses": [{"ip": "192.0.2.2"}],
                "ports": [{"name": "sql", "port": 5432}]}]}))
        .expect("Endpoints")
    }

    #[test]
    fn subsets_become_groups_of_one_family_each() {
        let groups = groups(&endpoints());
        let told: Vec<_> = groups
            .iter()
            .map(|group| {
                (
                    group.address_type.as_str(),
                    group.endpoints.len(),
                    group.ports[0].port,
                )
            })
            .collect();
        assert_eq!(told, [("IPv4", 2, Some(5432)), ("IPv6", 1, Some(5432))]);
    }

    #[test]
    fn only_endpoints_of_services_without_selector_are_mirrored() {
        let plain: Service = serde_json::from_value(json!({"spec": {}})).expect("a Service");
        let selecting =
            serde_json::from_value(json!({"spec": {"selector": {"a": "b"}}})).expect("a Service");
        assert!(is_mirrored(&endpoints(), &plain));
        assert!(!is_mirrored(&endpoints(), &selecting));
        let mut skipped = endpoints();
        skipped.metadata.labels = Some([(SKIP.to_owned(), "true".to_owned())].into());
        assert!(!is_mirrored(&skipped, &plain));
    }
}
