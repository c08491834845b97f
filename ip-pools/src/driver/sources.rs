//! The watch caches, as inputs of the plan.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use watch_cache::{Cacheable, WatchCache, WatchCaches};

use super::{DEFINITIONS, LOOK, status};
use crate::model::{BLOCKS_ANNOTATION, Block, Inputs, Pool, own_ranges};
use crate::resources::{DEFAULT, IpPool, IpReservation, IpamBlock, IpamConfiguration};
use crate::selector::Labels;
use crate::span;

/// As Calico limits it.
const MAX_BLOCKS: usize = 20;

type Annotations = BTreeMap<String, String>;

struct Custom {
    pools: WatchCache<IpPool>,
    reservations: WatchCache<IpReservation>,
    configurations: WatchCache<IpamConfiguration>,
    blocks: WatchCache<IpamBlock>,
}

pub(super) struct Sources {
    nodes: WatchCache<Node>,
    namespaces: WatchCache<Namespace>,
    pods: WatchCache<Pod>,
    /// Nothing until the definitions are there.
    custom: Arc<OnceLock<Custom>>,
    changed: watch::Sender<()>,
    /// What this node knows better than the watch does yet.
    known: Mutex<BTreeMap<IpNetwork, Known>>,
}

/// A block as this node wrote or read it.
enum Known {
    There(Box<IpamBlock>),
    /// It was deleted when it had this version.
    Gone(Option<String>),
}

impl Known {
    /// Whether the watch has not come that far.
    fn is_newer(&self, watched: Option<&IpamBlock>, revision: u64) -> bool {
        match self {
            Self::There(own) => version(own).is_some_and(|own| own > revision),
            Self::Gone(at) => watched.is_some_and(|own| own.metadata.resource_version == *at),
        }
    }
}

fn version(block: &IpamBlock) -> Option<u64> {
    block.metadata.resource_version.as_deref()?.parse().ok()
}

/// Wakes whoever waits when the cache changes.
fn wake<K: Cacheable>(cache: &WatchCache<K>, changed: watch::Sender<()>) {
    use tokio::sync::broadcast::error::RecvError;
    let mut changes = cache.subscribe();
    tokio::spawn(async move {
        while !matches!(changes.recv().await, Err(RecvError::Closed)) {
            changed.send_replace(());
        }
    });
}

/// Whether the API server knows the resources; `None` when it does not answer.
async fn is_defined(client: &Client) -> Option<bool> {
    let blocks: Api<IpamBlock> = Api::all(client.clone());
    match blocks.list(&ListParams::default().limit(1)).await {
        Ok(_) => Some(true),
        Err(kube::Error::Api(status)) if status.code == 404 => Some(false),
        Err(error) => {
            tracing::warn!(%error, "it is not known yet whether there are pools");
            None
        }
    }
}

impl Custom {
    /// Returns when everything is known: a pool that is not there yet must not look like one
    /// that is gone.
    async fn open(caches: &WatchCaches, changed: &watch::Sender<()>) -> Self {
        let own = Self {
            pools: caches.of(),
            reservations: caches.of(),
            configurations: caches.of(),
            blocks: caches.of(),
        };
        wake(&own.pools, changed.clone());
        wake(&own.reservations, changed.clone());
        wake(&own.configurations, changed.clone());
        wake(&own.blocks, changed.clone());
        own.pools.synced().await;
        own.reservations.synced().await;
        own.configurations.synced().await;
        own.blocks.synced().await;
        own
    }
}

impl Sources {
    pub(super) async fn open(caches: &WatchCaches, node: &str) -> Self {
        let (changed, _) = watch::channel(());
        let sources = Self {
            nodes: caches.of(),
            namespaces: caches.of(),
            pods: caches.selected(&format!("spec.nodeName={node}")),
            custom: Arc::default(),
            changed,
            known: Mutex::default(),
        };
        sources.nodes.synced().await;
        sources.namespaces.synced().await;
        let defined = loop {
            match is_defined(&caches.client()).await {
                Some(answer) => break answer,
                None => tokio::time::sleep(LOOK).await,
            }
        };
        if defined {
            let custom = Custom::open(caches, &sources.changed).await;
            let _ = sources.custom.set(custom);
        } else {
            sources.look_for_definitions(caches.clone());
        }
        sources
    }

