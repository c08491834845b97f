//! Packs endpoints into slices of at most a hundred, changing as few slices as possible:
//! every change of a slice is sent to every node.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::framework::owners;

pub(crate) const PER_SLICE: usize = 100;
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";

/// Endpoints that can share slices.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Group {
    pub address_type: String,
    pub ports: Vec<EndpointPort>,
    pub endpoints: Vec<Endpoint>,
}

impl Group {
    pub(crate) fn new(address_type: &str, ports: Vec<EndpointPort>) -> Self {
        Self {
            address_type: address_type.to_owned(),
            ports,
            endpoints: Vec::new(),
        }
    }
}

/// What every slice of an owner looks like.
#[derive(Debug, Clone)]
pub(crate) struct Mold {
    pub namespace: String,
    /// The beginning of the slices' names.
    pub prefix: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub owner: OwnerReference,
}

/// The changes that bring the slices there.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub create: Vec<EndpointSlice>,
    pub update: Vec<EndpointSlice>,
    pub delete: Vec<Arc<EndpointSlice>>,
}

/// A slice that exists, as it is to become.
struct Draft {
    known: Arc<EndpointSlice>,
    ports: Vec<EndpointPort>,
    endpoints: Vec<Endpoint>,
}

impl Draft {
    fn is_changed(&self) -> bool {
        self.known.endpoints.as_deref().unwrap_or_default() != self.endpoints
            || normal(self.known.ports.as_deref().unwrap_or_default()) != normal(&self.ports)
    }

    fn room(&self) -> usize {
        PER_SLICE.saturating_sub(self.endpoints.len())
    }
}

/// Plans the changes. `address_types` are those for which there is a slice even without an
/// endpoint, so that "none" can be told from "not looked at yet".
pub(crate) fn pack(
    mold: &Mold,
    address_types: &[String],
    groups: Vec<Group>,
    existing: Vec<Arc<EndpointSlice>>,
) -> Changes {
    let mut changes = Changes::default();
    let (mut drafts, foreign): (Vec<_>, Vec<_>) = existing
        .into_iter()
        .partition(|slice| owners::is_controlled_by(slice.as_ref(), &mold.owner.uid));
    changes.delete = foreign;
    let mut kept: Vec<Draft> = Vec::new();
    for group in groups {
        let (own, rest): (Vec<_>, Vec<_>) =
            drafts.into_iter().partition(|slice| belongs(slice, &group));
        drafts = rest;
        let (drafts_of_group, created) = pack_group(mold, group, own);
        kept.extend(drafts_of_group);
        changes.create.extend(created);
    }
    let (empty, full): (Vec<_>, Vec<_>) = kept
        .into_iter()
        .partition(|draft| draft.endpoints.is_empty());
    let mut spare: Vec<Arc<EndpointSlice>> = drafts;
    spare.extend(empty.into_iter().map(|draft| draft.known));
    let mut kept = full;
    for address_type in address_types {
        let told = kept
            .iter()
            .any(|draft| draft.known.address_type == *address_type)
            || changes
                .create
                .iter()
                .any(|slice| slice.address_type == *address_type);
        if told {
            continue;
        }
        match spare
            .iter()
            .position(|slice| slice.address_type == *address_type)
        {
            Some(at) => kept.push(Draft {
                known: spare.remove(at),
                ports: Vec::new(),
                endpoints: Vec::new(),
            }),
            None => changes
                .create
                .push(slice(mold, address_type, Vec::new(), Vec::new())),
        }
    }
    changes.delete.extend(spare);
    changes.update = kept
        .into_iter()
        .filter_map(|draft| updated(mold, draft))
        .collect();
    changes
}

/// The slice with its new content; None if nothing differs.
fn updated(mold: &Mold, draft: Draft) -> Option<EndpointSlice> {
    let labels = draft.known.metadata.labels.clone().unwrap_or_default();
    let annotations = draft.known.metadata.annotations.clone().unwrap_or_default();
    let dressed = labels == mold.labels && annotations == mold.annotations;
    if dressed && !draft.is_changed() {
        return None;
    }
    let mut slice = draft.known.as_ref().clone();
    slice.metadata.labels = Some(mold.labels.clone());
    slice.metadata.annotations = Some(mold.annotations.clone()).filter(|notes| !notes.is_empty());
    slice.ports = Some(draft.ports);
    slice.endpoints = Some(draft.endpoints);
    Some(slice)
}

