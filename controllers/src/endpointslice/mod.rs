//! EndpointSlice: where the pods of a Service are, told in slices.
//!
//! [`desired`] says which endpoints there should be, [`pack`] changes as few slices as
//! possible to tell them; [`mirror`] does the same for Endpoints that people write.

pub(crate) mod desired;
pub(crate) mod mirror;
pub(crate) mod pack;

use std::collections::BTreeMap;
use std::time::Instant;

use api_rules::selector::map_matches;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::api::DeleteParams;
use watch_cache::{Change, Index, ObjectKey, WatchCache};

use crate::framework::owners::controller_of;
use crate::framework::{Context, Error, Expectations, Outcome, Reconciler, Tolerate, act, pods};
use desired::ZONE;
use pack::{Changes, HEADLESS, MANAGED_BY, Mold, SERVICE_NAME};

const NAME: &str = "endpointslice-controller";
const OURS: &str = "endpointslice-controller.k8s.io";

/// An index of slices by `namespace/service/manager`.
pub(crate) fn by_service(slices: &WatchCache<EndpointSlice>) -> Index<EndpointSlice> {
    slices.index("service", |slice| {
        let label = |name: &str| slice.labels().get(name).cloned().unwrap_or_default();
        let namespace = slice.namespace().unwrap_or_default();
        vec![format!(
            "{namespace}/{}/{}",
            label(SERVICE_NAME),
            label(MANAGED_BY)
        )]
    })
}

/// The Services that select a pod, before or after its change, if the change matters to them.
pub(crate) fn services_of(change: &Change<Pod>, services: &WatchCache<Service>) -> Vec<ObjectKey> {
    if let Change::Applied {
        old: Some(old),
        new,
    } = change
        && old.labels() == new.labels()
        && facts(old) == facts(new)
    {
        return Vec::new();
    }
    let candidates = services.list_namespace(&change.key().namespace);
    let selects = |service: &Service, pod: &Pod| {
        let selector = service
            .spec
            .as_ref()
            .and_then(|spec| spec.selector.as_ref());
        selector.is_some_and(|selector| !selector.is_empty() && map_matches(selector, pod.labels()))
    };
    let matches = |service: &Service| match change {
        Change::Applied { old, new } => {
            selects(service, new) || old.as_ref().is_some_and(|old| selects(service, old))
        }
        Change::Deleted { old } => selects(service, old),
    };
    let hit = candidates.iter().filter(|service| matches(service));
    hit.map(|service| ObjectKey::of(service.as_ref())).collect()
}

/// What endpoints are made of; other changes of a pod are no news to them.
fn facts(pod: &Pod) -> impl PartialEq + '_ {
    let status = pod.status.as_ref();
    (
        pods::is_ready(pod),
        pods::is_terminating(pod),
        pods::is_terminal(pod),
        pods::node_name(pod),
        status.and_then(|status| status.pod_ips.as_ref()),
        status.and_then(|status| status.pod_ip.as_ref()),
        pod.spec
            .as_ref()
            .map(|spec| (&spec.hostname, &spec.subdomain)),
    )
}

/// Whether a node came, went, or moved to another zone.
fn node_moved(change: &Change<Node>) -> bool {
    match change {
        Change::Applied {
            old: Some(old),
            new,
        } => old.labels().get(ZONE) != new.labels().get(ZONE),
        _ => true,
    }
}

pub(crate) fn start(context: &Context) {
    let services = context.caches.of::<Service>();
    let all_pods = context.caches.of::<Pod>();
    let slices = context.caches.of::<EndpointSlice>();
    let nodes = context.caches.of::<Node>();
    let (for_pods, for_nodes) = (services.clone(), services.clone());
    context
        .controller(NAME)
        .watch(&services, |change| [change.key()])
        .watch(&all_pods, move |change| services_of(change, &for_pods))
        .watch(&slices, |change| service_of(change.object(), OURS))
        .watch(&nodes, move |change| {
            let all = if node_moved(change) {
                for_nodes.list()
            } else {
                Vec::new()
            };
            let selecting = all.iter().filter(|service| desired::is_selecting(service));
            selecting
                .map(|service| ObjectKey::of(service.as_ref()))
                .collect::<Vec<_>>()
        })
        .run(
            context.config.workers,
            Controller {
                context: context.clone(),
                of_service: by_service(&slices),
                services,
                all_pods,
                slices,
                nodes,
                expectations: Expectations::default(),
            },
        );
}