    fn look_for_definitions(&self, caches: WatchCaches) {
        let (slot, changed) = (self.custom.clone(), self.changed.clone());
        tokio::spawn(async move {
            // Until the agent ends.
            while Arc::strong_count(&slot) > 1 {
                if is_defined(&caches.client()).await == Some(true) {
                    let _ = slot.set(Custom::open(&caches, &changed).await);
                    changed.send_replace(());
                    return;
                }
                tokio::time::sleep(DEFINITIONS).await;
            }
        });
    }

    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub(super) fn inputs(&self, node: &str) -> Inputs {
        let all = self.nodes.list();
        let own = self.nodes.get("", node);
        let mut inputs = Inputs {
            node: node.to_owned(),
            labels: own.map(|own| own.labels().clone()).unwrap_or_default(),
            nodes: all
                .iter()
                .map(|own| (own.name_any(), own_ranges(own)))
                .collect(),
            max_blocks: MAX_BLOCKS,
            ..Inputs::default()
        };
        let Some(custom) = self.custom.get() else {
            return inputs;
        };
        let pools = custom.pools.list();
        inputs.pools = pools
            .iter()
            .filter_map(|pool| {
                Some((
                    pool.name_any(),
                    Pool::read(&pool.name_any(), &pool.spec).ok()?,
                ))
            })
            .collect();
        let reservations = custom.reservations.list();
        inputs.reserved = reservations
            .iter()
            .flat_map(|own| &own.spec.reserved_cidrs)
            .filter_map(|text| text.parse().ok().map(span::clean))
            .collect();
        let blocks = self.blocks(&custom.blocks);
        inputs.blocks = blocks
            .values()
            .filter_map(|own| Block::read(&own.spec))
            .collect();
        if let Some(own) = custom.configurations.get("", DEFAULT) {
            inputs.strict_affinity = own.spec.strict_affinity;
            let most = own.spec.max_blocks_per_host;
            inputs.max_blocks = most.map_or(MAX_BLOCKS, |most| most as usize);
        }
        inputs
    }

    /// The blocks' objects by their ranges. What this node has written counts at once, not only
    /// when the watch tells of it: it must not give an address that it has just lent.
    fn blocks(&self, cache: &WatchCache<IpamBlock>) -> BTreeMap<IpNetwork, Arc<IpamBlock>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let revision = cache.revision();
        let listed = cache.list();
        let read = |own: Arc<IpamBlock>| Some((span::clean(own.spec.cidr.parse().ok()?), own));
        let mut blocks: BTreeMap<_, _> = listed.into_iter().filter_map(read).collect();
        known.retain(|cidr, own| own.is_newer(blocks.get(cidr).map(Arc::as_ref), revision));
        for (cidr, own) in known.iter() {
            match own {
                Known::There(object) => blocks.insert(*cidr, Arc::new((**object).clone())),
                Known::Gone(_) => blocks.remove(cidr),
            };
        }
        blocks
    }

    /// The block's object as it was last seen.
    pub(super) fn block(&self, block: &IpNetwork) -> Option<IpamBlock> {
        let mut all = self.blocks(&self.custom.get()?.blocks);
        all.remove(block).map(Arc::unwrap_or_clone)
    }

    /// What the API has answered about a block.
    pub(super) fn learn(&self, block: IpNetwork, object: IpamBlock) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(block, Known::There(Box::new(object)));
        self.changed.send_replace(());
    }

    /// The block is deleted, which had this version.
    pub(super) fn learn_gone(&self, block: IpNetwork, version: Option<String>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(block, Known::Gone(version));
        self.changed.send_replace(());
    }

    /// What the Node says of its blocks; empty when it says nothing.
    pub(super) fn published(&self, node: &str) -> Option<String> {
        let node = self.nodes.get("", node)?;
        Some(
            node.annotations()
                .get(BLOCKS_ANNOTATION)
                .cloned()
                .unwrap_or_default(),
        )
    }

    pub(super) fn pod_annotations(&self, namespace: &str, name: &str) -> Option<Annotations> {
        let pod = self.pods.get(namespace, name)?;
        Some(pod.annotations().clone())
    }

    pub(super) fn namespace(&self, name: &str) -> (Annotations, Labels) {
        let found = self.namespaces.get("", name);
        let parts = found.map(|own| (own.annotations().clone(), own.labels().clone()));
        parts.unwrap_or_default()
    }

    /// Tells pools and reservations whether they are used.
    pub(super) async fn tell(&self, client: &Client) {
        if let Some(custom) = self.custom.get() {
            status::pools(client, &custom.pools.list()).await;
        }
    }
}

/// The ranges of all pools, for what decides about packets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges {
    pub all: BTreeSet<IpNetwork>,
    /// Of pools whose pods keep their addresses everywhere (`natOutgoing: false`).
    pub not_masqueraded: BTreeSet<IpNetwork>,
}

/// The pools' ranges, as they change. Without definitions there are none.
pub fn ranges(caches: &WatchCaches, shutdown: CancellationToken) -> watch::Receiver<Ranges> {
    let (sender, receiver) = watch::channel(Ranges::default());
    let caches = caches.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = follow(&caches, &sender) => {}
        }
    });
    receiver
}

async fn follow(caches: &WatchCaches, sender: &watch::Sender<Ranges>) {
    use tokio::sync::broadcast::error::RecvError;
    while is_defined(&caches.client()).await != Some(true) {
        tokio::time::sleep(DEFINITIONS).await;
    }
    let pools: WatchCache<IpPool> = caches.of();
    let mut changes = pools.subscribe();
    pools.synced().await;
    loop {
        let mut wanted = Ranges::default();
        for pool in pools.list() {
            let Ok(cidr) = pool.spec.cidr.parse().map(span::clean) else {
                continue;
            };
            wanted.all.insert(cidr);
            if pool.spec.nat_outgoing == Some(false) {
                wanted.not_masqueraded.insert(cidr);
            }
        }
        sender.send_if_modified(|old| {
            let differs = *old != wanted;
            *old = wanted;
            differs
        });
        if let Err(RecvError::Closed) = changes.recv().await {
            return;
        }
    }
}