fn belongs(slice: &EndpointSlice, group: &Group) -> bool {
    slice.address_type == group.address_type
        && normal(slice.ports.as_deref().unwrap_or_default()) == normal(&group.ports)
}

/// Ports as a comparable value: what is left out equals its default.
fn normal(ports: &[EndpointPort]) -> Vec<(String, Option<i32>, String, String)> {
    let mut normal: Vec<_> = ports
        .iter()
        .map(|port| {
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            let app = port.app_protocol.clone().unwrap_or_default();
            (
                port.name.clone().unwrap_or_default(),
                port.port,
                protocol,
                app,
            )
        })
        .collect();
    normal.sort();
    normal
}

/// What makes an endpoint the same one although its conditions change.
fn identity(endpoint: &Endpoint) -> String {
    let uid = endpoint
        .target_ref
        .as_ref()
        .and_then(|target| target.uid.as_deref());
    format!(
        "{}|{}",
        endpoint.addresses.join(","),
        uid.unwrap_or_default()
    )
}

fn pack_group(
    mold: &Mold,
    group: Group,
    existing: Vec<Arc<EndpointSlice>>,
) -> (Vec<Draft>, Vec<EndpointSlice>) {
    let mut left: BTreeMap<String, Endpoint> = group
        .endpoints
        .into_iter()
        .map(|endpoint| (identity(&endpoint), endpoint))
        .collect();
    let mut drafts: Vec<Draft> = existing
        .into_iter()
        .map(|known| {
            let old = known.endpoints.iter().flatten();
            let endpoints = old.filter_map(|endpoint| left.remove(&identity(endpoint)));
            Draft {
                endpoints: endpoints.collect(),
                ports: group.ports.clone(),
                known,
            }
        })
        .collect();
    let mut left: Vec<Endpoint> = left.into_values().collect();
    // First where something changes anyhow, then where all the rest fits.
    for draft in drafts.iter_mut().filter(|draft| draft.is_changed()) {
        let room = draft.room().min(left.len());
        draft.endpoints.extend(left.drain(..room));
    }
    if !left.is_empty() {
        let fitting = drafts.iter_mut().filter(|draft| draft.room() >= left.len());
        if let Some(draft) = fitting.min_by_key(|draft| draft.room()) {
            draft.endpoints.append(&mut left);
        }
    }
    let created = left
        .chunks(PER_SLICE)
        .map(|part| {
            slice(
                mold,
                &group.address_type,
                group.ports.clone(),
                part.to_vec(),
            )
        })
        .collect();
    (drafts, created)
}