/// The Service of a slice that this manager made.
fn service_of(slice: &EndpointSlice, manager: &str) -> Option<ObjectKey> {
    let managed = slice
        .labels()
        .get(MANAGED_BY)
        .is_some_and(|by| by == manager);
    let service = slice.labels().get(SERVICE_NAME).filter(|_| managed)?;
    Some(ObjectKey::new(
        slice.namespace().unwrap_or_default(),
        service,
    ))
}

struct Controller {
    context: Context,
    services: WatchCache<Service>,
    all_pods: WatchCache<Pod>,
    slices: WatchCache<EndpointSlice>,
    of_service: Index<EndpointSlice>,
    nodes: WatchCache<Node>,
    expectations: Expectations,
}

impl Reconciler for Controller {
    type Key = ObjectKey;

    async fn sync(&self, key: &ObjectKey) -> Result<Outcome, Error> {
        let Some(service) = self.services.get_key(key) else {
            // Its slices are collected as its dependants.
            self.expectations.forget(key);
            return Ok(Outcome::Done);
        };
        if !desired::is_selecting(&service) || service.metadata.deletion_timestamp.is_some() {
            return Ok(Outcome::Done);
        }
        if let Err(wait) = self.expectations.fresh(key, &self.slices, Instant::now()) {
            return Ok(Outcome::After(wait));
        }
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.clone());
        let selector = selector.unwrap_or_default();
        let mut selected = self.all_pods.list_namespace(&key.namespace);
        selected.retain(|pod| map_matches(&selector, pod.labels()));
        let groups = desired::groups(&service, &selected, |name| self.nodes.get("", name));
        let existing = self
            .of_service
            .get(&format!("{}/{}/{OURS}", key.namespace, key.name));
        let types = desired::address_types(&service);
        let changes = pack::pack(&mold(&service), &types, groups, existing);
        carry_out(&self.context, &self.expectations, key, changes).await?;
        Ok(Outcome::Done)
    }
}

fn mold(service: &Service) -> Mold {
    let reserved = [SERVICE_NAME, MANAGED_BY, HEADLESS];
    let mut labels: BTreeMap<String, String> = service.labels().clone();
    labels.retain(|name, _| !reserved.contains(&name.as_str()));
    labels.insert(SERVICE_NAME.to_owned(), service.name_any());
    labels.insert(MANAGED_BY.to_owned(), OURS.to_owned());
    if desired::is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    Mold {
        namespace: service.namespace().unwrap_or_default(),
        prefix: service.name_any(),
        labels,
        annotations: BTreeMap::new(),
        owner: controller_of(service),
    }
}

/// Creations first, then updates, then deletions: an endpoint that moves between slices is
/// told twice for a moment rather than not at all.
async fn carry_out(
    context: &Context,
    expectations: &Expectations,
    key: &ObjectKey,
    changes: Changes,
) -> Result<(), Error> {
    let api = context.api::<EndpointSlice>(&key.namespace);
    for slice in &changes.create {
        match act::create(&api, slice).await {
            Ok(created) => expectations.wrote(key, &created, Instant::now()),
            Err(error) if error.is_namespace_terminating() => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    for slice in &changes.update {
        if let Some(updated) = act::replace(&api, slice).await.unless_gone()? {
            expectations.wrote(key, &updated, Instant::now());
        }
    }
    for slice in &changes.delete {
        if act::delete(&api, slice.as_ref(), DeleteParams::default()).await? {
            expectations.deleted(key, slice.as_ref(), Instant::now());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