fn slice(
    mold: &Mold,
    address_type: &str,
    ports: Vec<EndpointPort>,
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", mold.prefix)),
            namespace: Some(mold.namespace.clone()),
            labels: Some(mold.labels.clone()),
            annotations: Some(mold.annotations.clone()).filter(|notes| !notes.is_empty()),
            owner_references: Some(vec![mold.owner.clone()]),
            ..ObjectMeta::default()
        },
        address_type: address_type.to_owned(),
        ports: Some(ports),
        endpoints: Some(endpoints),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mold() -> Mold {
        Mold {
            namespace: "ns".to_owned(),
            prefix: "svc".to_owned(),
            labels: [(SERVICE_NAME.to_owned(), "svc".to_owned())].into(),
            annotations: BTreeMap::new(),
            owner: OwnerReference {
                uid: "u".to_owned(),
                controller: Some(true),
                ..OwnerReference::default()
            },
        }
    }

    fn group(port: i32, endpoints: impl IntoIterator<Item = u32>) -> Group {
        let ports = vec![EndpointPort {
            port: Some(port),
            ..EndpointPort::default()
        }];
        let mut group = Group::new("IPv4", ports);
        group.endpoints = endpoints
            .into_iter()
            .map(|n| Endpoint {
                addresses: vec![n.to_string()],
                ..Endpoint::default()
            })
            .collect();
        group
    }

    fn types() -> Vec<String> {
        vec!["IPv4".to_owned()]
    }

    /// The slices after the changes, with names as the server would give them.
    fn apply(existing: &[Arc<EndpointSlice>], changes: Changes) -> Vec<Arc<EndpointSlice>> {
        let mut slices: BTreeMap<String, Arc<EndpointSlice>> = existing
            .iter()
            .map(|slice| {
                (
                    slice.metadata.name.clone().unwrap_or_default(),
                    slice.clone(),
                )
            })
            .collect();
        for slice in changes.delete {
            slices.remove(slice.metadata.name.as_deref().unwrap_or_default());
        }
        for slice in changes.update {
            slices.insert(
                slice.metadata.name.clone().unwrap_or_default(),
                Arc::new(slice),
            );
        }
        for mut slice in changes.create {
            let name = (0..)
                .map(|n| format!("svc-{n}"))
                .find(|name| !slices.contains_key(name));
            slice.metadata.name = name.clone();
            slices.insert(name.unwrap_or_default(), Arc::new(slice));
        }
        slices.into_values().collect()
    }

    fn settle(existing: &[Arc<EndpointSlice>], groups: Vec<Group>) -> Vec<Arc<EndpointSlice>> {
        apply(existing, pack(&mold(), &types(), groups, existing.to_vec()))
    }

    fn sizes(slices: &[Arc<EndpointSlice>]) -> Vec<usize> {
        slices
            .iter()
            .map(|slice| slice.endpoints.as_ref().map_or(0, Vec::len))
            .collect()
    }

    #[test]
    fn a_service_without_endpoints_has_one_empty_slice() {
        let slices = settle(&[], Vec::new());
        assert_eq!(sizes(&slices), [0]);
        let changes = pack(&mold(), &types(), Vec::new(), slices);
        assert!(
            changes.create.is_empty() && changes.update.is_empty() && changes.delete.is_empty()
        );
    }

    #[test]
    fn endpoints_fill_slices_of_a_hundred() {
        let slices = settle(&[], vec![group(80, 0..250)]);
        assert_eq!(sizes(&slices), [100, 100, 50]);
    }

    #[test]
    fn one_endpoint_less_and_one_more_change_one_slice() {
        let slices = settle(&[], vec![group(80, 0..250)]);
        let changes = pack(
            &mold(),
            &types(),
            vec![group(80, (0..250).filter(|n| *n != 3))],
            slices.clone(),
        );
        assert_eq!(
            (
                changes.create.len(),
                changes.update.len(),
                changes.delete.len()
            ),
            (0, 1, 0)
        );
        let changes = pack(&mold(), &types(), vec![group(80, 0..251)], slices);
        assert_eq!(
            (
                changes.create.len(),
                changes.update.len(),
                changes.delete.len()
            ),
            (0, 1, 0)
        );
    }

    #[test]
    fn the_last_endpoint_gone_leaves_an_empty_slice_and_not_a_new_one() {
        let slices = settle(&[], vec![group(80, 0..1)]);
        let changes = pack(&mold(), &types(), Vec::new(), slices);
        assert_eq!(
            (
                changes.create.len(),
                changes.update.len(),
                changes.delete.len()
            ),
            (0, 1, 0)
        );
    }

    #[test]
    fn slices_of_a_former_service_of_that_name_go() {
        let mut old = slice(&mold(), "IPv4", Vec::new(), Vec::new());
        old.metadata.owner_references.get_or_insert_default()[0].uid = "old".to_owned();
        let changes = pack(&mold(), &types(), Vec::new(), vec![Arc::new(old)]);
        assert_eq!(
            (
                changes.create.len(),
                changes.update.len(),
                changes.delete.len()
            ),
            (1, 0, 1)
        );
    }

    proptest! {
        /// From any slices to any endpoints: all are told exactly once, no slice is too full,
        /// and the second look finds nothing to do.
        #[test]
        fn packing_converges(before in prop::collection::btree_set(0u32..400, 0..300),
                             after in prop::collection::btree_set(0u32..400, 0..300),
                             split in 0u32..400) {
            let two = |all: &std::collections::BTreeSet<u32>| -> Vec<Group> {
                let low = all.iter().copied().filter(|n| *n < split);
                let high = all.iter().copied().filter(|n| *n >= split);
                [group(80, low), group(81, high)].into_iter()
                    .filter(|group| !group.endpoints.is_empty()).collect()
            };
            let slices = settle(&settle(&[], vec![group(80, before)]), two(&after));
            let told: Vec<String> = slices.iter()
                .flat_map(|slice| slice.endpoints.iter().flatten())
                .map(|endpoint| endpoint.addresses[0].clone()).collect();
            let mut sorted: Vec<u32> = told.iter().filter_map(|text| text.parse().ok()).collect();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, after.iter().copied().collect::<Vec<_>>());
            prop_assert!(sizes(&slices).iter().all(|size| *size <= PER_SLICE));
            let again = pack(&mold(), &types(), two(&after), slices);
            prop_assert!(again.create.is_empty() && again.update.is_empty() && again.delete.is_empty());
        }
    }
}
